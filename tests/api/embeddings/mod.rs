//! `/v1/embeddings`, `/v1/rerank` and `/v1/score` of local models, as their callers see them: what is read of a body,
//! what the model is given for it, and what is told of its numbers.

mod local;
mod minilm;
mod pooled;
mod scores;

use novastack::checkpoint::TokenizerSource;
use novastack::protocol::{EmbeddingInfo, EmbeddingPrompts, ModelTasks, ScoreBy};
use novastack::text::Tokenizer;
use pooled::Fake;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Ids of the words that the tokenizer knows.
const CLS: u32 = 1;
const SEP: u32 = 2;
const WORDS: [&str; 8] = ["a", "b", "c", "d", "e", "query", "doc", ":"];

/// The id of a word.
fn id(word: &str) -> u32 {
    3 + WORDS.iter().position(|known| *known == word).expect("a word") as u32
}

/// The file of a tokenizer of words, with BERT's template around one text and a pair.
pub(super) fn words_file() -> Value {
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false })
    };
    let of = |id: &str, kind: u32| json!({ "Sequence": { "id": id, "type_id": kind } });
    let token = |id: &str, kind: u32| json!({ "SpecialToken": { "id": id, "type_id": kind } });
    let tokens = |name: &str, id: u32| json!({ "id": name, "ids": [id], "tokens": [name] });
    let mut vocab = json!({ "[UNK]": 0, "[CLS]": CLS, "[SEP]": SEP });
    WORDS.iter().for_each(|word| vocab[*word] = id(word).into());
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(CLS, "[CLS]"), special(SEP, "[SEP]")],
        "normalizer": null, "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]", 0), of("A", 0), token("[SEP]", 0)],
            "pair": [token("[CLS]", 0), of("A", 0), token("[SEP]", 0), of("B", 1), token("[SEP]", 1)],
            "special_tokens": { "[CLS]": tokens("[CLS]", CLS), "[SEP]": tokens("[SEP]", SEP) },
        },
        "decoder": null,
        "model": { "type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab },
    })
}

/// The tokenizer of [`words_file`].
fn words() -> Arc<Tokenizer> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, words_file().to_string()).expect("a file");
    let tokenizer = Tokenizer::from_source(&TokenizerSource::Json(path), &json!({}));
    Arc::new(tokenizer.expect("a tokenizer"))
}

/// Qwen3's tokens, whose special ones are one id each.
fn qwen() -> Arc<Tokenizer> {
    let folder = crate::support::golden_dir("qwen3");
    let config = crate::text::read_json(&folder.join("tokenizer_config.json"));
    let source = TokenizerSource::Json(folder.join("tokenizer.json"));
    Arc::new(Tokenizer::from_source(&source, &config).expect("a tokenizer"))
}

/// A model of a tokenizer of words that embeds a prompt as its tokens' number, their sum, the first and the last.
fn embedder(name: &'static str, info: EmbeddingInfo) -> Fake {
    Fake {
        name,
        tasks: ModelTasks { generates: false, embeds: Some(info), scores: None },
        tokenizer: Some(words()),
        max_context: 64,
        max_queued: 64,
        step: Duration::ZERO,
        numbers: Arc::new(|ids, _| {
            vec![ids.len() as f32, ids.iter().sum::<u32>() as f32, ids[0] as f32, ids[ids.len() - 1] as f32]
        }),
        computed: Arc::default(),
    }
}

fn info() -> EmbeddingInfo {
    EmbeddingInfo {
        dimensions: 4,
        normalised: false,
        dimensions_may_be_cut: false,
        prompts: EmbeddingPrompts::default(),
    }
}

/// A model that scores by these numbers.
fn scorer(name: &'static str, by: ScoreBy, tokenizer: Arc<Tokenizer>, numbers: pooled::Numbers) -> Fake {
    let tasks = ModelTasks { generates: false, embeds: None, scores: Some(by) };
    Fake { tasks, tokenizer: Some(tokenizer), max_context: 1024, numbers, ..embedder(name, info()) }
}

async fn post(url: &str, path: &str, body: &Value) -> (u16, Value) {
    let answer = crate::support::client().post(format!("{url}{path}")).json(body);
    let answer = answer.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a text");
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// The field and the words of a refusal.
async fn refused(url: &str, path: &str, body: &Value) -> (String, String) {
    let (status, answer) = post(url, path, body).await;
    assert_eq!(status, 400, "{body}: {answer}");
    let error = &answer["error"];
    let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("{body}: {answer}")).to_owned();
    (text("param"), text("message"))
}
