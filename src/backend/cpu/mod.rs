//! The CPU backend: own kernels over own buffers, all of them on [`pool::ThreadPool`].
//!
//! Invariants, beside those of [`crate::backend`]: a result's bits do not depend on the number
//! of threads; a step allocates nothing once its largest shapes have been seen; regions of less
//! than some twenty microseconds of work stay on the calling thread. Shapes are the model's
//! promise: a wrong one panics.
//!
//! Reading order: [`tensor`] (memory), [`pool`] (threads), [`simd`] (vectors), then the kernels:
//! [`elementwise`], [`norm`], [`rope`], [`kv`], [`attention`], [`mla`], [`matmul`], [`heads`],
//! [`moe`]; [`group`] joins ranks.

pub mod attention;
pub mod candle;
pub mod ceiling;
pub mod elementwise;
pub mod group;
pub mod heads;
pub mod kv;
pub mod matmul;
pub mod mla;
pub mod moe;
pub mod norm;
pub mod pool;
pub mod rope;
pub mod simd;
pub mod tensor;

#[cfg(test)]
mod tests;

use super::{
    Activation, Backend, BackendError, Batch, HeadLayout, KvDtype, KvLayout, KvSpec, LatentLayout, RopeStyle,
    Routing,
};
use crate::checkpoint::TensorData;
use crate::protocol::TokenId;
use group::Member;
use kv::KvCache;
use matmul::Matrix;
use mla::LatentCache;
use moe::{Experts, Routes};
use pool::ThreadPool;
use simd::Isa;
use std::ops::Range;
use std::sync::Arc;
use tensor::{Tensor, Vector};

/// The CPU backend.
pub struct CpuBackend {
    pool: ThreadPool,
    isa: Isa,
    matmul: matmul::Scratch,
    attention: attention::Scratch,
    mla: mla::Scratch,
    group: Member,
    expert_bytes_read: u64,
    /// The step's.
    batch: Batch,
}

/// One cache group's blocks, of either layout.
pub enum Cache {
    /// Keys and values per head.
    Heads(KvCache),
    /// Latents.
    Latent(LatentCache),
}

impl Cache {
    fn heads(&self) -> &KvCache {
        match self {
            Cache::Heads(cache) => cache,
            Cache::Latent(_) => panic!("a cache of latents where one of heads is needed"),
        }
    }

    fn heads_mut(&mut self) -> &mut KvCache {
        match self {
            Cache::Heads(cache) => cache,
            Cache::Latent(_) => panic!("a cache of latents where one of heads is needed"),
        }
    }

    fn latent(&self) -> &LatentCache {
        match self {
            Cache::Latent(cache) => cache,
            Cache::Heads(_) => panic!("a cache of heads where one of latents is needed"),
        }
    }

    fn latent_mut(&mut self) -> &mut LatentCache {
        match self {
            Cache::Latent(cache) => cache,
            Cache::Heads(_) => panic!("a cache of heads where one of latents is needed"),
        }
    }
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
            mla: mla::Scratch::default(),
            group: Member::alone(),
            expert_bytes_read: 0,
            batch: Batch::default(),
        }
    }

    /// The `ranks` members of a group that shares `threads` threads, each rank with at least one.
    pub fn group(ranks: usize, threads: usize) -> Vec<Self> {
        let member = |group| Self { group, ..Self::new((threads / ranks).max(1)) };
        Member::group(ranks).into_iter().map(member).collect()
    }
}

impl Backend for CpuBackend {
    type Tensor = Tensor;
    type Matrix = Matrix;
    type Vector = Vector;
    type KvCache = Cache;
    type Experts = Experts;
    type Heads = Vec<Matrix>;
    type Routes = Routes;

    fn rank(&self) -> (usize, usize) {
        self.group.rank()
    }

    fn matrix(&self, parts: &[TensorData<'_>]) -> Result<Matrix, BackendError> {
        Matrix::pack(parts)
    }

    fn matrix_bytes(&self, m: &Matrix) -> usize {
        m.bytes()
    }

    fn matrix_kind(&self, m: &Matrix) -> String {
        m.kind()
    }

    fn vector(&self, parts: &[TensorData<'_>]) -> Result<Vector, BackendError> {
        Vector::load(parts)
    }

    fn tensor(&self, max_rows: usize, columns: usize) -> Result<Tensor, BackendError> {
        Tensor::new(max_rows, columns)
    }

    fn tensor_f32(&self, max_rows: usize, columns: usize) -> Result<Tensor, BackendError> {
        self.tensor(max_rows, columns)
    }

    fn tensor_cached(&self, max_rows: usize, columns: usize) -> Result<Tensor, BackendError> {
        self.tensor(max_rows, columns)
    }

    fn kv_dtype(&self, full_precision: bool) -> KvDtype {
        if full_precision { KvDtype::F32 } else { KvDtype::F16 }
    }

    fn kv_cache(&self, spec: &KvSpec, blocks: usize) -> Result<Cache, BackendError> {
        Ok(match spec.layout {
            KvLayout::Heads { .. } => Cache::Heads(KvCache::new(spec, blocks)?),
            KvLayout::Latent { .. } => Cache::Latent(LatentCache::new(spec, blocks)?),
        })
    }

    fn experts(&self, matrices: Vec<Matrix>) -> Result<Experts, BackendError> {
        Experts::new(matrices)
    }

    fn heads(&self, matrices: Vec<Matrix>) -> Result<Vec<Matrix>, BackendError> {
        Ok(matrices)
    }

    fn routes(&self, max_rows: usize, top_k: usize) -> Result<Routes, BackendError> {
        Routes::new(max_rows, top_k)
    }

    fn copy_blocks(&mut self, kv: &mut Cache, pairs: &[(u32, u32)]) {
        match kv {
            Cache::Heads(kv) => kv.copy_blocks(pairs),
            Cache::Latent(kv) => kv.copy_blocks(pairs),
        }
    }

    fn begin(&mut self, batch: &Batch) {
        self.batch.clone_from(batch);
    }

    fn embed(&mut self, table: &Matrix, first: TokenId, scale: f32, out: &mut Tensor) {
        elementwise::embed(&mut self.pool, table, first, scale, &self.batch.tokens, out);
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

    fn rope_angles(&mut self, inv_freq: &Vector, scale: f32, out: &mut Tensor) {
        rope::rope_angles(&mut self.pool, inv_freq, scale, &self.batch.positions, out);
    }

    fn rope_kv_write(
        &mut self,
        qkv: &mut Tensor,
        heads: HeadLayout,
        norms: Option<(&Vector, &Vector, f32)>,
        angles: &Tensor,
        style: RopeStyle,
        kv: &mut Cache,
        layer: usize,
    ) {
        let (pool, isa, kv) = (&mut self.pool, self.isa, kv.heads_mut());
        rope::rope_kv_write(pool, isa, qkv, heads, norms, angles, style, &self.batch.slots, kv, layer);
    }

    fn attention(
        &mut self,
        qkv: &Tensor,
        heads: HeadLayout,
        scale: f32,
        window: Option<usize>,
        kv: &Cache,
        layer: usize,
        out: &mut Tensor,
    ) {
        let Self { pool, isa, attention: scratch, batch, .. } = self;
        let kv = kv.heads();
        attention::attention(pool, *isa, scratch, qkv, heads, scale, window, batch, kv, layer, out);
    }

    fn joint_qk_norm(
        &mut self,
        qkv: &mut Tensor,
        heads: HeadLayout,
        q_norm: &Vector,
        k_norm: &Vector,
        eps: f32,
    ) {
        norm::joint_qk_norm(&mut self.pool, self.isa, &mut self.group, qkv, heads, q_norm, k_norm, eps);
    }

    fn mla_rope_kv_write(
        &mut self,
        q: &Tensor,
        latent: &Tensor,
        layout: LatentLayout,
        norm: &Vector,
        eps: f32,
        angles: &Tensor,
        style: RopeStyle,
        kv: &mut Cache,
        layer: usize,
        query: &mut Tensor,
    ) {
        let (pool, isa, kv) = (&mut self.pool, self.isa, kv.latent_mut());
        mla::rope_kv_write(
            pool,
            isa,
            q,
            latent,
            layout,
            norm,
            eps,
            angles,
            style,
            &self.batch.slots,
            kv,
            layer,
            query,
        );
    }

    fn head_linear(&mut self, w: &Self::Heads, x: &Tensor, out: &mut Tensor) {
        heads::head_linear(&mut self.pool, &mut self.matmul, w, x, out);
    }

    fn mla_attention(
        &mut self,
        query: &Tensor,
        layout: LatentLayout,
        scale: f32,
        kv: &Cache,
        layer: usize,
        out: &mut Tensor,
    ) {
        let Self { pool, isa, mla: scratch, batch, .. } = self;
        mla::attention(pool, *isa, scratch, query, layout, scale, batch, kv.latent(), layer, out);
    }

    fn moe_route(
        &mut self,
        logits: &Tensor,
        bias: Option<&Vector>,
        routing: &Routing,
        local: Range<usize>,
        routes: &mut Routes,
    ) {
        moe::route(&mut self.pool, logits, bias, routing, local, routes);
    }

    fn moe_dispatch(&mut self, x: &Tensor, routes: &Routes, out: &mut Tensor) {
        moe::dispatch(&mut self.pool, x, routes, out);
    }

    fn expert_linear(&mut self, w: &Experts, routes: &Routes, x: &Tensor, out: &mut Tensor) {
        self.expert_bytes_read += moe::expert_linear(&mut self.pool, &mut self.matmul, w, routes, x, out);
    }

    fn moe_combine(&mut self, x: &Tensor, routes: &Routes, shared: Option<&Tensor>, out: &mut Tensor) {
        moe::combine(&mut self.pool, self.isa, x, routes, shared, out);
    }

    fn expert_bytes_read(&self) -> u64 {
        self.expert_bytes_read
    }

    fn all_reduce(&mut self, x: &mut Tensor) {
        self.group.all_reduce(x.values_mut());
    }

    fn all_gather(&mut self, x: &Tensor, out: &mut Tensor) {
        let out_columns = out.columns();
        let values = out.set_rows(x.rows(), out_columns);
        self.group.all_gather(x.values(), x.columns(), values, out_columns);
    }

    fn gate_mul(&mut self, activation: Activation, gate_up: &Tensor, out: &mut Tensor) {
        elementwise::gate_mul(&mut self.pool, self.isa, activation, gate_up, out);
    }

    fn gather_outputs(&mut self, x: &Tensor, range: Range<usize>, out: &mut Tensor) {
        elementwise::gather_rows(x, &self.batch.outputs[range], out);
    }

    fn write(&mut self, x: &mut Tensor, rows: usize, values: &[f32]) {
        let columns = x.columns();
        x.set_rows(rows, columns).copy_from_slice(values);
    }

    fn read<'a>(&'a mut self, x: &'a Tensor) -> Result<&'a [f32], BackendError> {
        Ok(x.values())
    }

    /// Tokens are chosen from what [`Backend::read`] gives: the logits are on the host.
    fn samples(&self, _vocab: usize) -> bool {
        false
    }

    fn constrain(&mut self, _masks: &[(usize, Arc<[u32]>)]) {
        panic!("the CPU backend leaves sampling to its caller");
    }

    fn sample(&mut self, _logits: &mut Tensor, _range: Range<usize>) {
        panic!("the CPU backend leaves sampling to its caller");
    }

    fn tokens(&mut self) -> Result<&[TokenId], BackendError> {
        panic!("the CPU backend leaves sampling to its caller");
    }

    /// Every operation has ended when its call returns.
    fn finish(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    fn run(&mut self, work: &mut dyn FnMut(&mut Self)) -> bool {
        work(self);
        false
    }
}
