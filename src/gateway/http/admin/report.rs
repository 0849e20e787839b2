//! `GET /admin/report`: the arms of splits, compared.

use super::{AdminState, CSV, UsageParameters, shapes};
use crate::gateway::api::app::blocking;
use crate::gateway::wire::error::ApiError;
use crate::store::export::{csv, spreadsheet_safe};
use crate::store::{ArmRow, ScoreTotals};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// `GET /admin/report?route=NAME&from=...&to=...&format=json|csv`, and any dimension of usage as a filter.
#[utoipa::path(
    get,
    path = "/admin/report",
    tag = "Admin",
    operation_id = "getReport",
    summary = "The arms of splits, compared",
    description = "Of the admin API, which needs a store (`server.store`; without one its paths are 404) and an admin key (`server.admin_key_env`; without one they are 403 `admin_off`).",
    params(("route" = Option<String>, Query, description = "Only this route's"), ("from" = Option<String>, Query, description = "2026-01-31, RFC 3339 in UTC, or milliseconds since 1970"), ("to" = Option<String>, Query, description = "The same"), ("key" = Option<String>, Query, description = "Only this key's; so with every dimension"), ("model" = Option<String>, Query, description = "Only this model's"), ("format" = Option<String>, Query, description = "json or csv")),
    responses((status = 200, description = "The answer", content((shapes::Report = "application/json"), (String = "text/csv")))),
)]
pub async fn report(
    State(state): State<AdminState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (query, format) = UsageParameters::read(query.as_deref().unwrap_or_default(), &["json", "csv"])?;
    if !query.group_by.is_empty() {
        let message = "a report is by route and arm: leave `group_by` out, or ask GET /admin/usage".into();
        return Err(ApiError::bad_query("group_by", message));
    }
    let recorder = state.store.recorder();
    let rows = blocking(move || state.store.arms(&query.filter)).await?;
    if format == "csv" {
        return Ok(([(header::CONTENT_TYPE, CSV)], table(&rows)).into_response());
    }
    let rows: Vec<Value> = rows.iter().map(object).collect();
    Ok(Json(json!({ "rows": rows, "lost_records": recorder.lost() })).into_response())
}

fn object(row: &ArmRow) -> Value {
    let score = |score: &ScoreTotals| (score.name.clone(), Map::from_iter(score_columns(score)).into());
    let mut object = Map::from_iter(columns(row).map(|(name, value)| (name.to_owned(), value)));
    object.insert("scores".into(), row.scores.iter().map(score).collect::<Map<_, _>>().into());
    object.into()
}

/// Every row has the columns of every score: `score:NAME:count` and so on.
fn table(rows: &[ArmRow]) -> Vec<u8> {
    let names: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.scores.iter().map(|score| score.name.as_str())).collect();
    let none = ScoreTotals { name: String::new(), count: 0, mean: 0.0, standard_error: None };
    let own = columns(&ArmRow::default()).into_iter().map(|(name, _)| name.to_owned());
    let of_score = |name: &&str| score_columns(&none).map(|(column, _)| format!("score:{name}:{column}"));
    let head: Vec<String> = own.chain(names.iter().flat_map(of_score)).collect();
    let cell = |value: Value| match value {
        Value::Null => String::new(),
        Value::String(text) => spreadsheet_safe(&text),
        other => other.to_string(),
    };
    let line = |row: &ArmRow| {
        let scores = names.iter().flat_map(|name| {
            let score = row.scores.iter().find(|score| score.name == *name);
            score_columns(score.unwrap_or(&none))
                .map(|(_, value)| if score.is_some() { value } else { Value::Null })
        });
        columns(row).into_iter().map(|(_, value)| value).chain(scores).map(cell).collect()
    };
    csv([head].into_iter().chain(rows.iter().map(line)))
}

fn score_columns(score: &ScoreTotals) -> [(String, Value); 3] {
    [
        ("count".into(), score.count.into()),
        ("mean".into(), score.mean.into()),
        ("standard_error".into(), score.standard_error.into()),
    ]
}

fn columns(row: &ArmRow) -> [(&'static str, Value); 21] {
    let each = |sum: f64| sum / row.requests.max(1) as f64;
    [
        ("route", row.route.as_str().into()),
        ("arm", row.arm.as_str().into()),
        ("requests", row.requests.into()),
        ("completed", row.completed.into()),
        ("cancelled", row.cancelled.into()),
        ("failed", row.failed.into()),
        ("error_rate", each(row.failed as f64).into()),
        ("attempts", row.attempts.into()),
        ("failed_attempts", row.failed_attempts.into()),
        ("input_tokens", row.input_tokens.into()),
        ("cached_tokens", row.cached_tokens.into()),
        ("output_tokens", row.output_tokens.into()),
        ("cost", row.cost.into()),
        ("cost_mean", each(row.cost).into()),
        ("latency_ms_mean", row.latency_ms.mean.into()),
        ("latency_ms_p50", row.latency_ms.p50.into()),
        ("latency_ms_p95", row.latency_ms.p95.into()),
        ("ttft_ms_mean", row.ttft_ms.mean.into()),
        ("ttft_ms_p50", row.ttft_ms.p50.into()),
        ("ttft_ms_p95", row.ttft_ms.p95.into()),
        ("flagged", row.flagged.into()),
    ]
}
