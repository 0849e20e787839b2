//! Attempts under way. Each is known here from its begin; the writer notes those that last, with what they
//! have used so far, about once a second, and a note goes in the transaction that writes the attempt's
//! record. So a process that is killed leaves notes behind: whoever opens the store next, or lives beside it,
//! writes them as records that are flagged. Short attempts, which are most, cost no write.

use super::database::{Connection, Row, atomically};
use super::error::{Doing, StoreError};
use super::export;
use super::record::{Flag, Outcome, UsageRecord};
use super::writer::{Recorder, TICK, bound};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const DOING: &str = "writing what was interrupted";
/// Between two notes of an attempt.
const NOTE: Duration = Duration::from_millis(800);
/// The status of a record that was interrupted: its caller saw the connection break.
const STATUS_INTERRUPTED: u16 = 500;

/// What an attempt has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Of those, from a cache.
    pub cached_tokens: u64,
    /// Generated.
    pub output_tokens: u64,
    /// Dollars.
    pub cost: f64,
    /// From the attempt's begin to its first text.
    pub ttft_ms: Option<u64>,
}

/// An attempt that is under way, until it is [closed](Self::close).
#[must_use]
pub struct OpenRecord {
    recorder: Recorder,
    number: u64,
    entry: Arc<Entry>,
}

/// An attempt that is over, whose record is still to be kept.
#[must_use]
pub struct ClosedRecord {
    recorder: Recorder,
    note: Option<u64>,
}

struct Entry {
    record: Arc<UsageRecord>,
    begun: Instant,
    progress: Mutex<Progress>,
}

impl OpenRecord {
    pub(super) fn new(recorder: Recorder, record: Arc<UsageRecord>) -> Self {
        let entry = Arc::new(Entry { record, begun: Instant::now(), progress: Mutex::default() });
        let number = recorder.under_way().insert(entry.clone());
        Self { recorder, number, entry }
    }

    /// It has used so much.
    pub fn update(&self, progress: Progress) {
        *self.entry.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// It is over.
    pub fn close(self) -> ClosedRecord {
        let note = self.recorder.under_way().remove(self.number);
        ClosedRecord { recorder: self.recorder, note }
    }
}

impl ClosedRecord {
    /// This is what is kept of it.
    pub fn keep(self, record: UsageRecord) {
        self.recorder.take(record, self.note);
    }
}

/// All attempts of this process that are not over.
#[derive(Default)]
pub struct UnderWay {
    last: AtomicU64,
    entries: Mutex<BTreeMap<u64, Noted>>,
}

struct Noted {
    entry: Arc<Entry>,
    /// When, and what; None: it was not.
    last: Option<(Instant, Progress)>,
}

impl UnderWay {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Noted>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, entry: Arc<Entry>) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.entries().insert(number, Noted { entry, last: None });
        number
    }

    /// Its number, where a note has to go.
    fn remove(&self, number: u64) -> Option<u64> {
        self.entries().remove(&number).and_then(|noted| noted.last).map(|_| number)
    }

    /// Those whose notes are due. They count as noted from now on: whoever ends meanwhile has his note
    /// taken away.
    pub fn due(&self) -> Vec<(u64, UsageRecord)> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (number, Noted { entry, last }) in self.entries().iter_mut() {
            let age = now.saturating_duration_since(entry.begun);
            let progress = *entry.progress.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = match last {
                None => age >= TICK,
                Some((at, noted)) => now.saturating_duration_since(*at) >= NOTE && *noted != progress,
            };
            if !is_due {
                continue;
            }
            *last = Some((now, progress));
            let Progress { input_tokens, cached_tokens, output_tokens, cost, ttft_ms } = progress;
            let mut record = UsageRecord {
                input_tokens,
                cached_tokens,
                output_tokens,
                cost,
                ttft_ms,
                estimated: true,
                latency_ms: age.as_millis() as u64,
                outcome: Outcome::Failed,
                status: STATUS_INTERRUPTED,
                flag: Some(Flag::Interrupted),
                ..UsageRecord::clone(&entry.record)
            };
            bound(&mut record);
            due.push((*number, record));
        }
        due
    }

    /// Notes that could not be written are due again.
    pub fn not_noted(&self, notes: &[(u64, UsageRecord)]) {
        let mut entries = self.entries();
        for (number, _) in notes {
            if let Some(Noted { last: Some((_, noted)), .. }) = entries.get_mut(number) {
                // No progress has such a cost.
                noted.cost = -1.0;
            }
        }
    }

    /// Whether any attempt has a note.
    pub fn has_notes(&self) -> bool {
        self.entries().values().any(|noted| noted.last.is_some())
    }
}

/// Processes that have left notes, or are about to take them away.
pub fn writers(connection: &mut dyn Connection) -> Result<Vec<(String, i64)>, StoreError> {
    let sql = "SELECT DISTINCT open_attempts.writer, coalesce(beat, 0) FROM open_attempts \
               LEFT JOIN beats ON beats.writer = open_attempts.writer";
    let rows = connection.read(sql, &[]);
    let pair = |row: &Row| Ok::<(String, i64), String>((row.get(0)?, row.get(1)?));
    let pairs = rows.and_then(|rows| rows.iter().map(pair).collect::<Result<Vec<_>, _>>());
    pairs.doing(DOING)
}

/// Writes what a process that is no more has left. `batch` counts as for any other records.
pub fn close_of(
    connection: &mut dyn Connection,
    writer: &str,
    batch: u64,
) -> Result<Vec<UsageRecord>, StoreError> {
    atomically(connection, DOING, |connection| {
        let sql = format!(
            "SELECT {} FROM open_attempts AS usage WHERE writer = $1 ORDER BY id {}",
            export::SELECTED,
            connection.dialect().for_update
        );
        let rows = connection.read(&sql, &[writer.to_owned().into()]);
        let records = rows.and_then(|rows| rows.iter().map(export::record).collect::<Result<Vec<_>, _>>());
        let records = records.doing(DOING)?;
        // Somebody else was faster.
        if records.is_empty() {
            return Ok(records);
        }
        connection.add_usage(batch, &records, &Notes::default()).doing(DOING)?;
        for table in ["open_attempts", "beats"] {
            let delete = format!("DELETE FROM {table} WHERE writer = $1");
            connection.change(&delete, &[writer.to_owned().into()]).doing(DOING)?;
        }
        Ok(records)
    })
}

/// Notes that go with the records of their attempts.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// The process.
    pub writer: Arc<str>,
    /// Of its attempts.
    pub numbers: Vec<i64>,
}
