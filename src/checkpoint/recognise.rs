//! Files that are no checkpoint, or not one that can be served: what they are, and what to do.
//! Told by their names and first bytes alone.

use super::CheckpointError;
use crate::files;
use std::path::Path;

/// What a Git LFS pointer begins with (the specification's first line).
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// An error where these are the first bytes of a pointer that Git LFS leaves in place of a large
/// file that was not fetched.
pub(super) fn refuse_lfs_pointer(path: &Path, start: &[u8]) -> Result<(), CheckpointError> {
    if !start.starts_with(LFS_POINTER) {
        return Ok(());
    }
    Err(CheckpointError::invalid(
        path,
        "is a Git LFS pointer, a few lines of text in place of the file itself; run `git lfs install` and \
         `git lfs pull` in its directory, or fetch the model with `novastack pull`",
    ))
}

/// [`refuse_lfs_pointer`] of a file that others will read.
pub(super) fn refuse_lfs_pointer_at(path: &Path) -> Result<(), CheckpointError> {
    let start = files::read_start(path, LFS_POINTER.len() as u64)
        .map_err(|source| CheckpointError::io(path, source))?;
    refuse_lfs_pointer(path, &start)
}

/// Files of a LoRA adapter, as peft saves it.
const ADAPTER_FILES: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"];

/// The file that shows that the directory holds a LoRA adapter.
pub(super) fn adapter_file(directory: &Path) -> Option<&'static str> {
    ADAPTER_FILES.into_iter().find(|name| directory.join(name).exists())
}

/// An error where the directory, which lacks what a checkpoint has, holds a LoRA adapter.
pub(super) fn refuse_adapter(directory: &Path) -> Result<(), CheckpointError> {
    let Some(file) = adapter_file(directory) else { return Ok(()) };
    let config = super::hf_dir::read_json(&directory.join("adapter_config.json")).unwrap_or_default();
    let base = match config["base_model_name_or_path"].as_str() {
        Some(base) => format!("a LoRA adapter for {base}"),
        None => "a LoRA adapter".to_owned(),
    };
    Err(CheckpointError::invalid(
        directory.join(file),
        format!(
            "belongs to {base}, which is no model by itself and is not supported; merge the two (in Python: \
             peft.AutoPeftModelForCausalLM.from_pretrained(directory).merge_and_unload().save_pretrained(merged)) \
             and serve the merged directory"
        ),
    ))
}

/// Vocabularies in formats that are not read, and what they are.
const OTHER_VOCABULARIES: [(&str, &str); 6] = [
    ("tokenizer.model", "a SentencePiece vocabulary"),
    ("spiece.model", "a SentencePiece vocabulary"),
    ("tekken.json", "Mistral's own vocabulary"),
    ("tiktoken.model", "a tiktoken vocabulary"),
    ("qwen.tiktoken", "a tiktoken vocabulary"),
    ("vocab.txt", "a WordPiece vocabulary"),
];

/// What to tell where a directory has no tokenizer that is read.
pub(super) fn no_tokenizer(directory: &Path) -> String {
    let found = OTHER_VOCABULARIES.into_iter().find(|(name, _)| directory.join(name).exists());
    let there = match found {
        Some((name, kind)) => format!("; {name} there is {kind}, which is not read"),
        None => String::new(),
    };
    format!(
        "has no tokenizer.json (nor vocab.json and merges.txt){there}, so only token ids can be served; add the \
         model's tokenizer.json (in Python: transformers.AutoTokenizer.from_pretrained(directory)\
         .save_pretrained(directory))"
    )
}

/// `general.type` and `general.architecture` of GGUF files that are no model.
pub(super) fn refuse_gguf_kind(
    path: &Path,
    kind: Option<&str>,
    architecture: &str,
) -> Result<(), CheckpointError> {
    let reason = match (kind, architecture) {
        (Some("adapter"), _) => {
            "is a LoRA adapter, which is no model by itself and is not supported; merge it into its model with \
             llama.cpp's llama-export-lora and serve the result"
        }
        (Some("mmproj"), _) | (_, "clip") => {
            "is a projector for images, which is no model by itself and is not supported; serve the model's own \
             GGUF file, for text alone"
        }
        (Some("imatrix"), _) => "is an importance matrix for quantising, no model",
        (Some("vocab"), _) => "holds a vocabulary alone, no model",
        _ => return Ok(()),
    };
    Err(CheckpointError::invalid(path, reason))
}
