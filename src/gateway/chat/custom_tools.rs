//! Custom tools of OpenAI's format (<https://platform.openai.com/docs/guides/function-calling#custom-tools>): a model
//! calls them with free text instead of JSON. Elsewhere they are functions with one string, `input`; a call of one is
//! told as the custom call that the caller expects.

use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The names of a request's custom tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomTools {
    names: BTreeSet<String>,
}

impl CustomTools {
    /// Those of a body of OpenAI's chat completions or Responses.
    pub fn of(body: &Value) -> Self {
        let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
        let custom = tools.filter(|tool| tool["type"] == "custom");
        let name =
            |tool: &Value| tool.pointer("/custom/name").or(tool.get("name"))?.as_str().map(str::to_owned);
        Self { names: custom.filter_map(name).collect() }
    }

    /// Whether the tool of this name is a custom one.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// The parameters of a function that stands for a custom tool.
pub fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {"input": {"type": "string", "description": "The tool's whole input, as plain text."}},
        "required": ["input"], "additionalProperties": false,
    })
}

/// A custom tool's description, and what its input has to be like, which is a wish there.
pub fn description(description: Option<&str>, format: Option<&Value>) -> Option<String> {
    let grammar = format.filter(|format| format["type"] == "grammar").and_then(|format| {
        // Of chat completions, and of Responses.
        let grammar = format.get("grammar").unwrap_or(format);
        let (syntax, definition) = (grammar["syntax"].as_str()?, grammar["definition"].as_str()?);
        Some(format!("`input` must match this {syntax} grammar:\n{definition}"))
    });
    match (description, grammar) {
        (Some(description), Some(grammar)) => Some(format!("{description}\n\n{grammar}")),
        (description, grammar) => description.map(str::to_owned).or(grammar),
    }
}

/// A custom call's text as a function's arguments.
pub fn arguments(input: &str) -> Value {
    json!({ "input": input })
}

/// The text of a custom call, from a function's arguments; what is no such object is the text itself.
pub fn input(arguments: &str) -> String {
    let parsed = serde_json::from_str::<Value>(arguments).ok();
    let input = parsed.as_ref().and_then(|parsed| parsed.get("input")?.as_str());
    input.unwrap_or(arguments).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_calls_are_functions_with_one_text_and_back() {
        let body = json!({"tools": [
            {"type": "custom", "custom": {"name": "apply_patch"}},
            {"type": "custom", "name": "shell"},
            {"type": "function", "function": {"name": "f"}},
        ]});
        let tools = CustomTools::of(&body);
        assert_eq!(["apply_patch", "shell", "f"].map(|name| tools.has(name)), [true, true, false]);
        assert!(CustomTools::of(&json!({"tools": 3})).is_empty());
        for text in ["*** Begin \"Patch\"\n\\", "", "{\"input\": 1}"] {
            assert_eq!(input(&arguments(text).to_string()), text);
        }
        assert_eq!(input("plain"), "plain");
        let grammar = json!({"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /x/"}});
        let said = description(Some("Patches."), Some(&grammar)).unwrap();
        assert_eq!(said, "Patches.\n\n`input` must match this lark grammar:\nstart: /x/");
        assert_eq!(description(None, Some(&json!({"type": "text"}))), None);
    }
}
