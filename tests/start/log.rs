//! The log tells what happened.

use crate::support::golden_dir;
use crate::support::server::Server;
use serde_json::json;

fn serve(more: &[&str]) -> Server {
    let source = format!("tiny={}", golden_dir("llama").display());
    Server::start(&[&[source.as_str()], more].concat())
}

#[tokio::test]
async fn each_finished_request_has_one_line_without_its_text() {
    let server = serve(&["--api-key", "S3CRET-KEY-OF-ALL"]);
    let client = crate::support::client();
    let post = async |path: &str, id: &str, key: &str, body: &serde_json::Value| {
        let request = client.post(format!("{}{path}", server.url)).header("x-request-id", id);
        let answer = request.bearer_auth(key).json(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    let messages = json!([{ "role": "user", "content": "S3CRET-PROMPT" }]);
    let chat = json!({ "model": "tiny", "messages": messages, "max_tokens": 4, "ignore_eos": true });
    let mut streamed = chat.clone();
    streamed["stream"] = true.into();
    for (id, body) in [("whole", &chat), ("streamed", &streamed)] {
        assert_eq!(post("/v1/chat/completions", id, "S3CRET-KEY-OF-ALL", body).await.0, 200);
        let line = server.log_line(&["answered", &format!("request_id=\"{id}\"")]).await;
        for words in [
            "INFO",
            "path=\"/v1/chat/completions\"",
            "model=\"tiny\"",
            "status=200",
            "tokens_in=",
            "cached=",
            "tokens_out=4",
            "first_token_ms=",
            "tokens_per_s=",
            " ms=",
            "end=\"length\"",
        ] {
            assert!(line.contains(words), "{words} in {line}");
        }
    }
    let completion = json!({ "model": "tiny", "prompt": [5, 6, 7], "max_tokens": 2, "ignore_eos": true });
    post("/v1/completions", "plain", "S3CRET-KEY-OF-ALL", &completion).await;
    let line = server.log_line(&["answered", "request_id=\"plain\""]).await;
    assert!(line.contains("tokens_in=3") && line.contains("tokens_out=2"), "{line}");

    // One that failed: the reason that the caller got.
    let bad = json!({ "model": "tiny", "messages": [], "temperature": 3 });
    let (status, text) = post("/v1/chat/completions", "bad", "S3CRET-KEY-OF-ALL", &bad).await;
    assert_eq!(status, 400);
    let line = server.log_line(&["refused", "request_id=\"bad\"", "status=400"]).await;
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(line.contains(message), "{message} in {line}");
    post("/v1/chat/completions", "stranger", "WRONG-S3CRET", &chat).await;
    server.log_line(&["refused", "request_id=\"stranger\"", "status=401", "the API key is not valid"]).await;

    // One line each, and nothing of what was said or presented.
    let log = server.log();
    for id in ["whole", "streamed", "plain", "bad", "stranger"] {
        assert_eq!(log.matches(&format!("request_id=\"{id}\"")).count(), 1, "{id} in\n{log}");
    }
    assert!(!log.contains("S3CRET"), "{log}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_and_a_caller_who_leaves_are_told() {
    let server = serve(&["--total-timeout", "0.2"]);
    let long = json!({
        "model": "tiny", "prompt": [5, 6, 7], "n": 60, "max_tokens": 480, "ignore_eos": true, "stream": true,
    });
    let (status, _) = crate::api::post_text(&server, "/v1/completions", &long).await;
    assert_eq!(status, 200, "it had begun");
    let line = server.log_line(&["failed", "WARN"]).await;
    assert!(line.contains("the request took longer than") && line.contains("tokens_out="), "{line}");
}

#[tokio::test]
async fn health_probes_are_told_at_debug_and_the_address_before_loading() {
    let server = serve(&[]);
    for path in ["/health", "/metrics", "/v1/models"] {
        server.get(path).await;
    }
    server.log_line(&["path=\"/v1/models\"", "answered"]).await;
    let log = server.log();
    assert!(!log.contains("path=\"/health\"") && !log.contains("path=\"/metrics\""), "{log}");
    // Without a terminal there are lines in place of a bar.
    let at = |words: &str| log.find(words).unwrap_or_else(|| panic!("{words} in\n{log}"));
    assert!(at(&format!("listening on {}", server.url)) < at("loading model=\"tiny\""), "{log}");
    assert!(at("loading model=\"tiny\"") < at("loaded"), "{log}");
    drop(server);
    let source = format!("tiny={}", golden_dir("llama").display());
    let server = Server::try_start_with(&[&source], &[("NOVASTACK_LOG", "debug")]).expect("it starts");
    server.get("/health").await;
    server.log_line(&["DEBUG", "path=\"/health\"", "answered"]).await;
}
