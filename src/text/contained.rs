//! Text work on a stranger's files, in a process of its own.
//!
//! A checkpoint comes from somebody else, and a template is a program. One of a few lines can make values
//! of any size and depth, and what then happens to a process cannot be undone in it: a stack that
//! overflows and memory that cannot be had abort it. Bounds within the process would have to know every
//! operator, filter and method that makes something larger or deeper, in a library that grows more of
//! them; forgetting one is a way to end the server. So this program is started once more, as
//! `novastack text-process` ([`child`]), with a limit on its memory, without the environment and its
//! secrets, and is killed when its time is over or when nobody waits for the answer any more. Whatever it
//! dies of is an error of one request, and its memory is given back with it.
//!
//! What it costs: a process holds one template or one tokenizer and stays for the next request, which is
//! a pipe's way there and back, 0.05 to 0.1 ms for a usual conversation. Starting one takes some
//! milliseconds, with a tokenizer as long as it takes to read.
//!
//! Templates always run there. Tokenizers are first built and tried there; then such as are made of parts
//! whose costs are known ([`super::known_parts`]) encode short texts in the server's own process, which
//! needs no second copy of the vocabulary, and all others, and long texts, go to the child.
//!
//! Frames both ways: four bytes of length (little endian), then the payload. An answer's first byte says
//! whether it is a result or an error's text.
//!
//! Absent on purpose: a sandbox of system calls. What is contained are time, memory and crashes.

mod allocator;
mod child;

pub use allocator::CountingAllocator;
pub use child::serve;
pub(super) use child::{ADD_SPECIAL, PLAIN};

use super::TextError;
use super::stop::Stop;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The command that a child is started with; its one argument is the memory that it may have.
pub const COMMAND: &str = "text-process";
/// Of work that nobody has given another time.
const TIME_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether the work is to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of a frame: more than the largest body or prompt.
const FRAME_BYTES_MAX: u32 = 256 << 20;
/// A child that has held more is not kept: its memory goes back to the system.
const KEEP_BYTES_MAX: usize = 1 << 20;
/// Of what a child says when it dies.
const LAST_WORDS_BYTES_MAX: u64 = 4096;

/// What a child is for.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Renders this template.
    Template(String),
    /// Encodes with the tokenizer of the checkpoint at this path.
    Tokenizer(PathBuf),
}

impl Role {
    /// Of its memory, all in all.
    fn memory_bytes_max(&self) -> u64 {
        match self {
            // The largest prompt (64 MiB) and what it is made of, several times.
            Role::Template(_) => 512 << 20,
            // A large tokenizer.json takes 0.5 GiB while it is read, a text a hundred times its bytes.
            Role::Tokenizer(_) => 2 << 30,
        }
    }

    /// Until it is ready.
    fn start_time_max(&self) -> Duration {
        match self {
            Role::Template(_) => Duration::from_secs(10),
            Role::Tokenizer(_) => Duration::from_secs(30),
        }
    }

    /// How many wait for the next request.
    fn idle_max(&self) -> usize {
        match self {
            Role::Template(_) => 16,
            // Each holds the vocabulary.
            Role::Tokenizer(_) => 2,
        }
    }
}

/// How text work on a stranger's files is contained: in children that run this program.
#[derive(Clone, Debug)]
pub struct Containment {
    program: PathBuf,
}

impl Containment {
    /// In children of that program, which is to be a `novastack`.
    pub fn by(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// In children of the program that runs. On Linux they are of its version even when its file has been
    /// replaced since.
    pub fn by_this_program() -> Self {
        const ITSELF: &str = "/proc/self/exe";
        match std::env::current_exe() {
            Ok(file) if !Path::new(ITSELF).exists() => Self::by(file),
            _ => Self::by(ITSELF),
        }
    }
}

/// Children of one role; each answers one request at a time.
#[derive(Debug)]
pub(super) struct Processes {
    containment: Containment,
    role: Role,
    idle: Mutex<Vec<Child>>,
}

impl Processes {
    /// Starts the first; also what it said when it was ready.
    pub(super) fn start(containment: &Containment, role: Role) -> Result<(Self, Vec<u8>), TextError> {
        let processes = Self { containment: containment.clone(), role, idle: Mutex::default() };
        let (child, said) = processes.child()?;
        processes.keep(child);
        Ok((processes, said))
    }

    /// Ends those that wait for a request; the next one starts another.
    pub(super) fn end_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A request and its answer.
    pub(super) fn ask(&self, request: &[u8]) -> Result<Vec<u8>, TextError> {
        let stop = Stop::current_or(TIME_MAX);
        stop.check()?;
        let mut child = loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut child) = idle else { break self.child()?.0 };
            // The system may have ended it.
            if child.is_alive() {
                break child;
            }
        };
        let answer = child.ask(&self.role, request, &stop)?;
        if request.len() + answer.as_ref().map_or(0, Vec::len) <= KEEP_BYTES_MAX {
            self.keep(child);
        }
        answer.map_err(|reason| self.error(reason))
    }

    fn child(&self) -> Result<(Child, Vec<u8>), TextError> {
        let cannot = |error: io::Error| self.error(format!("a process for it cannot be started: {error}"));
        let mut child = Child::start(&self.containment, &self.role).map_err(cannot)?;
        let setup = match &self.role {
            Role::Template(source) => serde_json::json!({ "template": source }),
            Role::Tokenizer(path) => serde_json::json!({ "tokenizer": path }),
        };
        // Longer than a request may take, where a tokenizer is read.
        let stop = Stop::current_or(self.role.start_time_max());
        let said = child.ask(&self.role, setup.to_string().as_bytes(), &stop)?;
        said.map(|said| (child, said)).map_err(|reason| self.error(reason))
    }

    fn keep(&self, child: Child) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.role.idle_max() {
            idle.push(child);
        }
    }

    fn error(&self, reason: String) -> TextError {
        match self.role {
            Role::Template(_) => TextError::Template(reason),
            Role::Tokenizer(_) => TextError::Tokenizer(reason),
        }
    }
}

/// Killed when dropped.
#[derive(Debug)]
struct Child {
    process: std::process::Child,
    socket: UnixStream,
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Child {
    fn start(containment: &Containment, role: &Role) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        socket.set_write_timeout(Some(LOOK_EVERY))?;
        let process = Command::new(&containment.program)
            .arg(COMMAND)
            .arg(role.memory_bytes_max().to_string())
            // It needs none of our secrets.
            .env_clear()
            // The allocator takes memory in pieces that fit the limit (in KiB).
            .env("MIMALLOC_ARENA_RESERVE", "16384")
            .stdin(OwnedFd::from(theirs.try_clone()?))
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::piped())
            // A terminal's ^C is for the server, which still needs its children to drain.
            .process_group(0)
            .spawn()?;
        Ok(Self { process, socket })
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Its result or its error; an error where it does not answer.
    fn ask(
        &mut self,
        role: &Role,
        request: &[u8],
        stop: &Stop,
    ) -> Result<Result<Vec<u8>, String>, TextError> {
        match self.try_ask(request, stop) {
            Ok(answer) => Ok(answer),
            Err(Unanswered::Stopped(error)) => Err(error),
            Err(Unanswered::Ended) => Err(self.death(role)),
        }
    }

    fn try_ask(&self, request: &[u8], stop: &Stop) -> Result<Result<Vec<u8>, String>, Unanswered> {
        let length = u32::try_from(request.len()).ok().filter(|length| *length <= FRAME_BYTES_MAX);
        let length = length.ok_or_else(|| {
            let reason = format!("its {} bytes are more than {FRAME_BYTES_MAX}", request.len());
            Unanswered::Stopped(TextError::Limit(reason))
        })?;
        self.write(&length.to_le_bytes(), stop)?;
        self.write(request, stop)?;
        let mut head = [0; 5];
        self.read(&mut head, stop)?;
        let [a, b, c, d, status] = head;
        let length = u32::from_le_bytes([a, b, c, d]);
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(Unanswered::Ended);
        }
        let mut payload = vec![0; length as usize - 1];
        self.read(&mut payload, stop)?;
        Ok(match status {
            child::OK => Ok(payload),
            _ => Err(String::from_utf8_lossy(&payload).into_owned()),
        })
    }

    fn write(&self, mut bytes: &[u8], stop: &Stop) -> Result<(), Unanswered> {
        while !bytes.is_empty() {
            let written = patiently(stop, || (&self.socket).write(bytes))?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn read(&self, mut bytes: &mut [u8], stop: &Stop) -> Result<(), Unanswered> {
        while !bytes.is_empty() {
            let read = patiently(stop, || (&self.socket).read(bytes))?;
            bytes = &mut bytes[read..];
        }
        Ok(())
    }

    /// What it died of, by its last words.
    fn death(&mut self, role: &Role) -> TextError {
        let _ = self.process.kill();
        let status = self.process.wait();
        let mut words = Vec::new();
        if let Some(stderr) = self.process.stderr.take() {
            let _ = stderr.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut words);
        }
        let words = String::from_utf8_lossy(&words);
        TextError::Limit(if words.contains("memory allocation") {
            format!("it needs more than {} MiB of memory", role.memory_bytes_max() >> 20)
        } else if words.contains("overflowed its stack") {
            "it is nested too deeply, or contains itself".into()
        } else if words.contains(allocator::USED_UP) {
            "the values that it makes on the way come to far more than its messages".into()
        } else {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            format!("its process ended before it answered ({status})")
        })
    }
}

/// Why there is no answer.
enum Unanswered {
    Stopped(TextError),
    /// The process is at its end.
    Ended,
}

/// Reads or writes, looking now and then whether the work is to end.
fn patiently(stop: &Stop, mut step: impl FnMut() -> io::Result<usize>) -> Result<usize, Unanswered> {
    loop {
        match step() {
            Ok(0) => return Err(Unanswered::Ended),
            Ok(bytes) => return Ok(bytes),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
                    stop.check().map_err(Unanswered::Stopped)?;
                }
                _ => return Err(Unanswered::Ended),
            },
        }
    }
}
