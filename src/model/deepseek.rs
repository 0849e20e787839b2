//! DeepSeek-V2 (2024), V3 and R1 (2025).
//!
//! ```text
//! per layer:  x += o(latent_attention(rms_norm(x)))
//!             x += shared(h) + sum over the k best experts e of w_e expert_e(h)    with h = rms_norm(x)
//! ```
//!
//! Multi-head latent attention keeps per token a latent c = norm(kv_a(x)) and one rotated key r
//! that all heads share. Head i's key is [K_i c, r] and its value V_i c, with K and V the parts
//! of `kv_b`. As q_i . K_i c = (K_i^T q_i) . c, queries go to the latent's space once and keys
//! and values are never formed ("absorbed" projections): attention runs over [c, r] and V_i is
//! applied to its result. That holds for prefill as well as for decode, so that a row's bits do
//! not depend on how it was batched. q may come through a latent of its own (`q_lora_rank`).
//!
//! Experts are chosen within the best groups of experts. V2: scores are softmax(gate(h)), a group
//! counts as its best expert. V3: scores are sigmoid(gate(h)), the choice is by score + bias, a
//! group counts as its two best. The weights are the scores, in V3 over their sum, times
//! `routed_scaling_factor`. The first `first_k_dense_replace` layers have a dense MLP.
//!
//! Tensor parallelism: heads and experts are split, the latents' projections and the cache are
//! replicated. Deliberately absent: V3's multi-token-prediction layers, which are not loaded.

use super::config::Mla;
use super::decoder::{self, Step};
use super::loader::{Loader, Part, Scope};
use super::moe::{FeedForward, FeedForwardBuffers};
use super::{LoadError, ModelConfig};
use crate::backend::{Backend, KvLayout, LatentLayout, RopeStyle};
use crate::checkpoint::{Dtype, TensorData};
use half::{bf16, f16};

/// A layer.
pub struct Layer<B: Backend> {
    attention_norm: B::Vector,
    attention: Attention<B>,
    mlp_norm: B::Vector,
    mlp: FeedForward<B>,
}

/// A step's activations.
pub struct Buffers<B: Backend> {
    attention: AttentionBuffers<B>,
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
            attention: AttentionBuffers::new(loader, rows)?,
            mlp: FeedForwardBuffers::new(loader, rows)?,
        })
    }

    fn kv_layout(loader: &Loader<'_, B>) -> Result<KvLayout, LoadError> {
        let LatentLayout { rank, rope_dim, .. } = loader.config.mla().layout;
        Ok(KvLayout::Latent { rank, rope_dim })
    }

    fn forward(&self, step: &mut Step<'_, B>, b: &mut Buffers<B>) {
        step.norm(&self.attention_norm);
        self.attention.forward(step, &mut b.attention);
        step.norm(&self.mlp_norm);
        self.mlp.forward(step, &mut b.mlp);
    }
}

/// A layer's latent attention, on this rank's heads.
struct Attention<B: Backend> {
    layout: LatentLayout,
    query: Query<B>,
    /// To the latent and the key to rotate.
    kv_a: B::Matrix,
    kv_a_norm: B::Vector,
    /// K_i^T, `[rank, nope_dim]` for each head.
    k_b: Vec<B::Matrix>,
    /// V_i, `[v_dim, rank]` for each head.
    v_b: Vec<B::Matrix>,
    o: B::Matrix,
    scale: f32,
    eps: f32,
    style: RopeStyle,
}

/// From the normed rows to q.
enum Query<B: Backend> {
    Direct(B::Matrix),
    Latent { a: B::Matrix, norm: B::Vector, b: B::Matrix },
}

struct AttentionBuffers<B: Backend> {
    /// The latent of q and its norm.
    q_latent: Option<(B::Tensor, B::Tensor)>,
    q: B::Tensor,
    latent: B::Tensor,
    /// q in the latent's space, beside its rotated part.
    query: B::Tensor,
    attended: B::Tensor,
    values: B::Tensor,
}

impl<B: Backend> AttentionBuffers<B> {
    fn new(loader: &Loader<'_, B>, rows: usize) -> Result<Self, LoadError> {
        let Mla { q_rank, .. } = loader.config.mla();
        let layout = local(loader)?;
        let tensor = |columns| loader.backend.tensor(rows, columns);
        Ok(Self {
            q_latent: match q_rank {
                None => None,
                Some(rank) => Some((tensor(rank)?, tensor(rank)?)),
            },
            q: tensor(layout.q_dim())?,
            latent: tensor(layout.entry_dim())?,
            query: tensor(layout.heads * layout.entry_dim())?,
            attended: tensor(layout.heads * layout.rank)?,
            values: tensor(layout.heads * layout.v_dim)?,
        })
    }
}

/// The heads that this rank computes.
fn local<B: Backend>(loader: &Loader<'_, B>) -> Result<LatentLayout, LoadError> {
    let layout = loader.config.mla().layout;
    Ok(LatentLayout { heads: loader.shard.heads(layout.heads)?.len(), ..layout })
}

impl<B: Backend> Attention<B> {
    fn load(from: &Scope<'_, '_, B>) -> Result<Self, LoadError> {
        let c: &ModelConfig = from.config();
        let Mla { layout, q_rank, scale } = c.mla();
        let LatentLayout { heads, rank, rope_dim, v_dim, .. } = layout;
        let mine = from.shard().heads(heads)?;
        let head_dim = layout.q_dim() / heads;
        let q_rows = || Part::Rows(mine.start * head_dim..mine.end * head_dim);
        let query = match q_rank {
            None => Query::Direct(from.matrix(&[("q_proj", layout.q_dim(), c.hidden, q_rows())])?),
            Some(q_rank) => Query::Latent {
                a: from.matrix(&[("q_a_proj", q_rank, c.hidden, Part::Whole)])?,
                norm: from.vector("q_a_layernorm.weight", q_rank)?,
                b: from.matrix(&[("q_b_proj", layout.q_dim(), q_rank, q_rows())])?,
            },
        };
        let (mut k_b, mut v_b) = (Vec::new(), Vec::new());
        let kv_b = KeyValue::read(from, layout)?;
        for head in mine.clone() {
            let (k, v) = kv_b.head(layout, head)?;
            k_b.push(from.packed(&[k])?);
            v_b.push(from.packed(&[v])?);
        }
        let o_columns = Part::Columns(mine.start * v_dim..mine.end * v_dim);
        Ok(Self {
            layout: local(from.loader())?,
            query,
            kv_a: from.matrix(&[("kv_a_proj_with_mqa", rank + rope_dim, c.hidden, Part::Whole)])?,
            kv_a_norm: from.vector("kv_a_layernorm.weight", rank)?,
            k_b,
            v_b,
            o: from.matrix(&[("o_proj", c.hidden, heads * v_dim, o_columns)])?,
            scale,
            eps: c.rms_eps,
            style: c.rope_style,
        })
    }

    fn forward(&self, step: &mut Step<'_, B>, b: &mut AttentionBuffers<B>) {
        let Step { backend, batch, kv, angles, normed, delta, layer, .. } = step;
        let (layout, eps, layer) = (self.layout, self.eps, *layer);
        match (&self.query, &mut b.q_latent) {
            (Query::Latent { a, norm, b: q_b }, Some((latent, normed_latent))) => {
                backend.linear(a, None, normed, latent);
                backend.add_rms_norm(latent, None, norm, eps, normed_latent);
                backend.linear(q_b, None, normed_latent, &mut b.q);
            }
            (Query::Latent { a: q, .. } | Query::Direct(q), _) => backend.linear(q, None, normed, &mut b.q),
        }
        backend.linear(&self.kv_a, None, normed, &mut b.latent);
        backend.mla_rope_kv_write(
            &b.q,
            &b.latent,
            layout,
            &self.kv_a_norm,
            eps,
            angles,
            self.style,
            batch,
            kv,
            layer,
            &mut b.query,
        );
        backend.head_linear(&self.k_b, &b.q, &mut b.query);
        backend.mla_attention(&b.query, layout, self.scale, batch, kv, layer, &mut b.attended);
        backend.head_linear(&self.v_b, &b.attended, &mut b.values);
        backend.linear(&self.o, None, &b.values, delta);
        backend.all_reduce(delta);
    }
}

/// From the latent to keys and values.
enum KeyValue<'a> {
    /// `kv_b_proj`: per head K_i, then V_i; `[heads * (nope_dim + v_dim), rank]`.
    Together(TensorData<'a>),
    /// As newer GGUF files hold them: K_i^T `[heads, rank, nope_dim]`, V_i `[heads, v_dim, rank]`.
    Apart(TensorData<'a>, TensorData<'a>),
}

impl<'a> KeyValue<'a> {
    fn read<B: Backend>(from: &Scope<'_, 'a, B>, layout: LatentLayout) -> Result<Self, LoadError> {
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
    fn head(&self, layout: LatentLayout, head: usize) -> Result<(TensorData<'_>, TensorData<'_>), LoadError> {
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
