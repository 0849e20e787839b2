//! What users write is text: a special token that is written out in a message (`<|im_end|>`) ends no turn and
//! opens none.
//!
//! Before a template renders a conversation, special tokens in it are marked: behind their first character goes a
//! noncharacter of Unicode that stands nowhere in the conversation. In the rendered prompt the special tokens
//! without a mark are the template's own. What stands between two of them and has a mark is tokenized as plain
//! text, cut at the mark; all else as ever. A conversation without such tokens, as nearly all are, is left as
//! it is: its ids are those of transformers, which has no such protection.
//!
//! Special are tokens that the vocabulary calls so or spells so (`<|..|>`: DeepSeek's `<｜User｜>` is not flagged).
//!
//! Deliberately absent: tools and variables of templates, which are the developer's words; other added tokens
//! (`<think>`), which templates look for in what assistants have said.

use super::{RenderInput, TextError, Tokenizer};
use crate::protocol::TokenId;
use aho_corasick::AhoCorasick;
use serde_json::Value;

/// Unicode's noncharacters: texts have none of them.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A conversation whose special tokens are marked.
#[derive(Debug)]
pub struct Marked {
    /// For the template.
    pub input: RenderInput,
    mark: char,
}

impl Marked {
    /// Marks special tokens of this tokenizer; None where there are none in the messages.
    pub fn of(tokenizer: &Tokenizer, input: &RenderInput) -> Option<Self> {
        let special = tokenizer.special_spellings()?;
        let mut messages = input.messages.iter();
        if !messages.any(|message| any_text(message, &mut |text| special.is_match(text))) {
            return None;
        }
        let is_free = |mark: &char| {
            let has = |value: &Value| any_text(value, &mut |text| text.contains(*mark));
            !input.messages.iter().any(has)
        };
        // A text that has all of them is not one that anybody wrote.
        let mark = MARKS.into_iter().find(is_free).unwrap_or(*MARKS.start());
        let mut input = input.clone();
        input.messages.iter_mut().for_each(|message| mark_texts(message, special, mark));
        Some(Self { input, mark })
    }

    /// The ids of the prompt that the template made of [`Self::input`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        prompt: &str,
        add_special: bool,
    ) -> Result<Vec<TokenId>, TextError> {
        let Some(special) = tokenizer.special_spellings() else {
            return tokenizer.encode(prompt, add_special);
        };
        let mut ids = match add_special {
            // What stands before a prompt; what would stand behind it ends it.
            true => tokenizer.encode("", true)?,
            false => Vec::new(),
        };
        ids.retain(|id| !tokenizer.eos_ids().contains(id));
        // The template's own words so far, its special tokens among them.
        let mut own = String::new();
        let mut at = 0;
        let ends = special.find_iter(prompt).map(|found| (found.start(), found.end()));
        for (start, end) in ends.chain([(prompt.len(), prompt.len())]) {
            let between = &prompt[at..start];
            if between.contains(self.mark) {
                let (before, text, behind) = tokenizer.around_text(between);
                own.push_str(before);
                ids.extend(tokenizer.encode(&own, false)?);
                // In pieces, as plain text may still have added tokens that are not flagged as special.
                for piece in text.split(self.mark) {
                    ids.extend(tokenizer.encode_plain(piece)?);
                }
                own.clear();
                own.push_str(behind);
            } else {
                own.push_str(between);
            }
            own.push_str(&prompt[start..end]);
            at = end;
        }
        ids.extend(tokenizer.encode(&own, false)?);
        Ok(ids)
    }
}

/// Whether some text of a message is so; its role is none.
fn any_text(value: &Value, is_so: &mut impl FnMut(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is_so(text),
        Value::Array(items) => items.iter().any(|item| any_text(item, is_so)),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name != "role" && (is_so(name) || any_text(value, is_so)))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn mark_texts(value: &mut Value, special: &AhoCorasick, mark: char) {
    match value {
        Value::String(text) => *text = marked(text, special, mark),
        Value::Array(items) => items.iter_mut().for_each(|item| mark_texts(item, special, mark)),
        Value::Object(fields) => {
            let texts = fields.iter_mut().filter(|(name, _)| *name != "role");
            texts.for_each(|(_, value)| mark_texts(value, special, mark));
            if fields.keys().any(|name| special.is_match(name)) {
                let named = std::mem::take(fields).into_iter();
                fields.extend(named.map(|(name, value)| (marked(&name, special, mark), value)));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn marked(text: &str, special: &AhoCorasick, mark: char) -> String {
    let mut marked = String::with_capacity(text.len() + mark.len_utf8());
    special.replace_all_with(text, &mut marked, |_, found, out| {
        let mut rest = found.chars();
        out.extend(rest.next());
        out.push(mark);
        out.push_str(rest.as_str());
        true
    });
    marked
}
