//! Random weights of every stored type that has kernels of its own.

use super::side::Rng;
use crate::checkpoint::{Dtype, TensorData};
use half::{bf16, f16};

/// A matrix `[rows, columns]` of some tenths. Codes are any; scales are normal, of both signs.
pub fn weights(rng: &mut Rng, dtype: Dtype, rows: usize, columns: usize) -> TensorData<'static> {
    let (values, bytes) = dtype.block();
    let blocks = rows * columns / values;
    assert_eq!(columns % values, 0, "whole blocks");
    let mut data = Vec::with_capacity(blocks * bytes);
    for _ in 0..blocks {
        block(rng, dtype, &mut data);
    }
    TensorData { name: format!("{dtype:?}"), dtype, shape: vec![rows, columns], data: data.into() }
}

fn block(rng: &mut Rng, dtype: Dtype, to: &mut Vec<u8>) {
    let start = to.len();
    let scale = |rng: &mut Rng, size: f32| f16::from_f32(rng.normal() * size).to_le_bytes();
    let codes =
        |rng: &mut Rng, count: usize, to: &mut Vec<u8>| to.extend((0..count).map(|_| rng.next() as u8));
    match dtype {
        Dtype::F32 => to.extend((rng.normal() / 8.0).to_le_bytes()),
        Dtype::F16 => to.extend(scale(rng, 0.125)),
        Dtype::BF16 => to.extend(bf16::from_f32(rng.normal() / 8.0).to_le_bytes()),
        Dtype::Q8_0 => {
            to.extend(scale(rng, 1.0 / 500.0));
            codes(rng, 32, to);
        }
        Dtype::Q4_0 | Dtype::Q5_0 => {
            to.extend(scale(rng, 1.0 / 40.0));
            codes(rng, dtype.block().1 - 2, to);
        }
        Dtype::Q4_1 => {
            to.extend(scale(rng, 1.0 / 40.0));
            to.extend(scale(rng, 1.0 / 8.0));
            codes(rng, 16, to);
        }
        Dtype::Q4K => {
            to.extend(scale(rng, 1.0 / 900.0));
            to.extend(scale(rng, 1.0 / 300.0));
            codes(rng, 140, to);
        }
        Dtype::Q6K => {
            codes(rng, 208, to);
            to.extend(scale(rng, 1.0 / 9000.0));
        }
        Dtype::IQ4NL => {
            to.extend(scale(rng, 1.0 / 600.0));
            codes(rng, 16, to);
        }
        Dtype::IQ4XS => {
            to.extend(scale(rng, 1.0 / 11000.0));
            codes(rng, 134, to);
        }
        Dtype::MXFP4 => {
            to.push(119 + rng.below(4) as u8);
            codes(rng, 16, to);
        }
        Dtype::F8Block => {
            to.extend((rng.normal() / 300.0).to_le_bytes());
            let code = |rng: &mut Rng| match rng.next() as u8 {
                // NaN is refused when weights are loaded.
                0x7f | 0xff => 1,
                code => code,
            };
            to.extend((0..128).map(|_| code(rng)));
        }
        _ => panic!("{dtype:?} has no kernels of its own"),
    }
    assert_eq!(to.len() - start, dtype.block().1, "bytes of a block of {dtype:?}");
}

/// The largest row's: the root of the mean of squares.
pub fn size(matrix: &TensorData<'_>) -> f32 {
    let (values, columns) = (matrix.to_f32().unwrap_or_default(), matrix.shape[1]);
    let of_row = |row: &[f32]| (row.iter().map(|value| value * value).sum::<f32>() / columns as f32).sqrt();
    values.chunks_exact(columns).map(of_row).fold(0.0, f32::max)
}
