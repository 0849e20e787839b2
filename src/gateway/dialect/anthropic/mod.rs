//! Anthropic's messages.

pub(super) mod decode;
pub(super) mod encode;
pub mod request;
mod thinking;
