//! Whole models against transformers: greedy tokens and log-probabilities of tiny random
//! checkpoints (`scripts/goldens.py` made both), through the real loader and the HTTP API.

use crate::support::{golden_dir, server::Server};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let text = std::fs::read_to_string(golden_dir(name).join("golden.json")).expect("golden.json");
    serde_json::from_str(&text).expect("golden.json is JSON")
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list of ids").iter().map(|id| id.as_u64().expect("an id")).collect()
}

/// One case as a request that reports token ids and the first tokens' log-probabilities.
fn request(case: &Value) -> Value {
    json!({
        "model": "tiny", "prompt": case["prompt"], "max_tokens": case["tokens"].as_array().map(Vec::len),
        "temperature": 0, "ignore_eos": true, "return_token_ids": true, "logprobs": 20,
        "return_tokens_as_token_ids": true,
    })
}

/// Greedy tokens equal transformers' wherever its margin is at least 0.05 nats (everywhere, in f32
/// goldens); the first step's log-probabilities within the golden's tolerance.
fn check(name: &str, golden: &Value, index: usize, status: u16, answer: &Value) {
    let case = &golden["cases"][index];
    let at = format!("{name}, case {index}");
    assert_eq!(status, 200, "{at}: {answer}");
    let choice = &answer["choices"][0];
    assert_eq!(ids(&choice["prompt_token_ids"]), ids(&case["prompt"]), "{at}: prompt ids");
    let (expected, found) = (ids(&case["tokens"]), ids(&choice["token_ids"]));
    let margins = case["margins"].as_array().expect("margins");
    let certain = margins.iter().position(|m| m.as_f64().unwrap_or(0.0) < 0.05).unwrap_or(expected.len());
    assert!(certain > 0, "{at}: the golden says something");
    assert_eq!(found[..certain], expected[..certain], "{at}: greedy tokens");

    let tolerance = golden["logprob_tolerance"].as_f64().expect("a tolerance");
    let top = choice["logprobs"]["top_logprobs"][0].as_object().expect("top_logprobs");
    for (rank, pair) in case["first_top"].as_array().expect("first_top").iter().enumerate() {
        let (id, logprob) = (pair[0].as_u64().expect("id"), pair[1].as_f64().expect("logprob"));
        match top.get(&format!("token_id:{id}")).and_then(Value::as_f64) {
            Some(found) => assert!((found - logprob).abs() <= tolerance, "{at}: token {id}: {found} for {logprob}"),
            // Two tokens at the border of the list may change places within the tolerance.
            None => assert!(rank >= 15, "{at}: token {id} is not among the most probable"),
        }
    }
}

async fn one_by_one_and_all_at_once(name: &str) {
    let golden = golden(name);
    let source = format!("tiny={}", golden_dir(name).display());
    let server = Server::start(&["--model", &source, "--step-tokens", "32"]);
    let cases = golden["cases"].as_array().expect("cases");
    for (index, case) in cases.iter().enumerate() {
        let (status, answer) = server.post("/v1/completions", &request(case)).await;
        check(name, &golden, index, status, &answer);
    }
    let bodies: Vec<Value> = cases.iter().map(request).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| server.post("/v1/completions", body))).await;
    for (index, (status, answer)) in answers.iter().enumerate() {
        check(name, &golden, index, *status, answer);
    }
}

macro_rules! checkpoints {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(#[tokio::test]
        async fn $test() {
            one_by_one_and_all_at_once($name).await;
        })*

        #[test]
        fn every_golden_is_tested() {
            let tested = [$($name),*];
            for entry in std::fs::read_dir(golden_dir("")).expect("goldens").flatten() {
                if entry.path().join("golden.json").exists() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    assert!(tested.contains(&name.as_str()), "{name} has no test");
                }
            }
        }
    };
}

checkpoints! {
    llama = "llama",
    llama_bf16 = "llama-bf16",
    llama_f16 = "llama-f16",
    llama_linear_rope = "llama-linear",
    llama3_rope = "llama-llama3rope",
    llama_tied_embeddings_and_biases = "llama-tied-bias",
    llama_yarn = "llama-yarn",
    qwen2 = "qwen2",
    qwen2_sliding_window = "qwen2-sliding",
    qwen2_yarn_in_two_shards = "qwen2-yarn-sharded",
    qwen3 = "qwen3",
}
