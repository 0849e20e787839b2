//! Which of a repository's files make up a checkpoint. What the hub says is checked before any
//! of it becomes part of a path.

use super::{CheckpointError, HubSource, hf_dir};
use crate::checkpoint::{parts, safetensors};
use serde::Deserialize;
use std::path::{Path, PathBuf};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// All small files, in the order of download; only config.json must be there.
const SMALL_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    INDEX,
];

/// A tokenizer of repositories without tokenizer.json.
const BPE_FILES: [&str; 4] = ["vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"];

/// What describes a checkpoint without its weights and its tokenizer.
const DESCRIPTION_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    INDEX,
    "README.md",
];

/// What says how texts' vectors are made, where there is the first; beside them the pooling's own config.
const SENTENCE_FILES: [&str; 3] =
    ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"];
/// Ends the names of the pooling's config: `1_Pooling/config.json`.
const POOLING_CONFIG: &str = "_Pooling/config.json";

/// A repository at one commit.
#[derive(Debug)]
pub(super) struct RepoInfo {
    /// The commit.
    pub sha: String,
    files: Vec<RepoFile>,
}

/// One of its files.
#[derive(Debug)]
pub(super) struct RepoFile {
    pub name: String,
    pub size: Option<u64>,
    /// For files in large-file storage, in lowercase.
    pub sha256: Option<String>,
    /// What the cache calls the blob, as Hugging Face's own tools do: the sha256 of a file in large-file
    /// storage, else git's hash of it (40 hexadecimal digits). None where the hub states no such thing.
    pub tag: Option<String>,
}

#[derive(Deserialize)]
struct WireInfo {
    sha: String,
    siblings: Vec<WireFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireFile {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<WireLfs>,
}

#[derive(Deserialize)]
struct WireLfs {
    sha256: String,
    size: u64,
}

impl RepoInfo {
    /// From the answer to `/api/models/{repo}/revision/{revision}?blobs=true`.
    pub fn parse(text: &str) -> Result<RepoInfo, String> {
        let wire: WireInfo = serde_json::from_str(text)
            .map_err(|error| format!("the answer about the repository is not the hub's: {error}"))?;
        if !plain_name(&wire.sha) {
            return Err("the answer about the repository names no valid commit".into());
        }
        let mut files = Vec::new();
        for file in wire.siblings.into_iter().filter(|file| relative_path(&file.rfilename)) {
            let sha256 = match &file.lfs {
                Some(lfs) => Some(hex(&lfs.sha256, 64).ok_or_else(|| {
                    format!("the answer about the repository has no valid sha256 of {}", file.rfilename)
                })?),
                None => None,
            };
            files.push(RepoFile {
                size: file.lfs.as_ref().map(|lfs| lfs.size).or(file.size),
                tag: sha256.clone().or_else(|| hex(file.blob_id.as_deref()?, 40)),
                name: file.rfilename,
                sha256,
            });
        }
        Ok(RepoInfo { sha: wire.sha, files })
    }

    fn file(&self, name: &str) -> Option<&RepoFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// That GGUF file, or the one of that quantisation; else an error that lists those there are.
    pub fn gguf(&self, source: &HubSource, name: &str) -> Result<&RepoFile, CheckpointError> {
        let ggufs = self.ggufs();
        let found = match name.ends_with(".gguf") {
            true => Some(name),
            false => of_quantisation(&ggufs, name),
        };
        found.and_then(|name| self.file(name)).ok_or_else(|| {
            let what = if name.ends_with(".gguf") { "file" } else { "GGUF file of the quantisation" };
            let there = if ggufs.is_empty() { "no GGUF file".to_owned() } else { ggufs.join(", ") };
            CheckpointError::Hub(format!("{}: has no {what} {name}; it has {there}", source.repo))
        })
    }

    /// That GGUF file, and where it is one part of several, all of them.
    pub fn gguf_parts(&self, source: &HubSource, name: &str) -> Result<Vec<&RepoFile>, CheckpointError> {
        let file = self.gguf(source, name)?;
        match parts::all(&file.name, "gguf") {
            Some(names) => names.iter().map(|name| self.gguf(source, name)).collect(),
            None => Ok(vec![file]),
        }
    }

    fn ggufs(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.name.as_str()).filter(|name| name.ends_with(".gguf")).collect()
    }

    /// Config, tokenizer, template, index and sentence-transformers' files.
    pub fn small_files(&self, source: &HubSource) -> Result<Vec<&RepoFile>, CheckpointError> {
        let has_weights = self.file(SINGLE).is_some() || self.file(INDEX).is_some();
        if self.file("config.json").is_some() && has_weights {
            let tokenizer = if self.file("tokenizer.json").is_some() { &[][..] } else { &BPE_FILES };
            let named = SMALL_FILES.iter().chain(tokenizer).filter_map(|name| self.file(name));
            return Ok(named.chain(self.sentence_files()).collect());
        }
        let repo = &source.repo;
        if let [first, ..] = self.ggufs()[..] {
            return Err(CheckpointError::Hub(format!(
                "{repo}: holds GGUF files; name one, as in {repo}:{first}; it has {}",
                self.ggufs().join(", ")
            )));
        }
        if !has_weights {
            for file in &self.files {
                hf_dir::refuse_pickle(&Path::new(repo).join(&file.name))?;
            }
        }
        Err(CheckpointError::Hub(format!(
            "{repo}: is no checkpoint that can be served: it needs config.json and {SINGLE} or {INDEX}"
        )))
    }

    /// Config, template, index, model card and sentence-transformers' files.
    pub fn description(&self, source: &HubSource) -> Result<Vec<&RepoFile>, CheckpointError> {
        self.small_files(source)?;
        let named = DESCRIPTION_FILES.iter().filter_map(|name| self.file(name));
        Ok(named.chain(self.sentence_files()).collect())
    }

    /// sentence-transformers' own, none in a repository of another kind.
    fn sentence_files(&self) -> impl Iterator<Item = &RepoFile> {
        let there = self.file(SENTENCE_FILES[0]).is_some();
        let wanted = |name: &str| {
            let folder = name.strip_suffix(POOLING_CONFIG);
            SENTENCE_FILES.contains(&name) || folder.is_some_and(|folder| !folder.contains('/'))
        };
        self.files.iter().filter(move |file| there && wanted(&file.name))
    }

    /// The weights, by the index in the snapshot when there is one.
    pub fn weights(&self, source: &HubSource, snapshot: &Path) -> Result<Vec<&RepoFile>, CheckpointError> {
        let names = match self.file(INDEX) {
            Some(_) => safetensors::read_index(&snapshot.join(INDEX))?.into_keys().collect(),
            None => vec![SINGLE.to_owned()],
        };
        let found = names.iter().map(|name| {
            self.file(name).ok_or_else(|| {
                CheckpointError::Hub(format!("{}: {INDEX} names {name}, which is not there", source.repo))
            })
        });
        found.collect()
    }
}

/// Whether the text can name a quantisation, as files do: Q4_K_M, IQ4_XS, F16, UD-Q4_K_XL.
pub(super) fn is_quantisation(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (2..=32).contains(&text.len()) && text.bytes().all(allowed)
}

/// The file whose name ends in that quantisation, upper and lower case alike; the first of several
/// parts. What ends in more than it (`UD-Q4_K_M` for `Q4_K_M`) is another one where both are there.
fn of_quantisation<'a>(names: &[&'a str], quantisation: &str) -> Option<&'a str> {
    let wanted = quantisation.to_ascii_lowercase();
    let matching = names.iter().copied().filter_map(|name| {
        let stem = name.strip_suffix(".gguf")?.to_ascii_lowercase();
        // name-Q4_K_M-00001-of-00003.gguf
        let stem = match stem.rsplit_once("-of-") {
            Some((head, count)) if count.bytes().all(|byte| byte.is_ascii_digit()) => {
                head.strip_suffix("-00001")?.to_owned()
            }
            _ => stem,
        };
        let before = stem.strip_suffix(&wanted)?;
        before.ends_with(['-', '.', '_', '/']).then_some((before.len(), name))
    });
    matching.min().map(|(_, name)| name)
}

/// The file of that quantisation in a snapshot.
pub(super) fn quantised_file(snapshot: &Path, quantisation: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(snapshot).ok()?;
    let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    of_quantisation(&names, quantisation).map(|name| snapshot.join(name)).filter(|path| path.is_file())
}

/// Whether the text can be one component of a path, an URL and a cache's directory name.
pub(super) fn plain_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed) && !text.starts_with('.')
}

/// The text in lowercase, if it is so many hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<String> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| text.to_ascii_lowercase())
}

/// Whether the text is a path that stays below where it starts, written in the one way there is.
pub(super) fn relative_path(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || c == '\\')
        && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
