//! Anthropic's messages.

pub(super) mod cache;
pub(super) mod decode;
pub(super) mod encode;
pub mod fit;
mod format;
pub mod models;
pub mod request;
pub(super) mod server_blocks;
pub(super) mod thinking;
pub(super) mod tools;
