//! The backend trait: about a dozen fused operations over preallocated buffers. A backend knows
//! tensors and a [`Batch`] descriptor, never requests; models are generic over it and written once.
//!
//! Invariants every backend keeps:
//! - One call handles all rows of a step; each weight is read once per step.
//! - The bits of a row's result do not depend on which other rows are in the step, on where a
//!   prefill chunk ends or on a prefix hit: the order of summation over K and over KV positions
//!   is fixed by absolute position alone.
//!
//! Activations are matrices of f32 on the CPU backend. A [`Backend::Tensor`] is allocated for a
//! maximal number of rows; each operation sets its output's current row count from its inputs.

pub mod cpu;

use crate::checkpoint::TensorData;
use crate::protocol::TokenId;

/// Tokens per KV block.
pub const KV_BLOCK_TOKENS: usize = 16;

/// How a rotary embedding pairs the dimensions of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Dimension i with i + rotary_dim/2 (Hugging Face's `rotate_half`, GPT-NeoX).
    Half,
    /// Dimension 2i with 2i + 1 (the RoPE paper; GGUF files of the llama architecture).
    Interleaved,
}

/// The shape of an attention layer's fused projection: each row of `qkv` is
/// `heads * head_dim` of q, then `kv_heads * head_dim` of k, then the same of v.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLayout {
    /// Query heads; a multiple of `kv_heads` (GQA).
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
}

impl HeadLayout {
    /// Width of a fused qkv row.
    pub fn qkv_dim(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
    /// Width of the attention output, `heads * head_dim`.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Element type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDtype {
    /// 4 bytes a value; for f32 checkpoints.
    F32,
    /// 2 bytes a value.
    F16,
}

/// A cache group: what one KV block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// Layers that write to this group.
    pub layers: usize,
    /// Key and value heads per layer.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Element type.
    pub dtype: KvDtype,
}

impl KvSpec {
    /// Bytes of one block of [`KV_BLOCK_TOKENS`] tokens over all layers, keys and values.
    pub fn block_bytes(&self) -> usize {
        let value = match self.dtype {
            KvDtype::F32 => 4,
            KvDtype::F16 => 2,
        };
        2 * self.layers * self.kv_heads * self.head_dim * KV_BLOCK_TOKENS * value
    }
}

/// One sequence's part of a step: rows `row .. row + rows` of the batch hold its tokens at
/// positions `context - rows .. context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqSpan {
    /// First row.
    pub row: usize,
    /// Number of rows, at least 1 (1 for a decode).
    pub rows: usize,
    /// KV length after this step, these rows included.
    pub context: usize,
    /// Where this sequence's block table starts in [`Batch::block_tables`]; it has
    /// `context.div_ceil(KV_BLOCK_TOKENS)` entries.
    pub table: usize,
}

/// What a step computes: all rows of all its sequences, prefill chunks and decodes alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Input token of each row.
    pub tokens: Vec<TokenId>,
    /// Absolute position of each row in its sequence.
    pub positions: Vec<u32>,
    /// KV slot of each row: block * KV_BLOCK_TOKENS + offset. No slot occurs twice.
    pub slots: Vec<u32>,
    /// The sequences, in row order.
    pub seqs: Vec<SeqSpan>,
    /// The block tables of all sequences, one after the other.
    pub block_tables: Vec<u32>,
}

/// The operations a model is written in. Shapes are `[rows, columns]`, row-major.
pub trait Backend: Send + 'static {
    /// Activations, `[rows <= max_rows, columns]`.
    type Tensor: Send;
    /// A weight matrix `[out, in]` in its served form; also an embedding table.
    type Matrix: Send;
    /// A small f32 vector: norm weights, biases, rotary frequencies.
    type Vector: Send;
    /// One cache group's blocks.
    type KvCache: Send;

    /// Packs matrices with equal `in`, stacked along `out`, into one served matrix (a fused qkv
    /// or gate-up projection). Parts may differ in type. May run on several threads at once.
    fn matrix(&self, parts: &[TensorData<'_>]) -> Result<Self::Matrix, BackendError>;
    /// Bytes that a served matrix occupies.
    fn matrix_bytes(&self, m: &Self::Matrix) -> usize;
    /// Loads vectors, one after the other (a fused bias), as f32.
    fn vector(&self, parts: &[TensorData<'_>]) -> Result<Self::Vector, BackendError>;
    /// A buffer of `max_rows x columns` activations with no current rows.
    fn tensor(&self, max_rows: usize, columns: usize) -> Result<Self::Tensor, BackendError>;
    /// A cache of `blocks` KV blocks.
    fn kv_cache(&self, spec: &KvSpec, blocks: usize) -> Result<Self::KvCache, BackendError>;

    /// `out[r] = table[tokens[r]]`.
    fn embed(&mut self, table: &Self::Matrix, tokens: &[TokenId], out: &mut Self::Tensor);
    /// residual += delta (when given); out = residual / rms(residual) * weight
    /// (RMSNorm, Zhang & Sennrich 2019).
    fn add_rms_norm(
        &mut self,
        residual: &mut Self::Tensor,
        delta: Option<&Self::Tensor>,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Tensor,
    );
    /// out = x W^T (+ bias).
    fn linear(
        &mut self,
        w: &Self::Matrix,
        bias: Option<&Self::Vector>,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    );
    /// Rotary angles of a step, used by all its layers: `out[r]` = cos then sin of
    /// `positions[r] * inv_freq`, both times `scale`; `[rows, rotary_dim]`.
    fn rope_angles(&mut self, inv_freq: &Self::Vector, scale: f32, positions: &[u32], out: &mut Self::Tensor);
    /// In place on q and k of each `qkv` row: per-head RMSNorm (`norms` = q weight, k weight, eps;
    /// Qwen3), rotary embedding over the first rotary_dim values of each head, then k and v are
    /// written to the row's KV slot.
    #[allow(clippy::too_many_arguments)]
    fn rope_kv_write(
        &mut self,
        qkv: &mut Self::Tensor,
        heads: HeadLayout,
        norms: Option<(&Self::Vector, &Self::Vector, f32)>,
        angles: &Self::Tensor,
        style: RopeStyle,
        batch: &Batch,
        kv: &mut Self::KvCache,
        layer: usize,
    );
    /// Causal paged attention of every row over its sequence's KV, its own position included:
    /// `out[r] = softmax(scale * q k^T) v`, `[rows, heads * head_dim]`. With `window` = w a row
    /// at position p sees positions > p - w only. q is read from the fused `qkv` rows.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &mut self,
        qkv: &Self::Tensor,
        heads: HeadLayout,
        scale: f32,
        window: Option<usize>,
        batch: &Batch,
        kv: &Self::KvCache,
        layer: usize,
        out: &mut Self::Tensor,
    );
    /// `gate_up` rows are gate then up: out = silu(gate) * up.
    fn silu_mul(&mut self, gate_up: &Self::Tensor, out: &mut Self::Tensor);
    /// `out[i] = x[rows[i]]`.
    fn gather_rows(&mut self, x: &Self::Tensor, rows: &[u32], out: &mut Self::Tensor);
    /// The tensor's current rows on the host, row-major.
    fn read<'a>(&'a mut self, x: &'a Self::Tensor) -> &'a [f32];
}

/// What can go wrong in a backend; it is an engine's end, not a request's.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A buffer could not be had.
    #[error("out of memory: {wanted_bytes} bytes for {what}")]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// How much.
        wanted_bytes: usize,
    },
    /// A weight's type or shape has no kernel.
    #[error("{0}")]
    Unsupported(String),
}
