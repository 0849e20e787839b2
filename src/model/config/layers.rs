//! What differs from layer to layer: sliding windows and rotary embeddings.

use super::Family;
use crate::model::fields::{ConfigError, Fields};
use serde_json::Value;

/// The rotary embedding of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The model's.
    Full,
    /// That of sliding layers.
    Sliding,
    /// None: positions are known from the causal mask alone (NoPE).
    None,
}

/// Layers that no published model comes near.
const LAYERS_MAX: usize = 4096;

/// `num_hidden_layers`.
pub(super) fn count(config: &Fields<'_>) -> Result<usize, ConfigError> {
    match config.size("num_hidden_layers")? {
        layers @ ..=LAYERS_MAX => Ok(layers),
        layers => {
            Err(config.error("num_hidden_layers", format!("must be at most {LAYERS_MAX}, got {layers}")))
        }
    }
}

/// Which layers have a rotary embedding, of families where some have none.
pub(super) fn rotates(
    config: &Fields<'_>,
    family: Family,
    layers: usize,
) -> Result<Option<Vec<bool>>, ConfigError> {
    if family != Family::SmolLm3 {
        return Ok(None);
    }
    let interval = config.size_or("no_rope_layer_interval", 4)?;
    let Some(list) = config.get("no_rope_layers") else {
        return Ok(Some((1..=layers).map(|layer| layer % interval != 0).collect()));
    };
    // For all its name, 1 stands for a layer that rotates.
    let rotates = |value: &Value| match value.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    };
    let list = list.as_array().filter(|list| list.len() == layers);
    let list = list.and_then(|list| list.iter().map(rotates).collect());
    let reason = || format!("must be a list of {layers} numbers 0 or 1 (num_hidden_layers)");
    list.map(Some).ok_or_else(|| config.error("no_rope_layers", reason()))
}

/// The window of each layer that slides. Those are what `layer_types` says where it is given; else
/// all layers of a family that slides, but of Qwen2 and Qwen3 those from `max_window_layers` on,
/// of SmolLM3 those that do not rotate, and of Gemma 3 all but every sixth. Other families have no window.
pub(super) fn windows(
    config: &Fields<'_>,
    family: Family,
    layers: usize,
    rotates: Option<&[bool]>,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let slides = layer_types(config, layers)?;
    let window = match family {
        Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe | Family::SmolLm3 => {
            config.ignore(&["max_window_layers"]);
            let window = config.size_if_given("sliding_window")?;
            // A window is published with many models that do not use it.
            if !config.flag("use_sliding_window")?.unwrap_or(false) {
                return Ok(vec![None; layers]);
            }
            window
        }
        // Absent is what transformers takes it for; null is no window.
        Family::Mistral | Family::Ministral | Family::Gemma3 if !config.has("sliding_window") => Some(4096),
        Family::Phi3 if config.count("full_attn_mod")?.is_some_and(|every| every != 1) => {
            return Err(config.error("full_attn_mod", "other than 1 is not supported"));
        }
        Family::Mistral | Family::Ministral | Family::Phi3 | Family::Gemma3 => {
            config.size_if_given("sliding_window")?
        }
        _ if slides.as_ref().is_some_and(|slides| slides.contains(&true)) => {
            return Err(config.error("layer_types", "sliding_attention is not supported for this family"));
        }
        _ => return Ok(vec![None; layers]),
    };
    let pattern = match family {
        // transformers 5 keeps the pattern for itself, beside the list that it has made of it.
        Family::Gemma3 => config
            .size_if_given("sliding_window_pattern")?
            .or(config.size_if_given("_sliding_window_pattern")?),
        _ => None,
    };
    let slides = match (slides, family) {
        // transformers slides in all layers of these, whatever the list says.
        (_, Family::Qwen3Moe) => vec![true; layers],
        (Some(slides), _) => slides,
        (_, Family::Qwen2 | Family::Qwen3) => {
            let first = config.count("max_window_layers")?.unwrap_or(28);
            (0..layers).map(|layer| layer >= first).collect()
        }
        (_, Family::Gemma3) => {
            let pattern = pattern.unwrap_or(6);
            (1..=layers).map(|layer| layer % pattern != 0).collect()
        }
        (_, Family::SmolLm3) => rotates.unwrap_or_default().iter().map(|rotates| !rotates).collect(),
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

/// The rotary embedding of each layer; `own` says whether sliding layers have their own.
pub(super) fn rotations(windows: &[Option<usize>], rotates: Option<&[bool]>, own: bool) -> Vec<Rotation> {
    let of = |(layer, window): (usize, &Option<usize>)| match (rotates.is_none_or(|all| all[layer]), window) {
        (false, _) => Rotation::None,
        (true, Some(_)) if own => Rotation::Sliding,
        (true, _) => Rotation::Full,
    };
    windows.iter().enumerate().map(of).collect()
}
