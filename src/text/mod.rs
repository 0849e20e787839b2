//! Text in, text out: [`ChatTemplate`] renders messages, [`Tokenizer`] turns text into ids
//! (built from tokenizer.json, from vocab.json and merges.txt, or from a GGUF vocabulary),
//! [`Detokenizer`] turns ids into text as they come, [`AnswerParser`] finds reasoning and calls of tools in it,
//! [`Infill`] makes prompts with a gap; [`Tokenizer::join`] makes pairs of texts; [`Marked`] keeps special tokens that users write out from acting as such;
//! [`grammar`] makes the constraints that answers keep to. The engine
//! never imports this; it never runs on an engine thread.
//!
//! A checkpoint is a stranger's file: its template runs, and its tokenizer is tried, in a process of its
//! own ([`Containment`]), and all text work ends when a [`Stop`] says so.

mod bpe_files;
mod chat_template;
mod contained;
mod detokenizer;
mod end_tokens;
mod gguf_tokenizer;
pub mod grammar;
mod infill;
mod jinja;
mod known_parts;
mod literal;
mod pair;
pub mod parser;
mod pretokenizer;
mod python;
mod stop;
mod tokenizer;
mod tokenizer_json;

pub use chat_template::{ChatTemplate, RenderInput};
pub use contained::{COMMAND, Containment, CountingAllocator, serve};
pub use detokenizer::{Detokenizer, TextDelta};
pub use end_tokens::{EndSource, EndToken};
pub use infill::{Infill, Snippet};
pub use literal::Marked;
pub use pair::{Joined, cut_longest_first};
pub use parser::{
    AnswerFormat, AnswerParser, ParsedEvent, ParserOptions, ReasoningFormat, Tool, ToolFormat,
    reasoning_is_open,
};
pub use stop::Stop;
pub use tokenizer::Tokenizer;

/// What can go wrong between text and tokens; fit for callers.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The checkpoint's tokenizer is missing or broken.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The template is missing, broken, or refused the messages (`raise_exception`).
    #[error("chat template: {0}")]
    Template(String),
    /// It would have taken more time or memory than text work may, or it ended its process.
    #[error("the chat template or tokenizer gave up on this text: {0}")]
    Limit(String),
}

impl TextError {
    /// The reason alone, without whose it is.
    fn unnamed(self) -> String {
        let (Self::Tokenizer(reason) | Self::Template(reason) | Self::Limit(reason)) = self;
        reason
    }
}
