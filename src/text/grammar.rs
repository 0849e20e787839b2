//! Grammars that an answer must keep to, over llguidance: JSON, JSON schemas, regular expressions, choices,
//! Lark and GBNF grammars become constraints on a model's tokens.
//!
//! A [`GrammarCompiler`] is made once a model, from the bytes of its tokens; [`GrammarCompiler::compile`] turns a
//! caller's grammar into a [`CompiledGrammar`], and that makes the [`ConstraintFactory`] that a request carries to
//! its engine. [`After`] says where the grammar begins: at once, or behind the model's reasoning.
//!
//! Invariants:
//! - An answer ends where the grammar may end, and only there: every end token of the model is allowed there, and
//!   where the grammar must end nothing else is. In reasoning that a grammar follows there is no end.
//! - Special tokens are no text: none of them is allowed where a grammar speaks of text.
//! - White space between the parts of a JSON document is bounded ([`schema::WHITE_SPACE`]).
//! - A caller's grammar costs bounded time and memory: a schema is checked before it is compiled ([`schema`]),
//!   llguidance works on a thread of its own with bounds on each of its tables, and a panic of its is an error.
//!
//! Compiling takes from half a millisecond to [`COMPILE_TIME_MAX`]: it is nothing for an async thread.

mod blame;
mod channels;
mod constraint;
mod families;
mod gbnf;
mod json_in_lark;
mod marked;
mod pythonic;
mod schema;
mod tools;
mod vocabulary;

use super::Tokenizer;
use crate::protocol::{ConstraintFactory, TokenConstraint, TokenId};
use constraint::{Constraint, Reasoning};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vocabulary::Vocabulary;

pub use schema::{ANNOTATIONS, KEYWORDS};
pub use tools::{AnswerText, Arguments, CallFormat, CallTexts, Tool, ToolCalls};

/// A grammar that takes longer to compile is refused.
pub const COMPILE_TIME_MAX: Duration = Duration::from_secs(5);
/// Grammars that are compiled at a time, those included whose callers have given up; each has a thread.
const COMPILING_MAX: usize = 8;
/// llguidance descends into what it compiles.
const COMPILE_STACK_BYTES: usize = 16 << 20;
/// Bytes of a regular expression or a Lark grammar.
const GRAMMAR_BYTES_MAX: usize = 64 << 10;
/// Strings to choose from.
const CHOICES_MAX: usize = 10_000;
/// Bytes of all of them.
const CHOICES_BYTES_MAX: usize = 512 << 10;

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// A JSON object.
    JsonObject,
    /// A JSON document that is valid under a schema, of the draft 2020-12 or 7.
    JsonSchema(Value),
    /// A text that the regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of a grammar in llguidance's Lark syntax, or in llama.cpp's GBNF where its first rule is written so.
    Lark(String),
    /// A text of a grammar in llama.cpp's GBNF.
    Gbnf(String),
    /// Calls of tools, with text before them or instead of them.
    Tools(Box<ToolCalls>),
}

impl Grammar {
    /// Whether an answer that calls tools has no text beside the calls, and one that does not has a text of a grammar.
    pub fn holds_text(&self) -> bool {
        match self {
            Self::Tools(calls) => calls.text != AnswerText::Free,
            _ => true,
        }
    }
}

/// Why a grammar is refused; fit for callers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// A part of a JSON schema.
    #[error("{at}: `{keyword}` {reason}")]
    Schema {
        /// Where, as a JSON pointer from `#` on.
        at: String,
        /// The keyword.
        keyword: String,
        /// What is wrong with it, as a predicate: "is not supported".
        reason: String,
    },
    /// It is larger than may be.
    #[error("{what}: at most {limit}, got {found}")]
    TooLarge {
        /// What there is too much of: "bytes of the schema".
        what: &'static str,
        /// How much may be.
        limit: usize,
        /// How much there is.
        found: usize,
    },
    /// Anything else.
    #[error("{0}")]
    Invalid(String),
}

/// Where a grammar begins in a model's output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// With the first token.
    #[default]
    Nothing,
    /// Behind the model's reasoning.
    Reasoning {
        /// The text that opens it: an output that begins otherwise has none. None where the prompt has opened it.
        open: Option<String>,
        /// The text that closes it: `</think>`. It is found in the tokens' bytes, however they are cut.
        close: String,
        /// After this many tokens the closing text is forced, token by token. None: there is no bound.
        budget: Option<u32>,
    },
}

/// Compiles grammars for one model.
pub struct GrammarCompiler {
    vocabulary: Arc<Vocabulary>,
    parsers: Arc<ParserFactory>,
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarCompiler").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}

/// Grammars that are being compiled.
static COMPILING: AtomicUsize = AtomicUsize::new(0);

impl GrammarCompiler {
    /// For the model of this tokenizer. Takes a second for 150,000 tokens, and some 40 MB.
    ///
    /// # Errors
    /// The tokenizer names no token that ends an answer, or its vocabulary is none that llguidance takes.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let vocabulary = Arc::new(Vocabulary::new(tokenizer)?);
        let parsers = guarded(|| vocabulary.parsers())?;
        Ok(Self { vocabulary, parsers: Arc::new(parsers) })
    }

    /// Compiles a grammar. Blocks for up to [`COMPILE_TIME_MAX`].
    ///
    /// # Errors
    /// What is wrong with it, or which limit it exceeds.
    pub fn compile(&self, grammar: &Grammar) -> Result<Arc<CompiledGrammar>, GrammarError> {
        let (grammar, vocabulary, parsers) = (grammar.clone(), self.vocabulary.clone(), self.parsers.clone());
        let matcher = bounded(move || {
            let source = source(&grammar, &vocabulary)?;
            matcher(&parsers, source, vocabulary.ends()).map_err(|error| match &grammar {
                Grammar::JsonSchema(schema) => blame::blame(schema, error, |part| {
                    let part = GrammarWithLexer::from_json_schema(part);
                    matcher(&parsers, part, vocabulary.ends()).map(drop)
                }),
                _ => error,
            })
        })?;
        Ok(Arc::new(CompiledGrammar { vocabulary: self.vocabulary.clone(), matcher: Mutex::new(matcher) }))
    }

    /// Constraints that bound the reasoning and leave the answer free.
    ///
    /// # Errors
    /// The closing text cannot be written in the model's tokens.
    pub fn reasoning(&self, after: &After) -> Result<Arc<dyn ConstraintFactory>, GrammarError> {
        let reasoning = Reasoning::new(after, &self.vocabulary)?;
        Ok(Arc::new(Factory { vocabulary: self.vocabulary.clone(), grammar: None, reasoning }))
    }
}

/// A grammar for one model's tokens. It may be kept and used for many requests.
pub struct CompiledGrammar {
    vocabulary: Arc<Vocabulary>,
    /// Has accepted nothing; constraints are copies of it, so that none fills another's tables.
    matcher: Mutex<Matcher>,
}

impl std::fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledGrammar").finish_non_exhaustive()
    }
}

impl CompiledGrammar {
    /// For a request: constraints under which the grammar begins there.
    ///
    /// # Errors
    /// The text that closes the reasoning cannot be written in the model's tokens.
    pub fn factory(self: &Arc<Self>, after: &After) -> Result<Arc<dyn ConstraintFactory>, GrammarError> {
        let reasoning = Reasoning::new(after, &self.vocabulary)?;
        Ok(Arc::new(Factory { vocabulary: self.vocabulary.clone(), grammar: Some(self.clone()), reasoning }))
    }

    fn matcher(&self) -> Matcher {
        self.matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone()
    }
}

#[derive(Debug)]
struct Factory {
    vocabulary: Arc<Vocabulary>,
    grammar: Option<Arc<CompiledGrammar>>,
    reasoning: Option<Arc<Reasoning>>,
}

impl ConstraintFactory for Factory {
    fn constraint(&self) -> Box<dyn TokenConstraint> {
        let matcher = self.grammar.as_ref().map(|grammar| grammar.matcher());
        Box::new(Constraint::new(self.vocabulary.clone(), matcher, self.reasoning.clone()))
    }
}

/// Tokens of an answer that are tried before a grammar is taken.
const TRIED_TOKENS: usize = 6;

/// Compiles, and takes a few steps: some tables turn out to be too large only there.
fn matcher(
    parsers: &ParserFactory,
    grammar: GrammarWithLexer,
    ends: &[TokenId],
) -> Result<Matcher, GrammarError> {
    let invalid = |error: String| GrammarError::Invalid(plain(&error));
    let parser = parsers.create_parser(TopLevelGrammar::from_grammar(grammar));
    let matcher = Matcher::new(parser);
    let mut tried = matcher.deep_clone();
    for _ in 0..TRIED_TOKENS {
        let mask = tried.compute_mask_or_eos().map_err(|error| invalid(error.to_string()))?;
        let mut allowed = (0..mask.len() as TokenId).filter(|token| mask.is_allowed(*token));
        let Some(token) = allowed.find(|token| !ends.contains(token)) else { break };
        tried.consume_token(token).map_err(|error| invalid(error.to_string()))?;
    }
    Ok(matcher)
}

/// As llguidance takes it.
fn source(grammar: &Grammar, vocabulary: &Vocabulary) -> Result<GrammarWithLexer, GrammarError> {
    let small = |what, found, limit| match found <= limit {
        true => Ok(()),
        false => Err(GrammarError::TooLarge { what, limit, found }),
    };
    match grammar {
        Grammar::JsonObject => {
            let schema = schema::checked(&serde_json::json!({"type": "object"}))?;
            Ok(GrammarWithLexer::from_json_schema(schema))
        }
        Grammar::JsonSchema(schema) => Ok(GrammarWithLexer::from_json_schema(schema::checked(schema)?)),
        Grammar::Regex(regex) => {
            small("bytes of the regular expression", regex.len(), GRAMMAR_BYTES_MAX)?;
            Ok(GrammarWithLexer::from_regex(regex))
        }
        Grammar::Choice(texts) => {
            if texts.is_empty() {
                return Err(GrammarError::Invalid("there must be at least one text to choose from".into()));
            }
            small("texts to choose from", texts.len(), CHOICES_MAX)?;
            let bytes = texts.iter().map(String::len).sum();
            small("bytes of the texts to choose from", bytes, CHOICES_BYTES_MAX)?;
            // One regular expression, since each alternative of a rule takes a place in every row of the parser.
            let texts: Vec<String> = texts.iter().map(|text| regex_of(text)).collect();
            Ok(GrammarWithLexer::from_lark(format!("start: /{}/", texts.join("|"))))
        }
        Grammar::Lark(lark) => {
            small("bytes of the grammar", lark.len(), GRAMMAR_BYTES_MAX)?;
            let lark = if gbnf::is_gbnf(lark) { gbnf::lark(lark)? } else { json_in_lark::checked(lark)? };
            Ok(GrammarWithLexer::from_lark(lark))
        }
        Grammar::Gbnf(text) => {
            small("bytes of the grammar", text.len(), GRAMMAR_BYTES_MAX)?;
            Ok(GrammarWithLexer::from_lark(gbnf::lark(text)?))
        }
        Grammar::Tools(calls) => Ok(GrammarWithLexer::from_lark(tools::lark(calls, vocabulary)?)),
    }
}

/// A literal of a Lark grammar: JSON's strings are those of Lark.
fn lark_string(text: &str) -> String {
    Value::from(text).to_string()
}

/// The regular expression of one text, without what Lark's slashes would end.
fn regex_of(text: &str) -> String {
    let escaped = |c: char| match c.is_alphanumeric() {
        true => c.to_string(),
        false => format!("\\x{{{:x}}}", u32::from(c)),
    };
    text.chars().map(escaped).collect()
}

/// Does the work on a thread of its own, within [`COMPILE_TIME_MAX`].
fn bounded<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GrammarError> + Send + 'static,
) -> Result<T, GrammarError> {
    /// A place among those that compile.
    struct Place;
    impl Drop for Place {
        fn drop(&mut self) {
            COMPILING.fetch_sub(1, Ordering::AcqRel);
        }
    }
    let take = |compiling| (compiling < COMPILING_MAX).then_some(compiling + 1);
    if COMPILING.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
        return Err(GrammarError::Invalid(format!(
            "{COMPILING_MAX} grammars are being compiled as it is; this one can be tried again"
        )));
    }
    let place = Place;
    let (sender, receiver) = sync_channel(1);
    let thread = std::thread::Builder::new().name("grammar".into()).stack_size(COMPILE_STACK_BYTES);
    let started = thread.spawn(move || {
        let result = guarded(work);
        drop(place);
        // Nobody waits for it any more after the time is over.
        let _ = sender.send(result);
    });
    started.map_err(|error| GrammarError::Invalid(format!("no thread to compile the grammar: {error}")))?;
    match receiver.recv_timeout(COMPILE_TIME_MAX) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(GrammarError::Invalid(format!(
            "the grammar is too complex: it takes longer than {} s to compile",
            COMPILE_TIME_MAX.as_secs()
        ))),
        Err(RecvTimeoutError::Disconnected) => {
            Err(GrammarError::Invalid("the grammar cannot be compiled".into()))
        }
    }
}

/// llguidance's panics are errors of the grammar.
fn guarded<T>(work: impl FnOnce() -> Result<T, GrammarError>) -> Result<T, GrammarError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(GrammarError::Invalid("the grammar cannot be compiled".into())))
}

/// What llguidance says of its tables, as callers know it.
const WORDS: [(&str, &str); 12] = [
    ("Current row has", "too many alternatives may come at one place"),
    ("Too many items", "too many alternatives may come at one place"),
    ("too many states", "its regular expressions are too complex"),
    ("too many expressions", "its regular expressions are too complex"),
    ("schema too large", "it is too large where its alternatives are combined with each other"),
    ("oneOf constraints", "no more than one of its alternatives may be valid: they must exclude each other"),
    ("Unable to determine if regex is empty", "its regular expressions are too complex"),
    ("Regex is empty", "no text is one of it"),
    ("regex for integer range", "its bounds are too large, or none lies between them"),
    ("required item is unsatisfiable", "there is no item that it may have"),
    ("NoExtensionBias", "no text is one of it"),
    ("panic: ", "it cannot be compiled"),
];

/// llguidance's words without what it adds for its own developers: backtraces and states.
fn plain(error: &str) -> String {
    if let Some((_, words)) = WORDS.iter().find(|(theirs, _)| error.contains(theirs)) {
        return (*words).into();
    }
    let end =
        ["\n<", "<non-verbose", "\n  while processing"].iter().filter_map(|mark| error.find(mark)).min();
    error[..end.unwrap_or(error.len())].trim().into()
}
