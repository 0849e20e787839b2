//! What outlives a process: keys, and one record for each attempt to answer a request. One SQLite
//! file, or one PostgreSQL database; several processes may have it open (a server and `novastack keys`;
//! with PostgreSQL, servers on several machines).
//!
//! [`record`] is the record; [`writer`] takes records off the request's path, [`under_way`] keeps those of attempts
//! that are not over; [`usage`] adds them up
//! and [`export`] reads them back; [`correction`] mends one; [`spending`] is what was spent of days and months; [`scores`] are what callers think of answers, [`report`] compares the
//! arms of splits; [`keys`] makes and finds keys. Their SQL is for both databases;
//! [`database`] is what they ask of one, [`sqlite`] and [`postgres`] are the two.
//!
//! Invariants: recording never waits for a disk or a server; what is not written is counted; a record
//! is written once, and changed by a correction only; a key's text is never kept, only its SHA-256; what a key has spent is written in
//! the transaction of its usage.
//!
//! Deliberately absent: renaming keys (usage refers to them by name), removing old records, moving from
//! one database to the other. Limits are counted by the gateway.

pub mod correction;
mod database;
mod error;
pub mod export;
pub mod keys;
mod postgres;
pub mod record;
pub mod report;
pub mod scores;
mod serving;
pub mod spending;
mod sqlite;
mod totals;
pub mod under_way;
pub mod usage;
mod writer;

pub use correction::{Corrected, Correction};
pub use error::StoreError;
pub use export::{ExportFormat, Records};
pub use keys::{Key, KeySettings, KeyTable, Refusal};
pub use record::{Flag, Outcome, UsageRecord, new_request_id};
pub use report::{ArmRow, ScoreTotals, Spread};
pub use scores::Score;
pub use spending::{Spender, SpentOfPeriods};
pub use under_way::{ClosedRecord, OpenRecord, Progress};
pub use usage::{Dimension, Filter, Totals, UsageQuery, UsageRow};
pub use writer::Recorder;

use crate::config;
use database::Database;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use writer::Shared;

/// Who opens a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A program that is no server.
    Guest,
    /// The only server.
    Alone,
    /// One of several servers, perhaps.
    Among,
}

/// Keys and usage, in a file or a database. Its methods but [`Store::keys`] and [`Store::recorder`] wait
/// for a disk or a server: async code calls them from a thread that may block.
pub struct Store {
    database: Database,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Of a server on an SQLite file.
    _serving: Option<File>,
}

impl Store {
    /// Opens the file (where there is none, it is created with permissions for its owner only) or the
    /// database, whose tables are made where there are none. Starts the writer's thread.
    pub fn open(place: &config::Store) -> Result<Arc<Self>, StoreError> {
        Self::open_with(place, None)
    }

    /// The same for a server, which counts what keys spend: with an SQLite file each server would keep
    /// budgets of its own, so there is one at a time, unless all of them share their limits elsewhere.
    /// Ends with the process, whatever ends it. Others may open the store beside it.
    ///
    /// # Errors
    /// Another server has the file.
    pub fn serve(place: &config::Store, shares_limits: bool) -> Result<Arc<Self>, StoreError> {
        Self::open_with(place, Some(shares_limits))
    }

    /// `serves`: as a server, and whether its limits are shared.
    fn open_with(place: &config::Store, serves: Option<bool>) -> Result<Arc<Self>, StoreError> {
        let database = Database::open(place)?;
        let serving = match (place, serves) {
            (config::Store::Sqlite(path), Some(shares_limits)) => Some(serving::hold(path, shares_limits)?),
            _ => None,
        };
        let role = match serves {
            None => Role::Guest,
            Some(true) => Role::Among,
            Some(false) if serving.is_some() => Role::Alone,
            // Others may serve from the same database.
            Some(false) => Role::Among,
        };
        let keys = database.with(|connection| {
            if role == Role::Alone {
                // Nobody else can have notes here.
                for (writer, _) in under_way::writers(connection)? {
                    let records = under_way::close_of(connection, &writer, 0)?;
                    writer::tell_of_interrupted(&records);
                }
            }
            keys::read_all(connection)
        })?;
        let (shared, writer) = writer::start(&database, keys, role)?;
        Ok(Arc::new(Self { database, shared, writer: Mutex::new(Some(writer)), _serving: serving }))
    }

    /// Takes records. Clones are cheap.
    pub fn recorder(&self) -> Recorder {
        Recorder::new(self.shared.clone())
    }

    /// Has the records of attempts shown that another server left under way when it ended, as they are
    /// found; those that were found before the store was opened are among what was spent.
    pub fn on_interrupted(&self, tell: impl Fn(&UsageRecord) + Send + Sync + 'static) {
        self.shared.on_interrupted(Box::new(tell));
    }

    /// All keys as they are, or were about a second ago where another process changed them.
    pub fn keys(&self) -> Arc<KeyTable> {
        self.shared.keys.load_full()
    }

    /// Writes every record that was taken, and ends the writer; records that come later are lost. A
    /// disk or a server that fails is tried for 10 seconds (one that says nothing at all, for half a
    /// minute), then the error says how many records are lost. The second call does nothing.
    pub fn close(&self) -> Result<(), StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return Ok(()) };
        let lost_before = self.shared.close();
        if writer.join().is_err() {
            return Err(StoreError::Failed { doing: "writing usage records", reason: "it panicked".into() });
        }
        match self.shared.lost() - lost_before {
            0 => Ok(()),
            lost => Err(StoreError::Lost(lost)),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the store");
        }
    }
}

/// Milliseconds since 1970.
pub fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
