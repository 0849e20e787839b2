//! One choice on its way through its reasoning and its grammar.

use super::vocabulary::Vocabulary;
use super::{After, GrammarError};
use crate::protocol::{TokenConstraint, TokenId};
use llguidance::Matcher;
use std::sync::Arc;

/// White space behind the closing text within its token is no part of the answer.
fn is_white_space(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

/// How the reasoning before a grammar is recognised and bounded.
#[derive(Debug)]
pub(super) struct Reasoning {
    open: Option<Vec<u8>>,
    close: Vec<u8>,
    /// Per number of bytes of `close` that were found: how many are, if the next byte is another one (Knuth,
    /// Morris & Pratt 1977).
    fallback: Vec<usize>,
    budget: Option<u32>,
    /// `close` in tokens.
    forced: Vec<TokenId>,
    /// (n, token): where n bytes of `close` were found, the token closes it and goes on with what is no white
    /// space. The answer would begin within a token, before the grammar could say what may stand there.
    overshooting: Vec<(usize, TokenId)>,
    /// Special tokens that are no part of the closing text. What a parser takes for the end of a message or for the
    /// beginning of a call must not come where the grammar does not watch.
    markers: Vec<TokenId>,
}

impl Reasoning {
    /// None where there is none before the grammar.
    pub fn new(after: &After, vocabulary: &Vocabulary) -> Result<Option<Arc<Self>>, GrammarError> {
        let After::Reasoning { open, close, budget } = after else { return Ok(None) };
        let forced = vocabulary.tokenize(close).filter(|tokens| !tokens.is_empty());
        let forced = forced.ok_or_else(|| {
            GrammarError::Invalid(format!(
                "the model's tokens cannot write {close:?}, which closes its reasoning"
            ))
        })?;
        let open = open.as_ref().map(|open| open.as_bytes().to_vec()).filter(|open| !open.is_empty());
        let close = close.as_bytes().to_vec();
        let mut reasoning = Self {
            open,
            fallback: fallback(&close),
            close,
            budget: *budget,
            forced,
            overshooting: Vec::new(),
            markers: Vec::new(),
        };
        reasoning.markers = vocabulary.specials().filter(|token| !reasoning.forced.contains(token)).collect();
        let tokens = vocabulary.iter().flat_map(|(token, bytes)| {
            let closes = |found: &usize| match reasoning.follow(*found, bytes) {
                Followed::Closed { rest } => !is_white_space(rest),
                Followed::Open(_) => false,
            };
            // From what is found one state follows, so the states behind it need not be asked apart.
            (0..reasoning.close.len()).filter(closes).map(move |found| (found, token)).collect::<Vec<_>>()
        });
        reasoning.overshooting = tokens.collect();
        Ok(Some(Arc::new(reasoning)))
    }

    /// Reads on where `found` bytes of the closing text were found.
    fn follow<'b>(&self, mut found: usize, bytes: &'b [u8]) -> Followed<'b> {
        for (at, byte) in bytes.iter().enumerate() {
            while found > 0 && self.close[found] != *byte {
                found = self.fallback[found];
            }
            if self.close[found] == *byte {
                found += 1;
            }
            if found == self.close.len() {
                return Followed::Closed { rest: &bytes[at + 1..] };
            }
        }
        Followed::Open(found)
    }
}

enum Followed<'b> {
    /// So many bytes of the closing text stand at the end.
    Open(usize),
    /// It is closed; this follows in the token.
    Closed { rest: &'b [u8] },
}

fn fallback(text: &[u8]) -> Vec<usize> {
    let mut fallback = vec![0; text.len()];
    for at in 2..text.len() {
        let mut found = fallback[at - 1];
        while found > 0 && text[found] != text[at - 1] {
            found = fallback[found];
        }
        fallback[at] = if text[found] == text[at - 1] { found + 1 } else { 0 };
    }
    fallback
}

/// Where an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// So many bytes of the opening text have come. What came may also be the grammar's, where that `lives`.
    Opening { read: usize, lives: bool },
    /// So many tokens of reasoning have come, and so many bytes of the closing text are at their end.
    Reasoning { tokens: u32, found: usize },
    /// The budget is spent: so many tokens of the closing text have come.
    Closing { forced: usize },
    /// In the grammar, or in an answer without one.
    Answer,
    /// Behind the end token.
    Ended,
}

/// See [`TokenConstraint`].
pub(super) struct Constraint {
    vocabulary: Arc<Vocabulary>,
    /// None: the answer is free.
    grammar: Option<Matcher>,
    reasoning: Option<Arc<Reasoning>>,
    phase: Phase,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("phase", &self.phase).finish_non_exhaustive()
    }
}

fn allow(mask: &mut [u32], token: TokenId) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word |= 1 << (token % 32);
    }
}

fn forbid(mask: &mut [u32], token: TokenId) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word &= !(1 << (token % 32));
    }
}

fn words(error: impl std::fmt::Display) -> String {
    format!("the answer left its grammar: {}", super::plain(&error.to_string()))
}

impl Constraint {
    pub fn new(
        vocabulary: Arc<Vocabulary>,
        grammar: Option<Matcher>,
        reasoning: Option<Arc<Reasoning>>,
    ) -> Self {
        let phase = match reasoning.as_deref() {
            None => Phase::Answer,
            // Reasoning that may take nothing is not begun.
            Some(Reasoning { open: Some(_), budget: Some(0), .. }) => Phase::Answer,
            Some(Reasoning { open: Some(_), .. }) => Phase::Opening { read: 0, lives: true },
            Some(Reasoning { budget: Some(0), .. }) => Phase::Closing { forced: 0 },
            Some(_) => Phase::Reasoning { tokens: 0, found: 0 },
        };
        Self { vocabulary, grammar, reasoning, phase }
    }

    fn reasoning(&self) -> Arc<Reasoning> {
        self.reasoning.clone().expect("a phase of reasoning is of a constraint with reasoning")
    }

    /// Writes what the grammar allows.
    fn grammar_mask(&mut self, mask: &mut [u32]) -> Result<bool, String> {
        let Some(grammar) = &mut self.grammar else { return Ok(false) };
        let allowed = grammar.compute_mask_or_eos().map_err(words)?;
        mask.fill(0);
        let allowed = allowed.as_slice();
        let len = allowed.len().min(mask.len());
        mask[..len].copy_from_slice(&allowed[..len]);
        Ok(true)
    }

    fn grammar_accept(&mut self, token: TokenId) -> Result<(), String> {
        if self.vocabulary.ends().contains(&token) {
            self.phase = Phase::Ended;
            return Ok(());
        }
        match &mut self.grammar {
            Some(grammar) => grammar.consume_token(token).map_err(words),
            None => Ok(()),
        }
    }

    /// One more token of reasoning.
    fn reason(&mut self, tokens: u32, found: usize, bytes: &[u8]) {
        let reasoning = self.reasoning();
        self.phase = match reasoning.follow(found, bytes) {
            // A rest that is more than white space is forbidden where a grammar follows.
            Followed::Closed { .. } => Phase::Answer,
            Followed::Open(_) if reasoning.budget.is_some_and(|budget| tokens >= budget) => {
                Phase::Closing { forced: 0 }
            }
            Followed::Open(found) => Phase::Reasoning { tokens, found },
        };
    }
}

impl TokenConstraint for Constraint {
    fn mask(&mut self, mask: &mut [u32]) -> Result<bool, String> {
        match self.phase {
            Phase::Answer => self.grammar_mask(mask),
            Phase::Ended => {
                mask.fill(0);
                self.vocabulary.ends().iter().for_each(|end| allow(mask, *end));
                Ok(self.grammar.is_some())
            }
            Phase::Closing { forced } => {
                mask.fill(0);
                allow(mask, self.reasoning().forced[forced]);
                Ok(true)
            }
            Phase::Reasoning { .. } | Phase::Opening { .. } if self.grammar.is_none() => Ok(false),
            Phase::Reasoning { found, .. } => {
                // What the model reasons is its own; it must only come to an answer.
                mask.fill(u32::MAX);
                self.vocabulary.ends().iter().for_each(|end| forbid(mask, *end));
                let reasoning = self.reasoning();
                let overshooting = reasoning.overshooting.iter().filter(|(at, _)| *at == found);
                overshooting.for_each(|(_, token)| forbid(mask, *token));
                reasoning.markers.iter().for_each(|token| forbid(mask, *token));
                Ok(true)
            }
            Phase::Opening { read, lives } => {
                match lives {
                    true => drop(self.grammar_mask(mask)?),
                    false => mask.fill(0),
                }
                let reasoning = self.reasoning();
                let left = &reasoning.open.as_deref().unwrap_or_default()[read..];
                for (token, bytes) in self.vocabulary.iter() {
                    let is_end = || self.vocabulary.ends().contains(&token);
                    // The opening text stands alone in its last token, so that nothing is closed there.
                    if (left.starts_with(bytes) || bytes.strip_prefix(left).is_some_and(is_white_space))
                        && !is_end()
                    {
                        allow(mask, token);
                    }
                }
                Ok(true)
            }
        }
    }

    fn accept(&mut self, token: TokenId) -> Result<(), String> {
        let vocabulary = self.vocabulary.clone();
        let bytes = vocabulary.bytes(token);
        match self.phase {
            Phase::Answer => self.grammar_accept(token),
            Phase::Ended => Ok(()),
            Phase::Closing { forced } => {
                let forced = forced + 1;
                self.phase = match forced == self.reasoning().forced.len() {
                    true => Phase::Answer,
                    false => Phase::Closing { forced },
                };
                Ok(())
            }
            Phase::Reasoning { tokens, found } => {
                self.reason(tokens + 1, found, bytes);
                Ok(())
            }
            Phase::Opening { read, lives } => {
                let reasoning = self.reasoning();
                let left = &reasoning.open.as_deref().unwrap_or_default()[read..];
                if let Some(rest) = bytes.strip_prefix(left) {
                    self.reason(1, 0, rest);
                    // What opened the reasoning was not the answer's.
                    return self.grammar.as_mut().map_or(Ok(()), |grammar| grammar.reset().map_err(words));
                }
                if !bytes.is_empty() && left.starts_with(bytes) {
                    let fits = |grammar: &mut Matcher| matches!(grammar.try_consume_tokens(&[token]), Ok(1));
                    let lives = lives && self.grammar.as_mut().is_none_or(fits);
                    self.phase = Phase::Opening { read: read + bytes.len(), lives };
                    return Ok(());
                }
                self.phase = Phase::Answer;
                match lives {
                    true => self.grammar_accept(token),
                    false => Err("the answer neither reasons nor keeps to its grammar".into()),
                }
            }
        }
    }
}
