//! OpenAI's chat completions, as OpenAI and its many kin speak them. For our own models [`known_fields`] says what
//! becomes of each field and [`field_type`] what type it has, [`history`] reads a conversation, [`messages`] one in
//! Anthropic's format, [`thinking`] whether they are to think. [`think`] splits off the reasoning that an upstream
//! leaves in its text, [`tool_schemas`] completes tools for upstreams.

pub(super) mod decode;
pub(super) mod encode;
pub mod field_type;
pub(super) mod fit;
pub mod history;
pub mod known_fields;
pub mod logprobs;
pub mod messages;
pub mod request;
pub mod think;
pub mod thinking;
pub mod tool_schemas;
