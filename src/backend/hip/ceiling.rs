//! A GPU's ceilings (kernels/ceiling.hip): a copy by the driver and one by a kernel, and products
//! of fragments in registers.

use super::HipBackend;
use super::device::{DeviceMemory, Pinned};
use super::driver::{DriverError, Result as DriverResult};
use super::gpu::Half;
use super::kernels::Arguments;
use crate::backend::BackendError;
use crate::backend::ceiling::{Ceiling, Named, ProbeSize, Work};

/// Work-items of a block; units of 16 bytes that it copies.
const THREADS: usize = 256;
const UNITS: usize = 4 * THREADS;
/// Operands of A and of B, values of each, and operations of all their products.
const A: usize = 2;
const B: usize = 4;
const OPERAND: usize = 16 * 16;
const OPERATIONS: usize = A * B * 2 * 16 * 16 * 16;
/// Blocks of a compute unit, for waves to hide each other's latency.
const BLOCKS_PER_UNIT: usize = 8;
/// Bytes at either end of a copy that are looked at.
const CHECKED: usize = 4096;

/// See [`Ceiling::Probe`].
pub struct Probe {
    kind: Kind,
    from: DeviceMemory,
    to: DeviceMemory,
    seen: Pinned,
}

enum Kind {
    DriverCopy,
    KernelCopy,
    /// Rounds, and blocks.
    Products(Half, usize, usize),
}

/// Value i of the operands: integers, so that sums are exact.
fn operand(i: usize) -> f32 {
    (i.wrapping_mul(2_654_435_761) >> 16) as u8 as f32 % 5.0 - 2.0
}

/// The sum over all accumulators after one round.
fn round_sum() -> f32 {
    let row =
        |operand_at: usize, row: usize| (0..16).map(move |k| operand(operand_at * OPERAND + row * 16 + k));
    let column_sums = |operands: std::ops::Range<usize>| {
        let mut sums = [0.0f32; 16];
        for (at, r) in operands.flat_map(|at| (0..16).map(move |r| (at, r))) {
            sums.iter_mut().zip(row(at, r)).for_each(|(sum, value)| *sum += value);
        }
        sums
    };
    let (a, b) = (column_sums(0..A), column_sums(A..A + B));
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl HipBackend {
    fn probe(&self, kind: Kind, from: DeviceMemory, to_bytes: usize) -> Result<Probe, BackendError> {
        let failed = |error| self.gpu.failed(error);
        let to = self.gpu.allocate("a load that measures the device", to_bytes)?;
        // SAFETY: waited for at once.
        unsafe { self.stream.fill(&to, 0) }.map_err(failed)?;
        self.stream.synchronize().map_err(failed)?;
        let seen = self.gpu.context.pinned(to_bytes.min(CHECKED)).map_err(failed)?;
        Ok(Probe { kind, from, to, seen })
    }

    /// Bytes that differ from each other by position, in all of the memory.
    fn numbered(&self, bytes: usize) -> Result<DeviceMemory, BackendError> {
        let memory = self.gpu.allocate("a load that measures the device", bytes)?;
        let piece: Vec<u8> = (0..bytes.min(8 << 20) / 4).flat_map(|i| (i as u32).to_le_bytes()).collect();
        let uploaded = self.gpu.upload("a load that measures the device", &piece)?;
        let copied = || -> DriverResult<()> {
            for at in (0..bytes).step_by(piece.len()) {
                let length = piece.len().min(bytes - at);
                // SAFETY: within both, which live until the stream has been waited for.
                unsafe { self.stream.copy_within(uploaded.pointer(), memory.pointer() + at as u64, length)? };
            }
            self.stream.synchronize()
        };
        copied().map_err(|error| self.gpu.failed(error))?;
        Ok(memory)
    }

    fn run_probe(&mut self, probe: &Probe) -> DriverResult<()> {
        let bytes = probe.to.bytes();
        let (name, grid, arguments) = match probe.kind {
            Kind::DriverCopy => {
                // SAFETY: probes live until the stream has been waited for.
                return unsafe { self.stream.copy_within(probe.from.pointer(), probe.to.pointer(), bytes) };
            }
            Kind::KernelCopy => {
                let arguments = Arguments::new().pointer(probe.from.pointer()).pointer(probe.to.pointer());
                ("ceiling_copy".to_owned(), (bytes / 16).div_ceil(UNITS), arguments.size(bytes / 16))
            }
            Kind::Products(half, rounds, blocks) => {
                let arguments = Arguments::new().pointer(probe.from.pointer()).pointer(probe.to.pointer());
                (format!("ceiling_mma_{}", half.name()), blocks, arguments.size(rounds))
            }
        };
        let function = self.gpu.kernels.get("ceiling", &name)?;
        // SAFETY: as the kernel's file says; probes live until the stream has been waited for.
        unsafe { arguments.launch(&self.stream, function, [grid as u32, 1, 1], THREADS as u32) }
    }

    /// Some bytes of a probe's result.
    fn looked_at<'a>(&self, probe: &'a mut Probe, at: usize) -> DriverResult<&'a [u8]> {
        let length = probe.seen.as_slice().len();
        // SAFETY: waited for at once.
        unsafe { self.stream.download(&probe.to, at..at + length, &mut probe.seen)? };
        self.stream.synchronize()?;
        Ok(probe.seen.as_slice())
    }
}

impl Ceiling for HipBackend {
    type Probe = Probe;

    fn probes(&mut self, size: ProbeSize) -> Result<Vec<Named<Probe>>, BackendError> {
        let bytes = size.copy_bytes.next_multiple_of(CHECKED);
        let copied = Work::Copy((2 * bytes) as f64);
        let mut probes = Vec::new();
        for (name, kind) in [("driver's copy", Kind::DriverCopy), ("kernel's copy", Kind::KernelCopy)] {
            probes.push((name, copied, self.probe(kind, self.numbered(bytes)?, bytes)?));
        }
        let blocks = self.gpu.compute_units * BLOCKS_PER_UNIT;
        for half in [Half::Bf16, Half::F16] {
            let operands = half.bytes((0..(A + B) * OPERAND).map(operand));
            let operands = self.gpu.upload("a load that measures the device", &operands)?;
            let work = Work::Products((size.products * blocks * OPERATIONS) as f64);
            let kind = Kind::Products(half, size.products, blocks);
            probes.push((half.name(), work, self.probe(kind, operands, blocks * THREADS * 4)?));
        }
        Ok(probes)
    }

    fn enqueue(&mut self, probe: &mut Probe) {
        self.op(|it| it.run_probe(probe));
    }

    fn check(&mut self, probe: &mut Probe) -> Result<(), BackendError> {
        let failed = |error| self.gpu.failed(error);
        let right = match probe.kind {
            Kind::DriverCopy | Kind::KernelCopy => {
                let last = probe.to.bytes() - CHECKED;
                let expected = |at: usize| {
                    (0..CHECKED / 4).flat_map(move |i| ((at % (8 << 20) / 4 + i) as u32).to_le_bytes())
                };
                let first = self.looked_at(probe, 0).map_err(failed)?.iter().copied().eq(expected(0));
                first && self.looked_at(probe, last).map_err(failed)?.iter().copied().eq(expected(last))
            }
            Kind::Products(_, rounds, _) => {
                let seen = self.looked_at(probe, 0).map_err(failed)?;
                let sums: Vec<f64> =
                    seen.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
                let wanted = rounds as f64 * f64::from(round_sum());
                sums.chunks_exact(THREADS).all(|block| block.iter().sum::<f64>() == wanted)
            }
        };
        match right {
            true => Ok(()),
            false => Err(failed(DriverError::Library("a load that measures it gave a wrong result".into()))),
        }
    }

    fn activation_bytes(&self) -> usize {
        2
    }
}
