//! `POST /v1/responses`: a conversation in OpenAI's newer format, answered by any target as a chat completion is
//! ([`crate::gateway::chat::responses`]), and what was answered before, for who goes on from it or asks for it again.
//!
//! Kept is what a key asked and got, in this process's memory, within bounds
//! ([`Bounds`](crate::gateway::chat::responses::store::Bounds)); `store: false` keeps nothing.

use super::app::{App, RequestContext};
use super::chat::{Conversation, converse, read_named};
use crate::gateway::chat::responses::encode::whole;
use crate::gateway::chat::responses::request::{self, Asked};
use crate::gateway::chat::responses::store::{Item, OfOneKey, ResponseStore};
use crate::gateway::chat::shapes::responses;
use crate::gateway::chat::{AnswerHead, ChatEvent, Dialect, EncodeError};
use crate::gateway::wire::error::ApiError;
use axum::extract::{Extension, Path, Request, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Map, Value, json};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// What an answer to a caller of Responses needs.
pub struct OfResponses {
    /// What the response object repeats, and how calls are told.
    pub asked: Arc<Asked>,
    /// Up to the answer.
    conversation: Vec<Arc<Item>>,
    /// Of it, what came with this request.
    added: usize,
    app: Arc<App>,
    /// Whose it is.
    key: String,
}

impl OfResponses {
    /// A whole answer, which is kept.
    pub fn whole(&self, head: &AnswerHead, events: &[ChatEvent]) -> Result<Value, EncodeError> {
        let response = whole(head, self.asked.clone(), events)?;
        self.keep(&response);
        Ok(response)
    }

    /// Keeps a response unless its caller does not want that.
    pub fn keep(&self, response: &Value) {
        if self.asked.store {
            store(&self.app).put(&self.key, response.clone(), &self.conversation, self.added, now_s());
        }
    }
}

fn store(app: &App) -> MutexGuard<'_, ResponseStore> {
    app.responses.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `POST /v1/responses`.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "OpenAI",
    operation_id = "createResponse",
    summary = "Answers a conversation",
    description = "In the format of OpenAI's Responses, by a model of this server or by an upstream. With `stream: true` as server-sent events.",
    request_body(content = ref("#/components/schemas/ResponsesRequest"), example = json!({"model": "qwen3-8b", "input": "Say hello.", "max_output_tokens": 16})),
    responses((status = 200, description = "The answer", content((responses::Response = "application/json"), (responses::ResponseStreamData = "text/event-stream")))),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut bounds = app.bounds(&context);
    let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
    let (name, mut body) = read_named(&app, &context, &mut bounds, &headers, request).await?;
    let read = {
        let earlier = OfOneKey { store: &app.responses, key: &context.tenant.name, now_s: now_s() };
        // A conversation is there twice: as it was sent or kept, and as the chat that is made of it.
        let kept = body.get("previous_response_id").and_then(Value::as_str).map_or(0, |id| earlier.bytes(id));
        body.hold_more(body.held_bytes() + kept)?;
        request::read(&body, &earlier)?
    };
    *body = read.chat;
    let responses = Some(Arc::new(OfResponses {
        asked: Arc::new(read.asked),
        conversation: read.conversation,
        added: read.added,
        app: app.clone(),
        key: context.tenant.name.clone(),
    }));
    let asked = Conversation { headers, path, name, dialect: Dialect::OpenAi, body, responses };
    converse(app, context, bounds, asked).await
}

/// `GET /v1/responses/{id}`.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    tag = "OpenAI",
    operation_id = "getResponse",
    summary = "A stored response",
    description = "Of the same key, as long as it is kept.",
    params(("id" = String, Path, description = "The response's id")),
    responses((status = 200, description = "The answer", body = responses::Response)),
)]
pub async fn get(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let response = store(&app).get(&context.tenant.name, &id, now_s());
    let response = response.ok_or_else(|| ApiError::unknown_response(&id))?;
    Ok(Json(&*response).into_response())
}

/// `DELETE /v1/responses/{id}`.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    tag = "OpenAI",
    operation_id = "deleteResponse",
    summary = "Forgets a stored response",
    params(("id" = String, Path, description = "The response's id")),
    responses((status = 200, description = "The answer", body = responses::ResponseDeleted)),
)]
pub async fn delete(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    match store(&app).delete(&context.tenant.name, &id) {
        true => Ok(Json(json!({"id": id, "object": "response", "deleted": true})).into_response()),
        false => Err(ApiError::unknown_response(&id)),
    }
}

/// `GET /v1/responses/{id}/input_items`.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    tag = "OpenAI",
    operation_id = "listResponseInputItems",
    summary = "What a stored response was asked",
    params(("id" = String, Path, description = "The response's id"), ("limit" = Option<u32>, Query, description = "Items at the most", minimum = 1, maximum = 100), ("order" = Option<String>, Query, description = "asc or desc"), ("after" = Option<String>, Query, description = "The id of an item: those behind it")),
    responses((status = 200, description = "The answer", body = responses::ResponseItems)),
)]
pub async fn input_items(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let given = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let value = |name: &str, value: &str| match value.parse::<i64>() {
        Ok(number) if name == "limit" => Value::from(number),
        _ => Value::from(value),
    };
    let query: Map<String, Value> =
        given.map(|(name, given)| (name.to_string(), value(&name, &given))).collect();
    let items = store(&app).input_items(&context.tenant.name, &id, &query.into(), now_s())?;
    Ok(Json(items.ok_or_else(|| ApiError::unknown_response(&id))?).into_response())
}
