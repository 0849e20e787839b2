//! The tools that a request offers one of our models, and what it says of calling them.
//!
//! A model without tools in its chat template has no words for a call: such a request is refused, so that another
//! target may take it. With `tool_choice` none the model is not told of the tools, and cannot call any.

use crate::gateway::chat::custom_tools;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::text::grammar::{self, AnswerText, CallFormat, Grammar, ToolCalls};
use crate::text::{AnswerFormat, ReasoningFormat, Tool, ToolFormat};
use serde_json::{Value, json};
use std::sync::Arc;

/// Of a tool's name, in OpenAI's and in Anthropic's API.
const NAME_CHARS_MAX: usize = 128;
/// Tools of one request.
const TOOLS_MAX: usize = 1024;

/// Whether a model has to call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// As it likes.
    #[default]
    Optional,
    /// One call at least.
    Required,
}

/// What a request offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OfferedTools {
    /// As the chat template gets them.
    pub rendered: Vec<Value>,
    /// Those that may be called.
    pub callable: Arc<[Tool]>,
    /// Of those, whose arguments must hold their schema.
    pub strict: Vec<bool>,
    /// Whether one has to be.
    pub calls: Calls,
    /// Several calls in one answer.
    pub parallel: bool,
}

impl OfferedTools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`; `can_call` says whether the model knows tools at all.
    pub fn read(fields: &Fields<'_>, can_call: bool) -> Result<Self, BadField> {
        let items = fields.array("tools")?.unwrap_or_default();
        let choice = Choice::read(fields)?;
        let parallel = fields.flag("parallel_tool_calls", true)?;
        if items.is_empty() {
            return match choice {
                Choice::None | Choice::Auto => Ok(Self { parallel, ..Self::default() }),
                _ => Err(BadField::new(
                    "tool_choice",
                    "must be \"none\" or \"auto\" where there are no `tools`",
                )),
            };
        }
        if choice == Choice::None {
            return Ok(Self { parallel, ..Self::default() });
        }
        if !can_call {
            let why = "is not supported: the model's chat template knows no tools";
            return Err(BadField::unsupported("tools", why));
        }
        if items.len() > TOOLS_MAX {
            let reason = format!("must have at most {TOOLS_MAX} tools, got {}", items.len());
            return Err(BadField::new("tools", reason));
        }
        let read = |(i, item)| tool(&Fields::object_at(format!("tools[{i}]"), item)?);
        let tools = items.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        let names = choice.names();
        for (path, name) in &names {
            if !tools.iter().any(|(tool, _, _)| tool.name == *name) {
                return Err(BadField::new(path, format!("names `{name}`, which is none of the `tools`")));
            }
        }
        let may_call = |name: &str| names.is_empty() || names.iter().any(|(_, allowed)| allowed == name);
        let mut offered = Self { parallel, calls: choice.calls(), ..Self::default() };
        let mut callable = Vec::new();
        for (tool, strict, rendered) in tools {
            offered.rendered.push(rendered);
            if may_call(&tool.name) {
                callable.push(tool);
                offered.strict.push(strict);
            }
        }
        offered.callable = callable.into();
        Ok(offered)
    }
}

impl OfferedTools {
    /// What holds a model to what the request says, and the field that says so. `text` is what its answer must be where
    /// it calls nothing, and the field of that. None: it answers as it likes, and the parser finds what it calls.
    pub fn grammar(
        &self,
        format: AnswerFormat,
        text: Option<(String, Grammar)>,
    ) -> Option<(String, Grammar)> {
        let required = self.calls == Calls::Required && !self.callable.is_empty();
        let in_channels =
            format.reasoning == Some(ReasoningFormat::Harmony) || format.tools == Some(ToolFormat::Harmony);
        let tools = format.tools.filter(|_| !self.callable.is_empty());
        let Some(format) = tools.or(in_channels.then_some(ToolFormat::Harmony)) else { return text };
        let (field, text) = match text {
            // Calls that are required are all of the answer.
            _ if required => ("tool_choice".to_owned(), AnswerText::None),
            Some((field, text)) => (field, AnswerText::Held(text)),
            None if self.callable.is_empty() => return None,
            None if self.callable.len() < self.rendered.len() => ("tool_choice".to_owned(), AnswerText::Free),
            None if !self.parallel => ("parallel_tool_calls".to_owned(), AnswerText::Free),
            None if self.strict.contains(&true) => ("tools".to_owned(), AnswerText::Free),
            None => return None,
        };
        let tools = self.callable.iter().zip(&self.strict);
        let tools = tools.map(|(tool, strict)| grammar::Tool {
            name: tool.name.clone(),
            parameters: tool.parameters.clone(),
            strict: *strict,
        });
        let calls = ToolCalls {
            tools: tools.collect(),
            format: CallFormat::of(format),
            required,
            parallel: self.parallel,
            text,
        };
        Some((field, Grammar::Tools(Box::new(calls))))
    }
}

/// `tool_choice`.
#[derive(Debug, PartialEq)]
enum Choice {
    None,
    Auto,
    Required,
    Named {
        path: String,
        name: String,
    },
    /// Of these alone; by their places in the body.
    Allowed {
        must: bool,
        names: Vec<(String, String)>,
    },
}

impl Choice {
    fn read(fields: &Fields<'_>) -> Result<Self, BadField> {
        const WORDS: &str = "must be none, auto, required, {\"type\": \"function\", \"function\": {\"name\": ..}} or \
                             {\"type\": \"allowed_tools\", ..}";
        match fields.get("tool_choice") {
            None => Ok(Self::Auto),
            Some(Value::String(word)) => match word.as_str() {
                "none" => Ok(Self::None),
                "auto" => Ok(Self::Auto),
                "required" => Ok(Self::Required),
                other => Err(BadField::new("tool_choice", format!("{WORDS}; got `{other}`"))),
            },
            Some(object @ Value::Object(_)) => {
                let choice = Fields::object_at("tool_choice".to_owned(), object)?;
                match choice.str("type")?.unwrap_or("function") {
                    kind @ ("function" | "custom") => {
                        let (path, name) = named(&choice, kind, "the tool to call")?;
                        Ok(Self::Named { path, name })
                    }
                    "allowed_tools" => Self::allowed(&choice),
                    other => Err(BadField::new(choice.path("type"), format!("{WORDS}; got `{other}`"))),
                }
            }
            Some(other) => Err(BadField::new("tool_choice", format!("{WORDS}; got {other}"))),
        }
    }

    fn allowed(choice: &Fields<'_>) -> Result<Self, BadField> {
        let allowed = choice.object("allowed_tools")?;
        let allowed = allowed
            .ok_or_else(|| BadField::missing(choice.path("allowed_tools"), "the mode and the tools"))?;
        let must = match allowed.str("mode")?.unwrap_or("auto") {
            "auto" => false,
            "required" => true,
            other => {
                let reason = format!("must be auto or required, got `{other}`");
                return Err(BadField::new(allowed.path("mode"), reason));
            }
        };
        let path = allowed.path("tools");
        let mut names = Vec::new();
        for (i, item) in allowed.array("tools")?.unwrap_or_default().iter().enumerate() {
            let item = Fields::object_at(format!("{path}[{i}]"), item)?;
            let kind = if item.get("custom").is_some() { "custom" } else { "function" };
            names.push(named(&item, kind, "the tool's name")?);
        }
        if names.is_empty() {
            return Err(BadField::new(path, "must have at least one tool"));
        }
        Ok(Self::Allowed { must, names })
    }

    /// Those that may be called, where not all may.
    fn names(&self) -> Vec<(String, String)> {
        match self {
            Self::Named { path, name } => vec![(path.clone(), name.clone())],
            Self::Allowed { names, .. } => names.clone(),
            Self::None | Self::Auto | Self::Required => Vec::new(),
        }
    }

    fn calls(&self) -> Calls {
        match self {
            Self::Required | Self::Named { .. } | Self::Allowed { must: true, .. } => Calls::Required,
            Self::None | Self::Auto | Self::Allowed { must: false, .. } => Calls::Optional,
        }
    }
}

/// The name of a tool in the object beside its type, and where it stands.
fn named(fields: &Fields<'_>, kind: &str, what: &str) -> Result<(String, String), BadField> {
    let tool = fields.object(kind)?;
    let tool = tool.ok_or_else(|| BadField::missing(fields.path(kind), what))?;
    Ok((tool.path("name"), tool.required_str("name", "the tool's name")?.to_owned()))
}

/// A tool, whether it is strict, and what the template gets.
fn tool(item: &Fields<'_>) -> Result<(Tool, bool, Value), BadField> {
    match item.required_str("type", "\"function\" or \"custom\"")? {
        "function" => {}
        "custom" => return custom_tool(item),
        other => {
            let reason = format!("must be \"function\" or \"custom\" for this model, got `{other}`");
            return Err(BadField::unsupported(item.path("type"), reason));
        }
    }
    let function = item.object("function")?;
    let function = function.ok_or_else(|| BadField::missing(item.path("function"), "what can be called"))?;
    let name = tool_name(&function)?;
    function.str("description")?;
    let parameters = match function.object("parameters")? {
        Some(parameters) => Value::Object(parameters.map().clone()),
        // A tool without arguments.
        None => json!({"type": "object", "properties": {}}),
    };
    let strict = function.flag("strict", false)?;
    let mut rendered = item.map().clone();
    // Templates write a tool as a whole, and no model was made with null or our `strict` in it.
    if let Some(function) = rendered.get_mut("function").and_then(Value::as_object_mut) {
        function.retain(|_, value| !value.is_null());
        function.shift_remove("strict");
    }
    Ok((Tool { name: name.to_owned(), parameters }, strict, Value::Object(rendered)))
}

/// A custom tool as the function that stands for it: calls of it are told as the caller expects.
fn custom_tool(item: &Fields<'_>) -> Result<(Tool, bool, Value), BadField> {
    let custom = item.object("custom")?;
    let custom = custom.ok_or_else(|| BadField::missing(item.path("custom"), "what can be called"))?;
    let name = tool_name(&custom)?;
    let parameters = custom_tools::parameters();
    let mut function = json!({ "name": name });
    if let Some(description) = custom_tools::description(custom.str("description")?, custom.get("format")) {
        function["description"] = description.into();
    }
    function["parameters"] = parameters.clone();
    let rendered = json!({ "type": "function", "function": function });
    Ok((Tool { name: name.to_owned(), parameters }, false, rendered))
}

fn tool_name<'a>(tool: &Fields<'a>) -> Result<&'a str, BadField> {
    let name = tool.required_str("name", "the tool's name")?;
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        let reason = format!("must have 1 to {NAME_CHARS_MAX} characters");
        return Err(BadField::new(tool.path("name"), reason));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(names: &[&str]) -> Value {
        names.iter().map(|name| json!({"type": "function", "function": {"name": name}})).collect()
    }

    fn read(body: Value) -> Result<OfferedTools, BadField> {
        OfferedTools::read(&Fields::root(&body).unwrap(), true)
    }

    fn callable(offered: &OfferedTools) -> Vec<&str> {
        offered.callable.iter().map(|tool| tool.name.as_str()).collect()
    }

    #[test]
    fn a_choice_says_what_may_and_what_must_be_called() {
        let two = tools(&["a", "b"]);
        for (choice, may, calls) in [
            (json!(null), vec!["a", "b"], Calls::Optional),
            (json!("auto"), vec!["a", "b"], Calls::Optional),
            (json!("none"), vec![], Calls::Optional),
            (json!("required"), vec!["a", "b"], Calls::Required),
            (json!({"type": "function", "function": {"name": "b"}}), vec!["b"], Calls::Required),
            (
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "required",
                    "tools": [{"type": "function", "function": {"name": "a"}}]}}),
                vec!["a"],
                Calls::Required,
            ),
        ] {
            let offered = read(json!({"tools": two, "tool_choice": choice})).unwrap();
            assert_eq!((callable(&offered), offered.calls), (may.clone(), calls), "{choice}");
            // A model sees all tools, so that its prompt stays the same; with none it sees none.
            assert_eq!(offered.rendered.len(), if may.is_empty() { 0 } else { 2 }, "{choice}");
        }
        assert!(!read(json!({"tools": two, "parallel_tool_calls": false})).unwrap().parallel);
    }

    #[test]
    fn a_grammar_holds_what_the_request_says_of_calls_and_of_its_text() {
        let hermes = AnswerFormat { reasoning: None, tools: Some(ToolFormat::Hermes) };
        let harmony =
            AnswerFormat { reasoning: Some(ReasoningFormat::Harmony), tools: Some(ToolFormat::Harmony) };
        let text = || Some(("response_format".to_owned(), Grammar::JsonObject));
        let held = |body: Value, format: AnswerFormat, text: Option<(String, Grammar)>| {
            let grammar = read(body).unwrap().grammar(format, text);
            grammar.map(|(field, grammar)| match grammar {
                Grammar::Tools(calls) => (field, calls.tools.len(), calls.required, Some(calls.text)),
                _ => (field, 0, false, None),
            })
        };
        let said = |field: &str, tools, required, text| Some((field.to_owned(), tools, required, Some(text)));
        let (one, none) = (json!({"tools": tools(&["a"])}), json!({}));
        let must = json!({"tools": tools(&["a", "b"]), "tool_choice": "required"});
        let alone = json!({"tools": tools(&["a"]), "parallel_tool_calls": false});
        for format in [hermes, harmony] {
            assert_eq!(held(one.clone(), format, None), None);
            assert_eq!(held(none.clone(), format, None), None);
            let json = AnswerText::Held(Grammar::JsonObject);
            assert_eq!(held(one.clone(), format, text()), said("response_format", 1, false, json));
            assert_eq!(held(must.clone(), format, text()), said("tool_choice", 2, true, AnswerText::None));
            assert_eq!(
                held(alone.clone(), format, None),
                said("parallel_tool_calls", 1, false, AnswerText::Free)
            );
        }
        // A text by itself stands in a channel where there are channels.
        assert_eq!(held(none.clone(), hermes, text()), Some(("response_format".to_owned(), 0, false, None)));
        let json = AnswerText::Held(Grammar::JsonObject);
        assert_eq!(held(none, harmony, text()), said("response_format", 0, false, json));
    }

    #[test]
    fn what_is_no_tool_and_no_choice_is_named() {
        for (body, param, says) in [
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type", "function"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function", "required"),
            (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name", "required"),
            (json!({"tools": tools(&[""])}), "tools[0].function.name", "1 to 128"),
            (json!({"tools": tools(&["a"]), "tool_choice": "any"}), "tool_choice", "required"),
            (
                json!({"tools": tools(&["a"]), "tool_choice": {"type": "function", "function": {"name": "z"}}}),
                "tool_choice.function.name",
                "none of the `tools`",
            ),
            (json!({"tool_choice": "required"}), "tool_choice", "no `tools`"),
        ] {
            let error = read(body.clone()).unwrap_err();
            assert_eq!(error.param, param, "{body}: {error}");
            assert!(error.to_string().contains(says), "{body}: {error}");
        }
        let body = json!({"tools": tools(&["a"])});
        let error = OfferedTools::read(&Fields::root(&body).unwrap(), false).unwrap_err();
        assert!(error.to_string().contains("knows no tools"), "{error}");
    }

    #[test]
    fn custom_tools_are_functions_with_one_text() {
        let custom = json!({"name": "apply_patch", "description": "Patches."});
        let tools =
            json!([{"type": "custom", "custom": custom}, {"type": "function", "function": {"name": "f"}}]);
        for (choice, may) in [
            (json!("auto"), vec!["apply_patch", "f"]),
            (json!({"type": "custom", "custom": {"name": "apply_patch"}}), vec!["apply_patch"]),
            (
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto",
                    "tools": [{"type": "custom", "custom": {"name": "apply_patch"}}]}}),
                vec!["apply_patch"],
            ),
        ] {
            let offered = read(json!({"tools": tools, "tool_choice": choice})).unwrap();
            assert_eq!(callable(&offered), may, "{choice}");
            let function = &offered.rendered[0]["function"];
            assert_eq!(offered.rendered[0]["type"], "function");
            assert_eq!(
                (&function["name"], &function["description"]),
                (&json!("apply_patch"), &json!("Patches."))
            );
            assert_eq!(function["parameters"], custom_tools::parameters());
        }
        for (tool, param) in [
            (json!({"type": "custom"}), "tools[0].custom"),
            (json!({"type": "custom", "custom": {}}), "tools[0].custom.name"),
        ] {
            assert_eq!(read(json!({"tools": [tool]})).unwrap_err().param, param);
        }
        let choice = json!({"type": "custom", "custom": {"name": "z"}});
        let error = read(json!({"tools": tools, "tool_choice": choice})).unwrap_err();
        assert_eq!(error.param, "tool_choice.custom.name");
    }

    #[test]
    fn templates_get_tools_as_they_came_but_for_what_no_model_knows() {
        let function =
            json!({"name": "a", "description": null, "strict": true, "parameters": {"type": "object"}});
        let offered = read(json!({"tools": [{"type": "function", "function": function}]})).unwrap();
        let parameters = json!({"type": "object"});
        assert_eq!(
            offered.rendered,
            [json!({"type": "function", "function": {"name": "a", "parameters": parameters}})]
        );
        assert_eq!(offered.strict, [true]);
    }
}
