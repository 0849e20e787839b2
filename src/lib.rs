//! NovaStack: a self-hosted LLM inference server and gateway in one program.
//!
//! The modules, in the order in which a request meets them: [`gateway`] speaks HTTP and turns wire types into
//! [`protocol`] requests, as [`config`] says; [`text`] renders the chat template and tokenizes; [`engine`]
//! schedules and executes steps; [`model`] is the forward pass, written once over the [`backend`] trait, and
//! [`encoder`] that of models which only read; [`checkpoint`] is where weights come from. [`load`] brings a model
//! onto its devices, [`inspect`] says what it will take there, and [`selftest`] holds GPUs against the CPU.
//! [`config`] is `novastack.yaml`; [`store`] keeps what outlives a process. [`clock`] is the time. [`connect`]
//! opens connections to other servers, and [`blocking_http`] asks them outside of async code. [`log`] is the
//! program's own log, and [`secrets`] what must not stand in it.
//!
//! Who may import whom is written in `tests/imports.rs`, which enforces it.

// Module heads are read in the source as much as in the rendered docs: they may name private items.
#![allow(rustdoc::private_intra_doc_links)]

pub mod config;
pub mod gateway;
pub mod store;
pub mod protocol;
pub mod text;
pub mod engine;
pub mod model;
pub mod encoder;
pub mod backend;
pub mod selftest;
pub mod inspect;
pub mod load;
pub mod checkpoint;
pub mod clock;
pub mod connect;
pub mod blocking_http;
pub mod files;
pub mod memory;
pub mod log;
pub mod secrets;
