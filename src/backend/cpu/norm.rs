//! RMSNorm (Zhang & Sennrich 2019), of rows and of heads. Reads and writes each value once or
//! twice; bound by memory.

use super::group::Member;
use super::pool::ThreadPool;
use super::simd::{Isa, Kernel, LANES, Simd, sum_lanes};
use super::tensor::{Tensor, Vector};
use crate::backend::HeadLayout;

/// residual += delta; out = residual / rms(residual) * weight, row by row.
pub fn add_rms_norm(
    pool: &mut ThreadPool,
    isa: Isa,
    residual: &mut Tensor,
    delta: Option<&Tensor>,
    weight: &Vector,
    eps: f32,
    out: &mut Tensor,
) {
    let (rows, columns) = (residual.rows(), residual.columns());
    let weight = weight.values();
    assert_eq!(weight.len(), columns, "columns of a norm's weight");
    if let Some(delta) = delta {
        assert_eq!((delta.rows(), delta.columns()), (rows, columns), "shape of what is added");
    }
    let out = out.set_rows(rows, columns);
    // About four values a nanosecond from the second-level cache.
    pool.for_rows(rows, columns / 4 + 1, [residual.values_mut(), out], |first, [residual, out]| {
        let delta = delta.map(|d| &d.values()[first * columns..][..residual.len()]);
        isa.run(Rows { residual, delta, weight, eps, out });
    });
}

struct Rows<'a> {
    residual: &'a mut [f32],
    delta: Option<&'a [f32]>,
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let columns = self.weight.len();
        if let Some(delta) = self.delta {
            for (r, d) in self.residual.iter_mut().zip(delta) {
                *r += d;
            }
        }
        for (x, out) in self.residual.chunks_exact(columns).zip(self.out.chunks_exact_mut(columns)) {
            let scale = inverse_rms(x, self.eps);
            for ((out, x), w) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * w;
            }
        }
    }
}

/// x = x / rms(x) * weight, in place.
#[inline(always)]
pub fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    let scale = inverse_rms(x, eps);
    for (x, w) in x.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
}

/// 1 / sqrt(mean of squares + eps). Lane i sums the squares of values i, i + 16, i + 32...
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane += x * x;
    }
    1.0 / (sum_lanes(lanes) / x.len() as f32 + eps).sqrt()
}

/// See [`crate::backend::Backend::joint_qk_norm`].
#[allow(clippy::too_many_arguments)]
pub fn joint_qk_norm(
    _pool: &mut ThreadPool,
    _isa: Isa,
    _group: &mut Member,
    _qkv: &mut Tensor,
    _heads: HeadLayout,
    _q_norm: &Vector,
    _k_norm: &Vector,
    _eps: f32,
) {
    todo!()
}
