//! Quantised checkpoints in Hugging Face layout: what config.json's `quantization_config` says,
//! and a weight's parts (values, scales, zero points) joined to one tensor of a type that a
//! backend computes with.
//!
//! | published as | becomes | |
//! | --- | --- | --- |
//! | FP8 e4m3, scale per 128x128 (DeepSeek-V3, Qwen3-FP8, MiniMax-M2) | [`Dtype::F8Block`] | exact |
//! | AWQ and GPTQ int4, every zero point 8 | [`Dtype::Q4_0`] | exact for f16 scales |
//! | AWQ and GPTQ int4, other zero points | [`Dtype::Q4_1`] | scale * zero point is rounded to f16 |
//! | GPTQ int8, symmetric | [`Dtype::Q8_0`] | exact for f16 scales |
//!
//! Invariants: parts are checked against the config's shapes before they are read; nothing is
//! requantised. Modules that were left out of the quantisation need no list: their weight is
//! stored plainly, which is seen at the tensor. Deliberately absent: every other method
//! (bitsandbytes, compressed-tensors, mxfp4), refused by name; activation scales; GPTQ with
//! `desc_act` where it reordered the inputs.

mod fp8;
mod int4;

use super::LoadError;
use super::fields::{ConfigError, Fields};
use crate::checkpoint::{Checkpoint, Dtype, TensorData, TensorError};
use serde_json::Value;
use std::fmt;

/// The method and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// FP8 e4m3 with an f32 scale per 128x128 weights; activations were scaled while running.
    Fp8,
    /// AWQ (Lin et al. 2023) in AutoAWQ's "gemm" layout, 4 bits.
    Awq {
        /// Inputs that share a scale; None for all of a row.
        group: Option<usize>,
        /// Whether there are zero points; else every zero point is 8.
        zero_point: bool,
    },
    /// GPTQ (Frantar et al. 2022) in AutoGPTQ's layout.
    Gptq {
        /// 4 or 8.
        bits: u32,
        /// Inputs that share a scale; None for all of a row.
        group: Option<usize>,
        /// Zero points are stored less one (every format but `gptq_v2`).
        zero_less_one: bool,
        /// Inputs were quantised in the order of their activations.
        desc_act: bool,
    },
}

const FIELD: &str = "quantization_config";
const METHODS: &str = "fp8, awq, gptq";

impl Quantization {
    /// Reads `quantization_config`; None where there is none.
    pub fn from_config(config: &Value) -> Result<Option<Self>, ConfigError> {
        Self::read(&Fields::root(config))
    }

    /// The same, of a config that is being read.
    pub(super) fn read(config: &Fields<'_>) -> Result<Option<Self>, ConfigError> {
        let Some(fields) = config.object(FIELD)? else { return Ok(None) };
        let method = fields.string("quant_method")?.ok_or_else(|| {
            ConfigError::new(format!("{FIELD}.quant_method"), format!("is missing; supported: {METHODS}"))
        })?;
        match method {
            "fp8" => Self::fp8(&fields),
            "awq" => Self::awq(&fields),
            "gptq" => Self::gptq(&fields),
            other => Err(refused("quant_method", other, METHODS)),
        }
        .map(Some)
    }

    fn fp8(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        one_of(fields, "fmt", &["e4m3", "float8_e4m3fn"])?;
        one_of(fields, "activation_scheme", &["dynamic"])?;
        // How scales were rounded; those of the weights are stored in f32 either way.
        fields.ignore(&["scale_fmt"]);
        match fields.get("weight_block_size") {
            Some(size) if *size == serde_json::json!([fp8::BLOCK, fp8::BLOCK]) => Ok(Quantization::Fp8),
            Some(other) => Err(refused("weight_block_size", other, "[128, 128]")),
            None => Err(refused("weight_block_size", "none (one scale per tensor)", "[128, 128]")),
        }
    }

    fn awq(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        bits(fields, &[4])?;
        // Newer tools call the field `format`.
        one_of(fields, "version", &["gemm"])?;
        one_of(fields, "format", &["gemm"])?;
        Ok(Quantization::Awq {
            group: group(fields)?,
            zero_point: fields.flag("zero_point")?.unwrap_or(true),
        })
    }

    fn gptq(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let bits = bits(fields, &[4, 8])?;
        // The newer name wins; "gptq" is what files without the field are.
        let mut format = "gptq".to_owned();
        for field in ["checkpoint_format", "format"] {
            if let Some(given) = one_of(fields, field, &["gptq", "gptq_v2"])? {
                format = given;
            }
        }
        Ok(Quantization::Gptq {
            bits,
            group: group(fields)?,
            zero_less_one: format == "gptq",
            desc_act: fields.flag("desc_act")?.unwrap_or(false),
        })
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, bits, group) = match self {
            Quantization::Fp8 => return write!(f, "FP8 e4m3 with scales per 128x128 weights"),
            Quantization::Awq { group, .. } => ("AWQ", 4, group),
            Quantization::Gptq { bits, group, .. } => ("GPTQ", *bits, group),
        };
        match group {
            Some(group) => write!(f, "{method} int{bits} in groups of {group}"),
            None => write!(f, "{method} int{bits} with a scale per output"),
        }
    }
}

fn refused(field: &str, found: impl fmt::Display, supported: &str) -> ConfigError {
    let reason = format!("`{found}` is not supported; supported: {supported}");
    ConfigError::new(format!("{FIELD}.{field}"), reason)
}

/// The field in lower case, where it is given; one of those.
fn one_of(fields: &Fields<'_>, field: &str, allowed: &[&str]) -> Result<Option<String>, ConfigError> {
    let Some(given) = fields.string(field)? else { return Ok(None) };
    let lower = given.to_lowercase();
    if !allowed.contains(&lower.as_str()) {
        return Err(refused(field, given, &allowed.join(", ")));
    }
    Ok(Some(lower))
}

fn bits(fields: &Fields<'_>, allowed: &[u32]) -> Result<u32, ConfigError> {
    let bits = fields.size("bits")?;
    allowed.iter().copied().find(|allowed| *allowed as usize == bits).ok_or_else(|| {
        let allowed: Vec<String> = allowed.iter().map(u32::to_string).collect();
        refused("bits", bits, &allowed.join(", "))
    })
}

/// None for -1: one group per row.
fn group(fields: &Fields<'_>) -> Result<Option<usize>, ConfigError> {
    if fields.get("group_size").and_then(Value::as_i64) == Some(-1) {
        return Ok(None);
    }
    let group = fields.size_or("group_size", 128)?;
    if !group.is_multiple_of(int4::BLOCK) {
        return Err(refused("group_size", group, "multiples of 32, and -1"));
    }
    Ok(Some(group))
}

/// The tensor of that name and shape in a type that a backend computes with: as it is stored, or
/// joined from the parts that the quantisation stores it as. An error where it is missing, has
/// another shape, or is quantised in a way that the config does not say.
pub fn stored<'a>(
    checkpoint: &'a Checkpoint,
    quantization: Option<&Quantization>,
    name: &str,
    shape: &[usize],
) -> Result<TensorData<'a>, LoadError> {
    let parts = Parts { checkpoint, name };
    if let Some(tensor) = checkpoint.tensor(name) {
        let tensor = shaped(tensor, shape)?;
        return match (tensor.dtype, quantization) {
            (Dtype::F8E4M3, Some(Quantization::Fp8)) => fp8::join(&parts, tensor),
            (Dtype::F8E4M3 | Dtype::I32, _) => {
                let reason = format!("is {:?}, which {FIELD} in config.json does not explain", tensor.dtype);
                Err(TensorError::new(name, reason).into())
            }
            _ => Ok(tensor),
        };
    }
    match (quantization, shape) {
        (Some(Quantization::Awq { group, zero_point }), &[out, inputs]) if parts.packed() => {
            int4::awq(&parts, out, inputs, *group, *zero_point)
        }
        (Some(&Quantization::Gptq { bits, group, zero_less_one, desc_act }), &[out, inputs])
            if parts.packed() =>
        {
            int4::Gptq { bits, group, zero_less_one, desc_act }.join(&parts, out, inputs)
        }
        _ if parts.packed() => {
            Err(parts.error(format!("is stored as qweight, which {FIELD} in config.json does not explain")))
        }
        _ => match checkpoint.unreadable(name) {
            Some(reason) => Err(LoadError::Unreadable(reason.into())),
            None => Err(LoadError::MissingTensor(name.into())),
        },
    }
}

/// An error where [`stored`] would not find the tensor in that shape: by headers alone, no weight
/// is read.
pub fn check_stored(
    checkpoint: &Checkpoint,
    quantization: Option<&Quantization>,
    name: &str,
    shape: &[usize],
) -> Result<(), LoadError> {
    let parts = Parts { checkpoint, name };
    match (checkpoint.tensor(name), quantization, shape) {
        (Some(tensor), Some(Quantization::Fp8), &[out, inputs]) if tensor.dtype == Dtype::F8E4M3 => {
            shaped(tensor, shape)?;
            let blocks = [out.div_ceil(fp8::BLOCK), inputs.div_ceil(fp8::BLOCK)];
            parts.get("weight_scale_inv", &blocks).map(drop)
        }
        (None, Some(Quantization::Awq { group, .. }), &[out, inputs]) if parts.packed() => {
            parts.get("qweight", &[inputs, out / 8])?;
            parts.get("scales", &[inputs.div_ceil(group.unwrap_or(inputs)), out]).map(drop)
        }
        (None, Some(Quantization::Gptq { bits, group, .. }), &[out, inputs]) if parts.packed() => {
            parts.get("qweight", &[inputs * *bits as usize / 32, out])?;
            parts.get("scales", &[inputs.div_ceil(group.unwrap_or(inputs)), out]).map(drop)
        }
        // Nothing is joined: what is found is the file's own bytes.
        _ => stored(checkpoint, quantization, name, shape).map(drop),
    }
}

/// Whether [`stored`] finds a tensor of that name, whatever it is stored as.
pub fn is_stored(checkpoint: &Checkpoint, name: &str) -> bool {
    let there = checkpoint.tensor(name).is_some() || checkpoint.unreadable(name).is_some();
    there || Parts { checkpoint, name }.packed()
}

/// The tensors that a weight `X.weight` is stored as.
struct Parts<'a, 'n> {
    checkpoint: &'a Checkpoint,
    name: &'n str,
}

impl<'a> Parts<'a, '_> {
    /// `X.part` for `X.weight`.
    fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name.strip_suffix(".weight").unwrap_or(self.name))
    }

    fn packed(&self) -> bool {
        self.name.ends_with(".weight") && self.checkpoint.tensor(&self.part("qweight")).is_some()
    }

    /// `X.part`, of that shape, where it is there.
    fn find(&self, part: &str, shape: &[usize]) -> Result<Option<TensorData<'a>>, LoadError> {
        self.checkpoint.tensor(&self.part(part)).map(|tensor| shaped(tensor, shape)).transpose()
    }

    fn get(&self, part: &str, shape: &[usize]) -> Result<TensorData<'a>, LoadError> {
        self.find(part, shape)?.ok_or_else(|| LoadError::MissingTensor(self.part(part)))
    }

    fn error(&self, reason: impl Into<String>) -> LoadError {
        TensorError::new(self.name, reason).into()
    }
}

fn shaped<'a>(tensor: TensorData<'a>, shape: &[usize]) -> Result<TensorData<'a>, LoadError> {
    if tensor.shape == shape {
        return Ok(tensor);
    }
    Err(LoadError::Shape { name: tensor.name, found: tensor.shape, expected: shape.to_vec() })
}
