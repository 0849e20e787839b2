//! Texts with what a model reads around them: BOS, separators and the like, which the tokenizer's post-processor adds
//! to one text or to a pair. The texts are ids already, so that they can be cut before.

use super::tokenizer::Tokenizer;
use super::{Stop, TextError};
use crate::protocol::TokenId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{Encoding, PostProcessor, Token};

/// A text or a pair as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The tokens.
    pub ids: Vec<TokenId>,
    /// Which text each is of, as the post-processor counts them: 0 or 1.
    pub types: Vec<u32>,
}

impl Tokenizer {
    /// How many tokens are added to one text or to a pair.
    pub fn added_tokens(&self, is_pair: bool) -> usize {
        self.inner().get_post_processor().map_or(0, |processor| processor.added_tokens(is_pair))
    }

    /// Adds what stands around and between texts.
    ///
    /// # Errors
    /// The post-processor cannot do it.
    pub fn join(&self, first: Vec<TokenId>, second: Option<Vec<TokenId>>) -> Result<Joined, TextError> {
        Stop::check_current()?;
        let encoding = |ids: Vec<TokenId>, kind| {
            let token = |id| Token::new(id, String::new(), (0, 0));
            Encoding::from_tokens(ids.into_iter().map(token).collect(), kind)
        };
        let (first, second) = (encoding(first, 0), second.map(|ids| encoding(ids, 1)));
        // As when encoding: some of the crate's parts panic instead of saying why they cannot.
        let joined = catch_unwind(AssertUnwindSafe(|| self.inner().post_process(first, second, true)));
        let cannot = |reason: &str| TextError::Tokenizer(format!("cannot join the texts: {reason}"));
        let joined = joined.map_err(|_| cannot("the post-processor gave up"))?;
        let joined = joined.map_err(|error| cannot(&error.to_string()))?;
        Ok(Joined { ids: joined.get_ids().to_vec(), types: joined.get_type_ids().to_vec() })
    }
}

/// Cuts two texts from behind until they have no more tokens than `most` together: the longer first, as transformers
/// does (`longest_first`).
pub fn cut_longest_first(first: &mut Vec<TokenId>, second: &mut Vec<TokenId>, most: usize) {
    let (short, long) = (first.len().min(second.len()), first.len().max(second.len()));
    if short + long <= most {
        return;
    }
    let half = most / 2;
    let (short, long) = if short <= half { (short, most - short) } else { (half, most - half) };
    let first_is_short = first.len() <= second.len();
    first.truncate(if first_is_short { short } else { long });
    second.truncate(if first_is_short { long } else { short });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::TokenizerSource;
    use serde_json::json;

    /// A tokenizer of words, with BERT's template around one text and a pair.
    fn bert() -> Tokenizer {
        let special = |id: u32, content: &str| {
            json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false })
        };
        let of = |id: &str, kind: u32| json!({ "Sequence": { "id": id, "type_id": kind } });
        let token = |id: &str, kind: u32| json!({ "SpecialToken": { "id": id, "type_id": kind } });
        let tokens = |name: &str, id: u32| json!({ "id": name, "ids": [id], "tokens": [name] });
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(1, "[CLS]"), special(2, "[SEP]")],
            "normalizer": null, "pre_tokenizer": { "type": "Whitespace" },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [token("[CLS]", 0), of("A", 0), token("[SEP]", 0)],
                "pair": [token("[CLS]", 0), of("A", 0), token("[SEP]", 0), of("B", 1), token("[SEP]", 1)],
                "special_tokens": { "[CLS]": tokens("[CLS]", 1), "[SEP]": tokens("[SEP]", 2) },
            },
            "decoder": null,
            "model": { "type": "WordLevel", "unk_token": "[UNK]",
                       "vocab": { "[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4, "c": 5 } },
        });
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, file.to_string()).expect("a file");
        Tokenizer::from_source(&TokenizerSource::Json(path), &json!({})).expect("a tokenizer")
    }

    #[test]
    fn a_pair_has_separators_and_types_as_the_template_says() {
        let tokenizer = bert();
        let one = tokenizer.join(vec![3, 4], None).expect("joined");
        assert_eq!((one.ids.as_slice(), one.types.as_slice()), (&[1, 3, 4, 2][..], &[0; 4][..]));
        assert_eq!(one.ids, tokenizer.encode("a b", true).expect("encoded"));
        let pair = tokenizer.join(vec![3], Some(vec![4, 5])).expect("joined");
        assert_eq!(pair.ids, [1, 3, 2, 4, 5, 2]);
        assert_eq!(pair.types, [0, 0, 0, 1, 1, 1]);
        assert_eq!((tokenizer.added_tokens(false), tokenizer.added_tokens(true)), (2, 3));
    }

    #[test]
    fn the_longer_text_is_cut_first() {
        let cut = |first: usize, second: usize, most| {
            let (mut first, mut second) = (vec![0; first], vec![0; second]);
            cut_longest_first(&mut first, &mut second, most);
            (first.len(), second.len())
        };
        // As the tokenizers of transformers cut them.
        assert_eq!(cut(3, 4, 7), (3, 4));
        assert_eq!(cut(3, 40, 10), (3, 7));
        assert_eq!(cut(40, 3, 10), (7, 3));
        assert_eq!(cut(40, 40, 9), (4, 5));
        assert_eq!(cut(20, 40, 9), (4, 5));
        assert_eq!(cut(40, 20, 9), (5, 4));
        assert_eq!(cut(40, 20, 0), (0, 0));
    }
}
