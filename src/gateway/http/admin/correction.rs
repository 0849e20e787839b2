//! `POST /admin/usage/correct`: a record of usage is set right, with what its key and model have spent.

use super::{AdminState, body, shapes};
use crate::gateway::api::app::blocking;
use crate::gateway::ledger::limit::Id;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::store::{Correction, UsageRecord};
use axum::extract::{Request, State};
use axum::response::Json;
use serde_json::{Value, json};

const KNOWN: [&str; 7] =
    ["key", "request_id", "attempt", "input_tokens", "cached_tokens", "output_tokens", "cost"];

/// The record's key and request, its attempt where there are several, and what it is to say; the answer
/// has it before and after.
#[utoipa::path(
    post,
    path = "/admin/usage/correct",
    tag = "Admin",
    operation_id = "correctUsage",
    summary = "Sets a record of usage right",
    description = "Of the admin API, which needs a store (`server.store`; without one its paths are 404) and an admin key (`server.admin_key_env`; without one they are 403 `admin_off`).",
    request_body(content = shapes::UsageCorrection, example = json!({"key": "", "request_id": "req-1", "output_tokens": 12, "cost": 0.01})),
    responses((status = 200, description = "The answer", body = shapes::UsageCorrected)),
)]
pub async fn correct(State(state): State<AdminState>, request: Request) -> Result<Json<Value>, ApiError> {
    let body = body(request).await?;
    let correction = read(&Fields::root(&body)?)?;
    let (store, limiter) = (state.store, state.limiter);
    let corrected = blocking(move || store.correct(&correction)).await?;
    let (record, more) = (&corrected.after, corrected.more());
    if more != 0.0 {
        limiter.correct(&[Id::Key(&record.key), Id::Model(&record.model)], more, record.unix_ms / 1000);
    }
    let (request_id, key, model) = (&record.request_id, &record.key, &record.model);
    tracing::info!(request_id, key, model, dollars = more, "a record of usage was corrected");
    let answer = json!({
        "request_id": request_id, "key": key, "attempt": record.attempt, "model": model,
        "before": counts(&corrected.before), "after": counts(record),
    });
    Ok(Json(answer))
}

fn read(fields: &Fields) -> Result<Correction, BadField> {
    if let Some(unknown) = fields.map().keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(BadField::unsupported(
            fields.path(unknown),
            format!("is not known; there are {}", KNOWN.join(", ")),
        ));
    }
    let count = |name| fields.integer(name, 0, i64::MAX).map(|count| count.map(|count| count as u64));
    let cost = |value: &Value| {
        value.as_f64().ok_or_else(|| BadField::new(fields.path("cost"), "must be a number of dollars"))
    };
    Ok(Correction {
        key: fields.required_str("key", "the name of the request's key; empty: it has none")?.to_owned(),
        request_id: fields.required_str("request_id", "the answer's `x-request-id`")?.to_owned(),
        attempt: fields.u32("attempt", 1)?,
        input_tokens: count("input_tokens")?,
        cached_tokens: count("cached_tokens")?,
        output_tokens: count("output_tokens")?,
        cost: fields.get("cost").map(cost).transpose()?,
    })
}

fn counts(record: &UsageRecord) -> Value {
    json!({
        "input_tokens": record.input_tokens, "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens, "cost": record.cost, "flag": record.flag.map(|flag| flag.as_str()),
    })
}
