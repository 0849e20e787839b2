//! Time per chunk, printed: `cargo test --release --lib dialect::tests::speed -- --ignored --nocapture`.

use super::super::{Dialect, EncodeOptions, FrameReader, Progress, StreamDecoder, StreamEncoder, pass};
use std::time::Instant;

const CHUNKS: usize = 200_000;

fn stream(dialect: Dialect) -> (String, String, String) {
    match dialect {
        Dialect::OpenAi => (
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n".into(),
            "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" hello\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n".into(),
            "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n".into(),
        ),
        Dialect::Anthropic => (
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\"}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n".into(),
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" hello\"}}\n\n".into(),
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".into(),
        ),
        Dialect::Responses => unreachable!("two are measured"),
    }
}

#[test]
#[ignore = "prints times; nothing to assert"]
fn time_per_chunk() {
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let (start, chunk, end) = stream(dialect);
        for (passes, encode) in
            [(false, None), (true, None), (false, Some(Dialect::OpenAi)), (false, Some(Dialect::Anthropic))]
        {
            let (mut frames, mut decoder) = (FrameReader::default(), StreamDecoder::new(dialect));
            let mut encoder =
                encode.map(|to| StreamEncoder::new(to, super::head(), EncodeOptions::default()));
            let (mut events, mut out) = (Vec::new(), String::new());
            let (mut bytes, mut done) = (0, false);
            let began = Instant::now();
            for i in 0..CHUNKS + 2 {
                let piece = if i == 0 {
                    &start
                } else if i <= CHUNKS {
                    &chunk
                } else {
                    &end
                };
                frames.push(piece.as_bytes()).unwrap();
                while let Some(frame) = frames.next() {
                    done = decoder.frame(&frame, &mut events).unwrap() == Progress::Done;
                    if passes && !pass::is_usage_only(&frame.data) {
                        pass::write(&frame, "our/model", &mut out);
                    }
                }
                for event in events.drain(..) {
                    if let Some(encoder) = &mut encoder {
                        encoder.event(&event, &mut out).unwrap();
                    }
                }
                bytes += out.len();
                out.clear();
            }
            let ns = began.elapsed().as_nanos() / CHUNKS as u128;
            assert!(done);
            println!(
                "{dialect:?} decoded, passed on: {passes}, encoded as {encode:?}: {ns} ns a chunk, {bytes} bytes out"
            );
        }
    }
}
