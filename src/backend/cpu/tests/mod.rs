//! Every operation against a plain f64 version, and the exactness invariants of
//! [`crate::backend`] as equality of bits.

mod attention;
mod heads;
mod moe;
mod mla;
mod ops;
mod pool;
mod simd;

use super::simd::Isa;
use super::*;
use crate::backend::{KV_BLOCK_TOKENS, KvDtype, SeqSpan};
use crate::checkpoint::Dtype;

/// A small seeded generator (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// In `0 .. below`.
    pub fn below(&mut self, below: usize) -> usize {
        (self.next() % below as u64) as usize
    }
    /// In [-1, 1).
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

pub fn data(name: &str, shape: &[usize], values: &[f32]) -> TensorData<'static> {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    TensorData { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), data: bytes.into() }
}

pub fn vector(values: &[f32]) -> Vector {
    Vector::load(&[data("vector", &[values.len()], values)]).unwrap()
}

pub fn tensor(columns: usize, values: &[f32]) -> Tensor {
    let rows = values.len() / columns;
    let mut tensor = Tensor::new(rows, columns).unwrap();
    tensor.set_rows(rows, columns).copy_from_slice(values);
    tensor
}

/// Equality of bits, told by the first difference.
#[track_caller]
pub fn assert_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert_eq!(x.to_bits(), y.to_bits(), "{what}: value {i} is {x:e} and {y:e}");
    }
}

#[track_caller]
pub fn assert_close(got: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}: lengths");
    for (i, (x, y)) in got.iter().zip(wanted).enumerate() {
        let error = (*x as f64 - y).abs();
        assert!(error <= tolerance * y.abs().max(1.0), "{what}: value {i} is {x:e}, not {y:e}");
    }
}

/// Backends that must agree: each instruction set with one thread and with three.
pub fn backends() -> impl Iterator<Item = (String, CpuBackend)> {
    Isa::available().flat_map(|isa| {
        [1, 3].map(|threads| (format!("{isa:?} on {threads} threads"), CpuBackend::with_isa(threads, isa)))
    })
}
