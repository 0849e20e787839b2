//! Mixtures of experts: routing, the sort of its pairs, grouped products, the combination.

use super::products::{FORMATS, of_product, unit};
use super::side::{F32_UNIT, Output, Rng, Side, Tolerance};
use super::weights::{size, weights};
use super::{Case, Runner};
use crate::backend::{Backend, BackendError, ExpertGroups, GroupScore, Routing, Scoring};
use crate::checkpoint::Dtype;
use std::ops::Range;

/// Router logits of a row.
#[derive(Clone, Copy, Debug)]
enum Logits {
    /// Each expert's differs from all others' by so much that no rounding makes another choice.
    Apart,
    /// Few values: of equals the lower expert is chosen.
    Ties,
    /// Infinities, and all equal, as a broken row has.
    Odd,
    /// The lower experts are chosen mostly, the upper ones by nobody.
    Skewed,
}

fn logits(rng: &mut Rng, kind: Logits, rows: usize, experts: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(rows * experts);
    for row in 0..rows {
        match kind {
            Logits::Apart => all.extend(
                rng.order(experts)
                    .iter()
                    .map(|place| (*place as f32 + 0.25 * rng.unit()) * 8.0 / experts as f32 - 4.0),
            ),
            Logits::Ties => all.extend((0..experts).map(|_| (2.0 * rng.normal()).round())),
            Logits::Odd => {
                let start = all.len();
                all.extend((0..experts).map(|expert| (expert % 7) as f32));
                match row % 4 {
                    0 => all[start + 3] = f32::NEG_INFINITY,
                    1 => all[start..].fill(0.0),
                    2 => all[start..].fill(1e4),
                    _ => all[start + 2] = 60.0,
                }
            }
            Logits::Skewed => {
                all.extend((0..experts).map(|expert| rng.unit() - 4.0 * (expert * 2 / experts) as f32))
            }
        }
    }
    all
}

/// Routes, and what they do to rows.
#[derive(Debug)]
struct Route {
    rows: usize,
    columns: usize,
    routing: Routing,
    bias: bool,
    local: Range<usize>,
    logits: Logits,
    shared: bool,
}

impl Case for Route {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { rows, columns, routing, .. } = self;
        let (rows, columns) = (*rows, *columns);
        let routes = route(side, rows, routing, self.bias, self.logits, self.local.clone())?;
        let x = side.activations(rows, columns, 1.0)?;
        let pairs_max = rows * routing.top_k;
        let mut dispatched = side.backend.tensor(pairs_max, columns)?;
        side.backend.moe_dispatch(&x, &routes, &mut dispatched);
        let dispatched = side.output("dispatched", &dispatched, columns, Tolerance::EXACT)?;
        // Another result for each pair, so that which one meets which weight is seen.
        let values = side.rng.normals(pairs_max * columns, 1.0);
        let pairs = dispatched.values.len() / columns;
        let results = side.activations_of(pairs, columns, values[..pairs * columns].to_vec())?;
        let shared = side.activations(rows, columns, 1.0)?;
        let mut out = side.backend.tensor(rows, columns)?;
        side.backend.moe_combine(&results, &routes, self.shared.then_some(&shared), &mut out);
        let tolerance = Tolerance::new(side.half_unit(), 1e-5 * routing.scale);
        Ok(vec![dispatched, side.output("out", &out, columns, tolerance)?])
    }
}

fn route<B: Backend>(
    side: &mut Side<'_, B>,
    rows: usize,
    routing: &Routing,
    bias: bool,
    kind: Logits,
    local: Range<usize>,
) -> Result<B::Routes, BackendError> {
    let experts = routing.experts;
    let values = logits(&mut side.rng, kind, rows, experts);
    let logits = side.floats(rows, experts, &values)?;
    let values = match kind {
        Logits::Ties => vec![0.0; experts],
        _ => side.rng.normals(experts, 0.5),
    };
    let bias = if bias { Some(side.vector(&values)?) } else { None };
    // The number of rows is the step's.
    let batch = crate::backend::Batch { slots: (0..rows as u32).collect(), ..Default::default() };
    side.backend.begin(&batch);
    let mut routes = side.backend.routes(rows, routing.top_k)?;
    side.backend.moe_route(&logits, bias.as_ref(), routing, local, &mut routes);
    Ok(routes)
}

const SOFTMAX: Routing =
    Routing { experts: 8, top_k: 2, scoring: Scoring::Softmax, groups: None, normalise: true, scale: 1.0 };

/// Those of the models there are, and the kernels' limits.
fn routings() -> Vec<(Routing, bool)> {
    let softmax = |experts, top_k, normalise, scale| Routing { experts, top_k, normalise, scale, ..SOFTMAX };
    let groups = |count, keep, score| Some(ExpertGroups { count, keep, score });
    let sigmoid = |routing| Routing { scoring: Scoring::Sigmoid, ..routing };
    let (best, two) = (GroupScore::Best, GroupScore::BestTwo);
    vec![
        (SOFTMAX, false),
        (softmax(5, 5, true, 1.0), false),
        (softmax(60, 4, false, 1.0), false),
        (softmax(128, 8, true, 1.0), false),
        (Routing { groups: groups(8, 3, best), ..softmax(160, 6, false, 16.0) }, false),
        (sigmoid(Routing { groups: groups(8, 4, two), ..softmax(256, 8, true, 2.5) }), true),
        (sigmoid(softmax(256, 8, true, 1.0)), true),
        (sigmoid(Routing { groups: groups(1, 1, two), ..softmax(384, 8, true, 1.0) }), true),
        (Routing { groups: groups(32, 5, two), ..softmax(512, 16, true, 1.0) }, true),
        (softmax(512, 10, true, 1.0), false),
        (softmax(64, 1, false, 1.0), false),
    ]
}

/// All experts, a half, one, none.
fn local(rng: &mut Rng, experts: usize) -> Range<usize> {
    let quarter = experts / 4;
    let (start, end) =
        rng.pick(&[(0, experts), (0, experts), (quarter, experts / 2 + 1), (experts - 1, experts), (0, 1)]);
    start..end
}

pub fn routing(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for (routing, bias) in routings() {
        for logits in [Logits::Apart, rng.pick(&[Logits::Ties, Logits::Odd])] {
            // With a bias, ranks that come of different sums may differ by a rounding alone.
            let bias = bias && !matches!(logits, Logits::Odd);
            let (rows, local, shared) = (1 + rng.below(9), local(&mut rng, routing.experts), rng.coin());
            runner.check(&Route { rows, columns: 8, routing, bias, local, logits, shared })?;
        }
    }
    Ok(())
}

/// Many pairs: several waves' parts, tiles of each size.
pub fn sort(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    let rows = [1, 2, 3, 40 + rng.below(30), 200 + rng.below(150), if runner.large { 4000 } else { 500 }];
    for rows in rows {
        let many = if rows < 10 || runner.large { 512 } else { rng.pick(&[33, 60, 128]) };
        for (experts, top_k) in [(8, 2), (many, 4)] {
            let routing = Routing { experts, top_k, ..SOFTMAX };
            let logits = rng.pick(&[Logits::Apart, Logits::Skewed]);
            let local = local(&mut rng, experts);
            runner.check(&Route { rows, columns: 8, routing, bias: false, local, logits, shared: false })?;
        }
    }
    Ok(())
}

/// Rows of several blocks.
pub fn combine(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for columns in [8, 136, 2048, 2056, 8 * (300 + rng.below(300))] {
        for shared in [false, true] {
            let (experts, top_k) = rng.pick(&[(8, 1), (16, 4), (20, 6), (32, 10), (16, 16)]);
            let routing = Routing { experts, top_k, ..SOFTMAX };
            let (rows, local) = (1 + rng.below(7), local(&mut rng, experts));
            runner.check(&Route {
                rows,
                columns,
                routing,
                bias: false,
                local,
                logits: Logits::Apart,
                shared,
            })?;
        }
    }
    Ok(())
}

/// A layer's experts: the product of each pair with its expert's matrix.
#[derive(Debug)]
struct ExpertLinear {
    rows: usize,
    routing: Routing,
    local: Range<usize>,
    logits: Logits,
    dtype: Dtype,
    n: usize,
    k: usize,
}

impl Case for ExpertLinear {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { rows, n, k, dtype, .. } = *self;
        let stored: Vec<_> = self.local.clone().map(|_| weights(&mut side.rng, dtype, n, k)).collect();
        let matrices = stored.iter().map(|matrix| side.matrix(std::slice::from_ref(matrix), |_| rows > 2));
        let w = side.backend.experts(matrices.collect::<Result<_, _>>()?)?;
        let routes = route(side, rows, &self.routing, false, self.logits, self.local.clone())?;
        let x = side.activations(rows, k, 1.0)?;
        let pairs_max = rows * self.routing.top_k;
        let mut dispatched = side.backend.tensor(pairs_max, k)?;
        side.backend.moe_dispatch(&x, &routes, &mut dispatched);
        let mut products = side.backend.tensor(pairs_max, n)?;
        side.backend.expert_linear(&w, &routes, &dispatched, &mut products);
        let mut out = side.backend.tensor(rows, n)?;
        side.backend.moe_combine(&products, &routes, None, &mut out);
        let largest = stored.iter().map(size).fold(0.0, f32::max);
        let tolerance = of_product(k, largest);
        let unit = side.half_unit();
        // The combination of rounded products: their weights' sum is 1.
        let combined = tolerance + 3.0 * unit * largest * (k as f32).sqrt() + F32_UNIT;
        Ok(vec![
            side.output("products", &products, n, Tolerance::new(unit, tolerance))?,
            side.output("out", &out, n, Tolerance::new(unit, combined))?,
        ])
    }
}

pub fn gemm<const FORMAT: usize>(runner: &mut Runner) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    let dtypes = FORMATS[FORMAT];
    let unit = dtypes.iter().copied().map(unit).max().unwrap_or(8);
    // Tiles hold 1, 2, 16, 32, 64 or 128 pairs by what an expert has on average.
    let shapes = [
        (1, 8, 3, Logits::Apart),
        (2, 6, 2, Logits::Apart),
        (3, 6, 2, Logits::Skewed),
        (15 + rng.below(10), 8, 2, Logits::Skewed),
        (40 + rng.below(20), 8, 2, Logits::Skewed),
        (40 + rng.below(30), 6, 2, Logits::Apart),
        (50, 4, 2, Logits::Skewed),
        (130 + rng.below(20), 4, 2, Logits::Skewed),
    ];
    for (rows, experts, top_k, logits) in shapes {
        let k = unit * rng.pick(&[1, 2, 3, 5][..if unit > 128 { 2 } else { 4 }]);
        let n = rng.pick(&[8, 40, 72, 136]);
        let some = rng.below(3) == 0;
        let local = if some { 1..experts - 1 } else { 0..experts };
        let routing = Routing { experts, top_k, ..SOFTMAX };
        let dtype = rng.pick(dtypes);
        runner.check(&ExpertLinear { rows, routing, local, logits, dtype, n, k })?;
    }
    if runner.large {
        let routing = Routing { experts: 32, top_k: 4, ..SOFTMAX };
        let (dtype, logits) = (dtypes[0], Logits::Apart);
        runner.check(&ExpertLinear { rows: 1000, routing, local: 0..32, logits, dtype, n: 1536, k: 2048 })?;
    }
    Ok(())
}
