//! Passes over a row of logits. The loops work on fixed-size lanes without branches, so that
//! LLVM vectorises them on any x86-64 and aarch64.

use crate::protocol::TokenId;
use std::cmp::Ordering;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub token: TokenId,
    pub logit: f32,
}

const LANES: usize = 16;
/// Logits between two looks at the running result: 64 cache lines.
const CHUNK: usize = 1024;
/// Values of a digit in a radix selection; three digits make 32 bits.
const RADIX: usize = 1 << 11;

/// The first largest logit; None when one is NaN or +infinity, or none is above -infinity. One
/// pass over memory: each chunk's maximum is found in lanes, its index only in the chunk that wins.
pub(super) fn argmax(row: &[f32]) -> Option<Candidate> {
    let mut best = f32::NEG_INFINITY;
    let mut best_chunk = 0;
    let mut any_nan = false;
    for (index, chunk) in row.chunks(CHUNK).enumerate() {
        let mut max = [f32::NEG_INFINITY; LANES];
        // NaNs per lane, counted in f32: the type of the comparison, so that lanes stay lanes.
        let mut nans = [0f32; LANES];
        let (lanes, rest) = chunk.as_chunks::<LANES>();
        for x in lanes {
            for i in 0..LANES {
                max[i] = if x[i] > max[i] { x[i] } else { max[i] };
            }
            // A loop of its own: together with the above LLVM does worse.
            for i in 0..LANES {
                nans[i] += if x[i].is_nan() { 1.0 } else { 0.0 };
            }
        }
        for x in rest {
            max[0] = if *x > max[0] { *x } else { max[0] };
            nans[0] += if x.is_nan() { 1.0 } else { 0.0 };
        }
        any_nan |= nans.iter().any(|n| *n > 0.0);
        let chunk_max = max.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        if chunk_max > best {
            best = chunk_max;
            best_chunk = index;
        }
    }
    if any_nan || !best.is_finite() {
        return None;
    }
    let start = best_chunk * CHUNK;
    let offset = row[start..].iter().position(|x| *x == best)?;
    Some(Candidate { token: (start + offset) as TokenId, logit: best })
}

/// e^x for x <= 0 within 2 units in the last place; 0 below -87. Branchless: x = n ln 2 + r, a
/// polynomial for e^r (Cephes, Moshier 1992), and n goes into the exponent's bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.987_569_2e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let mantissa = p * r * r + r + 1.0;
    // The low bits of `shifted` are n; n >= -126 keeps the result normal.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x > -87.0 { mantissa * scale } else { 0.0 }
}

/// The sum of e^((x - max) * scale), accumulated in f64.
pub(super) fn sum_exp(row: &[f32], max: f32, scale: f32) -> f64 {
    let mut sums = [0f64; LANES];
    let (lanes, rest) = row.as_chunks::<LANES>();
    for x in lanes {
        // Two loops: f32 and f64 in one are not vectorised.
        let masses = x.map(|x| exp((x - max) * scale));
        for i in 0..LANES {
            sums[i] += f64::from(masses[i]);
        }
    }
    let tail: f64 = rest.iter().map(|x| f64::from(exp((x - max) * scale))).sum();
    sums.iter().sum::<f64>() + tail
}

/// The inverse CDF at `draw` in [0, 1) over all tokens in order of their ids.
pub(super) fn draw(row: &[f32], best: Candidate, scale: f32, draw: f64) -> TokenId {
    let max = best.logit;
    let sums: Vec<f64> = row.chunks(CHUNK).map(|chunk| sum_exp(chunk, max, scale)).collect();
    let mut left = draw * sums.iter().sum::<f64>();
    for (index, sum) in sums.iter().enumerate() {
        if left >= *sum {
            left -= sum;
            continue;
        }
        let start = index * CHUNK;
        let mut last = best.token;
        for (offset, x) in row[start..].iter().take(CHUNK).enumerate() {
            let mass = f64::from(exp((x - max) * scale));
            if mass > 0.0 {
                last = (start + offset) as TokenId;
            }
            left -= mass;
            if left < 0.0 {
                break;
            }
        }
        return last;
    }
    best.token
}

/// Best first, ties by the lower id.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    // Not total_cmp, for which -0.0 and 0.0 are no tie.
    let by_logit = b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal);
    by_logit.then(a.token.cmp(&b.token))
}

/// The `n` largest logits, best first, ties by the lower id; -infinity never counts. A threshold
/// rises while the row is read, so that most blocks of lanes are passed over by one comparison.
pub(super) fn largest(row: &[f32], n: usize, out: &mut Vec<Candidate>) {
    out.clear();
    if n == 0 {
        return;
    }
    // Room for as many again between two selections keeps their cost linear.
    let full = n.saturating_mul(2).saturating_add(64);
    let mut threshold = f32::NEG_INFINITY;
    for (index, lanes) in row.chunks(LANES).enumerate() {
        // A later equal logit has a higher id, so it must be above the threshold to count.
        if !lanes.iter().fold(false, |any, x| any | (*x > threshold)) {
            continue;
        }
        for (offset, logit) in lanes.iter().enumerate().filter(|(_, x)| **x > threshold) {
            out.push(Candidate { token: (index * LANES + offset) as TokenId, logit: *logit });
        }
        if out.len() >= full {
            out.select_nth_unstable_by(n - 1, order);
            out.truncate(n);
            threshold = out[n - 1].logit;
        }
    }
    if out.len() > n {
        out.select_nth_unstable_by(n - 1, order);
        out.truncate(n);
    }
    out.sort_unstable_by(order);
}

/// All tokens with at least this logit, in order of their ids.
pub(super) fn at_least(row: &[f32], threshold: f32, out: &mut Vec<Candidate>) {
    out.clear();
    let all = row.iter().enumerate().filter(|(_, logit)| **logit >= threshold);
    out.extend(all.map(|(token, logit)| Candidate { token: token as TokenId, logit: *logit }));
}

/// The fewest best tokens whose mass e^((x - max) * scale) reaches `wanted`, in order of their ids.
/// A radix selection by mass over the logits' bits: three passes, however flat the row is.
pub(super) fn nucleus(row: &[f32], max: f32, scale: f32, wanted: f64, out: &mut Vec<Candidate>) {
    // Orders as the logits do; 0.0 is added because -0.0 and 0.0 are a tie.
    let key = |c: &Candidate| match (c.logit + 0.0).to_bits() {
        bits if bits >> 31 == 0 => bits | 1 << 31,
        bits => !bits,
    };
    let mass = |c: &Candidate| f64::from(exp((c.logit - max) * scale));
    // What is lower has no mass.
    at_least(row, max - 88.0 / scale, out);
    let mut left = wanted;
    for shift in [21, 10, 0] {
        let digit = |c: &Candidate| (key(c) >> shift) as usize % RADIX;
        let mut masses = [0f64; RADIX];
        out.iter().for_each(|c| masses[digit(c)] += mass(c));
        // Where the mass is reached; by rounding it may never be, then the lowest there is.
        let (mut border, mut at_border) = (0, 0.0);
        for (at, mass) in masses.iter().enumerate().rev().filter(|(_, mass)| **mass > 0.0) {
            left -= at_border;
            (border, at_border) = (at, *mass);
            if *mass >= left {
                break;
            }
        }
        out.retain(|c| digit(c) == border);
    }
    // Equal logits are left, in order of their ids.
    let Some(each) = out.first().map(mass) else { return };
    let last = out[((left / each).ceil() as usize).clamp(1, out.len()) - 1];
    at_least(row, last.logit, out);
    out.retain(|c| c.logit > last.logit || c.token <= last.token);
}
