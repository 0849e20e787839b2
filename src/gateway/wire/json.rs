//! What both dialects' wire formats need: strings that are borrowed from the text they came in,
//! and JSON written straight into text.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor, value::MapAccessDeserializer};
use std::borrow::Cow;
use std::fmt;

/// A string of a message, borrowed unless it had escapes. (A `Option<Cow<str>>` of serde's own
/// always copies.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Text<'_> {
    /// The text, unless it is empty.
    pub fn filled(&self) -> Option<&str> {
        Some(&*self.0).filter(|text| !text.is_empty())
    }
}

/// The text of a field that may be absent, null or empty, which all mean the same.
pub fn filled<'a>(text: &'a Option<Text<'_>>) -> Option<&'a str> {
    text.as_ref().and_then(Text::filled)
}

struct TextVisitor {
    /// Whether an object is taken as its JSON text.
    objects: bool,
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text<'de>, A::Error> {
        if !self.objects {
            return Err(A::Error::custom("a string was expected, got an object"));
        }
        let object = serde_json::Map::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Text(Cow::Owned(serde_json::Value::Object(object).to_string())))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor { objects: false })
    }
}

/// JSON text in a string; some servers send the object itself instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonText<'a>(pub Text<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor { objects: true }).map(JsonText)
    }
}

/// A number that may be absent or null.
pub type Count = Option<u64>;

/// Adds a value as JSON.
pub fn push_json(out: &mut String, value: &(impl serde::Serialize + ?Sized)) {
    out.push_str(&serde_json::to_string(value).expect("wire types have string keys only"));
}

/// The beginning of what an upstream sent, short enough for a message, on one line.
pub fn beginning(bytes: &[u8]) -> String {
    const CHARS_MAX: usize = 160;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(CHARS_MAX * 4)]);
    shorten(text.trim(), CHARS_MAX)
}

/// At most this many characters of a text, with control characters as spaces.
pub fn shorten(text: &str, chars_max: usize) -> String {
    let mut short: String =
        text.chars().take(chars_max).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(chars_max).is_some() {
        short.push_str("...");
    }
    short
}

/// Replaces, in JSON text, each escaped half of a surrogate pair whose other half is not beside it by U+FFFD.
/// JavaScript cuts strings in the middle of a character and escapes what is left (`"\\ud83d"`), which is no text
/// that could be read.
pub fn mend_surrogates(json: &mut [u8]) {
    // The code unit of an escape that begins here.
    let unit = |json: &[u8], at: usize| -> Option<u16> {
        let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += found;
        at += match unit(json, at) {
            Some(0xd800..=0xdbff) if matches!(unit(json, at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                json[at + 2..at + 6].copy_from_slice(b"fffd");
                6
            }
            _ => 2,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_characters_are_replaced() {
        for (json, text) in [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""a\ud83d\ude00b""#, "a\u{1f600}b"),
            (r#""\ude00\uD83D\ude00\uD83D""#, "\u{fffd}\u{1f600}\u{fffd}"),
            (r#""\ud83d\n\ud83dx""#, "\u{fffd}\n\u{fffd}x"),
            // No escape at all: a backslash, and letters.
            (r#""\\ud83d""#, "\\ud83d"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
        ] {
            let mut mended = json.as_bytes().to_vec();
            mend_surrogates(&mut mended);
            assert_eq!(serde_json::from_slice::<String>(&mended).ok().as_deref(), Some(text), "{json}");
        }
        for odd in ["\\", "\\u", "\\ud8", "\\ud83d\\", "\\ud83d\\u", "\\uzzzz", ""] {
            mend_surrogates(&mut odd.as_bytes().to_vec());
        }
    }
}
