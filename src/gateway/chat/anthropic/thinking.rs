//! What an OpenAI caller says about reasoning ([`reasoning::of_openai`]) as Anthropic's thinking.
//!
//! | model | said | becomes |
//! | --- | --- | --- |
//! | Claude to 4.5, other makers' models | off | `thinking` disabled |
//! | | minimal, low, medium, high, above | `thinking` with a budget of 1024, 2048, 8192, 24576, 32768 tokens |
//! | | on, a budget | as medium; a budget of so many, at least 1024 |
//! | Claude from 4.6 (they adapt; later ones refuse a budget) | off | `thinking` disabled; nothing where the model thinks only when asked; effort low where it always thinks |
//! | | minimal, other words | `thinking` adaptive, `output_config.effort` low, the same word as far as the model goes |
//! | | on, a budget | adaptive; and an effort of low, medium or high |
//! | Claude before 3.7 | anything | nothing |
//!
//! Which model is which: models.rs.
//! Nothing said: no thinking asked for. A `thinking` object that fits the model goes out as it came.
//! OpenAI's bound on tokens holds thinking and answer, so a budget takes at most half of a bound that
//! the caller gave, and there is no thinking where half is less than Anthropic's least budget; it is
//! added to a default bound. Thinking with a budget cannot go on from a last answer that called tools
//! and whose thinking is not there, and none goes with a forced tool: then it is left out, as it is a
//! hint. A Claude model that thinks takes no `temperature` but 1, no `top_p` under 0.95 and no `top_k`:
//! refused (<https://platform.claude.com/docs/en/build-with-claude/extended-thinking>). Those from 4.7 on take none of
//! the three at all, thinking or not: they are left out there.

use super::super::reasoning::{self, Wanted};
use super::models::{Effort, Off, Thinks, claude};
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};

/// Anthropic's least budget, in tokens.
pub(super) const BUDGET_TOKENS_MIN: u64 = 1024;

/// What becomes of the effort and the bound on tokens.
pub(super) struct Thinking {
    pub max_tokens: u64,
    pub thinking: Option<Value>,
    pub output_config: Map<String, Value>,
}

/// Whether this is one of Anthropic's own models, `anthropic/claude-...` and the like included.
pub(in super::super) fn is_claude(model: &str) -> bool {
    claude(model).is_some()
}

/// How a model thinks; of other makers', as Claude did first.
fn thinks(model: &str) -> Thinks {
    claude(model).map_or(Thinks::Budget, |claude| claude.thinks)
}

/// The budget that is an effort for a model which takes only budgets.
pub(super) fn budget_of(wanted: Wanted) -> Option<u64> {
    match wanted {
        Wanted::Budget(tokens) => Some(tokens.max(BUDGET_TOKENS_MIN)),
        Wanted::Effort("minimal") => Some(BUDGET_TOKENS_MIN),
        Wanted::Effort("low") => Some(2048),
        Wanted::On | Wanted::Effort("medium") => Some(8192),
        Wanted::Effort("high") => Some(24576),
        Wanted::Effort("xhigh" | "max") => Some(32768),
        Wanted::Effort(_) | Wanted::Off => None,
    }
}

/// What a request says beside its reasoning, as far as it bears on thinking.
pub(super) struct Around<'a> {
    pub model: &'a str,
    /// The caller's bound on tokens, and what counts without one.
    pub max_tokens: Option<u64>,
    pub default_max_tokens: u64,
    /// The last answer called tools and its thinking is not there.
    pub calls_unthought: bool,
    /// A tool has to be called.
    pub forced_tool: bool,
}

pub(super) fn translate(body: &Fields, around: &Around) -> Result<Thinking, BadField> {
    let bound = around.max_tokens.unwrap_or(around.default_max_tokens);
    let mut result = Thinking { max_tokens: bound, thinking: None, output_config: Map::new() };
    let own = body.object("thinking")?;
    let Some(wanted) = reasoning::of_openai(body)? else { return Ok(result) };
    if let Some(thinking) = own.filter(|thinking| fits(thinking, around.model)) {
        let budget = thinking.integer("budget_tokens", 1, i64::MAX)?.unwrap_or(0) as u64;
        match around.max_tokens {
            Some(tokens) if budget >= tokens => {
                let reason = format!("must be below the {tokens} tokens of `max_tokens`, got {budget}");
                return Err(BadField::new(thinking.path("budget_tokens"), reason));
            }
            Some(_) => {}
            None => result.max_tokens = bound.saturating_add(budget),
        }
        result.thinking = Some(Value::Object(thinking.map().clone()));
        return check(body, around.model, result);
    }
    let thinks = thinks(around.model);
    let adaptive = matches!(thinks, Thinks::Either | Thinks::Adaptive);
    let budget = match (wanted, budget_of(wanted)) {
        (_, Some(budget)) => budget,
        (Wanted::Effort(other), None) => {
            let words = "none, minimal, low, medium, high, xhigh or max";
            return Err(BadField::new("reasoning_effort", format!("must be {words}, got `{other}`")));
        }
        _ if thinks == Thinks::Never => return Ok(result),
        _ => {
            match claude(around.model).map_or(Off::Disabled, |claude| claude.off) {
                Off::Disabled => result.thinking = Some(json!({"type": "disabled"})),
                Off::Unsaid => {}
                Off::Never => {
                    result.output_config.insert("effort".into(), "low".into());
                }
            }
            return Ok(result);
        }
    };
    if thinks == Thinks::Never {
        return Ok(result);
    }
    let taken = claude(around.model).map_or(Effort::None, |claude| claude.effort);
    if let Some(effort) = wanted.effort().filter(|_| adaptive).and_then(|word| taken.word(word)) {
        result.output_config.insert("effort".into(), effort.into());
    }
    if around.forced_tool {
        return Ok(result);
    }
    if adaptive {
        result.thinking = Some(json!({"type": "adaptive"}));
        return check(body, around.model, result);
    }
    let budget = match around.max_tokens {
        Some(tokens) => budget.min(tokens / 2),
        None => budget,
    };
    if budget >= BUDGET_TOKENS_MIN && !around.calls_unthought {
        if around.max_tokens.is_none() {
            result.max_tokens = bound.saturating_add(budget);
        }
        result.thinking = Some(json!({"type": "enabled", "budget_tokens": budget}));
    }
    check(body, around.model, result)
}

/// Whether a `thinking` object is one that this model takes; a budget is required with `enabled`.
fn fits(thinking: &Fields, model: &str) -> bool {
    match thinking.str("type") {
        Ok(Some("enabled")) => {
            thinking.get("budget_tokens").is_some()
                && matches!(thinks(model), Thinks::Budget | Thinks::Either)
        }
        Ok(Some("adaptive")) => matches!(thinks(model), Thinks::Either | Thinks::Adaptive),
        _ => false,
    }
}

/// What a Claude model that thinks refuses.
fn check(body: &Fields, model: &str, result: Thinking) -> Result<Thinking, BadField> {
    if claude(model).is_none_or(|claude| !claude.sampling) || result.thinking.is_none() {
        return Ok(result);
    }
    let refuse = |name: &str, reason: &str| {
        let reason = format!("{reason} for an Anthropic model that reasons; leave it or the reasoning out");
        Err(BadField::unsupported(name, reason))
    };
    if body.f32("temperature")?.is_some_and(|temperature| temperature != 1.0) {
        return refuse("temperature", "must be 1");
    }
    if body.f32("top_p")?.is_some_and(|top_p| top_p < 0.95) {
        return refuse("top_p", "must be at least 0.95");
    }
    if body.get("top_k").is_some() {
        return refuse("top_k", "is not possible");
    }
    Ok(result)
}
