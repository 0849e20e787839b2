//! Pieces of OpenAI's JSON that chat and completions share.

use crate::gateway::target::local::{self, TextEvent};
use crate::protocol::FinishReason;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

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
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Serialize)]
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

/// `finish_reason`.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// A log-probability that JSON can say: minus infinity becomes OpenAI's -9999.
pub fn logprob(value: f32) -> f32 {
    value.max(-9999.0)
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
