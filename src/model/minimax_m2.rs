//! MiniMax-M2 (2025).
//!
//! ```text
//! per layer:  x += o(attention(rope(norm_q(q)), rope(norm_k(k)), v))   with q, k, v = qkv(rms_norm(x))
//!             x += sum over the k best experts e of w_e expert_e(h)    with h = rms_norm(x)
//! ```
//!
//! norm_q and norm_k run over all heads of a token together, and only the first `rotary_dim`
//! values of a head are rotated. Experts are chosen by s + bias with s = sigmoid(gate(h)) and
//! weighed by s over the sum of the chosen s. Every layer is a mixture; there are no shared experts.

use super::decoder::{self, Step};
use super::gqa::{self, Attention};
use super::loader::{Loader, Scope};
use super::moe::{self, Moe, Names};
use super::{LoadError, ModelConfig};
use crate::backend::{Backend, KvLayout};

const NAMES: Names = Names { correction_bias: "e_score_correction_bias", gate: "w1", up: "w3", down: "w2" };

/// A layer.
pub struct Layer<B: Backend> {
    attention_norm: B::Vector,
    attention: Attention<B>,
    mlp_norm: B::Vector,
    mlp: Moe<B>,
}

/// A step's activations.
pub struct Buffers<B: Backend> {
    attention: gqa::Buffers<B>,
    mlp: moe::Buffers<B>,
}

impl<B: Backend> decoder::Layer<B> for Layer<B> {
    type Buffers = Buffers<B>;

    fn load(from: &Scope<'_, '_, B>, index: usize) -> Result<Self, LoadError> {
        let c: &ModelConfig = from.config();
        Ok(Self {
            attention_norm: from.vector("input_layernorm.weight", c.hidden)?,
            attention: Attention::load(&from.within("self_attn"), index)?,
            mlp_norm: from.vector("post_attention_layernorm.weight", c.hidden)?,
            mlp: Moe::load(&from.within("block_sparse_moe"), c.experts(), &NAMES)?,
        })
    }

    fn buffers(loader: &Loader<'_, B>, rows: usize) -> Result<Buffers<B>, LoadError> {
        let of = loader.any_layer().within("block_sparse_moe");
        Ok(Buffers {
            attention: gqa::Buffers::new(loader, rows)?,
            mlp: moe::Buffers::new(&of, loader.config.experts(), &NAMES, rows)?,
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
