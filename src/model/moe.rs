//! A mixture of experts (Shazeer et al. 2017; DeepSeekMoE, Dai et al. 2024): a router chooses a
//! few experts per token, `delta = shared(normed) + sum of weight * expert(normed)`, every expert
//! a gated MLP.
//!
//! A rank holds a part of each expert's width where the parts are whole blocks of the weights'
//! type, else some of the experts whole. All ranks route alike; what they compute is summed.

use super::config;
use super::decoder::Step;
use super::loader::{Loader, Part, Scope};
use super::mlp::{self, Mlp};
use super::{LoadError, ModelConfig};
use crate::backend::{Activation, Backend, Routing};
use std::ops::Range;

/// A layer's mixture.
pub struct Moe<B: Backend> {
    router: B::Matrix,
    correction_bias: Option<B::Vector>,
    routing: Routing,
    /// The experts on this rank.
    local: Range<usize>,
    gate_up: B::Experts,
    down: B::Experts,
    shared: Option<Mlp<B>>,
}

/// What a family calls the parts of a mixture.
pub struct Names {
    /// The bias that corrects the choice.
    pub correction_bias: &'static str,
    /// An expert's projections.
    pub gate: &'static str,
    /// See `gate`.
    pub up: &'static str,
    /// See `gate`.
    pub down: &'static str,
}

/// Qwen's and DeepSeek's names.
pub const NAMES: Names = Names {
    correction_bias: "gate.e_score_correction_bias",
    gate: "gate_proj",
    up: "up_proj",
    down: "down_proj",
};

/// Activations of a step.
pub struct Buffers<B: Backend> {
    logits: B::Tensor,
    routes: B::Routes,
    dispatched: B::Tensor,
    gate_up: B::Tensor,
    activated: B::Tensor,
    projected: B::Tensor,
    shared: Option<(mlp::Buffers<B>, B::Tensor)>,
}

impl<B: Backend> Buffers<B> {
    /// For `rows` rows of the family's mixture, in any layer.
    pub fn new(
        of: &Scope<'_, '_, B>,
        moe: &config::Moe,
        names: &Names,
        rows: usize,
    ) -> Result<Self, LoadError> {
        let loader = of.loader();
        let (hidden, pairs) = (loader.config.hidden, rows * moe.routing.top_k);
        let (_, width) = split(of, moe, names)?;
        let tensor = |rows, columns| loader.backend.tensor(rows, columns);
        Ok(Self {
            logits: loader.backend.tensor_f32(rows, moe.routing.experts)?,
            routes: loader.backend.routes(rows, moe.routing.top_k)?,
            dispatched: tensor(pairs, hidden)?,
            gate_up: tensor(pairs, 2 * width.len())?,
            activated: tensor(pairs, width.len())?,
            projected: tensor(pairs, hidden)?,
            shared: match moe.shared_intermediate {
                0 => None,
                width => {
                    let shared = of.within("shared_experts");
                    Some((mlp::Buffers::new(&shared, rows, width)?, tensor(rows, hidden)?))
                }
            },
        })
    }
}

/// This rank's (experts, part of their width).
fn split<B: Backend>(
    of: &Scope<'_, '_, B>,
    moe: &config::Moe,
    names: &Names,
) -> Result<(Range<usize>, Range<usize>), LoadError> {
    let (shard, unit) = (of.shard(), of.within("experts.*").unit(names.down));
    let (experts, width) = (moe.routing.experts, moe.intermediate);
    if width.is_multiple_of(shard.ranks * unit) {
        Ok((0..experts, shard.range("an expert's width", width, unit)?))
    } else {
        Ok((shard.range("the experts", experts, 1)?, 0..width))
    }
}

impl<B: Backend> Moe<B> {
    /// From a layer's mixture, with the family's names.
    pub fn load(from: &Scope<'_, '_, B>, moe: &config::Moe, names: &Names) -> Result<Self, LoadError> {
        let c: &ModelConfig = from.config();
        let (experts, full) = (moe.routing.experts, moe.intermediate);
        let (local, width) = split(from, moe, names)?;
        let (mut gate_up, mut down) = (Vec::with_capacity(local.len()), Vec::with_capacity(local.len()));
        for index in local.clone() {
            let expert = from.within(&format!("experts.{index}"));
            gate_up.push(expert.matrix(&[
                (names.gate, full, c.hidden, Part::Rows(width.clone())),
                (names.up, full, c.hidden, Part::Rows(width.clone())),
            ])?);
            down.push(expert.matrix(&[(names.down, c.hidden, full, Part::Columns(width.clone()))])?);
        }
        let backend = from.loader().backend;
        Ok(Self {
            router: from.matrix(&[("gate", experts, c.hidden, Part::Whole)])?,
            correction_bias: match moe.correction_bias {
                false => None,
                true => Some(from.vector(names.correction_bias, experts)?),
            },
            routing: moe.routing,
            local,
            gate_up: backend.experts(gate_up)?,
            down: backend.experts(down)?,
            shared: match moe.shared_intermediate {
                0 => None,
                width => Some(Mlp::load(&from.within("shared_experts"), width)?),
            },
        })
    }

    /// From the step's normed rows to its delta.
    pub fn forward(&self, step: &mut Step<'_, B>, b: &mut Buffers<B>) {
        let Step { backend, normed, delta, .. } = step;
        let bias = self.correction_bias.as_ref();
        backend.linear(&self.router, None, normed, &mut b.logits);
        backend.moe_route(&b.logits, bias, &self.routing, self.local.clone(), &mut b.routes);
        let mut shared = None;
        if let (Some(mlp), Some((buffers, out))) = (&self.shared, &mut b.shared) {
            mlp.part(backend, normed, buffers, out);
            shared = Some(&*out);
        }
        backend.moe_dispatch(normed, &b.routes, &mut b.dispatched);
        backend.expert_linear(&self.gate_up, &b.routes, &b.dispatched, &mut b.gate_up);
        backend.gate_mul(Activation::Silu, &b.gate_up, &mut b.activated);
        backend.expert_linear(&self.down, &b.routes, &b.activated, &mut b.projected);
        backend.moe_combine(&b.projected, &b.routes, shared, delta);
        backend.all_reduce(delta);
    }
}

/// The second half of a layer: a mixture, or the dense MLP that some layers have instead.
pub enum FeedForward<B: Backend> {
    /// A dense MLP.
    Dense(Mlp<B>),
    /// A mixture of experts.
    Sparse(Moe<B>),
}

/// Activations of a step, for either.
pub struct FeedForwardBuffers<B: Backend> {
    /// None where no layer needs them.
    dense: Option<mlp::Buffers<B>>,
    sparse: Option<Buffers<B>>,
}

impl<B: Backend> FeedForwardBuffers<B> {
    /// For `rows` rows.
    pub fn new(loader: &Loader<'_, B>, rows: usize) -> Result<Self, LoadError> {
        let (c, moe): (&ModelConfig, _) = (loader.config, loader.config.experts());
        let of = loader.any_layer().within("mlp");
        let dense = moe.sparse.contains(&false).then(|| mlp::Buffers::new(&of, rows, c.intermediate));
        let sparse = moe.sparse.contains(&true).then(|| Buffers::new(&of, moe, &NAMES, rows));
        Ok(Self { dense: dense.transpose()?, sparse: sparse.transpose()? })
    }
}

impl<B: Backend> FeedForward<B> {
    /// From a layer's `mlp`, with [`NAMES`].
    pub fn load(from: &Scope<'_, '_, B>, layer: usize) -> Result<Self, LoadError> {
        let c: &ModelConfig = from.config();
        Ok(match c.moe(layer) {
            Some(moe) => FeedForward::Sparse(Moe::load(from, moe, &NAMES)?),
            None => FeedForward::Dense(Mlp::load(from, c.intermediate)?),
        })
    }

    /// From the step's normed rows to its delta.
    pub fn forward(&self, step: &mut Step<'_, B>, b: &mut FeedForwardBuffers<B>) {
        match (self, &mut b.dense, &mut b.sparse) {
            (FeedForward::Dense(mlp), Some(buffers), _) => mlp.forward(step, buffers),
            (FeedForward::Sparse(moe), _, Some(buffers)) => moe.forward(step, buffers),
            _ => unreachable!("buffers were made for the layers there are"),
        }
    }
}
