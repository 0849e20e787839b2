//! The next tokens, chosen where the logits are: one small array comes back.

use super::{THREADS, blocks};
use crate::backend::BackendError;
use crate::backend::hip::device::Pinned;
use crate::backend::hip::driver::Result as DriverResult;
use crate::backend::hip::kernels::Arguments;
use crate::backend::hip::tensor::{Kind, Tensor};
use crate::backend::hip::{HipBackend, Scratch};
use crate::protocol::TokenId;
use std::ops::Range;
use std::sync::Arc;

/// Values of a row that a block of argmax takes.
const SLICE: usize = 4096;
/// Work-items of sample.
const SAMPLE_THREADS: u32 = 1024;
/// Values of a row that a block of mask takes.
const MASK_SLICE: usize = 4096;
/// As sample's ranks of tokens have room for.
const VOCAB_MAX: usize = 1 << 18;

/// The masks of a step's constrained outputs.
#[derive(Default)]
pub struct Masks {
    /// Which outputs have one, ascending.
    outputs: Vec<usize>,
    /// Of a mask.
    words: usize,
    host: Option<Pinned>,
    /// The outputs, then their masks.
    device: Scratch,
}

impl Masks {
    /// Of a step without any.
    pub fn clear(&mut self) {
        self.outputs.clear();
    }

    /// Words behind the outputs, so that masks begin at 16 bytes.
    fn padding(&self) -> usize {
        self.outputs.len().next_multiple_of(4) - self.outputs.len()
    }
}

impl HipBackend {
    /// Whether rows of so many logits have kernels.
    pub(super) fn samples(vocab: usize) -> bool {
        vocab <= VOCAB_MAX && vocab.is_multiple_of(4)
    }

    /// See [`Backend::sample`](crate::backend::Backend::sample).
    pub(super) fn choose(&mut self, logits: &mut Tensor, range: Range<usize>) -> DriverResult<()> {
        assert_eq!(logits.kind(), Kind::F32, "tokens are chosen from logits in f32");
        let (rows, vocab) = (self.step.output_rows(range.clone()), logits.columns());
        let slices = vocab.div_ceil(SLICE);
        let best = self.best.get(&self.gpu, rows * slices * 16)?;
        // Room for all of the step's: what grows loses what the parts before have chosen.
        let all = self.step.output_rows(0..self.step.outputs_len());
        let tokens = self.tokens.get(&self.gpu, all * 4)?;
        let (choices, adjustments) = self.step.choices(range.start);
        let [entries, spans, penalties] = adjustments;
        self.leave_allowed(logits, range.clone())?;
        let arguments = Arguments::new().pointer(logits.pointer()).pointer(entries).pointer(spans);
        let arguments = arguments.pointer(penalties).size(vocab).size(vocab);
        self.launch("penalties", "penalties", [rows as u32, 1, 1], THREADS, arguments)?;
        let arguments = Arguments::new().pointer(logits.pointer()).pointer(best);
        let arguments = arguments.size(vocab).size(vocab).size(slices);
        self.launch("argmax", "argmax", [blocks(vocab, SLICE), rows as u32, 1], THREADS, arguments)?;
        let arguments = Arguments::new()
            .pointer(logits.pointer())
            .pointer(best)
            .pointer(choices)
            .pointer(self.step.output_count())
            .pointer(tokens + range.start as u64 * 4)
            .size(vocab)
            .size(vocab)
            .size(slices);
        self.launch("sample", "sample", [rows as u32, 1, 1], SAMPLE_THREADS, arguments)
    }

    /// See [`Backend::constrain`](crate::backend::Backend::constrain).
    pub(super) fn send_masks(&mut self, masks: &[(usize, Arc<[u32]>)]) -> DriverResult<()> {
        let Some((_, first)) = masks.first() else { return Ok(()) };
        let words = first.len();
        assert!(masks.iter().all(|(_, mask)| mask.len() == words), "masks of one vocabulary");
        let Self { gpu, stream, masks: held, .. } = self;
        held.outputs = masks.iter().map(|(output, _)| *output).collect();
        held.words = words;
        let outputs = held.outputs.iter().map(|output| *output as u32);
        let outputs = outputs.chain(std::iter::repeat_n(0, held.padding()));
        let values = outputs.chain(masks.iter().flat_map(|(_, mask)| mask.iter().copied()));
        let bytes = (held.outputs.len() + held.padding() + masks.len() * words) * 4;
        let host = match held.host.take() {
            Some(host) if host.as_slice().len() >= bytes => host,
            _ => gpu.context.pinned(bytes.next_power_of_two())?,
        };
        let host = held.host.insert(host);
        for (bytes, value) in host.bytes_mut().chunks_exact_mut(4).zip(values) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        let device = held.device.memory(gpu, bytes)?;
        // SAFETY: the step that is under way is waited for before the next one sends masks or frees these.
        unsafe { stream.upload(host, 0..bytes, device, 0) }
    }

    /// Takes the logits of forbidden tokens out, in the rows that have masks.
    fn leave_allowed(&mut self, logits: &mut Tensor, range: Range<usize>) -> DriverResult<()> {
        let masks = &self.masks;
        let from = masks.outputs.partition_point(|output| *output < range.start);
        let to = masks.outputs.partition_point(|output| *output < range.end);
        if from == to {
            return Ok(());
        }
        let (vocab, words) = (logits.columns(), masks.words);
        assert_eq!(words, vocab.div_ceil(32), "a mask for each token");
        let outputs = masks.device.pointer();
        let bits = outputs + ((masks.outputs.len() + masks.padding()) * 4) as u64;
        let arguments = Arguments::new()
            .pointer(logits.pointer())
            .pointer(outputs + from as u64 * 4)
            .pointer(bits + (from * words) as u64 * 4)
            .size(range.start)
            .size(vocab)
            .size(vocab)
            .size(words);
        let grid = [blocks(vocab, MASK_SLICE), (to - from) as u32, 1];
        self.launch("mask", "mask", grid, THREADS, arguments)
    }

    /// See [`Backend::tokens`](crate::backend::Backend::tokens).
    pub(super) fn chosen(&mut self) -> Result<&[TokenId], BackendError> {
        let count = self.step.outputs_len();
        self.op(|it| {
            let Self { gpu, stream, results, tokens, .. } = it;
            let pinned = results.room(gpu, count * 4)?;
            // SAFETY: waited for at once.
            unsafe { stream.download(tokens.memory(gpu, count * 4)?, 0..count * 4, pinned)? };
            stream.synchronize()
        });
        self.step.in_flight = false;
        self.outcome()?;
        Ok(self.results.tokens(count))
    }
}
