//! `POST /v1/scores`: what a caller thinks of an answer, as a number under a name of his. Scores are
//! kept by the store; `GET /admin/report` compares the arms of splits by them.
//!
//! A request's record is written a moment after its end. A score that comes sooner waits for it.

use super::app::blocking;
use super::app::{App, RequestContext};
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::store::{Score, Store};
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

/// Waits between looks for a request: 1.1 s in all, where records are written every 0.2.
const WAITS_MS: [u64; 5] = [50, 150, 200, 300, 400];
/// Scores under way in the store. Half of its connections to PostgreSQL: the others are the admin's.
static WRITES: Semaphore = Semaphore::const_new(2);

/// `POST /v1/scores`, with the key that has made the request.
///
/// # Errors
/// The caller's: fields, a request that is none of this key's, no store.
#[utoipa::path(
    post,
    path = "/v1/scores",
    tag = "Usage",
    operation_id = "createScore",
    summary = "Says what the caller thinks of an answer",
    description = "Needs a store (`server.store`); without one it answers 404 `no_store`.",
    request_body(content = ScoreBody, example = json!({"request_id": "req-1", "name": "thumbs", "value": 1})),
    responses((status = 200, description = "The answer", body = ScoreKept)),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let store = app.store.clone().ok_or_else(ApiError::no_store)?;
    let mut bounds = app.bounds(&context);
    let body = app.read_json(&context, &mut bounds, request).await?;
    let (score, answer) = read(&Fields::root(&body)?, &[])?;
    bounds.bound(keep(store, context.tenant.name.clone(), score)).await??;
    Ok(Json(answer))
}

/// Waits for the request's record, for about a second.
pub async fn keep(store: Arc<Store>, key: String, score: Score) -> Result<(), ApiError> {
    let (key, score) = (Arc::new(key), Arc::new(score));
    let mut waits = WAITS_MS.iter();
    loop {
        let (store, key, score) = (store.clone(), key.clone(), score.clone());
        let permit = WRITES.acquire().await;
        // The permit goes with the work: that ends even when its caller has gone.
        let kept = blocking(move || {
            let _permit = permit;
            store.score(&key, &score)
        });
        match (kept.await, waits.next()) {
            (Err(error), Some(ms)) if error.status == StatusCode::NOT_FOUND => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
            }
            (kept, _) => return kept,
        }
    }
}

/// A request of `/v1/scores`.
#[derive(ToSchema)]
pub struct ScoreBody {
    /// The `x-request-id` of an answer.
    pub request_id: String,
    /// What it is about.
    pub name: String,
    /// How good it is, by whatever scale.
    pub value: f64,
    /// Why.
    pub comment: Option<String>,
}

/// A score that is kept.
#[derive(ToSchema)]
pub struct ScoreKept {
    /// The answer's.
    pub request_id: String,
    /// What it is about.
    pub name: String,
    /// How good it is.
    pub value: f64,
    /// Why.
    #[schema(required = true)]
    pub comment: Option<String>,
    /// The request's key, to who has told it by `/admin/scores`.
    pub key: Option<String>,
}

/// A score, and the answer to who sends it. `besides` are fields for somebody else.
pub fn read(fields: &Fields<'_>, besides: &[&str]) -> Result<(Score, Value), BadField> {
    const KNOWN: [&str; 4] = ["request_id", "name", "value", "comment"];
    let known = [&KNOWN, besides].concat();
    if let Some(unknown) = fields.map().keys().find(|name| !known.contains(&name.as_str())) {
        let reason = format!("is not known; there are {}", known.join(", "));
        return Err(BadField::unsupported(fields.path(unknown), reason));
    }
    let request_id = fields.required_str("request_id", "the `x-request-id` of an answer")?;
    let name = fields.required_str("name", "what the score is about, such as `thumbs`")?;
    let value = fields.f64("value")?.ok_or_else(|| BadField::missing("value", "a number"))?;
    let comment = fields.str("comment")?;
    let score = Score::new(request_id, name, value, comment)
        .map_err(|(field, reason)| BadField::new(fields.path(field), reason))?;
    let answer = json!({ "request_id": request_id, "name": name, "value": value, "comment": comment });
    Ok((score, answer))
}
