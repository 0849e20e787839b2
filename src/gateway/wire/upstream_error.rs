//! Errors of upstreams, read from either dialect (or from a proxy's HTML) and written in either.

use super::Dialect;
use super::json::shorten;
use serde_json::{Value, json};
use std::time::Duration;

/// Characters of an upstream's message that are kept.
const MESSAGE_CHARS_MAX: usize = 2000;
/// Characters of an upstream's code, type or field name that are kept.
const WORD_CHARS_MAX: usize = 200;

/// What an upstream complained of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong: 400, 422 and other 4xx.
    InvalidRequest,
    /// The key is missing or wrong: 401.
    Authentication,
    /// The account has no money: 402, or OpenAI's `insufficient_quota`.
    Billing,
    /// The key may not do this: 403.
    Permission,
    /// No such model or path: 404.
    NotFound,
    /// The body is too large: 413.
    TooLarge,
    /// Too many requests or tokens: 429.
    RateLimit,
    /// The upstream is overloaded: 503, Anthropic's 529.
    Overloaded,
    /// The upstream or a proxy gave up waiting: 408, 504.
    Timeout,
    /// The upstream failed: other 5xx.
    Server,
}

impl ErrorKind {
    /// What a status says.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Authentication,
            402 => Self::Billing,
            403 => Self::Permission,
            404 => Self::NotFound,
            413 => Self::TooLarge,
            429 => Self::RateLimit,
            503 | 529 => Self::Overloaded,
            408 | 504 => Self::Timeout,
            400..=499 => Self::InvalidRequest,
            _ => Self::Server,
        }
    }

    /// The status that goes with it where an upstream sent none (an error within a stream).
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Authentication => 401,
            Self::Billing => 402,
            Self::Permission => 403,
            Self::NotFound => 404,
            Self::TooLarge => 413,
            Self::RateLimit => 429,
            Self::Overloaded => 529,
            Self::Timeout => 504,
            Self::Server => 502,
        }
    }

    /// What a `type` or `code` of either dialect says.
    fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "invalid_request_error" | "BadRequestError" | "context_length_exceeded" => Self::InvalidRequest,
            "authentication_error" | "invalid_api_key" | "AuthenticationError" => Self::Authentication,
            "billing_error" | "insufficient_quota" => Self::Billing,
            "permission_error" | "permission_denied" => Self::Permission,
            "not_found_error" | "model_not_found" | "NotFoundError" => Self::NotFound,
            "request_too_large" => Self::TooLarge,
            "rate_limit_error"
            | "rate_limit_exceeded"
            | "rate_limit_reached_error"
            | "requests"
            | "tokens" => Self::RateLimit,
            "overloaded_error" | "engine_overloaded_error" => Self::Overloaded,
            "timeout_error" => Self::Timeout,
            "api_error" | "server_error" | "InternalServerError" => Self::Server,
            _ => return None,
        })
    }

    /// OpenAI's `type`.
    pub fn openai_type(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::NotFound | Self::TooLarge | Self::Authentication => {
                "invalid_request_error"
            }
            Self::Permission => "permission_error",
            Self::Billing => "insufficient_quota",
            Self::RateLimit => "rate_limit_error",
            Self::Timeout => "timeout_error",
            Self::Overloaded | Self::Server => "server_error",
        }
    }

    /// Anthropic's `type` (<https://docs.anthropic.com/en/api/errors>).
    pub fn anthropic_type(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request_error",
            Self::Authentication => "authentication_error",
            Self::Billing => "billing_error",
            Self::Permission => "permission_error",
            Self::NotFound => "not_found_error",
            Self::TooLarge => "request_too_large",
            Self::RateLimit => "rate_limit_error",
            Self::Overloaded => "overloaded_error",
            Self::Timeout => "timeout_error",
            Self::Server => "api_error",
        }
    }
}

/// An error that an upstream answered with, or that stands for an upstream's failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (status {status})")]
pub struct UpstreamError {
    /// HTTP status; for an error within a stream, the one that its type stands for.
    pub status: u16,
    /// What it complained of.
    pub kind: ErrorKind,
    /// For people; at most 2000 characters.
    pub message: String,
    /// The upstream's code for programs; its `type` where it has no code.
    pub code: Option<String>,
    /// The field at fault.
    pub param: Option<String>,
    /// How long the upstream asks to wait: a header's, so set by whoever has the headers.
    pub retry_after: Option<Duration>,
}

impl UpstreamError {
    /// An error with this status and message, of the kind that the status says.
    pub fn new(status: u16, message: impl AsRef<str>) -> Self {
        Self {
            status,
            kind: ErrorKind::of_status(status),
            message: shorten(message.as_ref().trim(), MESSAGE_CHARS_MAX),
            code: None,
            param: None,
            retry_after: None,
        }
    }

    /// Whether the prompt does not fit this model: another model may take it.
    pub fn is_context_length(&self) -> bool {
        let says = |words: &[&str]| {
            let message = self.message.to_ascii_lowercase();
            words.iter().any(|word| message.contains(word))
        };
        self.code.as_deref() == Some("context_length_exceeded")
            || (matches!(self.kind, ErrorKind::InvalidRequest | ErrorKind::TooLarge)
                && says(&[
                    "prompt is too long",
                    "maximum context length",
                    "context window",
                    "context length",
                    "context_length",
                    "exceeds the available context size",
                ]))
    }

    /// The error in OpenAI's shape, for a body or the data of an event.
    pub fn to_openai(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind.openai_type(),
            "param": self.param,
            "code": self.code,
        }})
    }

    /// The error in Anthropic's shape.
    pub fn to_anthropic(&self, request_id: Option<&str>) -> Value {
        anthropic_shape(self.kind, &self.message, request_id)
    }

    /// The error in a dialect's shape.
    pub fn to_value(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::OpenAi | Dialect::Responses => self.to_openai(),
            Dialect::Anthropic => self.to_anthropic(None),
        }
    }
}

/// The body of an error of our own, in Anthropic's shape. The status chooses the type.
pub fn anthropic_error(status: u16, message: &str, request_id: Option<&str>) -> Value {
    anthropic_shape(ErrorKind::of_status(status), message, request_id)
}

fn anthropic_shape(kind: ErrorKind, message: &str, request_id: Option<&str>) -> Value {
    let mut shape = json!({"type": "error", "error": {"type": kind.anthropic_type(), "message": message}});
    if let Some(id) = request_id {
        shape["request_id"] = id.into();
    }
    shape
}

/// Reads the body that came with an error status. Both dialects' shapes are understood
/// whichever the upstream speaks (proxies before it answer in either), and those of FastAPI (`detail`), of vLLM before 0.10 (`object: error`), HTML, text and nothing.
pub fn decode_error(status: u16, body: &[u8]) -> UpstreamError {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => {
            let mut error = from_value(&value, status);
            error.status = status;
            error
        }
        Err(_) => UpstreamError::new(status, text_of(status, body)),
    }
}

/// Reads an error that arrived under a good status, within a stream or a body; its type or code
/// says the status, else 502.
pub(in crate::gateway) fn from_success(value: &Value) -> UpstreamError {
    from_value(value, 502)
}

fn from_value(value: &Value, status: u16) -> UpstreamError {
    let found = value.get("error").filter(|error| !error.is_null()).unwrap_or(value);
    let word = |name: &str| {
        let word = match found.get(name)? {
            Value::String(word) => word.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        (!word.is_empty()).then(|| shorten(&word, WORD_CHARS_MAX))
    };
    let message = ["message", "detail", "msg"]
        .iter()
        .find_map(|name| Some(found.get(*name)?).filter(|message| !message.is_null()))
        .or_else(|| found.is_string().then_some(found));
    let message = match message {
        Some(Value::String(message)) => message.clone(),
        Some(other) => other.to_string(),
        None => format!("the upstream answered with status {status}: {found}"),
    };
    let (kind_word, code) = (word("type"), word("code"));
    // A number as a code is a status (OpenRouter, vLLM, Gemini).
    let code_status =
        code.as_ref().and_then(|code| code.parse::<u16>().ok()).filter(|c| (400..600).contains(c));
    let named = [&code, &kind_word].into_iter().flatten().find_map(|word| ErrorKind::of_word(word));
    let mut error = UpstreamError::new(status, message);
    match (status, named, code_status) {
        // Errors under a good status say for themselves what they are.
        (502, _, Some(said)) => (error.status, error.kind) = (said, ErrorKind::of_status(said)),
        (502, Some(kind), None) => (error.status, error.kind) = (kind.status(), kind),
        // 429 is also said for an empty account, which waiting does not cure.
        (_, Some(ErrorKind::Billing), _) => error.kind = ErrorKind::Billing,
        (_, Some(kind), _) if ErrorKind::of_status(status) == ErrorKind::InvalidRequest => error.kind = kind,
        _ => {}
    }
    error.code = code.filter(|_| code_status.is_none()).or(kind_word.filter(|word| word != "error"));
    error.param = word("param");
    error
}

/// A message from a body that is not JSON.
fn text_of(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(64 << 10)]);
    let text = text.trim();
    if text.is_empty() {
        return format!("the upstream answered with status {status} and no body");
    }
    if !text.starts_with('<') {
        return text.to_owned();
    }
    let lower = text.to_ascii_lowercase();
    let title = lower.find("<title>").and_then(|at| {
        let start = at + "<title>".len();
        Some(text[start..start + lower[start..].find("</title>")?].trim())
    });
    match title.filter(|title| !title.is_empty()) {
        Some(title) => format!("the upstream answered with status {status} and a page of HTML: {title}"),
        None => format!("the upstream answered with status {status} and a page of HTML"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_errors() {
        use ErrorKind::*;
        let openai = br#"{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
        let quota = br#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;
        let field = br#"{"error":{"message":"bad","type":"invalid_request_error","param":"messages[0]","code":null}}"#;
        let anthropic =
            br#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#;
        /// Status, body; kind, message, code.
        type Case<'a> = (u16, &'a [u8], ErrorKind, &'a str, Option<&'a str>);
        let cases: Vec<Case> = vec![
            (429, openai, RateLimit, "Rate limit reached", Some("rate_limit_exceeded")),
            (429, quota, Billing, "You exceeded your current quota", Some("insufficient_quota")),
            (400, field, InvalidRequest, "bad", Some("invalid_request_error")),
            (529, anthropic, Overloaded, "Overloaded", Some("overloaded_error")),
            (404, br#"{"detail":"Not Found"}"#, NotFound, "Not Found", None),
            (422, br#"{"detail":[{"msg":"no"}]}"#, InvalidRequest, r#"[{"msg":"no"}]"#, None),
            (
                400,
                br#"{"object":"error","message":"too long","type":"BadRequestError","code":400}"#,
                InvalidRequest,
                "too long",
                Some("BadRequestError"),
            ),
            (500, br#"{"error":"CUDA out of memory"}"#, Server, "CUDA out of memory", None),
            (
                502,
                b"<html><head><title>502 Bad Gateway</title></head>",
                Server,
                "the upstream answered with status 502 and a page of HTML: 502 Bad Gateway",
                None,
            ),
            (503, b"  ", Overloaded, "the upstream answered with status 503 and no body", None),
            (504, b"upstream request timeout", Timeout, "upstream request timeout", None),
            (500, b"[1]", Server, "the upstream answered with status 500: [1]", None),
            (
                401,
                b"<!DOCTYPE html><title></title>",
                Authentication,
                "the upstream answered with status 401 and a page of HTML",
                None,
            ),
        ];
        for (status, body, kind, message, code) in cases {
            let error = decode_error(status, body);
            assert_eq!((error.status, error.kind, &*error.message), (status, kind, message));
            assert_eq!(error.code.as_deref(), code, "{message}");
        }
        assert_eq!(decode_error(400, field).param.as_deref(), Some("messages[0]"));
    }

    #[test]
    fn messages_are_bounded() {
        let long = "é".repeat(50_000);
        for body in [long.clone(), format!(r#"{{"error":{{"message":"{long}","code":"{long}"}}}}"#)] {
            let error = decode_error(500, body.as_bytes());
            assert!(error.message.chars().count() <= MESSAGE_CHARS_MAX + 3, "{}", error.message.len());
            assert!(error.code.is_none_or(|code| code.chars().count() <= WORD_CHARS_MAX + 3));
        }
    }

    #[test]
    fn a_status_within_a_stream_is_what_the_error_says() {
        let status = |text: &str| {
            let error = from_success(&serde_json::from_str(text).unwrap());
            (error.status, error.kind)
        };
        assert_eq!(status(r#"{"error":{"code":429,"message":"slow down"}}"#), (429, ErrorKind::RateLimit));
        assert_eq!(
            status(r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#),
            (529, ErrorKind::Overloaded)
        );
        assert_eq!(status(r#"{"error":"gone"}"#), (502, ErrorKind::Server));
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_told_in_many_words() {
        let says = |status, message: &str| UpstreamError::new(status, message).is_context_length();
        assert!(says(400, "prompt is too long: 210000 tokens > 200000 maximum"));
        assert!(says(400, "This model's maximum context length is 8192 tokens."));
        assert!(!says(500, "maximum context length"));
        assert!(!says(400, "temperature must be at most 2"));
    }

    #[test]
    fn anthropics_types() {
        for (status, kind) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (402, "billing_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (529, "overloaded_error"),
        ] {
            assert_eq!(
                anthropic_error(status, "no", Some("req_7")),
                json!({"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "req_7"})
            );
        }
    }
}
