//! A directory in Hugging Face layout: config.json, tokenizer.json, tokenizer_config.json,
//! chat_template.jinja, generation_config.json, and safetensors.

use super::parts;
use super::recognise::{self, refuse_adapter, refuse_lfs_pointer, refuse_lfs_pointer_at};
use super::tensors::Tensors;
use super::{BpeFiles, Checkpoint, CheckpointError, SentenceTransformers, TokenizerSource, safetensors};
use crate::files;
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// The largest JSON file or template that is read: ten times the largest tokenizer_config.json
/// and index file seen. tokenizer.json is read elsewhere.
const TEXT_BYTES_MAX: u64 = 64 << 20;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Everything but the weights.
pub(super) fn open_config(directory: &Path) -> Result<Checkpoint, CheckpointError> {
    let config_path = directory.join("config.json");
    if !config_path.exists() {
        refuse_adapter(directory)?;
        if complete_weights(directory).is_none() {
            refuse_pickles(directory)?;
        }
        return Err(CheckpointError::invalid(&config_path, no_config_reason(directory)));
    }
    let config = read_json(&config_path)?;
    let tokenizer_config = optional_json(&directory.join("tokenizer_config.json"))?;
    let tokenizer = tokenizer(directory, &config)?;
    let chat_template = chat_template(directory, &tokenizer_config)?;
    let mut warnings = Vec::new();
    let mut warn = |reason: &str| warnings.push(format!("{}: {reason}", directory.display()));
    if tokenizer.is_none() {
        warn(&recognise::no_tokenizer(directory));
    }
    let sentence_transformers = SentenceTransformers::read(directory)?;
    if chat_template.is_none() && sentence_transformers.is_none() && may_write(&config) {
        warn(super::NO_CHAT_TEMPLATE);
    }
    if let Some(file) = recognise::adapter_file(directory).filter(|_| complete_weights(directory).is_some()) {
        warn(&format!(
            "{file} belongs to a LoRA adapter, which is not supported; the model is served without it"
        ));
    }
    Ok(Checkpoint {
        source: directory.to_owned(),
        config,
        generation_config: optional_json(&directory.join("generation_config.json"))?,
        chat_template,
        tokenizer_config,
        tokenizer,
        sentence_transformers,
        tensors: Tensors::default(),
        warnings,
    })
}

/// Whether it may be a model that writes text: its class in transformers, if there is one, is not of another kind.
fn may_write(config: &Value) -> bool {
    config["architectures"][0].as_str().is_none_or(|class| class.ends_with("ForCausalLM"))
}

/// tokenizer.json, else what older tokenizers of GPT-2's kind are saved as.
fn tokenizer(directory: &Path, config: &Value) -> Result<Option<TokenizerSource>, CheckpointError> {
    let json = directory.join("tokenizer.json");
    if json.exists() {
        refuse_lfs_pointer_at(&json)?;
        return Ok(Some(TokenizerSource::Json(json)));
    }
    if !has_tokenizer(directory) {
        return Ok(None);
    }
    let (vocab, merges) = (directory.join("vocab.json"), directory.join("merges.txt"));
    refuse_lfs_pointer_at(&vocab)?;
    refuse_lfs_pointer_at(&merges)?;
    Ok(Some(TokenizerSource::Bpe(BpeFiles {
        vocab,
        merges,
        added_tokens: optional_json(&directory.join("added_tokens.json"))?,
        special_tokens_map: optional_json(&directory.join("special_tokens_map.json"))?,
        model_type: config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned(),
    })))
}

/// Whether there is a tokenizer that is read.
pub(super) fn has_tokenizer(directory: &Path) -> bool {
    let there = |name: &str| directory.join(name).exists();
    there("tokenizer.json") || (there("vocab.json") && there("merges.txt"))
}

/// The files that a directory's weights are in.
enum WeightFiles {
    /// One, and the index that is passed over, if there is one.
    Single { stale_index: bool },
    /// What the index says.
    Index,
    /// Shards whose names say how many there are, without an index.
    Shards(Vec<String>),
}

/// As in transformers the single file wins over an index.
fn weight_files(directory: &Path) -> Result<WeightFiles, CheckpointError> {
    let (index, single) = (directory.join(INDEX), directory.join(SINGLE));
    if single.exists() {
        let names_it_alone =
            || safetensors::read_index(&index).is_ok_and(|shards| shards.keys().all(|name| name == SINGLE));
        return match index.exists() {
            true if names_it_alone() => Ok(WeightFiles::Index),
            stale_index => Ok(WeightFiles::Single { stale_index }),
        };
    }
    if index.exists() {
        return Ok(WeightFiles::Index);
    }
    let there: Vec<String> =
        list(directory)?.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    if let Some(all) = there.iter().find_map(|name| parts::all(name, "safetensors")) {
        let missing: Vec<&str> =
            all.iter().filter(|name| !there.contains(name)).map(String::as_str).collect();
        if !missing.is_empty() {
            let reason = format!("holds some of {} shards; missing are {}", all.len(), missing.join(", "));
            return Err(CheckpointError::invalid(directory, reason));
        }
        return Ok(WeightFiles::Shards(all));
    }
    refuse_adapter(directory)?;
    refuse_pickles(directory)?;
    let other = there.iter().find(|name| name.ends_with(".safetensors"));
    let hint = match other {
        Some(name) if name.starts_with("consolidated") => {
            format!("; {name} is in the authors' own layout, which is not read")
        }
        Some(name) => format!("; if {name} is the whole model, rename it to {SINGLE}"),
        None => String::new(),
    };
    Err(CheckpointError::invalid(directory, format!("holds no weights: neither {SINGLE} nor {INDEX}{hint}")))
}

/// Whether there are files of weights, in whatever format and however many.
pub(super) fn has_weight_files(directory: &Path) -> bool {
    let weights = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "safetensors") || refuse_pickle(path).is_err()
    };
    list(directory).is_ok_and(|paths| paths.iter().any(weights))
}

/// The weights; what was passed over becomes a warning.
pub(super) fn open_tensors(directory: &Path, warnings: &mut Vec<String>) -> Result<Tensors, CheckpointError> {
    let mut warn = |reason: String| warnings.push(format!("{}: {reason}", directory.display()));
    let mut tensors = match weight_files(directory)? {
        WeightFiles::Single { stale_index } => {
            if stale_index {
                warn(format!("{SINGLE} is read; {INDEX}, which names other files, is passed over"));
            }
            safetensors::open_files(&[directory.join(SINGLE)])
        }
        WeightFiles::Index => safetensors::open_sharded(&directory.join(INDEX)),
        WeightFiles::Shards(names) => {
            warn(format!("{INDEX} is missing; all {} shards are read as their names say", names.len()));
            let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
            safetensors::open_files(&paths)
        }
    }?;
    tensors.name_headless_decoder();
    Ok(tensors)
}

/// The files (relative to the directory) that weights consist of, where all of them are there.
pub(super) fn complete_weights(directory: &Path) -> Option<Vec<String>> {
    let files = match weight_files(directory).ok()? {
        WeightFiles::Single { .. } => vec![SINGLE.to_owned()],
        WeightFiles::Index => safetensors::read_index(&directory.join(INDEX)).ok()?.into_keys().collect(),
        WeightFiles::Shards(names) => names,
    };
    files.iter().all(|file| directory.join(file).exists()).then_some(files)
}

/// An error when the file is of a pickle format, by its name.
pub(super) fn refuse_pickle(path: &Path) -> Result<(), CheckpointError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let pickle = matches!(extension, "pt" | "pth" | "ckpt" | "pkl" | "pickle")
        || (extension == "bin" && name.starts_with("pytorch_model"));
    if pickle {
        return Err(CheckpointError::invalid(
            path,
            "is a pickle file, which can run arbitrary code when it is read, so it is refused; convert the \
             checkpoint to safetensors (in transformers: load it where you trust it, then \
             save_pretrained(directory)) or take a repository that has model.safetensors",
        ));
    }
    Ok(())
}

fn refuse_pickles(directory: &Path) -> Result<(), CheckpointError> {
    list(directory)?.iter().try_for_each(|path| refuse_pickle(path))
}

/// Whether the name is of a file in the same directory and nothing else.
pub(super) fn plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
        && !name.contains('\\')
}

/// A JSON object from a file of bounded size.
pub(super) fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    let text = read_text(path)?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| CheckpointError::invalid(path, format!("not valid JSON: {error}")))?;
    if !value.is_object() {
        return Err(CheckpointError::invalid(path, "must hold a JSON object"));
    }
    Ok(value)
}

pub(super) fn read_text(path: &Path) -> Result<String, CheckpointError> {
    let io = |source| CheckpointError::io(path, source);
    let bytes = files::read_start(path, TEXT_BYTES_MAX + 1).map_err(io)?;
    refuse_lfs_pointer(path, &bytes)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(CheckpointError::invalid(path, format!("is larger than {TEXT_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes)
        .map_err(|error| CheckpointError::invalid(path, format!("not valid UTF-8: {error}")))
}

pub(super) fn optional_json(path: &Path) -> Result<Value, CheckpointError> {
    if path.exists() { read_json(path) } else { Ok(Value::Object(Default::default())) }
}

/// chat_template.jinja wins over tokenizer_config.json's `chat_template`, which is a string or a
/// list of `{name, template}`; of a list, "default" is taken.
fn chat_template(directory: &Path, tokenizer_config: &Value) -> Result<Option<String>, CheckpointError> {
    let file = directory.join("chat_template.jinja");
    if file.exists() {
        return read_text(&file).map(Some);
    }
    let invalid = |reason: &str| {
        Err(CheckpointError::invalid(
            directory.join("tokenizer_config.json"),
            format!("chat_template: {reason}"),
        ))
    };
    match tokenizer_config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(templates)) => {
            match templates.iter().find(|entry| entry["name"] == "default").map(|entry| &entry["template"]) {
                Some(Value::String(template)) => Ok(Some(template.clone())),
                Some(_) => invalid("the template named \"default\" must be a string"),
                None => invalid("a list must hold a template named \"default\""),
            }
        }
        Some(_) => invalid("must be a string or a list of {name, template}"),
    }
}

fn no_config_reason(directory: &Path) -> String {
    let files = list(directory).unwrap_or_default();
    let gguf = files.iter().find(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    match gguf {
        Some(file) => format!("is missing; to serve the GGUF file here, pass it: {}", file.display()),
        None => {
            "is missing; a checkpoint is a directory with config.json and model.safetensors, or a .gguf file"
                .into()
        }
    }
}

/// Paths in the directory, sorted.
fn list(directory: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let io = |source| CheckpointError::io(directory, source);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        paths.push(entry.map_err(io)?.path());
    }
    paths.sort();
    Ok(paths)
}
