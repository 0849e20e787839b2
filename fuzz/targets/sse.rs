//! What an upstream answers, streamed and whole, in both dialects: how the network cut it changes nothing, and
//! what was understood can be said in either dialect.
//!
//! The first byte chooses the dialect and how the rest is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use novastack::gateway::chat::{
    AnswerHead, ChatEvent, Dialect, EncodeOptions, FrameReader, Progress, StreamDecoder, StreamEncoder,
    decode_error, decode_whole, encode_whole,
};

const DIALECTS: [Dialect; 2] = [Dialect::OpenAi, Dialect::Anthropic];

/// The events of a stream that arrives in pieces of so many bytes, and whether it came to a good end. Calls without
/// an id are given random ones, so that all are left out.
fn decoded(dialect: Dialect, bytes: &[u8], piece: usize) -> (Vec<ChatEvent>, bool) {
    let (mut events, ended) = decoded_with_ids(dialect, bytes, piece);
    for event in &mut events {
        if let ChatEvent::ToolCall { id, .. } = event {
            id.clear();
        }
    }
    (events, ended)
}

fn decoded_with_ids(dialect: Dialect, bytes: &[u8], piece: usize) -> (Vec<ChatEvent>, bool) {
    let (mut reader, mut decoder, mut events) =
        (FrameReader::new(1 << 20), StreamDecoder::new(dialect), Vec::new());
    let mut pieces = bytes.chunks(piece);
    loop {
        let piece = pieces.next();
        let read = match piece {
            Some(piece) => reader.push(piece),
            None => reader.finish(),
        };
        while let Some(frame) = reader.next() {
            match decoder.frame(&frame, &mut events) {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => return (events, true),
                Err(_) => return (events, false),
            }
        }
        match (read, piece) {
            (Err(_), _) => return (events, false),
            (Ok(()), None) => return (events, decoder.end().is_ok()),
            (Ok(()), Some(_)) => {}
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let dialect = DIALECTS[usize::from(first & 1)];
    let whole = decoded(dialect, bytes, bytes.len().max(1));
    assert_eq!(
        whole,
        decoded(dialect, bytes, usize::from(first >> 1) + 1),
        "a cut of the network's changed events"
    );
    let _ = decode_error(400 + u16::from(*first), bytes);

    let head = AnswerHead { id: "1".into(), model: "m".into(), created_unix_s: 0 };
    for to in DIALECTS {
        let mut encoder = StreamEncoder::new(to, head.clone(), EncodeOptions::default());
        let mut out = String::new();
        if whole.0.iter().try_for_each(|event| encoder.event(event, &mut out)).is_ok() && whole.1 {
            encoder.finish(&mut out);
        }
        if let Ok(events) = decode_whole(dialect, bytes) {
            let _ = encode_whole(to, &head, &EncodeOptions::default(), &events);
        }
    }
});
