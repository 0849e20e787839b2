//! The JSON bodies of every endpoint, asked of the whole program over HTTP: with a local model, and with upstreams
//! of both dialects that answer well. Whatever is asked gets an answer, and none is 500.
//!
//! The first byte chooses the endpoint.
#![no_main]

#[path = "../../src/cli/mod.rs"]
mod cli;
#[path = "../text_process.rs"]
mod text_process;

use libfuzzer_sys::fuzz_target;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const ENDPOINTS: [&str; 11] = [
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/completions",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
    "/infill",
    "/v1/scores",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/score",
];
const MODEL: &str = concat!("tiny=", env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/llama");
const EMBEDDER: &str = concat!("embed=", env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/embeddings/bert");

/// The program, in a thread of this process, so that its coverage counts.
static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let upstream = upstream();
    let folder = tempfile::tempdir().expect("a folder").keep();
    let config = folder.join("novastack.yaml");
    let text = format!(
        "providers:\n  x: {{ format: openai, base_url: 'http://{upstream}/v1' }}\n  \
         y: {{ format: anthropic, base_url: 'http://{upstream}' }}\n\
         models:\n  o: {{ provider: x }}\n  a: {{ provider: y }}\n"
    );
    std::fs::write(&config, text).expect("written");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let words = [
        "novastack",
        "serve",
        "--threads",
        "1",
        "--http-threads",
        "1",
        "--model",
        MODEL,
        "--model",
        EMBEDDER,
        "--port",
    ];
    let arguments = words.map(str::to_owned).into_iter();
    let arguments = arguments.chain([port.to_string(), "--config".into(), config.display().to_string()]);
    let arguments = arguments.map(Into::into).collect();
    std::thread::spawn(move || {
        cli::run(arguments);
        std::process::abort();
    });
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let begun = Instant::now();
    while asked(address, "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", b"")
        != Some(200)
    {
        assert!(begun.elapsed() < Duration::from_secs(60), "the server does not become ready");
        std::thread::sleep(Duration::from_millis(50));
    }
    address
});

/// Answers every request well, in the dialect of its path.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut asked, mut line, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut asked).ok()?;
    while reader.read_line(&mut line).ok()? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = match asked.contains("/messages") {
        true if asked.contains("count_tokens") => r#"{"input_tokens":3}"#,
        true => {
            r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}"#
        }
        false if ["/embeddings", "/rerank", "/score"].iter().any(|path| asked.contains(path)) => {
            r#"{"object":"list","model":"m","data":[],"results":[],"usage":{"prompt_tokens":3,"total_tokens":3}}"#
        }
        false => {
            r#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#
        }
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
    write!(stream, "{head} {}\r\n\r\n{body}", body.len()).ok()
}

/// The status of an answer that was read to its end.
fn asked(address: SocketAddr, head: &str, body: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

fuzz_target!(init: text_process::begin(), |bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let path = ENDPOINTS[usize::from(*first) % ENDPOINTS.len()];
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let status = asked(*SERVER, &head, body);
    assert!(status.is_some_and(|status| status != 500), "{path} was answered with {status:?}");
});
