//! A model's shape, read from config.json as transformers 4 or 5 writes it (or as `checkpoint`
//! derives it from GGUF metadata). Every value is checked where it is read: an absurd one is an
//! error that names its field, not a panic in a kernel.

mod attention;
mod layers;
mod moe;
mod scales;
mod unread;

pub use attention::{Attention, Gqa, Mla, QkNorm};
pub use layers::Rotation;
pub use moe::Moe;
pub use scales::Scales;

use super::fields::{ConfigError, Fields};
use super::quantization::Quantization;
use super::rope::{Rope, Ropes};
use crate::backend::{Activation, RopeStyle};
use serde_json::Value;

/// The model families this release serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3 (Touvron et al. 2023) and what shares its layout: DeepSeek-LLM, SmolLM2.
    Llama,
    /// Mistral 7B, Nemo, Small: Llama, with a sliding window in all layers of the first ones.
    Mistral,
    /// Ministral: Mistral with a type for each layer.
    Ministral,
    /// SmolLM3: Llama without rotary embedding in every fourth layer (NoPE, Yang et al. 2025).
    SmolLm3,
    /// Granite 3 dense: Llama with factors on embeddings, scores, half layers and logits.
    Granite,
    /// Phi-3 and Phi-4-mini: Llama with q, k, v and gate, up in one projection each, and LongRoPE.
    Phi3,
    /// Gemma 3 for text: Llama with norms before and after each half layer, GELU, and two rotary
    /// embeddings, as most layers slide.
    Gemma3,
    /// Qwen2 and Qwen2.5: Llama with biases on q, k and v.
    Qwen2,
    /// Qwen3 dense: Llama with an RMSNorm on each head of q and k.
    Qwen3,
    /// Qwen3's mixtures of experts: Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder.
    Qwen3Moe,
    /// DeepSeek-V2, V2-Lite and V2.5.
    DeepseekV2,
    /// DeepSeek-V3, V3.1 and R1.
    DeepseekV3,
    /// MiniMax-M2.
    MinimaxM2,
}

/// (`architectures`, `model_type`, family).
const FAMILIES: [(&str, &str, Family); 13] = [
    ("LlamaForCausalLM", "llama", Family::Llama),
    ("MistralForCausalLM", "mistral", Family::Mistral),
    ("MinistralForCausalLM", "ministral", Family::Ministral),
    ("SmolLM3ForCausalLM", "smollm3", Family::SmolLm3),
    ("GraniteForCausalLM", "granite", Family::Granite),
    ("Phi3ForCausalLM", "phi3", Family::Phi3),
    ("Gemma3ForCausalLM", "gemma3_text", Family::Gemma3),
    ("Qwen2ForCausalLM", "qwen2", Family::Qwen2),
    ("Qwen3ForCausalLM", "qwen3", Family::Qwen3),
    ("Qwen3MoeForCausalLM", "qwen3_moe", Family::Qwen3Moe),
    ("DeepseekV2ForCausalLM", "deepseek_v2", Family::DeepseekV2),
    ("DeepseekV3ForCausalLM", "deepseek_v3", Family::DeepseekV3),
    ("MiniMaxM2ForCausalLM", "minimax_m2", Family::MinimaxM2),
];

impl Family {
    /// Whether attention goes through a latent.
    pub fn is_deepseek(self) -> bool {
        matches!(self, Family::DeepseekV2 | Family::DeepseekV3)
    }

    /// Its class in transformers.
    pub fn architecture(self) -> &'static str {
        FAMILIES.iter().find(|(.., family)| *family == self).map_or("", |(name, ..)| name)
    }
}

/// What ends the name of the class in transformers of a model with a head for labels of whole texts.
const CLASSIFIER: &str = "ForSequenceClassification";
/// Far more than any reranker's or classifier's, and few enough for a head that the host computes.
const LABELS_MAX: usize = 4096;

/// Layers of multi-token prediction, and experts of all layers together: far above every published
/// model's, and few enough to be listed one by one (Kimi K2 has 61 layers of 384 experts).
const MTP_LAYERS_MAX: usize = 64;
const EXPERTS_MAX: usize = 1 << 17;

/// A decoder-only transformer's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Whose layout.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of a dense MLP.
    pub intermediate: usize,
    /// Attention.
    pub attention: Attention,
    /// The mixture of experts of the layers that have one.
    pub moe: Option<Moe>,
    /// Sliding window per layer, None for full attention.
    pub windows: Vec<Option<usize>>,
    /// Epsilon of every RMSNorm.
    pub rms_eps: f32,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// The longest sequence the checkpoint was made for.
    pub max_context: usize,
    /// The longest sequence that will be served, which LongRoPE is chosen by; `max_context` unless
    /// [`ModelConfig::serve_context`] says otherwise.
    pub served_context: usize,
    /// Rotary embedding.
    pub rope: Rope,
    /// Of layers with a sliding window, where they have their own.
    pub sliding_rope: Option<Rope>,
    /// Which of them each layer has.
    pub rotations: Vec<Rotation>,
    /// Constant factors on embeddings, half layers and logits.
    pub scales: Scales,
    /// What a gated MLP's gate goes through.
    pub activation: Activation,
    /// Each half layer's output is normed before it is added to the residual stream.
    pub post_norms: bool,
    /// Weights of norms are stored less 1.
    pub norms_less_one: bool,
    /// q, k and v are stored in one matrix, gate and up in another.
    pub fused_projections: bool,
    /// How q and k rows pair their dimensions.
    pub rope_style: RopeStyle,
    /// The output head is the embedding table.
    pub tied_embeddings: bool,
    /// Layers after the last that predict further tokens (multi-token prediction): not loaded.
    pub mtp_layers: usize,
    /// How weights are stored packed.
    pub quantization: Option<Quantization>,
    /// Labels of a sequence classifier's head, which is in place of the output head; 0 for a language model.
    pub labels: usize,
    /// Embeddings are made to be of length 1; config.json does not say, so that whoever knows may set it.
    pub normalises_embeddings: bool,
    /// Weights are f32 as stored, so the KV cache keeps f32 too.
    pub full_precision: bool,
}

impl ModelConfig {
    /// Reads config.json.
    pub fn from_json(root: &Value) -> Result<Self, ConfigError> {
        let config = Fields::root(root);
        let family = family(&config)?;
        let hidden = config.size("hidden_size")?;
        let layers = layers::count(&config)?;
        let activation = activation(&config, family)?;
        if config.flag("mlp_bias")?.unwrap_or(false) {
            return Err(ConfigError::new("mlp_bias", "true is not supported"));
        }
        let Ropes { full: rope, sliding: sliding_rope } = match family {
            Family::Gemma3 => Rope::of_gemma3(&config)?,
            _ => Rope::from_config(&config)?,
        };
        let moe = Moe::read(&config, family, layers)?;
        let mtp_layers = mtp_layers(&config, family)?;
        if let Some(experts) = moe.as_ref().map(|moe| moe.routing.experts)
            && experts * (layers + mtp_layers) > EXPERTS_MAX
        {
            let field = moe::experts_field(family);
            let reason = format!(
                "{layers} layers (and {mtp_layers} of multi-token prediction) of {experts} experts ({field}): at most \
                 {EXPERTS_MAX} experts are supported in all layers together"
            );
            return Err(ConfigError::new("num_hidden_layers", reason));
        }
        let trained = config.size_or("max_position_embeddings", 2048)?;
        let interleaved = match family.is_deepseek() {
            true => config.flag("rope_interleave")?.unwrap_or(true),
            false => config.flag("rope_interleaved")?.unwrap_or(false),
        };
        let dtype = match config.string("dtype")? {
            Some(dtype) => Some(dtype),
            None => config.string("torch_dtype")?,
        };
        let rotates = layers::rotates(&config, family, layers)?;
        let windows = layers::windows(&config, family, layers, rotates.as_deref())?;
        if windows.iter().any(Option::is_some)
            && let (None, Some(parameters)) = (&sliding_rope, config.object("rope_parameters")?)
            && parameters.get("full_attention").is_some()
        {
            return Err(parameters.error("sliding_attention", "is missing, and there are such layers"));
        }
        let rotations = layers::rotations(&windows, rotates.as_deref(), sliding_rope.is_some());
        let attention = Attention::read(&config, family, hidden, &rope)?;
        let max_context = rope.stretched_context().map_or(trained, |stretched| stretched.max(trained));
        let labels = labels(&config, root)?;
        let tied = matches!(family, Family::SmolLm3 | Family::Gemma3);
        let read = Self {
            family,
            hidden,
            intermediate: config.size("intermediate_size")?,
            windows,
            attention,
            moe,
            rms_eps: config.positive_or("rms_norm_eps", 1e-6)? as f32,
            vocab: config.size("vocab_size")?,
            max_context,
            served_context: max_context,
            rope,
            sliding_rope,
            rotations,
            scales: Scales::read(&config, family, hidden)?,
            activation,
            post_norms: family == Family::Gemma3,
            norms_less_one: match family {
                // Of a GGUF file, to which the converter has added it.
                Family::Gemma3 => config.flag("norms_less_one")?.unwrap_or(true),
                _ => false,
            },
            fused_projections: family == Family::Phi3,
            rope_style: if interleaved { RopeStyle::Interleaved } else { RopeStyle::Half },
            // As transformers takes it where it is absent.
            tied_embeddings: labels > 0 || config.flag("tie_word_embeddings")?.unwrap_or(tied),
            mtp_layers,
            quantization: Quantization::read(&config)?,
            labels,
            normalises_embeddings: true,
            full_precision: dtype == Some("float32"),
        };
        for rope in [Some(&read.rope), read.sliding_rope.as_ref()].into_iter().flatten() {
            rope.check(read.rotary_dim())?;
        }
        unread::refuse(&config, family)?;
        Ok(read)
    }

    /// Sequences of at most that length will be served.
    pub fn serve_context(&mut self, tokens: usize) {
        self.served_context = tokens;
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.windows.len()
    }

    /// The mixture of experts of that layer; None where its MLP is dense.
    pub fn moe(&self, layer: usize) -> Option<&Moe> {
        self.moe.as_ref().filter(|moe| moe.sparse[layer])
    }

    /// The mixture of experts; panics for a family without.
    pub fn experts(&self) -> &Moe {
        self.moe.as_ref().unwrap_or_else(|| panic!("{:?} has no experts", self.family))
    }

    /// Latent attention; panics for a family with another.
    pub fn mla(&self) -> Mla {
        match self.attention {
            Attention::Mla(mla) => mla,
            Attention::Gqa(_) => panic!("{:?} has no latent attention", self.family),
        }
    }

    /// Grouped-query attention; panics for a family with another.
    pub fn gqa(&self) -> Gqa {
        match self.attention {
            Attention::Gqa(gqa) => gqa,
            Attention::Mla(_) => panic!("{:?} has latent attention", self.family),
        }
    }

    /// Values of a head that are rotated.
    pub fn rotary_dim(&self) -> usize {
        match self.attention {
            Attention::Gqa(gqa) => gqa.rotary_dim,
            Attention::Mla(mla) => mla.layout.rope_dim,
        }
    }
}

/// The first of `architectures`.
fn class<'a>(config: &Fields<'a>) -> Option<&'a str> {
    config.get("architectures").and_then(Value::as_array).and_then(|list| list.first()?.as_str())
}

/// Labels of a sequence classifier, as transformers counts them: those that have a name, else `num_labels`, else 2.
fn labels(config: &Fields<'_>, root: &Value) -> Result<usize, ConfigError> {
    let named = root.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
    let count = match named {
        Some(named) => named,
        None => config.count("num_labels")?.unwrap_or(2),
    };
    match class(config).is_some_and(|class| class.ends_with(CLASSIFIER)) {
        false => Ok(0),
        true if (1..=LABELS_MAX).contains(&count) => Ok(count),
        true => {
            let field = if named.is_some() { "id2label" } else { "num_labels" };
            Err(ConfigError::new(field, format!("must be of 1 to {LABELS_MAX} labels, got {count}")))
        }
    }
}

fn family(config: &Fields<'_>) -> Result<Family, ConfigError> {
    let class = class(config);
    // The same layers, with a head of another kind; saved without a head, it is the model of embeddings.
    let dense = |class: &str| match class {
        "Qwen3ForSequenceClassification" | "Qwen3Model" => "Qwen3ForCausalLM",
        "Qwen2ForSequenceClassification" | "Qwen2Model" => "Qwen2ForCausalLM",
        "LlamaForSequenceClassification" | "LlamaModel" => "LlamaForCausalLM",
        "MistralModel" => "MistralForCausalLM",
        _ => "",
    };
    let class = class.map(|class| if dense(class).is_empty() { class } else { dense(class) });
    let (field, named, known) = match (class, config.string("model_type")?) {
        (Some(class), _) => {
            ("architectures", class, FAMILIES.iter().map(|(class, ..)| *class).collect::<Vec<_>>())
        }
        (None, Some(kind)) => ("model_type", kind, FAMILIES.iter().map(|(_, kind, _)| *kind).collect()),
        (None, None) => {
            let supported = FAMILIES.map(|(class, ..)| class).join(", ");
            return Err(ConfigError::new("architectures", format!("is missing; supported: {supported}")));
        }
    };
    match known.iter().position(|known| *known == named) {
        Some(index) => Ok(FAMILIES[index].2),
        None => {
            let supported = known.join(", ");
            Err(ConfigError::new(field, format!("`{named}` is not supported; supported: {supported}")))
        }
    }
}

/// `hidden_act`, which Gemma calls `hidden_activation`.
fn activation(config: &Fields<'_>, family: Family) -> Result<Activation, ConfigError> {
    let (field, name, activation) = match family {
        Family::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh", Activation::GeluTanh),
        _ => ("hidden_act", "silu", Activation::Silu),
    };
    if family == Family::Gemma3 {
        // Left over from Gemma 1; transformers reads the other.
        config.ignore(&["hidden_act"]);
    }
    match config.string(field)? {
        Some(other) if other != name => {
            Err(config.error(field, format!("`{other}` is not supported; supported: {name}")))
        }
        _ => Ok(activation),
    }
}

/// `num_nextn_predict_layers`; MiniMax calls them modules.
fn mtp_layers(config: &Fields<'_>, family: Family) -> Result<usize, ConfigError> {
    let field = match family {
        Family::MinimaxM2 => "num_mtp_modules",
        _ => "num_nextn_predict_layers",
    };
    match config.count(field)?.unwrap_or(0) {
        count @ ..=MTP_LAYERS_MAX => Ok(count),
        count => Err(ConfigError::new(field, format!("must be at most {MTP_LAYERS_MAX}, got {count}"))),
    }
}
