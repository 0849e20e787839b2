//! `logprobs` of chat completions (<https://platform.openai.com/docs/api-reference/chat/object>).

use crate::gateway::chat::TokenScore;
use serde::Serialize;

/// `logprobs` of a choice.
#[derive(Serialize)]
pub struct ChatLogprobs<'a> {
    content: Vec<ChatLogprob<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatLogprob<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
    top_logprobs: Vec<TopLogprob<'a>>,
}

#[derive(Serialize)]
struct TopLogprob<'a> {
    token: &'a str,
    logprob: f32,
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
