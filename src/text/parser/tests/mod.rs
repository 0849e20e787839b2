//! Raw outputs of models as their families write them, with the events that they mean, and what holds for
//! every one of them however it is cut into pieces.

mod format;
mod harmony;
mod hermes;
mod llama;
mod marked;
mod mistral;
mod oracles;
mod properties;
mod pythonic;
mod tagged;
mod think;

use super::*;
use serde_json::json;

/// A raw output. Events are written as `text:...`, `think:...`, `call:NAME` or `call:NAME#ID`, `args:...`
/// and `end`.
struct Case {
    name: &'static str,
    /// The prompt ended inside the reasoning block.
    is_open: bool,
    raw: &'static str,
    events: &'static [&'static str],
}

/// A family's cases.
type Cases = (AnswerFormat, &'static [Case]);

const fn case(name: &'static str, raw: &'static str, events: &'static [&'static str]) -> Case {
    Case { name, is_open: false, raw, events }
}

const fn open_case(name: &'static str, raw: &'static str, events: &'static [&'static str]) -> Case {
    Case { name, is_open: true, raw, events }
}

/// The tools that every case offers.
fn tools() -> Arc<[Tool]> {
    let tool = |name: &str, properties: Value| Tool {
        name: name.into(),
        parameters: json!({
            "type": "object",
            "properties": properties,
            "$defs": {"Options": {"type": "object"}},
        }),
    };
    Arc::new([
        tool("get_weather", json!({"city": {"type": "string"}, "days": {"type": "integer"}})),
        tool("now", json!({})),
        tool(
            "write_file",
            json!({
                "path": {"type": "string"},
                "content": {"type": "string"},
                "mode": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "lines": {"type": "array", "items": {"type": "integer"}},
                "options": {"$ref": "#/$defs/Options"},
                "force": {"type": "boolean"},
                "ratio": {"type": "number"},
                "limit": {"type": ["integer", "null"]},
                "any": {},
            }),
        ),
    ])
}

fn parser(format: AnswerFormat, is_open: bool, tools: Arc<[Tool]>) -> AnswerParser {
    AnswerParser::new(&format, ParserOptions { reasoning_is_open: is_open, tools, text_is_held: false })
}

/// The events of an answer in these pieces, neighbours of one kind joined.
fn parse<'a>(format: AnswerFormat, is_open: bool, pieces: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut parser = parser(format, is_open, tools());
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut events);
    }
    parser.finish(&mut events);
    let calls = events.iter().filter(|event| matches!(event, ParsedEvent::Call { .. })).count();
    assert_eq!(parser.called(), calls > 0);
    joined(&events)
}

fn joined(events: &[ParsedEvent]) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    let mut open = None;
    let mut calls = 0;
    for event in events {
        let emitted = match event {
            ParsedEvent::Text(text) => format!("text:{text}"),
            ParsedEvent::Reasoning(text) => format!("think:{text}"),
            ParsedEvent::Arguments { call, json } => {
                assert_eq!(Some(*call), open, "arguments belong to the open call");
                format!("args:{json}")
            }
            ParsedEvent::Call { call, id, name } => {
                assert_eq!((open, *call), (None, calls), "calls are numbered and never nested");
                open = Some(*call);
                calls += 1;
                format!("call:{name}{}", id.as_ref().map_or(String::new(), |id| format!("#{id}")))
            }
            ParsedEvent::EndCall { call } => {
                assert_eq!(open.take(), Some(*call), "the open call ends");
                "end".into()
            }
        };
        let (kind, piece) = emitted.split_once(':').unwrap_or((&emitted, ""));
        match joined.last_mut() {
            Some(last) if kind != "call" && kind != "end" && last.starts_with(&format!("{kind}:")) => {
                last.push_str(piece);
            }
            _ => joined.push(emitted),
        }
    }
    assert_eq!(open, None, "every call ends");
    joined
}

/// Every case of every family.
fn corpus() -> impl Iterator<Item = (AnswerFormat, &'static Case)> {
    [
        think::CASES,
        hermes::CASES,
        llama::CASES,
        marked::DEEPSEEK_V3,
        marked::DEEPSEEK_V31,
        marked::DEEPSEEK_R1,
        marked::KIMI_K2,
        tagged::QWEN,
        tagged::MINIMAX,
        tagged::GLM,
        tagged::DSML,
        mistral::LIST,
        mistral::HEADED,
        pythonic::CASES,
        harmony::CASES,
    ]
    .into_iter()
    .flat_map(|(format, cases)| cases.iter().map(move |case| (format, case)))
}

/// Every case, whole, in every two pieces, in every three where it is short, and by single characters.
fn check((format, cases): Cases) {
    for case in cases {
        let Case { name, is_open, raw, events } = *case;
        let parse = |pieces: &[&str]| parse(format, is_open, pieces.iter().copied());
        assert_eq!(parse(&[raw]), events, "{name}");
        let singles: Vec<&str> = raw.split_inclusive(|_| true).collect();
        assert_eq!(parse(&singles), events, "{name}, by single characters");
        let borders: Vec<usize> = raw.char_indices().map(|(index, _)| index).collect();
        for &first in &borders {
            let (head, rest) = raw.split_at(first);
            assert_eq!(parse(&[head, rest]), events, "{name}: {head:?} + {rest:?}");
            if raw.len() > 100 {
                continue;
            }
            for &second in borders.iter().filter(|second| **second > first) {
                let (middle, tail) = rest.split_at(second - first);
                assert_eq!(parse(&[head, middle, tail]), events, "{name}: {head:?} + {middle:?} + {tail:?}");
            }
        }
        check_cuts(format, case);
    }
}

/// Wherever an answer is cut off, what was emitted before is the beginning of what the whole answer gives.
fn check_cuts(format: AnswerFormat, case: &Case) {
    let markers = format.markers();
    let whole = parse(format, case.is_open, [case.raw]);
    let leaks =
        |events: &[String]| events.iter().any(|event| markers.iter().any(|marker| event.contains(marker)));
    for (index, _) in case.raw.char_indices() {
        let mut parser = parser(format, case.is_open, tools());
        let mut events = Vec::new();
        parser.push(&case.raw[..index], &mut events);
        let mut emitted = events.clone();
        parser.finish(&mut events);
        joined(&events);
        // Before the end is known, all that was emitted stays.
        if let Some(ParsedEvent::Call { .. } | ParsedEvent::Arguments { .. }) = emitted.last() {
            emitted.push(ParsedEvent::EndCall {
                call: emitted.iter().filter(|e| matches!(e, ParsedEvent::Call { .. })).count() as u32 - 1,
            });
        }
        let mut emitted = joined(&emitted);
        if emitted.len() > 1
            && emitted.last().is_some_and(|last| last == "end")
            && !whole.starts_with(&emitted)
        {
            emitted.pop();
        }
        if let Some(last) = emitted.pop() {
            assert!(whole.starts_with(&emitted), "{}: cut at {index}: {emitted:?}", case.name);
            assert!(whole[emitted.len()].starts_with(&last), "{}: cut at {index}: {last:?}", case.name);
            emitted.push(last);
        }
        assert!(leaks(&whole) || !leaks(&emitted), "{}: cut at {index}: {emitted:?}", case.name);
    }
}
