//! `providers`: where upstream requests go.

use super::compat::{self, Compat};
use super::read::{Fields, Reader, in_backticks, listed};
use super::tree::{Key, Node};
use super::{Continues, Format, KeySource, Provider};
use std::collections::BTreeMap;
use std::time::Duration;
use url::{Host, Url};

const KEYS: [&str; 11] = [
    "preset",
    "format",
    "base_url",
    "api_key_env",
    "api_key_file",
    "headers",
    "timeout_s",
    "connect_timeout_s",
    "max_concurrency",
    "continues_partial",
    "compat",
];

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const CONCURRENCY_DEFAULT: usize = 256;

/// Of a header's value in bytes.
const HEADER_BYTES_MAX: usize = 4096;

/// What is known of a vendor or a server.
struct Preset {
    name: &'static str,
    format: Format,
    base_url: &'static str,
    key_env: Option<&'static str>,
    compat: fn() -> Compat,
}

const fn hosted(
    name: &'static str,
    base_url: &'static str,
    key_env: &'static str,
    compat: fn() -> Compat,
) -> Preset {
    Preset { name, format: Format::OpenAi, base_url, key_env: Some(key_env), compat }
}

const fn own(name: &'static str, base_url: &'static str, compat: fn() -> Compat) -> Preset {
    Preset { name, format: Format::OpenAi, base_url, key_env: None, compat }
}

const DASHSCOPE_URL: &str = "https://dashscope-intl.aliyuncs.com/compatible-mode/v1";

/// The vendors' international addresses; DashScope, Moonshot and MiniMax have others for China.
const PRESETS: [Preset; 12] = [
    hosted("deepseek", "https://api.deepseek.com", "DEEPSEEK_API_KEY", compat::deepseek),
    hosted("qwen", DASHSCOPE_URL, "DASHSCOPE_API_KEY", compat::dashscope),
    hosted("dashscope", DASHSCOPE_URL, "DASHSCOPE_API_KEY", compat::dashscope),
    hosted("moonshot", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", compat::moonshot),
    hosted("minimax", "https://api.minimax.io/v1", "MINIMAX_API_KEY", compat::minimax),
    Preset {
        format: Format::Anthropic,
        ..hosted("anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY", compat::plain)
    },
    hosted("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", compat::openai),
    hosted("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", compat::openrouter),
    own("vllm", "http://127.0.0.1:8000/v1", compat::vllm),
    own("sglang", "http://127.0.0.1:30000/v1", compat::open_server),
    own("llama-server", "http://127.0.0.1:8080/v1", compat::open_server),
    own("novastack", "http://127.0.0.1:8000/v1", compat::novastack),
];

/// Headers that carry keys, and headers that the gateway sets by itself.
const KEY_HEADERS: [&str; 6] =
    ["authorization", "proxy-authorization", "x-api-key", "api-key", "cookie", "x-goog-api-key"];
const OWN_HEADERS: [&str; 6] =
    ["host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"];

/// Where a provider's key may be.
const KEY_PLACES: &str = "`api_key_env` or `api_key_file`";

pub fn providers(reader: &mut Reader, root: &Fields) -> BTreeMap<String, Provider> {
    let mut providers = BTreeMap::new();
    for (key, node) in reader.named(root.get("providers"), "`providers`") {
        let what = format!("provider {}", in_backticks(&key.text));
        reader.name(key, "`providers`");
        if let Some(fields) = reader.fields(node, &what, &KEYS) {
            providers.extend(provider(reader, &fields, &what).map(|provider| (key.text.clone(), provider)));
        }
    }
    providers
}

fn provider(reader: &mut Reader, fields: &Fields, what: &str) -> Option<Provider> {
    let preset = match fields.get("preset") {
        Some(node) => Some(preset(reader, node, what)?),
        None => None,
    };
    let format = match (fields.get("format"), preset) {
        (Some(node), _) => format(reader, node, what),
        (None, Some(preset)) => Some(preset.format),
        (None, None) => {
            let presets: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
            reader.error(
                fields.line,
                format!("{what} needs a `format` (openai or anthropic) or a `preset`: {}", listed(&presets)),
            );
            None
        }
    };
    let base_url = match (fields.get("base_url"), preset) {
        (Some(node), _) => base_url(reader, node, &format!("`base_url` of {what}"), KEY_PLACES),
        (None, Some(preset)) => Some(preset.base_url.to_owned()),
        (None, None) => {
            reader
                .error(fields.line, format!("{what} needs a `base_url`, such as https://api.example.org/v1"));
            None
        }
    };
    let api_key = api_key(reader, fields, preset, what);
    let headers = headers(reader, fields, what, KEY_PLACES);
    let mut seconds = |name: &str, default: Duration, range| match fields.get(name) {
        Some(node) => reader
            .number(node, &format!("`{name}` of {what}"), range)
            .map_or(default, Duration::from_secs_f64),
        None => default,
    };
    let timeout = seconds("timeout_s", TIMEOUT_DEFAULT, 0.001..=86_400.0);
    let connect_timeout = seconds("connect_timeout_s", CONNECT_TIMEOUT_DEFAULT, 0.001..=600.0);
    let concurrency_max = fields
        .get("max_concurrency")
        .and_then(|node| reader.whole(node, &format!("`max_concurrency` of {what}"), 1..=100_000))
        .map_or(CONCURRENCY_DEFAULT, |number| number as usize);
    let declared = fields
        .get("continues_partial")
        .and_then(|node| reader.truth(node, &format!("`continues_partial` of {what}")));
    let plain = preset.map_or_else(Compat::default, |preset| (preset.compat)());
    let compat = match fields.get("compat") {
        Some(node) => compat::compat(reader, node, what, plain),
        None => plain,
    };
    let (format, base_url) = (format?, base_url?);
    if let Some(node) = fields.get("compat").filter(|_| format == Format::Anthropic) {
        reader.warn(node.line, format!("{what}: `compat` is about OpenAI's format and has no effect here"));
    }
    let line = fields.get("base_url").map_or(fields.line, |node| node.line);
    if format == Format::Anthropic && base_url.ends_with("/v1") {
        reader.warn(
            line,
            format!("{what}: `/v1/messages` is appended to `base_url`, which ends in /v1 already"),
        );
    }
    if api_key != KeySource::None && base_url.starts_with("http://") && !is_loopback(&base_url) {
        reader.warn(line, format!("{what}: its key travels unencrypted, as `base_url` begins with http://"));
    }
    Some(Provider {
        format,
        base_url,
        api_key,
        headers,
        timeout,
        connect_timeout,
        concurrency_max,
        continues: continues(declared, preset, format),
        compat,
    })
}

/// Another NovaStack goes on unless it is denied; others where it is declared.
fn continues(declared: Option<bool>, preset: Option<&Preset>, format: Format) -> Option<Continues> {
    let openai = |name: &str| format == Format::OpenAi && preset.is_some_and(|preset| preset.name == name);
    match declared {
        Some(false) => None,
        // A response is gone on from whole, not from a part of it.
        _ if format == Format::Responses => None,
        _ if openai("novastack") => Some(Continues::Tokens),
        None => None,
        // https://api-docs.deepseek.com/guides/chat_prefix_completion
        Some(true) if openai("deepseek") => Some(Continues::Marked("prefix")),
        // https://platform.moonshot.ai/docs/guide/use-partial-mode-feature-of-kimi-api
        Some(true) if openai("moonshot") => Some(Continues::Marked("partial")),
        Some(true) if openai("vllm") || openai("sglang") => Some(Continues::FinalMessage),
        Some(true) => Some(Continues::Prefill),
    }
}

fn preset(reader: &mut Reader, node: &Node, what: &str) -> Option<&'static Preset> {
    let name = reader.text(node, &format!("`preset` of {what}"))?;
    let found = PRESETS.iter().find(|preset| preset.name == name);
    if found.is_none() {
        let there_are = reader.there_are(name, &PRESETS.map(|preset| preset.name));
        reader.error(node.line, format!("{what}: unknown preset {}{there_are}", in_backticks(name)));
    }
    found
}

fn format(reader: &mut Reader, node: &Node, what: &str) -> Option<Format> {
    match reader.text(node, &format!("`format` of {what}"))? {
        "openai" => Some(Format::OpenAi),
        "anthropic" => Some(Format::Anthropic),
        "responses" => Some(Format::Responses),
        other => {
            let there_are = reader.there_are(other, &["openai", "anthropic", "responses"]);
            reader.error(node.line, format!("{what}: unknown format {}{there_are}", in_backticks(other)));
            None
        }
    }
}

/// A URL to which paths are appended, without a trailing slash. Keys belong into `key_places`.
pub fn base_url(reader: &mut Reader, node: &Node, what: &str, key_places: &str) -> Option<String> {
    let text = reader.text(node, what)?;
    // A text that may hold a password is not repeated.
    let problem = match Url::parse(text) {
        Err(error) => format!("is no URL ({error}): http://host/path or https://host/path is expected"),
        Ok(url) if !["http", "https"].contains(&url.scheme()) || !url.has_host() => {
            "must begin with http:// or https:// and a host".into()
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            format!("must not hold a user or a password: keys are given by {key_places}")
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            "must end with its path: a `?query` or `#fragment` would stand before what is appended".into()
        }
        Ok(url) => return Some(url.as_str().trim_end_matches('/').to_owned()),
    };
    reader.error(node.line, format!("{what} {problem}"));
    None
}

/// Whether a URL's host is this machine.
pub fn is_loopback(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

fn api_key(reader: &mut Reader, fields: &Fields, preset: Option<&Preset>, what: &str) -> KeySource {
    match (fields.entry("api_key_env"), fields.entry("api_key_file")) {
        (Some(_), Some((key, _))) => {
            reader.error(key.line, format!("{what}: give `api_key_env` or `api_key_file`, not both"));
            KeySource::None
        }
        // Nothing, so that a preset's key can be done without.
        (Some((_, node)), None) | (None, Some((_, node))) if node.is_null() => KeySource::None,
        (Some((_, node)), None) => reader
            .variable(node, &format!("`api_key_env` of {what}"))
            .map_or(KeySource::None, |name| KeySource::Env(name.to_owned())),
        (None, Some((_, node))) => reader
            .text(node, &format!("`api_key_file` of {what}"))
            .map_or(KeySource::None, |path| KeySource::File(reader.folder.join(path))),
        (None, None) => preset
            .and_then(|preset| preset.key_env)
            .map_or(KeySource::None, |name| KeySource::Env(name.to_owned())),
    }
}

/// `headers`, for whatever is not secret: keys belong into `key_places`.
pub fn headers(
    reader: &mut Reader,
    fields: &Fields,
    what: &str,
    key_places: &str,
) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for (key, node) in reader.named(fields.get("headers"), &format!("`headers` of {what}")) {
        if let Some((name, value)) = header(reader, key, node, what, key_places)
            && headers.insert(name, value).is_some()
        {
            let name = in_backticks(&key.text);
            reader.error(key.line, format!("{what}: header {name} is given twice; case does not matter"));
        }
    }
    headers
}

fn header(
    reader: &mut Reader,
    key: &Key,
    node: &Node,
    what: &str,
    key_places: &str,
) -> Option<(String, String)> {
    let name = key.text.to_ascii_lowercase();
    let quoted = in_backticks(&key.text);
    let valid = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_|~".contains(c);
    if name.is_empty() || !name.chars().all(valid) {
        reader.error(key.line, format!("{what}: {quoted} is no header name (letters, digits, -)"));
        return None;
    }
    let secret = || {
        format!("{what}: header {quoted} carries a key, and keys do not stand in this file: use {key_places}")
    };
    if KEY_HEADERS.contains(&name.as_str()) {
        reader.error(key.line, secret());
        return None;
    }
    if OWN_HEADERS.contains(&name.as_str()) {
        reader.error(key.line, format!("{what}: header {quoted} is set by the gateway and cannot be given"));
        return None;
    }
    let value = reader.text(node, &format!("header {quoted} of {what}"))?;
    if ["Bearer ", "Basic ", "sk-"].iter().any(|start| value.starts_with(start)) {
        reader.error(node.line, secret());
        return None;
    }
    if value.len() > HEADER_BYTES_MAX || !value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        reader.error(
            node.line,
            format!("{what}: header {quoted} must be printable ASCII of at most {HEADER_BYTES_MAX} bytes"),
        );
        return None;
    }
    Some((name, value.to_owned()))
}
