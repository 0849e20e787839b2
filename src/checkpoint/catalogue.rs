//! The catalogue: names that a user types, and where their checkpoints come from. One YAML file
//! per checkpoint in `models/`, embedded at build time. Only checkpoints that this release
//! serves are in it.

use super::hub::HubSource;
use serde::Deserialize;
use std::sync::OnceLock;

macro_rules! embedded {
    ($name:literal) => {
        ($name, include_str!(concat!("../../models/", $name, ".yaml")))
    };
}

/// The embedded files. A test holds this list against the directory.
const FILES: [(&str, &str); 18] = [
    embedded!("deepseek-r1-distill-llama-70b"),
    embedded!("deepseek-r1-distill-llama-8b"),
    embedded!("deepseek-r1-distill-qwen-1.5b"),
    embedded!("deepseek-r1-distill-qwen-14b"),
    embedded!("deepseek-r1-distill-qwen-32b"),
    embedded!("deepseek-r1-distill-qwen-7b"),
    embedded!("qwen2.5-0.5b-instruct"),
    embedded!("qwen2.5-1.5b-instruct"),
    embedded!("qwen2.5-14b-instruct"),
    embedded!("qwen2.5-32b-instruct"),
    embedded!("qwen2.5-7b-instruct"),
    embedded!("qwen3-0.6b"),
    embedded!("qwen3-1.7b"),
    embedded!("qwen3-14b"),
    embedded!("qwen3-32b"),
    embedded!("qwen3-4b"),
    embedded!("qwen3-8b"),
    embedded!("smollm2-135m-instruct"),
];

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueEntry {
    /// What is served, and typed.
    pub name: String,
    /// Other names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// SPDX-like, as the hub states it.
    pub licence: String,
    /// Tokens of context the checkpoint's config allows.
    pub context: u32,
    /// In the order in which they are tried.
    pub sources: Vec<CatalogueSource>,
}

/// Where a checkpoint comes from: a hub repository (`hf`, or one GGUF `file` of it), or a
/// `file` that somebody places in NovaStack's model cache.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueSource {
    /// `org/repo[@revision]`.
    pub hf: Option<String>,
    /// A GGUF file's name.
    pub file: Option<String>,
    /// Of the file, in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Of the file.
    pub bytes: Option<u64>,
}

impl CatalogueSource {
    /// The hub source, None for a file in the model cache.
    pub fn hub(&self) -> Option<HubSource> {
        let source = HubSource::parse(self.hf.as_deref()?)?;
        Some(HubSource { file: self.file.clone(), ..source })
    }
}

/// All entries, in the order of their names.
pub fn entries() -> &'static [CatalogueEntry] {
    static ENTRIES: OnceLock<Vec<CatalogueEntry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        // Embedded at build time, and all parsed by a test: a panic here cannot be a user's doing.
        let parse = |(name, text): (&str, &str)| {
            serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("models/{name}.yaml: {error}"))
        };
        FILES.into_iter().map(parse).collect()
    })
}

/// The entry of that name or alias, upper and lower case alike.
pub fn find(name: &str) -> Option<&'static CatalogueEntry> {
    let named = |known: &String| known.eq_ignore_ascii_case(name);
    entries().iter().find(|entry| named(&entry.name) || entry.aliases.iter().any(named))
}

/// The `count` names most like the given one.
pub fn nearest(name: &str, count: usize) -> Vec<&'static str> {
    let lower = name.to_ascii_lowercase();
    let mut names = entries().iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>();
    names.sort_by_key(|known| edit_distance(&lower, known));
    names.truncate(count);
    names
}

/// Levenshtein's, on bytes: names are ASCII.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row = (0..=b.len()).collect::<Vec<_>>();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_directory_and_every_entry_is_sound() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let mut files = std::fs::read_dir(directory)
            .expect("models/")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
            .collect::<Vec<_>>();
        files.sort();
        assert_eq!(files, FILES.map(|(name, _)| format!("{name}.yaml")));

        let mut names = std::collections::BTreeSet::new();
        for ((file, _), entry) in FILES.iter().zip(entries()) {
            assert_eq!(*file, entry.name);
            assert!(!entry.sources.is_empty(), "{file}");
            for name in entry.aliases.iter().chain([&entry.name]) {
                assert!(names.insert(name.to_ascii_lowercase()), "{name} twice");
            }
            for source in &entry.sources {
                assert_eq!(source.hf.is_some(), source.hub().is_some(), "{file}: {source:?}");
                assert!(source.hf.is_some() || source.file.is_some(), "{file}: {source:?}");
                assert!(source.hf.is_some() || source.bytes.is_some(), "{file}: {source:?}");
                assert!(source.sha256.as_ref().is_none_or(|hash| hash.len() == 64), "{file}");
            }
        }
    }

    #[test]
    fn near_names() {
        assert_eq!(nearest("qwen3-8", 1), ["qwen3-8b"]);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(find("SmolLM2-135M").expect("alias").name, "smollm2-135m-instruct");
    }
}
