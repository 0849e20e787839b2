//! Decides what each step computes: pure, without threads, clocks or devices.
//!
//! [`Scheduler::submit`] and the cancels change what there is to do, [`Scheduler::plan`] makes a
//! step of it, [`Scheduler::apply`] takes the step's result in and says what to tell the callers.
//! Time enters only as a request's arrival: whose turn it is follows from fixed due times (see
//! [`Bucket`]), so a plan depends on nothing but the state.
//!
//! Invariants:
//! - Every running decode is in every step; prefill chunks share what is left of the budget.
//! - A sequence is admitted with the blocks for all its tokens, so only decodes ever ask for more,
//!   and the most important sequence (see `Rank`) can always get them: there is no deadlock.
//! - A sequence that could not fit even alone is never submitted.
//! - With something to do, a plan is never empty.
//!
//! Deliberately absent: preemption on behalf of waiting requests (priority orders the queue, and
//! a running sequence is only stopped when blocks run out), and swapping KV to other memory.

mod bucket;
mod plan;
mod queue;
mod sequence;

use crate::engine::constraint::SequenceConstraint;
use crate::engine::kv::{BLOCK_TOKENS, BlockHash, BlockPool, BlockTable};
use crate::engine::plan::{SeqId, StepOutput};
use crate::protocol::{FinishReason, GenerateRequest, TokenEvent, TokenId, TokenLogprob};
pub use bucket::Bucket;
use plan::Launched;
use queue::Queue;
use sequence::{Request, Sequence};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Names a request within one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A scheduler's limits, each at least 1.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// The longest sequence, prompt and output, in tokens.
    pub max_context: usize,
    /// KV blocks.
    pub kv_blocks: usize,
    /// Sequences that run at once.
    pub max_running: usize,
    /// Rows of a step; raised to `max_running`, so that every decode fits.
    pub step_token_budget: usize,
    /// The checkpoint's identity, part of every block's hash.
    pub checkpoint_salt: u64,
}

impl SchedulerConfig {
    /// The longest sequence that can be served: the context, or all KV blocks there are.
    pub fn capacity(&self) -> usize {
        self.max_context.min(self.kv_blocks * BLOCK_TOKENS)
    }
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps planned.
    pub steps: u64,
    /// Their rows.
    pub rows: u64,
    /// Rows of the last step.
    pub last_rows: usize,
    /// Sequences of the last step.
    pub last_seqs: usize,
    /// Rows that were not decodes: prompts, and what a preemption made necessary again.
    pub prefill_rows: u64,
    /// Tokens that prefix hits saved.
    pub prefix_hit_tokens: u64,
    /// Tokens sampled.
    pub sampled_tokens: u64,
    /// Bytes of experts' weights read.
    pub expert_bytes: u64,
    /// Steps that a device replayed.
    pub replayed_steps: u64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// KV positions in all steps.
    pub positions: Positions,
    /// KV positions in the last step.
    pub last_positions: Positions,
}

/// KV positions that attention goes over, per layer and head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// What the rows need: the sum of their contexts.
    pub useful: u64,
    /// What is read: each row's context in whole blocks.
    pub attended: u64,
}

impl Positions {
    /// The positions of `rows` consecutive rows, the first at position `start`.
    pub fn of_rows(start: usize, rows: usize) -> Self {
        let contexts = start + 1..=start + rows;
        Self {
            useful: contexts.clone().map(|c| c as u64).sum(),
            attended: contexts.map(|c| c.next_multiple_of(BLOCK_TOKENS) as u64).sum(),
        }
    }

    /// Positions read in vain, as a part of those read.
    pub fn waste(&self) -> f64 {
        1.0 - self.useful as f64 / self.attended.max(1) as f64
    }
}

impl std::ops::AddAssign for Positions {
    fn add_assign(&mut self, other: Self) {
        self.useful += other.useful;
        self.attended += other.attended;
    }
}

/// The state of one engine's requests.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    requests: HashMap<RequestId, Request>,
    queue: Queue,
    /// In order of rank.
    running: Vec<Sequence>,
    /// The planned step, until it is applied.
    launched: Vec<Launched>,
    /// Requests that were never admitted.
    waiting: usize,
    next_seq: u64,
    counters: Counters,
    /// Shared by all samples that need no prompt.
    no_prompt: Arc<[TokenId]>,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(mut config: SchedulerConfig) -> Self {
        assert!(config.max_context > 0 && config.max_running > 0, "a limit is zero: {config:?}");
        config.step_token_budget = config.step_token_budget.max(config.max_running);
        Self {
            pool: BlockPool::new(config.kv_blocks),
            config,
            requests: HashMap::new(),
            queue: Queue::default(),
            running: Vec::new(),
            launched: Vec::new(),
            waiting: 0,
            next_seq: 0,
            counters: Counters::default(),
            no_prompt: Arc::new([]),
        }
    }

    /// Takes a request in. Its prompt is not empty and leaves room for at least one token in
    /// [`SchedulerConfig::capacity`] unless it wants numbers in place of tokens, it has at least one choice, and its id is new.
    pub fn submit(&mut self, id: RequestId, request: GenerateRequest, now: Duration) {
        let len = request.prompt.len();
        let answer = usize::from(request.pooling.is_none());
        assert!(len > 0 && len + answer <= self.config.capacity(), "a prompt of {len} tokens does not fit");
        let mut generated = request.generated;
        generated.resize(
            if generated.is_empty() { request.choices as usize } else { generated.len() },
            Some(Vec::new()),
        );
        let held: Vec<u32> =
            (0..request.choices).filter(|choice| generated[*choice as usize].is_some()).collect();
        assert!(!held.is_empty(), "a request without choices");
        let old = self.requests.insert(
            id,
            Request {
                prompt: request.prompt,
                params: request.sampling,
                priority: request.priority,
                arrived: now,
                root: BlockHash::root(self.config.checkpoint_salt, request.cache_salt),
                live: held.len(),
                held,
                generated,
                pooling: request.pooling,
                constraint: request.constraint,
                admitted: false,
                prompt_done: false,
                cached_tokens: 0,
                scored: Vec::new(),
            },
        );
        assert!(old.is_none(), "request {} was submitted twice", id.0);
        self.waiting += 1;
        self.enqueue_first_held(id);
    }

    /// Ends all choices of a request, between steps; their blocks are free at once.
    pub fn cancel_request(&mut self, id: RequestId) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.live -= request.held.len();
            request.held.clear();
            self.end_sequences(id, |_| true);
        }
    }

    /// Ends one choice, between steps; its blocks are free at once. False when it had ended.
    pub fn cancel_choice(&mut self, id: RequestId, choice: u32) -> bool {
        let Some(request) = self.requests.get_mut(&id) else { return false };
        if let Some(at) = request.held.iter().position(|held| *held == choice) {
            request.held.remove(at);
            request.live -= 1;
            return true;
        }
        let leads = !request.prompt_done;
        let ended = self.end_sequences(id, |seq| seq.choice == choice);
        if ended && leads && self.requests.contains_key(&id) {
            self.enqueue_first_held(id);
        }
        ended
    }

    /// Takes in what the planned step produced. Events are in order per choice.
    pub fn apply(&mut self, output: StepOutput) -> Vec<(RequestId, TokenEvent)> {
        self.counters.expert_bytes += output.expert_bytes;
        self.counters.replayed_steps += u64::from(output.replayed);
        let mut events = Vec::new();
        let mut broken: Vec<(RequestId, String)> = Vec::new();
        let mut sampled = output.sampled.into_iter();
        let mut pooled = output.pooled.into_iter();
        let mut scored = output.prompt_logprobs.into_iter();
        for step in std::mem::take(&mut self.launched) {
            let at = self.running_index(step.seq);
            let seq = &mut self.running[at];
            if output.broken.contains(&step.seq) {
                seq.table.forget(&mut self.pool);
                let reason = "the model's output for this request is not finite (NaN or infinity)".into();
                broken.push((seq.request, reason));
                continue;
            }
            if let Some((_, reason)) = output.failed.iter().find(|(failed, _)| *failed == step.seq) {
                broken.push((seq.request, reason.clone()));
                continue;
            }
            seq.computed += step.rows;
            seq.table.seal(&mut self.pool, &seq.tokens, seq.computed);
            let (id, prompt_done) = (seq.request, seq.computed >= seq.prompt_len);
            if step.targets > 0 {
                let (of, scores) = scored.next().expect("the executor scored what the plan asked for");
                assert_eq!((of, scores.len()), (step.seq, step.targets), "scores of another sequence");
                self.request_mut(id).scored.extend(scores);
            }
            if prompt_done && !self.request_mut(id).prompt_done {
                events.push((id, self.finish_prompt(id)));
            }
            if step.samples {
                let (of, token) = sampled.next().expect("the executor sampled what the plan asked for");
                assert_eq!(of, step.seq, "a sample of another sequence");
                self.push_token(at, token, &mut events);
            }
            if step.pools {
                let (of, values) =
                    pooled.next().expect("the executor gave the numbers that the plan asked for");
                assert_eq!(of, step.seq, "the numbers of another sequence");
                let seq = self.running.remove(at);
                let choice = seq.choice;
                self.end(seq);
                events.push((id, TokenEvent::Pooled { values }));
                events.push((id, TokenEvent::Finished { choice, reason: FinishReason::Stop }));
            }
        }
        let left = sampled.next().is_some() || pooled.next().is_some() || scored.next().is_some();
        assert!(!left, "results nobody asked for");
        for (id, message) in broken {
            // Several of its choices may have failed.
            if !self.requests.contains_key(&id) {
                continue;
            }
            self.cancel_request(id);
            events.push((id, TokenEvent::Failed { message }));
        }
        events
    }

    /// Nothing is waiting or running.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Requests that were never admitted.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Sequences that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The blocks.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The prompt is computed: report it, and let the other choices share its blocks.
    fn finish_prompt(&mut self, id: RequestId) -> TokenEvent {
        let request = self.request_mut(id);
        request.prompt_done = true;
        let scored = std::mem::take(&mut request.scored);
        let logprobs = request.params.prompt_logprobs.map(|_| {
            assert_eq!(scored.len() + 1, request.prompt.len(), "a prompt token was not scored");
            std::iter::once(None).chain(scored.into_iter().map(Some)).collect()
        });
        let cached_tokens = request.cached_tokens as u32;
        for _ in 0..request.held.len() {
            self.enqueue_first_held(id);
        }
        TokenEvent::Prompt { cached_tokens, logprobs }
    }

    /// Appends a sampled token and ends the sequence if it was the last.
    fn push_token(&mut self, at: usize, token: TokenLogprob, events: &mut Vec<(RequestId, TokenEvent)>) {
        self.counters.sampled_tokens += 1;
        let seq = &mut self.running[at];
        let (id, choice, last) = (seq.request, seq.choice, token.token);
        seq.tokens.push(last);
        events.push((id, TokenEvent::Token { choice, token }));
        let full = seq.tokens.len() >= self.config.capacity();
        let reason = if seq.params.stop_tokens.contains(&last) {
            FinishReason::Stop
        } else if full || seq.output().len() >= seq.params.max_tokens as usize {
            FinishReason::Length
        } else {
            return;
        };
        let seq = self.running.remove(at);
        self.end(seq);
        events.push((id, TokenEvent::Finished { choice, reason }));
    }

    /// Lets the next held choice of a request join the queue.
    fn enqueue_first_held(&mut self, id: RequestId) {
        let seq = SeqId(self.next_seq);
        let request = self.request_mut(id);
        if request.held.is_empty() {
            return;
        }
        let choice = request.held.remove(0);
        let mut tokens = request.prompt.to_vec();
        tokens.extend(request.generated[choice as usize].take().into_iter().flatten());
        let seq = Sequence {
            id: seq,
            request: id,
            choice,
            priority: request.priority,
            arrived: request.arrived,
            params: request.params.clone(),
            tokens,
            prompt_len: request.prompt.len(),
            computed: 0,
            table: BlockTable::new(request.root),
            constraint: request.constraint.clone().map(SequenceConstraint::new),
            constrained: 0,
        };
        self.next_seq += 1;
        self.queue.push(seq);
    }

    /// Ends a request's sequences that `wanted` picks; true if there was one.
    fn end_sequences(&mut self, id: RequestId, wanted: impl Fn(&Sequence) -> bool) -> bool {
        assert!(self.launched.is_empty(), "a sequence was cancelled during a step");
        let wanted = |seq: &Sequence| seq.request == id && wanted(seq);
        let mut ended = self.queue.remove(wanted);
        ended.extend(self.running.extract_if(.., |seq| wanted(seq)));
        let any = !ended.is_empty();
        ended.into_iter().for_each(|seq| self.end(seq));
        any
    }

    /// The only way out: blocks go back, and with its last choice the request is forgotten.
    fn end(&mut self, mut seq: Sequence) {
        seq.table.release(&mut self.pool);
        let request = self.request_mut(seq.request);
        request.live -= 1;
        if request.live == 0 {
            self.waiting -= usize::from(!request.admitted);
            self.requests.remove(&seq.request);
        }
    }

    fn request_mut(&mut self, id: RequestId) -> &mut Request {
        self.requests.get_mut(&id).expect("a request lives as long as its sequences")
    }

    fn running_index(&self, id: SeqId) -> usize {
        self.running.iter().position(|seq| seq.id == id).expect("a planned sequence runs until it is applied")
    }
}
