//! What a JSON schema may have, checked before it is compiled: an error names the keyword, where it stands and
//! what is allowed, and nothing that would change which documents are valid is passed over in silence.
//!
//! The dialect is the part of draft 2020-12 (and of draft 7 where they agree) that [`KEYWORDS`] lists;
//! [`ANNOTATIONS`] say nothing about validity and are left out. References stay within the document: nothing is
//! fetched.

use super::GrammarError;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Keywords that an answer is held to.
pub const KEYWORDS: [&str; 30] = [
    "$defs",
    "$ref",
    "$schema",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "definitions",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
];

/// Keywords that say nothing about which documents are valid, and those that begin with `x-`.
pub const ANNOTATIONS: [&str; 18] = [
    "$anchor",
    "$comment",
    "$id",
    "contentEncoding",
    "contentMediaType",
    "default",
    "deprecated",
    "description",
    "enumDescriptions",
    "enumNames",
    "example",
    "examples",
    "id",
    "markdownDescription",
    "propertyOrdering",
    "readOnly",
    "title",
    "writeOnly",
];

/// Formats of strings that an answer is held to.
const FORMATS: [&str; 10] =
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];

const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// What may stand between two parts of a JSON document: two spaces, or a line break and its indentation.
pub const WHITE_SPACE: &str = r"[ ]{1,2}|\r?\n[ \t]{0,48}";

const BYTES_MAX: usize = 512 << 10;
const DEPTH_MAX: usize = 64;
const SCHEMAS_MAX: usize = 10_000;
const PROPERTIES_MAX: usize = 5_000;
const ENUM_VALUES_MAX: usize = 10_000;
const PATTERN_BYTES_MAX: usize = 2_048;
/// Of `minItems`, `maxItems`, `minProperties` and `maxProperties`: each item has a rule of its own.
const ITEMS_MAX: u64 = 1_000;
/// Of `minLength` and `maxLength`: each character has a state of its own.
const LENGTH_MAX: u64 = 20_000;

/// The schema without annotations, with the white space that is allowed.
pub(super) fn checked(schema: &Value) -> Result<Value, GrammarError> {
    let bytes = schema.to_string().len();
    if bytes > BYTES_MAX {
        return Err(GrammarError::TooLarge { what: "bytes of the schema", limit: BYTES_MAX, found: bytes });
    }
    let mut check = Check {
        root: schema,
        schemas: 0,
        properties: 0,
        values: 0,
        required: 0,
        references: BTreeMap::new(),
    };
    let mut checked = check.schema(schema, "#", 0)?;
    check.recursions_end()?;
    if let Value::Bool(any) = checked {
        if !any {
            return Err(invalid("#", "false", "allows no document"));
        }
        checked = json!({});
    }
    let options = json!({"whitespace_flexible": true, "whitespace_pattern": WHITE_SPACE});
    if let Some(map) = checked.as_object_mut() {
        map.insert("x-guidance".into(), options);
    }
    Ok(checked)
}

/// A checked schema whose documents, where they are objects, have none of these strings as their `name`.
pub(super) fn without_names(mut schema: Value, names: &[&str]) -> Value {
    if let (false, Some(map)) = (names.is_empty(), schema.as_object_mut()) {
        let others = ["null", "boolean", "number", "array", "object"];
        let name = json!({"anyOf": [{"type": "string", "pattern": format!("^{}$", other_than(names))}, {"type": others}]});
        let all = map.entry("allOf").or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.push(json!({"properties": {"name": name}}));
        }
    }
    schema
}

/// The regular expression of all texts but these.
fn other_than(texts: &[&str]) -> String {
    let mut by_first: BTreeMap<char, Vec<&str>> = BTreeMap::new();
    for text in texts {
        if let Some(first) = text.chars().next() {
            by_first.entry(first).or_default().push(&text[first.len_utf8()..]);
        }
    }
    let escaped = |c: &char| if c.is_ascii_punctuation() { format!("\\{c}") } else { c.to_string() };
    let mut parts = Vec::new();
    if !texts.contains(&"") {
        parts.push(String::new());
    }
    match by_first.is_empty() {
        true => parts.push("(.|\\n)+".into()),
        false => {
            parts.push(format!("[^{}](.|\\n)*", by_first.keys().map(escaped).collect::<String>()));
            let longer =
                by_first.iter().map(|(first, rests)| format!("{}{}", escaped(first), other_than(rests)));
            parts.extend(longer);
        }
    }
    format!("({})", parts.join("|"))
}

fn invalid(at: &str, keyword: &str, reason: impl Into<String>) -> GrammarError {
    GrammarError::Schema { at: at.into(), keyword: keyword.into(), reason: reason.into() }
}

struct Check<'s> {
    root: &'s Value,
    schemas: usize,
    properties: usize,
    values: usize,
    required: usize,
    /// Each reference, and where it stands.
    references: BTreeMap<&'s str, String>,
}

impl<'s> Check<'s> {
    fn schema(&mut self, schema: &'s Value, at: &str, depth: usize) -> Result<Value, GrammarError> {
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => {
                return Err(GrammarError::Invalid(format!("{at}: a schema must be an object or a boolean")));
            }
        };
        if depth > DEPTH_MAX {
            return Err(GrammarError::TooLarge {
                what: "schemas within each other",
                limit: DEPTH_MAX,
                found: depth,
            });
        }
        self.schemas += 1;
        self.within("schemas in the schema", self.schemas, SCHEMAS_MAX)?;
        let mut kept = Map::new();
        for (keyword, value) in map {
            if ANNOTATIONS.contains(&keyword.as_str())
                || (keyword.starts_with("x-") && keyword != "x-guidance")
            {
                // References would be relative to it.
                if depth > 0 && matches!(keyword.as_str(), "$id" | "id") && value.is_string() {
                    return Err(invalid(at, keyword, "is supported at the root alone"));
                }
                continue;
            }
            if let Some(value) = self.keyword(map, keyword, value, at, depth)? {
                kept.insert(keyword.clone(), value);
            }
        }
        Ok(Value::Object(kept))
    }

    /// As it is kept; None: left out.
    fn keyword(
        &mut self,
        map: &'s Map<String, Value>,
        keyword: &'s str,
        value: &'s Value,
        at: &str,
        depth: usize,
    ) -> Result<Option<Value>, GrammarError> {
        let wrong = |reason: &str| invalid(at, keyword, reason);
        let depth = depth + 1;
        match keyword {
            "properties" | "patternProperties" | "$defs" | "definitions" => {
                let map = value.as_object().ok_or_else(|| wrong("must be an object of schemas"))?;
                if keyword.ends_with("roperties") {
                    self.properties += map.len();
                    self.within("properties in the schema", self.properties, PROPERTIES_MAX)?;
                }
                let mut kept = Map::new();
                for (name, schema) in map {
                    if keyword == "patternProperties" {
                        self.pattern(keyword, name, at)?;
                    }
                    kept.insert(name.clone(), self.schema(schema, &format!("{at}/{keyword}/{name}"), depth)?);
                }
                return Ok(Some(Value::Object(kept)));
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                let list = value.as_array().filter(|list| !list.is_empty());
                let list = list.ok_or_else(|| wrong("must be a list of one schema or more"))?;
                return Ok(Some(self.list(list, keyword, at, depth)?));
            }
            "items" if value.is_array() => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                return Ok(Some(self.list(list, keyword, at, depth)?));
            }
            "items" | "additionalItems" | "additionalProperties" => {
                return Ok(Some(self.schema(value, &format!("{at}/{keyword}"), depth)?));
            }
            "$ref" => self.reference(value, at)?,
            "type" => {
                let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
                let several = |list: &Vec<Value>| !list.is_empty() && list.iter().all(known);
                if !known(value) && !value.as_array().is_some_and(several) {
                    return Err(wrong(&format!(
                        "must be one or several of {}, got {value}",
                        TYPES.join(", ")
                    )));
                }
            }
            "enum" => {
                let values = value.as_array().filter(|values| !values.is_empty());
                let values = values.ok_or_else(|| wrong("must be a list of one value or more"))?;
                self.values += values.len();
                self.within("values of `enum` in the schema", self.values, ENUM_VALUES_MAX)?;
            }
            "required" => {
                let names = value.as_array().filter(|names| names.iter().all(Value::is_string));
                let names = names.ok_or_else(|| wrong("must be a list of names"))?;
                self.required += names.len();
                self.within("names of `required` in the schema", self.required, PROPERTIES_MAX)?;
            }
            "minItems" | "maxItems" | "minProperties" | "maxProperties" => count(value, ITEMS_MAX, wrong)?,
            "minLength" | "maxLength" => count(value, LENGTH_MAX, wrong)?,
            "minimum" | "maximum" | "multipleOf" => {
                if !value.as_f64().is_some_and(f64::is_finite) {
                    return Err(wrong(&format!("must be a number, got {value}")));
                }
                if keyword == "multipleOf" && value.as_f64().is_some_and(|of| of <= 0.0) {
                    return Err(wrong(&format!("must be more than 0, got {value}")));
                }
            }
            "exclusiveMinimum" | "exclusiveMaximum" => {
                if !value.as_f64().is_some_and(f64::is_finite) {
                    return Err(wrong(&format!("must be a number, got {value}")));
                }
            }
            "pattern" => {
                let pattern = value.as_str().ok_or_else(|| wrong("must be a string"))?;
                self.pattern(keyword, pattern, at)?;
            }
            "format" => {
                let name = value.as_str().ok_or_else(|| wrong("must be a string"))?;
                if !FORMATS.contains(&name) {
                    // `int32` and the like are said of numbers, which formats do not restrict.
                    if may_be_string(map) {
                        let known = FORMATS.join(", ");
                        return Err(wrong(&format!("{name:?} is not supported: there are {known}")));
                    }
                    return Ok(None);
                }
            }
            "const" | "$schema" => {}
            _ => {
                return Err(wrong(&format!(
                    "is not supported; keywords that are: {}; annotations that are passed over: {}",
                    KEYWORDS.join(", "),
                    ANNOTATIONS.join(", ")
                )));
            }
        }
        Ok(Some(value.clone()))
    }

    fn list(
        &mut self,
        list: &'s [Value],
        keyword: &str,
        at: &str,
        depth: usize,
    ) -> Result<Value, GrammarError> {
        let schemas = list.iter().enumerate();
        schemas.map(|(i, schema)| self.schema(schema, &format!("{at}/{keyword}/{i}"), depth)).collect()
    }

    fn within(&self, what: &'static str, found: usize, limit: usize) -> Result<(), GrammarError> {
        if found <= limit { Ok(()) } else { Err(GrammarError::TooLarge { what, limit, found }) }
    }

    fn pattern(&self, keyword: &str, pattern: &str, at: &str) -> Result<(), GrammarError> {
        match pattern.len() {
            0..=PATTERN_BYTES_MAX => Ok(()),
            bytes => {
                let reason = format!("must have at most {PATTERN_BYTES_MAX} bytes, got {bytes}");
                Err(invalid(at, keyword, reason))
            }
        }
    }

    fn reference(&mut self, value: &'s Value, at: &str) -> Result<(), GrammarError> {
        let wrong = |reason: String| Err(invalid(at, "$ref", reason));
        let Some(reference) = value.as_str() else { return wrong("must be a string".into()) };
        if reference != "#" && !reference.starts_with("#/") {
            return wrong(format!(
                "must point within the schema (#/$defs/name), got {reference:?}: nothing is fetched"
            ));
        }
        if reference.contains(['~', '%']) {
            return wrong(format!("is not supported where it has an escape, got {reference:?}"));
        }
        // Each place has one name, so that there are no more references than places.
        if reference.contains("//") || reference.ends_with('/') {
            return wrong(format!("must not have empty parts, got {reference:?}"));
        }
        match target(self.root, reference) {
            Some(Value::Object(_) | Value::Bool(_)) => {}
            _ => return wrong(format!("points at nothing that is a schema: {reference:?}")),
        }
        self.references.entry(reference).or_insert_with(|| at.to_owned());
        Ok(())
    }

    /// Every reference has a document that ends: `{"$ref": "#"}` has none, nor has an object that requires one
    /// of its own kind.
    fn recursions_end(&self) -> Result<(), GrammarError> {
        // By each reference, those within what it points at that wait for it.
        let mut waiting: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for reference in self.references.keys() {
            let mut within = BTreeSet::new();
            target(self.root, reference).into_iter().for_each(|schema| references_in(schema, &mut within));
            within.into_iter().for_each(|inner| waiting.entry(inner).or_default().push(reference));
        }
        let mut ending: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<&str> = self.references.keys().copied().collect();
        while let Some(reference) = open.pop() {
            let ends = || target(self.root, reference).is_some_and(|schema| can_end(schema, &ending));
            if !ending.contains(reference) && ends() {
                ending.insert(reference);
                open.extend(waiting.get(reference).into_iter().flatten());
            }
        }
        match self.references.iter().find(|(reference, _)| !ending.contains(**reference)) {
            None => Ok(()),
            Some((reference, at)) => {
                Err(invalid(at, "$ref", format!("{reference:?} describes documents without an end")))
            }
        }
    }
}

/// What a reference points at.
fn target<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    let parts = reference.strip_prefix('#')?.split('/').skip(1).filter(|part| !part.is_empty());
    parts.into_iter().try_fold(root, |value, part| match value {
        Value::Array(list) => list.get(part.parse::<usize>().ok()?),
        _ => value.get(part),
    })
}

/// The references that stand in a schema. Names of properties that look like one do no harm.
fn references_in<'s>(schema: &'s Value, found: &mut BTreeSet<&'s str>) {
    match schema {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references_in(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references_in(value, found)),
        _ => {}
    }
}

/// Whether a document of it can end, where those of these references can.
fn can_end(schema: &Value, ending: &BTreeSet<&str>) -> bool {
    let Some(map) = schema.as_object() else { return true };
    let list = |keyword: &str| map.get(keyword).and_then(Value::as_array).map(Vec::as_slice);
    let ends = |schema: &Value| can_end(schema, ending);
    if map.get("$ref").and_then(Value::as_str).is_some_and(|reference| !ending.contains(reference)) {
        return false;
    }
    let choices = ["anyOf", "oneOf"].into_iter().filter_map(list);
    if !choices.into_iter().all(|schemas| schemas.iter().any(ends)) {
        return false;
    }
    if !list("allOf").unwrap_or_default().iter().all(ends) {
        return false;
    }
    let is_only = |name: &str| match map.get("type") {
        Some(Value::String(only)) => only == name,
        Some(Value::Array(names)) => names.iter().all(|other| other == name),
        _ => false,
    };
    if is_only("object") {
        let required = list("required").unwrap_or_default().iter().filter_map(Value::as_str);
        let schema = |name| map.get("properties").and_then(|all| all.get(name));
        return required.into_iter().filter_map(schema).all(ends);
    }
    let wants_items = map.get("minItems").and_then(Value::as_u64).is_some_and(|least| least > 0);
    if is_only("array") && wants_items {
        let first = list("prefixItems").and_then(|list| list.first()).or_else(|| map.get("items"));
        return first.is_none_or(ends);
    }
    true
}

fn count(value: &Value, limit: u64, wrong: impl Fn(&str) -> GrammarError) -> Result<(), GrammarError> {
    match value.as_u64() {
        Some(count) if count <= limit => Ok(()),
        _ => Err(wrong(&format!("must be a whole number from 0 to {limit}, got {value}"))),
    }
}

fn may_be_string(map: &Map<String, Value>) -> bool {
    match map.get("type") {
        Some(Value::String(name)) => name == "string",
        Some(Value::Array(names)) => names.iter().any(|name| name == "string"),
        _ => true,
    }
}
