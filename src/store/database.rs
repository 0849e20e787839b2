//! Where keys and usage are kept: in an SQLite file or a PostgreSQL database. The other modules write
//! SQL that both understand, with parameters `$1`, `$2`... in the order of their first use. What the
//! two do not have in common is a [`Dialect`], and how [`Connection::add_usage`] writes a batch.

use super::error::{Doing, StoreError};
use super::record::UsageRecord;
use super::under_way::Notes;
use super::{postgres, sqlite};
use crate::config;
use rusqlite::types::{FromSql, Value, ValueRef};
use std::collections::BTreeMap;

/// A database that is known to be ours, with the current schema. Clones are cheap.
#[derive(Clone)]
pub enum Database {
    Sqlite(sqlite::File),
    Postgres(postgres::Server),
}

impl Database {
    /// Opens it and brings it to the current schema. One that is not ours, or newer than this program,
    /// is left as it is.
    pub fn open(place: &config::Store) -> Result<Self, StoreError> {
        match place {
            config::Store::Sqlite(path) => sqlite::File::open(path).map(Self::Sqlite),
            config::Store::Postgres(url) => postgres::Server::open(url).map(Self::Postgres),
        }
    }

    /// A connection of the writer's own.
    pub fn connect(&self) -> Result<Box<dyn Connection>, StoreError> {
        let connection: Result<Box<dyn Connection>, String> = match self {
            Self::Sqlite(file) => file.connect().map(|it| Box::new(it) as _),
            Self::Postgres(server) => server.connect().map(|it| Box::new(it) as _),
        };
        connection.doing("connecting")
    }

    /// Lends a connection for some work.
    pub fn with<T>(
        &self,
        work: impl FnOnce(&mut dyn Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(file) => work(&mut file.connect().doing("opening its file")?),
            Self::Postgres(server) => work(server.lend().doing("connecting")?.session()),
        }
    }
}

/// What the two databases say differently.
pub struct Dialect {
    /// Begins a transaction that is going to write.
    pub begin: &'static str,
    /// Ends a SELECT of what nobody else may change until the transaction ends.
    pub for_update: &'static str,
    /// The day of a row of `usage`, in UTC: `2026-01-31`.
    pub day: &'static str,
    /// The value of a row's tag whose name is the parameter with this number, or NULL.
    pub tag: fn(usize) -> String,
}

/// Looks at a row of many. An error ends the statement.
pub type Visit = Box<dyn FnMut(&[ValueRef<'_>]) -> Result<(), String> + Send>;
/// Columns that a row of many may have.
pub const SCANNED_COLUMNS_MAX: usize = 24;

/// A connection. Errors are the database's own words.
pub trait Connection: Send {
    fn dialect(&self) -> &'static Dialect;
    /// Runs a statement that has rows; it sees one moment.
    fn read(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, String>;
    /// Runs a statement that has many rows, and shows them one after the other; it sees one moment.
    fn scan(&mut self, sql: &str, parameters: &[Value], visit: Visit) -> Result<(), String>;
    /// Runs a statement that changes rows; says how many.
    fn change(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, String>;
    /// Writes records and adds their cost to what their keys have spent, all or nothing, and takes the
    /// notes of their attempts away. `batch` counts
    /// the batches of this process: one that was written although the answer got lost may come again,
    /// unchanged, and counts once.
    fn add_usage(&mut self, batch: u64, records: &[UsageRecord], notes: &Notes) -> Result<(), String>;
    /// Notes attempts that are under way, by their numbers, anew or as they are now.
    fn note(&mut self, writer: &str, attempts: &[(u64, UsageRecord)]) -> Result<(), String>;
    /// Another than last time, on this connection, if others have changed something since.
    fn version(&mut self) -> Result<String, String>;
    /// It cannot be used any more.
    fn is_broken(&self) -> bool;
}

/// Runs some work in a transaction; an error undoes it.
pub fn atomically<T>(
    connection: &mut dyn Connection,
    doing: &'static str,
    work: impl FnOnce(&mut dyn Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.change(connection.dialect().begin, &[]).doing(doing)?;
    let result = work(connection);
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = connection.change(end, &[]).doing(doing);
    let value = result?;
    ended.map(|_| value)
}

/// A store of an older version is brought up to date; one that is made anew says nothing.
pub fn tell_of_migration(place: &str, from: i64, to: i64) {
    if from > 0 {
        tracing::info!(place, from, to, "the store was brought to the current schema");
    }
}

/// A row of an answer.
pub struct Row(pub Vec<Value>);

impl Row {
    /// A column's value, from 0.
    pub fn get<T: FromSql>(&self, column: usize) -> Result<T, String> {
        T::column_result((&self.0[column]).into()).map_err(|error| format!("column {column}: {error}"))
    }
}

/// Of one record: goes into the key's total.
pub fn is_charged(record: &UsageRecord) -> bool {
    record.cost > 0.0 && !record.key.is_empty()
}

/// Dollars by key.
pub fn charges(records: &[UsageRecord]) -> BTreeMap<&str, f64> {
    let mut charges = BTreeMap::new();
    for record in records.iter().filter(|record| is_charged(record)) {
        *charges.entry(record.key.as_str()).or_default() += record.cost;
    }
    charges
}

/// A record's tags as they are kept: a JSON object of texts, each as `storable` makes it.
pub fn tags_text(record: &UsageRecord, storable: fn(&str) -> String) -> String {
    let tags = record.tags.iter().map(|(name, value)| (storable(name), storable(value).into()));
    serde_json::Value::Object(tags.collect()).to_string()
}
