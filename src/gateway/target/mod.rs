//! Who answers. A [`ChatTarget`] is asked a conversation and gives an [`answer::Answer`], or a [`failure::Failure`].
//!
//! [`local`] is one of our engines ([`registry`]), of which a model may have several ([`replicas`]), once
//! [`text_queue`] has tokenized its prompt; [`remote`] is an upstream's model over [`http_client`]. [`adaptive`]
//! finds out what each of them bears, a [`breaker`] leaves alone what keeps failing, and [`resume`] goes on with an
//! answer that broke off.

pub mod adaptive;
pub mod answer;
pub mod breaker;
pub mod failure;
pub mod http_client;
pub mod local;
pub mod registry;
pub mod remote;
pub mod replicas;
pub mod resume;
pub mod text_queue;

use super::chat::Dialect;
use super::ledger::account::Attempt;
use super::ledger::auth::Tenant;
use super::wire::bounds::RequestBounds;
use crate::protocol::TokenId;
use answer::Answer;
use axum::http::HeaderMap;
use failure::Failure;
use resume::ResumeState;
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// A conversation to be answered.
pub struct ChatRequest<'a> {
    /// The request's id.
    pub id: &'a str,
    /// Whose it is.
    pub tenant: &'a Tenant,
    /// When it came.
    pub arrived: Instant,
    /// The dialect of its body.
    pub dialect: Dialect,
    /// As the caller sent it, but for what routing alone is to see.
    pub body: &'a Value,
    /// Answer piece by piece.
    pub stream: bool,
    /// Answers that it asks for.
    pub choices: u64,
    /// The caller's headers that an upstream of the same dialect is to see.
    pub headers: HeaderMap,
    /// The prompt's tokens, where they are known.
    pub prompt: Option<Arc<[TokenId]>>,
    /// By which an answer that may break off is drawn, wherever it is drawn.
    pub seed: &'a OnceLock<u64>,
    /// What the caller has of an answer that broke off: the rest is asked for.
    pub resume: Option<&'a ResumeState>,
}

/// What can be asked a conversation.
pub trait ChatTarget {
    /// Asks. The attempt goes with an answer that keeps its books itself, else it stays.
    ///
    /// # Errors
    /// The request or the target is at fault; whether another attempt makes sense.
    fn ask(
        &self,
        request: &ChatRequest<'_>,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;
}
