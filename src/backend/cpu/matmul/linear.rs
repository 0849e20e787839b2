//! The driver: cuts a product into tasks and each task into kernel calls.
//!
//! A task is a range of panels times a chunk of up to 64 activation rows. Within it a panel is
//! read once from memory and meets the chunk's tiles one after the other out of the cache; float
//! panels go in blocks of columns, as they are several times as large.

use crate::backend::cpu::pool::ThreadPool;

use super::activations::{self, Scratch, TILE, Tiles, WORDS};
use super::kernel::{Isa, SendPtr, float_panels};
use super::layout::{GROUP, LANES, Quant, panel_bytes, scales_at};
use super::{Matrix, Part};

/// Tiles in a chunk.
pub(super) const CHUNK_TILES: usize = 8;
/// Columns of a float block: a pair of f32 panels takes 64 KiB of the second-level cache.
/// Even, as bf16 panels hold pairs, and whole FP8 blocks.
const BLOCK_COLS: usize = 512;
/// Least bytes of weights in a task: a microsecond or two, so that claiming one is cheap.
pub(super) const TASK_BYTES: usize = 16 << 10;
/// Tasks per thread, so that a thread that is held up delays little.
pub(super) const TASKS_PER_THREAD: usize = 4;

/// out = x W^T (+ bias): `x` is `[m, cols]`, `out` is `[m, rows]`, both row-major; `bias` has
/// `rows` values. Panics when a length differs.
pub fn linear(
    pool: &mut ThreadPool,
    scratch: &mut Scratch,
    w: &Matrix,
    bias: Option<&[f32]>,
    m: usize,
    x: &[f32],
    out: &mut [f32],
) {
    assert_eq!(x.len(), m * w.cols, "x is [m, cols]");
    assert_eq!(out.len(), m * w.rows, "out is [m, rows]");
    assert!(bias.is_none_or(|bias| bias.len() == w.rows), "bias has a value for each output");
    if m == 0 {
        return;
    }
    let tiles = Tiles::new(m);
    if w.has_quantised() {
        activations::quantise(pool, scratch, tiles, x, w.cols);
    }
    // A single row is interleaved as it stands.
    if w.has_floats() && m > 1 {
        activations::interleave(pool, scratch, tiles, x, w.cols);
    }
    let job = Job {
        w,
        bias,
        tiles,
        isa: scratch.isa,
        quantised: &scratch.quantised,
        floats: if m > 1 { &scratch.floats } else { x },
        out: SendPtr(out.as_mut_ptr()),
        stride: w.rows,
    };
    let chunks = tiles.count().div_ceil(CHUNK_TILES);
    // Float panels go in groups, see `float_panels`.
    let unit = if w.has_floats() { 4 } else { 1 };
    let units = w.panels.div_ceil(unit);
    let most = (pool.threads() * TASKS_PER_THREAD).div_ceil(chunks).min(w.bytes() / TASK_BYTES).max(1);
    let ranges = most.next_multiple_of(pool.threads()).min(units);
    let start = |range: usize| (units * range / ranges * unit).min(w.panels);
    pool.run(ranges * chunks, &|task| {
        let (range, chunk) = (task % ranges, task / ranges * CHUNK_TILES);
        job.run(start(range), start(range + 1), chunk, tiles.count().min(chunk + CHUNK_TILES));
    });
}

/// A product of which parts are run by several threads; `quantised` and `floats` are the rows in
/// the forms that the matrix's types need.
pub(super) struct Job<'a> {
    pub w: &'a Matrix,
    pub bias: Option<&'a [f32]>,
    pub tiles: Tiles,
    pub isa: Isa,
    pub quantised: &'a [i32],
    pub floats: &'a [f32],
    pub out: SendPtr<f32>,
    /// From one row of `out` to the next.
    pub stride: usize,
}

impl Job<'_> {
    /// Panels `from..to` of the matrix times tiles `first..last`, at most [`CHUNK_TILES`].
    pub fn run(&self, from: usize, to: usize, first: usize, last: usize) {
        for part in &self.w.parts {
            let start = from.max(part.first_panel);
            let end = to.min(part.first_panel + part.panels());
            if start >= end {
                continue;
            }
            let (start, end) = (start - part.first_panel, end - part.first_panel);
            match Quant::of(part.dtype) {
                Some(quant) => self.quantised(part, &quant, start, end, first, last),
                None => self.floats(part, start, end, first, last),
            }
        }
    }

    fn quantised(&self, part: &Part, quant: &Quant, from: usize, to: usize, first: usize, last: usize) {
        let groups = self.w.cols / GROUP;
        let at = scales_at(quant, self.w.cols);
        for panel in from..to {
            let (codes, scales) = part.panel(panel).split_at(at);
            for tile in first..last {
                let (row, rows) = self.tiles.get(tile);
                let x = &self.quantised[row * groups * WORDS..][..rows * groups * WORDS];
                let mut sums = [[0.0; LANES]; TILE];
                let kernel = self.isa.quant_tile(part.dtype, rows);
                // SAFETY: the panel and the records hold `groups` groups, `sums` at least `rows`
                // rows, and the machine has the path (see Scratch).
                unsafe { kernel(codes.as_ptr(), scales.as_ptr(), groups, x.as_ptr(), sums.as_mut_ptr()) };
                self.store(part, panel, row, &sums[..rows]);
            }
        }
    }

    fn floats(&self, part: &Part, from: usize, to: usize, first: usize, last: usize) {
        let cols = self.w.cols;
        let together = float_panels(self.tiles.get(first).1);
        let mut panel = from;
        while panel < to {
            let panels = if to - panel >= together { together } else { 1 };
            // The chunk's tiles have the same number of rows but for the last, which may have fewer
            // and then takes its panels one by one.
            let mut sums = [[[0.0; LANES]; TILE * 4]; CHUNK_TILES];
            for block in (0..cols).step_by(BLOCK_COLS) {
                let width = BLOCK_COLS.min(cols - block);
                let start = panel_bytes(part.dtype, block);
                for tile in first..last {
                    let (row, rows) = self.tiles.get(tile);
                    let x = &self.floats[row * cols + block * rows..][..width * rows];
                    self.float_tile(part, panel, panels, start, width, rows, x, &mut sums[tile - first]);
                }
            }
            for tile in first..last {
                let (row, rows) = self.tiles.get(tile);
                for (i, sums) in sums[tile - first][..panels * rows].chunks_exact(rows).enumerate() {
                    self.store(part, panel + i, row, sums);
                }
            }
            panel += panels;
        }
    }

    /// `panels` panels, `width` of their columns from byte `start` on, times one tile.
    #[allow(clippy::too_many_arguments)]
    fn float_tile(
        &self,
        part: &Part,
        panel: usize,
        panels: usize,
        start: usize,
        width: usize,
        rows: usize,
        x: &[f32],
        sums: &mut [[f32; LANES]],
    ) {
        let step = if panels == float_panels(rows) { panels } else { 1 };
        let kernel = self.isa.float_tile(part.dtype, rows, step == 1);
        for i in (0..panels).step_by(step) {
            let weights = &part.bytes()[(panel + i) * part.panel_bytes..][..step * part.panel_bytes];
            let (weights, sums) = (&weights[start..], &mut sums[i * rows..][..step * rows]);
            // SAFETY: `step` panels lie `panel_bytes` apart and have `width` columns (padded to
            // pairs) from `start` on; `x` has width * rows values, `sums` step * rows rows; the
            // machine has the path (see Scratch).
            unsafe { kernel(weights.as_ptr(), part.panel_bytes, width, x.as_ptr(), sums.as_mut_ptr()) };
        }
    }

    /// Adds the bias and writes a panel's outputs for activation rows from `row` on.
    fn store(&self, part: &Part, panel: usize, row: usize, sums: &[[f32; LANES]]) {
        let start = part.first_row + panel * LANES;
        let lanes = LANES.min(part.rows - panel * LANES);
        for (r, sums) in sums.iter().enumerate() {
            // SAFETY: row + r < m and start + lanes <= rows, so this is inside `out`, whose rows are
            // `stride` apart; no other task has this panel and row.
            let out = unsafe {
                std::slice::from_raw_parts_mut(self.out.get().add((row + r) * self.stride + start), lanes)
            };
            match self.bias {
                None => out.copy_from_slice(&sums[..lanes]),
                Some(bias) => {
                    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[start..]) {
                        *out = sum + bias;
                    }
                }
            }
        }
    }
}
