//! `routes`, `named_routes` and `fallbacks`.

use super::names::{Names, Wanted, circle};
use super::read::{Fields, Reader, in_backticks, listed};
use super::rule::{Choice, Expression, Rule};
use super::tree::{Key, Node, Value};
use std::collections::BTreeMap;

const RULE_KEYS: [&str; 8] = ["match", "if", "model", "use", "cheapest", "split", "default", "fallback"];
const CHOICE_KEYS: [&str; 4] = ["model", "use", "cheapest", "split"];

/// Of one arm of a split.
const WEIGHT_MAX: u64 = 1_000_000;

/// Of all reading here: where to say what is wrong, and which names there are.
pub struct Routes<'r, 's, 'n> {
    pub reader: &'r mut Reader<'s>,
    pub names: &'r Names<'n>,
}

impl Routes<'_, '_, '_> {
    /// `routes` or `route`.
    pub fn rules(&mut self, root: &Fields) -> Vec<Rule> {
        let node = match (root.entry("routes"), root.entry("route")) {
            (Some((first, _)), Some((second, _))) => {
                let line = first.line.max(second.line);
                self.reader.error(line, "`routes` and `route` are the same: give one of them");
                return Vec::new();
            }
            (Some((_, node)), None) | (None, Some((_, node))) if !node.is_null() => node,
            _ => return Vec::new(),
        };
        let Value::List(items) = &node.value else {
            self.reader.error(node.line, "`routes` must be a list of rules (lines that begin with `-`)");
            return Vec::new();
        };
        let mut default_line = None;
        let mut rules = Vec::new();
        for item in items {
            if let Some(line) = default_line {
                self.reader.error(
                    item.line,
                    format!("this rule is never reached: the default on line {line} takes every request"),
                );
            }
            if let Some(fields) = self.reader.fields(item, "a rule", &RULE_KEYS) {
                if fields.entry("default").is_some() && default_line.is_none() {
                    default_line = Some(item.line);
                }
                rules.extend(self.rule(&fields));
            }
        }
        rules
    }

    fn rule(&mut self, fields: &Fields) -> Option<Rule> {
        let fallback = fields.get("fallback").map(|node| self.some_names(node, "`fallback`", Wanted::Choice));
        let fallback = fallback.unwrap_or_default();
        if let Some((key, node)) = fields.entry("default") {
            let others: Vec<&str> =
                RULE_KEYS[..6].iter().copied().filter(|key| fields.entry(key).is_some()).collect();
            if !others.is_empty() {
                self.reader.error(
                    key.line,
                    format!(
                        "`default` is a rule of its own, without a condition; {} cannot stand beside it",
                        listed(&others)
                    ),
                );
            }
            let choice = self.choice(node, "`default`")?;
            return Some(Rule { condition: None, choice, fallback, line: fields.line });
        }
        let condition = self.condition(fields);
        let choice = self.one_choice(fields, "a rule");
        Some(Rule { condition: Some(condition?), choice: choice?, fallback, line: fields.line })
    }

    fn condition(&mut self, fields: &Fields) -> Option<Expression> {
        let (key, node) = match (fields.entry("match"), fields.entry("if")) {
            (Some(_), Some((key, _))) => {
                self.reader.error(key.line, "`match` and `if` are the same: give one of them");
                return None;
            }
            (Some(entry), None) | (None, Some(entry)) => entry,
            (None, None) => {
                self.reader.error(fields.line, "a rule needs a condition: `match` (or `if`), or `default`");
                return None;
            }
        };
        let text = self.reader.text(node, &in_backticks(&key.text))?;
        Expression::compile(text)
            .map_err(|message| {
                self.reader.error(
                    node.line,
                    format!("{}: {message}", in_backticks(&format!("{}: {text}", key.text))),
                );
            })
            .ok()
    }

    /// Exactly one of the keys that choose.
    fn one_choice(&mut self, fields: &Fields, what: &str) -> Option<Choice> {
        let given: Vec<&(Key, Node)> = CHOICE_KEYS.iter().filter_map(|key| fields.entry(key)).collect();
        let [(key, node)] = given[..] else {
            let number = if given.is_empty() { "none" } else { "several" };
            let keys = listed(&CHOICE_KEYS);
            self.reader
                .error(fields.line, format!("{what} needs exactly one of {keys}; it has {number} of them"));
            return None;
        };
        match key.text.as_str() {
            "cheapest" => self.cheapest(node),
            "split" => self.split(node),
            key => {
                let what = in_backticks(key);
                let name = self.reader.text(node, &what)?;
                self.names.check(self.reader, node.line, name, &what, Wanted::Choice).map(Choice::Model)
            }
        }
    }

    /// A choice where no key says which kind: a name, `cheapest`, a list or a mapping.
    fn choice(&mut self, node: &Node, what: &str) -> Option<Choice> {
        match &node.value {
            Value::Scalar(text, _) if text == "cheapest" => Some(Choice::Cheapest(Vec::new())),
            Value::Scalar(..) => {
                let name = self.reader.text(node, what)?;
                self.names.check(self.reader, node.line, name, what, Wanted::Choice).map(Choice::Model)
            }
            Value::List(_) => Some(Choice::Chain(self.some_names(node, what, Wanted::Choice))),
            Value::Mapping(_) => {
                let fields = self.reader.fields(node, what, &CHOICE_KEYS)?;
                self.one_choice(&fields, what)
            }
        }
    }

    fn cheapest(&mut self, node: &Node) -> Option<Choice> {
        match &node.value {
            Value::Scalar(text, _) if text == "all" => Some(Choice::Cheapest(Vec::new())),
            Value::List(_) => {
                Some(Choice::Cheapest(self.some_names(node, "`cheapest`", Wanted::Model))).filter(|choice| {
                    // An empty list would mean all of them.
                    *choice != Choice::Cheapest(Vec::new())
                })
            }
            _ => {
                self.reader.error(node.line, "`cheapest` must be a list of models, or `all`");
                None
            }
        }
    }

    fn split(&mut self, node: &Node) -> Option<Choice> {
        let mut arms: Vec<(String, u32)> = Vec::new();
        for (key, weight) in self.reader.named(Some(node), "`split`") {
            let name = self.names.check(self.reader, key.line, &key.text, "`split`", Wanted::Choice);
            let what = format!("the weight of {}", in_backticks(&key.text));
            let weight = self.reader.whole(weight, &what, 1..=WEIGHT_MAX);
            let (Some(name), Some(weight)) = (name, weight) else { continue };
            if arms.iter().any(|(known, _)| *known == name) {
                self.reader.error(key.line, format!("`split`: `{name}` is named twice, once by an alias"));
            }
            arms.push((name, u32::try_from(weight).unwrap_or(u32::MAX)));
        }
        if matches!(&node.value, Value::Mapping(entries) if entries.is_empty()) || node.is_null() {
            self.reader.error(node.line, "`split` must name at least one model, with its weight");
        }
        Some(Choice::Split(arms)).filter(|choice| *choice != Choice::Split(Vec::new()))
    }

    /// A name, or a list of different names.
    fn some_names(&mut self, node: &Node, what: &str, wanted: Wanted) -> Vec<String> {
        let given = match &node.value {
            Value::Scalar(..) => self.reader.text(node, what).map(|name| (name, node)).into_iter().collect(),
            _ => self.reader.texts(node, what),
        };
        if matches!(&node.value, Value::List(items) if items.is_empty()) {
            self.reader.error(node.line, format!("{what} is an empty list: name something, or leave it out"));
        }
        let mut names: Vec<String> = Vec::new();
        for (name, node) in given {
            let Some(end) = self.names.check(self.reader, node.line, name, what, wanted) else { continue };
            if names.contains(&end) {
                self.reader.error(node.line, format!("{what}: {} is named twice", in_backticks(&end)));
            } else {
                names.push(end);
            }
        }
        names
    }

    /// `named_routes`.
    pub fn named_routes(&mut self, root: &Fields) -> BTreeMap<String, Choice> {
        let entries = self.reader.named(root.get("named_routes"), "`named_routes`");
        let mut named = BTreeMap::new();
        for (key, node) in entries {
            let what = format!("named route {}", in_backticks(&key.text));
            if let Some(choice) = self.choice(node, &what) {
                named.insert(key.text.clone(), choice);
            }
        }
        let edges = named.iter().map(|(name, choice)| (name.as_str(), chosen_names(choice))).collect();
        if let Some(circle) = circle(&edges) {
            let line = entries.iter().find(|(key, _)| key.text == circle[0]).map_or(0, |(key, _)| key.line);
            let circle = in_backticks(&circle.join(" -> "));
            self.reader.error(line, format!("named routes go in a circle: {circle}"));
        }
        named
    }

    /// `fallbacks`.
    pub fn fallbacks(&mut self, root: &Fields) -> BTreeMap<String, Vec<String>> {
        let mut fallbacks = BTreeMap::new();
        for (key, node) in self.reader.named(root.get("fallbacks"), "`fallbacks`") {
            let model = self.names.check(self.reader, key.line, &key.text, "`fallbacks`", Wanted::Model);
            let what = format!("the fallbacks of {}", in_backticks(&key.text));
            let names = self.some_names(node, &what, Wanted::Model);
            let Some(model) = model else { continue };
            if names.contains(&model) {
                self.reader.error(node.line, format!("{what}: a model cannot fall back to itself"));
            }
            if fallbacks.insert(model, names).is_some() {
                self.reader.error(key.line, format!("{what} are given twice, once by an alias"));
            }
        }
        fallbacks
    }
}

fn chosen_names(choice: &Choice) -> Vec<&str> {
    match choice {
        Choice::Model(name) => vec![name],
        Choice::Chain(names) | Choice::Cheapest(names) => names.iter().map(String::as_str).collect(),
        Choice::Split(arms) => arms.iter().map(|(name, _)| name.as_str()).collect(),
    }
}
