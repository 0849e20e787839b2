//! The admin API, over HTTP.

use super::place::Place;
use super::record;
use novastack::gateway::admin::{AdminState, router};
use novastack::store::{Outcome, Store, UsageRecord, now_unix_ms};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

macro_rules! on_each_store_async {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $test() { super::$test(&crate::store::place::Place::sqlite()).await; })+
        }
        mod on_postgres {
            $(#[tokio::test] async fn $test() {
                if let Some(place) = crate::store::place::Place::postgres() {
                    super::$test(&place).await;
                }
            })+
        }
    };
}

on_each_store_async!(
    only_the_admin_key_opens_it,
    keys_are_made_changed_and_revoked,
    usage_is_grouped_and_filtered,
    exports_are_streamed_whole,
    arms_are_compared,
);

const ADMIN: &str = "the-key-of-the-admin";

struct Api {
    url: String,
    client: reqwest::Client,
    store: Arc<Store>,
}

impl Api {
    async fn start(place: &Place, key: Option<&str>) -> Self {
        let store = place.open();
        let admin_key_sha256 = key.map(|key| Sha256::digest(key).into());
        let app: axum::Router =
            router(AdminState { store: store.clone(), limiter: Arc::default(), admin_key_sha256 });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, client: crate::support::client(), store }
    }

    async fn ask(&self, method: Method, path: &str, key: &str, body: Option<Value>) -> (u16, String) {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    async fn json(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let (status, text) = self.ask(method, path, ADMIN, body).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.json(Method::GET, path, None).await
    }

    fn record(&self, records: impl IntoIterator<Item = UsageRecord>) {
        records.into_iter().for_each(|it| self.store.recorder().record(it));
        self.store.close().expect("written");
    }
}

async fn only_the_admin_key_opens_it(place: &Place) {
    let api = Api::start(place, Some(ADMIN)).await;
    let (_, secret) = api.store.create_key("alice", Default::default()).expect("a key");
    for path in ["/admin/usage", "/admin/usage/export", "/admin/report", "/admin/keys", "/admin/keys/alice"] {
        for key in ["", "wrong", &secret] {
            let (status, text) = api.ask(Method::GET, path, key, None).await;
            assert_eq!(status, 401, "{path} {key}");
            assert!(text.contains("\"code\":\"invalid_admin_key\"") && text.contains("Bearer"), "{text}");
        }
    }
    let (status, text) = api.ask(Method::DELETE, "/admin/keys/alice", "wrong", None).await;
    assert_eq!(status, 401, "{text}");
    assert!(api.store.keys().all()[0].revoked_unix_ms.is_none());
    let answer = api.client.get(format!("{}/admin/keys", api.url)).header("x-api-key", ADMIN).send().await;
    assert_eq!(answer.expect("an answer").status(), 200);

    let off = Api::start(place, None).await;
    let (status, text) = off.ask(Method::GET, "/admin/usage", ADMIN, None).await;
    assert_eq!(status, 403);
    assert!(text.contains("server.admin_key_env"), "{text}");
}

async fn keys_are_made_changed_and_revoked(place: &Place) {
    let api = Api::start(place, Some(ADMIN)).await;
    let body = json!({
        "name": "alice", "models": ["small"], "limits": { "requests_per_minute": 60 }, "credit": 5,
        "expires_at": "2100-01-01",
    });
    let (status, made) = api.json(Method::POST, "/admin/keys", Some(body.clone())).await;
    assert_eq!(status, 201, "{made}");
    let secret = made["key"].as_str().expect("the key").to_owned();
    let digest: [u8; 32] = Sha256::digest(&secret).into();
    assert_eq!(api.store.keys().find(&digest, now_unix_ms()).expect("known").name, "alice");
    assert_eq!((&made["expires_at"], &made["spent"]), (&"2100-01-01T00:00:00.000Z".into(), &0.0.into()));

    let (status, error) = api.json(Method::POST, "/admin/keys", Some(body)).await;
    assert_eq!((status, &error["error"]["code"]), (409, &"name_taken".into()));
    let change = json!({ "add_credit": 2.5, "limits": null, "expires_at": null });
    let (status, changed) = api.json(Method::POST, "/admin/keys/alice", Some(change)).await;
    assert_eq!((status, &changed["credit"]), (200, &7.5.into()));
    assert!(changed["limits"].is_null() && changed["key"].is_null() && changed["models"][0] == "small");

    for (path, body, status, param) in [
        ("/admin/keys", json!({}), 400, "name"),
        ("/admin/keys", json!({ "name": "bob", "limits": { "rpm": 3 } }), 400, "limits.rpm"),
        ("/admin/keys/alice", json!({ "name": "bob" }), 400, "name"),
        ("/admin/keys/alice", json!({ "credit": "much" }), 400, "credit"),
        ("/admin/keys/alice", json!({ "expires_at": "soon" }), 400, "expires_at"),
    ] {
        let (found, error) = api.json(Method::POST, path, Some(body)).await;
        assert_eq!((found, &error["error"]["param"]), (status, &param.into()), "{error}");
    }
    let (status, error) = api.json(Method::POST, "/admin/keys/alice", Some(json!({ "credit": -1 }))).await;
    assert_eq!(status, 400, "{error}");
    let (status, error) = api.json(Method::DELETE, "/admin/keys/alcie", None).await;
    assert_eq!(status, 404);
    assert!(error["error"]["message"].as_str().expect("text").contains("`alice`"), "{error}");
    let (status, text) = api.ask(Method::PUT, "/admin/keys", ADMIN, None).await;
    assert_eq!(status, 405, "{text}");
    let (status, text) = api.ask(Method::POST, "/admin/keys/alice", ADMIN, None).await;
    assert!(status == 400 && text.contains("invalid_json"), "{status} {text}");

    let (status, revoked) = api.json(Method::DELETE, "/admin/keys/alice", None).await;
    assert_eq!((status, &revoked["is_accepted"]), (200, &false.into()));
    assert!(api.store.keys().find(&digest, now_unix_ms()).is_err());
    let (_, listed) = api.get("/admin/keys").await;
    assert_eq!(listed["keys"].as_array().expect("a list").len(), 1);
    assert!(!listed.to_string().contains(&secret[..12]));
}

async fn usage_is_grouped_and_filtered(place: &Place) {
    let api = Api::start(place, Some(ADMIN)).await;
    let failed =
        UsageRecord { outcome: Outcome::Failed, status: 502, provider: None, cost: 0.0, ..record(0) };
    let later = UsageRecord { unix_ms: record(0).unix_ms + 86_400_000, model: "=x".into(), ..record(2) };
    api.record([failed, UsageRecord { attempt: 2, ..record(0) }, record(1), later]);

    let (status, all) = api.get("/admin/usage").await;
    assert_eq!(status, 200, "{all}");
    assert_eq!((&all["rows"][0]["requests"], &all["rows"][0]["attempts"]), (&3.into(), &4.into()));
    assert_eq!((&all["rows"][0]["cost"], &all["lost_records"]), (&0.75.into(), &0.into()));
    let (_, grouped) =
        api.get("/admin/usage?group_by=model,day&from=2026-01-01&to=2026-01-02&provider=spare").await;
    assert_eq!(grouped["group_by"], json!(["model", "day"]));
    let rows = grouped["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 1, "{grouped}");
    assert_eq!(
        (&rows[0]["model"], &rows[0]["day"], &rows[0]["attempts"]),
        (&"small".into(), &"2026-01-01".into(), &2.into())
    );
    assert_eq!((&rows[0]["latency_ms_p95"], &rows[0]["ttft_ms_p50"]), (&120.into(), &20.into()));
    let (_, tagged) = api.get("/admin/usage?group_by=tag:team,provider").await;
    assert_eq!(
        (&tagged["rows"][0]["tag:team"], &tagged["rows"][0]["provider"]),
        (&"search".into(), &Value::Null)
    );
    assert_eq!(tagged["rows"][1]["attempts"], 3);

    let (status, table) = api.ask(Method::GET, "/admin/usage?group_by=model&format=csv", ADMIN, None).await;
    assert_eq!(status, 200);
    assert_eq!(
        table,
        "model,requests,attempts,errors,cancelled,estimated,input_tokens,cached_tokens,output_tokens,cost,\
         latency_ms_p50,latency_ms_p95,ttft_ms_p50,ttft_ms_p95,flagged\r\n\
         '=x,1,1,0,0,0,10,4,3,0.25,120,120,20,20,0\r\n\
         small,2,3,1,0,0,30,12,9,0.5,120,120,20,20,0\r\n"
    );
    for (query, param) in [("group_by=colour", "group_by"), ("colour=red", "colour"), ("from=noon", "from")] {
        let (status, error) = api.get(&format!("/admin/usage?{query}")).await;
        assert_eq!((status, &error["error"]["param"]), (400, &param.into()), "{error}");
    }
}

async fn exports_are_streamed_whole(place: &Place) {
    let api = Api::start(place, Some(ADMIN)).await;
    api.record((0..3500).map(record));
    let (status, lines) = api.ask(Method::GET, "/admin/usage/export", ADMIN, None).await;
    assert_eq!(status, 200);
    let ids: Vec<String> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["request_id"].as_str().expect("an id").into()
        })
        .collect();
    assert_eq!(ids, (0..3500).map(|number| format!("r{number}")).collect::<Vec<_>>());
    let (_, table) = api.ask(Method::GET, "/admin/usage/export?format=csv&key=alice", ADMIN, None).await;
    assert_eq!(csv::Reader::from_reader(table.as_bytes()).records().filter(Result::is_ok).count(), 3500);
    let (_, none) = api.ask(Method::GET, "/admin/usage/export?format=csv&key=bob", ADMIN, None).await;
    assert!(none.starts_with("time,") && none.lines().count() == 1, "{none}");
    let (status, error) = api.get("/admin/usage/export?group_by=key").await;
    assert_eq!((status, &error["error"]["param"]), (400, &"group_by".into()));
}

async fn arms_are_compared(place: &Place) {
    let api = Api::start(place, Some(ADMIN)).await;
    let (status, table) = api.ask(Method::GET, "/admin/report?format=csv", ADMIN, None).await;
    assert!(
        status == 200 && table.starts_with("route,arm,requests,") && table.lines().count() == 1,
        "{table}"
    );
    let arm =
        |number: u64, arm: &str| UsageRecord { arm: Some(arm.into()), route: "ab".into(), ..record(number) };
    let failed = UsageRecord { outcome: Outcome::Failed, ttft_ms: None, ..arm(4, "=b") };
    let again = UsageRecord { attempt: 2, unix_ms: record(0).unix_ms + 500, ..arm(4, "=b") };
    api.record([arm(1, "a"), arm(2, "a"), arm(3, "=b"), failed, again, record(5)]);
    let score = async |id: &str, key: &str, name: &str, value: f64| {
        let body = json!({ "request_id": id, "key": key, "name": name, "value": value, "comment": "so" });
        api.json(Method::POST, "/admin/scores", Some(body)).await
    };
    let (status, answer) = score("r1", "alice", "thumbs", 0.5).await;
    assert_eq!(
        (status, answer),
        (200, json!({ "request_id": "r1", "key": "alice", "name": "thumbs", "value": 0.5, "comment": "so" }))
    );
    assert_eq!(score("r2", "alice", "thumbs", 1.0).await.0, 200);
    assert_eq!(score("r3", "alice", "stars", 4.0).await.0, 200);
    let (status, error) = score("r1", "bob", "thumbs", 1.0).await;
    assert_eq!((status, &error["error"]["code"]), (404, &"request_not_found".into()));
    let no_key = json!({ "request_id": "r1", "name": "thumbs", "value": 1 });
    let (status, error) = api.json(Method::POST, "/admin/scores", Some(no_key)).await;
    assert_eq!((status, &error["error"]["param"]), (400, &"key".into()), "{error}");

    let (status, report) = api.get("/admin/report?route=ab&from=2026-01-01&to=2026-01-02").await;
    assert_eq!((status, &report["lost_records"]), (200, &0.into()), "{report}");
    let rows = report["rows"].as_array().expect("rows");
    let b = json!({
        "route": "ab", "arm": "=b", "requests": 2, "completed": 2, "cancelled": 0, "failed": 0, "error_rate": 0.0,
        "attempts": 3, "failed_attempts": 1, "input_tokens": 30, "cached_tokens": 12, "output_tokens": 9,
        "cost": 0.75, "cost_mean": 0.375,
        // The second one: from its first attempt, 4 ms after the hour, to the end of the other.
        "latency_ms_mean": 368.0, "latency_ms_p50": 120, "latency_ms_p95": 616,
        "ttft_ms_mean": 268.0, "ttft_ms_p50": 20, "ttft_ms_p95": 516, "flagged": 0,
        "scores": { "stars": { "count": 1, "mean": 4.0, "standard_error": null } },
    });
    assert_eq!(rows[0], b);
    assert_eq!(
        (rows.len(), &rows[1]["arm"], &rows[1]["scores"]),
        (2, &"a".into(), &json!({ "thumbs": { "count": 2, "mean": 0.75, "standard_error": 0.25 } }))
    );
    let (_, table) = api.ask(Method::GET, "/admin/report?format=csv", ADMIN, None).await;
    assert_eq!(
        table,
        "route,arm,requests,completed,cancelled,failed,error_rate,attempts,failed_attempts,input_tokens,\
         cached_tokens,output_tokens,cost,cost_mean,latency_ms_mean,latency_ms_p50,latency_ms_p95,ttft_ms_mean,\
         ttft_ms_p50,ttft_ms_p95,flagged,score:stars:count,score:stars:mean,score:stars:standard_error,\
         score:thumbs:count,score:thumbs:mean,score:thumbs:standard_error\r\n\
         ab,'=b,2,2,0,0,0.0,3,1,30,12,9,0.75,0.375,368.0,120,616,268.0,20,516,0,1,4.0,,,,\r\n\
         ab,a,2,2,0,0,0.0,2,0,20,8,6,0.5,0.25,120.0,120,120,20.0,20,20,0,,,,2,0.75,0.25\r\n"
    );
    let (_, none) = api.get("/admin/report?route=other").await;
    assert_eq!(none["rows"], json!([]));
    for (query, param) in [("group_by=arm", "group_by"), ("colour=red", "colour"), ("format=jsonl", "format")]
    {
        let (status, error) = api.get(&format!("/admin/report?{query}")).await;
        assert_eq!((status, &error["error"]["param"]), (400, &param.into()), "{error}");
    }
    let (_, by_arm) = api.get("/admin/usage?group_by=arm&arm=a").await;
    assert_eq!((&by_arm["rows"][0]["arm"], &by_arm["rows"][0]["requests"]), (&"a".into(), &2.into()));
}
