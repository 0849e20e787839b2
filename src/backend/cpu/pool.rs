//! The CPU backend's threads. A decode step is some hundreds of parallel regions of a few
//! microseconds each, so a region must start in well under one: workers spin for a while before
//! they park, and tasks are claimed one by one from a counter.
//!
//! A region never waits for a worker that has not joined it: a descheduled worker costs its
//! share of the work, not a time slice.

use super::tensor::Shared as SharedSlice;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it parks: longer than the serial parts between two
/// regions of a step, shorter than anyone would notice in idle load. A time and not a count: a
/// pause takes from ten to a hundred and fifty cycles, by processor.
const SPIN_BEFORE_PARK: Duration = Duration::from_micros(200);
/// Spins between two looks at the clock, or between two offers of the processor to others.
const SPINS_PER_LOOK: u32 = 64;

/// Work worth a region: below it, starting one costs more than it gains.
pub const REGION_NS: usize = 20_000;
/// The least work of a task in [`ThreadPool::for_rows`].
const TASK_NS: usize = 5_000;
/// Tasks per thread in [`ThreadPool::for_rows`]: a thread that comes late costs a part of its share.
const TASKS_PER_THREAD: usize = 4;

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
    workers: Vec<JoinHandle<()>>,
}

impl ThreadPool {
    /// `threads` counts the caller, so `threads - 1` are started, or as many as the system allows.
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
        let start = |index| {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("cpu-{}", index + 1))
                .spawn(move || worker(&shared, index))
                .inspect_err(|error| tracing::warn!(%error, "going on with {} threads", index + 1))
                .ok()
        };
        let workers = (0..extra).map_while(start).collect();
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
        for (worker, parked) in self.workers.iter().zip(&shared.parked) {
            if parked.load(Ordering::SeqCst) {
                worker.thread().unpark();
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
            if spins.is_multiple_of(SPINS_PER_LOOK) {
                std::thread::yield_now();
            }
        }
        // Cleared before either panic, so that the next region starts without this one's.
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!panicked, "a task of the CPU backend panicked");
    }

    /// Calls `job(first row, the rows' part of each output)` for runs of rows that together make
    /// up all `rows`, each once, on several threads when the work is worth it: `row_ns` is a
    /// row's cost on one thread, roughly. Outputs are row-major over exactly `rows` rows.
    pub fn for_rows<const N: usize>(
        &mut self,
        rows: usize,
        row_ns: usize,
        outputs: [&mut [f32]; N],
        job: impl Fn(usize, [&mut [f32]; N]) + Sync,
    ) {
        let total_ns = rows * row_ns;
        if total_ns < REGION_NS || self.workers.is_empty() {
            if rows > 0 {
                job(0, outputs);
            }
            return;
        }
        let tasks = (total_ns / TASK_NS).min(self.threads() * TASKS_PER_THREAD).min(rows);
        let rows_per_task = rows.div_ceil(tasks);
        let outputs = outputs.map(|output| {
            assert_eq!(output.len() % rows, 0, "an output of whole rows");
            SharedSlice::new(output)
        });
        self.run(rows.div_ceil(rows_per_task), &|task| {
            let first = task * rows_per_task;
            let count = rows_per_task.min(rows - first);
            let part = |output: usize| {
                let columns = outputs[output].total() / rows;
                // SAFETY: each task runs once and has rows of its own.
                unsafe { outputs[output].part(first * columns, count * columns) }
            };
            job(first, std::array::from_fn(part));
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
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
    let mut spins = 0u32;
    let mut idle_since = Instant::now();
    loop {
        let gate = shared.gate.load(Ordering::Acquire);
        if is_open(gate, last_region) {
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
                idle_since = Instant::now();
            }
            continue;
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        std::hint::spin_loop();
        spins += 1;
        if spins.is_multiple_of(SPINS_PER_LOOK) && idle_since.elapsed() >= SPIN_BEFORE_PARK {
            shared.parked[index].store(true, Ordering::SeqCst);
            let gate = shared.gate.load(Ordering::SeqCst);
            if !is_open(gate, last_region) && !shared.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            shared.parked[index].store(false, Ordering::SeqCst);
            idle_since = Instant::now();
        }
    }
}

/// Whether a worker whose last region was that one may join.
fn is_open(gate: u64, last_region: u64) -> bool {
    gate & CLOSED == 0 && gate >> 32 != last_region
}
