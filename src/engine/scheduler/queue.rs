//! Sequences that wait for admission: new, resumed after a preemption, or a further choice of a
//! request whose prompt is done.

use super::bucket::Bucket;
use super::sequence::{Rank, Sequence};
use crate::engine::plan::SeqId;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Who is next: higher priority, then earlier due, then earlier made.
pub(super) type Turn = (Reverse<i32>, Duration, SeqId);

/// One list per bucket, each in order of rank.
#[derive(Debug, Default)]
pub(super) struct Queue {
    buckets: BTreeMap<Bucket, BTreeMap<Rank, Sequence>>,
}

impl Queue {
    pub fn push(&mut self, seq: Sequence) {
        self.buckets.entry(Bucket::of(seq.tokens.len())).or_default().insert(seq.rank(), seq);
    }

    /// The next sequence's turn and bucket. With `group`, the next of that bucket comes first
    /// among equals in priority: prefills of like length are admitted together. The group is
    /// chosen anew in every step by the sequence due first, so grouping delays nobody by more
    /// than a step.
    pub fn next(&self, group: Option<Bucket>) -> Option<(Turn, Bucket)> {
        let first_of = |(bucket, list): (&Bucket, &BTreeMap<Rank, Sequence>)| {
            list.values().next().map(|seq| (seq.turn(*bucket), *bucket))
        };
        let first = self.buckets.iter().filter_map(first_of).min()?;
        let grouped = group.and_then(|b| first_of((&b, self.buckets.get(&b)?)));
        Some(grouped.filter(|(turn, _)| turn.0 == first.0.0).unwrap_or(first))
    }

    /// Takes the first sequence of a bucket.
    pub fn pop(&mut self, bucket: Bucket) -> Option<Sequence> {
        let list = self.buckets.get_mut(&bucket)?;
        let (_, seq) = list.pop_first()?;
        if list.is_empty() {
            self.buckets.remove(&bucket);
        }
        Some(seq)
    }

    /// Takes every sequence that `wanted` picks.
    pub fn remove(&mut self, wanted: impl Fn(&Sequence) -> bool) -> Vec<Sequence> {
        let mut taken = Vec::new();
        for list in self.buckets.values_mut() {
            let ranks: Vec<Rank> =
                list.iter().filter(|(_, seq)| wanted(seq)).map(|(rank, _)| *rank).collect();
            taken.extend(ranks.iter().filter_map(|rank| list.remove(rank)));
        }
        self.buckets.retain(|_, list| !list.is_empty());
        taken
    }
}
