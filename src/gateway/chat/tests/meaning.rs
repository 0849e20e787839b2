//! Plausible requests there and back, and implausible ones anywhere.

use super::super::{Dialect, Peer, Takes, for_upstream, to_anthropic, to_openai};
use crate::config::Compat;
use crate::config::compat::{dashscope, deepseek, minimax, moonshot, openai, openrouter, vllm};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const MODEL: &str = "claude-opus-4-7";

fn text() -> impl Strategy<Value = String> {
    "[a-z\"\\\\é数🙂][a-z \n\"\\\\é{}]{0,10}"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_-]{0,8}"
}

/// A call: its id is made unique later.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    input: Map<String, Value>,
    result: String,
}

#[derive(Clone, Debug)]
enum Shown {
    Text(String),
    Picture(bool),
}

/// A turn of a conversation: what the user says, what the model answers.
#[derive(Clone, Debug)]
struct Turn {
    asked: Vec<Shown>,
    thought: Option<(String, String)>,
    answered: Option<String>,
    calls: Vec<Call>,
}

#[derive(Clone, Debug)]
struct Conversation {
    system: Option<String>,
    turns: Vec<Turn>,
    last: String,
}

fn call() -> impl Strategy<Value = Call> {
    let value = prop_oneof![text().prop_map(Value::from), any::<i32>().prop_map(Value::from)];
    (name(), prop::collection::vec((name(), value), 0..3), text()).prop_map(|(name, input, result)| Call {
        name,
        input: input.into_iter().collect(),
        result,
    })
}

fn conversation() -> impl Strategy<Value = Conversation> {
    let shown = prop_oneof![3 => text().prop_map(Shown::Text), 1 => any::<bool>().prop_map(Shown::Picture)];
    let turn = (
        prop::collection::vec(shown, 1..3),
        prop::option::of((text(), name())),
        prop::option::of(text()),
        prop::collection::vec(call(), 0..3),
    )
        .prop_map(|(asked, thought, answered, calls)| {
            let answered = answered.or_else(|| calls.is_empty().then(|| "well".to_owned()));
            Turn { asked, thought, answered, calls }
        });
    (prop::option::of(text()), prop::collection::vec(turn, 0..4), text())
        .prop_map(|(system, turns, last)| Conversation { system, turns, last })
}

/// What is asked beside the conversation, in OpenAI's and in Anthropic's words.
fn settings() -> impl Strategy<Value = (Map<String, Value>, Map<String, Value>)> {
    let sampling = prop_oneof![
        (0..5u32, 1..5u32, 1..50u32).prop_map(|(t, p, k)| {
            let both = json!({"temperature": f64::from(t) / 4.0, "top_p": f64::from(p) / 4.0, "top_k": k});
            (both.clone(), both)
        }),
        prop::sample::select(vec!["low", "medium", "high", "xhigh", "max"]).prop_map(|effort| {
            let anthropic = json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}});
            (json!({"reasoning_effort": effort}), anthropic)
        }),
        Just((json!({}), json!({}))),
    ];
    let tools =
        prop::option::of((name(), text(), prop::option::of((0..4usize, any::<bool>())))).prop_map(|tools| {
            let Some((name, description, choice)) = tools else { return (json!({}), json!({})) };
            let schema = json!({"type": "object", "properties": {"x": {"type": "string"}}});
            let function = json!({"name": name, "description": description, "parameters": schema});
            let mut openai = json!({"tools": [{"type": "function", "function": function}]});
            let mut anthropic =
                json!({"tools": [{"name": name, "description": description, "input_schema": schema}]});
            if let Some((kind, alone)) = choice {
                openai["tool_choice"] = [
                    json!("auto"),
                    json!("required"),
                    json!({"type": "function", "function": {"name": name}}),
                    json!("none"),
                ][kind]
                    .clone();
                anthropic["tool_choice"] = [
                    json!({"type": "auto"}),
                    json!({"type": "any"}),
                    json!({"type": "tool", "name": name}),
                    json!({"type": "none"}),
                ][kind]
                    .clone();
                if alone && kind != 3 {
                    openai["parallel_tool_calls"] = false.into();
                    anthropic["tool_choice"]["disable_parallel_tool_use"] = true.into();
                }
            }
            (openai, anthropic)
        });
    let rest = (prop::collection::vec(text(), 0..3), prop::option::of(name()), 1..5000u32, any::<bool>());
    let rest = rest.prop_map(|(stops, user, max_tokens, stream)| {
        let mut openai = json!({"model": MODEL, "max_tokens": max_tokens, "stream": stream});
        let mut anthropic = openai.clone();
        if stream {
            openai["stream_options"] = json!({"include_usage": true});
        }
        if !stops.is_empty() {
            openai["stop"] = json!(stops);
            anthropic["stop_sequences"] = json!(stops);
        }
        if let Some(user) = user {
            anthropic["metadata"] = json!({"user_id": user});
            openai["user"] = user.into();
        }
        (openai, anthropic)
    });
    (sampling, tools, rest).prop_map(|(sampling, tools, rest)| {
        let forced = ["any", "tool"].iter().any(|kind| tools.1["tool_choice"]["type"] == **kind);
        let (mut openai, mut anthropic) = (Map::new(), Map::new());
        for (one, other) in [sampling, tools, rest] {
            openai.extend(one.as_object().cloned().unwrap_or_default());
            anthropic.extend(other.as_object().cloned().unwrap_or_default());
        }
        // Claude does not think where a tool is forced.
        if forced {
            anthropic.remove("thinking");
        }
        (openai, anthropic)
    })
}

fn openai_of(conversation: &Conversation, settings: &Map<String, Value>) -> Value {
    let mut messages = Vec::new();
    messages.extend(conversation.system.iter().map(|text| json!({"role": "system", "content": text})));
    for (number, turn) in conversation.turns.iter().enumerate() {
        let content = match turn.asked.as_slice() {
            [Shown::Text(text)] => text.clone().into(),
            parts => parts
                .iter()
                .map(|part| match part {
                    Shown::Text(text) => json!({"type": "text", "text": text}),
                    Shown::Picture(true) => {
                        json!({"type": "image_url", "image_url": {"url": "https://x.org/a"}})
                    }
                    Shown::Picture(false) => {
                        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}})
                    }
                })
                .collect::<Value>(),
        };
        messages.push(json!({"role": "user", "content": content}));
        let mut answer = json!({"role": "assistant", "content": turn.answered});
        if let Some((text, signature)) = &turn.thought {
            answer["reasoning_content"] = text.as_str().into();
            answer["reasoning_details"] =
                json!([{"type": "reasoning.text", "text": text, "signature": signature, "index": 0}]);
        }
        let id = |at: usize| format!("call_{number}-{at}");
        if !turn.calls.is_empty() {
            let call = |(at, call): (usize, &Call)| {
                let arguments = Value::Object(call.input.clone()).to_string();
                json!({"id": id(at), "type": "function", "function": {"name": call.name, "arguments": arguments}})
            };
            answer["tool_calls"] = turn.calls.iter().enumerate().map(call).collect();
        }
        messages.push(answer);
        let result = |(at, call): (usize, &Call)| json!({"role": "tool", "tool_call_id": id(at), "content": call.result});
        messages.extend(turn.calls.iter().enumerate().map(result));
    }
    messages.push(json!({"role": "user", "content": conversation.last}));
    let mut body = settings.clone();
    body.insert("messages".into(), messages.into());
    body.into()
}

fn anthropic_of(conversation: &Conversation, settings: &Map<String, Value>) -> Value {
    let mut messages = Vec::new();
    let mut results: Vec<Value> = Vec::new();
    for (number, turn) in conversation.turns.iter().enumerate() {
        let mut content = std::mem::take(&mut results);
        content.extend(turn.asked.iter().map(|part| match part {
            Shown::Text(text) => json!({"type": "text", "text": text}),
            Shown::Picture(true) => json!({"type": "image", "source": {"type": "url", "url": "https://x.org/a"}}),
            Shown::Picture(false) => {
                json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}})
            }
        }));
        messages.push(json!({"role": "user", "content": content}));
        let mut answer = Vec::new();
        if let Some((text, signature)) = &turn.thought {
            answer.push(json!({"type": "thinking", "thinking": text, "signature": signature}));
        }
        answer.extend(turn.answered.iter().map(|text| json!({"type": "text", "text": text})));
        for (at, call) in turn.calls.iter().enumerate() {
            let id = format!("call_{number}-{at}");
            answer.push(json!({"type": "tool_use", "id": id, "name": call.name, "input": call.input}));
            results.push(json!({"type": "tool_result", "tool_use_id": id, "content": call.result}));
        }
        messages.push(json!({"role": "assistant", "content": answer}));
    }
    results.push(json!({"type": "text", "text": conversation.last}));
    messages.push(json!({"role": "user", "content": results}));
    let mut body = settings.clone();
    if let Some(system) = &conversation.system {
        body.insert("system".into(), system.as_str().into());
    }
    body.insert("messages".into(), messages.into());
    body.into()
}

fn providers() -> Vec<Compat> {
    vec![
        Compat::default(),
        openai(),
        deepseek(),
        dashscope(),
        moonshot(),
        minimax(),
        openrouter(),
        vllm(),
        Compat { stream_usage: false, ..Compat::default() },
    ]
}

/// A request with anything in the places where something is expected.
fn request_like() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 48] = [
        "model",
        "messages",
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "image",
        "source",
        "data",
        "media_type",
        "tool_calls",
        "id",
        "function",
        "name",
        "arguments",
        "tool_call_id",
        "tool_use_id",
        "input",
        "tools",
        "input_schema",
        "parameters",
        "tool_choice",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "stop_sequences",
        "stream",
        "stream_options",
        "include_usage",
        "reasoning_effort",
        "reasoning",
        "thinking",
        "budget_tokens",
        "effort",
        "enable_thinking",
        "thinking_budget",
        "chat_template_kwargs",
        "output_config",
        "reasoning_content",
        "reasoning_details",
        "signature",
        "system",
        "metadata",
    ];
    const WORDS: [&str; 24] = [
        "user",
        "assistant",
        "system",
        "developer",
        "tool",
        "text",
        "image",
        "image_url",
        "tool_use",
        "tool_result",
        "thinking",
        "redacted_thinking",
        "function",
        "auto",
        "any",
        "required",
        "enabled",
        "disabled",
        "adaptive",
        "high",
        "none",
        "",
        "{\"a\":1}",
        "data:image/png;base64,",
    ];
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => (0..5000u32).prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        6 => prop::sample::select(WORDS.to_vec()).prop_map(Value::from),
        1 => text().prop_map(Value::from),
    ];
    let any = leaf.prop_recursive(6, 60, 6, |inner| {
        let map = prop::collection::vec((prop::sample::select(KEYS.to_vec()), inner.clone()), 0..7);
        let map = map.prop_map(|entries| {
            Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        });
        prop_oneof![1 => prop::collection::vec(inner, 0..5).prop_map(Value::from), 3 => map]
    });
    (any.clone(), prop::collection::vec((prop::sample::select(vec!["user", "assistant", "tool"]), any), 0..5))
        .prop_map(|(mut body, messages)| {
            if body.is_object() && !messages.is_empty() {
                body["messages"] = messages
                    .into_iter()
                    .map(|(role, mut message)| {
                        if message.is_object() {
                            message["role"] = role.into();
                            message
                        } else {
                            json!({"role": role, "content": message})
                        }
                    })
                    .collect();
            }
            body
        })
}

/// Whether some text or name of the body stands in the other one.
fn tells(body: &Value, part: &str) -> bool {
    match body {
        Value::String(text) => text.contains(part),
        Value::Array(items) => items.iter().any(|item| tells(item, part)),
        Value::Object(map) => map.values().any(|value| tells(value, part)),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The same conversation in both dialects: each becomes the other.
    #[test]
    fn a_conversation_in_both_dialects(conversation in conversation(), (openai, anthropic) in settings()) {
        let openai = openai_of(&conversation, &openai);
        let anthropic = anthropic_of(&conversation, &anthropic);
        prop_assert_eq!(to_anthropic(&openai, MODEL, 4096).unwrap(), anthropic.clone());
        let mut back = openai;
        if anthropic.get("thinking").is_none() {
            // An effort alone asks for no thinking.
            back.as_object_mut().unwrap().remove("reasoning_effort");
        }
        prop_assert_eq!(to_openai(&anthropic, &Compat::default()).unwrap(), back);
    }

    /// For every provider, from either dialect: all that was said is there, or the request is refused.
    #[test]
    fn nothing_said_is_lost(conversation in conversation(), (openai, anthropic) in settings()) {
        let bodies =
            [(Dialect::OpenAi, openai_of(&conversation, &openai)), (Dialect::Anthropic, anthropic_of(&conversation, &anthropic))];
        for (from, body) in bodies {
            for compat in providers() {
                for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
                    let peer = Peer { dialect, model: MODEL, compat: &compat, takes: Takes::default() };
                    let out = match for_upstream(from, &body, &peer) {
                        Ok(out) => out,
                        Err(error) => {
                            prop_assert!(error.param == "top_k" && !compat.top_k, "{}", error);
                            continue;
                        }
                    };
                    prop_assert_eq!(&out["model"], MODEL);
                    for turn in &conversation.turns {
                        let answered = turn.answered.iter().map(String::as_str);
                        let called = turn.calls.iter().flat_map(|call| [&*call.name, &*call.result]);
                        for part in answered.chain(called).chain([&*conversation.last]) {
                            prop_assert!(tells(&out, part), "{} in {}", part, out);
                        }
                    }
                }
            }
        }
    }

    /// Whatever a caller sends: a body or a complaint that names a field, and no more than he sent.
    #[test]
    fn odd_requests_are_bodies_or_complaints(body in request_like()) {
        let bytes = body.to_string().len();
        for from in [Dialect::OpenAi, Dialect::Anthropic] {
            for compat in providers() {
                for (dialect, model) in [(Dialect::OpenAi, "m"), (Dialect::Anthropic, MODEL), (Dialect::Anthropic, "claude-3-7")] {
                    let peer = Peer { dialect, model, compat: &compat, takes: Takes::default() };
                    match for_upstream(from, &body, &peer) {
                        Ok(out) => prop_assert!(out.to_string().len() <= 12 * bytes + 600, "{}", out),
                        Err(error) => prop_assert!(!error.param.is_empty()),
                    }
                }
            }
        }
    }
}
