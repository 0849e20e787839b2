//! Keys of the architecture that the reader has not asked for. What llama.cpp's converter writes
//! below an architecture's name are the numbers that its computation depends on, so that a key
//! which is unknown here means another model: it is refused by name.

use super::super::CheckpointError;
use super::super::gguf::Value;
use super::Reader;

/// Keys that say nothing about what a text model computes, or repeat what is known otherwise.
const HARMLESS: [&str; 7] = [
    // Of norms that none of these architectures has.
    "attention.layer_norm_epsilon",
    // How an embedding is made of a sequence, where not by the last token; the logits are those of any model.
    "pooling_type",
    "rope.scaling.finetuned",
    // The context before stretching, beside a stretching that does not depend on it.
    "rope.scaling.original_context_length",
    // Of files from before the converter: "Meta AI original pth".
    "tensor_data_layout",
    "training.type",
    // The embedding table says it.
    "vocab_size",
];

impl Reader<'_, '_> {
    /// An error about the first key that has been asked for by nobody and is not neutral.
    pub(super) fn refuse_unread(&self) -> Result<(), CheckpointError> {
        let asked = self.asked.borrow();
        let prefix = format!("{}.", self.arch.name);
        for (key, value) in self.gguf.entries() {
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            if asked.contains(key) || HARMLESS.contains(&name) || is_neutral(name, value) {
                continue;
            }
            let shown = match value {
                Value::Unsigned(number) => number.to_string(),
                Value::Signed(number) => number.to_string(),
                Value::F32(number) => number.to_string(),
                Value::F64(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                Value::Str(text) => format!("{text:?}"),
                Value::Array(_) => "a list".to_owned(),
            };
            return Err(self.gguf.invalid(format!(
                "metadata {key}: {shown} is not supported of architecture {}, and may change what the model \
                 answers; a file without this key, or with its neutral value, can be served",
                self.arch.name
            )));
        }
        Ok(())
    }
}

/// Whether the value is that of models without the feature: 1 for a factor, 0 for another number.
fn is_neutral(name: &str, value: Value<'_>) -> bool {
    let is_factor = ["scale", "factor", "multiplier"].iter().any(|word| name.contains(word));
    let neutral = if is_factor { 1.0 } else { 0.0 };
    match value {
        Value::Unsigned(number) => number as f64 == neutral,
        Value::Signed(number) => number as f64 == neutral,
        Value::F32(number) => f64::from(number) == neutral,
        Value::F64(number) => number == neutral,
        // Attention to what comes before is what all of them do.
        Value::Bool(flag) => flag == (name == "attention.causal"),
        Value::Str(text) => text.is_empty(),
        Value::Array(list) => list.values().next().is_none(),
    }
}
