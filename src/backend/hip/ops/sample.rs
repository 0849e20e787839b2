//! The next tokens, chosen where the logits are: one small array comes back.

use super::{THREADS, blocks};
use crate::backend::BackendError;
use crate::backend::hip::HipBackend;
use crate::backend::hip::driver::Result as DriverResult;
use crate::backend::hip::kernels::Arguments;
use crate::backend::hip::tensor::{Kind, Tensor};
use crate::protocol::TokenId;
use std::ops::Range;

/// Values of a row that a block of argmax takes.
const SLICE: usize = 4096;
/// Work-items of sample.
const SAMPLE_THREADS: u32 = 1024;
/// As sample's ranks of tokens have room for.
const VOCAB_MAX: usize = 1 << 18;

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
        let tokens = self.tokens.get(&self.gpu, (range.start + rows) * 4)?;
        let (choices, adjustments) = self.step.choices(range.start);
        let [entries, spans, penalties] = adjustments;
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
