//! What an upstream is sent for a caller's request.

use super::anthropic::{cache, fit as anthropic};
use super::openai::fit as openai;
use super::openai::request::to_openai_model;
use super::responses::upstream::to_responses;
use super::{Dialect, Takes, noise, takes, to_anthropic};
use crate::config::Compat;
use crate::gateway::wire::fields::BadField;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write;

/// Of a caller's own name for a user or a prefix, in OpenAI's API
/// (<https://platform.openai.com/docs/api-reference/chat/create>).
const OPENAI_NAME_CHARS_MAX: usize = 64;
/// The same of `metadata.user_id` in Anthropic's (<https://docs.anthropic.com/en/api/messages>).
const ANTHROPIC_NAME_CHARS_MAX: usize = 256;
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
    /// What this model of its takes.
    pub takes: Takes,
}

/// A caller's body for an upstream. In the caller's own dialect everything passes through but what the
/// upstream is known to refuse or to call otherwise; else it is translated. An error names the field
/// of the caller's body that cannot be.
pub fn for_upstream(from: Dialect, body: &Value, to: &Peer) -> Result<Value, BadField> {
    if to.dialect == Dialect::Responses {
        return to_responses(&for_upstream(from, body, &Peer { dialect: Dialect::OpenAi, ..*to })?);
    }
    to.takes.check_images(body)?;
    let mut body = Cow::Borrowed(body);
    if !to.takes.capabilities.reasoning && takes::says_reasoning(&body) {
        // Before it can be in the way of anything else.
        body.to_mut().as_object_mut().into_iter().for_each(takes::forget_reasoning);
    }
    let mut out = match (from, to.dialect) {
        (Dialect::OpenAi | Dialect::Responses, Dialect::Anthropic) => {
            to_anthropic(&body, to.model, ANTHROPIC_MAX_TOKENS)?
        }
        (Dialect::Anthropic, Dialect::OpenAi | Dialect::Responses) => {
            to_openai_model(&body, Some(to.model), to.compat)?
        }
        _ => body.into_owned(),
    };
    if let Some(out) = out.as_object_mut() {
        out.insert("model".into(), to.model.into());
        if to.takes.drop_noise {
            noise::drop(out, to.dialect);
        }
        match (from, to.dialect) {
            (Dialect::OpenAi, Dialect::OpenAi) => openai::passed(out, to.compat),
            (Dialect::Anthropic, Dialect::Anthropic) => anthropic::passed(out, to.model),
            (Dialect::OpenAi, Dialect::Anthropic) if to.takes.cache_control => cache::mark(out),
            _ => {}
        }
        if to.dialect == Dialect::Anthropic {
            anthropic::sampling(out, to.model);
        }
        to.takes.fit(out, to.dialect)?;
        hash_long_names(out, to.dialect);
    }
    Ok(out)
}

/// Names of users that are longer than the API takes go as their SHA-256: the same one each time, and nobody
/// else's. Claude Code's are some 150 characters.
pub fn hash_long_names(body: &mut Map<String, Value>, dialect: Dialect) {
    let hash = |name: &mut Value, chars_max: usize| {
        if let Some(text) = name.as_str().filter(|text| text.chars().count() > chars_max) {
            let hex = Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            *name = hex.into();
        }
    };
    match dialect {
        Dialect::OpenAi | Dialect::Responses => {
            for name in ["user", "safety_identifier", "prompt_cache_key"] {
                body.get_mut(name).into_iter().for_each(|name| hash(name, OPENAI_NAME_CHARS_MAX));
            }
        }
        Dialect::Anthropic => {
            let metadata = body.get_mut("metadata").and_then(Value::as_object_mut);
            let name = metadata.and_then(|metadata| metadata.get_mut("user_id"));
            name.into_iter().for_each(|name| hash(name, ANTHROPIC_NAME_CHARS_MAX));
        }
    }
}
