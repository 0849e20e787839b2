//! A step's metadata on the device: what kernels need to know of its rows and sequences, in one
//! array of u32 that goes up in one copy.
//!
//! Attention's work lists depend on the layers' windows and on how many rows a prefill item may
//! have, which the first step learns as it goes; later steps send the lists along.

use super::device::{DeviceMemory, Pinned, Stream};
use super::driver::{DevicePointer, Result};
use super::gpu::Gpu;
use crate::backend::{Batch, KV_BLOCK_TOKENS};
use std::ops::Range;

/// Positions of a decode item. Fixed, so that how a row is cut depends on its own length alone.
pub const SPLIT: usize = 256;

/// What an attention layer's work lists depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListKey {
    /// A row at position p sees positions > p - window.
    pub window: Option<usize>,
    /// Most rows of a prefill item.
    pub item_rows: usize,
}

/// Where a layer's work lists are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Items of several rows, and where they start: [first row, rows, position, table].
    pub prefill: (usize, DevicePointer),
    /// Where the number of those is.
    pub prefill_count: DevicePointer,
    /// Items of one row: [row, first, end, table, partial, splits].
    pub decode: (usize, DevicePointer),
    /// Rows of several decode items: [row, first partial, splits].
    pub reduce: (usize, DevicePointer),
    /// Partial results in all.
    pub partials: usize,
}

/// Offsets of a step's parts in the array.
#[derive(Default)]
struct Layout {
    tokens: usize,
    positions: usize,
    slots: usize,
    outputs: usize,
    tables: usize,
    rows: usize,
}

/// The current step.
pub struct Step {
    batch: Batch,
    layout: Layout,
    values: Vec<u32>,
    known: Vec<ListKey>,
    lists: Vec<(ListKey, ListOffsets)>,
    host: Pinned,
    device: DeviceMemory,
    /// Whether work that reads `host` may be under way.
    pub in_flight: bool,
}

#[derive(Clone, Copy)]
struct ListOffsets {
    prefill: Range2,
    prefill_count: usize,
    decode: Range2,
    reduce: Range2,
    partials: usize,
}

/// (items, offset).
type Range2 = (usize, usize);

impl Step {
    /// No step yet.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        const BYTES: usize = 64 << 10;
        Ok(Self {
            batch: Batch::default(),
            layout: Layout::default(),
            values: Vec::new(),
            known: Vec::new(),
            lists: Vec::new(),
            host: gpu.context.pinned(BYTES)?,
            device: gpu.context.allocate(BYTES)?,
            in_flight: false,
        })
    }

    /// Begins a step.
    pub fn begin(&mut self, gpu: &Gpu, stream: &Stream, batch: &Batch) -> Result<()> {
        self.batch.clone_from(batch);
        self.values.clear();
        self.lists.clear();
        let mut put = |part: &[u32]| {
            let at = self.values.len();
            self.values.extend_from_slice(part);
            // Kernels may load 16 bytes at once.
            self.values.resize(self.values.len().next_multiple_of(4), 0);
            at
        };
        self.layout = Layout {
            tokens: put(&batch.tokens),
            positions: put(&batch.positions),
            slots: put(&batch.slots),
            outputs: put(&batch.outputs),
            tables: put(&batch.block_tables),
            rows: put(&[batch.slots.len() as u32]),
        };
        for key in self.known.clone() {
            self.add_lists(key);
        }
        self.send(gpu, stream, 0..self.values.len())
    }

    /// The work lists of a layer.
    pub fn lists(&mut self, gpu: &Gpu, stream: &Stream, key: ListKey) -> Result<Lists> {
        let found = |lists: &[(ListKey, ListOffsets)]| Some(lists.iter().find(|(other, _)| *other == key)?.1);
        let offsets = match found(&self.lists) {
            Some(offsets) => offsets,
            None => {
                self.known.push(key);
                let start = self.values.len();
                let offsets = self.add_lists(key);
                self.send(gpu, stream, start..self.values.len())?;
                offsets
            }
        };
        let list = |(items, at): Range2| (items, self.at(at));
        Ok(Lists {
            prefill: list(offsets.prefill),
            prefill_count: self.at(offsets.prefill_count),
            decode: list(offsets.decode),
            reduce: list(offsets.reduce),
            partials: offsets.partials,
        })
    }

    fn add_lists(&mut self, key: ListKey) -> ListOffsets {
        let (mut prefill, mut decode, mut reduce) = (Vec::new(), Vec::new(), Vec::new());
        let mut partials = 0;
        for seq in &self.batch.seqs {
            let first_position = seq.context - seq.rows;
            if seq.rows > 1 {
                for start in (0..seq.rows).step_by(key.item_rows) {
                    let rows = key.item_rows.min(seq.rows - start);
                    prefill.extend([seq.row + start, rows, first_position + start, seq.table]);
                }
                continue;
            }
            let seen = key.window.map_or(0, |window| seq.context.saturating_sub(window));
            let splits = seen / SPLIT..seq.context.div_ceil(SPLIT);
            let partial = partials;
            for split in splits.clone() {
                let (first, end) = ((split * SPLIT).max(seen), ((split + 1) * SPLIT).min(seq.context));
                let index = partial + (split - splits.start);
                decode.extend([seq.row, first, end, seq.table, index, splits.len()]);
            }
            if splits.len() > 1 {
                reduce.extend([seq.row, partial, splits.len()]);
                partials += splits.len();
            }
        }
        let mut put = |list: Vec<usize>, width: usize| {
            let at = self.values.len();
            self.values.extend(list.iter().map(|&value| value as u32));
            self.values.resize(self.values.len().next_multiple_of(4), 0);
            (list.len() / width, at)
        };
        let prefill_items = prefill.len() / 4;
        let offsets = ListOffsets {
            prefill: put(prefill, 4),
            prefill_count: put(vec![prefill_items], 1).1,
            decode: put(decode, 6),
            reduce: put(reduce, 3),
            partials,
        };
        self.lists.push((key, offsets));
        offsets
    }

    /// Sends a part of the array; the first part of a step may move it to larger memory.
    fn send(&mut self, gpu: &Gpu, stream: &Stream, range: Range<usize>) -> Result<()> {
        if self.in_flight {
            stream.synchronize()?;
        }
        let bytes = self.values.len() * 4;
        let mut from = range.start;
        if bytes > self.device.bytes() {
            self.host = gpu.context.pinned(bytes.next_power_of_two())?;
            self.device = gpu.context.allocate(bytes.next_power_of_two())?;
            from = 0;
        }
        for (bytes, value) in self.host.bytes_mut()[from * 4..].chunks_exact_mut(4).zip(&self.values[from..])
        {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        self.in_flight = true;
        // SAFETY: both are this step's, which waits for the stream before it changes them.
        unsafe { stream.upload(&self.host, from * 4..bytes, &self.device, from * 4) }
    }

    fn at(&self, offset: usize) -> DevicePointer {
        self.device.pointer() + offset as u64 * 4
    }

    /// Rows of the step.
    pub fn rows(&self) -> usize {
        self.batch.slots.len()
    }

    /// Token of each row.
    pub fn tokens(&self) -> DevicePointer {
        self.at(self.layout.tokens)
    }

    /// Position of each row.
    pub fn positions(&self) -> DevicePointer {
        self.at(self.layout.positions)
    }

    /// KV slot of each row.
    pub fn slots(&self) -> DevicePointer {
        self.at(self.layout.slots)
    }

    /// Rows whose logits are wanted, from the first of a range on.
    pub fn outputs(&self, first: usize) -> DevicePointer {
        self.at(self.layout.outputs + first)
    }

    /// The sequences' block tables.
    pub fn tables(&self) -> DevicePointer {
        self.at(self.layout.tables)
    }

    /// Where the number of rows is.
    pub fn row_count(&self) -> DevicePointer {
        self.at(self.layout.rows)
    }
}

const _: () = assert!(SPLIT.is_multiple_of(KV_BLOCK_TOKENS));
