//! A hub, or the storage behind it, that says what it should not: nothing of it becomes a path
//! unchecked, and the token stays with the hub.

use super::super::hub_server::{COMMIT, Faults, REPO};
use super::{HubServer, files, options, pull_error, server, source, weights};
use novastack::checkpoint::hub::{PullOptions, pull};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The repository of [`server`] with the answer about it changed.
fn listing(change: impl Fn(&mut Value)) -> Faults {
    let weights = weights();
    let mut listing = json!({"sha": COMMIT, "siblings": [
        {"rfilename": "config.json", "size": 23, "blobId": "1".repeat(40)},
        {"rfilename": "tokenizer.json", "size": 2, "blobId": "2".repeat(40)},
        {"rfilename": "model.safetensors", "size": weights.len(), "blobId": "3".repeat(40),
         "lfs": {"sha256": sha256(&weights), "size": weights.len(), "pointerSize": 127}},
    ]});
    change(&mut listing);
    Faults { listing: Some(listing.to_string()), ..Faults::default() }
}

/// Every name below the folder leads to somewhere below it.
fn stays_inside(folder: &Path) {
    let root = std::fs::canonicalize(folder).expect("there");
    let mut open = vec![root.clone()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder").flatten() {
            let real = std::fs::canonicalize(entry.path()).expect("no name leads nowhere");
            assert!(real.starts_with(&root), "{:?} leads to {real:?}", entry.path());
            if entry.file_type().expect("type").is_dir() {
                open.push(entry.path());
            }
        }
    }
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (hub, storage, cache) = (server(), server(), tempfile::tempdir().expect("tempdir"));
    let options = PullOptions { token: Some("hf_secret".into()), ..options(&hub.endpoint, cache.path()) };
    // The storage has the weights itself, and sends back to the hub for the tokenizer.
    let resolve = format!("/{REPO}/resolve/{COMMIT}");
    let to = |name: &str| {
        (format!("{resolve}/{name}"), format!("{}/storage/{name}?sign=S3CRET", storage.endpoint))
    };
    hub.fail(Faults { redirects: vec![to("model.safetensors"), to("tokenizer.json")], ..Faults::default() });
    storage.fail(Faults {
        redirects: vec![(
            "/storage/tokenizer.json".into(),
            format!("{}/storage/tokenizer.json", hub.endpoint),
        )],
        ..Faults::default()
    });
    let path = pull(&source(REPO), &options).expect("pull");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("read"), weights());
    let asked = hub.authorizations();
    let (ours, back): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|(path, _)| !path.starts_with("/storage/"));
    assert!(
        ours.len() == 4 && ours.iter().all(|(_, sent)| sent.as_deref() == Some("Bearer hf_secret")),
        "{ours:?}"
    );
    assert_eq!(
        back,
        [("/storage/tokenizer.json".to_owned(), None)],
        "who sent us back may not use the token"
    );
    let elsewhere = storage.authorizations();
    assert!(elsewhere.len() == 2 && elsewhere.iter().all(|(_, sent)| sent.is_none()), "{elsewhere:?}");
}

#[test]
fn a_password_in_the_endpoint_goes_to_the_hub_alone() {
    let (hub, storage, cache) = (server(), server(), tempfile::tempdir().expect("tempdir"));
    let with_password = hub.endpoint.replace("http://", "http://user:p%40ss@");
    let to = ("resolve".to_owned(), format!("{}/storage/config.json", storage.endpoint));
    hub.fail(Faults { redirects: vec![to], ..Faults::default() });
    let message = pull_error(&options(&with_password, cache.path()), REPO);
    assert!(!message.contains("p%40ss") && !message.contains("p@ss"), "{message}");
    let sent = "Basic dXNlcjpwQHNz";
    assert!(hub.authorizations().iter().all(|(_, value)| value.as_deref() == Some(sent)));
    let elsewhere = storage.authorizations();
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|(_, sent)| sent.is_none()), "{elsewhere:?}");
}

#[test]
fn what_a_redirect_may_not_be() {
    let (hub, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let options = options(&hub.endpoint, cache.path());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    for (to, expected) in [
        ("file:///etc/passwd".to_owned(), "file:///etc/passwd"),
        ("http://".to_owned(), "no URL"),
        (format!("/{REPO}/resolve/{COMMIT}/config.json"), "redirects more than"),
        (format!("http://localhost:{}/x?sign=S3CRET", closed.port()), "cannot reach localhost"),
    ] {
        hub.fail(Faults { redirects: vec![("/resolve/".into(), to.clone())], ..Faults::default() });
        let message = pull_error(&options, REPO);
        assert!(message.contains(expected) && message.contains("config.json"), "{to}: {message}");
        assert!(!message.contains("S3CRET"), "{message}");
    }
}

#[test]
fn names_that_lead_out_of_the_cache_are_no_files() {
    let (hub, folder) = (server(), tempfile::tempdir().expect("tempdir"));
    let cache = folder.path().join("a/b/c/cache");
    let options = options(&hub.endpoint, &cache);
    let bad = [
        "../../evil.gguf",
        "/tmp/evil.gguf",
        "a/../../evil.gguf",
        "./evil.gguf",
        "a//evil.gguf",
        "evil.gguf/",
    ];
    hub.fail(listing(|listing| {
        for name in bad {
            let file = json!({"rfilename": name, "size": 2, "blobId": "5".repeat(40)});
            listing["siblings"].as_array_mut().expect("a list").push(file);
        }
    }));
    let message = pull_error(&options, "org/model:evil.gguf");
    assert!(message.contains("no GGUF file"), "none of them is there: {message}");
    let path = pull(&source(REPO), &options).expect("the others are");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("read"), weights());
    stays_inside(&cache);
    assert!(files(folder.path()).iter().all(|file| file.starts_with("a/b/c/cache/models--org--model")));
}

#[test]
fn an_index_that_leads_out_of_the_cache_is_refused() {
    let index = br#"{"weight_map": {"a": "../../../../evil.safetensors"}}"#;
    let hub = HubServer::start(&[
        ("config.json", b"{}", false),
        ("tokenizer.json", b"{}", false),
        ("model.safetensors.index.json", index, false),
        ("../../../../evil.safetensors", b"x", true),
    ]);
    let folder = tempfile::tempdir().expect("tempdir");
    let cache = folder.path().join("a/b/c/cache");
    let message = pull_error(&options(&hub.endpoint, &cache), REPO);
    assert!(message.contains("weight_map") && message.contains("file name"), "{message}");
    assert!(files(folder.path()).iter().all(|file| file.starts_with("a/b/c/cache/models--org--model")));
}

#[test]
fn a_commit_that_is_no_name_is_refused() {
    let (hub, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    for commit in ["", "..", "../../x", "a/b", ".hidden", "a\nb", &"a".repeat(300)] {
        hub.fail(listing(|listing| listing["sha"] = commit.into()));
        let message = pull_error(&options(&hub.endpoint, cache.path()), REPO);
        assert!(message.contains("names no valid commit"), "{commit:?}: {message}");
    }
}

#[test]
fn a_tag_is_hexadecimal_or_our_own() {
    let (hub, folder) = (server(), tempfile::tempdir().expect("tempdir"));
    let weights_tag = sha256(&weights());
    let too_long = "a".repeat(41);
    // The last would put a file that nobody has verified in the place of one that was.
    for tag in ["../../../../evil", "", "g".repeat(40).as_str(), &too_long, "/etc/evil", &weights_tag] {
        let cache = tempfile::tempdir_in(folder.path()).expect("tempdir");
        hub.fail(listing(|listing| listing["siblings"][0]["blobId"] = tag.into()));
        let path = pull(&source(REPO), &options(&hub.endpoint, cache.path())).expect("pull");
        assert_eq!(std::fs::read(path.join("model.safetensors")).expect("read"), weights());
        let config = std::fs::read(path.join("config.json")).expect("read");
        let blob = std::fs::canonicalize(path.join("config.json")).expect("a link");
        assert_eq!(blob.file_name().expect("a name").to_str(), Some(sha256(&config).as_str()), "{tag}");
        stays_inside(cache.path());
    }
    hub.fail(listing(|listing| listing["siblings"][2]["lfs"]["sha256"] = "../../x".into()));
    let cache = tempfile::tempdir_in(folder.path()).expect("tempdir");
    let message = pull_error(&options(&hub.endpoint, cache.path()), REPO);
    assert!(message.contains("sha256 of model.safetensors"), "{message}");
}

#[test]
fn more_bytes_than_were_listed_are_not_kept() {
    let (hub, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    hub.fail(listing(|listing| listing["siblings"][2]["lfs"]["size"] = 1000.into()));
    let message = pull_error(&options(&hub.endpoint, cache.path()), REPO);
    assert!(message.contains("model.safetensors") && message.contains("1000 bytes"), "{message}");
    for file in files(cache.path()) {
        let length = std::fs::metadata(cache.path().join(&file)).expect("there").len();
        assert!(length <= 1000, "{file:?} has {length} bytes");
    }
}

#[test]
fn a_part_is_continued_where_it_ends_or_from_the_beginning() {
    let (hub, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let options = options(&hub.endpoint, cache.path());
    let cut = || vec![("model.safetensors".to_owned(), 50_000)];
    hub.fail(Faults { cuts: cut(), wrong_range: Some(40_000), ..Faults::default() });
    let message = pull_error(&options, REPO);
    assert!(message.contains("another part of the file"), "{message}");
    // A server that does not understand ranges begins again, and what it sends is not appended.
    hub.fail(Faults { no_ranges: true, ..Faults::default() });
    let path = pull(&source(REPO), &options).expect("pull");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("read"), weights());
}

#[test]
fn a_file_that_another_commit_has_is_not_fetched_again() {
    let (hub, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let options = options(&hub.endpoint, cache.path());
    let first = pull(&source(REPO), &options).expect("pull");
    hub.requests();
    std::fs::remove_dir_all(&first).expect("the snapshot goes, its blobs stay");
    std::fs::remove_file(cache.path().join("models--org--model/refs/main")).expect("remove");
    assert_eq!(pull(&source(REPO), &options).expect("pull"), first);
    assert_eq!(std::fs::read(first.join("model.safetensors")).expect("read"), weights());
    let asked = hub.requests();
    assert!(asked.len() == 1 && asked[0].starts_with("/api/"), "{asked:?}");
}
