//! The child's side: takes one role, then answers requests until its input ends.
//!
//! The main thread only reads, so that the end of the input (the server is gone) ends the process even
//! while it works. The work has a thread of its own with a large stack.

use super::super::jinja::Jinja;
use super::super::tokenizer::Tokenizer;
use super::FRAME_BYTES_MAX;
use super::allocator::Allowance;
use crate::checkpoint::Checkpoint;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::{Map, Value};
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, UNIX_EPOCH};

/// First byte of an answer that is a result.
pub(super) const OK: u8 = 0;
/// First byte of an answer that is an error's text.
const ERROR: u8 = 1;
/// Memory is taken as it is used.
const STACK_BYTES: usize = 64 << 20;
/// Tokens that a text may become, by its bytes: even a byte of its own for each makes one.
const TOKENS_PER_BYTE_MAX: usize = 16;

/// Bytes that a template may take for its values, given back or not, whatever it is asked for: a second's
/// work, more or less.
const TEMPLATE_BYTES: u64 = 2 << 30;
/// And for each byte of the request. Templates take some ten times what their messages have.
const TEMPLATE_BYTES_FOR_EACH: u64 = 128;

/// The first byte of a request to encode, in bits.
pub(in super::super) const ADD_SPECIAL: u8 = 1;
/// Special tokens that are written out are text.
pub(in super::super) const PLAIN: u8 = 2;

/// `novastack text-process`: answers what comes on stdin on stdout, in no more memory than that.
pub fn serve(memory_bytes_max: u64) -> Result<(), String> {
    let limit = |resource, bytes| {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        setrlimit(resource, limit).map_err(|error| format!("a limit could not be set: {error}"))
    };
    // What is mapped from files does not count: a checkpoint may be larger than any memory.
    limit(Resource::Data, memory_bytes_max + STACK_BYTES as u64)?;
    limit(Resource::Core, 0)?;
    // What panics is told in the answer; stderr is for what the process dies of.
    std::panic::set_hook(Box::new(|_| {}));
    let (requests, inbox) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("text".into())
        .stack_size(STACK_BYTES)
        .spawn(move || answer_all(&inbox))
        .map_err(|error| format!("a thread could not be started: {error}"))?;
    while let Ok(request) = read_frame(&mut io::stdin().lock()) {
        if requests.send(request).is_err() {
            break;
        }
    }
    Ok(())
}

fn read_frame(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length as usize];
    input.read_exact(&mut payload)?;
    Ok(payload)
}

fn write_frame(answer: &Result<Vec<u8>, String>) -> io::Result<()> {
    let (status, payload) = match answer {
        Ok(payload) => (OK, payload.as_slice()),
        Err(reason) => (ERROR, reason.as_bytes()),
    };
    let length = u32::try_from(payload.len() + 1).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut out = io::stdout().lock();
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&[status])?;
    out.write_all(payload)?;
    out.flush()
}

/// What it holds.
enum Held {
    Template(Box<Jinja>),
    Tokenizer(Box<Tokenizer>),
}

fn answer_all(requests: &mpsc::Receiver<Vec<u8>>) {
    let mut held = None;
    for request in requests {
        let answered = catch_unwind(AssertUnwindSafe(|| match &held {
            None => take_role(&request).map(|(role, said)| {
                held = Some(role);
                said
            }),
            Some(Held::Template(jinja)) => {
                let _allowed = Allowance::of(TEMPLATE_BYTES + TEMPLATE_BYTES_FOR_EACH * request.len() as u64);
                render(jinja, &request)
            }
            Some(Held::Tokenizer(tokenizer)) => encode(tokenizer, &request),
        }));
        let answer = answered.unwrap_or_else(|_| Err("a library gave up on it".into()));
        if write_frame(&answer).is_err() {
            return;
        }
    }
}

/// Takes its role, and says what is to be known of it.
fn take_role(setup: &[u8]) -> Result<(Held, Vec<u8>), String> {
    let setup: Value = serde_json::from_slice(setup).map_err(|error| error.to_string())?;
    if let Some(source) = setup["template"].as_str() {
        let jinja = Jinja::compile(source)?;
        let mut variables: Vec<String> = jinja.variables()?.into_iter().collect();
        variables.sort();
        return Ok((Held::Template(Box::new(jinja)), serde_json::json!(variables).to_string().into_bytes()));
    }
    let path = setup["tokenizer"].as_str().ok_or("a template or a tokenizer is expected")?;
    let checkpoint = Checkpoint::open_config(Path::new(path)).map_err(|error| error.to_string())?;
    let source = checkpoint.tokenizer.as_ref().ok_or("it has no tokenizer")?;
    let tokenizer =
        Tokenizer::from_source(source, &checkpoint.tokenizer_config).map_err(|error| error.unnamed())?;
    try_out(&tokenizer)?;
    Ok((Held::Tokenizer(Box::new(tokenizer)), Vec::new()))
}

/// Encodes texts of the kinds that tokenizers are slow with, and reads them again.
fn try_out(tokenizer: &Tokenizer) -> Result<(), String> {
    let usual =
        "The 3 quick brown foxes don't jump over 12345 lazy dogs.\r\n\tfn main() { let x = \"\u{e9}\"; }\n\n";
    let texts = [
        usual.repeat(4),
        "\u{4f60}\u{597d} \u{1f600}e\u{301}\u{fb01} ".repeat(8),
        "a".repeat(2048),
        " ".repeat(2048),
    ];
    for text in texts {
        let ids = tokenizer.encode(&text, true).map_err(|error| error.unnamed())?;
        let tokens_max = text.len() * TOKENS_PER_BYTE_MAX;
        if ids.len() > tokens_max {
            return Err(format!(
                "it makes {} tokens of a text of {} bytes, where {tokens_max} are the most that can be right",
                ids.len(),
                text.len()
            ));
        }
        tokenizer.decode(&ids, true).map_err(|error| error.unnamed())?;
    }
    Ok(())
}

/// The request: the time in seconds since 1970, and the template's variables.
fn render(jinja: &Jinja, request: &[u8]) -> Result<Vec<u8>, String> {
    let request: Value = serde_json::from_slice(request)
        .map_err(|error| format!("the messages cannot be passed on: {error}"))?;
    let Value::Object(mut fields) = request else { return Err("a request is an object".into()) };
    let now = UNIX_EPOCH + Duration::from_secs(fields["now"].as_u64().unwrap_or(0));
    let variables = match fields.shift_remove("variables") {
        Some(Value::Object(variables)) => variables,
        _ => Map::new(),
    };
    jinja.render(variables, now).map(String::into_bytes)
}

/// The request: a byte of what is wanted, and the text. The answer: ids of four bytes, little endian.
fn encode(tokenizer: &Tokenizer, request: &[u8]) -> Result<Vec<u8>, String> {
    let (wanted, text) = request.split_first().ok_or("a request has a byte at least")?;
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let ids = match wanted & PLAIN {
        0 => tokenizer.encode(text, wanted & ADD_SPECIAL != 0),
        _ => tokenizer.encode_plain(text),
    };
    let ids = ids.map_err(|error| error.unnamed())?;
    Ok(ids.iter().flat_map(|id| id.to_le_bytes()).collect())
}
