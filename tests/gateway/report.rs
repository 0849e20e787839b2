//! Two arms of a split: told in answers, scored by callers, compared in the report.

use super::usage::{STORE, in_postgres};
use super::{Answer, Gateway, chat, fill, start};
use crate::store::place::Place;
use crate::support::upstream::{Act, USAGE, Upstream, answer};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const SPLITS: &str = r#"
providers:
  one: { format: openai, base_url: @OPENAI/v1 }
  two: { format: anthropic, base_url: @ANTHROPIC }
models:
  a: { provider: one, price: { input: 1.0, output: 10.0 } }
  b: { provider: two, price: { input: 5.0, output: 25.0 } }
named_routes:
  ab: { split: { a: 50, b: 50 } }
  nested: { split: { ab: 50, b: 50 } }
  spare: [a, ab]
  first: [ab, a]
routes:
- match: images
  split: { b: 1 }
- default: a
"#;

#[tokio::test]
async fn arms_are_compared() {
    compare(STORE).await;
}

#[tokio::test]
async fn arms_are_compared_in_postgres() {
    if let Some(place) = Place::postgres() {
        compare(&in_postgres(&place)).await;
    }
}

/// What the test saw of an arm.
#[derive(Default)]
struct Seen {
    completed: Vec<String>,
    failed: u64,
    failed_attempts: u64,
    thumbs: Vec<f64>,
}

struct Caller {
    key: String,
    arm: String,
}

impl Gateway {
    async fn ask(&self, key: &str, model: &str, stream: bool) -> Answer {
        let bearer = format!("Bearer {key}");
        self.post("/v1/chat/completions", &[("authorization", &bearer)], &chat(model, stream)).await
    }

    async fn score(&self, path: &str, key: &str, id: &str, value: f64) -> Answer {
        let body = json!({ "request_id": id, "name": "thumbs", "value": value });
        self.post(path, &[("authorization", &format!("Bearer {key}"))], &body).await
    }
}

async fn compare(store: &str) {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&(store.to_owned() + &fill(SPLITS, &openai, &anthropic)), &[]);
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    // Keys until each arm has two callers.
    let mut callers: Vec<Caller> = Vec::new();
    let count = |callers: &[Caller], arm: &str| callers.iter().filter(|caller| caller.arm == arm).count();
    while count(&callers, "a") < 2 || count(&callers, "b") < 2 {
        assert!(callers.len() < 60, "one arm has all callers");
        let name = json!({ "name": format!("caller-{}", callers.len()) });
        let made = gateway.admin(Method::POST, "/admin/keys", Some(name)).await;
        let key = made["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        let told = gateway.ask(&key, "ab", false).await;
        let arm = told.headers["x-novastack-arm"].clone();
        assert_eq!((told.status, &told.headers["x-novastack-model"]), (200, &arm), "{}", told.text);
        seen.entry(arm.clone()).or_default().completed.push(told.headers["x-request-id"].clone());
        callers.push(Caller { key, arm });
    }
    let failure = || vec![Act::Send(answer("500 Oops", &json!({})))];
    for round in 0..3 {
        for (at, caller) in callers.iter().enumerate() {
            // One arm fails sometimes: once, and is asked again; or until nobody asks any more, one caller in
            // the last round: after five failures in a row it would rest.
            let failures = match (caller.arm.as_str(), round) {
                ("a", 0) => 1,
                ("a", 2) if seen["a"].failed == 0 => 3,
                _ => 0,
            };
            (0..failures).for_each(|_| openai.once("a", failure()));
            let seen = seen.get_mut(&caller.arm).expect("an arm");
            seen.failed_attempts += failures;
            let told = gateway.ask(&caller.key, "ab", (round + at) % 2 == 0).await;
            let id = &told.headers["x-request-id"];
            if failures == 3 {
                assert_eq!(told.status, 502, "{}", told.text);
                seen.failed += 1;
                // One that failed has an opinion too.
                assert_eq!(gateway.score("/v1/scores", &caller.key, id, 0.0).await.status, 200);
                seen.thumbs.push(0.0);
                continue;
            }
            assert_eq!((told.status, &told.headers["x-novastack-arm"]), (200, &caller.arm), "{}", told.text);
            seen.completed.push(id.clone());
            // Sooner than its record is written.
            let value = (at + round) as f64 / 4.0;
            let path = ["/v1/scores", "/router/v1/scores", "/anthropic/v1/scores"][at % 3];
            let kept = gateway.score(path, &caller.key, id, value + 1.0).await;
            assert_eq!((kept.status, &kept.json()["value"]), (200, &json!(value + 1.0)), "{}", kept.text);
            assert_eq!(gateway.score(path, &caller.key, id, value).await.status, 200);
            seen.thumbs.push(value);
        }
    }
    refused(&gateway, &callers, &seen["a"].completed[0]).await;

    gateway.usage("outcome").await;
    let exported = format!("{}/admin/usage/export?route=ab", gateway.server.url);
    let exported = crate::support::client().get(exported).bearer_auth("the-key-of-the-admin").send().await;
    let exported = exported.expect("an answer").text().await.expect("a body");
    let records: Vec<Value> = exported.lines().map(|it| serde_json::from_str(it).expect("JSON")).collect();
    let report = gateway.admin(Method::GET, "/admin/report?route=ab", None).await;
    let rows = report["rows"].as_array().unwrap_or_else(|| panic!("{report}"));
    assert_eq!((rows.len(), &rows[0]["arm"], &rows[1]["arm"]), (2, &json!("a"), &json!("b")), "{report}");
    for (row, (upstream, dollars)) in rows.iter().zip([(&openai, 61e-6), (&anthropic, 180e-6)]) {
        let seen = &seen[row["arm"].as_str().expect("a name")];
        let close = |field: &str, expected: f64| {
            let found = row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row}"));
            assert!((found - expected).abs() < 1e-9 * expected.max(1.0), "{field}: {found} for {expected}");
        };
        let completed = seen.completed.len() as u64;
        let requests = completed + seen.failed;
        for (field, expected) in [
            ("requests", requests),
            ("attempts", upstream.asked().len() as u64),
            ("completed", completed),
            ("cancelled", 0),
            ("failed", seen.failed),
            ("failed_attempts", seen.failed_attempts),
            ("input_tokens", USAGE.0 * completed),
            ("cached_tokens", USAGE.1 * completed),
            ("output_tokens", USAGE.2 * completed),
        ] {
            assert_eq!(row[field], expected, "{field} in {row}");
        }
        close("error_rate", seen.failed as f64 / requests as f64);
        close("cost", dollars * completed as f64);
        close("cost_mean", dollars * completed as f64 / requests as f64);
        times(row, &records, &seen.completed, &close);
        let count = seen.thumbs.len() as f64;
        let mean = seen.thumbs.iter().sum::<f64>() / count;
        let squares: f64 = seen.thumbs.iter().map(|value| (value - mean).powi(2)).sum();
        let thumbs = &row["scores"]["thumbs"];
        assert_eq!(thumbs["count"], seen.thumbs.len() as u64, "{row}");
        for (field, expected) in
            [("mean", mean), ("standard_error", (squares / (count - 1.0) / count).sqrt())]
        {
            let found = thumbs[field].as_f64().expect("a number");
            assert!((found - expected).abs() < 1e-9, "{field}: {found} for {expected}");
        }
    }
    // Without a route: all that have arms.
    let all = gateway.admin(Method::GET, "/admin/report", None).await;
    assert_eq!(rounded(&all["rows"]), rounded(&report["rows"]));
    let none = gateway.admin(Method::GET, "/admin/report?to=2020-01-01", None).await;
    assert_eq!(none["rows"], json!([]));
}

/// Without the last digits of numbers: a database adds up in any order.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(number) => format!("{:.9}", number.as_f64().expect("a number")).into(),
        Value::Array(items) => items.iter().map(rounded).collect(),
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), rounded(value))).collect(),
        other => other.clone(),
    }
}

/// By hand, from the records: of whole requests, first attempt to last.
fn times(row: &Value, records: &[Value], completed: &[String], close: &impl Fn(&str, f64)) {
    let arm: Vec<&Value> = records.iter().filter(|it| it["arm"] == row["arm"]).collect();
    let ids: BTreeSet<&str> = arm.iter().map(|it| it["request_id"].as_str().expect("an id")).collect();
    let ms = |it: &Value| {
        let time = humantime::parse_rfc3339(it["time"].as_str().expect("a time")).expect("a time");
        time.duration_since(std::time::UNIX_EPOCH).expect("since 1970").as_millis() as u64
    };
    let (mut latencies, mut ttfts) = (Vec::new(), Vec::new());
    for id in ids {
        let own = || arm.iter().filter(|it| it["request_id"] == id);
        let begun = own().map(|it| ms(it)).min().expect("one");
        if completed.iter().any(|it| it == id) {
            let end = own().map(|it| ms(it) + it["latency_ms"].as_u64().expect("a number")).max();
            latencies.push(end.expect("one") - begun);
        }
        let first = own().filter_map(|it| Some(ms(it) + it["ttft_ms"].as_u64()?)).min();
        ttfts.extend(first.map(|first| first - begun));
    }
    for (name, mut values) in [("latency_ms", latencies), ("ttft_ms", ttfts)] {
        values.sort_unstable();
        close(&format!("{name}_mean"), values.iter().sum::<u64>() as f64 / values.len() as f64);
        for percent in [50, 95] {
            let value = values[(values.len() * percent).div_ceil(100) - 1];
            assert_eq!(row[format!("{name}_p{percent}")], value, "{name} p{percent} of {values:?}");
        }
    }
}

async fn refused(gateway: &Gateway, callers: &[Caller], of_first: &str) {
    // The first caller of arm `a` made it.
    let made = callers.iter().position(|caller| caller.arm == "a").expect("one");
    let other = callers.iter().enumerate().find(|(at, _)| *at != made).expect("two").1;
    let told = gateway.score("/v1/scores", &other.key, of_first, 1.0).await;
    assert_eq!(
        (told.status, &told.json()["error"]["code"]),
        (404, &json!("request_not_found")),
        "{}",
        told.text
    );
    let told = gateway.score("/anthropic/v1/scores", &other.key, of_first, 1.0).await;
    assert_eq!(
        (told.status, &told.json()["type"], &told.json()["error"]["type"]),
        (404, &json!("error"), &json!("not_found_error")),
        "{}",
        told.text
    );
    assert_eq!(gateway.score("/v1/scores", "nsk-none", of_first, 1.0).await.status, 401);
    let bearer = format!("Bearer {}", callers[made].key);
    for (body, param) in [
        (json!({ "name": "n", "value": 1 }), "request_id"),
        (json!({ "request_id": of_first, "value": 1 }), "name"),
        (json!({ "request_id": of_first, "name": "n" }), "value"),
        (json!({ "request_id": of_first, "name": "n", "value": "1" }), "value"),
        (json!({ "request_id": of_first, "name": "a b", "value": 1 }), "name"),
        (json!({ "request_id": of_first, "name": "n", "value": 1, "comment": "x".repeat(2001) }), "comment"),
        (json!({ "request_id": of_first, "name": "n", "value": 1, "key": "caller-0" }), "key"),
    ] {
        let told = gateway.post("/v1/scores", &[("authorization", &bearer)], &body).await;
        assert_eq!((told.status, &told.json()["error"]["param"]), (400, &json!(param)), "{}", told.text);
    }
}

/// Splits within splits say both arms, and draw for themselves; what only stands by says none.
#[tokio::test]
async fn the_arm_is_told() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&fill(SPLITS, &openai, &anthropic), &[]);
    let arm = async |key: &str, model: &str| {
        let told = gateway.ask(key, model, false).await;
        assert_eq!(told.status, 200, "{}", told.text);
        told.headers.get("x-novastack-arm").cloned()
    };
    let mut arms = BTreeMap::<String, u32>::new();
    for caller in 0..80 {
        let key = format!("caller-{caller}");
        let nested = arm(&key, "nested").await.expect("an arm");
        assert_eq!(arm(&key, "nested").await.as_ref(), Some(&nested));
        *arms.entry(nested).or_default() += 1;
    }
    assert_eq!(arms.keys().collect::<Vec<_>>(), ["ab/a", "ab/b", "b"], "{arms:?}");
    assert!(["a", "b"].contains(&arm("k", "first").await.expect("an arm").as_str()));
    for model in ["a", "spare", "auto"] {
        assert_eq!(arm("k", model).await, None, "{model}");
    }
    let image = json!([{ "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } }]);
    let mut body = chat("auto", false);
    body["messages"][0]["content"] = image;
    let told = gateway.post("/v1/chat/completions", &[], &body).await;
    assert_eq!((told.status, told.headers["x-novastack-arm"].as_str()), (200, "b"), "{}", told.text);
    assert!(told.headers["x-novastack-route"].starts_with("auto:"));

    let told = gateway.score("/v1/scores", "k", &told.headers["x-request-id"], 1.0).await;
    assert_eq!((told.status, &told.json()["error"]["code"]), (404, &json!("no_store")), "{}", told.text);
    assert!(told.text.contains("server.store"), "{}", told.text);
}
