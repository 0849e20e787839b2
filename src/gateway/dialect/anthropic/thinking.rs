//! OpenAI's `reasoning_effort` as Anthropic's thinking.
//!
//! | model | effort | becomes |
//! | --- | --- | --- |
//! | Claude to 4.5, other makers' models | none | `thinking` disabled |
//! | | minimal, low, medium, high, above | `thinking` with a budget of 1024, 2048, 8192, 24576, 32768 tokens |
//! | Claude from 4.6 (they adapt; later ones refuse a budget) | none | `thinking` disabled |
//! | | minimal, other words | `thinking` adaptive, `output_config.effort` low, the same word |
//!
//! No effort: no thinking asked for. A `thinking` object in OpenAI's body (a common extension) counts
//! instead of the effort and goes out as it came. OpenAI's bound on tokens holds thinking and
//! answer, so a budget takes at most half of a bound that the caller gave, and there is no thinking
//! where half is less than Anthropic's least budget; it is added to a default bound. Thinking with a
//! budget cannot go on from a last answer that called tools and whose thinking is not there: then it
//! is left out.

use crate::gateway::openai::fields::{BadField, Fields};
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

/// Whether this is one of Anthropic's own models, `anthropic/claude-...` included.
pub(super) fn is_claude(model: &str) -> bool {
    bare_name(model).starts_with("claude")
}

fn bare_name(model: &str) -> &str {
    model.rsplit(['/', ':']).find(|part| part.starts_with("claude")).unwrap_or(model)
}

fn adapts(model: &str) -> bool {
    let name = bare_name(model).replace('.', "-");
    name.starts_with("claude") && !BUDGETED.iter().any(|old| name.starts_with(old))
}

/// `calls_unthought`: the last answer called tools and its thinking is not there.
pub(super) fn translate(
    body: &Fields,
    model: &str,
    max_tokens: Option<u64>,
    default_max_tokens: u64,
    calls_unthought: bool,
) -> Result<Thinking, BadField> {
    let mut result = Thinking {
        max_tokens: max_tokens.unwrap_or(default_max_tokens),
        thinking: None,
        output_config: Map::new(),
    };
    if let Some(thinking) = body.object("thinking")? {
        result.thinking = Some(Value::Object(thinking.map().clone()));
        return Ok(result);
    }
    let Some(effort) = body.str("reasoning_effort")? else { return Ok(result) };
    let budget: u64 = match effort {
        "none" => {
            result.thinking = Some(json!({"type": "disabled"}));
            return Ok(result);
        }
        "minimal" => BUDGET_TOKENS_MIN,
        "low" => 2048,
        "medium" => 8192,
        "high" => 24576,
        "xhigh" | "max" => 32768,
        other => {
            let words = "none, minimal, low, medium, high, xhigh or max";
            return Err(BadField::new("reasoning_effort", format!("must be {words}, got `{other}`")));
        }
    };
    if adapts(model) {
        let effort = if effort == "minimal" { "low" } else { effort };
        result.thinking = Some(json!({"type": "adaptive"}));
        result.output_config.insert("effort".into(), effort.into());
        return Ok(result);
    }
    let budget = match max_tokens {
        Some(tokens) => budget.min(tokens / 2),
        None => budget,
    };
    if budget >= BUDGET_TOKENS_MIN && !calls_unthought {
        if max_tokens.is_none() {
            result.max_tokens = default_max_tokens.saturating_add(budget);
        }
        result.thinking = Some(json!({"type": "enabled", "budget_tokens": budget}));
    }
    Ok(result)
}
