//! Who is asked at each scrape of the metrics: the engines; and how upstreams, the store and the log are doing.

use crate::engine::handle::EngineStats;
use crate::gateway::ledger::observe::Observers;
use crate::gateway::route::Routing;
use crate::gateway::target::registry::Registry;
use crate::gateway::target::remote::UpstreamModel;
use crate::gateway::wire::request_memory::RequestMemory;
use crate::log;
use crate::store::Recorder;
use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt::{Debug, Error, Formatter};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Whom to ask.
pub struct Gauges {
    /// For the upstreams of the configuration as it is.
    pub routing: Arc<ArcSwap<Routing>>,
    /// The store's.
    pub recorder: Option<Recorder>,
    /// Of requests.
    pub observers: Observers,
    /// Requests being answered.
    pub in_flight: watch::Receiver<usize>,
    /// What they hold.
    pub memory: Arc<RequestMemory>,
}

impl Debug for Gauges {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result<(), Error> {
        formatter.write_str("Gauges")
    }
}

/// A value of an upstream's model under a metric's name.
type Value = (&'static str, &'static str, fn(&UpstreamModel, Instant) -> f64);

const UPSTREAM: [Value; 4] = [
    (
        "upstream_breaker_open",
        "1 while an upstream's model that keeps failing is left alone",
        |hosted, now| f64::from(u8::from(hosted.breaker.is_open(now))),
    ),
    ("upstream_limit", "Requests at a time that the adaptive limit allows", |hosted, now| {
        hosted.load.load(now).limit
    }),
    ("upstream_in_flight", "Requests under way to an upstream's model", |hosted, now| {
        hosted.load.load(now).in_flight as f64
    }),
    ("upstream_resting", "Places that rest after an upstream refused a request", |hosted, now| {
        hosted.load.load(now).resting as f64
    }),
];

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let (now, routing) = (Instant::now(), self.routing.load());
        let targets = routing.config().models.iter().filter_map(|model| routing.target(&model.name));
        let hosted: Vec<([(&str, &str); 2], &UpstreamModel)> = targets
            .filter_map(|target| {
                let hosted = target.upstream.as_ref()?;
                Some(([("model", target.model.name.as_str()), ("provider", hosted.upstream.name())], hosted))
            })
            .collect();
        for (name, help, value) in UPSTREAM {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, hosted) in &hosted {
                ConstGauge::new(value(hosted, now)).encode(family.encode_family(labels)?)?;
            }
        }
        let mut gauge = |name, help, value: usize| {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value as u64).encode(gauge)
        };
        gauge("requests_in_flight", "Requests being answered", *self.in_flight.borrow())?;
        let help = "Bytes held for bodies of requests and answers of upstreams";
        gauge("request_memory_bytes", help, self.memory.used())?;
        gauge("request_memory_limit_bytes", "Bytes that there are for them", self.memory.total())?;
        if let Some(recorder) = &self.recorder {
            gauge("store_queue", "Usage records that wait to be written", recorder.waiting())?;
        }
        let spans = self.observers.spans();
        for (name, help, count) in [
            (
                "store_lost_records",
                "Usage records that were lost",
                self.recorder.as_ref().map(Recorder::lost),
            ),
            ("access_log_lost_lines", "Lines that the access log lost", self.observers.lines_lost()),
            ("log_lost_lines", "Lines that the program's own log lost", Some(log::lost())),
            ("trace_spans", "Spans that ended", spans.map(|(ended, _)| ended)),
            ("trace_spans_sent", "Spans that their receiver took", spans.map(|(_, sent)| sent)),
        ] {
            if let Some(count) = count {
                let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                ConstCounter::new(count).encode(counter)?;
            }
        }
        Ok(())
    }
}

/// Asks every engine at each scrape.
#[derive(Debug)]
pub struct Engines(pub Arc<Registry>);

/// An engine's value under a metric's name.
type Stat = (&'static str, &'static str, fn(&EngineStats) -> u64);

const GAUGES: [Stat; 6] = [
    ("queue_depth", "Requests not yet admitted", |s| s.waiting as u64),
    ("running", "Sequences admitted and not finished", |s| s.running as u64),
    ("kv_blocks_used", "KV blocks referenced by running sequences", |s| s.kv_blocks_used as u64),
    ("kv_blocks", "KV blocks there are", |s| s.kv_blocks_total as u64),
    ("batch_rows", "Rows of the last step", |s| s.last_batch_rows as u64),
    ("batch_sequences", "Sequences of the last step", |s| s.last_batch_seqs as u64),
];

const COUNTERS: [Stat; 10] = [
    ("steps", "Steps executed", |s| s.steps),
    ("step_rows", "Rows computed", |s| s.step_rows),
    ("prefill_tokens", "Prompt tokens computed", |s| s.prefill_tokens),
    ("prefix_hit_tokens", "Prompt tokens taken from the prefix cache", |s| s.prefix_hit_tokens),
    ("decode_tokens", "Tokens sampled", |s| s.decode_tokens),
    ("preemptions", "Sequences preempted for lack of KV blocks", |s| s.preemptions),
    ("attended_positions", "KV positions that attention read, padding included", |s| s.attended_positions),
    ("useful_positions", "KV positions that the rows needed", |s| s.useful_positions),
    (
        "expert_bytes",
        "Bytes of experts' weights that steps read, on the first rank; not counted on GPUs",
        |s| s.expert_bytes,
    ),
    ("replayed_steps", "Steps that a GPU replayed as a graph", |s| s.replayed_steps),
];

impl Collector for Engines {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let models = self.0.ready();
        let stats: Vec<([(&str, &str); 1], EngineStats)> =
            models.iter().map(|model| ([("model", model.name.as_str())], model.engine.stats())).collect();
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, stats) in &stats {
                ConstGauge::new(value(stats)).encode(family.encode_family(labels)?)?;
            }
        }
        let (name, help) =
            ("admission_limit", "Requests at a time that the adaptive limit of its engines allows");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for model in &models {
            let now = Instant::now();
            let limit: f64 = model.engine.loads().iter().map(|load| load.load(now).limit).sum();
            ConstGauge::new(limit).encode(family.encode_family(&[("model", model.name.as_str())])?)?;
        }
        for (name, help, value) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, stats) in &stats {
                ConstCounter::new(value(stats)).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}
