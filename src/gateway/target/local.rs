//! A target that is one of our engines: a body of OpenAI's chat format becomes a prompt ([`chat`]) and how to answer
//! it ([`params`]), a [`Generation`] turns it into text, and a [`LocalAnswer`] tells that as events of chat.
//! Of models that are no chat models, [`LocalPooling`] asks for vectors and scores ([`scoring`]) of texts.

mod answer;
mod chat;
pub mod constrained;
mod error;
mod generation;
mod params;
mod pooling;
mod scoring;
mod tools;
mod unshown;

pub use answer::{AnswerOptions, LocalAnswer, failure};
pub use chat::{LocalRequest, LocalTarget, chat_prompt, prompt_ids};
pub use error::LocalError;
pub use generation::{Delta, Generation, GenerationRequest, TextEvent, Usage};
pub use params::{
    CHOICES_MAX, ModelView, Params, STOP_BYTES_MAX, STOPS_MAX, StreamOptions, TOP_LOGPROBS_MAX,
};
pub use pooling::{AtText, LocalPooling, PooledText, text_limit};
pub use scoring::{AtPair, PairOptions, Pairs, Side};
pub use tools::{Calls, OfferedTools};
