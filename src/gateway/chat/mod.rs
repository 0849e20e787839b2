//! Chat as providers and our own models speak it. One typed stream of events inside ([`ChatEvent`]); OpenAI's
//! chat completions and Responses and Anthropic's messages are codecs over it: [`decode`] for what an upstream sends, [`encode`] for what
//! a caller expects, [`pass`] for what goes on as it came. Everything here is pure: no network, no clock.
//!
//! Requests are translated from JSON to JSON, for the provider as its settings say: [`request::for_upstream`].
//! A conversation is a body of OpenAI's format, which is also what our own models are asked in: each of the
//! formats has fields that only some servers know, and a type with a place for each of them would be JSON again.
//!
//! Invariants: how a stream was cut into network chunks changes no event; nothing that arrived is
//! dropped unless its comment says so; every buffer has a bound.

pub mod anthropic;
pub mod call_ids;
pub mod custom_tools;
pub mod decode;
pub mod encode;
pub mod noise;
pub mod openai;
pub mod pass;
pub mod reasoning;
pub mod request;
pub mod responses;
pub mod shapes;
pub mod takes;
pub mod tool_names;

#[cfg(test)]
mod tests;

pub use super::wire::Dialect;
pub use super::wire::frames::{Frame, FrameError, FrameReader};
pub use super::wire::upstream_error::{ErrorKind, UpstreamError, anthropic_error, decode_error};
pub use anthropic::request::to_anthropic;
pub use decode::{DecodeError, Progress, StreamDecoder, decode_whole};
pub use encode::{AnswerHead, EncodeError, EncodeOptions, StreamEncoder, encode_whole};
pub use openai::request::to_openai;
pub use request::{Peer, for_upstream};
pub use takes::Takes;
pub use tool_names::ToolNames;

use crate::protocol::TokenId;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatEvent {
    /// First, once.
    Start {
        /// The upstream's id of the answer.
        id: Option<String>,
        /// The upstream's name of the model.
        model: Option<String>,
    },
    /// Tokens of one of our own models: those that the next piece of the choice is made of. Told only to
    /// callers who asked for ids or log-probabilities; `scores` is one for each id, or empty.
    Tokens { choice: u32, ids: Vec<TokenId>, scores: Vec<TokenScore> },
    /// Text of a choice.
    Text { choice: u32, text: String },
    /// The model's reasoning (OpenAI-compatible: `reasoning_content` or `reasoning`; Anthropic: thinking).
    Reasoning { choice: u32, text: String },
    /// Anthropic's signature of the thinking before it.
    Signature { choice: u32, signature: String },
    /// Anthropic's redacted thinking.
    RedactedReasoning { choice: u32, data: String },
    /// A refusal's text (OpenAI).
    Refusal { choice: u32, text: String },
    /// A tool call begins; calls are numbered from 0 in each choice.
    ToolCall { choice: u32, call: u32, id: String, name: String },
    /// A piece of its arguments' JSON text.
    ToolArguments { choice: u32, call: u32, json: String },
    /// A choice's end.
    Finish { choice: u32, reason: StopReason },
    /// Tokens so far: the last one counts.
    Usage(TokenUsage),
}

impl ChatEvent {
    /// The choice that it belongs to; None for what is the whole answer's.
    pub fn choice(&self) -> Option<u32> {
        match self {
            Self::Tokens { choice, .. }
            | Self::Text { choice, .. }
            | Self::Reasoning { choice, .. }
            | Self::Signature { choice, .. }
            | Self::RedactedReasoning { choice, .. }
            | Self::Refusal { choice, .. }
            | Self::ToolCall { choice, .. }
            | Self::ToolArguments { choice, .. }
            | Self::Finish { choice, .. } => Some(*choice),
            Self::Start { .. } | Self::Usage(_) => None,
        }
    }
}

/// A token as logprobs report it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScore {
    /// Its text.
    pub text: String,
    /// Its exact bytes, which may be a part of a character.
    pub bytes: Vec<u8>,
    /// Characters of the text that begin in it: none in the rest of a split character, nor in a
    /// special token that the text leaves out.
    pub chars: usize,
    /// None for a prompt's first token, which nothing predicts.
    pub logprob: Option<f32>,
    /// The most probable tokens, best first: text, bytes, log-probability.
    pub top: Vec<(String, Vec<u8>, f32)>,
}

/// Why a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model's own end.
    End,
    /// A stop string of the caller's; which one, where known.
    StopSequence(Option<String>),
    /// The bound on tokens, or the context's end.
    Length,
    /// It calls tools.
    ToolCalls,
    /// Refused, or cut by a content filter.
    Refusal,
    /// Anthropic's `pause_turn`.
    Pause,
    /// Another word of the upstream's.
    Other(String),
}

/// Tokens of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// The whole prompt, what was cached included (OpenAI's way; Anthropic counts them apart).
    pub input: u64,
    /// Of `input`: read from the upstream's cache.
    pub cached: u64,
    /// Of `input`: written to the upstream's cache.
    pub cache_written: u64,
    /// Of those: to be kept for an hour instead of five minutes.
    pub cache_written_1h: u64,
    /// Generated, reasoning included.
    pub output: u64,
    /// Of `output`: reasoning, where known.
    pub reasoning: u64,
}
