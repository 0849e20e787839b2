//! Encoders of the BERT family against transformers and sentence-transformers: tiny random ones, and the real
//! all-MiniLM-L6-v2 where it is here.

use super::{Case, all, assert_near, cases, pooled, refusal, submit};
use crate::support::golden_dir;
use novastack::checkpoint::Checkpoint;
use novastack::clock::Clock;
use novastack::encoder::config::cross_encoder_sigmoid;
use novastack::encoder::{Encoder, EncoderConfig, Output};
use novastack::engine::encoder::{EncoderEngineConfig, spawn};
use novastack::engine::handle::{EngineHandle, SubmitError};
use novastack::protocol::Pooling;
use novastack::text::Tokenizer;
use serde_json::json;
use std::path::{Path, PathBuf};

fn engine(directory: &Path) -> (EngineHandle, EncoderConfig) {
    let checkpoint = Checkpoint::open(directory).expect("a checkpoint");
    let config = EncoderConfig::read(&checkpoint.config, checkpoint.sentence_transformers.as_ref());
    let config = config.expect("a shape");
    let encoder = Encoder::load(config.clone(), &checkpoint, 2).expect("an encoder");
    let limits = EncoderEngineConfig {
        name: "encoder".into(),
        max_context: config.max_tokens,
        max_queued: 64,
        step_token_budget: 128,
        vocab: config.vocab,
    };
    (spawn(limits, Box::new(encoder), Clock::real()).expect("an engine").0, config)
}

fn pooling(config: &EncoderConfig) -> Pooling {
    match config.output {
        Output::Embedding { .. } => Pooling::Embedding,
        Output::Labels { .. } => Pooling::Classify,
    }
}

/// Each text alone, then all at once in padded batches.
async fn alone_and_together(
    engine: &EngineHandle,
    cases: &[Case],
    pooling: &Pooling,
    tolerance: f32,
    name: &str,
) {
    let mut alone = Vec::new();
    for case in cases {
        let (values, _) = pooled(submit(engine, case, pooling)).await;
        assert_near(&values, &case.values, tolerance, name);
        alone.push(values);
    }
    let streams = cases.iter().map(|case| submit(engine, case, pooling)).collect();
    for (together, alone) in all(streams).await.iter().zip(&alone) {
        assert_near(together, alone, 1e-5, &format!("{name} in a padded batch"));
    }
}

#[tokio::test]
async fn encoders_give_what_transformers_gives() {
    for name in [
        "bert",
        "bert-reranker",
        "roberta",
        "xlm-roberta",
        "xlm-roberta-reranker",
        "modernbert",
        "modernbert-reranker",
    ] {
        let (engine, config) = engine(&golden_dir("embeddings").join(name));
        let cases = cases(&format!("{name}/golden.json"));
        alone_and_together(&engine, &cases, &pooling(&config), 1e-4, name).await;
        assert!(engine.stats().steps > 0 && engine.stats().prefill_tokens > 0);
    }
}

/// None, said aloud, without it.
fn minilm() -> Option<PathBuf> {
    let weights = crate::text::downloaded("minilm/model.safetensors", "scripts/fetch_tokenizers.sh")?;
    weights.parent().map(Path::to_owned)
}

#[tokio::test]
async fn the_real_minilm_gives_what_sentence_transformers_gives() {
    let Some(directory) = minilm() else { return };
    let checkpoint = Checkpoint::open(&directory).expect("a checkpoint");
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("a tokenizer");
    let cases = cases("minilm.json");
    for case in &cases {
        let ids = tokenizer.encode(case.text.as_ref().expect("a text"), true).expect("ids");
        assert_eq!(ids, case.ids, "{:?}", case.text);
        assert_eq!(case.values.len(), 384);
    }
    let (engine, config) = engine(&directory);
    assert_eq!(config.max_tokens, 256, "as sentence_bert_config.json says");
    alone_and_together(&engine, &cases, &Pooling::Embedding, 1e-5, "MiniLM").await;
}

#[tokio::test]
async fn what_an_encoder_cannot_do_is_refused_by_name() {
    let (embeds, _) = engine(&golden_dir("embeddings/bert"));
    let (scores, _) = engine(&golden_dir("embeddings/bert-reranker"));
    for (engine, pooling, word) in [
        (&embeds, None, "no text"),
        (&embeds, Some(Pooling::Logits([1].into())), "no logits"),
        (&embeds, Some(Pooling::Classify), "classification head"),
        (&scores, None, "no text"),
        (&scores, Some(Pooling::Embedding), "no embeddings"),
    ] {
        let refused = refusal(engine, &[5], pooling);
        assert!(matches!(&refused, SubmitError::Unsupported(why) if why.contains(word)), "{refused}");
    }
    let long = refusal(&embeds, &[5; 65], Some(Pooling::Embedding));
    assert_eq!(long, SubmitError::PromptTooLong { prompt_tokens: 65, max_context: 64 });
    // 66 positions, of which the first two stand for padding.
    let (roberta, _) = engine(&golden_dir("embeddings/roberta"));
    let long = refusal(&roberta, &[5; 65], Some(Pooling::Embedding));
    assert_eq!(long, SubmitError::PromptTooLong { prompt_tokens: 65, max_context: 64 });
    let outside = refusal(&embeds, &[5, 120], Some(Pooling::Embedding));
    assert_eq!(outside, SubmitError::BadToken { token: 120, vocab: 120 });
}

#[test]
fn an_encoders_config_is_read_and_checked() {
    let good = json!({
        "architectures": ["ModernBertForSequenceClassification"], "vocab_size": 100, "hidden_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 64,
        "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "id2label": {"0": "a"}, "pad_token_id": 0,
    });
    let read = |changes: serde_json::Value| {
        let mut config = good.clone();
        for (field, value) in changes.as_object().expect("an object") {
            config[field] = value.clone();
        }
        EncoderConfig::read(&config, None)
    };
    assert!(matches!(read(json!({})).expect("good").output, Output::Labels { labels: 1, sigmoid: true, .. }));
    for (field, value) in [
        ("architectures", json!(["T5Model"])),
        ("num_attention_heads", json!(5)),
        ("position_embedding_type", json!("relative_key")),
        ("hidden_activation", json!("silu")),
        ("attention_bias", json!(true)),
        ("layer_types", json!(["full_attention", "full_attention", "sliding_attention"])),
        ("classifier_pooling", json!("max")),
        ("pad_token_id", json!(100)),
        ("id2label", json!({})),
        ("quantization_config", json!({"quant_method": "fp8"})),
    ] {
        let error = read(json!({field: value})).expect_err(field);
        assert_eq!(error.field, field, "{error}");
    }
    let identity = json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}});
    assert!(!cross_encoder_sigmoid(&identity, 1), "as ms-marco-MiniLM has it");
    assert!(!cross_encoder_sigmoid(&json!({}), 3));
}

/// A tensor that is missing is an error that names it.
#[test]
fn an_encoder_without_a_tensor_is_refused_by_name() {
    let checkpoint = Checkpoint::open(&golden_dir("embeddings/bert")).expect("a checkpoint");
    let mut config = checkpoint.config.clone();
    config["num_hidden_layers"] = 3.into();
    let config = EncoderConfig::read(&config, None).expect("a shape");
    let error = Encoder::load(config, &checkpoint, 1).err().expect("a refusal");
    assert!(error.contains("encoder.layer.2"), "{error}");
}
