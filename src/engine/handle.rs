//! The engine's outside: submit, cancel, stream. Cheap to clone, usable from any thread.
//!
//! A request's events come over a bounded channel whose bound is the number of events that the
//! request can have, so the engine thread never waits for a slow reader. Dropping the
//! [`TokenStream`] is cancellation: its blocks are free within one step.
//!
//! Nothing is lost: a submission first reserves a place in the queue by raising `waiting`, and the
//! engine thread ends only by closing that counter while it is zero.

use crate::protocol::{EngineTasks, GenerateRequest, Pooling, TokenEvent, TokenId};
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

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
    /// More requests at a time than the engine has borne of late.
    #[error("the model bears {limit} requests at a time as it is, and they are under way")]
    Busy {
        /// What it bears.
        limit: usize,
    },
    /// The prompt, and where tokens are generated one output token, exceed the context (or all KV blocks there are).
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
    /// The model cannot do what was asked for; fit for callers.
    #[error("{0}")]
    Unsupported(String),
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
    /// Bytes of experts' weights that steps read, on the first rank.
    pub expert_bytes: u64,
    /// Steps that a GPU replayed as a graph.
    pub replayed_steps: u64,
    /// Nanoseconds of the engine's time that a prompt token takes of late; 0: not known yet.
    pub prefill_token_ns: u64,
    /// The same for a generated token: of a batch, its share.
    pub decode_token_ns: u64,
}

impl std::ops::Add for EngineStats {
    type Output = Self;

    /// Of two engines together.
    fn add(self, other: Self) -> Self {
        Self {
            waiting: self.waiting + other.waiting,
            running: self.running + other.running,
            kv_blocks_used: self.kv_blocks_used + other.kv_blocks_used,
            kv_blocks_total: self.kv_blocks_total + other.kv_blocks_total,
            steps: self.steps + other.steps,
            step_rows: self.step_rows + other.step_rows,
            last_batch_rows: self.last_batch_rows + other.last_batch_rows,
            last_batch_seqs: self.last_batch_seqs + other.last_batch_seqs,
            prefill_tokens: self.prefill_tokens + other.prefill_tokens,
            prefix_hit_tokens: self.prefix_hit_tokens + other.prefix_hit_tokens,
            decode_tokens: self.decode_tokens + other.decode_tokens,
            preemptions: self.preemptions + other.preemptions,
            attended_positions: self.attended_positions + other.attended_positions,
            useful_positions: self.useful_positions + other.useful_positions,
            expert_bytes: self.expert_bytes + other.expert_bytes,
            replayed_steps: self.replayed_steps + other.replayed_steps,
            // Of the slower one.
            prefill_token_ns: self.prefill_token_ns.max(other.prefill_token_ns),
            decode_token_ns: self.decode_token_ns.max(other.decode_token_ns),
        }
    }
}

/// What the engine thread is told. Cancellation is not among it: it must not wait for room in a
/// queue, so it goes by the flags of [`Submission`].
#[derive(Debug)]
pub(super) enum Command {
    /// A request, its place in the queue reserved.
    Submit(Submission),
    /// Finish what there is, then end.
    Drain,
}

/// A request on its way to the engine thread.
#[derive(Debug)]
pub(super) struct Submission {
    pub id: u64,
    pub request: GenerateRequest,
    /// Closed when the caller has dropped its stream.
    pub events: mpsc::Sender<TokenEvent>,
    /// One per choice: the caller wants no more of it.
    pub cancelled: Arc<[AtomicBool]>,
}

/// `waiting` once the engine thread has ended: no place can be reserved any more.
const CLOSED: usize = usize::MAX;

/// What handles and the engine thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub max_queued: usize,
    pub vocab: usize,
    /// The longest sequence, prompt and output.
    pub capacity: usize,
    /// What it can be asked for.
    pub tasks: EngineTasks,
    /// Requests submitted and not yet admitted, or [`CLOSED`].
    pub waiting: AtomicUsize,
    /// Requests submitted and not yet ended.
    pub live: AtomicUsize,
    pub draining: AtomicBool,
    pub failure: OnceLock<String>,
    pub stats: ArcSwap<EngineStats>,
    next_id: AtomicU64,
}

impl Shared {
    pub fn new(max_queued: usize, vocab: usize, capacity: usize, tasks: EngineTasks) -> Self {
        Self {
            max_queued,
            vocab,
            capacity,
            tasks,
            waiting: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            failure: OnceLock::new(),
            stats: ArcSwap::default(),
            next_id: AtomicU64::new(0),
        }
    }

    /// Ends the intake for ever, unless a submission is on its way.
    pub fn close(&self) -> bool {
        self.waiting.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Why nothing can be submitted, if so.
    fn refusal(&self) -> Option<SubmitError> {
        if let Some(reason) = self.failure.get() {
            return Some(SubmitError::Stopped(reason.clone()));
        }
        self.draining.load(Ordering::Acquire).then_some(SubmitError::Draining)
    }

    /// Why the request cannot be served by this model, whatever its prompt is.
    fn unsupported(&self, pooling: Option<&Pooling>) -> Option<SubmitError> {
        let (can, refusal) = match pooling {
            None => (self.tasks.generates, "this model generates no text"),
            Some(Pooling::Logits(_)) => (self.tasks.generates, "this model has no logits of tokens"),
            Some(Pooling::Embedding) => (self.tasks.embeds, "this model gives no embeddings"),
            Some(Pooling::Classify) => (self.tasks.classifies, "this model has no classification head"),
        };
        (!can).then(|| SubmitError::Unsupported(refusal.into()))
    }

    /// Takes a place in the queue.
    fn reserve(&self) -> Result<(), SubmitError> {
        let take = |waiting| (waiting < self.max_queued).then(|| waiting + 1);
        match self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(_) => Ok(()),
            Err(CLOSED) => Err(self.refusal().unwrap_or(SubmitError::Draining)),
            Err(waiting) => Err(SubmitError::QueueFull { waiting, limit: self.max_queued }),
        }
    }
}

/// Submits requests to one engine.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: SyncSender<Command>,
}

impl EngineHandle {
    /// Queues a request. Never blocks. `max_tokens` is clamped to what the context still holds.
    ///
    /// # Panics
    /// On an empty prompt or a request without choices, or one with pooling and several, which
    /// [`GenerateRequest`] rules out; on a request to go on with that says nothing of some choice, or whose
    /// choices have all ended; on token types that are not one for each token.
    pub fn submit(&self, mut request: GenerateRequest) -> Result<TokenStream, SubmitError> {
        assert!(!request.prompt.is_empty() && request.choices > 0, "an empty request");
        let types = request.token_types.as_ref();
        assert!(types.is_none_or(|types| types.len() == request.prompt.len()), "a token without a type");
        let is_pooled = request.pooling.is_some();
        if is_pooled {
            assert!(request.choices == 1, "numbers in place of tokens have one choice");
            // What belongs to tokens is of no account.
            let sampling = Arc::make_mut(&mut request.sampling);
            (sampling.max_tokens, sampling.prompt_logprobs) = (1, None);
            sampling.logit_bias.clear();
            (request.constraint, request.generated) = (None, Vec::new());
        }
        let generated = &request.generated;
        let is_whole = generated.len() == request.choices as usize && generated.iter().any(Option::is_some);
        assert!(generated.is_empty() || is_whole, "a request to go on with that is none");
        let shared = &self.shared;
        if let Some(refusal) = shared.refusal() {
            return Err(refusal);
        }
        if let Some(refusal) = shared.unsupported(request.pooling.as_ref()) {
            return Err(refusal);
        }
        let prompt_tokens = request.prompt.len();
        let prompt_max = if is_pooled { shared.capacity } else { shared.capacity - 1 };
        if prompt_tokens > prompt_max {
            return Err(SubmitError::PromptTooLong { prompt_tokens, max_context: shared.capacity });
        }
        let biased = request.sampling.logit_bias.iter().map(|(token, _)| *token);
        let generated = request.generated.iter().flatten().flatten().copied();
        let wanted = match &request.pooling {
            Some(Pooling::Logits(tokens)) => tokens.iter(),
            _ => [].iter(),
        };
        let outside = |token: &TokenId| *token as usize >= shared.vocab;
        if let Some(token) =
            request.prompt.iter().chain(wanted).copied().chain(biased).chain(generated).find(outside)
        {
            return Err(SubmitError::BadToken { token, vocab: shared.vocab });
        }
        let generated = request.generated.iter().flatten();
        let longest = generated.map(|tokens| prompt_tokens + tokens.len()).max().unwrap_or(prompt_tokens);
        if longest > prompt_max {
            return Err(SubmitError::PromptTooLong { prompt_tokens: longest, max_context: shared.capacity });
        }
        let room = (shared.capacity - prompt_tokens) as u64;
        if !is_pooled && u64::from(request.sampling.max_tokens) > room {
            Arc::make_mut(&mut request.sampling).max_tokens = room as u32;
        }
        let choices = request.choices as usize;
        // Prompt, then for each choice its tokens (or its numbers) and Finished; or Failed in place of the rest.
        let bound = 1 + choices * (request.sampling.max_tokens as usize + 1) + 1;
        let (events, receiver) = mpsc::channel(bound);
        let cancelled: Arc<[AtomicBool]> = (0..choices).map(|_| AtomicBool::new(false)).collect();

        shared.reserve()?;
        shared.live.fetch_add(1, Ordering::AcqRel);
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let submission = Submission { id, request, events, cancelled: cancelled.clone() };
        if self.commands.try_send(Command::Submit(submission)).is_err() {
            // The queue has room for every reserved place, so the engine thread is gone without
            // having closed: it was killed.
            shared.live.fetch_sub(1, Ordering::AcqRel);
            return Err(SubmitError::Stopped("its thread ended unexpectedly".into()));
        }
        Ok(TokenStream { events: receiver, cancelled })
    }

    /// The longest sequence, prompt and output together, that this engine serves.
    pub fn max_context(&self) -> usize {
        self.shared.capacity
    }

    /// Counters and gauges.
    pub fn stats(&self) -> EngineStats {
        let waiting = match self.shared.waiting.load(Ordering::Acquire) {
            CLOSED => 0,
            waiting => waiting,
        };
        EngineStats { waiting, ..**self.shared.stats.load() }
    }

    /// The reason, once the engine has stopped by a failure.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.get().cloned()
    }

    /// Refuses new requests from now on; running and queued ones go on, then the engine ends.
    pub fn drain(&self) {
        if !self.shared.draining.swap(true, Ordering::AcqRel) {
            // The queue has a place for this one command; a failure means that the engine has
            // ended already.
            let _ = self.commands.try_send(Command::Drain);
        }
    }

    /// Requests queued or running.
    pub fn live(&self) -> usize {
        self.shared.live.load(Ordering::Acquire)
    }

    /// True when nothing is queued or running.
    pub fn is_idle(&self) -> bool {
        self.live() == 0
    }
}

/// A request's events. Dropping it cancels the request.
#[derive(Debug)]
pub struct TokenStream {
    events: mpsc::Receiver<TokenEvent>,
    cancelled: Arc<[AtomicBool]>,
}

impl TokenStream {
    /// The next event; None after every choice has finished or the request has failed.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        self.events.recv().await
    }

    /// Ends one choice (a stop string was found); its blocks are free within one step and no
    /// further event comes for it but those already sent.
    pub fn cancel_choice(&self, choice: u32) {
        if let Some(flag) = self.cancelled.get(choice as usize) {
            flag.store(true, Ordering::Release);
        }
    }
}
