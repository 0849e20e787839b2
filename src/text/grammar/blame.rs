//! What in a schema llguidance could not compile: its errors say why, and seldom where. So the parts of the schema are
//! tried by themselves, from the outside in, and then the innermost one that fails without each of its keywords.

use super::{GrammarError, schema, tools};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Parts that are tried.
const TRIES_MAX: usize = 200;
const TIME_MAX: Duration = Duration::from_secs(1);

/// The error of a schema, with the place and the keyword where they are found. `compile` tries a checked schema.
pub(super) fn blame(
    root: &Value,
    error: GrammarError,
    compile: impl Fn(Value) -> Result<(), GrammarError>,
) -> GrammarError {
    let GrammarError::Invalid(_) = error else { return error };
    let mut search = Search { root, compile, tries: 0, begun: Instant::now() };
    let (mut at, mut part, mut found) = ("#".to_owned(), root, error);
    while let Some((path, inner, error)) = search.failing_child(part) {
        (at, part, found) = (at + &path, inner, error);
    }
    match search.failing_keyword(part) {
        Some(keyword) => GrammarError::Schema { at, keyword, reason: format!("cannot be held: {found}") },
        None => GrammarError::Invalid(format!("{at}: {found}")),
    }
}

struct Search<'s, F> {
    root: &'s Value,
    compile: F,
    tries: usize,
    begun: Instant,
}

impl<'s, F: Fn(Value) -> Result<(), GrammarError>> Search<'s, F> {
    fn is_over(&self) -> bool {
        self.tries > TRIES_MAX || self.begun.elapsed() > TIME_MAX
    }

    /// Why a part cannot be compiled, if it cannot; None too where the search is over.
    fn failure(&mut self, part: &Value) -> Option<GrammarError> {
        self.tries += 1;
        if self.is_over() {
            return None;
        }
        // A part that refers to the whole is none by itself.
        let checked = schema::checked(&tools::with_definitions(part, self.root)).ok()?;
        (self.compile)(checked).err().filter(|error| matches!(error, GrammarError::Invalid(_)))
    }

    fn failing_child(&mut self, part: &'s Value) -> Option<(String, &'s Value, GrammarError)> {
        let mut children: Vec<(String, &'s Value)> = Vec::new();
        for (keyword, value) in part.as_object()? {
            match (keyword.as_str(), value) {
                ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(schemas)) => {
                    let named = schemas.iter();
                    children.extend(named.map(|(name, schema)| (format!("/{keyword}/{name}"), schema)));
                }
                ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                    let numbered = schemas.iter().enumerate();
                    children.extend(numbered.map(|(at, schema)| (format!("/{keyword}/{at}"), schema)));
                }
                ("items" | "additionalItems" | "additionalProperties", Value::Object(_)) => {
                    children.push((format!("/{keyword}"), value));
                }
                _ => {}
            }
        }
        children.into_iter().find_map(|(path, child)| Some((path, child, self.failure(child)?)))
    }

    /// A keyword without which the part can be compiled.
    fn failing_keyword(&mut self, part: &Value) -> Option<String> {
        let map = part.as_object()?;
        (self.tries, self.begun) = (0, Instant::now());
        // Without its type a part can be anything: that is blamed last.
        let known = map.keys().filter(|keyword| schema::KEYWORDS.contains(&keyword.as_str()));
        let (types, others): (Vec<&String>, Vec<&String>) = known.partition(|keyword| *keyword == "type");
        let mut keywords = others.into_iter().chain(types);
        let is_blamed = |keyword: &&String| {
            let mut without = map.clone();
            without.shift_remove(keyword.as_str());
            self.failure(&Value::Object(without)).is_none() && !self.is_over()
        };
        keywords.find(is_blamed).cloned()
    }
}
