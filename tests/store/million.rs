//! Many records and many keys: a server starts all the same, and reports are quick.

use super::place::Place;
use super::{all_records, is, record};
use crate::support::server::Server;
use novastack::store::{Dimension, Filter, Spender, Store, UsageQuery, UsageRecord, now_unix_ms};
use std::time::{Duration, Instant};

on_each_store!(
    ten_thousand_and_one_keys_do_not_keep_a_server_from_starting,
    what_was_spent_before_periods_were_kept_is_known,
    what_was_spent_is_told_by_day_and_month,
);

/// More than the groups that one question may have.
const KEYS: u64 = 10_001;
const DAY_MS: u64 = 86_400_000;

/// A server on the place, and how long it took until it was ready.
fn serve(place: &Place) -> (Server, Duration) {
    let file = place.folder.path().join("novastack.yaml");
    let config = format!(
        "server: {{ store: \"{}\", admin_key_env: TEST_ADMIN_KEY }}\n\
         providers: {{ none: {{ format: openai, base_url: \"http://127.0.0.1:9/v1\" }} }}\n\
         models: {{ small: {{ provider: none, price: {{ input: 1, output: 1 }} }} }}\n\
         limits: {{ dollars_per_month: 1000000 }}\n",
        place.url
    );
    std::fs::write(&file, config).expect("a file");
    let begun = Instant::now();
    let path = file.display().to_string();
    let server = Server::try_start_with(&["--config", &path], &[("TEST_ADMIN_KEY", "the-key-of-the-admin")]);
    (server.unwrap_or_else(|log| panic!("it does not start:\n{log}")), begun.elapsed())
}

fn ten_thousand_and_one_keys_do_not_keep_a_server_from_starting(place: &Place) {
    let store = place.open();
    for number in 0..KEYS {
        let key = format!("key{number}");
        store.recorder().record(UsageRecord { key, unix_ms: now_unix_ms(), ..record(number) });
    }
    store.close().expect("written");
    let now = now_unix_ms();
    let spent = store.spent_of_periods(now).expect("what was spent");
    assert_eq!(spent.iter().filter(|it| it.spender == Spender::Key).count() as u64, KEYS);
    drop(store);
    let (server, took) = serve(place);
    assert!(took < Duration::from_secs(20), "{took:?}");
    drop(server);
}

/// A store of the version before: no periods.
fn forget_periods(place: &Place) {
    let version = match place.schema {
        Some(_) => "UPDATE novastack_schema SET version = 3",
        None => "PRAGMA user_version = 3",
    };
    place.execute(&format!(
        "DROP TABLE spent_by_period; DROP TABLE open_attempts; DROP TABLE beats; {version}"
    ));
}

fn what_was_spent_before_periods_were_kept_is_known(place: &Place) {
    let store = place.open();
    let now = 1_769_817_540_000;
    for (number, days_ago) in [0, 0, 1, 29, 30, 400].into_iter().enumerate() {
        let unix_ms = now - days_ago * DAY_MS;
        store.recorder().record(UsageRecord { unix_ms, ..record(number as u64) });
    }
    store.recorder().record(UsageRecord { unix_ms: now, key: String::new(), cost: 4.0, ..record(9) });
    store.close().expect("written");
    let told = |store: &Store| {
        let mut told = store.spent_of_periods(now).expect("what was spent");
        told.sort_by(|a, b| (a.spender, &a.name).cmp(&(b.spender, &b.name)));
        told.iter().map(|it| (it.name.clone(), it.day, it.month)).collect::<Vec<_>>()
    };
    // The 30th of January: the 1st is 29 days ago.
    let expected = [("", 4.0, 4.0), ("alice", 0.5, 1.0), ("small", 4.5, 5.0)];
    let expected = expected.map(|(name, day, month)| (name.to_owned(), day, month));
    assert_eq!(told(&store), expected);
    drop(store);
    forget_periods(place);
    assert_eq!(told(&place.open()), expected);
}

fn what_was_spent_is_told_by_day_and_month(place: &Place) {
    let store = place.open();
    // The last millisecond of a year, and the next one.
    let end = 1_767_225_600_000;
    store.recorder().record(UsageRecord { unix_ms: end - 1, cost: 0.0, ..record(0) });
    for (unix_ms, cost) in [(end - 1, 1.0), (end, 2.0), (end + DAY_MS, 4.0)] {
        store.recorder().record(UsageRecord { unix_ms, cost, ..record(unix_ms % 1_000_000_007) });
    }
    store.close().expect("written");
    for (unix_ms, day, month) in [(end - 1, 1.0, 1.0), (end, 2.0, 6.0), (end + DAY_MS, 4.0, 6.0)] {
        let told = store.spent_of_periods(unix_ms).expect("what was spent");
        assert!(told.iter().all(|it| (it.day, it.month) == (day, month)) && told.len() == 2, "{told:?}");
    }
}

/// A million records of 10,001 keys in this month, written by the database itself.
fn fill(place: &Place) {
    let now = now_unix_ms();
    let (numbers, hex) = match place.schema {
        Some(_) => {
            ("SELECT i FROM generate_series(CAST(0 AS bigint), 999999) AS n (i)", "lpad(to_hex(i), 12, '0')")
        }
        None => (
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999) SELECT i FROM n",
            "printf('%012x', i)",
        ),
    };
    let estimated = if place.schema.is_some() { "false" } else { "0" };
    place.execute(&format!(
        "INSERT INTO usage (unix_ms, request_id, attempt, key, route, model, provider, task, input_tokens,
             cached_tokens, output_tokens, estimated, cost, latency_ms, ttft_ms, outcome, status, tags, arm)
         SELECT {now} - i * 100, '{now:012x}-7abc-8def-' || {hex}, 1, 'key' || (i % {KEYS}), 'ab',
             'model' || (i % 7), 'provider' || (i % 3), 'chat', 100 + i % 50, 4, 33, {estimated}, 0.0025,
             100 + (i * 7919) % 5000, 20 + (i * 31) % 700, 'completed', 200, '{{\"team\":\"search\"}}',
             CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END
         FROM ({numbers}) AS numbers"
    ));
}

/// Prints a table. `cargo test --test novastack -- --ignored a_million_records --nocapture`, with
/// `NOVASTACK_TEST_POSTGRES` for both databases.
#[test]
#[ignore = "takes a minute, and measures"]
fn a_million_records_start_and_report_within_a_second() {
    println!("| store | what | seconds |\n|---|---|---|");
    for place in [Some(Place::sqlite()), Place::postgres()].iter().flatten() {
        let kind = if place.schema.is_some() { "PostgreSQL" } else { "SQLite" };
        let tell = |what: &str, took: Duration| println!("| {kind} | {what} | {:.3} |", took.as_secs_f64());
        place.open().close().expect("made");
        fill(place);
        forget_periods(place);
        let begun = Instant::now();
        place.open().close().expect("migrated");
        tell("migrate once", begun.elapsed());
        let mut slowest = Duration::ZERO;
        let (server, took) = serve(place);
        tell("start of the server", took);
        drop(server);
        slowest = slowest.max(took);
        let store = place.open();
        let mut measure = |what: &str, ask: &dyn Fn() -> u64| {
            let begun = Instant::now();
            assert_eq!(ask(), 1_000_000, "{what}");
            tell(what, begun.elapsed());
            slowest = slowest.max(begun.elapsed());
        };
        let usage = |group_by: &[Dimension]| {
            let query = UsageQuery { group_by: group_by.to_vec(), filter: Filter::default() };
            store.usage(&query).expect("totals").iter().map(|row| row.totals.attempts).sum()
        };
        measure("usage, all together", &|| usage(&[]));
        measure("usage by model", &|| usage(&[Dimension::Model]));
        measure("usage by day and model", &|| usage(&[Dimension::Day, Dimension::Model]));
        measure("report of arms", &|| {
            store.arms(&Filter::default()).expect("arms").iter().map(|row| row.requests).sum()
        });
        let one = Filter { equal: vec![is("key", "key7")], ..Filter::default() };
        assert_eq!(all_records(&store, one).len(), 100);
        println!("the slowest on {kind}: {:.3} s", slowest.as_secs_f64());
    }
}
