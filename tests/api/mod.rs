//! The HTTP API of the real program over a tiny checkpoint: what answers look like, what bad
//! input gets, limits, keys, disconnects and shutdown. Wire forms are pinned by the transcripts in
//! `golden/`, which the gateway's own unit tests compare.

mod answers;
mod embeddings;
mod errors;
mod features;
mod fields;
mod gateway;
mod history;
mod http;
mod infill;
mod openapi;
mod tools;
mod life;

use crate::support::{golden_dir, server::Server};
use serde_json::{Value, json};

/// The tiny llama checkpoint under the name `tiny`, with further options.
fn serve(more: &[&str]) -> Server {
    let source = format!("tiny={}", golden_dir("llama").display());
    Server::start(&[&["--model", source.as_str()], more].concat())
}

/// A copy of it whose special tokens are those of fill-in-the-middle: 317 prefix, 318 suffix, 319 middle.
fn fill_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(golden_dir("llama")).expect("goldens").flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    let path = folder.path().join("tokenizer.json");
    let mut text = std::fs::read_to_string(&path).expect("read");
    for (from, to) in [
        ("<|endoftext|>", "<|fim_prefix|>"),
        ("<|im_start|>", "<|fim_suffix|>"),
        ("<|im_end|>", "<|fim_middle|>"),
    ] {
        text = text.replace(from, to);
    }
    std::fs::write(path, text).expect("written");
    folder
}

/// A completion request for these token ids with these fields over it.
fn completion(more: Value) -> Value {
    merged(json!({ "model": "tiny", "prompt": [5, 6, 7], "max_tokens": 4, "ignore_eos": true }), more)
}

/// A chat request with these fields over it.
fn chat(more: Value) -> Value {
    let messages = json!([{ "role": "user", "content": "hello" }]);
    merged(json!({ "model": "tiny", "messages": messages, "max_tokens": 4, "ignore_eos": true }), more)
}

fn merged(mut body: Value, more: Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// The data of a stream's events, `[DONE]` left out but asserted.
fn events(text: &str) -> Vec<Value> {
    let data: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    let (done, events) = data.split_last().expect("a stream has events");
    assert_eq!(*done, "[DONE]", "{text}");
    events.iter().map(|data| serde_json::from_str(data).expect("JSON data")).collect()
}

/// A POST whose answer is taken as text.
pub async fn post_text(server: &Server, path: &str, body: &Value) -> (u16, String) {
    let url = format!("{}{path}", server.url);
    let response = crate::support::client().post(url).json(body).send().await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("text"))
}

/// A metric's value over all its label sets.
async fn metric(server: &Server, name: &str) -> f64 {
    let (_, text) = server.get("/metrics").await;
    let values = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
