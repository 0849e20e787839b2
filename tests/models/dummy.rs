//! Weights made from a config alone (`--load-format dummy`).

use super::ids;
use crate::support::{golden_dir, server::Server};
use serde_json::json;

#[tokio::test]
async fn dummy_weights_need_a_config_alone_and_follow_their_seed() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(golden_dir("qwen3").join("config.json"), folder.path().join("config.json"))
        .expect("a copy");
    let source = format!("tiny={}", folder.path().display());
    let mut outputs = Vec::new();
    for seed in ["7", "7", "8"] {
        let server = Server::start(&["--model", &source, "--load-format", "dummy", "--dummy-seed", seed]);
        let body = json!({"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 16, "temperature": 0, "return_token_ids": true});
        let (status, answer) = server.post("/v1/completions", &body).await;
        assert_eq!(status, 200, "{answer}");
        outputs.push(ids(&answer["choices"][0]["token_ids"]));
        let (status, answer) =
            server.post("/v1/completions", &json!({"model": "tiny", "prompt": "text"})).await;
        assert_eq!(status, 400, "text needs a tokenizer: {answer}");
    }
    assert_eq!(outputs[0], outputs[1]);
    assert_ne!(outputs[0], outputs[2]);
}

/// Qwen3-30B-A3B's config.json as published, but for the number of layers.
fn qwen3_30b_a3b(layers: usize) -> serde_json::Value {
    json!({
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144,
        "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
        "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": true,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": layers, "num_key_value_heads": 4, "output_router_logits": false,
        "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true,
        "use_sliding_window": false, "vocab_size": 151936,
    })
}

/// Two of its 48 layers: 2 * 623 million parameters of layers and 622 million of embedding and
/// head, in 2 bytes each. While loading, no more than one matrix may be held twice.
#[tokio::test]
async fn a_published_mixture_cut_to_two_layers_answers_within_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), qwen3_30b_a3b(2).to_string()).expect("a config");
    let source = format!("big={}", folder.path().display());
    let options = ["--model", &source, "--load-format", "dummy", "--kv-cache-memory", "64M"];
    let server = Server::start(&options);
    let body = json!({
        "model": "big", "prompt": (1..=40).collect::<Vec<_>>(), "max_tokens": 4, "temperature": 0,
        "ignore_eos": true, "return_token_ids": true,
    });
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    let first = ids(&answer["choices"][0]["token_ids"]);
    assert_eq!(first.len(), 4);
    let (_, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(ids(&answer["choices"][0]["token_ids"]), first, "the same on the second time");

    let (hidden, heads, kv_heads, expert, vocab) = (2048, 32 * 128, 4 * 128, 768, 151_936);
    let attention = hidden * (2 * heads + 2 * kv_heads);
    let layer = attention + 128 * (3 * hidden * expert + hidden);
    let weights_kib = 2 * (2 * layer + 2 * vocab * hidden) / 1024;
    let largest_kib = 2 * vocab * hidden / 1024;
    // Beside them 64 MiB of KV cache, and 400 for the program and a step's activations.
    let limit_kib = weights_kib + largest_kib + (64 + 400) * 1024;
    let peak_kib = server.peak_resident_kib();
    assert!(peak_kib <= limit_kib, "{peak_kib} KiB resident at the peak, {limit_kib} allowed");
}
