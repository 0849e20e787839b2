//! The agents' programs: how each is told of a server, and what its tools for the same task are called.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// By this a script knows the task from what agents ask besides, such as a title.
pub const TASK: &str =
    "Task 7F3A: read a.txt and b.txt, replace alpha by gamma in a.txt, then show both files.";
pub const DONE: &str = "All done: gamma and beta.";
/// An agent that takes longer hangs.
const SECONDS_MAX: &str = "120";

/// A call: a tool's name and its arguments.
pub type Call = (String, Value);

/// A program, which asks for the model `m`.
pub struct Agent {
    program: &'static str,
    /// It lets the model call several tools at once.
    parallel: bool,
    read: fn(&str) -> (&'static str, Value),
    edit: fn(&str) -> (&'static str, Value),
    shell: fn(&str) -> (&'static str, Value),
    /// Arguments, environment and files for a server at this address.
    connect: fn(&mut Command, &str, &Path),
}

pub const CLAUDE_CODE: Agent = Agent {
    program: "claude",
    parallel: true,
    read: |path| ("Read", json!({"file_path": path})),
    edit: |path| ("Edit", json!({"file_path": path, "old_string": "alpha", "new_string": "gamma"})),
    shell: |command| ("Bash", json!({"command": command, "description": "Shows both files"})),
    connect: |command, url, _| {
        command.args(["-p", TASK, "--allowedTools", "Read,Edit,Bash"]);
        command.env("ANTHROPIC_BASE_URL", url).env("ANTHROPIC_AUTH_TOKEN", "none");
    },
};

pub const CODEX: Agent = Agent {
    program: "codex",
    parallel: false,
    read: |path| ("exec_command", json!({"cmd": format!("cat {path}")})),
    edit: |path| ("exec_command", json!({"cmd": format!("sed -i s/alpha/gamma/ {path}")})),
    shell: |command| ("exec_command", json!({"cmd": command})),
    connect: |command, url, folder| {
        command.args(["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]);
        for setting in [
            "model=\"m\"",
            "model_provider=\"nova\"",
            "model_providers.nova.name=\"Nova\"",
            "model_providers.nova.wire_api=\"responses\"",
            &format!("model_providers.nova.base_url=\"{url}/v1\""),
        ] {
            command.args(["-c", setting]);
        }
        command.arg(TASK).env("CODEX_HOME", folder.join("home"));
    },
};

pub const OPENCODE: Agent = Agent {
    program: "opencode",
    parallel: true,
    read: |path| ("read", json!({"filePath": path})),
    edit: |path| ("edit", json!({"filePath": path, "oldString": "alpha", "newString": "gamma"})),
    shell: |command| ("bash", json!({"command": command, "description": "Shows both files"})),
    connect: |command, url, folder| {
        let options = json!({"baseURL": format!("{url}/v1"), "apiKey": "none"});
        let provider = json!({"npm": "@ai-sdk/openai-compatible", "name": "Nova", "options": options,
            "models": {"m": {"name": "m"}}});
        let config = json!({"provider": {"nova": provider}, "share": "disabled", "autoupdate": false});
        std::fs::write(folder.join("work/opencode.json"), config.to_string()).expect("a file");
        command.args(["run", "--model", "nova/m", TASK]);
    },
};

pub const QWEN_CODE: Agent = Agent {
    program: "qwen",
    parallel: true,
    read: |path| ("read_file", json!({"file_path": path})),
    edit: |path| ("edit", json!({"file_path": path, "old_string": "alpha", "new_string": "gamma"})),
    shell: |command| ("run_shell_command", json!({"command": command, "is_background": false})),
    connect: |command, url, _| {
        command.args(["-p", TASK, "--yolo", "--auth-type", "openai", "--model", "m"]);
        command.args(["--openai-api-key", "none", "--openai-base-url", &format!("{url}/v1")]);
    },
};

pub const CONTINUE: Agent = Agent {
    program: "cn",
    parallel: true,
    read: |path| ("Read", json!({"filepath": path})),
    edit: |path| ("Edit", json!({"file_path": path, "old_string": "alpha", "new_string": "gamma"})),
    shell: |command| ("Bash", json!({"command": command})),
    connect: |command, url, folder| {
        let model = json!({"name": "m", "provider": "openai", "model": "m", "apiBase": format!("{url}/v1"),
            "apiKey": "none", "roles": ["chat", "edit", "apply"]});
        // JSON is YAML.
        let config = json!({"name": "Nova", "version": "0.0.1", "schema": "v1", "models": [model]});
        std::fs::write(folder.join("config.yaml"), config.to_string()).expect("a file");
        command.args(["-p", "--auto", "--config"]).arg(folder.join("config.yaml")).arg(TASK);
    },
};

impl Agent {
    /// Where it is installed; None, after saying so, where it is not.
    pub fn program(&self) -> Option<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let cache =
            root.join(std::env::var_os("NOVASTACK_TEST_CACHE").unwrap_or_else(|| "target/test-cache".into()));
        let path = cache.join("agents/node_modules/.bin").join(self.program);
        if !path.exists() {
            eprintln!("SKIPPED: {} is not installed; run scripts/fetch_agents.sh", self.program);
            return None;
        }
        Some(path)
    }

    /// What a model says and calls after so many results; None once the task is done.
    pub fn step(&self, results: usize, folder: &Path) -> Option<(&'static str, Vec<Call>)> {
        let file = |name: &str| folder.join(name).display().to_string();
        let (text, calls) = match results {
            0 if self.parallel => {
                ("I read both.", vec![(self.read)(&file("a.txt")), (self.read)(&file("b.txt"))])
            }
            0 => ("I read.", vec![(self.read)(&file("a.txt"))]),
            1 => ("", vec![(self.read)(&file("b.txt"))]),
            2 => ("", vec![(self.edit)(&file("a.txt"))]),
            3 => ("Now I look.", vec![(self.shell)("cat a.txt b.txt")]),
            _ => return None,
        };
        Some((text, calls.into_iter().map(|(name, arguments)| (name.to_owned(), arguments)).collect()))
    }

    /// Runs it in `folder/work` with the empty home beside it, until the task is done; what it has told.
    pub async fn run(&self, program: PathBuf, url: &str, folder: &Path) -> String {
        let mut command = Command::new("timeout");
        command.env_clear().args(["--kill-after=5", SECONDS_MAX]).arg(program);
        (self.connect)(&mut command, url, folder);
        command
            .current_dir(folder.join("work"))
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder.join("home"))
            .env("NO_COLOR", "1")
            .envs([
                ("DISABLE_TELEMETRY", "1"),
                ("DISABLE_AUTOUPDATER", "1"),
                ("DISABLE_ERROR_REPORTING", "1"),
            ])
            .envs([("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"), ("OPENCODE_DISABLE_AUTOUPDATE", "1")])
            .envs([("OPENCODE_DISABLE_MODELS_FETCH", "1"), ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1")])
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("no panic").expect("the agent starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let told = format!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains(DONE), "{}: {told}", self.program);
        let edited = std::fs::read_to_string(folder.join("work/a.txt")).expect("a file");
        assert_eq!(edited, "gamma\n", "{}: {told}", self.program);
        told
    }
}

/// A folder with the two files and an empty home beside it.
pub fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("home")).expect("a home");
    std::fs::create_dir(folder.path().join("work")).expect("a folder");
    std::fs::write(folder.path().join("work/a.txt"), "alpha\n").expect("a file");
    std::fs::write(folder.path().join("work/b.txt"), "beta\n").expect("a file");
    folder
}

/// The server has answered, and no request with an error.
pub async fn check_requests(url: &str, told: &str) {
    let metrics = crate::support::client().get(format!("{url}/metrics")).send().await.expect("metrics");
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
