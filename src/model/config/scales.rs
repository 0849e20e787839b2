//! Constant factors along the residual stream.

use super::Family;
use crate::model::fields::{ConfigError, Fields};

/// What a family multiplies with; 1 where it does not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// Embeddings, on their way into the residual stream.
    pub embedding: f32,
    /// The output of a half layer, before it is added to the residual stream.
    pub residual: f32,
    /// Logits.
    pub logits: f32,
}

impl Scales {
    pub(super) fn read(config: &Fields<'_>, family: Family, hidden: usize) -> Result<Self, ConfigError> {
        let factor = |field: &str| Ok(config.positive_or(field, 1.0)? as f32);
        match family {
            Family::Granite => Ok(Self {
                embedding: factor("embedding_multiplier")?,
                residual: factor("residual_multiplier")?,
                // The logits are divided by it.
                logits: 1.0 / factor("logits_scaling")?,
            }),
            Family::Gemma3 => Ok(Self { embedding: (hidden as f32).sqrt(), residual: 1.0, logits: 1.0 }),
            _ => Ok(Self { embedding: 1.0, residual: 1.0, logits: 1.0 }),
        }
    }
}
