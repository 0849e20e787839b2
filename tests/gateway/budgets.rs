//! Budgets hold, whatever callers and upstreams do.

use super::usage::STORE;
use super::{CONFIG, Gateway, chat, fill, message, start, start_in};
use crate::support::server::Server;
use crate::support::upstream::{
    Act, Upstream, answer, anthropic_stream, anthropic_whole, openai_stream, openai_whole, raw,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// Counts that no upstream can have used, in its own words.
const ALL: u64 = u64::MAX;

/// A gateway, and the text of a key with these settings.
async fn with_key(config: &str, settings: Value) -> (Gateway, String) {
    let gateway = start(config, &[]);
    let key = make_key(&gateway, settings).await;
    (gateway, key)
}

async fn make_key(gateway: &Gateway, settings: Value) -> String {
    let made = gateway.admin(Method::POST, "/admin/keys", Some(settings)).await;
    format!("Bearer {}", made["key"].as_str().unwrap_or_else(|| panic!("{made}")))
}

/// The status and the error's code of a request with a key.
async fn ask(gateway: &Gateway, key: &str, path: &str, body: &Value) -> (u16, Value) {
    let told = gateway.post(path, &[("authorization", key)], body).await;
    let code = serde_json::from_str::<Value>(&told.text).map(|answer| answer["error"]["code"].clone());
    (told.status, code.unwrap_or_default())
}

async fn spent(gateway: &Gateway, name: &str) -> f64 {
    // The table of keys is read anew every second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let keys = gateway.admin(Method::GET, "/admin/keys", None).await;
    let keys = keys["keys"].as_array().expect("keys");
    keys.iter().find(|key| key["name"] == name).and_then(|key| key["spent"].as_f64()).expect("a key")
}

#[tokio::test]
async fn whatever_multiplies_work_is_reserved() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = STORE.to_owned() + &fill(CONFIG, &openai, &anthropic);
    let (gateway, cent) = with_key(&config, json!({ "name": "cent", "credit": 0.01 })).await;
    let few = json!({ "name": "few", "limits": { "tokens_per_minute": 1000 } });
    let few = make_key(&gateway, few).await;
    let with = |model: &str, more: Value| {
        let mut body = chat(model, false);
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        body
    };
    // 128 answers of 480 tokens at ten dollars a million are 61 cents.
    let many = json!({ "n": 128, "max_tokens": 480 });
    // One answer that may be as long is no cheaper, and what thinks beside it counts too.
    let long = json!({ "max_tokens": 61_440 });
    let thinking = json!({ "max_tokens": 10, "thinking_budget": 61_440 });
    let as_text = json!({ "n": "128", "max_tokens": "480" });
    for body in [&many, &long, &thinking, &as_text] {
        let told = ask(&gateway, &cent, "/v1/chat/completions", &with("deepseek-v4-pro", body.clone())).await;
        assert_eq!(told, (402, json!("insufficient_quota")), "{body}");
        let told = ask(&gateway, &few, "/v1/chat/completions", &with("deepseek-v4-pro", body.clone())).await;
        assert_eq!(told, (429, json!("rate_limit_exceeded")), "{body}");
    }
    // In Anthropic's dialect, and by images: four of them may be 19,136 tokens at five dollars a million.
    let mut images = message("claude-opus-4.7", false);
    let image = json!({ "type": "image", "source": { "type": "url", "url": "https://host.example/a.png" } });
    images["messages"][0]["content"] = vec![image; 4].into();
    let mut anthropic_long = message("claude-opus-4.7", false);
    anthropic_long["max_tokens"] = 1000.into();
    for body in [images, anthropic_long] {
        let told = gateway.post("/v1/messages", &[("authorization", &cent)], &body).await;
        assert_eq!((told.status, &told.json()["error"]["type"]), (402, &json!("billing_error")), "{body}");
    }
    assert!(openai.asked().is_empty() && anthropic.asked().is_empty(), "nobody was asked");
    // Our own engines.
    let prompts = json!({ "model": "qwen3-235b", "prompt": vec!["a"; 50], "max_tokens": 20 });
    let ids = json!({ "model": "qwen3-235b", "prompt": vec![1; 1001], "max_tokens": 1 });
    let each = json!({ "model": "qwen3-235b", "prompt": ["a", "b"], "n": 10, "max_tokens": 50 });
    for body in [prompts, ids, each] {
        let told = ask(&gateway, &few, "/v1/completions", &body).await;
        assert_eq!(told, (429, json!("rate_limit_exceeded")), "{body}");
    }
    let told = ask(&gateway, &few, "/v1/chat/completions", &with("qwen3-235b", many)).await;
    assert_eq!(told, (429, json!("rate_limit_exceeded")));
    let gap = json!({ "model": "qwen3-235b", "input_prefix": "def f(", "n_predict": 2000 });
    assert_eq!(ask(&gateway, &few, "/infill", &gap).await, (429, json!("rate_limit_exceeded")));
    // What fits passes, and nothing was taken by what did not.
    let body = with("deepseek-v4-pro", json!({ "n": 2, "max_tokens": 400 }));
    assert_eq!(ask(&gateway, &few, "/v1/chat/completions", &body).await.0, 200);
    let body = with("deepseek-v4-pro", json!({ "n": 2, "max_tokens": 100 }));
    assert_eq!(ask(&gateway, &cent, "/v1/chat/completions", &body).await.0, 200);
}

/// A key that can pay for the first target, and not for the dearer ones behind it, has the first alone.
#[tokio::test]
async fn fallbacks_are_reserved_too() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = STORE.to_owned()
        + &fill(CONFIG, &openai, &anthropic)
        + "named_routes: { safe: [deepseek-v4-pro, claude-opus-4.7] }\n";
    let (gateway, poor) = with_key(&config, json!({ "name": "poor", "credit": 0.006 })).await;
    let rich = make_key(&gateway, json!({ "name": "rich", "credit": 1 })).await;
    openai.always("deepseek-upstream", vec![Act::Send(answer("500 Oops", &json!({})))]);
    let told = ask(&gateway, &poor, "/v1/chat/completions", &chat("safe", false)).await;
    assert_eq!((told.0, anthropic.asked().len()), (502, 0));
    assert_eq!(ask(&gateway, &rich, "/v1/chat/completions", &chat("safe", false)).await.0, 200);
    assert_eq!(anthropic.asked().len(), 1);
}

#[tokio::test]
async fn an_upstreams_usage_is_bounded_by_what_was_asked_flagged_and_corrected() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = STORE.to_owned() + &fill(CONFIG, &openai, &anthropic);
    let (gateway, key) = with_key(&config, json!({ "name": "paid", "credit": 20 })).await;
    let lie = |mut whole: Value| {
        let usage = whole["usage"].as_object_mut().expect("usage");
        usage.values_mut().filter(|count| count.is_u64()).for_each(|count| *count = ALL.into());
        whole
    };
    let named = json!({ "model": "m", "stream_options": { "include_usage": true } });
    let numbers = |text: String| {
        let mut text = text;
        for name in ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"] {
            for count in ["1", "5", "7", "11"] {
                text = text.replace(&format!("\"{name}\":{count},"), &format!("\"{name}\":{ALL},"));
                text = text.replace(&format!("\"{name}\":{count}}}"), &format!("\"{name}\":{ALL}}}"));
            }
        }
        assert!(text.contains(&ALL.to_string()), "{text}");
        raw("200 OK", "content-type: text/event-stream\r\n", &text)
    };
    let mut number = 0;
    for stream in [false, true] {
        let acts = match stream {
            false => [
                answer("200 OK", &lie(openai_whole(&named))),
                answer("200 OK", &lie(anthropic_whole(&named))),
            ],
            true => [numbers(openai_stream(&named)), numbers(anthropic_stream(&named))],
        };
        openai.always("deepseek-upstream", vec![Act::Send(acts[0].clone())]);
        anthropic.always("claude-upstream", vec![Act::Send(acts[1].clone())]);
        for model in ["deepseek-v4-pro", "claude-opus-4.7"] {
            for (path, mut body) in
                [("/v1/chat/completions", chat(model, stream)), ("/v1/messages", message(model, stream))]
            {
                number += 1;
                let id = format!("r{number}");
                (body["max_tokens"], body["n"]) = (64.into(), Value::Null);
                let headers = [("authorization", key.as_str()), ("x-request-id", &id)];
                let told = gateway.post(path, &headers, &body).await;
                assert_eq!(told.status, 200, "{model} {path} {stream}: {}", told.text);
                if let Some(cost) = told.headers.get("x-novastack-cost") {
                    assert!(cost.parse::<f64>().expect("a number") < 0.2, "{cost}");
                }
            }
        }
    }
    // On a busy machine records come late, and an attempt may have failed and been tried again.
    let mut bounded = Value::Null;
    for _ in 0..20 {
        let rows = gateway.usage("flag").await;
        bounded = rows.into_iter().find(|row| row["flag"] == "bounded").unwrap_or_default();
        if bounded["requests"] == 8 {
            break;
        }
    }
    assert_eq!((&bounded["requests"], &bounded["flagged"]), (&json!(8), &json!(8)), "{bounded}");
    // 64 tokens and a margin each; a prompt of a few dozen bytes and a margin.
    for count in ["input_tokens", "output_tokens"] {
        let counted = bounded[count].as_u64().expect("a number");
        assert!((8 * 64..8 * 4500).contains(&counted), "{bounded}");
    }
    let wasted = spent(&gateway, "paid").await;
    assert!((0.1..2.0).contains(&wasted), "{wasted}");

    // The operator sets records right, and the key has its credit back, here and after a restart.
    let correct = async |gateway: &Gateway, body: Value| {
        gateway.admin(Method::POST, "/admin/usage/correct", Some(body)).await
    };
    for number in 1..=8 {
        let body = json!({ "key": "paid", "request_id": format!("r{number}"), "input_tokens": 11,
                           "output_tokens": 5, "cost": 0.001 });
        let told = correct(&gateway, body).await;
        assert_eq!(
            (&told["after"]["cost"], &told["after"]["flag"], &told["before"]["flag"]),
            (&json!(0.001), &json!("corrected"), &json!("bounded")),
            "{told}"
        );
    }
    assert!((spent(&gateway, "paid").await - 0.008).abs() < 1e-9);
    let rows = gateway.usage("flag").await;
    let corrected = rows.iter().find(|row| row["flag"] == "corrected").expect("a row");
    assert_eq!(corrected["input_tokens"], 88);
    for (wrong, param) in [
        (json!({ "key": "paid", "request_id": "none", "cost": 1 }), "request_id"),
        (json!({ "key": "paid", "request_id": "r1", "cost": "1" }), "cost"),
        (json!({ "key": "paid", "request_id": "r1", "price": 1 }), "price"),
        (json!({ "request_id": "r1", "cost": 1 }), "key"),
    ] {
        let told = correct(&gateway, wrong).await;
        assert_eq!(told["error"]["param"], param, "{told}");
    }
    // The credit is counted anew at once: all but eight thousandths of it may be held by one request.
    let mut body = chat("deepseek-v4-pro", false);
    body["max_tokens"] = 1_999_000.into();
    openai.always("deepseek-upstream", vec![Act::Send(answer("200 OK", &openai_whole(&named)))]);
    assert_eq!(ask(&gateway, &key, "/v1/chat/completions", &body).await.0, 200);
    let gateway = start_in(gateway.stop(), &[]);
    assert_eq!(ask(&gateway, &key, "/v1/chat/completions", &body).await.0, 200);
}

#[tokio::test]
async fn a_second_server_on_an_sqlite_file_is_refused() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = STORE.to_owned() + &fill(CONFIG, &openai, &anthropic);
    let gateway = start(&config, &[]);
    let path = gateway.file.path().join("novastack.yaml").display().to_string();
    let environment =
        [("TEST_ADMIN_KEY", "the-key-of-the-admin"), ("TEST_OPENAI_KEY", "k"), ("TEST_ANTHROPIC_KEY", "k")];
    let second = || Server::try_start_with(&["--config", &path], &environment);
    let log = second().err().expect("two servers on one file");
    for words in ["another server has this file", "server.shared_limits: redis://", "postgres://"] {
        assert!(log.contains(words), "{log}");
    }
    // Another name of the same file is the same file.
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(gateway.file.path().join("usage.db"), folder.path().join("usage.db"))
        .expect("a link");
    std::fs::write(folder.path().join("novastack.yaml"), &config).expect("a file");
    let linked = folder.path().join("novastack.yaml").display().to_string();
    let log = Server::try_start_with(&["--config", &linked], &environment).err().expect("refused");
    assert!(log.contains("another server has this file"), "{log}");
    // What only looks, or changes keys, works beside the server.
    let listed = Command::new(env!("CARGO_BIN_EXE_novastack"))
        .args(["keys", "list", "--config", &path])
        .output()
        .expect("the program");
    assert!(listed.status.success(), "{listed:?}");
    // A server that was killed holds nothing.
    gateway.server.kill();
    let Gateway { server, file, .. } = gateway;
    server.wait();
    drop(start_in(file, &[]));
}
