//! Tries a plan's targets in order, until one answers. A target that fails in a way that passes is
//! tried again after a moment; one that keeps failing is left out for a while ([`breaker`]).
//!
//! An attempt has succeeded when its answer has begun: from then on its failures are the caller's to
//! see. Before, nothing has been sent, and the caller sees none.
//!
//! Where all fail, one error of several is told ([`Says`]): that of a target which was asked and failed, of several
//! the last one's. That a target could not be asked this request at all (its format has no place for a field, its
//! context is too short, it found a field wrong) is told only where none before it failed or rests: a client that is
//! told of an overload comes back, one that is told of a field gives up.
//!
//! A target may be hedged (`hedge_after_s`): where its answer has not begun by then, the next one is asked
//! beside it. Who begins first answers; the others are dropped.

use super::{Plan, Target};
use crate::gateway::target::breaker;
use crate::gateway::target::failure::{Failure, Then};
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Attempts with one target.
const ATTEMPTS_MAX: u32 = 3;
/// Before the second attempt; doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(100);
/// A target that asks for a longer wait than this is not waited for.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// What an answered request went through.
pub struct Answered<T> {
    /// The answer.
    pub answer: T,
    /// Who gave it.
    pub target: Arc<Target>,
    /// Attempts, the last one included.
    pub attempts: u32,
    /// Targets beside which the next one was asked, as they were slow; one of them may have answered.
    pub hedged: Vec<Arc<Target>>,
}

/// What is tried.
pub trait Ask: Sync {
    /// What comes of it.
    type Answer: Send;
    /// Asks one target. An attempt that succeeds has begun to answer.
    fn ask(
        &self,
        target: &Target,
        bounds: &mut RequestBounds,
    ) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;
}

/// Tries until one attempt succeeds.
///
/// # Errors
/// The most telling one of all targets', or of those before one whose error no target would help with.
pub async fn first<A: Ask>(
    plan: &Plan,
    bounds: RequestBounds,
    asks: &A,
) -> Result<Answered<A::Answer>, ApiError> {
    let attempts = AtomicU32::new(0);
    let (mut under_way, mut hedged) = (FuturesUnordered::new(), Vec::new());
    let (mut asked, mut told) = (Vec::new(), None);
    for (index, target) in plan.targets.iter().enumerate() {
        asked.push(index);
        // Boxed: a set moves its futures about, and these are large.
        under_way.push(Box::pin(one(index, target, bounds.clone(), asks, &attempts)));
        let is_last = index + 1 == plan.targets.len();
        let hedge_after = target.model.hedge_after.filter(|_| !is_last);
        let mut hedge_due = pin!(async {
            match hedge_after {
                Some(hedge_after) => tokio::time::sleep(hedge_after).await,
                None => std::future::pending().await,
            }
        });
        // Until the next one is to be asked.
        loop {
            let done = tokio::select! {
                biased;
                done = under_way.next() => done,
                () = hedge_due.as_mut() => {
                    hedged.push(target.clone());
                    break;
                }
            };
            match done {
                Some(Ok((answer, target))) => {
                    let (target, attempts) = (target.clone(), attempts.load(Ordering::Relaxed));
                    return Ok(Answered { answer, target, attempts, hedged });
                }
                Some(Err(given_up)) => {
                    asked.retain(|index| *index != given_up.index);
                    // What the second one finds wrong, the first may take.
                    let is_first = asked.iter().all(|index| *index > given_up.index);
                    let (gave_up, then) = (given_up.index, given_up.then);
                    let tell = more_telling(told, given_up);
                    if then == Then::Report && is_first {
                        return Err(tell.1);
                    }
                    told = Some(tell);
                    if gave_up == index && !is_last {
                        break;
                    }
                }
                None => break,
            }
        }
    }
    Err(told.map_or_else(|| ApiError::internal("a plan has no targets"), |(_, error)| error))
}

/// What an error tells of, the more telling the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Says {
    /// The target does not take this request.
    Unfit,
    /// The target was not asked: it has failed again and again, and rests.
    Resting,
    /// The target failed, or is busy.
    Failed,
}

/// Which of two errors is told.
fn more_telling(before: Option<(Says, ApiError)>, given_up: GivenUp) -> (Says, ApiError) {
    let status = given_up.error.status;
    let says = match given_up.tried {
        false => Says::Resting,
        true if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => Says::Unfit,
        true => Says::Failed,
    };
    match before {
        Some(before) if before.0 > says || says == Says::Resting => before,
        _ => (says, given_up.error),
    }
}

/// A target that was tried in vain.
struct GivenUp {
    /// Its place in the plan.
    index: usize,
    error: ApiError,
    /// Whether others may help.
    then: Then,
    /// It was asked at all.
    tried: bool,
}

/// Tries one target, several times where its failures pass.
async fn one<'a, A: Ask>(
    index: usize,
    target: &'a Arc<Target>,
    mut bounds: RequestBounds,
    asks: &A,
    attempts: &AtomicU32,
) -> Result<(A::Answer, &'a Arc<Target>), GivenUp> {
    // Our own engines say at once whether they serve.
    let breaker = target.upstream.as_ref().map(|upstream| &upstream.breaker);
    let give_up = |error, then| GivenUp { index, error, then, tried: true };
    let (mut turn, mut failed) = (0, None);
    loop {
        if breaker.is_some_and(|breaker| !breaker.admit(Instant::now())) {
            let tried = failed.is_some();
            let error = failed.unwrap_or_else(|| ApiError::resting(&target.model.name, breaker::OPEN));
            return Err(GivenUp { index, error, then: Then::Next, tried });
        }
        attempts.fetch_add(1, Ordering::Relaxed);
        let Failure { error, then } = match asks.ask(target, &mut bounds).await {
            Ok(answer) => {
                breaker.inspect(|breaker| breaker.succeeded());
                return Ok((answer, target));
            }
            Err(failure) => failure,
        };
        let wait = match then {
            Then::Report => return Err(give_up(error, then)),
            Then::Next => None,
            Then::Retry => {
                let asked = error.retry_after_s.map(|seconds| Duration::from_secs(seconds.into()));
                Some(asked.unwrap_or_else(|| backoff(turn)))
            }
        };
        // One that is busy, or cannot do this request, has not failed.
        if error.status.is_server_error() {
            breaker.inspect(|breaker| breaker.failed(Instant::now()));
        }
        let status = error.status.as_u16();
        tracing::warn!(model = target.model.name, turn, status, "an attempt failed");
        turn += 1;
        match wait {
            Some(wait) if turn < ATTEMPTS_MAX && wait <= WAIT_MAX => {
                let waited = bounds.bound(tokio::time::sleep(wait)).await;
                waited.map_err(|error| give_up(error.into(), Then::Report))?;
                failed = Some(error);
            }
            _ => return Err(give_up(error, Then::Next)),
        }
    }
}

/// From half to the whole of what doubles with each turn, so that callers do not come back together.
fn backoff(turn: u32) -> Duration {
    let whole = BACKOFF * 2u32.pow(turn);
    let random = RandomState::new().hash_one(turn) as u32;
    whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_differ() {
        for turn in 0..3 {
            let whole = BACKOFF * 2u32.pow(turn);
            let waits: Vec<Duration> = (0..20).map(|_| backoff(turn)).collect();
            assert!(waits.iter().all(|wait| (whole / 2..=whole).contains(wait)), "{waits:?}");
            assert!(waits.iter().any(|wait| *wait != waits[0]));
        }
    }
}
