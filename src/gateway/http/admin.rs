//! The admin API: what was used, what became of it, and keys.
//!
//! `GET /admin/usage` adds up, `GET /admin/usage/export` streams records; `GET /admin/report` ([`report`])
//! compares the arms of splits, `POST /admin/scores` scores anybody's request; `POST /admin/usage/correct`
//! ([`correction`]) mends a record, and with it what its key has spent; `GET` and `POST
//! /admin/keys` list and make keys, `POST` and `DELETE /admin/keys/{name}` change and revoke one. All
//! of it needs the admin key, which is no key for models; without one configured it is off.
//!
//! [`router`] brings its own state and its own guard: it is merged beside what callers' keys guard.

pub(super) mod correction;
pub(super) mod report;
pub mod shapes;

use crate::config::Limits;
use crate::gateway::api::app::blocking;
use crate::gateway::api::scores::{self, ScoreKept};
use crate::gateway::ledger::auth::is_admin;
use crate::gateway::ledger::limit::Limiter;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::store::export::{csv, spreadsheet_safe};
use crate::store::{
    Dimension, ExportFormat, Key, KeySettings, KeyTable, Store, Totals, UsageQuery, UsageRow, now_unix_ms,
};
use axum::body::{Body, to_bytes};
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Of a request's body: a key may name a thousand models.
const BODY_BYTES_MAX: usize = 256 << 10;
const CSV: &str = "text/csv; charset=utf-8";
const LIMITS: [&str; 5] =
    ["requests_per_minute", "tokens_per_minute", "concurrency", "dollars_per_day", "dollars_per_month"];

/// What the admin API works with.
#[derive(Clone)]
pub struct AdminState {
    /// Keys and usage.
    pub store: Arc<Store>,
    /// Counts what keys and models have spent.
    pub limiter: Arc<Limiter>,
    /// SHA-256 of the admin key; None: the API is off.
    pub admin_key_sha256: Option<[u8; 32]>,
}

/// The routes below `/admin`, guarded by the admin key.
pub fn router<S: Clone + Send + Sync + 'static>(state: AdminState) -> axum::Router<S> {
    axum::Router::new()
        .route("/admin/usage", get(usage))
        .route("/admin/usage/export", get(export))
        .route("/admin/usage/correct", post(correction::correct))
        .route("/admin/report", get(report::report))
        .route("/admin/scores", post(score))
        .route("/admin/keys", get(list).post(create))
        .route("/admin/keys/{name}", post(change).delete(revoke))
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::wrong_method(request.method().as_str(), request.uri().path())
        })
        .route_layer(from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

async fn guard(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    match may_pass(&state, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn may_pass(state: &AdminState, headers: &HeaderMap) -> Result<(), ApiError> {
    let admin = state.admin_key_sha256.ok_or_else(ApiError::admin_off)?;
    if is_admin(headers, Some(&admin)) { Ok(()) } else { Err(ApiError::not_admin()) }
}

/// `GET /admin/usage?group_by=key,model&from=2026-01-01&to=...&format=json|csv`, and any dimension as
/// a filter: `model=...`.
#[utoipa::path(
    get,
    path = "/admin/usage",
    tag = "Admin",
    operation_id = "getUsage",
    summary = "What was used, added up",
    description = "Of the admin API, which needs a store (`server.store`; without one its paths are 404) and an admin key (`server.admin_key_env`; without one they are 403 `admin_off`).",
    params(("group_by" = Option<String>, Query, description = "Dimensions, with commas between them: key, model, provider, route, status, day, tag:NAME and others"), ("from" = Option<String>, Query, description = "2026-01-31, RFC 3339 in UTC, or milliseconds since 1970"), ("to" = Option<String>, Query, description = "The same"), ("key" = Option<String>, Query, description = "Only this key's; so with every dimension"), ("model" = Option<String>, Query, description = "Only this model's"), ("format" = Option<String>, Query, description = "json or csv")),
    responses((status = 200, description = "The answer", content((shapes::Usage = "application/json"), (String = "text/csv")))),
)]
pub(super) async fn usage(
    State(state): State<AdminState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (query, format) = UsageParameters::read(query.as_deref().unwrap_or_default(), &["json", "csv"])?;
    let recorder = state.store.recorder();
    let (rows, query) = blocking(move || Ok((state.store.usage(&query)?, query))).await?;
    let names: Vec<String> = query.group_by.iter().map(Dimension::name).collect();
    if format == "csv" {
        return Ok(([(header::CONTENT_TYPE, CSV)], usage_csv(&names, &rows)).into_response());
    }
    let rows: Vec<Value> = rows.iter().map(|row| usage_json(&names, row)).collect();
    let answer = json!({ "group_by": names, "rows": rows, "lost_records": recorder.lost() });
    Ok(Json(answer).into_response())
}

/// `GET /admin/usage/export?format=jsonl|csv`, with the same range and filters. The answer ends early,
/// as a broken transfer, where the store fails.
#[utoipa::path(
    get,
    path = "/admin/usage/export",
    tag = "Admin",
    operation_id = "exportUsage",
    summary = "Single records of usage",
    description = "Of the admin API, which needs a store (`server.store`; without one its paths are 404) and an admin key (`server.admin_key_env`; without one they are 403 `admin_off`).",
    params(("from" = Option<String>, Query, description = "2026-01-31, RFC 3339 in UTC, or milliseconds since 1970"), ("to" = Option<String>, Query, description = "The same"), ("key" = Option<String>, Query, description = "Only this key's; so with every dimension"), ("model" = Option<String>, Query, description = "Only this model's"), ("format" = Option<String>, Query, description = "jsonl or csv")),
    responses((status = 200, description = "The answer", content((String = "application/x-ndjson"), (String = "text/csv")))),
)]
pub(super) async fn export(
    State(state): State<AdminState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (query, format) = UsageParameters::read(query.as_deref().unwrap_or_default(), &["jsonl", "csv"])?;
    if !query.group_by.is_empty() {
        let message = "an export has single records: leave `group_by` out, or ask GET /admin/usage".into();
        return Err(ApiError::bad_query("group_by", message));
    }
    let (format, kind, name) = match format {
        "csv" => (ExportFormat::Csv, CSV, "attachment; filename=\"usage.csv\""),
        _ => (ExportFormat::Jsonl, "application/x-ndjson", "attachment; filename=\"usage.jsonl\""),
    };
    let records = blocking(move || state.store.records(query.filter)).await?;
    let pages = stream::try_unfold((Some(records), format.head()), move |(records, head)| async move {
        let Some(mut records) = records else { return Ok(None) };
        if !head.is_empty() {
            return Ok(Some((head, (Some(records), Vec::new()))));
        }
        let (page, records) = blocking(move || Ok((records.page()?, records))).await.map_err(into_io)?;
        let next = if page.is_empty() { None } else { Some(records) };
        Ok::<_, std::io::Error>(Some((format.encode(&page), (next, Vec::new()))))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static(name)),
    ];
    Ok((headers, Body::from_stream(pages)).into_response())
}

fn into_io(error: ApiError) -> std::io::Error {
    std::io::Error::other(error.message)
}

/// `POST /admin/scores`: as `POST /v1/scores`, with the name of the key that has made the request.
#[utoipa::path(
    post,
    path = "/admin/scores",
    tag = "Admin",
    operation_id = "createScoreOfKey",
    summary = "Scores an answer to anybody",
    description = "Of the admin API, which needs a store (`server.store`; without one its paths are 404) and an admin key (`server.admin_key_env`; without one they are 403 `admin_off`).",
    request_body(content = shapes::AdminScore, example = json!({"key": "", "request_id": "req-1", "name": "quality", "value": 0.5})),
    responses((status = 200, description = "The answer", body = ScoreKept)),
)]
pub(super) async fn score(
    State(state): State<AdminState>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = body(request).await?;
    let fields = Fields::root(&body)?;
    let key = fields.required_str("key", "the name of the request's key; empty: it has none")?.to_owned();
    let (score, mut answer) = scores::read(&fields, &["key"])?;
    answer["key"] = key.as_str().into();
    scores::keep(state.store, key, score).await?;
    Ok(Json(answer))
}

/// `GET /admin/keys`.
#[utoipa::path(
    get,
    path = "/admin/keys",
    tag = "Admin",
    operation_id = "listKeys",
    summary = "The keys of the store",
    description = "Of the admin API, which needs a store (`server.store`; without one its paths are 404) and an admin key (`server.admin_key_env`; without one they are 403 `admin_off`).",
    responses((status = 200, description = "The answer", body = shapes::Keys)),
)]
pub(super) async fn list(State(state): State<AdminState>) -> Json<Value> {
    let table = state.store.keys();
    let now = now_unix_ms();
    let keys: Vec<Value> = table.all().iter().map(|key| key_json(key, &table, now)).collect();
    Json(json!({ "keys": keys }))
}

/// `POST /admin/keys`: the only answer that has the key's text.
#[utoipa::path(
    post,
    path = "/admin/keys",
    tag = "Admin",
    operation_id = "createKey",
    summary = "Makes a key",
    description = "Of the admin API, which needs a store (`server.store`; without one its paths are 404) and an admin key (`server.admin_key_env`; without one they are 403 `admin_off`). The only answer that has the key's text.",
    request_body(content = shapes::NewKey, example = json!({"name": "team-a", "limits": {"requests_per_minute": 60}, "credit": 20})),
    responses((status = 201, description = "The answer", body = shapes::Key)),
)]
pub(super) async fn create(State(state): State<AdminState>, request: Request) -> Result<Response, ApiError> {
    let body = body(request).await?;
    let fields = Fields::root(&body)?;
    let name = fields.required_str("name", "a name for the key")?.to_owned();
    let mut settings = KeySettings::default();
    apply(&fields, &["name"], &mut settings)?;
    let answer = blocking(move || {
        let (key, text) = state.store.create_key(&name, settings)?;
        let mut answer = key_json(&key, &state.store.keys(), now_unix_ms());
        answer["key"] = text.into();
        Ok(answer)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `POST /admin/keys/{name}`: changes what the body names; null takes a bound away.
#[utoipa::path(
    post,
    path = "/admin/keys/{name}",
    tag = "Admin",
    operation_id = "changeKey",
    summary = "Changes what the body names",
    description = "Of the admin API, which needs a store (`server.store`; without one its paths are 404) and an admin key (`server.admin_key_env`; without one they are 403 `admin_off`). null takes a bound away.",
    params(("name" = String, Path, description = "The key's name")),
    request_body(content = shapes::KeyChange, example = json!({"add_credit": 5})),
    responses((status = 200, description = "The answer", body = shapes::Key)),
)]
pub(super) async fn change(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = body(request).await?;
    // Once to tell mistakes by their field, before anything is locked.
    apply(&Fields::root(&body)?, &[], &mut KeySettings::default())?;
    let answer = blocking(move || {
        let key = state.store.change_key(&name, |settings| {
            let fields = Fields::root(&body).map_err(|error| error.to_string())?;
            apply(&fields, &[], settings).map_err(|error| error.to_string())
        })?;
        Ok(key_json(&key, &state.store.keys(), now_unix_ms()))
    });
    Ok(Json(answer.await?))
}

/// `DELETE /admin/keys/{name}`.
#[utoipa::path(
    delete,
    path = "/admin/keys/{name}",
    tag = "Admin",
    operation_id = "revokeKey",
    summary = "Revokes a key",
    description = "Of the admin API, which needs a store (`server.store`; without one its paths are 404) and an admin key (`server.admin_key_env`; without one they are 403 `admin_off`).",
    params(("name" = String, Path, description = "The key's name")),
    responses((status = 200, description = "The answer", body = shapes::Key)),
)]
pub(super) async fn revoke(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let answer = blocking(move || {
        let key = state.store.revoke_key(&name)?;
        Ok(key_json(&key, &state.store.keys(), now_unix_ms()))
    });
    Ok(Json(answer.await?))
}

async fn body(request: Request) -> Result<Value, ApiError> {
    let bytes = to_bytes(request.into_body(), BODY_BYTES_MAX)
        .await
        .map_err(|_| ApiError::body_too_large(BODY_BYTES_MAX))?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::malformed_json(&error))
}

/// Sets what the body's fields say. A field that is null is set to nothing; one that is absent stays.
fn apply(fields: &Fields, besides: &[&str], settings: &mut KeySettings) -> Result<(), BadField> {
    const KNOWN: [&str; 5] = ["models", "limits", "credit", "add_credit", "expires_at"];
    let unknown = |fields: &Fields, known: &[&str]| {
        let unknown = fields.map().keys().find(|name| !known.contains(&name.as_str()))?;
        Some(BadField::unsupported(
            fields.path(unknown),
            format!("is not known; there are {}", known.join(", ")),
        ))
    };
    if let Some(error) = unknown(fields, &[besides, KNOWN.as_slice()].concat()) {
        return Err(error);
    }
    let is_given = |name: &str| fields.map().contains_key(name);
    if is_given("models") {
        // null: all; an empty list: none.
        let names = fields.array("models")?;
        let text = |(at, name): (usize, &Value)| {
            let wrong = || BadField::new(format!("models[{at}]"), "must be a model's name");
            name.as_str().map(str::to_owned).ok_or_else(wrong)
        };
        let names = names.map(|names| names.iter().enumerate().map(text).collect::<Result<_, _>>());
        settings.models = names.transpose()?;
    }
    if is_given("limits") {
        settings.limits = match fields.object("limits")? {
            None => None,
            Some(own) => {
                if let Some(error) = unknown(&own, &LIMITS) {
                    return Err(error);
                }
                let count = |name| own.integer(name, 1, i64::MAX).map(|number| number.map(|n| n as u64));
                Some(Limits {
                    requests_per_minute: count("requests_per_minute")?,
                    tokens_per_minute: count("tokens_per_minute")?,
                    concurrency: count("concurrency")?,
                    dollars_per_day: dollars(&own, "dollars_per_day")?,
                    dollars_per_month: dollars(&own, "dollars_per_month")?,
                })
            }
        };
    }
    if is_given("credit") {
        settings.credit = dollars(fields, "credit")?;
    }
    if let Some(more) = dollars(fields, "add_credit")? {
        settings.credit = Some(settings.credit.unwrap_or(0.0) + more);
    }
    if is_given("expires_at") {
        let time = fields.str("expires_at")?.map(parse_time).transpose();
        settings.expires_unix_ms = time.map_err(|reason| BadField::new("expires_at", reason))?;
    }
    Ok(())
}

fn dollars(fields: &Fields, name: &str) -> Result<Option<f64>, BadField> {
    let number = |value: &Value| {
        value.as_f64().ok_or_else(|| BadField::new(fields.path(name), "must be a number of dollars"))
    };
    fields.get(name).map(number).transpose()
}

/// A key as the API and `novastack keys list --json` show it.
pub fn key_json(key: &Key, table: &KeyTable, now_unix_ms: u64) -> Value {
    let settings = &key.settings;
    let limits = settings.limits.map(|limits| {
        let bounds = [
            limits.requests_per_minute.map(Value::from),
            limits.tokens_per_minute.map(Value::from),
            limits.concurrency.map(Value::from),
            limits.dollars_per_day.map(Value::from),
            limits.dollars_per_month.map(Value::from),
        ];
        let bounds = LIMITS.iter().zip(bounds);
        bounds.filter_map(|(name, bound)| Some((name.to_string(), bound?))).collect::<Map<_, _>>()
    });
    let spent = table.spent(&key.name);
    json!({
        "name": key.name,
        "prefix": key.prefix,
        "is_accepted": key.check(now_unix_ms).is_ok(),
        "models": settings.models,
        "limits": limits,
        "credit": settings.credit,
        "spent": spent,
        "created_at": time(key.created_unix_ms),
        "expires_at": settings.expires_unix_ms.map(time),
        "revoked_at": key.revoked_unix_ms.map(time),
    })
}

fn usage_json(names: &[String], row: &UsageRow) -> Value {
    let mut object: Map<String, Value> =
        names.iter().cloned().zip(row.group.iter().map(|value| value.clone().into())).collect();
    object.extend(columns(&row.totals).map(|(name, value)| (name.to_owned(), value)));
    object.into()
}

fn usage_csv(names: &[String], rows: &[UsageRow]) -> Vec<u8> {
    let columns_head = columns(&Totals::default()).map(|(name, _)| name.to_owned());
    let head = names.iter().map(|name| spreadsheet_safe(name)).chain(columns_head).collect();
    let line = |row: &UsageRow| {
        let group = row.group.iter().map(|value| spreadsheet_safe(value.as_deref().unwrap_or_default()));
        let cell =
            |(_, value): (&str, Value)| if value.is_null() { String::new() } else { value.to_string() };
        group.chain(columns(&row.totals).map(cell)).collect()
    };
    csv([head].into_iter().chain(rows.iter().map(line)))
}

fn columns(totals: &Totals) -> [(&'static str, Value); 14] {
    [
        ("requests", totals.requests.into()),
        ("attempts", totals.attempts.into()),
        ("errors", totals.errors.into()),
        ("cancelled", totals.cancelled.into()),
        ("estimated", totals.estimated.into()),
        ("input_tokens", totals.input_tokens.into()),
        ("cached_tokens", totals.cached_tokens.into()),
        ("output_tokens", totals.output_tokens.into()),
        ("cost", totals.cost.into()),
        ("latency_ms_p50", totals.latency_ms_p50.into()),
        ("latency_ms_p95", totals.latency_ms_p95.into()),
        ("ttft_ms_p50", totals.ttft_ms_p50.into()),
        ("ttft_ms_p95", totals.ttft_ms_p95.into()),
        ("flagged", totals.flagged.into()),
    ]
}

/// Reads the query of the usage endpoints and of the report.
struct UsageParameters;

impl UsageParameters {
    /// The question, and one of the formats, by default the first.
    fn read<'f>(text: &str, formats: &[&'f str]) -> Result<(UsageQuery, &'f str), ApiError> {
        let mut query = UsageQuery::default();
        let mut format = formats[0];
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            let bad = |message: String| ApiError::bad_query(&name, message);
            match name.as_ref() {
                "group_by" => {
                    for dimension in value.split(',').filter(|dimension| !dimension.is_empty()) {
                        query.group_by.push(Dimension::parse(dimension).map_err(bad)?);
                    }
                }
                "from" => query.filter.from_unix_ms = Some(parse_time(&value).map_err(bad)?),
                "to" => query.filter.to_unix_ms = Some(parse_time(&value).map_err(bad)?),
                "format" => {
                    let known = formats.iter().find(|format| **format == value);
                    format = known.ok_or_else(|| bad(format!("`format` is {}", formats.join(" or "))))?;
                }
                _ => {
                    let dimension = Dimension::parse(&name).map_err(|reason| {
                        bad(format!("{reason}; beside them group_by, from, to and format"))
                    })?;
                    query.filter.equal.push((dimension, value.into_owned()));
                }
            }
        }
        Ok((query, format))
    }
}

/// A moment: `2026-01-31` (its begin, in UTC), RFC 3339 in UTC, or milliseconds since 1970.
fn parse_time(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "a time is 2026-01-31, 2026-01-31T12:00:00Z or milliseconds since 1970, not `{}`",
            text.chars().take(40).collect::<String>().escape_debug()
        )
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    let whole = if text.len() == "2026-01-31".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = humantime::parse_rfc3339(&whole).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    u64::try_from(since.as_millis()).map_err(|_| wrong())
}

fn time(unix_ms: u64) -> String {
    crate::store::export::time(unix_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    #[test]
    fn times_have_three_spellings() {
        assert_eq!(parse_time("1970-01-02"), Ok(DAY_MS));
        assert_eq!(parse_time("1970-01-02T00:00:01.5Z"), Ok(DAY_MS + 1500));
        assert_eq!(parse_time("1767225600000"), Ok(1_767_225_600_000));
        for bad in ["", "yesterday", "2026-13-01", "2026-02-30", "2026-01-01T25:00:00Z", "1969-12-31", "-5"] {
            assert!(parse_time(bad).unwrap_err().contains("2026-01-31T12:00:00Z"), "{bad}");
        }
        assert!(parse_time("99999999999999999999999").is_err());
    }

    #[test]
    fn parameters_are_known_or_refused() {
        let (query, format) = UsageParameters::read(
            "group_by=key,tag:team&from=1970-01-02&model=a%2Fb&format=csv",
            &["json", "csv"],
        )
        .unwrap();
        assert_eq!(query.group_by, [Dimension::Key, Dimension::Tag("team".into())]);
        assert_eq!(query.filter.from_unix_ms, Some(DAY_MS));
        assert_eq!(query.filter.equal, [(Dimension::Model, "a/b".to_owned())]);
        assert_eq!(format, "csv");
        for (bad, param) in [
            ("group_by=colour", "group_by"),
            ("form=csv", "form"),
            ("to=noon", "to"),
            ("format=xml", "format"),
        ] {
            let error = UsageParameters::read(bad, &["json"]).unwrap_err();
            assert_eq!((error.status, error.param.as_deref()), (StatusCode::BAD_REQUEST, Some(param)));
        }
    }

    #[test]
    fn fields_change_what_they_name() {
        let mut settings =
            KeySettings { models: Some(vec!["a".into()]), credit: Some(5.0), ..Default::default() };
        let mut set =
            |body: Value| apply(&Fields::root(&body).unwrap(), &[], &mut settings).map(|()| settings.clone());
        let after = set(json!({ "add_credit": 2.5, "limits": { "concurrency": 3 } })).unwrap();
        assert_eq!((after.credit, after.models), (Some(7.5), Some(vec!["a".into()])));
        assert_eq!(after.limits, Some(Limits { concurrency: Some(3), ..Limits::default() }));
        assert_eq!(set(json!({ "models": [] })).unwrap().models, Some(Vec::new()));
        let after = set(json!({ "models": null, "limits": null, "credit": null })).unwrap();
        assert_eq!(after, KeySettings::default());
        for (bad, param) in [
            (json!({ "limits": { "rpm": 3 } }), "limits.rpm"),
            (json!({ "limits": { "concurrency": 0 } }), "limits.concurrency"),
            (json!({ "credits": 3 }), "credits"),
            (json!({ "models": [3] }), "models[0]"),
            (json!({ "credit": "3" }), "credit"),
            (json!({ "expires_at": "soon" }), "expires_at"),
        ] {
            assert_eq!(set(bad).unwrap_err().param, param);
        }
    }
}
