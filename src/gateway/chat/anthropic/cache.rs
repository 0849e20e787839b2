//! Marks for Anthropic's cache of prompts, which keeps nothing that is not marked
//! (<https://docs.claude.com/en/docs/build-with-claude/prompt-caching>). OpenAI's callers mark nothing, as its cache needs
//! no marks; for them the beginning that a conversation's next request has too is marked: the tools, the system
//! prompt, and all up to the last but one of the user's messages. Three of the four marks that a request may have.
//!
//! What is written to the cache costs a quarter more than other input, what is read from it a tenth; prompts that are
//! shorter than the model's least (1024 tokens and more) are not kept, and cost as ever.

use serde_json::{Map, Value, json};

/// Marks a body that has no marks of its caller's.
pub fn mark(body: &mut Map<String, Value>) {
    if is_marked(body) {
        return;
    }
    let last_tool = body.get_mut("tools").and_then(Value::as_array_mut).and_then(|tools| tools.last_mut());
    last_tool.into_iter().for_each(put);
    match body.get_mut("system") {
        Some(system @ Value::String(_)) => {
            let text = system.take();
            *system = json!([{"type": "text", "text": text}]);
            put(&mut system[0]);
        }
        Some(Value::Array(blocks)) => blocks.last_mut().into_iter().for_each(put),
        _ => {}
    }
    let messages = body.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten();
    let mut users = messages.filter(|message| message["role"] == "user").rev();
    let stable = users.nth(1).and_then(|message| message.get_mut("content")?.as_array_mut()?.last_mut());
    stable.into_iter().for_each(put);
}

fn put(block: &mut Value) {
    if let Some(block) = block.as_object_mut() {
        block.insert("cache_control".into(), json!({"type": "ephemeral"}));
    }
}

fn is_marked(body: &Map<String, Value>) -> bool {
    let has = |block: &Value| block.get("cache_control").is_some();
    let list =
        |value: Option<&Value>| value.and_then(Value::as_array).is_some_and(|list| list.iter().any(has));
    let messages = body.get("messages").and_then(Value::as_array);
    body.contains_key("cache_control")
        || list(body.get("tools"))
        || list(body.get("system"))
        || messages.into_iter().flatten().any(|message| {
            let blocks = message.get("content").and_then(Value::as_array).into_iter().flatten();
            list(message.get("content")) || blocks.into_iter().any(|block| list(block.get("content")))
        })
}
