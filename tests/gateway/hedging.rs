//! `hedge_after_s`: a slow target's next one is asked beside it, and who begins first answers.

use super::{fill, start};
use crate::support::upstream::{Act, TEXT, Upstream, answer, openai_stream, openai_whole, raw, stream_head};
use serde_json::json;
use std::time::{Duration, Instant};

const CONFIG: &str = r#"
server: { store: "sqlite:usage.db", admin_key_env: TEST_ADMIN_KEY }
providers:
  openai: { format: openai, base_url: @OPENAI/v1 }
  anthropic: { format: anthropic, base_url: @ANTHROPIC }
models:
  slow: { provider: openai, hedge_after_s: 0.3, price: { input: 1, output: 1 } }
  second: { provider: anthropic, price: { input: 1, output: 1 } }
  alone: { provider: openai, hedge_after_s: 0.1 }
  ours: { source: @LOCAL }
  to-ours: { provider: openai, upstream_name: slow, hedge_after_s: 0.3 }
fallbacks: { slow: [second], to-ours: [ours] }
"#;

/// Longer than any answer here takes that is not held back.
const LONG: Duration = Duration::from_secs(60);

fn good(stream: bool) -> Vec<u8> {
    let asked = json!({ "model": "slow" });
    match stream {
        true => [stream_head(), openai_stream(&asked).into_bytes()].concat(),
        false => answer("200 OK", &openai_whole(&asked)),
    }
}

#[tokio::test]
async fn who_begins_first_answers() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(CONFIG, &openai, &anthropic), &[]);
    let ask = async |model: &str, stream: bool| {
        let begun = Instant::now();
        let told = gateway.post("/v1/chat/completions", &[], &super::chat(model, stream)).await;
        let by = told.headers.get("x-novastack-model").cloned().unwrap_or_default();
        let attempts = told.headers.get("x-novastack-attempts").cloned().unwrap_or_default();
        (told, by, attempts, begun.elapsed())
    };
    for stream in [false, true] {
        // In time: nobody else is asked.
        let before = anthropic.asked().len();
        let (told, by, attempts, _) = ask("slow", stream).await;
        assert_eq!((told.says().as_str(), by.as_str(), attempts.as_str()), (TEXT, "slow", "1"));
        assert_eq!(anthropic.asked().len(), before);

        // Overtaken.
        openai.once("slow", vec![Act::Wait(LONG)]);
        let (told, by, attempts, took) = ask("slow", stream).await;
        assert_eq!((told.says().as_str(), by.as_str(), attempts.as_str()), (TEXT, "second", "2"));
        assert!((Duration::from_millis(300)..LONG / 2).contains(&took), "{took:?}");

        // A head alone, and events that say nothing, are no beginning of a stream.
        if stream {
            openai.once("slow", vec![Act::Send(stream_head()), Act::Wait(LONG)]);
            assert_eq!(ask("slow", true).await.1, "second");
        }

        // The second one fails: the slow one is waited for.
        openai.once("slow", vec![Act::Wait(Duration::from_millis(900)), Act::Send(good(stream))]);
        let refusal = json!({ "type": "error", "error": { "type": "not_found_error", "message": "no" } });
        anthropic.once("second", vec![Act::Send(answer("404 Not Found", &refusal))]);
        let (told, by, attempts, _) = ask("slow", stream).await;
        assert_eq!((told.says().as_str(), by.as_str(), attempts.as_str()), (TEXT, "slow", "2"));

        // Both fail: the caller hears it at once. Neither is asked again, as neither fault passes.
        let denied =
            raw("401 No", "content-type: application/json\r\n", "{\"error\":{\"message\":\"denied\"}}");
        openai.once("slow", vec![Act::Wait(Duration::from_millis(900)), Act::Send(denied)]);
        anthropic.once("second", vec![Act::Send(answer("404 Not Found", &refusal))]);
        let (told, _, _, took) = ask("slow", stream).await;
        assert_eq!(told.status, 502, "{}", told.text);
        assert!(
            told.text.contains("refused this server's key") && took < LONG / 2,
            "{took:?}: {}",
            told.text
        );

        // What the second one finds wrong, the slow one may take; what the slow one does is wrong.
        let wrong =
            json!({ "type": "error", "error": { "type": "invalid_request_error", "message": "wrong" } });
        let wrong = || answer("400 Bad Request", &wrong);
        openai.once("slow", vec![Act::Wait(Duration::from_millis(900)), Act::Send(good(stream))]);
        anthropic.once("second", vec![Act::Send(wrong())]);
        assert_eq!(ask("slow", stream).await.1, "slow");
        openai.once("slow", vec![Act::Wait(Duration::from_millis(900)), Act::Send(wrong())]);
        anthropic.once("second", vec![Act::Wait(LONG)]);
        assert_eq!(ask("slow", stream).await.0.status, 400);

        // There is nobody else.
        openai.once("alone", vec![Act::Wait(Duration::from_millis(400)), Act::Send(good(stream))]);
        let (told, by, attempts, _) = ask("alone", stream).await;
        assert_eq!((told.says().as_str(), by.as_str(), attempts.as_str()), (TEXT, "alone", "1"));

        // One of our engines begins with its first token.
        openai.once("slow", vec![Act::Wait(LONG)]);
        let (told, by, ..) = ask("to-ours", stream).await;
        assert_eq!((told.status, by.as_str()), (200, "ours"), "{}", told.text);
    }

    // Who was overtaken has used its prompt, and no more.
    let metrics = gateway.server.get("/metrics").await.1;
    let hedges = |overtaken: bool| {
        let name = format!("novastack_hedges_total{{model=\"slow\",overtaken=\"{overtaken}\"}} ");
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("{metrics}"));
        line.parse::<u32>().expect("a number")
    };
    assert_eq!((hedges(true), hedges(false)), (3, 4));
    let folder = gateway.stop();
    let store = rusqlite::Connection::open(folder.path().join("usage.db")).expect("the store");
    let mut rows = store
        .prepare(
            "SELECT model, outcome, output_tokens, input_tokens > 0 FROM usage WHERE outcome = 'cancelled'",
        )
        .expect("a query");
    let rows: Vec<(String, String, i64, bool)> = rows
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .expect("rows")
        .map(|row| row.expect("a row"))
        .collect();
    let of = |model: &str| rows.iter().filter(|row| row.0 == model).count();
    // Two of the second ones were given up with a wrong request.
    assert_eq!((of("slow"), of("to-ours"), of("second")), (3, 2, 2), "{rows:?}");
    assert!(rows.iter().all(|row| row.2 == 0 && row.3), "{rows:?}");
}
