//! Tokens of a prompt, by model. For one of our models exactly: its tokenizer's count of what its chat
//! template makes of the conversation. For others an estimate from the prompt's bytes, calibrated by
//! what their upstreams have counted before; Anthropic's API is asked where a caller wants to know
//! (`POST /v1/messages/count_tokens`,
//! <https://docs.anthropic.com/en/api/messages-count-tokens>).
//!
//! Tokenizing takes about a millisecond per thousand tokens: it is done for our models where something
//! is chosen among several (`auto`, named routes), and the answering engine takes the tokens over.

use super::app::{App, RequestContext};
use super::bounds::Limits;
use super::chat::{beta, read_named};
use super::demand::MARGIN_TOKENS;
use super::dialect::Dialect;
use super::error::ApiError;
use super::openai::chat::chat_prompt;
use super::openai::messages::for_engine;
use super::registry::LocalModel;
use super::route::{self, Asked, Target};
use crate::protocol::TokenId;
use axum::extract::{Extension, Request, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// UTF-8 bytes of a token, rounded down: English prose is at 4 to 5, code and other languages at 2 to 4.
pub const BYTES_PER_TOKEN: u64 = 4;
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
/// A calibration of 1.
const ONE: u32 = 1 << 12;
/// Shorter prompts say more of the chat template than of the text.
const LEARN_MIN: u64 = 100;

/// How many tokens a model's upstream counts for one of our estimate: a moving average over the last
/// ten requests or so.
#[derive(Debug)]
pub struct Calibration {
    /// In 1/4096.
    ratio: AtomicU32,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { ratio: AtomicU32::new(ONE) }
    }
}

impl Calibration {
    /// What the upstream would count.
    pub fn apply(&self, estimate: u64) -> u64 {
        let ratio = u64::from(self.ratio.load(Ordering::Relaxed));
        estimate.saturating_mul(ratio).div_ceil(u64::from(ONE))
    }

    /// The upstream has counted. What is far from any tokenizer (images, a provider's own system prompt)
    /// counts as a factor of four at most.
    pub fn learn(&self, estimate: u64, counted: u64) {
        if estimate < LEARN_MIN || counted == 0 {
            return;
        }
        let ratio = (counted as f64 / estimate as f64 * f64::from(ONE)).round();
        let ratio = (ratio as u32).clamp(ONE / 4, ONE * 4);
        let average = |old: u32| Some((old * 7 + ratio).div_ceil(8));
        let _ = self.ratio.fetch_update(Ordering::Relaxed, Ordering::Relaxed, average);
    }
}

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

    /// By the tokenizers of our models too, where the name leaves a choice.
    ///
    /// # Errors
    /// The request's time is over.
    pub async fn of_request(
        app: &App,
        limits: &mut Limits,
        name: &str,
        dialect: Dialect,
        body: &Value,
    ) -> Result<Self, ApiError> {
        let mut counts = Self::estimated(body);
        let ours = app.registry.ready();
        if ours.is_empty() {
            return Ok(counts);
        }
        let reached = app.routing().chosen_among(name);
        for model in ours {
            if model.engine.failure().is_some() || !reached.contains(&model.name) {
                continue;
            }
            if let Some(prompt) = tokens(app, limits, &model, dialect, body).await? {
                counts.exact.insert(model.name.clone(), prompt);
            }
        }
        Ok(counts)
    }

    /// For a model.
    pub fn of(&self, target: &Target) -> u64 {
        match self.exact.get(&target.model.name) {
            Some(prompt) => prompt.len() as u64,
            None => target.calibration.apply(self.estimate),
        }
    }

    /// What is held of a target's limits before a request.
    pub fn held(&self, target: &Target) -> u64 {
        match self.exact.get(&target.model.name) {
            Some(prompt) => prompt.len() as u64,
            None => target.calibration.apply(self.estimate_held()),
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

/// A conversation's tokens; None where the model cannot take it.
async fn tokens(
    app: &App,
    limits: &mut Limits,
    model: &Arc<LocalModel>,
    dialect: Dialect,
    body: &Value,
) -> Result<Option<Arc<[TokenId]>>, ApiError> {
    let translated;
    let body = match dialect {
        Dialect::OpenAi => body,
        Dialect::Anthropic => match for_engine(body) {
            Ok(body) => {
                translated = body;
                &translated
            }
            Err(_) => return Ok(None),
        },
    };
    let Ok(work) = chat_prompt(model, body) else { return Ok(None) };
    let tokens = app.text.run(limits, move || Ok(work().ok())).await?;
    Ok(tokens.map(Into::into))
}

/// `POST /v1/messages/count_tokens`.
pub async fn count_tokens(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut limits = app.limits(&context);
    let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
    let (name, mut body) = read_named(&app, &context, &mut limits, &headers, request).await?;
    let routing = app.routing();
    routing.check_allowed(&name, &context.tenant)?;
    // One of the key's requests, of no tokens.
    let admitted = app.admit(&context).await?;
    let counts = Counts::of_request(&app, &mut limits, &name, Dialect::Anthropic, &body).await?;
    let asked =
        Asked { body: &body, headers: &headers, path: &path, tenant: &context.tenant, counts: &counts };
    let plan = routing.plan(&name, &asked)?;
    let target = plan.targets.first().ok_or_else(|| ApiError::internal("a plan has no targets"))?.clone();
    context.names(&target.model.name);
    route::strip(&mut body);
    let (tokens, how) = match &target.upstream {
        None => {
            let model = app.engine(&target.model.name)?;
            let translated = for_engine(&body)?;
            let work = chat_prompt(&model, &translated)?;
            let prompt =
                app.text.run(&mut limits, work).await.map_err(|e| ApiError::from(e).at("messages"))?;
            (prompt.len() as u64, "exact")
        }
        Some(hosted) => {
            body["model"] = hosted.name.as_str().into();
            match hosted.upstream.count(&body, beta(&headers), &mut limits).await? {
                Some(tokens) => (tokens, "exact"),
                None => (counts.of(&target), "estimate"),
            }
        }
    };
    admitted.into_iter().for_each(|admitted| admitted.settle(0, 0.0, Instant::now()));
    let mut response = Json(json!({ "input_tokens": tokens })).into_response();
    let headers = response.headers_mut();
    headers.insert("x-novastack-count", HeaderValue::from_static(how));
    if let Ok(name) = HeaderValue::try_from(&target.model.name) {
        headers.insert("x-novastack-model", name);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_learns_what_its_upstream_counts() {
        let calibration = Calibration::default();
        assert_eq!(calibration.apply(1000), 1000);
        (0..50).for_each(|_| calibration.learn(1000, 1300));
        assert!((1295..=1305).contains(&calibration.apply(1000)), "{}", calibration.apply(1000));
        // Short prompts, and counts that are none, say nothing.
        calibration.learn(10, 500);
        calibration.learn(1000, 0);
        assert!((1295..=1305).contains(&calibration.apply(1000)));
        // One that is far off moves it, within bounds.
        (0..100).for_each(|_| calibration.learn(1000, 1_000_000));
        assert_eq!(calibration.apply(1000), 4000);
        (0..100).for_each(|_| calibration.learn(u64::MAX, 1));
        assert!((250..=252).contains(&calibration.apply(1000)));
        assert_eq!(calibration.apply(u64::MAX), u64::MAX.div_ceil(u64::from(ONE)));
    }
}
