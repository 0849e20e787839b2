//! Token ids to text as they come, for one choice.
//!
//! Two stages. Bytes to text: a token may hold part of a character, which is kept back until
//! it is whole or known to be broken, so that the text is what decoding everything at once
//! gives. Text to output: a text that may be the beginning of a stop string is kept back.
//!
//! Stop strings: the one whose last character comes first ends the choice, the longest if
//! several end there; a special token that is left out of the text counts too. So the result depends
//! on the text alone, not on where tokens end. Cost per token is bounded by the token's text (times
//! the number of stop strings), whatever came before. Absent on purpose: token counts, which are the
//! engine's.

use super::Tokenizer;
use crate::protocol::TokenId;
use std::ops::Range;
use std::sync::Arc;

/// Turns a choice's tokens into text as they come: UTF-8 is never split, text that may be the
/// start of a stop string is held back.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Special tokens that stay in the text all the same.
    kept: Vec<TokenId>,
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
        Self { tokenizer, skip_special, kept: Vec::new(), decoding, stops: Stops::new(stops, include_stop) }
    }

    /// The same, leaving these in the text though they are special.
    pub fn keeping(self, kept: Vec<TokenId>) -> Self {
        Self { kept, ..self }
    }

    /// One more token. After a stop string nothing comes any more.
    pub fn push(&mut self, token: TokenId) -> TextDelta {
        if self.stops.ended {
            return TextDelta::default();
        }
        if self.skip_special && self.tokenizer.is_special(token) && !self.kept.contains(&token) {
            return if self.stops.searches.is_empty() {
                TextDelta::default()
            } else {
                self.stops.push_hidden(&self.tokenizer.token_text(token).0)
            };
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
///
/// What special tokens hide from the text counts for stop strings: the text is searched as it is, and
/// from the first hidden token on also with what is hidden.
#[derive(Debug)]
struct Stops {
    searches: Vec<Search>,
    /// Over the hidden text too; None before there is any.
    with_hidden: Option<Vec<Search>>,
    include_stop: bool,
    /// The longest suffix of the text that begins a stop string, with what is hidden in it.
    held: Held,
    /// A stop string was found or the output is over.
    ended: bool,
}

/// Text, of which some pieces are hidden.
#[derive(Debug, Default)]
struct Held {
    /// All of it.
    text: String,
    /// The hidden pieces, by their bytes' places in `text`, in order.
    hidden: Vec<Range<usize>>,
}

impl Held {
    /// Adds to the end.
    fn push(&mut self, text: &str, is_hidden: bool) {
        let start = self.text.len();
        self.text.push_str(text);
        if is_hidden && !text.is_empty() {
            self.hidden.push(start..self.text.len());
        }
    }

    /// Takes the text before `end` without what is hidden in it.
    fn take(&mut self, end: usize) -> String {
        let rest = self.text.split_off(end);
        let mut visible = std::mem::replace(&mut self.text, rest);
        for range in self.hidden.iter().rev().filter(|range| range.start < end) {
            visible.replace_range(range.start..range.end.min(end), "");
        }
        self.hidden.retain_mut(|range| {
            *range = range.start.saturating_sub(end)..range.end.saturating_sub(end);
            range.start < range.end
        });
        visible
    }

    /// The place behind which that many visible bytes stand before `end`.
    fn before_visible(&self, end: usize, bytes: usize) -> usize {
        let (mut at, mut left) = (end, bytes);
        for range in self.hidden.iter().rev().filter(|range| range.end <= end) {
            if at - range.end >= left {
                break;
            }
            left -= at - range.end;
            at = range.start;
        }
        at - left
    }
}

/// Knuth, Morris and Pratt's search for one string.
#[derive(Clone, Debug)]
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
        Self { searches, with_hidden: None, include_stop, held: Held::default(), ended: false }
    }

    fn push(&mut self, text: &str) -> TextDelta {
        let before = self.held.text.len();
        self.held.push(text, false);
        for (index, byte) in text.bytes().enumerate() {
            let end = before + index + 1;
            let visible = longest(&mut self.searches, byte);
            let all = self.with_hidden.as_mut().and_then(|searches| longest(searches, byte));
            // Where both end here, the longer one reaches further back.
            if let Some(stop) = visible
                && all.as_ref().is_none_or(|all| all.len() <= stop.len())
            {
                let start = self.held.before_visible(end, stop.len());
                return self.end(start, stop);
            }
            if let Some(stop) = all {
                return self.end(end - stop.len(), stop);
            }
        }
        self.release()
    }

    /// A special token that the text hides.
    fn push_hidden(&mut self, text: &str) -> TextDelta {
        let searches = self.with_hidden.get_or_insert_with(|| self.searches.clone());
        let before = self.held.text.len();
        let mut found = None;
        for (index, byte) in text.bytes().enumerate() {
            if let Some(stop) = longest(searches, byte) {
                found = Some((before + index + 1 - stop.len(), stop));
                break;
            }
        }
        self.held.push(text, true);
        match found {
            Some((start, stop)) => self.end(start, stop),
            None => self.release(),
        }
    }

    /// The stop string that begins at `start` of what is held ends the output.
    fn end(&mut self, start: usize, stop: String) -> TextDelta {
        let mut text = self.held.take(start);
        if self.include_stop {
            text.push_str(&stop);
        }
        self.held = Held::default();
        self.ended = true;
        TextDelta { text, stopped: Some(stop) }
    }

    /// What cannot begin a stop string any more.
    fn release(&mut self) -> TextDelta {
        let end = self.held.text.len();
        let keep = |searches: &[Search]| searches.iter().map(|search| search.matched).max().unwrap_or(0);
        let visible = match keep(&self.searches) {
            0 => end,
            bytes => self.held.before_visible(end, bytes),
        };
        let all = self.with_hidden.as_deref().map_or(end, |searches| end - keep(searches));
        // A matched prefix begins at a character's first byte, so this is a boundary.
        TextDelta { text: self.held.take(visible.min(all)), stopped: None }
    }

    fn finish(&mut self) -> String {
        self.ended = true;
        self.held.take(self.held.text.len())
    }
}

/// One more byte; the longest stop string that ends with it.
fn longest(searches: &mut [Search], byte: u8) -> Option<String> {
    let mut longest: Option<&Search> = None;
    for search in searches {
        if search.advance(byte) && longest.is_none_or(|other| search.stop.len() > other.stop.len()) {
            longest = Some(search);
        }
    }
    longest.map(|search| search.stop.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes pieces, of which those in brackets are hidden; the text, and the stop string.
    fn run(stops: &[&str], include: bool, pieces: &[&str]) -> (String, Option<String>) {
        let mut all = Stops::new(stops.iter().map(|stop| (*stop).to_owned()).collect(), include);
        let mut text = String::new();
        for piece in pieces {
            let delta = match piece.strip_prefix('[') {
                Some(hidden) => all.push_hidden(hidden.trim_end_matches(']')),
                None => all.push(piece),
            };
            text.push_str(&delta.text);
            if delta.stopped.is_some() {
                return (text, delta.stopped);
            }
        }
        text.push_str(&all.finish());
        (text, None)
    }

    fn ended(text: &str, stop: &str) -> (String, Option<String>) {
        (text.to_owned(), Some(stop.to_owned()))
    }

    #[test]
    fn stop_strings_match_special_tokens_that_the_text_hides() {
        assert_eq!(run(&["<end>"], false, &["Paris.", "[<end>]", "More"]), ended("Paris.", "<end>"));
        // As a part of a longer one, before and behind.
        assert_eq!(run(&["<end>\n"], false, &["Paris.", "[<end>]", "\nMore"]), ended("Paris.", "<end>\n"));
        assert_eq!(run(&[".<end>"], false, &["Paris", ".", "[<end>]", "M"]), ended("Paris", ".<end>"));
        assert_eq!(run(&["end"], false, &["Paris.", "[<end>]", "M"]), ended("Paris.", "end"));
        assert_eq!(run(&["<end>"], true, &["Paris.", "[<end>]", "M"]), ended("Paris.<end>", "<end>"));
        // What was held back for one comes without the hidden token, where it was none.
        let (text, stop) = run(&["<end>\n"], false, &["Paris.", "[<end>]", " More", "[<pad>]", "!"]);
        assert_eq!((text.as_str(), stop), ("Paris. More!", None));
        let (text, stop) = run(&["ab<end>c"], false, &["xab", "[<end>]", "d", "ab", "[<end>]"]);
        assert_eq!((text.as_str(), stop), ("xabdab", None));
    }

    #[test]
    fn stop_strings_match_over_hidden_tokens_as_they_stand_in_the_text() {
        assert_eq!(run(&["abc"], false, &["xa", "[<pad>]", "bc", "d"]), ended("x", "abc"));
        assert_eq!(run(&["abc"], true, &["xa", "[<pad>]", "b", "[<pad>]", "cd"]), ended("xabc", "abc"));
        let (text, stop) = run(&["abc"], false, &["xa", "[<pad>]", "b", "[<pad>]", "d", "ab"]);
        assert_eq!((text.as_str(), stop), ("xabdab", None));
    }

    #[test]
    fn whatever_is_hidden_and_wherever_the_pieces_end_no_text_is_lost() {
        let pieces = ["é<", "[<e>]", "a", "[<e>]", "<e", "[>]", ">a<", "[<]"];
        for stop in ["zz", "<e>b", "a<e>b", "é<<e>ab", "<e>a<e><e>b"] {
            let (text, found) = run(&[stop], false, &pieces);
            assert_eq!((text.as_str(), found), ("é<a<e>a<", None), "{stop}");
        }
    }
}
