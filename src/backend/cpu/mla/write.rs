//! The rotary part of latent attention: a row's latent is normed, its shared key rotated, both
//! written to the cache; the rotated parts of its q go to their columns of the absorbed query.

use super::super::kv::Element;
use super::super::norm::rms_norm;
use super::super::pool::ThreadPool;
use super::super::rope::{all_distinct, rotate};
use super::super::simd::{Isa, Kernel, Simd};
use super::super::tensor::{Tensor, Vector};
use super::cache::{LatentCache, MAX_ENTRY_DIM, Writer};
use crate::backend::{KvDtype, KvLayout, LatentLayout, RopeStyle};

/// See [`crate::backend::Backend::mla_rope_kv_write`].
#[allow(clippy::too_many_arguments)]
pub fn rope_kv_write(
    pool: &mut ThreadPool,
    isa: Isa,
    q: &Tensor,
    latent: &Tensor,
    layout: LatentLayout,
    norm: &Vector,
    eps: f32,
    angles: &Tensor,
    style: RopeStyle,
    slots: &[u32],
    kv: &mut LatentCache,
    layer: usize,
    query: &mut Tensor,
) {
    let (rows, LatentLayout { rank, rope_dim, .. }) = (q.rows(), layout);
    assert_eq!(q.columns(), layout.q_dim(), "columns of the q rows");
    assert_eq!(latent.columns(), layout.entry_dim(), "columns of the latent rows");
    assert_eq!(KvLayout::Latent { rank, rope_dim }, kv.spec().layout, "the cache's entries");
    assert_eq!(angles.columns(), rope_dim, "the rotary dimensions");
    assert_eq!(norm.values().len(), rank, "the latent norm's weight");
    let counts = [latent.rows(), angles.rows(), slots.len()];
    assert_eq!(counts, [rows; 3], "latents, angles and slots for each row");
    debug_assert!(all_distinct(slots), "a slot occurs twice");
    query.set_rows(rows, layout.heads * layout.entry_dim());
    let job = Job { q, latent, layout, norm: norm.values(), eps, angles, style, slots };
    match kv.spec().dtype {
        KvDtype::F32 => run(pool, isa, job, kv.writer::<f32>(layer), query),
        KvDtype::F16 => run(pool, isa, job, kv.writer::<u16>(layer), query),
    }
}

#[derive(Clone, Copy)]
struct Job<'a> {
    q: &'a Tensor,
    latent: &'a Tensor,
    layout: LatentLayout,
    norm: &'a [f32],
    eps: f32,
    angles: &'a Tensor,
    style: RopeStyle,
    slots: &'a [u32],
}

fn run<E: Element>(pool: &mut ThreadPool, isa: Isa, job: Job<'_>, writer: Writer<'_, E>, query: &mut Tensor) {
    // About two values a nanosecond.
    let row_ns = (job.layout.heads * job.layout.rope_dim + job.layout.entry_dim()) / 2;
    pool.for_rows(query.rows(), row_ns, [query.values_mut()], |first, [query]| {
        isa.run(Rows { query, first, job, writer: &writer });
    });
}

struct Rows<'a, E> {
    query: &'a mut [f32],
    first: usize,
    job: Job<'a>,
    writer: &'a Writer<'a, E>,
}

impl<E: Element> Kernel for Rows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Job { q, latent, layout, norm, eps, angles, style, slots } = self.job;
        let LatentLayout { heads, rank, nope_dim, rope_dim, .. } = layout;
        let entry_dim = layout.entry_dim();
        for (i, query) in self.query.chunks_exact_mut(heads * entry_dim).enumerate() {
            let row = self.first + i;
            let (cos, sin) = angles.values()[row * rope_dim..][..rope_dim].split_at(rope_dim / 2);
            let q = &q.values()[row * layout.q_dim()..][..layout.q_dim()];
            for (query, q) in query.chunks_exact_mut(entry_dim).zip(q.chunks_exact(nope_dim + rope_dim)) {
                query[rank..].copy_from_slice(&q[nope_dim..]);
                rotate(&mut query[rank..], cos, sin, style);
            }
            let mut entry = [0.0; MAX_ENTRY_DIM];
            let entry = &mut entry[..entry_dim];
            entry.copy_from_slice(&latent.values()[row * entry_dim..][..entry_dim]);
            let (latent, key) = entry.split_at_mut(rank);
            rms_norm(latent, norm, eps);
            rotate(key, cos, sin, style);
            // SAFETY: this task alone has this row, and no slot occurs twice in a batch.
            unsafe { self.writer.write(s, slots[row], entry) };
        }
    }
}
