//! The access log of the real program.

use super::{CONFIG, Gateway, begun_stream, chat, fill, message, start};
use crate::support::upstream::{Act, USAGE, Upstream, stream_head};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVER: &str =
    "server: { store: \"sqlite:usage.db\", admin_key_env: TEST_ADMIN_KEY, access_log: access.jsonl }\n";

async fn lines_of(file: &Path, count: usize) -> Vec<Value> {
    let mut text = String::new();
    for _ in 0..300 {
        text = std::fs::read_to_string(file).unwrap_or_default();
        if text.lines().count() >= count && text.ends_with('\n') {
            let lines: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
                .collect();
            assert_eq!(lines.len(), count, "{text}");
            return lines;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{count} lines are expected in {}:\n{text}", file.display());
}

fn file_of(gateway: &Gateway) -> PathBuf {
    gateway.file.path().join("access.jsonl")
}

fn assert_holds(line: &Value, expected: &Value) {
    for (name, value) in expected.as_object().expect("fields") {
        assert_eq!(&line[name], value, "{name} in {line:#}");
    }
}

#[tokio::test]
async fn every_request_has_a_line_when_it_is_over() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway =
        start(&(SERVER.to_owned() + &fill(CONFIG, &openai, &anthropic)), &["--api-key", "S3CRET-KEY-OF-ALL"]);
    let file = file_of(&gateway);
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let key = ("authorization", "Bearer S3CRET-KEY-OF-ALL");

    let headers = [key, ("x-request-id", "one"), ("user-agent", "tester/1")];
    let told = gateway.post("/v1/chat/completions?key=S3CRET-QUERY", &headers, &chat("gpt-4o", false)).await;
    assert_eq!(told.status, 200);
    let line = &lines_of(&file, 1).await[0];
    let cost = ((USAGE.0 - USAGE.1) as f64 + USAGE.1 as f64 * 0.5 + USAGE.2 as f64 * 10.0) / 1e6;
    assert_holds(
        line,
        &json!({
            "id": "one", "method": "POST", "path": "/v1/chat/completions", "status": 200, "outcome": "completed",
            "key": "api-key-45771c63", "model": "deepseek-v4-pro", "route": "deepseek-v4-pro", "attempts": 1, "input_tokens": USAGE.0,
            "cached_tokens": USAGE.1, "output_tokens": USAGE.2, "bytes": told.text.len(), "client": "127.0.0.1",
            "user_agent": "tester/1", "trace_id": null,
        }),
    );
    assert!((line["cost"].as_f64().expect("dollars") - cost).abs() < 1e-12, "{line:#}");
    let (latency, ttft) = (line["latency_ms"].as_f64().unwrap(), line["ttft_ms"].as_f64().unwrap());
    assert!(0.0 < ttft && ttft <= latency, "{line:#}");
    let time = line["time"].as_str().expect("text");
    let written = humantime::parse_rfc3339(time).expect("a time of RFC 3339");
    assert!(written.elapsed().is_ok_and(|age| age < Duration::from_secs(120)), "{time}");

    // Streams, whole and broken off.
    let streamed = gateway.post("/v1/messages", &[key], &message("deepseek-v4-pro", true)).await;
    let line = &lines_of(&file, 2).await[1];
    let expected = json!({
        "path": "/v1/messages", "outcome": "completed", "output_tokens": USAGE.2, "bytes": streamed.text.len(),
        "id": streamed.headers["x-request-id"],
    });
    assert_holds(line, &expected);
    openai.once("deepseek-upstream", vec![Act::Send(stream_head()), Act::Send(begun_stream())]);
    let broken = gateway.post("/v1/chat/completions", &[key], &chat("deepseek-v4-pro", true)).await;
    assert!(broken.text.contains("\"error\""), "{}", broken.text);
    assert_holds(&lines_of(&file, 3).await[2], &json!({ "status": 200, "outcome": "failed", "attempts": 1 }));

    // A caller who leaves: after the first text, and before.
    for (count, acts) in
        [(4, vec![Act::Send(stream_head()), Act::Send(begun_stream()), Act::Hang]), (5, vec![Act::Hang])]
    {
        openai.once("deepseek-upstream", acts);
        let url = format!("{}/v1/chat/completions", gateway.server.url);
        let request = crate::support::client().post(url).bearer_auth("S3CRET-KEY-OF-ALL");
        let gone = async {
            let mut gone = request.json(&chat("deepseek-v4-pro", true)).send().await.expect("a head");
            while gone.chunk().await.is_ok() {}
        };
        assert!(tokio::time::timeout(Duration::from_millis(500), gone).await.is_err());
        let status = if count == 4 { 200 } else { 499 };
        let line = &lines_of(&file, count).await[count - 1];
        assert_holds(line, &json!({ "status": status, "outcome": "cancelled", "model": "deepseek-v4-pro" }));
    }

    // What never comes to a model.
    assert_eq!(gateway.chat("deepseek-v4-pro", false).await.status, 401);
    let line = &lines_of(&file, 6).await[5];
    let none = json!({
        "status": 401, "outcome": "failed", "attempts": 0, "cost": 0.0, "model": null, "route": null, "ttft_ms": null,
    });
    assert_holds(line, &none);
    assert_eq!(gateway.post("/v1/nothing?key=S3CRET-QUERY", &[key], &json!({})).await.status, 404);
    let line = &lines_of(&file, 7).await[6];
    assert_holds(line, &json!({ "status": 404, "outcome": "failed", "path": "/v1/nothing" }));
    let get = async |path: &str, key: &str| {
        let request = crate::support::client().get(format!("{}{path}", gateway.server.url)).bearer_auth(key);
        request.send().await.expect("an answer").bytes().await.expect("a body").len()
    };
    let bytes = get("/health", "S3CRET-KEY-OF-ALL").await;
    let line = &lines_of(&file, 8).await[7];
    assert_holds(
        line,
        &json!({ "method": "GET", "path": "/health", "status": 200, "outcome": "completed", "bytes": bytes }),
    );
    get("/admin/usage?group_by=key", "the-key-of-the-admin").await;
    let line = &lines_of(&file, 9).await[8];
    assert_holds(line, &json!({ "path": "/admin/usage", "status": 200, "outcome": "completed", "id": null }));

    // Named keys, and what our own model does.
    let url = format!("{}/admin/keys", gateway.server.url);
    let made = crate::support::client()
        .post(url)
        .bearer_auth("the-key-of-the-admin")
        .json(&json!({ "name": "few" }));
    let made: Value = made.send().await.expect("an answer").json().await.expect("JSON");
    let secret = made["key"].as_str().expect("a key").to_owned();
    lines_of(&file, 10).await;
    let mut body = json!({ "model": "qwen3-235b", "prompt": "Once", "stream": true });
    (body["max_tokens"], body["ignore_eos"]) = (2.into(), true.into());
    let named = [("x-api-key", secret.as_str())];
    assert_eq!(gateway.post("/v1/completions", &named, &body).await.status, 200);
    let line = &lines_of(&file, 11).await[10];
    assert_holds(
        line,
        &json!({ "key": "few", "model": "qwen3-235b", "output_tokens": 2, "outcome": "completed" }),
    );

    let folder = gateway.stop();
    let text = std::fs::read_to_string(folder.path().join("access.jsonl")).expect("text");
    for hidden in ["S3CRET", "Explain", "Hello", "the-key-of-the-admin", "sk-upstream", &secret] {
        assert!(!text.contains(hidden), "{hidden} is in the log:\n{text}");
    }
}

/// Bytes that are no text, and quotes, are still JSON; long headers are cut.
#[tokio::test]
async fn odd_requests_are_valid_lines() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&(SERVER.to_owned() + &fill(CONFIG, &openai, &anthropic)), &[]);
    let file = file_of(&gateway);
    let address = gateway.server.url.strip_prefix("http://").expect("an address").to_owned();
    let agents: [&[u8]; 4] = [
        b"\"quoted\\\" \xff\xfe\x80",
        "\u{f6}\u{1f980}".as_bytes(),
        &[b'x'; 5000],
        "\u{e9}".repeat(400).as_bytes(),
    ]
    .map(|agent| &*agent.to_vec().leak());
    for (count, agent) in agents.iter().enumerate() {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("a connection");
        let head = [
            b"GET /odd%00%22\"x HTTP/1.1\r\nhost: localhost\r\nx-request-id: a\xffb\r\nuser-agent: ",
            *agent,
        ];
        stream
            .write_all(&[&head.concat()[..], b"\r\nconnection: close\r\n\r\n"].concat())
            .await
            .expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
        let line = &lines_of(&file, count + 1).await[count];
        let given = String::from_utf8_lossy(agent).into_owned();
        let told = line["user_agent"].as_str().expect("text");
        assert!(
            given.starts_with(told) && (told.len() == given.len() || (510..=512).contains(&told.len())),
            "{line:#}"
        );
        assert_ne!(line["id"], Value::Null);
    }
}

/// A log that was moved away goes on in a new file; a stop loses nothing.
#[tokio::test]
async fn a_hangup_opens_the_file_anew() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&(SERVER.to_owned() + &fill(CONFIG, &openai, &anthropic)), &[]);
    let (file, moved) = (file_of(&gateway), gateway.file.path().join("moved.jsonl"));
    assert_eq!(gateway.chat("deepseek-v4-pro", false).await.status, 200);
    lines_of(&file, 1).await;
    std::fs::rename(&file, &moved).expect("moved");
    assert_eq!(gateway.chat("deepseek-v4-pro", false).await.status, 200);
    lines_of(&moved, 2).await;
    gateway.server.signal("-HUP");
    for _ in 0..300 {
        if file.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..50 {
        assert_eq!(gateway.chat("deepseek-v4-pro", true).await.status, 200);
    }
    let folder = gateway.stop();
    lines_of(&folder.path().join("access.jsonl"), 50).await;
    lines_of(&folder.path().join("moved.jsonl"), 2).await;
    // It is appended to.
    let gateway = super::start_in(folder, &[]);
    assert_eq!(gateway.chat("deepseek-v4-pro", false).await.status, 200);
    lines_of(&file_of(&gateway), 51).await;
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_told_at_the_start() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("novastack.yaml");
    let text = SERVER.replace("access.jsonl", "nowhere/access.jsonl") + &fill(CONFIG, &openai, &anthropic);
    std::fs::write(&file, text).expect("a file");
    let told = crate::support::server::Server::try_start(&["--config", &file.display().to_string()]);
    let told = told.err().expect("it does not start");
    assert!(told.contains("access log") && told.contains("nowhere/access.jsonl"), "{told}");
}
