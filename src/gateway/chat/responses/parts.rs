//! Parts of items: what each is called, in items and in events.

use serde_json::{Value, json};

/// A part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `output_text`.
    Text,
    /// `refusal`.
    Refusal,
}

impl Part {
    /// The name of its delta's event.
    pub fn delta(self) -> &'static str {
        match self {
            Self::Text => "response.output_text.delta",
            Self::Refusal => "response.refusal.delta",
        }
    }

    /// As JSON.
    pub fn value(self, text: &str, scores: Vec<Value>) -> Value {
        match self {
            Self::Text => {
                json!({"type": "output_text", "text": text, "annotations": [], "logprobs": scores})
            }
            Self::Refusal => json!({"type": "refusal", "refusal": text}),
        }
    }
}

/// The names of reasoning's events and fields.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ReasoningWay {
    pub field: &'static str,
    pub index: &'static str,
    pub kind: &'static str,
    pub part_added: &'static str,
    pub delta: &'static str,
    pub text_done: &'static str,
    pub part_done: &'static str,
}

/// The text itself.
pub static CONTENT: ReasoningWay = ReasoningWay {
    field: "content",
    index: "content_index",
    kind: "reasoning_text",
    part_added: "response.content_part.added",
    delta: "response.reasoning_text.delta",
    text_done: "response.reasoning_text.done",
    part_done: "response.content_part.done",
};

/// A summary.
pub static SUMMARY: ReasoningWay = ReasoningWay {
    field: "summary",
    index: "summary_index",
    kind: "summary_text",
    part_added: "response.reasoning_summary_part.added",
    delta: "response.reasoning_summary_text.delta",
    text_done: "response.reasoning_summary_text.done",
    part_done: "response.reasoning_summary_part.done",
};

impl ReasoningWay {
    /// A part of it.
    pub fn part(&self, text: &str) -> Value {
        json!({"type": self.kind, "text": text})
    }
}
