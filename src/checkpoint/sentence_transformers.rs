//! The files by which sentence-transformers says how a text's vector comes from a model's hidden states: modules.json
//! (what follows the transformer), the pooling's own config.json, sentence_bert_config.json (the longest text) and
//! config_sentence_transformers.json (what is put before texts).

use super::CheckpointError;
use super::hf_dir::{optional_json, read_text};
use crate::protocol::EmbeddingPrompts;
use serde_json::Value;
use std::path::Path;

const MODULES: &str = "modules.json";
const PROMPTS: &str = "config_sentence_transformers.json";

/// How a text's vector is taken from the hidden states of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingMode {
    /// The first token's.
    Cls,
    /// Their mean.
    Mean,
    /// The last token's.
    Last,
}

impl PoolingMode {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "first token",
            Self::Mean => "mean",
            Self::Last => "last token",
        }
    }
}

/// What the files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceTransformers {
    /// None where there is no pooling: the checkpoint is not for embeddings.
    pub pooling: Option<PoolingMode>,
    /// Vectors are made to be of length 1.
    pub normalises: bool,
    /// What is put before texts.
    pub prompts: EmbeddingPrompts,
    /// Tokens of a text at the most, where that is said.
    pub max_tokens: Option<usize>,
}

impl SentenceTransformers {
    /// Of a directory in Hugging Face layout; None where it has no modules.json.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, CheckpointError> {
        let path = directory.join(MODULES);
        if !path.exists() {
            return Ok(None);
        }
        let invalid = |reason: String| CheckpointError::invalid(&path, reason);
        let modules: Value = serde_json::from_str(&read_text(&path)?)
            .map_err(|error| invalid(format!("not valid JSON: {error}")))?;
        let modules = modules.as_array().ok_or_else(|| invalid("must hold a list of modules".into()))?;
        let mut read = Self {
            pooling: None,
            normalises: false,
            prompts: EmbeddingPrompts::default(),
            max_tokens: max_tokens(directory)?,
        };
        for (index, module) in modules.iter().enumerate() {
            let kind = module["type"].as_str().unwrap_or_default();
            let folder = module["path"].as_str().unwrap_or_default();
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" if folder.is_empty() => {}
                "Transformer" => {
                    return Err(invalid(format!(
                        "[{index}].path: the transformer must be in the directory itself"
                    )));
                }
                "Pooling" => read.pooling = Some(pooling(directory, folder, &path, index)?),
                "Normalize" => read.normalises = true,
                other => {
                    return Err(invalid(format!(
                        "[{index}].type: `{other}` is not supported; supported: Transformer, Pooling, Normalize"
                    )));
                }
            }
        }
        read.prompts = prompts(directory)?;
        Ok(Some(read))
    }
}

fn pooling(
    directory: &Path,
    folder: &str,
    modules: &Path,
    index: usize,
) -> Result<PoolingMode, CheckpointError> {
    if folder.is_empty() || !super::hf_dir::plain_file_name(folder) {
        let reason = format!("[{index}].path: must name a folder of the directory, got {folder:?}");
        return Err(CheckpointError::invalid(modules, reason));
    }
    let path = directory.join(folder).join("config.json");
    let config = super::hf_dir::read_json(&path)?;
    let invalid = |reason: String| Err(CheckpointError::invalid(&path, reason));
    if config["include_prompt"] == Value::Bool(false) {
        return invalid(
            "include_prompt: false is not supported: the tokens of a prompt are pooled too".into(),
        );
    }
    let flags = config.as_object().into_iter().flatten();
    let mut modes: Vec<&str> = flags
        .filter(|(_, value)| **value == Value::Bool(true))
        .filter_map(|(name, _)| name.strip_prefix("pooling_mode_"))
        .collect();
    // Another spelling of the same.
    modes.extend(config["pooling_mode"].as_str());
    match modes.as_slice() {
        ["cls_token" | "cls"] => Ok(PoolingMode::Cls),
        ["mean_tokens" | "mean"] => Ok(PoolingMode::Mean),
        ["lasttoken"] => Ok(PoolingMode::Last),
        [] => invalid("pooling_mode: none is true; supported: cls_token, mean_tokens, lasttoken".into()),
        modes => invalid(format!(
            "pooling_mode: {} is not supported; supported is one of cls_token, mean_tokens, lasttoken",
            modes.join(" with ")
        )),
    }
}

fn max_tokens(directory: &Path) -> Result<Option<usize>, CheckpointError> {
    let path = directory.join("sentence_bert_config.json");
    match optional_json(&path)?.get("max_seq_length") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(tokens @ 1..) => Ok(Some(tokens as usize)),
            _ => {
                let reason = format!("max_seq_length: must be a number of tokens, got {value}");
                Err(CheckpointError::invalid(&path, reason))
            }
        },
    }
}

fn prompts(directory: &Path) -> Result<EmbeddingPrompts, CheckpointError> {
    let path = directory.join(PROMPTS);
    let config = optional_json(&path)?;
    let prompt = |names: &[&str]| -> Result<Option<String>, CheckpointError> {
        for name in names {
            match &config["prompts"][*name] {
                Value::Null => {}
                Value::String(text) => return Ok(Some(text.clone()).filter(|text| !text.is_empty())),
                other => {
                    let reason = format!("prompts.{name}: must be text, got {other}");
                    return Err(CheckpointError::invalid(&path, reason));
                }
            }
        }
        Ok(None)
    };
    Ok(EmbeddingPrompts { query: prompt(&["query"])?, document: prompt(&["document", "passage"])? })
}
