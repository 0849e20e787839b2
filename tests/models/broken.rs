//! Checkpoints that cannot be served: the program ends with a message that names what is wrong.

use crate::support::{golden_dir, server::Server};
use serde_json::{Value, json};
use std::path::Path;

/// Starting with this checkpoint fails, without a panic and with all of `words` in the log.
fn fails_with(folder: &Path, words: &[&str]) {
    let source = format!("tiny={}", folder.display());
    let log = Server::try_start(&["--model", &source]).err().expect("no server for a broken checkpoint");
    assert!(words.iter().all(|word| log.contains(word)) && !log.contains("panicked"), "{words:?} in:\n{log}");
}

/// A golden checkpoint with `change` made to config.json and tensors to its safetensors file.
fn changed(name: &str, config: impl Fn(&mut Value), tensors: impl Fn(&str, &mut [u8])) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(golden_dir(name)).expect(name).flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
    }
    let path = folder.path().join("config.json");
    let mut value = serde_json::from_slice(&std::fs::read(&path).expect("config.json")).expect("JSON");
    config(&mut value);
    std::fs::write(&path, value.to_string()).expect("config.json");
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("model.safetensors");
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..head]).expect("a header");
    for (name, tensor) in header.as_object().expect("tensors") {
        if let Some(offsets) = tensor["data_offsets"].as_array() {
            let at = |index: usize| head + offsets[index].as_u64().expect("an offset") as usize;
            tensors(name, &mut bytes[at(0)..at(1)]);
        }
    }
    std::fs::write(&path, bytes).expect("model.safetensors");
    folder
}

#[test]
fn broken_checkpoints_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let file = folder.path().join(name);
        let bytes = std::fs::read(golden_dir("llama").join(name)).expect(name);
        std::fs::write(file, change(bytes)).expect("a copy");
    };
    let fails_with = |words: &[&str]| fails_with(folder.path(), words);
    fails_with(&["config.json"]);
    copy("config.json", &|bytes| bytes);
    fails_with(&["safetensors"]);
    copy("model.safetensors", &|bytes| bytes[..bytes.len() / 2].to_vec());
    fails_with(&["model.safetensors"]);
    copy("model.safetensors", &|bytes| bytes);
    copy("tokenizer.json", &|bytes| bytes[..100].to_vec());
    fails_with(&["tokenizer"]);
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).expect("JSON").replace(from, to).into_bytes()
    };
    copy("config.json", &replace("LlamaForCausalLM", "MambaForCausalLM"));
    fails_with(&["MambaForCausalLM", "supported", "Qwen3ForCausalLM"]);
    copy("config.json", &replace("\"hidden_size\": 64", "\"hidden_size\": 128"));
    fails_with(&["shape", "config"]);
}

/// Each field is named together with what is supported.
#[test]
fn unsupported_forms_are_named() {
    let quantization = |field: &'static str, value: Value| {
        move |config: &mut Value| config["quantization_config"][field] = value.clone()
    };
    let refused = |name: &str, config: &dyn Fn(&mut Value), words: &[&str]| {
        fails_with(changed(name, config, |_, _| ()).path(), words);
    };
    refused(
        "qwen2-gptq-int4",
        &quantization("quant_method", json!("bitsandbytes")),
        &["quant_method", "bitsandbytes", "gptq"],
    );
    refused("qwen2-gptq-int4", &quantization("bits", json!(3)), &["bits", "3", "4"]);
    refused(
        "qwen3-fp8",
        &quantization("weight_block_size", json!([64, 64])),
        &["weight_block_size", "64", "128"],
    );
    refused(
        "deepseek-v2",
        &|config| config["topk_method"] = json!("noaux_tc"),
        &["topk_method", "noaux_tc", "group_limited_greedy"],
    );
    refused("deepseek-v3", &|config| config["topk_method"] = json!("greedy"), &["topk_method", "noaux_tc"]);
    refused("deepseek-v3", &|config| config["n_group"] = json!(5), &["n_group", "12", "5"]);
    refused("minimax-m2", &|config| config["scoring_func"] = json!("softmax"), &["scoring_func", "sigmoid"]);
    refused(
        "qwen3-moe",
        &|config| config["num_experts_per_tok"] = json!(9),
        &["num_experts_per_tok", "8", "9"],
    );
    refused("qwen3-moe", &|config| config["num_experts"] = json!(9), &["experts", "missing"]);
}

/// `desc_act` alone changes nothing, inputs in another order than their groups do.
#[test]
fn gptq_with_reordered_inputs_is_refused() {
    let reordered = changed(
        "qwen2-gptq-int4-asym",
        |config| config["quantization_config"]["desc_act"] = json!(true),
        |name, bytes| {
            if name.ends_with("layers.0.self_attn.q_proj.g_idx") {
                let (first, last) = bytes.split_at_mut(bytes.len() / 2);
                first.swap_with_slice(last);
            }
        },
    );
    fails_with(reordered.path(), &["desc_act", "q_proj"]);
}
