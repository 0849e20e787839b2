//! What an upstream is sent for a caller's request.

use super::anthropic::fit as anthropic;
use super::openai::fit as openai;
use super::{Dialect, to_anthropic, to_openai};
use crate::config::Compat;
use crate::gateway::wire::fields::BadField;
use serde_json::Value;

/// Tokens of an answer from Anthropic's API where an OpenAI caller sets no bound: theirs is required.
const ANTHROPIC_MAX_TOKENS: u64 = 8192;

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// What it speaks.
    pub dialect: Dialect,
    /// Its name for the model.
    pub model: &'a str,
    /// How its format differs, where it is OpenAI's.
    pub compat: &'a Compat,
}

/// A caller's body for an upstream. In the caller's own dialect everything passes through but what the
/// upstream is known to refuse or to call otherwise; else it is translated. An error names the field
/// of the caller's body that cannot be.
pub fn for_upstream(from: Dialect, body: &Value, to: &Peer) -> Result<Value, BadField> {
    let mut out = match (from, to.dialect) {
        (Dialect::OpenAi, Dialect::Anthropic) => return to_anthropic(body, to.model, ANTHROPIC_MAX_TOKENS),
        (Dialect::Anthropic, Dialect::OpenAi) => to_openai(body, to.compat)?,
        (Dialect::OpenAi, Dialect::OpenAi) | (Dialect::Anthropic, Dialect::Anthropic) => body.clone(),
    };
    if let Some(out) = out.as_object_mut() {
        out.insert("model".into(), to.model.into());
        match (from, to.dialect) {
            (Dialect::OpenAi, Dialect::OpenAi) => openai::passed(out, to.compat),
            (Dialect::Anthropic, Dialect::Anthropic) => anthropic::passed(out, to.model),
            _ => {}
        }
    }
    Ok(out)
}
