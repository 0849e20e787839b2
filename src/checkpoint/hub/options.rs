//! What a download needs to know, read from the environment in one place, in Hugging Face's names.

use crate::checkpoint::CheckpointError;
use crate::files;
use crate::secrets;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// Largest file with a token.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
const ENDPOINT_DEFAULT: &str = "https://huggingface.co";

/// How a download shows that it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressStyle {
    /// A bar per file on stderr.
    Bars,
    /// A line per file on stderr.
    Lines,
    /// Nothing.
    Silent,
}

/// Which hub, with which rights, into which cache.
#[derive(Clone)]
pub struct PullOptions {
    /// `HF_ENDPOINT`, without a slash at the end.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, or `$HF_HOME/hub`, or `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, or what `$HF_HOME/token` holds.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: use the cache alone, make no request.
    pub offline: bool,
    /// What is shown meanwhile.
    pub progress: ProgressStyle,
    /// A transfer that brings no byte for this long has failed.
    pub stall_timeout: Duration,
    /// Pause before an interrupted transfer is resumed.
    pub retry_pause: Duration,
}

impl std::fmt::Debug for PullOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PullOptions")
            .field("endpoint", &self.shown_endpoint())
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "(set)"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl PullOptions {
    /// From a lookup of environment variables, in Hugging Face's names.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, CheckpointError> {
        let text = |name: &str| match lookup(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Some(Err(_)) => Err(CheckpointError::Hub(format!("{name} is not valid UTF-8"))),
        };
        let path = |name: &str| lookup(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = hf_home(&lookup);
        let cache =
            path("HF_HUB_CACHE").or_else(|| home.as_ref().map(|home| home.join("hub"))).ok_or_else(|| {
                CheckpointError::Hub("no cache directory: set HF_HOME, HF_HUB_CACHE or HOME".into())
            })?;
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT_DEFAULT.into());
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(CheckpointError::Hub("HF_ENDPOINT must start with http:// or https://".into()));
        }
        let token_file = || files::read_text(&home?.join("token"), TOKEN_BYTES_MAX).ok();
        let token = text("HF_TOKEN")?.or_else(|| token_file().map(|token| token.trim().to_owned()));
        token.iter().for_each(|token| secrets::know(token));
        secrets::know_url(&endpoint);
        let offline = text("HF_HUB_OFFLINE")?
            .is_some_and(|flag| matches!(flag.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"));
        Ok(PullOptions {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: std::path::absolute(&cache).map_err(|source| CheckpointError::io(&cache, source))?,
            token: token.filter(|token| !token.is_empty()),
            offline,
            progress: if std::io::stderr().is_terminal() {
                ProgressStyle::Bars
            } else {
                ProgressStyle::Lines
            },
            stall_timeout: Duration::from_secs(60),
            retry_pause: Duration::from_secs(1),
        })
    }

    /// The endpoint without a user name and password that it may carry.
    pub(super) fn shown_endpoint(&self) -> String {
        match self.endpoint.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
            }
            None => self.endpoint.clone(),
        }
    }
}

/// `$HF_HOME`, else `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface`.
fn hf_home(lookup: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| lookup(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    path("HF_HOME")
        .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| path("HOME").map(|home| home.join(".cache").join("huggingface")))
}
