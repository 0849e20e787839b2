//! Operations on rows by themselves: embedding, norms, gating, gathering, angles, a rank's columns.

use super::side::{F32_UNIT, Output, Side, Tolerance};
use super::weights::weights;
use super::{Case, Runner};
use crate::backend::{Activation, Backend, BackendError, Batch, HeadLayout};
use crate::checkpoint::Dtype;

/// Rows of a table that holds some of the vocabulary.
#[derive(Debug)]
struct Embed {
    rows: usize,
    columns: usize,
    first: usize,
    held: usize,
    scale: f32,
    dtype: Dtype,
}

impl Case for Embed {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { rows, columns, first, held, scale, dtype } = *self;
        let table = weights(&mut side.rng, dtype, held, columns);
        let table = side.matrix(&[table], |_| false)?;
        // Some are other ranks'.
        let low = first.saturating_sub(3);
        let mut tokens: Vec<u32> = (0..rows).map(|_| (low + side.rng.below(held + 6)) as u32).collect();
        tokens[0] = first as u32;
        tokens[rows - 1] = (first + held - 1) as u32;
        side.backend.begin(&of_rows(&tokens));
        let mut out = side.backend.tensor_f32(rows, columns)?;
        side.backend.embed(&table, first as u32, scale, &mut out);
        Ok(vec![side.output("out", &out, columns, Tolerance::EXACT)?])
    }
}

/// A step of rows that belong to no sequence.
pub fn of_rows(tokens: &[u32]) -> Batch {
    Batch {
        tokens: tokens.to_vec(),
        positions: (0..tokens.len() as u32).collect(),
        slots: (0..tokens.len() as u32).collect(),
        ..Batch::default()
    }
}

pub fn embed(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    let plain = [Dtype::BF16, Dtype::F32, Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4_1, Dtype::IQ4NL, Dtype::MXFP4];
    let wide = [Dtype::Q4K, Dtype::Q6K, Dtype::F8Block, Dtype::IQ4XS];
    let long = 2048 + 32 * (1 + rng.below(3));
    for (columns, dtypes) in
        [(32, &plain[..]), (576, &plain), (long, &plain), (4096 + 32, &plain), (256, &wide), (2304, &wide)]
    {
        for &dtype in dtypes {
            let (rows, first, held) = (1 + rng.below(20), rng.pick(&[0, 10, 100]), 1 + rng.below(40));
            let scale = rng.pick(&[1.0, 12.0, 1.0 / 0.22]);
            runner.check(&Embed { rows, columns, first, held, scale, dtype })?;
        }
    }
    match runner.large {
        true => runner.check(&Embed {
            rows: 2000,
            columns: 4096,
            first: 5,
            held: 3000,
            scale: 1.0,
            dtype: Dtype::BF16,
        }),
        false => Ok(()),
    }
}

/// RMSNorm of the residual stream.
#[derive(Debug)]
struct AddRmsNorm {
    rows: usize,
    columns: usize,
    delta: bool,
    eps: f32,
}

impl Case for AddRmsNorm {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { rows, columns, eps, .. } = *self;
        let values = side.rng.normals(rows * columns, 3.0);
        let mut residual = side.floats(rows, columns, &values)?;
        let delta = side.activations(rows, columns, 1.0)?;
        let weight = side.norm_weight(columns)?;
        let mut out = side.backend.tensor(rows, columns)?;
        side.backend.add_rms_norm(&mut residual, self.delta.then_some(&delta), &weight, eps, &mut out);
        let close = Tolerance::new(side.half_unit(), 1e-5);
        Ok(vec![
            side.output("residual", &residual, columns, Tolerance::EXACT)?,
            side.output("out", &out, columns, close)?,
        ])
    }
}

pub fn add_rms_norm(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for columns in [8, 8 * (2 + rng.below(30)), 2048, 2056, 8 * (300 + rng.below(600)), 16384] {
        for delta in [false, true] {
            let (rows, eps) = (1 + rng.below(8), rng.pick(&[1e-6, 1e-5, 0.5]));
            runner.check(&AddRmsNorm { rows, columns, delta, eps })?;
        }
    }
    let rows = if runner.large { 4000 } else { 300 };
    runner.check(&AddRmsNorm { rows, columns: 136, delta: true, eps: 1e-6 })
}

/// A gated MLP's gate.
#[derive(Debug)]
struct GateMul {
    activation: Activation,
    rows: usize,
    columns: usize,
}

impl Case for GateMul {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { activation, rows, columns } = *self;
        let mut values = side.rng.normals(rows * 2 * columns, 4.0);
        // Beyond the range of the exponential.
        (values[0], values[1]) = (-200.0, 200.0);
        let gate_up = side.activations_of(rows, 2 * columns, values)?;
        let mut out = side.backend.tensor(rows, columns)?;
        side.backend.gate_mul(activation, &gate_up, &mut out);
        let tolerance = Tolerance::new(side.half_unit() + 16.0 * F32_UNIT, 1e-6);
        Ok(vec![side.output("out", &out, columns, tolerance)?])
    }
}

pub fn gate_mul(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for activation in [Activation::Silu, Activation::GeluTanh] {
        for columns in [8, 768, 2048, 2056, 8 * (300 + rng.below(400))] {
            runner.check(&GateMul { activation, rows: 1 + rng.below(6), columns })?;
        }
        let rows = if runner.large { 3000 } else { 200 };
        runner.check(&GateMul { activation, rows, columns: 64 })?;
    }
    Ok(())
}

/// Rows whose logits are wanted.
#[derive(Debug)]
struct Gather {
    rows: usize,
    columns: usize,
    outputs: usize,
    first: usize,
    to_f32: bool,
}

impl Case for Gather {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { rows, columns, outputs, first, to_f32 } = *self;
        let values = side.rng.normals(rows * columns, 1.0);
        let (x, mut out) = match to_f32 {
            true => (side.floats(rows, columns, &values)?, side.backend.tensor_f32(outputs, columns)?),
            false => (side.activations_of(rows, columns, values)?, side.backend.tensor(outputs, columns)?),
        };
        let mut batch = of_rows(&vec![0; rows]);
        batch.outputs = (0..outputs).map(|_| side.rng.below(rows) as u32).collect();
        side.backend.begin(&batch);
        side.backend.gather_outputs(&x, first..outputs, &mut out);
        Ok(vec![side.output("out", &out, columns, Tolerance::EXACT)?])
    }
}

pub fn gather_rows(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for columns in [8, 1048, 4096, 4104, 8 * (600 + rng.below(700))] {
        let (rows, outputs, to_f32) = (1 + rng.below(20), 2 + rng.below(9), rng.coin());
        runner.check(&Gather { rows, columns, outputs, first: rng.below(2), to_f32 })?;
    }
    Ok(())
}

/// A step's rotary angles.
#[derive(Debug)]
struct RopeAngles {
    rows: usize,
    pairs: usize,
    scale: f32,
    positions: usize,
}

impl Case for RopeAngles {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { rows, pairs, scale, positions } = *self;
        let base = side.rng.pick(&[1e4f32, 5e5, 1e6]);
        let inv_freq: Vec<f32> = (0..pairs).map(|i| base.powf(-(i as f32) / pairs as f32)).collect();
        let inv_freq = side.vector(&inv_freq)?;
        let mut batch = of_rows(&vec![0; rows]);
        batch.positions = (0..rows).map(|_| side.rng.below(positions) as u32).collect();
        batch.positions[0] = positions as u32 - 1;
        side.backend.begin(&batch);
        let mut out = side.backend.tensor_f32(rows, 2 * pairs)?;
        side.backend.rope_angles(&inv_freq, scale, &mut out);
        Ok(vec![side.output("out", &out, 2 * pairs, Tolerance { relative: 0.0, absolute: scale * 3e-7 })?])
    }
}

pub fn rope_angles(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for pairs in [8, 10, 32, 64, 65 + rng.below(60), 128] {
        let (rows, positions) = (1 + rng.below(40), rng.pick(&[4, 5000, 131_072, 1_000_000]));
        runner.check(&RopeAngles { rows, pairs, scale: rng.pick(&[1.0, 1.25]), positions })?;
    }
    Ok(())
}

/// RMSNorm over all heads of q and of k.
#[derive(Debug)]
struct JointQkNorm {
    rows: usize,
    heads: HeadLayout,
    eps: f32,
}

impl Case for JointQkNorm {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { rows, heads, eps } = *self;
        let columns = heads.qkv_dim();
        let mut qkv = side.activations(rows, columns, 2.0)?;
        let q_norm = side.norm_weight(heads.q_dim())?;
        let k_norm = side.norm_weight(heads.kv_heads * heads.head_dim)?;
        side.backend.joint_qk_norm(&mut qkv, heads, &q_norm, &k_norm, eps);
        let tolerance = Tolerance::new(side.half_unit(), 1e-5);
        Ok(vec![side.output("qkv", &qkv, columns, tolerance)?])
    }
}

pub fn joint_qk_norm(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for (heads, kv_heads, head_dim) in
        [(4, 1, 16), (48, 8, 128), (32, 32, 128), (8 * (1 + rng.below(20)), 8, 80)]
    {
        let heads = HeadLayout { heads, kv_heads, head_dim };
        runner.check(&JointQkNorm { rows: 1 + rng.below(5), heads, eps: rng.pick(&[1e-6, 1e-5, 0.5]) })?;
    }
    let heads = HeadLayout { heads: 4, kv_heads: 2, head_dim: 16 };
    runner.check(&JointQkNorm { rows: if runner.large { 3000 } else { 200 }, heads, eps: 1e-6 })
}

/// As [`Backend::all_gather`] of ranks that this device alone cannot have.
#[derive(Debug)]
struct PlaceColumns {
    rows: usize,
    columns: usize,
    rank: usize,
    ranks: usize,
}

pub fn place_columns(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for ranks in [1, 2, 3, 8] {
        for columns in [8 + rng.below(50), 2048, 2049 + rng.below(5000)] {
            let case = PlaceColumns { rows: 1 + rng.below(5), columns, rank: rng.below(ranks), ranks };
            let PlaceColumns { rows, columns, rank, ranks } = case;
            let mine = columns * rank / ranks..columns * (rank + 1) / ranks;
            let held = rng.normals(rows * mine.len(), 1.0);
            let mut placed = vec![0.0; rows * columns];
            for (to, from) in placed.chunks_exact_mut(columns).zip(held.chunks_exact(mine.len())) {
                to[mine.clone()].copy_from_slice(from);
            }
            let gpu = runner.gpu();
            let mut x = gpu.tensor_f32(rows, mine.len())?;
            gpu.write(&mut x, rows, &held);
            let mut out = gpu.tensor_f32(rows, columns)?;
            // What was there must go.
            gpu.write(&mut out, rows, &vec![7.0; rows * columns]);
            gpu.place_columns(&x, rank, ranks, &mut out);
            let output = |values| Output { what: "out", columns, values, tolerance: Tolerance::EXACT };
            let got = output(gpu.read(&out)?.to_vec());
            runner.compare(&case, &[output(placed)], &[got]);
        }
    }
    Ok(())
}
