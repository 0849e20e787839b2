//! Reasoning as callers carry it back: `encrypted_content` of a reasoning item. Ours holds the reasoning's text
//! with its signatures, and redacted pieces, so that it is whole even where a client sends nothing else of the
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

/// The pieces of one reasoning item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Whose signatures these are, by OpenRouter's names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// In order.
    #[serde(default)]
    pub pieces: Vec<Piece>,
}

/// Text with its signature, or what only its maker can read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Piece {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

impl Envelope {
    /// As `encrypted_content`. What came encrypted from a Responses provider, and nothing else, goes out as it
    /// came.
    pub fn seal(&self) -> String {
        if let [Piece { signature: None, data: Some(data), .. }] = self.pieces.as_slice()
            && let Some(foreign) = data.strip_prefix(FOREIGN)
        {
            return foreign.to_owned();
        }
        format!("{OURS}{}", serde_json::to_string(self).expect("strings only"))
    }

    /// Reads `encrypted_content`; None for one of ours that is damaged.
    pub fn open(encrypted: &str) -> Option<Self> {
        match encrypted.strip_prefix(OURS) {
            Some(json) => serde_json::from_str(json).ok(),
            None => {
                let piece = Piece { data: Some(mark_foreign(encrypted)), ..Piece::default() };
                Some(Self { format: Some(FOREIGN_FORMAT.to_owned()), pieces: vec![piece] })
            }
        }
    }

    /// All of its text.
    pub fn text(&self) -> String {
        self.pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    /// Whether a provider needs more of it back than its text.
    pub fn is_signed(&self) -> bool {
        self.pieces.iter().any(|piece| piece.signature.is_some() || piece.data.is_some())
    }

    /// Adds its signed and redacted pieces as `reasoning_details` of a chat completion's message.
    pub fn push_details(&self, details: &mut Vec<Value>) {
        for piece in &self.pieces {
            let mut detail = match (&piece.signature, &piece.data) {
                (Some(signature), _) => {
                    json!({"type": "reasoning.text", "text": piece.text, "signature": signature})
                }
                (None, Some(data)) => json!({"type": "reasoning.encrypted", "data": data}),
                (None, None) => continue,
            };
            detail["index"] = details.len().into();
            if let Some(format) = &self.format {
                detail["format"] = format.as_str().into();
            }
            details.push(detail);
        }
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
