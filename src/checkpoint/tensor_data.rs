//! Parts of a tensor, for ranks that hold a share of it, and its values in f32, for the few
//! weights that a model transforms while it loads them.
//!
//! Invariants: a part has the tensor's type and name, and consists of whole blocks; nothing is
//! requantised. Deliberately absent: views with strides; a column range is copied.

use super::blocks::{E4M3_UNIT, GROUP, e4m3, e4m3_is_nan, read};
use super::{Dtype, TensorData, tensors::byte_length};
use half::{bf16, f16};
use std::borrow::Cow;
use std::ops::Range;

/// A tensor cannot be cut or converted as asked. The message names it.
#[derive(Debug, thiserror::Error)]
#[error("tensor {name}: {reason}")]
pub struct TensorError {
    /// The tensor.
    pub name: String,
    /// What was asked of it, and what it allows.
    pub reason: String,
}

impl TensorError {
    /// An error about the tensor of that name.
    pub fn new(name: &str, reason: impl Into<String>) -> Self {
        TensorError { name: name.into(), reason: reason.into() }
    }
}

impl TensorData<'static> {
    /// A vector of those values.
    pub fn from_f32(name: impl Into<String>, values: &[f32]) -> Self {
        Self {
            name: name.into(),
            dtype: Dtype::F32,
            shape: vec![values.len()],
            data: values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into(),
        }
    }
}

impl<'a> TensorData<'a> {
    /// Those of its rows (of the outermost dimension: a linear's outputs, a vector's values),
    /// borrowed.
    pub fn rows(&self, range: Range<usize>) -> Result<TensorData<'_>, TensorError> {
        let bytes = self.row_bytes(&range)?;
        Ok(self.part(0, range.len(), Cow::Borrowed(&self.data[bytes])))
    }

    /// As [`TensorData::rows`], for as long as the checkpoint lives.
    pub fn into_rows(self, range: Range<usize>) -> Result<TensorData<'a>, TensorError> {
        let bytes = self.row_bytes(&range)?;
        let mut part = self.part(0, range.len(), Cow::Borrowed(&[]));
        part.data = match self.data {
            Cow::Borrowed(data) => Cow::Borrowed(&data[bytes]),
            Cow::Owned(mut data) => {
                data.truncate(bytes.end);
                data.drain(..bytes.start);
                Cow::Owned(data)
            }
        };
        Ok(part)
    }

    /// Those of its columns (of the innermost dimension: a linear's inputs), copied. An error
    /// where the range cuts a block of the type.
    pub fn columns(&self, range: Range<usize>) -> Result<TensorData<'static>, TensorError> {
        let (Some(dimension), Some(row_bytes)) = (
            self.shape.len().checked_sub(1),
            self.shape.last().and_then(|columns| self.dtype.bytes(*columns)),
        ) else {
            return Err(self.error("has no columns"));
        };
        self.check(&range, dimension)?;
        let (block, block_bytes) = self.dtype.block();
        if !range.start.is_multiple_of(block) || !range.end.is_multiple_of(block) {
            return Err(self.error(format!(
                "columns {} to {} cut a block: {:?} has blocks of {block} values",
                range.start, range.end, self.dtype
            )));
        }
        let bytes = range.start / block * block_bytes..range.end / block * block_bytes;
        let rows = self.data.len().checked_div(row_bytes).unwrap_or(0);
        let mut data = Vec::with_capacity(rows * bytes.len());
        for row in 0..rows {
            data.extend_from_slice(&self.data[row * row_bytes..][bytes.clone()]);
        }
        Ok(self.part(dimension, range.len(), Cow::Owned(data)))
    }

    /// Its values in f32, row-major. An error for types that are no values by themselves: FP8
    /// without its scales, packed integers.
    pub fn to_f32(&self) -> Result<Vec<f32>, TensorError> {
        let bits = || self.data.as_chunks::<2>().0.iter().map(|bits| u16::from_le_bytes(*bits));
        Ok(match self.dtype {
            Dtype::F32 => self.data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::F16 => bits().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            Dtype::BF16 => bits().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            Dtype::F8Block => {
                let values = |block: &[u8]| {
                    let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                    block[4..].iter().map(move |code| scale * f8(*code)).collect::<Vec<_>>()
                };
                self.data.chunks_exact(self.dtype.block().1).flat_map(values).collect()
            }
            Dtype::F8E4M3 | Dtype::I32 => {
                let reason = format!("{:?} alone cannot be converted to f32", self.dtype);
                return Err(self.error(reason));
            }
            dtype => {
                let groups = self.shape.iter().product::<usize>() / GROUP;
                (0..groups).flat_map(|group| read(dtype, &self.data, group).values(dtype)).collect()
            }
        })
    }

    /// The bytes of those rows.
    fn row_bytes(&self, range: &Range<usize>) -> Result<Range<usize>, TensorError> {
        let Some(row) = self.shape.get(1..).and_then(|row| byte_length(self.dtype, row)) else {
            return Err(self.error(format!("{:?} of shape {:?} has no rows", self.dtype, self.shape)));
        };
        self.check(range, 0)?;
        Ok(range.start * row..range.end * row)
    }

    fn check(&self, range: &Range<usize>, dimension: usize) -> Result<(), TensorError> {
        if range.start > range.end || range.end > self.shape[dimension] {
            return Err(self.error(format!(
                "{} to {} is not within dimension {dimension} of {:?}",
                range.start, range.end, self.shape
            )));
        }
        Ok(())
    }

    fn part<'p>(&self, dimension: usize, size: usize, data: Cow<'p, [u8]>) -> TensorData<'p> {
        let mut shape = self.shape.clone();
        shape[dimension] = size;
        TensorData { name: self.name.clone(), dtype: self.dtype, shape, data }
    }

    fn error(&self, reason: impl Into<String>) -> TensorError {
        TensorError::new(&self.name, reason)
    }
}

/// The value of an FP8 e4m3fn code, NaN's too.
fn f8(code: u8) -> f32 {
    if e4m3_is_nan(code) { f32::NAN } else { e4m3(code).to_f32() * E4M3_UNIT }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: Dtype, shape: &[usize], data: Vec<u8>) -> TensorData<'static> {
        assert_eq!(byte_length(dtype, shape), Some(data.len()));
        TensorData { name: "t".into(), dtype, shape: shape.to_vec(), data: data.into() }
    }

    fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    #[test]
    fn rows_and_columns_of_plain_values() {
        let t = tensor(Dtype::F32, &[3, 4], f32s((0..12).map(|i| i as f32)));
        let rows = t.rows(1..3).expect("rows");
        assert_eq!((rows.shape.as_slice(), rows.to_f32().expect("f32")[0]), (&[2, 4][..], 4.0));
        assert!(matches!(rows.data, Cow::Borrowed(_)));
        let columns = t.columns(1..3).expect("columns");
        assert_eq!(columns.shape, [3, 2]);
        assert_eq!(columns.to_f32().expect("f32"), [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
        assert_eq!(t.clone().into_rows(2..3).expect("rows").data, rows.rows(1..2).expect("rows").data);
        let vector = tensor(Dtype::F32, &[4], f32s([0.0, 1.0, 2.0, 3.0]));
        assert_eq!(vector.rows(2..4).expect("rows").to_f32().expect("f32"), [2.0, 3.0]);
        assert!(t.rows(2..4).expect_err("beyond").to_string().contains("2 to 4"));
        assert!(t.columns(0..5).is_err());
    }

    #[test]
    fn columns_of_blocks_are_whole_blocks() {
        let data: Vec<u8> = (0..2 * 2 * 132).map(|i| (i % 251) as u8).collect();
        let t = tensor(Dtype::F8Block, &[2, 256], data.clone());
        let right = t.columns(128..256).expect("a block");
        assert_eq!(right.data[..132], data[132..264]);
        assert_eq!(right.data[132..], data[396..]);
        let error = t.columns(64..256).expect_err("half a block").to_string();
        assert!(error.contains("tensor t") && error.contains("64 to 256") && error.contains("128 values"));
    }

    #[test]
    fn fp8_values() {
        // From the format's own table: 2^-9, 2^-6, 448 (the largest), and signs.
        for (byte, value) in [(0x01, 0.001953125), (0x08, 0.015625), (0x7e, 448.0), (0xb8, -1.0), (0x3c, 1.5)]
        {
            assert_eq!(f8(byte), value);
        }
        assert!(f8(0x7f).is_nan() && f8(0xff).is_nan());
        let mut block = f32s([0.5]);
        block.extend([0x7e; 128]);
        assert_eq!(tensor(Dtype::F8Block, &[1, 128], block).to_f32().expect("f32"), [224.0; 128]);
        assert!(tensor(Dtype::F8E4M3, &[1], vec![0]).to_f32().is_err());
    }

    #[test]
    fn ggml_blocks_at_any_alignment() {
        let mut file = vec![0u8; 3];
        file.extend(f16::from_f32(2.0).to_le_bytes());
        file.extend((0..32).map(|i| i as i8 as u8));
        let data = Cow::Borrowed(&file[3..]);
        let t = TensorData { name: "t".into(), dtype: Dtype::Q8_0, shape: vec![32], data };
        assert_eq!(t.to_f32().expect("f32"), (0..32).map(|i| 2.0 * i as f32).collect::<Vec<_>>());
    }
}
