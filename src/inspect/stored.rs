//! How a checkpoint's weights are stored: exactly, from tensor headers or the index; else as its
//! config says.

use super::format_name;
use crate::checkpoint::Checkpoint;
use crate::files;
use crate::model::inventory::{self, Format, TensorSpec};
use crate::model::{ModelConfig, Quantization};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest index of weights: ten times the largest one seen.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// What is known of the stored weights.
#[derive(Serialize)]
pub struct Stored {
    /// In words: "BF16", "FP8 128x128", "GPTQ int8 in groups of 128".
    pub format: String,
    /// With layers that are not loaded; None where nothing says so.
    pub bytes: Option<u64>,
    /// Where `bytes` is from.
    pub bytes_from: &'static str,
    /// Bytes of each type, from tensor headers.
    pub types: Vec<TypeBytes>,
    /// The same as a computable format.
    #[serde(skip)]
    known: Option<Format>,
}

/// Weights of one type.
#[derive(Serialize)]
pub struct TypeBytes {
    /// The type's name.
    pub name: &'static str,
    /// How many tensors.
    pub tensors: usize,
    /// Of them all.
    pub bytes: u64,
    /// Whether it is one of GGUF's block types.
    #[serde(skip)]
    blocks: bool,
}

/// A format as a row of a table: one that is computed, or the stored mixture.
pub struct StoredFormat {
    /// In words.
    pub name: String,
    /// Whether the checkpoint is stored so.
    pub as_stored: bool,
    how: How,
}

enum How {
    Computed(Format),
    /// That many bytes, split over ranks as a 16-bit checkpoint is.
    Bytes(u64),
}

impl StoredFormat {
    /// As the CPU serves it, under the name of what it was stored as.
    pub fn on_cpu(&self) -> Self {
        let how = match self.how {
            How::Computed(format) => How::Computed(format.on_cpu()),
            How::Bytes(bytes) => How::Bytes(bytes),
        };
        StoredFormat { name: self.name.clone(), as_stored: self.as_stored, how }
    }

    /// Bytes that each of `ranks` holds.
    pub fn rank_bytes(&self, tensors: &[TensorSpec], ranks: usize) -> u64 {
        match self.how {
            How::Computed(format) => format.rank_bytes(tensors, ranks),
            How::Bytes(bytes) => {
                let [whole, part] = [1, ranks].map(|ranks| Format::Bf16.rank_bytes(tensors, ranks));
                (u128::from(bytes) * u128::from(part)).div_ceil(u128::from(whole)) as u64
            }
        }
    }
}

impl Stored {
    /// Reads headers, or the index; no weight.
    pub fn find(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        path: &Path,
        tensors: &[TensorSpec],
    ) -> Stored {
        let types = types(checkpoint);
        let (format, known) = match &config.quantization {
            Some(quantization) => quantised(quantization),
            None => plain(&checkpoint.config, &types),
        };
        let computed = known.map(|known| {
            let prediction: Vec<TensorSpec> = inventory::prediction_tensors(config).collect();
            known.rank_bytes(tensors, 1) + known.rank_bytes(&prediction, 1)
        });
        let (bytes, bytes_from) = match (types.is_empty(), index_bytes(path), computed) {
            (false, ..) => (Some(types.iter().map(|one| one.bytes).sum()), "tensor headers"),
            (true, Some(bytes), _) => (Some(bytes), "the weights' index"),
            (true, None, Some(bytes)) => (Some(bytes), "config.json"),
            (true, None, None) => (None, "nothing"),
        };
        Stored { format, bytes, bytes_from, types, known }
    }

    /// The rows of the memory tables: what is stored, then what is not.
    pub fn formats(&self) -> Vec<StoredFormat> {
        let row = |format: Format| StoredFormat {
            name: format_name(format),
            as_stored: self.known == Some(format),
            how: How::Computed(format),
        };
        let mut rows = Vec::new();
        match (self.known, self.bytes) {
            (Some(Format::Bf16 | Format::FP8 | Format::INT4), _) => {}
            (Some(format), _) => rows.push(row(format)),
            (None, Some(bytes)) => {
                let how = How::Bytes(bytes);
                rows.push(StoredFormat { name: self.format.clone(), as_stored: true, how });
            }
            (None, None) => {}
        }
        rows.extend([Format::Bf16, Format::FP8, Format::INT4].map(row));
        rows
    }
}

/// Bytes of each type, the most first; empty without tensors.
fn types(checkpoint: &Checkpoint) -> Vec<TypeBytes> {
    let mut found = BTreeMap::<&'static str, TypeBytes>::new();
    for tensor in checkpoint.tensor_names().into_iter().filter_map(|name| checkpoint.tensor(name)) {
        let name = tensor.dtype.name();
        let blocks = tensor.dtype.block().0 > 1;
        let sum = found.entry(name).or_insert(TypeBytes { name, tensors: 0, bytes: 0, blocks });
        sum.tensors += 1;
        sum.bytes += tensor.data.len() as u64;
    }
    let mut types: Vec<TypeBytes> = found.into_values().collect();
    types.sort_by_key(|one| std::cmp::Reverse(one.bytes));
    types
}

/// Quantised weights; in words alone where the format is none of those that are computed.
fn quantised(quantization: &Quantization) -> (String, Option<Format>) {
    let int4 = |method: &str, group: usize| (format!("{method} INT4 g{group}"), Some(Format::Int4 { group }));
    match *quantization {
        Quantization::Fp8 => (format_name(Format::FP8), Some(Format::FP8)),
        Quantization::Awq { group: Some(group), .. } => int4("AWQ", group),
        Quantization::Gptq { bits: 4, group: Some(group), .. } => int4("GPTQ", group),
        ref other => (other.to_string(), None),
    }
}

/// Weights that are not quantised, or GGUF's block types.
fn plain(config: &Value, types: &[TypeBytes]) -> (String, Option<Format>) {
    if types.iter().any(|one| one.blocks) {
        let names = types.iter().filter(|one| one.blocks).map(|one| one.name);
        return (names.collect::<Vec<_>>().join(" + "), None);
    }
    let named = config.get("dtype").or_else(|| config.get("torch_dtype")).and_then(Value::as_str);
    match types.first().map(|one| one.name).or(named) {
        Some("F32" | "float32") => ("F32".into(), Some(Format::F32)),
        Some("F16" | "float16") => ("F16".into(), Some(Format::Bf16)),
        Some("BF16" | "bfloat16") => ("BF16".into(), Some(Format::Bf16)),
        Some(other) => (other.to_owned(), None),
        None => ("not said".into(), None),
    }
}

/// `metadata.total_size` of the index, where the directory has one.
fn index_bytes(path: &Path) -> Option<u64> {
    let text = files::read_text(&path.join("model.safetensors.index.json"), INDEX_BYTES_MAX).ok()?;
    serde_json::from_str::<Value>(&text).ok()?["metadata"]["total_size"].as_u64()
}
