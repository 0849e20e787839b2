//! The errors of an operation: which statuses there are, and for each an example as callers get it.

use crate::gateway::chat::Dialect;
use crate::gateway::chat::openai::field_type::reference;
use crate::gateway::ledger::auth::{self, AuthError};
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::BadField;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// Of what is answered by models.
const OF_ANSWERS: &[u16] = &[400, 401, 402, 403, 404, 408, 413, 415, 429, 500, 502, 503, 504];
/// Of other requests with a body.
const OF_BODIES: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504];
const OF_QUESTIONS: &[u16] = &[400, 401, 403, 404, 500, 503];
const OF_ADMIN: &[u16] = &[400, 401, 403, 404, 409, 413, 415, 500, 503];
/// Of what needs no key.
const OF_OPEN: &[u16] = &[403, 503];

/// Adds the errors to an operation at this path.
pub fn add(path: &str, operation: &mut Value) {
    let is_answer = operation["responses"]["200"]["content"].get("text/event-stream").is_some()
        || ["/count_tokens", "/embeddings", "/rerank", "/score"].iter().any(|end| path.ends_with(end));
    let statuses = match path {
        "/docs/{file}" => &[403, 404, 503],
        path if auth::is_open(path) => OF_OPEN,
        path if path.starts_with("/admin/") => OF_ADMIN,
        _ if is_answer => OF_ANSWERS,
        _ if operation.get("requestBody").is_some() => OF_BODIES,
        _ => OF_QUESTIONS,
    };
    let is_anthropic = path.starts_with("/v1/messages");
    let dialect = if is_anthropic { Dialect::Anthropic } else { Dialect::OpenAi };
    for status in statuses {
        let (what, error) = example(*status);
        let mut schema = reference(if is_anthropic { "MessagesError" } else { "Error" });
        if path == "/v1/scores" {
            // Below /anthropic errors are Anthropic's.
            schema = json!({"oneOf": [schema, reference("MessagesError")]});
        } else if *status == 503 && (path == "/health" || path == "/readyz") {
            schema = json!({"oneOf": [reference("Health"), schema]});
        }
        let written: Value = serde_json::from_str(&error.in_dialect(dialect, "req-1")).expect("it is JSON");
        let mut response = json!({
            "description": what,
            "content": {"application/json": {"schema": schema, "example": written}},
        });
        if matches!(status, 429 | 503) {
            let seconds = json!({"type": "integer", "minimum": 0});
            let about = "Seconds, where waiting helps.";
            response["headers"] = json!({"Retry-After": {"description": about, "schema": seconds}});
        }
        operation["responses"][status.to_string()] = response;
    }
}

/// What a status says, and an error that has it.
fn example(status: u16) -> (&'static str, ApiError) {
    let of = |code, kind, message: &str| {
        let status = StatusCode::from_u16(status).expect("a status");
        ApiError::new(status, kind, Some(code), message.to_owned())
    };
    match status {
        400 => {
            let field = BadField::new("temperature", "must be between 0 and 2, got 3");
            ("The request is wrong; the message names the field", field.into())
        }
        401 => ("The key is missing, wrong, revoked or expired", AuthError::Missing.into()),
        402 => (
            "A key's credit is spent, or cannot be enough",
            of("insufficient_quota", "insufficient_quota", "the key's credit is spent"),
        ),
        403 => (
            "The key may not do this, or the request is a web page's that may not",
            ApiError::not_allowed("qwen3-8b", &["qwen3-4b".to_owned()]),
        ),
        404 => ("There is no such thing", ApiError::unknown_model("qwen3-9b", &["qwen3-8b"])),
        408 => ("The body did not come", ApiError::slow_body(Duration::from_secs(30))),
        409 => (
            "It is there already, or has changed meanwhile",
            of("conflict", "invalid_request_error", "there is a key of that name"),
        ),
        413 => ("The body is too large", ApiError::body_too_large(32 << 20)),
        415 => (
            "The body is not JSON, or packed otherwise than by gzip",
            ApiError::wrong_content_type("text/plain"),
        ),
        429 => (
            "A limit or a queue is full",
            of(
                "rate_limit_exceeded",
                "rate_limit_error",
                "the key's limit of 60 requests in a minute is reached",
            ),
        ),
        500 => (
            "The server failed; its log says more",
            of("internal_error", "server_error", "the server failed; its log says why"),
        ),
        502 => (
            "The upstream failed",
            ApiError::upstream("openrouter", StatusCode::BAD_GATEWAY, "the connection was closed"),
        ),
        503 => ("Not now", ApiError::model_loading("qwen3-8b")),
        _ => (
            "The request or its upstream took too long",
            of("timeout", "timeout_error", "the request was not done within 600 seconds"),
        ),
    }
}
