//! `POST /v1/chat/completions` by one of our engines: what the format has beyond text, token ids and
//! log-probabilities among it.

use super::params::{ModelView, Params, StreamOptions, TOP_LOGPROBS_MAX};
use super::wire::{ChunkUsage, Head, Usage, finish_reason, logprob, split_end};
use super::{Collected, Encoder, EventStream};
use crate::gateway::api::app::{App, RequestContext};
use crate::gateway::chat::openai::{history, known_fields};
use crate::gateway::ledger::account::Attempt;
use crate::gateway::target::local::{
    self, Delta, Generation, GenerationRequest, LocalError, MaxTokens, TextEvent, TokenScore,
};
use crate::gateway::target::registry::LocalModel;
use crate::gateway::wire::bounds::Limits;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::gateway::wire::sse::{self, Frames};
use crate::protocol::{FinishReason, TokenId};
use crate::text::{Marked, RenderInput};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// A chat request, read and checked.
#[derive(Debug)]
pub struct ChatRequest {
    /// For the template.
    pub render: RenderInput,
    /// Add BOS and the like to the rendered text, which usually has it already.
    pub add_special: bool,
    /// The rest.
    pub params: Params,
}

impl ChatRequest {
    /// Reads a body.
    pub fn read(fields: &Fields<'_>, model: ModelView<'_>) -> Result<Self, BadField> {
        known_fields::check(fields, known_fields::CHAT)?;
        let mut params = Params::read(fields, model)?;
        let render = history::render_input(fields, model.template)?;
        let top = fields.integer("top_logprobs", 0, TOP_LOGPROBS_MAX)?;
        if fields.flag("logprobs", false)? {
            params.sampling.logprobs = Some(top.unwrap_or(0) as u32);
        } else if top.is_some_and(|top| top > 0) {
            return Err(BadField::new("top_logprobs", "needs `logprobs` to be true"));
        }
        let add_special = fields.flag("add_special_tokens", false)?;
        Ok(Self { render, add_special, params })
    }
}

/// Renders and tokenizes; for a blocking thread.
pub fn prompt_ids(
    model: &LocalModel,
    render: &RenderInput,
    add_special: bool,
) -> Result<Vec<TokenId>, LocalError> {
    let tokenizer = model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
    let template = model.template.as_ref().map_err(|reason| LocalError::NoTemplate(reason.clone()))?;
    let marked = match model.special_tokens_in_messages {
        true => None,
        false => Marked::of(tokenizer, render),
    };
    let text = history::render(template, marked.as_ref().map_or(render, |marked| &marked.input))?;
    model.check_bytes(&text)?;
    Ok(match marked {
        None => tokenizer.encode(&text, add_special)?,
        Some(marked) => marked.encode(tokenizer, &text, add_special)?,
    })
}

/// Reads a body as far as its prompt needs; the work that makes tokens of it is for a blocking thread.
pub fn chat_prompt(
    model: &Arc<LocalModel>,
    body: &Value,
) -> Result<impl FnOnce() -> Result<Vec<TokenId>, LocalError> + Send + 'static, BadField> {
    let fields = Fields::root(body)?;
    // What a model refuses it does not count either.
    let ChatRequest { render, add_special, .. } = ChatRequest::read(&fields, ModelView::of(model))?;
    let model = model.clone();
    Ok(move || prompt_ids(&model, &render, add_special))
}

/// A request, submitted to an engine.
pub struct Submitted {
    /// On its way.
    pub generation: Generation,
    /// What the answer says of itself.
    pub head: Head,
    params: Reported,
}

/// How the caller wants the answer told.
struct Reported {
    choices: u32,
    logprobs: bool,
    ids: bool,
    prompt_ids: Option<Arc<[TokenId]>>,
    stream: Option<StreamOptions>,
}

/// Reads a body, renders and tokenizes it unless its tokens are `known`, and submits it to the model's
/// engine, which takes the attempt.
pub async fn submit(
    app: &App,
    context: &RequestContext,
    limits: &mut Limits,
    model: &Arc<LocalModel>,
    body: &Value,
    known: Option<Arc<[TokenId]>>,
    attempt: &mut Option<Attempt>,
) -> Result<Submitted, ApiError> {
    let fields = Fields::root(body)?;
    let ChatRequest { render, add_special, params } = ChatRequest::read(&fields, ModelView::of(model))?;
    let at = |e: LocalError| ApiError::from(e).at("messages");
    let prompt: Arc<[TokenId]> = match known {
        Some(prompt) => prompt,
        None => {
            let model = model.clone();
            let encode = move || prompt_ids(&model, &render, add_special);
            app.text.run(&context.tenant.name, limits, encode).await.map_err(at)?.into()
        }
    };
    let head = Head::new("chatcmpl", &model.name);
    let request = GenerationRequest {
        id: context.id.clone(),
        cache_salt: context.tenant.cache_salt,
        prompts: vec![prompt.clone()],
        choices: params.n,
        sampling: params.sampling,
        max_tokens: params
            .max_tokens
            .map_or(MaxTokens::AtMost(model.defaults.max_tokens.unwrap_or(u32::MAX)), MaxTokens::Exactly),
        stops: params.stops,
        include_stop: params.include_stop,
        skip_special: params.skip_special,
        tokens_as_ids: params.tokens_as_ids,
        generated: params.generated,
    };
    let logprobs = request.sampling.logprobs.is_some();
    let metrics = app.metrics.generation(&model.name, context.arrived);
    let mut generation = Generation::start(model, request, limits.clone(), metrics).map_err(at)?;
    if let Some(attempt) = attempt.take() {
        generation.account(attempt);
    }
    let params = Reported {
        choices: params.n,
        logprobs,
        ids: params.return_token_ids || params.resumable,
        prompt_ids: params.return_token_ids.then_some(prompt),
        stream: params.stream,
    };
    Ok(Submitted { generation, head, params })
}

impl Submitted {
    /// The answer in OpenAI's format, and what it used; of a stream, its head.
    pub async fn respond(
        mut self,
        app: &App,
        context: RequestContext,
    ) -> Result<(Response, Option<local::Usage>), ApiError> {
        let Reported { choices, logprobs, ids, prompt_ids, stream } = self.params;
        Ok(match stream {
            Some(options) => {
                let encoder = ChatEncoder { head: self.head, choices, logprobs, ids, prompt_ids, options };
                let source = EventStream::new(self.generation, encoder, context.in_flight);
                (sse::response(source, app.config.keep_alive), None)
            }
            None => {
                let collected = Collected::new(1, choices as usize).run(&mut self.generation).await?;
                let usage = self.generation.usage();
                let prompt_ids = prompt_ids.as_deref();
                let whole = Json(completion(&self.head, &collected, &usage, logprobs, prompt_ids));
                (whole.into_response(), Some(usage))
            }
        })
    }
}

#[derive(Serialize)]
pub(super) struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<()>,
    choices: Vec<ChatChoice<'a>>,
    usage: Usage,
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: usize,
    message: ChatMessage<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<&'static str>,
    #[serde(flatten)]
    ids: ChoiceIds<'a>,
}

#[derive(Serialize)]
struct ChatMessage<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

/// The extension `return_token_ids`.
#[derive(Default, Serialize)]
pub(in crate::gateway::api) struct ChoiceIds<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [TokenId]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [TokenId]>,
}

#[derive(Serialize)]
struct ChatLogprobs<'a> {
    content: Vec<ChatLogprob<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatLogprob<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
    top_logprobs: Vec<ChatTopLogprob<'a>>,
}

#[derive(Serialize)]
struct ChatTopLogprob<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
}

#[derive(Serialize)]
struct ChatChunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: Option<()>,
    choices: Vec<ChunkChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: ChunkUsage,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: ChunkDelta<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<&'static str>,
    #[serde(flatten)]
    ids: ChoiceIds<'a>,
}

#[derive(Default, Serialize)]
struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

fn logprobs_of(scores: &[TokenScore]) -> ChatLogprobs<'_> {
    let content = scores.iter().map(|score| ChatLogprob {
        token: &score.text,
        logprob: logprob(score.logprob.unwrap_or(0.0)),
        bytes: &score.bytes,
        top_logprobs: score
            .top
            .iter()
            .map(|(token, bytes, value)| ChatTopLogprob { token, logprob: logprob(*value), bytes })
            .collect(),
    });
    ChatLogprobs { content: content.collect(), refusal: None }
}

/// The whole answer.
pub(super) fn completion<'a>(
    head: &'a Head,
    collected: &'a Collected,
    usage: &local::Usage,
    logprobs: bool,
    prompt_ids: Option<&'a [TokenId]>,
) -> ChatCompletion<'a> {
    let choices = collected.choices.iter().enumerate().map(|(index, choice)| ChatChoice {
        index,
        message: ChatMessage { role: "assistant", content: &choice.output.text, refusal: None },
        logprobs: logprobs.then(|| logprobs_of(&choice.output.scores)),
        finish_reason: choice.reason.map(finish_reason),
        ids: ChoiceIds {
            prompt_token_ids: prompt_ids,
            token_ids: prompt_ids.map(|_| choice.output.ids.as_slice()),
        },
    });
    ChatCompletion {
        id: &head.id,
        object: "chat.completion",
        created: head.created,
        model: &head.model,
        system_fingerprint: None,
        choices: choices.collect(),
        usage: usage.into(),
    }
}

/// Writes chunks: the role first, then text, then the reason, then the usage where asked for.
pub(super) struct ChatEncoder {
    pub head: Head,
    pub choices: u32,
    pub logprobs: bool,
    /// Return the output's token ids.
    pub ids: bool,
    /// Present when the prompt's are to be returned.
    pub prompt_ids: Option<Arc<[TokenId]>>,
    pub options: StreamOptions,
}

impl ChatEncoder {
    fn chunk(&self, choices: Vec<ChunkChoice<'_>>, usage: ChunkUsage, frames: &mut Frames) {
        frames.json(&ChatChunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: None,
            choices,
            usage,
        });
    }

    fn output(&self, delta: &Delta, reason: Option<FinishReason>, usage: ChunkUsage, frames: &mut Frames) {
        let ids = self.ids;
        // A piece without text is of use only for its tokens, or as the end.
        if delta.text.is_empty() && reason.is_none() && !ids && !self.logprobs {
            return;
        }
        let choice = ChunkChoice {
            index: delta.choice,
            delta: ChunkDelta {
                role: None,
                content: (reason.is_none() || !delta.text.is_empty()).then_some(&delta.text),
            },
            logprobs: (self.logprobs && !delta.scores.is_empty()).then(|| logprobs_of(&delta.scores)),
            finish_reason: reason.map(finish_reason),
            ids: ChoiceIds { prompt_token_ids: None, token_ids: ids.then_some(&delta.ids) },
        };
        self.chunk(vec![choice], usage, frames);
    }
}

impl Encoder for ChatEncoder {
    fn event(&mut self, event: TextEvent, usage: &local::Usage, frames: &mut Frames) {
        let usage = self.options.chunk_usage(usage);
        let (first, second) = split_end(event);
        for event in [first, second].into_iter().flatten() {
            match event {
                TextEvent::Prompt { .. } => {
                    for index in 0..self.choices as usize {
                        let choice = ChunkChoice {
                            index,
                            delta: ChunkDelta { role: Some("assistant"), content: Some("") },
                            logprobs: None,
                            finish_reason: None,
                            ids: ChoiceIds { prompt_token_ids: self.prompt_ids.as_deref(), token_ids: None },
                        };
                        self.chunk(vec![choice], usage, frames);
                    }
                }
                TextEvent::Delta(delta) => self.output(&delta, None, usage, frames),
                TextEvent::Finished(delta, reason) => self.output(&delta, Some(reason), usage, frames),
            }
        }
    }

    fn end(&mut self, usage: &local::Usage, frames: &mut Frames) {
        if self.options.include_usage {
            self.chunk(Vec::new(), Some(Some(usage.into())), frames);
        }
        frames.data("[DONE]");
    }
}
