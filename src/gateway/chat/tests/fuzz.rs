//! Arbitrary events through both dialects, and arbitrary bytes and JSON into every reader.

use super::super::{
    ChatEvent, Dialect, EncodeOptions, Frame, FrameReader, Progress, StopReason, StreamDecoder, TokenUsage,
    decode_error, decode_whole, encode_whole,
};
use super::translation::as_said_in;
use super::{TRANSCRIPTS, essence, read, written};
use proptest::prelude::*;
use serde_json::Value;

/// Text with everything that JSON, UTF-8 and server-sent events make special.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z \"\\\\/\n\r\t\u{0}\u{7f}\u{2028}é数🙂{}\\[\\]:,]{1,12}",
        Just("data: {\"x\":1}\n\n".to_owned()),
        Just("[DONE]".to_owned()),
        Just("\u{feff}".to_owned()),
    ]
}

fn word() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_.:-]{1,12}"
}

/// The JSON of a call's arguments, in pieces.
fn arguments() -> impl Strategy<Value = Vec<String>> {
    let value =
        prop_oneof![text().prop_map(Value::from), any::<i32>().prop_map(Value::from), Just(Value::Null)];
    let map = prop::collection::vec((word(), value), 0..4);
    (map, prop::collection::vec(any::<prop::sample::Index>(), 0..6)).prop_map(|(entries, cuts)| {
        let json = Value::Object(entries.into_iter().collect()).to_string();
        let mut pieces = vec![json];
        for cut in cuts {
            let last = pieces.pop().unwrap_or_default();
            let mut at = cut.index(last.len() + 1);
            while !last.is_char_boundary(at) {
                at -= 1;
            }
            let (first, rest) = last.split_at(at);
            pieces.extend([first.to_owned(), rest.to_owned()]);
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    })
}

/// What a choice may say before its calls.
#[derive(Clone, Debug)]
enum Said {
    Text(String),
    Reasoning(String),
    Signature(String),
    Redacted(String),
    Refusal(String),
}

#[derive(Clone, Debug)]
struct Choice {
    said: Vec<Said>,
    /// Id, name, pieces of arguments.
    calls: Vec<(String, String, Vec<String>)>,
    /// Whether the calls' arguments come by turns.
    by_turns: bool,
    reason: StopReason,
}

fn choice(dialect: Dialect) -> impl Strategy<Value = Choice> {
    let said = prop_oneof![
        4 => text().prop_map(Said::Text),
        3 => text().prop_map(Said::Reasoning),
        1 => word().prop_map(Said::Signature),
        1 => word().prop_map(Said::Redacted),
        1 => text().prop_map(Said::Refusal),
    ];
    let mut reasons = vec![
        StopReason::End,
        StopReason::Length,
        StopReason::ToolCalls,
        StopReason::Refusal,
        StopReason::StopSequence(Some("END\n\"".into())),
    ];
    reasons.push(match dialect {
        Dialect::OpenAi => StopReason::Other("odd\"".into()),
        Dialect::Anthropic => StopReason::Pause,
        Dialect::Responses => StopReason::End,
    });
    let calls = prop::collection::vec((word(), word(), arguments()), 0..4);
    (prop::collection::vec(said, 0..6), calls, any::<bool>(), prop::sample::select(reasons))
        .prop_map(|(said, calls, by_turns, reason)| Choice { said, calls, by_turns, reason })
}

fn usage() -> impl Strategy<Value = TokenUsage> {
    (0..1000u64, 0..1000u64, 0..1000u64, 0..1000u64, 0..1000u64).prop_map(
        |(uncached, cached, cache_written, answered, reasoning)| TokenUsage {
            input: uncached + cached + cache_written,
            cache_written_1h: 0,
            cached,
            cache_written,
            output: answered + reasoning,
            reasoning,
        },
    )
}

fn events_of(choices: Vec<Choice>, usage: TokenUsage) -> Vec<ChatEvent> {
    let mut events = vec![ChatEvent::Start { id: None, model: None }];
    for (number, Choice { said, calls, by_turns, reason }) in choices.into_iter().enumerate() {
        let choice = number as u32;
        events.extend(said.into_iter().map(|said| match said {
            Said::Text(text) => ChatEvent::Text { choice, text },
            Said::Reasoning(text) => ChatEvent::Reasoning { choice, text },
            Said::Signature(signature) => ChatEvent::Signature { choice, signature },
            Said::Redacted(data) => ChatEvent::RedactedReasoning { choice, data },
            Said::Refusal(text) => ChatEvent::Refusal { choice, text },
        }));
        let begin = |call: usize, (id, name, _): &(String, String, Vec<String>)| {
            let (id, name) = (id.clone(), name.clone());
            ChatEvent::ToolCall { choice, call: call as u32, id, name }
        };
        let piece = |call: usize, json: &String| ChatEvent::ToolArguments {
            choice,
            call: call as u32,
            json: json.clone(),
        };
        if by_turns {
            events.extend(calls.iter().enumerate().map(|(at, call)| begin(at, call)));
            let turns = calls.iter().map(|(.., pieces)| pieces.len()).max().unwrap_or(0);
            for turn in 0..turns {
                let of_turn = calls.iter().enumerate();
                events.extend(of_turn.filter_map(|(at, (.., pieces))| Some(piece(at, pieces.get(turn)?))));
            }
        } else {
            for (at, call) in calls.iter().enumerate() {
                events.push(begin(at, call));
                events.extend(call.2.iter().map(|json| piece(at, json)));
            }
        }
        events.push(ChatEvent::Finish { choice, reason });
    }
    events.push(ChatEvent::Usage(usage));
    events
}

fn events(dialect: Dialect) -> impl Strategy<Value = Vec<ChatEvent>> {
    let count = if dialect == Dialect::OpenAi { 1..4usize } else { 1..2usize };
    (prop::collection::vec(choice(dialect), count), usage())
        .prop_map(|(choices, usage)| events_of(choices, usage))
}

/// A choice as whole answers keep it, which is without the order in which the kinds came: its texts
/// (said, reasoned, refused), what is sealed, its calls with their arguments' value, and its end.
type Kinds = (u32, [String; 3], Vec<String>, Vec<(String, String, Value)>, StopReason);

fn kinds(events: &[ChatEvent]) -> Vec<Kinds> {
    let mut all: Vec<Kinds> = Vec::new();
    for event in &essence(events) {
        let Some(choice) = event.choice() else { continue };
        if all.last().is_none_or(|last| last.0 != choice) {
            all.push((choice, Default::default(), Vec::new(), Vec::new(), StopReason::End));
        }
        let (_, texts, sealed, calls, finish) = all.last_mut().unwrap();
        match event {
            ChatEvent::Text { text, .. } => texts[0] += text,
            ChatEvent::Reasoning { text, .. } => texts[1] += text,
            ChatEvent::Refusal { text, .. } => texts[2] += text,
            ChatEvent::Signature { signature, .. } => sealed.push(format!("signature {signature}")),
            ChatEvent::RedactedReasoning { data, .. } => sealed.push(format!("redacted {data}")),
            ChatEvent::ToolCall { id, name, .. } => calls.push((id.clone(), name.clone(), Value::Null)),
            ChatEvent::ToolArguments { json, .. } => {
                calls.last_mut().unwrap().2 = serde_json::from_str(json).unwrap();
            }
            ChatEvent::Finish { reason, .. } => *finish = reason.clone(),
            ChatEvent::Start { .. } | ChatEvent::Tokens { .. } | ChatEvent::Usage(_) => {}
        }
    }
    all
}

fn last_usage(events: &[ChatEvent]) -> Option<&ChatEvent> {
    events.iter().rfind(|event| matches!(event, ChatEvent::Usage(_)))
}

fn there_and_back(dialect: Dialect, events: &[ChatEvent]) -> Result<(), TestCaseError> {
    let expected = essence(&as_said_in(dialect, events));
    let stream = written(dialect, events);
    let (again, result) = read(dialect, [stream.as_bytes()]);
    prop_assert_eq!(&result, &Ok(()), "{}", stream);
    prop_assert_eq!(essence(&again), expected.clone(), "{}", stream);
    let whole = encode_whole(dialect, &super::head(), &EncodeOptions::default(), events).unwrap().to_string();
    let again = decode_whole(dialect, whole.as_bytes()).unwrap();
    prop_assert_eq!(kinds(&again), kinds(&expected), "{}", whole);
    prop_assert_eq!(last_usage(&again), last_usage(&expected), "{}", whole);
    Ok(())
}

/// JSON in the shape of a dialect's frames and answers, with anything where something is expected.
fn answer_like() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 40] = [
        "id",
        "object",
        "model",
        "choices",
        "index",
        "delta",
        "message",
        "content",
        "text",
        "type",
        "role",
        "reasoning_content",
        "reasoning",
        "reasoning_details",
        "signature",
        "data",
        "refusal",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "function_call",
        "finish_reason",
        "stop_reason",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "completion_tokens_details",
        "reasoning_tokens",
        "input_tokens",
        "output_tokens",
        "error",
        "code",
        "content_block",
        "thinking",
        "partial_json",
        "input",
        "stop_sequence",
        "matched_stop",
    ];
    const WORDS: [&str; 22] = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
        "ping",
        "text",
        "tool_use",
        "thinking",
        "redacted_thinking",
        "text_delta",
        "thinking_delta",
        "signature_delta",
        "input_json_delta",
        "stop",
        "tool_calls",
        "message",
        "",
        "{}",
        "{\"a\":",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3u32).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(WORDS.to_vec()).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        let map = prop::collection::vec((prop::sample::select(KEYS.to_vec()), inner.clone()), 0..7);
        prop_oneof![
            1 => prop::collection::vec(inner, 0..4).prop_map(Value::from),
            4 => map.prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

/// What events weigh, in bytes of text.
fn weight(events: &[ChatEvent]) -> usize {
    events.iter().map(|event| format!("{event:?}").len()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn openais_events_there_and_back(events in events(Dialect::OpenAi)) {
        there_and_back(Dialect::OpenAi, &events)?;
    }

    #[test]
    fn anthropics_events_there_and_back(events in events(Dialect::Anthropic)) {
        there_and_back(Dialect::Anthropic, &events)?;
    }

    /// One choice's events in either dialect, told in the other and from there in the first.
    #[test]
    fn events_through_the_other_dialect(events in events(Dialect::Anthropic)) {
        let (openai, _) = read(Dialect::OpenAi, [written(Dialect::OpenAi, &events).as_bytes()]);
        there_and_back(Dialect::Anthropic, &openai)?;
    }

    /// Whatever arrives, however it is cut: no panic, no more than arrived.
    #[test]
    fn bytes_are_frames_or_an_error(bytes in prop::collection::vec(prop_oneof![
        3 => prop::sample::select(b"data: event\n\r:{}\"\\".to_vec()), 1 => any::<u8>()], 0..300),
        step in 1..40usize, bytes_max in 1..200usize,
    ) {
        let mut reader = FrameReader::new(bytes_max);
        let mut read = 0;
        let mut decoders = [Dialect::OpenAi, Dialect::Anthropic].map(StreamDecoder::new);
        let mut failed = bytes.chunks(step).any(|piece| reader.push(piece).is_err());
        failed |= !failed && reader.finish().is_err();
        while let Some(frame) = reader.next() {
            prop_assert!(frame.data.len() <= bytes_max);
            read += frame.data.len() + frame.event.as_ref().map_or(0, String::len);
            for decoder in &mut decoders {
                let _ = decoder.frame(&frame, &mut Vec::new());
            }
        }
        prop_assert!(read <= bytes.len());
        // The same as all at once, up to where it failed.
        if !failed {
            let mut whole = FrameReader::new(bytes_max);
            prop_assert!(whole.push(&bytes).is_ok() && whole.finish().is_ok());
        }
    }

    /// Frames of the right shape with wrong things in them: events or an error, in bounds.
    #[test]
    fn odd_frames_are_events_or_an_error(frames in prop::collection::vec((answer_like(), any::<bool>()), 0..8)) {
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            let mut decoder = StreamDecoder::new(dialect);
            let (mut events, mut bytes) = (Vec::new(), 0);
            for (value, named) in &frames {
                let event = named.then(|| value["type"].as_str().unwrap_or("error").to_owned());
                let frame = Frame { event, data: value.to_string() };
                bytes += frame.data.len();
                match decoder.frame(&frame, &mut events) {
                    Ok(Progress::More) => {}
                    Ok(Progress::Done) | Err(_) => break,
                }
            }
            let _ = decoder.end();
            prop_assert!(weight(&events) <= 300 * bytes + 1000, "{:?}", events);
        }
    }

    /// The same as whole answers and as errors.
    #[test]
    fn odd_answers_are_events_or_an_error(
        value in answer_like(), bytes in prop::collection::vec(any::<u8>(), 0..60), status in 400..600u16,
    ) {
        let text = value.to_string();
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            if let Ok(events) = decode_whole(dialect, text.as_bytes()) {
                let finished = events.iter().any(|event| matches!(event, ChatEvent::Finish { .. }));
                prop_assert!(finished);
                // What could be read can be told, or is said to be untellable.
                for to in [Dialect::OpenAi, Dialect::Anthropic] {
                    let _ = encode_whole(to, &super::head(), &EncodeOptions::default(), &events);
                }
            }
            let _ = decode_whole(dialect, &bytes);
        }
        prop_assert_eq!(decode_error(status, text.as_bytes()).status, status);
        prop_assert_eq!(decode_error(status, &bytes).status, status);
    }

    /// A good stream with a piece of it gone, doubled or garbled.
    #[test]
    fn damaged_transcripts_are_survived(
        which in 0..TRANSCRIPTS.len(), from in any::<prop::sample::Index>(), length in 0..60usize,
        instead in prop::collection::vec(any::<u8>(), 0..20), twice in any::<bool>(),
    ) {
        let (_, dialect, bytes) = TRANSCRIPTS[which];
        let from = from.index(bytes.len());
        let to = (from + length).min(bytes.len());
        let again = if twice { &bytes[from..to] } else { &[] };
        let damaged = [&bytes[..if twice { to } else { from }], again, &instead, &bytes[to..]].concat();
        let (events, _) = read(dialect, [&*damaged]);
        prop_assert!(weight(&events) <= 300 * damaged.len());
    }
}

/// Two calls of a whole message are two, whatever the model called them.
#[test]
fn calls_of_a_whole_message_never_join() {
    let call = r#"{"id":"U","type":"function","function":{"name":"a","arguments":"{}"}}"#;
    let text = format!(r#"{{"choices":[{{"message":{{"tool_calls":[{call},{call}]}}}}]}}"#);
    let events = decode_whole(Dialect::OpenAi, text.as_bytes()).unwrap();
    assert_eq!(kinds(&events)[0].3, vec![("U".to_owned(), "a".to_owned(), serde_json::json!({})); 2]);
}

/// What waits for its end or its name is bounded over all that wait together.
#[test]
fn what_decoders_keep_is_bounded() {
    let feed = |dialect: Dialect, mut frames: Box<dyn Iterator<Item = String> + '_>| {
        let mut decoder = StreamDecoder::new(dialect);
        let mut events = Vec::new();
        let mut frame = |data| decoder.frame(&Frame { event: None, data }, &mut events);
        let failed = frames.find_map(|data| frame(data).err());
        failed.map(|error| error.to_string()).unwrap_or_default()
    };
    let long = "x".repeat(1 << 20);
    let start = r#"{"type":"message_start","message":{}}"#.to_owned();
    let block = |index: usize| {
        let block = format!(r#"{{"type":"thinking","signature":"{long}"}}"#);
        format!(r#"{{"type":"content_block_start","index":{index},"content_block":{block}}}"#)
    };
    let told = feed(Dialect::Anthropic, Box::new(std::iter::once(start.clone()).chain((0..40).map(block))));
    assert!(told.contains("wait for their ends"), "{told}");
    // Blocks that end leave room.
    let ended = |index: usize| [block(index), format!(r#"{{"type":"content_block_stop","index":{index}}}"#)];
    assert_eq!(feed(Dialect::Anthropic, Box::new(std::iter::once(start).chain((0..40).flat_map(ended)))), "");
    let call = |index: usize, id: &str, arguments: &str| {
        let call = format!(r#"{{"index":{index},"id":"{id}","function":{{"arguments":"{arguments}"}}}}"#);
        format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{call}]}}}}]}}"#)
    };
    let told = feed(Dialect::OpenAi, Box::new((0..40).map(|index| call(index, "i", &long[..100_000]))));
    assert!(told.contains("before their calls' names"), "{told}");
    let told = feed(Dialect::OpenAi, Box::new(std::iter::once(call(0, &long, ""))));
    assert!(told.contains("id is over 1024 bytes"), "{told}");
}
