//! The dense pre-norm decoder of Llama (Touvron et al. 2023), Qwen2 and Qwen3:
//!
//! ```text
//! x = embed(tokens)
//! per layer:  x += o(attention(rope(norm_q(q)), rope(norm_k(k)), v))   with q, k, v = qkv(rms_norm(x))
//!             x += down(silu(gate(h)) * up(h))                         with h = rms_norm(x)
//! logits = head(rms_norm(x))
//! ```
//!
//! The families differ in two places: Qwen2 has a bias on q, k and v, Qwen3 an RMSNorm on each
//! head of q and k. q, k and v are one fused projection, gate and up another. Every `x +=` is
//! fused with the norm that follows it, so a layer's output travels as `delta` to the next norm.

use super::{LoadError, Model, ModelConfig, Weights};
use crate::backend::{Backend, BackendError, Batch, KvDtype, KvLayout, KvSpec};
use crate::checkpoint::{Dtype, TensorData};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Layer<B: Backend> {
    attention_norm: B::Vector,
    qkv: B::Matrix,
    qkv_bias: Option<B::Vector>,
    qk_norm: Option<(B::Vector, B::Vector)>,
    o: B::Matrix,
    o_bias: Option<B::Vector>,
    window: Option<usize>,
    mlp_norm: B::Vector,
    gate_up: B::Matrix,
    down: B::Matrix,
}

/// A step's activations, allocated once for the largest step.
struct Buffers<B: Backend> {
    residual: B::Tensor,
    normed: B::Tensor,
    delta: B::Tensor,
    angles: B::Tensor,
    qkv: B::Tensor,
    attention: B::Tensor,
    gate_up: B::Tensor,
    activated: B::Tensor,
    last: B::Tensor,
    logits: B::Tensor,
}

/// A loaded dense decoder.
pub struct Decoder<B: Backend> {
    config: ModelConfig,
    embedding: B::Matrix,
    /// None when the embedding table is the output head.
    head: Option<B::Matrix>,
    final_norm: B::Vector,
    inv_freq: B::Vector,
    layers: Vec<Layer<B>>,
    buffers: Buffers<B>,
}

impl<B: Backend + Sync> Decoder<B> {
    /// Loads every weight, `threads` layers at a time. `rows` is the largest step. `progress`
    /// is told (loaded, total) pieces, from any thread.
    pub fn load(
        backend: &B,
        config: &ModelConfig,
        weights: Weights<'_>,
        rows: usize,
        threads: usize,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self, LoadError> {
        let total = config.layers() + 1;
        let done = AtomicUsize::new(0);
        let next = AtomicUsize::new(0);
        let loaded: Mutex<Vec<(usize, Layer<B>)>> = Mutex::new(Vec::with_capacity(config.layers()));
        let failed: Mutex<Option<LoadError>> = Mutex::new(None);
        let step = || {
            weights.release_pages();
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        };
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, config.layers()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= config.layers() || lock(&failed).is_some() {
                            return;
                        }
                        match Layer::load(backend, config, weights, index) {
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

        let table = [config.vocab, config.hidden];
        let embedding = backend.matrix(&[weights.get("model.embed_tokens.weight", &table)?])?;
        let head = match config.tied_embeddings {
            true => None,
            false => Some(backend.matrix(&[weights.get("lm_head.weight", &table)?])?),
        };
        let final_norm = backend.vector(&[weights.get("model.norm.weight", &[config.hidden])?])?;
        let factors = match weights.has("rope_freqs.weight") {
            true => Some(read_f32(&weights.get("rope_freqs.weight", &[config.gqa().heads.head_dim / 2])?)?),
            false => None,
        };
        let inv_freq = config.rope.inv_freq(config.gqa().heads.head_dim, factors.as_deref());
        step();
        Ok(Self {
            embedding,
            head,
            final_norm,
            inv_freq: backend.vector(&[from_f32("inv_freq", &inv_freq)])?,
            layers: layers.into_iter().map(|(_, layer)| layer).collect(),
            buffers: Buffers::allocate(backend, config, rows)?,
            config: config.clone(),
        })
    }
}

impl<B: Backend> Decoder<B> {
    /// Bytes of all matrices in their served form.
    pub fn weight_bytes(&self, backend: &B) -> usize {
        let of = |matrix| backend.matrix_bytes(matrix);
        let layers = self.layers.iter().map(|l| of(&l.qkv) + of(&l.o) + of(&l.gate_up) + of(&l.down));
        of(&self.embedding) + self.head.as_ref().map_or(0, of) + layers.sum::<usize>()
    }
}

impl<B: Backend> Layer<B> {
    fn load(backend: &B, c: &ModelConfig, weights: Weights<'_>, index: usize) -> Result<Self, LoadError> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let get = |part: &str, shape: &[usize]| weights.get(&name(part), shape);
        let vector =
            |part: &str, size: usize| -> Result<_, LoadError> { Ok(backend.vector(&[get(part, &[size])?])?) };
        let (q, kv) = (c.gqa().heads.q_dim(), c.gqa().heads.kv_heads * c.gqa().heads.head_dim);
        let qkv_bias = match c.gqa().qkv_bias {
            true => Some(backend.vector(&[
                get("self_attn.q_proj.bias", &[q])?,
                get("self_attn.k_proj.bias", &[kv])?,
                get("self_attn.v_proj.bias", &[kv])?,
            ])?),
            false => None,
        };
        let qk_norm = match c.gqa().qk_norm == super::config::QkNorm::Head {
            true => Some((
                vector("self_attn.q_norm.weight", c.gqa().heads.head_dim)?,
                vector("self_attn.k_norm.weight", c.gqa().heads.head_dim)?,
            )),
            false => None,
        };
        let o_bias = match c.gqa().o_bias {
            true => Some(vector("self_attn.o_proj.bias", c.hidden)?),
            false => None,
        };
        Ok(Self {
            attention_norm: vector("input_layernorm.weight", c.hidden)?,
            qkv: backend.matrix(&[
                get("self_attn.q_proj.weight", &[q, c.hidden])?,
                get("self_attn.k_proj.weight", &[kv, c.hidden])?,
                get("self_attn.v_proj.weight", &[kv, c.hidden])?,
            ])?,
            qkv_bias,
            qk_norm,
            o: backend.matrix(&[get("self_attn.o_proj.weight", &[c.hidden, q])?])?,
            o_bias,
            window: c.windows[index],
            mlp_norm: vector("post_attention_layernorm.weight", c.hidden)?,
            gate_up: backend.matrix(&[
                get("mlp.gate_proj.weight", &[c.intermediate, c.hidden])?,
                get("mlp.up_proj.weight", &[c.intermediate, c.hidden])?,
            ])?,
            down: backend.matrix(&[get("mlp.down_proj.weight", &[c.hidden, c.intermediate])?])?,
        })
    }
}

impl<B: Backend> Buffers<B> {
    fn allocate(backend: &B, c: &ModelConfig, rows: usize) -> Result<Self, LoadError> {
        let tensor = |columns| backend.tensor(rows, columns);
        Ok(Self {
            residual: tensor(c.hidden)?,
            normed: tensor(c.hidden)?,
            delta: tensor(c.hidden)?,
            angles: tensor(c.gqa().heads.head_dim)?,
            qkv: tensor(c.gqa().heads.qkv_dim())?,
            attention: tensor(c.gqa().heads.q_dim())?,
            gate_up: tensor(2 * c.intermediate)?,
            activated: tensor(c.intermediate)?,
            last: backend.tensor(super::LOGIT_ROWS_MAX, c.hidden)?,
            logits: backend.tensor(super::LOGIT_ROWS_MAX, c.vocab)?,
        })
    }
}

impl<B: Backend> Model<B> for Decoder<B> {
    fn kv_spec(&self) -> KvSpec {
        KvSpec {
            layers: self.config.layers(),
            layout: KvLayout::Heads {
                kv_heads: self.config.gqa().heads.kv_heads,
                head_dim: self.config.gqa().heads.head_dim,
            },
            dtype: if self.config.full_precision { KvDtype::F32 } else { KvDtype::F16 },
        }
    }

    fn vocab(&self) -> usize {
        self.config.vocab
    }

    fn forward(&mut self, backend: &mut B, batch: &Batch, kv: &mut B::KvCache) {
        let Self { config, buffers: b, .. } = self;
        let (heads, eps) = (config.gqa().heads, config.rms_eps);
        let scale = 1.0 / (heads.head_dim as f32).sqrt();
        backend.embed(&self.embedding, 0, &batch.tokens, &mut b.residual);
        backend.rope_angles(&self.inv_freq, config.rope.attention_factor(), &batch.positions, &mut b.angles);
        for (index, layer) in self.layers.iter().enumerate() {
            let delta = (index > 0).then_some(&b.delta);
            backend.add_rms_norm(&mut b.residual, delta, &layer.attention_norm, eps, &mut b.normed);
            backend.linear(&layer.qkv, layer.qkv_bias.as_ref(), &b.normed, &mut b.qkv);
            let norms = layer.qk_norm.as_ref().map(|(q, k)| (q, k, eps));
            backend.rope_kv_write(&mut b.qkv, heads, norms, &b.angles, config.rope_style, batch, kv, index);
            backend.attention(&b.qkv, heads, scale, layer.window, batch, kv, index, &mut b.attention);
            backend.linear(&layer.o, layer.o_bias.as_ref(), &b.attention, &mut b.delta);
            backend.add_rms_norm(&mut b.residual, Some(&b.delta), &layer.mlp_norm, eps, &mut b.normed);
            backend.linear(&layer.gate_up, None, &b.normed, &mut b.gate_up);
            backend.silu_mul(&b.gate_up, &mut b.activated);
            backend.linear(&layer.down, None, &b.activated, &mut b.delta);
        }
        backend.add_rms_norm(&mut b.residual, Some(&b.delta), &self.final_norm, eps, &mut b.normed);
    }

    fn logits(&mut self, backend: &mut B, rows: &[u32]) -> &B::Tensor {
        let Self { buffers: b, .. } = self;
        backend.gather_rows(&b.normed, rows, &mut b.last);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        backend.linear(head, None, &b.last, &mut b.logits);
        &b.logits
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn from_f32(name: &str, values: &[f32]) -> TensorData<'static> {
    TensorData {
        name: name.into(),
        dtype: Dtype::F32,
        shape: vec![values.len()],
        data: values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into(),
    }
}

fn read_f32(tensor: &TensorData<'_>) -> Result<Vec<f32>, BackendError> {
    if tensor.dtype != Dtype::F32 {
        return Err(BackendError::Unsupported(format!(
            "tensor {} must be F32, is {:?}",
            tensor.name, tensor.dtype
        )));
    }
    Ok(tensor
        .data
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect())
}
