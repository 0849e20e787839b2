//! With which sampling parameters a model answers a request that leaves them out, and how long its
//! answers may become. The first of these that says something counts: the command line and the
//! configuration (parameter by parameter), the checkpoint's generation_config.json or
//! `general.sampling.*` of its GGUF file, the catalogue, and values that suit most models.

use novastack::checkpoint::catalogue::Recognised;
use novastack::checkpoint::{Checkpoint, TokenizerSource};
use novastack::gateway::{GenerationDefaults, sampling_of_checkpoint};
use novastack::protocol::SamplingDefaults;

/// Output tokens of a chat answer at the most, where nobody says: a few pages. A small model that does
/// not find an end then stops after a minute or two, not when its context is full.
const MAX_TOKENS: u32 = 4096;
/// The same for models that think before they answer: their thoughts alone take thousands of tokens, and
/// their authors recommend this bound.
const MAX_TOKENS_REASONING: u32 = 32_768;

/// What somebody has set for a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingChoice {
    /// On the command line.
    pub command_line: SamplingDefaults,
    /// In the configuration, which counts before the command line as it is about one model.
    pub configuration: SamplingDefaults,
    pub max_tokens: Option<Bound>,
}

/// A bound that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    None,
    To(u32),
}

/// `--sampling temperature=0.7,top_p=0.8`.
pub fn parse(text: &str) -> Result<SamplingDefaults, String> {
    let mut sampling = SamplingDefaults::default();
    for piece in text.split(',') {
        let (name, value) = piece.split_once('=').ok_or_else(|| {
            format!("`{piece}` is not NAME=VALUE; names are {}", SamplingDefaults::NAMES.join(", "))
        })?;
        let (name, value) = (name.trim(), value.trim());
        let number: f64 = value.parse().map_err(|_| format!("{name} must be a number, not `{value}`"))?;
        sampling.set(name, number)?;
    }
    Ok(sampling)
}

/// `--default-max-tokens 4096`, or `none`.
pub fn parse_bound(text: &str) -> Result<Bound, String> {
    match (text, text.parse::<u32>()) {
        ("none", _) => Ok(Bound::None),
        (_, Ok(tokens)) if tokens > 0 => Ok(Bound::To(tokens)),
        _ => Err("a number of tokens of 1 or more, or `none`, is expected".into()),
    }
}

/// What holds for a checkpoint.
///
/// # Errors
/// A generation_config.json whose fields are wrong.
pub fn defaults(
    given: &SamplingChoice,
    checkpoint: &Checkpoint,
    recognised: &Recognised,
) -> Result<GenerationDefaults, String> {
    let own = sampling_of_checkpoint(&checkpoint.generation_config)?;
    let (base, base_from) = match (own, recognised.sampling()) {
        (Some(own), _) => match checkpoint.tokenizer {
            Some(TokenizerSource::Gguf(_)) => (own, "general.sampling of the GGUF file".to_owned()),
            _ => (own, "generation_config.json".to_owned()),
        },
        (None, Some((known, name))) => (known, format!("the catalogue's for {name}")),
        (None, None) => (SamplingDefaults::USUAL, "usual values, as nothing is known of the model".into()),
    };
    let mut sampling_from = base_from;
    for (set, by) in [(given.command_line, "the command line"), (given.configuration, "the configuration")] {
        if set != SamplingDefaults::default() {
            sampling_from = format!("{by}, then {sampling_from}");
        }
    }
    let usual = if recognised.reasons() { MAX_TOKENS_REASONING } else { MAX_TOKENS };
    Ok(GenerationDefaults {
        sampling: given.configuration.or(given.command_line).or(base),
        sampling_from,
        max_tokens: match given.max_tokens {
            Some(Bound::None) => None,
            Some(Bound::To(tokens)) => Some(tokens),
            None => Some(usual),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use novastack::checkpoint::catalogue;
    use serde_json::{Value, json};

    fn defaults_of(given: SamplingChoice, config: Value, entry: Option<&str>) -> GenerationDefaults {
        let checkpoint = Checkpoint { generation_config: config, ..Checkpoint::default() };
        let entries = entry.map(|name| catalogue::find(name).expect(name)).into_iter().collect();
        defaults(&given, &checkpoint, &catalogue::Recognised { entries, by: None }).expect("valid")
    }

    #[test]
    fn sampling_defaults_come_from_the_first_that_says_something() {
        let nobody = SamplingChoice::default();
        let of = |given, config, entry| {
            let found = defaults_of(given, config, entry);
            let s = found.sampling;
            ((s.temperature, s.top_p, s.top_k, s.min_p, s.repetition_penalty), found.sampling_from)
        };
        // Nobody: values that suit most models.
        let (usual, from) = of(nobody, json!({}), None);
        assert_eq!(usual, (Some(0.8), Some(0.95), Some(40), Some(0.05), None));
        assert!(from.starts_with("usual values"), "{from}");
        // The catalogue's; a generation_config without a word about sampling says nothing.
        let silent = json!({"eos_token_id": 1, "transformers_version": "4.50"});
        let (known, from) = of(nobody, silent, Some("qwen2.5-coder-0.5b-instruct"));
        assert_eq!(known, (Some(0.7), Some(0.8), Some(20), None, Some(1.1)));
        assert_eq!(from, "the catalogue's for qwen2.5-coder-0.5b-instruct");
        // The checkpoint's own, whole.
        let own = json!({"temperature": 0.3, "do_sample": true});
        let (found, from) = of(nobody, own.clone(), Some("qwen2.5-coder-0.5b-instruct"));
        assert_eq!((found, from.as_str()), ((Some(0.3), None, None, None, None), "generation_config.json"));
        // What is set, parameter by parameter.
        let given = SamplingChoice {
            command_line: parse("temperature=0, top_k=7").expect("valid"),
            configuration: parse("top_k=9").expect("valid"),
            max_tokens: None,
        };
        let (found, from) = of(given, own, None);
        assert_eq!(found, (Some(0.0), None, Some(9), None, None));
        assert_eq!(from, "the configuration, then the command line, then generation_config.json");
    }

    #[test]
    fn chat_answers_have_a_default_bound() {
        let of = |max_tokens, entry| {
            let given = SamplingChoice { max_tokens, ..SamplingChoice::default() };
            defaults_of(given, json!({}), entry).max_tokens
        };
        assert_eq!(of(None, None), Some(4096));
        assert_eq!(of(None, Some("qwen2.5-7b-instruct")), Some(4096));
        assert_eq!(of(None, Some("deepseek-r1-distill-qwen-7b")), Some(32_768));
        assert_eq!(of(Some(Bound::To(7)), Some("qwen3-8b")), Some(7));
        assert_eq!(of(Some(Bound::None), None), None);
        assert_eq!((parse_bound("none"), parse_bound("5")), (Ok(Bound::None), Ok(Bound::To(5))));
        assert!(parse_bound("0").is_err() && parse_bound("-1").is_err() && parse_bound("").is_err());
    }

    #[test]
    fn sampling_on_the_command_line_is_checked() {
        for (text, words) in [
            ("temperature", "NAME=VALUE"),
            ("temperature=hot", "temperature must be a number"),
            ("temperature=2.1", "temperature must be between 0 and 2"),
            ("top_p=0", "top_p must be greater than 0"),
            ("top_k=1.5", "top_k must be a whole number"),
            ("min_p=NaN", "min_p must be between 0 and 1"),
            ("top_n=1", "there are temperature, top_p, top_k, min_p, repetition_penalty"),
            ("", "NAME=VALUE"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
