//! JSON that comes character by character: strings decoded and encoded, values passed on as they come.

use super::scan::{Match, match_marker};

/// Decodes a JSON string from behind its opening quote on.
#[derive(Debug, Default)]
pub(super) struct JsonString {
    escape: Escape,
    surrogates: Surrogates,
}

/// Joins the halves of characters that are escaped as two. A half alone becomes U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Surrogates {
    high: Option<u16>,
}

impl Surrogates {
    /// The next escaped character, or half of one.
    pub(super) fn push(&mut self, value: u32, text: &mut String) {
        match u16::try_from(value) {
            Ok(unit @ 0xd800..=0xdbff) => {
                self.end(text);
                self.high = Some(unit);
            }
            Ok(unit @ 0xdc00..=0xdfff) if self.high.is_some() => {
                let pair = self.high.take().map_or([unit; 2], |high| [high, unit]);
                text.extend(char::decode_utf16(pair).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
            }
            _ => {
                self.end(text);
                text.push(char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
    }

    /// No other half follows.
    pub(super) fn end(&mut self, text: &mut String) {
        if self.high.take().is_some() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[derive(Debug, Default)]
enum Escape {
    #[default]
    None,
    Backslash,
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
            Escape::None if c == '\\' => self.escape = Escape::Backslash,
            Escape::None => {
                self.surrogates.end(text);
                if c == '"' {
                    return true;
                }
                text.push(c);
            }
            Escape::Backslash => {
                if c == 'u' {
                    self.escape = Escape::Unicode { value: 0, digits: 0 };
                    return false;
                }
                self.escape = Escape::None;
                self.surrogates.end(text);
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
                    self.surrogates.end(text);
                    text.push(char::REPLACEMENT_CHARACTER);
                    return self.push(c, text);
                };
                *value = *value * 16 + digit;
                *digits += 1;
                if *digits == 4 {
                    self.surrogates.push(*value, text);
                    self.escape = Escape::None;
                }
            }
        }
        false
    }
}

/// Adds a character as it stands in a JSON string.
pub(super) fn push_json_char(c: char, json: &mut String) {
    match c {
        '"' => json.push_str("\\\""),
        '\\' => json.push_str("\\\\"),
        '\n' => json.push_str("\\n"),
        '\r' => json.push_str("\\r"),
        '\t' => json.push_str("\\t"),
        '\u{8}' => json.push_str("\\b"),
        '\u{c}' => json.push_str("\\f"),
        c if c < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => json.push(c),
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
    /// It can't stand where it stands, and is not part of the value.
    Broken,
}

/// One JSON value that is passed on as it is written. A string is decoded: arguments may be JSON in a string.
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

/// A bare value that is longer than any literal is passed on at once.
const LITERAL_BYTES_MAX: usize = 16;

impl JsonValue {
    pub(super) fn new(bare_ends: &'static [char], markers: &'static [&'static str]) -> Self {
        Self { shape: Shape::Unknown, bare_ends, markers, tag: String::new() }
    }

    /// The next character; what is certain by it is added to `json`.
    pub(super) fn push(&mut self, c: char, json: &mut String) -> Reading {
        let may_cut = match &self.shape {
            Shape::Unknown | Shape::Bare(_) => true,
            Shape::Nested { in_string, .. } => !in_string,
            Shape::Encoded(_) => false,
        };
        if !may_cut {
            return self.push_value(c, json);
        }
        self.tag.push(c);
        match match_marker(&self.tag, self.markers) {
            Match::Whole(marker) => {
                self.tag.clear();
                self.finish(json);
                Reading::Cut(marker)
            }
            Match::Beginning => Reading::Inside,
            Match::None => {
                let tag = std::mem::take(&mut self.tag);
                let may_begin = tag.len() > c.len_utf8() && self.markers.iter().any(|m| m.starts_with(c));
                let value = if may_begin { tag.strip_suffix(c).unwrap_or(&tag) } else { &tag };
                self.tag = tag[value.len()..].to_owned();
                // No character of a marker but its last is one that could end a value.
                value.chars().fold(Reading::Inside, |_, c| self.push_value(c, json))
            }
        }
    }

    fn push_value(&mut self, c: char, json: &mut String) -> Reading {
        match &mut self.shape {
            Shape::Unknown if c.is_whitespace() => {}
            Shape::Unknown if c == '"' => self.shape = Shape::Encoded(JsonString::default()),
            Shape::Unknown if c == '{' || c == '[' => {
                json.push(c);
                self.shape = Shape::Nested { depth: 1, in_string: false, is_escaped: false };
            }
            Shape::Unknown => {
                self.shape = Shape::Bare(String::new());
                return self.push_value(c, json);
            }
            Shape::Nested { depth, in_string, is_escaped } => {
                json.push(c);
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
                if string.push(c, json) {
                    return Reading::Complete;
                }
            }
            Shape::Bare(literal) => {
                if self.bare_ends.contains(&c) {
                    self.finish(json);
                    return Reading::CompleteBefore;
                }
                literal.push(c);
                if literal.len() > LITERAL_BYTES_MAX {
                    json.push_str(&std::mem::take(literal));
                }
            }
        }
        Reading::Inside
    }

    /// Nothing in it says where it ends: it has no brackets or quotes, or has not started.
    pub(super) fn is_bare(&self) -> bool {
        matches!(self.shape, Shape::Unknown | Shape::Bare(_))
    }

    /// There is no more of it. A `null` is no arguments at all.
    pub(super) fn finish(&mut self, json: &mut String) {
        if let Shape::Bare(literal) = &mut self.shape {
            let literal = std::mem::take(literal);
            if literal.trim() != "null" {
                json.push_str(literal.trim_end());
            }
        }
    }
}
