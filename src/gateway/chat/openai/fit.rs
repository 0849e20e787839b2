//! A body in OpenAI's format as a provider takes it, after its [`Compat`]: what was translated, and
//! what an OpenAI caller wrote. Of the latter only names change that the provider does not know;
//! values that it refuses stay, and its own error says so.

use super::super::anthropic::thinking::is_claude;
use super::super::reasoning;
use crate::config::{Compat, MaxTokens, PastReasoning, ReasoningSwitch};
use crate::gateway::wire::fields::BadField;
use serde_json::{Map, Value, json};

/// How OpenRouter names the format of a Claude model's signatures.
pub const CLAUDE_FORMAT: &str = "anthropic-claude-v1";

/// Where a message of the assistant's has its reasoning.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "reasoning", "reasoning_details"];

/// Fits what an OpenAI caller wrote.
pub fn passed(body: &mut Map<String, Value>, compat: &Compat) {
    bound(body, compat.max_tokens);
    reasoning::respell(compat, body);
    effort_beside_tools(body, compat);
    tool_choice(body, compat);
    messages(body, compat);
    stream_usage(body, compat);
}

/// Fits what was translated.
pub fn translated(body: &mut Map<String, Value>, compat: &Compat) -> Result<(), BadField> {
    if body.contains_key("top_k") && !compat.top_k {
        return Err(BadField::unsupported("top_k", "is not known to this model's provider; leave it out"));
    }
    bound(body, compat.max_tokens);
    effort_beside_tools(body, compat);
    tool_choice(body, compat);
    messages(body, compat);
    stream_usage(body, compat);
    Ok(())
}

/// The bound on an answer by the name that the provider has for it; of two, that one counts. OpenAI's models that reason
/// refuse the older name, and all of its models both together.
fn bound(body: &mut Map<String, Value>, known: MaxTokens) {
    let (name, other) = match known {
        MaxTokens::Any => return,
        MaxTokens::MaxTokens => ("max_tokens", "max_completion_tokens"),
        MaxTokens::MaxCompletionTokens => ("max_completion_tokens", "max_tokens"),
    };
    if let Some(tokens) = body.remove(other).filter(|tokens| !tokens.is_null())
        && body.get(name).is_none_or(Value::is_null)
    {
        body.insert(name.into(), tokens);
    }
}

/// An effort is a hint, and leaves the tools to those who do not take both. "none" is taken beside tools by all.
fn effort_beside_tools(body: &mut Map<String, Value>, compat: &Compat) {
    let tools = body.get("tools").and_then(Value::as_array).is_some_and(|tools| !tools.is_empty());
    let effort = body.get("reasoning_effort").is_some_and(|effort| effort != "none");
    let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
    let by_model = compat.reasoning == ReasoningSwitch::OpenAi && keeps_effort_from_tools(model);
    if tools && effort && (by_model || !compat.effort_beside_tools) {
        body.remove("reasoning_effort");
    }
}

/// OpenAI's models from gpt-5.4 on take an effort beside tools in its Responses API alone.
fn keeps_effort_from_tools(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let Some(version) = name.strip_prefix("gpt-") else { return false };
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let major = numbers.next().and_then(Result::ok);
    let minor = numbers.next().and_then(Result::ok).filter(|_| version.contains('.'));
    major.is_some_and(|major| (major, minor.unwrap_or(0)) >= (5, 4))
}

/// Who does not think with every choice refuses the word for the default, too.
fn tool_choice(body: &mut Map<String, Value>, compat: &Compat) {
    if !compat.forced_tool_thinking && body.get("tool_choice").is_some_and(|choice| choice == "auto") {
        body.remove("tool_choice");
    }
}

/// Without the chunk of usage nobody would know what a stream has used.
fn stream_usage(body: &mut Map<String, Value>, compat: &Compat) {
    if !compat.stream_usage {
        if let Some(options) = body.get_mut("stream_options").and_then(Value::as_object_mut) {
            options.remove("include_usage");
            if options.is_empty() {
                body.remove("stream_options");
            }
        }
    } else if body.get("stream") == Some(&Value::Bool(true)) {
        match body.get_mut("stream_options").and_then(Value::as_object_mut) {
            Some(options) => options.insert("include_usage".into(), true.into()),
            None => body.insert("stream_options".into(), json!({"include_usage": true})),
        };
    }
}

fn messages(body: &mut Map<String, Value>, compat: &Compat) {
    let claude = body.get("model").and_then(Value::as_str).is_some_and(is_claude);
    let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) else { return };
    if !compat.late_system {
        move_late_system(messages);
    }
    let calls =
        messages.iter().any(|message| message.get("tool_calls").is_some_and(|calls| !calls.is_null()));
    let missing = compat.missing_reasoning.as_ref().filter(|_| calls);
    for message in messages.iter_mut().filter_map(Value::as_object_mut) {
        match message.get("role").and_then(Value::as_str) {
            Some("developer") if !compat.developer_role => {
                message.insert("role".into(), "system".into());
            }
            Some("assistant") => {
                past_reasoning(message, compat.past_reasoning, claude);
                if let Some(missing) = missing
                    && message.get("reasoning_content").and_then(Value::as_str).is_none_or(str::is_empty)
                {
                    message.insert("reasoning_content".into(), missing.as_str().into());
                }
            }
            _ => {}
        }
    }
}

fn is_system(message: &Value) -> bool {
    message["role"] == "system" || message["role"] == "developer"
}

/// System messages for those who take one, in front: the ones at the beginning become one, and a later one becomes
/// a user's text where it stands, as what is before it is to stay as it is in caches. It is a part of the user's
/// message beside it, where there is one.
pub fn move_late_system(messages: &mut Vec<Value>) {
    let front = messages.iter().take_while(|message| is_system(message)).count();
    if front < 2 && !messages.iter().skip(front).any(is_system) {
        return;
    }
    let (mut out, mut moved): (Vec<Value>, bool) = (Vec::with_capacity(messages.len()), false);
    for (i, mut message) in messages.drain(..).enumerate() {
        let late = i >= front && is_system(&message);
        if late {
            message = json!({"role": "user", "content": as_users(message["content"].take())});
        }
        let joins = match out.last() {
            Some(last) if i < front => is_system(last),
            // A user's message beside what was moved.
            Some(last) => last["role"] == "user" && message["role"] == "user" && (late || moved),
            None => false,
        };
        match out.last_mut().filter(|_| joins) {
            Some(last) => join(&mut last["content"], message["content"].take()),
            None => out.push(message),
        }
        moved = late;
    }
    *messages = out;
}

/// A system message's content in a user's words.
fn as_users(content: Value) -> Value {
    let text = match &content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n\n")
        }
        _ => String::new(),
    };
    format!("<system>\n{text}\n</system>").into()
}

/// Adds content to content: text to text, else parts to parts.
fn join(content: &mut Value, more: Value) {
    let parts = |content: Value| match content {
        Value::Array(parts) => parts,
        Value::Null => Vec::new(),
        text => vec![json!({"type": "text", "text": text})],
    };
    *content = match (content.take(), more) {
        (Value::String(text), Value::String(more)) => format!("{text}\n\n{more}").into(),
        (content, more) => parts(content).into_iter().chain(parts(more)).collect(),
    };
}

fn past_reasoning(message: &mut Map<String, Value>, way: PastReasoning, claude: bool) {
    match way {
        PastReasoning::Any => {}
        PastReasoning::Drop => REASONING_FIELDS.iter().for_each(|name| {
            message.remove(*name);
        }),
        PastReasoning::Content | PastReasoning::Reasoning => {
            let text = text_of(message);
            for name in REASONING_FIELDS {
                message.remove(name);
            }
            let Some(text) = text else { return };
            if way == PastReasoning::Reasoning {
                message.insert("reasoning".into(), text.as_str().into());
            }
            message.insert("reasoning_content".into(), text.into());
        }
        PastReasoning::Details => {
            if !message.get("reasoning_details").is_some_and(Value::is_array)
                && let Some(text) = text_of(message)
            {
                let detail = json!({"type": "reasoning.text", "text": text, "index": 0});
                message.insert("reasoning_details".into(), json!([detail]));
            }
            message.remove("reasoning_content");
            message.remove("reasoning");
            let details = message.get_mut("reasoning_details").and_then(Value::as_array_mut);
            for detail in details.into_iter().flatten().filter_map(Value::as_object_mut).filter(|_| claude) {
                detail.entry("format").or_insert_with(|| CLAUDE_FORMAT.into());
            }
        }
    }
}

/// A message's reasoning as one text.
fn text_of(message: &Map<String, Value>) -> Option<String> {
    let plain = ["reasoning_content", "reasoning"]
        .iter()
        .find_map(|name| message.get(*name)?.as_str().filter(|text| !text.is_empty()));
    if let Some(text) = plain {
        return Some(text.to_owned());
    }
    let details = message.get("reasoning_details")?.as_array()?;
    let text: String = details.iter().filter_map(|detail| detail.get("text")?.as_str()).collect();
    (!text.is_empty()).then_some(text)
}
