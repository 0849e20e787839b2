//! Qwen3's mixtures of experts (Qwen3 technical report, 2025): Qwen3-30B-A3B, Qwen3-235B-A22B,
//! Qwen3-Coder.
//!
//! ```text
//! per layer:  x += o(attention(rope(norm_q(q)), rope(norm_k(k)), v))   with q, k, v = qkv(rms_norm(x))
//!             x += sum over the k best experts e of p_e expert_e(h)    with h = rms_norm(x)
//! ```
//!
//! Attention is Qwen3's. p = softmax(gate(h)) over all experts, of which the k best are kept and,
//! with `norm_topk_prob`, divided by their sum. There are no shared experts. Layers named in
//! `mlp_only_layers` or left out by `decoder_sparse_step` have a dense MLP.

use super::decoder::{self, Step};
use super::gqa::{self, Attention};
use super::loader::{Loader, Scope};
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
    attention: gqa::Buffers<B>,
    mlp: FeedForwardBuffers<B>,
}

impl<B: Backend> decoder::Layer<B> for Layer<B> {
    type Buffers = Buffers<B>;

    fn load(from: &Scope<'_, '_, B>, index: usize) -> Result<Self, LoadError> {
        let c: &ModelConfig = from.config();
        Ok(Self {
            attention_norm: from.vector("input_layernorm.weight", c.hidden)?,
            attention: Attention::load(&from.within("self_attn"), index)?,
            mlp_norm: from.vector("post_attention_layernorm.weight", c.hidden)?,
            mlp: FeedForward::load(&from.within("mlp"), index)?,
        })
    }

    fn buffers(loader: &Loader<'_, B>, rows: usize) -> Result<Buffers<B>, LoadError> {
        Ok(Buffers {
            attention: gqa::Buffers::new(loader, rows)?,
            mlp: FeedForwardBuffers::new(loader, rows)?,
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
