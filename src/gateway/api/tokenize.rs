//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, in vLLM's shapes. `model` may be left out
//! when one model is served.

use crate::gateway::api::app::{App, RequestContext};
use crate::gateway::chat::openai::history;
use crate::gateway::target::local::{LocalError, prompt_ids};
use crate::gateway::target::registry::LocalModel;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields, token_ids};
use crate::protocol::TokenId;
use crate::text::{ChatTemplate, RenderInput};
use axum::extract::{Extension, Request, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Of a text that is tokenized for its own sake: more than a million tokens.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// What to tokenize.
#[derive(Debug)]
pub enum Source {
    /// `prompt`.
    Text(String),
    /// `messages`, through the chat template.
    Messages(RenderInput),
}

/// A request, read and checked.
#[derive(Debug)]
pub struct TokenizeRequest {
    /// Text or messages.
    pub source: Source,
    /// Add BOS and the like; by default for text, and not for messages.
    pub add_special: bool,
    /// Also spell the tokens.
    pub token_strs: bool,
}

impl TokenizeRequest {
    /// Reads a body.
    pub fn read(fields: &Fields<'_>, template: Option<&ChatTemplate>) -> Result<Self, BadField> {
        let source = match (fields.str("prompt")?, fields.get("messages")) {
            (Some(_), Some(_)) => {
                return Err(BadField::new("prompt", "and `messages` exclude each other: send one of them"));
            }
            (Some(text), None) => Source::Text(text.to_owned()),
            (None, Some(_)) => Source::Messages(history::render_input(fields, template)?),
            (None, None) => return Err(BadField::missing("prompt", "a string; or else `messages`")),
        };
        let add_special = fields.flag("add_special_tokens", matches!(source, Source::Text(_)))?;
        Ok(Self { source, add_special, token_strs: fields.flag("return_token_strs", false)? })
    }
}

#[derive(Serialize)]
struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<TokenId>,
    token_strs: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Detokenized {
    prompt: String,
}

fn run(model: &LocalModel, request: TokenizeRequest) -> Result<Tokenized, LocalError> {
    let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
    let tokens = match &request.source {
        Source::Text(text) if text.len() > TEXT_BYTES_MAX => {
            return Err(LocalError::WorkTooLong { bytes: text.len(), bytes_max: TEXT_BYTES_MAX });
        }
        Source::Text(text) => tokenizer.encode(text, request.add_special)?,
        Source::Messages(render) => prompt_ids(model, render, request.add_special)?,
    };
    let spell = |&id: &TokenId| tokenizer.id_to_token(id).unwrap_or_default();
    let token_strs = request.token_strs.then(|| tokens.iter().map(spell).collect());
    Ok(Tokenized { count: tokens.len(), max_model_len: model.engine.max_context(), tokens, token_strs })
}

/// The handler of `/tokenize`.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut bounds = app.bounds(&context);
    let body = app.read_json(&context, &mut bounds, request).await?;
    let fields = Fields::root(&body)?;
    let model = app.model_or_only(fields.str("model")?, &context)?;
    let request = TokenizeRequest::read(&fields, model.template.as_deref().ok())?;
    let param = if matches!(request.source, Source::Text(_)) { "prompt" } else { "messages" };
    let tokenized = app.text.run(&context.tenant.name, &mut bounds, move || run(&model, request)).await;
    let tokenized = tokenized.map_err(|error| ApiError::from(error).at(param))?;
    Ok(Json(tokenized).into_response())
}

/// The handler of `/tokenizer_info`: what tokenizer_config.json would say, as far as it is known.
/// `?model=NAME` where several are served.
pub async fn info(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = uri.query().unwrap_or_default();
    let named = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "model");
    let model = app.model_or_only(named.as_ref().map(|(_, value)| &**value), &context)?;
    let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
    let mut info = Map::new();
    info.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    info.insert("model_max_length".into(), model.engine.max_context().into());
    info.insert("vocab_size".into(), tokenizer.vocab_size().into());
    info.extend(tokenizer.named_special_tokens().clone());
    if let Ok(template) = &model.template {
        info.insert("chat_template".into(), template.source().into());
    }
    let eos = tokenizer.eos_ids().first().and_then(|id| tokenizer.id_to_token(*id));
    if let Some(eos) = eos {
        info.entry("eos_token").or_insert_with(|| eos.into());
    }
    Ok(Json(Value::from(info)).into_response())
}

/// The handler of `/detokenize`.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut bounds = app.bounds(&context);
    let body = app.read_json(&context, &mut bounds, request).await?;
    let fields = Fields::root(&body)?;
    let model = app.model_or_only(fields.str("model")?, &context)?;
    fields.required("tokens", "a list of token ids")?;
    let ids = token_ids("tokens", fields.array("tokens")?.unwrap_or_default(), model.vocab)?;
    let work = move || {
        let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
        Ok(tokenizer.decode(&ids, false)?)
    };
    let prompt = app.text.run(&context.tenant.name, &mut bounds, work).await?;
    Ok(Json(Detokenized { prompt }).into_response())
}
