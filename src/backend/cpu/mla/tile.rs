//! The kernel of latent attention: a tile of M queries over one split.
//!
//! Scores are dot products of whole entries, lane-wise over the dimensions in order, then over
//! the lanes, P positions at a time; an entry's last line is its last sixteen values, of which
//! the query is 0 where the line before has had them. Then weights 2^(score - max), and the
//! weighted sum of latents, position by position, C lines at a time. Loads of entries are shared
//! by the M queries. The score of a masked position is thrown away and its latent not looked
//! at: what lies there may be anything, NaN included.

// Loops of constant length over several arrays at once; an index says it best.
#![allow(clippy::needless_range_loop)]

use super::super::attention::{Item, Query, SPLIT, SPLIT_BLOCKS, Task, Total, softmax, store_partial};
use super::super::kv::Element;
use super::super::simd::{Kernel, LANES, Simd};
use super::super::tensor::Shared;
use super::ITEM_QUERIES;
use super::cache::{Entries, MAX_ENTRY_DIM, MAX_RANK};
use crate::backend::KV_BLOCK_TOKENS;

/// Most queries in a tile.
const MAX_QUERIES: usize = 8;

/// What the tiles of a call share.
pub struct Job<'a, E> {
    pub task: &'a Task<'a>,
    pub kv: &'a Entries<'a, E>,
    pub partials: &'a Shared<'a, [f32; LANES]>,
}

/// A thread's working memory, in lines of sixteen values.
pub struct Room {
    /// Scaled queries, line by line: `[lines][M]`.
    queries: Vec<[f32; LANES]>,
    /// Products of one block: `[M][16 positions][16 lanes]`.
    products: Vec<[[f32; LANES]; LANES]>,
    /// Scores, then weights: `[blocks][M]`.
    weights: Vec<[f32; LANES]>,
    /// Weighted latents of one split: `[M][lines]`.
    values: Vec<[f32; LANES]>,
    /// Those of the item's splits so far: `[queries][lines]`.
    totals: Vec<[f32; LANES]>,
    sums: [Total; ITEM_QUERIES],
}

impl Room {
    pub fn new() -> Self {
        let lines = |n: usize| vec![[0.0; LANES]; n];
        Self {
            queries: lines(MAX_QUERIES * MAX_ENTRY_DIM.div_ceil(LANES)),
            products: vec![[[0.0; LANES]; LANES]; MAX_QUERIES],
            weights: lines(MAX_QUERIES * SPLIT_BLOCKS),
            values: lines(MAX_QUERIES * MAX_RANK.div_ceil(LANES)),
            totals: lines(ITEM_QUERIES * MAX_RANK.div_ceil(LANES)),
            sums: [Total::NONE; ITEM_QUERIES],
        }
    }

    /// For a new item of so many queries.
    pub fn clear(&mut self, queries: usize, value_dim: usize) {
        self.sums = [Total::NONE; ITEM_QUERIES];
        self.totals[..queries * value_dim.div_ceil(LANES)].fill([0.0; LANES]);
    }
}

/// Queries `first .. first + count` of an item over one split, `count <= M`; with P positions and
/// C lines of latents in flight at a time (M * P and M * C vectors are held in registers).
pub struct Tile<'a, E, const M: usize, const P: usize, const C: usize> {
    pub job: &'a Job<'a, E>,
    pub item: &'a Item,
    pub room: &'a mut Room,
    pub split: usize,
    pub first: usize,
    pub count: usize,
}

impl<E: Element, const M: usize, const P: usize, const C: usize> Kernel for Tile<'_, E, M, P, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { job, item, room, split, first, count } = self;
        let (task, partials) = (job.task, job.partials);
        let lines = task.value_dim.div_ceil(LANES);
        // A place without a query of its own repeats the first one, and its result is dropped.
        let queries: [Query; M] =
            std::array::from_fn(|m| Query::new(task, item, first + if m < count { m } else { 0 }));
        let q = room.queries.as_chunks_mut().0;
        spread(task, &queries, q);
        let seen = queries.each_ref().map(|query| query.sees.end.saturating_sub(split * SPLIT).min(SPLIT));
        let most = seen.iter().copied().max().unwrap_or(0);
        let table = &task.batch.block_tables[task.batch.seqs[item.seq].table..];
        let table = &table[split * SPLIT_BLOCKS..][..most.div_ceil(KV_BLOCK_TOKENS)];
        let part = Part { kv: job.kv, entry_dim: task.key_dim, table, seen };

        let weights = &mut room.weights.as_chunks_mut().0[..table.len()];
        part.scores::<S, P>(s, q, room.products.first_chunk_mut().expect("room for M"), weights);
        let new = softmax(s, weights);
        let values = &mut room.values[..M * lines];
        let mut line = 0;
        while line < lines {
            if lines - line >= C {
                part.weigh::<S, C>(s, line, weights, values);
                line += C;
            } else {
                part.weigh::<S, 1>(s, line, weights, values);
                line += 1;
            }
        }
        part.weigh_rest(s, weights, values);

        for m in 0..count {
            let (index, values) = (first + m, &values[m * lines..][..lines]);
            if let Some(start) = item.partials {
                // SAFETY: one task has this item.
                unsafe { store_partial(task, partials, start, index, new[m], values) };
                continue;
            }
            let totals = &mut room.totals[index * lines..][..lines];
            room.sums[index].fold(s, totals, new[m], values);
            if split + 1 == item.end_split {
                // SAFETY: sequences' rows are disjoint, items' rows and heads too.
                unsafe { queries[m].write(task, &room.sums[index], totals) };
            }
        }
    }
}

/// The queries times the factor on scores, as [`Part::scores`] reads them. Scores are in powers
/// of two, so that the weights need no multiplication.
#[inline(always)]
fn spread<const M: usize>(task: &Task<'_>, queries: &[Query; M], lines: &mut [[[f32; LANES]; M]]) {
    let scale = task.scale * std::f32::consts::LOG2_E;
    for (m, query) in queries.iter().enumerate() {
        let (whole, _) = query.values(task).as_chunks::<LANES>();
        for (line, values) in lines.iter_mut().zip(whole) {
            line[m] = values.map(|x| x * scale);
        }
        let rest = task.key_dim % LANES;
        if rest > 0 {
            let line = &mut lines[whole.len()][m];
            let values = &query.values(task)[task.key_dim - LANES..];
            for (lane, x) in values.iter().enumerate() {
                line[lane] = if lane < LANES - rest { 0.0 } else { x * scale };
            }
        }
    }
}

/// Adds a line's products, lane by lane. Not a closure: one that is called twice may stay a
/// function of its own, without the instruction set.
#[inline(always)]
fn add_products<S: Simd, E: Element, const M: usize, const P: usize>(
    s: S,
    q: &[[f32; LANES]; M],
    line: [&[E; LANES]; P],
    acc: &mut [[S::V; P]; M],
) {
    let line = line.map(|line| E::load(s, line));
    for m in 0..M {
        let q = s.load(&q[m]);
        for p in 0..P {
            acc[m][p] = s.mul_add(q, line[p], acc[m][p]);
        }
    }
}

/// The blocks of one split that a tile's queries see.
struct Part<'a, E, const M: usize> {
    kv: &'a Entries<'a, E>,
    entry_dim: usize,
    table: &'a [u32],
    /// How many of the split's positions each query sees.
    seen: [usize; M],
}

impl<E: Element, const M: usize> Part<'_, E, M> {
    /// The scores of all positions, -inf where a query does not see it.
    #[inline(always)]
    fn scores<S: Simd, const P: usize>(
        &self,
        s: S,
        q: &[[[f32; LANES]; M]],
        products: &mut [[[f32; LANES]; LANES]; M],
        scores: &mut [[[f32; LANES]; M]],
    ) {
        let whole = self.entry_dim / LANES;
        let (q, rest) = q.split_at(whole);
        let rest = (!self.entry_dim.is_multiple_of(LANES)).then(|| &rest[0]);
        for (i, scores) in scores.iter_mut().enumerate() {
            let entries = self.kv.block(self.table[i]);
            let within = |positions: usize| positions.saturating_sub(i * KV_BLOCK_TOKENS).min(LANES);
            let most = self.seen.iter().copied().max().map_or(0, within);
            for first in (0..most).step_by(P) {
                let entry: [&[E]; P] =
                    std::array::from_fn(|p| &entries[(first + p) * self.entry_dim..][..self.entry_dim]);
                let lines: [&[[E; LANES]]; P] = entry.map(|entry| &entry.as_chunks().0[..whole]);
                let mut acc = [[s.splat(0.0); P]; M];
                for (i, q) in q.iter().enumerate() {
                    add_products(s, q, lines.map(|lines| &lines[i]), &mut acc);
                }
                if let Some(q) = rest {
                    let last = entry.map(|entry| entry.last_chunk().expect("16 values in an entry"));
                    add_products(s, q, last, &mut acc);
                }
                for m in 0..M {
                    for p in 0..P {
                        s.store(acc[m][p], &mut products[m][first + p]);
                    }
                }
            }
            for m in 0..M {
                s.store(s.sums(&products[m]), &mut scores[m]);
                scores[m][within(self.seen[m])..].fill(f32::NEG_INFINITY);
            }
        }
    }

    /// Lines `line .. line + C` of the weighted sums over the positions that all queries see.
    #[inline(always)]
    fn weigh<S: Simd, const C: usize>(
        &self,
        s: S,
        line: usize,
        weights: &[[[f32; LANES]; M]],
        out: &mut [[f32; LANES]],
    ) {
        let lines = out.len() / M;
        let all = self.all_see();
        let mut acc = [[s.splat(0.0); C]; M];
        for (i, (weights, &block)) in weights.iter().zip(self.table).enumerate() {
            let entries = self.kv.block(block);
            for j in 0..all.saturating_sub(i * KV_BLOCK_TOKENS).min(LANES) {
                let from = &entries[j * self.entry_dim + line * LANES..][..C * LANES];
                let mut value = [s.splat(0.0); C];
                for (value, from) in value.iter_mut().zip(from.as_chunks().0) {
                    *value = E::load(s, from);
                }
                for m in 0..M {
                    let weight = s.splat(weights[m][j]);
                    for c in 0..C {
                        acc[m][c] = s.mul_add(weight, value[c], acc[m][c]);
                    }
                }
            }
        }
        for m in 0..M {
            for c in 0..C {
                s.store(acc[m][c], &mut out[m * lines + line + c]);
            }
        }
    }

    /// Adds the positions that only some queries see: in a tile of several rows, the last few.
    #[inline(always)]
    fn weigh_rest<S: Simd>(&self, s: S, weights: &[[[f32; LANES]; M]], out: &mut [[f32; LANES]]) {
        let lines = out.len() / M;
        for (m, out) in out.chunks_exact_mut(lines).enumerate() {
            for position in self.all_see()..self.seen[m] {
                let (i, j) = (position / KV_BLOCK_TOKENS, position % KV_BLOCK_TOKENS);
                let weight = s.splat(weights[i][m][j]);
                let entry = &self.kv.block(self.table[i])[j * self.entry_dim..][..self.entry_dim];
                for (sum, from) in out.iter_mut().zip(entry.as_chunks().0) {
                    s.store(s.mul_add(weight, E::load(s, from), s.load(sum)), sum);
                }
            }
        }
    }

    /// How many of the split's positions every query sees.
    #[inline(always)]
    fn all_see(&self) -> usize {
        self.seen.iter().copied().min().unwrap_or(0)
    }
}
