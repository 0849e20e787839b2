//! What is PostgreSQL's own: several stores on one database, servers that go away, URLs and refusals.

use super::place::{Place, Schema, open, parse};
use super::{all_records, keys_command, record, totals, wait_until};
use novastack::store::{Filter, KeySettings, Refusal, Store, StoreError, UsageRecord, now_unix_ms};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

fn place() -> Option<(Place, String)> {
    let place = Place::postgres()?;
    let url = place.url.clone();
    Some((place, url))
}

fn schema(place: &Place) -> &Schema {
    place.schema.as_ref().expect("one in PostgreSQL")
}

/// (records, dollars that alice has spent), as the database has them.
fn kept(place: &Place) -> (i64, f64) {
    let both = "SELECT (SELECT count(*) FROM usage), (SELECT coalesce(sum(dollars), 0) FROM spent)";
    let row = schema(place).client().query_one(both, &[]).expect("a row");
    (row.get(0), row.get(1))
}

fn refused(url: &str) -> String {
    let Err(error) = Store::open(&parse(url)) else { panic!("it was taken for a store") };
    assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
    error.to_string()
}

/// Stands between a store and the server.
struct Proxy {
    url: String,
    line: Arc<Line>,
}

#[derive(Default)]
struct Line {
    /// No connections, neither new nor old ones.
    is_cut: AtomicBool,
    /// The next batch's answer, and all that follows on its connection, is kept back.
    loses_answer: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    fn before(url: &str) -> Self {
        let mut url = url::Url::parse(url).expect("a URL");
        let server = format!("127.0.0.1:{}", url.port().expect("a port"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        url.set_port(Some(listener.local_addr().expect("an address").port())).expect("a port");
        let line = Arc::new(Line::default());
        let shared = line.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server) else { continue };
                shared
                    .streams
                    .lock()
                    .expect("unpoisoned")
                    .extend([&client, &server].map(|it| it.try_clone().expect("a stream")));
                let is_mute = Arc::new(AtomicBool::new(false));
                let (back, forth) = (is_mute.clone(), shared.clone());
                let (from, to) =
                    (server.try_clone().expect("a stream"), client.try_clone().expect("a stream"));
                std::thread::spawn(move || pass(from, to, |_| !back.load(Ordering::SeqCst)));
                std::thread::spawn(move || {
                    pass(client, server, |sent| {
                        let is_batch = sent.windows(12).any(|window| window == b"INTO batches");
                        if is_batch && forth.loses_answer.swap(false, Ordering::SeqCst) {
                            is_mute.store(true, Ordering::SeqCst);
                        }
                        true
                    })
                });
            }
        });
        Self { url: url.into(), line }
    }

    fn cut(&self) {
        self.line.is_cut.store(true, Ordering::SeqCst);
        for stream in self.line.streams.lock().expect("unpoisoned").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.line.is_cut.store(false, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut may_pass: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        if may_pass(&buffer[..size]) && to.write_all(&buffer[..size]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn many_may_be_the_first() {
    let Some((_place, url)) = place() else { return };
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (url, barrier) = (&url, &barrier);
            scope.spawn(move || {
                barrier.wait();
                open(url).create_key(&format!("key{number}"), KeySettings::default()).expect("a key");
            });
        }
    });
    assert_eq!(open(&url).keys().all().len(), 8);
}

#[test]
fn stores_see_each_others_keys_and_spending() {
    let Some((_place, url)) = place() else { return };
    let (one, other) = (open(&url), open(&url));
    let (_, secret) = one.create_key("alice", KeySettings::default()).expect("a key");
    let digest: [u8; 32] = Sha256::digest(&secret).into();
    let find = |store: &Store| store.keys().find(&digest, now_unix_ms()).map(|key| key.settings.credit);
    wait_until("the key", || find(&other) == Ok(None));
    other
        .change_key("alice", |settings| {
            settings.credit = Some(7.0);
            Ok(())
        })
        .expect("changed");
    wait_until("the change", || find(&one) == Ok(Some(7.0)));
    one.recorder().record(record(1));
    wait_until("the spending", || other.keys().spent("alice") == 0.25);
    one.revoke_key("alice").expect("revoked");
    wait_until("the revocation", || find(&other) == Err(Refusal::Revoked));
    assert_eq!(
        other.create_key("alice", KeySettings::default()).map(drop),
        Err(StoreError::NameTaken("alice".into()))
    );
}

#[test]
fn no_change_of_a_key_is_lost() {
    let Some((_place, url)) = place() else { return };
    let stores = [open(&url), open(&url)];
    stores[0]
        .create_key("alice", KeySettings { credit: Some(0.0), ..KeySettings::default() })
        .expect("a key");
    std::thread::scope(|scope| {
        // More at a time than there are connections.
        for store in stores.iter().flat_map(|store| [store; 6]) {
            scope.spawn(move || {
                for _ in 0..10 {
                    let add = |settings: &mut KeySettings| {
                        settings.credit = settings.credit.map(|credit| credit + 1.0);
                        Ok(())
                    };
                    store.change_key("alice", add).expect("changed");
                }
            });
        }
    });
    assert_eq!(open(&url).keys().all()[0].settings.credit, Some(120.0));
}

/// Two writers add to the same keys at the same time.
#[test]
fn all_that_several_stores_write_counts() {
    let Some((_place, url)) = place() else { return };
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let url = &url;
            scope.spawn(move || {
                let store = open(url);
                for number in 0..20_000_u64 {
                    let key = format!("key{}", if writer == 0 { number % 50 } else { 49 - number % 50 });
                    store.recorder().record(UsageRecord { key, ..record(number) });
                    if number % 2000 == 0 {
                        wait_until("the writes", || store.recorder().waiting() == 0);
                    }
                }
                store.close().expect("written");
            });
        }
    });
    let store = open(&url);
    let totals = totals(&store);
    assert_eq!((totals.attempts, totals.cost), (40_000, 10_000.0));
    for key in 0..50 {
        assert_eq!(store.keys().spent(&format!("key{key}")), 200.0);
    }
}

/// The server ends all connections, again and again, while records come.
#[test]
fn lost_connections_lose_no_record_and_double_none() {
    let Some((place, url)) = place() else { return };
    let store = open(&url);
    let (mut client, mut ended) = (schema(&place).client(), 0);
    for round in 0..20 {
        (0..500).for_each(|number| store.recorder().record(record(round * 500 + number)));
        std::thread::sleep(Duration::from_millis(37));
        ended += schema(&place).disconnect(&mut client);
    }
    assert!(ended > 0, "there was nothing to end");
    store.close().expect("everything is written");
    assert_eq!(kept(&place), (10_000, 2500.0));
    assert_eq!(store.recorder().lost(), 0);
}

#[test]
fn a_server_that_was_away_finds_what_waited() {
    let Some((place, url)) = place() else { return };
    let proxy = Proxy::before(&url);
    let store = open(&proxy.url);
    store.create_key("alice", KeySettings::default()).expect("a key");
    store.recorder().record(record(0));
    wait_until("the write", || kept(&place).0 == 1);
    proxy.cut();
    (1..5000).for_each(|number| store.recorder().record(record(number)));
    wait_until("the writer's try", || store.recorder().waiting() < 4999);
    let failed = store.change_key("alice", |_| Ok(()));
    assert!(matches!(failed, Err(StoreError::Failed { .. })), "{failed:?}");
    assert_eq!(store.keys().all().len(), 1, "keys are as they were");
    proxy.mend();
    wait_until("the writes", || kept(&place).0 == 5000);
    // Without a new store: idle connections that have died are replaced.
    store.change_key("alice", |_| Ok(())).expect("changed");
    assert_eq!(totals(&store).attempts, 5000);
    store.close().expect("written");
    assert_eq!((kept(&place), store.recorder().lost()), ((5000, 1250.0), 0));
}

#[test]
fn a_server_that_stays_away_is_not_waited_for() {
    let Some((place, url)) = place() else { return };
    let proxy = Proxy::before(&url);
    let store = open(&proxy.url);
    proxy.cut();
    (0..5).for_each(|number| store.recorder().record(record(number)));
    assert_eq!(store.close(), Err(StoreError::Lost(5)));
    assert_eq!(kept(&place).0, 0);
}

/// The server has written a batch, but its answer does not arrive: with the connection's end, or never.
#[test]
fn a_batch_whose_answer_is_lost_counts_once() {
    for is_cut in [true, false] {
        let Some((place, url)) = place() else { return };
        let proxy = Proxy::before(&url);
        let store = open(&proxy.url);
        proxy.line.loses_answer.store(true, Ordering::SeqCst);
        (0..10).for_each(|number| store.recorder().record(record(number)));
        wait_until("the write", || kept(&place).0 == 10);
        if is_cut {
            proxy.cut();
            proxy.mend();
        }
        (10..15).for_each(|number| store.recorder().record(record(number)));
        store.close().expect("written");
        assert_eq!(kept(&place), (15, 3.75));
        assert!(!proxy.line.loses_answer.load(Ordering::SeqCst), "an answer was lost");
    }
}

#[test]
fn every_text_can_be_stored() {
    let Some((_place, url)) = place() else { return };
    let store = open(&url);
    let odd = UsageRecord {
        request_id: "a\0b".into(),
        task: "\u{1f600} \\ ' {\"\u{1}".into(),
        tags: vec![("n\0".into(), "v\0\\u0000".into()), ("t".into(), "\u{7f}\u{2028}".into())],
        ..record(1)
    };
    store.recorder().record(odd.clone());
    store.close().expect("written");
    let found = all_records(&store, Filter::default()).remove(0);
    // PostgreSQL has no U+0000.
    assert_eq!((found.request_id.as_str(), &found.task), ("a\u{fffd}b", &odd.task));
    let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(found.tags, [tag("n\u{fffd}", "v\u{fffd}\\u0000"), tag("t", "\u{7f}\u{2028}")]);
    let by_tag = Filter { equal: vec![super::is("tag:n\0", "v\0\\u0000")], ..Filter::default() };
    assert_eq!(all_records(&store, by_tag).len(), 1);
    assert!(matches!(store.revoke_key("a\0b"), Err(StoreError::NoSuchKey { .. })));
}

#[test]
fn schemas_of_others_and_newer_ones_are_refused() {
    let Some((place, url)) = place() else { return };
    open(&url).close().expect("closed");
    place.execute("UPDATE novastack_schema SET version = 99");
    let text = refused(&url);
    assert!(text.contains("newer NovaStack") && text.contains("version 99"), "{text}");
    place.execute("DROP TABLE novastack_schema");
    let text = refused(&url);
    assert!(text.contains("another program") && text.contains(&schema(&place).name), "{text}");
    let nowhere = url.replace("search_path%3D", "search_path%3Dno_such_");
    assert!(refused(&nowhere).contains("names no schema that exists"));
}

#[test]
fn errors_say_what_is_wrong_and_never_the_password() {
    let Some((place, url)) = place() else { return };
    let server = url::Url::parse(&url).expect("a URL");
    let (port, password) = (server.port().expect("a port"), server.password().expect("a password"));
    let with = |change: &dyn Fn(&mut url::Url)| {
        let mut url = server.clone();
        url.set_password(Some("s3cr3t")).expect("a password");
        change(&mut url);
        String::from(url)
    };
    let here = format!("postgres://127.0.0.1:{port}/");
    let cases = [
        (with(&|_| {}), here.as_str(), "password authentication failed"),
        (with(&|url| url.set_port(Some(1)).expect("a port")), "127.0.0.1:1/", "cannot be reached"),
        (
            with(&|url| url.set_host(Some("no.such.invalid")).expect("a host")),
            "no.such.invalid",
            "cannot be reached",
        ),
        (with(&|url| url.set_host(Some("%2Fno%2Fsuch")).expect("a host")), "/no/such:", "cannot be reached"),
        // Signs that should have been escaped move the password into other parts of the URL.
        (url.replace(password, "s3cr3t@s3cr3t"), "", "% escapes"),
        (url.replace(password, "x@s3cr3t?s3cr3t=1"), "", "% escapes"),
        (with(&|url| url.set_query(Some("s3cr3t=s3cr3t"))), "", "% escapes"),
        (with(&|url| url.set_query(Some("sslmode=s3cr3t"))), "", "sslmode=disable"),
        (url.replace("/postgres?", "/no_such_database?"), &here, "\"no_such_database\" does not exist"),
    ];
    for (url, place, reason) in cases {
        let text = refused(&url);
        assert!(text.contains(place) && text.contains(reason), "{text}");
        assert!(!text.contains("s3cr3t") && !text.contains(password), "{text}");
    }
    let told = keys_command(place.folder.path(), &["list", "--store", &with(&|_| {})]);
    let text = String::from_utf8_lossy(&told.stderr);
    assert!(!told.status.success() && text.contains("password authentication failed"), "{text}");
    assert!(!text.contains("s3cr3t"), "{text}");
    // Without one in the URL, it is libpq's variable that has it.
    let mut without = server.clone();
    without.set_password(None).expect("no password");
    let list = |variable: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_novastack"));
        command.args(["keys", "list", "--store", without.as_str()]).env("PGPASSWORD", variable);
        command.output().expect("the program").status.success()
    };
    assert!(list(password) && !list("s3cr3t"));
}

/// The server has a certificate for its address by an authority of its own.
#[test]
fn certificates_are_checked() {
    let Some((_place, url)) = place() else { return };
    let Ok(authority) = std::env::var("NOVASTACK_TEST_POSTGRES_CA") else {
        let text = "SKIPPED: encryption to PostgreSQL: NOVASTACK_TEST_POSTGRES_CA is not set\n";
        return drop(std::io::stderr().write_all(text.as_bytes()));
    };
    let list = |url: &str, roots: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_novastack"));
        command.args(["keys", "list", "--store", url]).env_remove("SSL_CERT_FILE");
        command.envs(roots.map(|file| ("SSL_CERT_FILE", file)));
        let output = command.output().expect("the program");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let encrypted = url.clone() + "&sslmode=require";
    let (is_listed, text) = list(&encrypted, None);
    assert!(!is_listed && text.contains("certificate") && text.contains("SSL_CERT_FILE"), "{text}");
    let (is_listed, text) = list(&encrypted, Some(&authority));
    assert!(is_listed, "{text}");
    // The same machine needs no encryption, unless it is asked for.
    for mode in ["", "&sslmode=prefer", "&sslmode=disable"] {
        let (is_listed, text) = list(&(url.clone() + mode), None);
        assert!(is_listed, "{mode}: {text}");
    }
}
