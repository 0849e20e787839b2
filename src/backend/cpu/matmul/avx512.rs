//! AVX-512 kernels: a vector holds the 16 rows of a panel.
//!
//! Quantised: a group's codes are widened once to eight vectors of bytes and meet every row of
//! the tile: eight `vpdpbusd` with the activations broadcast from memory, then scale and add.
//! Float: up to 16 sums in registers, two columns at a time.

use std::arch::x86_64::*;

use crate::checkpoint::Dtype;

use super::activations::{self, PLANE_SCALE, PLANE_SUM, WORDS, zero_planes};
use super::kernel::*;
use super::layout::{LANES, STEP, SUPER, Scales};

/// See [`QuantTile`].
pub(super) fn quant_tile(dtype: Dtype, rows: usize) -> QuantTile {
    instances!(dtype, rows, quant, [Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4K, Q5K, Q6K])
}

/// See [`FloatTile`].
pub(super) fn float_tile(dtype: Dtype, rows: usize, single: bool) -> FloatTile {
    if single {
        instances!(dtype, rows, float_one, [F32, F16, BF16])
    } else {
        instances!(dtype, rows, float_many, [F32, F16, BF16])
    }
}

/// [`activations::quantise_rows`] with this path's vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn quantise_rows(x: &[f32], stride: usize, rows: usize, out: &mut [i32]) {
    activations::quantise_rows(x, stride, rows, out);
}

/// A group's codes, one byte each, by step; undoes `layout::pack`.
///
/// # Safety
/// `p` points to the group's `BITS * 64` bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn unpack(bits: usize, p: *const u8) -> [__m512i; 8] {
    /// mask ? a : b, bit by bit.
    const SELECT: i32 = 0xca;
    // SAFETY: below, `i < bits`.
    let v = |i: usize| unsafe { _mm512_loadu_si512(p.add(i * STEP).cast()) };
    let m = |byte: i8| _mm512_set1_epi8(byte);
    match bits {
        4 => {
            let low = [v(0), v(1), v(2), v(3)];
            std::array::from_fn(|s| {
                let nibbles = if s < 4 { low[s] } else { _mm512_srli_epi32(low[s - 4], 4) };
                _mm512_and_si512(nibbles, m(15))
            })
        }
        5 => {
            let w = [v(0), v(1), v(2), v(3), v(4)];
            let joined = |low: __m512i, high: __m512i| {
                let both = _mm512_ternarylogic_epi32(m(7), _mm512_srli_epi32(low, 5), high, SELECT);
                _mm512_and_si512(both, m(31))
            };
            let bit3 = _mm512_srli_epi32(w[1], 2);
            let bit4 = _mm512_srli_epi32(w[3], 1);
            let [c0, c1, c2, c3, c4] = w.map(|w| _mm512_and_si512(w, m(31)));
            [
                c0,
                c1,
                c2,
                c3,
                c4,
                joined(w[0], _mm512_srli_epi32(w[1], 3)),
                joined(w[2], _mm512_srli_epi32(w[3], 3)),
                joined(w[4], _mm512_ternarylogic_epi32(m(8), bit3, bit4, SELECT)),
            ]
        }
        6 => {
            let w = [v(0), v(1), v(2), v(3), v(4), v(5)];
            let joined = |a: __m512i, b: __m512i, c: __m512i| {
                let (a, b, c) = (_mm512_srli_epi32(a, 6), _mm512_srli_epi32(b, 4), _mm512_srli_epi32(c, 2));
                let ab = _mm512_ternarylogic_epi32(m(3), a, b, SELECT);
                _mm512_and_si512(_mm512_ternarylogic_epi32(m(15), ab, c, SELECT), m(63))
            };
            let [c0, c1, c2, c3, c4, c5] = w.map(|w| _mm512_and_si512(w, m(63)));
            [c0, c1, c2, c3, c4, c5, joined(w[0], w[1], w[2]), joined(w[3], w[4], w[5])]
        }
        _ => std::array::from_fn(v),
    }
}

/// # Safety
/// 32 readable bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn halves(p: *const u8) -> __m512 {
    // SAFETY: as the caller says.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(p.cast()) })
}

/// # Safety
/// 16 readable bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn unsigned(p: *const u8) -> __m512 {
    // SAFETY: as the caller says.
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(p.cast()) }))
}

/// # Safety
/// 16 readable bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn signed(p: *const u8) -> __m512 {
    // SAFETY: as the caller says.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(p.cast()) }))
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
    let (record, covers) = form.scales.record();
    let mut sums = [_mm512_setzero_ps(); R];
    for group in 0..groups {
        // SAFETY: every read below is inside this group's codes, its scale record or its
        // activation record, of which the caller has `groups`.
        unsafe {
            let w = unpack(form.bits, codes.add(group * form.code_bytes()));
            let scales = scales.add(group / covers * record);
            let factors = group % SUPER * 2 * LANES;
            let x = x.add(group * R * WORDS);
            let plane = |index: usize, row: usize| x.add(R * 8 + index * R + row);
            let value = |index: usize, row: usize| _mm512_set1_ps(plane(index, row).cast::<f32>().read());
            let dot = |row: usize, from: usize, to: usize, zero: Option<usize>| {
                let mut dot = match zero {
                    Some(zero) => _mm512_set1_epi32(plane(zero, row).read()),
                    None => _mm512_setzero_si512(),
                };
                for (step, w) in w.iter().enumerate().take(to).skip(from) {
                    dot = _mm512_dpbusd_epi32(dot, *w, _mm512_set1_epi32(x.add(row * 8 + step).read()));
                }
                _mm512_cvtepi32_ps(dot)
            };
            let zero = const { zero_planes(F::QUANT.zero) };
            match form.scales {
                Scales::Plain => {
                    let d = halves(scales);
                    for (row, sum) in sums.iter_mut().enumerate() {
                        let scaled =
                            _mm512_mul_ps(dot(row, 0, 8, zero.map(|z| z.0)), value(PLANE_SCALE, row));
                        *sum = _mm512_fmadd_ps(scaled, d, *sum);
                    }
                }
                Scales::Affine | Scales::Super => {
                    let (mut d, mut m) = (halves(scales), halves(scales.add(32)));
                    if form.scales == Scales::Super {
                        d = _mm512_mul_ps(d, unsigned(scales.add(64 + factors)));
                        m = _mm512_mul_ps(m, unsigned(scales.add(64 + factors + LANES)));
                    }
                    for (row, sum) in sums.iter_mut().enumerate() {
                        let scaled = _mm512_mul_ps(dot(row, 0, 8, None), value(PLANE_SCALE, row));
                        *sum = _mm512_fmadd_ps(scaled, d, *sum);
                        *sum = if form.scales == Scales::Super {
                            _mm512_fnmadd_ps(m, value(PLANE_SUM, row), *sum)
                        } else {
                            _mm512_fmadd_ps(m, value(PLANE_SUM, row), *sum)
                        };
                    }
                }
                Scales::Halves => {
                    let d = halves(scales);
                    let low = _mm512_mul_ps(d, signed(scales.add(32 + factors)));
                    let high = _mm512_mul_ps(d, signed(scales.add(32 + factors + LANES)));
                    for (row, sum) in sums.iter_mut().enumerate() {
                        let part = _mm512_mul_ps(dot(row, 0, 4, zero.map(|z| z.0)), low);
                        let part = _mm512_fmadd_ps(dot(row, 4, 8, zero.map(|z| z.1)), high, part);
                        *sum = _mm512_fmadd_ps(part, value(PLANE_SCALE, row), *sum);
                    }
                }
            }
        }
    }
    for (row, sum) in sums.iter().enumerate() {
        // SAFETY: the caller's result has R rows of 16.
        unsafe { _mm512_storeu_ps(out.add(row).cast(), *sum) };
    }
}

/// Two columns of a panel, widened.
///
/// # Safety
/// `p` points to a pair of columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn pair(dtype: Dtype, p: *const u8) -> [__m512; 2] {
    // SAFETY: a pair is 128 bytes of f32 or 64 of the 16-bit types.
    unsafe {
        match dtype {
            Dtype::F32 => [_mm512_loadu_ps(p.cast()), _mm512_loadu_ps(p.add(64).cast())],
            Dtype::F16 => [halves(p), halves(p.add(32))],
            _ => {
                let both = _mm512_loadu_si512(p.cast());
                let odd = _mm512_and_si512(both, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                [_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), _mm512_castsi512_ps(odd)]
            }
        }
    }
}

/// # Safety
/// As [`FloatTile`] with P panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn float<F: Form, const R: usize, const P: usize>(
    panel: *const u8,
    stride: usize,
    cols: usize,
    x: *const f32,
    out: *mut [f32; LANES],
) {
    let bytes = const { 2 * LANES * F::DTYPE.block().1 };
    // SAFETY: the caller's sums are P x R rows of 16.
    let at = |p: usize, row: usize| unsafe { out.add(p * R + row).cast::<f32>() };
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    for (row, sums) in sums.iter_mut().enumerate() {
        for (p, sum) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            *sum = unsafe { _mm512_loadu_ps(at(p, row)) };
        }
    }
    let columns = |index: usize| {
        let mut w = [[_mm512_setzero_ps(); 2]; P];
        for (p, w) in w.iter_mut().enumerate() {
            // SAFETY: P panels of `cols` columns, padded to pairs.
            *w = unsafe { pair(F::DTYPE, panel.add(p * stride + index * bytes)) };
        }
        w
    };
    let add = |sums: &mut [[__m512; P]; R], w: &[[__m512; 2]; P], column: usize| {
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller has `cols` columns of R activations.
            let x = _mm512_set1_ps(unsafe { x.add(column * R + row).read() });
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = _mm512_fmadd_ps(w[column % 2], x, *sum);
            }
        }
    };
    for k in 0..cols / 2 {
        let w = columns(k);
        add(&mut sums, &w, 2 * k);
        add(&mut sums, &w, 2 * k + 1);
    }
    if cols % 2 == 1 {
        add(&mut sums, &columns(cols / 2), cols - 1);
    }
    for (row, sums) in sums.iter().enumerate() {
        for (p, sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(at(p, row), *sum) };
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
