//! A conversation for one of our engines: what its prompt is, and how to answer it.

use super::LocalError;
use super::answer::{LocalAnswer, Telling, failure};
use super::generation::{Generation, GenerationRequest, MaxTokens};
use super::params::{ModelView, Params, ReasoningShown, TOP_LOGPROBS_MAX};
use super::tools::OfferedTools;
use crate::gateway::chat::Dialect;
use crate::gateway::chat::openai::messages::for_engine;
use crate::gateway::chat::openai::{history, known_fields};
use crate::gateway::ledger::account::Attempt;
use crate::gateway::ledger::metrics::Metrics;
use crate::gateway::target::answer::Answer;
use crate::gateway::target::failure::Failure;
use crate::gateway::target::registry::LocalModel;
use crate::gateway::target::text_queue::TextQueue;
use crate::gateway::target::{ChatRequest, ChatTarget};
use crate::gateway::wire::bounds::Limits;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::protocol::TokenId;
use crate::text::{AnswerFormat, Marked, ParserOptions, RenderInput, reasoning_is_open};
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// The tag that opens a block of reasoning at a prompt's end, and line breaks, are within so many tokens.
const OPENING_TOKENS_MAX: usize = 32;

/// A chat request, read and checked.
#[derive(Debug)]
pub struct LocalRequest {
    /// For the template.
    pub render: RenderInput,
    /// What it may call.
    pub tools: OfferedTools,
    /// Add BOS and the like to the rendered text, which usually has it already.
    pub add_special: bool,
    /// The rest.
    pub params: Params,
}

impl LocalRequest {
    /// Reads a body.
    pub fn read(fields: &Fields<'_>, model: ModelView<'_>) -> Result<Self, BadField> {
        known_fields::check(fields, known_fields::CHAT)?;
        let mut params = Params::read(fields, model)?;
        let tools = OfferedTools::read(fields, model.can_call())?;
        let mut render = history::render_input(fields, model.template)?;
        render.tools = tools.rendered.clone();
        let top = fields.integer("top_logprobs", 0, TOP_LOGPROBS_MAX)?;
        if fields.flag("logprobs", false)? {
            params.sampling.logprobs = Some(top.unwrap_or(0) as u32);
        } else if top.is_some_and(|top| top > 0) {
            return Err(BadField::new("top_logprobs", "needs `logprobs` to be true"));
        }
        let add_special = fields.flag("add_special_tokens", false)?;
        Ok(Self { render, tools, add_special, params })
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
    dialect: Dialect,
    body: &Value,
) -> Result<impl FnOnce() -> Result<Vec<TokenId>, LocalError> + Send + use<>, BadField> {
    let body = body_for_engine(dialect, body)?;
    let fields = Fields::root(&body)?;
    // What a model refuses it does not count either.
    let LocalRequest { render, add_special, .. } = LocalRequest::read(&fields, ModelView::of(model))?;
    let model = model.clone();
    Ok(move || prompt_ids(&model, &render, add_special))
}

/// One of our models as a target.
pub struct LocalTarget<'a> {
    /// The model.
    pub model: Arc<LocalModel>,
    /// Where its prompts are made.
    pub text: &'a TextQueue,
    /// Where its answers are counted.
    pub metrics: &'a Metrics,
}

impl ChatTarget for LocalTarget<'_> {
    async fn ask(
        &self,
        request: &ChatRequest<'_>,
        limits: &mut Limits,
        attempt: &mut Option<Attempt>,
    ) -> Result<Answer, Failure> {
        let answer = self.submit(request, limits, attempt).await.map_err(failure)?;
        Ok(Answer::Local(Box::new(answer)))
    }
}

impl LocalTarget<'_> {
    /// Renders and tokenizes the conversation unless its tokens are known, and submits it to the model's engine, which
    /// takes the attempt.
    async fn submit(
        &self,
        request: &ChatRequest<'_>,
        limits: &mut Limits,
        attempt: &mut Option<Attempt>,
    ) -> Result<LocalAnswer, ApiError> {
        let model = &self.model;
        let body = body_for_engine(request.dialect, request.body)?;
        let fields = Fields::root(&body)?;
        let LocalRequest { render, tools, add_special, params } =
            LocalRequest::read(&fields, ModelView::of(model))?;
        let at = |e: LocalError| ApiError::from(e).at("messages");
        let prompt: Arc<[TokenId]> = match &request.prompt {
            Some(prompt) => prompt.clone(),
            None => {
                let model = model.clone();
                let encode = move || prompt_ids(&model, &render, add_special);
                self.text.run(&request.tenant.name, limits, encode).await.map_err(at)?.into()
            }
        };
        let telling = Telling::of(&params, &prompt);
        let parser = parser_of(model, &params, &tools, &prompt);
        let max_tokens_default = model.defaults.max_tokens.unwrap_or(u32::MAX);
        let generation = GenerationRequest {
            id: request.id.to_owned(),
            cache_salt: request.tenant.cache_salt,
            prompts: vec![prompt],
            choices: params.n,
            sampling: params.sampling,
            max_tokens: params.max_tokens.map_or(MaxTokens::AtMost(max_tokens_default), MaxTokens::Exactly),
            stops: params.stops,
            include_stop: params.include_stop,
            skip_special: params.skip_special,
            tokens_as_ids: params.tokens_as_ids,
            parser,
            generated: params.generated,
        };
        let metrics = self.metrics.generation(&model.name, request.arrived);
        let mut generation = Generation::start(model, generation, limits.clone(), metrics).map_err(at)?;
        if let Some(attempt) = attempt.take() {
            generation.account(attempt);
        }
        Ok(LocalAnswer::new(generation, telling))
    }
}

/// How an answer is read; None where it can have nothing but text.
fn parser_of(
    model: &LocalModel,
    params: &Params,
    tools: &OfferedTools,
    prompt: &[TokenId],
) -> Option<(AnswerFormat, ParserOptions)> {
    let reasoning = model.answer_format.reasoning.filter(|_| params.reasoning != ReasoningShown::InText);
    let calls = model.answer_format.tools.filter(|_| !tools.callable.is_empty());
    if reasoning.is_none() && calls.is_none() {
        return None;
    }
    let format = AnswerFormat { reasoning, tools: calls };
    let last = &prompt[prompt.len().saturating_sub(OPENING_TOKENS_MAX)..];
    let end = model.tokenizer.as_ref()?.decode(last, false).unwrap_or_default();
    let reasoning_is_open = reasoning_is_open(&format, &end);
    Some((format, ParserOptions { reasoning_is_open, tools: tools.callable.clone() }))
}

/// A conversation in any dialect as our engines read it. An error names the field of the caller's body.
pub fn body_for_engine(dialect: Dialect, body: &Value) -> Result<Cow<'_, Value>, BadField> {
    match dialect {
        Dialect::OpenAi => Ok(Cow::Borrowed(body)),
        Dialect::Anthropic => for_engine(body).map(Cow::Owned),
    }
}
