//! How well two texts go together, by each way that a model may score them: a classification head over the pair, a
//! "yes" against a "no" after a prompt that asks for one (Qwen3-Reranker,
//! <https://huggingface.co/Qwen/Qwen3-Reranker-0.6B>), or the cosine of both embeddings, as vLLM has it.
//!
//! Special tokens that are written out in a text are text: a document cannot end its turn and answer for the model.

use super::{AtText, LocalError, LocalPooling, PooledText, Usage};
use crate::gateway::ledger::account::Attempt;
use crate::gateway::target::registry::LocalModel;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::BadField;
use crate::protocol::{Pooling, ScoreBy, TokenId};
use crate::text::cut_longest_first;
use std::sync::Arc;

/// Before the pair, as the model was trained.
const YES_NO_PREFIX: &str = "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the \
     Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n";
/// Behind it: the model's turn, with an empty block of thinking.
const YES_NO_SUFFIX: &str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
/// What a document is to be for, where the caller does not say.
const INSTRUCTION: &str = "Given a web search query, retrieve relevant passages that answer the query";

/// Texts that belong together: as many of one as of the other, or one first text for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// Queries.
    pub first: Vec<String>,
    /// Documents.
    pub second: Vec<String>,
}

impl Pairs {
    fn first_of(&self, index: usize) -> &str {
        &self.first[if self.first.len() == 1 { 0 } else { index }]
    }
}

/// How pairs are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairOptions {
    /// What a document is to be for.
    pub instruction: Option<String>,
    /// Tokens of a second text that are read.
    pub second_max: Option<usize>,
    /// Tokens of a pair that are read.
    pub limit: Option<usize>,
}

/// One of the texts of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The query.
    First,
    /// The document.
    Second,
}

/// What went wrong, and with which text.
#[derive(Debug)]
pub enum AtPair {
    /// This one of the texts of its side.
    Text(Side, AtText),
    /// The request itself.
    Field(BadField),
    /// The model.
    Model(LocalError),
}

impl AtPair {
    /// For the caller, who calls the texts so.
    pub fn named(self, name: impl FnOnce(Side, usize) -> String) -> ApiError {
        match self {
            Self::Text(side, at) => {
                let field = name(side, at.index);
                at.named(&field)
            }
            Self::Field(field) => field.into(),
            Self::Model(error) => error.into(),
        }
    }
}

impl LocalPooling<'_> {
    /// The score of each pair, in order, and what they took.
    ///
    /// # Errors
    /// The model has no scores, or of the first text that fails.
    pub async fn score(
        &self,
        pairs: Pairs,
        options: PairOptions,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
    ) -> Result<(Vec<f32>, Usage), AtPair> {
        let by = self.model.scores().map_err(AtPair::Model)?;
        if options.instruction.is_some() && !matches!(by, Some(ScoreBy::YesNo { .. })) {
            let reason = "is for rerankers that are instructed (Qwen3-Reranker), and this model is none";
            return Err(AtPair::Field(BadField::unsupported("instruction", reason)));
        }
        let Some(by) = by else { return self.cosines(pairs, options, bounds, attempt).await };
        let count = pairs.second.len();
        let read = move |model: &LocalModel| {
            let pair = |index| {
                let text = match by {
                    ScoreBy::Classifier { .. } => classified(model, &pairs, &options, index),
                    ScoreBy::YesNo { .. } => asked(model, &pairs, &options, index),
                };
                text.map_err(|error| AtText { index, error })
            };
            (0..count).map(pair).collect()
        };
        let of_pair = |at| AtPair::Text(Side::Second, at);
        let texts = self.read(bounds, read).await.map_err(of_pair)?;
        let pooling = match by {
            ScoreBy::Classifier { .. } => Pooling::Classify,
            ScoreBy::YesNo { yes, no } => Pooling::Logits(Arc::new([yes, no])),
        };
        let (numbers, usage) = self.run(&texts, &pooling, bounds, attempt).await.map_err(of_pair)?;
        let score = |numbers: Vec<f32>| match (by, numbers.as_slice()) {
            (ScoreBy::Classifier { sigmoid: false, .. }, [number]) => Some(*number),
            (ScoreBy::Classifier { .. }, [number]) => Some(logistic(*number)),
            // The probability of a "yes", where there is nothing but these two.
            (ScoreBy::YesNo { .. }, [yes, no]) => Some(logistic(yes - no)),
            _ => None,
        };
        let scores: Option<Vec<f32>> = numbers.into_iter().map(score).collect();
        let wrong =
            || AtPair::Model(LocalError::Internal("an engine gave other numbers than asked for".into()));
        Ok((scores.ok_or_else(wrong)?, usage))
    }

    async fn cosines(
        &self,
        pairs: Pairs,
        options: PairOptions,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
    ) -> Result<(Vec<f32>, Usage), AtPair> {
        let (firsts, count) = (pairs.first.len(), pairs.second.len());
        let read = move |model: &LocalModel| {
            let second_max = options.second_max.into_iter().chain(options.limit).min();
            let limits =
                std::iter::repeat_n(options.limit, firsts).chain(std::iter::repeat_n(second_max, count));
            let texts = pairs.first.iter().chain(&pairs.second).zip(limits).enumerate();
            let read = |(index, (text, limit)): (usize, (&String, Option<usize>))| {
                model.pooled_text(text, true, limit).map_err(|error| AtText { index, error })
            };
            texts.map(read).collect()
        };
        let at = |at: AtText| match at.index.checked_sub(firsts) {
            None => AtPair::Text(Side::First, at),
            Some(index) => AtPair::Text(Side::Second, AtText { index, ..at }),
        };
        let texts = self.read(bounds, read).await.map_err(at)?;
        let (vectors, usage) = self.run(&texts, &Pooling::Embedding, bounds, attempt).await.map_err(at)?;
        let (first, second) = vectors.split_at(firsts);
        let score =
            |(index, vector): (usize, &Vec<f32>)| cosine(&first[if firsts == 1 { 0 } else { index }], vector);
        Ok((second.iter().enumerate().map(score).collect(), usage))
    }
}

/// A pair as the tokenizer's template has it, for a classification head.
fn classified(
    model: &LocalModel,
    pairs: &Pairs,
    options: &PairOptions,
    index: usize,
) -> Result<PooledText, LocalError> {
    let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
    let mut first = plain(model, pairs.first_of(index), options)?;
    let mut second = plain(model, &pairs.second[index], options)?;
    second.truncate(options.second_max.unwrap_or(usize::MAX));
    if let Some(limit) = options.limit {
        cut_longest_first(&mut first, &mut second, limit.saturating_sub(tokenizer.added_tokens(true)));
    }
    let joined = tokenizer.join(first, Some(second))?;
    model.pooled_ids(joined.ids, Some(joined.types))
}

/// A pair in a prompt that asks for "yes" or "no".
fn asked(
    model: &LocalModel,
    pairs: &Pairs,
    options: &PairOptions,
    index: usize,
) -> Result<PooledText, LocalError> {
    let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
    let mut document = pairs.second[index].as_str();
    let cut;
    if let Some(most) = options.second_max {
        let ids = plain(model, document, options)?;
        if ids.len() > most {
            cut = tokenizer.decode(&ids[..most], false)?;
            document = &cut;
        }
    }
    let instruction = options.instruction.as_deref().unwrap_or(INSTRUCTION);
    let query = pairs.first_of(index);
    let body = format!("<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}");
    let (mut ids, suffix) =
        (tokenizer.encode(YES_NO_PREFIX, false)?, tokenizer.encode(YES_NO_SUFFIX, false)?);
    let mut body = plain(model, &body, options)?;
    if let Some(limit) = options.limit {
        body.truncate(limit.saturating_sub(ids.len() + suffix.len()));
    }
    ids.extend(body);
    ids.extend(suffix);
    model.pooled_ids(ids, None)
}

/// A text's tokens alone.
fn plain(model: &LocalModel, text: &str, options: &PairOptions) -> Result<Vec<TokenId>, LocalError> {
    let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
    if options.limit.is_none() && options.second_max.is_none() {
        model.check_bytes(text)?;
    }
    Ok(tokenizer.encode_plain(text)?)
}

fn logistic(number: f32) -> f32 {
    1.0 / (1.0 + (-number).exp())
}

/// Vectors of length 0 go with nothing.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { (dot(a, b) / lengths) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_probabilities_and_cosines() {
        assert_eq!(logistic(0.0), 0.5);
        assert!(
            (logistic(2.0) - 0.880_797).abs() < 1e-6 && logistic(-200.0) == 0.0 && logistic(200.0) == 1.0
        );
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-6);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 3.0]), 0.0);
        assert_eq!(cosine(&[0.0, 0.0], &[0.0, 3.0]), 0.0);
        assert!((cosine(&[1.0, 0.0], &[-1.0, 1.0]) + 0.5_f32.sqrt()).abs() < 1e-6);
    }
}
