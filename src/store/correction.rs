//! Corrects a record: what an upstream said, or an estimate, was wrong. With the record, what its key and
//! its model have spent is corrected, in the same transaction.

use super::Store;
use super::database::{Connection, atomically};
use super::error::{Doing, StoreError};
use super::export;
use super::keys::DOLLARS_MAX;
use super::record::{Flag, UsageRecord};
use super::spending;
use super::writer::COUNT_MAX;
use rusqlite::types::Value;

const DOING: &str = "correcting a record";

/// What a record is to say. What is None stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Correction {
    /// The key's name; empty: none.
    pub key: String,
    /// The request's id.
    pub request_id: String,
    /// Which attempt; None: the only one.
    pub attempt: Option<u32>,
    /// Tokens of the prompt.
    pub input_tokens: Option<u64>,
    /// Of those, from a cache.
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer.
    pub output_tokens: Option<u64>,
    /// Dollars.
    pub cost: Option<f64>,
}

/// A record that was corrected.
#[derive(Clone, Debug, PartialEq)]
pub struct Corrected {
    /// As it was.
    pub before: UsageRecord,
    /// As it is.
    pub after: UsageRecord,
}

impl Corrected {
    /// Dollars that came on top; negative where they were too many.
    pub fn more(&self) -> f64 {
        self.after.cost - self.before.cost
    }
}

impl Store {
    /// Corrects a record that is written.
    ///
    /// # Errors
    /// Numbers out of range; no such record; several, where no attempt is named.
    pub fn correct(&self, correction: &Correction) -> Result<Corrected, StoreError> {
        check(correction)?;
        let corrected = self.database.with(|connection| {
            let corrected = atomically(connection, DOING, |connection| correct(connection, correction))?;
            self.shared.read_keys(connection)?;
            Ok(corrected)
        })?;
        Ok(corrected)
    }
}

fn check(correction: &Correction) -> Result<(), StoreError> {
    let Correction { input_tokens, cached_tokens, output_tokens, cost, .. } = correction;
    let counts =
        [("input_tokens", input_tokens), ("cached_tokens", cached_tokens), ("output_tokens", output_tokens)];
    for (name, count) in counts {
        if count.is_some_and(|count| count > COUNT_MAX) {
            return Err(StoreError::Invalid(format!("{name} must be at most {COUNT_MAX}")));
        }
    }
    if cost.is_some_and(|cost| !(0.0..=DOLLARS_MAX).contains(&cost)) {
        return Err(StoreError::Invalid(format!("cost must be from 0 to {DOLLARS_MAX}")));
    }
    match [*input_tokens, *cached_tokens, *output_tokens].iter().all(Option::is_none) && cost.is_none() {
        true => Err(StoreError::Invalid(
            "nothing to correct: give input_tokens, cached_tokens, output_tokens or cost".into(),
        )),
        false => Ok(()),
    }
}

fn correct(connection: &mut dyn Connection, correction: &Correction) -> Result<Corrected, StoreError> {
    let Correction { key, request_id, attempt, .. } = correction;
    let mut parameters: Vec<Value> = vec![request_id.clone().into(), key.clone().into()];
    let mut condition = String::from("request_id = $1 AND usage.key = $2");
    if let Some(attempt) = attempt {
        parameters.push(i64::from(*attempt).into());
        condition += " AND attempt = $3";
    }
    let sql = format!(
        "SELECT {} FROM usage WHERE {condition} ORDER BY id LIMIT 2 {}",
        export::SELECTED,
        connection.dialect().for_update
    );
    let found = connection.read(&sql, &parameters).doing(DOING)?;
    let row = match found.as_slice() {
        [row] => row,
        [] => return Err(StoreError::NoSuchRecord(request_id.clone())),
        _ => {
            let several = "the request has several records: name one of them by `attempt`";
            return Err(StoreError::Invalid(several.into()));
        }
    };
    let id: i64 = row.get(0).doing(DOING)?;
    let before = export::record(row).doing(DOING)?;
    let input_tokens = correction.input_tokens.unwrap_or(before.input_tokens);
    let after = UsageRecord {
        input_tokens,
        cached_tokens: correction.cached_tokens.unwrap_or(before.cached_tokens).min(input_tokens),
        output_tokens: correction.output_tokens.unwrap_or(before.output_tokens),
        cost: correction.cost.unwrap_or(before.cost),
        flag: Some(Flag::Corrected),
        ..before.clone()
    };
    let update = "UPDATE usage SET input_tokens = $1, cached_tokens = $2, output_tokens = $3, cost = $4, \
                  flag = $5 WHERE id = $6";
    let values: [Value; 6] = [
        (after.input_tokens as i64).into(),
        (after.cached_tokens as i64).into(),
        (after.output_tokens as i64).into(),
        after.cost.into(),
        Flag::Corrected.as_str().to_owned().into(),
        id.into(),
    ];
    connection.change(update, &values).doing(DOING)?;
    let corrected = Corrected { before, after };
    let spend =
        "UPDATE spent SET dollars = CASE WHEN dollars + $1 > 0 THEN dollars + $1 ELSE 0 END WHERE key = $2";
    connection.change(spend, &[corrected.more().into(), key.clone().into()]).doing(DOING)?;
    spending::correct(connection, &corrected.after, corrected.more()).doing(DOING)?;
    Ok(corrected)
}
