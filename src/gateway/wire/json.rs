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
