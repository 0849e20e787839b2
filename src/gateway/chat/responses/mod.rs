//! OpenAI's Responses (<https://platform.openai.com/docs/api-reference/responses>) as a codec. Inside, a request
//! is a chat completion of OpenAI's format: [`request`] reads a caller's into one ([`items`] its conversation,
//! [`tools`] its tools), and [`upstream`] writes one for a provider that speaks Responses. Answers are
//! [`ChatEvent`](super::ChatEvent)s: [`encode`] writes a caller's events and whole answers, [`decode`] reads a
//! provider's. [`store`] keeps earlier answers, for who goes on from them by id.
//!
//! What a chat completion cannot say is kept by the codec itself: which function is a custom tool or one of a
//! namespace ([`tools::Tools`]), and signed or encrypted reasoning, which rides in `encrypted_content`
//! ([`envelope`]).

pub mod custom_input;
pub mod decode;
pub mod encode;
pub mod envelope;
pub mod items;
pub mod object;
mod parts;
pub mod request;
pub mod store;
pub mod tools;
pub mod upstream;

#[cfg(test)]
mod tests;
