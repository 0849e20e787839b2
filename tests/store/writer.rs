//! Records on their way to the file.

use super::place::{self, Place};
use super::{all_records, record, totals, wait_until};
use novastack::store::{Dimension, Filter, StoreError, UsageQuery, UsageRecord, now_unix_ms};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

on_each_store!(
    a_hundred_thousand_records_none_lost,
    records_come_back_as_they_were,
    no_record_is_too_odd_to_be_written,
    a_store_that_is_dropped_has_written_everything,
    a_full_queue_does_not_block_and_counts_what_it_loses,
    a_store_that_fails_says_how_many_records_are_lost,
    a_store_that_recovers_loses_nothing,
    a_kill_loses_less_than_a_second,
);

/// Where the child of [`a_kill_loses_less_than_a_second`] writes.
const CHILD: &str = "NOVASTACK_TEST_STORE";

fn a_hundred_thousand_records_none_lost(place: &Place) {
    let store = place.open();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let recorder = store.recorder();
            scope.spawn(move || {
                for number in 0..25_000 {
                    // Faster than any disk: this test is not about a full queue.
                    while recorder.waiting() > 30_000 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    recorder.record(record(thread * 25_000 + number));
                }
            });
        }
    });
    store.close().expect("everything is written");
    let totals = totals(&store);
    assert_eq!((totals.requests, totals.attempts, totals.input_tokens), (100_000, 100_000, 1_000_000));
    assert_eq!((totals.cached_tokens, totals.output_tokens, totals.cost), (400_000, 300_000, 25_000.0));
    assert_eq!(store.recorder().lost(), 0);
    drop(store);
    assert_eq!(place.open().keys().spent("alice"), 25_000.0);
}

fn records_come_back_as_they_were(place: &Place) {
    let store = place.open();
    let odd = UsageRecord {
        request_id: "a\"b,c\r\nd\u{1}e".into(),
        provider: None,
        ttft_ms: None,
        estimated: true,
        outcome: novastack::store::Outcome::Cancelled,
        status: 499,
        tags: vec![("b".into(), "\u{1f600}".into()), ("a \"x\"".into(), String::new())],
        ..record(7)
    };
    let given = [record(1), odd];
    given.iter().for_each(|it| store.recorder().record(it.clone()));
    store.close().expect("written");
    assert_eq!(all_records(&store, Filter::default()), given);
}

fn no_record_is_too_odd_to_be_written(place: &Place) {
    let store = place.open();
    let odd = [
        UsageRecord { cost: f64::NAN, ..record(1) },
        UsageRecord { cost: -1.0, unix_ms: u64::MAX, latency_ms: u64::MAX, ..record(2) },
        UsageRecord { input_tokens: u64::MAX, output_tokens: u64::MAX, ..record(3) },
        UsageRecord { cost: f64::MAX, key: "rich".into(), ..record(6) },
        UsageRecord { cost: f64::MAX, key: "rich".into(), ..record(7) },
        UsageRecord { input_tokens: u64::MAX, task: "\u{e9}".repeat(5000), ..record(4) },
        UsageRecord { tags: (0..99).map(|n| (n.to_string(), "x".repeat(9999))).collect(), ..record(5) },
    ];
    odd.into_iter().for_each(|it| store.recorder().record(it));
    store.close().expect("written");
    let totals = totals(&store);
    assert_eq!((totals.attempts, totals.cost), (7, 2e12 + 0.75));
    let found = all_records(&store, Filter::default());
    assert_eq!(found[5].task.len(), 1024);
    assert_eq!((found[6].tags.len(), found[6].tags[0].1.len()), (16, 1024));
    let by_day = UsageQuery { group_by: vec![Dimension::Day], ..UsageQuery::default() };
    let days = store.usage(&by_day).expect("days");
    assert_eq!(days.last().expect("a day").group, [Some("9999-12-31".to_owned())]);
}

fn a_store_that_is_dropped_has_written_everything(place: &Place) {
    let store = place.open();
    let recorder = store.recorder();
    (0..10).for_each(|number| recorder.record(record(number)));
    drop(store);
    recorder.record(record(10));
    assert_eq!(recorder.lost(), 1, "after the end");
    assert_eq!(totals(&place.open()).attempts, 10);
}

fn a_full_queue_does_not_block_and_counts_what_it_loses(place: &Place) {
    const GIVEN: u64 = 140_000;
    let store = place.open();
    let recorder = store.recorder();
    let unlock = place.lock();
    let begin = Instant::now();
    (0..GIVEN).for_each(|number| recorder.record(record(number)));
    assert!(recorder.lost() > 0 && recorder.waiting() > 60_000, "{} lost", recorder.lost());
    // Another one holds the table; recording has not waited for it.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    unlock();
    store.close().expect("what was taken is written");
    assert_eq!(totals(&store).attempts + recorder.lost(), GIVEN);
}

fn a_store_that_fails_says_how_many_records_are_lost(place: &Place) {
    let store = place.open();
    place.execute("DROP TABLE usage");
    (0..5).for_each(|number| store.recorder().record(record(number)));
    assert_eq!(store.close(), Err(StoreError::Lost(5)));
    assert_eq!(store.recorder().lost(), 5);
}

fn a_store_that_recovers_loses_nothing(place: &Place) {
    let store = place.open();
    place.execute("ALTER TABLE usage RENAME TO away");
    (0..5).for_each(|number| store.recorder().record(record(number)));
    wait_until("the writer's try", || store.recorder().waiting() == 0);
    std::thread::sleep(Duration::from_millis(300));
    place.execute("ALTER TABLE away RENAME TO usage");
    store.close().expect("written");
    assert_eq!(totals(&store).attempts, 5);
}

/// A real SIGKILL: this test runs the next one in a process of its own.
fn a_kill_loses_less_than_a_second(place: &Place) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "store::writer::child_that_is_killed", "--ignored", "--nocapture"])
        .env(CHILD, &place.url)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    // NUMBER UNIX_MS of each record, after it was taken.
    let parse = |line: String| -> Option<(u64, u64)> {
        let (number, ms) = line.strip_prefix("record ")?.split_once(' ')?;
        Some((number.parse().ok()?, ms.parse().ok()?))
    };
    let mut taken: Vec<(u64, u64)> = Vec::new();
    while taken.len() < 2000 {
        taken.extend(parse(lines.next().expect("the child goes on")));
    }
    child.kill().expect("killed");
    taken.extend(lines.filter_map(parse));
    child.wait().expect("it ended");
    place.settle();
    let (last, killed_ms) = *taken.last().expect("records");
    assert_eq!(last as usize, taken.len() - 1);

    let store = place.open();
    let found = all_records(&store, Filter::default());
    let numbers: Vec<u64> = found.iter().map(|it| it.latency_ms).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "a beginning without gaps");
    assert!(!found.is_empty());
    // Room for a busy machine beyond the writer's 200 ms.
    let safe = taken.iter().filter(|(_, ms)| ms + 1000 < killed_ms).count();
    assert!(found.len() >= safe, "{} of {} found, {safe} were a second old", found.len(), taken.len());
    assert_eq!(store.keys().spent("alice"), found.len() as f64 * 0.25, "spent with its usage");
}

#[test]
#[ignore = "the child of a_kill_loses_less_than_a_second"]
fn child_that_is_killed() {
    let store = place::open(&std::env::var(CHILD).expect("run by its parent"));
    let mut out = std::io::stdout().lock();
    for number in 0.. {
        let unix_ms = now_unix_ms();
        store.recorder().record(UsageRecord { latency_ms: number, unix_ms, ..record(number) });
        writeln!(out, "record {number} {unix_ms}").and_then(|()| out.flush()).expect("the parent reads");
        std::thread::sleep(Duration::from_micros(500));
    }
}
