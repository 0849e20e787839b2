//! Requests that want numbers in place of tokens: embeddings, logits of chosen tokens, labels. Goldens are
//! transformers' and sentence-transformers' (scripts/goldens_embeddings.py).

mod decoders;
mod encoder_engine;
mod encoders;
mod hip;
mod program;

use crate::support::golden_dir;
use novastack::engine::handle::{EngineHandle, SubmitError, TokenStream};
use novastack::protocol::{FinishReason, GenerateRequest, Pooling, SamplingParams, TokenEvent, TokenId};
use serde_json::Value;
use std::sync::Arc;

/// A text of a golden file, and what is to come of it.
struct Case {
    text: Option<String>,
    ids: Vec<TokenId>,
    types: Option<Vec<u32>>,
    values: Vec<f32>,
}

fn cases(file: &str) -> Vec<Case> {
    let path = golden_dir("embeddings").join(file);
    let golden: Value = serde_json::from_slice(&std::fs::read(path).expect("a golden")).expect("JSON");
    let numbers = |value: &Value| -> Option<Vec<u32>> {
        Some(value.as_array()?.iter().map(|id| id.as_u64().expect("a number") as u32).collect())
    };
    let case = |case: &Value| Case {
        text: case["text"].as_str().map(str::to_owned),
        ids: numbers(&case["ids"]).expect("ids"),
        types: numbers(&case["token_types"]),
        values: case["values"]
            .as_array()
            .expect("values")
            .iter()
            .map(|v| v.as_f64().unwrap() as f32)
            .collect(),
    };
    golden["cases"].as_array().expect("cases").iter().map(case).collect()
}

fn request(ids: &[TokenId], types: Option<&[u32]>, pooling: Pooling) -> GenerateRequest {
    GenerateRequest {
        id: "pooled".into(),
        prompt: ids.into(),
        choices: 1,
        sampling: Arc::new(SamplingParams::default()),
        cache_salt: 0,
        priority: 0,
        constraint: None,
        generated: Vec::new(),
        pooling: Some(pooling),
        token_types: types.map(Into::into),
    }
}

/// The numbers, and how many tokens of the prompt came from the prefix cache.
async fn pooled(mut stream: TokenStream) -> (Vec<f32>, u32) {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    match events.as_slice() {
        [
            TokenEvent::Prompt { cached_tokens, logprobs: None },
            TokenEvent::Pooled { values },
            TokenEvent::Finished { choice: 0, reason: FinishReason::Stop },
        ] => (values.clone(), *cached_tokens),
        other => panic!("the events of a request that wants numbers: {other:?}"),
    }
}

fn submit(engine: &EngineHandle, case: &Case, pooling: &Pooling) -> TokenStream {
    engine.submit(request(&case.ids, case.types.as_deref(), pooling.clone())).expect("a stream")
}

fn refusal(engine: &EngineHandle, ids: &[TokenId], pooling: Option<Pooling>) -> SubmitError {
    let request = GenerateRequest { pooling, ..request(ids, None, Pooling::Embedding) };
    engine.submit(request).expect_err("a refusal")
}

/// Of the largest value.
fn assert_near(got: &[f32], wanted: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let off = (got - wanted).abs();
        assert!(off <= tolerance * largest, "{what}, value {at}: {got} where {wanted} is wanted");
    }
}

async fn all(streams: Vec<TokenStream>) -> Vec<Vec<f32>> {
    let mut values = Vec::new();
    for stream in streams {
        values.push(pooled(stream).await.0);
    }
    values
}
