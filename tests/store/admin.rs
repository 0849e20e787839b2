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
);

const ADMIN: &str = "the-admin-key";

struct Api {
    url: String,
    client: reqwest::Client,
    store: Arc<Store>,
}

impl Api {
    async fn start(place: &Place, key: Option<&str>) -> Self {
        let store = place.open();
        let admin_key_sha256 = key.map(|key| Sha256::digest(key).into());
        let app: axum::Router = router(AdminState { store: store.clone(), admin_key_sha256 });
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
    for path in ["/admin/usage", "/admin/usage/export", "/admin/keys", "/admin/keys/alice"] {
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
         latency_ms_p50,latency_ms_p95,ttft_ms_p50,ttft_ms_p95\r\n\
         '=x,1,1,0,0,0,10,4,3,0.25,120,120,20,20\r\n\
         small,2,3,1,0,0,30,12,9,0.5,120,120,20,20\r\n"
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
