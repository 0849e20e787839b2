//! Rotary embedding (Su et al. 2021) of q and k, with the per-head RMSNorm before it that Qwen3
//! has, and the write of k and v to the cache: one pass over each qkv row.

use super::kv::{Element, KvCache, Writer};
use super::norm::rms_norm;
use super::pool::ThreadPool;
use super::simd::{Isa, Kernel, Simd};
use super::tensor::{Tensor, Vector};
use crate::backend::{HeadLayout, KvDtype, KvLayout, RopeStyle};

/// The weights of q's and k's norm, and its epsilon.
type Norms<'a> = Option<(&'a Vector, &'a Vector, f32)>;

/// `out[r]` = cos then sin of `positions[r] * inv_freq`, both times `scale`; all in f32, as
/// transformers does.
pub fn rope_angles(
    pool: &mut ThreadPool,
    inv_freq: &Vector,
    scale: f32,
    positions: &[u32],
    out: &mut Tensor,
) {
    let inv_freq = inv_freq.values();
    let columns = 2 * inv_freq.len();
    let out = out.set_rows(positions.len(), columns);
    // Twenty nanoseconds for a sine and a cosine.
    pool.for_rows(positions.len(), 10 * columns, [out], |first, [out]| {
        for (row, &position) in out.chunks_exact_mut(columns).zip(&positions[first..]) {
            let (cos, sin) = row.split_at_mut(inv_freq.len());
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let (s, c) = (position as f32 * frequency).sin_cos();
                (*cos, *sin) = (c * scale, s * scale);
            }
        }
    });
}

/// See [`crate::backend::Backend::rope_kv_write`].
#[allow(clippy::too_many_arguments)]
pub fn rope_kv_write(
    pool: &mut ThreadPool,
    isa: Isa,
    qkv: &mut Tensor,
    heads: HeadLayout,
    norms: Norms<'_>,
    angles: &Tensor,
    style: RopeStyle,
    slots: &[u32],
    kv: &mut KvCache,
    layer: usize,
) {
    let (rows, spec) = (qkv.rows(), kv.spec());
    assert_eq!(qkv.columns(), heads.qkv_dim(), "columns of the qkv rows");
    let layout = KvLayout::Heads { kv_heads: heads.kv_heads, head_dim: heads.head_dim };
    assert_eq!(layout, spec.layout, "the cache's heads");
    assert_eq!((angles.rows(), slots.len()), (rows, rows), "angles and slots for each row");
    assert!(
        angles.columns() <= heads.head_dim && angles.columns().is_multiple_of(2),
        "the rotary dimensions"
    );
    for weight in norms.iter().flat_map(|(q, k, _)| [q, k]) {
        assert_eq!(weight.values().len(), heads.head_dim, "a head norm's weight");
    }
    debug_assert!(all_distinct(slots), "a slot occurs twice");
    let job = Job { heads, norms, angles, style, slots };
    match spec.dtype {
        KvDtype::F32 => run(pool, isa, qkv, job, kv.writer::<f32>(layer)),
        KvDtype::F16 => run(pool, isa, qkv, job, kv.writer::<u16>(layer)),
    }
}

pub(super) fn all_distinct(slots: &[u32]) -> bool {
    let mut slots = slots.to_vec();
    slots.sort_unstable();
    slots.is_sorted_by(|a, b| a < b)
}

#[derive(Clone, Copy)]
struct Job<'a> {
    heads: HeadLayout,
    norms: Norms<'a>,
    angles: &'a Tensor,
    style: RopeStyle,
    slots: &'a [u32],
}

fn run<E: Element>(pool: &mut ThreadPool, isa: Isa, qkv: &mut Tensor, job: Job<'_>, writer: Writer<'_, E>) {
    let (rows, columns) = (qkv.rows(), qkv.columns());
    // About two values a nanosecond.
    pool.for_rows(rows, columns / 2, [qkv.values_mut()], |first, [qkv]| {
        isa.run(Rows { qkv, first, job, writer: &writer });
    });
}

struct Rows<'a, E> {
    qkv: &'a mut [f32],
    first: usize,
    job: Job<'a>,
    writer: &'a Writer<'a, E>,
}

impl<E: Element> Kernel for Rows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Job { heads, norms, angles, style, slots } = self.job;
        let (head_dim, rotary_dim) = (heads.head_dim, angles.columns());
        for (i, row) in self.qkv.chunks_exact_mut(heads.qkv_dim()).enumerate() {
            let row_index = self.first + i;
            let (cos, sin) = angles.values()[row_index * rotary_dim..][..rotary_dim].split_at(rotary_dim / 2);
            let (q, kv) = row.split_at_mut(heads.q_dim());
            let (k, v) = kv.split_at_mut(heads.kv_heads * head_dim);
            for (x, weight) in [(q, norms.map(|n| n.0)), (&mut *k, norms.map(|n| n.1))] {
                for head in x.chunks_exact_mut(head_dim) {
                    if let (Some(weight), Some((.., eps))) = (weight, norms) {
                        rms_norm(head, weight.values(), eps);
                    }
                    rotate(&mut head[..rotary_dim], cos, sin, style);
                }
            }
            for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
                // SAFETY: this task alone has this row, and no slot occurs twice in a batch.
                unsafe { self.writer.write(s, slots[row_index], head, k, v) };
            }
        }
    }
}

/// Turns each pair of dimensions by its angle.
#[inline(always)]
pub fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle) {
    let turn = |a: &mut f32, b: &mut f32, cos: f32, sin: f32| {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    };
    match style {
        RopeStyle::Half => {
            let (a, b) = x.split_at_mut(cos.len());
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                turn(a, b, *cos, *sin);
            }
        }
        RopeStyle::Interleaved => {
            for (([a, b], cos), sin) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                turn(a, b, *cos, *sin);
            }
        }
    }
}
