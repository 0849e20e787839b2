//! A GPU that a rank computes on: its context, its kernels, and the way weights go up.

use super::device::{Context, DeviceMemory, Pinned, Stream};
use super::driver::{Driver, DriverError, Vendor};
use super::kernels::{Kernels, architecture_for};
use crate::backend::BackendError;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that go up in one copy while weights are loaded.
const STAGING_BYTES: usize = 8 << 20;

/// The 16-bit type of activations and of weights that are not quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// For all others, whose activations may be beyond f16's range.
    Bf16,
    /// For checkpoints in f32: closer to them than bf16.
    F16,
}

impl Half {
    /// As entry points are named.
    pub fn name(self) -> &'static str {
        match self {
            Half::Bf16 => "bf16",
            Half::F16 => "f16",
        }
    }

    /// Rounded to it, little-endian.
    pub fn bytes(self, values: impl Iterator<Item = f32>) -> Vec<u8> {
        let bits = |value: f32| match self {
            Half::Bf16 => half::bf16::from_f32(value).to_le_bytes(),
            Half::F16 => half::f16::from_f32(value).to_le_bytes(),
        };
        values.flat_map(bits).collect()
    }

    /// A value of it.
    pub fn value(self, bytes: [u8; 2]) -> f32 {
        match self {
            Half::Bf16 => half::bf16::from_le_bytes(bytes).to_f32(),
            Half::F16 => half::f16::from_le_bytes(bytes).to_f32(),
        }
    }
}

/// An opened device.
pub struct Gpu {
    /// `hip:0`.
    pub id: String,
    /// Its context.
    pub context: Context,
    /// Its kernels.
    pub kernels: Kernels,
    /// What activations are.
    pub half: Half,
    /// Compute units: how many blocks it takes to fill it.
    pub compute_units: usize,
    staging: Mutex<(Stream, Pinned)>,
}

impl Gpu {
    /// Opens a device by its number.
    pub fn open(vendor: Vendor, number: usize, half: Half) -> Result<Arc<Self>, BackendError> {
        let id = format!("{}:{number}", vendor.scheme());
        let failed =
            |error: DriverError| BackendError::Device { device: id.clone(), cause: error.to_string() };
        let driver = Driver::open(vendor).map_err(failed)?;
        let count = driver.device_count().map_err(failed)?;
        if number >= count {
            let cause = format!("there is no such device: {} sees {count}", driver.path());
            return Err(BackendError::Device { device: id, cause });
        }
        let info = driver.describe(number).map_err(failed)?;
        let architecture = architecture_for(vendor, &info.architecture)
            .map_err(|cause| BackendError::Device { device: id.clone(), cause })?;
        let context = Context::new(&driver, number).map_err(failed)?;
        let staging = context.stream().and_then(|stream| Ok((stream, context.pinned(STAGING_BYTES)?)));
        let staging = Mutex::new(staging.map_err(failed)?);
        let kernels = Kernels::new(&context, architecture);
        Ok(Arc::new(Self { id, context, kernels, half, compute_units: info.compute_units, staging }))
    }

    /// The driver's error as the engine reports it.
    pub fn failed(&self, error: DriverError) -> BackendError {
        BackendError::Device { device: self.id.clone(), cause: error.to_string() }
    }

    /// Device memory, for something that has a name.
    pub fn allocate(&self, what: &str, bytes: usize) -> Result<DeviceMemory, BackendError> {
        self.context.allocate(bytes).map_err(|error| match error.is_out_of_memory() {
            true => {
                let free = self.context.memory().map_or(0, |(free, _)| free);
                BackendError::OutOfMemory {
                    what: format!("{what} on {} ({free} bytes are free)", self.id),
                    wanted_bytes: bytes,
                }
            }
            false => self.failed(error),
        })
    }

    /// Device memory with these bytes.
    pub fn upload(&self, what: &str, bytes: &[u8]) -> Result<DeviceMemory, BackendError> {
        let memory = self.allocate(what, bytes.len())?;
        self.write(&memory, bytes).map_err(|error| self.failed(error))?;
        Ok(memory)
    }

    fn write(&self, memory: &DeviceMemory, bytes: &[u8]) -> Result<(), DriverError> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let (stream, pinned) = &mut *staging;
        for (index, piece) in bytes.chunks(STAGING_BYTES).enumerate() {
            pinned.bytes_mut()[..piece.len()].copy_from_slice(piece);
            // SAFETY: both live, and the stream is waited for before either changes.
            unsafe { stream.upload(pinned, 0..piece.len(), memory, index * STAGING_BYTES)? };
            stream.synchronize()?;
        }
        Ok(())
    }
}
