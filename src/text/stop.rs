//! When text work ends before it is done: its time is over, or nobody waits for it any more.
//!
//! A thread works on one thing at a time, so what it has to keep to is kept with the thread: whatever
//! text work is called beneath sees it without being handed it.

use super::TextError;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Stop>>> = const { RefCell::new(None) };
}

/// What a piece of text work has to keep to.
#[derive(Debug)]
pub struct Stop {
    time_max: Duration,
    /// From its begin on.
    deadline: OnceLock<Instant>,
    left: AtomicBool,
}

impl Stop {
    /// Of work that may take so long, from its begin.
    pub fn after(time_max: Duration) -> Self {
        Self { time_max, deadline: OnceLock::new(), left: AtomicBool::new(false) }
    }

    /// Nobody waits for it any more.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Begins its time and does the work on this thread.
    pub fn run<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        /// Puts back what the thread kept to before, also when the work panics.
        struct Before(Option<Arc<Stop>>);
        impl Drop for Before {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        self.deadline.get_or_init(|| Instant::now() + self.time_max);
        let _before = Before(CURRENT.replace(Some(self.clone())));
        work()
    }

    /// An error once this thread's work is to end; where nobody has said so, it goes on.
    ///
    /// # Errors
    /// Its time is over, or nobody waits for it.
    pub fn check_current() -> Result<(), TextError> {
        CURRENT.with_borrow(|stop| stop.as_ref().map_or(Ok(()), |stop| stop.check()))
    }

    /// What this thread's work keeps to; where nobody has said so, it has this time from now on.
    pub(super) fn current_or(time_max: Duration) -> Arc<Self> {
        CURRENT.with_borrow(Clone::clone).unwrap_or_else(|| {
            let stop = Self::after(time_max);
            stop.deadline.get_or_init(|| Instant::now() + time_max);
            Arc::new(stop)
        })
    }

    /// An error once it is to end.
    pub(super) fn check(&self) -> Result<(), TextError> {
        if self.left.load(Ordering::Relaxed) {
            return Err(TextError::Limit("nobody waits for it any more".into()));
        }
        match self.deadline.get() {
            Some(deadline) if Instant::now() >= *deadline => {
                Err(TextError::Limit(format!("it takes longer than {} seconds", self.time_max.as_secs_f64())))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_when_its_time_is_over_or_nobody_waits() {
        assert!(Stop::check_current().is_ok());
        let stop = Arc::new(Stop::after(Duration::from_secs(3600)));
        stop.run(|| {
            assert!(Stop::check_current().is_ok());
            stop.leave();
            assert!(Stop::check_current().unwrap_err().to_string().contains("nobody waits"));
        });
        let late = Arc::new(Stop::after(Duration::ZERO));
        late.run(|| {
            assert!(Stop::check_current().unwrap_err().to_string().contains("longer than 0 seconds"))
        });
        assert!(Stop::check_current().is_ok(), "the thread is free again");
    }
}
