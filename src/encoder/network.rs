//! candle-transformers' models with their weights, and the heads for labels, which it has none of that give logits.

use super::config::NetworkConfig;
use super::{EncoderConfig, Family, Output};
use crate::checkpoint::Checkpoint;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, layer_norm_no_bias, linear, linear_no_bias};
use candle_transformers::models::{bert::BertModel, modernbert::ModernBert, xlm_roberta::XLMRobertaModel};
use std::collections::HashMap;

/// Layers, and the head for labels where there is one.
pub(super) struct Network {
    layers: Layers,
    head: Option<Head>,
}

enum Layers {
    Bert(BertModel),
    Roberta(XLMRobertaModel),
    ModernBert(ModernBert),
}

/// From a text's pooled hidden state to logits: dense, an activation, in ModernBERT a norm, and the labels.
struct Head {
    dense: Linear,
    is_tanh: bool,
    norm: Option<LayerNorm>,
    labels: Linear,
}

impl Network {
    pub fn load(config: &EncoderConfig, checkpoint: &Checkpoint) -> std::result::Result<Self, String> {
        let mut tensors = HashMap::new();
        for name in checkpoint.tensor_names() {
            let Some(stored) = checkpoint.tensor(name) else { continue };
            let shape = stored.shape.clone();
            let values = stored.to_f32().map_err(|error| error.to_string())?;
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu);
            tensors.insert(usual_name(config.family, name), tensor.map_err(|error| error.to_string())?);
        }
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Self::of(config, &weights).map_err(|error| error.to_string())
    }

    fn of(config: &EncoderConfig, weights: &VarBuilder<'_>) -> Result<Self> {
        let layers = match &config.network {
            NetworkConfig::Bert(shape) => Layers::Bert(BertModel::load(weights.clone(), shape)?),
            NetworkConfig::Roberta(shape) => Layers::Roberta(XLMRobertaModel::new(shape, weights.clone())?),
            NetworkConfig::ModernBert(shape) => Layers::ModernBert(ModernBert::load(weights.clone(), shape)?),
        };
        let head = match config.output {
            Output::Embedding { .. } => None,
            Output::Labels { labels, .. } => Some(Head::load(config, labels, weights)?),
        };
        Ok(Self { layers, head })
    }

    /// Hidden states `[texts, tokens, hidden]` of ids, types and mask `[texts, tokens]`.
    pub fn forward(&self, ids: &Tensor, types: &Tensor, mask: &Tensor) -> Result<Tensor> {
        match &self.layers {
            Layers::Bert(model) => model.forward(ids, types, Some(mask)),
            Layers::Roberta(model) => model.forward(ids, mask, types, None, None, None),
            Layers::ModernBert(model) => model.forward(ids, mask),
        }
    }

    /// Logits `[texts, labels]` of pooled hidden states `[texts, hidden]`.
    pub fn labels(&self, pooled: &Tensor) -> Result<Tensor> {
        let Some(head) = &self.head else { candle_core::bail!("the model has no head for labels") };
        let dense = head.dense.forward(pooled)?;
        let dense = if head.is_tanh { dense.tanh()? } else { dense.gelu_erf()? };
        let dense = match &head.norm {
            Some(norm) => norm.forward(&dense)?,
            None => dense,
        };
        head.labels.forward(&dense)
    }
}

impl Head {
    fn load(config: &EncoderConfig, labels: usize, weights: &VarBuilder<'_>) -> Result<Self> {
        let hidden = config.hidden;
        let (dense, out) = match config.family {
            Family::Bert => (linear(hidden, hidden, weights.pp("pooler.dense"))?, "classifier"),
            Family::Roberta => {
                (linear(hidden, hidden, weights.pp("classifier.dense"))?, "classifier.out_proj")
            }
            Family::ModernBert => (linear_no_bias(hidden, hidden, weights.pp("head.dense"))?, "classifier"),
        };
        let norm = match &config.network {
            NetworkConfig::ModernBert(shape) => {
                Some(layer_norm_no_bias(hidden, shape.layer_norm_eps, weights.pp("head.norm"))?)
            }
            _ => None,
        };
        let labels = linear(hidden, labels, weights.pp(out))?;
        Ok(Self { dense, is_tanh: config.family != Family::ModernBert, norm, labels })
    }
}

/// A tensor's name as candle asks for it: without the prefix of the class that it was saved from (with it for
/// ModernBERT), and with what older files call gamma and beta under their later names.
fn usual_name(family: Family, name: &str) -> String {
    let name = match family {
        Family::Bert => name.strip_prefix("bert.").unwrap_or(name).to_owned(),
        Family::Roberta => name.strip_prefix("roberta.").unwrap_or(name).to_owned(),
        Family::ModernBert => match name.split('.').next() {
            Some("embeddings" | "layers" | "final_norm") => format!("model.{name}"),
            _ => name.to_owned(),
        },
    };
    match name.rsplit_once('.') {
        Some((of, "gamma")) => format!("{of}.weight"),
        Some((of, "beta")) => format!("{of}.bias"),
        _ => name,
    }
}
