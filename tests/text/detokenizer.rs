//! Detokenizing token by token gives the text that decoding everything at once gives.

use novastack::checkpoint::{GgufVocab, TokenizerSource};
use novastack::text::{Detokenizer, Tokenizer};
use proptest::prelude::*;
use serde_json::json;
use std::sync::{Arc, LazyLock};

/// All 256 bytes (ids 0 to 255), some longer tokens, two special ones and one user-defined.
static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let alphabet: Vec<char> = (0..=255u32)
        .scan(0x100, |next, byte| {
            let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable { byte } else { *next };
            *next += u32::from(!printable);
            char::from_u32(code)
        })
        .collect();
    let spell = |text: &str| text.bytes().map(|byte| alphabet[byte as usize]).collect::<String>();
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    tokens.extend(["世界", "Ende", "STOP", " stop", "👍", "é\n"].map(spell));
    // Tokens that hold parts of characters.
    tokens.push(alphabet[0xe4..=0xe4].iter().chain(&alphabet[0xb8..=0xb8]).collect());
    tokens.push(alphabet[0x96..=0x96].iter().chain(&alphabet[0xf0..=0xf0]).collect());
    let mut token_types = vec![1; tokens.len()];
    tokens.extend(["<|end|>", "<|x|>", "<user>"].map(String::from));
    token_types.extend([3, 3, 4]);
    let vocab =
        GgufVocab { model: "gpt2".into(), pre: "gpt-2".into(), tokens, token_types, ..Default::default() };
    Arc::new(Tokenizer::from_source(&TokenizerSource::Gguf(vocab), &json!({})).unwrap())
});

fn ids() -> impl Strategy<Value = Vec<u32>> {
    let id = prop_oneof![
        3 => 256u32..270,
        2 => 0x61u32..0x65,
        2 => 0x80u32..0x100,
        1 => 0u32..270,
        1 => prop_oneof![Just(0xe4u32), Just(0xb8), Just(0x96), Just(0xf0), Just(0x9f), Just(0x91), Just(0x8d)],
    ];
    proptest::collection::vec(id, 0..40)
}

/// Short stops over few characters, so that they overlap each other and token borders.
fn stops() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(
        prop_oneof![
            "[abc]{1,4}",
            Just("STOP".to_owned()),
            Just("世".into()),
            Just("op a".into()),
            Just("\u{fffd}".into())
        ],
        0..4,
    )
}

/// (all text, the stop that was found)
fn run(ids: &[u32], skip_special: bool, stops: &[String], include_stop: bool) -> (String, Option<String>) {
    let mut detokenizer = Detokenizer::new(TOKENIZER.clone(), skip_special, stops.to_vec(), include_stop);
    let (mut text, mut stopped) = (String::new(), None);
    for id in ids {
        let delta = detokenizer.push(*id);
        assert!(stopped.is_none() || delta == Default::default(), "text after the stop");
        text.push_str(&delta.text);
        stopped = stopped.or(delta.stopped);
    }
    text.push_str(&detokenizer.finish());
    assert_eq!(detokenizer.finish(), "");
    (text, stopped)
}

/// The stop string whose end comes first, the longest of those: (start, end).
fn first_stop(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    stops
        .iter()
        .filter_map(|stop| text.find(stop.as_str()).map(|start| (start, start + stop.len())))
        .min_by_key(|(start, end)| (*end, *start))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn without_stops_it_is_the_whole_text(ids in ids(), skip_special: bool) {
        let whole = TOKENIZER.decode(&ids, skip_special).unwrap();
        prop_assert_eq!(run(&ids, skip_special, &[], false), (whole, None));
    }

    #[test]
    fn with_stops_it_is_cut_at_the_first(ids in ids(), stops in stops(), skip_special: bool, include: bool) {
        let whole = TOKENIZER.decode(&ids, skip_special).unwrap();
        let (text, stopped) = run(&ids, skip_special, &stops, include);
        match first_stop(&whole, &stops) {
            None => prop_assert_eq!((text, stopped), (whole, None)),
            Some((start, end)) => {
                prop_assert_eq!(&text, &whole[..if include { end } else { start }]);
                // What only finish() completes (a broken character at the end) is cut but not told.
                prop_assert!(stopped.is_none_or(|stop| stop == whole[start..end]));
            }
        }
    }
}

#[test]
fn what_may_become_a_stop_string_is_held_back() {
    let mut detokenizer = Detokenizer::new(TOKENIZER.clone(), true, vec!["abac".into(), "bad".into()], false);
    let mut push = |c: char| detokenizer.push(c as u32);
    for c in "aba".chars() {
        assert_eq!(push(c).text, "");
    }
    // "abab": "ab" may still become "abac".
    assert_eq!(push('b').text, "ab");
    assert_eq!(push('a').text, "");
    let delta = push('d');
    assert_eq!((delta.text.as_str(), delta.stopped.as_deref()), ("a", Some("bad")));
    assert_eq!(push('x'), Default::default());
}

#[test]
fn characters_are_never_split() {
    let mut detokenizer = Detokenizer::new(TOKENIZER.clone(), true, Vec::new(), false);
    let texts: Vec<String> = "世é".bytes().map(|byte| detokenizer.push(u32::from(byte)).text).collect();
    assert_eq!(texts, ["", "", "世", "", "é"]);
    assert_eq!(detokenizer.push(0xe4).text, "");
    assert_eq!(detokenizer.push(0x61).text, "\u{fffd}a");
    assert_eq!(detokenizer.push(0xf0).text, "");
    assert_eq!(detokenizer.finish(), "\u{fffd}");
}

/// Sentencepiece vocabularies drop the first space and spell missing characters in bytes.
#[test]
fn sentencepiece_text_keeps_its_spaces() {
    let mut vocab = serde_json::Map::new();
    for (id, token) in
        ["<unk>", "▁Hello", "▁", "wor", "ld", "<0xE4>", "<0xB8>", "<0x96>", "<0xFF>"].iter().enumerate()
    {
        vocab.insert((*token).into(), id.into());
    }
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab, "merges": []},
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json.to_string()).unwrap();
    let source = TokenizerSource::Json(file.path().into());
    let tokenizer = Arc::new(Tokenizer::from_source(&source, &json!({})).unwrap());
    assert_eq!(tokenizer.token_text(5).1, [0xe4]);
    assert_eq!(tokenizer.token_text(1).0, " Hello");
    for ids in [
        &[1, 2, 3, 4, 1, 1][..],
        &[2, 1, 5, 6, 7, 5, 6, 7, 3],
        &[5, 6, 7, 1, 8, 3],
        &[1, 5, 6],
        &[8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 1],
        &[2, 2, 2, 3],
    ] {
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), true, Vec::new(), false);
        let mut text: String = ids.iter().map(|id| detokenizer.push(*id).text).collect();
        text.push_str(&detokenizer.finish());
        assert_eq!(text, tokenizer.decode(ids, true).unwrap(), "{ids:?}");
    }
}
