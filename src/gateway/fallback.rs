//! Tries a plan's targets in order, until one answers. A target that fails in a way that passes is
//! tried again after a moment; one that keeps failing is left out for a while (a circuit breaker).
//!
//! An attempt has succeeded when its answer has begun: from then on its failures are the caller's to
//! see. Before, nothing has been sent, and the caller sees none.

use super::error::ApiError;
use super::local::Limits;
use super::remote::{Failure, Then};
use super::route::{Plan, Target};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Attempts with one target.
const ATTEMPTS_MAX: u32 = 3;
/// Before the second attempt; doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(100);
/// A target that asks for a longer wait than this is not waited for.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 5;
/// How long it stays open before one request may try.
const OPEN: Duration = Duration::from_secs(10);

/// A target's circuit breaker. Closed: requests pass. Open: none do. Half open, after a while: one
/// does, and closes it or opens it again.
pub struct Health {
    since: Instant,
    failures: AtomicU32,
    /// In milliseconds after `since`; 0: closed.
    closed_until: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self { since: Instant::now(), failures: AtomicU32::new(0), closed_until: AtomicU64::new(0) }
    }
}

impl Health {
    /// No request may pass now.
    pub fn is_open(&self) -> bool {
        self.closed_until.load(Ordering::Relaxed) > self.now_ms()
    }

    /// Whether a request may pass. Of those that ask when the time is over one may, and has to report.
    fn admit(&self) -> bool {
        let until = self.closed_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let now = self.now_ms();
        let next = now + OPEN.as_millis() as u64;
        until <= now
            && self.closed_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.closed_until.store(0, Ordering::Relaxed);
    }

    fn failed(&self) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
            let until = self.now_ms() + OPEN.as_millis() as u64;
            self.closed_until.store(until, Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        self.since.elapsed().as_millis() as u64 + 1
    }
}

/// What an answered request went through.
pub struct Answered<T> {
    /// The answer.
    pub answer: T,
    /// Who gave it.
    pub target: Arc<Target>,
    /// Attempts, the last one included.
    pub attempts: u32,
}

/// What is tried.
pub trait Ask: Sync {
    /// What comes of it.
    type Answer: Send;
    /// Asks one target. An attempt that succeeds has begun to answer.
    fn ask(
        &self,
        target: &Target,
        limits: &mut Limits,
    ) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;
}

/// Tries until one attempt succeeds.
///
/// # Errors
/// The last failure's, or the first that no target would help with.
pub async fn first<A: Ask>(
    plan: &Plan,
    limits: &mut Limits,
    asks: &A,
) -> Result<Answered<A::Answer>, ApiError> {
    let mut attempts = 0;
    let mut last = None;
    for target in &plan.targets {
        for turn in 0..ATTEMPTS_MAX {
            if !target.health.admit() {
                last.get_or_insert_with(|| ApiError::resting(&target.model.name, OPEN));
                break;
            }
            attempts += 1;
            let failure = match asks.ask(target, limits).await {
                Ok(answer) => {
                    target.health.succeeded();
                    return Ok(Answered { answer, target: target.clone(), attempts });
                }
                Err(failure) => failure,
            };
            let Failure { error, then } = failure;
            let wait = match then {
                Then::Report => {
                    // It answered: it is well.
                    target.health.succeeded();
                    return Err(error);
                }
                Then::Next => None,
                Then::Retry => {
                    Some(error.retry_after_s.map_or_else(|| backoff(turn), |s| Duration::from_secs(s.into())))
                }
            };
            // One that is busy, or to which a prompt is too long, is well.
            match error.status.is_server_error() {
                true => target.health.failed(),
                false => target.health.succeeded(),
            }
            tracing::warn!(
                model = target.model.name,
                turn,
                status = error.status.as_u16(),
                "an attempt failed"
            );
            last = Some(error);
            match wait {
                Some(wait) if turn + 1 < ATTEMPTS_MAX && wait <= WAIT_MAX => {
                    limits.bound(tokio::time::sleep(wait)).await?;
                }
                _ => break,
            }
        }
    }
    Err(last.unwrap_or_else(|| ApiError::internal("a plan has no targets")))
}

/// From half to the whole of what doubles with each turn, so that callers do not come back together.
fn backoff(turn: u32) -> Duration {
    let whole = BACKOFF * 2u32.pow(turn);
    let random = RandomState::new().hash_one(turn) as u32;
    whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}
