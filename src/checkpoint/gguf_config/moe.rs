//! Mixtures of experts and latent attention: the metadata of qwen3moe, deepseek2 and minimax-m2,
//! read as llama.cpp reads it (`src/models/{qwen3moe,deepseek2,minimax-m2}.cpp`).

use super::super::CheckpointError;
use super::Reader;
use serde_json::Value;

/// Experts of a layer that no published checkpoint comes near.
const EXPERTS_MAX: u32 = 4096;

/// `expert_gating_func`.
const SOFTMAX: u32 = 1;
const SIGMOID: u32 = 2;

impl Reader<'_, '_> {
    /// Experts of a layer; 0 for dense architectures.
    pub(super) fn experts(&self) -> Result<usize, CheckpointError> {
        let key = self.key("expert_count");
        if self.arch.moe().is_none() {
            return match self.optional("expert_count")? {
                None => Ok(0),
                Some(_) => Err(self.gguf.invalid(format!(
                    "metadata {key}: mixtures of experts are not supported of architecture {}",
                    self.arch.name
                ))),
            };
        }
        match self.positive("expert_count")? {
            experts @ 1..=EXPERTS_MAX => Ok(experts as usize),
            experts => Err(self
                .gguf
                .invalid(format!("metadata {key}: must be at most {EXPERTS_MAX}, got {experts}"))),
        }
    }

    /// The mixture of experts, in the fields of that architecture's config.json.
    pub(super) fn mixture(&self, config: &mut Value) -> Result<(), CheckpointError> {
        let hidden = self.positive("embedding_length")?;
        let experts = self.positive("expert_count")?;
        let inner = self.positive("expert_feed_forward_length")?;
        config["num_experts_per_tok"] = self.positive("expert_used_count")?.into();
        let first = match self.arch.name {
            "deepseek2" => self.deepseek(config, experts, inner)?,
            "minimax-m2" => {
                self.gating(&[SIGMOID], SIGMOID)?;
                self.unscaled()?;
                config["intermediate_size"] = inner.into();
                config["num_local_experts"] = experts.into();
                config["scoring_func"] = "sigmoid".into();
                0
            }
            _ => {
                self.gating(&[SOFTMAX], SOFTMAX)?;
                self.unscaled()?;
                config["moe_intermediate_size"] = inner.into();
                config["num_experts"] = experts.into();
                // llama.cpp normalises the weights of this architecture whatever the file says.
                config["norm_topk_prob"] = true.into();
                0
            }
        };
        let router = self.arch.moe().unwrap_or_default();
        self.check_named(&format!("model.layers.{first}.{router}.gate.weight"), &[experts, hidden])?;
        let shapes = [[inner, hidden], [inner, hidden], [hidden, inner]];
        let matrices = self.arch.expert(first as usize, 0).into_iter().flatten();
        matrices.zip(shapes).try_for_each(|(matrix, shape)| self.check_named(&matrix, &shape))
    }

    /// DeepSeek-V2's and V3's; returns the first layer that has experts.
    fn deepseek(&self, config: &mut Value, experts: u32, inner: u32) -> Result<u32, CheckpointError> {
        let sigmoid = self.gating(&[SOFTMAX, SIGMOID], SOFTMAX)? == SIGMOID;
        let dense = self.optional("leading_dense_block_count")?.unwrap_or(0);
        let layers = config["num_hidden_layers"].as_u64().unwrap_or(0);
        if u64::from(dense) >= layers {
            return Err(self.gguf.invalid(format!(
                "metadata {}: must be less than the number of layers ({layers}), got {dense}",
                self.key("leading_dense_block_count")
            )));
        }
        let bias = format!("model.layers.{dense}.mlp.gate.e_score_correction_bias");
        if sigmoid != self.tensors.contains_key(&bias) {
            return Err(self.gguf.invalid(format!(
                "metadata {}: {} goes {} tensors blk.N.exp_probs_b.bias",
                self.key("expert_gating_func"),
                if sigmoid { "2 (sigmoid)" } else { "1 or none (softmax)" },
                if sigmoid { "with" } else { "without" },
            )));
        }
        let groups = self.optional("expert_group_count")?;
        if sigmoid && groups.is_none() {
            // Converters of the time before llama.cpp knew groups left them out.
            let key = self.key("expert_group_count");
            tracing::warn!(key, "is missing: experts are chosen from all, not within groups");
        }
        let groups = groups.unwrap_or(1);
        let key = self.key("expert_shared_count");
        let shared = self.gguf.u32(&key)?;
        let shared = shared.ok_or_else(|| self.gguf.invalid(format!("metadata {key} is missing")))?;
        let topk_method = match (sigmoid, groups) {
            (true, _) => "noaux_tc",
            (false, 1) => "greedy",
            (false, _) => "group_limited_greedy",
        };
        if sigmoid {
            config["architectures"] = serde_json::json!(["DeepseekV3ForCausalLM"]);
            config["model_type"] = "deepseek_v3".into();
        }
        config["moe_intermediate_size"] = inner.into();
        config["n_routed_experts"] = experts.into();
        config["n_shared_experts"] = shared.into();
        config["first_k_dense_replace"] = dense.into();
        config["scoring_func"] = if sigmoid { "sigmoid" } else { "softmax" }.into();
        config["topk_method"] = topk_method.into();
        config["n_group"] = groups.into();
        config["topk_group"] = self.optional("expert_group_used_count")?.unwrap_or(1).into();
        config["norm_topk_prob"] = self.gguf.bool(&self.key("expert_weights_norm"))?.unwrap_or(false).into();
        config["routed_scaling_factor"] = self.weights_scale()?.into();
        config["num_nextn_predict_layers"] = self.optional("nextn_predict_layers")?.unwrap_or(0).into();
        Ok(dense)
    }

    /// `expert_gating_func`, one of those.
    fn gating(&self, allowed: &[u32], default: u32) -> Result<u32, CheckpointError> {
        let gating = self.optional("expert_gating_func")?.unwrap_or(default);
        if !allowed.contains(&gating) {
            return Err(self.gguf.invalid(format!(
                "metadata {}: {gating} is not supported of architecture {}; supported: {allowed:?}",
                self.key("expert_gating_func"),
                self.arch.name
            )));
        }
        Ok(gating)
    }

    /// What the experts' weights are multiplied with; 0 is none, as in llama.cpp.
    fn weights_scale(&self) -> Result<f64, CheckpointError> {
        let scale = self.float("expert_weights_scale", 0.0..=1e6, Some(1.0))?;
        Ok(if scale == 0.0 { 1.0 } else { scale })
    }

    /// An error where the file wants weights scaled, or not normalised: llama.cpp does neither for
    /// these architectures.
    fn unscaled(&self) -> Result<(), CheckpointError> {
        let key = self.key("expert_weights_norm");
        if self.gguf.bool(&key)? == Some(false) {
            let arch = self.arch.name;
            return Err(self.gguf.invalid(format!(
                "metadata {key}: false is not supported of architecture {arch}; supported: true"
            )));
        }
        match self.weights_scale()? {
            1.0 => Ok(()),
            scale => Err(self.gguf.invalid(format!(
                "metadata {}: {scale} is not supported of architecture {}; supported: 1",
                self.key("expert_weights_scale"),
                self.arch.name
            ))),
        }
    }

    /// Multi-head latent attention; returns how many of a head's values are rotated. Newer files
    /// hold the latent's projection to keys and values in two parts, and in `key_length_mla` and
    /// `value_length_mla` what older ones have in `key_length` and `value_length`.
    pub(super) fn latent_attention(&self, config: &mut Value) -> Result<u32, CheckpointError> {
        let hidden = self.positive("embedding_length")?;
        let heads = self.positive("attention.head_count")?;
        let rank = self.positive("attention.kv_lora_rank")?;
        let rope_dim = self.positive("rope.dimension_count")?;
        let split = self.gguf.get(&self.key("attention.key_length_mla")).is_some();
        // Asked for, as they say nothing more than is known: how many kv heads (1 where K is absorbed
        // into q, else all), the rank of a q that has no latent, and sizes of the absorbed query.
        for key in ["head_count_kv", "q_lora_rank", "key_length", "value_length"] {
            self.key(&format!("attention.{key}"));
        }
        let suffix = if split { "_mla" } else { "" };
        let key = format!("attention.key_length{suffix}");
        let key_dim = self.positive(&key)?;
        let v_dim = self.positive(&format!("attention.value_length{suffix}"))?;
        let Some(nope_dim) = key_dim.checked_sub(rope_dim).filter(|dim| *dim > 0) else {
            return Err(self.gguf.invalid(format!(
                "metadata {}: must be more than the {rope_dim} values that are rotated, got {key_dim}",
                self.key(&key)
            )));
        };
        if self.optional("attention.temperature_length")?.is_some() {
            let key = self.key("attention.temperature_length");
            return Err(self.gguf.invalid(format!("metadata {key}: attention temperature is not supported")));
        }

        let width = |dim: u32| self.product(heads, dim, "attention.head_count");
        let q_rank = match self.tensors.contains_key("model.layers.0.self_attn.q_a_proj.weight") {
            true => Some(self.positive("attention.q_lora_rank")?),
            false => None,
        };
        match q_rank {
            Some(q_rank) => {
                self.check("self_attn.q_a_proj.weight", &[q_rank, hidden])?;
                self.check("self_attn.q_b_proj.weight", &[width(key_dim)?, q_rank])?;
            }
            None => self.check("self_attn.q_proj.weight", &[width(key_dim)?, hidden])?,
        }
        self.check("self_attn.kv_a_proj_with_mqa.weight", &[rank + rope_dim, hidden])?;
        match split {
            true => {
                self.check("self_attn.k_b_proj.weight", &[heads, rank, nope_dim])?;
                self.check("self_attn.v_b_proj.weight", &[heads, v_dim, rank])?;
            }
            false => {
                self.check("self_attn.kv_b_proj.weight", &[width(nope_dim + v_dim)?, rank])?;
            }
        }
        self.check("self_attn.o_proj.weight", &[hidden, width(v_dim)?])?;
        config["num_key_value_heads"] = heads.into();
        config["q_lora_rank"] = q_rank.into();
        config["kv_lora_rank"] = rank.into();
        config["qk_nope_head_dim"] = nope_dim.into();
        config["qk_rope_head_dim"] = rope_dim.into();
        config["v_head_dim"] = v_dim.into();
        Ok(rope_dim)
    }
}
