//! A circuit breaker: a target that keeps failing is left alone for a while.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 5;
/// How long it stays open before one request may try.
pub const OPEN: Duration = Duration::from_secs(10);

/// An upstream model's circuit breaker. Closed: requests pass. Open: none do. Half open, after a while:
/// one does; its answer closes it, anything else leaves it open for as long again. Time is an argument.
pub struct Breaker {
    since: Instant,
    failures: AtomicU32,
    /// In milliseconds after `since`; 0: closed.
    open_until: AtomicU64,
}

impl Breaker {
    /// Closed.
    pub fn new(now: Instant) -> Self {
        Self { since: now, failures: AtomicU32::new(0), open_until: AtomicU64::new(0) }
    }

    /// No request may pass.
    pub fn is_open(&self, now: Instant) -> bool {
        self.open_until.load(Ordering::Relaxed) > self.ms(now)
    }

    /// Whether a request may pass. Of those that ask when the time is over one may.
    pub fn admit(&self, now: Instant) -> bool {
        let until = self.open_until.load(Ordering::Relaxed);
        let next = self.ms(now + OPEN);
        until == 0
            || until <= self.ms(now)
                && self.open_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A request came through.
    pub fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.open_until.store(0, Ordering::Relaxed);
    }

    /// A request failed in a way that its target is to blame for.
    pub fn failed(&self, now: Instant) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
            self.open_until.store(self.ms(now + OPEN), Ordering::Relaxed);
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        now.duration_since(self.since).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_opens_half_opens_and_closes() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let breaker = Breaker::new(begin);
        for _ in 1..FAILURES_MAX {
            breaker.failed(at(1));
        }
        assert!(breaker.admit(at(1)) && !breaker.is_open(at(1)));
        breaker.failed(at(1));
        assert!(breaker.is_open(at(10)) && !breaker.admit(at(10)));
        // One may try, and fails; those beside it wait with it.
        assert!(breaker.admit(at(11)) && !breaker.admit(at(11)) && breaker.is_open(at(11)));
        breaker.failed(at(12));
        assert!(!breaker.admit(at(21)));
        // One may try, and says nothing: cancelled, or the request's own fault.
        assert!(breaker.admit(at(22)) && !breaker.admit(at(31)));
        assert!(breaker.admit(at(32)));
        breaker.succeeded();
        assert!(breaker.admit(at(32)) && breaker.admit(at(32)));
        // A success counts failures from the beginning.
        breaker.failed(at(33));
        assert!(breaker.admit(at(33)));
    }
}
