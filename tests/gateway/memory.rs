//! What callers and upstreams send is bounded in all, not one by one: the program's memory stays what it was
//! told to be.

use super::{Gateway, chat, fill, message, start};
use crate::support::upstream::{Act, TEXT, Upstream, answer, openai_stream, openai_whole, stream_head};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const CONFIG: &str = r#"
providers:
  open: { format: openai, base_url: @OPENAI/v1, timeout_s: 3, max_concurrency: 100 }
  anth: { format: anthropic, base_url: @ANTHROPIC, timeout_s: 3, max_concurrency: 100 }
models:
  bad: { provider: open }
  bad-anth: { provider: anth }
  good: { provider: open }
named_routes:
  safe: [bad, good]
"#;

/// Of the program as such, with its threads' buffers and what the system keeps of its files.
const PROGRAM_KIB: u64 = 160 << 10;

/// Asserts that the program never had more than that beside itself.
#[track_caller]
fn never_over(gateway: &Gateway, mib: u64, what: &str) {
    let peak = gateway.server.peak_resident_kib();
    eprintln!("{what}: {peak} KiB resident at the most");
    assert!(peak < PROGRAM_KIB + (mib << 10), "{what}: {peak} KiB");
}

/// Bodies that become the largest when they are parsed: of so many bytes, and what they are.
fn worst_bodies(bytes: usize) -> Vec<(&'static str, String)> {
    let filled = |piece: &str| {
        let field = vec![piece; bytes / (piece.len() + 1)].join(",");
        format!(
            r#"{{"model":"good","messages":[{{"role":"user","content":"x"}}],"metadata_of_mine":[{field}]}}"#
        )
    };
    let keys: Vec<String> = (0..bytes / 12).map(|key| format!(r#""{key:x}":0"#)).collect();
    vec![
        ("numbers", filled("1")),
        ("arrays of one", filled("[0]")),
        ("empty arrays", filled("[]")),
        ("objects of one", filled(r#"{"":0}"#)),
        ("objects of objects", filled(r#"{"":{"":0}}"#)),
        ("empty strings", filled(r#""""#)),
        ("deep arrays", filled(&format!("{}{}", "[".repeat(100), "]".repeat(100)))),
        ("keys", format!(r#"{{"model":"good","messages":[],"x":{{{}}}}}"#, keys.join(","))),
        ("never closed", format!(r#"{{"x":[{}"#, "[0],".repeat(bytes / 4))),
        (
            "text",
            format!(r#"{{"model":"good","messages":[{{"role":"user","content":"{}"}}]}}"#, "a".repeat(bytes)),
        ),
        (
            "escapes",
            format!(
                r#"{{"model":"good","messages":[{{"role":"user","content":"{}"}}]}}"#,
                "\\n".repeat(bytes / 2)
            ),
        ),
    ]
}

async fn post(gateway: &Gateway, path: &str, body: String) -> (u16, Option<String>, String) {
    let request = gateway.client.post(format!("{}{path}", gateway.server.url)).body(body);
    let response = request.header("content-type", "application/json").send().await.expect("an answer");
    let retry = response.headers().get("retry-after").and_then(|it| it.to_str().ok()).map(str::to_owned);
    (response.status().as_u16(), retry, response.text().await.expect("a text"))
}

/// The memory for requests holds for all of them together; what finds no room is told so in the caller's format.
#[tokio::test]
async fn parsed_bodies_share_a_memory() {
    const MIB: u64 = 320;
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    // Long enough that bodies meet.
    let whole = answer("200 OK", &openai_whole(&json!({ "model": "good" })));
    openai.always("good", vec![Act::Wait(Duration::from_millis(300)), Act::Send(whole)]);
    for (what, body) in worst_bodies(300 << 10) {
        let gateway = start(&fill(CONFIG, &openai, &anthropic), &["--memory-for-requests", "320M"]);
        let mut full = 0;
        for _ in 0..2 {
            let (gateway, body) = (&gateway, &body);
            let asked = (0..16).map(|number| async move {
                let path = if number % 2 == 0 { "/v1/chat/completions" } else { "/v1/messages" };
                (path, post(gateway, path, body.clone()).await)
            });
            for (path, (status, retry, text)) in futures_util::future::join_all(asked).await {
                assert!([200, 400, 503].contains(&status), "{what}: {status} {text}");
                if status != 503 {
                    continue;
                }
                full += 1;
                let answer: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(retry.as_deref(), Some("1"), "{text}");
                assert!(text.contains("the memory for requests is used up"), "{text}");
                match path {
                    "/v1/messages" => assert_eq!(answer["error"]["type"], "overloaded_error", "{text}"),
                    _ => assert_eq!(answer["error"]["code"], "memory_full", "{text}"),
                }
            }
        }
        never_over(&gateway, MIB, what);
        if what == "arrays of one" {
            assert!(full > 0, "sixteen such bodies found room");
        }
        // All of it is given back.
        let mut held = String::new();
        for _ in 0..100 {
            let (_, metrics) = gateway.server.get("/metrics").await;
            let line = metrics.lines().find(|line| line.starts_with("novastack_request_memory_bytes"));
            held = line.expect("the metric").to_owned();
            if held.ends_with(" 0") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(held.ends_with(" 0"), "{what}: {held}");
        assert_eq!(gateway.chat("good", true).await.says(), TEXT);
    }
}

/// A body that no waiting would make room for is refused for good, before it is parsed; one that is as large and
/// is text passes.
#[tokio::test]
async fn a_body_that_can_never_fit_is_refused() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &["--memory-for-requests", "192M"]);
    let bodies = worst_bodies(12 << 20);
    let of = |name: &str| bodies.iter().find(|(what, _)| *what == name).expect("a body").1.clone();
    let (status, retry, text) = post(&gateway, "/v1/chat/completions", of("numbers")).await;
    assert_eq!((status, retry), (413, None), "{text}");
    assert!(text.contains("bytes of memory are needed") && text.contains("100663296"), "{text}");
    let (status, _, text) = post(&gateway, "/v1/messages", of("objects of one")).await;
    assert!(status == 413 && text.contains("request_too_large"), "{status} {text}");
    assert_eq!(post(&gateway, "/v1/chat/completions", of("text")).await.0, 200);
    never_over(&gateway, 192, "12 MB");
}

/// A body of which nothing comes does not hold its memory for ever; one that is packed counts as it is unpacked.
#[tokio::test]
async fn packed_bodies_are_counted_as_they_are_unpacked() {
    use std::io::Write;
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &["--memory-for-requests", "32M"]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![b' '; 15 << 20]).expect("memory");
    let body = packed.finish().expect("memory");
    let asked = (0..8).map(|_| {
        let request = gateway.client.post(format!("{}/v1/chat/completions", gateway.server.url));
        let request = request.header("content-encoding", "gzip").header("content-type", "application/json");
        let request = request.body(body.clone());
        async { request.send().await.expect("an answer").status().as_u16() }
    });
    for status in futures_util::future::join_all(asked).await {
        assert!([413, 503].contains(&status), "{status}");
    }
    never_over(&gateway, 32, "packed");
}

/// After many large bodies most of the memory goes back to the system, some seconds after the threads that used
/// it have ended.
#[tokio::test]
async fn memory_of_bodies_is_given_back() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &["--memory-for-requests", "600M"]);
    let bodies = worst_bodies(2 << 20);
    let before = gateway.server.resident_kib();
    for _ in 0..6 {
        for (_, body) in bodies.iter().filter(|(what, _)| ["numbers", "empty strings", "text"].contains(what))
        {
            let asked = (0..4).map(|_| post(&gateway, "/v1/chat/completions", body.clone()));
            futures_util::future::join_all(asked).await;
        }
    }
    let taken = gateway.server.peak_resident_kib() - before;
    let begun = Instant::now();
    loop {
        let left = gateway.server.resident_kib().saturating_sub(before);
        if left < taken / 3 {
            eprintln!("{left} of {taken} KiB are left after {:?}", begun.elapsed());
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{left} of {taken} KiB are left");
        tokio::time::sleep(Duration::from_millis(500)).await;
        // What one thread freed, another one's work may give back.
        gateway.chat("good", false).await;
    }
}

fn head(kind: &str) -> Act {
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: {kind}\r\n\r\n");
    Act::Send(head.into_bytes())
}

/// What an upstream may send without ever saying anything, and the words that tell of it.
fn floods() -> Vec<(&'static str, bool, Vec<Act>, u16, &'static str)> {
    let stream = || head("text/event-stream");
    let json = || head("application/json");
    let frames = |frame: &str| vec![stream(), Act::Flood(frame.repeat(64).into_bytes())];
    let large = format!("data: {{\"choices\":[],\"x\":\"{}\"}}\n\n", "a".repeat(100 << 10));
    let comments = [Act::Send(b": still here\n\n".to_vec()), Act::Wait(Duration::from_millis(100))];
    let comments = std::iter::once(stream()).chain(comments.iter().cycle().take(200).cloned());
    let numbers =
        [&b"{\"choices\":[{\"message\":{\"content\":["[..], &b"1,".repeat(8 << 20), b"1]}}]}"].concat();
    let deep = format!("data: {{\"choices\":[],\"x\":[{}]}}\n\n", "[0],".repeat(3 << 20));
    vec![
        ("frames", true, frames("data: {\"choices\":[]}\n\n"), 502, "which say nothing"),
        ("empty frames", true, frames("data:\n\n"), 502, "which say nothing"),
        ("large frames", true, frames(&large), 502, "which say nothing"),
        ("comments", true, comments.collect(), 504, "said nothing within 3 seconds"),
        ("a line without end", true, vec![stream(), Act::Flood(vec![b'a'; 64 << 10])], 502, "larger than"),
        (
            "an event without end",
            true,
            vec![stream(), Act::Flood(b"data: aaaaaaaaaaaaaaaaaaaaaaaa\n".repeat(1000))],
            502,
            "larger than",
        ),
        ("a frame of arrays", true, vec![stream(), Act::Send(deep.into_bytes())], 502, "is too large"),
        ("an answer without end", false, vec![json(), Act::Flood(vec![b' '; 64 << 10])], 502, "too large"),
        (
            "an answer without end for a stream",
            true,
            vec![json(), Act::Flood(vec![b' '; 64 << 10])],
            502,
            "too large",
        ),
        ("an answer of numbers", false, vec![json(), Act::Send(numbers)], 502, "too large"),
        (
            "an error without end",
            false,
            vec![
                Act::Send(b"HTTP/1.1 400 No\r\nconnection: close\r\n\r\n".to_vec()),
                Act::Flood(vec![b'e'; 64 << 10]),
            ],
            400,
            "provider",
        ),
        (
            "headers without end",
            false,
            vec![
                Act::Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
                Act::Flood(b"x-a: aaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(100)),
            ],
            502,
            "provider",
        ),
    ]
}

/// Whatever an upstream makes us keep before its answer begins has a bound; then the next target answers.
#[tokio::test]
async fn a_flood_before_the_first_piece_is_a_bad_upstream() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    for (what, stream, acts, status, words) in floods() {
        let gateway = start(&fill(CONFIG, &openai, &anthropic), &["--memory-for-requests", "64M"]);
        openai.always("bad", acts.clone());
        let begun = Instant::now();
        let told = gateway.chat("bad", stream).await;
        assert_eq!(told.status, status, "{what}: {}", told.text);
        assert!(told.text.contains(words), "{what}: {words} in {}", told.text);
        if status >= 500 {
            let told = gateway.chat("safe", stream).await;
            assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{what}: {}", told.text);
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{what}: {:?}", begun.elapsed());
        never_over(&gateway, 64, what);
    }
}

/// The same of Anthropic's frames.
#[tokio::test]
async fn pings_without_end_are_a_bad_upstream() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &["--memory-for-requests", "64M"]);
    let ping = b"event: ping\ndata: {\"type\": \"ping\"}\n\n".repeat(64);
    anthropic.always("bad-anth", vec![head("text/event-stream"), Act::Flood(ping)]);
    let told = gateway.message("bad-anth", true).await;
    assert!(told.status == 502 && told.text.contains("which say nothing"), "{}", told.text);
    never_over(&gateway, 64, "pings");
}

/// A stream that begins late, after frames that say nothing, is whole.
#[tokio::test]
async fn a_slow_beginning_is_no_flood() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &["--memory-for-requests", "64M"]);
    let quiet = ": wait\n\ndata: {\"choices\":[]}\n\n".repeat(500);
    let acts = [
        Act::Send(stream_head()),
        Act::Send(quiet.into_bytes()),
        Act::Wait(Duration::from_millis(500)),
        Act::Send(openai_stream(&json!({ "model": "bad" })).into_bytes()),
    ];
    openai.always("bad", acts.to_vec());
    assert_eq!(gateway.chat("bad", true).await.says(), TEXT);
    assert_eq!(gateway.post("/v1/messages", &[], &message("bad", true)).await.says(), TEXT);
    assert_eq!(gateway.post("/v1/chat/completions", &[], &chat("safe", true)).await.says(), TEXT);
}
