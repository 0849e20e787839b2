//! What decoders make of each transcript, however it is cut, and of what is no answer.

use super::super::{
    ChatEvent, DecodeError, Dialect, ErrorKind, FrameError, StopReason, TokenUsage, decode_whole,
};
use super::{Read, TRANSCRIPTS, essence, named, read};
use proptest::prelude::*;

fn of(name: &str) -> Read {
    let (dialect, bytes) = named(name);
    read(dialect, [bytes])
}

/// The essence in short lines.
fn lines(events: &[ChatEvent]) -> Vec<String> {
    let line = |event: &ChatEvent| match event {
        ChatEvent::Start { .. } => "start".to_owned(),
        ChatEvent::Tokens { choice, ids, .. } => format!("{choice} tokens {ids:?}"),
        ChatEvent::Text { choice, text } => format!("{choice} text {text}"),
        ChatEvent::Reasoning { choice, text } => format!("{choice} reasoning {text}"),
        ChatEvent::Signature { choice, signature } => format!("{choice} signature {signature}"),
        ChatEvent::RedactedReasoning { choice, data } => format!("{choice} redacted {data}"),
        ChatEvent::Refusal { choice, text } => format!("{choice} refusal {text}"),
        ChatEvent::ToolCall { choice, call, id, name } => format!("{choice} call {call} {id} {name}"),
        ChatEvent::ToolArguments { choice, call, json } => format!("{choice} arguments {call} {json}"),
        ChatEvent::Finish { choice, reason } => format!("{choice} finish {reason:?}"),
        ChatEvent::Usage(u) => {
            format!("usage {} {} {} {} {}", u.input, u.cached, u.cache_written, u.output, u.reasoning)
        }
    };
    essence(events).iter().map(line).collect()
}

#[test]
fn what_each_transcript_says() {
    let cases: &[(&str, &[&str])] = &[
        ("openai_text", &["0 text Hello \"Wörld\"\n数学 🙂", "0 finish End", "usage 1117 1024 0 46 0"]),
        (
            "openai_tools",
            &[
                "0 call 0 call_DdmO9pD3xa9XTPNJ32zg2hcA get_weather",
                r#"0 arguments 0 {"location":"Paris, France"}"#,
                "0 call 1 call_abc2 get_time",
                r#"0 arguments 1 {"zone":"CET"}"#,
                "0 finish ToolCalls",
                "usage 82 0 0 37 0",
            ],
        ),
        ("openai_two_choices", &["0 text heads", "0 finish Length", "1 text tails", "1 finish End"]),
        ("openai_refusal", &["0 refusal I'm sorry, I can't assist with that.", "0 finish End"]),
        (
            "deepseek_reasoning",
            &["0 reasoning 9.11 is less", "0 text 9.8 is greater.", "0 finish End", "usage 17 12 0 9 4"],
        ),
        (
            "vllm_reasoning_stop",
            &[
                "0 reasoning Let me think.",
                "0 text 答え: 4",
                "0 finish StopSequence(Some(\"END\"))",
                "usage 21 0 0 5 0",
            ],
        ),
        (
            "kin_interleaved_calls",
            &[
                "0 text I call both.",
                "0 call 0 functions.a:0 a",
                r#"0 arguments 0 {"x":1}"#,
                "0 call 1 functions.b:1 b",
                r#"0 arguments 1 {"y":[2,3]}"#,
                "0 call 2 functions.c:2 c",
                "0 arguments 2 {}",
                "0 finish ToolCalls",
            ],
        ),
        (
            // The total shows that reasoning is not in the completion's tokens.
            "kin_calls_without_ids",
            &[
                "0 call 0 made-up-0 a",
                r#"0 arguments 0 {"x":1}"#,
                "0 call 1 made-up-1 b",
                r#"0 arguments 1 {"y":2}"#,
                "0 call 2 made-up-2 c",
                r#"0 arguments 2 {"z":3}"#,
                "0 finish End",
                "usage 5 0 0 17 10",
            ],
        ),
        (
            "kin_calls_all_index_0",
            &[
                "0 call 0 one a",
                "0 arguments 0 {}",
                "0 call 1 two b",
                "0 arguments 1 {}",
                "0 finish ToolCalls",
            ],
        ),
        (
            "openrouter_signed",
            &["0 reasoning Sum it.", "0 signature EqQBCg==", "0 text 5", "0 finish End", "usage 10 0 0 20 8"],
        ),
        (
            "anthropic_text",
            &["0 text Hello! 数学 \"q\"", "0 finish StopSequence(Some(\"END\"))", "usage 1035 1000 10 15 0"],
        ),
        (
            "anthropic_thinking",
            &[
                "0 reasoning Let me solve this step by step:\n\n1. First break down 27 * 453\n2. 453 = 400 + 50 + 3",
                "0 signature EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds...",
                "0 redacted EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIwxtE3rAFBa8cr3qpP",
                "0 text 27 * 453 = 12,231",
                "0 finish End",
                "usage 25 0 0 90 60",
            ],
        ),
        (
            "anthropic_tools",
            &[
                "0 text Okay, let's check:",
                "0 call 0 toolu_01T1x1fJ34qAmk2tNTrN7Up6 get_weather",
                r#"0 arguments 0 {"location": "San Francisco, CA", "unit": "fahrenheit"}"#,
                "0 call 1 toolu_02 get_time",
                "0 arguments 1 {}",
                "0 call 2 toolu_03 whole_at_start",
                r#"0 arguments 2 {"a":[1]}"#,
                "0 finish ToolCalls",
                "usage 472 0 0 89 0",
            ],
        ),
        ("anthropic_server_tool", &["0 text I'll check. Sunny.", "0 finish End", "usage 10682 0 0 510 0"]),
        ("anthropic_refusal", &["0 refusal Not this.", "0 finish Refusal", "usage 25 0 0 3 0"]),
    ];
    for (name, expected) in cases {
        let (events, result) = of(name);
        assert_eq!(result, Ok(()), "{name}");
        assert_eq!(lines(&events), *expected, "{name}");
        assert!(matches!(events[0], ChatEvent::Start { .. }), "{name}");
    }
    assert_eq!(cases.len() + 2, TRANSCRIPTS.len(), "the two others are errors");
    let start = ChatEvent::Start {
        id: Some("1f633d8bfc032625086f14113c411638".into()),
        model: Some("deepseek-reasoner".into()),
    };
    assert_eq!(of("deepseek_reasoning").0[0], start);
}

#[test]
fn errors_within_a_stream() {
    for (name, text, status, kind) in [
        ("anthropic_error", "0 text Hel", 529, ErrorKind::Overloaded),
        ("vllm_error", "0 text One", 500, ErrorKind::Server),
    ] {
        let (events, result) = of(name);
        assert!(lines(&events).contains(&text.to_owned()), "{name}");
        let Err(DecodeError::Upstream(error)) = result else { panic!("{name}: {result:?}") };
        assert_eq!((error.status, error.kind), (status, kind));
    }
}

#[test]
fn every_cut_in_two_and_byte_by_byte_give_the_same_events() {
    for (name, dialect, bytes) in TRANSCRIPTS {
        let whole = read(*dialect, [*bytes]);
        assert!(whole.0.len() > 1, "{name}");
        for cut in 1..bytes.len() {
            assert_eq!(read(*dialect, [&bytes[..cut], &bytes[cut..]]), whole, "{name} cut at {cut}");
        }
        assert_eq!(read(*dialect, bytes.chunks(1)), whole, "{name} byte by byte");
    }
}

proptest! {
    #[test]
    fn any_cuts_give_the_same_events(which in 0..TRANSCRIPTS.len(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let (_, dialect, bytes) = TRANSCRIPTS[which];
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces = at.windows(2).map(|two| &bytes[two[0]..two[1]]);
        prop_assert_eq!(read(dialect, pieces), read(dialect, [bytes]));
    }

    /// Damaged streams end in events or an error, never in a panic; a stream that is cut before
    /// its last choice finished is never taken for whole.
    #[test]
    fn damage_is_survived(which in 0..TRANSCRIPTS.len(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let (_, dialect, bytes) = TRANSCRIPTS[which];
        let mut damaged = bytes.to_vec();
        let at = at.index(bytes.len());
        damaged[at] = with;
        let _ = read(dialect, [&*damaged]);
        let (events, result) = read(dialect, [&bytes[..at]]);
        let finished = events.iter().any(|event| matches!(event, ChatEvent::Finish { .. }));
        prop_assert!(finished || result.is_err(), "cut at {}: {:?}", at, events);
    }
}

#[test]
fn streams_that_are_none_or_end_early() {
    let read_one = |dialect, text: &str| read(dialect, [text.as_bytes()]).1.unwrap_err();
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        assert!(matches!(read_one(dialect, ""), DecodeError::EndedEarly(_)));
        let html = read_one(dialect, "data: <html><h1>busy</h1>\n\n");
        assert!(html.to_string().contains("not JSON") && html.to_string().contains("<h1>busy"), "{html}");
        assert!(matches!(read_one(dialect, "data: {\"id\":\"x\",\"choi"), DecodeError::NotJson { .. }));
        assert!(matches!(read_one(dialect, "data: {}\n\n"), DecodeError::WrongShape { .. }));
        assert!(matches!(read_one(dialect, "data: [1]\n\n"), DecodeError::WrongShape { .. }));
        let half = [&b"data: \xe6\x95"[..]];
        assert_eq!(read(dialect, half).1, Err(DecodeError::Frame(FrameError::NotUtf8 { valid: 6 })));
    }
    assert!(matches!(read_one(Dialect::OpenAi, "data: [DONE]\n\n"), DecodeError::EndedEarly(_)));
    // [DONE] finishes what named no reason; without it the stream is cut off.
    let chunk = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    let done = format!("{chunk}data: [DONE]\n\ndata: not read\n\n");
    let (events, result) = read(Dialect::OpenAi, [done.as_bytes()]);
    assert_eq!((lines(&events), result), (vec!["0 text a".into(), "0 finish End".into()], Ok(())));
    assert!(matches!(read_one(Dialect::OpenAi, chunk), DecodeError::EndedEarly(_)));
    // A finish without [DONE] is an end.
    let finished = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"odd\"}]}\n\n";
    let (events, result) = read(Dialect::OpenAi, [finished.as_bytes()]);
    assert_eq!(result, Ok(()));
    assert_eq!(
        events.last(),
        Some(&ChatEvent::Finish { choice: 0, reason: StopReason::Other("odd".into()) })
    );
    let nameless = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{}\"}}]},\"finish_reason\":\"stop\"}]}\n\n";
    assert!(read_one(Dialect::OpenAi, nameless).to_string().contains("no name"));
    let far = "data: {\"choices\":[{\"index\":4000000000,\"delta\":{}}]}\n\n";
    assert!(read_one(Dialect::OpenAi, far).to_string().contains("at most 127"));
}

#[test]
fn a_call_in_one_delta_or_in_200_is_the_same_call() {
    let json = format!(r#"{{"text":"{}"}}"#, "ab\\\"c".repeat(120));
    let chunk = |delta: serde_json::Value, reason: Option<&str>| {
        let choice = serde_json::json!({"index": 0, "delta": delta, "finish_reason": reason});
        format!("data: {}\n\n", serde_json::json!({"id": "x", "choices": [choice]}))
    };
    let stream = |pieces: usize| {
        let mut text = chunk(
            serde_json::json!({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]}),
            None,
        );
        for piece in json.as_bytes().chunks(json.len().div_ceil(pieces)) {
            let piece = std::str::from_utf8(piece).unwrap();
            text += &chunk(
                serde_json::json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}),
                None,
            );
        }
        text + &chunk(serde_json::json!({}), Some("tool_calls")) + "data: [DONE]\n\n"
    };
    let expected =
        vec!["0 call 0 t f".to_owned(), format!("0 arguments 0 {json}"), "0 finish ToolCalls".into()];
    for pieces in [1, 2, 200] {
        let (events, result) = read(Dialect::OpenAi, [stream(pieces).as_bytes()]);
        assert_eq!((lines(&events), result), (expected.clone(), Ok(())), "{pieces}");
    }
}

#[test]
fn whole_answers() {
    let openai = r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi","reasoning_content":"think","refusal":null,"tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},"finish_reason":"tool_calls","logprobs":null}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":2}}}"#;
    let anthropic = r#"{"id":"c","type":"message","role":"assistant","model":"m","content":[{"type":"thinking","thinking":"think","signature":""},{"type":"text","text":"hi"},{"type":"tool_use","id":"t","name":"f","input":{"a":1}}],"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":1,"cache_read_input_tokens":2,"output_tokens":4}}"#;
    let expected = vec![
        ChatEvent::Start { id: Some("c".into()), model: Some("m".into()) },
        ChatEvent::Reasoning { choice: 0, text: "think".into() },
        ChatEvent::Text { choice: 0, text: "hi".into() },
        ChatEvent::ToolCall { choice: 0, call: 0, id: "t".into(), name: "f".into() },
        ChatEvent::ToolArguments { choice: 0, call: 0, json: r#"{"a":1}"#.into() },
        ChatEvent::Finish { choice: 0, reason: StopReason::ToolCalls },
        ChatEvent::Usage(TokenUsage {
            input: 3,
            cached: 2,
            cache_written: 0,
            cache_written_1h: 0,
            output: 4,
            reasoning: 0,
        }),
    ];
    assert_eq!(decode_whole(Dialect::OpenAi, openai.as_bytes()).unwrap(), expected);
    assert_eq!(decode_whole(Dialect::Anthropic, anthropic.as_bytes()).unwrap(), expected);
    // No reason given; the usage stays last.
    let bare =
        r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let events = decode_whole(Dialect::OpenAi, bare.as_bytes()).unwrap();
    assert_eq!(lines(&events), ["0 text x", "0 finish End", "usage 1 0 0 1 0"]);
    assert!(matches!(events.last(), Some(ChatEvent::Usage(_))));
    // Parts as Mistral writes them.
    let parts = r#"{"choices":[{"message":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"x"}]},"finish_reason":"stop"}]}"#;
    let events = decode_whole(Dialect::OpenAi, parts.as_bytes()).unwrap();
    assert_eq!(lines(&events), ["0 reasoning hm", "0 text x", "0 finish End"]);
    for cut in 0..openai.len() {
        assert!(decode_whole(Dialect::OpenAi, &openai.as_bytes()[..cut]).is_err(), "cut at {cut}");
    }
    for cut in 0..anthropic.len() {
        assert!(decode_whole(Dialect::Anthropic, &anthropic.as_bytes()[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn whole_answers_that_are_none() {
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let fails = |body: &[u8]| decode_whole(dialect, body).unwrap_err();
        let long = format!("<html>{}", "x".repeat(5000));
        let html = fails(long.as_bytes()).to_string();
        assert!(html.contains("<html>xxx") && html.len() < 400, "{html}");
        assert!(matches!(fails(b""), DecodeError::NotJson { .. }));
        assert!(matches!(fails(b"{\"a\":\"\xff\"}"), DecodeError::NotJson { .. }));
        for shape in [&b"[]"[..], b"3", b"{}", b"{\"choices\":7,\"content\":7}", b"{\"choices\":[],\"x\":[]}"]
        {
            let error = fails(shape);
            assert!(matches!(error, DecodeError::WrongShape { .. }), "{error}");
        }
        let error = fails(br#"{"error":{"message":"no credit","code":402}}"#);
        let DecodeError::Upstream(error) = error else { panic!("{error}") };
        assert_eq!((error.status, error.kind), (402, ErrorKind::Billing));
    }
}
