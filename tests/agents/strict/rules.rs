//! The rules themselves: each refuses what breaks it, and none refuses a conversation that holds the answers of the
//! transcripts in `tests/dialect/transcripts` as their clients send them back.

use super::{Api, Turn, answers, judge, list, text};
use axum::http::HeaderMap;
use serde_json::{Value, json};

fn headers(betas: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer sk-upstream-1"),
        ("x-api-key", "sk-upstream-1"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", betas),
    ] {
        headers.insert(name, value.parse().expect("a header"));
    }
    headers
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
}

/// A request that is allowed: a question, two calls, their results.
fn allowed(api: Api) -> Value {
    match api {
        Api::Chat => json!({"model": "gpt-5.1", "max_completion_tokens": 500, "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": schema()}}],
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "The weather in Rome and Oslo?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
                {"id": "call_2", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "call_2", "content": "rain"},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sun"}]},
            {"role": "user", "content": [{"type": "text", "text": "And Bergen?"}]},
        ]}),
        Api::Messages => json!({"model": "claude-sonnet-4-5", "max_tokens": 4000, "system": "Be brief.",
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [{"name": "get_weather", "input_schema": schema()}],
        "messages": [
            {"role": "user", "content": "The weather in Rome and Oslo?"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": answers::signature("Hm.")},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}},
                {"type": "tool_use", "id": "toolu_2", "name": "get_weather", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sun"}]}]},
            {"role": "user", "content": [{"type": "text", "text": "And Bergen?"}]},
        ]}),
        Api::Responses => json!({"model": "gpt-5.1", "store": false, "instructions": "Be brief.",
        "include": ["reasoning.encrypted_content"], "text": {"verbosity": "low"},
        "tools": [{"type": "function", "name": "get_weather", "parameters": schema(), "strict": false}],
        "input": [
            {"role": "user", "content": "The weather in Rome?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": answers::encrypted("Hm.")},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And Bergen?"}]},
        ]}),
    }
}

/// Sets a place of a body, `/`-parted as in JSON pointers; null takes a field away.
fn set(body: &mut Value, place: &str, value: Value) {
    let (parent, name) = place.rsplit_once('/').expect("a place");
    let parent = body.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
    match parent {
        Value::Object(fields) if value.is_null() => drop(fields.remove(name)),
        Value::Array(elements) if value.is_null() => drop(elements.remove(name.parse().expect("an index"))),
        Value::Array(elements) => elements[name.parse::<usize>().expect("an index")] = value,
        parent => parent[name] = value,
    }
}

fn refuses(api: Api, breaks: &[(&str, Value, &str)]) {
    let body = allowed(api);
    assert_eq!(judge(api, &headers(""), &body), Ok(()), "{body}");
    for (place, value, words) in breaks {
        let mut body = body.clone();
        set(&mut body, place, value.clone());
        match judge(api, &headers(""), &body) {
            Err(refusal) => assert!(refusal.message.contains(words), "{place}: {}", refusal.message),
            Ok(()) => panic!("{place}: {value} is allowed"),
        }
    }
}

fn long(chars: usize) -> Value {
    "x".repeat(chars).into()
}

#[test]
fn chat_completions_refuses_what_its_documentation_does() {
    let function = "/tools/0/function";
    refuses(
        Api::Chat,
        &[
            ("/thinking", json!({}), "Unrecognized request argument supplied: thinking"),
            ("/model", Value::Null, "Missing required parameter: 'model'."),
            ("/messages", json!([]), "empty array"),
            ("/user", long(65), "'user': string too long"),
            ("/safety_identifier", long(65), "'safety_identifier': string too long"),
            ("/prompt_cache_key", long(65), "'prompt_cache_key': string too long"),
            ("/metadata", json!({"a": 1}), "expected a string"),
            ("/metadata", json!({"a": "x".repeat(513)}), "string too long"),
            ("/max_tokens", json!(9), "at the same time"),
            ("/max_completion_tokens", json!(200_000), "too large"),
            ("/temperature", json!(0.5), "'temperature' does not support"),
            ("/top_p", json!(0.5), "'top_p' is not supported with this model"),
            ("/stop", json!(["a"]), "'stop' is not supported with this model"),
            ("/stop", json!(["a", "b", "c", "d", "e"]), "array too long"),
            ("/reasoning_effort", json!("max"), "Supported values are"),
            ("/model", json!("gpt-4.1"), "Unrecognized request argument supplied: reasoning_effort"),
            ("/verbosity", json!("loud"), "Supported values are"),
            ("/service_tier", json!("standard_only"), "Supported values are"),
            ("/stream_options", json!({"include_usage": true}), "only allowed when 'stream' is enabled"),
            ("/tools", json!([]), "empty array"),
            ("/tools", Value::Array(vec![allowed(Api::Chat)["tools"][0].clone(); 129]), "array too long"),
            (&format!("{function}/name"), long(65), "string too long"),
            (&format!("{function}/name"), json!("a.b"), "does not match pattern"),
            (&format!("{function}/parameters"), json!({"type": "string"}), "schema must be a JSON Schema"),
            (
                &format!("{function}/parameters"),
                json!({"type": "object"}),
                "object schema missing properties",
            ),
            (&format!("{function}/parameters/anyOf"), json!([]), "at the top level"),
            (&format!("{function}/parameters/properties/city/type"), json!("array"), "missing items"),
            (&format!("{function}/cache_control"), json!({}), "Unknown parameter"),
            ("/response_format", json!({"type": "json_object"}), "must contain the word 'json'"),
            ("/messages/0/role", json!("model"), "Supported values are"),
            (
                "/messages/2/reasoning_content",
                json!("Hm."),
                "Unknown parameter: 'messages[2].reasoning_content'",
            ),
            ("/messages/2/tool_calls", json!([]), "empty array"),
            ("/messages/2/tool_calls/0/id", long(41), "string too long"),
            ("/messages/2/tool_calls/0/function/name", json!("a b"), "does not match pattern"),
            ("/messages/2", Value::Null, "must be a response to a preceeding message"),
            ("/messages/3", Value::Null, "did not have response messages: call_2"),
            ("/messages/1/content", Value::Null, "expected a string, got null"),
            ("/messages/5/content/0/type", json!("input_text"), "Supported values are"),
        ],
    );
    let mut body = allowed(Api::Chat);
    for name in ["tools", "messages"] {
        set(
            &mut body,
            &format!("/{name}"),
            if name == "tools" { Value::Null } else { json!([{"role": "user", "content": "x"}]) },
        );
    }
    assert_eq!(judge(Api::Chat, &headers(""), &body), Ok(()));
    for (name, value) in [("tool_choice", json!("auto")), ("parallel_tool_calls", json!(true))] {
        let mut body = body.clone();
        body[name] = value;
        let refusal = judge(Api::Chat, &headers(""), &body).expect_err(name);
        assert!(refusal.message.contains("only allowed when 'tools' are specified"), "{}", refusal.message);
        assert_eq!(refusal.param.as_deref(), Some(name));
    }
}

#[test]
fn messages_refuses_what_its_documentation_does() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let marked = json!({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}});
    refuses(
        Api::Messages,
        &[
            ("/stream_options", json!({}), "stream_options: Extra inputs are not permitted"),
            (
                "/context_management",
                json!({"edits": []}),
                "context_management: Extra inputs are not permitted",
            ),
            ("/max_tokens", Value::Null, "max_tokens: Field required"),
            ("/max_tokens", json!(100_000), "which is the maximum allowed number of output tokens"),
            ("/max_tokens", json!(1024), "`max_tokens` must be greater than `thinking.budget_tokens`"),
            ("/thinking/budget_tokens", json!(1000), "greater than or equal to 1024"),
            ("/thinking", json!({"type": "adaptive"}), "adaptive thinking is not supported on this model"),
            ("/model", json!("claude-opus-4-8"), "is not supported for this model"),
            ("/output_config", json!({"effort": "low"}), "does not support the effort parameter"),
            ("/temperature", json!(1.5), "temperature: range: 0..1"),
            ("/temperature", json!(0.5), "may only be set to 1 when thinking is enabled"),
            ("/top_k", json!(5), "`top_k` must be unset"),
            ("/tool_choice", json!({"type": "any"}), "when tool_choice forces tool use"),
            ("/tools/0/name", long(129), "should match pattern"),
            ("/tools/0/name", json!("a.b"), "should match pattern"),
            ("/tools/0/input_schema/type", Value::Null, "input_schema.type: Field required"),
            ("/tools/0/input_schema/anyOf", json!([]), "at the top level"),
            ("/tools/0/parameters", json!({}), "parameters: Extra inputs are not permitted"),
            ("/tools", Value::Array(vec![allowed(Api::Messages)["tools"][0].clone(); 2]), "must be unique"),
            ("/metadata", json!({"task": "x"}), "metadata.task: Extra inputs are not permitted"),
            ("/system", Value::Array(vec![marked; 5]), "A maximum of 4 blocks with cache_control"),
            ("/system", json!([{"type": "text", "text": ""}]), "must be non-empty"),
            ("/messages", json!([]), "at least one message is required"),
            ("/messages/0/role", json!("system"), "Unexpected role \"system\""),
            ("/messages/0/role", json!("tool"), "Input should be 'user' or 'assistant'"),
            ("/messages/0", Value::Null, "first message must use the \"user\" role"),
            ("/messages/0/content", json!(""), "must have non-empty content"),
            ("/messages/0/name", json!("x"), "Extra inputs are not permitted"),
            ("/messages/3/content/0/text", json!(" \n"), "must contain non-whitespace text"),
            ("/messages/1/content/0/thinking", json!("Hmm."), "Invalid `signature` in `thinking` block"),
            ("/messages/1/content/0/signature", Value::Null, "signature: Field required"),
            ("/messages/1/content/0", Value::Null, "Expected `thinking` or `redacted_thinking`"),
            ("/messages/1/content/2/id", json!("functions.get_weather:0"), "should match pattern"),
            ("/messages/1/content/2/input", json!("{}"), "should be a valid dictionary"),
            ("/messages/1", Value::Null, "unexpected `tool_use_id` found"),
            ("/messages/2", user("x"), "without `tool_result` blocks immediately after: toolu_1"),
            ("/messages/2/content/0", Value::Null, "without `tool_result` blocks immediately after: toolu_2"),
            ("/messages/2/content/0", json!({"type": "text", "text": "x"}), "without `tool_result` blocks"),
        ],
    );
    let mut body = allowed(Api::Messages);
    let results = body["messages"][2]["content"].as_array_mut().expect("blocks");
    results.insert(0, json!({"type": "text", "text": "Here."}));
    let refusal = judge(Api::Messages, &headers(""), &body).expect_err("text first");
    assert!(refusal.message.contains("must come FIRST"), "{}", refusal.message);
    let refusal = judge(Api::Messages, &headers("made-up-2026-01-01"), &allowed(Api::Messages));
    assert!(refusal.expect_err("a beta").message.contains("Unexpected value(s) `made-up-2026-01-01`"));
    let mut body = allowed(Api::Messages);
    body["context_management"] = json!({"edits": []});
    assert_eq!(judge(Api::Messages, &headers("context-management-2025-06-27"), &body), Ok(()));
}

#[test]
fn responses_refuses_what_its_documentation_does() {
    let function = "/tools/0";
    refuses(
        Api::Responses,
        &[
            ("/messages", json!([]), "Unknown parameter: 'messages'."),
            ("/max_completion_tokens", json!(9), "Unknown parameter: 'max_completion_tokens'."),
            ("/stop", json!(["x"]), "Unknown parameter: 'stop'."),
            ("/max_output_tokens", json!(5), "Expected a value >= 16"),
            ("/user", long(65), "'user': string too long"),
            ("/include", json!(["reasoning"]), "Supported values are"),
            ("/model", json!("gpt-4.1"), "Encrypted content is not supported with this model."),
            ("/reasoning", json!({"enabled": true}), "Unknown parameter: 'reasoning.enabled'."),
            ("/reasoning", json!({"effort": "max"}), "Supported values are"),
            ("/reasoning", json!({"summary": "long"}), "Supported values are"),
            ("/temperature", json!(0.5), "'temperature' is not supported with this model"),
            ("/text/verbosity", json!("loud"), "Supported values are"),
            ("/text/format", json!({"type": "json_schema", "schema": {}}), "'text.format.name'"),
            ("/text/format", json!({"type": "json_schema", "json_schema": {}}), "'text.format.json_schema'"),
            ("/truncation", json!("middle"), "Supported values are"),
            ("/previous_response_id", json!("resp_0"), "Previous response with id 'resp_0' not found."),
            (&format!("{function}/function"), json!({}), "Unknown parameter: 'tools[0].function'."),
            (&format!("{function}/name"), Value::Null, "Missing required parameter: 'tools[0].name'."),
            (&format!("{function}/name"), json!("a b"), "does not match pattern"),
            (&format!("{function}/type"), json!("bash_20250124"), "Supported values are"),
            (&format!("{function}/strict"), Value::Null, "'additionalProperties' is required"),
            (&format!("{function}/parameters/type"), Value::Null, "schema must be a JSON Schema"),
            ("/tool_choice", json!("any"), "Supported values are"),
            ("/input", Value::Null, "Missing required parameter: 'input'."),
            ("/input/0/type", json!("tool"), "Supported values are"),
            ("/input/0/reasoning_content", json!("x"), "Unknown parameter"),
            ("/input/4/content/0/type", json!("text"), "Supported values are"),
            ("/input/1/encrypted_content", json!("gAAAAx"), "could not be verified"),
            (
                "/input/1/encrypted_content",
                Value::Null,
                "Items are not persisted when `store` is set to false",
            ),
            ("/input/1/summary", Value::Null, "Missing required parameter: 'input[1].summary'."),
            ("/input/1/id", json!("msg_1"), "Expected an ID that begins with 'rs'"),
            ("/input/2/id", json!("call_1"), "Expected an ID that begins with 'fc'"),
            ("/input/2/call_id", long(65), "string too long"),
            ("/input/2", json!({"role": "user", "content": "x"}), "without its required following item"),
            ("/input/3", Value::Null, "No tool output found for function call call_1."),
            ("/input/3/call_id", json!("call_9"), "No tool output found for function call call_1."),
        ],
    );
    let mut body = allowed(Api::Responses);
    let items = body["input"].as_array_mut().expect("items");
    items.drain(1..3);
    let refusal = judge(Api::Responses, &headers(""), &body).expect_err("no call");
    assert_eq!(refusal.message, "No tool call found for function call output with call_id call_1.");
}

/// The data of a transcript's frames.
fn frames(transcript: &str) -> Vec<Value> {
    let data = transcript.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data.trim()).ok()).collect()
}

fn transcript(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/dialect/transcripts/{name}.sse", env!("CARGO_MANIFEST_DIR"));
    frames(&std::fs::read_to_string(path).expect("a transcript"))
}

/// A stream of chunks as the message that a client keeps.
fn chat_message(frames: &[Value]) -> Value {
    let (mut content, mut refusal, mut calls) = (String::new(), String::new(), Vec::<Value>::new());
    for delta in frames.iter().map(|frame| &frame["choices"][0]["delta"]) {
        content += text(&delta["content"]);
        refusal += text(&delta["refusal"]);
        for call in list(&delta["tool_calls"]) {
            let index = call["index"].as_u64().expect("an index") as usize;
            if calls.len() <= index {
                calls.push(json!({"type": "function", "function": {"arguments": ""}}));
            }
            for (place, value) in [("id", &call["id"]), ("function/name", &call["function"]["name"])] {
                if value.is_string() {
                    set(&mut calls[index], &format!("/{place}"), value.clone());
                }
            }
            let all = format!(
                "{}{}",
                text(&calls[index]["function"]["arguments"]),
                text(&call["function"]["arguments"])
            );
            calls[index]["function"]["arguments"] = all.into();
        }
    }
    let mut message = json!({"role": "assistant", "content": content});
    if !refusal.is_empty() {
        message["refusal"] = refusal.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    message
}

fn chat_goes_on(frames: &[Value]) -> Value {
    let message = chat_message(frames);
    let results = list(&message["tool_calls"]).iter();
    let results = results.map(|call| json!({"role": "tool", "tool_call_id": call["id"], "content": "x"}));
    let first = [json!({"role": "user", "content": "x"}), message.clone()];
    let last = [json!({"role": "user", "content": "x"})];
    let messages: Vec<Value> = first.into_iter().chain(results).chain(last).collect();
    json!({"model": "gpt-5.1", "messages": messages})
}

/// A stream of events as the content that a client keeps.
fn blocks(frames: &[Value]) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    let mut json_text = String::new();
    for frame in frames {
        match text(&frame["type"]) {
            "content_block_start" => blocks.push(frame["content_block"].clone()),
            "content_block_delta" => {
                let (block, delta) = (blocks.last_mut().expect("a block"), &frame["delta"]);
                for name in ["text", "thinking"] {
                    if delta[name].is_string() {
                        block[name] = format!("{}{}", text(&block[name]), text(&delta[name])).into();
                    }
                }
                json_text += text(&delta["partial_json"]);
            }
            "content_block_stop" => {
                let block = blocks.last_mut().expect("a block");
                if block["type"] == "tool_use" {
                    let given = serde_json::from_str(&json_text);
                    block["input"] = given.unwrap_or_else(|_| json!({}));
                    json_text.clear();
                }
                if block["type"] == "thinking" {
                    // What proves it here is the mock's own.
                    block["signature"] = answers::signature(text(&block["thinking"])).into();
                }
            }
            _ => {}
        }
    }
    blocks
}

fn message_goes_on(frames: &[Value]) -> Value {
    let blocks = blocks(frames);
    let calls = blocks.iter().filter(|block| block["type"] == "tool_use");
    let mut next: Vec<Value> =
        calls.map(|call| json!({"type": "tool_result", "tool_use_id": call["id"], "content": "x"})).collect();
    next.push(json!({"type": "text", "text": "x"}));
    json!({"model": "claude-sonnet-4-5", "max_tokens": 4000, "thinking": {"type": "disabled"}, "messages": [
        {"role": "user", "content": "x"}, {"role": "assistant", "content": blocks}, {"role": "user", "content": next}]})
}

fn response_goes_on(frames: &[Value]) -> Value {
    let last = frames.last().expect("an event");
    let mut input = vec![json!({"role": "user", "content": "x"})];
    let mut outputs = Vec::new();
    for item in list(&last["response"]["output"]) {
        let mut item = item.clone();
        if item["type"] == "reasoning" {
            // What it holds encrypted is the mock's own.
            item["encrypted_content"] = answers::encrypted("Hm.").into();
        }
        if text(&item["type"]).ends_with("_call") {
            let kind = format!("{}_output", text(&item["type"]));
            outputs.push(json!({"type": kind, "call_id": item["call_id"], "output": "x"}));
        }
        input.push(item);
    }
    input.extend(outputs);
    input.push(json!({"role": "user", "content": "x"}));
    json!({"model": "gpt-5.1", "store": false, "input": input})
}

#[test]
fn no_answer_of_a_transcript_is_refused_as_history() {
    let turn = Turn {
        thought: "Look first.".into(),
        text: "I look.".into(),
        calls: vec![("get_weather".into(), json!({"city": "R\u{f6}me"})), ("get_time".into(), json!({}))],
    };
    let asks = |model: &str| {
        json!({"model": model, "stream": true, "reasoning": {"summary": "auto"},
            "include": ["reasoning.encrypted_content"], "thinking": {"type": "enabled"}})
    };
    let (gpt, claude) = (asks("gpt-5.1"), asks("claude-sonnet-4-5"));
    type GoesOn = fn(&[Value]) -> Value;
    let cases: [(Api, GoesOn, &[&str], String); 3] = [
        (
            Api::Chat,
            chat_goes_on,
            &["openai_text", "openai_tools", "openai_refusal"],
            answers::chat_stream(&gpt, &turn),
        ),
        (
            Api::Messages,
            message_goes_on,
            &["anthropic_text", "anthropic_thinking", "anthropic_tools"],
            answers::messages_stream(&claude, &turn),
        ),
        (
            Api::Responses,
            response_goes_on,
            &["responses_text", "responses_reasoning_tools"],
            answers::responses_stream(&gpt, &turn),
        ),
    ];
    for (api, goes_on, names, own) in cases {
        let transcripts = names.iter().map(|name| (*name, transcript(name)));
        for (name, frames) in transcripts.chain([("the mock's own", frames(&own))]) {
            let body = goes_on(&frames);
            assert_eq!(judge(api, &headers(""), &body), Ok(()), "{name}: {body}");
        }
    }
}
