//! A trace of request lengths through the scheduler alone: how much of what decode attention
//! reads it needs, beside other ways to lay out the very same steps. Also used by
//! `benches/scheduler.rs` on the public traces.

use super::rng::Rng;
use novastack::engine::plan::{StepOutput, StepPlan};
use novastack::engine::scheduler::{Bucket, Counters, Positions, RequestId, Scheduler, SchedulerConfig};
use novastack::protocol::{GenerateRequest, SamplingParams, TokenEvent, TokenLogprob};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request of a trace.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at: Duration,
    pub prompt_tokens: usize,
    pub output_tokens: usize,
}

/// KV positions that the decodes of a replay need and read, by layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layouts {
    /// The engine's: every sequence on its own, in whole blocks.
    pub work_list: Positions,
    /// First control: all decodes of a step padded to the longest.
    pub padded: Positions,
    /// Second control: packed by arrival into groups of [`PACK`], each padded to its longest.
    pub first_come: Positions,
    /// One group per power-of-two bucket, each padded to its longest.
    pub bucketed: Positions,
}

/// Sequences of a first-come group.
pub const PACK: usize = 8;

/// What a replay did.
#[derive(Debug)]
pub struct Report {
    pub finished: usize,
    /// Requests whose lengths no engine of this configuration serves.
    pub refused: usize,
    pub counters: Counters,
    pub decodes: Layouts,
    /// The largest number of steps between a request's arrival and its first token.
    pub first_token_steps_max: u64,
    /// Time spent in plan and apply.
    pub scheduling: Duration,
}

/// Lengths and arrivals like a chat service's: log-normal prompts (median 800 tokens) and outputs
/// (median 130), 5 requests a second.
pub fn synthetic(seed: u64, requests: usize) -> Vec<Arrival> {
    let mut rng = Rng(seed);
    let mut at = Duration::ZERO;
    let log_normal = |median: f64, sigma: f64, max: f64, rng: &mut Rng| {
        // Box and Muller 1958.
        let normal = (-2.0 * (1.0 - rng.unit()).ln()).sqrt() * (std::f64::consts::TAU * rng.unit()).cos();
        (median * (sigma * normal).exp()).clamp(1.0, max) as usize
    };
    (0..requests)
        .map(|_| {
            at += Duration::from_secs_f64(-(1.0 - rng.unit()).ln() / 5.0);
            Arrival {
                at,
                prompt_tokens: log_normal(800.0, 0.9, 7000.0, &mut rng),
                output_tokens: log_normal(130.0, 1.0, 1000.0, &mut rng),
            }
        })
        .collect()
}

/// Runs a trace with steps of a fixed duration.
pub fn replay(trace: &[Arrival], config: SchedulerConfig, step: Duration) -> Report {
    let capacity = config.capacity();
    let mut scheduler = Scheduler::new(config);
    let mut decodes = Layouts::default();
    let (mut finished, mut refused, mut first_token_steps_max) = (0, 0, 0);
    let mut submitted_at_step: Vec<u64> = Vec::with_capacity(trace.len());
    let mut scheduling = Duration::ZERO;
    let mut now = Duration::ZERO;
    let mut steps = 0;
    loop {
        while let Some(arrival) = trace.get(submitted_at_step.len()).filter(|a| a.at <= now) {
            let index = submitted_at_step.len() as u64;
            submitted_at_step.push(steps);
            if arrival.prompt_tokens >= capacity {
                refused += 1;
                continue;
            }
            scheduler.submit(RequestId(index), request(index, arrival), arrival.at);
        }
        let start = Instant::now();
        let plan = scheduler.plan();
        scheduling += start.elapsed();
        if plan.seqs.is_empty() {
            let Some(next) = trace.get(submitted_at_step.len()) else { break };
            now = next.at;
            continue;
        }
        decodes.add(&plan);
        let sampled = plan.seqs.iter().filter(|s| s.sample.is_some());
        let token = TokenLogprob { token: 1, logprob: 0.0, top: Vec::new() };
        let output = StepOutput {
            expert_bytes: 0,
            replayed: false,
            broken: Vec::new(),
            failed: Vec::new(),
            sampled: sampled.map(|s| (s.seq, token.clone())).collect(),
            pooled: Vec::new(),
            prompt_logprobs: Vec::new(),
        };
        let start = Instant::now();
        let events = scheduler.apply(output);
        scheduling += start.elapsed();
        steps += 1;
        now += step;
        for (id, event) in events {
            match event {
                TokenEvent::Prompt { .. } => {
                    first_token_steps_max =
                        first_token_steps_max.max(steps - submitted_at_step[id.0 as usize]);
                }
                TokenEvent::Finished { .. } => finished += 1,
                TokenEvent::Token { .. } | TokenEvent::Pooled { .. } | TokenEvent::Failed { .. } => {}
            }
        }
    }
    Report { finished, refused, counters: *scheduler.counters(), decodes, first_token_steps_max, scheduling }
}

/// Requests of a trace share nothing: each has a cache namespace of its own.
fn request(index: u64, arrival: &Arrival) -> GenerateRequest {
    GenerateRequest {
        id: index.to_string(),
        prompt: vec![1; arrival.prompt_tokens].into(),
        choices: 1,
        sampling: Arc::new(SamplingParams {
            max_tokens: arrival.output_tokens.max(1) as u32,
            ..SamplingParams::default()
        }),
        cache_salt: index,
        priority: 0,
        constraint: None,
        generated: Vec::new(),
        pooling: None,
        token_types: None,
    }
}

impl Layouts {
    /// Adds a step's decodes, which are planned in order of arrival.
    fn add(&mut self, plan: &StepPlan) {
        let decodes = plan.seqs.iter().filter(|s| s.tokens.len() == 1);
        let contexts: Vec<usize> = decodes.map(|s| s.start as usize + 1).collect();
        let mut buckets: BTreeMap<Bucket, Vec<usize>> = BTreeMap::new();
        for context in &contexts {
            self.work_list += Positions::of_rows(context - 1, 1);
            buckets.entry(Bucket::of(*context)).or_default().push(*context);
        }
        self.padded += padded(&contexts);
        contexts.chunks(PACK).for_each(|group| self.first_come += padded(group));
        buckets.values().for_each(|group| self.bucketed += padded(group));
    }
}

fn padded(contexts: &[usize]) -> Positions {
    let longest = contexts.iter().max().copied().unwrap_or(0);
    Positions { useful: contexts.iter().sum::<usize>() as u64, attended: (longest * contexts.len()) as u64 }
}
