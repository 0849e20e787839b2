//! How connections to other servers are opened: TCP, or TLS by the system's roots, through the proxy that
//! the environment names (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, read as curl does).
//!
//! A proxy is asked for a tunnel (`CONNECT`), also where the server itself speaks plain HTTP. The clients
//! on top are `gateway::target::http_client`, for upstreams, and [`crate::blocking_http`], for everything that is
//! asked outside of async code.

use http_body_util::BodyExt;
use hyper::Uri;
use hyper::body::{Body, Bytes, Frame};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

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
        .map_err(|error| {
            format!(
                "no TLS, as this system's authorities cannot be read: {error} (SSL_CERT_FILE may name a file)"
            )
        })?;
    Ok(Arc::new(config.with_no_client_auth()))
}

/// An error with what it came from.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// The next bytes of a body; None at its end. Loses nothing when dropped before it is ready.
pub async fn data<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Result<Bytes, B::Error>> {
    loop {
        match body.frame().await?.map(Frame::into_data) {
            Ok(Ok(bytes)) => return Some(Ok(bytes)),
            // Trailers.
            Ok(Err(_)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Opens connections. Clones share what they need.
#[derive(Clone)]
pub struct Connector(Arc<Connect>);

struct Connect {
    /// Made when it is first needed: a hub that is asked over plain HTTP needs no authorities.
    tls: OnceLock<Arc<ClientConfig>>,
    proxies: Matcher,
    timeout: Duration,
}

/// What a [`Connector`] opens.
pub type Connection = MaybeHttpsStream<TokioIo<TcpStream>>;

impl Connector {
    /// A connection has to stand within `timeout`, TLS and a proxy's answer included. Without `tls`, one
    /// like [`tls`] is made when it is needed.
    pub fn new(timeout: Duration, tls: Option<Arc<ClientConfig>>) -> Self {
        let made = OnceLock::new();
        if let Some(tls) = tls {
            made.get_or_init(|| tls);
        }
        Self(Arc::new(Connect { tls: made, proxies: Matcher::from_env(), timeout }))
    }

    /// Whether the environment's proxy for that server, if it names one, can be used.
    ///
    /// # Errors
    /// It has to be spoken to over TLS, or by another protocol than HTTP.
    pub fn check_proxy(&self, to: &Uri) -> Result<(), String> {
        self.0.proxy(to).map(drop)
    }
}

impl Connect {
    fn proxy(&self, to: &Uri) -> Result<Option<Intercept>, String> {
        let proxy = self.proxies.intercept(to);
        match proxy.as_ref().map(|proxy| proxy.uri().scheme_str().unwrap_or_default()) {
            None | Some("http") => Ok(proxy),
            Some(scheme) => {
                Err(format!("the environment's proxy has a {scheme}:// address: only http:// is spoken"))
            }
        }
    }

    async fn connect(&self, to: Uri) -> Result<Connection, BoxError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connected = async {
            match self.proxy(&to)? {
                None => self.secured(tcp, to).await,
                Some(proxy) => {
                    let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
                    if let Some(auth) = proxy.basic_auth() {
                        tunnel = tunnel.with_auth(auth.clone());
                    }
                    self.secured(tunnel, with_port(to)?).await
                }
            }
        };
        tokio::time::timeout(self.timeout, connected).await?
    }

    /// Over this transport, in TLS where the address asks for it.
    async fn secured<T>(&self, mut transport: T, to: Uri) -> Result<Connection, BoxError>
    where
        T: Service<Uri, Response = TokioIo<TcpStream>> + Send + 'static,
        T::Future: Send,
        T::Error: Into<BoxError>,
    {
        if to.scheme_str() == Some("http") {
            return Ok(transport.call(to).await.map_err(Into::into)?.into());
        }
        let tls = match self.tls.get() {
            Some(tls) => tls,
            None => {
                let made = tls()?;
                self.tls.get_or_init(|| made)
            }
        };
        HttpsConnector::from((transport, tls.clone())).call(to).await
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
    use super::*;

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
