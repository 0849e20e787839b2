//! Totals of usage, by whatever they are grouped by.

use super::Store;
use super::database::{Dialect, Row};
use super::error::{Doing, StoreError};
use rusqlite::types::Value;
use std::fmt::Write;

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
            _ => match text.strip_prefix(TAG) {
                Some(name) if !name.is_empty() => Self::Tag(name.to_owned()),
                _ => {
                    let text = text.escape_debug();
                    return Err(format!(
                        "`{text}` is nothing to group or filter by; there are key, model, route, arm, task, \
                         day, provider, outcome and tag:NAME"
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

/// Reads a row's columns as they come; totals begin behind the group's.
fn row(row: &Row, dimensions: usize) -> Result<UsageRow, String> {
    let group = (0..dimensions).map(|at| row.get(at)).collect::<Result<_, _>>()?;
    let number = |at: usize| row.get::<i64>(dimensions + at).map(|number| number.max(0) as u64);
    let percentile = |at: usize| {
        row.get::<Option<i64>>(dimensions + at).map(|number| number.map(|number| number.max(0) as u64))
    };
    let totals = Totals {
        requests: number(0)?,
        attempts: number(1)?,
        errors: number(2)?,
        cancelled: number(3)?,
        estimated: number(4)?,
        input_tokens: number(5)?,
        cached_tokens: number(6)?,
        output_tokens: number(7)?,
        cost: row.get(dimensions + 8)?,
        latency_ms_p50: percentile(9)?,
        latency_ms_p95: percentile(10)?,
        ttft_ms_p50: percentile(11)?,
        ttft_ms_p95: percentile(12)?,
    };
    Ok(UsageRow { group, totals })
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
        let rows = self.database.with(|connection| {
            let mut parameters = Vec::new();
            let sql = sql(query, connection.dialect(), &mut parameters);
            let rows = connection.read(&sql, &parameters);
            rows.and_then(|rows| {
                rows.iter().map(|found| row(found, dimensions)).collect::<Result<Vec<_>, _>>()
            })
            .doing("adding up usage")
        })?;
        if rows.len() > GROUPS_MAX {
            return Err(StoreError::TooManyGroups(GROUPS_MAX));
        }
        if rows.is_empty() && dimensions == 0 {
            return Ok(vec![UsageRow { group: Vec::new(), totals: Totals::default() }]);
        }
        Ok(rows)
    }
}

fn sql(query: &UsageQuery, dialect: &Dialect, parameters: &mut Vec<Value>) -> String {
    let mut picked = String::new();
    let mut groups = String::new();
    let mut order = String::new();
    for (at, dimension) in query.group_by.iter().enumerate() {
        let _ = write!(picked, "{} AS g{at}, ", dimension.sql(dialect, parameters));
        let _ = write!(groups, "g{at}, ");
        let _ = write!(order, "g{at} NULLS FIRST, ");
    }
    let condition = query.filter.sql(dialect, parameters);
    let percentile = |of: &str, percent: u32| {
        format!("max(CASE WHEN {of}_rank = ({of}_count * {percent} + 99) / 100 THEN {of} END)")
    };
    // `one` is there for questions without groups: SQL groups by something.
    format!(
        "WITH picked AS (
            SELECT {picked} 1 AS one, *,
                CASE WHEN outcome = 'completed' THEN latency_ms END AS latency, ttft_ms AS ttft
            FROM usage WHERE {condition}
        ), ranked AS (
            SELECT *, count(latency) OVER everything AS latency_count, count(ttft) OVER everything AS ttft_count,
                row_number() OVER (PARTITION BY {groups} one ORDER BY latency NULLS LAST) AS latency_rank,
                row_number() OVER (PARTITION BY {groups} one ORDER BY ttft NULLS LAST) AS ttft_rank
            FROM picked WINDOW everything AS (PARTITION BY {groups} one)
        )
        SELECT {groups} count(DISTINCT request_id), count(*), count(*) FILTER (WHERE outcome = 'failed'),
            count(*) FILTER (WHERE outcome = 'cancelled'), count(*) FILTER (WHERE estimated),
            CAST(sum(input_tokens) AS bigint), CAST(sum(cached_tokens) AS bigint),
            CAST(sum(output_tokens) AS bigint), sum(cost), {}, {}, {}, {}
        FROM ranked GROUP BY {groups} one ORDER BY {order} one LIMIT {}",
        percentile("latency", 50),
        percentile("latency", 95),
        percentile("ttft", 50),
        percentile("ttft", 95),
        GROUPS_MAX + 1,
    )
}
