//! `logprobs` of chat completions (<https://platform.openai.com/docs/api-reference/chat/object>).

use crate::gateway::chat::TokenScore;
use serde::Serialize;
use utoipa::ToSchema;

/// `logprobs` of a choice.
#[derive(Serialize, ToSchema)]
pub struct ChatLogprobs<'a> {
    content: Vec<ChatLogprob<'a>>,
    #[schema(required = true, value_type = Option<String>)]
    refusal: Option<()>,
}

/// A token, and those that it might have been.
#[derive(Serialize, ToSchema)]
pub struct ChatLogprob<'a> {
    token: &'a str,
    logprob: f32,
    #[schema(value_type = Vec<u8>)]
    bytes: &'a [u8],
    top_logprobs: Vec<TopLogprob<'a>>,
}

/// A token that it might have been.
#[derive(Serialize, ToSchema)]
struct TopLogprob<'a> {
    token: &'a str,
    logprob: f32,
    #[schema(value_type = Vec<u8>)]
    bytes: &'a [u8],
}

impl<'a> ChatLogprobs<'a> {
    /// Of these tokens.
    pub fn of(scores: &'a [TokenScore]) -> Self {
        let top = |(token, bytes, value): &'a (String, Vec<u8>, f32)| TopLogprob {
            token,
            logprob: finite(*value),
            bytes,
        };
        let content = scores.iter().map(|score| ChatLogprob {
            token: &score.text,
            logprob: finite(score.logprob.unwrap_or(0.0)),
            bytes: &score.bytes,
            top_logprobs: score.top.iter().map(top).collect(),
        });
        Self { content: content.collect(), refusal: None }
    }
}

/// A log-probability that JSON can say: minus infinity becomes OpenAI's -9999.
pub fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}
