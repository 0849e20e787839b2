//! What can go wrong between a request and its text, and what callers are told of it.

use crate::engine::handle::SubmitError;
use crate::gateway::ledger::metrics::Outcome;
use crate::gateway::wire::bounds::Overdue;
use crate::gateway::wire::error::{ApiError, RETRY_QUEUE_S};
use crate::text::TextError;
use crate::text::grammar::GrammarError;
use axum::http::StatusCode;

/// What can go wrong between a request and its text; messages are fit for callers but for
/// `Internal`.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LocalError {
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(
        "the context holds {max_context} tokens, but the prompt has {prompt_tokens} tokens, which leaves no room for an answer"
    )]
    ContextLength { prompt_tokens: usize, max_context: usize },
    #[error(
        "the context holds {max_context} tokens, but the prompt has {tokens_min} at least, of {bytes} bytes"
    )]
    PromptTooLong { bytes: usize, tokens_min: usize, max_context: usize },
    #[error(
        "has {tokens} tokens with what stands around it, and the model reads {max_context} at the most; `truncate_prompt_tokens: -1` cuts it"
    )]
    TextTooLong { tokens: usize, max_context: usize },
    #[error("{0}")]
    WrongTask(String),
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    #[error("`resume_token_ids` has come to its end: a stop string is in it")]
    Ended,
    #[error("the model has no tokenizer: send token ids to /v1/completions")]
    NoTokenizer,
    #[error("the model has no usable chat template ({0}): use /v1/completions")]
    NoTemplate(String),
    #[error("the model knows no fill-in-the-middle: its tokenizer has no tokens for it")]
    NoInfill,
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("{0}")]
    Grammar(GrammarError),
    #[error("{waiting} requests wait to be rendered and tokenized already; try again later")]
    TextBusy { waiting: usize },
    #[error("the text has {bytes} bytes; {bytes_max} are the most that are tokenized at once")]
    WorkTooLong { bytes: usize, bytes_max: usize },
    #[error(transparent)]
    Overdue(#[from] Overdue),
    #[error("generation failed: {0}")]
    Failed(String),
    #[error("{0}")]
    Internal(String),
}

impl LocalError {
    /// The HTTP status of a generation that ended so.
    pub fn status(&self) -> u16 {
        match self {
            Self::Overdue(overdue) if overdue.is_timeout() => 504,
            Self::Overdue(_) => 503,
            _ => 500,
        }
    }

    /// The outcome of a generation that ended so.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Overdue(overdue) if overdue.is_timeout() => Outcome::TimedOut,
            Self::Overdue(_) => Outcome::Aborted,
            _ => Outcome::Failed,
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
                LocalError::ContextLength { prompt_tokens, max_context }.into()
            }
            SubmitError::BadToken { .. } => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("invalid_token"), message)
            }
            SubmitError::Unsupported(_) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("unsupported_model"), message)
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
            LocalError::ContextLength { .. }
            | LocalError::PromptTooLong { .. }
            | LocalError::TextTooLong { .. } => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("context_length_exceeded"), message)
            }
            LocalError::WrongTask(_) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("unsupported_task"), message).at("model")
            }
            LocalError::Ended => Self::invalid(StatusCode::BAD_REQUEST, None, message),
            LocalError::EmptyPrompt => Self::invalid(StatusCode::BAD_REQUEST, Some("empty_prompt"), message),
            LocalError::NoTokenizer => Self::invalid(StatusCode::BAD_REQUEST, Some("no_tokenizer"), message),
            LocalError::NoTemplate(_) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("no_chat_template"), message)
            }
            LocalError::Grammar(_) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("invalid_grammar"), message)
            }
            LocalError::NoInfill => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("unsupported_parameter"), message)
            }
            LocalError::Text(TextError::Template(_)) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("chat_template_error"), message)
            }
            LocalError::Text(TextError::Tokenizer(reason)) => Self::internal(&reason),
            LocalError::Text(TextError::Limit(_)) | LocalError::WorkTooLong { .. } => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("text_work_limit"), message)
            }
            LocalError::TextBusy { .. } => {
                Self { retry_after_s: Some(RETRY_QUEUE_S), ..Self::unavailable("text_queue_full", message) }
            }
            LocalError::Overdue(e) => e.into(),
            LocalError::Failed(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("engine_error"), message)
            }
            LocalError::Internal(reason) => Self::internal(&reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header;
    use axum::response::IntoResponse;

    #[test]
    fn every_error_has_its_status_code_and_numbers() {
        let length = LocalError::ContextLength { prompt_tokens: 101, max_context: 100 };
        let cases: Vec<(ApiError, u16, &str, &[&str])> = vec![
            (SubmitError::QueueFull { waiting: 7, limit: 8 }.into(), 429, "queue_full", &["7", "8"]),
            (
                SubmitError::PromptTooLong { prompt_tokens: 101, max_context: 100 }.into(),
                400,
                "context_length_exceeded",
                &["101", "100"],
            ),
            (length.into(), 400, "context_length_exceeded", &["101", "100"]),
            (SubmitError::BadToken { token: 9, vocab: 5 }.into(), 400, "invalid_token", &["9", "5"]),
            (SubmitError::Draining.into(), 503, "shutting_down", &[]),
            (SubmitError::Stopped("lost device".into()).into(), 503, "engine_stopped", &["lost device"]),
            (Overdue::Silence { seconds: 30 }.into(), 504, "timeout", &["nothing", "30"]),
            (Overdue::Timeout { seconds: 60 }.into(), 504, "timeout", &["in all", "60"]),
            (LocalError::Failed("step 7".into()).into(), 500, "engine_error", &["step 7"]),
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
