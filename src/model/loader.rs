//! Loads a rank's share of a model's weights: names a tensor, takes its part, packs it in the
//! backend's served form, and keeps a ledger of what became of it.

use super::shard::Shard;
use super::{ConfigError, LoadError, ModelConfig, Weights};
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
    weights: Weights<'a>,
    /// The widest block among the modules of each name, with `*` for numbers. Empty on one rank,
    /// which splits nothing.
    blocks: BTreeMap<String, usize>,
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
        let mut blocks = BTreeMap::new();
        for name in weights.names().into_iter().filter(|_| ranks > 1) {
            // X of X.weight, X.qweight and so on.
            let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
            let widest = blocks.entry(pattern_of(module)).or_insert(1);
            *widest = weights.block(name).max(*widest);
        }
        Self { backend, config, shard: Shard { rank, ranks }, weights, blocks, ledger: Mutex::default() }
    }

    /// Tensors whose names start with `prefix`.
    pub fn scope(&self, prefix: impl Into<String>) -> Scope<'_, 'a, B> {
        Scope { loader: self, prefix: prefix.into() }
    }

    /// What matrices became.
    pub fn ledger(&self) -> BTreeMap<Kind, Total> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What all layers' modules have in common, see [`Scope::unit`].
    pub fn any_layer(&self) -> Scope<'_, 'a, B> {
        self.scope("model.layers.*.")
    }

    /// The layers after the last, which predict further tokens: their names, and how many tensors.
    /// None where there are none.
    pub fn skipped_layers(&self) -> Option<String> {
        let beyond: Vec<usize> = self.stored_layers().filter(|at| *at >= self.config.layers()).collect();
        let layers: BTreeSet<usize> = beyond.iter().copied().collect();
        let list: Vec<String> = layers.iter().map(|layer| format!("model.layers.{layer}")).collect();
        (!list.is_empty()).then(|| format!("{} ({} tensors)", list.join(", "), beyond.len()))
    }

    /// An error where the checkpoint has layers that its config does not count.
    pub fn check_layers(&self) -> Result<(), LoadError> {
        check_layers(&self.weights.names(), self.config)
    }

    /// The layer of each tensor that has one.
    fn stored_layers(&self) -> impl Iterator<Item = usize> {
        self.weights.names().into_iter().filter_map(layer_of)
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

/// An error where tensors belong to layers that the config does not count.
pub(super) fn check_layers(names: &[&str], config: &ModelConfig) -> Result<(), LoadError> {
    let (layers, predicting) = (config.layers(), config.mtp_layers);
    let last = names.iter().filter_map(|name| layer_of(name)).max();
    match last.filter(|last| *last >= layers + predicting) {
        None => Ok(()),
        Some(last) => {
            let predicting = match predicting {
                0 => String::new(),
                count => format!(" and {count} of multi-token prediction"),
            };
            let reason = format!("is {layers}{predicting}, but the checkpoint has model.layers.{last}");
            Err(ConfigError::new("num_hidden_layers", reason).into())
        }
    }
}

/// 17 of `model.layers.17.mlp.down_proj.weight`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
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

    /// Inputs of that module that only go together when it is split by input: the widest block of
    /// its type, and of its like in all layers, so that a rank's widths are equal in all of them.
    pub fn unit(&self, module: &str) -> usize {
        let name = pattern_of(&format!("{}{module}", self.prefix));
        self.loader.blocks.get(&name).copied().unwrap_or(1)
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
        let mut names: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        // Parts of one tensor.
        names.dedup();
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

    /// The weight of an RMSNorm, to multiply with: some are stored less 1.
    pub fn norm(&self, name: &str, values: usize) -> Result<B::Vector, LoadError> {
        let weight = self.tensor(name, &[values], &Part::Whole)?;
        Ok(self.loader.backend.vector(&[self.norm_weight(weight)?])?)
    }

    /// The weight of an RMSNorm as it is multiplied with.
    pub fn norm_weight(&self, stored: TensorData<'a>) -> Result<TensorData<'a>, LoadError> {
        if !self.config().norms_less_one {
            return Ok(stored);
        }
        let weight: Vec<f32> = stored.to_f32()?.iter().map(|weight| 1.0 + weight).collect();
        Ok(TensorData::from_f32(stored.name, &weight))
    }

    /// A small tensor as f32.
    pub fn vector(&self, name: &str, values: usize) -> Result<B::Vector, LoadError> {
        self.vectors(&[(name, values, Part::Whole)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::checkpoint::Checkpoint;
    use safetensors::{Dtype, tensor::TensorView};
    use std::path::Path;

    /// A DeepSeek-V3 of three layers (and one of multi-token prediction) with these tensors.
    fn loaded(tensors: &[(&str, Dtype)], check: impl Fn(Loader<'_, CpuBackend>)) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/deepseek-v3/config.json");
        let text = std::fs::read_to_string(golden).expect("golden");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config["num_hidden_layers"] = 3.into();
        config["num_nextn_predict_layers"] = 1.into();
        let views = tensors.iter().map(|(name, dtype)| {
            let bytes = &[0; 512][..128 * dtype.bitsize() / 8];
            (*name, TensorView::new(*dtype, vec![1, 128], bytes).expect("view"))
        });
        let directory = tempfile::tempdir().expect("tempdir");
        let file = safetensors::serialize(views, None).expect("serialize");
        std::fs::write(directory.path().join("model.safetensors"), file).expect("write");
        std::fs::write(directory.path().join("config.json"), config.to_string()).expect("write");
        let checkpoint = Checkpoint::open(directory.path()).expect("open");
        let config = ModelConfig::from_json(&checkpoint.config).expect("config");
        let backend = CpuBackend::group(2, 1).remove(0);
        check(Loader::new(&backend, &config, Weights::Checkpoint(&checkpoint, None)));
    }

    #[test]
    fn a_cut_goes_by_the_blocks_of_what_is_cut() {
        let tensors = [
            ("model.layers.0.mlp.down_proj.weight", Dtype::BF16),
            ("model.layers.1.mlp.experts.0.down_proj.weight", Dtype::BF16),
            ("model.layers.2.mlp.experts.1.down_proj.weight", Dtype::F8_E4M3),
            ("model.layers.2.mlp.shared_experts.down_proj.qweight", Dtype::I32),
        ];
        loaded(&tensors, |loader| {
            let mlp = loader.scope("model.layers.0.mlp.");
            assert_eq!(mlp.unit("down_proj"), 1);
            assert_eq!(loader.any_layer().within("mlp").within("experts.*").unit("down_proj"), 128);
            assert_eq!(mlp.within("experts.7").unit("down_proj"), 128);
            assert_eq!(mlp.within("shared_experts").unit("down_proj"), 32);
        });
    }

    #[test]
    fn layers_beyond_the_config_are_for_prediction_or_an_error() {
        loaded(&[("model.layers.3.enorm.weight", Dtype::BF16)], |loader| {
            loader.check_layers().expect("it predicts");
            assert_eq!(loader.skipped_layers().as_deref(), Some("model.layers.3 (1 tensors)"));
        });
        loaded(&[("model.layers.4.enorm.weight", Dtype::BF16)], |loader| {
            let error = loader.check_layers().expect_err("one too many").to_string();
            for word in ["num_hidden_layers: is 3", "1 of multi-token prediction", "model.layers.4"] {
                assert!(error.contains(word), "{error}");
            }
        });
    }
}
