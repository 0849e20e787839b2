//! Grammars on real tokenizers' bytes, without a model: what is refused and how, what masks allow, and random
//! answers through the engine ([`random`]).

mod answers;
mod compile;
mod gbnf;
mod hostile;
mod random;
mod schemas;
mod tools;
mod walk;

use novastack::checkpoint::TokenizerSource;
use novastack::protocol::{TokenConstraint, TokenId};
use novastack::text::Tokenizer;
use novastack::text::grammar::{After, CompiledGrammar, Grammar, GrammarCompiler};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// 317 tokens of bytes and a few merges, then `<|endoftext|>`, `<|im_start|>` and `<|im_end|>`.
fn tokenizer() -> &'static Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/llama");
        let config = std::fs::read(folder.join("tokenizer_config.json")).expect("a golden");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        let source = TokenizerSource::Json(folder.join("tokenizer.json"));
        Arc::new(Tokenizer::from_source(&source, &config).expect("a tokenizer"))
    })
}

/// The same with more special tokens.
fn tokenizer_with(specials: &[&str]) -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/llama");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(name)).expect("a golden")).expect("JSON")
    };
    let (mut tokens, config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    let added = tokens["added_tokens"].as_array_mut().expect("a list");
    for special in specials {
        let mut one = added[0].clone();
        (one["id"], one["content"]) = ((317 + added.len()).into(), (*special).into());
        added.push(one);
    }
    let file = tempfile::tempdir().expect("a folder");
    let path = file.path().join("tokenizer.json");
    std::fs::write(&path, tokens.to_string()).expect("written");
    Tokenizer::from_source(&TokenizerSource::Json(path), &config).expect("a tokenizer")
}

fn compiler() -> &'static GrammarCompiler {
    static COMPILER: OnceLock<GrammarCompiler> = OnceLock::new();
    COMPILER.get_or_init(|| GrammarCompiler::new(tokenizer()).expect("a compiler"))
}

fn compiled(grammar: &Grammar) -> Arc<CompiledGrammar> {
    compiler().compile(grammar).unwrap_or_else(|error| panic!("{grammar:?}: {error}"))
}

/// A constraint, asked token by token.
struct Walk {
    constraint: Box<dyn TokenConstraint>,
    mask: Vec<u32>,
}

impl Walk {
    fn new(grammar: &Grammar, after: &After) -> Self {
        Self::of(compiled(grammar).factory(after).expect("a factory").constraint())
    }

    fn of(constraint: Box<dyn TokenConstraint>) -> Self {
        Self { constraint, mask: vec![0; tokenizer().vocab_size().div_ceil(32)] }
    }

    /// The tokens that may come; None where all may.
    fn allowed(&mut self) -> Option<Vec<TokenId>> {
        let restricts = self.constraint.mask(&mut self.mask).expect("a mask");
        let tokens = 0..tokenizer().vocab_size() as TokenId;
        restricts.then(|| tokens.filter(|t| self.mask[*t as usize / 32] >> (t % 32) & 1 == 1).collect())
    }

    /// Whether a token may come.
    fn may(&mut self, token: TokenId) -> bool {
        self.allowed().is_none_or(|tokens| tokens.contains(&token))
    }

    /// Accepts a text byte by byte; what it was when a byte was not allowed.
    fn write(&mut self, text: &str) -> Result<(), String> {
        for (at, byte) in text.bytes().enumerate() {
            let token = byte_token(byte);
            if !self.may(token) {
                return Err(text[..at].to_owned());
            }
            self.constraint.accept(token).expect("an allowed token");
        }
        Ok(())
    }

    /// Whether the answer may end here.
    fn may_end(&mut self) -> bool {
        ends().iter().all(|end| self.may(*end))
    }

    /// Whether nothing but its end may come.
    fn must_end(&mut self) -> bool {
        let mut ends = ends().to_vec();
        ends.sort_unstable();
        self.allowed() == Some(ends)
    }
}

fn ends() -> &'static [TokenId] {
    tokenizer().eos_ids()
}

/// The token of a single byte.
fn byte_token(byte: u8) -> TokenId {
    static TOKENS: OnceLock<Vec<TokenId>> = OnceLock::new();
    TOKENS.get_or_init(|| {
        let mut of = vec![TokenId::MAX; 256];
        for id in (0..tokenizer().vocab_size() as TokenId).rev() {
            if let [byte] = tokenizer().token_text(id).1[..] {
                of[byte as usize] = id;
            }
        }
        of
    })[byte as usize]
}

/// Whether a text is an answer under a grammar.
fn accepts(grammar: &Grammar, text: &str) -> bool {
    let mut walk = Walk::new(grammar, &After::Nothing);
    walk.write(text).is_ok() && walk.may_end()
}
