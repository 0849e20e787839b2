//! The router: from logits to each row's experts and weights, then to pairs sorted by expert.
//!
//! Follows transformers' `DeepseekV2TopkRouter`, `DeepseekV3TopkRouter`, `Qwen3MoeTopKRouter` and
//! `MiniMaxM2TopKRouter`, in f32. One difference: where DeepSeek-V2 masks an expert outside the
//! kept groups with a score of 0, which a kept expert's may equal by underflow, here it cannot be
//! chosen at all. NaN ranks above all numbers, as in `torch.topk`, so that it reaches the output.

use super::{Choice, ELSEWHERE, Routes};
use crate::backend::cpu::matmul::Group;
use crate::backend::cpu::pool::{REGION_NS, ThreadPool};
use crate::backend::cpu::tensor::{Shared, Tensor, Vector};
use crate::backend::{ExpertGroups, GroupScore, Routing, Scoring};
use std::ops::Range;

/// Tasks per thread.
const TASKS_PER_THREAD: usize = 4;

/// See [`crate::backend::Backend::moe_route`]. Experts of the pairs count from `local.start`.
pub fn route(
    pool: &mut ThreadPool,
    logits: &Tensor,
    bias: Option<&Vector>,
    routing: &Routing,
    local: Range<usize>,
    routes: &mut Routes,
) {
    let (rows, experts, top_k) = (logits.rows(), routing.experts, routing.top_k);
    assert_eq!(logits.columns(), experts, "columns of a router's logits");
    assert!(bias.is_none_or(|bias| bias.values().len() == experts), "bias has a value for each expert");
    assert!(local.start <= local.end && local.end <= experts, "local experts are some of all");
    assert!(rows <= routes.max_rows && top_k <= routes.max_top_k, "routes have room for {rows} rows");
    check(routing);
    (routes.rows, routes.top_k) = (rows, top_k);

    // A score is an exponential, and is looked at once for each choice.
    let row_ns = experts * (6 + top_k / 2);
    let most = if rows * row_ns < REGION_NS { 1 } else { pool.threads() * TASKS_PER_THREAD };
    let rows_per_task = rows.div_ceil(most.min(rows).max(1)).max(1);
    let tasks = rows.div_ceil(rows_per_task);
    let per_task = 3 * experts;
    if routes.scores.len() < tasks * per_task {
        routes.scores.resize(tasks * per_task, 0.0);
    }
    let scores = Shared::new(&mut routes.scores);
    let choices = Shared::new(&mut routes.choices);
    pool.run(tasks, &|task| {
        let first = task * rows_per_task;
        let count = rows_per_task.min(rows - first);
        // SAFETY: each task runs once, with scores and rows of its own.
        let (scores, choices) =
            unsafe { (scores.part(task * per_task, per_task), choices.part(first * top_k, count * top_k)) };
        let logits = &logits.values()[first * experts..][..count * experts];
        for (logits, choices) in logits.chunks_exact(experts).zip(choices.chunks_exact_mut(top_k)) {
            choose(logits, bias.map(Vector::values), routing, scores, choices);
            for choice in choices.iter_mut() {
                let expert = choice.expert as usize;
                choice.expert =
                    if local.contains(&expert) { (expert - local.start) as u32 } else { ELSEWHERE };
            }
            choices.sort_unstable_by_key(|choice| choice.expert);
        }
    });
    group(routes, local.len());
}

/// A model's promise; its configuration has been checked for the same.
fn check(routing: &Routing) {
    let Routing { experts, top_k, groups, .. } = *routing;
    assert!(top_k > 0 && top_k <= experts, "{top_k} of {experts} experts");
    if let Some(ExpertGroups { count, keep, score }) = groups {
        let least = if score == GroupScore::BestTwo { 2 } else { 1 };
        assert!(count > 0 && experts % count == 0 && experts / count >= least, "{count} groups of experts");
        assert!(keep <= count && keep * (experts / count) >= top_k, "{keep} groups hold {top_k} experts");
    }
}

/// One row: the experts chosen, best first, and their weights.
fn choose(
    logits: &[f32],
    bias: Option<&[f32]>,
    routing: &Routing,
    scratch: &mut [f32],
    choices: &mut [Choice],
) {
    let (scores, rest) = scratch.split_at_mut(logits.len());
    let (ranks, groups) = rest.split_at_mut(logits.len());
    match routing.scoring {
        Scoring::Softmax => softmax(logits, scores),
        Scoring::Sigmoid => {
            for (score, logit) in scores.iter_mut().zip(logits) {
                *score = 1.0 / (1.0 + (-logit).exp());
            }
        }
    }
    ranks.copy_from_slice(scores);
    if let Some(bias) = bias {
        ranks.iter_mut().zip(bias).for_each(|(rank, bias)| *rank += bias);
    }
    let mut best = Best { ranks, choices, len: 0 };
    match routing.groups {
        None => best.offer(0..logits.len()),
        Some(ExpertGroups { count, keep, score }) => {
            let size = logits.len() / count;
            let groups = &mut groups[..count];
            for (group, ranks) in groups.iter_mut().zip(ranks.chunks_exact(size)) {
                *group = group_rank(ranks, score);
            }
            for group in (0..count).filter(|group| place(groups, *group) < keep) {
                best.offer(group * size..(group + 1) * size);
            }
        }
    }
    for choice in choices.iter_mut() {
        choice.weight = scores[choice.expert as usize];
    }
    // DeepSeek-V3's guard against a sum of 0; it changes no sum that is not as small.
    let sum = match routing.normalise {
        true => choices.iter().map(|choice| choice.weight).sum::<f32>() + 1e-20,
        false => 1.0,
    };
    choices.iter_mut().for_each(|choice| choice.weight = choice.weight / sum * routing.scale);
}

fn softmax(logits: &[f32], scores: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for (score, logit) in scores.iter_mut().zip(logits) {
        *score = (logit - largest).exp();
    }
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// Whether a ranks above b; NaN is above all numbers.
fn above(a: f32, b: f32) -> bool {
    a > b || (a.is_nan() && !b.is_nan())
}

fn group_rank(ranks: &[f32], score: GroupScore) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &rank in ranks {
        if above(rank, first) {
            (first, second) = (rank, first);
        } else if above(rank, second) {
            second = rank;
        }
    }
    match score {
        GroupScore::Best => first,
        GroupScore::BestTwo => first + second,
    }
}

/// How many of the others come before `index`; of equals the lower index does.
fn place(ranks: &[f32], index: usize) -> usize {
    let before = |other: &usize| match *other < index {
        true => !above(ranks[index], ranks[*other]),
        false => above(ranks[*other], ranks[index]),
    };
    (0..ranks.len()).filter(before).count()
}

/// The best of the experts offered so far, best first.
struct Best<'a> {
    ranks: &'a [f32],
    choices: &'a mut [Choice],
    len: usize,
}

impl Best<'_> {
    /// Experts are offered in ascending order, so that of equals the lower index stays.
    fn offer(&mut self, experts: Range<usize>) {
        for expert in experts {
            let worse = |choice: &Choice| above(self.ranks[expert], self.ranks[choice.expert as usize]);
            let chosen = &self.choices[..self.len];
            // From the worst up: most experts are worse than all.
            let at = chosen.iter().rposition(|choice| !worse(choice)).map_or(0, |last| last + 1);
            if at == self.choices.len() {
                continue;
            }
            self.len = (self.len + 1).min(self.choices.len());
            self.choices[at..self.len].rotate_right(1);
            self.choices[at].expert = expert as u32;
        }
    }
}

/// Sorts the pairs by expert, then by row.
fn group(routes: &mut Routes, experts: usize) {
    let Routes { rows, top_k, choices, pair_rows, groups, next, .. } = routes;
    let choices = &mut choices[..*rows * *top_k];
    next.clear();
    next.resize(experts, 0);
    for choice in choices.iter().filter(|choice| choice.expert != ELSEWHERE) {
        next[choice.expert as usize] += 1;
    }
    groups.clear();
    let mut pairs = 0;
    for (matrix, next) in next.iter_mut().enumerate() {
        let rows = *next as usize;
        *next = pairs as u32;
        if rows > 0 {
            groups.push(Group { matrix, first: pairs, rows });
        }
        pairs += rows;
    }
    pair_rows.clear();
    pair_rows.resize(pairs, 0);
    for (row, choices) in choices.chunks_exact_mut(*top_k).enumerate() {
        for choice in choices.iter_mut().take_while(|choice| choice.expert != ELSEWHERE) {
            let next = &mut next[choice.expert as usize];
            choice.pair = *next;
            pair_rows[*next as usize] = row as u32;
            *next += 1;
        }
    }
}
