//! AVX-512 kernels: a vector holds the 16 rows of a panel.
//!
//! Quantised: a group's codes are widened once to eight vectors of bytes and meet every row of
//! the tile: eight `vpdpbusd` with the activations broadcast from memory, then scale and add.
//! Float: up to 16 sums in registers, two columns at a time.

// Loops of constant length over several arrays at once; an index says it best.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use crate::checkpoint::Dtype;
use crate::checkpoint::blocks::E4M3_UNIT;

use super::activations::{self, PLANE_HALVES, PLANE_SCALE, PLANE_SUM, WORDS, zero_planes, zero_shift};
use super::kernel::*;
use super::layout::{F8_BLOCK, F8_CODES, F8_COLS, GROUP, LANES, STEP, SUPER, Scales};

/// Bytes that a panel is asked for ahead: what memory delivers within its latency, with a margin.
const PREFETCH: usize = 4096;

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

/// [`activations::quantise_rows`], to the same bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn quantise_rows(x: &[f32], stride: usize, rows: usize, out: &mut [i32]) {
    let sign = _mm512_set1_epi32(i32::MIN);
    for (group, record) in out.chunks_exact_mut(rows * WORDS).enumerate() {
        let (codes, planes) = record.split_at_mut(rows * 8);
        for row in 0..rows {
            let x: &[f32; GROUP] = x[row * stride + group * GROUP..][..GROUP].try_into().expect("32 values");
            // SAFETY: the group's halves of 16 values.
            let (low, high) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
            let magnitude = |x: __m512| _mm512_andnot_si512(sign, _mm512_castps_si512(x));
            let top = _mm512_reduce_max_epi32(_mm512_max_epi32(magnitude(low), magnitude(high)));
            let (scale, inverse) = activations::scale(f32::from_bits(top as u32));
            let inverse = _mm512_set1_ps(inverse);
            // An inverse of 0 makes NaN of an infinity, which must not show in the codes.
            let finite = if scale.is_nan() { 0 } else { 0xffff };
            let code =
                |x: __m512| _mm512_cvtepi32_epi8(_mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(x, inverse)));
            let bytes = _mm256_set_m128i(code(high), code(low));
            let words = &mut codes[row * 8..][..8];
            // SAFETY: 8 words of 4 bytes.
            unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), bytes) };
            let fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
            let pairs = _mm256_add_epi32(fours, _mm256_shuffle_epi32::<0b01_00_11_10>(fours));
            let sums = _mm256_add_epi32(pairs, _mm256_shuffle_epi32::<0b10_11_00_01>(pairs));
            let (low, high) = (_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums));
            for (plane, value) in activations::planes(scale, [low, high]).into_iter().enumerate() {
                planes[plane * rows + row] = value;
            }
        }
    }
}

/// A group's codes, one byte each, by step; undoes `layout::pack`.
///
/// # Safety
/// `p` points to the group's `bits * 64` bytes, and the machine has this path.
#[inline(always)]
unsafe fn unpack(bits: usize, p: *const u8) -> [__m512i; 8] {
    /// mask ? a : b, bit by bit.
    const SELECT: i32 = 0xca;
    // SAFETY: only the vectors below `bits` are read.
    unsafe {
        let p: *const __m512i = p.cast();
        macro_rules! v {
            ($i:expr) => {
                _mm512_loadu_si512(p.add($i))
            };
        }
        macro_rules! and {
            ($v:expr, $byte:expr) => {
                _mm512_and_si512($v, _mm512_set1_epi8($byte))
            };
        }
        match bits {
            2 => {
                let (a, b) = (v!(0), v!(1));
                [
                    and!(a, 3),
                    and!(b, 3),
                    and!(_mm512_srli_epi32(a, 2), 3),
                    and!(_mm512_srli_epi32(b, 2), 3),
                    and!(_mm512_srli_epi32(a, 4), 3),
                    and!(_mm512_srli_epi32(b, 4), 3),
                    and!(_mm512_srli_epi32(a, 6), 3),
                    and!(_mm512_srli_epi32(b, 6), 3),
                ]
            }
            3 => {
                let (a, b, third) = (v!(0), v!(1), v!(2));
                macro_rules! joined {
                    ($low:expr, $high:expr) => {
                        and!(_mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(3), $low, $high), 7)
                    };
                }
                [
                    joined!(a, _mm512_slli_epi32(third, 2)),
                    joined!(b, _mm512_slli_epi32(third, 1)),
                    joined!(_mm512_srli_epi32(a, 2), third),
                    joined!(_mm512_srli_epi32(b, 2), _mm512_srli_epi32(third, 1)),
                    joined!(_mm512_srli_epi32(a, 4), _mm512_srli_epi32(third, 2)),
                    joined!(_mm512_srli_epi32(b, 4), _mm512_srli_epi32(third, 3)),
                    joined!(_mm512_srli_epi32(a, 6), _mm512_srli_epi32(third, 4)),
                    joined!(_mm512_srli_epi32(b, 6), _mm512_srli_epi32(third, 5)),
                ]
            }
            4 => {
                let (a, b, c, d) = (v!(0), v!(1), v!(2), v!(3));
                macro_rules! high {
                    ($v:expr) => {
                        and!(_mm512_srli_epi32($v, 4), 15)
                    };
                }
                [and!(a, 15), and!(b, 15), and!(c, 15), and!(d, 15), high!(a), high!(b), high!(c), high!(d)]
            }
            5 => {
                let (a, b, c, d, e) = (v!(0), v!(1), v!(2), v!(3), v!(4));
                macro_rules! joined {
                    ($low:expr, $high:expr) => {
                        and!(
                            _mm512_ternarylogic_epi32::<SELECT>(
                                _mm512_set1_epi8(7),
                                _mm512_srli_epi32($low, 5),
                                $high
                            ),
                            31
                        )
                    };
                }
                let (bit3, bit4) = (_mm512_srli_epi32(b, 2), _mm512_srli_epi32(d, 1));
                let bits34 = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(8), bit3, bit4);
                [
                    and!(a, 31),
                    and!(b, 31),
                    and!(c, 31),
                    and!(d, 31),
                    and!(e, 31),
                    joined!(a, _mm512_srli_epi32(b, 3)),
                    joined!(c, _mm512_srli_epi32(d, 3)),
                    joined!(e, bits34),
                ]
            }
            6 => {
                let (a, b, c, d, e, f) = (v!(0), v!(1), v!(2), v!(3), v!(4), v!(5));
                macro_rules! joined {
                    ($a:expr, $b:expr, $c:expr) => {{
                        let (a, b) = (_mm512_srli_epi32($a, 6), _mm512_srli_epi32($b, 4));
                        let ab = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(3), a, b);
                        let c = _mm512_srli_epi32($c, 2);
                        and!(_mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(15), ab, c), 63)
                    }};
                }
                [
                    and!(a, 63),
                    and!(b, 63),
                    and!(c, 63),
                    and!(d, 63),
                    and!(e, 63),
                    and!(f, 63),
                    joined!(a, b, c),
                    joined!(d, e, f),
                ]
            }
            _ => [v!(0), v!(1), v!(2), v!(3), v!(4), v!(5), v!(6), v!(7)],
        }
    }
}

/// # Safety
/// 32 readable bytes, and the machine has this path.
#[inline(always)]
unsafe fn halves(p: *const u8) -> __m512 {
    // SAFETY: as the caller says.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
}

/// # Safety
/// 16 readable bytes, and the machine has this path.
#[inline(always)]
unsafe fn unsigned(p: *const u8) -> __m512 {
    // SAFETY: as the caller says.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
}

/// # Safety
/// 16 readable bytes, and the machine has this path.
#[inline(always)]
unsafe fn signed(p: *const u8) -> __m512 {
    // SAFETY: as the caller says.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
}

/// MXFP4's scales, see `checkpoint::blocks::e8m0_half`.
///
/// # Safety
/// 16 readable bytes, and the machine has this path.
#[inline(always)]
unsafe fn exponents(p: *const u8) -> __m512 {
    // SAFETY: as the caller says.
    unsafe {
        let v = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
        let one = _mm512_set1_epi32(1);
        let normal = _mm512_slli_epi32(_mm512_sub_epi32(v, one), 23);
        _mm512_castsi512_ps(_mm512_max_epi32(normal, _mm512_slli_epi32(_mm512_add_epi32(v, one), 21)))
    }
}

/// The low and the high 4 bits of 16 bytes.
///
/// # Safety
/// 16 readable bytes, and the machine has this path.
#[inline(always)]
unsafe fn nibbles(p: *const u8) -> (__m512, __m512) {
    // SAFETY: as the caller says.
    unsafe {
        let v = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
        let low = _mm512_and_si512(v, _mm512_set1_epi32(15));
        (_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srli_epi32(v, 4)))
    }
}

/// Asks for the line that a panel's stream of codes and scales reaches in a while: hardware
/// prefetchers stop at the end of a page, and a panel takes few of them.
///
/// # Safety
/// The machine has this path. Any address will do.
#[inline(always)]
unsafe fn prefetch(p: *const u8) {
    // SAFETY: as the caller says.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(PREFETCH).cast()) };
}

/// One step of codes against every row: `x` points to the step's word of the first row.
///
/// # Safety
/// `x` is inside a record of R rows, and the machine has this path.
#[inline(always)]
unsafe fn step<const R: usize>(dots: &mut [__m512i; R], w: __m512i, x: *const i32) {
    for row in 0..R {
        // SAFETY: as the caller says.
        unsafe { dots[row] = _mm512_dpbusd_epi32(dots[row], w, _mm512_set1_epi32(x.add(row * 8).read())) };
    }
}

/// The words of a plane of integers, one a row, shifted right.
///
/// # Safety
/// `x` points to a record of R rows, and the machine has this path.
#[inline(always)]
unsafe fn ints<const R: usize>(x: *const i32, plane: Option<usize>, shift: u32) -> [__m512i; R] {
    // SAFETY: as the caller says.
    unsafe {
        let mut values = [_mm512_setzero_si512(); R];
        if let Some(plane) = plane {
            for row in 0..R {
                values[row] = _mm512_set1_epi32(x.add(R * 8 + plane * R + row).read() >> shift);
            }
        }
        values
    }
}

/// A row's word of a plane of floats.
///
/// # Safety
/// As [`ints`], with `row < R`.
#[inline(always)]
unsafe fn value<const R: usize>(x: *const i32, plane: usize, row: usize) -> __m512 {
    // SAFETY: as the caller says.
    unsafe { _mm512_set1_ps(x.add(R * 8 + plane * R + row).cast::<f32>().read()) }
}

/// # Safety
/// As [`QuantTile`]: a panel of `groups` groups of type F, and as many records of R rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn quant<F: Form, const R: usize>(
    codes: *const u8,
    scales: *const u8,
    groups: usize,
    x: *const i32,
    out: *mut [f32; LANES],
) {
    let form = const { F::QUANT };
    let (record, covers) = const { F::QUANT.scales.record() };
    let code_bytes = const { F::QUANT.code_bytes() };
    let zero = const { zero_planes(F::QUANT.zero) };
    let shift = const { zero_shift(F::QUANT.zero) };
    let mut sums = [_mm512_setzero_ps(); R];
    for group in 0..groups {
        // SAFETY: every read below is inside this group's codes, its scale record or its
        // activation record, of which the caller has `groups`.
        unsafe {
            let x = x.add(group * R * WORDS);
            let codes = codes.add(group * code_bytes);
            let scales = scales.add(group / covers * record);
            for line in 0..form.bits {
                prefetch(codes.wrapping_add(line * STEP));
            }
            if group % (64 / record.min(64)) == 0 {
                prefetch(scales);
            }
            let factors = group % SUPER * 2 * LANES;
            let mut w = unpack(form.bits, codes);
            if let Some(table) = const { F::QUANT.table } {
                let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                for step in 0..8 {
                    w[step] = _mm512_shuffle_epi8(table, w[step]);
                }
            }
            let [w0, w1, w2, w3, w4, w5, w6, w7] = w;
            let mut dots = ints::<R>(x, zero.map(|z| z.0), shift);
            step(&mut dots, w0, x);
            step(&mut dots, w1, x.add(1));
            step(&mut dots, w2, x.add(2));
            step(&mut dots, w3, x.add(3));
            let d = match form.scales {
                Scales::Exponents => exponents(scales),
                _ => halves(scales),
            };
            if matches!(form.scales, Scales::Halves | Scales::HalvesMin) {
                let with_min = form.scales == Scales::HalvesMin;
                let mut offsets = [_mm512_setzero_ps(); 2];
                let (low, high) = if with_min {
                    let dmin = _mm512_mul_ps(halves(scales.add(32)), _mm512_set1_ps(1.0 / 32.0));
                    let (sc0, m0) = nibbles(scales.add(64 + factors));
                    let (sc1, m1) = nibbles(scales.add(64 + factors + LANES));
                    offsets = [_mm512_mul_ps(dmin, m0), _mm512_mul_ps(dmin, m1)];
                    (sc0, sc1)
                } else {
                    (signed(scales.add(32 + factors)), signed(scales.add(32 + factors + LANES)))
                };
                let (low, high) = (_mm512_mul_ps(d, low), _mm512_mul_ps(d, high));
                let mut second = ints::<R>(x, zero.map(|z| z.1), shift);
                step(&mut second, w4, x.add(4));
                step(&mut second, w5, x.add(5));
                step(&mut second, w6, x.add(6));
                step(&mut second, w7, x.add(7));
                let sums0 = ints::<R>(x, with_min.then_some(PLANE_HALVES.0), 0);
                let sums1 = ints::<R>(x, with_min.then_some(PLANE_HALVES.1), 0);
                for row in 0..R {
                    let part = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[row]), low);
                    let mut part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second[row]), high, part);
                    if with_min {
                        part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums0[row]), offsets[0], part);
                        part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums1[row]), offsets[1], part);
                    }
                    sums[row] = _mm512_fmadd_ps(part, value::<R>(x, PLANE_SCALE, row), sums[row]);
                }
                continue;
            }
            step(&mut dots, w4, x.add(4));
            step(&mut dots, w5, x.add(5));
            step(&mut dots, w6, x.add(6));
            step(&mut dots, w7, x.add(7));
            let d = match form.scales {
                Scales::Super => _mm512_mul_ps(d, unsigned(scales.add(64 + factors))),
                Scales::Signed => _mm512_mul_ps(d, signed(scales.add(32 + group % SUPER * LANES))),
                _ => d,
            };
            for row in 0..R {
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[row]), value::<R>(x, PLANE_SCALE, row));
                sums[row] = _mm512_fmadd_ps(scaled, d, sums[row]);
            }
            match form.scales {
                Scales::Affine => {
                    let m = halves(scales.add(32));
                    for row in 0..R {
                        sums[row] = _mm512_fmadd_ps(m, value::<R>(x, PLANE_SUM, row), sums[row]);
                    }
                }
                Scales::Super => {
                    let m = _mm512_mul_ps(halves(scales.add(32)), unsigned(scales.add(64 + factors + LANES)));
                    for row in 0..R {
                        sums[row] = _mm512_fnmadd_ps(m, value::<R>(x, PLANE_SUM, row), sums[row]);
                    }
                }
                _ => {}
            }
        }
    }
    for row in 0..R {
        // SAFETY: the caller's result has R rows of 16.
        unsafe { _mm512_storeu_ps(out.add(row).cast(), sums[row]) };
    }
}

/// Two columns of a panel, widened.
///
/// # Safety
/// `p` points to a pair of columns, and the machine has this path.
#[inline(always)]
unsafe fn pair(dtype: Dtype, p: *const u8) -> [__m512; 2] {
    // SAFETY: a pair is 128 bytes of f32, 64 of the 16-bit types or 32 of FP8.
    unsafe {
        match dtype {
            Dtype::F32 => [_mm512_loadu_ps(p.cast()), _mm512_loadu_ps(p.add(64).cast())],
            Dtype::F16 => [halves(p), halves(p.add(32))],
            Dtype::F8Block => {
                // As `checkpoint::blocks::e4m3`: moves the exponent one place down below the sign.
                let both = _mm256_loadu_si256(p.cast());
                let place = _mm256_set1_epi16(0xbf80_u16 as i16);
                let even = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(both, 8), 1), place);
                let odd = _mm256_and_si256(_mm256_srai_epi16(both, 1), place);
                [_mm512_cvtph_ps(even), _mm512_cvtph_ps(odd)]
            }
            _ => {
                let both = _mm512_loadu_si512(p.cast());
                let odd = _mm512_and_si512(both, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                [_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), _mm512_castsi512_ps(odd)]
            }
        }
    }
}

/// A column of P panels against every row.
///
/// # Safety
/// `x` points to R values, and the machine has this path.
#[inline(always)]
unsafe fn column<const R: usize, const P: usize>(sums: &mut [[__m512; P]; R], w: [__m512; P], x: *const f32) {
    for row in 0..R {
        // SAFETY: as the caller says.
        unsafe {
            let x = _mm512_set1_ps(x.add(row).read());
            for p in 0..P {
                sums[row][p] = _mm512_fmadd_ps(w[p], x, sums[row][p]);
            }
        }
    }
}

/// # Safety
/// As [`FloatTile`] with P panels, and the machine has this path.
#[inline(always)]
unsafe fn float<F: Form, const R: usize, const P: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    out: *mut [f32; LANES],
) {
    if const { matches!(F::DTYPE, Dtype::F8Block) } {
        // SAFETY: as the caller says.
        return unsafe { float_blocks::<R, P>(panel, stride, cols, x, out) };
    }
    let bytes = const { 2 * LANES * F::DTYPE.block().1 };
    // SAFETY: the caller's sums are P x R rows of 16, its panels have `cols` columns, padded to
    // pairs, and there are R activations a column.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        for row in 0..R {
            for p in 0..P {
                sums[row][p] = _mm512_loadu_ps(out.add(p * R + row).cast());
            }
        }
        for k in 0..cols.div_ceil(2) {
            let [mut even, mut odd] = [[_mm512_setzero_ps(); P]; 2];
            for p in 0..P {
                [even[p], odd[p]] = pair(F::DTYPE, panel.add(p * stride + k * bytes));
            }
            column(&mut sums, even, x.add(2 * k * R));
            if 2 * k + 1 < cols {
                column(&mut sums, odd, x.add((2 * k + 1) * R));
            }
        }
        for row in 0..R {
            for p in 0..P {
                _mm512_storeu_ps(out.add(p * R + row).cast(), sums[row][p]);
            }
        }
    }
}

/// FP8: a block's products are summed without its scale, which the sum is then multiplied by.
///
/// # Safety
/// As [`FloatTile`] with P panels, and the machine has this path.
#[inline(always)]
unsafe fn float_blocks<const R: usize, const P: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    out: *mut [f32; LANES],
) {
    for block in 0..cols / F8_COLS {
        // SAFETY: the caller's sums are P x R rows of 16, its panels have these blocks, and there
        // are R activations a column.
        unsafe {
            let (codes, x) = (panel.add(block * F8_BLOCK), x.add(block * F8_COLS * R));
            let mut parts = [[_mm512_setzero_ps(); P]; R];
            for k in 0..F8_COLS / 2 {
                let [mut even, mut odd] = [[_mm512_setzero_ps(); P]; 2];
                for p in 0..P {
                    [even[p], odd[p]] = pair(Dtype::F8Block, codes.add(p * stride + k * 2 * LANES));
                }
                column(&mut parts, even, x.add(2 * k * R));
                column(&mut parts, odd, x.add((2 * k + 1) * R));
            }
            for p in 0..P {
                let scale = _mm512_loadu_ps(codes.add(p * stride + F8_CODES).cast());
                for row in 0..R {
                    let sum: *mut f32 = out.add(p * R + row).cast();
                    let part = _mm512_mul_ps(parts[row][p], _mm512_set1_ps(E4M3_UNIT));
                    _mm512_storeu_ps(sum, _mm512_fmadd_ps(part, scale, _mm512_loadu_ps(sum)));
                }
            }
        }
    }
}

/// # Safety
/// As [`FloatTile`] with one panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn float_one<F: Form, const R: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    out: *mut [f32; LANES],
) {
    // SAFETY: as the caller says.
    unsafe { float::<F, R, 1>(panel, stride, cols, x, out) }
}

/// # Safety
/// As [`FloatTile`] with `float_panels(R)` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn float_many<F: Form, const R: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    out: *mut [f32; LANES],
) {
    // SAFETY: as the caller says.
    unsafe {
        if const { float_panels(R) == 4 } {
            float::<F, R, 4>(panel, stride, cols, x, out)
        } else {
            float::<F, R, 2>(panel, stride, cols, x, out)
        }
    }
}
