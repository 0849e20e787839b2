//! Bodies and events of any shape: an error, never a panic.

use super::super::super::{ChatEvent, Frame};
use super::super::decode::{ResponsesDecoder, whole};
use super::super::encode;
use super::super::request::{NothingKept, read};
use super::super::upstream::to_responses;
use super::head;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;

const NAMES: [&str; 44] = [
    "type",
    "role",
    "content",
    "text",
    "call_id",
    "id",
    "name",
    "namespace",
    "arguments",
    "input",
    "output",
    "tools",
    "tool_choice",
    "action",
    "operation",
    "summary",
    "encrypted_content",
    "status",
    "format",
    "syntax",
    "definition",
    "environment",
    "execution",
    "parameters",
    "mode",
    "image_url",
    "file_data",
    "refusal",
    "reasoning",
    "include",
    "instructions",
    "store",
    "stream",
    "response",
    "item",
    "delta",
    "output_index",
    "usage",
    "error",
    "messages",
    "tool_calls",
    "function",
    "reasoning_details",
    "data",
];
const WORDS: [&str; 40] = [
    "message",
    "user",
    "assistant",
    "developer",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "tool",
    "custom_tool_call_output",
    "reasoning",
    "local_shell_call",
    "shell_call",
    "apply_patch_call",
    "tool_search_call",
    "tool_search_output",
    "additional_tools",
    "web_search_call",
    "item_reference",
    "function",
    "custom",
    "namespace",
    "local_shell",
    "shell",
    "apply_patch",
    "tool_search",
    "web_search",
    "grammar",
    "client",
    "allowed_tools",
    "auto",
    "required",
    "input_text",
    "output_text",
    "input_image",
    "input_file",
    "a",
    "novastack/1:{}",
    "text",
    "{}",
    "reasoning.encrypted_content",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => (-2i64..30).prop_map(Value::from),
        8 => prop::sample::select(&WORDS[..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            3 => prop::collection::vec((prop::sample::select(&NAMES[..]), inner), 0..7).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

/// An object that says what it is.
fn any_item() -> impl Strategy<Value = Value> {
    (prop::sample::select(&WORDS[..]), any_json()).prop_map(|(kind, value)| {
        let mut item = Map::new();
        item.insert("type".into(), kind.into());
        item.insert("call_id".into(), "a".into());
        item.extend(
            value.as_object().cloned().unwrap_or_default().into_iter().filter(|(name, _)| name != "type"),
        );
        item.into()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_request_is_too_odd(
        items in prop::collection::vec(any_item(), 0..6),
        tools in prop::collection::vec(any_item(), 0..4),
        more in any_json(),
    ) {
        let mut body = json!({"model": "m"});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        body["input"] = items.into();
        body["tools"] = tools.into();
        if let Ok(request) = read(&body, &NothingKept) {
            // What was read is a chat completion that another provider can be asked by.
            prop_assert!(request.chat["messages"].is_array());
            to_responses(&request.chat).expect("it can be said again");
        }
        let _ = to_responses(&more);
    }

    #[test]
    fn no_answer_is_too_odd(events in prop::collection::vec((0usize..12, any_json(), any_item()), 0..10)) {
        const KINDS: [&str; 12] = [
            "response.created", "response.output_item.added", "response.output_item.done", "response.output_text.delta",
            "response.refusal.delta", "response.reasoning_text.delta", "response.reasoning_summary_text.delta",
            "response.function_call_arguments.delta", "response.completed", "response.incomplete", "response.failed",
            "error",
        ];
        let (mut decoder, mut out) = (ResponsesDecoder::default(), Vec::<ChatEvent>::new());
        for (kind, mut event, item) in events {
            let _ = whole(&event.to_string());
            if let Some(fields) = event.as_object_mut() {
                fields.insert("item".into(), item);
            }
            let frame = Frame { event: Some(KINDS[kind].to_owned()), data: event.to_string() };
            if decoder.frame(&frame, &mut out).is_err() {
                break;
            }
        }
        encode::whole(&head(), Arc::default(), &out).expect("what was read can be written");
    }
}
