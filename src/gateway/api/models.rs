//! `GET /v1/models` and `GET /v1/models/{id}`: the models that are loaded, those of
//! upstreams, and the names of routes. A key sees what it may ask for, under the names that it may give;
//! nobody sees where on the server's disk a model lies.

use crate::gateway::api::app::{App, RequestContext};
use crate::gateway::route::{Routing, Target};
use crate::gateway::target::registry::{GenerationDefaults, LocalModel};
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::BadField;
use crate::gateway::wire::rate_limit::rfc3339;
use crate::protocol::SamplingParams;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// The models, in OpenAI's shape.
#[derive(Serialize, ToSchema)]
pub struct ModelList<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// A model, in OpenAI's shape.
#[derive(Serialize, ToSchema)]
pub struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    defaults: Option<Defaults<'a>>,
}

/// What a request takes where it leaves a field out.
#[derive(Serialize, ToSchema)]
pub struct Defaults<'a> {
    temperature: f32,
    top_p: f32,
    top_k: u32,
    min_p: f32,
    repetition_penalty: f32,
    /// Whose words the sampling parameters are.
    sampling_from: &'a str,
    /// Output tokens of a chat answer at the most; absent: as many as the context holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
}

impl<'a> Defaults<'a> {
    fn of(model: &'a LocalModel) -> Self {
        let GenerationDefaults { sampling, sampling_from, max_tokens } = &model.defaults;
        let SamplingParams { temperature, top_p, top_k, min_p, repetition_penalty, .. } =
            sampling.over(&SamplingParams::default());
        let max_tokens = *max_tokens;
        Self { temperature, top_p, top_k, min_p, repetition_penalty, sampling_from, max_tokens }
    }
}

impl<'a> Model<'a> {
    /// One of ours, loaded.
    fn of(model: &'a LocalModel) -> Self {
        Self {
            id: &model.name,
            object: "model",
            created: model.created_unix_s,
            owned_by: "novastack",
            root: Some(&model.root),
            max_model_len: Some(model.engine.max_context()),
            defaults: model.tasks.generates.then(|| Defaults::of(model)),
        }
    }

    /// A provider's.
    fn upstream(target: &'a Target, provider: &'a str) -> Self {
        let model = &target.model;
        Self { max_model_len: model.context, ..Self::route(&model.name, provider) }
    }

    /// A name that leads to models.
    fn route(name: &'a str, owned_by: &'a str) -> Self {
        Self {
            id: name,
            object: "model",
            created: 0,
            owned_by,
            root: None,
            max_model_len: None,
            defaults: None,
        }
    }
}

/// All that a request with this key may name; models that are not loaded yet are left out. Who speaks
/// Anthropic's dialect, as the header `anthropic-version` tells, has it in that shape
/// (<https://docs.anthropic.com/en/api/models-list>).
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "Models",
    operation_id = "listModels",
    summary = "What a request with this key may name",
    params(("anthropic-version" = Option<String>, Header, description = "With it the answer has the shape of Anthropic's API")),
    responses((status = 200, description = "The answer", body = ModelsListed)),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Response {
    let (ready, routing) = (app.registry.ready(), app.routing());
    let names = routing.names_for(&context.tenant);
    let data: Vec<Model> = names.iter().filter_map(|name| entry(name, &ready, &routing)).collect();
    if headers.contains_key(ANTHROPIC_VERSION) {
        let id = |model: Option<&Model>| model.map(|model| model.id.to_owned());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        let data: Vec<AnthropicModel> = data.iter().map(AnthropicModel::of).collect();
        return Json(AnthropicModelList { data, has_more: false, first_id, last_id }).into_response();
    }
    Json(ModelList { object: "list", data }).into_response()
}

/// The list in either shape.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub enum ModelsListed<'a> {
    /// OpenAI's.
    OpenAi(ModelList<'a>),
    /// Anthropic's.
    Anthropic(AnthropicModelList<'a>),
}

/// A model in either shape.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub enum ModelShown<'a> {
    /// OpenAI's.
    OpenAi(Model<'a>),
    /// Anthropic's.
    Anthropic(AnthropicModel<'a>),
}

/// What clients of Anthropic's API send with every request.
const ANTHROPIC_VERSION: &str = "anthropic-version";

/// The models, in Anthropic's shape.
#[derive(Serialize, ToSchema)]
pub struct AnthropicModelList<'a> {
    data: Vec<AnthropicModel<'a>>,
    has_more: bool,
    #[schema(required = true)]
    first_id: Option<String>,
    #[schema(required = true)]
    last_id: Option<String>,
}

/// A model, in Anthropic's shape.
#[derive(Serialize, ToSchema)]
pub struct AnthropicModel<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    display_name: &'a str,
    created_at: String,
}

impl<'a> AnthropicModel<'a> {
    fn of(model: &Model<'a>) -> Self {
        let created_at = rfc3339(model.created, Duration::ZERO);
        Self { kind: "model", id: model.id, display_name: model.id, created_at }
    }
}

fn entry<'a>(name: &'a str, ready: &'a [Arc<LocalModel>], routing: &'a Routing) -> Option<Model<'a>> {
    let found = match routing.target(name) {
        None => Model::route(name, "novastack"),
        Some(target) => match &target.upstream {
            Some(hosted) => Model::upstream(target, hosted.upstream.name()),
            None => Model::of(ready.iter().find(|model| model.name == target.model.name)?),
        },
    };
    Some(Model { id: name, ..found })
}

/// One; its name may contain slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "Models",
    operation_id = "getModel",
    summary = "One of them",
    description = "A name may contain slashes.",
    params(("id" = String, Path, description = "The name"), ("anthropic-version" = Option<String>, Header, description = "With it the answer has the shape of Anthropic's API")),
    responses((status = 200, description = "The answer", body = ModelShown)),
)]
pub async fn get(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|rejection| BadField::new("model", rejection.body_text()))?;
    let (ready, routing) = (app.registry.ready(), app.routing());
    // For who may not use it there is no such model.
    if routing.check_allowed(&id, &context.tenant).is_err() {
        return Err(ApiError::unknown_model(&id, &routing.names_for(&context.tenant)));
    }
    match entry(&id, &ready, &routing) {
        Some(model) if routing.is_name(&id) && headers.contains_key(ANTHROPIC_VERSION) => {
            Ok(Json(AnthropicModel::of(&model)).into_response())
        }
        Some(model) if routing.is_name(&id) => Ok(Json(model).into_response()),
        // Which error it is depends on the model's state.
        _ => Ok(Json(Model::of(&*app.model(&id, &context)?)).into_response()),
    }
}
