//! config.json as transformers reads it, and what of it is refused.

use crate::support::golden_dir;
use novastack::model::ModelConfig;
use novastack::model::inventory::check;
use novastack::model::rope::RopeScaling;
use serde_json::{Value, json};
use std::path::Path;

fn read(config: &Value) -> Result<ModelConfig, String> {
    ModelConfig::from_json(config).map_err(|error| error.to_string())
}

fn changed(file: &Path, fields: Value) -> Value {
    let text = std::fs::read_to_string(file).expect("a config");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    for (field, value) in fields.as_object().expect("fields") {
        config[field] = value.clone();
    }
    config
}

fn published(name: &str, fields: Value) -> Value {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inspect/configs");
    changed(&directory.join(format!("{name}.json")), fields)
}

/// A published config with these fields, each error naming these words.
#[track_caller]
fn refused(name: &str, fields: Value, words: &[&str]) {
    let error = read(&published(name, fields)).expect_err("refused");
    for word in words {
        assert!(error.contains(word), "{word} in {error}");
    }
}

#[test]
fn absurd_sizes_are_named() {
    refused(
        "DeepSeek-V3",
        json!({"num_nextn_predict_layers": 65}),
        &["num_nextn_predict_layers", "64", "65"],
    );
    refused("MiniMax-M2", json!({"num_mtp_modules": 65}), &["num_mtp_modules", "at most 64"]);
    refused(
        "DeepSeek-V3",
        json!({"num_hidden_layers": 4096, "n_routed_experts": 4096}),
        &["num_hidden_layers", "n_routed_experts", "131072"],
    );
    // Of the size of the largest that is published, and of what comes next.
    let next = published(
        "DeepSeek-V3",
        json!({"num_hidden_layers": 128, "n_routed_experts": 1024, "num_nextn_predict_layers": 0}),
    );
    check(&read(&next).expect("possible")).expect("possible");
    let most = 1 << 24;
    let absurd = json!({
        "hidden_size": most, "intermediate_size": most, "moe_intermediate_size": most, "vocab_size": most,
        "n_shared_experts": most, "num_attention_heads": most, "q_lora_rank": most,
    });
    let config = read(&published("DeepSeek-V3", absurd)).expect("each by itself is possible");
    let error = check(&config).expect_err("absurd").to_string();
    assert!(error.contains("hidden_size") && error.contains("parameters"), "{error}");
}

#[test]
fn a_stretched_context_is_bounded() {
    for (factor, original) in [(0.5, 4096), (1e300, 4096), (4097.0, 4096), (2.0, 1 << 24)] {
        let yarn = json!({
            "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
        });
        refused(
            "Qwen3-8B",
            json!({"rope_scaling": yarn}),
            &["rope_scaling.factor", "at least 1", "16777216"],
        );
    }
    let yarn = json!({"rope_type": "yarn", "factor": 4096.0, "original_max_position_embeddings": 4096});
    let config = read(&published("Qwen3-8B", json!({"rope_scaling": yarn}))).expect("the longest");
    assert_eq!(config.max_context, 1 << 24);
}

/// transformers: `rope_scaling or self.rope_parameters`.
#[test]
fn rope_scaling_wins_over_rope_parameters() {
    let parameters = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e6});
    let scaling = json!({"rope_type": "linear", "factor": 4.0});
    let rope = |scaling: Value| {
        let fields = json!({"rope_theta": null, "rope_parameters": parameters, "rope_scaling": scaling});
        read(&published("Qwen3-8B", fields)).expect("a config").rope
    };
    for (given, factor) in [(scaling, 4.0), (json!({}), 2.0), (Value::Null, 2.0)] {
        let rope = rope(given);
        assert_eq!((rope.theta, rope.scaling), (5e6, RopeScaling::Linear { factor }));
    }
    let own = rope(json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}));
    assert_eq!(own.theta, 1e4);
}

/// Unlike Qwen2 and Qwen3, whose first `max_window_layers` do not.
#[test]
fn all_layers_of_qwen3_moe_slide() {
    let fields = json!({"use_sliding_window": true, "sliding_window": 4096, "max_window_layers": 28});
    let moe = read(&published("Qwen3-30B-A3B", fields.clone())).expect("a config");
    assert!(moe.windows.iter().all(|window| *window == Some(4096)));
    let dense = read(&published("Qwen3-8B", fields)).expect("a config");
    assert_eq!(dense.windows.iter().position(Option::is_some), Some(28));
}

#[test]
fn deepseeks_defaults_are_those_of_transformers() {
    refused("DeepSeek-V2", json!({"norm_topk_prob": true}), &["norm_topk_prob", "true is not supported"]);
    let absent = json!({
        "n_shared_experts": null, "first_k_dense_replace": null, "routed_scaling_factor": null,
        "norm_topk_prob": null,
    });
    for (name, shared, dense, scale) in [("deepseek-v2", 2, 0, 1.0), ("deepseek-v3", 1, 3, 2.5)] {
        let file = golden_dir(name).join("config.json");
        let moe = read(&changed(&file, absent.clone())).expect("a config").moe.expect("experts");
        assert_eq!(moe.shared_intermediate, shared * moe.intermediate, "{name}");
        assert_eq!(
            moe.sparse.iter().filter(|sparse| !**sparse).count(),
            dense.min(moe.sparse.len()),
            "{name}"
        );
        assert_eq!((moe.routing.scale, moe.routing.normalise), (scale, name == "deepseek-v3"), "{name}");
    }
}
