//! What models of several families write, as callers of both formats get it.

use super::scripted::{Script, serve};
use super::{family, frames, post, tools};
use serde_json::{Value, json};
use std::sync::Arc;

fn says(answer: &'static str) -> Script {
    Arc::new(move |_| answer.to_owned())
}

fn chat(more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "The weather in Rome?"}],
        "tools": tools()});
    for (name, value) in more.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

/// The same for Anthropic's format.
fn message(more: Value) -> Value {
    let tools: Vec<Value> = (tools().as_array().expect("a list").iter())
        .map(|tool| {
            let function = &tool["function"];
            json!({"name": function["name"], "description": function["description"],
                "input_schema": function["parameters"]})
        })
        .collect();
    let mut body = json!({"model": "m", "max_tokens": 4000, "tools": tools,
        "messages": [{"role": "user", "content": "The weather in Rome?"}]});
    for (name, value) in more.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

const TWO_CALLS: &str = "<think>\nTwo things to ask.\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"get_weather\", \
    \"arguments\": {\"city\": \"R\u{f6}me </tool_call>\", \"days\": 2}}\n</tool_call>\n<tool_call>\n{\"name\": \
    \"get_time\", \"arguments\": {}}\n</tool_call>";

#[tokio::test]
async fn calls_and_reasoning_are_told_in_openais_format() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    let served = serve(tokenizer, template, says(TWO_CALLS)).await;
    let (status, text) = post(&served.url, "/v1/chat/completions", &chat(json!({}))).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{text}");
    assert_eq!(choice["message"]["content"], "I look.");
    assert_eq!(choice["message"]["reasoning_content"], "Two things to ask.");
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    let call = |i: usize| (calls[i]["function"]["name"].as_str(), calls[i]["function"]["arguments"].as_str());
    assert_eq!(call(0), (Some("get_weather"), Some("{\"city\": \"R\u{f6}me </tool_call>\", \"days\": 2}")));
    assert_eq!(call(1), (Some("get_time"), Some("{}")));
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    let reasoning =
        answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().expect("a number");
    // Five words and marks, and what opened them.
    assert!((5..=7).contains(&reasoning), "{text}");

    let (_, stream) = post(&served.url, "/v1/chat/completions", &chat(json!({"stream": true}))).await;
    let (mut content, mut thought, mut arguments) = (String::new(), String::new(), vec![String::new(); 2]);
    let mut pieces = 0;
    for frame in frames(&stream) {
        let delta = &frame["choices"][0]["delta"];
        content += delta["content"].as_str().unwrap_or_default();
        thought += delta["reasoning_content"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().expect("an index") as usize;
            let piece = call["function"]["arguments"].as_str().unwrap_or_default();
            pieces += usize::from(!piece.is_empty());
            arguments[index] += piece;
        }
    }
    assert_eq!((content.as_str(), thought.as_str()), ("I look.", "Two things to ask."), "{stream}");
    assert_eq!(arguments, ["{\"city\": \"R\u{f6}me </tool_call>\", \"days\": 2}", "{}"]);
    assert!(pieces > 5, "arguments come as they are made: {stream}");
}

#[tokio::test]
async fn calls_and_reasoning_are_told_in_anthropics_format() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    let served = serve(tokenizer, template, says(TWO_CALLS)).await;
    let (status, text) = post(&served.url, "/v1/messages", &message(json!({}))).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["stop_reason"], "tool_use", "{text}");
    let kinds: Vec<&str> =
        answer["content"].as_array().expect("blocks").iter().filter_map(|it| it["type"].as_str()).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    assert_eq!(answer["content"][0]["thinking"], "Two things to ask.");
    assert_eq!(answer["content"][2]["input"], json!({"city": "R\u{f6}me </tool_call>", "days": 2}));
    let (_, stream) = post(&served.url, "/v1/messages", &message(json!({"stream": true}))).await;
    let starts: Vec<Value> =
        frames(&stream).into_iter().filter(|frame| frame["type"] == "content_block_start").collect();
    let kinds: Vec<&str> =
        starts.iter().filter_map(|frame| frame["content_block"]["type"].as_str()).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"], "{stream}");
}

#[tokio::test]
async fn a_history_of_calls_and_results_is_rendered_as_the_template_means_it() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    // The script answers with the end of the prompt that it got.
    let script: Script = Arc::new(|prompt| {
        let from = prompt.find("The weather in Rome?").expect("the question");
        prompt[from..].replace('<', "[").replace('>', "]")
    });
    let served = serve(tokenizer, template, script).await;
    let history = json!([
        {"role": "user", "content": "The weather in Rome?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
            "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "22 C"},
    ]);
    let (status, text) = post(&served.url, "/v1/chat/completions", &chat(json!({"messages": history}))).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let prompt = answer["choices"][0]["message"]["content"].as_str().expect("text");
    for part in [
        "[tool_call]\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}\n[/tool_call]",
        "[tool_response]\n22 C\n[/tool_response]",
    ] {
        assert!(prompt.contains(part), "{prompt}");
    }
}

#[tokio::test]
async fn what_is_no_call_is_text_and_without_tools_nothing_is_a_call() {
    let Some((tokenizer, template)) = family("qwen2_5") else { return };
    let unknown = "<tool_call>\n{\"name\": \"launch\", \"arguments\": {}}\n</tool_call>";
    let served = serve(tokenizer, template, says(unknown)).await;
    for body in [chat(json!({})), chat(json!({"tools": []})), chat(json!({"tool_choice": "none"}))] {
        let (status, text) = post(&served.url, "/v1/chat/completions", &body).await;
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["message"]["content"], &choice["finish_reason"]),
            (&json!(unknown), &json!("stop")),
            "{text}"
        );
        assert_eq!(choice["message"].get("tool_calls"), None);
    }
}

#[tokio::test]
async fn reasoning_is_apart_in_the_text_or_nowhere() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    let served = serve(tokenizer, template, says("<think>\nHm.\n</think>\n\nYes.")).await;
    for (more, content, reasoning) in [
        (json!({}), "Yes.", Some("Hm.")),
        (json!({"include_reasoning": false}), "Yes.", None),
        (json!({"reasoning_format": "none"}), "<think>\nHm.\n</think>\n\nYes.", None),
        (json!({"separate_reasoning": false}), "<think>\nHm.\n</think>\n\nYes.", None),
    ] {
        let (status, text) = post(&served.url, "/v1/chat/completions", &chat(more.clone())).await;
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let message = &answer["choices"][0]["message"];
        assert_eq!(
            (message["content"].as_str(), message["reasoning_content"].as_str()),
            (Some(content), reasoning),
            "{more}"
        );
    }
}

/// A custom tool is a function with one text for the model, and its call a custom one for the caller, who sends it back.
#[tokio::test]
async fn custom_tools_of_chat_completions_are_called_with_text() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    const CALL: &str = "<tool_call>\n{\"name\": \"apply_patch\", \"arguments\": {\"input\": \
        \"*** Begin \\\"Patch\\\"\\n+a\"}}\n</tool_call>";
    const INPUT: &str = "*** Begin \"Patch\"\n+a";
    let prompts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = prompts.clone();
    let script: Script = Arc::new(move |prompt| {
        seen.lock().expect("nobody panics").push(prompt.to_string());
        CALL.to_owned()
    });
    let served = serve(tokenizer, template, script).await;
    let tool = json!({"type": "custom", "custom": {"name": "apply_patch", "description": "Edits files."}});
    let mut body = chat(json!({"tools": [tool]}));
    let (status, text) = post(&served.url, "/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["custom"]),
        (&json!("custom"), &json!({"name": "apply_patch", "input": INPUT}))
    );
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    // Back in the history, with its result.
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "Done."});
    let messages = body["messages"].as_array_mut().expect("messages");
    messages.extend([answer["choices"][0]["message"].clone(), result]);
    body["stream"] = true.into();
    let (status, text) = post(&served.url, "/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{text}");
    let pieces = frames(&text);
    let deltas = pieces.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]["custom"]["input"]);
    assert_eq!(deltas.filter_map(Value::as_str).collect::<String>(), INPUT, "{text}");
    let prompts = prompts.lock().expect("nobody panics");
    assert!(prompts[0].contains("Edits files.") && prompts[0].contains("\"input\""), "{}", prompts[0]);
    assert!(prompts[1].contains("apply_patch") && prompts[1].contains("Begin"), "{}", prompts[1]);
}

/// Log-probabilities and ids would spell the reasoning out.
#[tokio::test]
async fn reasoning_that_is_not_shown_is_not_in_tokens_either() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    let served = serve(tokenizer, template, says("<think>\nA secret.\n</think>\n\nYes, it is.")).await;
    let spelled = |answer: &Value| {
        let content = answer["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default();
        content.iter().filter_map(|token| token["token"].as_str().map(str::to_owned)).collect::<String>()
    };
    let asked = |shown: bool| json!({"include_reasoning": shown, "logprobs": true, "return_token_ids": true});
    let ask = async |shown: bool, stream: bool| {
        let mut body = chat(asked(shown));
        body["stream"] = stream.into();
        post(&served.url, "/v1/chat/completions", &body).await
    };
    let (status, text) = ask(false, false).await;
    assert_eq!(status, 200, "{text}");
    let hidden: Value = serde_json::from_str(&text).expect("JSON");
    assert!(spelled(&hidden).starts_with("Yes, it is."), "{text}");
    let (_, text) = ask(true, false).await;
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    assert!(spelled(&shown).contains("secret"), "{text}");
    let ids = |answer: &Value| answer["choices"][0]["token_ids"].as_array().map_or(0, Vec::len);
    assert!(ids(&hidden) > 0 && ids(&hidden) < ids(&shown), "{hidden}");
    // They are counted and paid all the same.
    assert_eq!(hidden["usage"]["completion_tokens"], shown["usage"]["completion_tokens"]);
    let (_, text) = ask(false, true).await;
    let streamed: String = frames(&text).iter().map(&spelled).collect();
    assert!(streamed.starts_with("Yes, it is."), "{text}");
}

#[tokio::test]
async fn a_bound_on_tokens_over_the_context_is_the_context() {
    let Some((tokenizer, template)) = family("qwen2_5") else { return };
    let served = serve(tokenizer, template, says("Yes.")).await;
    for (path, body) in [
        ("/v1/chat/completions", chat(json!({"max_tokens": 100_000_000}))),
        ("/v1/messages", message(json!({"max_tokens": 100_000_000}))),
        ("/v1/completions", json!({"model": "m", "prompt": "Say yes.", "max_tokens": 100_000_000})),
    ] {
        let (status, text) = post(&served.url, path, &body).await;
        assert_eq!(status, 200, "{text}");
    }
}
