//! Random JSON schemas that have documents, and whether a document is one: a validator of our own beside
//! Python's jsonschema (tests/sdk/check_schemas.py).

use serde_json::{Map, Value, json};

/// SplitMix64: a seed names a schema.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

const FORMATS: [&str; 6] = ["date", "date-time", "uuid", "ipv4", "email", "time"];
const PATTERNS: [&str; 5] = ["^[a-c]{1,4}$", "^x", "[0-9]{2}$", "^(ab|cd)+$", "^[^a-z]*$"];
const WORDS: [&str; 6] = ["red", "green", "", "a \"quoted\" word", "\u{e9}\u{4e2d}", "line\nbreak"];

/// A schema, and the definitions that it refers to at its root.
pub fn schema(seed: u64) -> Value {
    let mut random = Random(seed);
    let mut schema = node(&mut random, 3);
    if random.below(3) == 0 {
        // A list that refers to itself.
        let value = node(&mut random, 1);
        let rest = json!({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/list"}]});
        let list = json!({"type": "object", "properties": {"value": value, "rest": rest},
            "required": ["value", "rest"], "additionalProperties": false});
        schema = json!({"type": "object", "properties": {"list": {"$ref": "#/$defs/list"}, "other": schema},
            "required": ["list"], "additionalProperties": false, "$defs": {"list": list}});
    }
    schema
}

fn node(random: &mut Random, depth: usize) -> Value {
    let kinds = if depth == 0 { 7 } else { 12 };
    match random.below(kinds) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": ["null", "boolean"]}),
        2 => integer(random),
        3 => {
            let least = random.below(100) as f64 / 8.0 - 6.0;
            match random.coin() {
                true => json!({"type": "number"}),
                false => json!({"type": "number", "minimum": least, "exclusiveMaximum": least + 2.5}),
            }
        }
        4 | 5 => string(random),
        6 => match random.below(3) {
            0 => json!({"const": WORDS[random.below(WORDS.len())]}),
            1 => json!({"enum": [1, "two", null, [3], {"four": 4.5}]}),
            _ => json!({"enum": WORDS[..1 + random.below(WORDS.len())]}),
        },
        7 => {
            let least = random.below(3);
            let mut array = json!({"type": "array", "items": node(random, depth - 1)});
            if random.coin() {
                array["minItems"] = least.into();
                array["maxItems"] = (least + random.below(3)).into();
            }
            array
        }
        8 => {
            let first: Vec<Value> = (0..1 + random.below(3)).map(|_| node(random, depth - 1)).collect();
            json!({"type": "array", "minItems": first.len(), "prefixItems": first, "items": false})
        }
        9 => json!({"anyOf": (0..2 + random.below(2)).map(|_| node(random, depth - 1)).collect::<Vec<_>>()}),
        _ => object(random, depth),
    }
}

fn integer(random: &mut Random) -> Value {
    let least = random.below(400) as i64 - 200;
    match random.below(4) {
        0 => json!({"type": "integer"}),
        1 => json!({"type": "integer", "minimum": least, "maximum": least + random.below(300) as i64}),
        2 => json!({"type": "integer", "exclusiveMinimum": least}),
        _ => json!({"type": "integer", "multipleOf": 1 + random.below(12), "minimum": 0, "maximum": 1000}),
    }
}

fn string(random: &mut Random) -> Value {
    let least = random.below(4);
    match random.below(4) {
        0 => json!({"type": "string"}),
        1 => json!({"type": "string", "minLength": least, "maxLength": least + random.below(8)}),
        2 => json!({"type": "string", "pattern": PATTERNS[random.below(PATTERNS.len())]}),
        _ => json!({"type": "string", "format": FORMATS[random.below(FORMATS.len())]}),
    }
}

fn object(random: &mut Random, depth: usize) -> Value {
    let count = random.below(5);
    let names: Vec<String> =
        (0..count).map(|i| ["name", "a b", "\u{e9}", "x\"y", "id"][i].to_owned()).collect();
    let properties: Map<String, Value> =
        names.iter().map(|name| (name.clone(), node(random, depth - 1))).collect();
    let required: Vec<&String> = names.iter().filter(|_| random.coin()).collect();
    let mut object = json!({"type": "object", "properties": properties, "required": required});
    match random.below(3) {
        0 => object["additionalProperties"] = json!({"type": "integer"}),
        _ => object["additionalProperties"] = false.into(),
    }
    object
}

/// Whether a document is valid, but for patterns and formats, which are jsonschema's.
pub fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(map) = schema.as_object() else { return schema == &Value::Bool(true) };
    map.iter().all(|(keyword, said)| holds(root, map, keyword, said, value))
}

fn holds(root: &Value, map: &Map<String, Value>, keyword: &str, said: &Value, value: &Value) -> bool {
    let number = value.as_f64();
    let bound =
        |holds: fn(f64, f64) -> bool| number.is_none_or(|it| holds(it, said.as_f64().expect("a bound")));
    let count = said.as_u64().unwrap_or_default() as usize;
    match keyword {
        "type" => match said {
            Value::Array(names) => names.iter().any(|name| is(name, value)),
            name => is(name, value),
        },
        "const" => same(said, value),
        "enum" => said.as_array().is_some_and(|values| values.iter().any(|it| same(it, value))),
        "anyOf" => said.as_array().is_some_and(|all| all.iter().any(|schema| valid(root, schema, value))),
        "$ref" => {
            let target = said.as_str().and_then(|reference| root.pointer(&reference[1..]));
            valid(root, target.expect("a target"), value)
        }
        "minimum" => bound(|it, least| it >= least),
        "exclusiveMinimum" => bound(|it, least| it > least),
        "maximum" => bound(|it, most| it <= most),
        "exclusiveMaximum" => bound(|it, most| it < most),
        "multipleOf" => bound(|it, of| it % of == 0.0),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= count),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= count),
        "minItems" => value.as_array().is_none_or(|items| items.len() >= count),
        "maxItems" => value.as_array().is_none_or(|items| items.len() <= count),
        "prefixItems" => {
            let schemas = said.as_array().expect("schemas");
            value
                .as_array()
                .is_none_or(|items| items.iter().zip(schemas).all(|(item, s)| valid(root, s, item)))
        }
        "items" => {
            let first = map.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
            value.as_array().is_none_or(|items| items.iter().skip(first).all(|item| valid(root, said, item)))
        }
        "required" => {
            let names = said.as_array().expect("names").iter().filter_map(Value::as_str);
            value.as_object().is_none_or(|object| names.into_iter().all(|name| object.contains_key(name)))
        }
        "properties" => value.as_object().is_none_or(|object| {
            let known = object.iter().filter_map(|(name, value)| Some((said.get(name)?, value)));
            known.into_iter().all(|(schema, value)| valid(root, schema, value))
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            let known = map.get("properties").and_then(Value::as_object);
            let others =
                object.iter().filter(|(name, _)| !known.is_some_and(|known| known.contains_key(*name)));
            others.into_iter().all(|(_, value)| valid(root, said, value))
        }),
        "pattern" | "format" | "$defs" => true,
        _ => panic!("{keyword} is not generated"),
    }
}

/// Numbers are equal by their values.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|it| it.fract() == 0.0),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}
