//! Server-sent events as they arrive, after the WHATWG's rules
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>), with
//! two differences: bytes that are not UTF-8 are an error instead of being replaced, and an event
//! that the end of the stream cut off is handed on by [`FrameReader::finish`] (some servers leave
//! out the last blank line; half an event then fails as JSON). `id` and `retry` are not read: the
//! gateway never reconnects to a stream.

use super::json::mend_surrogates;
use std::collections::VecDeque;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The `event` field, where there is one and it is not empty.
    pub event: Option<String>,
    /// The `data` lines, joined by line feeds.
    pub data: String,
}

/// Bytes that are no stream of events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Bytes that are not UTF-8.
    #[error("the stream is not UTF-8 after {valid} valid bytes of a line")]
    NotUtf8 {
        /// Bytes of the line before the first wrong one.
        valid: usize,
    },
    /// One event is larger than the reader's bound.
    #[error("one event of the stream is larger than the limit of {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
}

/// Of a line's buffer, what is kept for the next.
const LINE_BYTES_KEPT: usize = 64 << 10;

/// Largest event a reader takes unless told otherwise, in bytes.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Cuts bytes, however they arrive, into events. What it keeps between two pushes is bounded by
/// `bytes_max`; events that one push completed wait for [`Self::next`].
#[derive(Debug)]
pub struct FrameReader {
    bytes_max: usize,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_return: bool,
    /// No line has ended yet: a byte order mark may stand here.
    at_start: bool,
    event: String,
    /// Every data line so far, each with a line feed behind it.
    data: String,
    ready: VecDeque<Frame>,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new(FRAME_BYTES_MAX)
    }
}

impl FrameReader {
    /// A reader of events of at most this many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            after_return: false,
            at_start: true,
            event: String::new(),
            data: String::new(),
            ready: VecDeque::new(),
        }
    }

    /// Reads more bytes. After an error the stream cannot be read on; events completed before it
    /// are still there.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() + self.data.len() > self.bytes_max {
                return Err(FrameError::TooLarge { bytes_max: self.bytes_max });
            }
            let Some(end) = end else {
                self.line.extend_from_slice(part);
                return Ok(());
            };
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if self.line.is_empty() {
                self.end_line(part)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(part);
                self.end_line(&line)?;
                // The buffer is kept for the next line, unless that one was long.
                if line.capacity() <= LINE_BYTES_KEPT {
                    line.clear();
                    self.line = line;
                }
            }
        }
        Ok(())
    }

    /// Bytes of an event that is not complete.
    pub fn kept_bytes(&self) -> usize {
        self.line.capacity() + self.data.capacity() + self.event.capacity()
    }

    /// The next complete event.
    // Not an iterator: None means "not yet".
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Frame> {
        self.ready.pop_front()
    }

    /// The stream is over: an event without its blank line counts as complete.
    pub fn finish(&mut self) -> Result<(), FrameError> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.end_line(&line)?;
        }
        self.dispatch();
        Ok(())
    }

    fn end_line(&mut self, mut line: &[u8]) -> Result<(), FrameError> {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch();
            return Ok(());
        }
        let line = std::str::from_utf8(line).map_err(|e| FrameError::NotUtf8 { valid: e.valid_up_to() })?;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                self.data.reserve(value.len() + 1);
                self.data.push_str(value);
                self.data.push('\n');
            }
            "event" => value.clone_into(&mut self.event),
            // An empty field name is a comment; others are not for us.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) {
        let event = std::mem::take(&mut self.event);
        if self.data.pop().is_some() {
            let event = (!event.is_empty()).then_some(event);
            let data = mended(std::mem::take(&mut self.data));
            self.ready.push_back(Frame { event, data });
        }
    }
}

/// Without halves of surrogate pairs, which some upstreams cut over two events.
fn mended(data: String) -> String {
    if !data.contains("\\u") {
        return data;
    }
    let mut bytes = data.into_bytes();
    mend_surrogates(&mut bytes);
    // Escapes have been replaced by escapes.
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&[u8]]) -> Result<Vec<(Option<String>, String)>, FrameError> {
        let mut reader = FrameReader::default();
        for part in parts {
            reader.push(part)?;
        }
        reader.finish()?;
        Ok(std::iter::from_fn(|| reader.next()).map(|frame| (frame.event, frame.data)).collect())
    }

    fn data(texts: &[&str]) -> Vec<(Option<String>, String)> {
        texts.iter().map(|text| (None, (*text).to_owned())).collect()
    }

    #[test]
    fn line_ends_comments_and_fields() {
        for end in ["\n", "\r\n", "\r"] {
            let text = "\u{feff}: hello|data: a|data:b|data:  c||event: x|id: 7|retry: 3|data||data: last|"
                .replace('|', end);
            let expected = vec![
                (None, "a\nb\n c".to_owned()),
                (Some("x".to_owned()), String::new()),
                (None, "last".to_owned()),
            ];
            assert_eq!(frames(&[text.as_bytes()]).unwrap(), expected, "{end:?}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(frames(&bytes).unwrap(), expected, "{end:?} byte by byte");
        }
        // An event without data is none, and its name does not stay.
        assert_eq!(frames(&[b"event: x\n\ndata: y\n\n"]).unwrap(), data(&["y"]));
        assert_eq!(frames(&[b"data: unfinished"]).unwrap(), data(&["unfinished"]));
        assert_eq!(frames(&[b"", b"\n\n\r\n"]).unwrap(), []);
        // A mark counts at the beginning only.
        assert_eq!(frames(&["data: a\n\n\u{feff}data: b\n\n".as_bytes()]).unwrap(), data(&["a"]));
    }

    #[test]
    fn a_character_cut_in_two_is_whole_and_half_a_character_an_error() {
        let text = "data: 数€\n\n".as_bytes();
        for cut in 0..=text.len() {
            assert_eq!(frames(&[&text[..cut], &text[cut..]]).unwrap(), data(&["数€"]), "{cut}");
        }
        assert_eq!(frames(&[b"data: \xe6\x95"]), Err(FrameError::NotUtf8 { valid: 6 }));
        assert_eq!(frames(&[b"data: \xff\n\n"]), Err(FrameError::NotUtf8 { valid: 6 }));
    }

    #[test]
    fn an_event_has_a_bound_and_a_stream_has_none() {
        let mut reader = FrameReader::new(64);
        for _ in 0..100 {
            reader.push(b"data: 0123456789\n\n").unwrap();
        }
        assert_eq!(std::iter::from_fn(|| reader.next()).count(), 100);
        // In one line, and in many short ones.
        let too_large = Err(FrameError::TooLarge { bytes_max: 64 });
        assert_eq!(FrameReader::new(64).push(&[b'x'; 65]), too_large);
        assert_eq!(reader.push(&b"data: 0123456789\n".repeat(7)), too_large);
    }
}
