//! Files of tokenizers that are made to bring a server down: what they do is told, in bounded time and
//! memory, and the program goes on.

use super::hostile_templates::containment;
use novastack::checkpoint::Checkpoint;
use novastack::text::{Stop, TextError, Tokenizer};
use serde_json::{Map, Value, json};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Until a tokenizer is built and tried, or refused: what the program allows, and a busy machine.
const LOAD_TIME_MAX: Duration = Duration::from_secs(45);

/// A byte-level tokenizer without merges: GPT-2's alphabet and an end token.
fn bytes() -> Value {
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let mut letters: Vec<char> = alphabet.into_iter().collect();
    letters.sort();
    let mut vocab: Map<String, Value> =
        letters.iter().enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
    vocab.insert("<end>".into(), 256.into());
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(256, "<end>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
}

fn added(id: u64, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

/// The same with changes.
fn with(change: impl FnOnce(&mut Value)) -> String {
    let mut json = bytes();
    change(&mut json);
    json.to_string()
}

/// Cut by this pattern.
fn split(pattern: &str) -> String {
    with(|json| {
        let split =
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = json["pre_tokenizer"].take();
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
    })
}

fn replace(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

/// A tokenizer and its files, which its children read again.
struct Loaded {
    tokenizer: Tokenizer,
    _place: tempfile::TempDir,
}

impl Deref for Loaded {
    type Target = Tokenizer;

    fn deref(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

fn load(json: &str, vocab: usize) -> Result<Loaded, TextError> {
    let place = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).expect("written");
    write("config.json", &json!({"model_type": "qwen2", "vocab_size": vocab}).to_string());
    write("tokenizer.json", json);
    let checkpoint = Checkpoint::open_config(place.path()).expect("a folder");
    let tokenizer = Tokenizer::contained(&checkpoint, None, &containment())?;
    Ok(Loaded { tokenizer, _place: place })
}

fn within<T>(seconds: u64, work: impl FnOnce() -> T) -> T {
    Arc::new(Stop::after(Duration::from_secs(seconds))).run(work)
}

/// Point 11, tokenizers: refused when they are loaded.
#[test]
fn a_hostile_tokenizer_is_refused() {
    let nested = |times: usize, field: &str, inner: &Value| {
        let open = format!("{{\"type\":\"Sequence\",\"{field}\":[").repeat(times);
        open + &inner.to_string() + &"]}".repeat(times)
    };
    let text_of =
        |part: &str, value: &str| with(|json| json[part] = "HERE".into()).replace("\"HERE\"", value);
    let charsmap = |bytes: &[u8]| {
        // Base64 by hand: these bytes need no padding.
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let of = |three: &[u8]| {
            let bits = three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
            [18, 12, 6, 0].map(|shift| char::from(alphabet[bits >> shift & 63]))
        };
        let text: String = bytes.chunks_exact(3).flat_map(of).collect();
        with(|json| json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": text}))
    };
    let cases: Vec<(&str, String, &str)> = vec![
        ("a charsmap without a trie", charsmap(&[0xff; 9]), ""),
        (
            "a charsmap that leads out of itself",
            charsmap(&[[4, 0, 0, 0].as_slice(), &[0xff; 4], &[0x41; 4]].concat()),
            "",
        ),
        ("a charsmap of 2 GiB", charsmap(&[[0, 0, 0, 0x80].as_slice(), &[0; 8]].concat()), ""),
        ("an empty charsmap", charsmap(&[]), ""),
        (
            "an added token of a large id",
            with(|json| json["added_tokens"][0] = added(2_147_483_648, "<far>")),
            "",
        ),
        (
            "a token of the largest id",
            with(|json| json["model"]["vocab"]["far"] = u32::MAX.into()),
            "ids are below",
        ),
        (
            "a token of 2^31",
            with(|json| json["model"]["vocab"]["far"] = 2_147_483_648_u32.into()),
            "ids are below",
        ),
        (
            "sixty-four doublings",
            with(|json| {
                json["normalizer"] = json!({"type": "Sequence", "normalizers": vec![replace("a", "aa"); 64]})
            }),
            "",
        ),
        (
            "a space that becomes ten megabytes",
            with(|json| json["normalizer"] = replace(" ", &"x".repeat(10_000_000))),
            "",
        ),
        (
            "a space that becomes a kilobyte",
            with(|json| json["normalizer"] = replace(" ", &"x".repeat(1000))),
            "tokens of a text",
        ),
        (
            "a prefix of ten megabytes",
            with(|json| json["normalizer"] = json!({"type": "Prepend", "prepend": "x".repeat(10_000_000)})),
            "",
        ),
        (
            "nested normalisers",
            text_of("normalizer", &nested(10_000, "normalizers", &json!({"type": "NFC"}))),
            "",
        ),
        (
            "nested pre-tokenisers",
            text_of("pre_tokenizer", &nested(10_000, "pretokenizers", &bytes()["pre_tokenizer"])),
            "",
        ),
        ("nested decoders", text_of("decoder", &nested(10_000, "decoders", &bytes()["decoder"])), ""),
        (
            "a decoder of a pattern",
            with(|json| {
                json["decoder"] = json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"})
            }),
            "decoder",
        ),
        (
            "a decoder that multiplies",
            with(|json| json["decoder"] = replace("a", &"x".repeat(100_000))),
            "decoder",
        ),
        ("a pattern that goes back and forth", split(r"(a+)+$"), ""),
        (
            "a pattern nested too deeply",
            split(&format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000))),
            "",
        ),
        ("a pattern repeated too often", split("((((a{1000}){1000}){1000}){1000})"), ""),
        ("a pattern that is none", split("["), ""),
        ("merges of unknown tokens", with(|json| json["model"]["merges"] = json!(["xx yy"])), ""),
        (
            "a merge of a prefix that is longer",
            with(|json| {
                json["model"]["continuing_subword_prefix"] = "#####".into();
                json["model"]["vocab"]["ab"] = 257.into();
                json["model"]["merges"] = json!(["a b"]);
            }),
            "",
        ),
        (
            "an unknown token out of the vocabulary",
            with(|json| json["model"] = json!({"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]})),
            "",
        ),
        (
            "no vocabulary",
            with(|json| json["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": []})),
            "",
        ),
        (
            "a template of unknown tokens",
            with(|json| {
                json["post_processor"] = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "none", "type_id": 0}}], "pair": [], "special_tokens": {}})
            }),
            "",
        ),
        (
            "a template of many tokens",
            with(|json| {
                json["post_processor"] = json!({"type": "TemplateProcessing",
            "single": vec![json!({"SpecialToken": {"id": "<end>", "type_id": 0}}); 100_000], "pair": [],
            "special_tokens": {"<end>": {"id": "<end>", "ids": vec![256; 1000], "tokens": vec!["<end>"; 1000]}}})
            }),
            "",
        ),
        (
            "deep JSON",
            text_of("normalizer", &format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000))),
            "",
        ),
        ("half a file", bytes().to_string()[..1000].to_owned(), ""),
    ];
    let mut refused = 0;
    for (what, json, words) in cases {
        let start = Instant::now();
        let loaded = load(&json, 257);
        let took = start.elapsed();
        assert!(took < LOAD_TIME_MAX, "{what} took {took:?}");
        match loaded {
            Err(error) => {
                let error = error.to_string();
                eprintln!("{what}: {} ({took:?})", error.chars().take(200).collect::<String>());
                assert!(error.contains(words), "{what}: {error}");
                refused += 1;
            }
            // What the library puts up with must do no harm.
            Ok(tokenizer) => {
                eprintln!("{what}: accepted ({took:?})");
                assert!(words.is_empty(), "{what} is accepted");
                let start = Instant::now();
                let encoded = within(3, || tokenizer.encode(&"a b".repeat(20_000), true));
                assert!(start.elapsed() < Duration::from_secs(8), "{what}");
                assert!(encoded.is_err() || encoded.is_ok_and(|ids| ids.len() < 10_000_000), "{what}");
            }
        }
    }
    assert!(refused >= 20, "{refused} are refused");
}

/// A pattern that is slow with some texts only is found out by none that is tried.
#[test]
fn a_tokenizer_that_is_slow_with_a_text_ends_in_time() {
    let tokenizer = load(&split("q+z|(?:qq?)+y|(?:(?:qq?)+)+w"), 257).expect("a tokenizer");
    assert_eq!(tokenizer.encode("hello", false).expect("encoded").len(), 5);
    let start = Instant::now();
    let error = within(2, || tokenizer.encode(&"q".repeat(20_000), false)).expect_err("too slow");
    eprintln!("{error}");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(tokenizer.encode("hello", false).expect("encoded").len(), 5, "the next one is answered");
}

#[test]
fn long_texts_can_be_stopped_and_are_the_same_there() {
    let tokenizer = load(&bytes().to_string(), 257).expect("a tokenizer");
    let text = "a longer text, \u{e9}<end> ".repeat(10_000);
    let ids = tokenizer.encode(&text, false).expect("encoded elsewhere");
    let short = tokenizer.encode("a longer text, \u{e9}<end> ", false).expect("encoded here");
    assert_eq!(ids, short.repeat(10_000));
    assert_eq!(tokenizer.encode_plain(&text).expect("encoded elsewhere").len(), text.len());
    let start = Instant::now();
    let stop = Arc::new(Stop::after(Duration::from_secs(60)));
    let (leaver, large) = (stop.clone(), text.repeat(40));
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        leaver.leave();
    });
    let error = stop.run(|| tokenizer.encode(&large, false)).expect_err("nobody waits");
    thread.join().expect("the client that left");
    assert!(error.to_string().contains("nobody waits"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn tokens_that_the_model_has_no_row_for_are_told() {
    let tokenizer = load(&bytes().to_string(), 200).expect("a tokenizer");
    let told = tokenizer.warnings().join("\n");
    assert!(told.contains("57 tokens that the model has not") && told.contains("200"), "{told}");
    assert!(load(&bytes().to_string(), 257).expect("a tokenizer").warnings().is_empty());
    // The library gives added tokens the ids that follow the vocabulary's, whatever the file says.
    let far = with(|json| json["added_tokens"][0] = added(2_147_483_648, "<far>"));
    let told = load(&far, 258).expect("a tokenizer").warnings().join("\n");
    assert!(told.contains("\"<far>\" the id 2147483648") && told.contains("gets 257"), "{told}");
}

/// A text has no fewer tokens than this, whatever it is.
#[test]
fn the_least_number_of_tokens_is_never_too_large() {
    let nfc = with(|json| json["normalizer"] = json!({"type": "NFC"}));
    let stripping = with(|json| json["added_tokens"][0]["lstrip"] = true.into());
    let dropping = with(|json| {
        json["pre_tokenizer"] =
            json!({"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, bytes()["pre_tokenizer"]]});
    });
    let texts = [
        "plain text".repeat(9),
        "\u{1112}\u{1161}\u{11ab}".repeat(30),
        "\u{2126}\u{314}\u{342}\u{345}".repeat(30),
        format!("{}<end>", " ".repeat(500)),
        "<end>".repeat(30),
        " ".repeat(500),
        String::new(),
    ];
    for (json, is_known) in [(bytes().to_string(), true), (nfc, true), (stripping, true), (dropping, false)] {
        let tokenizer = load(&json, 257).expect("a tokenizer");
        for text in &texts {
            let (least, ids) = (tokenizer.tokens_min(text), tokenizer.encode(text, false).expect("encoded"));
            assert!(least <= ids.len(), "{text:?}: {least} of {}", ids.len());
        }
        assert_eq!(tokenizer.tokens_min(&texts[0]) > 0, is_known);
    }
}

/// Usual requests pay nothing for it.
#[test]
fn the_families_tokenizers_encode_in_the_server_itself() {
    for family in super::FAMILIES {
        let Some(path) = super::family_file(family, "tokenizer.json") else { return };
        let json = std::fs::read_to_string(&path).expect("read");
        let tokenizer = load(&json, 1 << 20).expect(family);
        let told = format!("{:?}", tokenizer.tokenizer);
        assert!(told.contains("LongTexts"), "{family}: {told}");
        let here = tokenizers::Tokenizer::from_file(&path).expect("a tokenizer");
        let text = "Some words, 12345 of them.\n\n\tdef f(x): return x \u{4f60}\u{597d} e\u{301} <|im_end|>"
            .repeat(3000);
        let start = Instant::now();
        let ids = tokenizer.encode(&text, false).expect("encoded elsewhere");
        eprintln!("{family}: {} bytes, {} tokens, {:?}", text.len(), ids.len(), start.elapsed());
        assert_eq!(ids, here.encode(text.as_str(), false).expect("encoded").get_ids(), "{family}");
        assert!(tokenizer.tokens_min(&text) <= ids.len() && tokenizer.tokens_min(&text) > 0);
    }
}
