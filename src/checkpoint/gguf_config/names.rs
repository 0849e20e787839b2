//! llama.cpp's architectures and tensor names, and Hugging Face's for the same.
//!
//! Invariants: every tensor in the file has a known name; each name is given once. Experts, which
//! the file stacks to one tensor `[experts, out, in]`, get a name each, for their part of it.

use super::super::CheckpointError;
use super::super::gguf::{Gguf, TensorInfo};
use super::super::tensors::byte_length;
use std::collections::BTreeMap;

/// One of llama.cpp's architectures.
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Hugging Face's class; of deepseek2, DeepSeek-V2's.
    pub class: &'static str,
    /// Hugging Face's `model_type`.
    pub model_type: &'static str,
    /// The converter has permuted the rows of q and k, so that neighbours are rotated together.
    pub permuted: bool,
    /// Modules of a layer that [`LAYER_MODULES`] does not list, or names otherwise.
    modules: &'static [(&'static str, &'static str)],
    /// A layer's module of experts, and its names for gate, up and down.
    experts: Option<(&'static str, [&'static str; 3])>,
}

impl Architecture {
    /// The router's module in a layer, where there is a mixture of experts.
    pub fn moe(&self) -> Option<&'static str> {
        self.experts.map(|(module, _)| module)
    }

    /// An expert's matrices in a layer: gate, up, down.
    pub fn expert(&self, layer: usize, expert: usize) -> Option<[String; 3]> {
        let (module, names) = self.experts?;
        Some(names.map(|name| format!("model.layers.{layer}.{module}.experts.{expert}.{name}.weight")))
    }
}

pub(super) const ARCHITECTURES: [Architecture; 11] = [
    Architecture { permuted: true, ..dense("llama", "LlamaForCausalLM", "llama") },
    dense("qwen2", "Qwen2ForCausalLM", "qwen2"),
    dense("qwen3", "Qwen3ForCausalLM", "qwen3"),
    Architecture {
        name: "qwen3moe",
        class: "Qwen3MoeForCausalLM",
        model_type: "qwen3_moe",
        permuted: false,
        modules: &[("ffn_gate_inp", "mlp.gate")],
        experts: Some(("mlp", ["gate_proj", "up_proj", "down_proj"])),
    },
    Architecture {
        name: "deepseek2",
        class: "DeepseekV2ForCausalLM",
        model_type: "deepseek_v2",
        permuted: false,
        modules: &[
            ("attn_q_a", "self_attn.q_a_proj"),
            ("attn_q_a_norm", "self_attn.q_a_layernorm"),
            ("attn_q_b", "self_attn.q_b_proj"),
            ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
            ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
            ("attn_kv_b", "self_attn.kv_b_proj"),
            // Newer files hold kv_b in two, per head, the first part transposed.
            ("attn_k_b", "self_attn.k_b_proj"),
            ("attn_v_b", "self_attn.v_b_proj"),
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
            ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
        ],
        experts: Some(("mlp", ["gate_proj", "up_proj", "down_proj"])),
    },
    Architecture {
        name: "minimax-m2",
        class: "MiniMaxM2ForCausalLM",
        model_type: "minimax_m2",
        permuted: false,
        modules: &[("ffn_gate_inp", "block_sparse_moe.gate")],
        experts: Some(("block_sparse_moe", ["w1", "w3", "w2"])),
    },
    Architecture { permuted: true, ..dense("mistral3", "MistralForCausalLM", "mistral") },
    Architecture { permuted: true, ..dense("smollm3", "SmolLM3ForCausalLM", "smollm3") },
    Architecture { permuted: true, ..dense("granite", "GraniteForCausalLM", "granite") },
    Architecture {
        modules: &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")],
        ..dense("phi3", "Phi3ForCausalLM", "phi3")
    },
    Architecture {
        modules: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
        ..dense("gemma3", "Gemma3ForCausalLM", "gemma3_text")
    },
];

const fn dense(name: &'static str, class: &'static str, model_type: &'static str) -> Architecture {
    Architecture { name, class, model_type, permuted: false, modules: &[], experts: None }
}

/// llama.cpp's and Hugging Face's names of a layer's modules.
const LAYER_MODULES: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Stacked experts: the module, and which of gate, up and down it holds, one above the other.
const STACKED: [(&str, &[usize]); 4] =
    [("ffn_gate_exps", &[0]), ("ffn_up_exps", &[1]), ("ffn_down_exps", &[2]), ("ffn_gate_up_exps", &[0, 1])];

/// The frequencies' divisors, under the same name for both.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";
/// The same of LongRoPE, for contexts up to the trained one and for longer ones.
pub(super) const ROPE_FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// The tensors by Hugging Face's names; `experts` is how many the metadata says a layer has. The
/// values keep the file's names, for messages.
pub(super) fn hf_named(
    gguf: &Gguf<'_>,
    arch: &Architecture,
    experts: usize,
) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
    let mut named = BTreeMap::new();
    let mut insert = |name: String, tensor: TensorInfo| match named.insert(name, tensor) {
        Some(old) => Err(gguf.invalid(format!("tensor {}: appears twice", old.name))),
        None => Ok(()),
    };
    for tensor in &gguf.tensors {
        let unknown = || {
            let reason = format!("does not belong to a supported model of architecture {}", arch.name);
            gguf.invalid(format!("tensor {}: {reason}", tensor.name))
        };
        if let Some(name) = plain_name(&tensor.name) {
            insert(name.to_owned(), tensor.clone())?;
            continue;
        }
        let (layer, module, kind) = layer_name(&tensor.name).ok_or_else(unknown)?;
        if let Some(held) = stacked(arch, module, kind) {
            let parts = split(tensor, experts, held.len()).ok_or_else(|| {
                let shape = &tensor.shape;
                gguf.invalid(format!(
                    "tensor {}: has shape {shape:?}, the metadata says {experts} experts",
                    tensor.name
                ))
            })?;
            for (index, part) in parts.enumerate() {
                let (expert, matrix) = (index / held.len(), held[index % held.len()]);
                let names = arch.expert(layer as usize, expert).ok_or_else(unknown)?;
                insert(names[matrix].clone(), part)?;
            }
            continue;
        }
        let name = module_name(arch, module, kind).ok_or_else(unknown)?;
        insert(format!("model.layers.{layer}.{name}"), tensor.clone())?;
    }
    Ok(named)
}

fn plain_name(name: &str) -> Option<&'static str> {
    match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        ROPE_FREQS => Some(ROPE_FREQS),
        _ => ROPE_FACTORS.into_iter().find(|factors| *factors == name),
    }
}

/// The layer that a tensor belongs to.
pub(super) fn layer_of(name: &str) -> Option<u32> {
    layer_name(name).map(|(layer, ..)| layer)
}

/// `blk.{layer}.{module}.{kind}`.
fn layer_name(name: &str) -> Option<(u32, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // Through a number, so that "01" and "+1" are no second names of layer 1.
    let number = layer.parse::<u32>().ok().filter(|number| number.to_string() == layer)?;
    let (module, kind) = rest.rsplit_once('.')?;
    Some((number, module, kind))
}

fn module_name(arch: &Architecture, module: &str, kind: &str) -> Option<String> {
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    if let Some(moe) = arch.moe().filter(|_| module == "exp_probs_b" && kind == "bias") {
        // The router's own, but in MiniMax-M2, which hangs it beside the router.
        let router = if moe == "mlp" { "mlp.gate" } else { moe };
        return Some(format!("{router}.e_score_correction_bias"));
    }
    if module.starts_with("nextn.") && arch.name == "deepseek2" {
        // Of layers that predict further tokens, which are not loaded: any name does.
        return Some(format!("{module}.{kind}"));
    }
    let known = arch.modules.iter().chain(&LAYER_MODULES);
    known.clone().find(|(gguf, _)| *gguf == module).map(|(_, hf)| format!("{hf}.{kind}"))
}

/// Which matrices of each expert the module stacks, where it does.
fn stacked(arch: &Architecture, module: &str, kind: &str) -> Option<&'static [usize]> {
    arch.moe().filter(|_| kind == "weight")?;
    STACKED.iter().find(|(gguf, _)| *gguf == module).map(|(_, held)| *held)
}

/// Equal parts of a tensor `[experts, per_expert * out, in]`: expert by expert, in each of them
/// one `[out, in]` after the other.
fn split(tensor: &TensorInfo, experts: usize, per_expert: usize) -> Option<impl Iterator<Item = TensorInfo>> {
    let &[stacked, rows, columns] = tensor.shape.as_slice() else { return None };
    if stacked != experts || !rows.is_multiple_of(per_expert) {
        return None;
    }
    let shape = vec![rows / per_expert, columns];
    let bytes = byte_length(tensor.dtype, &shape)?;
    let (name, dtype, part, start) = (tensor.name.clone(), tensor.dtype, tensor.part, tensor.range.start);
    Some((0..experts * per_expert).map(move |index| {
        let start = start + index * bytes;
        TensorInfo { name: name.clone(), dtype, shape: shape.clone(), range: start..start + bytes, part }
    }))
}
