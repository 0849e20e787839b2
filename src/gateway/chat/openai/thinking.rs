//! Whether one of our models thinks before it answers. Chat templates switch it by variables of their
//! own: `enable_thinking` (Qwen, GLM, SmolLM3), `thinking` (DeepSeek, Granite, Kimi), `reasoning_effort`
//! (gpt-oss), `thinking_budget` (Seed-OSS). What a caller wants comes in as many spellings
//! ([`reasoning`]), and goes to those that the template reads.
//!
//! "Off" is a promise: where a template that makes its model think has no switch, it is refused, unless the caller
//! has not said it in as many words ([`IS_PROMISE`]). Every other wish is a hint, which a model without thinking
//! cannot follow and answers all the same.

use crate::gateway::chat::reasoning::{self, Wanted};
use crate::gateway::wire::fields::{BadField, Fields};
use crate::text::ChatTemplate;
use serde_json::{Map, Value};

/// A field of `thinking`: false where "off" only follows from what the caller has said, so that a model which
/// cannot be switched thinks all the same.
pub const IS_PROMISE: &str = "promise";

/// Variables that turn thinking on and off.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];
/// Words for how much to think, and what templates know of them.
const EFFORTS: [(&str, &str); 6] = [
    ("minimal", "low"),
    ("low", "low"),
    ("medium", "medium"),
    ("high", "high"),
    ("xhigh", "high"),
    ("max", "high"),
];

/// Sets the template's variables to what the caller wants. Without a template there is nothing to set.
pub fn switch(
    fields: &Fields<'_>,
    template: Option<&ChatTemplate>,
    variables: &mut Map<String, Value>,
) -> Result<(), BadField> {
    let wanted = reasoning::of_openai(fields)?;
    // -1 is the word for no bound.
    let budget = fields.integer("thinking_budget", -1, i64::from(u32::MAX))?.filter(|budget| *budget >= 0);
    let effort =
        variables.get("reasoning_effort").is_none().then(|| wanted.and_then(|wanted| wanted.effort()));
    let effort = match effort.flatten() {
        None => None,
        Some(word) => {
            let known = EFFORTS.iter().find(|(name, _)| *name == word);
            let words = "must be none, minimal, low, medium, high, xhigh or max";
            Some(known.ok_or_else(|| BadField::new(where_said(fields), words))?.1)
        }
    };
    let Some(template) = template else { return Ok(()) };
    if let Some(wanted) = wanted {
        let switches = SWITCHES.iter().filter(|name| template.reads(name));
        let can_switch = switches.clone().next().is_some();
        let is_promise = fields.get("thinking").is_none_or(|thinking| thinking[IS_PROMISE] != false);
        if wanted == Wanted::Off && is_promise && !can_switch && template.makes_think() {
            let why = "cannot be turned off: the model's chat template has no switch for it";
            return Err(BadField::unsupported(where_said(fields), why));
        }
        for name in SWITCHES {
            variables.shift_remove(name);
        }
        switches.for_each(|name| {
            variables.insert((*name).to_owned(), (wanted != Wanted::Off).into());
        });
    }
    if let Some(effort) = effort.filter(|_| template.reads("reasoning_effort")) {
        variables.insert("reasoning_effort".to_owned(), effort.into());
    }
    if let Some(budget) = budget.filter(|_| template.reads("thinking_budget")) {
        variables.insert("thinking_budget".to_owned(), budget.into());
    }
    Ok(())
}

/// The field that says what is wanted, in the order in which they count.
fn where_said(fields: &Fields<'_>) -> String {
    let effort = fields.get("reasoning_effort").is_some();
    let off = fields.get("thinking").is_some_and(|thinking| thinking["type"] == "disabled");
    if effort && !off {
        return fields.path("reasoning_effort");
    }
    let said = ["thinking", "reasoning", "enable_thinking"].iter().find(|name| fields.get(name).is_some());
    said.map_or_else(
        || {
            let arguments = fields.get("chat_template_kwargs");
            let own = SWITCHES.iter().find(|name| arguments.is_some_and(|it| it.get(**name).is_some()));
            format!("{}.{}", fields.path("chat_template_kwargs"), own.unwrap_or(&SWITCHES[0]))
        },
        |name| fields.path(name),
    )
}
