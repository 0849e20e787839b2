//! Upstreams, or proxies before them, that pack their answers though nobody asked them to.

use super::{Gateway, chat, fill, message, start};
use crate::support::upstream::{
    Act, TEXT, Upstream, anthropic_stream, anthropic_whole, openai_stream, openai_whole,
};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

const CONFIG: &str = "
providers:
  open: { format: openai, base_url: @OPENAI/v1 }
  anth: { format: anthropic, base_url: @ANTHROPIC }
models: { open: { provider: open }, anth: { provider: anth } }
";

const ENCODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

/// Packs pieces so that each can be unpacked once it has come.
fn packed(encoding: &str, pieces: &[&str]) -> Vec<Vec<u8>> {
    match encoding {
        "gzip" => {
            let mut writer = GzEncoder::new(Vec::new(), Compression::default());
            let mut out = Vec::new();
            for piece in pieces {
                writer.write_all(piece.as_bytes()).expect("packed");
                writer.flush().expect("flushed");
                out.push(std::mem::take(writer.get_mut()));
            }
            out.push(writer.finish().expect("an end"));
            out
        }
        "deflate" => {
            let mut writer = ZlibEncoder::new(Vec::new(), Compression::default());
            let mut out = Vec::new();
            for piece in pieces {
                writer.write_all(piece.as_bytes()).expect("packed");
                writer.flush().expect("flushed");
                out.push(std::mem::take(writer.get_mut()));
            }
            out.push(writer.finish().expect("an end"));
            out
        }
        // RFC 7932: a window of 16 bits, then blocks of bytes as they are, then an empty last block.
        "br" => {
            let mut out = Vec::new();
            for (at, piece) in pieces.iter().enumerate() {
                let length = u32::try_from(piece.len() - 1).expect("a short piece");
                assert!(length < 1 << 16);
                let header = if at == 0 { length << 4 | 1 << 20 } else { length << 3 | 1 << 19 };
                out.push([&header.to_le_bytes()[..3], piece.as_bytes()].concat());
            }
            out.push(vec![3]);
            out
        }
        // RFC 8878: a frame of raw blocks.
        "zstd" => {
            let mut out = vec![vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x58]];
            for (at, piece) in pieces.iter().enumerate() {
                let last = u32::from(at + 1 == pieces.len());
                let header = u32::try_from(piece.len()).expect("a short piece") << 3 | last;
                out.push([&header.to_le_bytes()[..3], piece.as_bytes()].concat());
            }
            out
        }
        other => panic!("{other}"),
    }
}

fn head(encoding: &str, kind: &str) -> Act {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-encoding: {encoding}\r\nconnection: close\r\n\r\n"
    );
    Act::Send(head.into_bytes())
}

fn whole(encoding: &str, body: &str) -> Vec<Act> {
    let bytes = packed(encoding, &[body]).concat();
    let length = format!("content-length: {}", bytes.len());
    let Act::Send(head) = head(encoding, "application/json") else { unreachable!() };
    let head = String::from_utf8(head).expect("ASCII").replace("connection: close", &length);
    vec![Act::Send(head.into_bytes()), Act::Send(bytes)]
}

/// Each event is there once it has come.
fn stream(encoding: &str, text: &str, pause: Duration) -> Vec<Act> {
    let events: Vec<&str> = text.split_inclusive("\n\n").collect();
    let pieces = packed(encoding, &events).into_iter();
    let acts = pieces.flat_map(|piece| [Act::Send(piece), Act::Wait(pause)]);
    [head(encoding, "text/event-stream")].into_iter().chain(acts).collect()
}

async fn ask(gateway: &Gateway, model: &str, stream: bool) -> super::Answer {
    match model {
        "open" => gateway.chat(model, stream).await,
        _ => gateway.message(model, stream).await,
    }
}

/// Whole and streamed, to a caller of the same format, which gets what was packed as it was, and of the other.
#[tokio::test]
async fn packed_answers_are_read_and_passed_on_unpacked() {
    let upstream = Upstream::start().await;
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &[]);
    let body = json!({ "model": "m" });
    for encoding in ENCODINGS {
        for (model, json, events) in [
            ("open", openai_whole(&body), openai_stream(&body)),
            ("anth", anthropic_whole(&body), anthropic_stream(&body)),
        ] {
            for other in [false, true] {
                for streams in [false, true] {
                    upstream.once(
                        model,
                        match streams {
                            true => stream(encoding, &events, Duration::ZERO),
                            false => whole(encoding, &json.to_string()),
                        },
                    );
                    let answer = match other {
                        false => ask(&gateway, model, streams).await,
                        true if model == "open" => gateway.message(model, streams).await,
                        true => gateway.chat(model, streams).await,
                    };
                    let what = format!("{encoding} {model} {other} {streams}: {}", answer.text);
                    assert_eq!((answer.status, answer.says().as_str()), (200, TEXT), "{what}");
                    assert!(!answer.headers.contains_key("content-encoding"), "{what} {:?}", answer.headers);
                    let length = answer.headers.get("content-length").map(|length| length.parse::<usize>());
                    assert!(length.is_none_or(|length| length == Ok(answer.text.len())), "{what}");
                }
            }
        }
    }
    // Nobody asks for it.
    assert!(upstream.asked().iter().all(|asked| asked.headers["accept-encoding"] == "identity"));
}

/// What has come is passed on before more comes.
#[tokio::test]
async fn a_packed_stream_goes_on_event_by_event() {
    let upstream = Upstream::start().await;
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &[]);
    let events = openai_stream(&json!({ "model": "m" }));
    for encoding in ENCODINGS {
        upstream.once("open", stream(encoding, &events, Duration::from_millis(400)));
        let asked = Instant::now();
        let request = gateway.client.post(format!("{}/v1/chat/completions", gateway.server.url));
        let answer = request.json(&chat("open", true)).send().await.expect("an answer");
        let (mut pieces, mut first, mut text) = (answer.bytes_stream(), None, String::new());
        while let Some(piece) = pieces.next().await {
            text += &String::from_utf8_lossy(&piece.expect("a piece"));
            if text.contains("Hello, ") {
                first.get_or_insert(asked.elapsed());
            }
        }
        let (first, all) = (first.expect("text"), asked.elapsed());
        assert!(text.ends_with("[DONE]\n\n"), "{encoding}: {text}");
        assert!(first + Duration::from_millis(800) < all, "{encoding}: text after {first:?} of {all:?}");
    }
}

/// Bounds are about what is unpacked.
#[tokio::test]
async fn a_small_body_that_unpacks_to_a_huge_one_is_refused() {
    let upstream = Upstream::start().await;
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &["--memory-for-requests", "4G"]);
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(b"{\"id\": \"").expect("packed");
    for _ in 0..1024 {
        bomb.write_all(&[b'x'; 1 << 20]).expect("packed");
    }
    let bomb = bomb.finish().expect("packed");
    assert!(bomb.len() < 2 << 20);
    for kind in ["application/json", "text/event-stream"] {
        let length = format!("content-length: {}", bomb.len());
        let Act::Send(head) = head("gzip", kind) else { unreachable!() };
        let head = String::from_utf8(head).expect("ASCII").replace("connection: close", &length);
        upstream.always("open", vec![Act::Send(head.into_bytes()), Act::Send(bomb.clone())]);
        let streams = kind == "text/event-stream";
        let answer = gateway.chat("open", streams).await;
        assert_eq!(answer.status, 502, "{kind}: {}", answer.text);
        let bytes = if streams { "16777216" } else { "67108864" };
        assert!(answer.text.contains(bytes), "{kind}: {}", answer.text);
    }
    assert!(gateway.server.peak_resident_kib() < 600 << 10, "{} KiB", gateway.server.peak_resident_kib());
}

/// An error's body says why; what cannot be unpacked is told by the name of its way.
#[tokio::test]
async fn packed_errors_are_read_and_unknown_ways_are_named() {
    let upstream = Upstream::start().await;
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &[]);
    for encoding in ENCODINGS {
        let error = json!({ "error": { "message": "the context is too small for this" } }).to_string();
        let mut acts = whole(encoding, &error);
        let Act::Send(head) = &mut acts[0] else { unreachable!() };
        *head = String::from_utf8_lossy(head).replace("200 OK", "400 Bad Request").into_bytes();
        upstream.once("open", acts);
        let answer = gateway.chat("open", false).await;
        assert!(
            answer.status == 400 && answer.text.contains("too small for this"),
            "{encoding}: {}",
            answer.text
        );
    }
    for streams in [false, true] {
        upstream.always(
            "open",
            whole("gzip", "{}")
                .into_iter()
                .map(|act| match act {
                    Act::Send(bytes) => Act::Send(
                        String::from_utf8_lossy(&bytes)
                            .replace("encoding: gzip", "encoding: compress")
                            .into_bytes(),
                    ),
                    act => act,
                })
                .collect(),
        );
        let answer = gateway.chat("open", streams).await;
        assert!(answer.status == 502 && answer.text.contains("packed as `compress`"), "{}", answer.text);
    }
    // Not whole: an error, never a part as if it were all.
    let mut cut = whole("gzip", &openai_whole(&json!({ "model": "m" })).to_string());
    let Act::Send(bytes) = &mut cut[1] else { unreachable!() };
    bytes.truncate(bytes.len() / 2);
    upstream.always("open", cut);
    let answer: Value = gateway.post("/v1/messages", &[], &message("open", false)).await.json();
    assert_eq!(answer["type"], "error", "{answer}");
}
