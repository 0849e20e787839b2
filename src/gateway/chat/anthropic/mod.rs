//! Anthropic's messages.

pub(super) mod decode;
pub(super) mod encode;
pub mod fit;
pub mod request;
pub(super) mod thinking;
