//! Packed integers (4 bits, GPTQ also 8) repacked to ggml's blocks of 32 inputs. A weight is
//! `scale * (code - zero)` with scale and zero point per output and group of inputs.
//!
//! Words are little-endian i32 with the first value in the lowest bits:
//! - AWQ: `qweight [in, out / 8]` and `qzeros [groups, out / 8]` pack outputs, in the order
//!   0 2 4 6 1 3 5 7 (AutoAWQ, `awq/utils/packing_utils.py`).
//! - GPTQ: `qweight [in * bits / 32, out]` packs inputs, `qzeros [groups, out * bits / 32]`
//!   outputs, both in order; `g_idx [in]` is each input's group (AutoGPTQ, `qlinear_cuda_old.py`).
//! - `scales [groups, out]` for both.

use super::{LoadError, Parts};
use crate::checkpoint::{Dtype, TensorData};
use half::f16;

/// Inputs of a block, and what a group is a multiple of.
pub(super) const BLOCK: usize = 32;

/// The bit that AWQ's order puts each of 8 outputs at.
const AWQ_SHIFT: [u32; 8] = [0, 16, 4, 20, 8, 24, 12, 28];

/// A GPTQ weight; see [`super::Quantization::Gptq`].
pub(super) struct Gptq {
    pub bits: u32,
    pub group: Option<usize>,
    pub zero_less_one: bool,
    pub desc_act: bool,
}

/// The AWQ weight `[out, inputs]` as Q4_0 or Q4_1.
pub(super) fn awq<'a>(
    parts: &Parts<'a, '_>,
    out: usize,
    inputs: usize,
    group: Option<usize>,
    zero_point: bool,
) -> Result<TensorData<'a>, LoadError> {
    let grid = Grid::new(parts, out, inputs, 4, group)?;
    let words = out / 8;
    let codes = grid.words("qweight", &[inputs, words])?;
    let at = |words_: &[u32], row: usize, o: usize| words_[row * words + o / 8] >> AWQ_SHIFT[o % 8] & 15;
    let zeros = match parts.find("qzeros", &[grid.groups, words])? {
        Some(_) => {
            let zeros = grid.words("qzeros", &[grid.groups, words])?;
            grid.zeros(|g, o| at(&zeros, g, o))
        }
        None if zero_point => return Err(LoadError::MissingTensor(parts.part("qzeros"))),
        None => grid.zeros(|_, _| 8),
    };
    grid.pack(&zeros, |i, o| at(&codes, i, o))
}

impl Gptq {
    /// The weight `[out, inputs]` as Q4_0, Q4_1 or Q8_0.
    pub(super) fn join<'a>(
        &self,
        parts: &Parts<'a, '_>,
        out: usize,
        inputs: usize,
    ) -> Result<TensorData<'a>, LoadError> {
        let grid = Grid::new(parts, out, inputs, self.bits, self.group)?;
        let (per_word, mask) = (grid.per_word, (1u32 << self.bits) - 1);
        let shift = |index: usize| (index % per_word) as u32 * self.bits;
        let codes = grid.words("qweight", &[inputs / per_word, out])?;
        let zeros = grid.words("qzeros", &[grid.groups, out / per_word])?;
        // After the shapes, which a wrong group size shows in as well.
        self.check_order(&grid)?;
        let less = u32::from(self.zero_less_one);
        let zeros = grid.zeros(|g, o| {
            let stored = zeros[g * (out / per_word) + o / per_word] >> shift(o) & mask;
            (stored + less) & mask
        });
        grid.pack(&zeros, |i, o| codes[i / per_word * out + o] >> shift(i) & mask)
    }

    /// An error unless input i is of group i / group.
    fn check_order(&self, grid: &Grid<'_, '_, '_>) -> Result<(), LoadError> {
        let parts = grid.parts;
        let in_order = match parts.find("g_idx", &[grid.inputs])? {
            None => !self.desc_act,
            Some(_) => {
                let groups = grid.words("g_idx", &[grid.inputs])?;
                groups.iter().enumerate().all(|(i, group)| *group as usize == i / grid.group)
            }
        };
        if in_order {
            return Ok(());
        }
        Err(parts.error(
            "its inputs were reordered by activation (quantization_config.desc_act), which is not supported; \
             take a checkpoint that was quantised with desc_act = false",
        ))
    }
}

/// Outputs, inputs and groups of one packed weight.
struct Grid<'p, 'a, 'n> {
    parts: &'p Parts<'a, 'n>,
    out: usize,
    inputs: usize,
    bits: u32,
    per_word: usize,
    /// Inputs per group.
    group: usize,
    groups: usize,
}

impl<'p, 'a, 'n> Grid<'p, 'a, 'n> {
    fn new(
        parts: &'p Parts<'a, 'n>,
        out: usize,
        inputs: usize,
        bits: u32,
        group: Option<usize>,
    ) -> Result<Self, LoadError> {
        let per_word = 32 / bits as usize;
        if inputs == 0 || !inputs.is_multiple_of(BLOCK) || !out.is_multiple_of(per_word) {
            return Err(parts.error(format!(
                "packed integers of shape [{out}, {inputs}]; multiples of [{per_word}, {BLOCK}] are supported"
            )));
        }
        let group = group.unwrap_or(inputs);
        Ok(Self { parts, out, inputs, bits, per_word, group, groups: inputs.div_ceil(group) })
    }

    fn words(&self, part: &str, shape: &[usize]) -> Result<Vec<u32>, LoadError> {
        let tensor = self.parts.get(part, shape)?;
        if tensor.dtype != Dtype::I32 {
            return Err(self.parts.error(format!("{part} is {:?}; I32 is supported", tensor.dtype)));
        }
        Ok(tensor.data.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    /// Zero points by group, then output.
    fn zeros(&self, at: impl Fn(usize, usize) -> u32) -> Vec<u32> {
        (0..self.groups * self.out).map(|index| at(index / self.out, index % self.out)).collect()
    }

    /// Scales by group, then output, in f16 as blocks hold them.
    fn scales(&self) -> Result<Vec<f16>, LoadError> {
        let tensor = self.parts.get("scales", &[self.groups, self.out])?;
        tensor.to_f32()?.into_iter().map(|scale| self.half(scale)).collect()
    }

    fn half(&self, value: f32) -> Result<f16, LoadError> {
        let half = f16::from_f32(value);
        if half.is_finite() {
            return Ok(half);
        }
        Err(self.parts.error(format!("a scale (or its product with a zero point) is {value}, beyond f16")))
    }

    /// The blocks, from each weight's code by input and output.
    fn pack(&self, zeros: &[u32], code: impl Fn(usize, usize) -> u32) -> Result<TensorData<'a>, LoadError> {
        let middle = 1 << (self.bits - 1);
        let symmetric = zeros.iter().all(|zero| *zero == middle);
        let dtype = match (self.bits, symmetric) {
            (4, true) => Dtype::Q4_0,
            (4, false) => Dtype::Q4_1,
            (_, true) => Dtype::Q8_0,
            (_, false) => {
                return Err(self.parts.error("int8 with zero points other than 128 is not supported"));
            }
        };
        let scales = self.scales()?;
        let minima = match dtype {
            Dtype::Q4_1 => zeros
                .iter()
                .zip(&scales)
                .map(|(zero, scale)| self.half(-scale.to_f32() * *zero as f32))
                .collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        let (_, block_bytes) = dtype.block();
        let row_bytes = self.inputs / BLOCK * block_bytes;
        let mut data = vec![0; self.out * row_bytes];
        // Inputs outermost: words of neighbouring outputs are neighbours in both formats.
        for block in 0..self.inputs / BLOCK {
            let first = block * BLOCK;
            let group = first / self.group * self.out;
            for o in 0..self.out {
                let bytes = &mut data[o * row_bytes + block * block_bytes..][..block_bytes];
                bytes[..2].copy_from_slice(&scales[group + o].to_le_bytes());
                if dtype == Dtype::Q4_1 {
                    bytes[2..4].copy_from_slice(&minima[group + o].to_le_bytes());
                }
                if dtype == Dtype::Q8_0 {
                    for (i, byte) in bytes[2..].iter_mut().enumerate() {
                        // Two's complement of code - 128.
                        *byte = code(first + i, o) as u8 ^ 0x80;
                    }
                    continue;
                }
                // ggml's order: input i beside input i + 16.
                for (i, byte) in bytes[block_bytes - BLOCK / 2..].iter_mut().enumerate() {
                    *byte = (code(first + i, o) | code(first + i + BLOCK / 2, o) << 4) as u8;
                }
            }
        }
        let (name, shape) = (self.parts.name.to_owned(), vec![self.out, self.inputs]);
        Ok(TensorData { name, dtype, shape, data: data.into() })
    }
}
