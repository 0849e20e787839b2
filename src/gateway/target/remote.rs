//! A target that is an upstream: one provider over HTTP. What goes wrong before the first piece of an
//! answer is a [`Failure`], which says whether another attempt makes sense; after it, an error.
//!
//! A body that is refused for the signatures of other models' thinking is sent once more without that
//! thinking, and one that is refused for a hint without the hint ([`RefusedHints`]). What comes back is read by
//! [`RemoteAnswer`].
//!
//! Invariants: the upstream's key is sent to its base URL alone (no redirects are followed) and never
//! logged, and cut out of all that comes back; requests at a time ([`super::adaptive`] finds out how many), time
//! without news, what may come before an answer says something, and the length of whole answers are bounded, and
//! what is kept is held of the requests' memory; dropping an answer closes its connection and frees its place.

mod answer;
mod pooled;
mod refused;

pub use answer::RemoteAnswer;
pub use pooled::{PooledAnswer, PooledTask};
pub use refused::RefusedHints;

use super::adaptive::{AdaptiveLimiter, Outcome};
use super::answer::Answer;
use super::breaker::Breaker;
use super::failure::Failure;
use super::http_client::HttpClient;
use super::{ChatRequest, ChatTarget};
use crate::config::{BodyRules, Continues, Format, KeySource, Provider, ThinkTags};
use crate::connect::chain;
use crate::files;
use crate::gateway::chat::anthropic::{fit, models};
use crate::gateway::chat::call_ids;
use crate::gateway::chat::openai::tool_schemas;
use crate::gateway::chat::responses::upstream::to_responses;
use crate::gateway::chat::tool_names::ToolNames;
use crate::gateway::chat::{Dialect, Peer, Takes, UpstreamError, decode_error, for_upstream};
use crate::gateway::ledger::account::Attempt;
use crate::gateway::ledger::observe::quoted;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::BadField;
use crate::secrets;
use answer::Place;
use axum::body::Bytes;
use axum::http::uri::InvalidUri;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use rustls::ClientConfig;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Largest file with a key.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;
/// Longest body of an error that is read.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// The version of Anthropic's API that is spoken.
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
/// What callers of Anthropic's API ask for beyond its version.
pub const ANTHROPIC_BETA: HeaderName = HeaderName::from_static("anthropic-beta");
/// What upstreams are told of who asks, unless their configuration names another.
const USER_AGENT: &str = concat!("novastack/", env!("CARGO_PKG_VERSION"));

/// A provider's model.
pub struct UpstreamModel {
    /// The provider.
    pub upstream: Arc<Upstream>,
    /// Its name for the model.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
    /// What becomes of fields of the body that it is sent.
    pub body: BodyRules,
    /// Hints that it has refused.
    pub refused: RefusedHints,
    /// What becomes of reasoning in its text.
    pub think_tags: ThinkTags,
    /// How much it bears: providers limit each model by itself.
    pub load: AdaptiveLimiter,
    /// How it has done lately.
    pub breaker: Breaker,
}

impl ChatTarget for UpstreamModel {
    async fn ask(
        &self,
        request: &ChatRequest<'_>,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
    ) -> Result<Answer, Failure> {
        let (body, names) = self.body_of(request, None)?;
        let mut headers = HeaderMap::new();
        if request.dialect == self.upstream.dialect() {
            headers.extend(request.headers.clone());
            self.fit_betas(&mut headers);
        }
        attempt.iter().for_each(|attempt| attempt.introduce(&mut headers));
        let upstream = &self.upstream;
        let mut sent = upstream.send(&upstream.url, &self.load, body.clone(), headers.clone(), bounds).await;
        if let Err(failure) = &sent
            && let Some(hint) = RefusedHints::of(&failure.error)
        {
            let (without, _) = self.body_of(request, Some(hint))?;
            if without != body {
                let provider = upstream.name();
                tracing::info!(
                    provider,
                    model = self.name,
                    hint,
                    "asked again without what the model refuses"
                );
                sent = upstream.send(&upstream.url, &self.load, without, headers, bounds).await;
                // A refusal may quote the caller's own words: only what helped holds for others too.
                if sent.is_ok() {
                    self.refused.learn(hint);
                }
            }
        }
        let mut answer = sent?;
        answer.expects(request.choices);
        // The rest of an answer has no beginning, and who names its tokens reads them by itself.
        if request.resume.is_none() && self.upstream.continues() != Some(Continues::Tokens) {
            answer.splits(self.think_tags);
        }
        answer.renames(names);
        Ok(Answer::Remote(Box::new(answer)))
    }
}

/// What of a prompt Anthropic's API counts by; other fields it refuses
/// (<https://platform.claude.com/docs/en/api/messages/count_tokens>, and its betas).
const COUNTED: [&str; 11] = [
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
    "context_management",
    "mcp_servers",
    "cache_control",
];

impl UpstreamModel {
    /// What Anthropic's API counts for a prompt in its format, as this model would be sent it; None where this
    /// upstream counts nothing.
    ///
    /// # Errors
    /// The model does not take the prompt, or the request's time is over.
    pub async fn count(
        &self,
        body: &Value,
        mut headers: HeaderMap,
        bounds: &mut RequestBounds,
    ) -> Result<Option<u64>, ApiError> {
        if self.upstream.dialect() != Dialect::Anthropic {
            return Ok(None);
        }
        let mut body = for_upstream(Dialect::Anthropic, body, &self.peer())?;
        ToolNames::shorten(&mut body, Dialect::Anthropic, self.upstream.provider.compat.tool_name_chars_max);
        if let Some(body) = body.as_object_mut() {
            self.body.apply(body);
            body.retain(|name, _| COUNTED.contains(&name.as_str()));
        }
        self.fit_betas(&mut headers);
        self.upstream.count(&body, headers, bounds).await
    }

    /// Whom a request is written for.
    pub fn peer(&self) -> Peer<'_> {
        let Upstream { provider, .. } = &*self.upstream;
        Peer {
            dialect: self.upstream.dialect(),
            model: &self.name,
            compat: &provider.compat,
            takes: self.takes,
        }
    }

    /// Leaves betas out that this model does not take.
    fn fit_betas(&self, headers: &mut HeaderMap) {
        let Some(asked) = headers.get(ANTHROPIC_BETA).and_then(|value| value.to_str().ok()) else { return };
        let taken = models::betas(asked, &self.name);
        if taken.is_empty() {
            headers.remove(ANTHROPIC_BETA);
        } else if let Ok(taken) = HeaderValue::try_from(taken) {
            headers.insert(ANTHROPIC_BETA, taken);
        }
    }

    /// What it is sent, and which tools have other names there; for the rest of an answer, with what its caller has.
    /// `without` is a hint that it has just refused.
    fn body_of(
        &self,
        request: &ChatRequest<'_>,
        without: Option<&str>,
    ) -> Result<(Bytes, ToolNames), Failure> {
        let upstream = &self.upstream;
        // What cannot be translated may pass through to another target.
        let is_responses = upstream.dialect() == Dialect::Responses;
        let dialect = if is_responses { Dialect::OpenAi } else { upstream.dialect() };
        let body = for_upstream(request.dialect, request.body, &Peer { dialect, ..self.peer() });
        let mut body = body.map_err(Failure::next)?;
        let chars_max = upstream.provider.compat.tool_name_chars_max;
        let names = ToolNames::shorten(&mut body, dialect, chars_max);
        // Who bounds names as OpenAI does, reads ids and schemas as OpenAI does.
        call_ids::fit(&mut body, upstream.dialect(), chars_max.is_some());
        if dialect == Dialect::OpenAi && chars_max.is_some() {
            tool_schemas::complete(&mut body);
        }
        if is_responses {
            body = to_responses(&body).map_err(Failure::next)?;
        }
        if upstream.continues() != Some(Continues::Tokens) {
            if body.get("resume_token_ids").is_some() {
                let why = "this model's provider does not go on by token ids";
                return Err(Failure::next(BadField::unsupported("resume_token_ids", why)));
            }
            body.as_object_mut().and_then(|body| body.shift_remove("resumable"));
        } else if request.stream {
            body["resumable"] = true.into();
            if body.get("seed").is_none_or(Value::is_null) {
                // Within 31 bits: there may be others behind it.
                let seed = request.seed.get_or_init(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 33);
                body["seed"] = (*seed).into();
            }
        }
        if let Some(resume) = request.resume {
            resume.ask(&mut body, upstream.dialect());
        }
        if let Some(body) = body.as_object_mut() {
            self.body.apply(body);
            self.refused.leave_out(body);
            if let Some(hint) = without {
                refused::leave_out(body, hint);
            }
        }
        let bytes = serde_json::to_vec(&body);
        let bytes = bytes.map_err(|error| Failure::report(ApiError::internal(&error.to_string())))?;
        Ok((bytes.into(), names))
    }
}

/// A provider, ready for requests.
pub struct Upstream {
    name: String,
    provider: Provider,
    url: Uri,
    headers: Result<HeaderMap, String>,
    client: HttpClient,
    /// `max_concurrency`, over all models.
    places: Arc<Semaphore>,
}

impl Upstream {
    /// Reads the key. A provider whose key is missing, or one of whose headers is none, is there all the
    /// same: its requests fail.
    ///
    /// # Errors
    /// Its URL is none, or the environment's proxy for it cannot be used.
    pub fn new(name: &str, provider: &Provider, tls: &Arc<ClientConfig>) -> Result<Self, String> {
        let path = match provider.format {
            Format::OpenAi => "/chat/completions",
            Format::Responses => "/responses",
            Format::Anthropic => "/v1/messages",
        };
        let failed = |reason: String| format!("provider {name}: {reason}");
        let url = format!("{}{path}", provider.base_url);
        let url: Uri = url.parse().map_err(|error: InvalidUri| failed(error.to_string()))?;
        Ok(Self {
            name: name.to_owned(),
            client: HttpClient::new(&url, provider.connect_timeout, tls.clone()).map_err(failed)?,
            url,
            headers: headers(provider),
            places: Arc::new(Semaphore::new(provider.concurrency_max)),
            provider: provider.clone(),
        })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its paths begin.
    pub fn base_url(&self) -> &str {
        &self.provider.base_url
    }

    /// The format that it speaks.
    pub fn dialect(&self) -> Dialect {
        match self.provider.format {
            Format::OpenAi => Dialect::OpenAi,
            Format::Anthropic => Dialect::Anthropic,
            Format::Responses => Dialect::Responses,
        }
    }

    /// How it goes on with an answer that broke off.
    pub fn continues(&self) -> Option<Continues> {
        self.provider.continues
    }

    /// Sends a request in its dialect under the model's `load`; the answer's head is there when this
    /// returns. `extra` headers are the caller's own that this upstream is to see.
    async fn send(
        &self,
        url: &Uri,
        load: &AdaptiveLimiter,
        body: Bytes,
        extra: HeaderMap,
        bounds: &mut RequestBounds,
    ) -> Result<RemoteAnswer, Failure> {
        let kept = (self.dialect() == Dialect::Anthropic).then(|| body.clone());
        let refused = match self.send_once(url, load, body, extra.clone(), bounds).await? {
            Ok(answer) => return Ok(answer),
            Err(refused) => refused,
        };
        // Signatures of another model's thinking, or of a key's before: only the upstream can tell.
        let again = kept.filter(|_| refused.status == 400 && fit::is_about_thinking(&refused.message));
        let Some(body) = again.and_then(|body| fit::without_thinking(&body)) else {
            return Err(Failure::of_upstream(&self.name, refused));
        };
        tracing::info!(provider = self.name, "asked again without the thinking of earlier answers");
        let answer = self.send_once(url, load, body.into(), extra, bounds).await?;
        answer.map_err(|refused| Failure::of_upstream(&self.name, refused))
    }

    /// Sends it; or what the upstream said with another status than 2xx.
    async fn send_once(
        &self,
        url: &Uri,
        load: &AdaptiveLimiter,
        body: Bytes,
        extra: HeaderMap,
        bounds: &mut RequestBounds,
    ) -> Result<Result<RemoteAnswer, UpstreamError>, Failure> {
        let headers = self.headers.as_ref().map_err(|reason| {
            tracing::error!(provider = self.name, reason, "an upstream cannot be asked");
            Failure::next(self.error(StatusCode::BAD_GATEWAY, "its key is not configured"))
        })?;
        // What is full is no reason to wait: another target may have room.
        let full = || {
            Failure::retry(self.error(StatusCode::TOO_MANY_REQUESTS, "it has no room for another request"))
        };
        let begun = Instant::now();
        let place = self.places.clone().try_acquire_owned().map_err(|_| full())?;
        let mut permit = load.try_acquire(begun).ok_or_else(full)?;
        let sent = self.client.post(url.clone(), headers, extra, body);
        let sent = bounds.bound(tokio::time::timeout(self.provider.timeout, sent)).await;
        let response = match sent.map_err(Failure::report)? {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                permit.tell(Outcome::Failed, Instant::now());
                return Err(self.broken(&error));
            }
            Err(_) => {
                permit.tell(Outcome::TimedOut, Instant::now());
                return Err(self.silent());
            }
        };
        bounds.heard();
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let outcome = match status.as_u16() {
            429 | 503 | 529 => Outcome::Overloaded { retry_after },
            _ if status.is_success() => Outcome::Ok { latency: begun.elapsed() },
            _ => Outcome::Failed,
        };
        permit.tell(outcome, Instant::now());
        let place =
            Place { name: self.name.clone(), timeout: self.provider.timeout, held: Some((permit, place)) };
        let mut answer = RemoteAnswer::new(response, self.dialect(), place, bounds.share());
        if status.is_success() {
            return Ok(Ok(answer));
        }
        let body = answer.bytes(ERROR_BYTES_MAX, bounds).await.unwrap_or_default();
        let error = decode_error(status.as_u16(), &body);
        let message = quoted(&error.message);
        tracing::warn!(provider = self.name, status = error.status, message, "refused");
        Ok(Err(UpstreamError { retry_after, ..error }))
    }

    fn silent(&self) -> Failure {
        let seconds = self.provider.timeout.as_secs();
        let message = format!("nothing came for {seconds} seconds");
        // As long again is more than a caller waits.
        Failure::next(self.error(StatusCode::GATEWAY_TIMEOUT, &message))
    }

    fn broken(&self, error: &hyper_util::client::legacy::Error) -> Failure {
        let what = if error.is_connect() { "it cannot be reached" } else { "the connection broke" };
        tracing::warn!(provider = self.name, error = %chain(error), what);
        Failure::retry(self.error(StatusCode::BAD_GATEWAY, what))
    }

    /// What Anthropic's API counts for a body; None where this upstream counts nothing.
    async fn count(
        &self,
        body: &Value,
        extra: HeaderMap,
        bounds: &mut RequestBounds,
    ) -> Result<Option<u64>, ApiError> {
        let (Format::Anthropic, Ok(headers)) = (self.provider.format, &self.headers) else { return Ok(None) };
        let Ok(_place) = self.places.try_acquire() else { return Ok(None) };
        let body = serde_json::to_vec(body).map_err(|error| ApiError::internal(&error.to_string()))?;
        let counted = async {
            let url = format!("{}/count_tokens", self.url).parse().ok()?;
            let response = self.client.post(url, headers, extra, body.into()).await.ok()?;
            if !response.status().is_success() {
                return None;
            }
            let answer = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await.ok()?;
            serde_json::from_slice::<Value>(&answer.to_bytes()).ok()?.get("input_tokens")?.as_u64()
        };
        Ok(bounds.bound(tokio::time::timeout(self.provider.timeout, counted)).await?.ok().flatten())
    }

    fn error(&self, status: StatusCode, message: &str) -> ApiError {
        ApiError::upstream(&self.name, status, message)
    }
}

/// What every request carries, the key among it.
fn headers(provider: &Provider) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    // What is packed comes in larger pieces, and later. Where a proxy packs it all the same, it is unpacked.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for (name, value) in &provider.headers {
        let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is not a header's name"))?;
        let value =
            HeaderValue::from_str(value).map_err(|_| format!("the value of header {name} is not text"))?;
        headers.insert(name, value);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let key = match &provider.api_key {
        KeySource::None => None,
        KeySource::Env(name) => {
            Some(std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))?)
        }
        KeySource::File(path) => {
            let text = files::read_text(path, KEY_FILE_BYTES_MAX)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            Some(text.lines().next().unwrap_or_default().trim().to_owned())
        }
    };
    key.iter().for_each(|key| secrets::know(key));
    let secret = |text: String| {
        let mut value = HeaderValue::try_from(text).map_err(|_| "the key is not visible ASCII".to_owned())?;
        value.set_sensitive(true);
        Ok::<_, String>(value)
    };
    match (provider.format, key) {
        (Format::OpenAi | Format::Responses, Some(key)) => {
            headers.insert(header::AUTHORIZATION, secret(format!("Bearer {key}"))?);
        }
        (Format::Anthropic, key) => {
            headers.insert("anthropic-version", ANTHROPIC_VERSION);
            if let Some(key) = key {
                headers.insert("x-api-key", secret(key)?);
            }
        }
        (Format::OpenAi | Format::Responses, None) => {}
    }
    Ok(headers)
}

/// `Retry-After` in seconds; dates are not taken.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
