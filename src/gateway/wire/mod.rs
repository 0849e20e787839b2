//! Bytes on their way: [`fields`] of JSON bodies and [`json`] of upstreams, [`base64`], [`frames`] of server-sent events that
//! are read and [`sse`] that is written, [`error`] as callers see it and [`upstream_error`] as providers tell it,
//! [`rate_limit`] headers. [`bounds`] are a request's time, [`request_memory`] what all requests may hold;
//! [`connection`] is a caller's, [`places`] says how many there may be, [`workers`] are the threads that they
//! stay on.

pub mod base64;
pub mod bounds;
pub mod connection;
pub mod error;
pub mod fields;
pub mod frames;
pub mod json;
pub mod places;
pub mod rate_limit;
pub mod request_memory;
pub mod sse;
pub mod upstream_error;
pub mod workers;

/// A format of chat, on either side of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Chat completions (<https://platform.openai.com/docs/api-reference/chat>).
    OpenAi,
    /// Messages (<https://docs.anthropic.com/en/api/messages>).
    Anthropic,
    /// Responses (<https://platform.openai.com/docs/api-reference/responses>): of upstreams; a caller's request is
    /// made one of chat completions before anybody else reads it.
    Responses,
}
