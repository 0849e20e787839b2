//! A hub that says what it likes: nothing outside its cache is made, changed or removed.
//!
//! The input is the listing of the repository, headers of every file's answer and the file, apart by bytes 0xff (which neither JSON nor headers have).
#![no_main]

use libfuzzer_sys::fuzz_target;
use novastack::checkpoint::hub::{HubSource, ProgressStyle, PullOptions, pull};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

static HUB: LazyLock<String> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    endpoint
});

fn serve(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
    let mut asked = String::new();
    if reader.read_line(&mut asked).is_err() {
        return;
    }
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        line.clear();
    }
    let answer = ANSWER.lock().expect("the answer").clone();
    let mut parts = answer.split(|byte| *byte == 0xff);
    let (listing, headers, file) =
        (parts.next().unwrap_or(b""), parts.next().unwrap_or(b""), parts.next().unwrap_or(b""));
    let (headers, body) = if asked.contains("/api/models/") { (&b""[..], listing) } else { (headers, file) };
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(headers);
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(body);
    let _ = stream.write_all(&bytes);
}

fuzz_target!(|bytes: &[u8]| {
    *ANSWER.lock().expect("the answer") = bytes.to_vec();
    let folder = tempfile::tempdir().expect("a folder");
    let (outside, cache) = (folder.path().join("a/b/c"), folder.path().join("a/b/c/cache"));
    std::fs::create_dir_all(&outside).expect("made");
    let untouched = folder.path().join("a/b/untouched");
    std::fs::write(&untouched, "as it was").expect("written");
    let options = PullOptions {
        endpoint: HUB.clone(),
        cache,
        token: None,
        offline: false,
        progress: ProgressStyle::Silent,
        stall_timeout: Duration::from_secs(2),
        retry_pause: Duration::ZERO,
    };
    let source = HubSource::parse("org/model").expect("an id");
    let _ = pull(&source, &options);

    let names = |path: &std::path::Path| {
        let entries = std::fs::read_dir(path).expect("a folder").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    assert_eq!(names(folder.path()), ["a"]);
    assert_eq!(names(&folder.path().join("a")), ["b"]);
    assert_eq!(names(&folder.path().join("a/b")), ["c", "untouched"]);
    assert!(names(&outside).iter().all(|name| name == "cache"));
    assert_eq!(std::fs::read(&untouched).expect("there"), b"as it was");
});
