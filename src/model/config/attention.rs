//! The attention part of config.json.

use super::Family;
use crate::backend::{HeadLayout, LatentLayout};
use crate::model::fields::{ConfigError, Fields};
use crate::model::rope::Rope;

/// A model's attention, equal in all layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attention {
    /// A key and a value per kv head (multi-head, grouped-query and multi-query).
    Gqa(Gqa),
    /// A latent per token.
    Mla(Mla),
}

/// Grouped-query attention (Ainslie et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gqa {
    /// Its shape.
    pub heads: HeadLayout,
    /// Leading values of each head that are rotated.
    pub rotary_dim: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub o_bias: bool,
    /// RMSNorm of q and k.
    pub qk_norm: QkNorm,
}

/// What q's and k's norm runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// There is none.
    None,
    /// Each head by itself (Qwen3).
    Head,
    /// All heads of a token together (MiniMax-M2).
    Joint,
}

/// Multi-head latent attention (DeepSeek-V2, 2024).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mla {
    /// Its shape.
    pub layout: LatentLayout,
    /// `q_lora_rank`: q too goes through a latent.
    pub q_rank: Option<usize>,
    /// Factor on scores: 1 / sqrt(q's head size), sharpened where YaRN's `mscale_all_dim` says so.
    pub scale: f32,
}

impl Attention {
    pub(super) fn read(
        config: &Fields<'_>,
        family: Family,
        hidden: usize,
        rope: &Rope,
    ) -> Result<Self, ConfigError> {
        if family.is_deepseek() { Self::mla(config, rope) } else { Self::gqa(config, family, hidden) }
    }

    fn gqa(config: &Fields<'_>, family: Family, hidden: usize) -> Result<Self, ConfigError> {
        let heads = config.size("num_attention_heads")?;
        // Absent, it is what transformers takes it for.
        let kv_heads = match family {
            Family::Mistral | Family::Ministral => 8,
            Family::SmolLm3 | Family::Gemma3 => 4,
            _ => heads,
        };
        let kv_heads = config.size_or("num_key_value_heads", kv_heads)?;
        let head_dim = match family {
            Family::Gemma3 => 256,
            _ => hidden / heads,
        };
        let head_dim = config.size_or("head_dim", head_dim)?;
        if heads % kv_heads != 0 {
            return Err(ConfigError::new(
                "num_attention_heads",
                format!("{heads} is not a multiple of num_key_value_heads ({kv_heads})"),
            ));
        }
        if head_dim % 8 != 0 || head_dim > 256 {
            return Err(ConfigError::new(
                "head_dim",
                format!("must be a multiple of 8 up to 256, got {head_dim}"),
            ));
        }
        let bias = config.flag("attention_bias")?;
        let (qkv_bias, o_bias) = match family {
            Family::Qwen2 => (bias.unwrap_or(true), false),
            // transformers gives these none, whatever the field says.
            Family::Mistral | Family::Ministral | Family::Phi3 => match bias {
                Some(true) => {
                    return Err(config.error("attention_bias", "true is not supported for this family"));
                }
                _ => (false, false),
            },
            _ => (bias.unwrap_or(false), bias.unwrap_or(false)),
        };
        let qk_norm = match family {
            // Qwen3-Coder says so in its config, the others do not.
            Family::Qwen3 | Family::Qwen3Moe if config.flag("use_qk_norm")? == Some(false) => {
                return Err(config.error("use_qk_norm", "false is not supported for this family"));
            }
            Family::Qwen3 | Family::Qwen3Moe | Family::Gemma3 => QkNorm::Head,
            Family::MinimaxM2 => minimax_norm(config)?,
            _ => QkNorm::None,
        };
        let rotary_dim = match family {
            Family::MinimaxM2 | Family::Phi3 => rotary_dim(config, head_dim)?,
            _ if rotary_dim(config, head_dim)? == head_dim => head_dim,
            _ => {
                let reason = "other than 1 is not supported for this family";
                return Err(ConfigError::new("partial_rotary_factor", reason));
            }
        };
        let heads = HeadLayout { heads, kv_heads, head_dim };
        let scale = match family {
            Family::Granite => config.positive_or("attention_multiplier", 1.0)? as f32,
            Family::Gemma3 => 1.0 / config.positive_or("query_pre_attn_scalar", 256.0)?.sqrt() as f32,
            _ => 1.0 / (head_dim as f32).sqrt(),
        };
        Ok(Attention::Gqa(Gqa { heads, rotary_dim, scale, qkv_bias, o_bias, qk_norm }))
    }

    fn mla(config: &Fields<'_>, rope: &Rope) -> Result<Self, ConfigError> {
        let layout = LatentLayout {
            heads: config.size("num_attention_heads")?,
            rank: config.size("kv_lora_rank")?,
            nope_dim: config.size("qk_nope_head_dim")?,
            rope_dim: config.size("qk_rope_head_dim")?,
            v_dim: config.size("v_head_dim")?,
        };
        for (field, value, most) in [
            ("kv_lora_rank", layout.rank, 1024),
            ("qk_rope_head_dim", layout.rope_dim, 256),
            ("qk_nope_head_dim", layout.nope_dim, 1024),
            ("v_head_dim", layout.v_dim, 1024),
        ] {
            if value % 8 != 0 || value > most {
                return Err(ConfigError::new(
                    field,
                    format!("must be a multiple of 8 up to {most}, got {value}"),
                ));
            }
        }
        if config.flag("attention_bias")?.unwrap_or(false) {
            return Err(ConfigError::new("attention_bias", "true is not supported for this family"));
        }
        let sharpened = rope.mscale_all_dim();
        let scale = sharpened * sharpened / ((layout.nope_dim + layout.rope_dim) as f32).sqrt();
        Ok(Attention::Mla(Mla { layout, q_rank: config.size_if_given("q_lora_rank")?, scale }))
    }
}

/// MiniMax-M2's, and what else its config says of attention as its predecessors had it.
fn minimax_norm(config: &Fields<'_>) -> Result<QkNorm, ConfigError> {
    if let Some(kinds) = config.get("attn_type_list")
        && kinds.as_array().is_none_or(|kinds| kinds.iter().any(|kind| kind.as_u64() != Some(1)))
    {
        let reason = "must be a list of 1 (full attention); linear attention is not supported";
        return Err(config.error("attn_type_list", reason));
    }
    match (config.flag("use_qk_norm")?, config.string("qk_norm_type")?) {
        (Some(false), _) => Ok(QkNorm::None),
        (_, None | Some("per_layer")) => Ok(QkNorm::Joint),
        (_, Some(other)) => {
            Err(config.error("qk_norm_type", format!("`{other}` is not supported; supported: per_layer")))
        }
    }
}

/// `rotary_dim`, or `partial_rotary_factor` of head_dim, wherever it stands.
fn rotary_dim(config: &Fields<'_>, head_dim: usize) -> Result<usize, ConfigError> {
    let mut nested = None;
    for object in ["rope_scaling", "rope_parameters"] {
        if let Some(parameters) = config.object(object)? {
            nested = nested.or(parameters.number("partial_rotary_factor")?);
        }
    }
    let factor = match nested {
        Some(factor) => Some(factor),
        None => config.number("partial_rotary_factor")?,
    };
    let dim = match (factor, config.size_if_given("rotary_dim")?) {
        (Some(factor), _) => (head_dim as f64 * factor) as usize,
        (None, Some(dim)) => dim,
        (None, None) => head_dim,
    };
    if dim == 0 || dim % 2 != 0 || dim > head_dim {
        return Err(ConfigError::new(
            "rotary_dim",
            format!("must be even, positive and at most head_dim ({head_dim}), got {dim}"),
        ));
    }
    Ok(dim)
}
