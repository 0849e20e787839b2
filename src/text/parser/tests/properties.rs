//! What holds for any text.

use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn formats() -> impl Iterator<Item = AnswerFormat> {
    let with = |reasoning, tools| AnswerFormat { reasoning, tools };
    ToolFormat::ALL
        .into_iter()
        .flat_map(move |tools| [with(None, Some(tools)), with(Some(ReasoningFormat::Think), Some(tools))])
        .chain([with(Some(ReasoningFormat::Harmony), None), AnswerFormat::default()])
}

/// Words that answers are made of, so that random ones come close to calls.
const WORDS: &[&str] = &[
    "{\"name\": \"now\", \"arguments\": {\"a\": 1}}",
    "{\"name\": \"",
    "now",
    "rm",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "(",
    ")",
    "=",
    "'",
    " ",
    "\n",
    "é",
    "😀",
    "\\ud83d",
    "<",
    ">",
    "```json\n",
    "```",
    "functions.now:0",
    "to=functions.now",
    "function",
    "\"arguments\": ",
    "null",
    "city",
    "\">",
    "True",
    "12",
    ";",
    "`",
    "|",
    "</",
    "text",
];

fn words(format: AnswerFormat) -> Vec<&'static str> {
    let mut words = WORDS.to_vec();
    // Markers as often as all other words together.
    let markers = format.markers();
    words.extend(markers.iter().cycle().take(if markers.is_empty() { 0 } else { WORDS.len() }));
    words
}

/// Holds for any text, however it is cut.
fn holds(format: AnswerFormat, is_open: bool, text: &str, cuts: &[usize]) {
    let whole = parse(format, is_open, [text]);
    let mut pieces = Vec::new();
    let mut rest = text;
    for cut in cuts {
        let mut cut = cut % (rest.len() + 1);
        while !rest.is_char_boundary(cut) {
            cut -= 1;
        }
        let (piece, tail) = rest.split_at(cut);
        pieces.push(piece);
        rest = tail;
    }
    pieces.push(rest);
    assert_eq!(parse(format, is_open, pieces), whole, "{text:?}");
    let called = whole.iter().any(|event| event.starts_with("call:"));
    if !called && format.reasoning.is_none() && format.tools != Some(ToolFormat::Harmony) {
        let emitted_text = whole.first().map_or("", |event| event.trim_start_matches("text:"));
        assert_eq!(emitted_text, text.trim_start_matches("text:"), "what is no call is text, byte for byte");
    }
}

proptest! {
    #[test]
    fn any_text_in_any_pieces_gives_the_same_events(text in ".{0,200}", cuts in prop::collection::vec(0usize..50, 0..8), is_open: bool) {
        for format in formats() {
            holds(format, is_open, &text, &cuts);
        }
    }

    #[test]
    fn any_words_in_any_pieces_give_the_same_events(indices in prop::collection::vec(0usize..1000, 0..40), cuts in prop::collection::vec(0usize..50, 0..8), is_open: bool) {
        for format in formats() {
            let words = words(format);
            let text: String = indices.iter().map(|index| words[index % words.len()]).collect();
            holds(format, is_open, &text, &cuts);
        }
    }
}

/// So much of it, byte by byte, takes a time that only linear work can keep to.
fn takes_linear_time(
    format: AnswerFormat,
    head: &str,
    body: &str,
    tail: &str,
    bytes: usize,
) -> Vec<ParsedEvent> {
    let begin = Instant::now();
    let mut parser = parser(format, false, tools());
    let mut events = Vec::new();
    let body = body.repeat(bytes.div_ceil(body.len()));
    for piece in [head, &body, tail].iter().flat_map(|text| text.split_inclusive(|_| true)) {
        parser.push(piece, &mut events);
    }
    parser.finish(&mut events);
    assert!(begin.elapsed() < Duration::from_secs(20), "{head:?} {:?}", &body[..20]);
    events
}

/// What might be taken for the beginning of a marker, again and again.
const HARD_BODIES: [&str; 6] = ["<", "\n", "</parameter> ", "</arg_value>", "<|end|", "}"];

#[test]
fn a_megabyte_of_arguments_by_single_characters_is_fast() {
    let (open, close) = ("{\"name\": \"write_file\", \"arguments\": {\"content\": \"", "\"}}");
    let cases = [
        (ToolFormat::Hermes, format!("<tool_call>{open}"), format!("{close}</tool_call>")),
        (ToolFormat::LlamaJson, open.into(), close.into()),
        (
            ToolFormat::DeepSeekV31,
            "<｜tool▁call▁begin｜>write_file<｜tool▁sep｜>{\"content\": \"".into(),
            "\"}<｜tool▁call▁end｜>".into(),
        ),
        (
            ToolFormat::KimiK2,
            "<|tool_call_begin|>functions.write_file:0<|tool_call_argument_begin|>{\"content\": \"".into(),
            "\"}<|tool_call_end|>".into(),
        ),
        (
            ToolFormat::QwenXml,
            "<function=write_file><parameter=content>".into(),
            "</parameter></function>".into(),
        ),
        (
            ToolFormat::Glm4,
            "<tool_call>write_file<arg_key>content</arg_key><arg_value>".into(),
            "</arg_value></tool_call>".into(),
        ),
        (ToolFormat::Pythonic, "[write_file(content='".into(), "')]".into()),
        (
            ToolFormat::Harmony,
            "<|channel|>commentary to=functions.write_file<|message|>{\"content\": \"".into(),
            "\"}<|call|>".into(),
        ),
    ];
    for (tools, head, tail) in cases {
        let format = AnswerFormat { reasoning: None, tools: Some(tools) };
        for (body, bytes) in
            [("abc \n < ", 1 << 20)].into_iter().chain(HARD_BODIES.map(|body| (body, 1 << 17)))
        {
            let events = takes_linear_time(format, &head, body, &tail, bytes);
            let json: String = events
                .iter()
                .filter_map(|event| match event {
                    ParsedEvent::Arguments { json, .. } => Some(json.as_str()),
                    _ => None,
                })
                .collect();
            assert!(json.len() >= bytes, "{}: {body:?}", tools.name());
        }
    }
}

#[test]
fn a_quarter_of_a_megabyte_of_attempts_at_calls_is_fast() {
    for format in formats().filter(|format| format.reasoning.is_none()) {
        let mut bodies = format.markers();
        bodies.extend([
            "<tool_call>{\"arguments\": {\"a\": ",
            "\n{\"parameters\": {",
            "\n[now(",
            "\n[ ",
            " ",
            "\n",
            "<",
            "a",
        ]);
        for body in bodies {
            takes_linear_time(format, "", body, "", 1 << 18);
        }
    }
}

#[test]
fn what_is_held_back_is_bounded() {
    let hermes = AnswerFormat { reasoning: None, tools: Some(ToolFormat::Hermes) };
    let early = takes_linear_time(
        hermes,
        "<tool_call>{\"arguments\": {\"a\": \"",
        "b",
        "c\"}, \"name\": \"now\"}</tool_call>",
        HELD_BYTES_MAX,
    );
    assert!(!early.iter().any(|event| matches!(event, ParsedEvent::Call { .. })), "too long to be held");
    let text: usize =
        early.iter().map(|event| if let ParsedEvent::Text(text) = event { text.len() } else { 0 }).sum();
    assert!(text > 1 << 20, "and given back");

    let qwen = AnswerFormat { reasoning: None, tools: Some(ToolFormat::QwenXml) };
    let white = takes_linear_time(qwen, "<tool_call>", "\n", "<func", HELD_BYTES_MAX);
    assert!(white.len() >= 2, "an attempt that is too long is given back before the answer ends");
    for (head, body, parameter) in [("[", "1, ", "[1, 1, "), ("", "12 ", "\"12 12")] {
        let head = format!("<function=write_file><parameter=lines>{head}");
        let events = takes_linear_time(qwen, &head, body, "</parameter></function>", HELD_BYTES_MAX);
        let Some(ParsedEvent::Arguments { json, .. }) = events.get(2) else { panic!("{:?}", events.get(2)) };
        assert!(json.starts_with(parameter), "{}", &json[..20]);
        assert!(json.len() <= HELD_BYTES_MAX + 20);
    }
}

/// `cargo test --release -- --ignored a_million_random_splits`, within a minute or so.
#[test]
#[ignore = "a minute of random splits"]
fn a_million_random_splits_of_every_case_give_its_events() {
    let cases: Vec<(AnswerFormat, &Case)> = corpus().collect();
    // splitmix64, so that a run can be repeated.
    let mut state = 17u64;
    let mut random = move |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).unwrap_or(0)
    };
    for split in 0..1_000_000 {
        let (format, case) = &cases[split % cases.len()];
        let mut pieces = Vec::new();
        let mut rest = case.raw;
        while !rest.is_empty() {
            let mut end = 1 + random(24.min(rest.len()));
            while !rest.is_char_boundary(end) {
                end += 1;
            }
            let (piece, tail) = rest.split_at(end);
            pieces.push(piece);
            rest = tail;
        }
        assert_eq!(
            parse(*format, case.is_open, pieces.iter().copied()),
            case.events,
            "{}: {pieces:?}",
            case.name
        );
    }
}

/// What has been emitted before the answer goes on.
fn emitted(format: AnswerFormat, text: &str) -> Vec<ParsedEvent> {
    let mut events = Vec::new();
    parser(format, false, tools()).push(text, &mut events);
    events
}

#[test]
fn text_reasoning_and_arguments_go_out_at_once() {
    for format in formats() {
        if format.reasoning == Some(ReasoningFormat::Harmony) || format.tools == Some(ToolFormat::Harmony) {
            continue;
        }
        assert_eq!(emitted(format, "Hello, a <b"), [ParsedEvent::Text("Hello, a <b".into())]);
        if format.reasoning.is_some() {
            assert_eq!(emitted(format, "<think>Hm. a <b"), [ParsedEvent::Reasoning("Hm. a <b".into())]);
        }
    }
    for (tools, text, pieces) in [
        (
            ToolFormat::Hermes,
            "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Par",
            "{\"city\": \"Par",
        ),
        (
            ToolFormat::Hermes,
            "<tool_call>{\"name\": \"get_weather\", \"arguments\": \"{\\\"city\\\": \\\"Par",
            "{\"city\": \"Par",
        ),
        (
            ToolFormat::LlamaJson,
            "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Par",
            "{\"city\": \"Par",
        ),
        (
            ToolFormat::DeepSeekV3,
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Par",
            "{\"city\": \"Par",
        ),
        (
            ToolFormat::KimiK2,
            "<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"city\": \"Par",
            "{\"city\": \"Par",
        ),
        (
            ToolFormat::QwenXml,
            "<function=get_weather><parameter=days>3</parameter><parameter=city>\nPar",
            "{\"days\": 3, \"city\": \"Par",
        ),
        (
            ToolFormat::MiniMaxM2,
            "<invoke name=\"get_weather\"><parameter name=\"city\">Par",
            "{\"city\": \"Par",
        ),
        (ToolFormat::Glm4, "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Par", "{\"city\": \"Par"),
        (ToolFormat::Pythonic, "[get_weather(days=3, city='Par", "{\"days\": 3, \"city\": \"Par"),
        (
            ToolFormat::Harmony,
            "<|channel|>commentary to=functions.get_weather<|message|>{\"city\": \"Par",
            "{\"city\": \"Par",
        ),
    ] {
        let format = AnswerFormat { reasoning: None, tools: Some(tools) };
        let events = emitted(format, text);
        let [ParsedEvent::Call { call: 0, name, .. }, ParsedEvent::Arguments { call: 0, json }] = &events[..]
        else {
            panic!("{}: {events:?}", tools.name())
        };
        assert_eq!((name.as_str(), json.as_str()), ("get_weather", pieces), "{}", tools.name());
    }
    // JSON that is an answer waits no longer than its first key that no call has.
    let llama = AnswerFormat { reasoning: None, tools: Some(ToolFormat::LlamaJson) };
    let json = "{\"id\": 1, \"type\": \"x\", \"title\": \"a";
    assert_eq!(emitted(llama, json), [ParsedEvent::Text(json.into())]);
    // The name alone, before any argument.
    let hermes = AnswerFormat { reasoning: None, tools: Some(ToolFormat::Hermes) };
    let events = emitted(hermes, "<tool_call>{\"name\": \"now\"");
    assert_eq!(events, [ParsedEvent::Call { call: 0, id: None, name: "now".into() }]);
}
