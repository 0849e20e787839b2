//! What is kept of earlier responses, and requests that go on from them.

use super::super::request::{Request, read};
use super::super::store::{Bounds, OfOneKey, ResponseStore};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Mutex;

const NOW: u64 = 1_700_000_000;

fn store(bounds: Bounds) -> Mutex<ResponseStore> {
    Mutex::new(ResponseStore::new(bounds))
}

fn ask(store: &Mutex<ResponseStore>, key: &str, body: Value) -> Result<Request, String> {
    read(&body, &OfOneKey { store, key, now_s: NOW }).map_err(|error| error.param)
}

fn answer(id: &str, text: &str) -> Value {
    let content = json!([{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]);
    let item = json!({"id": format!("msg_{id}"), "type": "message", "status": "completed", "role": "assistant",
                      "content": content});
    json!({"id": format!("resp_{id}"), "object": "response", "output": [item]})
}

/// Asks and keeps the answer.
fn turn(store: &Mutex<ResponseStore>, key: &str, body: Value, id: &str, said: &str) -> Value {
    let request = ask(store, key, body).expect("a good request");
    assert!(request.asked.store);
    let mut store = store.lock().unwrap();
    store.put(key, answer(id, said), &request.conversation, request.added, NOW);
    request.chat["messages"].clone()
}

#[test]
fn a_conversation_goes_on_by_previous_response_id() {
    let store = store(Bounds::default());
    turn(&store, "k", json!({"input": "My name is Ada.", "instructions": "Be brief."}), "1", "Hello Ada.");
    let second =
        json!({"input": [{"role": "user", "content": "Who am I?"}], "previous_response_id": "resp_1"});
    turn(&store, "k", second, "2", "Ada.");
    let third = json!({"input": "Sure?", "previous_response_id": "resp_2", "instructions": "Be kind."});
    let messages = turn(&store, "k", third, "3", "Yes.");
    // Instructions are a request's own.
    assert_eq!(
        messages,
        json!([
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": "Hello Ada."},
            {"role": "user", "content": "Who am I?"},
            {"role": "assistant", "content": "Ada."},
            {"role": "user", "content": "Sure?"},
        ])
    );
    // Another branch of the same conversation.
    let branch = json!({"input": "And you?", "previous_response_id": "resp_1"});
    assert_eq!(turn(&store, "k", branch, "4", "Hal.").as_array().unwrap().len(), 3);
    // What went before may be forgotten without what came of it.
    assert!(store.lock().unwrap().delete("k", "resp_1"));
    assert!(!store.lock().unwrap().delete("k", "resp_1"));
    let fourth = json!({"input": "x", "previous_response_id": "resp_3"});
    assert_eq!(ask(&store, "k", fourth).unwrap().chat["messages"].as_array().unwrap().len(), 7);
    let gone = json!({"input": "x", "previous_response_id": "resp_1"});
    assert_eq!(ask(&store, "k", gone).unwrap_err(), "previous_response_id");
}

#[test]
fn a_tools_output_goes_back_alone() {
    let store = store(Bounds::default());
    let request = ask(&store, "k", json!({"input": "weather?"})).unwrap();
    let call = json!({"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "a", "name": "get",
                      "arguments": "{}"});
    let response = json!({"id": "resp_1", "output": [call]});
    store.lock().unwrap().put("k", response, &request.conversation, request.added, NOW);
    let output = json!({"type": "function_call_output", "call_id": "a", "output": "sunny"});
    let body = json!({"input": [output], "previous_response_id": "resp_1"});
    let messages = ask(&store, "k", body).unwrap().chat["messages"].clone();
    assert_eq!(messages[1]["tool_calls"][0]["id"], "a");
    assert_eq!(messages[2], json!({"role": "tool", "tool_call_id": "a", "content": "sunny"}));
    // Without it the call has no answer.
    let body = json!({"input": "well?", "previous_response_id": "resp_1"});
    assert_eq!(ask(&store, "k", body).unwrap_err(), "previous_response_id.call_id");
}

#[test]
fn a_key_sees_its_own_responses_only() {
    let store = store(Bounds::default());
    turn(&store, "k", json!({"input": "secret"}), "1", "x");
    let body = json!({"input": "?", "previous_response_id": "resp_1"});
    assert_eq!(ask(&store, "other", body).unwrap_err(), "previous_response_id");
    let reference = json!({"input": [{"type": "item_reference", "id": "msg_1"}]});
    assert_eq!(ask(&store, "other", reference.clone()).unwrap_err(), "input[0].id");
    let mut kept = store.lock().unwrap();
    assert_eq!(kept.get("other", "resp_1", NOW), None);
    assert!(!kept.delete("other", "resp_1"));
    assert_eq!(kept.input_items("other", "resp_1", &json!({}), NOW), Ok(None));
    assert!(kept.get("k", "resp_1", NOW).is_some());
    drop(kept);
    let messages = ask(&store, "k", reference).unwrap().chat["messages"].clone();
    assert_eq!(messages, json!([{"role": "assistant", "content": "x"}]));
}

#[test]
fn what_is_kept_has_bounds() {
    let few = Bounds { responses_per_key_max: 2, ..Bounds::default() };
    let store = store(few);
    for id in ["1", "2"] {
        turn(&store, "k", json!({"input": "x"}), id, "y");
    }
    // The first is used, so the second goes.
    assert!(store.lock().unwrap().get("k", "resp_1", NOW).is_some());
    turn(&store, "k", json!({"input": "x"}), "3", "y");
    turn(&store, "other", json!({"input": "x"}), "9", "y");
    let mut kept = store.lock().unwrap();
    let there: Vec<bool> =
        ["1", "2", "3"].map(|id| kept.get("k", &format!("resp_{id}"), NOW).is_some()).into();
    assert_eq!(there, [true, false, true]);
    assert_eq!(kept.len(), 3);
    // Too old, however lately it was used.
    let old = NOW + few.age_s_max;
    assert!(kept.get("k", "resp_1", old).is_some());
    assert_eq!(kept.get("k", "resp_1", old + 1), None);
    assert!(kept.is_empty());
    assert_eq!(kept.bytes(), 0);
}

#[test]
fn a_long_conversation_is_kept_once() {
    let store = store(Bounds::default());
    let long = "x".repeat(100_000);
    turn(&store, "k", json!({"input": long}), "0", "y");
    let one = store.lock().unwrap().bytes();
    for id in 1..50 {
        let body = json!({"input": "more", "previous_response_id": format!("resp_{}", id - 1)});
        turn(&store, "k", body, &id.to_string(), "y");
    }
    let mut kept = store.lock().unwrap();
    assert!(kept.bytes() < 3 * one + 50 * 4000, "{} {one}", kept.bytes());
    for id in 0..50 {
        assert!(kept.bytes() > 100_000);
        assert!(kept.delete("k", &format!("resp_{id}")));
    }
    assert_eq!(kept.bytes(), 0);
}

#[test]
fn a_response_larger_than_its_bound_is_not_kept() {
    let store = store(Bounds { bytes_per_key_max: 10_000, ..Bounds::default() });
    turn(&store, "k", json!({"input": "x".repeat(20_000)}), "1", "y");
    assert!(store.lock().unwrap().is_empty());
}

#[test]
fn the_items_of_a_request_are_listed_in_pages() {
    let store = store(Bounds::default());
    let input = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                       {"id": "msg_x", "role": "user", "content": [{"type": "input_text", "text": "c"}]}]);
    turn(&store, "k", json!({"input": input}), "1", "d");
    let mut kept = store.lock().unwrap();
    let mut page = |query: Value| kept.input_items("k", "resp_1", &query, NOW).unwrap().unwrap();
    let first = page(json!({"order": "asc", "limit": 2}));
    assert_eq!(
        first["data"][0],
        json!({"role": "user", "content": [{"type": "input_text", "text": "a"}], "type": "message",
               "status": "completed", "id": "msg_1_in0"})
    );
    assert_eq!(first["data"][1]["content"][0]["type"], "output_text");
    assert_eq!((&first["has_more"], &first["last_id"]), (&json!(true), &json!("msg_1_in1")));
    let second = page(json!({"order": "asc", "after": "msg_1_in1"}));
    assert_eq!((second["data"].as_array().unwrap().len(), &second["has_more"]), (1, &json!(false)));
    assert_eq!(page(json!({}))["first_id"], "msg_x");
    for (query, param) in [
        (json!({"order": "up"}), "order"),
        (json!({"limit": 0}), "limit"),
        (json!({"after": "msg_none"}), "after"),
    ] {
        assert_eq!(kept.input_items("k", "resp_1", &query, NOW).unwrap_err().param, param);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Puts, uses and deletions in any order, by keys that share a small store.
    #[test]
    fn nothing_is_kept_beyond_its_bounds(
        steps in prop::collection::vec((0u8..4, 0u8..3, 0u8..12, 0u8..12, 0usize..3000, 0u64..40), 1..120)
    ) {
        let bounds = Bounds { responses_per_key_max: 4, bytes_per_key_max: 9000, bytes_max: 20_000, age_s_max: 300 };
        let store = store(bounds);
        let mut now_s = NOW;
        for (what, key, id, previous, bytes, later_s) in steps {
            now_s += later_s;
            let (key, id) = (format!("k{key}"), format!("{id}"));
            let mut body = json!({"input": "x".repeat(bytes)});
            match what {
                0 | 1 => {
                    if what == 1 {
                        body["previous_response_id"] = format!("resp_{previous}").into();
                    }
                    let view = OfOneKey { store: &store, key: &key, now_s };
                    if let Ok(request) = read(&body, &view) {
                        let mut kept = store.lock().unwrap();
                        kept.put(&key, answer(&id, "y"), &request.conversation, request.added, now_s);
                    }
                }
                2 => drop(store.lock().unwrap().get(&key, &format!("resp_{id}"), now_s)),
                _ => drop(store.lock().unwrap().delete(&key, &format!("resp_{id}"))),
            }
            let kept = store.lock().unwrap();
            prop_assert!(kept.bytes() <= bounds.bytes_max);
            prop_assert!(kept.len() <= 3 * bounds.responses_per_key_max);
            prop_assert_eq!(kept.is_empty(), kept.bytes() == 0);
        }
        let mut kept = store.lock().unwrap();
        for key in 0..3 {
            for id in 0..12 {
                kept.delete(&format!("k{key}"), &format!("resp_{id}"));
            }
        }
        prop_assert_eq!((kept.len(), kept.bytes()), (0, 0));
    }
}
