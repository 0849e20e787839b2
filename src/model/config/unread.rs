//! Fields of config.json that nothing has read, but whose names say that they change what a model
//! computes: a model that is served without them answers wrongly and says nothing. They are refused
//! by name.
//!
//! A field is let pass where its value is the one of models without the feature (null, false, an
//! empty list, 1 for a factor, 0 for another number), where it is known to be about training or
//! storage, and where its name holds none of the words of [`FEATURES`].

use super::Family;
use crate::model::fields::{ConfigError, Fields};
use serde_json::Value;

/// How the parts of a name begin that is about a feature of models: `sliding_window` has the parts
/// `sliding` and `window`.
const FEATURES: [&str; 43] = [
    "activation",
    "alibi",
    "altup",
    "attention",
    "attn",
    "audio",
    "bias",
    "bidirectional",
    "clamp",
    "clip",
    "compress",
    "cross",
    "expert",
    "gating",
    "hybrid",
    "laurel",
    "layernorm",
    "limit",
    "logit",
    "mamba",
    "moe",
    "multiplier",
    "mup",
    "nope",
    "norm",
    "partial",
    "position",
    "postnorm",
    "prenorm",
    "residual",
    "rmsnorm",
    "rope",
    "rotary",
    "rotation",
    "router",
    "scal",
    "shared",
    "sink",
    "sliding",
    "softcap",
    "ssm",
    "vision",
    "window",
];

/// More of them, which only several parts together say.
const PHRASES: [&str; 5] =
    ["layer_types", "index_topk", "text_config", "temperature_tuning", "quantization_config.dynamic"];

/// Parts of the names of factors, for which 1 is as good as none.
const FACTORS: [&str; 6] = ["scal", "multiplier", "factor", "alpha", "beta", "gamma"];

/// About training, storage or how others run the model.
const HARMLESS: [&str; 13] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "attn_pdrop",
    "num_logits_to_keep",
    "output_attentions",
    "output_router_logits",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "use_flash_attention",
];

/// An error about the first such field.
pub(super) fn refuse(config: &Fields<'_>, family: Family) -> Result<(), ConfigError> {
    for (path, value) in config.unread() {
        let harmless = HARMLESS.contains(&path.as_str()) || is_neutral(&path, value) || !is_feature(&path);
        if !harmless {
            let mut shown = value.to_string();
            if shown.chars().count() > 60 {
                shown = shown.chars().take(60).chain("...".chars()).collect();
            }
            let reason = format!(
                "{shown} is not supported for {}, and a field of this name can change what the model answers; take \
                 it out of config.json only if the model computes the same without it",
                family.architecture()
            );
            return Err(ConfigError::new(path, reason));
        }
    }
    Ok(())
}

/// Whether the field's name, or that of an object around it, says that it changes what the model
/// computes.
fn is_feature(path: &str) -> bool {
    let path = path.to_lowercase();
    let mut parts = path.split(|c: char| !c.is_alphanumeric());
    parts.any(|part| FEATURES.iter().any(|word| part.starts_with(word)))
        || PHRASES.iter().any(|phrase| path.contains(phrase))
}

/// Whether the value is that of models without the feature.
fn is_neutral(path: &str, value: &Value) -> bool {
    let factor = || {
        let name = path.rsplit('.').next().unwrap_or(path);
        name.split('_').any(|part| FACTORS.iter().any(|word| part.starts_with(word)))
    };
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(if factor() { 1.0 } else { 0.0 }),
        // `position_embedding_type`: what all families here have.
        Value::String(text) => text.is_empty() || text == "rope" || text == "default",
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
