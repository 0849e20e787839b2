//! What clients send that is not in any specification, and what they act on in answers.

use super::tenants::sha256;
use super::{Gateway, chat, fill, message, start};
use crate::support::upstream::{Act, TEXT};
use crate::support::upstream::{Upstream, answer, openai_whole, raw};
use serde_json::{Value, json};

const CONFIG: &str = r#"
providers:
  open: { format: openai, base_url: @OPENAI/v1 }
  anth: { format: anthropic, base_url: @ANTHROPIC }
models: { coder: { provider: open }, opus: { provider: anth }, claude-known: { provider: anth } }
aliases: { "claude-*": coder, "claude-opus-*": opus, fast: coder }
default_model: coder
"#;

async fn gateway() -> (Gateway, Upstream, Upstream) {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    (start(&fill(CONFIG, &openai, &anthropic), &[]), openai, anthropic)
}

/// Who answers a request for that name.
async fn answers(gateway: &Gateway, name: &str) -> String {
    let told = gateway.chat(name, false).await;
    assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{name}: {}", told.text);
    told.headers["x-novastack-model"].clone()
}

#[tokio::test]
async fn names_that_a_client_makes_up_lead_somewhere() {
    let (gateway, ..) = gateway().await;
    for (name, model) in [
        ("coder", "coder"),
        ("fast", "coder"),
        ("claude-sonnet-4-5-20250929", "coder"),
        // The pattern that says more.
        ("claude-opus-4-7", "opus"),
        // A name of its own.
        ("claude-known", "claude-known"),
        ("gpt-5-codex", "coder"),
    ] {
        assert_eq!(answers(&gateway, name).await, model, "{name}");
    }
    let told = gateway.message("claude-haiku-4-5", true).await;
    assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{}", told.text);
}

#[tokio::test]
async fn a_key_for_some_models_gets_no_others_by_a_pattern() {
    const KEY: &str = "the-key-of-the-few";
    let hash = sha256(KEY);
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let keys = format!("keys: {{ few: {{ sha256: {hash}, models: [coder] }} }}\n");
    let gateway = start(&(fill(CONFIG, &openai, &anthropic) + &keys), &[]);
    let ask = async |name: &str| {
        gateway.post("/v1/chat/completions", &[("x-api-key", KEY)], &chat(name, false)).await.status
    };
    assert_eq!((ask("coder").await, ask("claude-x").await, ask("whatever").await), (200, 200, 200));
    assert_eq!((ask("opus").await, ask("claude-opus-4").await), (403, 403));
}

#[tokio::test]
async fn models_are_listed_in_the_shape_of_who_asks() {
    let (gateway, ..) = gateway().await;
    let get = async |path: &str, anthropic: bool| -> Value {
        let mut request = gateway.client.get(format!("{}{path}", gateway.server.url));
        if anthropic {
            request = request.header("anthropic-version", "2023-06-01");
        }
        request.send().await.expect("an answer").json().await.expect("JSON")
    };
    let list = get("/v1/models", false).await;
    let ids = |list: &Value| -> Vec<String> {
        let data = list["data"].as_array().expect("a list").iter();
        data.map(|model| model["id"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(list["object"], "list");
    assert_eq!(ids(&list), ["coder", "opus", "claude-known", "fast"]);
    let list = get("/v1/models", true).await;
    assert_eq!(ids(&list), ["coder", "opus", "claude-known", "fast"]);
    assert_eq!(
        (&list["has_more"], &list["first_id"], &list["last_id"]),
        (&json!(false), &json!("coder"), &json!("fast"))
    );
    let model = &list["data"][0];
    assert_eq!((&model["type"], &model["display_name"]), (&json!("model"), &json!("coder")));
    assert_eq!(model["created_at"], "1970-01-01T00:00:00Z");
    assert_eq!(get("/v1/models/opus", true).await["type"], "model");
    assert_eq!(get("/v1/models/opus", false).await["object"], "model");
}

#[tokio::test]
async fn halves_of_characters_never_fail_a_request() {
    let (gateway, openai, _) = gateway().await;
    let post = async |body: String| {
        let url = format!("{}/v1/chat/completions", gateway.server.url);
        let request = gateway.client.post(url).header("content-type", "application/json").body(body);
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a text"))
    };
    let body = r#"{"model":"coder","messages":[{"role":"user","content":"cut \ud83d, whole \ud83d\ude00"}]}"#;
    let (status, text) = post(body.into()).await;
    assert_eq!(status, 200, "{text}");
    let asked = openai.asked().pop().expect("a request");
    assert_eq!(asked.body["messages"][0]["content"], "cut \u{fffd}, whole \u{1f600}");
    // What is wrong otherwise still is.
    let (status, text) = post(body.replace(r#"\ude00"#, r#"\uzz00"#)).await;
    assert!(status == 400 && text.contains("invalid_json"), "{status} {text}");
    // A character cut over two events of an upstream's, and within a whole answer.
    let events: String = [r#"\ud83d"#, r#"\ude00 end"#]
        .iter()
        .map(|text| format!("data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"coder\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"))
        .chain(["data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"coder\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n".to_owned()])
        .collect();
    for anthropic in [false, true] {
        openai.once("coder", vec![Act::Send(raw("200 OK", "content-type: text/event-stream\r\n", &events))]);
        let told = match anthropic {
            false => gateway.chat("coder", true).await,
            true => gateway.message("coder", true).await,
        };
        assert_eq!((told.status, told.says().as_str()), (200, "\u{fffd}\u{fffd} end"), "{}", told.text);
    }
    let whole = openai_whole(&json!({ "model": "coder" })).to_string().replace(TEXT, r#"half \ud83d"#);
    for _ in 0..2 {
        openai.once("coder", vec![Act::Send(raw("200 OK", "content-type: application/json\r\n", &whole))]);
    }
    assert_eq!(gateway.chat("coder", false).await.says(), "half \u{fffd}");
    assert_eq!(gateway.message("coder", false).await.says(), "half \u{fffd}");
}

#[tokio::test]
async fn long_names_of_users_are_hashed() {
    let (gateway, openai, anthropic) = gateway().await;
    let long = "user_".to_owned() + &"0123456789abcdef".repeat(9);
    let hash = sha256(&long);
    let with = |mut body: Value, name: &str, value: Value| {
        body[name] = value;
        body
    };
    // Claude Code's, to a provider of OpenAI's format; and OpenAI callers' own.
    let body = with(message("coder", false), "metadata", json!({ "user_id": long }));
    assert_eq!(gateway.post("/v1/messages", &[], &body).await.status, 200);
    assert_eq!(openai.asked().pop().expect("a request").body["user"], hash.as_str());
    for name in ["user", "safety_identifier", "prompt_cache_key"] {
        let body = with(chat("coder", false), name, json!(long));
        assert_eq!(gateway.post("/v1/chat/completions", &[], &body).await.status, 200);
        assert_eq!(openai.asked().pop().expect("a request").body[name], hash.as_str(), "{name}");
    }
    let short = with(chat("coder", false), "user", json!("ann"));
    assert_eq!(gateway.post("/v1/chat/completions", &[], &short).await.status, 200);
    assert_eq!(openai.asked().pop().expect("a request").body["user"], "ann");
    // Anthropic's API takes more.
    let body = with(message("opus", false), "metadata", json!({ "user_id": long }));
    assert_eq!(gateway.post("/v1/messages", &[], &body).await.status, 200);
    assert_eq!(anthropic.asked().pop().expect("a request").body["metadata"]["user_id"], long.as_str());
    let longer = long.repeat(2);
    let body = with(chat("opus", false), "user", json!(longer));
    assert_eq!(gateway.post("/v1/chat/completions", &[], &body).await.status, 200);
    let asked = anthropic.asked().pop().expect("a request").body;
    assert_eq!(asked["metadata"]["user_id"], sha256(&longer).as_str());
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_of_in_the_callers_words() {
    let (gateway, openai, anthropic) = gateway().await;
    let said = json!({ "error": {
        "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded",
    } });
    openai.always("coder", vec![Act::Send(answer("400 Bad Request", &said))]);
    let told = gateway.message("coder", false).await;
    assert_eq!(told.status, 400, "{}", told.text);
    assert_eq!(told.json()["error"]["message"], "prompt is too long: 5000 tokens > 4096 maximum");
    let told = gateway.chat("coder", false).await;
    assert_eq!((told.status, &told.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    let said = json!({ "type": "error", "error": {
        "type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum",
    } });
    anthropic.always("opus", vec![Act::Send(answer("400 Bad Request", &said))]);
    let told = gateway.chat("opus", true).await;
    assert_eq!((told.status, &told.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    let told = gateway.message("opus", true).await;
    assert!(told.text.contains("prompt is too long: 210000 tokens > 200000 maximum"), "{}", told.text);
}

#[tokio::test]
async fn what_a_provider_says_of_our_key_is_for_the_log() {
    let (gateway, openai, anthropic) = gateway().await;
    let said = json!({ "error": { "message": "Incorrect API key provided: up-a*****9xyz.", "code": "invalid_api_key" } });
    for (upstream, model) in [(openai, "coder"), (anthropic, "opus")] {
        upstream.always(model, vec![Act::Send(answer("401 Unauthorized", &said))]);
        for told in [gateway.chat(model, false).await, gateway.message(model, true).await] {
            assert_eq!(told.status, 502, "{}", told.text);
            assert!(
                !told.text.contains("9xyz") && told.text.contains("refused this server's key"),
                "{}",
                told.text
            );
        }
    }
    gateway.server.log_line(&["a provider refused this server's key", "9xyz"]).await;
}

#[tokio::test]
async fn a_stream_begins_with_the_prompts_tokens() {
    let (gateway, ..) = gateway().await;
    let told = gateway.message("coder", true).await;
    let start = told.data().into_iter().find(|data| data["type"] == "message_start").expect("a start");
    // Of some twenty bytes; the upstream's own count comes at the end.
    assert!(start["message"]["usage"]["input_tokens"].as_u64().is_some_and(|tokens| tokens > 2), "{start}");
}

/// The last word on a body is its model's.
#[tokio::test]
async fn a_models_rules_change_the_body_that_it_is_sent() {
    const MODELS: &str = r#"
providers: { open: { format: openai, base_url: @OPENAI/v1 }, anth: { format: anthropic, base_url: @ANTHROPIC } }
models:
  odd:
    provider: open
    drop: [temperature, top_p]
    rename: { seed: random_seed }
    set: { service_tier: flex, n_probs: 2, "as_text": "2", extra: { deep: [true, null, 1.5] } }
  opus: { provider: anth, set: { service_tier: standard_only } }
"#;
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(MODELS, &openai, &anthropic), &[]);
    let mut body = chat("odd", false);
    let more = json!({ "temperature": 0.5, "top_p": 0.9, "seed": 7, "service_tier": "auto", "stop": ["x"] });
    body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    assert_eq!(gateway.post("/v1/chat/completions", &[], &body).await.status, 200);
    let asked = openai.asked().pop().expect("a request").body;
    for (name, value) in [
        ("temperature", Value::Null),
        ("top_p", Value::Null),
        ("seed", Value::Null),
        ("random_seed", json!(7)),
        ("service_tier", json!("flex")),
        ("n_probs", json!(2)),
        ("as_text", json!("2")),
        ("extra", json!({ "deep": [true, null, 1.5] })),
        ("stop", json!(["x"])),
    ] {
        assert_eq!(asked.get(name).unwrap_or(&Value::Null), &value, "{name}");
    }
    assert_eq!(gateway.chat("opus", false).await.status, 200);
    assert_eq!(anthropic.asked().pop().expect("a request").body["service_tier"], "standard_only");
}

/// Most prompts are written to no cache: what that would cost makes no model dearer than another.
#[tokio::test]
async fn the_cheapest_is_chosen_by_what_is_expected() {
    const MODELS: &str = r#"
providers: { open: { format: openai, base_url: @OPENAI/v1 }, anth: { format: anthropic, base_url: @ANTHROPIC } }
models:
  dearer: { provider: open, price: { input: 1.5, output: 1 } }
  opus: { provider: anth, price: { input: 1, output: 1 } }
named_routes: { cheap: { cheapest: [dearer, opus] } }
"#;
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(MODELS, &openai, &anthropic), &[]);
    assert_eq!(answers(&gateway, "cheap").await, "opus");
}

/// Anthropic's overload is what a client waits out; that the fallback cannot do the request is no news to it.
#[tokio::test]
async fn a_fallback_that_cannot_take_a_request_never_hides_an_overload() {
    const MODELS: &str = r#"
providers: { open: { format: openai, base_url: @OPENAI/v1 }, anth: { format: anthropic, base_url: @ANTHROPIC } }
models: { coder: { provider: open }, opus: { provider: anth }, other: { provider: open } }
fallbacks: { opus: [coder], coder: [opus] }
"#;
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(MODELS, &openai, &anthropic), &[]);
    let overloaded =
        json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } });
    anthropic.always("opus", vec![Act::Send(answer("529 Overloaded", &overloaded))]);
    // A translation that is refused, before anything was sent.
    let mut body = message("opus", false);
    body["mcp_servers"] = json!([{ "type": "url", "url": "https://example.org", "name": "x" }]);
    let told = gateway.post("/v1/messages", &[], &body).await;
    assert_eq!(told.status, 503, "{}", told.text);
    assert!(told.text.contains("Overloaded"), "{}", told.text);
    assert!(openai.asked().is_empty());
    // A 400 of the fallback's own, and a prompt that is too long for it.
    for code in ["invalid_value", "context_length_exceeded"] {
        let refused = json!({ "error": { "message": "no", "type": "invalid_request_error", "code": code } });
        openai.once("coder", vec![Act::Send(answer("400 Bad Request", &refused))]);
        let told = gateway.message("opus", false).await;
        assert_eq!(told.status, 503, "{}", told.text);
    }
    // The other way round: whoever failed is told.
    anthropic.always("opus", vec![Act::Send(answer("529 Overloaded", &overloaded))]);
    let busy = json!({ "error": { "message": "slow down", "type": "rate_limit_error" } });
    openai.always("coder", vec![Act::Send(answer("429 Too Many Requests", &busy))]);
    let mut body = chat("coder", false);
    body["n"] = 2.into();
    let told = gateway.post("/v1/chat/completions", &[], &body).await;
    assert_eq!(told.status, 429, "{}", told.text);
    // Where nobody failed, the field is named.
    let mut body = message("other", false);
    body["container"] = "c".into();
    let told = gateway.post("/v1/messages", &[], &body).await;
    assert_eq!((told.status, told.text.contains("container")), (400, true), "{}", told.text);
}

/// What Claude Code sends with its settings as they come, through a provider of OpenAI's format.
#[tokio::test]
async fn what_only_anthropics_servers_do_fails_no_request_for_another() {
    let (gateway, openai, _) = gateway().await;
    for more in [
        json!({ "context_management": { "edits": [{ "type": "clear_thinking_20251015", "keep": "all" }] } }),
        json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search", "max_uses": 8 }],
            "tool_choice": { "type": "tool", "name": "web_search" } }),
        json!({ "tools": [{ "type": "bash_20250124", "name": "bash" }] }),
        json!({ "betas": ["x"], "speed": "fast", "container": null, "mcp_servers": [] }),
    ] {
        let mut body = message("coder", true);
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        let told = gateway.post("/v1/messages?beta=true", &[("anthropic-beta", "a,b")], &body).await;
        assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{more}: {}", told.text);
    }
    let asked = openai.asked();
    assert!(asked.iter().all(|asked| asked.body.get("tool_choice").is_none()));
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("anthropic-beta")));
    assert_eq!(asked[2].body["tools"][0]["function"]["name"], "bash");
}

/// What a model takes holds for one that is named directly, too; a fallback may take what it does not.
#[tokio::test]
async fn a_models_capabilities_hold_for_one_that_is_named() {
    const MODELS: &str = r#"
providers: { open: { format: openai, base_url: @OPENAI/v1 } }
models:
  plain: { provider: open, capabilities: [tools], max_output_tokens: 100 }
  seeing: { provider: open, capabilities: [images] }
  alone: { provider: open, capabilities: [] }
fallbacks: { plain: [seeing] }
"#;
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(MODELS, &openai, &anthropic), &[]);
    let mut body = message("plain", false);
    body["thinking"] = json!({ "type": "adaptive" });
    body["output_config"] = json!({ "effort": "high" });
    body["max_tokens"] = 32_000.into();
    assert_eq!(gateway.post("/v1/messages", &[], &body).await.status, 200);
    let asked = openai.asked().pop().expect("a request").body;
    assert_eq!((&asked["max_tokens"], asked.get("reasoning_effort")), (&json!(100), None));
    let image = json!([{ "type": "image_url", "image_url": { "url": "https://example.org/a.png" } }]);
    let with_image = |model: &str| {
        let mut body = chat(model, false);
        body["messages"][0]["content"] = image.clone();
        body
    };
    let told = gateway.post("/v1/chat/completions", &[], &with_image("plain")).await;
    assert_eq!((told.status, told.headers["x-novastack-model"].as_str()), (200, "seeing"), "{}", told.text);
    let told = gateway.post("/v1/chat/completions", &[], &with_image("alone")).await;
    assert_eq!(
        (told.status, &told.json()["error"]["param"]),
        (400, &json!("messages[0].content[0]")),
        "{}",
        told.text
    );
    let mut body = chat("alone", false);
    body["tools"] = json!([{ "type": "function", "function": { "name": "f" } }]);
    let told = gateway.post("/v1/chat/completions", &[], &body).await;
    assert_eq!((told.status, &told.json()["error"]["param"]), (400, &json!("tools")), "{}", told.text);
}

/// Claude Code's request as it comes, with its line for billing, to each kind of target.
#[tokio::test]
async fn claude_codes_own_line_reaches_anthropic_alone() {
    const MODELS: &str = r#"
providers: { open: { format: openai, base_url: @OPENAI/v1 }, anth: { format: anthropic, base_url: @ANTHROPIC } }
models:
  coder: { provider: open }
  kept: { provider: open, drop_noise: false }
  claude-opus-4-7: { provider: anth }
  claude-haiku-4-5: { provider: anth, drop_noise: true, cache_control: false }
"#;
    const NOISE: &str = "x-anthropic-billing-header: cc_version=2.1.197.aea; cc_entrypoint=sdk-cli; cch=1f;";
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(MODELS, &openai, &anthropic), &[]);
    let betas = "interleaved-thinking-2025-05-14,effort-2025-11-24";
    for (model, upstream, noise) in [
        ("coder", &openai, false),
        ("kept", &openai, true),
        ("claude-opus-4-7", &anthropic, true),
        ("claude-haiku-4-5", &anthropic, false),
    ] {
        let mut body = message(model, false);
        body["system"] = json!([{ "type": "text", "text": NOISE }, { "type": "text", "text": "You are" }]);
        body["output_config"] = json!({ "effort": "high" });
        let told = gateway.post("/v1/messages", &[("anthropic-beta", betas)], &body).await;
        assert_eq!(told.status, 200, "{}", told.text);
        let asked = upstream.asked().pop().expect("a request");
        assert_eq!(asked.body.to_string().contains("cch=1f"), noise, "{model}: {}", asked.body);
        assert!(asked.body.to_string().contains("You are"), "{model}: {}", asked.body);
        if model == "claude-haiku-4-5" {
            assert_eq!(asked.headers["anthropic-beta"], "interleaved-thinking-2025-05-14");
            assert_eq!(asked.body.get("output_config"), None);
        }
    }
    // Of OpenAI callers' prompts the stable beginning is marked to be cached, unless that is turned off.
    for (model, marked) in [("claude-opus-4-7", true), ("claude-haiku-4-5", false)] {
        let mut body = chat(model, false);
        body["tools"] = json!([{ "type": "function", "function": { "name": "f" } }]);
        assert_eq!(gateway.post("/v1/chat/completions", &[], &body).await.status, 200);
        let asked = anthropic.asked().pop().expect("a request").body;
        assert_eq!(asked["tools"][0].get("cache_control").is_some(), marked, "{asked}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_told_is_paid_and_not_asked_for_again() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = fill(CONFIG, &openai, &anthropic) + "named_routes: { both: [coder, opus] }\n";
    let gateway = start(&config, &[]);
    let mut broken = openai_whole(&json!({ "model": "coder" }));
    let function = json!({ "name": "f", "arguments": "{\"a\": \"x" });
    broken["choices"][0]["message"]["tool_calls"] =
        json!([{ "id": "c", "type": "function", "function": function }]);
    openai.always("coder", vec![Act::Send(answer("200 OK", &broken))]);
    let told = gateway.message("both", false).await;
    assert_eq!(told.status, 502, "{}", told.text);
    assert!(told.text.contains("arguments of the tool call"), "{}", told.text);
    assert_eq!((openai.asked().len(), anthropic.asked().len()), (1, 0), "asked once, and nobody else");
    let (_, metrics) = gateway.server.get("/metrics").await;
    let is_output = |line: &&str| {
        ["attempt_tokens_total", "\"coder\"", "direction=\"output\""].iter().all(|word| line.contains(word))
    };
    let output = metrics.lines().find(is_output);
    assert!(output.is_some_and(|line| !line.ends_with(" 0")), "{output:?} {metrics}");
}

/// A hint that a model refuses costs one more try, and later requests go without it; a wrong value is its caller's.
#[tokio::test]
async fn what_a_model_refuses_of_hints_is_left_out_and_remembered() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let refusal = |message: &str| {
        vec![Act::Send(answer(
            "400 Bad Request",
            &json!({ "error": { "message": message, "type": "invalid_request_error" } }),
        ))]
    };
    let ask = async |more: Value| {
        let mut body = chat("coder", false);
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        gateway.post("/v1/chat/completions", &[], &body).await
    };
    openai.once("coder", refusal("Unsupported parameter: 'top_p' is not supported with this model."));
    let told = ask(json!({ "top_p": 0.9, "temperature": 0.5 })).await;
    assert_eq!((told.status, told.headers["x-novastack-attempts"].as_str()), (200, "1"), "{}", told.text);
    let tries = openai.asked();
    assert_eq!((tries.len(), &tries[0].body["top_p"], tries[1].body.get("top_p")), (2, &json!(0.9), None));
    assert_eq!(tries[1].body["temperature"], 0.5);
    assert_eq!(ask(json!({ "top_p": 0.9 })).await.status, 200);
    assert_eq!(openai.asked().len(), 3, "it is remembered");
    assert_eq!(openai.asked()[2].body.get("top_p"), None);

    // Neither what is wrong nor what the request is about is tried without.
    for (message, more) in [
        ("temperature: must be at most 2", json!({ "temperature": 3 })),
        (
            "'response_format' is not supported with this model",
            json!({ "response_format": { "type": "json_object" } }),
        ),
        ("'seed' is not supported with this model", json!({})),
    ] {
        let before = openai.asked().len();
        openai.once("coder", refusal(message));
        let told = ask(more).await;
        assert_eq!((told.status, openai.asked().len() - before), (400, 1), "{message}: {}", told.text);
    }
    // Twice refused is refused.
    openai.once("coder", refusal("`user` is not supported"));
    openai.once("coder", refusal("no such user"));
    let told = ask(json!({ "user": "u" })).await;
    assert!(told.status == 400 && told.text.contains("no such user"), "{}", told.text);
}
