//! A conversation for one of our engines: what its prompt is, and how to answer it.

use super::LocalError;
use super::answer::{AnswerOptions, LocalAnswer, failure};
use super::generation::{Generation, GenerationRequest};
use super::params::{ModelView, Params, ReasoningShown, TOP_LOGPROBS_MAX};
use super::tools::OfferedTools;
use crate::gateway::chat::openai::messages::for_engine;
use crate::gateway::chat::openai::{history, known_fields};
use crate::gateway::chat::{Dialect, noise, takes};
use crate::gateway::ledger::account::Attempt;
use crate::gateway::ledger::metrics::Metrics;
use crate::gateway::target::answer::Answer;
use crate::gateway::target::failure::Failure;
use crate::gateway::target::registry::LocalModel;
use crate::gateway::target::text_queue::TextQueue;
use crate::gateway::target::{ChatRequest, ChatTarget};
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::{BadField, Fields};
use crate::protocol::{ConstraintFactory, TokenId};
use crate::text::grammar::{After, Grammar};
use crate::text::{
    AnswerFormat, Marked, ParserOptions, ReasoningFormat, RenderInput, Tool, reasoning_is_open,
};
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
        params.grammar = tools.grammar(model.answer_format, params.grammar.take());
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
    drops_noise: bool,
) -> Result<impl FnOnce() -> Result<Vec<TokenId>, LocalError> + Send + use<>, BadField> {
    let body = body_for_engine(dialect, body, drops_noise)?;
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
    /// What clients write into prompts for nobody to read is left out.
    pub drops_noise: bool,
    /// Where its prompts are made.
    pub text: &'a TextQueue,
    /// Where its answers are counted.
    pub metrics: &'a Metrics,
}

impl ChatTarget for LocalTarget<'_> {
    async fn ask(
        &self,
        request: &ChatRequest<'_>,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
    ) -> Result<Answer, Failure> {
        let answer = self.submit(request, bounds, attempt).await.map_err(failure)?;
        Ok(Answer::Local(Box::new(answer)))
    }
}

impl LocalTarget<'_> {
    /// Renders and tokenizes the conversation unless its tokens are known, and submits it to the model's engine, which
    /// takes the attempt.
    async fn submit(
        &self,
        request: &ChatRequest<'_>,
        bounds: &mut RequestBounds,
        attempt: &mut Option<Attempt>,
    ) -> Result<LocalAnswer, ApiError> {
        let model = &self.model;
        model.check_generates()?;
        let body = body_for_engine(request.dialect, request.body, self.drops_noise)?;
        let fields = Fields::root(&body)?;
        let LocalRequest { render, tools, add_special, mut params } =
            LocalRequest::read(&fields, ModelView::of(model))?;
        let field = params.grammar.as_ref().map_or("messages", |(field, _)| field.as_str()).to_owned();
        let at = |error: LocalError| {
            let field = if matches!(error, LocalError::Grammar(_)) { field.as_str() } else { "messages" };
            ApiError::from(error).at(field)
        };
        let shape = AnswerShape {
            model: model.clone(),
            shown: params.reasoning,
            tools: tools.callable,
            grammar: params.grammar.take().map(|(_, grammar)| grammar),
            reasoning_budget: params.reasoning_budget,
        };
        let (prompt, parser, constraint) = match &request.prompt {
            // Nothing that takes long is left to do.
            Some(prompt) if !shape.is_constrained() => (prompt.clone(), shape.parser(prompt), None),
            known => {
                let (model, known) = (model.clone(), known.clone());
                let work = move || {
                    let prompt: Arc<[TokenId]> = match known {
                        Some(prompt) => prompt,
                        None => prompt_ids(&model, &render, add_special)?.into(),
                    };
                    let (parser, constraint) = (shape.parser(&prompt), shape.constraint(&prompt)?);
                    Ok((prompt, parser, constraint))
                };
                self.text.run(&request.tenant.name, bounds, work).await.map_err(at)?
            }
        };
        let answer_options = AnswerOptions::of(&params, &prompt, model.answer_format);
        // Whoever goes on at another node needs all ids.
        let hides_reasoning = params.reasoning == ReasoningShown::Never && !params.resumable;
        let max_tokens_default = model.defaults.max_tokens.unwrap_or(u32::MAX);
        let generation = GenerationRequest {
            id: request.id.to_owned(),
            cache_salt: request.tenant.cache_salt,
            prompts: vec![prompt],
            choices: params.n,
            sampling: params.sampling,
            max_tokens: params.max_tokens.unwrap_or(max_tokens_default),
            stops: params.stops,
            include_stop: params.include_stop,
            skip_special: params.skip_special,
            tokens_as_ids: params.tokens_as_ids,
            hides_reasoning,
            parser,
            constraint,
            generated: params.generated,
        };
        let metrics = self.metrics.generation(&model.name, request.arrived);
        let mut generation = Generation::start(model, generation, bounds.clone(), metrics).map_err(at)?;
        if let Some(attempt) = attempt.take() {
            generation.account(attempt);
        }
        Ok(LocalAnswer::new(generation, answer_options))
    }
}

/// How an answer is read, and what it must be.
struct AnswerShape {
    model: Arc<LocalModel>,
    shown: ReasoningShown,
    tools: Arc<[Tool]>,
    grammar: Option<Grammar>,
    reasoning_budget: Option<u32>,
}

impl AnswerShape {
    /// None where the answer can have nothing but text.
    fn parser(&self, prompt: &[TokenId]) -> Option<(AnswerFormat, ParserOptions)> {
        let format = self.model.answer_format;
        let reasoning = format.reasoning.filter(|_| self.shown != ReasoningShown::InText);
        let tools = format.tools.filter(|_| !self.tools.is_empty());
        if reasoning.is_none() && tools.is_none() {
            return None;
        }
        let format = AnswerFormat { reasoning, tools };
        let reasoning_is_open = self.reasoning_is_open(prompt);
        let text_is_held = self.grammar.as_ref().is_some_and(Grammar::holds_text);
        Some((format, ParserOptions { reasoning_is_open, tools: self.tools.clone(), text_is_held }))
    }

    fn is_constrained(&self) -> bool {
        self.grammar.is_some() || self.reasoning_budget.is_some()
    }

    /// What tokens may come; for a blocking thread.
    fn constraint(&self, prompt: &[TokenId]) -> Result<Option<Arc<dyn ConstraintFactory>>, LocalError> {
        let tags = self.model.answer_format.reasoning.map(ReasoningFormat::tags);
        let after = tags.map_or(After::Nothing, |(open, close)| After::Reasoning {
            open: (!self.reasoning_is_open(prompt)).then(|| open.to_owned()),
            close: close.to_owned(),
            budget: self.reasoning_budget,
        });
        // A bound on reasoning is nothing to a model that has none.
        if self.grammar.is_none() && (self.reasoning_budget.is_none() || after == After::Nothing) {
            return Ok(None);
        }
        let tokenizer = self.model.tokenizer.as_ref().ok_or(LocalError::NoTokenizer)?;
        self.model.grammars.constraint(tokenizer, self.grammar.as_ref(), &after).map(Some)
    }

    fn reasoning_is_open(&self, prompt: &[TokenId]) -> bool {
        let last = &prompt[prompt.len().saturating_sub(OPENING_TOKENS_MAX)..];
        let tokenizer = self.model.tokenizer.as_ref();
        let end = tokenizer.and_then(|tokenizer| tokenizer.decode(last, false).ok()).unwrap_or_default();
        reasoning_is_open(&self.model.answer_format, &end)
    }
}

/// A conversation in any dialect as our engines read it. An error names the field of the caller's body.
fn body_for_engine(dialect: Dialect, body: &Value, drops_noise: bool) -> Result<Cow<'_, Value>, BadField> {
    takes::check_text_only(body)?;
    let mut read = match dialect {
        Dialect::OpenAi | Dialect::Responses => Cow::Borrowed(body),
        Dialect::Anthropic => Cow::Owned(for_engine(body)?),
    };
    if drops_noise && noise::is_in(&read) {
        read.to_mut().as_object_mut().into_iter().for_each(|body| noise::drop(body, Dialect::OpenAi));
    }
    Ok(read)
}
