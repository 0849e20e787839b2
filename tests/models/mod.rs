//! Whole models against transformers: greedy tokens and log-probabilities of tiny random
//! checkpoints (`scripts/goldens*.py` made both), through the real loader and the HTTP API.

mod broken;
mod config;
mod constrained;
mod dummy;
mod hip;
mod oracle;
mod parallel;

use crate::support::{golden_dir, server::Server};
use serde_json::{Value, json};
use std::collections::HashMap;

fn golden(file: &str) -> Value {
    let text = std::fs::read_to_string(golden_dir(file)).expect(file);
    serde_json::from_str(&text).expect(file)
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
/// goldens).
fn check_tokens(name: &str, golden: &Value, index: usize, status: u16, answer: &Value) {
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
}

/// The tokens, and the first step's log-probabilities within the golden's tolerance.
fn check(name: &str, golden: &Value, index: usize, status: u16, answer: &Value) {
    check_tokens(name, golden, index, status, answer);
    let (case, at) = (&golden["cases"][index], format!("{name}, case {index}"));
    let choice = &answer["choices"][0];
    let tolerance = golden["logprob_tolerance"].as_f64().expect("a tolerance");
    let top = choice["logprobs"]["top_logprobs"][0].as_object().expect("top_logprobs");
    assert_eq!(top.len(), 20, "{at}: as many as asked for");
    let expected: HashMap<u64, f64> = match case["first_logprobs"].as_array() {
        Some(all) => (0..).zip(all.iter().map(number)).collect(),
        None => case["first_top"].as_array().expect("first_top").iter().map(pair).collect(),
    };
    // Two tokens at the border of a list of 20 may change places within the tolerance.
    let lowest = expected.values().copied().fold(f64::INFINITY, f64::min);
    for (token, logprob) in top {
        let id = token.strip_prefix("token_id:").and_then(|id| id.parse().ok()).expect("an id");
        let (found, expected) = (number(logprob), expected.get(&id).copied().unwrap_or(lowest));
        assert!((found - expected).abs() <= tolerance, "{at}: token {id}: {found} for {expected}");
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn pair(value: &Value) -> (u64, f64) {
    (value[0].as_u64().expect("an id"), number(&value[1]))
}

/// `name` is a folder or a file below `tests/goldens`, `golden` what transformers made of it,
/// `options` further ones of `novastack serve`.
async fn one_by_one_and_all_at_once(name: &str, golden: &str, options: &[&str]) {
    let golden = self::golden(golden);
    let source = format!("tiny={}", golden_dir(name).display());
    let server = Server::start(&[&["--model", &source, "--step-tokens", "32"], options].concat());
    ask_all(name, &golden, &server).await;
}

/// The golden's requests to a server that serves its checkpoint as `tiny`.
async fn ask_all(name: &str, golden: &Value, server: &Server) {
    if let Some(chat) = golden.get("chat") {
        let body = json!({"model": "tiny", "messages": chat["messages"], "add_generation_prompt": true});
        let (status, answer) = server.post("/tokenize", &body).await;
        assert_eq!((status, &answer["tokens"]), (200, &chat["ids"]), "{name}: the chat template's tokens");
    }
    let cases = golden["cases"].as_array().expect("cases");
    for (index, case) in cases.iter().enumerate() {
        let (status, answer) = server.post("/v1/completions", &request(case)).await;
        check(name, golden, index, status, &answer);
    }
    let bodies: Vec<Value> = cases.iter().map(request).collect();
    let answers =
        futures_util::future::join_all(bodies.iter().map(|body| server.post("/v1/completions", body))).await;
    for (index, (status, answer)) in answers.iter().enumerate() {
        check(name, golden, index, *status, answer);
    }
}

macro_rules! checkpoints {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(#[tokio::test]
        async fn $test() {
            one_by_one_and_all_at_once($name, concat!($name, "/golden.json"), &[]).await;
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
    deepseek_v2_with_groups = "deepseek-v2",
    deepseek_v2_lite = "deepseek-v2-lite",
    deepseek_v2_with_heads_of_192_and_128 = "deepseek-v2-mla128",
    deepseek_v3 = "deepseek-v3",
    deepseek_v3_fp8 = "deepseek-v3-fp8",
    gemma3_with_norms_around_and_two_rotary_embeddings = "gemma3",
    granite_with_its_four_factors = "granite",
    llama = "llama",
    llama_bf16 = "llama-bf16",
    llama_f16 = "llama-f16",
    llama_linear_rope = "llama-linear",
    llama3_rope = "llama-llama3rope",
    llama_tied_embeddings_and_biases = "llama-tied-bias",
    llama_yarn = "llama-yarn",
    minimax_m2 = "minimax-m2",
    minimax_m2_fp8 = "minimax-m2-fp8",
    ministral_by_layer_types = "ministral",
    mistral_with_a_window_in_all_layers = "mistral",
    phi3_beyond_its_trained_context = "phi3",
    qwen2 = "qwen2",
    qwen2_awq = "qwen2-awq",
    qwen2_gptq_int4 = "qwen2-gptq-int4",
    qwen2_gptq_int4_with_zero_points = "qwen2-gptq-int4-asym",
    qwen2_gptq_int8 = "qwen2-gptq-int8",
    qwen2_sliding_window = "qwen2-sliding",
    qwen2_yarn_in_two_shards = "qwen2-yarn-sharded",
    qwen3 = "qwen3",
    qwen3_fp8 = "qwen3-fp8",
    qwen3_moe = "qwen3-moe",
    qwen3_moe_fp8 = "qwen3-moe-fp8",
    qwen3_moe_gptq_int4 = "qwen3-moe-gptq-int4",
    qwen3_moe_with_dense_layers = "qwen3-moe-mixed",
    smollm3_with_a_layer_that_does_not_rotate = "smollm3",
}

/// LongRoPE's short factors serve where no longer sequence can come, its long ones everywhere else;
/// from safetensors, where they are in the config, and from GGUF, where they are tensors.
#[tokio::test]
async fn phi3_within_its_trained_context() {
    for file in ["phi3", "gguf/phi3-f32.gguf"] {
        one_by_one_and_all_at_once(file, "phi3/golden_short.json", &["--max-context", "64"]).await;
    }
}

/// llama.cpp's own converter made these files from the same checkpoints (it permutes q and k of
/// Llama), its quantizer the quantized ones; the goldens are transformers on the dequantised weights.
#[tokio::test]
async fn gguf_files_of_every_type() {
    let mut tested = 0;
    for entry in std::fs::read_dir(golden_dir("gguf")).expect("goldens").flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if let Some(name) = file.strip_suffix(".gguf") {
            one_by_one_and_all_at_once(&format!("gguf/{file}"), &format!("gguf/{name}.json"), &[]).await;
            tested += 1;
        }
    }
    assert!(tested >= 28, "{tested} files: F32, F16, BF16, every quantized type and mixtures");
}

/// The demo checkpoint's own chat answers, template and tokenizer included.
#[tokio::test]
async fn the_demo_checkpoint_answers_as_transformers_does() {
    let Some(file) = crate::support::demo_checkpoint() else { return };
    let golden = golden("demo.json");
    let server =
        Server::start(&["--model", &format!("tiny={}", file.display()), "--kv-cache-memory", "256M"]);
    for (index, case) in golden["cases"].as_array().expect("cases").iter().enumerate() {
        let (status, answer) = server.post("/v1/completions", &request(case)).await;
        check("demo", &golden, index, status, &answer);
        let (status, tokens) = server
            .post(
                "/tokenize",
                &json!({"model": "tiny", "messages": case["messages"], "add_generation_prompt": true}),
            )
            .await;
        assert_eq!(
            (status, &tokens["tokens"]),
            (200, &case["prompt"]),
            "demo, case {index}: the rendered prompt"
        );
    }
}

/// Mapped pages and load-time copies do not stay: weights in their served form (smaller than the
/// file), the KV cache, and 400 MB for everything else.
#[tokio::test]
async fn resident_memory_is_bounded() {
    let Some(file) = crate::support::demo_checkpoint() else { return };
    let server =
        Server::start(&["--model", &format!("tiny={}", file.display()), "--kv-cache-memory", "256M"]);
    let body = json!({"model": "tiny", "prompt": vec![7; 4000], "max_tokens": 2, "ignore_eos": true});
    assert_eq!(server.post("/v1/completions", &body).await.0, 200);
    let weights_kib = std::fs::metadata(&file).expect("the file").len() / 1024;
    let limit_kib = weights_kib + (256 + 400) * 1024;
    let peak_kib = server.peak_resident_kib();
    assert!(peak_kib <= limit_kib, "{peak_kib} KiB resident at the peak, {limit_kib} allowed");
}
