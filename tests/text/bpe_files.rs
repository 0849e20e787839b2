//! Tokenizers in vocab.json and merges.txt: ids against transformers', which built one of the same
//! files (`scripts/goldens_text.py`), and against the family's own tokenizer.json.

use super::tokenizer::strings;
use super::{family_file, golden, read_json};
use novastack::checkpoint::Checkpoint;
use novastack::text::Tokenizer;
use serde_json::{Value, json};
use std::path::Path;

fn write(place: &Path, name: &str, value: &Value) {
    std::fs::write(place.join(name), value.to_string()).expect("write");
}

fn write_merges(place: &Path, merges: &[Value]) {
    let merges = merges.iter().map(|merge| match merge {
        Value::String(merge) => merge.clone(),
        pair => format!("{} {}", pair[0].as_str().expect("left"), pair[1].as_str().expect("right")),
    });
    let text = format!("#version: 0.2\n{}\n", merges.collect::<Vec<_>>().join("\n"));
    std::fs::write(place.join("merges.txt"), text).expect("write");
}

fn open(place: &Path) -> Result<Tokenizer, String> {
    let checkpoint = Checkpoint::open_config(place).expect("a directory");
    Tokenizer::from_checkpoint(&checkpoint).map_err(|error| error.to_string())
}

#[test]
fn ids_are_those_of_transformers() {
    let golden = golden("bpe_files.json");
    let strings = super::golden("strings.json");
    for (class, case) in golden["cases"].as_object().expect("cases") {
        let place = tempfile::tempdir().expect("tempdir");
        write(place.path(), "vocab.json", &golden["vocab"]);
        write_merges(place.path(), golden["merges"].as_array().expect("merges"));
        for (name, value) in case["files"].as_object().expect("files") {
            write(place.path(), name, value);
        }
        let tokenizer = open(place.path()).expect("tokenizer");
        let texts = [strings.as_array(), case["texts"].as_array()];
        let texts: Vec<&Value> = texts.into_iter().flatten().flatten().collect();
        let expected = case["ids"].as_array().expect("ids");
        assert_eq!(texts.len(), expected.len());
        for (text, ids) in texts.into_iter().zip(expected) {
            let got = tokenizer.encode(text.as_str().expect("text"), true).expect("encode");
            assert_eq!(json!(got), *ids, "{class}: {text}");
        }
        assert_eq!(tokenizer.eos_ids().first(), Some(&1000), "{class}");
    }
}

/// The real Qwen2.5 vocabulary, saved as its older repositories are.
#[test]
fn ids_are_those_of_the_familys_own_tokenizer() {
    let Some(path) = family_file("qwen2_5", "tokenizer.json") else { return };
    let reference = tokenizers::Tokenizer::from_file(&path).expect("reference");
    let json = read_json(&path);
    let place = tempfile::tempdir().expect("tempdir");
    let added = json["added_tokens"].as_array().expect("added");
    let special: Vec<&Value> = added.iter().filter(|t| t["special"] == true).map(|t| &t["content"]).collect();
    let ids: serde_json::Map<String, Value> =
        added.iter().map(|t| (t["content"].as_str().expect("text").to_owned(), t["id"].clone())).collect();
    write(place.path(), "config.json", &json!({"model_type": "qwen2"}));
    write(place.path(), "vocab.json", &json["model"]["vocab"]);
    write_merges(place.path(), json["model"]["merges"].as_array().expect("merges"));
    write(place.path(), "added_tokens.json", &ids.into());
    write(place.path(), "special_tokens_map.json", &json!({"additional_special_tokens": special}));
    let tokenizer = open(place.path()).expect("tokenizer");
    let marks: Vec<String> = added.iter().map(|t| t["content"].as_str().expect("text").to_owned()).collect();
    for text in strings(&marks).iter().step_by(3) {
        let expected = reference.encode(text.as_str(), true).expect("reference");
        let ids = tokenizer.encode(text, true).expect("encode");
        assert_eq!(ids, expected.get_ids(), "{text:?}");
        assert_eq!(
            tokenizer.decode(&ids, true).expect("ours"),
            reference.decode(&ids, true).expect("theirs")
        );
    }
}

#[test]
fn files_that_do_not_say_enough_or_contradict_each_other_are_refused() {
    let place = tempfile::tempdir().expect("tempdir");
    write(place.path(), "vocab.json", &json!({"a": 0, "b": 1, "ab": 2}));
    write_merges(place.path(), &[json!("a b")]);
    write(place.path(), "config.json", &json!({"model_type": "llama"}));
    let error = open(place.path()).expect_err("no rules");
    assert!(error.contains("model_type \"llama\"") && error.contains("tokenizer.json"), "{error}");
    write(place.path(), "tokenizer_config.json", &json!({"tokenizer_class": "LlamaTokenizer"}));
    let error = open(place.path()).expect_err("SentencePiece");
    assert!(error.contains("tokenizer_class \"LlamaTokenizer\""), "{error}");
    write(place.path(), "tokenizer_config.json", &json!({"tokenizer_class": "GPT2TokenizerFast"}));
    assert_eq!(open(place.path()).expect("rules").encode("ab", true).expect("encode"), [2]);
    write(place.path(), "added_tokens.json", &json!({"<x>": 7}));
    let error = open(place.path()).expect_err("a gap");
    assert!(error.contains("\"<x>\" the id 7") && error.contains("Some(3)"), "{error}");
}
