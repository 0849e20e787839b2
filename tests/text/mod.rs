//! `text` against transformers: token ids by family, chat-template renderings, detokenizing.
//!
//! The families' tokenizer.json files are fetched by `scripts/fetch_tokenizers.sh` and not
//! committed; the goldens beside this file are written by `scripts/goldens_text.py`.

mod answer_formats;
mod bpe_files;
mod chat_template;
mod detokenizer;
mod end_tokens;
mod hostile_program;
mod hostile_templates;
mod hostile_tokenizers;
mod literal;
mod tokenizer;
mod vocabularies;

use serde_json::Value;
use std::path::PathBuf;

const FAMILIES: [&str; 4] = ["qwen3", "qwen2_5", "llama3_1", "deepseek_v3"];

fn cache() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join(std::env::var_os("NOVASTACK_TEST_CACHE").unwrap_or_else(|| "target/test-cache".into()))
}

/// A downloaded file; None (after saying so) where downloads are to be skipped.
pub fn downloaded(path: &str, how: &str) -> Option<PathBuf> {
    let path = cache().join(path);
    if path.exists() {
        return Some(path);
    }
    if std::env::var_os("NOVASTACK_SKIP_DOWNLOADS").is_some_and(|value| value == "1") {
        eprintln!("SKIPPED: {} is missing ({how})", path.display());
        return None;
    }
    panic!("{} is missing; {how}, or set NOVASTACK_SKIP_DOWNLOADS=1", path.display());
}

pub fn family_file(family: &str, file: &str) -> Option<PathBuf> {
    downloaded(&format!("tokenizers/{family}/{file}"), "run scripts/fetch_tokenizers.sh")
}

fn demo_gguf() -> Option<PathBuf> {
    downloaded("SmolLM2-135M-Instruct.Q4_1.gguf", "copy or link the demo checkpoint there")
}

fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/text/goldens").join(name);
    read_json(&path)
}

pub fn read_json(path: &std::path::Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}
