//! Where text work is done: templates, tokenizing, and JSON that takes longer than a moment. A few threads
//! of its own, off those that serve connections.
//!
//! Each tenant has a queue, and the queues are served in turn: who sends much waits behind himself. A
//! tenant's work takes all threads but one at the most, so that somebody else's finds a thread at once;
//! there is one more than there are processors for that. Queues are bounded, and what is over a bound is
//! refused. Work whose request has gone is taken out of its queue, or stops at its next piece ([`Stop`]);
//! so does work whose time is over.
//!
//! Absent on purpose: priorities, which the engine's own queue has.

use super::local::LocalError;
use crate::gateway::wire::bounds::RequestBounds;
use crate::text::Stop;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// Of work that nobody has given another time.
pub const TEXT_TIMEOUT: Duration = Duration::from_secs(10);
/// Besides the one that a tenant alone does not get.
const THREADS_MAX: usize = 16;
/// One tenant's work that may wait: as much as an engine's queue takes by default.
const WAITING_PER_TENANT_MAX: usize = 256;
/// All tenants' together: four such queues. Each piece of work holds its request's body.
const WAITING_MAX: usize = 1024;

/// Threads for text work, and their queues. Dropped, what waits is dropped and the threads end.
#[derive(Debug)]
pub struct TextQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queues: Mutex<Queues>,
    /// Something waits, or nothing will any more.
    changed: Condvar,
    threads: usize,
    time_max: Duration,
}

#[derive(Debug, Default)]
struct Queues {
    /// By tenant, the next to be served first; none is empty.
    waiting: VecDeque<(String, VecDeque<Job>)>,
    waiting_count: usize,
    /// Threads at work, by tenant.
    running: HashMap<String, usize>,
    started: u64,
    is_closed: bool,
}

struct Job {
    number: u64,
    work: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Somebody who waits for work. Dropped before it is done, the work need not be.
struct Waiting {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    tenant: String,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stop.leave();
        let job = self.shared.lock().take(&self.tenant, self.number);
        // What it holds is dropped outside of the lock.
        drop(job);
    }
}

impl TextQueue {
    /// A thread for each processor and one more; work may take so long.
    pub fn new(time_max: Duration) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(processors.min(THREADS_MAX) + 1, time_max)
    }

    fn with_threads(threads: usize, time_max: Duration) -> Self {
        let shared =
            Arc::new(Shared { queues: Mutex::default(), changed: Condvar::new(), threads, time_max });
        for index in 0..threads {
            let shared = shared.clone();
            let thread = thread::Builder::new().name(format!("text-{index}"));
            if let Err(error) = thread.spawn(move || shared.work()) {
                tracing::error!(%error, "a thread for text work could not be started");
            }
        }
        Self { shared }
    }

    /// Does `work` on one of the threads once it is the turn of the tenant of that name. When the caller goes
    /// away or its time is over, work that waits is dropped, and work that runs stops at its next piece.
    ///
    /// # Errors
    /// Too much waits already, the time is over, or what the work says.
    pub async fn run<T: Send + 'static>(
        &self,
        tenant: &str,
        bounds: &mut RequestBounds,
        work: impl FnOnce() -> Result<T, LocalError> + Send + 'static,
    ) -> Result<T, LocalError> {
        let stop = Arc::new(Stop::after(self.shared.time_max));
        let (tell, told) = oneshot::channel();
        let job = {
            let stop = stop.clone();
            Box::new(move || {
                // Told by the channel's end. The panic itself is in the log.
                if let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| stop.run(work))) {
                    let _ = tell.send(outcome);
                }
            })
        };
        let waiting = self.shared.push(tenant, job, stop)?;
        let outcome = bounds.bound(told).await;
        drop(waiting);
        outcome?.unwrap_or_else(|_| Err(LocalError::Internal("a text task failed".into())))
    }
}

impl Drop for TextQueue {
    fn drop(&mut self) {
        let mut queues = self.shared.lock();
        queues.is_closed = true;
        let waiting = std::mem::take(&mut queues.waiting);
        drop(queues);
        drop(waiting);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(
        self: &Arc<Self>,
        tenant: &str,
        work: Box<dyn FnOnce() + Send>,
        stop: Arc<Stop>,
    ) -> Result<Waiting, LocalError> {
        let mut queues = self.lock();
        let number = queues.push(tenant, work)?;
        drop(queues);
        self.changed.notify_one();
        Ok(Waiting { shared: self.clone(), stop, tenant: tenant.to_owned(), number })
    }

    /// A thread's life.
    fn work(&self) {
        let mut queues = self.lock();
        while !queues.is_closed {
            match queues.next(self.threads) {
                Some((tenant, job)) => {
                    drop(queues);
                    (job.work)();
                    queues = self.lock();
                    queues.done(&tenant);
                    // Another of its pieces may have waited for this.
                    self.changed.notify_one();
                }
                None => queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Queues {
    fn push(&mut self, tenant: &str, work: Box<dyn FnOnce() + Send>) -> Result<u64, LocalError> {
        let index = self.waiting.iter().position(|(name, _)| name == tenant);
        let of_tenant = index.map_or(0, |index| self.waiting[index].1.len());
        if of_tenant >= WAITING_PER_TENANT_MAX || self.waiting_count >= WAITING_MAX {
            return Err(LocalError::TextBusy { waiting: self.waiting_count });
        }
        self.started += 1;
        self.waiting_count += 1;
        let job = Job { number: self.started, work };
        match index {
            Some(index) => self.waiting[index].1.push_back(job),
            None => self.waiting.push_back((tenant.to_owned(), VecDeque::from([job]))),
        }
        Ok(self.started)
    }

    /// What a free thread does next: of the first tenant in turn that has not all threads but one.
    fn next(&mut self, threads: usize) -> Option<(String, Job)> {
        let running_max = threads.saturating_sub(1).max(1);
        let is_free = |name: &String| self.running.get(name).is_none_or(|running| *running < running_max);
        let index = self.waiting.iter().position(|(name, _)| is_free(name))?;
        let (tenant, mut jobs) = self.waiting.remove(index)?;
        let job = jobs.pop_front()?;
        self.waiting_count -= 1;
        if !jobs.is_empty() {
            self.waiting.push_back((tenant.clone(), jobs));
        }
        *self.running.entry(tenant.clone()).or_default() += 1;
        Some((tenant, job))
    }

    fn done(&mut self, tenant: &str) {
        if let Some(running) = self.running.get_mut(tenant) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(tenant);
            }
        }
    }

    /// Takes work out, unless it has begun.
    fn take(&mut self, tenant: &str, number: u64) -> Option<Job> {
        let index = self.waiting.iter().position(|(name, _)| name == tenant)?;
        let jobs = &mut self.waiting[index].1;
        let at = jobs.iter().position(|job| job.number == number)?;
        let job = jobs.remove(at);
        if jobs.is_empty() {
            self.waiting.remove(index);
        }
        self.waiting_count -= 1;
        job
    }
}

#[cfg(test)]
mod tests;
