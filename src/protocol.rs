//! Our own request and event types: what the gateway asks of an engine and what an engine
//! answers. They know neither JSON nor HTTP, and nothing of ours is imported here.
//!
//! The engine works on token ids alone. Text (templates, stop strings, UTF-8) belongs to
//! `text`, so a stop string is not here: whoever detokenizes cancels the choice.

use std::sync::Arc;

/// An index into a model's vocabulary.
pub type TokenId = u32;

/// How the next token is chosen. Defaults are the neutral values; [`SamplingParams::validate`]
/// says what is allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy (the first index of the largest logit).
    pub temperature: f32,
    /// Keep the smallest set of tokens with at least this probability, in (0, 1].
    pub top_p: f32,
    /// Keep the `top_k` most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less probable than `min_p` times the most probable one, in [0, 1].
    pub min_p: f32,
    /// Subtracted from the logit of every token already in the output, in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted once per occurrence in the output, in [-2, 2].
    pub frequency_penalty: f32,
    /// Divides (or multiplies, when negative) the logits of tokens in prompt or output, > 0
    /// (Keskar et al. 2019).
    pub repetition_penalty: f32,
    /// Added to the logits of single tokens, in [-100, 100].
    pub logit_bias: Vec<(TokenId, f32)>,
    /// With the choice and the output position it determines every random draw.
    pub seed: u64,
    /// Output tokens at the most, at least 1.
    pub max_tokens: u32,
    /// Tokens in `stop_tokens` are not chosen before this many output tokens.
    pub min_tokens: u32,
    /// Tokens that end a choice (EOS ids and the caller's own). The stop token itself is
    /// reported as an event. Empty under `ignore_eos`.
    pub stop_tokens: Vec<TokenId>,
    /// Report each token's log-probability and that many of the most probable alternatives.
    pub logprobs: Option<u32>,
    /// The same for every prompt token.
    pub prompt_logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            max_tokens: 16,
            min_tokens: 0,
            stop_tokens: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}

/// One parameter out of its range: which one, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param} {reason}")]
pub struct InvalidParam {
    /// The field's wire name.
    pub param: &'static str,
    /// What is allowed, as a predicate: "must be between 0 and 2, got -1".
    pub reason: String,
}

impl SamplingParams {
    /// Checks every range, NaN included.
    pub fn validate(&self) -> Result<(), InvalidParam> {
        let range = |param, value: f32, low: f32, high: f32| {
            if value >= low && value <= high {
                Ok(())
            } else {
                Err(InvalidParam { param, reason: format!("must be between {low} and {high}, got {value}") })
            }
        };
        range("temperature", self.temperature, 0.0, 2.0)?;
        range("min_p", self.min_p, 0.0, 1.0)?;
        range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(InvalidParam {
                param: "top_p",
                reason: format!("must be greater than 0 and at most 1, got {}", self.top_p),
            });
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return Err(InvalidParam {
                param: "repetition_penalty",
                reason: format!("must be greater than 0, got {}", self.repetition_penalty),
            });
        }
        for (_, bias) in &self.logit_bias {
            range("logit_bias", *bias, -100.0, 100.0)?;
        }
        if self.max_tokens == 0 {
            return Err(InvalidParam { param: "max_tokens", reason: "must be at least 1, got 0".into() });
        }
        if self.min_tokens > self.max_tokens {
            return Err(InvalidParam {
                param: "min_tokens",
                reason: format!("must be at most max_tokens ({}), got {}", self.max_tokens, self.min_tokens),
            });
        }
        Ok(())
    }
}

/// Sampling parameters that hold where a request leaves them out; None: nothing is said of one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct SamplingDefaults {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

impl SamplingDefaults {
    /// The parameters' wire names.
    pub const NAMES: [&str; 5] = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"];

    /// For a model of which nobody has said anything: what most models write good text with.
    pub const USUAL: Self = Self {
        temperature: Some(0.8),
        top_p: Some(0.95),
        top_k: Some(40),
        min_p: Some(0.05),
        repetition_penalty: None,
    };

    /// Sets the parameter of that name.
    ///
    /// # Errors
    /// What is allowed, where the name or the value is not.
    pub fn set(&mut self, name: &str, value: f64) -> Result<(), String> {
        let narrow = value as f32;
        match name {
            "temperature" => self.temperature = Some(narrow),
            "top_p" => self.top_p = Some(narrow),
            "min_p" => self.min_p = Some(narrow),
            "repetition_penalty" => self.repetition_penalty = Some(narrow),
            // -1 is another spelling of "all".
            "top_k" if value.fract() == 0.0 && (-1.0..=f64::from(i32::MAX)).contains(&value) => {
                self.top_k = Some(value.max(0.0) as u32);
            }
            "top_k" => {
                return Err(format!("top_k must be a whole number of 0 (all tokens) or more, got {value}"));
            }
            _ => {
                return Err(format!(
                    "`{name}` is no sampling parameter: there are {}",
                    Self::NAMES.join(", ")
                ));
            }
        }
        self.over(&SamplingParams::default()).validate().map_err(|error| error.to_string())
    }

    /// These, and those of `others` where nothing is said here.
    pub fn or(self, others: Self) -> Self {
        Self {
            temperature: self.temperature.or(others.temperature),
            top_p: self.top_p.or(others.top_p),
            top_k: self.top_k.or(others.top_k),
            min_p: self.min_p.or(others.min_p),
            repetition_penalty: self.repetition_penalty.or(others.repetition_penalty),
        }
    }

    /// The parameters with these in them.
    pub fn over(&self, params: &SamplingParams) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(params.temperature),
            top_p: self.top_p.unwrap_or(params.top_p),
            top_k: self.top_k.unwrap_or(params.top_k),
            min_p: self.min_p.unwrap_or(params.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(params.repetition_penalty),
            ..params.clone()
        }
    }
}

/// What tokens of one choice may come next: a grammar, as far as it was followed. Asked on a thread of the
/// engine's for such work, never on the one that plans or computes steps.
pub trait TokenConstraint: Send + std::fmt::Debug {
    /// Sets bit `t % 32` of `mask[t / 32]` for each token `t` that may come next, and clears all others; a
    /// token may come next somewhere. False: every token may, and nothing is written.
    ///
    /// # Errors
    /// Why it cannot be said; fit for the caller's eyes. The request fails.
    fn mask(&mut self, mask: &mut [u32]) -> Result<bool, String>;

    /// The token that was chosen: one of those that might come.
    ///
    /// # Errors
    /// Why it cannot be followed; fit for the caller's eyes. The request fails.
    fn accept(&mut self, token: TokenId) -> Result<(), String>;
}

/// Makes the constraint of each choice of a request, none of which has accepted anything yet. A request that
/// goes on elsewhere takes its factory along, and what was generated is accepted anew.
pub trait ConstraintFactory: Send + Sync + std::fmt::Debug {
    /// One more.
    fn constraint(&self) -> Box<dyn TokenConstraint>;
}

/// What a request wants in place of output tokens: numbers that its whole prompt gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The model's vector of the prompt: of a decoder the last token's hidden state after the final norm, of an
    /// encoder what its checkpoint pools by; of length 1 where [`EmbeddingInfo::normalised`].
    Embedding,
    /// The logits of these tokens after the prompt's last one, in this order.
    Logits(Arc<[TokenId]>),
    /// The logits of the model's classification head, one for each of its labels.
    Classify,
}

/// Which requests an engine takes; others it refuses by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineTasks {
    /// Output tokens, and the logits of chosen ones after a prompt.
    pub generates: bool,
    /// [`Pooling::Embedding`].
    pub embeds: bool,
    /// [`Pooling::Classify`].
    pub classifies: bool,
}

impl EngineTasks {
    /// Those of a causal language model.
    pub const CAUSAL: Self = Self { generates: true, embeds: true, classifies: false };
}

/// What a model is served for. A causal language model could embed any prompt, but its vectors say little unless
/// it was trained for that; so, as vLLM does, a model is one for embeddings or scores where its checkpoint says
/// so (a pooling layer of sentence-transformers, an encoder, a classification head, a published reranker), and a
/// chat model is none.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelTasks {
    /// Chats and completions.
    pub generates: bool,
    /// Embeddings, and how they are.
    pub embeds: Option<EmbeddingInfo>,
    /// Scores of pairs of texts, and what they come from.
    pub scores: Option<ScoreBy>,
}

impl ModelTasks {
    /// Of a model that writes text.
    pub const GENERATION: Self = Self { generates: true, embeds: None, scores: None };
}

/// A model's embeddings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingInfo {
    /// Numbers in a vector.
    pub dimensions: usize,
    /// Vectors are of length 1 (L2).
    pub normalised: bool,
    /// The model was trained so that a vector's first numbers are a vector by themselves (Matryoshka), once they
    /// are normalised anew.
    pub dimensions_may_be_cut: bool,
    /// What is put before texts.
    pub prompts: EmbeddingPrompts,
}

/// Texts that a checkpoint wants before what is embedded, by what that is; None: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbeddingPrompts {
    /// Before a question.
    pub query: Option<String>,
    /// Before a text that may answer one.
    pub document: Option<String>,
}

/// How a model scores a pair of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreBy {
    /// By a classification head over the pair ([`Pooling::Classify`]).
    Classifier {
        /// Numbers that the head gives.
        labels: usize,
        /// The score is the logistic function of the number: of heads with one label, as the CrossEncoder of
        /// sentence-transformers has it where the checkpoint names no other.
        sigmoid: bool,
    },
    /// By the probability of a "yes" against a "no" after a prompt that asks for one ([`Pooling::Logits`];
    /// Qwen3-Reranker).
    YesNo {
        /// The token of "yes".
        yes: TokenId,
        /// The token of "no".
        no: TokenId,
    },
}

/// What the gateway submits to an engine.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// For logs and traces; unique per request.
    pub id: String,
    /// The prompt, at least one token.
    pub prompt: Arc<[TokenId]>,
    /// Independent choices (`n`), at least 1; they share the prompt's KV blocks.
    pub choices: u32,
    /// How tokens are chosen, for all choices.
    pub sampling: Arc<SamplingParams>,
    /// Prefix-cache namespace: KV blocks are only shared between requests of equal salt.
    pub cache_salt: u64,
    /// Higher runs first and is preempted last; 0 is usual.
    pub priority: i32,
    /// What tokens may come next, of each choice by itself; None: all may.
    pub constraint: Option<Arc<dyn ConstraintFactory>>,
    /// Empty for a new request. Else the request goes on that another engine of the same checkpoint has
    /// begun: one per choice, its output so far, or None where it has ended. Only what follows is
    /// generated; the draws are those that the other engine would have made. An output leaves room
    /// for a token and does not end with a stop token.
    pub generated: Vec<Option<Vec<TokenId>>>,
    /// Wants numbers in place of tokens. Such a request has one choice, and of `sampling`, `constraint` and
    /// `generated` nothing counts; its prompt may be as long as the context. Its events are [`TokenEvent::Prompt`],
    /// [`TokenEvent::Pooled`] and [`TokenEvent::Finished`] with [`FinishReason::Stop`].
    pub pooling: Option<Pooling>,
    /// For encoders that read pairs of texts: which of them a token of the prompt is of, one for each token
    /// (BERT's segment ids). None: all are of the first. Decoders do not read it.
    pub token_types: Option<Arc<[u32]>>,
}

/// A token with its log-probability under the model (temperature 1, before penalties).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm; 0 when logprobs were not asked for.
    pub logprob: f32,
    /// The most probable tokens, best first; empty unless asked for.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was generated (or, set by `text`, a stop string).
    Stop,
    /// `max_tokens`, or the context was full.
    Length,
}

/// What an engine streams back for one request, in order per choice.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenEvent {
    /// The prompt is in the KV cache. Sent once, before any token.
    Prompt {
        /// Prompt tokens whose KV came from the prefix cache.
        cached_tokens: u32,
        /// One per prompt token when asked for; the first has no prediction (`None`).
        logprobs: Option<Vec<Option<TokenLogprob>>>,
    },
    /// A choice produced a token (stop tokens included).
    Token {
        /// Which choice, from 0.
        choice: u32,
        /// The token.
        token: TokenLogprob,
    },
    /// What a request with [`GenerateRequest::pooling`] wanted.
    Pooled {
        /// As [`Pooling`] says; finite.
        values: Vec<f32>,
    },
    /// A choice ended; nothing more comes for it.
    Finished {
        /// Which choice, from 0.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// The whole request failed; nothing more comes.
    Failed {
        /// Fit for the caller's eyes.
        message: String,
    },
}
