//! The endpoints, a file for each: [`chat`] for conversations in either format, [`responses`], [`completions`], [`infill`],
//! [`embeddings`], [`rerank`], [`score`], [`tokenize`], [`count_tokens`], [`models`], [`scores`], [`health`]. They read a
//! [`body`], share an [`app`] and tell who has [`answered`]; [`text_answer`] is what those share whose answers are no conversation, [`pooled`] those
//! whose answers are numbers; [`scrape`] is asked for metrics.

pub mod answered;
pub mod app;
pub mod body;
pub mod chat;
pub mod completions;
pub mod count_tokens;
pub mod embeddings;
pub mod health;
pub mod infill;
pub mod models;
pub mod pooled;
pub mod rerank;
pub mod responses;
pub mod score;
pub mod scores;
pub mod scrape;
pub mod text_answer;
pub mod tokenize;

#[cfg(test)]
mod tests;
