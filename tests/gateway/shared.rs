//! Several programs on one Redis: limits hold for all of them together.

use super::{CONFIG, Gateway, chat, fill, start};
use crate::support::upstream::{Act, Upstream};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The tests' Redis; None, said aloud, without it.
fn redis() -> Option<String> {
    let url = std::env::var("NOVASTACK_TEST_REDIS").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        eprintln!("SKIPPED: there is no Redis; set NOVASTACK_TEST_REDIS=$(scripts/test_redis.sh DIR)");
    }
    url
}

/// The key of a configuration with these limits.
fn secret(limits: &str) -> String {
    format!("the-key-of-{}", limits.replace(|c: char| !c.is_ascii_alphanumeric(), ""))
}

/// A configuration with one key, of a name that no other test has.
fn config(redis: &str, limits: &str, openai: &Upstream, anthropic: &Upstream) -> String {
    let name = format!("shared-{}", std::process::id());
    let sha256: String = Sha256::digest(secret(limits)).iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{name}-{}", &sha256[..8]);
    format!("server: {{ shared_limits: \"{redis}\" }}\n")
        + &fill(CONFIG, openai, anthropic)
        + &format!("keys: {{ {name}: {{ sha256: {sha256}, limits: {limits} }} }}\n")
}

async fn ask(gateway: &Gateway, limits: &str) -> u16 {
    let key = format!("Bearer {}", secret(limits));
    let headers = [("authorization", key.as_str())];
    gateway.post("/v1/chat/completions", &headers, &chat("deepseek-v4-pro", false)).await.status
}

async fn metric(gateway: &Gateway, limits: &str, name: &str) -> String {
    let url = format!("{}/metrics", gateway.server.url);
    let answer = gateway.client.get(url).bearer_auth(secret(limits)).send().await.expect("an answer");
    let text = answer.text().await.expect("a text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

/// Two programs, a limit of 60 requests a minute, 120 requests at once: 60 pass, and those that came back
/// meanwhile.
#[tokio::test]
async fn two_programs_keep_one_limit() {
    let Some(redis) = redis() else { return };
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let limits = "{ requests_per_minute: 60 }";
    let config = config(&redis, limits, &openai, &anthropic);
    let both = [start(&config, &[]), start(&config, &[])];
    let began = Instant::now();
    let answers = (0..120).map(|number| ask(&both[number % 2], limits));
    let answers = futures_util::future::join_all(answers).await;
    let passed = answers.iter().filter(|status| **status == 200).count();
    let back = began.elapsed().as_secs() as usize + 1;
    assert!(answers.iter().all(|status| [200, 429].contains(status)), "{answers:?}");
    assert!((60..=60 + back).contains(&passed), "{passed} passed, {back} came back");
    assert_eq!(openai.asked().len(), passed);
    for gateway in &both {
        assert_eq!(metric(gateway, limits, "novastack_shared_limits_up").await, "1");
        assert_eq!(metric(gateway, limits, "novastack_shared_limits_outages_total").await, "0");
    }
    for gateway in both {
        gateway.stop();
    }
}

/// The places of a program that was killed are free again before long.
#[tokio::test]
async fn a_killed_program_holds_no_place() {
    let Some(redis) = redis() else { return };
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let limits = "{ concurrency: 1 }";
    let config = config(&redis, limits, &openai, &anthropic);
    let (killed, other) = (Arc::new(start(&config, &[])), start(&config, &[]));
    openai.once("deepseek-upstream", vec![Act::Hang]);
    let asking = killed.clone();
    let hanging = tokio::spawn(async move { ask(&asking, limits).await });
    while openai.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ask(&other, limits).await, 429);
    killed.server.kill();
    assert!(hanging.await.is_err(), "no answer comes");
    let end = Instant::now() + Duration::from_secs(60);
    while ask(&other, limits).await != 200 {
        assert!(Instant::now() < end, "the place is not free again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A Redis that cannot be reached stops neither the start nor a request.
#[tokio::test]
async fn a_program_without_its_redis_serves() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    // Nobody listens there.
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = held.local_addr().expect("an address").port();
    drop(held);
    let limits = "{ requests_per_minute: 3 }";
    let config = config(&format!("redis://:hunter2@127.0.0.1:{port}"), limits, &openai, &anthropic);
    let gateway = start(&config, &[]);
    for status in [200, 200, 200, 429] {
        assert_eq!(ask(&gateway, limits).await, status);
    }
    assert_eq!(metric(&gateway, limits, "novastack_shared_limits_up").await, "0");
    assert_eq!(metric(&gateway, limits, "novastack_shared_limits_outages_total").await, "1");
    assert_eq!(metric(&gateway, limits, "novastack_shared_limits_alone_total").await, "4");
    gateway.stop();
}
