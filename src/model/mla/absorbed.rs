//! The projections from the latent to keys and values, whichever way the checkpoint holds them: as
//! latent attention applies them, for each head K_i^T and V_i, and as they expand latents, K_i and
//! V_i of all heads in one.

use crate::backend::{Backend, LatentLayout};
use crate::checkpoint::{Dtype, TensorData};
use crate::model::LoadError;
use crate::model::loader::{Part, Scope};
use half::{bf16, f16};
use std::ops::Range;

/// From the latent to keys and values.
pub(super) enum KeyValue<'a> {
    /// `kv_b_proj`: per head K_i, then V_i; `[heads * (nope_dim + v_dim), rank]`.
    Together(TensorData<'a>),
    /// As newer GGUF files hold them: K_i^T `[heads, rank, nope_dim]`, V_i `[heads, v_dim, rank]`.
    Apart(TensorData<'a>, TensorData<'a>),
}

impl<'a> KeyValue<'a> {
    /// From a layer's `self_attn`.
    pub fn read<B: Backend>(from: &Scope<'_, 'a, B>, layout: LatentLayout) -> Result<Self, LoadError> {
        let LatentLayout { heads, rank, nope_dim, v_dim, .. } = layout;
        let tensor = |name: &str, shape: &[usize]| from.tensor(name, shape, &Part::Whole);
        Ok(match from.has("k_b_proj.weight") {
            false => Self::Together(tensor("kv_b_proj.weight", &[heads * (nope_dim + v_dim), rank])?),
            true => Self::Apart(
                tensor("k_b_proj.weight", &[heads, rank, nope_dim])?,
                tensor("v_b_proj.weight", &[heads, v_dim, rank])?,
            ),
        })
    }

    /// K_i^T `[rank, nope_dim]` and V_i `[v_dim, rank]`.
    pub fn head(
        &self,
        layout: LatentLayout,
        head: usize,
    ) -> Result<(TensorData<'_>, TensorData<'_>), LoadError> {
        let LatentLayout { rank, nope_dim, v_dim, .. } = layout;
        Ok(match self {
            Self::Together(both) => {
                let start = head * (nope_dim + v_dim);
                let middle = start + nope_dim;
                (transposed(&both.rows(start..middle)?)?, both.rows(middle..middle + v_dim)?)
            }
            Self::Apart(k, v) => {
                let (k, v) = (k.rows(head..head + 1)?, v.rows(head..head + 1)?);
                (
                    TensorData { shape: vec![rank, nope_dim], ..k },
                    TensorData { shape: vec![v_dim, rank], ..v },
                )
            }
        })
    }

    /// Of these heads in one, K_i then V_i of each: `[heads * (nope_dim + v_dim), rank]` in parts.
    pub fn expanding(
        &self,
        layout: LatentLayout,
        heads: Range<usize>,
    ) -> Result<Vec<TensorData<'_>>, LoadError> {
        if let Self::Together(both) = self {
            let rows = layout.nope_dim + layout.v_dim;
            return Ok(vec![both.rows(heads.start * rows..heads.end * rows)?]);
        }
        let mut parts = Vec::new();
        for head in heads {
            let (k, v) = self.head(layout, head)?;
            parts.extend([transposed(&k)?, v]);
        }
        Ok(parts)
    }
}

/// In its own type where that is a float, else dequantised to f32: these matrices are small beside
/// the experts, and a second rounding would cost accuracy.
fn transposed(tensor: &TensorData<'_>) -> Result<TensorData<'static>, LoadError> {
    let values = tensor.to_f32()?;
    let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
    let values = (0..values.len()).map(|i| values[i % rows * columns + i / rows]);
    let (dtype, data): (_, Vec<u8>) = match tensor.dtype {
        Dtype::F16 => (Dtype::F16, values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect()),
        Dtype::BF16 => (Dtype::BF16, values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect()),
        _ => (Dtype::F32, values.flat_map(f32::to_le_bytes).collect()),
    };
    Ok(TensorData { name: tensor.name.clone(), dtype, shape: vec![columns, rows], data: data.into() })
}
