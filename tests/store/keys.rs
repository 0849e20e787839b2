//! Keys through the library and through `novastack keys`.

use super::place::Place;
use super::{keys_command, record, totals, wait_until};
use novastack::config::Limits;
use novastack::store::{KeySettings, Refusal, StoreError, UsageRecord, now_unix_ms};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::process::Output;

on_each_store!(
    a_keys_life,
    settings_out_of_range_are_refused_and_nothing_changes,
    the_command_line,
    a_server_sees_what_the_command_line_does,
);

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

fn a_keys_life(place: &Place) {
    let store = place.open();
    let limits =
        Limits { requests_per_minute: Some(u64::MAX), dollars_per_month: Some(0.1), ..Limits::default() };
    let settings = KeySettings {
        models: Some(vec!["small".into(), "auto".into()]),
        limits: Some(limits),
        credit: Some(20.0),
        expires_unix_ms: Some(now_unix_ms() + 60_000),
    };
    let (key, secret) = store.create_key("alice", settings.clone()).expect("a key");
    assert!(secret.starts_with("nsk-") && secret.len() == 68, "{secret}");
    assert!(secret[4..].bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!((key.prefix.as_str(), key.sha256), (&secret[..8], digest(&secret)));

    // Known at once here, and again after a restart; kept as a hash only.
    let now = now_unix_ms();
    assert_eq!(store.keys().find(&digest(&secret), now).expect("found").settings, settings);
    drop(store);
    let kept = place.contents();
    assert!(!kept.windows(12).any(|window| window == &secret.as_bytes()[..12]));
    assert!(kept.windows(8).any(|window| window == key.prefix.as_bytes()));
    let store = place.open();
    assert_eq!(*store.keys().find(&digest(&secret), now).expect("found"), *key);
    assert_eq!(store.keys().find(&digest(&secret), now + 60_001), Err(Refusal::Expired));
    assert_eq!(store.keys().find(&digest("nsk-other"), now), Err(Refusal::Unknown));

    let taken = store.create_key("alice", KeySettings::default()).map(|_| ());
    assert_eq!(taken, Err(StoreError::NameTaken("alice".into())));
    let changed = store.change_key("alice", |settings| {
        settings.credit = settings.credit.map(|credit| credit + 5.0);
        settings.expires_unix_ms = None;
        Ok(())
    });
    assert_eq!(changed.expect("changed").settings.credit, Some(25.0));
    assert!(store.keys().find(&digest(&secret), now + 60_001).is_ok());

    let revoked = store.revoke_key("alice").expect("revoked");
    assert_eq!(store.keys().find(&digest(&secret), now), Err(Refusal::Revoked));
    assert_eq!(store.revoke_key("alice").expect("twice").revoked_unix_ms, revoked.revoked_unix_ms);
    assert_eq!(store.change_key("alice", |_| Ok(())), Err(StoreError::Revoked("alice".into())));
    let taken = store.create_key("alice", KeySettings::default()).map(|_| ());
    assert_eq!(taken, Err(StoreError::NameTaken("alice".into())));
    let error = store.revoke_key("alcie").expect_err("no such key").to_string();
    assert_eq!(error, "there is no key named `alcie`: did you mean `alice`?");
}

fn settings_out_of_range_are_refused_and_nothing_changes(place: &Place) {
    let store = place.open();
    let with = |limits: Limits| KeySettings { limits: Some(limits), ..KeySettings::default() };
    for (bad, word) in [
        (with(Limits { concurrency: Some(0), ..Limits::default() }), "concurrency"),
        (with(Limits { dollars_per_day: Some(0.0), ..Limits::default() }), "dollars_per_day"),
        (with(Limits { dollars_per_month: Some(f64::NAN), ..Limits::default() }), "dollars_per_month"),
        (KeySettings { credit: Some(-1.0), ..KeySettings::default() }, "credit"),
        (KeySettings { credit: Some(f64::INFINITY), ..KeySettings::default() }, "credit"),
        (KeySettings { models: Some(vec!["a b".into()]), ..KeySettings::default() }, "a b"),
        (KeySettings { expires_unix_ms: Some(u64::MAX), ..KeySettings::default() }, "9999"),
    ] {
        let error = store.create_key("bad", bad.clone()).map(|_| ()).expect_err("refused");
        assert!(matches!(&error, StoreError::Invalid(text) if text.contains(word)), "{error}");
        store.create_key(word, KeySettings::default()).ok();
        if let Some(key) = store.keys().all().iter().find(|key| key.name == word) {
            let change = |settings: &mut KeySettings| {
                *settings = bad.clone();
                Ok(())
            };
            assert!(store.change_key(&key.name, change).is_err());
            assert_eq!(store.keys().all().iter().find(|it| it.name == word), Some(key));
        }
    }
    for name in ["", "a b", "a\nb", &"x".repeat(129)] {
        assert!(
            matches!(store.create_key(name, KeySettings::default()), Err(StoreError::Invalid(_))),
            "{name:?}"
        );
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn stderr(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

fn the_command_line(place: &Place) {
    let keys = |args: &[&str]| keys_command(place.folder.path(), &[args, &["--store", &place.url]].concat());
    let limits = ["--requests-per-minute", "60", "--dollars-per-day", "2.5", "--credit", "50"];
    let made =
        keys(&[&["create", "alice", "--models", "small,auto", "--expires-days", "30"], &limits[..]].concat());
    let secret = stdout(&made);
    assert!(secret.starts_with("nsk-") && secret.len() == 68, "only the key: {secret}");
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(said.contains("small,auto; 60 requests a minute, $2.5 a day; $50 prepaid; expires 20"), "{said}");

    let list = || -> Value { serde_json::from_str(&stdout(&keys(&["list", "--json"]))).expect("JSON") };
    let alice = list()[0].clone();
    assert_eq!((&alice["prefix"], &alice["credit"]), (&secret[..8].into(), &50.0.into()));
    assert_eq!(alice["limits"]["requests_per_minute"], 60);
    stdout(&keys(&["set", "alice", "--credit", "+20", "--requests-per-minute", "none", "--models", "all"]));
    let alice = list()[0].clone();
    assert_eq!((&alice["credit"], &alice["models"]), (&70.0.into(), &Value::Null));
    stdout(&keys(&["set", "alice", "--models", "none"]));
    assert_eq!(list()[0]["models"], Value::Array(Vec::new()));
    assert_eq!(alice["limits"], serde_json::json!({ "dollars_per_day": 2.5 }));
    stdout(&keys(&["set", "alice", "--default-limits", "--credit", "none", "--expires-days", "none"]));
    let alice = list()[0].clone();
    for name in ["limits", "credit", "expires_at"] {
        assert!(alice[name].is_null(), "{alice}");
    }
    assert!(place.open().keys().find(&digest(&secret), now_unix_ms()).is_ok());

    assert!(stderr(&keys(&["create", "alice"])).contains("a key named `alice` already"));
    assert!(stderr(&keys(&["revoke", "alise"])).contains("did you mean `alice`?"));
    assert!(stderr(&keys(&["set", "alice"])).contains("nothing to set"));
    assert!(stdout(&keys(&["revoke", "alice"])).contains("revoked 20"));
    assert!(stderr(&keys(&["set", "alice", "--credit", "5"])).contains("is revoked"));
    let table = stdout(&keys(&["list"]));
    assert!(
        table.contains("name ") && table.contains(&secret[..8]) && !table.contains(&secret[..12]),
        "{table}"
    );
    for (option, bad) in
        [("--credit", "lots"), ("--concurrency", "0"), ("--expires-days", "-1"), ("--dollars-per-day", "inf")]
    {
        let output = keys(&["create", "bob", &format!("{option}={bad}")]);
        assert_eq!(output.status.code(), Some(2), "{option} {bad}");
    }
}

#[test]
fn the_command_line_finds_the_store() {
    let place = Place::sqlite();
    let folder = &place.folder;
    let keys = |args: &[&str]| keys_command(folder.path(), args);
    assert!(stderr(&keys(&["list"])).contains("--config FILE, or --store sqlite:PATH"));
    let told = stderr(&keys(&["list", "--store", "redis://secret"]));
    assert!(told.ends_with("--store must be sqlite:PATH or postgres://HOST/DATABASE"), "{told}");
    let yaml = |text: &str| std::fs::write(folder.path().join("novastack.yaml"), text).expect("a file");
    yaml("models: { small: { source: x } }\n");
    assert!(stderr(&keys(&["list"])).contains("names no store"));
    let hash = "fe5cf6eef1dc1ca10d8bfa761cf662da62aba67f81b3dd7665e5feaec19643d8";
    yaml(&format!(
        "server: {{ store: \"sqlite:nova.db\" }}\nmodels: {{ small: {{ source: x }} }}\nkeys: {{ ci: {{ sha256: {hash} }} }}\n"
    ));
    let made = keys(&["create", "alice", "--models", "small,lagre"]);
    stdout(&made);
    assert!(String::from_utf8_lossy(&made.stderr).contains("no model, alias or named route `lagre`"));
    assert_eq!(place.open().keys().all().len(), 1);
    assert!(stderr(&keys(&["create", "ci"])).contains("the configuration has a key named `ci`"));
}

/// A server writes usage while `novastack keys` runs beside it, several at a time.
fn a_server_sees_what_the_command_line_does(place: &Place) {
    let store = place.open();
    let recorder = store.recorder();
    let keys = |args: &[&str]| keys_command(place.folder.path(), &[args, &["--store", &place.url]].concat());
    let secrets: Vec<String> = std::thread::scope(|scope| {
        let keys = &keys;
        let makers: Vec<_> = (0..4)
            .map(|n| scope.spawn(move || stdout(&keys(&["create", &format!("key{n}"), "--credit", "9"]))))
            .collect();
        let mut number = 0;
        while !makers.iter().all(|maker| maker.is_finished()) || number < 3000 {
            recorder.record(UsageRecord { key: "key1".into(), cost: 0.001, ..record(number) });
            number += 1;
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        makers.into_iter().map(|maker| maker.join().expect("a key")).collect()
    });
    let find = |at: usize| store.keys().find(&digest(&secrets[at]), now_unix_ms());
    wait_until("the new keys", || (0..4).all(|at| find(at).is_ok()));
    stdout(&keys(&["revoke", "key2"]));
    wait_until("the revocation", || find(2) == Err(Refusal::Revoked));
    assert!(find(3).is_ok());
    // What was spent shows while the store is open, and to others.
    wait_until("the writes", || recorder.waiting() == 0);
    wait_until("the spending", || (store.keys().spent("key1") - totals(&store).cost).abs() < 1e-9);
    assert!(totals(&store).attempts >= 3000 && recorder.lost() == 0);
    store.close().expect("written");
    let list: Value = serde_json::from_str(&stdout(&keys(&["list", "--json"]))).expect("JSON");
    let spent = list[1]["spent"].as_f64().expect("a number");
    assert!((spent - totals(&store).cost).abs() < 1e-9 && spent > 2.9, "{spent}");
}
