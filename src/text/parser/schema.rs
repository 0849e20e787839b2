//! What a tool's JSON schema lets a parameter be.

use super::Tool;
use serde_json::Value;

/// Kinds of JSON values, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub(super) const STRING: Self = Self(1);
    pub(super) const NUMBER: Self = Self(2);
    pub(super) const BOOLEAN: Self = Self(4);
    pub(super) const NULL: Self = Self(8);
    pub(super) const ARRAY: Self = Self(16);
    pub(super) const OBJECT: Self = Self(32);
    const NONE: Self = Self(0);
    /// Of a value that nothing is known of.
    pub(super) const ALL: Self = Self(63);

    /// Of a tool's parameter.
    pub(super) fn of(tool: &Tool, parameter: &str) -> Self {
        let schema = &tool.parameters;
        let parameter = match schema.get("properties").and_then(|properties| properties.get(parameter)) {
            Some(parameter) => Some(parameter),
            None => schema.get("additionalProperties"),
        };
        let kinds = parameter.map_or(Self::ALL, |parameter| Self::of_schema(parameter, schema, DEPTH_MAX));
        // A schema that nothing fits says nothing.
        if kinds == Self::NONE { Self::ALL } else { kinds }
    }

    pub(super) fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }

    /// Of a value by the first character of its JSON.
    pub(super) fn of_json(json: &str) -> Self {
        match json.chars().next() {
            Some('"') => Self::STRING,
            Some('{') => Self::OBJECT,
            Some('[') => Self::ARRAY,
            Some('t' | 'f') => Self::BOOLEAN,
            Some('n') => Self::NULL,
            _ => Self::NUMBER,
        }
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Every keyword that says something of kinds leaves fewer of them.
    fn of_schema(schema: &Value, root: &Value, depth: usize) -> Self {
        let (Value::Object(keywords), Some(depth)) = (schema, depth.checked_sub(1)) else { return Self::ALL };
        let any = |schemas: &Value, start: Self, join: fn(Self, Self) -> Self| {
            let schemas = schemas.as_array().map_or(&[][..], Vec::as_slice);
            match schemas {
                [] => Self::ALL,
                _ => schemas
                    .iter()
                    .fold(start, |kinds, schema| join(kinds, Self::of_schema(schema, root, depth))),
            }
        };
        keywords.iter().fold(Self::ALL, |kinds, (keyword, value)| {
            kinds.and(match keyword.as_str() {
                "type" => match value {
                    Value::Array(names) => {
                        names.iter().fold(Self::NONE, |all, name| all.or(Self::of_name(name)))
                    }
                    name => Self::of_name(name),
                },
                "enum" => match value.as_array() {
                    Some(values) => {
                        values.iter().fold(Self::NONE, |all, value| all.or(Self::of_value(value)))
                    }
                    None => Self::ALL,
                },
                "const" => Self::of_value(value),
                "anyOf" | "oneOf" => any(value, Self::NONE, Self::or),
                "allOf" => any(value, Self::ALL, Self::and),
                "$ref" => match value.as_str().and_then(|path| root.pointer(path.strip_prefix('#')?)) {
                    Some(schema) => Self::of_schema(schema, root, depth),
                    None => Self::ALL,
                },
                _ => Self::ALL,
            })
        })
    }

    fn of_name(name: &Value) -> Self {
        match name.as_str() {
            Some("string") => Self::STRING,
            Some("integer" | "number") => Self::NUMBER,
            Some("boolean") => Self::BOOLEAN,
            Some("null") => Self::NULL,
            Some("array") => Self::ARRAY,
            Some("object") => Self::OBJECT,
            _ => Self::ALL,
        }
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::String(_) => Self::STRING,
            Value::Number(_) => Self::NUMBER,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Null => Self::NULL,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }
}

/// How deep schemas are followed; deeper, and around circles, nothing is known.
const DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_are_what_all_keywords_allow() {
        let string_or_null = Kinds::STRING.or(Kinds::NULL);
        for (schema, kinds) in [
            (json!({"type": "string"}), Kinds::STRING),
            (json!({"type": "integer", "minimum": 3}), Kinds::NUMBER),
            (json!({"type": ["string", "null"]}), string_or_null),
            (json!({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]}), string_or_null),
            (json!({"oneOf": [{"const": "a"}, {"enum": [null]}]}), string_or_null),
            (json!({"enum": ["a", "1"]}), Kinds::STRING),
            (json!({"type": ["string", "integer"], "enum": [1, 2]}), Kinds::NUMBER),
            (json!({"allOf": [{"$ref": "#/$defs/a"}], "description": "x"}), Kinds::OBJECT),
            (json!({"$ref": "#/$defs/circle"}), Kinds::ALL),
            (json!({"$ref": "other.json"}), Kinds::ALL),
            (json!({}), Kinds::ALL),
            (json!(true), Kinds::ALL),
            (json!({"type": 3, "anyOf": [], "enum": 3}), Kinds::ALL),
            (json!({"type": "string", "const": 3}), Kinds::ALL),
        ] {
            let parameters = json!({
                "properties": {"p": schema},
                "$defs": {"a": {"type": "object"}, "circle": {"$ref": "#/$defs/circle"}},
            });
            let tool = Tool { name: "f".into(), parameters };
            assert_eq!(Kinds::of(&tool, "p"), kinds, "{schema}");
        }
        let tool =
            Tool { name: "f".into(), parameters: json!({"additionalProperties": {"type": "boolean"}}) };
        assert_eq!(Kinds::of(&tool, "q"), Kinds::BOOLEAN);
        assert_eq!(Kinds::of(&Tool { name: "f".into(), parameters: Value::Null }, "q"), Kinds::ALL);
    }
}
