//! The endpoints, a file for each: [`chat`] for conversations in either format, [`completions`], [`infill`],
//! [`tokenize`], [`count_tokens`], [`models`], [`scores`], [`health`]. They read a [`body`] and share an [`app`];
//! [`openai`] writes what our own models answer in OpenAI's format; [`scrape`] is asked for metrics.

pub mod app;
pub mod body;
pub mod chat;
pub mod completions;
pub mod count_tokens;
pub mod health;
pub mod infill;
pub mod models;
pub mod openai;
pub mod scores;
pub mod scrape;
pub mod tokenize;
