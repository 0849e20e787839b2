//! Model families, written once over the [`Backend`] trait. [`config`] reads a model's shape
//! ([`rope`] its rotary embedding) and [`inventory`] lists the tensors that it implies. [`weights`]
//! finds them ([`quantization`] those that are stored packed), [`mod@check`] says beforehand whether all are
//! there, and [`loader`] takes a rank's
//! [`shard`]. [`decoder`] is what all families share ([`pooling`] what it gives in place of tokens); [`llama`], [`qwen3_moe`], [`deepseek`] and
//! [`minimax_m2`] are their layers, built of [`gqa`], [`mla`], [`mlp`] and [`moe`]. Nothing here knows
//! requests, blocks being allocated, or what hardware it runs on.

pub mod config;
pub mod fields;
pub mod rope;
pub mod inventory;
pub mod quantization;
pub mod weights;
pub mod check;
pub mod shard;
pub mod loader;
pub mod pooling;
pub mod decoder;
pub mod gqa;
pub mod mla;
pub mod mlp;
pub mod moe;
pub mod llama;
pub mod qwen3_moe;
pub mod deepseek;
pub mod minimax_m2;

pub use check::check;
pub use config::{Family, ModelConfig};
pub use fields::ConfigError;
pub use loader::Loader;
pub use pooling::PoolingHead;
pub use quantization::Quantization;
pub use weights::{LoadError, Weights};

use crate::backend::{Backend, KvSpec};
use decoder::Decoder;

/// A loaded model: a step's rows in, logits of chosen rows out. With several ranks, each calls
/// the same methods with the same arguments at the same time.
pub trait Model<B: Backend>: Send {
    /// What one KV block holds, on this rank.
    fn kv_spec(&self) -> KvSpec;
    /// Rows of the output head: valid token ids are below it.
    fn vocab(&self) -> usize;
    /// Computes the hidden states of the step that the backend has begun, and writes its keys and
    /// values.
    fn forward(&mut self, backend: &mut B, kv: &mut B::KvCache);
    /// Logits of that range of the step's outputs, after [`Model::forward`]: `[outputs, vocab]`;
    /// at most [`LOGIT_ROWS_MAX`] at a time.
    fn logits(&mut self, backend: &mut B, outputs: std::ops::Range<usize>) -> &mut B::Tensor;
    /// Hidden states after the final norm of that range of the step's outputs, after [`Model::forward`], whole on
    /// each rank: `[outputs, hidden]`; at most [`LOGIT_ROWS_MAX`] at a time.
    fn hidden(&mut self, backend: &mut B, outputs: std::ops::Range<usize>) -> &mut B::Tensor;
    /// What they are for.
    fn pooling_head(&self) -> &PoolingHead;
}

/// Rows of logits that are held at once. Bounds their memory: 64 rows of a vocabulary of
/// 151,936 are 39 MB.
pub const LOGIT_ROWS_MAX: usize = 64;

/// Loads the share of the loader's rank, `threads` layers at a time, for steps of up to `rows`
/// rows. `progress` is told (loaded, total) pieces, from any thread.
pub fn load<B: Backend + Sync>(
    loader: &Loader<'_, B>,
    rows: usize,
    threads: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Box<dyn Model<B>>, LoadError> {
    loader.check_layers()?;
    Ok(match loader.config.family {
        Family::Llama
        | Family::Mistral
        | Family::Ministral
        | Family::SmolLm3
        | Family::Granite
        | Family::Phi3
        | Family::Gemma3
        | Family::Qwen2
        | Family::Qwen3 => Box::new(Decoder::<B, llama::Layer<B>>::load(loader, rows, threads, progress)?),
        Family::Qwen3Moe => {
            Box::new(Decoder::<B, qwen3_moe::Layer<B>>::load(loader, rows, threads, progress)?)
        }
        Family::DeepseekV2 | Family::DeepseekV3 => {
            Box::new(Decoder::<B, deepseek::Layer<B>>::load(loader, rows, threads, progress)?)
        }
        Family::MinimaxM2 => {
            Box::new(Decoder::<B, minimax_m2::Layer<B>>::load(loader, rows, threads, progress)?)
        }
    })
}
