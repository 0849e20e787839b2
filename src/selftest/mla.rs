//! Latent attention: projections per head, the write of the cache, decode, its splits, prefill.

use super::paged::{Paged, Seq};
use super::side::{F16_UNIT, F32_UNIT, Output, Rng, Side, Tolerance};
use super::weights::{size, weights};
use super::{Case, Runner, sink};
use crate::backend::{Backend, BackendError, Batch, KvLayout, KvSpec, LatentLayout, RopeStyle};
use crate::checkpoint::{Dtype, TensorData};
use half::bf16;

/// A matrix for each head, and columns that stay.
#[derive(Debug)]
struct HeadLinear {
    rows: usize,
    heads: usize,
    /// Inputs, and columns of a head's share of x.
    k: usize,
    x_stride: usize,
    /// Outputs, and columns of a head's share of out.
    n: usize,
    out_stride: usize,
    /// To the latent's space (queries), else from it (values).
    to_latent: bool,
    /// Whether weights are so small that most are below f16's normal numbers.
    small: bool,
}

impl Case for HeadLinear {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { rows, heads, k, x_stride, n, out_stride, to_latent, small } = *self;
        let mut stored: Vec<_> = (0..heads).map(|_| weights(&mut side.rng, Dtype::BF16, n, k)).collect();
        if small {
            stored.iter_mut().for_each(|matrix| times(matrix, 1.0 / 2048.0));
        }
        // They are rounded when they are loaded; the kernel multiplies them out of the subnormals.
        let matrices = stored.iter().map(|matrix| side.matrix(std::slice::from_ref(matrix), |_| false));
        let w = side.backend.heads(matrices.collect::<Result<_, _>>()?)?;
        let (x, mut out) = match to_latent {
            true => {
                (side.activations(rows, heads * x_stride, 1.0)?, side.cached(rows, heads * out_stride, 1.0)?)
            }
            false => {
                (side.cached(rows, heads * x_stride, 1.0)?, side.activations(rows, heads * out_stride, 1.0)?)
            }
        };
        side.backend.head_linear(&w, &x, &mut out);
        let terms = (k as f32).sqrt();
        // Weights below f16's normal numbers are rounded to a multiple of 2^-24 by f16 activations.
        let absolute = size(&stored[0]) * terms * 8.0 * F32_UNIT * terms + terms * 2.0 * F32_UNIT;
        let unit = if to_latent { F16_UNIT } else { side.half_unit() };
        Ok(vec![side.output("out", &out, heads * out_stride, Tolerance::new(unit, absolute))?])
    }
}

/// Makes a matrix in bf16 smaller by a power of two.
fn times(matrix: &mut TensorData<'_>, factor: f32) {
    for value in matrix.data.to_mut().chunks_exact_mut(2) {
        let scaled = bf16::from_le_bytes([value[0], value[1]]).to_f32() * factor;
        value.copy_from_slice(&bf16::from_f32(scaled).to_le_bytes());
    }
}

pub fn head_linear(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    let many = 17 + rng.below(100);
    for (heads, k, x_stride, n, out_stride) in [
        (8, 16, 32, 32, 48),
        (16, 128, 192, 512, 576),
        (4, 512, 512, 128, 128),
        (3, 8, 24, 24, 24),
        (20, 24, 40, 40, 48),
    ] {
        for (rows, to_latent) in [(1, true), (1 + rng.below(16), false), (many, true), (many + 40, false)] {
            let heads = if rows > 16 && k * n > 10_000 { 2 } else { heads };
            runner.check(&HeadLinear { rows, heads, k, x_stride, n, out_stride, to_latent, small: false })?;
        }
    }
    for rows in [3, 40] {
        let [heads, k, n] = [2, 512, 128];
        runner.check(&HeadLinear {
            rows,
            heads,
            k,
            x_stride: k,
            n,
            out_stride: n,
            to_latent: false,
            small: true,
        })?;
    }
    if runner.large {
        for to_latent in [true, false] {
            let (k, x_stride, n, out_stride) =
                if to_latent { (128, 192, 512, 576) } else { (512, 512, 128, 128) };
            runner.check(&HeadLinear {
                rows: 1000,
                heads: 16,
                k,
                x_stride,
                n,
                out_stride,
                to_latent,
                small: false,
            })?;
        }
    }
    Ok(())
}

/// A layer's latent attention for a step, over a cache that steps before have filled.
#[derive(Debug)]
struct LatentAttention {
    heads: usize,
    rank: usize,
    rope_dim: usize,
    nope_dim: usize,
    seqs: Vec<Seq>,
    style: RopeStyle,
    /// What q is multiplied with; where that leads beyond f16's range, attention says nothing.
    size: f32,
}

const LAYERS: usize = 2;
const LAYER: usize = 1;
const F16_MAX: f32 = 65504.0;

impl LatentAttention {
    fn layout(&self, heads: usize) -> LatentLayout {
        let Self { rank, nope_dim, rope_dim, .. } = *self;
        LatentLayout { heads, rank, nope_dim, rope_dim, v_dim: 0 }
    }

    /// Norms and rotates a step's latents and rotates its queries, of which the latent's part is random.
    fn write<B: Backend>(
        &self,
        side: &mut Side<'_, B>,
        heads: usize,
        vectors: (&B::Vector, &B::Vector),
        batch: &Batch,
        stale: impl Fn(usize) -> bool,
        kv: &mut B::KvCache,
    ) -> Result<B::Tensor, BackendError> {
        let (rows, layout) = (batch.slots.len(), self.layout(heads));
        side.backend.begin(batch);
        let mut angles = side.backend.tensor_f32(rows, self.rope_dim)?;
        side.backend.rope_angles(vectors.1, 1.0, &mut angles);
        let q = side.activations(rows, layout.q_dim(), self.size)?;
        let mut latents = side.rng.normals(rows * layout.entry_dim(), 1.0);
        for (row, latent) in latents.chunks_exact_mut(layout.entry_dim()).enumerate() {
            // Latents are normed: it is the keys that stand out where no sequence sees them any more.
            let key = if stale(row) { 50.0 } else { 1.0 };
            latent[self.rank..].iter_mut().for_each(|value| *value *= key);
        }
        let latent = side.activations_of(rows, layout.entry_dim(), latents)?;
        let mut query = side.cached(rows, heads * layout.entry_dim(), 1.0)?;
        let style = self.style;
        side.backend
            .mla_rope_kv_write(&q, &latent, layout, vectors.0, 1e-6, &angles, style, kv, LAYER, &mut query);
        Ok(query)
    }
}

impl Case for LatentAttention {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let layout = self.layout(self.heads);
        let paged = Paged::new(&mut side.rng, &self.seqs);
        let latent = KvLayout::Latent { rank: self.rank, rope_dim: self.rope_dim };
        let spec = KvSpec { layers: LAYERS, layout: latent, dtype: side.backend.kv_dtype(false) };
        let mut kv = side.backend.kv_cache(&spec, paged.blocks)?;
        let norm = side.norm_weight(self.rank)?;
        let pairs = self.rope_dim / 2;
        let frequencies: Vec<f32> = (0..pairs).map(|i| 1e4f32.powf(-(i as f32) / pairs as f32)).collect();
        let vectors = (&norm, &side.vector(&frequencies)?);
        let filled = paged.filled();
        // The heads' queries are of no use here.
        self.write(side, 1, vectors, &paged.fill(), |row| !filled[row], &mut kv)?;
        let step = paged.step();
        let query = self.write(side, self.heads, vectors, &step, |_| false, &mut kv)?;
        let columns = self.heads * layout.entry_dim();
        let mut written = side.output("query", &query, columns, Tolerance::new(F16_UNIT, 1e-5))?;
        if self.size > 1.0 {
            written.values.iter_mut().for_each(|value| *value = value.clamp(-F16_MAX, F16_MAX));
            return Ok(vec![written]);
        }
        let mut out = side.backend.tensor_cached(step.slots.len(), self.heads * self.rank)?;
        let scale = 2.0 / (layout.entry_dim() as f32).sqrt();
        side.backend.mla_attention(&query, layout, scale, &kv, LAYER, &mut out);
        // As attention over heads.
        let tolerance = Tolerance::new(F16_UNIT, 6.0 * F16_UNIT);
        Ok(vec![written, side.output("out", &out, self.heads * self.rank, tolerance)?])
    }
}

fn latent(
    rng: &mut Rng,
    (rank, rope_dim): (usize, usize),
    heads: usize,
    seqs: &[(usize, usize)],
) -> LatentAttention {
    let seqs = seqs.iter().map(|&(context, rows)| Seq { context, rows }).collect();
    let style = rng.pick(&[RopeStyle::Half, RopeStyle::Interleaved]);
    LatentAttention { heads, rank, rope_dim, nope_dim: rng.pick(&[8, 16, 64]), seqs, style, size: 1.0 }
}

/// Ranks and rotary dimensions: of each bucket of the kernels, at its end and within it.
const SHAPES: [(usize, usize); 7] = [(512, 64), (16, 8), (32, 16), (96, 24), (128, 64), (144, 8), (256, 40)];

pub fn kv_write(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for shape in SHAPES {
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            let heads = rng.pick(&[1, 5, 16, 20]);
            let case = latent(&mut rng, shape, heads, &[(3, 3), (9, 1)]);
            runner.check(&LatentAttention { style, ..case })?;
        }
    }
    let case = latent(&mut rng, (512, 64), 128, &[(2, 1)]);
    runner.check(&case)?;
    // Beyond f16: an outlier is not an infinity.
    let case = latent(&mut rng, (64, 16), 8, &[(4, 3)]);
    runner.check(&LatentAttention { size: 30_000.0, ..case })
}

pub fn decode(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for shape in SHAPES {
        for heads in [1 + rng.below(8), 16, 17 + rng.below(40)] {
            let contexts = [1, rng.pick(&[15, 16, 17]), 2 + rng.below(60), rng.pick(&[31, 33, 100])];
            let case = latent(&mut rng, shape, heads, &contexts.map(|context| (context, 1)));
            runner.check(&case)?;
        }
    }
    let case = latent(&mut rng, (512, 64), 128, &[(49, 1)]);
    runner.check(&case)?;
    sink::latents_decode(runner)
}

pub fn reduce(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for shape in [(512, 64), (32, 16), (128, 16), (256, 40)] {
        let heads = rng.pick(&[1, 4, 9, 16, 20]);
        let contexts = [257 + rng.below(260), 1 + rng.below(256), rng.pick(&[256, 257, 512, 513])];
        let case = latent(&mut rng, shape, heads, &contexts.map(|context| (context, 1)));
        runner.check(&case)?;
    }
    if runner.large {
        let contexts: Vec<(usize, usize)> = (0..8).map(|_| (1 + rng.below(4000), 1)).collect();
        let case = latent(&mut rng, (512, 64), 16, &contexts);
        runner.check(&case)?;
    }
    Ok(())
}

pub fn prefill(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for shape in SHAPES {
        let few = 2 + rng.below(5);
        let seqs = [(few, few), (18 + rng.below(30), 3), (20, 1)];
        let case = latent(&mut rng, shape, 16, &seqs);
        runner.check(&case)?;
        let heads = rng.pick(&[1, 4, 12, 20]);
        let rows = 2 + rng.below(if shape.0 > 128 { 12 } else { 30 });
        let seqs = [(rows + rng.pick(&[0, 16, 21]), rows)];
        let case = latent(&mut rng, shape, heads, &seqs);
        runner.check(&case)?;
    }
    // More rows than an item has.
    let case = latent(&mut rng, (32, 16), 2, &[(90, 70)]);
    runner.check(&case)?;
    if runner.large {
        let case = latent(&mut rng, (512, 64), 16, &[(1500, 1000), (300, 300), (900, 1)]);
        runner.check(&case)?;
    }
    sink::latents_prefill(runner)
}
