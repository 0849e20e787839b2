//! Conversations as clients really send them, to a local model and through both dialects to upstreams.

use super::{chat, merged, serve};
use crate::support::upstream::Upstream;
use serde_json::{Value, json};

const WIDE: &str = "123456789012345678901234567890";

/// What `/v1/chat/completions` and `/tokenize` make of these messages.
fn calls(arguments: Value) -> Value {
    json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ])
}

#[tokio::test]
async fn history_that_clients_really_send_is_answered() {
    let server = serve(&[]);
    let mut histories: Vec<Value> =
        [json!(""), json!(null), json!("{\"value\": "), json!("{}"), json!({"a": 1})]
            .into_iter()
            .map(calls)
            .collect();
    let user = json!({"role": "user", "content": "hi"});
    for message in [
        json!({"role": "assistant", "content": [], "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f"}}]}),
        json!({"role": "assistant", "content": null}),
        json!({"role": "assistant", "content": null, "refusal": "No."}),
        json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}),
        json!({"role": "tool", "tool_call_id": "c1", "content": []}),
    ] {
        histories.push(json!([user, message, user]));
    }
    for messages in histories {
        let (status, answer) =
            server.post("/v1/chat/completions", &chat(json!({"messages": messages}))).await;
        assert_eq!(status, 200, "{messages}: {answer}");
    }
    for content in [
        json!([{"type": "tool_use", "id": "c1", "name": "f", "input": {}}]),
        json!([{"type": "tool_use", "id": "c1", "name": "f"}]),
        json!([{"type": "tool_use", "id": "c1", "name": "f", "input": "{\"value\": "}]),
        json!([]),
        json!(null),
    ] {
        let result = json!([{"type": "tool_result", "tool_use_id": "c1", "content": []}]);
        let messages =
            json!([user, {"role": "assistant", "content": content}, {"role": "user", "content": result}]);
        let body = json!({"model": "tiny", "max_tokens": 2, "messages": messages});
        let (status, answer) = server.post("/v1/messages", &body).await;
        assert_eq!(status, 200, "{content}: {answer}");
    }
}

/// What an upstream gets of a body with integers beyond 64 bits, from a caller of either dialect.
#[tokio::test]
async fn integers_beyond_64_bits_reach_upstreams_as_they_were_written() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway =
        crate::gateway::start(&crate::gateway::fill(crate::gateway::CONFIG, &openai, &anthropic), &[]);
    let schema = format!(
        r#"{{"type":"object","properties":{{"id":{{"type":"integer","maximum":{WIDE},"multipleOf":1.0000000000000000000001}}}}}}"#
    );
    let arguments = format!(r#"{{"id":{WIDE},"x":0.10000000000000000000005}}"#);
    let from_openai = |model: &str| {
        let quoted = serde_json::to_string(&arguments).expect("a string");
        format!(
            r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}},{{"role":"assistant","content":null,"tool_calls":[{{"id":"c1","type":"function","function":{{"name":"f","arguments":{quoted}}}}}]}},{{"role":"tool","tool_call_id":"c1","content":"8"}}],"tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]}}"#
        )
    };
    let from_anthropic = |model: &str| {
        format!(
            r#"{{"model":"{model}","max_tokens":64,"messages":[{{"role":"user","content":"hi"}},{{"role":"assistant","content":[{{"type":"tool_use","id":"c1","name":"f","input":{arguments}}}]}},{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"c1","content":"8"}}]}}],"tools":[{{"name":"f","input_schema":{schema}}}]}}"#
        )
    };
    for (path, body) in [
        ("/v1/chat/completions", from_openai("deepseek-v4-pro")),
        ("/v1/chat/completions", from_openai("claude-opus-4.7")),
        ("/v1/messages", from_anthropic("deepseek-v4-pro")),
        ("/v1/messages", from_anthropic("claude-opus-4.7")),
    ] {
        let upstream = if body.contains("deepseek") { &openai } else { &anthropic };
        let client = crate::support::client();
        let request = client.post(format!("{}{path}", gateway.server.url));
        let answer = request.header("content-type", "application/json").body(body).send().await;
        assert_eq!(answer.expect("an answer").status().as_u16(), 200);
        let sent = upstream.asked().last().expect("a request").body.to_string();
        let escaped = sent.replace("\\\"", "\"");
        assert!(sent.contains(&schema), "{path}: {sent}");
        assert!(escaped.contains(&arguments), "{path}: {sent}");
    }
}

/// Anthropic's format: a last message of the assistant's is the beginning of the answer, which has only
/// what follows.
#[tokio::test]
async fn an_anthropic_prefill_is_continued() {
    let server = serve(&[]);
    let user = json!({"role": "user", "content": "Count to three."});
    let prefilled = json!([user, {"role": "assistant", "content": "1, 2"}]);
    let message = |more: Value| {
        merged(json!({"model": "tiny", "max_tokens": 8, "temperature": 0, "messages": prefilled}), more)
    };
    let (status, answer) = server.post("/v1/messages", &message(json!({}))).await;
    assert_eq!(status, 200, "{answer}");
    let open = json!({"messages": prefilled, "max_tokens": 8, "temperature": 0, "ignore_eos": false,
        "continue_final_message": true, "add_generation_prompt": false});
    let (_, continued) = server.post("/v1/chat/completions", &chat(open)).await;
    assert_eq!(answer["content"][0]["text"], continued["choices"][0]["message"]["content"]);
    assert_eq!(answer["usage"]["input_tokens"], continued["usage"]["prompt_tokens"]);
    // Not what a second turn of the assistant's would say.
    let closed = json!({"messages": prefilled, "max_tokens": 8, "temperature": 0, "ignore_eos": false});
    let (_, closed) = server.post("/v1/chat/completions", &chat(closed)).await;
    assert_ne!(closed["usage"]["prompt_tokens"], answer["usage"]["input_tokens"]);
    let (_, count) = server.post("/v1/messages/count_tokens", &message(json!({}))).await;
    assert_eq!(count["input_tokens"], answer["usage"]["input_tokens"], "counted as it is answered");
    for (content, says) in [
        (json!("1, 2 "), "white space"),
        (json!([{"type": "tool_use", "id": "a", "name": "f", "input": {}}]), "tool"),
    ] {
        let messages = json!([user, {"role": "assistant", "content": content}]);
        let (status, answer) = server.post("/v1/messages", &message(json!({"messages": messages}))).await;
        assert_eq!((status, &answer["error"]["type"]), (400, &json!("invalid_request_error")), "{answer}");
        let told = answer["error"]["message"].as_str().expect("a message");
        assert!(told.contains("messages[1].content") && told.contains(says), "{told}");
    }
}

/// The text hides special tokens; a stop string that is one ends the answer all the same.
#[tokio::test]
async fn stop_strings_match_special_tokens_that_the_text_hides() {
    let server = serve(&[]);
    let ask = |more: Value| {
        let always = json!({"logit_bias": {"317": 100}, "max_tokens": 5, "temperature": 0});
        chat(merged(always, more))
    };
    let (_, free) = server.post("/v1/chat/completions", &ask(json!({}))).await;
    assert_eq!(
        (&free["choices"][0]["finish_reason"], &free["usage"]["completion_tokens"]),
        (&json!("length"), &json!(5))
    );
    for stop in [json!(["<|endoftext|>"]), json!("<|endoftext|>")] {
        let (_, answer) = server.post("/v1/chat/completions", &ask(json!({"stop": stop}))).await;
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        assert_eq!(
            (&answer["choices"][0]["message"]["content"], &answer["usage"]["completion_tokens"]),
            (&json!(""), &json!(1))
        );
    }
    let (_, shown) = server
        .post(
            "/v1/chat/completions",
            &ask(json!({"stop": "<|endoftext|>",
        "include_stop_str_in_output": true})),
        )
        .await;
    assert_eq!(shown["choices"][0]["message"]["content"], "<|endoftext|>");
}
