//! Providers whose format differs: what their presets make of a caller's request on the wire.

use super::{chat, fill, message, start};
use crate::support::upstream::{TEXT, Upstream};
use serde_json::{Value, json};

const CONFIG: &str = r#"
providers:
  deepseek: { preset: deepseek, base_url: @OPENAI/v1, api_key_env: }
  openai: { preset: openai, base_url: @OPENAI/v1, api_key_env: }
  counted: { format: openai, base_url: @OPENAI/v1, compat: { stream_usage: false, reasoning: dashscope } }
  claude: { preset: anthropic, base_url: @ANTHROPIC, api_key_env: }
models:
  deepseek: { provider: deepseek }
  gpt: { provider: openai }
  counted: { provider: counted }
  claude: { provider: claude, upstream_name: claude-opus-4-7 }
aliases: { opus: claude }
"#;

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    body
}

#[tokio::test]
async fn presets_fit_the_request() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let thinks = json!({ "thinking": { "type": "enabled", "budget_tokens": 20_000 }, "max_tokens": 30_000 });
    for model in ["deepseek", "gpt", "counted"] {
        let body = with(message(model, true), thinks.clone());
        let told = gateway.post("/v1/messages", &[], &body).await;
        assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{}", told.text);
    }
    let sent: Vec<Value> = openai.asked().into_iter().map(|asked| asked.body).collect();
    let thinking = json!({ "type": "enabled" });
    assert_eq!((&sent[0]["max_tokens"], &sent[0]["thinking"]), (&json!(30_000), &thinking));
    let expected = (&json!(30_000), &json!("high"));
    assert_eq!((&sent[1]["max_completion_tokens"], &sent[1]["reasoning_effort"]), expected);
    assert_eq!((sent[1].get("max_tokens"), sent[1].get("thinking")), (None, None));
    assert_eq!((&sent[2]["enable_thinking"], &sent[2]["thinking_budget"]), (&json!(true), &json!(20_000)));
    assert_eq!(sent[2].get("stream_options"), None);

    // What OpenAI's API has no place for is the caller's to leave out.
    let told = gateway.post("/v1/messages", &[], &with(message("gpt", false), json!({ "top_k": 4 }))).await;
    let words = told.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(told.status, 400, "{}", told.text);
    assert!(words.contains("`top_k`"), "{words}");

    // Claude's ways are known by the upstream's name, whatever the caller calls the model.
    let messages = json!([
        { "role": "user", "content": "a" },
        { "role": "assistant", "content": "b", "reasoning_content": "unsigned" },
        { "role": "user", "content": "c" },
    ]);
    let more = json!({ "messages": messages, "reasoning_effort": "low" });
    assert_eq!(gateway.post("/v1/chat/completions", &[], &with(chat("opus", false), more)).await.status, 200);
    let sent = &anthropic.asked()[0].body;
    assert_eq!(sent["messages"][1]["content"], json!([{ "type": "text", "text": "b" }]), "{sent}");
    assert_eq!((&sent["thinking"]["type"], &sent["max_tokens"]), (&json!("adaptive"), &json!(8192)));
}
