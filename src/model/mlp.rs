//! The gated MLP (Shazeer 2020): `delta = down(activation(gate(normed)) * up(normed))`. A rank
//! computes a part of its width; the projected parts are summed over ranks.

use super::LoadError;
use super::decoder::Step;
use super::loader::{Part, Scope};
use crate::backend::{Activation, Backend};
use std::ops::Range;

/// This rank's part of the width, in whole blocks of `down_proj`.
fn width<B: Backend>(of: &Scope<'_, '_, B>, intermediate: usize) -> Result<Range<usize>, LoadError> {
    of.shard().range("the MLP's width", intermediate, of.unit("down_proj"))
}

/// A dense MLP, or the shared experts of a mixture.
pub struct Mlp<B: Backend> {
    activation: Activation,
    gate_up: B::Matrix,
    down: B::Matrix,
}

/// Activations of a step.
pub struct Buffers<B: Backend> {
    gate_up: B::Tensor,
    activated: B::Tensor,
}

impl<B: Backend> Buffers<B> {
    /// For `rows` rows of a module of that width, in any layer.
    pub fn new(of: &Scope<'_, '_, B>, rows: usize, intermediate: usize) -> Result<Self, LoadError> {
        let width = width(of, intermediate)?.len();
        let tensor = |columns| of.loader().backend.tensor(rows, columns);
        Ok(Self { gate_up: tensor(2 * width)?, activated: tensor(width)? })
    }
}

impl<B: Backend> Mlp<B> {
    /// From a module with `gate_proj`, `up_proj` (or both in `gate_up_proj`) and `down_proj`.
    pub fn load(from: &Scope<'_, '_, B>, intermediate: usize) -> Result<Self, LoadError> {
        let hidden = from.config().hidden;
        let width = width(from, intermediate)?;
        let rows = |after: usize| Part::Rows(after + width.start..after + width.end);
        Ok(Self {
            activation: from.config().activation,
            gate_up: match from.config().fused_projections {
                false => from.matrix(&[
                    ("gate_proj", intermediate, hidden, rows(0)),
                    ("up_proj", intermediate, hidden, rows(0)),
                ])?,
                true => from.matrix(&[
                    ("gate_up_proj", 2 * intermediate, hidden, rows(0)),
                    ("gate_up_proj", 2 * intermediate, hidden, rows(intermediate)),
                ])?,
            },
            down: from.matrix(&[("down_proj", hidden, intermediate, Part::Columns(width))])?,
        })
    }

    /// From the step's normed rows to its delta.
    pub fn forward(&self, step: &mut Step<'_, B>, b: &mut Buffers<B>) {
        let Step { backend, normed, delta, .. } = step;
        self.part(backend, normed, b, delta);
        backend.all_reduce(delta);
    }

    /// This rank's summand.
    pub fn part(&self, backend: &mut B, x: &B::Tensor, b: &mut Buffers<B>, out: &mut B::Tensor) {
        backend.linear(&self.gate_up, None, x, &mut b.gate_up);
        backend.gate_mul(self.activation, &b.gate_up, &mut b.activated);
        backend.linear(&self.down, None, &b.activated, out);
    }
}
