//! candle-transformers as a second witness: it computes transformers' goldens from the same files.
//!
//! The server is compared with the goldens elsewhere. What candle-transformers 0.11 cannot witness:
//! - DeepSeek-V3 and MiniMax-M2: it has neither (its only routing is softmax).
//! - `deepseek-v2`: its group-limited routing takes the groups to keep from the experts' scores,
//!   where DeepSeek takes them from the groups' (`deepseek2.rs`, `GroupLimitedGreedy`).
//! - `qwen3-moe-mixed`: it does not know `mlp_only_layers`.
//! - FP8, AWQ, GPTQ: it reads none of them.

use super::{golden, ids, number, pair};
use crate::support::golden_dir;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{deepseek2, qwen3_moe};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Feeds the prompt, then one token after the other.
fn agrees<C: DeserializeOwned, M>(
    name: &str,
    load: impl Fn(&C, VarBuilder) -> Result<M>,
    forward: impl Fn(&mut M, &Tensor, usize) -> Result<Tensor>,
) {
    let folder = golden_dir(name);
    let config = std::fs::read_to_string(folder.join("config.json")).expect("config.json");
    // By a reader of YAML, of which JSON is a part: serde_json keeps numbers as they are written, and
    // hands candle's tagged enums a map for each.
    let config: C = serde_saphyr::from_str(&config).expect("candle's form of the config");
    let weights = std::fs::read(folder.join("model.safetensors")).expect("model.safetensors");
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).expect("tensors");
    let golden = golden(&format!("{name}/golden.json"));
    for (index, case) in golden["cases"].as_array().expect("cases").iter().enumerate() {
        // A new model has an empty KV cache.
        let mut model = load(&config, weights.clone()).expect("a model");
        let mut step = |tokens: &[u32], position| -> Vec<f32> {
            let input = Tensor::new(tokens, &Device::Cpu).and_then(|tokens| tokens.unsqueeze(0));
            let logits = input.and_then(|input| forward(&mut model, &input, position)).expect("logits");
            let logits = logits.flatten_all().and_then(|logits| logits.to_vec1::<f32>()).expect("f32");
            log_softmax(&logits)
        };
        let prompt: Vec<u32> = ids(&case["prompt"]).iter().map(|id| *id as u32).collect();
        let mut logprobs = step(&prompt, 0);
        for (id, expected) in first_logprobs(case) {
            let found = f64::from(logprobs[id as usize]);
            assert!(
                (found - expected).abs() <= 1e-3,
                "{name}, case {index}: token {id}: {found} for {expected}"
            );
        }
        for (at, expected) in ids(&case["tokens"]).into_iter().enumerate() {
            let best = (0..).zip(&logprobs).max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id);
            assert_eq!(best, Some(expected as u32), "{name}, case {index}: greedy token {at}");
            logprobs = step(&[expected as u32], prompt.len() + at);
        }
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    logits.iter().map(|logit| logit - highest - total.ln() as f32).collect()
}

fn first_logprobs(case: &Value) -> Vec<(u64, f64)> {
    match case["first_logprobs"].as_array() {
        Some(all) => (0..).zip(all.iter().map(number)).collect(),
        None => case["first_top"].as_array().expect("first_top").iter().map(pair).collect(),
    }
}

#[test]
fn candle_agrees_on_qwen3_moe() {
    agrees("qwen3-moe", qwen3_moe::ModelForCausalLM::new, qwen3_moe::ModelForCausalLM::forward);
}

#[test]
fn candle_agrees_on_deepseek_v2_lite() {
    agrees("deepseek-v2-lite", deepseek2::DeepSeekV2::new, deepseek2::DeepSeekV2::forward);
}
