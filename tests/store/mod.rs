//! Keys and usage records in real files: through the library, the program and the admin API.

mod admin;
mod files;
mod keys;
mod totals;
mod writer;

use novastack::store::{Dimension, Filter, Outcome, Store, Totals, UsageQuery, UsageRecord};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder and a file in it that is not there yet.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nova.db");
    (folder, path)
}

fn open(path: &Path) -> Arc<Store> {
    Store::open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn record(number: u64) -> UsageRecord {
    UsageRecord {
        unix_ms: 1_767_225_600_000 + number,
        request_id: format!("r{number}"),
        attempt: 1,
        key: "alice".into(),
        route: "auto:12".into(),
        model: "small".into(),
        provider: Some("spare".into()),
        task: "chat".into(),
        input_tokens: 10,
        cached_tokens: 4,
        output_tokens: 3,
        estimated: false,
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
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
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
