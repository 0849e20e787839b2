//! What a user types for `--model`, resolved to a path: `[name=]source`, where source is a
//! directory, a `.gguf` file, a name in the catalogue, or `org/name[@revision][:file.gguf]`.
//! What exists locally wins over what may be downloaded.

use super::catalogue::{self, CatalogueEntry};
use super::hub::{self, HubSource, PullOptions};
use super::{CheckpointError, hf_dir};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Suggestions for an unknown name.
const SUGGESTIONS: usize = 3;

/// Where checkpoints are looked for, and how they are fetched.
#[derive(Clone, Debug)]
pub struct Places {
    /// The hub and its cache.
    pub hub: PullOptions,
    /// See [`model_cache_dir`].
    pub model_cache: PathBuf,
}

impl Places {
    /// As the environment says.
    pub fn from_env() -> Result<Self, CheckpointError> {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// As a lookup of environment variables says.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, CheckpointError> {
        let hub = PullOptions::from_lookup(&lookup)?;
        Ok(Places { hub, model_cache: model_cache(&lookup)? })
    }
}

/// Where NovaStack keeps checkpoints that are not from the hub: `$NOVASTACK_CACHE`, else
/// `$HF_HOME/novastack`, else `~/.cache/novastack`.
pub fn model_cache_dir() -> Result<PathBuf, CheckpointError> {
    model_cache(&|name| std::env::var_os(name))
}

fn model_cache(lookup: &impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, CheckpointError> {
    let path = |name: &str| lookup(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    path("NOVASTACK_CACHE")
        .or_else(|| path("HF_HOME").map(|home| home.join("novastack")))
        .or_else(|| path("HOME").map(|home| home.join(".cache").join("novastack")))
        .ok_or_else(|| CheckpointError::Hub("no model cache: set NOVASTACK_CACHE or HOME".into()))
}

/// What [`super::Checkpoint::open`] will find at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A directory in Hugging Face layout.
    Directory,
    /// A GGUF file.
    Gguf,
    /// A config.json of its own.
    Config,
}

/// A checkpoint that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The caller's name, else the catalogue's name, the hub id, or the path's last part.
    pub served_name: String,
    /// For [`super::Checkpoint::open`].
    pub path: PathBuf,
    /// What is at the path.
    pub kind: SourceKind,
}

/// How much of a checkpoint is downloaded.
type Pull = fn(&HubSource, &PullOptions) -> Result<PathBuf, CheckpointError>;

/// Resolves `[name=]source`, downloading what has to be downloaded (never under
/// `HF_HUB_OFFLINE`).
pub fn resolve(spec: &str, places: &Places) -> Result<Resolved, CheckpointError> {
    resolve_by(spec, places, hub::pull)
}

/// Like [`resolve`], and of what is not here downloads no weights: what is at the path is for
/// [`super::Checkpoint::open_config`]. A config.json of its own is a source too.
pub fn resolve_description(spec: &str, places: &Places) -> Result<Resolved, CheckpointError> {
    resolve_by(spec, places, hub::pull_description)
}

fn resolve_by(spec: &str, places: &Places, pull: Pull) -> Result<Resolved, CheckpointError> {
    let (name, source) = split(spec);
    if name == Some("") || source.is_empty() {
        return Err(CheckpointError::Hub(format!(
            "model {spec:?}: must be [name=]source; a source is a directory, a .gguf file, a name in the \
             catalogue, or a hub id org/name"
        )));
    }
    let (default_name, path) = locate(source, places, pull)?;
    let kind = match path.extension() {
        _ if path.is_dir() => SourceKind::Directory,
        Some(extension) if extension == "json" => SourceKind::Config,
        _ => SourceKind::Gguf,
    };
    Ok(Resolved { served_name: name.map_or(default_name, str::to_owned), path, kind })
}

/// The name under which [`resolve`] will serve `[name=]source`, known before anything is fetched.
pub fn served_name(spec: &str) -> String {
    let (name, source) = split(spec);
    if let Some(name) = name {
        return name.to_owned();
    }
    let local = Path::new(source);
    match (local.exists(), catalogue::find(source), HubSource::parse(source)) {
        (true, ..) => local_name(local),
        (_, Some(entry), _) => entry.name.clone(),
        (.., Some(hub_source)) => hub_source.repo,
        _ => source.to_owned(),
    }
}

/// A path may contain "="; then it exists.
fn split(spec: &str) -> (Option<&str>, &str) {
    match spec.split_once('=') {
        Some((name, source)) if !Path::new(spec).exists() => (Some(name.trim()), source.trim()),
        _ => (None, spec.trim()),
    }
}

/// The default name, and the path.
fn locate(source: &str, places: &Places, pull: Pull) -> Result<(String, PathBuf), CheckpointError> {
    let local = Path::new(source);
    if local.exists() {
        return Ok((local_name(local), local.to_owned()));
    }
    if let Some(entry) = catalogue::find(source) {
        return Ok((entry.name.clone(), fetch_entry(entry, places, pull)?));
    }
    match HubSource::parse(source) {
        Some(hub_source) => {
            let path = pull(&hub_source, &places.hub)?;
            Ok((hub_source.repo, path))
        }
        None => {
            hf_dir::refuse_pickle(local)?;
            Err(CheckpointError::Hub(format!(
                "model {source:?}: no such file or directory, no hub id (org/name), and not in the catalogue; the \
                 nearest names there are {}",
                catalogue::nearest(source, SUGGESTIONS).join(", ")
            )))
        }
    }
}

fn local_name(path: &Path) -> String {
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = match full.file_name() {
        _ if full.is_dir() => full.file_name(),
        // A config's own name says nothing, its directory's does.
        Some(name) if name == "config.json" => full.parent().and_then(Path::file_name),
        _ => full.file_stem(),
    };
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// What is in a cache wins, in the order of the sources; then the hub is asked.
fn fetch_entry(entry: &CatalogueEntry, places: &Places, pull: Pull) -> Result<PathBuf, CheckpointError> {
    for source in &entry.sources {
        let found = match (source.hub(), &source.file) {
            (Some(hub_source), _) => hub::cached(&hub_source, &places.hub),
            (None, Some(file)) => {
                let path = places.model_cache.join(file);
                std::fs::metadata(&path)
                    .is_ok_and(|metadata| source.bytes.is_none_or(|bytes| bytes == metadata.len()))
                    .then_some(path)
            }
            (None, None) => None,
        };
        if let Some(path) = found {
            return Ok(path);
        }
    }
    let mut last = CheckpointError::Hub(format!("{}: no source can be downloaded", entry.name));
    for source in entry.sources.iter().filter_map(|source| source.hub()) {
        match pull(&source, &places.hub) {
            Ok(path) => return Ok(path),
            Err(error) => last = error,
        }
    }
    let file =
        entry.sources.iter().filter(|source| source.hf.is_none()).find_map(|source| source.file.as_ref());
    Err(match (file, last) {
        (Some(file), CheckpointError::Hub(reason)) => CheckpointError::Hub(format!(
            "{reason}; or place the file {file} in {}",
            places.model_cache.display()
        )),
        (_, last) => last,
    })
}
