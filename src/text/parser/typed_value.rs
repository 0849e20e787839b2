//! A parameter's value as plain text between tags, as JSON of the type that the tool's schema asks for.
//!
//! A string is passed on as it comes. Anything else waits until it is whole, and goes out as it stands where
//! it is JSON of an allowed kind; converted where it is a Python literal of one (`True`, `None`, `{'a': 1}`;
//! chat templates print values so) and strings are not allowed; as a string elsewhere. Where a string is
//! allowed beside other kinds, or nothing is known, it is a string from where it can't be JSON of another
//! kind any more.

use super::HELD_BYTES_MAX;
use super::json::push_json_char;
use super::python_literal::python_to_json;
use super::schema::Kinds;
use serde_json::Value;

#[derive(Debug)]
pub(super) struct TypedValue {
    kinds: Kinds,
    /// The text so far, while its kind is open.
    held: String,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    String,
    /// Too long to be held: passed on as it stands.
    Raw,
}

/// Text that is no list and no object is known to be a string, or a literal, by this length.
const LITERAL_BYTES_MAX: usize = 64;

impl TypedValue {
    pub(super) fn new(kinds: Kinds, json: &mut String) -> Self {
        let mut value = Self { kinds, held: String::new(), state: State::Open };
        if kinds == Kinds::STRING {
            value.begin_string(json);
        }
        value
    }

    /// The next character; what is certain by it is added to `json`.
    pub(super) fn push(&mut self, c: char, json: &mut String) {
        match self.state {
            State::String => push_json_char(c, json),
            State::Raw => json.push(c),
            State::Open => {
                self.held.push(c);
                if self.kinds.has(Kinds::STRING) && !self.may_be_json() {
                    self.begin_string(json);
                } else if self.held.len() >= HELD_BYTES_MAX {
                    if self.held.trim_start().starts_with(['{', '[']) {
                        self.state = State::Raw;
                        json.push_str(&std::mem::take(&mut self.held));
                    } else {
                        self.begin_string(json);
                    }
                }
            }
        }
    }

    /// The value is whole.
    pub(super) fn finish(&mut self, json: &mut String) {
        match self.state {
            State::String => json.push('"'),
            State::Raw => {}
            State::Open => match self.as_json() {
                Some(value) => json.push_str(&value),
                None => {
                    self.begin_string(json);
                    json.push('"');
                }
            },
        }
    }

    fn begin_string(&mut self, json: &mut String) {
        self.state = State::String;
        json.push('"');
        std::mem::take(&mut self.held).chars().for_each(|c| push_json_char(c, json));
    }

    /// Whether the text may become JSON of an allowed kind other than a string. Lists and objects are looked
    /// at by their first character only, other values are short, so that this costs little every time.
    fn may_be_json(&self) -> bool {
        let text = self.held.trim_start();
        match text.chars().next() {
            None => self.held.len() < LITERAL_BYTES_MAX,
            Some('{') => self.kinds.has(Kinds::OBJECT),
            Some('[') => self.kinds.has(Kinds::ARRAY),
            Some(_) if self.held.len() > LITERAL_BYTES_MAX => false,
            Some(c) if c == '-' || c.is_ascii_digit() => {
                let is_number_char = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
                self.kinds.has(Kinds::NUMBER) && text.trim_end().chars().all(is_number_char)
            }
            Some(_) => {
                let text = text.trim_end();
                let may = |kind, literal: &str| self.kinds.has(kind) && literal.starts_with(text);
                may(Kinds::BOOLEAN, "true") || may(Kinds::BOOLEAN, "false") || may(Kinds::NULL, "null")
            }
        }
    }

    /// The whole text as JSON of an allowed kind other than a string.
    fn as_json(&self) -> Option<String> {
        let text = self.held.trim();
        let fits = |json: &str| self.kinds.has(Kinds::of_json(json)) && Kinds::of_json(json) != Kinds::STRING;
        if fits(text) && serde_json::from_str::<Value>(text).is_ok() {
            return Some(text.into());
        }
        if self.kinds.has(Kinds::STRING) {
            return None;
        }
        python_to_json(text).filter(|json| fits(json))
    }
}
