//! Scores, and databases that know nothing of them yet.

use super::place::Place;
use super::{all_records, is, record};
use novastack::store::{ArmRow, Filter, Score, Store, StoreError, UsageRecord};

on_each_store!(
    only_who_made_a_request_scores_it,
    a_request_has_a_bounded_number_of_scores,
    the_first_version_is_brought_up_to_date,
);

fn score(id: &str, name: &str, value: f64) -> Score {
    Score::new(id, name, value, Some("it's \"fine\"\0")).expect("a score")
}

fn with_arm(number: u64) -> UsageRecord {
    UsageRecord { arm: Some("small".into()), ..record(number) }
}

fn arms(store: &Store) -> Vec<ArmRow> {
    store.arms(&Filter::default()).expect("arms")
}

#[test]
fn scores_have_bounds() {
    let new = |id: &str, name: &str, value: f64, comment: Option<&str>| {
        Score::new(id, name, value, comment).map(drop).map_err(|(field, _)| field)
    };
    let long = "x".repeat(2001);
    assert_eq!(new("r", "a_b-c.D9", -1e100, Some(&long[..2000])), Ok(()));
    assert_eq!(new(&long[..128], &long[..64], 0.0, None), Ok(()));
    for (id, name, value, comment, field) in [
        ("", "n", 0.0, None, "request_id"),
        (&long[..129], "n", 0.0, None, "request_id"),
        ("r", "", 0.0, None, "name"),
        ("r", &long[..65], 0.0, None, "name"),
        ("r", "a b", 0.0, None, "name"),
        ("r", "n\u{e9}", 0.0, None, "name"),
        ("r", "n", f64::NAN, None, "value"),
        ("r", "n", f64::INFINITY, None, "value"),
        ("r", "n", -1.1e100, None, "value"),
        ("r", "n", 0.0, Some(long.as_str()), "comment"),
    ] {
        assert_eq!(new(id, name, value, comment), Err(field), "{id:.9} {name:.9} {value}");
    }
}

fn only_who_made_a_request_scores_it(place: &Place) {
    let store = place.open();
    store.recorder().record(with_arm(1));
    // Callers choose ids: another key's, and one of nobody's.
    store.recorder().record(UsageRecord { key: "bob".into(), arm: Some("large".into()), ..record(2) });
    store.recorder().record(UsageRecord { key: String::new(), arm: Some("large".into()), ..record(2) });
    store.close().expect("written");
    for (key, id) in [("bob", "r1"), ("", "r1"), ("alice", "r2"), ("alice", "r3")] {
        let refused = store.score(key, &score(id, "thumbs", 1.0));
        assert_eq!(refused, Err(StoreError::NoSuchRequest(id.into())), "{key} {id}");
    }
    assert!(arms(&store).iter().all(|row| row.scores.is_empty()));
    store.score("alice", &score("r1", "thumbs", 1.0)).expect("kept");
    store.score("alice", &score("r1", "thumbs", 0.25)).expect("replaced");
    store.score("bob", &score("r2", "thumbs", -3.0)).expect("kept");
    store.score("", &score("r2", "thumbs", -5.0)).expect("kept");
    let rows = arms(&store);
    let found: Vec<(&str, u64, f64)> =
        rows.iter().map(|row| (row.arm.as_str(), row.scores[0].count, row.scores[0].mean)).collect();
    assert_eq!(found, [("large", 2, -4.0), ("small", 1, 0.25)]);
}

fn a_request_has_a_bounded_number_of_scores(place: &Place) {
    let store = place.open();
    store.recorder().record(with_arm(1));
    store.close().expect("written");
    for number in 0..16 {
        store.score("alice", &score("r1", &format!("n{number}"), 1.0)).expect("kept");
    }
    assert_eq!(store.score("alice", &score("r1", "n16", 1.0)), Err(StoreError::TooManyScores(16)));
    store.score("alice", &score("r1", "n15", 2.0)).expect("replaced");
    let scores = arms(&store).remove(0).scores;
    assert_eq!(scores.len(), 16);
    assert_eq!(scores.iter().find(|score| score.name == "n15").expect("one").mean, 2.0);
}

/// A database as the first version left it, with data.
fn the_first_version_is_brought_up_to_date(place: &Place) {
    let (schema, mark, digest) = match place.schema {
        None => {
            let mark = "PRAGMA application_id = 1315927649; PRAGMA user_version = 1;";
            (include_str!("../../src/store/sqlite.sql"), mark, "x'00ff'")
        }
        Some(_) => {
            let mark = "INSERT INTO novastack_schema VALUES (1);";
            (include_str!("../../src/store/postgres.sql"), mark, "'\\x00ff'")
        }
    };
    let yes = if place.schema.is_some() { "true" } else { "1" };
    place.execute(schema);
    place.execute(mark);
    place.execute(&format!(
        "INSERT INTO usage (unix_ms, request_id, attempt, key, route, model, provider, task, input_tokens,
            cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags)
        VALUES (1767225600001, 'r1', 1, 'alice', 'auto:12', 'small', 'spare', 'chat', 10, 4, 3, {yes}, 0.25, 120,
            20, 'completed', 200, '{{\"team\":\"search\"}}');
        INSERT INTO keys (name, sha256, prefix, models, created_unix_ms)
        VALUES ('alice', {}, 'nsk-1234', '[]', 7);
        INSERT INTO spent VALUES ('alice', 0.25);",
        digest.replace("00ff", &"00ff".repeat(16)),
    ));
    // Twice: what is up to date is left alone.
    for more in [2, 3] {
        let store = place.open();
        assert_eq!(
            (store.keys().all()[0].name.as_str(), store.keys().spent("alice")),
            ("alice", 0.25 * (more - 1) as f64)
        );
        store.recorder().record(with_arm(more));
        store.score("alice", &score("r1", "thumbs", 1.0)).expect("an old request has its score");
        store.close().expect("written");
        let records = all_records(&store, Filter::default());
        let old = UsageRecord { estimated: true, ..record(1) };
        assert_eq!((records.len() as u64, &records[0]), (more, &old));
        assert_eq!(records.last(), Some(&with_arm(more)));
        assert_eq!(arms(&store)[0].requests, more - 1);
        let none = Filter { equal: vec![is("arm", "")], ..Filter::default() };
        assert_eq!(all_records(&store, none), [old]);
    }
}
