//! Connections to one upstream: hyper's pooled client with TLS by the system's roots, through the proxy
//! that the environment names for it (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, read as curl
//! does). A connection is kept for the next requests of the thread that opened it.
//!
//! A proxy is asked for a tunnel (`CONNECT`), also where the upstream itself speaks plain HTTP.
//! Redirects are not followed. Nothing stands between hyper and its caller: a general client's layers
//! took a tenth of a request's time.

use super::workers::PerWorker;
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// Connections of a thread that are kept for its next requests.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// How long they are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// TLS that trusts the system's authorities; reading them takes a while, so it is one for all upstreams.
///
/// # Errors
/// The system has no authorities that can be read.
pub fn tls() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|error| format!("no TLS for upstreams: {error}"))?;
    Ok(Arc::new(config.with_no_client_auth()))
}

/// A client of one upstream.
pub struct HttpClient(PerWorker<Client<Connector, Full<Bytes>>>);

impl HttpClient {
    /// For requests to what is under `base`. A connection has to stand within `connect_timeout`, TLS and
    /// a proxy's answer included.
    ///
    /// # Errors
    /// The proxy is one that has to be spoken to over TLS, or by another protocol than HTTP.
    pub fn new(base: &Uri, connect_timeout: Duration, tls: Arc<ClientConfig>) -> Result<Self, String> {
        let proxy = Matcher::from_env().intercept(base);
        if let Some(proxy) = proxy.as_ref().map(Intercept::uri).filter(|it| it.scheme_str() != Some("http")) {
            let scheme = proxy.scheme_str().unwrap_or_default();
            return Err(format!("the environment's proxy has a {scheme}:// address: only http:// is spoken"));
        }
        let connector = Connector(Arc::new(Connect { tls, proxy, timeout: connect_timeout }));
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
    ) -> Result<Response<Incoming>, Error> {
        let mut request = Request::new(Full::new(body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
            (Method::POST, url, headers.clone());
        request.headers_mut().extend(extra);
        self.0.get().request(request).await
    }
}

/// The next bytes of a body; None at its end. Loses nothing when dropped before it is ready.
pub async fn data(body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
    loop {
        match body.frame().await?.map(Frame::into_data) {
            Ok(Ok(bytes)) => return Some(Ok(bytes)),
            // Trailers.
            Ok(Err(_)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Opens connections.
#[derive(Clone)]
struct Connector(Arc<Connect>);

struct Connect {
    tls: Arc<ClientConfig>,
    proxy: Option<Intercept>,
    timeout: Duration,
}

type Connection = MaybeHttpsStream<TokioIo<TcpStream>>;

impl Connect {
    async fn connect(&self, to: Uri) -> Result<Connection, BoxError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connected = async {
            let Some(proxy) = &self.proxy else {
                return HttpsConnector::from((tcp, self.tls.clone())).call(to).await;
            };
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            HttpsConnector::from((tunnel, self.tls.clone())).call(with_port(to)?).await
        };
        tokio::time::timeout(self.timeout, connected).await?
    }
}

/// A tunnel's end has a port, and without one it would be that of HTTPS.
fn with_port(to: Uri) -> Result<Uri, BoxError> {
    match (to.scheme_str(), to.port(), to.host()) {
        (Some("http"), None, Some(host)) => Ok(format!("http://{host}:80/").parse()?),
        _ => Ok(to),
    }
}

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connect = self.0.clone();
        Box::pin(async move { connect.connect(to).await })
    }
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn a_tunnels_end_has_its_port() {
        let ends = [
            ("http://a.test/v1", "http://a.test:80/"),
            ("http://[::1]", "http://[::1]:80/"),
            ("http://a.test:81/v1", "http://a.test:81/v1"),
            ("https://a.test/v1", "https://a.test/v1"),
        ];
        for (to, end) in ends {
            assert_eq!(with_port(to.parse().unwrap()).unwrap().to_string(), end);
        }
    }
}
