//! The HTTP server: routes, limits, shutdown. [`super::listen`] has its connections.
//!
//! A request passes [`observe`], CORS, then [`enter`] (request id, what browsers may, key, drain check,
//! metrics), then its handler. Everything about it ends with it: the handler's future is dropped when the client
//! disconnects, and a stream's body with its connection.
//!
//! Shutdown has three phases: new requests are refused with 503 while running ones go on; after
//! `drain_timeout` what still runs ends with an error; then connections close.

use super::admin::{self, AdminState};
use super::browser::Browsers;
use super::cors::{self, Cors};
use super::listen::{Reserved, connections};
use super::tls::Tls;
use super::{docs, openapi};
use crate::gateway::api::app::{App, RequestConfig, RequestContext};
use crate::gateway::api::body::linger;
use crate::gateway::api::chat;
use crate::gateway::api::count_tokens::count_tokens;
use crate::gateway::api::health::{health, live, scrape, version};
use crate::gateway::api::{
    completions, embeddings, infill, models, rerank, responses, score, scores, tokenize,
};
use crate::gateway::chat::Dialect;
use crate::gateway::ledger::auth::Viewer;
use crate::gateway::ledger::observe::{self, Observed};
use crate::gateway::route::Routing;
use crate::gateway::target::registry::Registry;
use crate::gateway::wire::bounds::Phase;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::places::{ConnectionLimits, RESERVED};
use crate::gateway::wire::rate_limit::insert_limits;
use crate::gateway::wire::workers::Workers;
use crate::store::{Store, new_request_id};
use arc_swap::ArcSwap;
use axum::body::{Body, HttpBody};
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::FutureExt;
use std::io;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long connections may take to send what is ready when the server ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// What a draining server still answers.
const OPEN_WHILE_DRAINING: [&str; 5] = ["/health", "/livez", "/readyz", "/metrics", "/version"];
/// What a server still answers whose connections are all at work, besides the admin API.
const OPEN_WHILE_FULL: [&str; 5] = OPEN_WHILE_DRAINING;
/// Longest request id that is taken over from a caller.
const REQUEST_ID_BYTES_MAX: usize = 128;
pub(in crate::gateway) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where Anthropic's dialect is spoken.
const MESSAGES: &str = "/v1/messages";
const COUNT_TOKENS: &str = "/v1/messages/count_tokens";
/// Of all tenants together.
const METRICS: &str = "/metrics";
/// Under it everything is.
const ANTHROPIC: &str = "/anthropic/";

/// How to serve.
#[derive(Clone)]
pub struct ServerConfig {
    /// What each request is held to.
    pub requests: RequestConfig,
    /// How long a connection may take to send a request's head, idle time before it included.
    pub head_timeout: Duration,
    /// How long a caller may take nothing of what is sent to it.
    pub write_timeout: Duration,
    /// Connections at a time.
    pub connections: ConnectionLimits,
    /// The certificate; None: connections are not encrypted.
    pub tls: Option<Arc<Tls>>,
    /// Threads that serve them.
    pub workers: usize,
    /// How long running requests may go on after shutdown began.
    pub drain_timeout: Duration,
    /// Who may call from a browser.
    pub cors: Cors,
    /// Names of this server besides its address, for requests without keys.
    pub allowed_hosts: Vec<String>,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Every request came to its end.
    Drained,
    /// That many were cut off when the drain timeout was over.
    CutOff(usize),
}

/// Refuses to be open to a network without keys. `allow_unauthenticated` overrides.
pub fn check_bind(host: IpAddr, has_keys: bool, allow_unauthenticated: bool) -> Result<(), String> {
    // An IPv4 address may come in IPv6 clothes (::ffff:127.0.0.1).
    if host.to_canonical().is_loopback() || has_keys || allow_unauthenticated {
        return Ok(());
    }
    Err(format!(
        "refusing to listen on {host} without API keys: whoever reaches that address could use the models; \
         give --api-key, or --allow-unauthenticated to do it all the same"
    ))
}

/// Serves until `shutdown` completes, then drains. Records go to the store, and its keys are accepted.
/// Fails when a CORS origin is not a header value, or the store cannot be read.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    registry: Arc<Registry>,
    routing: Arc<ArcSwap<Routing>>,
    store: Option<Arc<Store>>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<DrainOutcome> {
    let app = Arc::new(App::new(config.requests.clone(), registry, routing, store)?);
    app.limiter.connect().await;
    let bound = listener.local_addr()?.ip();
    let browsers = Browsers::new(config.cors.clone(), bound, &config.allowed_hosts);
    let router = router(Entrance { app: app.clone(), browsers: Arc::new(browsers) }, &config.cors)?;
    let (close, closed) = oneshot::channel::<()>();
    let workers = Workers::start(config.workers, config.connections.in_all + RESERVED)?;
    let mut connections = Box::pin(connections(listener, router, &config, &workers, closed));
    let drain = async {
        shutdown.await;
        drain(&app, config.drain_timeout).await
    };
    let outcome = tokio::select! {
        () = &mut connections => unreachable!("connections are accepted until `close` is dropped"),
        outcome = drain => outcome,
    };
    drop(close);
    if tokio::time::timeout(FLUSH_TIMEOUT, connections).await.is_err() {
        tracing::debug!("connections were still open at the end");
    }
    workers.end().await;
    app.limiter.close().await;
    Ok(outcome)
}

async fn drain(app: &App, timeout: Duration) -> DrainOutcome {
    app.phase.send_replace(Phase::Draining);
    for model in app.registry.ready() {
        model.engine.drain();
    }
    let mut in_flight = app.in_flight.subscribe();
    if tokio::time::timeout(timeout, in_flight.wait_for(|n| *n == 0)).await.is_ok() {
        return DrainOutcome::Drained;
    }
    let left = *app.in_flight.borrow();
    app.phase.send_replace(Phase::Aborting);
    if tokio::time::timeout(FLUSH_TIMEOUT, in_flight.wait_for(|n| *n == 0)).await.is_err() {
        tracing::debug!("callers did not read the end of their streams");
    }
    DrainOutcome::CutOff(left)
}

/// What every request passes.
#[derive(Clone)]
pub(super) struct Entrance {
    pub app: Arc<App>,
    pub browsers: Arc<Browsers>,
}

impl Entrance {
    /// Whether a page may have sent it that must not.
    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let keys_are_none = self.app.routing.load().keys().are_none(self.app.store.as_deref());
        self.browsers.check(request, !keys_are_none)
    }
}

pub(super) fn router(entrance: Entrance, cors: &Cors) -> io::Result<axum::Router> {
    let app = entrance.app.clone();
    let api = || {
        axum::Router::new()
            .route("/v1/chat/completions", post(chat::completions))
            .route(MESSAGES, post(chat::messages))
            .route(COUNT_TOKENS, post(count_tokens))
            .route("/v1/responses", post(responses::create))
            .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
            .route("/v1/responses/{id}/input_items", get(responses::input_items))
            .route("/v1/completions", post(completions::create))
            .route("/v1/embeddings", post(embeddings::create))
            .route("/v1/rerank", post(rerank::create))
            .route("/v2/rerank", post(rerank::create))
            .route("/rerank", post(rerank::create))
            .route("/v1/score", post(score::create))
            .route("/score", post(score::create))
            .route("/v1/scores", post(scores::create))
            .route("/v1/models", get(models::list))
            .route("/v1/models/{*id}", get(models::get))
            .route("/tokenize", post(tokenize::tokenize))
            .route("/detokenize", post(tokenize::detokenize))
            .route("/tokenizer_info", get(tokenize::info))
            .route("/infill", post(infill::create))
    };
    let mut router = api()
        .nest("/router", api())
        .route("/to/{name}/v1/chat/completions", post(chat::completions))
        .route("/to/{name}/v1/responses", post(responses::create))
        .route("/to/{name}/v1/embeddings", post(embeddings::create))
        .route("/to/{name}/v1/rerank", post(rerank::create))
        .route("/to/{name}/v2/rerank", post(rerank::create))
        .route("/to/{name}/v1/score", post(score::create))
        .route(&format!("/to/{{name}}{MESSAGES}"), post(chat::messages))
        .route(&format!("/to/{{name}}{COUNT_TOKENS}"), post(count_tokens))
        .route(&format!("/anthropic{MESSAGES}"), post(chat::messages))
        .route(&format!("/anthropic{COUNT_TOKENS}"), post(count_tokens))
        .route("/anthropic/v1/scores", post(scores::create))
        .route("/health", get(health))
        .route("/readyz", get(health))
        .route("/livez", get(live))
        .route("/version", get(version))
        .route(METRICS, get(scrape))
        .route("/openapi.json", get(openapi::serve))
        .route("/docs", get(docs::page))
        .route("/docs/{file}", get(docs::file))
        .fallback(async |request: Request| {
            ApiError::unknown_path(request.method().as_str(), request.uri().path())
        })
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::wrong_method(request.method().as_str(), request.uri().path())
        })
        .layer(DefaultBodyLimit::max(app.config.body_bytes_max))
        .layer(from_fn_with_state(entrance.clone(), enter));
    if let Some(store) = &app.store {
        let admin_key_sha256 = app.config.admin_key_sha256;
        let (store, limiter) = (store.clone(), app.limiter.clone());
        let admin = admin::router(AdminState { store, limiter, admin_key_sha256 });
        router = router.merge(admin.layer(from_fn_with_state(entrance, enter_admin)));
    }
    if let Some(cors) = cors::layer(cors)? {
        router = router.layer(cors);
    }
    let observers = &app.config.observers;
    if !observers.are_none() {
        router = router.layer(from_fn_with_state(observers.clone(), observe::observe));
    }
    Ok(router.with_state(app))
}

/// Around requests of the admin, whose key is looked at behind it.
async fn enter_admin(State(entrance): State<Entrance>, request: Request, next: Next) -> Response {
    match entrance.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => refused(request, error),
    }
}

/// The answer to a request whose body nobody reads.
fn refused(request: Request, error: ApiError) -> Response {
    // Who asks first whether to send it does not, when told this.
    if !request.headers().contains_key(header::EXPECT) && !request.body().is_end_stream() {
        tokio::spawn(linger(request.into_body()));
    }
    error.into_response()
}

/// Around every request: id, browsers, key, drain check; afterwards metrics and the log.
async fn enter(State(entrance): State<Entrance>, mut request: Request, next: Next) -> Response {
    let app = &entrance.app;
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let id = match given {
        Some(id) if is_sane_id(id) => id.to_owned(),
        _ => new_request_id(),
    };
    // Before the phase is read: a request either sees the drain or is waited for.
    let in_flight = app.begin();
    let (arrived, model) = (Instant::now(), Arc::new(OnceLock::new()));
    let observed = request.extensions().get::<Arc<Observed>>().cloned();
    observed.iter().for_each(|observed| observed.has_id(&id));
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let path = request.uri().path();
    let is_anthropic = [MESSAGES, COUNT_TOKENS].iter().any(|end| path.ends_with(end));
    let is_anthropic = is_anthropic || path.starts_with(ANTHROPIC);
    let dialect = if is_anthropic { Dialect::Anthropic } else { Dialect::OpenAi };
    let draining = app.is_draining() && !OPEN_WHILE_DRAINING.contains(&path);
    let is_reserved = request.extensions().get::<Reserved>().is_some();
    let may_come = match is_reserved && !OPEN_WHILE_FULL.contains(&path) {
        true => Err(ApiError::no_connections()),
        false => entrance.check(&request),
    };
    let checked = may_come.and_then(|()| {
        let tenant = match path {
            METRICS => match app.viewer(request.headers()) {
                Viewer::Operator => Ok(Arc::default()),
                Viewer::Tenant(_) => Err(ApiError::not_operator()),
                Viewer::Stranger(error) => Err(error.into()),
            },
            path => {
                let keys = app.routing.load();
                keys.keys().check(path, request.headers(), app.store.as_deref()).map_err(ApiError::from)
            }
        }?;
        if draining { Err(ApiError::draining()) } else { Ok(tenant) }
    });
    let mut response = match checked {
        Err(error) => refused(request, error),
        Ok(tenant) => {
            observed.iter().for_each(|observed| observed.has_key(&tenant.name));
            let (id, model) = (id.clone(), model.clone());
            let context =
                RequestContext { id, arrived, in_flight, tenant, model, observed: observed.clone() };
            request.extensions_mut().insert(context);
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            answer.unwrap_or_else(|_| ApiError::internal("a handler panicked").into_response())
        }
    };
    if dialect == Dialect::Anthropic
        && let Some(error) = response.extensions().get::<ApiError>()
    {
        *response.body_mut() = Body::from(error.in_dialect(dialect, &id));
    }
    if let Some(states) = response.extensions().get::<ApiError>().and_then(|error| error.limits.clone()) {
        insert_limits(&mut response, &states, dialect);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let model = model.get().map_or("", String::as_str);
    let status = response.status().as_u16();
    app.metrics.request(&route, model, status);
    observed.iter().for_each(|observed| observed.names(model));
    response
}

/// Visible ASCII and not too long: fit to be logged and echoed.
fn is_sane_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_open_without_keys() {
        let open = |host: &str, keys, allow| check_bind(host.parse().unwrap(), keys, allow).is_ok();
        for host in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(open(host, false, false), "{host}");
        }
        for host in ["0.0.0.0", "::", "192.168.1.2", "::ffff:10.0.0.1"] {
            assert!(!open(host, false, false), "{host}");
            assert!(open(host, true, false) && open(host, false, true), "{host}");
        }
    }

    #[test]
    fn request_ids_are_short_and_visible() {
        assert!(is_sane_id("req-1:a/b") && is_sane_id(&"x".repeat(128)));
        for bad in ["", "a b", "a\tb", "h\u{e9}", &"x".repeat(129)] {
            assert!(!is_sane_id(bad), "{bad:?}");
        }
    }
}
