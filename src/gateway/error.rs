//! The only map from errors to HTTP. Callers see OpenAI's shape,
//! `{"error": {"message", "type", "param", "code"}}`, or Anthropic's where they speak it; what a caller
//! must not see goes to the log. Secrets go nowhere ([`crate::secrets`]).

use super::auth::AuthError;
use super::dialect::{Dialect, anthropic_error};
use super::limit::{Refusal, States};
use super::local::LocalError;
use super::openai::fields::BadField;
use super::request_memory::Shortage;
use crate::engine::handle::SubmitError;
use crate::secrets;
use crate::store::StoreError;
use crate::text::TextError;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;

/// Seconds after which a full queue is worth another try.
const RETRY_QUEUE_S: u32 = 1;
/// Seconds after which a server that starts or stops is worth another try.
const RETRY_STARTING_S: u32 = 5;
/// Of a header's value that a message repeats.
const HEADER_CHARS_MAX: usize = 200;

/// An error as a caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// OpenAI's error type.
    pub kind: &'static str,
    /// For people.
    pub message: String,
    /// The field at fault: a JSON path such as `messages[2].content`.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<&'static str>,
    /// Seconds for the `Retry-After` header.
    pub retry_after_s: Option<u32>,
    /// How the caller's limits stand.
    pub limits: Option<Box<States>>,
}

#[derive(Serialize)]
struct WireError<'a> {
    error: WireErrorBody<'a>,
}

#[derive(Serialize)]
struct WireErrorBody<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: String) -> Self {
        Self { status, kind, message, param: None, code, retry_after_s: None, limits: None }
    }

    fn invalid(status: StatusCode, code: Option<&'static str>, message: String) -> Self {
        Self::new(status, "invalid_request_error", code, message)
    }

    fn unavailable(code: &'static str, message: String) -> Self {
        Self {
            retry_after_s: Some(RETRY_STARTING_S),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some(code), message)
        }
    }

    /// Names the field at fault, unless one is named already.
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param.get_or_insert_with(|| param.into());
        self
    }

    /// 400: the body is not JSON. The message has line and column.
    pub fn malformed_json(error: &serde_json::Error) -> Self {
        Self::invalid(
            StatusCode::BAD_REQUEST,
            Some("invalid_json"),
            format!("the body is not valid JSON: {error}"),
        )
    }

    /// 400: the body could not be read to its end.
    pub fn unreadable_body(reason: &str) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, Some("invalid_body"), reason.to_owned())
    }

    /// 413.
    pub fn body_too_large(bytes_max: usize) -> Self {
        Self::invalid(
            StatusCode::PAYLOAD_TOO_LARGE,
            Some("body_too_large"),
            format!("the body is larger than the limit of {bytes_max} bytes"),
        )
    }

    /// 408: a body that does not come.
    pub fn slow_body(silence: Duration) -> Self {
        let message = format!("nothing of the body came for {} seconds", silence.as_secs());
        Self::invalid(StatusCode::REQUEST_TIMEOUT, Some("body_timeout"), message)
    }

    /// 415.
    pub fn wrong_content_type(got: &str) -> Self {
        Self::invalid(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Some("unsupported_media_type"),
            format!("the body must be sent as `Content-Type: application/json`, got {}", shown(got)),
        )
    }

    /// 403: a web page's request.
    pub fn foreign_origin(origin: &str) -> Self {
        let message = format!(
            "web pages of {} may not call this server: `novastack serve --cors-origin` names those that may",
            shown(origin)
        );
        Self::new(StatusCode::FORBIDDEN, "permission_error", Some("origin_not_allowed"), message)
    }

    /// 403: a request for another server.
    pub fn foreign_host(host: &str) -> Self {
        let message = format!(
            "this server asks for no keys, so it answers only under its own names, and {} is none of them: \
             `novastack serve --allowed-host` names more, and with API keys any will do",
            shown(host)
        );
        Self::new(StatusCode::FORBIDDEN, "permission_error", Some("host_not_allowed"), message)
    }

    /// 415: packed in a way that is not taken.
    pub fn wrong_content_encoding(got: &str) -> Self {
        Self::invalid(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Some("unsupported_content_encoding"),
            format!("the body must be sent as it is, or with `Content-Encoding: gzip`, got `{got}`"),
        )
    }

    /// 404: no such path.
    pub fn unknown_path(method: &str, path: &str) -> Self {
        Self::invalid(
            StatusCode::NOT_FOUND,
            Some("unknown_url"),
            format!("there is no {method} {path}; see GET /v1/models, POST /v1/chat/completions"),
        )
    }

    /// 405.
    pub fn wrong_method(method: &str, path: &str) -> Self {
        Self::invalid(
            StatusCode::METHOD_NOT_ALLOWED,
            Some("method_not_allowed"),
            format!("{path} does not take {method}"),
        )
    }

    /// 404: no such model.
    pub fn unknown_model(name: &str, served: &[&str]) -> Self {
        let message = format!("the model `{name}` does not exist; served: {}", served.join(", "));
        Self::invalid(StatusCode::NOT_FOUND, Some("model_not_found"), message).at("model")
    }

    /// 503: the model is not loaded yet.
    pub fn model_loading(name: &str) -> Self {
        Self::unavailable("model_loading", format!("the model `{name}` is still loading")).at("model")
    }

    /// 503: the model could not be loaded. Why is its operator's to know: reasons name files.
    pub fn model_failed(name: &str, reason: &str) -> Self {
        let message = format!("the model `{name}` {reason}");
        Self { retry_after_s: None, ..Self::unavailable("model_failed", message) }.at("model")
    }

    /// An upstream's failure, under its name in the configuration.
    pub fn upstream(provider: &str, status: StatusCode, message: &str) -> Self {
        let (kind, code) = match status {
            StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", "upstream_busy"),
            StatusCode::GATEWAY_TIMEOUT => ("timeout_error", "upstream_timeout"),
            _ => ("server_error", "upstream_error"),
        };
        Self::new(status, kind, Some(code), format!("provider {provider}: {message}"))
    }

    /// 502: an answer that cannot be told in the caller's dialect.
    pub fn upstream_answer(message: &str) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "server_error", Some("upstream_error"), message.to_owned())
    }

    /// It is the request that is wrong.
    pub fn invalid_request(mut self) -> Self {
        (self.kind, self.code) = ("invalid_request_error", Some("invalid_request"));
        self
    }

    /// 503: a target has failed so often that it is left out for a while.
    pub fn resting(name: &str, rest: Duration) -> Self {
        let message = format!("the model `{name}` has failed repeatedly and is left out for a moment");
        Self { retry_after_s: Some(rest.as_secs() as u32), ..Self::unavailable("model_resting", message) }
            .at("model")
    }

    /// 429: over a limit.
    pub fn over_limit(refusal: &Refusal) -> Self {
        let kind = match refusal.kind.code() {
            "insufficient_quota" => "insufficient_quota",
            _ => "rate_limit_error",
        };
        Self {
            retry_after_s: refusal.retry_after_s(),
            limits: Some(Box::new(refusal.states)),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                kind,
                Some(refusal.kind.code()),
                refusal.message.clone(),
            )
        }
    }

    /// 403: the key is not for this model.
    pub fn not_allowed(name: &str, allowed: &[String]) -> Self {
        let allowed = if allowed.is_empty() { "no model".into() } else { allowed.join(", ") };
        let message = format!("this key is not for the model `{name}`; it is for {allowed}");
        Self::new(StatusCode::FORBIDDEN, "permission_error", Some("model_not_allowed"), message).at("model")
    }

    /// 400: no rule leads anywhere.
    pub fn no_route(message: &str) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, Some("no_route"), message.to_owned()).at("model")
    }

    /// 400: a model of an upstream, where only our own can serve.
    pub fn not_local(name: &str) -> Self {
        let message = format!(
            "the model `{name}` is served by an upstream: only chat completions and messages reach it"
        );
        Self::invalid(StatusCode::BAD_REQUEST, Some("model_not_local"), message).at("model")
    }

    /// 403: what is known of all tenants together.
    pub fn not_operator() -> Self {
        let message = "the server's metrics are its operator's: where there are several keys they are read with the \
                       admin key (`server.admin_key_env` in novastack.yaml)";
        Self::new(StatusCode::FORBIDDEN, "permission_error", Some("not_operator"), message.into())
    }

    /// 403: nobody may administer.
    pub fn admin_off() -> Self {
        let message = "the admin API is off: set `server.admin_key_env` in novastack.yaml, and that \
                       environment variable to a key";
        Self::new(StatusCode::FORBIDDEN, "permission_error", Some("admin_off"), message.into())
    }

    /// 401: not the admin key.
    pub fn not_admin() -> Self {
        let message = "the admin key is needed: send it as `Authorization: Bearer KEY`";
        Self::invalid(StatusCode::UNAUTHORIZED, Some("invalid_admin_key"), message.into())
    }

    /// 404: nothing is kept here.
    pub fn no_store() -> Self {
        let message = "this server keeps no scores: set `server.store` in novastack.yaml";
        Self::invalid(StatusCode::NOT_FOUND, Some("no_store"), message.into())
    }

    /// 400: a parameter of the URL's query.
    pub fn bad_query(param: &str, message: String) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, Some("invalid_value"), message).at(param)
    }

    /// 503: every connection is taken, and this is one of the last, which are for other requests.
    pub fn no_connections() -> Self {
        let message = "all connections of this server are in use";
        Self { retry_after_s: Some(RETRY_QUEUE_S), ..Self::unavailable("connections_full", message.into()) }
    }

    /// 503: no new requests.
    pub fn draining() -> Self {
        Self::unavailable("shutting_down", "the server is shutting down".into())
    }

    /// 500. The reason goes to the log only.
    pub fn internal(reason: &str) -> Self {
        tracing::error!(reason, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            Some("internal_error"),
            "the server failed; its log says why".into(),
        )
    }

    /// The body in a dialect's shape; also the data of an error event in a stream.
    pub fn in_dialect(&self, dialect: Dialect, request_id: &str) -> String {
        match dialect {
            Dialect::OpenAi => self.to_json(),
            Dialect::Anthropic => {
                let message = secrets::hide(&self.message);
                anthropic_error(self.status.as_u16(), &message, Some(request_id)).to_string()
            }
        }
    }

    /// The body in OpenAI's shape.
    pub fn to_json(&self) -> String {
        let param = self.param.as_deref().map(secrets::hide);
        let body = WireErrorBody {
            message: &secrets::hide(&self.message),
            kind: self.kind,
            param: param.as_deref(),
            code: self.code,
        };
        serde_json::to_string(&WireError { error: body }).expect("strings always serialise")
    }
}

/// A header's value in a message.
fn shown(value: &str) -> String {
    match value.escape_debug().take(HEADER_CHARS_MAX).collect::<String>() {
        nothing if nothing.is_empty() => "none".into(),
        value => format!("`{value}`"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Some("unsupported_content_encoding") {
            // RFC 9110, section 12.5.3: which would be taken.
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For whoever knows that the caller speaks another dialect.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<BadField> for ApiError {
    fn from(e: BadField) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, e.code, format!("`{}` {}", e.param, e.reason)).at(e.param)
    }
}

impl From<AuthError> for ApiError {
    fn from(e: AuthError) -> Self {
        let message = match e {
            AuthError::Missing => "an API key is needed: send it as `Authorization: Bearer KEY`",
            AuthError::Wrong => "the API key is not valid",
            AuthError::Short => "the API key is not valid: keys have 16 characters or more",
            AuthError::Revoked => "the API key was revoked",
            AuthError::Expired => "the API key has expired",
        };
        Self::invalid(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), message.into())
    }
}

impl From<Shortage> for ApiError {
    fn from(e: Shortage) -> Self {
        let message = e.to_string();
        match e {
            Shortage::Now { .. } => {
                Self { retry_after_s: Some(RETRY_QUEUE_S), ..Self::unavailable("memory_full", message) }
            }
            Shortage::Ever { .. } => {
                Self::invalid(StatusCode::PAYLOAD_TOO_LARGE, Some("body_too_large"), message)
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(e: SubmitError) -> Self {
        let message = e.to_string();
        match e {
            SubmitError::QueueFull { .. } | SubmitError::Busy { .. } => Self {
                retry_after_s: Some(RETRY_QUEUE_S),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full"), message)
            },
            SubmitError::PromptTooLong { prompt_tokens, max_context } => {
                LocalError::ContextLength { prompt_tokens, max_tokens: None, max_context }.into()
            }
            SubmitError::BadToken { .. } => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("invalid_token"), message)
            }
            SubmitError::Draining => Self::draining(),
            SubmitError::Stopped(_) => {
                Self { retry_after_s: None, ..Self::unavailable("engine_stopped", message) }
            }
        }
    }
}

impl From<LocalError> for ApiError {
    fn from(e: LocalError) -> Self {
        let message = e.to_string();
        match e {
            LocalError::Submit(e) => e.into(),
            LocalError::ContextLength { .. } | LocalError::PromptTooLong { .. } => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("context_length_exceeded"), message)
            }
            LocalError::Ended => Self::invalid(StatusCode::BAD_REQUEST, None, message),
            LocalError::EmptyPrompt => Self::invalid(StatusCode::BAD_REQUEST, Some("empty_prompt"), message),
            LocalError::NoTokenizer => Self::invalid(StatusCode::BAD_REQUEST, Some("no_tokenizer"), message),
            LocalError::NoTemplate(_) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("no_chat_template"), message)
            }
            LocalError::NoInfill => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("unsupported_parameter"), message)
            }
            LocalError::Text(TextError::Template(_)) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("chat_template_error"), message)
            }
            LocalError::Text(TextError::Tokenizer(reason)) => Self::internal(&reason),
            LocalError::Text(TextError::Limit(_)) | LocalError::TextTooLong { .. } => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("text_work_limit"), message)
            }
            LocalError::TextBusy { .. } => {
                Self { retry_after_s: Some(RETRY_QUEUE_S), ..Self::unavailable("text_queue_full", message) }
            }
            LocalError::Timeout { .. } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", Some("timeout"), message)
            }
            LocalError::Draining => Self::draining(),
            LocalError::Failed(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("engine_error"), message)
            }
            LocalError::Internal(reason) => Self::internal(&reason),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        let message = e.to_string();
        match e {
            StoreError::Unusable { .. } | StoreError::Failed { .. } | StoreError::Lost(_) => {
                Self::internal(&message)
            }
            StoreError::Invalid(_) | StoreError::TooManyGroups(_) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("invalid_value"), message)
            }
            StoreError::NameTaken(_) => {
                Self::invalid(StatusCode::CONFLICT, Some("name_taken"), message).at("name")
            }
            StoreError::Revoked(_) => Self::invalid(StatusCode::CONFLICT, Some("key_revoked"), message),
            StoreError::NoSuchKey { .. } => {
                Self::invalid(StatusCode::NOT_FOUND, Some("key_not_found"), message)
            }
            StoreError::NoSuchRequest(_) | StoreError::NoSuchRecord(_) => {
                Self::invalid(StatusCode::NOT_FOUND, Some("request_not_found"), message).at("request_id")
            }
            StoreError::TooManyScores(_) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("too_many_scores"), message).at("name")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_status_code_and_numbers() {
        let length =
            |max_tokens| LocalError::ContextLength { prompt_tokens: 90, max_tokens, max_context: 100 };
        let cases: Vec<(ApiError, u16, &str, &[&str])> = vec![
            (SubmitError::QueueFull { waiting: 7, limit: 8 }.into(), 429, "queue_full", &["7", "8"]),
            (
                SubmitError::PromptTooLong { prompt_tokens: 101, max_context: 100 }.into(),
                400,
                "context_length_exceeded",
                &["101", "100"],
            ),
            (length(None).into(), 400, "context_length_exceeded", &["90", "100"]),
            (length(Some(20)).into(), 400, "context_length_exceeded", &["90", "20", "110", "100"]),
            (SubmitError::BadToken { token: 9, vocab: 5 }.into(), 400, "invalid_token", &["9", "5"]),
            (SubmitError::Draining.into(), 503, "shutting_down", &[]),
            (SubmitError::Stopped("lost device".into()).into(), 503, "engine_stopped", &["lost device"]),
            (LocalError::Timeout { seconds: 30 }.into(), 504, "timeout", &["30"]),
            (LocalError::Failed("step 7".into()).into(), 500, "engine_error", &["step 7"]),
            (AuthError::Missing.into(), 401, "invalid_api_key", &["Bearer"]),
            (ApiError::unknown_model("x", &["a", "b/c"]), 404, "model_not_found", &["`x`", "a, b/c"]),
        ];
        for (error, status, code, words) in cases {
            assert_eq!((error.status.as_u16(), error.code), (status, Some(code)), "{error:?}");
            for word in words {
                assert!(error.message.contains(word), "{word} in {}", error.message);
            }
        }
    }

    #[test]
    fn what_only_the_log_may_say_stays_there() {
        let error = ApiError::from(LocalError::Internal("/secret/path".into()));
        assert_eq!(error.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!error.to_json().contains("secret"));
    }

    #[test]
    fn the_shape_is_openais() {
        let error = ApiError::from(SubmitError::QueueFull { waiting: 1, limit: 1 });
        assert_eq!(
            error.to_json(),
            r#"{"error":{"message":"the queue is full: 1 requests are waiting (limit 1)","type":"rate_limit_error","param":null,"code":"queue_full"}}"#
        );
        assert_eq!(error.into_response().headers()[header::RETRY_AFTER], "1");
    }
}
