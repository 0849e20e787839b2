//! What a failed attempt with a target means for its request.

use crate::gateway::chat::UpstreamError;
use crate::gateway::ledger::observe::quoted;
use crate::gateway::wire::error::ApiError;
use axum::http::StatusCode;

/// What a failed attempt means for the request.
#[derive(Clone, Debug)]
pub struct Failure {
    /// For the caller, when nothing else is tried.
    pub error: ApiError,
    /// What may help.
    pub then: Then,
}

/// What may help after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing: the request itself is at fault.
    Report,
    /// The same target again, after as long as the error's `retry_after_s` says.
    Retry,
    /// Another target only.
    Next,
}

impl Failure {
    /// Of a request that no target would take.
    pub fn report(error: impl Into<ApiError>) -> Self {
        Self { error: error.into(), then: Then::Report }
    }

    /// An error that a provider told of.
    pub fn of_upstream(provider: &str, told: UpstreamError) -> Self {
        let error = |status, message: &str| ApiError::upstream(provider, status, message);
        match told.status {
            // Another model may hold more.
            400..=499 if told.is_context_length() => {
                let code = Some("context_length_exceeded");
                Self::next(ApiError {
                    code,
                    ..error(StatusCode::BAD_REQUEST, &told.message).invalid_request()
                })
            }
            status @ (400 | 413 | 422) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
                let error = error(status, &told.message).invalid_request();
                Self { error: ApiError { param: told.param, ..error }, then: Then::Report }
            }
            408 | 409 | 425 | 429 | 500..=599 => {
                let status = match told.status {
                    429 => StatusCode::TOO_MANY_REQUESTS,
                    503 | 529 => StatusCode::SERVICE_UNAVAILABLE,
                    408 | 504 => StatusCode::GATEWAY_TIMEOUT,
                    _ => StatusCode::BAD_GATEWAY,
                };
                let retry_after_s = told.retry_after.map(|after| after.as_secs().clamp(1, 3600) as u32);
                let error = ApiError { retry_after_s, ..error(status, &told.message) };
                Self { error, then: Then::Retry }
            }
            // What it says of our key is for the log: providers repeat its ends.
            401 | 403 => {
                let reason = quoted(&told.message);
                tracing::warn!(
                    provider,
                    status = told.status,
                    reason,
                    "a provider refused this server's key"
                );
                let message =
                    format!("it refused this server's key (status {}); the log says more", told.status);
                Self::next(error(StatusCode::BAD_GATEWAY, &message))
            }
            // Its credit or its name for the model: nothing that the caller can mend.
            other => {
                let message = format!("it answered {other}: {}", told.message);
                Self::next(error(StatusCode::BAD_GATEWAY, &message))
            }
        }
    }

    /// Of a target that may take the request in a moment.
    pub fn retry(error: ApiError) -> Self {
        Self { error, then: Then::Retry }
    }

    /// Of a request that another target may take.
    pub fn next(error: impl Into<ApiError>) -> Self {
        Self { error: error.into(), then: Then::Next }
    }
}
