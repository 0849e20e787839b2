//! The dense pre-norm decoder of Llama (Touvron et al. 2023), Qwen2 and Qwen3:
//!
//! ```text
//! per layer:  x += o(attention(rope(norm_q(q)), rope(norm_k(k)), v))   with q, k, v = qkv(rms_norm(x))
//!             x += down(silu(gate(h)) * up(h))                         with h = rms_norm(x)
//! ```
//!
//! The families differ in two places: Qwen2 has a bias on q, k and v, Qwen3 an RMSNorm on each
//! head of q and k.

use super::decoder::{self, Step};
use super::gqa::{self, Attention};
use super::loader::{Loader, Scope};
use super::mlp::{self, Mlp};
use super::{LoadError, ModelConfig};
use crate::backend::{Backend, KvLayout};

/// A layer.
pub struct Layer<B: Backend> {
    attention_norm: B::Vector,
    attention: Attention<B>,
    mlp_norm: B::Vector,
    mlp: Mlp<B>,
}

/// A step's activations.
pub struct Buffers<B: Backend> {
    attention: gqa::Buffers<B>,
    mlp: mlp::Buffers<B>,
}

impl<B: Backend> decoder::Layer<B> for Layer<B> {
    type Buffers = Buffers<B>;

    fn load(from: &Scope<'_, '_, B>, index: usize) -> Result<Self, LoadError> {
        let c: &ModelConfig = from.config();
        Ok(Self {
            attention_norm: from.vector("input_layernorm.weight", c.hidden)?,
            attention: Attention::load(&from.within("self_attn"), index)?,
            mlp_norm: from.vector("post_attention_layernorm.weight", c.hidden)?,
            mlp: Mlp::load(&from.within("mlp"), c.intermediate)?,
        })
    }

    fn buffers(loader: &Loader<'_, B>, rows: usize) -> Result<Buffers<B>, LoadError> {
        let of = loader.any_layer().within("mlp");
        Ok(Buffers {
            attention: gqa::Buffers::new(loader, rows)?,
            mlp: mlp::Buffers::new(&of, rows, loader.config.intermediate)?,
        })
    }

    fn kv_layout(loader: &Loader<'_, B>) -> Result<KvLayout, LoadError> {
        gqa::kv_layout(loader)
    }

    fn forward(&self, step: &mut Step<'_, B>, b: &mut Buffers<B>) {
        step.norm(&self.attention_norm);
        self.attention.forward(step, &mut b.attention);
        step.norm(&self.mlp_norm);
        self.mlp.forward(step, &mut b.mlp);
    }
}
