//! Usage records read back, and their two file formats.
//!
//! Records are read a page at a time, each page with its own look at the database: however slowly an
//! export is read, it keeps nothing from being written or tidied up.

use super::Store;
use super::database::{Database, Row};
use super::error::{Doing, StoreError};
use super::record::{Flag, Outcome, UsageRecord};
use super::usage::Filter;
use rusqlite::types::Value;
use std::time::{Duration, UNIX_EPOCH};

/// Records of a page: about half a megabyte.
const PAGE: usize = 1000;
// More may come, at the end.
const COLUMNS: [&str; 20] = [
    "time",
    "request_id",
    "attempt",
    "key",
    "route",
    "model",
    "provider",
    "task",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "estimated",
    "cost",
    "latency_ms",
    "ttft_ms",
    "outcome",
    "status",
    "tags",
    "arm",
    "flag",
];
/// Columns of `usage` as [`record`] reads them; the first is the row's number.
pub(super) const SELECTED: &str = "id, unix_ms, request_id, attempt, usage.key, route, model, provider, task, \
     input_tokens, cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags, arm, \
     flag";

/// Records in the order in which they were written, up to the last one when reading began.
pub struct Records {
    database: Database,
    filter: Filter,
    after_id: i64,
    last_id: i64,
}

impl Store {
    /// Begins to read records.
    pub fn records(&self, filter: Filter) -> Result<Records, StoreError> {
        filter.check()?;
        let last = "SELECT coalesce(max(id), 0) FROM usage";
        let last_id = self.database.with(|connection| {
            connection.read(last, &[]).and_then(|rows| rows[0].get(0)).doing("reading usage")
        })?;
        Ok(Records { database: self.database.clone(), filter, after_id: 0, last_id })
    }
}

impl Records {
    /// The next page, at most 1,000 records; an empty one is the end.
    pub fn page(&mut self) -> Result<Vec<UsageRecord>, StoreError> {
        let found = self.database.with(|connection| {
            let mut parameters = vec![Value::from(self.after_id), Value::from(self.last_id)];
            let condition = self.filter.sql(connection.dialect(), &mut parameters);
            let sql = format!(
                "SELECT {SELECTED} FROM usage WHERE id > $1 AND id <= $2 AND {condition} ORDER BY id LIMIT {PAGE}"
            );
            let rows = connection.read(&sql, &parameters);
            let records = rows.and_then(|rows| {
                rows.iter().map(|row| Ok((row.get(0)?, record(row)?))).collect::<Result<Vec<(i64, _)>, _>>()
            });
            records.doing("reading usage")
        })?;
        self.after_id = found.last().map_or(self.last_id, |(id, _)| *id);
        Ok(found.into_iter().map(|(_, record)| record).collect())
    }
}

pub(super) fn record(row: &Row) -> Result<UsageRecord, String> {
    let number = |column| row.get::<i64>(column).map(|number| number.max(0) as u64);
    let tags: String = row.get(18)?;
    let tags = serde_json::from_str::<serde_json::Map<_, _>>(&tags).unwrap_or_default();
    Ok(UsageRecord {
        unix_ms: number(1)?,
        request_id: row.get(2)?,
        attempt: row.get(3)?,
        key: row.get(4)?,
        route: row.get(5)?,
        model: row.get(6)?,
        provider: row.get(7)?,
        task: row.get(8)?,
        input_tokens: number(9)?,
        cached_tokens: number(10)?,
        output_tokens: number(11)?,
        estimated: row.get(12)?,
        cost: row.get(13)?,
        latency_ms: number(14)?,
        ttft_ms: row.get::<Option<i64>>(15)?.map(|ms| ms.max(0) as u64),
        outcome: match row.get::<String>(16)?.as_str() {
            "completed" => Outcome::Completed,
            "cancelled" => Outcome::Cancelled,
            _ => Outcome::Failed,
        },
        status: row.get(17)?,
        tags: tags
            .into_iter()
            .filter_map(|(name, value): (String, serde_json::Value)| Some((name, value.as_str()?.to_owned())))
            .collect(),
        arm: row.get(19)?,
        flag: row.get::<Option<String>>(20)?.as_deref().and_then(Flag::parse),
    })
}

/// A file format for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// RFC 4180: a line of names, fields with `,`, `"` or line breaks in quotes, CRLF. A text that a
    /// spreadsheet would run as a formula has a `'` before it.
    Csv,
    /// One JSON object per line; texts are exactly as they are.
    Jsonl,
}

impl ExportFormat {
    /// What a file begins with.
    pub fn head(self) -> Vec<u8> {
        match self {
            Self::Csv => csv([COLUMNS.map(str::to_owned).to_vec()]),
            Self::Jsonl => Vec::new(),
        }
    }

    /// Records as they stand in a file.
    pub fn encode(self, records: &[UsageRecord]) -> Vec<u8> {
        match self {
            Self::Csv => csv(records.iter().map(|record| csv_fields(record).to_vec())),
            Self::Jsonl => records.iter().flat_map(|record| (json(record) + "\n").into_bytes()).collect(),
        }
    }
}

fn csv_fields(record: &UsageRecord) -> [String; COLUMNS.len()] {
    [
        time(record.unix_ms),
        spreadsheet_safe(&record.request_id),
        record.attempt.to_string(),
        spreadsheet_safe(&record.key),
        spreadsheet_safe(&record.route),
        spreadsheet_safe(&record.model),
        spreadsheet_safe(record.provider.as_deref().unwrap_or_default()),
        spreadsheet_safe(&record.task),
        record.input_tokens.to_string(),
        record.cached_tokens.to_string(),
        record.output_tokens.to_string(),
        record.estimated.to_string(),
        record.cost.to_string(),
        record.latency_ms.to_string(),
        record.ttft_ms.map_or(String::new(), |ms| ms.to_string()),
        record.outcome.as_str().to_owned(),
        record.status.to_string(),
        tags(record).to_string(),
        spreadsheet_safe(record.arm.as_deref().unwrap_or_default()),
        record.flag.map_or(String::new(), |flag| flag.as_str().to_owned()),
    ]
}

fn json(record: &UsageRecord) -> String {
    serde_json::json!({
        "time": time(record.unix_ms),
        "request_id": record.request_id,
        "attempt": record.attempt,
        "key": record.key,
        "route": record.route,
        "model": record.model,
        "provider": record.provider,
        "task": record.task,
        "input_tokens": record.input_tokens,
        "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens,
        "estimated": record.estimated,
        "cost": record.cost,
        "latency_ms": record.latency_ms,
        "ttft_ms": record.ttft_ms,
        "outcome": record.outcome.as_str(),
        "status": record.status,
        "tags": tags(record),
        "arm": record.arm,
        "flag": record.flag.map(Flag::as_str),
    })
    .to_string()
}

fn tags(record: &UsageRecord) -> serde_json::Value {
    record
        .tags
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// RFC 3339 with milliseconds: `2026-01-31T12:00:00.000Z`. Moments after the year 9999 count as its end.
pub fn time(unix_ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms.min(253_402_300_799_999));
    humantime::format_rfc3339_millis(time).to_string()
}

/// Rows as RFC 4180 has them.
pub fn csv(rows: impl IntoIterator<Item = Vec<String>>) -> Vec<u8> {
    let mut writer =
        csv::WriterBuilder::new().flexible(true).terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    for row in rows {
        writer.write_record(row).expect("a vector takes everything");
    }
    writer.into_inner().expect("a vector takes everything")
}

/// Spreadsheets run a cell that begins with one of these as a formula, and callers choose some texts.
pub fn spreadsheet_safe(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}
