//! The vocabularies that llama.cpp itself tests with: GGUF files by its converter, texts, and the
//! ids that the models' own tokenizers give (`scripts/fetch_tokenizers.sh`).

use super::downloaded;
use novastack::checkpoint::{Checkpoint, TokenizerSource};
use novastack::text::{TextError, Tokenizer};
use serde_json::json;
use std::path::PathBuf;

fn file(name: &str, suffix: &str) -> Option<PathBuf> {
    let path = format!("vocabularies/ggml-vocab-{name}.gguf{suffix}");
    downloaded(&path, "run scripts/fetch_tokenizers.sh")
}

fn open(name: &str) -> Option<Result<Tokenizer, TextError>> {
    let path = file(name, "")?;
    let vocab = Checkpoint::open_vocabulary(&path).expect("a GGUF file").expect("a vocabulary");
    Some(Tokenizer::from_source(&TokenizerSource::Gguf(vocab), &json!({})))
}

#[test]
fn ids_from_converted_vocabularies_are_those_of_the_models_own_tokenizers() {
    for name in [
        "qwen2",
        "qwen35",
        "llama-bpe",
        "deepseek-llm",
        "deepseek-coder",
        "gpt-2",
        "starcoder",
        "refact",
        "command-r",
    ] {
        let Some(tokenizer) = open(name) else { return };
        let tokenizer = tokenizer.unwrap_or_else(|error| panic!("{name}: {error}"));
        let (Some(texts), Some(ids)) = (file(name, ".inp"), file(name, ".out")) else { return };
        let texts = std::fs::read_to_string(texts).expect("texts");
        let ids = std::fs::read_to_string(ids).expect("ids");
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let lines: Vec<&str> = ids.lines().collect();
        assert!(texts.len() > 40 && lines.len() >= texts.len() - 1, "{name}: {} texts", texts.len());
        for (text, line) in texts.iter().zip(lines) {
            // Qwen's own tokenizers compose a letter and its accent (NFC); this file's ids are llama.cpp's,
            // which does not.
            if name == "qwen35" && text.contains(['\u{300}', '\u{301}']) {
                continue;
            }
            let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
            assert_eq!(tokenizer.encode(text, false).expect("encode"), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn vocabularies_of_other_kinds_are_named() {
    for (name, kind) in [
        ("llama-spm", "SentencePiece"),
        ("phi-3", "SentencePiece"),
        ("gemma-4", "SentencePiece"),
        ("bert-bge", "WordPiece"),
        ("falcon", "\"falcon\" is not supported"),
        ("mpt", "\"mpt\" is not supported"),
    ] {
        let Some(tokenizer) = open(name) else { return };
        let error = tokenizer.expect_err(name).to_string();
        assert!(error.contains(kind), "{name}: {error}");
    }
}
