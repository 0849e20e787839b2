//! Tensor parallelism on the CPU: n ranks, each with its part of every weight, give the tokens of
//! one wherever transformers' margin is at least 0.05 nats (sums are made in another order).

use super::one_by_one_and_all_at_once;
use crate::support::{golden_dir, server::Server};

async fn with_ranks(name: &str, ranks: &[&str]) {
    for ranks in ranks {
        let golden = format!("{name}/golden.json");
        one_by_one_and_all_at_once(name, &golden, &["--tensor-parallel", ranks]).await;
    }
}

macro_rules! tensor_parallel {
    ($($test:ident = $name:literal in $ranks:expr),* $(,)?) => {
        $(#[tokio::test]
        async fn $test() {
            with_ranks($name, &$ranks).await;
        })*
    };
}

tensor_parallel! {
    deepseek_v2_lite = "deepseek-v2-lite" in ["2", "4", "8"],
    deepseek_v3 = "deepseek-v3" in ["2", "4", "8"],
    // Four heads.
    llama = "llama" in ["2", "4"],
    // Biases are added once, not once per rank.
    llama_with_biases = "llama-tied-bias" in ["2", "4"],
    // Four kv heads: at 8 each is held by two ranks. The norm of q and k runs over all ranks' heads.
    minimax_m2 = "minimax-m2" in ["2", "4", "8"],
    qwen2 = "qwen2" in ["2", "4"],
    qwen3 = "qwen3" in ["2", "4"],
    qwen3_moe = "qwen3-moe" in ["2", "4", "8"],
    // One dense layer after the other and 12 experts, which 8 does not divide; 4 heads.
    qwen3_moe_with_dense_layers = "qwen3-moe-mixed" in ["2", "4"],
    // Blocks of 128 cannot be cut: experts of 128 stay whole.
    deepseek_v3_fp8 = "deepseek-v3-fp8" in ["2"],
    minimax_m2_fp8 = "minimax-m2-fp8" in ["2"],
    qwen3_fp8 = "qwen3-fp8" in ["2"],
    // As Qwen3-235B-FP8 on eight: kv heads held twice, whole experts because of their blocks.
    qwen3_moe_fp8 = "qwen3-moe-fp8" in ["2", "4", "8"],
    // Groups of 64 along experts of 64.
    qwen3_moe_gptq_int4 = "qwen3-moe-gptq-int4" in ["2", "4"],
}

#[test]
fn heads_that_cannot_be_split_are_named() {
    let source = format!("tiny={}", golden_dir("llama").display());
    for ranks in ["3", "8"] {
        let log =
            Server::try_start(&["--model", &source, "--tensor-parallel", ranks]).err().expect("no server");
        assert!(log.contains("heads") && log.contains(ranks) && !log.contains("panicked"), "{log}");
    }
}
