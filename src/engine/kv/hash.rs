//! Content names of KV blocks.

use super::BLOCK_TOKENS;
use crate::protocol::TokenId;
use sha2::{Digest, Sha256};

/// Names the tokens of a block and of all blocks before it: SHA-256 over the parent's hash and
/// the block's token ids, cut to 128 bits. A collision would show one caller's context to
/// another, hence a cryptographic hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 16]);

impl BlockHash {
    /// The parent of every first block: sequences share blocks only if they were computed by the
    /// same checkpoint and their callers share a cache namespace.
    pub fn root(checkpoint_salt: u64, cache_salt: u64) -> Self {
        Self::digest(
            Sha256::new().chain_update(checkpoint_salt.to_le_bytes()).chain_update(cache_salt.to_le_bytes()),
        )
    }

    /// The hash of the block that follows `self` and holds `tokens` (one block of them).
    pub fn child(self, tokens: &[TokenId]) -> Self {
        assert_eq!(tokens.len(), BLOCK_TOKENS, "only full blocks have a hash");
        let mut hasher = Sha256::new().chain_update(self.0);
        for token in tokens {
            hasher.update(token.to_le_bytes());
        }
        Self::digest(hasher)
    }

    fn digest(hasher: Sha256) -> Self {
        let mut cut = [0; 16];
        cut.copy_from_slice(&hasher.finalize()[..16]);
        Self(cut)
    }
}
