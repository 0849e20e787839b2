//! A chat completion's body as a request for a provider that speaks Responses: the inverse of request.rs.
//!
//! | chat completion | Responses |
//! | --- | --- |
//! | messages of system, developer, user | the same |
//! | of the assistant | `reasoning` that this API encrypted, `message`, `function_call`, in this order |
//! | of a tool | `function_call_output` |
//! | `tools`, `tool_choice` | the same, flat; what says nothing of `strict` is not strict, which is the default there |
//! | `max_completion_tokens`, `max_tokens` | `max_output_tokens`, at least 16, their least |
//! | `reasoning_effort` and its kin | `reasoning.effort` |
//! | `response_format`, `verbosity` | `text` |
//! | `logprobs` | `include`, with `top_logprobs` |
//!
//! Nothing is kept there (`store: false`); the reasoning of models that reason comes encrypted, to be sent back.
//! Dropped, since the answer is as good without it: `seed`, `stream_options`, `prediction`. Refused: what
//! Responses cannot do. Fields that are not known go on as they are, and the provider says what it thinks of them.

use super::super::reasoning;
use super::envelope::foreign;
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};

/// Their least bound on an answer's tokens.
const OUTPUT_TOKENS_MIN: i64 = 16;

/// Fields that are read here, or dropped.
const READ: [&str; 28] = [
    "messages",
    "tools",
    "tool_choice",
    "max_completion_tokens",
    "max_tokens",
    "reasoning_effort",
    "reasoning",
    "thinking",
    "enable_thinking",
    "thinking_budget",
    "chat_template_kwargs",
    "response_format",
    "verbosity",
    "logprobs",
    "top_logprobs",
    "seed",
    "stream_options",
    "prediction",
    "n",
    "modalities",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "stop",
    "functions",
    "function_call",
    "audio",
    "web_search_options",
];

/// Writes the request; the model's name stays as it is. An error names the field of the chat completion's body
/// that has no place in it.
pub fn to_responses(chat_body: &Value) -> Result<Value, BadField> {
    let body = Fields::root(chat_body)?;
    refuse(&body)?;
    let mut out = Map::new();
    for (name, value) in
        body.map().iter().filter(|(name, value)| !READ.contains(&name.as_str()) && !value.is_null())
    {
        out.insert(name.clone(), value.clone());
    }
    let messages = body.array("messages")?.filter(|messages| !messages.is_empty());
    let messages = messages.ok_or_else(|| BadField::missing("messages", "a list of at least one message"))?;
    let mut input = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        push_message(&Fields::object_at(format!("messages[{i}]"), message)?, &mut input)?;
    }
    out.insert("input".into(), input.into());
    push_tools(&body, &mut out)?;
    let bound = match body.integer("max_completion_tokens", 1, i64::MAX)? {
        Some(tokens) => Some(tokens),
        None => body.integer("max_tokens", 1, i64::MAX)?,
    };
    if let Some(tokens) = bound {
        out.insert("max_output_tokens".into(), tokens.max(OUTPUT_TOKENS_MIN).into());
    }
    // What the caller wrote is the provider's to judge, `none` included.
    let effort = match body.str("reasoning_effort")? {
        Some(effort) => Some(effort),
        None => reasoning::of_openai(&body)?.and_then(|wanted| wanted.effort()),
    };
    if let Some(effort) = effort {
        out.insert("reasoning".into(), json!({"effort": effort}));
    }
    push_text(&body, &mut out)?;
    let mut include = Vec::new();
    if body.str("model")?.is_none_or(reasons) {
        include.push("reasoning.encrypted_content");
    }
    if body.flag("logprobs", false)? {
        include.push("message.output_text.logprobs");
        out.insert("top_logprobs".into(), body.integer("top_logprobs", 0, 20)?.unwrap_or(0).into());
    }
    if !include.is_empty() {
        out.insert("include".into(), include.into());
    }
    out.insert("store".into(), false.into());
    Ok(Value::Object(out))
}

/// OpenAI's models that do not reason refuse to be asked for it encrypted.
fn reasons(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    !["gpt-3", "gpt-4", "chatgpt-4"].iter().any(|old| name.starts_with(old))
}

/// What Responses has no word for and would change the answer.
fn refuse(body: &Fields) -> Result<(), BadField> {
    const NONE: &str =
        "is not possible: this model's provider is asked by Responses, which has no such field";
    for name in ["stop", "functions", "function_call", "audio", "web_search_options"] {
        body.refuse(name, NONE)?;
    }
    if body.object("logit_bias")?.is_some_and(|bias| !bias.map().is_empty()) {
        return Err(BadField::unsupported("logit_bias", NONE));
    }
    for name in ["frequency_penalty", "presence_penalty"] {
        if body.f64(name)?.is_some_and(|penalty| penalty != 0.0) {
            return Err(BadField::unsupported(name, NONE));
        }
    }
    if body.integer("n", 1, i64::MAX)?.is_some_and(|n| n != 1) {
        return Err(BadField::unsupported("n", "must be 1: a response has one choice"));
    }
    if body.array("modalities")?.unwrap_or_default().iter().any(|modality| modality != "text") {
        return Err(BadField::unsupported("modalities", "must be [\"text\"]"));
    }
    Ok(())
}

fn push_message(message: &Fields, input: &mut Vec<Value>) -> Result<(), BadField> {
    match message.required_str("role", "system, developer, user, assistant or tool")? {
        role @ ("system" | "developer" | "user") => {
            let content = message.required("content", "a string or a list of parts")?;
            let content = content_of(&message.path("content"), content)?;
            input.push(json!({"type": "message", "role": role, "content": content}));
        }
        "assistant" => push_assistant(message, input)?,
        "tool" => {
            let id = message.required_str("tool_call_id", "the id of the call that it answers")?;
            let output = match message.get("content") {
                None => "".into(),
                Some(content) => content_of(&message.path("content"), content)?,
            };
            input.push(json!({"type": "function_call_output", "call_id": id, "output": output}));
        }
        other => {
            let reason = format!("must be system, developer, user, assistant or tool, got `{other}`");
            return Err(BadField::new(message.path("role"), reason));
        }
    }
    Ok(())
}

/// A message's or an output's content: a string, or parts.
fn content_of(path: &str, content: &Value) -> Result<Value, BadField> {
    match content {
        Value::String(text) => Ok(text.as_str().into()),
        Value::Array(parts) => {
            let part = |(i, part)| part_of(&Fields::object_at(format!("{path}[{i}]"), part)?);
            parts.iter().enumerate().map(part).collect::<Result<Vec<_>, _>>().map(Value::from)
        }
        other => Err(BadField::wrong_type(path.to_owned(), "a string or a list of parts", other)),
    }
}

fn part_of(part: &Fields) -> Result<Value, BadField> {
    match part.required_str("type", "text, image_url or file")? {
        "text" => Ok(json!({"type": "input_text", "text": part.required_str("text", "the part's text")?})),
        "image_url" => {
            let image = part.object("image_url")?;
            let image =
                image.ok_or_else(|| BadField::missing(part.path("image_url"), "an object with `url`"))?;
            let url = image.required_str("url", "the image's address, or a data: URL")?;
            let detail = image.str("detail")?.unwrap_or("auto");
            Ok(json!({"type": "input_image", "image_url": url, "detail": detail}))
        }
        "file" => {
            let file = part.object("file")?;
            let file =
                file.ok_or_else(|| BadField::missing(part.path("file"), "an object with `file_data`"))?;
            let mut value = json!({"type": "input_file"});
            for name in ["filename", "file_data", "file_id"] {
                if let Some(text) = file.str(name)? {
                    value[name] = text.into();
                }
            }
            Ok(value)
        }
        other => {
            let reason = format!("must be text, image_url or file for this model's provider, got `{other}`");
            Err(BadField::unsupported(part.path("type"), reason))
        }
    }
}

fn push_assistant(message: &Fields, input: &mut Vec<Value>) -> Result<(), BadField> {
    message.refuse("function_call", "is not translated; use `tool_calls`")?;
    let mut parts = Vec::new();
    let text_part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
    match message.get("content") {
        None => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) => parts.push(text_part(text)),
        Some(_) => {
            for (i, part) in message.array("content")?.unwrap_or_default().iter().enumerate() {
                let part = Fields::object_at(format!("{}[{i}]", message.path("content")), part)?;
                match part.required_str("type", "text or refusal")? {
                    "text" => parts.push(text_part(part.required_str("text", "the part's text")?)),
                    "refusal" => {
                        let refusal = part.required_str("refusal", "the refusal's text")?;
                        parts.push(json!({"type": "refusal", "refusal": refusal}));
                    }
                    other => {
                        let reason = format!("must be text or refusal, got `{other}`");
                        return Err(BadField::unsupported(part.path("type"), reason));
                    }
                }
            }
        }
    }
    if let Some(refusal) = message.str("refusal")? {
        parts.push(json!({"type": "refusal", "refusal": refusal}));
    }
    let calls = message.array("tool_calls")?.unwrap_or_default();
    // Reasoning must have something behind it.
    if !parts.is_empty() || !calls.is_empty() {
        for (i, detail) in message.array("reasoning_details")?.unwrap_or_default().iter().enumerate() {
            let detail = Fields::object_at(format!("{}[{i}]", message.path("reasoning_details")), detail)?;
            if let Some(encrypted) = detail.str("data")?.and_then(foreign) {
                input.push(json!({"type": "reasoning", "summary": [], "encrypted_content": encrypted}));
            }
        }
    }
    if !parts.is_empty() {
        input.push(json!({"type": "message", "role": "assistant", "content": parts}));
    }
    for (i, call) in calls.iter().enumerate() {
        let call = Fields::object_at(format!("{}[{i}]", message.path("tool_calls")), call)?;
        let function = call.object("function")?;
        let function = function
            .ok_or_else(|| BadField::missing(call.path("function"), "the call's name and arguments"))?;
        let arguments = match function.get("arguments") {
            Some(object @ Value::Object(_)) => object.to_string(),
            _ => function.str("arguments")?.unwrap_or_default().to_owned(),
        };
        input.push(json!({
            "type": "function_call",
            "call_id": call.required_str("id", "the call's id")?,
            "name": function.required_str("name", "the tool's name")?,
            "arguments": arguments,
        }));
    }
    Ok(())
}

fn push_tools(body: &Fields, out: &mut Map<String, Value>) -> Result<(), BadField> {
    let mut tools = Vec::new();
    for (i, tool) in body.array("tools")?.unwrap_or_default().iter().enumerate() {
        let tool = Fields::object_at(format!("tools[{i}]"), tool)?;
        let kind = tool.str("type")?.unwrap_or("function");
        let function = tool.object("function")?.filter(|_| kind == "function").ok_or_else(|| {
            let reason = format!("must be \"function\", with a `function` beside it, got `{kind}`");
            BadField::unsupported(tool.path("type"), reason)
        })?;
        let parameters =
            function.object("parameters")?.map(|parameters| Value::from(parameters.map().clone()));
        let mut flat = json!({
            "type": "function",
            "name": function.required_str("name", "the tool's name")?,
            "parameters": parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}})),
            "strict": function.flag("strict", false)?,
        });
        if let Some(description) = function.str("description")? {
            flat["description"] = description.into();
        }
        tools.push(flat);
    }
    if !tools.is_empty() {
        out.insert("tools".into(), tools.into());
    }
    let choice = match body.get("tool_choice") {
        None => return Ok(()),
        Some(word @ Value::String(_)) => word.clone(),
        Some(value) => choice_of(&Fields::object_at("tool_choice".into(), value)?)?,
    };
    out.insert("tool_choice".into(), choice);
    Ok(())
}

fn choice_of(choice: &Fields) -> Result<Value, BadField> {
    let name_of = |outer: &Fields| -> Result<Value, BadField> {
        let function = outer.object("function")?;
        let function =
            function.ok_or_else(|| BadField::missing(outer.path("function"), "an object with `name`"))?;
        Ok(json!({"type": "function", "name": function.required_str("name", "the tool's name")?}))
    };
    match choice.required_str("type", "function or allowed_tools")? {
        "function" => name_of(choice),
        "allowed_tools" => {
            let allowed = choice.object("allowed_tools")?;
            let allowed = allowed
                .ok_or_else(|| BadField::missing(choice.path("allowed_tools"), "an object with `tools`"))?;
            let tools = allowed.array("tools")?.unwrap_or_default().iter().enumerate();
            let tools = tools
                .map(|(i, tool)| {
                    name_of(&Fields::object_at(format!("{}[{i}]", allowed.path("tools")), tool)?)
                })
                .collect::<Result<Vec<_>, _>>()?;
            let mode = allowed.str("mode")?.unwrap_or("auto");
            Ok(json!({"type": "allowed_tools", "mode": mode, "tools": tools}))
        }
        other => {
            let reason = format!("must be function or allowed_tools, got `{other}`");
            Err(BadField::unsupported(choice.path("type"), reason))
        }
    }
}

fn push_text(body: &Fields, out: &mut Map<String, Value>) -> Result<(), BadField> {
    let mut text = Map::new();
    if let Some(verbosity) = body.str("verbosity")? {
        text.insert("verbosity".into(), verbosity.into());
    }
    if let Some(format) = body.object("response_format")? {
        let mut flat = Map::new();
        flat.insert("type".into(), format.required_str("type", "text, json_object or json_schema")?.into());
        if let Some(schema) = format.object("json_schema")? {
            let fields = schema.map().iter().filter(|(_, value)| !value.is_null());
            flat.extend(fields.map(|(name, value)| (name.clone(), value.clone())));
            flat.entry("name").or_insert_with(|| "response".into());
        }
        text.insert("format".into(), flat.into());
    }
    if !text.is_empty() {
        out.insert("text".into(), text.into());
    }
    Ok(())
}
