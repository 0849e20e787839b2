//! What a checkpoint needs, from its config and, where they are here, the headers of its weights: [`stored`] says
//! how its weights lie on disk, [`memory`] what they and the KV cache take on a number of devices.

pub mod memory;
pub mod stored;

use crate::checkpoint::Checkpoint;
use crate::model::ModelConfig;
use crate::model::inventory::{self, Format, TensorSpec};
use std::path::Path;
use stored::Stored;

/// For an error: what is missing, and what would fit, where memory ran out on `devices` GPUs that may
/// use `usable` bytes each.
pub fn shortage(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    path: &Path,
    devices: usize,
    usable: u64,
) -> String {
    let tensors: Vec<TensorSpec> = inventory::tensors(config).collect();
    let sizes = inventory::tensor_parallel_sizes(config, memory::DEVICES_MAX);
    let formats = Stored::find(checkpoint, config, path, &tensors).formats();
    // As it is stored first; what is stored in f32 is served in 16 bits.
    let as_stored = formats.iter().position(|format| format.as_stored).unwrap_or(0);
    let bf16 = formats.iter().position(|format| format.name == format_name(Format::Bf16));
    let first = if config.full_precision { bf16.unwrap_or(as_stored) } else { as_stored };
    memory::Model { config, tensors: &tensors, sizes: &sizes }.shortage(&formats[first..], devices, usable)
}

/// What the weights take in memory where the CPU computes.
pub fn cpu_weight_bytes(checkpoint: &Checkpoint, config: &ModelConfig, path: &Path) -> u64 {
    let tensors: Vec<TensorSpec> = inventory::tensors(config).collect();
    let formats = Stored::find(checkpoint, config, path, &tensors).formats();
    let as_stored = formats.iter().find(|format| format.as_stored).or(formats.first());
    as_stored.map_or(0, |format| format.on_cpu().rank_bytes(&tensors, 1))
}

/// A format by its name in tables.
fn format_name(format: Format) -> String {
    match format {
        Format::F32 => "F32".into(),
        Format::Bf16 => "BF16".into(),
        Format::Fp8 { rows, columns } => format!("FP8 {rows}x{columns}"),
        Format::Int4 { group } => format!("INT4 g{group}"),
        Format::Q4_1 => "Q4_1".into(),
    }
}
