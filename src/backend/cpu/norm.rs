//! RMSNorm (Zhang & Sennrich 2019), of rows, of heads, and of heads over several ranks. Reads and writes each value once or
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

/// 1 / sqrt(mean of squares + eps).
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt()
}

/// Lane i sums the squares of values i, i + 16, i + 32...
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
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
    sum_lanes(lanes)
}

/// Rows whose sums go to the other ranks together; their room is on the stack.
const ROWS_PER_REDUCE: usize = 1024;

/// In place on q and k of each row: RMSNorm over all ranks' q, and over all their k. See
/// [`crate::backend::Backend::joint_qk_norm`].
#[allow(clippy::too_many_arguments)]
pub fn joint_qk_norm(
    pool: &mut ThreadPool,
    isa: Isa,
    group: &mut Member,
    qkv: &mut Tensor,
    heads: HeadLayout,
    q_norm: &Vector,
    k_norm: &Vector,
    eps: f32,
) {
    let (q_dim, k_dim) = (heads.q_dim(), heads.kv_heads * heads.head_dim);
    let weights = [q_norm.values(), k_norm.values()];
    assert_eq!(qkv.columns(), heads.qkv_dim(), "columns of a fused qkv");
    assert_eq!(weights.map(<[f32]>::len), [q_dim, k_dim], "lengths of the weights of q and k");
    let columns = qkv.columns();
    for part in qkv.values_mut().chunks_mut(ROWS_PER_REDUCE * columns) {
        let rows = part.len() / columns;
        // Of each row q's sum of squares and k's, then how many values each of them has. Heads
        // that several ranks hold count as often in both, which leaves the mean as it is.
        let mut sums = [0.0; 2 * ROWS_PER_REDUCE + 2];
        let sums = &mut sums[..2 * rows + 2];
        sums[2 * rows..].copy_from_slice(&[q_dim as f32, k_dim as f32]);
        // About eight values a nanosecond from the second-level cache, four with the writes.
        let row_ns = (q_dim + k_dim) / 4 + 1;
        pool.for_rows(rows, row_ns / 2 + 1, [&mut sums[..2 * rows]], |first, [sums]| {
            let qkv = &part[first * columns..][..sums.len() / 2 * columns];
            isa.run(JointSums { qkv, columns, dims: [q_dim, k_dim], sums });
        });
        group.all_reduce(sums);
        let (sums, counts) = sums.split_at(2 * rows);
        pool.for_rows(rows, row_ns, [part], |first, [qkv]| {
            let sums = &sums[2 * first..];
            isa.run(JointScale { qkv, columns, sums, counts, weights, eps });
        });
    }
}

struct JointSums<'a> {
    qkv: &'a [f32],
    columns: usize,
    dims: [usize; 2],
    sums: &'a mut [f32],
}

impl Kernel for JointSums<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let [q_dim, k_dim] = self.dims;
        for (row, sums) in self.qkv.chunks_exact(self.columns).zip(self.sums.chunks_exact_mut(2)) {
            sums[0] = sum_of_squares(&row[..q_dim]);
            sums[1] = sum_of_squares(&row[q_dim..][..k_dim]);
        }
    }
}

struct JointScale<'a> {
    qkv: &'a mut [f32],
    columns: usize,
    sums: &'a [f32],
    counts: &'a [f32],
    weights: [&'a [f32]; 2],
    eps: f32,
}

impl Kernel for JointScale<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (mut row, sums) in self.qkv.chunks_exact_mut(self.columns).zip(self.sums.chunks_exact(2)) {
            for ((weight, sum), count) in self.weights.iter().zip(sums).zip(self.counts) {
                let scale = 1.0 / (sum / count + self.eps).sqrt();
                let (x, rest) = row.split_at_mut(weight.len());
                for (x, w) in x.iter_mut().zip(*weight) {
                    *x = *x * scale * w;
                }
                row = rest;
            }
        }
    }
}
