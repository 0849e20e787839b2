//! What our own models are asked and answer in OpenAI's format: [`params`] reads a request's parameters by hand
//! from JSON, answers are written from text events. [`wire`] holds what chat and completions share. Handlers
//! extract, call and respond; all that is pure in them is tested without a server.

pub mod chat;
pub mod params;
pub mod wire;

use super::app::InFlight;
use crate::gateway::target::local::{Delta, Generation, TextEvent, TokenScore, Usage};
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::sse::{FrameSource, Frames};
use crate::protocol::FinishReason;

/// Writes one endpoint's chunks.
pub trait Encoder: Send + 'static {
    /// The chunks of one event; `usage` is what was used so far.
    fn event(&mut self, event: TextEvent, usage: &Usage, frames: &mut Frames);
    /// What comes after the last event.
    fn end(&mut self, usage: &Usage, frames: &mut Frames);
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

#[cfg(test)]
mod tests;
