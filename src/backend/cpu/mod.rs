//! The CPU backend: own kernels over own buffers, all of them on [`pool::ThreadPool`].
//!
//! Invariants, beside those of [`crate::backend`]: a result's bits do not depend on the number
//! of threads; a step allocates nothing once its largest shapes have been seen; regions of less
//! than some twenty microseconds of work stay on the calling thread. Shapes are the model's
//! promise: a wrong one panics.
//!
//! Reading order: [`tensor`] (memory), [`pool`] (threads), [`simd`] (vectors), then the kernels:
//! [`elementwise`], [`norm`], [`rope`], [`kv`], [`attention`], [`matmul`].

pub mod attention;
pub mod elementwise;
pub mod kv;
pub mod matmul;
pub mod norm;
pub mod pool;
pub mod rope;
pub mod simd;
pub mod tensor;

#[cfg(test)]
mod tests;

use super::{Backend, BackendError, Batch, HeadLayout, KvSpec, RopeStyle};
use crate::checkpoint::TensorData;
use crate::protocol::TokenId;
use kv::KvCache;
use matmul::Matrix;
use pool::ThreadPool;
use simd::Isa;
use tensor::{Tensor, Vector};

/// The CPU backend.
pub struct CpuBackend {
    pool: ThreadPool,
    isa: Isa,
    matmul: matmul::Scratch,
    attention: attention::Scratch,
}

impl CpuBackend {
    /// A backend on `threads` threads, the calling one included.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::best())
    }

    /// With a chosen instruction set; matrix products choose their own.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        Self {
            pool: ThreadPool::new(threads),
            isa,
            matmul: matmul::Scratch::default(),
            attention: attention::Scratch::default(),
        }
    }
}

impl Backend for CpuBackend {
    type Tensor = Tensor;
    type Matrix = Matrix;
    type Vector = Vector;
    type KvCache = KvCache;

    fn matrix(&self, parts: &[TensorData<'_>]) -> Result<Matrix, BackendError> {
        Matrix::pack(parts)
    }

    fn matrix_bytes(&self, m: &Matrix) -> usize {
        m.bytes()
    }

    fn vector(&self, parts: &[TensorData<'_>]) -> Result<Vector, BackendError> {
        Vector::load(parts)
    }

    fn tensor(&self, max_rows: usize, columns: usize) -> Result<Tensor, BackendError> {
        Tensor::new(max_rows, columns)
    }

    fn kv_cache(&self, spec: &KvSpec, blocks: usize) -> Result<KvCache, BackendError> {
        KvCache::new(spec, blocks)
    }

    fn embed(&mut self, table: &Matrix, tokens: &[TokenId], out: &mut Tensor) {
        elementwise::embed(&mut self.pool, table, tokens, out);
    }

    fn add_rms_norm(
        &mut self,
        residual: &mut Tensor,
        delta: Option<&Tensor>,
        weight: &Vector,
        eps: f32,
        out: &mut Tensor,
    ) {
        norm::add_rms_norm(&mut self.pool, self.isa, residual, delta, weight, eps, out);
    }

    fn linear(&mut self, w: &Matrix, bias: Option<&Vector>, x: &Tensor, out: &mut Tensor) {
        assert_eq!(x.columns(), w.cols, "columns of a linear's input");
        let bias = bias.map(Vector::values);
        let values = out.set_rows(x.rows(), w.rows);
        matmul::linear(&mut self.pool, &mut self.matmul, w, bias, x.rows(), x.values(), values);
    }

    fn rope_angles(&mut self, inv_freq: &Vector, scale: f32, positions: &[u32], out: &mut Tensor) {
        rope::rope_angles(&mut self.pool, inv_freq, scale, positions, out);
    }

    fn rope_kv_write(
        &mut self,
        qkv: &mut Tensor,
        heads: HeadLayout,
        norms: Option<(&Vector, &Vector, f32)>,
        angles: &Tensor,
        style: RopeStyle,
        batch: &Batch,
        kv: &mut KvCache,
        layer: usize,
    ) {
        let (pool, isa) = (&mut self.pool, self.isa);
        rope::rope_kv_write(pool, isa, qkv, heads, norms, angles, style, &batch.slots, kv, layer);
    }

    fn attention(
        &mut self,
        qkv: &Tensor,
        heads: HeadLayout,
        scale: f32,
        window: Option<usize>,
        batch: &Batch,
        kv: &KvCache,
        layer: usize,
        out: &mut Tensor,
    ) {
        let Self { pool, isa, attention: scratch, .. } = self;
        attention::attention(pool, *isa, scratch, qkv, heads, scale, window, batch, kv, layer, out);
    }

    fn silu_mul(&mut self, gate_up: &Tensor, out: &mut Tensor) {
        elementwise::silu_mul(&mut self.pool, self.isa, gate_up, out);
    }

    fn gather_rows(&mut self, x: &Tensor, rows: &[u32], out: &mut Tensor) {
        elementwise::gather_rows(x, rows, out);
    }

    fn read<'a>(&'a mut self, x: &'a Tensor) -> &'a [f32] {
        x.values()
    }
}
