//! A target that is one of our engines: a body of OpenAI's chat format becomes a prompt ([`chat`]) and how to answer
//! it ([`params`]), a [`Generation`] turns it into text, and a [`LocalAnswer`] tells that as events of chat.

mod answer;
mod chat;
pub mod constrained;
mod error;
mod generation;
mod params;
mod tools;

pub use answer::{AnswerOptions, LocalAnswer, failure};
pub use chat::{LocalRequest, LocalTarget, chat_prompt, prompt_ids};
pub use error::LocalError;
pub use generation::{Delta, Generation, GenerationRequest, MaxTokens, TextEvent, Usage};
pub use params::{
    CHOICES_MAX, ModelView, Params, STOP_BYTES_MAX, STOPS_MAX, StreamOptions, TOP_LOGPROBS_MAX,
};
pub use tools::{Calls, OfferedTools};
