//! A request in OpenAI's format as one for an Anthropic upstream.
//!
//! | OpenAI | Anthropic |
//! | --- | --- |
//! | system and developer messages, wherever they stand | `system`, in their order |
//! | messages with role tool | `tool_result` blocks of one user message |
//! | neighbours of the same role | one message: Anthropic's alternate |
//! | an answer before any question | a user message "(continued)" stands before it: Anthropic's begin with the user |
//! | `image_url` (data: URL, URL), `file` (PDF, text, JSON, an image as data: URL) | `image`, `document` |
//! | `tool_calls` | `tool_use`; other characters than letters, digits, - and _ in ids become _ |
//! | `reasoning_details` (signed or encrypted) | `thinking`, `redacted_thinking`; of another maker's `format` left out for Claude |
//! | `reasoning_content` alone | `thinking` for other makers' models; Claude refuses it unsigned: left out |
//! | `tools`, `tool_choice`, `parallel_tool_calls: false` | `tools`, `tool_choice` with `disable_parallel_tool_use` |
//! | `tool_choice` with `allowed_tools` | these `tools` alone; auto or any |
//! | custom tools, their calls | tools with one string, `input`: custom_tools.rs |
//! | `stop`, `user` or `safety_identifier` | `stop_sequences`, `metadata.user_id` |
//! | `max_completion_tokens` or `max_tokens` | `max_tokens`, which Anthropic requires: else the default |
//! | `response_format` with `json_schema` | `output_config.format`, objects closed; for models that do not hold a schema, or a schema that they do not hold, words at the end of `system` |
//! | `response_format` with `json_object` | words at the end of `system`: Anthropic holds no JSON without a schema |
//! | `reasoning_effort`, `thinking`, `reasoning`, `enable_thinking`, `chat_template_kwargs` | see thinking.rs |
//! | `temperature` (at most 1: Anthropic's range), `top_p`, `top_k`, `stream`, `model` | the same |
//! | `cache_control` on parts, messages' tools and the body (a common extension) | kept |
//!
//! Lost: an image's `detail`, names of participants, blank text (which Anthropic refuses), `seed`
//! (a best effort at OpenAI too), `store`, `verbosity`, and every field not named here. Refused with
//! the field's name: what would change the answer and has no place, such as `n` over 1, logprobs,
//! penalties, audio.

use super::super::custom_tools;
use super::super::openai::fit::CLAUDE_FORMAT;
use super::models::claude;
use super::thinking::{self, Around};
use super::{fit, format};
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};

/// What a user is made to say where a conversation begins with an answer.
const BEFORE_AN_ANSWER: &str = "(continued)";

/// Translates a request for a model by the upstream's name, from which is known which thinking it
/// takes. `default_max_tokens` counts where the request has no bound. An error names the field of the
/// caller's body.
pub fn to_anthropic(openai_body: &Value, model: &str, default_max_tokens: u64) -> Result<Value, BadField> {
    let body = Fields::root(openai_body)?;
    refuse(&body)?;
    let mut out = Map::new();
    out.insert("model".into(), model.into());
    let mut chat = Chat { claude: claude(model).is_some(), ..Chat::default() };
    for (i, message) in body.array("messages")?.unwrap_or_default().iter().enumerate() {
        chat.push(&Fields::object_at(format!("messages[{i}]"), message)?)?;
    }
    if chat.messages.is_empty() {
        return Err(BadField::missing("messages", "a list with at least one user message that is not blank"));
    }
    let max_tokens = match body.integer("max_completion_tokens", 1, i64::MAX)? {
        Some(tokens) => Some(tokens as u64),
        None => body.integer("max_tokens", 1, i64::MAX)?.map(|tokens| tokens as u64),
    };
    push_tools(&body, &mut out)?;
    let forced_tool = out.get("tool_choice").is_some_and(|it| it["type"] == "any" || it["type"] == "tool");
    let calls_unthought = fit::calls_unthought(&chat.messages);
    let around = Around { model, max_tokens, default_max_tokens, calls_unthought, forced_tool };
    let thinking = thinking::translate(&body, &around)?;
    let mut config = thinking.output_config;
    if let Some(words) = format::push(&body, claude(model), &mut config)? {
        chat.system.push(json!({"type": "text", "text": words}));
    }
    out.insert("max_tokens".into(), thinking.max_tokens.into());
    match chat.system.as_slice() {
        [] => {}
        [only] if only.get("cache_control").is_none() => {
            out.insert("system".into(), only["text"].clone());
        }
        _ => {
            out.insert("system".into(), chat.system.into());
        }
    }
    out.insert("messages".into(), chat.messages.into());
    if let Some(temperature) = body.f32("temperature")? {
        if !(0.0..=1.0).contains(&temperature) {
            let reason = format!("must be between 0 and 1 for an Anthropic model, got {temperature}");
            return Err(BadField::new("temperature", reason));
        }
        out.insert("temperature".into(), body.map()["temperature"].clone());
    }
    for name in ["top_p", "top_k"] {
        if body.f32(name)?.is_some() {
            out.insert(name.into(), body.map()[name].clone());
        }
    }
    push_stop(&body, &mut out)?;
    if let Some(stream) = body.bool("stream")? {
        out.insert("stream".into(), stream.into());
    }
    if let Some(user) = body.str("user")?.or(body.str("safety_identifier")?) {
        out.insert("metadata".into(), json!({"user_id": user}));
    }
    if let Some(thinking) = thinking.thinking {
        out.insert("thinking".into(), thinking);
    }
    if !config.is_empty() {
        out.insert("output_config".into(), config.into());
    }
    if let Some(cache) = body.get("cache_control") {
        out.insert("cache_control".into(), cache.clone());
    }
    Ok(Value::Object(out))
}

/// What would change the answer and has no place.
fn refuse(body: &Fields) -> Result<(), BadField> {
    if body.integer("n", 1, i64::MAX)?.is_some_and(|n| n > 1) {
        return Err(BadField::unsupported("n", "must be 1 for an Anthropic model"));
    }
    let no = "is not possible with an Anthropic model";
    for name in ["logprobs", "top_logprobs", "frequency_penalty", "presence_penalty"] {
        // Off is what every model does.
        let off = body.get(name).is_none_or(|value| *value == false || value.as_f64() == Some(0.0));
        if !off {
            return Err(BadField::unsupported(name, no));
        }
    }
    if body.object("logit_bias")?.is_some_and(|bias| !bias.map().is_empty()) {
        return Err(BadField::unsupported("logit_bias", no));
    }
    if body.array("modalities")?.unwrap_or_default().iter().any(|modality| modality != "text") {
        return Err(BadField::unsupported("modalities", "may only hold \"text\" for an Anthropic model"));
    }
    for name in ["audio", "web_search_options"] {
        body.refuse(name, no)?;
    }
    body.refuse("functions", "is not translated; use `tools`")?;
    body.refuse("function_call", "is not translated; use `tool_choice`")
}

/// The messages so far.
#[derive(Default)]
struct Chat {
    claude: bool,
    system: Vec<Value>,
    messages: Vec<Value>,
}

impl Chat {
    fn push(&mut self, message: &Fields) -> Result<(), BadField> {
        match message.required_str("role", "system, developer, user, assistant or tool")? {
            "system" | "developer" => {
                let parts = parts_of(message)?;
                for part in &parts {
                    let block = part.block()?;
                    if block["type"] != "text" {
                        return Err(BadField::unsupported(
                            part.path(),
                            "only text may stand in a system message",
                        ));
                    }
                    self.system.extend(unless_blank(block));
                }
                Ok(())
            }
            "user" => {
                let mut blocks = Vec::new();
                for part in &parts_of(message)? {
                    blocks.extend(unless_blank(part.block()?));
                }
                self.add("user", blocks);
                Ok(())
            }
            "tool" => {
                let id = message.required_str("tool_call_id", "the id of the call that it answers")?;
                let mut content = Vec::new();
                for part in &parts_of(message)? {
                    content.extend(unless_blank(part.block()?));
                }
                let mut block = json!({"type": "tool_result", "tool_use_id": tool_id(id)});
                match content.as_slice() {
                    [] => {}
                    [only] if only["type"] == "text" && only.get("cache_control").is_none() => {
                        block["content"] = only["text"].clone();
                    }
                    _ => block["content"] = content.into(),
                }
                self.add("user", vec![block]);
                Ok(())
            }
            "assistant" => {
                let blocks = assistant_blocks(message, self.claude)?;
                self.add("assistant", blocks);
                Ok(())
            }
            other => Err(BadField::new(
                message.path("role"),
                format!("must be system, developer, user, assistant or tool, got `{other}`"),
            )),
        }
    }

    /// Adds blocks to the last message where the role is the same.
    fn add(&mut self, role: &str, mut blocks: Vec<Value>) {
        if blocks.is_empty() {
            return;
        }
        if let Some(last) = self.messages.last_mut().filter(|last| last["role"] == role) {
            if let Some(content) = last["content"].as_array_mut() {
                content.append(&mut blocks);
            }
            return;
        }
        if self.messages.is_empty() && role != "user" {
            // Anthropic's conversations begin with the user; what was asked is not there any more.
            let before = json!([{"type": "text", "text": BEFORE_AN_ANSWER}]);
            self.messages.push(json!({"role": "user", "content": before}));
        }
        self.messages.push(json!({"role": role, "content": blocks}));
    }
}

/// Anthropic refuses blank text.
fn unless_blank(block: Value) -> Option<Value> {
    let blank = block["type"] == "text" && block["text"].as_str().is_some_and(|text| text.trim().is_empty());
    (!blank).then_some(block)
}

/// Anthropic's ids are of letters, digits, - and _; Kimi's, for one, have dots and colons.
fn tool_id(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

/// A part of a message's content.
enum Part<'a> {
    /// The content is a string at this path.
    Text(String, &'a str),
    Part(Fields<'a>),
}

fn parts_of<'a>(message: &Fields<'a>) -> Result<Vec<Part<'a>>, BadField> {
    let path = message.path("content");
    match message.get("content") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![Part::Text(path, text)]),
        Some(Value::Array(parts)) => {
            let part = |(i, part)| Fields::object_at(format!("{path}[{i}]"), part).map(Part::Part);
            parts.iter().enumerate().map(part).collect()
        }
        Some(_) => Err(BadField::new(path, "must be a string or a list of parts")),
    }
}

impl Part<'_> {
    fn path(&self) -> String {
        match self {
            Part::Text(path, _) => path.clone(),
            Part::Part(fields) => fields.path("type"),
        }
    }

    fn block(&self) -> Result<Value, BadField> {
        let part = match self {
            Part::Text(_, text) => return Ok(json!({"type": "text", "text": text})),
            Part::Part(part) => part,
        };
        let mut block = match part.required_str("type", "the part's type")? {
            "text" => json!({"type": "text", "text": part.required_str("text", "the part's text")?}),
            "refusal" => json!({"type": "text", "text": part.required_str("refusal", "the refusal's text")?}),
            "image_url" => {
                let image = part.object("image_url")?;
                let image =
                    image.ok_or_else(|| BadField::missing(part.path("image_url"), "an object with `url`"))?;
                let url = image.required_str("url", "the image's address or data: URL")?;
                json!({"type": "image", "source": image_source(&image.path("url"), url)?})
            }
            "file" => document(part)?,
            other => {
                return Err(BadField::unsupported(
                    part.path("type"),
                    format!("`{other}` cannot be sent to an Anthropic model; text, image_url and file can"),
                ));
            }
        };
        if let Some(cache) = part.get("cache_control") {
            block["cache_control"] = cache.clone();
        }
        Ok(block)
    }
}

/// Type and base64 of a data: URL.
fn data_url(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let media = head.strip_suffix(";base64")?;
    Some((media.split(';').next().unwrap_or(media), data))
}

fn image_source(path: &str, url: &str) -> Result<Value, BadField> {
    const TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
    if url.starts_with("https://") || url.starts_with("http://") {
        return Ok(json!({"type": "url", "url": url}));
    }
    match data_url(url) {
        // A common misspelling.
        Some(("image/jpg", data)) => Ok(json!({"type": "base64", "media_type": "image/jpeg", "data": data})),
        Some((media, data)) if TYPES.contains(&media) => {
            Ok(json!({"type": "base64", "media_type": media, "data": data}))
        }
        _ => Err(BadField::new(
            path,
            format!("must be an http(s) address or data:TYPE;base64,... with one of {}", TYPES.join(", ")),
        )),
    }
}

fn document(part: &Fields) -> Result<Value, BadField> {
    let file = part.object("file")?;
    let file = file.ok_or_else(|| BadField::missing(part.path("file"), "an object with `file_data`"))?;
    file.refuse("file_id", "is a file kept by OpenAI; send it as `file_data`")?;
    let url = file.required_str("file_data", "the file as a data: URL")?;
    let wrong = || {
        let kinds =
            "data:TYPE;base64,... of a PDF, an image, or a text in UTF-8 (text/..., application/json)";
        BadField::new(file.path("file_data"), format!("must be {kinds}"))
    };
    let source = match data_url(url).ok_or_else(wrong)? {
        (media @ "application/pdf", data) => json!({"type": "base64", "media_type": media, "data": data}),
        (media, _) if media.starts_with("image/") => {
            return Ok(json!({"type": "image", "source": image_source(&file.path("file_data"), url)?}));
        }
        (media, data) if format::is_text(media) => {
            let text = format::text_of_base64(data).ok_or_else(wrong)?;
            json!({"type": "text", "media_type": "text/plain", "data": text})
        }
        _ => return Err(wrong()),
    };
    let mut block = json!({"type": "document", "source": source});
    if let Some(name) = file.str("filename")? {
        block["title"] = name.into();
    }
    Ok(block)
}

fn assistant_blocks(message: &Fields, claude: bool) -> Result<Vec<Value>, BadField> {
    let mut blocks = Vec::new();
    for (i, detail) in message.array("reasoning_details")?.unwrap_or_default().iter().enumerate() {
        let detail = Fields::object_at(format!("{}[{i}]", message.path("reasoning_details")), detail)?;
        if claude && detail.str("format")?.is_some_and(|format| format != CLAUDE_FORMAT) {
            // Of another maker's model: Claude refuses what it did not sign.
        } else if let Some(signature) = detail.str("signature")?.filter(|signature| !signature.is_empty()) {
            let thinking = detail.str("text")?.unwrap_or_default();
            blocks.push(json!({"type": "thinking", "thinking": thinking, "signature": signature}));
        } else if let Some(data) = detail.str("data")? {
            blocks.push(json!({"type": "redacted_thinking", "data": data}));
        }
    }
    let reasoning = message.str("reasoning_content")?.or(message.str("reasoning")?);
    if let Some(reasoning) = reasoning.filter(|text| !text.is_empty() && blocks.is_empty() && !claude) {
        blocks.push(json!({"type": "thinking", "thinking": reasoning, "signature": ""}));
    }
    for part in &parts_of(message)? {
        blocks.extend(unless_blank(part.block()?));
    }
    if let Some(refusal) = message.str("refusal")? {
        blocks.extend(unless_blank(json!({"type": "text", "text": refusal})));
    }
    message.refuse("function_call", "is not translated; use `tool_calls`")?;
    for (i, call) in message.array("tool_calls")?.unwrap_or_default().iter().enumerate() {
        let call = Fields::object_at(format!("{}[{i}]", message.path("tool_calls")), call)?;
        if let Some(custom) = call.object("custom")? {
            blocks.push(json!({
                "type": "tool_use",
                "id": tool_id(call.required_str("id", "the call's id")?),
                "name": custom.required_str("name", "the tool's name")?,
                "input": custom_tools::arguments(custom.str("input")?.unwrap_or_default()),
            }));
            continue;
        }
        let function = call.object("function")?;
        let function = function
            .ok_or_else(|| BadField::missing(call.path("function"), "the call's name and arguments"))?;
        let arguments = match function.get("arguments") {
            Some(object @ Value::Object(_)) => object.to_string(),
            _ => function.str("arguments")?.unwrap_or_default().to_owned(),
        };
        let input: Value = match arguments.trim() {
            "" | "null" => json!({}),
            // Anthropic takes objects alone: what the model wrote is one's text.
            text => serde_json::from_str(text)
                .ok()
                .filter(Value::is_object)
                .unwrap_or_else(|| json!({ "arguments": text })),
        };
        blocks.push(json!({
            "type": "tool_use",
            "id": tool_id(call.required_str("id", "the call's id")?),
            "name": function.required_str("name", "the tool's name")?,
            "input": input,
        }));
    }
    Ok(blocks)
}

fn push_stop(body: &Fields, out: &mut Map<String, Value>) -> Result<(), BadField> {
    let list = match body.get("stop") {
        None => return Ok(()),
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(Value::Array(list)) => list.as_slice(),
        Some(_) => return Err(BadField::new("stop", "must be a string or a list of strings")),
    };
    for stop in list {
        if stop.as_str().is_none_or(|stop| stop.trim().is_empty()) {
            let reason = "must hold strings with more than white space for an Anthropic model";
            return Err(BadField::new("stop", reason));
        }
    }
    if !list.is_empty() {
        out.insert("stop_sequences".into(), list.into());
    }
    Ok(())
}

fn push_tools(body: &Fields, out: &mut Map<String, Value>) -> Result<(), BadField> {
    let mut tools = Vec::new();
    for (i, tool) in body.array("tools")?.unwrap_or_default().iter().enumerate() {
        let tool = Fields::object_at(format!("tools[{i}]"), tool)?;
        tools.push(translated_tool(&tool)?);
    }
    let mut choice = match body.get("tool_choice") {
        None => None,
        Some(Value::String(word)) => Some(choice_of_word(word, "tool_choice")?),
        Some(value) => Some(choice_among(&Fields::object_at("tool_choice".into(), value)?, &mut tools)?),
    };
    if tools.is_empty() {
        // Anthropic takes no choice among no tools.
        return match choice.filter(|choice| choice["type"] != "auto" && choice["type"] != "none") {
            Some(_) => Err(BadField::new("tool_choice", "needs `tools`")),
            None => Ok(()),
        };
    }
    if !body.flag("parallel_tool_calls", true)? {
        let choice = choice.get_or_insert_with(|| json!({"type": "auto"}));
        if choice["type"] != "none" {
            choice["disable_parallel_tool_use"] = true.into();
        }
    }
    out.insert("tools".into(), tools.into());
    if let Some(choice) = choice {
        out.insert("tool_choice".into(), choice);
    }
    Ok(())
}

fn translated_tool(tool: &Fields) -> Result<Value, BadField> {
    let kind = tool.str("type")?.unwrap_or("function");
    let (inner, is_custom) = match kind {
        "function" => (tool.object("function")?, false),
        "custom" => (tool.object("custom")?, true),
        _ => (None, false),
    };
    let inner = inner.ok_or_else(|| {
        let reason = format!("must be \"function\" or \"custom\", with its object beside it, got `{kind}`");
        BadField::unsupported(tool.path("type"), reason)
    })?;
    let mut translated = Map::new();
    translated.insert("name".into(), inner.required_str("name", "the tool's name")?.into());
    let description = match is_custom {
        true => custom_tools::description(inner.str("description")?, inner.get("format")),
        false => inner.str("description")?.map(str::to_owned),
    };
    if let Some(description) = description {
        translated.insert("description".into(), description.into());
    }
    let schema = match is_custom {
        true => custom_tools::parameters(),
        false => {
            let mut schema =
                inner.object("parameters")?.map(|schema| schema.map().clone()).unwrap_or_default();
            // A tool without parameters may leave its schema out; Anthropic's is always an object's.
            schema.entry("type").or_insert_with(|| "object".into());
            schema.into()
        }
    };
    translated.insert("input_schema".into(), schema);
    if let Some(strict) = inner.bool("strict")? {
        translated.insert("strict".into(), strict.into());
    }
    if let Some(cache) = tool.get("cache_control").or(inner.get("cache_control")) {
        translated.insert("cache_control".into(), cache.clone());
    }
    Ok(translated.into())
}

fn choice_of_word(word: &str, path: &str) -> Result<Value, BadField> {
    match word {
        "auto" => Ok(json!({"type": "auto"})),
        "required" => Ok(json!({"type": "any"})),
        "none" => Ok(json!({"type": "none"})),
        other => {
            let reason = format!("must be auto, required, none or a tool, got `{other}`");
            Err(BadField::new(path, reason))
        }
    }
}

/// The choice of one tool, or of some, which are then the only ones.
fn choice_among(choice: &Fields, tools: &mut Vec<Value>) -> Result<Value, BadField> {
    let kind = choice.str("type")?.unwrap_or_default();
    let named = |choice: &Fields| -> Result<Option<String>, BadField> {
        for kind in ["function", "custom"] {
            if let Some(tool) = choice.object(kind)? {
                return tool.required_str("name", "the tool's name").map(|name| Some(name.to_owned()));
            }
        }
        Ok(None)
    };
    match kind {
        "function" | "custom" => {
            if let Some(name) = named(choice)? {
                return Ok(json!({"type": "tool", "name": name}));
            }
        }
        "allowed_tools" => {
            // Some clients leave the object around them out.
            let inner = choice.object("allowed_tools")?;
            let inner = inner.as_ref().unwrap_or(choice);
            let mut allowed = Vec::new();
            for (i, tool) in inner.array("tools")?.unwrap_or_default().iter().enumerate() {
                let tool = Fields::object_at(format!("{}[{i}]", inner.path("tools")), tool)?;
                let name = match named(&tool)? {
                    Some(name) => name,
                    None => tool.required_str("name", "the tool's name")?.to_owned(),
                };
                allowed.push(name);
            }
            tools.retain(|tool| allowed.iter().any(|name| tool["name"] == name.as_str()));
            return choice_of_word(inner.str("mode")?.unwrap_or("auto"), &inner.path("mode"));
        }
        _ => {}
    }
    let reason =
        format!("must be function, custom or allowed_tools, with its object beside it, got `{kind}`");
    Err(BadField::unsupported("tool_choice.type", reason))
}
