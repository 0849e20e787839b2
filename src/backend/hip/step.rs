//! A step's metadata on the device: what kernels need to know of its rows and sequences, in one
//! array of u32 that goes up in one copy.
//!
//! Attention's work lists depend on the layers' windows and on how many rows a prefill item may
//! have, which the first step learns as it goes; later steps send the lists along.

use super::Options;
use super::device::{DeviceMemory, Pinned, Stream};
use super::driver::{DevicePointer, Result};
use super::gpu::Gpu;
use crate::backend::{Batch, Choice, KV_BLOCK_TOKENS, SeqSpan};
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
    choices: usize,
    penalties: usize,
    spans: usize,
    tables: usize,
    adjusted: usize,
    counts: usize,
    expansion: Option<ExpansionOffsets>,
}

/// Where latents of a step that begins all its sequences are expanded to: a block for each entry of
/// the batch's block tables, in their order.
#[derive(Clone, Copy, Debug)]
pub struct Expansion {
    /// Blocks.
    pub blocks: usize,
    /// Of each: [first row, rows].
    pub rows: DevicePointer,
    /// The block tables of the sequences, where they are in the batch's: each entry is its own place.
    pub table: DevicePointer,
}

#[derive(Clone, Copy)]
struct ExpansionOffsets {
    rows: usize,
    table: usize,
}

/// The sizes that launches of a step depend on. Those of a decode are rounded up, so that few forms
/// stand for all decodes and what was recorded for one can be replayed: rows that there are not
/// have no KV slot, and items of work that there are not are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Form {
    /// Rows.
    pub rows: usize,
    /// Rows whose logits are wanted.
    pub outputs: usize,
    /// Capacity of the attention's work lists: decode items of a layer without a window.
    pub splits: usize,
    /// Tokens are chosen after the work of the step, see [`Batch::constrained`].
    pub constrained: bool,
}

impl Form {
    fn of(batch: &Batch, rows_max: usize) -> (Self, bool) {
        let splits = batch.seqs.iter().map(|seq| seq.context.div_ceil(SPLIT)).sum::<usize>();
        let (rows, outputs, constrained) = (batch.slots.len(), batch.outputs.len(), batch.constrained);
        let exact = Self { rows, outputs, splits, constrained };
        let rows = padded_rows(exact.rows);
        let decode = batch.seqs.iter().all(|seq| seq.rows == 1)
            && batch.outputs.iter().copied().eq(0..exact.rows as u32)
            && batch.choices.len() == exact.rows;
        match decode && rows <= rows_max {
            true => (Self { rows, outputs: rows, splits: splits.next_power_of_two(), constrained }, true),
            false => (exact, false),
        }
    }
}

/// The kernels for few rows take 1, 2, 4 or 16; above, tiles hold 32 at the least.
fn padded_rows(rows: usize) -> usize {
    match rows {
        ..=16 => rows.next_power_of_two(),
        17..=64 => rows.next_multiple_of(8),
        _ => rows.next_multiple_of(32),
    }
}

/// Slot of a row that there is not.
const NO_SLOT: u32 = u32::MAX;

/// u32 values of a choice, as kernels/sample.hip reads them.
const CHOICE: usize = 8;

/// The current step.
pub struct Step {
    batch: Batch,
    form: Form,
    /// Whether the form stands for other steps too.
    is_decode: bool,
    layout: Layout,
    values: Vec<u32>,
    known: Vec<ListKey>,
    lists: Vec<(ListKey, ListOffsets)>,
    host: Pinned,
    device: DeviceMemory,
    options: Options,
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
    pub fn new(gpu: &Gpu, options: Options) -> Result<Self> {
        const BYTES: usize = 64 << 10;
        Ok(Self {
            batch: Batch::default(),
            form: Form::default(),
            is_decode: false,
            layout: Layout::default(),
            values: Vec::new(),
            known: Vec::new(),
            lists: Vec::new(),
            host: gpu.context.pinned(BYTES)?,
            device: gpu.context.allocate(BYTES)?,
            options,
            in_flight: false,
        })
    }

    /// Begins a step.
    pub fn begin(&mut self, gpu: &Gpu, stream: &Stream, batch: &Batch) -> Result<()> {
        self.batch.clone_from(batch);
        (self.form, self.is_decode) = Form::of(batch, self.options.rows_max);
        self.values.clear();
        self.lists.clear();
        let Form { rows, outputs, splits, .. } = self.form;
        let mut layout = Layout {
            tokens: self.put(batch.tokens.iter().copied(), rows, 0),
            positions: self.put(batch.positions.iter().copied(), rows, 0),
            slots: self.put(batch.slots.iter().copied(), rows, NO_SLOT),
            outputs: self.put(batch.outputs.iter().copied(), outputs, 0),
            counts: self.put([batch.slots.len() as u32, outputs as u32], 2, 0),
            choices: self.put(batch.choices.iter().flat_map(choice_words), outputs * CHOICE, 0),
            penalties: self.put(batch.choices.iter().flat_map(penalty_words), outputs * 4, 0),
            ..Layout::default()
        };
        let mut end = 0;
        let ends = batch.choices.iter().map(|choice| {
            end += choice.adjusted.len() as u32;
            end
        });
        let mut spans = vec![0];
        spans.extend(ends);
        layout.spans = self.put(spans, outputs + 1, end);
        for key in self.known.clone() {
            self.add_lists(key);
        }
        let table_len =
            if self.is_decode { splits * (SPLIT / KV_BLOCK_TOKENS) } else { batch.block_tables.len() };
        layout.tables = self.put(batch.block_tables.iter().copied(), table_len, 0);
        let adjusted = batch.choices.iter().flat_map(|choice| &choice.adjusted);
        let words = adjusted.flat_map(|a| [a.token, a.count, u32::from(a.seen), a.bias.to_bits()]);
        layout.adjusted = self.put(words, 0, 0);
        layout.expansion = self.begins_all().then(|| {
            let blocks = batch.block_tables.len();
            ExpansionOffsets {
                rows: self.put(rows_of_blocks(batch).into_iter().flatten(), 0, 0),
                table: self.put(0..blocks as u32, 0, 0),
            }
        });
        self.layout = layout;
        self.send(gpu, stream, 0..self.values.len())
    }

    /// Appends `part`, filled up to `len`; where it starts.
    fn put(&mut self, part: impl IntoIterator<Item = u32>, len: usize, fill: u32) -> usize {
        let at = self.values.len();
        self.values.extend(part);
        let end = self.values.len().max(at + len);
        self.values.resize(end, fill);
        // Kernels may load 16 bytes at once.
        self.values.resize(end.next_multiple_of(4), 0);
        at
    }

    /// Whether all positions that the step's sequences have are its own rows, several of each.
    fn begins_all(&self) -> bool {
        let begins = |seq: &SeqSpan| seq.rows == seq.context && seq.rows > 1;
        !self.batch.seqs.is_empty() && self.batch.seqs.iter().all(begins)
    }

    /// Where latents may be expanded to; None unless the step begins all its sequences, with several
    /// rows of each.
    pub fn expansion(&self) -> Option<Expansion> {
        let ExpansionOffsets { rows, table } = self.layout.expansion?;
        let blocks = self.batch.block_tables.len();
        Some(Expansion { blocks, rows: self.at(rows), table: self.at(table) })
    }

    /// What launches of this step have in common with those of other steps; None when they have not.
    pub fn decode_form(&self) -> Option<Form> {
        self.is_decode.then_some(self.form)
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
            if seq.rows > 1 || self.options.deterministic {
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
        let Form { rows, splits, .. } = self.form;
        let (prefill_items, decode_items, reduce_items) =
            (prefill.len() / 4, decode.len() / 6, reduce.len() / 3);
        // Where launches are replayed, their grids cover all that a step of this form can have.
        let (prefills, decodes, reduces, partials) = match (self.is_decode, self.options.deterministic) {
            (true, true) => (rows, 0, 0, 0),
            (true, false) => (0, splits, rows, splits),
            (false, _) => (prefill_items, decode_items, reduce_items, partials),
        };
        let words = |list: Vec<usize>| list.into_iter().map(|value| value as u32);
        let offsets = ListOffsets {
            prefill: (prefills, self.put(words(prefill), prefills * 4, 0)),
            prefill_count: self.put([prefill_items as u32], 1, 0),
            decode: (decodes, self.put(words(decode), decodes * 6, 0)),
            reduce: (reduces, self.put(words(reduce), reduces * 3, 0)),
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
        self.form.rows
    }

    /// Those of a range of the batch's outputs that there are in this form: the last range of a
    /// decode goes on to what it is rounded up to.
    pub fn output_rows(&self, range: Range<usize>) -> usize {
        match range.end == self.batch.outputs.len() {
            true => self.form.outputs - range.start,
            false => range.len(),
        }
    }

    /// Outputs of the batch.
    pub fn outputs_len(&self) -> usize {
        self.batch.outputs.len()
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

    /// How the tokens after those rows are chosen, from the first of a range on: what
    /// kernels/sample.hip reads, and (entries, spans, penalties) of kernels/penalties.hip.
    pub fn choices(&self, first: usize) -> (DevicePointer, [DevicePointer; 3]) {
        let Layout { choices, adjusted, spans, penalties, .. } = self.layout;
        let adjustments = [adjusted, spans + first, penalties + first * 4].map(|at| self.at(at));
        (self.at(choices + first * CHOICE), adjustments)
    }

    /// The sequences' block tables.
    pub fn tables(&self) -> DevicePointer {
        self.at(self.layout.tables)
    }

    /// Where the number of rows is, without those that there are not.
    pub fn row_count(&self) -> DevicePointer {
        self.at(self.layout.counts)
    }

    /// Where the number of outputs is, with all.
    pub fn output_count(&self) -> DevicePointer {
        self.at(self.layout.counts + 1)
    }

    /// Where all this is: it may move from step to step.
    pub fn memory(&self) -> DevicePointer {
        self.device.pointer()
    }
}

/// The rows in each entry of the block tables, of a batch that begins its sequences: [first, how many].
fn rows_of_blocks(batch: &Batch) -> Vec<[u32; 2]> {
    let mut blocks = vec![[0; 2]; batch.block_tables.len()];
    for seq in &batch.seqs {
        for (block, start) in (0..seq.rows).step_by(KV_BLOCK_TOKENS).enumerate() {
            let rows = KV_BLOCK_TOKENS.min(seq.rows - start);
            blocks[seq.table + block] = [(seq.row + start) as u32, rows as u32];
        }
    }
    blocks
}

fn choice_words(choice: &Choice) -> [u32; CHOICE] {
    let draw = choice.draw.to_bits();
    let Choice { scale, top_k, top_p, min_p, .. } = *choice;
    [draw as u32, (draw >> 32) as u32, scale.to_bits(), top_k, top_p.to_bits(), min_p.to_bits(), 0, 0]
}

fn penalty_words(choice: &Choice) -> [u32; 4] {
    let [repetition, frequency, presence] = choice.penalties.map(f32::to_bits);
    [repetition, frequency, presence, 0]
}

const _: () = assert!(SPLIT.is_multiple_of(KV_BLOCK_TOKENS));
