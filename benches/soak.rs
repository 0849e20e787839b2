//! `cargo bench --bench soak -- [--minutes N] [--seed N] [--checkpoint FILE]`: does a server come back to where
//! it began after minutes of callers and upstreams that behave badly, and does it answer right all the while?
//!
//! One server with a local model, whose KV cache is too small for all who ask (so that sequences are preempted),
//! and with an upstream of this program's own that answers in every wrong way there is. Callers of each kind of
//! [`Caller`] work at once. A shorter run of the same comes first: what the server keeps for good (buffers,
//! threads, tables of names) is made there, so that what is compared is one state at rest with another.
//!
//! The checkpoint is the demo's (`scripts/demo_checkpoint.sh`), or `--checkpoint`, of which the path of a .gguf
//! file is enough. At the end it prints the two tables of benches/results/hardening.md, and fails when an answer
//! of greedy sampling changed or anything but memory is not back.

use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const KEY: &str = "a-key-for-the-soak-only";
/// After this a request of the soak is given up, and so must be every stream that nobody reads.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Until nothing is left of callers and upstreams: connections to upstreams are kept for 90 seconds.
const REST: Duration = Duration::from_secs(100);
/// Of the first, shorter run.
const WARM_UP: Duration = Duration::from_secs(45);

/// What the upstream does, by the name of the model that is asked for.
const UPSTREAM: [&str; 12] = [
    "good",
    "closes",
    "resets-in-stream",
    "error-500",
    "not-json",
    "head-then-silence",
    "comments-for-ever",
    "noise-for-ever",
    "line-without-end",
    "impossible-usage",
    "no-done",
    "too-short-a-body",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    /// Asks with greedy sampling what was asked while nothing else ran, and compares.
    Greedy,
    /// Long prompts and answers: together more than the KV cache holds.
    Long,
    /// Leaves in the middle of a stream, by a close or by a reset.
    Leaves,
    /// Leaves in the middle of its own request.
    LeavesHalfSaid,
    /// Asks for streams and reads nothing of them.
    ReadsNothing,
    /// Sends what is no request of any endpoint.
    Garbage,
    /// Sends a large text to be tokenized, and leaves at once.
    LargeAndGone,
    /// Opens many connections and says nothing.
    Idle,
    /// Asks for what the upstream answers wrongly.
    Upstream,
}

const CALLERS: [(Caller, usize); 9] = [
    (Caller::Greedy, 2),
    (Caller::Long, 6),
    (Caller::Leaves, 3),
    (Caller::LeavesHalfSaid, 1),
    (Caller::ReadsNothing, 4),
    (Caller::Garbage, 1),
    (Caller::LargeAndGone, 1),
    (Caller::Idle, 1),
    (Caller::Upstream, 6),
];

struct Options {
    minutes: f64,
    seed: u64,
    checkpoint: String,
}

fn options() -> Result<Options, String> {
    let mut options = Options { minutes: 10.0, seed: 1, checkpoint: String::new() };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--minutes" => options.minutes = value.parse().map_err(|_| "--minutes needs a number")?,
            "--seed" => options.seed = value.parse().map_err(|_| "--seed needs a number")?,
            "--checkpoint" => options.checkpoint = value,
            _ => return Err(format!("{name} is not known: --minutes, --seed, --checkpoint")),
        }
    }
    if options.checkpoint.is_empty() {
        let found = Command::new("scripts/demo_checkpoint.sh").output().map_err(|error| error.to_string())?;
        options.checkpoint = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    }
    Ok(options)
}

fn main() -> Result<(), String> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(run(options))
}

async fn run(options: Options) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
    let upstream = listener.local_addr().map_err(|error| error.to_string())?;
    tokio::spawn(serve_upstream(listener));
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let server = Server::start(folder.path(), &options.checkpoint, &upstream.to_string())?;
    let answers = Arc::new(greedy_answers(&server.address).await?);

    let mut soak = Soak {
        address: server.address.clone(),
        answers,
        tally: Arc::default(),
        changed: Arc::default(),
        random: Random(options.seed),
    };
    soak.callers(WARM_UP).await;
    let before = server.at_rest().await?;
    soak.tally = Arc::default();
    soak.callers(Duration::from_secs_f64(options.minutes * 60.0)).await;
    let busiest = server.peak_mib();
    let after = server.at_rest().await?;

    println!("| caller | outcome | requests |\n| --- | --- | --- |");
    for ((caller, outcome), count) in soak.tally.lock().unwrap().iter() {
        println!("| {caller:?} | {outcome} | {count} |");
    }
    println!("\n| at rest | before | after |\n| --- | --- | --- |");
    let mut is_back = true;
    for (name, value) in &after {
        let earlier = before.get(name).copied().unwrap_or(0.0);
        // Preemptions are told as what they grew to.
        is_back &= value <= &earlier || ["resident MiB", "preemptions"].contains(name);
        println!("| {name} | {earlier:.0} | {value:.0} |");
    }
    println!("| resident MiB at the most | | {busiest:.0} |");
    let changed = soak.changed.load(Ordering::Relaxed);
    println!("| greedy answers that changed | | {changed} |");
    match is_back && changed == 0 {
        true => Ok(()),
        false => Err("not everything is back where it began".into()),
    }
}

/// `novastack serve`, of which the value is the life.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(folder: &std::path::Path, checkpoint: &str, upstream: &str) -> Result<Self, String> {
        let mut config = format!(
            "server: {{ store: sqlite:usage.db }}\n\
             providers: {{ hostile: {{ format: openai, base_url: \"http://{upstream}/v1\", max_concurrency: 64 }} }}\n\
             models:\n  local: {{ source: {checkpoint} }}\n"
        );
        for model in UPSTREAM {
            config += &format!("  {model}: {{ provider: hostile, price: {{ input: 1, output: 2 }} }}\n");
        }
        let path = folder.join("novastack.yaml");
        std::fs::write(&path, config).map_err(|error| error.to_string())?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_novastack"))
            .args(["serve", "--port", "0", "--api-key", KEY, "--threads", "2", "--http-threads", "2"])
            .args(["--max-context", "1024", "--kv-cache-memory", "24M", "--max-running", "16"])
            .args(["--request-timeout", &REQUEST_TIMEOUT.as_secs().to_string(), "--config"])
            .arg(&path)
            .env("NOVASTACK_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let url = line.split_whitespace().find(|word| word.starts_with("http://"))?;
            Some(url.trim_start_matches("http://").trim_end_matches('/').to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.ok_or("the server ended before it listened")?;
        Ok(Self { child, address })
    }

    /// A line of /proc/PID/status in MiB.
    fn memory_mib(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }

    fn peak_mib(&self) -> f64 {
        self.memory_mib("VmHWM:")
    }

    /// What it holds once nobody asks for anything, and every time-out of what was asked is over.
    async fn at_rest(&self) -> Result<BTreeMap<&'static str, f64>, String> {
        tokio::time::sleep(REST).await;
        let url = format!("http://{}/metrics", self.address);
        let answer = reqwest::Client::new().get(url).bearer_auth(KEY).send().await;
        let answer =
            answer.and_then(|answer| answer.error_for_status()).map_err(|error| error.to_string())?;
        let metrics = answer.text().await.map_err(|error| error.to_string())?;
        let sum = |name: &str| {
            let of = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
            of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        };
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_err(|e| e.to_string())?;
        Ok(BTreeMap::from([
            ("resident MiB", self.memory_mib("VmRSS:")),
            ("descriptors", open.count() as f64),
            ("KV blocks used", sum("novastack_kv_blocks_used")),
            ("requests in flight", sum("novastack_requests_in_flight")),
            ("upstream requests in flight", sum("novastack_upstream_in_flight")),
            ("preemptions", sum("novastack_preemptions_total")),
            ("records lost", sum("novastack_store_lost_records_total")),
        ]))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// splitmix64.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn chat(model: &str, prompt: &str, tokens: u64, stream: bool) -> Value {
    json!({
        "model": model, "max_tokens": tokens, "stream": stream, "temperature": 0,
        "messages": [{ "role": "user", "content": prompt }],
    })
}

const QUESTIONS: [&str; 6] = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Count from one to ten.",
    "Explain what a prime number is.",
    "Translate to French: the house is red.",
    "Name three animals that can fly.",
];

async fn ask(client: &reqwest::Client, address: &str, body: &Value) -> Result<(u16, Value), String> {
    let url = format!("http://{address}/v1/chat/completions");
    let answer = client.post(url).bearer_auth(KEY).json(body).send().await.map_err(|e| e.to_string())?;
    let status = answer.status().as_u16();
    Ok((status, answer.json().await.map_err(|error| error.to_string())?))
}

/// The text of each question's answer while nothing else runs.
async fn greedy_answers(address: &str) -> Result<Vec<String>, String> {
    let client = reqwest::Client::new();
    let mut answers = Vec::new();
    for question in QUESTIONS {
        let (status, answer) = ask(&client, address, &chat("local", question, 24, false)).await?;
        let text = answer["choices"][0]["message"]["content"].as_str();
        answers.push(text.ok_or_else(|| format!("{status}: {answer}"))?.to_owned());
    }
    Ok(answers)
}

#[derive(Clone)]
struct Soak {
    address: String,
    answers: Arc<Vec<String>>,
    tally: Arc<Mutex<BTreeMap<(Caller, String), u64>>>,
    changed: Arc<AtomicU64>,
    random: Random,
}

impl Soak {
    /// All callers at once, for so long; what they were about to do then is cut off.
    async fn callers(&mut self, length: Duration) {
        let mut tasks = tokio::task::JoinSet::new();
        let end = Instant::now() + length;
        for (caller, count) in CALLERS {
            for _ in 0..count {
                let mut one = self.clone();
                one.random = Random(self.random.next());
                tasks.spawn(async move {
                    let client = reqwest::Client::new();
                    while Instant::now() < end {
                        let outcome = one.once(caller, &client).await.unwrap_or_else(|error| error);
                        *one.tally.lock().unwrap().entry((caller, outcome)).or_default() += 1;
                    }
                });
            }
        }
        let _ = tokio::time::timeout(length + REQUEST_TIMEOUT, tasks.join_all()).await;
    }

    /// One request of a kind, and what came of it.
    async fn once(&mut self, caller: Caller, client: &reqwest::Client) -> Result<String, String> {
        match caller {
            Caller::Greedy => {
                let at = self.random.below(QUESTIONS.len() as u64) as usize;
                let (status, answer) = ask(client, &self.address, &chat("local", QUESTIONS[at], 24, false))
                    .await
                    .map_err(closed)?;
                let text = answer["choices"][0]["message"]["content"].as_str();
                if text.is_some_and(|text| text != self.answers[at]) {
                    self.changed.fetch_add(1, Ordering::Relaxed);
                    eprintln!("changed: {:?} is now {text:?}", self.answers[at]);
                }
                Ok(status.to_string())
            }
            Caller::Long => {
                let prompt = "The sea was calm that day. ".repeat(self.random.below(60) as usize + 5);
                let body = chat("local", &prompt, self.random.below(500) + 50, false);
                Ok(ask(client, &self.address, &body).await.map_err(closed)?.0.to_string())
            }
            Caller::Leaves => {
                let mut stream = self.send(&chat("local", "Tell me a long story.", 400, true)).await?;
                let mut some = vec![0; self.random.below(4000) as usize + 1];
                let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut some)).await;
                if self.random.below(2) == 0 {
                    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                }
                Ok("left".into())
            }
            Caller::LeavesHalfSaid => {
                let request =
                    self.request("/v1/chat/completions", &chat("local", "Hello", 8, false).to_string());
                let mut stream = self.connect().await?;
                let part = self.random.below(request.len() as u64) as usize;
                let _ = stream.write_all(&request.as_bytes()[..part]).await;
                tokio::time::sleep(Duration::from_millis(self.random.below(200))).await;
                Ok("left".into())
            }
            Caller::ReadsNothing => {
                let model = ["local", "good", "noise-for-ever"][self.random.below(3) as usize];
                let _stream = self.send(&chat(model, "Tell me a long story.", 800, true)).await?;
                tokio::time::sleep(Duration::from_secs(self.random.below(40))).await;
                Ok("left unread".into())
            }
            Caller::Garbage => {
                let body = match self.random.below(6) {
                    0 => "{".repeat(100_000),
                    1 => format!("[{}", "1,".repeat(500_000)),
                    2 => r#"{"model":"local","messages":[{"role":"user","content":7}]}"#.to_owned(),
                    3 => format!(r#"{{"model":"local","prompt":[{}1]}}"#, "1,".repeat(200_000)),
                    4 => format!(r#"{{"model":"local","stop":[{}""]}}"#, r#""x","#.repeat(10_000)),
                    _ => "\u{0}\u{1}".repeat(1000),
                };
                let paths =
                    ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/tokenize", "/infill"];
                let path = paths[self.random.below(paths.len() as u64) as usize];
                let mut stream = self.connect().await?;
                let _ = stream.write_all(self.request(path, &body).as_bytes()).await;
                Ok(status_of(&mut stream).await)
            }
            Caller::LargeAndGone => {
                let text = "word and word ".repeat(100_000 + self.random.below(500_000) as usize);
                let mut stream = self.connect().await?;
                let body = json!({ "model": "local", "prompt": text }).to_string();
                let _ = stream.write_all(self.request("/tokenize", &body).as_bytes()).await;
                tokio::time::sleep(Duration::from_millis(self.random.below(3000))).await;
                Ok("left".into())
            }
            Caller::Idle => {
                let mut idle = Vec::new();
                for _ in 0..150 {
                    idle.push(self.connect().await?);
                }
                tokio::time::sleep(Duration::from_secs(self.random.below(10))).await;
                Ok("150 connections".into())
            }
            Caller::Upstream => {
                let model = UPSTREAM[self.random.below(UPSTREAM.len() as u64) as usize];
                let body = chat(model, "Hello", 50, self.random.below(2) == 0);
                let url = format!("http://{}/v1/chat/completions", self.address);
                let answer = client.post(url).bearer_auth(KEY).json(&body).send().await;
                let answer = answer.map_err(|error| closed(error.to_string()))?;
                let status = answer.status();
                if status == 503 {
                    // It rests after failures: the others are to have their turn.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let mut pieces = answer.bytes_stream();
                while let Some(piece) = pieces.next().await {
                    if piece.is_err() {
                        return Ok(format!("{model}: {} and then closed", status.as_u16()));
                    }
                }
                Ok(format!("{model}: {}", status.as_u16()))
            }
        }
    }

    fn request(&self, path: &str, body: &str) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        TcpStream::connect(&self.address).await.map_err(|error| closed(error.to_string()))
    }

    async fn send(&self, body: &Value) -> Result<TcpStream, String> {
        let mut stream = self.connect().await?;
        let request = self.request("/v1/chat/completions", &body.to_string());
        stream.write_all(request.as_bytes()).await.map_err(|error| closed(error.to_string()))?;
        Ok(stream)
    }
}

/// Whatever the system says of it.
fn closed(_: String) -> String {
    "no answer".into()
}

async fn status_of(stream: &mut TcpStream) -> String {
    let mut head = [0; 12];
    match tokio::time::timeout(REQUEST_TIMEOUT, stream.read_exact(&mut head)).await {
        Ok(Ok(_)) => String::from_utf8_lossy(&head[9..]).into_owned(),
        _ => "no answer".into(),
    }
}

async fn serve_upstream(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut request = Vec::new();
            while !is_whole(&request) {
                match stream.read_buf(&mut request).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
            let text = String::from_utf8_lossy(&request);
            let streams = text.contains(r#""stream":true"#) || text.contains(r#""stream": true"#);
            let model = UPSTREAM.into_iter().find(|name| text.contains(&format!("\"{name}\"")));
            let _ = answer_badly(&mut stream, model.unwrap_or("good"), streams).await;
        });
    }
}

fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    request.len() >= end + 4 + length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

fn frame(delta: Value, finish: Value, usage: Value) -> String {
    let chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }], "usage": usage,
    });
    format!("data: {chunk}\n\n")
}

async fn answer_badly(stream: &mut TcpStream, model: &str, streams: bool) -> std::io::Result<()> {
    let json_answer = |body: &str, length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    match model {
        "closes" => return Ok(()),
        "error-500" => {
            let body = "x".repeat(1 << 20);
            let head =
                format!("HTTP/1.1 500 Broken\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            return stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
        "not-json" => return stream.write_all(json_answer("<html>", 6).as_bytes()).await,
        "head-then-silence" => {
            stream.write_all(STREAM_HEAD.as_bytes()).await?;
            return stream.read_u8().await.map(drop);
        }
        "comments-for-ever" | "noise-for-ever" | "line-without-end" => {
            stream.write_all(STREAM_HEAD.as_bytes()).await?;
            let piece = match model {
                "comments-for-ever" => ": still here\n\n".repeat(1000),
                "noise-for-ever" => frame(json!({}), Value::Null, Value::Null).repeat(100),
                _ => "data: ".to_owned() + &"x".repeat(10_000),
            };
            loop {
                stream.write_all(piece.as_bytes()).await?;
            }
        }
        _ => {}
    }
    let tokens = if model == "impossible-usage" { u64::MAX } else { 5 };
    let usage = json!({ "prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": tokens });
    if !streams {
        let message = json!({ "role": "assistant", "content": "Hello there" });
        let body = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "m",
            "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }], "usage": usage,
        });
        let body = body.to_string();
        let length = if model == "too-short-a-body" { body.len() + 100 } else { body.len() };
        return stream.write_all(json_answer(&body, length).as_bytes()).await;
    }
    let mut frames = STREAM_HEAD.to_owned();
    for word in ["Hello", " there", ", ", "how", " are you?"] {
        frames += &frame(json!({ "content": word }), Value::Null, Value::Null);
    }
    if model == "resets-in-stream" || model == "too-short-a-body" {
        stream.write_all(frames.as_bytes()).await?;
        return socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
    }
    frames += &frame(json!({}), json!("stop"), usage);
    if model != "no-done" {
        frames += "data: [DONE]\n\n";
    }
    stream.write_all(frames.as_bytes()).await
}
