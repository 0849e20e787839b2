//! Mixtures of experts: routing, and products grouped by expert.

use super::matmul::{self, Matrix};
use super::pool::ThreadPool;
use super::simd::Isa;
use super::tensor::{Tensor, Vector};
use crate::backend::{BackendError, Routing};
use std::ops::Range;

/// The experts' matrices.
pub struct Experts(#[allow(dead_code)] Vec<Matrix>);

impl Experts {
    /// All of one shape.
    pub fn new(matrices: Vec<Matrix>) -> Result<Self, BackendError> {
        Ok(Self(matrices))
    }
}

/// Pairs of row and expert.
pub struct Routes {}

impl Routes {
    /// With room for `max_rows * top_k` pairs.
    pub fn new(_max_rows: usize, _top_k: usize) -> Result<Self, BackendError> {
        todo!()
    }
}

/// See [`crate::backend::Backend::moe_route`].
pub fn route(
    _pool: &mut ThreadPool,
    _logits: &Tensor,
    _bias: Option<&Vector>,
    _routing: &Routing,
    _local: Range<usize>,
    _routes: &mut Routes,
) {
    todo!()
}

/// See [`crate::backend::Backend::moe_dispatch`].
pub fn dispatch(_pool: &mut ThreadPool, _x: &Tensor, _routes: &Routes, _out: &mut Tensor) {
    todo!()
}

/// See [`crate::backend::Backend::expert_linear`]; returns the weight bytes read.
pub fn expert_linear(
    _pool: &mut ThreadPool,
    _scratch: &mut matmul::Scratch,
    _w: &Experts,
    _routes: &Routes,
    _x: &Tensor,
    _out: &mut Tensor,
) -> u64 {
    todo!()
}

/// See [`crate::backend::Backend::moe_combine`].
pub fn combine(
    _pool: &mut ThreadPool,
    _isa: Isa,
    _x: &Tensor,
    _routes: &Routes,
    _shared: Option<&Tensor>,
    _out: &mut Tensor,
) {
    todo!()
}
