//! The KV cache of the CPU backend. One allocation; per layer, per block, per kv head: the keys
//! transposed, `[head_dim][16 positions]`, then the values, `[16 positions][head_dim]`. So the
//! scores of a block's sixteen positions are one vector accumulated over the dimensions, with no
//! sums across lanes, and a block's keys and values of one head are contiguous.
//!
//! The bytes are [`KvSpec::block_bytes`] per block, and pages count as resident once written.

use super::simd::{LANES, Simd};
use super::tensor::{Buffer, Plain, Shared};
use crate::backend::{BackendError, KV_BLOCK_TOKENS, KvDtype, KvLayout, KvSpec};

/// Largest head that the kernels' stack buffers hold.
pub const MAX_HEAD_DIM: usize = 256;

const _: () = assert!(KV_BLOCK_TOKENS == LANES, "a block's positions are the lanes of one vector");

/// One cache group's blocks.
pub struct KvCache {
    spec: KvSpec,
    kv_heads: usize,
    head_dim: usize,
    blocks: usize,
    data: Buffer,
}

impl KvCache {
    /// A zeroed cache; out of memory is an error.
    pub fn new(spec: &KvSpec, blocks: usize) -> Result<Self, BackendError> {
        let KvLayout::Heads { kv_heads, head_dim } = spec.layout else {
            return Err(BackendError::Unsupported(format!("{:?} is not a cache of heads", spec.layout)));
        };
        if head_dim == 0 || !head_dim.is_multiple_of(8) || head_dim > MAX_HEAD_DIM {
            return Err(BackendError::Unsupported(format!(
                "head_dim {head_dim}: the CPU backend's attention needs a multiple of 8, at most {MAX_HEAD_DIM}"
            )));
        }
        let bytes = spec.block_bytes().saturating_mul(blocks);
        // One vector more: with a head_dim that is no multiple of 16 the last vector of a
        // position's values reaches into what follows it.
        let data =
            Buffer::new(bytes.saturating_add(64), || format!("the KV cache of {blocks} blocks ({spec:?})"))?;
        Ok(Self { spec: *spec, kv_heads, head_dim, blocks, data })
    }

    /// Its shape.
    pub fn spec(&self) -> &KvSpec {
        &self.spec
    }

    /// See [`crate::backend::Backend::copy_blocks`].
    pub fn copy_blocks(&mut self, pairs: &[(u32, u32)]) {
        copy_blocks(self.data.as_mut_slice(), &self.spec, self.blocks, pairs);
    }

    /// One layer's blocks, for reading.
    pub fn layer<E: Element>(&self, layer: usize) -> Layer<'_, E> {
        let place = self.place::<E>(layer);
        Layer { data: self.data.as_slice(), place }
    }

    /// One layer's blocks, for writing by several threads.
    pub fn writer<E: Element>(&mut self, layer: usize) -> Writer<'_, E> {
        let place = self.place::<E>(layer);
        Writer { data: Shared::new(self.data.as_mut_slice()), place }
    }

    fn place<E: Element>(&self, layer: usize) -> Place {
        assert_eq!(self.spec.dtype, E::DTYPE, "the cache's element type");
        assert!(layer < self.spec.layers, "layer {layer} of a cache of {}", self.spec.layers);
        Place {
            first_block: layer * self.blocks,
            blocks: self.blocks,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
        }
    }
}

/// In a cache whose layers follow each other, and in each its blocks.
pub fn copy_blocks(data: &mut [u8], spec: &KvSpec, blocks: usize, pairs: &[(u32, u32)]) {
    let bytes = spec.block_bytes() / spec.layers;
    for layer in 0..spec.layers {
        for &(source, target) in pairs {
            let at = |block: u32| (layer * blocks + block as usize) * bytes;
            data.copy_within(at(source)..at(source) + bytes, at(target));
        }
    }
}

/// Where a layer's values lie, in elements.
#[derive(Clone, Copy)]
struct Place {
    first_block: usize,
    blocks: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Place {
    /// Where the keys of a block's head start; its values start `16 * head_dim` later.
    #[inline(always)]
    fn keys(&self, block: usize, head: usize) -> usize {
        assert!(block < self.blocks && head < self.kv_heads, "block {block}, head {head} of the KV cache");
        ((self.first_block + block) * self.kv_heads + head) * 2 * self.head_dim * LANES
    }
}

/// One layer's blocks, for reading.
pub struct Layer<'a, E> {
    data: &'a [E],
    place: Place,
}

impl<'a, E: Element> Layer<'a, E> {
    /// A block's keys of one head: sixteen positions for each dimension.
    #[inline(always)]
    pub fn keys(&self, block: u32, head: usize) -> &'a [[E; LANES]] {
        let start = self.place.keys(block as usize, head);
        self.data[start..][..LANES * self.place.head_dim].as_chunks().0
    }

    /// A block's values of one head, `head_dim` for each position, and one vector of whatever
    /// follows them.
    #[inline(always)]
    pub fn values(&self, block: u32, head: usize) -> &'a [E] {
        let size = LANES * self.place.head_dim;
        let start = self.place.keys(block as usize, head) + size;
        &self.data[start..][..size + LANES / 2]
    }
}

/// One layer's blocks, for writing.
pub struct Writer<'a, E> {
    data: Shared<'a, E>,
    place: Place,
}

impl<E: Element> Writer<'_, E> {
    /// Writes one position's key and value of one head.
    ///
    /// # Safety
    /// No other thread writes the same slot and head at the same time.
    #[inline(always)]
    pub unsafe fn write<S: Simd>(&self, s: S, slot: u32, head: usize, key: &[f32], value: &[f32]) {
        let head_dim = self.place.head_dim;
        assert!(key.len() == head_dim && value.len() == head_dim);
        let (block, position) = (slot as usize / LANES, slot as usize % LANES);
        let start = self.place.keys(block, head);
        let mut encoded = [E::ZERO; MAX_HEAD_DIM];
        let encoded = &mut encoded[..head_dim];
        encode(s, key, encoded);
        for (d, &x) in encoded.iter().enumerate() {
            // SAFETY: this slot's element, which no other thread writes (caller's promise).
            unsafe { self.data.part(start + d * LANES + position, 1)[0] = x };
        }
        encode(s, value, encoded);
        // SAFETY: this slot's values, as above.
        unsafe { self.data.part(start + (LANES + position) * head_dim, head_dim) }.copy_from_slice(encoded);
    }
}

/// Rounds values to a cache's element type.
#[inline(always)]
pub(super) fn encode<S: Simd, E: Element>(s: S, from: &[f32], to: &mut [E]) {
    for (from, to) in from.chunks(LANES).zip(to.chunks_mut(LANES)) {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        let mut out = [E::ZERO; LANES];
        E::store(s, s.load(&lanes), &mut out);
        to.copy_from_slice(&out[..to.len()]);
    }
}

/// What a cache holds: f32, or f16 as bits.
pub trait Element: Plain {
    /// Its name in a spec.
    const DTYPE: KvDtype;
    /// Zero.
    const ZERO: Self;
    /// Widens sixteen.
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V;
    /// Rounds sixteen.
    fn store<S: Simd>(s: S, v: S::V, to: &mut [Self; LANES]);
}

impl Element for f32 {
    const DTYPE: KvDtype = KvDtype::F32;
    const ZERO: f32 = 0.0;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32; LANES]) -> S::V {
        s.load(from)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [f32; LANES]) {
        s.store(v, to);
    }
}

impl Element for u16 {
    const DTYPE: KvDtype = KvDtype::F16;
    const ZERO: u16 = 0;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u16; LANES]) -> S::V {
        s.load_f16(from)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [u16; LANES]) {
        s.store_f16(v, to);
    }
}
