//! A request times out by silence, not by the length of an answer that goes on.

use super::{Answer, Gateway, begun_stream, chat, fill, message, start};
use crate::support::upstream::{Act, TEXT, Upstream, anthropic_stream, openai_stream, stream_head};
use serde_json::json;
use std::time::Duration;

const CONFIG: &str = "
providers:
  open: { format: openai, base_url: @OPENAI/v1 }
  anth: { format: anthropic, base_url: @ANTHROPIC }
models: { open: { provider: open }, anth: { provider: anth } }
";

/// Of callers of every format.
const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/messages", "/v1/responses"];

const PAUSE: Act = Act::Wait(Duration::from_millis(400));

async fn ask(gateway: &Gateway, path: &str, model: &str) -> Answer {
    let body = match path {
        "/v1/responses" => json!({ "model": model, "stream": true, "input": "Explain async/await" }),
        "/v1/messages" => message(model, true),
        _ => chat(model, true),
    };
    gateway.post(path, &[], &body).await
}

/// A stream's events, each after a pause.
fn slowly(stream: &str) -> Vec<Act> {
    let events = stream.split_inclusive("\n\n").map(|event| Act::Send(event.as_bytes().to_vec()));
    let paused = events.flat_map(|event| [PAUSE, event]);
    [Act::Send(stream_head())].into_iter().chain(paused).collect()
}

fn says(answer: &Answer) -> String {
    let responses = answer.data().into_iter().filter_map(|data| {
        (data["type"] == "response.output_text.delta").then(|| data["delta"].as_str().unwrap().to_owned())
    });
    let told: String = responses.collect();
    if told.is_empty() { answer.says() } else { told }
}

/// Both upstreams' streams take longer than silence may, and no pause does.
#[tokio::test]
async fn a_healthy_stream_is_not_cut_however_long_it_is() {
    let upstream = Upstream::start().await;
    let body = json!({ "model": "m" });
    upstream.always("open", slowly(&openai_stream(&body)));
    upstream.always("anth", slowly(&anthropic_stream(&body)));
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &["--request-timeout", "1"]);
    for path in PATHS {
        for model in ["open", "anth"] {
            let answer = ask(&gateway, path, model).await;
            assert_eq!(
                (answer.status, says(&answer).as_str()),
                (200, TEXT),
                "{path} {model}: {}",
                answer.text
            );
            assert!(!answer.text.contains("error\":{"), "{path} {model}: {}", answer.text);
        }
    }
}

/// `ping` events and comments such as `: OPENROUTER PROCESSING` say that somebody is at work.
#[tokio::test]
async fn pings_and_comments_of_an_upstream_are_signs_of_life() {
    let upstream = Upstream::start().await;
    let body = json!({ "model": "m" });
    let signs = |sign: &str, stream: String| {
        let signs = (0..5).flat_map(|_| [Act::Send(sign.as_bytes().to_vec()), PAUSE]);
        let acts = [Act::Send(stream_head())].into_iter().chain(signs);
        acts.chain([Act::Send(stream.into_bytes())]).collect::<Vec<_>>()
    };
    let ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    upstream.always("anth", signs(ping, anthropic_stream(&body)));
    upstream.always("open", signs(": OPENROUTER PROCESSING\n\n", openai_stream(&body)));
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &["--request-timeout", "1"]);
    for path in PATHS {
        for model in ["open", "anth"] {
            let answer = ask(&gateway, path, model).await;
            assert_eq!(
                (answer.status, says(&answer).as_str()),
                (200, TEXT),
                "{path} {model}: {}",
                answer.text
            );
        }
    }
}

/// What we send to keep a caller waiting is no sign of life.
#[tokio::test]
async fn silence_is_told_as_such_whatever_we_send_meanwhile() {
    let upstream = Upstream::start().await;
    upstream.always("open", vec![Act::Send(stream_head()), Act::Send(begun_stream()), Act::Hang]);
    upstream.always("anth", vec![Act::Hang]);
    let gateway =
        start(&fill(CONFIG, &upstream, &upstream), &["--request-timeout", "1", "--keep-alive", "0.3"]);
    let told = "nothing of the answer came for 1 seconds";
    for path in PATHS {
        let answer = ask(&gateway, path, "open").await;
        assert!(
            answer.text.contains(": keep-alive") && answer.text.contains(told),
            "{path}: {}",
            answer.text
        );
    }
    let whole = gateway.chat("anth", false).await;
    assert_eq!((whole.status, &whole.json()["error"]["code"]), (504, &json!("timeout")), "{}", whole.text);
    assert!(whole.text.contains(told), "{}", whole.text);
}

/// What never ends is cut at a time of its own.
#[tokio::test]
async fn an_endless_answer_ends_at_the_requests_whole_time() {
    let upstream = Upstream::start().await;
    let piece =
        json!({ "id": "x", "model": "m", "choices": [{ "index": 0, "delta": { "content": "word " } }] });
    let piece = Act::Send(format!("data: {piece}\n\n").into_bytes());
    let endless = (0..100).flat_map(|_| [piece.clone(), PAUSE]);
    upstream.always("open", [Act::Send(stream_head())].into_iter().chain(endless).collect());
    let gateway =
        start(&fill(CONFIG, &upstream, &upstream), &["--request-timeout", "1", "--total-timeout", "2"]);
    let answer = gateway.chat("open", true).await;
    assert!(answer.text.contains("the request took longer than 2 seconds in all"), "{}", answer.text);
}
