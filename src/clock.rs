//! Real and simulated time. Whoever decides something by time takes a [`Clock`] (or a plain
//! `now`), so that tests and simulations can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time since the clock was made.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's monotonic clock.
    Real(Instant),
    /// Microseconds, set by a test.
    Simulated(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's monotonic clock, starting at zero now.
    pub fn real() -> Self {
        Clock::Real(Instant::now())
    }

    /// A clock that stands at zero until [`Clock::advance`] is called.
    pub fn simulated() -> Self {
        Clock::Simulated(Arc::new(AtomicU64::new(0)))
    }

    /// Time since the clock was made.
    pub fn now(&self) -> Duration {
        match self {
            Clock::Real(start) => start.elapsed(),
            Clock::Simulated(us) => Duration::from_micros(us.load(Ordering::Relaxed)),
        }
    }

    /// Moves a simulated clock on; a real one goes by itself.
    pub fn advance(&self, by: Duration) {
        if let Clock::Simulated(us) = self {
            us.fetch_add(by.as_micros() as u64, Ordering::Relaxed);
        }
    }
}
