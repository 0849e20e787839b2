//! Tests of the Responses codec, against transcripts in the shape that OpenAI's documentation and SDKs have.

mod decoding;
mod encoding;
mod fuzz;
mod requests;
mod store;
mod tools;
mod upstream;

use super::super::encode::AnswerHead;
use super::request::{Asked, NothingKept, Request, read};
use serde_json::{Value, json};
use std::sync::Arc;

pub fn head() -> AnswerHead {
    AnswerHead { id: "resp_7f".into(), model: "m".into(), created_unix_s: 1_700_000_000 }
}

/// Reads a request; `more` stands over a model and an input.
pub fn request(more: Value) -> Result<Request, crate::gateway::wire::fields::BadField> {
    let mut body = json!({"model": "m", "input": "hi"});
    for (name, value) in more.as_object().expect("fields") {
        body[name] = value.clone();
    }
    read(&body, &NothingKept)
}

/// The same as a chat completion's body.
pub fn chat(more: Value) -> Value {
    request(more).expect("a good request").chat
}

pub fn asked(more: Value) -> Arc<Asked> {
    Arc::new(request(more).expect("a good request").asked)
}
