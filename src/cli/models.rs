//! `novastack models`: the names that can be typed.

use super::check_config::table;
use clap::Args;
use novastack::checkpoint::catalogue::{self, CatalogueEntry};
use serde_json::{Value, json};

#[derive(Args)]
pub struct ModelsArgs {
    /// Only names and aliases that have this in them.
    filter: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The catalogue, or what of it a filter leaves.
pub fn run(args: &ModelsArgs) -> Result<(), String> {
    let wanted = args.filter.as_deref().unwrap_or_default().to_ascii_lowercase().replace(':', "-");
    let names = |entry: &CatalogueEntry| {
        entry.aliases.iter().chain([&entry.name]).any(|name| name.to_ascii_lowercase().contains(&wanted))
    };
    let found: Vec<&CatalogueEntry> = catalogue::entries().iter().filter(|entry| names(entry)).collect();
    if found.is_empty() && !args.json {
        return Err(format!("no name in the catalogue has {wanted:?} in it; `novastack models` lists all"));
    }
    let text = match args.json {
        true => {
            let list: Vec<Value> = found.into_iter().map(as_json).collect();
            serde_json::to_string_pretty(&list).map_err(|error| error.to_string())?
        }
        false => page(&found),
    };
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        // The reader has seen enough: `novastack models | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| error.to_string()),
    }
}

fn page(entries: &[&CatalogueEntry]) -> String {
    let head = ["NAME", "PARAMETERS", "CONTEXT", "FORMAT", "ALSO"].map(str::to_owned);
    let row = |entry: &&CatalogueEntry| {
        let parameters = entry.parameters.map_or(String::new(), |it| match it.active_billions {
            Some(active) => format!("{}B, {active}B active", it.total_billions),
            None => format!("{}B", it.total_billions),
        });
        let context = entry.context.to_string();
        [entry.name.clone(), parameters, context, formats(entry).join(", "), entry.aliases.join(", ")]
    };
    let mut lines = table([head].into_iter().chain(entries.iter().map(row)));
    lines.push(String::new());
    lines.push("novastack serve NAME serves one, novastack inspect NAME says what it needs.".into());
    lines.join("\n")
}

/// In which formats its weights can be had.
fn formats(entry: &CatalogueEntry) -> Vec<String> {
    let format = |source: &catalogue::CatalogueSource| match (&source.file, &entry.quantisation) {
        (Some(file), _) => match file.strip_suffix(".gguf").and_then(|stem| stem.rsplit(['.', '-']).next()) {
            Some(quantisation) => format!("GGUF {quantisation}"),
            None => "GGUF".into(),
        },
        (None, Some(method)) => method.to_uppercase(),
        (None, None) => "BF16".into(),
    };
    let mut formats: Vec<String> = entry.sources.iter().map(format).collect();
    formats.dedup();
    formats
}

fn as_json(entry: &CatalogueEntry) -> Value {
    // As it is written: 0.6 in f32 is not 0.6 in f64.
    let exact = |value: f32| serde_json::from_str::<Value>(&value.to_string()).unwrap_or_default();
    let sampling = entry.sampling.map(|s| {
        json!({
            "temperature": exact(s.temperature),
            "top_p": exact(s.top_p),
            "top_k": s.top_k,
            "min_p": s.min_p.map(exact),
            "repetition_penalty": s.repetition_penalty.map(exact),
        })
    });
    let capabilities: Vec<&str> = entry.capabilities.iter().map(|it| it.name()).collect();
    let sources: Vec<Value> =
        entry.sources.iter().map(|source| json!({ "hf": source.hf, "file": source.file })).collect();
    json!({
        "name": entry.name,
        "aliases": entry.aliases,
        "licence": entry.licence,
        "parameters_billions": entry.parameters.map(|it| it.total_billions),
        "active_parameters_billions": entry.parameters.and_then(|it| it.active_billions),
        "context": entry.context,
        "formats": formats(entry),
        "capabilities": capabilities,
        "sampling": sampling,
        "sources": sources,
    })
}
