//! What parsing of answers costs: `cargo bench --bench parsers`.
//!
//! An answer of each family's form, with reasoning before it and without, is cut into pieces at random a million times in
//! all; each time its events are the same as those of the whole answer, or the run fails. The table says how many
//! splits, and how many bytes, are read in a second by one thread.

use novastack::text::{
    AnswerFormat, AnswerParser, ParsedEvent, ParserOptions, ReasoningFormat, Tool, ToolFormat,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SPLITS: usize = 1_000_000;
/// About what a token is, and up to what several of them are.
const PIECE_BYTES_MAX: usize = 24;
const THOUGHT: &str = "The user wants a file written. I look at the weather first, then < I write > it.";
const TEXT: &str =
    "I look at the weather in R\u{f6}me, and write what it is: a < b, `x`, {\"not\": \"a call\"}.";

fn main() {
    let answers: Vec<(String, AnswerFormat, String)> =
        ToolFormat::ALL.into_iter().flat_map(answers).collect();
    let each = SPLITS / answers.len() + 1;
    let mut random = Random(17);
    println!("| format | bytes | splits/s | MB/s |\n|---|---|---|---|");
    let (mut splits, mut took_in_all) = (0, Duration::ZERO);
    for (name, format, raw) in &answers {
        let whole = events_of(*format, std::iter::once(raw.as_str()));
        let calls = whole.iter().filter(|event| matches!(event, ParsedEvent::Call { .. })).count();
        assert_eq!(calls, 2, "{name}: {whole:?}");
        let mut took = Duration::ZERO;
        for _ in 0..each {
            let pieces = random.pieces(raw);
            let begun = Instant::now();
            let events = events_of(*format, pieces.iter().copied());
            took += begun.elapsed();
            assert_eq!(events, whole, "{name}: {pieces:?}");
        }
        let seconds = took.as_secs_f64();
        let (rate, bytes) = (each as f64 / seconds, (each * raw.len()) as f64 / seconds / 1e6);
        println!("| {name} | {} | {rate:.0} | {bytes:.1} |", raw.len());
        (splits, took_in_all) = (splits + each, took_in_all + took);
    }
    println!(
        "\n{splits} splits in {:.1} s, each with the events of its whole answer",
        took_in_all.as_secs_f64()
    );
}

/// A format's answers: as it is, and after reasoning.
fn answers(tools: ToolFormat) -> Vec<(String, AnswerFormat, String)> {
    let arguments = json!({"path": "a/b.txt", "content": "first line\nsecond <line> \u{e9}\u{1f600}", "lines": [1, 2, 3], "force": true});
    let weather = json!({"city": "R\u{f6}me", "days": 3});
    let calls = [("get_weather", weather), ("write_file", arguments)];
    let raw = written(tools, &calls);
    if tools == ToolFormat::Harmony {
        let format = AnswerFormat { reasoning: Some(ReasoningFormat::Harmony), tools: Some(tools) };
        return vec![(tools.name().to_owned(), format, raw)];
    }
    let plain = AnswerFormat { reasoning: None, tools: Some(tools) };
    let thinks = AnswerFormat { reasoning: Some(ReasoningFormat::Think), ..plain };
    let thought = format!("<think>\n{THOUGHT}\n</think>\n\n{raw}");
    vec![
        (tools.name().to_owned(), plain, raw),
        (format!("{}, after reasoning", tools.name()), thinks, thought),
    ]
}

/// An answer as the family's template writes earlier ones.
fn written(tools: ToolFormat, calls: &[(&str, Value)]) -> String {
    let each = |write: &dyn Fn(&str, &Value) -> String| {
        calls.iter().map(|(name, value)| write(name, value)).collect::<String>()
    };
    let tagged = |value: &Value, write: &dyn Fn(&str, String) -> String| -> String {
        let plain = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
        value.as_object().into_iter().flatten().map(|(key, value)| write(key, plain(value))).collect()
    };
    match tools {
        ToolFormat::Hermes => format!(
            "{TEXT}\n{}",
            each(&|name, value| format!(
                "<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {value}}}\n</tool_call>\n"
            ))
        ),
        // This one writes calls alone.
        ToolFormat::LlamaJson => calls
            .iter()
            .map(|(name, value)| format!("{{\"name\": \"{name}\", \"parameters\": {value}}}"))
            .collect::<Vec<_>>()
            .join("; "),
        ToolFormat::DeepSeekV3 | ToolFormat::DeepSeekR1 => {
            let calls = each(&|name, value| {
                format!(
                    "<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>function<\u{ff5c}tool\u{2581}sep\u{ff5c}>{name}\n```json\n{value}\n```\
                     <\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>"
                )
            });
            format!(
                "{TEXT}<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}>{calls}<\u{ff5c}tool\u{2581}calls\u{2581}end\u{ff5c}>"
            )
        }
        ToolFormat::DeepSeekV31 => {
            let calls = each(&|name, value| {
                format!(
                    "<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>{name}<\u{ff5c}tool\u{2581}sep\u{ff5c}>{value}\
                     <\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>"
                )
            });
            format!(
                "{TEXT}<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}>{calls}<\u{ff5c}tool\u{2581}calls\u{2581}end\u{ff5c}>"
            )
        }
        ToolFormat::KimiK2 => format!(
            "{TEXT}<|tool_calls_section_begin|>{}<|tool_calls_section_end|>",
            each(&|name, value| format!(
                "<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{value}<|tool_call_end|>"
            ))
        ),
        ToolFormat::QwenXml => format!(
            "{TEXT}\n{}",
            each(&|name, value| {
                let parameters =
                    tagged(value, &|key, value| format!("<parameter={key}>\n{value}\n</parameter>\n"));
                format!("<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>\n")
            })
        ),
        ToolFormat::MiniMaxM2 => format!(
            "{TEXT}\n<minimax:tool_call>\n{}</minimax:tool_call>",
            each(&|name, value| {
                let parameters =
                    tagged(value, &|key, value| format!("<parameter name=\"{key}\">{value}</parameter>\n"));
                format!("<invoke name=\"{name}\">\n{parameters}</invoke>\n")
            })
        ),
        ToolFormat::Glm4 => format!(
            "{TEXT}\n{}",
            each(&|name, value| {
                let arguments = tagged(value, &|key, value| {
                    format!("<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n")
                });
                format!("<tool_call>{name}\n{arguments}</tool_call>\n")
            })
        ),
        // Python's literals, and calls alone.
        ToolFormat::Pythonic => {
            let calls = calls.iter().map(|(name, value)| {
                let arguments = value.as_object().into_iter().flatten();
                let arguments: Vec<String> = arguments
                    .map(|(key, value)| format!("{key}={}", value.to_string().replace("true", "True")))
                    .collect();
                format!("{name}({})", arguments.join(", "))
            });
            format!("[{}]", calls.collect::<Vec<_>>().join(", "))
        }
        ToolFormat::Harmony => format!(
            "<|channel|>analysis<|message|>{THOUGHT}<|end|>{}",
            each(&|name, value| format!(
                "<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{value}<|call|>"
            ))
        ),
    }
}

/// The events of an answer in pieces, neighbours of one kind joined.
fn events_of<'a>(format: AnswerFormat, pieces: impl Iterator<Item = &'a str>) -> Vec<ParsedEvent> {
    let mut parser = AnswerParser::new(&format, ParserOptions { tools: tools(), ..ParserOptions::default() });
    let mut events = Vec::new();
    let mut joined: Vec<ParsedEvent> = Vec::new();
    let mut join = |events: &mut Vec<ParsedEvent>| {
        for event in events.drain(..) {
            match (joined.last_mut(), event) {
                (Some(ParsedEvent::Text(text)), ParsedEvent::Text(more))
                | (Some(ParsedEvent::Reasoning(text)), ParsedEvent::Reasoning(more)) => text.push_str(&more),
                (Some(ParsedEvent::Arguments { json, .. }), ParsedEvent::Arguments { json: more, .. }) => {
                    json.push_str(&more);
                }
                (_, event) => joined.push(event),
            }
        }
    };
    for piece in pieces {
        parser.push(piece, &mut events);
        join(&mut events);
    }
    parser.finish(&mut events);
    join(&mut events);
    joined
}

fn tools() -> Arc<[Tool]> {
    thread_local! {
        static TOOLS: Arc<[Tool]> = {
            let tool = |name: &str, properties: Value| Tool {
                name: name.into(),
                parameters: json!({"type": "object", "properties": properties}),
            };
            Arc::new([
                tool("get_weather", json!({"city": {"type": "string"}, "days": {"type": "integer"}})),
                tool(
                    "write_file",
                    json!({"path": {"type": "string"}, "content": {"type": "string"}, "force": {"type": "boolean"},
                        "lines": {"type": "array", "items": {"type": "integer"}}}),
                ),
            ])
        };
    }
    TOOLS.with(Arc::clone)
}

/// splitmix64, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap_or(0)
    }

    fn pieces<'a>(&mut self, text: &'a str) -> Vec<&'a str> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let mut end = 1 + self.below(PIECE_BYTES_MAX.min(rest.len()));
            while !rest.is_char_boundary(end) {
                end += 1;
            }
            let (piece, tail) = rest.split_at(end);
            pieces.push(piece);
            rest = tail;
        }
        pieces
    }
}
