//! Tokens of a prompt, by model. For one of our models exactly, where its tokenizer was asked
//! ([`Counts::knows`]). For others an estimate from the prompt's bytes, calibrated by what their upstreams have
//! counted before.

use super::Target;
use crate::gateway::ledger::calibration::BYTES_PER_TOKEN;
use crate::gateway::ledger::demand::MARGIN_TOKENS;
use crate::protocol::TokenId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tokens of an image, about those of a megapixel.
const IMAGE_TOKENS: u64 = 1000;
/// Tokens of an image that are held before a request: those of the largest that Anthropic's models see
/// (4,784); OpenAI's see about as many in patches.
const IMAGE_TOKENS_HELD: u64 = 4784;
/// The most that a provider documents for one image: gpt-4o-mini's eight tiles.
const IMAGE_TOKENS_MAX: u64 = 48_169;
/// What a provider may read besides the body, where the body names a document, a search or a server: as
/// much as the largest context holds.
const REFERRED_TOKENS_MAX: u64 = 1 << 20;
/// Parts of content that a provider fetches, or whose tokens their bytes do not bound.
const REFERRING_PARTS: [&str; 9] = [
    "document",
    "file",
    "input_file",
    "video_url",
    "input_video",
    "input_audio",
    "audio_url",
    "container_upload",
    "video",
];
/// Fields by which a provider reads more than the body.
const REFERRING_FIELDS: [&str; 7] = [
    "web_search_options",
    "search_parameters",
    "enable_search",
    "plugins",
    "mcp_servers",
    "container",
    "previous_response_id",
];
/// A prompt's tokens, by model.
#[derive(Default)]
pub struct Counts {
    /// From its bytes, for no model in particular.
    pub estimate: u64,
    /// Images in it.
    pub images: u64,
    /// The most that a provider can have counted.
    pub most: u64,
    /// By the names of our models.
    exact: BTreeMap<String, Arc<[TokenId]>>,
}

impl Counts {
    /// Without tokenizing anything.
    pub fn estimated(body: &Value) -> Self {
        let mut size = Size::default();
        for part in ["messages", "system", "tools", "input_prefix", "input_suffix", "input_extra", "suffix"] {
            size.add(body.get(part).unwrap_or(&Value::Null));
        }
        size.add_prompt(body.get("prompt").unwrap_or(&Value::Null));
        size.refers |= REFERRING_FIELDS.iter().any(|name| body.get(name).is_some_and(|it| !it.is_null()))
            || has_tools_of_the_provider(body);
        Self { estimate: size.tokens(), images: size.images, most: size.most(body), exact: BTreeMap::new() }
    }

    /// The prompt's tokens for one of our models.
    pub fn knows(&mut self, model: &str, prompt: Arc<[TokenId]>) {
        self.exact.insert(model.to_owned(), prompt);
    }

    /// For a model.
    pub fn of(&self, target: &Target) -> u64 {
        match self.exact.get(&target.model.name) {
            Some(prompt) => prompt.len() as u64,
            None => target.books.calibration.apply(self.estimate),
        }
    }

    /// What is held of a target's limits before a request.
    pub fn held(&self, target: &Target) -> u64 {
        match self.exact.get(&target.model.name) {
            Some(prompt) => prompt.len() as u64,
            None => target.books.calibration.apply(self.estimate_held()),
        }
    }

    /// The estimate with images as large as they may be.
    pub fn estimate_held(&self) -> u64 {
        self.estimate.saturating_add(self.images.saturating_mul(IMAGE_TOKENS_HELD - IMAGE_TOKENS))
    }

    /// The tokens themselves, where they are known.
    pub fn prompt(&self, name: &str) -> Option<Arc<[TokenId]>> {
        self.exact.get(name).cloned()
    }
}

/// What a prompt is made of.
#[derive(Default)]
struct Size {
    /// UTF-8, of text, names and JSON structure.
    bytes: u64,
    images: u64,
    /// A provider may read more than there is.
    refers: bool,
}

impl Size {
    fn tokens(&self) -> u64 {
        self.bytes.div_ceil(BYTES_PER_TOKEN) + self.images * IMAGE_TOKENS
    }

    /// No tokenizer makes more than one token of a byte; what stands around the texts is as much again.
    fn most(&self, body: &Value) -> u64 {
        let other = body.get("response_format").map_or(0, |format| format.to_string().len() as u64);
        let besides = if self.refers { REFERRED_TOKENS_MAX } else { MARGIN_TOKENS };
        2 * self.bytes + self.images * IMAGE_TOKENS_MAX + other + besides
    }

    /// The same where numbers are tokens.
    fn add_prompt(&mut self, value: &Value) {
        match value {
            Value::Number(_) => self.bytes += BYTES_PER_TOKEN,
            Value::Array(items) => items.iter().for_each(|item| self.add_prompt(item)),
            other => self.add(other),
        }
    }

    fn add(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => self.bytes += 1,
            Value::String(text) => self.bytes += text.len() as u64,
            Value::Array(items) => items.iter().for_each(|item| self.add(item)),
            Value::Object(map) => match map.get("type").and_then(Value::as_str) {
                Some("image_url" | "image" | "input_image")
                    if map.keys().any(|key| key.starts_with("image") || key == "source") =>
                {
                    self.images += 1;
                }
                kind => map.iter().for_each(|(key, value)| {
                    self.refers |= kind.is_some_and(|kind| REFERRING_PARTS.contains(&kind));
                    self.bytes += if key == "role" || key == "type" { 1 } else { key.len() as u64 / 2 };
                    self.add(value);
                }),
            },
        }
    }
}

/// Whether a tool is one that its provider runs: it reads what that finds.
fn has_tools_of_the_provider(body: &Value) -> bool {
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    let mut kinds = tools.filter_map(|tool| tool.get("type").and_then(Value::as_str));
    kinds.any(|kind| !["function", "custom"].contains(&kind))
}
