//! The backend trait: some twenty fused operations over preallocated buffers. A backend knows
//! tensors and a [`Batch`] descriptor, never requests; models are generic over it and written once.
//!
//! Invariants every backend keeps:
//! - One call handles all rows of a step; each weight is read once per step.
//! - The bits of a row's result do not depend on which other rows are in the step, on where a
//!   prefill chunk ends or on a prefix hit: the order of summation over K and over KV positions
//!   is fixed by absolute position alone.
//!
//! A backend is one rank of a group of equal ranks (tensor parallelism); alone it is rank 0 of 1.
//! Collectives are called by all ranks in the same order.
//!
//! Activations are matrices of f32 on the CPU backend, of bf16 or f16 on GPUs but for
//! [`Backend::tensor_f32`]. A [`Backend::Tensor`] is allocated for a
//! maximal number of rows; each operation sets its output's current row count from its inputs.

pub mod ceiling;
pub mod cpu;
pub mod hip;

use crate::checkpoint::TensorData;
use crate::protocol::TokenId;
use std::sync::Arc;

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

/// The shape of multi-head latent attention (MLA; DeepSeek-V2, 2024). A row of q is, per head,
/// `nope_dim` values without position and `rope_dim` rotated ones. A token's cache entry is the
/// normed latent (`rank` values) and one rotated key of `rope_dim` that all heads share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentLayout {
    /// Query heads.
    pub heads: usize,
    /// `kv_lora_rank`.
    pub rank: usize,
    /// `qk_nope_head_dim`.
    pub nope_dim: usize,
    /// `qk_rope_head_dim`.
    pub rope_dim: usize,
    /// `v_head_dim`.
    pub v_dim: usize,
}

impl LatentLayout {
    /// Width of a row of q.
    pub fn q_dim(&self) -> usize {
        self.heads * (self.nope_dim + self.rope_dim)
    }
    /// Width of a token's cache entry, and of a head's absorbed query.
    pub fn entry_dim(&self) -> usize {
        self.rank + self.rope_dim
    }
}

/// What a token's entry in one layer of a KV cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvLayout {
    /// A key and a value for each kv head.
    Heads {
        /// Key and value heads.
        kv_heads: usize,
        /// Values per head.
        head_dim: usize,
    },
    /// One latent and one rotated key, see [`LatentLayout`].
    Latent {
        /// Values of the latent.
        rank: usize,
        /// Values of the rotated key.
        rope_dim: usize,
    },
}

/// A cache group: what one KV block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// Layers that write to this group.
    pub layers: usize,
    /// A token's entry in each of them.
    pub layout: KvLayout,
    /// Element type.
    pub dtype: KvDtype,
}

impl KvSpec {
    /// Bytes of one token over all layers.
    pub fn token_bytes(&self) -> usize {
        let value = match self.dtype {
            KvDtype::F32 => 4,
            KvDtype::F16 => 2,
        };
        let values = match self.layout {
            KvLayout::Heads { kv_heads, head_dim } => 2 * kv_heads * head_dim,
            KvLayout::Latent { rank, rope_dim } => rank + rope_dim,
        };
        self.layers * values * value
    }

    /// Bytes of one block of [`KV_BLOCK_TOKENS`] tokens over all layers.
    pub fn block_bytes(&self) -> usize {
        self.token_bytes() * KV_BLOCK_TOKENS
    }
}

/// What a gated MLP's gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e^-x), also called swish.
    Silu,
    /// GELU approximated by tanh (Hendrycks & Gimpel 2016).
    GeluTanh,
}

/// How a router turns logits into scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Over all experts.
    Softmax,
    /// Each expert by itself.
    Sigmoid,
}

/// What stands for a group of experts when groups are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// Its best expert (DeepSeek-V2).
    Best,
    /// The sum of its two best (DeepSeek-V3).
    BestTwo,
}

/// Group-limited routing: consecutive experts form `count` groups, and only those in the `keep`
/// best groups can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Groups; divides the number of experts.
    pub count: usize,
    /// Groups kept.
    pub keep: usize,
    /// How they are ranked.
    pub score: GroupScore,
}

/// How the experts of a token are chosen and weighed. With a correction bias, groups and experts
/// are chosen by score + bias and weighed by the score alone. Of equals the lower index wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts of the layer, on all ranks together.
    pub experts: usize,
    /// Chosen per token.
    pub top_k: usize,
    /// From logits to scores.
    pub scoring: Scoring,
    /// Group-limited choice.
    pub groups: Option<ExpertGroups>,
    /// Chosen weights are divided by their sum.
    pub normalise: bool,
    /// Then multiplied by this (`routed_scaling_factor`).
    pub scale: f32,
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
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// Rows whose logits are wanted, in any order.
    pub outputs: Vec<u32>,
    /// How the token after each of these rows is chosen; empty where the backend does not choose.
    pub choices: Vec<Choice>,
    /// [`Backend::constrain`] says of some of these choices which tokens they may take. Then [`Backend::run`]
    /// is given the forward pass alone, so that masks need not be known before it.
    pub constrained: bool,
}

/// How a token is chosen from a row's logits: they are adjusted, then ranked after temperature,
/// top_k, top_p and min_p, then drawn from by the inverse CDF over the kept tokens in order of
/// their ids. The default is the first largest logit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Uniform in [0, 1).
    pub draw: f64,
    /// 1 / temperature; 0: the first largest logit.
    pub scale: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// 1 keeps all.
    pub top_p: f32,
    /// 0 keeps all.
    pub min_p: f32,
    /// Repetition, frequency and presence penalty.
    pub penalties: [f32; 3],
    /// What they and biases apply to; no token twice.
    pub adjusted: Vec<Adjusted>,
}

/// A token whose logit is adjusted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adjusted {
    /// Which.
    pub token: TokenId,
    /// Occurrences in the output.
    pub count: u32,
    /// Whether it is in the prompt or the output.
    pub seen: bool,
    /// Added first; -infinity is a ban.
    pub bias: f32,
}

/// Stands for the token of a row whose logits cannot be chosen from.
pub const BROKEN: TokenId = TokenId::MAX;

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
    /// The matrices of a layer's experts that this rank holds, all of one shape.
    type Experts: Send;
    /// One small matrix for each head, all of one shape.
    type Heads: Send;
    /// A step's (row, expert, weight) pairs, those of one expert together.
    type Routes: Send;

    /// (this rank, number of ranks).
    fn rank(&self) -> (usize, usize);

    /// Packs matrices with equal `in`, stacked along `out`, into one served matrix (a fused qkv
    /// or gate-up projection). Parts may differ in type. May run on several threads at once.
    fn matrix(&self, parts: &[TensorData<'_>]) -> Result<Self::Matrix, BackendError>;
    /// Bytes that a served matrix occupies.
    fn matrix_bytes(&self, m: &Self::Matrix) -> usize;
    /// Its element types, for a log: `BF16`, `Q4_K+Q6_K`.
    fn matrix_kind(&self, m: &Self::Matrix) -> String;
    /// Loads vectors, one after the other (a fused bias), as f32.
    fn vector(&self, parts: &[TensorData<'_>]) -> Result<Self::Vector, BackendError>;
    /// A buffer of `max_rows x columns` activations with no current rows, in the type that the
    /// backend computes products in.
    fn tensor(&self, max_rows: usize, columns: usize) -> Result<Self::Tensor, BackendError>;
    /// The same in f32 everywhere: the residual stream, angles, router logits, logits.
    fn tensor_f32(&self, max_rows: usize, columns: usize) -> Result<Self::Tensor, BackendError>;
    /// The same in the KV cache's type on GPUs: queries and results in the latent's space.
    fn tensor_cached(&self, max_rows: usize, columns: usize) -> Result<Self::Tensor, BackendError>;
    /// The element type of a KV cache, for a checkpoint in f32 or in less.
    fn kv_dtype(&self, full_precision: bool) -> KvDtype;
    /// A cache of `blocks` KV blocks.
    fn kv_cache(&self, spec: &KvSpec, blocks: usize) -> Result<Self::KvCache, BackendError>;

    /// The experts of a layer, in order; shapes are equal.
    fn experts(&self, matrices: Vec<Self::Matrix>) -> Result<Self::Experts, BackendError>;
    /// The matrices of a layer's heads, in order; shapes are equal.
    fn heads(&self, matrices: Vec<Self::Matrix>) -> Result<Self::Heads, BackendError>;
    /// Room for the pairs of `max_rows` rows with `top_k` experts each.
    fn routes(&self, max_rows: usize, top_k: usize) -> Result<Self::Routes, BackendError>;

    /// Copies KV blocks in all layers, for pairs of a source and a target; no block is in two pairs.
    fn copy_blocks(&mut self, kv: &mut Self::KvCache, pairs: &[(u32, u32)]);

    /// Begins a step: what follows is about the rows and sequences of this batch.
    fn begin(&mut self, batch: &Batch);
    /// `out[r] = scale * table[token of row r - first]`; zeros where the table, a shard of the
    /// vocabulary from token `first` on, does not hold the token.
    fn embed(&mut self, table: &Self::Matrix, first: TokenId, scale: f32, out: &mut Self::Tensor);
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
    /// `position of row r * inv_freq`, both times `scale`; `[rows, rotary_dim]`.
    fn rope_angles(&mut self, inv_freq: &Self::Vector, scale: f32, out: &mut Self::Tensor);
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
        kv: &Self::KvCache,
        layer: usize,
        out: &mut Self::Tensor,
    );
    /// In place on each `qkv` row: RMSNorm over all of q and over all of k, every rank's heads
    /// included (MiniMax-M2). The weights are this rank's part. A collective; kv heads that are
    /// replicated are so equally often.
    fn joint_qk_norm(
        &mut self,
        qkv: &mut Self::Tensor,
        heads: HeadLayout,
        q_norm: &Self::Vector,
        k_norm: &Self::Vector,
        eps: f32,
    );

    /// MLA's rotary part and cache write. `q` rows are as in [`LatentLayout`]; each head's rotated
    /// part goes to the last `rope_dim` of its `entry_dim` columns in `query`. `latent` rows are
    /// the latent, then the key to rotate: the latent is normed (RMSNorm with `norm`, `eps`), the
    /// key rotated, and both are written to the row's KV slot.
    #[allow(clippy::too_many_arguments)]
    fn mla_rope_kv_write(
        &mut self,
        q: &Self::Tensor,
        latent: &Self::Tensor,
        layout: LatentLayout,
        norm: &Self::Vector,
        eps: f32,
        angles: &Self::Tensor,
        style: RopeStyle,
        kv: &mut Self::KvCache,
        layer: usize,
        query: &mut Self::Tensor,
    );
    /// One matrix per head: of each head's equal share of x's columns the first `in` go through
    /// its matrix to the first `out` of its share of out's columns; other columns stay.
    fn head_linear(&mut self, w: &Self::Heads, x: &Self::Tensor, out: &mut Self::Tensor);
    /// Causal paged attention over latents, in latent space (absorbed projections): `query` rows
    /// are `entry_dim` per head, out rows `rank` per head:
    /// `out[r] = softmax(scale * query [latent, key]^T) latent`.
    #[allow(clippy::too_many_arguments)]
    fn mla_attention(
        &mut self,
        query: &Self::Tensor,
        layout: LatentLayout,
        scale: f32,
        kv: &Self::KvCache,
        layer: usize,
        out: &mut Self::Tensor,
    );
    /// Whether [`Backend::mla_attention_expanded`] takes any step of layers of this shape: their
    /// `kv_b` is to be kept for it.
    fn mla_expands(&self, _layout: LatentLayout) -> bool {
        false
    }
    /// Latent attention over keys and values of each head, made from the latents of the step's own
    /// rows, for steps where that is less work: whether this was one. If not, nothing is done, and
    /// [`Backend::mla_attention`] is the way. Comes after [`Backend::mla_rope_kv_write`] of the same
    /// layer, with what that has read and written. `kv_b` is `[heads * (nope_dim + v_dim), rank]`,
    /// for each head K, then V; with c a row's normed latent and r its rotated key, a head's row of
    /// out `[rows, heads * v_dim]` is `softmax(scale * q [K c, r]^T) V c` over the rows seen.
    ///
    /// Its results differ from the other way's by rounding, and which one a row goes depends on
    /// what else is in the step: backends whose bits do not depend on that never take it.
    #[allow(clippy::too_many_arguments)]
    fn mla_attention_expanded(
        &mut self,
        _kv_b: &Self::Matrix,
        _q: &Self::Tensor,
        _query: &Self::Tensor,
        _layout: LatentLayout,
        _scale: f32,
        _kv: &Self::KvCache,
        _layer: usize,
        _out: &mut Self::Tensor,
    ) -> bool {
        false
    }

    /// Chooses each row's experts from its router logits `[rows, experts]`. Pairs with an expert
    /// outside `local`, those of this rank, are left out.
    fn moe_route(
        &mut self,
        logits: &Self::Tensor,
        bias: Option<&Self::Vector>,
        routing: &Routing,
        local: std::ops::Range<usize>,
        routes: &mut Self::Routes,
    );
    /// `out[i] = x[row of pair i]`.
    fn moe_dispatch(&mut self, x: &Self::Tensor, routes: &Self::Routes, out: &mut Self::Tensor);
    /// `out[i] = x[i] W^T` with the matrix of pair i's expert; each active expert's weights are
    /// read once.
    fn expert_linear(
        &mut self,
        w: &Self::Experts,
        routes: &Self::Routes,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    );
    /// `out[r] = shared[r] + sum of weight * x[i]` over row r's pairs, in the order of experts.
    fn moe_combine(
        &mut self,
        x: &Self::Tensor,
        routes: &Self::Routes,
        shared: Option<&Self::Tensor>,
        out: &mut Self::Tensor,
    );
    /// Weight bytes that [`Backend::expert_linear`] has read so far; 0 where a backend does not count.
    fn expert_bytes_read(&self) -> u64;

    /// x = the sum of all ranks' x, in the order of ranks. A collective.
    fn all_reduce(&mut self, x: &mut Self::Tensor);
    /// out = all ranks' columns side by side, in the order of ranks; parts are as even as whole
    /// columns allow. A collective.
    fn all_gather(&mut self, x: &Self::Tensor, out: &mut Self::Tensor);

    /// `gate_up` rows are gate then up: out = activation(gate) * up.
    fn gate_mul(&mut self, activation: Activation, gate_up: &Self::Tensor, out: &mut Self::Tensor);
    /// `out[i] = x[outputs[i]]` for that range of the batch's outputs.
    fn gather_outputs(&mut self, x: &Self::Tensor, range: std::ops::Range<usize>, out: &mut Self::Tensor);
    /// Whether [`Backend::sample`] takes rows of so many logits. Where it does not, tokens are
    /// chosen on the host.
    fn samples(&self, vocab: usize) -> bool;
    /// Which tokens may be chosen after some outputs of a step: (output, words), where bit `t % 32` of word `t / 32`
    /// is set for each token `t` that may. Said once, before [`Backend::sample`], of a batch that is `constrained`.
    /// Other tokens' logits become -infinity before they are adjusted; NaN and +infinity stay.
    fn constrain(&mut self, masks: &[(usize, Arc<[u32]>)]);
    /// Chooses the tokens after that range of the batch's outputs from their logits, which it
    /// may change where a choice adjusts them.
    fn sample(&mut self, logits: &mut Self::Tensor, range: std::ops::Range<usize>);
    /// The tokens chosen in this step, in the order of its outputs; [`BROKEN`] where logits are NaN,
    /// +infinity or all -infinity. Waits for all work before it and fails as [`Backend::read`].
    fn tokens(&mut self) -> Result<&[TokenId], BackendError>;
    /// Does the `work` of a step, which is the same operations for every batch of the same form and
    /// waits for nothing. A backend may record it and replay it for later batches; whether it did.
    /// After a replay, tensors are the device's alone: they are not to be read.
    fn run(&mut self, work: &mut dyn FnMut(&mut Self)) -> bool
    where
        Self: Sized;

    /// Waits for all work so far, where nothing of it is read. Fails as [`Backend::read`].
    fn finish(&mut self) -> Result<(), BackendError>;
    /// Makes it `rows` rows of these values, row-major, rounded to the tensor's type.
    fn write(&mut self, x: &mut Self::Tensor, rows: usize, values: &[f32]);
    /// The tensor's current rows on the host in f32, row-major; waits for all work before it. Fails
    /// where any operation since the last one failed.
    fn read<'a>(&'a mut self, x: &'a Self::Tensor) -> Result<&'a [f32], BackendError>;
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
    /// The device failed: it was lost, or a launch was refused.
    #[error("{device}: {cause}")]
    Device {
        /// `hip:0`.
        device: String,
        /// The driver's words.
        cause: String,
    },
}
