//! (under construction)
pub mod matmul;
pub mod pool;
