//! Everything that knows HTTP or JSON wire types. [`server`] leads requests from their [`connection`] past
//! [`auth`] to the handlers, which read a [`body`] and share an [`app`]: [`chat`] for conversations in either
//! [`dialect`], [`openai`] for what only our own models answer. [`count`] knows a prompt's tokens, [`route`]
//! says which targets a request is for, [`fallback`] tries them: [`local`] turns a prompt into text events of
//! one of our engines, of which a model may have several ([`replicas`]), once [`text_queue`] has tokenized it; [`remote`] asks an upstream. A
//! stream that breaks off goes on elsewhere ([`chat`]). [`sse`] frames events; [`error`] is the only map from
//! errors to HTTP; [`cache_salt`] keeps the cached prompts of tenants apart; [`registry`] says
//! which models are loaded; [`demand`] reads what a body may use, [`usage`] knows costs,
//! [`account`] records them
//! and keeps to the limits that [`limit`] counts, [`adaptive`] finds out what an upstream bears; [`metrics`]
//! counts; [`admin`] shows usage and makes keys;
//! [`scores`] takes what callers think of answers; [`observe`] tells of each request: by a span ([`trace`]) and a line ([`access_log`]).
//!
//! Invariants: nothing here outlives its request (dropping a response drops its token stream,
//! which cancels it); every body, wait and queue has a bound; API keys are never kept or logged,
//! only their digests.

pub mod access_log;
pub mod account;
pub mod adaptive;
pub mod admin;
pub mod app;
pub mod auth;
pub mod body;
pub mod bounds;
pub mod browser;
pub mod cache_salt;
pub mod chat;
pub mod connection;
pub mod cors;
pub mod count;
pub mod demand;
pub mod dialect;
pub mod error;
pub mod fallback;
pub mod health;
pub mod http_client;
pub mod limit;
pub mod listen;
pub mod local;
pub mod metrics;
pub mod observe;
pub mod openai;
pub mod places;
pub mod registry;
pub mod remote;
pub mod replicas;
pub mod request_memory;
pub mod route;
pub mod scores;
pub mod server;
pub mod sse;
pub mod text_queue;
pub mod tls;
pub mod trace;
pub mod usage;
pub mod workers;

pub use auth::check_key;
pub use cors::Cors;
pub use observe::Observers;
pub use places::{ConnectionLimits, RESERVED as RESERVED_CONNECTIONS};
pub use registry::{
    ExampleRequest, GenerationDefaults, LocalModel, ModelState, Registry, sampling_of_checkpoint,
};
pub use replicas::Replicas;
pub use route::Routing;
pub use server::{DrainOutcome, ServerConfig, check_bind, serve};
pub use tls::Tls;
