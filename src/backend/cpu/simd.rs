//! Sixteen lanes of f32, on AVX-512, AVX2 or anything. A kernel is written once, generic over
//! [`Simd`], as a [`Kernel`]; [`Isa::run`] compiles it once per instruction set.
//!
//! How it works: all methods are `inline(always)` and end up in one of the functions at the
//! bottom, which carry the `target_feature`. A kernel's plain loops are compiled with those
//! features too, so most kernels need no explicit vectors at all.
//!
//! Invariant: a value of [`Avx512`] or [`Avx2`] exists only where the processor has the features.
//! Results agree between instruction sets up to rounding: [`Simd::mul_add`] is not fused on all.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Lanes of a vector on every instruction set.
pub const LANES: usize = 16;

/// Sixteen lanes of f32.
pub trait Simd: Copy {
    /// The vector.
    type V: Copy;
    /// All lanes x.
    fn splat(self, x: f32) -> Self::V;
    /// Reads sixteen values.
    fn load(self, from: &[f32; LANES]) -> Self::V;
    /// Writes sixteen values.
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// Reads sixteen f16 bit patterns.
    fn load_f16(self, from: &[u16; LANES]) -> Self::V;
    /// Writes sixteen f16 bit patterns, rounded to nearest even.
    fn store_f16(self, v: Self::V, to: &mut [u16; LANES]);
    /// a + b
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; where one is NaN, either.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; where one is NaN, either.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, fused where the instruction set can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^n for integral n in -126 ..= 127.
    fn pow2(self, n: Self::V) -> Self::V;
    /// v where x >= bound, otherwise (NaN too) 0.
    fn zero_below(self, v: Self::V, x: Self::V, bound: Self::V) -> Self::V;

    /// The lanes' sum, always in the same order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        sum_lanes(lanes)
    }

    /// Lane i: the sum of vector i's lanes, with the bits of [`Simd::sum`].
    #[inline(always)]
    fn sums(self, vectors: &[[f32; LANES]; LANES]) -> Self::V {
        self.load(&vectors.map(sum_lanes))
    }

    /// The largest lane.
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        for width in [8, 4, 2, 1] {
            for lane in 0..width {
                lanes[lane] =
                    if lanes[lane] > lanes[lane + width] { lanes[lane] } else { lanes[lane + width] };
            }
        }
        lanes[0]
    }

    /// e^r * 2^n for |r| <= ln(2)/2: the polynomial of Cephes' expf.
    #[inline(always)]
    fn exp_reduced(self, r: Self::V, n: Self::V) -> Self::V {
        let mut p = self.splat(1.987_569_2e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = self.mul_add(p, r, self.splat(c));
        }
        let p = self.mul_add(p, self.mul(r, r), r);
        self.mul(self.add(p, self.splat(1.0)), self.pow2(n))
    }

    /// 2^x, exact for x = 0; 0 below 2^-126 (so that no denormal slows what follows); the
    /// largest argument is taken as 127.
    #[inline(always)]
    fn exp2(self, x: Self::V) -> Self::V {
        let least = self.splat(-126.0);
        let bounded = self.min(self.max(x, least), self.splat(127.0));
        let n = self.round(bounded);
        let r = self.mul(self.sub(bounded, n), self.splat(std::f32::consts::LN_2));
        self.zero_below(self.exp_reduced(r, n), x, least)
    }

    /// e^x for x clamped to [-87, 88].
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let x = self.min(self.max(x, self.splat(-87.0)), self.splat(88.0));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, the first with few bits, so that n * ln 2 is nearly exact.
        let r = self.mul_add(n, self.splat(-0.693_359_4), x);
        let r = self.mul_add(n, self.splat(2.121_944_4e-4), r);
        self.exp_reduced(r, n)
    }
}

/// The sum of sixteen lanes, always in the same order: halves onto halves.
#[inline(always)]
pub fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// A computation that [`Isa::run`] compiles for each instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The computation; implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// The instruction set in use.
#[derive(Clone, Copy, Debug)]
pub enum Isa {
    /// AVX-512 F, BW, DQ, VL.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// What the compiler may assume of every processor of the target.
    Portable(Portable),
}

impl Isa {
    /// All that this processor has, best first.
    pub fn available() -> impl Iterator<Item = Isa> {
        #[cfg(target_arch = "x86_64")]
        let vectors = [
            (is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl"))
            .then_some(Isa::Avx512(Avx512(()))),
            (is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c"))
            .then_some(Isa::Avx2(Avx2(()))),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let vectors: [Option<Isa>; 0] = [];
        vectors.into_iter().flatten().chain([Isa::Portable(Portable)])
    }

    /// The best that this processor has.
    pub fn best() -> Isa {
        Self::available().next().unwrap_or(Isa::Portable(Portable))
    }

    /// Whether a kernel may keep some twenty vectors in registers (otherwise some five).
    pub fn is_wide(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Isa::Avx512(_));
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Runs a kernel with this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: a token exists only where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(token) => unsafe { run_avx512(kernel, token) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(token) => unsafe { run_avx2(kernel, token) },
            Isa::Portable(token) => kernel.run(token),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(kernel: K, token: Avx512) -> K::Output {
    kernel.run(token)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K, token: Avx2) -> K::Output {
    kernel.run(token)
}

/// Proof that the processor has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy, Debug)]
#[cfg(target_arch = "x86_64")]
pub struct Avx512(());

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
#[cfg(target_arch = "x86_64")]
pub struct Avx2(());

/// No proof needed.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

// One SAFETY reason for all blocks of the two implementations below: the token proves that the
// processor has the features, and loads and stores go through references to whole arrays.
#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    type V = __m512;
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store_f16(self, v: __m512, to: &mut [u16; LANES]) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtps_ph::<NEAREST>(v)) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn zero_below(self, v: __m512, x: __m512, bound: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, bound), v) }
    }
    #[inline(always)]
    fn sums(self, vectors: &[[f32; LANES]; LANES]) -> __m512 {
        // Each step adds one half of what is left of two vectors' sums to the other half and puts
        // the two results side by side; the order of pairing brings sum i to lane i.
        unsafe {
            let eight = |i: usize| {
                let (a, b) = (self.load(&vectors[i]), self.load(&vectors[i + 4]));
                let low = _mm512_shuffle_f32x4::<0x44>(a, b);
                _mm512_add_ps(low, _mm512_shuffle_f32x4::<0xee>(a, b))
            };
            let four = |i: usize| {
                let (a, b) = (eight(i), eight(i + 8));
                let low = _mm512_shuffle_f32x4::<0x88>(a, b);
                _mm512_add_ps(low, _mm512_shuffle_f32x4::<0xdd>(a, b))
            };
            let two = |i: usize| {
                let (a, b) = (four(i), four(i + 1));
                _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b))
            };
            let (a, b) = (two(0), two(2));
            _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b))
        }
    }
}

/// Sixteen lanes as two AVX registers.
#[derive(Clone, Copy)]
#[cfg(target_arch = "x86_64")]
pub struct Pair(__m256, __m256);

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    type V = Pair;
    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        unsafe { Pair(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Pair {
        unsafe { Pair(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())) }
    }
    #[inline(always)]
    fn store(self, v: Pair, to: &mut [f32; LANES]) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v.0);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), v.1);
        }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> Pair {
        unsafe {
            Pair(
                _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from[8..].as_ptr().cast())),
            )
        }
    }
    #[inline(always)]
    fn store_f16(self, v: Pair, to: &mut [u16; LANES]) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        unsafe {
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<NEAREST>(v.0));
            _mm_storeu_si128(to[8..].as_mut_ptr().cast(), _mm256_cvtps_ph::<NEAREST>(v.1));
        }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        unsafe { Pair(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn round(self, a: Pair) -> Pair {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { Pair(_mm256_round_ps::<NEAREST>(a.0), _mm256_round_ps::<NEAREST>(a.1)) }
    }
    #[inline(always)]
    fn pow2(self, n: Pair) -> Pair {
        let half = |n: __m256| unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        };
        Pair(half(n.0), half(n.1))
    }
    #[inline(always)]
    fn zero_below(self, v: Pair, x: Pair, bound: Pair) -> Pair {
        unsafe {
            Pair(
                _mm256_and_ps(v.0, _mm256_cmp_ps::<_CMP_GE_OQ>(x.0, bound.0)),
                _mm256_and_ps(v.1, _mm256_cmp_ps::<_CMP_GE_OQ>(x.1, bound.1)),
            )
        }
    }
    #[inline(always)]
    fn sums(self, vectors: &[[f32; LANES]; LANES]) -> Pair {
        // As on AVX-512, eight vectors at a time.
        let half = |first: usize| unsafe {
            let eight = |i: usize| {
                let v = self.load(&vectors[first + i]);
                _mm256_add_ps(v.0, v.1)
            };
            let four = |i: usize| {
                let (a, b) = (eight(i), eight(i + 4));
                let low = _mm256_permute2f128_ps::<0x20>(a, b);
                _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(a, b))
            };
            let two = |i: usize| {
                let (a, b) = (four(i), four(i + 1));
                _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b))
            };
            let (a, b) = (two(0), two(2));
            _mm256_add_ps(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b))
        };
        Pair(half(0), half(8))
    }
}

impl Simd for Portable {
    type V = [f32; LANES];
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }
    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        *to = v;
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> Self::V {
        from.map(|bits| half::f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn store_f16(self, v: Self::V, to: &mut [u16; LANES]) {
        *to = v.map(|x| half::f16::from_f32(x).to_bits());
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 leaves no bits below one; exact for the |a| < 2^22 that come here.
        a.map(|x| (x + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn zero_below(self, v: Self::V, x: Self::V, bound: Self::V) -> Self::V {
        std::array::from_fn(|i| if x[i] >= bound[i] { v[i] } else { 0.0 })
    }
}
