//! What an attempt used: one [`UsageRecord`] for each target that was asked, whatever became of it.
//!
//! An [`Attempt`] is opened when a target is asked and goes with its answer. Ended, it is recorded;
//! dropped, the caller has gone away, and it is recorded as cancelled, with what had come until then:
//! counted by ourselves where the target says its counts only at the end.

use super::dialect::{ChatEvent, Dialect, TokenUsage};
use super::local;
use super::metrics::AttemptMetrics;
use super::route::Target;
use super::usage;
use crate::config::Price;
use crate::store::{Outcome, UsageRecord};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where records go. Must not block.
pub type Sink = Arc<dyn Fn(UsageRecord) + Send + Sync>;

/// UTF-8 bytes of a token, where only text is known.
const BYTES_PER_TOKEN: usize = 4;

/// What all attempts of a request have in common.
#[derive(Clone)]
pub struct Account {
    /// The request's id.
    pub request_id: String,
    /// The key's name.
    pub key: String,
    /// What chose the targets.
    pub route: String,
    /// As named by the caller.
    pub task: String,
    /// Of the body's `metadata`.
    pub tags: Vec<(String, String)>,
    /// The prompt's tokens as far as its text tells.
    pub input_estimate: u64,
    /// Counts records.
    pub metrics: AttemptMetrics,
    /// Keeps them; None: nobody does.
    pub sink: Option<Sink>,
}

impl Account {
    /// The text values of a body's `metadata`, without those that routing reads.
    pub fn tags(body: &Value) -> Vec<(String, String)> {
        let metadata = body.get("metadata").and_then(Value::as_object).into_iter().flatten();
        let metadata = metadata.filter(|(name, _)| !["task", "budget"].contains(&name.as_str()));
        metadata.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    }

    /// Opens an attempt, the `number`-th of the request.
    pub fn attempt(&self, target: &Target, number: u32) -> Attempt {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let provider = target.upstream.as_ref();
        let record = UsageRecord {
            unix_ms: since.as_millis() as u64,
            request_id: self.request_id.clone(),
            attempt: number,
            key: self.key.clone(),
            route: self.route.clone(),
            model: target.model.name.clone(),
            provider: provider.map(|(upstream, _)| upstream.name().to_owned()),
            task: self.task.clone(),
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            estimated: false,
            cost: 0.0,
            latency_ms: 0,
            ttft_ms: None,
            outcome: Outcome::Cancelled,
            status: STATUS_CANCELLED,
            tags: self.tags.clone(),
        };
        Attempt {
            dialect: provider.map(|(upstream, _)| upstream.dialect()),
            input_estimate: self.input_estimate,
            price: target.model.price.clone(),
            record: Some(record),
            begun: Instant::now(),
            first: None,
            used: None,
            pieces: 0,
            bytes: 0,
            metrics: self.metrics.clone(),
            sink: self.sink.clone(),
        }
    }
}

/// "Client closed request", as nginx has it.
const STATUS_CANCELLED: u16 = 499;

/// An attempt under way.
pub struct Attempt {
    /// Taken when it is recorded.
    record: Option<UsageRecord>,
    /// The upstream's; None: one of our engines, whose counts are exact at any time.
    dialect: Option<Dialect>,
    begun: Instant,
    first: Option<Instant>,
    used: Option<TokenUsage>,
    /// Pieces of output, and their bytes.
    pieces: u64,
    bytes: usize,
    input_estimate: u64,
    price: Option<Price>,
    metrics: AttemptMetrics,
    sink: Option<Sink>,
}

impl Attempt {
    /// Looks at events of an answer.
    pub fn events(&mut self, events: &[ChatEvent]) {
        for event in events {
            match event {
                ChatEvent::Usage(usage) => self.used = Some(*usage),
                ChatEvent::Text { text, .. }
                | ChatEvent::Reasoning { text, .. }
                | ChatEvent::Refusal { text, .. }
                | ChatEvent::ToolArguments { json: text, .. } => {
                    self.first.get_or_insert_with(Instant::now);
                    self.pieces += 1;
                    self.bytes += text.len();
                }
                _ => {}
            }
        }
    }

    /// Takes over what one of our engines has counted.
    pub fn counted(&mut self, usage: &local::Usage) {
        if usage.completion_tokens > 0 {
            self.first.get_or_insert_with(Instant::now);
        }
        self.used = Some(TokenUsage {
            input: usage.prompt_tokens as u64,
            cached: usage.cached_tokens as u64,
            output: usage.completion_tokens as u64,
            ..TokenUsage::default()
        });
    }

    /// What the answer has cost so far; None without a price.
    pub fn cost(&self) -> Option<f64> {
        Some(usage::cost(self.price.as_ref()?, &self.used?))
    }

    /// The whole answer was sent.
    pub fn completed(mut self) {
        self.record(Outcome::Completed, 200);
    }

    /// The target failed with what this status stands for.
    pub fn failed(mut self, status: u16) {
        self.record(Outcome::Failed, status);
    }

    fn record(&mut self, outcome: Outcome, status: u16) {
        let Some(mut record) = self.record.take() else { return };
        let exact = match (self.used, self.dialect) {
            (Some(used), None) => Some(used),
            // An upstream's counts are its last word only at the end.
            (Some(used), Some(_)) if outcome == Outcome::Completed => Some(used),
            _ => None,
        };
        let used = exact.unwrap_or_else(|| self.estimate(outcome));
        (record.input_tokens, record.cached_tokens, record.output_tokens) =
            (used.input, used.cached, used.output);
        record.estimated = exact.is_none() && used != TokenUsage::default();
        record.cost = self.price.as_ref().map_or(0.0, |price| usage::cost(price, &used));
        record.latency_ms = self.begun.elapsed().as_millis() as u64;
        record.ttft_ms = self.first.map(|first| first.duration_since(self.begun).as_millis() as u64);
        (record.outcome, record.status) = (outcome, status);
        self.metrics.count(&record);
        if let Some(sink) = &self.sink {
            sink(record);
        }
    }

    /// What an answer without its upstream's last word has probably used. A failure before the first
    /// piece is free.
    fn estimate(&self, outcome: Outcome) -> TokenUsage {
        if outcome == Outcome::Failed && self.pieces == 0 {
            return TokenUsage::default();
        }
        let said = self.used.unwrap_or_default();
        let output = match self.dialect {
            // One token a piece is usual there.
            Some(Dialect::OpenAi) => self.pieces,
            _ => self.bytes.div_ceil(BYTES_PER_TOKEN) as u64,
        };
        let input = if said.input > 0 { said.input } else { self.input_estimate };
        TokenUsage { input, cached: said.cached, output: output.max(said.output), ..said }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.record(Outcome::Cancelled, STATUS_CANCELLED);
    }
}
