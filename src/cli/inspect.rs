//! `novastack inspect`: what a checkpoint is and what it needs, from its config and, where they
//! are here, the headers of its weights. No weight is read and none is downloaded. What `serve` would
//! refuse is refused here too: a tensor that is missing or in a type that is not read, a tokenizer
//! that is not supported.
//!
//! [`known`] says who it is (catalogue, licence, chat format), `novastack::inspect` what it takes and how
//! its weights lie on disk, [`text`] prints it.

mod encoder;
pub mod known;
#[cfg(test)]
mod published;
mod text;

use self::known::Known;
use crate::cli::parse_bytes;
use crate::cli::sampling::{self, SamplingChoice};
use crate::cli::tasks;
use clap::Args;
use novastack::backend::KvDtype;
use novastack::checkpoint::Checkpoint;
use novastack::checkpoint::resolve::{Places, Resolved, resolve_description};
use novastack::gateway::GenerationDefaults;
use novastack::inspect::memory::{self, Device, Given, Weights};
use novastack::inspect::stored::{Stored, StoredFormat};
use novastack::memory::Memory;
use novastack::model::config::Attention;
use novastack::model::inventory::{self, Counts, Kind, TensorSpec};
use novastack::model::{self, ConfigError, ModelConfig};
use novastack::protocol::{ModelTasks, SamplingParams};
use novastack::text::{ChatTemplate, Containment, EndToken, Tokenizer};
use serde::Serialize;

#[derive(Args)]
pub struct InspectArgs {
    /// A directory in Hugging Face layout, a config.json, a .gguf file, a hub id or a catalogue name,
    /// which needs no network.
    model: String,
    /// Memory of each device: bytes, or with a suffix K, M, G [default: 64G, an MI250 GCD].
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    memory: Option<usize>,
    /// Devices that share the model [default with --memory: 1].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    gpus: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Everything that is printed.
#[derive(Serialize)]
struct Report {
    model: String,
    /// What it is served for, where that is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    serves: Option<String>,
    #[serde(flatten)]
    known: Known,
    architecture: &'static str,
    layers: usize,
    hidden: usize,
    vocabulary: usize,
    attention: AttentionReport,
    experts: Option<Experts>,
    context: usize,
    /// None without a tokenizer.
    end_tokens: Option<Vec<EndTokenReport>>,
    /// What is odd about the files and was passed over.
    warnings: Vec<String>,
    parameters: Parameters,
    stored: Stored,
    kv_cache: KvCache,
    /// What requests take where they leave a field out.
    sampling: SamplingReport,
    weights: Vec<Weights>,
    /// With `--memory` or `--gpus`.
    given: Option<Given>,
    /// What of it runs on this machine's CPU.
    cpu: Option<Given>,
    assumptions: memory::Assumptions,
}

/// A token that ends an answer, and who says so.
#[derive(Serialize)]
struct EndTokenReport {
    id: u32,
    token: String,
    sources: Vec<String>,
}

impl From<&EndToken> for EndTokenReport {
    fn from(end: &EndToken) -> Self {
        let sources = end.sources.iter().map(ToString::to_string).collect();
        Self { id: end.id, token: end.token.clone(), sources }
    }
}

#[derive(Serialize)]
struct AttentionReport {
    kind: &'static str,
    heads: usize,
    kv_heads: Option<usize>,
    head_dim: usize,
    latent: Option<usize>,
    rope_dim: usize,
    sliding_window: Option<usize>,
}

#[derive(Serialize)]
struct Experts {
    routed: usize,
    per_token: usize,
    width: usize,
    shared_width: usize,
    layers: usize,
}

#[derive(Serialize)]
struct Parameters {
    total: u64,
    active: u64,
    active_with_embedding: u64,
    /// In layers of multi-token prediction, which are not loaded.
    prediction: u64,
    prediction_layers: usize,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    name: &'static str,
    total: u64,
    active: u64,
}

#[derive(Serialize)]
struct KvCache {
    bytes_per_token: usize,
    bytes_per_value: usize,
    /// What keys and values of all heads would take, where a latent is cached instead.
    full_heads_bytes_per_token: Option<usize>,
}

#[derive(Serialize)]
struct SamplingReport {
    temperature: f32,
    top_p: f32,
    top_k: u32,
    min_p: f32,
    repetition_penalty: f32,
    from: String,
}

pub fn run(args: &InspectArgs) -> Result<(), String> {
    let places = Places::from_env().map_err(|error| error.to_string())?;
    let resolved = resolve_description(&args.model, &places).map_err(|error| error.to_string())?;
    let text = match encoder::report(&resolved)? {
        Some(report) if args.json => json(&report)?,
        Some(report) => encoder::render(&report),
        None => {
            let report = report(args, &places, &resolved)?;
            if args.json { json(&report)? } else { text::render(&report) }
        }
    };
    use std::io::Write;
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // The reader has seen enough: `novastack inspect x | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| error.to_string()),
    }
}

fn json(report: &impl Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(report).map_err(|error| error.to_string())
}

fn report(args: &InspectArgs, places: &Places, resolved: &Resolved) -> Result<Report, String> {
    let path = &resolved.path;
    let mut checkpoint = resolved.open_config().map_err(|error| error.to_string())?;
    let at = |error: ConfigError| match path.extension().is_some_and(|extension| extension == "json") {
        // The error would name the file once more.
        true => format!("{}: {}: {}", path.display(), error.field, error.reason),
        false => format!("{}: {error}", path.display()),
    };
    let config = ModelConfig::from_json(&checkpoint.config).map_err(at)?;
    inventory::check(&config).map_err(at)?;
    // In the hub's cache some of the files may be there because a download is under way.
    let fetching = path.starts_with(&places.hub.cache) && !Checkpoint::weights_are_complete(path);
    if path.is_dir() && Checkpoint::has_weight_files(path) && !fetching {
        checkpoint = Checkpoint::open(path).map_err(|error| error.to_string())?;
    }
    let opened = !checkpoint.tensor_names().is_empty();
    let mut warnings = Vec::new();
    if opened {
        model::check(&checkpoint, &config).map_err(|error| format!("{}: {error}", path.display()))?;
        // Of a model that is not here the tokenizer is not either.
        warnings.extend(checkpoint.warnings.iter().cloned().chain(checkpoint.unneeded()));
    }
    let containment = Containment::by_this_program();
    let template = checkpoint.chat_template.as_ref();
    let template = template.and_then(|_| match ChatTemplate::contained(&checkpoint, &containment) {
        Ok(template) => Some(template),
        Err(error) => {
            warnings.push(format!("it can answer no chats: {error}"));
            None
        }
    });
    let tokenizer = checkpoint.tokenizer.as_ref();
    let tokenizer = tokenizer.map(|_| Tokenizer::contained(&checkpoint, template.as_ref(), &containment));
    let tokenizer = tokenizer.transpose().map_err(|error| format!("{}: {error}", path.display()))?;
    warnings.extend(tokenizer.iter().flat_map(|tokenizer| tokenizer.warnings().iter().cloned()));
    let names = [resolved.served_name.as_str(), args.model.as_str()];
    // Without its files nobody knows what a reranker's answers are.
    let served = match opened {
        true => tasks::of_decoder(&checkpoint, &config, tokenizer.as_ref(), &names)
            .map_err(|reason| format!("{}: {reason}", path.display()))?,
        false => ModelTasks::GENERATION,
    };
    let serves = (served != ModelTasks::GENERATION).then(|| tasks::in_words(&served));
    let end_tokens =
        tokenizer.map(|tokenizer| tokenizer.end_tokens().iter().map(EndTokenReport::from).collect());
    let tensors: Vec<TensorSpec> = inventory::tensors(&config).collect();
    let stored = Stored::find(&checkpoint, &config, path, &tensors);
    let recognised = known::recognise(resolved, &checkpoint, &config);
    let known = Known::find(resolved, &checkpoint, &recognised);
    let given = SamplingChoice::default();
    let defaults = sampling::defaults(&given, &checkpoint, &recognised)
        .map_err(|reason| format!("{}: {reason}", path.display()))?;

    let sizes = inventory::tensor_parallel_sizes(&config, memory::DEVICES_MAX);
    let model = memory::Model { config: &config, tensors: &tensors, sizes: &sizes };
    let formats = stored.formats();
    let given = match (args.gpus, args.memory) {
        (None, None) => None,
        (gpus, bytes) => {
            let devices = gpus.map_or(1, usize::from);
            if !sizes.contains(&devices) {
                let allowed = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
                return Err(format!("--gpus {devices}: this model's heads can be split over {allowed}"));
            }
            let device = bytes.map_or(Device::MI250_GCD, |bytes| Device::gpu(bytes as u64));
            Some(model.given(&formats, device, devices))
        }
    };
    let cpu = given.is_none().then(|| {
        let served: Vec<_> = formats.iter().map(StoredFormat::on_cpu).collect();
        model.given(&served, Device::cpu(Memory::of_this_process().available), 1)
    });
    Ok(Report {
        model: resolved.served_name.clone(),
        serves,
        known,
        architecture: config.family.architecture(),
        layers: config.layers(),
        hidden: config.hidden,
        vocabulary: config.vocab,
        attention: attention(&config),
        experts: experts(&config),
        context: config.max_context,
        end_tokens,
        warnings,
        parameters: parameters(&config, &tensors),
        stored,
        kv_cache: kv_cache(&config),
        sampling: sampling_report(&defaults),
        weights: formats.iter().map(|format| model.weights(format)).collect(),
        given,
        cpu,
        assumptions: memory::Assumptions::default(),
    })
}

fn sampling_report(defaults: &GenerationDefaults) -> SamplingReport {
    let SamplingParams { temperature, top_p, top_k, min_p, repetition_penalty, .. } =
        defaults.sampling.over(&SamplingParams::default());
    let from = defaults.sampling_from.clone();
    SamplingReport { temperature, top_p, top_k, min_p, repetition_penalty, from }
}

fn attention(config: &ModelConfig) -> AttentionReport {
    let sliding_window = config.windows.iter().flatten().next().copied();
    match config.attention {
        Attention::Gqa(gqa) => AttentionReport {
            kind: "grouped-query",
            heads: gqa.heads.heads,
            kv_heads: Some(gqa.heads.kv_heads),
            head_dim: gqa.heads.head_dim,
            latent: None,
            rope_dim: gqa.rotary_dim,
            sliding_window,
        },
        Attention::Mla(mla) => AttentionReport {
            kind: "multi-head latent",
            heads: mla.layout.heads,
            kv_heads: None,
            head_dim: mla.layout.nope_dim + mla.layout.rope_dim,
            latent: Some(mla.layout.rank),
            rope_dim: mla.layout.rope_dim,
            sliding_window,
        },
    }
}

fn experts(config: &ModelConfig) -> Option<Experts> {
    config.moe.as_ref().map(|moe| Experts {
        routed: moe.routing.experts,
        per_token: moe.routing.top_k,
        width: moe.intermediate,
        shared_width: moe.shared_intermediate,
        layers: moe.sparse.iter().filter(|sparse| **sparse).count(),
    })
}

fn parameters(config: &ModelConfig, tensors: &[TensorSpec]) -> Parameters {
    let Counts { total, active, active_with_embedding, prediction } = inventory::counts(config);
    let groups: [(&'static str, &[Kind]); 8] = [
        ("embedding", &[Kind::Embedding]),
        ("attention", &[Kind::Attention, Kind::AttentionBias]),
        ("dense MLP", &[Kind::DenseMlp]),
        ("router", &[Kind::Router, Kind::RouterBias]),
        ("experts", &[Kind::Expert]),
        ("shared experts", &[Kind::SharedExpert]),
        ("norms", &[Kind::Norm]),
        ("output head", &[Kind::Head, Kind::Classifier]),
    ];
    let parts = groups.into_iter().filter_map(|(name, kinds)| {
        let total: u64 =
            tensors.iter().filter(|tensor| kinds.contains(&tensor.kind)).map(TensorSpec::params).sum();
        let active = match (kinds[0], &config.moe) {
            (Kind::Expert, Some(moe)) => total / moe.routing.experts as u64 * moe.routing.top_k as u64,
            (Kind::Embedding, _) if !config.tied_embeddings => 0,
            _ => total,
        };
        (total > 0).then_some(Part { name, total, active })
    });
    Parameters {
        total,
        active,
        active_with_embedding,
        prediction,
        prediction_layers: if prediction > 0 { config.mtp_layers } else { 0 },
        parts: parts.collect(),
    }
}

fn kv_cache(config: &ModelConfig) -> KvCache {
    let spec = inventory::kv_spec(config, 1);
    let bytes_per_value = match spec.dtype {
        KvDtype::F32 => 4,
        KvDtype::F16 => 2,
    };
    let full = match config.attention {
        Attention::Gqa(_) => None,
        Attention::Mla(mla) => {
            let l = mla.layout;
            let token = l.heads * (l.nope_dim + l.rope_dim + l.v_dim);
            Some(config.layers() * token * bytes_per_value)
        }
    };
    KvCache { bytes_per_token: spec.token_bytes(), bytes_per_value, full_heads_bytes_per_token: full }
}
