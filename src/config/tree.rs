//! YAML as a tree that knows its lines. Scalars stay text: what they mean is for whoever reads
//! them, so a model may be called `1.5` or `on`.
//!
//! Deliberately absent: tags and merge keys (`<<`). Anchors and aliases are there.

use super::read::{Reader, in_backticks};
use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, StrInput};
use std::collections::HashMap;

/// A file of more bytes is refused.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// With aliases expanded.
const NODES_MAX: usize = 200_000;

/// Mappings in lists in mappings.
const DEPTH_MAX: usize = 32;

/// A value and where it begins.
#[derive(Clone, Debug)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// Text, and whether it stands there without quotes.
    Scalar(String, bool),
    List(Vec<Node>),
    /// In the file's order, each key once.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub line: usize,
    pub text: String,
}

impl Node {
    /// Nothing, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(text, true) if ["", "~", "null"].contains(&text.as_str()))
    }

    /// As JSON, by the core schema of YAML 1.2.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            _ if self.is_null() => serde_json::Value::Null,
            Value::Scalar(text, true) => match text.as_str() {
                "true" => true.into(),
                "false" => false.into(),
                _ => match (text.parse::<i64>(), text.parse::<f64>()) {
                    (Ok(whole), _) => whole.into(),
                    (_, Ok(number)) if number.is_finite() => number.into(),
                    _ => text.as_str().into(),
                },
            },
            Value::Scalar(text, false) => text.as_str().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Mapping(entries) => {
                entries.iter().map(|(key, node)| (key.text.clone(), node.to_json())).collect()
            }
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(..) => 0,
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Mapping(entries) => entries.iter().map(|(_, node)| node.count()).sum(),
        }
    }
}

/// What cannot be read on from: a line and what is wrong there.
type Fatal = (usize, String);

/// The file's one document; None when it is no YAML, which `reader` then knows. Duplicate keys and
/// the like are errors for `reader` too, but the rest is read.
pub fn parse(text: &str, reader: &mut Reader) -> Option<Node> {
    if text.len() > FILE_BYTES_MAX {
        reader.error(0, format!("is larger than {FILE_BYTES_MAX} bytes"));
        return None;
    }
    let mut options = Options::default();
    options.emit_comments = false;
    let events = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { events, anchors: HashMap::new(), nodes: 0, reader };
    match builder.document() {
        Ok(root) => Some(root),
        Err((line, message)) => {
            reader.error(line, message);
            None
        }
    }
}

struct Builder<'t, 'r, 's> {
    events: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    reader: &'r mut Reader<'s>,
}

impl<'t> Builder<'t, '_, '_> {
    fn document(&mut self) -> Result<Node, Fatal> {
        let mut root = None;
        while let Some((event, line)) = self.next()? {
            match event {
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err((line, "a second document begins here: a file is one document".into()));
                }
                Event::DocumentStart(..) => {}
                event => root = Some(self.node(event, line, 0)?),
            }
        }
        Ok(root.unwrap_or(Node { line: 1, value: Value::Scalar(String::new(), true) }))
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, usize)>, Fatal> {
        match self.events.next() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, span.start.line()))),
            Some(Err(error)) => Err((error.marker().line(), format!("is no YAML: {}", error.info()))),
        }
    }

    /// Within a list or a mapping there is always a next event.
    fn next_inside(&mut self, line: usize) -> Result<(Event<'t>, usize), Fatal> {
        self.next()?.ok_or_else(|| (line, "is no YAML: the file ends too early".into()))
    }

    fn node(&mut self, event: Event<'t>, line: usize, depth: usize) -> Result<Node, Fatal> {
        self.nodes += 1;
        if depth > DEPTH_MAX {
            return Err((line, format!("is nested deeper than {DEPTH_MAX} levels")));
        }
        if event.tag().is_some() {
            self.reader.error(line, "tags (`!name`) mean nothing here: remove it, and quote what is text");
        }
        let anchor = event.anchor_id();
        let value = match event {
            Event::Scalar(text, style, ..) => Value::Scalar(text.into_owned(), style == ScalarStyle::Plain),
            Event::SequenceStart(..) => self.list(line, depth)?,
            Event::MappingStart(..) => self.mapping(line, depth)?,
            Event::Alias(id) => self.anchored(id, line)?,
            other => return Err((line, format!("is no YAML: {other:?} was not expected"))),
        };
        if self.nodes > NODES_MAX {
            return Err((line, format!("holds more than {NODES_MAX} values, aliases (`*name`) included")));
        }
        let node = Node { line, value };
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn anchored(&mut self, id: usize, line: usize) -> Result<Value, Fatal> {
        let node = self
            .anchors
            .get(&id)
            .ok_or((line, "this alias (`*name`) stands inside its own anchor".into()))?;
        // Counted before it is copied, so that aliases of aliases cannot fill the memory.
        self.nodes += node.count();
        match self.nodes > NODES_MAX {
            true => Err((line, format!("holds more than {NODES_MAX} values, aliases (`*name`) included"))),
            false => Ok(node.value.clone()),
        }
    }

    fn list(&mut self, line: usize, depth: usize) -> Result<Value, Fatal> {
        let mut items = Vec::new();
        loop {
            match self.next_inside(line)? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, line) => items.push(self.node(event, line, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, line: usize, depth: usize) -> Result<Value, Fatal> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, line) = match self.next_inside(line)? {
                (Event::MappingEnd, _) => return Ok(Value::Mapping(entries)),
                next => next,
            };
            let key = self.node(event, line, depth + 1)?;
            let (event, value_line) = self.next_inside(line)?;
            let value = self.node(event, value_line, depth + 1)?;
            let Value::Scalar(text, _) = key.value else {
                self.reader.error(line, "a key must be plain text, not a list or a mapping");
                continue;
            };
            match lines.get(&text) {
                Some(first) => self.reader.error(
                    line,
                    format!("{} is given twice in this mapping: first on line {first}", in_backticks(&text)),
                ),
                None => {
                    lines.insert(text.clone(), line);
                    entries.push((Key { line, text }, value));
                }
            }
        }
    }
}
