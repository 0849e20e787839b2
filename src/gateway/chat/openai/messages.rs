//! A request in Anthropic's format for one of our engines: translated to OpenAI's, with nothing lost that
//! would change the answer, and with what Anthropic's format means by a last message of the assistant's:
//! the answer goes on from it
//! (<https://docs.anthropic.com/en/docs/build-with-claude/prompt-engineering/prefill-claudes-response>).

use super::{known_fields, thinking};
use crate::config::{Compat, ReasoningSwitch, compat};
use crate::gateway::chat::{reasoning, to_openai};
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::Value;

/// The body for an engine. An error names the field of the caller's body.
pub fn for_engine(body: &Value) -> Result<Value, BadField> {
    known_fields::check(&Fields::root(body)?, known_fields::MESSAGES)?;
    // `thinking` keeps its name.
    let compat = Compat { reasoning: ReasoningSwitch::DeepSeek, ..compat::novastack() };
    let mut out = to_openai(body, &compat)?;
    if reasoning::is_off_by_effort_alone(body) {
        out["thinking"][thinking::IS_PROMISE] = false.into();
    }
    open_last(body, &mut out)?;
    Ok(out)
}

/// A last message of the assistant's is left open, by Anthropic's rules: it ends with text, which does
/// not end with white space; an empty one is none.
fn open_last(body: &Value, out: &mut Value) -> Result<(), BadField> {
    let Some(messages) = body["messages"].as_array() else { return Ok(()) };
    let Some(last) = messages.last().filter(|last| last["role"] == "assistant") else { return Ok(()) };
    let path = format!("messages[{}].content", messages.len() - 1);
    let blocks = last["content"].as_array();
    match blocks.and_then(|blocks| blocks.last()).and_then(|block| block["type"].as_str()) {
        Some("tool_use") => {
            return Err(BadField::new(path, "ends with a tool's call, whose result must follow"));
        }
        Some("thinking" | "redacted_thinking") => {
            let why = "ends with thinking: an answer goes on from text only";
            return Err(BadField::new(path, why));
        }
        _ => {}
    }
    let Some(translated) = out["messages"].as_array_mut() else { return Ok(()) };
    let text = translated.last().and_then(|last| last["content"].as_str()).unwrap_or_default();
    if text.is_empty() {
        translated.pop();
        if translated.is_empty() {
            return Err(BadField::new(path, "must have text where it is the only message"));
        }
        return Ok(());
    }
    if text.ends_with(char::is_whitespace) {
        let why = "must not end with white space: the answer goes on from it, and words begin with theirs";
        return Err(BadField::new(path, why));
    }
    out["continue_final_message"] = true.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn translated(last: Value) -> Result<Value, BadField> {
        let user = json!({"role": "user", "content": "Count."});
        let last = json!({"role": "assistant", "content": last});
        for_engine(&json!({"model": "m", "max_tokens": 9, "messages": [user, last]}))
    }

    #[test]
    fn the_last_message_of_the_assistants_is_left_open() {
        for last in [json!("1, 2"), json!([{"type": "text", "text": "1, "}, {"type": "text", "text": "2"}])] {
            let body = translated(last).unwrap();
            assert_eq!(body["continue_final_message"], true);
            assert_eq!(body["messages"][1], json!({"role": "assistant", "content": "1, 2"}));
        }
        let thought =
            json!([{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "1"}]);
        let body = translated(thought).unwrap();
        assert_eq!(body["continue_final_message"], true);
        assert_eq!(body["messages"][1]["reasoning_content"], "hm");
        // Nothing to go on from: the answer is a whole one.
        for last in [json!(""), json!([])] {
            let body = translated(last).unwrap();
            assert_eq!(
                (body.get("continue_final_message"), body["messages"].as_array().unwrap().len()),
                (None, 1)
            );
        }
        let ends = json!({"role": "user", "content": "hi"});
        let body = for_engine(&json!({"model": "m", "max_tokens": 9, "messages": [ends]})).unwrap();
        assert_eq!(body.get("continue_final_message"), None);
    }

    #[test]
    fn what_no_answer_can_go_on_from_is_refused() {
        let call =
            json!([{"type": "text", "text": "1"}, {"type": "tool_use", "id": "a", "name": "f", "input": {}}]);
        let thinking = json!([{"type": "thinking", "thinking": "hm", "signature": ""}]);
        for (last, says) in [
            (json!("1, 2 "), "white space"),
            (json!([{"type": "text", "text": "1\n"}]), "white space"),
            (call, "a tool's call"),
            (thinking, "thinking"),
        ] {
            let error = translated(last).unwrap_err();
            assert_eq!(error.param, "messages[1].content");
            assert!(error.reason.contains(says), "{error}");
        }
    }

    #[test]
    fn a_field_that_would_change_the_answer_is_not_lost() {
        for name in
            ["grammar", "json_schema", "regex", "ebnf", "structural_tag", "documents", "seed", "min_p"]
        {
            let hello = json!([{"role": "user", "content": "hi"}]);
            let body = json!({"model": "m", "max_tokens": 9, "messages": hello, name: 1});
            assert_eq!(for_engine(&body).unwrap_err().param, name);
        }
        let hello = json!([{"role": "user", "content": "hi"}]);
        let empty = json!({"model": "m", "max_tokens": 9, "messages": hello, "mcp_servers": [], "tools": [],
            "grammar": "", "service_tier": "auto"});
        assert!(for_engine(&empty).is_ok());
    }
}
