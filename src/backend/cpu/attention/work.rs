//! The work list of an attention call: how its queries are cut into items of about equal cost,
//! run on the pool, and folded where an item was cut by split. Nothing here knows how keys and
//! values are stored; how the work is cut changes no bit of the result.

use super::super::pool::{REGION_NS, ThreadPool};
use super::super::simd::{Isa, Kernel, LANES, Simd};
use super::super::tensor::Shared;
use super::softmax::Total;
use super::{MAX_VALUE_DIM, SPLIT};
use crate::backend::Batch;
use std::ops::Range;

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

/// What all items of a call share.
pub struct Task<'a> {
    pub batch: &'a Batch,
    /// Rows of queries, `q_columns` wide, which begin with `key_dim` values for each head.
    pub q: &'a [f32],
    pub q_columns: usize,
    pub heads: usize,
    /// Consecutive heads that stay together in an item; divides `heads`.
    pub group: usize,
    /// About how many queries (rows times heads of a group) make an item.
    pub item_queries: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    /// Bytes of a position's key and value as an item reads them.
    pub position_bytes: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Positions that a row sees, its own included.
    pub window: usize,
    /// `value_dim` for each head of each row.
    pub out: Shared<'a, f32>,
}

impl Task<'_> {
    /// Roughly, on one thread: thirty multiplications a nanosecond, ten bytes of KV a nanosecond.
    fn cost_ns(&self, positions: usize, queries: usize) -> u64 {
        let multiplications = positions * queries * (self.key_dim + self.value_dim);
        (multiplications / 30 + positions * self.position_bytes / 10) as u64
    }

    /// Runs `item` on every item of the work list, then folds the partials of those that were cut.
    pub fn run(
        &self,
        pool: &mut ThreadPool,
        isa: Isa,
        scratch: &mut Scratch,
        item: impl Fn(&Item, &Shared<'_, [f32; LANES]>) + Sync,
    ) {
        let mut rows = 0;
        for seq in &self.batch.seqs {
            assert!(seq.row >= rows && seq.rows >= 1 && seq.context >= seq.rows, "sequences in row order");
            rows = seq.row + seq.rows;
        }
        assert!(rows * self.q_columns <= self.q.len(), "rows of the sequences");
        scratch.plan(self, pool.threads() as u64);
        let Scratch { items, folds, partials } = scratch;
        let partials = &Shared::new(partials);
        let total_ns: u64 = items.iter().map(|item| item.cost_ns).sum();
        if total_ns < REGION_NS as u64 {
            items.iter().for_each(|i| item(i, partials));
        } else {
            pool.run(items.len(), &|i| item(&items[i], partials));
        }
        if !folds.is_empty() {
            pool.run(folds.len(), &|i| isa.run(Fold { task: self, item: &folds[i], partials }));
        }
    }
}

/// Rows `row .. row + rows` of a sequence, with the heads of one group, over some splits.
#[derive(Clone, Copy)]
pub struct Item {
    /// Index in [`Batch::seqs`].
    pub seq: usize,
    pub row: usize,
    pub rows: usize,
    /// Which group of heads.
    pub group: usize,
    pub first_split: usize,
    pub end_split: usize,
    /// Where its partials go; None when it folds them itself.
    pub partials: Option<usize>,
    cost_ns: u64,
}

/// A query of an item: its row, its head, and the positions it sees.
pub struct Query {
    row: usize,
    head: usize,
    pub sees: Range<usize>,
}

impl Query {
    /// Query `index` of an item: rows outside, heads inside.
    #[inline(always)]
    pub fn new(task: &Task<'_>, item: &Item, index: usize) -> Self {
        let seq = &task.batch.seqs[item.seq];
        let row = item.row + index / task.group;
        let position = seq.context - seq.rows + (row - seq.row);
        Self {
            row,
            head: item.group * task.group + index % task.group,
            sees: position.saturating_sub(task.window - 1)..position + 1,
        }
    }

    /// Its values.
    #[inline(always)]
    pub fn values<'a>(&self, task: &Task<'a>) -> &'a [f32] {
        &task.q[self.row * task.q_columns + self.head * task.key_dim..][..task.key_dim]
    }

    /// Writes its result.
    ///
    /// # Safety
    /// No other thread writes this query's output.
    #[inline(always)]
    pub unsafe fn write(&self, task: &Task<'_>, total: &Total, values: &[[f32; LANES]]) {
        let dim = task.value_dim;
        // SAFETY: the caller's promise.
        total.divide(values, unsafe { task.out.part((self.row * task.heads + self.head) * dim, dim) });
    }
}

/// Lines of sixteen values that a query's partial result takes: the largest score and the sum
/// of weights in the first, then the weighted sum of values.
fn partial_lines(value_dim: usize) -> usize {
    1 + value_dim.div_ceil(LANES)
}

/// Stores the result of an item's query `index` for one of the item's splits; `partials` is the
/// item's.
///
/// # Safety
/// No other thread has this item.
#[inline(always)]
pub unsafe fn store_partial(
    task: &Task<'_>,
    all: &Shared<'_, [f32; LANES]>,
    partials: usize,
    index: usize,
    total: Total,
    values: &[[f32; LANES]],
) {
    let lines = partial_lines(task.value_dim);
    // SAFETY: an item's partials are its own, and so is the item, by the caller's promise.
    let partial = unsafe { all.part(partials + index * lines, lines) };
    [partial[0][0], partial[0][1]] = [total.max, total.sum];
    partial[1..].copy_from_slice(&values[..lines - 1]);
}

impl Scratch {
    /// Makes the work list.
    fn plan(&mut self, task: &Task<'_>, threads: u64) {
        self.items.clear();
        self.folds.clear();
        let rows_per_item = (task.item_queries / task.group).max(1);
        for (index, seq) in task.batch.seqs.iter().enumerate() {
            for row in (seq.row..seq.row + seq.rows).step_by(rows_per_item) {
                let rows = rows_per_item.min(seq.row + seq.rows - row);
                let first_position = seq.context - seq.rows + (row - seq.row);
                let seen = first_position.saturating_sub(task.window - 1)..first_position + rows;
                let item = Item {
                    seq: index,
                    row,
                    rows,
                    group: 0,
                    first_split: seen.start / SPLIT,
                    end_split: seen.end.div_ceil(SPLIT),
                    partials: None,
                    cost_ns: task.cost_ns(seen.len(), rows * task.group),
                };
                self.items.extend((0..task.heads / task.group).map(|group| Item { group, ..item }));
            }
        }
        let total_ns: u64 = self.items.iter().map(|item| item.cost_ns).sum();
        if total_ns < REGION_NS as u64 || threads == 1 {
            return;
        }
        self.cut(task, (total_ns / (threads * ITEMS_PER_THREAD)).max(REGION_NS as u64 / 4));
        // Longest first, so that the last to finish are short.
        self.items.sort_unstable_by_key(|item| std::cmp::Reverse(item.cost_ns));
    }

    /// Cuts items above `most_ns` by split. There are fewer than `threads * ITEMS_PER_THREAD` of
    /// them, which bounds the memory for partials.
    fn cut(&mut self, task: &Task<'_>, most_ns: u64) {
        let mut lines = 0;
        for i in 0..self.items.len() {
            let item = self.items[i];
            let splits = item.end_split - item.first_split;
            if item.cost_ns <= most_ns || splits == 1 {
                continue;
            }
            let lines_per_split = item.rows * task.group * partial_lines(task.value_dim);
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

/// Folds the stored partials of an item that was cut.
struct Fold<'a> {
    task: &'a Task<'a>,
    item: &'a Item,
    partials: &'a Shared<'a, [f32; LANES]>,
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { task, item, partials } = self;
        let lines = partial_lines(task.value_dim);
        let queries = item.rows * task.group;
        for index in 0..queries {
            let mut total = Total::NONE;
            let mut values = [[0.0; LANES]; MAX_VALUE_DIM / LANES];
            let values = &mut values[..lines - 1];
            for split in 0..item.end_split - item.first_split {
                let at = item.partials.unwrap_or(0) + (split * queries + index) * lines;
                // SAFETY: only this task reads these partials, and nobody writes them now.
                let partial = unsafe { partials.part(at, lines) };
                let new = Total { max: partial[0][0], sum: partial[0][1] };
                total.fold(s, values, new, &partial[1..]);
            }
            // SAFETY: no other item has this row and head.
            unsafe { Query::new(task, item, index).write(task, &total, values) };
        }
    }
}
