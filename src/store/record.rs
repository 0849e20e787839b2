//! A usage record, and the ids that requests are recorded under.

use super::now_unix_ms;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer was sent.
    Completed,
    /// The caller went away; tokens are those that had come.
    Cancelled,
    /// The target failed, before or after its first byte.
    Failed,
}

/// What an operator should know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// The upstream said that it used more than it can have; what is above was cut.
    Bounded,
    /// The process was ended while the answer was on its way; tokens are those of a moment before.
    Interrupted,
    /// An operator has set other counts.
    Corrected,
}

impl Flag {
    /// As it is kept, in answers and in exports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bounded => "bounded",
            Self::Interrupted => "interrupted",
            Self::Corrected => "corrected",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Bounded, Self::Interrupted, Self::Corrected].into_iter().find(|flag| flag.as_str() == text)
    }
}

/// One attempt to answer a request by one target.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRecord {
    /// When the attempt began, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The request's id; its attempts share it.
    pub request_id: String,
    /// Which attempt of the request, from 1.
    pub attempt: u32,
    /// The key's name; empty without keys.
    pub key: String,
    /// What chose the model: a name, `auto:LINE`.
    pub route: String,
    /// Which arm a split on the way chose; one within another follows it after a `/`. None: no split did.
    pub arm: Option<String>,
    /// The model.
    pub model: String,
    /// Who served it; None: this process.
    pub provider: Option<String>,
    /// As named by the caller or inferred; empty where nobody asked.
    pub task: String,
    /// Tokens of the prompt, cached ones included.
    pub input_tokens: u64,
    /// Of those, from a cache.
    pub cached_tokens: u64,
    /// Generated.
    pub output_tokens: u64,
    /// The counts are our own: the target's were not seen.
    pub estimated: bool,
    /// What an operator should know.
    pub flag: Option<Flag>,
    /// Dollars; 0 without a price.
    pub cost: f64,
    /// From the attempt's begin to its end.
    pub latency_ms: u64,
    /// From the attempt's begin to the first text; None where there was none.
    pub ttft_ms: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// HTTP status that stands for the outcome.
    pub status: u16,
    /// Of the body's `metadata`, text values: (name, value).
    pub tags: Vec<(String, String)>,
}

/// An id for a request whose caller gave none. It begins with the time (UUID version 7), so that the index
/// of ids grows at its end: random ones cost the writer several times as much.
pub fn new_request_id() -> String {
    let random = uuid::Uuid::new_v4().into_bytes();
    // Without those two of the sixteen bytes that say which version it is.
    let random = std::array::from_fn(|at| if at < 6 { random[at] } else { random[at + 6] });
    uuid::Builder::from_unix_timestamp_millis(now_unix_ms(), &random).into_uuid().to_string()
}
