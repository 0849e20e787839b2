//! Keys: made from the system's random numbers, shown once, kept as SHA-256. A key is `nsk-` and 64
//! hexadecimal digits, which are 256 random bits: its plain SHA-256 cannot be searched for.

use super::database::{Connection, Row, atomically};
use super::error::{Doing, StoreError};
use super::{Store, now_unix_ms};
use crate::config::Limits;
use rusqlite::types::Value as Cell;
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
/// A credit's, a day's, a month's, a record's.
pub(super) const DOLLARS_MAX: f64 = 1e12;
/// The year 9999: dates beyond it have no usual form.
pub(super) const UNIX_MS_MAX: u64 = 253_402_300_799_000;
/// As [`key`] reads them.
const COLUMNS: &str =
    "name, sha256, prefix, models, limits, credit, created_unix_ms, expires_unix_ms, revoked_unix_ms";

/// What a key may do, as its owner sets it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeySettings {
    /// Names that it may ask for; None: all.
    pub models: Option<Vec<String>>,
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
        let [models, limits, credit, expires] = cells(&key.settings);
        let cells = [
            key.name.clone().into(),
            key.sha256.to_vec().into(),
            key.prefix.clone().into(),
            models,
            limits,
            credit,
            (key.created_unix_ms as i64).into(),
            expires,
        ];
        let insert = "INSERT INTO keys (name, sha256, prefix, models, limits, credit, created_unix_ms, \
                      expires_unix_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (name) DO NOTHING";
        self.database.with(|connection| {
            if connection.change(insert, &cells).doing(doing)? == 0 {
                return Err(StoreError::NameTaken(key.name));
            }
            self.shared.read_keys(connection)?;
            Ok((Arc::new(key), text))
        })
    }

    /// Changes what a key may do. Nothing of others' changes is lost: `change` sees the settings as
    /// they are, and nobody else writes until it is done. Its error is [`StoreError::Invalid`].
    pub fn change_key(
        &self,
        name: &str,
        change: impl FnOnce(&mut KeySettings) -> Result<(), String>,
    ) -> Result<Arc<Key>, StoreError> {
        self.update_key("changing a key", name, |key| {
            if key.revoked_unix_ms.is_some() {
                return Err(StoreError::Revoked(key.name.clone()));
            }
            change(&mut key.settings).map_err(StoreError::Invalid)?;
            check(&key.settings)
        })
    }

    /// Ends a key for good. One that is revoked already stays as it is.
    pub fn revoke_key(&self, name: &str) -> Result<Arc<Key>, StoreError> {
        self.update_key("revoking a key", name, |key| {
            key.revoked_unix_ms.get_or_insert_with(now_unix_ms);
            Ok(())
        })
    }

    fn update_key(
        &self,
        doing: &'static str,
        name: &str,
        change: impl FnOnce(&mut Key) -> Result<(), StoreError>,
    ) -> Result<Arc<Key>, StoreError> {
        self.database.with(|connection| {
            let key = atomically(connection, doing, |connection| {
                let mut key = read_one(connection, name)?;
                change(&mut key)?;
                let [models, limits, credit, expires] = cells(&key.settings);
                let revoked = number(key.revoked_unix_ms);
                let update = "UPDATE keys SET models = $1, limits = $2, credit = $3, expires_unix_ms = $4, \
                              revoked_unix_ms = $5 WHERE name = $6";
                let cells = [models, limits, credit, expires, revoked, key.name.clone().into()];
                connection.change(update, &cells).doing(doing)?;
                Ok(key)
            })?;
            self.shared.read_keys(connection)?;
            Ok(Arc::new(key))
        })
    }
}

/// Settings as they are kept: models, limits, credit, end.
fn cells(settings: &KeySettings) -> [Cell; 4] {
    [
        models_text(settings.models.as_deref()).into(),
        settings.limits.as_ref().map(limits_text).into(),
        settings.credit.into(),
        number(settings.expires_unix_ms),
    ]
}

fn number(ms: Option<u64>) -> Cell {
    ms.map(|ms| ms as i64).into()
}

/// All keys of the store.
pub(super) fn read_all(connection: &mut dyn Connection) -> Result<KeyTable, StoreError> {
    // One statement, so that keys and what they spent are of one moment. Keys of the configuration have
    // spent something, and no row of their own.
    let sql = format!(
        "SELECT {COLUMNS}, spent.key, dollars FROM keys FULL JOIN spent ON spent.key = keys.name \
         ORDER BY name"
    );
    let mut table = KeyTable::default();
    let mut add = |row: &Row| {
        if row.get::<Option<String>>(0)?.is_some() {
            let key = Arc::new(key(row)?);
            table.by_sha256.insert(key.sha256, key.clone());
            table.keys.push(key);
        }
        if let Some(name) = row.get(9)? {
            table.spent.insert(name, row.get(10)?);
        }
        Ok(())
    };
    connection.read(&sql, &[]).and_then(|rows| rows.iter().try_for_each(&mut add)).doing("reading keys")?;
    Ok(table)
}

/// A key that nobody else changes until the transaction ends.
fn read_one(connection: &mut dyn Connection, name: &str) -> Result<Key, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keys WHERE name = $1 {}", connection.dialect().for_update);
    let found = connection.read(&sql, &[name.to_owned().into()]).doing("reading keys")?;
    match found.first() {
        Some(row) => key(row).doing("reading keys"),
        None => {
            let hint = nearest(name, read_all(connection)?.keys.iter().map(|key| key.name.as_str()));
            Err(StoreError::NoSuchKey { name: name.to_owned(), hint })
        }
    }
}

fn key(row: &Row) -> Result<Key, String> {
    let limits: Option<String> = row.get(4)?;
    let ms = |column| row.get::<Option<i64>>(column).map(|ms| ms.map(|ms| ms.max(0) as u64));
    Ok(Key {
        name: row.get(0)?,
        sha256: row.get(1)?,
        prefix: row.get(2)?,
        settings: KeySettings {
            models: json(&row.get::<String>(3)?, models_of)?,
            limits: limits.map(|text| json(&text, limits_of)).transpose()?,
            credit: row.get(5)?,
            expires_unix_ms: ms(7)?,
        },
        created_unix_ms: ms(6)?.unwrap_or(0),
        revoked_unix_ms: ms(8)?,
    })
}

/// What cannot be read is an error: a key whose bounds are not understood must not be without bounds.
fn json<T>(text: &str, read: fn(&Value) -> Option<T>) -> Result<T, String> {
    let value = serde_json::from_str(text).ok();
    value.as_ref().and_then(read).ok_or_else(|| format!("`{text}` is not understood"))
}

/// What is kept for a key that may ask for no model.
const NO_MODELS: &str = "none";

/// An empty list means all: stores have it so since there are keys.
fn models_text(models: Option<&[String]>) -> String {
    match models {
        None => Value::Array(Vec::new()),
        Some([]) => NO_MODELS.into(),
        Some(names) => names.into(),
    }
    .to_string()
}

fn models_of(value: &Value) -> Option<Option<Vec<String>>> {
    if value == NO_MODELS {
        return Some(Some(Vec::new()));
    }
    let names = value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned));
    let names: Vec<String> = names.collect::<Option<_>>()?;
    Some((!names.is_empty()).then_some(names))
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
    let models = settings.models.as_deref().unwrap_or_default();
    if models.len() > MODELS_MAX {
        return invalid(format!("a key names at most {MODELS_MAX} models, not {}", models.len()));
    }
    for model in models {
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
