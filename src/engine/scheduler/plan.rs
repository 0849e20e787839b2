//! Makes a step: decodes, then prefill chunks in order of their turn, admitting from the queue.

use super::bucket::Bucket;
use super::queue::Turn;
use super::sequence::Sequence;
use super::{Positions, Scheduler};
use crate::engine::constraint::MaskRequest;
use crate::engine::plan::{PlannedSeq, SampleSpec, SeqId, StepPlan};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What `apply` needs to know of a planned sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launched {
    pub seq: SeqId,
    pub rows: usize,
    pub samples: bool,
    /// It gives the numbers that its request wants.
    pub pools: bool,
    /// Prompt tokens to be scored.
    pub targets: usize,
}

impl Scheduler {
    /// The next step, at most `step_token_budget` rows; empty only when there is nothing to do.
    /// A step is planned after the one before it was applied.
    pub fn plan(&mut self) -> StepPlan {
        assert!(self.launched.is_empty(), "a step was planned during a step");
        let mut plan = StepPlan::default();
        let preemptions = self.counters.preemptions;
        self.plan_decodes(&mut plan);
        // What was just preempted must not come back at once at the cost of the same blocks.
        let may_admit = self.counters.preemptions == preemptions;
        self.plan_prefills(&mut plan, may_admit);
        if !plan.seqs.is_empty() {
            self.count(&plan);
        }
        plan
    }

    /// All running decodes, the most important first. Who finds no block for its next token
    /// preempts from the other end, in the end itself; so a victim is never planned already.
    fn plan_decodes(&mut self, plan: &mut StepPlan) {
        let mut at = 0;
        while at < self.running.len() {
            let seq = &mut self.running[at];
            if seq.is_decoding() {
                if !seq.table.grow(&mut self.pool, seq.computed + 1) {
                    self.preempt_last();
                    continue;
                }
                plan.seqs.push(self.take_chunk(at, 1));
            }
            at += 1;
        }
    }

    /// Chunks of prefills in order of their turn, those running and those waiting alike, until the
    /// budget is used up. A running prefill's turn moves forward as it gets shorter.
    fn plan_prefills(&mut self, plan: &mut StepPlan, mut may_admit: bool) {
        let prefills = self.running.iter().filter(|seq| !seq.is_decoding());
        let mut started: BinaryHeap<Reverse<(Turn, SeqId)>> =
            prefills.map(|seq| Reverse((seq.turn(Bucket::of(seq.pending())), seq.id))).collect();
        let mut group = None;
        let mut budget = self.config.step_token_budget - plan.rows();
        while budget > 0 {
            let before_started = |turn: &Turn| started.peek().is_none_or(|Reverse((other, _))| turn < other);
            let waiting = self.queue.next(group).filter(|(turn, _)| may_admit && before_started(turn));
            let at = if let Some((_, bucket)) = waiting {
                // Nobody overtakes a sequence that must wait for room, or it might wait for ever.
                let Some(at) = self.admit(bucket) else {
                    may_admit = false;
                    continue;
                };
                group.get_or_insert(bucket);
                at
            } else if let Some(Reverse((_, id))) = started.pop() {
                self.running_index(id)
            } else {
                break;
            };
            let planned = self.take_chunk(at, budget);
            budget -= planned.tokens.len();
            plan.seqs.push(planned);
        }
    }

    /// Moves the first sequence of a bucket from the queue to the running, with blocks for all its
    /// tokens, as far as possible from the cache. None when there is no room for it. Each running
    /// sequence is left a block to grow into, so that admission does not preempt at once.
    fn admit(&mut self, bucket: Bucket) -> Option<usize> {
        if self.running.len() >= self.config.max_running {
            return None;
        }
        let mut seq = self.queue.pop(bucket)?;
        let scores_prompt = self.request_mut(seq.request).scores_prompt();
        if !scores_prompt {
            seq.computed = seq.table.attach_prefix(&mut self.pool, &seq.tokens);
        }
        let wanted = seq.table.missing(seq.tokens.len()) + self.running.len();
        if wanted > self.pool.free() || !seq.table.grow(&mut self.pool, seq.tokens.len()) {
            self.unload(&mut seq);
            self.queue.push(seq);
            return None;
        }
        self.counters.prefix_hit_tokens += seq.computed as u64;
        let request = self.request_mut(seq.request);
        if !request.admitted {
            request.admitted = true;
            request.cached_tokens = seq.computed.min(seq.prompt_len);
            self.waiting -= 1;
        }
        let at = self.running.partition_point(|other| other.rank() < seq.rank());
        self.running.insert(at, seq);
        Some(at)
    }

    /// Sends the least important running sequence back to the queue; what it has generated is
    /// part of what it computes anew when it comes back.
    fn preempt_last(&mut self) {
        let mut seq = self.running.pop().expect("who finds no block is running");
        self.counters.preemptions += 1;
        self.unload(&mut seq);
        let request = self.request_mut(seq.request);
        if request.scores_prompt() {
            request.scored.clear();
        }
        self.queue.push(seq);
    }

    fn unload(&mut self, seq: &mut Sequence) {
        seq.table.release(&mut self.pool);
        seq.computed = 0;
    }

    /// Plans up to `budget` tokens of a running sequence.
    fn take_chunk(&mut self, at: usize, budget: usize) -> PlannedSeq {
        let seq = &mut self.running[at];
        let request = &self.requests[&seq.request];
        let (start, rows) = (seq.computed, seq.pending().min(budget));
        let end = start + rows;
        let prompt_targets = match request.scores_prompt() {
            true => seq.tokens[start + 1..seq.prompt_len.min(end + 1)].to_vec(),
            false => Vec::new(),
        };
        let is_last = end == seq.tokens.len();
        let pooling = request.pooling.clone().filter(|_| is_last);
        let sample = (is_last && pooling.is_none()).then(|| {
            let params = &seq.params;
            let repetition = params.repetition_penalty != 1.0;
            let mask = seq.constraint.as_ref().map(|constraint| {
                let told = std::mem::replace(&mut seq.constrained, end - seq.prompt_len);
                MaskRequest::new(constraint, &seq.tokens[seq.prompt_len + told..])
            });
            let penalties = repetition || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
            SampleSpec {
                choice: seq.choice,
                output_index: seq.output().len() as u32,
                prompt: if repetition { request.prompt.clone() } else { self.no_prompt.clone() },
                output: if penalties { seq.output().to_vec() } else { Vec::new() },
                mask,
            }
        });
        self.launched.push(Launched {
            seq: seq.id,
            rows,
            samples: sample.is_some(),
            pools: pooling.is_some(),
            targets: prompt_targets.len(),
        });
        if !seq.is_decoding() {
            self.counters.prefill_rows += rows as u64;
        }
        PlannedSeq {
            seq: seq.id,
            tokens: seq.tokens[start..end].to_vec(),
            start: start as u32,
            blocks: seq.table.covering(end).to_vec(),
            sample,
            pooling,
            prompt_targets,
            params: seq.params.clone(),
        }
    }

    fn count(&mut self, plan: &StepPlan) {
        let mut positions = Positions::default();
        for seq in &plan.seqs {
            positions += Positions::of_rows(seq.start as usize, seq.tokens.len());
        }
        let counters = &mut self.counters;
        counters.steps += 1;
        counters.last_rows = plan.rows();
        counters.last_seqs = plan.seqs.len();
        counters.rows += counters.last_rows as u64;
        counters.last_positions = positions;
        counters.positions += positions;
        assert!(counters.last_rows <= self.config.step_token_budget, "a step over its budget");
    }
}
