//! The dense pre-norm decoder of Llama (Touvron et al. 2023), Qwen2 and Qwen3:
//!
//! ```text
//! per layer:  x += o(attention(rope(norm_q(q)), rope(norm_k(k)), v))   with q, k, v = qkv(rms_norm(x))
//!             x += down(silu(gate(h)) * up(h))                         with h = rms_norm(x)
//! ```
//!
//! and of its relatives, which differ in a place or two, each a field of [`ModelConfig`]:
//!
//! - Qwen2 has a bias on q, k and v, Qwen3 an RMSNorm on each head of q and k.
//! - Mistral's first models see a window of positions, in all layers; Ministral's in some.
//! - SmolLM3 does not rotate q and k in every fourth layer.
//! - Granite multiplies embeddings, scores, half layers and logits with constants.
//! - Phi-3 stores q, k, v in one matrix and gate, up in another, and has LongRoPE.
//! - Gemma 3 norms what a half layer adds, too; has GELU for SiLU, the norm of Qwen3, norm weights
//!   stored less 1, embeddings times sqrt(hidden), and five layers with a window and a rotary
//!   embedding of their own for each with neither.

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
    /// Of what attention adds, in families that have it.
    post_attention_norm: Option<B::Vector>,
    mlp_norm: B::Vector,
    mlp: Mlp<B>,
    /// Of what the MLP adds.
    post_mlp_norm: Option<B::Vector>,
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
        // The same name for what comes after attention and for what comes before the MLP.
        let (post_attention, before_mlp, post_mlp) = match c.post_norms {
            false => (None, "post_attention_layernorm", None),
            true => (
                Some("post_attention_layernorm"),
                "pre_feedforward_layernorm",
                Some("post_feedforward_layernorm"),
            ),
        };
        let norm = |name: &str| from.norm(&format!("{name}.weight"), c.hidden);
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::load(&from.within("self_attn"), index)?,
            post_attention_norm: post_attention.map(norm).transpose()?,
            mlp_norm: norm(before_mlp)?,
            mlp: Mlp::load(&from.within("mlp"), c.intermediate)?,
            post_mlp_norm: post_mlp.map(norm).transpose()?,
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
        if let Some(norm) = &self.post_attention_norm {
            step.norm_delta(norm);
        }
        step.norm(&self.mlp_norm);
        self.mlp.forward(step, &mut b.mlp);
        if let Some(norm) = &self.post_mlp_norm {
            step.norm_delta(norm);
        }
    }
}
