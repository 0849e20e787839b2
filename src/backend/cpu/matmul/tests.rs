//! The oracle for served weights is candle-core's dequantisation (for types that it lacks, their
//! specification's formulas), for products a sum in f64.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};

use super::*;
use crate::backend::cpu::pool::ThreadPool;

const ALL: [Dtype; 17] = [
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F8Block,
    Dtype::Q8_0,
    Dtype::Q4_0,
    Dtype::Q4_1,
    Dtype::Q5_0,
    Dtype::Q5_1,
    Dtype::Q4K,
    Dtype::Q5K,
    Dtype::Q6K,
    Dtype::Q2K,
    Dtype::Q3K,
    Dtype::IQ4NL,
    Dtype::IQ4XS,
    Dtype::MXFP4,
];

fn paths() -> Vec<Isa> {
    [Isa::Avx512, Isa::Avx2, Isa::Portable].into_iter().filter(|isa| isa.is_available()).collect()
}

/// xorshift64*: seeded and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// In -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// Random valid data: every bit of a block's codes and factors is random (FP8 codes that are NaN
/// become zeros), its scales are finite and of both signs (MXFP4's: powers of two around 2^-10).
fn stored(dtype: Dtype, rows: usize, cols: usize, seed: u64) -> TensorData<'static> {
    let mut random = Random(seed * 2 + 1);
    let values = rows * cols;
    let data: Vec<u8> = match dtype {
        Dtype::F32 => random.values(values).iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => random.values(values).iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::BF16 => random.values(values).iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => {
            let mut data: Vec<u8> =
                (0..dtype.bytes(values).unwrap()).map(|_| (random.next() >> 56) as u8).collect();
            let halves: &[usize] = match dtype {
                Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0 | Dtype::IQ4NL | Dtype::IQ4XS => &[0],
                Dtype::Q6K => &[208],
                Dtype::Q2K => &[80, 82],
                Dtype::Q3K => &[108],
                Dtype::MXFP4 | Dtype::F8Block | Dtype::F8E4M3 | Dtype::I32 => &[],
                _ => &[0, 2],
            };
            for block in data.chunks_exact_mut(dtype.block().1) {
                for &at in halves {
                    block[at..at + 2].copy_from_slice(&f16::from_f32(random.unit() * 0.01).to_le_bytes());
                }
                if dtype == Dtype::MXFP4 {
                    block[0] = 113 + block[0] % 8;
                }
                if dtype == Dtype::F8Block {
                    block[..4].copy_from_slice(&(random.unit() * 0.01).to_le_bytes());
                    block[4..].iter_mut().filter(|code| e4m3(**code).is_nan()).for_each(|code| *code = 0);
                }
            }
            data
        }
    };
    TensorData { name: format!("test.{dtype:?}"), dtype, shape: vec![rows, cols], data: Cow::Owned(data) }
}

/// A code's value by the formulas of the OCP 8-bit floating point specification (1.0), table 1:
/// exponent bias 7, no infinities, NaN where all other bits are set.
fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => 2f64.powi(1 - 7) * (mantissa / 8.0),
        _ => 2f64.powi(exponent - 7) * (1.0 + mantissa / 8.0),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The values of FP8 blocks, exactly.
fn f8_values(data: &[u8]) -> Vec<f64> {
    let values = |block: &[u8]| {
        let scale = f64::from(f32::from_le_bytes(block[..4].try_into().unwrap()));
        block[4..].iter().map(|code| scale * e4m3(*code)).collect::<Vec<_>>()
    };
    data.chunks_exact(132).flat_map(values).collect()
}

/// The values of 4-bit codes with a codebook: FP4 as the OCP microscaling formats specification (1.0)
/// has it, IQ4_NL and IQ4_XS by ggml's table.
fn codebook_values(dtype: Dtype, data: &[u8]) -> Vec<f32> {
    let fp4 = |code: u8| {
        let (exponent, mantissa) = (i32::from(code >> 1 & 3), f64::from(code & 1));
        let magnitude =
            if exponent == 0 { mantissa / 2.0 } else { 2f64.powi(exponent - 1) * (1.0 + mantissa / 2.0) };
        if code & 8 == 0 { magnitude } else { -magnitude }
    };
    let iq4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let d = |block: &[u8]| f16::from_le_bytes([block[0], block[1]]).to_f64();
    // Each group's scale and its 16 bytes, low nibbles first.
    let groups = data.chunks_exact(dtype.block().1).flat_map(|block| match dtype {
        Dtype::MXFP4 => vec![(2f64.powi(i32::from(block[0]) - 127), &block[1..])],
        Dtype::IQ4NL => vec![(d(block), &block[2..])],
        _ => {
            let high = u16::from_le_bytes([block[2], block[3]]);
            let scale = |i: usize| {
                i32::from(block[4 + i / 2] >> (4 * (i % 2)) & 15) | i32::from(high >> (2 * i) & 3) << 4
            };
            (0..8).map(|i| (d(block) * f64::from(scale(i) - 32), &block[8 + 16 * i..][..16])).collect()
        }
    });
    let value = |code: u8| if dtype == Dtype::MXFP4 { fp4(code) } else { f64::from(iq4[code as usize]) };
    let all = groups.flat_map(|(scale, bytes)| {
        let codes = bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4));
        codes.map(|code| (scale * value(code)) as f32).collect::<Vec<_>>()
    });
    all.collect()
}

/// candle's own values of a tensor (FP8: see [`f8_values`]), `[rows, cols]`.
fn oracle(tensor: &TensorData<'_>) -> Vec<f32> {
    let two = |bytes: &[u8]| [bytes[0], bytes[1]];
    let dtype = match tensor.dtype {
        Dtype::F32 => {
            return tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        }
        Dtype::F16 => {
            return tensor.data.chunks_exact(2).map(|b| f16::from_le_bytes(two(b)).to_f32()).collect();
        }
        Dtype::BF16 => {
            return tensor.data.chunks_exact(2).map(|b| bf16::from_le_bytes(two(b)).to_f32()).collect();
        }
        Dtype::F8Block => return f8_values(&tensor.data).iter().map(|x| *x as f32).collect(),
        dtype if blocks::codebook(dtype).is_some() => return codebook_values(dtype, &tensor.data),
        Dtype::Q8_0 => GgmlDType::Q8_0,
        Dtype::Q4_0 => GgmlDType::Q4_0,
        Dtype::Q4_1 => GgmlDType::Q4_1,
        Dtype::Q5_0 => GgmlDType::Q5_0,
        Dtype::Q5_1 => GgmlDType::Q5_1,
        Dtype::Q4K => GgmlDType::Q4K,
        Dtype::Q5K => GgmlDType::Q5K,
        Dtype::Q6K => GgmlDType::Q6K,
        Dtype::Q2K => GgmlDType::Q2K,
        Dtype::Q3K => GgmlDType::Q3K,
        other => unimplemented!("{other:?}"),
    };
    let storage = QStorage::from_data(Cow::Borrowed(&tensor.data), &Device::Cpu, dtype).unwrap();
    let shape = (tensor.shape[0], tensor.shape[1]);
    let values: Tensor = QTensor::new(storage, shape).unwrap().dequantize(&Device::Cpu).unwrap();
    values.flatten_all().unwrap().to_vec1().unwrap()
}

/// Odd widths for float types, whole blocks for the others; more than `linear`'s 512 columns for all
/// that it takes in several goes.
fn cols_of(dtype: Dtype) -> usize {
    match dtype.block().0 {
        1 => 1037,
        32 => 352,
        _ => 768,
    }
}

fn run(isa: Isa, w: &Matrix, bias: Option<&[f32]>, m: usize, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * w.rows];
    linear(&mut ThreadPool::new(2), &mut Scratch::with_isa(isa), w, bias, m, x, &mut out);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn codes_survive_packing() {
    let mut random = Random(7);
    for bits in [2, 3, 4, 5, 6, 8] {
        let steps: [[u8; 64]; 8] =
            std::array::from_fn(|_| std::array::from_fn(|_| (random.next() >> (64 - bits)) as u8));
        let mut packed = vec![0; bits * 64];
        layout::pack(bits, &steps, &mut packed);
        assert_eq!(layout::unpack::<64>(bits, &packed, 0), steps, "{bits} bits");
        let lane = layout::unpack::<4>(bits, &packed, 20);
        assert!((0..8).all(|step| lane[step] == steps[step][20..24]), "{bits} bits");
    }
}

#[test]
fn served_weights_are_the_stored_ones() {
    for dtype in ALL {
        let tensor = stored(dtype, 37, cols_of(dtype), 3);
        let expected = oracle(&tensor);
        assert_eq!(tensor.to_f32().unwrap(), expected, "{dtype:?}");
        // Data that starts at an odd address, as it may in a memory map.
        let shifted: Vec<u8> = [0].iter().chain(tensor.data.iter()).copied().collect();
        let unaligned = TensorData { data: Cow::Borrowed(&shifted[1..]), ..tensor.clone() };
        let matrix = Matrix::pack(&[unaligned]).unwrap();
        let mut row = vec![f32::NAN; matrix.cols];
        for (index, expected) in expected.chunks_exact(matrix.cols).enumerate() {
            matrix.row(index, &mut row);
            assert_eq!(row, expected, "{dtype:?} row {index}");
        }
    }
}

#[test]
fn served_size_is_near_the_stored_one() {
    for dtype in ALL {
        let tensor = stored(dtype, 64, 2048, 3);
        let stored = tensor.data.len();
        let served = Matrix::pack(&[tensor]).unwrap().bytes();
        assert!(served * 100 <= stored * 104, "{dtype:?}: {served} bytes for {stored}");
    }
}

/// What linear computes, in f64: for quantised weights over activations that are rounded as the
/// module says, so that what remains is the order of f32 sums. Also the sum of magnitudes.
fn reference(weights: &[f32], cols: usize, quantised: bool, x: &[f32]) -> Vec<(f64, f64)> {
    let x: Vec<f64> = if quantised {
        x.chunks_exact(32)
            .flat_map(|group| {
                let largest = group.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                let (scale, inverse) = (largest / 127.0, if largest > 0.0 { 127.0 / largest } else { 0.0 });
                group.iter().map(move |x| f64::from((x * inverse).round_ties_even()) * f64::from(scale))
            })
            .collect()
    } else {
        x.iter().copied().map(f64::from).collect()
    };
    let dot = |row: &[f32]| {
        let products = || row.iter().zip(&x).map(|(w, x)| f64::from(*w) * x);
        (products().sum(), products().map(f64::abs).sum())
    };
    weights.chunks_exact(cols).map(dot).collect()
}

#[test]
fn products_match_f64_on_every_path() {
    for dtype in ALL {
        let (rows, cols, m) = (53, cols_of(dtype), 11);
        let tensor = stored(dtype, rows, cols, 5);
        let weights = oracle(&tensor);
        let matrix = Matrix::pack(&[tensor]).unwrap();
        let x = Random(11).values(m * cols);
        for isa in paths() {
            let out = run(isa, &matrix, None, m, &x);
            for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(rows)) {
                let expected = reference(&weights, cols, matrix.has_quantised(), x);
                // Offsets (dmin * m) cancel against d * q, so that sums pass through values
                // larger than the weights': hence 1e-5 and not 1e-6 of the sum of magnitudes.
                for (out, (expected, magnitude)) in out.iter().zip(expected) {
                    let error = (f64::from(*out) - expected).abs();
                    assert!(error <= 1e-5 * magnitude, "{dtype:?} {isa:?}: {out} for {expected}");
                }
            }
        }
    }
}

#[test]
fn rounding_activations_to_8_bits_costs_under_1_percent() {
    for dtype in ALL.into_iter().filter(|dtype| Quant::of(*dtype).is_some()) {
        let (rows, cols) = (64, 2048);
        let tensor = stored(dtype, rows, cols, 9);
        let weights = oracle(&tensor);
        let matrix = Matrix::pack(&[tensor]).unwrap();
        let x = Random(13).values(cols);
        let out = run(Isa::best(), &matrix, None, 1, &x);
        let exact = reference(&weights, cols, false, &x);
        let error: f64 = out.iter().zip(&exact).map(|(out, (e, _))| (f64::from(*out) - e).powi(2)).sum();
        // Relative to outputs without cancellation: |w| |x| sqrt(cols) a row.
        let square = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let size = square(&weights) * square(&x) / cols as f64;
        assert!((error / size).sqrt() < 0.01, "{dtype:?}: {}", (error / size).sqrt());
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    const MOST: usize = 128;
    for dtype in ALL {
        let (rows, cols) = (83, cols_of(dtype));
        let matrix = Matrix::pack(&[stored(dtype, rows, cols, 17)]).unwrap();
        let bias = Random(19).values(rows);
        let x = Random(23).values(MOST * cols);
        for isa in paths() {
            // The portable path is slow here, and its tiles are those of the others.
            let sizes: &[usize] =
                if isa == Isa::Portable { &[2, 3, 9] } else { &[2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 65, MOST] };
            let most = sizes.iter().copied().max().unwrap();
            let single: Vec<Vec<u32>> = x
                .chunks_exact(cols)
                .take(most)
                .map(|x| bits(&run(isa, &matrix, Some(&bias), 1, x)))
                .collect();
            for &m in sizes {
                // From both ends of the rows, so that a row meets several positions.
                for first in [0, most - m] {
                    let out = run(isa, &matrix, Some(&bias), m, &x[first * cols..][..m * cols]);
                    for (row, out) in out.chunks_exact(rows).enumerate() {
                        assert_eq!(bits(out), single[first + row], "{dtype:?} {isa:?} m = {m}, row {row}");
                    }
                }
            }
        }
    }
}

#[test]
fn paths_agree_in_every_bit() {
    for dtype in ALL {
        let cols = cols_of(dtype);
        let matrix = Matrix::pack(&[stored(dtype, 40, cols, 29)]).unwrap();
        let x = Random(31).values(5 * cols);
        let expected = bits(&run(Isa::Portable, &matrix, None, 5, &x));
        for isa in paths() {
            assert_eq!(bits(&run(isa, &matrix, None, 5, &x)), expected, "{dtype:?} {isa:?}");
        }
    }
}

#[test]
fn stacked_parts_are_their_own_matrices() {
    let types = [
        Dtype::Q4K,
        Dtype::BF16,
        Dtype::Q6K,
        Dtype::Q8_0,
        Dtype::F8Block,
        Dtype::Q3K,
        Dtype::F32,
        Dtype::Q2K,
        Dtype::Q5_0,
        Dtype::IQ4NL,
        Dtype::IQ4XS,
        Dtype::MXFP4,
    ];
    let rows = [20, 7, 48, 1, 70, 17, 33, 15, 16, 9, 31, 18];
    let (cols, all) = (768, 285);
    let parts: Vec<_> =
        types.iter().zip(rows).map(|(dtype, rows)| stored(*dtype, rows, cols, 37 + rows as u64)).collect();
    let whole = Matrix::pack(&parts).unwrap();
    assert_eq!((whole.rows, whole.cols), (all, cols));
    assert_eq!(whole.kind(), "Q4_K+BF16+Q6_K+Q8_0+FP8+Q3_K+F32+Q2_K+Q5_0+IQ4_NL+IQ4_XS+MXFP4");
    let bias = Random(41).values(all);
    let singles: Vec<_> = parts.into_iter().map(|part| Matrix::pack(&[part]).unwrap()).collect();
    assert_eq!(whole.bytes(), singles.iter().map(Matrix::bytes).sum::<usize>());
    for m in [1, 2, 10] {
        let x = Random(43).values(m * cols);
        for isa in paths() {
            let out = run(isa, &whole, Some(&bias), m, &x);
            let mut first = 0;
            for single in &singles {
                let bias = &bias[first..first + single.rows];
                let expected = run(isa, single, Some(bias), m, &x);
                for row in 0..m {
                    let got = &out[row * all + first..][..single.rows];
                    let expected = &expected[row * single.rows..][..single.rows];
                    assert_eq!(bits(got), bits(expected), "{isa:?} {} m = {m}", single.kind());
                }
                first += single.rows;
            }
        }
    }
    let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
    whole.row(20 + 7 + 5, &mut a);
    singles[2].row(5, &mut b);
    assert_eq!(a, b);
}

#[test]
fn bad_activations_stay_in_their_row() {
    for dtype in ALL {
        let cols = cols_of(dtype);
        let matrix = Matrix::pack(&[stored(dtype, 16, cols, 47)]).unwrap();
        let x = Random(53).values(3 * cols);
        for isa in paths() {
            let good = run(isa, &matrix, None, 3, &x);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = x.clone();
                x[cols + 40] = bad;
                let out = run(isa, &matrix, None, 3, &x);
                assert!(out[16..32].iter().all(|y| !y.is_finite()), "{dtype:?} {isa:?} {bad}");
                assert_eq!(bits(&out[..16]), bits(&good[..16]));
                assert_eq!(bits(&out[32..]), bits(&good[32..]));
            }
            // Zeros give zeros; so do values whose scale would underflow, in quantised products.
            let mut x = x.clone();
            x[cols..2 * cols].fill(0.0);
            assert!(run(isa, &matrix, None, 3, &x)[16..32].iter().all(|y| *y == 0.0));
            x[cols..2 * cols].fill(1e-40);
            assert!(run(isa, &matrix, None, 3, &x)[16..32].iter().all(|y| y.abs() < 1e-30));
            // The largest floats neither wrap nor panic.
            x[cols..2 * cols].fill(f32::MAX);
            run(isa, &matrix, None, 3, &x);
        }
    }
}

#[test]
fn no_rows_no_output() {
    let matrix = Matrix::pack(&[stored(Dtype::Q4_0, 16, 64, 1)]).unwrap();
    assert!(run(Isa::best(), &matrix, None, 0, &[]).is_empty());
}

#[test]
fn bad_tensors_are_named() {
    let good = stored(Dtype::Q4K, 16, 512, 1);
    let error = |parts: &[TensorData<'_>]| Matrix::pack(parts).unwrap_err().to_string();
    let flat = TensorData { shape: vec![16 * 512], ..good.clone() };
    assert_eq!(error(&[flat]), "tensor test.Q4K: a weight matrix is [out, in], not [8192]");
    let narrow = TensorData { shape: vec![64, 128], ..good.clone() };
    assert!(error(&[narrow]).contains("must be a multiple of 256 wide, not 128"));
    let short = TensorData { data: Cow::Borrowed(&good.data[1..]), ..good.clone() };
    assert!(error(&[short]).contains("do not take 4607 bytes"));
    let wide = stored(Dtype::F32, 4, 256, 1);
    assert!(error(&[good, wide]).contains("has 256 columns, but test.Q4K, stacked with it, has 512"));
    assert!(error(&[]).contains("at least one tensor"));
    let empty = TensorData { shape: vec![0, 512], data: Cow::Borrowed(&[]), ..stored(Dtype::F32, 1, 1, 1) };
    assert!(error(&[empty]).contains("must not be empty"));
}

#[test]
fn tensors_without_values_of_their_own_are_refused() {
    let error = |tensor| Matrix::pack(&[tensor]).unwrap_err().to_string();
    let f8 = error(stored(Dtype::F8E4M3, 16, 128, 1));
    assert!(f8.contains("test.F8E4M3") && f8.contains("without its scales"), "{f8}");
    let packed = error(stored(Dtype::I32, 16, 128, 1));
    assert!(packed.contains("test.I32") && packed.contains("packed integers"), "{packed}");
}

/// All of them, under scales from the least normal one to a huge one.
fn f8_codes() -> TensorData<'static> {
    let mut tensor = stored(Dtype::F8Block, 20, 768, 61);
    for (index, block) in tensor.data.to_mut().chunks_exact_mut(132).enumerate() {
        let scale = [1.0f32, 1.1, -0.003, f32::MIN_POSITIVE * 3.0, 1e30][index % 5];
        block[..4].copy_from_slice(&scale.to_le_bytes());
        for (k, code) in block[4..].iter_mut().enumerate() {
            let all = (index * 128 + k) as u8;
            *code = if e4m3(all).is_nan() { all & 0x80 } else { all };
        }
    }
    tensor
}

#[test]
fn every_f8_code_is_exact() {
    let tensor = f8_codes();
    let cols = 768;
    let expected: Vec<f32> = f8_values(&tensor.data).iter().map(|x| *x as f32).collect();
    let matrix = Matrix::pack(&[tensor]).unwrap();
    let mut row = vec![0.0; cols];
    for (index, expected) in expected.chunks_exact(cols).enumerate() {
        matrix.row(index, &mut row);
        assert_eq!(bits(&row), bits(expected), "row {index}");
    }
    // One column at a time is its weights.
    for isa in paths() {
        for k in (0..256).chain([511, 512, cols - 1]) {
            let mut x = vec![0.0; cols];
            x[k] = 1.0;
            let out = run(isa, &matrix, None, 1, &x);
            for (row, out) in out.iter().enumerate() {
                assert_eq!(*out, expected[row * cols + k], "{isa:?} row {row} column {k}");
            }
        }
    }
}

#[test]
fn f8_products_are_those_of_f32() {
    let (rows, cols, m) = (53, 7168, 3);
    let tensor = stored(Dtype::F8Block, rows, cols, 67);
    let weights = f8_values(&tensor.data);
    let matrix = Matrix::pack(&[tensor]).unwrap();
    let x = Random(71).values(m * cols);
    for isa in paths() {
        let out = run(isa, &matrix, None, m, &x);
        for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(rows)) {
            for (w, out) in weights.chunks_exact(cols).zip(out) {
                let products = || w.iter().zip(x).map(|(w, x)| w * f64::from(*x));
                let (expected, magnitude): (f64, f64) = (products().sum(), products().map(f64::abs).sum());
                let error = (f64::from(*out) - expected).abs();
                assert!(error <= 4.0 * f64::from(f32::EPSILON) * magnitude, "{isa:?}: {out} for {expected}");
            }
        }
    }
}

#[test]
fn nan_in_f8_weights_is_refused_by_place() {
    for code in [0x7f, 0xff] {
        let mut tensor = stored(Dtype::F8Block, 20, 768, 73);
        tensor.data.to_mut()[(17 * 6 + 5) * 132 + 4 + 3] = code;
        let error = Matrix::pack(&[tensor]).unwrap_err().to_string();
        assert_eq!(error, "tensor test.F8Block: row 17, column 643 is NaN, which no weight may be");
    }
    // A scale may be: its row's outputs are.
    let mut tensor = stored(Dtype::F8Block, 20, 768, 73);
    tensor.data.to_mut()[17 * 6 * 132..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let matrix = Matrix::pack(&[tensor]).unwrap();
    for isa in paths() {
        let out = run(isa, &matrix, None, 1, &Random(79).values(768));
        assert!(out.iter().enumerate().all(|(row, y)| y.is_nan() == (row == 17)), "{isa:?}");
    }
}

/// All codes of MXFP4 under all scales, the subnormal ones included.
#[test]
fn every_mxfp4_scale_is_exact() {
    // 255 blocks and a spare one, in 16 rows.
    let codes: Vec<u8> = (0..16).map(|code| code | (15 - code) << 4).collect();
    let data: Vec<u8> = (0..=255u8).flat_map(|e| [&[e.min(254)], &codes[..]].concat()).collect();
    let (rows, cols) = (16, 512);
    let tensor = TensorData {
        name: "test.scales".into(),
        dtype: Dtype::MXFP4,
        shape: vec![rows, cols],
        data: Cow::Owned(data),
    };
    let expected = oracle(&tensor);
    assert_eq!(expected[1], 0.5 * 2f32.powi(-127));
    let matrix = Matrix::pack(&[tensor]).unwrap();
    let mut row = vec![0.0; cols];
    for (index, expected) in expected.chunks_exact(cols).enumerate() {
        matrix.row(index, &mut row);
        assert_eq!(row, expected, "row {index}");
    }
    // One column at a time is its weights, but for what exceeds f32 with an activation's code of 127.
    for isa in paths() {
        for k in (0..cols).step_by(5) {
            let mut x = vec![0.0; cols];
            x[k] = 127.0;
            let out = run(isa, &matrix, None, 1, &x);
            for (row, out) in out.iter().enumerate() {
                let weight = f64::from(expected[row * cols + k]) * 127.0;
                assert_eq!(*out, weight as f32, "{isa:?} row {row} column {k}");
            }
        }
    }
}

#[test]
fn nan_in_mxfp4_weights_is_refused_by_place() {
    let mut tensor = stored(Dtype::MXFP4, 20, 352, 83);
    tensor.data.to_mut()[(17 * 11 + 5) * 17] = 0xff;
    let error = Matrix::pack(&[tensor]).unwrap_err().to_string();
    assert_eq!(error, "tensor test.MXFP4: row 17, column 160 is NaN, which no weight may be");
}
