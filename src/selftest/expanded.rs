//! Latent attention of steps that begin their sequences, over keys and values that a device expands
//! latents to: the write of the cache with the normed latents, the product with kv_b, its result as
//! keys and values, and attention_prefill of 192 dimensions for 128. The CPU does the same in the
//! latents' space, with the absorbed projections.

use super::paged::{Paged, Seq};
use super::side::{Output, Rng, Side, Tolerance};
use super::{Case, Runner};
use crate::backend::{Backend, BackendError, KvLayout, KvSpec, LatentLayout, RopeStyle};
use crate::checkpoint::{Dtype, TensorData};

/// Of the models that there are; others stay in the latents' space.
const NOPE_DIM: usize = 128;
const ROPE_DIM: usize = 64;
const V_DIM: usize = 128;

/// A layer's attention, for a step of whole sequences.
#[derive(Debug)]
struct Expanded {
    heads: usize,
    rank: usize,
    /// Of each sequence.
    rows: Vec<usize>,
    style: RopeStyle,
}

/// The layer before is another's.
const LAYER: usize = 1;

impl Expanded {
    fn layout(&self) -> LatentLayout {
        let &Self { heads, rank, .. } = self;
        LatentLayout { heads, rank, nope_dim: NOPE_DIM, rope_dim: ROPE_DIM, v_dim: V_DIM }
    }

    /// A matrix for each head, rows `rows` of its K and V, transposed or not.
    fn heads<B: Backend>(
        &self,
        side: &mut Side<'_, B>,
        kv_b: &[f32],
        rows: std::ops::Range<usize>,
        transposed: bool,
    ) -> Result<B::Heads, BackendError> {
        let (rank, of_head) = (self.rank, (NOPE_DIM + V_DIM) * self.rank);
        let matrices = kv_b.chunks_exact(of_head).map(|head| {
            let part = &head[rows.start * rank..rows.end * rank];
            let [m, n] = [part.len() / rank, rank];
            let matrix = match transposed {
                true => matrix(&(0..m * n).map(|i| part[i % m * n + i / m]).collect::<Vec<_>>(), n, m),
                false => matrix(part, m, n),
            };
            side.matrix(&[matrix], |_| true)
        });
        let matrices = matrices.collect::<Result<_, _>>()?;
        side.backend.heads(matrices)
    }
}

fn matrix(values: &[f32], rows: usize, columns: usize) -> TensorData<'static> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorData { name: "kv_b".into(), dtype: Dtype::F32, shape: vec![rows, columns], data: data.into() }
}

impl Case for Expanded {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let (layout, &Self { heads, rank, style, .. }) = (self.layout(), self);
        let seqs: Vec<Seq> = self.rows.iter().map(|&rows| Seq { context: rows, rows }).collect();
        let paged = Paged::new(&mut side.rng, &seqs);
        let spec = KvSpec {
            layers: 2,
            layout: KvLayout::Latent { rank, rope_dim: ROPE_DIM },
            dtype: side.backend.kv_dtype(false),
        };
        let mut kv = side.backend.kv_cache(&spec, paged.blocks)?;
        let step = paged.step();
        let rows = step.slots.len();
        // Keys and values of size 1.
        let values = side.rng.normals(heads * (NOPE_DIM + V_DIM) * rank, 1.0 / (rank as f32).sqrt());
        let values = side.rounded(values);
        let kv_b = side.matrix(&[matrix(&values, heads * (NOPE_DIM + V_DIM), rank)], |_| true)?;
        let k_b = self.heads(side, &values, 0..NOPE_DIM, true)?;
        let v_b = self.heads(side, &values, NOPE_DIM..NOPE_DIM + V_DIM, false)?;
        let norm = side.norm_weight(rank)?;
        let pairs = ROPE_DIM / 2;
        let frequencies: Vec<f32> = (0..pairs).map(|i| 1e4f32.powf(-(i as f32) / pairs as f32)).collect();
        let frequencies = side.vector(&frequencies)?;

        side.backend.begin(&step);
        let mut angles = side.backend.tensor_f32(rows, ROPE_DIM)?;
        side.backend.rope_angles(&frequencies, 1.0, &mut angles);
        let q = side.activations(rows, layout.q_dim(), 1.0)?;
        let latent = side.activations(rows, layout.entry_dim(), 1.0)?;
        let mut query = side.cached(rows, heads * layout.entry_dim(), 1.0)?;
        let mut out = side.activations(rows, heads * V_DIM, 1.0)?;
        side.backend
            .mla_rope_kv_write(&q, &latent, layout, &norm, 1e-6, &angles, style, &mut kv, LAYER, &mut query);
        // Scores have a deviation of 2, as in attention over heads.
        let scale = 2.0 / ((NOPE_DIM + ROPE_DIM) as f32).sqrt();
        let expands = side.backend.mla_expands(layout)
            && side.backend.mla_attention_expanded(&kv_b, &q, &query, layout, scale, &kv, LAYER, &mut out);
        if !expands {
            let mut attended = side.backend.tensor_cached(rows, heads * rank)?;
            side.backend.head_linear(&k_b, &q, &mut query);
            side.backend.mla_attention(&query, layout, scale, &kv, LAYER, &mut attended);
            side.backend.head_linear(&v_b, &attended, &mut out);
        }
        // A device that stays in the latents' space has not done what this is about.
        let taken = if side.exact || expands { 1.0 } else { 0.0 };
        let taken = Output { what: "expanded", columns: 1, values: vec![taken], tolerance: Tolerance::EXACT };
        // Keys and values are rounded to the type of activations, and the latents that they are made of
        // before: scores of deviation 2 by that much, and what is an average of values of size 1. Half
        // as much again as attention over heads, which rounds once.
        let unit = side.half_unit();
        Ok(vec![taken, side.output("out", &out, heads * V_DIM, Tolerance::new(unit, 9.0 * unit))?])
    }
}

pub fn expand(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    let mut check = |rng: &mut Rng, heads, rank, rows: &[usize]| {
        let style = rng.pick(&[RopeStyle::Half, RopeStyle::Interleaved]);
        runner.check(&Expanded { heads, rank, rows: rows.to_vec(), style })
    };
    // Around the ends of blocks and of items, alone and side by side.
    for rows in [2, 15, 16, 17, 63, 64, 65] {
        let (heads, rank) = (1 + rng.below(4), rng.pick(&[16, 32, 64]));
        check(&mut rng, heads, rank, &[rows])?;
    }
    for _ in 0..3 {
        let rows: Vec<usize> = (0..2 + rng.below(5)).map(|_| 2 + rng.below(50)).collect();
        let heads = 1 + rng.below(16);
        check(&mut rng, heads, 48, &rows)?;
    }
    let rows = [150 + rng.below(100), 2 + rng.below(20), 60 + rng.below(20)];
    check(&mut rng, 2, 128, &rows)?;
    let rows = [20 + rng.below(20), 3];
    check(&mut rng, 2, 512, &rows)?;
    match runner.large {
        true => runner.check(&Expanded {
            heads: 16,
            rank: 512,
            rows: vec![1500, 300, 17],
            style: RopeStyle::Interleaved,
        }),
        false => Ok(()),
    }
}
