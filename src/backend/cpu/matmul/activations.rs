//! Activations in the form that the kernels read.
//!
//! Rows go in tiles of up to 8. A tile is stored column by column with its rows side by side, so
//! that a kernel walks one pointer and reaches every row at a constant distance. Float weights
//! take `[cols][rows of the tile]` f32. Quantised weights take per group of 32 columns one
//! record of [`WORDS`] 32-bit words a row: the rows' 8-bit values, then planes of one word a row:
//! scale, scale * sum, and -z * sum for each zero point z, with which integer sums start. The planes
//! of a group's halves, for z = 32, serve z = 4 (a shift) and Q2_K's minima (a factor) as well:
//! every further plane would cost all types memory traffic.
//!
//! A group is scaled by its largest magnitude / 127. A group with a NaN or an infinity gets a NaN
//! scale, so that every output of that row is NaN, as it were in f32.

use crate::backend::cpu::pool::ThreadPool;

use super::grouped::Plan;
use super::kernel::{Isa, SendPtr};
use super::layout::{GROUP, Zero};

/// Most rows in a tile.
pub(super) const TILE: usize = 8;
/// Words of a row's group: 8 of codes, then the planes.
pub(super) const WORDS: usize = 15;
/// Planes after the codes.
pub(super) const PLANE_SCALE: usize = 0;
pub(super) const PLANE_SUM: usize = 1;
/// -32 * the sum of a half group's codes, first and second half.
pub(super) const PLANE_HALVES: (usize, usize) = (5, 6);

/// The planes that correct for a zero point; the second is for a group's second half.
pub(super) const fn zero_planes(zero: Zero) -> Option<(usize, usize)> {
    match zero {
        Zero::None => None,
        Zero::Z8 => Some((2, 2)),
        Zero::Z16 => Some((3, 3)),
        Zero::Z128 => Some((4, 4)),
        Zero::Z32Halves | Zero::Z4Halves => Some(PLANE_HALVES),
    }
}

/// By how many bits the words of [`zero_planes`] are shifted right, which loses nothing.
pub(super) const fn zero_shift(zero: Zero) -> u32 {
    match zero {
        Zero::Z4Halves => 3,
        _ => 0,
    }
}

/// Buffers that [`super::linear`] reuses between calls, and the code path that it takes.
#[derive(Debug)]
pub struct Scratch {
    pub(super) isa: Isa,
    pub(super) quantised: Vec<i32>,
    pub(super) floats: Vec<f32>,
    pub(super) plan: Plan,
}

impl Scratch {
    /// For the fastest code path that this machine has.
    pub fn new() -> Self {
        Self::with_isa(Isa::best())
    }

    /// For a given code path. Panics where this machine lacks it.
    pub fn with_isa(isa: Isa) -> Self {
        assert!(isa.is_available(), "this machine has no {isa:?}");
        Self { isa, quantised: vec![], floats: vec![], plan: Plan::default() }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// How m rows are cut into tiles: as few as can be, and as even.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    m: usize,
    rows: usize,
}

impl Tiles {
    pub fn new(m: usize) -> Self {
        Self { m, rows: m.div_ceil(m.div_ceil(TILE).max(1)).max(1) }
    }

    pub fn count(&self) -> usize {
        self.m.div_ceil(self.rows)
    }

    /// (first row, rows) of a tile.
    pub fn get(&self, tile: usize) -> (usize, usize) {
        let first = tile * self.rows;
        (first, self.rows.min(self.m - first))
    }
}

/// A tile's rows: `rows` of them from `row` on in the buffer, the first of them at `start` in x.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub row: usize,
    pub rows: usize,
    pub start: usize,
}

/// The tiles of one buffer, and where their rows are in x.
pub(super) trait Tiling: Sync {
    /// Rows of all tiles together.
    fn total(&self) -> usize;
    /// Tiles.
    fn count(&self) -> usize;
    /// One of them; a row has `cols` columns.
    fn tile(&self, tile: usize, cols: usize) -> Tile;
    /// From one row of a tile to the next in x.
    fn stride(&self, cols: usize) -> usize;
}

/// Rows one after the other.
impl Tiling for Tiles {
    fn total(&self) -> usize {
        self.m
    }
    fn count(&self) -> usize {
        Tiles::count(self)
    }
    fn tile(&self, tile: usize, cols: usize) -> Tile {
        let (row, rows) = self.get(tile);
        Tile { row, rows, start: row * cols }
    }
    fn stride(&self, cols: usize) -> usize {
        cols
    }
}

/// Row groups per task of the quantisation: some microseconds.
const TASK_GROUPS: usize = 256;

/// Fills `scratch.quantised` from `x`.
pub(super) fn quantise(
    pool: &mut ThreadPool,
    scratch: &mut Scratch,
    tiles: impl Tiling,
    x: &[f32],
    cols: usize,
) {
    let groups = cols / GROUP;
    let words = tiles.total() * groups * WORDS;
    if scratch.quantised.len() < words {
        scratch.quantised.resize(words, 0);
    }
    let isa = scratch.isa;
    let target = SendPtr(scratch.quantised.as_mut_ptr());
    spans(pool, &tiles, groups, TASK_GROUPS, &|tile, from, to| {
        let Tile { row: first, rows, start: at } = tiles.tile(tile, cols);
        let start = (first * groups + from * rows) * WORDS;
        // SAFETY: the records of tile and groups [from, to), inside the `words` just ensured;
        // no other task has these.
        let out =
            unsafe { std::slice::from_raw_parts_mut(target.get().add(start), (to - from) * rows * WORDS) };
        isa.quantise(&x[at + from * GROUP..], tiles.stride(cols), rows, out);
    });
}

/// Fills `scratch.floats` from `x`.
pub(super) fn interleave(
    pool: &mut ThreadPool,
    scratch: &mut Scratch,
    tiles: impl Tiling,
    x: &[f32],
    cols: usize,
) {
    let words = tiles.total() * cols;
    if scratch.floats.len() < words {
        scratch.floats.resize(words, 0.0);
    }
    let target = SendPtr(scratch.floats.as_mut_ptr());
    spans(pool, &tiles, cols, TASK_GROUPS * GROUP, &|tile, from, to| {
        let Tile { row: first, rows, start } = tiles.tile(tile, cols);
        // SAFETY: columns [from, to) of the tile, inside the `words` just ensured; no other task
        // has these.
        let out = unsafe {
            std::slice::from_raw_parts_mut(target.get().add(first * cols + from * rows), (to - from) * rows)
        };
        for row in 0..rows {
            let x = &x[start + row * tiles.stride(cols)..][from..to];
            for (out, x) in out[row..].iter_mut().step_by(rows).zip(x) {
                *out = *x;
            }
        }
    });
}

/// Calls `job(tile, from, to)` for all of `0..units` of every tile, in parallel spans of about
/// `per_task` units times rows.
fn spans(
    pool: &mut ThreadPool,
    tiles: &impl Tiling,
    units: usize,
    per_task: usize,
    job: &(dyn Fn(usize, usize, usize) + Sync),
) {
    let (count, rows) = (tiles.count(), tiles.total());
    let cuts = (units * rows.div_ceil(count.max(1)) / per_task).clamp(1, pool.threads());
    let span = units.div_ceil(cuts);
    let total = units * rows;
    let run = |task: usize| {
        let from = task % cuts * span;
        job(task / cuts, from.min(units), (from + span).min(units));
    };
    let tasks = count * cuts;
    if total <= per_task { (0..tasks).for_each(run) } else { pool.run(tasks, &run) }
}

/// Quantises columns of `rows` rows, `stride` apart in `x`, to the records in `out`. Plain code:
/// it is compiled once for each path without its own.
#[inline(always)]
pub(super) fn quantise_rows(x: &[f32], stride: usize, rows: usize, out: &mut [i32]) {
    for (group, record) in out.chunks_exact_mut(rows * WORDS).enumerate() {
        let (codes, planes) = record.split_at_mut(rows * 8);
        for row in 0..rows {
            let x: &[f32; GROUP] = x[row * stride + group * GROUP..][..GROUP].try_into().expect("32 values");
            // As integers, magnitudes order as they do as floats, with infinity and then NaN on top.
            let top = x.iter().fold(0, |top, x| top.max(x.to_bits() & 0x7fff_ffff));
            let (scale, inverse) = self::scale(f32::from_bits(top));
            let mut values = [0i32; GROUP];
            if !scale.is_nan() {
                for (value, x) in values.iter_mut().zip(x) {
                    // The product is finite and at most 127 and a little, which rounds to 127.
                    *value = (x * inverse).round_ties_even() as i32;
                }
            }
            for (word, q) in codes[row * 8..][..8].iter_mut().zip(values.chunks_exact(4)) {
                *word = i32::from_le_bytes([q[0] as u8, q[1] as u8, q[2] as u8, q[3] as u8]);
            }
            let sums = [values[..16].iter().sum(), values[16..].iter().sum()];
            for (plane, value) in self::planes(scale, sums).into_iter().enumerate() {
                planes[plane * rows + row] = value;
            }
        }
    }
}

/// A group's scale and what its values are multiplied by, from its largest magnitude.
#[inline(always)]
pub(super) fn scale(largest: f32) -> (f32, f32) {
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest > 1e-30 {
        (largest / 127.0, 127.0 / largest)
    } else {
        // The reciprocal nears overflow; the group counts as zeros.
        (0.0, 0.0)
    }
}

/// A row's words in the planes, from the sums of its codes in the group's halves.
#[inline(always)]
pub(super) fn planes(scale: f32, [low, high]: [i32; 2]) -> [i32; WORDS - 8] {
    let sum = low + high;
    let scaled = (scale * sum as f32).to_bits() as i32;
    [scale.to_bits() as i32, scaled, -8 * sum, -16 * sum, -128 * sum, -32 * low, -32 * high]
}
