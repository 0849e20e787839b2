//! Several products in one parallel region: the experts of a layer, each with rows of its own,
//! or the heads of one, each with columns of its own.
//!
//! A task is a range of one matrix's panels. All of that product's rows meet a few panels while
//! those are in the cache, so that a matrix passes from memory once, whatever its rows; hence
//! tasks are not cut along the rows, and ranges are shorter where rows are many. Outputs have
//! the bits of [`super::linear`] on a product's rows alone: both run [`Job`].

use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::cpu::pool::ThreadPool;

use super::activations::{self, Scratch, TILE, Tile, Tiles, Tiling, WORDS};
use super::kernel::{SendPtr, float_panels};
use super::layout::GROUP;
use super::linear::{CHUNK_TILES, Job, TASK_BYTES, TASKS_PER_THREAD};
use super::{Matrix, Part};

/// Bytes of panels that stay in the second-level cache while rows pass.
const PANELS_BYTES: usize = 128 << 10;

/// Rows `first .. first + rows` that go through one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Index of the matrix.
    pub matrix: usize,
    /// First row.
    pub first: usize,
    /// Number of rows, at least 1.
    pub rows: usize,
}

/// `out[i] = x[i] W^T` with the matrix of i's group: `x` is `[m, cols]`, `out` `[m, rows]`, both
/// row-major. The groups make up the m rows, in order; matrices are of one shape. Returns the
/// bytes of weights read. Panics when a shape differs.
pub fn grouped(
    pool: &mut ThreadPool,
    scratch: &mut Scratch,
    matrices: &[Matrix],
    groups: &[Group],
    x: &[f32],
    out: &mut [f32],
) -> u64 {
    let Some(group) = groups.first() else {
        assert!(x.is_empty() && out.is_empty(), "rows without a group");
        return 0;
    };
    let Matrix { rows: width, cols, .. } = matrices[group.matrix];
    let product = |group: &Group| Product {
        w: &matrices[group.matrix],
        row: group.first,
        rows: group.rows,
        x: group.first * cols,
        out: group.first * width,
    };
    let end = groups.iter().fold(0, |end, group| {
        assert!(group.first == end && group.rows > 0, "groups lie one after the other");
        assert_eq!(
            (product(group).w.rows, product(group).w.cols),
            (width, cols),
            "shape of a group's matrix"
        );
        end + group.rows
    });
    assert_eq!(x.len(), end * cols, "x is [m, cols]");
    assert_eq!(out.len(), end * width, "out is [m, rows]");
    let layout = Layout { cols, x_stride: cols, out_stride: width };
    // SAFETY: the groups' rows of x and out were just checked to be within them, and groups
    // share no row.
    unsafe { run(pool, scratch, layout, groups.len(), &|i| product(&groups[i]), x, out) }
}

/// One matrix per head: of the head's equal share of x's columns the first `cols` go through it
/// to the first `rows` of its share of out's columns; other columns stay. `x` is `[m, x_columns]`,
/// `out` `[m, out_columns]`; matrices have equal `cols`. Panics when a shape does not fit.
#[allow(clippy::too_many_arguments)]
pub fn headed(
    pool: &mut ThreadPool,
    scratch: &mut Scratch,
    heads: &[Matrix],
    m: usize,
    x: &[f32],
    x_columns: usize,
    out: &mut [f32],
    out_columns: usize,
) {
    let Some(cols) = heads.first().map(|head| head.cols) else { return };
    let share = |columns: usize| {
        assert_eq!(columns % heads.len(), 0, "columns of {} heads", heads.len());
        columns / heads.len()
    };
    let (x_share, out_share) = (share(x_columns), share(out_columns));
    for head in heads {
        assert!(head.cols == cols && cols <= x_share, "a head's input is within its columns");
        assert!(head.rows <= out_share, "a head's output is within its columns");
    }
    assert_eq!(x.len(), m * x_columns, "x is [m, columns]");
    assert_eq!(out.len(), m * out_columns, "out is [m, columns]");
    if m == 0 {
        return;
    }
    let product =
        |i: usize| Product { w: &heads[i], row: i * m, rows: m, x: i * x_share, out: i * out_share };
    let layout = Layout { cols, x_stride: x_columns, out_stride: out_columns };
    // SAFETY: a head's columns are within each of the m rows of x and out, and no other head's.
    unsafe { run(pool, scratch, layout, heads.len(), &product, x, out) };
}

/// One of the products.
struct Product<'a> {
    w: &'a Matrix,
    /// Where its rows are among those of all products.
    row: usize,
    rows: usize,
    /// Where its first row starts in x and in out.
    x: usize,
    out: usize,
}

/// What the products have in common.
#[derive(Clone, Copy)]
struct Layout {
    cols: usize,
    x_stride: usize,
    out_stride: usize,
}

/// Panels `from..to` of a product.
#[derive(Clone, Copy, Debug)]
struct Task {
    product: usize,
    from: usize,
    to: usize,
}

/// How a call is cut up; kept between calls for its memory.
#[derive(Debug, Default)]
pub(super) struct Plan {
    tiles: Vec<Tile>,
    tasks: Vec<Task>,
}

/// All products' tiles.
struct List<'a> {
    tiles: &'a [Tile],
    rows: usize,
    stride: usize,
}

impl Tiling for List<'_> {
    fn total(&self) -> usize {
        self.rows
    }
    fn count(&self) -> usize {
        self.tiles.len()
    }
    fn tile(&self, tile: usize, _: usize) -> Tile {
        self.tiles[tile]
    }
    fn stride(&self, _: usize) -> usize {
        self.stride
    }
}

/// Runs the products, whose rows are numbered one after the other from 0 and which have at least
/// one; returns the bytes of weights read.
///
/// # Safety
/// For every product, values `r * out_stride + c` from its `out` on, for each of its rows r and
/// each of its matrix's outputs c, are within `out` and no other product's.
unsafe fn run<'a>(
    pool: &mut ThreadPool,
    scratch: &mut Scratch,
    layout: Layout,
    count: usize,
    product: &(dyn Fn(usize) -> Product<'a> + Sync),
    x: &[f32],
    out: &mut [f32],
) -> u64 {
    let Layout { cols, x_stride, out_stride } = layout;
    let mut plan = std::mem::take(&mut scratch.plan);
    plan.fill(pool.threads(), layout, count, product);
    let rows = (0..count).map(|i| product(i).rows).sum();
    let list = || List { tiles: &plan.tiles, rows, stride: x_stride };
    if (0..count).any(|i| product(i).w.has_quantised()) {
        activations::quantise(pool, scratch, list(), x, cols);
    }
    if (0..count).any(|i| product(i).w.has_floats()) {
        activations::interleave(pool, scratch, list(), x, cols);
    }
    let (isa, quantised, floats) = (scratch.isa, &scratch.quantised[..], &scratch.floats[..]);
    let out = SendPtr(out.as_mut_ptr());
    let read = AtomicU64::new(0);
    pool.run(plan.tasks.len(), &|task| {
        let Task { product: index, from, to } = plan.tasks[task];
        let product = product(index);
        let job = Job {
            w: product.w,
            bias: None,
            tiles: Tiles::new(product.rows),
            isa,
            quantised: quantised.get(product.row * (cols / GROUP) * WORDS..).unwrap_or_default(),
            floats: floats.get(product.row * cols..).unwrap_or_default(),
            out: SendPtr(out.get().wrapping_add(product.out)),
            stride: out_stride,
        };
        read.fetch_add(pass(&job, from, to), Ordering::Relaxed);
    });
    scratch.plan = plan;
    read.into_inner()
}

/// Takes panels `from..to` past all rows of the job, a few panels at a time; returns their bytes.
fn pass(job: &Job<'_>, from: usize, to: usize) -> u64 {
    let tiles = job.tiles.count();
    let step = match tiles <= CHUNK_TILES {
        // The job itself keeps a panel until it has met a chunk.
        true => to - from,
        false => {
            let panel_bytes = job.w.bytes().div_ceil(job.w.panels);
            (PANELS_BYTES / panel_bytes).max(1).next_multiple_of(float_panels(job.tiles.get(0).1))
        }
    };
    let mut read = 0;
    for from in (from..to).step_by(step) {
        let to = to.min(from + step);
        for chunk in (0..tiles).step_by(CHUNK_TILES) {
            job.run(from, to, chunk, tiles.min(chunk + CHUNK_TILES));
        }
        read += job.w.parts.iter().map(|part| bytes_between(part, from, to)).sum::<usize>();
    }
    read as u64
}

/// Bytes that the part has of its matrix's panels `from..to`.
fn bytes_between(part: &Part, from: usize, to: usize) -> usize {
    let start = from.max(part.first_panel);
    let end = to.min(part.first_panel + part.panels());
    end.saturating_sub(start) * part.panel_bytes
}

impl Plan {
    fn fill<'a>(
        &mut self,
        threads: usize,
        layout: Layout,
        count: usize,
        product: &(dyn Fn(usize) -> Product<'a> + Sync),
    ) {
        self.tiles.clear();
        self.tasks.clear();
        // A panel's cost in rows: to read it takes about as long as to multiply a tile.
        let cost = |product: &Product<'_>| product.rows.max(TILE);
        let total: usize = (0..count).map(product).map(|p| p.w.panels * cost(&p)).sum();
        let share = total.div_ceil(threads * TASKS_PER_THREAD);
        for index in 0..count {
            let product = product(index);
            let tiles = Tiles::new(product.rows);
            self.tiles.extend((0..tiles.count()).map(|tile| {
                let (row, rows) = tiles.get(tile);
                Tile { row: product.row + row, rows, start: product.x + row * layout.x_stride }
            }));
            // Float panels go in groups, see `float_panels`.
            let unit = if product.w.has_floats() { 4 } else { 1 };
            let panels = product.w.panels;
            let units = panels.div_ceil(unit);
            let most = (product.w.bytes() / TASK_BYTES).min(units).max(1);
            let ranges = (panels * cost(&product)).div_ceil(share).min(most);
            let start = |range: usize| (units * range / ranges * unit).min(panels);
            self.tasks.extend((0..ranges).map(|range| Task {
                product: index,
                from: start(range),
                to: start(range + 1),
            }));
        }
    }
}
