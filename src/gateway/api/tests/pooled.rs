//! Requests for embeddings, reranking and scores by the table of known fields, and the form of their answers.

use super::{golden, refused};
use crate::gateway::api::embeddings::{self, EmbeddingsRequest};
use crate::gateway::api::rerank::{self, RerankRequest};
use crate::gateway::api::score::{self, ScoreRequest};
use crate::gateway::api::text_answer::Head;
use crate::gateway::chat::openai::known_fields::{
    EMBEDDINGS, Endpoint, Fate, KNOWN, Known, Neutral, RERANK, SCORE,
};
use crate::gateway::target::local::Usage;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::protocol::{EmbeddingInfo, EmbeddingPrompts};
use serde_json::{Value, json};

const CONTEXT: usize = 64;
const USAGE: Usage = Usage { prompt_tokens: 7, completion_tokens: 0, cached_tokens: 2, reasoning_tokens: 0 };

fn info() -> EmbeddingInfo {
    EmbeddingInfo {
        dimensions: 3,
        normalised: false,
        dimensions_may_be_cut: true,
        prompts: EmbeddingPrompts::default(),
    }
}

fn embeddings(body: &Value) -> Result<EmbeddingsRequest, BadField> {
    EmbeddingsRequest::read(&Fields::root(body)?, &info(), 1000, CONTEXT)
}

fn rerank(body: &Value) -> Result<RerankRequest, BadField> {
    RerankRequest::read(&Fields::root(body)?, CONTEXT)
}

fn score(body: &Value) -> Result<ScoreRequest, BadField> {
    ScoreRequest::read(&Fields::root(body)?, CONTEXT)
}

/// A body with this field over it.
fn with(at: Endpoint, name: &str, value: &Value) -> Value {
    let mut body = match at {
        EMBEDDINGS => json!({ "model": "m", "input": "a" }),
        RERANK => json!({ "model": "m", "query": "a", "documents": ["b"] }),
        _ => json!({ "model": "m", "text_1": "a", "text_2": "b" }),
    };
    body[name] = value.clone();
    body
}

fn read(at: Endpoint, body: &Value) -> Result<(), BadField> {
    match at {
        EMBEDDINGS => embeddings(body).map(drop),
        RERANK => rerank(body).map(drop),
        _ => score(body).map(drop),
    }
}

/// A value that a done field takes.
fn sample(name: &str) -> Value {
    match name {
        "add_special_tokens" | "normalize" | "return_documents" => json!(true),
        "dimensions" | "max_tokens_per_doc" | "top_n" => json!(2),
        "truncate_prompt_tokens" => json!(-1),
        "documents" | "items" | "queries" | "data_1" | "data_2" | "text_1" | "text_2" => json!(["b"]),
        "encoding_format" => json!("base64"),
        "input" | "query" | "instruction" | "model" => json!("a"),
        "input_type" => json!("query"),
        "metadata" => json!({ "tag": "a" }),
        other => panic!("{other} is said to be done: how is it sent?"),
    }
}

#[test]
fn every_known_field_of_texts_is_done_refused_by_name_or_harmless() {
    for at in [EMBEDDINGS, RERANK, SCORE] {
        for Known { name, at: where_known, fate, .. } in KNOWN {
            if where_known & at == 0 {
                continue;
            }
            match fate {
                Fate::Done(_) => read(at, &with(at, name, &sample(name))).expect(name),
                Fate::Harmless(_) => {
                    for value in [json!("something"), json!(7)] {
                        read(at, &with(at, name, &value)).expect(name);
                    }
                }
                Fate::Refused(neutral, _) => {
                    for value in [json!("something"), json!({ "a": 1 }), json!([1]), json!(7.5)] {
                        let body = with(at, name, &value);
                        refused(&body, read(at, &body), name, "not supported");
                    }
                    let nothing = neutral.iter().map(|neutral| match neutral {
                        Neutral::Number(number) => json!(number),
                        Neutral::Is(on) => json!(on),
                        Neutral::Word(word) => json!(word),
                        Neutral::EmptyObject => json!({}),
                    });
                    for value in nothing.chain([json!(null), json!([]), json!("")]) {
                        read(at, &with(at, name, &value)).expect(name);
                    }
                }
            }
        }
    }
}

fn pretty(json: &str) -> String {
    let value: Value = serde_json::from_str(json).expect("JSON");
    serde_json::to_string_pretty(&value).expect("JSON") + "\n"
}

#[test]
fn answers_in_numbers_have_the_form_of_the_goldens() {
    let vectors = vec![vec![0.5, -0.25, 2.0], vec![0.1, 1e-8, -3.5]];
    for format in ["float", "base64"] {
        let body = json!({ "model": "m", "input": ["a", "b"], "encoding_format": format });
        let request = embeddings(&body).expect("a request");
        let told = embeddings::encode(&request, "org/model", vectors.clone(), &USAGE);
        golden(&format!("embeddings_{format}.json"), &pretty(&told));
    }
    let body = json!({ "model": "m", "query": "a", "documents": ["b", { "text": "c" }, "d"], "top_n": 2 });
    let request = rerank(&body).expect("a request");
    let told = rerank::encode("rerank-0".into(), "org/model", &request, &[0.25, 0.75, 0.5], &USAGE);
    golden("rerank.json", &pretty(&told));
    let head = Head { id: "score-0".into(), created: 1_700_000_000, model: "org/model".into() };
    golden("score.json", &pretty(&score::encode(&head, &[0.25, -1.5], &USAGE)));
}

/// Whatever a field holds, the error is about it, or about its fellow where two must fit.
#[test]
fn odd_values_are_refused_by_the_name_of_their_field() {
    let odd = [
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!("x"),
        json!([]),
        json!([[]]),
        json!({}),
        json!([null]),
        json!([{}]),
        json!([1, [2]]),
        json!(["a", 1]),
        json!([[1], "a"]),
        json!([[1.5]]),
        json!([[-1]]),
        json!([u64::MAX]),
        json!({ "text": 1 }),
        json!([{ "text": null }]),
    ];
    for at in [EMBEDDINGS, RERANK, SCORE] {
        for Known { name, .. } in KNOWN.iter().filter(|row| row.at & at != 0) {
            for value in &odd {
                let body = with(at, name, value);
                let Err(error) = read(at, &body) else { continue };
                let fellows = ["text_1", "text_2", "queries", "items", "documents", "data_1", "data_2"];
                let is_named = error.param.starts_with(name)
                    || (fellows.contains(name) && fellows.iter().any(|it| error.param.starts_with(it)));
                assert!(is_named, "{body}: {error}");
            }
        }
    }
}
