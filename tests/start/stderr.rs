//! What becomes of a server whose log nobody reads.

use crate::support::golden_dir;
use std::io::{BufRead, BufReader, PipeReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const REQUESTS: usize = 1000;
/// Longer than a drain, a flush of each log and the runtime's end take on a busy machine.
const END_TIMEOUT: Duration = Duration::from_secs(30);

struct Running {
    child: Child,
    url: String,
    /// Of the pipe that stdout and stderr share.
    reader: BufReader<PipeReader>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `novastack serve ARGS 2>&1 |`, once it is ready.
fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Running {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let source = format!("tiny={}", golden_dir("llama").display());
    let child = Command::new(env!("CARGO_BIN_EXE_novastack"))
        .args(["serve", "--port", "0", "--threads", "2", &source])
        .args(arguments)
        .env_remove("NOVASTACK_API_KEYS")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(writer.try_clone().expect("a descriptor"))
        .stderr(writer)
        .spawn()
        .expect("the binary starts");
    let mut running = Running { child, url: String::new(), reader: BufReader::new(reader) };
    let (mut line, mut all) = (String::new(), String::new());
    while running.url.is_empty() {
        line.clear();
        assert_ne!(running.reader.read_line(&mut line).expect("text"), 0, "it ended:\n{all}");
        all += &line;
        if line.contains("is ready on") {
            let url = line.split_whitespace().find(|word| word.starts_with("http://"));
            running.url = url.expect("an address").to_owned();
        }
    }
    running
}

impl Running {
    /// Eight callers, and each gets an answer to each of its requests.
    async fn ask(&self) {
        let client = crate::support::client();
        let callers = (0..8).map(|caller| {
            let (client, url) = (client.clone(), self.url.clone());
            tokio::spawn(async move {
                for turn in 0..REQUESTS / 8 {
                    let request = match turn % 10 {
                        0 => {
                            let body =
                                serde_json::json!({ "model": "tiny", "prompt": [5, 6], "max_tokens": 1 });
                            client.post(format!("{url}/v1/completions")).json(&body)
                        }
                        _ => client.get(format!("{url}/v1/models")),
                    };
                    let answer = request.timeout(Duration::from_secs(60)).send().await;
                    let answer = answer.unwrap_or_else(|error| panic!("{caller}/{turn}: {error}"));
                    assert_eq!(answer.status().as_u16(), 200, "{caller}/{turn}");
                    assert!(!answer.text().await.expect("a body").is_empty());
                }
            })
        });
        for caller in futures_util::future::join_all(callers).await {
            caller.expect("every request has its answer");
        }
    }

    async fn lost_lines(&self, log: &str) -> u64 {
        let answer = crate::support::client().get(format!("{}/metrics", self.url)).send().await;
        let text = answer.expect("an answer").text().await.expect("text");
        let name = format!("novastack_{log}_lost_lines_total ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{name} in\n{text}")).parse().expect("a number")
    }

    /// SIGTERM ends it in time, and well.
    fn end(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let begun = Instant::now();
        let code = loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => break status.code(),
                None if begun.elapsed() > END_TIMEOUT => panic!("it does not end"),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        assert_eq!(code, Some(0));
    }
}

const PLACES: [&str; 3] = ["", "access_log: stdout", "access_log: stderr"];

/// Arguments for a server whose access log goes there.
fn config(folder: &tempfile::TempDir, access_log: &str) -> Vec<String> {
    let path = folder.path().join("novastack.yaml");
    let model = golden_dir("llama").display().to_string();
    let text = format!("server: {{ {access_log} }}\nmodels: {{ other: {{ source: {model} }} }}\n");
    std::fs::write(&path, text).expect("a file");
    vec!["--config".into(), path.display().to_string()]
}

/// `novastack serve .. 2>&1 | head`
#[tokio::test]
async fn a_log_whose_reader_has_left_costs_lines_and_no_request() {
    for access_log in PLACES {
        let folder = tempfile::tempdir().expect("a folder");
        let arguments = config(&folder, access_log);
        let mut server = start(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        server.reader = BufReader::new(std::io::pipe().expect("a pipe").0);
        server.ask().await;
        let log = if access_log.is_empty() { "log" } else { "access_log" };
        // The last lines may still be on their way.
        let lost = server.lost_lines(log).await;
        assert!(lost > REQUESTS as u64 / 2, "{access_log}: {lost}");
        server.end();
    }
}

/// A pipe that nobody reads: its 64 KiB are full after some 300 requests.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    for access_log in PLACES {
        let folder = tempfile::tempdir().expect("a folder");
        let arguments = config(&folder, access_log);
        let mut server = start(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        server.ask().await;
        server.end();
    }
}

/// What waited while nobody read is there for who reads again.
#[tokio::test]
async fn a_log_that_is_read_again_goes_on() {
    let server = start(&[], &[]);
    server.ask().await;
    let mut told = 0;
    let mut lines = 0;
    let mut reader = server.reader.get_ref().try_clone().map(BufReader::new).expect("a descriptor");
    while told < REQUESTS / 8 * 8 {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).expect("text"), 0, "it ended");
        told += usize::from(line.contains("answered"));
        lines += 1;
        assert!(lines < 2 * REQUESTS, "lines are missing");
    }
}

/// A load that fails ends the program, and what it has to say is lost with its reader.
#[test]
fn an_error_at_the_start_ends_with_its_code_without_a_reader() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut child = Command::new(env!("CARGO_BIN_EXE_novastack"))
        .args(["serve", "--port", "0", "./no-such-model.gguf"])
        .stdin(Stdio::null())
        .stdout(writer.try_clone().expect("a descriptor"))
        .stderr(writer)
        .spawn()
        .expect("the binary starts");
    assert_eq!(child.wait().expect("a child").code(), Some(1));
}
