//! A model's shape, read from config.json as transformers 4 or 5 writes it (or as `checkpoint`
//! derives it from GGUF metadata). Every value is checked where it is read: an absurd one is an
//! error that names its field, not a panic in a kernel.

use super::fields::{ConfigError, Fields};
use super::rope::Rope;
use crate::backend::{HeadLayout, RopeStyle};
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
}

const ARCHITECTURES: [(&str, Family); 3] = [
    ("LlamaForCausalLM", Family::Llama),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
];

/// A decoder-only transformer's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Whose layout.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Attention shape, equal in all layers.
    pub heads: HeadLayout,
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
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub o_bias: bool,
    /// RMSNorm on each head of q and k.
    pub qk_norm: bool,
    /// The output head is the embedding table.
    pub tied_embeddings: bool,
    /// Weights are f32 as stored, so the KV cache keeps f32 too.
    pub full_precision: bool,
}

impl ModelConfig {
    /// Reads config.json.
    pub fn from_json(config: &Value) -> Result<Self, ConfigError> {
        let config = Fields::root(config);
        let family = family(&config)?;
        let hidden = config.size("hidden_size")?;
        let layers = config.size("num_hidden_layers")?;
        let query_heads = config.size("num_attention_heads")?;
        let kv_heads = config.size_or("num_key_value_heads", query_heads)?;
        let head_dim = config.size_or("head_dim", hidden / query_heads)?;
        if query_heads % kv_heads != 0 {
            return Err(ConfigError::new(
                "num_attention_heads",
                format!("{query_heads} is not a multiple of num_key_value_heads ({kv_heads})"),
            ));
        }
        if head_dim % 8 != 0 || head_dim > 256 {
            return Err(ConfigError::new(
                "head_dim",
                format!("must be a multiple of 8 up to 256, got {head_dim}"),
            ));
        }
        if let Some(act) = config.string("hidden_act")?
            && act != "silu"
        {
            return Err(ConfigError::new("hidden_act", format!("`{act}` is not supported; supported: silu")));
        }
        if config.flag("mlp_bias")?.unwrap_or(false) {
            return Err(ConfigError::new("mlp_bias", "true is not supported"));
        }
        let attention_bias = config.flag("attention_bias")?;
        let (qkv_bias, o_bias) = match family {
            Family::Qwen2 => (attention_bias.unwrap_or(true), false),
            Family::Llama | Family::Qwen3 => {
                (attention_bias.unwrap_or(false), attention_bias.unwrap_or(false))
            }
        };
        let rope = Rope::from_config(&config)?;
        let trained = config.size_or("max_position_embeddings", 2048)?;
        let interleaved = config.flag("rope_interleaved")?.unwrap_or(false);
        let dtype = match config.string("dtype")? {
            Some(dtype) => Some(dtype),
            None => config.string("torch_dtype")?,
        };
        Ok(Self {
            family,
            hidden,
            intermediate: config.size("intermediate_size")?,
            heads: HeadLayout { heads: query_heads, kv_heads, head_dim },
            windows: windows(&config, family, layers)?,
            rms_eps: config.positive_or("rms_norm_eps", 1e-6)? as f32,
            vocab: config.size("vocab_size")?,
            max_context: rope.stretched_context().map_or(trained, |stretched| stretched.max(trained)),
            rope,
            rope_style: if interleaved { RopeStyle::Interleaved } else { RopeStyle::Half },
            qkv_bias,
            o_bias,
            qk_norm: family == Family::Qwen3,
            tied_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(false),
            full_precision: dtype == Some("float32"),
        })
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.windows.len()
    }
}

fn family(config: &Fields<'_>) -> Result<Family, ConfigError> {
    let named = match config.get("architectures").and_then(Value::as_array) {
        Some(list) => list.first().and_then(Value::as_str),
        None => None,
    };
    let supported = || ARCHITECTURES.map(|(name, _)| name).join(", ");
    match named {
        Some(name) => {
            ARCHITECTURES.iter().find(|(known, _)| *known == name).map(|(_, family)| *family).ok_or_else(
                || {
                    ConfigError::new(
                        "architectures",
                        format!("`{name}` is not supported; supported: {}", supported()),
                    )
                },
            )
        }
        None => match config.string("model_type")? {
            Some("llama") => Ok(Family::Llama),
            Some("qwen2") => Ok(Family::Qwen2),
            Some("qwen3") => Ok(Family::Qwen3),
            Some(other) => Err(ConfigError::new(
                "model_type",
                format!("`{other}` is not supported; supported: llama, qwen2, qwen3"),
            )),
            None => Err(ConfigError::new("architectures", format!("is missing; supported: {}", supported()))),
        },
    }
}

/// Which layers slide: `layer_types` where it is given, else from `max_window_layers` on.
fn windows(config: &Fields<'_>, family: Family, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    if layers > 4096 {
        return Err(ConfigError::new("num_hidden_layers", format!("must be at most 4096, got {layers}")));
    }
    let slides = family != Family::Llama && config.flag("use_sliding_window")?.unwrap_or(false);
    let window = if slides { config.size_if_given("sliding_window")? } else { None };
    let Some(window) = window else {
        return Ok(vec![None; layers]);
    };
    if let Some(types) = config.get("layer_types") {
        let types = types.as_array().filter(|t| t.len() == layers).ok_or_else(|| {
            ConfigError::new("layer_types", format!("must be a list of {layers} strings (num_hidden_layers)"))
        })?;
        return types
            .iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => Ok(Some(window)),
                _ => Err(ConfigError::new(
                    "layer_types",
                    format!("{kind} is not supported; supported: full_attention, sliding_attention"),
                )),
            })
            .collect();
    }
    let first = config.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28) as usize;
    Ok((0..layers).map(|layer| (layer >= first).then_some(window)).collect())
}
