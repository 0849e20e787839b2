//! Named tensors over mapped files. Ranges are checked on insertion, so reading cannot fail.

use super::mmap::Mapping;
use super::{CheckpointError, Dtype, TensorData};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// A checkpoint's tensors. Opaque; read through [`super::Checkpoint`]. The default has none.
#[derive(Debug, Default)]
pub struct Tensors {
    files: Vec<Mapping>,
    entries: BTreeMap<String, Entry>,
    /// Tensors of types that are not read, and why: harmless until a model asks for one.
    passed_over: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Tensors {
    /// Adds a file; its index is what [`Tensors::insert`] takes.
    pub(super) fn add_file(&mut self, file: Mapping) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    /// Adds a tensor. Its name must be new, its range inside the file and as long as dtype and
    /// shape say.
    pub(super) fn insert(
        &mut self,
        file: usize,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        range: Range<usize>,
    ) -> Result<(), CheckpointError> {
        let mapping = &self.files[file];
        let invalid = |reason: String| Err(CheckpointError::invalid(mapping.path(), reason));
        let Some(bytes) = byte_length(dtype, &shape) else {
            return invalid(format!("tensor {name}: shape {shape:?} is not possible for {dtype:?}"));
        };
        if range.start > range.end || range.end > mapping.bytes().len() {
            return invalid(format!(
                "tensor {name}: bytes {range:?} are outside the file of {} bytes; it is truncated or corrupt",
                mapping.bytes().len()
            ));
        }
        if range.len() != bytes {
            return invalid(format!(
                "tensor {name}: {dtype:?} of shape {shape:?} takes {bytes} bytes, the file has {}",
                range.len()
            ));
        }
        if self.entries.contains_key(&name) {
            return invalid(format!("tensor {name} appears twice"));
        }
        self.entries.insert(name, Entry { file, dtype, shape, range });
        Ok(())
    }

    /// Notes a tensor that cannot be read.
    pub(super) fn pass_over(&mut self, file: usize, name: String, reason: String) {
        let reason = format!("{}: tensor {name}: {reason}", self.files[file].path().display());
        self.passed_over.insert(name, reason);
    }

    /// Why the tensor of that name cannot be read, where that is so.
    pub(super) fn passed_over(&self, name: &str) -> Option<&str> {
        self.passed_over.get(name).map(String::as_str)
    }

    /// All tensors that cannot be read, with the reasons.
    pub(super) fn all_passed_over(&self) -> impl Iterator<Item = (&str, &str)> {
        self.passed_over.iter().map(|(name, reason)| (name.as_str(), reason.as_str()))
    }

    pub(super) fn get(&self, name: &str) -> Option<TensorData<'_>> {
        let (name, entry) = self.entries.get_key_value(name)?;
        Some(TensorData {
            name: name.clone(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            data: Cow::Borrowed(&self.files[entry.file].bytes()[entry.range.clone()]),
        })
    }

    /// Decoders that are saved without their head (embedding models) name their tensors without the `model.` that
    /// stands for it; they get the usual names.
    pub(super) fn name_headless_decoder(&mut self) {
        if !self.entries.contains_key("embed_tokens.weight") {
            return;
        }
        let usual = |name: String| match name.split('.').next() {
            Some("embed_tokens" | "layers" | "norm") => format!("model.{name}"),
            _ => name,
        };
        self.entries = std::mem::take(&mut self.entries).into_iter().map(|(k, v)| (usual(k), v)).collect();
        let passed_over = std::mem::take(&mut self.passed_over);
        self.passed_over = passed_over.into_iter().map(|(name, reason)| (usual(name), reason)).collect();
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.range.len()).sum()
    }

    pub(super) fn release_pages(&self) {
        self.files.iter().for_each(Mapping::release_pages);
    }
}

/// Bytes of a tensor: rows (the innermost dimension) consist of whole blocks.
pub(super) fn byte_length(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let (row, outer) = shape.split_last().map_or((1, &[][..]), |(row, outer)| (*row, outer));
    let rows = outer.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim))?;
    dtype.bytes(row)?.checked_mul(rows)
}
