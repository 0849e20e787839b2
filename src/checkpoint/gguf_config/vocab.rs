//! What a GGUF file says about tokens: its vocabulary, and the parts of tokenizer_config.json and
//! generation_config.json that are metadata there.

use super::super::gguf::{Gguf, Value as Metadata};
use super::super::{CheckpointError, GgufVocab};
use serde_json::{Map, Value, json};

/// Pre-tokenizers for which llama.cpp adds BOS unless the file says otherwise.
const PRE_WITH_BOS: [&str; 3] = ["llama3", "llama-v3", "llama-bpe"];

/// ggml's token types.
const NORMAL: i32 = 1;
const UNUSED: i32 = 5;

/// `tokenizer.ggml.*`; None when the file has no tokens.
/// What can be passed over becomes a warning.
pub(super) fn vocab(
    gguf: &Gguf<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<GgufVocab>, CheckpointError> {
    let text =
        |value: Metadata<'_>| if let Metadata::Str(text) = value { Some(text.to_owned()) } else { None };
    let strings = |key: &str| gguf.array(key, "an array of strings", text);
    let Some(tokens) = strings("tokenizer.ggml.tokens")? else { return Ok(None) };
    let mut token_types = gguf
        .array("tokenizer.ggml.token_type", "an array of token types 1 to 6, one per token", |value| {
            match value {
                Metadata::Signed(kind @ 1..=6) => Some(kind as i32),
                Metadata::Unsigned(kind @ 1..=6) => Some(kind as i32),
                _ => None,
            }
        })?
        .unwrap_or_default();
    if token_types.len() != tokens.len() {
        warnings.push(format!(
            "metadata tokenizer.ggml.token_type has {} entries for {} tokens; tokens without one count as ordinary",
            token_types.len(),
            tokens.len()
        ));
        token_types.resize(tokens.len(), NORMAL);
    }
    let empty = tokens.iter().zip(&token_types).filter(|(token, kind)| token.is_empty() && **kind != UNUSED);
    let empty = empty.count();
    if let Some(first) = tokens.iter().position(String::is_empty).filter(|_| empty > 0) {
        warnings.push(format!(
            "metadata tokenizer.ggml.tokens: {empty} are empty, the first is {first}; no text becomes them"
        ));
    }
    let mut id = |key: &str| -> Result<Option<u32>, CheckpointError> {
        let key = format!("tokenizer.ggml.{key}");
        match gguf.u32(&key)? {
            // -1 as an unsigned number: written by converters for "there is none".
            Some(u32::MAX) | None => Ok(None),
            Some(id) if (id as usize) < tokens.len() => Ok(Some(id)),
            Some(id) => {
                warnings.push(format!(
                    "metadata {key}: {id} is not among {} tokens and counts as none",
                    tokens.len()
                ));
                Ok(None)
            }
        }
    };
    let mut eos = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        eos.extend(id(key)?.filter(|id| !eos.contains(id)));
    }
    let bos = id("bos_token_id")?;
    let pre = gguf.str("tokenizer.ggml.pre")?.unwrap_or_default().to_owned();
    Ok(Some(GgufVocab {
        model: gguf
            .str("tokenizer.ggml.model")?
            .ok_or_else(|| gguf.invalid("metadata tokenizer.ggml.model is missing"))?
            .to_owned(),
        token_types,
        merges: strings("tokenizer.ggml.merges")?.unwrap_or_default(),
        bos,
        add_bos: gguf
            .bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or_else(|| PRE_WITH_BOS.contains(&pre.as_str())),
        eos,
        pre,
        tokens,
    }))
}

/// EOS, BOS, and the sampling defaults that newer converters write.
pub(super) fn generation_config(
    gguf: &Gguf<'_>,
    vocab: Option<&GgufVocab>,
) -> Result<Value, CheckpointError> {
    let mut config = Map::new();
    if let Some(vocab) = vocab {
        config.insert("eos_token_id".into(), json!(vocab.eos));
        if let Some(bos) = vocab.bos {
            config.insert("bos_token_id".into(), bos.into());
        }
    }
    let floats = [
        ("temp", "temperature"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("penalty_repeat", "repetition_penalty"),
    ];
    for (key, hf) in floats {
        if let Some(number) = gguf.f64(&format!("general.sampling.{key}"))? {
            config.insert(hf.into(), number.into());
        }
    }
    if let Some(number) = gguf.u32("general.sampling.top_k")? {
        config.insert("top_k".into(), number.into());
    }
    Ok(Value::Object(config))
}

/// What chat templates read of tokenizer_config.json: special tokens as text.
pub(super) fn tokenizer_config(gguf: &Gguf<'_>, vocab: Option<&GgufVocab>) -> Result<Value, CheckpointError> {
    let mut config = Map::new();
    let Some(vocab) = vocab else { return Ok(Value::Object(config)) };
    config.insert("add_bos_token".into(), vocab.add_bos.into());
    let text = |id: u32| vocab.tokens.get(id as usize).cloned();
    let mut set = |key: &str, id: Option<u32>| {
        if let Some(text) = id.and_then(text) {
            config.insert(key.into(), text.into());
        }
    };
    set("bos_token", vocab.bos);
    set("eos_token", gguf.u32("tokenizer.ggml.eos_token_id")?);
    set("unk_token", gguf.u32("tokenizer.ggml.unknown_token_id")?);
    set("pad_token", gguf.u32("tokenizer.ggml.padding_token_id")?);
    Ok(Value::Object(config))
}
