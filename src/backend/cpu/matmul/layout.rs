//! The served form of a weight matrix: panels of 16 output rows, interleaved so that one
//! 512-bit vector holds the same few columns of all 16 rows.
//!
//! Float types: per pair of columns, `[2][16]` values (bf16: `[16][2]`, so that a 32-bit lane
//! holds a row's pair and widening is a shift or a mask). An odd last column is padded. FP8 in
//! blocks of 128 columns takes per block 64 pairs `[16][2]` of bytes, then the 16 rows' f32 scales.
//!
//! Quantised types: a panel is its codes, then its scales. Codes are unsigned, in groups of 32
//! columns; a group is eight *steps* of 4 columns x 16 rows (64 bytes each, the shape of one
//! `vpdpbusd`), packed to [`Quant::bits`] vectors of 64 bytes, see [`pack`]. Scales stay as
//! stored (f16, and for the K types and IQ4_XS the 6-bit or 8-bit factors as bytes, Q2_K's pairs of 4
//! bits and MXFP4's exponents as they are), so that a served weight is exactly the stored one and its
//! size within 4% of it. Kernels look codes of types with a codebook up before they multiply.

pub(super) use crate::checkpoint::blocks::{GROUP, SUPER};
use crate::checkpoint::{Dtype, blocks};

/// Rows in a panel.
pub(super) const LANES: usize = 16;
/// Bytes of a step: 4 columns of 16 rows, one byte each.
pub(super) const STEP: usize = 64;
/// Columns that share a scale in FP8 blocks.
pub(super) const F8_COLS: usize = 128;
/// Bytes of a row's block as stored: the f32 scale, then the codes.
pub(super) const F8_STORED: usize = 4 + F8_COLS;
/// Bytes of the codes of an FP8 block of a panel, and of the block with its scales.
pub(super) const F8_CODES: usize = F8_COLS * LANES;
pub(super) const F8_BLOCK: usize = F8_CODES + 4 * LANES;

/// How a panel's scales are laid out; all f16 unless said otherwise, 16 rows at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scales {
    /// Per group: d.  w = d * (q - zero)
    Plain,
    /// Per group: d, m.  w = d * q + m
    Affine,
    /// Per 8 groups: d, dmin, then 8 x (bytes sc, bytes m).  w = d * sc * q - dmin * m
    Super,
    /// Per 8 groups: d, then 16 x signed bytes sc, each for 16 columns.  w = d * sc * (q - zero)
    Halves,
    /// Per 8 groups: d, dmin, then 16 x bytes (sc in the low 4 bits, m in the high ones), each for
    /// 16 columns.  w = d * sc * q - dmin * m
    HalvesMin,
    /// Per 8 groups: d, then 8 x signed bytes sc.  w = d * sc * (q - zero)
    Signed,
    /// Per group: bytes, see [`blocks::e8m0_half`].  w = d * (q - zero)
    Exponents,
}

/// What zero point the codes have: which of the activations' correction terms starts the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zero {
    None,
    Z8,
    Z16,
    Z128,
    /// Two terms, one for each half group.
    Z32Halves,
    /// As above.
    Z4Halves,
}

/// A quantised type's served form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quant {
    /// Bits of a stored code: 2 to 6 or 8.
    pub bits: usize,
    /// The q of each 4-bit code; None where they are the codes.
    pub table: Option<[u8; 16]>,
    pub scales: Scales,
    pub zero: Zero,
}

impl Quant {
    /// None for the float types, and for those that are never served.
    pub const fn of(dtype: Dtype) -> Option<Quant> {
        let (bits, scales, zero) = match dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8Block => return None,
            Dtype::F8E4M3 | Dtype::I32 => return None,
            Dtype::Q8_0 => (8, Scales::Plain, Zero::Z128),
            Dtype::Q4_0 => (4, Scales::Plain, Zero::Z8),
            Dtype::Q5_0 => (5, Scales::Plain, Zero::Z16),
            Dtype::Q4_1 => (4, Scales::Affine, Zero::None),
            Dtype::Q5_1 => (5, Scales::Affine, Zero::None),
            Dtype::Q4K => (4, Scales::Super, Zero::None),
            Dtype::Q5K => (5, Scales::Super, Zero::None),
            Dtype::Q6K => (6, Scales::Halves, Zero::Z32Halves),
            Dtype::Q3K => (3, Scales::Halves, Zero::Z4Halves),
            Dtype::Q2K => (2, Scales::HalvesMin, Zero::None),
            Dtype::IQ4NL => (4, Scales::Plain, Zero::Z128),
            Dtype::IQ4XS => (4, Scales::Signed, Zero::Z128),
            Dtype::MXFP4 => (4, Scales::Exponents, Zero::Z16),
        };
        let table = match blocks::codebook(dtype) {
            Some(values) => Some(above_zero(values, zero)),
            None => None,
        };
        Some(Quant { bits, table, scales, zero })
    }

    /// Bits of a q.
    pub const fn width(&self) -> usize {
        match (self.table, self.zero) {
            (None, _) => self.bits,
            (Some(_), Zero::Z16) => 5,
            (Some(_), _) => 8,
        }
    }

    /// Bytes of a group's codes in a panel.
    pub const fn code_bytes(&self) -> usize {
        self.bits * STEP
    }
}

/// A codebook's values, counted from the zero point.
const fn above_zero(values: [i8; 16], zero: Zero) -> [u8; 16] {
    let zero = match zero {
        Zero::Z16 => 16,
        Zero::Z128 => 128,
        _ => panic!("a codebook has values of both signs, for which there is another zero point"),
    };
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = (values[code] as i32 + zero) as u8;
        code += 1;
    }
    table
}

impl Scales {
    /// Bytes per scale record and groups that it covers.
    pub const fn record(self) -> (usize, usize) {
        match self {
            Scales::Plain => (32, 1),
            Scales::Affine => (64, 1),
            Scales::Super | Scales::HalvesMin => (64 + SUPER * 32, SUPER),
            Scales::Halves => (32 + SUPER * 32, SUPER),
            Scales::Signed => (32 + SUPER * LANES, SUPER),
            Scales::Exponents => (LANES, 1),
        }
    }
}

/// Bytes of a panel of `cols` columns, a multiple of 64. Also where column `cols` starts in a
/// panel of a float type, for a multiple of 512.
pub(super) const fn panel_bytes(dtype: Dtype, cols: usize) -> usize {
    let bytes = match Quant::of(dtype) {
        None if matches!(dtype, Dtype::F8Block) => cols / F8_COLS * F8_BLOCK,
        None => cols.div_ceil(2) * 2 * LANES * dtype.block().1,
        Some(quant) => {
            let groups = cols / GROUP;
            let (record, covers) = quant.scales.record();
            groups * quant.code_bytes() + groups.div_ceil(covers) * record
        }
    };
    bytes.div_ceil(64) * 64
}

/// Where a float panel, or the codes of an FP8 block of it, hold column `k` of row `lane`, in
/// elements.
#[inline(always)]
pub(super) const fn float_at(dtype: Dtype, k: usize, lane: usize) -> usize {
    match dtype {
        Dtype::BF16 | Dtype::F8Block => k / 2 * 2 * LANES + lane * 2 + k % 2,
        _ => k * LANES + lane,
    }
}

/// Where the scales start in a panel.
pub(super) const fn scales_at(quant: &Quant, cols: usize) -> usize {
    cols / GROUP * quant.code_bytes()
}

/// Packs a group's eight steps of codes into `bits` vectors:
/// - 2 bits: vector i holds steps i, i + 2, i + 4 and i + 6, lowest bits first.
/// - 3 bits: vectors 0 and 1 hold the low 2 bits likewise, bit s of vector 2 is step s's third.
/// - 4 bits: vector i holds step i in its low nibbles and step 4 + i in its high ones.
/// - 5 bits: vectors 0..5 hold steps 0..5 in their low bits. Step 5's bits are in the top 3 bits
///   of vector 0 and the top 2 of vector 1, step 6's likewise in 2 and 3; step 7's low 3 bits in
///   the top of vector 4 and the others in bit 5 of vectors 1 and 3.
/// - 6 bits: vectors 0..6 hold steps 0..6; the top 2 bits of vectors 0, 1, 2 are step 6, of
///   3, 4, 5 step 7, lowest bits first.
/// - 8 bits: as they are.
pub(super) fn pack(bits: usize, steps: &[[u8; STEP]; 8], out: &mut [u8]) {
    for i in 0..STEP {
        let c: [u8; 8] = std::array::from_fn(|step| steps[step][i]);
        let mut put = |vector: usize, byte: u8| out[vector * STEP + i] = byte;
        match bits {
            2 | 3 => {
                let low = |v: usize| (0..4).fold(0, |byte, i| byte | (c[v + 2 * i] & 3) << (2 * i));
                put(0, low(0));
                put(1, low(1));
                if bits == 3 {
                    put(2, (0..8).fold(0, |byte, s| byte | (c[s] >> 2) << s));
                }
            }
            4 => (0..4).for_each(|v| put(v, c[v] | c[v + 4] << 4)),
            5 => {
                put(0, c[0] | c[5] << 5);
                put(1, c[1] | (c[5] >> 3) << 6 | (c[7] >> 3 & 1) << 5);
                put(2, c[2] | c[6] << 5);
                put(3, c[3] | (c[6] >> 3) << 6 | (c[7] >> 4) << 5);
                put(4, c[4] | c[7] << 5);
            }
            6 => (0..6).for_each(|v| put(v, c[v] | (c[6 + v / 3] >> (v % 3 * 2)) << 6)),
            _ => (0..8).for_each(|v| put(v, c[v])),
        }
    }
}

/// Undoes [`pack`] for `N` of the 64 positions, from `first` on.
#[inline(always)]
pub(super) fn unpack<const N: usize>(bits: usize, src: &[u8], first: usize) -> [[u8; N]; 8] {
    let v = |vector: usize, i: usize| src[vector * STEP + first + i];
    let mut out = [[0; N]; 8];
    for i in 0..N {
        match bits {
            2 | 3 => {
                for (s, step) in out.iter_mut().enumerate() {
                    let high = if bits == 3 { v(2, i) >> s & 1 } else { 0 };
                    step[i] = v(s % 2, i) >> (s / 2 * 2) & 3 | high << 2;
                }
            }
            4 => {
                for s in 0..4 {
                    out[s][i] = v(s, i) & 15;
                    out[s + 4][i] = v(s, i) >> 4;
                }
            }
            5 => {
                for (s, step) in out.iter_mut().enumerate().take(5) {
                    step[i] = v(s, i) & 31;
                }
                out[5][i] = v(0, i) >> 5 | v(1, i) >> 6 << 3;
                out[6][i] = v(2, i) >> 5 | v(3, i) >> 6 << 3;
                out[7][i] = v(4, i) >> 5 | (v(1, i) >> 5 & 1) << 3 | (v(3, i) >> 5 & 1) << 4;
            }
            6 => {
                for (s, step) in out.iter_mut().enumerate().take(6) {
                    step[i] = v(s, i) & 63;
                }
                out[6][i] = v(0, i) >> 6 | v(1, i) >> 6 << 2 | v(2, i) >> 6 << 4;
                out[7][i] = v(3, i) >> 6 | v(4, i) >> 6 << 2 | v(5, i) >> 6 << 4;
            }
            _ => {
                for (s, step) in out.iter_mut().enumerate() {
                    step[i] = v(s, i);
                }
            }
        }
    }
    out
}
