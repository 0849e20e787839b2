//! Context lengths in powers of two.

use std::time::Duration;

/// A length class: bucket b holds lengths in `2^(b-1)+1 ..= 2^b`; everything up to
/// 64 is one class, since such work fits a step anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u8);

impl Bucket {
    const SMALLEST: u32 = 6;

    /// How long work of one bucket lets work of the next smaller bucket overtake it. So a prompt
    /// of 8,192 tokens yields to prompts of up to 64 that come at most 7 x 200 ms later.
    pub const AGEING: Duration = Duration::from_millis(200);

    /// The class of a length in tokens.
    pub fn of(tokens: usize) -> Self {
        Self(tokens.max(1).next_power_of_two().trailing_zeros().max(Self::SMALLEST) as u8)
    }

    /// When work of this class that arrived at `arrived` is due. Earliest due goes first: short
    /// work overtakes long work, and ageing is nothing but the passing of time, so what arrives
    /// after a sequence's due time can never overtake it.
    pub fn due(self, arrived: Duration) -> Duration {
        arrived + Self::AGEING * (u32::from(self.0) - Self::SMALLEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders() {
        assert_eq!(Bucket::of(1), Bucket::of(64));
        assert!(Bucket::of(64) < Bucket::of(65));
        assert_eq!(Bucket::of(65), Bucket::of(128));
        assert!(Bucket::of(8192) < Bucket::of(8193));
    }

    #[test]
    fn each_doubling_costs_one_ageing_interval() {
        let at = Duration::from_secs(3);
        assert_eq!(Bucket::of(10).due(at), at);
        assert_eq!(Bucket::of(8192).due(at), at + Bucket::AGEING * 7);
    }
}
