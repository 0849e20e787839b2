//! What one model of an upstream takes, beside what its provider's format is: `capabilities`, `max_output_tokens` and
//! the like of the configuration.
//!
//! What is a hint (how much to think) is left out for a model that cannot; what the request is about (an image, a
//! tool) is refused by name, so that a fallback may take it.

use super::Dialect;
use crate::config::{Capabilities, Format, Model};
use crate::gateway::wire::fields::BadField;
use serde_json::{Map, Value};

/// Anthropic's least budget for thinking, in tokens.
const BUDGET_TOKENS_MIN: u64 = 1024;
/// What a body of OpenAI's format says about thinking.
const REASONING_FIELDS: [&str; 5] =
    ["reasoning_effort", "thinking", "reasoning", "enable_thinking", "thinking_budget"];

/// What a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takes {
    /// Tools, images, reasoning.
    pub capabilities: Capabilities,
    /// Tokens of an answer at the most.
    pub max_output_tokens: Option<u64>,
    /// Prompts of OpenAI callers are marked for Anthropic's cache.
    pub cache_control: bool,
    /// What clients write into prompts for nobody to read is left out.
    pub drop_noise: bool,
}

/// Everything, as it comes.
impl Default for Takes {
    fn default() -> Self {
        let capabilities = Capabilities { tools: true, images: true, reasoning: true };
        Self { capabilities, max_output_tokens: None, cache_control: false, drop_noise: false }
    }
}

impl Takes {
    /// As the configuration says; `format` is its provider's.
    pub fn of(model: &Model, format: Format) -> Self {
        Self {
            capabilities: model.capabilities,
            max_output_tokens: model.max_output_tokens,
            cache_control: model.cache_control,
            // Anthropic reads what its own client writes.
            drop_noise: model.drop_noise.unwrap_or(format != Format::Anthropic),
        }
    }

    /// Refuses a caller's body that has an image, where the model takes none.
    pub fn check_images(&self, body: &Value) -> Result<(), BadField> {
        if self.capabilities.images {
            return Ok(());
        }
        let messages = body.get("messages").and_then(Value::as_array).into_iter().flatten();
        for (i, message) in messages.enumerate() {
            if let Some(path) = image_in(&message["content"], &format!("messages[{i}].content")) {
                let why = "is an image, and this model takes none; leave it out or ask another model";
                return Err(BadField::unsupported(path, why));
            }
        }
        Ok(())
    }

    /// Fits a body of this dialect. An error names a field of the caller's body, which has the same name there.
    pub fn fit(&self, body: &mut Map<String, Value>, dialect: Dialect) -> Result<(), BadField> {
        if !self.capabilities.reasoning {
            forget_reasoning(body);
        }
        if !self.capabilities.tools {
            leave_out_tools(body)?;
        }
        if let Some(most) = self.max_output_tokens {
            for name in ["max_tokens", "max_completion_tokens"] {
                if let Some(tokens) = body.get_mut(name).filter(|tokens| tokens.as_u64() > Some(most)) {
                    *tokens = most.into();
                }
            }
            if dialect == Dialect::Anthropic {
                fit_budget(body);
            }
        }
        Ok(())
    }
}

/// Refuses a caller's body of either dialect that has an image, audio, video or a file, for a model that takes text
/// alone. A document that is text is text.
pub fn check_text_only(body: &Value) -> Result<(), BadField> {
    let messages = body.get("messages").and_then(Value::as_array).into_iter().flatten();
    for (i, message) in messages.enumerate() {
        if let Some((path, what)) = media_in(&message["content"], &format!("messages[{i}].content")) {
            let why = format!("is {what}, and this model takes text only; leave it out or ask another model");
            return Err(BadField::unsupported(path, why));
        }
    }
    Ok(())
}

/// Where an image stands in a message's content, tools' results included.
fn image_in(content: &Value, path: &str) -> Option<String> {
    content.as_array()?.iter().enumerate().find_map(|(i, part)| {
        let path = format!("{path}[{i}]");
        match part["type"].as_str()? {
            "image" | "image_url" | "input_image" => Some(path),
            "tool_result" => image_in(&part["content"], &format!("{path}.content")),
            _ => None,
        }
    })
}

/// The same for whatever is no text, and what it is.
fn media_in(content: &Value, path: &str) -> Option<(String, &'static str)> {
    content.as_array()?.iter().enumerate().find_map(|(i, part)| {
        let path = format!("{path}[{i}]");
        match part["type"].as_str()? {
            "image" | "image_url" | "input_image" => Some((path, "an image")),
            "audio" | "input_audio" | "audio_url" => Some((path, "audio")),
            "video" | "video_url" | "input_video" => Some((path, "a video")),
            "file" | "input_file" => Some((path, "a file")),
            "document" if part["source"]["type"] == "base64" => Some((path, "a file")),
            "tool_result" => media_in(&part["content"], &format!("{path}.content")),
            _ => None,
        }
    })
}

/// Removes what a body of either dialect says about thinking.
pub fn forget_reasoning(body: &mut Map<String, Value>) {
    for name in REASONING_FIELDS {
        body.shift_remove(name);
    }
    for (name, fields) in
        [("chat_template_kwargs", &["enable_thinking", "thinking"][..]), ("output_config", &["effort"])]
    {
        let Some(inner) = body.get_mut(name).and_then(Value::as_object_mut) else { continue };
        let before = inner.len();
        for field in fields {
            inner.shift_remove(*field);
        }
        if inner.is_empty() && before > 0 {
            body.shift_remove(name);
        }
    }
}

/// Whether a body of either dialect says something about thinking.
pub fn says_reasoning(body: &Value) -> bool {
    let inner = |name: &str, field: &str| body.get(name).and_then(|inner| inner.get(field)).is_some();
    REASONING_FIELDS.iter().any(|name| body.get(*name).is_some())
        || inner("chat_template_kwargs", "enable_thinking")
        || inner("chat_template_kwargs", "thinking")
        || inner("output_config", "effort")
}

fn leave_out_tools(body: &mut Map<String, Value>) -> Result<(), BadField> {
    let choice = body.get("tool_choice");
    let none = choice.is_some_and(|choice| choice == "none" || choice["type"] == "none");
    for name in ["tools", "functions"] {
        let some = body.get(name).and_then(Value::as_array).is_some_and(|tools| !tools.is_empty());
        if some && !none {
            let why = "is not possible: this model takes no tools; leave them out or ask another model";
            return Err(BadField::unsupported(name, why));
        }
    }
    for name in ["tools", "functions", "tool_choice", "function_call", "parallel_tool_calls"] {
        body.shift_remove(name);
    }
    Ok(())
}

/// A budget for thinking is below the bound, which holds the answer too.
fn fit_budget(body: &mut Map<String, Value>) {
    let Some(most) = body.get("max_tokens").and_then(Value::as_u64) else { return };
    let Some(budget) = body.get_mut("thinking").and_then(|thinking| thinking.get_mut("budget_tokens")) else {
        return;
    };
    if budget.as_u64() < Some(most) {
        return;
    }
    match most / 2 {
        half @ BUDGET_TOKENS_MIN.. => *budget = half.into(),
        _ => {
            body.shift_remove("thinking");
        }
    }
}
