//! What the scheduler knows of a sequence and of the request it belongs to.

use super::RequestId;
use super::bucket::Bucket;
use super::queue::Turn;
use crate::engine::constraint::SequenceConstraint;
use crate::engine::kv::{BlockHash, BlockTable};
use crate::engine::plan::SeqId;
use crate::protocol::{ConstraintFactory, Pooling, SamplingParams, TokenId, TokenLogprob};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

/// Order of importance: higher priority, then older. The last of the running is preempted first.
pub(super) type Rank = (Reverse<i32>, Duration, SeqId);

/// One choice of a request, waiting or running. There is no "phase": a sequence has `tokens`, of
/// which the first `computed` are in the KV cache; one token short is a decode, more is a prefill
/// (or a resumption), and whoever computes the last token samples the next, or gives the numbers that the request
/// wants in place of tokens and ends.
#[derive(Debug)]
pub(super) struct Sequence {
    pub id: SeqId,
    pub request: RequestId,
    pub choice: u32,
    pub priority: i32,
    pub arrived: Duration,
    pub params: Arc<SamplingParams>,
    /// The prompt, then the output so far.
    pub tokens: Vec<TokenId>,
    pub prompt_len: usize,
    /// Tokens whose KV is in `table`'s blocks; 0 while waiting.
    pub computed: usize,
    pub table: BlockTable,
    /// What its tokens keep to.
    pub constraint: Option<SequenceConstraint>,
    /// Output tokens that the constraint was told of.
    pub constrained: usize,
}

impl Sequence {
    pub fn rank(&self) -> Rank {
        (Reverse(self.priority), self.arrived, self.id)
    }

    pub fn turn(&self, bucket: Bucket) -> Turn {
        (Reverse(self.priority), bucket.due(self.arrived), self.id)
    }

    /// Tokens yet to be computed, at least one.
    pub fn pending(&self) -> usize {
        assert!(self.computed < self.tokens.len(), "sequence {} has nothing to compute", self.id.0);
        self.tokens.len() - self.computed
    }

    /// Has every running step produce a token: the last prompt token, once reached, counts too.
    pub fn is_decoding(&self) -> bool {
        self.pending() == 1 && self.computed > 0
    }

    pub fn output(&self) -> &[TokenId] {
        &self.tokens[self.prompt_len..]
    }
}

/// A request: what its choices have in common.
#[derive(Debug)]
pub(super) struct Request {
    pub prompt: Arc<[TokenId]>,
    pub params: Arc<SamplingParams>,
    pub priority: i32,
    pub arrived: Duration,
    /// Root of its block hashes: checkpoint and cache namespace.
    pub root: BlockHash,
    /// Choices that wait until the first one has computed the prompt, in order.
    pub held: Vec<u32>,
    /// Per choice, what was generated elsewhere before; taken when it joins the queue.
    pub generated: Vec<Option<Vec<TokenId>>>,
    /// Numbers are wanted, and no tokens.
    pub pooling: Option<Pooling>,
    /// Of each choice.
    pub constraint: Option<Arc<dyn ConstraintFactory>>,
    /// Choices that have not ended, held ones included.
    pub live: usize,
    /// A choice has been admitted at least once.
    pub admitted: bool,
    /// The prompt is in the cache and was reported.
    pub prompt_done: bool,
    /// Of the prompt, from the prefix cache.
    pub cached_tokens: usize,
    /// Scores of prompt tokens `1 ..`, as far as computed.
    pub scored: Vec<TokenLogprob>,
}

impl Request {
    /// Prompt tokens have yet to be scored, which a prefix hit would skip.
    pub fn scores_prompt(&self) -> bool {
        self.params.prompt_logprobs.is_some() && !self.prompt_done
    }
}
