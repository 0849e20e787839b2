//! GGUF files: the config they give, and what becomes of corrupt ones.

use super::{demo_gguf, error_naming, open_gguf, passes_under_memory_limit, read_all};
use crate::support::gguf_writer::{GgufWriter, Meta, tiny_model};
use novastack::checkpoint::{Checkpoint, Dtype, PoolingMode, TokenizerSource};
use proptest::prelude::*;
use serde_json::json;

/// Address space for a process that opens corrupt files of a few kilobytes.
const MEMORY_LIMIT_KIB: u32 = 1 << 20;

fn open(writer: &GgufWriter) -> Checkpoint {
    let directory = tempfile::tempdir().expect("tempdir");
    // The map outlives the name.
    open_gguf(directory.path(), &writer.bytes()).expect("valid file")
}

fn error(writer: &GgufWriter) -> String {
    let directory = tempfile::tempdir().expect("tempdir");
    error_naming(open_gguf(directory.path(), &writer.bytes()), "model.gguf", "corrupt file")
}

#[test]
fn config_and_tensors_of_each_architecture() {
    for (arch, class, biases) in [
        ("llama", "LlamaForCausalLM", false),
        ("qwen2", "Qwen2ForCausalLM", true),
        ("qwen3", "Qwen3ForCausalLM", false),
    ] {
        let checkpoint = open(&tiny_model(arch, biases, arch == "qwen2"));
        let mut expected = json!({
            "architectures": [class],
            "model_type": arch,
            "hidden_size": 8,
            "intermediate_size": 12,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 4,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "vocab_size": 6,
            "max_position_embeddings": 64,
            "rope_theta": 10000.0,
            "rope_scaling": null,
            "attention_bias": biases,
            "mlp_bias": false,
            "tie_word_embeddings": arch == "qwen2",
            "torch_dtype": "float32",
            "bos_token_id": 4,
            "eos_token_id": [5],
        });
        if arch == "llama" {
            expected["rope_interleaved"] = true.into();
        }
        assert_eq!(checkpoint.config, expected);
        assert_eq!(checkpoint.generation_config, json!({"eos_token_id": [5], "bos_token_id": 4}));
        assert_eq!(
            checkpoint.tokenizer_config,
            json!({"add_bos_token": true, "bos_token": "<s>", "eos_token": "</s>"})
        );
        assert_eq!(checkpoint.chat_template.as_deref(), Some("{{ bos_token }}"));
        let Some(TokenizerSource::Gguf(vocab)) = &checkpoint.tokenizer else { panic!("no vocabulary") };
        assert_eq!((vocab.model.as_str(), vocab.pre.as_str()), ("gpt2", "qwen2"));
        assert_eq!(vocab.tokens, ["a", "b", "c", "ab", "<s>", "</s>"]);
        assert_eq!(vocab.token_types, [1, 1, 1, 1, 3, 3]);
        assert_eq!(vocab.merges, ["a b"]);
        assert_eq!((vocab.bos, vocab.add_bos, vocab.eos.as_slice()), (Some(4), true, &[5][..]));

        // Dimensions are innermost first in the file: 12 rows of 8.
        let gate = checkpoint.tensor("model.layers.0.mlp.gate_proj.weight").expect("gate");
        assert_eq!((gate.dtype, gate.shape.as_slice()), (Dtype::F32, &[12, 8][..]));
        assert_eq!(gate.data[..4], (-1f32).to_le_bytes());
        assert_eq!(checkpoint.tensor("model.layers.0.self_attn.q_proj.bias").is_some(), biases);
        assert_eq!(checkpoint.tensor("model.layers.0.self_attn.q_norm.weight").is_some(), arch == "qwen3");
        assert!(checkpoint.tensor("blk.0.attn_q.weight").is_none());
        assert_eq!(read_all(&checkpoint), checkpoint.tensor_bytes());
    }
}

#[test]
fn rope_scaling_and_window() {
    let scaled = |pairs: &[(&str, Meta)]| {
        let mut writer = tiny_model("qwen2", true, true);
        pairs.iter().for_each(|(key, value)| writer.set(&format!("qwen2.{key}"), value.clone()));
        open(&writer).config
    };
    let linear = [("rope.scaling.type", Meta::str("linear")), ("rope.scaling.factor", Meta::F32(4.0))];
    assert_eq!(scaled(&linear)["rope_scaling"], json!({"rope_type": "linear", "factor": 4.0}));
    let yarn = [
        ("rope.scaling.type", Meta::str("yarn")),
        ("rope.scaling.factor", Meta::F32(4.0)),
        ("rope.scaling.original_context_length", Meta::U32(16)),
    ];
    assert_eq!(
        scaled(&yarn)["rope_scaling"],
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16})
    );
    let window = scaled(&[("attention.sliding_window", Meta::U32(32))]);
    assert_eq!((&window["sliding_window"], &window["max_window_layers"]), (&json!(32), &json!(0)));
    // As llama.cpp reads them: a factor alone is of linear interpolation, under either key.
    for key in ["rope.scaling.factor", "rope.scale_linear"] {
        let linear = json!({"rope_type": "linear", "factor": 4.0});
        assert_eq!(scaled(&[(key, Meta::F32(4.0))])["rope_scaling"], linear, "{key}");
        for none in [0.0, 1.0] {
            assert_eq!(scaled(&[(key, Meta::F32(none))])["rope_scaling"], json!(null), "{key}");
        }
    }

    let llama3 = open(&tiny_model("llama", false, true).f32_tensor("rope_freqs.weight", &[2]));
    assert_eq!(llama3.config["rope_scaling"], json!({"rope_type": "gguf_freqs"}));
    assert_eq!(llama3.tensor("rope_freqs.weight").expect("factors").shape, [2]);

    let mut unknown = tiny_model("qwen2", true, true);
    unknown.set("qwen2.rope.scaling.type", Meta::str("dynamic"));
    assert!(error(&unknown).contains("supported are none, linear, yarn and longrope"));
    unknown.set("qwen2.rope.scaling.type", Meta::str("longrope"));
    assert!(error(&unknown).contains("LongRoPE needs the tensors rope_factors_short.weight"));
}

/// Llama itself has no window: a file of its architecture that has one is a Mistral, and all of its
/// layers slide. So they do in Phi-3.
#[test]
fn a_window_of_the_llama_architecture_is_mistrals() {
    let mut writer = tiny_model("llama", false, true);
    writer.set("llama.attention.sliding_window", Meta::U32(32));
    let mut config = open(&writer).config;
    // The tiny model's heads are smaller than any that is served.
    config["head_dim"] = json!(8);
    let config = novastack::model::ModelConfig::from_json(&config).expect("a config");
    assert_eq!(config.windows, [Some(32)]);
    assert_eq!(open(&writer).config["architectures"], json!(["MistralForCausalLM"]));
    writer.set("llama.attention.sliding_window", Meta::U32(0));
    assert_eq!(open(&writer).config["architectures"], json!(["LlamaForCausalLM"]));
}

/// Every key of the architecture is used, known to say nothing, or refused by name and value.
#[test]
fn a_key_that_would_give_other_logits_is_refused() {
    for (key, value, shown) in [
        ("attention.scale", Meta::F32(0.5), "0.5"),
        ("attention.sliding_window_pattern", Meta::U32(6), "6"),
        ("attention.causal", Meta::Bool(false), "false"),
        ("attention.clamp_kqv", Meta::F32(8.0), "8"),
        ("attention.max_alibi_bias", Meta::F32(8.0), "8"),
        ("attn_logit_softcapping", Meta::F32(50.0), "50"),
        ("embedding_scale", Meta::F32(12.0), "12"),
        ("expert_used_count", Meta::U32(2), "2"),
        ("final_logit_softcapping", Meta::F32(30.0), "30"),
        ("logit_scale", Meta::F32(0.0625), "0.0625"),
        ("residual_scale", Meta::F32(0.22), "0.22"),
        ("rope.dimension_sections", Meta::i32s(&[16, 24, 24, 0]), "a list"),
        ("rope.freq_base_swa", Meta::F32(10000.0), "10000"),
        ("rope.scaling.attn_factor", Meta::F32(1.2), "1.2"),
        ("rope.scaling.yarn_attn_factor", Meta::F32(1.2), "1.2"),
        ("ssm.state_size", Meta::U32(16), "16"),
        ("use_parallel_residual", Meta::Bool(true), "true"),
        ("a_key_of_the_future", Meta::U32(7), "7"),
    ] {
        let mut writer = tiny_model("qwen2", true, true);
        writer.set(&format!("qwen2.{key}"), value);
        let error = error(&writer);
        assert!(error.contains(&format!("qwen2.{key}: {shown} is not supported")), "{key}: {error}");
    }
    // The tensor and a type are two ways to stretch the same thing.
    let mut both = tiny_model("llama", false, true).f32_tensor("rope_freqs.weight", &[2]);
    both.set("llama.rope.scale_linear", Meta::F32(4.0));
    assert!(error(&both).contains("not supported beside the tensor rope_freqs.weight"));
}

#[test]
fn keys_that_say_nothing_are_let_pass() {
    let mut writer = tiny_model("qwen2", true, true);
    for (key, value) in [
        ("attention.causal", Meta::Bool(true)),
        ("attention.scale", Meta::F32(1.0)),
        ("attention.sliding_window", Meta::U32(0)),
        ("expert_used_count", Meta::U32(0)),
        ("logit_scale", Meta::F32(1.0)),
        ("pooling_type", Meta::U32(3)),
        ("rope.scaling.attn_factor", Meta::F32(1.0)),
        ("rope.scaling.finetuned", Meta::Bool(true)),
        ("rope.scaling.type", Meta::str("none")),
        ("tensor_data_layout", Meta::str("Meta AI original pth")),
        ("use_parallel_residual", Meta::Bool(false)),
        ("vocab_size", Meta::U32(6)),
    ] {
        writer.set(&format!("qwen2.{key}"), value);
    }
    writer.set("another.attention.scale", Meta::F32(0.5));
    open(&writer);
}

/// As the converter writes it of Qwen3-Embedding.
#[test]
fn a_file_that_pools_by_the_last_token_is_for_embeddings() {
    let mut writer = tiny_model("qwen3", false, false);
    assert_eq!(open(&writer).sentence_transformers, None);
    writer.set("qwen3.pooling_type", Meta::U32(0));
    assert_eq!(open(&writer).sentence_transformers, None);
    writer.set("qwen3.pooling_type", Meta::U32(3));
    let sentence = open(&writer).sentence_transformers.expect("a pooling");
    assert_eq!((sentence.pooling, sentence.normalises), (Some(PoolingMode::Last), true));
}

#[test]
fn all_metadata_types_and_both_versions() {
    let mut writer = tiny_model("llama", false, true);
    writer.version = 2;
    writer.alignment = 64;
    for (key, value) in [
        ("general.alignment", Meta::U32(64)),
        ("x.u8", Meta::U8(255)),
        ("x.i8", Meta::I8(-1)),
        ("x.u16", Meta::U16(65535)),
        ("x.i16", Meta::I16(-1)),
        ("x.u64", Meta::U64(u64::MAX)),
        ("x.i64", Meta::I64(i64::MIN)),
        ("x.f64", Meta::F64(0.5)),
        ("x.nested", Meta::Array(9, vec![Meta::strings(&["a", "b"]), Meta::i32s(&[1, 2, 3])])),
        ("x.empty", Meta::Array(7, vec![])),
        // A size in another integer type is the same size.
        ("llama.block_count", Meta::U64(1)),
        ("llama.context_length", Meta::I32(64)),
    ] {
        writer.set(key, value);
    }
    assert_eq!(open(&writer).config["max_position_embeddings"], 64);
}

#[test]
fn blocks_of_2_to_4_bits_are_read() {
    for (number, bytes, dtype, columns) in [
        (10, 84, Dtype::Q2K, 256),
        (11, 110, Dtype::Q3K, 256),
        (20, 18, Dtype::IQ4NL, 32),
        (23, 136, Dtype::IQ4XS, 256),
        (39, 17, Dtype::MXFP4, 32),
    ] {
        let data: Vec<u8> = (0..bytes).collect();
        let file =
            tiny_model("llama", false, true).tensor("output.weight", number, &[columns, 1], data.clone());
        let checkpoint = open(&file);
        let tensor = checkpoint.tensor("lm_head.weight").unwrap();
        assert_eq!(
            (tensor.dtype, tensor.shape.as_slice(), &*tensor.data),
            (dtype, &[1, columns as usize][..], &data[..])
        );
    }
}

#[test]
fn what_is_unsupported_is_named() {
    let mut writer = tiny_model("llama", false, true);
    writer.set("general.architecture", Meta::str("mamba"));
    let text = error(&writer);
    assert!(text.contains("\"mamba\"") && text.contains("supported are llama, qwen2, qwen3"), "{text}");

    let text = error(&tiny_model("llama", false, true).tensor("output.weight", 16, &[256, 1], vec![0; 66]));
    assert!(text.contains("output.weight") && text.contains("IQ2_XXS") && text.contains("Q2_K"), "{text}");

    let text = error(&tiny_model("llama", false, true).f32_tensor("blk.0.ffn_gate_exps.weight", &[8, 12, 2]));
    assert!(text.contains("blk.0.ffn_gate_exps.weight"), "{text}");

    for (version, expected) in [(1, "version 1 is not supported"), (3u32.swap_bytes(), "big-endian")] {
        let mut writer = tiny_model("llama", false, true);
        writer.version = version;
        assert!(error(&writer).contains(expected));
    }
}

#[test]
fn contradictions_are_named() {
    let cases = [
        ("llama.block_count", Meta::U32(2)),
        ("llama.embedding_length", Meta::U32(16)),
        ("llama.attention.head_count", Meta::U32(3)),
        ("llama.attention.head_count", Meta::str("2")),
        ("llama.attention.head_count", Meta::Array(4, vec![Meta::U32(2)])),
        ("llama.attention.head_count_kv", Meta::U32(2)),
        ("llama.feed_forward_length", Meta::U32(13)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN)),
        ("llama.rope.freq_base", Meta::F32(f32::INFINITY)),
        ("llama.rope.dimension_count", Meta::U32(2)),
        ("llama.expert_count", Meta::U32(8)),
        ("tokenizer.ggml.tokens", Meta::strings(&["a", "b", "c", "d", "e", "f", "g"])),
        ("tokenizer.ggml.tokens", Meta::i32s(&[1])),
        ("tokenizer.chat_template", Meta::Bool(true)),
        ("general.alignment", Meta::U32(0)),
        ("general.alignment", Meta::U32(24)),
    ];
    for (key, value) in cases {
        let mut writer = tiny_model("llama", false, true);
        writer.set(key, value.clone());
        error(&writer);
    }
    // Twice the same key, twice the same tensor, and a layer too many.
    let mut twice = tiny_model("llama", false, true);
    twice.metadata.push(("general.architecture".into(), Meta::str("llama")));
    assert!(error(&twice).contains("twice"));
    assert!(
        error(&tiny_model("llama", false, true).f32_tensor("output_norm.weight", &[8])).contains("twice")
    );
    assert!(
        error(&tiny_model("llama", false, true).f32_tensor("blk.1.attn_q.weight", &[8, 8]))
            .contains("block_count")
    );
    // Rows of a quantized tensor are whole blocks.
    let text = error(&tiny_model("llama", false, true).tensor("output.weight", 8, &[8, 4], vec![0; 34]));
    assert!(text.contains("output.weight"), "{text}");
    // Too deep.
    let deep = (0..5).fold(Meta::i32s(&[1]), |inner, _| Meta::Array(9, vec![inner]));
    assert!(error(&tiny_model("llama", false, true).meta("x.deep", deep)).contains("nested"));
}

#[test]
fn truncated_anywhere() {
    let directory = tempfile::tempdir().expect("tempdir");
    let bytes = tiny_model("qwen2", true, false).bytes();
    open_gguf(directory.path(), &bytes).expect("valid as a whole");
    for length in 0..bytes.len() {
        let context = format!("{length} of {} bytes", bytes.len());
        error_naming(open_gguf(directory.path(), &bytes[..length]), "model.gguf", &context);
    }
}

/// Extreme values in every number of the header. Run by `extreme_header_fields_in_little_memory`.
#[test]
#[ignore = "run by extreme_header_fields_in_little_memory"]
fn extreme_header_fields() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (bytes, fields) = tiny_model("llama", false, false).bytes_and_fields();
    let mut tried = 0;
    for field in &fields {
        // Values that may be anything, or for which an extreme is an ordinary value.
        let harmless =
            ["add_bos_token", "bos_token_id", "eos_token_id", "value of tokenizer.ggml.token_type"];
        let may_pass =
            field.what.starts_with("value of") && harmless.iter().any(|name| field.what.contains(name));
        for extreme in [0u64, u64::MAX, u32::MAX.into(), i64::MAX as u64, 1 << 40, 1 << 31] {
            let mut corrupt = bytes.clone();
            let place = &mut corrupt[field.at..field.at + field.len];
            place.copy_from_slice(&extreme.to_le_bytes()[..field.len]);
            if corrupt == bytes {
                continue;
            }
            tried += 1;
            let result = open_gguf(directory.path(), &corrupt);
            if may_pass && result.is_ok() {
                continue;
            }
            error_naming(result, "model.gguf", &format!("{} = {extreme}", field.what));
        }
    }
    assert!(tried > 300, "only {tried}");
}

#[test]
fn extreme_header_fields_in_little_memory() {
    assert!(passes_under_memory_limit("checkpoint::gguf::extreme_header_fields", MEMORY_LIMIT_KIB));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random damage gives an error that names the file, or a checkpoint whose tensors can be read.
    #[test]
    fn random_damage(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut bytes = tiny_model("qwen3", false, false).bytes();
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

#[test]
fn the_demo_checkpoint() {
    let Some(path) = demo_gguf() else {
        eprintln!("SKIPPED: no demo GGUF in the model cache and NOVASTACK_DEMO_GGUF is not set");
        return;
    };
    let checkpoint = Checkpoint::open(&path).expect("demo checkpoint");
    let config = &checkpoint.config;
    assert_eq!(config["hidden_size"], 576);
    assert_eq!(config["num_hidden_layers"], 30);
    assert_eq!(config["head_dim"], 64);
    assert_eq!(config["rope_theta"], 100000.0);
    assert_eq!(config["rms_norm_eps"], 1e-5);
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!(checkpoint.tensor_names().len(), 272);
    let down = checkpoint.tensor("model.layers.29.mlp.down_proj.weight").expect("down");
    assert_eq!((down.dtype, down.shape.as_slice()), (Dtype::Q4_1, &[576, 1536][..]));
    let Some(TokenizerSource::Gguf(vocab)) = &checkpoint.tokenizer else { panic!("no vocabulary") };
    assert_eq!((vocab.tokens.len(), vocab.merges.len(), vocab.pre.as_str()), (49152, 48900, "smollm"));
    assert_eq!(checkpoint.tokenizer_config["eos_token"], "<|im_end|>");
    assert!(checkpoint.chat_template.is_some());

    // Several threads read at once, while pages are being released.
    let sums = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| {
            scope.spawn(|| {
                let mut sum = 0u64;
                for name in checkpoint.tensor_names() {
                    let tensor = checkpoint.tensor(name).expect("tensor");
                    sum += tensor.data.iter().step_by(512).map(|byte| u64::from(*byte)).sum::<u64>();
                    checkpoint.release_pages();
                }
                sum
            })
        });
        threads.map(|thread| thread.join().expect("thread"))
    });
    assert!(sums[0] > 0 && sums.iter().all(|sum| *sum == sums[0]));
}

/// The values of a tensor of each quantised type, bit by bit: FNV-1a over the f32 values that
/// gguf-py's `dequantize` gives (zeros without their sign).
#[test]
fn quantised_values_are_those_of_gguf_py() {
    let expected: [(&str, u64); 10] = [
        ("q2_k", 0x712b_fb53_33be_3125),
        ("q3_k", 0xcbb7_4bfd_60c2_a6a5),
        ("q4_0", 0x41d1_b18e_aa4a_9325),
        ("q4_1", 0xa3f2_3f38_4b85_bb25),
        ("q4_k", 0xe3a5_cb2f_66ab_ef75),
        ("q5_0", 0x3ddb_f087_3a3f_f725),
        ("q5_1", 0x8984_d899_0d1a_d125),
        ("q5_k", 0x823a_7d85_1292_a349),
        ("q6_k", 0x97c0_d9bc_1175_82eb),
        ("q8_0", 0xd41d_e3e5_a5e1_13e5),
    ];
    for (kind, expected) in expected {
        let file = format!("tests/goldens/gguf/wide-{kind}.gguf");
        let checkpoint = Checkpoint::open(file.as_ref()).expect("open");
        let tensor = checkpoint.tensor("model.layers.0.mlp.down_proj.weight").expect("tensor");
        let values = tensor.to_f32().expect("values");
        let hash = values.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, value| {
            (hash ^ u64::from((value + 0.0).to_bits())).wrapping_mul(0x0000_0100_0000_01b3)
        });
        assert_eq!(hash, expected, "{kind}");
    }
}
