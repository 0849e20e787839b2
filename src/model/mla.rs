//! Multi-head latent attention (DeepSeek-V2, 2024).
//!
//! Per token it keeps a latent c = norm(kv_a(x)) and one rotated key r that all heads share. Head
//! i's key is [K_i c, r] and its value V_i c, with K and V the parts of `kv_b`. As
//! q_i . K_i c = (K_i^T q_i) . c, queries go to the latent's space once and keys and values are
//! never formed ("absorbed" projections, see [`absorbed`]): attention runs over [c, r] and V_i is
//! applied to its result. On the CPU, and on GPUs with `--deterministic`, that holds for prefill as
//! well as for decode, so that a row's bits do not depend on how it was batched. Elsewhere a GPU
//! expands keys and values after all in steps of nothing but prompts' beginnings, where attention
//! over them is a fraction of the work; it keeps K and V of its heads a second time for that, in
//! 16 bits: 113 MB for DeepSeek-V2-Lite, 2.0 GB for V3 on all ranks together (0.4% and 0.2% of all
//! weights in 16 bits). The cache is the same either way.
//!
//! q may come through a latent of its own (`q_lora_rank`).
//!
//! Tensor parallelism: heads are split, the latents' projections and the cache are replicated.

mod absorbed;

use super::config::Mla;
use super::decoder::Step;
use super::loader::{Loader, Part, Scope};
use super::{LoadError, ModelConfig};
use crate::backend::{Backend, KvLayout, LatentLayout, RopeStyle};
use absorbed::KeyValue;

/// A layer's attention, on this rank's heads.
pub struct Attention<B: Backend> {
    layout: LatentLayout,
    query: Query<B>,
    /// To the latent and the key to rotate.
    kv_a: B::Matrix,
    kv_a_norm: B::Vector,
    /// K_i^T, `[rank, nope_dim]` for each head.
    k_b: B::Heads,
    /// V_i, `[v_dim, rank]` for each head.
    v_b: B::Heads,
    /// K_i, then V_i of all heads, where the backend expands latents.
    kv_b: Option<B::Matrix>,
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

/// Activations of a step.
pub struct Buffers<B: Backend> {
    /// The latent of q and its norm.
    q_latent: Option<(B::Tensor, B::Tensor)>,
    q: B::Tensor,
    latent: B::Tensor,
    /// q in the latent's space, beside its rotated part.
    query: B::Tensor,
    attended: B::Tensor,
    values: B::Tensor,
}

impl<B: Backend> Buffers<B> {
    /// For `rows` rows.
    pub fn new(loader: &Loader<'_, B>, rows: usize) -> Result<Self, LoadError> {
        let Mla { q_rank, .. } = loader.config.mla();
        let layout = local(loader)?;
        let tensor = |columns| loader.backend.tensor(rows, columns);
        Ok(Self {
            q_latent: match q_rank {
                None => None,
                Some(rank) => Some((loader.backend.tensor_f32(rows, rank)?, tensor(rank)?)),
            },
            q: tensor(layout.q_dim())?,
            latent: tensor(layout.entry_dim())?,
            query: loader.backend.tensor_cached(rows, layout.heads * layout.entry_dim())?,
            attended: loader.backend.tensor_cached(rows, layout.heads * layout.rank)?,
            values: tensor(layout.heads * layout.v_dim)?,
        })
    }
}

/// A token's entry in the cache: the same on every rank.
pub fn kv_layout<B: Backend>(loader: &Loader<'_, B>) -> KvLayout {
    let LatentLayout { rank, rope_dim, .. } = loader.config.mla().layout;
    KvLayout::Latent { rank, rope_dim }
}

/// The heads that this rank computes.
fn local<B: Backend>(loader: &Loader<'_, B>) -> Result<LatentLayout, LoadError> {
    let layout = loader.config.mla().layout;
    Ok(LatentLayout { heads: loader.shard.heads(layout.heads)?.len(), ..layout })
}

impl<B: Backend> Attention<B> {
    /// From a layer's `self_attn`.
    pub fn load(from: &Scope<'_, '_, B>) -> Result<Self, LoadError> {
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
        let expands = from.loader().backend.mla_expands(layout);
        let expanding = expands.then(|| from.packed(&kv_b.expanding(layout, mine.clone())?));
        let o_columns = Part::Columns(mine.start * v_dim..mine.end * v_dim);
        Ok(Self {
            layout: local(from.loader())?,
            query,
            kv_a: from.matrix(&[("kv_a_proj_with_mqa", rank + rope_dim, c.hidden, Part::Whole)])?,
            kv_a_norm: from.vector("kv_a_layernorm.weight", rank)?,
            k_b: from.loader().backend.heads(k_b)?,
            v_b: from.loader().backend.heads(v_b)?,
            kv_b: expanding.transpose()?,
            o: from.matrix(&[("o_proj", c.hidden, heads * v_dim, o_columns)])?,
            scale,
            eps: c.rms_eps,
            style: c.rope_style,
        })
    }

    /// From the step's normed rows to its delta.
    pub fn forward(&self, step: &mut Step<'_, B>, b: &mut Buffers<B>) {
        let Step { backend, kv, angles, normed, delta, layer, .. } = step;
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
            kv,
            layer,
            &mut b.query,
        );
        let expanded = self.kv_b.as_ref().is_some_and(|kv_b| {
            backend.mla_attention_expanded(kv_b, &b.q, &b.query, layout, self.scale, kv, layer, &mut b.values)
        });
        if !expanded {
            backend.head_linear(&self.k_b, &b.q, &mut b.query);
            backend.mla_attention(&b.query, layout, self.scale, kv, layer, &mut b.attended);
            backend.head_linear(&self.v_b, &b.attended, &mut b.values);
        }
        backend.linear(&self.o, None, &b.values, delta);
        backend.all_reduce(delta);
    }
}
