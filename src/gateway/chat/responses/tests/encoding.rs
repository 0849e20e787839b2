//! Events out, in order.

use super::super::super::{ChatEvent, StopReason, TokenScore, TokenUsage, UpstreamError};
use super::super::encode::{ResponsesEncoder, whole};
use super::super::envelope::Envelope;
use super::{asked, head};
use serde_json::{Value, json};

/// A stream's events: each name is its data's type, and they are numbered.
fn stream(more: Value, events: &[ChatEvent]) -> Vec<Value> {
    let mut encoder = ResponsesEncoder::new(head(), asked(more.clone()));
    let mut out = String::new();
    for event in events {
        encoder.event(event, &mut out).expect("it can be said");
    }
    encoder.finish(&mut out);
    let read = read(&out);
    // The response at the end, the whole answer and the items as they came are the same.
    let last = &read.last().expect("an end")["response"];
    assert_eq!(&whole(&head(), asked(more), events).expect("it can be said"), last);
    assert_eq!(encoder.into_response().as_ref(), Some(last));
    let items: Vec<&Value> =
        read.iter().filter(|it| it["type"] == "response.output_item.done").map(|it| &it["item"]).collect();
    let mut output: Vec<&Value> = last["output"].as_array().unwrap().iter().collect();
    output.sort_by_key(|item| items.iter().position(|done| done == item));
    assert_eq!(output, items);
    read
}

fn read(out: &str) -> Vec<Value> {
    let frames = out.strip_suffix("\n\n").expect("whole frames").split("\n\n");
    let events: Vec<Value> = frames
        .map(|frame| {
            let (name, data) = frame.split_once('\n').expect("an event and its data");
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
            assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
            data
        })
        .collect();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    events
}

/// The types, without `response.`.
fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap().strip_prefix("response.").unwrap()).collect()
}

fn text(text: &str) -> ChatEvent {
    ChatEvent::Text { choice: 0, text: text.into() }
}

fn reasoning(text: &str) -> ChatEvent {
    ChatEvent::Reasoning { choice: 0, text: text.into() }
}

fn start(model: &str) -> ChatEvent {
    ChatEvent::Start { id: None, model: Some(model.into()) }
}

fn call(call: u32, id: &str, name: &str) -> ChatEvent {
    ChatEvent::ToolCall { choice: 0, call, id: id.into(), name: name.into() }
}

fn arguments(call: u32, json: &str) -> ChatEvent {
    ChatEvent::ToolArguments { choice: 0, call, json: json.into() }
}

fn finish(reason: StopReason) -> ChatEvent {
    ChatEvent::Finish { choice: 0, reason }
}

#[test]
fn a_text_is_a_message_with_every_event_in_order() {
    let usage = TokenUsage { input: 10, cached: 4, output: 3, reasoning: 1, ..TokenUsage::default() };
    let events = [start("x"), text("Hel"), text("lo"), finish(StopReason::End), ChatEvent::Usage(usage)];
    let events = stream(json!({"instructions": "Be brief.", "temperature": 0.5}), &events);
    assert_eq!(
        types(&events),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
    );
    let created = &events[0]["response"];
    assert_eq!(
        (&created["status"], &created["output"], &created["usage"]),
        (&json!("in_progress"), &json!([]), &Value::Null)
    );
    let item = json!({"id": "msg_7f_0", "type": "message", "status": "in_progress", "role": "assistant", "content": []});
    assert_eq!(
        events[2],
        json!({"type": "response.output_item.added", "sequence_number": 2, "output_index": 0, "item": item})
    );
    assert_eq!(
        events[3],
        json!({"type": "response.content_part.added", "sequence_number": 3, "item_id": "msg_7f_0", "output_index": 0,
               "content_index": 0, "part": {"type": "output_text", "text": "", "annotations": [], "logprobs": []}})
    );
    assert_eq!(
        events[4],
        json!({"type": "response.output_text.delta", "sequence_number": 4, "item_id": "msg_7f_0", "output_index": 0,
               "content_index": 0, "delta": "Hel", "logprobs": []})
    );
    assert_eq!(events[6]["text"], "Hello");
    let part = json!({"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []});
    assert_eq!(
        events[9]["response"],
        json!({
            "id": "resp_7f", "object": "response", "created_at": 1_700_000_000, "status": "completed", "error": null,
            "incomplete_details": null, "model": "m",
            "output": [{"id": "msg_7f_0", "type": "message", "status": "completed", "role": "assistant",
                        "content": [part]}],
            "usage": {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
                      "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 13},
            "instructions": "Be brief.", "max_output_tokens": null, "max_tool_calls": null,
            "previous_response_id": null, "prompt_cache_key": null, "prompt_cache_retention": null,
            "safety_identifier": null, "service_tier": "default", "temperature": 0.5, "top_logprobs": 0, "top_p": null,
            "user": null, "metadata": {}, "tool_choice": "auto", "background": false, "truncation": "disabled",
            "store": true, "tools": [], "parallel_tool_calls": true,
            "reasoning": {"effort": null, "summary": null}, "text": {"format": {"type": "text"}},
        })
    );
}

#[test]
fn reasoning_is_an_item_before_the_message() {
    let events = [start("qwen3"), reasoning("h"), reasoning("m"), text("yes"), finish(StopReason::End)];
    let plain = stream(json!({}), &events);
    assert_eq!(
        types(&plain)[2..10],
        [
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
        ]
    );
    let item = &plain[8]["item"];
    assert_eq!(
        item,
        &json!({"id": "rs_7f_0", "type": "reasoning", "status": "completed", "summary": [],
                "content": [{"type": "reasoning_text", "text": "hm"}]})
    );
    assert_eq!(plain[9]["output_index"], 1);
    assert_eq!(plain[9]["item"]["id"], "msg_7f_1");

    // As Codex asks.
    let codex =
        json!({"reasoning": {"summary": "auto"}, "store": false, "include": ["reasoning.encrypted_content"]});
    let summary = stream(codex, &events);
    assert_eq!(
        types(&summary)[2..9],
        [
            "output_item.added",
            "reasoning_summary_part.added",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
            "output_item.done",
        ]
    );
    assert_eq!(summary[3]["summary_index"], 0);
    let item = &summary[8]["item"];
    assert_eq!(item["summary"], json!([{"type": "summary_text", "text": "hm"}]));
    assert_eq!(Envelope::open(item["encrypted_content"].as_str().unwrap()).unwrap().text, "hm");
}

#[test]
fn signed_and_redacted_thinking_survives_a_loop() {
    let events = [
        start("claude-opus-4-7"),
        reasoning("one"),
        ChatEvent::Signature { choice: 0, signature: "s1".into() },
        ChatEvent::RedactedReasoning { choice: 0, data: "d".into() },
        reasoning("two"),
        ChatEvent::Signature { choice: 0, signature: "s2".into() },
        call(0, "toolu_1", "f"),
        arguments(0, "{}"),
        finish(StopReason::ToolCalls),
    ];
    let events = stream(json!({}), &events);
    let output = events.last().unwrap()["response"]["output"].clone();
    let kinds: Vec<&Value> = output.as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "reasoning", "reasoning", "function_call"]);
    // The items go back as they came.
    let mut input = vec![json!({"role": "user", "content": "x"})];
    input.extend(output.as_array().unwrap().iter().cloned());
    input.push(json!({"type": "function_call_output", "call_id": "toolu_1", "output": "1"}));
    let message = super::chat(json!({"input": input}))["messages"][1].clone();
    let format = "anthropic-claude-v1";
    assert_eq!(
        message["reasoning_details"],
        json!([
            {"type": "reasoning.text", "text": "one", "signature": "s1", "index": 0, "format": format},
            {"type": "reasoning.encrypted", "data": "d", "index": 1, "format": format},
            {"type": "reasoning.text", "text": "two", "signature": "s2", "index": 2, "format": format},
        ])
    );
    assert_eq!(message["tool_calls"][0]["id"], "toolu_1");
}

#[test]
fn calls_are_items_and_their_ids_are_the_upstreams() {
    let tools = json!({"tools": [
        {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "g"}]},
        {"type": "custom", "name": "patch"}, {"type": "local_shell"},
    ]});
    let events = [
        start("x"),
        text("On it."),
        call(0, "functions.g:0", "ns__g"),
        arguments(0, "{\"a\""),
        arguments(0, ":1}"),
        call(1, "c1", "patch"),
        arguments(1, "{\"input\":\"*** B"),
        arguments(1, "\\n\"}"),
        call(2, "c2", "local_shell"),
        arguments(2, "{\"command\":[\"ls\"]}"),
        call(3, "c3", "none"),
        finish(StopReason::ToolCalls),
    ];
    let events = stream(tools, &events);
    assert_eq!(
        types(&events)[8..],
        [
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "output_item.added",
            "custom_tool_call_input.delta",
            "custom_tool_call_input.delta",
            "custom_tool_call_input.done",
            "output_item.done",
            "output_item.added",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    assert_eq!(
        events[11],
        json!({"type": "response.function_call_arguments.done", "sequence_number": 11, "item_id": "fc_7f_1",
               "output_index": 1, "arguments": "{\"a\":1}", "name": "g"})
    );
    let output = &events.last().unwrap()["response"]["output"];
    assert_eq!(
        output[1],
        json!({"id": "fc_7f_1", "type": "function_call", "status": "completed", "call_id": "functions.g:0",
               "name": "g", "arguments": "{\"a\":1}", "namespace": "ns"})
    );
    assert_eq!(
        output[2],
        json!({"id": "ctc_7f_2", "type": "custom_tool_call", "status": "completed", "call_id": "c1",
               "name": "patch", "input": "*** B\n"})
    );
    assert_eq!(
        output[3],
        json!({"type": "local_shell_call", "id": "lsh_7f_3", "call_id": "c2", "status": "completed",
               "action": {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": null,
                          "working_directory": null, "user": null}})
    );
    assert_eq!(output[4]["arguments"], "{}");
}

#[test]
fn arguments_that_come_interleaved_are_not_lost() {
    let events = [
        call(0, "a", "f"),
        arguments(0, "{\"x\":"),
        call(1, "b", "f"),
        arguments(1, "{}"),
        arguments(0, "1}"),
        finish(StopReason::ToolCalls),
    ];
    let events = stream(json!({}), &events);
    let output = &events.last().unwrap()["response"]["output"];
    assert_eq!((&output[0]["arguments"], &output[1]["arguments"]), (&json!("{\"x\":1}"), &json!("{}")));
}

#[test]
fn an_answer_that_was_cut_off_is_incomplete() {
    for (reason, why) in [(StopReason::Length, "max_output_tokens"), (StopReason::Refusal, "content_filter")]
    {
        let events = stream(json!({}), &[text("Once"), finish(reason)]);
        let last = events.last().unwrap();
        assert_eq!(last["type"], "response.incomplete");
        assert_eq!(last["response"]["incomplete_details"], json!({"reason": why}));
        assert_eq!(last["response"]["output"][0]["status"], "incomplete");
    }
    let events = stream(json!({}), &[call(0, "a", "f"), arguments(0, "{\"x\":"), finish(StopReason::Length)]);
    let call = &events.last().unwrap()["response"]["output"][0];
    assert_eq!((&call["status"], &call["arguments"]), (&json!("incomplete"), &json!("{\"x\":")));
    for reason in
        [StopReason::End, StopReason::Pause, StopReason::StopSequence(None), StopReason::Other("x".into())]
    {
        assert_eq!(
            stream(json!({}), &[text("x"), finish(reason)]).last().unwrap()["type"],
            "response.completed"
        );
    }
}

#[test]
fn a_refusal_is_a_part_of_the_message() {
    let refusal = ChatEvent::Refusal { choice: 0, text: "No.".into() };
    let events = stream(json!({}), &[text("Well. "), refusal, finish(StopReason::End)]);
    assert_eq!(
        types(&events)[5..],
        [
            "output_text.done",
            "content_part.done",
            "content_part.added",
            "refusal.delta",
            "refusal.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
    );
    assert_eq!(events[8]["content_index"], 1);
    let content = &events.last().unwrap()["response"]["output"][0]["content"];
    assert_eq!(content[1], json!({"type": "refusal", "refusal": "No."}));
}

#[test]
fn text_has_the_log_probabilities_of_its_tokens() {
    let tokens = |text: &str| {
        let top =
            vec![(text.to_owned(), text.as_bytes().to_vec(), -0.5), ("z".to_owned(), b"z".to_vec(), -2.0)];
        let score = TokenScore { text: text.into(), bytes: text.into(), chars: 1, logprob: Some(-0.5), top };
        ChatEvent::Tokens { choice: 0, ids: vec![7], scores: vec![score] }
    };
    let told = |token: &str| {
        json!({"token": token, "logprob": -0.5, "bytes": token.as_bytes(), "top_logprobs": [
            {"token": token, "logprob": -0.5, "bytes": token.as_bytes()},
            {"token": "z", "logprob": -2.0, "bytes": [122]},
        ]})
    };
    let events = [
        tokens("h"),
        reasoning("h"),
        tokens("a"),
        text("a"),
        tokens("b"),
        tokens("c"),
        text("bc"),
        text("d"),
        tokens(""),
        finish(StopReason::End),
    ];
    let asking = json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2});
    let told_events = stream(asking, &events);
    let logprobs: Vec<&Value> = told_events
        .iter()
        .filter(|event| event["type"].as_str().unwrap().starts_with("response.output_text"))
        .map(|event| &event["logprobs"])
        .collect();
    let all = json!([told("a"), told("b"), told("c")]);
    assert_eq!(logprobs, [&json!([told("a")]), &json!([told("b"), told("c")]), &json!([]), &all]);
    assert_eq!(told_events.last().unwrap()["response"]["output"][1]["content"][0]["logprobs"], all);
    let untold = stream(json!({}), &events);
    assert!(untold.iter().all(|event| event["logprobs"].as_array().is_none_or(Vec::is_empty)));
}

#[test]
fn a_failure_is_told_in_the_words_that_clients_act_on() {
    for (status, message, code) in [
        (400, "prompt is too long: 9 tokens > 8 maximum", "context_length_exceeded"),
        (402, "no money", "insufficient_quota"),
        (429, "slow down", "rate_limit_exceeded"),
        (529, "Overloaded", "server_is_overloaded"),
        (400, "bad", "invalid_prompt"),
        (500, "broken", "server_error"),
    ] {
        let mut encoder = ResponsesEncoder::new(head(), asked(json!({})));
        let mut out = String::new();
        encoder.event(&text("Hel"), &mut out).unwrap();
        encoder.error(&UpstreamError::new(status, message), &mut out);
        let events = read(&out);
        let last = events.last().unwrap();
        assert_eq!(last["type"], "response.failed");
        assert_eq!(last["response"]["status"], "failed");
        assert_eq!(last["response"]["error"], json!({"code": code, "message": message}));
    }
    // Before anything else came, too.
    let mut out = String::new();
    ResponsesEncoder::new(head(), asked(json!({}))).error(&UpstreamError::new(500, "broken"), &mut out);
    assert_eq!(types(&read(&out)), ["created", "in_progress", "failed"]);
}
