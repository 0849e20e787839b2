//! Promises of the scheduler that are counted in steps.

use super::fake::Fake;
use super::replay::{replay, synthetic};
use novastack::engine::plan::{SeqId, StepPlan};
use novastack::engine::scheduler::{Bucket, Positions, RequestId, Scheduler, SchedulerConfig};
use novastack::protocol::{GenerateRequest, SamplingParams, TokenEvent};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const STEP: Duration = Duration::from_millis(20);

/// A scheduler with the fake executor and a clock of 20 ms a step.
struct Sim {
    scheduler: Scheduler,
    fake: Fake,
    now: Duration,
    next: u64,
    tokens: HashMap<u64, usize>,
    finished: HashSet<u64>,
}

impl Sim {
    fn new(kv_blocks: usize, max_running: usize, step_token_budget: usize) -> Self {
        let config = SchedulerConfig {
            max_context: 10_000,
            kv_blocks,
            max_running,
            step_token_budget,
            checkpoint_salt: 0,
        };
        Self {
            scheduler: Scheduler::new(config),
            fake: Fake::default(),
            now: Duration::ZERO,
            next: 0,
            tokens: HashMap::new(),
            finished: HashSet::new(),
        }
    }

    fn submit(&mut self, prompt_len: usize, max_tokens: u32, priority: i32) -> u64 {
        let index = self.next;
        self.next += 1;
        let prompt: Vec<u32> = (0..prompt_len as u32).map(|i| (i * 7 + index as u32 * 13) % 64).collect();
        self.fake.prompts.insert(index, prompt.clone());
        let sampling = SamplingParams { seed: index, max_tokens, ..SamplingParams::default() };
        let request = GenerateRequest {
            id: index.to_string(),
            prompt: prompt.into(),
            choices: 1,
            sampling: Arc::new(sampling),
            cache_salt: index,
            priority,
            constraint: None,
            generated: Vec::new(),
            pooling: None,
            token_types: None,
        };
        self.scheduler.submit(RequestId(index), request, self.now);
        index
    }

    fn step(&mut self) -> StepPlan {
        let plan = self.scheduler.plan();
        let output = self.fake.step(&plan);
        for (id, event) in self.scheduler.apply(output) {
            match event {
                TokenEvent::Token { .. } => *self.tokens.entry(id.0).or_default() += 1,
                TokenEvent::Finished { .. } => drop(self.finished.insert(id.0)),
                _ => {}
            }
        }
        self.now += STEP;
        plan
    }

    fn tokens(&self, request: u64) -> usize {
        self.tokens.get(&request).copied().unwrap_or(0)
    }
}

/// Requests planned in a step, by their seed.
fn planned(plan: &StepPlan) -> Vec<u64> {
    plan.seqs.iter().map(|s| s.params.seed).collect()
}

#[test]
fn a_long_prompt_never_delays_a_decode() {
    let mut sim = Sim::new(1000, 16, 512);
    let decodes: Vec<u64> = (0..8).map(|_| sim.submit(20, 200, 0)).collect();
    sim.step();
    let long = sim.submit(8000, 10, 0);
    let mut steps = 0;
    while sim.tokens(long) == 0 {
        let plan = sim.step();
        steps += 1;
        assert!(plan.rows() <= 512);
        let rows: HashMap<u64, usize> = plan.seqs.iter().map(|s| (s.params.seed, s.tokens.len())).collect();
        assert!(decodes.iter().all(|d| rows[d] == 1), "step {steps} left a decode out");
        assert!(
            decodes.iter().all(|d| sim.tokens(*d) == 1 + steps),
            "a decode gave no token in step {steps}"
        );
    }
    assert_eq!(steps, 8000usize.div_ceil(512 - 8), "the prompt takes all that the decodes leave");
}

#[test]
fn short_prompts_overtake_a_long_one_which_still_ends_in_bounded_time() {
    let mut sim = Sim::new(2000, 64, 256);
    let long = sim.submit(8000, 1, 0);
    sim.step();
    let short = sim.submit(30, 1, 0);
    sim.step();
    assert_eq!(sim.tokens(short), 1, "a short prompt waits for no long one");

    // From now on every step brings more short work than it can do.
    let mut steps = 0;
    while sim.tokens(long) == 0 {
        for _ in 0..10 {
            sim.submit(30, 1, 0);
        }
        sim.step();
        steps += 1;
        assert!(steps < 1000, "the long prompt starves");
    }
    // Seven doublings from 64 to 8,192, then nothing that comes later goes first; what came
    // earlier was 300 tokens a step.
    let yielded = (Bucket::AGEING.as_millis() * 7 / STEP.as_millis()) as usize;
    let backlog = (yielded * 300 + 8000) / 256 + 1;
    assert!(steps <= backlog + yielded, "{steps} steps");
}

#[test]
fn a_waiting_sequence_is_bounded_by_those_before_it() {
    // One runs at a time, and shorter requests keep coming: the long one's turn still comes.
    let mut sim = Sim::new(100, 1, 64);
    sim.submit(10, 5, 0);
    sim.step();
    let long = sim.submit(1000, 1, 0);
    let mut steps = 0;
    while sim.tokens(long) == 0 {
        sim.submit(10, 5, 0);
        sim.step();
        steps += 1;
        assert!(steps < 600, "starved");
    }
    // Four doublings from 64 to 1,024 are 800 ms, 40 steps, in which 40 requests of 5 steps come.
    assert!(steps <= 41 * 5 + 1000 / 64 + 2, "{steps} steps");
}

#[test]
fn prefills_of_like_length_are_admitted_together() {
    let mut sim = Sim::new(1000, 16, 128);
    // All wait at once; due times interleave the lengths, grouping must not.
    let a = sim.submit(60, 1, 0);
    sim.now += Bucket::AGEING;
    sim.submit(100, 1, 0);
    let b = sim.submit(60, 1, 0);
    assert_eq!(planned(&sim.step())[..2], [a, b]);
}

#[test]
fn higher_priority_goes_first_whatever_its_length() {
    let mut sim = Sim::new(1000, 16, 64);
    sim.submit(64, 1, 0);
    let high = sim.submit(2000, 1, 1);
    assert_eq!(planned(&sim.step()), [high]);
}

#[test]
fn the_youngest_of_the_lowest_priority_is_preempted() {
    // Four sequences of one block each in six; each wants a second block at the same step.
    let mut sim = Sim::new(6, 4, 64);
    let old = sim.submit(8, 30, 0);
    let low = sim.submit(8, 30, -1);
    let high = sim.submit(8, 30, 1);
    let young = sim.submit(8, 30, 0);
    sim.step();
    sim.now += STEP;
    while sim.scheduler.counters().preemptions == 0 {
        assert!(sim.now < STEP * 50, "no preemption");
        let before = planned(&sim.step());
        if sim.scheduler.counters().preemptions == 0 {
            continue;
        }
        assert!(!before.contains(&low), "the lowest priority goes first");
        assert!([old, high].iter().all(|r| before.contains(r)));
    }
    while !sim.scheduler.is_idle() {
        sim.step();
    }
    assert!([old, low, high, young].iter().all(|r| sim.tokens(*r) == 30));
}

#[test]
fn positions_are_counted_by_row_in_whole_blocks() {
    assert_eq!(Positions::of_rows(0, 1), Positions { useful: 1, attended: 16 });
    assert_eq!(Positions::of_rows(15, 2), Positions { useful: 16 + 17, attended: 16 + 32 });
    let mut sim = Sim::new(100, 4, 64);
    sim.submit(40, 2, 0);
    let first: SeqId = sim.step().seqs[0].seq;
    assert_eq!(sim.scheduler.counters().last_positions, Positions::of_rows(0, 40));
    assert_eq!(sim.step().seqs[0].seq, first);
    assert_eq!(sim.scheduler.counters().last_positions, Positions { useful: 41, attended: 48 });
}

#[test]
fn the_work_list_wastes_less_than_any_padding() {
    let config = SchedulerConfig {
        max_context: 8192,
        kv_blocks: 8192,
        max_running: 64,
        step_token_budget: 512,
        checkpoint_salt: 0,
    };
    let trace = synthetic(1, 400);
    let report = replay(&trace, config.clone(), Duration::from_millis(30));
    assert_eq!((report.finished, report.refused), (400, 0));
    let l = report.decodes;
    assert!(l.work_list.waste() < 0.02, "{:?}", l.work_list);
    assert!(l.work_list.waste() < l.bucketed.waste());
    assert!(l.bucketed.waste() < l.first_come.waste());
    assert!(l.first_come.waste() < l.padded.waste());
    assert!(report.first_token_steps_max < 500, "{} steps", report.first_token_steps_max);
    assert!(report.counters.positions.waste() < 0.05, "prefills included");
    // Tens of microseconds in fact; this is against quadratic accidents.
    assert!(report.scheduling / (report.counters.steps as u32) < Duration::from_millis(5));
    assert_eq!(l, replay(&trace, config, Duration::from_millis(30)).decodes, "a replay is deterministic");
}
