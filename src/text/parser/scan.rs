//! Text between calls: finds the markers that begin one, and lets everything else through at once.
//!
//! Markers are looked for character by character. None lies within another, nor begins one, so that the
//! first that is whole is the one.

use super::WHITE_BYTES_MAX;
use super::output::Output;

/// Whether text is one of some markers, may become one, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Whole(&'static str),
    Beginning,
    None,
}

pub(super) fn match_marker(text: &str, markers: &[&'static str]) -> Match {
    let mut matched = Match::None;
    for marker in markers {
        if *marker == text {
            return Match::Whole(marker);
        }
        if marker.starts_with(text) {
            matched = Match::Beginning;
        }
    }
    matched
}

/// What is held back of a text that may be a marker, or of an attempt at a call.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The white space before it.
    white: String,
    pub(super) text: String,
}

impl Held {
    pub(super) fn push(&mut self, c: char) {
        self.text.push(c);
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Leaves out the last bytes.
    pub(super) fn cut_end(&mut self, bytes: usize) {
        self.text.truncate(self.text.len().saturating_sub(bytes));
    }
}

/// The scanner of the text between calls.
#[derive(Debug)]
pub(super) struct Scan {
    openers: &'static [&'static str],
    /// What may follow a call's end, in this order: left out where it is owed, text elsewhere.
    closers: &'static [&'static str],
    /// Openers only as long as there is no text.
    early_openers: &'static [&'static str],
    /// A character that begins a call where it is the first of a line.
    line_opener: Option<char>,
    /// A character that begins a call right behind another.
    next_opener: Option<char>,
    /// What may stand between two calls beside white space.
    separators: &'static [char],
    /// A call has ended; its closing markers from this one on may follow.
    owed_from: usize,
    /// Everything is text up to and with this marker.
    text_until: Option<&'static str>,
    held: Held,
    is_line_start: bool,
    /// Nothing but white space came since a call.
    is_after_call: bool,
    has_text: bool,
}

impl Scan {
    pub(super) fn new(openers: &'static [&'static str], closers: &'static [&'static str]) -> Self {
        Self {
            openers,
            closers,
            early_openers: &[],
            line_opener: None,
            next_opener: None,
            separators: &[],
            owed_from: closers.len(),
            text_until: None,
            held: Held::default(),
            is_line_start: true,
            is_after_call: false,
            has_text: false,
        }
    }

    pub(super) fn early_openers(mut self, openers: &'static [&'static str]) -> Self {
        self.early_openers = openers;
        self
    }

    pub(super) fn line_opener(mut self, opener: char) -> Self {
        self.line_opener = Some(opener);
        self
    }

    pub(super) fn next_opener(mut self, opener: char) -> Self {
        self.next_opener = Some(opener);
        self
    }

    pub(super) fn separators(mut self, separators: &'static [char]) -> Self {
        self.separators = separators;
        self
    }

    /// The next character. An opener that it makes whole is returned (the line's opener as an empty text);
    /// what is held is then the attempt's to take.
    pub(super) fn push(&mut self, c: char, output: &mut Output) -> Option<&'static str> {
        if self.held.text.is_empty() {
            if c.is_whitespace() || (self.is_after_call && self.separators.contains(&c)) {
                self.push_white(c, output);
                return None;
            }
            let begins_line = self.line_opener == Some(c) && self.is_line_start;
            let begins_next = self.next_opener == Some(c) && self.is_after_call;
            if (begins_line || begins_next) && self.text_until.is_none() {
                self.held.push(c);
                return Some("");
            }
        }
        self.held.push(c);
        let mut opener = match_marker(&self.held.text, self.openers);
        if opener == Match::None && !self.has_text {
            opener = match_marker(&self.held.text, self.early_openers);
        }
        let matched = match opener {
            Match::Whole(opener) => {
                if self.text_until.is_none() {
                    return Some(opener);
                }
                Match::None
            }
            Match::Beginning => Match::Beginning,
            Match::None => match_marker(&self.held.text, self.closers),
        };
        match matched {
            Match::Beginning => None,
            Match::Whole(closer) => {
                match self.owed_closers().iter().position(|owed| *owed == closer) {
                    Some(index) => {
                        self.held = Held::default();
                        self.owed_from += index + 1;
                        self.is_after_call = true;
                        self.is_line_start = true;
                    }
                    None => {
                        if self.text_until == Some(closer) {
                            self.text_until = None;
                        }
                        self.release(output);
                    }
                }
                None
            }
            Match::None => {
                // Not a marker from its first character on; one may begin at a later one.
                let text = std::mem::take(&mut self.held.text);
                let mut rest = text.chars();
                let first = rest.next()?;
                self.held.push(first);
                self.release(output);
                rest.fold(None, |found, c| found.or(self.push(c, output)))
            }
        }
    }

    /// The answer has ended.
    pub(super) fn finish(&mut self, output: &mut Output) {
        let text = std::mem::take(&mut self.held.text);
        let is_cut_closer =
            text.len() > 1 && self.owed_closers().iter().any(|closer| closer.starts_with(&text));
        if !text.is_empty() && !is_cut_closer {
            self.held.text = text;
            self.release(output);
        } else if !self.is_after_call {
            self.release(output);
        }
        self.held = Held::default();
    }

    /// What the opener was, for the attempt to go on holding.
    pub(super) fn take_held(&mut self) -> Held {
        std::mem::take(&mut self.held)
    }

    /// An attempt was no call: it is the text that it was.
    pub(super) fn give_back(&mut self, held: Held, output: &mut Output) {
        self.held = held;
        self.release(output);
    }

    /// An attempt was a call that is not to be emitted: it is text, and so is the rest up to the marker.
    pub(super) fn give_back_until(&mut self, held: Held, marker: &'static str, output: &mut Output) {
        self.give_back(held, output);
        self.owed_from = self.closers.len();
        self.text_until = Some(marker);
    }

    /// A call has ended; its closing markers are left out if they follow.
    pub(super) fn after_call(&mut self) {
        self.owed_from = 0;
        self.is_after_call = true;
        self.is_line_start = true;
    }

    fn owed_closers(&self) -> &'static [&'static str] {
        &self.closers[self.owed_from..]
    }

    fn push_white(&mut self, c: char, output: &mut Output) {
        if self.held.white.len() >= WHITE_BYTES_MAX {
            let white = std::mem::take(&mut self.held.white);
            self.emit(&white, output);
        }
        self.held.white.push(c);
        // At the beginning of an answer, indentation makes no difference.
        self.is_line_start = c == '\n' || (self.is_line_start && (self.is_after_call || !self.has_text));
    }

    /// What is held is text.
    fn release(&mut self, output: &mut Output) {
        let held = std::mem::take(&mut self.held);
        let only_white = !held.white.contains(|c: char| !c.is_whitespace());
        if !(self.is_after_call && !self.has_text && only_white) {
            self.emit(&held.white, output);
        }
        self.emit(&held.text, output);
        self.is_after_call = false;
        self.is_line_start = false;
    }

    fn emit(&mut self, text: &str, output: &mut Output) {
        self.has_text |= !text.is_empty();
        output.text(text);
    }
}
