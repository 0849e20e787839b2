//! `POST /v1/chat/completions` and `POST /v1/messages`: a conversation in either dialect, answered by
//! any target, in the caller's dialect.
//!
//! Where target and caller speak the same, bodies and frames pass through but for the model's name,
//! what is not known here with them. Else requests are translated and answers are told anew from
//! their events. An answer counts as begun with the first event that says something, so that what
//! fails before that can go to the next target. A stream's caller is not kept without a word until then: where
//! nobody has begun within the time between two keep-alive comments, the head and a comment go out, and what
//! fails from there on is told as an event of the stream ([`stream::WaitingStream`]).

mod stream;

use super::answered::{self, tell_target, with_cost};
use super::app::{App, RequestContext};
use super::body::ParsedBody;
use super::count_tokens::counts_of;
use super::responses::OfResponses;
use crate::gateway::chat::custom_tools::CustomTools;
use crate::gateway::chat::shapes::anthropic::{Message, MessageStreamData};
use crate::gateway::chat::shapes::openai::{ChatCompletion, ChatStreamData};
use crate::gateway::chat::{
    AnswerHead, ChatEvent, Dialect, EncodeError, EncodeOptions, TokenUsage, encode_whole, pass,
};
use crate::gateway::ledger::account::{Account, Attempt};
use crate::gateway::route::count::Counts;
use crate::gateway::route::fallback::{self, Answered, Ask};
use crate::gateway::route::{self, Asked, Plan, Target};
use crate::gateway::target::answer::{Answer, Piece, Whole};
use crate::gateway::target::failure::{Failure, Then};
use crate::gateway::target::local::{LocalTarget, failure};
use crate::gateway::target::remote::ANTHROPIC_BETA;
use crate::gateway::target::resume::ResumeState;
use crate::gateway::target::{ChatRequest, ChatTarget};
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::Fields;
use crate::gateway::wire::sse;
use axum::extract::{Extension, FromRequestParts, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};
use stream::{AnswerStream, WaitingStream};

/// `POST /v1/chat/completions`.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "OpenAI",
    operation_id = "createChatCompletion",
    summary = "Answers a conversation",
    description = "By a model of this server or by an upstream, as `model` and the rules say. With `stream: true` as server-sent events.",
    request_body(content = ref("#/components/schemas/ChatRequest"), example = json!({"model": "qwen3-8b", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16})),
    responses((status = 200, description = "The answer", content((ChatCompletion = "application/json"), (ChatStreamData = "text/event-stream")))),
)]
pub async fn completions(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(app, context, Dialect::OpenAi, request).await
}

/// `POST /v1/messages`.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "Anthropic",
    operation_id = "createMessage",
    summary = "Answers a conversation",
    description = "In the format of Anthropic's API, by a model of this server or by an upstream. With `stream: true` as server-sent events.",
    request_body(content = ref("#/components/schemas/MessagesRequest"), example = json!({"model": "qwen3-8b", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16})),
    responses((status = 200, description = "The answer", content((Message = "application/json"), (MessageStreamData = "text/event-stream")))),
)]
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
    let mut bounds = app.bounds(&context);
    let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
    let (name, body) = read_named(&app, &context, &mut bounds, &headers, request).await?;
    let asked = Conversation { headers, path, name, dialect, body, responses: None };
    converse(app, context, bounds, asked).await
}

/// What a caller asks, read as far as its format goes.
pub struct Conversation {
    /// The request's.
    pub headers: HeaderMap,
    /// The request's.
    pub path: String,
    /// Whom it is for.
    pub name: String,
    /// The body's.
    pub dialect: Dialect,
    /// In that dialect.
    pub body: ParsedBody,
    /// Of a caller of Responses, whose body was made one of chat completions.
    pub responses: Option<Arc<OfResponses>>,
}

/// Routes a conversation, has it answered and tells the answer.
pub async fn converse(
    app: Arc<App>,
    context: RequestContext,
    mut bounds: RequestBounds,
    conversation: Conversation,
) -> Result<Response, ApiError> {
    let Conversation { headers, path, name, dialect, mut body, responses } = conversation;
    let stream = Fields::root(&body)?.flag("stream", false)?;
    let routing = app.routing();
    routing.check_allowed(&name, &context.tenant)?;
    let counts = counts_of(&app, &context, &mut bounds, &name, dialect, &body).await?;
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
        responses,
        headers,
        body,
        stream,
        account,
        counts,
        attempts,
    });
    let answered = {
        let (chat, plan, bounds) = (chat.clone(), plan.clone(), bounds.clone());
        async move { chat.noted(&plan, fallback::first(&plan, bounds, &*chat).await) }
    };
    let keep_alive = chat.app.config.keep_alive;
    let answered = if stream {
        let mut answered = Box::pin(answered);
        match tokio::time::timeout(keep_alive, &mut answered).await {
            Ok(answered) => answered?,
            Err(_) => {
                let waiting = WaitingStream::new(answered, &chat, &plan, bounds);
                let mut response = sse::response(waiting, keep_alive);
                chat.tell_plan(&plan, &mut response);
                return Ok(response);
            }
        }
    } else {
        answered.await?
    };
    let Answered { answer, target, attempts, .. } = answered;
    let mut response = match answer {
        ChatAnswer::Whole(whole, used) => {
            let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            with_cost((kind, whole).into_response(), &target, used.as_ref())
        }
        ChatAnswer::Stream(open) => {
            sse::response(AnswerStream::new(open, &chat, &plan, &target, bounds), keep_alive)
        }
    };
    chat.tell_plan(&plan, &mut response);
    tell_target(&target, attempts, &mut response);
    Ok(response)
}

/// A body, and the name that it is for: the path's (`/to/NAME/v1/...`), which is a name here, that of
/// `X-Forwarded-To`, or its own `model`.
pub async fn read_named(
    app: &App,
    context: &RequestContext,
    bounds: &mut RequestBounds,
    headers: &HeaderMap,
    request: Request,
) -> Result<(String, ParsedBody), ApiError> {
    let (mut parts, body) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await;
    let named = params
        .ok()
        .and_then(|params| params.iter().find(|(name, _)| *name == "name").map(|(_, it)| it.to_owned()));
    let body = app.read_json(context, bounds, Request::from_parts(parts, body)).await?;
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
    /// The body's.
    dialect: Dialect,
    /// Of a caller who is answered as a response.
    responses: Option<Arc<OfResponses>>,
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

/// An answer to be told.
pub enum ChatAnswer {
    /// A stream.
    Stream(Box<OpenStream>),
    /// A whole answer as JSON in the caller's dialect, and what it used, where that is known.
    Whole(String, Option<TokenUsage>),
}

/// A stream that has begun.
pub struct OpenStream {
    answer: Answer,
    /// Its pieces up to the first that says something.
    first: VecDeque<Piece>,
    /// Where the answer does not keep its books itself.
    attempt: Option<Attempt>,
}

impl Ask for Chat {
    type Answer = ChatAnswer;

    async fn ask(&self, target: &Target, bounds: &mut RequestBounds) -> Result<ChatAnswer, Failure> {
        let number = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let opened = self.account.attempt(&target.books, target.price(), number).await;
        let mut attempt =
            Some(opened.map_err(|refusal| Failure { error: ApiError::from(&*refusal), then: Then::Next })?);
        let begun = self.begin(target, bounds, &mut attempt, None).await;
        if let (Err(failure), Some(attempt)) = (&begun, attempt) {
            attempt.failed(failure.error.status.as_u16());
        }
        begun
    }
}

impl Chat {
    /// Notes who answers, or would have, and who was overtaken.
    fn noted<T>(
        &self,
        plan: &Plan,
        answered: Result<Answered<T>, ApiError>,
    ) -> Result<Answered<T>, ApiError> {
        let answered = answered::noted(&self.app, &self.context, plan, answered);
        answered.map_err(|error| if self.responses.is_some() { error.in_input() } else { error })
    }

    /// Names in a response's head what is known before anybody has answered.
    fn tell_plan(&self, plan: &Plan, response: &mut Response) {
        answered::tell_plan(plan, &self.account, self.dialect, response);
    }

    /// Asks a target; for the rest of an answer, with what its caller has.
    async fn begin(
        &self,
        target: &Target,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
        resume: Option<&ResumeState>,
    ) -> Result<ChatAnswer, Failure> {
        let name = &target.model.name;
        let request = ChatRequest {
            id: &self.context.id,
            tenant: &self.context.tenant,
            arrived: self.context.arrived,
            dialect: self.dialect,
            body: &self.body,
            stream: self.stream,
            choices: self.account.demand.choices,
            headers: if self.dialect == Dialect::Anthropic { beta(&self.headers) } else { HeaderMap::new() },
            prompt: self.counts.prompt(name),
            seed: &self.seed,
            resume,
        };
        let mut answer = match &target.upstream {
            // Boxed: it is large, and upstreams are asked without it.
            None => {
                let model = self.app.engine(name).map_err(failure)?;
                let (text, metrics) = (&self.app.text, &self.app.metrics);
                let engine = LocalTarget { model, drops_noise: target.drops_noise(), text, metrics };
                Box::pin(engine.ask(&request, bounds, attempt)).await?
            }
            Some(upstream) => upstream.ask(&request, bounds, attempt).await?,
        };
        if self.stream {
            // Until there is output, another target may take over; one that is ours and the last need not wait.
            let first = match target.upstream.is_none() && self.last.as_deref() == Some(name) {
                true => VecDeque::new(),
                false => answer.beginning(bounds).await?,
            };
            return Ok(ChatAnswer::Stream(Box::new(OpenStream { answer, first, attempt: attempt.take() })));
        }
        let Whole { json, events } = answer.whole(bounds).await?;
        // Who has answered is paid, also where the answer cannot be told.
        let used = events.iter().rev().find_map(|event| match event {
            ChatEvent::Usage(usage) => Some(*usage),
            _ => None,
        });
        let counted = attempt.take().map(|mut attempt| {
            attempt.events(&events);
            attempt.completed()
        });
        let passes = self.responses.is_none() && answer.dialect() == Some(self.dialect);
        let whole = match json.filter(|_| passes) {
            Some(json) => pass::renamed(&json, name),
            None => self.whole(&self.head(name), &answer.options(self.options(target)), &events)?,
        };
        Ok(ChatAnswer::Whole(whole, used.map(|used| counted.unwrap_or(used))))
    }

    fn wants_usage(&self) -> bool {
        self.body["stream_options"]["include_usage"].as_bool().unwrap_or(false)
    }

    fn whole(
        &self,
        head: &AnswerHead,
        options: &EncodeOptions,
        events: &[ChatEvent],
    ) -> Result<String, Failure> {
        let whole = match &self.responses {
            Some(responses) => responses.whole(head, events),
            None => encode_whole(self.dialect, head, options, events),
        };
        // Asked again, it would be paid again.
        Ok(whole.map_err(|error| Failure::report(untellable(&error)))?.to_string())
    }

    fn options(&self, target: &Target) -> EncodeOptions {
        EncodeOptions {
            include_usage: self.wants_usage(),
            input_tokens: self.counts.of(target),
            custom_tools: if self.dialect == Dialect::OpenAi {
                CustomTools::of(&self.body)
            } else {
                CustomTools::default()
            },
            ..EncodeOptions::default()
        }
    }

    /// What an answer that is told anew says of itself.
    fn head(&self, name: &str) -> AnswerHead {
        let prefix = match (&self.responses, self.dialect) {
            (Some(_), _) => "resp_",
            (None, Dialect::OpenAi | Dialect::Responses) => "chatcmpl-",
            (None, Dialect::Anthropic) => "msg_",
        };
        AnswerHead {
            id: format!("{prefix}{}", uuid::Uuid::new_v4().simple()),
            model: name.to_owned(),
            created_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
}

/// What came cannot be said in the caller's dialect.
fn untellable(error: &EncodeError) -> ApiError {
    ApiError::upstream_answer(&error.to_string())
}
