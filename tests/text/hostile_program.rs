//! The real program over a checkpoint of a stranger: what it does to itself is one request's error.

use crate::support::{golden_dir, server::Server};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The tiny llama checkpoint with another chat template.
fn with_template(source: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(golden_dir("llama")).expect("goldens").flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    std::fs::write(folder.path().join("chat_template.jinja"), source).expect("written");
    folder
}

fn serve(folder: &Path, more: &[&str]) -> Server {
    let source = format!("tiny={}", folder.display());
    Server::start(&[&["--model", source.as_str()], more].concat())
}

fn chat(content: &str) -> Value {
    json!({"model": "tiny", "max_tokens": 2, "ignore_eos": true, "messages": [{"role": "user", "content": content}]})
}

/// Point 11: what a template does at a request.
#[tokio::test]
async fn a_template_that_bursts_at_a_request_leaves_the_server_alone() {
    let folder = with_template(
        "{% set ns = namespace(s='x', a=[]) %}{% set what = messages[0].content %}\
         {% if what == 'memory' %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{% endif %}\
         {% if what == 'depth' %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}\
         {% for i in range(9) %}{{ ns.a|tojson }}{% endfor %}{% set ns.a = [ns] %}{{ ns.a == [ns] }}{{ ns.a }}{% endif %}\
         {% if what == 'time' %}{% for i in range(64) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}\
         {% set t = ns.a %}{{ [t, 1] == [t, 2] }}{{ ns.a }}{% endif %}{{ what }}",
    );
    let server = serve(folder.path(), &["--text-timeout", "3"]);
    let (status, answer) = server.post("/v1/chat/completions", &chat("hello")).await;
    assert_eq!(status, 200, "{answer}");
    for what in ["memory", "depth", "time", "memory"] {
        let start = Instant::now();
        let (status, answer) = server.post("/v1/chat/completions", &chat(what)).await;
        eprintln!("{what}: {answer} ({:?})", start.elapsed());
        assert_eq!(
            (status, answer["error"]["code"].as_str()),
            (400, Some("text_work_limit")),
            "{what}: {answer}"
        );
        assert_eq!(answer["error"]["param"], "messages");
        assert!(start.elapsed() < Duration::from_secs(8));
        let (status, answer) = server.post("/v1/chat/completions", &chat("hello")).await;
        assert_eq!(status, 200, "after {what}: {answer}");
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Point 11: what a template does when it is read.
#[tokio::test]
async fn a_template_that_bursts_when_it_is_read_leaves_the_server_and_inspect_alone() {
    let folder = with_template(&format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(200_000)));
    let server = serve(folder.path(), &[]);
    let (status, answer) = server.post("/v1/chat/completions", &chat("hello")).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (400, Some("no_chat_template")), "{answer}");
    assert!(
        answer["error"]["message"].as_str().is_some_and(|text| text.contains("nested too deeply")),
        "{answer}"
    );
    let (status, answer) =
        server.post("/v1/completions", &json!({"model": "tiny", "prompt": "hello", "max_tokens": 2})).await;
    assert_eq!(status, 200, "{answer}");
    drop(server);

    let output = Command::new(env!("CARGO_BIN_EXE_novastack")).arg("inspect").arg(folder.path()).output();
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("nested too deeply"), "{text}\n{output:?}");
}

/// Point 7: clients that leave take their text work with them, and what cannot be tokenized is not begun.
#[tokio::test]
async fn text_work_of_clients_that_left_does_not_hold_others_up() {
    let server = serve(&golden_dir("llama"), &[]);
    let long = json!({"model": "tiny", "prompt": "some words, ".repeat(340_000)});
    let client = reqwest::Client::new();
    let mut left = Vec::new();
    for _ in 0..4 {
        let request = client.post(format!("{}/tokenize", server.url)).json(&long);
        left.push(tokio::spawn(tokio::time::timeout(Duration::from_millis(500), request.send())));
    }
    for request in left {
        drop(request.await);
    }
    let start = Instant::now();
    let (status, answer) = server.post("/v1/chat/completions", &chat("hello")).await;
    assert_eq!(status, 200, "{answer}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    let longer = json!({"model": "tiny", "prompt": "some words, ".repeat(1_000_000)});
    let start = Instant::now();
    let (status, answer) = server.post("/tokenize", &longer).await;
    assert_eq!((status, answer["error"]["param"].as_str()), (400, Some("prompt")), "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("4194304")), "{answer}");
    let (status, answer) = server
        .post("/v1/completions", &json!({"model": "tiny", "prompt": longer["prompt"], "max_tokens": 1}))
        .await;
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (400, Some("context_length_exceeded")),
        "{answer}"
    );
    assert!(
        answer["error"]["message"].as_str().is_some_and(|text| text.contains(" at least, of ")),
        "{answer}"
    );
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
