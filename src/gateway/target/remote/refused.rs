//! Hints that a model refuses, by what its provider says: which models take which is told nowhere for all of them, and
//! changes. Where a 400 names such a field as one that is not supported, it is left out, and the model is asked once
//! more; what it will not take at all is remembered, so that later requests go without it.
//!
//! Only fields without which the request is still the same one: how tokens are chosen, how much to think, for whom. A
//! schema, a tool or a message is never left out. A refusal of a value that is out of its range is the caller's to see.

use crate::gateway::wire::error::ApiError;
use axum::http::StatusCode;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What may be left out. Of thinking a model may take some kinds and not others, so that nothing is remembered of it.
const HINTS: [(&str, bool); 21] = [
    ("temperature", true),
    ("top_p", true),
    ("top_k", true),
    ("min_p", true),
    ("seed", true),
    ("frequency_penalty", true),
    ("presence_penalty", true),
    ("repetition_penalty", true),
    ("service_tier", true),
    ("speed", true),
    ("verbosity", true),
    ("store", true),
    ("user", true),
    ("metadata", true),
    ("safety_identifier", true),
    ("prompt_cache_key", true),
    ("context_management", true),
    ("thinking", false),
    ("reasoning", false),
    ("reasoning_effort", false),
    ("output_config.effort", false),
];

/// How providers say that they do not take a field.
const UNSUPPORTED: [&str; 9] = [
    "not supported",
    "unsupported",
    "does not support",
    "not permitted",
    "deprecated",
    "unrecognized",
    "unknown parameter",
    "unknown field",
    "unexpected keyword",
];

/// What one model has refused so far.
#[derive(Default)]
pub struct RefusedHints(Mutex<BTreeSet<&'static str>>);

impl RefusedHints {
    /// The hint that a refusal is about; None where it is about something else.
    pub fn of(error: &ApiError) -> Option<&'static str> {
        let message = error.message.to_ascii_lowercase();
        let is_refusal = matches!(error.status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY);
        if !is_refusal || !UNSUPPORTED.iter().any(|words| message.contains(words)) {
            return None;
        }
        // The longer name first: one is the other's beginning.
        let hints = HINTS.iter().rev().map(|(hint, _)| *hint);
        hints.into_iter().find(|hint| match error.param.as_deref() {
            Some(param) if !param.is_empty() => param == *hint || is_within(param, hint),
            _ => names(&message, hint),
        })
    }

    /// The model does not take it.
    pub fn learn(&self, hint: &'static str) {
        if HINTS.contains(&(hint, true)) {
            self.known().insert(hint);
        }
    }

    /// Leaves out what it is known not to take.
    pub fn leave_out(&self, body: &mut Map<String, Value>) {
        for hint in self.known().iter() {
            leave_out(body, hint);
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves a hint out of a body; whether it was there.
pub fn leave_out(body: &mut Map<String, Value>, hint: &str) -> bool {
    let Some((outer, inner)) = hint.split_once('.') else { return body.shift_remove(hint).is_some() };
    let Some(map) = body.get_mut(outer).and_then(Value::as_object_mut) else { return false };
    let was_there = map.shift_remove(inner).is_some();
    if map.is_empty() {
        body.shift_remove(outer);
    }
    was_there
}

fn is_within(path: &str, hint: &str) -> bool {
    path.strip_prefix(hint).is_some_and(|rest| rest.starts_with('.'))
}

/// Whether a message names it: in quotes, before a colon, or as its last word.
fn names(message: &str, hint: &str) -> bool {
    message.match_indices(hint).any(|(at, _)| {
        let (before, after) = (&message[..at], &message[at + hint.len()..]);
        let quote = before.chars().next_back().filter(|c| "'`\"".contains(*c));
        let begins = before.is_empty() || before.ends_with(": ");
        match quote {
            Some(quote) => after.starts_with(quote) || after.starts_with('.'),
            None => begins && (after.is_empty() || after.starts_with(':') || after.starts_with('.')),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(status: u16, message: &str, param: Option<&str>) -> ApiError {
        let error = ApiError::upstream("p", StatusCode::from_u16(status).unwrap(), message).invalid_request();
        ApiError { param: param.map(str::to_owned), ..error }
    }

    #[test]
    fn refusals_of_hints_are_told_from_others() {
        for (message, param, hint) in [
            ("temperature: Extra inputs are not permitted", None, Some("temperature")),
            ("`temperature` is deprecated for this model.", None, Some("temperature")),
            ("speed: Extra inputs are not permitted", None, Some("speed")),
            ("context_management: Extra inputs are not permitted", None, Some("context_management")),
            ("\"thinking.type.disabled\" is not supported for this model.", None, Some("thinking")),
            ("output_config.effort: not supported by this model", None, Some("output_config.effort")),
            (
                "Unsupported parameter: 'top_p' is not supported with this model.",
                Some("top_p"),
                Some("top_p"),
            ),
            (
                "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is supported.",
                Some("temperature"),
                Some("temperature"),
            ),
            ("Unrecognized request argument supplied: service_tier", None, Some("service_tier")),
            (
                "Unsupported parameter: 'reasoning.effort' is not supported with this model.",
                Some("reasoning.effort"),
                Some("reasoning"),
            ),
            // What the request is about, what the caller got wrong, and words that only look like a field.
            ("tools: Extra inputs are not permitted", None, None),
            ("'response_format' is not supported", Some("response_format"), None),
            ("temperature: must be at most 2", None, None),
            ("messages.1.content: images are not supported for the user", None, None),
            ("this model does not support a seed of thinking", None, None),
            ("tool_choice is not supported with `metadata`", Some("tool_choice"), None),
        ] {
            assert_eq!(RefusedHints::of(&told(400, message, param)), hint, "{message}");
        }
        assert_eq!(RefusedHints::of(&told(500, "`top_k` is not supported", None)), None);
    }

    #[test]
    fn what_is_refused_is_left_out_from_then_on() {
        let refused = RefusedHints::default();
        let body = json!({"model": "m", "top_k": 3, "thinking": {}, "output_config": {"effort": "low"}});
        let left = |refused: &RefusedHints| {
            let mut body = body.clone();
            refused.leave_out(body.as_object_mut().unwrap());
            body
        };
        assert_eq!(left(&refused), body);
        refused.learn("top_k");
        // A kind of thinking may have been wrong.
        refused.learn("thinking");
        assert_eq!(left(&refused), json!({"model": "m", "thinking": {}, "output_config": {"effort": "low"}}));
        let mut body = body.clone();
        let map = body.as_object_mut().unwrap();
        assert!(leave_out(map, "output_config.effort") && !leave_out(map, "output_config.effort"));
        assert_eq!(body, json!({"model": "m", "top_k": 3, "thinking": {}}));
    }
}
