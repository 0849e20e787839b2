//! What each preset's upstream is sent.

use super::super::anthropic::fit;
use super::super::{ChatEvent, Dialect, EncodeOptions, Peer, StopReason, Takes, encode_whole, for_upstream};
use crate::config::Compat;
use crate::config::compat::{
    dashscope, deepseek, minimax, moonshot, open_server, openai, openrouter, plain, vllm,
};
use serde_json::{Map, Value, json};

fn sent(from: Dialect, to: Dialect, model: &str, compat: &Compat, body: Value) -> Result<Value, String> {
    for_upstream(from, &body, &Peer { dialect: to, model, compat, takes: Takes::default() })
        .map_err(|error| error.to_string())
}

/// From an Anthropic caller to a provider of OpenAI's format.
fn translated(compat: &Compat, more: Value) -> Value {
    let mut body =
        json!({"model": "auto", "max_tokens": 900, "messages": [{"role": "user", "content": "a"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    sent(Dialect::Anthropic, Dialect::OpenAi, "theirs", compat, body).unwrap()
}

/// From an OpenAI caller to one.
fn passed(compat: &Compat, more: Value) -> Value {
    let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": "a"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    sent(Dialect::OpenAi, Dialect::OpenAi, "theirs", compat, body).unwrap()
}

/// From an OpenAI caller to Anthropic.
fn to_claude(model: &str, more: Value) -> Result<Value, String> {
    let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": "a"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    sent(Dialect::OpenAi, Dialect::Anthropic, model, &plain(), body)
}

/// The fields that are neither the messages nor the bound.
fn rest(body: &Value) -> Value {
    let mut rest: Map<String, Value> = body.as_object().unwrap().clone();
    for name in ["model", "messages", "max_tokens", "max_completion_tokens"] {
        rest.remove(name);
    }
    rest.into()
}

#[test]
fn the_bounds_name() {
    for (compat, name) in [
        (plain(), "max_tokens"),
        (openai(), "max_completion_tokens"),
        (deepseek(), "max_tokens"),
        (dashscope(), "max_completion_tokens"),
        (moonshot(), "max_completion_tokens"),
        (minimax(), "max_completion_tokens"),
        (openrouter(), "max_tokens"),
        (vllm(), "max_tokens"),
    ] {
        let body = translated(&compat, json!({}));
        assert_eq!((&body[name], &body["model"]), (&json!(900), &json!("theirs")));
        assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
    }
    // An OpenAI caller's name stays, unless the provider does not know it, or some of its models do not.
    let (old, new) = ("max_tokens", "max_completion_tokens");
    for name in [old, new] {
        assert_eq!(passed(&plain(), json!({name: 7}))[name], 7);
        for (compat, known, other) in [(openai(), new, old), (deepseek(), old, new)] {
            let body = passed(&compat, json!({name: 7}));
            assert_eq!((&body[known], body.get(other)), (&json!(7), None));
            let body = passed(&compat, json!({known: 7, other: 9}));
            assert_eq!((&body[known], body.get(other)), (&json!(7), None), "both are refused together");
        }
    }
}

#[test]
fn what_an_openai_caller_wrote_stays() {
    let rich = json!({
        "max_tokens": 5, "temperature": 0.2, "top_k": 3, "reasoning_effort": "high", "x_unknown": {"kept": true},
        "stream": true, "stream_options": {"include_usage": false, "x": 1},
        "messages": [{"role": "developer", "content": "b"}, {"role": "assistant", "reasoning_content": "c"}],
    });
    let mut expected = rich.clone();
    expected["model"] = "theirs".into();
    expected["stream_options"]["include_usage"] = true.into();
    assert_eq!(passed(&plain(), rich.clone()), expected);
    // A provider that does not know the usage's switch is not asked.
    let silent = Compat { stream_usage: false, ..plain() };
    assert_eq!(passed(&silent, rich.clone())["stream_options"], json!({"x": 1}));
    assert_eq!(translated(&silent, json!({"stream": true})).get("stream_options"), None);
    assert_eq!(
        translated(&plain(), json!({"stream": true}))["stream_options"],
        json!({"include_usage": true})
    );
    // Only OpenAI knows developers; OpenAI knows no reasoning in messages.
    assert_eq!(passed(&open_server(), rich.clone())["messages"][0]["role"], "system");
    let messages = passed(&openai(), rich)["messages"].clone();
    assert_eq!(messages, json!([{"role": "developer", "content": "b"}, {"role": "assistant"}]));
}

#[test]
fn top_k_that_a_provider_does_not_know_is_refused() {
    let body = json!({"max_tokens": 9, "top_k": 4, "messages": [{"role": "user", "content": "a"}]});
    let told = sent(Dialect::Anthropic, Dialect::OpenAi, "gpt", &openai(), body.clone()).unwrap_err();
    assert!(told.starts_with("`top_k` "), "{told}");
    let told = sent(Dialect::Anthropic, Dialect::OpenAi, "m", &vllm(), body).unwrap();
    assert_eq!(told["top_k"], 4);
}

#[test]
fn thinking_in_every_providers_words() {
    let off = json!({"thinking": {"type": "disabled"}});
    let on = json!({"thinking": {"type": "adaptive"}});
    let budget = json!({"thinking": {"type": "enabled", "budget_tokens": 5000}});
    let most = json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}});
    let template = |on: bool| json!({"enable_thinking": on, "thinking": on});
    // Off, on, 5000 tokens, most.
    let cases = [
        (
            plain(),
            [json!({}), json!({}), json!({"reasoning_effort": "medium"}), json!({"reasoning_effort": "max"})],
        ),
        (
            deepseek(),
            [
                json!({"thinking": {"type": "disabled"}}),
                json!({"thinking": {"type": "enabled"}}),
                json!({"thinking": {"type": "enabled"}, "reasoning_effort": "medium"}),
                json!({"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
            ],
        ),
        (
            moonshot(),
            [
                json!({"thinking": {"type": "disabled"}}),
                json!({"thinking": {"type": "enabled"}}),
                json!({"thinking": {"type": "enabled"}}),
                json!({"thinking": {"type": "enabled"}}),
            ],
        ),
        (
            minimax(),
            [
                json!({"thinking": {"type": "disabled"}}),
                json!({"thinking": {"type": "adaptive"}}),
                json!({"thinking": {"type": "adaptive"}}),
                json!({"thinking": {"type": "adaptive"}}),
            ],
        ),
        (
            dashscope(),
            [
                json!({"enable_thinking": false}),
                json!({"enable_thinking": true}),
                json!({"enable_thinking": true, "thinking_budget": 5000}),
                json!({"enable_thinking": true}),
            ],
        ),
        (
            vllm(),
            [
                json!({"chat_template_kwargs": template(false)}),
                json!({"chat_template_kwargs": template(true)}),
                json!({"chat_template_kwargs": template(true), "reasoning_effort": "medium"}),
                json!({"chat_template_kwargs": template(true), "reasoning_effort": "high"}),
            ],
        ),
        (
            openrouter(),
            [
                json!({"reasoning": {"effort": "none"}}),
                json!({"reasoning": {"enabled": true}}),
                json!({"reasoning": {"max_tokens": 5000}}),
                json!({"reasoning": {"effort": "xhigh"}}),
            ],
        ),
    ];
    for (compat, expected) in cases {
        for (said, expected) in [&off, &on, &budget, &most].into_iter().zip(expected) {
            assert_eq!(
                rest(&translated(&compat, said.clone())),
                expected,
                "{said} for {:?}",
                compat.reasoning
            );
        }
    }
    // OpenAI's word from an OpenAI caller.
    let low = json!({"reasoning_effort": "low"});
    assert_eq!(rest(&passed(&openai(), low.clone())), low);
    let expected = json!({"enable_thinking": true, "thinking_budget": 2048});
    assert_eq!(rest(&passed(&dashscope(), low.clone())), expected);
    let none = json!({"reasoning_effort": "none"});
    assert_eq!(rest(&passed(&deepseek(), none.clone())), json!({"thinking": {"type": "disabled"}}));
    let kept = json!({"chat_template_kwargs": {"x": 1, "enable_thinking": false, "thinking": false}});
    let both = json!({"reasoning_effort": "none", "chat_template_kwargs": {"x": 1}});
    assert_eq!(rest(&passed(&vllm(), both)), kept);
    // The provider's own words stay.
    for own in [
        json!({"enable_thinking": false, "reasoning_effort": "low"}),
        json!({"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
        json!({"chat_template_kwargs": {"thinking": true}, "reasoning_effort": "low"}),
    ] {
        assert_eq!(rest(&passed(&deepseek(), own.clone())), own);
    }
}

/// A forced tool is firmer than thinking, where a provider does not do both.
#[test]
fn a_forced_tool_and_thinking() {
    let tools = json!([{"name": "f", "input_schema": {"type": "object"}}]);
    let thinks = json!({"type": "enabled", "budget_tokens": 5000});
    let asked = |compat: &Compat, choice: &str| {
        let choice = json!({"type": choice, "name": "f"});
        translated(compat, json!({"thinking": thinks, "tools": tools, "tool_choice": choice}))
    };
    for compat in [deepseek(), moonshot()] {
        for choice in ["any", "tool"] {
            let body = asked(&compat, choice);
            assert_eq!((&body["thinking"]["type"], body.get("reasoning_effort")), (&json!("disabled"), None));
            assert!(!body["tool_choice"].is_null(), "{body}");
        }
        let body = asked(&compat, "auto");
        assert_eq!((&body["thinking"]["type"], body.get("tool_choice")), (&json!("enabled"), None));
        // Also for an OpenAI caller, unless he said it in the provider's words.
        let forced = passed(&compat, json!({"tool_choice": "required"}));
        assert_eq!(rest(&forced), json!({"tool_choice": "required", "thinking": {"type": "disabled"}}));
        let own = json!({"tool_choice": "required", "thinking": {"type": "enabled"}});
        assert_eq!(rest(&passed(&compat, own.clone())), own);
    }
    let body = asked(&vllm(), "any");
    assert_eq!((&body["tool_choice"], &body["reasoning_effort"]), (&json!("required"), &json!("medium")));
}

/// Every spelling of OpenAI's kin reaches Claude.
#[test]
fn kins_words_for_claude() {
    let adaptive = json!({"type": "adaptive"});
    // It thinks where it is asked to.
    let off = Value::Null;
    for (said, thinking, effort) in [
        (json!({"reasoning": {"effort": "low"}}), &adaptive, json!("low")),
        (json!({"reasoning": {"max_tokens": 20_000}}), &adaptive, json!("high")),
        (json!({"reasoning": {"enabled": false}}), &off, Value::Null),
        (json!({"enable_thinking": true}), &adaptive, Value::Null),
        (json!({"enable_thinking": true, "thinking_budget": 5000}), &adaptive, json!("medium")),
        (json!({"enable_thinking": false, "thinking_budget": 5000}), &off, Value::Null),
        (json!({"chat_template_kwargs": {"thinking": false}}), &off, Value::Null),
        (json!({"thinking": {"type": "enabled"}}), &adaptive, Value::Null),
        (json!({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}), &off, Value::Null),
        (json!({"chat_template_kwargs": {"x": 1}}), &Value::Null, Value::Null),
    ] {
        let body = to_claude("claude-opus-4-7", said.clone()).unwrap();
        assert_eq!((&body["thinking"], &body["output_config"]["effort"]), (thinking, &effort), "{said}");
    }
    // Those from before adaptive thinking need a budget.
    let budget = |tokens: u64| json!({"type": "enabled", "budget_tokens": tokens});
    for (said, tokens) in [
        (json!({"thinking": {"type": "enabled"}}), 8192),
        (json!({"thinking": {"type": "adaptive"}}), 8192),
        (json!({"reasoning": {"max_tokens": 500}}), 1024),
        (json!({"enable_thinking": true, "thinking_budget": 5000}), 5000),
    ] {
        let body = to_claude("us.anthropic.claude-sonnet-4-5", said.clone()).unwrap();
        assert_eq!(body["thinking"], budget(tokens), "{said}");
        assert_eq!(body["max_tokens"], 8192 + tokens, "{said}");
    }
}

/// A budget is below the bound, and thinking goes with no forced tool and no temperature.
#[test]
fn what_thinking_claude_refuses() {
    let with = |more: Value| {
        let mut body = json!({"thinking": {"type": "enabled", "budget_tokens": 2000}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        to_claude("claude-sonnet-4-5", body)
    };
    assert_eq!(with(json!({})).unwrap()["max_tokens"], 8192 + 2000);
    assert_eq!(with(json!({"max_tokens": 2001})).unwrap()["max_tokens"], 2001);
    for (more, field) in [
        (json!({"max_tokens": 2000}), "thinking.budget_tokens"),
        (json!({"temperature": 0.5}), "temperature"),
        (json!({"top_p": 0.9}), "top_p"),
        (json!({"top_k": 5}), "top_k"),
    ] {
        let told = with(more).unwrap_err();
        assert!(told.starts_with(&format!("`{field}` ")), "{told}");
    }
    assert!(with(json!({"temperature": 1, "top_p": 0.95})).is_ok());
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    for model in ["claude-sonnet-4-5", "claude-opus-4-7"] {
        let body = json!({"reasoning_effort": "high", "tools": tools, "tool_choice": "required"});
        assert_eq!(to_claude(model, body).unwrap().get("thinking"), None, "{model}");
    }
    // Effort without thinking is no matter of temperature.
    assert!(to_claude("claude-opus-4-7", json!({"reasoning_effort": "none", "temperature": 0.5})).is_ok());
    assert!(to_claude("minimax-m2", json!({"reasoning_effort": "high", "temperature": 0.5})).is_ok());
}

/// A conversation with tools in which one answer thought, and one did not.
fn past() -> Value {
    json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "b", "signature": "s"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "c"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "d"}]},
        {"role": "user", "content": "e"},
    ]})
}

#[test]
fn reasoning_of_earlier_answers() {
    let fields = ["reasoning_content", "reasoning", "reasoning_details"];
    let of = |message: &Value| fields.map(|name| message.get(name).cloned().unwrap_or_default());
    let null = Value::Null;
    let detail = json!([{"type": "reasoning.text", "text": "b", "signature": "s", "index": 0}]);
    // Of the answer that thought, and of the other one.
    for (compat, first, second) in [
        (plain(), [json!("b"), null.clone(), detail.clone()], null.clone()),
        (openai(), [null.clone(), null.clone(), null.clone()], null.clone()),
        (deepseek(), [json!("b"), null.clone(), null.clone()], json!("")),
        (moonshot(), [json!("b"), null.clone(), null.clone()], json!(" ")),
        (vllm(), [json!("b"), json!("b"), null.clone()], null.clone()),
        (minimax(), [null.clone(), null.clone(), detail.clone()], null.clone()),
    ] {
        let messages = translated(&compat, past())["messages"].clone();
        assert_eq!(of(&messages[1]), first, "{:?}", compat.past_reasoning);
        assert_eq!(of(&messages[3]), [second, null.clone(), null.clone()], "{:?}", compat.past_reasoning);
        // What an OpenAI caller sends back is fitted too.
        let answers = json!({"messages": [
            {"role": "assistant", "content": "x", "reasoning": "b", "tool_calls": []},
            {"role": "assistant", "content": "x", "reasoning_details": [{"text": "b"}, {"text": "c"}]},
        ]});
        let messages = passed(&compat, answers.clone())["messages"].clone();
        match compat.past_reasoning {
            crate::config::PastReasoning::Any => assert_eq!(messages, answers["messages"]),
            crate::config::PastReasoning::Drop => assert_eq!(of(&messages[1]), [const { Value::Null }; 3]),
            crate::config::PastReasoning::Content => {
                assert_eq!(of(&messages[0]), [json!("b"), null.clone(), null.clone()]);
                assert_eq!(of(&messages[1]), [json!("bc"), null.clone(), null.clone()]);
            }
            crate::config::PastReasoning::Reasoning => {
                assert_eq!(of(&messages[1]), [json!("bc"), json!("bc"), null.clone()]);
            }
            crate::config::PastReasoning::Details => {
                assert_eq!(messages[0]["reasoning_details"][0]["text"], "b");
                assert_eq!(messages[1], answers["messages"][1]);
            }
        }
    }
    // Without calls nothing stands for what is not there.
    let plainly = json!({"messages": [{"role": "assistant", "content": "x"}]});
    assert_eq!(passed(&deepseek(), plainly.clone())["messages"], plainly["messages"]);
}

/// Claude is sent no thinking that it cannot have signed; others are.
#[test]
fn thinking_of_other_models_and_claude() {
    let unsigned = json!({"max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 1024}, "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "b", "signature": ""}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "b", "signature": "s"}, {"type": "text", "text": "c"},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "b"}, {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        ]},
    ]});
    let both = |model: &str| {
        sent(Dialect::Anthropic, Dialect::Anthropic, model, &plain(), unsigned.clone()).unwrap()
    };
    let mut expected = unsigned.clone();
    expected["model"] = "minimax-m2".into();
    assert_eq!(both("minimax-m2"), expected);
    let claude = both("anthropic/claude-opus-4.5");
    assert_eq!(claude["messages"].as_array().unwrap().len(), 3);
    assert_eq!(claude["messages"][1], unsigned["messages"][2]);
    assert_eq!(claude["messages"][2]["content"].as_array().unwrap().len(), 1);
    assert_eq!(claude.get("thinking"), None, "calls without their thinking cannot be thought on from");

    // The name of the caller's model says nothing.
    let openai = json!({"model": "auto", "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "c"},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "e", "reasoning_details": [
            {"type": "reasoning.text", "text": "f", "signature": "s", "format": "google-gemini-v1"},
            {"type": "reasoning.text", "text": "g", "signature": "t", "format": "anthropic-claude-v1"},
            {"type": "reasoning.encrypted", "data": "u"},
        ]},
    ]});
    let claude = to_claude("claude-opus-4-7", openai.clone()).unwrap();
    assert_eq!(claude["messages"][1]["content"], json!([{"type": "text", "text": "b"}]));
    let blocks = json!([
        {"type": "thinking", "thinking": "g", "signature": "t"},
        {"type": "redacted_thinking", "data": "u"},
        {"type": "text", "text": "e"},
    ]);
    assert_eq!(claude["messages"][3]["content"], blocks);
    let other = to_claude("MiniMax-M2", openai).unwrap();
    assert_eq!(other["messages"][1]["content"][0]["thinking"], "c");
    assert_eq!(other["messages"][3]["content"].as_array().unwrap().len(), 4);
}

/// What a Claude model signed says so, and comes back.
#[test]
fn signatures_say_whose_they_are() {
    for (model, format) in [("claude-opus-4-7", "anthropic-claude-v1"), ("MiniMax-M2", "unknown")] {
        let events = [
            ChatEvent::Start { id: None, model: Some(model.into()) },
            ChatEvent::Reasoning { choice: 0, text: "a".into() },
            ChatEvent::Signature { choice: 0, signature: "s".into() },
            ChatEvent::Finish { choice: 0, reason: StopReason::End },
        ];
        let whole =
            encode_whole(Dialect::OpenAi, &super::head(), &EncodeOptions::default(), &events).unwrap();
        let message = whole["choices"][0]["message"].clone();
        assert_eq!(message["reasoning_details"][0]["format"], format);
        assert!(super::written(Dialect::OpenAi, &events).contains(&format!(r#""format":"{format}""#)));
        let back = json!({"messages": [{"role": "user", "content": "a"}, message]});
        let claude = to_claude("claude-opus-4-7", back).unwrap();
        let kept = claude["messages"][1]["content"][0]["signature"] == "s";
        assert_eq!(kept, format == "anthropic-claude-v1", "{claude}");
    }
}

#[test]
fn a_body_without_thinking() {
    assert_eq!(fit::without_thinking(b"no JSON"), None);
    assert_eq!(fit::without_thinking(br#"{"messages":[{"role":"assistant","content":"a"}]}"#), None);
    let without = fit::without_thinking(past().to_string().as_bytes()).unwrap();
    let without: Value = serde_json::from_slice(&without).unwrap();
    assert_eq!(without["messages"][1]["content"].as_array().unwrap().len(), 1);
    for message in [
        "messages.1.content.0: Invalid `signature` in `thinking` block",
        "messages.3.content.1: Invalid `data` in `redacted_thinking` block",
        "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified.",
    ] {
        assert!(fit::is_about_thinking(message), "{message}");
    }
    assert!(!fit::is_about_thinking("max_tokens must be greater than thinking.budget_tokens"));
}
