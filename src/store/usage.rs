//! Totals of usage, by whatever they are grouped by.

use super::Store;
use super::error::{Doing, StoreError};
use rusqlite::types::Value;
use rusqlite::{Row, params_from_iter};
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
            "task" => Self::Task,
            "day" => Self::Day,
            "provider" => Self::Provider,
            "outcome" => Self::Outcome,
            _ => match text.strip_prefix(TAG) {
                Some(name) if !name.is_empty() => Self::Tag(name.to_owned()),
                _ => {
                    let text = text.escape_debug();
                    return Err(format!(
                        "`{text}` is nothing to group or filter by; there are key, model, route, task, day, \
                         provider, outcome and tag:NAME"
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
            Self::Task => "task".into(),
            Self::Day => "day".into(),
            Self::Provider => "provider".into(),
            Self::Outcome => "outcome".into(),
            Self::Tag(name) => format!("{TAG}{name}"),
        }
    }

    /// An expression over a row of `usage`; its parameters are added in order.
    fn sql(&self, parameters: &mut Vec<Value>) -> &'static str {
        match self {
            Self::Key => "usage.key",
            Self::Model => "model",
            Self::Route => "route",
            Self::Task => "task",
            Self::Day => "date(unix_ms / 1000, 'unixepoch')",
            Self::Provider => "provider",
            Self::Outcome => "outcome",
            Self::Tag(name) => {
                parameters.push(name.clone().into());
                "(SELECT value FROM json_each(usage.tags) WHERE json_each.key = ?)"
            }
        }
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
    pub(super) fn sql(&self, parameters: &mut Vec<Value>) -> String {
        let mut sql = String::from("true");
        for (moment, compare) in [(self.from_unix_ms, ">="), (self.to_unix_ms, "<")] {
            if let Some(moment) = moment {
                let _ = write!(sql, " AND unix_ms {compare} ?");
                parameters.push(i64::try_from(moment).unwrap_or(i64::MAX).into());
            }
        }
        for (dimension, value) in self.equal.iter().take(DIMENSIONS_MAX) {
            let _ = write!(sql, " AND coalesce({}, '') = ?", dimension.sql(parameters));
            parameters.push(value.clone().into());
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
fn row(row: &Row, dimensions: usize) -> rusqlite::Result<UsageRow> {
    let group = (0..dimensions).map(|at| row.get(at)).collect::<rusqlite::Result<_>>()?;
    let number = |at: usize| row.get::<_, i64>(dimensions + at).map(|number| number.max(0) as u64);
    let percentile = |at: usize| {
        row.get::<_, Option<i64>>(dimensions + at).map(|number| number.map(|number| number.max(0) as u64))
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
        let doing = "adding up usage";
        query.filter.check()?;
        let dimensions = query.group_by.len();
        if dimensions > DIMENSIONS_MAX {
            return Err(StoreError::Invalid(format!(
                "at most {DIMENSIONS_MAX} dimensions to group by, not {dimensions}"
            )));
        }
        let mut parameters = Vec::new();
        let sql = sql(query, &mut parameters);
        let connection = self.database.connect()?;
        let mut statement = connection.prepare(&sql).doing(doing)?;
        let rows = statement
            .query_map(params_from_iter(parameters), |found| row(found, dimensions))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .doing(doing)?;
        if rows.len() > GROUPS_MAX {
            return Err(StoreError::TooManyGroups(GROUPS_MAX));
        }
        if rows.is_empty() && dimensions == 0 {
            return Ok(vec![UsageRow { group: Vec::new(), totals: Totals::default() }]);
        }
        Ok(rows)
    }
}

fn sql(query: &UsageQuery, parameters: &mut Vec<Value>) -> String {
    let mut picked = String::new();
    let mut groups = String::new();
    for (at, dimension) in query.group_by.iter().enumerate() {
        let _ = write!(picked, "{} AS g{at}, ", dimension.sql(parameters));
        let _ = write!(groups, "g{at}, ");
    }
    let condition = query.filter.sql(parameters);
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
        SELECT {groups} count(DISTINCT request_id), count(*), sum(outcome = 'failed'),
            sum(outcome = 'cancelled'), sum(estimated), sum(input_tokens), sum(cached_tokens),
            sum(output_tokens), sum(cost), {}, {}, {}, {}
        FROM ranked GROUP BY {groups} one ORDER BY {groups} one LIMIT {}",
        percentile("latency", 50),
        percentile("latency", 95),
        percentile("ttft", 50),
        percentile("ttft", 95),
        GROUPS_MAX + 1,
    )
}
