//! What `/v1/embeddings`, `/v1/rerank` and `/v1/score` have in common: texts go in and numbers come out, in one piece,
//! from one of our models or from an upstream, whose answer passes through. They are planned, held to limits, tried,
//! booked and told of as chats are.
//!
//! Where a model of another provider takes over, its vectors are others: chains of embeddings are for several places
//! of one model.

use super::answered::{self, tell_target, with_cost};
use super::app::{App, RequestContext};
use super::body::ParsedBody;
use super::chat::read_named;
use super::{embeddings, rerank, score};
use crate::gateway::chat::{Dialect, TokenUsage};
use crate::gateway::ledger::account::{Account, Attempt};
use crate::gateway::ledger::demand::Demand;
use crate::gateway::route::count::Counts;
use crate::gateway::route::fallback::{self, Answered, Ask};
use crate::gateway::route::{self, Asked, Target};
use crate::gateway::target::failure::{Failure, Then};
use crate::gateway::target::local::{LocalPooling, Usage, failure};
use crate::gateway::target::remote::{PooledTask, UpstreamModel};
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::Fields;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use utoipa::ToSchema;

/// Texts of one request, as in OpenAI's API.
pub const TEXTS_MAX: usize = 2048;
/// JSON of more bytes than this is read and written off the threads that serve connections.
pub const JSON_INLINE_BYTES_MAX: usize = 64 << 10;

/// `usage`, where there is no output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InputUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl From<&Usage> for InputUsage {
    fn from(usage: &Usage) -> Self {
        Self { prompt_tokens: usage.prompt_tokens, total_tokens: usage.prompt_tokens }
    }
}

/// A request on its way.
struct Pooled {
    app: Arc<App>,
    context: RequestContext,
    task: PooledTask,
    body: ParsedBody,
    account: Account,
    attempts: AtomicU32,
}

/// An answer's JSON, and what it used, where that is known.
type Whole = (String, Option<TokenUsage>);

impl Ask for Pooled {
    type Answer = Whole;

    async fn ask(&self, target: &Target, bounds: &mut RequestBounds) -> Result<Whole, Failure> {
        let number = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let opened = self.account.attempt(&target.books, target.price(), number).await;
        let mut attempt =
            Some(opened.map_err(|refusal| Failure { error: ApiError::from(&*refusal), then: Then::Next })?);
        let answered = match &target.upstream {
            None => self.ask_ours(&target.model.name, bounds, &mut attempt).await,
            Some(upstream) => self.ask_upstream(upstream, &target.model.name, bounds, &attempt).await,
        };
        let Some(mut attempt) = attempt else { return answered };
        match answered {
            Ok((whole, used)) => {
                used.iter().for_each(|used| attempt.counted(*used));
                let counted = attempt.completed();
                Ok((whole, used.map(|_| counted)))
            }
            Err(failure) => {
                attempt.failed(failure.error.status.as_u16());
                Err(failure)
            }
        }
    }
}

impl Pooled {
    async fn ask_upstream(
        &self,
        upstream: &UpstreamModel,
        name: &str,
        bounds: &mut RequestBounds,
        attempt: &Option<Attempt>,
    ) -> Result<Whole, Failure> {
        let answer = upstream.pool(self.task, &self.body, bounds, attempt).await?;
        if answer.body_bytes() <= JSON_INLINE_BYTES_MAX {
            return answer.read(name);
        }
        let name = name.to_owned();
        let read = self.app.text.run(&self.context.tenant.name, bounds, move || Ok(answer.read(&name))).await;
        read.map_err(failure)?
    }

    async fn ask_ours(
        &self,
        name: &str,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
    ) -> Result<Whole, Failure> {
        let ours = LocalPooling {
            model: self.app.engine(name).map_err(failure)?,
            text: &self.app.text,
            metrics: &self.app.metrics,
            tenant: &self.context.tenant,
            id: &self.context.id,
            arrived: self.context.arrived,
        };
        let answered = match self.task {
            PooledTask::Embeddings => embeddings::answer(&ours, &self.body, bounds, attempt).await,
            PooledTask::Rerank => rerank::answer(&ours, &self.body, bounds, attempt).await,
            PooledTask::Score => score::answer(&ours, &self.body, bounds, attempt).await,
        };
        let (whole, usage) = answered.map_err(failure)?;
        Ok((whole, Some((&usage).into())))
    }
}

/// Routes a request, has it answered and tells the answer.
pub async fn answer(
    app: Arc<App>,
    context: RequestContext,
    task: PooledTask,
    request: Request,
) -> Result<Response, ApiError> {
    let mut bounds = app.bounds(&context);
    let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
    let (name, mut body) = read_named(&app, &context, &mut bounds, &headers, request).await?;
    // Tags of records: what is read of a body whoever answers.
    Fields::root(&body)?.object("metadata")?;
    let routing = app.routing();
    routing.check_allowed(&name, &context.tenant)?;
    let counts = Counts::of_texts(&body);
    let asked =
        Asked { body: &body, headers: &headers, path: &path, tenant: &context.tenant, counts: &counts };
    let mut plan = routing.plan(&name, &asked)?;
    let account = app.account_of(&context, &mut plan, &asked, Demand::NO_OUTPUT).await?;
    route::strip(&mut body);
    let pooled = Pooled { app, context, task, body, account, attempts: AtomicU32::new(0) };
    let answered = fallback::first(&plan, bounds, &pooled).await;
    let answered = answered::noted(&pooled.app, &pooled.context, &plan, answered)?;
    let Answered { answer: (whole, used), target, attempts, .. } = answered;
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = with_cost((kind, whole).into_response(), &target, used.as_ref());
    answered::tell_plan(&plan, &pooled.account, Dialect::OpenAi, &mut response);
    tell_target(&target, attempts, &mut response);
    Ok(response)
}
