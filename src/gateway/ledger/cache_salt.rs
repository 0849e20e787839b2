//! Whose cached prompts a caller shares. The engine's prefix cache finds the blocks of a prompt by their
//! content; a salt in that content keeps tenants apart, so that neither `cached_tokens` nor the time of an
//! answer tells one key what another has prompted. Salts come from a secret of this process: nobody can
//! choose or guess one.
//!
//! Not kept apart: the room in the cache. A tenant whose own blocks were evicted knows that somebody else
//! was busy, though not with what.

use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// The salt of callers without keys, and of everybody where `server.share_prefix` says so.
pub const SHARED: u64 = 0;

static SECRET: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("the system has random numbers");
    secret
});

/// Of one key, by the SHA-256 of its text: a key without a name of its own is told apart too.
pub fn of_key(sha256: &[u8; 32]) -> u64 {
    salt(b"key", sha256)
}

/// Of all keys that name the same group as their `share_prefix`.
pub fn of_group(name: &str) -> u64 {
    salt(b"group", name.as_bytes())
}

fn salt(kind: &[u8], identity: &[u8]) -> u64 {
    let digest = Sha256::new().chain_update(*SECRET).chain_update(kind).chain_update(identity).finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    // The shared salt is nobody's own.
    u64::from_le_bytes(bytes).max(SHARED + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_every_group_has_a_salt_of_its_own() {
        let salts = [of_key(&[1; 32]), of_key(&[2; 32]), of_group("a"), of_group("b"), SHARED];
        for (index, salt) in salts.iter().enumerate() {
            assert!(!salts[..index].contains(salt), "{salts:?}");
        }
        assert_eq!((of_key(&[1; 32]), of_group("a")), (salts[0], salts[2]));
    }
}
