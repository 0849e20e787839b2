//! Calls that are Python calls in a list, `[get_weather(city='Paris', days=3), now()]`: Llama 3.2 and 4,
//! LFM2. The list stands at the beginning of a line, or between tags.
//!
//! Arguments become JSON as they come. One without a name gets that of the schema's property at its place.

use super::json::{Reading, push_json_char};
use super::output::Output;
use super::python_literal::PythonLiteral;
use super::scan::{Held, Scan};
use super::{HELD_BYTES_MAX, NAME_BYTES_MAX, Tool};
use std::sync::Arc;

/// Reads text with calls in it.
#[derive(Debug)]
pub(super) struct PythonicCalls {
    tools: Arc<[Tool]>,
    scan: Scan,
    place: Place,
    /// What came since the last call, while the next one is not emitted.
    held: Held,
    /// The name of the call or of the argument, as it comes.
    name: String,
    /// The tool that is called, by its place in `tools`.
    tool: usize,
    arguments: usize,
    /// What one character adds to the arguments.
    piece: String,
}

#[derive(Debug)]
enum Place {
    Text,
    /// Behind an opening tag.
    Opened,
    /// Where a call has to begin.
    BeforeCall,
    Name,
    /// Behind the name of a call.
    AfterName,
    /// Where an argument, or the call's end, has to come.
    BeforeArgument,
    /// In an argument's name, or in a value without a name.
    ArgumentName,
    /// Behind a word that may be either; white space came.
    AfterArgumentName,
    Value(PythonLiteral),
    AfterValue,
    AfterCall,
}

const OPENERS: &[&str] = &["<|python_start|>", "<|python_tag|>", "<|tool_call_start|>"];
const CLOSERS: &[&str] = &["<|python_end|>", "<|tool_call_end|>"];

impl PythonicCalls {
    pub(super) fn new(tools: Arc<[Tool]>) -> Self {
        Self {
            tools,
            scan: Scan::new(OPENERS, CLOSERS).line_opener('['),
            place: Place::Text,
            held: Held::default(),
            name: String::new(),
            tool: 0,
            arguments: 0,
            piece: String::new(),
        }
    }

    pub(super) fn push(&mut self, c: char, output: &mut Output) {
        match &mut self.place {
            Place::Text => {
                if self.scan.push(c, output).is_some() {
                    self.held = self.scan.take_held();
                    self.place = if self.held.text == "[" { Place::BeforeCall } else { Place::Opened };
                }
            }
            Place::Opened if c == '[' => self.hold(c, Place::BeforeCall, output),
            Place::BeforeCall if is_name_start(c) => {
                self.name.clear();
                self.name.push(c);
                self.hold(c, Place::Name, output);
            }
            Place::Name if is_name_char(c) && self.name.len() < NAME_BYTES_MAX => {
                self.name.push(c);
                self.hold(c, Place::Name, output);
            }
            Place::Name if c.is_whitespace() => self.hold(c, Place::AfterName, output),
            Place::Name | Place::AfterName if c == '(' => self.begin_call(output),
            Place::Opened | Place::BeforeCall | Place::AfterName if c.is_whitespace() => {
                if self.held.len() >= HELD_BYTES_MAX {
                    return self.give_back(c, output);
                }
                self.held.push(c);
            }
            Place::Opened | Place::BeforeCall | Place::Name | Place::AfterName => self.give_back(c, output),
            Place::ArgumentName if is_name_char(c) && self.name.len() < NAME_BYTES_MAX => self.name.push(c),
            Place::ArgumentName | Place::AfterArgumentName if c == '=' => {
                let name = std::mem::take(&mut self.name);
                self.begin_value(&name, output);
            }
            Place::ArgumentName | Place::AfterArgumentName if c == ',' || c == ')' => {
                let word = std::mem::take(&mut self.name);
                if self.begin_unnamed_value(output) {
                    word.chars().for_each(|c| self.push(c, output));
                    self.push(c, output);
                } else {
                    self.break_off(c, output);
                }
            }
            Place::Value(literal) => {
                self.piece.clear();
                let reading = literal.push(c, &mut self.piece);
                output.arguments(&self.piece);
                match reading {
                    Reading::Inside => {}
                    Reading::Complete => self.place = Place::AfterValue,
                    Reading::CompleteBefore => {
                        self.place = Place::AfterValue;
                        self.push(c, output);
                    }
                    Reading::Broken | Reading::Cut(_) => self.break_off(c, output),
                }
            }
            Place::AfterCall if c == ']' => {
                self.place = Place::Text;
                self.scan.after_call();
            }
            Place::AfterCall if c == ',' => self.hold(c, Place::BeforeCall, output),
            Place::AfterCall if c.is_whitespace() && self.held.len() < HELD_BYTES_MAX => self.held.push(c),
            Place::AfterCall => {
                self.scan.after_call();
                self.give_back(c, output);
            }
            Place::ArgumentName if c.is_whitespace() => self.place = Place::AfterArgumentName,
            _ if c.is_whitespace() => {}
            Place::BeforeArgument | Place::AfterValue if c == ')' => {
                if self.arguments > 0 {
                    output.arguments("}");
                }
                output.complete_call();
                self.place = Place::AfterCall;
            }
            Place::AfterValue if c == ',' => self.place = Place::BeforeArgument,
            Place::BeforeArgument if is_name_start(c) => {
                self.name.clear();
                self.name.push(c);
                self.place = Place::ArgumentName;
            }
            Place::BeforeArgument => {
                if self.begin_unnamed_value(output) {
                    self.push(c, output);
                } else {
                    self.break_off(c, output);
                }
            }
            Place::ArgumentName | Place::AfterArgumentName | Place::AfterValue => self.break_off(c, output),
        }
    }

    pub(super) fn finish(&mut self, output: &mut Output) {
        match self.place {
            Place::Text => self.scan.finish(output),
            Place::Opened | Place::BeforeCall | Place::Name | Place::AfterName => {
                let held = std::mem::take(&mut self.held);
                self.scan.give_back(held, output);
            }
            // White space behind a call, or a call that is cut off.
            _ => {}
        }
    }

    fn hold(&mut self, c: char, place: Place, output: &mut Output) {
        if self.held.len() >= HELD_BYTES_MAX {
            return self.give_back(c, output);
        }
        self.held.push(c);
        self.place = place;
    }

    /// The name is whole.
    fn begin_call(&mut self, output: &mut Output) {
        match self.tools.iter().position(|tool| tool.name == self.name) {
            Some(tool) => {
                output.call(&self.name, None);
                self.held = Held::default();
                self.tool = tool;
                self.arguments = 0;
                self.place = Place::BeforeArgument;
            }
            None => self.give_back('(', output),
        }
    }

    fn begin_value(&mut self, name: &str, output: &mut Output) {
        self.piece.clear();
        self.piece.push_str(if self.arguments == 0 { "{\"" } else { ", \"" });
        name.chars().for_each(|c| push_json_char(c, &mut self.piece));
        self.piece.push_str("\": ");
        output.arguments(&self.piece);
        self.arguments += 1;
        self.place = Place::Value(PythonLiteral::default());
    }

    /// A value whose name is that of the schema's property at its place, if there is one.
    fn begin_unnamed_value(&mut self, output: &mut Output) -> bool {
        let properties =
            self.tools[self.tool].parameters.get("properties").and_then(|value| value.as_object());
        let name = properties.and_then(|properties| properties.keys().nth(self.arguments)).cloned();
        if let Some(name) = &name {
            self.begin_value(name, output);
        }
        name.is_some()
    }

    /// The call was emitted and is broken before this character.
    fn break_off(&mut self, c: char, output: &mut Output) {
        output.end_call();
        self.place = Place::Text;
        self.scan.after_call();
        self.push(c, output);
    }

    /// What is held was no call, and this character shows it.
    fn give_back(&mut self, c: char, output: &mut Output) {
        let held = std::mem::take(&mut self.held);
        self.scan.give_back(held, output);
        self.place = Place::Text;
        self.push(c, output);
    }
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || "_-.".contains(c)
}
