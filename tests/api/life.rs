//! A server's and a request's life: keys, ids, CORS, queue bounds, timeouts, disconnects, shutdown.

use super::{completion, metric, post_text, serve};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

/// Long enough to be met in the middle.
fn long() -> Value {
    completion(json!({"n": 60, "max_tokens": 480, "stream": true, "temperature": 0}))
}

/// Sends the request and reads until its first event.
async fn started(url: &str, body: &Value) -> impl futures_util::Stream<Item = String> + Unpin + use<> {
    let response = crate::support::client().post(format!("{url}/v1/completions")).json(body).send().await;
    let response = response.expect("an answer");
    assert_eq!(response.status().as_u16(), 200);
    let mut stream = Box::pin(response.bytes_stream().map(|chunk| {
        let bytes = chunk.unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }));
    stream.next().await.expect("a first event");
    stream
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn keys_are_needed_everywhere_but_for_health() {
    let server = serve(&["--api-key", "the-first-of-two-keys", "--api-key", "the-second-of-two-keys"]);
    let client = crate::support::client();
    let get = async |path: &str, key: Option<&str>| {
        let mut request = client.get(format!("{}{path}", server.url));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("text"))
    };
    assert_eq!(get("/health", None).await.0, 200);
    for path in ["/v1/models", "/metrics", "/router/v1/models", "/nothing"] {
        for key in [None, Some("third"), Some("the-third-of-two-keys"), Some("")] {
            let (status, text) = get(path, key).await;
            assert_eq!(status, 401, "{path}");
            assert!(text.contains("invalid_api_key"), "{text}");
        }
    }
    assert_eq!(get("/v1/models", Some("the-first-of-two-keys")).await.0, 200);
    assert_eq!(get("/v1/models", Some("the-second-of-two-keys")).await.0, 200);
}

#[tokio::test]
async fn request_ids_and_cors() {
    let server = serve(&["--cors-origin", "https://example.org"]);
    let client = crate::support::client();
    let url = format!("{}/v1/models", server.url);
    let given = client.get(&url).header("x-request-id", "mine-1").send().await.expect("an answer");
    assert_eq!(given.headers()["x-request-id"], "mine-1");
    let made = client.get(&url).header("x-request-id", "no good").send().await.expect("an answer");
    assert_eq!(made.headers()["x-request-id"].len(), 36);
    let preflight = client
        .request(reqwest::Method::OPTIONS, format!("{}/v1/chat/completions", server.url))
        .header("origin", "https://example.org")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type");
    let answer = preflight.send().await.expect("an answer");
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://example.org");
    // By name: to browsers `*` does not cover it.
    assert_eq!(answer.headers()["access-control-allow-headers"], "authorization,content-type");
    let other = client.get(&url).header("origin", "https://example.com").send().await.expect("an answer");
    assert!(!other.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_client_that_disconnects_frees_its_place() {
    let server = serve(&[]);
    let stream = started(&server.url, &long()).await;
    eventually("it runs", async || metric(&server, "novastack_running").await > 0.0).await;
    drop(stream);
    eventually("it is gone", async || metric(&server, "novastack_running").await == 0.0).await;
    assert_eq!(metric(&server, "novastack_kv_blocks_used").await, 0.0);
    let (_, text) = server.get("/metrics").await;
    assert!(text.contains(r#"novastack_generations_total{model="tiny",outcome="cancelled"} 1"#), "{text}");
    let (status, _) = server.post("/v1/completions", &completion(json!({}))).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let server = serve(&["--max-running", "1", "--max-queued", "1"]);
    let _running = started(&server.url, &completion(json!({"max_tokens": 480, "stream": true}))).await;
    let client = crate::support::client();
    let url = format!("{}/v1/completions", server.url);
    let many = (0..8).map(|_| client.post(&url).json(&completion(json!({"max_tokens": 400}))).send());
    let answers = futures_util::future::join_all(many).await;
    let mut refused = 0;
    for answer in answers {
        let answer = answer.expect("an answer");
        match answer.status().as_u16() {
            200 => {}
            429 => {
                refused += 1;
                assert_eq!(answer.headers()["retry-after"], "1");
                let body: Value = answer.json().await.expect("JSON");
                assert_eq!(body["error"]["code"], "queue_full");
            }
            other => panic!("status {other}"),
        }
    }
    assert!(refused > 0, "eight at once do not fit into a queue of one");
}

#[tokio::test]
async fn the_whole_time_of_a_request_is_up() {
    let server = serve(&["--total-timeout", "0.2"]);
    let mut body = long();
    let (status, text) = post_text(&server, "/v1/completions", &body).await;
    assert_eq!(status, 200, "a stream has begun by then");
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    assert!(last.starts_with("data: {\"error\":") && last.contains("\"code\":\"timeout\""), "{last}");
    body["stream"] = false.into();
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (504, Some("timeout")), "{answer}");
    eventually("both are cancelled", async || metric(&server, "novastack_running").await == 0.0).await;
}

/// Each token is a sign of life, of streams and of whole answers; who waits for a turn hears nothing.
#[tokio::test]
async fn a_request_of_our_own_model_times_out_by_silence_alone() {
    let server =
        serve(&["--request-timeout", "1", "--total-timeout", "2", "--max-running", "1", "--max-queued", "2"]);
    // As much work as a request can be, for one sequence at a time.
    let mut longest = long();
    longest["n"] = 128.into();
    longest["logprobs"] = 20.into();
    longest["repetition_penalty"] = 1.1.into();
    let mut stream = started(&server.url, &longest).await;
    let begun = std::time::Instant::now();
    let (status, waits) = server.post("/v1/completions", &completion(json!({}))).await;
    assert_eq!((status, &waits["error"]["code"]), (504, &json!("timeout")), "{waits}");
    let told = waits["error"]["message"].as_str().expect("a message");
    assert!(told.contains("nothing of the answer came for 1 seconds"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut rest = String::new();
    while let Some(text) = stream.next().await {
        rest.push_str(&text);
    }
    // Twice as long as silence may be.
    assert!(rest.contains("longer than 2 seconds in all"), "{}", &rest[rest.len().saturating_sub(300)..]);
    let mut whole = longest;
    whole["stream"] = false.into();
    let begun = std::time::Instant::now();
    let (status, answer) = server.post("/v1/completions", &whole).await;
    assert_eq!(status, 504, "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|told| told.contains("in all")), "{answer}");
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_refuses_what_comes() {
    let server = serve(&["--drain-timeout", "60"]);
    let mut stream = started(&server.url, &long()).await;
    server.terminate();
    eventually("new requests are refused", async || {
        let (status, answer) = server.post("/v1/completions", &completion(json!({}))).await;
        status == 503 && answer["error"]["code"] == "shutting_down"
    })
    .await;
    let (status, health) = server.get("/health").await;
    assert_eq!(status, 503);
    assert!(health.contains("draining"), "{health}");
    let mut rest = String::new();
    while let Some(text) = stream.next().await {
        rest.push_str(&text);
    }
    assert!(rest.ends_with("data: [DONE]\n\n"), "the stream came to its own end");
    assert_eq!(server.wait(), Some(0));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let server = serve(&["--drain-timeout", "0.1"]);
    let mut stream = started(&server.url, &long()).await;
    server.terminate();
    let mut rest = String::new();
    while let Some(text) = stream.next().await {
        rest.push_str(&text);
    }
    assert!(rest.trim_end().rsplit("\n\n").next().is_some_and(|e| e.contains("shutting_down")), "{rest}");
    assert_eq!(server.wait(), Some(0));
}
