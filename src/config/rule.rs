//! Routing rules: a condition over a request's facts, and what is chosen.

pub use super::expression::Expression;

/// What may be asked for by a rule, a named route or a caller. Names are those of models or named
/// routes; aliases have been followed.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// One name.
    Model(String),
    /// In order: the next one when one fails.
    Chain(Vec<String>),
    /// The one of these with the lowest expected cost that can do the request; none named: of all.
    Cheapest(Vec<String>),
    /// One by weight (each at least 1), the same for a key or a conversation.
    Split(Vec<(String, u32)>),
}

/// A rule of `routes`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// None: `default`.
    pub condition: Option<Expression>,
    /// What it chooses.
    pub choice: Choice,
    /// Tried in order when the choice fails, before the models' own fallbacks.
    pub fallback: Vec<String>,
    /// Where it stands in the file.
    pub line: usize,
}

/// What is known of a request when it is routed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Tokens of the prompt.
    pub context_length: u64,
    /// As named by the caller or inferred. Also under the name `task_type`.
    pub task: String,
    /// Dollars for this request; None: no bound (compares as more than any number).
    pub budget: Option<f64>,
    /// As the caller named it.
    pub model: String,
    /// The request's path.
    pub path: String,
    /// The key's name; empty without keys.
    pub key: String,
    /// Lower-case names; only those that some rule asks for need be here.
    pub headers: Vec<(String, String)>,
    /// Images in the messages.
    pub images: u64,
    /// Tools offered.
    pub tools: u64,
    /// Seconds since 1970, for `hour` (0..23, UTC) and `weekday` (1 Monday..7 Sunday).
    pub unix_s: u64,
}
