//! A request times out by silence, not by the length of an answer that goes on; and a stream has its head before
//! anybody has begun to answer.

use super::{Answer, Gateway, begun_stream, chat, fill, message, start};
use crate::support::upstream::{Act, TEXT, Upstream, answer, anthropic_stream, openai_stream, stream_head};
use serde_json::json;
use std::time::{Duration, Instant};

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

/// When the head of a stream came, and the whole answer.
async fn timed(gateway: &Gateway, path: &str, model: &str) -> (Duration, Answer) {
    let body = match path {
        "/v1/responses" => json!({ "model": model, "stream": true, "input": "Explain async/await" }),
        "/v1/messages" => message(model, true),
        _ => chat(model, true),
    };
    let asked = Instant::now();
    let request = gateway.client.post(format!("{}{path}", gateway.server.url)).json(&body);
    let response = request.send().await.expect("an answer");
    let head = asked.elapsed();
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().into()));
    let headers = headers.collect();
    (head, Answer { status, headers, text: response.text().await.expect("a body") })
}

fn late(stream: String) -> Vec<Act> {
    vec![Act::Wait(Duration::from_secs(2)), Act::Send(stream_head()), Act::Send(stream.into_bytes())]
}

/// The head and comments come before anybody has begun to answer, and then the answer.
#[tokio::test]
async fn a_streams_head_does_not_wait_for_a_slow_upstream() {
    let upstream = Upstream::start().await;
    let body = json!({ "model": "m" });
    upstream.always("open", late(openai_stream(&body)));
    upstream.always("anth", late(anthropic_stream(&body)));
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &["--keep-alive", "0.3"]);
    for path in PATHS {
        for model in ["open", "anth"] {
            let (head, answer) = timed(&gateway, path, model).await;
            assert_eq!(
                (answer.status, says(&answer).as_str()),
                (200, TEXT),
                "{path} {model}: {}",
                answer.text
            );
            assert!(head < Duration::from_millis(1500), "{path} {model}: the head came after {head:?}");
            assert!(answer.text.matches(": keep-alive\n\n").count() > 3, "{path} {model}: {}", answer.text);
            assert!(answer.text.starts_with(": keep-alive\n\n"), "{path} {model}: {}", answer.text);
            // Who answers is not known yet; what it was chosen by is.
            assert!(!answer.headers.contains_key("x-novastack-model"), "{:?}", answer.headers);
            assert_eq!(answer.headers["x-novastack-route"], model);
            assert_eq!(answer.headers["content-type"], "text/event-stream; charset=utf-8");
        }
    }
    // A whole answer has nothing to send before it.
    let whole = json!({ "id": "x", "model": "m", "choices": [{ "index": 0, "finish_reason": "stop",
                        "message": { "role": "assistant", "content": TEXT } }] });
    upstream.once("open", vec![Act::Wait(Duration::from_secs(1)), Act::Send(answer("200 OK", &whole))]);
    let whole = gateway.chat("open", false).await;
    assert_eq!((whole.says().as_str(), whole.headers["x-novastack-model"].as_str()), (TEXT, "open"));
}

/// A failure has its status where it comes in time, and is an event of the dialect behind a head that was sent.
#[tokio::test]
async fn a_failure_behind_the_head_is_an_error_event_of_the_callers_dialect() {
    let upstream = Upstream::start().await;
    let refused = answer("400 Bad Request", &json!({ "error": { "message": "no such thing" } }));
    upstream.always("open", vec![Act::Wait(Duration::from_secs(1)), Act::Send(refused.clone())]);
    upstream.always("anth", vec![Act::Send(refused)]);
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &["--keep-alive", "0.3"]);
    for path in PATHS {
        let told = ask(&gateway, path, "open").await;
        assert!(told.status == 200 && told.text.starts_with(": keep-alive\n\n"), "{path}: {}", told.text);
        let last = told.data().pop().expect("an event");
        let message = match path {
            "/v1/responses" => {
                let kinds: Vec<_> = told.data().iter().map(|data| data["type"].clone()).collect();
                assert_eq!(kinds, ["response.created", "response.in_progress", "response.failed"]);
                &last["response"]["error"]["message"]
            }
            "/v1/messages" => {
                assert!(told.text.contains("\n\nevent: error\ndata: "), "{}", told.text);
                assert_eq!(
                    (&last["type"], &last["error"]["type"]),
                    (&json!("error"), &json!("invalid_request_error"))
                );
                &last["error"]["message"]
            }
            _ => &last["error"]["message"],
        };
        assert!(message.as_str().is_some_and(|it| it.contains("no such thing")), "{path}: {last}");
        assert!(!told.text.contains("[DONE]"), "{path}: {}", told.text);
        assert_eq!(ask(&gateway, path, "anth").await.status, 400, "{path}");
    }
    gateway.server.log_line(&["failed", "WARN", "no such thing"]).await;
}

/// The next target takes over behind the head as before it, and a caller who leaves stops the search.
#[tokio::test]
async fn a_fallback_answers_behind_the_head() {
    let (slow, good) = (Upstream::start().await, Upstream::start().await);
    slow.always("open", vec![Act::Hang]);
    let config = fill(CONFIG, &slow, &slow).replace("/v1 }", "/v1, timeout_s: 1, max_concurrency: 1 }");
    let config = config.replacen("models: {", "models: { good: { provider: good },", 1);
    let config = config.replacen(
        "providers:",
        &format!("providers:\n  good: {{ format: openai, base_url: {}/v1 }}", good.url),
        1,
    );
    let gateway = start(&(config + "fallbacks: { open: [good] }\n"), &["--keep-alive", "0.3"]);
    for path in PATHS {
        let (head, answer) = timed(&gateway, path, "open").await;
        assert_eq!((answer.status, says(&answer).as_str()), (200, TEXT), "{path}: {}", answer.text);
        assert!(
            head < Duration::from_millis(900) && answer.text.starts_with(": keep-alive"),
            "{path}: {head:?}"
        );
    }
    // Its place is free at once, as nobody waits any more.
    let body = chat("open", true);
    let request = gateway.client.post(format!("{}/v1/chat/completions", gateway.server.url)).json(&body);
    drop(request.send().await.expect("a head"));
    let asked = slow.asked().len();
    let freed = Instant::now();
    while slow.asked().len() == asked {
        assert!(freed.elapsed() < Duration::from_secs(5), "its place is not free");
        let body = json!({ "model": "open", "messages": [{ "role": "user", "content": "Hi" }] });
        let request = gateway.client.post(format!("{}/v1/chat/completions", gateway.server.url)).json(&body);
        let _ = request.timeout(Duration::from_millis(200)).send().await;
    }
}
