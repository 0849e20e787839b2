//! `novastack serve`: listen, load, answer, drain. The port is open from the start, so that
//! `/health` can say what is loading; a model that cannot be loaded ends the program.

use crate::{DeviceChoice, LoadFormat, ServeArgs};
use novastack::backend::cpu::CpuBackend;
use novastack::backend::hip::HipBackend;
use novastack::backend::hip::gpu::{Gpu, Half};
use novastack::backend::{Backend, KV_BLOCK_TOKENS};
use novastack::checkpoint::Checkpoint;
use novastack::checkpoint::resolve::{Places, Resolved, resolve, served_name};
use novastack::clock::Clock;
use novastack::engine::executor::{DeviceExecutor, Executor, Rank};
use novastack::engine::plan::{PlannedSeq, SampleSpec, SeqId, StepPlan};
use novastack::engine::worker::{self, EngineConfig};
use novastack::gateway::{self, Cors, GenerationDefaults, LocalModel, Registry, ServerConfig};
use novastack::model::{self, Loader, ModelConfig, Weights};
use novastack::protocol::SamplingParams;
use novastack::text::{ChatTemplate, Tokenizer};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;

/// Silence on a stream after which a comment is sent, well under the idle limits of proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a connection may take to send a request's head, the first or the next: longer than
/// clients keep idle connections in their pools.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Connections at a time; more wait until one of these closes.
const CONNECTIONS_MAX: usize = 4096;

/// Free memory where the system does not tell.
const ASSUMED_FREE_BYTES: usize = 4 << 30;

pub fn run(args: ServeArgs) -> Result<(), String> {
    gateway::check_bind(args.host, !args.api_keys.is_empty(), args.allow_unauthenticated)?;
    if args.served_model_name.len() > args.models.len() {
        return Err("--served-model-name is given more often than --model".into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime could not be started: {error}"))?;
    runtime.block_on(listen_and_serve(args))
}

async fn listen_and_serve(args: ServeArgs) -> Result<(), String> {
    let address = std::net::SocketAddr::new(args.host, args.port);
    let listener =
        TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let config = ServerConfig {
        api_keys: args.api_keys.clone(),
        request_timeout: args.request_timeout,
        body_bytes_max: args.max_body,
        keep_alive: KEEP_ALIVE,
        head_timeout: HEAD_TIMEOUT,
        connections_max: CONNECTIONS_MAX,
        drain_timeout: args.drain_timeout,
        cors: cors(&args.cors_origins),
    };

    let names = names(&args)?;
    let registry = Arc::new(Registry::new(names.iter().cloned()));
    let (loaded, loading) = tokio::sync::oneshot::channel();
    let with_key = !args.api_keys.is_empty();
    let loader = {
        let registry = registry.clone();
        std::thread::Builder::new().name("loader".into()).spawn(move || {
            let result = load_all(&args, &names, &registry);
            if result.is_ok() {
                announce(address, &names, with_key);
            }
            let _ = loaded.send(result);
        })
    };
    loader.map_err(|error| format!("a thread could not be started: {error}"))?;

    let mut failure = None;
    let load_failed = async {
        match loading.await {
            Ok(Ok(())) => std::future::pending().await,
            Ok(Err(message)) => message,
            Err(_) => "loading panicked; the log says where".to_string(),
        }
    };
    let stop = async {
        tokio::select! {
            () = stop_signal() => {}
            message = load_failed => failure = Some(message),
        }
    };
    let outcome =
        gateway::serve(listener, config, registry, stop).await.map_err(|error| error.to_string())?;
    match failure {
        Some(message) => Err(message),
        None => {
            tracing::info!(?outcome, "stopped");
            Ok(())
        }
    }
}

/// ^C or SIGTERM; a second one ends the program at once.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    let mut once = async || {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    };
    once().await;
    tracing::info!("stopping: running requests may finish; once more to stop at once");
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(130);
    });
}

fn announce(address: std::net::SocketAddr, names: &[String], with_key: bool) {
    let key = if with_key { " -H 'Authorization: Bearer '$NOVASTACK_KEY" } else { "" };
    println!("NovaStack is ready on http://{address} with {}. Try:", names.join(", "));
    println!(
        "curl http://{address}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n  \
         -d '{{\"model\": \"{}\", \"messages\": [{{\"role\": \"user\", \"content\": \"What is the capital of France?\"}}], \"stream\": true}}'",
        names[0]
    );
}

/// The served names, in the order of the command line.
fn names(args: &ServeArgs) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for (index, spec) in args.models.iter().enumerate() {
        let name = args.served_model_name.get(index).cloned().unwrap_or_else(|| served_name(spec));
        if names.contains(&name) {
            return Err(format!("two models are named {name}; name one with --model NAME=SOURCE"));
        }
        names.push(name);
    }
    Ok(names)
}

fn load_all(args: &ServeArgs, names: &[String], registry: &Registry) -> Result<(), String> {
    let places = Places::from_env().map_err(|error| error.to_string())?;
    for (name, spec) in names.iter().zip(&args.models) {
        let resolved = resolve(spec, &places).map_err(|error| error.to_string())?;
        let model = load(args, name, &resolved).map_err(|error| format!("--model {spec}: {error}"))?;
        registry.set_ready(model);
    }
    Ok(())
}

fn cors(origins: &[String]) -> Cors {
    match origins {
        [] => Cors::Off,
        origins if origins.iter().any(|origin| origin == "*") => Cors::Any,
        origins => Cors::Origins(origins.to_vec()),
    }
}

fn load(args: &ServeArgs, name: &str, resolved: &Resolved) -> Result<LocalModel, String> {
    let dummy = args.load_format == LoadFormat::Dummy;
    let checkpoint = match dummy {
        true => Checkpoint::open_config(&resolved.path),
        false => Checkpoint::open(&resolved.path),
    }
    .map_err(|error| error.to_string())?;
    let shape = ModelConfig::from_json(&checkpoint.config).map_err(|error| error.to_string())?;
    let weights = if dummy {
        Weights::Dummy { seed: args.dummy_seed }
    } else {
        Weights::Checkpoint(&checkpoint, shape.quantization.as_ref())
    };

    let threads = match args.threads {
        Some(threads) => threads as usize,
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    let opened = Opened { args, name, resolved, checkpoint: &checkpoint, shape: &shape, weights, threads };
    let (max_context, kv_blocks, mut executor) = match args.device {
        DeviceChoice::Cpu => {
            let backends = CpuBackend::group(args.tensor_parallel as usize, threads);
            opened.start(backends, || Ok(free_memory_bytes() / 4))?
        }
        DeviceChoice::Gpu(vendor, number) => {
            if args.tensor_parallel > 1 {
                return Err(
                    "--tensor-parallel needs --device cpu: several GPUs for one model are not supported yet"
                        .into(),
                );
            }
            // Activations of checkpoints in bf16 may be beyond f16's range.
            let half = if shape.full_precision { Half::F16 } else { Half::Bf16 };
            let gpu = Gpu::open(vendor, number, half).map_err(|error| error.to_string())?;
            let backend = HipBackend::new(gpu.clone()).map_err(|error| error.to_string())?;
            opened.start(vec![backend], || {
                let (free, total) = gpu.context.memory().map_err(|error| error.to_string())?;
                let kept = total as f64 * (1.0 - args.gpu_memory_utilization);
                Ok(free.saturating_sub(kept as usize))
            })?
        }
    };
    warm_up(&mut *executor)?;

    let tokenizer = match &checkpoint.tokenizer {
        Some(_) => {
            Some(Arc::new(Tokenizer::from_checkpoint(&checkpoint).map_err(|error| error.to_string())?))
        }
        None => None,
    };
    let (engine, _thread) = worker::spawn(
        EngineConfig {
            name: name.to_string(),
            max_context,
            kv_blocks,
            max_running: args.max_running as usize,
            max_queued: args.max_queued as usize,
            step_token_budget: args.step_tokens.max(args.max_running) as usize,
            vocab: shape.vocab,
            cache_salt: 0,
        },
        executor,
        Clock::real(),
    )
    .map_err(|error| format!("the engine's thread could not be started: {error}"))?;
    let token_bytes = |tokenizer: &Arc<Tokenizer>| {
        (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.token_text(id).1.len()).max()
    };
    Ok(LocalModel {
        token_bytes_max: tokenizer.as_ref().and_then(token_bytes).unwrap_or(1),
        name: name.to_string(),
        engine,
        tokenizer,
        template: ChatTemplate::from_checkpoint(&checkpoint).map(Arc::new).map_err(|error| error.to_string()),
        defaults: GenerationDefaults::from_config(&checkpoint.generation_config)?,
        vocab: shape.vocab,
        created_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        root: resolved.path.display().to_string(),
    })
}

/// A checkpoint and what is to become of it.
struct Opened<'a> {
    args: &'a ServeArgs,
    name: &'a str,
    resolved: &'a Resolved,
    checkpoint: &'a Checkpoint,
    shape: &'a ModelConfig,
    weights: Weights<'a>,
    threads: usize,
}

impl Opened<'_> {
    /// Loads the weights onto the ranks' backends, then allocates KV caches in what `kv_memory`
    /// says is left: (longest context, blocks, the ranks at work).
    fn start<B: Backend + Sync>(
        self,
        backends: Vec<B>,
        kv_memory: impl FnOnce() -> Result<usize, String>,
    ) -> Result<(usize, usize, Box<dyn Executor>), String> {
        let Self { args, name, resolved, checkpoint, shape, weights, threads } = self;
        let started = Instant::now();
        let step_rows = args.step_tokens.max(args.max_running) as usize;
        let ranks = backends.len();
        let bar = progress_bar(name);
        let mut models = Vec::with_capacity(ranks);
        for backend in &backends {
            let loader = Loader::new(backend, shape, weights);
            let model = model::load(&loader, step_rows, threads, &|_, total| {
                bar.set_length((total * ranks) as u64);
                bar.inc(1);
            });
            models.push(model.map_err(|error| format!("{}: {error}", resolved.path.display()))?);
            log_weights(name, backend.rank().0, &loader);
        }
        bar.finish_and_clear();
        checkpoint.release_pages();

        let spec = models[0].kv_spec();
        let block_bytes = spec.block_bytes() * ranks;
        let wanted = args.max_context.map_or(shape.max_context, |n| (n as usize).min(shape.max_context));
        if args.max_context.is_some_and(|n| n as usize > wanted) {
            tracing::warn!(
                model = name,
                max_context = wanted,
                "--max-context is more than the checkpoint was made for"
            );
        }
        let kv_left = kv_memory()?;
        let kv_bytes = args.kv_cache_memory.unwrap_or_else(|| {
            let all_slots = wanted.div_ceil(KV_BLOCK_TOKENS).saturating_mul(args.max_running as usize);
            all_slots.saturating_mul(block_bytes).min(kv_left)
        });
        let kv_blocks = kv_bytes / block_bytes;
        let max_context = wanted.min(kv_blocks * KV_BLOCK_TOKENS);
        if max_context < 2 {
            return Err(format!(
                "the KV cache of {kv_bytes} bytes holds no block: one takes {block_bytes} bytes (--kv-cache-memory)"
            ));
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
            let kv = backend.kv_cache(&spec, kv_blocks).map_err(|error| error.to_string())?;
            group.push(Rank { backend, model, kv });
        }
        tracing::info!(
            model = name,
            family = ?shape.family,
            ranks,
            kv_mb = (kv_blocks * block_bytes) >> 20,
            kv_bytes_per_token = spec.token_bytes() * ranks,
            kv_blocks,
            max_context,
            threads,
            seconds = started.elapsed().as_secs_f32(),
            "loaded"
        );
        Ok((max_context, kv_blocks, Box::new(DeviceExecutor::spawn(group, kv_blocks))))
    }
}

/// What each matrix became, and the memory it takes.
fn log_weights<B: Backend>(name: &str, rank: usize, loader: &Loader<'_, B>) {
    let ledger = loader.ledger();
    for (kind, total) in &ledger {
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
            }),
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

fn progress_bar(name: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(0);
    if let Ok(style) =
        indicatif::ProgressStyle::with_template("loading {msg} {bar:30} {pos}/{len} parts, {elapsed}")
    {
        bar.set_style(style);
    }
    bar.with_message(name.to_string())
}

/// What the system says could be had without swapping.
pub(crate) fn free_memory_bytes() -> usize {
    let available = || -> Option<usize> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok()?.checked_mul(1024)
    };
    available().unwrap_or(ASSUMED_FREE_BYTES)
}
