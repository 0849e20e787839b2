//! What bounds a request: its deadlines, the server's end, and the memory that all requests share.
//!
//! There are two deadlines. One is about silence: it moves on with each part of the answer that comes, from our engine
//! or from an upstream (its comments and pings are signs of life too; those that we send are not), so that a long
//! answer that goes on is never cut. The other is about the whole request, and generous: an answer that never ends
//! ends there.

use super::request_memory::{RequestMemory, Share};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How far the server's shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new requests; running ones go on.
    Draining,
    /// Running requests end now, with an error.
    Aborting,
}

/// Why a wait ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overdue {
    /// Nothing of the answer came for too long.
    #[error("nothing of the answer came for {seconds} seconds")]
    Silence {
        /// How long silence may be.
        seconds: u64,
    },
    /// The request's whole time is up.
    #[error("the request took longer than {seconds} seconds in all")]
    Timeout {
        /// All that it had.
        seconds: u64,
    },
    /// The server's is.
    #[error("the server is shutting down")]
    Draining,
}

impl Overdue {
    /// Whether it is a matter of time.
    pub fn is_timeout(self) -> bool {
        matches!(self, Self::Silence { .. } | Self::Timeout { .. })
    }
}

/// A request's two deadlines. Clones are of the same request: what one hears, all have heard.
#[derive(Clone)]
struct Deadline {
    begun: Instant,
    silence: Duration,
    total: Duration,
    /// When something of the answer came last, in milliseconds after the request's beginning.
    heard_ms: Arc<AtomicU64>,
}

impl Deadline {
    /// The end of the whole request.
    fn end(&self) -> Instant {
        self.begun + self.total
    }

    /// Which of the two is next, and what it means.
    fn next(&self) -> (Instant, Overdue) {
        let heard = self.begun + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        match heard + self.silence < self.end() {
            true => (heard + self.silence, Overdue::Silence { seconds: self.silence.as_secs() }),
            false => (self.end(), Overdue::Timeout { seconds: self.total.as_secs() }),
        }
    }
}

/// What bounds a request's time and memory.
pub struct RequestBounds {
    deadline: Deadline,
    phase: watch::Receiver<Phase>,
    memory: Arc<RequestMemory>,
    /// Ready when time is up. Kept between waits, as a stream has many.
    over: Option<Pin<Box<dyn Future<Output = Overdue> + Send>>>,
}

impl Clone for RequestBounds {
    fn clone(&self) -> Self {
        let (deadline, phase, memory) = (self.deadline.clone(), self.phase.clone(), self.memory.clone());
        Self { deadline, phase, memory, over: None }
    }
}

impl RequestBounds {
    /// A request that began then times out after so much silence, and after so much time in all; the end of a
    /// shutdown ends it too. Its memory is not bounded yet.
    pub fn new(begun: Instant, silence: Duration, total: Duration, phase: watch::Receiver<Phase>) -> Self {
        let deadline = Deadline { begun, silence, total, heard_ms: Arc::default() };
        Self { deadline, phase, memory: RequestMemory::new(usize::MAX), over: None }
    }

    /// With memory that it shares with others.
    pub fn with_memory(self, memory: Arc<RequestMemory>) -> Self {
        Self { memory, ..self }
    }

    /// A share of the requests' memory, of nothing yet.
    pub fn share(&self) -> Share {
        self.memory.share()
    }

    /// Something of the answer has come: silence begins anew.
    pub fn heard(&self) {
        let ms = self.deadline.begun.elapsed().as_millis() as u64;
        // One of several attempts at once may be behind another.
        self.deadline.heard_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// The future's output, unless time is up first. Dropping it drops the future.
    pub async fn bound<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Overdue> {
        let (deadline, phase) = (&self.deadline, &self.phase);
        let is_over = Instant::now() >= deadline.end() || *phase.borrow() == Phase::Aborting;
        let kept = &mut self.over;
        // Made when it is first waited for: what is there at once needs no timer.
        let over =
            async { kept.get_or_insert_with(|| Box::pin(over(deadline.clone(), phase.clone()))).await };
        let bounded = match is_over {
            true => Err(over.await),
            false => tokio::select! {
                biased;
                output = future => Ok(output),
                error = over => Err(error),
            },
        };
        if bounded.is_err() {
            self.over = None;
        }
        bounded
    }
}

/// Waits until a request's time is up.
async fn over(deadline: Deadline, mut phase: watch::Receiver<Phase>) -> Overdue {
    let timed_out = async {
        loop {
            let (at, overdue) = deadline.next();
            if at <= Instant::now() {
                return overdue;
            }
            // What is heard meanwhile moves it.
            tokio::time::sleep_until(at).await;
        }
    };
    tokio::select! {
        biased;
        // A closed channel means that the server is gone.
        _ = phase.wait_for(|phase| *phase == Phase::Aborting) => Overdue::Draining,
        overdue = timed_out => overdue,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(phase: &watch::Sender<Phase>, ms: u64) -> RequestBounds {
        let silence = Duration::from_millis(ms);
        RequestBounds::new(Instant::now(), silence, Duration::from_secs(60), phase.subscribe())
    }

    #[tokio::test]
    async fn time_is_bounded_by_deadline_and_shutdown() {
        let phase = watch::Sender::new(Phase::Running);
        assert_eq!(bounds(&phase, 5000).bound(async { 5 }).await.ok(), Some(5));
        let late = bounds(&phase, 20).bound(std::future::pending::<()>()).await;
        assert_eq!(late, Err(Overdue::Silence { seconds: 0 }));
        phase.send_replace(Phase::Draining);
        assert_eq!(bounds(&phase, 5000).bound(async { 5 }).await.ok(), Some(5));
        let mut waiting = bounds(&phase, 5000);
        let (cut, _) = tokio::join!(waiting.bound(std::future::pending::<()>()), async {
            tokio::task::yield_now().await;
            phase.send_replace(Phase::Aborting)
        });
        assert!(matches!(cut, Err(Overdue::Draining)));
    }

    /// Hears something so many times.
    async fn hear(bounds: &mut RequestBounds, times: u32) -> Result<(), Overdue> {
        for _ in 0..times {
            bounds.bound(tokio::time::sleep(Duration::from_millis(100))).await?;
            bounds.heard();
        }
        Ok(())
    }

    #[tokio::test]
    async fn silence_is_bounded_and_the_length_of_what_goes_on_is_not() {
        let phase = watch::Sender::new(Phase::Running);
        let mut bounds = bounds(&phase, 1000);
        let mut attempt = bounds.clone();
        // What one attempt hears counts for the request.
        assert_eq!(hear(&mut attempt, 15).await, Ok(()));
        assert_eq!(hear(&mut bounds, 1).await, Ok(()));
        // Waits that are given up and begun again are one silence.
        let begun = Instant::now();
        let silence = loop {
            let wait = bounds.bound(std::future::pending::<()>());
            if let Ok(over) = tokio::time::timeout(Duration::from_millis(150), wait).await {
                break over;
            }
        };
        assert_eq!(silence, Err(Overdue::Silence { seconds: 1 }));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn an_answer_that_never_ends_ends_at_the_whole_requests_time() {
        let phase = watch::Sender::new(Phase::Running);
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut bounds = RequestBounds::new(begun, 10 * second, second, phase.subscribe());
        assert_eq!(hear(&mut bounds, 100).await, Err(Overdue::Timeout { seconds: 1 }));
        // Also where what is waited for is always there.
        assert_eq!(bounds.bound(async {}).await, Err(Overdue::Timeout { seconds: 1 }));
    }
}
