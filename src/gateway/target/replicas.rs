//! The engines of one model: one, or several replicas of the same checkpoint. A request goes to the
//! replica that has the prompt's beginning in its prefix cache, unless it has more to do than others.
//!
//! When an engine stops, its requests go on at another, from the token that their caller has last:
//! draws depend on seed, choice and position alone, so nobody sees it (on GPUs the logits' last bits may
//! differ without `--deterministic`, as they do between two runs). What failed for a fault of its own
//! (logits that are not finite) would fail everywhere, and is not tried again.
//!
//! How many requests at a time an engine takes adapts ([`super::adaptive`]): refusals of its queue, and
//! requests that get no token in their time, say that it was too much.
//!
//! Deliberately absent: replicas in other processes, which are upstreams.

use super::adaptive::{AdaptiveLimiter, Outcome, Permit};
use crate::engine::handle::{EngineHandle, EngineStats, SubmitError, TokenStream};
use crate::protocol::{GenerateRequest, TokenEvent, TokenId};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

/// Tokens by which prompts are told apart: system prompts and documents differ in them.
const PREFIX_TOKENS: usize = 256;
/// Requests that a replica may have more than the least busy one, for the sake of its prefix cache.
const BUSIER_MAX: usize = 2;

/// A model's engines, at least one. Clones are cheap.
#[derive(Clone)]
pub struct Replicas {
    engines: Arc<[EngineHandle]>,
    /// What each bears.
    loads: Arc<[AdaptiveLimiter]>,
}

impl std::fmt::Debug for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.engines.iter()).finish()
    }
}

impl Replicas {
    /// Of engines of the same checkpoint, each for so many requests at a time, queued ones included.
    ///
    /// # Panics
    /// Without any.
    pub fn new(engines: Vec<EngineHandle>, places: usize) -> Self {
        assert!(!engines.is_empty(), "a model without engines");
        let loads = engines.iter().map(|_| AdaptiveLimiter::new(places)).collect();
        Self { engines: engines.into(), loads }
    }

    /// What the engines bear.
    pub fn loads(&self) -> &[AdaptiveLimiter] {
        &self.loads
    }

    /// Queues a request. Never blocks.
    ///
    /// # Errors
    /// Where no replica takes it: the error of the one that would have been best.
    pub fn submit(&self, request: GenerateRequest) -> Result<ReplicaStream, SubmitError> {
        let (stream, engine, permit) = self.take(&request)?;
        let permit = (permit, Some(Instant::now()));
        let generated = match request.generated.is_empty() {
            true => vec![Some(Vec::new()); request.choices as usize],
            false => request.generated.clone(),
        };
        Ok(ReplicaStream {
            replicas: self.clone(),
            stream,
            engine,
            permit,
            request,
            generated,
            prompted: false,
        })
    }

    fn take(&self, request: &GenerateRequest) -> Result<(TokenStream, usize, Permit), SubmitError> {
        let mut refused = None;
        for engine in self.order(&request.prompt) {
            let now = Instant::now();
            let error = match self.loads[engine].try_acquire(now) {
                None => SubmitError::Busy { limit: self.loads[engine].load(now).limit as usize },
                Some(permit) => match self.engines[engine].submit(request.clone()) {
                    Ok(stream) => return Ok((stream, engine, permit)),
                    Err(error) => {
                        if matches!(error, SubmitError::QueueFull { .. }) {
                            permit.done(Outcome::Overloaded { retry_after: None }, now);
                        }
                        error
                    }
                },
            };
            // One that has stopped says less than one that is full.
            if matches!(refused, None | Some(SubmitError::Stopped(_))) {
                refused = Some(error);
            }
        }
        Err(refused.unwrap_or_else(|| SubmitError::Stopped("there is no engine".into())))
    }

    /// Whom to ask, in turn.
    fn order(&self, prompt: &[TokenId]) -> Vec<usize> {
        if self.engines.len() == 1 {
            return vec![0];
        }
        let mut hasher = DefaultHasher::new();
        prompt[..prompt.len().min(PREFIX_TOKENS)].hash(&mut hasher);
        let home = (hasher.finish() % self.engines.len() as u64) as usize;
        let live: Vec<usize> = self.engines.iter().map(EngineHandle::live).collect();
        let mut order: Vec<usize> = (0..self.engines.len()).collect();
        // They would seem to have nothing to do.
        let stopped = |engine: usize| self.engines[engine].failure().is_some();
        let least_of = order.iter().filter(|engine| !stopped(**engine)).map(|engine| live[*engine]);
        let least = least_of.min().unwrap_or(0);
        order.sort_by_key(|engine| match *engine == home && live[*engine] <= least + BUSIER_MAX {
            _ if stopped(*engine) => usize::MAX,
            true => 0,
            false => 1 + live[*engine],
        });
        order
    }

    /// The longest sequence, prompt and output together, that every replica serves.
    pub fn max_context(&self) -> usize {
        self.engines.iter().map(EngineHandle::max_context).min().unwrap_or(0)
    }

    /// The reasons, once all have stopped by failures.
    pub fn failure(&self) -> Option<String> {
        let reasons: Option<Vec<String>> = self.engines.iter().map(EngineHandle::failure).collect();
        reasons.map(|mut reasons| {
            reasons.dedup();
            reasons.join("; ")
        })
    }

    /// What has stopped, while others go on serving.
    pub fn degraded(&self) -> Option<String> {
        let reasons: Vec<String> = self.engines.iter().filter_map(EngineHandle::failure).collect();
        let (stopped, all) = (reasons.len(), self.engines.len());
        (0 < stopped && stopped < all)
            .then(|| format!("{stopped} of {all} replicas stopped: {}", reasons.join("; ")))
    }

    /// Of all together.
    pub fn stats(&self) -> EngineStats {
        self.engines.iter().map(EngineHandle::stats).fold(EngineStats::default(), |sum, stats| sum + stats)
    }

    /// Refuses new requests from now on.
    pub fn drain(&self) {
        self.engines.iter().for_each(EngineHandle::drain);
    }
}

/// A request's events, whichever replica they come from. Dropping it cancels the request.
pub struct ReplicaStream {
    replicas: Replicas,
    stream: TokenStream,
    /// Whose stream it is.
    engine: usize,
    /// Its place there, and since when it waits for its first token.
    permit: (Permit, Option<Instant>),
    request: GenerateRequest,
    /// Per choice its output so far; None when it has ended.
    generated: Vec<Option<Vec<TokenId>>>,
    /// The prompt's event has been told.
    prompted: bool,
}

impl ReplicaStream {
    /// The next event; None after every choice has finished or the request has failed. Loses nothing
    /// when dropped before it is ready.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        loop {
            let event = self.stream.next().await;
            match &event {
                Some(TokenEvent::Prompt { .. }) => {
                    if std::mem::replace(&mut self.prompted, true) {
                        continue;
                    }
                }
                Some(TokenEvent::Token { choice, token }) => {
                    if let Some(since) = self.permit.1.take() {
                        let now = Instant::now();
                        self.permit.0.tell(Outcome::Ok { latency: now - since }, now);
                    }
                    self.generated[*choice as usize].iter_mut().for_each(|output| output.push(token.token));
                }
                Some(TokenEvent::Pooled { .. }) => {
                    if let Some(since) = self.permit.1.take() {
                        let now = Instant::now();
                        self.permit.0.tell(Outcome::Ok { latency: now - since }, now);
                    }
                }
                Some(TokenEvent::Finished { choice, .. }) => self.generated[*choice as usize] = None,
                Some(TokenEvent::Failed { .. }) | None => {
                    if self.resume() {
                        continue;
                    }
                }
            }
            return event;
        }
    }

    /// Ends one choice: no further event comes for it but those already sent.
    pub fn cancel_choice(&mut self, choice: u32) {
        self.generated[choice as usize] = None;
        self.stream.cancel_choice(choice);
    }

    /// Nobody waits any longer; where no token has come, it was too much for the engine.
    pub fn timed_out(&mut self) {
        self.permit.0.tell(Outcome::TimedOut, Instant::now());
    }

    /// Goes on at another replica, where this one's has stopped.
    fn resume(&mut self) -> bool {
        let stopped = self.replicas.engines[self.engine].failure();
        let sampling = &self.request.sampling;
        // A choice whose end was not told any more has no next token.
        let has_next = |output: &Vec<TokenId>| {
            output.len() < sampling.max_tokens as usize
                && !output.last().is_some_and(|last| sampling.stop_tokens.contains(last))
        };
        let mut open = self.generated.iter().flatten().peekable();
        if stopped.is_none() || open.peek().is_none() || !open.all(has_next) {
            return false;
        }
        let mut request = GenerateRequest { generated: self.generated.clone(), ..self.request.clone() };
        if self.prompted {
            Arc::make_mut(&mut request.sampling).prompt_logprobs = None;
        }
        match self.replicas.take(&request) {
            Ok((stream, engine, permit)) => {
                tracing::warn!(request = request.id, engine, "a request goes on at another replica");
                (self.stream, self.engine, self.permit) = (stream, engine, (permit, Some(Instant::now())));
                true
            }
            Err(error) => {
                tracing::warn!(request = request.id, %error, "no replica takes over");
                false
            }
        }
    }
}
