//! One matrix per head: MLA's absorbed projections. All heads are one parallel region, see
//! [`matmul::headed`].

use super::matmul::{self, Matrix};
use super::pool::ThreadPool;
use super::tensor::Tensor;

/// See [`crate::backend::Backend::head_linear`]. What `out` holds stays where no head writes.
pub fn head_linear(
    pool: &mut ThreadPool,
    scratch: &mut matmul::Scratch,
    w: &[Matrix],
    x: &Tensor,
    out: &mut Tensor,
) {
    let (rows, columns) = (x.rows(), out.columns());
    let out = out.set_rows(rows, columns);
    matmul::headed(pool, scratch, w, rows, x.values(), x.columns(), out, columns);
}
