//! GGUF files of mixtures of experts: the config they give, experts cut out of stacked tensors,
//! and what is refused.

use super::{error_naming, open_gguf, read_all};
use crate::support::gguf_writer::{GgufWriter, Meta, tiny_moe};
use crate::support::golden_dir;
use novastack::backend::{ExpertGroups, GroupScore, Scoring};
use novastack::checkpoint::{Checkpoint, TensorData};
use novastack::model::ModelConfig;
use novastack::model::config::{Attention, Family};
use proptest::prelude::*;
use serde_json::json;

fn open(writer: &GgufWriter) -> Checkpoint {
    let directory = tempfile::tempdir().expect("tempdir");
    // The map outlives the name.
    open_gguf(directory.path(), &writer.bytes()).expect("valid file")
}

fn error(writer: &GgufWriter) -> String {
    let directory = tempfile::tempdir().expect("tempdir");
    error_naming(open_gguf(directory.path(), &writer.bytes()), "model.gguf", "corrupt file")
}

fn config(checkpoint: &Checkpoint) -> ModelConfig {
    ModelConfig::from_json(&checkpoint.config).expect("a config that the model reads")
}

/// deepseek2 as V3 has it.
fn v3(split: bool) -> GgufWriter {
    tiny_moe("deepseek2", split)
        .meta("deepseek2.expert_gating_func", Meta::U32(2))
        .meta("deepseek2.expert_weights_norm", Meta::Bool(true))
        .meta("deepseek2.expert_group_count", Meta::U32(2))
        .meta("deepseek2.expert_group_used_count", Meta::U32(1))
        .f32_tensor("blk.1.exp_probs_b.bias", &[4])
}

/// (shape, first value times 16 and plus 16: its index in the stacked tensor).
fn first(tensor: Option<TensorData<'_>>) -> (Vec<usize>, usize) {
    let tensor = tensor.expect("tensor");
    let value = tensor.to_f32().expect("f32")[0];
    (tensor.shape, ((value + 1.0) * 16.0) as usize)
}

#[test]
fn qwen3_moe() {
    let checkpoint = open(&tiny_moe("qwen3moe", false));
    let given = &checkpoint.config;
    assert_eq!(given["architectures"], json!(["Qwen3MoeForCausalLM"]));
    assert_eq!((&given["model_type"], &given["num_experts"]), (&json!("qwen3_moe"), &json!(4)));
    let config = config(&checkpoint);
    let moe = config.moe.as_ref().expect("experts");
    assert_eq!((config.family, config.intermediate, moe.intermediate), (Family::Qwen3Moe, 12, 6));
    assert_eq!((moe.routing.experts, moe.routing.top_k, moe.routing.normalise), (4, 2, true));
    assert_eq!((moe.routing.scoring, moe.sparse.as_slice()), (Scoring::Softmax, &[true][..]));

    // Expert 2 of 4, each 6 x 8 values in the stacked tensor.
    let expert =
        |name: &str| first(checkpoint.tensor(&format!("model.layers.0.mlp.experts.2.{name}.weight")));
    assert_eq!(expert("gate_proj"), (vec![6, 8], 96));
    assert_eq!(expert("up_proj"), (vec![6, 8], 96));
    assert_eq!(expert("down_proj"), (vec![8, 6], 96));
    assert_eq!(first(checkpoint.tensor("model.layers.0.mlp.gate.weight")), (vec![4, 8], 0));
    assert!(checkpoint.tensor("model.layers.0.mlp.experts.4.gate_proj.weight").is_none());
    assert_eq!(read_all(&checkpoint), checkpoint.tensor_bytes());

    // Gate and up of each expert as one tensor.
    let fused = tiny_moe("qwen3moe", false)
        .without("ffn_gate_exps.weight")
        .without("ffn_up_exps.weight")
        .f32_tensor("blk.0.ffn_gate_up_exps.weight", &[8, 12, 4]);
    let checkpoint = open(&fused);
    let expert =
        |name: &str| first(checkpoint.tensor(&format!("model.layers.0.mlp.experts.2.{name}.weight")));
    assert_eq!(expert("gate_proj"), (vec![6, 8], 2 * 96));
    assert_eq!(expert("up_proj"), (vec![6, 8], 2 * 96 + 48));
}

#[test]
fn minimax_m2() {
    let checkpoint = open(&tiny_moe("minimax-m2", false));
    assert_eq!(checkpoint.config["rotary_dim"], 4);
    let config = config(&checkpoint);
    let moe = config.moe.as_ref().expect("experts");
    assert_eq!((config.family, config.rotary_dim(), moe.intermediate), (Family::MinimaxM2, 4, 6));
    assert_eq!((moe.routing.experts, moe.routing.scoring), (4, Scoring::Sigmoid));
    let name = |part: &str| format!("model.layers.0.block_sparse_moe.{part}");
    assert_eq!(first(checkpoint.tensor(&name("experts.3.w1.weight"))), (vec![6, 8], 144));
    assert_eq!(first(checkpoint.tensor(&name("experts.3.w3.weight"))), (vec![6, 8], 144));
    assert_eq!(first(checkpoint.tensor(&name("experts.3.w2.weight"))), (vec![8, 6], 144));
    assert_eq!(first(checkpoint.tensor(&name("gate.weight"))), (vec![4, 8], 0));
    assert_eq!(first(checkpoint.tensor(&name("e_score_correction_bias"))), (vec![4], 0));
    // w1 is gate and w3 is up: the stacked tensors tell them apart.
    let up = tiny_moe("minimax-m2", false).without("ffn_up_exps.weight");
    let up = up.tensor("blk.0.ffn_up_exps.weight", 0, &[8, 6, 4], vec![0; 768]);
    assert_eq!(first(open(&up).tensor(&name("experts.0.w3.weight"))), (vec![6, 8], 16));
}

#[test]
fn deepseek_v2_and_v3() {
    for split in [false, true] {
        let v2 = config(&open(&tiny_moe("deepseek2", split)));
        let v3_file = open(&v3(split));
        let v3 = config(&v3_file);
        assert_eq!((v2.family, v3.family), (Family::DeepseekV2, Family::DeepseekV3));
        for config in [&v2, &v3] {
            let Attention::Mla(mla) = config.attention else { panic!("no latent attention") };
            let l = mla.layout;
            assert_eq!((l.heads, l.rank, l.nope_dim, l.rope_dim, l.v_dim), (2, 16, 8, 8, 24));
            assert_eq!(mla.q_rank, Some(3));
            let moe = config.moe.as_ref().expect("experts");
            assert_eq!(moe.sparse, [false, true]);
            assert_eq!((moe.shared_intermediate, moe.routing.scale), (12, 2.5));
        }
        let (routing2, routing3) = (&v2.moe.expect("experts").routing, &v3.moe.expect("experts").routing);
        assert_eq!((routing2.scoring, routing3.scoring), (Scoring::Softmax, Scoring::Sigmoid));
        assert_eq!((routing2.normalise, routing3.normalise), (false, true));
        assert_eq!(routing2.groups, None);
        assert_eq!(routing3.groups, Some(ExpertGroups { count: 2, keep: 1, score: GroupScore::BestTwo }));

        let attention = |part: &str| v3_file.tensor(&format!("model.layers.1.self_attn.{part}.weight"));
        assert_eq!(attention("kv_b_proj").is_some(), !split);
        if split {
            assert_eq!(first(attention("k_b_proj")), (vec![2, 16, 8], 0));
            assert_eq!(first(attention("v_b_proj")), (vec![2, 24, 16], 0));
        }
        for part in
            ["q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "o_proj"]
        {
            assert!(attention(part).is_some(), "{part}");
        }
        let mlp = |part: &str| first(v3_file.tensor(&format!("model.layers.1.mlp.{part}")));
        assert_eq!(mlp("shared_experts.down_proj.weight"), (vec![8, 12], 0));
        assert_eq!(mlp("experts.1.down_proj.weight"), (vec![8, 6], 48));
        assert_eq!(mlp("gate.e_score_correction_bias"), (vec![4], 0));
        assert!(v3_file.tensor("model.layers.0.mlp.down_proj.weight").is_some());
        assert_eq!(read_all(&v3_file), v3_file.tensor_bytes());
    }
    // V2 limits groups where the file says so; V2-Lite's q has no latent.
    let lite = tiny_moe("deepseek2", true)
        .meta("deepseek2.expert_group_count", Meta::U32(4))
        .meta("deepseek2.expert_group_used_count", Meta::U32(2))
        .without("attn_q_a.weight")
        .without("attn_q_a_norm.weight")
        .without("attn_q_b.weight")
        .f32_tensor("blk.0.attn_q.weight", &[8, 32])
        .f32_tensor("blk.1.attn_q.weight", &[8, 32]);
    let lite = config(&open(&lite));
    assert!(matches!(lite.attention, Attention::Mla(mla) if mla.q_rank.is_none()));
    let groups = lite.moe.expect("experts").routing.groups;
    assert_eq!(groups, Some(ExpertGroups { count: 4, keep: 2, score: GroupScore::Best }));
}

/// The numbers are DeepSeek-V2's: factor 40 and mscale = mscale_all_dim = 0.707, which llama.cpp's
/// converter writes as 0.0707.
#[test]
fn yarn_sharpens_as_the_original() {
    let mut writer = tiny_moe("deepseek2", true);
    for (key, value) in [
        ("rope.scaling.type", Meta::str("yarn")),
        ("rope.scaling.factor", Meta::F32(40.0)),
        ("rope.scaling.original_context_length", Meta::U32(4096)),
        ("rope.scaling.yarn_log_multiplier", Meta::F32(0.0707)),
        ("rope.scaling.yarn_beta_fast", Meta::F32(32.0)),
        ("rope.scaling.yarn_beta_slow", Meta::F32(1.0)),
    ] {
        writer.set(&format!("deepseek2.{key}"), value);
    }
    let checkpoint = open(&writer);
    let scaling = &checkpoint.config["rope_scaling"];
    assert_eq!((&scaling["mscale"], &scaling["mscale_all_dim"]), (&json!(0.707), &json!(0.707)));
    let config = config(&checkpoint);
    assert_eq!(config.rope.attention_factor(), 1.0);
    let Attention::Mla(mla) = config.attention else { panic!("no latent attention") };
    let sharpened = 0.1 * 0.707 * 40f64.ln() + 1.0;
    assert!((f64::from(mla.scale) - sharpened * sharpened / 4.0).abs() < 1e-6, "{}", mla.scale);
    let error = error(&writer.meta("deepseek2.rope.scaling.attn_factor", Meta::F32(0.5)));
    assert!(error.contains("attn_factor: 0.5 is not supported") && error.contains("yarn_log_multiplier"));
}

#[test]
fn layers_that_predict_further_tokens_are_not_the_models() {
    let mut writer = v3(true)
        .meta("deepseek2.nextn_predict_layers", Meta::U32(1))
        .f32_tensor("blk.2.attn_norm.weight", &[8])
        .f32_tensor("blk.2.nextn.eh_proj.weight", &[16, 8]);
    writer.set("deepseek2.block_count", Meta::U32(3));
    let config = config(&open(&writer));
    assert_eq!((config.layers(), config.mtp_layers), (2, 1));
    // Announced and left out, as converters do.
    let mut without = v3(true).meta("deepseek2.nextn_predict_layers", Meta::U32(1));
    without.set("deepseek2.block_count", Meta::U32(3));
    open(&without);
}

#[test]
fn contradictions_are_named() {
    for (arch, key, value) in [
        ("qwen3moe", "expert_count", Meta::U32(5)),
        ("qwen3moe", "expert_count", Meta::U32(1 << 30)),
        ("qwen3moe", "expert_feed_forward_length", Meta::U32(7)),
        ("qwen3moe", "expert_gating_func", Meta::U32(2)),
        ("qwen3moe", "expert_weights_scale", Meta::F32(2.0)),
        ("qwen3moe", "rope.dimension_count", Meta::U32(4)),
        ("minimax-m2", "expert_gating_func", Meta::U32(1)),
        ("minimax-m2", "rope.dimension_count", Meta::U32(10)),
        ("deepseek2", "expert_gating_func", Meta::U32(2)),
        ("deepseek2", "expert_gating_func", Meta::U32(4)),
        ("deepseek2", "leading_dense_block_count", Meta::U32(2)),
        ("deepseek2", "leading_dense_block_count", Meta::U32(0)),
        ("deepseek2", "attention.q_lora_rank", Meta::U32(4)),
        ("deepseek2", "attention.kv_lora_rank", Meta::U32(17)),
        ("deepseek2", "attention.key_length_mla", Meta::U32(8)),
        ("deepseek2", "attention.value_length_mla", Meta::U32(16)),
        ("deepseek2", "attention.head_count", Meta::U32(i32::MAX as u32)),
        ("deepseek2", "attention.temperature_length", Meta::U32(8192)),
        ("deepseek2", "rope.dimension_count", Meta::U32(4)),
        ("deepseek2", "nextn_predict_layers", Meta::U32(2)),
        ("deepseek2", "nextn_predict_layers", Meta::U32(65)),
    ] {
        let mut writer = tiny_moe(arch, true);
        let right = open(&writer);
        assert!(!right.tensor_names().is_empty());
        writer.set(&format!("{arch}.{key}"), value);
        error(&writer);
    }
    for (arch, missing) in [
        ("qwen3moe", "expert_used_count"),
        ("qwen3moe", "ffn_gate_inp.weight"),
        ("qwen3moe", "ffn_up_exps.weight"),
        ("deepseek2", "kv_lora_rank"),
        ("deepseek2", "attn_k_b.weight"),
        ("deepseek2", "expert_count"),
        ("deepseek2", "expert_shared_count"),
    ] {
        assert!(!error(&tiny_moe(arch, true).without(missing)).is_empty(), "{missing}");
    }
    assert!(error(&v3(true).without("expert_gating_func")).contains("exp_probs_b"));
    // A dense architecture with experts, and experts in no stack.
    let mixtral = tiny_moe("llama", false);
    assert!(error(&mixtral).contains("mixtures of experts are not supported"));
    let flat = tiny_moe("qwen3moe", false).without("ffn_up_exps.weight");
    assert!(error(&flat.f32_tensor("blk.0.ffn_up_exps.weight", &[8, 24])).contains("ffn_up_exps"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random damage gives an error that names the file, or a checkpoint whose tensors can be read.
    #[test]
    fn random_damage(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut bytes = v3(true).bytes();
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        match open_gguf(directory.path(), &bytes) {
            Ok(checkpoint) => prop_assert_eq!(read_all(&checkpoint), checkpoint.tensor_bytes()),
            Err(error) => prop_assert!(error.to_string().contains("model.gguf")),
        }
    }
}

/// llama.cpp's converter made the files in tests/goldens/gguf from the checkpoints beside it: both
/// give one config and the same weights, the latent's projection cut in two and transposed.
#[test]
fn converted_checkpoints_are_the_originals() {
    for name in ["qwen3-moe", "deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "minimax-m2"] {
        let original = Checkpoint::open(&golden_dir(name)).expect(name);
        let converted = Checkpoint::open(&golden_dir(&format!("gguf/{name}-f32.gguf"))).expect(name);
        let mut expected = config(&original);
        // The converter leaves these layers out.
        expected.mtp_layers = 0;
        assert_eq!(config(&converted), expected, "{name}");

        let own =
            |tensor: &str| tensor.contains("self_attn.k_b_proj") || tensor.contains("self_attn.v_b_proj");
        let names: Vec<_> = converted.tensor_names().into_iter().filter(|tensor| !own(tensor)).collect();
        assert!(names.len() > 40, "{name}: {}", names.len());
        for tensor in names {
            let (found, expected) = (converted.tensor(tensor), original.tensor(tensor));
            let (found, expected) =
                (found.expect(tensor), expected.unwrap_or_else(|| panic!("{name}: {tensor}")));
            assert_eq!((found.shape, found.data), (expected.shape, expected.data), "{name}: {tensor}");
        }
        if let Attention::Mla(mla) = expected.attention {
            let l = mla.layout;
            let values = |checkpoint: &Checkpoint, part: &str| {
                let name = format!("model.layers.1.self_attn.{part}.weight");
                checkpoint.tensor(&name).expect(part).to_f32().expect("f32")
            };
            let (k, v) = (values(&converted, "k_b_proj"), values(&converted, "v_b_proj"));
            for (index, value) in values(&original, "kv_b_proj").into_iter().enumerate() {
                let (row, r) = (index / l.rank, index % l.rank);
                let (head, part) = (row / (l.nope_dim + l.v_dim), row % (l.nope_dim + l.v_dim));
                let found = match part.checked_sub(l.nope_dim) {
                    None => k[(head * l.rank + r) * l.nope_dim + part],
                    Some(part) => v[(head * l.v_dim + part) * l.rank + r],
                };
                assert_eq!(found, value, "{name}: head {head}, row {part}, column {r}");
            }
        }
    }
}
