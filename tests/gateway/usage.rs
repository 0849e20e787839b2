//! What was used is known to the token, and kept; limits hold.

use super::{CONFIG, Gateway, chat, fill, message, start};
use crate::store::place::Place;
use crate::support::upstream::{Act, USAGE, Upstream, answer, openai_stream, stream_head};
use serde_json::{Value, json};
use std::time::Duration;

pub const STORE: &str = "server: { store: sqlite:usage.db, admin_key_env: TEST_ADMIN_KEY }\n";

/// The same with a place in PostgreSQL.
pub fn in_postgres(place: &Place) -> String {
    STORE.replace("sqlite:usage.db", &format!("\"{}\"", place.url))
}

impl Gateway {
    pub async fn admin(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}{path}", self.server.url);
        let mut request = crate::support::client().request(method, url).bearer_auth("the-key-of-the-admin");
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.expect("an answer").json().await.expect("JSON")
    }

    /// Totals by outcome, once nothing changes any more.
    pub async fn usage(&self, by: &str) -> Vec<Value> {
        let mut last = Value::Null;
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let now = self.admin(reqwest::Method::GET, &format!("/admin/usage?group_by={by}"), None).await;
            if now == last {
                break;
            }
            last = now;
        }
        last["rows"].as_array().unwrap_or_else(|| panic!("{last}")).clone()
    }
}

fn row<'a>(rows: &'a [Value], by: &str, value: &str) -> &'a Value {
    rows.iter().find(|row| row[by] == value).unwrap_or_else(|| panic!("no {by} {value} in {rows:?}"))
}

#[tokio::test]
async fn totals_are_what_upstreams_served() {
    totals(STORE).await;
}

#[tokio::test]
async fn totals_are_what_upstreams_served_in_postgres() {
    if let Some(place) = Place::postgres() {
        totals(&in_postgres(&place)).await;
    }
}

async fn totals(store: &str) {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = store.to_owned()
        + &fill(CONFIG, &openai, &anthropic)
        + "named_routes: { safe: [deepseek-v4-pro, claude-opus-4.7] }\n";
    let mut gateway = start(&config, &[]);
    let mut completed = 0;
    for round in 0..2 {
        // Failures before the first piece cost nothing, and are seen as attempts.
        openai.once("deepseek-upstream", vec![Act::Send(answer("500 Oops", &json!({})))]);
        openai.once("deepseek-upstream", vec![]);
        for stream in [false, true] {
            for model in ["deepseek-v4-pro", "safe", "claude-opus-4.7"] {
                let mut body = chat(model, stream);
                body["metadata"] = json!({ "team": "search", "task": "chat" });
                assert_eq!(gateway.post("/v1/chat/completions", &[], &body).await.status, 200);
                assert_eq!(gateway.message(model, stream).await.status, 200);
                completed += 2;
            }
        }
        // A caller who leaves after the first text.
        let whole = openai_stream(&json!({ "model": "deepseek-upstream" }));
        let until = whole.find("Hello, ").expect("text")
            + whole[whole.find("Hello, ").unwrap()..].find("\n\n").unwrap()
            + 2;
        openai.once(
            "deepseek-upstream",
            vec![Act::Send(stream_head()), Act::Send(whole[..until].into()), Act::Hang],
        );
        let url = format!("{}/v1/chat/completions", gateway.server.url);
        let mut gone = crate::support::client()
            .post(url)
            .json(&chat("deepseek-v4-pro", true))
            .send()
            .await
            .expect("a head");
        gone.chunk().await.expect("a piece");
        drop(gone);

        let rows = gateway.usage("outcome").await;
        let done = row(&rows, "outcome", "completed");
        for (field, each) in
            [("input_tokens", USAGE.0), ("cached_tokens", USAGE.1), ("output_tokens", USAGE.2)]
        {
            assert_eq!(done[field], each * completed, "{field} in {done}");
        }
        assert_eq!((&done["attempts"], &done["estimated"]), (&json!(completed), &json!(0)));
        let cancelled = row(&rows, "outcome", "cancelled");
        let counted = (&cancelled["attempts"], &cancelled["estimated"], &cancelled["output_tokens"]);
        assert_eq!(counted, (&json!(round + 1), &json!(round + 1), &json!(round + 1)), "{cancelled}");
        let failed = row(&rows, "outcome", "failed");
        assert_eq!((&failed["attempts"], &failed["output_tokens"]), (&json!(2 * (round + 1)), &json!(0)));
        let rows = gateway.usage("tag:team").await;
        assert_eq!(row(&rows, "tag:team", "search")["requests"], completed / 2);
        let rows = gateway.usage("task").await;
        assert_eq!(row(&rows, "task", "chat")["requests"], completed / 2);
        // All of it is there after a restart.
        if round == 0 {
            let folder = gateway.stop();
            gateway = super::start_in(folder, &[]);
        }
    }
}

#[tokio::test]
async fn keys_are_made_limited_and_revoked() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let gateway = start(&(STORE.to_owned() + &fill(CONFIG, &openai, &anthropic)), &[]);
    // Open until there is a key.
    assert_eq!(gateway.chat("deepseek-v4-pro", false).await.status, 200);
    let make = async |settings: Value| {
        let made = gateway.admin(reqwest::Method::POST, "/admin/keys", Some(settings)).await;
        made["key"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    };
    let few = make(json!({ "name": "few", "limits": { "requests_per_minute": 2 } })).await;
    let paid = make(json!({ "name": "paid", "credit": 0.0001, "models": ["deepseek-v4-pro"] })).await;
    let ask = async |key: &str, model: &str| {
        gateway
            .post("/v1/chat/completions", &[("authorization", &format!("Bearer {key}"))], &chat(model, false))
            .await
    };
    assert_eq!(gateway.chat("deepseek-v4-pro", false).await.status, 401);
    for left in ["1", "0"] {
        let told = ask(&few, "deepseek-v4-pro").await;
        assert_eq!(
            (told.status, told.headers["x-ratelimit-remaining-requests"].as_str()),
            (200, left),
            "{}",
            told.text
        );
    }
    let told = ask(&few, "deepseek-v4-pro").await;
    assert_eq!(
        (told.status, &told.json()["error"]["code"]),
        (429, &json!("rate_limit_exceeded")),
        "{}",
        told.text
    );
    assert_eq!(
        (told.headers["retry-after"].as_str(), told.headers["x-ratelimit-limit-requests"].as_str()),
        ("30", "2")
    );
    let headers = [("x-api-key", few.as_str())];
    let told = gateway.post("/v1/messages", &headers, &message("claude-opus-4.7", true)).await;
    assert_eq!(
        (told.status, &told.json()["error"]["type"]),
        (429, &json!("rate_limit_error")),
        "{}",
        told.text
    );
    assert_eq!(told.headers["anthropic-ratelimit-requests-remaining"], "0");

    // An answer costs some 60 millionths of a dollar; before it, some 5 thousandths are held.
    let told = ask(&paid, "deepseek-v4-pro").await;
    assert_eq!(
        (told.status, &told.json()["error"]["code"]),
        (402, &json!("insufficient_quota")),
        "{}",
        told.text
    );
    assert_eq!(told.headers["x-should-retry"], "false");
    gateway.admin(reqwest::Method::POST, "/admin/keys/paid", Some(json!({ "credit": 1 }))).await;
    assert_eq!(ask(&paid, "deepseek-v4-pro").await.status, 200);
    assert_eq!(ask(&paid, "claude-opus-4.7").await.status, 403);
    let keys = gateway.admin(reqwest::Method::GET, "/admin/keys", None).await;
    assert!(!keys.to_string().contains(&paid), "keys are shown once");
    gateway.admin(reqwest::Method::DELETE, "/admin/keys/paid", None).await;
    let told = ask(&paid, "deepseek-v4-pro").await;
    assert!(told.status == 401 && told.text.contains("revoked"), "{}", told.text);
    // Neither a caller's key nor none opens the admin API.
    for key in ["", few.as_str()] {
        let url = format!("{}/admin/keys", gateway.server.url);
        let answer = crate::support::client().get(url).bearer_auth(key).send().await.expect("an answer");
        assert!([401, 403].contains(&answer.status().as_u16()), "{}", answer.status());
    }
}

/// Keys and what they used are everywhere at once, and after a restart.
#[tokio::test]
async fn two_gateways_share_a_database() {
    let Some(place) = Place::postgres() else { return };
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = in_postgres(&place) + &fill(CONFIG, &openai, &anthropic);
    let (one, other) = (start(&config, &[]), start(&config, &[]));
    let paid = json!({ "name": "paid", "credit": 50 });
    let made = one.admin(reqwest::Method::POST, "/admin/keys", Some(paid)).await;
    let key = format!("Bearer {}", made["key"].as_str().unwrap_or_else(|| panic!("{made}")));
    let ask = async |gateway: &Gateway| {
        let headers = [("authorization", key.as_str())];
        gateway.post("/v1/chat/completions", &headers, &chat("deepseek-v4-pro", false)).await
    };
    let until = async |gateway: &Gateway, status: u16| {
        for _ in 0..100 {
            let told = ask(gateway).await;
            if told.status == status {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never {status}")
    };
    // Without keys a gateway is open: the other one knows the key when it refuses who has none.
    for _ in 0..100 {
        if other.chat("deepseek-v4-pro", false).await.status == 401 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((ask(&one).await.status, ask(&other).await.status), (200, 200));
    for gateway in [&one, &other] {
        let rows = gateway.usage("key").await;
        assert_eq!(row(&rows, "key", "paid")["requests"], 2, "{rows:?}");
    }
    // Limits begin with what the database says was spent.
    let spend = "UPDATE spent SET dollars = dollars + 49.999 WHERE key = 'paid'";
    std::thread::scope(|scope| scope.spawn(|| place.execute(spend)).join()).expect("spent");
    let other = super::start_in(other.stop(), &[]);
    let told = ask(&other).await;
    assert_eq!(
        (told.status, &told.json()["error"]["code"]),
        (402, &json!("insufficient_quota")),
        "{}",
        told.text
    );
    one.admin(reqwest::Method::POST, "/admin/keys/paid", Some(json!({ "add_credit": 50 }))).await;
    until(&other, 200).await;
    other.admin(reqwest::Method::DELETE, "/admin/keys/paid", None).await;
    assert!(until(&one, 401).await.text.contains("revoked"));
}

/// A model at its limit is as good as one that is busy: the next one answers.
#[tokio::test]
async fn a_models_limits_hold_for_all() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = fill(CONFIG, &openai, &anthropic)
        .replace("context: 1000,", "context: 1000, limits: { concurrency: 1 },")
        + "named_routes: { safe: [deepseek-v4-pro, claude-opus-4.7] }\nlimits: { tokens_per_minute: 100000 }\n";
    let gateway = start(&config, &[]);
    openai.always(
        "deepseek-upstream",
        vec![
            Act::Wait(Duration::from_millis(700)),
            Act::Send(answer("200 OK", &crate::support::upstream::openai_whole(&json!({})))),
        ],
    );
    let later = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        (gateway.chat("deepseek-v4-pro", false).await, gateway.chat("safe", false).await)
    };
    let (first, (second, third)) = tokio::join!(gateway.chat("deepseek-v4-pro", false), later);
    assert_eq!((first.status, second.status, third.status), (200, 429, 200), "{}", second.text);
    assert_eq!(third.headers["x-novastack-model"], "claude-opus-4.7");
    // What was held and not used is given back.
    let left: u64 = third.headers["x-ratelimit-remaining-tokens"].parse().expect("a number");
    let last = gateway.chat("claude", false).await;
    assert!(
        last.headers["x-ratelimit-remaining-tokens"].parse::<u64>().expect("a number") >= left - 600
            && left > 98_000,
        "{left}"
    );
    let body = json!({ "model": "qwen3-235b", "prompt": "Once", "max_tokens": 2 });
    let told = gateway.post("/v1/completions", &[], &body).await;
    assert!(told.status == 200 && told.headers.contains_key("x-ratelimit-remaining-tokens"), "{}", told.text);
    let mut large = chat("claude", false);
    large["messages"][0]["content"] = "word ".repeat(100_000).into();
    let told = gateway.post("/v1/chat/completions", &[], &large).await;
    assert!(told.status == 429 && !told.headers.contains_key("retry-after"), "{}", told.text);
}
