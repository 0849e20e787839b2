//! What keys and models have spent in a day and a month: kept as records are written, so that a server
//! starts without looking at a record.

use super::Store;
use super::database::Connection;
use super::error::{Doing, StoreError};
use super::record::UsageRecord;
use std::collections::BTreeMap;
use time::OffsetDateTime;

const DOING: &str = "reading what was spent";

/// Who spends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spender {
    /// A key, by its name; empty: requests without one.
    Key,
    /// A model.
    Model,
}

impl Spender {
    fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Model => "model",
        }
    }
}

/// What somebody has spent.
#[derive(Clone, Debug, PartialEq)]
pub struct SpentOfPeriods {
    /// Who.
    pub spender: Spender,
    /// The name.
    pub name: String,
    /// Dollars of the UTC day.
    pub day: f64,
    /// Dollars of the UTC month.
    pub month: f64,
}

impl Store {
    /// What was spent in the day and the month of a moment (milliseconds since 1970), by all that spent
    /// something then.
    pub fn spent_of_periods(&self, unix_ms: u64) -> Result<Vec<SpentOfPeriods>, StoreError> {
        let [day, month] = periods(unix_ms);
        let sql = "SELECT kind, name, CAST(sum(CASE WHEN period = $1 THEN dollars ELSE 0 END) AS double precision), \
                   CAST(sum(CASE WHEN period = $2 THEN dollars ELSE 0 END) AS double precision) \
                   FROM spent_by_period WHERE period IN ($1, $2) GROUP BY kind, name";
        let rows = self
            .database
            .with(|connection| connection.read(sql, &[day.into(), month.into()]).doing(DOING))?;
        let one = |row: &super::database::Row| {
            let spender = if row.get::<String>(0)? == "key" { Spender::Key } else { Spender::Model };
            Ok(SpentOfPeriods { spender, name: row.get(1)?, day: row.get(2)?, month: row.get(3)? })
        };
        rows.iter().map(one).collect::<Result<_, String>>().doing(DOING)
    }
}

/// The day and the month of a moment, as they are kept.
pub(super) fn periods(unix_ms: u64) -> [String; 2] {
    let time = i64::try_from(unix_ms / 1000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    let date = time.unwrap_or(OffsetDateTime::UNIX_EPOCH).date();
    let month = format!("{:04}-{:02}", date.year(), u8::from(date.month()));
    [format!("{month}-{:02}", date.day()), month]
}

/// One line of `spent_by_period`: period, kind, name.
pub(super) type Line<'a> = (String, &'static str, &'a str);

/// Dollars of records by line, in the order in which all writers add them.
pub(super) fn charges_by_period(records: &[UsageRecord]) -> BTreeMap<Line<'_>, f64> {
    let mut charges = BTreeMap::new();
    let (mut of_day, mut names) = (None, [String::new(), String::new()]);
    for record in records.iter().filter(|record| record.cost > 0.0) {
        let day = record.unix_ms / 86_400_000;
        if of_day != Some(day) {
            (of_day, names) = (Some(day), periods(record.unix_ms));
        }
        for name in &names {
            for (spender, who) in [(Spender::Key, &record.key), (Spender::Model, &record.model)] {
                *charges.entry((name.clone(), spender.as_str(), who.as_str())).or_default() += record.cost;
            }
        }
    }
    charges
}

/// Dollars that a record costs more than it said, less where they are negative.
pub(super) fn correct(
    connection: &mut dyn Connection,
    record: &UsageRecord,
    more: f64,
) -> Result<(), String> {
    let add = "INSERT INTO spent_by_period (period, kind, name, dollars) VALUES ($1, $2, $3, 0) \
               ON CONFLICT (period, kind, name) DO NOTHING";
    let change = "UPDATE spent_by_period SET dollars = CASE WHEN dollars + $1 > 0 THEN dollars + $1 ELSE 0 END \
                  WHERE period = $2 AND kind = $3 AND name = $4";
    for period in periods(record.unix_ms) {
        for (spender, name) in [(Spender::Key, &record.key), (Spender::Model, &record.model)] {
            let line = [period.clone().into(), spender.as_str().to_owned().into(), name.clone().into()];
            connection.change(add, &line)?;
            connection.change(change, &[[more.into()].as_slice(), &line].concat())?;
        }
    }
    Ok(())
}
