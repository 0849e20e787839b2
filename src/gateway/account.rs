//! What a request may use and has used. Before it, its estimate is reserved under its key's limits;
//! before each attempt, under the model's. After it, what was really used is settled: of all attempts
//! together for the key, of each for its model. Each attempt leaves one [`UsageRecord`], whatever
//! became of it.
//!
//! An [`Attempt`] is opened when a target is asked and goes with its answer. Ended, it is recorded;
//! dropped, the caller has gone away, and it is recorded as cancelled, with what had come until then:
//! counted by ourselves where the target says its counts only at the end.

use super::count::{BYTES_PER_TOKEN, Calibration};
use super::dialect::{ChatEvent, Dialect, StopReason, TokenUsage};
use super::limit::{Estimate, Holder, Id, Limiter, Now, Refusal, Reservation, Spent, States};
use super::local;
use super::metrics::{AttemptMetrics, TargetMetrics};
use super::observe::{Observed, ObservedAttempt};
use super::route::{EXPECTED_OUTPUT_TOKENS, Target};
use super::usage;
use crate::config::{Config, Limits, Model, Price};
use crate::store::{Dimension, Filter, Outcome, Store, StoreError, UsageQuery, UsageRecord, UsageRow};
use axum::http::HeaderMap;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use time::{OffsetDateTime, Time};

/// Where records go. Must not block.
pub type Sink = Arc<dyn Fn(UsageRecord) + Send + Sync>;

/// The most output that is reserved, whatever bound the caller sets: what is over it becomes a debt.
const OUTPUT_TOKENS_MAX: u64 = 4096;

/// What all attempts of a request have in common.
pub struct Account {
    /// The request's id.
    pub request_id: String,
    /// The key's name.
    pub key: String,
    /// What chose the targets.
    pub route: String,
    /// Which arm a split chose.
    pub arm: Option<String>,
    /// As named by the caller.
    pub task: String,
    /// Of the body's `metadata`.
    pub tags: Vec<(String, String)>,
    /// The prompt's tokens as far as its text tells, for no model in particular.
    pub input_estimate: u64,
    /// The most that the answer may have; None: nobody said.
    pub output_bound: Option<u64>,
    /// Counts records.
    pub metrics: Arc<AttemptMetrics>,
    /// Keeps them; None: nobody does.
    pub sink: Option<Sink>,
    /// Counts what is used against limits.
    pub limiter: Arc<Limiter>,
    /// What the key's limits hold of it.
    pub bill: Arc<Bill>,
    /// Told of attempts, where somebody wants to know.
    pub observed: Option<Arc<Observed>>,
}

/// What a request has used of its key's limits; settled when nobody can add to it any more.
#[derive(Default)]
pub struct Bill {
    reservation: Option<Reservation>,
    used: Mutex<(u64, f64)>,
}

impl Bill {
    /// Of a reservation.
    pub fn of(reservation: Reservation) -> Self {
        Self { reservation: Some(reservation), used: Mutex::default() }
    }

    /// For the caller's headers.
    pub fn states(&self) -> States {
        self.reservation.as_ref().map_or(States::default(), |reservation| *reservation.states())
    }

    fn add(&self, tokens: u64, dollars: f64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.0 += tokens;
        used.1 += dollars;
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let (tokens, dollars) = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(tokens, dollars, Instant::now());
        }
    }
}

/// A limiter that knows what keys and models have spent before: in this day and month, and keys in all.
///
/// # Errors
/// Where the store cannot be read, or limits are to be shared and the URL is wrong.
pub fn limiter(store: Option<&Store>, config: &Config) -> Result<Limiter, String> {
    let limiter = Limiter::new(&config.server.shared_limits)?;
    match store {
        None => Ok(limiter),
        Some(store) => seeded(limiter, store, config).map_err(|error| error.to_string()),
    }
}

fn seeded(limiter: Limiter, store: &Store, config: &Config) -> Result<Limiter, StoreError> {
    let now = Now::read();
    let midnight =
        OffsetDateTime::from_unix_timestamp(now.unix_s as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let midnight = midnight.replace_time(Time::MIDNIGHT);
    let first = midnight.replace_day(1).unwrap_or(midnight);
    let costs = |by: Dimension, since: OffsetDateTime| {
        let from_unix_ms = Some(since.unix_timestamp().max(0) as u64 * 1000);
        let filter = Filter { from_unix_ms, ..Filter::default() };
        let rows = store.usage(&UsageQuery { group_by: vec![by], filter })?;
        let cost = |mut row: UsageRow| (row.group.pop().flatten().unwrap_or_default(), row.totals.cost);
        Ok::<BTreeMap<String, f64>, StoreError>(rows.into_iter().map(cost).collect())
    };
    let keys = store.keys();
    let (days, months) = (costs(Dimension::Key, midnight)?, costs(Dimension::Key, first)?);
    let stored = keys.all().iter().map(|key| &key.name);
    let names: BTreeSet<&String> = months.keys().chain(config.keys.keys()).chain(stored).collect();
    let of = |costs: &BTreeMap<String, f64>, name: &String| costs.get(name).copied().unwrap_or(0.0);
    for name in names {
        let spent = Spent { day: of(&days, name), month: of(&months, name), total: keys.spent(name) };
        limiter.seed_spent(Id::Key(name), spent, now);
    }
    let (days, months) = (costs(Dimension::Model, midnight)?, costs(Dimension::Model, first)?);
    for (name, month) in &months {
        limiter.seed_spent(Id::Model(name), Spent { day: of(&days, name), month: *month, total: 0.0 }, now);
    }
    Ok(limiter)
}

/// What a request is expected to use of a target.
pub fn estimate(input: u64, output_bound: Option<u64>, price: Option<&Price>) -> Estimate {
    let output = output_bound.unwrap_or(EXPECTED_OUTPUT_TOKENS).min(OUTPUT_TOKENS_MAX);
    let dollars = price.map_or(0.0, |price| usage::dollars(price, input, 0, output));
    Estimate { tokens: input + output, dollars }
}

impl Account {
    /// The text values of a body's `metadata`, without those that routing reads.
    pub fn tags(body: &Value) -> Vec<(String, String)> {
        let metadata = body.get("metadata").and_then(Value::as_object).into_iter().flatten();
        let metadata = metadata.filter(|(name, _)| !["task", "budget"].contains(&name.as_str()));
        metadata.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    }

    /// Opens an attempt, the `number`-th of the request.
    ///
    /// # Errors
    /// The model is at its limits.
    pub async fn attempt(&self, target: &Target, number: u32) -> Result<Attempt, Box<Refusal>> {
        let Model { name, limits, .. } = &target.model;
        let price = target.price();
        let input = target.calibration.apply(self.input_estimate);
        let reservation = match *limits == Limits::default() {
            true => None,
            false => {
                let holder = Holder { id: Id::Model(name), limits, credit: None };
                let estimate = estimate(input, self.output_bound, price.as_deref());
                let reserved = self.limiter.reserve(&[holder], estimate, Now::read()).await;
                Some(reserved.inspect_err(|refusal| self.metrics.refused("model", refusal.kind))?)
            }
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let provider = target.upstream.as_ref();
        let record = UsageRecord {
            unix_ms: since.as_millis() as u64,
            request_id: self.request_id.clone(),
            attempt: number,
            key: self.key.clone(),
            route: self.route.clone(),
            arm: self.arm.clone(),
            model: target.model.name.clone(),
            provider: provider.map(|hosted| hosted.upstream.name().to_owned()),
            task: self.task.clone(),
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            estimated: false,
            cost: 0.0,
            latency_ms: 0,
            ttft_ms: None,
            outcome: Outcome::Cancelled,
            status: STATUS_CANCELLED,
            tags: self.tags.clone(),
        };
        Ok(Attempt {
            reservation,
            bill: self.bill.clone(),
            dialect: provider.map(|hosted| hosted.upstream.dialect()),
            input_estimate: self.input_estimate,
            calibration: Some(target.calibration.clone()),
            price: price.map(Cow::into_owned),
            record: Some(record),
            begun: Instant::now(),
            first: None,
            used: None,
            pieces: 0,
            bytes: 0,
            metrics: target.metrics(&self.metrics).clone(),
            sink: self.sink.clone(),
            observed: self.observed.as_ref().map(|observed| observed.attempt(target)),
        })
    }
}

/// "Client closed request", as nginx has it.
const STATUS_CANCELLED: u16 = 499;

/// An attempt under way.
pub struct Attempt {
    /// Taken when it is recorded.
    record: Option<UsageRecord>,
    reservation: Option<Reservation>,
    bill: Arc<Bill>,
    /// The upstream's; None: one of our engines, whose counts are exact at any time.
    dialect: Option<Dialect>,
    begun: Instant,
    first: Option<Instant>,
    used: Option<TokenUsage>,
    /// Pieces of output, and their bytes.
    pieces: u64,
    bytes: usize,
    input_estimate: u64,
    /// None: the prompt was another one than the caller's.
    calibration: Option<Arc<Calibration>>,
    price: Option<Price>,
    metrics: Arc<TargetMetrics>,
    sink: Option<Sink>,
    observed: Option<Box<ObservedAttempt>>,
}

impl Attempt {
    /// Adds what tells the target whose trace it is in.
    pub fn introduce(&self, headers: &mut HeaderMap) {
        self.observed.iter().for_each(|observed| observed.introduce(headers));
    }

    /// Looks at events of an answer.
    pub fn events(&mut self, events: &[ChatEvent]) {
        for event in events {
            self.observed.iter_mut().for_each(|observed| observed.event(event));
            match event {
                ChatEvent::Usage(usage) => self.used = Some(*usage),
                ChatEvent::Text { text, .. }
                | ChatEvent::Reasoning { text, .. }
                | ChatEvent::Refusal { text, .. }
                | ChatEvent::ToolArguments { json: text, .. } => {
                    self.first.get_or_insert_with(Instant::now);
                    self.pieces += 1;
                    self.bytes += text.len();
                }
                _ => {}
            }
        }
    }

    /// Takes over what one of our engines has counted.
    pub fn counted(&mut self, usage: &local::Usage) {
        if usage.completion_tokens > 0 {
            self.first.get_or_insert_with(Instant::now);
        }
        self.used = Some(usage.into());
    }

    /// A choice of one of our engines has ended.
    pub fn finished(&mut self, reason: StopReason) {
        self.events(&[ChatEvent::Finish { choice: 0, reason }]);
    }

    /// It asks for the rest of an answer: its prompt has what was told already.
    pub fn of_rest(mut self) -> Self {
        self.calibration = None;
        self
    }

    fn expected_input(&self) -> u64 {
        self.calibration.as_ref().map_or(self.input_estimate, |it| it.apply(self.input_estimate))
    }

    /// How the limits of the request's key stand.
    pub fn states(&self) -> States {
        self.bill.states()
    }

    /// The whole answer was sent.
    pub fn completed(mut self) {
        self.record(Outcome::Completed, 200);
    }

    /// The target failed with what this status stands for.
    pub fn failed(mut self, status: u16) {
        self.record(Outcome::Failed, status);
    }

    fn record(&mut self, outcome: Outcome, status: u16) {
        let Some(mut record) = self.record.take() else { return };
        let exact = match (self.used, self.dialect) {
            // What failed before its first token is free.
            (Some(used), None) if outcome != Outcome::Failed || used.output > 0 => Some(used),
            // An upstream's counts are its last word only at the end.
            (Some(used), Some(_)) if outcome == Outcome::Completed => Some(used),
            _ => None,
        };
        if let (Some(used), Some(_)) = (exact, self.dialect) {
            self.calibration
                .iter()
                .for_each(|calibration| calibration.learn(self.input_estimate, used.input));
        }
        let used = exact.unwrap_or_else(|| self.estimate(outcome));
        (record.input_tokens, record.cached_tokens, record.output_tokens) =
            (used.input, used.cached, used.output);
        record.estimated = exact.is_none() && used != TokenUsage::default();
        record.cost = self.price.as_ref().map_or(0.0, |price| usage::cost(price, &used));
        record.latency_ms = self.begun.elapsed().as_millis() as u64;
        record.ttft_ms = self.first.map(|first| first.duration_since(self.begun).as_millis() as u64);
        (record.outcome, record.status) = (outcome, status);
        let tokens = used.input + used.output;
        self.bill.add(tokens, record.cost);
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(tokens, record.cost, Instant::now());
        }
        if let Some(observed) = self.observed.take() {
            observed.recorded(&record, self.first);
        }
        self.metrics.count(&record);
        if let Some(sink) = &self.sink {
            sink(record);
        }
    }

    /// What an answer without its upstream's last word has probably used. A failure before the first
    /// piece is free.
    fn estimate(&self, outcome: Outcome) -> TokenUsage {
        if outcome == Outcome::Failed && self.pieces == 0 {
            return TokenUsage::default();
        }
        let said = self.used.unwrap_or_default();
        let output = match self.dialect {
            // One token a piece is usual there.
            Some(Dialect::OpenAi) => self.pieces,
            _ => (self.bytes as u64).div_ceil(BYTES_PER_TOKEN),
        };
        let input = if said.input > 0 { said.input } else { self.expected_input() };
        TokenUsage { input, cached: said.cached, output: output.max(said.output), ..said }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.record(Outcome::Cancelled, STATUS_CANCELLED);
    }
}
