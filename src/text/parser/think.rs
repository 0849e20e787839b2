//! A reasoning block between two tags, at the beginning of an answer.
//!
//! White space: line breaks after the opening tag and after the closing tag belong to the tags, as chat
//! templates write them, and so does all white space before the closing tag; a block of white space alone is
//! empty. Other white space stays.

use super::WHITE_BYTES_MAX;
use super::output::Output;
use super::scan::{Match, match_marker};

const LINE_BREAKS: [char; 2] = ['\n', '\r'];

/// Reads up to the end of the reasoning.
#[derive(Debug)]
pub(super) struct Think {
    open: &'static str,
    /// First the closing tag, then what ends the block without being part of it.
    ends: Vec<&'static str>,
    place: Place,
    white: String,
    /// What may become a tag.
    tag: String,
    has_reasoning: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing has come but white space.
    Before,
    /// Just inside the block, where the model may repeat the opening tag that the template wrote.
    Opening,
    Inside,
    /// Nothing has come since the closing tag but white space.
    After,
}

impl Think {
    pub(super) fn new(open: &'static str, close: &'static str, is_open: bool) -> Self {
        let place = if is_open { Place::Opening } else { Place::Before };
        Self {
            open,
            ends: vec![close],
            place,
            white: String::new(),
            tag: String::new(),
            has_reasoning: false,
        }
    }

    /// This marker ends the block too, and is content.
    pub(super) fn ended_by(mut self, marker: &'static str) -> Self {
        self.ends.push(marker);
        self
    }

    /// The next character. Returns the content that starts here, once there can be no more reasoning.
    pub(super) fn push(&mut self, c: char, output: &mut Output) -> Option<String> {
        if self.tag.is_empty() && c.is_whitespace() {
            if self.white.len() >= WHITE_BYTES_MAX {
                match self.place {
                    Place::Before => return Some(self.content(c)),
                    Place::Opening | Place::Inside => self.emit_white(output),
                    Place::After => self.white.clear(),
                }
            }
            self.white.push(c);
            return None;
        }
        self.tag.push(c);
        let is_close = match match_marker(&self.tag, &self.ends) {
            Match::Whole(marker) => Some(marker == self.ends[0]),
            Match::Beginning => return None,
            Match::None => None,
        };
        match (is_close, self.place) {
            // A closing tag where no block is open: that of an empty block which the template opened.
            (Some(true), _) => {
                self.place = Place::After;
                self.white.clear();
                self.tag.clear();
                return None;
            }
            (Some(false), Place::Opening | Place::Inside) => {
                self.white.clear();
                return Some(std::mem::take(&mut self.tag));
            }
            _ => {}
        }
        if self.place != Place::Inside {
            match match_marker(&self.tag, &[self.open]) {
                Match::Whole(_) => {
                    // A second block goes on where the first ended.
                    if self.place != Place::After || !self.has_reasoning {
                        self.white.clear();
                    }
                    self.place = if self.has_reasoning { Place::Inside } else { Place::Opening };
                    self.tag.clear();
                    return None;
                }
                Match::Beginning => return None,
                Match::None => {}
            }
        }
        match self.place {
            Place::Before | Place::After => {
                let tag = std::mem::take(&mut self.tag);
                Some(self.leading_white() + &tag)
            }
            Place::Opening | Place::Inside => {
                self.emit_white(output);
                self.place = Place::Inside;
                // A tag may begin at a later character of what was held.
                let tag = std::mem::take(&mut self.tag);
                let mut rest = tag.chars();
                output.reasoning(rest.next()?.encode_utf8(&mut [0; 4]));
                rest.fold(None, |content, c| match content {
                    None => self.push(c, output),
                    Some(content) => Some(content + c.encode_utf8(&mut [0; 4])),
                })
            }
        }
    }

    /// The answer has ended. Returns content that was held back.
    pub(super) fn finish(&mut self, output: &mut Output) -> String {
        match self.place {
            Place::Before => self.content_rest(),
            Place::After if !self.tag.is_empty() => self.content_rest(),
            Place::After => String::new(),
            // More than the first character of a tag is a tag that was cut off.
            Place::Opening | Place::Inside => {
                if self.tag.chars().count() == 1 {
                    self.emit_white(output);
                    output.reasoning(&std::mem::take(&mut self.tag));
                }
                String::new()
            }
        }
    }

    fn content(&mut self, c: char) -> String {
        let mut content = std::mem::take(&mut self.white);
        content.push(c);
        content
    }

    fn content_rest(&mut self) -> String {
        let tag = std::mem::take(&mut self.tag);
        self.leading_white() + &tag
    }

    /// The white space that content begins with.
    fn leading_white(&mut self) -> String {
        let white = std::mem::take(&mut self.white);
        match self.place {
            Place::After => white.trim_start_matches(LINE_BREAKS).into(),
            _ => white,
        }
    }

    fn emit_white(&mut self, output: &mut Output) {
        let white = std::mem::take(&mut self.white);
        let reasoning =
            if self.has_reasoning { white.as_str() } else { white.trim_start_matches(LINE_BREAKS) };
        output.reasoning(reasoning);
        self.has_reasoning = true;
    }
}
