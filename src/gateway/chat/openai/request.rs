//! A request in Anthropic's format as one for an OpenAI-compatible upstream.
//!
//! | Anthropic | OpenAI |
//! | --- | --- |
//! | `system`, messages with role system | system messages; blocks joined by a blank line |
//! | `text` | user: text parts, one alone a string; assistant: one string |
//! | `image` (base64, URL) | `image_url` (data: URL, URL) |
//! | `document` (PDF in base64; text; an address) | `file`; text; text with the address |
//! | `server_tool_use`, results of servers' tools, `search_result`, `tool_reference` | text: anthropic/server_blocks.rs |
//! | `tool_use`, `tool_result` | `tool_calls`; a message with role tool, before the user's own words |
//! | an image within a tool's result | in the user message behind the results, with the call's id |
//! | `is_error` | "Error: " before the result |
//! | `thinking` | `reasoning_content`; signed or redacted: also `reasoning_details` (OpenRouter) |
//! | `tools`, `tool_choice` | `tools`, `tool_choice`; any = required |
//! | `bash_*`, `text_editor_*`, `memory_*`, `computer_*` | functions with the published inputs: anthropic/tools.rs |
//! | `web_search_*` and other tools that Anthropic runs | left out, with a `tool_choice` that is about them alone |
//! | `disable_parallel_tool_use: true` | `parallel_tool_calls: false` |
//! | `stop_sequences`, `max_tokens`, `metadata.user_id` | `stop`, `max_tokens`, `user` |
//! | `temperature`, `top_p`, `top_k`, `stream`, `model` | the same |
//! | `thinking`, `output_config.effort` | as the provider has it: reasoning.rs |
//! | `output_config.format`, `output_format` | `response_format` with `json_schema` |
//!
//! What the provider's [`Compat`] says is fitted after that: fit.rs. Lost: `cache_control`, citations,
//! the place of text behind a tool call in one message, what only Anthropic's servers act on
//! (`context_management`, `betas`, `speed`, `inference_geo`), and every field not named here. A last message
//! of the assistant's own stays one; whether the server goes on from it, as Anthropic does, is the
//! server's choice. Refused: `mcp_servers` and a `container`, whose tools the request counts on, and files kept at
//! Anthropic.

use super::super::anthropic::{server_blocks, tools};
use super::super::reasoning;
use super::fit;
use crate::config::Compat;
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};

/// Translates a request for a provider; the model's name stays as it is. An error names the field of
/// the caller's body that has no place in OpenAI's format, or in the provider's.
pub fn to_openai(anthropic_body: &Value, compat: &Compat) -> Result<Value, BadField> {
    to_openai_model(anthropic_body, None, compat)
}

/// The same for the model that the provider calls so: what it takes depends on that name, not on the caller's.
pub fn to_openai_model(
    anthropic_body: &Value,
    model: Option<&str>,
    compat: &Compat,
) -> Result<Value, BadField> {
    let body = Fields::root(anthropic_body)?;
    for name in ["container", "mcp_servers"] {
        body.refuse(name, "is for Anthropic's own servers, and this model runs elsewhere; leave it out")?;
    }
    let mut out = Map::new();
    if let Some(model) = model.or(body.str("model")?) {
        out.insert("model".into(), model.into());
    }
    let mut messages = Vec::new();
    if let Some(system) = body.get("system") {
        push_system(&body.path("system"), system, &mut messages)?;
    }
    let list = body.array("messages")?.filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| BadField::missing("messages", "a list of at least one message"))?;
    for (i, message) in list.iter().enumerate() {
        push_message(&Fields::object_at(format!("messages[{i}]"), message)?, &mut messages)?;
    }
    out.insert("messages".into(), messages.into());
    if let Some(tokens) = body.integer("max_tokens", 1, i64::MAX)? {
        out.insert("max_tokens".into(), tokens.into());
    }
    for name in ["temperature", "top_p", "top_k"] {
        if body.f32(name)?.is_some() {
            out.insert(name.into(), body.map()[name].clone());
        }
    }
    if let Some(stop) = body.array("stop_sequences")?.filter(|stop| !stop.is_empty()) {
        out.insert("stop".into(), stop.into());
    }
    if let Some(stream) = body.bool("stream")? {
        out.insert("stream".into(), stream.into());
    }
    if let Some(metadata) = body.object("metadata")?
        && let Some(user) = metadata.str("user_id")?
    {
        out.insert("user".into(), user.into());
    }
    push_tools(&body, &mut out)?;
    push_format(&body, &mut out)?;
    if let Some(wanted) = reasoning::beside_tools(reasoning::of_anthropic(&body)?, compat, &out) {
        reasoning::write(wanted, compat.reasoning, &mut out);
    }
    fit::translated(&mut out, compat)?;
    Ok(Value::Object(out))
}

fn push_system(path: &str, system: &Value, messages: &mut Vec<Value>) -> Result<(), BadField> {
    let text = joined_text(path, system, "\n\n")?;
    if !text.is_empty() {
        messages.push(json!({"role": "system", "content": text}));
    }
    Ok(())
}

/// The text of a string or of text blocks.
fn joined_text(path: &str, content: &Value, between: &str) -> Result<String, BadField> {
    match blocks_of(path, content)? {
        Content::Text(text) => Ok(text.to_owned()),
        Content::Blocks(blocks) => {
            let mut texts = Vec::new();
            for block in &blocks {
                match block.required_str("type", "the block's type")? {
                    "text" => texts.push(block.required_str("text", "the block's text")?),
                    other => return Err(unsupported_block(block, other, "only text may stand here")),
                }
            }
            Ok(texts.join(between))
        }
    }
}

enum Content<'a> {
    Text(&'a str),
    Blocks(Vec<Fields<'a>>),
}

fn blocks_of<'a>(path: &str, content: &'a Value) -> Result<Content<'a>, BadField> {
    match content {
        Value::String(text) => Ok(Content::Text(text)),
        Value::Array(blocks) => {
            let block = |(i, block)| Fields::object_at(format!("{path}[{i}]"), block);
            blocks.iter().enumerate().map(block).collect::<Result<_, _>>().map(Content::Blocks)
        }
        _ => Err(BadField::new(path, "must be a string or a list of blocks")),
    }
}

fn unsupported_block(block: &Fields, kind: &str, why: &str) -> BadField {
    BadField::unsupported(
        block.path("type"),
        format!("`{kind}` cannot be sent to this model's upstream: {why}"),
    )
}

fn push_message(message: &Fields, messages: &mut Vec<Value>) -> Result<(), BadField> {
    let path = message.path("content");
    let role = message.required_str("role", "user, assistant or system")?;
    let nothing = Value::Array(Vec::new());
    let content = match message.get("content") {
        None if role == "assistant" => &nothing,
        _ => message.required("content", "a string or a list of blocks")?,
    };
    match role {
        "system" => push_system(&path, content, messages),
        "user" => push_user(&path, content, messages),
        "assistant" => push_assistant(&path, content, messages),
        other => Err(BadField::new(
            message.path("role"),
            format!("must be user, assistant or system, got `{other}`"),
        )),
    }
}

fn push_user(path: &str, content: &Value, messages: &mut Vec<Value>) -> Result<(), BadField> {
    let blocks = match blocks_of(path, content)? {
        Content::Text(text) => {
            messages.push(json!({"role": "user", "content": text}));
            return Ok(());
        }
        Content::Blocks(blocks) => blocks,
    };
    // What the user says stands behind the tools' results, which must follow their calls.
    let (mut said, mut shown) = (Vec::new(), Vec::new());
    for block in &blocks {
        match block.required_str("type", "the block's type")? {
            "tool_result" => messages.push(tool_message(block, &mut shown)?),
            kind => said.push(user_part(block, kind)?),
        }
    }
    shown.append(&mut said);
    let content = match shown.as_slice() {
        [] if blocks.is_empty() => json!(""),
        [] => return Ok(()),
        [only] if only["type"] == "text" => only["text"].clone(),
        _ => Value::Array(shown),
    };
    messages.push(json!({"role": "user", "content": content}));
    Ok(())
}

fn text_part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// A block of the user's as a part of OpenAI's.
fn user_part(block: &Fields, kind: &str) -> Result<Value, BadField> {
    match kind {
        "text" => Ok(text_part(block.required_str("text", "the block's text")?)),
        "image" => image_part(block),
        "document" => document_part(block),
        other => match server_blocks::as_text(other, block.map()) {
            Some(text) => Ok(text_part(&text)),
            None => Err(unsupported_block(block, other, "text, image, document and tool_result can")),
        },
    }
}

fn source<'a>(block: &Fields<'a>) -> Result<(Fields<'a>, &'a str), BadField> {
    let source = block.object("source")?;
    let source = source.ok_or_else(|| BadField::missing(block.path("source"), "where the content is"))?;
    let kind = source.required_str("type", "the source's type")?;
    Ok((source, kind))
}

fn data_url(source: &Fields) -> Result<String, BadField> {
    let media = source.required_str("media_type", "the content's type, such as image/png")?;
    Ok(format!("data:{media};base64,{}", source.required_str("data", "the content in base64")?))
}

fn image_part(block: &Fields) -> Result<Value, BadField> {
    let (source, kind) = source(block)?;
    let url = match kind {
        "base64" => data_url(&source)?,
        "url" => source.required_str("url", "the image's address")?.to_owned(),
        other => return Err(unsupported_block(&source, other, "base64 and url can")),
    };
    Ok(json!({"type": "image_url", "image_url": {"url": url}}))
}

fn document_part(block: &Fields) -> Result<Value, BadField> {
    let (source, kind) = source(block)?;
    let title = block.str("title")?;
    match kind {
        "base64" => {
            let name = title.unwrap_or("document.pdf");
            Ok(json!({"type": "file", "file": {"filename": name, "file_data": data_url(&source)?}}))
        }
        "text" => {
            let text = source.required_str("data", "the document's text")?;
            Ok(text_part(&title.map_or_else(|| text.to_owned(), |title| format!("{title}\n\n{text}"))))
        }
        // Nobody here reads it: the model is told where it is.
        "url" => {
            let url = source.required_str("url", "the document's address")?;
            let title = title.map_or_else(String::new, |title| format!("{title}: "));
            Ok(text_part(&format!("[Document: {title}{url}]")))
        }
        "content" => {
            let content = source.required("content", "a string or a list of text blocks")?;
            let text = joined_text(&source.path("content"), content, "\n")?;
            Ok(text_part(&title.map_or_else(|| text.clone(), |title| format!("{title}\n\n{text}"))))
        }
        other => Err(unsupported_block(&source, other, "base64, text, content and url can")),
    }
}

/// A tool's result; what is no text goes to `shown`, for the user message behind the results.
fn tool_message(block: &Fields, shown: &mut Vec<Value>) -> Result<Value, BadField> {
    let id = block.required_str("tool_use_id", "the id of the call that it answers")?;
    let mut texts = Vec::new();
    let mut pictures = Vec::new();
    match block.get("content").map(|content| blocks_of(&block.path("content"), content)).transpose()? {
        None => {}
        Some(Content::Text(text)) => texts.push(text.to_owned()),
        Some(Content::Blocks(blocks)) => {
            for block in &blocks {
                let kind = block.required_str("type", "the block's type")?;
                match user_part(block, kind)? {
                    Value::Object(mut part) if part["type"] == "text" => {
                        if let Some(Value::String(text)) = part.remove("text") {
                            texts.push(text);
                        }
                    }
                    picture => pictures.push(picture),
                }
            }
        }
    }
    let mut text = texts.join("\n");
    if block.flag("is_error", false)? && !text.starts_with("Error") {
        text.insert_str(0, "Error: ");
    }
    if !pictures.is_empty() {
        shown.push(text_part(&format!("Shown by the tool call {id}:")));
        shown.append(&mut pictures);
    }
    Ok(json!({"role": "tool", "tool_call_id": id, "content": text}))
}

fn push_assistant(path: &str, content: &Value, messages: &mut Vec<Value>) -> Result<(), BadField> {
    let blocks = match blocks_of(path, content)? {
        Content::Text(text) => {
            messages.push(json!({"role": "assistant", "content": text}));
            return Ok(());
        }
        Content::Blocks(blocks) => blocks,
    };
    let (mut text, mut reasoning) = (String::new(), String::new());
    let (mut calls, mut details) = (Vec::new(), Vec::new());
    // What the servers' tools did stands on lines of its own.
    let mut after_servers = false;
    let mut push_text = |said: &str, of_servers: bool| {
        if (of_servers || after_servers) && !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(said);
        after_servers = of_servers;
    };
    for block in &blocks {
        match block.required_str("type", "the block's type")? {
            "text" => push_text(block.required_str("text", "the block's text")?, false),
            "thinking" => {
                let thinking = block.str("thinking")?.unwrap_or_default();
                reasoning.push_str(thinking);
                if let Some(signature) = block.str("signature")?.filter(|signature| !signature.is_empty()) {
                    details.push(json!({
                        "type": "reasoning.text", "text": thinking, "signature": signature,
                        "index": details.len(),
                    }));
                }
            }
            "redacted_thinking" => {
                let data = block.required_str("data", "the redacted thinking")?;
                details.push(json!({"type": "reasoning.encrypted", "data": data, "index": details.len()}));
            }
            "tool_use" => {
                let arguments = match block.get("input") {
                    None => "{}".to_owned(),
                    // Of a call whose arguments were no JSON.
                    Some(Value::String(text)) => text.clone(),
                    Some(input) => {
                        Fields::object_at(block.path("input"), input)?;
                        input.to_string()
                    }
                };
                calls.push(json!({
                    "id": block.required_str("id", "the call's id")?,
                    "type": "function",
                    "function": {
                        "name": block.required_str("name", "the tool's name")?,
                        "arguments": arguments,
                    },
                }));
            }
            other => match server_blocks::as_text(other, block.map()) {
                Some(said) => push_text(&said, true),
                None => {
                    let why = "text, thinking, redacted_thinking and tool_use can";
                    return Err(unsupported_block(block, other, why));
                }
            },
        }
    }
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
    message.insert("content".into(), content);
    if !reasoning.is_empty() {
        message.insert("reasoning_content".into(), reasoning.into());
    }
    if !details.is_empty() {
        message.insert("reasoning_details".into(), details.into());
    }
    if !calls.is_empty() {
        message.insert("tool_calls".into(), calls.into());
    }
    messages.push(message.into());
    Ok(())
}

fn push_tools(body: &Fields, out: &mut Map<String, Value>) -> Result<(), BadField> {
    let (mut functions, mut left_out) = (Vec::new(), Vec::new());
    for (i, tool) in body.array("tools")?.unwrap_or_default().iter().enumerate() {
        let tool = Fields::object_at(format!("tools[{i}]"), tool)?;
        let (name, description, schema) = match tools::translated(&tool)? {
            tools::Translated::Function(name, description, schema) => (name, description, schema),
            tools::Translated::LeftOut => {
                left_out.push(tool.str("name")?.unwrap_or_default());
                continue;
            }
        };
        let mut function = Map::new();
        function.insert("name".into(), name.into());
        if let Some(description) = description {
            function.insert("description".into(), description.into());
        }
        function.insert("parameters".into(), schema);
        if let Some(strict) = tool.bool("strict")? {
            function.insert("strict".into(), strict.into());
        }
        functions.push(json!({"type": "function", "function": function}));
    }
    let none_is_left = functions.is_empty() && !left_out.is_empty();
    if !functions.is_empty() {
        out.insert("tools".into(), functions.into());
    }
    let Some(choice) = body.object("tool_choice")? else { return Ok(()) };
    let value = match choice.required_str("type", "auto, any, tool or none")? {
        "auto" => json!("auto"),
        "any" => json!("required"),
        "none" => json!("none"),
        "tool" => {
            let name = choice.required_str("name", "the tool's name")?;
            if left_out.contains(&name) {
                // What nobody can call cannot be asked for: the model answers as it likes.
                return Ok(());
            }
            json!({"type": "function", "function": {"name": name}})
        }
        other => {
            let reason = format!("must be auto, any, tool or none, got `{other}`");
            return Err(BadField::new(choice.path("type"), reason));
        }
    };
    if none_is_left {
        // Nobody takes a choice among no tools.
        return Ok(());
    }
    out.insert("tool_choice".into(), value);
    if choice.flag("disable_parallel_tool_use", false)? {
        out.insert("parallel_tool_calls".into(), false.into());
    }
    Ok(())
}

/// The answer's format: in `output_config`, or where it stood while it was a beta.
fn push_format(body: &Fields, out: &mut Map<String, Value>) -> Result<(), BadField> {
    let config = body.object("output_config")?;
    let format = config.map(|config| config.object("format")).transpose()?.flatten();
    let Some(format) = (match format {
        Some(format) => Some(format),
        None => body.object("output_format")?,
    }) else {
        return Ok(());
    };
    match format.required_str("type", "json_schema")? {
        "json_schema" => {
            let schema = format.required("schema", "a JSON schema")?;
            let named = json!({"name": "response", "schema": schema, "strict": true});
            out.insert("response_format".into(), json!({"type": "json_schema", "json_schema": named}));
            Ok(())
        }
        other => {
            let reason = format!("must be json_schema, got `{other}`");
            Err(BadField::new(format.path("type"), reason))
        }
    }
}
