//! Whether a checkpoint holds what its config implies, by headers alone: every tensor is there, in
//! its shape and in a type that is read. What passes here can be loaded, as far as that can be told
//! before a weight is read.

use super::config::Attention;
use super::quantization::check_stored;
use super::{LoadError, ModelConfig, inventory, loader};
use crate::checkpoint::Checkpoint;

/// The first tensor that is missing or wrong, or a layer too many.
pub fn check(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<(), LoadError> {
    loader::check_layers(&checkpoint.tensor_names(), config)?;
    let quantization = config.quantization.as_ref();
    for tensor in inventory::tensors(config) {
        let found = check_stored(checkpoint, quantization, &tensor.name, &tensor.shape);
        let halves = kv_b_halves(config, &tensor.name);
        match (found, halves) {
            (Err(LoadError::MissingTensor(_)), Some(halves)) => {
                for (name, shape) in halves {
                    check_stored(checkpoint, quantization, &name, &shape)?;
                }
            }
            (found, _) => found?,
        }
    }
    Ok(())
}

/// GGUF files hold latent attention's `kv_b_proj` in two.
fn kv_b_halves(config: &ModelConfig, name: &str) -> Option<[(String, [usize; 3]); 2]> {
    let Attention::Mla(mla) = config.attention else { return None };
    let (module, layout) = (name.strip_suffix("kv_b_proj.weight")?, mla.layout);
    Some([
        (format!("{module}k_b_proj.weight"), [layout.heads, layout.rank, layout.nope_dim]),
        (format!("{module}v_b_proj.weight"), [layout.heads, layout.v_dim, layout.rank]),
    ])
}
