//! Calls whose parameters stand between tags, as plain text: Qwen3-Coder, MiniMax-M2, GLM-4.x, DeepSeek V3.2 and V4.
//!
//! The text of a parameter is anything, tags too: its closing tag is one only where what may follow it
//! follows. Its type is the schema's (see [`TypedValue`]), but where DeepSeek's tag says that it is a string.

use super::json::push_json_char;
use super::output::Output;
use super::scan::{Held, Match, Scan, match_marker};
use super::schema::Kinds;
use super::typed_value::TypedValue;
use super::{HELD_BYTES_MAX, NAME_BYTES_MAX, Tool};
use std::sync::Arc;

/// Reads text with calls in it.
#[derive(Debug)]
pub(super) struct TaggedCalls {
    tools: Arc<[Tool]>,
    dialect: &'static Dialect,
    scan: Scan,
    place: Place,
    /// The attempt so far, until the call is emitted.
    held: Held,
    /// What may become the tag that is looked for.
    tag: String,
    /// The name of the call or of the parameter, as it comes.
    name: String,
    /// The tool that is called, by its place in `tools`.
    tool: usize,
    parameters: usize,
    /// What one character adds to the arguments.
    piece: String,
}

/// What differs from family to family.
#[derive(Debug)]
struct Dialect {
    /// Of sections, then of calls.
    openers: &'static [&'static str],
    /// `None`: the name follows the section's opener.
    call_opener: Option<&'static str>,
    parameter_opener: &'static str,
    /// Ends a parameter's name, and what comes before its value, if anything does.
    name_closer: &'static str,
    value_opener: Option<&'static str>,
    value_closer: &'static str,
    /// Of calls, then of sections.
    closers: &'static [&'static str],
    /// The parameter's opener and all closers: what may come where a parameter may.
    next: &'static [&'static str],
    /// Values may stand on lines of their own, between two line breaks that are not theirs.
    has_line_breaks: bool,
}

const QWEN: Dialect = Dialect {
    openers: &["<tool_call>", "<seed:tool_call>", "<function="],
    call_opener: Some("<function="),
    parameter_opener: "<parameter=",
    name_closer: ">",
    value_opener: None,
    value_closer: "</parameter>",
    closers: &["</function>", "</tool_call>", "</seed:tool_call>"],
    next: &["<parameter=", "</function>", "</tool_call>", "</seed:tool_call>"],
    has_line_breaks: true,
};

const MINIMAX: Dialect = Dialect {
    openers: &["<minimax:tool_call>", "<invoke name="],
    call_opener: Some("<invoke name="),
    parameter_opener: "<parameter name=",
    name_closer: ">",
    value_opener: None,
    value_closer: "</parameter>",
    closers: &["</invoke>", "</minimax:tool_call>"],
    next: &["<parameter name=", "</invoke>", "</minimax:tool_call>"],
    has_line_breaks: false,
};

const GLM: Dialect = Dialect {
    openers: &["<tool_call>"],
    call_opener: None,
    parameter_opener: "<arg_key>",
    name_closer: "</arg_key>",
    value_opener: Some("<arg_value>"),
    value_closer: "</arg_value>",
    closers: &["</tool_call>"],
    next: &["<arg_key>", "</tool_call>"],
    has_line_breaks: false,
};

/// V3.2 names its section `function_calls`, V4 `tool_calls`.
const DSML: Dialect = Dialect {
    openers: &["<｜DSML｜function_calls>", "<｜DSML｜tool_calls>", "<｜DSML｜invoke name="],
    call_opener: Some("<｜DSML｜invoke name="),
    parameter_opener: "<｜DSML｜parameter name=",
    name_closer: ">",
    value_opener: None,
    value_closer: "</｜DSML｜parameter>",
    closers: &["</｜DSML｜invoke>", "</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"],
    next: &[
        "<｜DSML｜parameter name=",
        "</｜DSML｜invoke>",
        "</｜DSML｜function_calls>",
        "</｜DSML｜tool_calls>",
    ],
    has_line_breaks: false,
};

/// Behind a parameter's name: whether its value is a string, or else JSON.
const IS_STRING: &str = "\" string=\"";

#[derive(Debug)]
enum Place {
    Text,
    /// Behind a section's opener.
    Section,
    /// In the call's name.
    Name,
    /// Where a parameter or the call's end may come.
    Call,
    /// In a parameter's name.
    ParameterName,
    BeforeValue,
    /// `is_first`: nothing of it has come. `has_line`: it began with a line break, and ends with one.
    Value {
        value: TypedValue,
        is_first: bool,
        has_line: bool,
    },
}

/// How much white space may stand between a value's closing tag and what follows it.
const GAP_BYTES_MAX: usize = 64;

impl TaggedCalls {
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`.
    pub(super) fn qwen(tools: Arc<[Tool]>) -> Self {
        Self::new(tools, &QWEN)
    }

    /// `<minimax:tool_call><invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>...`.
    pub(super) fn minimax(tools: Arc<[Tool]>) -> Self {
        Self::new(tools, &MINIMAX)
    }

    /// `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`.
    pub(super) fn glm(tools: Arc<[Tool]>) -> Self {
        Self::new(tools, &GLM)
    }

    /// `<｜DSML｜invoke name="NAME"><｜DSML｜parameter name="KEY" string="true">VALUE</｜DSML｜parameter>...`.
    pub(super) fn dsml(tools: Arc<[Tool]>) -> Self {
        Self::new(tools, &DSML)
    }

    fn new(tools: Arc<[Tool]>, dialect: &'static Dialect) -> Self {
        Self {
            tools,
            dialect,
            scan: Scan::new(dialect.openers, dialect.closers),
            place: Place::Text,
            held: Held::default(),
            tag: String::new(),
            name: String::new(),
            tool: 0,
            parameters: 0,
            piece: String::new(),
        }
    }

    pub(super) fn push(&mut self, c: char, output: &mut Output) {
        match &mut self.place {
            Place::Text => {
                let Some(opener) = self.scan.push(c, output) else { return };
                self.held = self.scan.take_held();
                self.name.clear();
                let is_call = self.dialect.call_opener.is_none_or(|call_opener| call_opener == opener);
                self.place = if is_call { Place::Name } else { Place::Section };
            }
            Place::Section
                if self.tag.is_empty() && c.is_whitespace() && self.held.len() < HELD_BYTES_MAX =>
            {
                self.held.push(c);
            }
            Place::Section => {
                let call_opener = self.dialect.call_opener.unwrap_or_default();
                if self.push_tag(c, &[call_opener], output).is_some() {
                    call_opener.chars().for_each(|c| self.held.push(c));
                    self.place = Place::Name;
                }
            }
            Place::Name => self.push_name(c, output),
            Place::Call if self.tag.is_empty() && c.is_whitespace() => {}
            Place::Call => {
                if let Some(tag) = self.push_tag(c, self.dialect.next, output) {
                    self.end_parameter(tag, output);
                }
            }
            Place::ParameterName => {
                self.name.push(c);
                if let Some(name) = self.name.strip_suffix(self.dialect.name_closer) {
                    let (name, is_string) = name.split_once(IS_STRING).unwrap_or((name, ""));
                    let is_string = is_string.starts_with("true");
                    self.name = unquoted(name).to_owned();
                    match self.dialect.value_opener {
                        Some(_) => self.place = Place::BeforeValue,
                        None => self.begin_value(is_string, output),
                    }
                } else if self.name.len() > NAME_BYTES_MAX {
                    self.break_off(output);
                }
            }
            Place::BeforeValue if self.tag.is_empty() && c.is_whitespace() => {}
            Place::BeforeValue => {
                let value_opener = self.dialect.value_opener.unwrap_or_default();
                if self.push_tag(c, &[value_opener], output).is_some() {
                    self.begin_value(false, output);
                }
            }
            Place::Value { .. } => self.push_value(c, output),
        }
    }

    pub(super) fn finish(&mut self, output: &mut Output) {
        match &mut self.place {
            Place::Text => self.scan.finish(output),
            Place::Section | Place::Name => self.give_back(output),
            Place::Call | Place::ParameterName | Place::BeforeValue => {}
            Place::Value { value, .. } => {
                // What may be part of a tag is none of the value; a value that is cut off is not ended.
                if self.tag.contains(self.dialect.value_closer) {
                    self.piece.clear();
                    value.finish(&mut self.piece);
                    output.arguments(&self.piece);
                }
            }
        }
    }

    /// The next character of one of the tags that have to come here, which is returned once it is whole.
    fn push_tag(&mut self, c: char, tags: &[&'static str], output: &mut Output) -> Option<&'static str> {
        self.tag.push(c);
        match match_marker(&self.tag, tags) {
            Match::Beginning => None,
            Match::Whole(tag) => {
                self.tag.clear();
                Some(tag)
            }
            Match::None => {
                let tag = std::mem::take(&mut self.tag);
                match self.place {
                    Place::Section => self.give_back(output),
                    _ => self.break_off(output),
                }
                tag.chars().for_each(|c| self.push(c, output));
                None
            }
        }
    }

    fn push_name(&mut self, c: char, output: &mut Output) {
        let is_bare = self.dialect.call_opener.is_none();
        let ends = if is_bare { ['<', '\n'] } else { ['>', '>'] };
        if is_bare && c.is_whitespace() && self.name.is_empty() && self.held.len() < HELD_BYTES_MAX {
            self.held.push(c);
        } else if ends.contains(&c) {
            let name = unquoted(&self.name);
            if name.is_empty() {
                self.give_back(output);
                return self.push(c, output);
            }
            match self.tools.iter().position(|tool| tool.name == name) {
                Some(tool) => {
                    output.call(name, None);
                    self.held = Held::default();
                    self.tool = tool;
                    self.parameters = 0;
                    self.place = Place::Call;
                }
                None => {
                    let mut held = std::mem::take(&mut self.held);
                    self.place = Place::Text;
                    if !is_bare {
                        held.push(c);
                    }
                    self.scan.give_back_until(held, self.dialect.closers[0], output);
                }
            }
            if is_bare {
                self.push(c, output);
            }
        } else if self.name.len() >= NAME_BYTES_MAX || matches!(c, '<' | '\n') {
            self.give_back(output);
            self.push(c, output);
        } else {
            self.name.push(c);
            self.held.push(c);
        }
    }

    fn begin_value(&mut self, is_string: bool, output: &mut Output) {
        self.piece.clear();
        self.piece.push_str(if self.parameters == 0 { "{\"" } else { ", \"" });
        self.name.chars().for_each(|c| push_json_char(c, &mut self.piece));
        self.piece.push_str("\": ");
        let kinds = if is_string { Kinds::STRING } else { Kinds::of(&self.tools[self.tool], &self.name) };
        let value = TypedValue::new(kinds, &mut self.piece);
        output.arguments(&self.piece);
        self.parameters += 1;
        self.place = Place::Value { value, is_first: true, has_line: false };
    }

    fn push_value(&mut self, c: char, output: &mut Output) {
        let Place::Value { value, is_first, has_line } = &mut self.place else { return };
        if std::mem::take(is_first) && self.dialect.has_line_breaks && c == '\n' {
            *has_line = true;
            return;
        }
        self.piece.clear();
        self.tag.push(c);
        // A tag may begin at any character of what turned out to be none.
        let mut start = 0;
        let next = loop {
            match self.dialect.match_end(&self.tag[start..], *has_line) {
                Match::Whole(next) => break Some(next),
                Match::Beginning => break None,
                Match::None => {}
            }
            let Some(c) = self.tag[start..].chars().next() else { break None };
            value.push(c, &mut self.piece);
            start += c.len_utf8();
        };
        self.tag.drain(..start);
        if next.is_some() {
            self.tag.clear();
            value.finish(&mut self.piece);
        }
        output.arguments(&self.piece);
        if let Some(next) = next {
            self.end_parameter(next, output);
        }
    }

    /// This tag came where a parameter may.
    fn end_parameter(&mut self, tag: &'static str, output: &mut Output) {
        if tag == self.dialect.parameter_opener {
            self.name.clear();
            self.place = Place::ParameterName;
            return;
        }
        if self.parameters > 0 {
            output.arguments("}");
        }
        output.complete_call();
        self.place = Place::Text;
        self.scan.after_call();
        tag.chars().for_each(|c| self.push(c, output));
    }

    /// The call was emitted and is broken.
    fn break_off(&mut self, output: &mut Output) {
        output.end_call();
        self.place = Place::Text;
        self.scan.after_call();
    }

    /// The attempt was no call.
    fn give_back(&mut self, output: &mut Output) {
        let mut held = std::mem::take(&mut self.held);
        std::mem::take(&mut self.tag).chars().for_each(|c| held.push(c));
        self.scan.give_back(held, output);
        self.place = Place::Text;
    }
}

impl Dialect {
    /// Whether a text within a value is its end: the closing tag, white space and what may follow. Or the
    /// ends of the call and of the section, where the closing tag is missing.
    fn match_end(&self, text: &str, has_line: bool) -> Match {
        let text = match text.strip_prefix('\n') {
            Some("") if has_line => return Match::Beginning,
            Some(text) if has_line => text,
            _ => text,
        };
        match match_pair(text, self.value_closer, self.next) {
            Match::None if self.closers.len() > 1 => {
                match match_pair(text, self.closers[0], &self.closers[1..]) {
                    Match::Whole(_) => Match::Whole(self.closers[0]),
                    matched => matched,
                }
            }
            matched => matched,
        }
    }
}

/// Whether a text is this marker, white space, and one of those.
fn match_pair(text: &str, marker: &str, next: &[&'static str]) -> Match {
    match text.strip_prefix(marker) {
        None if marker.starts_with(text) => Match::Beginning,
        None => Match::None,
        Some(gap) => {
            let text = gap.trim_start();
            match gap.len() - text.len() > GAP_BYTES_MAX {
                true => Match::None,
                false => match_marker(text, next),
            }
        }
    }
}

/// A name without the quotes that may stand around it.
fn unquoted(name: &str) -> &str {
    name.trim().trim_matches('"')
}
