//! config.json as transformers reads it, and what of it is refused.

use crate::support::golden_dir;
use novastack::model::ModelConfig;
use novastack::model::config::{Rotation, Scales};
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
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/configs");
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

/// It was not seen once, and 10,000 taken for it.
#[test]
fn a_base_by_type_of_layer_is_used() {
    let nested = |types: Value| json!({"rope_theta": null, "rope_scaling": null, "rope_parameters": types});
    let full = json!({"rope_type": "default", "rope_theta": 100_000.0});
    let read = |types: Value| read(&published("Llama-3.1-8B", nested(types)));
    let one = read(json!({"full_attention": full})).expect("a config");
    assert_eq!((one.rope.theta, one.rope.scaling), (1e5, RopeScaling::Default));
    let both = read(json!({"full_attention": full, "sliding_attention": {"rope_theta": 1e4}}));
    assert_eq!(both.expect("no layer slides").rope.theta, 1e5);
    for (types, word) in [
        (
            json!({"full_attention": {"rope_type": "default"}}),
            "rope_parameters.full_attention.rope_theta: is missing",
        ),
        (json!({"sliding_attention": full}), "rope_parameters.full_attention: is missing"),
        (json!({"rope_type": "default"}), "rope_parameters.rope_theta: is missing"),
        (
            json!({"full_attention": full, "chunked_attention": {"rope_theta": 7.0}}),
            "rope_parameters.chunked_attention.rope_theta: 7.0 is not supported",
        ),
        (
            json!({"full_attention": {"rope_type": "default", "rope_theta": 1e5, "mrope_section": [16, 24]}}),
            "rope_parameters.full_attention.mrope_section: [16,24] is not supported",
        ),
    ] {
        let error = read(types).expect_err(word);
        assert!(error.contains(word), "{error}");
    }
}

/// Each type of layer has its own embedding, and layers that slide need one.
#[test]
fn sliding_layers_have_their_own_base() {
    let full = json!({"rope_type": "default", "rope_theta": 1e6});
    let ministral = |parameters: Value| {
        read(&changed(&golden_dir("ministral").join("config.json"), json!({"rope_parameters": parameters})))
    };
    let both =
        ministral(json!({"full_attention": full, "sliding_attention": {"rope_theta": 5e4}})).expect("both");
    assert_eq!(both.sliding_rope.map(|rope| rope.theta), Some(5e4));
    assert_eq!(both.rotations, [Rotation::Sliding, Rotation::Full]);
    let error = ministral(json!({"full_attention": full})).expect_err("one is missing");
    assert!(error.contains("rope_parameters.sliding_attention: is missing"), "{error}");
}

/// A field that is about a feature is used, or refused with its name and value.
#[test]
fn a_field_that_would_give_other_logits_is_refused() {
    for (name, fields, field) in [
        ("Llama-3.1-8B", json!({"sliding_window": 4096}), "sliding_window: 4096"),
        (
            "Llama-3.1-8B",
            json!({"layer_types": vec!["sliding_attention"; 32]}),
            "layer_types: sliding_attention",
        ),
        ("Llama-3.1-8B", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping: 50.0"),
        ("Llama-3.1-8B", json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping: 30.0"),
        ("Llama-3.1-8B", json!({"embedding_multiplier": 12.0}), "embedding_multiplier: 12.0"),
        ("Llama-3.1-8B", json!({"attention_multiplier": 0.5}), "attention_multiplier: 0.5"),
        ("Llama-3.1-8B", json!({"residual_multiplier": 0.22}), "residual_multiplier: 0.22"),
        ("Llama-3.1-8B", json!({"logits_scaling": 8.0}), "logits_scaling: 8.0"),
        ("Llama-3.1-8B", json!({"scale_emb": 12}), "scale_emb: 12"),
        ("Llama-3.1-8B", json!({"query_pre_attn_scalar": 256}), "query_pre_attn_scalar: 256"),
        ("Llama-3.1-8B", json!({"num_local_experts": 8}), "num_local_experts: 8"),
        ("Llama-3.1-8B", json!({"use_qk_norm": true}), "use_qk_norm: true"),
        ("Llama-3.1-8B", json!({"norm_eps": 1e-5}), "norm_eps: "),
        ("Llama-3.1-8B", json!({"no_rope_layers": [1, 1, 1, 0]}), "no_rope_layers: [1,1,1,0]"),
        ("Llama-3.1-8B", json!({"clip_qkv": 8.0}), "clip_qkv: 8.0"),
        ("Llama-3.1-8B", json!({"attention_sink": true}), "attention_sink: true"),
        ("Llama-3.1-8B", json!({"position_embedding_type": "alibi"}), "position_embedding_type: \"alibi\""),
        ("Llama-3.1-8B", json!({"text_config": {"hidden_size": 8}}), "text_config.hidden_size: 8"),
        ("Qwen3-8B", json!({"use_qk_norm": false}), "use_qk_norm: false"),
        ("Qwen3-8B", json!({"hidden_activation": "gelu"}), "hidden_activation: \"gelu\""),
        ("Qwen3-8B", json!({"moe_intermediate_size": 64}), "moe_intermediate_size: 64"),
        (
            "Qwen3-8B",
            json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "low_freq_factor": 1.0, "alpha": 1000}}),
            "rope_scaling.alpha: 1000",
        ),
        (
            "Qwen3-8B",
            json!({"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}}),
            "rope_scaling.type: `dynamic` contradicts",
        ),
        ("DeepSeek-V3", json!({"index_topk": 2048}), "index_topk: 2048"),
        ("DeepSeek-V3", json!({"sliding_window": 4096}), "sliding_window: 4096"),
        ("MiniMax-M2", json!({"attn_type_list": [0, 1]}), "attn_type_list: must be a list of 1"),
        ("MiniMax-M2", json!({"qk_norm_type": "per_head"}), "qk_norm_type: `per_head`"),
        ("MiniMax-M2", json!({"use_routing_bias": false}), "use_routing_bias: false"),
        ("MiniMax-M2", json!({"layernorm_full_attention_alpha": 3.5}), "layernorm_full_attention_alpha: 3.5"),
        (
            "Qwen3-8B",
            json!({"quantization_config": {
                "quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:.*down.*": {"bits": 8}},
            }}),
            "quantization_config.dynamic.+:.*down.*.bits: 8",
        ),
    ] {
        refused(name, fields, &[field]);
    }
    refused(
        "Llama-3.1-8B",
        json!({"residual_multiplier": 0.22}),
        &["is not supported for LlamaForCausalLM", "take it out of config.json only if"],
    );
}

/// What publishers and transformers write beside the fields that are used.
#[test]
fn published_configs_load() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/configs");
    let mut files: Vec<_> =
        std::fs::read_dir(directory).expect("configs").flatten().map(|e| e.path()).collect();
    let goldens = std::fs::read_dir(golden_dir("")).expect("goldens").flatten();
    files.extend(goldens.map(|golden| golden.path().join("config.json")).filter(|file| file.exists()));
    assert!(files.len() > 30);
    for file in files {
        if let Err(error) = read(&changed(&file, json!({}))) {
            panic!("{}: {error}", file.display());
        }
    }
    let gptq = json!({
        "batch_size": 1, "bits": 4, "block_name_to_quantize": null, "cache_block_outputs": true, "damp_percent": 0.01,
        "dataset": null, "desc_act": false, "exllama_config": {"version": 1}, "group_size": 128,
        "max_input_length": null, "model_seqlen": null, "module_name_preceding_first_block": null,
        "modules_in_block_to_quantize": null, "pad_token_id": null, "quant_method": "gptq", "sym": true,
        "tokenizer": null, "true_sequential": true, "use_cuda_fp16": false, "use_exllama": true,
    });
    let gptqmodel = json!({
        "bits": 4, "checkpoint_format": "gptq", "desc_act": false, "group_size": 128, "lm_head": false,
        "meta": {
            "damp_auto_increment": 0.0025, "damp_percent": 0.01, "mse": 0.0, "quantizer": ["gptqmodel:2.0.0"],
            "static_groups": false, "true_sequential": true, "uri": "https://example.org", "act_group_aware": true,
        },
        "pack_dtype": "int32", "quant_method": "gptq", "sym": true, "dynamic": null,
    });
    let awq = json!({
        "backend": "autoawq", "bits": 4, "do_fuse": false, "exllama_config": null, "fuse_max_seq_len": null,
        "group_size": 128, "modules_to_fuse": null, "modules_to_not_convert": null, "quant_method": "awq",
        "version": "gemm", "zero_point": true,
    });
    let fp8 = json!({
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"],
    });
    for (name, fields) in [
        // SmolLM2, DeepSeek-R1-Distill-Llama, Llama 2 as first published, fine-tunes.
        (
            "Llama-3.1-8B",
            json!({
                "is_llama_config": true, "rope_interleaved": false, "rope_scaling": null, "pretraining_tp": 1,
                "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}, "use_external_data_format": true},
                "unsloth_fixed": true, "_name_or_path": "x", "_attn_implementation_autoset": true, "head_dim": 128,
                "attention_dropout": 0.0, "mlp_bias": false, "residual_multiplier": 1.0, "sliding_window": null,
                "position_embedding_type": "rope",
            }),
        ),
        // As transformers 5 writes a Qwen2.
        (
            "Qwen2.5-7B-Instruct",
            json!({
                "rope_theta": null, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "dtype": "bfloat16",
                "layer_types": vec!["full_attention"; 28], "max_window_layers": 28, "sliding_window": 131_072,
                "use_sliding_window": false, "use_mrope": false, "output_attentions": false, "layerdrop": 0.0,
            }),
        ),
        ("Qwen2.5-7B-Instruct", json!({"quantization_config": gptq})),
        ("Qwen2.5-7B-Instruct", json!({"quantization_config": gptqmodel})),
        ("Qwen2.5-7B-Instruct", json!({"quantization_config": awq})),
        (
            "Qwen3-30B-A3B",
            json!({"quantization_config": fp8, "mlp_only_layers": [], "max_window_layers": 48}),
        ),
        ("DeepSeek-V3", json!({"quantization_config": fp8, "rope_interleave": true, "qk_head_dim": 192})),
        // Qwen3-Coder.
        (
            "Qwen3-30B-A3B",
            json!({"use_qk_norm": true, "qkv_bias": false, "shared_expert_intermediate_size": 0, "rope_theta": 1e7}),
        ),
        // YaRN as Qwen's model cards tell users to add it, and as older tools wrote it.
        (
            "Qwen3-8B",
            json!({"rope_scaling": {
                "type": "yarn", "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
                "finetuned": true,
            }}),
        ),
    ] {
        if let Err(error) = read(&published(name, fields)) {
            panic!("{name}: {error}");
        }
    }
}

/// Configs of Llama's relatives as they are published, with the parameters that the hub counts.
#[test]
fn llamas_relatives_are_read_as_published() {
    let common = json!({
        "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "initializer_range": 0.02,
        "torch_dtype": "bfloat16", "transformers_version": "4.44.0", "use_cache": true,
    });
    let config = |fields: Value| {
        let mut config = common.clone();
        config.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
        read(&config).unwrap_or_else(|error| panic!("{error}"))
    };
    let params = |config: &ModelConfig| novastack::model::inventory::counts(config).total;

    let mut mistral = json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": null, "tie_word_embeddings": false,
        "vocab_size": 32768,
    });
    let v3 = config(mistral.clone());
    assert_eq!((params(&v3), v3.windows[0]), (7_248_023_552, None));
    // 7B v0.1 has a window; absent, transformers takes it for one.
    mistral["sliding_window"] = 4096.into();
    assert!(config(mistral.clone()).windows.iter().all(|window| *window == Some(4096)));
    mistral.as_object_mut().expect("fields").remove("sliding_window");
    assert!(config(mistral).windows.iter().all(|window| *window == Some(4096)));
    let nemo = config(json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "head_dim": 128, "hidden_size": 5120,
        "intermediate_size": 14336, "max_position_embeddings": 131_072, "num_attention_heads": 32,
        "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 131_072,
    }));
    assert_eq!(params(&nemo), 12_247_782_400);

    let rotates = [1, 1, 1, 0].repeat(9);
    let smollm3 = config(json!({
        "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "attention_bias": false, "hidden_size": 2048,
        "intermediate_size": 11008, "layer_types": vec!["full_attention"; 36], "max_position_embeddings": 65536,
        "max_window_layers": 28, "mlp_bias": false,
        "no_rope_layer_interval": 4, "no_rope_layers": rotates,
        "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 4, "pretraining_tp": 2,
        "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 5e6, "sliding_window": null,
        "use_sliding_window": false, "vocab_size": 128_256,
    }));
    assert_eq!(params(&smollm3), 3_075_098_624);
    let unrotated: Vec<usize> = (0..36).filter(|layer| smollm3.rotations[*layer] == Rotation::None).collect();
    assert_eq!(unrotated, [3, 7, 11, 15, 19, 23, 27, 31, 35]);

    let granite = config(json!({
        "architectures": ["GraniteForCausalLM"], "model_type": "granite", "attention_bias": false,
        "attention_multiplier": 0.0078125, "embedding_multiplier": 12.0, "hidden_size": 4096,
        "intermediate_size": 12800, "logits_scaling": 16.0, "max_position_embeddings": 131_072, "mlp_bias": false,
        "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "residual_multiplier": 0.22,
        "rms_norm_eps": 1e-5, "rope_scaling": null, "rope_theta": 1e7, "tie_word_embeddings": true,
        "vocab_size": 49159,
    }));
    assert_eq!(params(&granite), 8_170_864_640);
    assert_eq!(granite.scales, Scales { embedding: 12.0, residual: 0.22, logits: 0.0625 });
    assert_eq!(granite.gqa().scale, 0.0078125);

    let gemma3 = config(json!({
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": false,
        "attn_logit_softcapping": null, "cache_implementation": "hybrid", "final_logit_softcapping": null,
        "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
        "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000, "rope_scaling": null,
        "rope_theta": 1_000_000, "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262_144,
    }));
    assert_eq!((params(&gemma3), gemma3.gqa().scale), (999_885_952, 0.0625));
    let full: Vec<usize> = (0..26).filter(|layer| gemma3.windows[*layer].is_none()).collect();
    assert_eq!(full, [5, 11, 17, 23]);
    let thetas = (gemma3.rope.theta, gemma3.sliding_rope.as_ref().map(|rope| rope.theta));
    assert_eq!(
        (thetas, gemma3.rotations[0], gemma3.rotations[5]),
        ((1e6, Some(1e4)), Rotation::Sliding, Rotation::Full)
    );

    let mut phi4 = json!({
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": false, "embd_pdrop": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "full_attn_mod": 1, "hidden_size": 3072,
        "intermediate_size": 8192, "interpolate_factor": 1, "lm_head_bias": false, "max_position_embeddings": 131_072,
        "mlp_bias": false, "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096, "pad_token_id": 199_999, "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 262_144,
        "rope_scaling": {"long_factor": vec![1.5; 48], "short_factor": vec![1.0; 48], "type": "longrope"},
        "tie_word_embeddings": true, "vocab_size": 200_064,
    });
    let read_phi4 = config(phi4.clone());
    assert_eq!((params(&read_phi4), read_phi4.rotary_dim()), (3_836_021_760, 96));
    // sqrt(1 + ln(32) / ln(4096)), whatever factors serve.
    assert!((read_phi4.rope.attention_factor() - 1.190_238).abs() < 1e-6);
    // Phi-3-mini-4k and Phi-4 name the length of training too, and have nothing stretched.
    let mut plain = phi4.clone();
    plain["rope_scaling"] = Value::Null;
    plain["max_position_embeddings"] = 4096.into();
    assert_eq!(config(plain).max_context, 4096);
    phi4["rope_scaling"]["long_factor"] = json!(vec![1.5; 64]);
    let error = read(&phi4).expect_err("too many factors");
    assert!(error.contains("rope_scaling.long_factor: must be a list of 48 numbers"), "{error}");
}

/// Relatives that need what no kernel here does are refused, and so is a model of more than text.
#[test]
fn other_relatives_are_refused_by_name() {
    for class in
        ["Gemma2ForCausalLM", "Gemma3ForConditionalGeneration", "Ministral3ForCausalLM", "MixtralForCausalLM"]
    {
        refused(
            "Llama-3.1-8B",
            json!({"architectures": [class]}),
            &[class, "MistralForCausalLM", "Gemma3ForCausalLM"],
        );
    }
}

/// Fields of a family that are there to be read are checked as strictly as any.
#[test]
fn absurd_fields_of_llamas_relatives_are_named() {
    let golden = |name: &str, fields: Value| {
        read(&changed(&golden_dir(name).join("config.json"), fields)).expect_err(name)
    };
    for (name, fields, words) in [
        (
            "smollm3",
            json!({"no_rope_layers": [1, 1, 2, 0]}),
            "no_rope_layers: must be a list of 4 numbers 0 or 1",
        ),
        ("smollm3", json!({"no_rope_layers": [1]}), "no_rope_layers: must be a list of 4 numbers 0 or 1"),
        ("granite", json!({"residual_multiplier": 0}), "residual_multiplier: must be greater than 0"),
        ("granite", json!({"logits_scaling": "8"}), "logits_scaling: must be a number"),
        (
            "granite",
            json!({"num_local_experts": 8}),
            "num_local_experts: 8 is not supported for GraniteForCausalLM",
        ),
        ("mistral", json!({"sliding_window": -1}), "sliding_window: must be a whole number from 1"),
        ("ministral", json!({"layer_types": ["full_attention"]}), "layer_types: must be a list of 2 strings"),
        ("gemma3", json!({"hidden_activation": "silu"}), "hidden_activation: `silu` is not supported"),
        ("gemma3", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping: 50.0 is not supported"),
        ("gemma3", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention: true"),
        ("phi3", json!({"full_attn_mod": 2}), "full_attn_mod: other than 1 is not supported"),
        (
            "phi3",
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 0], "long_factor": [1]}}),
            "rope_scaling.short_factor: must be a list of numbers greater than 0",
        ),
    ] {
        let error = golden(name, fields);
        assert!(error.contains(words), "{error}");
    }
}
