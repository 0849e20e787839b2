//! What becomes of a file: created, recognised, refused.

use super::{record, totals};
use novastack::config;
use novastack::store::{Store, StoreError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use tempfile::TempDir;

/// A folder and a file in it that is not there yet.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nova.db");
    (folder, path)
}

fn try_open(path: &Path) -> Result<Arc<Store>, StoreError> {
    Store::open(&config::Store::Sqlite(path.to_owned()))
}

fn open(path: &Path) -> Arc<Store> {
    try_open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// The words of an error that leaves the file as it was.
fn refused(path: &Path) -> String {
    let before = std::fs::read(path).expect("a file");
    let Err(error) = try_open(path) else { panic!("{} was taken for a store", path.display()) };
    assert_eq!(std::fs::read(path).expect("a file"), before, "the file was changed");
    assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains("left as it is"), "{text}");
    text
}

#[test]
fn files_are_their_owners_only() {
    let (folder, path) = place();
    let store = open(&path);
    store.recorder().record(record(1));
    super::wait_until("a write", || totals(&store).attempts == 1);
    let entries = std::fs::read_dir(folder.path()).expect("a folder");
    let modes: Vec<(String, u32)> = entries
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
            (entry.file_name().to_string_lossy().into_owned(), mode)
        })
        .collect();
    assert!(modes.len() >= 2, "the log lies beside the file: {modes:?}");
    assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");
}

#[test]
fn what_is_no_database_is_refused() {
    let (_folder, path) = place();
    std::fs::write(&path, "server:\n  port: 8000\n".repeat(200)).expect("a file");
    assert!(refused(&path).contains("not an SQLite database"));
}

#[test]
fn a_damaged_store_is_refused() {
    let (_folder, path) = place();
    open(&path).close().expect("closed");
    let mut bytes = std::fs::read(&path).expect("a file");
    // The header says what it said; the first page's table does not.
    bytes[100..].fill(0xa5);
    std::fs::write(&path, bytes).expect("a file");
    assert!(refused(&path).contains("damaged"));
}

#[test]
fn a_newer_store_is_refused() {
    let (_folder, path) = place();
    open(&path).close().expect("closed");
    let other = rusqlite::Connection::open(&path).expect("a database");
    other.pragma_update(None, "user_version", 99).expect("a version");
    drop(other);
    let text = refused(&path);
    assert!(text.contains("newer NovaStack") && text.contains("version 99"), "{text}");
}

#[test]
fn another_programs_database_is_refused() {
    let (_folder, path) = place();
    let other = rusqlite::Connection::open(&path).expect("a database");
    other.execute_batch("CREATE TABLE users (id INTEGER)").expect("a table");
    drop(other);
    assert!(refused(&path).contains("another program"));
}

#[test]
fn places_where_no_file_can_be() {
    let (folder, _) = place();
    for bad in [folder.path().to_owned(), folder.path().join("none/nova.db")] {
        let Err(error) = try_open(&bad) else { panic!("{} was opened", bad.display()) };
        let text = error.to_string();
        assert!(text.contains(&bad.display().to_string()) && text.contains("cannot be"), "{text}");
    }
}

#[test]
fn names_have_no_second_meaning() {
    let (folder, _) = place();
    for name in [":memory:", "file:nova.db?mode=memory"] {
        let path = folder.path().join(name);
        open(&path).create_key("alice", Default::default()).expect("a key");
        assert!(path.exists(), "{name}");
        assert_eq!(open(&path).keys().all().len(), 1, "{name}");
    }
}

#[test]
fn many_may_be_the_first() {
    let (_folder, path) = place();
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (path, barrier) = (&path, &barrier);
            scope.spawn(move || {
                barrier.wait();
                open(path).create_key(&format!("key{number}"), Default::default()).expect("a key");
            });
        }
    });
    assert_eq!(open(&path).keys().all().len(), 8);
}
