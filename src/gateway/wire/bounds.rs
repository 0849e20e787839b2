//! What bounds a request: its deadline, the server's end, and the memory that all requests share.

use super::request_memory::{RequestMemory, Share};
use std::pin::Pin;
use std::sync::Arc;
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
    /// The request's time is up.
    #[error("the request took longer than {seconds} seconds")]
    Timeout {
        /// All that it had.
        seconds: u64,
    },
    /// The server's is.
    #[error("the server is shutting down")]
    Draining,
}

/// What bounds a request's time and memory.
pub struct RequestBounds {
    deadline: Instant,
    /// For the message: the whole time it has.
    timeout: Duration,
    phase: watch::Receiver<Phase>,
    memory: Arc<RequestMemory>,
    /// Ready when time is up. Kept between waits, as a stream has many.
    over: Option<Pin<Box<dyn Future<Output = Overdue> + Send>>>,
}

impl Clone for RequestBounds {
    fn clone(&self) -> Self {
        Self::new(self.deadline, self.timeout, self.phase.clone()).with_memory(self.memory.clone())
    }
}

impl RequestBounds {
    /// A request times out at `deadline`, after `timeout` in all; the end of a shutdown ends it too. Its memory
    /// is not bounded yet.
    pub fn new(deadline: Instant, timeout: Duration, phase: watch::Receiver<Phase>) -> Self {
        Self { deadline, timeout, phase, memory: RequestMemory::new(usize::MAX), over: None }
    }

    /// With memory that it shares with others.
    pub fn with_memory(self, memory: Arc<RequestMemory>) -> Self {
        Self { memory, ..self }
    }

    /// A share of the requests' memory, of nothing yet.
    pub fn share(&self) -> Share {
        self.memory.share()
    }

    /// The future's output, unless time is up first. Dropping it drops the future.
    pub async fn bound<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Overdue> {
        let (deadline, timeout, phase) = (self.deadline, self.timeout, &self.phase);
        let is_over = Instant::now() >= deadline || *phase.borrow() == Phase::Aborting;
        let kept = &mut self.over;
        // Made when it is first waited for: what is there at once needs no timer.
        let over =
            async { kept.get_or_insert_with(|| Box::pin(over(deadline, timeout, phase.clone()))).await };
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
async fn over(deadline: Instant, timeout: Duration, mut phase: watch::Receiver<Phase>) -> Overdue {
    tokio::select! {
        biased;
        // A closed channel means that the server is gone.
        _ = phase.wait_for(|phase| *phase == Phase::Aborting) => Overdue::Draining,
        () = tokio::time::sleep_until(deadline) => Overdue::Timeout { seconds: timeout.as_secs() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(phase: &watch::Sender<Phase>, ms: u64) -> RequestBounds {
        let timeout = Duration::from_millis(ms);
        RequestBounds::new(Instant::now() + timeout, timeout, phase.subscribe())
    }

    #[tokio::test]
    async fn time_is_bounded_by_deadline_and_shutdown() {
        let phase = watch::Sender::new(Phase::Running);
        assert_eq!(bounds(&phase, 5000).bound(async { 5 }).await.ok(), Some(5));
        let late = bounds(&phase, 20).bound(std::future::pending::<()>()).await;
        assert!(matches!(late, Err(Overdue::Timeout { .. })));
        phase.send_replace(Phase::Draining);
        assert_eq!(bounds(&phase, 5000).bound(async { 5 }).await.ok(), Some(5));
        let mut waiting = bounds(&phase, 5000);
        let (cut, _) = tokio::join!(waiting.bound(std::future::pending::<()>()), async {
            tokio::task::yield_now().await;
            phase.send_replace(Phase::Aborting)
        });
        assert!(matches!(cut, Err(Overdue::Draining)));
    }
}
