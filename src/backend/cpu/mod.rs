//! (under construction)
pub mod pool;
