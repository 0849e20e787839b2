//! What a request may use and has used. Before it, its estimate is reserved under its key's limits;
//! before each attempt, under the model's. After it, what was really used is settled: of all attempts
//! together for the key, of each for its model. Each attempt leaves one [`UsageRecord`], whatever
//! became of it.
//!
//! What an upstream says it used counts as far as it can be true: no more than the prompt can have
//! ([`Account::input_max`]) and than the request allows ([`Demand`]). What is above is cut, and
//! the record is flagged.
//!
//! An [`Attempt`] is opened when a target is asked and goes with its answer. Ended, it is recorded;
//! dropped, the caller has gone away, and it is recorded as cancelled, with what had come until then:
//! counted by ourselves where the target says its counts only at the end. The store knows of it from its
//! begin ([`OpenRecord`]): where the process is killed, no more than a second's tokens are lost.

use super::calibration::{BYTES_PER_TOKEN, Calibration};
use super::cost;
use super::counterparty::Counterparty;
use super::demand::Demand;
use super::limit::{Estimate, Holder, Id, Limiter, Now, Refusal, Reservation, Spent, States};
use super::metrics::{AttemptMetrics, TargetMetrics};
use super::observe::{Observed, ObservedAttempt};
use crate::config::{Config, Limits, Model, Price};
use crate::gateway::chat::{ChatEvent, Dialect, StopReason, TokenUsage};
use crate::store::{
    Flag, OpenRecord, Outcome, Progress, Recorder, Spender, SpentOfPeriods, Store, StoreError, UsageRecord,
};
use axum::http::HeaderMap;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
    /// The same, held of limits before a request.
    pub input_held: u64,
    /// The most that a provider can have counted for it.
    pub input_max: u64,
    /// What is asked for.
    pub demand: Demand,
    /// Counts records.
    pub metrics: Arc<AttemptMetrics>,
    /// Keeps them; None: nobody does.
    pub recorder: Option<Recorder>,
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
        used.0 = used.0.saturating_add(tokens);
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
    let keys = store.keys();
    let mut spent_by_keys: BTreeMap<String, Spent> = keys
        .all()
        .iter()
        .map(|key| &key.name)
        .chain(config.keys.keys())
        .map(|name| (name.clone(), Spent { total: keys.spent(name), ..Spent::default() }))
        .collect();
    for SpentOfPeriods { spender, name, day, month } in store.spent_of_periods(now.unix_s * 1000)? {
        match spender {
            Spender::Key => {
                let total = keys.spent(&name);
                spent_by_keys.insert(name, Spent { day, month, total });
            }
            Spender::Model => limiter.seed_spent(Id::Model(&name), Spent { day, month, total: 0.0 }, now),
        }
    }
    spent_by_keys.iter().for_each(|(name, spent)| limiter.seed_spent(Id::Key(name), *spent, now));
    Ok(limiter)
}

/// What a request is expected to use of a target.
pub fn estimate(input: u64, demand: &Demand, price: Option<&Price>) -> Estimate {
    let dollars = price.map_or(0.0, |price| cost::most(price, input, demand.output_held()));
    Estimate { tokens: input.saturating_add(demand.minute_output_held()), dollars }
}

/// What a request is expected to use of a plan's targets: of several that may be asked at once all
/// together, else the most that one of them may.
pub fn estimate_of_all(each: &[Estimate], at_once: bool) -> Estimate {
    let (tokens, dollars) = (each.iter().map(|it| it.tokens), each.iter().map(|it| it.dollars));
    match at_once {
        true => Estimate { tokens: tokens.fold(0, u64::saturating_add), dollars: dollars.sum() },
        false => Estimate { tokens: tokens.max().unwrap_or(0), dollars: dollars.fold(0.0, f64::max) },
    }
}

impl Account {
    /// The text values of a body's `metadata`, without those that routing reads.
    pub fn tags(body: &Value) -> Vec<(String, String)> {
        let metadata = body.get("metadata").and_then(Value::as_object).into_iter().flatten();
        let metadata = metadata.filter(|(name, _)| !["task", "budget"].contains(&name.as_str()));
        metadata.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    }

    /// Opens an attempt, the `number`-th of the request, at a target of this price.
    ///
    /// # Errors
    /// The model is at its limits.
    pub async fn attempt(
        &self,
        target: &Counterparty,
        price: Option<Cow<'_, Price>>,
        number: u32,
    ) -> Result<Attempt, Box<Refusal>> {
        let Model { name, limits, .. } = &*target.model;
        let input = target.calibration.apply(self.input_held);
        let reservation = match *limits == Limits::default() {
            true => None,
            false => {
                let holder = Holder { id: Id::Model(name), limits, credit: None };
                let estimate = estimate(input, &self.demand, price.as_deref());
                let reserved = self.limiter.reserve(&[holder], estimate, Now::read()).await;
                Some(reserved.inspect_err(|refusal| self.metrics.refused("model", refusal.kind))?)
            }
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let provider = target.provider.as_ref();
        let record = Arc::new(UsageRecord {
            unix_ms: since.as_millis() as u64,
            request_id: self.request_id.clone(),
            attempt: number,
            key: self.key.clone(),
            route: self.route.clone(),
            arm: self.arm.clone(),
            model: target.model.name.clone(),
            provider: provider.map(|provider| provider.name.clone()),
            task: self.task.clone(),
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            estimated: false,
            flag: None,
            cost: 0.0,
            latency_ms: 0,
            ttft_ms: None,
            outcome: Outcome::Cancelled,
            status: STATUS_CANCELLED,
            tags: self.tags.clone(),
        });
        let attempt = Attempt {
            reservation,
            bill: self.bill.clone(),
            dialect: provider.map(|provider| provider.dialect),
            input_estimate: self.input_estimate,
            input_max: self.input_max,
            output_max: self.demand.output_max(target.model.context),
            calibration: Some(target.calibration.clone()),
            price: price.map(Cow::into_owned),
            open: self.recorder.as_ref().map(|recorder| recorder.open(record.clone())),
            record: Some(record),
            begun: Instant::now(),
            first: None,
            used: None,
            pieces: 0,
            bytes: 0,
            metrics: target.metrics(&self.metrics).clone(),
            observed: self.observed.as_ref().map(|observed| observed.attempt(target)),
        };
        attempt.note();
        Ok(attempt)
    }
}

/// "Client closed request", as nginx has it.
const STATUS_CANCELLED: u16 = 499;

/// An attempt under way.
pub struct Attempt {
    /// Taken when it is recorded.
    record: Option<Arc<UsageRecord>>,
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
    /// The most that an upstream can have used.
    input_max: u64,
    output_max: u64,
    /// None: the prompt was another one than the caller's.
    calibration: Option<Arc<Calibration>>,
    price: Option<Price>,
    metrics: Arc<TargetMetrics>,
    /// Known to the store until it is recorded.
    open: Option<OpenRecord>,
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
        self.note();
    }

    /// Tells the store what has been used so far, for the case that this process is killed.
    fn note(&self) {
        let Some(open) = &self.open else { return };
        let used = match self.dialect {
            // Our own prompt costs once it is computed.
            None => self.used.unwrap_or_default(),
            Some(_) => self.possible(self.estimate(Outcome::Cancelled)),
        };
        open.update(Progress {
            input_tokens: used.input,
            cached_tokens: used.cached,
            output_tokens: used.output,
            cost: self.price.as_ref().map_or(0.0, |price| cost::cost(price, &used)),
            ttft_ms: self.ttft_ms(),
        });
    }

    fn ttft_ms(&self) -> Option<u64> {
        self.first.map(|first| first.duration_since(self.begun).as_millis() as u64)
    }

    /// Takes over what one of our engines has counted.
    pub fn counted(&mut self, usage: TokenUsage) {
        if usage.output > 0 {
            self.first.get_or_insert_with(Instant::now);
        }
        self.used = Some(usage);
        self.note();
    }

    /// A choice of one of our engines has ended.
    pub fn finished(&mut self, reason: StopReason) {
        self.events(&[ChatEvent::Finish { choice: 0, reason }]);
    }

    /// It asks for the rest of an answer: its prompt has what was told already.
    pub fn of_rest(mut self) -> Self {
        self.calibration = None;
        self.input_max = self.input_max.saturating_add(self.output_max);
        self
    }

    fn expected_input(&self) -> u64 {
        self.calibration.as_ref().map_or(self.input_estimate, |it| it.apply(self.input_estimate))
    }

    /// How the limits of the request's key stand.
    pub fn states(&self) -> States {
        self.bill.states()
    }

    /// The whole answer was sent; what it used.
    pub fn completed(mut self) -> TokenUsage {
        self.record(Outcome::Completed, 200)
    }

    /// The target failed with what this status stands for.
    pub fn failed(mut self, status: u16) {
        self.record(Outcome::Failed, status);
    }

    fn record(&mut self, outcome: Outcome, status: u16) -> TokenUsage {
        let Some(record) = self.record.take() else { return TokenUsage::default() };
        let closed = self.open.take().map(OpenRecord::close);
        // Nobody shares it any more, unless it is being noted.
        let mut record = Arc::unwrap_or_clone(record);
        let said = self.used;
        if self.dialect.is_some() {
            self.used = said.map(|used| self.possible(used));
        }
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
        if self.used != said && used != TokenUsage::default() {
            record.flag = Some(Flag::Bounded);
            let (model, provider) = (&record.model, &record.provider);
            tracing::warn!(model, ?provider, ?said, counted = ?used, "an upstream says that it used more than it can have");
        }
        record.cost = self.price.as_ref().map_or(0.0, |price| cost::cost(price, &used));
        record.latency_ms = self.begun.elapsed().as_millis() as u64;
        record.ttft_ms = self.ttft_ms();
        (record.outcome, record.status) = (outcome, status);
        let tokens = used.input.saturating_add(used.output);
        self.bill.add(tokens, record.cost);
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(tokens, record.cost, Instant::now());
        }
        if let Some(observed) = self.observed.take() {
            observed.recorded(&record, self.first);
        }
        self.metrics.count(&record);
        if let Some(closed) = closed {
            closed.keep(record);
        }
        used
    }

    /// As much of an upstream's counts as can be true: what came of the answer counts too, as some
    /// providers bound the answer without its thinking.
    fn possible(&self, used: TokenUsage) -> TokenUsage {
        let input = used.input.min(self.input_max);
        let output = used.output.min(self.output_max.saturating_add(self.bytes as u64));
        TokenUsage {
            input,
            cached: used.cached.min(input),
            cache_written: used.cache_written.min(input),
            cache_written_1h: used.cache_written_1h.min(input),
            output,
            reasoning: used.reasoning.min(output),
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
            Some(Dialect::OpenAi | Dialect::Responses) => self.pieces,
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
