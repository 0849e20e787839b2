//! The arms of splits, compared: what their requests cost, how they ended, how long they took, and what
//! callers think of them.
//!
//! A request counts for the arm that was chosen for it, with all its attempts: what an arm's models fail
//! at and others then answer costs that arm money and time. Percentiles are of all values, by rank; so
//! are deviations, in a second pass over the values: small ones of large values are not lost.
//!
//! Records are read once, in the order in which they were written. Where a key uses an id for several
//! requests, each of them begins with an attempt 1: the attempts 1 so far tell them apart. Of a request,
//! only the last attempt can have been completed or cancelled.

use super::Store;
use super::error::{Doing, StoreError};
use super::record::Outcome;
use super::totals::{bytes, number, percentile, real};
use super::usage::Filter;
use rusqlite::types::ValueRef;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

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
    /// Attempts whose records have a flag.
    pub flagged: u64,
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
        let comparing = Arc::new(Mutex::new(Comparing::default()));
        let lock = |comparing: &Mutex<Comparing>| -> Comparing {
            std::mem::take(&mut *comparing.lock().unwrap_or_else(PoisonError::into_inner))
        };
        self.database.with(|connection| {
            let sees = comparing.clone();
            let see =
                move |row: &[ValueRef<'_>]| sees.lock().unwrap_or_else(PoisonError::into_inner).score(row);
            let scores = "SELECT key, request_id, name, value FROM scores";
            connection.scan(scores, &[], Box::new(see)).doing(DOING)?;
            let sees = comparing.clone();
            let see =
                move |row: &[ValueRef<'_>]| sees.lock().unwrap_or_else(PoisonError::into_inner).record(row);
            let mut parameters = Vec::new();
            let condition = filter.sql(connection.dialect(), &mut parameters);
            let records = format!(
                "SELECT route, arm, usage.key, request_id, attempt, unix_ms, latency_ms, ttft_ms, outcome, \
                 input_tokens, cached_tokens, output_tokens, cost, flag \
                 FROM usage WHERE arm IS NOT NULL AND {condition} ORDER BY id"
            );
            connection.scan(&records, &parameters, Box::new(see)).doing(DOING)
        })?;
        let comparing = lock(&comparing);
        match comparing.too_many {
            true => Err(StoreError::TooManyGroups(ARMS_MAX)),
            false => Ok(comparing.rows()),
        }
    }
}

/// Arms so far. Requests are told apart by hashes of key and id, under a secret of this question's own.
#[derive(Default)]
struct Comparing {
    hashes: RandomState,
    /// By request: (name, value).
    scores: ByHash<Vec<(usize, f64)>>,
    /// Places in `scores` by name.
    names: HashMap<String, usize>,
    arms: Vec<Arm>,
    /// Their places, by route and name.
    by_name: ByHash<usize>,
    /// By key and id: attempts 1 so far, and the last of its requests.
    by_id: ByHash<(u64, usize)>,
    requests: Vec<Request>,
    too_many: bool,
}

type ByHash<T> = HashMap<u64, T, BuildHasherDefault<AsItIs>>;

/// Does not hash again what is a hash.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Arm {
    row: ArmRow,
    /// By name.
    scores: BTreeMap<usize, Vec<f64>>,
}

struct Request {
    arm: usize,
    turn: u64,
    /// An earlier one of the same key and id.
    before: Option<usize>,
    began_ms: u64,
    ended_ms: u64,
    first_ms: Option<u64>,
    ended: Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    Failed,
    Cancelled,
    Completed,
}

impl Comparing {
    fn hash(&self, key: &ValueRef<'_>, id: &ValueRef<'_>) -> Result<u64, String> {
        let mut hasher = self.hashes.build_hasher();
        for text in [bytes(key)?, bytes(id)?] {
            hasher.write_usize(text.len());
            hasher.write(text);
        }
        Ok(hasher.finish())
    }

    fn score(&mut self, row: &[ValueRef<'_>]) -> Result<(), String> {
        let [key, id, name, value] = row else { return Err("a score has other columns".into()) };
        let name = String::from_utf8_lossy(bytes(name)?);
        let next = self.names.len();
        let at = match self.names.get(&*name) {
            Some(at) => *at,
            None => *self.names.entry(name.into_owned()).or_insert(next),
        };
        let (hash, value) = (self.hash(key, id)?, real(value)?);
        self.scores.entry(hash).or_default().push((at, value));
        Ok(())
    }

    fn record(&mut self, row: &[ValueRef<'_>]) -> Result<(), String> {
        let [
            route,
            arm,
            key,
            id,
            attempt,
            unix_ms,
            latency_ms,
            ttft_ms,
            outcome,
            input_tokens,
            cached_tokens,
            output_tokens,
            cost,
            flag,
        ] = row
        else {
            return Err("a record has other columns".into());
        };
        let Some(arm) = self.arm(route, arm)? else { return Ok(()) };
        let outcome = bytes(outcome)?;
        let ended = match () {
            () if outcome == Outcome::Completed.as_str().as_bytes() => Ended::Completed,
            () if outcome == Outcome::Cancelled.as_str().as_bytes() => Ended::Cancelled,
            () => Ended::Failed,
        };
        let hash = self.hash(key, id)?;
        let request = self.request(hash, arm, number(attempt)? == 1);
        let (began, took) = (number(unix_ms)?, number(latency_ms)?);
        let first = if *ttft_ms == ValueRef::Null { None } else { Some(began + number(ttft_ms)?) };
        let request = &mut self.requests[request];
        request.began_ms = request.began_ms.min(began);
        request.ended_ms = request.ended_ms.max(began + took);
        request.first_ms = request.first_ms.into_iter().chain(first).min();
        request.ended = request.ended.max(ended);
        let row = &mut self.arms[arm].row;
        row.attempts += 1;
        row.failed_attempts += u64::from(outcome == Outcome::Failed.as_str().as_bytes());
        row.flagged += u64::from(*flag != ValueRef::Null);
        row.input_tokens += number(input_tokens)?;
        row.cached_tokens += number(cached_tokens)?;
        row.output_tokens += number(output_tokens)?;
        row.cost += real(cost)?;
        Ok(())
    }

    /// The arm's place; None beyond the most.
    fn arm(&mut self, route: &ValueRef<'_>, arm: &ValueRef<'_>) -> Result<Option<usize>, String> {
        let hash = self.hash(route, arm)?;
        if let Some(at) = self.by_name.get(&hash) {
            return Ok(Some(*at));
        }
        if self.arms.len() == ARMS_MAX {
            self.too_many = true;
            return Ok(None);
        }
        let text = |text| Ok::<_, String>(String::from_utf8_lossy(bytes(text)?).into_owned());
        let row = ArmRow { route: text(route)?, arm: text(arm)?, ..ArmRow::default() };
        self.by_name.insert(hash, self.arms.len());
        self.arms.push(Arm { row, ..Arm::default() });
        Ok(Some(self.arms.len() - 1))
    }

    /// The place of the request of an arm; its scores count with its first record.
    fn request(&mut self, hash: u64, arm: usize, is_first: bool) -> usize {
        let known = self.by_id.get(&hash).copied();
        let turn = known.map_or(0, |(turn, _)| turn) + u64::from(is_first);
        let (mut at, mut is_scored) = (known.map(|(_, last)| last), false);
        while let Some(place) = at {
            let request = &self.requests[place];
            if request.arm == arm && request.turn == turn {
                let last = known.map_or(place, |(_, last)| last);
                self.by_id.insert(hash, (turn, last));
                return place;
            }
            is_scored |= request.arm == arm;
            at = request.before;
        }
        if !is_scored {
            for (name, value) in self.scores.get(&hash).into_iter().flatten() {
                self.arms[arm].scores.entry(*name).or_default().push(*value);
            }
        }
        self.requests.push(Request {
            arm,
            turn,
            before: known.map(|(_, last)| last),
            began_ms: u64::MAX,
            ended_ms: 0,
            first_ms: None,
            ended: Ended::Failed,
        });
        self.by_id.insert(hash, (turn, self.requests.len() - 1));
        self.requests.len() - 1
    }

    /// All arms, by route and name.
    fn rows(mut self) -> Vec<ArmRow> {
        let mut times: Vec<[Vec<u64>; 2]> = vec![Default::default(); self.arms.len()];
        for request in &self.requests {
            let row = &mut self.arms[request.arm].row;
            row.requests += 1;
            match request.ended {
                Ended::Completed => row.completed += 1,
                Ended::Cancelled => row.cancelled += 1,
                Ended::Failed => row.failed += 1,
            }
            let [latencies, ttfts] = &mut times[request.arm];
            if request.ended == Ended::Completed {
                latencies.push(request.ended_ms - request.began_ms);
            }
            ttfts.extend(request.first_ms.map(|first| first - request.began_ms));
        }
        let named = self.most_given();
        let row = |(arm, [latencies, ttfts]): (Arm, [Vec<u64>; 2])| {
            let names = named.iter().filter_map(|(name, at)| Some((name, arm.scores.get(at)?)));
            let scores = names.map(|(name, values)| score_totals(name, values)).collect();
            ArmRow { latency_ms: spread(latencies), ttft_ms: spread(ttfts), scores, ..arm.row }
        };
        let mut rows: Vec<ArmRow> = self.arms.into_iter().zip(times).map(row).collect();
        rows.sort_by(|a, b| (&a.route, &a.arm).cmp(&(&b.route, &b.arm)));
        rows
    }

    /// The names of which there are most scores, in order, and their places.
    fn most_given(&self) -> Vec<(String, usize)> {
        let count =
            |at: usize| self.arms.iter().filter_map(|arm| arm.scores.get(&at)).map(Vec::len).sum::<usize>();
        let mut names: Vec<(usize, String, usize)> =
            self.names.iter().map(|(name, at)| (count(*at), name.clone(), *at)).collect();
        names.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        names.truncate(NAMES_MAX);
        let mut names: Vec<(String, usize)> = names.into_iter().map(|(_, name, at)| (name, at)).collect();
        names.sort();
        names
    }
}

fn spread(mut values: Vec<u64>) -> Spread {
    let mean =
        (!values.is_empty()).then(|| values.iter().map(|it| *it as f64).sum::<f64>() / values.len() as f64);
    Spread { mean, p50: percentile(&mut values, 50), p95: percentile(&mut values, 95) }
}

fn score_totals(name: &str, values: &[f64]) -> ScoreTotals {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let standard_error = (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
    ScoreTotals { name: name.to_owned(), count: values.len() as u64, mean, standard_error }
}
