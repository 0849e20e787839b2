//! Tensors to the host and back.

use super::{THREADS, blocks};
use crate::backend::hip::device::Pinned;
use crate::backend::hip::driver::Result as DriverResult;
use crate::backend::hip::gpu::{Gpu, Half};
use crate::backend::hip::kernels::Arguments;
use crate::backend::hip::tensor::{Kind, Tensor};
use crate::backend::hip::{Cache, HipBackend};
use crate::protocol::TokenId;

/// Where tensors pass on their way to the host.
pub struct Results {
    pinned: Pinned,
    /// Those of 16 bits.
    widened: Vec<f32>,
}

impl Results {
    /// Grows with what is read.
    pub fn new(gpu: &Gpu) -> DriverResult<Self> {
        Ok(Self { pinned: gpu.context.pinned(4)?, widened: Vec::new() })
    }

    /// Those of the tensor that came last.
    pub(super) fn values(&self, x: &Tensor) -> &[f32] {
        match x.kind() {
            Kind::F32 => self.pinned.floats(x.rows() * x.columns()),
            Kind::Half | Kind::F16 => &self.widened,
        }
    }

    /// Those of the tokens that came last.
    pub(super) fn tokens(&self, count: usize) -> &[TokenId] {
        self.pinned.words(count)
    }

    pub(super) fn room(&mut self, gpu: &Gpu, bytes: usize) -> DriverResult<&mut Pinned> {
        if self.pinned.as_slice().len() < bytes {
            self.pinned = gpu.context.pinned(bytes.next_power_of_two())?;
        }
        Ok(&mut self.pinned)
    }
}

impl HipBackend {
    /// A tensor's type where it has 16 bits.
    fn half_of(&self, kind: Kind) -> Option<Half> {
        match kind {
            Kind::Half => Some(self.gpu.half),
            Kind::F16 => Some(Half::F16),
            Kind::F32 => None,
        }
    }

    pub(super) fn download(&mut self, x: &Tensor) -> DriverResult<()> {
        let bytes = x.current_bytes();
        let pinned = self.results.room(&self.gpu, bytes)?;
        // SAFETY: waited for at once.
        unsafe { self.stream.download(x.memory(), 0..bytes, pinned)? };
        self.stream.synchronize()?;
        self.step.in_flight = false;
        if let Some(half) = self.half_of(x.kind()) {
            let words = self.results.pinned.as_slice()[..bytes].as_chunks().0;
            self.results.widened.clear();
            self.results.widened.extend(words.iter().map(|word| half.value(*word)));
        }
        Ok(())
    }

    pub(super) fn upload(&mut self, x: &mut Tensor, rows: usize, values: &[f32]) -> DriverResult<()> {
        let (columns, kind) = (x.columns(), x.kind());
        assert_eq!(values.len(), rows * columns, "values of a tensor");
        x.output(rows, columns, kind);
        let rounded = match self.half_of(kind) {
            Some(half) => half.bytes(values.iter().copied()),
            None => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        let pinned = self.results.room(&self.gpu, rounded.len())?;
        pinned.bytes_mut()[..rounded.len()].copy_from_slice(&rounded);
        // SAFETY: waited for at once.
        unsafe { self.stream.upload(pinned, 0..rounded.len(), x.memory(), 0)? };
        self.stream.synchronize()
    }

    /// See [`Backend::copy_blocks`](crate::backend::Backend::copy_blocks).
    pub(super) fn copy_cache_blocks(&mut self, kv: &mut Cache, pairs: &[(u32, u32)]) -> DriverResult<()> {
        // Values of 16 bytes that a block of the kernel takes.
        const UNITS: usize = 1024;
        let words = pairs.iter().flat_map(|(source, target)| [*source, *target]);
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        let Self { gpu, stream, results, pairs: list, .. } = self;
        let pinned = results.room(gpu, bytes.len())?;
        pinned.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
        let list = list.memory(gpu, bytes.len())?;
        // SAFETY: waited for below.
        unsafe { stream.upload(pinned, 0..bytes.len(), list, 0)? };
        let list = list.pointer();
        let (parts, layers, layer_bytes, block_bytes) = kv.parts();
        for part in parts {
            let arguments = Arguments::new().pointer(list).pointer(part).pointer(part);
            let arguments = arguments.size(block_bytes / 16).size(layer_bytes as usize / 16);
            let grid = [pairs.len() as u32, layers as u32, blocks(block_bytes / 16, UNITS)];
            self.launch("block_copy", "block_copy", grid, THREADS, arguments)?;
        }
        self.stream.synchronize()
    }
}
