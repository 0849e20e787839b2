//! API keys. Everything needs one but [`OPEN_PATHS`]; without any keys configured everything is
//! open. Keys live only as SHA-256 digests, which are compared in constant time.
//!
//! Deliberately absent: tenants and limits per key.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What is served without a key: load balancers ask for it.
pub const OPEN_PATHS: [&str; 1] = ["/health"];

/// The accepted keys.
pub struct Keys {
    digests: Vec<[u8; 32]>,
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// Neither `Authorization: Bearer` nor `x-api-key`.
    Missing,
    /// A key that is not accepted.
    Wrong,
}

impl Keys {
    /// Keeps the keys' digests.
    pub fn new(keys: &[String]) -> Self {
        Self { digests: keys.iter().map(|key| Sha256::digest(key.as_bytes()).into()).collect() }
    }

    /// Whether a request with these headers may ask for this path.
    pub fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), AuthError> {
        if self.digests.is_empty() || OPEN_PATHS.contains(&path) {
            return Ok(());
        }
        let given = presented(headers).ok_or(AuthError::Missing)?;
        let digest: [u8; 32] = Sha256::digest(given).into();
        // No early exit: the time must not tell which key was nearly right.
        let any = self.digests.iter().fold(Choice::from(0), |any, key| any | key.ct_eq(&digest));
        if any.into() { Ok(()) } else { Err(AuthError::Wrong) }
    }
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.as_bytes();
        let (scheme, key) = value.split_at_checked("bearer ".len())?;
        return scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii());
    }
    headers.get("x-api-key").map(|value| value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&str], path: &str, header: Option<(&'static str, &str)>) -> Result<(), AuthError> {
        let keys: Vec<String> = keys.iter().map(|k| k.to_string()).collect();
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().unwrap());
        }
        Keys::new(&keys).check(path, &headers)
    }

    #[test]
    fn keys_guard_everything_but_health() {
        let path = "/v1/models";
        assert_eq!(check(&[], path, None), Ok(()));
        assert_eq!(check(&["k1", "k2"], "/health", None), Ok(()));
        assert_eq!(check(&["k1", "k2"], "/metrics", None), Err(AuthError::Missing));
        assert_eq!(check(&["k1", "k2"], path, None), Err(AuthError::Missing));
        assert_eq!(check(&["k1", "k2"], path, Some(("authorization", "Bearer k2"))), Ok(()));
        assert_eq!(check(&["k1", "k2"], path, Some(("authorization", "bearer  k1 "))), Ok(()));
        assert_eq!(check(&["k1", "k2"], path, Some(("x-api-key", "k1"))), Ok(()));
        assert_eq!(check(&["k1"], path, Some(("authorization", "Bearer k"))), Err(AuthError::Wrong));
        assert_eq!(check(&["k1"], path, Some(("authorization", "Bearer "))), Err(AuthError::Wrong));
        assert_eq!(check(&["k1"], path, Some(("authorization", "Basic k1"))), Err(AuthError::Missing));
        assert_eq!(check(&["k1"], path, Some(("authorization", "B"))), Err(AuthError::Missing));
    }
}
