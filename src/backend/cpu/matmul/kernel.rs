//! The code paths and their kernels' common shape.

use std::sync::OnceLock;

use crate::checkpoint::Dtype;

use super::layout::{LANES, Quant};
use super::{activations, portable};

/// A code path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// AVX2, FMA and F16C.
    Avx2,
    /// Plain Rust.
    Portable,
}

/// One panel times a tile of R activation rows: (codes, scales, groups, activation records,
/// result `[R][16]`, overwritten).
pub(super) type QuantTile = unsafe fn(*const u8, *const u8, usize, *const i32, *mut [f32; LANES]);

/// `NR` float panels times a tile of R rows, over a span of columns: (first panel, bytes from one
/// panel to the next, columns (whole blocks of a type of blocks), activations `[columns][R]`, sums
/// `[NR][R][16]`, added to).
pub(super) type FloatTile = unsafe fn(*const u8, usize, usize, *const f32, *mut [f32; LANES]);

impl Isa {
    /// The fastest path that this machine has; found out once.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            [Isa::Avx512, Isa::Avx2].into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
        })
    }

    /// Whether this machine has what the path needs.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => false,
            Isa::Portable => true,
        }
    }

    /// The kernel for a quantised type and a tile of `rows`.
    pub(super) fn quant_tile(self, dtype: Dtype, rows: usize) -> QuantTile {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::avx512::quant_tile(dtype, rows),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::quant_tile(dtype, rows),
            _ => portable::quant_tile(dtype, rows),
        }
    }

    /// The kernel for a float type, a tile of `rows`, and one panel or [`float_panels`] of them.
    pub(super) fn float_tile(self, dtype: Dtype, rows: usize, single: bool) -> FloatTile {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::avx512::float_tile(dtype, rows, single),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::float_tile(dtype, rows, single),
            _ => portable::float_tile(dtype, rows, single),
        }
    }

    /// See [`activations::quantise_rows`].
    pub(super) fn quantise(self, x: &[f32], stride: usize, rows: usize, out: &mut [i32]) {
        match self {
            // SAFETY: a Scratch exists only for a path that the machine has.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { super::avx512::quantise_rows(x, stride, rows, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { super::avx2::quantise_rows(x, stride, rows, out) },
            _ => activations::quantise_rows(x, stride, rows, out),
        }
    }
}

/// Float panels that go together. A sum is one dependent chain of multiply-adds, so that some
/// eight of them must be under way at once; more than 16 would not fit the registers.
pub(super) const fn float_panels(rows: usize) -> usize {
    if rows <= 2 { 4 } else { 2 }
}

/// A type that kernels are compiled for.
pub(super) trait Form {
    const DTYPE: Dtype;
    /// Of the quantised ones.
    const QUANT: Quant = match Quant::of(Self::DTYPE) {
        Some(quant) => quant,
        None => panic!("not a quantised type"),
    };
}

macro_rules! forms {
    ($($name:ident),*) => {$(
        #[allow(non_camel_case_types)]
        pub(super) struct $name;
        impl Form for $name {
            const DTYPE: Dtype = Dtype::$name;
        }
    )*};
}
forms!(F32, F16, BF16, F8Block, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4K, Q5K, Q6K, Q2K, Q3K, IQ4NL, IQ4XS, MXFP4);

/// `match` over types and rows of a tile: each arm an instance of a generic kernel.
macro_rules! instances {
    ($dtype:expr, $rows:expr, $kernel:ident, [$($form:ident),*]) => {
        match $dtype {
            $(Dtype::$form => match $rows {
                1 => $kernel::<$form, 1>,
                2 => $kernel::<$form, 2>,
                3 => $kernel::<$form, 3>,
                4 => $kernel::<$form, 4>,
                5 => $kernel::<$form, 5>,
                6 => $kernel::<$form, 6>,
                7 => $kernel::<$form, 7>,
                8 => $kernel::<$form, 8>,
                _ => unreachable!("a tile has 1 to 8 rows"),
            },)*
            _ => unreachable!("the kernel is asked for its own types"),
        }
    };
}
pub(super) use instances;

/// A pointer that tasks share; each writes its own range.
pub(super) struct SendPtr<T>(pub *mut T);
// SAFETY: whoever makes one sees to it that tasks use disjoint ranges.
unsafe impl<T: Send> Sync for SendPtr<T> {}

impl<T> SendPtr<T> {
    /// A method, so that closures capture the whole struct.
    pub fn get(&self) -> *mut T {
        self.0
    }
}
