//! How families of byte-level BPE tokenizers cut text into words before BPE, by the names that
//! llama.cpp gives them (`tokenizer.ggml.pre`).
//!
//! GGUF keeps only the name. What it means is copied here from the families' own tokenizer.json
//! files, so that ids equal transformers'; llama.cpp's hand-written splitters differ from those in
//! corner cases (no NFC for Qwen, digits in SmolLM).
//!
//! Absent on purpose: families that no supported model uses.

use serde_json::Value;
use std::collections::HashSet;
use std::sync::OnceLock;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

/// What is supported, for messages.
const SUPPORTED: &str = "chatglm-bpe, command-r, dbrx, deepseek-coder, deepseek-llm, deepseek-r1-qwen, \
                         deepseek-v3, default, glm4, gpt-2, gpt-4o, joyai-llm, kimi-k2, llama-bpe, llama3, llama-v3, \
                         llama4, megrez, minimax-m2, olmo, phi-2, qwen2, qwen35, refact, smaug-bpe, smollm, \
                         starcoder and tekken";

/// How a family cuts text into words before BPE.
pub(super) struct Family {
    /// Text is normalised first.
    pub nfc: bool,
    /// A word that is a token as a whole needs no merges.
    pub ignore_merges: bool,
    /// One after the other.
    pub steps: Vec<PreTokenizerWrapper>,
}

/// The family of that name.
pub(super) fn family(pre: &str) -> Result<Family, String> {
    let gpt2 = || ByteLevel::new(false, true, true).into();
    let bytes = || ByteLevel::new(false, true, false).into();
    let digits = || Digits::new(true).into();
    let (nfc, ignore_merges, steps) = match pre {
        "qwen2" | "deepseek-r1-qwen" | "megrez" => {
            (true, false, vec![split(&words_and_numbers(LETTERS, r"\p{N}"))?, bytes()])
        }
        "qwen35" => (true, false, vec![split(&words_and_numbers(LETTERS_AND_MARKS, r"\p{N}"))?, bytes()]),
        "llama-bpe" | "llama3" | "llama-v3" | "glm4" => {
            (false, true, vec![split(&words_and_numbers(LETTERS, r"\p{N}{1,3}"))?, bytes()])
        }
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => {
            (false, false, vec![split(&words_and_numbers(LETTERS, r"\p{N}{1,3}"))?, bytes()])
        }
        "smollm" | "starcoder" | "refact" => (false, false, vec![digits(), gpt2()]),
        "command-r" => (true, false, vec![digits(), gpt2()]),
        // A file without a name gets GPT-2's rules.
        "gpt-2" | "phi-2" | "olmo" | "default" | "" => (false, false, vec![gpt2()]),
        "gpt-4o" | "llama4" | "minimax-m2" => {
            (false, false, vec![split(&cased_words("", CONTRACTIONS, r"\p{N}{1,3}", r"[\r\n/]*"))?, bytes()])
        }
        "tekken" => (false, true, vec![split(&cased_words("", "", r"\p{N}", r"[\r\n/]*"))?, bytes()]),
        "kimi-k2" => {
            let words = cased_words(r"&&[^\p{Han}]", CONTRACTIONS, r"\p{N}{1,3}", r"[\r\n]*");
            (false, false, vec![split(&format!(r"\p{{Han}}+|{words}"))?, bytes()])
        }
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
        // The converter tells the two by whether a prompt begins with BOS, and means one pattern.
        "deepseek-v3" | "joyai-llm" => (
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
            return Err(format!("the pre-tokenizer {other:?} is not supported; supported are {SUPPORTED}"));
        }
    };
    Ok(Family { nfc, ignore_merges, steps })
}

/// Families whose patterns differ.
const DISTINCT: [&str; 9] = [
    "qwen2",
    "qwen35",
    "llama-bpe",
    "gpt-4o",
    "tekken",
    "kimi-k2",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
];

/// Whether a pattern is one of a family's: then its engine goes through any text in linear time.
pub(super) fn is_known(pattern: &str) -> bool {
    // Some files have line ends themselves where others have their escapes.
    let pattern = pattern.replace('\r', r"\r").replace('\n', r"\n");
    static KNOWN: OnceLock<HashSet<String>> = OnceLock::new();
    let patterns = |name: &&str| {
        let steps = family(name).map(|family| family.steps).unwrap_or_default();
        let steps: Vec<Value> = steps.iter().filter_map(|step| serde_json::to_value(step).ok()).collect();
        steps.into_iter().filter_map(|step| Some(step["pattern"]["Regex"].as_str()?.to_owned()))
    };
    KNOWN.get_or_init(|| DISTINCT.iter().flat_map(patterns).collect()).contains(&pattern)
}

fn split(regex: &str) -> Result<PreTokenizerWrapper, String> {
    Split::new(SplitPattern::Regex(regex.into()), SplitDelimiterBehavior::Isolated, false)
        .map(Into::into)
        .map_err(|error| format!("pre-tokenizer pattern {regex:?}: {error}"))
}

const LETTERS: &str = r"\p{L}";
const LETTERS_AND_MARKS: &str = r"\p{L}\p{M}";
const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";

/// The pattern that Qwen and Llama 3 share but for what is a letter and how they cut numbers.
fn words_and_numbers(letters: &str, numbers: &str) -> String {
    let word = match letters {
        LETTERS => format!("{letters}+"),
        _ => format!("[{letters}]+"),
    };
    format!(
        r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{word}|{numbers}| ?[^\s{letters}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// The pattern of GPT-4o and those like it, which cut where a small letter is followed by a
/// capital one: `but` takes characters out of words, `ending` may follow one.
fn cased_words(but: &str, ending: &str, numbers: &str, behind: &str) -> String {
    let upper = format!(r"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]");
    let lower = format!(r"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]");
    let ending = if ending.is_empty() { String::new() } else { format!("{ending}?") };
    let before = r"[^\r\n\p{L}\p{N}]?";
    format!(
        r"{before}{upper}*{lower}+{ending}|{before}{upper}+{lower}*{ending}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+{behind}|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
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
