//! Everything that knows HTTP or JSON wire types, in floors: each imports those before it and none behind it.
//!
//! 1. [`wire`]: bytes on their way. Fields of JSON, server-sent events, errors in each format, what bounds a
//!    request's time and memory, connections.
//! 2. [`chat`]: conversations in each format, and the one stream of events that answers are.
//! 3. [`ledger`]: whose request it is, what it may use and has used, and who is told of it.
//! 4. [`target`]: who answers: an engine of this process, or an upstream.
//! 5. [`route`]: which targets a request is for, and which is next when one fails.
//! 6. [`api`]: the endpoints.
//! 7. [`http`]: the server around them.
//!
//! Invariants: nothing here outlives its request (dropping a response drops its token stream,
//! which cancels it); every body, wait and queue has a bound; API keys are never kept or logged,
//! only their digests.

pub mod api;
pub mod chat;
pub mod http;
pub mod ledger;
pub mod route;
pub mod target;
pub mod wire;

pub use api::app::RequestConfig;
pub use http::admin;
pub use http::cors::Cors;
pub use http::server::{DrainOutcome, ServerConfig, check_bind, serve};
pub use http::tls::Tls;
pub use ledger::auth::check_key;
pub use ledger::observe::Observers;
pub use route::Routing;
pub use target::local::constrained::Grammars;
pub use target::registry::{
    ExampleRequest, GenerationDefaults, LocalModel, ModelState, Registry, sampling_of_checkpoint,
};
pub use target::replicas::Replicas;
pub use wire::places::{ConnectionLimits, RESERVED as RESERVED_CONNECTIONS};
