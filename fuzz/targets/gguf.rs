//! A GGUF file of a stranger: its header, the config and tokenizer made from it, and every tensor's bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use novastack::checkpoint::Checkpoint;
use novastack::model::ModelConfig;
use novastack::text::{Containment, Tokenizer};
use std::path::PathBuf;
use std::sync::LazyLock;

static FILE: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    (folder, path)
});

fuzz_target!(|bytes: &[u8]| {
    let path = &FILE.1;
    std::fs::write(path, bytes).expect("written");
    let _ = Checkpoint::open_vocabulary(path);
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let _ = ModelConfig::from_json(&checkpoint.config);
    let _ = Tokenizer::contained(&checkpoint, None, &Containment::by_this_program());
    for name in checkpoint.tensor_names() {
        if let Some(tensor) = checkpoint.tensor(name) {
            std::hint::black_box(tensor.data.last());
        }
    }
});
