//! Shapes that operations are measured at: those of published models, and tiny ones for a check
//! that everything runs.

use novastack::backend::ceiling::ProbeSize;
use novastack::backend::{HeadLayout, LatentLayout};

/// What is measured.
pub struct Shapes {
    /// Rows of a product with a matrix.
    pub rows: &'static [usize],
    /// Rows of operations that touch each value once.
    pub plain_rows: &'static [usize],
    pub hidden: usize,
    pub intermediate: usize,
    pub vocab: usize,
    pub heads: HeadLayout,
    /// (sequences, context) of decoding.
    pub decode: &'static [(usize, usize)],
    /// (rows, context) of one sequence's prefill.
    pub prefill: &'static [(usize, usize)],
    pub latent: LatentLayout,
    pub experts: Experts,
    /// Weights and caches rotate over so many bytes, more than caches hold.
    pub ring_bytes: usize,
    pub probe: ProbeSize,
    /// Seconds for the samples of a row.
    pub budget: f64,
}

/// A layer of a mixture.
pub struct Experts {
    pub experts: usize,
    pub top_k: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub rows: &'static [usize],
}

/// Qwen3-8B; latent attention of DeepSeek-V2-Lite, experts of Qwen3-30B-A3B.
pub const FULL: Shapes = Shapes {
    rows: &[1, 4, 8, 64, 512, 2048],
    plain_rows: &[8, 2048],
    hidden: 4096,
    intermediate: 12288,
    vocab: 32768,
    heads: HeadLayout { heads: 32, kv_heads: 8, head_dim: 128 },
    decode: &[(1, 1024), (8, 1024), (64, 1024), (1, 8192), (8, 8192), (64, 8192)],
    prefill: &[(512, 512), (2048, 2048), (512, 8192)],
    latent: LatentLayout { heads: 16, rank: 512, nope_dim: 128, rope_dim: 64, v_dim: 128 },
    experts: Experts {
        experts: 128,
        top_k: 8,
        hidden: 2048,
        intermediate: 768,
        rows: &[1, 8, 64, 512, 2048],
    },
    ring_bytes: 512 << 20,
    probe: ProbeSize { copy_bytes: 512 << 20, products: 8192 },
    budget: 0.2,
};

/// All operations in seconds, also where a CPU stands in for the GPU: the numbers mean nothing.
pub const QUICK: Shapes = Shapes {
    rows: &[1, 4, 8, 64],
    plain_rows: &[8],
    hidden: 256,
    intermediate: 512,
    vocab: 64,
    heads: HeadLayout { heads: 4, kv_heads: 2, head_dim: 64 },
    decode: &[(1, 33), (8, 300)],
    prefill: &[(48, 48), (32, 64)],
    latent: LatentLayout { heads: 4, rank: 64, nope_dim: 32, rope_dim: 32, v_dim: 32 },
    experts: Experts { experts: 8, top_k: 2, hidden: 256, intermediate: 128, rows: &[1, 24] },
    ring_bytes: 0,
    probe: ProbeSize { copy_bytes: 64 << 10, products: 8 },
    budget: 0.0,
};
