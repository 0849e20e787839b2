//! `POST /v1/chat/completions` and `POST /v1/messages`: a conversation in either dialect, answered by
//! any target, in the caller's dialect.
//!
//! Where target and caller speak the same, bodies and frames pass through but for the model's name,
//! what is not known here with them. Else requests are translated and answers are told anew from
//! their events. An answer counts as begun with the first event that says something, so that what
//! fails before that can go to the next target.

mod resume;
mod stream;

use super::app::{App, InFlight, RequestContext};
use super::body::ParsedBody;
use super::count_tokens::counts_of;
use super::openai::chat;
use crate::config::Continues;
use crate::gateway::chat::openai::messages::for_engine;
use crate::gateway::chat::{
    AnswerHead, ChatEvent, DecodeError, Dialect, EncodeError, EncodeOptions, StreamEncoder, TokenUsage,
    decode_whole, encode_whole, for_upstream, pass,
};
use crate::gateway::ledger::account::{Account, Attempt};
use crate::gateway::ledger::cost;
use crate::gateway::route::count::Counts;
use crate::gateway::route::fallback::{self, Answered, Ask};
use crate::gateway::route::{self, Asked, Plan, Target};
use crate::gateway::target::local::{Delta, Generation, TextEvent};
use crate::gateway::target::remote::{Failure, Piece, RemoteAnswer, Then, UpstreamModel};
use crate::gateway::wire::bounds::Limits;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::gateway::wire::rate_limit::insert_limits;
use crate::gateway::wire::sse::{self, FrameSource, Frames};
use axum::extract::{Extension, FromRequestParts, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use resume::ResumeState;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};
use stream::{Out, RemoteStream, Resume, fail, tell};

/// What callers of Anthropic's API ask for beyond its version: their upstream sees it too.
const ANTHROPIC_BETA: HeaderName = HeaderName::from_static("anthropic-beta");
/// Who answered, why, after how many attempts, for how many dollars.
const MODEL: HeaderName = HeaderName::from_static("x-novastack-model");
const ROUTE: HeaderName = HeaderName::from_static("x-novastack-route");
const ARM: HeaderName = HeaderName::from_static("x-novastack-arm");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-novastack-attempts");
const COST: HeaderName = HeaderName::from_static("x-novastack-cost");

/// `POST /v1/chat/completions`.
pub async fn completions(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(app, context, Dialect::OpenAi, request).await
}

/// `POST /v1/messages`.
pub async fn messages(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(app, context, Dialect::Anthropic, request).await
}

async fn answer(
    app: Arc<App>,
    context: RequestContext,
    dialect: Dialect,
    request: Request,
) -> Result<Response, ApiError> {
    let mut limits = app.limits(&context);
    let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
    let (name, mut body) = read_named(&app, &context, &mut limits, &headers, request).await?;
    let stream = Fields::root(&body)?.flag("stream", false)?;
    let routing = app.routing();
    routing.check_allowed(&name, &context.tenant)?;
    let counts = counts_of(&app, &context, &mut limits, &name, dialect, &body).await?;
    let asked =
        Asked { body: &body, headers: &headers, path: &path, tenant: &context.tenant, counts: &counts };
    let mut plan = routing.plan(&name, &asked)?;
    if body.get("resume_token_ids").is_some() {
        // Token ids are one model's.
        plan.targets.truncate(1);
    }
    let account = app.account(&context, &mut plan, &asked).await?;
    let plan = Arc::new(plan);
    route::strip(&mut body);
    let attempts = AtomicU32::new(0);
    let seed = OnceLock::new();
    // One of several that are asked at once is not the last.
    let last = plan.targets.last().filter(|_| !plan.is_hedged()).map(|target| target.model.name.clone());
    let chat = Arc::new(Chat {
        seed,
        last,
        app,
        context,
        dialect,
        headers,
        body,
        stream,
        account,
        counts,
        attempts,
    });
    let answered = fallback::first(&plan, limits.clone(), &*chat).await;
    let answering = answered.as_ref().ok().map(|answered| &answered.target).or(plan.targets.first());
    if let Some(target) = answering {
        chat.context.names(&target.model.name);
    }
    let Answered { answer, target, attempts, hedged } = answered?;
    for slow in hedged {
        chat.app.metrics.attempts().hedged(&slow.model.name, !Arc::ptr_eq(&slow, &target));
    }
    let name = &target.model.name;
    let mut response = answer.respond(&chat, &plan, &target, limits);
    let headers = response.headers_mut();
    let mut tell = |header: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(header, value);
        }
    };
    tell(MODEL, name);
    tell(ROUTE, &plan.route);
    plan.arm.iter().for_each(|arm| tell(ARM, arm));
    headers.insert(ATTEMPTS, attempts.into());
    insert_limits(&mut response, &chat.account.bill.states(), dialect);
    Ok(response)
}

/// A body, and the name that it is for: the path's (`/to/NAME/v1/...`), which is a name here, that of
/// `X-Forwarded-To`, or its own `model`.
pub async fn read_named(
    app: &App,
    context: &RequestContext,
    limits: &mut Limits,
    headers: &HeaderMap,
    request: Request,
) -> Result<(String, ParsedBody), ApiError> {
    let (mut parts, body) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await;
    let named = params
        .ok()
        .and_then(|params| params.iter().find(|(name, _)| *name == "name").map(|(_, it)| it.to_owned()));
    let body = app.read_json(context, limits, Request::from_parts(parts, body)).await?;
    let name = match &named {
        Some(name) => name,
        None => {
            let name = Fields::root(&body)?.required_str("model", "the name of a served model")?;
            app.routing().forced(name, headers, &context.tenant)
        }
    };
    Ok((name.to_owned(), body))
}

/// What an upstream with Anthropic's API sees of its caller's headers.
pub fn beta(headers: &HeaderMap) -> HeaderMap {
    headers.get(ANTHROPIC_BETA).map(|value| (ANTHROPIC_BETA, value.clone())).into_iter().collect()
}

/// A conversation on its way.
pub struct Chat {
    app: Arc<App>,
    context: RequestContext,
    dialect: Dialect,
    headers: HeaderMap,
    body: ParsedBody,
    stream: bool,
    account: Account,
    counts: Counts,
    attempts: AtomicU32,
    /// The plan's last target, after which nobody can take over.
    last: Option<String>,
    /// By which an answer that breaks off is drawn on.
    seed: OnceLock<u64>,
}

/// An answer that has begun.
pub enum Answer {
    /// Of one of our engines, in OpenAI's format: whole, or a stream's head.
    Ours(Response),
    /// Of one of our engines, by events.
    Events(Box<LocalEvents>),
    /// An upstream's stream.
    Stream(Box<BegunStream>),
    /// A whole answer as JSON in the caller's dialect, and what it used, where that is known.
    Whole(String, Option<TokenUsage>),
}

/// An upstream's stream that has begun.
pub struct BegunStream {
    answer: RemoteAnswer,
    /// Its frames up to the first that says something.
    first: VecDeque<Piece>,
    attempt: Option<Attempt>,
}

impl Ask for Chat {
    type Answer = Answer;

    async fn ask(&self, target: &Target, limits: &mut Limits) -> Result<Answer, Failure> {
        let number = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let opened = self.account.attempt(&target.books, target.price(), number).await;
        let mut attempt =
            Some(opened.map_err(|refusal| Failure { error: ApiError::from(&*refusal), then: Then::Next })?);
        let asked = match &target.upstream {
            // Boxed: it is large, and upstreams are asked without it.
            None => Box::pin(self.ask_engine(target, limits, &mut attempt)).await.map_err(|error| {
                // Waiting is the caller's to decide; another target may be free, hold more or take tools.
                let elsewhere = error.status.is_server_error()
                    || error.status == StatusCode::TOO_MANY_REQUESTS
                    || ["context_length_exceeded", "unsupported_parameter"].map(Some).contains(&error.code);
                Failure { error, then: if elsewhere { Then::Next } else { Then::Report } }
            }),
            Some(hosted) => self.ask_upstream(&target.model.name, hosted, limits, &mut attempt, None).await,
        };
        if let (Err(failure), Some(attempt)) = (&asked, attempt) {
            attempt.failed(failure.error.status.as_u16());
        }
        asked
    }
}

impl Chat {
    async fn ask_engine(
        &self,
        target: &Target,
        limits: &mut Limits,
        attempt: &mut Option<Attempt>,
    ) -> Result<Answer, ApiError> {
        let name = &target.model.name;
        let model = self.app.engine(name)?;
        let translated;
        let body = match self.dialect {
            Dialect::OpenAi => &self.body,
            Dialect::Anthropic => {
                translated = for_engine(&self.body)?;
                &translated
            }
        };
        let known = self.counts.prompt(name);
        let mut submitted =
            chat::submit(&self.app, &self.context, limits, &model, body, known, attempt).await?;
        if self.stream && self.last.as_deref() != Some(name) {
            // Until there is output, another target may take over.
            submitted.generation.begin().await?;
        }
        match self.dialect {
            Dialect::OpenAi => {
                let (response, usage) = submitted.respond(&self.app, self.context.clone()).await?;
                let usage = usage.map(|usage| TokenUsage::from(&usage));
                Ok(Answer::Ours(with_cost(response, target, usage.as_ref())))
            }
            Dialect::Anthropic => {
                let mut events = LocalEvents { generation: submitted.generation };
                if self.stream {
                    return Ok(Answer::Events(Box::new(events)));
                }
                let mut all = Vec::new();
                while events.next(&mut all).await? {}
                Ok(Answer::Whole(self.whole(&self.head(name), &all)?, used(&all)))
            }
        }
    }

    async fn ask_upstream(
        &self,
        name: &str,
        hosted: &UpstreamModel,
        limits: &mut Limits,
        attempt: &mut Option<Attempt>,
        told: Option<&ResumeState>,
    ) -> Result<Answer, Failure> {
        let UpstreamModel { upstream, load, .. } = hosted;
        let body = self.upstream_body(hosted, told)?;
        let mut extra = HeaderMap::new();
        if self.dialect == Dialect::Anthropic && upstream.dialect() == Dialect::Anthropic {
            extra = beta(&self.headers);
        }
        attempt.iter().for_each(|attempt| attempt.introduce(&mut extra));
        let mut answer = upstream.send(load, body, extra, limits).await?;
        answer.expects(self.account.demand.choices);
        if self.stream {
            let first = answer.beginning(limits).await?;
            return Ok(Answer::Stream(Box::new(BegunStream { answer, first, attempt: attempt.take() })));
        }
        let body = answer.whole(limits).await?;
        let events = decode_whole(upstream.dialect(), &body).map_err(|error| answer.unread(error))?;
        let whole = match upstream.dialect() == self.dialect {
            true => {
                let body = String::from_utf8(body)
                    .map_err(|error| answer.unread(DecodeError::shape(error.to_string(), "")))?;
                pass::renamed(&body, name)
            }
            false => self.whole(&self.head(name), &events).map_err(Failure::next)?,
        };
        let counted = attempt.take().map(|mut attempt| {
            attempt.events(&events);
            attempt.completed()
        });
        Ok(Answer::Whole(whole, used(&events).and(counted)))
    }

    /// What an upstream is sent; for the rest of an answer, with what was told of it.
    fn upstream_body(&self, model: &UpstreamModel, told: Option<&ResumeState>) -> Result<Vec<u8>, Failure> {
        let UpstreamModel { upstream, name: upstream_name, .. } = model;
        // What cannot be translated may pass through to another target.
        let body = for_upstream(self.dialect, &self.body, &upstream.peer(upstream_name));
        let mut body = body.map_err(Failure::next)?;
        if upstream.continues() != Some(Continues::Tokens) {
            if body.get("resume_token_ids").is_some() {
                let why = "this model's provider does not go on by token ids";
                return Err(Failure::next(BadField::unsupported("resume_token_ids", why)));
            }
            body.as_object_mut().and_then(|body| body.shift_remove("resumable"));
        } else if self.stream {
            body["resumable"] = true.into();
            if body.get("seed").is_none_or(Value::is_null) {
                // Within 31 bits: there may be others behind it.
                body["seed"] = (*self.seed.get_or_init(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 33)).into();
            }
        }
        if let Some(told) = told {
            told.ask(&mut body, upstream.dialect());
        }
        body.as_object_mut().into_iter().for_each(|body| model.body.apply(body));
        serde_json::to_vec(&body).map_err(|error| Failure::report(ApiError::internal(&error.to_string())))
    }

    fn wants_usage(&self) -> bool {
        self.body.pointer("/stream_options/include_usage").and_then(Value::as_bool).unwrap_or(false)
    }

    fn whole(&self, head: &AnswerHead, events: &[ChatEvent]) -> Result<String, ApiError> {
        let whole = encode_whole(self.dialect, head, events).map_err(|error| untellable(&error))?;
        Ok(whole.to_string())
    }

    fn encoder(&self, target: &Target) -> StreamEncoder {
        let options =
            EncodeOptions { include_usage: self.wants_usage(), input_tokens: self.counts.of(target) };
        StreamEncoder::new(self.dialect, self.head(&target.model.name), options)
    }

    /// What an answer that is told anew says of itself.
    fn head(&self, name: &str) -> AnswerHead {
        let prefix = match self.dialect {
            Dialect::OpenAi => "chatcmpl-",
            Dialect::Anthropic => "msg_",
        };
        AnswerHead {
            id: format!("{prefix}{}", uuid::Uuid::new_v4().simple()),
            model: name.to_owned(),
            created_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
}

impl Answer {
    fn respond(self, chat: &Arc<Chat>, plan: &Arc<Plan>, target: &Arc<Target>, limits: Limits) -> Response {
        let keep_alive = chat.app.config.keep_alive;
        let (id, in_flight) = (chat.context.id.clone(), chat.context.in_flight.clone());
        match self {
            Answer::Ours(response) => response,
            Answer::Whole(whole, used) => {
                let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
                with_cost((kind, whole).into_response(), target, used.as_ref())
            }
            Answer::Events(events) => {
                let encoder = chat.encoder(target);
                sse::response(LocalStream { events, encoder, id, _in_flight: in_flight }, keep_alive)
            }
            Answer::Stream(begun) => {
                let resume = Resume::of(chat, plan, target);
                let name = &target.model.name;
                let out = match begun.answer.dialect() == chat.dialect {
                    true => Out::Same {
                        name: name.clone(),
                        hides_usage: chat.dialect == Dialect::OpenAi && !chat.wants_usage(),
                    },
                    false => Out::Anew(Box::new(chat.encoder(target))),
                };
                let dialect = chat.dialect;
                let source = RemoteStream { begun, out, dialect, limits, id, resume, _in_flight: in_flight };
                sse::response(source, keep_alive)
            }
        }
    }
}

/// What came cannot be said in the caller's dialect.
fn untellable(error: &EncodeError) -> ApiError {
    ApiError::upstream_answer(&error.to_string())
}

/// The last of an answer's counts.
fn used(events: &[ChatEvent]) -> Option<TokenUsage> {
    events.iter().rev().find_map(|event| match event {
        ChatEvent::Usage(usage) => Some(*usage),
        _ => None,
    })
}

/// Names what the answer cost, where the model has a price and the usage is known.
fn with_cost(mut response: Response, target: &Target, usage: Option<&TokenUsage>) -> Response {
    if let (Some(price), Some(usage)) = (target.price(), usage)
        && let Ok(value) = HeaderValue::try_from(format!("{:.9}", cost::cost(&price, usage)))
    {
        response.headers_mut().insert(COST, value);
    }
    response
}

/// An engine's answer as events of chat.
pub struct LocalEvents {
    generation: Generation,
}

impl LocalEvents {
    /// Adds the next events; false after the last.
    async fn next(&mut self, events: &mut Vec<ChatEvent>) -> Result<bool, ApiError> {
        let event = self.generation.next().await?;
        let more = event.is_some();
        let text = |delta: &Delta| ChatEvent::Text { choice: delta.choice as u32, text: delta.text.clone() };
        match event {
            Some(TextEvent::Prompt { .. }) => {
                events.push(ChatEvent::Start { id: None, model: None });
                events.push(self.usage());
            }
            Some(TextEvent::Delta(delta)) => events.push(text(&delta)),
            Some(TextEvent::Finished(delta, reason)) => {
                if !delta.text.is_empty() {
                    events.push(text(&delta));
                }
                events.push(ChatEvent::Finish { choice: delta.choice as u32, reason: reason.into() });
            }
            None => events.push(self.usage()),
        }
        Ok(more)
    }

    fn usage(&self) -> ChatEvent {
        ChatEvent::Usage((&self.generation.usage()).into())
    }
}

/// An engine's answer on its way to a caller who does not speak OpenAI's dialect.
struct LocalStream {
    events: Box<LocalEvents>,
    encoder: StreamEncoder,
    id: String,
    _in_flight: InFlight,
}

impl FrameSource for LocalStream {
    async fn next(&mut self, frames: &mut Frames) -> Result<bool, ApiError> {
        let mut events = Vec::new();
        let more = self.events.next(&mut events).await?;
        tell(&mut self.encoder, events.into_iter(), frames)?;
        if !more {
            self.encoder.finish(frames.text());
        }
        Ok(more)
    }

    fn failed(&mut self, error: &ApiError, frames: &mut Frames) {
        fail(Dialect::Anthropic, error, &self.id, frames);
    }
}
