//! GPUs: AMD's through HIP, and NVIDIA's through CUDA's driver in the same shape. The kernels are
//! in kernels/, each with its shapes and its bound; what they compute is what the CPU backend
//! computes, with activations in 16 bits and sums in f32.
//!
//! Work goes to one stream in the order of calls and is waited for in [`read`](super::Backend::read) alone. An
//! operation that fails leaves its error for that call, and those after it do nothing: a step that
//! went wrong ends there, with the first cause.
//!
//! Reading order: [`driver`] (the library), [`device`] (memory, streams, launches), [`kernels`]
//! (what build.rs compiled), [`gpu`], [`tensor`], [`matrix`], [`held`], [`step`] (a step's metadata),
//! [`ops`] (how kernels are called), [`discover`].
//!
//! Absent so far: several devices for one model, graphs, the vendor's BLAS.

pub mod ceiling;
pub mod device;
pub mod discover;
pub mod driver;
pub mod gpu;
pub mod kernels;
pub mod held;
pub mod matrix;
pub mod ops;
pub mod step;
pub mod tensor;

use super::BackendError;
use device::{DeviceMemory, Pinned, Stream};
use driver::Result as DriverResult;
use gpu::Gpu;
pub use held::{Cache, Experts, Heads, Routes};
use std::sync::Arc;
use step::Step;

/// One GPU.
pub struct HipBackend {
    gpu: Arc<Gpu>,
    stream: Stream,
    step: Step,
    /// Of the step under way.
    failure: Option<BackendError>,
    results: Pinned,
    /// Queries in f16, partial results of attention: made as large as a step needs.
    queries: Scratch,
    partials: Scratch,
    stats: Scratch,
    sums: Scratch,
}

/// Memory that lives from call to call and grows.
#[derive(Default)]
pub struct Scratch(Option<DeviceMemory>);

impl Scratch {
    /// At least so many bytes; what was there is lost when it grows.
    fn get(&mut self, gpu: &Gpu, bytes: usize) -> DriverResult<driver::DevicePointer> {
        if self.0.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
            self.0 = Some(gpu.context.allocate(bytes.next_power_of_two())?);
        }
        Ok(self.0.as_ref().map_or(0, DeviceMemory::pointer))
    }
}

impl HipBackend {
    /// For an opened device.
    pub fn new(gpu: Arc<Gpu>) -> Result<Self, BackendError> {
        let failed = |error| gpu.failed(error);
        Ok(Self {
            stream: gpu.context.stream().map_err(failed)?,
            step: Step::new(&gpu).map_err(failed)?,
            failure: None,
            results: gpu.context.pinned(4).map_err(failed)?,
            queries: Scratch::default(),
            partials: Scratch::default(),
            stats: Scratch::default(),
            sums: Scratch::default(),
            gpu,
        })
    }

    /// Runs an operation, unless one before it has failed.
    fn op(&mut self, run: impl FnOnce(&mut Self) -> DriverResult<()>) {
        if self.failure.is_none()
            && let Err(error) = run(self)
        {
            self.failure = Some(self.gpu.failed(error));
        }
    }
}
