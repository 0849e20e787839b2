//! Decoders: Qwen3-Embedding's last token, a reranker's head, and the logits of chosen tokens, through the scheduler
//! and the CPU backend.

use super::{all, assert_near, cases, pooled, refusal, request, submit};
use crate::support::golden_dir;
use novastack::backend::Backend;
use novastack::backend::cpu::CpuBackend;
use novastack::checkpoint::{Checkpoint, PoolingMode};
use novastack::clock::Clock;
use novastack::engine::executor::{DeviceExecutor, Rank};
use novastack::engine::handle::{EngineHandle, SubmitError};
use novastack::engine::worker::{EngineConfig, spawn};
use novastack::model::{self, Loader, ModelConfig, Weights};
use novastack::protocol::{GenerateRequest, Pooling, SamplingParams, TokenEvent, TokenId};
use std::sync::Arc;

/// The context of the goldens' models, in tokens.
const CONTEXT: usize = 64;

fn engine(golden: &str, ranks: usize, blocks: usize, step_tokens: usize) -> EngineHandle {
    let checkpoint = Checkpoint::open(&golden_dir(golden)).expect("a golden");
    let mut shape = ModelConfig::from_json(&checkpoint.config).expect("a shape");
    if let Some(sentence) = &checkpoint.sentence_transformers {
        shape.normalises_embeddings = sentence.normalises;
    }
    let ranks = CpuBackend::group(ranks, ranks).into_iter().map(|backend| {
        let loader = Loader::new(&backend, &shape, Weights::Checkpoint(&checkpoint, None));
        let model = model::load(&loader, 32, 1, &|_, _| {}).expect("a model");
        let kv = backend.kv_cache(&model.kv_spec(), blocks).expect("a cache");
        Rank { backend, model, kv }
    });
    let executor = DeviceExecutor::spawn(ranks.collect(), blocks, None);
    let config = EngineConfig {
        name: "pooled".into(),
        max_context: CONTEXT,
        kv_blocks: blocks,
        max_running: 8,
        max_queued: 32,
        step_token_budget: step_tokens,
        vocab: shape.vocab,
        cache_salt: 0,
    };
    spawn(config, Box::new(executor), Clock::real()).expect("an engine").0
}

fn generation(prompt: &[TokenId], max_tokens: u32) -> GenerateRequest {
    let sampling = SamplingParams { temperature: 0.0, max_tokens, ..SamplingParams::default() };
    GenerateRequest {
        pooling: None,
        sampling: Arc::new(sampling),
        ..request(prompt, None, Pooling::Embedding)
    }
}

async fn tokens(engine: &EngineHandle, request: GenerateRequest) -> Vec<TokenId> {
    let mut stream = engine.submit(request).expect("a stream");
    let mut tokens = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            TokenEvent::Token { token, .. } => tokens.push(token.token),
            TokenEvent::Prompt { .. } | TokenEvent::Finished { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    tokens
}

#[tokio::test]
async fn a_decoders_embeddings_are_transformers_ones() {
    for (golden, pooling) in [("qwen3-embedding", Pooling::Embedding), ("qwen3-reranker", Pooling::Classify)]
    {
        let engine = engine(&format!("embeddings/{golden}"), 1, 64, 8);
        for case in cases(&format!("{golden}/golden.json")) {
            let (values, _) = pooled(submit(&engine, &case, &pooling)).await;
            assert_near(&values, &case.values, 1e-4, golden);
        }
    }
}

/// Chunked prefill, neighbours that generate, a prefix hit: none of them moves a bit.
#[tokio::test]
async fn numbers_do_not_depend_on_the_batch_or_the_prefix_cache() {
    let cases = cases("qwen3-embedding/golden.json");
    let alone: Vec<Vec<f32>> = {
        let mut alone = Vec::new();
        for case in &cases {
            let engine = engine("embeddings/qwen3-embedding", 1, 64, 32);
            alone.push(pooled(submit(&engine, case, &Pooling::Embedding)).await.0);
        }
        alone
    };
    for step_tokens in [8, 32] {
        let engine = engine("embeddings/qwen3-embedding", 1, 64, step_tokens);
        let written_alone = tokens(&engine, generation(&[9, 8, 7], 30)).await;
        let streams = cases.iter().map(|case| submit(&engine, case, &Pooling::Embedding)).collect();
        let (together, written) = tokio::join!(all(streams), tokens(&engine, generation(&[9, 8, 7], 30)));
        assert_eq!(together, alone, "in steps of {step_tokens} tokens");
        assert_eq!(written, written_alone, "a neighbour's tokens");
        for (case, alone) in cases.iter().zip(&alone) {
            let (values, cached) = pooled(submit(&engine, case, &Pooling::Embedding)).await;
            assert_eq!(&values, alone, "after a prefix hit");
            // The last token is computed whatever is cached.
            assert_eq!(cached as usize, (case.ids.len() - 1) / 16 * 16);
        }
    }
}

/// A sequence that is preempted while its prompt is computed begins anew, and others wait for blocks.
#[tokio::test]
async fn numbers_survive_a_lack_of_blocks() {
    let cases = cases("qwen3-embedding/golden.json");
    let longest = cases.last().expect("a case");
    let plenty = engine("embeddings/qwen3-embedding", 1, 64, 32);
    let (wanted, _) = pooled(submit(&plenty, longest, &Pooling::Embedding)).await;
    let written_alone = tokens(&plenty, generation(&[5; 15], 45)).await;
    // Two at a time at the most, beside one that grows.
    let engine = engine("embeddings/qwen3-embedding", 1, 6, 8);
    let mut preemptions = 0;
    for _ in 0..4 {
        let streams = (0..3).map(|_| submit(&engine, longest, &Pooling::Embedding)).collect();
        let (values, written) = tokio::join!(all(streams), tokens(&engine, generation(&[5; 15], 45)));
        assert_eq!(values, vec![wanted.clone(); 3]);
        assert_eq!(written, written_alone);
        preemptions = engine.stats().preemptions;
    }
    println!("{preemptions} preemptions");
    assert_eq!(engine.stats().kv_blocks_used, 0);
}

#[tokio::test]
async fn ranks_give_the_numbers_of_one() {
    for (golden, pooling) in [("qwen3-embedding", Pooling::Embedding), ("qwen3-reranker", Pooling::Classify)]
    {
        let engine = engine(&format!("embeddings/{golden}"), 2, 64, 32);
        for case in cases(&format!("{golden}/golden.json")) {
            let (values, _) = pooled(submit(&engine, &case, &pooling)).await;
            assert_near(&values, &case.values, 1e-4, golden);
        }
        let case = &cases(&format!("{golden}/golden.json"))[3];
        if pooling == Pooling::Embedding {
            let chosen = Pooling::Logits([7, 3].into());
            assert_eq!(pooled(submit(&engine, case, &chosen)).await.0.len(), 2);
        }
    }
}

/// Against transformers' log-probabilities, which are logits less a constant.
#[tokio::test]
async fn logits_of_chosen_tokens_are_those_after_the_prompt() {
    let path = golden_dir("qwen3").join("golden.json");
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).expect("a golden")).expect("JSON");
    let cases = golden["cases"].as_array().expect("cases");
    let case = cases.iter().find(|case| case["first_logprobs"].is_array()).expect("a whole vocabulary");
    let prompt: Vec<TokenId> =
        case["prompt"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect();
    let logprob = |token: usize| case["first_logprobs"][token].as_f64().expect("a log-probability") as f32;
    let engine = engine("qwen3", 1, 64, 32);
    let wanted = [17_u32, 3, 200, 17];
    let stream = engine.submit(request(&prompt, None, Pooling::Logits(wanted.into()))).expect("a stream");
    let (values, _) = pooled(stream).await;
    assert_eq!(values.len(), 4);
    assert_eq!(values[0], values[3], "in the order in which they were asked for");
    for (value, token) in values.iter().zip(wanted) {
        let (got, wanted) = (value - values[0], logprob(token as usize) - logprob(17));
        assert!((got - wanted).abs() < 2e-3, "token {token}: {got} where {wanted} is wanted");
    }
    let outside = refusal(&engine, &prompt, Some(Pooling::Logits([1, 99_999].into())));
    assert!(matches!(outside, SubmitError::BadToken { token: 99_999, .. }), "{outside}");
}

#[tokio::test]
async fn a_prompt_for_numbers_may_fill_the_context_and_no_more() {
    let engine = engine("embeddings/qwen3-embedding", 1, 64, 32);
    let full = vec![5; CONTEXT];
    let stream = engine.submit(request(&full, None, Pooling::Embedding)).expect("it fits");
    assert_eq!(pooled(stream).await.0.len(), 32);
    let too_long = refusal(&engine, &[5; CONTEXT + 1], Some(Pooling::Embedding));
    assert_eq!(too_long, SubmitError::PromptTooLong { prompt_tokens: CONTEXT + 1, max_context: CONTEXT });
    // A generation needs room for a token.
    let no_room = refusal(&engine, &full, None);
    assert_eq!(no_room, SubmitError::PromptTooLong { prompt_tokens: CONTEXT, max_context: CONTEXT });
}

#[tokio::test]
async fn what_a_decoder_cannot_do_is_refused_by_name() {
    let embeds = engine("embeddings/qwen3-embedding", 1, 64, 32);
    let refused = refusal(&embeds, &[5], Some(Pooling::Classify));
    assert!(
        matches!(&refused, SubmitError::Unsupported(why) if why.contains("classification head")),
        "{refused}"
    );
    let scores = engine("embeddings/qwen3-reranker", 1, 64, 32);
    for (pooling, word) in [(None, "no text"), (Some(Pooling::Logits([1].into())), "no logits")] {
        let refused = refusal(&scores, &[5], pooling);
        assert!(matches!(&refused, SubmitError::Unsupported(why) if why.contains(word)), "{refused}");
    }
}

#[tokio::test]
async fn a_dropped_request_for_numbers_is_forgotten_and_a_drain_waits_for_the_others() {
    let engine = engine("embeddings/qwen3-embedding", 1, 64, 8);
    let cases = cases("qwen3-embedding/golden.json");
    let streams: Vec<_> = cases.iter().map(|case| submit(&engine, case, &Pooling::Embedding)).collect();
    let (dropped, kept): (Vec<_>, Vec<_>) = streams.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    drop(dropped);
    engine.drain();
    for (at, stream) in kept {
        assert_near(&pooled(stream).await.0, &cases[at].values, 1e-4, "while it drains");
    }
    assert_eq!(refusal(&engine, &[5], Some(Pooling::Embedding)), SubmitError::Draining);
    while !engine.is_idle() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[test]
fn sentence_transformers_files_are_read() {
    let checkpoint = Checkpoint::open(&golden_dir("embeddings/qwen3-embedding")).expect("a golden");
    let sentence = checkpoint.sentence_transformers.as_ref().expect("a modules.json");
    assert_eq!((sentence.pooling, sentence.normalises), (Some(PoolingMode::Last), true));
    assert_eq!(sentence.prompts.query.as_deref(), Some("Instruct: find it\nQuery:"));
    assert_eq!(sentence.prompts.document, None, "nothing is put before documents");
    assert!(checkpoint.tensor("model.layers.0.mlp.up_proj.weight").is_some(), "saved without `model.`");
    assert!(checkpoint.warnings.iter().all(|warning| !warning.contains("chat")), "{:?}", checkpoint.warnings);

    let bad = |file: &str, text: &str| {
        let copy = tempfile::tempdir().expect("a folder");
        let from = golden_dir("embeddings/qwen3-embedding");
        std::fs::create_dir(copy.path().join("1_Pooling")).expect("a folder");
        for name in
            ["config.json", "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"]
        {
            std::fs::copy(from.join(name), copy.path().join(name)).expect("a copy");
        }
        std::fs::write(copy.path().join(file), text).expect("a file");
        Checkpoint::open_config(copy.path()).expect_err("a refusal").to_string()
    };
    let transformer = r#"{"type": "sentence_transformers.models.Transformer", "path": ""}"#;
    let modules = |more: &str| format!("[{transformer}, {more}]");
    let dense =
        bad("modules.json", &modules(r#"{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}"#));
    assert!(
        dense.contains("modules.json") && dense.contains("[1].type") && dense.contains("`Dense`"),
        "{dense}"
    );
    let outside = modules(r#"{"type": "sentence_transformers.models.Pooling", "path": "../1_Pooling"}"#);
    assert!(bad("modules.json", &outside).contains("[1].path"));
    let max = bad("1_Pooling/config.json", r#"{"pooling_mode_max_tokens": true}"#);
    assert!(max.contains("max_tokens is not supported") && max.contains("lasttoken"), "{max}");
    let two = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#;
    assert!(bad("1_Pooling/config.json", two).contains("cls_token with mean_tokens"));
    assert!(
        bad("config_sentence_transformers.json", r#"{"prompts": {"query": 7}}"#).contains("prompts.query")
    );
    assert!(bad("sentence_bert_config.json", r#"{"max_seq_length": -1}"#).contains("max_seq_length"));
}
