//! Python literals as JSON, character by character: `{'a': [True, None, "x"]}`.
//!
//! Lists and tuples become arrays, keys become strings. A word that is no literal becomes a string.

use super::json::{Reading, Surrogates, push_json_char};
use serde_json::Value;

/// One literal.
#[derive(Debug, Default)]
pub(super) struct PythonLiteral {
    /// What closes the containers that are open.
    open: Vec<char>,
    place: Place,
    /// What is read is a dictionary's key.
    is_key: bool,
}

#[derive(Debug, Default)]
enum Place {
    /// A value has to come.
    #[default]
    Value,
    /// Right behind a container's opening bracket: it may end at once.
    First,
    /// Behind a comma, where a container may end too.
    Next,
    Colon,
    AfterValue,
    String {
        quote: char,
        escape: Escape,
        surrogates: Surrogates,
    },
    Word(String),
}

#[derive(Debug, Default)]
enum Escape {
    #[default]
    None,
    Backslash,
    Digits {
        value: u32,
        left: u8,
    },
}

/// How deep containers may lie in each other.
const DEPTH_MAX: usize = 128;
const WORD_BYTES_MAX: usize = 512;

impl PythonLiteral {
    /// The next character; the JSON that it makes certain is added to `json`. White space before the literal
    /// is left out.
    pub(super) fn push(&mut self, c: char, json: &mut String) -> Reading {
        match &mut self.place {
            Place::String { quote, escape, surrogates } => {
                if push_string_char(c, *quote, escape, surrogates, json) {
                    return self.end_value();
                }
                Reading::Inside
            }
            Place::Word(word) if !c.is_whitespace() && !",:=()[]{}'\"".contains(c) => {
                word.push(c);
                if word.len() > WORD_BYTES_MAX { Reading::Broken } else { Reading::Inside }
            }
            Place::Word(_) => match self.end_word(json) {
                Reading::Complete => Reading::CompleteBefore,
                _ => self.push(c, json),
            },
            _ if c.is_whitespace() => Reading::Inside,
            Place::First | Place::Next | Place::AfterValue if self.open.last() == Some(&c) => {
                self.open.pop();
                json.push(if c == '}' { '}' } else { ']' });
                self.end_value()
            }
            Place::Value | Place::First | Place::Next => self.begin_value(c, json),
            Place::Colon if c == ':' => {
                json.push_str(": ");
                self.place = Place::Value;
                Reading::Inside
            }
            Place::AfterValue if c == ',' => {
                self.place = Place::Next;
                Reading::Inside
            }
            Place::Colon | Place::AfterValue => Reading::Broken,
        }
    }

    fn begin_value(&mut self, c: char, json: &mut String) -> Reading {
        let in_dictionary = self.open.last() == Some(&'}');
        let is_key = in_dictionary && !matches!(self.place, Place::Value);
        let comma = if matches!(self.place, Place::Next) { ", " } else { "" };
        let place = match c {
            '[' | '(' | '{' if is_key || self.open.len() >= DEPTH_MAX => return Reading::Broken,
            '[' | '(' | '{' => Place::First,
            '\'' | '"' => Place::String { quote: c, escape: Escape::None, surrogates: Surrogates::default() },
            c if c.is_alphanumeric() || "_+-.".contains(c) => Place::Word(c.into()),
            _ => return Reading::Broken,
        };
        json.push_str(comma);
        match c {
            '[' => self.open.push(']'),
            '(' => self.open.push(')'),
            '{' => self.open.push('}'),
            _ => {}
        }
        match place {
            Place::First => json.push(if c == '{' { '{' } else { '[' }),
            Place::String { .. } => json.push('"'),
            _ => {}
        }
        self.is_key = is_key;
        self.place = place;
        Reading::Inside
    }

    fn end_value(&mut self) -> Reading {
        if std::mem::take(&mut self.is_key) {
            self.place = Place::Colon;
        } else if self.open.is_empty() {
            return Reading::Complete;
        } else {
            self.place = Place::AfterValue;
        }
        Reading::Inside
    }

    /// The word that is read is whole.
    fn end_word(&mut self, json: &mut String) -> Reading {
        let Place::Word(word) = &self.place else { return Reading::Broken };
        let literal = match word.as_str() {
            _ if self.is_key => None,
            "True" | "true" => Some("true".into()),
            "False" | "false" => Some("false".into()),
            "None" | "null" => Some("null".into()),
            word => number(word),
        };
        match literal {
            Some(literal) => json.push_str(&literal),
            None => {
                json.push('"');
                word.chars().for_each(|c| push_json_char(c, json));
                json.push('"');
            }
        }
        self.end_value()
    }
}

/// A whole text that is one literal.
pub(super) fn python_to_json(text: &str) -> Option<String> {
    let mut literal = PythonLiteral::default();
    let mut json = String::new();
    let mut reading = Reading::Inside;
    for c in text.chars() {
        if reading != Reading::Inside {
            return None;
        }
        reading = literal.push(c, &mut json);
    }
    if matches!(literal.place, Place::Word(_)) {
        reading = literal.end_word(&mut json);
    }
    (reading == Reading::Complete).then_some(json)
}

/// A number as JSON has it.
fn number(word: &str) -> Option<String> {
    if !word.chars().all(|c| c.is_ascii_digit() || "+-._eE".contains(c)) {
        return None;
    }
    let plain = word.replace('_', "");
    let plain = plain.strip_prefix('+').unwrap_or(&plain);
    if serde_json::from_str::<Value>(plain).is_ok_and(|value| value.is_number()) {
        return Some(plain.into());
    }
    let value = plain.parse::<f64>().ok().filter(|value| value.is_finite())?;
    Some(format!("{value:?}"))
}

/// The next character within quotes. True once it was the closing quote, which is added too.
fn push_string_char(
    c: char,
    quote: char,
    escape: &mut Escape,
    surrogates: &mut Surrogates,
    json: &mut String,
) -> bool {
    let mut text = String::new();
    let mut is_end = false;
    match escape {
        Escape::None if c == '\\' => *escape = Escape::Backslash,
        Escape::None => {
            surrogates.end(&mut text);
            is_end = c == quote;
            if !is_end {
                text.push(c);
            }
        }
        Escape::Backslash => {
            let digits = match c {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            *escape = if digits > 0 { Escape::Digits { value: 0, left: digits } } else { Escape::None };
            if digits == 0 {
                surrogates.end(&mut text);
                match c {
                    '\n' => {}
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    't' => text.push('\t'),
                    'b' => text.push('\u{8}'),
                    'f' => text.push('\u{c}'),
                    'a' => text.push('\u{7}'),
                    'v' => text.push('\u{b}'),
                    '0' => text.push('\0'),
                    '\\' | '\'' | '"' => text.push(c),
                    // No escape of Python: as it is written.
                    _ => text.extend(['\\', c]),
                }
            }
        }
        Escape::Digits { value, left } => match c.to_digit(16) {
            Some(digit) => {
                *value = value.wrapping_mul(16).wrapping_add(digit);
                *left -= 1;
                if *left == 0 {
                    surrogates.push(*value, &mut text);
                    *escape = Escape::None;
                }
            }
            None => {
                *escape = Escape::None;
                surrogates.end(json);
                json.push(char::REPLACEMENT_CHARACTER);
                return push_string_char(c, quote, escape, surrogates, json);
            }
        },
    }
    text.chars().for_each(|c| push_json_char(c, json));
    if is_end {
        json.push('"');
    }
    is_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_literals_become_json() {
        for (python, json) in [
            ("True", "true"),
            ("None", "null"),
            ("-1_000", "-1000"),
            ("+.5", "0.5"),
            ("1.", "1.0"),
            ("1e3", "1e3"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("''", "\"\""),
            (r#"'a\'"\n\x41\u00e9\ud83d\ude00\U0001F600\q'"#, r#""a'\"\nAé😀😀\\q""#),
            (r"'\ud83d\u'", "\"\u{fffd}\u{fffd}\""),
            (
                "{'a': [1, (2, \"x\"), {}], 3: {\"b\": False,},}",
                r#"{"a": [1, [2, "x"], {}], "3": {"b": false}}"#,
            ),
            ("[]", "[]"),
            ("north", "\"north\""),
        ] {
            assert_eq!(python_to_json(python).as_deref(), Some(json), "{python}");
            assert!(serde_json::from_str::<Value>(json).is_ok(), "{json}");
        }
        for broken in ["", "1 2", "[1", "{1}", "{1: }", "[,]", "'a", "'a' 'b'", "{[1]: 2}", "[1)", "f(1)"] {
            assert_eq!(python_to_json(broken), None, "{broken}");
        }
        assert_eq!(python_to_json(&"[".repeat(1000)), None);
    }
}
