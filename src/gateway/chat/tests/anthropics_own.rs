//! What only Anthropic's servers act on, in requests for others.

use super::super::{Dialect, Peer, Takes, for_upstream, to_openai};
use crate::config::Compat;
use crate::config::compat::{
    dashscope, deepseek, minimax, moonshot, novastack, openai, openrouter, plain, vllm,
};
use crate::gateway::chat::openai::messages::for_engine;
use serde_json::{Map, Value, json};

/// A body of Anthropic's with these fields over it.
fn body(more: Value) -> Value {
    let mut body = json!({"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn translated(more: Value) -> Value {
    to_openai(&body(more), &Compat::default()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn fields_that_only_anthropics_servers_act_on_are_dropped() {
    let own = json!({
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "container": null, "mcp_servers": [], "betas": ["context-1m-2025-08-07"], "speed": "fast",
        "inference_geo": "us", "service_tier": "auto", "cache_control": {"type": "ephemeral"},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"},
            "defer_loading": true}],
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}},
        ]}],
    });
    let expected = json!({
        "model": "m", "max_tokens": 50,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    });
    assert_eq!(translated(own.clone()), expected);
    // One of our own models.
    assert_eq!(for_engine(&body(own)).unwrap(), expected);
}

#[test]
fn what_would_change_the_answer_at_anthropic_is_a_clear_error_elsewhere() {
    for (name, value) in [
        ("mcp_servers", json!([{"type": "url", "url": "https://x.org", "name": "x"}])),
        ("container", json!({"skills": [{"type": "anthropic", "skill_id": "pptx"}]})),
    ] {
        for error in [
            to_openai(&body(json!({ name: value })), &Compat::default()).unwrap_err(),
            for_engine(&body(json!({ name: value }))).unwrap_err(),
        ] {
            assert_eq!(error.param, name);
            assert!(error.reason.contains("Anthropic's own servers"), "{error}");
        }
    }
}

#[test]
fn tools_that_anthropic_runs_are_left_out_with_the_choice_of_them() {
    let servers = [
        json!({"type": "web_search_20250305", "name": "web_search", "max_uses": 8}),
        json!({"type": "web_search_20260209", "name": "web_search"}),
        json!({"type": "web_fetch_20250910", "name": "web_fetch"}),
        json!({"type": "code_execution_20250825", "name": "code_execution"}),
        json!({"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}),
        json!({"type": "mcp_toolset", "mcp_server_name": "x"}),
        // One that is not known yet.
        json!({"type": "weather_20991231", "name": "weather"}),
    ];
    for tool in &servers {
        for choice in
            [json!({"type": "tool", "name": tool["name"]}), json!({"type": "any"}), json!({"type": "auto"})]
        {
            let choice = match choice["name"].is_null() && choice["type"] == "tool" {
                true => json!({"type": "any"}),
                false => choice,
            };
            let out = translated(json!({"tools": [tool], "tool_choice": choice}));
            assert_eq!((out.get("tools"), out.get("tool_choice")), (None, None), "{out}");
        }
    }
    // Others stay, and a choice among them.
    let own = json!({"name": "f", "input_schema": {"type": "object"}});
    let all: Vec<Value> = servers.iter().cloned().chain([own]).collect();
    let asked = |choice: Value| translated(json!({"tools": all, "tool_choice": choice}));
    let out = asked(json!({"type": "any", "disable_parallel_tool_use": true}));
    assert_eq!(out["tools"].as_array().unwrap().len(), 1);
    assert_eq!((&out["tool_choice"], &out["parallel_tool_calls"]), (&json!("required"), &json!(false)));
    assert_eq!(asked(json!({"type": "tool", "name": "web_search"})).get("tool_choice"), None);
    assert_eq!(asked(json!({"type": "tool", "name": "f"}))["tool_choice"]["function"]["name"], "f");
    // Without tools at all a choice stays the upstream's to judge.
    assert_eq!(translated(json!({"tool_choice": {"type": "auto"}}))["tool_choice"], "auto");
}

#[test]
fn tools_that_the_caller_runs_become_functions_with_their_published_inputs() {
    let function = |tool: Value| translated(json!({"tools": [tool]}))["tools"][0]["function"].clone();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    for kind in ["bash_20241022", "bash_20250124"] {
        let bash = function(json!({"type": kind, "name": "bash"}));
        assert_eq!(bash["name"], "bash");
        assert!(bash["description"].as_str().unwrap().contains("bash shell"));
        let properties = &bash["parameters"]["properties"];
        assert_eq!(
            (&properties["command"]["type"], &properties["restart"]["type"]),
            (&json!("string"), &json!("boolean"))
        );
    }
    let commands = ["view", "create", "str_replace", "insert"];
    for (kind, name, undoes, inserts) in [
        ("text_editor_20241022", "str_replace_editor", true, "new_str"),
        ("text_editor_20250124", "str_replace_editor", true, "new_str"),
        ("text_editor_20250429", "str_replace_based_edit_tool", false, "new_str"),
        ("text_editor_20250728", "str_replace_based_edit_tool", false, "insert_text"),
    ] {
        let editor = function(json!({"type": kind, "name": name, "max_characters": 10_000}));
        assert_eq!(editor["name"], name);
        let parameters = &editor["parameters"];
        assert_eq!(words(&parameters["required"]), ["command", "path"]);
        let known = words(&parameters["properties"]["command"]["enum"]);
        assert_eq!((&known[..4], known.len() == 5), (&commands.map(String::from)[..], undoes), "{kind}");
        for name in ["path", "file_text", "old_str", "new_str", "insert_line", "view_range", inserts] {
            assert!(parameters["properties"][name]["type"].is_string(), "{kind}: {name}");
        }
    }
    let memory = function(json!({"type": "memory_20250818", "name": "memory"}));
    assert_eq!(words(&memory["parameters"]["properties"]["command"]["enum"]).len(), 6);
    assert!(memory["parameters"]["properties"]["old_path"].is_object());
    let computer = json!({"type": "computer_20250124", "name": "computer", "display_width_px": 1024, "display_height_px": 768});
    let computer = function(computer);
    assert!(computer["description"].as_str().unwrap().contains("1024 x 768"));
    assert!(words(&computer["parameters"]["properties"]["action"]["enum"]).contains(&"scroll".to_owned()));
    // One of our own models gets them too, once it takes tools.
    let ours = for_engine(&body(json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}))).unwrap();
    assert_eq!(ours["tools"][0]["function"]["name"], "bash");
}

#[test]
fn what_anthropics_servers_did_becomes_text_in_the_history() {
    let said = json!([
        {"type": "text", "text": "I look."},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "rust"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
            {"type": "web_search_result", "url": "https://rust-lang.org", "title": "Rust", "encrypted_content": "SECRET",
                "page_age": "May 2025"},
        ]},
        {"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {
            "type": "web_fetch_result", "url": "https://a.org", "retrieved_at": "2025",
            "content": {"type": "document", "title": "A", "source": {"type": "text", "media_type": "text/plain", "data": "Body."}},
        }},
        {"type": "code_execution_tool_result", "tool_use_id": "s", "content": {
            "type": "code_execution_result", "stdout": "42", "stderr": "", "return_code": 1, "content": [],
        }},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": {
            "type": "web_search_tool_result_error", "error_code": "max_uses_exceeded",
        }},
        {"type": "mcp_tool_use", "id": "m", "name": "echo", "server_name": "srv", "input": {"a": 1}},
        {"type": "mcp_tool_result", "tool_use_id": "m", "is_error": false, "content": [{"type": "text", "text": "one"}]},
        {"type": "tool_search_tool_result", "tool_use_id": "s", "content": {
            "type": "tool_search_tool_search_result", "tool_references": [{"type": "tool_reference", "tool_name": "f"}],
        }},
        {"type": "text", "text": "Done."},
    ]);
    let shown = json!([
        {"type": "tool_result", "tool_use_id": "t", "content": [
            {"type": "tool_reference", "tool_name": "get_weather"},
            {"type": "search_result", "source": "https://b.org", "title": "B", "content": [{"type": "text", "text": "It rains."}]},
        ]},
        {"type": "document", "title": "Paper", "source": {"type": "url", "url": "https://c.org/c.pdf"}},
        {"type": "container_upload", "file_id": "file_1"},
        {"type": "search_result", "source": "https://d.org", "title": "D", "content": [{"type": "text", "text": "Sun."}]},
    ]);
    let out = translated(json!({"messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": said},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]},
        {"role": "user", "content": shown},
    ]}));
    let expected = "I look.\n[Called web_search with {\"query\":\"rust\"}]\n[Result of web_search]\nRust\n\
                    https://rust-lang.org\nMay 2025\n[Result of web_fetch]\nhttps://a.org\nA\nBody.\n\
                    [Result of code_execution]\n42\nreturn code 1\n[Result of web_search]\nmax_uses_exceeded\n\
                    [Called echo of srv with {\"a\":1}]\n[Result of mcp]\none\n[Result of tool_search]\nf\nDone.";
    assert_eq!(out["messages"][1], json!({"role": "assistant", "content": expected}));
    assert!(!out.to_string().contains("SECRET"));
    let result = "[Found the tool get_weather]\n[Search result: B (https://b.org)]\nIt rains.";
    assert_eq!(out["messages"][3]["content"], result);
    let texts: Vec<&str> = out["messages"][4]["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        texts,
        [
            "[Document: Paper: https://c.org/c.pdf]",
            "[A file for code execution: file_1]",
            "[Search result: D (https://d.org)]\nSun.",
        ]
    );
}

#[test]
fn the_format_of_an_answer_is_found_where_it_stood_as_a_beta_too() {
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    let now = translated(json!({"output_config": {"format": format}}));
    let then = translated(json!({"output_format": format}));
    assert_eq!(now["response_format"]["json_schema"]["schema"], json!({"type": "object"}));
    assert_eq!(now, then);
}

/// `MAX_THINKING_TOKENS=0` of Claude Code sends an effort without `thinking`.
#[test]
fn an_effort_without_thinking_is_thinking_turned_off_in_every_providers_words() {
    let rest = |compat: &Compat, more: Value| {
        let peer = Peer { dialect: Dialect::OpenAi, model: "m", compat, takes: Takes::default() };
        let out = for_upstream(Dialect::Anthropic, &body(more), &peer).unwrap();
        let mut rest: Map<String, Value> = out.as_object().unwrap().clone();
        for name in ["model", "messages", "max_tokens", "max_completion_tokens"] {
            rest.remove(name);
        }
        Value::Object(rest)
    };
    let template = json!({"chat_template_kwargs": {"enable_thinking": false, "thinking": false}});
    for (compat, expected) in [
        (vllm(), template.clone()),
        (novastack(), template),
        (deepseek(), json!({"thinking": {"type": "disabled"}})),
        (moonshot(), json!({"thinking": {"type": "disabled"}})),
        (minimax(), json!({"thinking": {"type": "disabled"}})),
        (dashscope(), json!({"enable_thinking": false})),
        (openrouter(), json!({"reasoning": {"effort": "none"}})),
        (openai(), json!({})),
        (plain(), json!({})),
    ] {
        for off in [json!({"output_config": {"effort": "high"}}), json!({"thinking": {"type": "disabled"}})] {
            assert_eq!(rest(&compat, off.clone()), expected, "{off} for {:?}", compat.reasoning);
        }
        // Who says neither leaves it to the model.
        assert_eq!(rest(&compat, json!({"output_config": {}})), json!({}), "{:?}", compat.reasoning);
    }
    let ours = for_engine(&body(json!({"output_config": {"effort": "high"}}))).unwrap();
    assert_eq!(ours["thinking"], json!({"type": "disabled", "promise": false}));
    assert_eq!(ours.get("reasoning_effort"), None);
    assert_eq!(for_engine(&body(json!({}))).unwrap().get("thinking"), None);
}
