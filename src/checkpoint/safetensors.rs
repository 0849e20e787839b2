//! safetensors files: one `model.safetensors`, or shards named by `model.safetensors.index.json`.
//! The `safetensors` crate parses and validates the headers; offsets point into our memory map.

use super::hf_dir::{plain_file_name, read_json};
use super::mmap::Mapping;
use super::tensors::Tensors;
use super::{CheckpointError, Dtype};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Length field in front of the header.
const HEADER_LENGTH_BYTES: usize = 8;

/// All tensors of these files.
pub(super) fn open_files(paths: &[PathBuf]) -> Result<Tensors, CheckpointError> {
    let mut tensors = Tensors::default();
    for path in paths {
        add_file(&mut tensors, path, |_| true)?;
    }
    Ok(tensors)
}

/// The tensors that the index lists, each from the shard that the index says.
pub(super) fn open_sharded(index: &Path) -> Result<Tensors, CheckpointError> {
    let shards = read_index(index)?;
    let directory = index.parent().unwrap_or(Path::new("."));
    let mut tensors = Tensors::default();
    for (shard, names) in &shards {
        let path = directory.join(shard);
        if !path.exists() {
            return Err(CheckpointError::invalid(
                index,
                format!("names the shard {shard}, which is not in the directory; fetch it"),
            ));
        }
        let found = add_file(&mut tensors, &path, |name| {
            names.binary_search_by(|listed| listed.as_str().cmp(name)).is_ok()
        })?;
        if found != names.len() {
            let missing =
                names.iter().find(|name| tensors.get(name).is_none() && tensors.passed_over(name).is_none());
            return Err(CheckpointError::invalid(
                index,
                format!(
                    "lists the tensor {} in {shard}, which does not hold it",
                    missing.map_or("", String::as_str)
                ),
            ));
        }
    }
    Ok(tensors)
}

/// The index file's shards, each with the (sorted) names of its tensors.
pub(super) fn read_index(index: &Path) -> Result<BTreeMap<String, Vec<String>>, CheckpointError> {
    let invalid = |reason: String| CheckpointError::invalid(index, reason);
    let json = read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(|map| map.as_object())
        .filter(|map| !map.is_empty())
        .ok_or_else(|| invalid("weight_map: must be an object of tensor names and shard files".into()))?;
    let mut shards = BTreeMap::<String, Vec<String>>::new();
    for (name, shard) in map {
        let shard = shard
            .as_str()
            .filter(|shard| plain_file_name(shard))
            .ok_or_else(|| invalid(format!("weight_map: {name}: must be a file name, got {shard}")))?;
        shards.entry(shard.to_owned()).or_default().push(name.clone());
    }
    shards.values_mut().for_each(|names| names.sort());
    Ok(shards)
}

/// Adds the file's tensors that are `wanted`; returns how many.
fn add_file(
    tensors: &mut Tensors,
    path: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<usize, CheckpointError> {
    let mapping = Mapping::open(path)?;
    let (header, metadata) = ::safetensors::SafeTensors::read_metadata(mapping.bytes()).map_err(|error| {
        CheckpointError::invalid(path, format!("not a complete safetensors file: {error}"))
    })?;
    let data_start = HEADER_LENGTH_BYTES + header;
    let file = tensors.add_file(mapping);
    let mut count = 0;
    for (name, info) in metadata.tensors() {
        if !wanted(&name) {
            continue;
        }
        let dtype = match info.dtype {
            ::safetensors::Dtype::F32 => Dtype::F32,
            ::safetensors::Dtype::F16 => Dtype::F16,
            ::safetensors::Dtype::BF16 => Dtype::BF16,
            ::safetensors::Dtype::F8_E4M3 => Dtype::F8E4M3,
            ::safetensors::Dtype::I32 => Dtype::I32,
            other => {
                let reason =
                    format!("type {other:?} is not supported; supported are F32, F16, BF16, F8_E4M3 and I32");
                tensors.pass_over(file, name, reason);
                count += 1;
                continue;
            }
        };
        let (start, end) = info.data_offsets;
        // The crate has checked that offsets are contiguous and end where the file ends.
        tensors.insert(file, name, dtype, info.shape.clone(), data_start + start..data_start + end)?;
        count += 1;
    }
    Ok(count)
}
