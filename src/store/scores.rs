//! What callers think of answers: numbers under names of their own, by the request's id. Only who made a
//! request can score it; the same name again replaces.

use super::database::Connection;
use super::error::{Doing, StoreError};
use super::{Store, now_unix_ms};
use rusqlite::types::Value;

/// Of a request's id.
const ID_BYTES_MAX: usize = 128;
/// Of a score's name.
const NAME_BYTES_MAX: usize = 64;
/// Of a comment.
const COMMENT_BYTES_MAX: usize = 2000;
/// Of a value, without its sign: sums of their squares stay finite.
const VALUE_MAX: f64 = 1e100;
/// Names under which one request can be scored.
const SCORES_MAX: u64 = 16;
const DOING: &str = "writing a score";

/// Takes the place of another one of its name. Writes nothing without a request, nor above the bound
/// (which requests at the same moment may overstep by their number).
const UPSERT: &str = "INSERT INTO scores (request_id, key, name, value, comment, unix_ms) \
    SELECT $1, $2, $3, $4, $5, $6 WHERE EXISTS (SELECT 1 FROM usage WHERE request_id = $1 AND usage.key = $2) \
    AND (SELECT count(*) FROM scores WHERE request_id = $1 AND scores.key = $2 AND name <> $3) < $7 \
    ON CONFLICT (request_id, key, name) DO UPDATE \
    SET value = excluded.value, comment = excluded.comment, unix_ms = excluded.unix_ms";
const COUNT: &str = "SELECT count(*) FROM scores WHERE request_id = $1 AND scores.key = $2";

/// A score within its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    request_id: String,
    name: String,
    value: f64,
    comment: Option<String>,
}

impl Score {
    /// Checks the bounds.
    ///
    /// # Errors
    /// Which field is wrong, and a predicate that says why: "must be ...".
    pub fn new(
        request_id: &str,
        name: &str,
        value: f64,
        comment: Option<&str>,
    ) -> Result<Self, (&'static str, String)> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if request_id.is_empty() || request_id.len() > ID_BYTES_MAX {
            return Err(("request_id", format!("must have 1 to {ID_BYTES_MAX} bytes")));
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_name) {
            let reason = format!("must be 1 to {NAME_BYTES_MAX} letters, digits or any of `_`, `-` and `.`");
            return Err(("name", reason));
        }
        // Not so for NaN.
        if !(-VALUE_MAX..=VALUE_MAX).contains(&value) {
            return Err(("value", format!("must be between -{VALUE_MAX:e} and {VALUE_MAX:e}")));
        }
        if comment.is_some_and(|comment| comment.len() > COMMENT_BYTES_MAX) {
            return Err(("comment", format!("must have at most {COMMENT_BYTES_MAX} bytes")));
        }
        let (request_id, name) = (request_id.to_owned(), name.to_owned());
        Ok(Self { request_id, name, value, comment: comment.map(str::to_owned) })
    }
}

impl Store {
    /// Keeps a score of a request that a key (by name; empty: without one) has made. A request is known
    /// once a record of it is written, a moment after it ended.
    ///
    /// # Errors
    /// [`StoreError::NoSuchRequest`], [`StoreError::TooManyScores`].
    pub fn score(&self, key: &str, score: &Score) -> Result<(), StoreError> {
        let whose: [Value; 2] = [score.request_id.clone().into(), key.to_owned().into()];
        let what: [Value; 5] = [
            score.name.clone().into(),
            score.value.into(),
            score.comment.clone().into(),
            (now_unix_ms() as i64).into(),
            (SCORES_MAX as i64).into(),
        ];
        self.database.with(|connection| {
            if connection.change(UPSERT, &[whose.as_slice(), &what].concat()).doing(DOING)? > 0 {
                return Ok(());
            }
            Err(match count(connection, &whose)? {
                count if count >= SCORES_MAX => StoreError::TooManyScores(count),
                _ => StoreError::NoSuchRequest(score.request_id.clone()),
            })
        })
    }
}

fn count(connection: &mut dyn Connection, whose: &[Value]) -> Result<u64, StoreError> {
    let rows = connection.read(COUNT, whose);
    rows.and_then(|rows| rows[0].get::<i64>(0)).map(|count| count.max(0) as u64).doing(DOING)
}
