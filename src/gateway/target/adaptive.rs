//! How many requests at a time an upstream (or an engine of ours) bears, found out as it goes.
//!
//! **Down** by refusals: 429s and time-outs, which say for certain that it was too much. The limit
//! falls to a little under what was being served just then, by a quarter at most, and only for refusals
//! of requests that began after the last fall: those before it are the same news.
//!
//! **Up** by time without refusals, while all places are wanted and requests that began after the last
//! fall are answered: along CUBIC's curve
//! (RFC 9438, 4.2), slowly around where the last refusal was, then ever faster, so that ten times the
//! capacity is found again within [`GROWTH`] * 2.6.
//!
//! **A refused request's place rests** for as long as the upstream asks (Retry-After), at most
//! [`REST_MAX`]. That paces requests to an upstream that counts them per second as well as to one that
//! counts them at a time. There is no cooldown for all, which every further refusal would prolong:
//! each place comes back by itself, and there always is one.
//!
//! **Latency only brakes.** The time to the first byte is the prompt's length first and the load
//! second; and a server on which every request is ten times slower is not helped by fewer of them. So
//! a rise never lowers the limit, but while recent times are over [`TOLERANCE`] times the usual one,
//! more requests would only wait in the upstream's queue, and the limit does not grow. Both are
//! averages of logarithms, which a few long prompts do not move. The usual one follows within
//! [`RISE_WINDOW`] or [`DROP_WINDOW`], so that what is slower for good becomes usual. An upstream that
//! queues for too long ends in time-outs, which count as refusals.
//!
//! Pure: time is an argument.
//!
//! Invariants: at least one place; at most the given number in use and resting together.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a fall leaves of the requests being served.
const BACKOFF: f64 = 0.9;
/// What a fall leaves at least of the limit.
const FALL_MAX: f64 = 0.75;
/// The unit of the curve of growth: so long after it passed the last peak the limit is twice that.
const GROWTH: Duration = Duration::from_secs(5);
/// It is at least so many times to the first byte: before those nobody knows what more requests do.
const ROUNDS: f64 = 3.0;
/// How long a place rests where the upstream does not say.
const REST: Duration = Duration::from_secs(1);
/// The longest rest: so often even an upstream that asks for an hour is tried.
const REST_MAX: Duration = Duration::from_secs(5);
/// Recent times to the first byte over so many times the usual one stop the growth.
const TOLERANCE: f64 = 2.0;
/// Within about this what is slower becomes usual.
const RISE_WINDOW: Duration = Duration::from_secs(60);
/// Within about this what is faster does.
const DROP_WINDOW: Duration = Duration::from_secs(5);
/// So many answers make the first usual time: the very first to come are the fastest.
const FIRST_ANSWERS: u32 = 64;
/// The weight of one answer in the recent time to the first byte.
const RECENT_WEIGHT: f64 = 1.0 / 8.0;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, this long after it was sent (the first byte).
    Ok {
        /// Time to the first byte.
        latency: Duration,
    },
    /// It was refused: 429, 503 or 529 of an overloaded server, a full queue.
    Overloaded {
        /// How long the upstream asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// Nothing came for as long as somebody waits.
    TimedOut,
    /// It failed in a way that says nothing about load.
    Failed,
}

/// How a limiter stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Places, not rounded.
    pub limit: f64,
    /// In use.
    pub in_flight: usize,
    /// Of refused requests, not given out yet.
    pub resting: usize,
}

/// A limit of requests at a time that adapts.
pub struct AdaptiveLimiter {
    state: Arc<Mutex<State>>,
}

impl AdaptiveLimiter {
    /// Begins with, and never exceeds, `max` places; 0 counts as 1.
    pub fn new(max: usize) -> Self {
        let max = max.max(1) as f64;
        let state = State {
            max,
            peak: max,
            grown: flat(),
            falls: 0,
            in_flight: 0,
            resting: BinaryHeap::new(),
            full: false,
            last_ok: None,
            times: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A place for a request, if one is free. Never waits.
    pub fn try_acquire(&self, now: Instant) -> Option<Permit> {
        let mut state = lock(&self.state);
        state.wake(now);
        let taken = state.in_flight + state.resting.len();
        // Up more often than down: of two places a half is much.
        let places = ((state.limit() + 0.75) as usize).min(state.max as usize);
        state.full |= taken + 1 >= places;
        if taken >= places {
            return None;
        }
        state.in_flight += 1;
        Some(Permit { state: self.state.clone(), falls: state.falls, holds: true, told: false })
    }

    /// How it stands.
    pub fn load(&self, now: Instant) -> Load {
        let mut state = lock(&self.state);
        state.wake(now);
        Load { limit: state.limit(), in_flight: state.in_flight, resting: state.resting.len() }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in use. Dropping it frees it; what was not told of counts for nothing (a cancelled request).
#[must_use = "dropping it frees the place"]
pub struct Permit {
    state: Arc<Mutex<State>>,
    /// [`State::falls`] when the request began.
    falls: u64,
    holds: bool,
    told: bool,
}

impl Permit {
    /// Tells what came of the request as soon as it is known, which for an answer is its first byte.
    /// The place is kept until the answer's end (the permit's drop), but for a refused request's. Only
    /// the first thing told counts.
    pub fn tell(&mut self, outcome: Outcome, now: Instant) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let mut state = lock(&self.state);
        match outcome {
            Outcome::Ok { latency } => state.answered(self.falls, latency, now),
            Outcome::Overloaded { retry_after } => {
                self.holds = false;
                state.in_flight -= 1;
                state.resting.push(Reverse(now + retry_after.unwrap_or(REST).min(REST_MAX)));
                // What is left was not refused.
                let served = state.in_flight as f64;
                state.fall(self.falls, served * BACKOFF);
            }
            // Those that are left may be waiting in vain too.
            Outcome::TimedOut => state.fall(self.falls, 0.0),
            Outcome::Failed => {}
        }
    }

    /// Tells what came of the request, and frees the place.
    pub fn done(mut self, outcome: Outcome, now: Instant) {
        self.tell(outcome, now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.holds {
            lock(&self.state).in_flight -= 1;
        }
    }
}

struct State {
    max: f64,
    /// About where the last refusal was.
    peak: f64,
    /// How long the limit has grown since, in units of [`GROWTH`].
    grown: f64,
    /// How often the limit fell.
    falls: u64,
    in_flight: usize,
    /// When the places of refused requests come back.
    resting: BinaryHeap<Reverse<Instant>>,
    /// Somebody took or missed the last place since the last answer.
    full: bool,
    last_ok: Option<Instant>,
    times: Option<Times>,
}

/// Times to the first byte.
#[derive(Default)]
struct Times {
    answers: u32,
    /// Averages of the logarithms of seconds.
    recent: f64,
    usual: f64,
}

impl Times {
    /// An answer's, so long after the one before.
    fn add(&mut self, latency: Duration, since: Duration) {
        let time = latency.as_secs_f64().max(1e-6).ln();
        self.recent += (time - self.recent) * if self.answers == 0 { 1.0 } else { RECENT_WEIGHT };
        let window = if self.recent > self.usual { RISE_WINDOW } else { DROP_WINDOW };
        let weight = match self.answers < FIRST_ANSWERS {
            true => 1.0,
            false => (since.as_secs_f64() / window.as_secs_f64()).min(1.0),
        };
        self.usual += (self.recent - self.usual) * weight;
        self.answers = self.answers.saturating_add(1);
    }

    fn are_slower(&self) -> bool {
        self.recent - self.usual > TOLERANCE.ln()
    }
}

/// How long after a fall the curve is flat: where the limit has its last peak again.
fn flat() -> f64 {
    (1.0 - BACKOFF).cbrt()
}

impl State {
    fn limit(&self) -> f64 {
        (self.peak * (1.0 + (self.grown - flat()).powi(3))).clamp(1.0, self.max)
    }

    fn wake(&mut self, now: Instant) {
        while self.resting.peek().is_some_and(|Reverse(until)| *until <= now) {
            self.resting.pop();
        }
    }

    fn answered(&mut self, falls: u64, latency: Duration, now: Instant) {
        let since = self.last_ok.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last_ok = self.last_ok.max(Some(now));
        let times = self.times.get_or_insert_default();
        times.add(latency, since);
        let (slower, round) = (times.are_slower(), times.recent.exp());
        // Older requests say nothing of the limit as it is now.
        if std::mem::take(&mut self.full) && falls == self.falls && !slower && self.limit() < self.max {
            // An upstream that does not answer at all is not trusted with more.
            let unit = GROWTH.as_secs_f64().max(ROUNDS * round);
            self.grown += (since.as_secs_f64() / unit).min(1.0);
        }
    }

    /// After a request that began when the limit had fallen `falls` times. The limit falls to about
    /// `wanted`, within its bounds.
    fn fall(&mut self, falls: u64, wanted: f64) {
        if falls != self.falls {
            return;
        }
        let limit = self.limit();
        let fallen = wanted.clamp(limit * FALL_MAX, limit * BACKOFF).max(1.0);
        self.falls += 1;
        self.grown = 0.0;
        self.peak = fallen / BACKOFF;
    }
}
