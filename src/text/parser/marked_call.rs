//! Calls between markers, their arguments as JSON: a section of calls, in each call a header that names the
//! tool, a separator, the arguments. DeepSeek V3, V3.1 and R1, Kimi K2.
//!
//! Their markers are single tokens. What models are seen to leave out is not needed: the section's markers,
//! a call's closing marker, the fence around DeepSeek's JSON.

use super::json::{JsonValue, Reading};
use super::output::Output;
use super::scan::{Held, Match, Scan, match_marker};
use super::{HELD_BYTES_MAX, NAME_BYTES_MAX, Tool};
use std::sync::Arc;

/// Reads text with calls in it.
#[derive(Debug)]
pub(super) struct MarkedCalls {
    tools: Arc<[Tool]>,
    dialect: &'static Dialect,
    scan: Scan,
    place: Place,
    /// The attempt so far, until the call is emitted.
    held: Held,
    /// What may become the marker that is looked for.
    tag: String,
    /// The header or the name, as it comes.
    header: String,
    /// What one character adds to the arguments.
    piece: String,
}

/// What differs from family to family.
#[derive(Debug)]
struct Dialect {
    /// Of sections, then of calls.
    openers: &'static [&'static str],
    call_opener: &'static str,
    separator: &'static str,
    /// Of calls, then of sections.
    closers: &'static [&'static str],
    /// What breaks arguments off.
    markers: &'static [&'static str],
    header: Header,
    /// The JSON stands between "```json" and "```", or may.
    is_fenced: bool,
    /// A call may begin without its opener, right behind the section's.
    may_lack_opener: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    /// The name.
    Name,
    /// The call's type; the name is the line behind the separator.
    Type,
    /// `functions.NAME:N`, which is the call's id.
    Id,
}

const DEEPSEEK_V3: Dialect = Dialect {
    openers: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
    call_opener: "<｜tool▁call▁begin｜>",
    separator: "<｜tool▁sep｜>",
    closers: &["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
    markers: &[
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ],
    header: Header::Type,
    is_fenced: true,
    may_lack_opener: false,
};

const DEEPSEEK_V31: Dialect = Dialect { header: Header::Name, ..DEEPSEEK_V3 };

/// Its distillations spell the section's opener, which is no token of theirs, in ways of their own.
const DEEPSEEK_R1: Dialect = Dialect {
    openers: &[
        "<｜tool▁calls▁begin｜>",
        "<｜tool_calls_begin｜>",
        "<｜tool calls begin｜>",
        "<｜tool▁calls｜>",
        "<｜tool▁call▁begin｜>",
    ],
    may_lack_opener: true,
    ..DEEPSEEK_V3
};

const KIMI_K2: Dialect = Dialect {
    openers: &["<|tool_calls_section_begin|>", "<|tool_call_section_begin|>", "<|tool_call_begin|>"],
    call_opener: "<|tool_call_begin|>",
    separator: "<|tool_call_argument_begin|>",
    closers: &["<|tool_call_end|>", "<|tool_calls_section_end|>", "<|tool_call_section_end|>"],
    markers: &[
        "<|tool_calls_section_begin|>",
        "<|tool_call_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_section_end|>",
    ],
    header: Header::Id,
    is_fenced: false,
    may_lack_opener: false,
};

#[derive(Debug)]
enum Place {
    Text,
    /// Behind a section's opener.
    Section,
    /// Up to the separator.
    Header,
    /// Up to the end of the line behind the separator.
    Name,
    /// Where the arguments begin, perhaps with a fence.
    Fence,
    Arguments(JsonValue),
}

const FENCE: &str = "```json";

impl MarkedCalls {
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME`, then fenced JSON.
    pub(super) fn deepseek_v3(tools: Arc<[Tool]>) -> Self {
        Self::new(tools, &DEEPSEEK_V3)
    }

    /// `<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>`.
    pub(super) fn deepseek_v31(tools: Arc<[Tool]>) -> Self {
        Self::new(tools, &DEEPSEEK_V31)
    }

    /// As V3's, with the misspellings of its distillations.
    pub(super) fn deepseek_r1(tools: Arc<[Tool]>) -> Self {
        Self::new(tools, &DEEPSEEK_R1)
    }

    /// `<|tool_call_begin|>functions.NAME:N<|tool_call_argument_begin|>{...}<|tool_call_end|>`.
    pub(super) fn kimi_k2(tools: Arc<[Tool]>) -> Self {
        Self::new(tools, &KIMI_K2)
    }

    fn new(tools: Arc<[Tool]>, dialect: &'static Dialect) -> Self {
        let scan = Scan::new(dialect.openers, dialect.closers);
        Self {
            tools,
            dialect,
            scan: if dialect.is_fenced { scan.separators(&['`']) } else { scan },
            place: Place::Text,
            held: Held::default(),
            tag: String::new(),
            header: String::new(),
            piece: String::new(),
        }
    }

    pub(super) fn push(&mut self, c: char, output: &mut Output) {
        match &mut self.place {
            Place::Text => {
                let Some(opener) = self.scan.push(c, output) else { return };
                self.held = self.scan.take_held();
                self.header.clear();
                self.place = if opener == self.dialect.call_opener { Place::Header } else { Place::Section };
            }
            Place::Section
                if self.tag.is_empty() && c.is_whitespace() && self.held.len() < HELD_BYTES_MAX =>
            {
                self.held.push(c);
            }
            Place::Section if self.tag.is_empty() && c != '<' && self.dialect.may_lack_opener => {
                self.place = Place::Header;
                self.push(c, output);
            }
            Place::Section => {
                if self.push_tag(c, self.dialect.call_opener, output) {
                    self.place = Place::Header;
                }
            }
            Place::Header if self.tag.is_empty() && c != '<' => self.push_header(c, output),
            Place::Header => {
                if self.push_tag(c, self.dialect.separator, output) {
                    self.end_header(output);
                }
            }
            Place::Name if matches!(c, '\n' | '`' | '{') => {
                let name = self.header.trim().to_owned();
                self.emit_call(&name, None, output);
                self.push(c, output);
            }
            Place::Name => self.push_header(c, output),
            Place::Fence if self.tag.is_empty() && c.is_whitespace() => {}
            Place::Fence => {
                self.tag.push(c);
                if FENCE.starts_with(&self.tag) && self.tag.len() < FENCE.len() {
                    return;
                }
                let tag = std::mem::take(&mut self.tag);
                let bare_ends = if self.dialect.is_fenced { &['`'][..] } else { &[] };
                self.place = Place::Arguments(JsonValue::new(bare_ends, self.dialect.markers));
                let arguments = tag.strip_prefix(FENCE).or(tag.strip_prefix("```")).unwrap_or(&tag);
                arguments.chars().for_each(|c| self.push(c, output));
            }
            Place::Arguments(value) => {
                self.piece.clear();
                let reading = value.push(c, &mut self.piece);
                output.arguments(&self.piece);
                let was_bare = value.is_bare();
                match reading {
                    Reading::Inside => return,
                    Reading::Cut(_) | Reading::Broken if !was_bare => output.end_call(),
                    _ => output.complete_call(),
                }
                self.place = Place::Text;
                self.scan.after_call();
                match reading {
                    Reading::Cut(marker) => marker.chars().for_each(|c| self.push(c, output)),
                    Reading::CompleteBefore | Reading::Broken => self.push(c, output),
                    Reading::Inside | Reading::Complete => {}
                }
            }
        }
    }

    pub(super) fn finish(&mut self, output: &mut Output) {
        match &mut self.place {
            Place::Text => self.scan.finish(output),
            Place::Section | Place::Header | Place::Name => self.give_back(output),
            Place::Fence => {}
            Place::Arguments(value) => {
                self.piece.clear();
                value.finish(&mut self.piece);
                output.arguments(&self.piece);
            }
        }
    }

    /// The next character of a marker that has to come here; true once it is whole.
    fn push_tag(&mut self, c: char, marker: &'static str, output: &mut Output) -> bool {
        self.tag.push(c);
        match match_marker(&self.tag, &[marker]) {
            Match::Beginning => false,
            Match::Whole(marker) => {
                self.tag.clear();
                marker.chars().for_each(|c| self.held.push(c));
                true
            }
            Match::None => {
                let tag = std::mem::take(&mut self.tag);
                self.give_back(output);
                tag.chars().for_each(|c| self.push(c, output));
                false
            }
        }
    }

    fn push_header(&mut self, c: char, output: &mut Output) {
        if self.header.len() >= NAME_BYTES_MAX {
            self.give_back(output);
            return self.push(c, output);
        }
        self.header.push(c);
        self.held.push(c);
    }

    fn end_header(&mut self, output: &mut Output) {
        let header = std::mem::take(&mut self.header);
        let header = header.trim();
        match self.dialect.header {
            Header::Type => self.place = Place::Name,
            Header::Name => self.emit_call(header, None, output),
            Header::Id => {
                let name = header.strip_prefix("functions.").unwrap_or(header);
                let name = match name.rsplit_once(':') {
                    Some((name, number)) if number.chars().all(|c| c.is_ascii_digit()) => name,
                    _ => name,
                };
                self.emit_call(name, Some(header.to_owned()), output);
            }
        }
    }

    fn emit_call(&mut self, name: &str, id: Option<String>, output: &mut Output) {
        let held = std::mem::take(&mut self.held);
        if self.tools.iter().any(|tool| tool.name == name) {
            output.call(name, id);
            self.place = Place::Fence;
        } else {
            self.scan.give_back_until(held, self.dialect.closers[0], output);
            self.place = Place::Text;
        }
    }

    /// The attempt was no call.
    fn give_back(&mut self, output: &mut Output) {
        let mut held = std::mem::take(&mut self.held);
        std::mem::take(&mut self.tag).chars().for_each(|c| held.push(c));
        self.scan.give_back(held, output);
        self.place = Place::Text;
    }
}
