//! The engine's one thread: a loop that takes commands, sweeps cancellations, plans, launches,
//! tells the callers what the step before produced while this one runs, and collects. It alone
//! joins scheduler and executor.
//!
//! Idle, it sleeps on the command channel. A device error or a broken invariant (a panic in
//! here) ends this engine alone: every request gets `Failed`, the state is logged, and the handle
//! says why.

use super::constraint::MaskThreads;
use super::executor::{Executor, ExecutorError};
use super::handle::{Command, EngineHandle, EngineStats, Shared, Submission};
use super::scheduler::{RequestId, Scheduler, SchedulerConfig};
use crate::clock::Clock;
use crate::protocol::TokenEvent;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::sync::mpsc;

/// One engine's limits, each at least 1.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// For the thread and the log.
    pub name: String,
    /// The longest sequence, prompt and output, in tokens.
    pub max_context: usize,
    /// KV blocks of [`super::kv::BLOCK_TOKENS`] tokens.
    pub kv_blocks: usize,
    /// Sequences that run at once.
    pub max_running: usize,
    /// Requests that may wait for admission.
    pub max_queued: usize,
    /// Rows of a step; raised to `max_running`, so that every decode fits.
    pub step_token_budget: usize,
    /// Token ids are below this.
    pub vocab: usize,
    /// The checkpoint's identity: KV blocks are only shared where it is equal.
    pub cache_salt: u64,
}

/// Starts an engine. Its thread ends after [`EngineHandle::drain`] when everything has finished,
/// when all handles and streams are gone, or by a failure.
///
/// # Errors
/// When the operating system starts no thread.
pub fn spawn(
    config: EngineConfig,
    executor: Box<dyn Executor>,
    clock: Clock,
) -> io::Result<(EngineHandle, JoinHandle<()>)> {
    let limits = SchedulerConfig {
        max_context: config.max_context,
        kv_blocks: config.kv_blocks,
        max_running: config.max_running,
        step_token_budget: config.step_token_budget,
        checkpoint_salt: config.cache_salt,
    };
    let tasks = executor.tasks();
    let shared = Arc::new(Shared::new(config.max_queued, config.vocab, limits.capacity(), tasks));
    // A Submit for every reserved place in the queue, and one Drain.
    let (sender, commands) = sync_channel(config.max_queued + 1);
    let worker = Worker {
        shared: shared.clone(),
        scheduler: Scheduler::new(limits),
        executor,
        masks: MaskThreads::new(config.vocab, config.max_running),
        clock,
        commands,
        callers: HashMap::new(),
        pending: Vec::new(),
        waiting: 0,
        draining: false,
        times: TokenTimes::default(),
    };
    worker.publish();
    let thread =
        Builder::new().name(format!("engine {}", config.name)).spawn(move || worker.run(&config.name))?;
    Ok((EngineHandle { shared, commands: sender }, thread))
}

/// Who waits for a request's events.
struct Caller {
    events: mpsc::Sender<TokenEvent>,
    cancelled: Arc<[AtomicBool]>,
    /// Per choice: more may come.
    open: Vec<bool>,
}

struct Worker {
    shared: Arc<Shared>,
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    masks: MaskThreads,
    clock: Clock,
    commands: Receiver<Command>,
    callers: HashMap<RequestId, Caller>,
    /// Events of the last step, not yet sent.
    pending: Vec<(RequestId, TokenEvent)>,
    /// This thread's part of `shared.waiting`: requests received and not yet admitted.
    waiting: usize,
    draining: bool,
    times: TokenTimes,
}

/// What a token takes of the engine's time: moving averages over steps, weighted by their tokens. Of a
/// step that does both, prefill takes what decodes usually leave.
#[derive(Debug, Default)]
struct TokenTimes {
    /// Nanoseconds; 0: not known yet.
    prefill_ns: f64,
    decode_ns: f64,
}

/// Tokens after which an average has forgotten about two thirds of what was before.
const TIMES_TOKENS: f64 = 4096.0;

impl TokenTimes {
    /// A step that computed so many rows of prompts and of decodes.
    fn step(&mut self, took: Duration, prefill: u64, decode: u64) {
        let ns = took.as_nanos() as f64;
        let (prefill, decode) = (prefill as f64, decode as f64);
        let average = |average: &mut f64, ns: f64, tokens: f64| {
            let weight = if *average == 0.0 { 1.0 } else { 1.0 - (-tokens / TIMES_TOKENS).exp() };
            *average += (ns / tokens - *average) * weight;
        };
        match (prefill > 0.0, decode > 0.0) {
            (true, _) => average(&mut self.prefill_ns, (ns - decode * self.decode_ns).max(0.0), prefill),
            (false, true) => average(&mut self.decode_ns, ns, decode),
            (false, false) => {}
        }
    }
}

impl Worker {
    fn run(mut self, name: &str) {
        // The state is only read for the log after a panic, so it need not be consistent.
        let failure = match catch_unwind(AssertUnwindSafe(|| self.serve())) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.0,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                format!("an internal invariant broke: {text}")
            }
        };
        let (pool, counters) = (self.scheduler.pool(), self.scheduler.counters());
        tracing::error!(
            engine = name,
            %failure,
            requests = self.callers.len(),
            waiting = self.scheduler.waiting(),
            running = self.scheduler.running(),
            blocks_used = pool.used(),
            blocks_total = pool.total(),
            ?counters,
            "the engine has stopped"
        );
        self.fail(failure);
    }

    fn serve(&mut self) -> Result<(), ExecutorError> {
        loop {
            if self.scheduler.is_idle() {
                self.emit();
            }
            if !self.receive() {
                return Ok(());
            }
            self.sweep();
            let before = *self.scheduler.counters();
            let plan = self.scheduler.plan();
            self.settle_waiting();
            if plan.seqs.is_empty() {
                assert!(self.scheduler.is_idle(), "there is work, but no step was planned");
                self.publish();
                continue;
            }
            let planned = *self.scheduler.counters();
            let begun = self.clock.now();
            self.masks.ask(&plan);
            let ticket = self.executor.launch(plan)?;
            self.emit();
            let output = self.executor.collect(ticket)?;
            let prefill = planned.prefill_rows - before.prefill_rows;
            let decode = planned.rows - before.rows - prefill;
            self.times.step(self.clock.now().saturating_sub(begun), prefill, decode);
            self.pending = self.scheduler.apply(output);
            self.publish();
        }
    }

    /// Takes all commands there are; waits for one when there is nothing else to do. False when
    /// none will come any more.
    fn receive(&mut self) -> bool {
        loop {
            let idle = self.scheduler.is_idle();
            if idle && self.draining && self.shared.close() {
                return false;
            }
            let command = match idle {
                true => self.commands.recv().ok(),
                false => self.commands.try_recv().ok(),
            };
            match command {
                Some(Command::Submit(submission)) => self.accept(submission),
                Some(Command::Drain) => self.draining = true,
                None => return !idle,
            }
        }
    }

    fn accept(&mut self, submission: Submission) {
        let Submission { id, request, events, cancelled } = submission;
        let id = RequestId(id);
        self.waiting += 1;
        let open = match request.generated.as_slice() {
            [] => vec![true; cancelled.len()],
            generated => generated.iter().map(Option::is_some).collect(),
        };
        self.callers.insert(id, Caller { events, open, cancelled });
        self.scheduler.submit(id, request, self.clock.now());
    }

    /// Cancels what callers no longer want. Between steps, so blocks are free at once.
    fn sweep(&mut self) {
        let Self { scheduler, callers, shared, .. } = self;
        callers.retain(|id, caller| {
            if caller.events.is_closed() {
                scheduler.cancel_request(*id);
                caller.open.fill(false);
            }
            for (choice, flag) in caller.cancelled.iter().enumerate() {
                if caller.open[choice] && flag.load(Ordering::Acquire) {
                    scheduler.cancel_choice(*id, choice as u32);
                    caller.open[choice] = false;
                }
            }
            caller.stay_or_leave(shared)
        });
    }

    /// Sends the last step's events.
    fn emit(&mut self) {
        for (id, event) in self.pending.drain(..) {
            // Whoever was swept meanwhile wants nothing any more.
            let Some(caller) = self.callers.get_mut(&id) else { continue };
            let ended = match event {
                TokenEvent::Token { choice, .. } if !caller.open[choice as usize] => continue,
                TokenEvent::Finished { choice, .. } if !caller.open[choice as usize] => continue,
                TokenEvent::Finished { choice, .. } => choice as usize..choice as usize + 1,
                TokenEvent::Failed { .. } => 0..caller.open.len(),
                TokenEvent::Prompt { .. } | TokenEvent::Token { .. } | TokenEvent::Pooled { .. } => 0..0,
            };
            match caller.events.try_send(event) {
                // A closed channel is seen by the next sweep.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    unreachable!("the channel holds every event that a request can have")
                }
            }
            caller.open[ended].fill(false);
            if !caller.stay_or_leave(&self.shared) {
                self.callers.remove(&id);
            }
        }
    }

    /// Gives places in the queue back: of requests admitted or cancelled since the last time.
    fn settle_waiting(&mut self) {
        let left = self.waiting - self.scheduler.waiting();
        self.shared.waiting.fetch_sub(left, Ordering::AcqRel);
        self.waiting -= left;
    }

    fn publish(&self) {
        let (counters, pool) = (self.scheduler.counters(), self.scheduler.pool());
        self.shared.stats.store(Arc::new(EngineStats {
            waiting: self.scheduler.waiting(),
            running: self.scheduler.running(),
            kv_blocks_used: pool.used(),
            kv_blocks_total: pool.total(),
            steps: counters.steps,
            step_rows: counters.rows,
            last_batch_rows: counters.last_rows,
            last_batch_seqs: counters.last_seqs,
            prefill_tokens: counters.prefill_rows,
            prefix_hit_tokens: counters.prefix_hit_tokens,
            decode_tokens: counters.sampled_tokens,
            preemptions: counters.preemptions,
            attended_positions: counters.positions.attended,
            useful_positions: counters.positions.useful,
            expert_bytes: counters.expert_bytes,
            replayed_steps: counters.replayed_steps,
            prefill_token_ns: self.times.prefill_ns as u64,
            decode_token_ns: self.times.decode_ns as u64,
        }));
    }

    /// Tells everybody, also those whose submission is still on its way.
    fn fail(mut self, failure: String) {
        // What the last good step produced still counts, unless sending it is what broke.
        let _ = catch_unwind(AssertUnwindSafe(|| self.emit()));
        let failed = |events: &mpsc::Sender<TokenEvent>| {
            let message = format!("the engine has stopped: {failure}");
            // Full is impossible (see `emit`), and a closed channel needs no message.
            let _ = events.try_send(TokenEvent::Failed { message });
            self.shared.live.fetch_sub(1, Ordering::AcqRel);
        };
        // First, so that from now on submissions are refused by name.
        let _ = self.shared.failure.set(failure.clone());
        self.callers.drain().for_each(|(_, caller)| failed(&caller.events));
        self.shared.waiting.fetch_sub(self.waiting, Ordering::AcqRel);
        // The counters stay true; nothing runs any more.
        let last = **self.shared.stats.load();
        self.shared.stats.store(Arc::new(EngineStats {
            running: 0,
            kv_blocks_used: 0,
            last_batch_rows: 0,
            last_batch_seqs: 0,
            ..last
        }));
        while !self.shared.close() {
            let Ok(command) = self.commands.recv() else { return };
            if let Command::Submit(submission) = command {
                failed(&submission.events);
                self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

impl Caller {
    /// False, and one live request less, when no choice is open.
    fn stay_or_leave(&self, shared: &Shared) -> bool {
        let stay = self.open.contains(&true);
        if !stay {
            shared.live.fetch_sub(1, Ordering::AcqRel);
        }
        stay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_takes() {
        let mut times = TokenTimes::default();
        times.step(Duration::from_micros(800), 8, 0);
        assert_eq!((times.prefill_ns, times.decode_ns), (100_000.0, 0.0));
        (0..2000).for_each(|_| times.step(Duration::from_micros(40), 0, 4));
        assert!((times.decode_ns - 10_000.0).abs() < 1.0);
        // A mixed step: 40 us are the decodes', the rest is the prompts'.
        (0..2000).for_each(|_| times.step(Duration::from_micros(440), 20, 4));
        assert!((times.prefill_ns - 20_000.0).abs() < 10.0, "{times:?}");
        // One that took less than its decodes usually do costs nothing, not less.
        (0..2000).for_each(|_| times.step(Duration::from_micros(1), 20, 4));
        assert!((0.0..100.0).contains(&times.prefill_ns), "{times:?}");
        let before = times.decode_ns;
        times.step(Duration::from_secs(1), 0, 0);
        assert_eq!(times.decode_ns, before);
    }
}
