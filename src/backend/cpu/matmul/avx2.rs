//! AVX2 kernels: a panel as two halves of 8 rows, one after the other.
//!
//! Products of bytes go through `vpmaddubsw`, whose 16-bit sums hold 8 steps of codes up to 4 bits, 4
//! of 5-bit ones and 2 of 6-bit ones. 8-bit codes would overflow, so they meet the activations
//! as sign and magnitude, which takes the zero point away as well. A codebook is one `vpshufb`.

use std::arch::x86_64::*;

use crate::checkpoint::Dtype;
use crate::checkpoint::blocks::E4M3_UNIT;

use super::activations::{self, PLANE_HALVES, PLANE_SCALE, PLANE_SUM, WORDS, zero_planes, zero_shift};
use super::kernel::*;
use super::layout::{F8_BLOCK, F8_CODES, F8_COLS, LANES, STEP, SUPER, Scales};

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

/// [`activations::quantise_rows`] with this path's vectors.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantise_rows(x: &[f32], stride: usize, rows: usize, out: &mut [i32]) {
    activations::quantise_rows(x, stride, rows, out);
}

/// Half a group's codes, one byte each, by step; undoes `layout::pack`.
///
/// # Safety
/// `p` points to the half's first 32 bytes in the group's `bits * 64`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn unpack(bits: usize, p: *const u8) -> [__m256i; 8] {
    // SAFETY: below, `i < bits`.
    let v = |i: usize| unsafe { _mm256_loadu_si256(p.add(i * STEP).cast()) };
    let and = |v: __m256i, byte: i8| _mm256_and_si256(v, _mm256_set1_epi8(byte));
    let or = |a: __m256i, b: __m256i| _mm256_or_si256(a, b);
    match bits {
        2 | 3 => {
            let (a, b) = (v(0), v(1));
            let low = [
                and(a, 3),
                and(b, 3),
                and(_mm256_srli_epi32(a, 2), 3),
                and(_mm256_srli_epi32(b, 2), 3),
                and(_mm256_srli_epi32(a, 4), 3),
                and(_mm256_srli_epi32(b, 4), 3),
                and(_mm256_srli_epi32(a, 6), 3),
                and(_mm256_srli_epi32(b, 6), 3),
            ];
            if bits == 2 {
                return low;
            }
            let third = v(2);
            let joined = |low: __m256i, high: __m256i| or(low, and(high, 4));
            [
                joined(low[0], _mm256_slli_epi32(third, 2)),
                joined(low[1], _mm256_slli_epi32(third, 1)),
                joined(low[2], third),
                joined(low[3], _mm256_srli_epi32(third, 1)),
                joined(low[4], _mm256_srli_epi32(third, 2)),
                joined(low[5], _mm256_srli_epi32(third, 3)),
                joined(low[6], _mm256_srli_epi32(third, 4)),
                joined(low[7], _mm256_srli_epi32(third, 5)),
            ]
        }
        4 => std::array::from_fn(
            |s| {
                if s < 4 { and(v(s), 15) } else { and(_mm256_srli_epi32(v(s - 4), 4), 15) }
            },
        ),
        5 => {
            let joined = |low: __m256i, high: __m256i| or(and(_mm256_srli_epi32(low, 5), 7), and(high, 24));
            let bits34 = or(and(_mm256_srli_epi32(v(1), 2), 8), and(_mm256_srli_epi32(v(3), 1), 16));
            [
                and(v(0), 31),
                and(v(1), 31),
                and(v(2), 31),
                and(v(3), 31),
                and(v(4), 31),
                joined(v(0), _mm256_srli_epi32(v(1), 3)),
                joined(v(2), _mm256_srli_epi32(v(3), 3)),
                joined(v(4), bits34),
            ]
        }
        6 => std::array::from_fn(|s| {
            if s < 6 {
                return and(v(s), 63);
            }
            let first = (s - 6) * 3;
            let low = and(_mm256_srli_epi32(v(first), 6), 3);
            let middle = and(_mm256_srli_epi32(v(first + 1), 4), 12);
            or(or(low, middle), and(_mm256_srli_epi32(v(first + 2), 2), 48))
        }),
        _ => std::array::from_fn(v),
    }
}

/// # Safety
/// 16 readable bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn halves(p: *const u8) -> __m256 {
    // SAFETY: as the caller says.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p.cast()) })
}

/// # Safety
/// 8 readable bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn unsigned(p: *const u8) -> __m256 {
    // SAFETY: as the caller says.
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(p.cast()) }))
}

/// # Safety
/// 8 readable bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn signed(p: *const u8) -> __m256 {
    // SAFETY: as the caller says.
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(p.cast()) }))
}

/// MXFP4's scales, see `checkpoint::blocks::e8m0_half`.
///
/// # Safety
/// 8 readable bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn exponents(p: *const u8) -> __m256 {
    // SAFETY: as the caller says.
    let v = _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(p.cast()) });
    let one = _mm256_set1_epi32(1);
    let normal = _mm256_slli_epi32(_mm256_sub_epi32(v, one), 23);
    _mm256_castsi256_ps(_mm256_max_epi32(normal, _mm256_slli_epi32(_mm256_add_epi32(v, one), 21)))
}

/// The low and the high 4 bits of 8 bytes.
///
/// # Safety
/// 8 readable bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn nibbles(p: *const u8) -> (__m256, __m256) {
    // SAFETY: as the caller says.
    let v = _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(p.cast()) });
    (
        _mm256_cvtepi32_ps(_mm256_and_si256(v, _mm256_set1_epi32(15))),
        _mm256_cvtepi32_ps(_mm256_srli_epi32(v, 4)),
    )
}

/// start + codes times activations over some steps, as 32-bit sums.
///
/// # Safety
/// `x` points to as many words as there are codes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn dot(bits: usize, codes: &[__m256i], x: *const i32, start: i32) -> __m256i {
    let chain = match bits {
        2..=4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    };
    // With 8-bit codes the products below are of code - 128 already.
    let mut sum = if bits == 8 { _mm256_setzero_si256() } else { _mm256_set1_epi32(start) };
    for (chunk, codes) in codes.chunks(chain).enumerate() {
        let mut short = _mm256_setzero_si256();
        for (i, codes) in codes.iter().enumerate() {
            // SAFETY: the caller has a word for each of the codes.
            let x = _mm256_set1_epi32(unsafe { x.add(chunk * chain + i).read() });
            let products = if bits == 8 {
                let signed = _mm256_xor_si256(*codes, _mm256_set1_epi8(-128));
                _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed))
            } else {
                _mm256_maddubs_epi16(*codes, x)
            };
            short = _mm256_add_epi16(short, products);
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(short, _mm256_set1_epi16(1)));
    }
    sum
}

/// # Safety
/// As [`QuantTile`]: a panel of `groups` groups of type F, and as many records of R rows.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quant<F: Form, const R: usize>(
    codes: *const u8,
    scales: *const u8,
    groups: usize,
    x: *const i32,
    out: *mut [f32; LANES],
) {
    // SAFETY: as the caller says.
    unsafe {
        quant_half::<F, R>(codes, scales, groups, x, out, 0);
        quant_half::<F, R>(codes, scales, groups, x, out, 8);
    }
}

/// The panel's 8 rows from `lane` on.
///
/// # Safety
/// As [`quant`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn quant_half<F: Form, const R: usize>(
    codes: *const u8,
    scales: *const u8,
    groups: usize,
    x: *const i32,
    out: *mut [f32; LANES],
    lane: usize,
) {
    let form = const { F::QUANT };
    let (record, covers) = form.scales.record();
    let mut sums = [_mm256_setzero_ps(); R];
    for group in 0..groups {
        // SAFETY: every read below is inside this group's codes, its scale record or its
        // activation record, of which the caller has `groups`.
        unsafe {
            let mut w = unpack(form.bits, codes.add(group * form.code_bytes() + lane * 4));
            if let Some(table) = const { F::QUANT.table } {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                for codes in &mut w {
                    *codes = _mm256_shuffle_epi8(table, *codes);
                }
            }
            let scales = scales.add(group / covers * record);
            let factors = group % SUPER * 2 * LANES + lane;
            let x = x.add(group * R * WORDS);
            let plane = |index: usize, row: usize| x.add(R * 8 + index * R + row);
            let value = |index: usize, row: usize| _mm256_set1_ps(plane(index, row).cast::<f32>().read());
            let zero = const { zero_planes(F::QUANT.zero) };
            let shift = const { zero_shift(F::QUANT.zero) };
            let start = |row: usize, second: bool| {
                zero.map_or(0, |(a, b)| plane(if second { b } else { a }, row).read() >> shift)
            };
            let whole =
                |row: usize| _mm256_cvtepi32_ps(dot(form.width(), &w, x.add(row * 8), start(row, false)));
            match form.scales {
                Scales::Plain | Scales::Signed | Scales::Exponents => {
                    let d = match form.scales {
                        Scales::Exponents => exponents(scales.add(lane)),
                        Scales::Signed => {
                            let sc = signed(scales.add(32 + group % SUPER * LANES + lane));
                            _mm256_mul_ps(halves(scales.add(lane * 2)), sc)
                        }
                        _ => halves(scales.add(lane * 2)),
                    };
                    for (row, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm256_fmadd_ps(_mm256_mul_ps(whole(row), value(PLANE_SCALE, row)), d, *sum);
                    }
                }
                Scales::Affine | Scales::Super => {
                    let (mut d, mut m) = (halves(scales.add(lane * 2)), halves(scales.add(32 + lane * 2)));
                    if form.scales == Scales::Super {
                        d = _mm256_mul_ps(d, unsigned(scales.add(64 + factors)));
                        m = _mm256_mul_ps(m, unsigned(scales.add(64 + factors + LANES)));
                    }
                    for (row, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm256_fmadd_ps(_mm256_mul_ps(whole(row), value(PLANE_SCALE, row)), d, *sum);
                        *sum = if form.scales == Scales::Super {
                            _mm256_fnmadd_ps(m, value(PLANE_SUM, row), *sum)
                        } else {
                            _mm256_fmadd_ps(m, value(PLANE_SUM, row), *sum)
                        };
                    }
                }
                Scales::Halves | Scales::HalvesMin => {
                    let with_min = form.scales == Scales::HalvesMin;
                    let d = halves(scales.add(lane * 2));
                    let mut offsets = [_mm256_setzero_ps(); 2];
                    let (low, high) = if with_min {
                        let dmin =
                            _mm256_mul_ps(halves(scales.add(32 + lane * 2)), _mm256_set1_ps(1.0 / 32.0));
                        let [(sc0, m0), (sc1, m1)] =
                            [nibbles(scales.add(64 + factors)), nibbles(scales.add(64 + factors + LANES))];
                        offsets = [_mm256_mul_ps(dmin, m0), _mm256_mul_ps(dmin, m1)];
                        (sc0, sc1)
                    } else {
                        (signed(scales.add(32 + factors)), signed(scales.add(32 + factors + LANES)))
                    };
                    let (low, high) = (_mm256_mul_ps(d, low), _mm256_mul_ps(d, high));
                    let half_sum = |index: usize, row: usize| {
                        _mm256_cvtepi32_ps(_mm256_set1_epi32(plane(index, row).read()))
                    };
                    for (row, sum) in sums.iter_mut().enumerate() {
                        let first = dot(form.bits, &w[..4], x.add(row * 8), start(row, false));
                        let second = dot(form.bits, &w[4..], x.add(row * 8 + 4), start(row, true));
                        let part = _mm256_mul_ps(_mm256_cvtepi32_ps(first), low);
                        let mut part = _mm256_fmadd_ps(_mm256_cvtepi32_ps(second), high, part);
                        if with_min {
                            part = _mm256_fmadd_ps(half_sum(PLANE_HALVES.0, row), offsets[0], part);
                            part = _mm256_fmadd_ps(half_sum(PLANE_HALVES.1, row), offsets[1], part);
                        }
                        *sum = _mm256_fmadd_ps(part, value(PLANE_SCALE, row), *sum);
                    }
                }
            }
        }
    }
    for (row, sum) in sums.iter().enumerate() {
        // SAFETY: the caller's result has R rows of 16.
        unsafe { _mm256_storeu_ps(out.add(row).cast::<f32>().add(lane), *sum) };
    }
}

/// Two columns of 8 rows, widened.
///
/// # Safety
/// `p` points to a pair of columns of a panel, `lane` is 0 or 8.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn pair(dtype: Dtype, p: *const u8, lane: usize) -> [__m256; 2] {
    // SAFETY: a pair is 128 bytes of f32, 64 of the 16-bit types or 32 of FP8.
    unsafe {
        match dtype {
            Dtype::F32 => {
                [_mm256_loadu_ps(p.add(lane * 4).cast()), _mm256_loadu_ps(p.add(64 + lane * 4).cast())]
            }
            Dtype::F16 => [halves(p.add(lane * 2)), halves(p.add(32 + lane * 2))],
            Dtype::F8Block => {
                // As `checkpoint::blocks::e4m3`: moves the exponent one place down below the sign.
                let both = _mm_loadu_si128(p.add(lane * 2).cast());
                let half = |v: __m128i| {
                    _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(v, 1), _mm_set1_epi16(0xbf80_u16 as i16)))
                };
                [half(_mm_slli_epi16(both, 8)), half(both)]
            }
            _ => {
                let both = _mm256_loadu_si256(p.add(lane * 4).cast());
                let odd = _mm256_and_si256(both, _mm256_set1_epi32(0xffff_0000_u32 as i32));
                [_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)), _mm256_castsi256_ps(odd)]
            }
        }
    }
}

/// 8 rows of P panels, from `lane` on.
///
/// # Safety
/// As [`FloatTile`] with P panels.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn float<F: Form, const R: usize, const P: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    out: *mut [f32; LANES],
    lane: usize,
) {
    if const { matches!(F::DTYPE, Dtype::F8Block) } {
        // SAFETY: as the caller says.
        return unsafe { float_blocks::<R, P>(panel, stride, cols, x, out, lane) };
    }
    let bytes = const { 2 * LANES * F::DTYPE.block().1 };
    // SAFETY: the caller's sums are P x R rows of 16.
    let at = |p: usize, row: usize| unsafe { out.add(p * R + row).cast::<f32>().add(lane) };
    let mut sums: [[__m256; P]; R] =
        // SAFETY: as above.
        std::array::from_fn(|row| std::array::from_fn(|p| unsafe { _mm256_loadu_ps(at(p, row)) }));
    for k in (0..cols).step_by(2) {
        // SAFETY: P panels of `cols` columns, padded to pairs, and as many columns of activations.
        unsafe {
            let mut w = [[_mm256_setzero_ps(); 2]; P];
            for (p, w) in w.iter_mut().enumerate() {
                *w = pair(F::DTYPE, panel.add(p * stride + k / 2 * bytes), lane);
            }
            for odd in 0..2.min(cols - k) {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(x.add((k + odd) * R + row).read());
                    for (sum, w) in sums.iter_mut().zip(&w) {
                        *sum = _mm256_fmadd_ps(w[odd], x, *sum);
                    }
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (p, sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(at(p, row), *sum) };
        }
    }
}

/// FP8: a block's products are summed without its scale, which the sum is then multiplied by.
///
/// # Safety
/// As [`float`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn float_blocks<const R: usize, const P: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    out: *mut [f32; LANES],
    lane: usize,
) {
    for block in 0..cols / F8_COLS {
        // SAFETY: the caller's sums are P x R rows of 16, its panels have these blocks, and there
        // are R activations a column.
        unsafe {
            let (codes, x) = (panel.add(block * F8_BLOCK), x.add(block * F8_COLS * R));
            let mut parts = [[_mm256_setzero_ps(); P]; R];
            for k in 0..F8_COLS / 2 {
                let mut w = [[_mm256_setzero_ps(); 2]; P];
                for (p, w) in w.iter_mut().enumerate() {
                    *w = pair(Dtype::F8Block, codes.add(p * stride + k * 2 * LANES), lane);
                }
                for odd in 0..2 {
                    for (row, parts) in parts.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(x.add((2 * k + odd) * R + row).read());
                        for (part, w) in parts.iter_mut().zip(&w) {
                            *part = _mm256_fmadd_ps(w[odd], x, *part);
                        }
                    }
                }
            }
            for p in 0..P {
                let scale = _mm256_loadu_ps(codes.add(p * stride + F8_CODES + lane * 4).cast());
                for (row, parts) in parts.iter().enumerate() {
                    let sum = out.add(p * R + row).cast::<f32>().add(lane);
                    let part = _mm256_mul_ps(parts[p], _mm256_set1_ps(E4M3_UNIT));
                    _mm256_storeu_ps(sum, _mm256_fmadd_ps(part, scale, _mm256_loadu_ps(sum)));
                }
            }
        }
    }
}

/// # Safety
/// As [`FloatTile`] with one panel.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_one<F: Form, const R: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    out: *mut [f32; LANES],
) {
    // SAFETY: as the caller says.
    unsafe {
        float::<F, R, 1>(panel, stride, cols, x, out, 0);
        float::<F, R, 1>(panel, stride, cols, x, out, 8);
    }
}

/// # Safety
/// As [`FloatTile`] with `float_panels(R)` panels.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_many<F: Form, const R: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    out: *mut [f32; LANES],
) {
    // SAFETY: as the caller says.
    unsafe {
        for lane in [0, 8] {
            if const { float_panels(R) == 4 } {
                float::<F, R, 4>(panel, stride, cols, x, out, lane);
            } else {
                // More sums than these would not fit 16 registers.
                float::<F, R, 1>(panel, stride, cols, x, out, lane);
                float::<F, R, 1>(panel.add(stride), stride, cols, x, out.add(R), lane);
            }
        }
    }
}
