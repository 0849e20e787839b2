//! How much a caller wants a model to think first, in every spelling that providers have for it:
//! read into [`Wanted`], written as the provider has it ([`ReasoningSwitch`]).
//!
//! It is a hint: what a provider has no word for is left out. A budget becomes an effort, low below
//! 4096 tokens, medium below 16384, else high, and an effort a budget of 1024 (minimal), 2048 (low) or
//! 8192 (medium) tokens; higher ones leave the bound to the model. OpenAI's format has no word for
//! "off" that all its models take, so with it nothing is said.
//!
//! In Anthropic's format who leaves `thinking` out wants none: an `output_config.effort` alone says how thorough
//! the answer is to be, and is how Claude Code has thinking turned off. Elsewhere an effort is an effort of thinking,
//! so that this one becomes "off". A body with neither says nothing, and each model does as it does by itself.

use crate::config::{Compat, ReasoningSwitch};
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Map, Value, json};

/// Budgets of thinking from which effort is medium and high, in tokens.
const EFFORT_MEDIUM_TOKENS: u64 = 4096;
const EFFORT_HIGH_TOKENS: u64 = 16384;

/// What a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// No thinking.
    Off,
    /// Thinking, as much as the model likes.
    On,
    /// `minimal`, `low`, `medium`, `high`, `xhigh`, `max`, or another word of the caller's.
    Effort(&'a str),
    /// Thinking of at most this many tokens.
    Budget(u64),
}

impl<'a> Wanted<'a> {
    fn of_effort(word: &'a str) -> Self {
        if word == "none" { Self::Off } else { Self::Effort(word) }
    }

    fn of_switch(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }

    /// The effort's word, where there is one.
    pub fn effort(&self) -> Option<&'a str> {
        match self {
            Self::Off | Self::On => None,
            Self::Effort(word) => Some(word),
            Self::Budget(0..EFFORT_MEDIUM_TOKENS) => Some("low"),
            Self::Budget(EFFORT_MEDIUM_TOKENS..EFFORT_HIGH_TOKENS) => Some("medium"),
            Self::Budget(_) => Some("high"),
        }
    }

    /// The tokens of a budget; None where the model's own bound is the right one.
    fn budget(&self) -> Option<u64> {
        match self {
            Self::Budget(tokens) => Some(*tokens),
            Self::Effort("minimal") => Some(1024),
            Self::Effort("low") => Some(2048),
            Self::Effort("medium") => Some(8192),
            Self::Effort(_) | Self::Off | Self::On => None,
        }
    }
}

/// A `thinking` object: Anthropic's, and that of DeepSeek, Moonshot and MiniMax, whose budget is none.
fn of_thinking<'a>(thinking: &Fields<'a>) -> Result<Wanted<'a>, BadField> {
    match thinking.required_str("type", "enabled, adaptive or disabled")? {
        "enabled" => match thinking.integer("budget_tokens", 1, i64::MAX)? {
            Some(tokens) => Ok(Wanted::Budget(tokens as u64)),
            None => Ok(Wanted::On),
        },
        "adaptive" => Ok(Wanted::On),
        "disabled" => Ok(Wanted::Off),
        other => {
            let reason = format!("must be enabled, adaptive or disabled, got `{other}`");
            Err(BadField::new(thinking.path("type"), reason))
        }
    }
}

/// What a body in Anthropic's format says. An effort counts before a budget.
pub fn of_anthropic<'a>(body: &Fields<'a>) -> Result<Option<Wanted<'a>>, BadField> {
    let thinking = body.object("thinking")?;
    if let Some(thinking) = &thinking
        && thinking.str("type")? == Some("enabled")
        && thinking.get("budget_tokens").is_none()
    {
        return Err(BadField::missing(thinking.path("budget_tokens"), "a number of tokens"));
    }
    let wanted = thinking.as_ref().map(of_thinking).transpose()?;
    let config = body.object("output_config")?;
    let effort = config.as_ref().map(|config| config.str("effort")).transpose()?.flatten();
    Ok(match (wanted, effort) {
        (Some(Wanted::Off), _) | (_, None) => wanted,
        (None, Some(_)) => Some(Wanted::Off),
        (Some(_), Some(effort)) => Some(Wanted::Effort(effort)),
    })
}

/// Whether a body in Anthropic's format wants no thinking without saying so in as many words: a model that
/// cannot do without may think.
pub fn is_off_by_effort_alone(body: &Value) -> bool {
    let said = |value: &Value| !value.is_null();
    !body.get("thinking").is_some_and(said) && said(&body["output_config"]["effort"])
}

/// What a body in OpenAI's format says, in OpenAI's own spelling or in one of its kin's.
pub fn of_openai<'a>(body: &Fields<'a>) -> Result<Option<Wanted<'a>>, BadField> {
    if let Some(effort) = body.str("reasoning_effort")? {
        return match body.object("thinking")?.as_ref().map(of_thinking).transpose()? {
            Some(Wanted::Off) => Ok(Some(Wanted::Off)),
            _ => Ok(Some(Wanted::of_effort(effort))),
        };
    }
    if let Some(thinking) = body.object("thinking")? {
        return of_thinking(&thinking).map(Some);
    }
    if let Some(reasoning) = body.object("reasoning")? {
        return Ok(match (reasoning.str("effort")?, reasoning.integer("max_tokens", 1, i64::MAX)?) {
            (Some(effort), _) => Some(Wanted::of_effort(effort)),
            (None, Some(tokens)) => Some(Wanted::Budget(tokens as u64)),
            (None, None) => reasoning.bool("enabled")?.map(Wanted::of_switch),
        });
    }
    if let Some(on) = body.bool("enable_thinking")? {
        let budget = body.integer("thinking_budget", -1, i64::MAX)?.filter(|budget| on && *budget > 0);
        return Ok(Some(
            budget.map_or_else(|| Wanted::of_switch(on), |tokens| Wanted::Budget(tokens as u64)),
        ));
    }
    let Some(arguments) = body.object("chat_template_kwargs")? else { return Ok(None) };
    let on = arguments.bool("enable_thinking")?.or(arguments.bool("thinking")?);
    Ok(on.map(Wanted::of_switch))
}

/// Says it as a provider of OpenAI's format has it.
pub fn write(wanted: Wanted, switch: ReasoningSwitch, out: &mut Map<String, Value>) {
    let kind = |on: &str| json!({"type": if wanted == Wanted::Off { "disabled" } else { on }});
    let mut put = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    match switch {
        ReasoningSwitch::None => {}
        ReasoningSwitch::OpenAi => {
            if let Some(effort) = wanted.effort() {
                put("reasoning_effort", effort.into());
            }
        }
        ReasoningSwitch::DeepSeek => {
            put("thinking", kind("enabled"));
            if let Some(effort) = wanted.effort() {
                put("reasoning_effort", effort.into());
            }
        }
        ReasoningSwitch::Moonshot => put("thinking", kind("enabled")),
        ReasoningSwitch::MiniMax => put("thinking", kind("adaptive")),
        ReasoningSwitch::DashScope => {
            put("enable_thinking", (wanted != Wanted::Off).into());
            if let Some(tokens) = wanted.budget() {
                put("thinking_budget", tokens.into());
            }
        }
        ReasoningSwitch::OpenRouter => {
            let reasoning = match wanted {
                Wanted::Off => json!({"effort": "none"}),
                Wanted::On => json!({"enabled": true}),
                // It has no word above.
                Wanted::Effort("max") => json!({"effort": "xhigh"}),
                Wanted::Effort(effort) => json!({"effort": effort}),
                Wanted::Budget(tokens) => json!({"max_tokens": tokens}),
            };
            put("reasoning", reasoning);
        }
        ReasoningSwitch::Template => {
            // These servers know three words.
            match wanted.effort() {
                Some("minimal") => put("reasoning_effort", "low".into()),
                Some("xhigh" | "max") => put("reasoning_effort", "high".into()),
                Some(effort) => put("reasoning_effort", effort.into()),
                None => {}
            }
            let arguments = out.entry("chat_template_kwargs").or_insert_with(|| json!({}));
            if let Some(arguments) = arguments.as_object_mut() {
                for name in ["enable_thinking", "thinking"] {
                    arguments.insert(name.to_owned(), (wanted != Wanted::Off).into());
                }
            }
        }
    }
}

/// Whether a body in OpenAI's format forces a tool's call.
fn forces_tool(body: &Map<String, Value>) -> bool {
    body.get("tool_choice").is_some_and(|choice| choice == "required" || choice.is_object())
}

/// What is wanted of a provider: no thinking where it does not go with a forced tool, which is firmer.
pub fn beside_tools<'a>(
    wanted: Option<Wanted<'a>>,
    compat: &Compat,
    body: &Map<String, Value>,
) -> Option<Wanted<'a>> {
    if forces_tool(body) && !compat.forced_tool_thinking { Some(Wanted::Off) } else { wanted }
}

/// Turns a caller's `reasoning_effort` into the provider's own way. What a caller wrote in a
/// provider's way stays as it is.
pub fn respell(compat: &Compat, body: &mut Map<String, Value>) {
    let own = ["thinking", "reasoning", "enable_thinking"].iter().any(|name| body.contains_key(*name))
        || body.get("chat_template_kwargs").is_some_and(|arguments| {
            ["enable_thinking", "thinking"].iter().any(|name| arguments.get(name).is_some())
        });
    if own {
        return;
    }
    let effort = body.get("reasoning_effort").and_then(Value::as_str).map(str::to_owned);
    let said = effort.as_deref().map(Wanted::of_effort);
    let Some(wanted) = beside_tools(said, compat, body) else { return };
    if said != Some(wanted) || compat.reasoning != ReasoningSwitch::OpenAi {
        body.remove("reasoning_effort");
        write(wanted, compat.reasoning, body);
    }
}
