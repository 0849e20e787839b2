//! ggml's quantised blocks (ggml-common.h: `block_q4_0` and so on), a row's group of 32 columns at
//! a time: unsigned codes and scales as they are stored, and the values that they stand for; and
//! FP8's e4m3 and MXFP4's exponents.
//!
//! Invariants: codes and scales lose nothing; values are computed as ggml's `dequantize_row_*`
//! does, in f32. Deliberately absent: quantisation.

use super::Dtype;
use half::f16;

/// Columns in a group.
pub const GROUP: usize = 32;
/// Groups in a K type's block of 256.
pub const SUPER: usize = 8;

/// A group of one row. Which of the scales mean something depends on the type.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// 2 to 6 or 8 bits each. Those of a type with a [`codebook`] are indices into it.
    pub codes: [u8; GROUP],
    /// f16 bits; of MXFP4, a scale's E8M0 code.
    pub d: u16,
    /// f16 bits of m or dmin.
    pub m: u16,
    /// Factors of d: (sc, m), or the two halves' signed sc, or their pairs of 4 bits (sc, m), or one
    /// signed sc.
    pub factors: [u8; 2],
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Group `group` of a row of blocks of a quantised ggml type.
pub fn read(dtype: Dtype, row: &[u8], group: usize) -> Group {
    let (values, bytes) = dtype.block();
    let per_block = values / GROUP;
    let block = &row[group / per_block * bytes..][..bytes];
    let sub = group % per_block;
    let mut g = Group { d: u16_at(block, 0), ..Group::default() };
    match dtype {
        Dtype::Q8_0 => {
            for (code, q) in g.codes.iter_mut().zip(&block[2..]) {
                *code = q ^ 0x80;
            }
        }
        Dtype::Q4_0 => nibbles(&mut g.codes, &block[2..]),
        Dtype::Q4_1 => {
            g.m = u16_at(block, 2);
            nibbles(&mut g.codes, &block[4..]);
        }
        Dtype::Q5_0 => {
            nibbles(&mut g.codes, &block[6..]);
            fifth_bits(&mut g.codes, &block[2..6]);
        }
        Dtype::Q5_1 => {
            g.m = u16_at(block, 2);
            nibbles(&mut g.codes, &block[8..]);
            fifth_bits(&mut g.codes, &block[4..8]);
        }
        Dtype::Q4K | Dtype::Q5K => {
            g.m = u16_at(block, 2);
            g.factors = scale_min(&block[4..16], sub);
            let qs = if dtype == Dtype::Q4K { &block[16..] } else { &block[48..] };
            let qs = &qs[sub / 2 * GROUP..][..GROUP];
            for (code, q) in g.codes.iter_mut().zip(qs) {
                *code = q >> (sub % 2 * 4) & 15;
            }
            if dtype == Dtype::Q5K {
                for (code, qh) in g.codes.iter_mut().zip(&block[16..48]) {
                    *code |= (qh >> sub & 1) << 4;
                }
            }
        }
        Dtype::Q6K => {
            g.d = u16_at(block, 208);
            let (half, quarter) = (sub / 4, sub % 4);
            let low = &block[half * 64 + quarter % 2 * 32..][..GROUP];
            let high = &block[128 + half * 32..][..GROUP];
            for (code, (low, high)) in g.codes.iter_mut().zip(low.iter().zip(high)) {
                *code = low >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
            }
            g.factors = [block[192 + sub * 2], block[193 + sub * 2]];
        }
        Dtype::Q2K => {
            (g.d, g.m) = (u16_at(block, 80), u16_at(block, 82));
            two_bits(&mut g.codes, &block[16..80], sub);
            g.factors = [block[sub * 2], block[sub * 2 + 1]];
        }
        Dtype::Q3K => {
            g.d = u16_at(block, 108);
            two_bits(&mut g.codes, &block[32..96], sub);
            for (code, high) in g.codes.iter_mut().zip(&block[..32]) {
                *code |= (high >> sub & 1) << 2;
            }
            g.factors = [0, 1].map(|half| scale_q3(&block[96..108], sub * 2 + half));
        }
        Dtype::IQ4NL => nibbles(&mut g.codes, &block[2..]),
        Dtype::IQ4XS => {
            nibbles(&mut g.codes, &block[8 + sub * 16..]);
            // 6 bits less 32, as a signed byte: the low 4 bits, and the high 2.
            let low = block[4 + sub / 2] >> (sub % 2 * 4) & 15;
            let high = (u16_at(block, 2) >> (sub * 2) & 3) as u8;
            g.factors[0] = (low | high << 4).wrapping_sub(32);
        }
        Dtype::MXFP4 => {
            g.d = u16::from(block[0]);
            nibbles(&mut g.codes, &block[1..]);
        }
        _ => unreachable!("not a type of quantised blocks"),
    }
    g
}

impl Group {
    /// The values of a group of that quantised ggml type.
    pub fn values(&self, dtype: Dtype) -> [f32; GROUP] {
        let (d, zero, offset) = self.halves(dtype);
        let codebook = codebook(dtype);
        std::array::from_fn(|k| {
            let half = k / (GROUP / 2);
            let code = self.codes[k];
            let value = codebook.map_or(i32::from(code) - zero, |values| values[code as usize].into());
            d[half] * value as f32 + offset[half]
        })
    }

    /// What it multiplies the codes of each half by.
    pub fn scales(&self, dtype: Dtype) -> [f32; 2] {
        self.halves(dtype).0
    }

    /// Of each half: w = d * (code - zero) + offset.
    fn halves(&self, dtype: Dtype) -> ([f32; 2], i32, [f32; 2]) {
        let (d, m) = (f16::from_bits(self.d).to_f32(), f16::from_bits(self.m).to_f32());
        let f = self.factors;
        match dtype {
            Dtype::Q8_0 => ([d; 2], 128, [0.0; 2]),
            Dtype::Q4_0 => ([d; 2], 8, [0.0; 2]),
            Dtype::Q5_0 => ([d; 2], 16, [0.0; 2]),
            Dtype::Q4_1 | Dtype::Q5_1 => ([d; 2], 0, [m; 2]),
            Dtype::Q4K | Dtype::Q5K => ([d * f32::from(f[0]); 2], 0, [-(m * f32::from(f[1])); 2]),
            Dtype::Q6K => (f.map(|sc| d * f32::from(sc as i8)), 32, [0.0; 2]),
            Dtype::Q3K => (f.map(|sc| d * f32::from(sc as i8)), 4, [0.0; 2]),
            Dtype::Q2K => (f.map(|sc| d * f32::from(sc & 15)), 0, f.map(|both| -(m * f32::from(both >> 4)))),
            Dtype::IQ4NL => ([d; 2], 0, [0.0; 2]),
            Dtype::IQ4XS => ([d * f32::from(f[0] as i8); 2], 0, [0.0; 2]),
            Dtype::MXFP4 => ([e8m0_half(self.d as u8); 2], 0, [0.0; 2]),
            _ => unreachable!("not a type of quantised blocks"),
        }
    }
}

/// What a type's 4-bit codes stand for where that is no even spacing: ggml's `kvalues_iq4nl`, and its
/// `kvalues_mxfp4`, which are FP4's (e2m1) doubled.
pub const fn codebook(dtype: Dtype) -> Option<[i8; 16]> {
    match dtype {
        Dtype::IQ4NL | Dtype::IQ4XS => {
            Some([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
        }
        Dtype::MXFP4 => Some([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]),
        _ => None,
    }
}

/// Half of what an E8M0 code (OCP microscaling formats specification, 1.0) stands for, 2^(code - 128):
/// the other half of doubled codes. Below 2 that is subnormal. NaN's code, which no served weight has,
/// gives 2^127.
#[inline(always)]
pub fn e8m0_half(code: u8) -> f32 {
    let code = i32::from(code);
    f32::from_bits(((code - 1) << 23).max((code + 1) << 21) as u32)
}

/// Where a weight is NaN, for an error.
pub fn nan_at(row: usize, k: usize) -> String {
    format!("row {row}, column {k} is NaN, which no weight may be")
}

/// Row and column of the first NaN in rows of FP8 or MXFP4 blocks.
pub fn find_nan(dtype: Dtype, stored: &[u8], cols: usize) -> Option<(usize, usize)> {
    let (values, bytes) = dtype.block();
    let found = stored.chunks_exact(bytes).enumerate().find_map(|(block, bytes)| {
        let k = match dtype {
            Dtype::F8Block => bytes[4..].iter().position(|code| e4m3_is_nan(*code))?,
            Dtype::MXFP4 if bytes[0] == 0xff => 0,
            _ => return None,
        };
        Some(block * values + k)
    });
    found.map(|at| (at / cols, at % cols))
}

fn nibbles(codes: &mut [u8; GROUP], qs: &[u8]) {
    for j in 0..16 {
        codes[j] = qs[j] & 15;
        codes[j + 16] = qs[j] >> 4;
    }
}

/// Group `sub` of 256 codes of 2 bits: a byte holds column k of four groups in a row.
fn two_bits(codes: &mut [u8; GROUP], qs: &[u8], sub: usize) {
    for (code, q) in codes.iter_mut().zip(&qs[sub / 4 * GROUP..]) {
        *code = q >> (sub % 4 * 2) & 3;
    }
}

fn fifth_bits(codes: &mut [u8; GROUP], qh: &[u8]) {
    for (j, code) in codes.iter_mut().enumerate() {
        *code |= (qh[j / 8] >> (j % 8) & 1) << 4;
    }
}

/// ggml's `get_scale_min_k4`: eight pairs of 6 bits in 12 bytes.
fn scale_min(q: &[u8], j: usize) -> [u8; 2] {
    debug_assert!(j < SUPER);
    if j < 4 {
        [q[j] & 63, q[j + 4] & 63]
    } else {
        [q[j + 4] & 15 | q[j - 4] >> 6 << 4, q[j + 4] >> 4 | q[j] >> 6 << 4]
    }
}

/// Scale `j` of Q3_K's sixteen, which are 6 bits less 32, as a signed byte: the low 4 bits are in
/// bytes 0..8, the high 2 in bytes 8..12.
fn scale_q3(q: &[u8], j: usize) -> u8 {
    let low = q[j % 8] >> (j / 8 * 4) & 15;
    let high = q[8 + j % 4] >> (j / 4 * 2) & 3;
    (low | high << 4).wrapping_sub(32)
}

/// What [`e4m3`] leaves to be multiplied by.
pub const E4M3_UNIT: f32 = 256.0;

/// An FP8 e4m3fn code (OCP 8-bit floating point specification, 1.0) / 256, exactly: its fields at
/// the places of an f16's, whose exponent has a bias of 15 in place of 7. Subnormals come out right
/// too. NaN's two codes do not, see [`e4m3_is_nan`].
#[inline(always)]
pub fn e4m3(code: u8) -> f16 {
    f16::from_bits(u16::from(code & 0x80) << 8 | u16::from(code & 0x7f) << 7)
}

/// e4m3fn has no infinities: all exponent and mantissa bits set are NaN.
pub fn e4m3_is_nan(code: u8) -> bool {
    code & 0x7f == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn bytes(hex: &Value) -> Vec<u8> {
        let hex = hex.as_str().expect("hexadecimal digits").as_bytes();
        let digit = |digit: u8| (digit as char).to_digit(16).expect("a hexadecimal digit") as u8;
        hex.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    /// The gguf package's values of random blocks, to the bit (`scripts/goldens_gguf.py --blocks`).
    #[test]
    fn blocks_of_iq4_nl_iq4_xs_and_mxfp4_are_what_gguf_makes_of_them() {
        let golden: Value =
            serde_json::from_str(include_str!("../../tests/goldens/gguf_blocks.json")).expect("JSON");
        for dtype in [Dtype::IQ4NL, Dtype::IQ4XS, Dtype::MXFP4] {
            let case = &golden["types"][dtype.name()];
            let stored = bytes(&case["blocks"]);
            let expected: Vec<f32> =
                bytes(&case["values"]).as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
            let (values, size) = dtype.block();
            assert_eq!(stored.len() / size * values, expected.len(), "{dtype:?}");
            for (group, expected) in expected.chunks_exact(GROUP).enumerate() {
                let found = read(dtype, &stored, group).values(dtype);
                assert_eq!(found[..], *expected, "{dtype:?}, group {group}");
            }
        }
    }

    #[test]
    fn e8m0_codes_are_powers_of_two() {
        for code in 0..255u8 {
            assert_eq!(f64::from(e8m0_half(code)), 2f64.powi(i32::from(code) - 128), "{code}");
        }
    }
}
