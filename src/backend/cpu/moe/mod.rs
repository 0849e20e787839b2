//! Mixtures of experts (Shazeer et al. 2017): tokens go to a few experts each, and all tokens of
//! an expert pass its weights together.
//!
//! A layer runs [`route`], [`dispatch`], [`expert_linear`] for gate and up, the activation,
//! [`expert_linear`] for down, [`combine`]. In between, activations have a row per pair of token
//! and expert, sorted by expert and then by row, so that an expert's rows are neighbours.
//!
//! Invariants: a row's experts, weights and result depend on that row alone; its experts are
//! summed in ascending order; an active expert's weights are read once a product, and the bytes
//! that are counted are those of the panels read.

mod route;

pub use route::route;

use super::matmul::{self, Group, Matrix};
use super::pool::ThreadPool;
use super::simd::{Isa, Kernel, Simd};
use super::tensor::Tensor;
use crate::backend::BackendError;

/// The matrices of a layer's experts, in order; none where a rank has no expert.
pub struct Experts(Vec<Matrix>);

impl Experts {
    /// Errors: a shape that differs from the first one's.
    pub fn new(matrices: Vec<Matrix>) -> Result<Self, BackendError> {
        if let Some(first) = matrices.first() {
            let other = |m: &&Matrix| (m.rows, m.cols) != (first.rows, first.cols);
            if let Some(m) = matrices.iter().find(other) {
                return Err(BackendError::Unsupported(format!(
                    "the experts of a layer have one shape, not {} x {} and {} x {}",
                    first.rows, first.cols, m.rows, m.cols
                )));
            }
        }
        Ok(Self(matrices))
    }
}

/// A row's choice of one expert.
#[derive(Clone, Copy, Debug, Default)]
struct Choice {
    /// Among this rank's experts; [`ELSEWHERE`] when it is none of them.
    expert: u32,
    /// Where the pair is in the order of experts.
    pair: u32,
    weight: f32,
}

/// The expert of a choice that is another rank's. Sorts last.
const ELSEWHERE: u32 = u32::MAX;

/// A step's pairs of row and expert.
pub struct Routes {
    max_rows: usize,
    max_top_k: usize,
    /// Of the current step.
    rows: usize,
    top_k: usize,
    /// `[rows, top_k]`; a row's own are in ascending order of experts, others follow.
    choices: Vec<Choice>,
    /// The row of each pair.
    pair_rows: Vec<u32>,
    /// The active experts' pairs.
    groups: Vec<Group>,
    /// Per expert, where its next pair goes.
    next: Vec<u32>,
    /// Scores of a row, what they are ranked by, and its groups, for each task of [`route`].
    scores: Vec<f32>,
}

impl Routes {
    /// With room for `max_rows * top_k` pairs.
    pub fn new(max_rows: usize, top_k: usize) -> Result<Self, BackendError> {
        let most = max_rows.checked_mul(top_k).filter(|most| u32::try_from(*most).is_ok());
        let fail = || BackendError::OutOfMemory {
            what: format!("routes of {max_rows} rows to {top_k} experts each"),
            wanted_bytes: max_rows.saturating_mul(top_k).saturating_mul(size_of::<Choice>()),
        };
        let most = most.ok_or_else(fail)?;
        let (mut choices, mut pair_rows) = (Vec::new(), Vec::new());
        choices.try_reserve_exact(most).map_err(|_| fail())?;
        pair_rows.try_reserve_exact(most).map_err(|_| fail())?;
        choices.resize(most, Choice::default());
        Ok(Self {
            max_rows,
            max_top_k: top_k,
            rows: 0,
            top_k: 0,
            choices,
            pair_rows,
            groups: vec![],
            next: vec![],
            scores: vec![],
        })
    }

    /// (row, expert, weight) of each pair, in order.
    #[cfg(test)]
    pub(super) fn listed(&self) -> Vec<(usize, usize, f32)> {
        let mut pairs = vec![];
        for group in &self.groups {
            for pair in group.first..group.first + group.rows {
                let row = self.pair_rows[pair] as usize;
                let choice = self.of_row(row).find(|choice| choice.pair as usize == pair);
                pairs.push((row, group.matrix, choice.expect("the row knows its pair").weight));
            }
        }
        pairs
    }

    /// A row's pairs with this rank's experts, ascending.
    fn of_row(&self, row: usize) -> impl Iterator<Item = &Choice> {
        self.choices[row * self.top_k..][..self.top_k].iter().take_while(|c| c.expert != ELSEWHERE)
    }
}

/// See [`crate::backend::Backend::moe_dispatch`].
pub fn dispatch(pool: &mut ThreadPool, x: &Tensor, routes: &Routes, out: &mut Tensor) {
    assert_eq!(x.rows(), routes.rows, "rows that were routed");
    let (pairs, columns) = (routes.pair_rows.len(), x.columns());
    let out = out.set_rows(pairs, columns);
    // About four values a nanosecond.
    pool.for_rows(pairs, columns / 4 + 1, [out], |first, [out]| {
        for (out, &row) in out.chunks_exact_mut(columns).zip(&routes.pair_rows[first..]) {
            out.copy_from_slice(&x.values()[row as usize * columns..][..columns]);
        }
    });
}

/// See [`crate::backend::Backend::expert_linear`]; returns the weight bytes read.
pub fn expert_linear(
    pool: &mut ThreadPool,
    scratch: &mut matmul::Scratch,
    w: &Experts,
    routes: &Routes,
    x: &Tensor,
    out: &mut Tensor,
) -> u64 {
    let pairs = routes.pair_rows.len();
    assert_eq!(x.rows(), pairs, "rows that were dispatched");
    let columns = w.0.first().map_or(out.columns(), |m| m.rows);
    let out = out.set_rows(pairs, columns);
    matmul::grouped(pool, scratch, &w.0, &routes.groups, x.values(), out)
}

/// See [`crate::backend::Backend::moe_combine`].
pub fn combine(
    pool: &mut ThreadPool,
    isa: Isa,
    x: &Tensor,
    routes: &Routes,
    shared: Option<&Tensor>,
    out: &mut Tensor,
) {
    assert_eq!(x.rows(), routes.pair_rows.len(), "rows that were dispatched");
    let (rows, columns) = (routes.rows, x.columns());
    if let Some(shared) = shared {
        assert_eq!((shared.rows(), shared.columns()), (rows, columns), "shape of the shared experts' output");
    }
    let out = out.set_rows(rows, columns);
    // About two values a nanosecond.
    let row_ns = (routes.top_k + 1) * columns / 2 + 1;
    pool.for_rows(rows, row_ns, [out], |first, [out]| {
        isa.run(Combine { x, routes, shared, first, columns, out });
    });
}

struct Combine<'a> {
    x: &'a Tensor,
    routes: &'a Routes,
    shared: Option<&'a Tensor>,
    first: usize,
    columns: usize,
    out: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let columns = self.columns;
        for (row, out) in (self.first..).zip(self.out.chunks_exact_mut(columns)) {
            match self.shared {
                Some(shared) => out.copy_from_slice(&shared.values()[row * columns..][..columns]),
                None => out.fill(0.0),
            }
            for choice in self.routes.of_row(row) {
                let x = &self.x.values()[choice.pair as usize * columns..][..columns];
                for (out, x) in out.iter_mut().zip(x) {
                    *out += choice.weight * x;
                }
            }
        }
    }
}
