//! Nonsense is refused at the start, with what would be right.

use super::{failure, run, run_with};
use crate::support::golden_dir;
use crate::support::server::Server;
use std::io::{BufRead, BufReader};

fn source() -> String {
    format!("tiny={}", golden_dir("llama").display())
}

#[test]
fn options_that_cannot_be_meant_are_refused() {
    let source = source();
    for (arguments, words) in [
        (&["--request-timeout", "0"][..], "above 0"),
        (&["--total-timeout", "0"][..], "above 0"),
        (&["--keep-alive", "0"][..], "above 0"),
        (&["--step-timeout", "0"], "from 1 to 86400"),
        (&["--cors-origin", "example.org"], "https://example.org"),
        (&["--cors-origin", "https://example.org/path"], "without a path"),
        (&["--max-body", "0"], "above 0"),
        (&["--kv-cache-memory", "0"], "above 0"),
        (&["--kv-cache-memory", "999999G"], "that are free"),
        (&["--api-key", ""], "16 characters or more"),
        (&["--api-key", "a-key-of-the-tests,"], "16 characters or more"),
        (&["--api-key", "fifteen-letters"], "16 characters or more"),
        (&["--api-key", "two words"], "can be seen"),
        (&["--served-model-name", "a b"], "no spaces"),
        (&["--host", "no.such.host.invalid"], "no host of this name"),
        (&["--sampling", "temperature=9"], "between 0 and 2"),
        (&["--sampling", "heat=1"], "there are temperature"),
        (&["--default-max-tokens", "0"], "1 or more"),
        (&["--gpu-memory-utilization", "0"], "above 0"),
        (&["--max-context", "1"], "1 is not in"),
        (&["--max-running", "0"], "0 is not in"),
        (&["--step-tokens", "1"], "1 is not in"),
        (&["--max-context", "100000000"], "that the model was made for"),
        // The tiny model's tokens take some kilobytes each.
        (&["--max-context", "64", "--kv-cache-memory", "20K"], "does not fit"),
        (&["--device", "gpu"], "must be auto, cpu"),
    ] {
        let text = failure(&run(&[&["serve", "--port", "0", source.as_str()], arguments].concat()));
        assert!(text.contains(words), "{arguments:?}: {words} in {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn log_levels_and_keys_of_the_environment_are_checked() {
    for bad in ["verbose", "loud", "novastack", "info,novastack=loud"] {
        let text = failure(&run_with(&["serve", &source()], &[("NOVASTACK_LOG", bad)]));
        assert!(text.contains("NOVASTACK_LOG") && text.contains("no level"), "{bad}: {text}");
    }
    // For every command.
    assert!(failure(&run_with(&["devices"], &[("NOVASTACK_LOG", "verbose")])).contains("NOVASTACK_LOG"));
}

/// A key that is empty, as of a variable that is not set, would let everybody in.
#[test]
fn empty_and_short_keys_are_refused_at_the_start() {
    let key = "a-key-of-the-tests";
    for keys in
        ["", " ", ",", "a,", &format!("{key},"), &format!(",{key}"), &format!("{key},,{key}"), "short"]
    {
        for host in ["127.0.0.1", "0.0.0.0"] {
            let arguments = ["serve", &source(), "--port", "0", "--host", host];
            let text = failure(&run_with(&arguments, &[("NOVASTACK_API_KEYS", keys)]));
            assert!(text.contains("NOVASTACK_API_KEYS"), "{keys:?}: {text}");
            assert!(text.contains("16 characters") || text.contains("has no key"), "{keys:?}: {text}");
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("novastack.yaml");
    let path = file.to_str().expect("UTF-8");
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let models = "models: { m: { source: org/name } }\n";
    for (more, environment, words) in [
        (format!("keys: {{ k: {{ sha256: {nothing} }} }}\n"), "", "SHA-256 of nothing"),
        ("server: { admin_key_env: A_KEY_OF_THE_TESTS }\n".into(), "short", "16 characters"),
    ] {
        std::fs::write(&file, models.to_owned() + &more).expect("a file");
        for command in [&["check-config", path][..], &["serve", "--port", "0", "--config", path]] {
            let text = failure(&run_with(command, &[("A_KEY_OF_THE_TESTS", environment)]));
            assert!(text.contains(words) && text.contains("16 characters or more"), "{command:?}: {text}");
        }
    }
}

#[test]
fn the_limit_of_open_files_is_told_and_bounds_connections() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("novastack.yaml");
    let text = "providers: { p: { format: openai, base_url: \"http://127.0.0.1:9\" } }\nmodels: { m: { provider: p } }\n";
    std::fs::write(&file, text).expect("a file");
    for (limits, more, words) in [
        ("ulimit -n 1000", "", &["ulimit -n", "limit=1000", "connections=340", "wanted=4096"][..]),
        ("ulimit -n 1000", "--max-connections 100", &["limit=1000", "connections=100"]),
        // It is raised as far as it may be.
        (
            "ulimit -Sn 200 && ulimit -Hn 3000",
            "--max-connections 1000",
            &["limit=3000", "before=200", "connections=1000"],
        ),
    ] {
        let script = format!("{limits} && exec \"$0\" serve --port 0 --config \"$1\" {more}");
        let mut child = std::process::Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_novastack"), file.to_str().expect("UTF-8")])
            .env_remove("NOVASTACK_API_KEYS")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let line = log.lines().map_while(Result::ok).find(|line| line.contains("limit=")).unwrap_or_default();
        let _ = child.kill();
        let _ = child.wait();
        assert!(words.iter().all(|word| line.contains(word)), "{limits} {more}: {words:?} in {line}");
    }
}

#[test]
fn a_port_that_is_taken_is_told_of() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let text = failure(&run(&["serve", "--port", &port, &source()]));
    assert!(
        text.contains("another program does") && text.contains("--port") && text.contains(&port),
        "{text}"
    );
    let text = failure(&run(&["serve", "--host", "192.0.2.1", "--api-key", "a-key-of-the-tests", &source()]));
    assert!(text.contains("no address 192.0.2.1"), "{text}");
}

#[test]
fn the_help_of_keys_tells_the_truth() {
    let help = |command: &str| {
        let output = run(&["keys", command, "--help"]);
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    // What is not named stays: nothing has a default.
    let set = help("set");
    assert!(set.contains("What is not named stays as it is"), "{set}");
    let options = set.replace("[default: novastack.yaml]", "");
    assert!(!options.contains("[default:"), "{set}");
    assert!(help("create").contains("Without options it is for all models"), "{}", help("create"));
    for (arguments, words) in [
        (&["--models", "all,small"][..], "stand alone"),
        (&["--no-limits", "--concurrency", "3"], "cannot be used with"),
        (&["--default-limits", "--dollars-per-day", "3"], "cannot be used with"),
    ] {
        let text = failure(&run(&[&["keys", "create", "x", "--store", "sqlite:k.db"], arguments].concat()));
        assert!(text.contains(words), "{words} in {text}");
    }
}

#[test]
fn numbers_of_a_configuration_are_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("novastack.yaml");
    for (model, words) in [
        ("max_context: 1", "of 2 or more"),
        ("max_running: 70000", "from 1 to 65536"),
        ("default_max_tokens: 0", "of 1 or more"),
        ("sampling: { temperature: 3 }", "temperature must be between 0 and 2"),
        ("sampling: { top_p: 0 }", "top_p must be greater than 0"),
        ("sampling: { heat: 1 }", "unknown key `heat`"),
        ("sampling: 0.7", "must be a mapping"),
    ] {
        std::fs::write(&file, format!("models: {{ m: {{ source: org/name, {model} }} }}\n")).expect("a file");
        let text = failure(&run(&["check-config", file.to_str().expect("UTF-8")]));
        assert!(text.contains(words), "{model}: {words} in {text}");
    }
}

#[tokio::test]
async fn an_empty_list_of_models_means_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("novastack.yaml");
    let hash = "fe5cf6eef1dc1ca10d8bfa761cf662da62aba67f81b3dd7665e5feaec19643d8";
    let text =
        format!("models: {{ m: {{ source: org/name }} }}\nkeys: {{ k: {{ sha256: {hash}, models: [] }} }}\n");
    std::fs::write(&file, text).expect("a file");
    let output = run(&["check-config", file.to_str().expect("UTF-8")]);
    let page = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        output.status.success() && page.contains("no models") && page.contains("may ask for none"),
        "{page}"
    );
    // It is SHA-256 of "a-key-of-the-tests".
    let text = std::fs::read_to_string(&file).expect("text");
    let text = text.replace("org/name", &golden_dir("llama").display().to_string());
    std::fs::write(&file, text).expect("a file");
    let server = Server::start(&["--config", file.to_str().expect("UTF-8")]);
    let body = serde_json::json!({ "model": "m", "prompt": [5], "max_tokens": 1 });
    let request = crate::support::client().post(format!("{}/v1/completions", server.url)).json(&body);
    let answer = request.bearer_auth("a-key-of-the-tests").send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 403);
    assert!(answer.text().await.expect("text").contains("it is for no model"));
}
