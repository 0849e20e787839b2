//! Calls that are whole JSON objects, `{"name": ..., "arguments": {...}}`: Hermes' between tags, Llama's at
//! the beginning of a line, Mistral's in a list behind a marker. Of later Mistral models only the arguments are an
//! object, behind a header that names the tool and may carry the call's id.
//!
//! An answer of a Hermes model may also begin with the object itself, alone or in a fence; Qwen2.5-Coder
//! answers so whatever its prompt says. It is a call where it names a tool that is offered.
//!
//! The keys come in either order, and `parameters` is another word for `arguments`. Other keys are left out.
//! As soon as the name is whole the call is emitted; arguments that came before it follow then.

use super::json::{JsonString, JsonValue, Reading};
use super::output::Output;
use super::scan::{Held, Scan};
use super::{HELD_BYTES_MAX, NAME_BYTES_MAX, Tool, WHITE_BYTES_MAX};
use std::sync::Arc;

/// Reads text with calls in it.
#[derive(Debug)]
pub(super) struct JsonCalls {
    tools: Arc<[Tool]>,
    dialect: &'static Dialect,
    scan: Scan,
    call: Option<JsonCall>,
    /// Behind a call in a fence, the white space and backticks so far.
    fence: Option<String>,
}

/// What differs from family to family.
#[derive(Debug)]
struct Dialect {
    openers: &'static [&'static str],
    closers: &'static [&'static str],
    /// All of these, which break arguments off.
    markers: &'static [&'static str],
    /// The keys that may come before the name; empty: any.
    keys: &'static [&'static str],
    /// A call of a tool that is not offered is text up to here.
    end: Option<&'static str>,
}

const HERMES: Dialect = Dialect {
    openers: &["<tool_call>"],
    closers: &["</tool_call>"],
    markers: &["<tool_call>", "</tool_call>"],
    keys: &[],
    end: Some("</tool_call>"),
};

/// Hermes' without tags.
const BARE: Dialect = Dialect { keys: &["name", "parameters", "arguments"], end: None, ..HERMES };
const FENCE: &str = "```";
const LANGUAGE: &str = "json";

const LLAMA: Dialect = Dialect {
    openers: &["<|python_tag|>"],
    closers: &[],
    markers: &["<|python_tag|>"],
    keys: &["name", "parameters", "arguments", "type", "id"],
    end: None,
};

/// Both of Mistral's ways: `[TOOL_CALLS][{...}, {...}]` and `[TOOL_CALLS]NAME[CALL_ID]ID[ARGS]{...}`.
const MISTRAL: Dialect =
    Dialect { openers: &["[TOOL_CALLS]"], closers: &["]"], markers: &["[TOOL_CALLS]"], keys: &[], end: None };
const CALL_ID: &str = "[CALL_ID]";
const ARGS: &str = "[ARGS]";

impl JsonCalls {
    /// `[TOOL_CALLS]`, then a list of objects, or a name and an object: Mistral.
    pub(super) fn mistral(tools: Arc<[Tool]>) -> Self {
        let scan = Scan::new(MISTRAL.openers, MISTRAL.closers).separators(&[',']).next_opener('{');
        Self { tools, dialect: &MISTRAL, scan, call: None, fence: None }
    }

    /// `{"name": ..., "parameters": {...}}` at the beginning of a line or behind `<|python_tag|>`, parted by
    /// `;` where there are several: Llama 3.x.
    pub(super) fn llama(tools: Arc<[Tool]>) -> Self {
        let scan = Scan::new(LLAMA.openers, LLAMA.closers).line_opener('{').separators(&[';', ',']);
        Self { tools, dialect: &LLAMA, scan, call: None, fence: None }
    }

    /// `<tool_call>{...}</tool_call>`: Hermes, Qwen2.5, Qwen3.
    pub(super) fn hermes(tools: Arc<[Tool]>) -> Self {
        let scan = Scan::new(HERMES.openers, HERMES.closers).early_openers(&[FENCE, "{"]);
        Self { tools, dialect: &HERMES, scan, call: None, fence: None }
    }

    /// An object without tags is text.
    pub(super) fn in_tags_alone(mut self) -> Self {
        self.scan = self.scan.early_openers(&[]);
        self
    }

    pub(super) fn push(&mut self, c: char, output: &mut Output) {
        if let Some(mut fence) = self.fence.take() {
            fence.push(c);
            let ticks = fence.trim_start();
            if FENCE.starts_with(ticks) && fence.len() < WHITE_BYTES_MAX {
                self.fence = (ticks != FENCE).then_some(fence);
            } else {
                fence.chars().for_each(|c| self.push(c, output));
            }
            return;
        }
        let Some(call) = &mut self.call else {
            if let Some(opener) = self.scan.push(c, output) {
                let held = self.scan.take_held();
                let is_bare = opener == FENCE || opener == "{";
                self.call = Some(JsonCall::new(held, if is_bare { &BARE } else { self.dialect }));
            }
            return;
        };
        match call.push(c, &self.tools, output) {
            Step::Inside => {}
            Step::Complete => {
                output.complete_call();
                self.fence = call.is_fenced.then(String::new);
                self.end_call();
            }
            Step::NoCall => {
                self.give_back(output);
                self.push(c, output);
            }
            Step::NotOffered => match (call.dialect.end, self.call.take()) {
                (Some(end), Some(call)) => self.scan.give_back_until(call.held, end, output),
                (_, call) => {
                    self.call = call;
                    self.give_back(output);
                }
            },
            Step::Broken => {
                output.end_call();
                self.end_call();
                self.push(c, output);
            }
            Step::Cut(marker) => {
                if call.is_emitted {
                    output.end_call();
                    self.end_call();
                } else {
                    // The marker's beginning is held, and looked at anew.
                    call.held.cut_end(marker.len() - c.len_utf8());
                    self.give_back(output);
                }
                marker.chars().for_each(|c| self.push(c, output));
            }
        }
    }

    pub(super) fn finish(&mut self, output: &mut Output) {
        match &mut self.call {
            None => self.scan.finish(output),
            Some(call) if call.is_emitted => call.finish(output),
            Some(_) => self.give_back(output),
        }
    }

    fn end_call(&mut self) {
        self.call = None;
        self.scan.after_call();
    }

    /// The attempt was no call.
    fn give_back(&mut self, output: &mut Output) {
        if let Some(call) = self.call.take() {
            self.scan.give_back(call.held, output);
        }
    }
}

/// What a character did to a call.
enum Step {
    Inside,
    /// It was the last of the whole object.
    Complete,
    /// It shows that this is no call; it is not part of what is held.
    NoCall,
    /// The name is that of no tool; the character is held with the rest.
    NotOffered,
    /// The call was emitted and is broken before this character.
    Broken,
    /// This marker stands where the call should go on.
    Cut(&'static str),
}

/// One object, from its opener on.
#[derive(Debug)]
struct JsonCall {
    dialect: &'static Dialect,
    place: Place,
    /// All of it, until the call is emitted.
    held: Held,
    is_emitted: bool,
    is_fenced: bool,
    /// A name may come in place of the object, or a list of objects.
    is_headed: bool,
    /// Arguments that came before the name.
    early: String,
    has_arguments: bool,
    key: String,
    /// What one character adds to the arguments.
    piece: String,
}

#[derive(Debug)]
enum Place {
    /// Behind a fence, in the word for its language.
    Language(String),
    Object,
    /// Behind Mistral's marker, in a name and what may follow it.
    Header(String),
    /// Behind the header.
    Headed,
    HeadedArguments(JsonValue),
    /// Before a key or the object's end, which may come behind a comma too.
    KeyOrEnd,
    Key(JsonString),
    Colon,
    NameQuote,
    Name {
        name: String,
        string: JsonString,
    },
    Arguments(JsonValue),
    Other(JsonValue),
    AfterValue,
}

impl JsonCall {
    fn new(held: Held, dialect: &'static Dialect) -> Self {
        let is_fenced = held.text == FENCE;
        let is_headed = MISTRAL.openers.contains(&held.text.as_str());
        let place = match held.text.as_str() {
            "{" => Place::KeyOrEnd,
            FENCE => Place::Language(String::new()),
            _ => Place::Object,
        };
        Self {
            dialect,
            place,
            held,
            is_emitted: false,
            is_fenced,
            is_headed,
            early: String::new(),
            has_arguments: false,
            key: String::new(),
            piece: String::new(),
        }
    }

    fn push(&mut self, c: char, tools: &[Tool], output: &mut Output) -> Step {
        if !self.is_emitted && self.held.len() >= HELD_BYTES_MAX {
            return Step::NoCall;
        }
        let step = self.advance(c, tools, output);
        if !self.is_emitted && matches!(step, Step::Inside | Step::NotOffered) {
            self.held.push(c);
        }
        if self.is_emitted {
            // Nothing of it can be given back any more.
            self.held = Held::default();
        }
        match step {
            Step::Broken if !self.is_emitted => Step::NoCall,
            // An object without a name.
            Step::Complete if !self.is_emitted => Step::NoCall,
            step => step,
        }
    }

    fn advance(&mut self, c: char, tools: &[Tool], output: &mut Output) -> Step {
        match &mut self.place {
            Place::Key(string) => {
                if string.push(c, &mut self.key) {
                    let keys = self.dialect.keys;
                    if !self.is_emitted && !keys.is_empty() && !keys.contains(&self.key.as_str()) {
                        return Step::Broken;
                    }
                    self.place = Place::Colon;
                } else if self.key.len() > NAME_BYTES_MAX {
                    return Step::Broken;
                }
            }
            Place::Name { name, string } => {
                if string.push(c, name) {
                    if !tools.iter().any(|tool| tool.name == *name) {
                        return Step::NotOffered;
                    }
                    output.call(name, None);
                    self.is_emitted = true;
                    output.arguments(&std::mem::take(&mut self.early));
                    self.place = Place::AfterValue;
                } else if name.len() > NAME_BYTES_MAX {
                    return Step::Broken;
                }
            }
            Place::Arguments(value) => {
                self.piece.clear();
                let reading = value.push(c, &mut self.piece);
                if self.is_emitted {
                    output.arguments(&self.piece);
                } else {
                    self.early.push_str(&self.piece);
                }
                return self.after_reading(reading, c, tools, output);
            }
            Place::Other(value) => {
                self.piece.clear();
                let reading = value.push(c, &mut self.piece);
                return self.after_reading(reading, c, tools, output);
            }
            Place::Header(header) => {
                if c != '{' {
                    header.push(c);
                    if header.len() > NAME_BYTES_MAX {
                        return Step::Broken;
                    }
                    if !header.ends_with(ARGS) {
                        return Step::Inside;
                    }
                }
                let header = header.trim_end_matches(ARGS).trim();
                let (name, id) = header.split_once(CALL_ID).unwrap_or((header, ""));
                if !tools.iter().any(|tool| tool.name == name) {
                    return if c == '{' { Step::Broken } else { Step::NotOffered };
                }
                output.call(name, Some(id.to_owned()).filter(|id| !id.is_empty()));
                self.is_emitted = true;
                self.place = Place::Headed;
                if c == '{' {
                    return self.advance(c, tools, output);
                }
            }
            Place::HeadedArguments(value) => {
                self.piece.clear();
                let reading = value.push(c, &mut self.piece);
                output.arguments(&self.piece);
                return match reading {
                    Reading::Inside => Step::Inside,
                    Reading::Cut(marker) => Step::Cut(marker),
                    Reading::Broken => Step::Broken,
                    Reading::Complete | Reading::CompleteBefore => Step::Complete,
                };
            }
            Place::Language(word) if LANGUAGE[word.len()..].starts_with(c) => word.push(c),
            Place::Language(_) if c.is_whitespace() => self.place = Place::Object,
            _ if c.is_whitespace() => {}
            Place::Headed if c == '{' => {
                self.place = Place::HeadedArguments(JsonValue::new(&[], self.dialect.markers));
                return self.advance(c, tools, output);
            }
            Place::Object if self.is_headed && c == '[' => self.is_headed = false,
            Place::Object if self.is_headed && (c.is_alphanumeric() || c == '_') => {
                self.place = Place::Header(c.into());
            }
            Place::Object | Place::Language(_) if c == '{' => self.place = Place::KeyOrEnd,
            Place::KeyOrEnd if c == '"' => {
                self.key.clear();
                self.place = Place::Key(JsonString::default());
            }
            Place::Colon if c == ':' => {
                let value = JsonValue::new(&[',', '}'], self.dialect.markers);
                self.place = match self.key.as_str() {
                    "name" if !self.is_emitted => Place::NameQuote,
                    "arguments" | "parameters" if !self.has_arguments => {
                        self.has_arguments = true;
                        Place::Arguments(value)
                    }
                    _ => Place::Other(value),
                };
            }
            Place::NameQuote if c == '"' => {
                self.place = Place::Name { name: String::new(), string: JsonString::default() };
            }
            Place::AfterValue if c == ',' => self.place = Place::KeyOrEnd,
            Place::KeyOrEnd | Place::AfterValue if c == '}' => return Step::Complete,
            _ => return Step::Broken,
        }
        Step::Inside
    }

    fn after_reading(&mut self, reading: Reading, c: char, tools: &[Tool], output: &mut Output) -> Step {
        match reading {
            Reading::Inside => return Step::Inside,
            Reading::Cut(marker) => return Step::Cut(marker),
            Reading::Broken => return Step::Broken,
            Reading::Complete | Reading::CompleteBefore => self.place = Place::AfterValue,
        }
        if reading == Reading::CompleteBefore { self.advance(c, tools, output) } else { Step::Inside }
    }

    /// The answer ended within it, after it was emitted.
    fn finish(&mut self, output: &mut Output) {
        if let Place::Arguments(value) | Place::HeadedArguments(value) = &mut self.place {
            self.piece.clear();
            value.finish(&mut self.piece);
            output.arguments(&self.piece);
        }
    }
}
