//! Text in, text out: [`ChatTemplate`] renders messages, [`Tokenizer`] turns text into ids
//! (built from tokenizer.json, from vocab.json and merges.txt, or from a GGUF vocabulary),
//! [`Detokenizer`] turns ids into text as they come, [`Infill`] makes prompts with a gap. The engine
//! never imports this; it never runs on an engine thread.

mod bpe_files;
mod chat_template;
mod detokenizer;
mod end_tokens;
mod gguf_tokenizer;
mod infill;
mod jinja;
mod pretokenizer;
mod python;
mod tokenizer;

pub use chat_template::{ChatTemplate, RenderInput};
pub use detokenizer::{Detokenizer, TextDelta};
pub use end_tokens::{EndSource, EndToken};
pub use infill::{Infill, Snippet};
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
}
