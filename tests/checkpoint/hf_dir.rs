//! Directories in Hugging Face layout, whole and broken.

use super::{error_naming, passes_under_memory_limit, read_all};
use novastack::checkpoint::{Checkpoint, Dtype, TokenizerSource};
use proptest::prelude::*;
use safetensors::tensor::{Dtype as StDtype, TensorView};
use serde_json::json;
use std::path::Path;

const MEMORY_LIMIT_KIB: u32 = 1 << 20;

pub fn serialize(tensors: &[(&str, StDtype, &[usize])]) -> Vec<u8> {
    let data = vec![7u8; 4096];
    let views = tensors.iter().map(|(name, dtype, shape)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (*name, TensorView::new(*dtype, shape.to_vec(), &data[..bytes]).expect("view"))
    });
    safetensors::serialize(views, None).expect("serialize")
}

pub fn weights() -> Vec<u8> {
    serialize(&[("a", StDtype::F32, &[2, 3]), ("b", StDtype::BF16, &[4]), ("c", StDtype::F16, &[3, 1])])
}

pub fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("tempdir");
    for (name, bytes) in files {
        std::fs::write(directory.path().join(name), bytes).expect("write");
    }
    directory
}

pub fn text(directory: &Path, file: &str) -> String {
    error_naming(Checkpoint::open(directory), file, "broken directory")
}

#[test]
fn everything_that_a_directory_holds() {
    let directory = directory(&[
        ("config.json", br#"{"model_type": "llama"}"#),
        ("generation_config.json", br#"{"eos_token_id": 2}"#),
        ("tokenizer_config.json", br#"{"chat_template": "from the config"}"#),
        ("tokenizer.json", b"{}"),
        ("chat_template.jinja", b"from the file"),
        ("model.safetensors", &weights()),
    ]);
    let path = directory.path();
    let checkpoint = Checkpoint::open(path).expect("open");
    assert_eq!(checkpoint.source, path);
    assert_eq!(checkpoint.config["model_type"], "llama");
    assert_eq!(checkpoint.generation_config["eos_token_id"], 2);
    assert_eq!(checkpoint.chat_template.as_deref(), Some("from the file"));
    assert!(
        matches!(&checkpoint.tokenizer, Some(TokenizerSource::Json(file)) if file.ends_with("tokenizer.json"))
    );
    assert_eq!(checkpoint.tensor_names(), ["a", "b", "c"]);
    assert_eq!(checkpoint.tensor_bytes(), 24 + 8 + 6);
    assert_eq!(read_all(&checkpoint), 38);
    let tensor = checkpoint.tensor("b").expect("b");
    assert_eq!((tensor.dtype, tensor.shape.as_slice()), (Dtype::BF16, &[4][..]));
    assert!(checkpoint.tensor("d").is_none());
    checkpoint.release_pages();
    assert_eq!(checkpoint.tensor("a").expect("a").data[..], [7; 24]);

    for file in ["chat_template.jinja", "generation_config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::remove_file(path.join(file)).expect("remove");
    }
    let config = Checkpoint::open_config(path).expect("a config is enough");
    assert_eq!(config.chat_template.as_deref(), Some("from the config"));
    assert_eq!(config.generation_config, json!({}));
    assert!(config.tokenizer.is_none() && config.tensor_names().is_empty());
    assert!(text(path, "no weights").contains("model.safetensors"));
}

#[test]
fn a_list_of_chat_templates() {
    let list = br#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
    let good = directory(&[("config.json", b"{}"), ("tokenizer_config.json", list)]);
    let checkpoint = Checkpoint::open_config(good.path()).expect("open");
    assert_eq!(checkpoint.chat_template.as_deref(), Some("d"));
    for bad in
        [r#"{"chat_template": []}"#, r#"{"chat_template": 1}"#, r#"{"chat_template": [{"name": "default"}]}"#]
    {
        let bad = directory(&[("config.json", b"{}"), ("tokenizer_config.json", bad.as_bytes())]);
        assert!(text(bad.path(), "tokenizer_config.json").contains("chat_template"));
    }
}

#[test]
fn broken_json_is_named() {
    for (file, content) in [
        ("config.json", &b"{"[..]),
        ("config.json", b"[]"),
        ("config.json", b"\xff"),
        ("generation_config.json", b"nonsense"),
        ("tokenizer_config.json", b"1"),
        ("model.safetensors.index.json", b"{}"),
        ("model.safetensors.index.json", br#"{"weight_map": {"a": 1}}"#),
        ("model.safetensors.index.json", br#"{"weight_map": {"a": "../model.safetensors"}}"#),
        ("model.safetensors.index.json", br#"{"weight_map": {"a": "/model.safetensors"}}"#),
    ] {
        let mut files = vec![("config.json", &b"{}"[..])];
        files.push((file, content));
        text(directory(&files).path(), file);
    }
    text(directory(&[]).path(), "config.json");
    assert!(text(directory(&[("x.gguf", b"")]).path(), "config.json").contains("x.gguf"));
    text(Path::new("does/not/exist"), "does/not/exist");
}

#[test]
fn shards() {
    let index =
        br#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}"#;
    let one =
        serialize(&[("a", StDtype::F32, &[2]), ("c", StDtype::F32, &[2]), ("unlisted", StDtype::F32, &[1])]);
    let two = serialize(&[("b", StDtype::F32, &[3])]);
    let files = [
        ("config.json", &b"{}"[..]),
        ("model.safetensors.index.json", index),
        ("one.safetensors", &one),
        ("two.safetensors", &two),
    ];
    let directory = directory(&files);
    let checkpoint = Checkpoint::open(directory.path()).expect("open");
    assert_eq!(checkpoint.tensor_names(), ["a", "b", "c"]);
    assert_eq!(read_all(&checkpoint), 28);
    drop(checkpoint);

    std::fs::write(directory.path().join("two.safetensors"), &one).expect("write");
    let message = text(directory.path(), "model.safetensors.index.json");
    assert!(message.contains("tensor b in two.safetensors"), "{message}");
    std::fs::remove_file(directory.path().join("two.safetensors")).expect("remove");
    let message = text(directory.path(), "model.safetensors.index.json");
    assert!(message.contains("two.safetensors, which is not"), "{message}");
}

/// They harm nobody until a model asks for one.
#[test]
fn tensors_of_unsupported_types_are_named() {
    for (dtype, name) in [(StDtype::I64, "I64"), (StDtype::F8_E5M2, "F8_E5M2"), (StDtype::U8, "U8")] {
        let bytes = serialize(&[("a", StDtype::F32, &[2]), ("ids", dtype, &[2])]);
        let directory = directory(&[("config.json", b"{}"), ("model.safetensors", &bytes)]);
        let checkpoint = Checkpoint::open(directory.path()).expect("the rest is read");
        assert_eq!(checkpoint.tensor_names(), ["a"]);
        let message = checkpoint.unreadable("ids").expect("the reason");
        let expected = ["ids", name, "model.safetensors", "supported are F32, F16, BF16, F8_E4M3 and I32"];
        assert!(expected.iter().all(|part| message.contains(part)), "{message}");
        assert!(checkpoint.unneeded().expect("told").contains(message));
    }
}

#[test]
fn pickle_files_are_refused_by_name() {
    for file in
        ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "consolidated.00.pth", "m.ckpt"]
    {
        for with_config in [true, false] {
            let directory = directory(&[(file, b"\x80\x02")]);
            if with_config {
                std::fs::write(directory.path().join("config.json"), "{}").expect("write");
            }
            let message = text(directory.path(), file);
            assert!(message.contains("pickle") && message.contains("safetensors"), "{message}");
            assert!(text(&directory.path().join(file), file).contains("pickle"));
        }
        // Beside safetensors they are not read.
        let both =
            directory(&[("config.json", b"{}"), (file, b"\x80\x02"), ("model.safetensors", &weights())]);
        Checkpoint::open(both.path()).expect("safetensors are there");
    }
}

#[test]
fn truncated_anywhere() {
    let bytes = weights();
    let directory = directory(&[("config.json", b"{}")]);
    for length in 0..bytes.len() {
        std::fs::write(directory.path().join("model.safetensors"), &bytes[..length]).expect("write");
        text(directory.path(), "model.safetensors");
    }
}

/// Extreme values in the header's length and in every number of the header.
#[test]
#[ignore = "run by extreme_headers_in_little_memory"]
fn extreme_headers() {
    let directory = directory(&[("config.json", b"{}")]);
    let check = |bytes: &[u8]| {
        std::fs::write(directory.path().join("model.safetensors"), bytes).expect("write");
        text(directory.path(), "model.safetensors");
    };
    let data = [0u8; 8];
    let file = |header: &str, length: u64| [&length.to_le_bytes()[..], header.as_bytes(), &data[..]].concat();
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    for length in [0, 1, header.len() as u64 - 1, header.len() as u64 + 1, 1 << 31, 1 << 40, u64::MAX] {
        check(&file(header, length));
    }
    for (dtype, shape, offsets) in [
        ("F32", "[3]", "[0,8]"),
        ("F32", "[18446744073709551615]", "[0,8]"),
        ("F32", "[4294967296,4294967296]", "[0,8]"),
        ("F32", "[-1]", "[0,8]"),
        ("F32", "[2]", "[0,18446744073709551615]"),
        ("F32", "[2]", "[8,0]"),
        ("F32", "[2]", "[4,12]"),
        ("F32", "[0]", "[0,0]"),
        ("F33", "[2]", "[0,8]"),
        ("F32", "2", "[0,8]"),
        ("F32", "[2]", "[0]"),
    ] {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        check(&file(&header, header.len() as u64));
    }
}

#[test]
fn extreme_headers_in_little_memory() {
    assert!(passes_under_memory_limit("checkpoint::hf_dir::extreme_headers", MEMORY_LIMIT_KIB));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_damage(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = weights();
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let directory = directory(&[("config.json", b"{}"), ("model.safetensors", &bytes)]);
        match Checkpoint::open(directory.path()) {
            Ok(checkpoint) => prop_assert_eq!(read_all(&checkpoint), checkpoint.tensor_bytes()),
            Err(error) => prop_assert!(error.to_string().contains("model.safetensors")),
        }
    }
}
