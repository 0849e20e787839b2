//! Arms compared, against sums by hand.

use super::place::Place;
use super::record;
use novastack::store::{ArmRow, Filter, Outcome, Score, ScoreTotals, Spread, StoreError, UsageRecord};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

on_each_store!(
    an_id_that_is_used_again_is_another_request,
    names_and_arms_are_bounded,
    errors_of_means_are_exact_far_from_zero,
);

/// A request with an arm, perhaps: its attempts, all but the last of which failed.
#[derive(Clone, Debug)]
struct Made {
    id: u32,
    key: &'static str,
    route: &'static str,
    arm: Option<&'static str>,
    begun: u64,
    /// Each: milliseconds after the one before, how long it took, and until its first text.
    attempts: Vec<(u64, u64, Option<u64>)>,
    end: Outcome,
    /// Eighths of dollars, of each attempt.
    cost: u32,
    scores: Vec<(&'static str, i32)>,
}

impl Made {
    fn records(&self) -> Vec<UsageRecord> {
        let mut unix_ms = self.begun;
        let record = |(number, (gap, latency_ms, ttft_ms)): (usize, &(u64, u64, Option<u64>))| {
            unix_ms += gap;
            let is_last = number + 1 == self.attempts.len();
            UsageRecord {
                unix_ms,
                request_id: format!("r{}", self.id),
                attempt: number as u32 + 1,
                key: self.key.into(),
                route: self.route.into(),
                arm: self.arm.map(str::to_owned),
                latency_ms: *latency_ms,
                ttft_ms: *ttft_ms,
                cost: f64::from(self.cost) / 8.0,
                outcome: if is_last { self.end } else { Outcome::Failed },
                ..record(0)
            }
        };
        self.attempts.iter().enumerate().map(record).collect()
    }
}

fn any_request() -> impl Strategy<Value = Made> {
    let attempts = prop::collection::vec((0..2000u64, 0..3000u64, prop::option::of(0..500u64)), 1..4usize);
    let names = (
        prop::sample::select(vec!["", "alice", "bob"]),
        prop::sample::select(vec!["auto:3", "ab"]),
        prop::option::weighted(0.9, prop::sample::select(vec!["small", "large/b"])),
    );
    let end = prop::sample::select(vec![
        Outcome::Completed,
        Outcome::Completed,
        Outcome::Cancelled,
        Outcome::Failed,
    ]);
    let score = (prop::sample::select(vec!["thumbs", "stars"]), -40..40i32);
    let scores = prop::collection::vec(score, 0..3);
    (0..15u32, names, 0..1_000_000u64, attempts, end, 0..80u32, scores).prop_map(
        |(id, (key, route, arm), begun, attempts, end, cost, scores)| Made {
            id,
            key,
            route,
            arm,
            begun,
            attempts,
            end,
            cost,
            scores,
        },
    )
}

/// Nearest rank, as in totals.
fn spread(mut values: Vec<u64>) -> Spread {
    values.sort_unstable();
    let percentile = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100);
        rank.checked_sub(1).map(|at| values[at])
    };
    let mean = (!values.is_empty()).then(|| values.iter().sum::<u64>() as f64 / values.len() as f64);
    Spread { mean, p50: percentile(50), p95: percentile(95) }
}

fn score_totals(name: &str, values: &[f64]) -> ScoreTotals {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let standard_error = (values.len() > 1).then(|| (variance / count).sqrt());
    ScoreTotals { name: name.into(), count: values.len() as u64, mean, standard_error }
}

type ArmName = (String, String);

fn by_hand(records: &[&UsageRecord], scores: &BTreeMap<(String, String, &str), f64>) -> Vec<ArmRow> {
    // A request begins with an attempt 1, or with whatever comes first of it.
    let mut turns: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut requests: BTreeMap<(ArmName, &str, &str, u32), Vec<&UsageRecord>> = BTreeMap::new();
    for it in records {
        let Some(arm) = &it.arm else { continue };
        let turn = turns.entry((&it.key, &it.request_id)).or_default();
        *turn += u32::from(it.attempt == 1);
        let arm = (it.route.clone(), arm.clone());
        requests.entry((arm, &it.key, &it.request_id, *turn)).or_default().push(it);
    }
    let arms: BTreeSet<&ArmName> = requests.keys().map(|(arm, ..)| arm).collect();
    let row = |arm: &ArmName| {
        let own: Vec<_> = requests.iter().filter(|((of, ..), _)| of == arm).collect();
        let records = || own.iter().flat_map(|(_, records)| records.iter().copied());
        // Usually the last one's; a range of time may leave pieces of two requests together.
        let outcome = |records: &[&UsageRecord]| {
            let any = |outcome| records.iter().any(|it| it.outcome == outcome);
            let good = [Outcome::Completed, Outcome::Cancelled].into_iter().find(|outcome| any(*outcome));
            good.unwrap_or(Outcome::Failed)
        };
        let ended =
            |how: Outcome| own.iter().filter(|(_, records)| outcome(records) == how).collect::<Vec<_>>();
        let begun = |records: &[&UsageRecord]| records.iter().map(|it| it.unix_ms).min().unwrap();
        let latency = |(_, records): &(_, &Vec<&UsageRecord>)| {
            records.iter().map(|it| it.unix_ms + it.latency_ms).max().unwrap() - begun(records)
        };
        let ttft = |(_, records): &(_, &Vec<&UsageRecord>)| {
            let first = records.iter().filter_map(|it| Some(it.unix_ms + it.ttft_ms?)).min()?;
            Some(first - begun(records))
        };
        let scored: BTreeSet<(&str, &str)> = own.iter().map(|((_, key, id, _), _)| (*key, *id)).collect();
        let values = |name: &str| -> Vec<f64> {
            let value =
                |(key, id): &(&str, &str)| scores.get(&(key.to_string(), id.to_string(), name)).copied();
            scored.iter().filter_map(value).collect()
        };
        let names = ["stars", "thumbs"].into_iter().filter(|name| !values(name).is_empty());
        ArmRow {
            route: arm.0.clone(),
            arm: arm.1.clone(),
            requests: own.len() as u64,
            attempts: records().count() as u64,
            flagged: records().filter(|it| it.flag.is_some()).count() as u64,
            failed_attempts: records().filter(|it| it.outcome == Outcome::Failed).count() as u64,
            completed: ended(Outcome::Completed).len() as u64,
            cancelled: ended(Outcome::Cancelled).len() as u64,
            failed: ended(Outcome::Failed).len() as u64,
            input_tokens: records().map(|it| it.input_tokens).sum(),
            cached_tokens: records().map(|it| it.cached_tokens).sum(),
            output_tokens: records().map(|it| it.output_tokens).sum(),
            cost: records().map(|it| it.cost).sum(),
            latency_ms: spread(ended(Outcome::Completed).into_iter().map(latency).collect()),
            ttft_ms: spread(own.iter().filter_map(ttft).collect()),
            scores: names.map(|name| score_totals(name, &values(name))).collect(),
        }
    };
    arms.into_iter().map(row).collect()
}

/// The same but for the last digits of means.
fn assert_same(found: Vec<ArmRow>, expected: Vec<ArmRow>) {
    let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-9 * expected.abs().max(1.0);
    let rounded = |rows: &[ArmRow], model: &[ArmRow]| -> Vec<ArmRow> {
        let mut rows = rows.to_vec();
        for (row, model) in rows.iter_mut().zip(model) {
            for (own, other) in [(&mut row.latency_ms, model.latency_ms), (&mut row.ttft_ms, model.ttft_ms)] {
                if let (Some(a), Some(b)) = (own.mean, other.mean)
                    && close(a, b)
                {
                    own.mean = other.mean;
                }
            }
            for (own, other) in row.scores.iter_mut().zip(&model.scores) {
                if close(own.mean, other.mean) {
                    own.mean = other.mean;
                }
                if let (Some(a), Some(b)) = (own.standard_error, other.standard_error)
                    && close(a, b)
                {
                    own.standard_error = other.standard_error;
                }
            }
        }
        rows
    };
    assert_eq!(rounded(&found, &expected), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arms_equal_sums_by_hand(
        given in prop::collection::vec(any_request(), 0..40),
        range in (prop::option::of(0..300_000u64), prop::option::of(700_000..1_000_000u64)),
        route in prop::option::of(prop::sample::select(vec!["ab", "auto:3"])),
    ) {
        let equal = route.map(|route| super::is("route", route)).into_iter().collect();
        let filter = Filter { from_unix_ms: range.0, to_unix_ms: range.1, equal };
        for place in [Some(Place::sqlite()), Place::postgres()].iter().flatten() {
            check(place, &given, &filter, route);
        }
    }
}

fn check(place: &Place, given: &[Made], filter: &Filter, route: Option<&str>) {
    let store = place.open();
    let records: Vec<UsageRecord> = given.iter().flat_map(Made::records).collect();
    records.iter().for_each(|it| store.recorder().record(it.clone()));
    store.close().expect("written");
    let mut scores = BTreeMap::new();
    for made in given {
        for (name, value) in &made.scores {
            let (id, value) = (format!("r{}", made.id), f64::from(*value) / 8.0);
            store.score(made.key, &Score::new(&id, name, value, None).expect("a score")).expect("kept");
            scores.insert((made.key.to_owned(), id, *name), value);
        }
    }
    let counts = |it: &&UsageRecord| {
        filter.from_unix_ms.is_none_or(|from| it.unix_ms >= from)
            && filter.to_unix_ms.is_none_or(|to| it.unix_ms < to)
            && route.is_none_or(|route| it.route == route)
    };
    let picked: Vec<&UsageRecord> = records.iter().filter(counts).collect();
    assert_same(store.arms(filter).expect("arms"), by_hand(&picked, &scores));
}

fn an_id_that_is_used_again_is_another_request(place: &Place) {
    let store = place.open();
    let made = |begun: u64, attempts: u64| Made {
        id: 1,
        key: "alice",
        route: "ab",
        arm: Some("small"),
        begun,
        attempts: (0..attempts).map(|_| (100, 50, Some(10))).collect(),
        end: Outcome::Completed,
        cost: 0,
        scores: Vec::new(),
    };
    let given = [made(0, 1), made(1_000_000, 3), made(2_000_000, 1)];
    given.iter().flat_map(Made::records).for_each(|it| store.recorder().record(it));
    store.close().expect("written");
    let row = store.arms(&Filter::default()).expect("arms").remove(0);
    assert_eq!((row.requests, row.attempts, row.failed_attempts, row.failed), (3, 5, 2, 0));
    assert_eq!((row.latency_ms.p50, row.latency_ms.p95), (Some(50), Some(250)));
}

fn names_and_arms_are_bounded(place: &Place) {
    let store = place.open();
    let arm = |number: u64| UsageRecord { arm: Some(format!("a{number}")), ..record(number) };
    (0..40).for_each(|number| store.recorder().record(UsageRecord { arm: Some("a".into()), ..arm(number) }));
    (0..1000).for_each(|number| store.recorder().record(UsageRecord { route: "many".into(), ..arm(number) }));
    store.close().expect("written");
    let rate = |id: u64, name: &str| {
        store
            .score("alice", &Score::new(&format!("r{id}"), name, 1.0, None).expect("a score"))
            .expect("kept");
    };
    for id in 0..40 {
        rate(id, &format!("own{id}"));
        rate(id, "all");
    }
    let of =
        |route: &str| store.arms(&Filter { equal: vec![super::is("route", route)], ..Filter::default() });
    let rows = of("auto:12").expect("arms");
    let names: BTreeSet<&str> = rows[0].scores.iter().map(|score| score.name.as_str()).collect();
    assert_eq!((rows.len(), names.len(), names.contains("all")), (1, 32, true));
    assert_eq!(of("many").expect("arms").len(), 1000);
    assert_eq!(store.arms(&Filter::default()), Err(StoreError::TooManyGroups(1000)));
}

fn errors_of_means_are_exact_far_from_zero(place: &Place) {
    let store = place.open();
    (0..4)
        .for_each(|number| store.recorder().record(UsageRecord { arm: Some("a".into()), ..record(number) }));
    store.close().expect("written");
    for (number, value) in [1e9, 1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0].into_iter().enumerate() {
        store
            .score("alice", &Score::new(&format!("r{number}"), "big", value, None).expect("a score"))
            .expect("kept");
    }
    let score = store.arms(&Filter::default()).expect("arms").remove(0).scores.remove(0);
    // Of 0, 1, 2, 3: the variance is 5/3.
    let error = score.standard_error.expect("of four");
    assert_eq!((score.count, score.mean), (4, 1e9 + 1.5));
    assert!((error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12, "{error}");
}
