//! The free text that a custom tool takes, out of the arguments of the function that stands for it:
//! `{"input": "..."}`. The text comes out as its pieces come in. A model that writes its text bare, or under
//! another name, is understood.

use serde_json::Value;

/// The parameter's name.
pub const INPUT: &str = "input";

/// Reads arguments piece by piece.
#[derive(Debug, Default)]
pub struct CustomInput {
    /// All that came.
    arguments: String,
    state: State,
    /// Where in the arguments reading goes on.
    at: usize,
    /// What came out.
    text: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the text; nothing told which way it comes.
    #[default]
    Before,
    /// Within the string.
    Inside,
    /// No object: the arguments are the text.
    Bare,
    /// An object that begins otherwise: read when it is whole.
    Whole,
    /// Behind the string.
    Done,
}

impl CustomInput {
    /// Takes a piece of the arguments; the text that it adds.
    pub fn push(&mut self, json: &str) -> String {
        self.arguments.push_str(json);
        if self.state == State::Before {
            self.state = self.beginning();
        }
        let piece = match self.state {
            State::Before | State::Whole | State::Done => String::new(),
            State::Bare => {
                let piece = self.arguments[self.at..].to_owned();
                self.at = self.arguments.len();
                piece
            }
            State::Inside => self.inside(),
        };
        self.text.push_str(&piece);
        piece
    }

    /// The arguments have ended; the text that was still to come.
    pub fn end(&mut self) -> String {
        let rest = match self.state {
            State::Before if self.arguments.trim().is_empty() => String::new(),
            State::Before | State::Whole => of_whole(&self.arguments),
            State::Inside | State::Bare | State::Done => String::new(),
        };
        self.text.push_str(&rest);
        self.state = State::Done;
        rest
    }

    /// The whole text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the arguments are whole.
    pub fn is_complete(&self) -> bool {
        self.state != State::Bare && is_object(&self.arguments)
    }

    /// How the text comes, and where it begins; `Before` while that is open.
    fn beginning(&mut self) -> State {
        let rest = self.arguments.trim_start();
        if rest.is_empty() {
            return State::Before;
        }
        let Some(mut rest) = rest.strip_prefix('{') else { return State::Bare };
        for expected in ["\"input\"", ":", "\""] {
            rest = rest.trim_start();
            match rest.strip_prefix(expected) {
                Some(behind) => rest = behind,
                None if expected.starts_with(rest) => return State::Before,
                None => return State::Whole,
            }
        }
        self.at = self.arguments.len() - rest.len();
        State::Inside
    }

    /// The text between here and the end of the string, or the last escape that is whole.
    fn inside(&mut self) -> String {
        let mut piece = String::new();
        loop {
            let rest = &self.arguments[self.at..];
            let plain = rest.find(['"', '\\']).unwrap_or(rest.len());
            piece.push_str(&rest[..plain]);
            self.at += plain;
            let rest = &rest[plain..];
            if rest.starts_with('"') {
                self.state = State::Done;
                return piece;
            }
            let Some((character, bytes)) = escape(rest) else { return piece };
            piece.push(character);
            self.at += bytes;
        }
    }
}

/// The character of the escape that a text begins with and the escape's length; None while it is not whole.
/// What is no escape of JSON's stands for itself.
fn escape(text: &str) -> Option<(char, usize)> {
    let kind = text.get(1..)?.chars().next()?;
    let simple = match kind {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'u' => {
            let unit = |at: usize| -> Option<Result<u32, ()>> {
                let digits = text.as_bytes().get(at..at + 4)?;
                let digits = std::str::from_utf8(digits).map_err(|_| ());
                Some(digits.and_then(|digits| u32::from_str_radix(digits, 16).map_err(|_| ())))
            };
            let Ok(first) = unit(2)? else { return Some((char::REPLACEMENT_CHARACTER, 2)) };
            if !(0xd800..0xdc00).contains(&first) {
                return Some((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 6));
            }
            // The other half of the pair.
            let behind = &text[6..];
            if !behind.starts_with("\\u") {
                let open = "\\u".starts_with(behind);
                return (!open).then_some((char::REPLACEMENT_CHARACTER, 6));
            }
            return Some(match unit(8)? {
                Ok(second @ 0xdc00..0xe000) => {
                    let point = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                    (char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
                }
                _ => (char::REPLACEMENT_CHARACTER, 6),
            });
        }
        other => other,
    };
    Some((simple, 1 + kind.len_utf8()))
}

/// The text in arguments that are whole: the parameter's, the only string's, or the arguments themselves.
fn of_whole(arguments: &str) -> String {
    let object = serde_json::from_str::<Value>(arguments);
    let fields = object.as_ref().ok().and_then(Value::as_object);
    let text = fields.and_then(|fields| {
        let named = fields.get(INPUT).and_then(Value::as_str);
        named.or_else(|| fields.values().next().and_then(Value::as_str).filter(|_| fields.len() == 1))
    });
    text.unwrap_or(arguments).to_owned()
}

/// Whether a text is a JSON object.
pub fn is_object(text: &str) -> bool {
    text.trim_end().ends_with('}')
        && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
        && text.trim_start().starts_with('{')
}
