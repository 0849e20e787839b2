//! Several engines, or nodes, of one checkpoint: what breaks at one goes on at another.

use super::chat;
use crate::support::{golden_dir, hip::library, server::Server, upstream::Upstream};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

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
    // Else the last bits of logits depend on what else a step computes, and a drawn token on them.
    let options = ["--config", &config, "--step-tokens", "32", "--enforce-eager", "--deterministic"];
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

/// Hands on what comes to `to`, and of each answer so many bytes; then it closes, as a node that dies.
async fn cut(to: &str, bytes: usize) -> String {
    let to = to.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let mut there = TcpStream::connect(to).await.expect("the node");
                let (mut from_caller, mut to_caller) = here.split();
                let (from_node, mut to_node) = there.split();
                let mut answer = from_node.take(bytes as u64);
                tokio::select! {
                    _ = tokio::io::copy(&mut from_caller, &mut to_node) => {}
                    _ = tokio::io::copy(&mut answer, &mut to_caller) => {}
                }
            });
        }
    });
    url
}

/// A node that dies in the middle of a stream: another one goes on from the last token that came, in
/// either dialect, drawn tokens, several choices and all.
#[tokio::test]
async fn another_node_goes_on_from_the_last_token() {
    let source = format!("m={}", golden_dir("llama").display());
    let (one, two) = (Server::start(&["--model", &source]), Server::start(&["--model", &source]));
    let mut openai = asked(3);
    (openai["stream"], openai["n"], openai["temperature"]) = (true.into(), 2.into(), 1.2.into());
    (openai["stream_options"], openai["max_tokens"]) = (json!({ "include_usage": true }), 40.into());
    openai.as_object_mut().unwrap().remove("return_token_ids");
    let mut anthropic = super::message("m", true);
    (anthropic["temperature"], anthropic["max_tokens"]) = (0.into(), 40.into());
    let whole = Told::of(&one.url, &openai, &anthropic).await;
    let mut resumed = 0;
    for bytes in (300..6000).step_by(650) {
        let proxy = cut(&one.url, bytes).await;
        let config = format!(
            "providers: {{ a: {{ preset: novastack, base_url: '{proxy}/v1' }}, b: {{ preset: novastack, base_url: '{}/v1' }} }}\n\
             models: {{ m-a: {{ provider: a, upstream_name: m }}, m-b: {{ provider: b, upstream_name: m }} }}\n\
             named_routes: {{ m: [m-a, m-b] }}\nserver: {{ store: sqlite:usage.db, admin_key_env: TEST_ADMIN_KEY }}\n",
            two.url
        );
        let gateway = super::start(&config, &[]);
        assert_eq!(
            Told::of(&gateway.server.url, &openai, &anthropic).await,
            whole,
            "cut after {bytes} bytes"
        );
        let client = crate::support::client();
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let usage = client.get(format!("{}/admin/usage?group_by=outcome,model", gateway.server.url));
        let usage =
            usage.header("authorization", "Bearer the-key-of-the-admin").send().await.expect("an answer");
        let usage = usage.text().await.expect("text");
        resumed += usize::from(usage.contains("failed") && usage.contains("m-b"));
    }
    assert!(resumed >= 5, "streams were cut: {resumed}");
}

/// What a caller gets: of each choice its text, the usage, the ids and roles once.
#[derive(Debug, PartialEq)]
struct Told {
    choices: Vec<String>,
    ends: usize,
    roles: usize,
    usage: Value,
    messages: String,
    blocks: usize,
    output_tokens: Value,
}

impl Told {
    async fn of(url: &str, openai: &Value, anthropic: &Value) -> Self {
        let client = crate::support::client();
        let stream = async |path: &str, body: &Value| {
            let answer = client.post(format!("{url}{path}")).json(body).send().await.expect("an answer");
            let text = answer.text().await.expect("text");
            assert!(!text.contains("\"error\""), "{text}");
            let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            let data = data.filter(|data| *data != "[DONE]");
            data.map(|data| serde_json::from_str(data).expect("JSON")).collect::<Vec<Value>>()
        };
        let chunks = stream("/v1/chat/completions", openai).await;
        let mut told = Told {
            choices: vec![String::new(); 2],
            ends: 0,
            roles: 0,
            usage: Value::Null,
            messages: String::new(),
            blocks: 0,
            output_tokens: Value::Null,
        };
        for chunk in &chunks {
            assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
            for choice in chunk["choices"].as_array().expect("choices") {
                assert!(choice.get("token_ids").is_none(), "nobody asked: {chunk}");
                let index = choice["index"].as_u64().expect("an index") as usize;
                told.choices[index] += choice["delta"]["content"].as_str().unwrap_or_default();
                told.ends += usize::from(!choice["finish_reason"].is_null());
                told.roles += usize::from(!choice["delta"]["role"].is_null());
            }
            if chunk["usage"].is_object() {
                told.usage = chunk["usage"].clone();
            }
        }
        told.usage.as_object_mut().expect("usage").remove("prompt_tokens_details");
        for event in stream("/v1/messages", anthropic).await {
            told.messages += event["delta"]["text"].as_str().unwrap_or_default();
            told.blocks += usize::from(event["type"] == "content_block_start");
            if event["type"] == "message_delta" {
                told.output_tokens = event["usage"]["output_tokens"].clone();
            }
        }
        told
    }
}

/// What is no request to go on with is refused.
#[tokio::test]
async fn resume_token_ids_are_checked() {
    let server = Server::start(&["--model", &format!("m={}", golden_dir("llama").display())]);
    let (_, text) = server.post("/detokenize", &json!({ "tokens": [64, 82] })).await;
    let stop = text["prompt"].clone();
    assert!(stop.as_str().is_some_and(|stop| stop.len() == 2), "{stop}");
    for (wrong, words) in [
        (json!([[1], [2]]), "for each of 1 choices"),
        (json!([null]), "not null for all"),
        (json!([[9_999_999]]), "must be a token id below"),
        (json!(["1"]), "a list of token ids or null"),
        (json!([vec![5; 24]]), "has come to its end"),
        (json!([[64, 82]]), "a stop string is in it"),
    ] {
        let mut body = asked(1);
        body["stop"] = stop.clone();
        body["resume_token_ids"] = wrong;
        let (status, answer) = server.post("/v1/chat/completions", &body).await;
        assert!(status == 400 && answer.to_string().contains(words), "{words}: {status} {answer}");
    }
    let mut body = asked(1);
    body["resume_token_ids"] = json!([[5]]);
    body.as_object_mut().unwrap().remove("seed");
    let (status, answer) = server.post("/v1/chat/completions", &body).await;
    assert!(status == 400 && answer.to_string().contains("`seed`"), "{status} {answer}");
}

/// An engine that stops before its first token leaves the request to the next target; the caller sees
/// nothing of it.
#[tokio::test]
async fn an_engine_that_stops_early_is_replaced() {
    let Some(library) = library() else { return };
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = super::fill(super::CONFIG, &openai, &anthropic)
        .replace("source: @LOCAL", &format!("source: {}", golden_dir("llama").display()))
        .replace("price: { input: 2.0", "device: 'hip:0', price: { input: 2.0");
    let (_folder, config) = folder(&(config + "named_routes: { safe: [qwen3-235b, deepseek-v4-pro] }\n"));
    let environment = [
        ("NOVASTACK_HIP_LIBRARY", library),
        ("NOVASTACK_HIP_HOST_FAULT", "launch:60"),
        ("TEST_OPENAI_KEY", "sk-upstream-1"),
    ];
    let options = ["--config", &config, "--step-tokens", "16"];
    let server = Server::try_start_with(&options, &environment).unwrap_or_else(|log| panic!("{log}"));
    let mut body = chat("safe", true);
    body["messages"][0]["content"] = "A long prompt, so that it takes several steps. ".repeat(4).into();
    let client = crate::support::client();
    let answer = client
        .post(format!("{}/v1/chat/completions", server.url))
        .json(&body)
        .send()
        .await
        .expect("an answer");
    let (status, model) = (answer.status(), answer.headers()["x-novastack-model"].clone());
    let text = answer.text().await.expect("text");
    assert!(
        status.is_success() && model == "deepseek-v4-pro" && !text.contains("\"error\""),
        "{model:?} {text}"
    );
}
