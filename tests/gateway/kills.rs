//! A gateway that is killed: what its streams had used until then is recorded.

use super::usage::{STORE, in_postgres};
use super::{CONFIG, Gateway, begun_stream, chat, fill, start, start_in};
use crate::store::place::Place;
use crate::support::upstream::{Act, Upstream, stream_head};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_kill_loses_no_more_than_a_seconds_tokens() {
    killed(STORE, Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_kill_loses_no_more_than_a_seconds_tokens_in_postgres() {
    if let Some(place) = Place::postgres() {
        killed(&in_postgres(&place), Duration::from_secs(40)).await;
    }
}

async fn killed(store: &str, found_within: Duration) {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = store.to_owned() + &fill(CONFIG, &openai, &anthropic);
    let gateway = start(&config, &[]);
    let made =
        gateway.admin(Method::POST, "/admin/keys", Some(json!({ "name": "paid", "credit": 0.06 }))).await;
    let key = format!("Bearer {}", made["key"].as_str().unwrap_or_else(|| panic!("{made}")));
    let piece = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
                 \"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"},\"finish_reason\":null}]}\n\n";
    openai.always(
        "deepseek-upstream",
        vec![
            Act::Send(stream_head()),
            Act::Send(begun_stream()),
            Act::Send(piece.repeat(99).into()),
            Act::Wait(Duration::from_millis(2500)),
            // What comes in the last moment may be lost.
            Act::Send(piece.repeat(10).into()),
            Act::Hang,
        ],
    );
    let url = format!("{}/v1/chat/completions", gateway.server.url);
    let mut body = chat("deepseek-v4-pro", true);
    body["max_tokens"] = 2000.into();
    let client = crate::support::client();
    let request = client.post(url).header("authorization", &key).json(&body);
    let mut answer = request.send().await.expect("a head");
    answer.chunk().await.expect("a piece");
    let read = tokio::spawn(async move { while let Ok(Some(_)) = answer.chunk().await {} });
    // Longer than a note takes, shorter than the wait.
    tokio::time::sleep(Duration::from_millis(2000)).await;
    // Nothing is recorded while it is under way.
    let rows = gateway.admin(Method::GET, "/admin/usage", None).await;
    assert_eq!(rows["rows"][0]["attempts"], 0, "{rows}");
    gateway.server.kill();
    let _ = read.await;
    let Gateway { server, file, .. } = gateway;
    server.wait();
    let gateway = start_in(file, &[]);
    let end = Instant::now() + found_within;
    let found = loop {
        let rows = gateway.admin(Method::GET, "/admin/usage?group_by=flag,key,outcome", None).await;
        if rows["rows"].as_array().is_some_and(|rows| !rows.is_empty()) {
            break rows["rows"].clone();
        }
        assert!(Instant::now() < end, "nothing was found");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let row = &found[0];
    assert_eq!(
        (&row["flag"], &row["key"], &row["outcome"], &row["attempts"], &row["estimated"]),
        (&json!("interrupted"), &json!("paid"), &json!("failed"), &json!(1), &json!(1)),
        "{found}"
    );
    assert_eq!(row["output_tokens"], 100, "{found}");
    let cost = row["cost"].as_f64().expect("dollars");
    assert!((0.001..0.0012).contains(&cost), "{found}");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let keys = gateway.admin(Method::GET, "/admin/keys", None).await;
    assert_eq!(keys["keys"][0]["spent"], cost, "{keys}");
    // It counts against the credit: of six cents not all are left.
    let asks = async |tokens: u64| {
        let mut body: Value = chat("deepseek-v4-pro", false);
        body["max_tokens"] = tokens.into();
        gateway.post("/v1/chat/completions", &[("authorization", &key)], &body).await.status
    };
    assert_eq!(asks(5990).await, 402);
    openai.always("deepseek-upstream", vec![]);
    assert_ne!(asks(5800).await, 402);
    // Once, and no more after another start.
    let gateway = start_in(gateway.stop(), &[]);
    let rows = gateway.admin(Method::GET, "/admin/usage?flag=interrupted", None).await;
    assert_eq!(rows["rows"][0]["attempts"], 1, "{rows}");
}
