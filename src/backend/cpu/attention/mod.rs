//! Causal paged attention, prefill and decode alike (after FlashAttention, Dao et al. 2022, and
//! Flash-Decoding).
//!
//! The KV positions of a sequence fall into splits of [`SPLIT`] positions, aligned at position
//! 0. Each (row, head) gets for each split that it sees a partial result (largest score, sum of
//! weights, weighted sum of values), and folds the partials in order of position. Only a row's
//! own position, its window and its sequence's KV enter into that: not the other rows, not where
//! a chunk ends, not the threads. Invariant: its bits depend on nothing else.
//!
//! Work is cut into items of about equal cost: some rows of one sequence with all query heads of
//! one kv head, over all their splits. Items that are too long for an even load (a decode over a
//! long context) are cut by split; their partials are stored and folded in a second region.
//!
//! Bytes moved: each item reads its keys and values once per twelve queries (from the second-level
//! cache after the first time).

mod softmax;
mod tile;
mod work;

use super::kv::{Element, KvCache, Layer, MAX_HEAD_DIM};
use super::pool::ThreadPool;
use super::simd::Isa;
use super::tensor::{Shared, Tensor};
use crate::backend::{Batch, HeadLayout, KV_BLOCK_TOKENS, KvDtype, KvLayout};
pub(super) use softmax::{Total, softmax};
use std::cell::RefCell;
use tile::{Job, Room, Tile};
pub use work::Scratch;
pub(super) use work::{Item, Query, Task, store_partial};

/// KV positions that are summed up at once.
pub(super) const SPLIT: usize = 512;
pub(super) const SPLIT_BLOCKS: usize = SPLIT / KV_BLOCK_TOKENS;

/// The longest value that is summed up: a head's, or a latent.
pub(super) const MAX_VALUE_DIM: usize = 1024;
const _: () = assert!(MAX_HEAD_DIM <= MAX_VALUE_DIM);

/// Queries (rows times query heads per kv head) of an item; two tiles of twelve.
const ITEM_QUERIES: usize = 24;

/// See [`crate::backend::Backend::attention`].
#[allow(clippy::too_many_arguments)]
pub fn attention(
    pool: &mut ThreadPool,
    isa: Isa,
    scratch: &mut Scratch,
    qkv: &Tensor,
    heads: HeadLayout,
    scale: f32,
    window: Option<usize>,
    batch: &Batch,
    kv: &KvCache,
    layer: usize,
    out: &mut Tensor,
) {
    let (spec, HeadLayout { kv_heads, head_dim, .. }) = (kv.spec(), heads);
    assert_eq!(qkv.columns(), heads.qkv_dim(), "columns of the qkv rows");
    assert_eq!(KvLayout::Heads { kv_heads, head_dim }, spec.layout, "the cache's heads");
    assert_eq!(heads.heads % kv_heads, 0, "query heads per kv head");
    assert!(window != Some(0), "a window of 0 positions");
    let task = Task {
        batch,
        q: qkv.values(),
        q_columns: heads.qkv_dim(),
        heads: heads.heads,
        group: heads.heads / kv_heads,
        item_queries: ITEM_QUERIES,
        key_dim: head_dim,
        value_dim: head_dim,
        position_bytes: spec.token_bytes() / spec.layers / kv_heads,
        scale,
        window: window.unwrap_or(usize::MAX),
        out: Shared::new(out.set_rows(qkv.rows(), heads.q_dim())),
    };
    match spec.dtype {
        KvDtype::F32 => run(pool, isa, scratch, task, kv.layer::<f32>(layer)),
        KvDtype::F16 => run(pool, isa, scratch, task, kv.layer::<u16>(layer)),
    }
}

fn run<E: Element>(pool: &mut ThreadPool, isa: Isa, scratch: &mut Scratch, task: Task<'_>, kv: Layer<'_, E>) {
    task.run(pool, isa, scratch, |item, partials| {
        run_item(isa, &Job { task: &task, kv: &kv, partials }, item);
    });
}

/// An item's queries by twelves (by fours with few registers); what is left over goes into the
/// smallest tile that holds it.
fn run_item<E: Element>(isa: Isa, job: &Job<'_, E>, item: &Item) {
    thread_local! {
        static ROOM: RefCell<Room> = RefCell::new(Room::new());
    }
    let queries = item.rows * job.task.group;
    let widest = if isa.is_wide() { 12 } else { 4 };
    ROOM.with_borrow_mut(|room| {
        let mut first = 0;
        while first < queries {
            let count = (queries - first).min(widest);
            match (isa.is_wide(), count) {
                (true, 9..) => isa.run(Tile::<E, 12, 2, 2> { job, item, room, first, count }),
                (true, 5..) => isa.run(Tile::<E, 8, 2, 2> { job, item, room, first, count }),
                (true, 4) => isa.run(Tile::<E, 4, 4, 4> { job, item, room, first, count }),
                (true, 3) => isa.run(Tile::<E, 3, 4, 4> { job, item, room, first, count }),
                (true, 2) => isa.run(Tile::<E, 2, 4, 4> { job, item, room, first, count }),
                (true, _) => isa.run(Tile::<E, 1, 8, 4> { job, item, room, first, count }),
                (false, 3..) => isa.run(Tile::<E, 4, 1, 1> { job, item, room, first, count }),
                (false, 2) => isa.run(Tile::<E, 2, 2, 2> { job, item, room, first, count }),
                (false, _) => isa.run(Tile::<E, 1, 4, 4> { job, item, room, first, count }),
            }
            first += count;
        }
    });
}
