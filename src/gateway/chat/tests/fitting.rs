//! What one model takes and another refuses: capabilities, bounds, system messages, Claude's generations, JSON and
//! tools of OpenAI callers at Anthropic, marks for its cache, noise.

use super::super::anthropic::models::betas;
use super::super::openai::history;
use super::super::{Dialect, Peer, Takes, for_upstream, noise};
use crate::config::compat::{open_server, openai, openrouter, plain, vllm};
use crate::config::{Capabilities, Compat};
use crate::text::{ChatTemplate, RenderInput};
use serde_json::{Value, json};

fn over(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn ask(
    from: Dialect,
    to: Dialect,
    model: &str,
    compat: &Compat,
    takes: Takes,
    more: Value,
) -> Result<Value, String> {
    let body = over(json!({"model": "auto", "messages": [{"role": "user", "content": "a"}]}), more);
    for_upstream(from, &body, &Peer { dialect: to, model, compat, takes }).map_err(|error| error.to_string())
}

fn to_claude(more: Value) -> Value {
    ask(Dialect::OpenAi, Dialect::Anthropic, "claude-sonnet-4-6", &plain(), Takes::default(), more).unwrap()
}

fn claude_to_claude(model: &str, more: Value) -> Value {
    let more = over(json!({"max_tokens": 8000}), more);
    ask(Dialect::Anthropic, Dialect::Anthropic, model, &plain(), Takes::default(), more).unwrap()
}

fn passed(model: &str, compat: &Compat, more: Value) -> Value {
    ask(Dialect::OpenAi, Dialect::OpenAi, model, compat, Takes::default(), more).unwrap()
}

fn only(tools: bool, images: bool, reasoning: bool) -> Takes {
    Takes { capabilities: Capabilities { tools, images, reasoning }, ..Takes::default() }
}

/// Every wish about thinking, in either dialect, for a model that has none.
#[test]
fn a_model_without_reasoning_is_told_nothing_about_it() {
    let takes = only(true, true, false);
    let messages = |more: Value| over(json!({"max_tokens": 9000}), more);
    for to in [Dialect::OpenAi, Dialect::Anthropic] {
        for (from, said) in [
            (
                Dialect::Anthropic,
                json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
            ),
            (
                Dialect::Anthropic,
                json!({"thinking": {"type": "enabled", "budget_tokens": 2000}, "temperature": 0.5}),
            ),
            (Dialect::Anthropic, json!({"thinking": {"type": "disabled"}})),
            (Dialect::OpenAi, json!({"reasoning_effort": "high", "temperature": 0.5})),
            (Dialect::OpenAi, json!({"reasoning": {"effort": "low"}})),
            (Dialect::OpenAi, json!({"enable_thinking": true, "thinking_budget": 9})),
            (Dialect::OpenAi, json!({"chat_template_kwargs": {"enable_thinking": true}})),
        ] {
            for compat in [plain(), vllm(), openrouter()] {
                let out = ask(from, to, "m", &compat, takes, messages(said.clone())).unwrap();
                let mut left: Vec<&String> = out.as_object().unwrap().keys().collect();
                left.retain(|name| {
                    !["model", "messages", "max_tokens", "temperature"].contains(&name.as_str())
                });
                assert!(left.is_empty(), "{said} to {to:?}: {out}");
            }
        }
    }
    // What else stands beside it stays.
    let kwargs = json!({"chat_template_kwargs": {"enable_thinking": true, "x": 1}});
    let out = ask(Dialect::OpenAi, Dialect::OpenAi, "m", &vllm(), takes, kwargs).unwrap();
    assert_eq!(out["chat_template_kwargs"], json!({"x": 1}));
}

#[test]
fn an_image_for_a_model_that_takes_none_is_named() {
    let openai = json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://x.org/a"}},
    ]}]});
    let image = json!({"type": "image", "source": {"type": "url", "url": "https://x.org/a"}});
    let anthropic = json!({"max_tokens": 9, "messages": [{"role": "user", "content": [image]}]});
    let shown = json!({"max_tokens": 9, "messages": [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [image]}]},
    ]});
    for (from, body, path) in [
        (Dialect::OpenAi, openai, "messages[0].content[1]"),
        (Dialect::Anthropic, anthropic, "messages[0].content[0]"),
        (Dialect::Anthropic, shown, "messages[1].content[0].content[0]"),
    ] {
        for to in [Dialect::OpenAi, Dialect::Anthropic] {
            let told = ask(from, to, "m", &plain(), only(true, false, true), body.clone()).unwrap_err();
            assert!(told.starts_with(&format!("`{path}` is an image")), "{told}");
            assert!(ask(from, to, "m", &plain(), Takes::default(), body.clone()).is_ok());
        }
    }
}

#[test]
fn tools_for_a_model_that_takes_none_are_named_unless_none_is_to_be_called() {
    let takes = only(false, true, true);
    let openai = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    let anthropic = json!({"max_tokens": 9, "tools": [{"name": "f", "input_schema": {"type": "object"}}]});
    for to in [Dialect::OpenAi, Dialect::Anthropic] {
        for (from, body, none) in [
            (Dialect::OpenAi, &openai, json!("none")),
            (Dialect::Anthropic, &anthropic, json!({"type": "none"})),
        ] {
            let told = ask(from, to, "m", &plain(), takes, body.clone()).unwrap_err();
            assert!(told.starts_with("`tools` "), "{told}");
            let unused = over(body.clone(), json!({"tool_choice": none}));
            let out = ask(from, to, "m", &plain(), takes, unused).unwrap();
            assert_eq!((out.get("tools"), out.get("tool_choice")), (None, None), "{out}");
        }
    }
    let server = json!({"max_tokens": 9, "tools": [{"type": "web_search_20250305", "name": "web_search"}]});
    assert!(ask(Dialect::Anthropic, Dialect::OpenAi, "m", &plain(), takes, server).is_ok());
    let empty = json!({"tools": [], "tool_choice": "auto"});
    assert_eq!(
        ask(Dialect::OpenAi, Dialect::OpenAi, "m", &plain(), takes, empty).unwrap().get("tools"),
        None
    );
}

#[test]
fn a_bound_is_no_higher_than_the_models() {
    let takes = Takes { max_output_tokens: Some(4096), ..Takes::default() };
    for (name, asked, sent) in
        [("max_tokens", 32_000, 4096), ("max_completion_tokens", 32_000, 4096), ("max_tokens", 9, 9)]
    {
        let out = ask(Dialect::OpenAi, Dialect::OpenAi, "m", &plain(), takes, json!({name: asked})).unwrap();
        assert_eq!(out[name], sent);
    }
    let claude = json!({"max_tokens": 32_000, "thinking": {"type": "enabled", "budget_tokens": 16_000}});
    let out =
        ask(Dialect::Anthropic, Dialect::Anthropic, "claude-sonnet-4-5", &plain(), takes, claude).unwrap();
    assert_eq!((&out["max_tokens"], &out["thinking"]["budget_tokens"]), (&json!(4096), &json!(2048)));
    let out = ask(Dialect::OpenAi, Dialect::Anthropic, "claude-3-haiku", &plain(), takes, json!({})).unwrap();
    assert_eq!(out["max_tokens"], 4096, "the default is a bound too");
    let less = Takes { max_output_tokens: Some(1000), ..takes };
    let claude = json!({"max_tokens": 32_000, "thinking": {"type": "enabled", "budget_tokens": 16_000}});
    let out =
        ask(Dialect::Anthropic, Dialect::Anthropic, "claude-sonnet-4-5", &plain(), less, claude).unwrap();
    assert_eq!((&out["max_tokens"], out.get("thinking")), (&json!(1000), None));
}

#[test]
fn an_effort_goes_beside_tools_only_to_models_that_take_both() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let effort = |model: &str, compat: &Compat, more: Value| {
        let body = over(json!({"reasoning_effort": "high", "tools": tools}), more);
        passed(model, compat, body).get("reasoning_effort").cloned()
    };
    for model in ["gpt-5.4", "gpt-5.4-mini", "openai/gpt-5.5", "gpt-6"] {
        assert_eq!(effort(model, &openai(), json!({})), None, "{model}");
        assert_eq!(effort(model, &openai(), json!({"tools": []})), Some(json!("high")), "{model}");
        assert_eq!(
            effort(model, &openai(), json!({"reasoning_effort": "none"})),
            Some(json!("none")),
            "{model}"
        );
    }
    for model in ["gpt-5", "gpt-5-mini", "gpt-5.2", "o3", "gpt-4o", "gpt-oss-120b"] {
        assert_eq!(effort(model, &openai(), json!({})), Some(json!("high")), "{model}");
        let never = Compat { effort_beside_tools: false, ..openai() };
        assert_eq!(effort(model, &never, json!({})), None, "{model}");
    }
    // From an Anthropic caller.
    let body = json!({
        "max_tokens": 9, "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"},
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    });
    let sent = |model: &str| {
        ask(Dialect::Anthropic, Dialect::OpenAi, model, &openai(), Takes::default(), body.clone()).unwrap()
    };
    assert_eq!(
        (sent("gpt-5.4").get("reasoning_effort"), &sent("gpt-5.2")["reasoning_effort"]),
        (None, &json!("high"))
    );
}

/// Claude Code's messages with the role `system` behind the user's.
#[test]
fn system_messages_after_the_first_are_merged_where_they_are_refused() {
    let messages = json!([
        {"role": "system", "content": "One."},
        {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
        {"role": "user", "content": "a"},
        {"role": "system", "content": "Three."},
        {"role": "assistant", "content": "b"},
        {"role": "system", "content": [{"type": "text", "text": "Four."}, {"type": "text", "text": "Five."}]},
        {"role": "user", "content": [{"type": "text", "text": "c"}]},
        {"role": "assistant", "content": "d"},
        {"role": "developer", "content": "Six."},
    ]);
    let merged = json!([
        {"role": "system", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
        {"role": "user", "content": "a\n\n<system>\nThree.\n</system>"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [
            {"type": "text", "text": "<system>\nFour.\n\nFive.\n</system>"}, {"type": "text", "text": "c"},
        ]},
        {"role": "assistant", "content": "d"},
        {"role": "user", "content": "<system>\nSix.\n</system>"},
    ]);
    assert_eq!(passed("m", &open_server(), json!({"messages": messages}))["messages"], merged);
    assert_eq!(passed("m", &plain(), json!({"messages": messages}))["messages"], messages);
    // What stands before a new one is sent as it was.
    let longer: Vec<Value> = messages.as_array().unwrap().iter().take(7).cloned().collect();
    let before = passed("m", &open_server(), json!({"messages": longer}))["messages"].clone();
    assert_eq!(before.as_array().unwrap()[..], merged.as_array().unwrap()[..4]);
    let one = json!([{"role": "system", "content": "One."}, {"role": "user", "content": "a"}]);
    assert_eq!(passed("m", &open_server(), json!({"messages": one}))["messages"], one);
}

#[test]
fn a_template_that_refuses_a_late_system_message_gets_a_users_text() {
    let strict = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}\
                  {{ raise_exception('System message must be at the beginning.') }}{% endif %}\
                  [{{ m.role }}] {{ m.content }}\n{% endfor %}";
    let lenient = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";
    let messages = vec![
        json!({"role": "system", "content": "One."}),
        json!({"role": "user", "content": "a"}),
        json!({"role": "system", "content": "Two."}),
    ];
    let input = RenderInput { messages, ..RenderInput::default() };
    let rendered =
        |template: &str| history::render(&ChatTemplate::new(template, &json!({})).unwrap(), &input).unwrap();
    assert_eq!(rendered(strict), "[system] One.\n[user] a\n\n<system>\nTwo.\n</system>\n");
    assert_eq!(rendered(lenient), "[system] One.\n[user] a\n[system] Two.\n");
    let never = "{{ raise_exception('Only tools.') }}";
    let error = history::render(&ChatTemplate::new(never, &json!({})).unwrap(), &input).unwrap_err();
    assert!(error.to_string().contains("Only tools."), "{error}");
}

#[test]
fn a_claude_model_gets_the_thinking_and_the_effort_that_it_takes() {
    let adaptive = json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}});
    let budget = json!({"thinking": {"type": "enabled", "budget_tokens": 5000}});
    let enabled = |tokens: u64| json!({"type": "enabled", "budget_tokens": tokens});
    let null = Value::Null;
    for (model, said, thinking, effort) in [
        ("claude-3-5-haiku-latest", &adaptive, &null, &null),
        ("claude-3-haiku-20240307", &budget, &null, &null),
        ("claude-3-7-sonnet-latest", &adaptive, &enabled(4000), &null),
        ("claude-sonnet-4-5", &adaptive, &enabled(4000), &null),
        ("claude-haiku-4-5", &budget, &budget["thinking"], &null),
        ("claude-opus-4-5", &adaptive, &enabled(4000), &json!("high")),
        ("claude-opus-4-6", &adaptive, &adaptive["thinking"], &json!("high")),
        ("claude-sonnet-4-6", &budget, &budget["thinking"], &null),
        ("claude-opus-4-7", &adaptive, &adaptive["thinking"], &json!("xhigh")),
        ("anthropic/claude-opus-4.7", &budget, &json!({"type": "adaptive"}), &json!("medium")),
        ("claude-of-tomorrow", &budget, &json!({"type": "adaptive"}), &json!("medium")),
        // Other makers' models behind the format.
        ("kimi-k2.6", &adaptive, &adaptive["thinking"], &json!("xhigh")),
    ] {
        let out = claude_to_claude(model, said.clone());
        let got = (&out["thinking"], &out["output_config"]["effort"]);
        assert_eq!(got, (thinking, effort), "{model}: {said}");
        assert!(out.get("output_config").is_none_or(|config| *config != json!({})), "{model}");
    }
    // A format beside the effort stays, and edits of thinking go with it.
    let both = json!({
        "output_config": {"effort": "low", "format": {"type": "json_schema"}}, "speed": "fast",
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_20250919"}]},
    });
    let out = claude_to_claude("claude-3-5-haiku-latest", both.clone());
    assert_eq!(out["output_config"], json!({"format": {"type": "json_schema"}}));
    assert_eq!(out["context_management"]["edits"], json!([{"type": "clear_tool_uses_20250919"}]));
    assert_eq!(out.get("speed"), None);
    // Opus 4.6 was faster for more once.
    for (model, speed) in [("claude-opus-4-8", json!("fast")), ("claude-opus-4-6", Value::Null)] {
        let out = claude_to_claude(model, both.clone());
        assert_eq!(
            (&out["speed"], &out["context_management"]),
            (&speed, &both["context_management"]),
            "{model}"
        );
    }
}

/// Of every row a model: what it is sent where its caller says that it is not to think, to be quick, or how to choose.
#[test]
fn claude_models_are_sent_what_each_of_them_takes() {
    let (disabled, null, low) = (json!({"type": "disabled"}), Value::Null, json!("low"));
    for (model, thinking, effort, samples, fast, late) in [
        ("claude-3-opus-20240229", &null, &null, true, false, false),
        ("claude-3-7-sonnet-20250219", &disabled, &null, true, false, false),
        ("claude-opus-4-1-20250805", &disabled, &null, true, false, false),
        ("claude-sonnet-4-5-20250929", &disabled, &null, true, false, false),
        ("claude-haiku-4-5-20251001", &disabled, &null, true, false, false),
        ("claude-opus-4-5-20251101", &disabled, &null, true, false, false),
        ("anthropic/claude-opus-4.6", &disabled, &null, true, false, false),
        ("claude-sonnet-4-6", &disabled, &null, true, false, false),
        ("claude-opus-4-7", &null, &null, false, false, false),
        ("claude-opus-4-8", &null, &null, false, true, true),
        ("claude-opus-5", &disabled, &null, false, true, true),
        ("claude-opus-5-5", &null, &low, false, true, true),
        ("claude-sonnet-5", &disabled, &null, false, false, false),
        ("claude-sonnet-5-5", &null, &low, false, false, true),
        ("claude-haiku-5-5", &disabled, &null, false, false, true),
        ("claude-mythos-preview", &null, &low, false, false, false),
        ("claude-fable-5", &null, &low, false, false, true),
        ("claude-fable-5-2", &null, &low, false, true, true),
        // Newer than the list: what all of the newer ones take.
        ("claude-of-tomorrow", &null, &low, false, false, false),
    ] {
        let said = json!({
            "thinking": disabled, "speed": "fast", "temperature": 0.5, "top_p": 0.9, "top_k": 3,
            "messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "s"}],
        });
        let out = claude_to_claude(model, said);
        assert_eq!((&out["thinking"], &out["output_config"]["effort"]), (thinking, effort), "{model}");
        for name in ["temperature", "top_p", "top_k"] {
            assert_eq!(out.get(name).is_some(), samples, "{model} {name}");
        }
        assert_eq!(out.get("speed").is_some(), fast, "{model}");
        assert_eq!(out["messages"][1]["role"] == "system", late, "{model}");
        let betas = betas("fast-mode-2026-02-01,structured-outputs-2025-11-13", model);
        assert_eq!(betas.contains("fast-mode"), fast, "{model}");
        assert_eq!(betas.contains("structured-outputs"), !model.starts_with("claude-3"), "{model}");
        // The same of an OpenAI caller: no thinking, and no complaint about what the model chooses by itself.
        let chat = json!({"reasoning_effort": "none", "temperature": 0.5, "messages": [{"role": "user", "content": "a"}]});
        let out = ask(Dialect::OpenAi, Dialect::Anthropic, model, &plain(), Takes::default(), chat).unwrap();
        assert_eq!((&out["thinking"], &out["output_config"]["effort"]), (thinking, effort), "{model}");
        assert_eq!(out.get("temperature").is_some(), samples, "{model}");
        if !samples {
            let chat = json!({"reasoning_effort": "high", "temperature": 0.5, "messages": [{"role": "user", "content": "a"}]});
            let out =
                ask(Dialect::OpenAi, Dialect::Anthropic, model, &plain(), Takes::default(), chat).unwrap();
            assert_eq!(
                (&out["thinking"], out.get("temperature")),
                (&json!({"type": "adaptive"}), None),
                "{model}"
            );
        }
    }
}

#[test]
fn messages_of_the_system_for_a_claude_model_that_knows_none() {
    let messages = json!([
        {"role": "system", "content": "Zero."},
        {"role": "user", "content": "hi"},
        {"role": "system", "content": [{"type": "text", "text": "Agents.", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": "b"},
    ]);
    let body = json!({"system": "You are", "messages": messages});
    let out = claude_to_claude("claude-opus-4-7", body.clone());
    assert_eq!(
        out["system"],
        json!([{"type": "text", "text": "You are"}, {"type": "text", "text": "Zero."}])
    );
    assert_eq!(
        out["messages"],
        json!([
            {"role": "user", "content": "hi"},
            {"role": "user", "content": [
                {"type": "text", "text": "<system>\nAgents.\n</system>", "cache_control": {"type": "ephemeral"}},
            ]},
            {"role": "assistant", "content": "b"},
        ])
    );
    for takes in ["claude-opus-4-8", "claude-fable-5-1", "minimax-m2"] {
        assert_eq!(claude_to_claude(takes, body.clone())["messages"], messages, "{takes}");
    }
}

#[test]
fn betas_that_a_claude_model_does_not_take_are_left_out() {
    let all = "context-1m-2025-08-07, interleaved-thinking-2025-05-14,effort-2025-11-24,fast-mode-2026-02-01,new-2030-01-01";
    for (model, left) in [
        ("claude-3-5-haiku-latest", "new-2030-01-01"),
        ("claude-sonnet-4-5", "context-1m-2025-08-07,interleaved-thinking-2025-05-14,new-2030-01-01"),
        ("claude-haiku-4-5", "interleaved-thinking-2025-05-14,new-2030-01-01"),
        ("claude-opus-4-5", "interleaved-thinking-2025-05-14,effort-2025-11-24,new-2030-01-01"),
        (
            "claude-opus-4-6",
            "context-1m-2025-08-07,interleaved-thinking-2025-05-14,effort-2025-11-24,new-2030-01-01",
        ),
        ("claude-opus-4-8", &all.replace(' ', "")),
        ("minimax-m2", all),
    ] {
        assert_eq!(betas(all, model), left, "{model}");
    }
}

#[test]
fn json_for_anthropic_is_a_schema_or_words() {
    let words = |out: &Value| out["system"].to_string();
    let out = to_claude(json!({"response_format": {"type": "json_object"}}));
    assert_eq!(
        out["system"],
        "Answer with one JSON object and nothing else: no words before or after it, no code fence."
    );
    let system = json!({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}],
        "response_format": {"type": "json_object"}});
    let blocks = to_claude(system)["system"].clone();
    assert_eq!((&blocks[0]["text"], blocks.as_array().unwrap().len()), (&json!("Be brief."), 2));
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}}}});
    let format = |schema: &Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let out = to_claude(format(&schema));
    let held = &out["output_config"]["format"]["schema"];
    assert_eq!((&held["additionalProperties"], out.get("system")), (&json!(false), None));
    assert_eq!(held["properties"]["a"]["items"]["additionalProperties"], false);
    // Who cannot hold it is asked for it.
    let open = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let out = to_claude(format(&open));
    assert!(words(&out).contains("additionalProperties") && out.get("output_config").is_none(), "{out}");
    for model in ["claude-3-7-sonnet-latest", "minimax-m2"] {
        let out =
            ask(Dialect::OpenAi, Dialect::Anthropic, model, &plain(), Takes::default(), format(&schema))
                .unwrap();
        assert!(
            words(&out).contains("this JSON schema") && out.get("output_config").is_none(),
            "{model}: {out}"
        );
    }
}

#[test]
fn a_conversation_that_begins_with_an_answer_reaches_anthropic() {
    let out = to_claude(json!({"messages": [
        {"role": "system", "content": "s"}, {"role": "assistant", "content": "Hello, what is it?"},
        {"role": "user", "content": "b"},
    ]}));
    let text = |text: &str| json!([{"type": "text", "text": text}]);
    assert_eq!(
        out["messages"],
        json!([
            {"role": "user", "content": text("(continued)")},
            {"role": "assistant", "content": text("Hello, what is it?")},
            {"role": "user", "content": text("b")},
        ])
    );
}

#[test]
fn files_of_text_reach_anthropic_as_documents() {
    let sent = |data: &str| {
        let file = json!({"type": "file", "file": {"filename": "a.txt", "file_data": data}});
        to_claude(json!({"messages": [{"role": "user", "content": [file]}]}))["messages"][0]["content"][0]
            .clone()
    };
    let text = |text: &str| json!({"type": "document", "title": "a.txt", "source": {"type": "text", "media_type": "text/plain", "data": text}});
    assert_eq!(sent("data:text/plain;base64,aGVsbG8="), text("hello"));
    assert_eq!(sent("data:text/csv;charset=utf-8;base64,w6ksYg=="), text("é,b"));
    assert_eq!(sent("data:application/json;base64,e30="), text("{}"));
    assert_eq!(sent("data:application/pdf;base64,JVBE")["source"]["media_type"], "application/pdf");
    assert_eq!(sent("data:image/png;base64,AA==")["type"], "image");
}

#[test]
fn allowed_tools_and_custom_tools_reach_anthropic() {
    let function = |name: &str| json!({"type": "function", "function": {"name": name}});
    let patch = json!({"type": "custom", "custom": {"name": "patch", "description": "Patches.",
        "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /x/"}}}});
    let tools = json!([function("f"), function("g"), patch]);
    let names = |out: &Value| -> Vec<String> {
        out["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned())
            .collect()
    };
    for (mode, choice) in [("auto", "auto"), ("required", "any")] {
        let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [
            function("g"), {"type": "custom", "custom": {"name": "patch"}},
        ]}});
        let out = to_claude(json!({"tools": tools, "tool_choice": allowed}));
        assert_eq!(
            (names(&out), &out["tool_choice"]["type"]),
            (vec!["g".into(), "patch".into()], &json!(choice))
        );
    }
    let out = to_claude(json!({
        "tools": tools, "tool_choice": {"type": "custom", "custom": {"name": "patch"}},
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "patch", "input": "*** \"x\""}}]},
            {"role": "tool", "tool_call_id": "c", "content": "ok"},
        ],
    }));
    assert_eq!(out["tool_choice"], json!({"type": "tool", "name": "patch"}));
    let tool = &out["tools"][2];
    assert_eq!(tool["input_schema"]["properties"]["input"]["type"], "string");
    assert!(tool["description"].as_str().unwrap().contains("lark grammar"), "{tool}");
    let call = json!({"type": "tool_use", "id": "c", "name": "patch", "input": {"input": "*** \"x\""}});
    assert_eq!(out["messages"][1]["content"][0], call);
}

#[test]
fn the_stable_beginning_of_an_openai_callers_prompt_is_marked_for_anthropics_cache() {
    let takes = Takes { cache_control: true, ..Takes::default() };
    let sent = |takes: Takes, more: Value| {
        ask(Dialect::OpenAi, Dialect::Anthropic, "claude-sonnet-4-6", &plain(), takes, more).unwrap()
    };
    let tools = json!([{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}}]);
    let chat = json!({"tools": tools, "messages": [
        {"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}, {"role": "user", "content": "e"},
    ]});
    let mark = json!({"type": "ephemeral"});
    let out = sent(takes, chat.clone());
    for place in ["/tools/1", "/system/0", "/messages/2/content/0"] {
        assert_eq!(out.pointer(place).unwrap()["cache_control"], mark, "{place}");
    }
    assert_eq!(out.to_string().matches("cache_control").count(), 3);
    // What was sent before is sent again, with its mark or without.
    let unmarked =
        |out: &Value| out["messages"].to_string().replace(",\"cache_control\":{\"type\":\"ephemeral\"}", "");
    let plainly = sent(Takes::default(), chat.clone());
    assert_eq!(unmarked(&out), plainly["messages"].to_string());
    assert!(!plainly.to_string().contains("cache_control"));
    // One question has no turn before it, and a caller's own marks are enough.
    assert!(!sent(takes, json!({})).to_string().contains("cache_control"));
    let own = json!({"messages": [{"role": "system", "content": [{"type": "text", "text": "s", "cache_control": mark}]},
        {"role": "user", "content": "a"}], "tools": tools});
    assert_eq!(sent(takes, own).to_string().matches("cache_control").count(), 1);
    // Anthropic's callers mark what they want.
    let body = json!({"max_tokens": 9, "system": "s"});
    let out =
        ask(Dialect::Anthropic, Dialect::Anthropic, "claude-sonnet-4-6", &plain(), takes, body).unwrap();
    assert_eq!(out["system"], "s");
}

#[test]
fn noise_in_prompts_goes_to_its_own_servers_alone() {
    let noise = "x-anthropic-billing-header: cc_version=2.1.197.aea; cc_entrypoint=sdk-cli; cch=1f;";
    let body = json!({"max_tokens": 9, "system": [{"type": "text", "text": noise}, {"type": "text", "text": "You are"}]});
    let takes = |drop_noise: bool| Takes { drop_noise, ..Takes::default() };
    let sent = |to: Dialect, drop_noise: bool| {
        ask(Dialect::Anthropic, to, "m", &plain(), takes(drop_noise), body.clone()).unwrap()
    };
    assert_eq!(sent(Dialect::OpenAi, true)["messages"][0]["content"], "You are");
    assert!(sent(Dialect::OpenAi, false)["messages"][0]["content"].as_str().unwrap().starts_with(noise));
    assert_eq!(sent(Dialect::Anthropic, false)["system"], body["system"]);
    assert_eq!(sent(Dialect::Anthropic, true)["system"], json!([{"type": "text", "text": "You are"}]));
    // Our own models decide for themselves: what they are asked in says whether there is something to decide.
    let ours = over(body.clone(), json!({"model": "m", "messages": [{"role": "user", "content": "a"}]}));
    let mut ours = crate::gateway::chat::openai::messages::for_engine(&ours).unwrap();
    assert!(noise::is_in(&ours));
    noise::drop(ours.as_object_mut().unwrap(), Dialect::OpenAi);
    assert_eq!(ours["messages"][0]["content"], "You are");
    assert!(!noise::is_in(&ours));
}
