//! A target as the books know it.

use super::calibration::Calibration;
use super::metrics::{AttemptMetrics, TargetMetrics};
use crate::config::Model;
use crate::gateway::wire::Dialect;
use std::sync::{Arc, OnceLock};

/// Whom attempts are booked for.
pub struct Counterparty {
    /// Its entry in the configuration.
    pub model: Arc<Model>,
    /// None: this process serves it.
    pub provider: Option<Provider>,
    /// What it counts for one of our estimate's tokens.
    pub calibration: Arc<Calibration>,
    /// Once it was asked.
    metrics: OnceLock<Arc<TargetMetrics>>,
}

/// Who hosts a model.
pub struct Provider {
    /// By the configuration.
    pub name: String,
    /// The provider's name for the model.
    pub model: String,
    /// The format that it speaks.
    pub dialect: Dialect,
    /// Where its paths begin.
    pub base_url: String,
}

impl Counterparty {
    /// That nothing has been booked for yet.
    pub fn new(model: Arc<Model>, provider: Option<Provider>) -> Self {
        Self { model, provider, calibration: Arc::default(), metrics: OnceLock::new() }
    }

    /// By which its attempts are counted, among `all`.
    pub fn metrics(&self, all: &AttemptMetrics) -> &Arc<TargetMetrics> {
        let provider = self.provider.as_ref().map(|provider| provider.name.as_str());
        self.metrics.get_or_init(|| Arc::new(all.of(&self.model.name, provider)))
    }
}
