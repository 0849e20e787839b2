//! What all families share: the pre-norm decoder around their layers.
//!
//! ```text
//! x = embed(tokens)
//! per layer:  x += attention(rms_norm(x))
//!             x += feed_forward(rms_norm(x))
//! logits = head(rms_norm(x))
//! ```
//!
//! Every `x +=` is fused with the norm that follows it, so that a half layer's output travels as
//! `delta` to the next norm. A family's file gives the [`Layer`].
//!
//! Constant factors cost nothing but one in `embed`: with y = x / r, where r is the factor on a half
//! layer's output, x += r d is y += d, and rms_norm(x) is rms_norm(y) with an epsilon of eps / r^2.
//! So the residual stream is y, embeddings are multiplied with their factor / r, and the factor on
//! logits is in the weight of the last norm.
//!
//! Tensor parallelism: layers hold their rank's part and leave the summed delta; the vocabulary
//! is split for the embedding (tokens of other ranks are zeros, then summed) and for the head
//! (logits are gathered).

use super::config::{Rotation, Scales};
use super::loader::{Loader, Part, Scope};
use super::rope::Rope;
use super::{LoadError, Model, ModelConfig, PoolingHead};
use crate::backend::{Backend, KvDtype, KvLayout, KvSpec};
use crate::checkpoint::TensorData;
use crate::protocol::TokenId;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A family's layer.
pub trait Layer<B: Backend>: Send + Sized {
    /// A step's activations, one set for all layers.
    type Buffers: Send;
    /// From `model.layers.{index}`.
    fn load(from: &Scope<'_, '_, B>, index: usize) -> Result<Self, LoadError>;
    /// For steps of up to `rows` rows.
    fn buffers(loader: &Loader<'_, B>, rows: usize) -> Result<Self::Buffers, LoadError>;
    /// A token's entry in the cache, on this rank.
    fn kv_layout(loader: &Loader<'_, B>) -> Result<KvLayout, LoadError>;
    /// Advances the step's residual stream.
    fn forward(&self, step: &mut Step<'_, B>, buffers: &mut Self::Buffers);
}

/// A step on its way through the layers.
pub struct Step<'a, B: Backend> {
    /// Computes.
    pub backend: &'a mut B,
    /// The cache.
    pub kv: &'a mut B::KvCache,
    /// Rotary angles of its rows, in the layer under way.
    pub angles: &'a B::Tensor,
    /// The residual stream after the last norm: what a half layer reads.
    pub normed: &'a mut B::Tensor,
    /// What a half layer adds to the residual stream, or what is normed to become that.
    pub delta: &'a mut B::Tensor,
    /// The layer under way.
    pub layer: usize,
    residual: &'a mut B::Tensor,
    /// The delta behind a norm of its own, in families that have one there.
    normed_delta: Option<&'a mut B::Tensor>,
    /// Epsilon of norms of the residual stream, and of others.
    eps: f32,
    delta_eps: f32,
    /// Whether a delta is still to be added.
    pending: bool,
}

impl<B: Backend> Step<'_, B> {
    /// residual += delta of the half layer before; normed = rms_norm(residual).
    pub fn norm(&mut self, weight: &B::Vector) {
        let delta = self.normed_delta.as_deref().unwrap_or(self.delta);
        let delta = self.pending.then_some(delta);
        self.backend.add_rms_norm(self.residual, delta, weight, self.eps, self.normed);
        self.pending = true;
    }

    /// What is added to the residual stream is rms_norm(delta), of families with a norm there.
    pub fn norm_delta(&mut self, weight: &B::Vector) {
        let out = self.normed_delta.as_deref_mut().expect("made for families with this norm");
        self.backend.add_rms_norm(self.delta, None, weight, self.delta_eps, out);
    }
}

/// Activations outside the layers, allocated once for the largest step.
struct Stream<B: Backend> {
    residual: B::Tensor,
    normed: B::Tensor,
    delta: B::Tensor,
    normed_delta: Option<B::Tensor>,
    last: B::Tensor,
    /// This rank's part of the logits.
    part: B::Tensor,
    logits: B::Tensor,
}

/// One of the model's rotary embeddings.
struct Rotary<B: Backend> {
    rotation: Rotation,
    inv_freq: B::Vector,
    /// Factor on cos and sin.
    scale: f32,
    /// Of the step's rows.
    angles: B::Tensor,
}

impl<B: Backend> Rotary<B> {
    fn load(loader: &Loader<'_, B>, rotation: Rotation, rows: usize) -> Result<Self, LoadError> {
        let (config, backend) = (loader.config, loader.backend);
        let (dim, context) = (config.rotary_dim(), config.served_context);
        let frequencies = |rope: &Rope| -> Result<Vec<f32>, LoadError> {
            let factors = match rope.factors_tensor(context) {
                Some(name) => Some(loader.scope("").tensor(name, &[dim / 2], &Part::Whole)?.to_f32()?),
                None => None,
            };
            Ok(rope.inv_freq(dim, context, factors.as_deref()))
        };
        let rope = match rotation {
            Rotation::Full => Some(&config.rope),
            Rotation::Sliding => Some(config.sliding_rope.as_ref().unwrap_or(&config.rope)),
            Rotation::None => None,
        };
        let frequencies = match rope {
            Some(rope) => frequencies(rope)?,
            // An angle of 0 at every position, which leaves q and k as they are.
            None => vec![0.0; dim / 2],
        };
        Ok(Self {
            rotation,
            inv_freq: backend.vector(&[TensorData::from_f32("inv_freq", &frequencies)])?,
            scale: rope.map_or(1.0, Rope::attention_factor),
            angles: backend.tensor_f32(rows, dim)?,
        })
    }

    /// Those that the model's layers have, and which of them each layer has.
    fn load_all(loader: &Loader<'_, B>, rows: usize) -> Result<(Vec<Self>, Vec<usize>), LoadError> {
        let mut loaded: Vec<Self> = Vec::new();
        let mut layers = Vec::with_capacity(loader.config.layers());
        for rotation in &loader.config.rotations {
            let known = loaded.iter().position(|rotary| rotary.rotation == *rotation);
            layers.push(known.unwrap_or(loaded.len()));
            if known.is_none() {
                loaded.push(Self::load(loader, *rotation, rows)?);
            }
        }
        Ok((loaded, layers))
    }
}

/// A loaded model, or a rank's share of it.
pub struct Decoder<B: Backend, L: Layer<B>> {
    config: ModelConfig,
    kv_layout: KvLayout,
    kv_dtype: KvDtype,
    ranks: usize,
    /// The first token that this rank's embedding and head hold.
    first_token: TokenId,
    embedding: B::Matrix,
    /// None when the embedding table is the output head.
    head: Option<B::Matrix>,
    final_norm: B::Vector,
    rotary: Vec<Rotary<B>>,
    /// Which of them each layer has.
    rotary_of: Vec<usize>,
    layers: Vec<L>,
    stream: Stream<B>,
    buffers: L::Buffers,
    pooling: PoolingHead,
}

impl<B: Backend + Sync, L: Layer<B>> Decoder<B, L> {
    /// Loads every weight, `threads` layers at a time. `rows` is the largest step. `progress`
    /// is told (loaded, total) pieces, from any thread.
    pub fn load(
        loader: &Loader<'_, B>,
        rows: usize,
        threads: usize,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self, LoadError> {
        let (config, backend) = (loader.config, loader.backend);
        let (kv_layout, buffers) = (L::kv_layout(loader)?, L::buffers(loader, rows)?);
        let total = config.layers() + 1;
        let done = AtomicUsize::new(0);
        let step = || {
            loader.release_pages();
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        };
        let layers = load_layers(loader, threads, &step)?;

        let root = loader.scope("");
        let tokens = loader.shard.range("the vocabulary", config.vocab, 1)?;
        let mine = || Part::Rows(tokens.clone());
        let (vocab, hidden) = (config.vocab, config.hidden);
        let embedding = root.matrix(&[("model.embed_tokens", vocab, hidden, mine())])?;
        let head = match config.tied_embeddings {
            true => None,
            false => Some(root.matrix(&[("lm_head", vocab, hidden, mine())])?),
        };
        let final_norm = root.tensor("model.norm.weight", &[hidden], &Part::Whole)?;
        let mut final_norm = root.norm_weight(final_norm)?;
        if config.scales.logits != 1.0 {
            let scaled: Vec<f32> = final_norm.to_f32()?.iter().map(|w| w * config.scales.logits).collect();
            final_norm = TensorData::from_f32("model.norm.weight", &scaled);
        }
        let classifier = match config.labels {
            0 => None,
            labels => Some(root.tensor("score.weight", &[labels, hidden], &Part::Whole)?.to_f32()?),
        };
        let pooling = PoolingHead {
            scale: 1.0 / config.scales.logits,
            normalise: config.normalises_embeddings,
            classifier,
        };
        let (rotary, rotary_of) = Rotary::load_all(loader, rows)?;
        step();
        let tensor = |columns| backend.tensor(rows, columns);
        let logits = |columns| backend.tensor_f32(super::LOGIT_ROWS_MAX, columns);
        let whole = loader.shard.ranks == 1;
        Ok(Self {
            kv_layout,
            kv_dtype: backend.kv_dtype(config.full_precision),
            ranks: loader.shard.ranks,
            first_token: tokens.start as TokenId,
            embedding,
            head,
            final_norm: backend.vector(&[final_norm])?,
            rotary,
            rotary_of,
            layers,
            stream: Stream {
                residual: backend.tensor_f32(rows, hidden)?,
                normed: tensor(hidden)?,
                // A norm reads f32.
                delta: if config.post_norms { backend.tensor_f32(rows, hidden)? } else { tensor(hidden)? },
                normed_delta: if config.post_norms { Some(tensor(hidden)?) } else { None },
                last: backend.tensor(super::LOGIT_ROWS_MAX, hidden)?,
                part: logits(tokens.len())?,
                logits: logits(if whole { 0 } else { vocab })?,
            },
            buffers,
            pooling,
            config: config.clone(),
        })
    }
}

/// All layers in order, `threads` at a time.
fn load_layers<B: Backend + Sync, L: Layer<B>>(
    loader: &Loader<'_, B>,
    threads: usize,
    step: &(dyn Fn() + Sync),
) -> Result<Vec<L>, LoadError> {
    let count = loader.config.layers();
    let next = AtomicUsize::new(0);
    let loaded: Mutex<Vec<(usize, L)>> = Mutex::new(Vec::with_capacity(count));
    let failed: Mutex<Option<LoadError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || lock(&failed).is_some() {
                        return;
                    }
                    match L::load(&loader.scope(format!("model.layers.{index}.")), index) {
                        Ok(layer) => lock(&loaded).push((index, layer)),
                        Err(error) => *lock(&failed) = Some(error),
                    }
                    step();
                }
            });
        }
    });
    if let Some(error) = lock(&failed).take() {
        return Err(error);
    }
    let mut layers = std::mem::take(&mut *lock(&loaded));
    layers.sort_by_key(|(index, _)| *index);
    Ok(layers.into_iter().map(|(_, layer)| layer).collect())
}

impl<B: Backend, L: Layer<B>> Model<B> for Decoder<B, L> {
    fn kv_spec(&self) -> KvSpec {
        KvSpec { layers: self.config.layers(), layout: self.kv_layout, dtype: self.kv_dtype }
    }

    fn vocab(&self) -> usize {
        self.config.vocab
    }

    fn forward(&mut self, backend: &mut B, kv: &mut B::KvCache) {
        let Self { config, stream: s, buffers, rotary, .. } = self;
        let Scales { embedding, residual, .. } = config.scales;
        backend.embed(&self.embedding, self.first_token, embedding / residual, &mut s.residual);
        backend.all_reduce(&mut s.residual);
        for rotary in rotary.iter_mut() {
            backend.rope_angles(&rotary.inv_freq, rotary.scale, &mut rotary.angles);
        }
        let mut step = Step {
            backend,
            kv,
            angles: &rotary[0].angles,
            normed: &mut s.normed,
            delta: &mut s.delta,
            layer: 0,
            residual: &mut s.residual,
            normed_delta: s.normed_delta.as_mut(),
            eps: config.rms_eps / (residual * residual),
            delta_eps: config.rms_eps,
            pending: false,
        };
        for (index, layer) in self.layers.iter().enumerate() {
            step.layer = index;
            step.angles = &rotary[self.rotary_of[index]].angles;
            layer.forward(&mut step, buffers);
        }
        step.norm(&self.final_norm);
    }

    fn logits(&mut self, backend: &mut B, outputs: Range<usize>) -> &mut B::Tensor {
        let Self { stream: s, .. } = self;
        backend.gather_outputs(&s.normed, outputs, &mut s.last);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        backend.linear(head, None, &s.last, &mut s.part);
        if self.ranks == 1 {
            return &mut s.part;
        }
        backend.all_gather(&s.part, &mut s.logits);
        &mut s.logits
    }

    fn hidden(&mut self, backend: &mut B, outputs: Range<usize>) -> &mut B::Tensor {
        backend.gather_outputs(&self.stream.normed, outputs, &mut self.stream.last);
        &mut self.stream.last
    }

    fn pooling_head(&self) -> &PoolingHead {
        &self.pooling
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
