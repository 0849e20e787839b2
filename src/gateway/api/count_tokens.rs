//! How many tokens a prompt has. For one of our models exactly: its tokenizer's count of what its chat template
//! makes of the conversation; Anthropic's API is asked where a caller wants to know
//! (`POST /v1/messages/count_tokens`, <https://docs.anthropic.com/en/api/messages-count-tokens>); for others an
//! estimate ([`route::count`]).
//!
//! Tokenizing takes about a millisecond per thousand tokens: it is done for our models where something
//! is chosen among several (`auto`, named routes), and the answering engine takes the tokens over.

use super::app::{App, RequestContext};
use super::chat::{beta, read_named};
use crate::gateway::chat::Dialect;
use crate::gateway::chat::shapes::anthropic::TokenCount;
use crate::gateway::route::count::Counts;
use crate::gateway::route::{self, Asked};
use crate::gateway::target::local::chat_prompt;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use axum::extract::{Extension, Request, State};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// A prompt's tokens: by the tokenizers of our models too, where the name leaves a choice.
///
/// # Errors
/// The request's time is over.
pub async fn counts_of(
    app: &App,
    context: &RequestContext,
    bounds: &mut RequestBounds,
    name: &str,
    dialect: Dialect,
    body: &Value,
) -> Result<Counts, ApiError> {
    let mut counts = Counts::estimated(body);
    let ours = app.registry.ready();
    if ours.is_empty() {
        return Ok(counts);
    }
    let reached = app.routing().chosen_among(name);
    for model in ours {
        if model.engine.failure().is_some() || !reached.contains(&model.name) {
            continue;
        }
        let drops_noise = app.routing().target(&model.name).is_none_or(|target| target.drops_noise());
        let Ok(work) = chat_prompt(&model, dialect, body, drops_noise) else { continue };
        // None where the model cannot take it.
        let prompt = app.text.run(&context.tenant.name, bounds, move || Ok(work().ok())).await?;
        if let Some(prompt) = prompt {
            counts.knows(&model.name, prompt.into());
        }
    }
    Ok(counts)
}

/// `POST /v1/messages/count_tokens`.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "Anthropic",
    operation_id = "countMessageTokens",
    summary = "Counts the tokens of a conversation",
    description = "Exactly for models of this server and those of Anthropic, else as an estimate: the header `x-novastack-count` says which.",
    request_body(content = ref("#/components/schemas/CountTokensRequest"), example = json!({"model": "qwen3-8b", "messages": [{"role": "user", "content": "Say hello."}]})),
    responses((status = 200, description = "The answer", body = TokenCount)),
)]
pub async fn count_tokens(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut bounds = app.bounds(&context);
    let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
    let (name, mut body) = read_named(&app, &context, &mut bounds, &headers, request).await?;
    let routing = app.routing();
    routing.check_allowed(&name, &context.tenant)?;
    // One of the key's requests, of no tokens.
    let admitted = app.admit(&context).await?;
    let counts = counts_of(&app, &context, &mut bounds, &name, Dialect::Anthropic, &body).await?;
    let asked =
        Asked { body: &body, headers: &headers, path: &path, tenant: &context.tenant, counts: &counts };
    let plan = routing.plan(&name, &asked)?;
    let target = plan.targets.first().ok_or_else(|| ApiError::internal("a plan has no targets"))?.clone();
    context.names(&target.model.name);
    route::strip(&mut body);
    let (tokens, how) = match &target.upstream {
        None => {
            let model = app.engine(&target.model.name)?;
            let work = chat_prompt(&model, Dialect::Anthropic, &body, target.drops_noise())?;
            let prompt = app
                .text
                .run(&context.tenant.name, &mut bounds, work)
                .await
                .map_err(|e| ApiError::from(e).at("messages"))?;
            (prompt.len() as u64, "exact")
        }
        Some(hosted) => match hosted.count(&body, beta(&headers), &mut bounds).await? {
            Some(tokens) => (tokens, "exact"),
            None => (counts.of(&target), "estimate"),
        },
    };
    admitted.into_iter().for_each(|admitted| admitted.settle(0, 0.0, Instant::now()));
    let mut response = Json(json!({ "input_tokens": tokens })).into_response();
    let headers = response.headers_mut();
    headers.insert("x-novastack-count", HeaderValue::from_static(how));
    if let Ok(name) = HeaderValue::try_from(&target.model.name) {
        headers.insert("x-novastack-model", name);
    }
    Ok(response)
}
