//! Reasoning that a caller does not want to see is not in its tokens either: their ids and log-probabilities would
//! spell it out.
//!
//! Which tokens are reasoning shows with what the parser says of the text that they made, which may be several tokens
//! later. Where the answer begins, behind the reasoning, only those are told that made its text: what stands before it
//! is the closing tag.

use super::generation::Delta;
use crate::gateway::chat::TokenScore;
use crate::protocol::TokenId;
use crate::text::ParsedEvent;

/// The tokens of one choice.
#[derive(Debug, Default)]
pub(super) struct Unshown {
    /// Of which it is not known yet what they are, with the bytes of text that each made.
    unread: Vec<(TokenId, Option<TokenScore>, usize)>,
    /// Bytes of text that each of the held tokens made.
    held_bytes: Vec<usize>,
    is_reasoning: bool,
}

impl Unshown {
    /// Of a choice that begins within its reasoning, or not.
    pub fn new(is_reasoning: bool) -> Self {
        Self { is_reasoning, ..Self::default() }
    }

    /// The token that is held last made so much text.
    pub fn made(&mut self, bytes: usize) {
        self.held_bytes.push(bytes);
    }

    /// Leaves in a piece what is to be told of its tokens, now that the parser has said this of its text.
    pub fn hide(&mut self, delta: &mut Delta, said: &[ParsedEvent], is_end: bool) {
        let mut scores = std::mem::take(&mut delta.scores).into_iter();
        let bytes = self.held_bytes.drain(..).chain(std::iter::repeat(0));
        self.unread.extend(delta.ids.drain(..).zip(bytes).map(|(id, bytes)| (id, scores.next(), bytes)));
        if said.is_empty() && !is_end {
            return;
        }
        let reasoned = said.iter().rposition(|event| matches!(event, ParsedEvent::Reasoning(_)));
        self.is_reasoning |= reasoned.is_some();
        let mut shown = std::mem::take(&mut self.unread);
        if self.is_reasoning {
            let answer = &said[reasoned.map_or(0, |at| at + 1)..];
            let mut missing: usize = answer.iter().map(text_bytes).sum();
            let first = shown.iter().rposition(|(_, _, bytes)| {
                let is_behind = missing == 0;
                missing = missing.saturating_sub(*bytes);
                is_behind
            });
            shown.drain(..first.map_or(0, |at| at + 1));
            self.is_reasoning = answer.is_empty();
        }
        for (id, score, _) in shown {
            delta.ids.push(id);
            delta.scores.extend(score);
        }
    }
}

/// How much text an event stands for, at least.
fn text_bytes(event: &ParsedEvent) -> usize {
    match event {
        ParsedEvent::Text(text) => text.len(),
        ParsedEvent::Call { name, .. } => name.len(),
        ParsedEvent::Arguments { json, .. } => json.len(),
        ParsedEvent::Reasoning(_) | ParsedEvent::EndCall { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(
        unshown: &mut Unshown,
        tokens: &[(TokenId, &str)],
        said: &[ParsedEvent],
        is_end: bool,
    ) -> Vec<TokenId> {
        let mut delta = Delta::default();
        for (id, text) in tokens {
            unshown.made(text.len());
            delta.ids.push(*id);
            delta.scores.push(TokenScore { text: (*text).to_owned(), ..TokenScore::default() });
        }
        unshown.hide(&mut delta, said, is_end);
        assert_eq!(delta.ids.len(), delta.scores.len());
        delta.ids
    }

    #[test]
    fn tokens_of_reasoning_and_its_tags_are_left_out_and_no_other_is() {
        let (reasoning, text) =
            (|it: &str| ParsedEvent::Reasoning(it.into()), |it: &str| ParsedEvent::Text(it.into()));
        let mut unshown = Unshown::new(false);
        assert_eq!(piece(&mut unshown, &[(1, "<think>")], &[], false), [0; 0]);
        assert_eq!(piece(&mut unshown, &[(2, "Hm")], &[reasoning("Hm")], false), [0; 0]);
        assert_eq!(piece(&mut unshown, &[(3, "</think>")], &[], false), [0; 0]);
        assert_eq!(piece(&mut unshown, &[(4, "\n\n")], &[], false), [0; 0]);
        // Text that was held back for a moment is told with all of its tokens.
        assert_eq!(piece(&mut unshown, &[(5, "<")], &[], false), [0; 0]);
        assert_eq!(piece(&mut unshown, &[(6, "b")], &[text("<b")], false), [5, 6]);
        assert_eq!(piece(&mut unshown, &[(7, "c")], &[text("c")], false), [7]);
        assert_eq!(piece(&mut unshown, &[(8, "")], &[], true), [8]);
        // All in one piece; nothing but reasoning; none at all.
        let tokens = [(1, "<think>"), (2, "Hm"), (3, "</think>"), (4, "a")];
        assert_eq!(piece(&mut Unshown::new(false), &tokens, &[reasoning("Hm"), text("a")], true), [4]);
        assert_eq!(piece(&mut Unshown::new(true), &[(2, "Hm")], &[reasoning("Hm")], true), [0; 0]);
        assert_eq!(piece(&mut Unshown::new(true), &[(3, "</think>"), (4, "a")], &[text("a")], false), [4]);
        assert_eq!(piece(&mut Unshown::new(false), &[(1, " "), (2, "a")], &[text(" a")], true), [1, 2]);
    }
}
