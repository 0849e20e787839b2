//! The file: created, recognised, brought to the current schema, opened.
//!
//! Every operation opens a connection of its own, which takes a fraction of a millisecond; so none
//! waits for another but for the moments in which two write. The writer keeps one.

use super::error::{Doing, StoreError};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a writer waits for another, in this process or another one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries of what SQLite itself does not wait for.
const BUSY_STEP: Duration = Duration::from_millis(20);
/// Marks the file as ours: "Nova".
const APPLICATION_ID: i32 = 0x4e6f_7661;
/// Each brings the schema from the version that is its index to the next. Never changed, only added to.
const MIGRATIONS: [&str; 1] = [include_str!("schema.sql")];

#[derive(Clone)]
pub struct Database {
    path: PathBuf,
}

impl Database {
    /// Creates the file with permissions for its owner only, unless it is there, and brings it to the
    /// current schema. A file that is not ours, or newer than this program, is left as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let unusable = |reason: String| StoreError::Unusable { path: path.to_owned(), reason };
        // Also keeps SQLite from seeing a meaning in names like `:memory:`.
        let absolute = std::path::absolute(path).map_err(|error| unusable(error.to_string()))?;
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&absolute) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(unusable(format!("cannot be created: {error}")));
            }
            _ => {}
        }
        let database = Self { path: absolute };
        database.prepare().map_err(|problem| {
            unusable(match problem {
                Problem::Told(reason) => reason,
                Problem::Sqlite(error) => match error.sqlite_error_code() {
                    Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => format!(
                        "is not an SQLite database, or is damaged ({error}); it was left as it is: \
                         name another file, or restore it"
                    ),
                    _ => format!("cannot be opened: {error}"),
                },
            })
        })?;
        Ok(database)
    }

    /// A connection of one's own.
    pub fn connect(&self) -> Result<Connection, StoreError> {
        self.connection().doing("opening its file")
    }

    fn connection(&self) -> rusqlite::Result<Connection> {
        // Without CREATE: a file that has gone is an error, not an empty store.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // With a write-ahead log, a commit outlives the process; only a power cut may undo the latest.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        Ok(connection)
    }

    fn prepare(&self) -> Result<(), Problem> {
        let mut connection = self.connection()?;
        let number = |connection: &Connection, pragma: &str| {
            connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
        };
        let version = number(&connection, "user_version")?;
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let is_new = version == 0 && tables == 0;
        if !is_new && number(&connection, "application_id")? != i64::from(APPLICATION_ID) {
            return Err(Problem::Told(
                "is a database of another program; it was left as it is: name another file".into(),
            ));
        }
        let known = MIGRATIONS.len() as i64;
        if version > known {
            return Err(Problem::Told(format!(
                "was written by a newer NovaStack: its schema is version {version}, this program knows \
                 up to {known}; it was left as it is: use the newer program"
            )));
        }
        use_write_ahead_log(&connection)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        let version = number(&transaction, "user_version")?.clamp(0, known);
        for migration in &MIGRATIONS[version as usize..] {
            transaction.execute_batch(migration)?;
        }
        if version < known {
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", known)?;
        }
        Ok(transaction.commit()?)
    }
}

/// SQLite does not wait for others by itself when it changes the mode of a new file.
fn use_write_ahead_log(connection: &Connection) -> Result<(), Problem> {
    let end = Instant::now() + BUSY_TIMEOUT;
    loop {
        let mode =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
            Ok(mode) => {
                return Err(Problem::Told(format!(
                    "cannot have a write-ahead log (its journal mode stays `{mode}`): \
                     it must lie on a local file system"
                )));
            }
            Err(error) if is_busy(&error) && Instant::now() < end => std::thread::sleep(BUSY_STEP),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

enum Problem {
    Told(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}
