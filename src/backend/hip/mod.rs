//! GPUs: AMD's through HIP, and NVIDIA's through CUDA's driver in the same shape. The kernels are
//! in kernels/, each with its shapes and its bound; what they compute is what the CPU backend
//! computes, with activations in 16 bits and sums in f32.
//!
//! Work goes to one stream in the order of calls and is waited for where results are wanted alone
//! ([`read`](super::Backend::read), [`tokens`](super::Backend::tokens), [`finish`](super::Backend::finish)).
//! An operation that fails leaves its error for that call, and those after it do nothing: a step that
//! went wrong ends there, with the first cause.
//!
//! Reading order: [`driver`] (the library), [`device`] (memory, streams, launches), [`kernels`]
//! (what build.rs compiled), [`gpu`], [`collective`] (several devices as one model's ranks),
//! [`blas`] (the vendor's products), [`tensor`], [`matrix`], [`held`], [`step`] (a step's metadata),
//! [`ops`] (how kernels are called), [`graphs`] (what was recorded for decodes), [`discover`].

pub mod blas;
pub mod ceiling;
pub mod collective;
pub mod device;
pub mod discover;
pub mod driver;
pub mod gpu;
pub mod graphs;
pub mod kernels;
pub mod held;
pub mod matrix;
pub mod ops;
pub mod step;
pub mod tensor;

use super::BackendError;
use blas::Blas;
use collective::Collective;
use device::{DeviceMemory, Stream};
use driver::Result as DriverResult;
use gpu::Gpu;
use graphs::Graphs;
pub use held::{Cache, Experts, Heads, Routes};
use std::sync::{Arc, Mutex};
use step::Step;
use tensor::Kind;

/// One GPU.
pub struct HipBackend {
    gpu: Arc<Gpu>,
    stream: Stream,
    step: Step,
    /// Of the step under way.
    failure: Option<BackendError>,
    results: ops::Results,
    /// Queries in f16, partial results of attention: made as large as a step needs.
    queries: Scratch,
    partials: Scratch,
    stats: Scratch,
    sums: Scratch,
    /// Keys and values that latents are expanded to.
    expansions: Scratch,
    /// The largest logits of a row's slices; the tokens chosen.
    best: Scratch,
    tokens: Scratch,
    /// Which tokens may be chosen.
    masks: ops::Masks,
    /// KV blocks to copy.
    pairs: Scratch,
    graphs: Graphs,
    deterministic: bool,
    /// The other devices of the model, if there are.
    collective: Option<Collective>,
    /// Between a step's begin and its end: the other ranks count on this one.
    in_step: bool,
    /// What is launched is recorded: a failure is none of the step's.
    recording: bool,
    /// The vendor's library for large products. The backend is shared while weights are loaded.
    blas: Option<Mutex<Blas>>,
}

/// How a device is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The largest step.
    pub rows_max: usize,
    /// Launch every kernel of every step, replay nothing.
    pub eager: bool,
    /// A row's bits depend on its sequence alone: one shape of every product, one way of attention.
    pub deterministic: bool,
    /// Large products are the vendor's library's where there is one; not when deterministic.
    pub vendor_blas: bool,
}

/// Memory that lives from call to call and grows.
#[derive(Default)]
pub struct Scratch(Option<DeviceMemory>);

impl Scratch {
    /// At least so many bytes; what was there is lost when it grows.
    fn memory(&mut self, gpu: &Gpu, bytes: usize) -> DriverResult<&DeviceMemory> {
        let memory = match self.0.take() {
            Some(memory) if memory.bytes() >= bytes => memory,
            _ => gpu.context.allocate(bytes.next_power_of_two())?,
        };
        Ok(self.0.insert(memory))
    }

    /// Where those bytes are.
    fn get(&mut self, gpu: &Gpu, bytes: usize) -> DriverResult<driver::DevicePointer> {
        self.memory(gpu, bytes).map(DeviceMemory::pointer)
    }

    /// 0 before the first use.
    fn pointer(&self) -> driver::DevicePointer {
        self.0.as_ref().map_or(0, DeviceMemory::pointer)
    }
}

impl HipBackend {
    /// The ranks of a group of opened devices, one vendor's, in their order.
    pub fn group(gpus: &[Arc<Gpu>], options: Options) -> Result<Vec<Self>, BackendError> {
        let collectives: Vec<Option<Collective>> = match gpus {
            [_] => vec![None],
            _ => {
                let contexts: Vec<_> = gpus.iter().map(|gpu| &gpu.context).collect();
                let made = Collective::group(&contexts).map_err(|error| gpus[0].failed(error))?;
                made.into_iter().map(Some).collect()
            }
        };
        gpus.iter()
            .zip(collectives)
            .map(|(gpu, collective)| Self::new(gpu.clone(), options, collective))
            .collect()
    }

    /// One opened device by itself.
    pub fn alone(gpu: Arc<Gpu>, options: Options) -> Result<Self, BackendError> {
        Self::new(gpu, options, None)
    }

    /// The vendor's library for large products, if there is one.
    pub fn vendor_blas(&self) -> Option<String> {
        let blas = self.blas.as_ref()?.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Some(blas.path().to_owned())
    }

    fn new(gpu: Arc<Gpu>, options: Options, collective: Option<Collective>) -> Result<Self, BackendError> {
        let failed = |error| gpu.failed(error);
        let stream = gpu.context.stream().map_err(failed)?;
        let blas = match options.vendor_blas && !options.deterministic {
            true => match Blas::open(&gpu.context, &stream, gpu.half) {
                Ok(blas) => {
                    tracing::info!(
                        device = gpu.id,
                        library = blas.path(),
                        "large products by the vendor's BLAS"
                    );
                    Some(Mutex::new(blas))
                }
                Err(reason) => {
                    tracing::info!(device = gpu.id, %reason, "no vendor's BLAS");
                    None
                }
            },
            false => None,
        };
        Ok(Self {
            stream,
            step: Step::new(&gpu, options).map_err(failed)?,
            failure: None,
            results: ops::Results::new(&gpu).map_err(failed)?,
            queries: Scratch::default(),
            partials: Scratch::default(),
            stats: Scratch::default(),
            sums: Scratch::default(),
            expansions: Scratch::default(),
            best: Scratch::default(),
            tokens: Scratch::default(),
            masks: ops::Masks::default(),
            pairs: Scratch::default(),
            graphs: Graphs::new(options.eager),
            deterministic: options.deterministic,
            collective,
            in_step: false,
            recording: false,
            blas,
            gpu,
        })
    }

    /// Runs an operation, unless one before it has failed.
    fn op(&mut self, run: impl FnOnce(&mut Self) -> DriverResult<()>) {
        if self.failure.is_none()
            && let Err(error) = run(self)
        {
            self.failure = Some(self.gpu.failed(error));
            if !self.recording {
                self.leave_group();
            }
        }
    }

    /// The others must not wait for what this rank does not bring.
    fn leave_group(&self) {
        if let Some(collective) = &self.collective {
            collective.end();
        }
    }

    /// What became of the operations so far, which have been waited for. What other ranks did not
    /// bring is missing in the results.
    fn outcome(&mut self) -> Result<(), BackendError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.in_step = false;
        let alive = self.collective.as_ref().map_or(Ok(()), Collective::check_alive);
        alive.map_err(|error| self.gpu.failed(error))
    }

    /// In place: the sum over all ranks of so many values.
    fn sum_over_ranks(&self, values: driver::DevicePointer, count: usize, kind: Kind) -> DriverResult<()> {
        match &self.collective {
            // SAFETY: the callers pass a tensor's or a scratch's own memory.
            Some(collective) => unsafe {
                collective.all_reduce(&self.stream, values, count, kind, self.gpu.half)
            },
            None => Ok(()),
        }
    }
}

impl Drop for HipBackend {
    /// After a panic in the middle of a step.
    fn drop(&mut self) {
        if self.in_step {
            self.leave_group();
        }
    }
}
