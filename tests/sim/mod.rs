//! The engine without a model: seeded simulations of the scheduler, and the real worker over an
//! executor that remembers what every KV block holds.

mod constraint;
pub mod fake;
mod random;
mod replay;
mod rng;
mod steps;
mod worker;
