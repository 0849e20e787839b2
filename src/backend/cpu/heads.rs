//! One matrix per head: MLA's absorbed projections.

use super::matmul::{self, Matrix};
use super::pool::ThreadPool;
use super::tensor::Tensor;

/// See [`crate::backend::Backend::head_linear`].
pub fn head_linear(
    _pool: &mut ThreadPool,
    _scratch: &mut matmul::Scratch,
    _w: &[Matrix],
    _x: &Tensor,
    _out: &mut Tensor,
) {
    todo!()
}
