//! GPUs: AMD's through HIP, and NVIDIA's through CUDA's driver in the same shape.
//!
//! Reading order: [`driver`] (the library), [`device`] (memory, streams, launches), [`kernels`]
//! (what build.rs compiled).

pub mod device;
pub mod discover;
pub mod driver;
pub mod kernels;
