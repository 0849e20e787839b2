//! A directory in Hugging Face layout: config.json, tokenizer.json, tokenizer_config.json,
//! chat_template.jinja, generation_config.json, and safetensors.

use super::tensors::Tensors;
use super::{Checkpoint, CheckpointError, TokenizerSource, safetensors};
use serde_json::Value;
use std::io::Read;
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
        if complete_weights(directory).is_none() {
            refuse_pickles(directory)?;
        }
        return Err(CheckpointError::invalid(&config_path, no_config_reason(directory)));
    }
    let tokenizer_config = optional_json(&directory.join("tokenizer_config.json"))?;
    let tokenizer_json = directory.join("tokenizer.json");
    Ok(Checkpoint {
        source: directory.to_owned(),
        config: read_json(&config_path)?,
        generation_config: optional_json(&directory.join("generation_config.json"))?,
        chat_template: chat_template(directory, &tokenizer_config)?,
        tokenizer_config,
        tokenizer: tokenizer_json.exists().then_some(TokenizerSource::Json(tokenizer_json)),
        tensors: Tensors::default(),
    })
}

/// The weights: the index when there is one, else the single file.
pub(super) fn open_tensors(directory: &Path) -> Result<Tensors, CheckpointError> {
    let (index, single) = (directory.join(INDEX), directory.join(SINGLE));
    if index.exists() {
        return safetensors::open_sharded(&index);
    }
    if single.exists() {
        return safetensors::open_single(&single);
    }
    refuse_pickles(directory)?;
    Err(CheckpointError::invalid(directory, format!("holds no weights: neither {SINGLE} nor {INDEX}")))
}

/// The files (relative to the directory) that weights consist of, where all of them are there.
pub(super) fn complete_weights(directory: &Path) -> Option<Vec<String>> {
    let index = directory.join(INDEX);
    let mut files = vec![SINGLE.to_owned()];
    if index.exists() {
        files = safetensors::read_index(&index).ok()?.into_keys().collect();
    }
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

fn read_text(path: &Path) -> Result<String, CheckpointError> {
    let io = |source| CheckpointError::io(path, source);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(CheckpointError::invalid(path, format!("is larger than {TEXT_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes)
        .map_err(|error| CheckpointError::invalid(path, format!("not valid UTF-8: {error}")))
}

fn optional_json(path: &Path) -> Result<Value, CheckpointError> {
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
