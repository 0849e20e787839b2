//! Several engines, or nodes, of one checkpoint: what breaks at one goes on at another.

use super::chat;
use crate::support::{golden_dir, hip::library, server::Server};
use serde_json::{Value, json};

/// A configuration in a folder of its own.
fn folder(config: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("novastack.yaml");
    std::fs::write(&path, config.replace("@LOCAL", &golden_dir("llama").display().to_string()))
        .expect("a file");
    let path = path.display().to_string();
    (folder, path)
}

fn asked(seed: u64) -> Value {
    let mut body = chat("m", false);
    body["messages"][0]["content"] = format!("Tell me of number {seed}").into();
    (body["seed"], body["max_tokens"], body["ignore_eos"]) = (seed.into(), 24.into(), true.into());
    (body["temperature"], body["return_token_ids"]) = (1.5.into(), true.into());
    body
}

async fn ids(server: &Server, seed: u64) -> Value {
    let (status, answer) = server.post("/v1/chat/completions", &asked(seed)).await;
    assert_eq!(status, 200, "{answer}");
    answer["choices"][0]["token_ids"].clone()
}

/// Two engines on the CPU, which share its threads, say what one says.
#[tokio::test]
async fn two_replicas_answer_as_one() {
    let (_one, config) = folder("models: { m: { source: @LOCAL } }");
    let one = Server::start(&["--config", &config]);
    let (_two, config) = folder("models: { m: { source: @LOCAL, replicas: 2 } }");
    let two = Server::start(&["--config", &config]);
    let (alone, both) = (0..8).map(|seed| (ids(&one, seed), ids(&two, seed))).unzip::<_, _, Vec<_>, Vec<_>>();
    let (alone, both) = (futures_util::future::join_all(alone), futures_util::future::join_all(both));
    let (alone, both) = tokio::join!(alone, both);
    assert_eq!(alone, both);
    let (_, metrics) = two.get("/metrics").await;
    assert!(metrics.contains("model=\"m\""), "{metrics}");
}

/// A GPU is lost while requests run: they go on at the replica on the other one, drawn tokens and all.
#[tokio::test]
async fn a_lost_gpu_loses_no_token() {
    let Some(library) = library() else { return };
    let (_folder, config) = folder("models: { m: { source: @LOCAL, device: 'hip:0,1', replicas: 2 } }");
    let options = ["--config", &config, "--step-tokens", "32", "--enforce-eager"];
    let environment = [("NOVASTACK_HIP_LIBRARY", library), ("NOVASTACK_HIP_HOST_DEVICES", "2")];
    let start = |environment: &[(&str, &str)]| {
        Server::try_start_with(&options, environment).unwrap_or_else(|log| panic!("{log}"))
    };
    let whole = start(&environment);
    let expected = futures_util::future::join_all((0..6).map(|seed| ids(&whole, seed))).await;
    drop(whole);
    // Late enough that both have loaded and requests are under way.
    let fault = [&environment[..], &[("NOVASTACK_HIP_HOST_FAULT", "launch:400")]].concat();
    let server = start(&fault);
    let got = futures_util::future::join_all((0..6).map(|seed| ids(&server, seed))).await;
    assert_eq!(got, expected);
    let (status, health) = server.get("/health").await;
    let health: Value = serde_json::from_str(&health).expect("JSON");
    assert_eq!((status, &health["models"]), (200, &json!({ "m": "ready" })), "{health}");
    let why = health["failures"]["m"].as_str().expect("the reason");
    assert!(why.contains("1 of 2 replicas stopped") && why.contains("launch"), "{why}");
    assert_eq!(ids(&server, 0).await, expected[0]);
}

/// Devices that do not divide by the replicas are refused.
#[test]
fn replicas_share_devices_evenly() {
    let (_folder, config) = folder("models: { m: { source: @LOCAL, device: 'hip:0,1,2', replicas: 2 } }");
    let log = Server::try_start(&["--config", &config]).err().expect("it is refused");
    assert!(log.contains("3 GPUs cannot be shared evenly by 2 replicas"), "{log}");
}
