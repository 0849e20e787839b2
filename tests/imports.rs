//! Who may import whom. Every `crate::` and `super::` path in `src/` is resolved and held against
//! this table; tests inside `src/` (files named tests.rs, `tests/` folders) may import anything.

use std::path::{Path, PathBuf};

/// (module, what it may import besides itself and its own children). The longest matching module
/// counts; `engine::kv` allows `engine::kv` and everything below it.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("clock", &[]),
    ("connect", &[]),
    ("files", &[]),
    ("memory", &[]),
    ("blocking_http", &["connect"]),
    ("secrets", &[]),
    ("log", &["secrets"]),
    ("config", &["files", "protocol"]),
    ("store", &["config", "protocol"]),
    // The floors of the gateway: each may import those before it.
    ("gateway", &[]),
    ("gateway::wire", &["secrets"]),
    ("gateway::chat", &["gateway::wire", "config", "protocol", "text"]),
    ("gateway::ledger", &["gateway::wire", "gateway::chat", "blocking_http", "config", "secrets", "store"]),
    (
        "gateway::target",
        &[
            "gateway::wire",
            "gateway::chat",
            "gateway::ledger",
            "config",
            "connect",
            "engine::handle",
            "files",
            "protocol",
            "secrets",
            "text",
        ],
    ),
    (
        "gateway::route",
        &[
            "gateway::wire",
            "gateway::chat",
            "gateway::ledger",
            "gateway::target",
            "config",
            "connect",
            "protocol",
        ],
    ),
    (
        "gateway::api",
        &[
            "gateway::wire",
            "gateway::chat",
            "gateway::ledger",
            "gateway::target",
            "gateway::route",
            "config",
            "engine::handle",
            "log",
            "protocol",
            "secrets",
            "store",
            "text",
        ],
    ),
    (
        "gateway::http",
        &[
            "gateway::wire",
            "gateway::chat",
            "gateway::ledger",
            "gateway::target",
            "gateway::route",
            "gateway::api",
            "config",
            "files",
            "store",
        ],
    ),
    ("text", &["protocol", "checkpoint", "files"]),
    ("checkpoint", &["protocol", "files"]),
    ("checkpoint::hub", &["checkpoint", "connect", "blocking_http", "files", "log", "secrets"]),
    ("engine::constraint", &["engine::plan", "protocol"]),
    ("engine::plan", &["engine::constraint", "protocol"]),
    ("engine::kv", &["protocol"]),
    ("engine::scheduler", &["engine::constraint", "engine::kv", "engine::plan", "protocol"]),
    ("engine::handle", &["protocol"]),
    ("engine::sampler", &["engine::plan", "protocol", "backend"]),
    (
        "engine::executor",
        &[
            "engine::constraint",
            "engine::kv",
            "engine::plan",
            "engine::sampler",
            "model",
            "backend",
            "protocol",
        ],
    ),
    (
        "engine::worker",
        &[
            "engine::constraint",
            "engine::executor",
            "engine::handle",
            "engine::kv",
            "engine::plan",
            "engine::scheduler",
            "protocol",
            "clock",
        ],
    ),
    ("engine::encoder", &["encoder", "engine::handle", "protocol", "clock"]),
    ("model", &["backend", "checkpoint", "protocol::TokenId"]),
    ("model::pooling", &["protocol"]),
    // Of models that write: how a config is read, and how vectors are normalised.
    ("encoder", &["checkpoint", "model::ConfigError", "model::fields", "model::pooling", "protocol"]),
    ("backend", &["checkpoint", "protocol"]),
    // Of the program's own modules: benchmarks go around the gateway.
    ("cli::bench", &["cli::load_args", "cli::parse_bytes"]),
    ("cli::bench::ops", &["cli::bench"]),
    ("inspect", &["backend", "checkpoint", "files", "model"]),
    (
        "load",
        &[
            "backend",
            "checkpoint",
            "encoder",
            "engine::executor",
            "engine::plan",
            "inspect",
            "memory",
            "model",
            "protocol",
        ],
    ),
    ("selftest", &["backend", "checkpoint", "engine::plan", "engine::sampler", "protocol"]),
];

/// (module, words that must not stand in it, why).
const MUST_NOT_NAME: &[(&str, &[&str], &str)] = &[
    ("engine::scheduler", &["tokio", "Instant", "SystemTime"], "the scheduler is pure: time is an argument"),
    ("engine::kv", &["tokio", "Instant", "SystemTime"], "block accounting is pure"),
    ("engine", &["tokenizers", "minijinja", "llguidance", "axum"], "the engine sees token ids only"),
    ("model", &["tokio", "axum"], "a model is a forward pass"),
    ("encoder", &["tokio", "axum"], "a model is a forward pass"),
    ("backend", &["tokio", "axum"], "a backend knows tensors only"),
    ("selftest", &["tokio", "axum"], "a self-test runs kernels only"),
    ("text", &["axum", "tokio"], "only the gateway knows HTTP"),
    ("cli::bench", &["axum", "gateway"], "a benchmark measures the engine without HTTP"),
    ("cli::bench::ops", &["tokio", "engine", "model"], "operations are measured on a backend alone"),
    ("checkpoint", &["axum", "tokio"], "only the gateway knows HTTP"),
    ("store", &["axum", "reqwest"], "a store knows its database, and threads of its own"),
    ("store::writer", &["tokio"], "records are written by a thread of the store's own"),
    ("config", &["axum", "tokio", "reqwest"], "a configuration is read and checked, nothing acts"),
];

/// Where `unsafe` may stand.
const UNSAFE_IN: &[&str] = &["backend", "checkpoint::mmap", "text::contained::allocator"];

struct Source {
    path: PathBuf,
    /// `engine::kv::pool` for src/engine/kv/pool.rs.
    module: Vec<String>,
    code: String,
}

#[test]
fn modules_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module.join("::");
        let Some((owner, allowed)) = MAY_IMPORT
            .iter()
            .filter(|(owner, _)| is_within(&module, owner))
            .max_by_key(|(owner, _)| owner.len())
        else {
            continue;
        };
        for import in imports(&source) {
            // A parent's own items (super::Type) and siblings below the same owner are its own.
            let own = is_within(&import, owner) || is_parent(&import, owner);
            if !own && !allowed.iter().any(|allowed| is_within(&import, allowed)) {
                wrong.push(format!("{}: {owner} must not import {import}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn modules_name_only_what_they_may() {
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module.join("::");
        let words: Vec<&str> = source.code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for (owner, banned, why) in MUST_NOT_NAME.iter().filter(|(owner, ..)| is_within(&module, owner)) {
            for word in banned.iter().filter(|word| words.contains(word)) {
                wrong.push(format!("{}: {owner} must not name {word}: {why}", source.path.display()));
            }
        }
        if words.contains(&"unsafe") && !UNSAFE_IN.iter().any(|owner| is_within(&module, owner)) {
            wrong.push(format!("{}: unsafe is for {} only", source.path.display(), UNSAFE_IN.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = ["src", "tests", "kernels", "benches", "scripts"]
        .iter()
        .flat_map(|folder| files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)))
        .filter(|path| {
            path.extension().is_some_and(|e| ["rs", "hip", "h", "py", "js", "sh"].iter().any(|x| e == *x))
        })
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| text.lines().count() > 600))
        .collect();
    assert!(long.is_empty(), "over 600 lines: {long:?}");
}

#[test]
fn use_trees_are_read() {
    let source = Source {
        path: PathBuf::new(),
        module: vec!["engine".into(), "worker".into()],
        code: "use crate::{protocol::{A, B}, text}; use super::kv::pool; let x = super::super::clock::now();"
            .into(),
    };
    assert_eq!(imports(&source), ["protocol::A", "protocol::B", "text", "engine::kv::pool", "clock::now"]);
}

fn is_within(path: &str, owner: &str) -> bool {
    path.strip_prefix(owner).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `engine::Something` where the owner is `engine::x`: an item of a parent module itself.
fn is_parent(import: &str, owner: &str) -> bool {
    match (import.rsplit_once("::"), owner.rsplit_once("::")) {
        (Some((parent, item)), Some((owner_parent, _))) => {
            parent == owner_parent && item.starts_with(|c: char| c.is_uppercase())
        }
        _ => false,
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for path in files_below(&root) {
        let inside = path.strip_prefix(&root).expect("below src").with_extension("");
        let mut module: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if path.extension().is_none_or(|e| e != "rs") || module.iter().any(|part| part == "tests") {
            continue;
        }
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let text = std::fs::read_to_string(&path).expect("source is UTF-8");
        let code =
            text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
        found.push(Source { path, module, code });
    }
    assert!(found.len() > 20, "the walk found the sources");
    found
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Absolute module paths of all `crate::` and `super::` paths.
fn imports(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let code = &source.code;
    for (at, _) in code.match_indices("crate::") {
        let before = &code[..at];
        // A visibility (`pub(in crate::gateway)`) is no import.
        if !before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with("pub(in ") {
            read_tree(&code[at + "crate::".len()..], &mut Vec::new(), &mut found);
        }
    }
    let mut rest = code.as_str();
    while let Some(at) = rest.find("super::") {
        let continues = rest[..at].ends_with("::");
        let mut module = source.module.clone();
        rest = &rest[at..];
        while let Some(after) = rest.strip_prefix("super::") {
            module.pop();
            rest = after;
        }
        if !continues {
            read_tree(rest, &mut module, &mut found);
        }
    }
    found
}

/// Reads `a::b::{c, d::e}` at the start of `code`; returns what follows it.
fn read_tree<'a>(code: &'a str, prefix: &mut Vec<String>, found: &mut Vec<String>) -> &'a str {
    let depth = prefix.len();
    let mut rest = code.trim_start();
    loop {
        if let Some(mut inner) = rest.strip_prefix('{') {
            loop {
                inner = read_tree(inner, prefix, found).trim_start();
                match inner.strip_prefix(',') {
                    Some(more) if !more.trim_start().starts_with('}') => inner = more,
                    _ => break,
                }
            }
            prefix.truncate(depth);
            return inner.trim_start_matches([',', ' ', '\n', '\t']).strip_prefix('}').unwrap_or(inner);
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        prefix.push(rest[..end].to_string());
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(more) if more.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '{') => {
                rest = more
            }
            _ => break,
        }
    }
    if prefix.len() > depth {
        found.push(prefix.join("::"));
    }
    prefix.truncate(depth);
    let rest = rest.trim_start();
    match rest.strip_prefix("as ") {
        Some(alias) => alias.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
        None => rest,
    }
}
