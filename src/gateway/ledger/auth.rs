//! API keys. Everything needs one but what [`is_open`]; without any keys configured everything is
//! open. Keys live only as SHA-256 digests, which are compared in constant time.
//!
//! A key has [`KEY_CHARS_MIN`] characters. Where the key itself is given, a shorter one is refused at the
//! start ([`check_key`]); where only its digest is, it is refused when it comes.
//!
//! What is known of the whole server, its metrics and the reasons of its failures, is its operator's
//! ([`Viewer::Operator`]): who has the admin key, or, where there is none, the only key. Without keys
//! everybody is.
//!
//! Deliberately absent: limits, which [`super::account`] keeps to.

use super::cache_salt;
use crate::config::{self, KEY_CHARS_MIN, Limits};
use crate::gateway::wire::error::ApiError;
use crate::store::{KeySettings, KeyTable, Refusal, Store, now_unix_ms};
use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What is served without a key: load balancers ask for the first three, and the others are the same on every server.
pub const OPEN_PATHS: [&str; 5] = ["/health", "/livez", "/readyz", "/openapi.json", "/docs"];

/// Whether this path is served without a key.
pub fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path) || path.strip_prefix("/docs/").is_some_and(|file| !file.contains('/'))
}

/// Whose request it is.
#[derive(Debug, Default, PartialEq)]
pub struct Tenant {
    /// The key's name; empty without keys. The command line's have no names of their own: theirs is made of the
    /// digest, so that each has its own limits, records and stored responses, whatever others there are.
    pub name: String,
    /// Names that it may ask for; None: all.
    pub models: Option<Vec<String>>,
    /// Its own limits, in place of the configuration's for all keys.
    pub limits: Option<Limits>,
    /// Prepaid dollars; None: no bound.
    pub credit: Option<f64>,
    /// Tenants with the same one share cached prompts.
    pub cache_salt: u64,
}

/// The accepted keys.
pub struct Keys {
    digests: Vec<([u8; 32], Arc<Tenant>)>,
    anybody: Arc<Tenant>,
    /// All of them share cached prompts.
    share_prefix: bool,
}

/// What somebody may see of the server as a whole.
#[derive(Debug, PartialEq)]
pub enum Viewer {
    /// Everything.
    Operator,
    /// What is this tenant's.
    Tenant(Arc<Tenant>),
    /// Whether it is well.
    Stranger(AuthError),
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// Neither `Authorization: Bearer` nor `x-api-key`.
    Missing,
    /// A key that is not accepted.
    Wrong,
    /// A key of fewer than [`KEY_CHARS_MIN`] characters, whatever its digest is.
    Short,
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

impl From<AuthError> for ApiError {
    fn from(e: AuthError) -> Self {
        let message = match e {
            AuthError::Missing => "an API key is needed: send it as `Authorization: Bearer KEY`",
            AuthError::Wrong => "the API key is not valid",
            AuthError::Short => "the API key is not valid: keys have 16 characters or more",
            AuthError::Revoked => "the API key was revoked",
            AuthError::Expired => "the API key has expired",
        };
        Self::invalid(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), message.into())
    }
}

/// Whether a key that an operator gives can be one.
///
/// # Errors
/// What a key has to be like; the key is not repeated.
pub fn check_key(key: &str) -> Result<(), String> {
    match key.len() >= KEY_CHARS_MIN && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(format!(
            "a key has {KEY_CHARS_MIN} characters or more, of those that can be seen in ASCII: `openssl rand -hex 24` \
             makes one"
        )),
    }
}

impl Keys {
    /// Keeps the digests of `given` keys, and those of the configuration.
    pub fn new(given: &[String], fixed: &BTreeMap<String, config::Key>, share_prefix: bool) -> Self {
        let anybody = Arc::new(Tenant { cache_salt: cache_salt::SHARED, ..Tenant::default() });
        let cache_salt = |sha256: &[u8; 32], group: Option<&str>| match group {
            _ if share_prefix => cache_salt::SHARED,
            Some(group) => cache_salt::of_group(group),
            None => cache_salt::of_key(sha256),
        };
        let given = given.iter().map(|key| {
            let sha256: [u8; 32] = Sha256::digest(key.as_bytes()).into();
            let name =
                format!("api-key-{:02x}{:02x}{:02x}{:02x}", sha256[0], sha256[1], sha256[2], sha256[3]);
            (sha256, Arc::new(Tenant { name, cache_salt: cache_salt(&sha256, None), ..Tenant::default() }))
        });
        let tenant = |name: &String, key: &config::Key| Tenant {
            name: name.clone(),
            models: key.models.clone(),
            limits: key.limits,
            credit: key.credit,
            cache_salt: cache_salt(&key.sha256, key.share_prefix.as_deref()),
        };
        let fixed = fixed.iter().map(|(name, key)| (key.sha256, Arc::new(tenant(name, key))));
        Self { digests: given.chain(fixed).collect(), anybody, share_prefix }
    }

    /// Whether everything is open, as there is no key at all.
    pub fn are_none(&self, store: Option<&Store>) -> bool {
        self.digests.is_empty() && store.is_none_or(|store| store.keys().all().is_empty())
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
        if self.are_none(store) || is_open(path) {
            return Ok(self.anybody.clone());
        }
        let given = presented(headers).ok_or(AuthError::Missing)?;
        if given.len() < KEY_CHARS_MIN {
            return Err(AuthError::Short);
        }
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
                let cache_salt = match self.share_prefix {
                    true => cache_salt::SHARED,
                    false => cache_salt::of_key(&digest),
                };
                Ok(Arc::new(Tenant { name: key.name.clone(), models, limits, credit, cache_salt }))
            }
            (None, None) => Err(AuthError::Wrong),
        }
    }

    /// What somebody with these headers may see of the server.
    pub fn viewer(
        &self,
        headers: &HeaderMap,
        store: Option<&Store>,
        admin_key_sha256: Option<&[u8; 32]>,
    ) -> Viewer {
        if self.are_none(store) || is_admin(headers, admin_key_sha256) {
            return Viewer::Operator;
        }
        let count = self.digests.len() + store.map(Store::keys).as_deref().map_or(0, accepted);
        // No open path has this name.
        match self.check("", headers, store) {
            Ok(_) if count == 1 && admin_key_sha256.is_none() => Viewer::Operator,
            Ok(tenant) => Viewer::Tenant(tenant),
            Err(error) => Viewer::Stranger(error),
        }
    }
}

/// Keys of the store that are accepted now.
fn accepted(keys: &KeyTable) -> usize {
    let now = now_unix_ms();
    keys.all().iter().filter(|key| key.check(now).is_ok()).count()
}

/// Whether a request brings the admin key.
pub(in crate::gateway) fn is_admin(headers: &HeaderMap, admin_key_sha256: Option<&[u8; 32]>) -> bool {
    let (Some(admin), Some(given)) = (admin_key_sha256, presented(headers)) else { return false };
    let digest: [u8; 32] = Sha256::digest(given).into();
    admin.ct_eq(&digest).into()
}

/// The key that a request brings; nothing is no key.
pub(in crate::gateway) fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let key = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let (scheme, key) = value.as_bytes().split_at_checked("bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)?
        }
        None => headers.get("x-api-key")?.as_bytes(),
    };
    Some(key.trim_ascii()).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const K1: &str = "the-first-of-all-keys";
    const K2: &str = "the-second-of-all-keys";
    const K3: &str = "the-third-of-all-keys";
    const K4: &str = "the-fourth-of-all-keys";
    const K5: &str = "the-fifth-of-all-keys";
    const K6: &str = "the-sixth-of-all-keys";
    const ADMIN: &str = "the-operators-own-key";

    fn check(keys: &[&str], path: &str, header: Option<(&'static str, &str)>) -> Result<(), AuthError> {
        let keys: Vec<String> = keys.iter().map(|k| k.to_string()).collect();
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().unwrap());
        }
        Keys::new(&keys, &BTreeMap::new(), false).check(path, &headers, None).map(|_| ())
    }

    #[test]
    fn a_fixed_key_names_its_tenant() {
        let key = config::Key {
            sha256: Sha256::digest(K3).into(),
            models: Some(vec!["a".into()]),
            limits: None,
            credit: None,
            share_prefix: None,
        };
        let keys = Keys::new(&[K1.into()], &BTreeMap::from([("ci".to_owned(), key)]), false);
        let tenant = keys.check("/v1/models", &bearer(K3), None).unwrap();
        assert_eq!((tenant.name.as_str(), tenant.models.as_deref()), ("ci", Some(&["a".to_owned()][..])));
        let name = keys.check("/v1/models", &bearer(K1), None).unwrap().name.clone();
        // `printf the-first-of-all-keys | sha256sum`
        assert_eq!(name, "api-key-dc2d581d");
        assert_eq!(keys.check("/v1/models", &bearer(K2), None), Err(AuthError::Wrong));
    }

    fn bearer(key: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap())])
    }

    #[test]
    fn every_key_has_its_own_cached_prompts_unless_they_are_shared() {
        let key = |text: &str, group: Option<&str>| config::Key {
            sha256: Sha256::digest(text).into(),
            models: None,
            limits: None,
            credit: None,
            share_prefix: group.map(str::to_owned),
        };
        let fixed = BTreeMap::from([
            ("alone".to_owned(), key(K3, None)),
            ("one".to_owned(), key(K4, Some("team"))),
            ("two".to_owned(), key(K5, Some("team"))),
            ("other".to_owned(), key(K6, Some("others"))),
        ]);
        let salts = |share_prefix| {
            let keys = Keys::new(&[K1.into(), K2.into()], &fixed, share_prefix);
            [K1, K2, K3, K4, K5, K6]
                .map(|key| keys.check("/v1/models", &bearer(key), None).unwrap().cache_salt)
        };
        let own = salts(false);
        assert_eq!(own[3], own[4], "of one group");
        let different: std::collections::BTreeSet<u64> =
            own.into_iter().chain([cache_salt::SHARED]).collect();
        assert_eq!(different.len(), 6, "{own:?}");
        // A configuration that is read again changes nothing.
        assert_eq!(salts(false), own);
        assert_eq!(salts(true), [cache_salt::SHARED; 6]);
    }

    #[test]
    fn the_server_as_a_whole_is_its_operators() {
        let admin: [u8; 32] = Sha256::digest(ADMIN).into();
        let viewer = |keys: &[&str], admin: Option<&[u8; 32]>, headers: &HeaderMap| {
            let keys: Vec<String> = keys.iter().map(|k| k.to_string()).collect();
            Keys::new(&keys, &BTreeMap::new(), false).viewer(headers, None, admin)
        };
        let is_tenant = |viewer| matches!(viewer, Viewer::Tenant(_));
        assert_eq!(viewer(&[], Some(&admin), &HeaderMap::new()), Viewer::Operator);
        assert_eq!(viewer(&[K1], None, &bearer(K1)), Viewer::Operator);
        assert!(is_tenant(viewer(&[K1, K2], None, &bearer(K1))));
        assert!(is_tenant(viewer(&[K1], Some(&admin), &bearer(K1))));
        assert_eq!(viewer(&[K1, K2], Some(&admin), &bearer(ADMIN)), Viewer::Operator);
        assert_eq!(viewer(&[K1], Some(&admin), &HeaderMap::new()), Viewer::Stranger(AuthError::Missing));
        assert_eq!(viewer(&[K1], None, &bearer(ADMIN)), Viewer::Stranger(AuthError::Wrong));
    }

    #[test]
    fn keys_guard_everything_but_health() {
        let path = "/v1/models";
        let bearer = |key: &str| format!("Bearer {key}");
        let both = |path: &str, header: Option<(&'static str, &str)>| check(&[K1, K2], path, header);
        assert_eq!(check(&[], path, None), Ok(()));
        assert_eq!(both("/health", None), Ok(()));
        assert_eq!(both("/metrics", None), Err(AuthError::Missing));
        assert_eq!(both(path, None), Err(AuthError::Missing));
        assert_eq!(both(path, Some(("authorization", &bearer(K2)))), Ok(()));
        assert_eq!(both(path, Some(("authorization", &format!("bearer  {K1} ")))), Ok(()));
        assert_eq!(both(path, Some(("x-api-key", K1))), Ok(()));
        assert_eq!(both(path, Some(("authorization", &bearer(K3)))), Err(AuthError::Wrong));
        assert_eq!(both(path, Some(("authorization", &format!("Basic {K1}")))), Err(AuthError::Missing));
        assert_eq!(both(path, Some(("authorization", "B"))), Err(AuthError::Missing));
    }

    #[test]
    fn an_empty_or_a_short_key_never_passes() {
        let digest = |key: &str| config::Key {
            sha256: Sha256::digest(key).into(),
            models: None,
            limits: None,
            credit: None,
            share_prefix: None,
        };
        for (key, refused) in [("", AuthError::Missing), ("short-of-sixteen", AuthError::Short)] {
            // As if nothing had been checked before, and the digest of 15 characters.
            let key = &key[..key.len().saturating_sub(1)];
            let keys = Keys::new(&[key.to_owned()], &BTreeMap::from([("k".to_owned(), digest(key))]), false);
            for (name, value) in [("authorization", format!("Bearer {key}")), ("x-api-key", key.to_owned())] {
                let mut headers = HeaderMap::new();
                headers.insert(name, value.parse().unwrap());
                assert_eq!(keys.check("/v1/models", &headers, None), Err(refused), "{name}: {value:?}");
            }
            assert!(check_key(key).unwrap_err().contains("16 characters"));
        }
        for bad in ["sixteen letters.", "sixteen-letters-\u{e9}", "sixteen-letters-\n"] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_key("short-of-sixteen"), Ok(()));
    }
}
