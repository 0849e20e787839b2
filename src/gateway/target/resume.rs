//! Going on with a stream that broke off after its caller had a part of it. By what the upstream's
//! provider declares ([`Continues`]): another NovaStack goes on by token ids, with the seed of the
//! request, so that the caller gets what he would have got; others are sent the text so far as the
//! beginning of the assistant's answer, which they continue.
//!
//! Only the same model goes on: the target that broke off, or another one of the request's plan that has
//! the same name for its model. By text, only an answer that is nothing but text so far, of one choice:
//! reasoning and half a tool call cannot be handed on.
//!
//! [`ResumeState`] is what the caller has; [`ResumeState::ask`] writes it into a request; [`ResumeState::splice`] makes
//! one stream of two: the second's beginning is left out, its counts and its ids are the first's.

use crate::config::Continues;
use crate::gateway::chat::{ChatEvent, Dialect, TokenUsage};
use serde_json::{Value, json};

/// How often an answer may break off.
const TIMES_MAX: u32 = 3;
/// Of text that is kept to go on with.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Of an answer's id, and of a model's name.
const NAME_BYTES_MAX: usize = 1024;
/// Of token ids that are.
const TOKENS_MAX: u64 = 1 << 20;

/// What a caller has of an answer that may break off.
#[derive(Clone, Debug)]
pub struct ResumeState {
    manner: Continues,
    /// The text so far; None when it is not all that there is.
    text: Option<String>,
    /// Per choice its token ids; None when it has ended.
    ids: Vec<Option<Vec<u32>>>,
    /// Output tokens so far: counted, or taken to be one a piece of text.
    tokens: u64,
    /// Of them, those from before it broke off last.
    before: u64,
    /// Text came without its token ids: who sent it does not name them.
    unnamed: bool,
    /// The upstream's name of the model.
    model: Option<String>,
    /// It has an answer's id, and when it was made (OpenAI).
    head: Option<(Value, Value)>,
    /// The content block that is open (Anthropic).
    block: u64,
    /// The one that was when it broke off: the rest's first one goes on with it.
    first_block: u64,
    /// So often it broke off.
    times: u32,
    /// White space at the end of the text that was not handed on, and may come again, at once.
    owed: String,
}

impl ResumeState {
    /// Nothing yet, of so many choices; but what the request itself goes on with.
    pub fn new(manner: Continues, choices: usize, body: &Value) -> Self {
        let by_tokens = manner == Continues::Tokens;
        let ids = |choice: &Value| {
            let ids = choice.as_array()?.iter();
            Some(ids.filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect())
        };
        let resumed = body.get("resume_token_ids").and_then(Value::as_array);
        Self {
            manner,
            text: (choices == 1 && !by_tokens).then(String::new),
            ids: match resumed {
                Some(choices) => choices.iter().map(ids).collect(),
                None => vec![Some(Vec::new()); choices],
            },
            unnamed: false,
            model: None,
            tokens: 0,
            before: 0,
            head: None,
            block: 0,
            first_block: 0,
            times: 0,
            owed: String::new(),
        }
    }

    /// Whether it goes by token ids.
    pub fn by_tokens(&self) -> bool {
        self.manner == Continues::Tokens
    }

    /// Whether a frame's JSON has to be read for it.
    pub fn reads_frames(&self, data: &str) -> bool {
        self.by_tokens()
            || self.times > 0
            || (self.head.is_none() && data.contains("\"created\""))
            || data.contains("content_block_")
    }

    /// Whether a stream that begins so is the same model's.
    pub fn is_same(&self, events: &[ChatEvent]) -> bool {
        events.iter().all(|event| match (event, &self.model) {
            (ChatEvent::Start { model: Some(model), .. }, Some(first)) => model == first,
            _ => true,
        })
    }

    /// Takes note of a frame after it was spliced, and of what it said before. `data` is its JSON, where
    /// it was read.
    pub fn note(&mut self, data: Option<&Value>, events: &[ChatEvent]) {
        if let Some(data) = data {
            if self.head.is_none()
                && let (Some(id), Some(created)) = (data.get("id"), data.get("created"))
                && [id, created].into_iter().all(is_small)
            {
                self.head = Some((id.clone(), created.clone()));
            }
            match data["type"].as_str() {
                Some("content_block_start") => self.block = data["index"].as_u64().unwrap_or(0),
                // A block that has ended does not go on.
                Some("content_block_stop") => self.text = None,
                _ => {}
            }
            for choice in data["choices"].as_array().into_iter().flatten() {
                let index = choice["index"].as_u64().unwrap_or(0) as usize;
                let Some(Some(ids)) = self.ids.get_mut(index) else { continue };
                let said = choice["delta"]["content"].as_str().is_some_and(|text| !text.is_empty());
                self.unnamed |= said && !choice["token_ids"].is_array();
                let new = choice["token_ids"].as_array().into_iter().flatten();
                let known = ids.len();
                ids.extend(new.filter_map(|id| u32::try_from(id.as_u64()?).ok()));
                self.tokens += (ids.len() - known) as u64;
                if self.tokens > TOKENS_MAX {
                    (self.ids, self.unnamed) = (Vec::new(), true);
                    break;
                }
                if !choice["finish_reason"].is_null() {
                    self.ids[index] = None;
                }
            }
        }
        for event in events {
            match event {
                ChatEvent::Start { model, .. } => {
                    let model = model.as_ref().filter(|model| model.len() <= NAME_BYTES_MAX);
                    self.model = self.model.take().or(model.cloned());
                }
                ChatEvent::Usage(_) | ChatEvent::Tokens { .. } => {}
                ChatEvent::Text { choice: 0, text } if !self.by_tokens() => {
                    self.tokens += 1;
                    let new = self.owe(text);
                    let length = self.text.as_ref().map_or(0, String::len) + new.len();
                    if let Some(all) = self.text.as_mut().filter(|_| length <= TEXT_BYTES_MAX) {
                        all.push_str(new);
                    } else {
                        self.text = None;
                    }
                    self.owed = match new {
                        "" => self.owed.split_off(text.len()),
                        _ => String::new(),
                    };
                }
                _ => self.text = None,
            }
        }
    }

    /// It broke off: whether it may go on.
    pub fn broke(&mut self) -> bool {
        self.times += 1;
        self.before = self.tokens;
        self.first_block = self.block;
        let something = match self.by_tokens() {
            true => !self.unnamed && self.ids.iter().any(Option::is_some),
            false => self.text.as_ref().is_some_and(|text| !text.trim().is_empty()),
        };
        if let Some(text) = self.text.as_ref().filter(|_| !self.by_tokens()) {
            self.owed = text[text.trim_end().len()..].to_owned();
        }
        something && self.times <= TIMES_MAX
    }

    /// Makes a body ask for the rest.
    pub fn ask(&self, body: &mut Value, dialect: Dialect) {
        if self.by_tokens() {
            body["resume_token_ids"] = json!(self.ids);
            return;
        }
        let text = self.text.as_deref().unwrap_or_default().trim_end();
        let mut message = json!({ "role": "assistant", "content": text });
        match self.manner {
            Continues::Marked(field) => message[field] = true.into(),
            Continues::FinalMessage => {
                body["continue_final_message"] = true.into();
                body["add_generation_prompt"] = false.into();
            }
            Continues::Prefill | Continues::Tokens => {}
        }
        if let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) {
            messages.push(message);
        }
        let bounds = match dialect {
            Dialect::OpenAi | Dialect::Responses => ["max_tokens", "max_completion_tokens"].as_slice(),
            Dialect::Anthropic => &["max_tokens"],
        };
        for name in bounds {
            if let Some(bound) = body.get(*name).and_then(Value::as_u64) {
                body[*name] = bound.saturating_sub(self.tokens).max(1).into();
            }
        }
    }

    /// Makes an event of the rest one of the whole; None: the caller has had it.
    pub fn splice(&self, event: ChatEvent) -> Option<ChatEvent> {
        if self.times == 0 {
            return Some(event);
        }
        match event {
            ChatEvent::Start { .. } => None,
            ChatEvent::Usage(usage) => Some(ChatEvent::Usage(self.whole(usage))),
            ChatEvent::Text { choice, text } => {
                Some(ChatEvent::Text { choice, text: self.owe(&text).to_owned() })
            }
            other => Some(other),
        }
    }

    /// The same for a frame of the caller's dialect.
    pub fn splice_frame(&self, dialect: Dialect, data: &mut Value) -> bool {
        if self.times == 0 {
            return true;
        }
        match dialect {
            Dialect::OpenAi | Dialect::Responses => self.splice_chunk(data),
            Dialect::Anthropic => self.splice_block(data),
        }
    }

    fn splice_chunk(&self, data: &mut Value) -> bool {
        if let Some((id, created)) = &self.head {
            (data["id"], data["created"]) = (id.clone(), created.clone());
        }
        let mut says = false;
        if let Some(usage) = data.get_mut("usage").filter(|usage| usage.is_object()) {
            let output = usage["completion_tokens"].as_u64().unwrap_or(0).saturating_add(self.before);
            let input = usage["prompt_tokens"].as_u64().unwrap_or(0).saturating_sub(self.repeated());
            usage["completion_tokens"] = output.into();
            usage["prompt_tokens"] = input.into();
            usage["total_tokens"] = input.saturating_add(output).into();
            says = data["choices"].as_array().is_none_or(Vec::is_empty);
        }
        for choice in data.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
            says |= !choice["finish_reason"].is_null();
            let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) else { continue };
            delta.shift_remove("role");
            if let Some(text) = delta.get("content").and_then(Value::as_str) {
                let text = self.owe(text).to_owned();
                says |= !text.is_empty();
                delta.insert("content".into(), text.into());
            }
            says |= delta.iter().any(|(name, value)| name != "content" && !value.is_null());
        }
        says
    }

    fn splice_block(&self, data: &mut Value) -> bool {
        let block = self.first_block;
        if let Some(index) = data.get_mut("index") {
            *index = index.as_u64().unwrap_or(0).saturating_add(block).into();
        }
        match data["type"].as_str().unwrap_or_default() {
            "message_start" => false,
            "content_block_start" => !(data["index"] == block && data["content_block"]["type"] == "text"),
            "content_block_delta" => {
                if let Some(text) = data["delta"]["text"].as_str() {
                    data["delta"]["text"] = self.owe(text).into();
                }
                true
            }
            "message_delta" => {
                if let Some(output) = data["usage"]["output_tokens"].as_u64() {
                    data["usage"]["output_tokens"] = output.saturating_add(self.before).into();
                }
                true
            }
            _ => true,
        }
    }

    /// Of the tokens before, those that were in the prompt of the rest.
    fn repeated(&self) -> u64 {
        if self.by_tokens() { 0 } else { self.before }
    }

    fn whole(&self, usage: TokenUsage) -> TokenUsage {
        TokenUsage {
            input: usage.input.saturating_sub(self.repeated()),
            output: usage.output.saturating_add(self.before),
            ..usage
        }
    }

    /// The text without the white space that the caller has already.
    fn owe<'t>(&self, text: &'t str) -> &'t str {
        let same = self.owed.chars().zip(text.chars()).take_while(|(owed, came)| owed == came);
        &text[same.map(|(_, came)| came.len_utf8()).sum()..]
    }
}

/// An id or a time as they are; anything else is not kept.
fn is_small(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= NAME_BYTES_MAX,
        Value::Number(number) => number.as_str().len() <= NAME_BYTES_MAX,
        _ => false,
    }
}
