//! The request fields that chat and completions share: how tokens are chosen, when a choice
//! stops, how it is reported.
//!
//! Fields that are refused whatever their value are [`crate::gateway::chat::openai::known_fields`]'s; here are
//! those of which some values can be done.

use super::constrained;
use crate::gateway::target::registry::{GenerationDefaults, LocalModel};
use crate::gateway::wire::fields::{BadField, Fields, token_ids};
use crate::protocol::{SamplingParams, TokenId};
use crate::text::grammar::Grammar;
use crate::text::{AnswerFormat, ChatTemplate};

/// Choices of one request: `n` times its prompts.
pub const CHOICES_MAX: usize = 128;
/// Stop strings of one request.
pub const STOPS_MAX: usize = 16;
/// Bytes of a stop string: each choice keeps a table over it.
pub const STOP_BYTES_MAX: usize = 4096;
/// Alternatives per token in logprobs.
pub const TOP_LOGPROBS_MAX: i64 = 20;

/// What of the model matters for reading a request.
#[derive(Clone, Copy, Debug)]
pub struct ModelView<'a> {
    /// Number of token ids.
    pub vocab: usize,
    /// Ids that end a turn.
    pub eos: &'a [TokenId],
    /// What absent fields take.
    pub defaults: &'a GenerationDefaults,
    /// Which variables it reads decides which fields can be done.
    pub template: Option<&'a ChatTemplate>,
    /// How it writes reasoning and calls of tools.
    pub answer_format: AnswerFormat,
}

impl<'a> ModelView<'a> {
    /// The view of a loaded model.
    pub fn of(model: &'a LocalModel) -> Self {
        let eos = model.tokenizer.as_ref().map_or(&[][..], |tokenizer| tokenizer.eos_ids());
        let template = model.template.as_deref().ok();
        let answer_format = model.answer_format;
        Self { vocab: model.vocab, eos, defaults: &model.defaults, template, answer_format }
    }

    /// Whether it can be offered tools.
    pub fn can_call(&self) -> bool {
        self.answer_format.tools.is_some() && self.template.is_some_and(|template| template.reads("tools"))
    }
}

/// Where reasoning is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReasoningShown {
    /// Apart from the answer's text.
    #[default]
    Apart,
    /// In the text, with its tags, as the model wrote it.
    InText,
    /// Nowhere.
    Never,
}

/// The shared fields, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// All but `max_tokens`, which depends on the prompt's length.
    pub sampling: SamplingParams,
    /// Output tokens at the most, where the caller said so.
    pub max_tokens: Option<u32>,
    /// Choices per prompt.
    pub n: u32,
    /// Stop strings.
    pub stops: Vec<String>,
    /// Leave the stop string (or stop token) in the text.
    pub include_stop: bool,
    /// Leave special tokens out of the text.
    pub skip_special: bool,
    /// Report prompt and output token ids.
    pub return_token_ids: bool,
    /// Report output token ids in a stream, by which it can go on at another node.
    pub resumable: bool,
    /// Of a request that goes on here: per choice its output so far, None where it has ended. Empty: a
    /// new request.
    pub generated: Vec<Option<Vec<TokenId>>>,
    /// Name tokens `token_id:ID` in logprobs, which is exact where texts are not.
    pub tokens_as_ids: bool,
    /// Where reasoning is told.
    pub reasoning: ReasoningShown,
    /// What the answer must be, and the field that says so.
    pub grammar: Option<(String, Grammar)>,
    /// Tokens of reasoning at the most.
    pub reasoning_budget: Option<u32>,
    /// How to stream, if at all.
    pub stream: Option<StreamOptions>,
}

/// `stream_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// A last chunk with the usage and no choices.
    pub include_usage: bool,
    /// The usage so far in every chunk.
    pub continuous_usage_stats: bool,
}

impl Params {
    /// Reads and checks everything; logprobs are the endpoint's own business.
    pub fn read(fields: &Fields<'_>, model: ModelView<'_>) -> Result<Self, BadField> {
        refuse(fields)?;
        let max_tokens = max_tokens(fields)?;
        let sampling = sampling(fields, model, max_tokens)?;
        let n = fields.integer("n", 1, CHOICES_MAX as i64)?.unwrap_or(1) as u32;
        Ok(Self {
            resumable: fields.flag("resumable", false)?,
            generated: generated(fields, n, &sampling, model.vocab)?,
            sampling,
            max_tokens,
            n,
            stops: stops(fields)?,
            include_stop: fields.flag("include_stop_str_in_output", false)?,
            skip_special: fields.flag("skip_special_tokens", true)?,
            return_token_ids: fields.flag("return_token_ids", false)?,
            tokens_as_ids: fields.flag("return_tokens_as_token_ids", false)?,
            reasoning: reasoning_shown(fields)?,
            grammar: constrained::read(fields)?,
            reasoning_budget: constrained::reasoning_budget(fields)?,
            stream: stream(fields)?,
        })
    }
}

/// `resume_token_ids`: for each choice a list of token ids, or null where it has ended.
fn generated(
    fields: &Fields<'_>,
    n: u32,
    sampling: &SamplingParams,
    vocab: usize,
) -> Result<Vec<Option<Vec<TokenId>>>, BadField> {
    let name = "resume_token_ids";
    let Some(items) = fields.array(name)? else { return Ok(Vec::new()) };
    if items.len() != n as usize || items.iter().all(serde_json::Value::is_null) {
        let allowed = format!("must have a list or null for each of {n} choices, and not null for all");
        return Err(BadField::new(name, allowed));
    }
    if fields.get("seed").is_none() && sampling.temperature > 0.0 {
        return Err(BadField::new(name, "needs the `seed` of the request that it goes on with"));
    }
    let choice = |(index, item): (usize, &serde_json::Value)| {
        let path = format!("{name}[{index}]");
        let items = match item {
            serde_json::Value::Null => return Ok(None),
            serde_json::Value::Array(items) => items,
            other => return Err(BadField::wrong_type(path, "a list of token ids or null", other)),
        };
        let ids = token_ids(&path, items, vocab)?;
        let ended = ids.last().is_some_and(|last| sampling.stop_tokens.contains(last));
        if ended || ids.len() >= sampling.max_tokens as usize {
            return Err(BadField::new(path, "has come to its end: there is no next token"));
        }
        Ok(Some(ids))
    };
    items.iter().enumerate().map(choice).collect()
}

fn refuse(fields: &Fields<'_>) -> Result<(), BadField> {
    if let Some(modalities) = fields.array("modalities")?
        && modalities.iter().any(|m| m.as_str() != Some("text"))
    {
        return Err(BadField::unsupported("modalities", "must be [\"text\"]"));
    }
    // Its tags are for records: of another type there are none, and nobody would miss them until the bill.
    fields.object("metadata")?;
    Ok(())
}

/// By vLLM's `include_reasoning`, SGLang's `separate_reasoning` and llama-server's `reasoning_format`.
fn reasoning_shown(fields: &Fields<'_>) -> Result<ReasoningShown, BadField> {
    let apart = match fields.str("reasoning_format")? {
        None | Some("auto" | "deepseek") => true,
        Some("none") => false,
        Some(other) => {
            let reason = format!("must be auto, deepseek or none, got `{other}`");
            return Err(BadField::unsupported("reasoning_format", reason));
        }
    };
    Ok(match (fields.flag("include_reasoning", true)?, apart && fields.flag("separate_reasoning", true)?) {
        (false, _) => ReasoningShown::Never,
        (true, true) => ReasoningShown::Apart,
        (true, false) => ReasoningShown::InText,
    })
}

fn max_tokens(fields: &Fields<'_>) -> Result<Option<u32>, BadField> {
    // A prompt that is echoed may be all of the answer.
    let low = if fields.get("echo").is_some_and(|echo| *echo == true) { 0 } else { 1 };
    let old = fields.u32("max_tokens", low)?;
    let new = fields.u32("max_completion_tokens", 1)?;
    match (old, new) {
        (Some(a), Some(b)) if a != b => Err(BadField::new(
            "max_completion_tokens",
            format!("must equal max_tokens where both are given, got {b} and {a}"),
        )),
        _ => Ok(new.or(old)),
    }
}

fn sampling(
    fields: &Fields<'_>,
    model: ModelView<'_>,
    max_tokens: Option<u32>,
) -> Result<SamplingParams, BadField> {
    let defaults = model.defaults.sampling;
    let mut stop_tokens = match fields.array("stop_token_ids")? {
        None => Vec::new(),
        Some(items) => token_ids("stop_token_ids", items, model.vocab)?,
    };
    if !fields.flag("ignore_eos", false)? {
        stop_tokens.extend(model.eos);
    }
    stop_tokens.sort_unstable();
    stop_tokens.dedup();
    let seed = fields.bits("seed")?.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let params = SamplingParams {
        temperature: fields.f32("temperature")?.or(defaults.temperature).unwrap_or(1.0),
        top_p: fields.f32("top_p")?.or(defaults.top_p).unwrap_or(1.0),
        top_k: match fields.integer("top_k", -1, i64::from(i32::MAX))? {
            // -1 is vLLM's spelling of "all".
            Some(k) => k.max(0) as u32,
            None => defaults.top_k.unwrap_or(0),
        },
        min_p: fields.f32("min_p")?.or(defaults.min_p).unwrap_or(0.0),
        presence_penalty: fields.f32("presence_penalty")?.unwrap_or(0.0),
        frequency_penalty: fields.f32("frequency_penalty")?.unwrap_or(0.0),
        repetition_penalty: fields.f32("repetition_penalty")?.or(defaults.repetition_penalty).unwrap_or(1.0),
        logit_bias: logit_bias(fields, model.vocab)?,
        seed,
        max_tokens: max_tokens.map_or(u32::MAX, |max| max.max(1)),
        min_tokens: fields.u32("min_tokens", 0)?.unwrap_or(0),
        stop_tokens,
        logprobs: None,
        prompt_logprobs: None,
    };
    params.validate().map_err(|e| BadField::new(e.param, e.reason))?;
    Ok(params)
}

fn logit_bias(fields: &Fields<'_>, vocab: usize) -> Result<Vec<(TokenId, f32)>, BadField> {
    let Some(object) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let entry = |key: &String| {
        let path = object.path(key);
        let id = match key.parse::<u32>() {
            Ok(id) if (id as usize) < vocab => id,
            _ => {
                return Err(BadField::new(
                    path,
                    format!("is not a token id: keys of logit_bias are integers below {vocab}"),
                ));
            }
        };
        let bias = object.f32(key)?.unwrap_or(0.0);
        if !(-100.0..=100.0).contains(&bias) {
            return Err(BadField::new(path, format!("must be between -100 and 100, got {bias}")));
        }
        Ok((id, bias))
    };
    object.map().keys().map(entry).collect()
}

fn stops(fields: &Fields<'_>) -> Result<Vec<String>, BadField> {
    let items = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(serde_json::Value::Array(items)) => items.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    if items.len() > STOPS_MAX {
        return Err(BadField::new(
            "stop",
            format!("must have at most {STOPS_MAX} strings, got {}", items.len()),
        ));
    }
    let many = fields.get("stop").is_some_and(|stop| stop.is_array());
    let path = |i| if many { format!("stop[{i}]") } else { "stop".to_owned() };
    let string = |(i, item): (usize, &serde_json::Value)| match item.as_str() {
        Some(s) if s.len() > STOP_BYTES_MAX => {
            Err(BadField::new(path(i), format!("must have at most {STOP_BYTES_MAX} bytes, got {}", s.len())))
        }
        Some(s) if !s.is_empty() => Ok(s.to_owned()),
        _ => {
            Err(BadField::new(path(i), "must be a non-empty string (`stop` is one string or a list of them)"))
        }
    };
    items.iter().enumerate().map(string).collect()
}

fn stream(fields: &Fields<'_>) -> Result<Option<StreamOptions>, BadField> {
    let options = match fields.object("stream_options")? {
        None => StreamOptions::default(),
        Some(options) => StreamOptions {
            include_usage: options.flag("include_usage", false)?,
            continuous_usage_stats: options.flag("continuous_usage_stats", false)?,
        },
    };
    let stream = fields.flag("stream", false)?;
    if !stream && fields.get("stream_options").is_some() {
        return Err(BadField::new("stream_options", "is only allowed when `stream` is true"));
    }
    Ok(stream.then_some(options))
}
