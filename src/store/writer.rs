//! Usage records on their way to the file. [`Recorder::record`] puts them into a bounded queue; one
//! thread takes all of it every [`TICK`], or sooner when [`BATCH`] wait, and writes them in one
//! transaction with what their keys have spent. So a kill loses what came in the last moment, and a
//! disk that hangs costs memory up to the bound, then records: those are counted and logged.
//!
//! The thread also looks every second whether another process changed the file, and reads the keys
//! again.

use super::database::Database;
use super::error::{Doing, StoreError};
use super::keys::{self, KeyTable};
use super::record::{Outcome, UsageRecord};
use arc_swap::ArcSwap;
use rusqlite::{Connection, TransactionBehavior, params};
use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest that a record waits for its transaction, while the disk keeps up.
const TICK: Duration = Duration::from_millis(200);
/// Records that are worth a transaction of their own.
const BATCH: usize = 1000;
/// Records that may wait: 65,536 of about 500 bytes are 32 MiB; as many again may be in the writer's
/// hands. At 12,000 requests a second that is five seconds.
const QUEUE_MAX: usize = 1 << 16;
/// How often the writer looks for what other processes did.
const WATCH: Duration = Duration::from_secs(1);
/// How long [`Shared::close`] goes on trying to write.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Of each text of a record.
const TEXT_BYTES_MAX: usize = 1024;
/// As many as OpenAI's `metadata` may have.
const TAGS_MAX: usize = 16;
/// Of tokens and milliseconds in one record: sums over millions of records stay in 64 bits.
const COUNT_MAX: u64 = 1 << 40;

const INSERT: &str = "INSERT INTO usage (unix_ms, request_id, attempt, key, route, model, provider, task, \
     input_tokens, cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const SPEND: &str = "INSERT INTO spent (key, dollars) VALUES (?, ?) \
     ON CONFLICT (key) DO UPDATE SET dollars = dollars + excluded.dollars";

/// Takes usage records.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

impl Recorder {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes a record. Never waits for the disk: when the queue is full (65,536 records) or the store
    /// is closed, the record is lost, which is counted, and logged while the store is open. Texts are cut at 1,024 bytes; the
    /// first 16 tags count.
    pub fn record(&self, mut record: UsageRecord) {
        bound(&mut record);
        let mut queue = self.shared.queue();
        if queue.is_closed || queue.records.len() >= QUEUE_MAX {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.records.push(record);
        if queue.records.len() == BATCH {
            self.shared.wake.notify_one();
        }
    }

    /// Records lost since the store was opened.
    pub fn lost(&self) -> u64 {
        self.shared.lost()
    }

    /// Records that wait to be written.
    pub fn waiting(&self) -> usize {
        self.shared.queue().records.len()
    }
}

/// What the store, its recorders and its writer have in common.
pub struct Shared {
    pub(super) keys: ArcSwap<KeyTable>,
    /// Keys are read and published under it: else an older reading could come last.
    reading: Mutex<()>,
    queue: Mutex<Queue>,
    wake: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct Queue {
    records: Vec<UsageRecord>,
    is_closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more records; the writer ends. Says how many were lost before.
    pub(super) fn close(&self) -> u64 {
        self.queue().is_closed = true;
        self.wake.notify_one();
        self.lost()
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Reads the keys and publishes them.
    pub(super) fn read_keys(&self, connection: &Connection) -> Result<(), StoreError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys.store(Arc::new(keys::read_all(connection)?));
        Ok(())
    }
}

/// Starts the thread.
pub fn start(database: &Database, keys: KeyTable) -> Result<(Arc<Shared>, JoinHandle<()>), StoreError> {
    let shared = Arc::new(Shared {
        keys: ArcSwap::from_pointee(keys),
        reading: Mutex::default(),
        queue: Mutex::default(),
        wake: Condvar::new(),
        lost: AtomicU64::new(0),
    });
    let connection = database.connect()?;
    let writer = Writer {
        data_version: data_version(&connection).doing("looking for changes")?,
        connection,
        shared: shared.clone(),
        batch: Vec::new(),
        is_failing: false,
        has_spent: false,
        watched: Instant::now(),
        lost_logged: 0,
    };
    let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run());
    let thread = thread
        .map_err(|error| StoreError::Failed { doing: "starting its thread", reason: error.to_string() })?;
    Ok((shared, thread))
}

struct Writer {
    shared: Arc<Shared>,
    connection: Connection,
    /// Taken from the queue, not yet written.
    batch: Vec<UsageRecord>,
    is_failing: bool,
    /// Dollars were added since the keys were read.
    has_spent: bool,
    watched: Instant,
    /// SQLite's counter of changes by others.
    data_version: i64,
    lost_logged: u64,
}

impl Writer {
    fn run(mut self) {
        let mut end = None;
        loop {
            let is_closed = self.take();
            self.write();
            self.watch();
            if is_closed && self.batch.is_empty() && self.shared.queue().records.is_empty() {
                self.tell_losses();
                return;
            }
            if is_closed && Instant::now() >= *end.get_or_insert_with(|| Instant::now() + CLOSE_TIMEOUT) {
                let left = self.batch.len() + self.shared.queue().records.len();
                self.shared.lost.fetch_add(left as u64, Ordering::Relaxed);
                self.tell_losses();
                return;
            }
        }
    }

    /// Waits a tick, or less when there is enough to do, and takes all records, unless some are left
    /// from before. Says whether the queue is closed.
    fn take(&mut self) -> bool {
        let queue = self.shared.queue();
        let idle = |queue: &mut Queue| queue.records.len() < BATCH && !queue.is_closed;
        let (mut queue, _) =
            self.shared.wake.wait_timeout_while(queue, TICK, idle).unwrap_or_else(PoisonError::into_inner);
        if self.batch.is_empty() {
            // Both keep their memory.
            mem::swap(&mut self.batch, &mut queue.records);
        }
        queue.is_closed
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        match insert(&mut self.connection, &self.batch) {
            Ok(has_spent) => {
                self.has_spent |= has_spent;
                self.batch.clear();
                if mem::take(&mut self.is_failing) {
                    tracing::info!("usage records are written again");
                }
            }
            Err(error) => {
                if !mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, records = self.batch.len(), "usage records wait: the store fails");
                }
                // A full queue does not wait by itself.
                std::thread::sleep(TICK);
            }
        }
    }

    fn watch(&mut self) {
        if self.watched.elapsed() < WATCH {
            return;
        }
        self.watched = Instant::now();
        self.tell_losses();
        let seen = data_version(&self.connection).doing("looking for changes");
        let read = seen.and_then(|version| {
            if version != self.data_version || self.has_spent {
                self.shared.read_keys(&self.connection)?;
                (self.data_version, self.has_spent) = (version, false);
            }
            Ok(())
        });
        if let Err(error) = read {
            tracing::warn!(%error, "keys are as they were");
        }
    }

    fn tell_losses(&mut self) {
        let lost = self.shared.lost();
        if lost > self.lost_logged {
            tracing::error!(lost = lost - self.lost_logged, total = lost, "usage records were lost");
            self.lost_logged = lost;
        }
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0))
}

/// Writes records and adds their cost to what their keys have spent, all or nothing. Says whether
/// something was spent.
fn insert(connection: &mut Connection, records: &[UsageRecord]) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut spent: HashMap<&str, f64> = HashMap::new();
    {
        let mut insert = transaction.prepare_cached(INSERT)?;
        for record in records {
            let tags: serde_json::Map<_, _> =
                record.tags.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
            insert.execute(params![
                record.unix_ms.min(i64::MAX as u64) as i64,
                record.request_id,
                record.attempt,
                record.key,
                record.route,
                record.model,
                record.provider,
                record.task,
                count(record.input_tokens),
                count(record.cached_tokens),
                count(record.output_tokens),
                record.estimated,
                record.cost,
                count(record.latency_ms),
                record.ttft_ms.map(count),
                record.outcome.as_str(),
                record.status,
                serde_json::Value::Object(tags).to_string(),
            ])?;
            if record.cost > 0.0 && !record.key.is_empty() {
                *spent.entry(&record.key).or_default() += record.cost;
            }
        }
        let mut spend = transaction.prepare_cached(SPEND)?;
        for (key, dollars) in &spent {
            spend.execute(params![key, dollars])?;
        }
    }
    transaction.commit()?;
    Ok(!spent.is_empty())
}

fn count(number: u64) -> i64 {
    number.min(COUNT_MAX) as i64
}

impl Outcome {
    /// As it stands in the file, in answers and in exports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Nothing in a record may keep it from being written, nor fill the memory.
fn bound(record: &mut UsageRecord) {
    if !record.cost.is_finite() || record.cost < 0.0 {
        record.cost = 0.0;
    }
    record.tags.truncate(TAGS_MAX);
    let UsageRecord { request_id, key, route, model, provider, task, tags, .. } = record;
    let texts = [request_id, key, route, model, task].into_iter().chain(provider);
    for text in texts.chain(tags.iter_mut().flat_map(|(name, value)| [name, value])) {
        let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
}
