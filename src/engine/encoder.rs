//! The engine of a [`TextEncoder`]: one thread behind the same [`EngineHandle`] as a decoder's, with the same queue,
//! cancellation, drain and end by failure. There is nothing to schedule beyond whose turn it is: a text is computed
//! in one step, whole.
//!
//! A step takes texts in order of priority and arrival until their tokens exceed its budget, at least one; the
//! encoder makes padded batches of them. So a text waits for those before it and no longer.

use super::handle::{Command, EngineHandle, EngineStats, Shared, Submission};
use crate::clock::Clock;
use crate::encoder::{EncoderText, TextEncoder};
use crate::protocol::{FinishReason, TokenEvent};
use std::cmp::Reverse;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};

/// An encoder's limits, each at least 1.
#[derive(Clone, Debug)]
pub struct EncoderEngineConfig {
    /// For the thread and the log.
    pub name: String,
    /// The longest text, in tokens.
    pub max_context: usize,
    /// Texts that may wait.
    pub max_queued: usize,
    /// Tokens of a step.
    pub step_token_budget: usize,
    /// Token ids are below this.
    pub vocab: usize,
}

/// Starts an encoder's engine. Its thread ends after [`EngineHandle::drain`] when everything has finished, when all
/// handles are gone, or by a failure.
///
/// # Errors
/// When the operating system starts no thread.
pub fn spawn(
    config: EncoderEngineConfig,
    encoder: Box<dyn TextEncoder>,
    clock: Clock,
) -> io::Result<(EngineHandle, JoinHandle<()>)> {
    let shared = Shared::new(config.max_queued, config.vocab, config.max_context, encoder.tasks());
    let shared = Arc::new(shared);
    // A Submit for every reserved place in the queue, and one Drain.
    let (sender, commands) = sync_channel(config.max_queued + 1);
    let worker = Worker {
        shared: shared.clone(),
        encoder,
        clock,
        commands,
        step_token_budget: config.step_token_budget,
        queue: Vec::new(),
        step: Vec::new(),
        draining: false,
        stats: EngineStats::default(),
    };
    let thread =
        Builder::new().name(format!("encoder {}", config.name)).spawn(move || worker.run(&config.name))?;
    Ok((EngineHandle { shared, commands: sender }, thread))
}

/// Tokens after which the average time of a token has forgotten about two thirds of what was before.
const TIMES_TOKENS: f64 = 4096.0;

struct Worker {
    shared: Arc<Shared>,
    encoder: Box<dyn TextEncoder>,
    clock: Clock,
    commands: Receiver<Command>,
    step_token_budget: usize,
    /// In order of arrival.
    queue: Vec<Submission>,
    /// Under way.
    step: Vec<Submission>,
    draining: bool,
    stats: EngineStats,
}

impl Worker {
    fn run(mut self, name: &str) {
        // The state is only read for the log after a panic, so it need not be consistent.
        let failure = match catch_unwind(AssertUnwindSafe(|| self.serve())) {
            Ok(Ok(())) => return,
            Ok(Err(reason)) => reason,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                format!("an internal invariant broke: {text}")
            }
        };
        let (waiting, running) = (self.queue.len(), self.step.len());
        tracing::error!(engine = name, %failure, waiting, running, stats = ?self.stats, "the engine has stopped");
        self.fail(failure);
    }

    fn serve(&mut self) -> Result<(), String> {
        while self.receive() {
            self.sweep();
            self.take_step();
            if self.step.is_empty() {
                continue;
            }
            let texts = self.step.iter().map(|submission| EncoderText {
                ids: &submission.request.prompt,
                types: submission.request.token_types.as_deref(),
            });
            let texts: Vec<_> = texts.collect();
            let begun = self.clock.now();
            let values = self.encoder.encode(&texts)?;
            assert_eq!(values.len(), texts.len(), "the encoder gave the numbers of other texts");
            let took = self.clock.now().saturating_sub(begun);
            self.count(took.as_nanos() as f64);
            for (submission, values) in std::mem::take(&mut self.step).into_iter().zip(values) {
                self.answer(&submission, values);
            }
        }
        Ok(())
    }

    /// Takes all commands there are; waits for one when there is nothing else to do. False when none will come any
    /// more.
    fn receive(&mut self) -> bool {
        loop {
            let idle = self.queue.is_empty();
            if idle && self.draining && self.shared.close() {
                return false;
            }
            let command = match idle {
                true => self.commands.recv().ok(),
                false => self.commands.try_recv().ok(),
            };
            match command {
                Some(Command::Submit(submission)) => self.queue.push(submission),
                Some(Command::Drain) => self.draining = true,
                None => return !idle,
            }
        }
    }

    /// Forgets what callers no longer want.
    fn sweep(&mut self) {
        let shared = &self.shared;
        self.queue.retain(|submission| {
            let wanted = !submission.events.is_closed() && !submission.cancelled[0].load(Ordering::Acquire);
            if !wanted {
                shared.waiting.fetch_sub(1, Ordering::AcqRel);
                shared.live.fetch_sub(1, Ordering::AcqRel);
            }
            wanted
        });
    }

    fn take_step(&mut self) {
        // Stable, so that arrival decides between equals.
        self.queue.sort_by_key(|submission| Reverse(submission.request.priority));
        let mut tokens = 0;
        let fits = |submission: &&Submission| {
            let is_first = tokens == 0;
            tokens += submission.request.prompt.len();
            is_first || tokens <= self.step_token_budget
        };
        let count = self.queue.iter().take_while(fits).count();
        self.step = self.queue.drain(..count).collect();
        self.shared.waiting.fetch_sub(count, Ordering::AcqRel);
        let kinds = self.encoder.token_types() as u32;
        let shared = &self.shared;
        // Others may have kinds that they do not read.
        self.step.retain(|submission| {
            let types = submission.request.token_types.iter().flat_map(|types| types.iter());
            let Some(kind) = types.copied().find(|kind| *kind >= kinds).filter(|_| kinds > 1) else {
                return true;
            };
            let message = format!("token type {kind} is not one of the model's {kinds}");
            let _ = submission.events.try_send(TokenEvent::Failed { message });
            shared.live.fetch_sub(1, Ordering::AcqRel);
            false
        });
        self.stats.running = self.step.len();
        self.publish();
    }

    fn answer(&self, submission: &Submission, values: Vec<f32>) {
        let events = match values.iter().all(|value| value.is_finite()) {
            true => vec![
                TokenEvent::Prompt { cached_tokens: 0, logprobs: None },
                TokenEvent::Pooled { values },
                TokenEvent::Finished { choice: 0, reason: FinishReason::Stop },
            ],
            false => {
                let message = "the model's output for this request is not finite (NaN or infinity)".into();
                vec![TokenEvent::Failed { message }]
            }
        };
        for event in events {
            // The channel holds every event that a request can have; nobody may listen any more.
            let _ = submission.events.try_send(event);
        }
        self.shared.live.fetch_sub(1, Ordering::AcqRel);
    }

    fn count(&mut self, ns: f64) {
        let lengths = self.step.iter().map(|submission| submission.request.prompt.len() as u64);
        let rows: u64 = lengths.clone().sum();
        let stats = &mut self.stats;
        stats.steps += 1;
        stats.step_rows += rows;
        stats.prefill_tokens += rows;
        stats.last_batch_rows = rows as usize;
        stats.last_batch_seqs = self.step.len();
        stats.running = 0;
        let (average, rows) = (stats.prefill_token_ns as f64, rows as f64);
        let weight = if average == 0.0 { 1.0 } else { 1.0 - (-rows / TIMES_TOKENS).exp() };
        stats.prefill_token_ns = (average + (ns / rows - average) * weight) as u64;
        self.publish();
    }

    fn publish(&self) {
        self.shared.stats.store(Arc::new(self.stats));
    }

    /// Tells everybody, also those whose submission is still on its way.
    fn fail(mut self, failure: String) {
        // First, so that from now on submissions are refused by name.
        let _ = self.shared.failure.set(failure.clone());
        let failed = |submission: &Submission| {
            let message = format!("the engine has stopped: {failure}");
            let _ = submission.events.try_send(TokenEvent::Failed { message });
            self.shared.live.fetch_sub(1, Ordering::AcqRel);
        };
        self.step.iter().chain(&self.queue).for_each(failed);
        self.shared.waiting.fetch_sub(self.queue.len(), Ordering::AcqRel);
        self.stats = EngineStats { running: 0, last_batch_rows: 0, last_batch_seqs: 0, ..self.stats };
        self.publish();
        while !self.shared.close() {
            let Ok(command) = self.commands.recv() else { return };
            if let Command::Submit(submission) = command {
                failed(&submission);
                self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}
