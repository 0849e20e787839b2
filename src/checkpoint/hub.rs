//! Downloads from a Hugging Face hub, into the cache that Hugging Face's own tools use
//! (`models--org--name/{blobs,snapshots,refs}`).
//!
//! What this module promises is that a name under `blobs` or `snapshots` stands for a file that is
//! complete and verified (size, and sha256 where the hub states one). Until then a file is in
//! `.partial`, under a name of our own making, where an interrupted transfer is resumed. Nothing that
//! the hub says becomes part of a path before it was checked ([`select`]); where it redirects to is
//! checked too, and never learns the token ([`transfer`]). One process at a time pulls a model, under
//! a file lock; a complete snapshot is used without any request.
//! Deliberately absent: uploads, datasets, pickle weights. The token is never printed.

mod meter;
mod options;
mod select;
mod store;
mod transfer;

pub use self::options::{ProgressStyle, PullOptions};

use self::meter::Meter;
use self::select::{RepoFile, RepoInfo};
use self::store::{link, place, sha256, sha256_of_text, verify};
use self::transfer::{Hub, TransferError};
use super::{CheckpointError, hf_dir, parts};
use crate::files;
use crate::log;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Largest file that names a revision's commit.
const REF_BYTES_MAX: u64 = 4 << 10;
const REVISION_DEFAULT: &str = "main";
/// Attempts that bring no new byte, before a download is given up.
const FRUITLESS_ATTEMPTS_MAX: u32 = 5;
/// How long to wait for another process that pulls the same model.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3600);
const LOCK_POLL: Duration = Duration::from_millis(200);

/// `org/name[@revision][:file.gguf]`, or `:Q4_K_M` for the file of that quantisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSource {
    /// `org/name`.
    pub repo: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// One GGUF file of the repository, instead of its safetensors: its name, or its quantisation.
    pub file: Option<String>,
}

impl HubSource {
    /// None when the text has not that form.
    pub fn parse(text: &str) -> Option<HubSource> {
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file.to_owned())),
            None => (text, None),
        };
        let (repo, revision) = rest.split_once('@').unwrap_or((rest, REVISION_DEFAULT));
        let (org, name) = repo.split_once('/')?;
        let valid = select::plain_name(org)
            && select::plain_name(name)
            && select::relative_path(revision)
            && file.as_deref().is_none_or(|file| {
                select::relative_path(file) && file.ends_with(".gguf") || select::is_quantisation(file)
            });
        valid.then(|| HubSource { repo: repo.to_owned(), revision: revision.to_owned(), file })
    }
}

/// Makes the checkpoint available locally and returns its directory (or GGUF file). Complete
/// snapshots in the cache are returned without a request.
pub fn pull(source: &HubSource, options: &PullOptions) -> Result<PathBuf, CheckpointError> {
    if let Some(path) = cached(source, options) {
        return Ok(path);
    }
    check_online(source, options)?;
    let directory = repo_directory(source, options);
    std::fs::create_dir_all(&directory).map_err(|error| CheckpointError::io(&directory, error))?;
    let _lock = lock(&directory, source, options)?;
    match cached(source, options) {
        Some(path) => Ok(path),
        None => Pull::new(source, options, directory)?.run(),
    }
}

/// Makes the files that describe a checkpoint available locally, and not its weights: config, chat
/// template, index of the weights, model card. What is in the cache is used without a request.
pub fn pull_description(source: &HubSource, options: &PullOptions) -> Result<PathBuf, CheckpointError> {
    if let Some(path) = cached(source, options) {
        return Ok(path);
    }
    if let Some(file) = &source.file {
        return Err(CheckpointError::Hub(format!(
            "{0}:{file} is not in the cache, and only the whole file describes it; fetch it first: novastack pull \
             {0}:{file}",
            source.repo
        )));
    }
    if let Some(snapshot) = snapshot(source, options).filter(|path| path.join("config.json").exists()) {
        return Ok(snapshot);
    }
    check_online(source, options)?;
    let directory = repo_directory(source, options);
    std::fs::create_dir_all(&directory).map_err(|error| CheckpointError::io(&directory, error))?;
    let _lock = lock(&directory, source, options)?;
    Pull::new(source, options, directory)?.run_description()
}

fn check_online(source: &HubSource, options: &PullOptions) -> Result<(), CheckpointError> {
    match options.offline {
        false => Ok(()),
        true => Err(CheckpointError::Hub(format!(
            "{} is not complete in the cache {}, and HF_HUB_OFFLINE forbids to download it; unset it, or pass a \
             local directory or .gguf file",
            source.repo,
            options.cache.display()
        ))),
    }
}

/// The checkpoint's path where the cache holds all of it.
pub fn cached(source: &HubSource, options: &PullOptions) -> Option<PathBuf> {
    let snapshot = snapshot(source, options)?;
    match &source.file {
        Some(file) => {
            let file = match file.ends_with(".gguf") {
                true => snapshot.join(file),
                false => select::quantised_file(&snapshot, file)?,
            };
            let name = file.to_str()?;
            let parts = parts::all(name, "gguf").unwrap_or_else(|| vec![name.to_owned()]);
            parts.iter().all(|part| Path::new(part).is_file()).then_some(file)
        }
        None => {
            let complete = snapshot.join("config.json").exists()
                && hf_dir::has_tokenizer(&snapshot)
                && hf_dir::complete_weights(&snapshot).is_some();
            complete.then_some(snapshot)
        }
    }
}

/// Where the revision's files are, if there are any.
fn snapshot(source: &HubSource, options: &PullOptions) -> Option<PathBuf> {
    let directory = repo_directory(source, options);
    let commit = match files::read_text(&directory.join("refs").join(&source.revision), REF_BYTES_MAX) {
        Ok(commit) => commit.trim().to_owned(),
        Err(_) => source.revision.clone(),
    };
    select::plain_name(&commit).then(|| directory.join("snapshots").join(commit))
}

fn repo_directory(source: &HubSource, options: &PullOptions) -> PathBuf {
    options.cache.join(format!("models--{}", source.repo.replace('/', "--")))
}

/// Held while pulling; the system releases it even when the process is killed.
fn lock(directory: &Path, source: &HubSource, options: &PullOptions) -> Result<File, CheckpointError> {
    let path = directory.join(".novastack.lock");
    let io = |error| CheckpointError::io(&path, error);
    let file = files::create(&path).map_err(io)?;
    let start = Instant::now();
    let mut told = options.progress == ProgressStyle::Silent;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::Error(error)) => return Err(io(error)),
            Err(std::fs::TryLockError::WouldBlock) if start.elapsed() > LOCK_WAIT_MAX => {
                return Err(CheckpointError::Hub(format!(
                    "{}: another process is still pulling it",
                    source.repo
                )));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    log::line(&format!("{}: waiting for another process that pulls it", source.repo));
                }
                std::thread::sleep(LOCK_POLL);
            }
        }
    }
}

/// One run, under the lock.
struct Pull<'a> {
    source: &'a HubSource,
    options: &'a PullOptions,
    directory: PathBuf,
    staging: PathBuf,
    hub: Hub,
}

impl<'a> Pull<'a> {
    fn new(
        source: &'a HubSource,
        options: &'a PullOptions,
        directory: PathBuf,
    ) -> Result<Self, CheckpointError> {
        let staging = directory.join(".partial");
        Ok(Pull { source, options, directory, staging, hub: Hub::new(options)? })
    }

    fn run(&self) -> Result<PathBuf, CheckpointError> {
        let info = self.info()?;
        let snapshot = self.directory.join("snapshots").join(&info.sha);
        let fetch = |file: &RepoFile| self.fetch(file, &info.sha, &snapshot);
        let result = match &self.source.file {
            Some(name) => {
                let parts = info.gguf_parts(self.source, name)?;
                for &part in &parts {
                    fetch(part)?;
                }
                snapshot.join(&parts[0].name)
            }
            None => {
                for file in info.small_files(self.source)? {
                    fetch(file)?;
                }
                // Weights last: a snapshot that has them has everything.
                for file in info.weights(self.source, &snapshot)? {
                    fetch(file)?;
                }
                snapshot
            }
        };
        self.write_ref(&info.sha)?;
        let _ = std::fs::remove_dir_all(&self.staging);
        Ok(result)
    }

    fn run_description(&self) -> Result<PathBuf, CheckpointError> {
        let info = self.info()?;
        let snapshot = self.directory.join("snapshots").join(&info.sha);
        for file in info.description(self.source)? {
            self.fetch(file, &info.sha, &snapshot)?;
        }
        // One that is there may lead to files of another commit, which this one has not.
        if !self.directory.join("refs").join(&self.source.revision).exists() {
            self.write_ref(&info.sha)?;
        }
        let _ = std::fs::remove_dir_all(&self.staging);
        Ok(snapshot)
    }

    /// The repository's files with their sizes and hashes, at one commit.
    fn info(&self) -> Result<RepoInfo, CheckpointError> {
        let text = self.hub.info(self.source).map_err(|error| self.explain(error, None))?;
        RepoInfo::parse(&text)
            .map_err(|reason| CheckpointError::Hub(format!("{}: {reason}", self.options.shown_endpoint())))
    }

    /// Brings one file under its name in the snapshot.
    fn fetch(&self, file: &RepoFile, commit: &str, snapshot: &Path) -> Result<(), CheckpointError> {
        let name = snapshot.join(&file.name);
        let is_whole = |length: u64| file.size.is_none_or(|size| size == length);
        if std::fs::metadata(&name).is_ok_and(|metadata| is_whole(metadata.len())) {
            return Ok(());
        }
        let blobs = self.directory.join("blobs");
        let io = |error| CheckpointError::io(&name, error);
        // The same file of another commit.
        if let (Some(tag), Some(size)) = (&file.tag, file.size) {
            let blob = blobs.join(tag);
            if std::fs::symlink_metadata(&blob).is_ok_and(|blob| blob.is_file() && blob.len() == size) {
                return link(&blob, &name).map_err(io);
            }
        }
        let staged = self.download(file, commit)?;
        verify(&staged, file)?;
        let tag = match &file.tag {
            Some(tag) => tag.clone(),
            None => sha256(&staged).map_err(io)?,
        };
        place(&staged, &blobs.join(tag), &name).map_err(io)
    }

    /// Downloads into staging, resuming as long as bytes keep coming.
    fn download(&self, file: &RepoFile, commit: &str) -> Result<PathBuf, CheckpointError> {
        // What the hub has for a name is hashed, as two of its files must not share one of ours.
        let name = file.tag.clone().unwrap_or_else(|| sha256_of_text(&format!("{commit}/{}", file.name)));
        let part = self.staging.join(format!("{name}.part"));
        std::fs::create_dir_all(&self.staging).map_err(|error| CheckpointError::io(&self.staging, error))?;
        let mut meter = Meter::new(file, self.options.progress);
        let mut fruitless = 0;
        loop {
            let before = length(&part);
            let error = match self.attempt(file, commit, &part, &mut meter) {
                Ok(()) => {
                    meter.done();
                    return Ok(part);
                }
                Err(error) => error,
            };
            fruitless = if length(&part) > before { 0 } else { fruitless + 1 };
            if !error.is_passing() || fruitless == FRUITLESS_ATTEMPTS_MAX {
                return Err(self.explain(error, Some(&file.name)));
            }
            std::thread::sleep(self.options.retry_pause);
        }
    }

    /// One transfer, which adds to what is there of the file.
    fn attempt(
        &self,
        file: &RepoFile,
        commit: &str,
        part: &Path,
        meter: &mut Meter,
    ) -> Result<(), TransferError> {
        let io = |error| TransferError::Local(CheckpointError::io(part, error));
        let size_max = file.size.unwrap_or(u64::MAX);
        let mut out = File::options().create(true).append(true).open(part).map_err(io)?;
        let mut there = length(part);
        if there > size_max {
            out.set_len(0).map_err(io)?;
            there = 0;
        }
        if file.size == Some(there) {
            meter.set(there);
            return Ok(());
        }
        let asked = (self.source.repo.as_str(), commit, file.name.as_str());
        let (mut answer, begin) = match self.hub.file(asked, there, self.options.stall_timeout) {
            Err(TransferError::Status(416)) if there > 0 => {
                out.set_len(0).map_err(io)?;
                return Err(TransferError::Broken("what was there of it could not be continued".into()));
            }
            answer => answer?,
        };
        out.set_len(begin).map_err(io)?;
        there = begin;
        meter.set(there);
        while let Some(bytes) = answer.next(self.options.stall_timeout)? {
            there += bytes.len() as u64;
            if there > size_max {
                out.set_len(0).map_err(io)?;
                return Err(TransferError::Refused(format!(
                    "more comes than the {size_max} bytes that it lists"
                )));
            }
            out.write_all(&bytes).map_err(io)?;
            meter.set(there);
        }
        match file.size {
            Some(size) if there < size => {
                Err(TransferError::Broken(format!("it ended after {there} of {size} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// The branch's commit, written only once its snapshot is complete.
    fn write_ref(&self, commit: &str) -> Result<(), CheckpointError> {
        let path = self.directory.join("refs").join(&self.source.revision);
        let temporary = self.directory.join(".ref.partial");
        path.parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&temporary, commit))
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|error| CheckpointError::io(&path, error))
    }

    /// What went wrong, and what to try.
    fn explain(&self, error: TransferError, file: Option<&str>) -> CheckpointError {
        let repo = &self.source.repo;
        let what = file.map_or_else(|| repo.clone(), |file| format!("{repo}: {file}"));
        let endpoint = self.options.shown_endpoint();
        CheckpointError::Hub(match error {
            TransferError::Local(error) => return error,
            TransferError::Status(401 | 403) if self.options.token.is_some() => format!(
                "{what}: {endpoint} refuses it to the owner of HF_TOKEN; the repository does not exist, or is \
                 private or gated: accept its terms on its page, with the account of that token"
            ),
            TransferError::Status(401 | 403) => format!(
                "{what}: {endpoint} refuses it; the repository does not exist, or is private or gated: accept its \
                 terms on its page and set HF_TOKEN"
            ),
            TransferError::Status(404) => format!(
                "{what}: not found at {endpoint} (revision {}); check the spelling",
                self.source.revision
            ),
            TransferError::Status(code) => format!("{what}: {endpoint} answered with HTTP status {code}"),
            TransferError::Refused(reason) => format!("{what}: {endpoint}: {reason}"),
            TransferError::Broken(reason) => {
                format!("{what}: the download broke off: {reason}; run it again to resume")
            }
            TransferError::Silent(time) => {
                format!("{what}: no data from {endpoint} for {} s; run it again to resume", time.as_secs())
            }
            TransferError::Unreachable { host, reason } => {
                let where_to = match self.hub.is_own_host(&host) {
                    true => format!("the hub at {endpoint}"),
                    false => format!("{host}, where the hub at {endpoint} keeps it"),
                };
                format!(
                    "{what}: cannot reach {where_to}: {reason}; set HF_ENDPOINT to a mirror that can be reached, or \
                     pass a local directory or .gguf file"
                )
            }
        })
    }
}

/// Of what is there of a file.
fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
