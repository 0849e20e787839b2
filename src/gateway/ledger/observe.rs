//! What is told of each request: a span ([`super::trace`]) and a line in the access log
//! ([`super::access_log`]), or in the program's own log where there is no access log. A request is told of
//! when nobody holds its [`Observed`] any more: its handler has returned or was dropped, and its body was
//! sent to the end or was dropped with its connection.
//!
//! Where none of them is asked for, [`Observers::are_none`] and nothing of this is in a request's way.
//!
//! Invariants: no prompt, no answer, no key is in a line; what others say is bounded and without secrets
//! ([`quoted`]).

use super::access_log::AccessLog;
use super::counterparty::Counterparty;
use super::demand::output_bound;
use super::trace::{self, AskedTarget, Parameters, Span, Tracing};
use crate::config::Server;
use crate::gateway::chat::{ChatEvent, StopReason};
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::sse::BrokeOff;
use crate::secrets;
use crate::store::{Outcome, UsageRecord};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use opentelemetry::trace::{Span as _, TraceId};
use serde_json::Value;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

/// Of a path and of a `User-Agent`.
const TEXT_BYTES_MAX: usize = 512;
/// Of what an upstream calls its model and its answer, and of a reason to stop.
const NAME_BYTES_MAX: usize = 128;
/// Choices whose reasons are told.
const REASONS_MAX: usize = 16;
/// Of the reason why a request failed.
const REASON_CHARS_MAX: usize = 300;
/// What asks all day long whether the server is well.
const PROBES: [&str; 4] = ["/health", "/livez", "/readyz", "/metrics"];
/// How keys begin.
const KEY_BEGINS: [&str; 6] = ["sk-", "nsk-", "hf_", "xai-", "gsk_", "AIza"];
/// The caller went away: "client closed request", as nginx has it.
const STATUS_CANCELLED: u16 = 499;

/// Who wants to know of requests.
#[derive(Clone, Default)]
pub struct Observers {
    tracing: Option<Arc<Tracing>>,
    log: Option<Arc<AccessLog>>,
    /// Requests have a line in the program's own log.
    own: bool,
}

impl Observers {
    /// Starts what the configuration and the environment ask for. Not to be called from async code.
    ///
    /// # Errors
    /// Wrong settings of the environment, a log that cannot be opened.
    pub fn start(server: &Server) -> Result<Self, String> {
        let log = server.access_log.as_ref().map(AccessLog::open).transpose()?;
        let tracing = Tracing::start(&server.telemetry, &|name| std::env::var(name).ok())?;
        // Where there is an access log, a request's line is there alone.
        let own = log.is_none() && tracing::enabled!(tracing::Level::WARN);
        Ok(Self { tracing, log, own })
    }

    /// Nobody does.
    pub fn are_none(&self) -> bool {
        self.tracing.is_none() && self.log.is_none() && !self.own
    }

    /// Spans that ended, and those of them that were sent.
    pub fn spans(&self) -> Option<(u64, u64)> {
        self.tracing.as_ref().map(|tracing| tracing.counts())
    }

    /// Lines that the access log lost.
    pub fn lines_lost(&self) -> Option<u64> {
        self.log.as_ref().map(|log| log.lost())
    }

    /// Opens the access log's file anew whenever SIGHUP comes.
    pub async fn reopen_on_hangup(self) {
        use tokio::signal::unix::{SignalKind, signal};
        let (Some(log), Ok(mut hangup)) = (self.log, signal(SignalKind::hangup())) else { return };
        while hangup.recv().await.is_some() {
            log.reopen();
        }
    }

    /// Writes and sends what waits, within a few seconds. Not to be called from async code.
    pub fn stop(&self) {
        if let Some(log) = &self.log {
            log.close();
        }
        if let Some(tracing) = &self.tracing {
            tracing.stop();
        }
    }
}

/// The address that a connection came from.
#[derive(Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// A request that is over.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Finished {
    pub arrived: SystemTime,
    /// As `x-request-id`; empty for a request of the admin API.
    pub id: String,
    pub method: Method,
    pub path: String,
    /// The pattern that the path met.
    pub http_route: Option<String>,
    /// What is asked for, in the words of OpenTelemetry's conventions; None: nothing of a model.
    pub operation: Option<&'static str>,
    pub parameters: Parameters,
    pub client: Option<SocketAddr>,
    pub user_agent: Option<String>,
    /// The key's name; empty without one.
    pub key: String,
    /// Who answered or was asked last; empty without one.
    pub model: String,
    /// What chose the model; empty without one.
    pub route: String,
    pub attempts: u32,
    /// Of all attempts together.
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    /// Dollars.
    pub cost: f64,
    pub status: u16,
    pub outcome: Outcome,
    /// From its arrival to its end.
    pub latency: Duration,
    /// From its arrival to the first text.
    pub ttft: Option<Duration>,
    /// Of the answer's body.
    pub bytes: u64,
    /// Why its choices ended, in OpenAI's words.
    pub ends: Vec<String>,
    /// Why it failed, as the caller was told.
    pub reason: Option<String>,
    pub trace_id: Option<TraceId>,
}

/// A request that is being answered.
pub struct Observed {
    observers: Observers,
    arrived: Instant,
    span: Option<Span>,
    told: Mutex<RequestState>,
}

struct RequestState {
    finished: Box<Finished>,
    /// Of the last attempt that ended.
    last: Option<Outcome>,
    /// The body was sent to its end.
    ended: bool,
}

impl Observed {
    fn new(observers: &Observers, request: &Request) -> Self {
        let arrived = SystemTime::now();
        let headers = request.headers();
        let span = observers.tracing.as_ref().map(|tracing| tracing.request(headers, arrived));
        let http_route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
        let agent = headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        let finished = Finished {
            arrived,
            id: String::new(),
            method: request.method().clone(),
            path: bounded(request.uri().path(), TEXT_BYTES_MAX),
            operation: http_route.as_deref().and_then(operation),
            http_route,
            parameters: Parameters::default(),
            client: request.extensions().get::<Peer>().map(|peer| peer.0),
            user_agent: agent.map(|agent| bounded(&agent, TEXT_BYTES_MAX)),
            key: String::new(),
            model: String::new(),
            route: String::new(),
            attempts: 0,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            cost: 0.0,
            status: STATUS_CANCELLED,
            outcome: Outcome::Cancelled,
            latency: Duration::ZERO,
            ttft: None,
            bytes: 0,
            ends: Vec::new(),
            reason: None,
            trace_id: span.as_ref().map(|span| span.span_context().trace_id()),
        };
        let told = RequestState { finished: Box::new(finished), last: None, ended: false };
        Self { observers: observers.clone(), arrived: Instant::now(), span, told: Mutex::new(told) }
    }

    fn told(&self) -> MutexGuard<'_, RequestState> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has this id.
    pub fn has_id(&self, id: &str) {
        self.told().finished.id = id.to_owned();
    }

    /// It came with the key of this name.
    pub fn has_key(&self, name: &str) {
        self.told().finished.key = name.to_owned();
    }

    /// It is about this model, where no attempt has told better.
    pub fn names(&self, model: &str) {
        let finished = &mut self.told().finished;
        if finished.model.is_empty() {
            finished.model = model.to_owned();
        }
    }

    /// It is to be tried where `route` leads.
    pub fn is_planned(&self, route: &str, body: &Value) {
        let number = |name: &str| body.get(name).and_then(Value::as_f64);
        let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
        let finished = &mut self.told().finished;
        finished.route = route.to_owned();
        finished.parameters = Parameters {
            model: bounded(model, NAME_BYTES_MAX),
            stream: body.get("stream").and_then(Value::as_bool).unwrap_or(false),
            max_tokens: output_bound(body),
            temperature: number("temperature"),
            top_p: number("top_p"),
        };
    }

    /// A target is asked.
    pub fn attempt(self: &Arc<Self>, target: &Counterparty) -> Box<ObservedAttempt> {
        let mut told = self.told();
        told.finished.attempts += 1;
        let operation = told.finished.operation.unwrap_or("chat");
        let span = self.observers.tracing.as_ref().zip(self.span.as_ref()).map(|(tracing, request)| {
            let asked = AskedTarget::new(operation, target, told.finished.parameters.clone());
            (tracing.attempt(request.span_context(), target), asked)
        });
        Box::new(ObservedAttempt { request: self.clone(), begun: Instant::now(), span })
    }

    fn answered(&self, status: u16) {
        self.told().finished.status = status;
    }

    /// It failed, and this is what the caller was told of it.
    pub fn failed(&self, reason: &str) {
        self.told().finished.reason = Some(quoted(reason));
    }

    fn broke_off(&self) {
        let mut told = self.told();
        (told.last, told.ended) = (Some(Outcome::Failed), true);
    }

    fn sent(&self, bytes: u64, ended: bool) {
        let mut told = self.told();
        told.finished.bytes = bytes;
        // Nothing is sent in answer to HEAD.
        told.ended |= ended || told.finished.method == Method::HEAD;
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let told = self.told.get_mut().unwrap_or_else(PoisonError::into_inner);
        let finished = &mut told.finished;
        finished.latency = self.arrived.elapsed();
        finished.outcome = match (told.ended, finished.status, told.last) {
            (false, ..) => Outcome::Cancelled,
            (true, 400.., _) => Outcome::Failed,
            (true, _, None | Some(Outcome::Completed)) => Outcome::Completed,
            // The stream's last event told of it.
            (true, _, Some(_)) => Outcome::Failed,
        };
        if let (Some(tracing), Some(span)) = (&self.observers.tracing, self.span.take()) {
            tracing.end_request(span, finished);
        }
        if let Some(log) = &self.observers.log {
            log.record(finished.clone());
        }
        if self.observers.own {
            write_line(finished);
        }
    }
}

/// A request's line in the program's own log.
fn write_line(request: &Finished) {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let generates = request.operation.is_some() && request.attempts > 0;
    let tokens = |count: u64| generates.then_some(count);
    let ms = |time: Duration| time.as_millis() as u64;
    let (id, path, status) =
        (&request.id, request.http_route.as_deref().unwrap_or("unmatched"), request.status);
    let (model, key) = (some(&request.model), some(&request.key));
    let (method, end) = (&request.method, some(&request.ends.join(",")));
    let reason = request.reason.as_deref();
    // One macro, whose fields are those that there are, for each level.
    macro_rules! line {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                request_id = id,
                %method,
                path,
                model,
                key,
                status,
                tokens_in = tokens(request.input_tokens),
                cached = tokens(request.cached_tokens),
                tokens_out = tokens(request.output_tokens),
                first_token_ms = request.ttft.map(ms),
                tokens_per_s = tokens_per_s(request),
                ms = ms(request.latency),
                end,
                reason,
                $message
            )
        };
    }
    let is_probe = PROBES.contains(&path) || request.method == Method::OPTIONS;
    match request.outcome {
        _ if is_probe => line!(debug, "answered"),
        Outcome::Completed => line!(info, "answered"),
        Outcome::Cancelled => line!(info, "the caller went away"),
        Outcome::Failed if (400..500).contains(&status) => line!(info, "refused"),
        Outcome::Failed => line!(warn, "failed"),
    }
}

/// Of the answer's tokens after the first, while they came; to one digit.
fn tokens_per_s(request: &Finished) -> Option<f64> {
    let after_first = request.output_tokens.checked_sub(1).filter(|tokens| *tokens > 0)?;
    let seconds = request.latency.saturating_sub(request.ttft?).as_secs_f64();
    (seconds > 0.0).then(|| (after_first as f64 / seconds * 10.0).round() / 10.0)
}

/// What somebody else said, for the log: short, on one line, without words that look like keys. What
/// servers repeat of a request's body (`input` in the errors of pydantic) is cut off.
pub fn quoted(text: &str) -> String {
    // Before anything is cut off: half a secret is not found.
    let text = &*secrets::hide(text);
    let end = ["\"input\"", "'input'"].iter().filter_map(|mark| text.find(mark)).min();
    let words: Vec<&str> = text[..end.unwrap_or(text.len())].split_whitespace().collect();
    let line: String = without_keys(&words.join(" ")).chars().filter(|c| !c.is_control()).collect();
    match line.char_indices().nth(REASON_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// With what looks like a key, wherever it stands, and what follows `Bearer` masked.
fn without_keys(mut line: &str) -> String {
    let of_a_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '*');
    let mut masked = String::with_capacity(line.len());
    let mut after_bearer = false;
    while let Some(begin) = line.find(of_a_word) {
        masked += &line[..begin];
        line = &line[begin..];
        let end = match after_bearer {
            true => line.find(char::is_whitespace),
            false => line.find(|c| !of_a_word(c)),
        };
        let (word, rest) = line.split_at(end.unwrap_or(line.len()));
        let is_key = after_bearer || KEY_BEGINS.iter().any(|begin| word.starts_with(begin));
        masked += if is_key { "***" } else { word };
        after_bearer = word.eq_ignore_ascii_case("bearer");
        line = rest;
    }
    masked + line
}

/// An attempt under way.
pub struct ObservedAttempt {
    request: Arc<Observed>,
    begun: Instant,
    span: Option<(Span, AskedTarget)>,
}

impl ObservedAttempt {
    /// Adds the `traceparent` for whom it asks.
    pub fn introduce(&self, headers: &mut HeaderMap) {
        if let Some((span, _)) = &self.span {
            headers.extend([trace::traceparent(span.span_context())]);
        }
    }

    /// Looks at an event of the answer.
    pub fn event(&mut self, event: &ChatEvent) {
        if let ChatEvent::Finish { reason, .. } = event {
            let ends = &mut self.request.told().finished.ends;
            if ends.len() < REASONS_MAX {
                ends.push(reason_text(reason));
            }
        }
        let Some((_, asked)) = &mut self.span else { return };
        match event {
            ChatEvent::Start { id, model } => {
                let short = |text: &Option<String>| text.as_deref().map(|text| bounded(text, NAME_BYTES_MAX));
                (asked.answer_id, asked.answer_model) = (short(id), short(model));
            }
            ChatEvent::Finish { reason, .. } if asked.finish_reasons.len() < REASONS_MAX => {
                asked.finish_reasons.push(reason_text(reason));
            }
            _ => {}
        }
    }

    /// It is over; `first` is when its first text came.
    pub fn recorded(self, record: &UsageRecord, first: Option<Instant>) {
        let Self { request, begun, span } = self;
        {
            let mut told = request.told();
            told.last = Some(record.outcome);
            let finished = &mut told.finished;
            finished.model.clone_from(&record.model);
            finished.input_tokens += record.input_tokens;
            finished.cached_tokens += record.cached_tokens;
            finished.output_tokens += record.output_tokens;
            finished.cost += record.cost;
            let ttft = first.map(|first| first.duration_since(request.arrived));
            finished.ttft = finished.ttft.or(ttft);
        }
        if let (Some(tracing), Some((span, mut asked))) = (&request.observers.tracing, span) {
            asked.first = first.map(|first| first.duration_since(begun));
            tracing.end_attempt(span, &asked, record);
        }
    }
}

/// OpenAI's words, which the conventions' examples use.
fn reason_text(reason: &StopReason) -> String {
    match reason {
        StopReason::End | StopReason::StopSequence(_) => "stop".into(),
        StopReason::Length => "length".into(),
        StopReason::ToolCalls => "tool_calls".into(),
        StopReason::Refusal => "content_filter".into(),
        StopReason::Pause => "pause_turn".into(),
        StopReason::Other(word) => bounded(word, NAME_BYTES_MAX),
    }
}

/// What is asked for at a path.
fn operation(http_route: &str) -> Option<&'static str> {
    let ends = |end: &str| http_route.ends_with(end);
    match () {
        () if ["/v1/chat/completions", "/v1/messages", "/v1/responses"].iter().any(|end| ends(end)) => {
            Some("chat")
        }
        () if ends("/v1/completions") => Some("text_completion"),
        () if ends("/v1/embeddings") => Some("embeddings"),
        // The conventions have no words for these two.
        () if ends("/rerank") => Some("rerank"),
        () if ends("/score") => Some("score"),
        () => None,
    }
}

/// The text's begin, of at most so many bytes, without secrets.
pub fn bounded(text: &str, bytes_max: usize) -> String {
    let text = &*secrets::hide(text);
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

/// Around every request, outside of everything else.
pub async fn observe(State(observers): State<Observers>, mut request: Request, next: Next) -> Response {
    let observed = Arc::new(Observed::new(&observers, &request));
    request.extensions_mut().insert(observed.clone());
    let response = next.run(request).await;
    observed.answered(response.status().as_u16());
    if let Some(error) = response.extensions().get::<ApiError>() {
        observed.failed(&error.message);
    }
    let broke_off = response.extensions().get::<BrokeOff>().cloned();
    response.map(|body| Body::new(ObservedBody { body, bytes: 0, ended: false, broke_off, observed }))
}

/// A body on its way to the caller.
struct ObservedBody {
    /// Dropped first: an attempt that it holds is over before its request is.
    body: Body,
    bytes: u64,
    ended: bool,
    /// Of a stream.
    broke_off: Option<BrokeOff>,
    observed: Arc<Observed>,
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => self.observed.broke_off(),
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        if let Some(reason) = self.broke_off.as_ref().and_then(|broke_off| broke_off.0.get()) {
            self.observed.failed(reason);
        }
        // Whoever knows the length does not ask whether there is more.
        self.observed.sent(self.bytes, self.ended || self.body.is_end_stream());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_short_and_has_no_keys() {
        assert_eq!(quoted("plain words"), "plain words");
        assert_eq!(
            quoted("Incorrect API key provided: sk-abc*def.\nSee"),
            "Incorrect API key provided: ***. See"
        );
        assert_eq!(quoted("key `nsk-0123` and (hf_xyz)"), "key `***` and (***)");
        for (said, shown) in [
            (r#"api_key="sk-abc", again"#, r#"api_key="***", again"#),
            (r#"{"key":"sk-abc"}"#, r#"{"key":"***"}"#),
            ("https://h.example/?key=AIzaSy0 failed", "https://h.example/?key=*** failed"),
            ("provided:sk-abc", "provided:***"),
            ("Authorization: Bearer abc.def/0+1= is unknown", "Authorization: Bearer *** is unknown"),
            ("a risk-free desk", "a risk-free desk"),
        ] {
            assert_eq!(quoted(said), shown);
        }
        let body = r#"[{"type": "missing", "loc": ["body"], "input": {"messages": "secret"}}]"#;
        assert!(!quoted(body).contains("secret"), "{}", quoted(body));
        let long = quoted(&"word \u{1b}[31m".repeat(1000));
        assert!(long.chars().count() == REASON_CHARS_MAX + 3 && !long.contains('\u{1b}'), "{long}");
    }

    #[test]
    fn every_path_that_answers_has_its_operation() {
        for path in ["/v1/chat/completions", "/router/v1/messages", "/to/{name}/v1/responses"] {
            assert_eq!(operation(path), Some("chat"), "{path}");
        }
        assert_eq!(operation("/v1/completions"), Some("text_completion"));
        assert_eq!(operation("/to/{name}/v1/embeddings"), Some("embeddings"));
        for (path, wanted) in [("/rerank", "rerank"), ("/router/v2/rerank", "rerank"), ("/v1/score", "score")]
        {
            assert_eq!(operation(path), Some(wanted), "{path}");
        }
        assert_eq!(operation("/v1/scores"), None);
        assert_eq!(operation("/v1/responses/{id}"), None);
    }

    #[test]
    fn rates_count_what_came_after_the_first_token() {
        let request =
            axum::http::Request::builder().uri("/v1/completions").body(Body::empty()).expect("valid");
        let observed = Observed::new(&Observers::default(), &request);
        let mut finished = observed.told().finished.clone();
        (finished.output_tokens, finished.latency) = (101, Duration::from_secs(3));
        assert_eq!(tokens_per_s(&finished), None);
        finished.ttft = Some(Duration::from_secs(1));
        assert_eq!(tokens_per_s(&finished), Some(50.0));
        finished.output_tokens = 1;
        assert_eq!(tokens_per_s(&finished), None);
    }
}
