//! Downloads from a Hugging Face hub, into the cache that Hugging Face's own tools use
//! (`models--org--name/{blobs,snapshots,refs}`).
//!
//! hf-hub makes the transfers, into a staging cache inside the model's directory: it renames a
//! download without looking at it, and what this module promises is that a name under `blobs` or
//! `snapshots` stands for a file that is complete and verified (size, and sha256 where the hub
//! states one). Interrupted transfers stay in staging and are resumed. One process at a time
//! pulls a model, under a file lock; a complete snapshot is used without any request.
//! Deliberately absent: uploads, datasets, pickle weights. The token is never printed.

mod meter;
mod options;
mod select;
mod store;

pub use self::options::{ProgressStyle, PullOptions};

use self::meter::Meter;
use self::select::{RepoFile, RepoInfo};
use self::store::{place, verify};
use super::{CheckpointError, hf_dir};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const REVISION_DEFAULT: &str = "main";
/// For one request about a repository, connecting included.
const INFO_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts that bring no new byte, before a download is given up.
const FRUITLESS_ATTEMPTS_MAX: u32 = 5;
/// How long to wait for another process that pulls the same model.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3600);
const LOCK_POLL: Duration = Duration::from_millis(200);

/// `org/name[@revision][:file.gguf]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSource {
    /// `org/name`.
    pub repo: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// One GGUF file of the repository, instead of its safetensors.
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
            && file.as_deref().is_none_or(|file| select::relative_path(file) && file.ends_with(".gguf"));
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
        Some(file) => Some(snapshot.join(file)).filter(|path| path.is_file()),
        None => {
            let complete = ["config.json", "tokenizer.json"].iter().all(|name| snapshot.join(name).exists())
                && hf_dir::complete_weights(&snapshot).is_some();
            complete.then_some(snapshot)
        }
    }
}

/// Where the revision's files are, if there are any.
fn snapshot(source: &HubSource, options: &PullOptions) -> Option<PathBuf> {
    let directory = repo_directory(source, options);
    let commit = match std::fs::read_to_string(directory.join("refs").join(&source.revision)) {
        Ok(commit) => commit.trim().to_owned(),
        Err(_) => source.revision.clone(),
    };
    select::plain_name(&commit).then(|| directory.join("snapshots").join(commit))
}

fn repo_directory(source: &HubSource, options: &PullOptions) -> PathBuf {
    let repo = Repo::new(source.repo.clone(), RepoType::Model);
    options.cache.join(repo.folder_name())
}

/// Held while pulling; the system releases it even when the process is killed.
fn lock(directory: &Path, source: &HubSource, options: &PullOptions) -> Result<File, CheckpointError> {
    let path = directory.join(".novastack.lock");
    let io = |error| CheckpointError::io(&path, error);
    let file = File::create(&path).map_err(io)?;
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
                    eprintln!("{}: waiting for another process that pulls it", source.repo);
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
    api: Api,
}

impl<'a> Pull<'a> {
    fn new(
        source: &'a HubSource,
        options: &'a PullOptions,
        directory: PathBuf,
    ) -> Result<Self, CheckpointError> {
        let staging = directory.join(".partial");
        // hf-hub's own retries are off: they resume at a wrong offset when nothing was received.
        let api = ApiBuilder::from_cache(Cache::new(staging.clone()))
            .with_endpoint(options.endpoint.clone())
            .with_token(options.token.clone())
            .with_user_agent("novastack", env!("CARGO_PKG_VERSION"))
            .with_retries(0)
            .build()
            .map_err(|error| CheckpointError::Hub(format!("cannot set up a connection: {error}")))?;
        Ok(Pull { source, options, directory, staging, api })
    }

    fn run(&self) -> Result<PathBuf, CheckpointError> {
        let info = self.info()?;
        let snapshot = self.directory.join("snapshots").join(&info.sha);
        let fetch = |file: &RepoFile| self.fetch(file, &info.sha, &snapshot);
        let result = match &self.source.file {
            Some(name) => {
                fetch(info.gguf(self.source, name)?)?;
                snapshot.join(name)
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

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.source.repo.clone(), RepoType::Model, revision.to_owned())
    }

    /// The repository's files with their sizes and hashes, at one commit.
    fn info(&self) -> Result<RepoInfo, CheckpointError> {
        let request = self.api.repo(self.repo(&self.source.revision)).info_request();
        let response = request
            .query("blobs", "true")
            .config()
            .timeout_global(Some(INFO_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .build()
            .call();
        let text = response
            .and_then(|mut response| response.body_mut().read_to_string())
            .map_err(|error| self.explain(&error, None))?;
        RepoInfo::parse(&text)
            .map_err(|reason| CheckpointError::Hub(format!("{}: {reason}", self.options.shown_endpoint())))
    }

    /// Brings one file under its name in the snapshot.
    fn fetch(&self, file: &RepoFile, commit: &str, snapshot: &Path) -> Result<(), CheckpointError> {
        let link = snapshot.join(&file.name);
        if std::fs::metadata(&link).is_ok_and(|metadata| file.size.is_none_or(|size| size == metadata.len()))
        {
            return Ok(());
        }
        let staged = self.download(file, commit)?;
        let blobs = self.directory.join("blobs");
        let etag = staged.file_name().map(PathBuf::from).unwrap_or_else(|| file.name.clone().into());
        let blob = blobs.join(etag);
        let placed = verify(&staged, file)
            .and_then(|()| place(&staged, &blob, &link).map_err(|error| CheckpointError::io(&link, error)));
        // hf-hub's own links; they would dangle and stop the next download of this file.
        let _ = std::fs::remove_dir_all(self.staged_repo().join("snapshots"));
        placed
    }

    fn staged_repo(&self) -> PathBuf {
        self.staging.join(self.repo(REVISION_DEFAULT).folder_name())
    }

    /// Downloads into staging, resuming as long as bytes keep coming.
    fn download(&self, file: &RepoFile, commit: &str) -> Result<PathBuf, CheckpointError> {
        let meter = Meter::new(file, self.options.progress);
        let mut fruitless = 0;
        loop {
            let _ = std::fs::remove_dir_all(self.staged_repo().join("snapshots"));
            self.reopen_part(file);
            let before = meter.received.load(Ordering::Relaxed);
            let error = match self.attempt(file, commit, &meter)? {
                Ok(path) => {
                    meter.done();
                    return std::fs::canonicalize(&path).map_err(|error| CheckpointError::io(&path, error));
                }
                Err(ApiError::RequestError(error)) => match *error {
                    ureq::Error::StatusCode(code) if code < 500 && code != 429 => {
                        return Err(self.explain(&error, Some(&file.name)));
                    }
                    _ => self.explain(&error, Some(&file.name)),
                },
                Err(ApiError::IoError(error)) => CheckpointError::Hub(format!(
                    "{}: {}: the download broke off: {error}; run it again to resume",
                    self.source.repo, file.name
                )),
                Err(error) => {
                    return Err(CheckpointError::Hub(format!(
                        "{}: {}: {error}",
                        self.source.repo, file.name
                    )));
                }
            };
            fruitless = if meter.received.load(Ordering::Relaxed) > before { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS_ATTEMPTS_MAX {
                return Err(error);
            }
            std::thread::sleep(self.options.retry_pause);
        }
    }

    /// One transfer, on a thread of its own: hf-hub sets no timeouts, so that a silent peer would
    /// hold the caller for ever. After a stall that thread is left to end with its connection.
    fn attempt(
        &self,
        file: &RepoFile,
        commit: &str,
        meter: &Meter,
    ) -> Result<Result<PathBuf, ApiError>, CheckpointError> {
        let repo = self.api.repo(self.repo(commit));
        let (sender, receiver) = mpsc::sync_channel(1);
        let (name, thread_meter) = (file.name.clone(), meter.clone());
        std::thread::spawn(move || {
            let _ = sender.send(repo.download_with_progress(&name, thread_meter));
        });
        let mut seen = 0;
        loop {
            match receiver.recv_timeout(self.options.stall_timeout) {
                Ok(result) => return Ok(result),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let now = meter.activity.load(Ordering::Relaxed);
                    if now == std::mem::replace(&mut seen, now) {
                        return Err(CheckpointError::Hub(format!(
                            "{}: {}: no data from {} for {} s; run it again to resume",
                            self.source.repo,
                            file.name,
                            self.options.shown_endpoint(),
                            self.options.stall_timeout.as_secs()
                        )));
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(CheckpointError::Hub(format!(
                        "{}: {}: the download failed inside hf-hub",
                        self.source.repo, file.name
                    )));
                }
            }
        }
    }

    /// A part that was received in full but not renamed cannot be resumed (the range would be
    /// empty), so that its last byte is fetched again; a longer one is of no use.
    fn reopen_part(&self, file: &RepoFile) {
        let (Some(etag), Some(size)) = (&file.etag, file.size) else { return };
        let part = self.staged_repo().join("blobs").join(format!("{etag}.part"));
        match std::fs::metadata(&part).map(|metadata| metadata.len()) {
            Ok(length) if length == size && size > 0 => {
                let shortened =
                    File::options().write(true).open(&part).and_then(|part| part.set_len(size - 1));
                if shortened.is_err() {
                    let _ = std::fs::remove_file(&part);
                }
            }
            Ok(length) if length > size => {
                let _ = std::fs::remove_file(&part);
            }
            _ => {}
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
    fn explain(&self, error: &ureq::Error, file: Option<&str>) -> CheckpointError {
        let repo = &self.source.repo;
        let what = file.map_or_else(|| repo.clone(), |file| format!("{repo}: {file}"));
        let endpoint = self.options.shown_endpoint();
        CheckpointError::Hub(match error {
            ureq::Error::StatusCode(401 | 403) if self.options.token.is_some() => format!(
                "{what}: {endpoint} refuses it to the owner of HF_TOKEN; the repository does not exist, or is \
                 private or gated: accept its terms on its page, with the account of that token"
            ),
            ureq::Error::StatusCode(401 | 403) => format!(
                "{what}: {endpoint} refuses it; the repository does not exist, or is private or gated: accept its \
                 terms on its page and set HF_TOKEN"
            ),
            ureq::Error::StatusCode(404) => format!(
                "{what}: not found at {endpoint} (revision {}); check the spelling",
                self.source.revision
            ),
            ureq::Error::StatusCode(code) => format!("{what}: {endpoint} answered with HTTP status {code}"),
            error => format!(
                "{what}: cannot reach the hub at {endpoint}: {error}; set HF_ENDPOINT to a mirror that can be \
                 reached, or pass a local directory or .gguf file"
            ),
        })
    }
}
