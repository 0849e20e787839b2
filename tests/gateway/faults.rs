//! Everything that an upstream may do wrong: what the caller sees alone, and with a fallback.

use super::{Answer, Gateway, chat, fill, message, start};
use crate::support::upstream::{
    Act, TEXT, USAGE, Upstream, answer, anthropic_stream, anthropic_whole, openai_stream, openai_whole, raw,
    stream_head,
};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

const CONFIG: &str = r#"
providers:
  open: { format: openai, base_url: @OPENAI/v1, timeout_s: 2, max_concurrency: 100 }
  anth: { format: anthropic, base_url: @ANTHROPIC, timeout_s: 2, max_concurrency: 100 }
  open-one: { format: openai, base_url: @OPENAI/v1, timeout_s: 1, max_concurrency: 1 }
  anth-one: { format: anthropic, base_url: @ANTHROPIC, timeout_s: 1, max_concurrency: 1 }
  gone: { format: openai, base_url: "http://127.0.0.1:9" }
models:
  bad: { provider: open-one }
  bad-anth: { provider: anth-one }
  gone: { provider: gone }
  good: { provider: open }
  good-anth: { provider: anth }
named_routes:
  safe: [bad, good]
  safe-anth: [bad, good-anth]
  anth-safe: [bad-anth, good]
  gone-safe: [gone, good]
"#;

/// The formats of upstreams and of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    OpenAi,
    Anthropic,
}
use Format::{Anthropic, OpenAi};

impl Format {
    fn error(self, message: &str) -> Value {
        match self {
            OpenAi => json!({ "error": { "message": message, "type": "t", "code": "c" } }),
            Anthropic => json!({ "type": "error", "error": { "type": "t", "message": message } }),
        }
    }

    /// A good answer's body.
    fn good(self, stream: bool) -> String {
        let body = json!({ "model": "bad" });
        match (self, stream) {
            (OpenAi, false) => openai_whole(&body).to_string(),
            (OpenAi, true) => openai_stream(&body),
            (Anthropic, false) => anthropic_whole(&body).to_string(),
            (Anthropic, true) => anthropic_stream(&body),
        }
    }

    async fn ask(self, gateway: &Gateway, model: &str, stream: bool) -> Answer {
        match self {
            OpenAi => gateway.chat(model, stream).await,
            Anthropic => gateway.message(model, stream).await,
        }
    }
}

fn kind(stream: bool) -> &'static str {
    if stream { "content-type: text/event-stream\r\n" } else { "content-type: application/json\r\n" }
}

/// Bytes behind a head of a good answer with this length.
fn with_length(stream: bool, length: usize, body: &[u8]) -> Vec<Act> {
    let head =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{}content-length: {length}\r\n\r\n", kind(stream));
    vec![Act::Send([head.as_bytes(), body].concat())]
}

/// An answer whose connection is not used again, as the mock closes it.
fn last(status: &str, headers: &str, body: &str) -> Vec<u8> {
    raw(status, &format!("connection: close\r\n{headers}"), body)
}

/// What fails before the first piece: what an upstream does, the caller's status, and words of the message.
fn faults(format: Format, stream: bool) -> Vec<(&'static str, Vec<Act>, u16, &'static str)> {
    const HTML: &str = "<html><body>Welcome</body></html>";
    let status = |status: &str, message: &str| {
        vec![Act::Send(last(status, kind(false), &format.error(message).to_string()))]
    };
    let ok = |headers: &str, body: &str| vec![Act::Send(last("200 OK", headers, body))];
    let good = format.good(stream).into_bytes();
    let o_umlaut = good.windows(2).position(|two| two == "\u{f6}".as_bytes()).expect("it is there");
    // Of a stream, all before its first text.
    let begun =
        if stream { good.windows(6).position(|six| six == b"Hello,").unwrap() } else { good.len() / 2 };
    let stalls = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/html\r\ncontent-length: 99\r\n\r\n{HTML}"
    );
    let mut faults = vec![
        ("500", status("500 Oops", "it broke"), 502, "it broke"),
        ("503", status("503 Busy", "too busy"), 503, "too busy"),
        ("429 for ever", status("429 Slow", "slow down"), 429, "slow down"),
        ("401", status("401 No", "bad key"), 502, "refused this server's key"),
        ("404", status("404 No", "no such model"), 502, "no such model"),
        ("an error under a good status", status("200 OK", "it broke"), 502, "it broke"),
        (
            "an HTML error",
            vec![Act::Send(last("502 Bad", "content-type: text/html\r\n", "<html>nginx</html>"))],
            502,
            "502",
        ),
        ("HTML", ok("content-type: text/html; charset=utf-8\r\n", HTML), 502, "text/html"),
        ("HTML of no type", ok("", HTML), 502, "provider"),
        ("HTML of the right type", ok(kind(stream), HTML), 502, "provider"),
        ("HTML that stalls", vec![Act::Send(stalls.as_bytes().to_vec()), Act::Hang], 502, "text/html"),
        ("XML", ok("content-type: application/xml\r\n", "<a/>"), 502, "provider"),
        ("nothing", vec![], 502, "provider"),
        ("half a head", vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-".to_vec())], 502, "provider"),
        ("an empty object", ok("content-type: application/json\r\n", "{}"), 502, "provider"),
        ("an empty body", ok(kind(stream), ""), 502, "provider"),
        ("a Content-Length too long", with_length(stream, good.len(), &good[..begun]), 502, "provider"),
        ("a Content-Length too short", with_length(stream, begun, &good), 502, "provider"),
        ("silence", vec![Act::Hang], 504, "2 seconds"),
        (
            "silence in the body",
            [with_length(stream, good.len(), &good[..begun]), vec![Act::Hang]].concat(),
            504,
            "2 seconds",
        ),
    ];
    if stream {
        let event = format!("event: error\ndata: {}\n\n", format.error("it broke"));
        faults.push(("an error event", ok(kind(true), &event), 502, "it broke"));
    } else {
        let stream = format.good(true);
        faults.push(("a stream", ok(kind(true), &stream), 502, "text/event-stream"));
        faults.push((
            "half a character",
            with_length(false, o_umlaut + 1, &good[..o_umlaut + 1]),
            502,
            "not JSON",
        ));
    }
    faults
}

/// Before anything has been sent, a fault is an error in the caller's dialect, or unseen with a fallback:
/// streamed and not, for upstreams and callers of both formats.
#[tokio::test]
async fn before_the_first_byte() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    // Each with models of its own: a target that keeps failing is left alone.
    let (mut models, mut routes, mut cases) = (String::new(), String::new(), Vec::new());
    for (upstream, mock, provider) in [(OpenAi, &openai, "open"), (Anthropic, &anthropic, "anth")] {
        for (stream, caller) in [(false, OpenAi), (false, Anthropic), (true, OpenAi), (true, Anthropic)] {
            for (name, acts, status, words) in faults(upstream, stream) {
                let number = cases.len();
                for model in [format!("alone-{number}"), format!("led-{number}")] {
                    mock.always(&model, acts.clone());
                    writeln!(models, "  {model}: {{ provider: {provider} }}").unwrap();
                }
                let other = if number % 2 == 0 { "good" } else { "good-anth" };
                writeln!(routes, "  safe-{number}: [led-{number}, {other}]").unwrap();
                cases.push((format!("{name} of {upstream:?} to {caller:?}"), stream, caller, status, words));
            }
        }
    }
    let config = fill(CONFIG, &openai, &anthropic)
        .replace("models:\n", &format!("models:\n{models}"))
        .replace("named_routes:\n", &format!("named_routes:\n{routes}"));
    let gateway = start(&config, &[]);
    let check = async |number: usize| {
        let (name, stream, caller, status, words) = &cases[number];
        let told = caller.ask(&gateway, &format!("alone-{number}"), *stream).await;
        assert_eq!(told.status, *status, "{name}, {stream}: {}", told.text);
        let error = told.json();
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{name}: {}", told.text);
        assert_eq!(error["type"] == "error", *caller == Anthropic, "{name}: {}", told.text);
        let told = caller.ask(&gateway, &format!("safe-{number}"), *stream).await;
        assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{name}, {stream}: {}", told.text);
        assert!(told.headers["x-novastack-model"].starts_with("good"), "{name}");
    };
    // Those that wait for a timeout wait together.
    let mut numbers: Vec<usize> = (0..cases.len()).collect();
    numbers.sort_by_key(|number| cases[*number].3 == 504);
    for batch in numbers.chunks(16) {
        futures_util::future::join_all(batch.iter().map(|number| check(*number))).await;
    }
    let told = gateway.chat("gone-safe", true).await;
    assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{}", told.text);
}

/// A whole answer in a stream's place is told as the stream that it should have been.
#[tokio::test]
async fn a_whole_answer_becomes_a_stream() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    for (model, mock, upstream) in [("bad", &openai, OpenAi), ("bad-anth", &anthropic, Anthropic)] {
        mock.always(model, vec![Act::Send(last("200 OK", kind(false), &upstream.good(false)))]);
        let mut body = chat(model, true);
        body["stream_options"] = json!({ "include_usage": true });
        let told = gateway.post("/v1/chat/completions", &[], &body).await;
        assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{}", told.text);
        let data = told.data();
        assert!(data.iter().all(|chunk| chunk["model"] == model), "{}", told.text);
        assert_eq!(data.last().unwrap()["usage"]["completion_tokens"], USAGE.2, "{}", told.text);
        assert!(told.text.ends_with("data: [DONE]\n\n"), "{}", told.text);
        let told = gateway.message(model, true).await;
        assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{}", told.text);
        let data = told.data();
        assert_eq!(data[0]["message"]["model"], model, "{}", told.text);
        assert_eq!(data[data.len() - 2]["usage"]["output_tokens"], USAGE.2, "{}", told.text);
        assert_eq!(data[data.len() - 1]["type"], "message_stop", "{}", told.text);
    }
}

/// A call's arguments in one piece or in two hundred are the same call in both dialects.
#[tokio::test]
async fn a_tool_call_in_any_pieces() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let arguments = json!({ "text": "a\"\\\u{f6}\u{1f642}".repeat(60) }).to_string();
    for pieces in [1, 200] {
        let characters: Vec<char> = arguments.chars().collect();
        let cut: Vec<String> = characters
            .chunks(characters.len().div_ceil(pieces))
            .map(|piece| piece.iter().collect())
            .collect();
        let chunk = |delta: Value, reason: Value| {
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
            format!("data: {}\n\n", json!({ "id": "c", "model": "bad", "choices": [choice] }))
        };
        let call = |more: Value| chunk(json!({ "tool_calls": [more] }), Value::Null);
        let mut text = call(json!({ "index": 0, "id": "t1", "function": { "name": "f", "arguments": "" } }));
        for piece in &cut {
            text += &call(json!({ "index": 0, "function": { "arguments": piece } }));
        }
        text += &(chunk(json!({}), json!("tool_calls")) + "data: [DONE]\n\n");
        openai.always("bad", vec![Act::Send(last("200 OK", kind(true), &text))]);

        let event = |data: Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap());
        let tool = json!({ "type": "tool_use", "id": "t1", "name": "f", "input": {} });
        let mut text = event(json!({ "type": "message_start", "message": anthropic_whole(&json!({})) }))
            + &event(json!({ "type": "content_block_start", "index": 0, "content_block": tool }));
        for piece in &cut {
            let delta = json!({ "type": "input_json_delta", "partial_json": piece });
            text += &event(json!({ "type": "content_block_delta", "index": 0, "delta": delta }));
        }
        text += &event(json!({ "type": "content_block_stop", "index": 0 }));
        text += &event(json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" } }));
        text += &event(json!({ "type": "message_stop" }));
        anthropic.always("bad-anth", vec![Act::Send(last("200 OK", kind(true), &text))]);

        for model in ["bad", "bad-anth"] {
            let told = gateway.chat(model, true).await;
            let data = told.data();
            let call = |data: &Value| data["choices"][0]["delta"]["tool_calls"][0].clone();
            let all: String = data
                .iter()
                .filter_map(|data| Some(call(data)["function"]["arguments"].as_str()?.to_owned()))
                .collect();
            assert_eq!(all, arguments, "{model}, {pieces}: {}", told.text);
            assert!(data.iter().any(|data| call(data)["id"] == "t1"), "{}", told.text);
            assert!(
                data.iter().any(|data| data["choices"][0]["finish_reason"] == "tool_calls"),
                "{}",
                told.text
            );
            let told = gateway.message(model, true).await;
            let data = told.data();
            let all: String = data.iter().filter_map(|data| data["delta"]["partial_json"].as_str()).collect();
            assert_eq!(all, arguments, "{model}, {pieces}: {}", told.text);
            assert!(data.iter().any(|data| data["content_block"]["id"] == "t1"), "{}", told.text);
            assert!(data.iter().any(|data| data["delta"]["stop_reason"] == "tool_use"), "{}", told.text);
        }
    }
}

/// Thinking that another model signed is left out when the upstream refuses it, and only then.
#[tokio::test]
async fn foreign_thinking_is_left_out() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let mut body = message("bad-anth", false);
    let thought = json!({ "type": "thinking", "thinking": "hm", "signature": "foreign" });
    body["messages"] = json!([
        { "role": "user", "content": "a" },
        { "role": "assistant", "content": [thought, { "type": "text", "text": "b" }] },
        { "role": "user", "content": "c" },
    ]);
    let refused = "messages.1.content.0: Invalid `signature` in `thinking` block";
    for (refusals, status, asked) in [(0, 200, 1), (1, 200, 2), (2, 400, 2)] {
        let before = anthropic.asked().len();
        for _ in 0..refusals {
            let refused = last("400 No", kind(false), &Anthropic.error(refused).to_string());
            anthropic.once("bad-anth", vec![Act::Send(refused)]);
        }
        let told = gateway.post("/v1/messages", &[], &body).await;
        assert_eq!(told.status, status, "{}", told.text);
        let bodies = anthropic.asked()[before..].to_vec();
        assert_eq!(bodies.len(), asked);
        assert_eq!(bodies[0].body["messages"], body["messages"]);
        if let Some(again) = bodies.get(1) {
            let answered = json!([{ "type": "text", "text": "b" }]);
            assert_eq!(again.body["messages"][1]["content"], answered);
        }
    }
}

/// The request's own fault goes nowhere else.
#[tokio::test]
async fn a_wrong_request_is_reported() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    openai.always(
        "bad",
        vec![Act::Send(answer(
            "400 No",
            &json!({ "error": { "message": "`top_p` is wrong", "param": "top_p" } }),
        ))],
    );
    let told = gateway.chat("safe", false).await;
    assert_eq!((told.status, &told.json()["error"]["param"]), (400, &json!("top_p")), "{}", told.text);
    assert_eq!(openai.asked().len(), 1);
    let told = gateway.message("safe", true).await;
    assert_eq!(
        (told.status, &told.json()["error"]["type"]),
        (400, &json!("invalid_request_error")),
        "{}",
        told.text
    );
}

/// A fault that passes is not seen: the same target is asked again, after as long as it says.
#[tokio::test]
async fn what_passes_is_tried_again() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let busy = raw(
        "429 Slow",
        "content-type: application/json\r\nretry-after: 1\r\n",
        "{\"error\":{\"message\":\"slow\"}}",
    );
    openai.once("bad", vec![Act::Send(busy)]);
    openai.once("bad", vec![]);
    let begun = std::time::Instant::now();
    let told = gateway.chat("bad", false).await;
    assert_eq!((told.status, told.headers["x-novastack-attempts"].as_str()), (200, "3"), "{}", told.text);
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After is kept");
    // Longer than anyone would wait.
    openai.once("bad", vec![Act::Send(raw("429 Slow", "retry-after: 60\r\n", "{}"))]);
    let told = gateway.chat("bad", false).await;
    assert_eq!((told.status, told.headers["retry-after"].as_str()), (429, "60"), "{}", told.text);
}

/// After the first byte a fault ends the stream with an error event of the caller's dialect, and its place is
/// free for the next.
#[tokio::test]
async fn after_the_first_byte() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    for (upstream, mock, model, route) in
        [(OpenAi, &openai, "bad", "safe"), (Anthropic, &anthropic, "bad-anth", "anth-safe")]
    {
        let whole = upstream.good(true).into_bytes();
        let at = |start: usize, wanted: &[u8]| {
            start
                + whole[start..].windows(wanted.len()).position(|bytes| bytes == wanted).expect("it is there")
        };
        // After the first frame with text.
        let cut = at(at(0, b"Hello, "), b"\n\n") + 2;
        let o_umlaut = at(0, "\u{f6}".as_bytes());
        let begun = |rest: Vec<Act>| {
            [vec![Act::Send(stream_head()), Act::Send(whole[..cut].to_vec())], rest].concat()
        };
        let send = |text: String| begun(vec![Act::Send(text.into_bytes())]);
        let faults = [
            ("closes", begun(vec![])),
            (
                "closes before its end",
                vec![Act::Send(stream_head()), Act::Send(whole[..whole.len() - 90].to_vec())],
            ),
            ("stalls", begun(vec![Act::Hang])),
            ("half a character", vec![Act::Send(stream_head()), Act::Send(whole[..o_umlaut + 1].to_vec())]),
            ("garbage", send("data: {oh\n\n".into())),
            ("HTML", send("data: <html>\n\n<html><body>502</body></html>".into())),
            ("an error event", send(format!("event: error\ndata: {}\n\n", upstream.error("it broke")))),
            ("an error without a name", send(format!("data: {}\n\n", upstream.error("it broke")))),
            ("a Content-Length too long", with_length(true, whole.len() + 9, &whole[..cut])),
            ("a Content-Length too short", with_length(true, cut, &whole)),
        ];
        for (name, acts) in faults {
            for caller in [OpenAi, Anthropic] {
                mock.once(model, acts.clone());
                let told = caller.ask(&gateway, route, true).await;
                let last = told.data().pop().unwrap_or_default();
                let name = format!("{name} of {upstream:?} to {caller:?}");
                assert_eq!((told.status, told.headers["x-novastack-model"].as_str()), (200, model), "{name}");
                let words = last["error"]["message"].as_str().unwrap_or_default();
                assert!(words.contains("provider"), "{name}: {}", told.text);
                assert!(
                    told.says().starts_with("Hello, ") && TEXT.starts_with(&told.says()),
                    "{name}: {}",
                    told.text
                );
                let ended = told.text.contains("data: [DONE]") || told.text.contains("event: message_stop");
                assert!(!ended, "{name}: {}", told.text);
                assert_eq!(
                    told.text.contains("event: error\n"),
                    caller == Anthropic,
                    "{name}: {}",
                    told.text
                );
                // Its place, the only one, is free again.
                let told = caller.ask(&gateway, model, true).await;
                assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{name}: {}", told.text);
            }
        }
    }
}

/// However a good stream is cut into packets, it is the same stream.
#[tokio::test]
async fn slow_streams_are_whole() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    for step in [1, 7, 100] {
        let whole = openai_stream(&json!({ "model": "bad" })).into_bytes();
        let pieces = whole
            .chunks(step)
            .flat_map(|piece| [Act::Send(piece.to_vec()), Act::Wait(Duration::from_micros(200))]);
        let acts: Vec<Act> = std::iter::once(Act::Send(stream_head())).chain(pieces).collect();
        openai.always("bad", acts);
        assert_eq!(gateway.chat("bad", true).await.says(), TEXT);
        let told = gateway.message("bad", true).await;
        assert!(told.says() == TEXT && told.text.contains("message_stop"), "{}", told.text);
    }
}

/// Requests that had not begun to stream survive the death of their upstream.
#[tokio::test]
async fn a_killed_upstream_loses_nothing() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    openai.always("bad", vec![Act::Wait(Duration::from_millis(300)), Act::Hang]);
    let requests = (0..20).map(|index| {
        let (gateway, stream) = (&gateway, index % 2 == 0);
        async move {
            match index % 4 {
                0 | 1 => gateway.post("/v1/chat/completions", &[], &chat("safe-anth", stream)).await,
                _ => gateway.post("/v1/messages", &[], &message("safe-anth", stream)).await,
            }
        }
    });
    let kill = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        openai.kill();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(requests), kill);
    for told in answers {
        assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{}", told.text);
        assert_eq!(told.headers["x-novastack-model"], "good-anth");
    }
}

/// A target that keeps failing is left alone for a while.
#[tokio::test]
async fn a_failing_target_rests() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    openai.always("bad", vec![Act::Send(answer("500 Oops", &json!({})))]);
    for _ in 0..10 {
        assert_eq!(gateway.chat("safe", false).await.status, 200);
    }
    let asked = openai.asked().iter().filter(|asked| asked.body["model"] == "bad").count();
    assert!(asked <= 6, "{asked} attempts");
    let told = gateway.chat("bad", false).await;
    assert_eq!((told.status, &told.json()["error"]["code"]), (503, &json!("model_resting")), "{}", told.text);
}

/// Of an upstream of Responses, whose streams have the most kinds of events.
#[tokio::test]
async fn a_whole_response_in_a_streams_place_is_told_as_a_stream() {
    let upstream = Upstream::start().await;
    let config = "
providers: { up: { format: responses, base_url: @OPENAI/v1 } }
models: { m: { provider: up } }
";
    let gateway = start(&fill(config, &upstream, &upstream), &[]);
    let text = json!({ "type": "output_text", "text": TEXT, "annotations": [] });
    let response = json!({
        "id": "resp_mock", "object": "response", "created_at": 1_700_000_000, "model": "m", "status": "completed",
        "output": [
            { "type": "reasoning", "id": "rs_1", "summary": [{ "type": "summary_text", "text": "Hm." }] },
            { "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text] },
            { "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{\"a\":1}",
              "status": "completed" },
        ],
        "usage": { "input_tokens": USAGE.0, "input_tokens_details": { "cached_tokens": USAGE.1 },
                   "output_tokens": USAGE.2, "output_tokens_details": { "reasoning_tokens": 1 },
                   "total_tokens": USAGE.0 + USAGE.2 },
    });
    upstream.always("m", vec![Act::Send(answer("200 OK", &response))]);
    let tools =
        json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }]);
    let mut body = chat("m", true);
    body["tools"] = tools;
    body["stream_options"] = json!({ "include_usage": true });
    let told = gateway.post("/v1/chat/completions", &[], &body).await;
    assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{}", told.text);
    assert!(told.text.ends_with("data: [DONE]\n\n"), "{}", told.text);
    let joined = |pointer: &str| {
        let pieces = told.data().into_iter();
        pieces.filter_map(|data| data.pointer(pointer)?.as_str().map(str::to_owned)).collect::<String>()
    };
    assert_eq!(joined("/choices/0/delta/reasoning_content"), "Hm.");
    assert_eq!(joined("/choices/0/delta/tool_calls/0/function/arguments"), "{\"a\":1}");
    assert_eq!(joined("/choices/0/finish_reason"), "tool_calls");
    assert_eq!(told.data().last().expect("a chunk")["usage"]["completion_tokens"], USAGE.2);

    let told = gateway.message("m", true).await;
    assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{}", told.text);
    let delta = &told.data()[told.data().len() - 2];
    assert_eq!(delta["delta"]["stop_reason"], "tool_use", "{}", told.text);
    assert_eq!(delta["usage"]["output_tokens"], USAGE.2);

    let body = json!({ "model": "m", "stream": true, "input": "Hi" });
    let told = gateway.post("/v1/responses", &[], &body).await;
    let last = told.data().pop().expect("an event");
    assert_eq!((&last["type"], &last["response"]["model"]), (&json!("response.completed"), &json!("m")));
    let kinds: Vec<_> =
        last["response"]["output"].as_array().expect("items").iter().map(|it| it["type"].clone()).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call"], "{}", told.text);
}
