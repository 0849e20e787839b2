//! Who a checkpoint is: its entry in the catalogue, by name, hub id or shape; its licence; its
//! chat format and the parsers that go with it.

use novastack::checkpoint::Checkpoint;
use novastack::checkpoint::catalogue::{self, CatalogueEntry, Parameters, Price, Recognised, Shape};
use novastack::checkpoint::resolve::Resolved;
use novastack::files;
use novastack::model::ModelConfig;
use novastack::text::AnswerFormat;
use serde::Serialize;
use std::path::Path;

/// README.md's and LICENSE's front: more is not read.
const CARD_BYTES_MAX: u64 = 64 << 10;

/// What is known beyond the config; unknown where nothing says so.
#[derive(Serialize)]
pub struct Known {
    /// Names in the catalogue; several where checkpoints share a shape.
    pub catalogue: Vec<String>,
    /// "name" or "shape".
    pub recognised_by: Option<&'static str>,
    pub aliases: Vec<String>,
    /// One, or those of the checkpoints that it may be.
    pub licence: Vec<String>,
    /// catalogue, README.md, LICENSE.
    pub licence_from: Option<&'static str>,
    pub capabilities: Vec<&'static str>,
    pub chat_format: Vec<String>,
    pub has_chat_template: bool,
    pub reasoning_parser: Vec<String>,
    pub tool_parser: Vec<String>,
    pub published_total_billions: Option<f64>,
    pub published_active_billions: Option<f64>,
    pub price_input_usd_per_mtok: Option<f64>,
    pub price_output_usd_per_mtok: Option<f64>,
}

/// Who a checkpoint is, by its name and its shape.
pub fn recognise(resolved: &Resolved, checkpoint: &Checkpoint, config: &ModelConfig) -> Recognised {
    let shape = Shape {
        architecture: config.family.architecture().to_owned(),
        hidden: config.hidden,
        layers: config.layers(),
        experts: config.moe.as_ref().map_or(0, |moe| moe.routing.experts),
    };
    let quantisation = checkpoint.config.get("quantization_config").and_then(|c| c["quant_method"].as_str());
    catalogue::recognise(&resolved.served_name, &shape, config.max_context, quantisation)
}

impl Known {
    pub fn find(resolved: &Resolved, checkpoint: &Checkpoint, recognised: &Recognised) -> Known {
        let Recognised { entries, by: recognised_by } = recognised.clone();
        let in_catalogue = || (choices(&entries, |entry| Some(entry.licence.clone())), "catalogue");
        let in_files = files_licence(&resolved.path).map(|(name, from)| (vec![name], from));
        // A shape may be shared by models under other licences: the directory's own word counts more.
        let (licence, licence_from) = match (recognised_by, in_files) {
            (Some("name"), _) | (_, None) => in_catalogue(),
            (_, Some(in_files)) => in_files,
        };
        let parameters = common(&entries, |entry| entry.parameters);
        let price: Price = common(&entries, |entry| Some(entry.price)).unwrap_or_default();
        let template = checkpoint.chat_template.as_deref();
        let shown = template.map(AnswerFormat::of_template).unwrap_or_default();
        let mut capabilities = entries.first().map_or(Vec::new(), |entry| entry.capabilities.clone());
        capabilities.retain(|one| entries.iter().all(|entry| entry.capabilities.contains(one)));
        Known {
            catalogue: entries.iter().map(|entry| entry.name.clone()).collect(),
            recognised_by,
            aliases: match entries.as_slice() {
                [entry] => entry.aliases.clone(),
                _ => Vec::new(),
            },
            licence_from: (!licence.is_empty()).then_some(licence_from),
            licence,
            capabilities: capabilities.into_iter().map(|capability| capability.name()).collect(),
            chat_format: match template.and_then(chat_format) {
                Some(format) => vec![format.to_owned()],
                None => choices(&entries, |entry| entry.chat_format.clone()),
            },
            has_chat_template: template.is_some(),
            reasoning_parser: match shown.reasoning {
                Some(format) => vec![format.name().to_owned()],
                None => choices(&entries, |entry| entry.reasoning_parser.clone()),
            },
            tool_parser: match shown.tools {
                Some(format) => vec![format.name().to_owned()],
                None => choices(&entries, |entry| entry.tool_parser.clone()),
            },
            published_total_billions: parameters.map(|Parameters { total_billions, .. }| total_billions),
            published_active_billions: parameters.and_then(|published| published.active_billions),
            price_input_usd_per_mtok: price.input_usd_per_mtok,
            price_output_usd_per_mtok: price.output_usd_per_mtok,
        }
    }
}

/// What all entries agree on.
fn common<T: PartialEq>(entries: &[&CatalogueEntry], of: impl Fn(&CatalogueEntry) -> Option<T>) -> Option<T> {
    let first = of(entries.first()?)?;
    entries.iter().all(|entry| of(entry).as_ref() == Some(&first)).then_some(first)
}

/// What the entries have, each value once.
fn choices(entries: &[&CatalogueEntry], of: impl Fn(&CatalogueEntry) -> Option<String>) -> Vec<String> {
    let mut values: Vec<String> = entries.iter().filter_map(|entry| of(entry)).collect();
    values.sort();
    values.dedup();
    values
}

/// By the marks that a template writes around turns, where one of them is certain.
fn chat_format(template: &str) -> Option<&'static str> {
    let marks = [("<|im_start|>", "chatml"), ("<|start_header_id|>", "llama3"), ("]~b]", "minimax")];
    marks.into_iter().find(|(mark, _)| template.contains(mark)).map(|(_, format)| format)
}

/// From the model card's front matter, else from what a licence file begins with.
fn files_licence(path: &Path) -> Option<(String, &'static str)> {
    if !path.is_dir() {
        return None;
    }
    let card = read_start(&path.join("README.md")).and_then(|card| card_licence(&card));
    card.map(|name| (name, "README.md")).or_else(|| {
        let names = ["LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"];
        let text = names.into_iter().find_map(|name| read_start(&path.join(name)))?;
        Some((licence_of_text(&text).to_owned(), "LICENSE"))
    })
}

fn read_start(path: &Path) -> Option<String> {
    let bytes = files::read_start(path, CARD_BYTES_MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `license`, or `license_name` where that is "other", between the card's two lines of `---`.
fn card_licence(card: &str) -> Option<String> {
    let front = card.strip_prefix("---")?.split("\n---").next()?;
    let field = |name: &str| {
        let value = front.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    match field("license") {
        Some(name) if name != "other" => Some(name),
        other => field("license_name").or(other),
    }
}

fn licence_of_text(text: &str) -> &'static str {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let head: String = words.chars().take(400).collect();
    match head.as_str() {
        head if head.contains("apache license version 2.0") => "apache-2.0",
        head if head.starts_with("mit license") && words.contains("modification is") => "modified-mit",
        head if head.starts_with("mit license") => "mit",
        head if head.contains("deepseek license agreement") => "deepseek",
        head if head.contains("llama 3.1 community license") => "llama3.1",
        head if head.contains("qwen research license") => "qwen-research",
        _ => "see its LICENSE file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_of_cards_and_files() {
        let card = |text: &str| card_licence(text);
        assert_eq!(card("---\nlicense: apache-2.0\ntags: [a]\n---\n# Model\n"), Some("apache-2.0".into()));
        assert_eq!(card("---\nlicense: other\nlicense_name: \"deepseek\"\n---\n"), Some("deepseek".into()));
        assert_eq!(card("---\nlicense: other\n---\nlicense_name: no\n"), Some("other".into()));
        assert_eq!(card("# Model\nlicense: mit\n"), None);
        assert_eq!(card("---\nlanguage: en\n---\nlicense: mit\n"), None);
        assert_eq!(licence_of_text("  Apache License\n   Version 2.0, January 2004"), "apache-2.0");
        assert_eq!(licence_of_text("MIT License\n\nCopyright"), "mit");
        let modified = "MIT License\n\nOur only modification is that you shall display";
        assert_eq!(licence_of_text(modified), "modified-mit");
        assert_eq!(licence_of_text("All rights reserved"), "see its LICENSE file");
    }

    #[test]
    fn chat_formats_of_templates() {
        assert_eq!(chat_format("{{ '<|im_start|>' + role }}"), Some("chatml"));
        assert_eq!(chat_format("{{ '<|start_header_id|>' }}"), Some("llama3"));
        assert_eq!(chat_format("{{ 'User: ' }}"), None);
    }
}
