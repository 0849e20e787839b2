//! Formats for Anthropic's API: of answers (`response_format`), and of files that are texts.
//!
//! Anthropic holds an answer to a JSON schema whose objects are closed. What it does not hold is asked for in words: JSON
//! without a schema, a schema with open objects, and every schema for models that hold none.

use super::models::ClaudeModel;
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};

const JSON_IN_WORDS: &str =
    "Answer with one JSON object and nothing else: no words before or after it, no code fence.";

/// Sets the format of the answer; or words that ask for it, for the end of `system`.
pub(super) fn push(
    body: &Fields,
    model: Option<ClaudeModel>,
    config: &mut Map<String, Value>,
) -> Result<Option<String>, BadField> {
    let Some(format) = body.object("response_format")? else { return Ok(None) };
    match format.required_str("type", "text, json_object or json_schema")? {
        "text" => Ok(None),
        "json_object" => Ok(Some(JSON_IN_WORDS.to_owned())),
        "json_schema" => {
            let path = format.path("json_schema");
            let outer = format.object("json_schema")?;
            let outer = outer.ok_or_else(|| BadField::missing(path, "an object with `schema`"))?;
            let schema = outer.required("schema", "a JSON schema")?;
            let mut closed = schema.clone();
            if model.is_some_and(|model| model.format) && close(&mut closed) {
                config.insert("format".into(), json!({"type": "json_schema", "schema": closed}));
                return Ok(None);
            }
            let words = format!("{JSON_IN_WORDS} It must be valid against this JSON schema:\n{schema}");
            Ok(Some(words))
        }
        other => {
            let reason = format!("must be text, json_object or json_schema, got `{other}`");
            Err(BadField::unsupported(format.path("type"), reason))
        }
    }
}

/// Closes the objects of a schema that says nothing about further properties; false where one is to be open.
fn close(schema: &mut Value) -> bool {
    match schema {
        Value::Object(map) => {
            let of_object = match map.get("type") {
                Some(Value::String(kind)) => kind == "object",
                Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
                _ => map.get("properties").is_some_and(Value::is_object),
            };
            if of_object && *map.entry("additionalProperties").or_insert(Value::Bool(false)) != false {
                return false;
            }
            map.iter_mut().all(|(name, inner)| match name.as_str() {
                // Names of properties are no keywords.
                "properties" | "$defs" | "definitions" => {
                    inner.as_object_mut().is_none_or(|named| named.values_mut().all(close))
                }
                "enum" | "const" | "default" | "examples" => true,
                _ => close(inner),
            })
        }
        Value::Array(items) => items.iter_mut().all(close),
        _ => true,
    }
}

/// Whether files of this type are texts.
pub(super) fn is_text(media: &str) -> bool {
    const OTHERS: [&str; 6] = [
        "application/json",
        "application/xml",
        "application/yaml",
        "application/x-yaml",
        "application/javascript",
        "application/csv",
    ];
    media.starts_with("text/") || OTHERS.contains(&media)
}

/// A text of UTF-8 in base64; None where it is none. Padding may be left out.
pub(super) fn text_of_base64(base64: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(base64.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in base64.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_texts() {
        for (base64, text) in
            [("", ""), ("YQ==", "a"), ("YQ", "a"), ("YWI=", "ab"), ("YWJj", "abc"), ("w6k=", "é")]
        {
            assert_eq!(text_of_base64(base64).as_deref(), Some(text));
        }
        for none in ["/w==", "a b", "é"] {
            assert_eq!(text_of_base64(none), None, "{none}");
        }
    }

    #[test]
    fn objects_of_a_schema_are_closed_unless_they_are_to_be_open() {
        let mut schema = json!({
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "list": {"type": "array", "items": {"properties": {"a": {}}}},
                "const": {"const": {"type": "object"}},
            },
        });
        assert!(close(&mut schema));
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["list"]["items"]["additionalProperties"], false);
        assert_eq!(schema["properties"]["const"]["const"], json!({"type": "object"}));
        assert_eq!(schema["properties"]["type"], json!({"type": "string"}));
        assert!(!close(&mut json!({"type": "object", "additionalProperties": {"type": "string"}})));
    }
}
