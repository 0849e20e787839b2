//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, in vLLM's shapes. `model` may be left out
//! when one model is served.

use crate::gateway::api::app::{App, RequestContext};
use crate::gateway::chat::openai::history;
use crate::gateway::chat::shapes::AnyObject;
use crate::gateway::chat::shapes::openai::ChatMessage;
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
use utoipa::ToSchema;

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

/// A text's tokens.
#[derive(Serialize, ToSchema)]
pub struct Tokenized {
    count: usize,
    max_model_len: usize,
    #[schema(value_type = Vec<u32>)]
    tokens: Vec<TokenId>,
    #[schema(required = true)]
    token_strs: Option<Vec<String>>,
}

/// Tokens' text.
#[derive(Serialize, ToSchema)]
pub struct Detokenized {
    prompt: String,
}

/// A request of `/tokenize`; with `messages` the fields of chat completions that go to the template too.
#[derive(ToSchema)]
pub struct TokenizeBody {
    /// The model, where several are served.
    pub model: Option<String>,
    /// A text.
    pub prompt: Option<String>,
    /// Or a conversation.
    pub messages: Option<Vec<ChatMessage>>,
    /// Add BOS and the like: true for a text, false for a conversation.
    pub add_special_tokens: Option<bool>,
    /// Spell the tokens too.
    pub return_token_strs: Option<bool>,
    /// Open the assistant's turn.
    pub add_generation_prompt: Option<bool>,
    /// Leave the last message open.
    pub continue_final_message: Option<bool>,
    /// Variables of the template.
    #[schema(value_type = Option<AnyObject>)]
    pub chat_template_kwargs: Option<Value>,
}

/// A request of `/detokenize`.
#[derive(ToSchema)]
pub struct DetokenizeBody {
    /// The model, where several are served.
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// What is known of a tokenizer, by the names of tokenizer_config.json.
#[derive(ToSchema)]
pub struct TokenizerInfo {
    /// Always the same: transformers' class for any tokenizer.json.
    pub tokenizer_class: String,
    /// The model's context in tokens.
    pub model_max_length: u64,
    /// Token ids.
    pub vocab_size: u64,
    /// The template's text, where there is one.
    pub chat_template: Option<String>,
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
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "Text",
    operation_id = "tokenize",
    summary = "Makes tokens of a text or a conversation",
    description = "In vLLM's form: `prompt`, or `messages` as chat completions have them. `model` may be left out where one is served.",
    request_body(content = TokenizeBody, example = json!({"model": "qwen3-8b", "prompt": "Say hello."})),
    responses((status = 200, description = "The answer", body = Tokenized)),
)]
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
#[utoipa::path(
    get,
    path = "/tokenizer_info",
    tag = "Text",
    operation_id = "getTokenizerInfo",
    summary = "What tokenizer_config.json would say",
    params(("model" = Option<String>, Query, description = "The model, where several are served")),
    responses((status = 200, description = "The answer", body = TokenizerInfo)),
)]
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
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "Text",
    operation_id = "detokenize",
    summary = "Makes a text of tokens",
    description = "`model` may be left out where one is served.",
    request_body(content = DetokenizeBody, example = json!({"model": "qwen3-8b", "tokens": [5, 6, 7]})),
    responses((status = 200, description = "The answer", body = Detokenized)),
)]
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
