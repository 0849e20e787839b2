//! Downloads from a local server that speaks the hub's API; [`hostile`] are those from one that means
//! harm, or that sends us elsewhere.

#[path = "hub_hostile.rs"]
mod hostile;

use super::hub_server::{COMMIT, Faults, HubServer, REPO};
use novastack::checkpoint::hub::{HubSource, ProgressStyle, PullOptions, pull, pull_description};
use novastack::checkpoint::{Checkpoint, PoolingMode, SentenceTransformers};
use novastack::protocol::EmbeddingPrompts;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn weights() -> Vec<u8> {
    let data = (0..40_000u32).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<_>>();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![40_000], &data).expect("view");
    safetensors::serialize([("a", view)], None).expect("serialize")
}

fn server() -> HubServer {
    HubServer::start(&[
        ("config.json", br#"{"model_type": "llama"}"#, false),
        ("tokenizer.json", b"{}", false),
        ("README.md", b"not fetched", false),
        ("pytorch_model.bin", b"not fetched", true),
        ("model.safetensors", &weights(), true),
    ])
}

fn options(endpoint: &str, cache: &Path) -> PullOptions {
    PullOptions {
        endpoint: endpoint.to_owned(),
        cache: cache.to_owned(),
        token: None,
        offline: false,
        progress: ProgressStyle::Silent,
        stall_timeout: Duration::from_secs(10),
        retry_pause: Duration::from_millis(10),
    }
}

fn source(text: &str) -> HubSource {
    HubSource::parse(text).expect("a hub source")
}

/// All regular files below the directory, relative to it.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type().expect("type") {
                kind if kind.is_dir() => open.push(entry.path()),
                kind if kind.is_file() => {
                    found.push(entry.path().strip_prefix(directory).expect("inside").to_owned());
                }
                _ => {}
            }
        }
    }
    found
}

fn pull_error(options: &PullOptions, text: &str) -> String {
    pull(&source(text), options).expect_err("must fail").to_string()
}

#[test]
fn pulls_once_and_verifies() {
    let (server, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let options = options(&server.endpoint, cache.path());
    let path = pull(&source(REPO), &options).expect("pull");
    assert!(path.ends_with(format!("models--org--model/snapshots/{COMMIT}")), "{path:?}");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("read"), weights());
    let checkpoint = Checkpoint::open(&path).expect("open");
    assert_eq!(checkpoint.tensor_names(), ["a"]);
    assert_eq!(std::fs::read_to_string(path.join("../../refs/main")).expect("ref"), COMMIT);
    let requests = server.requests();
    assert!(!requests.iter().any(|request| request.contains("README") || request.contains("pytorch")));
    assert_eq!(files(&cache.path().join("models--org--model/blobs")).len(), 3);
    assert!(!cache.path().join("models--org--model/.partial").exists());

    assert_eq!(pull(&source(REPO), &options).expect("again"), path);
    assert_eq!(pull(&source(&format!("{REPO}@{COMMIT}")), &options).expect("by commit"), path);
    let offline = PullOptions { offline: true, ..options };
    assert_eq!(pull(&source(REPO), &offline).expect("offline"), path);
    assert_eq!(server.requests(), [""; 0]);
}

/// Without modules.json an embedding model would be taken for one that writes.
#[test]
fn pulls_what_says_how_vectors_are_made() {
    let transformer = r#"{"type": "sentence_transformers.models.Transformer", "path": ""}"#;
    let pooling = r#"{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}"#;
    let server = HubServer::start(&[
        ("config.json", br#"{"architectures": ["Qwen3ForCausalLM"]}"#, false),
        ("tokenizer.json", b"{}", false),
        ("modules.json", format!("[{transformer}, {pooling}]").as_bytes(), false),
        ("1_Pooling/config.json", br#"{"pooling_mode_lasttoken": true}"#, false),
        ("config_sentence_transformers.json", br#"{"prompts": {"query": "Query: "}}"#, false),
        ("sentence_bert_config.json", br#"{"max_seq_length": 128}"#, false),
        ("onnx/1_Pooling/config.json", b"not fetched", false),
        ("model.safetensors", &weights(), true),
    ]);
    let wanted = SentenceTransformers {
        pooling: Some(PoolingMode::Last),
        normalises: false,
        prompts: EmbeddingPrompts { query: Some("Query: ".into()), document: None },
        max_tokens: Some(128),
    };
    for whole in [false, true] {
        let cache = tempfile::tempdir().expect("tempdir");
        let options = options(&server.endpoint, cache.path());
        let pulled =
            if whole { pull(&source(REPO), &options) } else { pull_description(&source(REPO), &options) };
        let checkpoint = Checkpoint::open_config(&pulled.expect("pull")).expect("open");
        assert_eq!(checkpoint.sentence_transformers.as_ref(), Some(&wanted));
    }
    assert!(!server.requests().iter().any(|request| request.contains("onnx")));
}

#[test]
fn resumes_where_the_connection_broke() {
    let (server, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let options = options(&server.endpoint, cache.path());
    let cuts = [60_000, 0, 20_000].map(|bytes| ("model.safetensors".to_owned(), bytes));
    server.fail(Faults { cuts: cuts.to_vec(), ..Faults::default() });
    let path = pull(&source(REPO), &options).expect("pull");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("read"), weights());
    let ranges = server.requests();
    let ranges = ranges
        .iter()
        .filter_map(|request| request.strip_prefix("/storage/model.safetensors "))
        .collect::<Vec<_>>();
    assert!(ranges.contains(&"bytes=60000-") && ranges.contains(&"bytes=80000-"), "{ranges:?}");
}

#[test]
fn resumes_in_a_later_run() {
    let (server, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let options = options(&server.endpoint, cache.path());
    let file = "model.safetensors".to_owned();
    let mut cuts = vec![(file.clone(), 50_000)];
    cuts.extend((0..10).map(|_| (file.clone(), 0)));
    server.fail(Faults { cuts, ..Faults::default() });
    let message = pull_error(&options, REPO);
    assert!(message.contains("model.safetensors"), "{message}");
    let model = cache.path().join("models--org--model");
    let left = files(&model);
    assert!(
        left.iter().any(|path| path.extension().is_some_and(|extension| extension == "part")),
        "{left:?}"
    );
    assert!(!model.join(format!("snapshots/{COMMIT}/model.safetensors")).exists());
    assert!(!model.join("refs/main").exists());

    server.fail(Faults::default());
    server.requests();
    let path = pull(&source(REPO), &options).expect("pull");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("read"), weights());
    let requests = server.requests();
    assert!(requests.contains(&"/storage/model.safetensors bytes=50000-".to_owned()), "{requests:?}");
    assert!(!requests.iter().any(|request| request.contains("config.json")), "{requests:?}");
}

#[test]
fn a_part_that_is_complete_is_finished() {
    use sha2::Digest;
    let (server, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let parts = cache.path().join("models--org--model/.partial");
    std::fs::create_dir_all(&parts).expect("create");
    let part = format!("{:x}.part", sha2::Sha256::digest(weights()));
    std::fs::write(parts.join(part), weights()).expect("write");
    let path = pull(&source(REPO), &options(&server.endpoint, cache.path())).expect("pull");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("read"), weights());
}

#[test]
fn a_wrong_hash_deletes_the_file() {
    let (server, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let options = options(&server.endpoint, cache.path());
    server.fail(Faults { wrong_hash: Some("model.safetensors".into()), ..Faults::default() });
    let message = pull_error(&options, REPO);
    assert!(message.contains("model.safetensors") && message.contains("sha256"), "{message}");
    let large = files(cache.path()).into_iter().filter(|file| {
        std::fs::metadata(cache.path().join(file)).is_ok_and(|metadata| metadata.len() > 1000)
    });
    assert_eq!(large.count(), 0);
    server.fail(Faults::default());
    pull(&source(REPO), &options).expect("a correct one is taken");
}

#[test]
fn refusals_say_what_to_do() {
    let (server, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let mut options = options(&server.endpoint, cache.path());
    let fail = |path: &str, status| {
        server.fail(Faults { statuses: vec![(path.into(), status)], ..Faults::default() });
    };
    for (path, status, expected) in [
        ("/api/", 401, "set HF_TOKEN"),
        ("/api/", 403, "set HF_TOKEN"),
        ("/resolve/", 401, "config.json"),
        ("/resolve/", 403, "gated"),
        ("/resolve/", 404, "not found"),
        ("/api/", 503, "503"),
        ("/resolve/", 503, "503"),
    ] {
        fail(path, status);
        let message = pull_error(&options, REPO);
        assert!(
            message.contains(expected) && message.contains(&server.endpoint),
            "{path} {status}: {message}"
        );
    }
    server.fail(Faults::default());
    assert!(pull_error(&options, "org/other").contains("not found"));
    assert!(pull_error(&options, "org/model@none").contains("revision none"));
    assert!(pull_error(&options, "org/model:x.gguf").contains("no GGUF file"));

    options.token = Some("hf_secret".into());
    server.fail(Faults { token: Some("another".into()), ..Faults::default() });
    let message = pull_error(&options, REPO);
    assert!(message.contains("HF_TOKEN") && !message.contains("hf_secret"), "{message}");
    assert!(!format!("{options:?}").contains("hf_secret"));
    server.fail(Faults { token: Some("hf_secret".into()), ..Faults::default() });
    pull(&source(REPO), &options).expect("the right token");
}

#[test]
fn unreachable_and_offline() {
    let cache = tempfile::tempdir().expect("tempdir");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let mut options = options(&format!("http://{closed}"), cache.path());
    let message = pull_error(&options, REPO);
    for expected in ["cannot reach the hub", &options.endpoint, "HF_ENDPOINT", "local directory"] {
        assert!(message.contains(expected), "{message}");
    }
    options.offline = true;
    assert!(pull_error(&options, REPO).contains("HF_HUB_OFFLINE"));
    options.endpoint = format!("http://user:password@{closed}/mirror");
    assert!(!format!("{options:?}").contains("password"));
}

#[test]
fn a_silent_server_is_given_up() {
    let (server, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let stall_timeout = Duration::from_millis(300);
    let options = PullOptions { stall_timeout, ..options(&server.endpoint, cache.path()) };
    server.fail(Faults { silent: Some("model.safetensors".into()), ..Faults::default() });
    let start = Instant::now();
    let message = pull_error(&options, REPO);
    assert!(message.contains("no data") && message.contains("model.safetensors"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn concurrent_pulls_share_one_download() {
    let (server, cache) = (server(), tempfile::tempdir().expect("tempdir"));
    let options = options(&server.endpoint, cache.path());
    std::thread::scope(|scope| {
        let pulls = [(); 4].map(|()| scope.spawn(|| pull(&source(REPO), &options).expect("pull")));
        let paths = pulls.map(|pull| pull.join().expect("thread"));
        assert!(paths.iter().all(|path| *path == paths[0]));
        assert_eq!(std::fs::read(paths[0].join("model.safetensors")).expect("read"), weights());
    });
    let listings = server.requests().iter().filter(|request| request.starts_with("/api/")).count();
    assert_eq!(listings, 1);
}

#[test]
fn shards_and_gguf_files() {
    let index = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let server = HubServer::start(&[
        ("config.json", b"{}", false),
        ("tokenizer.json", b"{}", false),
        ("model.safetensors.index.json", index, false),
        ("model-00001-of-00002.safetensors", b"one", true),
        ("model-00002-of-00002.safetensors", b"two", true),
        ("unlisted.safetensors", b"three", true),
        ("quantized/model.gguf", b"GGUF", true),
    ]);
    let cache = tempfile::tempdir().expect("tempdir");
    let options = options(&server.endpoint, cache.path());
    let file = pull(&source("org/model:quantized/model.gguf"), &options).expect("pull");
    assert_eq!(std::fs::read(&file).expect("read"), b"GGUF");
    let message = pull_error(&options, "org/model:other.gguf");
    assert!(message.contains("quantized/model.gguf"), "{message}");
    let path = pull(&source(REPO), &options).expect("pull");
    assert_eq!(std::fs::read(path.join("model-00002-of-00002.safetensors")).expect("read"), b"two");
    assert!(!path.join("unlisted.safetensors").exists());
}

#[test]
fn repositories_that_cannot_be_served() {
    let cache = tempfile::tempdir().expect("tempdir");
    let pickles = HubServer::start(&[("config.json", b"{}", false), ("pytorch_model.bin", b"x", true)]);
    let message = pull_error(&options(&pickles.endpoint, cache.path()), REPO);
    assert!(message.contains("pytorch_model.bin") && message.contains("pickle"), "{message}");
    let ggufs = HubServer::start(&[("b.gguf", b"x", true), ("a.gguf", b"x", true)]);
    let message = pull_error(&options(&ggufs.endpoint, cache.path()), REPO);
    assert!(message.contains("org/model:a.gguf") && message.contains("b.gguf"), "{message}");
}

#[test]
fn options_from_the_environment() {
    let lookup = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(k, v)| (k.to_string(), v.into())).collect::<Vec<_>>();
        PullOptions::from_lookup(move |name| {
            pairs.iter().find(|(key, _)| key == name).map(|(_, v): &(_, std::ffi::OsString)| v.clone())
        })
    };
    let plain = lookup(&[("HOME", "/home/u")]).expect("defaults");
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!(plain.cache, Path::new("/home/u/.cache/huggingface/hub"));
    assert!(plain.token.is_none() && !plain.offline);
    let all = lookup(&[
        ("HF_HOME", "/hf"),
        ("HF_TOKEN", " secret\n"),
        ("HF_ENDPOINT", "http://mirror/"),
        ("HF_HUB_OFFLINE", "1"),
    ])
    .expect("all");
    assert_eq!((all.endpoint.as_str(), all.cache.as_path()), ("http://mirror", Path::new("/hf/hub")));
    assert_eq!((all.token.as_deref(), all.offline), (Some("secret"), true));
    let cache = lookup(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/other")]).expect("cache");
    assert_eq!(cache.cache, Path::new("/other"));
    let home = tempfile::tempdir().expect("tempdir");
    std::fs::write(home.path().join("token"), "from the file\n").expect("write");
    let file = lookup(&[("HF_HOME", home.path().to_str().expect("UTF-8"))]).expect("token file");
    assert_eq!(file.token.as_deref(), Some("from the file"));
    assert!(lookup(&[]).expect_err("no home").to_string().contains("HF_HOME"));
    assert!(
        lookup(&[("HOME", "/"), ("HF_ENDPOINT", "mirror")])
            .expect_err("scheme")
            .to_string()
            .contains("HF_ENDPOINT")
    );
}

#[test]
fn hub_sources() {
    let full = source("org/name@refs/pr/1:dir/file.gguf");
    assert_eq!((full.repo.as_str(), full.revision.as_str()), ("org/name", "refs/pr/1"));
    assert_eq!(full.file.as_deref(), Some("dir/file.gguf"));
    for bad in [
        "name",
        "a/b/c",
        "../b",
        "a/..",
        "a/b@../x",
        "a/b:../x.gguf",
        "a/b:x.bin",
        "/b",
        "a/",
        "a/b:",
        "a b/c",
    ] {
        assert_eq!(HubSource::parse(bad), None, "{bad}");
    }
}

#[test]
fn all_parts_of_a_split_gguf_file_are_fetched_and_needed() {
    let cache = tempfile::tempdir().expect("tempdir");
    let parts = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
    let server =
        HubServer::start(&[(parts[0], b"one", true), (parts[1], b"two", true), ("m.gguf", b"x", true)]);
    let options = options(&server.endpoint, cache.path());
    let file = pull(&source(&format!("org/model:{}", parts[0])), &options).expect("pull");
    assert!(file.ends_with(parts[0]), "{file:?}");
    let second = file.with_file_name("m-00002-of-00002.gguf");
    assert_eq!(std::fs::read(&second).expect("the other part"), b"two");
    assert!(!file.with_file_name("../m.gguf").exists(), "another file was fetched");
    // What lacks a part is not complete: it is fetched again.
    std::fs::remove_file(&second).expect("remove");
    pull(&source(&format!("org/model:{}", parts[0])), &options).expect("pull");
    assert_eq!(std::fs::read(&second).expect("the other part"), b"two");

    let short = HubServer::start(&[("s-00001-of-00002.gguf", b"one", true)]);
    let cache = tempfile::tempdir().expect("tempdir");
    let options = self::options(&short.endpoint, cache.path());
    let message = pull_error(&options, "org/model:s-00001-of-00002.gguf");
    assert!(message.contains("no file s-00002-of-00002.gguf"), "{message}");
}

#[test]
fn vocab_and_merges_are_fetched_where_there_is_no_tokenizer_json() {
    let cache = tempfile::tempdir().expect("tempdir");
    let weights = weights();
    let server = HubServer::start(&[
        ("config.json", br#"{"model_type": "qwen2"}"#, false),
        ("vocab.json", b"{}", false),
        ("merges.txt", b"#version: 0.2", false),
        ("model.safetensors", &weights, true),
    ]);
    let options = options(&server.endpoint, cache.path());
    let path = pull(&source(REPO), &options).expect("pull");
    assert!(path.join("vocab.json").exists() && path.join("merges.txt").exists());
    server.requests();
    pull(&source(REPO), &options).expect("from the cache");
    assert!(server.requests().is_empty(), "complete without tokenizer.json");
}
