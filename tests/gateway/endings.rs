//! Streams whose upstreams do not say that they are over, though the answer is.

use super::{CONFIG, chat, fill, message, start};
use crate::support::upstream::{Act, TEXT, Upstream, anthropic_stream, openai_stream, stream_head};
use serde_json::{Value, json};

/// What is left of a stream without its last frames.
fn until(text: &str, mark: &str) -> Vec<u8> {
    let end = text.find(mark).unwrap_or_else(|| panic!("no {mark} in {text}"));
    text[..end].into()
}

/// How a stream ends without its last word: it closes, or breaks off within a frame or a chunk.
fn endings(whole: &str, mark: &str) -> Vec<Vec<Act>> {
    let rest = until(whole, mark);
    let chunked = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut broken = chunked.to_vec();
    broken.extend(format!("{:x}\r\n", rest.len()).into_bytes());
    broken.extend_from_slice(&rest);
    // The last chunk, of no bytes, does not come.
    broken.extend(b"\r\n");
    let mut cut = rest.clone();
    cut.extend(b"data: {\"id\":\"chatcm");
    vec![
        vec![Act::Send(stream_head()), Act::Send(rest)],
        vec![Act::Send(stream_head()), Act::Send(cut)],
        vec![Act::Send(broken)],
    ]
}

#[tokio::test]
async fn a_stream_without_its_last_word_is_completed_after_finish_reason() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = super::usage::STORE.to_owned() + &fill(CONFIG, &openai, &anthropic);
    let gateway = start(&config, &[]);
    let asked = json!({ "model": "m", "stream_options": { "include_usage": true } });
    let mut number = 0;
    for (upstream, named, model, whole, mark) in [
        (&openai, "deepseek-upstream", "deepseek-v4-pro", openai_stream(&asked), "data: [DONE]"),
        (&anthropic, "claude-upstream", "claude-opus-4.7", anthropic_stream(&asked), "event: message_stop"),
    ] {
        for acts in endings(&whole, mark) {
            upstream.always(named, acts);
            let told = gateway.chat(model, true).await;
            assert_eq!(told.says(), TEXT, "{}", told.text);
            assert!(told.text.ends_with("data: [DONE]\n\n"), "{model}: {}", told.text);
            assert!(
                told.data().iter().any(|data| data["choices"][0]["finish_reason"] == "stop"),
                "{}",
                told.text
            );
            let told = gateway.message(model, true).await;
            assert_eq!(told.says(), TEXT, "{}", told.text);
            let ends = told.text.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
            assert!(ends, "{model}: {}", told.text);
            assert!(!told.text.contains("\"error\""), "{}", told.text);
            number += 2;
        }
    }
    let rows = gateway.usage("outcome").await;
    assert_eq!(
        (rows.len(), &rows[0]["outcome"], &rows[0]["attempts"]),
        (1, &json!("completed"), &json!(number))
    );
}

/// One that ends before its `finish_reason` is no whole answer; of two answers both have to be there.
#[tokio::test]
async fn a_stream_that_breaks_off_before_its_finish_reason_is_an_error() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let asked = json!({ "model": "m" });
    for acts in endings(&openai_stream(&asked), "\"finish_reason\":\"stop\"") {
        openai.always("deepseek-upstream", acts);
        let told = gateway.chat("deepseek-v4-pro", true).await;
        assert!(told.text.contains("\"error\"") && !told.text.contains("[DONE]"), "{}", told.text);
    }
    let whole = openai_stream(&asked);
    let broken = endings(&whole, "data: [DONE]").remove(2);
    openai.always("deepseek-upstream", broken);
    let mut body: Value = chat("deepseek-v4-pro", true);
    body["n"] = 2.into();
    let told = gateway.post("/v1/chat/completions", &[], &body).await;
    assert!(told.text.contains("\"error\"") && !told.text.contains("[DONE]"), "{}", told.text);
    let mut body = message("claude-opus-4.7", true);
    body["max_tokens"] = 64.into();
    for acts in endings(&anthropic_stream(&asked), "event: message_delta") {
        anthropic.always("claude-upstream", acts);
        let told = gateway.post("/v1/messages", &[], &body).await;
        assert!(
            told.text.contains("event: error") && !told.text.contains("event: message_stop"),
            "{}",
            told.text
        );
    }
}
