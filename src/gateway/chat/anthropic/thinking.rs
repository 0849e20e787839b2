//! What an OpenAI caller says about reasoning ([`reasoning::of_openai`]) as Anthropic's thinking.
//!
//! | model | said | becomes |
//! | --- | --- | --- |
//! | Claude to 4.5, other makers' models | off | `thinking` disabled |
//! | | minimal, low, medium, high, above | `thinking` with a budget of 1024, 2048, 8192, 24576, 32768 tokens |
//! | | on, a budget | as medium; a budget of so many, at least 1024 |
//! | Claude from 4.6 (they adapt; later ones refuse a budget) | off | `thinking` disabled |
//! | | minimal, other words | `thinking` adaptive, `output_config.effort` low, the same word |
//! | | on, a budget | adaptive; and an effort of low, medium or high |
//!
//! Nothing said: no thinking asked for. A `thinking` object that fits the model goes out as it came.
//! OpenAI's bound on tokens holds thinking and answer, so a budget takes at most half of a bound that
//! the caller gave, and there is no thinking where half is less than Anthropic's least budget; it is
//! added to a default bound. Thinking with a budget cannot go on from a last answer that called tools
//! and whose thinking is not there, and none goes with a forced tool: then it is left out, as it is a
//! hint. A Claude model that thinks takes no `temperature` but 1, no `top_p` under 0.95 and no `top_k`:
//! refused (<https://platform.claude.com/docs/en/build-with-claude/extended-thinking>).

use super::super::reasoning::{self, Wanted};
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};

/// Anthropic's least budget, in tokens.
const BUDGET_TOKENS_MIN: u64 = 1024;

/// Names that begin like this are Claude models that take a budget only.
const BUDGETED: [&str; 11] = [
    "claude-2",
    "claude-3",
    "claude-instant",
    "claude-opus-4-0",
    "claude-opus-4-1",
    "claude-opus-4-2025",
    "claude-opus-4-5",
    "claude-sonnet-4-0",
    "claude-sonnet-4-2025",
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
];

/// What becomes of the effort and the bound on tokens.
pub(super) struct Thinking {
    pub max_tokens: u64,
    pub thinking: Option<Value>,
    pub output_config: Map<String, Value>,
}

/// Whether this is one of Anthropic's own models, `anthropic/claude-...` and the like included.
pub(in super::super) fn is_claude(model: &str) -> bool {
    bare_name(model).starts_with("claude")
}

fn bare_name(model: &str) -> &str {
    model.find("claude").map_or(model, |at| &model[at..])
}

fn adapts(model: &str) -> bool {
    let name = bare_name(model).replace('.', "-");
    name.starts_with("claude") && !BUDGETED.iter().any(|old| name.starts_with(old))
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
    let adaptive = adapts(around.model);
    let budget: u64 = match wanted {
        Wanted::Off => {
            result.thinking = Some(json!({"type": "disabled"}));
            return Ok(result);
        }
        Wanted::Budget(tokens) => tokens.max(BUDGET_TOKENS_MIN),
        Wanted::Effort("minimal") => BUDGET_TOKENS_MIN,
        Wanted::Effort("low") => 2048,
        Wanted::On | Wanted::Effort("medium") => 8192,
        Wanted::Effort("high") => 24576,
        Wanted::Effort("xhigh" | "max") => 32768,
        Wanted::Effort(other) => {
            let words = "none, minimal, low, medium, high, xhigh or max";
            return Err(BadField::new("reasoning_effort", format!("must be {words}, got `{other}`")));
        }
    };
    if let Some(effort) = wanted.effort().filter(|_| adaptive) {
        let effort = if effort == "minimal" { "low" } else { effort };
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
        Ok(Some("enabled")) => thinking.get("budget_tokens").is_some() && !adapts(model),
        Ok(Some("adaptive")) => adapts(model),
        _ => false,
    }
}

/// What a Claude model that thinks refuses.
fn check(body: &Fields, model: &str, result: Thinking) -> Result<Thinking, BadField> {
    if !is_claude(model) || result.thinking.is_none() {
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
