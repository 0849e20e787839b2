//! A body of Anthropic's format as one model takes it. What a caller wrote for one Claude model is refused by another:
//! how it is to think, the effort, messages with the role `system` ([`models`](super::models) says who takes what). What is
//! a hint is fitted or left out; what was said stays said.
//!
//! And thinking of earlier answers: Claude's endpoints take it only with the signature that they gave
//! (<https://platform.claude.com/docs/en/build-with-claude/extended-thinking>); a conversation that other models took part
//! in holds thinking without one, or with another's.

use super::super::reasoning::Wanted;
use super::models::{ClaudeModel, Effort, Off, Thinks, claude};
use super::thinking::{BUDGET_TOKENS_MIN, budget_of};
use serde_json::{Map, Value, json};

/// Fits what a caller of Anthropic's format wrote to a Claude model. Other makers' models get it as it came.
pub fn passed(body: &mut Map<String, Value>, model: &str) {
    let Some(claude) = claude(model) else { return };
    drop_thinking(body, |block| {
        block["type"] == "thinking" && block["signature"].as_str().is_none_or(str::is_empty)
    });
    let thought = body.contains_key("thinking");
    fit_thinking(body, claude);
    fit_effort(body, claude.effort);
    if !claude.late_system {
        move_late_system(body);
    }
    if !claude.fast {
        body.shift_remove("speed");
    }
    if thought && !body.contains_key("thinking") {
        keep_thinking_edits_out(body);
    }
}

/// Leaves out what models from Claude 4.7 on take no more, for callers of every format: they choose tokens by
/// themselves.
pub fn sampling(body: &mut Map<String, Value>, model: &str) {
    if claude(model).is_some_and(|claude| !claude.sampling) {
        for name in ["temperature", "top_p", "top_k"] {
            body.shift_remove(name);
        }
    }
}

/// How it is to think, in the way that the model has.
fn fit_thinking(body: &mut Map<String, Value>, claude: ClaudeModel) {
    let (bound, effort) = (
        body.get("max_tokens").and_then(Value::as_u64).unwrap_or(0),
        body.get("output_config").and_then(|config| config["effort"].as_str()).map(str::to_owned),
    );
    let unthought = body.get("messages").and_then(Value::as_array).is_some_and(|list| calls_unthought(list));
    let Some(thinking) = body.get_mut("thinking").filter(|thinking| thinking.is_object()) else { return };
    let budget = thinking["budget_tokens"].as_u64();
    let kind = thinking["type"].as_str().unwrap_or_default();
    match (claude.thinks, kind) {
        (Thinks::Never, _) => {
            body.shift_remove("thinking");
        }
        (_, "disabled") if claude.off != Off::Disabled => {
            body.shift_remove("thinking");
            if claude.off == Off::Never && effort.is_none() {
                let config = body.entry("output_config").or_insert_with(|| json!({}));
                config.as_object_mut().into_iter().for_each(|config| {
                    config.insert("effort".into(), "low".into());
                });
            }
        }
        (Thinks::Budget, "adaptive") => {
            let wanted = effort.as_deref().map_or(Wanted::On, Wanted::Effort);
            let budget = budget_of(wanted).unwrap_or(BUDGET_TOKENS_MIN).min(bound / 2);
            if budget < BUDGET_TOKENS_MIN || unthought {
                body.shift_remove("thinking");
            } else {
                *thinking = json!({"type": "enabled", "budget_tokens": budget});
            }
        }
        // Thinking with a budget cannot go on from calls of another model, whose thinking is not there.
        (Thinks::Budget | Thinks::Either, "enabled") if unthought => {
            body.shift_remove("thinking");
        }
        (Thinks::Adaptive, "enabled") => {
            *thinking = json!({"type": "adaptive"});
            // As much as the budget was.
            let word = budget.and_then(|tokens| Wanted::Budget(tokens).effort()).filter(|_| effort.is_none());
            let config = body.entry("output_config").or_insert_with(|| json!({}));
            if let (Some(word), Some(config)) = (word, config.as_object_mut()) {
                config.insert("effort".into(), word.into());
            }
            if body.get("output_config").is_some_and(|config| *config == json!({})) {
                body.shift_remove("output_config");
            }
        }
        _ => {}
    }
}

/// The effort, where the model takes one, and as far as it goes.
fn fit_effort(body: &mut Map<String, Value>, taken: Effort) {
    let Some(config) = body.get_mut("output_config").and_then(Value::as_object_mut) else { return };
    let Some(word) = config.get("effort").and_then(Value::as_str) else { return };
    match taken.word(word).map(str::to_owned) {
        Some(word) => {
            config.insert("effort".into(), word.into());
        }
        None => {
            config.shift_remove("effort");
            if config.is_empty() {
                body.shift_remove("output_config");
            }
        }
    }
}

/// Messages with the role `system` for a model that knows none: those before the user's first are a part of
/// `system`, later ones a user's text where they stand, so that what is before them stays as it is in the cache.
fn move_late_system(body: &mut Map<String, Value>) {
    let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) else { return };
    if !messages.iter().any(|message| message["role"] == "system") {
        return;
    }
    let blocks = |content: Value| match content {
        Value::Array(blocks) => blocks,
        Value::Null => Vec::new(),
        text => vec![json!({"type": "text", "text": text})],
    };
    let mut front = Vec::new();
    let mut out: Vec<Value> = Vec::with_capacity(messages.len());
    for mut message in messages.drain(..) {
        if message["role"] != "system" {
            out.push(message);
            continue;
        }
        let mut said = blocks(message["content"].take());
        if out.is_empty() {
            front.append(&mut said);
            continue;
        }
        for block in &mut said {
            if let Some(text) = block.get("text").and_then(Value::as_str) {
                block["text"] = format!("<system>\n{text}\n</system>").into();
            }
        }
        // Neighbours of one role are one message to Anthropic.
        out.push(json!({"role": "user", "content": said}));
    }
    *messages = out;
    if !front.is_empty() {
        let system = body.entry("system").or_insert(Value::Null);
        let mut all = blocks(system.take());
        all.append(&mut front);
        *system = all.into();
    }
}

/// Edits that clear thinking are refused where there is none.
fn keep_thinking_edits_out(body: &mut Map<String, Value>) {
    let Some(edits) = body.get_mut("context_management").and_then(|it| it.get_mut("edits")) else { return };
    let Some(edits) = edits.as_array_mut() else { return };
    edits.retain(|edit| !edit["type"].as_str().is_some_and(|kind| kind.starts_with("clear_thinking")));
    if edits.is_empty() {
        body.shift_remove("context_management");
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
