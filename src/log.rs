//! The program's own log, on stderr. Of a server, lines wait in a bounded queue for a thread that writes
//! them: a reader that has left, or one that reads nothing, costs lines, which are counted ([`lost`]) and told
//! of in the log once it goes on, and never a request. Other commands write at once ([`start`] was not
//! called). Known secrets are hidden on the way ([`crate::secrets`]).
//!
//! Invariants: nothing here waits but [`flush`], which has a bound, and the thread; the thread holds no lock
//! of the standard library's stderr while it waits.

use crate::secrets;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Lines that may wait: at 12,000 requests a second more than a second's.
const QUEUE_LINES_MAX: usize = 1 << 14;
/// Their bytes: 16,384 usual lines of 300 bytes are 5 MiB.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// Of a line; the rest is cut off.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Text that is written at once, about.
const BATCH_BYTES: usize = 64 << 10;
/// How long [`flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it looks whether there is room again.
const FLUSH_POLL: Duration = Duration::from_millis(5);
/// Losses are told of no more often.
const TELL_EVERY: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    entries: SyncSender<Entry>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Of the lines that wait.
    bytes: AtomicUsize,
    lost: AtomicU64,
}

enum Entry {
    Line(Vec<u8>),
    /// Dropped when all before it is written.
    Flush(#[allow(dead_code)] SyncSender<()>),
}

/// Lines have a queue and a thread from now on.
///
/// # Errors
/// The system gives no thread, or no second descriptor of stderr.
pub fn start() -> io::Result<()> {
    if QUEUE.get().is_none() {
        // A descriptor of its own: whoever waits to write through the standard library holds a lock.
        let _ = QUEUE.set(Queue::start(File::from(io::stderr().as_fd().try_clone_to_owned()?))?);
    }
    Ok(())
}

/// What panics say takes the way of all lines: else a thread that panics would wait for stderr's reader.
pub fn take_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        line(&format!("thread {} {panic}{backtrace}", thread.name().unwrap_or("without a name")));
    }));
}

/// Writes a line that is no event of the log.
pub fn line(text: &str) {
    put(format!("{text}\n").into_bytes());
}

/// Lines that were lost.
pub fn lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.counts.lost.load(Ordering::Relaxed))
}

/// Waits until what was said is written, for a second at most. For the program's end.
pub fn flush() {
    QUEUE.get().into_iter().for_each(Queue::flush);
}

/// For the subscriber: each write is a line.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put(mut line: Vec<u8>) {
    match QUEUE.get() {
        Some(queue) => queue.put(line),
        None => {
            secrets::hide_in_bytes(&mut line);
            // Nobody has to listen.
            let _ = io::stderr().write_all(&line);
        }
    }
}

impl Queue {
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let counts = Arc::<Counts>::default();
        let (entries, inbox) = sync_channel(QUEUE_LINES_MAX);
        let mut writer = Writer { out, counts: counts.clone(), text: Vec::new(), told: 0, told_at: None };
        std::thread::Builder::new().name("log".into()).spawn(move || writer.run(&inbox))?;
        Ok(Self { entries, counts })
    }

    /// Never waits.
    fn put(&self, line: Vec<u8>) {
        let bytes = line.len();
        let waiting = self.counts.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting > QUEUE_BYTES_MAX || self.entries.try_send(Entry::Line(line)).is_err() {
            self.counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let end = Instant::now() + FLUSH_TIMEOUT;
        let (done, written) = sync_channel(0);
        let mut entry = Entry::Flush(done);
        loop {
            match self.entries.try_send(entry) {
                Ok(()) => break,
                Err(std::sync::mpsc::TrySendError::Full(full)) if Instant::now() < end => entry = full,
                Err(_) => return,
            }
            std::thread::sleep(FLUSH_POLL);
        }
        let _ = written.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

/// The thread's.
struct Writer<W> {
    out: W,
    counts: Arc<Counts>,
    text: Vec<u8>,
    /// Losses that were told of, and when.
    told: u64,
    told_at: Option<Instant>,
}

impl<W: Write> Writer<W> {
    fn run(&mut self, inbox: &Receiver<Entry>) {
        while let Ok(first) = inbox.recv() {
            let (mut lines, mut flush, mut next) = (0, None, Some(first));
            while let Some(entry) = next {
                match entry {
                    Entry::Line(line) => {
                        self.counts.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                        self.add(line);
                        lines += 1;
                    }
                    entry @ Entry::Flush(_) => flush = Some(entry),
                }
                let room = self.text.len() < BATCH_BYTES && flush.is_none();
                next = if room { inbox.try_recv().ok() } else { None };
            }
            let written = self.out.write_all(&self.text).and_then(|()| self.out.flush());
            self.text.clear();
            match written {
                Ok(()) => self.tell_losses(),
                Err(_) => _ = self.counts.lost.fetch_add(lines, Ordering::Relaxed),
            }
            drop(flush);
        }
    }

    fn add(&mut self, mut line: Vec<u8>) {
        secrets::hide_in_bytes(&mut line);
        if line.len() > LINE_BYTES_MAX {
            let end = (0..=LINE_BYTES_MAX).rev().find(|at| line[*at] & 0b1100_0000 != 0b1000_0000);
            line.truncate(end.unwrap_or(0));
            line.extend_from_slice(b"...\n");
        }
        self.text.append(&mut line);
    }

    /// By a line of its own, which takes its place behind those that wait.
    fn tell_losses(&mut self) {
        let lost = self.counts.lost.load(Ordering::Relaxed);
        if lost > self.told && self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            let lines = lost - self.told;
            (self.told, self.told_at) = (lost, Some(Instant::now()));
            tracing::error!(lines, total = lost, "lines of the log were lost: nobody read them in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    /// Writes once somebody lets it, or fails.
    struct Slow {
        gate: Receiver<bool>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            match self.gate.recv() {
                Ok(false) => Err(io::ErrorKind::BrokenPipe.into()),
                // Whoever has left lets everything pass.
                Ok(true) | Err(_) => {
                    self.written.lock().expect("text").extend_from_slice(text);
                    Ok(text.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_reads_are_counted_and_hold_nobody_up() {
        let (open, gate) = channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let queue = Queue::start(Slow { gate, written: written.clone() }).expect("a thread");
        let begun = Instant::now();
        let all = 2 * QUEUE_LINES_MAX;
        (0..all).for_each(|at| queue.put(format!("line {at}\n").into_bytes()));
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits");
        let lost = queue.counts.lost.load(Ordering::Relaxed) as usize;
        // The thread holds a batch of them.
        assert!(lost >= all - QUEUE_LINES_MAX - BATCH_BYTES / "line 0\n".len(), "{lost}");
        // A flush ends although nothing is written, and says all that there was once it is.
        let begun = Instant::now();
        queue.flush();
        assert!(begun.elapsed() >= FLUSH_TIMEOUT && begun.elapsed() < FLUSH_TIMEOUT * 5);
        drop(open);
        queue.flush();
        let text = String::from_utf8(written.lock().expect("text").clone()).expect("UTF-8");
        assert_eq!(text.lines().count() + lost, all);
        assert_eq!(queue.counts.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_reader_that_left_costs_lines() {
        let (open, gate) = channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let queue = Queue::start(Slow { gate, written: written.clone() }).expect("a thread");
        open.send(false).expect("it runs");
        queue.put(b"one\n".to_vec());
        queue.flush();
        assert_eq!(queue.counts.lost.load(Ordering::Relaxed), 1);
        drop(open);
        let long = format!("{}\u{e9}\n", "x".repeat(LINE_BYTES_MAX - 1));
        queue.put(long.into_bytes());
        // More at once than may wait.
        queue.put(vec![b'y'; QUEUE_BYTES_MAX + 1]);
        queue.flush();
        assert_eq!(queue.counts.lost.load(Ordering::Relaxed), 2);
        let text = String::from_utf8(written.lock().expect("text").clone()).expect("cut between characters");
        assert_eq!(text, format!("{}...\n", "x".repeat(LINE_BYTES_MAX - 1)));
    }
}
