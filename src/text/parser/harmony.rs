//! gpt-oss's messages: `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary
//! to=functions.NAME <|constrain|>json<|message|>{...}<|call|>`.
//!
//! What is in the channel `analysis` is reasoning, what is sent to one of the offered functions is a call,
//! the rest is text: `final`, and `commentary` to nobody, which is written for the user. A message to
//! somebody else is the text that it is, with its header, unless it is reasoning. A call's arguments are the
//! message as it stands. Where an answer has no headers at all, it is text.

use super::Tool;
use super::output::Output;
use super::scan::{Match, match_marker};
use std::sync::Arc;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
/// End a message.
const ENDS: &[&str] = &["<|end|>", "<|call|>", "<|return|>"];
/// End a message, or begin the next where its end is missing.
const BORDERS: &[&str] = &["<|end|>", "<|call|>", "<|return|>", START, CHANNEL];
/// What a header may begin with, white space aside.
const HEADERS: &[&str] = &[START, CHANNEL, "to="];
/// The prompt that leaves reasoning open ends so.
pub(super) const OPEN_REASONING: &str = "<|channel|>analysis<|message|>";

const HEADER_BYTES_MAX: usize = 1024;

/// Reads a whole answer.
#[derive(Debug)]
pub(super) struct Harmony {
    tools: Arc<[Tool]>,
    place: Place,
    /// The header so far; or, outside of headers, what may become a marker.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where a header may begin.
    Before,
    Header,
    Message(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
    Call,
    /// With the marker that ends it.
    WholeText,
}

impl Harmony {
    pub(super) fn new(tools: Arc<[Tool]>, reasoning_is_open: bool) -> Self {
        let place = if reasoning_is_open { Place::Message(Kind::Reasoning) } else { Place::Before };
        Self { tools, place, held: String::new() }
    }

    pub(super) fn push(&mut self, c: char, output: &mut Output) {
        self.held.push(c);
        match self.place {
            Place::Before => match match_marker(self.held.trim_start(), HEADERS) {
                Match::Whole(_) => self.place = Place::Header,
                Match::Beginning if self.held.len() < HEADER_BYTES_MAX => {}
                _ => self.begin_text(output),
            },
            Place::Header => {
                if let Some(header) = self.held.strip_suffix(MESSAGE) {
                    let (kind, name) = self.kind(header);
                    if let Some(name) = name {
                        output.call(&name, None);
                    } else if kind == Kind::WholeText {
                        output.text(&self.held);
                    }
                    self.held.clear();
                    self.place = Place::Message(kind);
                } else if ENDS.iter().any(|end| self.held.ends_with(end)) {
                    output.text(&std::mem::take(&mut self.held));
                    self.place = Place::Before;
                } else if self.held.len() > HEADER_BYTES_MAX {
                    output.text(&std::mem::take(&mut self.held));
                    self.place = Place::Message(Kind::Text);
                }
            }
            Place::Message(kind) => {
                while !self.held.is_empty() {
                    match match_marker(&self.held, BORDERS) {
                        Match::Beginning => return,
                        Match::Whole(border) => return self.end_message(kind, border, output),
                        Match::None => {
                            let first = self.held.remove(0);
                            emit(kind, first.encode_utf8(&mut [0; 4]), output);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn finish(&mut self, output: &mut Output) {
        let held = std::mem::take(&mut self.held);
        match self.place {
            // A header that was cut off is no text.
            Place::Header => {}
            Place::Before if held.trim_start().starts_with("<|") => {}
            Place::Before => output.text(&held),
            Place::Message(kind) => {
                // More than the first character of a marker is a marker that was cut off.
                if held.chars().count() == 1 || kind == Kind::WholeText {
                    emit(kind, &held, output);
                }
                // The marker that ends a call ends the answer, and is seldom part of its text.
                output.complete_call();
            }
        }
    }

    /// What is held is no header. Its first character at least is text; a marker may begin at a later one.
    fn begin_text(&mut self, output: &mut Output) {
        let held = std::mem::take(&mut self.held);
        self.place = Place::Message(Kind::Text);
        let text = held.trim_start();
        output.text(&held[..held.len() - text.len()]);
        let mut rest = text.chars();
        rest.by_ref().take(1).for_each(|c| output.text_char(c));
        rest.for_each(|c| self.push(c, output));
    }

    fn end_message(&mut self, kind: Kind, border: &'static str, output: &mut Output) {
        self.held.clear();
        self.place = Place::Before;
        match kind {
            Kind::Call => output.complete_call(),
            Kind::WholeText if ENDS.contains(&border) => output.text(border),
            _ => {}
        }
        if !ENDS.contains(&border) {
            border.chars().for_each(|c| self.push(c, output));
        }
    }

    /// What a message is by its header, and the function that it calls.
    fn kind(&self, header: &str) -> (Kind, Option<String>) {
        let word = |after: &str| {
            let (_, rest) = header.split_once(after)?;
            rest.split(|c: char| c.is_whitespace() || c == '<').next()
        };
        let name = word("to=").map(|name| name.strip_prefix("functions.").unwrap_or(name));
        let channel = word(CHANNEL);
        match (name, channel) {
            (Some(name), _) if self.tools.iter().any(|tool| tool.name == name) => {
                (Kind::Call, Some(name.to_owned()))
            }
            (_, Some("analysis")) => (Kind::Reasoning, None),
            (Some(_), _) => (Kind::WholeText, None),
            _ => (Kind::Text, None),
        }
    }
}

fn emit(kind: Kind, piece: &str, output: &mut Output) {
    match kind {
        Kind::Reasoning => output.reasoning(piece),
        Kind::Text | Kind::WholeText => output.text(piece),
        Kind::Call => output.arguments(piece),
    }
}
