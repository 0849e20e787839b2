//! What encoders write, to the byte where it matters.

use super::super::custom_tools::CustomTools;
use super::super::{
    ChatEvent, Dialect, EncodeError, EncodeOptions, StopReason, StreamEncoder, TokenUsage, UpstreamError,
    encode_whole,
};
use super::{head, written};
use serde_json::json;

fn call(call: u32) -> ChatEvent {
    ChatEvent::ToolCall { choice: 0, call, id: format!("id{call}"), name: format!("f{call}") }
}

fn arguments(call: u32, json: &str) -> ChatEvent {
    ChatEvent::ToolArguments { choice: 0, call, json: json.into() }
}

fn answer() -> Vec<ChatEvent> {
    vec![
        ChatEvent::Start { id: Some("theirs".into()), model: Some("theirs".into()) },
        ChatEvent::Usage(TokenUsage {
            input: 9,
            cached: 4,
            cache_written: 2,
            cache_written_1h: 0,
            output: 1,
            reasoning: 0,
        }),
        ChatEvent::Reasoning { choice: 0, text: "h\"m".into() },
        ChatEvent::Text { choice: 0, text: "hi".into() },
        call(0),
        arguments(0, "{\"a\":"),
        arguments(0, "1}"),
        ChatEvent::Finish { choice: 0, reason: StopReason::ToolCalls },
        ChatEvent::Usage(TokenUsage {
            input: 9,
            cached: 4,
            cache_written: 2,
            cache_written_1h: 0,
            output: 7,
            reasoning: 3,
        }),
    ]
}

#[test]
fn anthropics_stream_to_the_byte() {
    let expected = r#"event: message_start
data: {"type":"message_start","message":{"id":"answer-1","type":"message","role":"assistant","model":"asked/for","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":3,"cache_creation_input_tokens":2,"cache_read_input_tokens":4,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"h\"m"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"hi"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"id0","name":"f0","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":3,"cache_creation_input_tokens":2,"cache_read_input_tokens":4,"output_tokens":7,"output_tokens_details":{"thinking_tokens":3}}}

event: message_stop
data: {"type":"message_stop"}

"#;
    assert_eq!(written(Dialect::Anthropic, &answer()), expected);
}

#[test]
fn openais_stream_to_the_byte() {
    let expected = r#"data: PREFIX,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}

data: PREFIX,"choices":[{"index":0,"delta":{"reasoning_content":"h\"m","reasoning":"h\"m"},"logprobs":null,"finish_reason":null}],"usage":null}

data: PREFIX,"choices":[{"index":0,"delta":{"content":"hi"},"logprobs":null,"finish_reason":null}],"usage":null}

data: PREFIX,"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"id0","type":"function","function":{"name":"f0","arguments":""}}]},"logprobs":null,"finish_reason":null}],"usage":null}

data: PREFIX,"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]},"logprobs":null,"finish_reason":null}],"usage":null}

data: PREFIX,"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]},"logprobs":null,"finish_reason":null}],"usage":null}

data: PREFIX,"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}],"usage":null}

data: PREFIX,"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7,"total_tokens":16,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":2},"completion_tokens_details":{"reasoning_tokens":3}}}

data: [DONE]

"#;
    let prefix = r#"{"id":"answer-1","object":"chat.completion.chunk","created":1700000000,"model":"asked/for","system_fingerprint":null"#;
    assert_eq!(written(Dialect::OpenAi, &answer()), expected.replace("PREFIX", prefix));
    // Without usage asked for there is none.
    let mut encoder = StreamEncoder::new(Dialect::OpenAi, head(), EncodeOptions::default());
    let mut out = String::new();
    answer().iter().for_each(|event| encoder.event(event, &mut out).unwrap());
    encoder.finish(&mut out);
    assert!(!out.contains("usage") && out.ends_with("data: [DONE]\n\n"), "{out}");
}

#[test]
fn whole_answers_in_both_shapes() {
    assert_eq!(
        encode_whole(Dialect::OpenAi, &head(), &EncodeOptions::default(), &answer()).unwrap(),
        json!({
            "id": "answer-1", "object": "chat.completion", "created": 1_700_000_000, "model": "asked/for",
            "system_fingerprint": null,
            "choices": [{
                "index": 0,
                "message": {
                    "role": "assistant", "content": "hi", "refusal": null, "reasoning_content": "h\"m", "reasoning": "h\"m",
                    "tool_calls": [{"id": "id0", "type": "function", "function": {"name": "f0", "arguments": "{\"a\":1}"}}],
                },
                "logprobs": null,
                "finish_reason": "tool_calls",
            }],
            "usage": {
                "prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
        })
    );
    assert_eq!(
        encode_whole(Dialect::Anthropic, &head(), &EncodeOptions::default(), &answer()).unwrap(),
        json!({
            "id": "answer-1", "type": "message", "role": "assistant", "model": "asked/for",
            "content": [
                {"type": "thinking", "thinking": "h\"m", "signature": ""},
                {"type": "text", "text": "hi"},
                {"type": "tool_use", "id": "id0", "name": "f0", "input": {"a": 1}},
            ],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {
                "input_tokens": 3, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 4,
                "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 3},
            },
        })
    );
}

#[test]
fn an_answer_without_events_is_still_whole() {
    let text = written(Dialect::Anthropic, &[]);
    let kinds: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(kinds, ["message_start", "message_delta", "message_stop"]);
    assert_eq!(written(Dialect::OpenAi, &[]), "data: [DONE]\n\n");
}

#[test]
fn the_prompts_tokens_that_the_gateway_counted_stand_at_the_start() {
    let options = EncodeOptions { input_tokens: 77, ..EncodeOptions::default() };
    let mut encoder = StreamEncoder::new(Dialect::Anthropic, head(), options);
    let mut out = String::new();
    encoder.event(&ChatEvent::Start { id: None, model: None }, &mut out).unwrap();
    assert_eq!(out, "");
    encoder.event(&ChatEvent::Text { choice: 0, text: "a".into() }, &mut out).unwrap();
    assert!(out.contains(r#""input_tokens":77"#), "{out}");
}

#[test]
fn a_call_is_written_at_once_where_the_one_before_it_is_whole() {
    let mut encoder = StreamEncoder::new(Dialect::Anthropic, head(), EncodeOptions::default());
    let mut say = |event: &ChatEvent| {
        let mut out = String::new();
        encoder.event(event, &mut out).map(|()| out)
    };
    say(&call(0)).unwrap();
    say(&arguments(0, "{\"a\":{}")).unwrap();
    // In pieces: the next one waits, and so does text.
    assert_eq!(say(&call(1)).unwrap(), "");
    assert_eq!(say(&arguments(1, "{}")).unwrap(), "");
    assert_eq!(say(&ChatEvent::Text { choice: 0, text: "then".into() }).unwrap(), "");
    let rest = say(&arguments(0, "}")).unwrap();
    let at = |word: &str| rest.find(word).unwrap_or_else(|| panic!("{word} in {rest}"));
    assert!(at("\"index\":0}") < at("id1") && at("id1") < at("then"), "{rest}");
    // Whole: the next one begins at once.
    assert!(say(&call(2)).unwrap().contains("id2"));
    assert!(say(&arguments(2, "{}")).unwrap().contains("{}"));
    assert!(say(&call(3)).unwrap().contains("id3"));
    assert_eq!(say(&arguments(2, " \n")).unwrap(), "", "white space after the end");
    assert_eq!(say(&arguments(2, "more")), Err(EncodeError::ClosedCall(2)));
    assert_eq!(say(&arguments(9, "{}")), Err(EncodeError::ClosedCall(9)));
}

#[test]
fn what_waits_is_bounded() {
    let mut encoder = StreamEncoder::new(Dialect::Anthropic, head(), EncodeOptions::default());
    let mut out = String::new();
    encoder.event(&call(0), &mut out).unwrap();
    encoder.event(&call(1), &mut out).unwrap();
    let piece = arguments(1, &"x".repeat(1 << 20));
    let failed = (0..20).find_map(|_| encoder.event(&piece, &mut out).err());
    assert_eq!(failed, Some(EncodeError::WaitingTooLarge { bytes_max: 2 << 20 }));
}

#[test]
fn arguments_that_are_no_object_have_no_place_in_a_whole_message() {
    let with = |json: &str, reason: StopReason| {
        let events = [call(0), arguments(0, json), ChatEvent::Finish { choice: 0, reason }];
        encode_whole(Dialect::Anthropic, &head(), &EncodeOptions::default(), &events)
    };
    let error = with("{\"a\":", StopReason::ToolCalls).unwrap_err();
    assert!(error.to_string().contains("`f0`") && error.to_string().contains("{\"a\":"), "{error}");
    assert!(with("[1]", StopReason::ToolCalls).is_err());
    assert_eq!(with("", StopReason::ToolCalls).unwrap()["content"][0]["input"], json!({}));
    let cut = with("{\"a\":", StopReason::Length).unwrap();
    assert_eq!((&cut["content"][0]["input"], &cut["stop_reason"]), (&json!({}), &json!("max_tokens")));
}

#[test]
fn stop_reasons_in_both_dialects() {
    use StopReason::*;
    for (reason, openai, anthropic) in [
        (End, "stop", "end_turn"),
        (StopSequence(Some("x".into())), "stop", "stop_sequence"),
        (Length, "length", "max_tokens"),
        (ToolCalls, "tool_calls", "tool_use"),
        (Refusal, "content_filter", "refusal"),
        (Pause, "stop", "pause_turn"),
        (Other("insufficient_system_resource".into()), "insufficient_system_resource", "end_turn"),
    ] {
        let events = [ChatEvent::Finish { choice: 0, reason }];
        let value = encode_whole(Dialect::OpenAi, &head(), &EncodeOptions::default(), &events).unwrap();
        assert_eq!(value["choices"][0]["finish_reason"], openai);
        let value = encode_whole(Dialect::Anthropic, &head(), &EncodeOptions::default(), &events).unwrap();
        assert_eq!(value["stop_reason"], anthropic);
        assert!(written(Dialect::OpenAi, &events).contains(&format!(r#""finish_reason":"{openai}""#)));
        assert!(written(Dialect::Anthropic, &events).contains(&format!(r#""stop_reason":"{anthropic}""#)));
    }
}

#[test]
fn errors_in_a_stream() {
    let error = UpstreamError { code: Some("x".into()), ..UpstreamError::new(429, "slow down") };
    for (dialect, expected) in [
        (
            Dialect::OpenAi,
            "data: {\"error\":{\"message\":\"slow down\",\"type\":\"rate_limit_error\",\"param\":null,\"code\":\"x\"}}\n\n",
        ),
        (
            Dialect::Anthropic,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow down\"}}\n\n",
        ),
    ] {
        let mut out = String::new();
        StreamEncoder::new(dialect, head(), EncodeOptions::default()).error(&error, &mut out);
        assert_eq!(out, expected);
        let (_, result) = super::read(dialect, [out.as_bytes()]);
        assert!(result.unwrap_err().to_string().contains("slow down"));
    }
}

/// Writes every transcript in both dialects, streamed and whole, for `tests/sdk/check_dialect.py`.
#[test]
#[ignore = "writes files for the SDKs to read; needs NOVASTACK_DIALECT_OUT"]
fn write_for_the_sdks() {
    let folder = std::path::PathBuf::from(std::env::var("NOVASTACK_DIALECT_OUT").unwrap());
    for (name, dialect, bytes) in super::TRANSCRIPTS {
        let (events, result) = super::read(*dialect, [*bytes]);
        if result.is_err() {
            continue;
        }
        for (to, ending) in [(Dialect::OpenAi, "openai"), (Dialect::Anthropic, "anthropic")] {
            let value = encode_whole(to, &head(), &EncodeOptions::default(), &events).unwrap();
            std::fs::write(folder.join(format!("{name}.{ending}.json")), value.to_string()).unwrap();
            std::fs::write(folder.join(format!("{name}.{ending}.sse")), written(to, &events)).unwrap();
        }
    }
}

#[test]
fn calls_of_custom_tools_are_told_with_their_text() {
    let body = json!({"tools": [{"type": "custom", "custom": {"name": "f0"}}]});
    let options = EncodeOptions { custom_tools: CustomTools::of(&body), ..EncodeOptions::default() };
    let events = [
        call(0),
        arguments(0, r#"{"input": "a \"b"#),
        arguments(0, r#"\" c"}"#),
        call(1),
        arguments(1, "{}"),
        ChatEvent::Finish { choice: 0, reason: StopReason::ToolCalls },
    ];
    let whole = encode_whole(Dialect::OpenAi, &head(), &options, &events).unwrap();
    let calls = &whole["choices"][0]["message"]["tool_calls"];
    assert_eq!(
        calls[0],
        json!({"id": "id0", "type": "custom", "custom": {"name": "f0", "input": "a \"b\" c"}})
    );
    assert_eq!(calls[1]["function"], json!({"name": "f1", "arguments": "{}"}));
    let mut encoder = StreamEncoder::new(Dialect::OpenAi, head(), options);
    let mut out = String::new();
    events.iter().for_each(|event| encoder.event(event, &mut out).unwrap());
    let frames = out.lines().filter_map(|line| line.strip_prefix("data: "));
    let frames = frames.map(|data| serde_json::from_str::<serde_json::Value>(data).unwrap());
    let calls: Vec<_> = frames.map(|frame| frame["choices"][0]["delta"]["tool_calls"][0].clone()).collect();
    let input: String = calls.iter().filter_map(|call| call["custom"]["input"].as_str()).collect();
    assert_eq!(input, "a \"b\" c", "{out}");
    assert!(calls.iter().any(|call| call["type"] == "custom" && call["id"] == "id0"), "{out}");
}
