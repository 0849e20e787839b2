//! The served form of a weight matrix: panels of 16 output rows, interleaved so that one
//! 512-bit vector holds the same few columns of all 16 rows.
//!
//! Float types: per pair of columns, `[2][16]` values (bf16: `[16][2]`, so that a 32-bit lane
//! holds a row's pair and widening is a shift or a mask). An odd last column is padded.
//!
//! Quantised types: a panel is its codes, then its scales. Codes are unsigned, in groups of 32
//! columns; a group is eight *steps* of 4 columns x 16 rows (64 bytes each, the shape of one
//! `vpdpbusd`), packed to [`Quant::bits`] vectors of 64 bytes, see [`pack`]. Scales stay as
//! stored (f16, and for the K types the 6-bit or 8-bit factors as bytes), so that a served
//! weight is exactly the stored one and its size within 3% of it.

use crate::checkpoint::Dtype;

/// Rows in a panel.
pub(super) const LANES: usize = 16;
/// Columns in a group of codes, and values that share an activation scale.
pub(super) const GROUP: usize = 32;
/// Bytes of a step: 4 columns of 16 rows, one byte each.
pub(super) const STEP: usize = 64;
/// Groups in a K type's block of 256.
pub(super) const SUPER: usize = 8;

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
}

/// A quantised type's served form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quant {
    /// Bits of a code: 4, 5, 6 or 8.
    pub bits: usize,
    pub scales: Scales,
    pub zero: Zero,
}

impl Quant {
    /// None for the float types.
    pub const fn of(dtype: Dtype) -> Option<Quant> {
        let (bits, scales, zero) = match dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => return None,
            Dtype::Q8_0 => (8, Scales::Plain, Zero::Z128),
            Dtype::Q4_0 => (4, Scales::Plain, Zero::Z8),
            Dtype::Q5_0 => (5, Scales::Plain, Zero::Z16),
            Dtype::Q4_1 => (4, Scales::Affine, Zero::None),
            Dtype::Q5_1 => (5, Scales::Affine, Zero::None),
            Dtype::Q4K => (4, Scales::Super, Zero::None),
            Dtype::Q5K => (5, Scales::Super, Zero::None),
            Dtype::Q6K => (6, Scales::Halves, Zero::Z32Halves),
            Dtype::Q2K | Dtype::Q3K | Dtype::F8E4M3 | Dtype::F8Block | Dtype::I32 => todo!(),
        };
        Some(Quant { bits, scales, zero })
    }

    /// Bytes of a group's codes in a panel.
    pub const fn code_bytes(&self) -> usize {
        self.bits * STEP
    }

    /// The number that is subtracted from a code.
    pub fn zero_point(&self) -> i32 {
        match self.zero {
            Zero::None => 0,
            Zero::Z8 => 8,
            Zero::Z16 => 16,
            Zero::Z128 => 128,
            Zero::Z32Halves => 32,
        }
    }
}

impl Scales {
    /// Bytes per scale record and groups that it covers.
    pub const fn record(self) -> (usize, usize) {
        match self {
            Scales::Plain => (32, 1),
            Scales::Affine => (64, 1),
            Scales::Super => (64 + SUPER * 32, SUPER),
            Scales::Halves => (32 + SUPER * 32, SUPER),
        }
    }
}

/// Bytes of a panel of `cols` columns, a multiple of 64.
pub(super) const fn panel_bytes(dtype: Dtype, cols: usize) -> usize {
    let bytes = match Quant::of(dtype) {
        None => cols.div_ceil(2) * 2 * LANES * dtype.block().1,
        Some(quant) => {
            let groups = cols / GROUP;
            let (record, covers) = quant.scales.record();
            groups * quant.code_bytes() + groups.div_ceil(covers) * record
        }
    };
    bytes.div_ceil(64) * 64
}

/// Where the scales start in a panel.
pub(super) const fn scales_at(quant: &Quant, cols: usize) -> usize {
    cols / GROUP * quant.code_bytes()
}

/// Packs a group's eight steps of codes into `bits` vectors:
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
