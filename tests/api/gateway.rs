//! The gateway over a fake engine: states that the whole program passes too quickly to be met.

use crate::sim::fake::{Fake, VOCAB, alone};
use arc_swap::ArcSwap;
use novastack::clock::Clock;
use novastack::config::{Config, Model};
use novastack::engine::handle::SubmitError;
use novastack::engine::worker::{EngineConfig, spawn};
use novastack::gateway::{
    self, Cors, GenerationDefaults, Grammars, LocalModel, Registry, Replicas, RequestConfig, Routing,
    ServerConfig,
};
use novastack::protocol::{GenerateRequest, ModelTasks, SamplingParams, TokenEvent, TokenId};
use novastack::text::AnswerFormat;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

struct Gateway {
    address: String,
    registry: Arc<Registry>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<std::io::Result<gateway::DrainOutcome>>,
}

async fn start(connections_max: usize) -> Gateway {
    let models = vec![Model::local("m".into(), "nowhere".into())];
    serve(connections_max, Config { models, ..Config::default() }).await
}

/// Its streams' keep-alive comments come after a tenth of a second.
async fn serve(connections_max: usize, models: Config) -> Gateway {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let config = ServerConfig {
        requests: RequestConfig {
            request_timeout: Duration::from_secs(60),
            total_timeout: Duration::from_secs(600),
            body_bytes_max: 1 << 20,
            text_timeout: Duration::from_secs(10),
            request_memory_bytes: 1 << 30,
            keep_alive: Duration::from_millis(100),
            admin_key_sha256: None,
            observers: gateway::Observers::default(),
        },
        head_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_secs(60),
        connections: gateway::ConnectionLimits { in_all: connections_max, per_address: None },
        tls: None,
        workers: 2,
        drain_timeout: Duration::from_secs(10),
        cors: Cors::Off,
        allowed_hosts: vec!["x".into()],
    };
    let registry = Arc::new(Registry::new(["m".to_owned()]));
    let (stop, stopped) = oneshot::channel::<()>();
    let routing = Routing::new(models, &[], &registry).expect("upstreams that can be made");
    let routing = Arc::new(ArcSwap::from_pointee(routing));
    let serve = gateway::serve(listener, config, registry.clone(), routing, None, async {
        let _ = stopped.await;
    });
    Gateway { address, registry, stop, task: tokio::spawn(serve) }
}

/// A model whose engine breaks down at its third step.
fn fragile() -> LocalModel {
    let prompts = [(7, vec![5, 6, 7])].into();
    model(vec![Fake { prompts, fail_collect: Some(2), ..Fake::default() }])
}

/// A model of these engines.
fn model(fakes: Vec<Fake>) -> LocalModel {
    let config = EngineConfig {
        name: "m".into(),
        max_context: 64,
        kv_blocks: 64,
        max_running: 16,
        max_queued: 16,
        step_token_budget: 16,
        vocab: VOCAB as usize,
        cache_salt: 0,
    };
    let start = |fake: Fake| spawn(config.clone(), Box::new(fake), Clock::real()).expect("a thread").0;
    LocalModel {
        name: "m".into(),
        tasks: ModelTasks::GENERATION,
        engine: Replicas::new(fakes.into_iter().map(start).collect(), 32),
        tokenizer: None,
        template: Err("none".into()),
        answer_format: AnswerFormat::default(),
        grammars: Grammars::default(),
        defaults: GenerationDefaults::default(),
        special_tokens_in_messages: false,
        vocab: VOCAB as usize,
        created_unix_s: 0,
        root: "nowhere".into(),
    }
}

#[tokio::test]
async fn health_while_loading_and_after_the_engine_has_stopped() {
    let Gateway { address, registry, stop, task } = start(8).await;
    let client = crate::support::client();
    let health = async || {
        let answer = client.get(format!("http://{address}/health")).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let complete = async || {
        let body =
            json!({"model": "m", "prompt": [5, 6, 7], "seed": 7, "max_tokens": 20, "ignore_eos": true});
        let answer = client.post(format!("http://{address}/v1/completions")).json(&body).send().await;
        let answer = answer.expect("an answer");
        let again = answer.headers().contains_key("retry-after");
        let status = answer.status().as_u16();
        let code = answer.json::<Value>().await.expect("JSON")["error"]["code"].clone();
        (status, code, again)
    };
    assert_eq!(health().await, (503, json!({"status": "loading", "models": {"m": "loading"}})));
    assert_eq!(complete().await, (503, json!("model_loading"), true));
    registry.set_ready(fragile());
    assert_eq!(health().await, (200, json!({"status": "ready", "models": {"m": "ready"}})));
    assert_eq!(complete().await, (500, json!("engine_error"), false));
    let (status, stopped) = health().await;
    assert_eq!(
        (status, &stopped["status"], &stopped["models"]),
        (503, &json!("stopped"), &json!({"m": "stopped"}))
    );
    assert!(stopped["failures"]["m"].as_str().is_some_and(|why| !why.is_empty()), "{stopped}");
    assert_eq!(complete().await, (503, json!("engine_stopped"), false));
    registry.set_failed("m", "no such file".into());
    assert_eq!(health().await.0, 503);
    assert_eq!(complete().await, (503, json!("model_failed"), false));
    stop.send(()).expect("it runs");
    assert!(matches!(task.await, Ok(Ok(gateway::DrainOutcome::Drained))));
}

/// Who sends no request's head in time is cut off, at once where somebody else needs the place.
#[tokio::test]
async fn slow_heads_and_too_many_connections() {
    let gateway = start(2).await;
    let mut slow = TcpStream::connect(&gateway.address).await.expect("connected");
    slow.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n").await.expect("sent");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut rest)).await;
    closed.expect("the slow one is cut off").expect("read");
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(TcpStream::connect(&gateway.address).await.expect("connected"));
    }
    let mut last = TcpStream::connect(&gateway.address).await.expect("connected");
    last.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
    let mut answer = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(10), last.read_exact(&mut answer)).await;
    read.expect("its turn").expect("read");
    assert_eq!(&answer, b"HTTP/1.1 503");
    gateway.stop.send(()).expect("it runs");
    assert!(matches!(gateway.task.await, Ok(Ok(_))));
}

/// Comments that keep a caller's connection alive do not make an upstream's silence any shorter.
#[tokio::test]
async fn an_upstream_falls_silent_between_keep_alive_comments() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = upstream.local_addr().expect("an address").port();
    let silent = tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.expect("a connection");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.expect("a request");
        let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let begun = format!("{head}{:x}\r\n{event}\r\n", event.len());
        stream.write_all(begun.as_bytes()).await.expect("sent");
        // Until the gateway hangs up.
        stream.read(&mut request).await
    });
    let config = format!(
        "providers: {{ p: {{ format: openai, base_url: \"http://127.0.0.1:{port}\", timeout_s: 1 }} }}\n\
         models: {{ m: {{ provider: p }} }}"
    );
    let config =
        Config::parse(&config, "novastack.yaml", std::path::Path::new(".")).expect("a configuration");
    let gateway = serve(8, config).await;
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let client = crate::support::client();
    let url = format!("http://{}/v1/chat/completions", gateway.address);
    let answer = client.post(url).json(&body).send().await.expect("an answer");
    let text = tokio::time::timeout(Duration::from_secs(10), answer.text()).await;
    let text = text.expect("an end").expect("a whole answer");
    assert!(text.contains("Hi") && text.contains(": keep-alive\n\n"), "{text}");
    assert!(text.contains("nothing came for"), "{text}");
    let hung_up = tokio::time::timeout(Duration::from_secs(10), silent).await.expect("it hangs up");
    assert!(matches!(hung_up, Ok(Ok(0) | Err(_))), "{hung_up:?}");
    gateway.stop.send(()).expect("it runs");
    assert!(matches!(gateway.task.await, Ok(Ok(gateway::DrainOutcome::Drained))));
}

/// Events that an upstream sends at once go on in few pieces, and the first of them at once.
#[tokio::test]
async fn what_comes_together_goes_together() {
    const EVENTS: usize = 40;
    let upstream = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = upstream.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 4096]).await.expect("a request");
        let mut text =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_owned();
        for _ in 0..EVENTS {
            let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
            text += &format!("{:x}\r\n{event}\r\n", event.len());
        }
        text += "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
        stream.write_all(text.as_bytes()).await.expect("sent");
        let _ = stream.read(&mut [0; 1]).await;
    });
    let config = format!(
        "providers: {{ p: {{ format: openai, base_url: \"http://127.0.0.1:{port}\" }} }}\nmodels: {{ m: {{ provider: p }} }}"
    );
    let config =
        Config::parse(&config, "novastack.yaml", std::path::Path::new(".")).expect("a configuration");
    let gateway = serve(8, config).await;
    let mut stream = TcpStream::connect(&gateway.address).await.expect("connected");
    let body =
        json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let (_, body) = text.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body.matches("\"Hi\"").count(), EVENTS, "{text}");
    // A piece ends an event, then itself.
    let pieces: Vec<&str> = body.split("\n\n\r\n").collect();
    assert_eq!(pieces[0].matches("data: ").count(), 1, "{text}");
    assert!(pieces.len() < EVENTS / 2, "{} pieces: {text}", pieces.len());
    gateway.stop.send(()).expect("it runs");
    assert!(matches!(gateway.task.await, Ok(Ok(gateway::DrainOutcome::Drained))));
}

/// Requests of a replica that stops go on at another: every token once, the same as if nothing had
/// happened; requests afterwards see nothing of it, and /health says what has stopped.
#[tokio::test]
async fn a_replica_takes_over_what_another_has_begun() {
    let prompts: Vec<Vec<TokenId>> =
        (0..12).map(|seed| (0..20).map(|at| (seed * 5 + at * 3) % VOCAB).collect()).collect();
    let known = || prompts.iter().enumerate().map(|(seed, prompt)| (seed as u64, prompt.clone())).collect();
    let fake = |fail_collect| Fake { prompts: known(), fail_collect, ..Fake::default() };
    let Gateway { address, registry, stop, task } = start(64).await;
    registry.set_ready(model(vec![fake(Some(9)), fake(None)]));
    let client = crate::support::client();
    let complete = async |seed: usize| {
        let body = json!({
            "model": "m", "prompt": prompts[seed], "seed": seed, "max_tokens": 30, "n": 2,
            "ignore_eos": true, "return_token_ids": true, "stream": seed.is_multiple_of(2),
        });
        let answer = client.post(format!("http://{address}/v1/completions")).json(&body).send().await;
        let text = answer.expect("an answer").text().await.expect("a whole answer");
        let mut got = [Vec::new(), Vec::new()];
        for data in text.lines().map(|line| line.trim_start_matches("data: ")) {
            let Ok(value) = serde_json::from_str::<Value>(data) else { continue };
            assert!(value.get("error").is_none(), "{value}");
            for choice in value["choices"].as_array().into_iter().flatten() {
                let ids = choice["token_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64);
                got[choice["index"].as_u64().expect("an index") as usize].extend(ids.map(|id| id as TokenId));
            }
        }
        let params = SamplingParams {
            seed: seed as u64,
            max_tokens: 30,
            stop_tokens: Vec::new(),
            ..SamplingParams::default()
        };
        for (choice, got) in got.iter().enumerate() {
            assert_eq!(*got, alone(&prompts[seed], &params, choice as u32, 64).0, "seed {seed}: {text}");
        }
    };
    for round in 0..2 {
        futures_util::future::join_all((0..prompts.len()).map(&complete)).await;
        let health: Value = client
            .get(format!("http://{address}/health"))
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON");
        assert_eq!((&health["status"], &health["models"]["m"]), (&json!("ready"), &json!("ready")));
        let why = health["failures"]["m"].as_str().expect("the reason");
        assert!(why.contains("1 of 2 replicas stopped"), "round {round}: {why}");
    }
    stop.send(()).expect("it runs");
    assert!(matches!(task.await, Ok(Ok(gateway::DrainOutcome::Drained))));
}

/// Requests that get no token in their time lower what an engine is given at a time; answers raise it again.
#[tokio::test]
async fn an_engine_is_given_what_it_bears() {
    let (open, gate) = std::sync::mpsc::channel();
    let prompts = (0..64).map(|seed| (seed, vec![5, 6, 7])).collect();
    let fake = Fake { prompts, gate: Some(gate), ..Fake::default() };
    let config = EngineConfig {
        name: "m".into(),
        max_context: 64,
        kv_blocks: 64,
        max_running: 8,
        max_queued: 24,
        step_token_budget: 16,
        vocab: VOCAB as usize,
        cache_salt: 0,
    };
    let replicas = Replicas::new(vec![spawn(config, Box::new(fake), Clock::real()).expect("a thread").0], 32);
    let request = |seed: u64| GenerateRequest {
        id: seed.to_string(),
        prompt: vec![5, 6, 7].into(),
        choices: 1,
        sampling: Arc::new(SamplingParams { seed, max_tokens: 2, ..SamplingParams::default() }),
        cache_salt: 0,
        priority: 0,
        constraint: None,
        generated: Vec::new(),
        pooling: None,
        token_types: None,
    };
    let limit = || replicas.loads()[0].load(std::time::Instant::now()).limit;
    assert_eq!(limit(), 32.0);
    let mut streams: Vec<_> = (0..20).map(|seed| replicas.submit(request(seed)).expect("room")).collect();
    streams.iter_mut().for_each(|stream| stream.timed_out());
    let fallen = limit();
    assert!((20.0..25.0).contains(&fallen), "by a quarter, once: {fallen}");
    let refused = (20..40).find_map(|seed| match replicas.submit(request(seed)) {
        Ok(stream) => {
            streams.push(stream);
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(refused, Some(SubmitError::Busy { limit: 20..25 })), "{refused:?}");
    // Let through, they are answered.
    drop(open);
    for mut stream in streams {
        while stream.next().await.is_some_and(|event| !matches!(event, TokenEvent::Finished { .. })) {}
    }
    assert_eq!(replicas.loads()[0].load(std::time::Instant::now()).in_flight, 0);
    assert!(replicas.submit(request(50)).is_ok());
}
