//! The arms of splits, compared: what their requests cost, how they ended, how long they took, and what
//! callers think of them.
//!
//! A request counts for the arm that was chosen for it, with all its attempts: what an arm's models fail
//! at and others then answer costs that arm money and time. Percentiles are of all values, by rank in
//! the database; so are deviations, in a second pass over the values: small ones of large values are
//! not lost.

use super::Store;
use super::database::Row;
use super::error::{Doing, StoreError};
use super::usage::Filter;

/// Arms in one answer.
const ARMS_MAX: usize = 1000;
/// Names of scores in one answer: callers choose them.
const NAMES_MAX: usize = 32;
const DOING: &str = "comparing arms";

/// One arm's requests. One counts that came to an attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArmRow {
    /// What had the split: a named route, `auto:LINE`.
    pub route: String,
    /// The arm's name.
    pub arm: String,
    /// By id and key. A caller that uses an id again makes another request.
    pub requests: u64,
    /// Records.
    pub attempts: u64,
    /// Attempts that failed, whatever became of their requests.
    pub failed_attempts: u64,
    /// Requests that were answered to the end.
    pub completed: u64,
    /// Requests whose caller went away.
    pub cancelled: u64,
    /// Requests of which the last attempt failed.
    pub failed: u64,
    /// Tokens of prompts, cached ones included.
    pub input_tokens: u64,
    /// Of those, from a cache.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Dollars, of all attempts.
    pub cost: f64,
    /// Milliseconds from the first attempt's begin to the last one's end, of completed requests.
    pub latency_ms: Spread,
    /// Milliseconds from the first attempt's begin to the first text, of requests that came to one.
    pub ttft_ms: Spread,
    /// By name.
    pub scores: Vec<ScoreTotals>,
}

/// How values are spread; all None without values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: Option<f64>,
    /// Half of them are not above it (nearest rank).
    pub p50: Option<u64>,
    /// 95 of a hundred are not above it.
    pub p95: Option<u64>,
}

/// Scores of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreTotals {
    /// As callers call it.
    pub name: String,
    /// Scored requests.
    pub count: u64,
    /// Of their values.
    pub mean: f64,
    /// The mean's: the values' standard deviation (over count - 1) by the root of their count; None for
    /// a single one.
    pub standard_error: Option<f64>,
}

impl Store {
    /// All arms with records that count, by route and name; of scores the 32 names with the most.
    ///
    /// # Errors
    /// More than 1,000 arms.
    pub fn arms(&self, filter: &Filter) -> Result<Vec<ArmRow>, StoreError> {
        filter.check()?;
        let (totals, scores) = self.database.with(|connection| {
            let mut ask = |sql: fn(&str) -> String| {
                let mut parameters = Vec::new();
                let condition = filter.sql(connection.dialect(), &mut parameters);
                connection.read(&sql(&condition), &parameters)
            };
            Ok((ask(totals_sql).doing(DOING)?, ask(scores_sql).doing(DOING)?))
        })?;
        if totals.len() > ARMS_MAX {
            return Err(StoreError::TooManyGroups(ARMS_MAX));
        }
        let rows = || -> Result<Vec<ArmRow>, String> {
            let mut rows = totals.iter().map(totals_row).collect::<Result<Vec<_>, _>>()?;
            for score in &scores {
                let (route, arm): (String, String) = (score.get(0)?, score.get(1)?);
                let found = rows.iter_mut().find(|row| row.route == route && row.arm == arm);
                // None: its first record came between the two questions.
                if let Some(row) = found {
                    row.scores.push(score_totals(score)?);
                }
            }
            Ok(rows)
        };
        rows().doing(DOING)
    }
}

fn totals_row(row: &Row) -> Result<ArmRow, String> {
    let number = |at: usize| row.get::<i64>(at).map(|number| number.max(0) as u64);
    let spread = |at: usize| -> Result<Spread, String> {
        let percentile = |at: usize| row.get::<Option<i64>>(at).map(|it| it.map(|ms| ms.max(0) as u64));
        Ok(Spread { mean: row.get(at)?, p50: percentile(at + 1)?, p95: percentile(at + 2)? })
    };
    Ok(ArmRow {
        route: row.get(0)?,
        arm: row.get(1)?,
        requests: number(2)?,
        attempts: number(3)?,
        failed_attempts: number(4)?,
        completed: number(5)?,
        cancelled: number(6)?,
        failed: number(2)?.saturating_sub(number(5)? + number(6)?),
        input_tokens: number(7)?,
        cached_tokens: number(8)?,
        output_tokens: number(9)?,
        cost: row.get(10)?,
        latency_ms: spread(11)?,
        ttft_ms: spread(14)?,
        scores: Vec::new(),
    })
}

fn score_totals(row: &Row) -> Result<ScoreTotals, String> {
    let (count, squares): (i64, f64) = (row.get(3)?, row.get(5)?);
    let (values, count) = (count as f64, count.max(0) as u64);
    let standard_error = (count > 1).then(|| (squares / (values - 1.0) / values).sqrt());
    Ok(ScoreTotals { name: row.get(2)?, count, mean: row.get(4)?, standard_error })
}

/// Where a key uses an id for several requests, each of them begins with an attempt 1: `turn` tells them
/// apart. Of a request, only the last attempt can have been completed or cancelled.
fn totals_sql(condition: &str) -> String {
    let percentile = |of: &str, percent: u32| {
        format!("max(CASE WHEN {of}_rank = ({of}_count * {percent} + 99) / 100 THEN {of} END)")
    };
    let spread = |of: &str| {
        let (p50, p95) = (percentile(of, 50), percentile(of, 95));
        format!("CAST(avg({of}) AS double precision), {p50}, {p95}")
    };
    format!(
        "WITH picked AS (
            SELECT route, arm, usage.key AS key, request_id, unix_ms, latency_ms, ttft_ms, outcome,
                input_tokens, cached_tokens, output_tokens, cost,
                sum(CASE WHEN attempt = 1 THEN 1 ELSE 0 END)
                    OVER (PARTITION BY usage.key, request_id ORDER BY id) AS turn
            FROM usage WHERE arm IS NOT NULL AND {condition}
        ), request AS (
            SELECT route, arm, count(*) AS attempts, count(*) FILTER (WHERE outcome = 'failed') AS failures,
                max(CASE outcome WHEN 'completed' THEN 2 WHEN 'cancelled' THEN 1 ELSE 0 END) AS ended,
                sum(input_tokens) AS input, sum(cached_tokens) AS cached, sum(output_tokens) AS output,
                sum(cost) AS cost, min(unix_ms + ttft_ms) - min(unix_ms) AS ttft,
                max(unix_ms + latency_ms) - min(unix_ms) AS took
            FROM picked GROUP BY route, arm, picked.key, request_id, turn
        ), timed AS (
            SELECT *, CASE WHEN ended = 2 THEN took END AS latency FROM request
        ), ranked AS (
            SELECT *, count(latency) OVER everything AS latency_count, count(ttft) OVER everything AS ttft_count,
                row_number() OVER (PARTITION BY route, arm ORDER BY latency NULLS LAST) AS latency_rank,
                row_number() OVER (PARTITION BY route, arm ORDER BY ttft NULLS LAST) AS ttft_rank
            FROM timed WINDOW everything AS (PARTITION BY route, arm)
        )
        SELECT route, arm, count(*), CAST(sum(attempts) AS bigint), CAST(sum(failures) AS bigint),
            count(*) FILTER (WHERE ended = 2), count(*) FILTER (WHERE ended = 1), CAST(sum(input) AS bigint),
            CAST(sum(cached) AS bigint), CAST(sum(output) AS bigint), sum(cost), {}, {}
        FROM ranked GROUP BY route, arm ORDER BY route, arm LIMIT {}",
        spread("latency"),
        spread("ttft"),
        ARMS_MAX + 1,
    )
}

fn scores_sql(condition: &str) -> String {
    format!(
        "WITH request AS (
            SELECT DISTINCT route, arm, usage.key AS key, request_id
            FROM usage WHERE arm IS NOT NULL AND {condition}
        ), given AS (
            SELECT route, arm, name, value, avg(value) OVER (PARTITION BY route, arm, name) AS mean
            FROM request JOIN scores ON scores.request_id = request.request_id AND scores.key = request.key
        )
        SELECT route, arm, name, count(*), max(mean), sum((value - mean) * (value - mean))
        FROM given WHERE name IN (SELECT name FROM given GROUP BY name ORDER BY count(*) DESC, name LIMIT {})
        GROUP BY route, arm, name ORDER BY route, arm, name LIMIT {}",
        NAMES_MAX,
        NAMES_MAX * (ARMS_MAX + 1),
    )
}
