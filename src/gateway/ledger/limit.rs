//! Limits of keys and models: requests and tokens per minute, requests at a time, dollars per UTC day
//! and month, prepaid credit. Before a request its estimate is reserved ([`Limiter::reserve`]), after
//! it what it really used is settled ([`Reservation::settle`]).
//!
//! Requests and tokens are token buckets that refill continuously and hold one minute's worth: what a
//! limit in words allows ("60 requests a minute", all at once) passes, and nobody waits for a window's
//! border. Within any window of length w no more is charged than `limit * (1 + w / 1 min)`. A request
//! that used more than its estimate leaves a debt, which is refilled first; one that used less is given
//! the rest back, up to a full bucket.
//!
//! Everything is counted in integers: two reservations and their settlements leave no rounding behind.
//! Time is an argument. Limits come with each call, so that a new configuration holds from the next
//! request on; what was used stays counted.
//!
//! Invariants: a refused request takes nothing from any holder; a reservation that is dropped frees its
//! concurrency; holders that hold no state are forgotten.
//!
//! Counted by this process alone ([`Memory`]), or together with all others that name the same Redis
//! ([`Redis`]), by the same rules. What was spent before the process began the store knows
//! ([`Limiter::seed_spent`]).

mod account;
mod memory;
mod redis;

#[cfg(test)]
mod tests;

pub use self::redis::{Counters, Redis};
pub use crate::gateway::wire::rate_limit::{State, States};
pub use memory::Memory;

use self::redis::Lease;
use crate::config::{Limits, SharedLimits};
use crate::gateway::wire::error::ApiError;
use account::Need;
use axum::http::StatusCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For buckets.
    pub at: Instant,
    /// For calendar days: seconds since 1970-01-01 UTC.
    pub unix_s: u64,
}

impl Now {
    /// Reads the machine's clocks.
    pub fn read() -> Self {
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { at: Instant::now(), unix_s }
    }
}

/// Whose limits they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id<'a> {
    /// A key, by its name; empty: no key at all.
    Key(&'a str),
    /// A model, by its name; for all callers together.
    Model(&'a str),
}

/// Somebody with limits.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// Who.
    pub id: Id<'a>,
    /// As they are now.
    pub limits: &'a Limits,
    /// Prepaid dollars; None: no bound.
    pub credit: Option<f64>,
}

/// What a request is expected to use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Prompt and answer together.
    pub tokens: u64,
    /// 0 where the model has no price.
    pub dollars: f64,
}

/// Dollars that a holder has spent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Of the UTC day.
    pub day: f64,
    /// Of the UTC month.
    pub month: f64,
    /// Of all time; held against prepaid credit.
    pub total: f64,
}

/// Which limit refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LimitKind {
    RequestsPerMinute,
    TokensPerMinute,
    Concurrency,
    DollarsPerDay,
    DollarsPerMonth,
    Credit,
}

impl LimitKind {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::Concurrency => "concurrency",
            Self::DollarsPerDay => "dollars_per_day",
            Self::DollarsPerMonth => "dollars_per_month",
            Self::Credit => "credit",
        }
    }

    /// OpenAI's error code.
    pub fn code(self) -> &'static str {
        match self {
            Self::RequestsPerMinute | Self::TokensPerMinute | Self::Concurrency => "rate_limit_exceeded",
            Self::DollarsPerDay | Self::DollarsPerMonth | Self::Credit => "insufficient_quota",
        }
    }
}

/// A request that is over a limit. Where it is over several, the one that takes longest.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Whose limit, in words: "key `ci`".
    pub holder: String,
    /// Which.
    pub kind: LimitKind,
    /// Its size, in the unit of its kind.
    pub limit: f64,
    /// After so long the request passes if nothing else happens. For concurrency it is a guess. None:
    /// waiting does not help.
    pub retry_after: Option<Duration>,
    /// For the caller.
    pub message: String,
    /// For the caller's headers.
    pub states: States,
}

impl From<&Refusal> for ApiError {
    fn from(refusal: &Refusal) -> Self {
        let kind = match refusal.kind.code() {
            "insufficient_quota" => "insufficient_quota",
            _ => "rate_limit_error",
        };
        let status = match (refusal.kind, refusal.retry_after) {
            // No waiting helps.
            (LimitKind::DollarsPerDay | LimitKind::DollarsPerMonth | LimitKind::Credit, None) => {
                StatusCode::PAYMENT_REQUIRED
            }
            _ => StatusCode::TOO_MANY_REQUESTS,
        };
        Self {
            retry_after_s: refusal.retry_after_s(),
            limits: Some(Box::new(refusal.states)),
            ..Self::new(status, kind, Some(refusal.kind.code()), refusal.message.clone())
        }
    }
}

impl Refusal {
    /// Whole seconds for the `Retry-After` header, at least 1.
    pub fn retry_after_s(&self) -> Option<u32> {
        let wait = self.retry_after?;
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Some(u32::try_from(seconds).unwrap_or(u32::MAX).max(1))
    }
}

/// Counts what holders use. One lives as long as the process, through all configurations.
pub enum Limiter {
    /// By this process alone.
    Memory(Memory),
    /// Together with others.
    Redis(Redis),
}

impl Default for Limiter {
    /// Of this process alone.
    fn default() -> Self {
        Self::Memory(Memory::default())
    }
}

impl Limiter {
    /// One that counts where a configuration says; not yet connected.
    ///
    /// # Errors
    /// The URL is none of Redis.
    pub fn new(shared: &SharedLimits) -> Result<Self, String> {
        match shared {
            SharedLimits::Memory => Ok(Self::Memory(Memory::default())),
            SharedLimits::Redis(url) => Redis::open(url).map(Self::Redis),
        }
    }

    /// Takes an estimate from all holders, or from none of them. In memory at once; else it waits for one
    /// answer of Redis, and no longer than a quarter of a second.
    ///
    /// # Errors
    /// The limit that keeps the request waiting longest, of all that it is over.
    pub async fn reserve(
        &self,
        holders: &[Holder<'_>],
        estimate: Estimate,
        now: Now,
    ) -> Result<Reservation, Box<Refusal>> {
        match self {
            Self::Memory(memory) => memory.reserve(holders, estimate, now),
            Self::Redis(redis) => redis.reserve(holders, estimate, now).await,
        }
    }

    /// Says what a holder had spent before this process counted, in the current day and month, and in
    /// all. Before [`connect`](Self::connect).
    pub fn seed_spent(&self, id: Id<'_>, spent: Spent, now: Now) {
        match self {
            Self::Memory(memory) => memory.seed_spent(id, spent, now),
            Self::Redis(redis) => redis.seed_spent(id, spent, now),
        }
    }

    /// What holders have spent at a time (seconds since 1970) was more than was counted, or less where
    /// `dollars` are negative.
    pub fn correct(&self, ids: &[Id<'_>], dollars: f64, unix_s: u64) {
        match self {
            Self::Memory(memory) => memory.correct(ids, dollars, unix_s),
            Self::Redis(redis) => redis.correct(ids, dollars, unix_s),
        }
    }

    /// Begins to count together with others; waits about a second for it at most. Where that fails it is
    /// tried again and again, and the process counts alone until then.
    pub async fn connect(&self) {
        if let Self::Redis(redis) = self {
            redis.connect().await;
        }
    }

    /// Waits until what was settled is counted where others see it, about a second at most.
    pub async fn close(&self) {
        if let Self::Redis(redis) = self {
            redis.close().await;
        }
    }

    /// For metrics; None: nothing is shared.
    pub fn counters(&self) -> Option<&Counters> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(redis) => Some(redis.counters()),
        }
    }
}

/// A place under the limits of some holders, for one request. Dropped without
/// [`settle`](Self::settle) it frees its concurrency, and its estimate counts as used: what nobody
/// could measure is no free ride.
#[must_use = "dropping it charges the estimate"]
pub struct Reservation {
    held: Held,
    need: Need,
    states: States,
}

/// Where a reservation is counted.
enum Held {
    /// It is over.
    Nowhere,
    Memory(memory::Taken),
    Redis(Lease),
}

impl Reservation {
    /// Replaces the estimate by what was really used, also where the attempt failed or was cancelled:
    /// 0 for what never reached a model. The request stays counted as one.
    pub fn settle(mut self, tokens: u64, dollars: f64, now: Instant) {
        let real = Need::of(&Estimate { tokens, dollars });
        match std::mem::replace(&mut self.held, Held::Nowhere) {
            Held::Nowhere => {}
            Held::Memory(taken) => memory::settle(&taken, &self.need, &real, now),
            Held::Redis(lease) => lease.settle(&self.need, &real, now),
        }
    }

    /// For the caller's headers: as it was after this reservation.
    pub fn states(&self) -> &States {
        &self.states
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.held, Held::Nowhere) {
            Held::Nowhere => {}
            Held::Memory(taken) => memory::leave(&taken),
            Held::Redis(lease) => lease.settle(&self.need, &self.need, Instant::now()),
        }
    }
}
