//! Which part of a model a rank of a tensor-parallel group holds (Megatron-LM, Shoeybi et al.
//! 2019): projections into heads or into an MLP's width are split by output (columns of the
//! mathematical matrix, rows of the stored one), projections back by input, so that one
//! all_reduce after each pair restores the residual stream.

use super::LoadError;
use crate::backend::HeadLayout;
use std::ops::Range;

/// A rank and the number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub rank: usize,
    /// At least 1.
    pub ranks: usize,
}

impl Shard {
    /// The whole model.
    pub const WHOLE: Shard = Shard { rank: 0, ranks: 1 };

    /// This rank's part of `total` values, in whole units and as even as these allow. `what` is
    /// for the error where there are fewer units than ranks.
    pub fn range(&self, what: &str, total: usize, unit: usize) -> Result<Range<usize>, LoadError> {
        let units = total / unit;
        if !total.is_multiple_of(unit) || units < self.ranks {
            return Err(self.error(format!("{what}: {total} in units of {unit} do not give a part to each")));
        }
        let at = |rank: usize| units * rank / self.ranks * unit;
        Ok(at(self.rank)..at(self.rank + 1))
    }

    /// This rank's query heads, each with as many as the others.
    pub fn heads(&self, heads: usize) -> Result<Range<usize>, LoadError> {
        if !heads.is_multiple_of(self.ranks) {
            return Err(self.error(format!("{heads} attention heads cannot be split evenly")));
        }
        let each = heads / self.ranks;
        Ok(self.rank * each..(self.rank + 1) * each)
    }

    /// This rank's kv heads. Where ranks outnumber them, as many ranks share each.
    pub fn kv_heads(&self, kv_heads: usize) -> Result<Range<usize>, LoadError> {
        if kv_heads.is_multiple_of(self.ranks) {
            return self.heads(kv_heads);
        }
        if !self.ranks.is_multiple_of(kv_heads) {
            return Err(self.error(format!("{kv_heads} kv heads can be neither split nor replicated evenly")));
        }
        let head = self.rank * kv_heads / self.ranks;
        Ok(head..head + 1)
    }

    /// The heads that this rank computes.
    pub fn layout(&self, heads: HeadLayout) -> Result<HeadLayout, LoadError> {
        let local = HeadLayout {
            heads: self.heads(heads.heads)?.len(),
            kv_heads: self.kv_heads(heads.kv_heads)?.len(),
            head_dim: heads.head_dim,
        };
        Ok(local)
    }

    fn error(&self, reason: String) -> LoadError {
        LoadError::Shard { ranks: self.ranks, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_and_cover_everything() {
        for (total, unit, ranks) in [(1536, 128, 8), (151_936, 1, 8), (7, 1, 3), (1024, 256, 4)] {
            let mut end = 0;
            for rank in 0..ranks {
                let part = Shard { rank, ranks }.range("it", total, unit).expect("a part");
                assert!(part.start == end && !part.is_empty() && part.len().is_multiple_of(unit), "{part:?}");
                end = part.end;
            }
            assert_eq!(end, total);
        }
        let error = Shard { rank: 0, ranks: 8 }.range("the MLP", 256, 128).expect_err("too few").to_string();
        assert!(error.contains("tensor-parallel 8") && error.contains("the MLP"), "{error}");
    }

    #[test]
    fn kv_heads_follow_their_query_heads() {
        // Qwen3-235B-A22B: 64 query heads, 4 kv heads.
        for ranks in [1, 2, 4, 8, 16, 64] {
            for rank in 0..ranks {
                let shard = Shard { rank, ranks };
                let kv = shard.kv_heads(4).expect("kv heads");
                let q = shard.heads(64).expect("heads");
                assert_eq!(q.start / 16, kv.start, "{ranks} ranks, rank {rank}");
                assert_eq!((q.end - 1) / 16, kv.end - 1, "{ranks} ranks, rank {rank}");
            }
        }
        assert!(Shard { rank: 0, ranks: 6 }.kv_heads(4).is_err());
        assert!(Shard { rank: 0, ranks: 3 }.heads(64).is_err());
    }
}
