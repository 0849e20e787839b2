//! Streams and whole responses of a provider's, and what this codec writes itself.

use super::super::super::tests::{TRANSCRIPTS, essence, read as read_transcript};
use super::super::super::{ChatEvent, DecodeError, ErrorKind, FrameReader, Progress, StopReason, TokenUsage};
use super::super::decode::{ResponsesDecoder, whole};
use super::super::encode::{self, ResponsesEncoder};
use super::{asked, head};
use proptest::prelude::*;
use serde_json::{Value, json};

macro_rules! transcript {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialect/transcripts/", $name, ".sse"))
    };
}

const TEXT: &[u8] = transcript!("responses_text");
const TOOLS: &[u8] = transcript!("responses_reasoning_tools");
const FAILED: &[u8] = transcript!("responses_failed");

/// Reads a stream that arrives in these pieces; whether it was done at its end.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<ChatEvent>, bool), DecodeError> {
    let (mut frames, mut decoder) = (FrameReader::default(), ResponsesDecoder::default());
    let (mut events, mut done) = (Vec::new(), false);
    for piece in pieces {
        frames.push(piece)?;
        while let Some(frame) = frames.next().filter(|_| !done) {
            done = decoder.frame(&frame, &mut events)? == Progress::Done;
        }
    }
    assert_eq!(done, decoder.is_finished());
    Ok((events, done))
}

fn events(bytes: &[u8]) -> Vec<ChatEvent> {
    let (events, done) = read([bytes]).expect("a good stream");
    assert!(done);
    events
}

fn text(text: &str) -> ChatEvent {
    ChatEvent::Text { choice: 0, text: text.into() }
}

fn reasoning(text: &str) -> ChatEvent {
    ChatEvent::Reasoning { choice: 0, text: text.into() }
}

fn call(call: u32, id: &str) -> ChatEvent {
    ChatEvent::ToolCall { choice: 0, call, id: id.into(), name: "get_weather".into() }
}

fn arguments(call: u32, json: &str) -> ChatEvent {
    ChatEvent::ToolArguments { choice: 0, call, json: json.into() }
}

fn finish(reason: StopReason) -> ChatEvent {
    ChatEvent::Finish { choice: 0, reason }
}

/// The response that a stream ends with.
fn last_response(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).unwrap().trim_end();
    let data = text.rsplit("data: ").next().unwrap();
    serde_json::from_str::<Value>(data).unwrap()["response"].to_string()
}

#[test]
fn a_stream_of_text() {
    let id = Some("resp_67c9fdcecf488190bdd9a0409de3a1ec07b8b0ad4e5eb654".to_owned());
    let usage = TokenUsage { input: 37, output: 11, ..TokenUsage::default() };
    assert_eq!(
        events(TEXT),
        [
            ChatEvent::Start { id, model: Some("gpt-5.1-2025-11-13".into()) },
            text("Hi"),
            text(" there! How can I"),
            text(" assist you today?"),
            finish(StopReason::End),
            ChatEvent::Usage(usage),
        ]
    );
}

#[test]
fn a_stream_of_reasoning_and_calls() {
    let usage = TokenUsage { input: 81, cached: 64, output: 67, reasoning: 40, ..TokenUsage::default() };
    let data = "openai-responses:gAAAAABpExampleOnly==".to_owned();
    assert_eq!(
        events(TOOLS)[1..],
        [
            reasoning("**Checking"),
            reasoning(" the weather**\n\nTwo cities."),
            reasoning("\n\n**Calling*"),
            reasoning("*\n\nBoth at once."),
            ChatEvent::RedactedReasoning { choice: 0, data },
            call(0, "call_unLAR8MvFNptuiZK6K6HCy5k"),
            arguments(0, "{\"loca"),
            arguments(0, "tion\":\"Paris\"}"),
            call(1, "call_9xZ"),
            arguments(1, "{\"loca"),
            arguments(1, "tion\":\"Rome\"}"),
            finish(StopReason::ToolCalls),
            ChatEvent::Usage(usage),
        ]
    );
}

#[test]
fn a_whole_response_is_what_its_stream_is() {
    for bytes in [TEXT, TOOLS] {
        let whole = whole(&last_response(bytes)).expect("a good response");
        assert_eq!(essence(&whole), essence(&events(bytes)));
        assert!(matches!(whole.last(), Some(ChatEvent::Usage(_))));
    }
}

#[test]
fn how_a_stream_is_cut_changes_nothing() {
    for bytes in [TEXT, TOOLS] {
        let expected = read([bytes]).unwrap();
        for at in 0..bytes.len() {
            assert_eq!(read([&bytes[..at], &bytes[at..]]).unwrap(), expected);
        }
    }
}

#[test]
fn failures_are_errors() {
    let Err(DecodeError::Upstream(error)) = read([FAILED]) else { panic!("it failed") };
    assert_eq!((error.status, error.kind), (429, ErrorKind::RateLimit));
    assert!(error.message.starts_with("Rate limit reached"));
    let of = |data: &str| match read([format!("data: {data}\n\n").as_bytes()]) {
        Err(DecodeError::Upstream(error)) => (error.kind, error.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        of(r#"{"type":"error","code":"server_error","message":"broken","param":null,"sequence_number":1}"#),
        (ErrorKind::Server, "broken".to_owned())
    );
    assert_eq!(of(r#"{"error":{"message":"gone","code":503}}"#), (ErrorKind::Overloaded, "gone".to_owned()));
    assert!(matches!(whole(&last_response(FAILED)), Err(DecodeError::Upstream(_))));
    assert!(matches!(whole("{}"), Err(DecodeError::WrongShape { .. })));
    assert!(matches!(whole("<html>"), Err(DecodeError::NotJson { .. })));
    assert!(matches!(whole(r#"{"status":"queued","output":[]}"#), Err(DecodeError::Upstream(_))));
    // A stream that ends before its end says so.
    let cut = TEXT.len() - 40;
    assert!(!read([&TEXT[..cut]]).unwrap().1);
}

#[test]
fn what_a_server_leaves_out_is_taken_from_where_it_is_said_again() {
    let item = json!({"type": "message", "content": [{"type": "output_text", "text": "Hi"}]});
    let call_item =
        json!({"type": "function_call", "call_id": "a", "name": "get_weather", "arguments": "{}"});
    let stream = |events: &[Value]| {
        let text: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        self::events(text.as_bytes())[1..].to_vec()
    };
    let completed =
        json!({"type": "response.completed", "response": {"id": "r", "output": [item, call_item]}});
    // Nothing but the end.
    let expected = [text("Hi"), call(0, "a"), arguments(0, "{}"), finish(StopReason::ToolCalls)];
    assert_eq!(stream(std::slice::from_ref(&completed)), expected);
    let named = format!("event: message\ndata: {completed}\n\n");
    assert_eq!(self::events(named.as_bytes())[1..], expected);
    // Nothing but whole items, as mocks of agents send them.
    let done = |index: u32, item: &Value| json!({"type": "response.output_item.done", "output_index": index, "item": item});
    assert_eq!(stream(&[done(0, &item), done(1, &call_item), completed.clone()]), expected);
    // Neither twice.
    let delta = json!({"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"});
    assert_eq!(stream(&[delta, done(0, &item), done(0, &item), done(1, &call_item), completed]), expected);
    let custom = json!({"type": "custom_tool_call", "call_id": "b", "name": "get_weather", "input": "x\n"});
    let end = json!({"type": "response.incomplete", "response": {"status": "incomplete",
                     "incomplete_details": {"reason": "max_output_tokens"}}});
    let expected = [call(0, "b"), arguments(0, r#"{"input":"x\n"}"#), finish(StopReason::Length)];
    assert_eq!(stream(&[done(0, &custom), end]), expected);
}

#[test]
fn what_this_codec_writes_it_reads() {
    for (name, dialect, bytes) in TRANSCRIPTS {
        let (events, result) = read_transcript(*dialect, [*bytes]);
        if result.is_err() {
            continue;
        }
        let events: Vec<ChatEvent> =
            events.into_iter().filter(|event| event.choice().unwrap_or(0) == 0).collect();
        for more in [json!({}), json!({"reasoning": {"summary": "auto"}}), json!({"store": false})] {
            let mut encoder = ResponsesEncoder::new(head(), asked(more.clone()));
            let mut out = String::new();
            for event in &events {
                encoder.event(event, &mut out).expect("it can be said");
            }
            encoder.finish(&mut out);
            let expected = said(&events);
            assert_eq!(said(&self::events(out.as_bytes())), expected, "{name} {more}");
            let answer = encode::whole(&head(), asked(more), &events).unwrap().to_string();
            assert_eq!(said(&whole(&answer).unwrap()), expected, "{name}");
        }
    }
}

/// The essence, but for why a stop string or pause ended it, and arguments that are none.
fn said(events: &[ChatEvent]) -> Vec<ChatEvent> {
    let mut essence = essence(events);
    let calls = essence.iter().any(|event| matches!(event, ChatEvent::ToolCall { .. }));
    for event in &mut essence {
        if let ChatEvent::Finish { reason, .. } = event {
            match reason {
                StopReason::Length | StopReason::Refusal => {}
                _ if calls => *reason = StopReason::ToolCalls,
                _ => *reason = StopReason::End,
            }
        }
        if let ChatEvent::Usage(usage) = event {
            usage.cache_written_1h = 0;
        }
    }
    essence.retain(|event| !matches!(event, ChatEvent::ToolArguments { json, .. } if json == "{}"));
    essence
}

fn any_event() -> impl Strategy<Value = ChatEvent> {
    let words = "[a-z\"\\\\é😀 \n]{1,8}";
    prop_oneof![
        4 => words.prop_map(|text| ChatEvent::Text { choice: 0, text }),
        4 => words.prop_map(|text| ChatEvent::Reasoning { choice: 0, text }),
        1 => words.prop_map(|signature| ChatEvent::Signature { choice: 0, signature }),
        1 => words.prop_map(|data| ChatEvent::RedactedReasoning { choice: 0, data }),
        1 => words.prop_map(|text| ChatEvent::Refusal { choice: 0, text }),
    ]
}

proptest! {
    #[test]
    fn any_answer_comes_back_in_order(
        pieces in prop::collection::vec(any_event(), 0..20),
        calls in prop::collection::vec(("[a-z:.0-9]{1,9}", "[a-z_]{1,9}", "[a-z\"\\\\é ]{0,9}"), 0..4),
        summary in any::<bool>(),
    ) {
        let mut events = vec![ChatEvent::Start { id: None, model: Some("claude-x".into()) }];
        events.extend(pieces);
        for (n, (id, name, value)) in calls.into_iter().enumerate() {
            let call = n as u32;
            let json = json!({ "x": value }).to_string();
            let (first, rest) = json.split_at(3);
            events.push(ChatEvent::ToolCall { choice: 0, call, id, name });
            events.push(ChatEvent::ToolArguments { choice: 0, call, json: first.into() });
            events.push(ChatEvent::ToolArguments { choice: 0, call, json: rest.into() });
        }
        events.push(finish(StopReason::End));
        let more = if summary { json!({"reasoning": {"summary": "auto"}}) } else { json!({}) };
        let mut encoder = ResponsesEncoder::new(head(), asked(more));
        let mut out = String::new();
        for event in &events {
            encoder.event(event, &mut out).expect("it can be said");
        }
        encoder.finish(&mut out);
        let answer = encoder.into_response().expect("it has finished").to_string();
        let read = self::events(out.as_bytes());
        prop_assert_eq!(&in_order(&read), &in_order(&events));
        prop_assert_eq!(&in_order(&whole(&answer).unwrap()), &in_order(&events));
    }
}

/// Neighbours of a kind joined, without what a stream says of itself.
fn in_order(events: &[ChatEvent]) -> Vec<ChatEvent> {
    let mut joined: Vec<ChatEvent> = Vec::new();
    for event in events {
        match (event, joined.last_mut()) {
            (ChatEvent::Start { .. } | ChatEvent::Finish { .. } | ChatEvent::Usage(_), _) => {}
            (ChatEvent::Text { text, .. }, Some(ChatEvent::Text { text: all, .. }))
            | (ChatEvent::Refusal { text, .. }, Some(ChatEvent::Refusal { text: all, .. }))
            | (ChatEvent::Reasoning { text, .. }, Some(ChatEvent::Reasoning { text: all, .. })) => {
                all.push_str(text);
            }
            (ChatEvent::ToolArguments { json, .. }, Some(ChatEvent::ToolArguments { json: all, .. })) => {
                all.push_str(json);
            }
            (event, _) => joined.push(event.clone()),
        }
    }
    joined
}
