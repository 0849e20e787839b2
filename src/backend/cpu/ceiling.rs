//! The CPU's ceilings: a copy by all threads, and multiply-adds of f32 in registers.

use super::CpuBackend;
use super::simd::{Kernel, LANES, Simd};
use crate::backend::BackendError;
use crate::backend::ceiling::{Ceiling, Named, ProbeSize, Work};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Values that a task copies.
const PIECE: usize = 1 << 15;
/// Sums that do not wait for each other: latency times width of all processors this runs on.
const CHAINS: usize = 12;

/// See [`Ceiling::Probe`].
pub enum Probe {
    /// From the first to the second.
    Copy(Vec<u64>, Vec<u64>),
    /// Rounds, and the first thread's sum in the bits of an f32.
    Products(usize, AtomicU32),
}

/// `sum = sum * 1/2 + 1` so many times, in [`CHAINS`] vectors: it comes to 2.
struct MultiplyAdds(usize);

impl Kernel for MultiplyAdds {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); CHAINS];
        let (a, b) = (s.splat(black_box(0.5)), s.splat(black_box(1.0)));
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.mul_add(*sum, a, b);
            }
        }
        sums.into_iter().map(|sum| s.sum(sum)).sum()
    }
}

impl Ceiling for CpuBackend {
    type Probe = Probe;

    fn probes(&mut self, size: ProbeSize) -> Result<Vec<Named<Probe>>, BackendError> {
        let values = (size.copy_bytes / 8).next_multiple_of(PIECE);
        let (from, to) = ((0..values as u64).collect(), vec![0; values]);
        let operations = self.pool.threads() * size.products * CHAINS * LANES * 2;
        Ok(vec![
            ("memcpy", Work::Copy((2 * values * 8) as f64), Probe::Copy(from, to)),
            ("f32", Work::Products(operations as f64), Probe::Products(size.products, AtomicU32::new(0))),
        ])
    }

    fn enqueue(&mut self, probe: &mut Probe) {
        match probe {
            Probe::Copy(from, to) => {
                let pieces: Vec<_> = to.chunks_mut(PIECE).map(Mutex::new).collect();
                self.pool.run(pieces.len(), &|task| {
                    let mut piece = pieces[task].lock().unwrap_or_else(PoisonError::into_inner);
                    piece.copy_from_slice(&from[task * PIECE..][..PIECE]);
                });
            }
            Probe::Products(rounds, result) => {
                let (isa, rounds) = (self.isa, *rounds);
                self.pool.run(self.pool.threads(), &|task| {
                    let sum = isa.run(MultiplyAdds(rounds));
                    if task == 0 {
                        result.store(sum.to_bits(), Ordering::Relaxed);
                    }
                });
            }
        }
    }

    fn check(&mut self, probe: &mut Probe) -> Result<(), BackendError> {
        let right = match probe {
            Probe::Copy(from, to) => from == to,
            Probe::Products(rounds, result) => {
                let wanted = (0..(*rounds).min(64)).fold(0.0f32, |sum, _| sum * 0.5 + 1.0);
                f32::from_bits(result.load(Ordering::Relaxed)) == wanted * (CHAINS * LANES) as f32
            }
        };
        match right {
            true => Ok(()),
            false => Err(BackendError::Device {
                device: "cpu".into(),
                cause: "a load that measures it gave a wrong result".into(),
            }),
        }
    }

    fn activation_bytes(&self) -> usize {
        4
    }
}
