//! Weight matrices on a GPU: each stored type becomes one that a kernel reads (kernels/weights.h),
//! with the parts that it consists of in arrays of their own, so that loads are aligned. Nothing
//! is requantised: a type without a kernel is served in 16 bits.

use super::device::DeviceMemory;
use super::gpu::{Gpu, Half};
use super::kernels::Arguments;
use crate::backend::BackendError;
use crate::checkpoint::{Dtype, TensorData, blocks};
use half::f16;

/// How weights lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// In the type of activations.
    Half,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 4 bits, a scale and a minimum for 32: Q4_0, Q4_1, AWQ, GPTQ.
    Int4,
    /// ggml's, as stored.
    Q4K,
    /// ggml's, taken apart.
    Q6K,
    /// e4m3, a scale for 128.
    Fp8,
    /// 4 bits of a codebook, a scale for 32: IQ4_NL, IQ4_XS.
    Iq4,
    /// The same with FP4's codebook.
    Mxfp4,
}

impl Format {
    /// For weights stored as that type with rows of `columns`.
    fn of(stored: Dtype, columns: usize) -> Self {
        match stored {
            Dtype::Q8_0 => Format::Q8_0,
            Dtype::Q4_0 | Dtype::Q4_1 => Format::Int4,
            Dtype::Q4K => Format::Q4K,
            Dtype::Q6K => Format::Q6K,
            Dtype::IQ4NL | Dtype::IQ4XS => Format::Iq4,
            Dtype::MXFP4 => Format::Mxfp4,
            Dtype::F8Block if columns.is_multiple_of(16) => Format::Fp8,
            _ => Format::Half,
        }
    }

    /// What the names of kernel files and entry points have after `gemm`.
    pub fn suffix(self) -> &'static str {
        match self {
            Format::Half => "",
            Format::Q8_0 => "_q8_0",
            Format::Int4 => "_int4",
            Format::Q4K => "_q4_k",
            Format::Q6K => "_q6_k",
            Format::Fp8 => "_fp8",
            Format::Iq4 | Format::Mxfp4 => "_codebook",
        }
    }

    /// Where its kernels for few rows are.
    pub fn gemv_file(self) -> &'static str {
        match self {
            Format::Half => "gemv",
            Format::Q8_0 => "gemv_q8_0",
            Format::Int4 => "gemv_int4",
            Format::Q4K => "gemv_q4_k",
            Format::Q6K => "gemv_q6_k",
            Format::Fp8 => "gemv_fp8",
            Format::Iq4 | Format::Mxfp4 => "gemv_codebook",
        }
    }

    /// Where its kernels for many rows are.
    pub fn gemm_file(self) -> &'static str {
        match self {
            Format::Half => "gemm",
            Format::Q8_0 => "gemm_q8_0",
            Format::Int4 => "gemm_int4",
            Format::Q4K => "gemm_q4_k",
            Format::Q6K => "gemm_q6_k",
            Format::Fp8 => "gemm_fp8",
            Format::Iq4 | Format::Mxfp4 => "gemm_codebook",
        }
    }

    /// Where its kernels for experts are.
    pub fn moe_file(self) -> &'static str {
        match self {
            Format::Half => "moe_gemm",
            Format::Q8_0 => "moe_gemm_q8_0",
            Format::Int4 => "moe_gemm_int4",
            Format::Q4K => "moe_gemm_q4_k",
            Format::Q6K => "moe_gemm_q6_k",
            Format::Fp8 => "moe_gemm_fp8",
            Format::Iq4 | Format::Mxfp4 => "moe_gemm_codebook",
        }
    }

    /// Most rows that the gemv without fragments takes.
    pub fn lanes_max(self) -> usize {
        match self {
            Format::Half | Format::Q8_0 | Format::Fp8 => 4,
            Format::Int4 | Format::Q4K | Format::Q6K | Format::Iq4 | Format::Mxfp4 => 2,
        }
    }

    fn name(self, half: Half) -> &'static str {
        match (self, half) {
            (Format::Half, Half::Bf16) => "BF16",
            (Format::Half, Half::F16) => "F16",
            (Format::Q8_0, _) => "Q8_0",
            (Format::Int4, _) => "INT4",
            (Format::Q4K, _) => "Q4_K",
            (Format::Q6K, _) => "Q6_K",
            (Format::Fp8, _) => "FP8",
            (Format::Iq4, _) => "IQ4",
            (Format::Mxfp4, _) => "MXFP4",
        }
    }
}

/// Rows of a matrix in one format.
pub struct Part {
    /// Outputs.
    pub rows: usize,
    /// How they lie.
    pub format: Format,
    /// The format's arrays, in the order of its kernels' arguments.
    pub arrays: Vec<DeviceMemory>,
}

impl Part {
    /// The arguments that a kernel takes for the weights.
    pub fn arguments(&self, arguments: Arguments) -> Arguments {
        let with = self.arrays.iter().fold(arguments, |with, array| with.pointer(array.pointer()));
        match self.format {
            Format::Int4 => with.size(INT4_GROUP),
            Format::Iq4 => with_codebook(with, Dtype::IQ4NL),
            Format::Mxfp4 => with_codebook(with, Dtype::MXFP4),
            _ => with,
        }
    }
}

/// A codebook's 16 values in four words.
fn with_codebook(arguments: Arguments, dtype: Dtype) -> Arguments {
    let values = blocks::codebook(dtype).unwrap_or_default().map(|value| value as u8);
    let words = values.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    words.fold(arguments, |with, word| with.size(word as usize))
}

/// Values that share a scale and a minimum.
const INT4_GROUP: usize = 32;

/// A served matrix `[rows, columns]`.
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// In order; neighbours differ in format.
    pub parts: Vec<Part>,
    half: Half,
}

impl Matrix {
    /// See [`crate::backend::Backend::matrix`].
    pub fn pack(gpu: &Gpu, tensors: &[TensorData<'_>]) -> Result<Self, BackendError> {
        let wrong = |reason: String| BackendError::Unsupported(reason);
        let columns = match tensors.first().map(|tensor| tensor.shape.as_slice()) {
            Some(&[_, columns]) => columns,
            _ => return Err(wrong("a matrix needs tensors of two dimensions".into())),
        };
        if columns % 8 != 0 {
            return Err(wrong(format!(
                "tensor {}: {columns} columns; GPU kernels need a multiple of 8",
                tensors[0].name
            )));
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut at = 0;
        while at < tensors.len() {
            let format = Format::of(tensors[at].dtype, columns);
            let same = tensors[at..].iter().take_while(|tensor| Format::of(tensor.dtype, columns) == format);
            let run: Vec<&TensorData<'_>> = same.collect();
            at += run.len();
            let mut arrays: Vec<Vec<u8>> = Vec::new();
            let mut rows = 0;
            for tensor in &run {
                if tensor.shape.len() != 2 || tensor.shape[1] != columns {
                    let name = &tensor.name;
                    return Err(wrong(format!(
                        "tensor {name}: shape {:?}, not [_, {columns}]",
                        tensor.shape
                    )));
                }
                if let Some((row, k)) = blocks::find_nan(tensor.dtype, &tensor.data, columns) {
                    let name = &tensor.name;
                    return Err(wrong(format!("tensor {name}: {}", blocks::nan_at(row, k))));
                }
                rows += tensor.shape[0];
                let taken = take_apart(gpu.half, format, tensor)?;
                arrays.resize(taken.len(), Vec::new());
                arrays.iter_mut().zip(taken).for_each(|(array, part)| array.extend(part));
            }
            let name = &run[0].name;
            let arrays = arrays.iter().map(|array| gpu.upload(name, array)).collect::<Result<_, _>>()?;
            parts.push(Part { rows, format, arrays });
        }
        Ok(Self { rows: parts.iter().map(|part| part.rows).sum(), columns, parts, half: gpu.half })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.parts.iter().flat_map(|part| &part.arrays).map(DeviceMemory::bytes).sum()
    }

    /// `BF16`, `Q4_K+Q6_K`.
    pub fn kind(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|part| part.format.name(self.half)).collect();
        names.join("+")
    }
}

/// A tensor's arrays, see kernels/weights.h.
fn take_apart(half: Half, format: Format, tensor: &TensorData<'_>) -> Result<Vec<Vec<u8>>, BackendError> {
    let blocks = || tensor.data.chunks_exact(tensor.dtype.block().1);
    Ok(match format {
        Format::Half => match (tensor.dtype, half) {
            (Dtype::BF16, Half::Bf16) | (Dtype::F16, Half::F16) => vec![tensor.data.to_vec()],
            _ => {
                let values = tensor.to_f32().map_err(|error| BackendError::Unsupported(error.to_string()))?;
                vec![half.bytes(values.into_iter())]
            }
        },
        Format::Q8_0 => vec![
            blocks().flat_map(|block| &block[2..]).copied().collect(),
            blocks().flat_map(|block| &block[..2]).copied().collect(),
        ],
        Format::Int4 => {
            let with_minimum = tensor.dtype == Dtype::Q4_1;
            let codes = if with_minimum { 4 } else { 2 };
            let word = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
            let scales = blocks().flat_map(|block| {
                let scale = word(block, 0);
                let minimum = match with_minimum {
                    true => word(block, 2),
                    // Codes are 8 too large.
                    false => f16::from_f32(-8.0 * scale.to_f32()),
                };
                [scale.to_le_bytes(), minimum.to_le_bytes()].concat()
            });
            vec![blocks().flat_map(|block| int4_codes(&block[codes..])).collect(), scales.collect()]
        }
        Format::Q4K => vec![tensor.data.to_vec()],
        Format::Q6K => {
            let mut arrays = vec![Vec::new(); 4];
            for block in blocks() {
                q6_k(block, &mut arrays);
            }
            arrays
        }
        Format::Iq4 | Format::Mxfp4 => {
            let dtype = tensor.dtype;
            let groups = tensor.data.len() / dtype.block().1 * dtype.block().0 / blocks::GROUP;
            let mut arrays = vec![Vec::new(); 2];
            for group in (0..groups).map(|group| blocks::read(dtype, &tensor.data, group)) {
                arrays[0].extend(pairs(|i| group.codes[i]));
                arrays[1].extend(group.scales(dtype)[0].to_le_bytes());
            }
            arrays
        }
        Format::Fp8 => vec![
            blocks().flat_map(|block| &block[4..]).copied().collect(),
            blocks().flat_map(|block| &block[..4]).copied().collect(),
        ],
    })
}

/// ggml keeps values i and i + 16 of 32 in a byte, the kernels i and i + 4 of 8, see [`pairs`].
fn int4_codes(codes: &[u8]) -> Vec<u8> {
    pairs(|i| codes[i % 16] >> (i / 16 * 4) & 15).collect()
}

/// 32 codes of 4 bits as the kernels keep them.
fn pairs(code: impl Fn(usize) -> u8) -> impl Iterator<Item = u8> {
    (0..16).map(|byte| byte / 4 * 8 + byte % 4).map(move |i| code(i) | code(i + 4) << 4)
}

/// 128 bytes of low nibbles, 64 of upper bits, 16 scales, d.
fn q6_k(block: &[u8], arrays: &mut [Vec<u8>]) {
    let (low, high) = (&block[..128], &block[128..192]);
    // Value 128 h + 32 q + l: nibble q / 2 of byte 64 h + 32 (q % 2) + l, bits 2 q of byte 32 h + l.
    let code = |i: usize| {
        let (h, q, l) = (i / 128, i / 32 % 4, i % 32);
        (low[64 * h + q % 2 * 32 + l] >> (q / 2 * 4) & 15, high[32 * h + l] >> (2 * q) & 3)
    };
    let nibbles = (0..128).map(|byte| byte / 4 * 8 + byte % 4);
    arrays[0].extend(nibbles.map(|i| code(i).0 | code(i + 4).0 << 4));
    let uppers = (0..64).map(|byte| byte / 4 * 16 + byte % 4);
    arrays[1].extend(uppers.map(|i| (0..4).fold(0, |bits, n| bits | code(i + 4 * n).1 << (2 * n))));
    arrays[2].extend(&block[192..208]);
    arrays[3].extend(&block[208..210]);
}
