//! What `novastack serve` takes.

use crate::cli::load_args::LoadArgs;
use crate::cli::sampling::{self, Bound};
use crate::cli::{parse_bytes, parse_seconds};
use clap::Args;
use novastack::gateway::check_key;
use novastack::memory::Memory;
use novastack::protocol::SamplingDefaults;
use novastack::text::{ReasoningFormat, ToolFormat};
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Of a name that callers use.
const NAME_CHARS_MAX: usize = 128;

/// Of the machine's memory, one part in so many is for requests where nobody says.
const MEMORY_PART: usize = 8;

/// Where keys may be given besides the command line.
pub const KEYS_VARIABLE: &str = "NOVASTACK_API_KEYS";

#[derive(Args)]
#[command(next_help_heading = "What to serve")]
pub struct ServeArgs {
    /// `[name=]source`, where source is a name of the catalogue (`novastack models`), a hub id
    /// (org/name, org/name:Q4_K_M), a .gguf file, or a folder in Hugging Face layout. Several serve
    /// several models.
    #[arg(value_name = "MODEL", help_heading = None::<&'static str>)]
    sources: Vec<String>,
    /// The same, as a flag. Repeatable.
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// What to serve and by which rules: a novastack.yaml (docs/config.md). Read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The name that callers use, for the model of the same position. One model may have several.
    #[arg(long, num_args = 1.., value_parser = parse_name, value_name = "NAME")]
    pub served_model_name: Vec<String>,
    /// Sampling parameters for requests that leave them out: temperature=0.7,top_p=0.8,top_k=20,
    /// min_p=0,repetition_penalty=1 [default: the checkpoint's, else the catalogue's].
    #[arg(long, value_parser = sampling::parse, value_name = "NAME=VALUE,..")]
    sampling: Vec<SamplingDefaults>,
    /// Tokens of a chat answer at the most where its request does not say, or `none` for the whole
    /// context [default: 4096, for models that think first 32768].
    #[arg(long, value_parser = sampling::parse_bound, value_name = "TOKENS")]
    pub default_max_tokens: Option<Bound>,
    /// Let special tokens that are written out in messages (`<|im_end|>`) act as such: whoever writes a message
    /// can then end his turn and begin another's.
    #[arg(long)]
    pub special_tokens_in_messages: bool,
    /// How models write calls of tools, or `none` [default: as their chat templates show it].
    #[arg(long, value_parser = parse_tool_format, value_name = "FORMAT")]
    pub tool_call_parser: Option<Choice<ToolFormat>>,
    /// How models write reasoning, or `none` [default: as their chat templates show it].
    #[arg(long, value_parser = parse_reasoning_format, value_name = "FORMAT")]
    pub reasoning_parser: Option<Choice<ReasoningFormat>>,
    #[command(flatten, next_help_heading = "Devices and memory")]
    pub load: LoadArgs,
    /// Address or host name to listen on [default: 127.0.0.1]. Any but a loopback address needs --api-key.
    #[arg(long, value_parser = parse_host, help_heading = "Network and keys")]
    pub host: Option<IpAddr>,
    /// Port to listen on [default: 8000]; 0 takes a free one.
    #[arg(long, help_heading = "Network and keys")]
    pub port: Option<u16>,
    /// A key that callers must present (`Authorization: Bearer KEY`), of 16 characters or more. Repeatable;
    /// or several with commas in the environment variable NOVASTACK_API_KEYS.
    #[arg(
        long = "api-key",
        value_delimiter = ',',
        value_parser = parse_key,
        value_name = "KEY",
        help_heading = "Network and keys"
    )]
    pub api_keys: Vec<String>,
    /// A web origin whose pages may call this server from a browser (`https://example.org`), or
    /// `*` for all. Repeatable; none by default.
    #[arg(
        long = "cors-origin",
        value_parser = parse_origin,
        value_name = "ORIGIN",
        help_heading = "Network and keys"
    )]
    pub cors_origins: Vec<String>,
    /// Let all keys share the cache of computed prompts. Whoever has a key can then find out by
    /// `cached_tokens` and by the time of answers how others' prompts begin.
    #[arg(long, help_heading = "Network and keys")]
    pub share_prefix: bool,
    /// Serve over TLS: the certificate in PEM, with those that lead to its authority behind it. Read again
    /// when it changes.
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Network and keys")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Network and keys")]
    pub tls_key: Option<PathBuf>,
    /// A further name of this server, for requests without keys: those must be for an address, localhost or
    /// one of these, so that no web page gets in under its own name. Repeatable.
    #[arg(
        long = "allowed-host",
        value_parser = parse_allowed_host,
        value_name = "NAME",
        help_heading = "Network and keys"
    )]
    pub allowed_hosts: Vec<String>,
    /// Serve without keys on an address that others can reach.
    #[arg(long, help_heading = "Network and keys")]
    pub allow_unauthenticated: bool,
    /// Requests that may wait; one more is answered 429.
    #[arg(
        long,
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        help_heading = "Limits"
    )]
    pub max_queued: u32,
    /// Seconds of silence after which a request is given up: before its answer begins, and between two parts
    /// of it. An answer that goes on is not cut, however long it is, before --total-timeout.
    #[arg(
        long,
        default_value = "600",
        value_parser = parse_some_seconds,
        value_name = "SECONDS",
        help_heading = "Limits"
    )]
    pub request_timeout: Duration,
    /// Seconds after which a request is given up though its answer goes on, or though its caller reads on.
    #[arg(
        long,
        default_value = "21600",
        value_parser = parse_some_seconds,
        value_name = "SECONDS",
        help_heading = "Limits"
    )]
    pub total_timeout: Duration,
    /// Seconds of silence in a stream after which its caller is sent a comment, so that neither it nor a proxy
    /// gives up. A stream whose answer has not begun by then begins with it.
    #[arg(
        long,
        default_value = "10",
        value_parser = parse_some_seconds,
        value_name = "SECONDS",
        help_heading = "Limits"
    )]
    pub keep_alive: Duration,
    /// Seconds after which a caller is given up that takes nothing of what is sent to it.
    #[arg(
        long,
        default_value = "60",
        value_parser = parse_some_seconds,
        value_name = "SECONDS",
        help_heading = "Limits"
    )]
    pub write_timeout: Duration,
    /// Connections at a time. Where one more comes, the one that has been idle for longest is closed; where
    /// all are at work, only health, metrics and the admin API are answered.
    #[arg(
        long,
        default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_connections: u32,
    /// Connections at a time of one address [default: a quarter of all; loopback, and so a reverse proxy
    /// there, all of them].
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        value_name = "N",
        help_heading = "Limits"
    )]
    pub max_connections_per_address: Option<u32>,
    /// Seconds that the chat template and the tokenizer may take for a request.
    #[arg(
        long,
        default_value = "10",
        value_parser = parse_some_seconds,
        value_name = "SECONDS",
        help_heading = "Limits"
    )]
    pub text_timeout: Duration,
    /// Seconds that running requests have to finish after SIGTERM or ^C.
    #[arg(
        long,
        default_value = "30",
        value_parser = parse_seconds,
        value_name = "SECONDS",
        help_heading = "Limits"
    )]
    pub drain_timeout: Duration,
    /// Threads that serve connections [default: all cores, but 8 at the most].
    #[arg(
        long,
        value_parser = clap::value_parser!(u8).range(1..=64),
        value_name = "N",
        help_heading = "Limits"
    )]
    pub http_threads: Option<u8>,
    /// Largest request body: bytes, or with a suffix K, M, G.
    #[arg(
        long,
        default_value = "32M",
        value_parser = parse_bytes,
        value_name = "SIZE",
        help_heading = "Limits"
    )]
    pub max_body: usize,
    /// Memory for the bodies of all requests together, and for what upstreams answer, as they are read and
    /// parsed: bytes, or with a suffix K, M, G [default: an eighth of the machine's memory, within the limits of
    /// control groups]. What finds no room is answered 503.
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE", help_heading = "Limits")]
    pub memory_for_requests: Option<usize>,
}

impl ServeArgs {
    /// The command line's models: those without a flag, then those with.
    pub fn models(&self) -> impl Iterator<Item = &String> {
        self.sources.iter().chain(&self.models)
    }

    /// Memory for the bodies of all requests and for what upstreams answer.
    pub fn request_memory_bytes(&self) -> usize {
        self.memory_for_requests.unwrap_or_else(|| Memory::of_this_process().total / MEMORY_PART)
    }

    /// All `--sampling` together; the last word counts.
    pub fn sampling(&self) -> SamplingDefaults {
        self.sampling.iter().fold(SamplingDefaults::default(), |before, now| now.or(before))
    }

    /// Takes the keys of the environment where the command line has none.
    ///
    /// # Errors
    /// A key there that no caller could send.
    pub fn take_keys(&mut self, variable: Option<String>) -> Result<(), String> {
        let Some(text) = variable.filter(|_| self.api_keys.is_empty()) else { return Ok(()) };
        if text.trim().is_empty() {
            return Err(format!(
                "{KEYS_VARIABLE} is set, but has no key: without keys, do not set it at all"
            ));
        }
        let keys = text.split(',').map(|key| parse_key(key.trim()));
        self.api_keys =
            keys.collect::<Result<_, _>>().map_err(|reason| format!("{KEYS_VARIABLE}: {reason}"))?;
        Ok(())
    }
}

/// An address, or a name that the system resolves to one; of several the first IPv4 address, which
/// more clients can reach.
fn parse_host(text: &str) -> Result<IpAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let found: Vec<IpAddr> = (text, 0)
        .to_socket_addrs()
        .map(|addresses| addresses.map(|address| address.ip()).collect())
        .unwrap_or_default();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| {
        "no host of this name is known; an address such as 127.0.0.1 or 0.0.0.0, or a host name, is expected"
            .into()
    })
}

/// Secrets are not repeated.
fn parse_key(text: &str) -> Result<String, String> {
    check_key(text).map(|()| text.to_owned())
}

fn parse_name(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    match (1..=NAME_CHARS_MAX).contains(&length)
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        true => Ok(text.to_owned()),
        false => Err(format!("a name has 1 to {NAME_CHARS_MAX} characters and no spaces")),
    }
}

fn parse_some_seconds(text: &str) -> Result<Duration, String> {
    match parse_seconds(text) {
        Ok(seconds) if !seconds.is_zero() => Ok(seconds),
        _ => Err("a number of seconds above 0 and up to 86400 is expected".into()),
    }
}

/// What a client sends as `Host`, without its port.
fn parse_allowed_host(text: &str) -> Result<String, String> {
    match url::Host::parse(text) {
        Ok(url::Host::Domain(name)) if !name.contains('*') => Ok(name.trim_end_matches('.').to_owned()),
        _ => Err("a host name is expected, such as gpu1 or chat.example.org, without a port".into()),
    }
}

/// What a browser sends as `Origin`: scheme, host and perhaps a port, and nothing after them.
fn parse_origin(text: &str) -> Result<String, String> {
    let wrong = || {
        "an origin as browsers send it is expected, https://example.org or http://localhost:3000, without a path, \
         or `*`"
            .to_owned()
    };
    if text == "*" {
        return Ok(text.to_owned());
    }
    let (scheme, host) = text.split_once("://").ok_or_else(wrong)?;
    let url = url::Url::parse(text).map_err(|_| wrong())?;
    let is_plain = !host.contains(['/', '?', '#', '@', ' ', '*']) && url.has_host() && !scheme.is_empty();
    // Browsers write origins in lower case, and leave a scheme's own port out.
    let usual = match url.port() {
        Some(port) => format!("{scheme}://{}:{port}", url.host_str().unwrap_or_default()),
        None => format!("{scheme}://{}", url.host_str().unwrap_or_default()),
    };
    match is_plain {
        true if text == usual => Ok(usual),
        true => Err(format!("browsers send it as {usual}")),
        false => Err(wrong()),
    }
}

/// One of several, or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<T>(pub Option<T>);

fn parse_tool_format(text: &str) -> Result<Choice<ToolFormat>, String> {
    choose(text, ToolFormat::from_name(text), ToolFormat::ALL.map(ToolFormat::name).as_slice())
}

fn parse_reasoning_format(text: &str) -> Result<Choice<ReasoningFormat>, String> {
    choose(text, ReasoningFormat::from_name(text), ReasoningFormat::ALL.map(ReasoningFormat::name).as_slice())
}

fn choose<T>(text: &str, found: Option<T>, names: &[&str]) -> Result<Choice<T>, String> {
    match found {
        None if text == "none" => Ok(Choice(None)),
        None => Err(format!("must be none or one of {}, got `{text}`", names.join(", "))),
        found => Ok(Choice(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        for good in
            ["*", "https://example.org", "http://localhost:3000", "http://127.0.0.1:8080", "http://[::1]:80"]
        {
            // The last has its scheme's own port.
            assert_eq!(parse_origin(good).is_ok(), !good.ends_with(":80"), "{good}");
        }
        assert!(
            parse_origin("chrome-extension://abcdef").is_ok() && parse_origin("tauri://localhost").is_ok()
        );
        for bad in [
            "",
            "example.org",
            "localhost:3000",
            "https://",
            "https://a.org/",
            "https://a.org/x",
            "null",
            "**",
        ] {
            let error = parse_origin(bad).expect_err(bad);
            assert!(error.contains("https://example.org"), "{bad}: {error}");
        }
        assert!(parse_origin("https://Example.org").unwrap_err().contains("https://example.org"));
        for bad in ["0", "-1", "0.0", "nan", "1e9", ""] {
            assert!(parse_some_seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_some_seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_allowed_host("GPU1.example.org"), Ok("gpu1.example.org".into()));
        for bad in ["", "a b", "gpu1:8000", "http://gpu1", "*", "*.example.org", "127.0.0.1", "gpu1/"] {
            assert!(parse_allowed_host(bad).is_err(), "{bad}");
        }
        assert!(
            parse_name("").is_err() && parse_name("a b").is_err() && parse_name(&"x".repeat(129)).is_err()
        );
    }

    #[test]
    fn hosts_are_addresses_or_names() {
        assert_eq!(parse_host("localhost"), Ok(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(parse_host("0.0.0.0"), Ok(Ipv4Addr::UNSPECIFIED.into()));
        assert!(parse_host("::1").expect("IPv6").is_ipv6());
        assert!(parse_host("no.such.host.invalid").unwrap_err().contains("127.0.0.1"));
    }
}
