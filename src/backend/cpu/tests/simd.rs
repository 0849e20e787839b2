//! Exponentials and conversions on every instruction set.

use super::{Random, assert_bits};
use crate::backend::cpu::simd::{Isa, Kernel, LANES, Simd, sum_lanes};

enum Function {
    Exp,
    Exp2,
    ThroughF16,
}

struct Apply<'a>(Function, &'a mut [[f32; LANES]]);

impl Kernel for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.1 {
            let v = s.load(x);
            let y = match self.0 {
                Function::Exp => s.exp(v),
                Function::Exp2 => s.exp2(v),
                Function::ThroughF16 => {
                    let mut bits = [0; LANES];
                    s.store_f16(v, &mut bits);
                    s.load_f16(&bits)
                }
            };
            s.store(y, x);
        }
    }
}

fn apply(isa: Isa, function: Function, x: &[f32]) -> Vec<f32> {
    let mut lanes: Vec<[f32; LANES]> =
        x.chunks(LANES).map(|chunk| std::array::from_fn(|i| chunk.get(i).copied().unwrap_or(0.0))).collect();
    isa.run(Apply(function, &mut lanes));
    lanes.as_flattened()[..x.len()].to_vec()
}

struct Sums<'a>(&'a [[f32; LANES]; LANES]);

impl Kernel for Sums<'_> {
    type Output = ([f32; LANES], [f32; LANES]);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut sums = [0.0; LANES];
        s.store(s.sums(self.0), &mut sums);
        (sums, self.0.map(|vector| s.sum(s.load(&vector))))
    }
}

#[test]
fn sums_of_sixteen_vectors_have_the_bits_of_one() {
    let mut random = Random(1);
    for _ in 0..100 {
        // Of very different sizes, so that another order of addition shows.
        let vectors: [[f32; LANES]; LANES] = std::array::from_fn(|_| {
            std::array::from_fn(|_| random.value() * 2f32.powi(random.below(30) as i32))
        });
        for isa in Isa::available() {
            let (sums, one_by_one) = isa.run(Sums(&vectors));
            assert_bits(&sums, &one_by_one, &format!("{isa:?}"));
            assert_bits(&sums, &vectors.map(sum_lanes), &format!("{isa:?}"));
        }
    }
}

/// Distance in units of the exact value's last place.
fn ulps(got: f32, exact: f64) -> f64 {
    let ulp = (exact.log2().floor() - 23.0).exp2();
    (got as f64 - exact).abs() / ulp
}

#[test]
fn exponentials_are_right_to_two_units_in_the_last_place() {
    let grid = |from: f32, to: f32| -> Vec<f32> {
        (0..200_000).map(|i| from + (to - from) * i as f32 / 200_000.0).collect()
    };
    // Measured: less than 1.0 ulp, both, on every instruction set.
    for isa in Isa::available() {
        let x = grid(-125.9, 126.9);
        let worst = x.iter().zip(apply(isa, Function::Exp2, &x)).map(|(x, y)| ulps(y, (*x as f64).exp2()));
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 2.0, "{isa:?}: exp2 is off by {worst} ulp");
        let x = grid(-86.9, 87.9);
        let worst = x.iter().zip(apply(isa, Function::Exp, &x)).map(|(x, y)| ulps(y, (*x as f64).exp()));
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 2.0, "{isa:?}: exp is off by {worst} ulp");
    }
}

#[test]
fn exponentials_at_the_edges() {
    for isa in Isa::available() {
        let x = [0.0, -0.0, f32::NEG_INFINITY, -126.0, -126.1, -1e30, 1.0, 10.0, -1.0, f32::NAN];
        let y = apply(isa, Function::Exp2, &x);
        assert_eq!(y[..2], [1.0, 1.0], "{isa:?}: exact at 0");
        assert_eq!(y[3], 2f32.powi(-126), "{isa:?}");
        for i in [2, 4, 5, 9] {
            assert_eq!(y[i].to_bits(), 0, "{isa:?}: 2^{} is a plain zero", x[i]);
        }
        assert_eq!(y[6..9], [2.0, 1024.0, 0.5], "{isa:?}: exact at integers");
        let y = apply(isa, Function::Exp, &[0.0, -1e30, 1e30]);
        assert_eq!(y[0], 1.0);
        assert!(y[1] < 1e-37 && y[2] > 1e38 && y[2].is_finite(), "{isa:?}: {y:?}");
    }
}

#[test]
fn f16_rounds_to_nearest_even_on_every_instruction_set() {
    let mut x: Vec<f32> = (0..=u16::MAX).map(|bits| half::f16::from_bits(bits).to_f32()).collect();
    x.retain(|x| !x.is_nan());
    x.extend((0..100_000).map(|i| (i as f32 - 50_000.0) * 1.31));
    x.extend([1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 1e-8, 65_519.0, 65_520.0]);
    for isa in Isa::available() {
        for (x, y) in x.iter().zip(apply(isa, Function::ThroughF16, &x)) {
            assert_eq!(y.to_bits(), half::f16::from_f32(*x).to_f32().to_bits(), "{isa:?}: {x:e}");
        }
    }
}
