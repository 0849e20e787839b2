//! The real all-MiniLM-L6-v2 behind the program: its vectors are those of sentence-transformers (the goldens of
//! scripts/goldens_embeddings.py), whichever form they are asked in.

use super::{post, refused};
use crate::support::{golden_dir, server::Server};
use serde_json::{Value, json};

/// Serves it; None where it was not fetched.
fn server() -> Option<Server> {
    let weights = crate::text::downloaded("minilm/model.safetensors", "scripts/fetch_tokenizers.sh")?;
    let folder = weights.parent().expect("its folder");
    Some(Server::start(&["--model", &format!("minilm={}", folder.display())]))
}

fn cases() -> Vec<(String, Vec<f32>, usize)> {
    let golden = std::fs::read(golden_dir("embeddings").join("minilm.json")).expect("a golden");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let case = |case: &Value| {
        let text = case["text"].as_str().expect("a text").to_owned();
        (text, floats(&case["values"]), case["ids"].as_array().expect("ids").len())
    };
    golden["cases"].as_array().expect("cases").iter().map(case).collect()
}

fn floats(values: &Value) -> Vec<f32> {
    let values = values.as_array().unwrap_or_else(|| panic!("{values}"));
    values.iter().map(|value| value.as_f64().expect("a number") as f32).collect()
}

/// What base64 says, by a decoder of its own.
fn decoded(text: &str) -> Vec<f32> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} is not of the alphabet"),
    };
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits =
            group.iter().fold(0u32, |bits, c| bits << 6 | u32::from(digit(*c))) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four"))).collect()
}

#[tokio::test]
async fn minilms_vectors_are_those_of_sentence_transformers() {
    let Some(server) = server() else { return };
    let cases = cases();
    let texts: Vec<&str> = cases.iter().map(|(text, ..)| text.as_str()).collect();
    let (status, answer) =
        post(&server.url, "/v1/embeddings", &json!({ "model": "minilm", "input": texts })).await;
    assert_eq!(status, 200, "{answer}");
    let tokens: usize = cases.iter().map(|(.., tokens)| tokens).sum();
    assert_eq!(answer["usage"], json!({ "prompt_tokens": tokens, "total_tokens": tokens }));
    for ((text, wanted, _), found) in cases.iter().zip(answer["data"].as_array().expect("data")) {
        let found = floats(&found["embedding"]);
        assert_eq!((found.len(), wanted.len()), (384, 384));
        let apart = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5, "{text}: {apart}");
    }
    // The same numbers in base64, to the bit.
    let body = json!({ "model": "minilm", "input": texts, "encoding_format": "base64" });
    let (_, packed) = post(&server.url, "/v1/embeddings", &body).await;
    for (plain, packed) in
        answer["data"].as_array().expect("data").iter().zip(packed["data"].as_array().expect("data"))
    {
        assert_eq!(floats(&plain["embedding"]), decoded(packed["embedding"].as_str().expect("base64")));
    }
    let body = json!({ "model": "minilm", "input": "a", "dimensions": 100 });
    let (param, message) = refused(&server.url, "/v1/embeddings", &body).await;
    assert_eq!((&*param, message.contains("must be 384")), ("dimensions", true), "{message}");
}

#[tokio::test]
async fn minilm_tells_what_goes_together() {
    let Some(server) = server() else { return };
    let documents =
        ["Bread needs flour, water and salt.", "Paris is the capital of France.", "Cats sleep all day."];
    let body =
        json!({ "model": "minilm", "query": "What is the capital of France?", "documents": documents });
    let (status, answer) = post(&server.url, "/v1/rerank", &body).await;
    assert_eq!((status, &answer["results"][0]["index"]), (200, &json!(1)), "{answer}");
    let body = json!({ "model": "minilm", "text_1": documents[1], "text_2": documents });
    let (_, answer) = post(&server.url, "/v1/score", &body).await;
    let score = |index: usize| answer["data"][index]["score"].as_f64().expect("a score");
    assert!((score(1) - 1.0).abs() < 1e-5 && score(0) < 0.3 && score(2) < 0.3, "{answer}");
    // What is too long is said, or cut when asked for.
    let long = "word ".repeat(3000);
    let body = json!({ "model": "minilm", "input": ["a", long] });
    let (param, message) = refused(&server.url, "/v1/embeddings", &body).await;
    assert_eq!((&*param, message.contains("the model reads")), ("input[1]", true), "{message}");
    let body = json!({ "model": "minilm", "input": ["a", long], "truncate_prompt_tokens": -1 });
    assert_eq!(post(&server.url, "/v1/embeddings", &body).await.0, 200);
}
