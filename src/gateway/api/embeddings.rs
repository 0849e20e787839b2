//! `POST /v1/embeddings` (<https://platform.openai.com/docs/api-reference/embeddings>), with what vLLM has besides.

use super::app::{App, RequestContext};
use super::pooled::{self, InputUsage, JSON_INLINE_BYTES_MAX, TEXTS_MAX};
use crate::gateway::chat::openai::known_fields;
use crate::gateway::ledger::account::Attempt;
use crate::gateway::target::local::{AtText, LocalPooling, PooledText, Usage, text_limit};
use crate::gateway::target::registry::LocalModel;
use crate::gateway::target::remote::PooledTask;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields, token_ids};
use crate::protocol::{EmbeddingInfo, Pooling, TokenId};
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

/// Of a number in the answer: itself, and its text with a comma.
const NUMBER_BYTES: usize = 4 + 20;

/// What is embedded, as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// To be tokenized.
    Text(String),
    /// As they are.
    Ids(Vec<TokenId>),
}

/// A request, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingsRequest {
    /// At least one, none of them empty.
    pub inputs: Vec<Input>,
    /// They were sent as a list of several.
    pub is_list: bool,
    /// Vectors are sent in base64, of 32-bit floats with the lowest byte first.
    pub base64: bool,
    /// The first numbers of each vector are wanted.
    pub dimensions: usize,
    /// Vectors are to be of length 1, which the engine does not see to.
    pub normalise: bool,
    /// Add BOS and the like to texts.
    pub add_special: bool,
    /// What is put before texts.
    pub prompt: String,
    /// Tokens of each text that are read; None: all, or an error.
    pub limit: Option<usize>,
}

impl EmbeddingsRequest {
    /// Reads a body for a model of this kind, with so many tokens and such a context.
    pub fn read(
        fields: &Fields<'_>,
        info: &EmbeddingInfo,
        vocab: usize,
        max_context: usize,
    ) -> Result<Self, BadField> {
        known_fields::check(fields, known_fields::EMBEDDINGS)?;
        let (inputs, is_list) = inputs(fields, vocab)?;
        let base64 = match fields.str("encoding_format")? {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return Err(BadField::new("encoding_format", "must be float or base64")),
        };
        let dimensions = dimensions(fields, info)?;
        let normalise = match fields.bool("normalize")? {
            Some(false) if info.normalised => {
                let reason = "must not be false: this model's vectors are of length 1";
                return Err(BadField::unsupported("normalize", reason));
            }
            asked => asked.unwrap_or(false) || (info.normalised && dimensions < info.dimensions),
        };
        let prompt = match fields.str("input_type")? {
            None => None,
            Some("query") => info.prompts.query.clone(),
            Some("document") => info.prompts.document.clone(),
            Some(_) => return Err(BadField::new("input_type", "must be query or document")),
        };
        if prompt.is_some() && inputs.iter().any(|input| matches!(input, Input::Ids(_))) {
            let reason = "is for texts: this model has words of its own to put before them, and token ids are as they are";
            return Err(BadField::unsupported("input_type", reason));
        }
        Ok(Self {
            inputs,
            is_list,
            base64,
            dimensions,
            normalise,
            add_special: fields.flag("add_special_tokens", true)?,
            prompt: prompt.unwrap_or_default(),
            limit: text_limit(fields, max_context)?,
        })
    }

    /// What the caller calls a text.
    fn field(&self, index: usize) -> String {
        if self.is_list { format!("input[{index}]") } else { "input".into() }
    }
}

/// The inputs, and whether they are a list of several.
fn inputs(fields: &Fields<'_>, vocab: usize) -> Result<(Vec<Input>, bool), BadField> {
    const WHAT: &str = "must be a string, a list of strings, a list of token ids, or a list of such lists";
    let empty = |field: String| BadField::new(field, "must not be empty");
    let items = match fields.required("input", "a string, a list of strings, or token ids")? {
        Value::String(text) if text.is_empty() => return Err(empty("input".into())),
        Value::String(text) => return Ok((vec![Input::Text(text.clone())], false)),
        Value::Array(items) => items,
        _ => return Err(BadField::new("input", WHAT)),
    };
    match items.first() {
        None => Err(empty("input".into())),
        Some(Value::Number(_)) => Ok((vec![Input::Ids(token_ids("input", items, vocab)?)], false)),
        Some(Value::String(_) | Value::Array(_)) if items.len() > TEXTS_MAX => {
            Err(BadField::new("input", format!("must have at most {TEXTS_MAX} texts, got {}", items.len())))
        }
        Some(first @ (Value::String(_) | Value::Array(_))) => {
            let one = |(index, item): (usize, &Value)| {
                let field = format!("input[{index}]");
                match (first, item) {
                    (Value::String(_), Value::String(text)) if text.is_empty() => Err(empty(field)),
                    (Value::String(_), Value::String(text)) => Ok(Input::Text(text.clone())),
                    (Value::Array(_), Value::Array(ids)) if ids.is_empty() => Err(empty(field)),
                    (Value::Array(_), Value::Array(ids)) => Ok(Input::Ids(token_ids(&field, ids, vocab)?)),
                    (Value::String(_), _) => {
                        Err(BadField::new(field, "must be a string, as the first input is"))
                    }
                    _ => Err(BadField::new(field, "must be a list of token ids, as the first input is")),
                }
            };
            Ok((items.iter().enumerate().map(one).collect::<Result<_, _>>()?, true))
        }
        Some(_) => Err(BadField::new("input", WHAT)),
    }
}

fn dimensions(fields: &Fields<'_>, info: &EmbeddingInfo) -> Result<usize, BadField> {
    let all = info.dimensions;
    match fields.integer("dimensions", i64::MIN, i64::MAX)? {
        None => Ok(all),
        Some(wanted) if wanted == all as i64 => Ok(all),
        Some(wanted) if !info.dimensions_may_be_cut => {
            let reason =
                format!("must be {all}, got {wanted}: this model was not trained to have its vectors cut");
            Err(BadField::unsupported("dimensions", reason))
        }
        Some(wanted) if (1..all as i64).contains(&wanted) => Ok(wanted as usize),
        Some(wanted) => {
            Err(BadField::new("dimensions", format!("must be between 1 and {all}, got {wanted}")))
        }
    }
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingList<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: InputUsage,
}

/// The vector of one input.
#[derive(Debug, Serialize, ToSchema)]
pub struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

/// As it was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = EmbeddingVector)]
pub enum Vector {
    /// Numbers.
    Floats(Vec<f32>),
    /// Their bytes.
    Base64(String),
}

impl Vector {
    fn new(mut values: Vec<f32>, request: &EmbeddingsRequest) -> Self {
        values.truncate(request.dimensions);
        if request.normalise {
            let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            if length > 0.0 {
                values.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            }
        }
        match request.base64 {
            false => Self::Floats(values),
            true => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Self::Base64(BASE64_STANDARD.encode(&bytes))
            }
        }
    }
}

/// The body of an answer.
pub fn encode(request: &EmbeddingsRequest, model: &str, vectors: Vec<Vec<f32>>, usage: &Usage) -> String {
    let one =
        |(index, values)| Embedding { object: "embedding", index, embedding: Vector::new(values, request) };
    let data = vectors.into_iter().enumerate().map(one).collect();
    let list = EmbeddingList { object: "list", data, model, usage: usage.into() };
    serde_json::to_string(&list).expect("numbers and strings always serialise")
}

/// Tokenizes; for a blocking thread.
fn texts(model: &LocalModel, request: &EmbeddingsRequest) -> Result<Vec<PooledText>, AtText> {
    let one = |(index, input): (usize, &Input)| {
        let text = match input {
            Input::Text(text) if request.prompt.is_empty() => {
                model.pooled_text(text, request.add_special, request.limit)
            }
            Input::Text(text) => {
                let text = format!("{}{text}", request.prompt);
                model.pooled_text(&text, request.add_special, request.limit)
            }
            Input::Ids(ids) => {
                let read = request.limit.unwrap_or(usize::MAX).min(ids.len());
                model.pooled_ids(ids[..read].to_vec(), None)
            }
        };
        text.map_err(|error| AtText { index, error })
    };
    request.inputs.iter().enumerate().map(one).collect()
}

/// What one of our models answers.
pub async fn answer(
    ours: &LocalPooling<'_>,
    body: &Value,
    bounds: &mut RequestBounds,
    attempt: &mut Option<Attempt>,
) -> Result<(String, Usage), ApiError> {
    let info = ours.model.embeddings()?;
    let fields = Fields::root(body)?;
    let max_context = ours.model.engine.max_context();
    let request = Arc::new(EmbeddingsRequest::read(&fields, info, ours.model.vocab, max_context)?);
    let named = |at: AtText| {
        let field = request.field(at.index);
        at.named(&field)
    };
    // Of the answer, as long as it is made: a few kilobytes of text may become megabytes.
    let mut share = bounds.share();
    let bytes = request.inputs.len() * info.dimensions * NUMBER_BYTES;
    share.hold(bytes)?;
    let read = {
        let request = request.clone();
        move |model: &LocalModel| texts(model, &request)
    };
    let texts = ours.read(bounds, read).await.map_err(named)?;
    let (vectors, usage) = ours.run(&texts, &Pooling::Embedding, bounds, attempt).await.map_err(named)?;
    let (model, encoded) = (ours.model.clone(), request.clone());
    let encode = move || encode(&encoded, &model.name, vectors, &usage);
    let whole = match bytes <= JSON_INLINE_BYTES_MAX {
        true => encode(),
        false => ours.text.run(&ours.tenant.name, bounds, move || Ok(encode())).await?,
    };
    Ok((whole, usage))
}

/// The handler.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "OpenAI",
    operation_id = "createEmbedding",
    summary = "Turns texts into vectors",
    description = "By an embedding model of this server, or by an upstream in OpenAI's format. Chat models of this server answer 400.",
    request_body(content = ref("#/components/schemas/EmbeddingsRequest"), example = json!({"model": "qwen3-embedding-0.6b", "input": ["a text", "another"]})),
    responses((status = 200, description = "The answer", body = EmbeddingList)),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    pooled::answer(app, context, PooledTask::Embeddings, request).await
}
