//! The conversation of a chat request as templates know it: messages with text for content and objects
//! for calls' arguments.
//!
//! Clients send back what models have said, and models have said all kinds of things: calls without
//! arguments, or with arguments that are no JSON. Such a history is answered: what cannot be read is
//! given to the template as the text that it is.

use super::super::custom_tools;
use super::{fit, thinking};
use crate::gateway::wire::fields::{BadField, Fields};
use crate::text::{ChatTemplate, RenderInput, TextError};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Roles that a message may have. `developer` is another name for `system`, `function` the old one of
/// `tool`.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
/// Variables of templates that have fields of their own.
const OWN_FIELDS: [&str; 5] =
    ["messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template"];

/// What the template needs of a request; `/tokenize` takes the same fields.
pub fn render_input(fields: &Fields<'_>, template: Option<&ChatTemplate>) -> Result<RenderInput, BadField> {
    let path = fields.path("messages");
    fields.required("messages", "a list of messages")?;
    let items = fields.array("messages")?.unwrap_or_default();
    if items.is_empty() {
        return Err(BadField::new(path, "must have at least one message, got none"));
    }
    let messages = items
        .iter()
        .enumerate()
        .map(|(i, item)| message(&Fields::object_at(format!("{path}[{i}]"), item)?))
        .collect::<Result<Vec<_>, _>>()?;
    let continue_final_message = fields.flag("continue_final_message", false)?;
    let add_generation_prompt = fields.flag("add_generation_prompt", !continue_final_message)?;
    if continue_final_message && add_generation_prompt {
        return Err(BadField::new(
            "continue_final_message",
            "and `add_generation_prompt` exclude each other: set one of them to false",
        ));
    }
    let mut extra = Map::new();
    if let Some(variables) = fields.object("chat_template_kwargs")? {
        for name in OWN_FIELDS {
            variables.refuse(name, "is a field of the request itself")?;
        }
        extra = variables.map().clone();
    }
    thinking::switch(fields, template, &mut extra)?;
    if let Some(documents) = fields.array("documents")?.filter(|documents| !documents.is_empty()) {
        if !template.is_some_and(|template| template.reads("documents")) {
            let why = "is not supported: the model's chat template does not read them";
            return Err(BadField::unsupported(fields.path("documents"), why));
        }
        extra.insert("documents".into(), documents.into());
    }
    Ok(RenderInput { messages, tools: Vec::new(), add_generation_prompt, continue_final_message, extra })
}

/// Renders, and where the template refuses the conversation tries it as many templates want it: with a call's
/// arguments as an object, through which they go by name, and with one system message, at the beginning (Qwen3.5,
/// Mistral): a later one is then a user's text ([`fit::move_late_system`]); and with tools that have a description and
/// parameters, if empty ones; and with ids of calls of nine letters and digits ([`with_short_ids`]). The template's own
/// complaint is told where nothing helps.
pub fn render(template: &ChatTemplate, input: &RenderInput) -> Result<String, TextError> {
    let rendered = template.render(input);
    if rendered.is_ok() {
        return rendered;
    }
    let named = with_named_arguments(input);
    let mut in_front = named.clone().unwrap_or_else(|| input.clone());
    fit::move_late_system(&mut in_front.messages);
    let moved = in_front.messages != input.messages;
    let short = with_short_ids(named.as_ref().unwrap_or(input));
    let both = with_short_ids(&in_front).filter(|_| moved);
    let others = named.into_iter().chain(short).chain(moved.then_some(in_front)).chain(both);
    others.map(|input| template.render(&input)).find(Result::is_ok).unwrap_or(rendered)
}

/// Characters of a call's id where Mistral's templates demand that many.
pub const SHORT_ID_CHARS: usize = 9;

/// With ids of calls that have nine letters and digits: others, which a provider or another model gave, by their
/// hashes, so that a call and its result keep the same id. None where all of them have.
fn with_short_ids(input: &RenderInput) -> Option<RenderInput> {
    let mut short = input.clone();
    let mut any = false;
    let mut shorten = |id: &mut Value| {
        let Some(text) = id.as_str() else { return };
        if text.len() != SHORT_ID_CHARS || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let hash: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
            *id = hash[..SHORT_ID_CHARS].into();
            any = true;
        }
    };
    for message in &mut short.messages {
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        calls.into_iter().flatten().filter_map(|call| call.get_mut("id")).for_each(&mut shorten);
        message.get_mut("tool_call_id").into_iter().for_each(&mut shorten);
    }
    any.then_some(short)
}

/// With an object in place of arguments that are a text; None where there are none.
fn with_named_arguments(input: &RenderInput) -> Option<RenderInput> {
    let mut named = input.clone();
    let calls = named.messages.iter_mut().filter_map(|message| message.get_mut("tool_calls")?.as_array_mut());
    let mut any = false;
    for arguments in calls.flatten().filter_map(|call| call.pointer_mut("/function/arguments")) {
        if arguments.is_string() {
            *arguments = json!({ "arguments": arguments });
            any = true;
        }
    }
    for tool in named.tools.iter_mut().filter_map(|tool| tool.get_mut("function")?.as_object_mut()) {
        for (name, empty) in
            [("description", json!("")), ("parameters", json!({"type": "object", "properties": {}}))]
        {
            any |= !tool.contains_key(name);
            tool.entry(name).or_insert(empty);
        }
    }
    any.then_some(named)
}

/// A message as templates know it: text content, everything else as it came.
fn message(fields: &Fields<'_>) -> Result<Value, BadField> {
    let role = fields.required_str("role", "one of system, developer, user, assistant, tool")?;
    if !ROLES.contains(&role) {
        let reason = format!("must be one of {}", ROLES[..5].join(", "));
        return Err(BadField::new(fields.path("role"), reason));
    }
    let mut message = fields.map().clone();
    message.retain(|_, value| !value.is_null());
    let calls = tool_calls(fields)?;
    message.shift_remove("function_call");
    let content = match fields.get("content") {
        // What calls, refuses or has only reasoned says nothing else, and a tool may return nothing.
        None if role == "assistant" => fields.str("refusal")?.unwrap_or_default().to_owned(),
        None if role == "tool" || role == "function" => String::new(),
        _ => content_text(fields, fields.required("content", "a string or a list of text parts")?)?,
    };
    let role = match role {
        "developer" => "system",
        "function" => "tool",
        other => other,
    };
    message.insert("role".into(), role.into());
    message.insert("content".into(), content.into());
    match calls {
        Some(calls) => message.insert("tool_calls".into(), calls),
        None => message.shift_remove("tool_calls"),
    };
    Ok(Value::Object(message))
}

fn content_text(fields: &Fields<'_>, value: &Value) -> Result<String, BadField> {
    if let Value::String(text) = value {
        return Ok(text.clone());
    }
    let path = fields.path("content");
    let Value::Array(parts) = value else {
        return Err(BadField::new(path, "must be a string or a list of text parts"));
    };
    let text = |(i, part): (usize, &Value)| {
        let part = Fields::object_at(format!("{path}[{i}]"), part)?;
        match part.required_str("type", "\"text\"")? {
            "text" => part.required_str("text", "the part's text").map(str::to_owned),
            "refusal" => part.required_str("refusal", "the refusal's text").map(str::to_owned),
            _ => {
                Err(BadField::unsupported(part.path("type"), "must be \"text\": this model takes text only"))
            }
        }
    };
    let texts = parts.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.join("\n"))
}

/// Calls of an earlier turn; None where there are none. `function_call` is the old name of a single one.
fn tool_calls(fields: &Fields<'_>) -> Result<Option<Value>, BadField> {
    if let Some(calls) = fields.array("tool_calls")?.filter(|calls| !calls.is_empty()) {
        let path = fields.path("tool_calls");
        let mut calls = calls.to_vec();
        for (i, call) in calls.iter_mut().enumerate() {
            let outer = Fields::object_at(format!("{path}[{i}]"), call)?;
            if let Some(custom) = outer.object("custom")? {
                let name = custom.required_str("name", "the tool's name")?;
                let arguments = custom_tools::arguments(custom.str("input")?.unwrap_or_default());
                let function = json!({"name": name, "arguments": arguments});
                let mut told = outer.map().clone();
                told.shift_remove("custom");
                told.insert("type".into(), "function".into());
                told.insert("function".into(), function);
                *call = Value::Object(told);
                continue;
            }
            outer.required("function", "the function that was called")?;
            let arguments = match outer.object("function")? {
                Some(function) => arguments(&function)?,
                None => continue,
            };
            call["function"]["arguments"] = arguments;
        }
        return Ok(Some(calls.into()));
    }
    let Some(call) = fields.object("function_call")? else { return Ok(None) };
    let mut function = call.map().clone();
    function.insert("arguments".into(), arguments(&call)?);
    Ok(Some(json!([{ "type": "function", "function": function }])))
}

/// Templates expect the arguments as an object, OpenAI sends them as JSON in a string. None are an empty
/// object; a string that holds none stays as it is.
fn arguments(function: &Fields<'_>) -> Result<Value, BadField> {
    function.required_str("name", "the function's name")?;
    match function.get("arguments") {
        None => Ok(json!({})),
        Some(Value::String(text)) if text.trim().is_empty() || text.trim() == "null" => Ok(json!({})),
        Some(Value::String(text)) => {
            let object = serde_json::from_str(text).ok().filter(Value::is_object);
            Ok(object.unwrap_or_else(|| text.as_str().into()))
        }
        Some(object @ Value::Object(_)) => Ok(object.clone()),
        Some(other) => {
            let what = "the text of a JSON object, or an object";
            Err(BadField::wrong_type(function.path("arguments"), what, other))
        }
    }
}
