//! A Responses request as a chat completion's body.
//!
//! | Responses | chat completion |
//! | --- | --- |
//! | `instructions` | a system message, the first |
//! | `input` | `messages`: items.rs |
//! | `previous_response_id` | the conversation up to that response, before `input` |
//! | `tools`, `tool_choice` | the same: tools.rs |
//! | `max_output_tokens` | `max_completion_tokens` |
//! | `reasoning.effort` | `reasoning_effort` |
//! | `text.format` | `response_format` |
//! | `include` with `message.output_text.logprobs`, `top_logprobs` | `logprobs`, `top_logprobs` |
//! | [`SAME`] | the same |
//!
//! Done by the codec itself: `reasoning.summary` (with it reasoning comes as a summary), `store`, `include` with
//! `reasoning.encrypted_content`. Of no effect: `text.verbosity`, a hint that only OpenAI's models know and clients
//! send by the model's name, `max_tool_calls`, which bounds tools of OpenAI's servers, other words of `include`,
//! which show what those tools found, and fields that are not known. Refused: what would
//! change the answer and cannot be done.

use super::super::openai::field_type::FieldType::{self, *};
use super::super::openai::field_type::UNBOUNDED;
use super::super::openai::known_fields;
use super::items;
use super::object::echo;
use super::store::Item;
use super::tools::Tools;
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Fields that a chat completion has too. Not all are OpenAI's: some are known to our own models and to servers
/// like them.
pub const SAME: [&str; 22] = [
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "ignore_eos",
    "enable_thinking",
    "chat_template_kwargs",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "cache_salt",
];

/// Its own fields, by their types; those that are not here are of no effect or refused.
const OWN: [(&str, FieldType, &str); 13] = [
    ("include", Texts, "reasoning.encrypted_content, message.output_text.logprobs"),
    ("input", Shape("ResponseInput"), "needed without `previous_response_id`"),
    ("instructions", Text, "a system message before the rest"),
    ("max_output_tokens", Integer(1, UNBOUNDED), ""),
    ("parallel_tool_calls", Bool, ""),
    ("previous_response_id", Text, "a stored response, from which the conversation goes on"),
    ("reasoning", Shape("ResponseReasoning"), ""),
    ("store", Bool, "keep the response; true by default"),
    ("text", Shape("ResponseText"), ""),
    ("tool_choice", Shape("ResponseToolChoice"), ""),
    ("tools", Shapes("ResponseTool"), ""),
    ("top_logprobs", Integer(0, 20), ""),
    ("truncation", OneOf(&["disabled"]), ""),
];

/// The schema of a request.
pub fn schema() -> Value {
    let mut schema = json!({"type": "object", "required": ["model"], "properties": {}});
    let chat = known_fields::schema(known_fields::CHAT);
    for name in SAME {
        if let Some(same) = chat["properties"].get(name) {
            schema["properties"][name] = same.clone();
        }
    }
    for (name, of, what) in OWN {
        schema["properties"][name] = of.schema();
        if !what.is_empty() {
            schema["properties"][name]["description"] = what.into();
        }
    }
    schema
}

/// Earlier conversations of one caller's.
pub trait Earlier {
    /// All items up to a response and its own; None where it is not kept.
    fn conversation(&self, response_id: &str) -> Option<Vec<Arc<Item>>>;
    /// One item.
    fn item(&self, item_id: &str) -> Option<Arc<Item>>;
}

/// Nothing is kept.
#[derive(Clone, Copy, Debug)]
pub struct NothingKept;

impl Earlier for NothingKept {
    fn conversation(&self, _: &str) -> Option<Vec<Arc<Item>>> {
        None
    }

    fn item(&self, _: &str) -> Option<Arc<Item>> {
        None
    }
}

/// What was asked, as far as it is the answer's business.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The caller's tools.
    pub tools: Tools,
    /// Fields that the response object repeats.
    pub echo: Map<String, Value>,
    /// Whether reasoning comes as a summary.
    pub summary: bool,
    /// Whether reasoning comes with `encrypted_content` even if nobody signed it.
    pub encrypted: bool,
    /// Whether text comes with log-probabilities.
    pub logprobs: bool,
    /// Whether the response is to be kept.
    pub store: bool,
}

/// A request that was read.
#[derive(Debug)]
pub struct Request {
    /// The chat completion's body.
    pub chat: Value,
    /// For the encoder.
    pub asked: Asked,
    /// The whole conversation, for the store: what was kept, and what this request adds.
    pub conversation: Vec<Arc<Item>>,
    /// How many of them came with this request.
    pub added: usize,
}

/// Reads a request. An error names the field of the caller's body.
pub fn read(body: &Value, earlier: &dyn Earlier) -> Result<Request, BadField> {
    let body = Fields::root(body)?;
    refuse(&body)?;
    let mut out = Map::new();
    for name in SAME {
        if let Some(value) = body.get(name) {
            out.insert(name.to_owned(), value.clone());
        }
    }
    let store = body.flag("store", true)?;
    let conversation = conversation(&body, earlier)?;
    let added = input_items(&body, earlier)?;

    let mut messages = items::Reader::default();
    if let Some(tools) = body.array("tools")? {
        messages.tools.list("tools", tools)?;
    }
    if let Some(text) = body.str("instructions")? {
        messages.instructions(text);
    }
    for item in &conversation {
        messages.item(&Fields::object_at("previous_response_id".into(), item.value())?)?;
    }
    for (i, item) in added.iter().enumerate() {
        let path = if body.get("input").is_some_and(Value::is_string) {
            "input".into()
        } else {
            format!("input[{i}]")
        };
        messages.item(&Fields::object_at(path, item.value())?)?;
    }
    let (messages, tools) = messages.finish()?;
    if messages.is_empty() {
        return Err(BadField::new("input", "must have at least one message"));
    }
    out.insert("messages".into(), messages.into());
    let (tools, tools_echo) = tools.finish(&body, &mut out)?;
    if let Some(tokens) = body.integer("max_output_tokens", 1, i64::MAX)? {
        out.insert("max_completion_tokens".into(), tokens.into());
    }
    let include = include(&body)?;
    let top = body.integer("top_logprobs", 0, 20)?;
    let logprobs = include.contains(&"message.output_text.logprobs");
    if logprobs {
        out.insert("logprobs".into(), true.into());
        out.insert("top_logprobs".into(), top.unwrap_or(0).into());
    }
    push_text(&body, &mut out)?;
    let mut summary = false;
    if let Some(reasoning) = body.object("reasoning")? {
        if let Some(effort) = reasoning.str("effort")? {
            out.insert("reasoning_effort".into(), effort.into());
        }
        let word = reasoning.str("summary")?.or(reasoning.str("generate_summary")?);
        summary = word.is_some_and(|word| word != "none");
    }
    if body.flag("stream", false)? {
        out.insert("stream_options".into(), json!({"include_usage": true}));
    }
    let asked = Asked {
        tools,
        echo: echo(body.map(), tools_echo, store),
        summary,
        encrypted: !store || include.contains(&"reasoning.encrypted_content"),
        logprobs,
        store,
    };
    let mut conversation = conversation;
    let added_len = added.len();
    conversation.extend(added);
    Ok(Request { chat: Value::Object(out), asked, conversation, added: added_len })
}

/// What would change the answer and cannot be done.
fn refuse(body: &Fields) -> Result<(), BadField> {
    const KEPT: &str = "is kept by OpenAI's servers; send the conversation itself, or `previous_response_id`";
    body.refuse("conversation", KEPT)?;
    body.refuse("prompt", "is a prompt that OpenAI's servers keep; send its text")?;
    body.object("metadata")?;
    body.refuse("context_management", "is not done here: nothing is compacted, leave it out")?;
    if body.flag("background", false)? {
        return Err(BadField::unsupported(
            "background",
            "is not supported: an answer is made while its caller waits",
        ));
    }
    match body.str("truncation")? {
        None | Some("disabled") => Ok(()),
        Some("auto") => {
            let reason = "must be disabled, got `auto`: no part of a conversation is dropped here; one that is too \
                          long is an error";
            Err(BadField::unsupported("truncation", reason))
        }
        Some(other) => Err(BadField::new("truncation", format!("must be auto or disabled, got `{other}`"))),
    }
}

/// The conversation that a request goes on from.
fn conversation(body: &Fields, earlier: &dyn Earlier) -> Result<Vec<Arc<Item>>, BadField> {
    let Some(id) = body.str("previous_response_id")? else { return Ok(Vec::new()) };
    earlier.conversation(id).ok_or_else(|| BadField {
        code: Some("previous_response_not_found"),
        ..BadField::new(
            "previous_response_id",
            format!(
                "names no response that is kept: `{id}` was made with `store: false`, for another key, or so long ago \
                 that it was dropped; send the conversation itself"
            ),
        )
    })
}

/// The items that a request adds, references resolved.
fn input_items(body: &Fields, earlier: &dyn Earlier) -> Result<Vec<Arc<Item>>, BadField> {
    const WHAT: &str = "a string or a list of items";
    let list = match body.get("input") {
        None if body.get("previous_response_id").is_some() => return Ok(Vec::new()),
        None => return Err(BadField::missing("input", WHAT)),
        Some(Value::String(text)) => {
            let part = json!({"type": "input_text", "text": text});
            let message = json!({"type": "message", "role": "user", "content": [part]});
            return Ok(vec![Arc::new(Item::new(message))]);
        }
        Some(Value::Array(list)) => list,
        Some(other) => return Err(BadField::wrong_type("input".into(), WHAT, other)),
    };
    let item = |(i, item): (usize, &Value)| {
        let fields = Fields::object_at(format!("input[{i}]"), item)?;
        let referred = match fields.str("type")? {
            Some("item_reference") => true,
            None => fields.get("role").is_none() && fields.get("id").is_some(),
            Some(_) => false,
        };
        if !referred {
            return Ok(Arc::new(Item::new(item.clone())));
        }
        let id = fields.required_str("id", "the item's id")?;
        earlier.item(id).ok_or_else(|| {
            let reason = format!("names no item that is kept, got `{id}`; send the item itself");
            BadField::new(fields.path("id"), reason)
        })
    };
    list.iter().enumerate().map(item).collect()
}

fn include<'a>(body: &Fields<'a>) -> Result<Vec<&'a str>, BadField> {
    let words = body.array("include")?.unwrap_or_default().iter().enumerate();
    let word = |(i, word): (usize, &'a Value)| {
        word.as_str().ok_or_else(|| BadField::wrong_type(format!("include[{i}]"), "a string", word))
    };
    words.map(word).collect()
}

fn push_text(body: &Fields, out: &mut Map<String, Value>) -> Result<(), BadField> {
    let Some(text) = body.object("text")? else { return Ok(()) };
    text.str("verbosity")?;
    let Some(format) = text.object("format")? else { return Ok(()) };
    let value = match format.required_str("type", "text, json_object or json_schema")? {
        "text" => return Ok(()),
        "json_object" => json!({"type": "json_object"}),
        "json_schema" => {
            format.required("schema", "a JSON schema")?;
            let fields = format.map().iter().filter(|(name, value)| *name != "type" && !value.is_null());
            let fields: Map<String, Value> =
                fields.map(|(name, value)| (name.clone(), value.clone())).collect();
            json!({"type": "json_schema", "json_schema": fields})
        }
        other => {
            let reason = format!("must be text, json_object or json_schema, got `{other}`");
            return Err(BadField::unsupported(format.path("type"), reason));
        }
    };
    out.insert("response_format".into(), value);
    Ok(())
}
