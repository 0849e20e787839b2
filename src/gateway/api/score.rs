//! `POST /v1/score`, also at `/score`: how well texts go together, in pairs, in vLLM's shape
//! (<https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>). What callers think of answers is
//! [`super::scores`].

use super::app::{App, RequestContext};
use super::pooled::{self, InputUsage, TEXTS_MAX};
use super::text_answer::Head;
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

/// Names of the two fields with texts: vLLM takes each of these pairs.
const NAMES: [[&str; 2]; 4] =
    [["text_1", "text_2"], ["queries", "documents"], ["queries", "items"], ["data_1", "data_2"]];

/// A request, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreRequest {
    /// The texts.
    pub pairs: Pairs,
    /// How they are read.
    pub options: PairOptions,
    /// What the caller calls the texts.
    names: [&'static str; 2],
    /// Which of them were sent as lists.
    are_lists: [bool; 2],
}

impl ScoreRequest {
    /// Reads a body for a model with such a context.
    pub fn read(fields: &Fields<'_>, max_context: usize) -> Result<Self, BadField> {
        known_fields::check(fields, known_fields::SCORE)?;
        let is_named = |names: &&[&str; 2]| fields.get(names[0]).is_some() && fields.get(names[1]).is_some();
        let names = *NAMES.iter().find(is_named).unwrap_or(&NAMES[0]);
        let (first, second) = (texts(fields, names[0])?, texts(fields, names[1])?);
        let (firsts, seconds) = (first.0.len(), second.0.len());
        if firsts != 1 && firsts != seconds {
            let reason = format!(
                "must have as many texts as `{}`, or one that is scored with each: there are {firsts} and {seconds}",
                names[1]
            );
            return Err(BadField::new(names[0], reason));
        }
        let options = PairOptions {
            instruction: fields.str("instruction")?.map(str::to_owned),
            second_max: None,
            limit: text_limit(fields, max_context)?,
        };
        Ok(Self {
            pairs: Pairs { first: first.0, second: second.0 },
            options,
            names,
            are_lists: [first.1, second.1],
        })
    }

    /// What the caller calls a text.
    fn field(&self, side: Side, index: usize) -> String {
        let side = usize::from(side == Side::Second);
        let name = self.names[side];
        if self.are_lists[side] { format!("{name}[{index}]") } else { name.into() }
    }
}

/// One or several texts, and whether they were sent as a list.
fn texts(fields: &Fields<'_>, name: &str) -> Result<(Vec<String>, bool), BadField> {
    let items = match fields.required(name, "a string, or a list of strings")? {
        Value::String(text) => return Ok((vec![text.clone()], false)),
        Value::Array(items) => items,
        _ => return Err(BadField::new(name, "must be a string, or a list of strings")),
    };
    match items.len() {
        0 => return Err(BadField::new(name, "must not be empty")),
        1..=TEXTS_MAX => {}
        more => return Err(BadField::new(name, format!("must have at most {TEXTS_MAX} texts, got {more}"))),
    }
    let text = |(index, item): (usize, &Value)| match item {
        Value::String(text) => Ok(text.clone()),
        _ => Err(BadField::new(format!("{name}[{index}]"), "must be a string")),
    };
    Ok((items.iter().enumerate().map(text).collect::<Result<_, _>>()?, true))
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreList<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<PairScore>,
    usage: InputUsage,
}

/// The score of one pair.
#[derive(Debug, Serialize, ToSchema)]
pub struct PairScore {
    index: usize,
    object: &'static str,
    score: f32,
}

/// The body of an answer.
pub fn encode(head: &Head, scores: &[f32], usage: &Usage) -> String {
    let data = scores.iter().enumerate();
    let data = data.map(|(index, score)| PairScore { index, object: "score", score: *score }).collect();
    let (id, created, model) = (&head.id, head.created, &head.model);
    let list = ScoreList { id, object: "list", created, model, data, usage: usage.into() };
    serde_json::to_string(&list).expect("numbers and strings always serialise")
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
    let request = ScoreRequest::read(&Fields::root(body)?, ours.model.engine.max_context())?;
    let (pairs, options) = (request.pairs.clone(), request.options.clone());
    let scored = ours.score(pairs, options, bounds, attempt).await;
    let (scores, usage) = scored.map_err(|at| at.named(|side, index| request.field(side, index)))?;
    Ok((encode(&Head::new("score", &ours.model.name), &scores, &usage), usage))
}

/// The handler.
#[utoipa::path(
    post,
    path = "/v1/score",
    tag = "OpenAI",
    operation_id = "scoreTexts",
    summary = "Says how well texts go together",
    description = "As vLLM does, in pairs: `text_1` and `text_2`, or the same by the names `queries` and `documents`, `queries` and `items`, `data_1` and `data_2`.",
    request_body(content = ref("#/components/schemas/ScoreRequest"), example = json!({"model": "qwen3-reranker-0.6b", "text_1": "What is a cat?", "text_2": ["An animal.", "A number."]})),
    responses((status = 200, description = "The answer", body = ScoreList)),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    pooled::answer(app, context, PooledTask::Score, request).await
}
