//! Reads fields of a JSON object one by one, so that every complaint names the JSON path of what
//! is wrong, what is allowed and what was found. null counts as absent.

use serde_json::{Map, Value};

/// A field that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{param}` {reason}")]
pub struct BadField {
    /// JSON path: `messages[2].content`.
    pub param: String,
    /// A predicate: "must be a string, got 3".
    pub reason: String,
    /// For programs.
    pub code: Option<&'static str>,
}

impl BadField {
    /// The value is wrong.
    pub fn new(param: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { param: param.into(), reason: reason.into(), code: Some("invalid_value") }
    }

    /// The field or value would change the output and cannot be honoured.
    pub fn unsupported(param: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::new(param, reason) }
    }

    /// A field that must be there is not; `what` says what it would be.
    pub fn missing(param: impl Into<String>, what: &str) -> Self {
        Self { code: Some("missing_required_parameter"), ..Self::new(param, format!("is required: {what}")) }
    }

    pub(in crate::gateway) fn wrong_type(param: String, what: &str, got: &Value) -> Self {
        Self {
            code: Some("invalid_type"),
            ..Self::new(param, format!("must be {what}, got {}", describe(got)))
        }
    }
}

/// A value as an error message may repeat it: short, and only numbers and booleans literally.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// An object of the request and the path that leads to it.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// The request's body itself.
    pub fn root(body: &'a Value) -> Result<Self, BadField> {
        match body {
            Value::Object(map) => Ok(Self { map, path: String::new() }),
            other => Err(BadField::wrong_type("body".into(), "a JSON object", other)),
        }
    }

    /// An object found at `path`.
    pub fn object_at(path: String, value: &'a Value) -> Result<Self, BadField> {
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other => Err(BadField::wrong_type(path, "an object", other)),
        }
    }

    /// The JSON path of one of this object's fields.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The map itself.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The field, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Refuses the field where it asks for something: an empty list or string does not.
    pub fn refuse(&self, name: &str, reason: &str) -> Result<(), BadField> {
        match self.get(name) {
            None => Ok(()),
            Some(Value::Array(items)) if items.is_empty() => Ok(()),
            Some(Value::String(text)) if text.is_empty() => Ok(()),
            Some(_) => Err(BadField::unsupported(self.path(name), reason)),
        }
    }

    /// true or false.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, BadField> {
        self.read(name, "true or false", Value::as_bool)
    }

    /// true or false, with a default.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, BadField> {
        Ok(self.bool(name)?.unwrap_or(default))
    }

    /// A string.
    pub fn str(&self, name: &str) -> Result<Option<&'a str>, BadField> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(BadField::wrong_type(self.path(name), "a string", other)),
        }
    }

    /// A string that must be there; `what` says what it is.
    pub fn required_str(&self, name: &str, what: &str) -> Result<&'a str, BadField> {
        self.str(name)?.ok_or_else(|| BadField::missing(self.path(name), what))
    }

    /// A field that must be there, of any type; `what` says what it is.
    pub fn required(&self, name: &str, what: &str) -> Result<&'a Value, BadField> {
        self.get(name).ok_or_else(|| BadField::missing(self.path(name), what))
    }

    /// An array.
    pub fn array(&self, name: &str) -> Result<Option<&'a [Value]>, BadField> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(BadField::wrong_type(self.path(name), "an array", other)),
        }
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, BadField> {
        self.get(name).map(|value| Fields::object_at(self.path(name), value)).transpose()
    }

    /// An integer from `low` to `high`.
    pub fn integer(&self, name: &str, low: i64, high: i64) -> Result<Option<i64>, BadField> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_i64() {
            Some(v) if (low..=high).contains(&v) => Ok(Some(v)),
            _ if is_integer(value) => Err(BadField::new(
                self.path(name),
                // Limits that are only those of this machine's numbers say nothing to a caller.
                match (is_below(value, low), high >= i64::from(i32::MAX)) {
                    (true, true) => format!("must be at least {low}, got {value}"),
                    (false, true) => format!("is too large: {value}"),
                    (_, false) => format!("must be between {low} and {high}, got {value}"),
                },
            )),
            _ => Err(BadField::wrong_type(self.path(name), "an integer", value)),
        }
    }

    /// An integer of 64 bits, with or without a sign, by its bits.
    pub fn bits(&self, name: &str) -> Result<Option<u64>, BadField> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64().or_else(|| value.as_i64().map(|signed| signed as u64)) {
            Some(bits) => Ok(Some(bits)),
            None if is_integer(value) => {
                Err(BadField::new(self.path(name), format!("must be an integer of 64 bits, got {value}")))
            }
            None => Err(BadField::wrong_type(self.path(name), "an integer", value)),
        }
    }

    /// An integer from `low` to `u32::MAX`.
    pub fn u32(&self, name: &str, low: u32) -> Result<Option<u32>, BadField> {
        let value = self.integer(name, i64::from(low), i64::from(u32::MAX))?;
        Ok(value.map(|v| v as u32))
    }

    /// A number; its range is checked by whoever knows it.
    pub fn f32(&self, name: &str) -> Result<Option<f32>, BadField> {
        self.read(name, "a number", |value| value.as_f64().map(|v| v as f32))
    }

    /// A number.
    pub fn f64(&self, name: &str) -> Result<Option<f64>, BadField> {
        self.read(name, "a number", Value::as_f64)
    }

    fn read<T>(&self, name: &str, what: &str, as_t: fn(&Value) -> Option<T>) -> Result<Option<T>, BadField> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match as_t(value) {
                Some(t) => Ok(Some(t)),
                None => Err(BadField::wrong_type(self.path(name), what, value)),
            },
        }
    }
}

/// Whether an integer is below `low`, however long it is.
fn is_below(value: &Value, low: i64) -> bool {
    value.as_i64().map_or_else(|| value.to_string().starts_with('-'), |value| value < low)
}

/// Whether a number is written without a fraction and exponent, however long.
fn is_integer(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.to_string().contains(['.', 'e', 'E']),
        _ => false,
    }
}

/// A list of token ids, each below `vocab`.
pub fn token_ids(path: &str, items: &[Value], vocab: usize) -> Result<Vec<u32>, BadField> {
    let id = |(i, item): (usize, &Value)| match item.as_u64() {
        Some(id) if id < vocab as u64 => Ok(id as u32),
        Some(id) => Err(BadField::new(
            format!("{path}[{i}]"),
            format!("must be a token id below {vocab} (the vocabulary's size), got {id}"),
        )),
        None => {
            Err(BadField::wrong_type(format!("{path}[{i}]"), "a token id (an integer of at least 0)", item))
        }
    };
    items.iter().enumerate().map(id).collect()
}
