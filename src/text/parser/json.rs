//! JSON that comes character by character: strings decoded and encoded, and arguments told as they come.

use super::scan::{Match, match_marker};

/// Decodes a JSON string from behind its opening quote on.
#[derive(Debug, Default)]
pub(super) struct JsonString {
    escape: Escape,
    /// The first half of a surrogate pair.
    high: Option<u16>,
}

#[derive(Debug, Default)]
enum Escape {
    #[default]
    None,
    Begun,
    /// `\u` and the digits so far.
    Unicode {
        value: u32,
        digits: u8,
    },
}

impl JsonString {
    /// The next character; what it makes certain is added. True once it was the closing quote.
    pub(super) fn push(&mut self, c: char, text: &mut String) -> bool {
        match &mut self.escape {
            Escape::None if c == '\\' => self.escape = Escape::Begun,
            Escape::None => {
                self.end_pair(text);
                if c == '"' {
                    return true;
                }
                text.push(c);
            }
            Escape::Begun => {
                if c == 'u' {
                    self.escape = Escape::Unicode { value: 0, digits: 0 };
                    return false;
                }
                self.escape = Escape::None;
                self.end_pair(text);
                match c {
                    'b' => text.push('\u{8}'),
                    'f' => text.push('\u{c}'),
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    't' => text.push('\t'),
                    '"' | '\\' | '/' => text.push(c),
                    // No escape of JSON: as it is written.
                    _ => text.extend(['\\', c]),
                }
            }
            Escape::Unicode { value, digits } => {
                let Some(digit) = c.to_digit(16) else {
                    self.escape = Escape::None;
                    self.high = None;
                    text.push(char::REPLACEMENT_CHARACTER);
                    return self.push(c, text);
                };
                *value = *value * 16 + digit;
                *digits += 1;
                if *digits == 4 {
                    let unit = u16::try_from(*value).unwrap_or(0);
                    self.escape = Escape::None;
                    self.push_unit(unit, text);
                }
            }
        }
        false
    }

    fn push_unit(&mut self, unit: u16, text: &mut String) {
        if let Some(high) = self.high.take() {
            if let Some(Ok(c)) = char::decode_utf16([high, unit]).next() {
                text.push(c);
                return;
            }
            text.push(char::REPLACEMENT_CHARACTER);
        }
        match char::decode_utf16([unit]).next() {
            Some(Ok(c)) => text.push(c),
            _ if unit < 0xdc00 => self.high = Some(unit),
            _ => text.push(char::REPLACEMENT_CHARACTER),
        }
    }

    fn end_pair(&mut self, text: &mut String) {
        if self.high.take().is_some() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// What a character is to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It belongs to the value, which goes on.
    Inside,
    /// It was the value's last.
    Complete,
    /// The value ended before it.
    CompleteBefore,
    /// It made a marker whole that can't stand where it stands: the value was broken off.
    Cut(&'static str),
}

/// One JSON value that is told as it is written. A string is decoded: arguments may be JSON in a string.
/// The white space before it is left out.
#[derive(Debug)]
pub(super) struct JsonValue {
    shape: Shape,
    /// What ends a value that is not nested and has no quotes.
    bare_ends: &'static [char],
    /// What breaks a value off, outside of its strings.
    markers: &'static [&'static str],
    /// What may become one of the markers.
    tag: String,
}

#[derive(Debug)]
enum Shape {
    Unknown,
    Nested { depth: usize, in_string: bool, is_escaped: bool },
    Encoded(JsonString),
    Bare(String),
}

/// A bare value that is longer than any literal is told at once.
const LITERAL_BYTES_MAX: usize = 16;

impl JsonValue {
    pub(super) fn new(bare_ends: &'static [char], markers: &'static [&'static str]) -> Self {
        Self { shape: Shape::Unknown, bare_ends, markers, tag: String::new() }
    }

    /// The next character; what is certain by it is added to `told`.
    pub(super) fn push(&mut self, c: char, told: &mut String) -> Reading {
        let may_cut = match &self.shape {
            Shape::Unknown | Shape::Bare(_) => true,
            Shape::Nested { in_string, .. } => !in_string,
            Shape::Encoded(_) => false,
        };
        if !may_cut {
            return self.push_value(c, told);
        }
        self.tag.push(c);
        match match_marker(&self.tag, self.markers) {
            Match::Whole(marker) => {
                self.tag.clear();
                self.finish(told);
                Reading::Cut(marker)
            }
            Match::Beginning => Reading::Inside,
            Match::None => {
                let tag = std::mem::take(&mut self.tag);
                let may_begin = tag.len() > c.len_utf8() && self.markers.iter().any(|m| m.starts_with(c));
                let value = if may_begin { tag.strip_suffix(c).unwrap_or(&tag) } else { &tag };
                self.tag = tag[value.len()..].to_owned();
                // No character of a marker but its last is one that could end a value.
                value.chars().fold(Reading::Inside, |_, c| self.push_value(c, told))
            }
        }
    }

    fn push_value(&mut self, c: char, told: &mut String) -> Reading {
        match &mut self.shape {
            Shape::Unknown if c.is_whitespace() => {}
            Shape::Unknown if c == '"' => self.shape = Shape::Encoded(JsonString::default()),
            Shape::Unknown if c == '{' || c == '[' => {
                told.push(c);
                self.shape = Shape::Nested { depth: 1, in_string: false, is_escaped: false };
            }
            Shape::Unknown => {
                self.shape = Shape::Bare(String::new());
                return self.push_value(c, told);
            }
            Shape::Nested { depth, in_string, is_escaped } => {
                told.push(c);
                match c {
                    _ if *is_escaped => *is_escaped = false,
                    '\\' if *in_string => *is_escaped = true,
                    '"' => *in_string = !*in_string,
                    '{' | '[' if !*in_string => *depth += 1,
                    '}' | ']' if !*in_string => {
                        *depth -= 1;
                        if *depth == 0 {
                            return Reading::Complete;
                        }
                    }
                    _ => {}
                }
            }
            Shape::Encoded(string) => {
                if string.push(c, told) {
                    return Reading::Complete;
                }
            }
            Shape::Bare(literal) => {
                if self.bare_ends.contains(&c) {
                    self.finish(told);
                    return Reading::CompleteBefore;
                }
                literal.push(c);
                if literal.len() > LITERAL_BYTES_MAX {
                    told.push_str(&std::mem::take(literal));
                }
            }
        }
        Reading::Inside
    }

    /// There is no more of it. A `null` is no arguments at all.
    pub(super) fn finish(&mut self, told: &mut String) {
        if let Shape::Bare(literal) = &mut self.shape {
            let literal = std::mem::take(literal);
            if literal.trim() != "null" {
                told.push_str(literal.trim_end());
            }
        }
    }
}
