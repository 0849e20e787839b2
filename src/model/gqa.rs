//! Grouped-query attention (Ainslie et al. 2023) with rotary embedding:
//! `delta = o(attention(rope(norm(q)), rope(norm(k)), v))` with `q, k, v = qkv(normed)`.
//! A rank computes its query heads with the kv heads that they use; their outputs, projected,
//! are summed over ranks.

use super::config::{Gqa, QkNorm};
use super::decoder::Step;
use super::loader::{Loader, Part, Scope};
use super::{LoadError, ModelConfig};
use crate::backend::{Backend, HeadLayout, KvLayout, RopeStyle};

/// A layer's attention.
pub struct Attention<B: Backend> {
    heads: HeadLayout,
    qkv: B::Matrix,
    qkv_bias: Option<B::Vector>,
    /// Weights of q's and of k's norm.
    norms: Option<(B::Vector, B::Vector)>,
    norm: QkNorm,
    o: B::Matrix,
    /// On one rank alone, as the outputs are summed.
    o_bias: Option<B::Vector>,
    window: Option<usize>,
    scale: f32,
    eps: f32,
    style: RopeStyle,
}

/// Activations of a step.
pub struct Buffers<B: Backend> {
    qkv: B::Tensor,
    attention: B::Tensor,
}

impl<B: Backend> Buffers<B> {
    /// For `rows` rows.
    pub fn new(loader: &Loader<'_, B>, rows: usize) -> Result<Self, LoadError> {
        let heads = loader.shard.layout(loader.config.gqa().heads)?;
        Ok(Self {
            qkv: loader.backend.tensor(rows, heads.qkv_dim())?,
            attention: loader.backend.tensor(rows, heads.q_dim())?,
        })
    }
}

/// This rank's entry in the cache.
pub fn kv_layout<B: Backend>(loader: &Loader<'_, B>) -> Result<KvLayout, LoadError> {
    let HeadLayout { kv_heads, head_dim, .. } = loader.shard.layout(loader.config.gqa().heads)?;
    Ok(KvLayout::Heads { kv_heads, head_dim })
}

impl<B: Backend> Attention<B> {
    /// From a layer's `self_attn`.
    pub fn load(from: &Scope<'_, '_, B>, layer: usize) -> Result<Self, LoadError> {
        let (c, shard): (&ModelConfig, _) = (from.config(), from.shard());
        let Gqa { heads, scale, qkv_bias, o_bias, qk_norm, .. } = c.gqa();
        let (q_dim, kv_dim) = (heads.q_dim(), heads.kv_heads * heads.head_dim);
        let values = |of: std::ops::Range<usize>| of.start * heads.head_dim..of.end * heads.head_dim;
        let q_values = values(shard.heads(heads.heads)?);
        let kv_values = values(shard.kv_heads(heads.kv_heads)?);
        let q = || Part::Rows(q_values.clone());
        let kv = || Part::Rows(kv_values.clone());
        Ok(Self {
            heads: shard.layout(heads)?,
            qkv: match c.fused_projections {
                false => from.matrix(&[
                    ("q_proj", q_dim, c.hidden, q()),
                    ("k_proj", kv_dim, c.hidden, kv()),
                    ("v_proj", kv_dim, c.hidden, kv()),
                ])?,
                true => {
                    let after = |rows: usize| Part::Rows(rows + kv_values.start..rows + kv_values.end);
                    let part = |part: Part| ("qkv_proj", q_dim + 2 * kv_dim, c.hidden, part);
                    from.matrix(&[part(q()), part(after(q_dim)), part(after(q_dim + kv_dim))])?
                }
            },
            qkv_bias: match qkv_bias {
                false => None,
                true => Some(from.vectors(&[
                    ("q_proj.bias", q_dim, q()),
                    ("k_proj.bias", kv_dim, kv()),
                    ("v_proj.bias", kv_dim, kv()),
                ])?),
            },
            norms: match qk_norm {
                QkNorm::None => None,
                QkNorm::Head => Some((
                    from.norm("q_norm.weight", heads.head_dim)?,
                    from.norm("k_norm.weight", heads.head_dim)?,
                )),
                QkNorm::Joint => Some((
                    from.vectors(&[("q_norm.weight", q_dim, q())])?,
                    from.vectors(&[("k_norm.weight", kv_dim, kv())])?,
                )),
            },
            norm: qk_norm,
            o: from.matrix(&[("o_proj", c.hidden, q_dim, Part::Columns(q_values.clone()))])?,
            o_bias: match o_bias && shard.rank == 0 {
                false => None,
                true => Some(from.vector("o_proj.bias", c.hidden)?),
            },
            window: c.windows[layer],
            scale,
            eps: c.rms_eps,
            style: c.rope_style,
        })
    }

    /// From the step's normed rows to its delta.
    pub fn forward(&self, step: &mut Step<'_, B>, b: &mut Buffers<B>) {
        let Step { backend, kv, angles, normed, delta, layer, .. } = step;
        let (heads, eps, layer) = (self.heads, self.eps, *layer);
        backend.linear(&self.qkv, self.qkv_bias.as_ref(), normed, &mut b.qkv);
        let mut per_head = None;
        match (&self.norms, self.norm) {
            (Some((q, k)), QkNorm::Joint) => backend.joint_qk_norm(&mut b.qkv, heads, q, k, eps),
            (Some((q, k)), _) => per_head = Some((q, k, eps)),
            (None, _) => {}
        }
        backend.rope_kv_write(&mut b.qkv, heads, per_head, angles, self.style, kv, layer);
        backend.attention(&b.qkv, heads, self.scale, self.window, kv, layer, &mut b.attention);
        backend.linear(&self.o, self.o_bias.as_ref(), &b.attention, delta);
        backend.all_reduce(delta);
    }
}
