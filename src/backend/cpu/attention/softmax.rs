//! Softmax in parts: the weights of one split's positions, and the joining of splits' results in
//! order of position (after Flash-Decoding). Scores are in powers of two.

// Loops of constant length over several arrays at once; an index says it best.
#![allow(clippy::needless_range_loop)]

use super::super::simd::{LANES, Simd};

/// The softmax-weighted sum of values over some positions, not yet divided by the weights' sum;
/// the values lie apart, in whole lines of sixteen.
#[derive(Clone, Copy)]
pub struct Total {
    /// The largest score; -inf when no position was seen.
    pub max: f32,
    /// The sum of weights, relative to the largest score.
    pub sum: f32,
}

impl Total {
    /// Of no positions.
    pub const NONE: Total = Total { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Adds the positions of the next split that sees any.
    #[inline(always)]
    pub fn fold<S: Simd>(
        &mut self,
        s: S,
        values: &mut [[f32; LANES]],
        new: Total,
        new_values: &[[f32; LANES]],
    ) {
        if new.max == f32::NEG_INFINITY {
            return;
        }
        let max = if self.max > new.max { self.max } else { new.max };
        let [mut ours, mut theirs] = [[0.0; LANES]; 2];
        s.store(s.exp2(s.splat(self.max - max)), &mut ours);
        s.store(s.exp2(s.splat(new.max - max)), &mut theirs);
        let (ours, theirs) = (ours[0], theirs[0]);
        *self = Total { max, sum: self.sum * ours + new.sum * theirs };
        for (mine, new) in values.iter_mut().zip(new_values) {
            let kept = s.mul(s.load(mine), s.splat(ours));
            s.store(s.mul_add(s.load(new), s.splat(theirs), kept), mine);
        }
    }

    /// Divides by the weights' sum.
    #[inline(always)]
    pub fn divide(&self, values: &[[f32; LANES]], out: &mut [f32]) {
        let scale = 1.0 / self.sum;
        for (out, x) in out.iter_mut().zip(values.as_flattened()) {
            *out = x * scale;
        }
    }
}

/// Turns the scores of M queries, sixteen positions at a time, into weights 2^(score - max). A
/// score of -inf becomes a weight of 0.
#[inline(always)]
pub fn softmax<S: Simd, const M: usize>(s: S, scores: &mut [[[f32; LANES]; M]]) -> [Total; M] {
    let mut totals = [Total::NONE; M];
    for m in 0..M {
        let mut max = s.splat(f32::NEG_INFINITY);
        for scores in &*scores {
            max = s.max(s.load(&scores[m]), max);
        }
        let max = s.max_lane(max);
        // A query that sees nothing here: all its weights become 0.
        let base = s.splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut sum = s.splat(0.0);
        for scores in &mut *scores {
            let weight = s.exp2(s.sub(s.load(&scores[m]), base));
            sum = s.add(sum, weight);
            s.store(weight, &mut scores[m]);
        }
        totals[m] = Total { max, sum: s.sum(sum) };
    }
    totals
}
