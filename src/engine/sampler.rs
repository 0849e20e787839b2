//! Chooses the next token: pure functions from a row of logits, the parameters and (seed, choice,
//! output index) to a token. Nothing else enters, so a recomputed row gives the same token.
//!
//! Order of operations, as in vLLM and transformers:
//! 1. log-probabilities, from the raw logits;
//! 2. the mask of a grammar, whose tokens alone are left; logit_bias, ban of stop tokens before min_tokens, repetition penalty, frequency and presence
//!    penalties;
//! 3. temperature 0: the first index of the maximum; otherwise temperature, top_k, top_p, min_p,
//!    then one uniform draw through the inverse CDF over the kept tokens in order of their ids.
//!
//! A row of 151,936 logits is never sorted: single passes over slices that LLVM vectorises find
//! the maximum and the sum of exponentials, and a running threshold finds the largest few.
//!
//! Ties are broken by the lower id, everywhere. Deliberately absent: a random generator with
//! state.

mod math;

use super::plan::SampleSpec;
use crate::backend::{Adjusted, Choice};
use crate::protocol::{SamplingParams, TokenId, TokenLogprob};
use math::{Candidate, argmax, exp, largest, sum_exp};
use std::collections::BTreeMap;

/// The model's output cannot be sampled from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// NaN or +infinity came out of the forward pass, or nothing but -infinity.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// A token to be scored is outside the logits.
    #[error("token {token} is outside the {vocab} logits")]
    OutsideVocab {
        /// The token.
        token: TokenId,
        /// The number of logits.
        vocab: usize,
    },
}

/// Sampling with its scratch memory; make one per thread and keep it.
#[derive(Debug, Default)]
pub struct Sampler {
    /// The row after step 2.
    adjusted: Vec<f32>,
    /// Per token: [`SEEN`] in prompt or output, plus its count in the output. All zero between
    /// calls.
    counts: Vec<u32>,
    candidates: Vec<Candidate>,
    kept: Vec<Candidate>,
}

/// Marks a token of the prompt or the output.
const SEEN: u32 = 1 << 31;

/// Parameters have six decimal digits in f32: a set of tokens whose mass misses `top_p` by less
/// than this part of it has reached it.
const TOP_P_SLACK: f64 = 1e-6;

/// A lower temperature than this is this one; the distribution is a point in either case.
const TEMPERATURE_MIN: f32 = 1e-6;

impl Sampler {
    /// The next token after a row of logits `[vocab]`, with log-probabilities when asked for. Without a
    /// constraint: see [`Sampler::sample_within`].
    pub fn sample(
        &mut self,
        logits: &[f32],
        params: &SamplingParams,
        spec: &SampleSpec,
    ) -> Result<TokenLogprob, SampleError> {
        self.sample_within(None, logits, params, spec)
    }

    /// The same of the tokens that a mask leaves, which is the answer to `spec.mask`: bit `t % 32` of word
    /// `t / 32` is set where token `t` may come. None: every token may.
    pub fn sample_within(
        &mut self,
        mask: Option<&[u32]>,
        logits: &[f32],
        params: &SamplingParams,
        spec: &SampleSpec,
    ) -> Result<TokenLogprob, SampleError> {
        let banned = banned(params, spec);
        let adjust = mask.is_some()
            || !params.logit_bias.is_empty()
            || !banned.is_empty()
            || params.repetition_penalty != 1.0
            || params.frequency_penalty != 0.0
            || params.presence_penalty != 0.0;
        let raw_best = argmax(logits).ok_or(SampleError::NotFinite)?;
        let token = if adjust {
            self.adjust(mask, logits, params, spec, banned);
            let row = std::mem::take(&mut self.adjusted);
            let token = match (argmax(&row), mask) {
                (Some(best), _) => Ok(self.choose(&row, best, params, spec)),
                // When every token is banned, the ban cannot be kept.
                (None, None) => Ok(self.choose(logits, raw_best, params, spec)),
                // Every token that the grammar allows is impossible to the model.
                (None, Some(_)) => Err(SampleError::NotFinite),
            };
            self.adjusted = row;
            token?
        } else {
            self.choose(logits, raw_best, params, spec)
        };
        match params.logprobs {
            Some(top) => Ok(self.report(logits, raw_best.logit, token, top as usize)),
            None => Ok(TokenLogprob { token, logprob: 0.0, top: Vec::new() }),
        }
    }

    /// The same as a backend's order, but for the mask, which is [`Backend::constrain`](crate::backend::Backend::constrain)'s: for one that chooses tokens itself; None where more than a
    /// token is asked for, or where every token could be banned, which only [`Sampler::sample`] minds.
    pub fn choice(vocab: usize, params: &SamplingParams, spec: &SampleSpec) -> Option<Choice> {
        let banned = banned(params, spec);
        if params.logprobs.is_some() || banned.len() + params.logit_bias.len() >= vocab {
            return None;
        }
        let mut tokens: BTreeMap<TokenId, Adjusted> = BTreeMap::new();
        let mut adjust = |token, change: &dyn Fn(&mut Adjusted)| {
            change(tokens.entry(token).or_insert(Adjusted { token, count: 0, seen: false, bias: 0.0 }));
        };
        for (token, bias) in &params.logit_bias {
            adjust(*token, &|it| it.bias += bias);
        }
        for token in banned {
            adjust(*token, &|it| it.bias = f32::NEG_INFINITY);
        }
        for token in spec.prompt.iter() {
            adjust(*token, &|it| it.seen = true);
        }
        for token in &spec.output {
            adjust(*token, &|it| (it.seen, it.count) = (true, it.count + 1));
        }
        let greedy = params.temperature == 0.0;
        Some(Choice {
            draw: uniform(params.seed, spec.choice, spec.output_index),
            scale: if greedy { 0.0 } else { 1.0 / params.temperature.max(TEMPERATURE_MIN) },
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            penalties: [params.repetition_penalty, params.frequency_penalty, params.presence_penalty],
            adjusted: tokens.into_values().collect(),
        })
    }

    /// The log-probability of a given token under a row of raw logits, and the `top` best ones.
    pub fn score(&mut self, logits: &[f32], token: TokenId, top: u32) -> Result<TokenLogprob, SampleError> {
        if token as usize >= logits.len() {
            return Err(SampleError::OutsideVocab { token, vocab: logits.len() });
        }
        let best = argmax(logits).ok_or(SampleError::NotFinite)?;
        Ok(self.report(logits, best.logit, token, top as usize))
    }

    fn report(&mut self, logits: &[f32], max: f32, token: TokenId, top: usize) -> TokenLogprob {
        let log_sum = f64::from(max) + sum_exp(logits, max, 1.0).ln();
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        largest(logits, top, &mut self.candidates);
        TokenLogprob {
            token,
            logprob: logprob(logits[token as usize]),
            top: self.candidates.iter().map(|c| (c.token, logprob(c.logit))).collect(),
        }
    }

    /// Step 2: fills `adjusted`.
    fn adjust(
        &mut self,
        mask: Option<&[u32]>,
        logits: &[f32],
        params: &SamplingParams,
        spec: &SampleSpec,
        banned: &[TokenId],
    ) {
        let row = &mut self.adjusted;
        row.clear();
        row.extend_from_slice(logits);
        for (word, logits) in mask.into_iter().flatten().zip(row.chunks_mut(32)) {
            if *word != u32::MAX {
                let allowed = |token: usize| word >> token & 1 == 1;
                let logits = logits.iter_mut().enumerate();
                logits
                    .filter(|(token, _)| !allowed(*token))
                    .for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            }
        }
        for (token, bias) in &params.logit_bias {
            if let Some(logit) = row.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        for token in banned {
            if let Some(logit) = row.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        self.counts.resize(logits.len(), 0);
        for token in spec.prompt.iter() {
            if let Some(count) = self.counts.get_mut(*token as usize) {
                *count |= SEEN;
            }
        }
        for token in &spec.output {
            if let Some(count) = self.counts.get_mut(*token as usize) {
                *count = (*count | SEEN) + 1;
            }
        }
        for token in spec.prompt.iter().chain(&spec.output) {
            let Some(count) = self.counts.get_mut(*token as usize) else { continue };
            if *count == 0 {
                continue; // done before
            }
            let in_output = *count & !SEEN;
            *count = 0;
            let logit = &mut row[*token as usize];
            if *logit == f32::NEG_INFINITY {
                continue; // nothing lifts a ban
            }
            let penalty = params.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            if in_output > 0 {
                *logit -= params.frequency_penalty * in_output as f32 + params.presence_penalty;
            }
            // A tiny penalty must not overflow into what looks like a broken model.
            *logit = logit.clamp(f32::MIN, f32::MAX);
        }
    }

    /// Step 3, on a row whose maximum is known.
    fn choose(
        &mut self,
        row: &[f32],
        best: Candidate,
        params: &SamplingParams,
        spec: &SampleSpec,
    ) -> TokenId {
        if params.temperature == 0.0 {
            return best.token;
        }
        let scale = 1.0 / params.temperature.max(TEMPERATURE_MIN);
        let draw = uniform(params.seed, spec.choice, spec.output_index);
        let top_k = match params.top_k as usize {
            0 => row.len(),
            k => k.min(row.len()),
        };
        if top_k == row.len() && params.top_p >= 1.0 && params.min_p == 0.0 {
            return math::draw(row, best, scale, draw);
        }
        self.keep(row, best.logit, scale, top_k, params);
        // Fixed order, and one that small differences of the logits do not change.
        self.kept.sort_unstable_by_key(|c| c.token);
        let mass = |c: &Candidate| f64::from(exp((c.logit - best.logit) * scale));
        let mut left = draw * self.kept.iter().map(mass).sum::<f64>();
        for c in &self.kept {
            left -= mass(c);
            if left < 0.0 {
                return c.token;
            }
        }
        // Rounding may leave a remainder.
        best.token
    }

    /// Fills `kept` with the tokens that pass top_k, top_p and min_p.
    fn keep(&mut self, row: &[f32], max: f32, scale: f32, top_k: usize, params: &SamplingParams) {
        let mass = |c: &Candidate| f64::from(exp((c.logit - max) * scale));
        let kept = &mut self.kept;
        if top_k < row.len() || params.top_p >= 1.0 {
            // With min_p alone every token may pass; it is filtered below.
            if top_k < row.len() {
                largest(row, top_k, kept);
            } else {
                math::at_least(row, max + params.min_p.ln() / scale - 1e-3, kept);
            }
            if params.top_p < 1.0 {
                let total = kept.iter().map(mass).sum::<f64>();
                cut(kept, total * f64::from(params.top_p), mass);
            }
        } else {
            let wanted = sum_exp(row, max, scale) * f64::from(params.top_p);
            // Few tokens are the rule, and sorting few is the fastest.
            let few = [64, 1024].into_iter().any(|n| {
                largest(row, n, kept);
                cut(kept, wanted, mass)
            });
            if !few {
                math::nucleus(row, max, scale, wanted * (1.0 - TOP_P_SLACK), kept);
            }
        }
        if params.min_p > 0.0 {
            let min_p = f64::from(params.min_p);
            kept.retain(|c| mass(c) >= min_p);
        }
    }
}

/// Tokens that must not come yet. In a sequence with a constraint they are in its mask.
fn banned<'p>(params: &'p SamplingParams, spec: &SampleSpec) -> &'p [TokenId] {
    match spec.mask.is_none() && spec.output_index < params.min_tokens {
        true => &params.stop_tokens,
        false => &[],
    }
}

/// Cuts a list (best first) after the token with which its mass reaches `wanted`; false when it
/// never does.
fn cut(kept: &mut Vec<Candidate>, wanted: f64, mass: impl Fn(&Candidate) -> f64) -> bool {
    let mut sum = 0.0;
    let end = kept.iter().position(|c| {
        sum += mass(c);
        sum >= wanted * (1.0 - TOP_P_SLACK)
    });
    if let Some(end) = end {
        kept.truncate(end + 1);
    }
    end.is_some()
}

/// The draw of an output position, uniform in [0, 1): splitmix64's mixer (Steele et al. 2014)
/// over the three counters in turn.
fn uniform(seed: u64, choice: u32, index: u32) -> f64 {
    let mix = |state: u64| {
        let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let bits = mix(mix(mix(seed) ^ u64::from(choice)) ^ u64::from(index));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
