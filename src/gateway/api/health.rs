//! What load balancers and monitors ask for: whether the server is there (`GET /livez`), whether it serves
//! (`GET /readyz`, `GET /health`), what it is (`GET /version`) and what it counts (`GET /metrics`).

use super::app::App;
use crate::gateway::ledger::auth::Viewer;
use crate::gateway::ledger::metrics::{COMMIT, Format, VERSION};
use crate::gateway::target::registry::ModelState;
use crate::secrets;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// That the server answers.
#[derive(ToSchema)]
pub struct Live {
    /// `live`.
    pub status: String,
}

/// The program.
#[derive(ToSchema)]
pub struct Version {
    /// Its release.
    pub version: String,
    /// The commit that it was built from.
    pub commit: String,
}

/// How the models are.
#[derive(ToSchema)]
pub struct Health {
    /// `ready`, `degraded` (both 200), `loading`, `failed`, `stopped` or `draining` (503).
    pub status: String,
    /// `ready`, `loading`, `failed` or `stopped`, by model.
    pub models: Option<BTreeMap<String, String>>,
    /// Why a model failed or stopped; for the operator.
    pub failures: Option<BTreeMap<String, String>>,
}

/// 200 as long as there is somebody to answer.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "Server",
    operation_id = "getLiveness",
    summary = "Whether the server answers at all",
    description = "Needs no key.",
    responses((status = 200, description = "The answer", body = Live)),
)]
pub async fn live() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

/// Which program this is.
#[utoipa::path(
    get,
    path = "/version",
    tag = "Server",
    operation_id = "getVersion",
    summary = "Which program this is",
    responses((status = 200, description = "The answer", body = Version)),
)]
pub async fn version() -> Response {
    Json(json!({ "version": VERSION, "commit": COMMIT })).into_response()
}

/// 200 when every model serves, and also when one could not be loaded and something else serves (`degraded`): a
/// restart would not mend it, and who routes by this path would lose everything else. Else 503: a model is
/// loading, its engine has stopped, or none is there. This path needs no key; where there are keys, it names each
/// model's state only to who may ask for it, and reasons only to the operator.
#[utoipa::path(
    get,
    path = "/health",
    tag = "Server",
    operation_id = "getHealth",
    summary = "Whether the models serve",
    description = "Needs no key; where there are keys, only `status` is told without one.",
    responses((status = 200, description = "The answer", body = Health)),
)]
pub async fn health(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let (models, routing, viewer) = (app.registry.snapshot(), app.routing(), app.viewer(&headers));
    let sees = |name: &str| match &viewer {
        Viewer::Operator => true,
        Viewer::Tenant(tenant) => routing.check_allowed(name, tenant).is_ok(),
        Viewer::Stranger(_) => false,
    };
    let state = |state: &ModelState| match state {
        ModelState::Loading => "loading",
        ModelState::Failed(_) => "failed",
        ModelState::Ready(model) if model.engine.failure().is_some() => "stopped",
        ModelState::Ready(_) => "ready",
    };
    let reason = |state: &ModelState| match state {
        ModelState::Failed(reason) => Some(reason.to_string()),
        ModelState::Ready(model) => model.engine.failure().or_else(|| model.engine.degraded()),
        ModelState::Loading => None,
    };
    let failures: serde_json::Map<String, Value> = models
        .iter()
        .filter_map(|(name, state)| Some((name.to_string(), secrets::hide(&reason(state)?).into())))
        .collect();
    let states: Vec<(&str, &str)> = models.iter().map(|(name, s)| (name.as_str(), state(s))).collect();
    let draining = app.is_draining();
    let worst = ["stopped", "loading", "failed"].into_iter().find(|w| states.iter().any(|(_, s)| s == w));
    let status = match worst {
        _ if draining => "draining",
        Some("failed") if serves_others(&app, &states) => "degraded",
        worst => worst.unwrap_or("ready"),
    };
    let code = match status {
        "ready" | "degraded" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut answer = json!({ "status": status });
    if !matches!(viewer, Viewer::Stranger(_)) {
        let states = states.into_iter().filter(|(name, _)| sees(name));
        let models: serde_json::Map<String, Value> =
            states.map(|(name, state)| (name.to_owned(), state.into())).collect();
        answer["models"] = models.into();
    }
    if viewer == Viewer::Operator && !failures.is_empty() {
        answer["failures"] = failures.into();
    }
    (code, Json(answer)).into_response()
}

/// Whether anything is served beside the models that could not be loaded.
fn serves_others(app: &App, states: &[(&str, &str)]) -> bool {
    let routing = app.routing();
    let mut targets = routing.config().models.iter().filter_map(|model| routing.target(&model.name));
    states.iter().any(|(_, state)| *state == "ready") || targets.any(|target| target.upstream.is_some())
}

/// What is counted, in the format that is asked for.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Server",
    operation_id = "getMetrics",
    summary = "What the server counts",
    description = "For the operator. In the format of OpenMetrics 1.0 where `Accept` prefers it.",
    responses((status = 200, description = "The answer", body = String, content_type = "text/plain")),
)]
pub async fn scrape(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::accepted(accept);
    ([(header::CONTENT_TYPE, format.content_type())], format.write(app.metrics.encode())).into_response()
}
