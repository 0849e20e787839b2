//! Texts of which a model is asked numbers in place of tokens: tokenized off the threads that serve connections, and
//! submitted to the model's engine one by one, which batches them as it does all requests.
//!
//! A request may have more texts than an engine's queue has places. It has so many under way at a time, and the next
//! one follows when one is done: others find room in the queue meanwhile. Where the queue is full when a request
//! begins it is refused as a chat is; once it has begun it goes on with as many as have found room, and with one more
//! for each that is done, as long as its time is not over.
//!
//! Dropping it drops what is under way, which cancels that.

use super::{LocalError, Usage};
use crate::engine::handle::SubmitError;
use crate::gateway::chat::TokenUsage;
use crate::gateway::ledger::account::Attempt;
use crate::gateway::ledger::auth::Tenant;
use crate::gateway::ledger::metrics::{Metrics, Outcome, RequestMetrics};
use crate::gateway::target::registry::LocalModel;
use crate::gateway::target::replicas::ReplicaStream;
use crate::gateway::target::text_queue::TextQueue;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::protocol::{GenerateRequest, Pooling, SamplingParams, TokenEvent, TokenId};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Texts of one request that an engine has at a time: a quarter of its queue by default.
const TEXTS_AT_ONCE: usize = 64;
/// Between two looks whether a full queue has room again, where nothing of the request is under way.
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(100);

/// One of our models, asked by a request.
pub struct LocalPooling<'a> {
    /// The model.
    pub model: Arc<LocalModel>,
    /// Where its texts are tokenized.
    pub text: &'a TextQueue,
    /// Where requests are counted.
    pub metrics: &'a Metrics,
    /// Whose request it is.
    pub tenant: &'a Tenant,
    /// The request's id.
    pub id: &'a str,
    /// When it came.
    pub arrived: Instant,
}

/// A text as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PooledText {
    /// At least one.
    pub ids: Arc<[TokenId]>,
    /// See [`GenerateRequest::token_types`].
    pub types: Option<Arc<[u32]>>,
}

/// What went wrong, and with which text; where it is all of them, the first.
#[derive(Debug, thiserror::Error)]
#[error("text {index}: {error}")]
pub struct AtText {
    /// Which of the request's texts.
    pub index: usize,
    /// What.
    #[source]
    pub error: LocalError,
}

impl AtText {
    /// For the caller, who calls that text so.
    pub fn named(self, field: &str) -> ApiError {
        match &self.error {
            LocalError::TextTooLong { .. } => {
                let message = format!("`{field}` {}", self.error);
                ApiError { message, ..ApiError::from(self.error) }.at(field)
            }
            LocalError::PromptTooLong { tokens_min, max_context, .. } => {
                let message = format!(
                    "`{field}` has {tokens_min} tokens at least, and the model reads {max_context} at the most; \
                     `truncate_prompt_tokens: -1` cuts it"
                );
                ApiError { message, ..ApiError::from(self.error) }.at(field)
            }
            LocalError::EmptyPrompt => BadField::new(field, "must not be empty").into(),
            LocalError::Submit(SubmitError::QueueFull { .. } | SubmitError::Busy { .. }) => self.error.into(),
            // These name what they are about.
            LocalError::WrongTask(_) => self.error.into(),
            _ => ApiError::from(self.error).at(field),
        }
    }
}

/// `truncate_prompt_tokens`: to how many tokens texts are cut; -1 says as many as the model reads.
pub fn text_limit(fields: &Fields<'_>, max_context: usize) -> Result<Option<usize>, BadField> {
    let most = i64::try_from(max_context).unwrap_or(i64::MAX);
    let limit = fields.integer("truncate_prompt_tokens", -1, most)?;
    match limit {
        Some(0) => {
            let reason = format!("must be -1, or between 1 and {max_context}, got 0");
            Err(BadField::new(fields.path("truncate_prompt_tokens"), reason))
        }
        Some(-1) => Ok(Some(max_context)),
        limit => Ok(limit.map(|limit| limit as usize)),
    }
}

impl LocalModel {
    /// A text's tokens, cut from behind where there is a limit; what stands around it stays. For a blocking thread.
    pub fn pooled_text(
        &self,
        text: &str,
        add_special: bool,
        limit: Option<usize>,
    ) -> Result<PooledText, LocalError> {
        let tokenizer = self.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
        if limit.is_none() {
            self.check_bytes(text)?;
        }
        let ids = tokenizer.encode(text, add_special)?;
        let ids = match limit {
            Some(limit) if ids.len() > limit => {
                let mut ids = tokenizer.encode(text, false)?;
                let added = if add_special { tokenizer.added_tokens(false) } else { 0 };
                ids.truncate(limit.saturating_sub(added));
                if add_special { tokenizer.join(ids, None)?.ids } else { ids }
            }
            _ => ids,
        };
        self.pooled_ids(ids, None)
    }

    /// The same of tokens that are to be read as they are.
    pub fn pooled_ids(&self, ids: Vec<TokenId>, types: Option<Vec<u32>>) -> Result<PooledText, LocalError> {
        let (tokens, max_context) = (ids.len(), self.engine.max_context());
        match tokens {
            0 => Err(LocalError::EmptyPrompt),
            _ if tokens > max_context => Err(LocalError::TextTooLong { tokens, max_context }),
            _ => Ok(PooledText { ids: ids.into(), types: types.map(Into::into) }),
        }
    }
}

/// Numbers of each text, in order, and what they took.
pub type Numbers = (Vec<Vec<f32>>, Usage);

impl LocalPooling<'_> {
    /// Makes tokens of texts, in the tenant's turn.
    ///
    /// # Errors
    /// Of the first text that cannot be read.
    pub async fn read(
        &self,
        bounds: &mut RequestBounds,
        work: impl FnOnce(&LocalModel) -> Result<Vec<PooledText>, AtText> + Send + 'static,
    ) -> Result<Vec<PooledText>, AtText> {
        let model = self.model.clone();
        let read = self.text.run(&self.tenant.name, bounds, move || Ok(work(&model))).await;
        read.map_err(|error| AtText { index: 0, error })?
    }

    /// Has the engine compute all texts.
    ///
    /// # Errors
    /// Of the first text that failed.
    pub async fn run(
        &self,
        texts: &[PooledText],
        pooling: &Pooling,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
    ) -> Result<Numbers, AtText> {
        let mut metrics = self.metrics.generation(&self.model.name, self.arrived);
        let numbers = self.run_counted(texts, pooling, bounds, attempt, &mut metrics).await;
        metrics.end(numbers.as_ref().map_or_else(|failed| failed.error.outcome(), |_| Outcome::Finished));
        numbers
    }

    async fn run_counted(
        &self,
        texts: &[PooledText],
        pooling: &Pooling,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
        metrics: &mut RequestMetrics,
    ) -> Result<Numbers, AtText> {
        let mut values = vec![Vec::new(); texts.len()];
        let mut usage = Usage::default();
        let mut under_way = FuturesUnordered::new();
        let (mut next, mut at_once) = (0, TEXTS_AT_ONCE);
        loop {
            while under_way.len() < at_once && next < texts.len() {
                match self.submit(next, &texts[next], pooling) {
                    Ok(stream) => {
                        if next == 0 {
                            // Accepted as a whole: what does not fit waits.
                            metrics.submitted(texts.iter().map(|text| text.ids.len()).sum());
                        }
                        under_way.push(answer_of(next, stream));
                        next += 1;
                    }
                    Err(SubmitError::QueueFull { .. } | SubmitError::Busy { .. }) if next > 0 => {
                        at_once = under_way.len().max(1);
                        break;
                    }
                    Err(error) => return Err(AtText { index: next, error: error.into() }),
                }
            }
            let at_end = next == texts.len();
            let late = |error| AtText { index: 0, error: LocalError::Overdue(error) };
            match bounds.bound(under_way.next()).await.map_err(late)? {
                Some(answer) => {
                    let (index, of_text, cached) = answer?;
                    // The answer comes in one piece; what is done of it is a sign of life.
                    bounds.heard();
                    values[index] = of_text;
                    at_once = TEXTS_AT_ONCE.min(at_once + 1);
                    usage.prompt_tokens += texts[index].ids.len();
                    usage.cached_tokens += cached;
                    attempt.iter_mut().for_each(|attempt| attempt.counted(TokenUsage::from(&usage)));
                }
                None if at_end => return Ok((values, usage)),
                None => bounds.bound(tokio::time::sleep(FULL_QUEUE_WAIT)).await.map_err(late)?,
            }
        }
    }

    fn submit(
        &self,
        index: usize,
        text: &PooledText,
        pooling: &Pooling,
    ) -> Result<ReplicaStream, SubmitError> {
        self.model.engine.submit(GenerateRequest {
            id: if index == 0 { self.id.to_owned() } else { format!("{}-{index}", self.id) },
            prompt: text.ids.clone(),
            choices: 1,
            sampling: Arc::new(SamplingParams::default()),
            cache_salt: self.tenant.cache_salt,
            priority: 0,
            constraint: None,
            generated: Vec::new(),
            pooling: Some(pooling.clone()),
            token_types: text.types.clone(),
        })
    }
}

/// A text's numbers, and how many of its tokens were cached.
async fn answer_of(index: usize, mut stream: ReplicaStream) -> Result<(usize, Vec<f32>, usize), AtText> {
    let failed = |message: String| AtText { index, error: LocalError::Failed(message) };
    let (mut cached, mut of_text) = (0, None);
    loop {
        match stream.next().await {
            Some(TokenEvent::Prompt { cached_tokens, .. }) => cached = cached_tokens as usize,
            Some(TokenEvent::Pooled { values }) => of_text = Some(values),
            Some(TokenEvent::Finished { .. }) => {
                let values = of_text.ok_or_else(|| failed("the engine gave no numbers".into()))?;
                return Ok((index, values, cached));
            }
            Some(TokenEvent::Failed { message }) => return Err(failed(message)),
            Some(TokenEvent::Token { .. }) => {
                return Err(failed("the engine gave a token for numbers".into()));
            }
            None => return Err(failed("the engine ended".into())),
        }
    }
}
