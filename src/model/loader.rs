//! Loads a rank's share of a model's weights: names a tensor, takes its part, packs it in the
//! backend's served form, and keeps a ledger of what became of it.

use super::shard::Shard;
use super::{LoadError, ModelConfig, Weights};
use crate::backend::Backend;
use crate::checkpoint::TensorData;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The part of a tensor that a rank holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// These outputs: leading indices of the stored tensor.
    Rows(Range<usize>),
    /// These inputs: indices in each stored row.
    Columns(Range<usize>),
}

/// Where weights come from and go to, on one rank.
pub struct Loader<'a, B: Backend> {
    /// Holds the weights.
    pub backend: &'a B,
    /// The model's shape.
    pub config: &'a ModelConfig,
    /// This rank.
    pub shard: Shard,
    /// Inputs that only go together when a matrix is split by input: the widest block of any.
    pub unit: usize,
    weights: Weights<'a>,
    ledger: Mutex<BTreeMap<Kind, Total>>,
}

/// Matrices whose names differ in numbers alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Their names, with `*` for numbers; of a fused matrix also the further modules.
    pub names: String,
    /// The types in which they are stored.
    pub stored: String,
    /// The types in which they are served.
    pub served: String,
}

/// What such matrices come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How many.
    pub matrices: usize,
    /// Bytes served.
    pub bytes: usize,
}

impl<'a, B: Backend> Loader<'a, B> {
    /// For the rank that the backend is.
    pub fn new(backend: &'a B, config: &'a ModelConfig, weights: Weights<'a>) -> Self {
        let (rank, ranks) = backend.rank();
        let unit = if ranks == 1 { 1 } else { weights.widest_block() };
        Self { backend, config, shard: Shard { rank, ranks }, unit, weights, ledger: Mutex::default() }
    }

    /// Tensors whose names start with `prefix`.
    pub fn scope(&self, prefix: impl Into<String>) -> Scope<'_, 'a, B> {
        Scope { loader: self, prefix: prefix.into() }
    }

    /// What matrices became.
    pub fn ledger(&self) -> BTreeMap<Kind, Total> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The checkpoint's tensors of layers after the last, which predict further tokens: their
    /// layers' names, and how many tensors. None where there are none.
    pub fn skipped_layers(&self) -> Option<String> {
        let names = self.weights.names();
        let layer = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
        let beyond: Vec<usize> =
            names.iter().filter_map(|name| layer(name)).filter(|at| *at >= self.config.layers()).collect();
        let layers: BTreeSet<usize> = beyond.iter().copied().collect();
        let list: Vec<String> = layers.iter().map(|layer| format!("model.layers.{layer}")).collect();
        (!list.is_empty()).then(|| format!("{} ({} tensors)", list.join(", "), beyond.len()))
    }

    /// See [`Weights::release_pages`].
    pub fn release_pages(&self) {
        self.weights.release_pages();
    }

    fn record(&self, names: &[String], matrix: &B::Matrix) {
        let mut pattern = names.first().map_or_else(String::new, |name| pattern_of(name));
        for name in &names[1..] {
            // q_proj.weight + k_proj + v_proj: after the first the module is enough.
            let module = name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
            pattern = format!("{pattern} + {module}");
        }
        let mut kinds: Vec<String> = Vec::new();
        for name in names {
            let kind = self.weights.stored_kind(name);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        let kind = Kind { names: pattern, stored: kinds.join("+"), served: self.backend.matrix_kind(matrix) };
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let total = ledger.entry(kind).or_default();
        total.matrices += 1;
        total.bytes += self.backend.matrix_bytes(matrix);
    }
}

/// `model.layers.17.mlp.down_proj.weight` -> `model.layers.*.mlp.down_proj.weight`
fn pattern_of(name: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = name.split('.').map(|part| if number(part) { "*" } else { part }).collect();
    parts.join(".")
}

/// A loader below a name: a layer, or a module of it.
pub struct Scope<'l, 'a, B: Backend> {
    loader: &'l Loader<'a, B>,
    prefix: String,
}

impl<'l, 'a, B: Backend> Scope<'l, 'a, B> {
    /// The loader.
    pub fn loader(&self) -> &'l Loader<'a, B> {
        self.loader
    }

    /// The model's shape.
    pub fn config(&self) -> &'a ModelConfig {
        self.loader.config
    }

    /// This rank.
    pub fn shard(&self) -> Shard {
        self.loader.shard
    }

    /// A module of this one.
    pub fn within(&self, module: &str) -> Scope<'l, 'a, B> {
        Scope { loader: self.loader, prefix: format!("{}{module}.", self.prefix) }
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.loader.weights.has(&format!("{}{name}", self.prefix))
    }

    /// A tensor of exactly that shape, or its part.
    pub fn tensor(&self, name: &str, shape: &[usize], part: &Part) -> Result<TensorData<'a>, LoadError> {
        let whole = self.loader.weights.get(&format!("{}{name}", self.prefix), shape)?;
        let part = match part {
            Part::Whole => return Ok(whole),
            Part::Rows(range) => whole.into_rows(range.clone()),
            // A copy, but not of the whole.
            Part::Columns(range) if range.len() == shape[shape.len() - 1] => return Ok(whole),
            Part::Columns(range) => whole.columns(range.clone()),
        };
        let ranks = self.loader.shard.ranks;
        part.map_err(|error| LoadError::Shard { ranks, reason: error.to_string() })
    }

    /// Matrices of equal inputs, stacked in one: (module, outputs, inputs, part) of each.
    pub fn matrix(&self, parts: &[(&str, usize, usize, Part)]) -> Result<B::Matrix, LoadError> {
        let mut tensors = Vec::with_capacity(parts.len());
        for (module, outputs, inputs, part) in parts {
            tensors.push(self.tensor(&format!("{module}.weight"), &[*outputs, *inputs], part)?);
        }
        self.packed(&tensors)
    }

    /// Tensors of equal inputs, stacked in one matrix.
    pub fn packed(&self, tensors: &[TensorData<'_>]) -> Result<B::Matrix, LoadError> {
        let matrix = self.loader.backend.matrix(tensors)?;
        let names: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        self.loader.record(&names, &matrix);
        Ok(matrix)
    }

    /// Small tensors one after the other as f32: (name, values, part) of each.
    pub fn vectors(&self, parts: &[(&str, usize, Part)]) -> Result<B::Vector, LoadError> {
        let mut tensors = Vec::with_capacity(parts.len());
        for (name, values, part) in parts {
            tensors.push(self.tensor(name, &[*values], part)?);
        }
        Ok(self.loader.backend.vector(&tensors)?)
    }

    /// A small tensor as f32.
    pub fn vector(&self, name: &str, values: usize) -> Result<B::Vector, LoadError> {
        self.vectors(&[(name, values, Part::Whole)])
    }
}
