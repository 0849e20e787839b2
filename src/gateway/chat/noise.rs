//! Lines that clients write into prompts for nobody to read. They change with each request, and as they stand at the
//! very beginning nothing behind them is ever found in a cache of prompts. They are left out.
//!
//! Deliberately absent: dates and working directories. They change too, but the model is to know them.

use super::Dialect;
use serde_json::{Map, Value};

/// Beginnings of lines of a system prompt that are left out.
///
/// Claude Code writes `x-anthropic-billing-header: cc_version=2.1.197.aea; cc_entrypoint=sdk-cli; cch=0b1c2;`, which
/// its own API reads: the last value is of the request's content.
const LINES: [&str; 1] = ["x-anthropic-billing-header:"];

/// Whether there is something to leave out of a body of OpenAI's format.
pub fn is_in(body: &Value) -> bool {
    let begins = |text: &Value| {
        let text = text.as_str().unwrap_or_default().trim_start();
        LINES.iter().any(|line| text.starts_with(line))
    };
    let messages = body.get("messages").and_then(Value::as_array).into_iter().flatten();
    messages.filter(|message| message["role"] == "system" || message["role"] == "developer").any(|message| {
        let parts = message["content"].as_array().into_iter().flatten();
        begins(&message["content"]) || parts.into_iter().any(|part| begins(&part["text"]))
    })
}

/// Leaves them out of the system prompt of a body.
pub fn drop(body: &mut Map<String, Value>, dialect: Dialect) {
    match dialect {
        Dialect::OpenAi | Dialect::Responses => {
            let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) else { return };
            messages.retain_mut(|message| {
                let system = message["role"] == "system" || message["role"] == "developer";
                !system || message.get_mut("content").is_none_or(quiet)
            });
        }
        Dialect::Anthropic => {
            if body.get_mut("system").is_some_and(|system| !quiet(system)) {
                body.shift_remove("system");
            }
        }
    }
}

/// Leaves them out of a text or of a list of texts; whether there is anything left, or was nothing before.
fn quiet(content: &mut Value) -> bool {
    match content {
        Value::String(text) => match without(text) {
            Some(rest) => {
                let some = !rest.is_empty();
                *text = rest;
                some
            }
            None => true,
        },
        Value::Array(parts) => {
            let before = parts.len();
            parts.retain_mut(|part| match part.get_mut("text") {
                Some(text @ Value::String(_)) => quiet(text),
                _ => true,
            });
            !parts.is_empty() || before == 0
        }
        _ => true,
    }
}

/// The text without such lines at its beginning; None where there are none.
fn without(text: &str) -> Option<String> {
    let mut rest = text.trim_start();
    let mut found = false;
    while LINES.iter().any(|line| rest.starts_with(line)) {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
        found = true;
    }
    found.then(|| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOISE: &str = "x-anthropic-billing-header: cc_version=2.1.197.aea; cc_entrypoint=sdk-cli; cch=1f;";

    fn dropped(mut body: Value, dialect: Dialect) -> Value {
        drop(body.as_object_mut().unwrap(), dialect);
        body
    }

    #[test]
    fn lines_for_nobody_are_left_out_of_system_prompts() {
        let you = json!({"type": "text", "text": "You are", "cache_control": {"type": "ephemeral"}});
        let blocks = json!([{"type": "text", "text": NOISE}, you]);
        assert_eq!(dropped(json!({"system": blocks}), Dialect::Anthropic), json!({"system": [you]}));
        assert_eq!(dropped(json!({"system": NOISE}), Dialect::Anthropic), json!({}));
        let said = format!("{NOISE}\n\nYou are\n{NOISE}");
        for content in [json!(said), json!([{"type": "text", "text": said}])] {
            let body = json!({"messages": [{"role": "system", "content": content}, {"role": "user", "content": NOISE}]});
            let body = dropped(body, Dialect::OpenAi);
            // In the middle of a text it is somebody's words, and a user's words always are.
            assert!(body["messages"][0].to_string().contains(&format!("\"You are\\n{NOISE}\"")), "{body}");
            assert_eq!(body["messages"][1]["content"], NOISE);
        }
        let alone =
            json!({"messages": [{"role": "system", "content": NOISE}, {"role": "user", "content": "hi"}]});
        assert_eq!(dropped(alone, Dialect::OpenAi)["messages"].as_array().unwrap().len(), 1);
        for other in [
            json!({"system": "Today is 2026-01-01.\nx"}),
            json!({"system": []}),
            json!({"system": 3}),
            json!({}),
        ] {
            assert_eq!(dropped(other.clone(), Dialect::Anthropic), other);
        }
    }

    #[test]
    fn two_requests_of_one_conversation_have_one_prefix() {
        let of = |cch: &str| {
            let noise = NOISE.replace("cch=1f", cch);
            let system = json!([{"type": "text", "text": noise}, {"type": "text", "text": "You are"}]);
            dropped(json!({"system": system, "messages": []}), Dialect::Anthropic)
        };
        assert_eq!(of("cch=aa"), of("cch=bb"));
    }
}
