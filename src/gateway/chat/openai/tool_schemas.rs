//! Schemas of tools' arguments as OpenAI's API wants them written: a type at the outside, `properties` beside it, and
//! `items` in every list, though JSON Schema asks for none of these. Tools without arguments, of MCP servers among
//! others, come without. What is put in allows what the schema allowed.

use serde_json::{Value, json};

/// Completes the schemas of a chat completion's tools.
pub fn complete(body: &mut Value) {
    let tools = body.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten();
    for tool in tools {
        let Some(Value::Object(schema)) = tool.pointer_mut("/function/parameters") else { continue };
        if !schema.contains_key("type") {
            schema.insert("type".into(), "object".into());
        }
        if schema["type"] == "object" && !schema.contains_key("properties") {
            schema.insert("properties".into(), json!({}));
        }
        schema.values_mut().for_each(complete_lists);
    }
}

/// A schema, or what holds some.
fn complete_lists(value: &mut Value) {
    if value["type"] == "array" && value.get("items").is_none() {
        value["items"] = json!({});
    }
    match value {
        // What stands in these is no schema.
        Value::Object(fields) => fields
            .iter_mut()
            .filter(|(name, _)| !["enum", "const", "default", "examples"].contains(&name.as_str()))
            .for_each(|(_, value)| complete_lists(value)),
        Value::Array(values) => values.iter_mut().for_each(complete_lists),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(schema: Value) -> Value {
        let mut body =
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]});
        complete(&mut body);
        body["tools"][0]["function"]["parameters"].take()
    }

    #[test]
    fn what_openai_asks_for_is_put_in_and_nothing_else() {
        let whole = json!({"type": "object", "properties": {}});
        assert_eq!(completed(json!({})), whole);
        assert_eq!(completed(json!({"type": "object"})), whole);
        let lists = json!({"type": "object", "properties": {
            "a": {"type": "array"}, "b": {"type": "object", "properties": {"c": {"type": "array", "items": {"type": "array"}}}},
            "d": {"default": {"type": "array"}, "anyOf": [{"type": "array"}, {"type": "null"}]}}});
        let done = completed(lists);
        assert_eq!(done["properties"]["a"], json!({"type": "array", "items": {}}));
        assert_eq!(
            done["properties"]["b"]["properties"]["c"]["items"],
            json!({"type": "array", "items": {}})
        );
        assert_eq!(done["properties"]["d"]["anyOf"][0], json!({"type": "array", "items": {}}));
        assert_eq!(done["properties"]["d"]["default"], json!({"type": "array"}));
        // A second time there is nothing to do; without parameters there is no schema.
        assert_eq!(completed(done.clone()), done);
        assert_eq!(completed(Value::Null), Value::Null);
    }
}
