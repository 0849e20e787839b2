//! A model that knows nothing, held to random schemas by the engine: every answer that ends is valid.

use super::schemas::{Random, schema, valid};
use super::{compiled, ends, tokenizer};
use novastack::clock::Clock;
use novastack::engine::executor::{Executor, ExecutorError, Ticket};
use novastack::engine::plan::{StepOutput, StepPlan};
use novastack::engine::sampler::Sampler;
use novastack::engine::worker::{EngineConfig, spawn};
use novastack::protocol::{
    ConstraintFactory, FinishReason, GenerateRequest, SamplingParams, TokenEvent, TokenId,
};
use novastack::text::grammar::{After, Grammar};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Logits by (seed, choice, position) alone. It likes to come to an end, or none would.
struct Noise {
    sampler: Sampler,
    launched: Option<StepPlan>,
    liking: Vec<f32>,
}

impl Noise {
    fn new() -> Self {
        let liking = |id: TokenId| match tokenizer().token_text(id).0.as_str() {
            _ if ends().contains(&id) => 5.0,
            "\"" => 4.0,
            "}" | "]" => 3.0,
            "\\" | "," | "[" | "{" => -1.5,
            text if text.chars().all(char::is_whitespace) => -1.0,
            _ => 0.0,
        };
        let liking = (0..tokenizer().vocab_size() as TokenId).map(liking).collect();
        Self { sampler: Sampler::default(), launched: None, liking }
    }
}

impl Executor for Noise {
    fn launch(&mut self, plan: StepPlan) -> Result<Ticket, ExecutorError> {
        self.launched = Some(plan);
        Ok(Ticket(0))
    }

    fn collect(&mut self, _: Ticket) -> Result<StepOutput, ExecutorError> {
        let mut output = StepOutput::default();
        for seq in self.launched.take().expect("a step").seqs {
            let Some(spec) = &seq.sample else { continue };
            let position = u64::from(spec.choice) << 32 | u64::from(spec.output_index);
            let mut random = Random(seq.params.seed ^ position.wrapping_mul(0x2545_f491_4f6c_dd1d));
            let noise =
                self.liking.iter().map(|liking| liking + (random.below(4000) as f32 - 2000.0) / 1000.0);
            let logits: Vec<f32> = noise.collect();
            let mask = spec.mask.as_ref().map(|mask| mask.wait()).transpose();
            match mask {
                Err(reason) => output.failed.push((seq.seq, reason)),
                Ok(mask) => {
                    let mask = mask.flatten();
                    let token = self.sampler.sample_within(mask.as_deref(), &logits, &seq.params, spec)?;
                    output.sampled.push((seq.seq, token));
                }
            }
        }
        Ok(output)
    }
}

/// What came of each request's choices: text, and whether it ended by itself.
#[tokio::main(flavor = "current_thread")]
async fn answers(requests: &[GenerateRequest], max_running: usize) -> Vec<Vec<(String, bool)>> {
    let config = EngineConfig {
        name: "noise".into(),
        max_context: 1024,
        // Not for all that run: some are preempted.
        kv_blocks: 16 * max_running + 64,
        max_running,
        max_queued: requests.len(),
        step_token_budget: 64,
        vocab: tokenizer().vocab_size(),
        cache_salt: 1,
    };
    let (handle, thread) = spawn(config, Box::new(Noise::new()), Clock::real()).expect("an engine");
    let streams: Vec<_> = requests.iter().map(|r| handle.submit(r.clone()).expect("a stream")).collect();
    let mut answers = Vec::new();
    for (request, mut stream) in requests.iter().zip(streams) {
        let mut of: Vec<(Vec<TokenId>, bool)> = vec![(Vec::new(), false); request.choices as usize];
        while let Some(event) = stream.next().await {
            match event {
                TokenEvent::Prompt { .. } => {}
                TokenEvent::Token { choice, token } if ends().contains(&token.token) => {
                    of[choice as usize].1 = true
                }
                TokenEvent::Token { choice, token } => of[choice as usize].0.push(token.token),
                TokenEvent::Finished { choice, reason } => {
                    assert_eq!(of[choice as usize].1, reason == FinishReason::Stop);
                }
                TokenEvent::Failed { message } => panic!("{}: {message}", request.id),
                TokenEvent::Pooled { .. } => panic!("{}: numbers that nobody wants", request.id),
            }
        }
        let text = |(tokens, ended): (Vec<TokenId>, bool)| {
            let bytes: Vec<u8> = tokens.iter().flat_map(|id| tokenizer().token_text(*id).1).collect();
            // Reasoning of a random model is no UTF-8.
            (String::from_utf8_lossy(&bytes).into_owned(), ended)
        };
        answers.push(of.into_iter().map(text).collect());
    }
    handle.drain();
    thread.join().expect("the engine's end");
    answers
}

fn request(seed: u64, constraint: Arc<dyn ConstraintFactory>) -> GenerateRequest {
    let sampling = SamplingParams {
        seed,
        max_tokens: 700,
        stop_tokens: ends().to_vec(),
        min_tokens: (seed % 5) as u32 * 4,
        ..SamplingParams::default()
    };
    GenerateRequest {
        id: seed.to_string(),
        prompt: vec![1, 2, 3, (seed % 7) as TokenId].into(),
        choices: 1 + (seed % 2) as u32,
        sampling: Arc::new(sampling),
        cache_salt: 0,
        priority: 0,
        constraint: Some(constraint),
        generated: Vec::new(),
        pooling: None,
        token_types: None,
    }
}

/// 1,000 schemas, each with and without reasoning before it, alone and in a batch of 16.
#[test]
fn every_answer_of_a_random_model_is_valid() {
    let count = 1_000;
    let schemas: Vec<Value> = (0..count).map(schema).collect();
    let reasoning = || After::Reasoning { open: None, close: "</think>".into(), budget: Some(10) };
    let requests: Vec<GenerateRequest> = schemas
        .iter()
        .zip(0..)
        .flat_map(|(schema, seed)| {
            let grammar = compiled(&Grammar::JsonSchema(schema.clone()));
            [After::Nothing, reasoning()]
                .map(|after| request(seed, grammar.factory(&after).expect("a factory")))
        })
        .collect();
    let together = answers(&requests, 16);
    assert!(together == answers(&requests, 1), "an answer depends on the batch");

    let (mut ended, mut all) = (Vec::new(), 0);
    for ((answers, schema), at) in together.iter().zip(schemas.iter().flat_map(|it| [it, it])).zip(0..) {
        let seed = at / 2;
        for (text, did_end) in answers {
            all += 1;
            let answer = match at % 2 {
                0 => text.as_str(),
                _ => text.split_once("</think>").expect("closed reasoning").1,
            };
            if *did_end {
                assert!(!answer.contains('\u{fffd}'), "{seed}: {answer:?} is no UTF-8");
                let value: Value = serde_json::from_str(answer)
                    .unwrap_or_else(|error| panic!("{seed}: {answer:?} of {schema}: {error}"));
                assert!(valid(schema, schema, &value), "{seed}: {answer} is not valid under {schema}");
                ended.push(json!({"schema": schema, "answer": answer}));
            }
        }
    }
    assert!(ended.len() * 10 > all * 9, "only {} of {all} answers came to an end", ended.len());
    jsonschema_agrees(&ended);
}

/// Python's jsonschema, formats and patterns included. scripts/test.sh names a Python that has it.
fn jsonschema_agrees(answers: &[Value]) {
    let named = std::env::var("NOVASTACK_TEST_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let has_it = Command::new(&python).args(["-c", "import jsonschema"]).stderr(Stdio::null()).status();
    if !has_it.is_ok_and(|status| status.success()) {
        assert!(named.is_none(), "{python} has no jsonschema");
        eprintln!(
            "SKIPPED: python3 has no jsonschema; the answers were looked at by our own validator alone"
        );
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/check_schemas.py");
    let mut child = Command::new(&python).arg(script).stdin(Stdio::piped()).spawn().expect("python");
    let mut input = child.stdin.take().expect("a pipe");
    for answer in answers {
        writeln!(input, "{answer}").expect("python reads");
    }
    drop(input);
    assert!(child.wait().expect("python").success(), "jsonschema found answers that are not valid");
}
