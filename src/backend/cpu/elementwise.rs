//! Embedding, gating and row gathering: each value is read and written once.

use super::matmul::Matrix;
use super::pool::ThreadPool;
use super::simd::{Isa, Kernel, LANES, Simd};
use super::tensor::Tensor;
use crate::backend::Activation;
use crate::protocol::TokenId;

/// `out[r] = scale * table[tokens[r] - first]`, zeros for tokens that the table does not hold.
pub fn embed(
    pool: &mut ThreadPool,
    table: &Matrix,
    first: TokenId,
    scale: f32,
    tokens: &[TokenId],
    out: &mut Tensor,
) {
    let columns = table.cols;
    let out = out.set_rows(tokens.len(), columns);
    // Unpacking takes about a nanosecond a value.
    pool.for_rows(tokens.len(), columns, [out], |first_row, [out]| {
        for (row, token) in out.chunks_exact_mut(columns).zip(&tokens[first_row..]) {
            match token.checked_sub(first) {
                Some(index) if (index as usize) < table.rows => {
                    table.row(index as usize, row);
                    if scale != 1.0 {
                        row.iter_mut().for_each(|value| *value *= scale);
                    }
                }
                _ => row.fill(0.0),
            }
        }
    });
}

/// `out[i] = x[rows[i]]`.
pub fn gather_rows(x: &Tensor, rows: &[u32], out: &mut Tensor) {
    let columns = x.columns();
    let out = out.set_rows(rows.len(), columns);
    for (out, &row) in out.chunks_exact_mut(columns).zip(rows) {
        out.copy_from_slice(&x.values()[row as usize * columns..][..columns]);
    }
}

/// out = activation(gate) * up, where a row of `gate_up` is gate then up.
pub fn gate_mul(pool: &mut ThreadPool, isa: Isa, activation: Activation, gate_up: &Tensor, out: &mut Tensor) {
    let (rows, columns) = (gate_up.rows(), gate_up.columns() / 2);
    let out = out.set_rows(rows, columns);
    // About two values a nanosecond.
    pool.for_rows(rows, columns / 2 + 1, [out], |first, [out]| {
        let gate_up = &gate_up.values()[2 * first * columns..][..2 * out.len()];
        match activation {
            Activation::Silu => isa.run(GateMul::<false> { gate_up, columns, out }),
            Activation::GeluTanh => isa.run(GateMul::<true> { gate_up, columns, out }),
        }
    });
}

struct GateMul<'a, const GELU: bool> {
    gate_up: &'a [f32],
    columns: usize,
    out: &'a mut [f32],
}

impl<const GELU: bool> Kernel for GateMul<'_, GELU> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.gate_up.chunks_exact(2 * self.columns).zip(self.out.chunks_exact_mut(self.columns));
        for (row, out) in rows {
            let (gates, ups) = row.split_at(self.columns);
            let (gates, gate_tail) = gates.as_chunks::<LANES>();
            let (ups, up_tail) = ups.as_chunks::<LANES>();
            let (outs, out_tail) = out.as_chunks_mut::<LANES>();
            for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
                gated::<S, GELU>(s, gate, up, out);
            }
            if !out_tail.is_empty() {
                let (mut gate, mut up, mut out) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
                gate[..gate_tail.len()].copy_from_slice(gate_tail);
                up[..up_tail.len()].copy_from_slice(up_tail);
                gated::<S, GELU>(s, &gate, &up, &mut out);
                out_tail.copy_from_slice(&out[..out_tail.len()]);
            }
        }
    }
}

/// gate / (1 + e^-x) * up with x = gate for SiLU, and for GELU by tanh x = 2u, as
/// 0.5 (1 + tanh(u)) = 1 / (1 + e^-2u) with u = sqrt(2 / pi) (gate + 0.044715 gate^3).
#[inline(always)]
fn gated<S: Simd, const GELU: bool>(s: S, gate: &[f32; LANES], up: &[f32; LANES], out: &mut [f32; LANES]) {
    let gate = s.load(gate);
    let x = match GELU {
        false => gate,
        true => {
            let cube = s.mul(s.mul(s.mul(s.splat(0.044_715), gate), gate), gate);
            s.mul(s.splat(1.595_769), s.add(gate, cube))
        }
    };
    let e = s.exp(s.sub(s.splat(0.0), x));
    let activated = s.div(gate, s.add(e, s.splat(1.0)));
    s.store(s.mul(activated, s.load(up)), out);
}
