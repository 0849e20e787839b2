//! Reasoning as callers carry it back: `encrypted_content` of a reasoning item. Ours holds the reasoning's text
//! with its signature, or a redacted piece, so that it is whole even where a client sends nothing else of the
//! item back. It is JSON behind a name with a version; nothing is encrypted, since the text stands beside it.
//!
//! What another server encrypted is carried as it is, as a redacted piece behind a mark of its own: only a
//! provider that speaks Responses is sent it back.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const OURS: &str = "novastack/1:";
/// Stands before a Responses provider's own `encrypted_content` where it travels as redacted reasoning.
const FOREIGN: &str = "openai-responses:";
/// OpenRouter's name for that format.
const FOREIGN_FORMAT: &str = "openai-responses-v1";

/// A piece of reasoning: its text, with a signature if it has one, or what only its maker can read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Whose signature or secret this is, by OpenRouter's names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The maker's signature of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// What stands in its place where it was redacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

impl Envelope {
    /// As `encrypted_content`. What came encrypted from a Responses provider goes out as it came.
    pub fn seal(&self) -> String {
        match self.data.as_deref().and_then(foreign) {
            Some(foreign) => foreign.to_owned(),
            None => format!("{OURS}{}", serde_json::to_string(self).expect("strings only")),
        }
    }

    /// Reads `encrypted_content` of ours; None for another server's, and for one that is damaged.
    pub fn ours(encrypted: &str) -> Option<Self> {
        serde_json::from_str(encrypted.strip_prefix(OURS)?).ok()
    }

    /// Reads `encrypted_content`; None for one of ours that is damaged.
    pub fn open(encrypted: &str) -> Option<Self> {
        if encrypted.starts_with(OURS) {
            return Self::ours(encrypted);
        }
        let (format, data) = (Some(FOREIGN_FORMAT.to_owned()), Some(mark_foreign(encrypted)));
        Some(Self { format, data, ..Self::default() })
    }

    /// Whether its maker needs more of it back than its text.
    pub fn is_signed(&self) -> bool {
        self.signature.is_some() || self.data.is_some()
    }

    /// Adds it as one of the `reasoning_details` of a chat completion's message, if it is signed.
    pub fn push_detail(&self, details: &mut Vec<Value>) {
        let mut detail = match (&self.signature, &self.data) {
            (Some(signature), _) => {
                json!({"type": "reasoning.text", "text": self.text, "signature": signature})
            }
            (None, Some(data)) => json!({"type": "reasoning.encrypted", "data": data}),
            (None, None) => return,
        };
        detail["index"] = details.len().into();
        if let Some(format) = &self.format {
            detail["format"] = format.as_str().into();
        }
        details.push(detail);
    }
}

/// A Responses provider's `encrypted_content` as the data of redacted reasoning.
pub fn mark_foreign(encrypted: &str) -> String {
    format!("{FOREIGN}{encrypted}")
}

/// The `encrypted_content` in the data of redacted reasoning, if it is a Responses provider's.
pub fn foreign(data: &str) -> Option<&str> {
    data.strip_prefix(FOREIGN)
}
