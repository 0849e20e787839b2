//! What a case sees of a backend: random inputs that both backends can hold exactly, and results
//! with how far they may be from the CPU's.

use crate::backend::hip::gpu::Half;
use crate::backend::{Backend, BackendError};
use crate::checkpoint::{Dtype, TensorData};
use half::{bf16, f16};

/// SplitMix64 (Steele, Lea & Flood 2014).
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// For a case of a group.
    pub fn new(seed: u64, name: &str, case: u64) -> Self {
        // FNV-1a.
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(Self(name ^ seed.wrapping_mul(0x9e37_79b9) ^ case << 40).next())
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// With a chance of one in two.
    pub fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// From 0 to 1, both out of reach.
    pub fn unit(&mut self) -> f32 {
        ((self.next() >> 41) as f32 + 0.5) / (1u64 << 23) as f32
    }

    /// Of mean 0 and variance 1, nearly normal: the sum of four uniform values of 16 bits.
    pub fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|part| bits >> (16 * part) & 0xffff).sum();
        // Each has a variance of 1/12 times 2^32.
        (sum as f32 - 131_070.0) * (3f32.sqrt() / 65_536.0)
    }

    /// So many normal values times `size`.
    pub fn normals(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| size * self.normal()).collect()
    }

    /// The numbers below `count` in random order.
    pub fn order(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// A backend while a case runs on it.
pub struct Side<'a, B: Backend> {
    /// It.
    pub backend: &'a mut B,
    /// Both sides draw the same numbers.
    pub rng: Rng,
    /// The device's type for activations and weights.
    pub half: Half,
    /// Whether the device's matrix instructions take subnormal operands for zero.
    pub flushes: bool,
    /// Whether this is the CPU: weights go there in f32.
    pub exact: bool,
}

impl<B: Backend> Side<'_, B> {
    /// Rounded to the device's type for activations.
    pub fn rounded(&self, mut values: Vec<f32>) -> Vec<f32> {
        for value in &mut values {
            *value = match self.half {
                Half::Bf16 => bf16::from_f32(*value).to_f32(),
                Half::F16 => f16::from_f32(*value).to_f32(),
            };
        }
        values
    }

    /// The same as operands of the device's matrix instructions: below f16's normal numbers there may be
    /// nothing but zero. bf16 has f32's exponents, and values of a model are none of its subnormals.
    fn operands(&self, half: Half, mut values: Vec<f32>) -> Vec<f32> {
        if self.flushes && half == Half::F16 {
            for value in values.iter_mut().filter(|value| value.abs() < f16::MIN_POSITIVE.to_f32()) {
                *value = 0.0;
            }
        }
        values
    }

    /// Activations of normal values times `size`.
    pub fn activations(&mut self, rows: usize, columns: usize, size: f32) -> Result<B::Tensor, BackendError> {
        let values = self.rng.normals(rows * columns, size);
        self.activations_of(rows, columns, values)
    }

    /// Activations of these values.
    pub fn activations_of(
        &mut self,
        rows: usize,
        columns: usize,
        values: Vec<f32>,
    ) -> Result<B::Tensor, BackendError> {
        let mut x = self.backend.tensor(rows, columns)?;
        let values = self.operands(self.half, self.rounded(values));
        self.backend.write(&mut x, rows, &values);
        Ok(x)
    }

    /// The same in f32.
    pub fn floats(&mut self, rows: usize, columns: usize, values: &[f32]) -> Result<B::Tensor, BackendError> {
        let mut x = self.backend.tensor_f32(rows, columns)?;
        self.backend.write(&mut x, rows, values);
        Ok(x)
    }

    /// The same in the KV cache's type.
    pub fn cached(&mut self, rows: usize, columns: usize, size: f32) -> Result<B::Tensor, BackendError> {
        let mut x = self.backend.tensor_cached(rows, columns)?;
        let values = self.rng.normals(rows * columns, size);
        let values = values.into_iter().map(|value| f16::from_f32(value).to_f32()).collect();
        let values = self.operands(Half::F16, values);
        self.backend.write(&mut x, rows, &values);
        Ok(x)
    }

    /// A vector.
    pub fn vector(&mut self, values: &[f32]) -> Result<B::Vector, BackendError> {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let tensor =
            TensorData { name: "v".into(), dtype: Dtype::F32, shape: vec![values.len()], data: data.into() };
        self.backend.vector(&[tensor])
    }

    /// A vector of normal values about 1: a norm's weight.
    pub fn norm_weight(&mut self, count: usize) -> Result<B::Vector, BackendError> {
        let values: Vec<f32> = (0..count).map(|_| 1.0 + 0.25 * self.rng.normal()).collect();
        self.vector(&values)
    }

    /// A served matrix. The CPU gets what the device computes with: weights dequantised, and rounded
    /// to the device's type where they are served in it, or where the kernel `rounds` them: to
    /// multiply fragments, to which subnormals may be zero.
    pub fn matrix(
        &self,
        parts: &[TensorData<'_>],
        rounds: impl Fn(Dtype) -> bool,
    ) -> Result<B::Matrix, BackendError> {
        if !self.exact {
            return self.backend.matrix(parts);
        }
        let widen = |part: &TensorData<'_>| {
            let mut values = part.to_f32().map_err(|error| BackendError::Unsupported(error.to_string()))?;
            if part.dtype.block().0 == 1 || rounds(part.dtype) {
                values = self.rounded(values);
            }
            if rounds(part.dtype) {
                values = self.operands(self.half, values);
            }
            let data = values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>();
            let (name, shape) = (part.name.clone(), part.shape.clone());
            Ok(TensorData { name, dtype: Dtype::F32, shape, data: data.into() })
        };
        let parts = parts.iter().map(widen).collect::<Result<Vec<_>, BackendError>>()?;
        self.backend.matrix(&parts)
    }

    /// Reads a tensor.
    pub fn output(
        &mut self,
        what: &'static str,
        x: &B::Tensor,
        columns: usize,
        tolerance: Tolerance,
    ) -> Result<Output, BackendError> {
        let values = self.backend.read(x)?.to_vec();
        Ok(Output { what, columns, values, tolerance })
    }

    /// What rounding a value to the device's type for activations changes at most, relative to it.
    pub fn half_unit(&self) -> f32 {
        match self.half {
            Half::Bf16 => BF16_UNIT,
            Half::F16 => F16_UNIT,
        }
    }
}

/// Half of the distance from 1 to the next number in bf16, which has 8 bits of precision.
const BF16_UNIT: f32 = 1.0 / 256.0;
/// In f16, which has 11.
pub const F16_UNIT: f32 = 1.0 / 2048.0;
/// In f32.
pub const F32_UNIT: f32 = 1.0 / (1 << 24) as f32;

/// How far a device's value may be from the CPU's, which is in f32 throughout:
/// `relative * |value| + absolute`. Relative is the last rounding, absolute what the terms of a sum
/// bring, see [`super::products::of_product`].
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Of the value.
    pub relative: f32,
    /// Whatever the value is.
    pub absolute: f32,
}

impl Tolerance {
    /// Values that are copied.
    pub const EXACT: Self = Self { relative: 0.0, absolute: 0.0 };

    /// Of a value that is rounded at the end (`unit`), and of terms that are added up.
    pub fn new(unit: f32, absolute: f32) -> Self {
        // A little more, as what is rounded differs in its last bits.
        Self { relative: unit * 1.01, absolute }
    }
}

/// A result.
pub struct Output {
    /// For the report.
    pub what: &'static str,
    /// Row-major.
    pub columns: usize,
    /// All rows.
    pub values: Vec<f32>,
    /// Of the CPU's result the one that counts.
    pub tolerance: Tolerance,
}

/// How two results differ.
pub struct Difference {
    what: &'static str,
    /// The largest error, relative to its tolerance.
    pub worst: f32,
    /// Values whose error is larger than their tolerance.
    pub wrong: usize,
    values: usize,
    /// Row, column, the device's and the CPU's value.
    at: (usize, usize, f32, f32),
}

impl Difference {
    /// Of the CPU's values and the device's. A device may have further rows, which mean nothing:
    /// routed pairs are as many as there can be, where the CPU has as many as there are.
    pub fn between(wanted: &Output, got: &Output) -> Self {
        let mut found = Self {
            what: wanted.what,
            worst: 0.0,
            wrong: 0,
            values: wanted.values.len(),
            at: (0, 0, 0.0, 0.0),
        };
        assert!(got.values.len() >= wanted.values.len(), "rows of {}", wanted.what);
        for (index, (&wanted_value, &value)) in wanted.values.iter().zip(&got.values).enumerate() {
            let same = value == wanted_value || (value.is_nan() && wanted_value.is_nan());
            let Tolerance { relative, absolute } = wanted.tolerance;
            let error = match same {
                true => 0.0,
                false => (value - wanted_value).abs() / (relative * wanted_value.abs() + absolute),
            };
            let error = if error.is_nan() { f32::INFINITY } else { error };
            found.wrong += usize::from(error > 1.0);
            if error > found.worst {
                found.worst = error;
                found.at = (index / wanted.columns, index % wanted.columns, value, wanted_value);
            }
        }
        found
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (row, column, got, wanted) = self.at;
        write!(
            f,
            "{}[{row}, {column}] is {got}, the CPU's {wanted}: {:.1} times its tolerance; {} of {} values are beyond",
            self.what, self.worst, self.wrong, self.values
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(values: &[f32]) -> Output {
        Output { what: "x", columns: 2, values: values.to_vec(), tolerance: Tolerance::new(0.01, 0.1) }
    }

    #[test]
    fn what_is_beyond_its_tolerance_is_found() {
        let wanted = output(&[1.0, 100.0, f32::NAN, f32::INFINITY]);
        let same = Difference::between(&wanted, &output(&[1.05, 99.0, f32::NAN, f32::INFINITY, 7.0]));
        assert!(same.wrong == 0 && same.worst > 0.5 && same.worst < 1.0);
        for bad in [[1.2, 100.0], [1.0, 103.0], [f32::NAN, 100.0], [1.0, f32::INFINITY]] {
            let found = Difference::between(&wanted, &output(&[bad[0], bad[1], f32::NAN, f32::INFINITY]));
            assert_eq!(found.wrong, 1, "{found}");
        }
        assert_eq!(Difference::between(&output(&[1.0]), &output(&[f32::NAN])).wrong, 1);
    }
}
