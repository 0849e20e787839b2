//! The catalogue: names that a user types, and where their checkpoints come from. One YAML file
//! per checkpoint in `models/`, embedded at build time. Only checkpoints that this release
//! serves are in it.

mod configs;

use super::hub::HubSource;
use crate::protocol::SamplingDefaults;
use serde::Deserialize;
use std::sync::OnceLock;

/// Characters of a name for each slip of the pen in it.
const SLIP_EVERY: usize = 5;
/// Of a name that may be near another: what is shorter is near to everything.
const NEAR_CHARS_MIN: usize = 4;
const NEAR_CHARS_MAX: usize = 128;

/// Embeds `models/NAME.yaml` under each of these names.
macro_rules! embedded {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../models/", $name, ".yaml")))),+]
    };
}

/// The embedded files. A test holds this list against the directory.
#[rustfmt::skip]
const FILES: &[(&str, &str)] = embedded![
    "deepseek-r1",
    "deepseek-r1-0528",
    "deepseek-r1-distill-llama-70b",
    "deepseek-r1-distill-llama-8b",
    "deepseek-r1-distill-qwen-1.5b",
    "deepseek-r1-distill-qwen-14b",
    "deepseek-r1-distill-qwen-32b",
    "deepseek-r1-distill-qwen-7b",
    "deepseek-v2-chat",
    "deepseek-v2-lite-chat",
    "deepseek-v3",
    "deepseek-v3-0324",
    "deepseek-v3.1",
    "minimax-m2",
    "qwen2.5-0.5b-instruct",
    "qwen2.5-0.5b-instruct-awq",
    "qwen2.5-0.5b-instruct-gptq-int4",
    "qwen2.5-1.5b-instruct",
    "qwen2.5-1.5b-instruct-awq",
    "qwen2.5-1.5b-instruct-gptq-int4",
    "qwen2.5-14b-instruct",
    "qwen2.5-14b-instruct-awq",
    "qwen2.5-14b-instruct-gptq-int4",
    "qwen2.5-32b-instruct",
    "qwen2.5-32b-instruct-awq",
    "qwen2.5-32b-instruct-gptq-int4",
    "qwen2.5-3b-instruct",
    "qwen2.5-3b-instruct-awq",
    "qwen2.5-3b-instruct-gptq-int4",
    "qwen2.5-72b-instruct",
    "qwen2.5-72b-instruct-awq",
    "qwen2.5-72b-instruct-gptq-int4",
    "qwen2.5-7b-instruct",
    "qwen2.5-7b-instruct-awq",
    "qwen2.5-7b-instruct-gptq-int4",
    "qwen2.5-coder-0.5b-instruct",
    "qwen2.5-coder-1.5b-instruct",
    "qwen2.5-coder-14b-instruct",
    "qwen2.5-coder-32b-instruct",
    "qwen2.5-coder-3b-instruct",
    "qwen2.5-coder-7b-instruct",
    "qwen3-0.6b",
    "qwen3-0.6b-fp8",
    "qwen3-1.7b",
    "qwen3-1.7b-fp8",
    "qwen3-14b",
    "qwen3-14b-awq",
    "qwen3-14b-fp8",
    "qwen3-235b-a22b",
    "qwen3-235b-a22b-fp8",
    "qwen3-235b-a22b-gptq-int4",
    "qwen3-235b-a22b-instruct-2507",
    "qwen3-235b-a22b-instruct-2507-fp8",
    "qwen3-235b-a22b-thinking-2507",
    "qwen3-235b-a22b-thinking-2507-fp8",
    "qwen3-30b-a3b",
    "qwen3-30b-a3b-fp8",
    "qwen3-30b-a3b-gptq-int4",
    "qwen3-30b-a3b-instruct-2507",
    "qwen3-30b-a3b-instruct-2507-fp8",
    "qwen3-30b-a3b-thinking-2507",
    "qwen3-30b-a3b-thinking-2507-fp8",
    "qwen3-32b",
    "qwen3-32b-awq",
    "qwen3-32b-fp8",
    "qwen3-4b",
    "qwen3-4b-awq",
    "qwen3-4b-fp8",
    "qwen3-8b",
    "qwen3-8b-awq",
    "qwen3-8b-fp8",
    "qwen3-coder-30b-a3b-instruct",
    "qwen3-coder-30b-a3b-instruct-fp8",
    "smollm2-135m-instruct",
    "smollm3-3b",
];

/// One checkpoint. What its authors do not say, or what is not certain, is left out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueEntry {
    /// What is served, and typed.
    pub name: String,
    /// Other names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// SPDX-like, as the hub states it.
    pub licence: String,
    /// Tokens of context that the checkpoint's config allows (`max_position_embeddings`).
    pub context: u32,
    /// What it was trained to do.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// How its chat template delimits turns: chatml, llama3, deepseek-v2, deepseek-v3,
    /// deepseek-v3.1, minimax.
    pub chat_format: Option<String>,
    /// Which parser takes its reasoning apart, in vLLM's names.
    pub reasoning_parser: Option<String>,
    /// Which parser takes its tool calls apart, in vLLM's names.
    pub tool_parser: Option<String>,
    /// Its published weights are quantised, as `quantization_config.quant_method` has it.
    pub quantisation: Option<String>,
    /// As its authors publish them.
    pub parameters: Option<Parameters>,
    /// What tells its config from those of other families; absent where it has another's.
    pub shape: Option<Shape>,
    /// The file in `models/configs` that has its sizes; absent where they are not certain.
    pub config: Option<String>,
    /// As its authors' generation_config.json or model card has it.
    pub sampling: Option<Sampling>,
    /// For cost accounting; local models have none unless somebody sets one.
    #[serde(default)]
    pub price: Price,
    /// In the order in which they are tried.
    pub sources: Vec<CatalogueSource>,
}

/// Something that a checkpoint can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Follows a conversation.
    Chat,
    /// Calls the tools that a request offers.
    Tools,
    /// Thinks before it answers, always or when asked to.
    Reasoning,
    /// Takes images.
    Vision,
}

impl Capability {
    /// As the catalogue spells it.
    pub fn name(self) -> &'static str {
        match self {
            Capability::Chat => "chat",
            Capability::Tools => "tools",
            Capability::Reasoning => "reasoning",
            Capability::Vision => "vision",
        }
    }
}

/// Published parameter counts, in billions.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// All of them.
    pub total_billions: f64,
    /// Those that a token uses; absent for dense models.
    pub active_billions: Option<f64>,
}

/// Sizes in config.json by which a checkpoint without a name is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Class in transformers.
    pub architecture: String,
    /// `hidden_size`.
    pub hidden: usize,
    /// `num_hidden_layers`.
    pub layers: usize,
    /// Routed experts, none for dense models.
    #[serde(default)]
    pub experts: usize,
}

/// With which sampling parameters its authors want it used.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Sampling {
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

impl From<Sampling> for SamplingDefaults {
    fn from(sampling: Sampling) -> Self {
        Self {
            temperature: Some(sampling.temperature),
            top_p: Some(sampling.top_p),
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
        }
    }
}

/// US dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of the prompt.
    pub input_usd_per_mtok: Option<f64>,
    /// Of the answer.
    pub output_usd_per_mtok: Option<f64>,
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
        FILES.iter().copied().map(parse).collect()
    })
}

/// The entry of that name or alias, upper and lower case alike. Ollama's spelling is one too: a colon
/// before the size (`qwen3:8b`), and `:latest`.
pub fn find(name: &str) -> Option<&'static CatalogueEntry> {
    let name = name.strip_suffix(":latest").unwrap_or(name).replace(':', "-");
    let named = |known: &String| known.eq_ignore_ascii_case(&name);
    entries().iter().find(|entry| named(&entry.name) || entry.aliases.iter().any(named))
}

/// The entry that is served from that hub repository (`org/name`).
pub fn find_repo(repo: &str) -> Option<&'static CatalogueEntry> {
    let from = |source: HubSource| source.repo.eq_ignore_ascii_case(repo) && source.file.is_none();
    entries().iter().find(|entry| entry.sources.iter().filter_map(CatalogueSource::hub).any(from))
}

/// The entries whose config has that shape and context; those of them that are quantised the
/// same way, where there are any. Checkpoints of one family share a shape: V3 and R1.
pub fn find_shape(shape: &Shape, context: usize, quantisation: Option<&str>) -> Vec<&'static CatalogueEntry> {
    let alike =
        |entry: &&CatalogueEntry| entry.shape.as_ref() == Some(shape) && entry.context as usize == context;
    let found = entries().iter().filter(alike).collect::<Vec<_>>();
    let same = |entry: &&&CatalogueEntry| entry.quantisation.as_deref() == quantisation;
    match found.iter().any(|entry| same(&entry)) {
        true => found.into_iter().filter(|entry| same(&entry)).collect(),
        false => found,
    }
}

/// Who a checkpoint is.
#[derive(Clone, Debug, Default)]
pub struct Recognised {
    /// One entry, or those that it may be; none: nobody in the catalogue.
    pub entries: Vec<&'static CatalogueEntry>,
    /// "name" or "shape".
    pub by: Option<&'static str>,
}

/// Who a checkpoint is, by what it is called (a name, a hub id, a file's name), else by its shape. Of
/// those that share a shape it is the one whose name its own begins with
/// (`qwen2.5-coder-0.5b-instruct-q4_k_m`), where there is one.
pub fn recognise(name: &str, shape: &Shape, context: usize, quantisation: Option<&str>) -> Recognised {
    // A directory may have any name: its config must not contradict it.
    let agrees = |entry: &&CatalogueEntry| entry.shape.as_ref().is_none_or(|known| known == shape);
    // Not by alias: a directory Qwen2.5-7B holds the base model, and the alias is the instruct one's.
    let own_name = |entry: &&CatalogueEntry| entry.name.eq_ignore_ascii_case(name);
    if let Some(entry) = find(name).filter(own_name).or_else(|| find_repo(name)).filter(agrees) {
        return Recognised { entries: vec![entry], by: Some("name") };
    }
    let alike = find_shape(shape, context, quantisation);
    let lower = name.to_ascii_lowercase();
    let begun = alike.iter().copied().filter(|entry| lower.starts_with(&entry.name));
    match begun.max_by_key(|entry| entry.name.len()) {
        Some(entry) => Recognised { entries: vec![entry], by: Some("name") },
        None => Recognised { by: (!alike.is_empty()).then_some("shape"), entries: alike },
    }
}

impl Recognised {
    /// The sampling parameters of the catalogue, and whose they are. Where several checkpoints may be
    /// meant, those of the one with the lowest temperature, which is the safest choice.
    pub fn sampling(&self) -> Option<(SamplingDefaults, &'static str)> {
        let known = self.entries.iter().filter_map(|entry| Some((entry.sampling?, entry.name.as_str())));
        let lowest = known.min_by(|(a, _), (b, _)| a.temperature.total_cmp(&b.temperature))?;
        Some((lowest.0.into(), lowest.1))
    }

    /// Whether it thinks before it answers, whichever of the entries it is.
    pub fn reasons(&self) -> bool {
        let reasons = |entry: &&CatalogueEntry| entry.capabilities.contains(&Capability::Reasoning);
        !self.entries.is_empty() && self.entries.iter().all(reasons)
    }
}

/// Names that a wrong one may have meant, at most so many: those that begin with it, and those that are
/// a slip of the pen away.
pub fn near(name: &str, count: usize) -> Vec<&'static str> {
    let lower = name.to_ascii_lowercase().replace(':', "-");
    let slips_max = lower.len() / SLIP_EVERY;
    // Far longer names are no slips, and distances take the square of the length.
    if !(NEAR_CHARS_MIN..=NEAR_CHARS_MAX).contains(&lower.len()) {
        return Vec::new();
    }
    let distance = |known: &'static str| match known.starts_with(&lower) {
        true => Some((0, known.len(), known)),
        false => Some((strsim::damerau_levenshtein(&lower, known), known.len(), known))
            .filter(|(distance, ..)| *distance <= slips_max),
    };
    let mut names: Vec<_> = entries().iter().filter_map(|entry| distance(&entry.name)).collect();
    names.sort_unstable();
    names.truncate(count);
    names.into_iter().map(|(.., name)| name).collect()
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
            .filter(|name| name != "configs")
            .collect::<Vec<_>>();
        files.sort();
        let mut listed = FILES.iter().map(|(name, _)| format!("{name}.yaml")).collect::<Vec<_>>();
        listed.sort();
        assert_eq!(files, listed);

        let mut names = std::collections::BTreeSet::new();
        for ((file, _), entry) in FILES.iter().zip(entries()) {
            assert_eq!(*file, entry.name);
            assert!(!entry.sources.is_empty(), "{file}");
            assert!((512..=1 << 20).contains(&entry.context), "{file}");
            let can = |capability| entry.capabilities.contains(&capability);
            assert_eq!(entry.reasoning_parser.is_some(), can(Capability::Reasoning), "{file}");
            assert_eq!(entry.tool_parser.is_some(), can(Capability::Tools), "{file}");
            let formats = ["chatml", "llama3", "deepseek-v2", "deepseek-v3", "deepseek-v3.1", "minimax"];
            assert!(entry.chat_format.as_deref().is_none_or(|format| formats.contains(&format)), "{file}");
            assert_eq!(entry.chat_format.is_some(), can(Capability::Chat), "{file}");
            let active = entry.parameters.and_then(|parameters| parameters.active_billions);
            let experts = entry.shape.as_ref().map_or(0, |shape| shape.experts);
            assert_eq!(active.is_some(), experts > 0, "{file}: active parameters and experts");
            let sampling = SamplingDefaults::from(entry.sampling.expect(file));
            sampling.over(&Default::default()).validate().expect(file);
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
    fn names_that_users_type() {
        for (typed, name) in [
            ("qwen3-235b", "qwen3-235b-a22b"),
            ("Qwen3-30B", "qwen3-30b-a3b"),
            ("deepseek-r1", "deepseek-r1"),
            ("deepseek-v3", "deepseek-v3"),
            ("deepseek-v2-lite", "deepseek-v2-lite-chat"),
            ("qwen2.5-coder-7b", "qwen2.5-coder-7b-instruct"),
            ("MiniMax-M2", "minimax-m2"),
        ] {
            assert_eq!(find(typed).map(|entry| entry.name.as_str()), Some(name), "{typed}");
        }
        assert_eq!(find_repo("deepseek-ai/deepseek-v3").expect("repo").name, "deepseek-v3");
        assert!(find_repo("deepseek-ai/DeepSeek-V9").is_none());
    }

    #[test]
    fn shapes_with_their_context_and_quantisation() {
        let names = |shape: &Shape, context, quantisation| -> Vec<&str> {
            find_shape(shape, context, quantisation).iter().map(|entry| entry.name.as_str()).collect()
        };
        let shape = |architecture: &str, hidden, layers, experts| Shape {
            architecture: architecture.into(),
            hidden,
            layers,
            experts,
        };
        let qwen = shape("Qwen3MoeForCausalLM", 4096, 94, 128);
        assert_eq!(names(&qwen, 40960, None), ["qwen3-235b-a22b"]);
        assert_eq!(names(&qwen, 40960, Some("gptq")), ["qwen3-235b-a22b-gptq-int4"]);
        // Converted by somebody: no entry is quantised so, all of that context are alike.
        assert_eq!(names(&qwen, 40960, Some("bitsandbytes")).len(), 3);
        assert!(names(&qwen, 4096, None).is_empty());
        let deepseek = names(&shape("DeepseekV3ForCausalLM", 7168, 61, 256), 163_840, Some("fp8"));
        assert!(deepseek.contains(&"deepseek-v3") && deepseek.contains(&"deepseek-r1"), "{deepseek:?}");
        // A Llama 3.1 is no R1 distill, though their configs are alike.
        assert!(names(&shape("LlamaForCausalLM", 4096, 32, 0), 131_072, None).is_empty());
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        assert_eq!(near("qwen3-8", 1), ["qwen3-8b"]);
        assert_eq!(near("qwen3:8", 1), ["qwen3-8b"]);
        assert_eq!(near("deepseek", 2), ["deepseek-r1", "deepseek-v3"]);
        assert_eq!(near("qwen2.5-codr-7b-instruct", 1), ["qwen2.5-coder-7b-instruct"]);
        for far in ["llama3.2", "mistral", "gpt-4o", "phi", "x", "", "claude-opus-4"] {
            assert!(near(far, 3).is_empty(), "{far}: {:?}", near(far, 3));
        }
        assert!(near(&"q".repeat(1000), 3).is_empty());
        assert_eq!(find("SmolLM2-135M").expect("alias").name, "smollm2-135m-instruct");
    }

    #[test]
    fn names_as_ollama_has_them() {
        for (typed, name) in [
            ("qwen3:8b", "qwen3-8b"),
            ("qwen3", "qwen3-8b"),
            ("qwen3:latest", "qwen3-8b"),
            ("qwen3:0.6b", "qwen3-0.6b"),
            ("qwen3:30b", "qwen3-30b-a3b"),
            ("qwen3:235b", "qwen3-235b-a22b"),
            ("qwen3-coder:30b", "qwen3-coder-30b-a3b-instruct"),
            ("qwen2.5:7b", "qwen2.5-7b-instruct"),
            ("qwen2.5:72b", "qwen2.5-72b-instruct"),
            ("qwen2.5-coder:7b", "qwen2.5-coder-7b-instruct"),
            ("qwen2.5-coder:0.5b", "qwen2.5-coder-0.5b-instruct"),
            ("deepseek-r1:7b", "deepseek-r1-distill-qwen-7b"),
            ("deepseek-r1:70b", "deepseek-r1-distill-llama-70b"),
            ("deepseek-r1:671b", "deepseek-r1"),
            ("deepseek-v2:16b", "deepseek-v2-lite-chat"),
            ("smollm2:135m", "smollm2-135m-instruct"),
            ("minimax-m2", "minimax-m2"),
        ] {
            assert_eq!(find(typed).map(|entry| entry.name.as_str()), Some(name), "{typed}");
        }
        assert!(find("llama3.2").is_none() && find("qwen3:9b").is_none());
    }

    #[test]
    fn a_files_name_tells_those_apart_that_share_a_shape() {
        let shape = Shape { architecture: "Qwen2ForCausalLM".into(), hidden: 896, layers: 24, experts: 0 };
        let names = |name: &str| {
            let found = recognise(name, &shape, 32768, None);
            (found.by, found.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>())
        };
        let coder = "qwen2.5-coder-0.5b-instruct";
        assert_eq!(names("qwen2.5-coder-0.5b-instruct-q4_k_m"), (Some("name"), vec![coder]));
        assert_eq!(names("Qwen/Qwen2.5-Coder-0.5B-Instruct"), (Some("name"), vec![coder]));
        assert_eq!(names("model"), (Some("shape"), vec!["qwen2.5-0.5b-instruct", coder]));
        let found = recognise("model", &shape, 32768, None).sampling().expect("both have it");
        assert_eq!((found.0.temperature, found.0.repetition_penalty), (Some(0.7), Some(1.1)));
        let other = Shape { hidden: 897, ..shape };
        assert!(recognise("model", &other, 32768, None).sampling().is_none());
    }
}
