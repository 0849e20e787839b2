//! A gateway in front of a model that is asked in each provider's format: another gateway of ours, with a scripted
//! model behind it, is the upstream.

use super::scripted::{Script, serve};
use super::{family, frames, tools};
use serde_json::{Value, json};
use std::sync::Arc;

const SAYS: &str = "<think>\nLook first.\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": \
    {\"city\": \"Rome\"}}\n</tool_call>";

/// Tools with a name that no provider takes.
const LONG: &str = "mcp__00000000-0000-0000-0000-000000000000__slack_search_public_and_private";

fn tools_named(name: &str) -> Value {
    let mut tools = tools();
    tools[0]["function"]["name"] = name.into();
    tools
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_of_every_format_serves_callers_of_every_format() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    let script: Script = Arc::new(|_| SAYS.to_owned());
    let upstream = serve(tokenizer, template, script).await;
    let config = format!(
        "providers:\n  chat: {{ format: openai, base_url: {0}/v1 }}\n  messages: {{ format: anthropic, base_url: {0} }}\n  \
         responses: {{ format: responses, base_url: {0}/v1 }}\nmodels:\n  by-chat: {{ provider: chat, upstream_name: m }}\n  \
         by-messages: {{ provider: messages, upstream_name: m }}\n  by-responses: {{ provider: responses, upstream_name: m }}\n",
        upstream.url
    );
    let gateway = crate::gateway::start(&config, &[]);
    let post = async |path: &str, body: &Value| {
        let answer = gateway.post(path, &[], body).await;
        (answer.status, answer.text)
    };
    let user = json!([{"role": "user", "content": "The weather in Rome?"}]);
    for model in ["by-chat", "by-messages", "by-responses"] {
        let chat = json!({"model": model, "messages": user, "tools": tools()});
        let (status, text) = post("/v1/chat/completions", &chat).await;
        assert_eq!(status, 200, "{model}: {text}");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{model}: {text}");
        assert_eq!(choice["message"]["reasoning_content"], "Look first.", "{model}: {text}");
        assert_eq!(choice["message"]["content"], "I look.", "{model}: {text}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().expect("text")).expect("JSON");
        assert_eq!((&call["name"], arguments), (&json!("get_weather"), json!({"city": "Rome"})), "{model}");

        let (tool, function) = (tools()[0].clone(), tools()[0]["function"].clone());
        let claude = json!({"model": model, "max_tokens": 2000, "messages": user, "stream": true,
            "tools": [{"name": function["name"], "input_schema": function["parameters"]}]});
        let (status, stream) = post("/v1/messages", &claude).await;
        assert_eq!(status, 200, "{model}: {stream}");
        let events = frames(&stream);
        let starts = events.iter().filter(|event| event["type"] == "content_block_start");
        let kinds: Vec<&str> = starts.filter_map(|event| event["content_block"]["type"].as_str()).collect();
        assert_eq!(kinds, ["thinking", "text", "tool_use"], "{model}: {stream}");

        let response = json!({"model": model, "input": "The weather in Rome?", "stream": true,
            "tools": [{"type": "function", "name": "get_weather", "parameters": tool["function"]["parameters"]}]});
        let (status, stream) = post("/v1/responses", &response).await;
        assert_eq!(status, 200, "{model}: {stream}");
        let events = frames(&stream);
        let last = events.last().expect("an event");
        assert_eq!(last["type"], "response.completed", "{model}: {stream}");
        let items = last["response"]["output"].as_array().expect("items");
        let kinds: Vec<&str> = items.iter().filter_map(|item| item["type"].as_str()).collect();
        assert_eq!(kinds, ["reasoning", "message", "function_call"], "{model}: {stream}");
        let numbers: Vec<u64> = events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>(), "{model}: in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tools_long_name_is_the_callers_again_in_the_answer() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    // The model calls the tool that it was shown.
    let script: Script = Arc::new(|prompt| {
        let at = prompt.find("{\"name\": \"mcp__").expect("the tool");
        let name: String = prompt[at + 10..].chars().take_while(|c| *c != '"').collect();
        assert!(name.len() <= 64, "the upstream's bound: {name}");
        format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{\"city\": \"Rome\"}}}}\n</tool_call>")
    });
    let upstream = serve(tokenizer, template, script).await;
    let config = format!(
        "providers:\n  chat: {{ format: openai, base_url: {0}/v1, compat: {{ tool_name_chars_max: 64 }} }}\nmodels:\n  by-chat: {{ provider: chat, \
         upstream_name: m }}\n",
        upstream.url
    );
    let gateway = crate::gateway::start(&config, &[]);
    let user = json!([{"role": "user", "content": "The weather in Rome?"}]);
    for stream in [false, true] {
        let chat =
            json!({"model": "by-chat", "messages": user, "tools": tools_named(LONG), "stream": stream});
        let answer = gateway.post("/v1/chat/completions", &[], &chat).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.text.contains(LONG), "{}", answer.text);
    }
}
