//! `server`, `limits` and `keys`.

use super::names::{Names, Wanted};
use super::read::{Fields, Reader, described, in_backticks};
use super::telemetry::{access_log, telemetry};
use super::tree::Node;
use super::{KEY_CHARS_MIN, Key, Limits, Server, SharedLimits, Store, TlsFiles};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use url::Url;

const SERVER_KEYS: [&str; 9] = [
    "host",
    "port",
    "admin_key_env",
    "store",
    "shared_limits",
    "telemetry",
    "access_log",
    "share_prefix",
    "tls",
];
const TLS_KEYS: [&str; 2] = ["cert", "key"];
const LIMIT_KEYS: [&str; 5] =
    ["requests_per_minute", "tokens_per_minute", "concurrency", "dollars_per_day", "dollars_per_month"];
const KEY_KEYS: [&str; 5] = ["sha256", "models", "limits", "credit", "share_prefix"];

/// A day's, a month's, a key's.
const DOLLARS_MAX: f64 = 1e12;

pub fn server(reader: &mut Reader, root: &Fields) -> Server {
    let mut server = Server::default();
    let Some(node) = root.get("server") else { return server };
    let Some(fields) = reader.fields(node, "`server`", &SERVER_KEYS) else { return server };
    server.host = fields.get("host").and_then(|node| {
        let address = match reader.text(node, "`host`")? {
            "localhost" => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
            text => text.parse().ok(),
        };
        if address.is_none() {
            let given = described(node);
            reader.error(
                node.line,
                format!("`host` must be an IP address, such as 127.0.0.1, 0.0.0.0 or ::1, or localhost, not {given}"),
            );
        }
        address
    });
    let port = fields.get("port").and_then(|node| reader.whole(node, "`port`", 0..=u16::MAX.into()));
    server.port = port.map(|port| port as u16);
    if let Some(node) = fields.get("admin_key_env")
        && let Some(name) = reader.variable(node, "`admin_key_env`")
    {
        if !reader.variable_is_set(name) {
            reader
                .warn(node.line, format!("the environment variable {name} is not set: the admin API is off"));
        } else if (reader.surroundings.variable_bytes)(name) < KEY_CHARS_MIN {
            reader.error(
                node.line,
                format!("the admin key in the environment variable {name} must have {KEY_CHARS_MIN} characters or more"),
            );
        }
        server.admin_key_env = Some(name.to_owned());
    }
    server.store = fields.get("store").and_then(|node| store(reader, node));
    if let Some(node) = fields.get("shared_limits") {
        server.shared_limits = shared_limits(reader, node).unwrap_or_default();
    }
    if let Some(node) = fields.get("telemetry") {
        server.telemetry = telemetry(reader, node).unwrap_or_default();
    }
    server.tls = fields.get("tls").and_then(|node| tls(reader, node));
    server.access_log = fields.get("access_log").and_then(|node| access_log(reader, node));
    let share_prefix = fields.get("share_prefix").and_then(|node| reader.truth(node, "`share_prefix`"));
    server.share_prefix = share_prefix.unwrap_or(false);
    server
}

fn tls(reader: &mut Reader, node: &Node) -> Option<TlsFiles> {
    let fields = reader.fields(node, "`tls`", &TLS_KEYS)?;
    let mut file = |name: &str| {
        let what = format!("`{name}` of `tls`");
        let Some(node) = fields.get(name) else {
            reader.error(fields.line, format!("`tls` needs `{name}`: a file in PEM"));
            return None;
        };
        let path = reader.folder.join(reader.text(node, &what)?);
        if !(reader.surroundings.exists)(&path) {
            let path = in_backticks(&path.to_string_lossy());
            reader.warn(node.line, format!("{what}: the file {path} does not exist"));
        }
        Some(path)
    };
    let (cert, key) = (file("cert"), file("key"));
    Some(TlsFiles { cert: cert?, key: key? })
}

fn store(reader: &mut Reader, node: &Node) -> Option<Store> {
    let text = reader.text(node, "`store`")?;
    let store = Store::parse(text, reader.folder);
    if store.is_none() {
        // URLs of stores may hold passwords: they are not repeated.
        reader.error(node.line, "`store` must be sqlite:PATH or postgres://HOST/DATABASE");
    }
    store
}

impl Store {
    /// Reads `sqlite:PATH`, relative to a folder, or `postgres://...`.
    pub fn parse(text: &str, folder: &Path) -> Option<Self> {
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => return Some(Self::Sqlite(folder.join(path))),
            _ => {}
        }
        let is_postgres = ["postgres", "postgresql"].iter().any(|scheme| has_host(text, scheme));
        is_postgres.then(|| Self::Postgres(text.to_owned()))
    }
}

fn shared_limits(reader: &mut Reader, node: &Node) -> Option<SharedLimits> {
    match reader.text(node, "`shared_limits`")? {
        "memory" => Some(SharedLimits::Memory),
        url if ["redis", "rediss"].iter().any(|scheme| has_host(url, scheme)) => {
            Some(SharedLimits::Redis(url.to_owned()))
        }
        _ => {
            reader.error(node.line, "`shared_limits` must be memory or redis://HOST:PORT");
            None
        }
    }
}

fn has_host(url: &str, scheme: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.scheme() == scheme && url.has_host())
}

/// `limits`, of the file, a model or a key.
pub fn limits(reader: &mut Reader, node: &Node, what: &str) -> Option<Limits> {
    let fields = reader.fields(node, what, &LIMIT_KEYS)?;
    let mut number = |name: &str| {
        fields.get(name).and_then(|node| reader.whole(node, &format!("`{name}` of {what}"), 1..=u64::MAX))
    };
    let requests_per_minute = number("requests_per_minute");
    let tokens_per_minute = number("tokens_per_minute");
    let concurrency = number("concurrency");
    let mut dollars = |name: &str| {
        let node = fields.get(name)?;
        let dollars = reader.number(node, &format!("`{name}` of {what}"), 0.0..=DOLLARS_MAX)?;
        if dollars == 0.0 {
            reader.error(node.line, format!("`{name}` of {what} must be more than 0"));
        }
        Some(dollars)
    };
    let dollars_per_day = dollars("dollars_per_day");
    let dollars_per_month = dollars("dollars_per_month");
    Some(Limits { requests_per_minute, tokens_per_minute, concurrency, dollars_per_day, dollars_per_month })
}

pub fn keys(reader: &mut Reader, names: &Names, root: &Fields) -> BTreeMap<String, Key> {
    let mut keys: BTreeMap<String, Key> = BTreeMap::new();
    let mut names_of: BTreeMap<[u8; 32], &str> = BTreeMap::new();
    for (key, node) in reader.named(root.get("keys"), "`keys`") {
        let what = format!("key {}", in_backticks(&key.text));
        reader.name(key, "`keys`");
        let Some(fields) = reader.fields(node, &what, &KEY_KEYS) else { continue };
        let sha256 = sha256(reader, &fields, &what);
        let models = fields.get("models").map(|node| key_models(reader, names, node, &what));
        let limits =
            fields.get("limits").and_then(|node| limits(reader, node, &format!("the limits of {what}")));
        let credit = fields
            .get("credit")
            .and_then(|node| reader.number(node, &format!("`credit` of {what}"), 0.0..=DOLLARS_MAX));
        let share_prefix = fields
            .get("share_prefix")
            .and_then(|node| reader.text(node, &format!("`share_prefix` of {what}")))
            .map(str::to_owned);
        let Some(sha256) = sha256 else { continue };
        if let Some(other) = names_of.insert(sha256, &key.text) {
            reader.error(key.line, format!("{what} has the same `sha256` as key {}", in_backticks(other)));
        }
        keys.insert(key.text.clone(), Key { sha256, models, limits, credit, share_prefix });
    }
    keys
}

fn key_models(reader: &mut Reader, names: &Names, node: &Node, what: &str) -> Vec<String> {
    let what = format!("`models` of {what}");
    let given = reader.texts(node, &what);
    if matches!(&node.value, super::tree::Value::List(items) if items.is_empty()) {
        reader.warn(
            node.line,
            format!("{what} is an empty list: the key may ask for none; leave `models` out to allow all"),
        );
    }
    for (name, node) in &given {
        names.check(reader, node.line, name, &what, Wanted::Any);
    }
    given.into_iter().map(|(name, _)| name.to_owned()).collect()
}

fn sha256(reader: &mut Reader, fields: &Fields, what: &str) -> Option<[u8; 32]> {
    let text = match fields.get("sha256") {
        Some(node) => reader.text(node, &format!("`sha256` of {what}"))?,
        None => {
            reader.error(
                fields.line,
                format!("{what} needs `sha256`: the key's SHA-256, 64 hexadecimal digits"),
            );
            return None;
        }
    };
    let mut digest = [0; 32];
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex {
        // Perhaps the key itself: it is not repeated.
        let line = fields.get("sha256").map_or(fields.line, |node| node.line);
        reader.error(
            line,
            format!("`sha256` of {what} must be 64 hexadecimal digits: the key's SHA-256, not the key"),
        );
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    // Of other keys a digest does not show the length: the server refuses short ones when they come.
    if digest == <[u8; 32]>::from(Sha256::digest(b"")) {
        let line = fields.get("sha256").map_or(fields.line, |node| node.line);
        reader.error(
            line,
            format!(
                "`sha256` of {what} is the SHA-256 of nothing, as of an environment variable that is not set: a key \
                 must have {KEY_CHARS_MIN} characters or more"
            ),
        );
        return None;
    }
    Some(digest)
}
