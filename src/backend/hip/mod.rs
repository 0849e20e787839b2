//! GPUs: AMD's through HIP, and NVIDIA's through CUDA's driver in the same shape.

pub mod device;
pub mod driver;
