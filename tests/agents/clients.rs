//! Agents' own programs against a scripted model: each reads two files in parallel, edits one, runs a command and says
//! that it is done. What they send and how they read answers is theirs; no request of theirs may fail.
//!
//! `scripts/fetch_agents.sh` installs them; where they are not there these tests skip themselves.

use super::scripted::{Script, Served, serve};
use super::{family, post};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// By this the script knows the task from what agents ask besides, such as a title.
const TASK: &str = "Task 7F3A: read a.txt and b.txt, replace alpha by gamma in a.txt, then show both files.";
const DONE: &str = "All done: gamma and beta.";
/// An agent that takes longer hangs.
const SECONDS_MAX: &str = "120";

/// An agent's words for the same four things.
struct Tools {
    /// It lets the model call several at once.
    parallel: bool,
    read: fn(&str) -> Value,
    edit: fn(&str) -> Value,
    run: fn(&str) -> Value,
}

fn call(name: &str, arguments: Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

/// What the model writes, by how many results it has seen.
fn script(folder: PathBuf, tools: Tools) -> Script {
    Arc::new(move |prompt| {
        let Some(at) = prompt.find("Task 7F3A").filter(|_| prompt.contains("<tools>")) else {
            return "Two files".to_owned();
        };
        let file = |name: &str| folder.join(name).display().to_string();
        let (text, calls) = match prompt[at..].matches("<tool_response>").count() {
            0 if tools.parallel => {
                ("I read both.", vec![(tools.read)(&file("a.txt")), (tools.read)(&file("b.txt"))])
            }
            0 => ("I read.", vec![(tools.read)(&file("a.txt"))]),
            1 => ("", vec![(tools.read)(&file("b.txt"))]),
            2 => ("", vec![(tools.edit)(&file("a.txt"))]),
            3 => ("Now I look.", vec![(tools.run)("cat a.txt b.txt")]),
            _ => return format!("<think>\nThat was it.\n</think>\n\n{DONE}"),
        };
        let calls =
            calls.iter().map(|call| format!("\n<tool_call>\n{call}\n</tool_call>")).collect::<String>();
        format!("<think>\nWhat is next?\n</think>\n\n{text}{calls}")
    })
}

/// An agent's program; None, after saying so, where it is not installed.
fn program(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cache =
        root.join(std::env::var_os("NOVASTACK_TEST_CACHE").unwrap_or_else(|| "target/test-cache".into()));
    let path = cache.join("agents/node_modules/.bin").join(name);
    if !path.exists() {
        eprintln!("SKIPPED: {name} is not installed; run scripts/fetch_agents.sh");
        return None;
    }
    Some(path)
}

/// A folder with the two files and an empty home beside it.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("home")).expect("a home");
    std::fs::create_dir(folder.path().join("work")).expect("a folder");
    std::fs::write(folder.path().join("work/a.txt"), "alpha\n").expect("a file");
    std::fs::write(folder.path().join("work/b.txt"), "beta\n").expect("a file");
    folder
}

/// An agent's command, which ends in time.
fn agent(program: PathBuf) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", SECONDS_MAX]).arg(program);
    command
}

/// Runs it.
async fn run(mut command: Command, folder: &Path) -> Output {
    let own: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    command.env_clear();
    own.into_iter().for_each(|(name, value)| {
        command.env(name, value.unwrap_or_default());
    });
    command
        .current_dir(folder.join("work"))
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder.join("home"))
        .env("NO_COLOR", "1")
        .envs([("DISABLE_TELEMETRY", "1"), ("DISABLE_AUTOUPDATER", "1"), ("DISABLE_ERROR_REPORTING", "1")])
        .envs([("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"), ("OPENCODE_DISABLE_AUTOUPDATE", "1")])
        .envs([("OPENCODE_DISABLE_MODELS_FETCH", "1"), ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1")])
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output.expect("no panic").expect("the agent starts")
}

/// What has to be true in the end.
async fn check(served: &Served, folder: &Path, output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let told = format!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert!(said.contains(DONE), "{told}");
    let edited = std::fs::read_to_string(folder.join("work/a.txt")).expect("a file");
    assert_eq!(edited, "gamma\n", "{told}");
    let metrics =
        crate::support::client().get(format!("{}/metrics", served.url)).send().await.expect("metrics");
    let metrics = metrics.text().await.expect("a text");
    let failed: Vec<&str> = (metrics.lines())
        .filter(|line| line.starts_with("novastack_requests_total"))
        .filter(|line| line.contains("status=\"4") || line.contains("status=\"5"))
        // What is not served is asked for by some: their own settings, for example.
        .filter(|line| !line.contains("route=\"unmatched\""))
        .collect();
    assert!(failed.is_empty(), "{failed:?}\n{told}");
    assert!(metrics.contains("status=\"200\"} "), "the requests are counted: {metrics}");
}

async fn start(folder: &Path, tools: Tools) -> Option<Served> {
    let (tokenizer, template) = family("qwen3")?;
    Some(serve(tokenizer, template, script(folder.join("work"), tools)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_does_a_task() {
    let Some(claude) = program("claude") else { return };
    let folder = workplace();
    let tools = Tools {
        parallel: true,
        read: |path| call("Read", json!({"file_path": path})),
        edit: |path| call("Edit", json!({"file_path": path, "old_string": "alpha", "new_string": "gamma"})),
        run: |command| call("Bash", json!({"command": command, "description": "Shows both files"})),
    };
    let Some(served) = start(folder.path(), tools).await else { return };
    let mut command = agent(claude);
    command.args(["-p", TASK, "--allowedTools", "Read,Edit,Bash"]);
    command.env("ANTHROPIC_BASE_URL", &served.url).env("ANTHROPIC_AUTH_TOKEN", "none");
    let output = run(command, folder.path()).await;
    check(&served, folder.path(), &output).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_does_a_task() {
    let Some(codex) = program("codex") else { return };
    let folder = workplace();
    let tools = Tools {
        parallel: false,
        read: |path| call("exec_command", json!({"cmd": format!("cat {path}")})),
        edit: |path| call("exec_command", json!({"cmd": format!("sed -i s/alpha/gamma/ {path}")})),
        run: |command| call("exec_command", json!({"cmd": command})),
    };
    let Some(served) = start(folder.path(), tools).await else { return };
    let mut command = agent(codex);
    command.args(["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]);
    command.args([
        "-c",
        "model=\"m\"",
        "-c",
        "model_provider=\"nova\"",
        "-c",
        "model_providers.nova.name=\"Nova\"",
    ]);
    command.args(["-c", &format!("model_providers.nova.base_url=\"{}/v1\"", served.url)]);
    command.args(["-c", "model_providers.nova.wire_api=\"responses\"", TASK]);
    command.env("CODEX_HOME", folder.path().join("home"));
    let output = run(command, folder.path()).await;
    check(&served, folder.path(), &output).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencode_does_a_task() {
    let Some(opencode) = program("opencode") else { return };
    let folder = workplace();
    let tools = Tools {
        parallel: true,
        read: |path| call("read", json!({"filePath": path})),
        edit: |path| call("edit", json!({"filePath": path, "oldString": "alpha", "newString": "gamma"})),
        run: |command| call("bash", json!({"command": command, "description": "Shows both files"})),
    };
    let Some(served) = start(folder.path(), tools).await else { return };
    let provider = json!({"npm": "@ai-sdk/openai-compatible", "name": "Nova",
        "options": {"baseURL": format!("{}/v1", served.url), "apiKey": "none"}, "models": {"m": {"name": "m"}}});
    let config = json!({"provider": {"nova": provider}, "share": "disabled", "autoupdate": false});
    std::fs::write(folder.path().join("work/opencode.json"), config.to_string()).expect("a file");
    let mut command = agent(opencode);
    command.args(["run", "--model", "nova/m", TASK]);
    let output = run(command, folder.path()).await;
    check(&served, folder.path(), &output).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qwen_code_does_a_task() {
    let Some(qwen) = program("qwen") else { return };
    let folder = workplace();
    let tools = Tools {
        parallel: true,
        read: |path| call("read_file", json!({"file_path": path})),
        edit: |path| call("edit", json!({"file_path": path, "old_string": "alpha", "new_string": "gamma"})),
        run: |command| call("run_shell_command", json!({"command": command, "is_background": false})),
    };
    let Some(served) = start(folder.path(), tools).await else { return };
    let mut command = agent(qwen);
    command.args(["-p", TASK, "--yolo", "--auth-type", "openai", "--model", "m"]);
    command.args(["--openai-api-key", "none", "--openai-base-url", &format!("{}/v1", served.url)]);
    let output = run(command, folder.path()).await;
    check(&served, folder.path(), &output).await;
}

#[tokio::test]
async fn a_response_is_gone_on_from_by_its_id() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    let script: Script = Arc::new(|prompt| format!("{} turns", prompt.matches("<|im_start|>user").count()));
    let served = serve(tokenizer, template, script).await;
    let (status, text) = post(&served.url, "/v1/responses", &json!({"model": "m", "input": "Hello."})).await;
    assert_eq!(status, 200, "{text}");
    let first: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(first["output"][0]["content"][0]["text"], "1 turns", "{text}");
    let more = json!({"model": "m", "input": "And?", "previous_response_id": first["id"], "store": false});
    let (status, text) = post(&served.url, "/v1/responses", &more).await;
    assert_eq!(status, 200, "{text}");
    let second: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(second["output"][0]["content"][0]["text"], "2 turns", "{text}");
    let client = crate::support::client();
    let get = async |id: &Value| {
        let url = format!("{}/v1/responses/{}", served.url, id.as_str().expect("an id"));
        client.get(url).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!((get(&first["id"]).await, get(&second["id"]).await), (200, 404));
    let url = format!("{}/v1/responses/{}", served.url, first["id"].as_str().expect("an id"));
    assert_eq!(client.delete(url).send().await.expect("an answer").status().as_u16(), 200);
    assert_eq!(get(&first["id"]).await, 404);
    let (status, text) = post(&served.url, "/v1/responses", &more).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("previous_response_id"), "{text}");
}
