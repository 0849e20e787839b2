//! A byte-level BPE tokenizer from vocab.json and merges.txt, for checkpoints without a
//! tokenizer.json: what transformers builds of the same files.
//!
//! Invariant: every token has the id that the files give it; files that contradict each other are
//! an error. Absent on purpose: how text is cut into words is in none of these files, so that
//! tokenizers of unknown classes are refused.

use super::pretokenizer::{Family, family};
use super::tokenizer::{add_with_id, listed_tokens, special_token};
use crate::checkpoint::BpeFiles;
use crate::protocol::TokenId;
use serde_json::Value;
use std::collections::BTreeSet;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

/// config.json's `model_type`, and what it is for [`family`]. As in transformers it counts more than
/// the class.
const MODEL_TYPES: [(&str, &str); 5] = [
    ("qwen2", "qwen2"),
    ("qwen2_moe", "qwen2"),
    ("qwen3", "qwen2"),
    ("qwen3_moe", "qwen2"),
    ("gpt2", "gpt-2"),
];

/// tokenizer_config.json's `tokenizer_class`.
const CLASSES: [(&str, &str); 2] = [("Qwen2Tokenizer", "qwen2"), ("GPT2Tokenizer", "gpt-2")];

/// Builds the tokenizer. Errors name the file and what would be right.
pub(super) fn build(files: &BpeFiles, tokenizer_config: &Value) -> Result<Tokenizer, String> {
    let Family { nfc, steps, .. } = family(family_name(files, tokenizer_config)?)?;
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let model = BPE::from_file(&path(&files.vocab), &path(&files.merges))
        .build()
        .map_err(|error| format!("{} and {}: {error}", files.vocab.display(), files.merges.display()))?;
    let mut tokenizer = Tokenizer::new(model);
    if nfc {
        tokenizer.with_normalizer(Some(NFC)).map_err(|error| error.to_string())?;
    }
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));

    // By id: a token that is new to the vocabulary gets the next one.
    let special = special_tokens(&files.special_tokens_map, tokenizer_config);
    let mut added = listed_tokens(tokenizer_config)?;
    for (token, id) in files.added_tokens.as_object().into_iter().flatten() {
        let id = id.as_u64().and_then(|id| TokenId::try_from(id).ok());
        let id = id.ok_or_else(|| format!("added_tokens.json: {token:?} must have a token id"))?;
        let is_special = special.contains(token.as_str());
        added.entry(id).or_insert_with(|| AddedToken::from(token, is_special).normalized(!is_special));
    }
    for (id, token) in added {
        add_with_id(&mut tokenizer, token, id, "added_tokens.json or tokenizer_config.json")?;
    }
    // Named ones that are ordinary tokens of vocab.json so far (GPT-2's <|endoftext|>).
    let listed: BTreeSet<String> =
        tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    for token in special.into_iter().filter(|token| !listed.contains(*token)) {
        if let Some(id) = tokenizer.token_to_id(token) {
            let token = AddedToken::from(token, true).normalized(false);
            add_with_id(&mut tokenizer, token, id, "special_tokens_map.json")?;
        }
    }
    Ok(tokenizer)
}

fn family_name(files: &BpeFiles, tokenizer_config: &Value) -> Result<&'static str, String> {
    let class = tokenizer_config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let by_type = MODEL_TYPES.iter().find(|(name, _)| *name == files.model_type);
    let known = by_type.or_else(|| CLASSES.iter().find(|(name, _)| class.trim_end_matches("Fast") == *name));
    known.map(|(_, family)| *family).ok_or_else(|| {
        let what = match class {
            "" => format!("model_type {:?} in config.json", files.model_type),
            class => format!("tokenizer_class {class:?} in tokenizer_config.json"),
        };
        format!(
            "{}: {what} does not say how text is cut into words (known are Qwen2Tokenizer and GPT2Tokenizer); add \
             tokenizer.json (in Python: transformers.AutoTokenizer.from_pretrained(directory)\
             .save_pretrained(directory))",
            files.vocab.display()
        )
    })
}

/// The texts of all named special tokens, `additional_special_tokens` among them.
fn special_tokens<'a>(map: &'a Value, tokenizer_config: &'a Value) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    for config in [map, tokenizer_config] {
        let Some(fields) = config.as_object() else { continue };
        found.extend(
            fields
                .keys()
                .filter(|name| name.ends_with("_token"))
                .filter_map(|name| special_token(config, name)),
        );
        let more = fields.get("additional_special_tokens").and_then(Value::as_array).into_iter().flatten();
        found.extend(more.filter_map(|token| token.as_str().or_else(|| token.get("content")?.as_str())));
    }
    found
}
