//! The only map from errors to HTTP. Callers see OpenAI's shape,
//! `{"error": {"message", "type", "param", "code"}}`, or Anthropic's where they speak it; what a caller
//! must not see goes to the log. Secrets go nowhere ([`crate::secrets`]).

use super::Dialect;
use super::bounds::Overdue;
use super::fields::BadField;
use super::rate_limit::States;
use super::request_memory::Shortage;
use super::upstream_error::anthropic_error;
use crate::secrets;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// Seconds after which a full queue is worth another try.
pub(in crate::gateway) const RETRY_QUEUE_S: u32 = 1;
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

/// An error in OpenAI's shape.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub struct WireError<'a> {
    error: WireErrorBody<'a>,
}

/// What is wrong.
#[derive(Serialize, ToSchema)]
#[schema(as = ErrorBody)]
struct WireErrorBody<'a> {
    /// For people.
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    /// The JSON path of the field at fault.
    #[schema(required = true)]
    param: Option<&'a str>,
    /// For programs.
    #[schema(required = true)]
    code: Option<&'a str>,
}

impl ApiError {
    pub(in crate::gateway) fn new(
        status: StatusCode,
        kind: &'static str,
        code: Option<&'static str>,
        message: String,
    ) -> Self {
        Self { status, kind, message, param: None, code, retry_after_s: None, limits: None }
    }

    pub(in crate::gateway) fn invalid(
        status: StatusCode,
        code: Option<&'static str>,
        message: String,
    ) -> Self {
        Self::new(status, "invalid_request_error", code, message)
    }

    pub(in crate::gateway) fn unavailable(code: &'static str, message: String) -> Self {
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

    /// For a caller of Responses, whose `input` became messages: a field of those is in what it sent as that.
    pub fn in_input(mut self) -> Self {
        if let Some(param) = self.param.as_ref().filter(|param| param.starts_with("messages")) {
            self.message = self.message.replacen(&format!("`{param}`"), "`input`", 1);
            self.param = Some("input".to_owned());
        }
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

    /// 404: no such response is kept for this key.
    pub fn unknown_response(id: &str) -> Self {
        let message =
            format!("there is no response `{id}`: it was not stored, is too old, or is another key's");
        Self::invalid(StatusCode::NOT_FOUND, Some("response_not_found"), message).at("response_id")
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
            "the model `{name}` is served by an upstream, which this endpoint does not reach: chat, embeddings, rerank and score do"
        );
        Self::invalid(StatusCode::BAD_REQUEST, Some("model_not_local"), message).at("model")
    }

    /// 400: a provider that has no embeddings or scores.
    pub fn no_such_task(provider: &str, format: &str, task: &str) -> Self {
        let message = format!(
            "provider {provider} has no {task}: it is configured with `format: {format}`; {task} are asked of \
             providers with `format: openai`"
        );
        Self::invalid(StatusCode::BAD_REQUEST, Some("unsupported_task"), message).at("model")
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
            Dialect::OpenAi | Dialect::Responses => self.to_json(),
            Dialect::Anthropic => {
                let mut message = secrets::hide(&self.message);
                if self.code == Some("context_length_exceeded") {
                    message = prompt_too_long(&message).into();
                }
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

/// What Anthropic's API says of a prompt that does not fit, on which its clients act: with the numbers of
/// whoever said so in other words, the context's first.
fn prompt_too_long(message: &str) -> String {
    const WORDS: &str = "prompt is too long";
    if message.contains(WORDS) {
        return message.to_owned();
    }
    let of_a_number = |c: char| c.is_alphanumeric() || ['-', '_', '.', ','].contains(&c);
    let words = message.split(|c| !of_a_number(c));
    let numbers =
        words.filter_map(|word| word.trim_end_matches(['.', ',']).replace(',', "").parse::<u64>().ok());
    match numbers.take(2).collect::<Vec<_>>().as_slice() {
        [a, b] => format!("{WORDS}: {} tokens > {} maximum", a.max(b), a.min(b)),
        _ => format!("{WORDS}: {message}"),
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
        // Clients try a 429 again and again, unless they are told not to.
        let is_over_for_good = self.code == Some("rate_limit_exceeded") && self.retry_after_s.is_none();
        if self.code == Some("insufficient_quota") || is_over_for_good {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
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

impl From<Overdue> for ApiError {
    fn from(e: Overdue) -> Self {
        match e {
            Overdue::Silence { .. } | Overdue::Timeout { .. } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", Some("timeout"), e.to_string())
            }
            Overdue::Draining => Self::draining(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anthropics_clients_are_told_of_long_prompts_in_their_words() {
        for (said, told) in [
            (
                "provider a: This model's maximum context length is 128000 tokens. However, you requested 130,500 tokens",
                "prompt is too long: 130500 tokens > 128000 maximum",
            ),
            (
                "provider deepseek-v4: The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
                "prompt is too long: 5000 tokens > 4096 maximum",
            ),
            (
                "provider c: prompt is too long: 9 tokens > 8 maximum",
                "provider c: prompt is too long: 9 tokens > 8 maximum",
            ),
            ("it exceeds the context window", "prompt is too long: it exceeds the context window"),
        ] {
            let error =
                ApiError::invalid(StatusCode::BAD_REQUEST, Some("context_length_exceeded"), said.into());
            let body: serde_json::Value =
                serde_json::from_str(&error.in_dialect(Dialect::Anthropic, "req")).expect("JSON");
            assert_eq!(body["error"]["message"], told);
            assert_eq!(body["error"]["type"], "invalid_request_error");
        }
    }

    #[test]
    fn what_no_waiting_cures_is_not_to_be_tried_again() {
        let retry = |error: ApiError| error.into_response().headers().get("x-should-retry").cloned();
        let over = |code, retry_after_s| ApiError {
            retry_after_s,
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some(code), String::new())
        };
        assert_eq!(retry(over("insufficient_quota", Some(3600))).expect("a header"), "false");
        assert_eq!(retry(over("rate_limit_exceeded", None)).expect("a header"), "false");
        assert_eq!(retry(over("rate_limit_exceeded", Some(3))), None);
        assert_eq!(retry(over("upstream_busy", None)), None);
    }
}
