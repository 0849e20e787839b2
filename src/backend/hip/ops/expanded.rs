//! Latent attention over keys and values of each head, which a step makes of its latents.
//!
//! In the latents' space a query and a position cost 2 (rank + rope_dim + rank) operations in each
//! head, 2176 with DeepSeek's rank of 512; over keys of 192 dimensions and values of 128 they cost
//! 640. The product that makes those of a position's latent is as large as the two that bring its
//! query to the latents' space and its result back. So steps that begin all of their sequences,
//! whose positions are the step's own rows, are done here; where positions were cached before, and
//! in decodes, latents stay what they are.
//!
//! What is expanded is the step's, layer by layer: per row of such a step 2 rank + 1536 heads bytes,
//! 52 MB for 2048 rows of DeepSeek-V2-Lite, and kept for the next.

use super::attention::MLA_ITEM_ROWS;
use super::{THREADS, check};
use crate::backend::hip::driver::{DevicePointer, Result as DriverResult};
use crate::backend::hip::kernels::Arguments;
use crate::backend::hip::matrix::Matrix;
use crate::backend::hip::step::{Expansion, ListKey};
use crate::backend::hip::tensor::{Kind, Tensor};
use crate::backend::hip::{Cache, HipBackend};
use crate::backend::{KV_BLOCK_TOKENS, LatentLayout};

/// What kernels/mla_expand.hip is for: DeepSeek V2's, V3's and R1's.
const NOPE_DIM: usize = 128;
const ROPE_DIM: usize = 64;
const V_DIM: usize = 128;
const KEY_DIM: usize = NOPE_DIM + ROPE_DIM;
/// Work-items of a block of it.
const EXPAND_THREADS: u32 = 64;

/// Where a layer's is.
pub(super) struct Expanded {
    step: Expansion,
    /// The normed latents, `[rows, rank]` in the type of activations.
    pub(super) normed: DevicePointer,
    /// All heads' parts of keys and values, `[rows, heads * (NOPE_DIM + V_DIM)]` in that type.
    projected: DevicePointer,
    /// `[rows, heads * KEY_DIM]` in f16.
    queries: DevicePointer,
    /// As kernels/kv_cache.h has them.
    keys: DevicePointer,
    values: DevicePointer,
}

impl HipBackend {
    /// See [`Backend::mla_expands`](crate::backend::Backend::mla_expands).
    pub(super) fn can_expand(&self, layout: LatentLayout) -> bool {
        let LatentLayout { nope_dim, rope_dim, v_dim, .. } = layout;
        !self.deterministic && (nope_dim, rope_dim, v_dim) == (NOPE_DIM, ROPE_DIM, V_DIM)
    }

    /// Memory for the step; None where it stays in the latents' space.
    pub(super) fn expanded(&mut self, layout: LatentLayout) -> DriverResult<Option<Expanded>> {
        let Some(step) = self.step.expansion().filter(|_| self.can_expand(layout)) else { return Ok(None) };
        let (rows, heads, positions) = (self.step.rows(), layout.heads, step.blocks * KV_BLOCK_TOKENS);
        let values_of = [
            rows * layout.rank,
            rows * heads * (NOPE_DIM + V_DIM),
            rows * heads * KEY_DIM,
            positions * heads * KEY_DIM,
            positions * heads * V_DIM,
        ];
        // Each starts where 16 bytes can be loaded at once.
        let bytes = values_of.map(|values| (values * 2).next_multiple_of(16));
        let mut at = self.expansions.get(&self.gpu, bytes.iter().sum())?;
        let [normed, projected, queries, keys, values] = bytes.map(|bytes| {
            at += bytes as u64;
            at - bytes as u64
        });
        Ok(Some(Expanded { step, normed, projected, queries, keys, values }))
    }

    /// See [`Backend::mla_attention_expanded`](crate::backend::Backend::mla_attention_expanded).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend_expanded(
        &mut self,
        kv_b: &Matrix,
        q: &Tensor,
        query: &Tensor,
        layout: LatentLayout,
        scale: f32,
        kv: &Cache,
        layer: usize,
        out: &mut Tensor,
    ) -> DriverResult<bool> {
        let Some(expanded) = self.expanded(layout)? else { return Ok(false) };
        let Expanded { step, normed, projected, queries, keys, values } = expanded;
        let (rows, LatentLayout { heads, rank, .. }) = (q.rows(), layout);
        let (wanted, is) = ((heads * (NOPE_DIM + V_DIM), rank), (kv_b.rows, kv_b.columns));
        check(wanted == is, "a projection from latents of another shape")?;
        self.multiply(kv_b, None, normed, rows, projected, Kind::Half)?;
        let expand = Arguments::new()
            .pointer(projected)
            .pointer(q.pointer())
            .pointer(query.pointer())
            .pointer(kv.layer(layer).0)
            .pointer(self.step.slots())
            .pointer(step.rows)
            .pointer(queries)
            .pointer(keys)
            .pointer(values)
            .size(heads)
            .size(rank);
        let grid = [step.blocks as u32, heads as u32, 1];
        self.launch("mla_expand", &self.half("mla_expand"), grid, EXPAND_THREADS, expand)?;
        let lists = self.lists(ListKey { window: None, item_rows: MLA_ITEM_ROWS })?;
        let to = out.output(rows, heads * V_DIM, Kind::Half);
        let attend = Arguments::new()
            .pointer(queries)
            .pointer(keys)
            .pointer(values)
            .pointer(lists.prefill.1)
            .pointer(lists.prefill_count)
            .pointer(step.table)
            .pointer(to)
            .size(heads)
            .size(heads)
            .size(0)
            .float(scale);
        let name = format!("{}_{KEY_DIM}_{V_DIM}", self.half("attention_prefill"));
        let grid = [lists.prefill.0 as u32, heads as u32, 1];
        self.launch("attention_prefill", &name, grid, THREADS, attend)?;
        Ok(true)
    }
}
