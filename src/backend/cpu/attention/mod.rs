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

mod tile;

use super::kv::{Element, KvCache};
use super::pool::{REGION_NS, ThreadPool};
use super::simd::{Isa, LANES};
use super::tensor::{Shared, Tensor};
use crate::backend::{Batch, HeadLayout, KV_BLOCK_TOKENS, KvDtype, KvLayout};
use std::cell::RefCell;
use tile::{Fold, Job, Room, Tile};

/// KV positions that are summed up at once.
pub(super) const SPLIT: usize = 512;
const SPLIT_BLOCKS: usize = SPLIT / KV_BLOCK_TOKENS;

/// Queries (rows times query heads per kv head) of an item; two tiles of twelve.
const ITEM_QUERIES: usize = 24;
/// Items per thread: the last one may hold up the others by an item's time.
const ITEMS_PER_THREAD: u64 = 4;

/// Lists that live from call to call, so that a step allocates nothing.
#[derive(Default)]
pub struct Scratch {
    items: Vec<Item>,
    /// Items whose partials are to be folded.
    folds: Vec<Item>,
    /// Partial results, see [`partial_lines`].
    partials: Vec<[f32; LANES]>,
}

/// Rows `row .. row + rows` of a sequence, with the query heads of one kv head, over some splits.
#[derive(Clone, Copy)]
struct Item {
    /// Index in [`Batch::seqs`].
    seq: usize,
    row: usize,
    rows: usize,
    kv_head: usize,
    first_split: usize,
    end_split: usize,
    /// Where its partials go; None when it folds them itself.
    partials: Option<usize>,
    cost_ns: u64,
}

/// Lines of sixteen values that a query's partial result takes: the largest score and the sum
/// of weights in the first, then the weighted sum of values.
fn partial_lines(head_dim: usize) -> usize {
    1 + head_dim.div_ceil(LANES)
}

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
    let spec = kv.spec();
    assert_eq!(qkv.columns(), heads.qkv_dim(), "columns of the qkv rows");
    let layout = KvLayout::Heads { kv_heads: heads.kv_heads, head_dim: heads.head_dim };
    assert_eq!(layout, spec.layout, "the cache's heads");
    assert_eq!(heads.heads % heads.kv_heads, 0, "query heads per kv head");
    assert!(window != Some(0), "a window of 0 positions");
    let mut rows = 0;
    for seq in &batch.seqs {
        assert!(seq.row >= rows && seq.rows >= 1 && seq.context >= seq.rows, "sequences in row order");
        rows = seq.row + seq.rows;
    }
    assert!(rows <= qkv.rows(), "rows of the sequences");
    let out = out.set_rows(qkv.rows(), heads.q_dim());

    let window = window.unwrap_or(usize::MAX);
    scratch.plan(batch, heads, window, spec.dtype, pool.threads() as u64);
    let task = Task { heads, scale, window, batch, q: qkv.values(), out: Shared::new(out) };
    match spec.dtype {
        KvDtype::F32 => run(pool, isa, scratch, task, kv.layer::<f32>(layer)),
        KvDtype::F16 => run(pool, isa, scratch, task, kv.layer::<u16>(layer)),
    }
}

/// What all items of a call share.
struct Task<'a> {
    heads: HeadLayout,
    scale: f32,
    window: usize,
    batch: &'a Batch,
    /// The fused qkv rows.
    q: &'a [f32],
    out: Shared<'a, f32>,
}

fn run<E: Element>(
    pool: &mut ThreadPool,
    isa: Isa,
    scratch: &mut Scratch,
    task: Task<'_>,
    kv: super::kv::Layer<'_, E>,
) {
    let Scratch { items, folds, partials } = scratch;
    let partials = Shared::new(partials);
    let job = Job { task: &task, kv: &kv, partials: &partials };
    let total_ns: u64 = items.iter().map(|item| item.cost_ns).sum();
    if total_ns < REGION_NS as u64 {
        items.iter().for_each(|item| run_item(isa, &job, item));
    } else {
        pool.run(items.len(), &|i| run_item(isa, &job, &items[i]));
    }
    if !folds.is_empty() {
        pool.run(folds.len(), &|i| isa.run(Fold { job: &job, item: &folds[i] }));
    }
}

/// An item's queries by twelves (by fours with few registers); what is left over goes into the
/// smallest tile that holds it.
fn run_item<E: Element>(isa: Isa, job: &Job<'_, E>, item: &Item) {
    thread_local! {
        static ROOM: RefCell<Room> = RefCell::new(Room::new());
    }
    let queries = item.rows * (job.task.heads.heads / job.task.heads.kv_heads);
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

impl Scratch {
    /// Makes the work list. How the work is cut changes no bit of the result.
    fn plan(&mut self, batch: &Batch, heads: HeadLayout, window: usize, dtype: KvDtype, threads: u64) {
        self.items.clear();
        self.folds.clear();
        let group = heads.heads / heads.kv_heads;
        let rows_per_item = (ITEM_QUERIES / group).max(1);
        for (index, seq) in batch.seqs.iter().enumerate() {
            for row in (seq.row..seq.row + seq.rows).step_by(rows_per_item) {
                let rows = rows_per_item.min(seq.row + seq.rows - row);
                let first_position = seq.context - seq.rows + (row - seq.row);
                let seen = first_position.saturating_sub(window - 1)..first_position + rows;
                let item = Item {
                    seq: index,
                    row,
                    rows,
                    kv_head: 0,
                    first_split: seen.start / SPLIT,
                    end_split: seen.end.div_ceil(SPLIT),
                    partials: None,
                    cost_ns: cost_ns(seen.len(), rows * group, heads.head_dim, dtype),
                };
                self.items.extend((0..heads.kv_heads).map(|kv_head| Item { kv_head, ..item }));
            }
        }
        let total_ns: u64 = self.items.iter().map(|item| item.cost_ns).sum();
        if total_ns < REGION_NS as u64 || threads == 1 {
            return;
        }
        self.cut((total_ns / (threads * ITEMS_PER_THREAD)).max(REGION_NS as u64 / 4), group, heads.head_dim);
        // Longest first, so that the last to finish are short.
        self.items.sort_unstable_by_key(|item| std::cmp::Reverse(item.cost_ns));
    }

    /// Cuts items above `most_ns` by split. There are fewer than `threads * ITEMS_PER_THREAD` of
    /// them, which bounds the memory for partials.
    fn cut(&mut self, most_ns: u64, group: usize, head_dim: usize) {
        let mut lines = 0;
        for i in 0..self.items.len() {
            let item = self.items[i];
            let splits = item.end_split - item.first_split;
            if item.cost_ns <= most_ns || splits == 1 {
                continue;
            }
            let lines_per_split = item.rows * group * partial_lines(head_dim);
            let piece = |n: usize| Item {
                first_split: item.first_split + n,
                end_split: item.first_split + n + 1,
                partials: Some(lines + n * lines_per_split),
                cost_ns: item.cost_ns / splits as u64,
                ..item
            };
            self.folds.push(Item { partials: Some(lines), ..item });
            self.items[i] = piece(0);
            self.items.extend((1..splits).map(piece));
            lines += splits * lines_per_split;
        }
        if self.partials.len() < lines {
            self.partials.resize(lines, [0.0; LANES]);
        }
    }
}

/// Roughly, on one thread: thirty multiplications a nanosecond, ten bytes of KV a nanosecond.
fn cost_ns(positions: usize, queries: usize, head_dim: usize, dtype: KvDtype) -> u64 {
    let values = 2 * positions * head_dim;
    let value_bytes = match dtype {
        KvDtype::F32 => 4,
        KvDtype::F16 => 2,
    };
    (values * queries / 30 + values * value_bytes / 10) as u64
}
