//! Fill-in-the-middle: `suffix` of `/v1/completions`, and `POST /infill` in llama-server's shapes
//! (<https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md#post-infill-for-code-infilling>),
//! which editors' plugins call.

use super::text_answer::{Collected, Encoder, EventStream, finish_reason};
use crate::gateway::api::app::{App, RequestContext};
use crate::gateway::chat::Dialect;
use crate::gateway::chat::openai::known_fields;
use crate::gateway::ledger::account::Attempt;
use crate::gateway::route::Asked;
use crate::gateway::route::count::Counts;
use crate::gateway::target::local::{
    Generation, GenerationRequest, LocalError, ModelView, Params, TextEvent, Usage,
};
use crate::gateway::target::registry::LocalModel;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::gateway::wire::rate_limit::insert_limits;
use crate::gateway::wire::sse::{self, Frames};
use crate::protocol::{FinishReason, TokenId};
use crate::text::grammar::After;
use crate::text::{Infill, Snippet};
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

/// A gap in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What stands before it.
    pub before: String,
    /// What stands behind it.
    pub behind: String,
    /// Other files.
    pub others: Vec<Snippet>,
}

/// A request for `/infill`, read and checked.
#[derive(Debug)]
struct InfillRequest {
    gap: Gap,
    params: Params,
}

impl InfillRequest {
    fn read(fields: &Fields<'_>, model: ModelView<'_>) -> Result<Self, BadField> {
        known_fields::check(fields, known_fields::INFILL)?;
        let prefix = fields.str("input_prefix")?;
        let suffix = fields.str("input_suffix")?;
        if prefix.is_none() && suffix.is_none() {
            return Err(BadField::missing(
                "input_prefix",
                "what stands before the gap; or else `input_suffix`",
            ));
        }
        let path = fields.path("input_extra");
        let snippet = |(i, item)| {
            let item = Fields::object_at(format!("{path}[{i}]"), item)?;
            Ok(Snippet {
                name: item.str("filename")?.unwrap_or("tmp").to_owned(),
                text: item.required_str("text", "what is in the file")?.to_owned(),
            })
        };
        let others = fields.array("input_extra")?.unwrap_or_default().iter().enumerate().map(snippet);
        let gap = Gap {
            // The line of the gap comes on its own.
            before: prefix.unwrap_or_default().to_owned() + fields.str("prompt")?.unwrap_or_default(),
            behind: suffix.unwrap_or_default().to_owned(),
            others: others.collect::<Result<_, _>>()?,
        };
        let mut params = Params::read(fields, model)?;
        // -1 is llama-server's word for no bound. 0 computes the prompt alone, for the next request.
        let predict = fields.integer("n_predict", -1, i64::from(u32::MAX))?;
        if params.max_tokens.is_none() {
            params.max_tokens = predict.and_then(|tokens| u32::try_from(tokens).ok());
        }
        if params.n != 1 {
            return Err(BadField::unsupported("n", "must be 1: a gap is filled once"));
        }
        Ok(Self { gap, params })
    }
}

/// The tokens of a prompt with a gap; for a blocking thread.
pub fn gap_ids(model: &LocalModel, gap: &Gap, add_special: bool) -> Result<Vec<TokenId>, LocalError> {
    let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
    let infill = Infill::of(tokenizer).ok_or(LocalError::NoInfill)?;
    let others = gap.others.iter().flat_map(|other| [&other.name, &other.text]);
    [&gap.before, &gap.behind].into_iter().chain(others).try_for_each(|text| model.check_bytes(text))?;
    // What stands before every text: BOS, where there is one.
    let mut ids = if add_special { tokenizer.encode("", true)? } else { Vec::new() };
    ids.extend(infill.prompt(tokenizer, &gap.before, &gap.behind, &gap.others)?);
    Ok(ids)
}

/// The handler of `/infill`.
#[utoipa::path(
    post,
    path = "/infill",
    tag = "Text",
    operation_id = "fillGap",
    summary = "Fills a gap in a text",
    description = "As llama-server does, by a model of this server that knows fill-in-the-middle; others answer 400. With `stream: true` as server-sent events.",
    request_body(content = ref("#/components/schemas/InfillRequest"), example = json!({"model": "qwen3-8b", "input_prefix": "fn main() {", "input_suffix": "}", "max_tokens": 16})),
    responses((status = 200, description = "The answer", content((Filling = "application/json"), (Filling = "text/event-stream")))),
)]
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut bounds = app.bounds(&context);
    let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
    let body = app.read_json(&context, &mut bounds, request).await?;
    let fields = Fields::root(&body)?;
    let model = app.model_or_only(fields.str("model")?, &context)?;
    model.check_generates()?;
    let counts = Counts::estimated(&body);
    let asked =
        Asked { body: &body, headers: &headers, path: &path, tenant: &context.tenant, counts: &counts };
    let read = InfillRequest::read(&fields, ModelView::of(&model))?;
    let mut attempt = app.attempt(&context, &model.name, &asked).await?;
    let states = attempt.as_ref().map(Attempt::states);
    match fill(&app, context, bounds, model, read, &mut attempt).await {
        Ok(mut response) => {
            states.inspect(|states| insert_limits(&mut response, states, Dialect::OpenAi));
            Ok(response)
        }
        Err(error) => {
            attempt.into_iter().for_each(|attempt| attempt.failed(error.status.as_u16()));
            Err(error)
        }
    }
}

async fn fill(
    app: &App,
    context: RequestContext,
    mut bounds: RequestBounds,
    model: Arc<LocalModel>,
    InfillRequest { gap, params }: InfillRequest,
    attempt: &mut Option<Attempt>,
) -> Result<Response, ApiError> {
    let (field, grammar) = params.grammar.unzip();
    let at = |error: LocalError| {
        let is_grammar = matches!(error, LocalError::Grammar(_));
        let field = field.as_deref().filter(|_| is_grammar);
        ApiError::from(error).at(field.unwrap_or("input_prefix"))
    };
    let encode = {
        let model = model.clone();
        move || {
            let prompt = gap_ids(&model, &gap, true)?;
            let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer);
            let constraint = |grammar| model.grammars.constraint(tokenizer?, Some(grammar), &After::Nothing);
            Ok((prompt, grammar.as_ref().map(constraint).transpose()?))
        }
    };
    let (prompt, constraint) = app.text.run(&context.tenant.name, &mut bounds, encode).await.map_err(at)?;
    let request = GenerationRequest {
        generated: Vec::new(),
        hides_reasoning: false,
        parser: None,
        constraint,
        id: context.id.clone(),
        cache_salt: context.tenant.cache_salt,
        prompts: vec![prompt.into()],
        choices: 1,
        sampling: params.sampling,
        max_tokens: params.max_tokens.or(model.defaults.max_tokens).unwrap_or(u32::MAX),
        stops: params.stops,
        include_stop: params.include_stop,
        skip_special: params.skip_special,
        tokens_as_ids: false,
    };
    let metrics = app.metrics.generation(&model.name, context.arrived);
    let mut generation = Generation::start(&model, request, bounds, metrics).map_err(at)?;
    if let Some(attempt) = attempt.take() {
        generation.account(attempt);
    }
    if params.stream.is_some() {
        let encoder = InfillEncoder { model: model.name.clone() };
        let source = EventStream::new(generation, encoder, context.in_flight);
        return Ok(sse::response(source, app.config.keep_alive));
    }
    let collected = Collected::new(1, 1).run(&mut generation).await?;
    let [choice] = collected.choices.as_slice() else {
        return Err(ApiError::internal("a gap has one filling"));
    };
    let reason = choice.reason.unwrap_or(FinishReason::Length);
    Ok(Json(last(&choice.output.text, reason, &model.name, &generation.usage())).into_response())
}

/// The answer, or the last piece of a stream.
fn last(content: &str, reason: FinishReason, model: &str, usage: &Usage) -> Value {
    json!({
        "content": content,
        "stop": true,
        "stop_type": if finish_reason(reason) == "length" { "limit" } else { "eos" },
        "model": model,
        "tokens_predicted": usage.completion_tokens,
        "tokens_evaluated": usage.prompt_tokens,
        "tokens_cached": usage.cached_tokens,
        "truncated": false,
    })
}

/// What stands in a gap. Pieces of a stream have `content` and `stop` alone, the last one all.
#[derive(Serialize, ToSchema)]
pub struct Filling {
    /// The text.
    pub content: String,
    /// Whether it is all that comes.
    pub stop: bool,
    /// `eos`, or `limit` where the bound on tokens ended it.
    pub stop_type: Option<String>,
    /// As it was served.
    pub model: Option<String>,
    /// Tokens that were made.
    pub tokens_predicted: Option<u64>,
    /// Tokens of the prompt.
    pub tokens_evaluated: Option<u64>,
    /// Of those, how many came from the cache.
    pub tokens_cached: Option<u64>,
    /// Never.
    pub truncated: Option<bool>,
}

/// Writes llama-server's pieces, which end with one that says so.
struct InfillEncoder {
    model: String,
}

impl Encoder for InfillEncoder {
    fn event(&mut self, event: TextEvent, usage: &Usage, frames: &mut Frames) {
        match event {
            TextEvent::Prompt { .. } => {}
            TextEvent::Delta(delta) => frames.json(&json!({ "content": delta.text, "stop": false })),
            TextEvent::Finished(delta, reason) => {
                frames.json(&last(&delta.text, reason, &self.model, usage));
            }
        }
    }

    fn end(&mut self, _: &Usage, _: &mut Frames) {}
}
