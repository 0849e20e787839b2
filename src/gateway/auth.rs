//! API keys. Everything needs one but [`OPEN_PATHS`]; without any keys configured everything is
//! open. Keys live only as SHA-256 digests, which are compared in constant time.
//!
//! Deliberately absent: limits, which [`super::account`] keeps to.

use crate::config::{self, Limits};
use crate::store::{KeySettings, Refusal, Store, now_unix_ms};
use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What is served without a key: load balancers ask for it.
pub const OPEN_PATHS: [&str; 3] = ["/health", "/livez", "/readyz"];

/// Whose request it is.
#[derive(Debug, Default, PartialEq)]
pub struct Tenant {
    /// The key's name; empty for the command line's, and without keys.
    pub name: String,
    /// Names that it may ask for; None: all.
    pub models: Option<Vec<String>>,
    /// Its own limits, in place of the configuration's for all keys.
    pub limits: Option<Limits>,
    /// Prepaid dollars; None: no bound.
    pub credit: Option<f64>,
}

/// The accepted keys.
pub struct Keys {
    digests: Vec<([u8; 32], Arc<Tenant>)>,
    anybody: Arc<Tenant>,
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// Neither `Authorization: Bearer` nor `x-api-key`.
    Missing,
    /// A key that is not accepted.
    Wrong,
    /// A key that was accepted until it was revoked.
    Revoked,
    /// A key whose time is over.
    Expired,
}

impl From<Refusal> for AuthError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown => Self::Wrong,
            Refusal::Revoked => Self::Revoked,
            Refusal::Expired => Self::Expired,
        }
    }
}

impl Keys {
    /// Keeps the digests of `given` keys, and those of the configuration.
    pub fn new(given: &[String], fixed: &BTreeMap<String, config::Key>) -> Self {
        let anybody = Arc::new(Tenant::default());
        let given = given.iter().map(|key| (Sha256::digest(key.as_bytes()).into(), anybody.clone()));
        let tenant = |name: &String, key: &config::Key| Tenant {
            name: name.clone(),
            models: key.models.clone(),
            limits: key.limits,
            credit: key.credit,
        };
        let fixed = fixed.iter().map(|(name, key)| (key.sha256, Arc::new(tenant(name, key))));
        Self { digests: given.chain(fixed).collect(), anybody: anybody.clone() }
    }

    /// Whose request it is that has these headers and asks for this path, if it may pass. Keys of the
    /// store count too.
    pub fn check(
        &self,
        path: &str,
        headers: &HeaderMap,
        store: Option<&Store>,
    ) -> Result<Arc<Tenant>, AuthError> {
        let stored = store.map(Store::keys);
        let any_stored = stored.as_ref().is_some_and(|keys| !keys.all().is_empty());
        if (self.digests.is_empty() && !any_stored) || OPEN_PATHS.contains(&path) {
            return Ok(self.anybody.clone());
        }
        let given = presented(headers).ok_or(AuthError::Missing)?;
        let digest: [u8; 32] = Sha256::digest(given).into();
        // No early exit: the time must not tell which key was nearly right.
        let found = self
            .digests
            .iter()
            .fold(None, |found, (key, tenant)| if key.ct_eq(&digest).into() { Some(tenant) } else { found });
        match (found, stored) {
            (Some(tenant), _) => Ok(tenant.clone()),
            (None, Some(stored)) => {
                let key = stored.find(&digest, now_unix_ms())?;
                let KeySettings { models, limits, credit, .. } = key.settings.clone();
                Ok(Arc::new(Tenant { name: key.name.clone(), models, limits, credit }))
            }
            (None, None) => Err(AuthError::Wrong),
        }
    }
}

/// The key that a request brings.
pub(super) fn presented(headers: &HeaderMap) -> Option<&[u8]> {
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
        Keys::new(&keys, &BTreeMap::new())
            .check(path, &headers, None)
            .map(|tenant| assert_eq!(tenant.name, ""))
    }

    #[test]
    fn a_fixed_key_names_its_tenant() {
        let key = config::Key {
            sha256: Sha256::digest("k3").into(),
            models: Some(vec!["a".into()]),
            limits: None,
            credit: None,
        };
        let keys = Keys::new(&["k1".into()], &BTreeMap::from([("ci".to_owned(), key)]));
        let headers = |key: &str| {
            HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap())])
        };
        let tenant = keys.check("/v1/models", &headers("k3"), None).unwrap();
        assert_eq!((tenant.name.as_str(), tenant.models.as_deref()), ("ci", Some(&["a".to_owned()][..])));
        assert_eq!(keys.check("/v1/models", &headers("k1"), None).unwrap().name, "");
        assert_eq!(keys.check("/v1/models", &headers("k2"), None), Err(AuthError::Wrong));
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
