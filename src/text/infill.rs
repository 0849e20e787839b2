//! Fill-in-the-middle: a prompt of what stands before a gap and what stands behind it, for models that
//! were taught to write what is between. Each family has special tokens of its own for it, all in the same
//! order: prefix, suffix, then the middle is the model's
//! (<https://github.com/QwenLM/Qwen2.5-Coder#3-file-level-code-completion-fill-in-the-middle>, DeepSeek-Coder,
//! StarCoder, Code Llama). Other files stand before, each behind its name, where the family has a token
//! for that.
//!
//! Special tokens are put as ids; what the caller wrote is text, even where it looks like one.

use super::{TextError, Tokenizer};
use crate::protocol::TokenId;

/// Names of the tokens before prefix, suffix and middle, by family; those of llama.cpp's list
/// (`llama-vocab.cpp`).
const FAMILIES: [[&str; 3]; 9] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    ["<PRE>", "<SUF>", "<MID>"],
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
    ["<|prefix|>", "<|suffix|>", "<|middle|>"],
    ["<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"],
];
/// Names of the token before another file's name.
const FILE: [&str; 2] = ["<|file_sep|>", "<file_sep>"];
/// What stands before another file where there is no token for that, as llama.cpp writes it.
const SNIPPET: &str = "\n\n--- snippet ---\n\n";

/// The special tokens of a model that knows fill-in-the-middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Infill {
    prefix: TokenId,
    suffix: TokenId,
    middle: TokenId,
    file: Option<TokenId>,
}

/// Another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl Infill {
    /// Those of a tokenizer; None where its model knows no fill-in-the-middle.
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let ids = |names: &[&str; 3]| Some(names.map(|name| tokenizer.token_id(name))).and_then(all);
        let [prefix, suffix, middle] = FAMILIES.iter().find_map(ids)?;
        let file = FILE.iter().find_map(|name| tokenizer.token_id(name));
        Some(Self { prefix, suffix, middle, file })
    }

    /// The prompt, without what the tokenizer puts before every text.
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        before: &str,
        behind: &str,
        others: &[Snippet],
    ) -> Result<Vec<TokenId>, TextError> {
        let mut ids = Vec::new();
        for other in others {
            match self.file {
                Some(file) => {
                    ids.push(file);
                    ids.extend(tokenizer.encode_plain(&format!("{}\n", other.name))?);
                }
                None => ids.extend(tokenizer.encode_plain(SNIPPET)?),
            }
            ids.extend(tokenizer.encode_plain(&other.text)?);
        }
        for (token, text) in [(self.prefix, before), (self.suffix, behind)] {
            ids.push(token);
            ids.extend(tokenizer.encode_plain(text)?);
        }
        ids.push(self.middle);
        Ok(ids)
    }
}

fn all(ids: [Option<TokenId>; 3]) -> Option<[TokenId; 3]> {
    match ids {
        [Some(prefix), Some(suffix), Some(middle)] => Some([prefix, suffix, middle]),
        _ => None,
    }
}
