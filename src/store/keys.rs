//! Keys: made from the system's random numbers, shown once, kept as SHA-256. A key is `nsk-` and 64
//! hexadecimal digits, which are 256 random bits: its plain SHA-256 cannot be searched for.

use super::error::{Doing, StoreError};
use super::{Store, now_unix_ms};
use crate::config::Limits;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// What every key begins with.
const PREFIX: &str = "nsk-";
/// Characters of a key that lists show.
const SHOWN_CHARS: usize = 8;
/// Of a key's or a model's name.
const NAME_CHARS_MAX: usize = 128;
/// Models that one key may name.
const MODELS_MAX: usize = 1000;
/// A credit's, a day's, a month's.
const DOLLARS_MAX: f64 = 1e12;
/// The year 9999: dates beyond it have no usual form.
const UNIX_MS_MAX: u64 = 253_402_300_799_000;
const READ: &str = "SELECT name, sha256, prefix, models, limits, credit, created_unix_ms, expires_unix_ms, \
     revoked_unix_ms FROM keys";

/// What a key may do, as its owner sets it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeySettings {
    /// Names that it may ask for; empty: all.
    pub models: Vec<String>,
    /// Its own limits, in place of all of the configuration's; None: those of the configuration.
    pub limits: Option<Limits>,
    /// Prepaid dollars in all; what it has spent counts against them. None: no bound.
    pub credit: Option<f64>,
    /// From when on it is refused, in milliseconds since 1970.
    pub expires_unix_ms: Option<u64>,
}

/// A key, without its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its name, once among all keys that ever were.
    pub name: String,
    /// Its first characters, to recognise it by.
    pub prefix: String,
    /// SHA-256 of its text.
    pub sha256: [u8; 32],
    /// What it may do.
    pub settings: KeySettings,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Since when it is refused.
    pub revoked_unix_ms: Option<u64>,
}

/// Why a key is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No key has this digest.
    Unknown,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
}

impl Key {
    /// Whether it is accepted at this time, in milliseconds since 1970.
    pub fn check(&self, now_unix_ms: u64) -> Result<(), Refusal> {
        if self.revoked_unix_ms.is_some() {
            return Err(Refusal::Revoked);
        }
        match self.settings.expires_unix_ms {
            Some(end) if now_unix_ms >= end => Err(Refusal::Expired),
            _ => Ok(()),
        }
    }
}

/// All keys at one moment.
#[derive(Clone, Debug, Default)]
pub struct KeyTable {
    /// By name.
    keys: Vec<Arc<Key>>,
    by_sha256: HashMap<[u8; 32], Arc<Key>>,
    spent: HashMap<String, f64>,
}

impl KeyTable {
    /// All of them, revoked and expired ones too, by name.
    pub fn all(&self) -> &[Arc<Key>] {
        &self.keys
    }

    /// The key with the SHA-256 of its text, if it is accepted at this time. Digests need no
    /// comparison in constant time: nobody can choose what his key's digest begins with.
    pub fn find(&self, sha256: &[u8; 32], now_unix_ms: u64) -> Result<Arc<Key>, Refusal> {
        let key = self.by_sha256.get(sha256).ok_or(Refusal::Unknown)?;
        key.check(now_unix_ms).map(|()| key.clone())
    }

    /// Dollars that a key has spent, by all records written about a second ago or earlier. It knows
    /// the configuration's keys too, by their names.
    pub fn spent(&self, name: &str) -> f64 {
        self.spent.get(name).copied().unwrap_or(0.0)
    }
}

impl Store {
    /// Makes a key. Its text is returned this once and kept nowhere.
    pub fn create_key(&self, name: &str, settings: KeySettings) -> Result<(Arc<Key>, String), StoreError> {
        let doing = "making a key";
        check_name(name)?;
        check(&settings)?;
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| StoreError::Failed { doing, reason: format!("no random numbers: {error}") })?;
        let mut text = PREFIX.to_owned();
        for byte in random {
            let _ = write!(text, "{byte:02x}");
        }
        let key = Key {
            name: name.to_owned(),
            prefix: text[..SHOWN_CHARS].to_owned(),
            sha256: Sha256::digest(&text).into(),
            settings,
            created_unix_ms: now_unix_ms(),
            revoked_unix_ms: None,
        };
        let connection = self.database.connect()?;
        let settings = &key.settings;
        let added = connection
            .execute(
                "INSERT INTO keys (name, sha256, prefix, models, limits, credit, created_unix_ms, \
                 expires_unix_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
                params![
                    key.name,
                    key.sha256.as_slice(),
                    key.prefix,
                    Value::from(settings.models.as_slice()).to_string(),
                    settings.limits.as_ref().map(limits_text),
                    settings.credit,
                    key.created_unix_ms as i64,
                    settings.expires_unix_ms.map(|ms| ms as i64),
                ],
            )
            .doing(doing)?;
        if added == 0 {
            return Err(StoreError::NameTaken(key.name));
        }
        self.shared.read_keys(&connection)?;
        Ok((Arc::new(key), text))
    }

    /// Changes what a key may do. Nothing of others' changes is lost: `change` sees the settings as
    /// they are, and nobody else writes until it is done. Its error is [`StoreError::Invalid`].
    pub fn change_key(
        &self,
        name: &str,
        change: impl FnOnce(&mut KeySettings) -> Result<(), String>,
    ) -> Result<Arc<Key>, StoreError> {
        let doing = "changing a key";
        let mut connection = self.database.connect()?;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(doing)?;
        let mut key = read_one(&transaction, name)?;
        if key.revoked_unix_ms.is_some() {
            return Err(StoreError::Revoked(key.name));
        }
        change(&mut key.settings).map_err(StoreError::Invalid)?;
        check(&key.settings)?;
        let settings = &key.settings;
        let update = "UPDATE keys SET models = ?, limits = ?, credit = ?, expires_unix_ms = ? WHERE name = ?";
        let values = params![
            Value::from(settings.models.as_slice()).to_string(),
            settings.limits.as_ref().map(limits_text),
            settings.credit,
            settings.expires_unix_ms.map(|ms| ms as i64),
            key.name,
        ];
        transaction.execute(update, values).doing(doing)?;
        transaction.commit().doing(doing)?;
        self.shared.read_keys(&connection)?;
        Ok(Arc::new(key))
    }

    /// Ends a key for good. One that is revoked already stays as it is.
    pub fn revoke_key(&self, name: &str) -> Result<Arc<Key>, StoreError> {
        let connection = self.database.connect()?;
        connection
            .execute(
                "UPDATE keys SET revoked_unix_ms = ? WHERE name = ? AND revoked_unix_ms IS NULL",
                params![now_unix_ms() as i64, name],
            )
            .doing("revoking a key")?;
        let key = read_one(&connection, name)?;
        self.shared.read_keys(&connection)?;
        Ok(Arc::new(key))
    }
}

/// All keys of the file.
pub(super) fn read_all(connection: &Connection) -> Result<KeyTable, StoreError> {
    let read = || {
        // One transaction, so that keys and what they spent are of one moment.
        let transaction = connection.unchecked_transaction()?;
        let keys = transaction
            .prepare_cached(&format!("{READ} ORDER BY name"))?
            .query_map([], key)?
            .map(|key| key.map(Arc::new))
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let spent = transaction
            .prepare_cached("SELECT key, dollars FROM spent")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let by_sha256 = keys.iter().map(|key| (key.sha256, key.clone())).collect();
        Ok(KeyTable { keys, by_sha256, spent })
    };
    read().doing("reading keys")
}

fn read_one(connection: &Connection, name: &str) -> Result<Key, StoreError> {
    let found = connection.query_row(&format!("{READ} WHERE name = ?"), [name], key).optional();
    match found.doing("reading keys")? {
        Some(key) => Ok(key),
        None => {
            let hint = nearest(name, read_all(connection)?.keys.iter().map(|key| key.name.as_str()));
            Err(StoreError::NoSuchKey { name: name.to_owned(), hint })
        }
    }
}

fn key(row: &Row) -> rusqlite::Result<Key> {
    let limits: Option<String> = row.get(4)?;
    let ms = |column| row.get::<_, Option<i64>>(column).map(|ms| ms.map(|ms| ms.max(0) as u64));
    Ok(Key {
        name: row.get(0)?,
        sha256: row.get(1)?,
        prefix: row.get(2)?,
        settings: KeySettings {
            models: json(3, &row.get::<_, String>(3)?, models_of)?,
            limits: limits.map(|text| json(4, &text, limits_of)).transpose()?,
            credit: row.get(5)?,
            expires_unix_ms: ms(7)?,
        },
        created_unix_ms: ms(6)?.unwrap_or(0),
        revoked_unix_ms: ms(8)?,
    })
}

/// What cannot be read is an error: a key whose bounds are not understood must not be without bounds.
fn json<T>(column: usize, text: &str, read: fn(&Value) -> Option<T>) -> rusqlite::Result<T> {
    serde_json::from_str(text).ok().as_ref().and_then(read).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            format!("`{text}` is not understood").into(),
        )
    })
}

fn models_of(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

fn limits_text(limits: &Limits) -> String {
    let Limits { requests_per_minute, tokens_per_minute, concurrency, dollars_per_day, dollars_per_month } =
        *limits;
    let entries = [
        ("requests_per_minute", requests_per_minute.map(Value::from)),
        ("tokens_per_minute", tokens_per_minute.map(Value::from)),
        ("concurrency", concurrency.map(Value::from)),
        ("dollars_per_day", dollars_per_day.map(Value::from)),
        ("dollars_per_month", dollars_per_month.map(Value::from)),
    ];
    let entries = entries.into_iter().filter_map(|(name, bound)| Some((name.to_owned(), bound?)));
    Value::Object(entries.collect::<Map<_, _>>()).to_string()
}

fn limits_of(value: &Value) -> Option<Limits> {
    let mut limits = Limits::default();
    for (name, bound) in value.as_object()? {
        match name.as_str() {
            "requests_per_minute" => limits.requests_per_minute = Some(bound.as_u64()?),
            "tokens_per_minute" => limits.tokens_per_minute = Some(bound.as_u64()?),
            "concurrency" => limits.concurrency = Some(bound.as_u64()?),
            "dollars_per_day" => limits.dollars_per_day = Some(bound.as_f64()?),
            "dollars_per_month" => limits.dollars_per_month = Some(bound.as_f64()?),
            _ => return None,
        }
    }
    Some(limits)
}

fn check_name(name: &str) -> Result<(), StoreError> {
    let length = name.chars().count();
    if length == 0 || length > NAME_CHARS_MAX || name.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err(StoreError::Invalid(format!(
            "a key's name has 1 to {NAME_CHARS_MAX} characters without spaces, not `{}`",
            name.chars().take(NAME_CHARS_MAX).collect::<String>().escape_debug()
        )));
    }
    Ok(())
}

fn check(settings: &KeySettings) -> Result<(), StoreError> {
    let invalid = |message: String| Err(StoreError::Invalid(message));
    if settings.models.len() > MODELS_MAX {
        return invalid(format!("a key names at most {MODELS_MAX} models, not {}", settings.models.len()));
    }
    for model in &settings.models {
        if model.is_empty() || model.chars().count() > NAME_CHARS_MAX || model.contains(char::is_whitespace) {
            return invalid(format!(
                "a model's name has 1 to {NAME_CHARS_MAX} characters without spaces, not `{}`",
                model.chars().take(NAME_CHARS_MAX).collect::<String>().escape_debug()
            ));
        }
    }
    let limits = settings.limits.unwrap_or_default();
    for (name, bound) in [
        ("requests_per_minute", limits.requests_per_minute),
        ("tokens_per_minute", limits.tokens_per_minute),
        ("concurrency", limits.concurrency),
    ] {
        if bound == Some(0) {
            return invalid(format!("{name} must be 1 or more, not 0"));
        }
    }
    for (name, dollars) in
        [("dollars_per_day", limits.dollars_per_day), ("dollars_per_month", limits.dollars_per_month)]
    {
        if dollars.is_some_and(|dollars| !(dollars > 0.0 && dollars <= DOLLARS_MAX)) {
            return invalid(format!("{name} must be more than 0 and at most {DOLLARS_MAX}"));
        }
    }
    if settings.credit.is_some_and(|credit| !(0.0..=DOLLARS_MAX).contains(&credit)) {
        return invalid(format!("credit must be from 0 to {DOLLARS_MAX}"));
    }
    if settings.expires_unix_ms.is_some_and(|end| end > UNIX_MS_MAX) {
        return invalid(
            "a key cannot expire after the year 9999: leave it out for one that never does".into(),
        );
    }
    Ok(())
}

/// Names that a wrong one may have meant, at most three.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let lower = name.to_lowercase();
    let slips_max = (name.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = names
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= slips_max || known.starts_with(name))
        .collect();
    near.sort_unstable();
    let near: Vec<String> = near.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
    match near.as_slice() {
        [] => "; `novastack keys list` shows all".into(),
        names => format!(": did you mean {}?", names.join(" or ")),
    }
}
