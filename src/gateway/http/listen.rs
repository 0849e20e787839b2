//! Accepts connections, and has each of them served to its end: by TLS where there is a certificate, over
//! a place ([`crate::gateway::wire::places`]), within the times that [`crate::gateway::wire::connection`] keeps to.

use super::server::ServerConfig;
use super::tls::Tls;
use crate::gateway::ledger::observe::Peer;
use crate::gateway::wire::connection::{Answering, Connection};
use crate::gateway::wire::places::{Place, Places};
use crate::gateway::wire::workers::Workers;
use axum::http::{HeaderValue, Request, Version, header};
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, oneshot};

/// How long TLS may take to be agreed on.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection beyond the others may take to send a request's head.
const RESERVED_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than a request's times its connection has: for the error that says so.
const GRACE: Duration = Duration::from_secs(2);

/// Of a request that came over a connection beyond the others: only health, metrics and the admin API are
/// to be served.
#[derive(Clone, Copy)]
pub struct Reserved;

/// How connections are served.
struct Listen {
    router: axum::Router,
    http: http1::Builder,
    reserved_http: http1::Builder,
    tls: Option<Arc<Tls>>,
    write_timeout: Duration,
    /// Between two parts of an answer that its caller makes room for.
    silence: Duration,
    /// From a request's head to the last byte that its caller takes.
    total: Duration,
}

/// Accepts connections until `closed`, then waits until each has finished its request.
pub async fn connections(
    mut listener: TcpListener,
    router: axum::Router,
    config: &ServerConfig,
    workers: &Workers,
    closed: oneshot::Receiver<()>,
) {
    let http = |head_timeout| {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(head_timeout).half_close(true);
        http
    };
    let listen = Arc::new(Listen {
        router,
        http: http(config.head_timeout),
        reserved_http: http(config.head_timeout.min(RESERVED_HEAD_TIMEOUT)),
        tls: config.tls.clone(),
        write_timeout: config.write_timeout,
        silence: config.requests.request_timeout + GRACE,
        total: config.requests.total_timeout + GRACE,
    });
    let places = Places::new(config.connections);
    let closing = Arc::new(Notify::new());
    let follow = async {
        match &config.tls {
            Some(tls) => tls.clone().follow_files().await,
            None => std::future::pending().await,
        }
    };
    let mut follow = std::pin::pin!(follow);
    let mut closed = std::pin::pin!(closed);
    loop {
        let (stream, peer) = tokio::select! {
            // Dropping the sender closes too.
            _ = &mut closed => break,
            () = &mut follow => break,
            // Waits and goes on where the system has no more sockets.
            accepted = Listener::accept(&mut listener) => accepted,
        };
        let Some(place) = places.take(peer.ip()) else { continue };
        // Without it, Nagle's algorithm holds back the small frames of a stream.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let listen = listen.clone();
        // Made here, so that it misses nothing.
        let closing = closing.clone().notified_owned();
        let given =
            workers.give(stream, async move |stream| listen.serve(stream, peer, place, closing).await);
        if let Err(error) = given.await {
            tracing::warn!(%error, "a connection could not be handed over");
        }
    }
    drop(listener);
    closing.notify_waiters();
    places.are_empty().await;
}

impl Listen {
    /// Serves a connection to its end.
    async fn serve(&self, stream: TcpStream, peer: SocketAddr, place: Place, closing: OwnedNotified) {
        let place = Arc::new(place);
        let connection = Connection::new(stream, self.tls.is_none());
        let socket = connection.socket(self.write_timeout);
        let serve = async {
            let Some(tls) = &self.tls else {
                return self.serve_http(socket, &connection, peer, &place, closing).await;
            };
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(socket)).await {
                Ok(Ok(stream)) => self.serve_http(stream, &connection, peer, &place, closing).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS was not agreed on"),
                Err(_) => tracing::debug!(%peer, "TLS was not agreed on in time"),
            }
        };
        tokio::select! {
            () = serve => {}
            () = place.is_given_away() => tracing::debug!(%peer, "an idle connection made room"),
            () = connection.is_overdue(self.silence, self.total) => {
                tracing::warn!(%peer, "a request had no end in its time: its caller did not read on");
            }
        }
    }

    async fn serve_http<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: S,
        connection: &Connection,
        peer: SocketAddr,
        place: &Arc<Place>,
        closing: OwnedNotified,
    ) {
        let router = TowerToHyperService::new(self.router.clone());
        let (asked, asks) = (connection.clone(), place.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            asked.asked(request.version() == Version::HTTP_11);
            let is_reserved = !asks.begin() || asks.is_reserved();
            request.extensions_mut().insert(Peer(peer));
            if is_reserved {
                request.extensions_mut().insert(Reserved);
            }
            let (asked, answer) = (asked.clone(), router.call(request));
            async move {
                let mut answer = answer.await?.map(|body| asked.answers(body));
                if is_reserved {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let http = if place.is_reserved() { &self.reserved_http } else { &self.http };
        let stream = TokioIo::new(Answering::new(stream, connection.clone(), place.clone()));
        let mut http = std::pin::pin!(http.serve_connection(stream, service));
        let serve = async {
            tokio::select! {
                ended = http.as_mut() => ended,
                () = connection.is_abandoned() => Ok(()),
                () = closing => {
                    http.as_mut().graceful_shutdown();
                    http.await
                }
            }
        };
        if let Err(error) = connection.clone().serve(serve).await {
            tracing::debug!(%peer, %error, "a connection ended early");
        }
    }
}
