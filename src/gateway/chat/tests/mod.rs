//! Tests of the codecs over streams written after the providers' documentation
//! (`tests/dialect/transcripts`).

mod anthropics_own;
mod decoding;
mod described;
mod encoding;
mod fitting;
mod fuzz;
mod meaning;
mod providers;
mod requests;
mod speed;
mod translation;

use super::{AnswerHead, ChatEvent, DecodeError, Dialect, EncodeOptions, FrameReader, Progress};
use super::{StreamDecoder, StreamEncoder};

macro_rules! transcript {
    ($dialect:ident, $name:literal) => {
        (
            $name,
            Dialect::$dialect,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialect/transcripts/", $name, ".sse")),
        )
    };
}

/// Every transcript and its dialect.
pub const TRANSCRIPTS: &[(&str, Dialect, &[u8])] = &[
    transcript!(OpenAi, "openai_text"),
    transcript!(OpenAi, "openai_tools"),
    transcript!(OpenAi, "openai_two_choices"),
    transcript!(OpenAi, "openai_refusal"),
    transcript!(OpenAi, "deepseek_reasoning"),
    transcript!(OpenAi, "vllm_reasoning_stop"),
    transcript!(OpenAi, "vllm_error"),
    transcript!(OpenAi, "kin_interleaved_calls"),
    transcript!(OpenAi, "kin_calls_without_ids"),
    transcript!(OpenAi, "kin_calls_all_index_0"),
    transcript!(OpenAi, "openrouter_signed"),
    transcript!(Anthropic, "anthropic_text"),
    transcript!(Anthropic, "anthropic_thinking"),
    transcript!(Anthropic, "anthropic_tools"),
    transcript!(Anthropic, "anthropic_error"),
    transcript!(Anthropic, "anthropic_server_tool"),
    transcript!(Anthropic, "anthropic_refusal"),
];

pub fn named(name: &str) -> (Dialect, &'static [u8]) {
    let found = TRANSCRIPTS.iter().find(|(this, ..)| *this == name);
    let (_, dialect, bytes) = found.expect("the transcript is listed");
    (*dialect, bytes)
}

/// What a stream's reader sees: the events up to its end or to its error.
pub type Read = (Vec<ChatEvent>, Result<(), DecodeError>);

/// Reads a stream that arrives in these pieces.
pub fn read<'a>(dialect: Dialect, pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut events = Vec::new();
    let result = read_into(dialect, pieces, &mut events);
    (with_fixed_ids(events), result)
}

fn read_into<'a>(
    dialect: Dialect,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    events: &mut Vec<ChatEvent>,
) -> Result<(), DecodeError> {
    let (mut frames, mut decoder) = (FrameReader::default(), StreamDecoder::new(dialect));
    let drain = |frames: &mut FrameReader, decoder: &mut StreamDecoder, events: &mut Vec<ChatEvent>| {
        while let Some(frame) = frames.next() {
            if decoder.frame(&frame, events)? == Progress::Done {
                break;
            }
        }
        Ok::<(), DecodeError>(())
    };
    for piece in pieces {
        frames.push(piece)?;
        drain(&mut frames, &mut decoder, events)?;
    }
    frames.finish()?;
    drain(&mut frames, &mut decoder, events)?;
    decoder.end()
}

/// Ids that the decoder made up are random: they become `made-up-CALL`.
fn with_fixed_ids(mut events: Vec<ChatEvent>) -> Vec<ChatEvent> {
    for event in &mut events {
        if let ChatEvent::ToolCall { call, id, .. } = event
            && let Some(random) = id.strip_prefix("call_")
            && random.len() == 24
            && random.bytes().all(|b| b.is_ascii_hexdigit())
        {
            *id = format!("made-up-{call}");
        }
    }
    events
}

/// The events with neighbours of a kind joined, sorted by choice, the last usage at the end and
/// the upstream's names left out: what any way through the codecs has to keep.
pub fn essence(events: &[ChatEvent]) -> Vec<ChatEvent> {
    let mut joined: Vec<ChatEvent> = Vec::new();
    let mut usage = None;
    let mut sorted: Vec<&ChatEvent> = events.iter().collect();
    sorted.sort_by_key(|event| {
        let call = match event {
            ChatEvent::ToolCall { call, .. } | ChatEvent::ToolArguments { call, .. } => *call,
            ChatEvent::Finish { .. } => u32::MAX,
            _ => 0,
        };
        (event.choice(), call)
    });
    for event in sorted {
        match (event, joined.last_mut()) {
            (ChatEvent::Start { .. }, _) => {}
            (ChatEvent::Usage(tokens), _) => usage = Some(ChatEvent::Usage(*tokens)),
            (ChatEvent::Text { choice, text }, Some(ChatEvent::Text { choice: c, text: all }))
            | (ChatEvent::Refusal { choice, text }, Some(ChatEvent::Refusal { choice: c, text: all }))
            | (ChatEvent::Reasoning { choice, text }, Some(ChatEvent::Reasoning { choice: c, text: all }))
                if choice == c =>
            {
                all.push_str(text);
            }
            (
                ChatEvent::ToolArguments { choice, call, json },
                Some(ChatEvent::ToolArguments { choice: c, call: n, json: all }),
            ) if (choice, call) == (c, n) => all.push_str(json),
            (event, _) => joined.push(event.clone()),
        }
    }
    joined.extend(usage);
    joined
}

pub fn head() -> AnswerHead {
    AnswerHead { id: "answer-1".into(), model: "asked/for".into(), created_unix_s: 1_700_000_000 }
}

/// Writes events as a stream.
pub fn written(dialect: Dialect, events: &[ChatEvent]) -> String {
    let options = EncodeOptions { include_usage: true, ..EncodeOptions::default() };
    let mut encoder = StreamEncoder::new(dialect, head(), options);
    let mut out = String::new();
    for event in events {
        encoder.event(event, &mut out).expect("these events can be said");
    }
    encoder.finish(&mut out);
    out
}
