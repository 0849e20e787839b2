//! The local models of a server, loaded in turn; what callers and the log are told of them.

use super::ServeArgs;
use crate::cli::inspect::known;
use crate::cli::sampling::{self, Bound, SamplingChoice};
use crate::cli::tasks;
use novastack::checkpoint::Checkpoint;
use novastack::checkpoint::catalogue::Recognised;
use novastack::checkpoint::resolve::{Places, Resolved, resolve};
use novastack::clock::Clock;
use novastack::config;
use novastack::encoder::EncoderConfig;
use novastack::engine;
use novastack::engine::encoder::EncoderEngineConfig;
use novastack::engine::worker::{self, EngineConfig};
use novastack::gateway::{GenerationDefaults, Grammars, LocalModel, Registry, Replicas};
use novastack::load::device::DeviceChoice;
use novastack::load::{self, LoadOptions, Loaded};
use novastack::text::{AnswerFormat, ChatTemplate, Containment, ReasoningFormat, Tokenizer, ToolFormat};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Characters of a name that says by itself which model an error is about.
const NAME_SAYS_MIN: usize = 4;

/// Loads the models in turn. One that cannot be loaded is told of and left out, as long as something else is
/// there to serve: another model of this process, or `others` of upstreams.
pub fn load_all(
    args: &ServeArgs,
    locals: &[(String, config::LocalModel)],
    others: bool,
    registry: &Registry,
) -> Result<(), String> {
    let mut promised_bytes = args.request_memory_bytes();
    let mut reasons = Vec::new();
    for (name, local) in locals {
        let load = || {
            let places = Places::from_env().map_err(|error| error.to_string())?;
            let resolved = resolve(&local.source, &places).map_err(|error| error.to_string())?;
            load(args, name, local, &resolved, &mut promised_bytes)
        };
        let panicked = || "loading it panicked; the log says where".to_owned();
        match catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err(panicked())) {
            Ok(model) => registry.set_ready(model),
            Err(reason) => {
                let told = about(name, &local.source, reason.clone());
                if others || locals.len() > 1 {
                    tracing::error!(
                        model = name,
                        reason = told,
                        "the model cannot be loaded; all others serve"
                    );
                }
                registry.set_failed(name, without_folders(&reason));
                reasons.push(told);
            }
        }
    }
    match reasons.len() == locals.len() && !others {
        true => Err(reasons.join("\n")),
        false => Ok(()),
    }
}

/// For whoever may ask `/health`: without the folders of this machine.
fn without_folders(reason: &str) -> String {
    let word = |word: &str| {
        let path = word.trim_start_matches(['"', '\'', '`', '(']);
        let before = &word[..word.len() - path.len()];
        match path.starts_with(['/', '.', '~']) {
            true => format!("{before}{}", path.rsplit('/').next().unwrap_or(path)),
            false => word.to_owned(),
        }
    };
    reason.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// What callers are told that a model was loaded from: an id of the hub or a name of the catalogue as it
/// was given, and of a path its last part.
fn public_root(source: &str, path: &Path) -> String {
    let source = source.split_once('=').map_or(source, |(_, source)| source);
    let looks_like_a_path = source.starts_with(['.', '/', '~', '\\']) || Path::new(source).exists();
    if !looks_like_a_path {
        return source.to_owned();
    }
    path.file_name().map_or_else(|| "local".into(), |name| name.to_string_lossy().into_owned())
}

/// An error with the model that it is about, and nothing said twice.
fn about(name: &str, source: &str, reason: String) -> String {
    let source = source.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')).unwrap_or(source);
    let lower = reason.to_lowercase();
    // A short name is a part of many words.
    let names = |text: &str| text.len() >= NAME_SAYS_MIN && lower.contains(&text.to_lowercase());
    match (names(name), names(source)) {
        (true, _) => reason,
        (false, true) => format!("model {name}: {reason}"),
        (false, false) if name == source => format!("model {name}: {reason}"),
        (false, false) => format!("model {name} ({source}): {reason}"),
    }
}

/// The command line's options, with the model's own over them: one for each replica, which share
/// devices and threads.
fn load_options(mut options: LoadOptions, local: &config::LocalModel) -> Result<Vec<LoadOptions>, String> {
    if let Some(device) = &local.device {
        options.device =
            DeviceChoice::parse(device).map_err(|reason| format!("device {device}: {reason}"))?;
    }
    if let Some(max_context) = local.max_context {
        options.max_context = Some(max_context);
    }
    options.max_running = local.max_running.map_or(options.max_running, |most| most as usize);
    if local.replicas <= 1 {
        return Ok(vec![options]);
    }
    let ranks = options.tensor_parallel.unwrap_or(1);
    let shares = options.device.shares(local.replicas, ranks)?;
    options.threads = Some((options.threads_or_all() / local.replicas).max(1));
    Ok(shares.into_iter().map(|device| LoadOptions { device, ..options.clone() }).collect())
}

fn load(
    args: &ServeArgs,
    name: &str,
    local: &config::LocalModel,
    resolved: &Resolved,
    promised_bytes: &mut usize,
) -> Result<LocalModel, String> {
    let shares = load_options(args.load.options(), local)?;
    let described = resolved.open_config().map_err(|error| error.to_string())?;
    if EncoderConfig::is_encoder(&described.config) {
        return load_encoder(args, name, local, resolved, &shares, promised_bytes);
    }
    let mut engines = Vec::new();
    let mut first = None;
    for (index, options) in shares.iter().enumerate() {
        let options = LoadOptions { promised_bytes: *promised_bytes, ..options.clone() };
        let loaded = load::load(&options, name, resolved, local.rope_scaling.as_ref())?;
        *promised_bytes += loaded.promised_bytes;
        let Loaded { checkpoint, shape, executor, max_context, kv_blocks, .. } = loaded;
        let (engine, _thread) = worker::spawn(
            EngineConfig {
                name: if shares.len() == 1 { name.to_string() } else { format!("{name}/{index}") },
                max_context,
                kv_blocks,
                max_running: options.max_running,
                max_queued: args.max_queued as usize,
                step_token_budget: options.step_rows(),
                vocab: shape.vocab,
                cache_salt: 0,
            },
            executor,
            Clock::real(),
        )
        .map_err(|error| format!("the engine's thread could not be started: {error}"))?;
        engines.push(engine);
        first.get_or_insert((checkpoint, shape));
    }
    let (checkpoint, shape) = first.ok_or("a model has one replica at least")?;
    let choice = SamplingChoice {
        command_line: args.sampling(),
        configuration: local.sampling,
        max_tokens: local.default_max_tokens.map(Bound::To).or(args.default_max_tokens),
    };
    let recognised = known::recognise(resolved, &checkpoint, &shape);
    let defaults = sampling::defaults(&choice, &checkpoint, &recognised)?;
    let places = args.max_queued as usize + shares.first().map_or(0, |options| options.max_running);
    let containment = Containment::by_this_program();
    let template = ChatTemplate::contained(&checkpoint, &containment);
    let tokenizer = tokenizer(name, &checkpoint, template.as_ref().ok(), &containment)?;
    let root = public_root(&local.source, &resolved.path);
    let names = [name, &root, checkpoint.config["_name_or_path"].as_str().unwrap_or_default()];
    let tasks = tasks::of_decoder(&checkpoint, &shape, tokenizer.as_deref(), &names)?;
    let answer_format = answer_format(args, template.as_ref().ok(), &recognised);
    Ok(LocalModel {
        name: name.to_string(),
        tasks,
        engine: Replicas::new(engines, places),
        tokenizer,
        answer_format,
        grammars: Grammars::default(),
        template: template.map(Arc::new).map_err(|error| error.to_string()),
        defaults,
        special_tokens_in_messages: args.special_tokens_in_messages,
        vocab: shape.vocab,
        created_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        root,
    })
}

/// A model that gives numbers alone.
fn load_encoder(
    args: &ServeArgs,
    name: &str,
    local: &config::LocalModel,
    resolved: &Resolved,
    shares: &[LoadOptions],
    promised_bytes: &mut usize,
) -> Result<LocalModel, String> {
    if local.rope_scaling.is_some() {
        return Err("rope_scaling: encoders take the positions that they were made for".into());
    }
    let mut engines = Vec::new();
    let mut first = None;
    for (index, options) in shares.iter().enumerate() {
        let options = LoadOptions { promised_bytes: *promised_bytes, ..options.clone() };
        let loaded = load::encoder::load(&options, name, resolved)?;
        *promised_bytes += loaded.promised_bytes;
        let config = EncoderEngineConfig {
            name: if shares.len() == 1 { name.to_string() } else { format!("{name}/{index}") },
            max_context: loaded.max_context,
            max_queued: args.max_queued as usize,
            step_token_budget: options.step_tokens,
            vocab: loaded.config.vocab,
        };
        let (engine, _thread) = engine::encoder::spawn(config, Box::new(loaded.encoder), Clock::real())
            .map_err(|error| format!("the engine's thread could not be started: {error}"))?;
        engines.push(engine);
        first.get_or_insert((loaded.checkpoint, loaded.config));
    }
    let (checkpoint, config) = first.ok_or("a model has one replica at least")?;
    // A step computes whole texts, so that no more of them run at a time than it has tokens.
    let places = (args.max_queued + args.load.step_tokens) as usize;
    Ok(LocalModel {
        name: name.to_string(),
        tasks: tasks::of_encoder(&checkpoint, &config),
        engine: Replicas::new(engines, places),
        tokenizer: tokenizer(name, &checkpoint, None, &Containment::by_this_program())?,
        answer_format: AnswerFormat::default(),
        grammars: Grammars::default(),
        template: Err("an encoder writes no text".into()),
        defaults: GenerationDefaults::default(),
        special_tokens_in_messages: args.special_tokens_in_messages,
        vocab: config.vocab,
        created_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        root: public_root(&local.source, &resolved.path),
    })
}

fn tokenizer(
    name: &str,
    checkpoint: &Checkpoint,
    template: Option<&ChatTemplate>,
    containment: &Containment,
) -> Result<Option<Arc<Tokenizer>>, String> {
    if checkpoint.tokenizer.is_none() {
        return Ok(None);
    }
    let tokenizer =
        Tokenizer::contained(checkpoint, template, containment).map_err(|error| error.to_string())?;
    tokenizer.warnings().iter().for_each(|warning| tracing::warn!(model = name, "{warning}"));
    Ok(Some(Arc::new(tokenizer)))
}

/// How a model writes reasoning and calls: by the command line, else by its template, else by the catalogue.
fn answer_format(args: &ServeArgs, template: Option<&ChatTemplate>, recognised: &Recognised) -> AnswerFormat {
    let shown = template.map(|template| AnswerFormat::of_template(template.source())).unwrap_or_default();
    let entry = recognised.entries.first().filter(|_| template.is_some());
    let listed = AnswerFormat {
        reasoning: entry.and_then(|it| ReasoningFormat::from_name(it.reasoning_parser.as_deref()?)),
        tools: entry.and_then(|it| ToolFormat::from_name(it.tool_parser.as_deref()?)),
    };
    AnswerFormat {
        reasoning: args.reasoning_parser.map_or(shown.reasoning.or(listed.reasoning), |choice| choice.0),
        tools: args.tool_call_parser.map_or(shown.tools.or(listed.tools), |choice| choice.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_not_told_where_a_model_lies() {
        let file = tempfile::NamedTempFile::with_suffix(".gguf").expect("a file");
        let name = file.path().file_name().expect("a name").to_string_lossy().into_owned();
        let given = file.path().display().to_string();
        for source in [given.clone(), format!("tiny={given}")] {
            assert_eq!(public_root(&source, file.path()), name);
        }
        assert_eq!(public_root("../models/m", Path::new("/srv/models/m")), "m");
        assert_eq!(public_root("~/m", Path::new("/home/user/m")), "m");
        let cached = Path::new("/root/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/0123");
        assert_eq!(public_root("Qwen/Qwen3-0.6B", cached), "Qwen/Qwen3-0.6B");
        assert_eq!(public_root("small=org/name:Q4_K_M", cached), "org/name:Q4_K_M");
    }

    #[test]
    fn errors_say_nothing_twice() {
        let said = |name, source, reason: &str| about(name, source, reason.to_owned());
        assert_eq!(said("llama3.2", "llama3.2", "\"llama3.2\" is no file"), "\"llama3.2\" is no file");
        assert_eq!(said("foo1", "foo1=none.gguf", "none.gguf: no file"), "model foo1: none.gguf: no file");
        assert_eq!(said("qwen3-8b", "qwen3:8b", "Qwen/Qwen3-8B: no hub"), "Qwen/Qwen3-8B: no hub");
        assert_eq!(said("org/name", "org/name:Q8_0", "org/name: no hub"), "org/name: no hub");
        assert_eq!(said("tiny", "./folder", "out of memory"), "model tiny (./folder): out of memory");
        assert_eq!(said("x", "x", "excess"), "model x: excess");
    }

    #[test]
    fn callers_learn_no_folders() {
        let reason = "/srv/models/small/config.json: No such file or directory (`./here.gguf`, org/name)";
        assert_eq!(without_folders(reason), "config.json: No such file or directory (`here.gguf`, org/name)");
    }
}
