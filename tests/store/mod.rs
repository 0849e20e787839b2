//! Keys and usage records in real files and in a real PostgreSQL database: through the library, the
//! program and the admin API. `scripts/test_postgres.sh` starts the server.

/// Each of these tests on each store. They take a [`Place`].
macro_rules! on_each_store {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[test] fn $test() { super::$test(&crate::store::place::Place::sqlite()); })+
        }
        mod on_postgres {
            $(#[test] fn $test() {
                if let Some(place) = crate::store::place::Place::postgres() {
                    super::$test(&place);
                }
            })+
        }
    };
}

mod admin;
mod files;
mod keys;
mod million;
pub mod place;
mod postgres;
mod report;
mod scores;
mod totals;
mod under_way;
mod writer;

use novastack::store::{Dimension, Filter, Outcome, Store, Totals, UsageQuery, UsageRecord};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn record(number: u64) -> UsageRecord {
    UsageRecord {
        unix_ms: 1_767_225_600_000 + number,
        request_id: format!("r{number}"),
        attempt: 1,
        key: "alice".into(),
        route: "auto:12".into(),
        arm: None,
        model: "small".into(),
        provider: Some("spare".into()),
        task: "chat".into(),
        input_tokens: 10,
        cached_tokens: 4,
        output_tokens: 3,
        estimated: false,
        flag: None,
        cost: 0.25,
        latency_ms: 120,
        ttft_ms: Some(20),
        outcome: Outcome::Completed,
        status: 200,
        tags: vec![("team".into(), "search".into())],
    }
}

fn totals(store: &Store) -> Totals {
    store.usage(&UsageQuery::default()).expect("totals").remove(0).totals
}

fn all_records(store: &Store, filter: Filter) -> Vec<UsageRecord> {
    let mut records = store.records(filter).expect("records");
    let mut all = Vec::new();
    loop {
        match records.page().expect("a page") {
            page if page.is_empty() => return all,
            page => all.extend(page),
        }
    }
}

fn is(dimension: &str, value: &str) -> (Dimension, String) {
    (Dimension::parse(dimension).expect("a dimension"), value.to_owned())
}

/// Waits for what another thread or process is about to bring about.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `novastack keys ARGS`, in a folder.
fn keys_command(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_novastack"));
    command.arg("keys").args(args).current_dir(folder).output().expect("the program")
}
