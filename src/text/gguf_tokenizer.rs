//! A byte-level BPE tokenizer from a GGUF file's metadata.
//!
//! GGUF stores vocabulary, merges and token types, but only a name for the pre-tokenizer
//! ([`super::pretokenizer`]).
//!
//! What GGUF does not keep: llama.cpp's converter marks a token that merely looks special
//! (`<|fim_prefix|>`, `<｜User｜>`) as control, so skipping special tokens skips those too.
//!
//! Invariant: every token keeps the id that the file gives it. Absent on purpose: SentencePiece
//! and WordPiece vocabularies, which are told by what they are.

use super::TextError;
use super::pretokenizer::family;
use super::tokenizer::add_bos_eos;
use crate::checkpoint::GgufVocab;
use std::collections::HashMap;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

/// ggml's token types.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Builds the tokenizer. Errors name the metadata key and what would be right.
pub(super) fn build(vocab: &GgufVocab) -> Result<Tokenizer, TextError> {
    try_build(vocab).map_err(TextError::Tokenizer)
}

fn try_build(vocab: &GgufVocab) -> Result<Tokenizer, String> {
    if vocab.model != "gpt2" {
        let kind = match vocab.model.as_str() {
            "llama" | "gemma4" => {
                "a SentencePiece vocabulary (Llama 1 and 2, Mistral before 2024, Gemma, Phi-3)"
            }
            "bert" => "a WordPiece vocabulary (BERT)",
            "t5" => "a Unigram vocabulary (T5)",
            "none" | "no_vocab" => "no vocabulary at all",
            _ => "of an unknown kind",
        };
        return Err(format!(
            "tokenizer.ggml.model {:?} is {kind}; of GGUF files only \"gpt2\" (byte-level BPE) is supported; serve \
             the model's original directory instead, with config.json, safetensors and tokenizer.json",
            vocab.model
        ));
    }
    let family = family(&vocab.pre).map_err(|reason| format!("tokenizer.ggml.pre: {reason}"))?;
    let ids = ids(vocab)?;
    let merges = merges(vocab, &ids)?;
    let words: Vocab = ids.iter().map(|(token, id)| ((*token).to_owned(), *id)).collect();
    let bpe = BPE::builder()
        .vocab_and_merges(words, merges)
        .ignore_merges(family.ignore_merges)
        .build()
        .map_err(|error| format!("tokenizer.ggml.merges: {error}"))?;

    let mut tokenizer = Tokenizer::new(bpe);
    if family.nfc {
        tokenizer.with_normalizer(Some(NFC)).map_err(|error| error.to_string())?;
    }
    tokenizer.with_pre_tokenizer(Some(Sequence::new(family.steps)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    // They are in the vocabulary already, so adding them keeps their ids.
    let added = vocab.tokens.iter().zip(&vocab.token_types).filter_map(|(token, kind)| match *kind {
        _ if token.is_empty() => None,
        UNKNOWN | CONTROL => Some(AddedToken::from(token.as_str(), true).normalized(false)),
        USER_DEFINED => Some(AddedToken::from(token.as_str(), false).normalized(false)),
        _ => None,
    });
    tokenizer.add_tokens(added).map_err(|error| format!("tokenizer.ggml.token_type: {error}"))?;

    if vocab.add_bos {
        let bos = vocab.bos.and_then(|id| Some((vocab.tokens.get(id as usize)?.clone(), id)));
        let bos = bos.ok_or("prompts begin with a BOS token, but tokenizer.ggml.bos_token_id names none")?;
        tokenizer.with_post_processor(Some(add_bos_eos(Some(bos), None)?));
    }
    Ok(tokenizer)
}

/// Ids by token, unused ones left out.
fn ids(vocab: &GgufVocab) -> Result<HashMap<&str, u32>, String> {
    if vocab.tokens.is_empty() {
        return Err("tokenizer.ggml.tokens is missing or empty".into());
    }
    if vocab.tokens.len() != vocab.token_types.len() {
        return Err(format!(
            "tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens has {}; they must be as many",
            vocab.token_types.len(),
            vocab.tokens.len()
        ));
    }
    let mut ids = HashMap::with_capacity(vocab.tokens.len());
    for (id, (token, kind)) in (0u32..).zip(vocab.tokens.iter().zip(&vocab.token_types)) {
        match *kind {
            UNUSED => continue,
            NORMAL | UNKNOWN | CONTROL | USER_DEFINED => {}
            other => {
                return Err(format!(
                    "tokenizer.ggml.token_type[{id}] is {other}; a BPE vocabulary has 1 (normal), \
                     2 (unknown), 3 (control), 4 (user defined) and 5 (unused)"
                ));
            }
        }
        if token.is_empty() {
            // No text can become it; the checkpoint warns of it.
            continue;
        }
        if let Some(first) = ids.insert(token.as_str(), id) {
            return Err(format!("tokenizer.ggml.tokens[{first}] and [{id}] are both {token:?}"));
        }
    }
    Ok(ids)
}

/// The merges as pairs, each of known tokens that make a known token.
fn merges(vocab: &GgufVocab, ids: &HashMap<&str, u32>) -> Result<Vec<(String, String)>, String> {
    let mut joined = String::new();
    let pair = |(index, merge): (usize, &String)| {
        let (left, right) = merge.split_once(' ').ok_or_else(|| {
            format!("tokenizer.ggml.merges[{index}] is {merge:?}; two tokens with a space between are needed")
        })?;
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        match [left, right, joined.as_str()].into_iter().find(|token| !ids.contains_key(token)) {
            Some(token) => Err(format!(
                "tokenizer.ggml.merges[{index}] is {merge:?}, but {token:?} is not in the vocabulary"
            )),
            None => Ok((left.to_owned(), right.to_owned())),
        }
    };
    vocab.merges.iter().enumerate().map(pair).collect()
}
