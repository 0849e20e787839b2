//! One integration binary: everything that is tested from outside.

mod agents;
mod api;
mod bench;
mod build_script;
mod checkpoint;
mod config;
mod embeddings;
mod gateway;
mod imports;
mod grammar;
mod inspect;
mod kernels;
mod models;
mod sim;
mod start;
mod store;
mod support;
mod text;
