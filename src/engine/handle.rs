//! The engine's outside: submit, cancel, stream. Cheap to clone, usable from any thread.
//!
//! A request's events come over a bounded channel whose bound is the number of events that the
//! request can have, so the engine thread never waits for a slow reader. Dropping the
//! [`TokenStream`] is cancellation: its blocks are free within one step.

use crate::protocol::{GenerateRequest, TokenEvent};

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// `--max-queued` requests wait already.
    #[error("the queue is full: {waiting} requests are waiting (limit {limit})")]
    QueueFull {
        /// Requests waiting now.
        waiting: usize,
        /// The bound.
        limit: usize,
    },
    /// Prompt and at least one output token exceed the context (or all KV blocks there are).
    #[error("the prompt has {prompt_tokens} tokens, the context holds {max_context}")]
    PromptTooLong {
        /// The prompt's length.
        prompt_tokens: usize,
        /// The longest sequence (prompt and output) that can be served.
        max_context: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {token} is not in the vocabulary of {vocab}")]
    BadToken {
        /// The id.
        token: u32,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The engine stopped; the reason is fit for callers.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
}

/// A point-in-time view for /metrics and /health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Requests submitted and not yet admitted.
    pub waiting: usize,
    /// Sequences admitted and not finished.
    pub running: usize,
    /// KV blocks referenced by running sequences.
    pub kv_blocks_used: usize,
    /// KV blocks there are.
    pub kv_blocks_total: usize,
    /// Steps executed.
    pub steps: u64,
    /// Rows computed by those steps.
    pub step_rows: u64,
    /// Rows of the last step.
    pub last_batch_rows: usize,
    /// Sequences of the last step.
    pub last_batch_seqs: usize,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Prompt tokens taken from the prefix cache.
    pub prefix_hit_tokens: u64,
    /// Tokens sampled.
    pub decode_tokens: u64,
    /// Sequences preempted for lack of blocks.
    pub preemptions: u64,
    /// KV positions that attention read, block and tile padding included.
    pub attended_positions: u64,
    /// KV positions that the rows needed.
    pub useful_positions: u64,
}

/// Submits requests to one engine.
#[derive(Clone, Debug)]
pub struct EngineHandle {}

impl EngineHandle {
    /// Queues a request. Never blocks.
    pub fn submit(&self, _request: GenerateRequest) -> Result<TokenStream, SubmitError> {
        todo!()
    }

    /// The longest sequence, prompt and output together, that this engine serves.
    pub fn max_context(&self) -> usize {
        todo!()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> EngineStats {
        todo!()
    }

    /// The reason, once the engine has stopped by a failure.
    pub fn failure(&self) -> Option<String> {
        todo!()
    }

    /// Refuses new requests from now on; running and queued ones go on.
    pub fn drain(&self) {
        todo!()
    }

    /// True when nothing is queued or running.
    pub fn is_idle(&self) -> bool {
        todo!()
    }
}

/// A request's events. Dropping it cancels the request.
#[derive(Debug)]
pub struct TokenStream {}

impl TokenStream {
    /// The next event; None after every choice has finished or the request has failed.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        todo!()
    }

    /// Ends one choice (a stop string was found); its blocks are free within one step and no
    /// further event comes for it but those already sent.
    pub fn cancel_choice(&self, _choice: u32) {
        todo!()
    }
}
