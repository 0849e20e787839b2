//! Constraints on the tokens of sequences: their states, and the threads that ask them.
//!
//! A sequence's [`SequenceConstraint`] goes with it through queue, preemption and recompute; the scheduler only
//! hands it on. Each step that samples for the sequence carries a [`MaskRequest`]: the tokens that came since the
//! last one, and a place for the answer. [`MaskThreads`] answer while the step's forward pass runs, and the
//! executor waits for the answer where it samples that row.
//!
//! Masks are bits, one a token of the model's vocabulary. The ban of end tokens before `min_tokens` is in the mask
//! of a constrained sequence, unless its grammar allows nothing else: then the grammar wins.

use super::plan::StepPlan;
use crate::protocol::{ConstraintFactory, SamplingParams, TokenConstraint, TokenId};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Threads that compute masks; a mask takes some 50 us, and a step has as many as constrained sequences.
const THREADS_MAX: usize = 4;

/// Bit `t % 32` of word `t / 32`: token `t` may come next. None: every token may.
pub type Mask = Option<Arc<[u32]>>;

/// Where a sequence is in its constraint.
#[derive(Clone, Debug)]
pub struct SequenceConstraint(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    New(Arc<dyn ConstraintFactory>),
    Begun(Box<dyn TokenConstraint>),
}

impl SequenceConstraint {
    /// One that has accepted nothing; it is made by the thread that asks it first.
    pub fn new(factory: Arc<dyn ConstraintFactory>) -> Self {
        Self(Arc::new(Mutex::new(State::New(factory))))
    }

    /// What tokens may follow those that it has accepted and these.
    fn mask(&self, accepted: &[TokenId], vocab: usize, banned: &[TokenId]) -> Result<Mask, String> {
        let mut state = lock(&self.0);
        if let State::New(factory) = &*state {
            *state = State::Begun(factory.constraint());
        }
        let State::Begun(constraint) = &mut *state else { unreachable!("it was begun above") };
        accepted.iter().try_for_each(|token| constraint.accept(*token))?;
        let mut mask = vec![0; vocab.div_ceil(32)];
        let restricts = constraint.mask(&mut mask)?;
        if !restricts {
            if banned.is_empty() {
                return Ok(None);
            }
            mask.fill(u32::MAX);
        }
        if let Some(last) = mask.last_mut().filter(|_| !vocab.is_multiple_of(32)) {
            *last &= (1 << (vocab % 32)) - 1;
        }
        if mask.iter().all(|word| *word == 0) {
            return Err("the grammar allows no token that the model has".into());
        }
        let mut kept = mask.clone();
        for token in banned {
            if let Some(word) = kept.get_mut(*token as usize / 32) {
                *word &= !(1 << (token % 32));
            }
        }
        Ok(match kept.iter().any(|word| *word != 0) {
            true => Some(kept.into()),
            false => restricts.then(|| mask.into()),
        })
    }
}

/// What a step wants to know of a sequence's constraint.
#[derive(Clone, Debug)]
pub struct MaskRequest {
    constraint: SequenceConstraint,
    /// Output tokens since the last request.
    accepted: Arc<[TokenId]>,
    answer: Arc<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    mask: Mutex<Option<Result<Mask, String>>>,
    given: Condvar,
}

impl MaskRequest {
    /// For a sequence whose constraint has not seen these tokens yet.
    pub fn new(constraint: &SequenceConstraint, accepted: &[TokenId]) -> Self {
        Self { constraint: constraint.clone(), accepted: accepted.into(), answer: Arc::default() }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// Why there is none; fit for the caller's eyes. The sequence cannot go on.
    pub fn wait(&self) -> Result<Mask, String> {
        let mut mask = lock(&self.answer.mask);
        loop {
            match &*mask {
                Some(answer) => return answer.clone(),
                None => mask = self.answer.given.wait(mask).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// A request on its way to a thread. Whatever becomes of it, it is answered.
struct Job {
    request: MaskRequest,
    params: Arc<SamplingParams>,
    output_index: u32,
}

impl Job {
    fn work(&self, vocab: usize) {
        let banned: &[TokenId] = match self.output_index < self.params.min_tokens {
            true => &self.params.stop_tokens,
            false => &[],
        };
        let MaskRequest { constraint, accepted, .. } = &self.request;
        let mask = catch_unwind(AssertUnwindSafe(|| constraint.mask(accepted, vocab, banned)));
        self.answer(mask.unwrap_or_else(|_| Err("the grammar could not be followed".into())));
    }

    fn answer(&self, mask: Result<Mask, String>) {
        let Answer { mask: place, given } = &*self.request.answer;
        lock(place).get_or_insert(mask);
        given.notify_all();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.answer(Err("the engine has ended".into()));
    }
}

/// Computes masks beside an engine's steps. Its threads start with the first request that has a constraint.
pub struct MaskThreads {
    vocab: usize,
    queue: usize,
    running: Option<(SyncSender<Job>, Vec<JoinHandle<()>>)>,
}

impl MaskThreads {
    /// For an engine with so many running sequences.
    pub fn new(vocab: usize, max_running: usize) -> Self {
        // A step has one request for each running sequence at the most, and is launched after those of the one
        // before were answered.
        Self { vocab, queue: max_running, running: None }
    }

    /// Begins to answer what a step asks.
    pub fn ask(&mut self, plan: &StepPlan) {
        for seq in &plan.seqs {
            let Some((spec, request)) =
                seq.sample.as_ref().and_then(|spec| Some((spec, spec.mask.as_ref()?)))
            else {
                continue;
            };
            let (params, output_index) = (seq.params.clone(), spec.output_index);
            let job = Job { request: request.clone(), params, output_index };
            let (vocab, queue) = (self.vocab, self.queue);
            let (jobs, _) = self.running.get_or_insert_with(|| start(vocab, queue));
            // Without threads the job is dropped, which answers it.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for MaskThreads {
    fn drop(&mut self) {
        if let Some((jobs, threads)) = self.running.take() {
            drop(jobs);
            for thread in threads {
                let _ = thread.join();
            }
        }
    }
}

fn start(vocab: usize, queue: usize) -> (SyncSender<Job>, Vec<JoinHandle<()>>) {
    let (sender, jobs) = sync_channel(queue);
    let jobs = Arc::new(Mutex::new(jobs));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (0..(cores / 2).clamp(1, THREADS_MAX)).filter_map(|index| {
        let jobs = jobs.clone();
        Builder::new().name(format!("masks {index}")).spawn(move || work(&jobs, vocab)).ok()
    });
    (sender, threads.collect())
}

fn work(jobs: &Mutex<Receiver<Job>>, vocab: usize) {
    loop {
        // A statement of its own, so that the next thread waits while this one works.
        let job = lock(jobs).recv();
        match job {
            Ok(job) => job.work(vocab),
            Err(_) => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
