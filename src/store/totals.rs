//! Adds records up, one after the other as they are read: exact, whatever is asked, in one pass and about
//! half a microsecond a record. (Windows and distinct counts of SQL sort all records several times.)

use super::record::Outcome;
use super::usage::{Totals, UsageRow};
use rusqlite::types::ValueRef;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Groups so far.
#[derive(Default)]
pub struct Adding {
    /// Values by which records are grouped, the first columns of each.
    dimensions: usize,
    /// More are not told apart.
    groups_max: usize,
    /// By their values, each written with its length.
    places: HashMap<Vec<u8>, usize>,
    groups: Vec<Group>,
    key: Vec<u8>,
    hashes: RandomState,
    /// There were more.
    pub too_many: bool,
}

#[derive(Default)]
struct Group {
    values: Vec<Option<String>>,
    totals: Totals,
    /// Hashes of the requests' ids, each as often as it has attempts.
    requests: Vec<u64>,
    latencies: Vec<u64>,
    ttfts: Vec<u64>,
}

/// The columns of a record that are added up, behind those that it is grouped by.
pub const COLUMNS: &str = "request_id, outcome, estimated, input_tokens, cached_tokens, output_tokens, cost, \
                           latency_ms, ttft_ms, flag";

impl Adding {
    pub fn new(dimensions: usize, groups_max: usize) -> Self {
        Self { dimensions, groups_max, ..Self::default() }
    }

    /// Adds a record: its groups' values, then [`COLUMNS`].
    pub fn add(&mut self, row: &[ValueRef<'_>]) -> Result<(), String> {
        let (values, rest) = row.split_at(self.dimensions);
        let [request_id, outcome, estimated, input, cached, output, cost, latency, ttft, flag] = rest else {
            return Err("a record has too few columns".into());
        };
        self.key.clear();
        for value in values {
            write_value(&mut self.key, value)?;
        }
        let at = match self.places.get(&self.key) {
            Some(at) => *at,
            None if self.groups.len() == self.groups_max => {
                self.too_many = true;
                return Ok(());
            }
            None => {
                let values = values.iter().map(text).collect::<Result<_, _>>()?;
                self.groups.push(Group { values, ..Group::default() });
                self.places.insert(self.key.clone(), self.groups.len() - 1);
                self.groups.len() - 1
            }
        };
        let Group { totals, requests, latencies, ttfts, .. } = &mut self.groups[at];
        requests.push(self.hashes.hash_one(bytes(request_id)?));
        totals.attempts += 1;
        let outcome = bytes(outcome)?;
        totals.errors += u64::from(outcome == Outcome::Failed.as_str().as_bytes());
        totals.cancelled += u64::from(outcome == Outcome::Cancelled.as_str().as_bytes());
        totals.estimated += number(estimated)?;
        totals.flagged += u64::from(*flag != ValueRef::Null);
        totals.input_tokens += number(input)?;
        totals.cached_tokens += number(cached)?;
        totals.output_tokens += number(output)?;
        totals.cost += real(cost)?;
        if outcome == Outcome::Completed.as_str().as_bytes() {
            latencies.push(number(latency)?);
        }
        if *ttft != ValueRef::Null {
            ttfts.push(number(ttft)?);
        }
        Ok(())
    }

    /// All groups in ascending order.
    pub fn rows(self) -> Vec<UsageRow> {
        let row = |group: Group| {
            let Group { values, mut totals, mut requests, mut latencies, mut ttfts } = group;
            requests.sort_unstable();
            requests.dedup();
            totals.requests = requests.len() as u64;
            totals.latency_ms_p50 = percentile(&mut latencies, 50);
            totals.latency_ms_p95 = percentile(&mut latencies, 95);
            totals.ttft_ms_p50 = percentile(&mut ttfts, 50);
            totals.ttft_ms_p95 = percentile(&mut ttfts, 95);
            UsageRow { group: values, totals }
        };
        let mut rows: Vec<UsageRow> = self.groups.into_iter().map(row).collect();
        rows.sort_by(|a, b| a.group.cmp(&b.group));
        rows
    }
}

/// The value of which so many percent are not above (nearest rank); None without values.
pub fn percentile(values: &mut [u64], percent: usize) -> Option<u64> {
    let at = (values.len() * percent).div_ceil(100).checked_sub(1)?;
    Some(*values.select_nth_unstable(at).1)
}

pub fn number(value: &ValueRef<'_>) -> Result<u64, String> {
    value.as_i64().map(|number| number.max(0) as u64).map_err(|error| error.to_string())
}

pub fn real(value: &ValueRef<'_>) -> Result<f64, String> {
    value.as_f64().map_err(|error| error.to_string())
}

pub fn bytes<'a>(value: &ValueRef<'a>) -> Result<&'a [u8], String> {
    value.as_bytes().map_err(|error| error.to_string())
}

/// A group's value: a text, or the number of a day.
fn text(value: &ValueRef<'_>) -> Result<Option<String>, String> {
    Ok(match value {
        ValueRef::Null => None,
        ValueRef::Integer(day) => {
            Some(super::spending::periods(day.max(&0).unsigned_abs() * 86_400_000)[0].clone())
        }
        other => Some(String::from_utf8_lossy(bytes(other)?).into_owned()),
    })
}

fn write_value(key: &mut Vec<u8>, value: &ValueRef<'_>) -> Result<(), String> {
    match value {
        ValueRef::Null => key.push(0),
        ValueRef::Integer(day) => {
            key.push(1);
            key.extend_from_slice(&day.to_le_bytes());
        }
        other => {
            let text = bytes(other)?;
            key.push(2);
            key.extend_from_slice(&(text.len() as u64).to_le_bytes());
            key.extend_from_slice(text);
        }
    }
    Ok(())
}
