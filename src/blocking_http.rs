//! HTTP for whoever waits for an answer outside of async code: downloads from a hub, traces on their way
//! out, the goldens' questions. hyper's client over [`Connector`], driven by a thread of its own.
//!
//! Nothing is done that was not asked for: no redirect is followed, no request repeated, no header added
//! but `user-agent`, and every wait is bounded by the caller. What is read is bounded by the caller too.

use crate::connect::{Connector, chain, data};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const NAME: HeaderValue = HeaderValue::from_static(concat!("novastack/", env!("CARGO_PKG_VERSION")));
/// How long a connection is kept for the next request: less than servers commonly keep theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections to one server that are kept.
const IDLE_CONNECTIONS_MAX: usize = 2;

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The time was over.
    #[error("nothing came within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// No connection came about, or it broke.
    #[error("{0}")]
    Failed(String),
    /// The answer is longer than is taken.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// Sends requests. It may be used, and dropped, on any thread.
#[derive(Debug)]
pub struct BlockingClient {
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    client: Client<Connector, Full<Bytes>>,
}

impl BlockingClient {
    /// A connection has to stand within `connect_timeout`, TLS and a proxy's answer included.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(connect_timeout: Duration) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start a thread for HTTP: {error}"))?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(Connector::new(connect_timeout, None));
        Ok(Self { runtime: Some(runtime), client })
    }

    /// Sends a request and waits so long for its answer's head.
    pub fn send(
        &self,
        mut request: Request<Bytes>,
        timeout: Duration,
    ) -> Result<BlockingAnswer<'_>, RequestError> {
        request.headers_mut().entry(USER_AGENT).or_insert(NAME);
        let (client, request) = (self.client.clone(), request.map(Full::new));
        let answer = self.wait(timeout, async move { client.request(request).await })?;
        let (head, body) = answer.map_err(|error| RequestError::Failed(chain(&error)))?.into_parts();
        Ok(BlockingAnswer { client: self, head: Response::from_parts(head, ()), body: Some(body) })
    }

    /// Runs the future on this client's thread; it is dropped when the time is over.
    fn wait<T: Send + 'static>(
        &self,
        timeout: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, RequestError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let runtime = self.runtime.as_ref().expect("it is there until it is dropped");
        runtime.spawn(async move {
            let _ = sender.send(tokio::time::timeout(timeout, future).await);
        });
        match receiver.recv() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(RequestError::TimedOut(timeout)),
            // Its task panicked.
            Err(_) => Err(RequestError::Failed("the request failed inside its client".into())),
        }
    }
}

impl Drop for BlockingClient {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it would panic on threads of another runtime.
            runtime.shutdown_background();
        }
    }
}

/// An answer whose head is there.
#[derive(Debug)]
pub struct BlockingAnswer<'a> {
    client: &'a BlockingClient,
    head: Response<()>,
    /// None once it has ended or failed.
    body: Option<Incoming>,
}

impl BlockingAnswer<'_> {
    /// Of its head.
    pub fn status(&self) -> StatusCode {
        self.head.status()
    }

    /// Of its head.
    pub fn headers(&self) -> &HeaderMap {
        self.head.headers()
    }

    /// The next bytes, waiting so long for them; None at the end. After an error there are no more.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Bytes>, RequestError> {
        let Some(mut body) = self.body.take() else { return Ok(None) };
        let (body, read) = self.client.wait(timeout, async move {
            let read = data(&mut body).await;
            (body, read)
        })?;
        match read {
            None => Ok(None),
            Some(Ok(bytes)) => {
                self.body = Some(body);
                Ok(Some(bytes))
            }
            Some(Err(error)) => Err(RequestError::Failed(chain(&error))),
        }
    }

    /// All that is left, of at most so many bytes, within this time.
    pub fn bytes(&mut self, bytes_max: usize, timeout: Duration) -> Result<Vec<u8>, RequestError> {
        let begun = Instant::now();
        let mut all = Vec::new();
        let mut next = || match self.next(timeout.saturating_sub(begun.elapsed())) {
            Err(RequestError::TimedOut(_)) => Err(RequestError::TimedOut(timeout)),
            read => read,
        };
        while let Some(bytes) = next()? {
            if all.len() + bytes.len() > bytes_max {
                return Err(RequestError::TooLong(bytes_max));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}
