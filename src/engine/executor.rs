//! Carries out steps. The contract is asynchronous: [`Executor::launch`] hands a plan to the
//! device's own thread and returns at once, [`Executor::collect`] waits for its tokens, so that
//! the events of the step before are emitted while this one runs.
//!
//! [`DeviceExecutor`] is that thread, or one for each [`Rank`] of a tensor-parallel group: it
//! turns a plan into a [`Batch`] and runs the model's forward pass once over all rows; the first
//! rank samples. It holds no request state: everything that a step needs is in its plan.

use super::constraint::MaskRequest;
use super::kv::BLOCK_TOKENS;
use super::plan::{StepOutput, StepPlan};
use super::sampler::{SampleError, Sampler};
use crate::backend::{BROKEN, Backend, Batch, Choice, KV_BLOCK_TOKENS, SeqSpan};
use crate::model::{LOGIT_ROWS_MAX, Model, PoolingHead};
use crate::protocol::{EngineTasks, Pooling, TokenId, TokenLogprob};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// A launched step.
#[derive(Debug)]
#[must_use = "a launched step must be collected"]
pub struct Ticket(pub u64);

/// A device failed or an invariant broke: the engine stops.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExecutorError(pub String);

impl From<SampleError> for ExecutorError {
    fn from(error: SampleError) -> Self {
        Self(error.to_string())
    }
}

/// One model on one device (or one group of ranks).
pub trait Executor: Send {
    /// Starts a step. At most one is in flight.
    fn launch(&mut self, plan: StepPlan) -> Result<Ticket, ExecutorError>;
    /// Waits for a launched step.
    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput, ExecutorError>;
    /// What its model can be asked for.
    fn tasks(&self) -> EngineTasks {
        EngineTasks::CAUSAL
    }
}

// The scheduler counts in the blocks that the backend stores.
const _: () = assert!(BLOCK_TOKENS == KV_BLOCK_TOKENS);

type StepResult = Result<StepOutput, ExecutorError>;

/// What the first rank that failed died of: the others fail only as they wait for it in vain.
type Failure = Arc<OnceLock<ExecutorError>>;

/// One device: a backend, and on it a model (or its rank's share) and the KV cache.
pub struct Rank<B: Backend> {
    /// Computes.
    pub backend: B,
    /// The weights.
    pub model: Box<dyn Model<B>>,
    /// The keys and values.
    pub kv: B::KvCache,
}

/// How long a step may take before its device is taken to hang.
#[derive(Clone, Debug)]
pub struct StepTimeout {
    /// For the error: `hip:0`.
    pub device: String,
    /// Of a step.
    pub limit: Duration,
}

/// A model on a group of ranks, each on a thread of its own.
pub struct DeviceExecutor {
    /// To each rank. One plan in flight and none waiting: at most one step is launched.
    plans: Vec<SyncSender<Arc<StepPlan>>>,
    /// From the first rank.
    results: Receiver<StepResult>,
    failure: Failure,
    tasks: EngineTasks,
    threads: Vec<JoinHandle<()>>,
    steps: u64,
    timeout: Option<StepTimeout>,
    /// Its threads may never return.
    hangs: bool,
}

impl DeviceExecutor {
    /// Takes the ranks of a group, each with a KV cache of `kv_blocks` blocks, to new threads.
    pub fn spawn<B: Backend>(ranks: Vec<Rank<B>>, kv_blocks: usize, timeout: Option<StepTimeout>) -> Self {
        let (outbox, results) = sync_channel::<StepResult>(1);
        let mut outbox = Some(outbox);
        let failure = Failure::default();
        let tasks = ranks.first().map_or(EngineTasks::CAUSAL, |rank| rank.model.pooling_head().tasks());
        let (mut plans, mut threads) = (Vec::new(), Vec::new());
        for (index, rank) in ranks.into_iter().enumerate() {
            let (sender, inbox) = sync_channel::<Arc<StepPlan>>(1);
            // The first rank alone answers.
            let outbox = outbox.take();
            let failure = failure.clone();
            let device = Device { rank, kv_blocks, sampler: Sampler::default() };
            let thread = std::thread::Builder::new()
                .name(format!("rank {index}"))
                .spawn(move || run(index, device, &inbox, outbox.as_ref(), &failure))
                .expect("the system can start a thread");
            plans.push(sender);
            threads.push(thread);
        }
        Self { plans, results, failure, tasks, threads, steps: 0, timeout, hangs: false }
    }

    /// Why a rank does not answer.
    fn ended(&self) -> ExecutorError {
        let unknown = || ExecutorError("a device's thread has ended".into());
        self.failure.get().cloned().unwrap_or_else(unknown)
    }
}

/// A rank's thread: steps until there are no more plans, or one fails. A rank that fails says why
/// and drops its backend, in this order, which ends the others' waiting for it.
fn run<B: Backend>(
    rank: usize,
    mut device: Device<B>,
    plans: &Receiver<Arc<StepPlan>>,
    results: Option<&SyncSender<StepResult>>,
    failure: &Failure,
) {
    while let Ok(plan) = plans.recv() {
        let step = catch_unwind(AssertUnwindSafe(|| device.step(&plan, results.is_some())));
        let result =
            step.unwrap_or_else(|panic| Err(ExecutorError(format!("step panicked: {}", message(&panic)))));
        let result = result.map_err(|error| {
            tracing::error!(rank, %error, "a step failed");
            failure.get_or_init(|| ExecutorError(format!("rank {rank}: {error}"))).clone()
        });
        let failed = result.is_err();
        if results.is_some_and(|results| results.send(result).is_err()) || failed {
            return;
        }
    }
}

impl Executor for DeviceExecutor {
    fn launch(&mut self, plan: StepPlan) -> Result<Ticket, ExecutorError> {
        let plan = Arc::new(plan);
        let sent = self.plans.iter().all(|plans| plans.send(plan.clone()).is_ok());
        self.steps += 1;
        if sent { Ok(Ticket(self.steps)) } else { Err(self.ended()) }
    }

    fn tasks(&self) -> EngineTasks {
        self.tasks
    }

    fn collect(&mut self, _ticket: Ticket) -> StepResult {
        let Some(StepTimeout { device, limit }) = &self.timeout else {
            return self.results.recv().unwrap_or_else(|_| Err(self.ended()));
        };
        match self.results.recv_timeout(*limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => {
                self.hangs = true;
                let seconds = limit.as_secs_f64();
                let cause = format!("{device} has not finished a step within {seconds} s (--step-timeout)");
                Err(self.failure.get_or_init(|| ExecutorError(cause)).clone())
            }
        }
    }
}

impl Drop for DeviceExecutor {
    fn drop(&mut self) {
        self.plans.clear();
        if self.hangs {
            return;
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn message(panic: &Box<dyn std::any::Any + Send>) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "unknown cause",
    }
}

struct Device<B: Backend> {
    rank: Rank<B>,
    kv_blocks: usize,
    sampler: Sampler,
}

impl<B: Backend> Device<B> {
    /// Logits that are not finite are the end of their sequence, not of the step. All ranks
    /// compute the logits; only one that `answers` looks at them.
    fn step(&mut self, plan: &StepPlan, answers: bool) -> StepResult {
        let mut batch = batch(plan, self.kv_blocks)?;
        let wants = wants(plan, &batch);
        batch.outputs = wants.iter().map(|want| want.row).collect();
        let Self { rank: Rank { backend, model, kv }, sampler, .. } = self;
        let vocab = model.vocab();
        // What the device chooses by itself; the host has to see the logits for the rest.
        let choices: Vec<Option<Choice>> = match backend.samples(vocab) {
            true => wants.iter().map(|want| want.choice(plan, vocab)).collect(),
            false => vec![None; wants.len()],
        };
        let by_device: Vec<bool> = choices.iter().map(Option::is_some).collect();
        let on_device = by_device.contains(&true);
        if on_device {
            batch.choices = choices.into_iter().map(Option::unwrap_or_default).collect();
        }
        // Masks are computed while the forward pass runs, so it runs before they are asked for.
        batch.constrained =
            wants.iter().zip(&by_device).any(|(want, by_device)| *by_device && want.mask(plan).is_some());
        let constrained = batch.constrained;
        // Those that want logits come first.
        let hidden = wants.iter().position(Want::is_hidden).unwrap_or(wants.len());
        let of_hidden = hidden..wants.len();
        let chunks = chunks(0..hidden);
        let expert_bytes_before = backend.expert_bytes_read();
        let mut found = Found::new(plan);
        let mut replayed = false;
        backend.begin(&batch);
        if constrained {
            replayed = backend.run(&mut |backend| model.forward(backend, kv));
            if answers {
                let of_device = wants.iter().enumerate().filter(|(output, _)| by_device[*output]);
                let masks = of_device.filter_map(|(output, want)| Some((output, found.mask(want)?)));
                backend.constrain(&masks.collect::<Vec<_>>());
            }
        }
        if !by_device.contains(&false) && !constrained && of_hidden.is_empty() {
            replayed = backend.run(&mut |backend| {
                model.forward(backend, kv);
                for chunk in chunks.clone() {
                    let logits = model.logits(backend, chunk.clone());
                    if answers {
                        backend.sample(logits, chunk);
                    }
                }
            });
        } else {
            if !constrained {
                model.forward(backend, kv);
            }
            for chunk in chunks {
                let logits = model.logits(backend, chunk.clone());
                if !answers {
                    continue;
                }
                if on_device {
                    backend.sample(logits, chunk.clone());
                }
                if !by_device[chunk.clone()].contains(&false) {
                    continue;
                }
                let logits = backend.read(logits).map_err(|error| ExecutorError(error.to_string()))?;
                for (output, logits) in chunk.zip(logits.chunks_exact(vocab)) {
                    if !by_device[output] {
                        found.look(&wants[output], logits, sampler)?;
                    }
                }
            }
        }
        if answers {
            for chunk in self::chunks(of_hidden) {
                let rows = model.hidden(backend, chunk.clone());
                let values = backend.read(rows).map_err(|error| ExecutorError(error.to_string()))?.to_vec();
                let columns = values.len() / chunk.len();
                for (output, row) in chunk.zip(values.chunks_exact(columns)) {
                    found.pool(&wants[output], model.pooling_head(), row);
                }
            }
        }
        if on_device && answers {
            let tokens = backend.tokens().map_err(|error| ExecutorError(error.to_string()))?;
            let chosen = wants.iter().zip(tokens).zip(&by_device).filter(|(_, by_device)| **by_device);
            chosen.for_each(|((want, token), _)| found.take(want, *token));
        }
        if !answers {
            backend.finish().map_err(|error| ExecutorError(error.to_string()))?;
        }
        let expert_bytes = backend.expert_bytes_read() - expert_bytes_before;
        Ok(StepOutput { expert_bytes, replayed, ..found.output() })
    }
}

/// Outputs in ranges that a model takes at once.
fn chunks(outputs: Range<usize>) -> impl Iterator<Item = Range<usize>> + Clone {
    let end = outputs.end;
    outputs.step_by(LOGIT_ROWS_MAX).map(move |first| first..end.min(first + LOGIT_ROWS_MAX))
}

/// A row of which something is wanted, for a sequence of the plan.
struct Want {
    row: u32,
    seq: usize,
    what: Wanted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The next token.
    Sample,
    /// The score of the sequence's target of that index.
    Score(usize),
    /// The logits of chosen tokens.
    Logits,
    /// Its hidden state after the final norm, for the pooling head.
    Hidden,
}

impl Want {
    /// Needs no logits.
    fn is_hidden(&self) -> bool {
        self.what == Wanted::Hidden
    }

    /// As an order to a device; None where the logits themselves are needed.
    fn choice(&self, plan: &StepPlan, vocab: usize) -> Option<Choice> {
        let seq = &plan.seqs[self.seq];
        match (self.what, &seq.sample) {
            (Wanted::Sample, Some(spec)) => Sampler::choice(vocab, &seq.params, spec),
            _ => None,
        }
    }

    /// Where its token is constrained.
    fn mask<'p>(&self, plan: &'p StepPlan) -> Option<&'p MaskRequest> {
        match self.what {
            Wanted::Sample => plan.seqs[self.seq].sample.as_ref()?.mask.as_ref(),
            _ => None,
        }
    }
}

/// In the order of the plan, but that those which need no logits come last.
fn wants(plan: &StepPlan, batch: &Batch) -> Vec<Want> {
    let (mut wants, mut hidden) = (Vec::new(), Vec::new());
    for (index, (seq, span)) in plan.seqs.iter().zip(&batch.seqs).enumerate() {
        let row = span.row as u32;
        let scored = 0..seq.prompt_targets.len();
        wants.extend(scored.map(|i| Want { row: row + i as u32, seq: index, what: Wanted::Score(i) }));
        let last = |what| Want { row: row + span.rows as u32 - 1, seq: index, what };
        match &seq.pooling {
            None if seq.sample.is_some() => wants.push(last(Wanted::Sample)),
            None => {}
            Some(Pooling::Logits(_)) => wants.push(last(Wanted::Logits)),
            Some(Pooling::Embedding | Pooling::Classify) => hidden.push(last(Wanted::Hidden)),
        }
    }
    wants.append(&mut hidden);
    wants
}

/// What came of a step, by the plan's sequences.
struct Found<'a> {
    plan: &'a StepPlan,
    broken: Vec<bool>,
    /// Why a sequence's constraint could not be followed.
    failed: Vec<Option<String>>,
    sampled: Vec<Option<TokenLogprob>>,
    pooled: Vec<Option<Vec<f32>>>,
    scored: Vec<Vec<TokenLogprob>>,
}

impl<'a> Found<'a> {
    fn new(plan: &'a StepPlan) -> Self {
        let count = plan.seqs.len();
        Self {
            plan,
            broken: vec![false; count],
            failed: vec![None; count],
            sampled: vec![None; count],
            pooled: vec![None; count],
            scored: vec![Vec::new(); count],
        }
    }

    /// Waits for what tokens may come; None where all may, or where that failed.
    fn mask(&mut self, want: &Want) -> Option<Arc<[u32]>> {
        match want.mask(self.plan)?.wait() {
            Ok(mask) => mask,
            Err(reason) => {
                self.failed[want.seq] = Some(reason);
                None
            }
        }
    }

    /// On the host.
    fn look(&mut self, want: &Want, logits: &[f32], sampler: &mut Sampler) -> Result<(), ExecutorError> {
        let seq = &self.plan.seqs[want.seq];
        if self.broken[want.seq] || self.failed[want.seq].is_some() {
            return Ok(());
        }
        let mask = self.mask(want);
        if self.failed[want.seq].is_some() {
            return Ok(());
        }
        let token = match (want.what, &seq.sample, &seq.pooling) {
            (Wanted::Score(target), ..) => {
                let top = seq.params.prompt_logprobs.unwrap_or(0);
                sampler.score(logits, seq.prompt_targets[target], top)
            }
            (Wanted::Sample, Some(spec), _) => {
                sampler.sample_within(mask.as_deref(), logits, &seq.params, spec)
            }
            (Wanted::Logits, _, Some(Pooling::Logits(tokens))) => {
                self.give(want, tokens.iter().map(|token| logits[*token as usize]).collect());
                return Ok(());
            }
            _ => return Ok(()),
        };
        match (token, want.what) {
            (Ok(token), Wanted::Score(_)) => self.scored[want.seq].push(token),
            (Ok(token), _) => self.sampled[want.seq] = Some(token),
            (Err(SampleError::NotFinite), _) => self.broken[want.seq] = true,
            (Err(error), _) => return Err(error.into()),
        }
        Ok(())
    }

    /// From a row's hidden state.
    fn pool(&mut self, want: &Want, head: &PoolingHead, row: &[f32]) {
        let values = match self.plan.seqs[want.seq].pooling {
            Some(Pooling::Classify) => head.classify(row),
            _ => head.embed(row),
        };
        self.give(want, values);
    }

    fn give(&mut self, want: &Want, values: Vec<f32>) {
        match values.iter().all(|value| value.is_finite()) {
            true => self.pooled[want.seq] = Some(values),
            false => self.broken[want.seq] = true,
        }
    }

    /// What a device chose.
    fn take(&mut self, want: &Want, token: TokenId) {
        match token {
            BROKEN => self.broken[want.seq] = true,
            _ => self.sampled[want.seq] = Some(TokenLogprob { token, logprob: 0.0, top: Vec::new() }),
        }
    }

    fn output(self) -> StepOutput {
        let mut output = StepOutput::default();
        let found =
            self.broken.into_iter().zip(self.failed).zip(self.sampled).zip(self.pooled).zip(self.scored);
        for (seq, ((((broken, failed), sampled), pooled), scored)) in self.plan.seqs.iter().zip(found) {
            if broken {
                output.broken.push(seq.seq);
                continue;
            }
            if let Some(reason) = failed {
                output.failed.push((seq.seq, reason));
                continue;
            }
            output.sampled.extend(sampled.map(|token| (seq.seq, token)));
            output.pooled.extend(pooled.map(|values| (seq.seq, values)));
            if !seq.prompt_targets.is_empty() {
                output.prompt_logprobs.push((seq.seq, scored));
            }
        }
        output
    }
}

/// The plan as a backend sees it. What a kernel would trust is asserted here.
fn batch(plan: &StepPlan, kv_blocks: usize) -> Result<Batch, ExecutorError> {
    let mut batch = Batch::default();
    for seq in &plan.seqs {
        let (start, rows) = (seq.start as usize, seq.tokens.len());
        let context = start + rows;
        let table = batch.block_tables.len();
        let blocks_right = seq.blocks.len() == context.div_ceil(KV_BLOCK_TOKENS)
            && seq.blocks.iter().all(|&block| (block as usize) < kv_blocks);
        if rows == 0 || !blocks_right || seq.prompt_targets.len() > rows {
            return Err(ExecutorError(format!(
                "broken plan: {:?} has {rows} rows at {start}, {} of {kv_blocks} blocks, {} targets",
                seq.seq,
                seq.blocks.len(),
                seq.prompt_targets.len()
            )));
        }
        batch.seqs.push(SeqSpan { row: batch.tokens.len(), rows, context, table });
        batch.block_tables.extend_from_slice(&seq.blocks);
        batch.tokens.extend_from_slice(&seq.tokens);
        for position in start..context {
            batch.positions.push(position as u32);
            let block = seq.blocks[position / KV_BLOCK_TOKENS] as usize;
            batch.slots.push((block * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS) as u32);
        }
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::backend::{KvDtype, KvLayout, KvSpec};
    use crate::engine::plan::{PlannedSeq, SeqId};
    use crate::protocol::SamplingParams;

    /// Waits for the other ranks, or dies instead.
    struct Fake {
        dies: bool,
        x: <CpuBackend as Backend>::Tensor,
    }

    impl Model<CpuBackend> for Fake {
        fn kv_spec(&self) -> KvSpec {
            let layout = KvLayout::Heads { kv_heads: 1, head_dim: 8 };
            KvSpec { layers: 1, layout, dtype: KvDtype::F32 }
        }

        fn vocab(&self) -> usize {
            1
        }

        fn forward(&mut self, backend: &mut CpuBackend, _: &mut <CpuBackend as Backend>::KvCache) {
            assert!(!self.dies, "out of luck");
            backend.all_reduce(&mut self.x);
        }

        fn logits(&mut self, _: &mut CpuBackend, _: Range<usize>) -> &mut <CpuBackend as Backend>::Tensor {
            &mut self.x
        }

        fn hidden(&mut self, _: &mut CpuBackend, _: Range<usize>) -> &mut <CpuBackend as Backend>::Tensor {
            &mut self.x
        }

        fn pooling_head(&self) -> &PoolingHead {
            &PoolingHead { scale: 1.0, normalise: false, classifier: None }
        }
    }

    #[test]
    fn a_failed_group_names_the_first_cause() {
        let ranks = CpuBackend::group(3, 3).into_iter().enumerate().map(|(rank, backend)| {
            let model = Fake { dies: rank == 2, x: backend.tensor(1, 8).expect("a tensor") };
            let kv = backend.kv_cache(&model.kv_spec(), 1).expect("a cache");
            Rank { backend, model: Box::new(model) as Box<dyn Model<_>>, kv }
        });
        let mut executor = DeviceExecutor::spawn(ranks.collect(), 1, None);
        let seq = PlannedSeq {
            seq: SeqId(0),
            tokens: vec![0],
            start: 0,
            blocks: vec![0],
            sample: None,
            pooling: None,
            prompt_targets: Vec::new(),
            params: Arc::new(SamplingParams::default()),
        };
        for _ in 0..2 {
            let launched = executor.launch(StepPlan { seqs: vec![seq.clone()] });
            let error = launched.and_then(|ticket| executor.collect(ticket)).expect_err("a rank died");
            assert_eq!(error.to_string(), "rank 2: step panicked: out of luck");
        }
    }
}
