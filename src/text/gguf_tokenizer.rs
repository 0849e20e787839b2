//! A byte-level BPE tokenizer from a GGUF file's metadata.
//!
//! GGUF stores vocabulary, merges and token types, but only a name for the pre-tokenizer. What
//! the name means is copied here from the families' own tokenizer.json files, so that ids equal
//! transformers'; llama.cpp's hand-written splitters differ from those in corner cases (no NFC
//! for Qwen, digits in SmolLM).
//!
//! What GGUF does not keep: llama.cpp's converter marks a token that merely looks special
//! (`<|fim_prefix|>`, `<｜User｜>`) as control, so skipping special tokens skips those too.
//!
//! Invariant: every token keeps the id that the file gives it. Absent on purpose: sentencepiece
//! and WordPiece vocabularies, and BPE families that no supported model uses.

use super::TextError;
use super::tokenizer::add_bos_eos;
use crate::checkpoint::GgufVocab;
use std::collections::HashMap;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// What is supported, for messages.
const FAMILIES: &str = "qwen2, deepseek-r1-qwen, llama-bpe, llama3, llama-v3, smollm, gpt-2, default, \
                        deepseek-llm, deepseek-coder, deepseek-v3";

/// ggml's token types.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// How a family cuts text into words before BPE.
struct Family {
    nfc: bool,
    /// A word that is a token as a whole needs no merges.
    ignore_merges: bool,
    steps: Vec<PreTokenizerWrapper>,
}

/// Builds the tokenizer. Errors name the metadata key and what would be right.
pub(super) fn build(vocab: &GgufVocab) -> Result<Tokenizer, TextError> {
    try_build(vocab).map_err(TextError::Tokenizer)
}

fn try_build(vocab: &GgufVocab) -> Result<Tokenizer, String> {
    if vocab.model != "gpt2" {
        return Err(format!(
            "tokenizer.ggml.model {:?} is not supported; supported is \"gpt2\" (byte-level BPE)",
            vocab.model
        ));
    }
    let family = family(&vocab.pre)?;
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
        UNKNOWN | CONTROL => Some(AddedToken::from(token.as_str(), true).normalized(false)),
        USER_DEFINED => Some(AddedToken::from(token.as_str(), false).normalized(false)),
        _ => None,
    });
    tokenizer.add_tokens(added).map_err(|error| format!("tokenizer.ggml.token_type: {error}"))?;

    for (key, id) in
        vocab.bos.iter().map(|id| ("bos", id)).chain(vocab.eos.iter().map(|id| ("eos, eot or eom", id)))
    {
        if *id as usize >= vocab.tokens.len() {
            return Err(format!(
                "tokenizer.ggml: the {key} token id is {id}, but there are {} tokens",
                vocab.tokens.len()
            ));
        }
    }
    if vocab.add_bos {
        let id = vocab.bos.ok_or("tokenizer.ggml.add_bos_token is set without bos_token_id")?;
        let bos = (vocab.tokens[id as usize].clone(), id);
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
            return Err(format!("tokenizer.ggml.tokens[{id}] is empty"));
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

fn family(pre: &str) -> Result<Family, String> {
    let gpt2 = || ByteLevel::new(false, true, true).into();
    let bytes = || ByteLevel::new(false, true, false).into();
    let digits = || Digits::new(true).into();
    let (nfc, ignore_merges, steps) = match pre {
        "qwen2" | "deepseek-r1-qwen" => (true, false, vec![split(&words_and_numbers(r"\p{N}"))?, bytes()]),
        "llama-bpe" | "llama3" | "llama-v3" => {
            (false, true, vec![split(&words_and_numbers(r"\p{N}{1,3}"))?, bytes()])
        }
        "smollm" => (false, false, vec![digits(), gpt2()]),
        // A file without a name gets GPT-2's rules.
        "gpt-2" | "default" | "" => (false, false, vec![gpt2()]),
        "deepseek-llm" => (
            false,
            false,
            vec![
                split(r"[\r\n]")?,
                split(&format!(r"\s?[{CASED_LETTERS}]+"))?,
                split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+")?,
                split(r"\s+$")?,
                split(EAST_ASIAN)?,
                digits(),
                bytes(),
            ],
        ),
        "deepseek-coder" => (
            false,
            false,
            vec![
                split(r"[\r\n]")?,
                split(r"\s?\p{L}+")?,
                split(r"\s?\p{P}+")?,
                split(EAST_ASIAN)?,
                digits(),
                bytes(),
            ],
        ),
        "deepseek-v3" => (
            false,
            false,
            vec![
                split(r"\p{N}{1,3}")?,
                split("[一-龥\u{3040}-ゟ゠-ヿ]+")?,
                split(concat!(
                    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
                    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
                    r"| ?[\p{P}\p{S}]+[\r\n]*",
                    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
                ))?,
                bytes(),
            ],
        ),
        other => {
            return Err(format!("tokenizer.ggml.pre {other:?} is not supported; supported are {FAMILIES}"));
        }
    };
    Ok(Family { nfc, ignore_merges, steps })
}

fn split(regex: &str) -> Result<PreTokenizerWrapper, String> {
    Split::new(SplitPattern::Regex(regex.into()), SplitDelimiterBehavior::Isolated, false)
        .map(Into::into)
        .map_err(|error| format!("pre-tokenizer pattern {regex:?}: {error}"))
}

/// The pattern that Qwen 2 and Llama 3 share but for how they cut numbers.
fn words_and_numbers(numbers: &str) -> String {
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
        numbers,
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
    .concat()
}

/// DeepSeek's range of Chinese, Korean and what lies between.
const EAST_ASIAN: &str = "[一-龥\u{800}-一가-\u{d7ff}]+";

/// Cased letters as DeepSeek-LLM's tokenizer.json lists them. Written as code points because
/// some of them (U+1F7D, U+2126, U+212A...) change under normalisation, which editors apply.
const CASED_LETTERS: &str = concat!(
    "A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}",
    "\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}",
    "\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}",
    "\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}",
    "\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}",
    "\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}",
    "\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}",
    "\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}",
    "\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}",
    "\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}",
    "\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}",
    "\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}",
    "\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}",
    "\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}",
    "\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}",
    "\u{1e900}-\u{1e943}",
);
