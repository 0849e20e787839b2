//! Requests to one upstream: hyper's pooled client over [`Connector`]. A connection is kept for the next
//! requests of the thread that opened it.
//!
//! Redirects are not followed. An answer that comes packed (gzip, Brotli, zstd, deflate), though nobody asked for
//! that, is unpacked as it comes, and has no header any more that says so. Nothing else stands between hyper and its
//! caller: a general client's layers took a tenth of a request's time.

use crate::connect::Connector;
use crate::gateway::wire::workers::PerWorker;
use axum::body::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;
use tower_http::decompression::{Decompression, DecompressionBody};
use tower_service::Service;

/// Connections of a thread that are kept for its next requests.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// How long they are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// An answer's body, unpacked.
pub type AnswerBody = DecompressionBody<Incoming>;

/// A client of one upstream.
pub struct HttpClient(PerWorker<Client<Connector, Full<Bytes>>>);

impl HttpClient {
    /// For requests to what is under `base`. A connection has to stand within `connect_timeout`, TLS and
    /// a proxy's answer included.
    ///
    /// # Errors
    /// The proxy is one that has to be spoken to over TLS, or by another protocol than HTTP.
    pub fn new(base: &Uri, connect_timeout: Duration, tls: Arc<ClientConfig>) -> Result<Self, String> {
        let connector = Connector::new(connect_timeout, Some(tls));
        connector.check_proxy(base)?;
        Ok(Self(PerWorker::new(move || {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                .build(connector.clone())
        })))
    }

    /// Posts a body and waits for the answer's head. A header that both name is `extra`'s.
    pub async fn post(
        &self,
        url: Uri,
        headers: &HeaderMap,
        extra: HeaderMap,
        body: Bytes,
    ) -> Result<Response<AnswerBody>, Error> {
        let mut request = Request::new(Full::new(body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
            (Method::POST, url, headers.clone());
        request.headers_mut().extend(extra);
        Decompression::new(self.0.get()).call(request).await
    }
}
