//! Requests as chat completions.

use super::super::envelope::Envelope;
use super::{asked, chat, request};
use serde_json::{Value, json};

fn messages(input: Value) -> Value {
    chat(json!({"input": input}))["messages"].clone()
}

#[test]
fn a_string_and_instructions_are_messages() {
    let body = chat(json!({"instructions": "Be brief."}));
    assert_eq!(
        body,
        json!({"model": "m", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ]})
    );
}

#[test]
fn messages_of_every_role_and_part() {
    let read = messages(json!([
        {"role": "developer", "content": "rules"},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "what is this?"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        ]},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [
            {"type": "output_text", "text": "A ", "annotations": []},
            {"type": "output_text", "text": "dot.", "annotations": []},
        ]},
        {"role": "user", "content": [{"type": "input_text", "text": "and now?"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "why"},
    ]));
    assert_eq!(
        read,
        json!([
            {"role": "developer", "content": "rules"},
            {"role": "user", "content": [
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}},
            ]},
            {"role": "assistant", "content": "A dot."},
            {"role": "user", "content": "and now?"},
            {"role": "assistant", "content": "", "refusal": "No."},
            {"role": "user", "content": "why"},
        ])
    );
}

#[test]
fn a_turn_of_calls_is_one_message_with_its_outputs_behind_it() {
    let read = messages(json!([
        {"role": "user", "content": "weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "get", "arguments": "{\"x\":1}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "*** \"Begin\""},
        {"type": "function_call_output", "call_id": "a", "output": [
            {"type": "input_text", "text": "sunny"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA"},
        ]},
        // Clients put words between a call and its output; the output follows its call all the same.
        {"role": "user", "content": "hurry"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": "done"},
        {"type": "function_call", "call_id": "c", "name": "spawn", "namespace": "agents", "arguments": ""},
        {"type": "function_call_output", "call_id": "c", "output": ""},
    ]));
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let patch = call("b", "patch", r#"{"input":"*** \"Begin\""}"#);
    assert_eq!(
        read,
        json!([
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "Looking.", "reasoning_content": "hm",
             "tool_calls": [call("a", "get", "{\"x\":1}"), patch]},
            {"role": "tool", "tool_call_id": "a", "content": "sunny"},
            {"role": "tool", "tool_call_id": "b", "content": "done"},
            {"role": "user", "content": [
                {"type": "text", "text": "Shown by the tool call a:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            ]},
            {"role": "user", "content": "hurry"},
            {"role": "assistant", "content": null, "tool_calls": [call("c", "agents__spawn", "")]},
            {"role": "tool", "tool_call_id": "c", "content": ""},
        ])
    );
}

#[test]
fn typed_calls_and_calls_of_servers_in_a_history() {
    let read = messages(json!([
        {"role": "user", "content": "go"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "local_shell_call", "id": "l", "call_id": "a", "status": "completed",
         "action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "shell_call", "call_id": "b", "action": {"commands": ["ls"], "timeout_ms": 5}},
        {"type": "apply_patch_call", "call_id": "c", "status": "completed",
         "operation": {"type": "delete_file", "path": "a"}},
        {"type": "local_shell_call_output", "id": "a", "output": "x.rs"},
        {"type": "shell_call_output", "call_id": "b", "output": [{"stdout": "x", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
        {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "no such file"},
    ]));
    assert_eq!(read[1]["content"], r#"[web_search_call: {"action":{"type":"search","query":"x"}}]"#);
    let functions: Vec<&Value> =
        read[1]["tool_calls"].as_array().unwrap().iter().map(|call| &call["function"]).collect();
    assert_eq!(functions[0], &json!({"name": "local_shell", "arguments": r#"{"command":["ls"]}"#}));
    assert_eq!(functions[1], &json!({"name": "shell", "arguments": r#"{"commands":["ls"],"timeout_ms":5}"#}));
    assert_eq!(
        functions[2],
        &json!({"name": "apply_patch", "arguments": r#"{"type":"delete_file","path":"a"}"#})
    );
    assert_eq!(read[2], json!({"role": "tool", "tool_call_id": "a", "content": "x.rs"}));
    assert_eq!(read[4]["content"], "Failed. no such file");
}

#[test]
fn reasoning_comes_back_with_what_was_signed() {
    let format = Some("anthropic-claude-v1".to_owned());
    let sealed = |envelope: Envelope| {
        let encrypted = Envelope { format: format.clone(), ..envelope }.seal();
        json!({"type": "reasoning", "summary": [], "encrypted_content": encrypted})
    };
    let read = |items: Vec<Value>| {
        let mut input = vec![json!({"role": "user", "content": "x"})];
        input.extend(items);
        input.push(json!({"role": "assistant", "content": "y"}));
        messages(input.into())[1].clone()
    };
    // Codex sends neither summary nor content with it.
    let message = read(vec![
        sealed(Envelope { text: "first ".into(), signature: Some("sig".into()), ..Envelope::default() }),
        sealed(Envelope { data: Some("hidden".into()), ..Envelope::default() }),
        sealed(Envelope { text: "second".into(), ..Envelope::default() }),
    ]);
    assert_eq!(
        message,
        json!({
            "role": "assistant", "content": "y", "reasoning_content": "first second",
            "reasoning_details": [
                {"type": "reasoning.text", "text": "first ", "signature": "sig", "index": 0,
                 "format": "anthropic-claude-v1"},
                {"type": "reasoning.encrypted", "data": "hidden", "index": 1, "format": "anthropic-claude-v1"},
            ],
        })
    );
    // Another server's is opaque; it stays what it was.
    let summary = json!([{"type": "summary_text", "text": "s"}]);
    let message = read(vec![json!({"type": "reasoning", "encrypted_content": "gAAAA", "summary": summary})]);
    assert_eq!(message["reasoning_content"], "s");
    assert_eq!(message["reasoning_details"][0]["data"], "openai-responses:gAAAA");
    let open = Envelope::open("gAAAA").unwrap();
    assert_eq!(open.seal(), "gAAAA");
    // Reasoning that led to nothing is no message.
    let dangling = messages(json!([
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]},
        {"role": "user", "content": "x"},
    ]));
    assert_eq!(dangling, json!([{"role": "user", "content": "x"}]));
}

#[test]
fn fields_become_those_of_a_chat_completion() {
    let body = chat(json!({
        "max_output_tokens": 50, "temperature": 0.5, "top_p": 0.9, "stream": true, "metadata": {"task": "t"},
        "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto", "store": false,
        "reasoning": {"effort": "high", "summary": "auto"}, "top_logprobs": 3, "background": false,
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "truncation": "disabled",
        "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "strict": true,
                 "schema": {"type": "object"}}},
        "max_tool_calls": 3, "stream_options": {"include_obfuscation": false}, "client_metadata": {"x": "y"},
        "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
    }));
    assert_eq!(
        body,
        json!({
            "model": "m", "stream": true, "temperature": 0.5, "top_p": 0.9, "metadata": {"task": "t"}, "user": "u",
            "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto",
            "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 50, "logprobs": true,
            "top_logprobs": 3,
            "response_format": {"type": "json_schema",
                "json_schema": {"name": "n", "strict": true, "schema": {"type": "object"}}},
            "reasoning_effort": "high", "stream_options": {"include_usage": true},
        })
    );
    assert_eq!(
        chat(json!({"text": {"format": {"type": "json_object"}}}))["response_format"]["type"],
        "json_object"
    );
    assert_eq!(chat(json!({"text": {"format": {"type": "text"}}})).get("response_format"), None);
}

#[test]
fn a_response_repeats_what_was_asked_by_its_types() {
    let odd = json!({"parallel_tool_calls": null, "service_tier": 7, "user": ["a"], "max_tool_calls": "two",
        "safety_identifier": {}, "prompt_cache_key": true, "prompt_cache_retention": 1});
    let echo = &asked(odd).echo;
    assert_eq!(echo["parallel_tool_calls"], true);
    assert_eq!(echo["service_tier"], "default");
    for name in ["user", "max_tool_calls", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"]
    {
        assert_eq!(echo[name], Value::Null, "{name}");
    }
    let good =
        json!({"parallel_tool_calls": false, "service_tier": "flex", "user": "a", "max_tool_calls": 2});
    let echo = &asked(good.clone()).echo;
    for (name, value) in good.as_object().expect("fields") {
        assert_eq!(&echo[name], value, "{name}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let cases = [
        (json!({"background": true}), "background"),
        (json!({"metadata": [1]}), "metadata"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"truncation": "some"}), "truncation"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"prompt": {"id": "p"}}), "prompt"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": 3}), "input"),
        (json!({"input": [3]}), "input[0]"),
        (json!({"input": [{"content": "x"}]}), "input[0].type"),
        (json!({"input": [{"role": "tool", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"type": "item_reference", "id": "msg_1"}]}), "input[0].id"),
        (json!({"input": [{"id": "msg_1"}]}), "input[0].id"),
        (json!({"input": [{"type": "compaction", "encrypted_content": "x"}]}), "input[0].type"),
        (json!({"input": [{"type": "dance"}]}), "input[0].type"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}),
            "input[0].content[0].file_id",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "f"}]}]}),
            "input[0].content[0].file_url",
        ),
        (
            json!({"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]}),
            "input[0].call_id",
        ),
        (
            json!({"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}]}),
            "input[0].call_id",
        ),
        (
            json!({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "novastack/1:{"}]}),
            "input[0].encrypted_content",
        ),
        (json!({"instructions": ["x"]}), "instructions"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"text": {"format": {"type": "json_schema", "name": "n"}}}), "text.format.schema"),
        (json!({"text": {"verbosity": 3}}), "text.verbosity"),
        (json!({"top_logprobs": 21}), "top_logprobs"),
        (json!({"include": [3]}), "include[0]"),
        (json!({"tools": [{"type": "computer_use_preview"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].name"),
        (
            json!({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}),
            "tool_choice.type",
        ),
        (json!({"tools": [{"type": "web_search"}], "tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": {"type": "function", "name": "f"}}), "tool_choice.name"),
        (json!({"tool_choice": "some"}), "tool_choice"),
    ];
    for (more, param) in cases {
        assert_eq!(request(more.clone()).expect_err("it is refused").param, param, "{more}");
    }
}

/// The body of Codex 0.171, shortened.
#[test]
fn a_request_of_codex() {
    let text = |text: &str| json!([{"type": "input_text", "text": text}]);
    let body = chat(json!({
        "stream": true, "store": false, "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"},
        "tool_choice": "auto", "parallel_tool_calls": true, "prompt_cache_key": "01a2", "client_metadata": {"a": "b"},
        "input": [
            {"type": "message", "id": "msg_0", "role": "developer", "content": text("You are a coding agent.")},
            {"type": "message", "id": "msg_1", "role": "user", "content": text("say hi")},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "novastack/1:{}"},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "exec_command", "arguments": "{}"},
            {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "hi"},
        ],
        "tools": [
            {"type": "function", "name": "exec_command", "description": "d", "strict": false,
             "parameters": {"type": "object"}},
            {"type": "namespace", "name": "multi_agent_v1", "description": "d", "tools": [
                {"type": "function", "name": "spawn_agent", "description": "s", "strict": false,
                 "parameters": {"type": "object"}}]},
            {"type": "web_search", "external_web_access": false},
        ],
    }));
    let names: Vec<&Value> =
        body["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]["name"]).collect();
    assert_eq!(names, ["exec_command", "multi_agent_v1__spawn_agent"]);
    assert_eq!(body["tool_choice"], "auto");
    assert_eq!(body["parallel_tool_calls"], true);
    assert_eq!(body["messages"].as_array().unwrap().len(), 4);
    assert_eq!(body["messages"][2]["content"], Value::Null);
    assert_eq!(body.get("client_metadata"), None);
}
