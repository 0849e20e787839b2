//! A tokenizer.json, read as transformers reads it together with tokenizer_config.json.

use super::TextError;
use super::tokenizer::{add_bos_eos, add_with_id, listed_tokens, special_token};
use crate::files;
use serde::Deserialize;
use serde_json::Value;
use std::panic::catch_unwind;
use std::path::Path;

/// Largest tokenizer.json: several times the largest one seen.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The tokenizer, and what is odd about its file.
pub(super) fn read_json(
    path: &Path,
    config: &Value,
) -> Result<(tokenizers::Tokenizer, Option<String>), TextError> {
    let fail = |reason: String| TextError::Tokenizer(format!("{}: {reason}", path.display()));
    let bytes = files::read(path, FILE_BYTES_MAX).map_err(|error| fail(error.to_string()))?;
    // Inconsistent merges make the crate index out of bounds.
    let mut tokenizer = catch_unwind(|| tokenizers::Tokenizer::from_bytes(&bytes))
        .map_err(|_| fail("its parts do not fit together: vocabulary and merges, or a part's table".into()))?
        .map_err(|error| fail(error.to_string()))?;
    tokenizer.with_truncation(None).map_err(|error| fail(error.to_string()))?;
    tokenizer.with_padding(None);
    let listed: ListedTokens = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
    let moved = listed.added_tokens.iter().find_map(|token| {
        let id = tokenizer.token_to_id(&token.content)?;
        (token.id != u64::from(id)).then_some((token, id))
    });
    // So does transformers, which builds on the same library.
    let warning = moved.map(|(token, id)| {
        format!(
            "{}: added_tokens gives {:?} the id {}, but it follows the vocabulary and gets {id}",
            path.display(),
            token.content,
            token.id
        )
    });
    Ok((configured(tokenizer, config).map_err(fail)?, warning))
}

/// What a tokenizer.json says of its added tokens.
#[derive(Deserialize)]
struct ListedTokens {
    #[serde(default)]
    added_tokens: Vec<ListedToken>,
}

#[derive(Deserialize)]
struct ListedToken {
    id: u64,
    content: String,
}

/// With what tokenizer_config.json adds and changes.
pub(super) fn configured(
    mut tokenizer: tokenizers::Tokenizer,
    config: &Value,
) -> Result<tokenizers::Tokenizer, String> {
    for (id, token) in listed_tokens(config)? {
        if tokenizer.token_to_id(&token.content).is_none() {
            add_with_id(&mut tokenizer, token, id, "tokenizer_config.json's added_tokens_decoder")?;
        }
    }
    let flag = |name| config.get(name).and_then(Value::as_bool);
    let (bos, eos) = (flag("add_bos_token"), flag("add_eos_token"));
    if bos.is_some() || eos.is_some() {
        let named = |wanted: Option<bool>, name| {
            let token = special_token(config, name).filter(|_| wanted == Some(true))?;
            Some((token.to_owned(), tokenizer.token_to_id(token)?))
        };
        let template = add_bos_eos(named(bos, "bos_token"), named(eos, "eos_token"))?;
        tokenizer.with_post_processor(Some(template));
    }
    Ok(tokenizer)
}
