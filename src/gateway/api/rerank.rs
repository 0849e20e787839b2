//! `POST /v1/rerank`, also at `/rerank` and `/v2/rerank`: documents by their relevance to a query, in the shape of
//! Cohere and Jina as vLLM serves it (<https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>).

use super::app::{App, RequestContext};
use super::pooled::{self, InputUsage, TEXTS_MAX};
use crate::gateway::chat::openai::known_fields;
use crate::gateway::ledger::account::Attempt;
use crate::gateway::target::local::{LocalPooling, PairOptions, Pairs, Side, Usage, text_limit};
use crate::gateway::target::remote::PooledTask;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

/// A request, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RerankRequest {
    /// The query, and the documents.
    pub pairs: Pairs,
    /// How they are read.
    pub options: PairOptions,
    /// Results that are told; None: all.
    pub top_n: Option<usize>,
    /// Results have their documents.
    pub return_documents: bool,
}

impl RerankRequest {
    /// Reads a body for a model with such a context.
    pub fn read(fields: &Fields<'_>, max_context: usize) -> Result<Self, BadField> {
        known_fields::check(fields, known_fields::RERANK)?;
        let query = fields.required_str("query", "what the documents are for")?;
        if query.is_empty() {
            return Err(BadField::new("query", "must not be empty"));
        }
        fields.required("documents", "a list of strings, or of objects with `text`")?;
        let documents = fields.array("documents")?.unwrap_or_default();
        match documents.len() {
            0 => return Err(BadField::new("documents", "must not be empty")),
            1..=TEXTS_MAX => {}
            more => {
                let reason = format!("must have at most {TEXTS_MAX} documents, got {more}");
                return Err(BadField::new("documents", reason));
            }
        }
        let text = |(index, document): (usize, &Value)| {
            let field = format!("documents[{index}]");
            match document {
                Value::String(text) => Ok(text.clone()),
                Value::Object(_) => {
                    let document = Fields::object_at(field, document)?;
                    document.required_str("text", "the document, as a string").map(str::to_owned)
                }
                _ => Err(BadField::new(field, "must be a string, or an object with `text`")),
            }
        };
        let second = documents.iter().enumerate().map(text).collect::<Result<_, _>>()?;
        // 0 is vLLM's word for all.
        let top_n = fields.u32("top_n", 0)?.filter(|top| *top > 0).map(|top| top as usize);
        let options = PairOptions {
            instruction: fields.str("instruction")?.map(str::to_owned),
            second_max: fields.u32("max_tokens_per_doc", 1)?.map(|tokens| tokens as usize),
            limit: text_limit(fields, max_context)?,
        };
        Ok(Self {
            pairs: Pairs { first: vec![query.to_owned()], second },
            options,
            top_n,
            return_documents: fields.flag("return_documents", true)?,
        })
    }
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reranked<'a> {
    id: String,
    model: &'a str,
    usage: InputUsage,
    results: Vec<RerankResult<'a>>,
}

/// A document.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankResult<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
}

/// Its text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RerankedDocument)]
pub struct Document<'a> {
    text: &'a str,
}

/// The body of an answer: the best first, of equals the one that was sent first.
pub fn encode(id: String, model: &str, request: &RerankRequest, scores: &[f32], usage: &Usage) -> String {
    let document =
        |index: usize| request.return_documents.then(|| Document { text: &request.pairs.second[index] });
    let result = |(index, score): (usize, &f32)| RerankResult {
        index,
        relevance_score: *score,
        document: document(index),
    };
    let mut results: Vec<RerankResult<'_>> = scores.iter().enumerate().map(result).collect();
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results.truncate(request.top_n.unwrap_or(usize::MAX));
    let reranked = Reranked { id, model, usage: usage.into(), results };
    serde_json::to_string(&reranked).expect("numbers and strings always serialise")
}

/// What one of our models answers.
pub async fn answer(
    ours: &LocalPooling<'_>,
    body: &Value,
    bounds: &mut RequestBounds,
    attempt: &mut Option<Attempt>,
) -> Result<(String, Usage), ApiError> {
    // First: what this model is is more telling than a field.
    ours.model.scores()?;
    let request = RerankRequest::read(&Fields::root(body)?, ours.model.engine.max_context())?;
    let (pairs, options) = (request.pairs.clone(), request.options.clone());
    let scored = ours.score(pairs, options, bounds, attempt).await;
    let (scores, usage) = scored.map_err(|at| {
        at.named(|side, index| match side {
            Side::First => "query".into(),
            Side::Second => format!("documents[{index}]"),
        })
    })?;
    let id = format!("rerank-{}", uuid::Uuid::new_v4().simple());
    Ok((encode(id, &ours.model.name, &request, &scores, &usage), usage))
}

/// The handler.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    tag = "OpenAI",
    operation_id = "rerank",
    summary = "Sorts documents by their relevance to a query",
    description = "As Cohere and Jina do; by a reranker or an embedding model of this server, or by an upstream in OpenAI's format.",
    request_body(content = ref("#/components/schemas/RerankRequest"), example = json!({"model": "qwen3-reranker-0.6b", "query": "What is a cat?", "documents": ["An animal.", "A number."]})),
    responses((status = 200, description = "The answer", body = Reranked)),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    pooled::answer(app, context, PooledTask::Rerank, request).await
}
