//! Everything that knows HTTP or JSON wire types: [`server`] routes requests past [`auth`] to the
//! handlers in [`openai`], which convert wire types by hand to our own and back; [`local`] turns
//! a prompt into text events of one of our engines; [`sse`] frames events; [`error`] is the only
//! map from errors to HTTP; [`dialect`] has the codecs of upstreams' formats; [`registry`] says which models there are; [`metrics`] counts.
//!
//! Invariants: nothing here outlives its request (dropping a response drops its token stream,
//! which cancels it); every body, wait and queue has a bound; API keys are never kept or logged,
//! only their digests.
//!
//! Deliberately absent until it works: upstream targets, routing rules, Anthropic's format.

pub mod auth;
pub mod dialect;
pub mod error;
pub mod local;
pub mod metrics;
pub mod openai;
pub mod registry;
pub mod server;
pub mod sse;

pub use registry::{GenerationDefaults, LocalModel, ModelState, Registry};
pub use server::{Cors, DrainOutcome, ServerConfig, check_bind, serve};
