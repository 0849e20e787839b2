//! Token ids: the route through GGUF metadata equals the family's own tokenizer.json.

use super::{demo_gguf, family_file, golden, read_json};
use novastack::checkpoint::{Checkpoint, GgufVocab, TokenizerSource};
use novastack::text::Tokenizer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

const STRINGS: usize = 10_000;

/// SplitMix64: a seeded sequence, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// This repository's sources, cut at seeded places.
fn code(random: &mut Random) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    let text: Vec<char> = files
        .iter()
        .flat_map(|file| std::fs::read_to_string(file).unwrap().chars().collect::<Vec<_>>())
        .collect();
    let mut pieces = Vec::new();
    for _ in 0..STRINGS / 5 {
        let start = random.below(text.len());
        let end = (start + 1 + random.below(120)).min(text.len());
        pieces.push(text[start..end].iter().collect());
    }
    pieces
}

/// Strings of every kind that tokenizers treat in different ways.
pub(super) fn strings(special: &[String]) -> Vec<String> {
    let mut random = Random(20_251_121);
    let mut all: Vec<String> = super::golden("strings.json")
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect();
    let pool = all.clone();
    all.extend(special.iter().cloned());
    all.extend(code(&mut random));
    all.extend(
        ["a", " ", "\n", "\t", "1", "世", "é", "e\u{301}", "!", "\u{200d}", "👍", "\0", "\r\n"]
            .iter()
            .flat_map(|unit| [2, 3, 5, 17, 100, 1000].map(|times| unit.repeat(times))),
    );
    let ranges = [
        0x20..0x7f,
        0x0..0x20,
        0x80..0x180,
        0x300..0x370,
        0x370..0x530,
        0x590..0x780,
        0x900..0xd80,
        0x1100..0x1200,
        0x1e00..0x2000,
        0x2000..0x2070,
        0x2190..0x2700,
        0x3000..0x3100,
        0x4e00..0x9fff,
        0xac00..0xd7a4,
        0xe000..0xe100,
        0xf900..0xfb50,
        0xfe00..0x10000,
        0x10000..0x10500,
        0x1d400..0x1d800,
        0x1f000..0x1fb00,
        0x20000..0x2a6df,
        0xe0000..0xe0200,
    ];
    while all.len() < STRINGS {
        let mut text = String::new();
        for _ in 0..1 + random.below(8) {
            match random.below(4) {
                0 => text.push_str(random.pick::<String>(&pool)),
                1 if !special.is_empty() => text.push_str(random.pick::<String>(special)),
                2 => {
                    // A special token cut short is ordinary text.
                    let token: Vec<char> = random.pick(&pool).chars().collect();
                    text.extend(&token[..random.below(token.len() + 1)]);
                }
                _ => {
                    let range = random.pick(&ranges).clone();
                    for _ in 0..1 + random.below(6) {
                        let code = range.start + random.below((range.end - range.start) as usize) as u32;
                        text.extend(char::from_u32(code));
                    }
                }
            }
        }
        all.push(text);
    }
    all
}

/// What llama.cpp's converter makes of a tokenizer.json: tokens by id, gaps filled, types by its
/// rules, merges as "left right".
pub(super) fn converted(path: &Path, pre: &str) -> GgufVocab {
    let json = read_json(path);
    let mut tokens: HashMap<u64, String> = HashMap::new();
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        tokens.insert(id.as_u64().unwrap(), token.clone());
    }
    let mut added: HashMap<u64, &Value> = HashMap::new();
    for token in json["added_tokens"].as_array().unwrap() {
        let id = token["id"].as_u64().unwrap();
        tokens.insert(id, token["content"].as_str().unwrap().to_owned());
        added.insert(id, token);
    }
    // The model's embedding has more rows than the tokenizer has tokens.
    let size = tokens.keys().max().unwrap() + 1 + 64;
    let mut vocab = GgufVocab { model: "gpt2".into(), pre: pre.into(), ..Default::default() };
    for id in 0..size {
        let looks_special = |token: &str| {
            (token.starts_with("<|") && token.ends_with("|>"))
                || (token.starts_with("<｜") && token.ends_with("｜>"))
        };
        let (token, kind) = match (tokens.remove(&id), added.get(&id)) {
            (None, _) => (format!("[PAD{id}]"), 5),
            (Some(token), None) => (token, 1),
            (Some(token), Some(entry)) if entry["special"] == true || looks_special(&token) => (token, 3),
            (Some(token), Some(_)) => (token.replace('▁', " "), 4),
        };
        vocab.tokens.push(token);
        vocab.token_types.push(kind);
    }
    vocab.merges = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge {
            Value::String(merge) => merge.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    vocab
}

/// Of lines that each end in a zero byte.
fn digest<T: ToString>(lines: &[T]) -> String {
    let mut hash = Sha256::new();
    lines.iter().for_each(|line| hash.update(line.to_string() + "\0"));
    format!("{:x}", hash.finalize())
}

/// `bos` where the family's prompts begin with it.
fn compare_family(family: &str, bos: Option<&str>) {
    let Some(path) = family_file(family, "tokenizer.json") else { return };
    let reference = tokenizers::Tokenizer::from_file(&path).unwrap();
    // What llama.cpp's converter really wrote, by scripts/goldens_vocab.py.
    let written = &golden("converted.json")[family];
    let mut vocab = converted(&path, written["pre"].as_str().unwrap());
    let ours = json!({
        "pre": vocab.pre,
        "count": vocab.tokens.len(),
        "tokens": digest(&vocab.tokens),
        "types": digest(&vocab.token_types),
        "merges": digest(&vocab.merges),
    });
    assert_eq!(ours, *written, "{family}");
    vocab.bos = bos.map(|bos| reference.token_to_id(bos).unwrap());
    vocab.add_bos = bos.is_some();
    let size = vocab.tokens.len();
    let special: Vec<String> = (0..size as u32)
        .filter(|id| [3, 4].contains(&vocab.token_types[*id as usize]))
        .map(|id| reference.id_to_token(id).unwrap())
        .collect();
    let tokenizer = Tokenizer::from_source(&TokenizerSource::Gguf(vocab), &json!({})).unwrap();
    let direct = Tokenizer::from_source(&TokenizerSource::Json(path), &json!({})).unwrap();
    assert_eq!(tokenizer.vocab_size(), size);

    let strings = strings(&special);
    assert!(strings.len() >= STRINGS);
    for text in &strings {
        let expected = reference.encode(text.as_str(), false).unwrap();
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(ids, expected.get_ids(), "{family}: {text:?}");
        assert_eq!(direct.encode(text, false).unwrap(), ids, "{family}: {text:?}");
        assert_eq!(
            tokenizer.decode(&ids, false).unwrap(),
            reference.decode(&ids, false).unwrap(),
            "{family}: {text:?}"
        );
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_text(*id).1).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), tokenizer.decode(&ids, false).unwrap(), "{family}");
    }
    for text in strings.iter().take(200) {
        let ids = tokenizer.encode(text, true).unwrap();
        let bare = tokenizer.encode(text, false).unwrap();
        let expected: Vec<u32> =
            bos.map(|bos| reference.token_to_id(bos).unwrap()).into_iter().chain(bare).collect();
        assert_eq!(ids, expected, "{family}: {text:?}");
    }
    for id in 0..size as u32 {
        assert_eq!(tokenizer.id_to_token(id), reference.id_to_token(id), "{family}: {id}");
    }
}

#[test]
fn qwen3_from_gguf_metadata() {
    compare_family("qwen3", None);
}

#[test]
fn qwen2_5_from_gguf_metadata() {
    compare_family("qwen2_5", None);
}

#[test]
fn llama3_1_from_gguf_metadata() {
    compare_family("llama3_1", Some("<|begin_of_text|>"));
}

#[test]
fn deepseek_v3_from_gguf_metadata() {
    compare_family("deepseek_v3", Some("<｜begin▁of▁sentence｜>"));
}

/// Its vocabulary is GPT-4o's, and its rules are MiniMax-M2's too.
#[test]
fn gpt_oss_from_gguf_metadata() {
    compare_family("gptoss", None);
}

/// Names by which llama.cpp's converter calls one and the same rules.
#[test]
fn pre_tokenizers_of_one_rule_give_the_same_ids() {
    for (family, names) in [
        ("gptoss", &["gpt-4o", "llama4", "minimax-m2"][..]),
        ("deepseek_v3", &["deepseek-v3", "joyai-llm"]),
        ("llama3_1", &["llama-bpe", "llama3", "llama-v3", "glm4"]),
        ("qwen2_5", &["qwen2", "deepseek-r1-qwen", "megrez"]),
    ] {
        let Some(path) = family_file(family, "tokenizer.json") else { return };
        let reference = tokenizers::Tokenizer::from_file(&path).unwrap();
        for name in names {
            let source = TokenizerSource::Gguf(converted(&path, name));
            let tokenizer = Tokenizer::from_source(&source, &json!({})).unwrap();
            for text in golden("strings.json").as_array().unwrap().iter().filter_map(Value::as_str) {
                let expected = reference.encode(text, false).unwrap();
                assert_eq!(tokenizer.encode(text, false).unwrap(), expected.get_ids(), "{name}: {text:?}");
            }
        }
    }
}

/// Kimi K2 and Mistral's tekken publish no tokenizer.json here: over an alphabet of bytes without
/// merges a text's ids are its bytes, whatever the words, so that the rules at least cut nothing away.
#[test]
fn every_pre_tokenizer_keeps_every_byte() {
    let mut tokens: Vec<String> = (0x21..=0x7e_u32)
        .chain(0xa1..=0xac)
        .chain(0xae..=0xff)
        .chain(0x100..=0x143)
        .filter_map(|code| Some(char::from_u32(code)?.to_string()))
        .collect();
    assert_eq!(tokens.len(), 256);
    tokens.push("<s>".into());
    for pre in
        ["kimi-k2", "tekken", "dbrx", "smaug-bpe", "chatglm-bpe", "phi-2", "olmo", "minimax-m2", "qwen35"]
    {
        let vocab = GgufVocab {
            model: "gpt2".into(),
            pre: pre.into(),
            token_types: [vec![1; 256], vec![3]].concat(),
            tokens: tokens.clone(),
            ..Default::default()
        };
        let tokenizer = Tokenizer::from_source(&TokenizerSource::Gguf(vocab), &json!({})).unwrap();
        for text in ["Hello World's 12345 中文abc 漢字カナ", "a\r\n\n  b/\t// IT'S éÉ 😀\u{301}x "]
        {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{pre}");
        }
    }
    let unknown = GgufVocab { model: "gpt2".into(), pre: "viking".into(), ..Default::default() };
    let error = Tokenizer::from_source(&TokenizerSource::Gguf(unknown), &json!({})).unwrap_err().to_string();
    assert!(error.contains("\"viking\" is not supported") && error.contains("minimax-m2"), "{error}");
}

/// The reference is SmolLM2's pipeline (individual digits, then GPT-2's byte-level) over the
/// file's own vocabulary, put together by `scripts/goldens_text.py`.
#[test]
fn smollm2_from_the_demo_checkpoint() {
    let Some(path) = demo_gguf() else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).unwrap();
    assert_eq!(tokenizer.eos_ids()[..2], [2, 0], "<|im_end|> by the metadata, <|endoftext|> by its name");
    assert_eq!(tokenizer.vocab_size(), 49_152);
    let (strings, expected) = (golden("strings.json"), golden("smollm2_ids.json"));
    for (text, ids) in strings.as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
        let got = tokenizer.encode(text.as_str().unwrap(), true).unwrap();
        assert_eq!(json!(got), *ids, "{text}");
        assert_eq!(tokenizer.decode(&got, false).unwrap(), text.as_str().unwrap());
    }
}

/// tokenizer_config.json decides about BOS as in transformers, and EOS is found by its text.
#[test]
fn tokenizer_config_is_honoured() {
    let Some(path) = family_file("deepseek_v3", "tokenizer.json") else { return };
    let Some(config) = family_file("deepseek_v3", "tokenizer_config.json") else { return };
    let source = TokenizerSource::Json(path);
    let tokenizer = Tokenizer::from_source(&source, &read_json(&config)).unwrap();
    assert_eq!(tokenizer.encode("x", true).unwrap()[0], 0);
    assert_eq!(tokenizer.eos_ids(), [1, 128_805], "<|EOT|> by its name");

    let added = json!({"added_tokens_decoder": {"128815": {"content": "<new>", "special": true}}});
    let tokenizer = Tokenizer::from_source(&source, &added).unwrap();
    let id = tokenizer.encode("<new>", false).unwrap();
    assert_eq!(id, [128_815]);
    assert_eq!(tokenizer.decode(&id, true).unwrap(), "");
}

/// A megabyte in one word, or of one kind of character, takes seconds, and what the regex engine
/// refuses is an error.
#[test]
fn long_prompts_do_not_hang() {
    for family in ["qwen3", "llama3_1", "deepseek_v3"] {
        let Some(path) = family_file(family, "tokenizer.json") else { return };
        let tokenizer = Tokenizer::from_source(&TokenizerSource::Json(path), &json!({})).unwrap();
        for unit in ["a", " ", "\n", "!", "7", "世", "ab ", "e\u{301}", "x\u{200d}", " \n"] {
            let text = unit.repeat((1 << 20) / unit.len());
            let start = std::time::Instant::now();
            let ids = tokenizer.encode(&text, false).unwrap();
            eprintln!("{family} {unit:?}: {} tokens in {:?}", ids.len(), start.elapsed());
            assert!(start.elapsed().as_secs() < 60, "{family}: {unit:?}");
        }
    }
}
