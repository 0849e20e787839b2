//! What our own models answer where no conversation is asked for: text, for `/v1/completions` and `/infill`. The
//! endpoints' encoders write it from text events; here is what they share.

use super::app::InFlight;
use crate::gateway::chat::TokenScore;
use crate::gateway::target::local::{self, Delta, Generation, StreamOptions, TextEvent};
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::sse::{FrameSource, Frames};
use crate::protocol::FinishReason;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// Writes one endpoint's chunks.
pub trait Encoder: Send + 'static {
    /// The chunks of one event; `usage` is what was used so far.
    fn event(&mut self, event: TextEvent, usage: &local::Usage, frames: &mut Frames);
    /// What comes after the last event.
    fn end(&mut self, usage: &local::Usage, frames: &mut Frames);
}

/// A generation on its way to a caller.
pub struct EventStream<E> {
    generation: Generation,
    encoder: E,
    /// A stream is in flight until its last frame.
    _in_flight: InFlight,
}

impl<E: Encoder> EventStream<E> {
    /// Encodes what the generation tells.
    pub fn new(generation: Generation, encoder: E, in_flight: InFlight) -> Self {
        Self { generation, encoder, _in_flight: in_flight }
    }
}

impl<E: Encoder> FrameSource for EventStream<E> {
    async fn next(&mut self, frames: &mut Frames) -> Result<bool, ApiError> {
        match self.generation.next().await? {
            Some(event) => {
                self.encoder.event(event, &self.generation.usage(), frames);
                Ok(true)
            }
            None => {
                self.encoder.end(&self.generation.usage(), frames);
                Ok(false)
            }
        }
    }
}

/// A whole answer, for requests that do not stream.
#[derive(Debug, Default)]
pub struct Collected {
    /// In order.
    pub choices: Vec<CollectedChoice>,
    /// Per prompt; empty unless asked for.
    pub prompt_scores: Vec<Vec<TokenScore>>,
}

/// A whole choice.
#[derive(Debug, Default)]
pub struct CollectedChoice {
    /// Text, tokens and scores.
    pub output: Delta,
    /// Why it ended.
    pub reason: Option<FinishReason>,
}

impl Collected {
    /// For so many prompts and choices of each.
    pub fn new(prompts: usize, choices_per_prompt: usize) -> Self {
        let mut choices = Vec::new();
        choices.resize_with(prompts * choices_per_prompt, CollectedChoice::default);
        Self { choices, prompt_scores: vec![Vec::new(); prompts] }
    }

    /// Runs the generation to its end.
    pub async fn run(mut self, generation: &mut Generation) -> Result<Self, ApiError> {
        while let Some(event) = generation.next().await? {
            self.event(event);
        }
        Ok(self)
    }

    /// Adds one event.
    pub fn event(&mut self, event: TextEvent) {
        let (delta, reason) = match event {
            TextEvent::Prompt { prompt, scores } => {
                self.prompt_scores[prompt] = scores;
                return;
            }
            TextEvent::Delta(delta) => (delta, None),
            TextEvent::Finished(delta, reason) => (delta, Some(reason)),
        };
        let choice = &mut self.choices[delta.choice];
        choice.output.text.push_str(&delta.text);
        choice.output.ids.extend(delta.ids);
        choice.output.scores.extend(delta.scores);
        choice.reason = reason;
    }
}

/// What every object and chunk of one answer starts with.
#[derive(Clone, Debug)]
pub struct Head {
    /// `chatcmpl-...` or `cmpl-...`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The served name.
    pub model: String,
}

impl Head {
    /// A fresh id with this prefix, now.
    pub fn new(prefix: &str, model: &str) -> Self {
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: model.to_owned(),
        }
    }
}

/// `usage`.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = CompletionUsage)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = CompletionUsageDetails)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

impl From<&local::Usage> for Usage {
    fn from(usage: &local::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
        }
    }
}

/// `usage` of a chunk: absent, null, or there.
pub type ChunkUsage = Option<Option<Usage>>;

impl StreamOptions {
    /// `usage` of a chunk that is not the last.
    pub fn chunk_usage(&self, usage: &local::Usage) -> ChunkUsage {
        if self.continuous_usage_stats {
            Some(Some(usage.into()))
        } else {
            self.include_usage.then_some(None)
        }
    }
}

/// `finish_reason`.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// Splits an event's end off its text, so that `finish_reason` has a chunk of its own; tokens
/// that made no text (a stop token) stay with the end.
pub fn split_end(event: TextEvent) -> (Option<TextEvent>, Option<TextEvent>) {
    match event {
        TextEvent::Finished(delta, reason) if !delta.text.is_empty() => {
            let end = local::Delta { choice: delta.choice, ..local::Delta::default() };
            (Some(TextEvent::Delta(delta)), Some(TextEvent::Finished(end, reason)))
        }
        event => (Some(event), None),
    }
}
