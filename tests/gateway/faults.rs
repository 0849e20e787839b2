//! Everything that an upstream may do wrong: what the caller sees alone, and with a fallback.

use super::{chat, fill, message, start};
use crate::support::upstream::{
    Act, TEXT, Upstream, answer, anthropic_stream, openai_stream, openai_whole, raw, stream_head,
};
use serde_json::json;
use std::time::Duration;

const CONFIG: &str = r#"
providers:
  open: { format: openai, base_url: @OPENAI/v1, timeout_s: 1, max_concurrency: 100 }
  anth: { format: anthropic, base_url: @ANTHROPIC, timeout_s: 1 }
  gone: { format: openai, base_url: "http://127.0.0.1:9" }
models:
  bad: { provider: open }
  bad-anth: { provider: anth }
  gone: { provider: gone }
  good: { provider: open }
  good-anth: { provider: anth }
named_routes:
  safe: [bad, good]
  safe-anth: [bad, good-anth]
  anth-safe: [bad-anth, good]
  gone-safe: [gone, good]
"#;

/// Before anything has been sent, a fault is an error in the caller's dialect, or unseen with a fallback.
#[tokio::test]
async fn before_the_first_byte() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let error = |message: &str| json!({ "error": { "message": message, "type": "t", "code": "c" } });
    let html = raw("200 OK", "content-type: text/html\r\n", "<html><body>Welcome</body></html>");
    let whole = answer("200 OK", &openai_whole(&json!({ "model": "bad" })));
    let faults: Vec<(&str, Vec<Act>, u16, &str)> = vec![
        ("500", vec![Act::Send(answer("500 Oops", &error("it broke")))], 502, "it broke"),
        ("503", vec![Act::Send(answer("503 Busy", &error("too busy")))], 503, "too busy"),
        ("429 for ever", vec![Act::Send(answer("429 Slow", &error("slow down")))], 429, "slow down"),
        ("401", vec![Act::Send(answer("401 No", &error("bad key")))], 502, "bad key"),
        ("404", vec![Act::Send(answer("404 No", &error("no such model")))], 502, "no such model"),
        (
            "an HTML error",
            vec![Act::Send(raw("502 Bad", "content-type: text/html\r\n", "<html>nginx</html>"))],
            502,
            "502",
        ),
        ("HTML", vec![Act::Send(html)], 502, "provider open"),
        ("nothing", vec![], 502, "provider open"),
        ("half a head", vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-".to_vec())], 502, "provider open"),
        ("silence", vec![Act::Hang], 504, "1 second"),
        ("a truncated body", vec![Act::Send(whole[..whole.len() - 20].to_vec())], 502, "provider open"),
        (
            "silence in the body",
            vec![Act::Send(whole[..whole.len() - 20].to_vec()), Act::Hang],
            504,
            "1 second",
        ),
        ("an empty answer", vec![Act::Send(answer("200 OK", &json!({})))], 502, "provider open"),
    ];
    // Each with models of its own: a target that keeps failing is left alone.
    let mut config = fill(CONFIG, &openai, &anthropic);
    for index in 0..faults.len() {
        let model = |name: &str| format!("  {name}-{index}: {{ provider: open, upstream_name: {name} }}\n");
        config = config
            .replace("models:\n", &format!("models:\n{}{}{}", model("alone"), model("told"), model("led")));
        let routes = format!(
            "named_routes:\n  safe-{index}: [led-{index}, good]\n  safe-anth-{index}: [led-{index}, good-anth]\n"
        );
        config = config.replace("named_routes:\n", &routes);
    }
    let gateway = start(&config, &[]);
    for (index, (name, acts, status, words)) in faults.into_iter().enumerate() {
        ["alone", "told", "led"].iter().for_each(|model| openai.always(model, acts.clone()));
        let told = gateway.chat(&format!("alone-{index}"), index % 2 == 1).await;
        assert_eq!(told.status, status, "{name}: {}", told.text);
        assert!(told.json()["error"]["message"].as_str().unwrap().contains(words), "{name}: {}", told.text);
        let told = gateway.message(&format!("told-{index}"), index % 2 == 0).await;
        assert_eq!((told.status, &told.json()["type"]), (status, &json!("error")), "{name}: {}", told.text);
        for route in ["safe", "safe-anth"] {
            let told = gateway.chat(&format!("{route}-{index}"), index % 2 == 0).await;
            assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{name}: {}", told.text);
            assert!(told.headers["x-novastack-model"].starts_with("good"), "{name}");
        }
    }
    let told = gateway.chat("gone-safe", true).await;
    assert_eq!((told.status, told.says().as_str()), (200, TEXT), "{}", told.text);
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

/// After the first byte a fault ends the stream with an error event of the caller's dialect.
#[tokio::test]
async fn after_the_first_byte() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let whole = openai_stream(&json!({ "model": "bad" })).into_bytes();
    let at = |start: usize, wanted: &[u8]| {
        start + whole[start..].windows(wanted.len()).position(|bytes| bytes == wanted).expect("it is there")
    };
    // After the first frame with text.
    let cut = at(at(0, b"Hello, "), b"\n\n") + 2;
    let o_umlaut = at(0, "\u{f6}".as_bytes());
    let begun =
        |rest: Vec<Act>| [vec![Act::Send(stream_head()), Act::Send(whole[..cut].to_vec())], rest].concat();
    let error = b"data: {\"error\":{\"message\":\"it broke\",\"code\":500}}\n\n".to_vec();
    let faults = [
        ("closes", begun(vec![])),
        ("stalls", begun(vec![Act::Hang])),
        ("half a character", vec![Act::Send(stream_head()), Act::Send(whole[..o_umlaut + 1].to_vec())]),
        ("garbage", begun(vec![Act::Send(b"data: {oh\n\n".to_vec())])),
        ("an error event", begun(vec![Act::Send(error)])),
    ];
    for (name, acts) in faults {
        openai.once("bad", acts.clone());
        let told = gateway.chat("safe", true).await;
        let last = told.data().pop().unwrap_or_default();
        assert_eq!(told.status, 200, "{name}");
        assert!(
            last["error"]["message"].as_str().is_some_and(|text| text.contains("provider open")),
            "{name}: {}",
            told.text
        );
        assert!(
            !told.text.ends_with("[DONE]\n\n") && TEXT.starts_with(&told.says()),
            "{name}: {}",
            told.text
        );
        openai.once("bad", acts);
        let told = gateway.message("safe", true).await;
        let last = told.data().pop().unwrap_or_default();
        assert_eq!((&last["type"], told.status), (&json!("error"), 200), "{name}: {}", told.text);
        assert!(
            told.text.contains("event: error\n") && !told.text.contains("message_stop"),
            "{name}: {}",
            told.text
        );
    }
    let whole = anthropic_stream(&json!({ "model": "bad-anth" })).into_bytes();
    anthropic.once("bad-anth", vec![Act::Send(stream_head()), Act::Send(whole[..whole.len() - 60].to_vec())]);
    let told = gateway.chat("anth-safe", true).await;
    assert!(told.data().pop().unwrap()["error"].is_object(), "{}", told.text);
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
