//! What a user types for a model, resolved to a path: `[name=]source`, where source is a
//! directory, a `.gguf` file, a name in the catalogue (Ollama's spelling too), or
//! `org/name[@revision][:file.gguf]`, where a quantisation (`:Q4_K_M`) stands for the file that has it.
//! What exists locally wins over what may be downloaded.

use super::catalogue::{self, CatalogueEntry};
use super::hub::{self, HubSource, PullOptions};
use super::{Checkpoint, CheckpointError, hf_dir};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What may be given, for messages.
const SOURCES: &str = "a model is [name=]source, and a source is a folder with config.json and safetensors, a .gguf \
    file, a name of the catalogue (`novastack models` lists them), or a repository of the hub: org/name, \
    org/name:file.gguf or org/name:Q4_K_M";

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
    /// A config of the catalogue, which this program carries: there are no files.
    Published,
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
    /// The config of [`SourceKind::Published`]; the path is the entry's name then.
    published: Option<Value>,
}

impl Resolved {
    /// See [`Checkpoint::open_config`].
    ///
    /// # Errors
    /// Files that are missing or not understood.
    pub fn open_config(&self) -> Result<Checkpoint, CheckpointError> {
        let Some(config) = &self.published else { return Checkpoint::open_config(&self.path) };
        let empty = || Value::Object(Default::default());
        Ok(Checkpoint {
            source: self.path.clone(),
            config: config.clone(),
            generation_config: empty(),
            tokenizer_config: empty(),
            ..Checkpoint::default()
        })
    }
}

/// How much of a checkpoint is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// All of it.
    Whole,
    /// What describes it, without its weights.
    Description,
}

impl Wanted {
    fn pull(self, source: &HubSource, options: &PullOptions) -> Result<PathBuf, CheckpointError> {
        match self {
            Self::Whole => hub::pull(source, options),
            Self::Description => hub::pull_description(source, options),
        }
    }
}

/// Where a source is.
enum Place {
    Path(PathBuf),
    /// Nowhere: its config is in the catalogue.
    Published(Value),
}

/// Resolves `[name=]source`, downloading what has to be downloaded (never under
/// `HF_HUB_OFFLINE`).
pub fn resolve(spec: &str, places: &Places) -> Result<Resolved, CheckpointError> {
    resolve_as(spec, places, Wanted::Whole)
}

/// Like [`resolve`], and of what is not here downloads no weights: what is at the path is for
/// [`Resolved::open_config`]. A config.json of its own is a source too, and names of the catalogue
/// whose config this program carries need no network.
pub fn resolve_description(spec: &str, places: &Places) -> Result<Resolved, CheckpointError> {
    resolve_as(spec, places, Wanted::Description)
}

fn resolve_as(spec: &str, places: &Places, wanted: Wanted) -> Result<Resolved, CheckpointError> {
    let (name, source) = split(spec);
    if name == Some("") || source.is_empty() {
        return Err(CheckpointError::Hub(format!("{spec:?} is no model: {SOURCES}")));
    }
    let (default_name, place) = locate(source, places, wanted)?;
    let served_name = name.map_or_else(|| default_name.clone(), str::to_owned);
    let path = match place {
        Place::Path(path) => path,
        Place::Published(config) => {
            let (path, kind) = (PathBuf::from(default_name), SourceKind::Published);
            return Ok(Resolved { served_name, path, kind, published: Some(config) });
        }
    };
    let kind = match path.extension() {
        _ if path.is_dir() => SourceKind::Directory,
        Some(extension) if extension == "json" => SourceKind::Config,
        _ => SourceKind::Gguf,
    };
    Ok(Resolved { served_name, path, kind, published: None })
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

/// The default name, and the place.
fn locate(source: &str, places: &Places, wanted: Wanted) -> Result<(String, Place), CheckpointError> {
    let local = Path::new(source);
    if local.exists() {
        return Ok((local_name(local), Place::Path(local.to_owned())));
    }
    if is_path(source) {
        hf_dir::refuse_pickle(local)?;
        return Err(CheckpointError::Hub(format!("{source}: there is no such file or folder")));
    }
    if let Some(entry) = catalogue::find(source) {
        return Ok((entry.name.clone(), fetch_entry(entry, places, wanted)?));
    }
    if let Some(hub_source) = HubSource::parse(source) {
        let path = wanted.pull(&hub_source, &places.hub)?;
        return Ok((hub_source.repo, Place::Path(path)));
    }
    hf_dir::refuse_pickle(local)?;
    let meant = match catalogue::near(source, SUGGESTIONS).as_slice() {
        [] => String::new(),
        near => format!("; did you mean {}?", near.join(" or ")),
    };
    Err(CheckpointError::Hub(format!(
        "{source:?} is no file or folder here, no repository of the hub (org/name), and not in the catalogue, \
         which `novastack models` lists{meant}"
    )))
}

/// Whether a text can only be meant as a path: then the path alone is told of where it leads nowhere.
fn is_path(source: &str) -> bool {
    let begins = ["/", "./", "../", "~"].iter().any(|begin| source.starts_with(begin));
    let slashes = source.split(':').next().unwrap_or_default().split('@').next().unwrap_or_default();
    let is_file = [".gguf", ".safetensors", ".json", ".bin", ".pt", ".pth"].iter();
    let is_file = !source.contains(':') && is_file.clone().any(|end| source.ends_with(end));
    begins || is_file || source.ends_with('/') || slashes.matches('/').count() > 1 || source == "."
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

/// What is in a cache wins, in the order of the sources; then what this program carries, where that is
/// enough; then the hub is asked.
fn fetch_entry(entry: &CatalogueEntry, places: &Places, wanted: Wanted) -> Result<Place, CheckpointError> {
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
            return Ok(Place::Path(path));
        }
    }
    if wanted == Wanted::Description
        && let Some(config) = entry.published_config()
    {
        return Ok(Place::Published(config));
    }
    let mut last = CheckpointError::Hub(format!("{}: no source can be downloaded", entry.name));
    for source in entry.sources.iter().filter_map(|source| source.hub()) {
        match wanted.pull(&source, &places.hub) {
            Ok(path) => return Ok(Place::Path(path)),
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
