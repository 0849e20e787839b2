//! What weights and KV cache take on a number of devices, and the longest context that is left.
//!
//! The rule, printed with the numbers: of a device's memory a tenth is left alone, a reserve goes
//! to activations, and what the weights leave is for the KV cache. The number of GCDs is the
//! least that splits the heads evenly and still holds one sequence of the model's full context.

use super::stored::StoredFormat;
use crate::backend::KV_BLOCK_TOKENS;
use crate::model::ModelConfig;
use crate::model::inventory::{self, TensorSpec};
use serde::Serialize;

/// Tensor-parallel groups that are considered.
pub const DEVICES_MAX: usize = 64;
/// Of a device's memory; the rest is the driver's, the allocator's and the system's.
const USABLE_PERCENT: u64 = 90;
/// Activations, logits and collectives' buffers on a GPU.
const GPU_RESERVE_BYTES: u64 = 2 << 30;
/// The same on a CPU, with smaller steps.
const CPU_RESERVE_BYTES: u64 = 512 << 20;
const GCD_BYTES: u64 = 64 << 30;
/// A smaller group than recommended is worth mentioning from this context on.
const SHORT_CONTEXT_MIN: u64 = 2048;

/// What the numbers rest on.
#[derive(Serialize)]
pub struct Assumptions {
    /// Memory of one die of an MI250.
    pub gcd_bytes: u64,
    /// Of a device's memory.
    pub usable_percent: u64,
    /// For activations and buffers, on a GPU.
    pub reserve_bytes_per_gpu: u64,
    /// The same on a CPU.
    pub reserve_bytes_on_cpu: u64,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            gcd_bytes: GCD_BYTES,
            usable_percent: USABLE_PERCENT,
            reserve_bytes_per_gpu: GPU_RESERVE_BYTES,
            reserve_bytes_on_cpu: CPU_RESERVE_BYTES,
        }
    }
}

/// One device of a group.
#[derive(Clone, Copy)]
pub struct Device {
    bytes: u64,
    reserve: u64,
}

impl Device {
    /// One of the two dies of an MI250.
    pub const MI250_GCD: Device = Device { bytes: GCD_BYTES, reserve: GPU_RESERVE_BYTES };

    /// A GPU with so much memory.
    pub fn gpu(bytes: u64) -> Self {
        Self { bytes, reserve: GPU_RESERVE_BYTES }
    }

    /// A CPU with so much free memory.
    pub fn cpu(free_bytes: usize) -> Self {
        Self { bytes: free_bytes as u64, reserve: CPU_RESERVE_BYTES }
    }

    /// For weights and KV cache.
    fn usable(self) -> u64 {
        (self.bytes / 100 * USABLE_PERCENT).saturating_sub(self.reserve)
    }
}

/// One format's weights, and the MI250 GCDs that they need.
#[derive(Serialize)]
pub struct Weights {
    /// Its name.
    pub format: String,
    /// Whether the checkpoint is stored so.
    pub as_stored: bool,
    /// Of all weights.
    pub bytes: u64,
    /// None where no group of [`DEVICES_MAX`] or fewer holds them.
    pub mi250: Option<Fit>,
    /// The largest group that holds the weights with less than the full context.
    pub mi250_short: Option<Fit>,
}

/// One format on a group of devices.
#[derive(Clone, Serialize)]
pub struct Fit {
    /// Its name.
    pub format: String,
    /// Whether the checkpoint is stored so.
    pub as_stored: bool,
    /// How many share the model.
    pub devices: usize,
    /// Of weights.
    pub weight_bytes_per_device: u64,
    /// For weights and KV cache.
    pub usable_bytes_per_device: u64,
    /// Of a token's keys and values.
    pub kv_bytes_per_token_per_device: u64,
    /// Of all sequences together; None where the weights do not fit.
    pub kv_tokens: Option<u64>,
    /// Of one sequence, up to what the model was made for.
    pub longest_context: Option<u64>,
}

/// Formats on devices that the caller has.
#[derive(Serialize)]
pub struct Given {
    /// How many.
    pub devices: usize,
    /// Each one's.
    pub memory_bytes: u64,
    /// One per format.
    pub fits: Vec<Fit>,
}

/// A model whose tensors are to be placed.
pub struct Model<'a> {
    /// Its shape.
    pub config: &'a ModelConfig,
    /// All that is loaded.
    pub tensors: &'a [TensorSpec],
    /// Allowed numbers of devices.
    pub sizes: &'a [usize],
}

impl Model<'_> {
    /// What its weights take in a format, and the MI250 dies that hold them.
    pub fn weights(&self, format: &StoredFormat) -> Weights {
        let full = self.config.max_context as u64;
        let fits: Vec<Fit> =
            self.sizes.iter().map(|devices| self.fit(format, Device::MI250_GCD, *devices)).collect();
        let enough = fits.iter().position(|fit| fit.longest_context == Some(full));
        let short = fits[..enough.unwrap_or(fits.len())].last();
        let worth = |fit: &&Fit| fit.longest_context.is_some_and(|tokens| tokens >= SHORT_CONTEXT_MIN);
        Weights {
            format: format.name.clone(),
            as_stored: format.as_stored,
            bytes: format.rank_bytes(self.tensors, 1),
            mi250: enough.map(|index| fits[index].clone()),
            mi250_short: short.filter(worth).cloned(),
        }
    }

    /// What each format leaves on so many devices.
    pub fn given(&self, formats: &[StoredFormat], device: Device, devices: usize) -> Given {
        let fits = formats.iter().map(|format| self.fit(format, device, devices)).collect();
        Given { devices, memory_bytes: device.bytes, fits }
    }

    /// After memory ran out: how much is missing for the weights as `formats` begin with them, on
    /// `devices` that have `usable` bytes each, and what would fit.
    pub fn shortage(&self, formats: &[StoredFormat], devices: usize, usable: u64) -> String {
        let gb = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
        let Some(stored) = formats.first() else { return String::new() };
        // One block of KV cache, and activations, must fit beside them.
        let beside = (inventory::kv_spec(self.config, devices).block_bytes() as u64).max(usable / 20);
        let needs = |format: &StoredFormat, devices| format.rank_bytes(self.tensors, devices) + beside;
        let fits = |format: &StoredFormat, devices| needs(format, devices) <= usable;
        let mut text = format!(
            "its weights take {} on each of {devices}, which may use {}",
            gb(stored.rank_bytes(self.tensors, devices)),
            gb(usable)
        );
        if let Some(missing) = needs(stored, devices).checked_sub(usable) {
            text += &format!(": about {} too little", gb(missing));
        }
        let group = self.sizes.iter().find(|size| **size > devices && fits(stored, **size));
        let smaller = formats[1..].iter().find(|format| fits(format, devices));
        let ways = [
            group.map(|size| format!("{size} such devices")),
            smaller.map(|format| format!("the same model in {}", format.name)),
        ];
        let ways: Vec<String> = ways.into_iter().flatten().collect();
        match ways.is_empty() {
            true => text + "; no group of such devices and no smaller format would fit",
            false => text + "; what would fit: " + &ways.join(", or "),
        }
    }

    fn fit(&self, format: &StoredFormat, device: Device, devices: usize) -> Fit {
        let weights = format.rank_bytes(self.tensors, devices);
        let token = inventory::kv_spec(self.config, devices).token_bytes() as u64;
        let block = KV_BLOCK_TOKENS as u64;
        let room = device.usable().checked_sub(weights);
        let kv_tokens = room.map(|room| room / token / block * block).filter(|tokens| *tokens > 0);
        Fit {
            format: format.name.clone(),
            as_stored: format.as_stored,
            devices,
            weight_bytes_per_device: weights,
            usable_bytes_per_device: device.usable(),
            kv_bytes_per_token_per_device: token,
            kv_tokens,
            longest_context: kv_tokens.map(|tokens| tokens.min(self.config.max_context as u64)),
        }
    }
}
