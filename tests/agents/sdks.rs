//! SDKs and frameworks as clients: their own programs, against a model whose answers a script writes, behind the real
//! template, tokenizer and gateway, and a model of random weights, which only a grammar makes answer to a schema.
//!
//! `scripts/fetch_clients.sh` installs them; where they are not there these tests skip themselves.

use super::constrained;
use super::family;
use super::scripted::{Script, serve};
use crate::support::server::Server;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A client that takes longer hangs.
const SECONDS_MAX: &str = "240";

/// What the scripted model writes.
fn script(prompt: &str) -> String {
    let call = |name: &str, arguments: &str| {
        format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    let has_tools = prompt.contains("<tools>");
    let says = match prompt {
        prompt if prompt.contains("<tool_response>") => "It is sunny in Rome.".to_owned(),
        prompt if has_tools && prompt.contains("The weather in Rome?") => {
            format!("I look.\n{}", call("get_weather", "{\"city\": \"Rome\"}"))
        }
        // instructor's tool is its model's schema, named otherwise where its parts are asked for.
        prompt if has_tools && prompt.contains("A trip.") => {
            let name = if prompt.contains("PartialTrip") { "PartialTrip" } else { "Trip" };
            call(name, "{\"city\": \"Paris\", \"days\": 3}")
        }
        _ => "Hello from the script.".to_owned(),
    };
    format!("<think>\nHm.\n</think>\n\n{says}")
}

/// Where a set of clients is installed; None, after saying so, where it is not.
fn installed(set: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cache =
        root.join(std::env::var_os("NOVASTACK_TEST_CACHE").unwrap_or_else(|| "target/test-cache".into()));
    let folder = cache.join("clients").join(set);
    if !folder.join(".installed").exists() {
        eprintln!("SKIPPED: the clients of {set} are not installed; run scripts/fetch_clients.sh");
        return None;
    }
    Some(folder)
}

/// Runs a program against both models.
async fn run(mut command: Command) {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    let script: Script = Arc::new(script);
    let scripted = serve(tokenizer, template, script).await;
    let folder = constrained::model();
    let source = format!("tiny={}", folder.path().display());
    let random = Server::start(&["--model", &source, "--tool-call-parser", "hermes"]);
    command.env("NOVASTACK_TEST_URL", &scripted.url).env("NOVASTACK_TEST_RANDOM_URL", &random.url);
    for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"] {
        command.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("no panic").expect("the client starts");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}\n{}", String::from_utf8_lossy(&output.stderr), random.log());
}

async fn pytest(set: &str, files: &[&str]) {
    let Some(packages) = installed(set) else { return };
    let mut command = Command::new("timeout");
    command.args([SECONDS_MAX, "python3", "-m", "pytest", "-q", "-p", "no:cacheprovider"]);
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
    command.args(files.iter().map(|file| sdk.join(file)));
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    run(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_for_node_are_served() {
    let Some(packages) = installed("node") else { return };
    // Modules are looked for beside the file that imports them.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sdks.test.mjs");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/node/sdks.test.mjs"), &file)
        .expect("copied");
    std::os::unix::fs::symlink(packages.join("node_modules"), folder.path().join("node_modules"))
        .expect("a link");
    let mut command = Command::new("timeout");
    command.args([SECONDS_MAX, "node", "--test"]).arg(file).current_dir(folder.path());
    run(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn langchain_llama_index_and_instructor_are_served() {
    pytest("openai-2", &["test_langchain.py", "test_llama_index.py", "test_instructor.py"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn litellm_and_pydantic_ai_are_served() {
    pytest("openai-3", &["test_litellm.py", "test_pydantic_ai.py"]).await;
}
