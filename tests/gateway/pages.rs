//! Web pages that a user visits, and what they try with the user's server.

use super::usage::STORE;
use super::{Gateway, chat, fill, message, start};
use crate::support::upstream::Upstream;
use serde_json::{Value, json};

const CONFIG: &str = "
providers: { up: { format: openai, base_url: @OPENAI/v1 } }
models: { m: { provider: up } }
";

/// What a server answers to a POST with these headers and no others: the status and the error's code.
async fn post(gateway: &Gateway, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let mut request = gateway.client.post(format!("{}{path}", gateway.server.url)).body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn a_web_page_cannot_spend_the_users_money() {
    let upstream = Upstream::start().await;
    let gateway = start(&(STORE.to_owned() + &fill(CONFIG, &upstream, &upstream)), &[]);
    let foreign = ("origin", "https://evil.example");
    let paths = [
        "/v1/chat/completions",
        "/router/v1/chat/completions",
        "/to/m/v1/chat/completions",
        "/v1/completions",
        "/v1/scores",
        "/tokenize",
        "/detokenize",
        "/infill",
        "/admin/keys",
        "/admin/scores",
    ];
    for path in paths {
        // A browser sends these without asking first.
        for kind in [None, Some("text/plain;charset=UTF-8"), Some("application/x-www-form-urlencoded")] {
            let kind: Vec<(&str, &str)> = kind.map(|kind| ("content-type", kind)).into_iter().collect();
            let (status, answer) =
                post(&gateway, path, &[&kind[..], &[foreign]].concat(), &chat("m", false)).await;
            assert_eq!((status, &answer["error"]["code"]), (403, &json!("origin_not_allowed")), "{path}");
            let told = answer["error"]["message"].as_str().unwrap_or_default();
            assert!(told.contains("https://evil.example") && told.contains("--cors-origin"), "{told}");
            let (status, answer) = post(&gateway, path, &kind, &chat("m", false)).await;
            assert_eq!((status, &answer["error"]["code"]), (415, &json!("unsupported_media_type")), "{path}");
        }
        // Or under a name of its own, which leads here for a moment.
        let rebound = [JSON, ("host", "evil.example:8000"), ("origin", "http://evil.example:8000")];
        let (status, answer) = post(&gateway, path, &rebound, &chat("m", false)).await;
        assert_eq!((status, &answer["error"]["code"]), (403, &json!("host_not_allowed")), "{path}");
        let told = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(told.contains("evil.example:8000") && told.contains("--allowed-host"), "{told}");
    }
    // In the shape that the caller knows.
    for headers in [&[JSON, foreign][..], &[JSON, ("host", "evil.example")], &[]] {
        let (_, answer) = post(&gateway, "/v1/messages", headers, &message("m", false)).await;
        assert_eq!(answer["type"], "error", "{answer}");
    }
    // Large bodies are refused with an answer too.
    let mut large = chat("m", false);
    large["messages"][0]["content"] = "word ".repeat(1 << 20).into();
    assert_eq!(post(&gateway, "/v1/chat/completions", &[foreign], &large).await.0, 403);
    let health = gateway.client.get(format!("{}/health", gateway.server.url)).header("host", "evil.example");
    assert_eq!(health.send().await.expect("an answer").status().as_u16(), 403);
    assert!(upstream.asked().is_empty(), "{:?}", upstream.asked());

    // Its own pages, and those that send none, are no page of somebody else's.
    let own = gateway.server.url.clone();
    for headers in
        [&[JSON][..], &[JSON, ("origin", &own)], &[("content-type", "Application/JSON; charset=utf-8")]]
    {
        assert_eq!(
            post(&gateway, "/v1/chat/completions", headers, &chat("m", false)).await.0,
            200,
            "{headers:?}"
        );
    }
    assert_eq!(upstream.asked().len(), 3);
}

#[tokio::test]
async fn what_is_allowed_passes() {
    let upstream = Upstream::start().await;
    let config = fill(CONFIG, &upstream, &upstream);
    let ask = async |gateway: &Gateway, headers: &[(&str, &str)]| {
        post(gateway, "/v1/chat/completions", &[&[JSON], headers].concat(), &chat("m", false)).await.0
    };
    let page = ("origin", "https://app.example.org");
    let allows =
        start(&config, &["--cors-origin", page.1, "--allowed-host", "my-box", "--allowed-host", "a.example"]);
    assert_eq!(ask(&allows, &[page]).await, 200);
    assert_eq!(ask(&allows, &[("origin", "https://b.example.org")]).await, 403);
    assert_eq!(ask(&allows, &[("host", "My-Box:8000")]).await, 200);
    assert_eq!(ask(&allows, &[("host", "a.example"), ("origin", "https://a.example")]).await, 200);
    assert_eq!(ask(&allows, &[("host", "b.a.example")]).await, 403);
    // With keys a page has none of them, and the server's names are nobody's business.
    let keyed = start(&config, &["--api-key", "the-key-of-a-caller"]);
    let key = ("x-api-key", "the-key-of-a-caller");
    let public = [("host", "llm.example.org"), ("origin", "https://llm.example.org")];
    assert_eq!(ask(&keyed, &[key, public[0], public[1]]).await, 200);
    assert_eq!(ask(&keyed, &public).await, 401);
    assert_eq!(ask(&keyed, &[key, page]).await, 403);
}
