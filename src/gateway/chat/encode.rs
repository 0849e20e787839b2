//! From [`ChatEvent`]s to what a caller expects.

use super::anthropic::encode::AnthropicEncoder;
use super::custom_tools::CustomTools;
use super::openai::encode::OpenAiEncoder;
use super::responses::encode::ResponsesEncoder;
use super::responses::request::Asked;
use super::{ChatEvent, Dialect, StopReason, TokenScore, TokenUsage, UpstreamError};
use crate::gateway::wire::json::push_json;
use crate::protocol::TokenId;
use serde_json::Value;
use std::sync::Arc;

/// What every chunk or message of one answer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// `chatcmpl-...` or `msg_...`.
    pub id: String,
    /// The name that the caller asked for.
    pub model: String,
    /// Seconds since 1970 (OpenAI's `created`).
    pub created_unix_s: u64,
}

/// What a caller asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// OpenAI's `stream_options.include_usage`. Anthropic's streams always have usage.
    pub include_usage: bool,
    /// vLLM's `stream_options.continuous_usage_stats`: the usage so far in every chunk.
    pub continuous_usage: bool,
    /// Choices that all begin with the answer; others begin with their first piece.
    pub choices: u32,
    /// OpenAI's `logprobs`.
    pub logprobs: bool,
    /// Calls of these tools are told as OpenAI's custom calls, with their text for an input.
    pub custom_tools: CustomTools,
    /// Tell the output's token ids in a stream, which a whole answer does with `prompt_ids`.
    pub token_ids: bool,
    /// The prompt's token ids, where they are to be told.
    pub prompt_ids: Option<Arc<[TokenId]>>,
    /// Tokens of the prompt, for Anthropic's `message_start` where the upstream says them only at the
    /// end; 0 for unknown. The last event has the upstream's own count.
    pub input_tokens: u64,
}

/// Events that the caller's dialect cannot say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Anthropic's `input` is an object, so these arguments have no place in it.
    #[error("the arguments of the tool call `{name}` are not a JSON object; they begin: {beginning}")]
    BadArguments {
        /// The tool.
        name: String,
        /// What the model made, shortened.
        beginning: String,
    },
    /// Anthropic's blocks follow each other; what waits for its turn is bounded.
    #[error("over {bytes_max} bytes of interleaved tool calls wait for an earlier one to end")]
    WaitingTooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// Arguments for a call that did not begin, or that was complete.
    #[error("arguments came for tool call {0}, which did not begin or was complete already")]
    ClosedCall(u32),
}

/// Writes one caller's stream as text of server-sent events. Give it each event in order, then
/// [`Self::finish`] or, after a failure, [`Self::error`].
#[derive(Debug)]
pub struct StreamEncoder {
    codec: Codec,
    dialect: Dialect,
}

#[derive(Debug)]
enum Codec {
    OpenAi(OpenAiEncoder),
    Anthropic(AnthropicEncoder),
    Responses(Box<ResponsesEncoder>),
}

impl StreamEncoder {
    /// An encoder at a stream's beginning. The head is the caller's view: what [`ChatEvent::Start`]
    /// says of the upstream is not repeated.
    pub fn new(dialect: Dialect, head: AnswerHead, options: EncodeOptions) -> Self {
        let codec = match dialect {
            Dialect::OpenAi => Codec::OpenAi(OpenAiEncoder::new(&head, options)),
            Dialect::Anthropic => Codec::Anthropic(AnthropicEncoder::new(head, options)),
            Dialect::Responses => Codec::Responses(Box::new(ResponsesEncoder::new(head, Arc::default()))),
        };
        Self { codec, dialect }
    }

    /// The same for a caller of OpenAI's Responses, whose requests are chat completions inside.
    pub fn for_responses(head: AnswerHead, asked: Arc<Asked>) -> Self {
        let codec = Codec::Responses(Box::new(ResponsesEncoder::new(head, asked)));
        Self { codec, dialect: Dialect::Responses }
    }

    /// The response object that its caller has been told of last; None in other formats.
    pub fn response_told(&self) -> Option<&Value> {
        match &self.codec {
            Codec::Responses(codec) => codec.response_told(),
            Codec::OpenAi(_) | Codec::Anthropic(_) => None,
        }
    }

    /// Adds the whole frames that an event makes; some make none yet.
    pub fn event(&mut self, event: &ChatEvent, out: &mut String) -> Result<(), EncodeError> {
        match &mut self.codec {
            Codec::OpenAi(codec) => codec.event(event, out),
            Codec::Anthropic(codec) => codec.event(event, out),
            Codec::Responses(codec) => codec.event(event, out),
        }
    }

    /// Adds the end.
    pub fn finish(&mut self, out: &mut String) {
        match &mut self.codec {
            Codec::OpenAi(codec) => codec.finish(out),
            Codec::Anthropic(codec) => codec.finish(out),
            Codec::Responses(codec) => codec.finish(out),
        }
    }

    /// Adds an error event, after which nothing comes.
    pub fn error(&mut self, error: &UpstreamError, out: &mut String) {
        if let Codec::Responses(codec) = &mut self.codec {
            return codec.error(error, out);
        }
        if self.dialect == Dialect::Anthropic {
            out.push_str("event: error\n");
        }
        out.push_str("data: ");
        push_json(out, &error.to_value(self.dialect));
        out.push_str("\n\n");
    }
}

/// A whole answer that is not streamed.
pub fn encode_whole(
    dialect: Dialect,
    head: &AnswerHead,
    options: &EncodeOptions,
    events: &[ChatEvent],
) -> Result<Value, EncodeError> {
    match dialect {
        Dialect::OpenAi => super::openai::encode::whole(head, options, events),
        Dialect::Anthropic => super::anthropic::encode::whole(head, events),
        Dialect::Responses => super::responses::encode::whole(head, Arc::default(), events),
    }
}

/// One choice of a whole answer: its pieces in order, each kind's neighbours joined.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub choice: u32,
    pub parts: Vec<Part>,
    pub ids: Vec<TokenId>,
    pub scores: Vec<TokenScore>,
    pub reason: Option<StopReason>,
}

/// A piece of an answer, whole.
#[derive(Debug)]
pub(super) enum Part {
    Text(String),
    Refusal(String),
    Reasoning { text: String, signature: Option<String> },
    Redacted(String),
    Call { call: u32, id: String, name: String, arguments: String },
}

/// Joins a whole answer's events, choice by choice, in the order of their numbers.
pub(super) fn collect(events: &[ChatEvent]) -> Result<(Vec<Collected>, Option<TokenUsage>), EncodeError> {
    let mut choices: Vec<Collected> = Vec::new();
    let mut usage = None;
    for event in events {
        let Some(choice) = event.choice() else {
            if let ChatEvent::Usage(tokens) = event {
                usage = Some(*tokens);
            }
            continue;
        };
        let at = choices.iter().position(|collected| collected.choice == choice).unwrap_or_else(|| {
            choices.push(Collected { choice, ..Collected::default() });
            choices.len() - 1
        });
        choices[at].add(event)?;
    }
    choices.sort_by_key(|collected| collected.choice);
    Ok((choices, usage))
}

impl Collected {
    fn add(&mut self, event: &ChatEvent) -> Result<(), EncodeError> {
        match (event, self.parts.last_mut()) {
            (ChatEvent::Tokens { ids, scores, .. }, _) => {
                self.ids.extend(ids);
                self.scores.extend_from_slice(scores);
            }
            (ChatEvent::Text { text, .. }, Some(Part::Text(all)))
            | (ChatEvent::Refusal { text, .. }, Some(Part::Refusal(all)))
            | (ChatEvent::Reasoning { text, .. }, Some(Part::Reasoning { text: all, signature: None })) => {
                all.push_str(text);
            }
            (ChatEvent::Text { text, .. }, _) => self.parts.push(Part::Text(text.clone())),
            (ChatEvent::Refusal { text, .. }, _) => self.parts.push(Part::Refusal(text.clone())),
            (ChatEvent::Reasoning { text, .. }, _) => {
                self.parts.push(Part::Reasoning { text: text.clone(), signature: None });
            }
            (
                ChatEvent::Signature { signature, .. },
                Some(Part::Reasoning { signature: none @ None, .. }),
            ) => {
                *none = Some(signature.clone());
            }
            (ChatEvent::Signature { signature, .. }, _) => {
                self.parts.push(Part::Reasoning { text: String::new(), signature: Some(signature.clone()) });
            }
            (ChatEvent::RedactedReasoning { data, .. }, _) => self.parts.push(Part::Redacted(data.clone())),
            (ChatEvent::ToolCall { call, id, name, .. }, _) => {
                let (id, name) = (id.clone(), name.clone());
                self.parts.push(Part::Call { call: *call, id, name, arguments: String::new() });
            }
            (ChatEvent::ToolArguments { call, json, .. }, _) => {
                let arguments = self.parts.iter_mut().rev().find_map(|part| match part {
                    Part::Call { call: this, arguments, .. } if this == call => Some(arguments),
                    _ => None,
                });
                arguments.ok_or(EncodeError::ClosedCall(*call))?.push_str(json);
            }
            (ChatEvent::Finish { reason, .. }, _) => self.reason = Some(reason.clone()),
            (ChatEvent::Start { .. } | ChatEvent::Usage(_), _) => {}
        }
        Ok(())
    }
}
