//! What one of our own models, which takes text, is asked in every format.

use super::{fill, start};
use crate::support::upstream::{TEXT, Upstream};
use serde_json::{Value, json};

const CONFIG: &str = "
providers: { up: { format: openai, base_url: @OPENAI/v1 } }
models:
  ours: { source: @LOCAL }
  kept: { source: @LOCAL, drop_noise: false }
  sees: { provider: up }
named_routes: { both: [ours, sees] }
";

const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=";

/// A request of each format with this part beside a text, and what a refusal of it names.
fn requests(kind: &str, model: &str) -> Vec<(&'static str, Value, &'static str)> {
    let url = format!("data:image/png;base64,{PNG}");
    let source = |media: &str| json!({ "type": "base64", "media_type": media, "data": PNG });
    let (chat, messages, input) = match kind {
        "an image" => (
            json!({ "type": "image_url", "image_url": { "url": url } }),
            Some(json!({ "type": "image", "source": source("image/png") })),
            Some(json!({ "type": "input_image", "image_url": url })),
        ),
        "a file" => (
            json!({ "type": "file", "file": { "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg==" } }),
            Some(json!({ "type": "document", "source": source("application/pdf") })),
            Some(
                json!({ "type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg==" }),
            ),
        ),
        _ => (
            json!({ "type": "input_audio", "input_audio": { "data": PNG, "format": "wav" } }),
            None,
            Some(json!({ "type": "input_audio", "input_audio": { "data": PNG, "format": "wav" } })),
        ),
    };
    let user = |text: &str, part: Value| json!([{ "role": "user", "content": [{ "type": text, "text": "What is it?" }, part] }]);
    let mut all = vec![(
        "/v1/chat/completions",
        json!({ "model": model, "max_tokens": 4, "messages": user("text", chat) }),
        "messages[0].content[1]",
    )];
    if let Some(part) = messages {
        // The system prompt is a message elsewhere: the caller's own place counts.
        let body =
            json!({ "model": model, "max_tokens": 4, "system": "Look.", "messages": user("text", part) });
        all.push(("/v1/messages", body, "messages[0].content[1]"));
    }
    if let Some(part) = input {
        let body = json!({ "model": model, "max_output_tokens": 4, "instructions": "Look.", "input": user("input_text", part) });
        all.push(("/v1/responses", body, "input"));
    }
    all
}

#[tokio::test]
async fn media_for_a_text_model_are_refused_by_name_in_every_format() {
    let upstream = Upstream::start().await;
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &[]);
    for kind in ["an image", "a file", "audio"] {
        for (path, body, named) in requests(kind, "ours") {
            for stream in [false, true] {
                let mut body = body.clone();
                body["stream"] = stream.into();
                let answer = gateway.post(path, &[], &body).await;
                let what = format!("{kind} {path}: {}", answer.text);
                let error = &answer.json()["error"];
                assert_eq!(answer.status, 400, "{what}");
                let message = error["message"].as_str().expect("a message");
                assert!(message.contains(&format!("`{named}` is {kind}")), "{what}");
                assert!(message.contains("takes text only"), "{what}");
                match path {
                    "/v1/messages" => assert_eq!(error["type"], "invalid_request_error", "{what}"),
                    _ => assert_eq!(
                        (&error["param"], &error["code"]),
                        (&json!(named), &json!("unsupported_parameter"))
                    ),
                }
            }
        }
    }
    assert!(upstream.asked().is_empty());
    // Who sees takes over.
    for (path, body, _) in requests("an image", "both") {
        let answer = gateway.post(path, &[], &body).await;
        assert!(answer.status == 200 && answer.text.contains(TEXT), "{path}: {}", answer.text);
        assert_eq!(answer.headers["x-novastack-model"], "sees");
    }
}

/// The line for billing that Claude Code writes changes with each request: no prompt behind it is ever cached.
#[tokio::test]
async fn noise_in_prompts_is_dropped_for_our_own_models_unless_that_is_turned_off() {
    let upstream = Upstream::start().await;
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &[]);
    const NOISE: &str = "x-anthropic-billing-header: cc_version=2.1.197.aea; cc_entrypoint=sdk-cli; cch=1f;";
    let prompt_tokens = async |model: &str, path: &str, noise: bool| {
        let system = if noise { format!("{NOISE}\n\nYou are brief.") } else { "You are brief.".to_owned() };
        let user = json!({ "role": "user", "content": "Hi" });
        let body = match path {
            "/v1/messages" => {
                json!({ "model": model, "max_tokens": 2, "system": system, "messages": [user] })
            }
            _ => {
                json!({ "model": model, "max_tokens": 2, "messages": [{ "role": "system", "content": system }, user] })
            }
        };
        let usage = gateway.post(path, &[], &body).await.json()["usage"].clone();
        let tokens = |name: &str| usage[name].as_u64().unwrap_or(0);
        tokens("prompt_tokens") + tokens("input_tokens") + tokens("cache_read_input_tokens")
    };
    for path in ["/v1/messages", "/v1/chat/completions"] {
        let plain = prompt_tokens("ours", path, false).await;
        assert!(plain > 0);
        assert_eq!(prompt_tokens("ours", path, true).await, plain, "{path}");
        assert_eq!(prompt_tokens("kept", path, false).await, plain, "{path}");
        assert!(prompt_tokens("kept", path, true).await > plain + 20, "{path}");
    }
    // What is counted is what would be answered.
    let count = async |model: &str| {
        let body =
            json!({ "model": model, "system": NOISE, "messages": [{ "role": "user", "content": "Hi" }] });
        gateway.post("/v1/messages/count_tokens", &[], &body).await.json()["input_tokens"]
            .as_u64()
            .expect("a number")
    };
    assert!(count("kept").await > count("ours").await + 20);
}
