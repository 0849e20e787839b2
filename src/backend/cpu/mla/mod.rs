//! Multi-head latent attention (MLA; DeepSeek-V2, 2024) in latent space: with the absorbed
//! projections applied by the caller, all heads attend to one entry per position, the normed
//! latent and the rotated key ([`cache`]), and sum up latents.
//!
//! Splits, partial results and the work list are those of [`super::attention`], and so is the
//! invariant: a row's bits depend on its own position and its sequence's entries alone.
//!
//! Work is cut by row and group of heads; tiles of eight queries share what they load. An item
//! goes through a split with all its queries before the next one, so that entries come from
//! memory once per item and from the second-level cache afterwards.
//!
//! Absent on purpose: attention over decompressed keys and values for long prompts (fewer
//! multiplications there, but other bits than a decode's), windows.

mod cache;
mod tile;
mod write;

use super::attention::{Item, Task};
use super::kv::Element;
use super::pool::ThreadPool;
use super::simd::Isa;
use super::tensor::{Shared, Tensor};
use crate::backend::{Batch, KvDtype, KvLayout, LatentLayout};
use cache::Entries;
use std::cell::RefCell;
use tile::{Job, Room, Tile};

pub use super::attention::Scratch;
pub use cache::LatentCache;
pub use write::rope_kv_write;

/// Queries (rows times heads of a group) of an item; two tiles of eight.
const ITEM_QUERIES: usize = 16;

/// See [`crate::backend::Backend::mla_attention`].
#[allow(clippy::too_many_arguments)]
pub fn attention(
    pool: &mut ThreadPool,
    isa: Isa,
    scratch: &mut Scratch,
    query: &Tensor,
    layout: LatentLayout,
    scale: f32,
    batch: &Batch,
    kv: &LatentCache,
    layer: usize,
    out: &mut Tensor,
) {
    let (spec, LatentLayout { heads, rank, rope_dim, .. }) = (kv.spec(), layout);
    assert_eq!(query.columns(), heads * layout.entry_dim(), "columns of the query rows");
    assert_eq!(KvLayout::Latent { rank, rope_dim }, spec.layout, "the cache's entries");
    let task = Task {
        batch,
        q: query.values(),
        q_columns: query.columns(),
        heads,
        group: (1..=ITEM_QUERIES).rev().find(|group| heads.is_multiple_of(*group)).unwrap_or(1),
        item_queries: ITEM_QUERIES,
        key_dim: layout.entry_dim(),
        value_dim: rank,
        position_bytes: spec.token_bytes() / spec.layers,
        scale,
        window: usize::MAX,
        out: Shared::new(out.set_rows(query.rows(), heads * rank)),
    };
    match spec.dtype {
        KvDtype::F32 => run(pool, isa, scratch, task, kv.layer::<f32>(layer)),
        KvDtype::F16 => run(pool, isa, scratch, task, kv.layer::<u16>(layer)),
    }
}

fn run<E: Element>(
    pool: &mut ThreadPool,
    isa: Isa,
    scratch: &mut Scratch,
    task: Task<'_>,
    kv: Entries<'_, E>,
) {
    task.run(pool, isa, scratch, |item, partials| {
        run_item(isa, &Job { task: &task, kv: &kv, partials }, item);
    });
}

/// Split by split, an item's queries by eights (by fours with few registers); what is left over
/// goes into the smallest tile that holds it.
fn run_item<E: Element>(isa: Isa, job: &Job<'_, E>, item: &Item) {
    thread_local! {
        static ROOM: RefCell<Room> = RefCell::new(Room::new());
    }
    let queries = item.rows * job.task.group;
    let widest = if isa.is_wide() { 8 } else { 4 };
    ROOM.with_borrow_mut(|room| {
        room.clear(queries, job.task.value_dim);
        for split in item.first_split..item.end_split {
            for first in (0..queries).step_by(widest) {
                let count = (queries - first).min(widest);
                match (isa.is_wide(), count) {
                    (true, 5..) => isa.run(Tile::<E, 8, 2, 2> { job, item, room, split, first, count }),
                    (true, 3..) => isa.run(Tile::<E, 4, 4, 4> { job, item, room, split, first, count }),
                    (true, 2) => isa.run(Tile::<E, 2, 8, 8> { job, item, room, split, first, count }),
                    (true, _) => isa.run(Tile::<E, 1, 8, 8> { job, item, room, split, first, count }),
                    (false, 3..) => isa.run(Tile::<E, 4, 1, 1> { job, item, room, split, first, count }),
                    (false, 2) => isa.run(Tile::<E, 2, 2, 2> { job, item, room, split, first, count }),
                    (false, _) => isa.run(Tile::<E, 1, 4, 4> { job, item, room, split, first, count }),
                }
            }
        }
    });
}
