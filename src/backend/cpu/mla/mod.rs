//! Multi-head latent attention (MLA; DeepSeek-V2, 2024) in latent space.

use super::pool::ThreadPool;
use super::simd::Isa;
use super::tensor::{Tensor, Vector};
use crate::backend::{BackendError, Batch, KvSpec, LatentLayout, RopeStyle};

/// One cache group's blocks of latents and rotated keys.
pub struct LatentCache {}

impl LatentCache {
    /// A zeroed cache; out of memory is an error.
    pub fn new(_spec: &KvSpec, _blocks: usize) -> Result<Self, BackendError> {
        todo!()
    }
}

/// Lists that live from call to call.
#[derive(Default)]
pub struct Scratch {}

/// See [`crate::backend::Backend::mla_rope_kv_write`].
#[allow(clippy::too_many_arguments)]
pub fn rope_kv_write(
    _pool: &mut ThreadPool,
    _isa: Isa,
    _q: &Tensor,
    _latent: &Tensor,
    _layout: LatentLayout,
    _norm: &Vector,
    _eps: f32,
    _angles: &Tensor,
    _style: RopeStyle,
    _slots: &[u32],
    _kv: &mut LatentCache,
    _layer: usize,
    _query: &mut Tensor,
) {
    todo!()
}

/// See [`crate::backend::Backend::mla_attention`].
#[allow(clippy::too_many_arguments)]
pub fn attention(
    _pool: &mut ThreadPool,
    _isa: Isa,
    _scratch: &mut Scratch,
    _query: &Tensor,
    _layout: LatentLayout,
    _scale: f32,
    _batch: &Batch,
    _kv: &LatentCache,
    _layer: usize,
    _out: &mut Tensor,
) {
    todo!()
}
