//! The access log: one line of JSON for each request that is over. Lines wait in a bounded queue for a
//! thread that writes them; a place that hangs or fails costs lines, which are counted and logged, never
//! a request. A file is appended to, created for its owner only, and opened anew on [`AccessLog::reopen`],
//! so that it can be moved away.
//!
//! Invariants: no prompt, no key, no query string is in a line; each line is one valid JSON object.

use super::observe::Finished;
use crate::config::AccessLog as Place;
use crate::secrets;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that may wait: 16,384 of about 600 bytes are 10 MiB. At 12,000 requests a second that is more
/// than a second.
const QUEUE_MAX: usize = 1 << 14;
/// Text that is written at once, about.
const BATCH_BYTES: usize = 64 << 10;
/// How often the writer looks whether it is to reopen or to end.
const TICK: Duration = Duration::from_millis(100);
/// How long [`AccessLog::close`] waits for the writer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Losses are logged no more often.
const QUIET: Duration = Duration::from_secs(60);

/// Takes lines.
pub struct AccessLog {
    lines: SyncSender<Box<Finished>>,
    shared: Arc<Shared>,
    ended: Mutex<Receiver<()>>,
}

#[derive(Default)]
struct Shared {
    lost: AtomicU64,
    reopen: AtomicBool,
    closed: AtomicBool,
}

impl AccessLog {
    /// Opens the place and starts the thread.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn open(place: &Place) -> Result<Arc<Self>, String> {
        let out = Out::open(place)?;
        let shared = Arc::new(Shared::default());
        let (lines, inbox) = sync_channel(QUEUE_MAX);
        let (end, ended) = sync_channel(1);
        let mut writer = Writer { out, shared: shared.clone(), text: Vec::new(), told: (0, None) };
        let run = move || {
            writer.run(&inbox);
            let _ = end.send(());
        };
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(run);
        thread.map_err(|error| format!("a thread could not be started: {error}"))?;
        Ok(Arc::new(Self { lines, shared, ended: Mutex::new(ended) }))
    }

    /// Takes a request that is over. Never waits.
    pub fn record(&self, request: Box<Finished>) {
        if self.shared.closed.load(Ordering::Acquire) || self.lines.try_send(request).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A file is opened again by its name, and created where there is none.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
    }

    /// Writes the lines that were taken, as far as that takes no more than a moment.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(CLOSE_TIMEOUT) {
            tracing::error!("the access log's last lines could not be written in time");
        }
    }

    /// Lines that were lost.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

struct Writer {
    out: Out,
    shared: Arc<Shared>,
    /// Lines to be written; after a failure, perhaps the end of the line that it tore.
    text: Vec<u8>,
    /// Losses that were logged, and when.
    told: (u64, Option<Instant>),
}

impl Writer {
    fn run(&mut self, inbox: &Receiver<Box<Finished>>) {
        loop {
            // Read before the queue is found empty: nothing comes after it.
            let closed = self.shared.closed.load(Ordering::Acquire);
            let first = inbox.recv_timeout(TICK);
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.out.reopen();
            }
            let (mut next, ends) = match first {
                Ok(request) => (Some(request), false),
                Err(RecvTimeoutError::Timeout) => (None, closed),
                Err(RecvTimeoutError::Disconnected) => (None, true),
            };
            while let Some(request) = next {
                self.text.extend_from_slice(line(&request).as_bytes());
                next = if self.text.len() < BATCH_BYTES { inbox.try_recv().ok() } else { None };
            }
            self.write();
            self.tell_losses(ends);
            if ends {
                return;
            }
        }
    }

    fn write(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let (written, result) = self.out.write(&self.text);
        if let Err(error) = result {
            let (lost, torn) = after_failure(&self.text, written);
            self.shared.lost.fetch_add(lost as u64, Ordering::Relaxed);
            tracing::debug!(%error, "the access log");
            self.text.clear();
            self.text.extend(torn.then_some(b'\n'));
        } else {
            self.text.clear();
        }
    }

    fn tell_losses(&mut self, ends: bool) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let (known, at) = self.told;
        if lost > known && (ends || at.is_none_or(|at| at.elapsed() >= QUIET)) {
            self.told = (lost, Some(Instant::now()));
            tracing::error!(lost = lost - known, total = lost, "lines of the access log were lost");
        }
    }
}

/// Where lines go.
enum Out {
    Stdout,
    Stderr,
    File(File, PathBuf),
}

impl Out {
    fn open(place: &Place) -> Result<Self, String> {
        Ok(match place {
            Place::Stdout => Self::Stdout,
            Place::Stderr => Self::Stderr,
            Place::File(path) => {
                let file = append(path).map_err(|error| format!("access log {}: {error}", path.display()))?;
                Self::File(file, path.clone())
            }
        })
    }

    fn reopen(&mut self) {
        if let Self::File(file, path) = self {
            match append(path) {
                Ok(new) => *file = new,
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "the access log goes on in its old file");
                }
            }
        }
    }

    /// Writes all of it; how many bytes it was, and why not more.
    fn write(&mut self, text: &[u8]) -> (usize, io::Result<()>) {
        match self {
            Self::Stdout => write_to(&mut io::stdout().lock(), text),
            Self::Stderr => write_to(&mut io::stderr().lock(), text),
            Self::File(file, _) => write_to(file, text),
        }
    }
}

fn write_to(out: &mut impl Write, text: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < text.len() {
        match out.write(&text[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, out.flush())
}

fn append(path: &Path) -> io::Result<File> {
    // Opening one waits for its reader.
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        return Err(io::Error::other("it is a pipe; a file is expected, or stdout or stderr"));
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// After so many bytes of lines no more could be written: how many lines are lost, and whether a line was
/// begun that is to be ended before the next one. `lines` may begin with such an end.
fn after_failure(lines: &[u8], written: usize) -> (usize, bool) {
    let rest = &lines[written..];
    let lost = rest.strip_prefix(b"\n").unwrap_or(rest).iter().filter(|byte| **byte == b'\n').count();
    let torn = match written {
        0 => lines.starts_with(b"\n"),
        written => lines[written - 1] != b'\n',
    };
    (lost, torn)
}

/// A request as its line, with the line's end.
fn line(request: &Finished) -> String {
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let named = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
    let object = json!({
        "time": humantime::format_rfc3339_millis(request.arrived).to_string(),
        "id": named(&request.id),
        "method": request.method.as_str(),
        "path": request.path,
        "status": request.status,
        "outcome": request.outcome.as_str(),
        "key": named(&request.key),
        "model": named(&request.model),
        "route": named(&request.route),
        "attempts": request.attempts,
        "input_tokens": request.input_tokens,
        "cached_tokens": request.cached_tokens,
        "output_tokens": request.output_tokens,
        "cost": request.cost,
        "end": request.ends,
        "reason": request.reason,
        "latency_ms": ms(request.latency),
        "ttft_ms": request.ttft.map(ms),
        "bytes": request.bytes,
        "client": request.client.map(|client| client.ip().to_canonical().to_string()),
        "user_agent": request.user_agent,
        "trace_id": request.trace_id.map(|id| id.to_string()),
    });
    let mut line = format!("{object}\n");
    secrets::hide_in(&mut line);
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::ledger::trace::Parameters;
    use crate::store::Outcome;
    use axum::http::Method;
    use std::time::SystemTime;

    fn request(path: &str) -> Box<Finished> {
        Box::new(Finished {
            arrived: SystemTime::UNIX_EPOCH,
            id: "1".into(),
            method: Method::GET,
            path: path.into(),
            http_route: None,
            operation: None,
            parameters: Parameters::default(),
            client: None,
            user_agent: None,
            key: String::new(),
            model: String::new(),
            route: String::new(),
            attempts: 0,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            cost: 0.0,
            status: 200,
            outcome: Outcome::Completed,
            latency: Duration::from_micros(1234),
            ttft: None,
            bytes: 0,
            ends: Vec::new(),
            reason: None,
            trace_id: None,
        })
    }

    /// Takes so many bytes, three at a time.
    struct Narrow {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let bytes = text.len().min(3).min(self.room);
            self.room -= bytes;
            self.taken.extend_from_slice(&text[..bytes]);
            if bytes == 0 { Err(io::Error::other("full")) } else { Ok(bytes) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_written_before_a_failure_is_known() {
        let write = |room| {
            let mut out = Narrow { room, taken: Vec::new() };
            let (written, result) = write_to(&mut out, b"one\ntwo\n");
            assert_eq!(out.taken, b"one\ntwo\n"[..written]);
            (written, result.is_ok())
        };
        assert_eq!([write(0), write(5), write(8), write(9)], [(0, false), (5, false), (8, true), (8, true)]);
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let lines = b"one\ntwo\n";
        let after: Vec<_> = [0, 1, 3, 4, 5, 7].map(|written| after_failure(lines, written)).into();
        assert_eq!(after, [(2, false), (2, true), (1, true), (1, false), (1, true), (0, true)]);
        let lines = b"\none\n";
        let after: Vec<_> = [0, 1, 2, 4].map(|written| after_failure(lines, written)).into();
        assert_eq!(after, [(1, true), (1, false), (1, true), (0, true)]);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let log = AccessLog::open(&Place::File("/dev/full".into())).expect("it opens");
        (0..5).for_each(|_| log.record(request("/")));
        log.close();
        assert_eq!(log.lost(), 5);
        log.record(request("/late"));
        assert_eq!(log.lost(), 6);
    }

    #[test]
    fn lines_are_whole_and_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let log = AccessLog::open(&Place::File(path.clone())).expect("it opens");
        (0..1000).for_each(|number| log.record(request(&format!("/{number}\"\n\u{1}"))));
        log.close();
        let text = std::fs::read_to_string(&path).expect("text");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((lines.len() as u64 + log.lost(), log.lost()), (1000, 0));
        assert!(lines.iter().enumerate().all(|(number, line)| line["path"] == format!("/{number}\"\n\u{1}")));
        assert_eq!(
            (&lines[0]["time"], &lines[0]["latency_ms"]),
            (&"1970-01-01T00:00:00.000Z".into(), &1.234.into())
        );
    }
}
