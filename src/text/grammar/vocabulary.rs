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

/// The bytes of a model's tokens, and which of them end an answer.
pub(super) struct Vocabulary {
    tokens: TokEnv,
    ends: Vec<TokenId>,
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
        let tokens = super::guarded(|| {
            let info = TokRxInfo::new(words.len() as u32, *end);
            let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
            Ok(Arc::new(ApproximateTokEnv::new(trie)))
        })?;
        Ok(Self { tokens, ends })
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

    /// All tokens that write something.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, &[u8])> {
        (0..self.len() as TokenId).map(|id| (id, self.bytes(id))).filter(|(_, bytes)| !bytes.is_empty())
    }
}
