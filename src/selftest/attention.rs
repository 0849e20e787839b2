//! Attention with keys and values per head: the write of the cache, decode, its splits, prefill.

use super::paged::{Paged, Seq};
use super::side::{F16_UNIT, Output, Rng, Side, Tolerance};
use super::{Case, Runner, sink};
use crate::backend::{Backend, BackendError, Batch, HeadLayout, KvLayout, KvSpec, RopeStyle};

/// Head dimensions that there are kernels for.
const HEAD_DIMS: [usize; 7] = [16, 32, 64, 80, 96, 128, 256];

/// A layer's attention for a step, over a cache that steps before have filled.
#[derive(Debug)]
struct Attention {
    heads: HeadLayout,
    seqs: Vec<Seq>,
    window: Option<usize>,
    rotary_dim: usize,
    style: RopeStyle,
    norms: bool,
    /// Whether the blocks are copied before the step.
    moved: bool,
}

/// Layers of the cache; the first one is another's.
const LAYERS: usize = 2;
const LAYER: usize = 1;

impl Attention {
    /// Rotates a step's rows, and writes k and v. `heads` of q, which the cache does not depend on.
    fn write<B: Backend>(
        &self,
        side: &mut Side<'_, B>,
        heads: usize,
        [q_norm, k_norm, frequencies]: &[B::Vector; 3],
        batch: &Batch,
        size: impl Fn(usize) -> f32,
        kv: &mut B::KvCache,
    ) -> Result<B::Tensor, BackendError> {
        let heads = HeadLayout { heads, ..self.heads };
        let (rows, columns) = (batch.slots.len(), heads.qkv_dim());
        side.backend.begin(batch);
        let mut angles = side.backend.tensor_f32(rows, self.rotary_dim)?;
        side.backend.rope_angles(frequencies, 1.0, &mut angles);
        let mut values = side.rng.normals(rows * columns, 1.0);
        for (row, values) in values.chunks_exact_mut(columns).enumerate() {
            values.iter_mut().for_each(|value| *value *= size(row));
        }
        let mut qkv = side.activations_of(rows, columns, values)?;
        let norms = self.norms.then_some((q_norm, k_norm, 1e-6));
        side.backend.rope_kv_write(&mut qkv, heads, norms, &angles, self.style, kv, LAYER);
        Ok(qkv)
    }
}

impl Case for Attention {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let HeadLayout { kv_heads, head_dim, .. } = self.heads;
        let paged = Paged::new(&mut side.rng, &self.seqs);
        let layout = KvLayout::Heads { kv_heads, head_dim };
        let spec = KvSpec { layers: LAYERS, layout, dtype: side.backend.kv_dtype(false) };
        let mut kv = side.backend.kv_cache(&spec, paged.blocks * if self.moved { 2 } else { 1 })?;
        let pairs = self.rotary_dim / 2;
        let frequencies: Vec<f32> = (0..pairs).map(|i| 1e4f32.powf(-(i as f32) / pairs as f32)).collect();
        let vectors = [side.norm_weight(head_dim)?, side.norm_weight(head_dim)?, side.vector(&frequencies)?];
        let filled = paged.filled();
        // What no sequence sees any more stands out.
        let size = |row: usize| if filled[row] { 1.0 } else { 12.0 };
        self.write(side, kv_heads, &vectors, &paged.fill(), size, &mut kv)?;
        let mut step = paged.step();
        if self.moved {
            let (pairs, moved) = paged.moved();
            side.backend.copy_blocks(&mut kv, &pairs);
            step = moved.step();
        }
        let qkv = self.write(side, self.heads.heads, &vectors, &step, |_| 1.0, &mut kv)?;
        let mut out = side.backend.tensor(step.slots.len(), self.heads.q_dim())?;
        // Scores have a deviation of 2: a few positions matter much, all some.
        let scale = 2.0 / (head_dim as f32).sqrt();
        side.backend.attention(&qkv, self.heads, scale, self.window, &kv, LAYER, &mut out);
        // Queries, keys and weights are rounded to f16: scores of deviation 2 by that much, what is an
        // average of values of size 1.
        let tolerance = Tolerance::new(side.half_unit(), 6.0 * F16_UNIT);
        Ok(vec![side.output("out", &out, self.heads.q_dim(), tolerance)?])
    }
}

/// kv heads and query heads for each.
fn grouped(rng: &mut Rng, head_dim: usize) -> HeadLayout {
    let group = rng.pick(&[1, 2, 3, 4, 5, 7, 8, 12, 16]);
    let kv_heads = 1 + rng.below(if group > 4 { 2 } else { 4 });
    HeadLayout { heads: kv_heads * group, kv_heads, head_dim }
}

fn attention(rng: &mut Rng, heads: HeadLayout, seqs: Vec<Seq>, window: Option<usize>) -> Attention {
    let style = rng.pick(&[RopeStyle::Half, RopeStyle::Interleaved]);
    let rotary_dim = rng.pick(&[heads.head_dim, heads.head_dim / 2]);
    Attention { heads, seqs, window, rotary_dim, style, norms: rng.coin(), moved: false }
}

fn window(rng: &mut Rng) -> Option<usize> {
    rng.coin().then(|| rng.pick(&[1, 7, 16, 33, 100, 300]))
}

/// Sequences of a row each.
fn decodes(contexts: &[usize]) -> Vec<Seq> {
    contexts.iter().map(|&context| Seq { context, rows: 1 }).collect()
}

/// Every head dimension, style and choice of norms, over contexts so short that each position counts.
pub fn rope_kv_write(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for head_dim in HEAD_DIMS {
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            let heads = grouped(&mut rng, head_dim);
            let rotary_dim = rng.pick(&[head_dim, head_dim / 2, head_dim / 4, 6]);
            let seqs = vec![
                Seq { context: 1 + rng.below(20), rows: 1 },
                Seq { context: 3 + rng.below(16), rows: 3 },
            ];
            runner.check(&Attention {
                heads,
                seqs,
                window: None,
                rotary_dim,
                style,
                norms: rng.coin(),
                moved: false,
            })?;
        }
    }
    // More heads than a block takes, of few values.
    for (heads, kv_heads, head_dim) in [(64, 8, 16), (40, 40, 32), (96, 6, 64), (48, 8, 128), (20, 5, 256)] {
        let heads = HeadLayout { heads, kv_heads, head_dim };
        let case = attention(&mut rng, heads, vec![Seq { context: 5, rows: 2 }], None);
        runner.check(&case)?;
    }
    Ok(())
}

/// Single rows, in one split.
pub fn decode(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for head_dim in HEAD_DIMS {
        let heads = grouped(&mut rng, head_dim);
        let contexts = [1, rng.pick(&[15, 16, 17]), 2 + rng.below(200), rng.pick(&[31, 33, 255, 256])];
        let window = window(&mut rng);
        let case = attention(&mut rng, heads, decodes(&contexts), window);
        runner.check(&case)?;
    }
    for group in [1, 7, 12, 16] {
        let heads = HeadLayout { heads: 2 * group, kv_heads: 2, head_dim: rng.pick(&[64, 128]) };
        let seqs = decodes(&[40, 3 + rng.below(100)]);
        let case = attention(&mut rng, heads, seqs, None);
        runner.check(&case)?;
    }
    sink::heads_decode(runner)
}

/// Single rows of several splits, 256 positions each.
pub fn reduce(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for head_dim in HEAD_DIMS {
        let heads = grouped(&mut rng, head_dim);
        let contexts = [257 + rng.below(300), rng.pick(&[1, 255, 256]), rng.pick(&[257, 512, 513])];
        let window = rng.coin().then(|| rng.pick(&[200, 257, 300, 513]));
        let case = attention(&mut rng, heads, decodes(&contexts), window);
        runner.check(&case)?;
    }
    // Wider than a block of the reduction.
    let heads = HeadLayout { heads: 40, kv_heads: 4, head_dim: 128 };
    let seqs = decodes(&[300 + rng.below(20)]);
    let case = attention(&mut rng, heads, seqs, None);
    runner.check(&case)?;
    if runner.large {
        let heads = HeadLayout { heads: 32, kv_heads: 8, head_dim: 128 };
        let contexts: Vec<usize> = (0..16).map(|_| 1 + rng.below(4000)).collect();
        let case = attention(&mut rng, heads, decodes(&contexts), None);
        runner.check(&case)?;
    }
    Ok(())
}

/// Chunks of prompts, with decodes between them.
pub fn prefill(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for head_dim in HEAD_DIMS {
        for _ in 0..2 {
            let heads = grouped(&mut rng, head_dim);
            let first = 2 + rng.below(90);
            let second = 2 + rng.below(20);
            let seqs = vec![
                Seq { context: first + rng.pick(&[0, 0, 16, 5, 100]), rows: first },
                Seq { context: 1 + rng.below(40), rows: 1 },
                Seq { context: second + rng.below(130), rows: second },
            ];
            let window = window(&mut rng);
            let case = attention(&mut rng, heads, seqs, window);
            runner.check(&case)?;
        }
    }
    for group in [1, 7, 12, 16] {
        let heads = HeadLayout { heads: group, kv_heads: 1, head_dim: rng.pick(&[64, 128]) };
        let rows = 100 + rng.below(60);
        let seqs = vec![Seq { context: rows + rng.below(50), rows }];
        let case = attention(&mut rng, heads, seqs, None);
        runner.check(&case)?;
    }
    if runner.large {
        let heads = HeadLayout { heads: 32, kv_heads: 8, head_dim: 128 };
        let seqs = vec![
            Seq { context: 3000, rows: 2000 },
            Seq { context: 700, rows: 1 },
            Seq { context: 513, rows: 513 },
        ];
        let case = attention(&mut rng, heads, seqs, None);
        runner.check(&case)?;
    }
    sink::heads_prefill(runner)
}

/// Blocks of all layers, of several sizes.
pub fn block_copy(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for head_dim in [16, 80, 256] {
        let heads = grouped(&mut rng, head_dim);
        let seqs = vec![Seq { context: 20 + rng.below(60), rows: 1 }, Seq { context: 9, rows: 3 }];
        let case = attention(&mut rng, heads, seqs, None);
        runner.check(&Attention { moved: true, ..case })?;
    }
    Ok(())
}
