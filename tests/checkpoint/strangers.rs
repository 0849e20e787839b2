//! Files that are no checkpoint, or not all of one: told by what they are and what to do.

use super::hf_dir::{directory, serialize, text, weights};
use super::{error_naming, open_gguf, read_all};
use crate::support::gguf_writer::{Meta, tiny_model};
use novastack::checkpoint::{Checkpoint, TokenizerSource};
use safetensors::tensor::Dtype;

const POINTER: &[u8] =
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

fn contains(message: &str, words: &[&str]) {
    assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
}

#[test]
fn lfs_pointers_are_told_wherever_they_lie() {
    for file in ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"] {
        let whole = weights();
        let mut files = vec![("config.json", &b"{}"[..]), ("model.safetensors", &whole)];
        files.retain(|(name, _)| *name != file);
        files.push((file, POINTER));
        contains(&text(directory(&files).path(), file), &["Git LFS pointer", "git lfs pull"]);
    }
    let bpe = [("config.json", &b"{}"[..]), ("vocab.json", POINTER), ("merges.txt", b"")];
    contains(&text(directory(&bpe).path(), "vocab.json"), &["Git LFS pointer"]);
    let place = tempfile::tempdir().expect("tempdir");
    let message = error_naming(open_gguf(place.path(), POINTER), "model.gguf", "pointer");
    contains(&message, &["Git LFS pointer", "git lfs pull"]);
}

#[test]
fn lora_adapters_are_told_with_their_base_model() {
    let config = br#"{"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3-8B"}"#;
    let adapter = weights();
    let files = [("adapter_config.json", &config[..]), ("adapter_model.safetensors", &adapter)];
    for with_config in [false, true] {
        let place = directory(&files);
        if with_config {
            std::fs::write(place.path().join("config.json"), "{}").expect("write");
        }
        let message = text(place.path(), "adapter_config.json");
        contains(&message, &["LoRA adapter for Qwen/Qwen3-8B", "merge_and_unload"]);
    }
    // Beside a whole model they are passed over, which is said.
    let whole = weights();
    let mut both = files.to_vec();
    both.extend([("config.json", &b"{}"[..]), ("model.safetensors", &whole)]);
    let checkpoint = Checkpoint::open(directory(&both).path()).expect("the model");
    contains(&checkpoint.warnings.join("\n"), &["adapter_config.json", "served without it"]);

    let place = tempfile::tempdir().expect("tempdir");
    for (key, value, words) in [
        ("general.type", "adapter", ["LoRA adapter", "llama-export-lora"]),
        ("general.type", "mmproj", ["projector for images", "not supported"]),
        ("general.architecture", "clip", ["projector for images", "not supported"]),
        ("general.type", "imatrix", ["importance matrix", "no model"]),
    ] {
        let mut writer = tiny_model("llama", false, true);
        writer.set(key, Meta::str(value));
        contains(&error_naming(open_gguf(place.path(), &writer.bytes()), "model.gguf", value), &words);
    }
}

#[test]
fn a_stale_index_beside_a_whole_file_is_passed_over() {
    let index = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#;
    let whole = weights();
    let files =
        [("config.json", &b"{}"[..]), ("model.safetensors", &whole), ("model.safetensors.index.json", index)];
    let checkpoint = Checkpoint::open(directory(&files).path()).expect("the whole file");
    assert_eq!(checkpoint.tensor_names(), ["a", "b", "c"]);
    contains(&checkpoint.warnings.join("\n"), &["model.safetensors is read", "passed over"]);
    // An index that names the whole file is not stale: it says which tensors count.
    let index = br#"{"weight_map": {"a": "model.safetensors"}}"#;
    let files =
        [("config.json", &b"{}"[..]), ("model.safetensors", &whole), ("model.safetensors.index.json", index)];
    let checkpoint = Checkpoint::open(directory(&files).path()).expect("the index");
    assert_eq!(checkpoint.tensor_names(), ["a"]);
    assert!(!checkpoint.warnings.join("\n").contains("passed over"));
}

#[test]
fn shards_without_an_index_are_read_by_their_names() {
    let one = serialize(&[("a", Dtype::F32, &[2])]);
    let two = serialize(&[("b", Dtype::F32, &[3])]);
    let files = [
        ("config.json", &b"{}"[..]),
        ("model-00001-of-00002.safetensors", &one),
        ("model-00002-of-00002.safetensors", &two),
    ];
    let place = directory(&files);
    let checkpoint = Checkpoint::open(place.path()).expect("both shards");
    assert_eq!((checkpoint.tensor_names(), read_all(&checkpoint)), (vec!["a", "b"], 20));
    contains(&checkpoint.warnings.join("\n"), &["model.safetensors.index.json is missing", "2 shards"]);
    drop(checkpoint);
    std::fs::remove_file(place.path().join("model-00001-of-00002.safetensors")).expect("remove");
    contains(&text(place.path(), "2 shards"), &["missing are model-00001-of-00002.safetensors"]);

    for (name, word) in [("weights.safetensors", "rename it"), ("consolidated.safetensors", "own layout")] {
        let message = text(directory(&[("config.json", b"{}"), (name, &one)]).path(), "no weights");
        contains(&message, &[name, word]);
    }
}

#[test]
fn vocabularies_that_are_not_read_are_named() {
    for (file, kind) in [
        ("tokenizer.model", "SentencePiece"),
        ("tekken.json", "Mistral's own"),
        ("qwen.tiktoken", "tiktoken"),
    ] {
        let whole = weights();
        let place = directory(&[("config.json", b"{}"), ("model.safetensors", &whole), (file, b"x")]);
        let checkpoint = Checkpoint::open(place.path()).expect("the weights");
        assert!(checkpoint.tokenizer.is_none());
        contains(&checkpoint.warnings.join("\n"), &[file, kind, "save_pretrained", "no chat template"]);
    }
    let place = tempfile::tempdir().expect("tempdir");
    for (model, kind) in [("llama", "SentencePiece"), ("bert", "WordPiece"), ("t5", "Unigram")] {
        let mut writer = tiny_model("llama", false, true);
        writer.set("tokenizer.ggml.model", Meta::str(model));
        let checkpoint = open_gguf(place.path(), &writer.bytes()).expect("a model");
        let error = novastack::text::Tokenizer::from_checkpoint(&checkpoint).expect_err("not supported");
        contains(&error.to_string(), &[kind, "tokenizer.json"]);
    }
}

#[test]
fn what_can_be_passed_over_in_a_vocabulary_is_a_warning() {
    let place = tempfile::tempdir().expect("tempdir");
    let warned = |key: &str, value: Meta, words: &[&str]| {
        let mut writer = tiny_model("llama", false, true);
        writer.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
        writer.set(key, value);
        let checkpoint = open_gguf(place.path(), &writer.bytes()).expect("opens");
        contains(&checkpoint.warnings.join("\n"), words);
        novastack::text::Tokenizer::from_checkpoint(&checkpoint).expect("tokenizer")
    };
    let tokenizer =
        warned("tokenizer.ggml.eos_token_id", Meta::U32(6), &["eos_token_id: 6 is not among 6 tokens"]);
    assert_eq!(tokenizer.eos_ids(), [5], "</s> by its name");
    warned("tokenizer.ggml.bos_token_id", Meta::U32(70), &["bos_token_id: 70"]);
    warned("tokenizer.ggml.token_type", Meta::i32s(&[1, 1]), &["2 entries for 6 tokens"]);
    let tokens = Meta::strings(&["a", "b", "", "ab", "<s>", "</s>"]);
    let tokenizer = warned("tokenizer.ggml.tokens", tokens, &["1 are empty, the first is 2"]);
    assert_eq!(tokenizer.encode("ab", false).expect("encode"), [3]);
    assert_eq!((tokenizer.token_text(2).0, tokenizer.vocab_size()), (String::new(), 6));

    // Prompts that should begin with a BOS token that is not there would be other prompts.
    let mut writer = tiny_model("llama", false, true);
    writer.set("tokenizer.ggml.bos_token_id", Meta::U32(6));
    let checkpoint = open_gguf(place.path(), &writer.bytes()).expect("opens");
    let error = novastack::text::Tokenizer::from_checkpoint(&checkpoint).expect_err("no BOS");
    contains(&error.to_string(), &["bos_token_id names none"]);
}

#[test]
fn vocab_and_merges_are_a_tokenizer() {
    let files = [
        ("config.json", &br#"{"model_type": "qwen2"}"#[..]),
        ("vocab.json", br#"{"a": 0, "b": 1, "ab": 2}"#),
        ("merges.txt", b"#version: 0.2\na b\n"),
        ("added_tokens.json", br#"{"<|im_end|>": 3}"#),
    ];
    let checkpoint = Checkpoint::open_config(directory(&files).path()).expect("open");
    let Some(TokenizerSource::Bpe(found)) = &checkpoint.tokenizer else { panic!("no tokenizer") };
    assert_eq!((found.model_type.as_str(), &found.added_tokens["<|im_end|>"]), ("qwen2", &3.into()));
    assert!(!checkpoint.warnings.join("\n").contains("tokenizer.json"));
}
