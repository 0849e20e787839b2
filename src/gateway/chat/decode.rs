//! From what an upstream sends to [`ChatEvent`]s.

use super::anthropic::decode::AnthropicDecoder;
use super::openai::decode::OpenAiDecoder;
use super::responses::decode::ResponsesDecoder;
use super::{ChatEvent, Dialect};
use crate::gateway::wire::frames::{Frame, FrameError};
use crate::gateway::wire::json::beginning;
use crate::gateway::wire::upstream_error::{self, UpstreamError};
use serde::Deserialize;

/// Whether a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It does.
    More,
    /// The upstream said that this was its end; frames after it are not read.
    Done,
}

/// An answer that could not be read, or that is an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The upstream reported an error, where an answer or a piece of one should have been.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The bytes are no stream of events.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Not JSON, or cut off: HTML of a proxy, for one.
    #[error("the upstream sent something that is not JSON ({reason}); it begins: {beginning}")]
    NotJson {
        /// The parser's complaint.
        reason: String,
        /// What came, shortened.
        beginning: String,
    },
    /// JSON of another shape.
    #[error("the upstream sent JSON of a wrong shape ({reason}); it begins: {beginning}")]
    WrongShape {
        /// What is wrong with it.
        reason: String,
        /// What came, shortened.
        beginning: String,
    },
    /// The stream closed before its end.
    #[error("the upstream's stream ended early: {0}")]
    EndedEarly(&'static str),
}

impl DecodeError {
    /// JSON of a wrong shape.
    pub fn shape(reason: impl Into<String>, text: &str) -> Self {
        Self::WrongShape { reason: reason.into(), beginning: beginning(text.as_bytes()) }
    }
}

/// Reads one upstream's stream. Give it each [`Frame`] in order, then [`Self::end`].
#[derive(Debug)]
pub struct StreamDecoder {
    codec: Codec,
    done: bool,
}

#[derive(Debug)]
enum Codec {
    OpenAi(OpenAiDecoder),
    Anthropic(AnthropicDecoder),
    Responses(Box<ResponsesDecoder>),
}

impl StreamDecoder {
    /// A decoder at a stream's beginning.
    pub fn new(dialect: Dialect) -> Self {
        let codec = match dialect {
            Dialect::OpenAi => Codec::OpenAi(OpenAiDecoder::default()),
            Dialect::Anthropic => Codec::Anthropic(AnthropicDecoder::default()),
            Dialect::Responses => Codec::Responses(Box::default()),
        };
        Self { codec, done: false }
    }

    /// Adds the events of one frame. Once the stream is done, every choice that began has its
    /// [`ChatEvent::Finish`].
    pub fn frame(&mut self, frame: &Frame, out: &mut Vec<ChatEvent>) -> Result<Progress, DecodeError> {
        if self.done {
            return Ok(Progress::Done);
        }
        let progress = match &mut self.codec {
            Codec::OpenAi(codec) => codec.frame(frame, out),
            Codec::Anthropic(codec) => codec.frame(frame, out),
            Codec::Responses(codec) => codec.frame(frame, out),
        }?;
        self.done = progress == Progress::Done;
        Ok(progress)
    }

    /// Whether so many choices have finished, and no other has begun.
    pub fn has_finished(&self, choices: u64) -> bool {
        match &self.codec {
            Codec::OpenAi(codec) => codec.is_finished() && codec.choices() as u64 >= choices,
            Codec::Anthropic(codec) => codec.is_finished(),
            Codec::Responses(codec) => codec.is_finished(),
        }
    }

    /// The stream closed. An error, unless the upstream said that it was the end or at least every
    /// choice had finished.
    pub fn end(&self) -> Result<(), DecodeError> {
        let finished = match &self.codec {
            Codec::OpenAi(codec) => codec.is_finished(),
            Codec::Anthropic(codec) => codec.is_finished(),
            Codec::Responses(codec) => codec.is_finished(),
        };
        match (self.done || finished, &self.codec) {
            (true, _) => Ok(()),
            (false, Codec::OpenAi(_)) => {
                Err(DecodeError::EndedEarly("neither a finish_reason for every choice nor [DONE] came"))
            }
            (false, Codec::Anthropic(_)) => {
                Err(DecodeError::EndedEarly("neither a stop_reason nor message_stop came"))
            }
            (false, Codec::Responses(_)) => {
                Err(DecodeError::EndedEarly("neither response.completed nor response.incomplete came"))
            }
        }
    }
}

/// Reads a whole answer that was not streamed (status 200). Every choice has its
/// [`ChatEvent::Finish`]; the usage, where there is one, is the last event.
pub fn decode_whole(dialect: Dialect, body: &[u8]) -> Result<Vec<ChatEvent>, DecodeError> {
    let text = std::str::from_utf8(body)
        .map_err(|e| DecodeError::NotJson { reason: e.to_string(), beginning: beginning(body) })?;
    match dialect {
        Dialect::OpenAi => super::openai::decode::whole(text),
        Dialect::Anthropic => super::anthropic::decode::whole(text),
        Dialect::Responses => super::responses::decode::whole(text),
    }
}

/// Reads JSON into a wire type; tells text that is not JSON from JSON of another shape.
pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, DecodeError> {
    serde_json::from_str(text).map_err(|e| {
        let reason = e.to_string();
        if e.is_data() {
            return DecodeError::shape(reason, text);
        }
        DecodeError::NotJson { reason, beginning: beginning(text.as_bytes()) }
    })
}

/// Reads JSON that holds an error instead of an answer.
pub(super) fn error_in(text: &str) -> DecodeError {
    match parse(text) {
        Ok(value) => DecodeError::Upstream(upstream_error::from_success(&value)),
        Err(e) => e,
    }
}
