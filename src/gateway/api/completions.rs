//! `POST /v1/completions`: prompts as text or as token ids, one or several.

use super::infill::{Gap, gap_ids};
use super::text_answer::{
    ChunkUsage, Collected, Encoder, EventStream, Head, Usage, finish_reason, split_end,
};
use crate::gateway::api::app::{App, RequestContext};
use crate::gateway::chat::openai::known_fields;
use crate::gateway::chat::openai::logprobs::finite;
use crate::gateway::chat::shapes::words;
use crate::gateway::chat::{Dialect, TokenScore};
use crate::gateway::ledger::account::Attempt;
use crate::gateway::route::Asked;
use crate::gateway::route::count::Counts;
use crate::gateway::target::local::{
    self, CHOICES_MAX, Delta, Generation, GenerationRequest, LocalError, ModelView, Params, StreamOptions,
    TOP_LOGPROBS_MAX, TextEvent,
};
use crate::gateway::target::registry::LocalModel;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields, token_ids};
use crate::gateway::wire::rate_limit::insert_limits;
use crate::gateway::wire::sse::{self, Frames};
use crate::protocol::{FinishReason, TokenId};
use crate::text::grammar::After;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Json, Response};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

/// Output tokens where the caller does not say, as in OpenAI's API.
const MAX_TOKENS_DEFAULT: u32 = 16;

/// A prompt as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// To be tokenized.
    Text(String),
    /// As they are.
    Ids(Vec<TokenId>),
    /// To be filled.
    Gap(Gap),
}

/// A completion request, read and checked.
#[derive(Debug)]
pub struct CompletionRequest {
    /// At least one.
    pub prompts: Vec<Prompt>,
    /// Start each choice's text with its prompt.
    pub echo: bool,
    /// Add BOS and the like to text prompts.
    pub add_special: bool,
    /// The rest.
    pub params: Params,
}

impl CompletionRequest {
    /// Reads a body.
    pub fn read(fields: &Fields<'_>, model: ModelView<'_>) -> Result<Self, BadField> {
        known_fields::check(fields, known_fields::TEXT)?;
        let prompts = prompts(fields, model.vocab)?;
        let mut params = Params::read(fields, model)?;
        if !params.generated.is_empty() {
            return Err(BadField::unsupported("resume_token_ids", "is for /v1/chat/completions"));
        }
        let choices = prompts.len() * params.n as usize;
        if choices > CHOICES_MAX {
            return Err(BadField::new(
                "n",
                format!("times the number of prompts must be at most {CHOICES_MAX}, got {choices}"),
            ));
        }
        if let Some(best_of) = fields.u32("best_of", 1)?
            && best_of != params.n
        {
            let reason = format!("must equal n ({}), got {best_of}: choices are not ranked", params.n);
            return Err(BadField::unsupported("best_of", reason));
        }
        let prompts = match fields.str("suffix")?.filter(|suffix| !suffix.is_empty()) {
            None => prompts,
            Some(suffix) => with_suffix(prompts, suffix)?,
        };
        let echo = fields.flag("echo", false)?;
        if echo && matches!(prompts[0], Prompt::Gap(_)) {
            return Err(BadField::unsupported("echo", "and `suffix` exclude each other"));
        }
        params.sampling.logprobs = fields.integer("logprobs", 0, TOP_LOGPROBS_MAX)?.map(|top| top as u32);
        if echo {
            params.sampling.prompt_logprobs = params.sampling.logprobs;
        }
        Ok(Self { prompts, echo, add_special: fields.flag("add_special_tokens", true)?, params })
    }
}

/// Each prompt is what stands before the gap.
fn with_suffix(prompts: Vec<Prompt>, suffix: &str) -> Result<Vec<Prompt>, BadField> {
    let gap = |prompt| match prompt {
        Prompt::Text(before) => {
            Ok(Prompt::Gap(Gap { before, behind: suffix.to_owned(), others: Vec::new() }))
        }
        _ => Err(BadField::new("suffix", "needs a `prompt` of text")),
    };
    prompts.into_iter().map(gap).collect()
}

fn prompts(fields: &Fields<'_>, vocab: usize) -> Result<Vec<Prompt>, BadField> {
    const WHAT: &str = "must be a string, a list of strings, a list of token ids, or a list of such lists";
    let value = fields.required("prompt", "a string, a list of strings, or token ids")?;
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(items) => items,
        _ => return Err(BadField::new("prompt", WHAT)),
    };
    match items.first() {
        None => Err(BadField::new("prompt", "must not be empty")),
        Some(Value::Number(_)) => Ok(vec![Prompt::Ids(token_ids("prompt", items, vocab)?)]),
        Some(Value::String(_) | Value::Array(_)) if items.len() > CHOICES_MAX => {
            let reason = format!("must have at most {CHOICES_MAX} prompts, got {}", items.len());
            Err(BadField::new("prompt", reason))
        }
        Some(Value::String(_)) => {
            let text = |(i, item): (usize, &Value)| match item {
                Value::String(text) => Ok(Prompt::Text(text.clone())),
                _ => Err(BadField::new(format!("prompt[{i}]"), "must be a string, as the first prompt is")),
            };
            items.iter().enumerate().map(text).collect()
        }
        Some(Value::Array(_)) => {
            let ids = |(i, item): (usize, &Value)| match item {
                Value::Array(ids) if !ids.is_empty() => {
                    Ok(Prompt::Ids(token_ids(&format!("prompt[{i}]"), ids, vocab)?))
                }
                _ => Err(BadField::new(
                    format!("prompt[{i}]"),
                    "must be a non-empty list of token ids, as the first prompt is",
                )),
            };
            items.iter().enumerate().map(ids).collect()
        }
        Some(_) => Err(BadField::new("prompt", WHAT)),
    }
}

/// A prompt ready to run, and what is reported of it.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    pub ids: Arc<[TokenId]>,
    /// Its text, under `echo`.
    pub echo: String,
}

/// Tokenizes; for a blocking thread.
fn encode(model: &LocalModel, request: (Vec<Prompt>, bool, bool)) -> Result<Vec<Encoded>, LocalError> {
    let (prompts, add_special, echo) = request;
    let one = |prompt| match prompt {
        Prompt::Text(text) => {
            let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
            model.check_bytes(&text)?;
            Ok(Encoded { ids: tokenizer.encode(&text, add_special)?.into(), echo: text })
        }
        Prompt::Gap(gap) => Ok(Encoded { ids: gap_ids(model, &gap, add_special)?.into(), echo: gap.before }),
        Prompt::Ids(ids) => {
            let text = match &model.tokenizer {
                Some(tokenizer) if echo => tokenizer.decode(&ids, false)?,
                _ => String::new(),
            };
            Ok(Encoded { ids: ids.into(), echo: text })
        }
    };
    prompts.into_iter().map(one).collect()
}

/// The handler.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "OpenAI",
    operation_id = "createCompletion",
    summary = "Continues a text",
    description = "By a model of this server. With `stream: true` as server-sent events.",
    request_body(content = ref("#/components/schemas/CompletionRequest"), example = json!({"model": "qwen3-8b", "prompt": "Once upon a time", "max_tokens": 16})),
    responses((status = 200, description = "The answer", content((Completion = "application/json"), (Completion = "text/event-stream")))),
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
    let name = fields.required_str("model", "the name of a served model")?;
    let model = app.model(name, &context)?;
    model.check_generates()?;
    let counts = Counts::estimated(&body);
    let asked =
        Asked { body: &body, headers: &headers, path: &path, tenant: &context.tenant, counts: &counts };
    let read = CompletionRequest::read(&fields, ModelView::of(&model))?;
    let mut attempt = app.attempt(&context, name, &asked).await?;
    let states = attempt.as_ref().map(Attempt::states);
    match complete(&app, context, bounds, model, read, &mut attempt).await {
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

/// Encodes the prompts and submits them to the model's engine, which takes the attempt.
async fn complete(
    app: &App,
    context: RequestContext,
    mut bounds: RequestBounds,
    model: Arc<LocalModel>,
    read: CompletionRequest,
    attempt: &mut Option<Attempt>,
) -> Result<Response, ApiError> {
    let CompletionRequest { prompts, echo, add_special, params } = read;
    let (field, grammar) = params.grammar.unzip();
    let at = |error: LocalError| match &error {
        LocalError::NoInfill => ApiError::from(error).at("suffix"),
        LocalError::Grammar(_) => ApiError::from(error).at(field.as_deref().unwrap_or("prompt")),
        _ => ApiError::from(error).at("prompt"),
    };
    let work = {
        let model = model.clone();
        move || {
            let prompts = encode(&model, (prompts, add_special, echo))?;
            let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer);
            let constraint = |grammar| model.grammars.constraint(tokenizer?, Some(grammar), &After::Nothing);
            Ok((prompts, grammar.as_ref().map(constraint).transpose()?))
        }
    };
    let (prompts, constraint) = app.text.run(&context.tenant.name, &mut bounds, work).await.map_err(at)?;
    let request = GenerationRequest {
        generated: Vec::new(),
        hides_reasoning: false,
        parser: None,
        constraint,
        id: context.id.clone(),
        cache_salt: context.tenant.cache_salt,
        prompts: prompts.iter().map(|prompt| prompt.ids.clone()).collect(),
        choices: params.n,
        sampling: params.sampling,
        max_tokens: params.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT),
        stops: params.stops,
        include_stop: params.include_stop,
        skip_special: params.skip_special,
        tokens_as_ids: params.tokens_as_ids,
    };
    let format = Format {
        head: Head::new("cmpl", &model.name),
        logprobs: request.sampling.logprobs.is_some(),
        choices_per_prompt: params.n as usize,
        prompts,
        echo,
        token_ids: params.return_token_ids,
    };
    let metrics = app.metrics.generation(&model.name, context.arrived);
    let mut generation = Generation::start(&model, request, bounds, metrics).map_err(at)?;
    if let Some(attempt) = attempt.take() {
        generation.account(attempt);
    }
    Ok(match params.stream {
        Some(options) => {
            let encoder = CompletionEncoder::new(format, options);
            let source = EventStream::new(generation, encoder, context.in_flight);
            sse::response(source, app.config.keep_alive)
        }
        None => {
            let collected = Collected::new(format.prompts.len(), format.choices_per_prompt);
            let mut collected = collected.run(&mut generation).await?;
            format.add_echo(&mut collected);
            Json(completion(&format, &collected, &generation.usage())).into_response()
        }
    })
}

fn completion_object() -> utoipa::openapi::schema::Object {
    words(["text_completion"])
}

/// What is asked of the answer's form.
pub(super) struct Format {
    pub head: Head,
    pub logprobs: bool,
    pub choices_per_prompt: usize,
    pub prompts: Vec<Encoded>,
    pub echo: bool,
    pub token_ids: bool,
}

/// A whole completion, or a piece of a stream.
#[derive(Serialize, ToSchema)]
pub struct Completion<'a> {
    id: &'a str,
    #[schema(schema_with = completion_object)]
    object: &'static str,
    created: u64,
    model: &'a str,
    #[schema(required = true, value_type = Option<String>)]
    system_fingerprint: Option<()>,
    choices: Vec<CompletionChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Option<Usage>)]
    usage: ChunkUsage,
}

#[derive(Serialize, ToSchema)]
struct CompletionChoice<'a> {
    index: usize,
    text: &'a str,
    #[schema(required = true)]
    logprobs: Option<Logprobs<'a>>,
    #[schema(required = true)]
    finish_reason: Option<&'static str>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<u32>>)]
    prompt_token_ids: Option<&'a [TokenId]>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<u32>>)]
    token_ids: Option<&'a [TokenId]>,
}

/// Four lists of one length.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = CompletionLogprobs)]
struct Logprobs<'a> {
    tokens: Vec<&'a str>,
    token_logprobs: Vec<Option<f32>>,
    #[schema(value_type = Vec<Option<std::collections::BTreeMap<String, f32>>>)]
    top_logprobs: Vec<Option<TopLogprobs<'a>>>,
    text_offset: Vec<usize>,
}

/// An object from token text to log-probability, best first. Of tokens with the same text the
/// best is there.
struct TopLogprobs<'a>(Vec<(&'a str, f32)>);

impl Serialize for TopLogprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// `offset` is where the first token starts in the choice's text, in characters; it is moved to
/// where the last one ends.
fn logprobs_of<'a>(scores: impl IntoIterator<Item = &'a TokenScore>, offset: &mut usize) -> Logprobs<'a> {
    let mut lists = Logprobs::default();
    for score in scores {
        let top = score.logprob.map(|own| {
            let mut top: Vec<(&str, f32)> = Vec::with_capacity(score.top.len() + 1);
            let listed = score.top.iter().map(|(text, _, value)| (text.as_str(), *value));
            // The chosen token is always there, asked for or not.
            for (text, value) in listed.chain([(score.text.as_str(), own)]) {
                if top.iter().all(|(t, _)| *t != text) {
                    top.push((text, finite(value)));
                }
            }
            TopLogprobs(top)
        });
        lists.tokens.push(&score.text);
        lists.token_logprobs.push(score.logprob.map(finite));
        lists.top_logprobs.push(top);
        lists.text_offset.push(*offset);
        *offset += score.chars;
    }
    lists
}

/// What the tokenizer put before a text prompt (BOS) is not in its text: with that, a prompt's
/// last token ends where its text does.
pub(super) fn align(scores: &mut [TokenScore], text: &str) {
    let all: usize = scores.iter().map(|score| score.chars).sum();
    let mut excess = all.saturating_sub(text.chars().count());
    for score in scores {
        let not_there = score.chars.min(excess);
        score.chars -= not_there;
        excess -= not_there;
    }
}

impl Format {
    fn object<'a>(&'a self, choices: Vec<CompletionChoice<'a>>, usage: ChunkUsage) -> Completion<'a> {
        Completion {
            id: &self.head.id,
            object: "text_completion",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: None,
            choices,
            usage,
        }
    }

    fn prompt(&self, choice: usize) -> &Encoded {
        &self.prompts[choice / self.choices_per_prompt]
    }

    /// Under `echo`, each choice's text starts with its prompt.
    pub(super) fn add_echo(&self, collected: &mut Collected) {
        if self.echo {
            for (scores, prompt) in collected.prompt_scores.iter_mut().zip(&self.prompts) {
                align(scores, &prompt.echo);
            }
            for (i, choice) in collected.choices.iter_mut().enumerate() {
                choice.output.text.insert_str(0, &self.prompt(i).echo);
            }
        }
    }
}

/// The whole answer.
pub(super) fn completion<'a>(
    format: &'a Format,
    collected: &'a Collected,
    usage: &local::Usage,
) -> Completion<'a> {
    let choices = collected.choices.iter().enumerate().map(|(index, choice)| {
        let prompt_scores = &collected.prompt_scores[index / format.choices_per_prompt];
        let scores = prompt_scores.iter().chain(&choice.output.scores);
        CompletionChoice {
            index,
            text: &choice.output.text,
            logprobs: format.logprobs.then(|| logprobs_of(scores, &mut 0)),
            finish_reason: choice.reason.map(finish_reason),
            prompt_token_ids: format.token_ids.then(|| &*format.prompt(index).ids),
            token_ids: format.token_ids.then_some(&choice.output.ids),
        }
    });
    format.object(choices.collect(), Some(Some(usage.into())))
}

/// Writes chunks: the prompt under `echo` or `return_token_ids`, then text, then the reason, then
/// the usage where asked for.
pub(super) struct CompletionEncoder {
    format: Format,
    options: StreamOptions,
    /// Characters sent, per choice.
    offsets: Vec<usize>,
}

impl CompletionEncoder {
    pub(super) fn new(format: Format, options: StreamOptions) -> Self {
        let offsets = vec![0; format.prompts.len() * format.choices_per_prompt];
        Self { format, options, offsets }
    }

    fn prompt(&mut self, prompt: usize, mut scores: Vec<TokenScore>, usage: ChunkUsage, frames: &mut Frames) {
        if !self.format.echo && !self.format.token_ids {
            return;
        }
        let first = prompt * self.format.choices_per_prompt;
        let encoded = &self.format.prompts[prompt];
        align(&mut scores, &encoded.echo);
        for index in first..first + self.format.choices_per_prompt {
            let offset = &mut self.offsets[index];
            let choice = CompletionChoice {
                index,
                text: if self.format.echo { &encoded.echo } else { "" },
                logprobs: (!scores.is_empty()).then(|| logprobs_of(&scores, offset)),
                finish_reason: None,
                prompt_token_ids: self.format.token_ids.then_some(&*encoded.ids),
                token_ids: None,
            };
            frames.json(&self.format.object(vec![choice], usage));
        }
    }

    fn output(
        &mut self,
        delta: &Delta,
        reason: Option<FinishReason>,
        usage: ChunkUsage,
        frames: &mut Frames,
    ) {
        // A piece without text is of use only for its tokens, or as the end.
        if delta.text.is_empty() && reason.is_none() && !self.format.token_ids && !self.format.logprobs {
            return;
        }
        let offset = &mut self.offsets[delta.choice];
        let choice = CompletionChoice {
            index: delta.choice,
            text: &delta.text,
            logprobs: (!delta.scores.is_empty()).then(|| logprobs_of(&delta.scores, offset)),
            finish_reason: reason.map(finish_reason),
            prompt_token_ids: None,
            token_ids: self.format.token_ids.then_some(&delta.ids),
        };
        frames.json(&self.format.object(vec![choice], usage));
    }
}

impl Encoder for CompletionEncoder {
    fn event(&mut self, event: TextEvent, usage: &local::Usage, frames: &mut Frames) {
        let usage = self.options.chunk_usage(usage);
        let (first, second) = split_end(event);
        for event in [first, second].into_iter().flatten() {
            match event {
                TextEvent::Prompt { prompt, scores } => self.prompt(prompt, scores, usage, frames),
                TextEvent::Delta(delta) => self.output(&delta, None, usage, frames),
                TextEvent::Finished(delta, reason) => self.output(&delta, Some(reason), usage, frames),
            }
        }
    }

    fn end(&mut self, usage: &local::Usage, frames: &mut Frames) {
        if self.options.include_usage {
            frames.json(&self.format.object(Vec::new(), Some(Some(usage.into()))));
        }
        frames.data("[DONE]");
    }
}
