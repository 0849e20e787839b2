//! `novastack bench offline`: a model through the engine without HTTP, so that planning, the
//! forward pass and sampling count, and nothing else.
//!
//! A row is a batch of prompts that share nothing, submitted at once, twice. The first time one
//! token is asked of each: prefill. The second time the prompts come from the prefix cache, so that
//! all sequences decode together from the start: decode, timed while none has finished. Both are
//! warmed up before, decode by some tokens of the same prompts. What a decode step could reach at the
//! best is a read of the weights it needs and of its sequences' KV at
//! the rate of a copy on the same device.

mod requests;

use super::table::{Table, number, percent};
use super::timing::Ceilings;
use super::{COMMIT, described, print, progress_bar};
use crate::cli::load_args::LoadArgs;
use crate::cli::parse_bytes;
use clap::Args;
use novastack::backend::BackendError;
use novastack::backend::KV_BLOCK_TOKENS;
use novastack::backend::ceiling::ProbeSize;
use novastack::backend::cpu::CpuBackend;
use novastack::backend::hip::discover::discover;
use novastack::backend::hip::gpu::{Gpu, Half};
use novastack::backend::hip::{HipBackend, Options as BackendOptions};
use novastack::checkpoint::Checkpoint;
use novastack::checkpoint::catalogue::{self, CatalogueEntry};
use novastack::checkpoint::resolve::{Places, resolve, resolve_description};
use novastack::clock::Clock;
use novastack::engine::handle::EngineHandle;
use novastack::engine::worker::{self, EngineConfig};
use novastack::load::device::DeviceChoice;
use novastack::load::{self, LoadOptions, Loaded, WeightSource};
use novastack::memory::Memory;
use novastack::model::{ModelConfig, inventory};
use serde::Serialize;
use std::path::Path;

/// Of the best that a decode step could reach.
const TARGET: f64 = 0.75;
/// Tokens of a warm-up: on GPUs the second decode step of a form is recorded, the third replayed.
const WARM_UP_TOKENS: u32 = 5;

#[derive(Args)]
pub struct OfflineArgs {
    /// A directory in Hugging Face layout, a .gguf file, a hub id or a catalogue name. With
    /// --load-format dummy also a config.json; catalogue names need no network then.
    #[arg(long)]
    model: String,
    #[command(flatten)]
    load: LoadArgs,
    /// Sequences that run together.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32,64", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: Vec<u32>,
    /// Prompt tokens of each.
    #[arg(long, value_delimiter = ',', default_value = "128,1024", value_parser = clap::value_parser!(u32).range(1..))]
    input: Vec<u32>,
    /// Tokens that each generates.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    output: u32,
    /// Memory copied to measure the device's rate.
    #[arg(long, default_value = "512M", value_parser = parse_bytes, value_name = "SIZE")]
    copy_memory: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    model: String,
    dummy_weights: bool,
    device: String,
    devices: usize,
    commit: &'static str,
    step_tokens: usize,
    max_context: usize,
    kv_blocks: usize,
    weight_bytes: usize,
    kv_bytes_per_token: usize,
    copy_bytes_per_s: f64,
    decode_target: f64,
    rows: Vec<Row>,
    skipped: Vec<Skipped>,
    node: Option<Node>,
}

#[derive(Serialize)]
struct Row {
    batch: usize,
    input: usize,
    output: usize,
    prefill_tokens_per_s: f64,
    /// While all sequences decode; none where that time was too short.
    decode_tokens_per_s: Option<f64>,
    /// Output tokens over the time of prefill and decode together.
    output_tokens_per_s: f64,
    /// To the first token, of requests submitted together: their mean.
    ttft_ms: f64,
    /// Between tokens, while all sequences decode.
    tpot_ms: Option<f64>,
    /// Bytes that a decode step has to read.
    step_bytes: f64,
    /// Of them at the copy's rate.
    decode_of_best: Option<f64>,
}

#[derive(Serialize)]
struct Skipped {
    batch: usize,
    input: usize,
    reason: String,
}

/// The row with the most output tokens a second.
#[derive(Serialize)]
struct Node {
    batch: usize,
    input: usize,
    output: usize,
    output_tokens_per_s: f64,
    decode_tokens_per_s: Option<f64>,
}

/// Always true: what failed is an error.
pub fn run(args: OfflineArgs) -> Result<bool, String> {
    let most = |list: &[u32]| list.iter().copied().max().unwrap_or(1);
    let mut options = args.load.options();
    options.device = options.device.decided(options.tensor_parallel.unwrap_or(1));
    options.max_running = options.max_running.max(most(&args.batch) as usize);
    options.context_may_shrink = options.max_context.is_none();
    options.max_context.get_or_insert(most(&args.input).saturating_add(args.output) as usize);
    let device = options.device.clone();
    let copy_rate = copy_rate(&options, args.copy_memory)?;
    let (name, loaded) = load(&args.model, &options)?;
    let dummy = options.weights != WeightSource::Checkpoint;
    let mut report = Report {
        model: name.clone(),
        dummy_weights: dummy,
        device: described(&device),
        devices: if let DeviceChoice::Gpus(_, numbers) = &device { numbers.len() } else { 1 },
        commit: COMMIT,
        step_tokens: options.step_rows(),
        max_context: loaded.max_context,
        kv_blocks: loaded.kv_blocks,
        weight_bytes: loaded.bytes.weights(),
        kv_bytes_per_token: loaded.bytes.kv_token,
        copy_bytes_per_s: copy_rate,
        decode_target: TARGET,
        rows: Vec::new(),
        skipped: Vec::new(),
        node: None,
    };
    let bench = Bench::start(&options, args.output as usize, name, loaded, copy_rate)?;
    let bar = progress_bar(args.batch.len() * args.input.len());
    for &input in &args.input {
        for &batch in &args.batch {
            let (batch, input) = (batch as usize, input as usize);
            bar.set_message(format!("batch {batch}, {input} in"));
            match bench.unfit(batch, input) {
                Some(reason) => report.skipped.push(Skipped { batch, input, reason }),
                None => report.rows.push(bench.row(batch, input)?),
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    bench.engine.drain();
    report.find_best();
    match args.json {
        true => print(&serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?)?,
        false => print(&report.in_words())?,
    }
    Ok(true)
}

/// Bytes a second of a copy, on all devices together.
fn copy_rate(options: &LoadOptions, copy_bytes: usize) -> Result<f64, String> {
    let size = ProbeSize { copy_bytes, products: 1 };
    let failed = |error: BackendError| error.to_string();
    Ok(match &options.device {
        DeviceChoice::Gpus(vendor, numbers) => {
            let mut sum = 0.0;
            for &number in numbers {
                let gpu = Gpu::open(*vendor, number, Half::Bf16).map_err(failed)?;
                let mut backend = HipBackend::alone(gpu, BackendOptions::default()).map_err(failed)?;
                sum += Ceilings::measure(&mut backend, size, 0.1).map_err(failed)?.copy();
            }
            sum
        }
        DeviceChoice::Auto | DeviceChoice::Cpu => {
            let mut backend = CpuBackend::new(options.threads_or_all());
            Ceilings::measure(&mut backend, size, 0.1).map_err(failed)?.copy()
        }
    })
}

/// An error where weights in 16 bits are more than the devices' free memory: minutes earlier than
/// loading would find it.
fn check_memory(device: &DeviceChoice, checkpoint: &Checkpoint) -> Result<(), String> {
    let shape = ModelConfig::from_json(&checkpoint.config).map_err(|error| error.to_string())?;
    let needed = 2 * inventory::counts(&shape).total as usize;
    let free: usize = match device {
        DeviceChoice::Gpus(vendor, numbers) => {
            let library =
                discover().into_iter().find(|found| found.vendor == *vendor).map(|found| found.library);
            let Some(Ok(library)) = library else { return Ok(()) };
            let found = |number: &usize| library.devices.get(*number)?.as_ref().ok();
            numbers.iter().filter_map(found).map(|device| device.info.free_bytes).sum()
        }
        DeviceChoice::Auto | DeviceChoice::Cpu => Memory::of_this_process().available,
    };
    match needed < free {
        true => Ok(()),
        false => Err(format!(
            "out of memory: the weights take {} GB, {} GB are free on {device}",
            number(needed as f64 / 1e9),
            number(free as f64 / 1e9)
        )),
    }
}

/// The model's name, and the model.
fn load(model: &str, options: &LoadOptions) -> Result<(String, Loaded), String> {
    let dummy = options.weights != WeightSource::Checkpoint;
    let published = catalogue::find(model).and_then(CatalogueEntry::published_config);
    if let Some(config) = published.filter(|_| dummy) {
        let checkpoint = Checkpoint { config, ..Checkpoint::default() };
        check_memory(&options.device, &checkpoint)?;
        let loaded = load::load_opened(options, model, Path::new(model), checkpoint)?;
        return Ok((model.to_owned(), loaded));
    }
    let places = Places::from_env().map_err(|error| error.to_string())?;
    let resolved = match dummy {
        true => resolve_description(model, &places),
        false => resolve(model, &places),
    };
    let resolved = resolved.map_err(|error| error.to_string())?;
    let loaded = load::load(options, &resolved.served_name, &resolved, None)
        .map_err(|error| format!("--model {model}: {error}"))?;
    Ok((resolved.served_name, loaded))
}

/// A model at work.
struct Bench {
    engine: EngineHandle,
    runtime: tokio::runtime::Runtime,
    shape: ModelConfig,
    bytes: load::ModelBytes,
    max_context: usize,
    kv_blocks: usize,
    output: usize,
    step_rows: usize,
    copy_rate: f64,
}

impl Bench {
    fn start(
        options: &LoadOptions,
        output: usize,
        name: String,
        loaded: Loaded,
        copy_rate: f64,
    ) -> Result<Self, String> {
        let Loaded { shape, executor, max_context, kv_blocks, bytes, .. } = loaded;
        let failed = |error: std::io::Error| format!("a thread could not be started: {error}");
        let (engine, _thread) = worker::spawn(
            EngineConfig {
                name,
                max_context,
                kv_blocks,
                max_running: options.max_running,
                max_queued: options.max_running,
                step_token_budget: options.step_rows(),
                vocab: shape.vocab,
                cache_salt: 0,
            },
            executor,
            Clock::real(),
        )
        .map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
        Ok(Self {
            engine,
            runtime,
            shape,
            bytes,
            max_context,
            kv_blocks,
            output,
            step_rows: options.step_rows(),
            copy_rate,
        })
    }

    /// Why a row can't be run.
    fn unfit(&self, batch: usize, input: usize) -> Option<String> {
        let tokens = input + self.output;
        if tokens > self.max_context {
            return Some(format!("{tokens} tokens are more than the context of {}", self.max_context));
        }
        let blocks = batch * tokens.div_ceil(KV_BLOCK_TOKENS);
        (blocks > self.kv_blocks).then(|| {
            format!(
                "it needs {blocks} KV blocks of the {} that there are (--kv-cache-memory)",
                self.kv_blocks
            )
        })
    }

    fn row(&self, batch: usize, input: usize) -> Result<Row, String> {
        let seed = (batch as u64) << 32 | input as u64;
        let run = |prompts: &[_], output| requests::run(&self.engine, &self.runtime, prompts, output);
        // One step's worth of prompts, for the kernels that these shapes need.
        let short = input.min(self.step_rows.div_ceil(batch)).max(1);
        run(&requests::prompts(batch, short, self.shape.vocab, !seed), 1)?;

        let prompts = requests::prompts(batch, input, self.shape.vocab, seed);
        let prefill = run(&prompts, 1)?;
        let firsts: Vec<f64> = prefill.iter().filter_map(|times| times.first()).copied().collect();
        let prefill_seconds = firsts.iter().copied().fold(0.0, f64::max);
        run(&prompts, WARM_UP_TOKENS.min(self.output as u32))?;
        let decode = run(&prompts, self.output as u32)?;
        let decode_seconds = decode.iter().flatten().copied().fold(0.0, f64::max);
        let step = requests::full_step_seconds(&decode);
        let step_bytes = self.step_bytes(batch, input + self.output / 2);
        Ok(Row {
            batch,
            input,
            output: self.output,
            prefill_tokens_per_s: (batch * input) as f64 / prefill_seconds,
            decode_tokens_per_s: step.map(|seconds| batch as f64 / seconds),
            output_tokens_per_s: (batch * self.output) as f64 / (prefill_seconds + decode_seconds),
            ttft_ms: firsts.iter().sum::<f64>() / batch as f64 * 1e3,
            tpot_ms: step.map(|seconds| seconds * 1e3),
            step_bytes,
            decode_of_best: step.map(|seconds| step_bytes / self.copy_rate / seconds),
        })
    }

    /// What a decode step reads: weights, those of the experts that so many tokens choose if they
    /// choose at random, and the KV of all sequences.
    fn step_bytes(&self, batch: usize, context: usize) -> f64 {
        let active = self.shape.moe.as_ref().map_or(0.0, |moe| {
            let share = moe.routing.top_k as f64 / moe.routing.experts as f64;
            1.0 - (1.0 - share).powi(batch as i32)
        });
        let load::ModelBytes { experts, embedding, others, kv_token } = self.bytes;
        // A tied embedding is the head's matrix too.
        let embedding = if self.shape.tied_embeddings { embedding } else { 0 };
        (others + embedding + batch * context * kv_token) as f64 + active * experts as f64
    }
}

impl Report {
    fn find_best(&mut self) {
        let best = self.rows.iter().max_by(|a, b| a.output_tokens_per_s.total_cmp(&b.output_tokens_per_s));
        self.node = best.map(|row| Node {
            batch: row.batch,
            input: row.input,
            output: row.output,
            output_tokens_per_s: row.output_tokens_per_s,
            decode_tokens_per_s: row.decode_tokens_per_s,
        });
    }

    fn in_words(&self) -> String {
        let mut table = Table::new(
            0,
            &[
                "batch",
                "in",
                "out",
                "prefill tok/s",
                "decode tok/s",
                "output tok/s",
                "TTFT ms",
                "TPOT ms",
                "of best",
            ],
        );
        for row in &self.rows {
            let optional = |value: Option<f64>| value.map_or("-".into(), number);
            table.line([
                row.batch.to_string(),
                row.input.to_string(),
                row.output.to_string(),
                number(row.prefill_tokens_per_s),
                optional(row.decode_tokens_per_s),
                number(row.output_tokens_per_s),
                number(row.ttft_ms),
                optional(row.tpot_ms),
                row.decode_of_best.map_or("-".into(), percent),
            ]);
        }
        let dummy = if self.dummy_weights { ", dummy weights" } else { "" };
        let mut text = format!(
            "{}{dummy} on {}, commit {}: {} GB of weights, {} bytes of KV a token, steps of up to {} tokens.\n\n\
             {table}\n\
             Of best: a decode step's share of its weights and KV at {} GB/s, the copy that this device reached; \
             target {}. Output: both phases together.",
            self.model,
            self.device,
            self.commit,
            number(self.weight_bytes as f64 / 1e9),
            self.kv_bytes_per_token,
            self.step_tokens,
            number(self.copy_bytes_per_s / 1e9),
            percent(self.decode_target),
        );
        if let Some(node) = &self.node {
            text += &format!(
                "\n\nTokens per second per node, on {} of its devices: {} ({}, {} x {} in + {} out, prefill included{}).",
                self.devices,
                number(node.output_tokens_per_s),
                self.model,
                node.batch,
                node.input,
                node.output,
                node.decode_tokens_per_s
                    .map_or(String::new(), |rate| format!("; {} in decode", number(rate))),
            );
        }
        for Skipped { batch, input, reason } in &self.skipped {
            text += &format!("\nSkipped: batch {batch}, {input} in: {reason}");
        }
        text
    }
}
