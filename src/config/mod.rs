//! `novastack.yaml`: what a server serves, to whom, and by which rules. [`Config::load`] reads and
//! validates a file; what comes out holds together: every name leads somewhere, every expression
//! compiles. It needs neither keys nor weights nor network; what is missing of those are
//! [`Config::warnings`]. The language is described in docs/config.md.
//!
//! A file is read into a tree that knows its lines ([`tree`]), and from there by hand into the types
//! below, so that every mistake is found in one run and told with its line.
//!
//! Deliberately absent: everything that acts. The gateway routes, limits and connects.

mod body;
pub mod compat;
mod expression;
mod load;
mod models;
mod names;
mod providers;
mod read;
mod routes;
pub mod rule;
mod sections;
mod telemetry;
mod tree;

pub use body::BodyRules;
pub use compat::{Compat, MaxTokens, PastReasoning, ReasoningSwitch};
pub use load::ConfigErrors;
pub use read::Surroundings;
pub use rule::{Choice, Expression, Facts, Rule};

use crate::protocol::SamplingDefaults;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Characters that a caller's key, or the admin's, has at least: what is shorter can be guessed, and an
/// empty one is no key.
pub const KEY_CHARS_MIN: usize = 16;

/// A validated configuration. Maps keep the file's order where it counts (models, routes).
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where to listen and where state is kept.
    pub server: Server,
    /// Upstreams by name.
    pub providers: BTreeMap<String, Provider>,
    /// What callers may name, in the file's order.
    pub models: Vec<Model>,
    /// Other names for models, named routes or `auto`. Chains are resolved: values are no aliases. One with a `*`
    /// stands for all names that fit it and are none themselves ([`Config::pattern_for`]).
    pub aliases: BTreeMap<String, String>,
    /// What names stand for that are none; a model, a named route or `auto`.
    pub default_model: Option<String>,
    /// For model `auto`: the first rule that matches chooses. A rule without a condition is last.
    pub routes: Vec<Rule>,
    /// Choices that callers may name as the model. They may choose each other, never in a circle.
    pub named_routes: BTreeMap<String, Choice>,
    /// Models tried in order when a model's own attempts are used up.
    pub fallbacks: BTreeMap<String, Vec<String>>,
    /// For every key that has none of its own.
    pub limits: Limits,
    /// Keys fixed by their hash, by name.
    pub keys: BTreeMap<String, Key>,
    /// What is valid but will not work as it stands: a key's environment variable that is not
    /// set... Each as `FILE:LINE: message`.
    pub warnings: Vec<String>,
}

impl Config {
    /// Whether something has this name already.
    pub fn is_name(&self, name: &str) -> bool {
        self.models.iter().any(|model| model.name == name)
            || self.aliases.contains_key(name)
            || self.named_routes.contains_key(name)
    }

    /// What a name stands for that is none itself: by the alias with a `*` that says most of it, else the default
    /// model.
    pub fn pattern_for(&self, name: &str) -> Option<&str> {
        let fits = |pattern: &str| {
            let (begin, end) = pattern.split_once('*')?;
            let rest = name.strip_prefix(begin)?;
            (rest.len() >= end.len() && rest.ends_with(end)).then_some(begin.len() + end.len())
        };
        let fitting =
            self.aliases.iter().filter_map(|(pattern, stands_for)| Some((fits(pattern)?, stands_for)));
        let said = fitting.max_by_key(|(said, _)| *said).map(|(_, stands_for)| stands_for);
        said.or(self.default_model.as_ref()).map(String::as_str)
    }

    /// The headers that some rule asks for, in lower case, each once.
    pub fn header_names(&self) -> Vec<&str> {
        let conditions = self.routes.iter().filter_map(|rule| rule.condition.as_ref());
        let mut names: Vec<&str> = conditions.flat_map(Expression::headers).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The first rule that a request meets; None when there is no default either. `count` says how many
    /// tokens the prompt has for what a rule chooses.
    pub fn first_rule(&self, facts: &mut Facts, count: impl Fn(&Rule) -> u64) -> Option<&Rule> {
        self.routes.iter().find(|rule| {
            facts.context_length = count(rule);
            rule.condition.as_ref().is_none_or(|condition| condition.matches(facts))
        })
    }
}

/// How a provider goes on with an answer that broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continues {
    /// The last message is the assistant's (Anthropic, OpenRouter).
    Prefill,
    /// The same, with a field of this name set in that message (DeepSeek, Moonshot).
    Marked(&'static str),
    /// The same, with `continue_final_message` (vLLM, SGLang).
    FinalMessage,
    /// By token ids, so that the rest is what it would have been (NovaStack).
    Tokens,
}

/// The mapping `server`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// Default: 127.0.0.1.
    pub host: Option<IpAddr>,
    /// Default: 8000.
    pub port: Option<u16>,
    /// Environment variable that holds the admin key; without it the admin API is off.
    pub admin_key_env: Option<String>,
    /// Where keys and usage are kept.
    pub store: Option<Store>,
    /// Where limits are counted.
    pub shared_limits: SharedLimits,
    /// Traces.
    pub telemetry: Telemetry,
    /// Where a line about each request goes; None: to the program's own log.
    pub access_log: Option<AccessLog>,
    /// By which connections are encrypted; None: they are not.
    pub tls: Option<TlsFiles>,
    /// All keys share the cache of computed prompts.
    pub share_prefix: bool,
}

/// `tls`: a certificate and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// `telemetry`: traces over OTLP. What is None is left to the environment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telemetry {
    /// An OTLP/HTTP receiver, without a trailing slash: spans go to `{otlp_endpoint}/v1/traces`.
    pub otlp_endpoint: Option<String>,
    /// Sent with every export.
    pub headers: BTreeMap<String, String>,
    /// Environment variable that holds more of them: `name=value,name=value`.
    pub headers_env: Option<String>,
    /// The share, 0 to 1, that is kept of the traces that begin here.
    pub sample: Option<f64>,
    /// How traces name this program.
    pub service_name: Option<String>,
}

/// `access_log`: `stdout`, `stderr` or a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AccessLog {
    Stdout,
    Stderr,
    /// Relative to the configuration's folder.
    File(std::path::PathBuf),
}

/// `store`: a URL.
#[derive(Clone, PartialEq, Eq)]
pub enum Store {
    /// `sqlite:PATH`, relative to the configuration's folder.
    Sqlite(std::path::PathBuf),
    /// `postgres://...`
    Postgres(String),
}

/// Without the URL: it may hold a password.
impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(..)"),
        }
    }
}

/// `shared_limits`: `memory` or a URL.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum SharedLimits {
    /// Of this process alone.
    #[default]
    Memory,
    /// `redis://...`: shared by several gateways.
    Redis(String),
}

/// Without the URL: it may hold a password.
impl std::fmt::Debug for SharedLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory => "Memory",
            Self::Redis(_) => "Redis(..)",
        })
    }
}

/// The wire format of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenAI's chat completions: `{base_url}/chat/completions`.
    OpenAi,
    /// Anthropic's messages: `{base_url}/v1/messages`.
    Anthropic,
    /// OpenAI's Responses: `{base_url}/responses`.
    Responses,
}

/// An upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    /// Its wire format.
    pub format: Format,
    /// Without a trailing slash.
    pub base_url: String,
    /// Where its key is.
    pub api_key: KeySource,
    /// Sent with every request.
    pub headers: BTreeMap<String, String>,
    /// From the request to the head of the answer, and between two pieces of it.
    pub timeout: Duration,
    /// Until the connection stands.
    pub connect_timeout: Duration,
    /// Requests at a time.
    pub concurrency_max: usize,
    /// How it goes on with an answer that broke off; None: it does not.
    pub continues: Option<Continues>,
    /// How its format differs from OpenAI's plain one.
    pub compat: Compat,
}

/// What becomes of `<think>` in the text of an upstream's model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThinkTags {
    /// An answer that begins with it has reasoning there.
    #[default]
    Auto,
    /// An answer begins within it, as the model's template has opened it.
    Open,
    /// It is text.
    Keep,
}

/// Where an upstream's key is. Read when the server starts, never logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The upstream wants none.
    None,
    /// An environment variable.
    Env(String),
    /// The first line of a file.
    File(std::path::PathBuf),
}

/// What callers may name.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Who answers.
    pub target: Target,
    /// Tokens of prompt and answer together, as far as the file says; a local model's checkpoint knows better.
    pub context: Option<usize>,
    /// What it costs.
    pub price: Option<Price>,
    /// Of a local model without a price: what its devices cost, in dollars an hour. Its price follows
    /// from the time that its tokens take.
    pub dollars_per_hour: Option<f64>,
    /// How long its answer may take to begin before the next target is asked beside it.
    pub hedge_after: Option<Duration>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Tokens of an answer that it gives at the most: a caller's bound is no higher. Of an upstream's model.
    pub max_output_tokens: Option<u64>,
    /// A prompt in OpenAI's format marks for Anthropic's API what it is to cache, where its caller marks nothing.
    pub cache_control: bool,
    /// What clients write into prompts for nobody to read is left out. None: for all but providers with Anthropic's
    /// format.
    pub drop_noise: Option<bool>,
    /// For all callers together.
    pub limits: Limits,
}

impl Model {
    /// One that this process serves, with nothing said but its source.
    pub fn local(name: String, source: String) -> Self {
        let local = LocalModel { source, replicas: 1, ..LocalModel::default() };
        Self {
            name,
            target: Target::Local(local),
            context: None,
            price: None,
            dollars_per_hour: None,
            hedge_after: None,
            capabilities: Capabilities::default(),
            max_output_tokens: None,
            cache_control: true,
            drop_noise: None,
            limits: Limits::default(),
        }
    }
}

/// Who answers for a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// This process.
    Local(LocalModel),
    /// A provider.
    Upstream {
        /// A name in [`Config::providers`].
        provider: String,
        /// What the provider calls the model.
        upstream_name: String,
        /// What becomes of fields of the body that it is sent.
        body: BodyRules,
        /// What becomes of reasoning in its text, where its format is OpenAI's.
        think_tags: ThinkTags,
    },
}

/// A model that this process serves. Options left out are those of `novastack serve`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct LocalModel {
    /// As for `novastack serve --model`: a hub id, a folder, a GGUF file, a name of the catalogue.
    pub source: String,
    pub device: Option<String>,
    pub max_context: Option<usize>,
    pub max_running: Option<u32>,
    /// As in config.json; replaces the checkpoint's own.
    pub rope_scaling: Option<serde_json::Value>,
    /// Engines that serve it.
    pub replicas: usize,
    /// Over the checkpoint's own.
    pub sampling: SamplingDefaults,
    /// Output tokens of a chat answer whose request says nothing.
    pub default_max_tokens: Option<u32>,
}

/// What tokens cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// Of a prompt that no tier is for.
    pub rates: Rates,
    /// Prices from so many prompt tokens on, ascending; they hold for the whole request.
    pub tiers: Vec<PriceTier>,
}

/// Dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Prompt tokens.
    pub input: f64,
    /// Generated tokens.
    pub output: f64,
    /// Prompt tokens that the upstream had cached; default: as `input`.
    pub cached_input: Option<f64>,
    /// Prompt tokens that the upstream wrote to its cache, for five minutes; default: as `input`.
    pub cache_write: Option<f64>,
    /// The same for an hour; default: as `cache_write`.
    pub cache_write_1h: Option<f64>,
}

/// Prices of long requests.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct PriceTier {
    /// Prompts of more tokens than this.
    pub above_input_tokens: usize,
    pub rates: Rates,
}

/// What a model takes. A file that does not say leaves everything possible but images for a local
/// model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Capabilities {
    pub tools: bool,
    pub images: bool,
    pub reasoning: bool,
}

/// Bounds; None: none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Limits {
    pub requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    /// Requests at a time.
    pub concurrency: Option<u64>,
    pub dollars_per_day: Option<f64>,
    pub dollars_per_month: Option<f64>,
}

/// A key that is fixed in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// Names that it may ask for; None: all.
    pub models: Option<Vec<String>>,
    /// Its own, over the file's.
    pub limits: Option<Limits>,
    /// Prepaid dollars; None: no bound.
    pub credit: Option<f64>,
    /// A group of keys that share the cache of computed prompts; None: nobody shares this key's.
    pub share_prefix: Option<String>,
}
