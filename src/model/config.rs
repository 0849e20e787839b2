//! A model's shape, read from config.json as transformers 4 or 5 writes it (or as `checkpoint`
//! derives it from GGUF metadata). Every value is checked where it is read: an absurd one is an
//! error that names its field, not a panic in a kernel.

mod attention;
mod moe;
mod unread;

pub use attention::{Attention, Gqa, Mla, QkNorm};
pub use moe::Moe;

use super::fields::{ConfigError, Fields};
use super::quantization::Quantization;
use super::rope::{Rope, Ropes};
use crate::backend::RopeStyle;
use serde_json::Value;

/// The model families this release serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3 (Touvron et al. 2023) and what shares its layout: DeepSeek-LLM, SmolLM2.
    Llama,
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
const FAMILIES: [(&str, &str, Family); 7] = [
    ("LlamaForCausalLM", "llama", Family::Llama),
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
    /// Rotary embedding.
    pub rope: Rope,
    /// How q and k rows pair their dimensions.
    pub rope_style: RopeStyle,
    /// The output head is the embedding table.
    pub tied_embeddings: bool,
    /// Layers after the last that predict further tokens (multi-token prediction): not loaded.
    pub mtp_layers: usize,
    /// How weights are stored packed.
    pub quantization: Option<Quantization>,
    /// Weights are f32 as stored, so the KV cache keeps f32 too.
    pub full_precision: bool,
}

impl ModelConfig {
    /// Reads config.json.
    pub fn from_json(root: &Value) -> Result<Self, ConfigError> {
        let config = Fields::root(root);
        let family = family(&config)?;
        let hidden = config.size("hidden_size")?;
        let layers = config.size("num_hidden_layers")?;
        if let Some(act) = config.string("hidden_act")?
            && act != "silu"
        {
            return Err(ConfigError::new("hidden_act", format!("`{act}` is not supported; supported: silu")));
        }
        if config.flag("mlp_bias")?.unwrap_or(false) {
            return Err(ConfigError::new("mlp_bias", "true is not supported"));
        }
        let Ropes { full: rope, sliding: sliding_rope } = Rope::from_config(&config)?;
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
        let windows = windows(&config, family, layers)?;
        if sliding_rope.is_some() && windows.iter().any(Option::is_some) {
            let reason =
                "rotary embeddings of their own for sliding layers are not supported for this family";
            return Err(ConfigError::new("rope_parameters.sliding_attention", reason));
        }
        let read = Self {
            family,
            hidden,
            intermediate: config.size("intermediate_size")?,
            windows,
            attention: Attention::read(&config, family, hidden, &rope)?,
            moe,
            rms_eps: config.positive_or("rms_norm_eps", 1e-6)? as f32,
            vocab: config.size("vocab_size")?,
            max_context: rope.stretched_context().map_or(trained, |stretched| stretched.max(trained)),
            rope,
            rope_style: if interleaved { RopeStyle::Interleaved } else { RopeStyle::Half },
            tied_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(false),
            mtp_layers,
            quantization: Quantization::read(&config)?,
            full_precision: dtype == Some("float32"),
        };
        unread::refuse(&config, family)?;
        Ok(read)
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

fn family(config: &Fields<'_>) -> Result<Family, ConfigError> {
    let class = config.get("architectures").and_then(Value::as_array).and_then(|list| list.first()?.as_str());
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

/// Which layers slide: as `layer_types` says where it is given; else all of Qwen3-MoE's, and of
/// Qwen2's and Qwen3's those from `max_window_layers` on. The other families have no window.
fn windows(config: &Fields<'_>, family: Family, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    if layers > 4096 {
        return Err(ConfigError::new("num_hidden_layers", format!("must be at most 4096, got {layers}")));
    }
    let slides = layer_types(config, layers)?;
    let window = match family {
        Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe => {
            config.ignore(&["max_window_layers"]);
            let window = config.size_if_given("sliding_window")?;
            // A window is published with many models that do not use it.
            if !config.flag("use_sliding_window")?.unwrap_or(false) {
                return Ok(vec![None; layers]);
            }
            window
        }
        _ if slides.is_some_and(|slides| slides.contains(&true)) => {
            return Err(config.error("layer_types", "sliding_attention is not supported for this family"));
        }
        _ => return Ok(vec![None; layers]),
    };
    let slides = match (slides, family) {
        (Some(slides), _) if family != Family::Qwen3Moe => slides,
        (_, Family::Qwen2 | Family::Qwen3) => {
            let first = config.count("max_window_layers")?.unwrap_or(28);
            (0..layers).map(|layer| layer >= first).collect()
        }
        _ => vec![true; layers],
    };
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

/// Whether each layer slides, where `layer_types` is given.
fn layer_types(config: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
    let Some(types) = config.get("layer_types") else { return Ok(None) };
    let types = types.as_array().filter(|types| types.len() == layers).ok_or_else(|| {
        config.error("layer_types", format!("must be a list of {layers} strings (num_hidden_layers)"))
    })?;
    let slides = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => {
            let reason = format!("{kind} is not supported; supported: full_attention, sliding_attention");
            Err(config.error("layer_types", reason))
        }
    };
    types.iter().map(slides).collect::<Result<_, _>>().map(Some)
}
