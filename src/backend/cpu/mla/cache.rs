//! The cache of latents. One allocation; per layer, per block: `[16 positions][entry]`, an entry
//! being the normed latent, then the rotated key. It is stored once: whole, it is what queries
//! are multiplied with; its first `rank` values are what is summed up.
//!
//! The bytes are [`KvSpec::block_bytes`] per block, and pages count as resident once written.

use super::super::attention::MAX_VALUE_DIM;
use super::super::kv::{Element, encode};
use super::super::simd::{LANES, Simd};
use super::super::tensor::{Buffer, Shared};
use crate::backend::{BackendError, KV_BLOCK_TOKENS, KvLayout, KvSpec};

/// Longest latent that the kernels' buffers hold.
pub const MAX_RANK: usize = MAX_VALUE_DIM;
/// Longest rotated key.
pub const MAX_ROPE_DIM: usize = 256;
/// Longest entry.
pub const MAX_ENTRY_DIM: usize = MAX_RANK + MAX_ROPE_DIM;

/// One cache group's blocks of latents and rotated keys.
pub struct LatentCache {
    spec: KvSpec,
    entry_dim: usize,
    blocks: usize,
    data: Buffer,
}

impl LatentCache {
    /// See [`crate::backend::Backend::copy_blocks`].
    pub fn copy_blocks(&mut self, pairs: &[(u32, u32)]) {
        crate::backend::cpu::kv::copy_blocks(self.data.as_mut_slice(), &self.spec, self.blocks, pairs);
    }

    /// A zeroed cache. Out of memory and sizes that the kernels do not handle are errors.
    pub fn new(spec: &KvSpec, blocks: usize) -> Result<Self, BackendError> {
        let KvLayout::Latent { rank, rope_dim } = spec.layout else {
            return Err(BackendError::Unsupported(format!("{:?} is not a cache of latents", spec.layout)));
        };
        for (name, dim, most) in
            [("kv_lora_rank", rank, MAX_RANK), ("qk_rope_head_dim", rope_dim, MAX_ROPE_DIM)]
        {
            if dim == 0 || !dim.is_multiple_of(8) || dim > most {
                return Err(BackendError::Unsupported(format!(
                    "{name} {dim}: the CPU backend's latent attention needs a multiple of 8, at most {most}"
                )));
            }
        }
        let bytes = spec.block_bytes().saturating_mul(blocks);
        let data = Buffer::new(bytes, || format!("the KV cache of {blocks} blocks ({spec:?})"))?;
        Ok(Self { spec: *spec, entry_dim: rank + rope_dim, blocks, data })
    }

    /// Its shape.
    pub fn spec(&self) -> &KvSpec {
        &self.spec
    }

    /// One layer's blocks, for reading.
    pub fn layer<E: Element>(&self, layer: usize) -> Entries<'_, E> {
        let (start, len) = self.place::<E>(layer);
        Entries { data: &self.data.as_slice()[start..][..len], entry_dim: self.entry_dim }
    }

    /// One layer's blocks, for writing by several threads.
    pub fn writer<E: Element>(&mut self, layer: usize) -> Writer<'_, E> {
        let (start, len) = self.place::<E>(layer);
        let data = &mut self.data.as_mut_slice()[start..][..len];
        Writer { data: Shared::new(data), entry_dim: self.entry_dim }
    }

    /// Where a layer's values start and how many there are.
    fn place<E: Element>(&self, layer: usize) -> (usize, usize) {
        assert_eq!(self.spec.dtype, E::DTYPE, "the cache's element type");
        assert!(layer < self.spec.layers, "layer {layer} of a cache of {}", self.spec.layers);
        let len = self.blocks * KV_BLOCK_TOKENS * self.entry_dim;
        (layer * len, len)
    }
}

/// One layer's blocks, for reading.
pub struct Entries<'a, E> {
    data: &'a [E],
    entry_dim: usize,
}

impl<'a, E: Element> Entries<'a, E> {
    /// A block's sixteen entries, one after the other.
    #[inline(always)]
    pub fn block(&self, block: u32) -> &'a [E] {
        let size = KV_BLOCK_TOKENS * self.entry_dim;
        &self.data[block as usize * size..][..size]
    }
}

/// One layer's blocks, for writing.
pub struct Writer<'a, E> {
    data: Shared<'a, E>,
    entry_dim: usize,
}

impl<E: Element> Writer<'_, E> {
    /// Writes one position's entry.
    ///
    /// # Safety
    /// No other thread writes the same slot at the same time.
    #[inline(always)]
    pub unsafe fn write<S: Simd>(&self, s: S, slot: u32, entry: &[f32]) {
        assert_eq!(entry.len(), self.entry_dim, "values of an entry");
        // SAFETY: this slot's entry, which no other thread writes (caller's promise).
        encode(s, entry, unsafe { self.data.part(slot as usize * self.entry_dim, self.entry_dim) });
    }
}

const _: () = assert!(KV_BLOCK_TOKENS == LANES, "a block's positions are the lanes of one vector");
