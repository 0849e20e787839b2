//! `GET /v1/models` and `GET /v1/models/{id}`: the models that are loaded.

use super::fields::BadField;
use crate::gateway::error::ApiError;
use crate::gateway::registry::LocalModel;
use crate::gateway::server::{App, RequestContext};
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: &'a str,
    max_model_len: usize,
}

impl<'a> Model<'a> {
    fn of(model: &'a LocalModel) -> Self {
        Self {
            id: &model.name,
            object: "model",
            created: model.created_unix_s,
            owned_by: "novastack",
            root: &model.root,
            max_model_len: model.engine.max_context(),
        }
    }
}

/// All of them.
pub async fn list(State(app): State<Arc<App>>) -> Response {
    let models = app.registry.ready();
    let data = models.iter().map(|model| Model::of(model)).collect();
    Json(ModelList { object: "list", data }).into_response()
}

/// One; its name may contain slashes.
pub async fn get(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|rejection| BadField::new("model", rejection.body_text()))?;
    let model = app.model(&id, &context)?;
    Ok(Json(Model::of(&model)).into_response())
}
