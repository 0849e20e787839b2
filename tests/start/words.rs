//! Words that people type.

use super::{failure, run};
use crate::support::golden_dir;
use crate::support::server::Server;
use serde_json::{Value, json};

fn source(name: &str) -> String {
    golden_dir(name).display().to_string()
}

#[tokio::test]
async fn a_model_is_positional_and_other_servers_flags_are_understood() {
    let model = source("llama");
    let server = Server::start(&[
        &model,
        "--max-model-len=64",
        "--max_num_seqs",
        "2",
        "--trust-remote-code",
        "--enable-prefix-caching",
        "--dtype",
        "auto",
        "-ngl",
        "0",
        "-fa",
        "on",
        "--host",
        "localhost",
        "--served-model-name",
        "first",
        "second",
    ]);
    let (status, models) = server.get("/v1/models").await;
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("first")));
    assert_eq!(models["data"][0]["max_model_len"], 64);
    // Each of its names is answered to.
    for name in ["first", "second"] {
        let body = json!({ "model": name, "prompt": [5, 6], "max_tokens": 2 });
        assert_eq!(server.post("/v1/completions", &body).await.0, 200, "{name}");
    }
    for words in
        [["--trust-remote-code", "no code"], ["--enable-prefix-caching", "always"], ["-fa", "attention"]]
    {
        server.log_line(&words).await;
    }
}

#[tokio::test]
async fn several_models_are_positional() {
    let (one, two) = (format!("one={}", source("llama")), format!("two={}", source("qwen2")));
    let server = Server::start(&[&one, &two]);
    let (_, models) = server.get("/v1/models").await;
    let models: Value = serde_json::from_str(&models).expect("JSON");
    let names: Vec<&str> =
        models["data"].as_array().expect("a list").iter().filter_map(|it| it["id"].as_str()).collect();
    assert_eq!(names, ["one", "two"]);
}

#[test]
fn serve_without_a_model_says_what_it_can_be_given() {
    let text = failure(&run(&["serve"]));
    for words in
        ["a name of the catalogue", "novastack models", "Qwen/Qwen3-0.6B", ":Q4_K_M", ".gguf", "--config"]
    {
        assert!(text.contains(words), "{words} in {text}");
    }
    // The name was swallowed by a flag that takes several.
    let text = failure(&run(&["serve", "--served-model-name", "mine", "model.gguf"]));
    assert!(text.contains("put the model first"), "{text}");
}

#[test]
fn a_path_that_leads_nowhere_is_told_alone() {
    for path in ["./none.gguf", "/no/such/folder", "none.gguf", "../x/", "a/b/c"] {
        for command in [&["serve", "--port", "0", path][..], &["inspect", path]] {
            let text = failure(&run(command));
            let last = text.lines().last().unwrap_or_default();
            assert_eq!(
                last,
                format!("novastack: {path}: there is no such file or folder"),
                "{command:?}: {text}"
            );
        }
    }
}

#[test]
fn suggestions_are_near_and_nothing_is_said_twice() {
    let text = failure(&run(&["serve", "--port", "0", "llama3.2"]));
    let last = text.lines().last().unwrap_or_default();
    assert!(!last.contains("did you mean") && !last.contains("minimax"), "{last}");
    assert!(last.contains("`novastack models` lists") && last.matches("llama3.2").count() == 1, "{last}");
    let text = failure(&run(&["inspect", "qwen3-8bb"]));
    assert!(text.contains("did you mean qwen3-8b?"), "{text}");
    // An option of our own that is nearly right is clap's to suggest.
    let text = failure(&run(&["serve", "x", "--max-contxt", "5"]));
    assert!(text.contains("--max-context"), "{text}");
}

#[test]
fn flags_that_cannot_be_done_are_answered() {
    for (arguments, words) in [
        (&["--chat-template", "x.jinja"][..], "chat_template.jinja"),
        (&["--tool-parser-plugin", "x.py"], "--tool-parser-plugin: no code of others is run"),
        (&["-md", "draft.gguf"], "no speculative decoding"),
        (&["--kv-cache-dtype", "fp8"], "16 bits"),
    ] {
        let text = failure(&run(&[&["serve", "x"], arguments].concat()));
        assert!(text.contains(words), "{words} in {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn models_lists_the_catalogue() {
    let output = run(&["models"]);
    let page = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success());
    for words in [
        "NAME",
        "qwen2.5-coder-7b-instruct",
        "7.61B",
        "32768",
        "BF16",
        "235B, 22B active",
        "AWQ",
        "GGUF Q4_1",
    ] {
        assert!(page.contains(words), "{words} in {page}");
    }
    let json =
        |arguments: &[&str]| -> Vec<Value> { serde_json::from_slice(&run(arguments).stdout).expect("JSON") };
    assert!(json(&["models", "--json"]).len() > 60);
    let found = json(&["models", "qwen3:8b", "--json"]);
    let names: Vec<&str> = found.iter().filter_map(|entry| entry["name"].as_str()).collect();
    assert_eq!(names, ["qwen3-8b", "qwen3-8b-awq", "qwen3-8b-fp8"]);
    assert_eq!(found[0]["sampling"]["temperature"], 0.6);
    assert_eq!((&found[0]["context"], &found[1]["formats"][0]), (&json!(40960), &json!("AWQ")));
    assert!(failure(&run(&["models", "llama3.2"])).contains("llama3.2"));
}

#[test]
fn inspect_of_catalogue_names_needs_no_network() {
    for (name, words) in [
        ("qwen3-8b", &["8.19B", "apache-2.0", "temperature 0.6", "(the catalogue's for"][..]),
        ("qwen2.5-coder:7b", &["7.62B", "temperature 0.7", "repetition_penalty 1.1"]),
        ("deepseek-r1:671b", &["671.03B", "FP8 128x128"]),
        ("qwen3-30b-a3b-thinking-2507-fp8", &["262,144 tokens", "30.53B"]),
        ("qwen2.5-7b-instruct-awq", &["AWQ", "7.62B"]),
        ("smollm2", &["134.5M", "temperature 0.2"]),
    ] {
        let output = run(&["inspect", name]);
        let page = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        for words in words {
            assert!(page.contains(words), "{name}: {words} in {page}");
        }
        assert!(page.lines().all(|line| line.chars().count() <= 80), "80 columns:\n{page}");
    }
}
