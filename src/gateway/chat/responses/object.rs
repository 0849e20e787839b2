//! The response object, as whole answers and the events around a stream carry it: what was asked, and what came of
//! it (<https://platform.openai.com/docs/api-reference/responses/object>).

use super::super::TokenUsage;
use super::super::encode::AnswerHead;
use crate::gateway::wire::upstream_error::{ErrorKind, UpstreamError};
use serde_json::{Map, Value, json};

/// Fields of a request that its response repeats as they are.
const REPEATED: [&str; 14] = [
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_logprobs",
    "top_p",
    "user",
    "metadata",
    "tool_choice",
];

/// Of those, texts. Most are labels that nobody here reads: what is no text is not repeated, so that a client which
/// reads the response by its types can.
const TEXTS: [&str; 7] = [
    "instructions",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
];

fn is_repeated(name: &str, value: &Value) -> bool {
    match name {
        "max_tool_calls" => value.is_u64(),
        name => value.is_string() || !TEXTS.contains(&name),
    }
}

/// What the response repeats of a request.
pub fn echo(body: &Map<String, Value>, tools: Vec<Value>, store: bool) -> Map<String, Value> {
    let mut echo = Map::new();
    for name in REPEATED {
        let given = body.get(name).filter(|value| is_repeated(name, value));
        echo.insert(name.to_owned(), given.cloned().unwrap_or(Value::Null));
    }
    let mut default = |name: &str, value: Value| {
        let slot = echo.entry(name).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value;
        }
    };
    default("metadata", json!({}));
    default("service_tier", "default".into());
    default("tool_choice", "auto".into());
    default("top_logprobs", 0.into());
    default("background", false.into());
    default("truncation", "disabled".into());
    default("store", store.into());
    default("tools", tools.into());
    default(
        "parallel_tool_calls",
        body.get("parallel_tool_calls").filter(|it| it.is_boolean()).cloned().unwrap_or(true.into()),
    );
    let asked = |name: &str, inner: &str| body.get(name).and_then(|it| it.get(inner)).cloned();
    default(
        "reasoning",
        json!({"effort": asked("reasoning", "effort"), "summary": asked("reasoning", "summary")}),
    );
    let format = asked("text", "format").filter(|format| !format.is_null());
    let mut text = json!({"format": format.unwrap_or_else(|| json!({"type": "text"}))});
    if let Some(verbosity) = asked("text", "verbosity").filter(|it| !it.is_null()) {
        text["verbosity"] = verbosity;
    }
    default("text", text);
    echo
}

/// How a response stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is being made.
    InProgress,
    /// It is whole.
    Completed,
    /// It ended for this reason: `max_output_tokens` or `content_filter`.
    Incomplete(&'static str),
    /// It ended by an error.
    Failed,
}

impl Status {
    /// As the object has it, and as the name of the event that says so.
    pub fn word(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete(_) => "incomplete",
            Self::Failed => "failed",
        }
    }
}

/// The object. `echo` is what [`echo`] made of the request.
pub fn response(
    head: &AnswerHead,
    echo: &Map<String, Value>,
    status: Status,
    output: &[Value],
    usage: Option<&TokenUsage>,
    error: Option<&UpstreamError>,
) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    put("id", head.id.as_str().into());
    put("object", "response".into());
    put("created_at", head.created_unix_s.into());
    put("status", status.word().into());
    put("error", error.map(error_value).into());
    let incomplete = match status {
        Status::Incomplete(reason) => Some(json!({"reason": reason})),
        _ => None,
    };
    put("incomplete_details", incomplete.into());
    put("model", head.model.as_str().into());
    put("output", output.into());
    put("usage", usage.map(usage_value).into());
    for (name, value) in echo {
        object.insert(name.clone(), value.clone());
    }
    Value::Object(object)
}

fn usage_value(usage: &TokenUsage) -> Value {
    json!({
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_written},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input.saturating_add(usage.output),
    })
}

/// The codes that clients of this API act on: Codex gives up on some and tries again after the others.
fn error_value(error: &UpstreamError) -> Value {
    let code = match error.kind {
        _ if error.is_context_length() => "context_length_exceeded",
        ErrorKind::Billing => "insufficient_quota",
        ErrorKind::RateLimit => "rate_limit_exceeded",
        ErrorKind::Overloaded => "server_is_overloaded",
        ErrorKind::InvalidRequest | ErrorKind::NotFound | ErrorKind::TooLarge => "invalid_prompt",
        ErrorKind::Authentication | ErrorKind::Permission | ErrorKind::Timeout | ErrorKind::Server => {
            "server_error"
        }
    };
    json!({"code": code, "message": error.message})
}
