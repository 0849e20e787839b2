//! An SQLite file: created, recognised, brought to the current schema, opened.
//!
//! Every operation opens a connection of its own, which takes a fraction of a millisecond; so none
//! waits for another but for the moments in which two write. The writer keeps one.

use super::database::{self, Dialect, Row, SCANNED_COLUMNS_MAX, Visit, charges, tags_text};
use super::error::StoreError;
use super::record::{Flag, UsageRecord};
use super::spending::charges_by_period;
use super::under_way::Notes;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, Statement, ToSql, TransactionBehavior, params, params_from_iter,
};
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
const MIGRATIONS: [&str; 5] = [
    include_str!("sqlite.sql"),
    include_str!("sqlite_2.sql"),
    include_str!("sqlite_3.sql"),
    include_str!("sqlite_4.sql"),
    include_str!("sqlite_5.sql"),
];

const INSERT: &str = "INSERT INTO usage (unix_ms, request_id, attempt, key, route, model, provider, task, \
     input_tokens, cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags, \
     arm, flag) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";
const NOTE: &str = "INSERT INTO open_attempts (unix_ms, request_id, attempt, key, route, model, provider, task, \
     input_tokens, cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags, \
     arm, flag, writer, id) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22) \
     ON CONFLICT (writer, id) DO UPDATE SET input_tokens = excluded.input_tokens, \
     cached_tokens = excluded.cached_tokens, output_tokens = excluded.output_tokens, cost = excluded.cost, \
     latency_ms = excluded.latency_ms, ttft_ms = excluded.ttft_ms";
const SPEND: &str = "INSERT INTO spent (key, dollars) VALUES (?, ?) \
     ON CONFLICT (key) DO UPDATE SET dollars = dollars + excluded.dollars";

const SPEND_BY_PERIOD: &str = "INSERT INTO spent_by_period (period, kind, name, dollars) VALUES (?, ?, ?, ?) \
     ON CONFLICT (period, kind, name) DO UPDATE SET dollars = dollars + excluded.dollars";

const DIALECT: Dialect = Dialect {
    begin: "BEGIN IMMEDIATE",
    // Who writes has the file.
    for_update: "",
    day: "date(unix_ms / 1000, 'unixepoch')",
    tag: |parameter| format!("(SELECT value FROM json_each(usage.tags) WHERE json_each.key = ${parameter})"),
};

#[derive(Clone)]
pub struct File {
    path: PathBuf,
}

impl File {
    /// Creates the file with permissions for its owner only, unless it is there, and brings it to the
    /// current schema. A file that is not ours, or newer than this program, is left as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let unusable = |reason: String| StoreError::Unusable { place: path.display().to_string(), reason };
        // Also keeps SQLite from seeing a meaning in names like `:memory:`.
        let absolute = std::path::absolute(path).map_err(|error| unusable(error.to_string()))?;
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&absolute) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(unusable(format!("cannot be created: {error}")));
            }
            _ => {}
        }
        let file = Self { path: absolute };
        file.prepare().map_err(|problem| {
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
        Ok(file)
    }

    /// A connection of one's own.
    pub fn connect(&self) -> Result<Connection, String> {
        self.connection().map_err(|error| error.to_string())
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
            database::tell_of_migration(&self.path.display().to_string(), version, known);
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

impl database::Connection for Connection {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn read(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, String> {
        let read = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = self.prepare_cached(sql)?;
            let columns = statement.column_count();
            let row =
                |row: &rusqlite::Row| (0..columns).map(|at| row.get(at)).collect::<Result<_, _>>().map(Row);
            statement.query_map(params_from_iter(parameters), row)?.collect()
        };
        read().map_err(|error| error.to_string())
    }

    fn scan(&mut self, sql: &str, parameters: &[Value], mut visit: Visit) -> Result<(), String> {
        let words = |error: rusqlite::Error| error.to_string();
        let mut statement = self.prepare_cached(sql).map_err(words)?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(parameters)).map_err(words)?;
        while let Some(row) = rows.next().map_err(words)? {
            let mut cells = [ValueRef::Null; SCANNED_COLUMNS_MAX];
            for (at, cell) in cells.iter_mut().enumerate().take(columns) {
                *cell = row.get_ref(at).map_err(words)?;
            }
            visit(&cells[..columns])?;
        }
        Ok(())
    }

    fn change(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, String> {
        let changed = self.execute(sql, params_from_iter(parameters));
        changed.map(|rows| rows as u64).map_err(|error| error.to_string())
    }

    /// A commit's answer cannot get lost here.
    fn add_usage(&mut self, _batch: u64, records: &[UsageRecord], notes: &Notes) -> Result<(), String> {
        let insert = |connection: &Connection| insert(connection, records, notes);
        in_transaction(self, insert).map_err(|error| error.to_string())
    }

    fn note(&mut self, writer: &str, attempts: &[(u64, UsageRecord)]) -> Result<(), String> {
        let note = |connection: &Connection| {
            let mut note = connection.prepare_cached(NOTE)?;
            for (number, record) in attempts {
                bind(&mut note, record)?;
                note.raw_bind_parameter(21_usize, writer)?;
                note.raw_bind_parameter(22_usize, *number as i64)?;
                note.raw_execute()?;
            }
            Ok(())
        };
        in_transaction(self, note).map_err(|error| error.to_string())
    }

    fn version(&mut self) -> Result<String, String> {
        let version = self.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0));
        version.map(|number| number.to_string()).map_err(|error| error.to_string())
    }

    fn is_broken(&self) -> bool {
        false
    }
}

/// In the transaction that is open, or in one of its own.
fn in_transaction(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    if !connection.is_autocommit() {
        return work(connection);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    work(&transaction)?;
    transaction.commit()
}

fn insert(connection: &Connection, records: &[UsageRecord], notes: &Notes) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(INSERT)?;
    for record in records {
        bind(&mut insert, record)?;
        insert.raw_execute()?;
    }
    let mut spend = connection.prepare_cached(SPEND)?;
    for (key, dollars) in charges(records) {
        spend.execute(params![key, dollars])?;
    }
    let mut spend = connection.prepare_cached(SPEND_BY_PERIOD)?;
    for ((period, kind, name), dollars) in charges_by_period(records) {
        spend.execute(params![period, kind, name, dollars])?;
    }
    let mut take_away = connection.prepare_cached("DELETE FROM open_attempts WHERE writer = ? AND id = ?")?;
    for number in &notes.numbers {
        take_away.execute(params![&*notes.writer, number])?;
    }
    Ok(())
}

/// A record's columns, from parameter 1 on.
fn bind(statement: &mut Statement<'_>, record: &UsageRecord) -> rusqlite::Result<()> {
    let columns: [&dyn ToSql; 20] = [
        &(record.unix_ms as i64),
        &record.request_id,
        &record.attempt,
        &record.key,
        &record.route,
        &record.model,
        &record.provider,
        &record.task,
        &(record.input_tokens as i64),
        &(record.cached_tokens as i64),
        &(record.output_tokens as i64),
        &record.estimated,
        &record.cost,
        &(record.latency_ms as i64),
        &record.ttft_ms.map(|ms| ms as i64),
        &record.outcome.as_str(),
        &record.status,
        &tags_text(record, str::to_owned),
        &record.arm,
        &record.flag.map(Flag::as_str),
    ];
    columns.iter().enumerate().try_for_each(|(at, column)| statement.raw_bind_parameter(at + 1, column))
}
