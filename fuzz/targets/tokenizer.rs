//! A stranger's tokenizer.json: read, and used on a text.
#![no_main]

#[path = "../text_process.rs"]
mod text_process;

use libfuzzer_sys::fuzz_target;
use novastack::checkpoint::Checkpoint;
use novastack::text::{Containment, Tokenizer};
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let config = include_str!("../../tests/goldens/llama/config.json");
    std::fs::write(folder.path().join("config.json"), config).expect("written");
    folder
});

fuzz_target!(init: text_process::begin(), |bytes: &[u8]| {
    std::fs::write(FOLDER.path().join("tokenizer.json"), bytes).expect("written");
    let Ok(checkpoint) = Checkpoint::open_config(FOLDER.path()) else { return };
    let Ok(tokenizer) = Tokenizer::contained(&checkpoint, None, &Containment::by_this_program()) else { return };
    if let Ok(ids) = tokenizer.encode("Hello <|im_end|> wörld 123 \u{1f642}\n\n  end", true) {
        let _ = tokenizer.decode(&ids, false);
    }
});
