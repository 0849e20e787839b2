//! Weight matrices of the CPU backend: packing into served forms (see [`layout`]) and
//! y = x W^T (+ bias) for every stored type.
//!
//! candle's own matmul (`candle_core::quantized::k_quants`) is the oracle in the tests but does
//! not serve here: its Q4_0, Q4_1, Q5_0 and Q5_1 are not repacked and slow, and its Q6_K, f16,
//! bf16 and f32 products change bits between m = 1 and m >= 2, which the engine's greedy output
//! must not.
//!
//! Invariants:
//! - An output value is one fixed chain of operations over the columns, whatever m, the tile, the
//!   task or the thread. Sums of integer products are exact, float sums run in column order, and
//!   storing a partial f32 sum and loading it again changes nothing. Hence the bits of an output
//!   row depend on its input row and the weights alone; the three code paths (AVX-512 with VNNI,
//!   AVX2, portable) agree in every bit too, as all of them use fused multiply-add.
//! - Served weights are exactly the stored ones ([`Matrix::row`]). Quantised weights meet
//!   activations that are rounded to 8 bits per 32 values, see [`activations`].
//! - FP8 weights ([`Dtype::F8Block`]) meet f32 activations: products of e4m3 values are summed in
//!   f32 over a block's 128 columns, and the sum is multiplied by the block's scale. A NaN code
//!   is refused when packing, naming the tensor; a scale that is not finite makes outputs NaN or
//!   infinite, as it would in f32.
//! - No allocation in [`linear`] once [`Scratch`] has grown to the largest step.
//!
//! Deliberately absent: an AVX512-BF16 path (`vdpbf16ps` rounds activations to bf16, so its
//! output would depend on the machine, and it could not be tested where this was written), AMX,
//! and NEON intrinsics: ARM takes the portable path. The portable path needs a hardware fused
//! multiply-add to be quick, so x86 without AVX2 works but crawls.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod grouped;
mod kernel;
mod layout;
mod linear;
mod portable;
#[cfg(test)]
mod tests;

use half::{bf16, f16};

use crate::backend::BackendError;
use crate::checkpoint::{Dtype, TensorData, blocks};
use layout::{GROUP, LANES, Quant, Scales};

pub use activations::Scratch;
pub use grouped::{Group, grouped, headed};
pub use kernel::Isa;
pub use linear::linear;

/// A cache line; panels start on one.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Line([u8; 64]);

/// Rows of one type.
#[derive(Debug)]
struct Part {
    dtype: Dtype,
    rows: usize,
    /// Where this part starts among the matrix's rows and panels.
    first_row: usize,
    first_panel: usize,
    panel_bytes: usize,
    lines: Vec<Line>,
}

impl Part {
    fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: a line is 64 bytes without padding, so n lines are 64 n initialised bytes.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 64) }
    }

    fn panel(&self, panel: usize) -> &[u8] {
        &self.bytes()[panel * self.panel_bytes..][..self.panel_bytes]
    }
}

/// A weight matrix `[rows = out, cols = in]` in its served form: one or several parts of
/// differing type, stacked along the rows.
#[derive(Debug)]
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    parts: Vec<Part>,
    panels: usize,
}

impl Matrix {
    /// Packs two-dimensional tensors with equal `in`, in order. Single-threaded; several
    /// matrices may be packed at once. Errors: a shape that is not `[out, in]`, widths that
    /// differ or do not fill whole blocks, data of the wrong length, FP8 without scales, NaN in FP8
    /// or MXFP4, packed integers, no memory.
    pub fn pack(parts: &[TensorData<'_>]) -> Result<Matrix, BackendError> {
        let Some(first) = parts.first() else {
            return Err(BackendError::Unsupported("a weight matrix needs at least one tensor".into()));
        };
        let mut matrix =
            Matrix { rows: 0, cols: first.shape.last().copied().unwrap_or(0), parts: vec![], panels: 0 };
        for tensor in parts {
            let part = pack_part(tensor, &matrix, &first.name)?;
            matrix.rows += part.rows;
            matrix.panels += part.panels();
            matrix.parts.push(part);
        }
        Ok(matrix)
    }

    /// Bytes of the served form.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.lines.len() * 64).sum()
    }

    /// The served types for a log, as `Q4_K` or `Q4_K+Q6_K`.
    pub fn kind(&self) -> String {
        let mut names: Vec<&str> = vec![];
        for part in &self.parts {
            let name = part.dtype.name();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join("+")
    }

    /// Writes row `row`, dequantised, to the `cols` values of `out`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {} rows", self.rows);
        assert_eq!(out.len(), self.cols, "a row has the matrix's width");
        let part = self.parts.iter().rev().find(|part| part.first_row <= row);
        let part = part.expect("the first part starts at row 0");
        let row = row - part.first_row;
        let (panel, lane) = (part.panel(row / LANES), row % LANES);
        match Quant::of(part.dtype) {
            None if part.dtype == Dtype::F8Block => f8_row(panel, lane, out),
            None => float_row(part.dtype, panel, lane, out),
            Some(quant) => quant_row(part.dtype, &quant, panel, lane, out),
        }
    }

    fn has_quantised(&self) -> bool {
        self.parts.iter().any(|part| Quant::of(part.dtype).is_some())
    }

    fn has_floats(&self) -> bool {
        self.parts.iter().any(|part| Quant::of(part.dtype).is_none())
    }
}

fn pack_part(tensor: &TensorData<'_>, above: &Matrix, first: &str) -> Result<Part, BackendError> {
    let fail = |reason: String| BackendError::Unsupported(format!("tensor {}: {reason}", tensor.name));
    let &[rows, cols] = &tensor.shape[..] else {
        return Err(fail(format!("a weight matrix is [out, in], not {:?}", tensor.shape)));
    };
    let dtype = tensor.dtype;
    let refused = match dtype {
        Dtype::F8E4M3 => Some("is FP8 (e4m3) without its scales; with one for each 128 columns it is served"),
        Dtype::I32 => Some("holds packed integers (I32), which must be unpacked to a type of weights first"),
        _ => None,
    };
    if let Some(reason) = refused {
        return Err(fail(reason.into()));
    }
    if rows == 0 || cols == 0 {
        return Err(fail(format!("a weight matrix must not be empty, and is {rows} x {cols}")));
    }
    if cols != above.cols {
        return Err(fail(format!("has {cols} columns, but {first}, stacked with it, has {}", above.cols)));
    }
    let Some(row_bytes) = dtype.bytes(cols) else {
        let block = dtype.block().0;
        return Err(fail(format!("{} rows must be a multiple of {block} wide, not {cols}", dtype.name())));
    };
    if rows.checked_mul(row_bytes) != Some(tensor.data.len()) {
        let has = tensor.data.len();
        return Err(fail(format!("{rows} x {cols} of {} do not take {has} bytes", dtype.name())));
    }
    if let Some((row, k)) = blocks::find_nan(dtype, &tensor.data, cols) {
        return Err(fail(blocks::nan_at(row, k)));
    }
    let panel_bytes = layout::panel_bytes(dtype, cols);
    let panels = rows.div_ceil(LANES);
    let mut lines: Vec<Line> = vec![];
    lines.try_reserve_exact(panels * (panel_bytes / 64)).map_err(|_| BackendError::OutOfMemory {
        what: format!("tensor {}", tensor.name),
        wanted_bytes: panels * panel_bytes,
    })?;
    lines.resize(panels * (panel_bytes / 64), Line([0; 64]));
    // SAFETY: as in `Part::bytes`; `lines` is not used again before the last use of `bytes`.
    let bytes = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 64) };
    let stored = tensor.data.chunks(LANES * row_bytes);
    for (panel, stored) in bytes.chunks_exact_mut(panel_bytes).zip(stored) {
        match Quant::of(dtype) {
            None if dtype == Dtype::F8Block => pack_f8(stored, cols, panel),
            None => pack_floats(dtype, stored, cols, panel),
            Some(quant) => pack_quant(dtype, &quant, stored, cols, panel),
        }
    }
    Ok(Part { dtype, rows, first_row: above.rows, first_panel: above.panels, panel_bytes, lines })
}

/// `stored`: up to 16 rows as stored; missing rows stay zero.
fn pack_floats(dtype: Dtype, stored: &[u8], cols: usize, panel: &mut [u8]) {
    let size = dtype.block().1;
    for (lane, row) in stored.chunks_exact(cols * size).enumerate() {
        for (k, value) in row.chunks_exact(size).enumerate() {
            panel[layout::float_at(dtype, k, lane) * size..][..size].copy_from_slice(value);
        }
    }
}

fn float_row(dtype: Dtype, panel: &[u8], lane: usize, out: &mut [f32]) {
    let size = dtype.block().1;
    for (k, out) in out.iter_mut().enumerate() {
        let value = &panel[layout::float_at(dtype, k, lane) * size..][..size];
        *out = match dtype {
            Dtype::F32 => f32::from_le_bytes([value[0], value[1], value[2], value[3]]),
            Dtype::F16 => f16::from_le_bytes([value[0], value[1]]).to_f32(),
            _ => bf16::from_le_bytes([value[0], value[1]]).to_f32(),
        };
    }
}

/// As [`pack_floats`], for FP8 blocks: a block is stored as its scale, then the codes.
fn pack_f8(stored: &[u8], cols: usize, panel: &mut [u8]) {
    let row_bytes = cols / layout::F8_COLS * layout::F8_STORED;
    for (lane, row) in stored.chunks_exact(row_bytes).enumerate() {
        let blocks = row.chunks_exact(layout::F8_STORED);
        for (stored, block) in blocks.zip(panel.chunks_exact_mut(layout::F8_BLOCK)) {
            let (codes, scales) = block.split_at_mut(layout::F8_CODES);
            scales[lane * 4..][..4].copy_from_slice(&stored[..4]);
            for (k, code) in stored[4..].iter().enumerate() {
                codes[layout::float_at(Dtype::F8Block, k, lane)] = *code;
            }
        }
    }
}

fn f8_row(panel: &[u8], lane: usize, out: &mut [f32]) {
    for (block, out) in panel.chunks_exact(layout::F8_BLOCK).zip(out.chunks_exact_mut(layout::F8_COLS)) {
        let (codes, scales) = block.split_at(layout::F8_CODES);
        let scale = &scales[lane * 4..][..4];
        let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
        for (k, out) in out.iter_mut().enumerate() {
            let code = codes[layout::float_at(Dtype::F8Block, k, lane)];
            *out = scale * (blocks::e4m3(code).to_f32() * blocks::E4M3_UNIT);
        }
    }
}

fn pack_quant(dtype: Dtype, quant: &Quant, stored: &[u8], cols: usize, panel: &mut [u8]) {
    let groups = cols / GROUP;
    let (codes, scales) = panel.split_at_mut(layout::scales_at(quant, cols));
    let row_bytes = groups * GROUP / dtype.block().0 * dtype.block().1;
    let (record, covers) = quant.scales.record();
    for group in 0..groups {
        let mut steps = [[0; layout::STEP]; 8];
        let scales = &mut scales[group / covers * record..][..record];
        for (lane, row) in stored.chunks_exact(row_bytes).enumerate() {
            let read = blocks::read(dtype, row, group);
            for (step, codes) in steps.iter_mut().zip(read.codes.chunks_exact(4)) {
                step[lane * 4..][..4].copy_from_slice(codes);
            }
            match quant.scales {
                Scales::Exponents => scales[lane] = read.d as u8,
                _ => scales[lane * 2..][..2].copy_from_slice(&read.d.to_le_bytes()),
            }
            if matches!(quant.scales, Scales::Affine | Scales::Super | Scales::HalvesMin) {
                scales[32 + lane * 2..][..2].copy_from_slice(&read.m.to_le_bytes());
            }
            for (index, at) in factors_at(quant.scales, group).enumerate() {
                scales[at + lane] = read.factors[index];
            }
        }
        layout::pack(quant.bits, &steps, &mut codes[group * quant.code_bytes()..][..quant.code_bytes()]);
    }
}

/// Where a record of several groups holds each of a group's factors.
fn factors_at(scales: Scales, group: usize) -> impl Iterator<Item = usize> {
    let (start, factors) = match scales {
        Scales::Plain | Scales::Affine | Scales::Exponents => (0, 0),
        Scales::Super | Scales::HalvesMin => (64, 2),
        Scales::Halves => (32, 2),
        Scales::Signed => (32, 1),
    };
    (0..factors).map(move |index| start + (group % layout::SUPER * factors + index) * LANES)
}

fn quant_row(dtype: Dtype, quant: &Quant, panel: &[u8], lane: usize, out: &mut [f32]) {
    let (codes, scales) = panel.split_at(layout::scales_at(quant, out.len()));
    let (record, covers) = quant.scales.record();
    for (index, out) in out.chunks_exact_mut(GROUP).enumerate() {
        let scales = &scales[index / covers * record..][..record];
        let half = |at: usize| u16::from_le_bytes([scales[at], scales[at + 1]]);
        let steps = layout::unpack::<4>(quant.bits, &codes[index * quant.code_bytes()..], lane * 4);
        let d = if quant.scales == Scales::Exponents { scales[lane].into() } else { half(lane * 2) };
        let mut group = blocks::Group { d, ..blocks::Group::default() };
        group.codes.copy_from_slice(steps.as_flattened());
        if matches!(quant.scales, Scales::Affine | Scales::Super | Scales::HalvesMin) {
            group.m = half(32 + lane * 2);
        }
        for (factor, at) in group.factors.iter_mut().zip(factors_at(quant.scales, index)) {
            *factor = scales[at + lane];
        }
        out.copy_from_slice(&group.values(dtype));
    }
}
