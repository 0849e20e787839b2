//! From a model's files to an executor that is ready for steps, by plain options: for whoever serves or measures it.
//!
//! [`device`] says on what it is computed, and [`progress`] how far loading is.

pub mod device;
pub mod encoder;
mod progress;

use crate::backend::cpu::CpuBackend;
use crate::backend::hip::driver::Vendor;
use crate::backend::hip::gpu::{Gpu, Half};
use crate::backend::hip::{HipBackend, Options as BackendOptions};
use crate::backend::{Backend, BackendError, KV_BLOCK_TOKENS};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::resolve::Resolved;
use crate::engine::executor::{DeviceExecutor, Executor, Rank, StepTimeout};
use crate::engine::plan::{PlannedSeq, SampleSpec, SeqId, StepPlan};
use crate::inspect;
use crate::memory::Memory;
use crate::model::{self, LoadError, Loader, ModelConfig, Weights, inventory};
use crate::protocol::SamplingParams;
use device::DeviceChoice;
use progress::Progress;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightSource {
    /// The checkpoint's own.
    Checkpoint,
    /// Seeded random ones from config.json alone, for benchmarks.
    Dummy {
        /// Equal seeds give equal weights.
        seed: u64,
    },
}

/// How a model is loaded and run.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where its weights come from.
    pub weights: WeightSource,
    /// What it is computed on.
    pub device: DeviceChoice,
    /// Of a GPU's memory, how much weights and KV cache may take together, in (0, 1].
    pub gpu_memory_utilization: f64,
    /// On GPUs: launch every kernel by itself, do not replay recorded decode steps.
    pub eager: bool,
    /// On GPUs: what a sequence gets does not depend on what else is computed, bit by bit; slower.
    pub deterministic: bool,
    /// On GPUs: large products by the vendors' libraries.
    pub vendor_blas: bool,
    /// On GPUs: after which a step is given up, as the device hangs.
    pub step_timeout: Duration,
    /// Ranks that share it; None: one, or as many as there are GPUs in `device`.
    pub tensor_parallel: Option<usize>,
    /// CPU threads; None: all cores.
    pub threads: Option<usize>,
    /// Longest prompt and output together, in tokens; None: what it was made for, as far as the KV cache holds it.
    pub max_context: Option<usize>,
    /// `max_context` is a wish of ours, not somebody's word: less is no error.
    pub context_may_shrink: bool,
    /// Bytes of its KV cache; None: a quarter of the free memory at the most.
    pub kv_cache_memory: Option<usize>,
    /// Sequences that run at once.
    pub max_running: usize,
    /// Tokens that one step computes at the most, prefill and decode together.
    pub step_tokens: usize,
    /// Of the machine's memory, what others in this process may come to use and have not touched yet: the KV
    /// caches of models that were loaded before, the bodies of requests.
    pub promised_bytes: usize,
}

impl LoadOptions {
    /// Rows of a step at the most: every decode fits.
    pub fn step_rows(&self) -> usize {
        self.step_tokens.max(self.max_running)
    }

    /// Refuses what cannot be, before anything is loaded.
    fn check(&self, shape: &ModelConfig) -> Result<(), String> {
        if let Some(asked) = self.max_context
            && asked > shape.max_context
            && !self.context_may_shrink
        {
            return Err(format!(
                "--max-context {asked} is more than the {} tokens that the model was made for: leave it out, or set \
                 `rope_scaling` of the model in novastack.yaml, which stretches them",
                shape.max_context
            ));
        }
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        if let Some(threads) = self.threads.filter(|threads| *threads > cores) {
            tracing::warn!(threads, cores, "--threads is more than there are cores, which only slows down");
        }
        match self.kv_cache_memory {
            Some(bytes) => self.check_cache(shape, bytes, inventory::kv_spec(shape, 1).token_bytes()),
            None => Ok(()),
        }
    }

    /// The machine's memory that is neither used nor promised.
    fn free_bytes(&self) -> usize {
        Memory::of_this_process().available.saturating_sub(self.promised_bytes)
    }

    /// Refuses a KV cache that the machine's memory does not hold, with weights that take so many bytes and are
    /// still to be loaded. What is promised and not there ends in the system killing this process.
    fn check_memory(&self, weight_bytes: usize) -> Result<(), String> {
        let (free, cache) = (self.free_bytes(), self.kv_cache_memory.unwrap_or(0));
        if weight_bytes.saturating_add(cache) <= free {
            return Ok(());
        }
        let asked = match (self.kv_cache_memory, weight_bytes) {
            (None, weights) => format!("the weights take {}, which is", size(weights)),
            (Some(bytes), 0) => format!("--kv-cache-memory {} is", size(bytes)),
            (Some(bytes), weights) => {
                format!("--kv-cache-memory {} and the weights, {}, are", size(bytes), size(weights))
            }
        };
        let mut text = format!("{asked} more than the {} of memory that are free", size(free));
        if self.promised_bytes > 0 {
            text += &format!(
                " beside the {} for requests and for the KV caches of other models",
                size(self.promised_bytes)
            );
        }
        Err(text)
    }

    /// Whether a KV cache of so many bytes holds the context that somebody asked for.
    fn check_cache(&self, shape: &ModelConfig, bytes: usize, token_bytes: usize) -> Result<(), String> {
        let Some(asked) = self.max_context.filter(|_| !self.context_may_shrink) else { return Ok(()) };
        let asked = asked.min(shape.max_context);
        let block_bytes = token_bytes * KV_BLOCK_TOKENS;
        let held = bytes / block_bytes * KV_BLOCK_TOKENS;
        // That it holds nothing at all is told of elsewhere.
        if held >= asked || held == 0 {
            return Ok(());
        }
        Err(format!(
            "--max-context {asked} does not fit: the KV cache of {} holds {held} tokens, and a token takes {} bytes; \
             give --kv-cache-memory {}M or --max-context {held}",
            size(bytes),
            token_bytes,
            (asked.div_ceil(KV_BLOCK_TOKENS) * block_bytes).div_ceil(1 << 20)
        ))
    }

    /// CPU threads.
    pub fn threads_or_all(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, |n| n.get());
        self.threads.unwrap_or_else(all)
    }
}

/// A model, ready for steps.
pub struct Loaded {
    /// Its files.
    pub checkpoint: Checkpoint,
    /// What its config says.
    pub shape: ModelConfig,
    /// Carries out its steps.
    pub executor: Box<dyn Executor>,
    /// Longest sequence that fits, in tokens.
    pub max_context: usize,
    /// Blocks of its KV cache.
    pub kv_blocks: usize,
    /// What it takes.
    pub bytes: ModelBytes,
    /// Of the machine's memory, what it comes to use as its KV cache fills.
    pub promised_bytes: usize,
}

/// What a loaded model takes, on all ranks together.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelBytes {
    /// Experts' matrices.
    pub experts: usize,
    /// The embedding's.
    pub embedding: usize,
    /// All others.
    pub others: usize,
    /// A token's keys and values.
    pub kv_token: usize,
}

impl ModelBytes {
    /// All matrices.
    pub fn weights(&self) -> usize {
        self.experts + self.embedding + self.others
    }
}

/// Loads a model onto its device and runs a first step. `rope_scaling` replaces that of config.json.
///
/// # Errors
/// In whole sentences, for whoever asked for it: what does not fit or cannot be read, and what would help.
pub fn load(
    options: &LoadOptions,
    name: &str,
    resolved: &Resolved,
    rope_scaling: Option<&serde_json::Value>,
) -> Result<Loaded, String> {
    let dummy = matches!(options.weights, WeightSource::Dummy { .. });
    let mut checkpoint = match dummy {
        true => resolved.open_config(),
        false => Checkpoint::open(&resolved.path),
    }
    .map_err(|error| error.to_string())?;
    if let Some(scaling) = rope_scaling {
        checkpoint.config["rope_scaling"] = scaling.clone();
    }
    let loaded = load_opened(options, name, &resolved.path, checkpoint)?;
    for warning in loaded.checkpoint.warnings.iter().cloned().chain(loaded.checkpoint.unneeded()) {
        tracing::warn!(model = name, "{warning}");
    }
    Ok(loaded)
}

/// Loads an opened checkpoint; dummy weights need its config alone. `path` is for messages.
///
/// # Errors
/// As [`load`]'s.
pub fn load_opened(
    options: &LoadOptions,
    name: &str,
    path: &Path,
    checkpoint: Checkpoint,
) -> Result<Loaded, String> {
    let mut shape = ModelConfig::from_json(&checkpoint.config).map_err(|error| error.to_string())?;
    options.check(&shape)?;
    if let Some(sentence) = &checkpoint.sentence_transformers {
        shape.normalises_embeddings = sentence.normalises;
    }
    if let Some(tokens) = options.max_context {
        shape.serve_context(shape.max_context.min(tokens));
    }
    let weights = match options.weights {
        WeightSource::Dummy { seed } => Weights::Dummy { seed },
        WeightSource::Checkpoint => Weights::Checkpoint(&checkpoint, shape.quantization.as_ref()),
    };

    let threads = options.threads_or_all();
    let opened = Opened { options, name, path, checkpoint: &checkpoint, shape: &shape, weights, threads };
    let ranks = options.tensor_parallel;
    let device = options.device.decided(ranks.unwrap_or(1));
    let on_cpu = matches!(device, DeviceChoice::Auto | DeviceChoice::Cpu);
    if on_cpu {
        options.check_memory(inspect::cpu_weight_bytes(&checkpoint, &shape, path) as usize)?;
    }
    let started = match device {
        DeviceChoice::Gpus(_, numbers) if ranks.is_some_and(|ranks| ranks != numbers.len()) => {
            return Err(format!(
                "--tensor-parallel {} with {} GPUs: each is a rank; leave it out or name as many",
                ranks.unwrap_or(1),
                numbers.len()
            ));
        }
        DeviceChoice::Gpus(vendor, numbers) => opened.on_gpus(vendor, &numbers),
        DeviceChoice::Auto | DeviceChoice::Cpu => {
            let backends = CpuBackend::group(ranks.unwrap_or(1), threads);
            let left = || options.check_memory(0).map(|()| options.free_bytes() / 4);
            opened.start(backends, None, left).map_err(|error| error.text)
        }
    };
    let Started { max_context, kv_blocks, bytes, mut executor } = started?;
    warm_up(&mut *executor)?;
    let promised_bytes = if on_cpu { kv_blocks * KV_BLOCK_TOKENS * bytes.kv_token } else { 0 };
    Ok(Loaded { checkpoint, shape, executor, max_context, kv_blocks, bytes, promised_bytes })
}

/// A checkpoint and what is to become of it.
struct Opened<'a> {
    options: &'a LoadOptions,
    name: &'a str,
    path: &'a Path,
    checkpoint: &'a Checkpoint,
    shape: &'a ModelConfig,
    weights: Weights<'a>,
    threads: usize,
}

/// Its ranks at work.
struct Started {
    max_context: usize,
    kv_blocks: usize,
    bytes: ModelBytes,
    executor: Box<dyn Executor>,
}

/// Why a model could not be started.
struct StartError {
    text: String,
    out_of_memory: bool,
}

impl From<String> for StartError {
    fn from(text: String) -> Self {
        Self { text, out_of_memory: false }
    }
}

impl From<BackendError> for StartError {
    fn from(error: BackendError) -> Self {
        let out_of_memory = matches!(error, BackendError::OutOfMemory { .. });
        Self { text: error.to_string(), out_of_memory }
    }
}

impl Opened<'_> {
    /// One rank on each of these devices.
    fn on_gpus(self, vendor: Vendor, numbers: &[usize]) -> Result<Started, String> {
        let options = self.options;
        if options.deterministic && numbers.len() > 2 {
            return Err("--deterministic takes one or two GPUs: the order in which RCCL adds up more ranks \
                        depends on the batch"
                .into());
        }
        // Activations of checkpoints in bf16 may be beyond f16's range.
        let half = if self.shape.full_precision { Half::F16 } else { Half::Bf16 };
        let backend_options = BackendOptions {
            rows_max: options.step_rows(),
            eager: options.eager,
            deterministic: options.deterministic,
            vendor_blas: options.vendor_blas,
        };
        let gpus = numbers.iter().map(|number| Gpu::open(vendor, *number, half));
        let gpus = gpus.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        let memory = |gpu: &Arc<Gpu>| gpu.context.memory().map_err(|error| error.to_string());
        let left = |(free, total): (usize, usize)| {
            free.saturating_sub((total as f64 * (1.0 - options.gpu_memory_utilization)) as usize)
        };
        let least = || {
            let left = gpus.iter().map(|gpu| memory(gpu).map(left));
            Ok::<_, String>(left.collect::<Result<Vec<_>, _>>()?.into_iter().min().unwrap_or(0))
        };
        let usable = least()? as u64;
        let (checkpoint, shape, path) = (self.checkpoint, self.shape, self.path);
        let explained = |error: StartError| match error.out_of_memory {
            true => {
                let shortage = inspect::shortage(checkpoint, shape, path, gpus.len(), usable);
                format!("{}; {shortage}", error.text)
            }
            false => error.text,
        };
        let timeout = StepTimeout {
            device: DeviceChoice::Gpus(vendor, numbers.to_vec()).to_string(),
            limit: options.step_timeout,
        };
        let backends = HipBackend::group(&gpus, backend_options).map_err(|error| explained(error.into()))?;
        self.start(backends, Some(timeout), || Ok(least()? * gpus.len())).map_err(explained)
    }

    /// Loads the weights onto the ranks' backends, then allocates KV caches in what `kv_memory`
    /// says is left.
    fn start<B: Backend + Sync>(
        self,
        backends: Vec<B>,
        timeout: Option<StepTimeout>,
        kv_memory: impl FnOnce() -> Result<usize, String>,
    ) -> Result<Started, StartError> {
        let Self { options, name, path, checkpoint, shape, weights, threads } = self;
        let started = Instant::now();
        let step_rows = options.step_rows();
        let ranks = backends.len();
        let progress = Progress::new(name);
        let mut models = Vec::with_capacity(ranks);
        let mut bytes = ModelBytes::default();
        for backend in &backends {
            let loader = Loader::new(backend, shape, weights);
            let model = model::load(&loader, step_rows, threads, &|_, total| progress.part(total * ranks));
            models.push(model.map_err(|error| StartError {
                text: format!("{}: {error}", path.display()),
                out_of_memory: matches!(error, LoadError::Backend(BackendError::OutOfMemory { .. })),
            })?);
            log_weights(name, backend.rank().0, &loader, &mut bytes);
        }
        progress.bar.finish_and_clear();
        checkpoint.release_pages();

        let spec = models[0].kv_spec();
        let block_bytes = spec.block_bytes() * ranks;
        bytes.kv_token = spec.token_bytes() * ranks;
        let wanted = options.max_context.map_or(shape.max_context, |n| n.min(shape.max_context));
        let kv_left = kv_memory()?;
        let kv_bytes = options.kv_cache_memory.unwrap_or_else(|| {
            let all_slots = wanted.div_ceil(KV_BLOCK_TOKENS).saturating_mul(options.max_running);
            all_slots.saturating_mul(block_bytes).min(kv_left)
        });
        options.check_cache(shape, kv_bytes, bytes.kv_token)?;
        let kv_blocks = kv_bytes / block_bytes;
        let max_context = wanted.min(kv_blocks * KV_BLOCK_TOKENS);
        if max_context < 2 {
            let text = format!(
                "the KV cache of {kv_bytes} bytes holds no block: one takes {block_bytes} bytes (--kv-cache-memory)"
            );
            return Err(StartError { text, out_of_memory: options.kv_cache_memory.is_none() });
        }
        if max_context < wanted {
            tracing::warn!(
                model = name,
                wanted,
                max_context,
                "the KV cache is smaller than the context (--kv-cache-memory)"
            );
        }
        let mut group = Vec::with_capacity(ranks);
        for (backend, model) in backends.into_iter().zip(models) {
            let kv = backend.kv_cache(&spec, kv_blocks)?;
            group.push(Rank { backend, model, kv });
        }
        tracing::info!(
            model = name,
            family = ?shape.family,
            ranks,
            kv_mb = (kv_blocks * block_bytes) >> 20,
            kv_bytes_per_token = bytes.kv_token,
            kv_blocks,
            max_context,
            threads,
            seconds = started.elapsed().as_secs_f32(),
            "loaded"
        );
        let executor = Box::new(DeviceExecutor::spawn(group, kv_blocks, timeout));
        Ok(Started { max_context, kv_blocks, bytes, executor })
    }
}

/// What each matrix became, and the memory it takes, which is added to `sum`.
fn log_weights<B: Backend>(name: &str, rank: usize, loader: &Loader<'_, B>, sum: &mut ModelBytes) {
    let ledger = loader.ledger();
    for (kind, total) in &ledger {
        let of_its_kind = match &kind.names {
            names if names.contains(".experts.") => &mut sum.experts,
            names if names.contains("embed_tokens") => &mut sum.embedding,
            _ => &mut sum.others,
        };
        *of_its_kind += total.bytes;
        tracing::info!(
            model = name,
            rank,
            names = kind.names,
            stored = kind.stored,
            served = kind.served,
            matrices = total.matrices,
            mb = total.bytes as f64 / 1e6,
            "weights"
        );
    }
    let bytes: usize = ledger.values().map(|total| total.bytes).sum();
    tracing::info!(model = name, rank, mb = bytes as f64 / 1e6, "all weights");
    if let Some(skipped) = loader.skipped_layers() {
        tracing::info!(model = name, rank, skipped, "multi-token-prediction layers are not loaded");
    }
}

/// One prefill of two tokens and a sample: pages are touched and threads are up before the
/// first request. It writes to block 0, which the first sequence overwrites.
fn warm_up(executor: &mut dyn Executor) -> Result<(), String> {
    let plan = StepPlan {
        seqs: vec![PlannedSeq {
            seq: SeqId(u64::MAX),
            tokens: vec![0, 0],
            start: 0,
            blocks: vec![0],
            sample: Some(SampleSpec {
                choice: 0,
                output_index: 0,
                prompt: Arc::from([]),
                output: Vec::new(),
                mask: None,
            }),
            pooling: None,
            prompt_targets: Vec::new(),
            params: Arc::new(SamplingParams { temperature: 0.0, ..SamplingParams::default() }),
        }],
    };
    let ticket = executor.launch(plan).map_err(|error| error.to_string())?;
    match executor.collect(ticket) {
        Err(error) => Err(format!("the warm-up step failed: {error}")),
        Ok(output) if !output.broken.is_empty() => {
            Err("the warm-up step gave logits that are not finite: the weights are broken".into())
        }
        Ok(_) => Ok(()),
    }
}

/// 512 KiB, 3.0 MiB, 1.5 GiB.
fn size(bytes: usize) -> String {
    match bytes as f64 {
        bytes if bytes >= f64::from(1 << 30) => format!("{:.1} GiB", bytes / f64::from(1 << 30)),
        bytes if bytes >= f64::from(1 << 20) => format!("{:.1} MiB", bytes / f64::from(1 << 20)),
        bytes => format!("{:.0} KiB", bytes / 1024.0),
    }
}
