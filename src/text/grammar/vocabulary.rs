//! A model's tokens as llguidance sees them.

use super::GrammarError;
use crate::protocol::TokenId;
use crate::text::Tokenizer;
use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use std::sync::Arc;

/// States of a grammar's lexer; each takes one or two kilobytes.
const LEXER_STATES_MAX: usize = 30_000;
/// Steps of work on regular expressions before the first token: some 20 ms each million.
const LEXER_WORK_MAX: u64 = 5_000_000;
/// Symbols in a grammar's rules.
const GRAMMAR_SYMBOLS_MAX: usize = 500_000;

/// Alternatives that may be open at one place of an answer.
const ROW_ITEMS_MAX: usize = 20_000;
/// Of those, all that one mask goes through: some 50 ms each million.
const MASK_ITEMS_MAX: usize = 1_000_000;

/// The bytes of a model's tokens, and which of them end an answer.
pub(super) struct Vocabulary {
    tokens: TokEnv,
    ends: Vec<TokenId>,
    /// Special tokens by their names, the longest first.
    specials: Vec<(String, TokenId)>,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary")
            .field("len", &self.len())
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl Vocabulary {
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let ends = tokenizer.eos_ids().to_vec();
        let Some(end) = ends.first() else {
            return Err(GrammarError::Invalid(
                "the model's tokenizer names no token that ends an answer: no grammar could end".into(),
            ));
        };
        let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as TokenId)
            .map(|id| {
                let mut bytes = tokenizer.token_bytes(id);
                if tokenizer.is_special(id) || tokenizer.is_marker(id) || ends.contains(&id) {
                    // No text has this byte, so no grammar that speaks of text allows the token.
                    bytes.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
                }
                bytes
            })
            .collect();
        let special = |(id, bytes): (usize, &Vec<u8>)| {
            let name = bytes.strip_prefix(&[TokTrie::SPECIAL_TOKEN_MARKER])?;
            let name = std::str::from_utf8(name).ok().filter(|name| name.chars().count() > 1)?;
            Some((name.to_owned(), id as TokenId))
        };
        let mut specials: Vec<_> = words.iter().enumerate().filter_map(special).collect();
        specials.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let tokens = super::guarded(|| {
            let info = TokRxInfo::new(words.len() as u32, *end);
            let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
            Ok(Arc::new(ApproximateTokEnv::new(trie)))
        })?;
        Ok(Self { tokens, ends, specials })
    }

    /// What makes parsers over these tokens.
    pub fn parsers(&self) -> Result<ParserFactory, GrammarError> {
        let slices = SlicedBiasComputer::general_slices();
        let mut parsers = ParserFactory::new(&self.tokens, InferenceCapabilities::default(), &slices)
            .map_err(|error| GrammarError::Invalid(format!("the model's vocabulary: {error}")))?;
        parsers.quiet();
        *parsers.limits_mut() = ParserLimits {
            max_lexer_states: LEXER_STATES_MAX,
            initial_lexer_fuel: LEXER_WORK_MAX,
            max_grammar_size: GRAMMAR_SYMBOLS_MAX,
            max_items_in_row: ROW_ITEMS_MAX,
            step_max_items: MASK_ITEMS_MAX,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(parsers)
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.tokens.tok_trie().vocab_size()
    }

    /// Tokens that end an answer.
    pub fn ends(&self) -> &[TokenId] {
        &self.ends
    }

    /// Special tokens that have a name.
    pub fn specials(&self) -> impl Iterator<Item = TokenId> {
        self.specials.iter().map(|(_, token)| *token)
    }

    /// What a token writes, a special one its name; empty where there is no such token.
    pub fn bytes(&self, token: TokenId) -> &[u8] {
        if token as usize >= self.len() {
            return &[];
        }
        let bytes = self.tokens.tok_trie().token(token);
        bytes.strip_prefix(&[TokTrie::SPECIAL_TOKEN_MARKER]).unwrap_or(bytes)
    }

    /// A text in few tokens, the longest that fits each time; a special token where one is spelled so. None
    /// where there are no tokens for it.
    pub fn tokenize(&self, text: &str) -> Option<Vec<TokenId>> {
        let trie = self.tokens.tok_trie();
        if let Some(special) = trie.get_special_token(text) {
            return Some(vec![special]);
        }
        let tokens = trie.greedy_tokenize(text.as_bytes());
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.bytes(*token)).copied().collect();
        (bytes == text.as_bytes()).then_some(tokens)
    }

    /// A text as the body of a Lark rule: special tokens that are spelled out in it, and literals.
    pub fn lark(&self, text: &str) -> String {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, special)) = self.split_at_special(rest) {
            if !literal.is_empty() {
                parts.push(super::lark_string(literal));
            }
            if let Some((name, id)) = self.special_before(special) {
                parts.push(format!("<[{id}]>"));
                rest = &special[name.len()..];
            }
        }
        if !rest.is_empty() {
            parts.push(super::lark_string(rest));
        }
        parts.join(" ")
    }

    /// What stands before the first special token that is spelled out in a text, and the text from there on.
    pub fn split_at_special<'t>(&self, text: &'t str) -> Option<(&'t str, &'t str)> {
        let mut places = text.char_indices().map(|(at, _)| at);
        places.find(|at| self.special_before(&text[*at..]).is_some()).map(|at| text.split_at(at))
    }

    /// The special token that a text begins with.
    fn special_before(&self, text: &str) -> Option<&(String, TokenId)> {
        self.specials.iter().find(|(name, _)| text.starts_with(name.as_str()))
    }

    /// All tokens that write something.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, &[u8])> {
        (0..self.len() as TokenId).map(|id| (id, self.bytes(id))).filter(|(_, bytes)| !bytes.is_empty())
    }
}
