//! One running request of one of our engines. Prompts of token ids go in, text events come out:
//! submit -> token events -> detokenize -> parse where asked for -> text events.
//!
//! Invariants:
//! - Dropping a [`Generation`] drops its token streams, which cancels the request.
//! - No token is lost: one that makes no text yet (split UTF-8, perhaps the start of a stop
//!   string) waits with its log-probability and is reported with the text that releases it.
//! - Counting ends where the output ends: tokens that the engine made after a stop string do not
//!   count. The stop token and the tokens of a stop string do, as in vLLM.
//!
//! Deliberately absent: JSON.

use super::LocalError;
use super::unshown::Unshown;
use crate::gateway::chat::{StopReason, TokenScore, TokenUsage};
use crate::gateway::ledger::account::Attempt;
use crate::gateway::ledger::metrics::{Outcome, RequestMetrics};
use crate::gateway::target::registry::LocalModel;
use crate::gateway::target::replicas::ReplicaStream;
use crate::gateway::wire::bounds::RequestBounds;
use crate::protocol::{
    ConstraintFactory, FinishReason, GenerateRequest, SamplingParams, TokenEvent, TokenId, TokenLogprob,
};
use crate::text::{AnswerFormat, AnswerParser, Detokenizer, ParsedEvent, ParserOptions, Tokenizer};
use futures_util::future::select_all;
use std::collections::VecDeque;
use std::sync::Arc;

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// For logs.
    pub id: String,
    /// Whose cached prompts it shares.
    pub cache_salt: u64,
    /// One or several prompts; each gets `choices` choices.
    pub prompts: Vec<Arc<[TokenId]>>,
    /// Choices per prompt.
    pub choices: u32,
    /// All but `max_tokens`.
    pub sampling: SamplingParams,
    /// Output tokens at the most: fewer where the context holds no more. 0: the prompts alone are computed.
    pub max_tokens: u32,
    /// Stop strings.
    pub stops: Vec<String>,
    /// Leave the stop string (or stop token) in the text.
    pub include_stop: bool,
    /// Leave special tokens out of the text.
    pub skip_special: bool,
    /// Name tokens `token_id:ID` in scores.
    pub tokens_as_ids: bool,
    /// What tokens may come; None: all may.
    pub constraint: Option<Arc<dyn ConstraintFactory>>,
    /// Tokens of reasoning are not told, nor their log-probabilities.
    pub hides_reasoning: bool,
    /// How to read reasoning and calls of tools out of the text; None: all of it is text.
    pub parser: Option<(AnswerFormat, ParserOptions)>,
    /// Of a request with one prompt that another engine has begun: see [`GenerateRequest::generated`].
    pub generated: Vec<Option<Vec<TokenId>>>,
}

/// Output tokens for a prompt of this length: as many as were asked for, or as the context holds. Agents ask for as
/// much as the largest models answer.
pub(super) fn output_tokens(asked: u32, prompt_tokens: usize, max_context: usize) -> Result<u32, LocalError> {
    match max_context.saturating_sub(prompt_tokens).min(u32::MAX as usize) as u32 {
        0 => Err(LocalError::ContextLength { prompt_tokens, max_context }),
        room => Ok(asked.min(room)),
    }
}

/// Tokens so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Over all prompts, each once.
    pub prompt_tokens: usize,
    /// Over all choices; stop tokens and stop strings count, what came after them does not.
    pub completion_tokens: usize,
    /// Prompt tokens whose KV was cached.
    pub cached_tokens: usize,
    /// Of the completion, tokens of reasoning.
    pub reasoning_tokens: usize,
}

impl From<FinishReason> for StopReason {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::End,
            FinishReason::Length => Self::Length,
        }
    }
}

impl From<&Usage> for TokenUsage {
    fn from(usage: &Usage) -> Self {
        Self {
            input: usage.prompt_tokens as u64,
            cached: usage.cached_tokens as u64,
            output: usage.completion_tokens as u64,
            reasoning: usage.reasoning_tokens as u64,
            ..Self::default()
        }
    }
}

/// A piece of a choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Which choice: prompt index times choices per prompt, plus the prompt's choice.
    pub choice: usize,
    /// The text; empty only in a last piece, or without a tokenizer.
    pub text: String,
    /// The tokens that made it, with those held back before.
    pub ids: Vec<TokenId>,
    /// One per token where logprobs were asked for, else empty.
    pub scores: Vec<TokenScore>,
    /// What the text says, where it is parsed.
    pub parsed: Option<Vec<ParsedEvent>>,
    /// Of a choice's end: the stop string that ended it.
    pub stop: Option<String>,
    /// Of a choice's end: it called tools.
    pub called: bool,
}

/// What a generation tells.
#[derive(Clone, Debug, PartialEq)]
pub enum TextEvent {
    /// A prompt is computed.
    Prompt {
        /// Which.
        prompt: usize,
        /// One per prompt token where asked for, else empty.
        scores: Vec<TokenScore>,
    },
    /// More text.
    Delta(Delta),
    /// A choice's end, with the last of its text and tokens.
    Finished(Delta, FinishReason),
}

/// One running request.
pub struct Generation {
    /// None once all choices of the prompt have finished.
    streams: Vec<Option<ReplicaStream>>,
    choices: Vec<ChoiceText>,
    choices_per_prompt: usize,
    prompts: Vec<Arc<[TokenId]>>,
    text: TextOptions,
    usage: Usage,
    bounds: RequestBounds,
    metrics: RequestMetrics,
    /// Until it is over.
    attempt: Option<Attempt>,
    /// Events that have come and were not told.
    waiting: VecDeque<TextEvent>,
    /// Nothing is generated: the prompts alone are computed.
    prompts_only: bool,
}

/// What turning tokens into text needs to know.
struct TextOptions {
    tokenizer: Option<Arc<Tokenizer>>,
    stop_tokens: Vec<TokenId>,
    include_stop: bool,
    logprobs: bool,
    skip_special: bool,
    tokens_as_ids: bool,
}

/// A choice on its way to text.
struct ChoiceText {
    detokenizer: Option<Detokenizer>,
    parser: Option<AnswerParser>,
    /// Tokens of reasoning, and tokens of which it is not known yet.
    reasoning_tokens: usize,
    unread_tokens: usize,
    /// What hides tokens of reasoning.
    unshown: Option<Unshown>,
    held: Delta,
    finished: bool,
}

impl Generation {
    /// Submits all prompts; when one is refused, none runs.
    pub fn start(
        model: &LocalModel,
        request: GenerationRequest,
        bounds: RequestBounds,
        mut metrics: RequestMetrics,
    ) -> Result<Self, LocalError> {
        if !request.stops.is_empty() && model.tokenizer.is_none() {
            return Err(LocalError::NoTokenizer);
        }
        let text = TextOptions {
            tokenizer: model.tokenizer.clone(),
            stop_tokens: request.sampling.stop_tokens.clone(),
            include_stop: request.include_stop,
            logprobs: request.sampling.logprobs.is_some(),
            skip_special: request.skip_special,
            tokens_as_ids: request.tokens_as_ids,
        };
        let prompts_only = request.max_tokens == 0;
        let mut streams = Vec::with_capacity(request.prompts.len());
        let mut usage = Usage::default();
        for (i, prompt) in request.prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(LocalError::EmptyPrompt);
            }
            usage.prompt_tokens += prompt.len();
            let max_tokens = output_tokens(request.max_tokens, prompt.len(), model.engine.max_context())?;
            // An engine computes a prompt to predict at least one token.
            let max_tokens = max_tokens.max(1);
            // The caller's min_tokens may exceed what is left.
            let min_tokens = request.sampling.min_tokens.min(max_tokens);
            let sampling = SamplingParams { max_tokens, min_tokens, ..request.sampling.clone() };
            streams.push(Some(model.engine.submit(GenerateRequest {
                id: if i == 0 { request.id.clone() } else { format!("{}-{i}", request.id) },
                prompt: prompt.clone(),
                choices: request.choices,
                sampling: Arc::new(sampling),
                cache_salt: request.cache_salt,
                priority: 0,
                constraint: request.constraint.clone(),
                generated: request.generated.clone(),
                pooling: None,
                token_types: None,
            })?));
        }
        let choices_per_prompt = request.choices as usize;
        let choice = |choice: usize| {
            let mut detokenizer = model.tokenizer.as_ref().map(|tokenizer| {
                let stops = request.stops.clone();
                let markers = request.parser.iter().flat_map(|(format, _)| format.markers());
                let markers = markers.filter_map(|marker| tokenizer.token_id(marker)).collect();
                Detokenizer::new(tokenizer.clone(), request.skip_special, stops, request.include_stop)
                    .keeping(markers)
            });
            let parser = request.parser.as_ref();
            let mut parser = parser.map(|(format, options)| AnswerParser::new(format, options.clone()));
            let before: Option<&Option<Vec<TokenId>>> = request.generated.get(choice);
            if let (Some(detokenizer), Some(Some(ids))) = (&mut detokenizer, before) {
                for id in ids {
                    // The caller has this text, and what it says.
                    let delta = detokenizer.push(*id);
                    if delta.stopped.is_some() {
                        return Err(LocalError::Ended);
                    }
                    parser.iter_mut().for_each(|parser| parser.push(&delta.text, &mut Vec::new()));
                }
            }
            let is_open = request.parser.as_ref().is_some_and(|(_, options)| options.reasoning_is_open);
            let hides = request.hides_reasoning && parser.is_some();
            Ok(ChoiceText {
                unshown: hides.then(|| Unshown::new(is_open)),
                detokenizer,
                parser,
                reasoning_tokens: 0,
                unread_tokens: 0,
                held: Delta { choice, ..Delta::default() },
                finished: before.is_some_and(Option::is_none),
            })
        };
        let choices =
            (0..request.prompts.len() * choices_per_prompt).map(choice).collect::<Result<_, _>>()?;
        metrics.submitted(usage.prompt_tokens);
        let prompts = request.prompts;
        Ok(Self {
            streams,
            choices,
            choices_per_prompt,
            prompts,
            text,
            usage,
            bounds,
            metrics,
            attempt: None,
            waiting: VecDeque::new(),
            prompts_only,
        })
    }

    /// Waits until there is output.
    pub async fn begin(&mut self) -> Result<(), LocalError> {
        let mut events = VecDeque::new();
        while let Some(event) = self.next().await? {
            let is_output = !matches!(event, TextEvent::Prompt { .. });
            events.push_back(event);
            if is_output {
                break;
            }
        }
        events.append(&mut self.waiting);
        self.waiting = events;
        Ok(())
    }

    /// What it uses is recorded there.
    pub fn account(&mut self, attempt: Attempt) {
        self.attempt = Some(attempt);
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The next event; None when all choices have finished. Loses nothing when dropped early.
    pub async fn next(&mut self) -> Result<Option<TextEvent>, LocalError> {
        if let Some(event) = self.waiting.pop_front() {
            return Ok(Some(event));
        }
        while self.streams.iter().any(Option::is_some) {
            let event = match self.bounds.bound(next_of(&mut self.streams)).await {
                Ok((prompt, Some(event))) => {
                    self.bounds.heard();
                    self.event(prompt, event)
                }
                // A stream is dropped with its last choice, so its end is never seen.
                Ok((_, None)) => Err(LocalError::Failed("the engine ended the request early".into())),
                Err(overdue) => Err(overdue.into()),
            };
            match event {
                Ok(None) => {}
                Ok(Some(event)) => {
                    if let Some(attempt) = &mut self.attempt {
                        attempt.counted((&self.usage).into());
                        for event in std::iter::once(&event).chain(&self.waiting) {
                            if let TextEvent::Finished(_, reason) = event {
                                attempt.finished((*reason).into());
                            }
                        }
                    }
                    if self.streams.iter().all(Option::is_none) {
                        self.metrics.end(Outcome::Finished);
                        if let Some(attempt) = self.attempt.take() {
                            attempt.completed();
                        }
                    }
                    return Ok(Some(event));
                }
                Err(error) => {
                    if matches!(&error, LocalError::Overdue(overdue) if overdue.is_timeout()) {
                        self.streams.iter_mut().flatten().for_each(ReplicaStream::timed_out);
                    }
                    self.streams.clear();
                    self.metrics.end(error.outcome());
                    if let Some(attempt) = self.attempt.take() {
                        attempt.failed(error.status());
                    }
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    fn event(&mut self, prompt: usize, event: TokenEvent) -> Result<Option<TextEvent>, LocalError> {
        let event = match event {
            TokenEvent::Prompt { cached_tokens, logprobs } => {
                self.usage.cached_tokens += cached_tokens as usize;
                let scores = self.text.prompt_scores(&self.prompts[prompt], logprobs);
                if self.prompts_only {
                    let first = prompt * self.choices_per_prompt;
                    let choices = &mut self.choices[first..first + self.choices_per_prompt];
                    self.waiting.extend(choices.iter_mut().map(|choice| choice.finish(FinishReason::Length)));
                    self.streams[prompt] = None;
                }
                return Ok(Some(TextEvent::Prompt { prompt, scores }));
            }
            TokenEvent::Token { choice, token } => {
                let index = prompt * self.choices_per_prompt + choice as usize;
                if self.choices[index].finished {
                    return Ok(None);
                }
                self.usage.completion_tokens += 1;
                self.metrics.token(index);
                let known = self.choices[index].reasoning_tokens;
                let event = self.choices[index].token(&self.text, token);
                self.usage.reasoning_tokens += self.choices[index].reasoning_tokens - known;
                if matches!(event, Some(TextEvent::Finished(..)))
                    && let Some(stream) = &mut self.streams[prompt]
                {
                    stream.cancel_choice(choice);
                }
                event
            }
            TokenEvent::Finished { choice, reason } => {
                let choice = &mut self.choices[prompt * self.choices_per_prompt + choice as usize];
                let known = choice.reasoning_tokens;
                let event = if choice.finished { None } else { Some(choice.finish(reason)) };
                self.usage.reasoning_tokens += choice.reasoning_tokens - known;
                event
            }
            TokenEvent::Failed { message } => return Err(LocalError::Failed(message)),
            TokenEvent::Pooled { .. } => unreachable!("a generation asks for tokens"),
        };
        let first = prompt * self.choices_per_prompt;
        if self.choices[first..first + self.choices_per_prompt].iter().all(|choice| choice.finished) {
            self.streams[prompt] = None;
        }
        Ok(event)
    }
}

/// The next event of any of the streams, and whose it is. At least one must be there.
async fn next_of(streams: &mut [Option<ReplicaStream>]) -> (usize, Option<TokenEvent>) {
    let live = streams.iter_mut().enumerate().filter_map(|(i, stream)| Some((i, stream.as_mut()?)));
    let waits = live.map(|(i, stream)| Box::pin(async move { (i, stream.next().await) }));
    select_all(waits).await.0
}

impl ChoiceText {
    /// One more token: text that is now certain, or the end where it completes a stop string.
    fn token(&mut self, options: &TextOptions, token: TokenLogprob) -> Option<TextEvent> {
        let id = token.token;
        self.held.ids.push(id);
        if options.logprobs {
            self.held.scores.push(options.score(id, Some(token), options.skip_special));
        }
        let Some(detokenizer) = &mut self.detokenizer else {
            return Some(TextEvent::Delta(self.take()));
        };
        if !options.include_stop && options.stop_tokens.contains(&id) {
            // Its `Finished` follows; a stop token is not text.
            return None;
        }
        let delta = detokenizer.push(id);
        self.held.text.push_str(&delta.text);
        self.unshown.iter_mut().for_each(|unshown| unshown.made(delta.text.len()));
        if delta.stopped.is_some() {
            self.finished = true;
            self.held.stop = delta.stopped;
            self.parse(true);
            return Some(TextEvent::Finished(self.take(), FinishReason::Stop));
        }
        if self.held.text.is_empty() {
            return None;
        }
        self.parse(false);
        Some(TextEvent::Delta(self.take()))
    }

    /// The end: whatever was held back.
    fn finish(&mut self, reason: FinishReason) -> TextEvent {
        self.finished = true;
        if let Some(detokenizer) = &mut self.detokenizer {
            self.held.text.push_str(&detokenizer.finish());
        }
        self.parse(true);
        TextEvent::Finished(self.take(), reason)
    }

    /// Reads what the text that is held says, and counts the tokens of reasoning in it.
    fn parse(&mut self, is_end: bool) {
        let Some(parser) = &mut self.parser else { return };
        let mut events = Vec::new();
        parser.push(&self.held.text, &mut events);
        if is_end {
            parser.finish(&mut events);
            self.held.called = parser.called();
        }
        self.unread_tokens += self.held.ids.len();
        if !events.is_empty() {
            let tokens = std::mem::take(&mut self.unread_tokens);
            let is_reasoning = |event: &ParsedEvent| matches!(event, ParsedEvent::Reasoning(_));
            self.reasoning_tokens += if events.iter().any(is_reasoning) { tokens } else { 0 };
        }
        if let Some(unshown) = &mut self.unshown {
            unshown.hide(&mut self.held, &events, is_end);
        }
        self.held.parsed = Some(events);
    }

    fn take(&mut self) -> Delta {
        let empty = Delta { choice: self.held.choice, ..Delta::default() };
        std::mem::replace(&mut self.held, empty)
    }
}

impl TextOptions {
    fn token_text(&self, id: TokenId) -> (String, Vec<u8>) {
        let (text, bytes) = match &self.tokenizer {
            Some(tokenizer) => tokenizer.token_text(id),
            None => Default::default(),
        };
        if self.tokens_as_ids || self.tokenizer.is_none() {
            (format!("token_id:{id}"), bytes)
        } else {
            (text, bytes)
        }
    }

    /// A token and what was said about it.
    fn score(&self, id: TokenId, scored: Option<TokenLogprob>, skip_special: bool) -> TokenScore {
        let (text, bytes) = self.token_text(id);
        let skipped = |tokenizer: &Arc<Tokenizer>| {
            skip_special && tokenizer.decode(&[id], true).is_ok_and(|text| text.is_empty())
        };
        let chars = match &self.tokenizer {
            Some(tokenizer) if skipped(tokenizer) => 0,
            // In UTF-8, 10xxxxxx goes on with a character.
            _ => bytes.iter().filter(|byte| **byte >> 6 != 0b10).count(),
        };
        let Some(scored) = scored else { return TokenScore { text, bytes, chars, ..TokenScore::default() } };
        let top = scored.top.iter().map(|&(id, logprob)| {
            let (text, bytes) = self.token_text(id);
            (text, bytes, logprob)
        });
        TokenScore { text, bytes, chars, logprob: Some(scored.logprob), top: top.collect() }
    }

    fn prompt_scores(
        &self,
        prompt: &[TokenId],
        logprobs: Option<Vec<Option<TokenLogprob>>>,
    ) -> Vec<TokenScore> {
        let scored = logprobs.unwrap_or_default();
        // A prompt's text has its special tokens.
        prompt.iter().zip(scored).map(|(&id, scored)| self.score(id, scored, false)).collect()
    }
}

#[cfg(test)]
mod tests;
