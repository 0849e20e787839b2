//! Thinking of earlier answers in a body of Anthropic's format. Claude's endpoints take it only with
//! the signature that they gave (<https://platform.claude.com/docs/en/build-with-claude/extended-thinking>);
//! a conversation that other models took part in holds thinking without one, or with another's.

use super::thinking::is_claude;
use serde_json::{Map, Value};

/// Leaves out what a Claude model cannot have signed: thinking without a signature.
pub fn passed(body: &mut Map<String, Value>, model: &str) {
    if is_claude(model) {
        drop_thinking(body, |block| {
            block["type"] == "thinking" && block["signature"].as_str().is_none_or(str::is_empty)
        });
    }
}

/// The body without any thinking of earlier answers; None where there is none, or it is no body of
/// Anthropic's.
pub fn without_thinking(body: &[u8]) -> Option<Vec<u8>> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    let dropped = drop_thinking(body.as_object_mut()?, |block| {
        block["type"] == "thinking" || block["type"] == "redacted_thinking"
    });
    dropped.then(|| serde_json::to_vec(&body).ok()).flatten()
}

/// Whether the upstream refuses a body for its thinking: signed by another, or changed.
pub fn is_about_thinking(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("thinking")
        && ["invalid `signature`", "invalid signature", "invalid `data`", "cannot be modified"]
            .iter()
            .any(|words| message.contains(words))
}

fn drop_thinking(body: &mut Map<String, Value>, which: impl Fn(&Value) -> bool) -> bool {
    let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) else { return false };
    let mut dropped = false;
    messages.retain_mut(|message| {
        if message["role"] != "assistant" {
            return true;
        }
        let Some(blocks) = message.get_mut("content").and_then(Value::as_array_mut) else { return true };
        let before = blocks.len();
        blocks.retain(|block| !which(block));
        dropped |= blocks.len() < before;
        // A message of nothing but thinking: neighbours of one role are one message to Anthropic.
        before == blocks.len() || !blocks.is_empty()
    });
    // Thinking with a budget cannot go on from calls whose thinking is not there.
    if dropped && calls_unthought(messages) && body.get("thinking").is_some_and(|it| it["type"] == "enabled")
    {
        body.remove("thinking");
    }
    dropped
}

/// Whether the last answer calls tools without its thinking, so that thinking with a budget cannot go
/// on from it.
pub fn calls_unthought(messages: &[Value]) -> bool {
    let last = messages.iter().rfind(|message| message["role"] == "assistant");
    let blocks = last.and_then(|message| message["content"].as_array());
    blocks.is_some_and(|blocks| {
        blocks.iter().any(|block| block["type"] == "tool_use")
            && !blocks
                .first()
                .is_some_and(|first| first["type"] == "thinking" || first["type"] == "redacted_thinking")
    })
}
