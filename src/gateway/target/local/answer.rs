//! An engine's answer as events of chat.

use super::generation::{Delta, Generation, TextEvent, Usage};
use super::params::{Params, ReasoningShown};
use crate::gateway::chat::openai::history::SHORT_ID_CHARS;
use crate::gateway::chat::{ChatEvent, EncodeOptions, StopReason};
use crate::gateway::target::failure::Failure;
use crate::gateway::wire::error::ApiError;
use crate::protocol::{FinishReason, TokenId};
use crate::text::{AnswerFormat, ParsedEvent, ToolFormat};
use std::sync::Arc;

/// How the caller wants it told.
#[derive(Debug)]
pub struct AnswerOptions {
    /// Choices.
    pub choices: u32,
    /// With log-probabilities.
    pub logprobs: bool,
    /// With the output's token ids.
    pub ids: bool,
    /// The prompt's, where they are to be told.
    pub prompt_ids: Option<Arc<[TokenId]>>,
    /// The usage so far with every piece.
    pub continuous_usage: bool,
    /// Leave reasoning out.
    pub hides_reasoning: bool,
    /// Ids of calls have nine letters and digits, which is all that the model's template takes.
    pub short_call_ids: bool,
}

impl AnswerOptions {
    /// What a request says of it.
    pub fn of(params: &Params, prompt: &Arc<[TokenId]>, format: AnswerFormat) -> Self {
        Self {
            choices: params.n,
            logprobs: params.sampling.logprobs.is_some(),
            ids: params.return_token_ids || params.resumable,
            prompt_ids: params.return_token_ids.then(|| prompt.clone()),
            continuous_usage: params.stream.is_some_and(|options| options.continuous_usage_stats),
            hides_reasoning: params.reasoning == ReasoningShown::Never,
            short_call_ids: format.tools.is_some_and(ToolFormat::has_short_ids),
        }
    }

    /// The same for an encoder.
    pub fn options(&self, options: EncodeOptions) -> EncodeOptions {
        EncodeOptions {
            choices: self.choices,
            logprobs: self.logprobs,
            token_ids: self.ids,
            prompt_ids: self.prompt_ids.clone(),
            continuous_usage: self.continuous_usage,
            ..options
        }
    }

    /// Adds what a text event says, with the usage so far.
    pub fn events(&self, event: TextEvent, usage: &Usage, events: &mut Vec<ChatEvent>) {
        let usage = ChatEvent::Usage(usage.into());
        if self.continuous_usage {
            events.push(usage.clone());
        }
        match event {
            TextEvent::Prompt { .. } => events.extend([ChatEvent::Start { id: None, model: None }, usage]),
            TextEvent::Delta(delta) => self.piece(delta, events),
            TextEvent::Finished(mut delta, reason) => {
                let choice = delta.choice as u32;
                let reason = match (reason, delta.stop.take()) {
                    (FinishReason::Stop, Some(stop)) => StopReason::StopSequence(Some(stop)),
                    (FinishReason::Stop, None) if delta.called => StopReason::ToolCalls,
                    (reason, _) => reason.into(),
                };
                // Tokens that made no text, such as a stop token, go with the end.
                match delta.text.is_empty() && delta.parsed.is_none() {
                    true => self.tokens(delta, events),
                    false => self.piece(delta, events),
                }
                events.push(ChatEvent::Finish { choice, reason });
            }
        }
    }

    fn piece(&self, mut delta: Delta, events: &mut Vec<ChatEvent>) {
        let (choice, text, parsed) =
            (delta.choice as u32, std::mem::take(&mut delta.text), delta.parsed.take());
        self.tokens(delta, events);
        match parsed {
            Some(parsed) => events.extend(parsed.into_iter().filter_map(|event| self.parsed(choice, event))),
            None if text.is_empty() && !self.has_tokens() => {}
            None => events.push(ChatEvent::Text { choice, text }),
        }
    }

    fn parsed(&self, choice: u32, event: ParsedEvent) -> Option<ChatEvent> {
        match event {
            ParsedEvent::Text(text) => Some(ChatEvent::Text { choice, text }),
            ParsedEvent::Reasoning(text) => {
                (!self.hides_reasoning).then_some(ChatEvent::Reasoning { choice, text })
            }
            ParsedEvent::Call { call, id, name } => {
                let id = id.unwrap_or_else(|| self.new_call_id());
                Some(ChatEvent::ToolCall { choice, call, id, name })
            }
            ParsedEvent::Arguments { call, json } => Some(ChatEvent::ToolArguments { choice, call, json }),
            // What comes next says so.
            ParsedEvent::EndCall { .. } => None,
        }
    }

    fn new_call_id(&self) -> String {
        let random = uuid::Uuid::new_v4().simple().to_string();
        if self.short_call_ids { random[..SHORT_ID_CHARS].to_owned() } else { format!("call_{random}") }
    }

    fn tokens(&self, delta: Delta, events: &mut Vec<ChatEvent>) {
        let Delta { choice, ids, scores, .. } = delta;
        if self.has_tokens() && !ids.is_empty() {
            events.push(ChatEvent::Tokens { choice: choice as u32, ids, scores });
        }
    }

    fn has_tokens(&self) -> bool {
        self.logprobs || self.ids
    }
}

/// The answer.
pub struct LocalAnswer {
    generation: Generation,
    answer_options: AnswerOptions,
    ended: bool,
}

impl LocalAnswer {
    /// Of a generation at its beginning.
    pub fn new(generation: Generation, answer_options: AnswerOptions) -> Self {
        Self { generation, answer_options, ended: false }
    }

    /// Adds how it is told.
    pub fn options(&self, options: EncodeOptions) -> EncodeOptions {
        self.answer_options.options(options)
    }

    /// The next events; None after the last, which are the usage.
    pub async fn next(&mut self) -> Result<Option<Vec<ChatEvent>>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        let mut events = Vec::new();
        match self.generation.next().await? {
            Some(event) => self.answer_options.events(event, &self.generation.usage(), &mut events),
            None => {
                self.ended = true;
                events.push(ChatEvent::Usage((&self.generation.usage()).into()));
            }
        }
        Ok(Some(events))
    }

    /// The events up to the first output.
    pub async fn beginning(&mut self) -> Result<Vec<Vec<ChatEvent>>, Failure> {
        let mut all = Vec::new();
        let is_output = |event: &ChatEvent| event.choice().is_some();
        while let Some(events) = self.next().await.map_err(failure)? {
            let begins = events.iter().any(is_output);
            all.push(events);
            if begins {
                break;
            }
        }
        Ok(all)
    }
}

/// Of an engine that did not begin to answer: waiting is the caller's to decide, but another target may be free, hold
/// more or take what this one does not.
pub fn failure(error: impl Into<ApiError>) -> Failure {
    let error = error.into();
    let elsewhere = error.status.is_server_error()
        || error.status.as_u16() == 429
        || ["context_length_exceeded", "unsupported_parameter", "unsupported_task"]
            .map(Some)
            .contains(&error.code);
    if elsewhere { Failure::next(error) } else { Failure::report(error) }
}
