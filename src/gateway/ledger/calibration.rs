//! How many tokens an upstream counts for one of our estimate.

use std::sync::atomic::{AtomicU32, Ordering};

/// UTF-8 bytes of a token, rounded down: English prose is at 4 to 5, code and other languages at 2 to 4.
pub const BYTES_PER_TOKEN: u64 = 4;
/// A calibration of 1.
const ONE: u32 = 1 << 12;
/// Shorter prompts say more of the chat template than of the text.
const LEARN_MIN: u64 = 100;

/// How many tokens a model's upstream counts for one of our estimate: a moving average over the last
/// ten requests or so.
#[derive(Debug)]
pub struct Calibration {
    /// In 1/4096.
    ratio: AtomicU32,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { ratio: AtomicU32::new(ONE) }
    }
}

impl Calibration {
    /// What the upstream would count.
    pub fn apply(&self, estimate: u64) -> u64 {
        let ratio = u64::from(self.ratio.load(Ordering::Relaxed));
        estimate.saturating_mul(ratio).div_ceil(u64::from(ONE))
    }

    /// The upstream has counted. What is far from any tokenizer (images, a provider's own system prompt)
    /// counts as a factor of four at most.
    pub fn learn(&self, estimate: u64, counted: u64) {
        if estimate < LEARN_MIN || counted == 0 {
            return;
        }
        let ratio = (counted as f64 / estimate as f64 * f64::from(ONE)).round();
        let ratio = (ratio as u32).clamp(ONE / 4, ONE * 4);
        let average = |old: u32| Some((old * 7 + ratio).div_ceil(8));
        let _ = self.ratio.fetch_update(Ordering::Relaxed, Ordering::Relaxed, average);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_learns_what_its_upstream_counts() {
        let calibration = Calibration::default();
        assert_eq!(calibration.apply(1000), 1000);
        (0..50).for_each(|_| calibration.learn(1000, 1300));
        assert!((1295..=1305).contains(&calibration.apply(1000)), "{}", calibration.apply(1000));
        // Short prompts, and counts that are none, say nothing.
        calibration.learn(10, 500);
        calibration.learn(1000, 0);
        assert!((1295..=1305).contains(&calibration.apply(1000)));
        // One that is far off moves it, within bounds.
        (0..100).for_each(|_| calibration.learn(1000, 1_000_000));
        assert_eq!(calibration.apply(1000), 4000);
        (0..100).for_each(|_| calibration.learn(u64::MAX, 1));
        assert!((250..=252).contains(&calibration.apply(1000)));
        assert_eq!(calibration.apply(u64::MAX), u64::MAX.div_ceil(u64::from(ONE)));
    }
}
