//! How a model is loaded and run, as the command line says it; for every command that does.

use super::{parse_bytes, parse_seconds};
use clap::{Args, ValueEnum};
use novastack::load::device::DeviceChoice;
use novastack::load::{LoadOptions, WeightSource};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadFormat {
    /// The checkpoint's own weights.
    Auto,
    /// Seeded random weights from config.json alone, for benchmarks.
    Dummy,
}

/// See the module.
#[derive(Args, Clone)]
pub struct LoadArgs {
    /// Where weights come from.
    #[arg(long, value_enum, default_value = "auto")]
    pub load_format: LoadFormat,
    /// Seed of the dummy weights.
    #[arg(long, default_value_t = 0)]
    pub dummy_seed: u64,
    /// What to compute on: cpu, GPUs as `novastack devices` lists them (hip:0, or hip:0,1 to share each model),
    /// or auto: a GPU where there is one.
    #[arg(long, default_value = "cpu", value_parser = DeviceChoice::parse)]
    pub device: DeviceChoice,
    /// Of a GPU's memory, how much weights and KV cache may take together.
    #[arg(long, default_value_t = 0.9, value_parser = parse_fraction, value_name = "FRACTION")]
    pub gpu_memory_utilization: f64,
    /// On GPUs: launch every kernel by itself, do not replay recorded decode steps.
    #[arg(long)]
    pub enforce_eager: bool,
    /// On GPUs: what a sequence gets does not depend on what else is computed, bit by bit; slower.
    /// The CPU always keeps to this.
    #[arg(long)]
    pub deterministic: bool,
    /// On GPUs: our own kernels for large products too, not rocBLAS, hipBLASLt or cuBLASLt.
    #[arg(long)]
    pub no_vendor_blas: bool,
    /// On GPUs: seconds after which a step is given up and the model stops: the device hangs.
    #[arg(long, default_value = "300", value_parser = parse_patience, value_name = "SECONDS")]
    pub step_timeout: Duration,
    /// Ranks that share each model: weights, heads and experts are split over them. On the CPU a
    /// rank is a thread or more of --threads; of GPUs each one in --device is a rank.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "RANKS")]
    pub tensor_parallel: Option<u16>,
    /// CPU threads per model [default: all cores].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Longest prompt and output together, no more than the model was made for [default: that, as far as
    /// the KV cache holds it].
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    pub max_context: Option<u32>,
    /// KV cache per model: bytes, or with a suffix K, M, G [default: a quarter of the free memory
    /// at the most]. On the CPU, no more than is free beside the weights, within the limits of control groups.
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    pub kv_cache_memory: Option<usize>,
    /// Sequences that run at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_running: u32,
    /// Tokens that one step computes at the most, prefill and decode together.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=65536))]
    pub step_tokens: u32,
}

impl LoadArgs {
    /// The same as plain options.
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            weights: match self.load_format {
                LoadFormat::Auto => WeightSource::Checkpoint,
                LoadFormat::Dummy => WeightSource::Dummy { seed: self.dummy_seed },
            },
            device: self.device.clone(),
            gpu_memory_utilization: self.gpu_memory_utilization,
            eager: self.enforce_eager,
            deterministic: self.deterministic,
            vendor_blas: !self.no_vendor_blas,
            step_timeout: self.step_timeout,
            tensor_parallel: self.tensor_parallel.map(usize::from),
            threads: self.threads.map(usize::from),
            max_context: self.max_context.map(|tokens| tokens as usize),
            context_may_shrink: false,
            kv_cache_memory: self.kv_cache_memory,
            max_running: self.max_running as usize,
            step_tokens: self.step_tokens as usize,
            promised_bytes: 0,
        }
    }
}

fn parse_fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(fraction) if fraction > 0.0 && fraction <= 1.0 => Ok(fraction),
        _ => Err("a number above 0 and up to 1 is expected".into()),
    }
}

fn parse_patience(text: &str) -> Result<Duration, String> {
    match parse_seconds(text) {
        Ok(limit) if limit >= Duration::from_secs(1) => Ok(limit),
        _ => Err("a number of seconds from 1 to 86400 is expected".into()),
    }
}
