//! Sentences a second of an encoder: `cargo bench --bench embeddings -- DIRECTORY [THREADS]`.
//!
//! DIRECTORY holds an encoder with its tokenizer, such as all-MiniLM-L6-v2 (scripts/fetch_tokenizers.sh fetches it).
//! 128 sentences of 4 to 43 words are tokenized and embedded, all at once in the queue and then one after the other;
//! the best of three rounds counts. `scripts/bench_embeddings.py DIRECTORY THREADS` is the same for
//! sentence-transformers.

use novastack::checkpoint::Checkpoint;
use novastack::clock::Clock;
use novastack::encoder::{Encoder, EncoderConfig};
use novastack::engine::encoder::{EncoderEngineConfig, spawn};
use novastack::engine::handle::{EngineHandle, TokenStream};
use novastack::protocol::{GenerateRequest, Pooling, SamplingParams, TokenEvent, TokenId};
use novastack::text::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SENTENCES: usize = 128;
const ROUNDS: usize = 3;

#[global_allocator]
static ALLOCATOR: novastack::text::CountingAllocator = novastack::text::CountingAllocator;

fn main() -> Result<(), String> {
    novastack::backend::cpu::candle::without_own_threads();
    let mut arguments = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let Some(directory) = arguments.next().map(PathBuf::from) else {
        println!("SKIPPED: no model: name a directory");
        return Ok(());
    };
    let threads =
        arguments.next().map_or(Ok(2), |threads| threads.parse()).map_err(|_| "THREADS: a number")?;
    let checkpoint = Checkpoint::open(&directory).map_err(|error| error.to_string())?;
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).map_err(|error| error.to_string())?;
    let sentence = checkpoint.sentence_transformers.as_ref();
    let config = EncoderConfig::read(&checkpoint.config, sentence).map_err(|error| error.to_string())?;
    let limits = EncoderEngineConfig {
        name: "bench".into(),
        max_context: config.max_tokens,
        max_queued: SENTENCES,
        step_token_budget: 512,
        vocab: config.vocab,
    };
    let encoder = Encoder::load(config, &checkpoint, threads)?;
    let (engine, _thread) =
        spawn(limits, Box::new(encoder), Clock::real()).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;

    let sentences = sentences()?;
    let encode = |text: &String| tokenizer.encode(text, true).map_err(|error| error.to_string());
    let lengths = sentences.iter().map(|text| encode(text).map(|ids| ids.len()));
    let tokens = lengths.sum::<Result<usize, String>>()?;
    let mut together = Duration::MAX;
    let mut alone = Duration::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let streams = sentences.iter().map(|text| submit(&engine, encode(text)?));
        for stream in streams.collect::<Result<Vec<_>, String>>()? {
            runtime.block_on(vector(stream))?;
        }
        together = together.min(begun.elapsed());
        let begun = Instant::now();
        for text in &sentences {
            runtime.block_on(vector(submit(&engine, encode(text)?)?))?;
        }
        alone = alone.min(begun.elapsed());
    }
    println!("{SENTENCES} sentences, {tokens} tokens, {threads} threads");
    for (what, took) in [("all at once", together), ("one after the other", alone)] {
        let seconds = took.as_secs_f64();
        println!(
            "{what}: {:.0} sentences/s, {:.0} tokens/s",
            SENTENCES as f64 / seconds,
            tokens as f64 / seconds
        );
    }
    Ok(())
}

/// Words of the tests' corpus, 4 to 43 of them.
fn sentences() -> Result<Vec<String>, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/corpus.txt");
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let sentence = |index: usize| {
        let length = 4 + index * 7 % 40;
        let chosen = (0..length).map(|at| words[(index * 13 + at) % words.len()]);
        chosen.collect::<Vec<_>>().join(" ")
    };
    Ok((0..SENTENCES).map(sentence).collect())
}

fn submit(engine: &EngineHandle, prompt: Vec<TokenId>) -> Result<TokenStream, String> {
    let request = GenerateRequest {
        id: "bench".into(),
        prompt: prompt.into(),
        choices: 1,
        sampling: Arc::new(SamplingParams::default()),
        cache_salt: 0,
        priority: 0,
        constraint: None,
        generated: Vec::new(),
        pooling: Some(Pooling::Embedding),
        token_types: None,
    };
    engine.submit(request).map_err(|error| error.to_string())
}

async fn vector(mut stream: TokenStream) -> Result<(), String> {
    while let Some(event) = stream.next().await {
        match event {
            TokenEvent::Failed { message } => return Err(message),
            TokenEvent::Finished { .. } => return Ok(()),
            _ => {}
        }
    }
    Err("a request without an end".into())
}
