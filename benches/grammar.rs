//! What grammars cost: `cargo bench --bench grammar [-- MODEL.gguf]`.
//!
//! Three tables: making a compiler and compiling some grammars; a mask and its acceptance, token by token along
//! answers that a model would write; and a decode step of 8 sequences of which none, one or all are constrained,
//! on the CPU backend. Greedy, with stop tokens off, so that all sequences decode to the end.
//!
//! The model is the argument, or `$NOVASTACK_BENCH_MODEL`, a .gguf file with a real vocabulary; without one
//! nothing is measured, and that is said.

use novastack::backend::Backend;
use novastack::backend::cpu::CpuBackend;
use novastack::checkpoint::Checkpoint;
use novastack::clock::Clock;
use novastack::engine::executor::{DeviceExecutor, Rank};
use novastack::engine::handle::EngineHandle;
use novastack::engine::worker::{EngineConfig, spawn};
use novastack::model::{self, Loader, ModelConfig, Weights};
use novastack::protocol::{ConstraintFactory, GenerateRequest, SamplingParams, TokenEvent, TokenId};
use novastack::text::Tokenizer;
use novastack::text::grammar::{
    After, AnswerText, CallFormat, CallTexts, Grammar, GrammarCompiler, Tool, ToolCalls,
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEQUENCES: usize = 8;
const KV_BLOCKS: usize = 256;
const OUTPUT: u32 = 96;

fn main() -> Result<(), String> {
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let Some(path) = given.or_else(|| std::env::var_os("NOVASTACK_BENCH_MODEL").map(PathBuf::from)) else {
        println!("SKIPPED: no model: name a .gguf file, or set NOVASTACK_BENCH_MODEL");
        return Ok(());
    };
    let checkpoint = Checkpoint::open(&path).map_err(|error| error.to_string())?;
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).map_err(|error| error.to_string())?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    println!("{name}: {} tokens", tokenizer.vocab_size());
    let before = resident_bytes();
    let begun = Instant::now();
    let compiler = GrammarCompiler::new(&tokenizer).map_err(|error| error.to_string())?;
    let (took, bytes) = (begun.elapsed(), resident_bytes().saturating_sub(before));
    println!("a compiler: {:.0} ms, {:.1} MB\n", took.as_secs_f64() * 1e3, bytes as f64 / 1e6);

    println!("| grammar | compile ms | constraint us | tokens | mask us p50 | p99 | most | accept us p50 |");
    println!("|---|---|---|---|---|---|---|---|");
    for (what, grammar, answer) in grammars() {
        let begun = Instant::now();
        let compiled = compiler.compile(&grammar).map_err(|error| format!("{what}: {error}"))?;
        let compile = begun.elapsed();
        let factory = compiled.factory(&After::Nothing).map_err(|error| error.to_string())?;
        let begun = Instant::now();
        drop(factory.constraint());
        let made = begun.elapsed();
        let tokens = tokenizer.encode(&answer, false).map_err(|error| error.to_string())?;
        let (mut masks, mut accepts) = walk(&*factory, &tokens, tokenizer.vocab_size(), what)?;
        println!(
            "| {what} | {:.2} | {:.0} | {} | {:.0} | {:.0} | {:.0} | {:.1} |",
            compile.as_secs_f64() * 1e3,
            us(made),
            tokens.len(),
            us(quantile(&mut masks, 0.5)),
            us(quantile(&mut masks, 0.99)),
            us(quantile(&mut masks, 1.0)),
            us(quantile(&mut accepts, 0.5)),
        );
    }

    let constraint = compiler.compile(&rows(1000)).map_err(|error| error.to_string())?;
    let constraint = constraint.factory(&After::Nothing).map_err(|error| error.to_string())?;
    let engine = engine(&checkpoint)?;
    let prompt = "Write a list of people with their ages and cities, as JSON: ";
    let prompt = tokenizer.encode(prompt, false).map_err(|error| error.to_string())?;
    decode(&engine, &prompt, 0, &constraint)?;
    println!("\n| constrained of {SEQUENCES} | decode step ms, best of 5 | median |\n|---|---|---|");
    let mut times: Vec<(usize, Vec<Duration>)> = [0, 1, SEQUENCES].map(|count| (count, Vec::new())).into();
    // In turn, so that a busy machine slows all alike.
    for _ in 0..5 {
        for (count, times) in &mut times {
            times.push(decode(&engine, &prompt, *count, &constraint)?);
        }
    }
    for (count, times) in &mut times {
        let (best, median) = (quantile(times, 0.0), quantile(times, 0.5));
        println!("| {count} | {:.2} | {:.2} |", best.as_secs_f64() * 1e3, median.as_secs_f64() * 1e3);
    }
    engine.drain();
    Ok(())
}

/// Name, grammar, and an answer.
fn grammars() -> Vec<(&'static str, Grammar, String)> {
    let person = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
        "email": {"type": "string", "format": "email"}}, "required": ["name", "age", "email"],
        "additionalProperties": false});
    let wide: Map<String, Value> = (0..500)
        .map(|i| {
            (format!("property_{i}"), if i % 2 == 0 { json!({"type": "string"}) } else { person.clone() })
        })
        .collect();
    let wide = json!({"type": "object", "properties": wide, "required": ["property_0"]});
    let tree = json!({"$defs": {"node": {"type": "object", "properties": {"value": {"type": "number"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["value", "children"],
        "additionalProperties": false}}, "$ref": "#/$defs/node"});
    let cities: Vec<String> = (0..1000).map(|i| format!("city number {i}")).collect();
    let call = Tool { name: "get_person".into(), parameters: person.clone(), strict: true };
    let format = CallFormat::Texts(CallTexts {
        before_name: "<tool_call>\n{\"name\": \"".into(),
        after_name: "\", \"arguments\": ".into(),
        after_arguments: "}\n</tool_call>".into(),
        ..CallTexts::default()
    });
    let calls =
        ToolCalls { tools: vec![call], format, required: true, parallel: false, text: AnswerText::Free };
    let row = r#"{"name": "Ada Lovelace", "age": 36, "email": "ada@example.com"}"#;
    let many = format!("[{}]", vec![row; 20].join(", "));
    vec![
        ("json_object", Grammar::JsonObject, format!("{{\"people\": {many}, \"note\": \"a plain text, with \\\"quotes\\\"\"}}")),
        ("schema: 3 properties", Grammar::JsonSchema(person), row.into()),
        ("schema: rows", rows(1), many),
        ("schema: 500 properties", Grammar::JsonSchema(wide), format!("{{\"property_0\": \"text\", \"property_1\": {row}, \"property_499\": {row}}}")),
        ("schema: recursive", Grammar::JsonSchema(tree), r#"{"value": 1.5, "children": [{"value": -2e3, "children": []}, {"value": 0, "children": [{"value": 7, "children": []}]}]}"#.into()),
        ("1000 choices", Grammar::Choice(cities), "city number 777".into()),
        ("regex", Grammar::Regex(r"\d{4}-\d{2}-\d{2}( \w+){1,20}".into()), "2024-02-29 is a day that comes once in four years".into()),
        ("a tool call behind text", Grammar::Tools(Box::new(calls)), format!("I will look that up.\n<tool_call>\n{{\"name\": \"get_person\", \"arguments\": {row}}}\n</tool_call>")),
    ]
}

/// So many objects, or more.
fn rows(least: usize) -> Grammar {
    let row = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
        "email": {"type": "string"}}, "required": ["name", "age", "email"], "additionalProperties": false});
    Grammar::JsonSchema(json!({"type": "array", "items": row, "minItems": least}))
}

/// How long each mask took, and each acceptance.
fn walk(
    factory: &dyn ConstraintFactory,
    tokens: &[TokenId],
    vocab: usize,
    what: &str,
) -> Result<(Vec<Duration>, Vec<Duration>), String> {
    let mut constraint = factory.constraint();
    let mut mask = vec![0; vocab.div_ceil(32)];
    let (mut masks, mut accepts) = (Vec::new(), Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        let begun = Instant::now();
        let restricts = constraint.mask(&mut mask)?;
        masks.push(begun.elapsed());
        if restricts && mask[*token as usize / 32] >> (token % 32) & 1 == 0 {
            return Err(format!("{what}: token {at} of its answer is not allowed"));
        }
        let begun = Instant::now();
        constraint.accept(*token)?;
        accepts.push(begun.elapsed());
    }
    Ok((masks, accepts))
}

fn engine(checkpoint: &Checkpoint) -> Result<EngineHandle, String> {
    let mut shape = ModelConfig::from_json(&checkpoint.config).map_err(|error| error.to_string())?;
    let max_context = shape.max_context.min(1024);
    shape.serve_context(max_context);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut backends = CpuBackend::group(1, threads);
    let backend = backends.pop().ok_or("a group of one has a rank")?;
    let weights = Weights::Checkpoint(checkpoint, shape.quantization.as_ref());
    let loader = Loader::new(&backend, &shape, weights);
    let model = model::load(&loader, 256, threads, &|_, _| {}).map_err(|error| error.to_string())?;
    let kv = backend.kv_cache(&model.kv_spec(), KV_BLOCKS).map_err(|error| error.to_string())?;
    let rank = Rank { backend, model, kv };
    let executor = DeviceExecutor::spawn(vec![rank], KV_BLOCKS, None);
    let config = EngineConfig {
        name: "bench".into(),
        max_context,
        kv_blocks: KV_BLOCKS,
        max_running: SEQUENCES,
        max_queued: SEQUENCES,
        step_token_budget: 256,
        vocab: shape.vocab,
        cache_salt: 0,
    };
    let (engine, _) = spawn(config, Box::new(executor), Clock::real()).map_err(|error| error.to_string())?;
    Ok(engine)
}

/// A step's time while all sequences decode.
#[tokio::main(flavor = "current_thread")]
async fn decode(
    engine: &EngineHandle,
    prompt: &[TokenId],
    constrained: usize,
    constraint: &Arc<dyn ConstraintFactory>,
) -> Result<Duration, String> {
    let sampling = SamplingParams { temperature: 0.0, max_tokens: OUTPUT, ..SamplingParams::default() };
    let sampling = Arc::new(sampling);
    let mut streams = Vec::new();
    for index in 0..SEQUENCES {
        // Prompts of one length that share nothing.
        let prompt: Vec<TokenId> = [&[index as TokenId + 100], prompt].concat();
        let request = GenerateRequest {
            id: index.to_string(),
            prompt: prompt.into(),
            choices: 1,
            sampling: sampling.clone(),
            cache_salt: index as u64,
            priority: 0,
            constraint: (index < constrained).then(|| constraint.clone()),
            generated: Vec::new(),
            pooling: None,
            token_types: None,
        };
        streams.push(engine.submit(request).map_err(|error| error.to_string())?);
    }
    // From the step after the one in which the last sequence got its first token.
    for stream in &mut streams {
        loop {
            match stream.next().await {
                Some(TokenEvent::Token { .. }) => break,
                Some(TokenEvent::Failed { message }) => return Err(message),
                Some(_) => {}
                None => return Err("a request without a token".into()),
            }
        }
    }
    let (begun, steps) = (Instant::now(), engine.stats().steps);
    for stream in &mut streams {
        while let Some(event) = stream.next().await {
            if let TokenEvent::Failed { message } = event {
                return Err(message);
            }
        }
    }
    Ok(begun.elapsed() / u32::try_from(engine.stats().steps - steps).unwrap_or(1).max(1))
}

fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let at = (part * (times.len() - 1) as f64).round() as usize;
    times[at]
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Of this process; 0 where the system does not say.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.unwrap_or(0) * 1024
}
