//! Reading config.json: typed fields, each error with the field's path and what is allowed, and a
//! record of what was read, so that a field which nothing has looked at can be refused (see
//! `config/unread.rs`).

use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A field of config.json that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config.json: {field}: {reason}")]
pub struct ConfigError {
    /// Its path.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// Bounds that no published checkpoint comes near; they keep arithmetic on sizes from overflowing.
const SIZE_MAX: usize = 1 << 24;

/// Typed access to a JSON object, with the field's path in every error. null is absent.
pub struct Fields<'a> {
    path: String,
    object: &'a Value,
    /// Paths of the fields that were asked for, in the whole file.
    read: Rc<RefCell<BTreeSet<String>>>,
}

impl<'a> Fields<'a> {
    /// The file's outermost object.
    pub(crate) fn root(object: &'a Value) -> Self {
        Self { path: String::new(), object, read: Rc::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.object.as_object().is_none_or(serde_json::Map::is_empty)
    }

    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(self.path_of(field));
        self.object.get(field).filter(|value| !value.is_null())
    }

    /// Whether the field is there, be it null.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.object.get(field).is_some()
    }

    /// Takes note that these fields say nothing here: they are neither used nor refused.
    pub(crate) fn ignore(&self, fields: &[&str]) {
        for field in fields {
            self.get(field);
        }
    }

    /// Takes note that nothing in this object is used, because another one wins over it.
    pub(crate) fn ignore_all(&self) {
        for (path, _) in self.unread() {
            self.read.borrow_mut().insert(path);
        }
    }

    /// The fields, those of objects inside included, that nothing has asked for: path and value.
    pub(crate) fn unread(&self) -> Vec<(String, &'a Value)> {
        let mut unread = Vec::new();
        for (field, value) in self.object.as_object().into_iter().flatten() {
            let path = self.path_of(field);
            match value {
                Value::Object(_) => {
                    unread.extend(Fields { path, object: value, read: self.read.clone() }.unread());
                }
                _ if self.read.borrow().contains(&path) => {}
                _ => unread.push((path, value)),
            }
        }
        unread
    }

    fn path_of(&self, field: &str) -> String {
        let dot = if self.path.is_empty() { "" } else { "." };
        format!("{}{dot}{field}", self.path)
    }

    pub(crate) fn error(&self, field: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::new(self.path_of(field), reason)
    }

    pub(crate) fn object(&self, field: &str) -> Result<Option<Fields<'a>>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(object) if object.is_object() => {
                Ok(Some(Fields { path: self.path_of(field), object, read: self.read.clone() }))
            }
            Some(other) => Err(self.error(field, format!("must be an object, got {other}"))),
        }
    }

    /// A list of numbers greater than 0.
    pub(crate) fn positive_list(&self, field: &str) -> Result<Option<Vec<f32>>, ConfigError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = |value: &Value| value.as_f64().map(|n| n as f32).filter(|n| n.is_finite() && *n > 0.0);
        let list = value.as_array().and_then(|list| list.iter().map(number).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.error(field, "must be a list of numbers greater than 0"))
    }

    pub(crate) fn string(&self, field: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.error(field, format!("must be a string, got {other}"))),
        }
    }

    pub(crate) fn flag(&self, field: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.error(field, format!("must be true or false, got {other}"))),
        }
    }

    pub(crate) fn number(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() => Ok(Some(number)),
                _ => Err(self.error(field, format!("must be a number, got {value}"))),
            },
        }
    }

    pub(crate) fn positive(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        match self.number(field)? {
            Some(number) if number <= 0.0 => {
                Err(self.error(field, format!("must be greater than 0, got {number}")))
            }
            number => Ok(number),
        }
    }

    pub(crate) fn positive_or(&self, field: &str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.positive(field)?.unwrap_or(default))
    }

    pub(crate) fn size_if_given(&self, field: &str) -> Result<Option<usize>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => {
                match value.as_u64() {
                    Some(size) if size >= 1 && size <= SIZE_MAX as u64 => Ok(Some(size as usize)),
                    _ => Err(self
                        .error(field, format!("must be a whole number from 1 to {SIZE_MAX}, got {value}"))),
                }
            }
        }
    }

    /// Like a size, and 0 is allowed.
    pub(crate) fn count(&self, field: &str) -> Result<Option<usize>, ConfigError> {
        match self.get(field) {
            Some(value) if value.as_u64() == Some(0) => Ok(Some(0)),
            _ => self.size_if_given(field),
        }
    }

    pub(crate) fn size(&self, field: &str) -> Result<usize, ConfigError> {
        self.size_if_given(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    pub(crate) fn size_or(&self, field: &str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.size_if_given(field)?.unwrap_or(default))
    }
}
