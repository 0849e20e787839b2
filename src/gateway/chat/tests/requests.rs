//! Requests there and back, with their stated losses, and what cannot be translated.

use super::super::{to_anthropic, to_openai};
use crate::config::Compat;
use crate::gateway::wire::fields::BadField;
use serde_json::{Value, json};

const DEFAULT: u64 = 4096;

fn anthropic(body: Value) -> Value {
    translated(&body).unwrap_or_else(|e| panic!("{e}"))
}

fn openai(body: Value) -> Value {
    to_openai(&body, &Compat::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// For the model that the body names.
fn translated(body: &Value) -> Result<Value, BadField> {
    to_anthropic(body, body["model"].as_str().unwrap_or_default(), DEFAULT)
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// A chat that both formats can say, in OpenAI's.
fn rich_openai() -> Value {
    json!({
        "model": "claude-opus-4-7",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                {"type": "image_url", "image_url": {"url": "https://example.com/cat.jpg"}},
            ]},
            {
                "role": "assistant", "content": "I look.", "reasoning_content": "Look first.",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "Look first.", "signature": "sig", "index": 0},
                    {"type": "reasoning.encrypted", "data": "xyz", "index": 1},
                ],
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":[1,2]}"}},
                    {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
            {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
            {"role": "user", "content": "And now?"},
        ],
        "max_tokens": 256,
        "temperature": 0.5, "top_p": 0.9, "top_k": 40,
        "stop": ["END", "STOP"],
        "stream": true, "stream_options": {"include_usage": true},
        "user": "u-1",
        "tools": [
            {"type": "function", "function": {
                "name": "look", "description": "Looks.", "strict": true,
                "parameters": {"type": "object", "properties": {"at": {"type": "array"}}},
            }},
            {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": false,
        "response_format": {"type": "json_schema", "json_schema": {
            "name": "response", "schema": {"type": "object", "additionalProperties": false}, "strict": true,
        }},
        "reasoning_effort": "high",
    })
}

fn rich_anthropic() -> Value {
    json!({
        "model": "claude-opus-4-7",
        "max_tokens": 256,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.jpg"}},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Look first.", "signature": "sig"},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": [1, 2]}},
                {"type": "tool_use", "id": "call_2", "name": "time", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "a cat"},
                {"type": "tool_result", "tool_use_id": "call_2", "content": "noon"},
                {"type": "text", "text": "And now?"},
            ]},
        ],
        "temperature": 0.5, "top_p": 0.9, "top_k": 40,
        "stop_sequences": ["END", "STOP"],
        "stream": true,
        "metadata": {"user_id": "u-1"},
        "tools": [
            {
                "name": "look", "description": "Looks.",
                "input_schema": {"type": "object", "properties": {"at": {"type": "array"}}}, "strict": true,
            },
            {"name": "time", "input_schema": {"type": "object"}},
        ],
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": true},
        "output_config": {"effort": "high", "format": {
            "type": "json_schema", "schema": {"type": "object", "additionalProperties": false},
        }},
    })
}

#[test]
fn a_rich_chat_there_and_back() {
    assert_eq!(anthropic(rich_openai()), rich_anthropic());
    // Claude does not think where a tool is forced, and an effort alone asks others for no thinking.
    let mut back = rich_openai();
    back.as_object_mut().unwrap().remove("reasoning_effort");
    assert_eq!(openai(rich_anthropic()), back);
}

#[test]
fn anthropics_own_ways_to_openai() {
    let body = json!({
        "model": "m", "max_tokens": 10, "metadata": {}, "service_tier": "auto",
        "system": [
            {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Two."},
        ],
        "messages": [
            {"role": "user", "content": "plain"},
            {"role": "system", "content": "From now on, rhyme."},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "shot", "input": {}}]},
            {"role": "user", "content": [
                {"type": "text", "text": "before"},
                {"type": "tool_result", "tool_use_id": "t", "is_error": true, "content": [
                    {"type": "text", "text": "broken"},
                    {"type": "text", "text": "twice"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                ]},
            ]},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": [
                {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "D"}},
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
            ]},
        ],
        "thinking": {"type": "enabled", "budget_tokens": 5000},
        "tools": [{"name": "shot", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any"},
        "stop_sequences": [],
        "stream": false,
    });
    assert_eq!(
        openai(body),
        json!({
            "model": "m",
            "messages": [
                {"role": "system", "content": "One.\n\nTwo."},
                {"role": "user", "content": "plain"},
                {"role": "system", "content": "From now on, rhyme."},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "t", "type": "function", "function": {"name": "shot", "arguments": "{}"}},
                ]},
                {"role": "tool", "tool_call_id": "t", "content": "Error: broken\ntwice"},
                {"role": "user", "content": [
                    {"type": "text", "text": "Shown by the tool call t:"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                    {"type": "text", "text": "before"},
                ]},
                {"role": "assistant", "content": "ab"},
                {"role": "user", "content": [
                    {"type": "text", "text": "T\n\nD"},
                    {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
                ]},
            ],
            "max_tokens": 10,
            "stream": false,
            "tools": [{"type": "function", "function": {"name": "shot", "parameters": {"type": "object"}}}],
            "tool_choice": "required",
            "reasoning_effort": "medium",
        })
    );
}

#[test]
fn openais_own_ways_to_anthropic() {
    let body = json!({
        "model": "claude-haiku-4-5",
        "messages": [
            {"role": "system", "content": "One."},
            {"role": "user", "content": "a", "name": "ann"},
            {"role": "developer", "content": [{"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}}]},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": " "}]},
            {"role": "assistant", "content": "\n", "reasoning_content": "unsigned", "tool_calls": [
                {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": ""}},
            ]},
            {"role": "tool", "tool_call_id": "functions.f:0", "content": [
                {"type": "text", "text": "r"},
                {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,AA=="}},
            ]},
            {"role": "assistant", "content": null, "refusal": "No."},
            {"role": "assistant", "content": "More."},
            {"role": "user", "content": [{"type": "file", "file": {
                "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE",
            }}]},
        ],
        "max_completion_tokens": 100, "max_tokens": 7,
        "stop": "END", "seed": 3, "n": 1, "logprobs": false, "presence_penalty": 0, "logit_bias": {},
        "safety_identifier": "s",
        "tools": [{"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": "required",
        "response_format": {"type": "text"},
    });
    assert_eq!(
        anthropic(body),
        json!({
            "model": "claude-haiku-4-5",
            "max_tokens": 100,
            "system": [
                {"type": "text", "text": "One."},
                {"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}},
            ],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "functions_f_0", "name": "f", "input": {}},
                ]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "functions_f_0", "content": [
                    {"type": "text", "text": "r"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AA=="}},
                ]}]},
                {"role": "assistant", "content": [{"type": "text", "text": "No."}, {"type": "text", "text": "More."}]},
                {"role": "user", "content": [{
                    "type": "document", "title": "a.pdf",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                }]},
            ],
            "stop_sequences": ["END"],
            "metadata": {"user_id": "s"},
            "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
            "tool_choice": {"type": "any"},
        })
    );
    // Other makers' models take unsigned thinking.
    let unsigned = json!({"model": "kimi-k2.6", "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "because"},
    ]});
    assert_eq!(
        anthropic(unsigned)["messages"][1]["content"][0],
        json!({"type": "thinking", "thinking": "because", "signature": ""})
    );
}

#[test]
fn efforts_and_budgets() {
    let asked = |model: &str, effort: &str, max: Option<u64>| {
        let mut body = json!({"model": model, "messages": user("a"), "reasoning_effort": effort});
        if let Some(max) = max {
            body["max_tokens"] = max.into();
        }
        let out = anthropic(body);
        (out["thinking"].clone(), out["output_config"]["effort"].clone(), out["max_tokens"].as_u64().unwrap())
    };
    let budget = |tokens: u64| json!({"type": "enabled", "budget_tokens": tokens});
    let adaptive = json!({"type": "adaptive"});
    for old in ["claude-sonnet-4-5", "anthropic/claude-opus-4.5", "claude-3-7-sonnet-latest", "minimax-m2"] {
        assert_eq!(asked(old, "low", None), (budget(2048), Value::Null, DEFAULT + 2048), "{old}");
        assert_eq!(asked(old, "high", Some(8000)), (budget(4000), Value::Null, 8000), "{old}");
        assert_eq!(asked(old, "high", Some(2000)), (Value::Null, Value::Null, 2000), "{old}");
        assert_eq!(asked(old, "none", None), (json!({"type": "disabled"}), Value::Null, DEFAULT), "{old}");
    }
    for (new, most) in [
        ("claude-opus-4-7", "xhigh"),
        ("claude-opus-4.6", "high"),
        ("anthropic/claude-sonnet-4.6:beta", "high"),
        ("claude-opus-5", "xhigh"),
    ] {
        assert_eq!(asked(new, "minimal", None), (adaptive.clone(), json!("low"), DEFAULT), "{new}");
        assert_eq!(asked(new, "xhigh", Some(50)), (adaptive.clone(), json!(most), 50), "{new}");
    }
    for never in ["claude-3-5-haiku-latest", "claude-3-opus-20240229"] {
        for effort in ["high", "none"] {
            assert_eq!(asked(never, effort, None), (Value::Null, Value::Null, DEFAULT), "{never}");
        }
    }
    for (effort, tokens) in [("low", 2048), ("medium", 8192), ("high", 24576)] {
        assert_eq!(asked("claude-haiku-4-5", effort, None).0, budget(tokens));
        let back = openai(json!({"messages": user("a"), "thinking": budget(tokens)}));
        assert_eq!(back["reasoning_effort"], effort, "{tokens} tokens come back as the same effort");
    }
    for silent in [json!({"type": "disabled"}), json!({"type": "adaptive"})] {
        let out = openai(json!({"messages": user("a"), "thinking": silent}));
        assert_eq!(out.get("reasoning_effort"), None);
    }
    // A call whose thinking is gone cannot be thought on from with a budget.
    let called = json!({"model": "claude-haiku-4-5", "reasoning_effort": "low", "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "t", "content": "r"},
    ]});
    assert_eq!(anthropic(called).get("thinking"), None);
    let own =
        json!({"model": "m", "messages": user("a"), "thinking": {"type": "enabled", "budget_tokens": 1}});
    assert_eq!(anthropic(own)["thinking"]["budget_tokens"], 1);
}

#[test]
fn choices_of_tools() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    for (choice, parallel, expected) in [
        (json!(null), json!(null), json!(null)),
        (json!("auto"), json!(true), json!({"type": "auto"})),
        (json!(null), json!(false), json!({"type": "auto", "disable_parallel_tool_use": true})),
        (json!("required"), json!(false), json!({"type": "any", "disable_parallel_tool_use": true})),
        (json!("none"), json!(false), json!({"type": "none"})),
    ] {
        let body = json!({
            "messages": user("a"), "tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel,
        });
        assert_eq!(anthropic(body)["tool_choice"], expected, "{choice} {parallel}");
    }
    assert_eq!(anthropic(json!({"messages": user("a"), "tool_choice": "auto"})).get("tool_choice"), None);
    for (choice, expected) in [("auto", "auto"), ("any", "required"), ("none", "none")] {
        let out = openai(json!({"messages": user("a"), "tool_choice": {"type": choice}}));
        assert_eq!((&out["tool_choice"], out.get("parallel_tool_calls")), (&json!(expected), None));
    }
}

/// Models write such calls, and clients send them back.
#[test]
fn calls_with_empty_missing_or_broken_arguments_are_translated_both_ways() {
    let call = |arguments: Value| json!([{"id": "t", "function": {"name": "f", "arguments": arguments}}]);
    for (arguments, input) in [
        (json!(null), json!({})),
        (json!(""), json!({})),
        (json!("null"), json!({})),
        (json!({"a": 1}), json!({"a": 1})),
        (json!("{\"a\":"), json!({"arguments": "{\"a\":"})),
        (json!("[1]"), json!({"arguments": "[1]"})),
    ] {
        let said = json!({"role": "assistant", "content": null, "tool_calls": call(arguments)});
        let body = translated(&json!({"messages": [user("a")[0], said]})).unwrap();
        assert_eq!(body["messages"][1]["content"][0]["input"], input);
    }
    for (input, arguments) in
        [(json!(null), "{}"), (json!({"a": 1}), "{\"a\":1}"), (json!("{\"a\":"), "{\"a\":")]
    {
        let said = json!([{"type": "tool_use", "id": "t", "name": "f", "input": input}]);
        let body =
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]});
        let body = to_openai(&body, &Compat::default()).unwrap();
        assert_eq!(body["messages"][1]["tool_calls"][0]["function"]["arguments"], arguments);
    }
}

#[test]
fn what_anthropic_cannot_do_names_the_field() {
    let tool = |function: Value| json!([{"type": "function", "function": function}]);
    let cases = [
        (json!([]), "body"),
        (json!({}), "messages"),
        (json!({"messages": [{"role": "user", "content": " "}]}), "messages"),
        (json!({"messages": [{"role": "robot", "content": "hi"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": 3}]}), "messages[0].content"),
        (json!({"messages": user("a"), "n": 2}), "n"),
        (json!({"messages": user("a"), "logprobs": true}), "logprobs"),
        (json!({"messages": user("a"), "frequency_penalty": 0.5}), "frequency_penalty"),
        (json!({"messages": user("a"), "logit_bias": {"5": 1}}), "logit_bias"),
        (json!({"messages": user("a"), "modalities": ["audio"]}), "modalities"),
        (json!({"messages": user("a"), "functions": [{"name": "f"}]}), "functions"),
        (json!({"messages": user("a"), "temperature": 1.5}), "temperature"),
        (json!({"messages": user("a"), "max_tokens": 0}), "max_tokens"),
        (json!({"messages": user("a"), "stop": "\n"}), "stop"),
        (json!({"messages": user("a"), "stop": 3}), "stop"),
        (json!({"messages": user("a"), "reasoning_effort": "heroic"}), "reasoning_effort"),
        (json!({"messages": user("a"), "response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"messages": user("a"), "tool_choice": "required"}), "tool_choice"),
        (json!({"messages": user("a"), "tool_choice": "any"}), "tool_choice"),
        (json!({"messages": user("a"), "tools": tool(json!({}))}), "tools[0].function.name"),
        (json!({"messages": user("a"), "tools": [{"type": "custom", "custom": {}}]}), "tools[0].custom.name"),
        (json!({"messages": user("a"), "tools": [{"type": "wish"}]}), "tools[0].type"),
        (json!({"messages": user("a"), "tool_choice": {"type": "wish"}}), "tool_choice.type"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:x/y;base64,AA"}}]}]}),
            "messages[0].content[0].file.file_data",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}),
            "messages[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AA"}}]}]}),
            "messages[0].content[0].image_url.url",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}),
            "messages[0].content[0].file.file_id",
        ),
        (
            json!({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]}),
            "messages[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [
                {"id": "t", "function": {"name": "f", "arguments": 5}},
            ]}]}),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (json!({"messages": [{"role": "tool", "content": "r"}]}), "messages[0].tool_call_id"),
    ];
    for (body, param) in cases {
        let error = translated(&body).unwrap_err();
        assert_eq!(error.param, param, "{body}: {error}");
    }
}

#[test]
fn what_openais_format_cannot_say_names_the_field() {
    let content = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    let cases = [
        (json!({"messages": []}), "messages"),
        (json!({"messages": user("a"), "container": "c"}), "container"),
        (json!({"messages": user("a"), "mcp_servers": [{"url": "https://x.org"}]}), "mcp_servers"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"system": 3, "messages": user("a")}), "system"),
        (json!({"system": [{"type": "image"}], "messages": user("a")}), "system[0].type"),
        (json!({"messages": user("a"), "tools": [{"type": "wishing_well", "name": "w"}]}), "tools[0].type"),
        (json!({"messages": user("a"), "tools": [{"name": "w"}]}), "tools[0].input_schema"),
        (json!({"messages": user("a"), "tool_choice": {"type": "some"}}), "tool_choice.type"),
        (json!({"messages": user("a"), "thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
        (content(json!({"type": "hologram"})), "messages[0].content[0].type"),
        (
            content(json!({"type": "image", "source": {"type": "file", "file_id": "f"}})),
            "messages[0].content[0].source.type",
        ),
        (content(json!({"type": "tool_result"})), "messages[0].content[0].tool_use_id"),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "hologram"}]}]}),
            "messages[0].content[0].type",
        ),
    ];
    for (body, param) in cases {
        let error = to_openai(&body, &Compat::default()).unwrap_err();
        assert_eq!(error.param, param, "{body}: {error}");
    }
}
