//! What a model holds on a GPU beside matrices and activations: caches, experts, heads, routes.

use super::device::{DeviceMemory, Stream};
use super::driver::DevicePointer;
use super::gpu::Gpu;
use super::matrix::{Format, Matrix, Part};
use crate::backend::{BackendError, KV_BLOCK_TOKENS, KvLayout, KvSpec};

/// Keys and values, or latents, of all layers: f16, whatever the spec says.
pub struct Cache {
    /// Keys, or latents.
    first: DeviceMemory,
    /// Values; of no use for latents.
    second: DeviceMemory,
    /// Bytes of a layer in each.
    layer_bytes: u64,
    layers: usize,
    /// Of a layer.
    block_bytes: usize,
}

impl Cache {
    /// Zeros: attention may read, with a weight of 0, what no token has written.
    pub fn new(gpu: &Gpu, stream: &Stream, spec: &KvSpec, blocks: usize) -> Result<Self, BackendError> {
        let (values, with_second) = match spec.layout {
            KvLayout::Heads { kv_heads, head_dim } => (kv_heads * head_dim, true),
            KvLayout::Latent { rank, rope_dim } => (rank + rope_dim, false),
        };
        let layer_bytes = blocks * KV_BLOCK_TOKENS * values * 2;
        let all = layer_bytes * spec.layers;
        let first = gpu.allocate("the KV cache", all)?;
        let second = gpu.allocate("the KV cache", if with_second { all } else { 0 })?;
        for memory in [&first, &second] {
            // SAFETY: waited for before it is freed: at the latest by the driver.
            unsafe { stream.fill(memory, 0) }.map_err(|error| gpu.failed(error))?;
        }
        stream.synchronize().map_err(|error| gpu.failed(error))?;
        let (layers, block_bytes) = (spec.layers, KV_BLOCK_TOKENS * values * 2);
        Ok(Self { first, second, layer_bytes: layer_bytes as u64, layers, block_bytes })
    }

    /// (all of what there is, layers, bytes of a layer, bytes of a block in one).
    pub fn parts(&self) -> (Vec<DevicePointer>, usize, u64, usize) {
        let parts = [&self.first, &self.second].into_iter().filter(|memory| memory.bytes() > 0);
        (parts.map(DeviceMemory::pointer).collect(), self.layers, self.layer_bytes, self.block_bytes)
    }

    /// Keys (or latents) and values of a layer.
    pub fn layer(&self, layer: usize) -> (DevicePointer, DevicePointer) {
        let at = layer as u64 * self.layer_bytes;
        (self.first.pointer() + at, self.second.pointer() + at)
    }
}

/// A layer's experts as one matrix, one after the other.
pub struct Experts {
    /// None where a rank has no expert.
    pub part: Option<Part>,
    /// Outputs of one.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
}

impl Experts {
    /// Errors: shapes or formats that differ.
    pub fn new(gpu: &Gpu, stream: &Stream, matrices: Vec<Matrix>) -> Result<Self, BackendError> {
        let Some(first) = matrices.first() else {
            return Ok(Self { part: None, rows: 0, columns: 0 });
        };
        let (rows, columns) = (first.rows, first.columns);
        let (part, _) = joined(gpu, stream, "experts", matrices)?;
        Ok(Self { part: Some(part), rows, columns })
    }
}

/// The matrices of a layer's heads, one after the other.
pub struct Heads {
    /// In the type of activations.
    pub values: DeviceMemory,
    /// Number of heads.
    pub heads: usize,
    /// Outputs of one.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
}

impl Heads {
    /// Errors: shapes that differ, quantised weights.
    pub fn new(gpu: &Gpu, stream: &Stream, matrices: Vec<Matrix>) -> Result<Self, BackendError> {
        let Some(first) = matrices.first() else {
            return Err(BackendError::Unsupported("a layer has heads".into()));
        };
        let (rows, columns) = (first.rows, first.columns);
        let (part, heads) = joined(gpu, stream, "the heads' projections", matrices)?;
        match (part.format, part.arrays.into_iter().next()) {
            (Format::Half, Some(values)) => Ok(Self { values, heads, rows, columns }),
            _ => Err(BackendError::Unsupported(format!(
                "{}: quantised projections from the latent (kv_b) have no GPU kernel; the CPU serves them",
                gpu.id
            ))),
        }
    }
}

/// Matrices of one shape and format, in one part; how many.
fn joined(
    gpu: &Gpu,
    stream: &Stream,
    what: &str,
    matrices: Vec<Matrix>,
) -> Result<(Part, usize), BackendError> {
    let shape = |matrix: &Matrix| match matrix.parts.as_slice() {
        [part] => Some((matrix.rows, matrix.columns, part.format)),
        _ => None,
    };
    let unequal =
        || BackendError::Unsupported(format!("{what} of a layer must have one shape and one type on a GPU"));
    let (rows, _, format) = matrices.first().and_then(shape).ok_or_else(unequal)?;
    if matrices.iter().any(|matrix| shape(matrix) != shape(&matrices[0])) {
        return Err(unequal());
    }
    let mut arrays = Vec::new();
    for array in 0..matrices[0].parts[0].arrays.len() {
        let each = matrices[0].parts[0].arrays[array].bytes();
        let all = gpu.allocate(what, each * matrices.len())?;
        for (index, matrix) in matrices.iter().enumerate() {
            let (from, to) = (matrix.parts[0].arrays[array].pointer(), all.pointer() + (index * each) as u64);
            // SAFETY: both are within their memory and live until the stream is waited for below.
            unsafe { stream.copy_within(from, to, each) }.map_err(|error| gpu.failed(error))?;
        }
        arrays.push(all);
    }
    stream.synchronize().map_err(|error| gpu.failed(error))?;
    Ok((Part { rows: rows * matrices.len(), format, arrays }, matrices.len()))
}

/// A step's pairs of rows and experts; the arrays are those of kernels/moe_sort.hip.
pub struct Routes {
    pub(super) chosen: DeviceMemory,
    pub(super) weights: DeviceMemory,
    pub(super) pair_rows: DeviceMemory,
    pub(super) pair_of: DeviceMemory,
    pub(super) first_pairs: DeviceMemory,
    pub(super) tiles: DeviceMemory,
    max_rows: usize,
    /// Of the current step.
    pub(super) rows: usize,
    pub(super) top_k: usize,
    /// Most pairs of a tile, and most tiles that there can be.
    pub(super) tile_rows: usize,
    pub(super) tiles_max: usize,
}

/// As many as the kernels take.
const EXPERTS_MAX: usize = 512;
const TOP_K_MAX: usize = 16;

impl Routes {
    /// For `max_rows` rows.
    pub fn new(gpu: &Gpu, max_rows: usize, top_k: usize) -> Result<Self, BackendError> {
        if top_k > TOP_K_MAX {
            let text = format!("{top_k} experts per token; GPU kernels take at most {TOP_K_MAX}");
            return Err(BackendError::Unsupported(text));
        }
        let words = |count: usize| gpu.allocate("routes", count * 4);
        let pairs = max_rows * top_k;
        Ok(Self {
            chosen: words(pairs)?,
            weights: words(pairs)?,
            pair_rows: words(pairs)?,
            pair_of: words(pairs)?,
            first_pairs: words(EXPERTS_MAX + 1)?,
            tiles: words(4 * (pairs + EXPERTS_MAX))?,
            max_rows,
            rows: 0,
            top_k,
            tile_rows: 1,
            tiles_max: 0,
        })
    }

    /// For a step's rows and this rank's experts: tiles fit the pairs that an expert has on average,
    /// or are always the same.
    pub(super) fn begin(&mut self, rows: usize, experts: usize, deterministic: bool) {
        assert!(rows <= self.max_rows && experts <= EXPERTS_MAX, "rows and experts of the routes");
        self.rows = rows;
        let average = self.pairs() / experts.max(1);
        self.tile_rows = match (rows, average) {
            _ if deterministic => 64,
            (1, _) => 1,
            (2, _) => 2,
            (_, ..8) => 16,
            (_, ..24) => 32,
            (_, ..64) => 64,
            _ => 128,
        };
        self.tiles_max = self.pairs() / self.tile_rows + experts.min(self.pairs());
    }

    /// Most pairs that the step can have.
    pub(super) fn pairs(&self) -> usize {
        self.rows * self.top_k
    }
}
