//! Totals of usage, by whatever they are grouped by.

use super::Store;
use super::database::Dialect;
use super::error::{Doing, StoreError};
use super::totals::{Adding, COLUMNS};
use rusqlite::types::{Value, ValueRef};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Groups in one answer.
const GROUPS_MAX: usize = 10_000;
/// Dimensions that one question may group by, and filters that it may have.
const DIMENSIONS_MAX: usize = 8;
/// A tag, as a dimension, is `tag:NAME`.
const TAG: &str = "tag:";

/// What usage can be grouped and filtered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// The key's name.
    Key,
    /// The model.
    Model,
    /// What chose the model.
    Route,
    /// The arm that a split chose; None where none did.
    Arm,
    /// The task.
    Task,
    /// The day, in UTC: `2026-01-31`.
    Day,
    /// The provider; None for this process.
    Provider,
    /// `completed`, `cancelled` or `failed`.
    Outcome,
    /// What an operator should know: `bounded`, `interrupted`, `corrected`; None: nothing.
    Flag,
    /// The value of a tag of this name; None for records without it.
    Tag(String),
}

impl Dimension {
    /// Reads `key`, `model`... `tag:NAME`.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "key" => Self::Key,
            "model" => Self::Model,
            "route" => Self::Route,
            "arm" => Self::Arm,
            "task" => Self::Task,
            "day" => Self::Day,
            "provider" => Self::Provider,
            "outcome" => Self::Outcome,
            "flag" => Self::Flag,
            _ => match text.strip_prefix(TAG) {
                Some(name) if !name.is_empty() => Self::Tag(name.to_owned()),
                _ => {
                    let text = text.escape_debug();
                    return Err(format!(
                        "`{text}` is nothing to group or filter by; there are key, model, route, arm, task, \
                         day, provider, outcome, flag and tag:NAME"
                    ));
                }
            },
        })
    }

    /// As [`Dimension::parse`] reads it.
    pub fn name(&self) -> String {
        match self {
            Self::Key => "key".into(),
            Self::Model => "model".into(),
            Self::Route => "route".into(),
            Self::Arm => "arm".into(),
            Self::Task => "task".into(),
            Self::Day => "day".into(),
            Self::Provider => "provider".into(),
            Self::Outcome => "outcome".into(),
            Self::Flag => "flag".into(),
            Self::Tag(name) => format!("{TAG}{name}"),
        }
    }

    /// An expression over a row of `usage`; its parameters are added in order.
    fn sql(&self, dialect: &Dialect, parameters: &mut Vec<Value>) -> String {
        let column = match self {
            Self::Key => "usage.key",
            Self::Model => "model",
            Self::Route => "route",
            Self::Arm => "arm",
            Self::Task => "task",
            Self::Day => dialect.day,
            Self::Provider => "provider",
            Self::Outcome => "outcome",
            Self::Flag => "flag",
            Self::Tag(name) => {
                parameters.push(name.clone().into());
                return (dialect.tag)(parameters.len());
            }
        };
        column.to_owned()
    }
}

/// Which records count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The first moment that counts, in milliseconds since 1970.
    pub from_unix_ms: Option<u64>,
    /// The first moment that counts no more.
    pub to_unix_ms: Option<u64>,
    /// All of these must be so; the empty text stands for none.
    pub equal: Vec<(Dimension, String)>,
}

impl Filter {
    /// A condition over a row of `usage`; its parameters are added in order.
    pub(super) fn sql(&self, dialect: &Dialect, parameters: &mut Vec<Value>) -> String {
        let mut sql = String::from("true");
        for (moment, compare) in [(self.from_unix_ms, ">="), (self.to_unix_ms, "<")] {
            if let Some(moment) = moment {
                parameters.push(i64::try_from(moment).unwrap_or(i64::MAX).into());
                let _ = write!(sql, " AND unix_ms {compare} ${}", parameters.len());
            }
        }
        for (dimension, value) in self.equal.iter().take(DIMENSIONS_MAX) {
            let column = dimension.sql(dialect, parameters);
            parameters.push(value.clone().into());
            let _ = write!(sql, " AND coalesce({column}, '') = ${}", parameters.len());
        }
        sql
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.equal.len() {
            0..=DIMENSIONS_MAX => Ok(()),
            many => Err(StoreError::Invalid(format!("at most {DIMENSIONS_MAX} filters, not {many}"))),
        }
    }
}

/// A question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// One row for each combination of their values; empty: one row.
    pub group_by: Vec<Dimension>,
    /// Which records count.
    pub filter: Filter,
}

/// One group's totals.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRow {
    /// In the order of [`UsageQuery::group_by`].
    pub group: Vec<Option<String>>,
    /// Of the group's records.
    pub totals: Totals,
}

/// Sums over records. Percentiles are those values of which so many percent are not above (nearest
/// rank); None without values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Requests; one with attempts in two groups counts in both.
    pub requests: u64,
    /// Attempts: records.
    pub attempts: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Attempts whose caller went away.
    pub cancelled: u64,
    /// Attempts whose token counts are estimated.
    pub estimated: u64,
    /// Attempts whose records have a flag.
    pub flagged: u64,
    /// Tokens of prompts, cached ones included.
    pub input_tokens: u64,
    /// Of those, from a cache.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Dollars.
    pub cost: f64,
    /// Of completed attempts.
    pub latency_ms_p50: Option<u64>,
    /// Of completed attempts.
    pub latency_ms_p95: Option<u64>,
    /// Of attempts that came to a first text.
    pub ttft_ms_p50: Option<u64>,
    /// Of attempts that came to a first text.
    pub ttft_ms_p95: Option<u64>,
}

impl Store {
    /// Adds up usage, by group in ascending order; groups without records have no row, but without
    /// `group_by` there is always one. Records count once they are written, a moment after they were
    /// taken.
    pub fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        query.filter.check()?;
        let dimensions = query.group_by.len();
        if dimensions > DIMENSIONS_MAX {
            return Err(StoreError::Invalid(format!(
                "at most {DIMENSIONS_MAX} dimensions to group by, not {dimensions}"
            )));
        }
        let adding = Arc::new(Mutex::new(Adding::new(dimensions, GROUPS_MAX)));
        let adds = adding.clone();
        self.database.with(|connection| {
            let mut parameters = Vec::new();
            let sql = sql(query, connection.dialect(), &mut parameters);
            let add = move |row: &[ValueRef<'_>]| lock(&adds).add(row);
            connection.scan(&sql, &parameters, Box::new(add)).doing("adding up usage")
        })?;
        let adding = std::mem::take(&mut *lock(&adding));
        if adding.too_many {
            return Err(StoreError::TooManyGroups(GROUPS_MAX));
        }
        let rows = adding.rows();
        if rows.is_empty() && dimensions == 0 {
            return Ok(vec![UsageRow { group: Vec::new(), totals: Totals::default() }]);
        }
        Ok(rows)
    }
}

fn lock(adding: &Mutex<Adding>) -> MutexGuard<'_, Adding> {
    adding.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the records that count, as [`Adding`] takes them.
fn sql(query: &UsageQuery, dialect: &Dialect, parameters: &mut Vec<Value>) -> String {
    let mut groups = String::new();
    for dimension in &query.group_by {
        let column = match dimension {
            // A number is faster; it is written out once for each group.
            Dimension::Day => "unix_ms / 86400000".to_owned(),
            other => other.sql(dialect, parameters),
        };
        let _ = write!(groups, "{column}, ");
    }
    let condition = query.filter.sql(dialect, parameters);
    format!("SELECT {groups}{COLUMNS} FROM usage WHERE {condition}")
}
