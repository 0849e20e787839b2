//! The CPU backend's threads. A decode step is some hundreds of parallel regions of a few
//! microseconds each, so a region must start in well under one: workers spin for a while before
//! they park, and tasks are claimed one by one from a counter.
//!
//! A region never waits for a worker that has not joined it: a descheduled worker costs its
//! share of the work, not a time slice.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// How long an idle worker spins before it parks: some hundred microseconds, longer than the
/// serial parts between two regions of a step, shorter than anyone would notice in idle load.
const SPINS_BEFORE_PARK: u32 = 20_000;

/// The gate's low half: workers inside the region, and whether more may join.
const CLOSED: u64 = 1 << 31;
const JOINED: u64 = CLOSED - 1;

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Region number in the high half; see [`CLOSED`] and [`JOINED`] for the low one.
    gate: AtomicU64,
    /// Written only while the gate is closed and nobody is inside.
    job: UnsafeCell<Option<Job>>,
    tasks: AtomicUsize,
    next: AtomicUsize,
    panicked: AtomicBool,
    parked: Vec<AtomicBool>,
    stop: AtomicBool,
}

// SAFETY: `job` is written by `run` only while the gate is closed with nobody inside, and read
// by workers only after they have joined through the gate (acquire after release).
unsafe impl Sync for Shared {}
// SAFETY: the job pointer is only followed within `run`, which outlives every joined worker.
unsafe impl Send for Shared {}

impl Shared {
    fn work(&self, job: &(dyn Fn(usize) + Sync)) {
        let tasks = self.tasks.load(Ordering::Relaxed);
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            job(task);
        }
    }
}

/// A fixed set of threads; the caller of [`ThreadPool::run`] is one of them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<(JoinHandle<()>, Thread)>,
}

impl ThreadPool {
    /// `threads` counts the caller, so `threads - 1` are started.
    pub fn new(threads: usize) -> Self {
        let extra = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(CLOSED),
            job: UnsafeCell::new(None),
            tasks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            parked: (0..extra).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
        });
        let workers = (0..extra)
            .map(|index| {
                let shared = shared.clone();
                let handle = std::thread::Builder::new()
                    .name(format!("cpu-{}", index + 1))
                    .spawn(move || worker(&shared, index))
                    .expect("the system can start a thread");
                let thread = handle.thread().clone();
                (handle, thread)
            })
            .collect();
        Self { shared, workers }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(0) .. job(tasks - 1)`, each once, in any order and on any thread, and returns
    /// when all are done. A panic in a task reaches the caller. Exclusive access to the pool
    /// (`&mut`) makes nested and concurrent regions impossible.
    pub fn run(&mut self, tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(job);
            return;
        }
        let shared = &*self.shared;
        shared.tasks.store(tasks, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        // SAFETY: the last region closed its gate and waited until nobody was inside, so this
        // is the only access. The lifetime is erased; below, nobody is left inside on return.
        unsafe {
            *shared.job.get() =
                Some(std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job));
        }
        let region = (shared.gate.load(Ordering::Relaxed) >> 32).wrapping_add(1) & 0xffff_ffff;
        // SeqCst pairs with the worker's parked flag: either it sees the open gate, or we see it parked.
        shared.gate.store(region << 32, Ordering::SeqCst);
        for (index, (_, thread)) in self.workers.iter().enumerate() {
            if shared.parked[index].load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.work(job)));
        if own.is_err() {
            shared.next.store(tasks, Ordering::Relaxed);
        }
        shared.gate.fetch_or(CLOSED, Ordering::AcqRel);
        let mut spins = 0u32;
        while shared.gate.load(Ordering::Acquire) & JOINED != 0 {
            std::hint::spin_loop();
            spins += 1;
            if spins % 1024 == 0 {
                std::thread::yield_now();
            }
        }
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        if shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a task of the CPU backend panicked");
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (handle, thread) in self.workers.drain(..) {
            thread.unpark();
            let _ = handle.join();
        }
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish()
    }
}

fn worker(shared: &Shared, index: usize) {
    let mut last_region = 0;
    let mut spins = 0;
    loop {
        let gate = shared.gate.load(Ordering::Acquire);
        if gate & CLOSED == 0 && gate >> 32 != last_region {
            if shared.gate.compare_exchange_weak(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                last_region = gate >> 32;
                // SAFETY: joined through the open gate, so `run` has written the job and waits for us.
                let job = unsafe { &*(*shared.job.get()).expect("an open gate has a job") };
                if catch_unwind(AssertUnwindSafe(|| shared.work(job))).is_err() {
                    shared.panicked.store(true, Ordering::Relaxed);
                    shared.next.store(shared.tasks.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                shared.gate.fetch_sub(1, Ordering::AcqRel);
                spins = 0;
            }
            continue;
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        std::hint::spin_loop();
        spins += 1;
        if spins >= SPINS_BEFORE_PARK {
            shared.parked[index].store(true, Ordering::SeqCst);
            let gate = shared.gate.load(Ordering::SeqCst);
            if (gate & CLOSED != 0 || gate >> 32 == last_region) && !shared.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            shared.parked[index].store(false, Ordering::SeqCst);
            spins = 0;
        }
    }
}
