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
//! Deliberately absent: sharing between processes, and what was spent before the process began, which
//! the store knows ([`Limiter::seed_spent`]).

mod account;
mod headers;

#[cfg(test)]
mod tests;

pub use headers::{State, States};

use crate::config::Limits;
use account::{Account, Calendar, Need, nanodollars};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Holders at which those without state are looked for first; again whenever their number has doubled.
const SWEEP_MIN: usize = 1024;

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
    /// A key, by its name; empty: the command line's, or no key at all.
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

impl Refusal {
    /// Whole seconds for the `Retry-After` header, at least 1.
    pub fn retry_after_s(&self) -> Option<u32> {
        let wait = self.retry_after?;
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Some(u32::try_from(seconds).unwrap_or(u32::MAX).max(1))
    }
}

/// Counts what holders use. One lives as long as the process, through all configurations.
pub struct Limiter {
    keys: RwLock<Holders>,
    models: RwLock<Holders>,
}

type Shared = Arc<Mutex<Account>>;

struct Holders {
    accounts: HashMap<Box<str>, Shared>,
    sweep_at: usize,
}

impl Default for Limiter {
    fn default() -> Self {
        let none = || RwLock::new(Holders { accounts: HashMap::new(), sweep_at: SWEEP_MIN });
        Self { keys: none(), models: none() }
    }
}

impl Limiter {
    /// Takes an estimate from all holders, or from none of them.
    ///
    /// # Errors
    /// The limit that keeps the request waiting longest, of all that it is over.
    pub fn reserve(
        &self,
        holders: &[Holder<'_>],
        estimate: Estimate,
        now: Now,
    ) -> Result<Reservation, Box<Refusal>> {
        let calendar = Calendar::of(now.unix_s);
        let need = Need { tokens: estimate.tokens, nanodollars: nanodollars(estimate.dollars) };
        let mut taken = Vec::with_capacity(holders.len());
        let mut states = States::default();
        let mut refused: Option<(account::Over, &Holder<'_>)> = None;
        for holder in holders {
            let shared = self.account(holder.id, now.at);
            let mut account = lock(&shared);
            account.advance(holder.limits, now.at, &calendar);
            match account.over(holder, &need, &calendar) {
                Some(over) if refused.as_ref().is_none_or(|(worst, _)| worst.wait < over.wait) => {
                    refused = Some((over, holder));
                }
                // After a refusal the others are only asked how long they would take.
                None if refused.is_none() => {
                    let charge = account.take(&need);
                    states.add(account.states());
                    drop(account);
                    taken.push((shared, charge));
                    continue;
                }
                _ => {}
            }
            states.add(account.states());
        }
        match refused {
            None => Ok(Reservation { taken, need, states }),
            Some((over, holder)) => {
                for (shared, charge) in &taken {
                    lock(shared).give_back(&need, charge);
                }
                Err(Box::new(over.refusal(holder, &need, states)))
            }
        }
    }

    /// Sets what a holder had spent before this process counted, in the current day and month, and in
    /// all. Replaces what was counted.
    pub fn seed_spent(&self, id: Id<'_>, spent: Spent, now: Now) {
        let shared = self.account(id, now.at);
        lock(&shared).seed(spent, &Calendar::of(now.unix_s));
    }

    /// What a holder has spent, reservations included.
    pub fn spent(&self, id: Id<'_>, now: Now) -> Spent {
        let found = self.found(id);
        found.map_or(Spent::default(), |shared| lock(&shared).spent(&Calendar::of(now.unix_s)))
    }

    /// Forgets a holder that is no more: a revoked key.
    pub fn forget(&self, id: Id<'_>) {
        let (holders, name) = self.holders(id);
        holders.write().unwrap_or_else(PoisonError::into_inner).accounts.remove(name);
    }

    /// Holders that are remembered.
    pub fn len(&self) -> usize {
        [&self.keys, &self.models].map(|holders| read(holders).accounts.len()).iter().sum()
    }

    /// Nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn holders<'a>(&self, id: Id<'a>) -> (&RwLock<Holders>, &'a str) {
        match id {
            Id::Key(name) => (&self.keys, name),
            Id::Model(name) => (&self.models, name),
        }
    }

    fn found(&self, id: Id<'_>) -> Option<Shared> {
        let (holders, name) = self.holders(id);
        read(holders).accounts.get(name).cloned()
    }

    fn account(&self, id: Id<'_>, now: Instant) -> Shared {
        if let Some(found) = self.found(id) {
            return found;
        }
        let (holders, name) = self.holders(id);
        let mut holders = holders.write().unwrap_or_else(PoisonError::into_inner);
        if holders.accounts.len() >= holders.sweep_at {
            // Nobody can get at an account without this lock, so a count of one stays one.
            holders.accounts.retain(|_, shared| Arc::strong_count(shared) > 1 || !lock(shared).is_blank(now));
            holders.sweep_at = (2 * holders.accounts.len()).max(SWEEP_MIN);
        }
        let blank = || Arc::new(Mutex::new(Account::new(now)));
        holders.accounts.entry(name.into()).or_insert_with(blank).clone()
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Account> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(holders: &RwLock<Holders>) -> std::sync::RwLockReadGuard<'_, Holders> {
    holders.read().unwrap_or_else(PoisonError::into_inner)
}

/// A place under the limits of some holders, for one request. Dropped without
/// [`settle`](Self::settle) it frees its concurrency, and its estimate counts as used: what nobody
/// could measure is no free ride.
#[must_use = "dropping it charges the estimate"]
pub struct Reservation {
    taken: Vec<(Shared, account::Charge)>,
    need: Need,
    states: States,
}

impl Reservation {
    /// Replaces the estimate by what was really used, also where the attempt failed or was cancelled:
    /// 0 for what never reached a model. The request stays counted as one.
    pub fn settle(mut self, tokens: u64, dollars: f64, now: Instant) {
        let real = Need { tokens, nanodollars: nanodollars(dollars) };
        for (shared, charge) in std::mem::take(&mut self.taken) {
            lock(&shared).settle(&self.need, &real, &charge, now);
        }
    }

    /// For the caller's headers: as it was after this reservation.
    pub fn states(&self) -> &States {
        &self.states
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for (shared, _) in &self.taken {
            lock(shared).leave();
        }
    }
}
