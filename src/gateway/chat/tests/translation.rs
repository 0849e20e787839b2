//! Through the other dialect and back.

use super::super::{ChatEvent, Dialect, EncodeOptions, StopReason, decode_whole, encode_whole};
use super::{TRANSCRIPTS, essence, named, read, with_fixed_ids, written};

fn other(dialect: Dialect) -> Dialect {
    match dialect {
        Dialect::OpenAi => Dialect::Anthropic,
        Dialect::Anthropic | Dialect::Responses => Dialect::OpenAi,
    }
}

/// What a dialect cannot say, said as it will say it. Anthropic's messages have one choice, no
/// text of refusals, end with `tool_use` where tools are called, and always have usage.
pub fn as_said_in(dialect: Dialect, events: &[ChatEvent]) -> Vec<ChatEvent> {
    let events = essence(events);
    if dialect == Dialect::OpenAi {
        return events;
    }
    let called = events.iter().any(|event| matches!(event, ChatEvent::ToolCall { .. }));
    let refused = events.iter().any(|event| matches!(event, ChatEvent::Refusal { .. }));
    let said = |event: &ChatEvent| match event {
        ChatEvent::Refusal { choice, text } => ChatEvent::Text { choice: *choice, text: text.clone() },
        ChatEvent::Finish { choice, reason: StopReason::End } if called => {
            ChatEvent::Finish { choice: *choice, reason: StopReason::ToolCalls }
        }
        ChatEvent::Finish { choice, reason: StopReason::End } if refused => {
            ChatEvent::Finish { choice: *choice, reason: StopReason::Refusal }
        }
        event => event.clone(),
    };
    let mut all: Vec<ChatEvent> =
        events.iter().filter(|event| event.choice().unwrap_or(0) == 0).map(said).collect();
    if !all.iter().any(|event| matches!(event, ChatEvent::Usage(_))) {
        all.push(ChatEvent::Usage(Default::default()));
    }
    all
}

#[test]
fn streams_keep_their_events_through_either_dialect() {
    for (name, dialect, bytes) in TRANSCRIPTS {
        let (events, result) = read(*dialect, [*bytes]);
        if result.is_err() {
            continue;
        }
        for through in [*dialect, other(*dialect)] {
            let (again, result) = read(through, [written(through, &events).as_bytes()]);
            assert_eq!(result, Ok(()), "{name} through {through:?}");
            assert_eq!(essence(&again), as_said_in(through, &events), "{name} through {through:?}");
        }
    }
}

#[test]
fn whole_answers_keep_their_events_through_either_dialect() {
    for (name, dialect, bytes) in TRANSCRIPTS {
        let (events, result) = read(*dialect, [*bytes]);
        if result.is_err() {
            continue;
        }
        for through in [*dialect, other(*dialect)] {
            let value = encode_whole(through, &super::head(), &EncodeOptions::default(), &events).unwrap();
            let again = decode_whole(through, value.to_string().as_bytes()).unwrap();
            let expected = as_said_in(through, &events);
            // A number or space may be written differently within a tool's input.
            assert_eq!(parsed(&with_fixed_ids(again)), parsed(&expected), "{name} through {through:?}");
        }
    }
}

/// With the arguments of calls in one spelling.
fn parsed(events: &[ChatEvent]) -> Vec<ChatEvent> {
    let mut events = essence(events);
    for event in &mut events {
        if let ChatEvent::ToolArguments { json, .. } = event {
            *json = serde_json::from_str::<serde_json::Value>(json).expect("whole arguments").to_string();
        }
    }
    events
}

#[test]
fn signed_thinking_in_several_blocks_survives_openais_format() {
    let events = vec![
        ChatEvent::Start { id: None, model: None },
        ChatEvent::Reasoning { choice: 0, text: "one".into() },
        ChatEvent::Signature { choice: 0, signature: "s1".into() },
        ChatEvent::RedactedReasoning { choice: 0, data: "r".into() },
        ChatEvent::Reasoning { choice: 0, text: "two".into() },
        ChatEvent::Signature { choice: 0, signature: "s2".into() },
        ChatEvent::Signature { choice: 0, signature: "s3".into() },
        ChatEvent::Text { choice: 0, text: "answer".into() },
        ChatEvent::Finish { choice: 0, reason: StopReason::End },
    ];
    let openai = written(Dialect::OpenAi, &events);
    for detail in [
        r#"{"type":"reasoning.text","text":"one","signature":"s1","index":0}"#,
        r#"{"type":"reasoning.encrypted","data":"r","index":1}"#,
        r#"{"type":"reasoning.text","text":"two","signature":"s2","index":2}"#,
        r#"{"type":"reasoning.text","text":"","signature":"s3","index":3}"#,
    ] {
        assert!(openai.contains(detail), "{detail} in {openai}");
    }
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let (again, _) = read(dialect, [written(dialect, &events).as_bytes()]);
        assert_eq!(essence(&again), as_said_in(dialect, &events), "{dialect:?} streamed");
        let value = encode_whole(dialect, &super::head(), &EncodeOptions::default(), &events).unwrap();
        let again = decode_whole(dialect, value.to_string().as_bytes()).unwrap();
        let again: Vec<_> =
            essence(&again).into_iter().filter(|e| !matches!(e, ChatEvent::Usage(_))).collect();
        assert_eq!(again, essence(&events), "{dialect:?} whole");
    }
}

#[test]
fn anthropics_blocks_never_overlap() {
    for name in ["kin_interleaved_calls", "anthropic_tools", "anthropic_thinking", "openai_tools"] {
        let (dialect, bytes) = named(name);
        let (events, _) = read(dialect, [bytes]);
        let text = written(Dialect::Anthropic, &events);
        let (mut open, mut next) = (None, 0);
        let mut order = Vec::new();
        for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let event: serde_json::Value = serde_json::from_str(data).unwrap();
            let index = event["index"].as_u64();
            let kind = event["type"].as_str().unwrap().to_owned();
            match kind.as_str() {
                "content_block_start" => {
                    assert_eq!((open, index), (None, Some(next)), "{name}");
                    open = index;
                    next += 1;
                }
                "content_block_delta" => assert_eq!(open, index, "{name}"),
                "content_block_stop" => {
                    assert_eq!(open, index, "{name}");
                    open = None;
                }
                _ => assert_eq!(open, None, "{name}"),
            }
            order.push(kind);
        }
        assert_eq!(order[0], "message_start");
        assert_eq!(order[order.len() - 2..], ["message_delta", "message_stop"]);
        assert!(next > 1, "{name} has several blocks");
    }
}
