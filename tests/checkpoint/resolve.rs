//! What `--model` takes.

use super::hub_server::{HubServer, REPO};
use crate::support::gguf_writer::tiny_model;
use novastack::checkpoint::resolve::{Places, SourceKind, resolve, resolve_description};
use novastack::checkpoint::{Checkpoint, CheckpointError, catalogue};
use std::ffi::OsString;
use std::path::Path;

/// Places inside the directory; the hub is at the endpoint.
fn places(directory: &Path, endpoint: &str) -> Places {
    let (home, endpoint) = (directory.as_os_str().to_owned(), OsString::from(endpoint));
    Places::from_lookup(move |name| match name {
        "HF_HOME" => Some(home.clone()),
        "HF_ENDPOINT" => Some(endpoint.clone()),
        _ => None,
    })
    .expect("places")
}

const NOWHERE: &str = "http://127.0.0.1:9";

fn message(spec: &str, places: &Places) -> String {
    match resolve(spec, places) {
        Ok(resolved) => panic!("{spec}: {resolved:?}"),
        Err(error @ CheckpointError::Hub(_)) => error.to_string(),
        Err(error) => panic!("{spec}: {error:?}"),
    }
}

#[test]
fn local_paths() {
    let directory = tempfile::tempdir().expect("tempdir");
    let places = places(directory.path(), NOWHERE);
    let (model, file) = (directory.path().join("a=model"), directory.path().join("tiny.gguf"));
    std::fs::create_dir(&model).expect("create");
    std::fs::write(&file, tiny_model("llama", false, true).bytes()).expect("write");
    let named = |spec: String| {
        let resolved = resolve(&spec, &places).expect("resolve");
        (resolved.served_name, resolved.path, resolved.kind)
    };
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    assert_eq!(named(text(&model)), ("a=model".into(), model.clone(), SourceKind::Directory));
    assert_eq!(named(text(&file)), ("tiny".into(), file.clone(), SourceKind::Gguf));
    assert_eq!(named(format!("mine={}", text(&file))), ("mine".into(), file.clone(), SourceKind::Gguf));
    Checkpoint::open(&file).expect("open");
    for bad in ["", "=x", "x=", "no/such/directory/at/all", "./missing.gguf"] {
        message(bad, &places);
    }
}

#[test]
fn hub_ids() {
    let directory = tempfile::tempdir().expect("tempdir");
    let server = HubServer::start(&[
        ("config.json", b"{}", false),
        ("tokenizer.json", b"{}", false),
        ("model.safetensors", b"x", true),
    ]);
    let places = places(directory.path(), &server.endpoint);
    let resolved = resolve(REPO, &places).expect("resolve");
    assert_eq!((resolved.served_name.as_str(), resolved.kind), (REPO, SourceKind::Directory));
    assert!(resolved.path.starts_with(directory.path().join("hub")));
    assert_eq!(resolve(&format!("mine={REPO}"), &places).expect("resolve").served_name, "mine");
}

#[test]
fn a_quantisation_names_its_file() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = tiny_model("llama", false, true).bytes();
    let server = HubServer::start(&[
        ("README.md", b"a card", false),
        ("tiny-Q4_K_M.gguf", &file, true),
        ("tiny-UD-Q4_K_M.gguf", b"another", true),
        ("tiny-q8_0.gguf", b"large", true),
        ("BF16/tiny-BF16.gguf", b"larger", true),
    ]);
    let places = places(directory.path(), &server.endpoint);
    let resolved = || resolve(&format!("{REPO}:q4_k_m"), &places).expect("resolve");
    let (first, requests) = (resolved(), server.requests());
    assert_eq!((first.served_name.as_str(), first.kind), (REPO, SourceKind::Gguf));
    assert!(first.path.ends_with("tiny-Q4_K_M.gguf"), "{first:?}");
    assert!(
        !requests.iter().any(|request| request.contains("UD-") || request.contains("q8_0")),
        "{requests:?}"
    );
    // The second time it is in the cache.
    assert_eq!((resolved(), server.requests()), (first, Vec::new()));
    let path = |tag: &str| resolve(&format!("{REPO}:{tag}"), &places).expect(tag).path;
    assert!(path("Q8_0").ends_with("tiny-q8_0.gguf") && path("bf16").ends_with("BF16/tiny-BF16.gguf"));
    assert!(path("UD-Q4_K_M").ends_with("tiny-UD-Q4_K_M.gguf"));
    // What is not there: what is.
    let text = message(&format!("{REPO}:Q5_K_M"), &places);
    assert!(text.contains("Q5_K_M") && text.contains("tiny-Q4_K_M.gguf, "), "{text}");
}

#[test]
fn descriptions_of_catalogue_names_need_no_network() {
    let directory = tempfile::tempdir().expect("tempdir");
    let places = places(directory.path(), NOWHERE);
    let resolved = resolve_description("qwen3:8b", &places).expect("resolve");
    assert_eq!((resolved.served_name.as_str(), resolved.kind), ("qwen3-8b", SourceKind::Published));
    assert_eq!(resolved.open_config().expect("a config").config["hidden_size"], 4096);
    assert!(resolve_description("qwen2.5-72b-instruct-awq", &places).is_err());
}

#[test]
fn catalogue_names() {
    let directory = tempfile::tempdir().expect("tempdir");
    let places = places(directory.path(), NOWHERE);
    let text = message("qwen3-8", &places);
    assert!(text.contains("qwen3-8b"), "{text}");
    let text = message("smollm2", &places);
    assert!(
        text.contains("cannot reach the hub") && text.contains("SmolLM2-135M-Instruct.Q4_1.gguf"),
        "{text}"
    );

    // A file of another size in the model cache is not the one; one of that size is.
    let entry = catalogue::find("smollm2").expect("entry");
    let bytes = entry.sources.iter().find_map(|source| source.bytes).expect("size");
    let file = directory.path().join("novastack/SmolLM2-135M-Instruct.Q4_1.gguf");
    std::fs::create_dir_all(file.parent().expect("parent")).expect("create");
    std::fs::write(&file, b"short").expect("write");
    message("smollm2-135m-instruct", &places);
    std::fs::File::create(&file).and_then(|file| file.set_len(bytes)).expect("sparse file");
    let resolved = resolve("SmolLM2", &places).expect("resolve");
    assert_eq!((resolved.served_name.as_str(), resolved.path), ("smollm2-135m-instruct", file.clone()));

    // A hub snapshot in the cache comes first.
    let model = directory.path().join("hub/models--HuggingFaceTB--SmolLM2-135M-Instruct");
    let snapshot = model.join("snapshots/abc");
    std::fs::create_dir_all(&snapshot).expect("create");
    std::fs::create_dir_all(model.join("refs")).expect("create");
    std::fs::write(model.join("refs/main"), "abc\n").expect("write");
    for name in ["config.json", "tokenizer.json"] {
        std::fs::write(snapshot.join(name), "{}").expect("write");
    }
    assert_eq!(resolve("smollm2", &places).expect("incomplete snapshot").path, file);
    std::fs::write(snapshot.join("model.safetensors"), "x").expect("write");
    assert_eq!(resolve("smollm2", &places).expect("complete snapshot").path, snapshot);
}

#[test]
fn the_scripts_fetch_what_the_catalogue_names() {
    let script = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
        std::fs::read_to_string(path).expect("the script")
    };
    let (fetch, run) = (script("demo_checkpoint.sh"), script("run.sh"));
    let mut known = Vec::new();
    for entry in catalogue::entries() {
        for source in entry.sources.iter().filter(|source| source.hf.is_none()) {
            let (Some(file), Some(bytes), Some(sha256)) = (&source.file, source.bytes, &source.sha256) else {
                panic!("{}: a file is known by its name, size and hash", entry.name);
            };
            let (_, case) =
                fetch.split_once(&format!("\n  {})\n", entry.name)).expect("the script fetches it");
            let (case, _) = case.split_once(";;").expect("its end");
            for line in [format!("file={file}"), format!("bytes={bytes}"), format!("sha256={sha256}")] {
                assert!(case.contains(&format!("    {line}\n")), "{}: {line}", entry.name);
            }
            known.push(entry.name.as_str());
        }
    }
    assert_eq!(known, ["qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"]);
    // The demo is one of them, and its name on the hub is that of the file.
    assert!(run.contains("\nname=qwen2.5-coder-0.5b-instruct\n"), "{run}");
    assert!(run.contains("\nhub=Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:$name-q4_k_m.gguf\n"), "{run}");
}
