//! What tensors take in each weight format, as published checkpoints store them. Quantised
//! formats quantise the projections of attention, MLPs and experts; the embedding, the head, norms, biases
//! and routers stay in 16 bits, and the router's correction bias in 32.

use super::{Kind, TensorSpec};

/// How the weights of projections are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 4 bytes a value, everywhere.
    F32,
    /// 2 bytes a value (BF16 or F16).
    Bf16,
    /// FP8 e4m3 with an f32 scale per block of `rows` by `columns` (DeepSeek-V3's report, 3.3).
    Fp8 {
        /// Block's rows.
        rows: usize,
        /// Block's columns.
        columns: usize,
    },
    /// 4 bits a value; a 16-bit scale and a 4-bit zero point per `group` inputs of an output
    /// (AWQ's and GPTQ's layout without desc_act).
    Int4 {
        /// Values per scale, along the inputs.
        group: usize,
    },
    /// ggml's blocks of 32 values: 4 bits a value, a 16-bit scale and a 16-bit minimum.
    Q4_1,
}

impl Format {
    /// FP8 as DeepSeek, Qwen and MiniMax publish it.
    pub const FP8: Format = Format::Fp8 { rows: 128, columns: 128 };
    /// Int4 as Qwen publishes it.
    pub const INT4: Format = Format::Int4 { group: 128 };

    /// What the CPU backend holds: an FP8 scale for each 128 inputs of an output, int4 in ggml's
    /// blocks. Those without zero points (Q4_0) take a tenth less.
    pub fn on_cpu(self) -> Format {
        match self {
            Format::Fp8 { .. } => Format::Fp8 { rows: 1, columns: 128 },
            Format::Int4 { .. } => Format::Q4_1,
            other => other,
        }
    }

    /// Bytes of one tensor with its scales.
    pub fn bytes(self, tensor: &TensorSpec) -> u64 {
        let params = tensor.params();
        if self == Format::F32 || tensor.kind == Kind::RouterBias {
            return 4 * params;
        }
        match (self, quantised(tensor)) {
            (Format::Fp8 { rows, columns }, Some([out, inputs])) => {
                params + 4 * (out.div_ceil(rows) * inputs.div_ceil(columns)) as u64
            }
            (Format::Int4 { group }, Some([out, inputs])) => {
                let groups = (out * inputs.div_ceil(group)) as u64;
                (params + groups).div_ceil(2) + 2 * groups
            }
            (Format::Q4_1, Some([out, inputs])) => 20 * (out * inputs.div_ceil(32)) as u64,
            _ => 2 * params,
        }
    }

    /// Bytes that each of `ranks` holds.
    pub fn rank_bytes<'a>(self, tensors: impl IntoIterator<Item = &'a TensorSpec>, ranks: usize) -> u64 {
        let part = |tensor: &TensorSpec| self.bytes(tensor).div_ceil(ranks.min(tensor.parts_max) as u64);
        tensors.into_iter().map(part).sum()
    }
}

/// The tensor's `[out, in]` where formats quantise it. In a prediction layer `eh_proj` is kept
/// in 16 bits, as DeepSeek's checkpoints have it.
fn quantised(tensor: &TensorSpec) -> Option<[usize; 2]> {
    match tensor.kind {
        Kind::Attention | Kind::DenseMlp | Kind::Expert | Kind::SharedExpert => {
            tensor.shape.as_slice().try_into().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_on_the_cpu() {
        let bytes = |kind, format: Format| {
            let tensor = TensorSpec { name: "t".into(), shape: vec![128, 256], kind, parts_max: 1 };
            format.on_cpu().bytes(&tensor)
        };
        // Of each row two blocks of 128 values and a scale; eight of 32 with scale and minimum.
        assert_eq!(bytes(Kind::Expert, Format::FP8), 128 * 2 * (128 + 4));
        assert_eq!(bytes(Kind::Expert, Format::INT4), 128 * 8 * (16 + 2 + 2));
        assert_eq!(bytes(Kind::Head, Format::INT4), 2 * 128 * 256);
    }
}
