//! Tokens are counted by whoever answers; a target may be forced.

use super::{CONFIG, Gateway, chat, fill, message, start};
use crate::support::upstream::{Act, Upstream, answer};
use serde_json::{Value, json};

async fn count(gateway: &Gateway, path: &str, body: &Value) -> (u64, String) {
    let answer = gateway.post(path, &[], body).await;
    let tokens = answer.json()["input_tokens"].as_u64().unwrap_or_else(|| panic!("{}", answer.text));
    (tokens, answer.headers["x-novastack-count"].clone())
}

/// A model of ours counts exactly, template included; Anthropic's API is asked; for others there is an
/// estimate, which learns from their answers.
#[tokio::test]
async fn tokens_are_counted_by_who_answers() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let mut body = json!({
        "model": "qwen3-235b", "system": "Be brief.",
        "messages": [{ "role": "user", "content": "Explain async/await" }],
    });
    let counted = count(&gateway, "/v1/messages/count_tokens", &body).await;
    let mut asked = body.clone();
    asked["max_tokens"] = 2.into();
    let usage = gateway.post("/v1/messages", &[], &asked).await.json()["usage"].clone();
    let used =
        usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap_or(0);
    assert_eq!(counted, (used, "exact".into()), "{usage}");
    let same = json!({ "messages": [{ "role": "system", "content": "Be brief." }, body["messages"][0]] });
    let tokenized = gateway.post("/tokenize", &[], &same).await.json();
    assert_eq!(tokenized["count"], counted.0);
    assert_eq!(count(&gateway, "/anthropic/v1/messages/count_tokens", &body).await, counted);

    body["model"] = "claude".into();
    anthropic.once("claude-upstream", vec![Act::Send(answer("200 OK", &json!({ "input_tokens": 77 })))]);
    assert_eq!(count(&gateway, "/v1/messages/count_tokens", &body).await, (77, "exact".into()));
    let asked = anthropic.asked().pop().expect("it was asked");
    assert_eq!(
        (asked.path.as_str(), &asked.body["system"]),
        ("/v1/messages/count_tokens", &json!("Be brief."))
    );
    // One that does not know the path.
    let (estimate, how) = count(&gateway, "/v1/messages/count_tokens", &body).await;
    assert!(how == "estimate" && (5..20).contains(&estimate), "{estimate} {how}");

    let mut long = message("gpt-4o", false);
    long["messages"][0]["content"] = "x".repeat(4000).into();
    let before = count(&gateway, "/v1/messages/count_tokens", &long).await;
    assert!(before.1 == "estimate" && (1000..1020).contains(&before.0), "{before:?}");
    for _ in 0..40 {
        // The mock counts eleven.
        assert_eq!(gateway.post("/v1/messages", &[], &long).await.status, 200);
    }
    let after = count(&gateway, "/v1/messages/count_tokens", &long).await;
    assert!((250..270).contains(&after.0), "{after:?}");

    for (wrong, status) in
        [(json!({}), 400), (json!({ "model": "none" }), 404), (json!({ "model": "qwen3-235b" }), 400)]
    {
        let told = gateway.post("/v1/messages/count_tokens", &[], &wrong).await;
        assert_eq!((told.status, &told.json()["type"]), (status, &json!("error")), "{}", told.text);
    }
}

/// Anthropic's API refuses what it does not count by, and what the model does not take.
#[tokio::test]
async fn who_counts_is_sent_the_prompt_as_the_model_would_be() {
    let upstream = Upstream::start().await;
    let config = "
providers: { anth: { format: anthropic, base_url: @ANTHROPIC } }
models: { claude: { provider: anth, upstream_name: claude-sonnet-4-5, drop: [tool_choice] } }
";
    let gateway = start(&fill(config, &upstream, &upstream), &[]);
    upstream.always("claude-sonnet-4-5", vec![Act::Send(answer("200 OK", &json!({ "input_tokens": 77 })))]);
    let thought = json!({ "type": "thinking", "thinking": "of another model's", "signature": "" });
    let body = json!({
        "model": "claude", "max_tokens": 64, "stream": true, "temperature": 0.5, "top_k": 3, "stop_sequences": ["x"],
        "metadata": { "user_id": "u", "task": "t" }, "service_tier": "auto", "system": "Be brief.",
        "tools": [{ "name": "f", "input_schema": { "type": "object" } }], "tool_choice": { "type": "auto" },
        "thinking": { "type": "adaptive" }, "output_config": { "effort": "high" },
        "messages": [
            { "role": "user", "content": "Hi" },
            { "role": "assistant", "content": [thought, { "type": "text", "text": "Hello" }] },
            { "role": "system", "content": "A late word." }, { "role": "user", "content": "Count" },
        ],
    });
    let headers = [("anthropic-beta", "effort-2025-11-24,some-other-1")];
    let counted = gateway.post("/v1/messages/count_tokens", &headers, &body).await;
    assert_eq!(
        (counted.status, counted.headers["x-novastack-count"].as_str()),
        (200, "exact"),
        "{}",
        counted.text
    );
    let asked = upstream.asked().pop().expect("it was asked");
    let names: Vec<_> = asked.body.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["model", "system", "tools", "messages"], "{}", asked.body);
    assert_eq!(asked.body["messages"][1]["content"], json!([{ "type": "text", "text": "Hello" }]));
    assert_eq!(asked.body["messages"][2]["role"], "user");
    assert_eq!(asked.headers["anthropic-beta"], "some-other-1");
}

/// Rules see the count of the model that they would choose.
#[tokio::test]
async fn rules_count_by_the_tokenizer_of_what_they_choose() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let mut body = message("qwen3-235b", false);
    body["messages"][0]["content"] = "0123456789".repeat(40).into();
    let config = fill(CONFIG, &openai, &anthropic);
    let first = start(&config, &[]);
    let (exact, _) = count(&first, "/v1/messages/count_tokens", &body).await;
    drop(first);
    assert!(exact > 200, "not the estimate, which is about 100: {exact}");
    let config = config
        + &format!(
            "routes:\n  - match: context_length == {exact}\n    model: qwen3-235b\n  - default: gpt-4o\n"
        );
    let gateway = start(&config, &[]);
    (body["model"], body["max_tokens"]) = ("auto".into(), 2.into());
    for path in ["/v1/messages", "/v1/chat/completions"] {
        let told = gateway.post(path, &[], &body).await;
        assert_eq!(
            (told.status, told.headers["x-novastack-model"].as_str()),
            (200, "qwen3-235b"),
            "{}",
            told.text
        );
    }
    body["messages"][0]["content"] = "short".into();
    let told = gateway.post("/v1/messages", &[], &body).await;
    assert_eq!(told.headers["x-novastack-model"], "deepseek-v4-pro");
}

/// A path's name counts more than the header's, which counts more than the body's.
#[tokio::test]
async fn a_path_or_a_header_forces_a_target() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = fill(CONFIG, &openai, &anthropic).replace("qwen3-235b", "org/qwen3");
    let gateway = start(&config, &[]);
    let forced = [("x-forwarded-to", "claude")];
    let answered = async |path: &str, headers: &[(&str, &str)]| {
        let mut body = chat("gpt-4o", false);
        body["max_tokens"] = 2.into();
        let told = gateway.post(path, headers, &body).await;
        told.headers.get("x-novastack-model").cloned().unwrap_or(told.text)
    };
    assert_eq!(answered("/v1/chat/completions", &forced).await, "claude-opus-4.7");
    assert_eq!(answered("/v1/chat/completions", &[("x-forwarded-to", "none")]).await, "deepseek-v4-pro");
    assert_eq!(answered("/to/org%2Fqwen3/v1/chat/completions", &forced).await, "org/qwen3");
    assert_eq!(answered("/to/claude/v1/messages", &[]).await, "claude-opus-4.7");
    let mut body = chat("", false);
    body.as_object_mut().unwrap().remove("model");
    assert_eq!(gateway.post("/to/gpt-4o/v1/chat/completions", &[], &body).await.status, 200);
    let told = gateway.post("/to/none/v1/chat/completions", &[], &body).await;
    assert_eq!(
        (told.status, &told.json()["error"]["code"]),
        (404, &json!("model_not_found")),
        "{}",
        told.text
    );
}

/// Counting is one of a key's requests, of no tokens, and is for those who may use the model.
#[tokio::test]
async fn counting_keeps_to_limits() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config =
        fill(CONFIG, &openai, &anthropic) + "limits: { requests_per_minute: 3, tokens_per_minute: 1000 }\n";
    let gateway = start(&config, &[]);
    let body =
        json!({ "model": "qwen3-235b", "messages": [{ "role": "user", "content": "x".repeat(3000) }] });
    for _ in 0..3 {
        count(&gateway, "/v1/messages/count_tokens", &body).await;
    }
    let told = gateway.post("/v1/messages/count_tokens", &[], &body).await;
    assert_eq!(
        (told.status, &told.json()["error"]["type"]),
        (429, &json!("rate_limit_error")),
        "{}",
        told.text
    );
}
