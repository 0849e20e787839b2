//! Matrix products: gemv for at most 16 rows, gemm for more, over every format of weights.

use super::side::{F32_UNIT, Output, Side, Tolerance};
use super::weights::{size, weights};
use super::{Case, Runner};
use crate::backend::{Backend, BackendError};
use crate::checkpoint::Dtype;

/// The stored types of each format that has kernels, in the order of the groups.
pub const FORMATS: [&[Dtype]; 7] = [
    &[Dtype::BF16, Dtype::F16, Dtype::F32],
    &[Dtype::Q8_0],
    &[Dtype::Q4_0, Dtype::Q4_1],
    &[Dtype::Q4K],
    &[Dtype::Q6K],
    &[Dtype::F8Block],
    &[Dtype::IQ4NL, Dtype::IQ4XS, Dtype::MXFP4],
];

/// What in of a matrix may be a multiple of: blocks of the type, 8 for plain ones.
pub fn unit(dtype: Dtype) -> usize {
    dtype.block().0.max(8)
}

/// A linear layer.
#[derive(Debug)]
struct Linear {
    m: usize,
    /// Parts of the matrix, stacked: their type and outputs.
    parts: Vec<(Dtype, usize)>,
    k: usize,
    bias: bool,
    to_f32: bool,
}

impl Case for Linear {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { m, k, .. } = *self;
        let parts: Vec<_> =
            self.parts.iter().map(|(dtype, n)| weights(&mut side.rng, *dtype, *n, k)).collect();
        let n: usize = self.parts.iter().map(|(_, n)| n).sum();
        let w = side.matrix(&parts, |dtype| m > exact_rows(dtype))?;
        let bias = side.rng.normals(n, 1.0);
        let bias = if self.bias { Some(side.vector(&bias)?) } else { None };
        let x = side.activations(m, k, 1.0)?;
        let mut out = match self.to_f32 {
            true => side.backend.tensor_f32(m, n)?,
            false => side.backend.tensor(m, n)?,
        };
        side.backend.linear(&w, bias.as_ref(), &x, &mut out);
        let largest = parts.iter().map(size).fold(0.0, f32::max);
        let tolerance = of_product(k, largest);
        let unit = if self.to_f32 { F32_UNIT } else { side.half_unit() };
        Ok(vec![side.output("out", &out, n, Tolerance::new(unit, tolerance))?])
    }
}

/// What two f32 sums of k products of normal values with weights of some size may differ by. A sum of
/// n of them has a deviation of `weight sqrt(n)`, and each addition rounds that by up to a unit: k
/// roundings that are independent of each other add up to less than `weight k` units.
pub fn of_product(k: usize, weight: f32) -> f32 {
    5.0 * F32_UNIT * weight * k as f32 + F32_UNIT
}

/// Most rows that are multiplied with codes as they are, scales being applied afterwards; with more,
/// weights are rounded to the type of activations first.
fn exact_rows(dtype: Dtype) -> usize {
    match dtype {
        Dtype::BF16 | Dtype::F16 | Dtype::F32 | Dtype::Q8_0 | Dtype::F8Block => 4,
        _ => 2,
    }
}

/// At most 16 rows.
pub fn gemv<const FORMAT: usize>(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    let dtypes = FORMATS[FORMAT];
    let unit = dtypes.iter().copied().map(unit).max().unwrap_or(8);
    // Steps of the kernels along k: up to 1024 values by 32 lanes, 2048 by a block.
    let short = unit * rng.pick(&[1, 2, 3, 5]);
    let middle = unit * (512 / unit + rng.below(3));
    let long = unit * (2560 / unit + rng.below(8));
    for (m, k) in [
        (1, short),
        (1, long),
        (2, short),
        (2, long),
        (3, middle),
        (4, short),
        (4, long),
        (5, short),
        (6 + rng.below(10), middle),
        (16, long),
        (16, unit),
    ] {
        let n = rng.pick(&[1, 15, 16, 17, 32, 33, 50, 100]);
        let parts = vec![(rng.pick(dtypes), n)];
        runner.check(&Linear { m, parts, k, bias: rng.coin(), to_f32: false })?;
        let parts = vec![(rng.pick(dtypes), n + 1)];
        runner.check(&Linear { m, parts, k, bias: rng.coin(), to_f32: true })?;
    }
    if runner.large {
        let parts = vec![(dtypes[0], 4096 + 24)];
        runner.check(&Linear { m: 1 + rng.below(16), parts, k: 7168, bias: true, to_f32: false })?;
    }
    Ok(())
}

/// 17 rows and more.
pub fn gemm<const FORMAT: usize>(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    let dtypes = FORMATS[FORMAT];
    let unit = dtypes.iter().copied().map(unit).max().unwrap_or(8);
    // As many columns as make two rows of the largest tiles fill the device.
    let wide = 128 * runner.compute_units.div_ceil(2) - rng.below(100);
    let narrow = rng.pick(&[1, 50, 64, 65, 100]);
    for (m, n) in
        [(17, 130), (18 + rng.below(14), 60), (33 + rng.below(60), narrow), (129 + rng.below(40), wide)]
    {
        for to_f32 in [false, true] {
            let k = unit * rng.pick(&[1, 2, 3, 5][..if unit > 128 { 2 } else { 4 }]);
            let parts = vec![(rng.pick(dtypes), n)];
            runner.check(&Linear { m, parts, k, bias: rng.coin(), to_f32 })?;
        }
    }
    // A file's mix of types in one fused projection.
    let mixed = match FORMAT {
        3 => vec![(Dtype::Q4K, 40), (Dtype::Q6K, 24), (Dtype::BF16, 9)],
        6 => vec![(Dtype::IQ4NL, 40), (Dtype::IQ4XS, 24), (Dtype::MXFP4, 9)],
        _ => vec![],
    };
    if !mixed.is_empty() {
        let parts = mixed;
        runner.check(&Linear { m: 20, parts: parts.clone(), k: 256, bias: true, to_f32: false })?;
        runner.check(&Linear { m: 3, parts, k: 512, bias: true, to_f32: true })?;
    }
    if runner.large {
        let parts = vec![(dtypes[0], 4096 + 24)];
        runner.check(&Linear { m: 1000 + rng.below(1000), parts, k: 4096, bias: true, to_f32: false })?;
    }
    Ok(())
}
