//! Files that block whoever opens them, or never end, are refused wherever one is named.

use crate::support::golden_dir;
use crate::support::server::Server;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longer than the program takes to say no, on a busy machine.
const PATIENCE: &str = "60";

fn pipe(path: &Path) {
    let _ = std::fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

fn device(path: &Path) {
    let _ = std::fs::remove_file(path);
    std::os::unix::fs::symlink("/dev/zero", path).expect("a link");
}

/// What the program says as it refuses; a panic where it goes on or never ends.
#[track_caller]
fn refused(arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .args([PATIENCE, env!("CARGO_BIN_EXE_novastack")])
        .args(arguments)
        .env_remove("NOVASTACK_API_KEYS")
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// A tiny checkpoint of its own.
fn checkpoint(folder: &Path) -> PathBuf {
    let copy = folder.join("checkpoint");
    std::fs::create_dir_all(&copy).expect("a folder");
    for entry in std::fs::read_dir(golden_dir("llama")).expect("llama").flatten() {
        std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
    }
    copy
}

#[test]
fn pipes_and_devices_are_no_files_of_a_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "model.safetensors",
    ];
    for (replace, what) in [(pipe as fn(&Path), "is a pipe"), (device, "is a device")] {
        for file in files {
            let copy = checkpoint(folder.path());
            replace(&copy.join(file));
            let text = refused(&["serve", "--port", "0", "--threads", "2", &copy.to_string_lossy()]);
            assert!(text.contains(file) && text.contains(what), "{file}: {text}");
            std::fs::remove_dir_all(&copy).expect("it goes");
        }
        let copy = checkpoint(folder.path());
        std::fs::remove_file(copy.join("model.safetensors")).expect("it goes");
        let index = copy.join("model.safetensors.index.json");
        replace(&index);
        let text = refused(&["serve", "--port", "0", &copy.to_string_lossy()]);
        assert!(text.contains("index.json") && text.contains(what), "{text}");
        std::fs::remove_dir_all(&copy).expect("it goes");
        let gguf = folder.path().join("model.gguf");
        replace(&gguf);
        for command in [&["serve", "--port", "0"][..], &["inspect"]] {
            let text = refused(&[command, &[&*gguf.to_string_lossy()]].concat());
            assert!(text.contains("model.gguf") && text.contains(what), "{text}");
        }
    }
}

#[test]
fn pipes_and_devices_are_no_configurations() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("novastack.yaml");
    for (replace, what) in [(pipe as fn(&Path), "is a pipe"), (device, "is a device")] {
        replace(&file);
        let name = file.to_string_lossy();
        for arguments in [&["check-config", &*name][..], &["serve", "--config", &*name]] {
            let text = refused(arguments);
            assert!(text.contains("novastack.yaml: cannot be read") && text.contains(what), "{text}");
        }
    }
}

/// A configuration that becomes a pipe, and a key that is one: the server goes on, and ends when it is told.
#[tokio::test]
async fn reading_a_configuration_again_stops_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, key) = (folder.path().join("novastack.yaml"), folder.path().join("key"));
    let local = golden_dir("llama").display().to_string();
    let config = format!("models: {{ m: {{ source: {local} }} }}\n");
    std::fs::write(&file, &config).expect("a file");
    let server = Server::start(&["--config", &file.to_string_lossy()]);
    pipe(&file);
    server.signal("-HUP");
    let line = server.log_line(&["the old configuration stays", "novastack.yaml"]).await;
    assert!(line.contains("is a pipe"), "{line}");
    assert_eq!(server.get("/health").await.0, 200);
    pipe(&key);
    std::fs::remove_file(&file).expect("it goes");
    let key = key.to_string_lossy();
    let provider = format!(
        "providers: {{ p: {{ format: openai, base_url: 'http://127.0.0.1:9/v1', api_key_file: '{key}' }} }}\n"
    );
    let models = config.replace("} }\n", "}, up: { provider: p } }\n");
    std::fs::write(&file, provider + &models).expect("a file");
    server.signal("-HUP");
    server.log_line(&["the new configuration holds"]).await;
    let body = serde_json::json!({ "model": "up", "messages": [{ "role": "user", "content": "x" }] });
    assert_eq!(server.post("/v1/chat/completions", &body).await.0, 502);
    let told = Instant::now();
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(20));
}
