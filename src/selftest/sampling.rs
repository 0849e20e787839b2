//! Tokens chosen on the device against the engine's sampler on the host: of the same logits, the same
//! token, whatever the parameters.

use super::dense::of_rows;
use super::side::{Output, Side, Tolerance};
use super::{Case, Runner};
use crate::backend::{BROKEN, Backend, BackendError};
use crate::engine::plan::SampleSpec;
use crate::engine::sampler::Sampler;
use crate::protocol::{SamplingParams, TokenId};
use std::sync::Arc;

/// Rows of one vocabulary, each with its own parameters.
#[derive(Debug)]
struct Choose {
    rows: usize,
    vocab: usize,
    /// Of the logits: flat ones leave many tokens in the running.
    spread: f32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Greedy,
    /// Also rows with NaN, infinity, or nothing but -infinity.
    Broken,
    Adjusted,
    Drawn,
    /// Every other row may take some tokens only, few or nearly all; a row of four has NaN where it may not.
    Masked,
}

impl Choose {
    fn params(&self, side: &mut Side<'_, impl Backend>) -> (SamplingParams, SampleSpec) {
        let rng = &mut side.rng;
        let mut params = SamplingParams { temperature: 0.0, seed: rng.next(), ..SamplingParams::default() };
        let mut spec = SampleSpec {
            choice: rng.below(4) as u32,
            output_index: rng.below(1000) as u32,
            prompt: Arc::from([]),
            output: Vec::new(),
            mask: None,
        };
        let drawn = matches!(self.kind, Kind::Drawn | Kind::Masked) && rng.coin();
        if self.kind == Kind::Adjusted || drawn {
            let tokens = |rng: &mut super::side::Rng, count: usize| -> Vec<TokenId> {
                (0..count).map(|_| rng.below(self.vocab) as TokenId).collect()
            };
            // Without them the few biases count, each of which may make its token the best.
            if rng.coin() {
                spec.prompt = tokens(rng, 300).into();
                spec.output = tokens(rng, 40);
            }
            params.repetition_penalty = rng.pick(&[1.0, 1.3, 0.7]);
            params.frequency_penalty = rng.pick(&[0.0, 0.5, -1.5]);
            params.presence_penalty = rng.pick(&[0.0, 1.0]);
            params.logit_bias = tokens(rng, 5).into_iter().map(|token| (token, 8.0 * rng.normal())).collect();
            params.stop_tokens = tokens(rng, 3);
            params.min_tokens = rng.pick(&[0, 2000]);
            params.max_tokens = 4000;
        }
        if self.kind == Kind::Drawn || (self.kind == Kind::Masked && rng.coin()) {
            params.temperature = rng.pick(&[0.3, 0.8, 1.0, 1.7]);
            params.top_k = rng.pick(&[0, 1, 7, 50, 3000]);
            params.top_p = rng.pick(&[1.0, 0.95, 0.5, 0.01]);
            params.min_p = rng.pick(&[0.0, 0.0, 0.05, 0.5]);
        }
        (params, spec)
    }

    /// Which tokens rows may take, where that is said.
    fn masks(&self, side: &mut Side<'_, impl Backend>, values: &mut [f32]) -> Vec<(usize, Arc<[u32]>)> {
        if self.kind != Kind::Masked {
            return Vec::new();
        }
        let vocab = self.vocab;
        let mut mask = |row: usize| {
            let rng = &mut side.rng;
            let many = rng.coin();
            let mut words = vec![if many { u32::MAX } else { 0 }; vocab.div_ceil(32)];
            for _ in 0..1 + rng.below(20) {
                let token = rng.below(vocab);
                words[token / 32] ^= 1 << (token % 32);
            }
            let token = rng.below(vocab);
            words[token / 32] |= 1 << (token % 32);
            let forbidden = (0..vocab).find(|token| words[token / 32] >> (token % 32) & 1 == 0);
            if let (3, Some(token)) = (row % 4, forbidden) {
                values[row * vocab + token] = f32::NAN;
            }
            (row, words.into())
        };
        (0..self.rows).filter(|row| row % 2 == 1).map(&mut mask).collect()
    }
}

impl Case for Choose {
    fn run<B: Backend>(&self, side: &mut Side<'_, B>) -> Result<Vec<Output>, BackendError> {
        let Self { rows, vocab, spread, kind } = *self;
        let mut values = side.rng.normals(rows * vocab, spread);
        for (row, values) in values.chunks_mut(vocab).enumerate() {
            // Of equals the first.
            let (a, b) = (side.rng.below(vocab), side.rng.below(vocab));
            (values[a], values[b]) = (5.0 * spread, 5.0 * spread);
            match (kind, row % 4) {
                (Kind::Broken, 1) => values[side.rng.below(vocab)] = f32::NAN,
                (Kind::Broken, 2) => values[side.rng.below(vocab)] = f32::INFINITY,
                (Kind::Broken, 3) => values.fill(f32::NEG_INFINITY),
                _ => {}
            }
        }
        let rules: Vec<_> = (0..rows).map(|_| self.params(side)).collect();
        let masks = self.masks(side, &mut values);
        let tokens: Vec<TokenId> = if side.exact {
            let mut sampler = Sampler::default();
            let rows = values.chunks(vocab).zip(&rules);
            let choose = |(row, (logits, (params, spec))): (usize, (&[f32], &(_, _)))| {
                let mask = masks.iter().find(|(masked, _)| *masked == row).map(|(_, mask)| mask.as_ref());
                sampler.sample_within(mask, logits, params, spec).map_or(BROKEN, |chosen| chosen.token)
            };
            rows.enumerate().map(choose).collect()
        } else {
            let mut batch = of_rows(&vec![0; rows]);
            batch.outputs = (0..rows as u32).collect();
            let choices = rules.iter().map(|(params, spec)| Sampler::choice(vocab, params, spec));
            batch.choices = choices.map(|choice| choice.expect("a device's choice")).collect();
            batch.constrained = !masks.is_empty();
            side.backend.begin(&batch);
            side.backend.constrain(&masks);
            // Logits come in parts when there are many rows.
            let part = if kind == Kind::Masked { rows.div_ceil(2) } else { rows };
            for (index, values) in values.chunks(part * vocab).enumerate() {
                let (first, count) = (index * part, values.len() / vocab);
                let mut logits = side.floats(count, vocab, values)?;
                side.backend.sample(&mut logits, first..first + count);
            }
            side.backend.tokens()?.to_vec()
        };
        let values = tokens.into_iter().map(|token| if token == BROKEN { -1.0 } else { token as f32 });
        Ok(vec![Output { what: "token", columns: 1, values: values.collect(), tolerance: Tolerance::EXACT }])
    }
}

fn cases(runner: &mut Runner, kind: Kind) -> Result<(), BackendError> {
    let mut rng = runner.shapes();
    for vocab in [16, 320, 4096, 4100, 4 * (1500 + rng.below(2000)), 20_000] {
        runner.check(&Choose { rows: 4 + rng.below(5), vocab, spread: rng.pick(&[0.1, 1.0, 4.0]), kind })?;
    }
    if runner.large {
        runner.check(&Choose { rows: 64, vocab: 151_936, spread: 2.0, kind })?;
    }
    Ok(())
}

pub fn argmax(runner: &mut Runner) -> Result<(), BackendError> {
    cases(runner, Kind::Greedy)?;
    cases(runner, Kind::Broken)
}

pub fn mask(runner: &mut Runner) -> Result<(), BackendError> {
    cases(runner, Kind::Masked)
}

pub fn penalties(runner: &mut Runner) -> Result<(), BackendError> {
    cases(runner, Kind::Adjusted)
}

pub fn sample(runner: &mut Runner) -> Result<(), BackendError> {
    cases(runner, Kind::Drawn)?;
    cases(runner, Kind::Drawn)
}
