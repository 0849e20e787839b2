//! Token ids to text as they come, for one choice.
//!
//! Two stages. Bytes to text: a token may hold part of a character, which is kept back until
//! it is whole or known to be broken, so that the text is what decoding everything at once
//! gives. Text to output: a text that may be the beginning of a stop string is kept back.
//!
//! Stop strings: the one whose last character comes first ends the choice, the longest if
//! several end there; so the result depends on the text alone, not on where tokens end. Cost
//! per token is bounded by the token's text (times the number of stop strings), whatever came
//! before. Absent on purpose: token counts, which are the engine's.

use super::Tokenizer;
use crate::protocol::TokenId;
use std::sync::Arc;

/// Turns a choice's tokens into text as they come: UTF-8 is never split, text that may be the
/// start of a stop string is held back.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    decoding: Decoding,
    stops: Stops,
}

/// What one more token made of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextDelta {
    /// Text that is now certain; may be empty.
    pub text: String,
    /// The stop string that was found: the choice is over, and neither the stop string nor what
    /// follows it is in `text` (unless `include_stop` was set).
    pub stopped: Option<String>,
}

impl Detokenizer {
    /// For one choice. `stops` are non-empty strings.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        skip_special: bool,
        stops: Vec<String>,
        include_stop: bool,
    ) -> Self {
        let decoding = if tokenizer.is_byte_level() {
            Decoding::Bytes(Vec::new())
        } else {
            Decoding::Window { ids: Vec::new(), shown: 0 }
        };
        Self { tokenizer, skip_special, decoding, stops: Stops::new(stops, include_stop) }
    }

    /// One more token. After a stop string nothing comes any more.
    pub fn push(&mut self, token: TokenId) -> TextDelta {
        if self.stops.ended || (self.skip_special && self.tokenizer.is_special(token)) {
            return TextDelta::default();
        }
        let text = self.decoding.push(&self.tokenizer, token);
        self.stops.push(&text)
    }

    /// The output has ended: whatever was held back.
    pub fn finish(&mut self) -> String {
        if self.stops.ended {
            return String::new();
        }
        let rest = self.decoding.finish(&self.tokenizer);
        let mut text = self.stops.push(&rest).text;
        text.push_str(&self.stops.finish());
        text
    }
}

/// Ids to text.
#[derive(Debug)]
enum Decoding {
    /// Byte-level vocabularies: bytes of a character that is not whole yet, at most 3.
    Bytes(Vec<u8>),
    /// Other vocabularies, where a token's text depends on its neighbours (sentencepiece drops
    /// the first space and joins byte tokens): the last tokens, of which the first `shown` are
    /// in the output and serve as context.
    Window { ids: Vec<TokenId>, shown: usize },
}

/// Tokens that wait for a character to become whole; four bytes make any character, so more
/// are broken.
const WINDOW_HELD_MAX: usize = 8;

impl Decoding {
    fn push(&mut self, tokenizer: &Tokenizer, token: TokenId) -> String {
        match self {
            Decoding::Bytes(held) => {
                held.extend(tokenizer.token_bytes(token));
                take_whole_characters(held)
            }
            Decoding::Window { ids, shown } => {
                ids.push(token);
                let text = window_text(tokenizer, ids, *shown);
                let incomplete = text.is_empty() || text.ends_with('\u{fffd}');
                if incomplete && ids.len() - *shown < WINDOW_HELD_MAX {
                    return String::new();
                }
                ids.drain(..*shown);
                *shown = ids.len();
                text
            }
        }
    }

    fn finish(&mut self, tokenizer: &Tokenizer) -> String {
        match self {
            Decoding::Bytes(held) => String::from_utf8_lossy(&std::mem::take(held)).into_owned(),
            Decoding::Window { ids, shown } => {
                let text = window_text(tokenizer, ids, *shown);
                ids.clear();
                *shown = 0;
                text
            }
        }
    }
}

/// Takes all that is decided from `held`: whole characters, and U+FFFD for what can't become one.
fn take_whole_characters(held: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut decided = 0;
    for chunk in held.utf8_chunks() {
        text.push_str(chunk.valid());
        decided += chunk.valid().len();
        let (invalid, last) = (chunk.invalid(), decided + chunk.invalid().len() == held.len());
        match std::str::from_utf8(invalid) {
            // A character's beginning, and nothing has come after it.
            Err(error) if error.error_len().is_none() && last => break,
            Err(_) => text.push(char::REPLACEMENT_CHARACTER),
            Ok(_) => {}
        }
        decided += invalid.len();
    }
    held.drain(..decided);
    text
}

/// What the tokens after the first `shown` add to the text of those.
fn window_text(tokenizer: &Tokenizer, ids: &[TokenId], shown: usize) -> String {
    let decode = |ids: &[TokenId]| tokenizer.decode(ids, false).unwrap_or_default();
    let (context, all) = (decode(&ids[..shown]), decode(ids));
    let same = all.chars().zip(context.chars()).take_while(|(a, b)| a == b);
    let common: usize = same.map(|(c, _)| c.len_utf8()).sum();
    all[common..].to_owned()
}

/// Finds stop strings in a growing text and holds back what may become one.
#[derive(Debug)]
struct Stops {
    searches: Vec<Search>,
    include_stop: bool,
    /// The longest suffix of the text that begins a stop string.
    held: String,
    /// A stop string was found or the output is over.
    ended: bool,
}

/// Knuth, Morris and Pratt's search for one string.
#[derive(Debug)]
struct Search {
    stop: String,
    /// For every prefix length, the length of its longest proper suffix that is a prefix too.
    fallback: Vec<usize>,
    /// Bytes of `stop` that the text ends with.
    matched: usize,
}

impl Search {
    fn new(stop: String) -> Self {
        let bytes = stop.as_bytes();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut length = 0;
        for index in 1..bytes.len() {
            while length > 0 && bytes[index] != bytes[length] {
                length = fallback[length];
            }
            length += usize::from(bytes[index] == bytes[length]);
            fallback[index + 1] = length;
        }
        Self { stop, fallback, matched: 0 }
    }

    /// Whether the text now ends with the stop string.
    fn advance(&mut self, byte: u8) -> bool {
        let bytes = self.stop.as_bytes();
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
        self.matched == bytes.len()
    }
}

impl Stops {
    fn new(stops: Vec<String>, include_stop: bool) -> Self {
        let searches = stops.into_iter().filter(|stop| !stop.is_empty()).map(Search::new).collect();
        Self { searches, include_stop, held: String::new(), ended: false }
    }

    fn push(&mut self, text: &str) -> TextDelta {
        let before = self.held.len();
        self.held.push_str(text);
        for (index, byte) in text.bytes().enumerate() {
            let mut longest: Option<&str> = None;
            for search in &mut self.searches {
                if search.advance(byte) && longest.is_none_or(|other| search.stop.len() > other.len()) {
                    longest = Some(&search.stop);
                }
            }
            if let Some(stop) = longest {
                let end = before + index + 1;
                self.held.truncate(if self.include_stop { end } else { end - stop.len() });
                self.ended = true;
                return TextDelta { text: std::mem::take(&mut self.held), stopped: Some(stop.to_owned()) };
            }
        }
        let keep = self.searches.iter().map(|search| search.matched).max().unwrap_or(0);
        // A matched prefix begins at a character's first byte, so this is a boundary.
        let rest = self.held.split_off(self.held.len() - keep);
        TextDelta { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    fn finish(&mut self) -> String {
        self.ended = true;
        std::mem::take(&mut self.held)
    }
}
