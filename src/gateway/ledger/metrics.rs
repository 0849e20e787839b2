//! Prometheus metrics. What requests do is counted here as it happens; what engines do they are asked
//! at each scrape (`api::scrape`). Label values come from routes, served names and status codes only, so
//! a caller cannot make new time series.

mod format;

pub use format::Format;

use super::limit::{Counters, LimitKind};
use crate::store::{Outcome as Completion, UsageRecord};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry as MetricRegistry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

type Labels = Vec<(&'static str, String)>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;
type Dollars = Counter<f64, AtomicU64>;

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was made from; empty where that is not known.
pub const COMMIT: &str = env!("NOVASTACK_COMMIT");

/// Upper bounds of the histograms' buckets, in seconds.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// All metrics of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: MetricRegistry,
    requests: Family<Labels, Counter>,
    model: ModelMetrics,
    attempts: Arc<AttemptMetrics>,
}

/// What attempts used, by model and provider.
#[derive(Debug)]
pub struct AttemptMetrics {
    attempts: Family<Labels, Counter>,
    tokens: Family<Labels, Counter>,
    dollars: Family<Labels, Dollars>,
    first_token: Histograms,
    whole: Histograms,
    refusals: Family<Labels, Counter>,
    hedges: Family<Labels, Counter>,
}

/// One target's part of [`AttemptMetrics`], looked up once: an attempt counts in each of these.
#[derive(Debug)]
pub struct TargetMetrics {
    /// Completed, cancelled, failed.
    attempts: [Counter; 3],
    /// Input, cached, output.
    tokens: [Counter; 3],
    dollars: Dollars,
    first_token: Histogram,
    whole: Histogram,
}

impl AttemptMetrics {
    fn registered(registry: &mut MetricRegistry) -> Self {
        let histograms = || Histograms::new_with_constructor(seconds);
        let it = Self {
            attempts: Family::default(),
            tokens: Family::default(),
            dollars: Family::default(),
            first_token: histograms(),
            whole: histograms(),
            refusals: Family::default(),
            hedges: Family::default(),
        };
        registry.register("attempts", "Attempts to answer, by target and outcome", it.attempts.clone());
        registry.register("attempt_tokens", "Tokens that attempts used", it.tokens.clone());
        registry.register("cost_dollars", "Dollars that attempts cost", it.dollars.clone());
        let help = "From the attempt's begin to its first text";
        registry.register("attempt_first_token_seconds", help, it.first_token.clone());
        registry.register("attempt_seconds", "From the attempt's begin to its end", it.whole.clone());
        let help = "Requests and attempts that were over a limit of their key or model";
        registry.register("limit_refusals", help, it.refusals.clone());
        let help = "Answered requests for which another target was asked beside this one, as it was slow";
        registry.register("hedges", help, it.hedges.clone());
        it
    }

    /// Counts what was over a limit of a `key` or a `model`.
    pub fn refused(&self, holder: &'static str, limit: LimitKind) {
        let labels = vec![("holder", holder.to_owned()), ("limit", limit.name().to_owned())];
        self.refusals.get_or_create(&labels).inc();
    }

    /// Counts that another target was asked beside this one, and whether another answered.
    pub fn hedged(&self, model: &str, overtaken: bool) {
        let labels = vec![("model", model.to_owned()), ("overtaken", overtaken.to_string())];
        self.hedges.get_or_create(&labels).inc();
    }

    /// Those of a target; `provider` is None for our own models.
    pub fn of(&self, model: &str, provider: Option<&str>) -> TargetMetrics {
        let provider = provider.unwrap_or("local");
        let labels = vec![("model", model.to_owned()), ("provider", provider.to_owned())];
        let with = |family: &Family<Labels, Counter>, name, value: &str| {
            let mut labels = labels.clone();
            labels.push((name, value.to_owned()));
            family.get_or_create_owned(&labels)
        };
        let outcomes = [Completion::Completed, Completion::Cancelled, Completion::Failed];
        let directions = ["input", "cached", "output"];
        TargetMetrics {
            attempts: outcomes.map(|outcome| with(&self.attempts, "outcome", outcome.as_str())),
            tokens: directions.map(|direction| with(&self.tokens, "direction", direction)),
            dollars: self.dollars.get_or_create_owned(&labels),
            first_token: self.first_token.get_or_create_owned(&labels),
            whole: self.whole.get_or_create_owned(&labels),
        }
    }
}

impl TargetMetrics {
    /// Counts an attempt that is over.
    pub fn count(&self, record: &UsageRecord) {
        let [completed, cancelled, failed] = &self.attempts;
        match record.outcome {
            Completion::Completed => completed.inc(),
            Completion::Cancelled => cancelled.inc(),
            Completion::Failed => failed.inc(),
        };
        let [input, cached, output] = &self.tokens;
        input.inc_by(record.input_tokens);
        cached.inc_by(record.cached_tokens);
        output.inc_by(record.output_tokens);
        self.dollars.inc_by(record.cost);
        if let Some(ms) = record.ttft_ms {
            self.first_token.observe(ms as f64 / 1e3);
        }
        if record.outcome == Completion::Completed {
            self.whole.observe(record.latency_ms as f64 / 1e3);
        }
    }
}

#[derive(Clone, Debug)]
struct ModelMetrics {
    generations: Family<Labels, Counter>,
    prompt_tokens: Family<Labels, Counter>,
    generation_tokens: Family<Labels, Counter>,
    first_token: Histograms,
    inter_token: Histograms,
    end_to_end: Histograms,
}

impl Metrics {
    /// Metrics of a server, and of its limits where they are shared.
    pub fn new(shared: Option<&Counters>) -> Self {
        let mut registry = MetricRegistry::with_prefix("novastack");
        let build = Info::new(vec![("version", VERSION), ("commit", COMMIT)]);
        registry.register("build", "The program's version and the commit that it was made from", build);
        let requests = Family::default();
        let histograms = || Histograms::new_with_constructor(seconds);
        let model = ModelMetrics {
            generations: Family::default(),
            prompt_tokens: Family::default(),
            generation_tokens: Family::default(),
            first_token: histograms(),
            inter_token: histograms(),
            end_to_end: histograms(),
        };
        let m = &model;
        registry.register("requests", "HTTP requests by route, model and status", requests.clone());
        registry.register("generations", "Generations ended, by outcome", m.generations.clone());
        registry.register("prompt_tokens", "Prompt tokens of accepted requests", m.prompt_tokens.clone());
        registry.register("generation_tokens", "Tokens sent to callers", m.generation_tokens.clone());
        registry.register(
            "time_to_first_token_seconds",
            "From arrival to first token",
            m.first_token.clone(),
        );
        registry.register("inter_token_latency_seconds", "Between tokens of a choice", m.inter_token.clone());
        registry.register("request_seconds", "From arrival to the last token", m.end_to_end.clone());
        let attempts = Arc::new(AttemptMetrics::registered(&mut registry));
        if let Some(shared) = shared {
            shared.register(&mut registry);
        }
        Self { registry, requests, model, attempts }
    }

    /// With what somebody says who is asked at each scrape.
    pub fn with(mut self, collector: impl Collector) -> Self {
        self.registry.register_collector(Box::new(collector));
        self
    }

    /// A request was answered; a stream counts when its head is sent.
    pub fn request(&self, route: &str, model: &str, status: u16) {
        let labels =
            vec![("route", route.to_owned()), ("model", model.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
    }

    /// What attempts are counted by.
    pub fn attempts(&self) -> &Arc<AttemptMetrics> {
        &self.attempts
    }

    /// Follows one generation that arrived at `arrived`.
    pub fn generation(&self, model: &str, arrived: Instant) -> RequestMetrics {
        RequestMetrics {
            metrics: self.model.clone(),
            model: model.to_owned(),
            labels: vec![("model", model.to_owned())],
            arrived,
            last_token: Vec::new(),
            submitted: false,
            ended: false,
        }
    }

    /// OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("a String takes everything");
        out
    }
}

/// How a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All choices came to their end.
    Finished,
    /// Nobody listens any more.
    Cancelled,
    /// Time was up.
    TimedOut,
    /// The server shut down.
    Aborted,
    /// The engine failed.
    Failed,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Outcome::Finished => "finished",
            Outcome::Cancelled => "cancelled",
            Outcome::TimedOut => "timeout",
            Outcome::Aborted => "aborted",
            Outcome::Failed => "failed",
        }
    }
}

/// One generation's times. Dropping it before [`RequestMetrics::end`] counts as cancelled.
#[derive(Debug)]
pub struct RequestMetrics {
    metrics: ModelMetrics,
    model: String,
    labels: Labels,
    arrived: Instant,
    last_token: Vec<Option<Instant>>,
    submitted: bool,
    ended: bool,
}

impl RequestMetrics {
    /// The engine has taken it.
    pub fn submitted(&mut self, prompt_tokens: usize) {
        self.submitted = true;
        self.metrics.prompt_tokens.get_or_create(&self.labels).inc_by(prompt_tokens as u64);
    }

    /// A token of a choice.
    pub fn token(&mut self, choice: usize) {
        let now = Instant::now();
        let first = self.last_token.iter().all(Option::is_none);
        if self.last_token.len() <= choice {
            self.last_token.resize(choice + 1, None);
        }
        match self.last_token[choice].replace(now) {
            Some(last) => {
                let gap = now.duration_since(last).as_secs_f64();
                self.metrics.inter_token.get_or_create(&self.labels).observe(gap);
            }
            None if first => {
                let wait = now.duration_since(self.arrived).as_secs_f64();
                self.metrics.first_token.get_or_create(&self.labels).observe(wait);
            }
            None => {}
        }
        self.metrics.generation_tokens.get_or_create(&self.labels).inc();
    }

    /// It is over; only the first call counts.
    pub fn end(&mut self, outcome: Outcome) {
        if !self.submitted || std::mem::replace(&mut self.ended, true) {
            return;
        }
        let labels = vec![("model", self.model.clone()), ("outcome", outcome.label().to_owned())];
        self.metrics.generations.get_or_create(&labels).inc();
        if outcome == Outcome::Finished {
            let took = self.arrived.elapsed().as_secs_f64();
            self.metrics.end_to_end.get_or_create(&self.labels).observe(took);
        }
    }
}

impl Drop for RequestMetrics {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_generations_are_counted_by_their_labels() {
        let metrics = Metrics::new(None);
        metrics.request("/v1/models", "", 200);
        metrics.request("/v1/models", "", 200);
        let mut run = metrics.generation("m", Instant::now());
        run.submitted(5);
        run.token(0);
        run.token(0);
        run.token(1);
        run.end(Outcome::Finished);
        drop(run);
        let mut gone = metrics.generation("m", Instant::now());
        gone.submitted(2);
        drop(gone);
        drop(metrics.generation("m", Instant::now())); // never taken by the engine
        let text = metrics.encode();
        for line in [
            r#"novastack_requests_total{route="/v1/models",model="",status="200"} 2"#,
            r#"novastack_prompt_tokens_total{model="m"} 7"#,
            r#"novastack_generation_tokens_total{model="m"} 3"#,
            r#"novastack_generations_total{model="m",outcome="finished"} 1"#,
            r#"novastack_generations_total{model="m",outcome="cancelled"} 1"#,
            r#"novastack_time_to_first_token_seconds_count{model="m"} 1"#,
            r#"novastack_inter_token_latency_seconds_count{model="m"} 1"#,
            r#"novastack_request_seconds_count{model="m"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
