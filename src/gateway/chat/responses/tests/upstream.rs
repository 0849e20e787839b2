//! Chat completions as requests for a provider that speaks Responses.

use super::super::super::{ChatEvent, StopReason};
use super::super::request::{NothingKept, read};
use super::super::upstream::to_responses;
use crate::gateway::chat::openai::encode as openai;
use crate::gateway::chat::{AnswerHead, EncodeOptions};
use serde_json::{Value, json};

fn translated(more: Value) -> Value {
    let mut body = json!({"model": "gpt-5.1", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    to_responses(&body).expect("a good body")
}

#[test]
fn every_field_has_its_place() {
    let body = translated(json!({
        "max_tokens": 50, "temperature": 0.5, "stream": true, "stream_options": {"include_usage": true}, "seed": 3,
        "n": 1, "user": "u", "metadata": {"a": "b"}, "reasoning_effort": "none", "logprobs": true, "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}, "strict": true}},
        "verbosity": "low", "frequency_penalty": 0, "stop": [], "logit_bias": {}, "parallel_tool_calls": false,
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "g", "strict": true}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }));
    assert_eq!(
        body,
        json!({
            "model": "gpt-5.1", "temperature": 0.5, "stream": true, "user": "u", "metadata": {"a": "b"},
            "parallel_tool_calls": false,
            "input": [{"type": "message", "role": "user", "content": "hi"}],
            "tools": [
                {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": false,
                 "description": "d"},
                {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {}}, "strict": true},
            ],
            "tool_choice": {"type": "function", "name": "f"}, "max_output_tokens": 50,
            "reasoning": {"effort": "none"},
            "text": {"verbosity": "low", "format": {"type": "json_schema", "schema": {"type": "object"},
                     "strict": true, "name": "response"}},
            "include": ["reasoning.encrypted_content", "message.output_text.logprobs"], "top_logprobs": 2,
            "store": false,
        })
    );
    // Their least bound; models that do not reason refuse the word.
    let small = translated(json!({"max_completion_tokens": 1, "model": "gpt-4o-mini"}));
    assert_eq!((&small["max_output_tokens"], small.get("include")), (&json!(16), None));
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
        {"type": "function", "function": {"name": "f"}}]}});
    assert_eq!(
        translated(json!({"tool_choice": allowed}))["tool_choice"],
        json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]})
    );
    assert_eq!(
        translated(json!({"thinking": {"type": "enabled", "budget_tokens": 2000}}))["reasoning"]["effort"],
        "low"
    );
}

#[test]
fn what_has_no_place_is_refused_by_name() {
    for (more, param) in [
        (json!({"stop": ["x"]}), "stop"),
        (json!({"n": 2}), "n"),
        (json!({"logit_bias": {"1": 2}}), "logit_bias"),
        (json!({"presence_penalty": 1}), "presence_penalty"),
        (json!({"modalities": ["audio"]}), "modalities"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "function", "content": "x"}]}), "messages[0].role"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}),
            "messages[0].content[0].type",
        ),
        (json!({"tools": [{"type": "custom", "custom": {"name": "x"}}]}), "tools[0].type"),
        (json!({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}), "tool_choice.type"),
    ] {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        assert_eq!(to_responses(&body).expect_err("it is refused").param, param, "{more}");
    }
}

#[test]
fn a_conversation_is_the_same_there_and_back() {
    let call =
        |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}});
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "what?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "high"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}},
        ]},
        {"role": "assistant", "content": "Looking.", "tool_calls": [call("functions.f:0"), call("b")]},
        {"role": "tool", "tool_call_id": "functions.f:0", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": "two"},
        {"role": "assistant", "content": "", "refusal": "No."},
        {"role": "user", "content": "why"},
    ]);
    let there = to_responses(&json!({"model": "m", "messages": messages})).unwrap();
    let back = read(&there, &NothingKept).unwrap().chat["messages"].clone();
    assert_eq!(back, messages);
}

#[test]
fn encrypted_reasoning_goes_back_to_who_made_it() {
    // An OpenAI caller of a Responses provider: what the answer said comes back with the next request.
    let events = [
        ChatEvent::Start { id: None, model: Some("gpt-5.1".into()) },
        ChatEvent::RedactedReasoning { choice: 0, data: "openai-responses:gAAAA".into() },
        ChatEvent::Text { choice: 0, text: "Hi".into() },
        ChatEvent::Finish { choice: 0, reason: StopReason::End },
    ];
    let head = AnswerHead { id: "x".into(), model: "m".into(), created_unix_s: 0 };
    let answer = openai::whole(&head, &EncodeOptions::default(), &events).unwrap();
    let message = answer["choices"][0]["message"].clone();
    let body = json!({"model": "gpt-5.1", "messages": [{"role": "user", "content": "x"}, message]});
    let input = to_responses(&body).unwrap()["input"].clone();
    assert_eq!(input[1], json!({"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}));
    assert_eq!(input[2]["content"][0]["text"], "Hi");
    // What others have signed is nothing to it.
    let signed = json!({"role": "assistant", "content": "Hi", "reasoning_content": "hm", "reasoning_details": [
        {"type": "reasoning.text", "text": "hm", "signature": "s", "format": "anthropic-claude-v1"},
        {"type": "reasoning.encrypted", "data": "d", "format": "anthropic-claude-v1"}]});
    let body = json!({"model": "gpt-5.1", "messages": [{"role": "user", "content": "x"}, signed]});
    assert_eq!(to_responses(&body).unwrap()["input"].as_array().unwrap().len(), 2);
}
