//! Encoders of the BERT family: texts in, vectors or logits of labels out. [`config`] reads a model's shape; the
//! forward pass is candle-transformers', over padded batches and in f32, on the CPU.
//!
//! Invariants: a text's result does not depend on the others of its batch but for rounding (padding is masked, and
//! matrix products of other sizes may add up in another order); all threads are those of a pool of the encoder's
//! own, once [`crate::backend::cpu::candle`] has left candle's without any. Deliberately absent: a cache, since every
//! token reads every other, and GPUs, of which candle knows none that this program does.

pub mod config;
mod network;

pub use config::{EncoderConfig, Family, Output};

use crate::checkpoint::{Checkpoint, PoolingMode};
use crate::model::pooling::normalise;
use crate::protocol::{EngineTasks, TokenId};
use candle_core::{Device, Tensor};
use network::Network;
use rayon::prelude::*;

/// A text, or a pair of them, in tokens.
#[derive(Clone, Copy, Debug)]
pub struct EncoderText<'a> {
    /// At least one.
    pub ids: &'a [TokenId],
    /// Of which text of a pair each is.
    pub types: Option<&'a [u32]>,
}

/// What an engine runs: texts to numbers, as many at a time as it is given.
pub trait TextEncoder: Send {
    /// What it can be asked for.
    fn tasks(&self) -> EngineTasks;
    /// Kinds of tokens that it tells apart.
    fn token_types(&self) -> usize;
    /// The numbers of each text.
    ///
    /// # Errors
    /// What broke; nothing can be said of any of the texts.
    fn encode(&mut self, texts: &[EncoderText<'_>]) -> Result<Vec<Vec<f32>>, String>;
}

/// A loaded encoder.
pub struct Encoder {
    config: EncoderConfig,
    network: Network,
    pool: rayon::ThreadPool,
}

/// A batch's hidden states, `[texts, tokens, hidden]`, on the host.
struct Hidden {
    values: Vec<f32>,
    tokens: usize,
    width: usize,
}

impl Encoder {
    /// Loads every weight, in f32.
    ///
    /// # Errors
    /// Names the tensor that is missing or of another shape.
    pub fn load(config: EncoderConfig, checkpoint: &Checkpoint, threads: usize) -> Result<Self, String> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("encoder {index}"))
            .build()
            .map_err(|error| format!("the encoder's threads could not be started: {error}"))?;
        let network = Network::load(&config, checkpoint)?;
        Ok(Self { config, network, pool })
    }

    /// A padded batch.
    fn batch(&self, texts: &[EncoderText<'_>]) -> candle_core::Result<Vec<Vec<f32>>> {
        let tokens = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let padded = |of: &dyn Fn(&EncoderText<'_>, usize) -> Option<u32>, pad: u32| {
            let row = |text| (0..tokens).map(move |at| of(text, at).unwrap_or(pad));
            Tensor::from_vec(
                texts.iter().flat_map(row).collect::<Vec<u32>>(),
                (texts.len(), tokens),
                &Device::Cpu,
            )
        };
        let ids = padded(&|text, at| text.ids.get(at).copied(), self.config.pad)?;
        let mask = padded(&|text, at| Some(u32::from(at < text.ids.len())), 0)?;
        let reads_types = self.config.token_types > 1;
        let types = padded(&|text, at| text.types.filter(|_| reads_types)?.get(at).copied(), 0)?;
        let hidden = self.network.forward(&ids, &types, &mask)?;
        let width = self.config.hidden;
        let hidden = Hidden { values: hidden.flatten_all()?.to_vec1()?, tokens, width };
        let lengths = texts.iter().map(|text| text.ids.len()).enumerate();
        match self.config.output {
            Output::Embedding { pooling, normalise: whole } => Ok(lengths
                .map(|(text, length)| {
                    let mut values = hidden.pool(text, length, pooling);
                    if whole {
                        normalise(&mut values);
                    }
                    values
                })
                .collect()),
            Output::Labels { pooling, .. } => {
                let pooled: Vec<f32> =
                    lengths.flat_map(|(text, length)| hidden.pool(text, length, pooling)).collect();
                self.network.labels(&Tensor::from_vec(pooled, (texts.len(), width), &Device::Cpu)?)?.to_vec2()
            }
        }
    }
}

impl TextEncoder for Encoder {
    fn tasks(&self) -> EngineTasks {
        let embeds = matches!(self.config.output, Output::Embedding { .. });
        EngineTasks { generates: false, embeds, classifies: !embeds }
    }

    fn token_types(&self) -> usize {
        self.config.token_types
    }

    fn encode(&mut self, texts: &[EncoderText<'_>]) -> Result<Vec<Vec<f32>>, String> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|text| texts[*text].ids.len());
        let all: usize = texts.iter().map(|text| text.ids.len()).sum();
        let batches =
            batches(&order, |text| texts[text].ids.len(), all.div_ceil(self.pool.current_num_threads()));
        let encoded: candle_core::Result<Vec<_>> = self.pool.install(|| {
            let batch =
                |batch: &&[usize]| self.batch(&batch.iter().map(|text| texts[*text]).collect::<Vec<_>>());
            batches.par_iter().map(batch).collect()
        });
        let encoded = encoded.map_err(|error| error.to_string())?;
        let mut values = vec![Vec::new(); texts.len()];
        for (text, of) in order.iter().zip(encoded.into_iter().flatten()) {
            values[*text] = of;
        }
        Ok(values)
    }
}

/// Cuts texts in order of their lengths into batches of about so many tokens, where none is of less than half the
/// length of another: so less than half of what is computed is padding.
fn batches(order: &[usize], length: impl Fn(usize) -> usize, tokens: usize) -> Vec<&[usize]> {
    let mut batches = Vec::new();
    let mut rest = order;
    while let Some(shortest) = rest.first().map(|text| length(*text)) {
        let fits = |(at, text): &(usize, &usize)| {
            let padded = (at + 1) * length(**text);
            *at == 0 || (padded <= tokens && length(**text) <= 2 * shortest)
        };
        let (batch, others) = rest.split_at(rest.iter().enumerate().take_while(fits).count());
        batches.push(batch);
        rest = others;
    }
    batches
}

impl Hidden {
    fn pool(&self, text: usize, length: usize, pooling: PoolingMode) -> Vec<f32> {
        let of_text = &self.values[text * self.tokens * self.width..][..length * self.width];
        let mut rows = of_text.chunks_exact(self.width);
        match pooling {
            PoolingMode::Cls => rows.next().map_or_else(Vec::new, <[f32]>::to_vec),
            PoolingMode::Last => rows.next_back().map_or_else(Vec::new, <[f32]>::to_vec),
            PoolingMode::Mean => {
                let mut sum = vec![0.0_f32; self.width];
                rows.for_each(|row| sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value));
                sum.iter_mut().for_each(|sum| *sum /= length as f32);
                sum
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_texts_of_like_length() {
        let lengths = [3, 4, 5, 9, 9, 200, 500];
        let order: Vec<usize> = (0..lengths.len()).collect();
        let cut = |tokens| batches(&order, |text| lengths[text], tokens);
        let expected: [&[usize]; 4] = [&[0, 1, 2], &[3, 4], &[5], &[6]];
        assert_eq!(cut(1000), expected);
        // However few tokens are asked for, each batch has a text.
        assert_eq!(cut(1).len(), lengths.len());
        assert!(batches(&[], |_| 0, 8).is_empty());
    }
}
