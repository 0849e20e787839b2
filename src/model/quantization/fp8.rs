//! FP8 as DeepSeek-V3 introduced it (DeepSeek-AI 2024, section 3.3): e4m3 values and one scale
//! per 128x128 of them, in `X.weight` and `X.weight_scale_inv`. The scale multiplies, whatever
//! its name says.

use super::{LoadError, Parts};
use crate::checkpoint::{Dtype, TensorData};

/// Rows and columns that share a scale.
pub(super) const BLOCK: usize = 128;

/// Values and scales, `[ceil(out / 128), in / 128]`, as rows of [`Dtype::F8Block`].
pub(super) fn join<'a>(parts: &Parts<'a, '_>, weight: TensorData<'a>) -> Result<TensorData<'a>, LoadError> {
    let &[out, inputs] = weight.shape.as_slice() else {
        return Err(parts.error(format!("FP8 of shape {:?} is no matrix", weight.shape)));
    };
    if inputs == 0 || !inputs.is_multiple_of(BLOCK) {
        return Err(parts.error(format!("FP8 with {inputs} inputs; multiples of {BLOCK} are supported")));
    }
    let blocks = inputs / BLOCK;
    let scales = parts.get("weight_scale_inv", &[out.div_ceil(BLOCK), blocks])?.to_f32()?;
    if let Some(scale) = scales.iter().find(|scale| !scale.is_finite()) {
        return Err(parts.error(format!("a scale is {scale}")));
    }
    let mut data = Vec::with_capacity(out * blocks * (4 + BLOCK));
    for (row, values) in weight.data.chunks_exact(inputs).enumerate() {
        let scales = &scales[row / BLOCK * blocks..][..blocks];
        for (scale, values) in scales.iter().zip(values.chunks_exact(BLOCK)) {
            data.extend_from_slice(&scale.to_le_bytes());
            data.extend_from_slice(values);
        }
    }
    Ok(TensorData { dtype: Dtype::F8Block, data: data.into(), ..weight })
}
