//! The names that callers, rules and keys may use: one space for models, aliases, named routes and
//! `auto`.

use super::read::{Fields, Reader, in_backticks};
use std::collections::{BTreeMap, BTreeSet};

/// Words that mean something where names stand.
const RESERVED: [(&str, &str); 2] =
    [("auto", "asks for the rules of `routes`"), ("cheapest", "is a choice of rules")];

/// What a name is, once aliases are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Model,
    NamedRoute,
    Auto,
}

/// Which names may stand somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Model,
    /// A model or a named route: what a rule may choose.
    Choice,
    Any,
}

pub struct Names<'n> {
    /// Of models, named routes and `auto`.
    kinds: BTreeMap<&'n str, Kind>,
    /// What each alias stands for in the end; None where that is an error.
    aliases: BTreeMap<&'n str, Option<&'n str>>,
}

impl<'n> Names<'n> {
    /// Reads all names. Names given twice and aliases that lead nowhere or in a circle are errors.
    pub fn collect(root: &Fields<'n>, reader: &mut Reader) -> Self {
        let mut first: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
        let mut kinds = BTreeMap::from([("auto", Kind::Auto)]);
        let mut steps: BTreeMap<&str, (Option<&str>, usize)> = BTreeMap::new();
        for (section, what) in
            [("models", "a model"), ("aliases", "an alias"), ("named_routes", "a named route")]
        {
            for (key, node) in reader.named(root.get(section), &in_backticks(section)) {
                let name = key.text.as_str();
                reader.name(key, &in_backticks(section));
                if let Some((_, meaning)) = RESERVED.iter().find(|(word, _)| *word == name) {
                    reader.error(key.line, format!("`{name}` {meaning}: {what} needs another name"));
                    continue;
                }
                if let Some((other, line)) = first.get(name) {
                    let name = in_backticks(name);
                    reader.error(key.line, format!("{name} is {other} already, on line {line}"));
                    continue;
                }
                if name.matches('*').count() > usize::from(section == "aliases") {
                    let name = in_backticks(name);
                    reader.error(
                        key.line,
                        format!("{name}: only an alias may have a `*`, and one at the most"),
                    );
                }
                first.insert(name, (what, key.line));
                match section {
                    "models" => drop(kinds.insert(name, Kind::Model)),
                    "named_routes" => drop(kinds.insert(name, Kind::NamedRoute)),
                    _ => {
                        let target = reader.text(node, &format!("alias {}", in_backticks(name)));
                        steps.insert(name, (target, key.line));
                    }
                }
            }
        }
        let mut names = Self { kinds, aliases: BTreeMap::new() };
        for name in steps.keys() {
            names.follow(name, &steps, reader);
        }
        names
    }

    /// Finds what an alias stands for, and with it all aliases on the way.
    fn follow(
        &mut self,
        alias: &'n str,
        steps: &BTreeMap<&'n str, (Option<&'n str>, usize)>,
        reader: &mut Reader,
    ) {
        let mut way: Vec<&'n str> = Vec::new();
        let mut on_way = BTreeSet::new();
        let mut name = alias;
        let end = loop {
            if let Some(known) = self.aliases.get(name) {
                break *known;
            }
            let Some((target, line)) = steps.get(name) else {
                if self.kinds.contains_key(name) {
                    break Some(name);
                }
                let line = way.last().and_then(|last| steps.get(last)).map_or(0, |(_, line)| *line);
                let from = in_backticks(way.last().unwrap_or(&alias));
                self.unknown(reader, line, name, &format!("alias {from}"), steps.keys().copied());
                break None;
            };
            if !on_way.insert(name) {
                let start = way.iter().position(|known| *known == name).unwrap_or(0);
                let circle = [&way[start..], &[name]].concat().join(" -> ");
                reader.error(*line, format!("aliases go in a circle: {}", in_backticks(&circle)));
                break None;
            }
            way.push(name);
            match target {
                Some(target) => name = target,
                None => break None,
            }
        };
        self.aliases.extend(way.into_iter().map(|alias| (alias, end)));
    }

    /// What a name stands for, with aliases followed. Anything else than what is wanted is an error.
    pub fn check(
        &self,
        reader: &mut Reader,
        line: usize,
        name: &str,
        what: &str,
        wanted: Wanted,
    ) -> Option<String> {
        let end = match self.aliases.get(name) {
            Some(end) => (*end)?,
            None => name,
        };
        let Some(kind) = self.kinds.get(end) else {
            self.unknown(reader, line, name, what, self.aliases.keys().copied());
            return None;
        };
        let problem = match (wanted, kind) {
            (Wanted::Any, _) | (_, Kind::Model) | (Wanted::Choice, Kind::NamedRoute) => {
                return Some(end.to_owned());
            }
            (Wanted::Model, Kind::NamedRoute) => "is a named route, and only models may stand here",
            (_, Kind::Auto) => "stands for the rules themselves, so nothing that they choose may be it",
        };
        let name = if name == end { in_backticks(name) } else { format!("`{name}` (an alias of `{end}`)") };
        reader.error(line, format!("{what}: {name} {problem}"));
        None
    }

    fn unknown<'a>(
        &self,
        reader: &mut Reader,
        line: usize,
        name: &str,
        what: &str,
        aliases: impl Iterator<Item = &'a str>,
    ) where
        'n: 'a,
    {
        let known: Vec<&str> = self.kinds.keys().copied().chain(aliases).collect();
        let there_are = reader.there_are(name, &known);
        let name = in_backticks(name);
        reader.error(line, format!("{what}: {name} is no model, alias or named route{there_are}"));
    }

    /// Every alias with what it stands for in the end.
    pub fn aliases(&self) -> BTreeMap<String, String> {
        self.aliases.iter().filter_map(|(alias, end)| Some((alias.to_string(), (*end)?.to_owned()))).collect()
    }
}

/// The first circle among names that lead to names, with its first name at both ends.
pub fn circle<'a>(edges: &BTreeMap<&'a str, Vec<&'a str>>) -> Option<Vec<&'a str>> {
    let mut done = BTreeSet::new();
    for start in edges.keys() {
        // The way to where we are, each with how many of its edges have been followed.
        let mut way = vec![(*start, 0)];
        let mut on_way = BTreeSet::from([*start]);
        while let Some((name, followed)) = way.last_mut() {
            let next = edges.get(name).and_then(|targets| targets.get(*followed));
            *followed += 1;
            match next {
                Some(next) if on_way.contains(next) => {
                    let start = way.iter().position(|(name, _)| name == next).unwrap_or(0);
                    return Some(way[start..].iter().map(|(name, _)| *name).chain([*next]).collect());
                }
                Some(next) if !done.contains(next) => {
                    on_way.insert(next);
                    way.push((next, 0));
                }
                Some(_) => {}
                None => {
                    let name = *name;
                    on_way.remove(name);
                    done.insert(name);
                    way.pop();
                }
            }
        }
    }
    None
}
