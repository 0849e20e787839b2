//! Reads typed values from the tree, and keeps what is wrong with them.

use super::tree::{Key, Node, Value};
use std::ops::RangeInclusive;
use std::path::Path;

/// Of a piece of the file that an error repeats.
const QUOTED_CHARS_MAX: usize = 80;

/// Names that an error lists.
const LISTED_MAX: usize = 24;

/// Errors of one file whose names are looked for among the valid ones: a search takes time, and only
/// the first errors are told.
const SEARCHES_MAX: usize = 200;

/// Of a name of a model, a provider, a key...
const NAME_CHARS_MAX: usize = 128;

/// For whoever writes a key into the file.
const KEY_HINT: &str = ": keys do not stand in this file: name an environment variable with `api_key_env`, or a \
    file with `api_key_file`";

/// What a configuration says about its machine can only be asked there; tests answer by themselves.
pub struct Surroundings<'a> {
    /// Bytes of an environment variable's value; 0 where it is not set.
    pub variable_bytes: &'a dyn Fn(&str) -> usize,
    /// Whether a file or a folder exists.
    pub exists: &'a dyn Fn(&Path) -> bool,
}

impl Surroundings<'static> {
    /// As this process sees them.
    pub fn of_this_process() -> Self {
        Self {
            variable_bytes: &|name| std::env::var_os(name).map_or(0, |value| value.len()),
            exists: &|path| path.exists(),
        }
    }
}

/// A line (0: the file as a whole) and what is to be said of it.
pub type Finding = (usize, String);

/// Collects findings while values are read. Whatever cannot be read is None, and an error is kept.
pub struct Reader<'a> {
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
    /// Paths in the file are relative to it.
    pub folder: &'a Path,
    pub surroundings: &'a Surroundings<'a>,
}

impl Reader<'_> {
    /// Whether an environment variable is set and not empty.
    pub fn variable_is_set(&self, name: &str) -> bool {
        (self.surroundings.variable_bytes)(name) > 0
    }

    pub fn error(&mut self, line: usize, message: impl Into<String>) {
        self.errors.push((line, message.into()));
    }

    pub fn warn(&mut self, line: usize, message: impl Into<String>) {
        self.warnings.push((line, message.into()));
    }

    /// ": did you mean `x`?; there are `x`, `y`" for a name that is none of `valid`.
    pub fn there_are(&self, name: &str, valid: &[&str]) -> String {
        match valid {
            [] => "; there are none".into(),
            _ if self.errors.len() > SEARCHES_MAX => String::new(),
            _ => format!("{}; there are {}", suggested(name, valid.iter().copied()), listed(valid)),
        }
    }

    /// The entries of a mapping whose keys are names; nothing at all is an empty mapping.
    pub fn named<'n>(&mut self, node: Option<&'n Node>, what: &str) -> &'n [(Key, Node)] {
        match node {
            Some(Node { value: Value::Mapping(entries), .. }) => entries,
            Some(node) if !node.is_null() => {
                self.error(
                    node.line,
                    format!("{what} must be a mapping from names, not {}", described(node)),
                );
                &[]
            }
            _ => &[],
        }
    }

    /// The fields of a mapping whose keys are `allowed`. Other keys are errors.
    pub fn fields<'n>(&mut self, node: &'n Node, what: &str, allowed: &[&str]) -> Option<Fields<'n>> {
        let Value::Mapping(entries) = &node.value else {
            let keys = listed(allowed);
            self.error(node.line, format!("{what} must be a mapping with {keys}, not {}", described(node)));
            return None;
        };
        for (key, _) in entries.iter().filter(|(key, _)| !allowed.contains(&key.text.as_str())) {
            let hint = match key.text.as_str() {
                "api_key" => KEY_HINT.into(),
                unknown => suggested(unknown, allowed.iter().copied()),
            };
            self.error(
                key.line,
                format!(
                    "{what}: unknown key {}{hint}; allowed: {}",
                    in_backticks(&key.text),
                    listed(allowed)
                ),
            );
        }
        Some(Fields { line: node.line, entries })
    }

    /// Text that is not empty; numbers and the like are text too.
    pub fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar(text, _) if !text.trim().is_empty() && !node.is_null() => Some(text),
            _ => {
                self.error(node.line, format!("{what} must be text, not {}", described(node)));
                None
            }
        }
    }

    /// A whole number of a range, unquoted.
    pub fn whole(&mut self, node: &Node, what: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match &node.value {
            Value::Scalar(text, true) => text.parse().ok().filter(|number| range.contains(number)),
            _ => None,
        };
        if number.is_none() {
            // A bound that is a type's largest value says nothing to who reads it.
            let bounds = match *range.end() {
                end if end < u64::from(u32::MAX) => format!("from {} to {end}", range.start()),
                _ => format!("of {} or more", range.start()),
            };
            self.error(node.line, format!("{what} must be a whole number {bounds}, not {}", described(node)));
        }
        number
    }

    /// A finite number of a range, unquoted.
    pub fn number(&mut self, node: &Node, what: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let number = match &node.value {
            Value::Scalar(text, true) => text.parse().ok().filter(|number| range.contains(number)),
            _ => None,
        };
        if number.is_none() {
            let bounds = match *range.end() {
                f64::MAX => format!("of {} or more", range.start()),
                end => format!("from {} to {end}", range.start()),
            };
            self.error(node.line, format!("{what} must be a number {bounds}, not {}", described(node)));
        }
        number
    }

    pub fn truth(&mut self, node: &Node, what: &str) -> Option<bool> {
        match &node.value {
            Value::Scalar(text, true) if text == "true" => Some(true),
            Value::Scalar(text, true) if text == "false" => Some(false),
            _ => {
                self.error(node.line, format!("{what} must be true or false, not {}", described(node)));
                None
            }
        }
    }

    /// The items of a list of text, each with its node.
    pub fn texts<'n>(&mut self, node: &'n Node, what: &str) -> Vec<(&'n str, &'n Node)> {
        match &node.value {
            Value::List(items) => items
                .iter()
                .filter_map(|item| Some((self.text(item, &format!("an item of {what}"))?, item)))
                .collect(),
            _ => {
                self.error(node.line, format!("{what} must be a list ([a, b]), not {}", described(node)));
                Vec::new()
            }
        }
    }

    /// The name of an environment variable.
    pub fn variable<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        // Whatever stands there may be a secret in the wrong place: it is not repeated.
        let valid = |text: &str| {
            !text.is_empty()
                && !text.starts_with(|c: char| c.is_ascii_digit())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        match &node.value {
            Value::Scalar(text, _) if valid(text) => Some(text),
            _ => {
                self.error(
                    node.line,
                    format!("{what} must be the name of an environment variable (letters, digits, _), not its value"),
                );
                None
            }
        }
    }

    /// What something may be called.
    pub fn name(&mut self, key: &Key, what: &str) -> bool {
        let text = &key.text;
        let valid = !text.is_empty()
            && text.chars().count() <= NAME_CHARS_MAX
            && !text.chars().any(|c| c.is_whitespace() || c.is_control());
        if !valid {
            self.error(
                key.line,
                format!(
                    "{what}: a name has 1 to {NAME_CHARS_MAX} characters and no spaces, not {}",
                    in_backticks(text)
                ),
            );
        }
        valid
    }
}

/// A mapping's entries by key.
pub struct Fields<'n> {
    pub line: usize,
    entries: &'n [(Key, Node)],
}

impl<'n> Fields<'n> {
    /// A field's key and value, the value nothing perhaps.
    pub fn entry(&self, key: &str) -> Option<&'n (Key, Node)> {
        self.entries.iter().find(|(known, _)| known.text == key)
    }

    /// A field's value; a field without one counts as absent.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|(_, node)| node).filter(|node| !node.is_null())
    }
}

/// A value as an error repeats it.
pub fn described(node: &Node) -> String {
    match &node.value {
        _ if node.is_null() => "nothing".into(),
        Value::Scalar(text, true) => in_backticks(text),
        Value::Scalar(text, false) => format!("the text {}", in_backticks(text)),
        Value::List(_) => "a list".into(),
        Value::Mapping(_) => "a mapping".into(),
    }
}

/// A piece of the file as an error repeats it: short, on one line.
pub fn in_backticks(text: &str) -> String {
    let mut short: String =
        text.chars().take(QUOTED_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        short.push_str("...");
    }
    format!("`{short}`")
}

/// "`a`, `b`, `c`", not endlessly.
pub fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let mut text =
        names.iter().take(LISTED_MAX).map(|name| in_backticks(name.as_ref())).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_MAX {
        text.push_str(&format!(" and {} more", names.len() - LISTED_MAX));
    }
    text
}

/// ": did you mean `x`?" with the nearest of the valid names, if one is near.
pub fn suggested<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> String {
    // Far longer names are no slips of the pen, and distances take the square of the length.
    if name.chars().count() > NAME_CHARS_MAX {
        return String::new();
    }
    let lower = name.to_lowercase();
    let nearest = valid
        .into_iter()
        .map(|valid| (strsim::damerau_levenshtein(&lower, &valid.to_lowercase()), valid))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, valid)) if distance <= (lower.chars().count() / 3).max(1) => {
            format!(": did you mean `{valid}`?")
        }
        _ => String::new(),
    }
}
