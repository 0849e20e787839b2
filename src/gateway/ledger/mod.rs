//! The books: whose request it is ([`auth`]; [`cache_salt`] keeps the cached prompts of tenants apart), what it may
//! use ([`demand`], [`limit`]), what it has used of which [`counterparty`] ([`account`], [`cost`]; [`calibration`]
//! learns what upstreams count), and who is told of it: [`metrics`], [`observe`] with its [`trace`] and [`access_log`].

pub mod access_log;
pub mod account;
pub mod auth;
pub mod cache_salt;
pub mod calibration;
pub mod cost;
pub mod counterparty;
pub mod demand;
pub mod limit;
pub mod metrics;
pub mod observe;
mod store_error;
pub mod trace;
