//! The real program, serving on a free port, as a user would start it.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Longer than any tiny checkpoint takes to load on a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// A running `novastack serve`; killed when dropped.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`, or with https
    pub url: String,
    /// What it has written to stderr.
    log: Arc<Mutex<String>>,
    client: reqwest::Client,
}

impl Server {
    /// Starts `novastack serve --port 0 --threads 2 ARGS` and waits until it says that it is ready.
    pub fn start(args: &[&str]) -> Server {
        match Self::try_start(args) {
            Ok(server) => server,
            Err(log) => panic!("novastack serve {args:?} did not become ready:\n{log}"),
        }
    }

    /// The same; the program's stderr when it ends instead.
    pub fn try_start(args: &[&str]) -> Result<Server, String> {
        Self::try_start_with(args, &[])
    }

    /// The same, with environment variables.
    pub fn try_start_with(args: &[&str], environment: &[(&str, &str)]) -> Result<Server, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_novastack"))
            .args(["serve", "--port", "0", "--threads", "2"])
            .args(args)
            .env_remove("NOVASTACK_API_KEYS")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (lines, inbox) = mpsc::channel::<Result<String, String>>();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let out = lines.clone();
        let log = Arc::<Mutex<String>>::default();
        let kept = log.clone();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| out.send(Ok(line)))
        });
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| {
                *kept.lock().expect("the log") += &format!("{line}\n");
                lines.send(Err(line))
            })
        });
        let mut told = String::new();
        loop {
            match inbox.recv_timeout(READY_TIMEOUT) {
                Ok(Ok(line)) => {
                    if let Some(url) = line.split_whitespace().find(|word| word.starts_with("http")) {
                        let url = url.to_string();
                        // The threads go on reading, so that the program never blocks on its output.
                        std::thread::spawn(move || inbox.iter().for_each(drop));
                        return Ok(Server { child, url, log, client: crate::support::client() });
                    }
                }
                Ok(Err(line)) => told = told + &line + "\n",
                Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(told);
                }
            }
        }
    }

    /// POSTs JSON; the status and the JSON answer.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response =
            self.client.post(format!("{}{path}", self.url)).json(body).send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json().await.expect("a JSON answer"))
    }

    /// The first line of its log with all these words, once it is there.
    pub async fn log_line(&self, words: &[&str]) -> String {
        let all = |line: &&str| words.iter().all(|word| line.contains(word));
        for _ in 0..200 {
            let log = self.log();
            if let Some(line) = log.lines().find(all) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no line with {words:?} in the log:\n{}", self.log());
    }

    /// The names of its threads.
    pub fn thread_names(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("Linux");
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok().map(|name| name.trim().to_owned())
        };
        tasks.filter_map(name).collect()
    }

    /// What it has written to stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// GETs text.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a text answer"))
    }

    /// The most memory that was resident at once.
    pub fn peak_resident_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The memory that is resident now.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal, as `kill` names it.
    pub fn signal(&self, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        let _ = Command::new("kill").args(["-KILL", &self.child.id().to_string()]).status();
    }

    /// The exit code, once the program has ended.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("the child can be waited for").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
