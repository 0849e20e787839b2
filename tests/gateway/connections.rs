//! Connections that are many, idle, or never read.

use super::usage::STORE;
use super::{Gateway, begun_stream, chat, fill, start};
use crate::support::upstream::{Act, Upstream, stream_head};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Two models of one provider, which takes two requests at a time.
const CONFIG: &str = "
providers: { up: { format: openai, base_url: @OPENAI/v1, max_concurrency: 2 } }
models: { m: { provider: up }, ok: { provider: up } }
";

async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.server.url.trim_start_matches("http://")).await.expect("connected")
}

/// Asks for a stream and reads nothing of it.
async fn unread(gateway: &Gateway, model: &str) -> TcpStream {
    let mut stream = connect(gateway).await;
    let body = chat(model, true).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

/// A stream of more than the sockets on its way hold.
fn flood() -> Vec<Act> {
    let choice = json!({ "index": 0, "delta": { "content": "word ".repeat(4000) } });
    let piece = format!("data: {}\n\n", json!({ "id": "x", "model": "m", "choices": [choice] }));
    vec![Act::Send(stream_head()), Act::Send(piece.repeat(3000).into_bytes()), Act::Hang]
}

async fn eventually(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while begun.elapsed() < within {
        if holds().await {
            return begun.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within {within:?}: {what}");
}

async fn get(gateway: &Gateway, path: &str, key: &str) -> (u16, bool, String) {
    let request = gateway.client.get(format!("{}{path}", gateway.server.url)).bearer_auth(key);
    let answer = request.timeout(Duration::from_secs(5)).send().await.expect("an answer");
    let closes = answer.headers().get("connection").is_some_and(|value| value == "close");
    (answer.status().as_u16(), closes, answer.text().await.expect("text"))
}

#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    let upstream = Upstream::start().await;
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &["--max-connections", "50"]);
    let mut idle = Vec::new();
    for number in 0..400 {
        let mut stream = connect(&gateway).await;
        if number % 2 == 0 {
            // A head that never ends.
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n").await.expect("sent");
        }
        idle.push(stream);
    }
    for _ in 0..3 {
        let fresh = crate::support::client();
        let begun = Instant::now();
        let health = fresh.get(format!("{}/health", gateway.server.url)).send().await.expect("an answer");
        assert_eq!(health.status().as_u16(), 200);
        let body = chat("ok", false);
        let url = format!("{}/v1/chat/completions", gateway.server.url);
        let answer = fresh.post(url).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    gateway.server.log_line(&["no room for more connections", "--max-connections"]).await;
    // Who made room was told so by the end of the connection.
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), idle[1].read_to_end(&mut rest)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
}

#[tokio::test]
async fn health_and_admin_are_answered_while_every_place_is_at_work() {
    let upstream = Upstream::start().await;
    upstream.always("m", vec![Act::Send(stream_head()), Act::Send(begun_stream()), Act::Hang]);
    let config = (STORE.to_owned() + &fill(CONFIG, &upstream, &upstream))
        .replace("max_concurrency: 2", "max_concurrency: 9");
    for bound in ["--max-connections", "--max-connections-per-address"] {
        let gateway = start(&config, &[bound, "3"]);
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = unread(&gateway, "m").await;
            stream.read_exact(&mut [0; 15]).await.expect("it has begun");
            streams.push(stream);
        }
        for path in ["/health", "/livez", "/readyz", "/metrics", "/admin/usage"] {
            let (status, closes, text) = get(&gateway, path, "the-key-of-the-admin").await;
            assert_eq!((status, closes), (200, true), "{bound} {path}: {text}");
        }
        let answer = gateway.chat("ok", false).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (503, &json!("connections_full")),
            "{bound}"
        );
        assert!(answer.headers.contains_key("retry-after"));
        let answer = gateway.message("ok", false).await;
        assert_eq!((answer.status, &answer.json()["type"]), (503, &json!("error")), "{bound}");
        // Doing nothing there keeps nobody out either.
        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.push(connect(&gateway).await);
        }
        assert_eq!(get(&gateway, "/health", "").await.0, 200, "{bound}");
        gateway.server.log_line(&["no room for more connections", "only_for_health_and_admin"]).await;
        drop(streams);
        eventually("a place is free", Duration::from_secs(10), async || {
            gateway.chat("ok", false).await.status == 200
        })
        .await;
    }
}

/// A caller that reads nothing of its stream has its body never asked for: deadlines have to hold all the same.
#[tokio::test]
async fn streams_that_are_never_read_give_an_upstreams_places_back() {
    let upstream = Upstream::start().await;
    upstream.always("m", flood());
    // By the write that nobody takes; by the answer that does not move on; by the request's whole time.
    for (arguments, least, most) in [
        (["--write-timeout", "3", "--request-timeout", "600"], 2.5, 20.0),
        (["--write-timeout", "600", "--request-timeout", "4"], 3.5, 20.0),
        (["--write-timeout", "600", "--total-timeout", "4"], 3.5, 20.0),
    ] {
        let gateway = start(&fill(CONFIG, &upstream, &upstream), &arguments);
        let begun = Instant::now();
        let asked = upstream.asked().len();
        let held = [unread(&gateway, "m").await, unread(&gateway, "m").await];
        let reached = async || upstream.asked().len() == asked + 2;
        eventually("both are asked for", Duration::from_secs(10), reached).await;
        let full = gateway.chat("ok", false).await;
        assert_eq!(
            (full.status, &full.json()["error"]["code"]),
            (429, &json!("upstream_busy")),
            "{arguments:?}"
        );
        let free = async || gateway.chat("ok", false).await.status == 200;
        eventually("the places are back", Duration::from_secs_f64(most), free).await;
        assert!(begun.elapsed().as_secs_f64() > least, "{arguments:?}: {:?}", begun.elapsed());
        let metrics = gateway.client.get(format!("{}/metrics", gateway.server.url)).send().await;
        let metrics = metrics.expect("an answer").text().await.expect("text");
        let running = metrics.lines().find(|line| line.starts_with("novastack_requests_in_flight "));
        assert!(running.is_none_or(|line| line.ends_with(" 1") || line.ends_with(" 0")), "{running:?}");
        drop(held);
    }
}

/// A caller that takes a little now and then never lets a write stall; its answer does not move on all the same.
#[tokio::test]
async fn a_caller_that_drips_gives_an_upstreams_place_back() {
    let upstream = Upstream::start().await;
    upstream.always("m", flood());
    let config = fill(CONFIG, &upstream, &upstream).replace("max_concurrency: 2", "max_concurrency: 1");
    for arguments in [["--request-timeout", "3"], ["--total-timeout", "4"]] {
        let gateway = start(&config, &arguments);
        let mut stream = unread(&gateway, "m").await;
        let drips = tokio::spawn(async move {
            let mut byte = [0; 1];
            while stream.read(&mut byte).await.is_ok_and(|read| read > 0) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let full = async || gateway.chat("ok", false).await.status == 429;
        eventually("it is asked for", Duration::from_secs(10), full).await;
        let free = async || gateway.chat("ok", false).await.status == 200;
        let after = eventually("the place is back", Duration::from_secs(20), free).await;
        assert!(after > Duration::from_secs(1), "{arguments:?}: {after:?}");
        drips.abort();
    }
}

/// Who reads, however late, gets everything: a pause is no end.
#[tokio::test]
async fn a_caller_that_pauses_gets_its_whole_stream() {
    let upstream = Upstream::start().await;
    let mut acts = flood();
    let end =
        json!({ "id": "x", "model": "m", "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    acts[2] = Act::Send(format!("data: {end}\n\ndata: [DONE]\n\n").into_bytes());
    upstream.once("m", acts);
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &["--write-timeout", "3"]);
    let mut stream = unread(&gateway, "m").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (mut all, mut piece) = (Vec::new(), vec![0; 1 << 20]);
    while !all.ends_with(b"0\r\n\r\n") {
        let read = stream.read(&mut piece).await.expect("more");
        assert!(read > 0, "it ends early, after {} bytes", all.len());
        all.extend_from_slice(&piece[..read]);
    }
    let text = String::from_utf8_lossy(&all);
    assert!(text.contains("data: [DONE]") && all.len() > 50 << 20, "{} bytes", all.len());
    let whole: Value = chat("ok", false);
    assert_eq!(gateway.post("/v1/chat/completions", &[], &whole).await.status, 200);
}
