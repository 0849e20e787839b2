//! OpenAI's chat completions, as OpenAI and its many kin speak them.

pub(super) mod decode;
pub(super) mod encode;
pub(super) mod fit;
pub mod request;
