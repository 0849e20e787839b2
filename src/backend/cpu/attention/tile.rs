//! The kernel of attention: a tile of M queries that share one kv head, over an item's splits.
//!
//! Per split: scores of all its positions (a block's keys are sixteen lanes, accumulated over
//! the dimensions in order), masked; their maximum; weights 2^(score - max) and their sum, lane
//! by position modulo 16; then the weighted sum of values, position by position. Loads of keys
//! and values are shared by the M queries. A masked position's key and value are not looked at:
//! what lies there may be anything, NaN included.

// Loops of constant length over several arrays at once; an index says it best.
#![allow(clippy::needless_range_loop)]

use super::super::kv::{Element, Layer, MAX_HEAD_DIM};
use super::super::simd::{Kernel, LANES, Simd};
use super::super::tensor::Shared;
use super::{Item, Query, SPLIT_BLOCKS, Task, Total, softmax, store_partial};
use crate::backend::KV_BLOCK_TOKENS;
use std::ops::Range;

const MAX_LINES: usize = MAX_HEAD_DIM / LANES;
/// Most queries in a tile.
const MAX_QUERIES: usize = 12;

/// What the tiles of a call share.
pub struct Job<'a, E> {
    pub task: &'a Task<'a>,
    pub kv: &'a Layer<'a, E>,
    pub partials: &'a Shared<'a, [f32; LANES]>,
}

/// A thread's working memory: cleared once and not for each tile, which takes as long as the
/// tile itself when its context is short.
pub struct Room(Box<[[f32; LANES]; Room::LINES]>);

impl Room {
    /// Per query: weights of a split, scaled query, a split's values, their total.
    const LINES: usize = MAX_QUERIES * (SPLIT_BLOCKS + 3 * MAX_LINES);

    pub fn new() -> Self {
        Self(Box::new([[0.0; LANES]; Self::LINES]))
    }
}

/// Queries `first .. first + count` of an item, `count <= M`; with B blocks of keys and C lines
/// of values in flight at a time (M * B and M * C vectors are held in registers).
pub struct Tile<'a, E, const M: usize, const B: usize, const C: usize> {
    pub job: &'a Job<'a, E>,
    pub item: &'a Item,
    pub room: &'a mut Room,
    pub first: usize,
    pub count: usize,
}

impl<E: Element, const M: usize, const B: usize, const C: usize> Kernel for Tile<'_, E, M, B, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { job, item, room, first, count } = self;
        let (task, head_dim) = (job.task, job.task.key_dim);
        let lines = head_dim.div_ceil(LANES);
        // A place without a query of its own repeats the first one, and its result is dropped.
        let queries: [Query; M] =
            std::array::from_fn(|m| Query::new(task, item, first + if m < count { m } else { 0 }));
        let sees = queries.each_ref().map(|query| query.sees.clone());
        let (weights, room) = room.0.split_at_mut(M * SPLIT_BLOCKS);
        let weights: &mut [[[f32; LANES]; M]] = weights.as_chunks_mut().0;
        let (values, room) = room.split_at_mut(M * lines);
        let (totals, room) = room.split_at_mut(M * lines);
        totals.fill([0.0; LANES]);
        let (q, _) = room.as_flattened_mut().as_chunks_mut::<MAX_HEAD_DIM>();
        // Scores are in powers of two, so that the weights need no multiplication.
        let scale = task.scale * std::f32::consts::LOG2_E;
        for (m, query) in queries.iter().enumerate() {
            for (q, x) in q[m].iter_mut().zip(query.values(task)) {
                *q = x * scale;
            }
        }

        let table = &task.batch.block_tables[task.batch.seqs[item.seq].table..];
        let all_start = sees.iter().map(|r| r.start).max().unwrap_or(0);
        let all = all_start..sees.iter().map(|r| r.end).min().unwrap_or(0);
        let any_start = sees.iter().map(|r| r.start).min().unwrap_or(0) / KV_BLOCK_TOKENS;
        let any_end = sees.iter().map(|r| r.end).max().unwrap_or(0).div_ceil(KV_BLOCK_TOKENS);
        let mut sums = [Total::NONE; M];
        for split in item.first_split..item.end_split {
            let blocks = any_start.max(split * SPLIT_BLOCKS)..any_end.min((split + 1) * SPLIT_BLOCKS);
            let mut new = [Total::NONE; M];
            if !blocks.is_empty() {
                let part = Part {
                    kv: job.kv,
                    kv_head: item.group,
                    table: &table[blocks.clone()],
                    sees: &sees,
                    all: all.clone(),
                    first: blocks.start,
                };
                let weights = &mut weights[..blocks.len()];
                part.scores::<S, B>(s, head_dim, q, weights);
                new = softmax(s, weights);
                let mut line = 0;
                while line < lines {
                    if lines - line >= C {
                        part.weigh::<S, C>(s, head_dim, line, weights, values);
                        line += C;
                    } else {
                        part.weigh::<S, 1>(s, head_dim, line, weights, values);
                        line += 1;
                    }
                }
            }
            match item.partials {
                None => {
                    for m in 0..M {
                        let at = m * lines..(m + 1) * lines;
                        sums[m].fold(s, &mut totals[at.clone()], new[m], &values[at]);
                    }
                }
                Some(start) => {
                    for m in 0..count {
                        // SAFETY: one task has this item.
                        unsafe {
                            let values = &values[m * lines..];
                            store_partial(task, job.partials, start, first + m, new[m], values);
                        }
                    }
                }
            }
        }
        if item.partials.is_none() {
            for (m, query) in queries.iter().enumerate().take(count) {
                // SAFETY: sequences' rows are disjoint, items' rows and heads too.
                unsafe { query.write(task, &sums[m], &totals[m * lines..]) };
            }
        }
    }
}

/// The blocks of one split that a tile's queries see, from block number `first` on.
struct Part<'a, E, const M: usize> {
    kv: &'a Layer<'a, E>,
    kv_head: usize,
    table: &'a [u32],
    sees: &'a [Range<usize>; M],
    /// The positions that all of them see.
    all: Range<usize>,
    first: usize,
}

impl<E: Element, const M: usize> Part<'_, E, M> {
    /// The scores of all positions, -inf where a query does not see it.
    #[inline(always)]
    fn scores<S: Simd, const B: usize>(
        &self,
        s: S,
        head_dim: usize,
        q: &[[f32; MAX_HEAD_DIM]],
        scores: &mut [[[f32; LANES]; M]],
    ) {
        let last = self.table.len() - 1;
        let q: &[[f32; MAX_HEAD_DIM]; M] = q[..M].try_into().expect("M queries");
        // Known to the compiler, this leaves no check in the loop.
        let head_dim = head_dim.min(MAX_HEAD_DIM);
        for (group, scores) in scores.chunks_mut(B).enumerate() {
            // A place without a block of its own repeats the last one, and its result is dropped.
            let keys: [&[[E; LANES]]; B] = std::array::from_fn(|b| {
                &self.kv.keys(self.table[(group * B + b).min(last)], self.kv_head)[..head_dim]
            });
            let mut acc = [[s.splat(0.0); M]; B];
            for d in 0..head_dim {
                let mut key = [s.splat(0.0); B];
                for b in 0..B {
                    key[b] = E::load(s, &keys[b][d]);
                }
                for m in 0..M {
                    let q = s.splat(q[m][d]);
                    for b in 0..B {
                        acc[b][m] = s.mul_add(q, key[b], acc[b][m]);
                    }
                }
            }
            for (scores, acc) in scores.iter_mut().zip(acc) {
                for m in 0..M {
                    s.store(acc[m], &mut scores[m]);
                }
            }
        }
        for (i, scores) in scores.iter_mut().enumerate() {
            let all = self.all_see(i);
            if all.len() < LANES {
                for m in 0..M {
                    let seen = self.seen(i, m);
                    let seen = seen.start as u32..seen.end as u32;
                    for lane in 0..LANES {
                        let sees = seen.start <= lane as u32 && (lane as u32) < seen.end;
                        scores[m][lane] = if sees { scores[m][lane] } else { f32::NEG_INFINITY };
                    }
                }
            }
        }
    }

    /// Lines `line .. line + C` of the weighted sums of values.
    #[inline(always)]
    fn weigh<S: Simd, const C: usize>(
        &self,
        s: S,
        head_dim: usize,
        line: usize,
        weights: &[[[f32; LANES]; M]],
        out: &mut [[f32; LANES]],
    ) {
        let lines = out.len() / M;
        assert!((line + C) * LANES <= head_dim.next_multiple_of(LANES));
        let mut acc = [[s.splat(0.0); C]; M];
        for (i, (weights, &block)) in weights.iter().zip(self.table).enumerate() {
            let values = self.kv.values(block, self.kv_head);
            let load = |j: usize, c: usize| {
                let at = j * head_dim + (line + c) * LANES;
                // SAFETY: j < 16, and line + c is below head_dim / 16 rounded up (asserted), so
                // that at + 16 <= 16 * head_dim + 8 with head_dim a multiple of 8: in the slice.
                E::load(s, unsafe { &*values.as_ptr().add(at).cast::<[E; LANES]>() })
            };
            // Positions that not every query sees: through memory, so that the sums can stay in
            // registers otherwise.
            let some = |acc: &mut [[S::V; C]; M], out: &mut [[f32; LANES]], from: usize, to: usize| {
                for m in 0..M {
                    for c in 0..C {
                        s.store(acc[m][c], &mut out[m * lines + line + c]);
                    }
                }
                for m in 0..M {
                    let seen = self.seen(i, m);
                    for j in seen.start.max(from)..seen.end.min(to) {
                        for c in 0..C {
                            let sum = &mut out[m * lines + line + c];
                            s.store(s.mul_add(s.splat(weights[m][j]), load(j, c), s.load(sum)), sum);
                        }
                    }
                }
                for m in 0..M {
                    for c in 0..C {
                        acc[m][c] = s.load(&out[m * lines + line + c]);
                    }
                }
            };
            let all = self.all_see(i);
            if all.start > 0 {
                some(&mut acc, out, 0, all.start);
            }
            for j in all.clone() {
                let mut value = [s.splat(0.0); C];
                for c in 0..C {
                    value[c] = load(j, c);
                }
                for m in 0..M {
                    let weight = s.splat(weights[m][j]);
                    for c in 0..C {
                        acc[m][c] = s.mul_add(weight, value[c], acc[m][c]);
                    }
                }
            }
            if all.end < LANES {
                some(&mut acc, out, all.end, LANES);
            }
        }
        for m in 0..M {
            for c in 0..C {
                s.store(acc[m][c], &mut out[m * lines + line + c]);
            }
        }
    }

    /// The positions of block i that query m sees, counted from the block's start.
    #[inline(always)]
    fn seen(&self, i: usize, m: usize) -> Range<usize> {
        let start = (self.first + i) * KV_BLOCK_TOKENS;
        let within = |position: usize| position.saturating_sub(start).min(LANES);
        within(self.sees[m].start)..within(self.sees[m].end)
    }

    /// Those that every query sees, `start <= end` also if there are none.
    #[inline(always)]
    fn all_see(&self, i: usize) -> Range<usize> {
        let start = (self.first + i) * KV_BLOCK_TOKENS;
        let within = |position: usize| position.saturating_sub(start).min(LANES);
        within(self.all.start)..within(self.all.end.max(self.all.start))
    }
}
