//! Tools as functions, choices among them, and custom tools' text.

use super::super::custom_input::CustomInput;
use super::super::tools::{ToolKind, typed_call};
use super::{asked, chat};
use serde_json::{Value, json};

#[test]
fn every_kind_of_tool_is_a_function_or_dropped() {
    let tools = json!([
        {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true},
        {"type": "custom", "name": "patch", "description": "Edits.",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: \"x\""}},
        {"type": "namespace", "name": "ns", "description": "", "tools": [{"type": "function", "name": "g"}]},
        {"type": "local_shell"}, {"type": "shell", "environment": {"type": "local"}}, {"type": "apply_patch"},
        {"type": "tool_search", "execution": "client", "description": "Find", "parameters": {"type": "object"}},
        {"type": "web_search_2025_08_26"}, {"type": "web_search_preview"}, {"type": "file_search", "vector_store_ids": []},
        {"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "image_generation"},
        {"type": "mcp", "server_label": "x"}, {"type": "shell", "environment": {"type": "container_auto"}},
        {"type": "tool_search"},
    ]);
    let body = chat(json!({"tools": tools}));
    let functions: Vec<&Value> =
        body["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]).collect();
    let names: Vec<&Value> = functions.iter().map(|function| &function["name"]).collect();
    assert_eq!(names, ["f", "patch", "ns__g", "local_shell", "shell", "apply_patch", "tool_search"]);
    assert_eq!(
        functions[0],
        &json!({"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true})
    );
    assert_eq!(functions[1]["description"], "Edits.\n\nThe input follows this grammar (lark):\nstart: \"x\"");
    assert_eq!(functions[1]["parameters"]["required"], json!(["input"]));
    assert_eq!(functions[2], &json!({"name": "ns__g"}));

    let asked = asked(json!({"tools": tools}));
    let kind = |function: &str| asked.tools.of(function).kind;
    assert_eq!(kind("patch"), ToolKind::Custom);
    assert_eq!(kind("apply_patch"), ToolKind::ApplyPatch);
    assert_eq!(kind("nobody's"), ToolKind::Function);
    let found = asked.tools.of("ns__g");
    assert_eq!((found.name.as_str(), found.namespace.as_deref()), ("g", Some("ns")));
    // The response repeats the tools that the model was offered.
    assert_eq!(asked.echo["tools"].as_array().unwrap().len(), 7);
}

#[test]
fn choices_among_tools() {
    let tools = json!([
        {"type": "function", "name": "f"}, {"type": "function", "name": "g"}, {"type": "custom", "name": "c"},
        {"type": "web_search"},
    ]);
    let choose =
        |choice: Value| chat(json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": false}));
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    for (choice, expected) in [
        (json!("none"), json!("none")),
        (json!("auto"), json!("auto")),
        (json!("required"), json!("required")),
        (json!({"type": "function", "name": "g"}), named("g")),
        (json!({"type": "custom", "name": "c"}), named("c")),
    ] {
        let body = choose(choice);
        assert_eq!(body["tool_choice"], expected);
        assert_eq!(body["parallel_tool_calls"], false);
        assert_eq!(body["tools"].as_array().unwrap().len(), 3);
    }
    let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [
        {"type": "custom", "name": "c"}, {"type": "function", "name": "g"}]});
    let body = choose(allowed);
    assert_eq!(body["tool_choice"], "required");
    let names: Vec<&Value> =
        body["tools"].as_array().unwrap().iter().map(|it| &it["function"]["name"]).collect();
    assert_eq!(names, ["g", "c"]);
}

#[test]
fn tools_that_came_as_items_are_offered() {
    let body = chat(json!({"input": [
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "f"}]},
        {"role": "user", "content": "x"},
        {"type": "tool_search_call", "call_id": "a", "execution": "client", "arguments": {"query": "git"}},
        {"type": "tool_search_output", "call_id": "a", "execution": "client", "status": "completed", "tools": [
            {"type": "namespace", "name": "git", "tools": [{"type": "function", "name": "log", "defer_loading": true}]}]},
    ]}));
    let names: Vec<&Value> =
        body["tools"].as_array().unwrap().iter().map(|it| &it["function"]["name"]).collect();
    assert_eq!(names, ["f", "git__log"]);
    assert_eq!(body["messages"][2], json!({"role": "tool", "tool_call_id": "a", "content": "Found: git"}));
}

#[test]
fn typed_calls_that_do_not_fit_are_none() {
    for (kind, arguments) in [
        (ToolKind::LocalShell, "{\"command\":\"ls\"}"),
        (ToolKind::LocalShell, "ls"),
        (ToolKind::Shell, "{}"),
        (ToolKind::ApplyPatch, "{\"type\":\"update_file\",\"path\":\"a\"}"),
        (ToolKind::ApplyPatch, "{\"type\":\"burn\",\"path\":\"a\",\"diff\":\"\"}"),
        (ToolKind::ToolSearch, "[]"),
    ] {
        assert_eq!(typed_call(kind, arguments), None, "{kind:?} {arguments}");
    }
    let call = typed_call(ToolKind::LocalShell, r#"{"command":["ls"],"timeout_ms":5}"#).unwrap();
    assert_eq!(call["action"]["command"], json!(["ls"]));
    assert_eq!(call["action"]["timeout_ms"], 5);
}

/// What comes out in pieces and in the end.
fn input_of(pieces: &[&str]) -> String {
    let mut input = CustomInput::default();
    let mut out: String = pieces.iter().map(|piece| input.push(piece)).collect();
    out.push_str(&input.end());
    assert_eq!(input.text(), out);
    out
}

#[test]
fn a_custom_tools_text_comes_out_however_it_is_cut() {
    let cases = [
        (
            r#"{"input": "*** Begin \"Patch\"\n+\u00e9 \ud83d\ude00 \\ \/"}"#,
            "*** Begin \"Patch\"\n+é 😀 \\ /",
        ),
        (r#" { "input" : "" } "#, ""),
        (r#"{"patch": "x\ny"}"#, "x\ny"),
        (r#"{"why": "so", "input": "x"}"#, "x"),
        (r#"{"a": 1}"#, r#"{"a": 1}"#),
        ("*** Begin Patch\n{}", "*** Begin Patch\n{}"),
        (r#"{"input": "\ud83d x \q"}"#, "\u{fffd} x q"),
        (r#"{"input": 3}"#, r#"{"input": 3}"#),
        ("", ""),
    ];
    for (arguments, text) in cases {
        assert_eq!(input_of(&[arguments]), text);
        let characters: Vec<String> = arguments.chars().map(String::from).collect();
        let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
        assert_eq!(input_of(&characters), text, "{arguments}");
        for at in (0..arguments.len()).filter(|at| arguments.is_char_boundary(*at)) {
            assert_eq!(input_of(&[&arguments[..at], &arguments[at..]]), text, "{arguments} at {at}");
        }
    }
    let mut input = CustomInput::default();
    assert_eq!(input.push(r#"{"input": "ab"#), "ab");
    assert_eq!(input.push(r"c\"), "c");
    assert!(!input.is_complete());
    assert_eq!(input.push(r#"n"}"#), "\n");
    assert!(input.is_complete());
}
