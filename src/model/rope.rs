//! Rotary position embeddings (Su et al. 2021) and the published ways to stretch them: linear
//! interpolation (Chen et al. 2023), Llama 3.1's banded interpolation, YaRN (Peng et al. 2023),
//! LongRoPE (Ding et al. 2024).
//! All of them only choose `inv_freq` and a factor on cos and sin; the numbers follow
//! transformers' `modeling_rope_utils.py`, in f32 where it computes in f32.

use super::fields::{ConfigError, Fields};
use std::f64::consts::PI;

/// A model's rotary embedding as its config states it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// The rotary embeddings of a model's layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Ropes {
    /// Of layers with full attention, and of all where there is no other.
    pub full: Rope,
    /// Of layers with a sliding window, where the config gives them their own.
    pub sliding: Option<Rope>,
}

/// The supported values of `rope_type`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    Default,
    /// Positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Long wavelengths divided, short ones kept, a smooth band between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq` are divided.
        low_freq: f64,
        /// Wavelengths below `original / high_freq` are kept.
        high_freq: f64,
        /// Context length before stretching.
        original: f64,
    },
    /// Frequencies interpolated by ramp, attention sharpened.
    Yarn {
        /// The divisor.
        factor: f64,
        /// Context length before stretching.
        original: f64,
        /// Rotations at which extrapolation ends.
        beta_fast: f64,
        /// Rotations at which interpolation is full.
        beta_slow: f64,
        /// Factor on cos and sin.
        attention: f64,
        /// DeepSeek's `mscale_all_dim` as a factor on q and on k, 1 where there is none.
        mscale_all_dim: f64,
        /// Whether the ramp's borders are whole dimensions.
        truncate: bool,
    },
    /// One divisor per frequency, others beyond the trained context (LongRoPE, Ding et al. 2024).
    LongRope {
        /// Divisors for contexts up to `original`; None where the checkpoint carries them.
        short: Option<Vec<f32>>,
        /// Divisors for longer contexts.
        long: Option<Vec<f32>>,
        /// Context length before stretching.
        original: f64,
        /// Factor on cos and sin.
        attention: f64,
    },
    /// The checkpoint carries one divisor per frequency (GGUF's `rope_freqs.weight`).
    Factors,
}

/// Positions of the longest stretched context: what `max_position_embeddings` may say, too.
const CONTEXT_MAX: f64 = (1 << 24) as f64;

const SUPPORTED: &str = "default, linear, llama3, yarn, longrope";

/// The base where a config has no word about its rotary embedding (Llama 1 and 2).
const THETA: f64 = 10_000.0;

/// Under which `rope_parameters` holds a rotary embedding for each type of layer.
const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

impl Rope {
    /// From `rope_scaling` (transformers 4, and what users add to a config), else from
    /// `rope_parameters` (transformers 5). The base is from the first of them that has it, else
    /// from the config itself.
    pub fn from_config(config: &Fields<'_>) -> Result<Ropes, ConfigError> {
        // Of scalings that depend on it; Phi-3 and Phi-4 are published with it where there is none.
        config.ignore(&["original_max_position_embeddings"]);
        let (old, new) = (config.object("rope_scaling")?, config.object("rope_parameters")?);
        let old = old.filter(|scaling| !scaling.is_empty());
        if let (None, Some(parameters)) = (&old, &new)
            && LAYER_TYPES.iter().any(|kind| parameters.get(kind).is_some())
        {
            let of = |kind: &str| match parameters.object(kind)? {
                Some(own) => Self::read(&own, config, own.positive("rope_theta")?).map(Some),
                None => Ok(None),
            };
            let full = of(LAYER_TYPES[0])?.ok_or_else(|| parameters.error(LAYER_TYPES[0], "is missing"))?;
            config.ignore(&["rope_theta"]);
            return Ok(Ropes { full, sliding: of(LAYER_TYPES[1])? });
        }
        let mut theta = None;
        for fields in [old.as_ref(), new.as_ref(), Some(config)].into_iter().flatten() {
            theta = theta.or(fields.positive("rope_theta")?);
        }
        let full = match (old, new.filter(|parameters| !parameters.is_empty())) {
            (Some(scaling), other) => {
                if let Some(other) = other {
                    other.ignore_all();
                }
                Self::read(&scaling, config, theta.or(Some(THETA)))?
            }
            (None, Some(parameters)) => Self::read(&parameters, config, theta)?,
            (None, None) => Self { theta: theta.unwrap_or(THETA), scaling: RopeScaling::Default },
        };
        Ok(Ropes { full, sliding: None })
    }

    /// The same of Gemma 3, whose bases have defaults and whose sliding layers have their own: as
    /// `rope_parameters` by type of layer (transformers 5), or as `rope_local_base_freq`, which no
    /// scaling touches.
    pub fn of_gemma3(config: &Fields<'_>) -> Result<Ropes, ConfigError> {
        let local = config.positive_or("rope_local_base_freq", THETA)?;
        let mut ropes = Self::from_config(config)?;
        let given = [config.object("rope_scaling")?, config.object("rope_parameters")?];
        let given = given.into_iter().flatten().any(|object| object.get("rope_theta").is_some());
        if ropes.sliding.is_none() {
            if !given && config.get("rope_theta").is_none() {
                ropes.full.theta = 1e6;
            }
            ropes.sliding = Some(Self { theta: local, scaling: RopeScaling::Default });
        }
        Ok(ropes)
    }

    /// From the object that holds a type and its numbers, and the base found for it.
    fn read(parameters: &Fields<'_>, config: &Fields<'_>, theta: Option<f64>) -> Result<Self, ConfigError> {
        let theta = theta.ok_or_else(|| parameters.error("rope_theta", "is missing"))?;
        let kind = match (parameters.string("rope_type")?, parameters.string("type")?) {
            (Some(kind), Some(other)) if kind != other => {
                return Err(parameters.error("type", format!("`{other}` contradicts rope_type `{kind}`")));
            }
            // The first Phi-3 had LongRoPE under another's name.
            (Some("yarn"), _) | (_, Some("yarn")) if parameters.get("long_factor").is_some() => "longrope",
            (Some(kind), _) | (None, Some(kind)) => kind,
            (None, None) => "default",
        };
        let need = |field: &str| {
            let reason = || parameters.error(field, format!("is required by rope type {kind}"));
            parameters.positive(field)?.ok_or_else(reason)
        };
        let trained = config.positive("max_position_embeddings")?;
        // Phi-3 keeps it beside max_position_embeddings.
        let original = match parameters.positive("original_max_position_embeddings")? {
            Some(original) => Some(original),
            None => config.positive("original_max_position_embeddings")?,
        };
        let original = |or: Option<f64>| match original.or(or) {
            Some(original) => Ok(original),
            None => need("original_max_position_embeddings"),
        };
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: need("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq: need("low_freq_factor")?,
                high_freq: need("high_freq_factor")?,
                original: original(None)?,
            },
            "yarn" => {
                let original = original(trained)?;
                let factor = match (parameters.positive("factor")?, trained) {
                    (Some(factor), _) => factor,
                    (None, Some(trained)) => trained / original,
                    (None, None) => need("factor")?,
                };
                if factor < 1.0 || factor * original > CONTEXT_MAX {
                    let reason = format!(
                        "must be at least 1, and at most {CONTEXT_MAX} when multiplied with \
                         original_max_position_embeddings ({original}), got {factor}"
                    );
                    return Err(parameters.error("factor", reason));
                }
                let mscale = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
                let (m, all) = (parameters.number("mscale")?, parameters.number("mscale_all_dim")?);
                let attention = match (parameters.positive("attention_factor")?, m, all) {
                    (Some(given), ..) => given,
                    (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => {
                        mscale(factor, m) / mscale(factor, all)
                    }
                    _ => mscale(factor, 1.0),
                };
                // Of the first checkpoints with YaRN; says how they were made.
                parameters.ignore(&["finetuned"]);
                RopeScaling::Yarn {
                    factor,
                    original,
                    beta_fast: parameters.positive_or("beta_fast", 32.0)?,
                    beta_slow: parameters.positive_or("beta_slow", 1.0)?,
                    attention,
                    mscale_all_dim: mscale(factor, all.unwrap_or(0.0)),
                    truncate: parameters.flag("truncate")?.unwrap_or(true),
                }
            }
            // "su" was LongRoPE's first name.
            "longrope" | "su" => {
                let (short, long) =
                    (parameters.positive_list("short_factor")?, parameters.positive_list("long_factor")?);
                let original = original(None)?;
                let factor = match (parameters.positive("factor")?, trained) {
                    (Some(factor), _) => factor,
                    (None, Some(trained)) => trained / original,
                    (None, None) => need("factor")?,
                };
                let attention = match parameters.positive("attention_factor")? {
                    Some(given) => given,
                    None if factor <= 1.0 => 1.0,
                    None => (1.0 + factor.ln() / original.ln()).sqrt(),
                };
                RopeScaling::LongRope { short, long, original, attention }
            }
            "gguf_freqs" => RopeScaling::Factors,
            other => {
                let reason = format!("`{other}` is not supported; supported: {SUPPORTED}");
                return Err(parameters.error("rope_type", reason));
            }
        };
        Ok(Self { theta, scaling })
    }

    /// Positions that the stretched embedding was made for, when the config says so itself.
    pub fn stretched_context(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Yarn { factor, original, .. } => Some((factor * original) as usize),
            _ => None,
        }
    }

    /// Factor on all of q and k that latent attention applies (not only on their rotated part).
    pub fn mscale_all_dim(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { mscale_all_dim, .. } => mscale_all_dim as f32,
            _ => 1.0,
        }
    }

    /// Factor on cos and sin.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention, .. } | RopeScaling::LongRope { attention, .. } => attention as f32,
            _ => 1.0,
        }
    }

    /// An error where there are not as many divisors as frequencies.
    pub(super) fn check(&self, rotary_dim: usize) -> Result<(), ConfigError> {
        let RopeScaling::LongRope { short, long, .. } = &self.scaling else { return Ok(()) };
        for (field, list) in [("short_factor", short), ("long_factor", long)] {
            if let Some(found) = list.as_ref().map(Vec::len).filter(|found| *found != rotary_dim / 2) {
                let reason = format!(
                    "must be a list of {} numbers, half of a head's rotated values, got {found}",
                    rotary_dim / 2
                );
                return Err(ConfigError::new(format!("rope_scaling.{field}"), reason));
            }
        }
        Ok(())
    }

    /// The tensor with the divisors that this embedding has in the checkpoint, for sequences of up
    /// to `context` tokens; None where it has none there.
    pub fn factors_tensor(&self, context: usize) -> Option<&'static str> {
        match &self.scaling {
            RopeScaling::Factors => Some("rope_freqs.weight"),
            RopeScaling::LongRope { short: None, original, .. } if context as f64 <= *original => {
                Some("rope_factors_short.weight")
            }
            RopeScaling::LongRope { long: None, .. } => Some("rope_factors_long.weight"),
            _ => None,
        }
    }

    /// `rotary_dim / 2` frequencies, for sequences of up to `context` tokens. `factors` are the
    /// divisors of [`Rope::factors_tensor`].
    ///
    /// LongRoPE is by its authors' code chosen anew for each call, by the length so far. Keys in a
    /// cache cannot change with it, so that, as in llama.cpp and vLLM, the longest sequence that is
    /// served decides for all of them.
    pub fn inv_freq(&self, rotary_dim: usize, context: usize, factors: Option<&[f32]>) -> Vec<f32> {
        let dim = rotary_dim as f64;
        let power = |i: usize| self.theta.powf(2.0 * i as f64 / dim) as f32;
        let base: Vec<f32> = (0..rotary_dim / 2).map(|i| 1.0 / power(i)).collect();
        let divided = |by: &[f32]| (0..rotary_dim / 2).map(|i| 1.0 / (by[i] * power(i))).collect();
        match self.scaling {
            RopeScaling::Default => base,
            RopeScaling::Factors => {
                let factors = factors.unwrap_or(&[]);
                base.iter().enumerate().map(|(i, f)| f / factors.get(i).copied().unwrap_or(1.0)).collect()
            }
            RopeScaling::LongRope { ref short, ref long, original, .. } => {
                let own = if context as f64 <= original { short } else { long };
                match own.as_deref().or(factors) {
                    Some(factors) => divided(factors),
                    None => base,
                }
            }
            RopeScaling::Linear { factor } => base.iter().map(|f| f / factor as f32).collect(),
            RopeScaling::Llama3 { factor, low_freq, high_freq, original } => base
                .iter()
                .map(|&f| {
                    let wavelength = 2.0 * PI / f as f64;
                    if wavelength > original / low_freq {
                        f / factor as f32
                    } else if wavelength < original / high_freq {
                        f
                    } else {
                        let smooth = (original / wavelength - low_freq) / (high_freq - low_freq);
                        ((1.0 - smooth) * f as f64 / factor + smooth * f as f64) as f32
                    }
                })
                .collect(),
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let border =
                    |rotations: f64| dim * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (border(beta_fast), border(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                (0..rotary_dim / 2)
                    .map(|i| {
                        let kept = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
                        let interpolated = 1.0 / (factor as f32 * power(i));
                        interpolated * (1.0 - kept) + base[i] * kept
                    })
                    .collect()
            }
        }
    }
}
