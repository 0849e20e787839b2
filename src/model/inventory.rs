//! Every tensor that a model's config implies, under the names of its published checkpoints:
//! parameter counts and memory per weight format follow from the list, without any weights.
//!
//! Invariants: names and shapes are those of the safetensors that transformers or the model's
//! authors publish, one entry per tensor before quantisation. Deliberately absent: GGUF's stacked
//! tensors, and the scales of quantised checkpoints, which belong to a [`Format`].

mod format;

pub use format::Format;

use super::config::{Attention, Family, Gqa, Mla, QkNorm};
use super::{ConfigError, ModelConfig};
use crate::backend::{KvDtype, KvLayout, KvSpec};

/// What a tensor is for; decides whether weight formats quantise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The input table, of which a token reads one row.
    Embedding,
    /// The output head where it is not the input table.
    Head,
    /// The head of a sequence classifier.
    Classifier,
    /// An RMSNorm.
    Norm,
    /// A projection of attention.
    Attention,
    /// A bias of attention.
    AttentionBias,
    /// The MLP of a layer without experts.
    DenseMlp,
    /// Scores of the experts.
    Router,
    /// The router's `e_score_correction_bias`, stored in f32.
    RouterBias,
    /// An expert that is chosen per token.
    Expert,
    /// Experts that every token passes.
    SharedExpert,
    /// What a layer of multi-token prediction has besides a usual layer's tensors.
    Prediction,
}

/// One tensor of a checkpoint before quantisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// As in the published checkpoint.
    pub name: String,
    /// Outermost dimension first: `[out, in]` for a projection.
    pub shape: Vec<usize>,
    /// What it is for.
    pub kind: Kind,
    /// Into how many equal parts the ranks of a tensor-parallel group can split it, 1 where each
    /// holds all of it. More ranks than parts share the parts.
    pub parts_max: usize,
}

impl TensorSpec {
    /// Values that it holds.
    pub fn params(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product()
    }
}

/// All tensors that are loaded, in the order of the forward pass.
pub fn tensors(config: &ModelConfig) -> impl Iterator<Item = TensorSpec> + '_ {
    let table = vec![config.vocab, config.hidden];
    let embedding = spec("model.embed_tokens.weight", table.clone(), Kind::Embedding, usize::MAX);
    let norm = spec("model.norm.weight", vec![config.hidden], Kind::Norm, 1);
    let head = (!config.tied_embeddings).then(|| spec("lm_head.weight", table, Kind::Head, usize::MAX));
    let labels = vec![config.labels, config.hidden];
    let classifier = (config.labels > 0).then(|| spec("score.weight", labels, Kind::Classifier, 1));
    std::iter::once(embedding)
        .chain((0..config.layers()).flat_map(move |layer| layer_tensors(config, layer)))
        .chain(std::iter::once(norm))
        .chain(head)
        .chain(classifier)
}

/// The tensors of the multi-token-prediction layers, which are stored after the last layer and
/// not loaded (DeepSeek-V3's report, section 2.2). MiniMax publishes none.
pub fn prediction_tensors(config: &ModelConfig) -> impl Iterator<Item = TensorSpec> + '_ {
    let h = config.hidden;
    let layers = if config.family == Family::MinimaxM2 { 0 } else { config.mtp_layers };
    (config.layers()..config.layers() + layers).flat_map(move |layer| {
        let own = [
            ("embed_tokens", vec![config.vocab, h]),
            ("enorm", vec![h]),
            ("hnorm", vec![h]),
            ("eh_proj", vec![h, 2 * h]),
            ("shared_head.norm", vec![h]),
            ("shared_head.head", vec![config.vocab, h]),
        ];
        let own = own.into_iter().map(move |(name, shape)| {
            spec(&format!("model.layers.{layer}.{name}.weight"), shape, Kind::Prediction, usize::MAX)
        });
        own.chain(layer_tensors(config, layer))
    })
}

/// More parameters than any machine holds, and few enough that no sum of bytes overflows.
const PARAMS_MAX: u128 = 1 << 56;

/// An error where the sizes, each possible by itself, give an absurd number of parameters. Every
/// other function here may rely on it.
pub fn check(config: &ModelConfig) -> Result<(), ConfigError> {
    let params = |tensor: TensorSpec| tensor.shape.iter().map(|size| *size as u128).product::<u128>();
    let total: u128 = tensors(config).chain(prediction_tensors(config)).map(params).sum();
    if total > PARAMS_MAX {
        let reason = format!(
            "{} and the other sizes make {total} parameters; at most {PARAMS_MAX} are supported",
            config.hidden
        );
        return Err(ConfigError::new("hidden_size", reason));
    }
    Ok(())
}

/// Sums over [`tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All parameters.
    pub total: u64,
    /// Those that a token is multiplied with: `top_k` of the routed experts, everything else but
    /// the input table, of which it reads one row. DeepSeek and MiniMax publish this number.
    pub active: u64,
    /// The same with the whole input table. Qwen publishes this number.
    pub active_with_embedding: u64,
    /// Parameters of the multi-token-prediction layers, in none of the others.
    pub prediction: u64,
}

/// Counts the parameters of a model.
pub fn counts(config: &ModelConfig) -> Counts {
    let by_kind = |kind: fn(Kind) -> bool| -> u64 {
        tensors(config).filter(|tensor| kind(tensor.kind)).map(|tensor| tensor.params()).sum()
    };
    let total = by_kind(|_| true);
    let experts = by_kind(|kind| kind == Kind::Expert);
    // All experts have one size, so that the division is exact.
    let chosen =
        config.moe.as_ref().map_or(0, |moe| experts / moe.routing.experts as u64 * moe.routing.top_k as u64);
    let active_with_embedding = total - experts + chosen;
    let lookup = if config.tied_embeddings { 0 } else { by_kind(|kind| kind == Kind::Embedding) };
    Counts {
        total,
        active: active_with_embedding - lookup,
        active_with_embedding,
        prediction: prediction_tensors(config).map(|tensor| tensor.params()).sum(),
    }
}

/// What the KV cache of one rank of `ranks` holds per token: its kv heads, or the whole latent,
/// which all query heads share.
pub fn kv_spec(config: &ModelConfig, ranks: usize) -> KvSpec {
    let layout = match config.attention {
        Attention::Gqa(Gqa { heads, .. }) => {
            KvLayout::Heads { kv_heads: heads.kv_heads.div_ceil(ranks), head_dim: heads.head_dim }
        }
        Attention::Mla(Mla { layout, .. }) => {
            KvLayout::Latent { rank: layout.rank, rope_dim: layout.rope_dim }
        }
    };
    let dtype = if config.full_precision { KvDtype::F32 } else { KvDtype::F16 };
    KvSpec { layers: config.layers(), layout, dtype }
}

/// The powers of two up to `most` over which attention can be split: each rank gets as many query
/// heads as the others, and kv heads are split or replicated evenly.
pub fn tensor_parallel_sizes(config: &ModelConfig, most: usize) -> Vec<usize> {
    let sizes = (0..usize::BITS).map(|bit| 1usize << bit).take_while(|size| *size <= most);
    let fits = |ranks: &usize| match config.attention {
        Attention::Gqa(Gqa { heads, .. }) => {
            heads.heads.is_multiple_of(*ranks)
                && (heads.kv_heads.is_multiple_of(*ranks) || ranks.is_multiple_of(heads.kv_heads))
        }
        Attention::Mla(Mla { layout, .. }) => layout.heads.is_multiple_of(*ranks),
    };
    sizes.filter(fits).collect()
}

fn spec(name: &str, shape: Vec<usize>, kind: Kind, parts_max: usize) -> TensorSpec {
    TensorSpec { name: name.into(), shape, kind, parts_max }
}

/// The tensors of one layer; one beyond the last is a multi-token-prediction layer's.
fn layer_tensors(config: &ModelConfig, layer: usize) -> Vec<TensorSpec> {
    let mut list = Layer { prefix: format!("model.layers.{layer}"), tensors: Vec::new() };
    list.norm("input_layernorm", config.hidden);
    match config.attention {
        Attention::Gqa(gqa) => list.gqa(config, gqa),
        Attention::Mla(mla) => list.mla(config, mla),
    }
    list.norm("post_attention_layernorm", config.hidden);
    if config.post_norms {
        list.norm("pre_feedforward_layernorm", config.hidden);
        list.norm("post_feedforward_layernorm", config.hidden);
    }
    let sparse = layer >= config.layers() || config.moe(layer).is_some();
    match config.moe.as_ref().filter(|_| sparse) {
        None if config.fused_projections => {
            let (width, kind) = (config.intermediate, Kind::DenseMlp);
            list.add("mlp.gate_up_proj.weight", vec![2 * width, config.hidden], kind, usize::MAX);
            list.add("mlp.down_proj.weight", vec![config.hidden, width], kind, usize::MAX);
        }
        None => list.mlp("mlp", QWEN_MLP, config.hidden, config.intermediate, Kind::DenseMlp),
        Some(_) => list.experts(config),
    }
    list.tensors
}

/// Names of an MLP's gate, up and down projections.
const QWEN_MLP: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
/// The same in Mixtral's style.
const MIXTRAL_MLP: [&str; 3] = ["w1", "w3", "w2"];

struct Layer {
    prefix: String,
    tensors: Vec<TensorSpec>,
}

impl Layer {
    fn add(&mut self, name: &str, shape: Vec<usize>, kind: Kind, parts_max: usize) {
        self.tensors.push(spec(&format!("{}.{name}", self.prefix), shape, kind, parts_max));
    }

    fn norm(&mut self, name: &str, size: usize) {
        self.add(&format!("{name}.weight"), vec![size], Kind::Norm, 1);
    }

    fn gqa(&mut self, config: &ModelConfig, gqa: Gqa) {
        let Gqa { heads, qkv_bias, o_bias, qk_norm, .. } = gqa;
        let (hidden, q, kv) = (config.hidden, heads.q_dim(), heads.kv_heads * heads.head_dim);
        let projections: &[(&str, usize, usize)] = match config.fused_projections {
            false => &[("q", q, heads.heads), ("k", kv, heads.kv_heads), ("v", kv, heads.kv_heads)],
            true => &[("qkv", q + 2 * kv, heads.kv_heads)],
        };
        for &(name, rows, parts) in projections {
            let name = format!("self_attn.{name}_proj");
            self.add(&format!("{name}.weight"), vec![rows, hidden], Kind::Attention, parts);
            if qkv_bias {
                self.add(&format!("{name}.bias"), vec![rows], Kind::AttentionBias, parts);
            }
        }
        self.add("self_attn.o_proj.weight", vec![hidden, q], Kind::Attention, heads.heads);
        if o_bias {
            self.add("self_attn.o_proj.bias", vec![hidden], Kind::AttentionBias, 1);
        }
        let (q_norm, k_norm) = match qk_norm {
            QkNorm::None => return,
            QkNorm::Head => (heads.head_dim, heads.head_dim),
            QkNorm::Joint => (q, kv),
        };
        self.norm("self_attn.q_norm", q_norm);
        self.norm("self_attn.k_norm", k_norm);
    }

    fn mla(&mut self, config: &ModelConfig, mla: Mla) {
        let (hidden, l) = (config.hidden, mla.layout);
        let mut projection = |name: &str, rows: usize, columns: usize, parts: usize| {
            self.add(&format!("self_attn.{name}.weight"), vec![rows, columns], Kind::Attention, parts);
        };
        match mla.q_rank {
            None => projection("q_proj", l.q_dim(), hidden, l.heads),
            Some(rank) => {
                projection("q_a_proj", rank, hidden, 1);
                projection("q_b_proj", l.q_dim(), rank, l.heads);
            }
        }
        projection("kv_a_proj_with_mqa", l.entry_dim(), hidden, 1);
        projection("kv_b_proj", l.heads * (l.nope_dim + l.v_dim), l.rank, l.heads);
        projection("o_proj", hidden, l.heads * l.v_dim, l.heads);
        if let Some(rank) = mla.q_rank {
            self.norm("self_attn.q_a_layernorm", rank);
        }
        self.norm("self_attn.kv_a_layernorm", l.rank);
    }

    fn mlp(&mut self, module: &str, names: [&str; 3], hidden: usize, width: usize, kind: Kind) {
        let [gate, up, down] = names;
        for name in [gate, up] {
            self.add(&format!("{module}.{name}.weight"), vec![width, hidden], kind, usize::MAX);
        }
        self.add(&format!("{module}.{down}.weight"), vec![hidden, width], kind, usize::MAX);
    }

    fn experts(&mut self, config: &ModelConfig) {
        let Some(moe) = &config.moe else { return };
        let (module, names, bias) = match config.family {
            Family::MinimaxM2 => ("block_sparse_moe", MIXTRAL_MLP, "e_score_correction_bias"),
            _ => ("mlp", QWEN_MLP, "gate.e_score_correction_bias"),
        };
        let experts = moe.routing.experts;
        self.add(&format!("{module}.gate.weight"), vec![experts, config.hidden], Kind::Router, 1);
        if moe.correction_bias {
            self.add(&format!("{module}.{bias}"), vec![experts], Kind::RouterBias, 1);
        }
        for expert in 0..experts {
            let expert = format!("{module}.experts.{expert}");
            self.mlp(&expert, names, config.hidden, moe.intermediate, Kind::Expert);
        }
        if moe.shared_intermediate > 0 {
            let shared = format!("{module}.shared_experts");
            self.mlp(&shared, names, config.hidden, moe.shared_intermediate, Kind::SharedExpert);
        }
    }
}
