//! TEMPORARY: an f32-only stand-in, replaced by the real module.
use super::pool::ThreadPool;
use crate::backend::BackendError;
use crate::checkpoint::TensorData;

pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    pub fn pack(parts: &[TensorData<'_>]) -> Result<Matrix, BackendError> {
        let cols = parts[0].shape[1];
        let data = super::tensor::Vector::load(parts)?.values().to_vec();
        Ok(Matrix { rows: data.len() / cols, cols, data })
    }
    pub fn bytes(&self) -> usize {
        self.data.len() * 4
    }
    pub fn row(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.data[row * self.cols..][..self.cols]);
    }
}

#[derive(Default)]
pub struct Scratch {}

pub fn linear(
    _pool: &mut ThreadPool,
    _scratch: &mut Scratch,
    w: &Matrix,
    bias: Option<&[f32]>,
    m: usize,
    x: &[f32],
    out: &mut [f32],
) {
    for r in 0..m {
        for o in 0..w.rows {
            let dot: f32 = (0..w.cols).map(|i| x[r * w.cols + i] * w.data[o * w.cols + i]).sum();
            out[r * w.rows + o] = dot + bias.map_or(0.0, |b| b[o]);
        }
    }
}
