//! `drop`, `rename` and `set` of an upstream's model: what becomes of fields of the body that it is sent, last of
//! all. Providers differ by model, not only by format: one refuses `temperature`, another wants `service_tier`.
//!
//! Deliberately absent: fields within fields, those that the gateway itself needs ([`OWN`]), and those by which it
//! holds budgets ([`BOUNDS`]).

use super::read::{Fields, Reader, in_backticks};
use serde_json::{Map, Value};

/// What the gateway itself writes and reads.
const OWN: [&str; 4] = ["model", "messages", "stream", "stream_options"];
/// What says how much a request may use: budgets are held by what callers ask for.
const BOUNDS: [&str; 5] = ["max_tokens", "max_completion_tokens", "n", "best_of", "prompt"];

/// What becomes of a body's fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BodyRules {
    drop: Vec<String>,
    rename: Vec<(String, String)>,
    set: Vec<(String, Value)>,
}

impl BodyRules {
    /// What they do, in words; empty where they do nothing.
    pub fn in_words(&self) -> String {
        let dropped = self.drop.iter().map(|name| format!(", without `{name}`"));
        let renamed = self.rename.iter().map(|(from, to)| format!(", `{from}` as `{to}`"));
        let set = self.set.iter().map(|(name, value)| format!(", `{name}` set to {value}"));
        dropped.chain(renamed).chain(set).collect()
    }

    /// Drops, then renames, then sets.
    pub fn apply(&self, body: &mut Map<String, Value>) {
        for name in &self.drop {
            body.shift_remove(name);
        }
        for (from, to) in &self.rename {
            if let Some(value) = body.shift_remove(from) {
                body.insert(to.clone(), value);
            }
        }
        for (name, value) in &self.set {
            body.insert(name.clone(), value.clone());
        }
    }
}

pub fn body_rules(reader: &mut Reader, fields: &Fields, what: &str) -> BodyRules {
    let mut rules = BodyRules::default();
    if let Some(node) = fields.get("drop") {
        for (name, node) in reader.texts(node, &format!("`drop` of {what}")) {
            if may_change(reader, node.line, name, &format!("`drop` of {what}")) {
                rules.drop.push(name.to_owned());
            }
        }
    }
    let named = format!("`rename` of {what}");
    for (key, node) in reader.named(fields.get("rename"), &named) {
        let Some(to) = reader.text(node, &named) else { continue };
        if [key.text.as_str(), to].iter().all(|name| may_change(reader, key.line, name, &named)) {
            rules.rename.push((key.text.clone(), to.to_owned()));
        }
    }
    let named = format!("`set` of {what}");
    for (key, node) in reader.named(fields.get("set"), &named) {
        if may_change(reader, key.line, &key.text, &named) {
            rules.set.push((key.text.clone(), node.to_json()));
        }
    }
    rules
}

fn may_change(reader: &mut Reader, line: usize, name: &str, what: &str) -> bool {
    let reason = match () {
        () if OWN.contains(&name) => "is the gateway's own",
        () if BOUNDS.contains(&name) => "says how much a request may use, by which budgets are held",
        () => return true,
    };
    reader.error(line, format!("{what}: {} {reason}", in_backticks(name)));
    false
}
