//! Where a model's tensors come from: a checkpoint, or (`--load-format dummy`) seeded random
//! numbers of the shapes that its config asks for. Shapes are checked here, so that a kernel
//! never sees a weight of another size than the config says.

use super::ConfigError;
use super::quantization::{Quantization, is_stored, stored};
use crate::backend::BackendError;
use crate::checkpoint::{Checkpoint, Dtype, TensorData, TensorError};
use std::borrow::Cow;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The config names something unsupported or absurd.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint lacks a tensor that its config implies.
    #[error("tensor {0} is missing")]
    MissingTensor(String),
    /// A tensor that is needed is of a type that is not read; the text says where and what.
    #[error("{0}")]
    Unreadable(String),
    /// A tensor has another shape than the config implies.
    #[error("tensor {name} has shape {found:?}, the config implies {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// As stored.
        found: Vec<usize>,
        /// As the config has it.
        expected: Vec<usize>,
    },
    /// A tensor cannot be cut or joined as asked.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The model cannot be split so.
    #[error("--tensor-parallel {ranks} is not possible for this model: {reason}")]
    Shard {
        /// Ranks asked for.
        ranks: usize,
        /// What does not divide.
        reason: String,
    },
    /// The backend cannot hold or run a weight.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// A source of named tensors.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// As stored.
    Checkpoint(&'a Checkpoint, Option<&'a Quantization>),
    /// Random bf16 from this seed and the tensor's name; norms are one, biases zero.
    Dummy {
        /// Equal seeds give equal weights.
        seed: u64,
    },
}

impl<'a> Weights<'a> {
    /// The tensor of that name and exactly that shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<TensorData<'a>, LoadError> {
        match self {
            Weights::Checkpoint(checkpoint, quantization) => stored(checkpoint, *quantization, name, shape),
            Weights::Dummy { seed } => dummy(*seed, name, shape),
        }
    }

    /// True when the checkpoint holds that tensor; a dummy has only what is required.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Weights::Checkpoint(checkpoint, _) => is_stored(checkpoint, name),
            Weights::Dummy { .. } => false,
        }
    }

    /// How the tensor of that name is stored, for a log: `BF16`, `Q4_K`.
    pub fn stored_kind(&self, name: &str) -> String {
        match self {
            Weights::Checkpoint(checkpoint, quantization) => match (checkpoint.tensor(name), quantization) {
                (Some(tensor), _) => tensor.dtype.name().into(),
                (None, Some(quantization)) => quantization.to_string(),
                (None, None) => String::new(),
            },
            Weights::Dummy { .. } => "dummy".into(),
        }
    }

    /// Values in a block of the tensor's type in its served form: 1 where they are plain numbers.
    pub fn block(&self, name: &str) -> usize {
        match self {
            Weights::Checkpoint(checkpoint, _) => match checkpoint.tensor(name).map(|tensor| tensor.dtype) {
                Some(Dtype::F8E4M3) => Dtype::F8Block.block().0,
                // Packed integers become ggml's blocks.
                Some(Dtype::I32) => Dtype::Q4_0.block().0,
                Some(dtype) => dtype.block().0,
                None => 1,
            },
            Weights::Dummy { .. } => 1,
        }
    }

    /// All names in a checkpoint; none of a dummy.
    pub fn names(&self) -> Vec<&'a str> {
        match self {
            Weights::Checkpoint(checkpoint, _) => checkpoint.tensor_names(),
            Weights::Dummy { .. } => Vec::new(),
        }
    }

    /// Lets go of the pages read so far (see [`Checkpoint::release_pages`]).
    pub fn release_pages(&self) {
        if let Weights::Checkpoint(checkpoint, _) = self {
            checkpoint.release_pages();
        }
    }
}

/// Uniform in +-0.05, about the spread of trained weights: activations neither die nor overflow.
fn dummy(seed: u64, name: &str, shape: &[usize]) -> Result<TensorData<'static>, LoadError> {
    let bytes = shape.iter().fold(2usize, |bytes, size| bytes.saturating_mul(*size));
    let values = bytes / 2;
    let mut data = Vec::new();
    data.try_reserve_exact(bytes)
        .map_err(|_| BackendError::OutOfMemory { what: format!("tensor {name}"), wanted_bytes: bytes })?;
    if name.ends_with("norm.weight") {
        data.extend((0..values).flat_map(|_| half::bf16::ONE.to_le_bytes()));
    } else if name.ends_with(".bias") {
        data.resize(values * 2, 0);
    } else {
        // FNV-1a of the name makes the stream; splitmix64 (Steele et al. 2014) draws from it.
        let mut state = name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        while data.len() < values * 2 {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            for lane in 0..4.min(values - data.len() / 2) {
                let unit = ((z >> (16 * lane)) as u16 as f32) / 65536.0 - 0.5;
                data.extend(half::bf16::from_f32(unit * 0.1).to_le_bytes());
            }
        }
    }
    Ok(TensorData { name: name.into(), dtype: Dtype::BF16, shape: shape.to_vec(), data: Cow::Owned(data) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dummy_that_no_memory_holds_is_an_error() {
        let error = Weights::Dummy { seed: 0 }.get("lm_head.weight", &[1 << 40, 1 << 40]);
        let error = error.expect_err("too large").to_string();
        assert!(error.contains("lm_head.weight"), "{error}");
    }
}
