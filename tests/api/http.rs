//! HTTP as its edges: encodings, sizes that are said before, callers that close their half, and the paths
//! that load balancers and monitors ask.

use super::{chat, completion, metric, serve};
use crate::support::server::Server;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.url.strip_prefix("http://").expect("a URL")).await.expect("connected")
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\r\n{body}"
    )
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).expect("packed");
    encoder.finish().expect("packed")
}

#[tokio::test]
async fn encodings_that_are_not_taken_get_415_and_gzip_is_read_within_the_limit() {
    let server = serve(&["--max-body", "100K"]);
    let client = crate::support::client();
    let send = async |encoding: &str, body: Vec<u8>| {
        let request = client.post(format!("{}/v1/completions", server.url)).body(body);
        let request = request.header("content-type", "application/json").header("content-encoding", encoding);
        let answer = request.send().await.expect("an answer");
        let (status, accepts) = (answer.status().as_u16(), answer.headers().get("accept-encoding").cloned());
        (status, accepts.is_some_and(|value| value == "gzip"), answer.json::<Value>().await.expect("JSON"))
    };
    let plain = completion(json!({"temperature": 0})).to_string().into_bytes();
    let (status, _, expected) = send("identity", plain.clone()).await;
    assert_eq!(status, 200, "{expected}");
    let (status, _, answer) = send("gzip", gzip(&plain)).await;
    assert_eq!((status, &answer["choices"]), (200, &expected["choices"]));
    for encoding in ["br", "zstd", "deflate", "gzip, gzip", "gzip, br", "x"] {
        let (status, accepts, answer) = send(encoding, plain.clone()).await;
        assert_eq!((status, accepts), (415, true), "{encoding}: {answer}");
        assert_eq!(answer["error"]["code"], "unsupported_content_encoding");
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains(encoding)), "{answer}");
    }
    // 10 MB of spaces are 50 KB.
    let bomb = gzip(&vec![b' '; 10 << 20]);
    assert!(bomb.len() < 100 << 10, "{}", bomb.len());
    let (status, _, answer) = send("gzip", bomb).await;
    assert_eq!((status, &answer["error"]["code"]), (413, &json!("body_too_large")));
    let (status, _, answer) = send("gzip", plain).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_body")), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_said_to_be_too_large_is_refused_before_it_comes() {
    let server = serve(&["--max-body", "4K"]);
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut stream = connect(&server).await;
        let head = post("/v1/completions", &format!("content-length: 5000000\r\n{expect}"), "");
        stream.write_all(head.as_bytes()).await.expect("sent");
        // Not a byte of the body.
        let mut answer = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer[..read.expect("in time").expect("read")]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    // Who sends all the same comes to read the answer.
    let large = completion(json!({"user": "x".repeat(3 << 20)}));
    for _ in 0..5 {
        let (status, answer) = server.post("/v1/completions", &large).await;
        assert_eq!((status, &answer["error"]["code"]), (413, &json!("body_too_large")));
    }
    // What fits is asked for.
    let body = completion(json!({})).to_string();
    let mut stream = connect(&server).await;
    let headers = format!("content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n", body.len());
    stream.write_all(post("/v1/completions", &headers, "").as_bytes()).await.expect("sent");
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.expect("read");
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.expect("sent");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("read");
    assert!(rest.starts_with("HTTP/1.1 200 "), "{rest}");
}

#[tokio::test]
async fn a_caller_that_closes_its_half_still_gets_its_answer() {
    let server = serve(&[]);
    for (stream, tokens) in [(false, 4), (false, 400), (true, 100)] {
        let body = completion(json!({"max_tokens": tokens, "stream": stream})).to_string();
        let mut half = connect(&server).await;
        let headers = format!("content-length: {}\r\n", body.len());
        half.write_all(post("/v1/completions", &headers, &body).as_bytes()).await.expect("sent");
        half.shutdown().await.expect("closed");
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(60), half.read_to_string(&mut answer)).await;
        read.expect("the connection ends with the answer").expect("read");
        let answer = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(if stream { "[DONE]" } else { "\"finish_reason\":\"length\"" }), "{answer}");
    }
    // Half a request and nothing more is no request.
    let mut half = connect(&server).await;
    half.write_all(post("/v1/completions", "content-length: 1000\r\n", "{").as_bytes()).await.expect("sent");
    half.shutdown().await.expect("closed");
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(10), half.read_to_string(&mut answer)).await;
    assert!(read.is_ok() && !answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn for_a_caller_that_has_gone_away_nobody_works() {
    let server = serve(&[]);
    let expect = "expect: 100-continue\r\n";
    let cases = [
        ("HTTP/1.1", "", false),
        ("HTTP/1.1", "", true),
        ("HTTP/1.0", "", false),
        ("HTTP/1.1", expect, false),
    ];
    for (requests, (version, expect, stream)) in (1..).zip(cases) {
        let more = json!({"n": 60, "max_tokens": 480, "temperature": 0, "stream": stream});
        let body = completion(more).to_string();
        let mut caller = connect(&server).await;
        let headers = format!("content-length: {}\r\n{expect}", body.len());
        let request = post("/v1/completions", &headers, &body).replacen("HTTP/1.1", version, 1);
        caller.write_all(request.as_bytes()).await.expect("sent");
        while metric(&server, "novastack_running").await == 0.0 {}
        drop(caller);
        let gone = std::time::Instant::now();
        while metric(&server, "novastack_running").await > 0.0 {
            assert!(gone.elapsed() < Duration::from_secs(5), "{version} {expect}: it still runs");
        }
        let (_, text) = server.get("/metrics").await;
        let cancelled =
            format!("novastack_generations_total{{model=\"tiny\",outcome=\"cancelled\"}} {requests}");
        assert!(text.contains(&cancelled), "{text}");
    }
}

#[tokio::test]
async fn livez_readyz_and_version() {
    let server = serve(&["--api-key", "the-secret-of-all"]);
    for path in ["/livez", "/readyz", "/health"] {
        let (status, text) = server.get(path).await;
        assert_eq!(status, 200, "{path} needs no key: {text}");
    }
    assert_eq!(server.get("/version").await.0, 401);
    let client = crate::support::client();
    let answer = client.get(format!("{}/version", server.url)).bearer_auth("the-secret-of-all").send().await;
    let version: Value = answer.expect("an answer").json().await.expect("JSON");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["commit"].is_string());
}

/// What `promtool check metrics` asks for, and what the formats' specifications say.
fn check_metrics(text: &str, open_metrics: bool) {
    let mut types = std::collections::HashMap::new();
    let mut helps = std::collections::HashSet::new();
    let mut current = "";
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (kind, name, rest) =
                (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next());
            match kind {
                "HELP" => assert!(helps.insert(name) && rest.is_some_and(|help| help.len() > 5), "{line}"),
                "TYPE" => {
                    assert!(types.insert(name, rest.expect("a type")).is_none(), "{line} stands twice");
                    current = name;
                }
                "UNIT" => assert!(open_metrics, "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let name = line.split(['{', ' ']).next().expect("a name");
        let kind = types[current];
        let suffixes: &[&str] = match (kind, open_metrics) {
            ("counter", true) => &["_total"],
            ("info", true) => &["_info"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(suffixes.iter().any(|suffix| name == format!("{current}{suffix}")), "{line} under {current}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}: {kind}");
        assert!(name.starts_with("novastack_") && !name.contains(|c: char| c.is_ascii_uppercase()), "{line}");
        // Base units, and no type within a name.
        for word in name.split('_') {
            let odd = ["ms", "milliseconds", "minutes", "kilobytes", "kib", "counter", "gauge", "histogram"];
            assert!(!odd.contains(&word), "{line}: {word}");
        }
    }
    assert!(types.keys().all(|name| helps.contains(name)) && types.len() > 20, "{types:?}");
    assert_eq!(text.ends_with("# EOF\n"), open_metrics);
}

#[tokio::test]
async fn metrics_come_in_both_formats_and_are_clean() {
    let server = serve(&[]);
    server.post("/v1/chat/completions", &chat(json!({}))).await;
    let client = crate::support::client();
    for (accept, kind) in [
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text; version=1.0.0",
        ),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
    ] {
        let answer = client.get(format!("{}/metrics", server.url)).header("accept", accept).send().await;
        let answer = answer.expect("an answer");
        let told = answer.headers()["content-type"].to_str().expect("text").to_owned();
        assert!(told.starts_with(kind), "{accept}: {told}");
        let text = answer.text().await.expect("text");
        check_metrics(&text, kind.starts_with("application"));
        let build = format!("novastack_build_info{{version=\"{}\",commit=\"", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&build), "{text}");
    }
}
