//! A mock of a provider, over plain TCP: it answers as told to the byte, and remembers what it was asked.
//! It speaks OpenAI's format at `/v1/chat/completions` and Anthropic's at `/v1/messages`; texts are embedded and scored
//! at `/v1/embeddings`, `/v1/rerank` and `/v1/score`.

use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the mock does with a connection, one after the other; then it closes it.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends bytes again and again, until the other side closes.
    Flood(Vec<u8>),
    /// Waits.
    Wait(Duration),
    /// Does nothing until the other side closes.
    Hang,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Value,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// By the model's name: what is done instead of answering well, once each.
    scripts: HashMap<String, VecDeque<Vec<Act>>>,
    /// By the model's name: what is always done.
    always: HashMap<String, Vec<Act>>,
}

/// A running mock; it stops with the test's runtime.
#[derive(Clone)]
pub struct Upstream {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    state: Arc<Mutex<State>>,
    task: Arc<tokio::task::JoinHandle<()>>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, shared.clone()));
            }
        });
        Self { url, state, task: Arc::new(task) }
    }

    /// The next request for this model is treated so.
    pub fn once(&self, model: &str, acts: Vec<Act>) {
        self.state.lock().unwrap().scripts.entry(model.into()).or_default().push_back(acts);
    }

    /// Every request for this model is treated so.
    pub fn always(&self, model: &str, acts: Vec<Act>) {
        self.state.lock().unwrap().always.insert(model.into(), acts);
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// It is gone, with all its connections.
    pub fn kill(&self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = read(&mut stream).await {
        let model = asked.body["model"].as_str().unwrap_or_default().to_owned();
        let acts = {
            let mut state = state.lock().unwrap();
            state.asked.push(asked.clone());
            let once = state.scripts.get_mut(&model).and_then(VecDeque::pop_front);
            once.or_else(|| state.always.get(&model).cloned())
        };
        let keeps = acts.is_none();
        for act in acts.unwrap_or_else(|| vec![Act::Send(good(&asked))]) {
            match act {
                Act::Send(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Act::Flood(bytes) => while stream.write_all(&bytes).await.is_ok() {},
                Act::Wait(time) => tokio::time::sleep(time).await,
                Act::Hang => while stream.read_u8().await.is_ok() {},
            }
        }
        if !keeps {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|bytes| *bytes > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok().filter(|bytes| *bytes > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { path, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

/// An answer with this status and JSON body.
pub fn answer(status: &str, body: &Value) -> Vec<u8> {
    raw(status, "content-type: application/json\r\n", &body.to_string())
}

/// An answer with more headers and any body.
pub fn raw(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The head of a stream that ends with its connection.
pub fn stream_head() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_vec()
}

/// What the good answers say.
pub const TEXT: &str = "Hello, w\u{f6}rld!";
/// Tokens of the good answers: prompt, of them cached, and answer.
pub const USAGE: (u64, u64, u64) = (11, 4, 5);

fn good(asked: &Asked) -> Vec<u8> {
    let streams = asked.body["stream"] == true;
    match (asked.path.as_str(), streams) {
        ("/v1/chat/completions", false) => answer("200 OK", &openai_whole(&asked.body)),
        ("/v1/chat/completions", true) => events(&openai_stream(&asked.body)),
        ("/v1/messages", false) => answer("200 OK", &anthropic_whole(&asked.body)),
        ("/v1/messages", true) => events(&anthropic_stream(&asked.body)),
        ("/v1/embeddings" | "/v1/rerank" | "/v1/score", _) => answer("200 OK", &texts_whole(asked)),
        _ => answer("404 Not Found", &json!({ "error": { "message": format!("no {}", asked.path) } })),
    }
}

/// Tokens of the good answers to texts.
pub const TEXT_USAGE: u64 = 7;

/// An answer to texts, with a field that nobody knows.
pub fn texts_whole(asked: &Asked) -> Value {
    let model = &asked.body["model"];
    let usage = json!({ "prompt_tokens": TEXT_USAGE, "total_tokens": TEXT_USAGE });
    match asked.path.as_str() {
        "/v1/embeddings" => json!({
            "object": "list", "x_unknown": { "kept": true }, "model": model, "usage": usage,
            "data": [{ "object": "embedding", "index": 0, "embedding": [0.5, -0.25] }],
        }),
        "/v1/rerank" => json!({
            "id": "rerank-mock", "model": model, "usage": { "total_tokens": TEXT_USAGE }, "x_unknown": 1,
            "results": [{ "index": 1, "relevance_score": 0.75, "document": { "text": "c" } }],
        }),
        _ => json!({
            "id": "score-mock", "object": "list", "model": model, "usage": usage, "x_unknown": 1,
            "data": [{ "index": 0, "object": "score", "score": 0.25 }],
        }),
    }
}

fn events(text: &str) -> Vec<u8> {
    raw("200 OK", "content-type: text/event-stream\r\n", text)
}

/// A chat completion with a field that nobody knows.
pub fn openai_whole(body: &Value) -> Value {
    json!({
        "id": "chatcmpl-mock", "object": "chat.completion", "created": 1_700_000_000, "model": body["model"],
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": TEXT }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": USAGE.0, "completion_tokens": USAGE.2, "total_tokens": USAGE.0 + USAGE.2,
                   "prompt_tokens_details": { "cached_tokens": USAGE.1 } },
        "x_unknown": { "kept": true },
    })
}

/// Its stream, in three pieces of text.
pub fn openai_stream(body: &Value) -> String {
    let chunk = |choices: Value, more: Value| {
        let mut chunk = json!({ "id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1_700_000_000,
                                "model": body["model"], "choices": choices });
        chunk.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, reason: Value| {
        chunk(json!([{ "index": 0, "delta": delta, "finish_reason": reason }]), json!({ "x_unknown": 1 }))
    };
    let mut text = delta(json!({ "role": "assistant", "content": "" }), Value::Null);
    for piece in TEXT.split_inclusive(' ') {
        text += &delta(json!({ "content": piece }), Value::Null);
    }
    text += &delta(json!({}), json!("stop"));
    if body["stream_options"]["include_usage"] == true {
        text += &chunk(json!([]), json!({ "usage": openai_whole(body)["usage"] }));
    }
    text + "data: [DONE]\n\n"
}

/// A message.
pub fn anthropic_whole(body: &Value) -> Value {
    json!({
        "id": "msg_mock", "type": "message", "role": "assistant", "model": body["model"],
        "content": [{ "type": "text", "text": TEXT }], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": { "input_tokens": USAGE.0 - USAGE.1, "cache_creation_input_tokens": 0,
                   "cache_read_input_tokens": USAGE.1, "output_tokens": USAGE.2 },
    })
}

/// Its stream.
pub fn anthropic_stream(body: &Value) -> String {
    let event = |data: Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap());
    let mut message = anthropic_whole(body);
    let usage = message["usage"].clone();
    message["content"] = json!([]);
    message["stop_reason"] = Value::Null;
    message["usage"]["output_tokens"] = json!(1);
    let mut text = event(json!({ "type": "message_start", "message": message }));
    text += &event(
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
    );
    text += &event(json!({ "type": "ping" }));
    for piece in TEXT.split_inclusive(' ') {
        text += &event(
            json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": piece } }),
        );
    }
    text += &event(json!({ "type": "content_block_stop", "index": 0 }));
    text += &event(
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn", "stop_sequence": null }, "usage": usage }),
    );
    text + &event(json!({ "type": "message_stop" }))
}
