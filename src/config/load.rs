//! From a file to a [`Config`], or to everything that is wrong with it.

use super::names::{Names, Wanted};
use super::read::{Fields, Finding, Reader, Surroundings, in_backticks};
use super::routes::Routes;
use super::{
    Choice, Config, Format, KeySource, Model, Provider, Server, Target, models, providers, sections, tree,
};
use crate::files;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use url::Url;

const KEYS: [&str; 12] = [
    "server",
    "providers",
    "models",
    "aliases",
    "routes",
    "route",
    "fallbacks",
    "prices",
    "limits",
    "keys",
    "named_routes",
    "default_model",
];

/// Errors that are told of one file, and warnings.
const TOLD_MAX: usize = 20;

/// `novastack serve --port`'s own default.
const PORT_DEFAULT: u16 = 8000;

/// What is wrong with a file, in the order of its lines: at most 20 lines `FILE:LINE: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    lines: Vec<String>,
    /// How many more there are.
    more: usize,
}

impl ConfigErrors {
    /// The errors that are told, each as `FILE:LINE: message`.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))?;
        if self.more > 0 {
            write!(f, "\n... and {} more errors", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        let unreadable =
            |problem: String| ConfigErrors { lines: vec![format!("{name}: {problem}")], more: 0 };
        let text = files::read_text(path, tree::FILE_BYTES_MAX as u64)
            .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        Self::parse(&text, &name, path.parent().unwrap_or(Path::new("")))
    }

    /// Checks a file's text. Errors call it `file_name`; paths in it are relative to `folder`.
    pub fn parse(text: &str, file_name: &str, folder: &Path) -> Result<Self, ConfigErrors> {
        Self::parse_in(text, file_name, folder, &Surroundings::of_this_process())
    }

    /// Like [`Config::parse`], with the environment and the files that warnings are about.
    pub fn parse_in(
        text: &str,
        file_name: &str,
        folder: &Path,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader { errors: Vec::new(), warnings: Vec::new(), folder, surroundings };
        let config = tree::parse(text, &mut reader).and_then(|root| read(&root, &mut reader));
        match config {
            Some(mut config) if reader.errors.is_empty() => {
                let (lines, more) = told(reader.warnings, file_name);
                config.warnings = lines;
                if more > 0 {
                    config.warnings.push(format!("{file_name}: {more} more warnings"));
                }
                Ok(config)
            }
            _ => {
                let (lines, more) = told(reader.errors, file_name);
                Err(ConfigErrors { lines, more })
            }
        }
    }
}

/// In the order of lines, each once, and how many are left out.
fn told(mut findings: Vec<Finding>, file_name: &str) -> (Vec<String>, usize) {
    findings.sort();
    findings.dedup();
    let more = findings.len().saturating_sub(TOLD_MAX);
    let lines = findings.into_iter().take(TOLD_MAX).map(|(line, message)| match line {
        0 => format!("{file_name}: {message}"),
        line => format!("{file_name}:{line}: {message}"),
    });
    (lines.collect(), more)
}

fn read(root: &tree::Node, reader: &mut Reader) -> Option<Config> {
    if root.is_null() {
        reader.error(0, "is empty: it needs `models` at least");
        return None;
    }
    let root = reader.fields(root, "the file", &KEYS)?;
    let names = Names::collect(&root, reader);
    let server = sections::server(reader, &root);
    let provider_lines: BTreeMap<&str, usize> = reader
        .named(root.get("providers"), "`providers`")
        .iter()
        .map(|(key, _)| (key.text.as_str(), key.line))
        .collect();
    let providers = providers::providers(reader, &root);
    let mut models = models::models(reader, &names, &root, &provider_lines);
    price_of_caching(&mut models, &providers);
    if reader.named(root.get("models"), "`models`").is_empty() {
        reader.error(0, "has no `models`: there is nothing that a caller could ask for");
    }
    let mut routes = Routes { reader: &mut *reader, names: &names };
    let rules = routes.rules(&root);
    let named_routes = routes.named_routes(&root);
    let fallbacks = routes.fallbacks(&root);
    let limits = root.get("limits").and_then(|node| sections::limits(reader, node, "`limits`"));
    let keys = sections::keys(reader, &names, &root);
    let default_model = root.get("default_model").and_then(|node| {
        let name = reader.text(node, "`default_model`")?;
        names.check(reader, node.line, name, "`default_model`", Wanted::Any)
    });
    let config = Config {
        server,
        providers,
        models,
        aliases: names.aliases(),
        default_model,
        routes: rules,
        named_routes,
        fallbacks,
        limits: limits.unwrap_or_default(),
        keys,
        warnings: Vec::new(),
    };
    warn_of_providers(reader, &config, &provider_lines);
    warn_of_auto(reader, &config, &root);
    warn_of_hedges(reader, &config, &root);
    Some(config)
}

/// What writing to its cache costs with Anthropic, where the file does not say: 1.25 times the price of a prompt's
/// tokens, for an hour twice (<https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching>).
fn price_of_caching(models: &mut [Model], providers: &BTreeMap<String, Provider>) {
    for model in models {
        let Target::Upstream { provider, .. } = &model.target else { continue };
        let is_anthropics = providers.get(provider).is_some_and(|it| it.format == Format::Anthropic);
        for price in model.price.iter_mut().filter(|_| is_anthropics) {
            for rates in price.tiers.iter_mut().map(|tier| &mut tier.rates).chain([&mut price.rates]) {
                rates.cache_write.get_or_insert(rates.input * 1.25);
                rates.cache_write_1h.get_or_insert(rates.input * 2.0);
            }
        }
    }
}

/// Providers that nobody uses, or that cannot be used as things are.
fn warn_of_providers(reader: &mut Reader, config: &Config, lines: &BTreeMap<&str, usize>) {
    for (name, provider) in &config.providers {
        let line = lines.get(name.as_str()).copied().unwrap_or(0);
        let what = format!("provider {}", in_backticks(name));
        let uses =
            |model: &Model| matches!(&model.target, Target::Upstream { provider, .. } if provider == name);
        if !config.models.iter().any(uses) {
            reader.warn(line, format!("{what}: no model uses it"));
            continue;
        }
        match &provider.api_key {
            KeySource::Env(variable) if !reader.variable_is_set(variable) => {
                reader.warn(
                    line,
                    format!("{what}: the environment variable {variable} with its key is not set"),
                );
            }
            KeySource::File(path) if !(reader.surroundings.exists)(path) => {
                let path = in_backticks(&path.to_string_lossy());
                reader.warn(line, format!("{what}: the file {path} with its key does not exist"));
            }
            _ => {}
        }
        if is_this_server(&provider.base_url, &config.server) {
            reader.warn(line, format!("{what}: {} is where this server itself listens", provider.base_url));
        }
    }
}

fn is_this_server(base_url: &str, server: &Server) -> bool {
    let port = Url::parse(base_url).ok().and_then(|url| url.port_or_known_default());
    port == Some(server.port.unwrap_or(PORT_DEFAULT)) && providers::is_loopback(base_url)
}

/// Without rules, `auto` cannot be answered.
fn warn_of_auto(reader: &mut Reader, config: &Config, root: &Fields) {
    if !config.routes.is_empty() {
        return;
    }
    for (key, _) in reader.named(root.get("aliases"), "`aliases`") {
        if config.aliases.get(&key.text).is_some_and(|end| end == "auto") {
            let name = in_backticks(&key.text);
            reader.warn(key.line, format!("alias {name} stands for `auto`, and there are no `routes`"));
        }
    }
    for (key, _) in reader.named(root.get("keys"), "`keys`") {
        if config
            .keys
            .get(&key.text)
            .is_some_and(|key| key.models.iter().flatten().any(|name| name == "auto"))
        {
            let name = in_backticks(&key.text);
            reader.warn(key.line, format!("key {name} may ask for `auto`, and there are no `routes`"));
        }
    }
}

/// Nobody is asked beside a model that nothing comes after. Only plain cases are told of: where routes leave
/// a choice, it may come before another.
fn warn_of_hedges(reader: &mut Reader, config: &Config, root: &Fields) {
    let mut choices = config.routes.iter().map(|rule| &rule.choice).chain(config.named_routes.values());
    let chosen = choices.any(|choice| matches!(choice, Choice::Chain(_) | Choice::Cheapest(_)));
    if chosen || config.routes.iter().any(|rule| !rule.fallback.is_empty()) {
        return;
    }
    for (key, _) in reader.named(root.get("models"), "`models`") {
        let model = config.models.iter().find(|model| model.name == key.text);
        if model.is_some_and(|model| model.hedge_after.is_some()) && !config.fallbacks.contains_key(&key.text)
        {
            let name = in_backticks(&key.text);
            reader.warn(
                key.line,
                format!("model {name} has `hedge_after_s`, and no fallback to be asked beside it"),
            );
        }
    }
}
