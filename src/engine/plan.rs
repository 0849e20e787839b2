//! What passes between the scheduler and an executor: a [`StepPlan`] down, a [`StepOutput`] up.

use super::constraint::MaskRequest;
use crate::protocol::{Pooling, SamplingParams, TokenId, TokenLogprob};
use std::sync::Arc;

/// A sequence in the engine: one choice of one request. Never reused while the engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// One step: a single forward pass over all rows of all its sequences.
#[derive(Clone, Debug, Default)]
pub struct StepPlan {
    /// Prefill chunks and decodes; each sequence at most once.
    pub seqs: Vec<PlannedSeq>,
}

impl StepPlan {
    /// Rows of the forward pass.
    pub fn rows(&self) -> usize {
        self.seqs.iter().map(|s| s.tokens.len()).sum()
    }
}

/// One sequence's part of a step.
#[derive(Clone, Debug)]
pub struct PlannedSeq {
    /// Whose.
    pub seq: SeqId,
    /// The tokens to compute, at positions `start ..`: a prefill chunk, or the last token.
    pub tokens: Vec<TokenId>,
    /// Position of the first of them; the KV of all earlier positions is in the blocks.
    pub start: u32,
    /// Block table over positions `0 .. start + tokens.len()`.
    pub blocks: Vec<u32>,
    /// Present when the last row's logits choose the next token.
    pub sample: Option<SampleSpec>,
    /// Present when the last row gives the numbers that the request wants in place of tokens; `sample` is then
    /// None.
    pub pooling: Option<Pooling>,
    /// Score these prompt tokens: row i predicts `prompt_targets[i]`. Empty unless the request
    /// asked for `prompt_logprobs`; the last chunk has one target less than rows.
    pub prompt_targets: Vec<TokenId>,
    /// The request's parameters.
    pub params: Arc<SamplingParams>,
}

/// What sampling needs beyond the parameters.
#[derive(Clone, Debug)]
pub struct SampleSpec {
    /// Which choice of the request.
    pub choice: u32,
    /// Output tokens before this one; with the seed and the choice it names the random draw.
    pub output_index: u32,
    /// The prompt, for repetition penalty; empty when no penalty needs it.
    pub prompt: Arc<[TokenId]>,
    /// The output so far, for penalties; empty when no penalty needs it.
    pub output: Vec<TokenId>,
    /// What tokens may come; None: no constraint is on them.
    pub mask: Option<MaskRequest>,
}

/// What a step produced.
#[derive(Clone, Debug, Default)]
pub struct StepOutput {
    /// Sequences whose logits or numbers were not finite: nothing of theirs is in the other lists.
    pub broken: Vec<SeqId>,
    /// Sequences whose constraint could not be followed, and why: nothing of theirs is in the other lists.
    pub failed: Vec<(SeqId, String)>,
    /// One per other planned sequence that asked for a sample, in plan order.
    pub sampled: Vec<(SeqId, TokenLogprob)>,
    /// One per other planned sequence that asked for numbers, in plan order.
    pub pooled: Vec<(SeqId, Vec<f32>)>,
    /// Scored prompt tokens, in plan order, one per target.
    pub prompt_logprobs: Vec<(SeqId, Vec<TokenLogprob>)>,
    /// Bytes of experts' weights that the step read, on the first rank.
    pub expert_bytes: u64,
    /// Whether the device replayed what it had recorded of an earlier step.
    pub replayed: bool,
}
