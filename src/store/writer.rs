//! Usage records on their way to the database. [`Recorder::record`] puts them into a bounded queue; one
//! thread takes all of it every [`TICK`], or sooner when [`BATCH`] wait, and writes them in one
//! transaction (of at most [`WRITE_MAX`]) with what their keys have spent. So a kill loses what came in
//! the last moment, and a disk that hangs or a server that is away costs memory up to the bound, then
//! records: those are counted and logged.
//!
//! The thread also notes the attempts that are under way ([`super::under_way`]); it looks every second
//! whether another process changed something, and reads the keys again, and whether one has ended that left
//! notes. It connects when it has something to do, and anew after its connection broke.

use super::Role;
use super::database::{Connection, Database, is_charged};
use super::error::{Doing, StoreError};
use super::keys::{self, DOLLARS_MAX, KeyTable, UNIX_MS_MAX};
use super::record::{Outcome, UsageRecord};
use super::under_way::{self, Notes, OpenRecord, UnderWay};
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest that a record waits for its transaction, while the disk keeps up.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// Records that are worth a transaction of their own.
const BATCH: usize = 1000;
/// Records of a transaction: a few MiB, which any database takes within a second.
const WRITE_MAX: usize = 8192;
/// Between two tries of what failed, at most.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Records that may wait: 65,536 of about 500 bytes are 32 MiB; as many again may be in the writer's
/// hands. At 12,000 requests a second that is five seconds.
const QUEUE_MAX: usize = 1 << 16;
/// How often the writer looks for what other processes did.
const WATCH: Duration = Duration::from_secs(1);
/// A process whose beat has not changed for so long, while the database answered, is no more.
const DEAD: Duration = Duration::from_secs(10);
/// How long after [`Shared::close`] the writer goes on trying what fails.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Of each text of a record.
const TEXT_BYTES_MAX: usize = 1024;
/// As many as OpenAI's `metadata` may have.
const TAGS_MAX: usize = 16;
/// Of tokens and milliseconds in one record: sums over millions of records stay in 64 bits.
pub(super) const COUNT_MAX: u64 = 1 << 40;

/// Takes usage records.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

impl Recorder {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes a record. Never waits for the database: when the queue is full (65,536 records) or the store
    /// is closed, the record is lost, which is counted, and logged while the store is open. Texts are cut
    /// at 1,024 bytes; the first 16 tags count.
    pub fn record(&self, record: UsageRecord) {
        self.take(record, None);
    }

    /// An attempt has begun, and this is what is known of it: its record is written when it is closed, or
    /// when this process is killed, with what it has used until a second before.
    pub fn open(&self, record: Arc<UsageRecord>) -> OpenRecord {
        OpenRecord::new(self.clone(), record)
    }

    pub(super) fn under_way(&self) -> &UnderWay {
        &self.shared.under_way
    }

    /// The same as [`record`](Self::record), and the attempt's note is to go.
    pub(super) fn take(&self, mut record: UsageRecord, note: Option<u64>) {
        bound(&mut record);
        let mut queue = self.shared.queue();
        if queue.closed.is_some() || queue.records.len() >= QUEUE_MAX {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.records.push(record);
        queue.notes.push(note);
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
    under_way: UnderWay,
    interrupted: Mutex<Option<Told>>,
}

/// Looks at records of attempts that another process left under way.
type Told = Box<dyn Fn(&UsageRecord) + Send + Sync>;

#[derive(Default)]
struct Queue {
    records: Vec<UsageRecord>,
    /// Of each, its attempt's number, where that has a note.
    notes: Vec<Option<u64>>,
    /// Since when.
    closed: Option<Instant>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more records; the writer ends. Says how many were lost before.
    pub(super) fn close(&self) -> u64 {
        self.queue().closed = Some(Instant::now());
        self.wake.notify_one();
        self.lost()
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn on_interrupted(&self, tell: Told) {
        *self.interrupted.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
    }

    /// Reads the keys and publishes them.
    pub(super) fn read_keys(&self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys.store(Arc::new(keys::read_all(connection)?));
        Ok(())
    }
}

/// Starts the thread.
pub(super) fn start(
    database: &Database,
    keys: KeyTable,
    role: Role,
) -> Result<(Arc<Shared>, JoinHandle<()>), StoreError> {
    let shared = Arc::new(Shared {
        keys: ArcSwap::from_pointee(keys),
        reading: Mutex::default(),
        queue: Mutex::default(),
        wake: Condvar::new(),
        lost: AtomicU64::new(0),
        under_way: UnderWay::default(),
        interrupted: Mutex::default(),
    });
    let writer = Writer {
        shared: shared.clone(),
        database: database.clone(),
        connection: None,
        batch: Vec::new(),
        notes: Vec::new(),
        name: uuid::Uuid::new_v4().to_string().into(),
        role,
        beat: 0,
        others: HashMap::new(),
        number: 1,
        retry: TICK,
        has_spent: false,
        watched: Instant::now(),
        version: None,
        lost_logged: 0,
    };
    let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run());
    let thread = thread
        .map_err(|error| StoreError::Failed { doing: "starting its thread", reason: error.to_string() })?;
    Ok((shared, thread))
}

struct Writer {
    shared: Arc<Shared>,
    database: Database,
    connection: Option<Box<dyn Connection>>,
    /// Taken from the queue, not yet written.
    batch: Vec<UsageRecord>,
    /// Of each, its attempt's number, where that has a note.
    notes: Vec<Option<u64>>,
    /// This process', under which its notes are.
    name: Arc<str>,
    role: Role,
    /// Of this process.
    beat: u64,
    /// Other processes with notes: their beats, and since when they have not changed.
    others: HashMap<String, (i64, Instant)>,
    /// Of what is written next.
    number: u64,
    /// To the next try; a tick while everything works.
    retry: Duration,
    /// Dollars were added since the keys were read.
    has_spent: bool,
    watched: Instant,
    /// As the keys were read.
    version: Option<String>,
    lost_logged: u64,
}

impl Writer {
    fn run(mut self) {
        loop {
            let closed = self.take();
            let is_working = self.work();
            if let Some(closed) = closed {
                let left = self.batch.len() + self.shared.queue().records.len();
                if left == 0 || (!is_working && closed.elapsed() >= CLOSE_TIMEOUT) {
                    self.shared.lost.fetch_add(left as u64, Ordering::Relaxed);
                    self.tell_losses();
                    return;
                }
            }
            if !is_working {
                // A full queue does not wait by itself.
                std::thread::sleep(self.retry);
                self.retry = (self.retry * 2).min(RETRY_MAX);
            }
        }
    }

    /// Waits a tick, or less when there is enough to do, and takes all records, unless some are left
    /// from before. Says since when the queue is closed.
    fn take(&mut self) -> Option<Instant> {
        let queue = self.shared.queue();
        let idle = |queue: &mut Queue| queue.records.len() < BATCH && queue.closed.is_none();
        let (mut queue, _) =
            self.shared.wake.wait_timeout_while(queue, TICK, idle).unwrap_or_else(PoisonError::into_inner);
        if self.batch.is_empty() {
            // Both keep their memory.
            mem::swap(&mut self.batch, &mut queue.records);
            mem::swap(&mut self.notes, &mut queue.notes);
        }
        queue.closed
    }

    /// Writes what was taken and looks for changes by others. Says whether the store does its work.
    fn work(&mut self) -> bool {
        let is_due = self.watched.elapsed() >= WATCH;
        if is_due {
            self.watched = Instant::now();
            self.tell_losses();
        }
        // Before records are written: who ends after this has a note that its record takes away.
        let due = self.shared.under_way.due();
        if self.batch.is_empty() && due.is_empty() && !is_due {
            return true;
        }
        let connection = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => {
                // Versions of two connections cannot be compared.
                self.version = None;
                self.database.connect()
            }
        };
        let worked = connection.and_then(|mut connection| {
            let noted = match due.as_slice() {
                [] => Ok(()),
                due => connection.note(&self.name, due).doing("noting attempts that are under way"),
            };
            if noted.is_err() {
                self.shared.under_way.not_noted(&due);
            }
            let written = self.write(&mut *connection);
            let watched = if is_due { self.watch(&mut *connection) } else { Ok(()) };
            if !connection.is_broken() {
                self.connection = Some(connection);
            }
            noted.and(written).and(watched)
        });
        match &worked {
            Ok(()) if self.retry == TICK => {}
            Ok(()) => {
                self.retry = TICK;
                tracing::info!("the store works again: usage records are written");
            }
            // The first of several.
            Err(error) if self.retry == TICK => {
                let records = self.batch.len();
                tracing::error!(%error, records, "usage records wait, and keys are as they were");
            }
            Err(_) => {}
        }
        worked.is_ok()
    }

    fn write(&mut self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        while !self.batch.is_empty() {
            // What failed comes again as it was: nothing is added to a batch that is not empty.
            let size = self.batch.len().min(WRITE_MAX);
            let records = &self.batch[..size];
            let numbers = self.notes[..size].iter().flatten().map(|number| *number as i64).collect();
            let notes = Notes { writer: self.name.clone(), numbers };
            connection.add_usage(self.number, records, &notes).doing("writing usage records")?;
            self.has_spent |= records.iter().any(is_charged);
            let written = records.len();
            self.batch.drain(..written);
            self.notes.drain(..written);
            self.number += 1;
        }
        Ok(())
    }

    fn watch(&mut self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        if self.role == Role::Among {
            self.beat(connection)?;
            self.watch_others(connection)?;
        }
        let version = connection.version().doing("looking for changes")?;
        if self.version.as_ref() != Some(&version) || self.has_spent {
            self.shared.read_keys(connection)?;
            (self.version, self.has_spent) = (Some(version), false);
        }
        Ok(())
    }

    /// Says that this process lives, while it has notes.
    fn beat(&mut self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        if !self.shared.under_way.has_notes() {
            return Ok(());
        }
        self.beat += 1;
        let beat = "INSERT INTO beats (writer, beat) VALUES ($1, $2) \
                    ON CONFLICT (writer) DO UPDATE SET beat = excluded.beat";
        let values = [self.name.to_string().into(), (self.beat as i64).into()];
        connection.change(beat, &values).map(drop).doing("saying that this process lives")
    }

    /// Writes what others have left who are no more. A batch of theirs has a number of its own even where
    /// it fails: whether it was written may not be known.
    fn watch_others(&mut self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        let mut writers = under_way::writers(connection)?;
        writers.retain(|(writer, _)| *writer != *self.name);
        self.others.retain(|known, _| writers.iter().any(|(writer, _)| writer == known));
        for (writer, beat) in writers {
            let now = Instant::now();
            let (last, since) = *self.others.entry(writer.clone()).or_insert((beat, now));
            if last != beat {
                self.others.insert(writer, (beat, now));
            } else if now.saturating_duration_since(since) >= DEAD && self.batch.is_empty() {
                self.number += 1;
                let records = under_way::close_of(connection, &writer, self.number - 1)?;
                tell_of_interrupted(&records);
                let told = self.shared.interrupted.lock().unwrap_or_else(PoisonError::into_inner);
                told.iter().for_each(|tell| records.iter().for_each(tell));
                self.has_spent = true;
            }
        }
        Ok(())
    }

    fn tell_losses(&mut self) {
        let lost = self.shared.lost();
        if lost > self.lost_logged {
            tracing::error!(lost = lost - self.lost_logged, total = lost, "usage records were lost");
            self.lost_logged = lost;
        }
    }
}

impl Outcome {
    /// As it is kept, in answers and in exports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// For the operator.
pub(super) fn tell_of_interrupted(records: &[UsageRecord]) {
    if records.is_empty() {
        return;
    }
    let dollars: f64 = records.iter().map(|record| record.cost).sum();
    let attempts = records.len();
    tracing::warn!(attempts, dollars, "a server ended with attempts under way: their records are flagged");
}

/// Nothing in a record may keep it from being written, nor fill the memory.
pub(super) fn bound(record: &mut UsageRecord) {
    if !record.cost.is_finite() || record.cost < 0.0 {
        record.cost = 0.0;
    }
    // Sums stay finite.
    record.cost = record.cost.min(DOLLARS_MAX);
    record.unix_ms = record.unix_ms.min(UNIX_MS_MAX);
    let UsageRecord { input_tokens, cached_tokens, output_tokens, latency_ms, ttft_ms, .. } = &mut *record;
    for count in [input_tokens, cached_tokens, output_tokens, latency_ms].into_iter().chain(ttft_ms) {
        *count = (*count).min(COUNT_MAX);
    }
    record.tags.truncate(TAGS_MAX);
    let UsageRecord { request_id, key, route, arm, model, provider, task, tags, .. } = record;
    let texts = [request_id, key, route, model, task].into_iter().chain(provider).chain(arm);
    for text in texts.chain(tags.iter_mut().flat_map(|(name, value)| [name, value])) {
        let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
}
