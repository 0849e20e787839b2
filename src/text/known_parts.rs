//! What a tokenizer's parts can do to a text: how much larger and smaller they make it, and whether the
//! time that they take is known.
//!
//! tokenizer.json puts a tokenizer together of normalisers, pre-tokenisers and decoders of which some are
//! programs: a pattern can take a year for a short text, a replacement can make a gigabyte of a space,
//! and they can be nested. Those that real checkpoints use are on lists here; patterns are known by their
//! whole text ([`super::pretokenizer`]). What is not known is not wrong: it is contained
//! ([`super::contained`]).

use super::pretokenizer;
use serde::Serialize;
use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

/// Normalisers, pre-tokenisers or decoders of one tokenizer, nested ones counted singly. Real ones have
/// eight at the most.
const PARTS_MAX: usize = 32;
/// How many times longer known normalisers make a text.
const GROWTH_MAX: usize = 32;
/// A decoder's replacement, in bytes.
const DECODED_BYTES_MAX: usize = 16;

/// What is known of a tokenizer's way from text to tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    /// It takes time and memory in proportion to the text, more or less.
    pub is_known: bool,
    /// How many times shorter the text can become before it is cut into tokens; None: anything.
    pub shrink: Option<usize>,
}

/// Of a tokenizer that is built.
pub(super) fn encoding(tokenizer: &Tokenizer) -> Encoding {
    let normalizers = flat(tokenizer.get_normalizer(), "normalizers");
    let cutters = flat(tokenizer.get_pre_tokenizer(), "pretokenizers");
    let (Some(normalizers), Some(cutters)) = (normalizers, cutters) else {
        return Encoding { is_known: false, shrink: None };
    };
    let mut growth = Some(1_usize);
    let mut shrink = Some(1_usize);
    for part in &normalizers {
        let (larger, smaller) = normalizer(part);
        growth = growth.zip(larger).map(|(all, one)| all.saturating_mul(one));
        shrink = shrink.zip(smaller).map(|(all, one)| all.saturating_mul(one));
    }
    let keeps_all = cutters.iter().all(|part| match kind(part) {
        "ByteLevel" | "Digits" | "Metaspace" => true,
        "Split" => part["behavior"] != "Removed",
        _ => false,
    });
    let spells_all = match tokenizer.get_model() {
        ModelWrapper::BPE(bpe) if bpe.byte_fallback => {
            (0..=255_u8).all(|byte| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).is_some())
        }
        // Each byte is a character of its alphabet.
        ModelWrapper::BPE(_) => {
            let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
            cutters.iter().any(|part| kind(part) == "ByteLevel")
                && alphabet.iter().all(|c| tokenizer.token_to_id(c.encode_utf8(&mut [0; 4])).is_some())
        }
        _ => false,
    };
    Encoding {
        is_known: growth.is_some_and(|growth| growth <= GROWTH_MAX) && cutters.iter().all(is_known_cutter),
        shrink: shrink.filter(|_| keeps_all && spells_all),
    }
}

/// How many times larger and smaller it makes a text; None: nobody knows.
fn normalizer(part: &Value) -> (Option<usize>, Option<usize>) {
    match kind(part) {
        // Three letters become one syllable in Korean, a letter and three marks one character in Greek.
        "NFC" => (Some(3), Some(3)),
        "NFD" => (Some(4), None),
        "NFKC" | "NFKD" => (Some(18), None),
        "Lowercase" | "BertNormalizer" => (Some(3), None),
        "Strip" | "StripAccents" | "Nmt" => (Some(1), None),
        "ByteLevel" => (Some(2), Some(1)),
        // Once, before the text.
        "Prepend" => {
            let is_short = part["prepend"].as_str().is_some_and(|text| text.len() <= DECODED_BYTES_MAX);
            (is_short.then_some(1), Some(1))
        }
        "Replace" => match (part["pattern"]["String"].as_str(), part["content"].as_str()) {
            (Some(from), Some(to)) if !from.is_empty() => {
                let smaller = (!to.is_empty()).then(|| from.len().div_ceil(to.len()));
                (Some(to.len().div_ceil(from.len()).max(1)), smaller)
            }
            _ => (None, None),
        },
        // Of a table in the file.
        _ => (None, None),
    }
}

fn is_known_cutter(part: &Value) -> bool {
    match kind(part) {
        "Split" => match (part["pattern"]["Regex"].as_str(), part["pattern"]["String"].as_str()) {
            (Some(pattern), _) => pretokenizer::is_known(pattern),
            (None, literal) => literal.is_some_and(|literal| !literal.is_empty()),
        },
        "ByteLevel" | "Digits" | "Metaspace" | "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer"
        | "Punctuation" | "UnicodeScripts" | "CharDelimiterSplit" => true,
        _ => false,
    }
}

/// Answers are decoded where they are made, so that what decodes must be known.
pub(super) fn check_decoder(tokenizer: &Tokenizer) -> Result<(), String> {
    let parts = flat(tokenizer.get_decoder(), "decoders")
        .ok_or_else(|| format!("decoder: more than {PARTS_MAX} parts are not supported"))?;
    for part in &parts {
        let is_short = |field: &str| part[field].as_str().is_some_and(|text| text.len() <= DECODED_BYTES_MAX);
        match kind(part) {
            "Replace" if part["pattern"]["String"].as_str().is_none_or(str::is_empty) => {
                return Err("decoder: a Replace with a regular expression is not supported".into());
            }
            "Replace" if !is_short("content") => {
                return Err(format!(
                    "decoder: a Replace whose content has more than {DECODED_BYTES_MAX} bytes is not supported"
                ));
            }
            _ => {}
        }
    }
    // One replacement after the other could still double and double again.
    let replacements = parts.iter().filter(|part| kind(part) == "Replace").count();
    if replacements > 4 {
        return Err(format!("decoder: {replacements} Replace parts are not supported, 4 are the most"));
    }
    Ok(())
}

fn kind(part: &Value) -> &str {
    part["type"].as_str().unwrap_or_default()
}

/// The parts of a part, those of sequences singly; None where there are too many.
fn flat(part: Option<&impl Serialize>, field: &str) -> Option<Vec<Value>> {
    let Some(part) = part else { return Some(Vec::new()) };
    let mut left = vec![serde_json::to_value(part).ok()?];
    let mut found = Vec::new();
    let mut seen = 0;
    while let Some(mut part) = left.pop() {
        seen += 1;
        if seen > PARTS_MAX {
            return None;
        }
        match part[field].take() {
            Value::Array(parts) => left.extend(parts.into_iter().rev()),
            _ => found.push(part),
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn built(normalizer: Value, pre_tokenizer: Value) -> Encoding {
        let mut vocab: serde_json::Map<String, Value> = serde_json::Map::new();
        for c in tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet() {
            vocab.insert(c.to_string(), vocab.len().into());
        }
        let json = json!({
            "version": "1.0", "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        encoding(&Tokenizer::from_bytes(json.to_string()).expect("a tokenizer"))
    }

    #[test]
    fn parts_are_known_by_what_they_can_do() {
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let known = |shrink| Encoding { is_known: true, shrink };
        assert_eq!(built(Value::Null, bytes.clone()), known(Some(1)));
        assert_eq!(built(json!({"type": "NFC"}), bytes.clone()), known(Some(3)));
        assert_eq!(built(json!({"type": "Lowercase"}), bytes.clone()), known(None));
        let replace =
            |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        assert_eq!(built(replace(" ", "\u{2581}"), bytes.clone()), known(Some(1)));
        assert_eq!(built(replace("abc", "a"), bytes.clone()), known(Some(3)));
        // Six doublings make 64 times the text.
        let doublings = json!({"type": "Sequence", "normalizers": vec![replace("a", "aa"); 6]});
        assert!(!built(doublings, bytes.clone()).is_known);
        assert!(!built(replace(" ", &"x".repeat(1000)), bytes.clone()).is_known);
        let many = json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); PARTS_MAX + 1]});
        assert_eq!(built(many, bytes.clone()), Encoding { is_known: false, shrink: None });
        let split = |pattern: &str, behavior: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": false}, bytes]})
        };
        assert!(!built(Value::Null, split("(a+)+$", "Isolated")).is_known);
        let qwen = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        assert_eq!(built(Value::Null, split(qwen, "Isolated")), known(Some(1)));
        assert_eq!(built(Value::Null, split(qwen, "Removed")), known(None));
    }
}
