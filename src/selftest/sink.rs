//! Attention with a sink: one position whose score is far above all others', as models learn it for a
//! sequence's first token, with little in its value. What counts are then weights that are small, each of
//! them below f16's normal numbers, and many: MI200's matrix instructions take such an operand for zero.

use super::side::{F16_UNIT, Output, Side, Tolerance};
use super::{Case, Runner};
use crate::backend::KV_BLOCK_TOKENS;
use crate::backend::{
    Backend, BackendError, Batch, HeadLayout, KvLayout, KvSpec, LatentLayout, RopeStyle, SeqSpan,
};

/// How far the sink's score is above the others' mean: e^-10.5 is 2^-15.1.
const NATS: f32 = 10.5;
/// A query's value at the dimension at which the sink's key is `NATS`.
const QUERY: f32 = 4.0;

/// A sequence whose first position is the sink. All blocks between its first and its last are one block.
#[derive(Clone, Copy, Debug)]
struct Sink {
    context: usize,
    /// The step's, in the last block.
    rows: usize,
}

impl Sink {
    /// Blocks of the cache: the sink's, the one in between, the last.
    const BLOCKS: usize = 3;

    /// A step that writes all slots.
    fn fill() -> Batch {
        let slots: Vec<u32> = (0..(Self::BLOCKS * KV_BLOCK_TOKENS) as u32).collect();
        Batch { tokens: vec![0; slots.len()], positions: slots.clone(), slots, ..Batch::default() }
    }

    /// The step itself.
    fn step(&self) -> Batch {
        let &Self { context, rows } = self;
        let blocks = context.div_ceil(KV_BLOCK_TOKENS);
        let offset = (context - rows) % KV_BLOCK_TOKENS;
        assert!(offset + rows <= KV_BLOCK_TOKENS && blocks >= 2, "the step's rows are in a last block");
        let mut block_tables = vec![1; blocks];
        (block_tables[0], block_tables[blocks - 1]) = (0, 2);
        let first = (2 * KV_BLOCK_TOKENS + offset) as u32;
        Batch {
            tokens: vec![0; rows],
            positions: ((context - rows) as u32..context as u32).collect(),
            slots: (first..first + rows as u32).collect(),
            seqs: vec![SeqSpan { row: 0, rows, context, table: 0 }],
            block_tables,
            ..Batch::default()
        }
    }

    /// The sink's weight is nearly 1; all others' together are this, where their scores have a deviation of a half.
    fn others(&self) -> f32 {
        (self.context - 1) as f32 * (0.125 - NATS).exp()
    }

    /// Of results that are `others` and a little of the sink: weights are rounded to f16, and scores are
    /// made of values that are.
    fn tolerance(&self, unit: f32) -> Tolerance {
        Tolerance::new(unit, 6.0 * F16_UNIT * (self.others().min(1.0) + 1.0 / 64.0))
    }
}

/// With keys and values per head.
#[derive(Debug)]
struct OverHeads {
    sink: Sink,
    heads: HeadLayout,
}

impl OverHeads {
    /// The last dimension of a head, which is not rotated, makes the sink.
    fn write<B: Backend>(
        &self,
        side: &mut Side<'_, B>,
        frequencies: &B::Vector,
        batch: &Batch,
        kv: &mut B::KvCache,
    ) -> Result<B::Tensor, BackendError> {
        let HeadLayout { heads, kv_heads, head_dim } = self.heads;
        let rows = batch.slots.len();
        side.backend.begin(batch);
        let mut angles = side.backend.tensor_f32(rows, head_dim / 2)?;
        side.backend.rope_angles(frequencies, 1.0, &mut angles);
        let mut values = side.rng.normals(rows * self.heads.qkv_dim(), 1.0);
        for (row, values) in values.chunks_exact_mut(self.heads.qkv_dim()).enumerate() {
            let sink = batch.slots[row] == 0;
            for (head, values) in values.chunks_exact_mut(head_dim).enumerate() {
                if head < heads {
                    values[head_dim - 1] = QUERY;
                } else if head < heads + kv_heads {
                    values.iter_mut().for_each(|value| *value *= 0.25);
                    values[head_dim - 1] = if sink { NATS / (QUERY * self.scale()) } else { 0.0 };
                } else {
                    let value = |value: f32| if sink { value / 64.0 } else { 1.0 + value / 4.0 };
                    values.iter_mut().for_each(|x| *x = value(*x));
                }
            }
        }
        let mut qkv = side.activations_of(rows, self.heads.qkv_dim(), values)?;
        side.backend.rope_kv_write(&mut qkv, self.heads, None, &angles, RopeStyle::Half, kv, 0);
        Ok(qkv)
    }

    /// Scores of the others have a deviation of a half.
    fn scale(&self) -> f32 {
        2.0 / (self.heads.head_dim as f32).sqrt()
    }
}

impl Case for OverHeads {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let HeadLayout { kv_heads, head_dim, .. } = self.heads;
        let layout = KvLayout::Heads { kv_heads, head_dim };
        let spec = KvSpec { layers: 1, layout, dtype: side.backend.kv_dtype(false) };
        let mut kv = side.backend.kv_cache(&spec, Sink::BLOCKS)?;
        let pairs = head_dim / 4;
        let frequencies: Vec<f32> = (0..pairs).map(|i| 1e4f32.powf(-(i as f32) / pairs as f32)).collect();
        let frequencies = side.vector(&frequencies)?;
        self.write(side, &frequencies, &Sink::fill(), &mut kv)?;
        let qkv = self.write(side, &frequencies, &self.sink.step(), &mut kv)?;
        let mut out = side.backend.tensor(self.sink.rows, self.heads.q_dim())?;
        side.backend.attention(&qkv, self.heads, self.scale(), None, &kv, 0, &mut out);
        let tolerance = self.sink.tolerance(side.half_unit());
        Ok(vec![side.output("out", &out, self.heads.q_dim(), tolerance)?])
    }
}

/// Over latents. They are normed, the sink's too: all of it is in its first dimension, which no query looks at.
#[derive(Debug)]
struct OverLatents {
    sink: Sink,
    layout: LatentLayout,
}

impl OverLatents {
    /// The last dimension of the shared key makes the sink; nothing is rotated: all frequencies are 0.
    fn write<B: Backend>(
        &self,
        side: &mut Side<'_, B>,
        norm: &B::Vector,
        batch: &Batch,
        kv: &mut B::KvCache,
    ) -> Result<B::Tensor, BackendError> {
        let LatentLayout { heads, rank, nope_dim, rope_dim, .. } = self.layout;
        let (rows, entry) = (batch.slots.len(), self.layout.entry_dim());
        side.backend.begin(batch);
        let mut angles = side.backend.tensor_f32(rows, rope_dim)?;
        let frequencies = side.vector(&vec![0.0; rope_dim / 2])?;
        side.backend.rope_angles(&frequencies, 1.0, &mut angles);
        let mut q = side.rng.normals(rows * self.layout.q_dim(), 1.0);
        for q in q.chunks_exact_mut(nope_dim + rope_dim) {
            q[nope_dim + rope_dim - 1] = QUERY;
        }
        let q = side.activations_of(rows, self.layout.q_dim(), q)?;
        let mut latents = side.rng.normals(rows * entry, 0.25);
        for (row, latent) in latents.chunks_exact_mut(entry).enumerate() {
            let sink = batch.slots[row] == 0;
            let value = |value: f32| if sink { value / 16.0 } else { 1.0 + value };
            latent[..rank].iter_mut().for_each(|x| *x = value(*x));
            latent[0] = if sink { (rank as f32).sqrt() } else { 0.0 };
            latent[entry - 1] = if sink { NATS / (QUERY * self.scale()) } else { 0.0 };
        }
        let latent = side.activations_of(rows, entry, latents)?;
        // Of scores a deviation of a half, with that of the keys.
        let mut values = side.rng.normals(rows * heads * entry, 0.25);
        values.chunks_exact_mut(entry).for_each(|query| query[0] = 0.0);
        let values: Vec<f32> = values.into_iter().map(|value| half::f16::from_f32(value).to_f32()).collect();
        let mut query = side.backend.tensor_cached(rows, heads * entry)?;
        side.backend.write(&mut query, rows, &values);
        let style = RopeStyle::Half;
        side.backend.mla_rope_kv_write(
            &q,
            &latent,
            self.layout,
            norm,
            1e-6,
            &angles,
            style,
            kv,
            0,
            &mut query,
        );
        Ok(query)
    }

    fn scale(&self) -> f32 {
        1.5 / (self.layout.entry_dim() as f32).sqrt()
    }
}

impl Case for OverLatents {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let LatentLayout { heads, rank, rope_dim, .. } = self.layout;
        let layout = KvLayout::Latent { rank, rope_dim };
        let spec = KvSpec { layers: 1, layout, dtype: side.backend.kv_dtype(false) };
        let mut kv = side.backend.kv_cache(&spec, Sink::BLOCKS)?;
        let norm = side.vector(&vec![1.0; rank])?;
        self.write(side, &norm, &Sink::fill(), &mut kv)?;
        let query = self.write(side, &norm, &self.sink.step(), &mut kv)?;
        let mut out = side.backend.tensor_cached(self.sink.rows, heads * rank)?;
        side.backend.mla_attention(&query, self.layout, self.scale(), &kv, 0, &mut out);
        Ok(vec![side.output("out", &out, heads * rank, self.sink.tolerance(F16_UNIT))?])
    }
}

/// A prompt of 32,768 positions, whose other positions together weigh as much as the sink; and with heads of
/// each number of dimensions that the kernel takes another way.
pub fn heads_prefill(runner: &mut Runner) -> Result<(), BackendError> {
    let long = Sink { context: 32_768, rows: 2 };
    runner.check(&OverHeads { sink: long, heads: HeadLayout { heads: 2, kv_heads: 1, head_dim: 16 } })?;
    for head_dim in [64, 128, 256] {
        let heads = HeadLayout { heads: 4, kv_heads: 2, head_dim };
        runner.check(&OverHeads { sink: Sink { context: 400, rows: 5 }, heads })?;
    }
    Ok(())
}

/// A row of one split, and one of two.
pub fn heads_decode(runner: &mut Runner) -> Result<(), BackendError> {
    for (context, head_dim) in [(250, 64), (256, 128), (400, 128), (400, 256)] {
        let heads = HeadLayout { heads: 4, kv_heads: 2, head_dim };
        runner.check(&OverHeads { sink: Sink { context, rows: 1 }, heads })?;
    }
    Ok(())
}

fn latents(heads: usize, (rank, rope_dim): (usize, usize), context: usize, rows: usize) -> OverLatents {
    let layout = LatentLayout { heads, rank, nope_dim: 16, rope_dim, v_dim: 0 };
    OverLatents { sink: Sink { context, rows }, layout }
}

/// Of the published shape and of another, in one split and in two.
pub fn latents_decode(runner: &mut Runner) -> Result<(), BackendError> {
    runner.check(&latents(4, (512, 64), 256, 1))?;
    runner.check(&latents(20, (64, 16), 400, 1))
}

/// The same of several rows, and of many positions.
pub fn latents_prefill(runner: &mut Runner) -> Result<(), BackendError> {
    runner.check(&latents(2, (512, 64), 400, 3))?;
    runner.check(&latents(2, (32, 16), 8192, 2))
}
