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
/// Fields of bodies for embeddings, reranking and scores that have texts, in the names of OpenAI, Cohere and vLLM.
const TEXT_FIELDS: [&str; 12] = [
    "input",
    "messages",
    "query",
    "queries",
    "text_1",
    "data_1",
    "instruction",
    "documents",
    "items",
    "text_2",
    "data_2",
    "texts",
];
/// Of those, what is read with each of the others where there is one of it.
const OF_ALL_FIELDS: [&str; 5] = ["query", "queries", "text_1", "data_1", "instruction"];
/// What a template or separators may put around a text or a pair: Qwen3-Reranker's are some eighty tokens.
const AROUND_TEXT_TOKENS_MAX: u64 = 128;

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

    /// Of texts that are embedded or scored, without tokenizing anything. Each of several is read with what is
    /// asked of all of them, and with a template around both.
    pub fn of_texts(body: &Value) -> Self {
        let mut size = Size::default();
        let (mut texts, mut of_all) = (0, Size::default());
        for name in TEXT_FIELDS {
            let Some(value) = body.get(name).filter(|value| !value.is_null()) else { continue };
            // A list of numbers is one text.
            let items = match value {
                Value::Array(items) if !matches!(items.first(), Some(Value::Number(_))) => items.len() as u64,
                _ => 1,
            };
            texts = items.max(texts);
            if items == 1 && OF_ALL_FIELDS.contains(&name) {
                of_all.add_prompt(value);
            } else {
                size.add_prompt(value);
            }
        }
        size.bytes = size.bytes.saturating_add(of_all.bytes.saturating_mul(texts));
        size.refers |= of_all.refers || refers_to_media(body);
        let around = texts.saturating_mul(AROUND_TEXT_TOKENS_MAX);
        let most = size.most(body).saturating_add(around);
        Self { estimate: size.tokens(), images: 0, most, exact: BTreeMap::new() }
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

/// Whether something to be embedded or scored is no text: its bytes do not bound what a provider counts for it.
fn refers_to_media(body: &Value) -> bool {
    let texts = TEXT_FIELDS.iter().filter_map(|name| body.get(name));
    let items = texts.flat_map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
    items.filter_map(Value::as_object).any(|item| item.keys().any(|key| key != "text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_counted_with_what_is_read_beside_each() {
        let count = |body: Value| Counts::of_texts(&body).estimate;
        let text = "a".repeat(400);
        let one = count(json!({ "input": text }));
        assert_eq!(one, 400_u64.div_ceil(BYTES_PER_TOKEN));
        assert_eq!(count(json!({ "input": [text, text] })), 800_u64.div_ceil(BYTES_PER_TOKEN));
        // Numbers are tokens, of one text or of several.
        assert_eq!(count(json!({ "input": [5, 6, 7] })), 3);
        assert_eq!(count(json!({ "input": [[5, 6, 7], [8]] })), 4);
        // A query is read with each document.
        let pairs = count(json!({ "query": text, "documents": ["b", { "text": "c" }, "d"] }));
        assert!((3 * one..3 * one + 3).contains(&pairs), "{pairs}");
        assert_eq!(count(json!({ "text_1": text, "text_2": [text, text] })), 4 * one);
        assert_eq!(count(json!({ "text_1": [text, text], "text_2": [text, text] })), 4 * one);
        // Of what is no text a provider may count more than its bytes.
        let most = |body: Value| Counts::of_texts(&body).most;
        assert!(most(json!({ "input": [{ "image": "https://host.example/a.png" }] })) > REFERRED_TOKENS_MAX);
        assert!(most(json!({ "input": "a" })) < 2 * MARGIN_TOKENS);
        assert!(most(json!({ "query": "a", "documents": vec!["b"; 1000] })) > 100 * 1000);
    }
}
