//! DeepSeek-V2 (2024), V3 and R1 (2025).
//!
//! ```text
//! per layer:  x += o(latent_attention(rms_norm(x)))
//!             x += shared(h) + sum over the k best experts e of w_e expert_e(h)    with h = rms_norm(x)
//! ```
//!
//! Experts are chosen within the best groups of experts. V2: scores are softmax(gate(h)), a group
//! counts as its best expert. V3: scores are sigmoid(gate(h)), the choice is by score + bias, a
//! group counts as its two best. The weights are the scores, in V3 over their sum, times
//! `routed_scaling_factor`. The first `first_k_dense_replace` layers have a dense MLP.
//!
//! Deliberately absent: V3's multi-token-prediction layers, which are not loaded.

use super::decoder::{self, Step};
use super::loader::{Loader, Scope};
use super::mla::{self, Attention};
use super::moe::{FeedForward, FeedForwardBuffers};
use super::{LoadError, ModelConfig};
use crate::backend::{Backend, KvLayout};

/// A layer.
pub struct Layer<B: Backend> {
    attention_norm: B::Vector,
    attention: Attention<B>,
    mlp_norm: B::Vector,
    mlp: FeedForward<B>,
}

/// A step's activations.
pub struct Buffers<B: Backend> {
    attention: mla::Buffers<B>,
    mlp: FeedForwardBuffers<B>,
}

impl<B: Backend> decoder::Layer<B> for Layer<B> {
    type Buffers = Buffers<B>;

    fn load(from: &Scope<'_, '_, B>, index: usize) -> Result<Self, LoadError> {
        let c: &ModelConfig = from.config();
        Ok(Self {
            attention_norm: from.vector("input_layernorm.weight", c.hidden)?,
            attention: Attention::load(&from.within("self_attn"))?,
            mlp_norm: from.vector("post_attention_layernorm.weight", c.hidden)?,
            mlp: FeedForward::load(&from.within("mlp"), index)?,
        })
    }

    fn buffers(loader: &Loader<'_, B>, rows: usize) -> Result<Buffers<B>, LoadError> {
        Ok(Buffers {
            attention: mla::Buffers::new(loader, rows)?,
            mlp: FeedForwardBuffers::new(loader, rows)?,
        })
    }

    fn kv_layout(loader: &Loader<'_, B>) -> Result<KvLayout, LoadError> {
        Ok(mla::kv_layout(loader))
    }

    fn forward(&self, step: &mut Step<'_, B>, b: &mut Buffers<B>) {
        step.norm(&self.attention_norm);
        self.attention.forward(step, &mut b.attention);
        step.norm(&self.mlp_norm);
        self.mlp.forward(step, &mut b.mlp);
    }
}
