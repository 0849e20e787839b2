//! Kernels in plain Rust: the reference of the other paths' arithmetic, and what ARM runs.

use half::{bf16, f16};

use crate::checkpoint::Dtype;
use crate::checkpoint::blocks::{E4M3_UNIT, e4m3, e8m0_half};

use super::activations::{PLANE_HALVES, PLANE_SCALE, PLANE_SUM, WORDS, zero_planes, zero_shift};
use super::kernel::*;
use super::layout::{
    F8_BLOCK, F8_CODES, F8_COLS, GROUP, LANES, STEP, SUPER, Scales, float_at, panel_bytes, unpack,
};

/// See [`QuantTile`].
pub(super) fn quant_tile(dtype: Dtype, rows: usize) -> QuantTile {
    instances!(
        dtype,
        rows,
        quant,
        [Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4K, Q5K, Q6K, Q2K, Q3K, IQ4NL, IQ4XS, MXFP4]
    )
}

/// See [`FloatTile`].
pub(super) fn float_tile(dtype: Dtype, rows: usize, single: bool) -> FloatTile {
    if single {
        instances!(dtype, rows, float_one, [F32, F16, BF16, F8Block])
    } else {
        instances!(dtype, rows, float_many, [F32, F16, BF16, F8Block])
    }
}

type Lanes = [f32; LANES];

fn each(f: impl FnMut(usize) -> f32) -> Lanes {
    std::array::from_fn(f)
}

/// # Safety
/// As [`QuantTile`]: a panel of `groups` groups of type F, and as many records of R rows.
unsafe fn quant<F: Form, const R: usize>(
    codes: *const u8,
    scales: *const u8,
    groups: usize,
    x: *const i32,
    out: *mut Lanes,
) {
    let quant = F::QUANT;
    let (record, covers) = quant.scales.record();
    let mut sums = [[0.0; LANES]; R];
    for group in 0..groups {
        // SAFETY: the caller's panel and records hold `groups` groups.
        let (codes, scales, x) = unsafe {
            (
                std::slice::from_raw_parts(codes.add(group * quant.code_bytes()), quant.code_bytes()),
                std::slice::from_raw_parts(scales.add(group / covers * record), record),
                std::slice::from_raw_parts(x.add(group * R * WORDS), R * WORDS),
            )
        };
        let mut steps = unpack::<STEP>(quant.bits, codes, 0);
        if let Some(table) = quant.table {
            steps.as_flattened_mut().iter_mut().for_each(|code| *code = table[*code as usize]);
        }
        let half =
            |at: usize| each(|l| f16::from_le_bytes([scales[at + l * 2], scales[at + l * 2 + 1]]).to_f32());
        let factor = |second: usize| {
            let start = if quant.scales == Scales::Halves { 32 } else { 64 };
            &scales[start + group % SUPER * 2 * LANES + second * LANES..][..LANES]
        };
        let planes = &x[R * GROUP / 4..];
        let plane = |index: usize, row: usize| planes[index * R + row];
        for (row, sum) in sums.iter_mut().enumerate() {
            let start = |index: usize| plane(index, row) >> zero_shift(quant.zero);
            let start = zero_planes(quant.zero).map_or((0, 0), |(a, b)| (start(a), start(b)));
            let scale = f32::from_bits(plane(PLANE_SCALE, row) as u32);
            let scaled_sum = f32::from_bits(plane(PLANE_SUM, row) as u32);
            let x = &x[row * 8..][..8];
            let d = match quant.scales {
                Scales::Exponents => each(|l| e8m0_half(scales[l])),
                _ => half(0),
            };
            if matches!(quant.scales, Scales::Halves | Scales::HalvesMin) {
                let low = dot(&steps[..4], &x[..4], start.0);
                let high = dot(&steps[4..], &x[4..], start.1);
                let (f0, f1) = (factor(0), factor(1));
                let with_min = quant.scales == Scales::HalvesMin;
                let sc = |f: u8| if with_min { f32::from(f & 15) } else { f32::from(f as i8) };
                let dmin = half(32);
                let halves = [PLANE_HALVES.0, PLANE_HALVES.1].map(|index| plane(index, row) as f32);
                for l in 0..LANES {
                    let part = low[l] as f32 * (d[l] * sc(f0[l]));
                    let mut part = (high[l] as f32).mul_add(d[l] * sc(f1[l]), part);
                    if with_min {
                        let m = |f: u8| dmin[l] * (1.0 / 32.0) * f32::from(f >> 4);
                        part = halves[0].mul_add(m(f0[l]), part);
                        part = halves[1].mul_add(m(f1[l]), part);
                    }
                    sum[l] = part.mul_add(scale, sum[l]);
                }
                continue;
            }
            let dots = dot(&steps, x, start.0);
            let (d, offset) = match quant.scales {
                Scales::Affine => (d, Some(half(32))),
                Scales::Super => {
                    let (sc, m, dmin) = (factor(0), factor(1), half(32));
                    let offset = each(|l| -(dmin[l] * f32::from(m[l])));
                    (each(|l| d[l] * f32::from(sc[l])), Some(offset))
                }
                Scales::Signed => {
                    let sc = &scales[32 + group % SUPER * LANES..][..LANES];
                    (each(|l| d[l] * f32::from(sc[l] as i8)), None)
                }
                Scales::Plain | Scales::Exponents | Scales::Halves | Scales::HalvesMin => (d, None),
            };
            for l in 0..LANES {
                sum[l] = (dots[l] as f32 * scale).mul_add(d[l], sum[l]);
                if let Some(offset) = offset {
                    sum[l] = offset[l].mul_add(scaled_sum, sum[l]);
                }
            }
        }
    }
    // SAFETY: the caller's result has R rows.
    unsafe { std::slice::from_raw_parts_mut(out, R) }.copy_from_slice(&sums);
}

#[inline(always)]
fn dot(steps: &[[u8; 64]], x: &[i32], start: i32) -> [i32; LANES] {
    let mut dots = [start; LANES];
    for (step, x) in steps.iter().zip(x) {
        let x = x.to_le_bytes();
        for (dot, codes) in dots.iter_mut().zip(step.chunks_exact(4)) {
            for (code, x) in codes.iter().zip(x) {
                *dot += i32::from(*code) * i32::from(x as i8);
            }
        }
    }
    dots
}

/// # Safety
/// As [`FloatTile`] with one panel.
unsafe fn float_one<F: Form, const R: usize>(
    panel: *const u8,
    _stride: usize,
    cols: usize,
    x: *const f32,
    sums: *mut Lanes,
) {
    // SAFETY: the caller's panel has `cols` columns, padded to pairs, the activations R rows.
    let (panel, x, sums) = unsafe {
        (
            std::slice::from_raw_parts(panel, panel_bytes(F::DTYPE, cols)),
            std::slice::from_raw_parts(x, cols * R),
            std::slice::from_raw_parts_mut(sums, R),
        )
    };
    if F::DTYPE == Dtype::F8Block {
        return float_blocks::<R>(panel, x, sums);
    }
    let size = F::DTYPE.block().1;
    for (k, x) in x.chunks_exact(R).enumerate() {
        let w = each(|lane| {
            let value = &panel[float_at(F::DTYPE, k, lane) * size..][..size];
            match F::DTYPE {
                Dtype::F32 => f32::from_le_bytes([value[0], value[1], value[2], value[3]]),
                Dtype::F16 => f16::from_le_bytes([value[0], value[1]]).to_f32(),
                _ => bf16::from_le_bytes([value[0], value[1]]).to_f32(),
            }
        });
        add_column(sums, w, x);
    }
}

#[inline(always)]
fn add_column(sums: &mut [Lanes], w: Lanes, x: &[f32]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        for (sum, w) in sum.iter_mut().zip(w) {
            *sum = w.mul_add(*x, *sum);
        }
    }
}

/// FP8: a block's products are summed without its scale, which the sum is then multiplied by.
fn float_blocks<const R: usize>(panel: &[u8], x: &[f32], sums: &mut [Lanes]) {
    for (block, x) in panel.chunks_exact(F8_BLOCK).zip(x.chunks_exact(F8_COLS * R)) {
        let (codes, scales) = block.split_at(F8_CODES);
        let mut parts = [[0.0; LANES]; R];
        for (k, x) in x.chunks_exact(R).enumerate() {
            let w = each(|lane| e4m3(codes[float_at(Dtype::F8Block, k, lane)]).to_f32());
            add_column(&mut parts, w, x);
        }
        for (sum, part) in sums.iter_mut().zip(parts) {
            for ((sum, part), scale) in sum.iter_mut().zip(part).zip(scales.chunks_exact(4)) {
                let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
                *sum = (part * E4M3_UNIT).mul_add(scale, *sum);
            }
        }
    }
}

/// # Safety
/// As [`FloatTile`] with `float_panels(R)` panels.
unsafe fn float_many<F: Form, const R: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    sums: *mut Lanes,
) {
    for i in 0..float_panels(R) {
        // SAFETY: the caller's panels are `stride` apart, and each has R rows of sums.
        unsafe { float_one::<F, R>(panel.add(i * stride), stride, cols, x, sums.add(i * R)) };
    }
}
