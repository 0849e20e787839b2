//! Model families, written once over the [`Backend`] trait. [`config`] reads a model's shape
//! ([`rope`] its rotary embedding), [`weights`] finds its tensors, [`inventory`] lists them, [`decoder`] is the forward pass. Nothing here knows requests,
//! blocks being allocated, or what hardware it runs on.

pub mod config;
pub mod decoder;
pub mod fields;
pub mod inventory;
pub mod rope;
pub mod weights;

pub use config::ModelConfig;
pub use decoder::Decoder;
pub use fields::ConfigError;
pub use weights::{LoadError, Weights};

use crate::backend::{Backend, Batch, KvSpec};

/// A loaded model: a step's rows in, logits of chosen rows out.
pub trait Model<B: Backend>: Send {
    /// What one KV block holds.
    fn kv_spec(&self) -> KvSpec;
    /// Rows of the output head: valid token ids are below it.
    fn vocab(&self) -> usize;
    /// Computes a step's hidden states and writes its keys and values.
    fn forward(&mut self, backend: &mut B, batch: &Batch, kv: &mut B::KvCache);
    /// Logits of these rows of the last [`Model::forward`], `[rows.len(), vocab]`; at most
    /// [`LOGIT_ROWS_MAX`] at a time.
    fn logits(&mut self, backend: &mut B, rows: &[u32]) -> &B::Tensor;
}

/// Rows of logits that are held at once. Bounds their memory: 64 rows of a vocabulary of
/// 151,936 are 39 MB.
pub const LOGIT_ROWS_MAX: usize = 64;
