//! `cargo bench --bench gateway -- [--seconds N] [--rounds N] [--awake N] [--mock-port PORT] [--peer NAME=URL ...]
//! [--soak REQUESTS]`: what the gateway costs, beside a mock upstream asked directly and beside peers that the
//! caller started in front of it. `--soak` measures memory instead: so many requests, and a fiftieth of that in
//! streams that their callers leave in the middle.
//!
//! Mock, load and gateway share this machine, each a process of its own: what is added is the time of a request
//! through the gateway less that of one straight to the mock. A relay that copies bytes and reads none of them
//! stands beside the gateway, for what a third process costs on this machine whatever it does. The gateway has
//! keys, limits, routing rules, prices and usage records on. Each row is one kind of request by so many clients,
//! each with one connection that is kept, for so many seconds; answers are 20 tokens. Of several rounds each figure
//! is the median.
//!
//! `--awake N` runs loops on the first N processors that take what nobody else wants (SCHED_IDLE). A virtual
//! processor that has nothing to do halts, and waking it may cost more than a request: without them the rows of one
//! client measure the hypervisor.
//!
//! A peer is started before, for one:
//!
//!     vllm-router --worker-urls http://127.0.0.1:9901 --port 9902
//!     cargo bench --bench gateway -- --mock-port 9901 --peer vllm-router=http://127.0.0.1:9902

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TOKENS: usize = 20;
const KEY: &str = "the-key-of-the-bench";
const NOVASTACK: &str = "NovaStack";

/// What a client sends.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Stream,
    /// In Anthropic's format: the gateway translates.
    Translated,
    TranslatedStream,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Stream => "stream",
            Self::Translated => "plain, translated",
            Self::TranslatedStream => "stream, translated",
        }
    }

    fn request(self, model: &str) -> Vec<u8> {
        let (path, stream) = match self {
            Self::Plain => ("/v1/chat/completions", false),
            Self::Stream => ("/v1/chat/completions", true),
            Self::Translated => ("/v1/messages", false),
            Self::TranslatedStream => ("/v1/messages", true),
        };
        let body = format!(
            r#"{{"model":"{model}","max_tokens":64,"stream":{stream},"messages":[{{"role":"user","content":"What is the capital of France? Answer in one sentence, please."}}]}}"#
        );
        format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

struct Options {
    seconds: f64,
    rounds: usize,
    awake: usize,
    mock_port: u16,
    peers: Vec<(String, String)>,
    soak: usize,
    /// Be one of the other processes of a run: the mock on this port, or the relay to this address.
    part: Option<Part>,
}

enum Part {
    Mock(u16),
    Relay(String),
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { seconds: 5.0, rounds: 1, awake: 0, mock_port: 0, peers: Vec::new(), soak: 0, part: None };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => options.seconds = value.parse().map_err(|_| "--seconds needs a number")?,
            "--mock-port" => options.mock_port = value.parse().map_err(|_| "--mock-port needs a port")?,
            "--rounds" => options.rounds = value.parse().map_err(|_| "--rounds needs a number")?,
            "--awake" => options.awake = value.parse().map_err(|_| "--awake needs a number of processors")?,
            "--soak" => options.soak = value.parse().map_err(|_| "--soak needs a number of requests")?,
            "--part-mock" => {
                options.part = Some(Part::Mock(value.parse().map_err(|_| "--part-mock needs a port")?));
            }
            "--part-relay" => options.part = Some(Part::Relay(value)),
            "--peer" => {
                let (name, url) = value.split_once('=').ok_or("--peer needs NAME=URL")?;
                let address = url.trim_start_matches("http://").trim_end_matches('/');
                options.peers.push((name.to_owned(), address.to_owned()));
            }
            _ => {
                return Err(format!(
                    "{name} is not known: --seconds, --rounds, --awake, --mock-port, --peer, --soak"
                ));
            }
        }
    }
    Ok(options)
}

fn main() -> Result<(), String> {
    let options = options()?;
    if options.rounds == 0 {
        return Err("--rounds is at least 1".into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        match &options.part {
            None => run(options).await,
            Some(Part::Mock(port)) => serve_mock(listen(*port).await?).await,
            Some(Part::Relay(to)) => relay(listen(0).await?, to).await,
        }
    })
}

/// Says where it listens, for the process that started this one.
async fn listen(port: u16) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    println!("http://{}", listener.local_addr().map_err(|error| error.to_string())?);
    Ok(listener)
}

async fn run(options: Options) -> Result<(), String> {
    let itself = std::env::current_exe().map_err(|error| error.to_string())?;
    let mock = Process::start(Command::new(&itself).args(["--part-mock", &options.mock_port.to_string()]))?;
    let relay = Process::start(Command::new(&itself).args(["--part-relay", &mock.address]))?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let gateway = gateway(folder.path(), &mock.address)?;
    if options.soak > 0 {
        return soak(&gateway, options.soak).await;
    }
    let mut targets = vec![
        ("mock alone".to_owned(), mock.address.clone()),
        ("relay of bytes".to_owned(), relay.address.clone()),
        (NOVASTACK.to_owned(), gateway.address.clone()),
    ];
    targets.extend(options.peers.iter().cloned());
    for (name, address) in &options.peers {
        eprintln!("waiting for {name}");
        is_there(address).await?;
    }
    let _awake = (0..options.awake).map(Awake::start).collect::<Result<Vec<_>, _>>()?;
    println!(
        "| request | clients | by | requests/s | p50 ms | p99 ms | added p50 ms | added p99 ms | rate of the mock's |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (kind, clients) in [(Kind::Plain, 1), (Kind::Plain, 16), (Kind::Stream, 1), (Kind::Stream, 32)] {
        let mut asked: Vec<_> = targets.iter().map(|(name, address)| (kind, name, address)).collect();
        // Beside what it is compared with, round by round. Nobody else translates.
        let translated = if kind == Kind::Plain { Kind::Translated } else { Kind::TranslatedStream };
        asked.extend(asked.iter().find(|(_, name, _)| *name == NOVASTACK).map(|it| (translated, it.1, it.2)));
        let mut rows = vec![Vec::new(); asked.len()];
        for _ in 0..options.rounds {
            for ((kind, _, address), row) in asked.iter().zip(&mut rows) {
                load(address, *kind, clients, 0.5).await?;
                let measured = load(address, *kind, clients, options.seconds).await?;
                row.push([measured.rate, measured.percentile(50.0), measured.percentile(99.0)]);
            }
        }
        let mut alone: Option<[f64; 3]> = None;
        for ((kind, name, _), row) in asked.iter().zip(&rows) {
            let [rate, p50, p99] =
                [0, 1, 2].map(|at| median(row.iter().map(|figures| figures[at]).collect()));
            let beside = match alone {
                None => "| | | |".to_owned(),
                Some([alone_rate, alone_p50, alone_p99]) => {
                    format!("| {:.3} | {:.3} | {:.2} |", p50 - alone_p50, p99 - alone_p99, rate / alone_rate)
                }
            };
            alone = alone.or(Some([rate, p50, p99]));
            println!("| {} | {clients} | {name} | {rate:.0} | {p50:.3} | {p99:.3} {beside}", kind.name());
        }
    }
    println!("\nResident memory of the gateway afterwards: {} MB", gateway.resident_kib() / 1024);
    Ok(())
}

/// Peers may look for their upstream, which is the mock, before they listen.
async fn is_there(address: &str) -> Result<(), String> {
    let begun = Instant::now();
    while let Err(error) = TcpStream::connect(address).await {
        if begun.elapsed() > Duration::from_secs(60) {
            return Err(format!("{address}: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() % 2 {
        0 => figures[middle - 1..=middle].iter().sum::<f64>() / 2.0,
        _ => figures[middle],
    }
}

/// A loop that keeps a processor from halting, until it is dropped.
struct Awake(Child);

impl Awake {
    fn start(processor: usize) -> Result<Self, String> {
        let child = Command::new("taskset")
            .args([
                "--cpu-list",
                &processor.to_string(),
                "chrt",
                "--idle",
                "0",
                "sh",
                "-c",
                "while :; do :; done",
            ])
            .spawn();
        child.map(Self).map_err(|error| format!("taskset and chrt (util-linux): {error}"))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Resident memory while requests are answered and streams are left.
async fn soak(gateway: &Process, requests: usize) -> Result<(), String> {
    const ROUNDS: usize = 10;
    const CLIENTS: usize = 16;
    println!("| requests | streams left in the middle | resident MB |");
    println!("| --- | --- | --- |");
    println!("| 0 | 0 | {:.1} |", gateway.resident_kib() as f64 / 1024.0);
    for round in 1..=ROUNDS {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let address = gateway.address.clone();
            tasks.spawn(async move {
                let connect = || async {
                    TcpStream::connect(&address).await.map_err(|error| format!("{address}: {error}"))
                };
                let (mut stream, mut buffer) = (connect().await?, Vec::new());
                let request = Kind::Plain.request("bench");
                for at in 0..requests / ROUNDS / CLIENTS {
                    stream.write_all(&request).await.map_err(|error| error.to_string())?;
                    read_answer(&mut stream, &mut buffer)
                        .await
                        .map_err(|error| format!("{address}: {error}"))?;
                    if at % 50 == 0 {
                        let mut left = connect().await?;
                        let request = Kind::Stream.request("bench");
                        let request = String::from_utf8_lossy(&request).replace(r#""max_tokens":64"#, HALF);
                        left.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
                        let mut some = [0; 600];
                        left.read_exact(&mut some).await.map_err(|error| error.to_string())?;
                    }
                }
                Ok::<_, String>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        let (sent, left) = (requests * round / ROUNDS, requests * round / ROUNDS / 50);
        println!("| {sent} | {left} | {:.1} |", gateway.resident_kib() as f64 / 1024.0);
    }
    Ok(())
}

/// What makes the mock send half a stream, and wait.
const HALF: &str = r#""max_tokens":63"#;

/// `novastack serve` in front of the mock.
fn gateway(folder: &std::path::Path, mock: &str) -> Result<Process, String> {
    let config = format!(
        "server: {{ store: sqlite:usage.db }}\n\
         providers: {{ mock: {{ format: openai, base_url: \"http://{mock}/v1\", max_concurrency: 4096 }} }}\n\
         models: {{ m: {{ provider: mock, price: {{ input: 1, output: 2 }} }}, n: {{ provider: mock }} }}\n\
         aliases: {{ bench: auto }}\n\
         routes:\n\
         - {{ if: context_length > 80000, use: n }}\n\
         - {{ if: task == \"reasoning\" and budget < 0.0005, use: n }}\n\
         - {{ if: 'header[\"x-forwarded-to\"] == \"claude\"', use: n }}\n\
         - default: m\n\
         limits: {{ requests_per_minute: 1000000000, tokens_per_minute: 100000000000, dollars_per_month: 1000000 }}\n"
    );
    let path = folder.join("novastack.yaml");
    std::fs::write(&path, config).map_err(|error| error.to_string())?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_novastack"));
    command
        .args(["serve", "--port", "0", "--api-key", KEY, "--config"])
        .arg(&path)
        .env("NOVASTACK_LOG", "warn");
    Process::start(&mut command)
}

/// Another process of the run, which prints the URL it listens at. It ends with this value.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(command: &mut Command) -> Result<Self, String> {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let url = line.split_whitespace().find(|word| word.starts_with("http://"))?;
            Some(url.trim_start_matches("http://").to_owned())
        });
        let address = address.ok_or("another process of the run ended early")?;
        // It goes on writing.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address })
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Measured {
    rate: f64,
    /// Ascending, in milliseconds.
    latencies: Vec<f64>,
}

impl Measured {
    fn percentile(&self, percent: f64) -> f64 {
        let at = (self.latencies.len() as f64 * percent / 100.0) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

async fn load(address: &str, kind: Kind, clients: usize, seconds: f64) -> Result<Measured, String> {
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(seconds);
    let count = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (address, request, count) = (address.to_owned(), kind.request("bench"), count.clone());
        tasks.spawn(async move {
            let mut stream =
                TcpStream::connect(&address).await.map_err(|error| format!("{address}: {error}"))?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let (mut latencies, mut buffer) = (Vec::new(), Vec::new());
            while Instant::now() < until {
                let sent = Instant::now();
                stream.write_all(&request).await.map_err(|error| error.to_string())?;
                read_answer(&mut stream, &mut buffer).await.map_err(|error| format!("{address}: {error}"))?;
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, String>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done.map_err(|error| error.to_string())??);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(Measured { rate: count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64(), latencies })
}

/// Reads one answer, of known length or in chunks, to its end.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(), String> {
    buffer.clear();
    let mut head = None;
    loop {
        if head.is_none()
            && let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n")
        {
            let text = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            if !text.starts_with("http/1.1 200") {
                return Err(text);
            }
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            head = Some((end + 4, length.and_then(|length| length.trim().parse::<usize>().ok())));
        }
        match head {
            Some((end, Some(length))) if buffer.len() >= end + length => return Ok(()),
            Some((_, None)) if buffer.ends_with(b"\r\n0\r\n\r\n") => return Ok(()),
            _ => {}
        }
        match stream.read_buf(buffer).await {
            Ok(0) => return Err("the connection was closed".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// An upstream that answers at once.
async fn serve_mock(listener: TcpListener) -> Result<(), String> {
    let (plain, streamed) = answers();
    let (plain, streamed) = (Arc::new(plain), Arc::new(streamed));
    loop {
        let (mut stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let (plain, streamed) = (plain.clone(), streamed.clone());
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            loop {
                let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                    match stream.read_buf(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => continue,
                    }
                };
                let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
                while buffer.len() < end + 4 + length {
                    match stream.read_buf(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                }
                let body = &buffer[end + 4..end + 4 + length];
                let streams = body.windows(13).any(|bytes| bytes == br#""stream":true"#)
                    || body.windows(14).any(|bytes| bytes == br#""stream": true"#);
                let answer = if streams { &streamed } else { &plain };
                if body.windows(HALF.len()).any(|bytes| bytes == HALF.as_bytes()) {
                    let _ = stream.write_all(&answer[..answer.len() / 2]).await;
                    // Until the other side leaves.
                    let _ = stream.read_u8().await;
                    return;
                }
                if stream.write_all(answer).await.is_err() {
                    return;
                }
                buffer.drain(..end + 4 + length);
            }
        });
    }
}

/// Copies what either side sends to the other, with a connection of its own for each it accepts.
async fn relay(listener: TcpListener, to: &str) -> Result<(), String> {
    loop {
        let (mut caller, _) = listener.accept().await.map_err(|error| error.to_string())?;
        let mut upstream = TcpStream::connect(to).await.map_err(|error| format!("{to}: {error}"))?;
        caller.set_nodelay(true).and(upstream.set_nodelay(true)).map_err(|error| error.to_string())?;
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut caller, &mut upstream).await });
    }
}

/// A whole answer and a stream of the same, as bytes on the wire.
fn answers() -> (Vec<u8>, Vec<u8>) {
    let usage =
        format!(r#"{{"prompt_tokens":17,"completion_tokens":{TOKENS},"total_tokens":{}}}"#, 17 + TOKENS);
    let body = format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],"usage":{usage}}}"#,
        "word ".repeat(TOKENS)
    );
    let plain = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let chunk = |choices: &str, more: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{choices}]{more}}}\n\n"
        )
    };
    let mut events =
        chunk(r#"{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}"#, "");
    for _ in 0..TOKENS {
        events += &chunk(r#"{"index":0,"delta":{"content":"word "},"finish_reason":null}"#, "");
    }
    events += &chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, "");
    events += &chunk("", &format!(",\"usage\":{usage}"));
    events += "data: [DONE]\n\n";
    let mut streamed =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    // Each event in a piece of its own.
    for event in events.split_inclusive("\n\n") {
        streamed += &format!("{:x}\r\n{event}\r\n", event.len());
    }
    streamed += "0\r\n\r\n";
    (plain.into_bytes(), streamed.into_bytes())
}
