//! The weights of a stranger's folder: header, shapes and every tensor's bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use novastack::checkpoint::Checkpoint;
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let config = include_str!("../../tests/goldens/llama/config.json");
    std::fs::write(folder.path().join("config.json"), config).expect("written");
    folder
});

fuzz_target!(|bytes: &[u8]| {
    std::fs::write(FOLDER.path().join("model.safetensors"), bytes).expect("written");
    let Ok(checkpoint) = Checkpoint::open(FOLDER.path()) else { return };
    for name in checkpoint.tensor_names() {
        if let Some(tensor) = checkpoint.tensor(name) {
            std::hint::black_box(tensor.data.last());
        }
    }
});
