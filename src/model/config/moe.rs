//! The mixture-of-experts part of config.json.

use super::Family;
use crate::backend::{ExpertGroups, GroupScore, Routing, Scoring};
use crate::model::fields::{ConfigError, Fields};
use serde_json::Value;

/// Routed experts that no published checkpoint comes near.
const EXPERTS_MAX: usize = 4096;

/// A mixture of experts, equal in all layers that have one.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// Width of one expert.
    pub intermediate: usize,
    /// How a token's experts are chosen.
    pub routing: Routing,
    /// The choice is corrected by a bias per expert (`e_score_correction_bias`).
    pub correction_bias: bool,
    /// Width of the shared experts together, which every token passes; 0 where there are none.
    pub shared_intermediate: usize,
    /// For each layer whether it has one; the others have a dense MLP.
    pub sparse: Vec<bool>,
}

/// What a family calls the number of routed experts.
pub(super) fn experts_field(family: Family) -> &'static str {
    match family {
        Family::DeepseekV2 | Family::DeepseekV3 => "n_routed_experts",
        Family::MinimaxM2 => "num_local_experts",
        _ => "num_experts",
    }
}

impl Moe {
    /// None for the dense families.
    pub(super) fn read(
        config: &Fields<'_>,
        family: Family,
        layers: usize,
    ) -> Result<Option<Self>, ConfigError> {
        let moe = match family {
            Family::Qwen3Moe => Self::qwen3(config, layers)?,
            Family::DeepseekV2 | Family::DeepseekV3 => Self::deepseek(config, family, layers)?,
            Family::MinimaxM2 => Self::minimax(config, layers)?,
            Family::Llama
            | Family::Mistral
            | Family::Ministral
            | Family::SmolLm3
            | Family::Granite
            | Family::Phi3
            | Family::Gemma3
            | Family::Qwen2
            | Family::Qwen3 => return Ok(None),
        };
        let Routing { experts, top_k, groups, .. } = moe.routing;
        if top_k > experts {
            return Err(ConfigError::new(
                "num_experts_per_tok",
                format!("must be at most the number of experts ({experts}), got {top_k}"),
            ));
        }
        if experts > EXPERTS_MAX {
            let reason = format!("at most {EXPERTS_MAX} experts are supported, got {experts}");
            return Err(ConfigError::new(experts_field(family), reason));
        }
        if let Some(ExpertGroups { count, keep, score }) = groups {
            let least = if score == GroupScore::BestTwo { 2 } else { 1 };
            if experts % count != 0 || experts / count < least {
                return Err(ConfigError::new(
                    "n_group",
                    format!(
                        "must divide the number of experts ({experts}) into groups of {least} or more, got {count}"
                    ),
                ));
            }
            if keep > count || keep * (experts / count) < top_k {
                return Err(ConfigError::new(
                    "topk_group",
                    format!("must be at most n_group ({count}) and leave {top_k} experts, got {keep}"),
                ));
            }
        }
        Ok(Some(moe))
    }

    fn qwen3(config: &Fields<'_>, layers: usize) -> Result<Self, ConfigError> {
        let experts = match config.size_if_given("num_experts")? {
            Some(experts) => experts,
            None => config.size("num_local_experts")?,
        };
        let step = config.size_or("decoder_sparse_step", 1)?;
        let mut sparse: Vec<bool> = (0..layers).map(|layer| (layer + 1) % step == 0).collect();
        if let Some(list) = config.get("mlp_only_layers") {
            let indices =
                list.as_array().and_then(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
            let indices = indices
                .ok_or_else(|| ConfigError::new("mlp_only_layers", "must be a list of layer numbers"))?;
            for index in indices {
                if let Some(layer) = sparse.get_mut(index as usize) {
                    *layer = false;
                }
            }
        }
        Ok(Self {
            intermediate: config.size("moe_intermediate_size")?,
            routing: Routing {
                experts,
                top_k: config.size_or("num_experts_per_tok", 8)?,
                scoring: Scoring::Softmax,
                groups: None,
                normalise: config.flag("norm_topk_prob")?.unwrap_or(false),
                scale: 1.0,
            },
            correction_bias: false,
            shared_intermediate: 0,
            sparse,
        })
    }

    fn deepseek(config: &Fields<'_>, family: Family, layers: usize) -> Result<Self, ConfigError> {
        let intermediate = config.size("moe_intermediate_size")?;
        let v3 = family == Family::DeepseekV3;
        // Fields that are absent are what transformers takes them for.
        let shared = config.count("n_shared_experts")?.unwrap_or(if v3 { 1 } else { 2 });
        let dense = config.count("first_k_dense_replace")?.unwrap_or(if v3 { 3 } else { 0 });
        let scale = config.positive_or("routed_scaling_factor", if v3 { 2.5 } else { 1.0 })?;
        let frequency = config.size_or("moe_layer_freq", 1)?;
        let grouped = match config.string("topk_method")? {
            Some("greedy") if !v3 => false,
            None if !v3 => false,
            Some("group_limited_greedy") if !v3 => true,
            Some("noaux_tc") | None if v3 => true,
            Some(other) => {
                let allowed = if v3 { "noaux_tc" } else { "greedy, group_limited_greedy" };
                let reason = format!("`{other}` is not supported for this family; supported: {allowed}");
                return Err(ConfigError::new("topk_method", reason));
            }
            None => v3,
        };
        let scoring = if v3 { "sigmoid" } else { "softmax" };
        if let Some(given) = config.string("scoring_func")?
            && given != scoring
        {
            let reason = format!("`{given}` is not supported for this family; supported: {scoring}");
            return Err(ConfigError::new("scoring_func", reason));
        }
        let normalise = config.flag("norm_topk_prob")?.unwrap_or(v3);
        if normalise && !v3 {
            // transformers' router never normalises, the authors' leaves out routed_scaling_factor.
            return Err(ConfigError::new("norm_topk_prob", "true is not supported for this family"));
        }
        let groups = match grouped {
            false => None,
            true => Some(ExpertGroups {
                count: config.size("n_group")?,
                keep: config.size("topk_group")?,
                score: if v3 { GroupScore::BestTwo } else { GroupScore::Best },
            }),
        };
        Ok(Self {
            intermediate,
            routing: Routing {
                experts: config.size("n_routed_experts")?,
                top_k: config.size("num_experts_per_tok")?,
                scoring: if v3 { Scoring::Sigmoid } else { Scoring::Softmax },
                groups: groups.filter(|groups| groups.count > 1),
                normalise,
                scale: scale as f32,
            },
            correction_bias: v3,
            shared_intermediate: shared * intermediate,
            sparse: (0..layers).map(|layer| layer >= dense && layer % frequency == 0).collect(),
        })
    }

    fn minimax(config: &Fields<'_>, layers: usize) -> Result<Self, ConfigError> {
        if let Some(given) = config.string("scoring_func")?
            && given != "sigmoid"
        {
            let reason = format!("`{given}` is not supported for this family; supported: sigmoid");
            return Err(ConfigError::new("scoring_func", reason));
        }
        if config.flag("use_routing_bias")? == Some(false) {
            return Err(config.error("use_routing_bias", "false is not supported"));
        }
        // How shared experts would be weighed, if there were any.
        config.ignore(&["shared_moe_mode"]);
        if config.count("shared_intermediate_size")?.unwrap_or(0) != 0 {
            return Err(ConfigError::new(
                "shared_intermediate_size",
                "shared experts are not supported for this family",
            ));
        }
        Ok(Self {
            intermediate: config.size("intermediate_size")?,
            routing: Routing {
                experts: config.size("num_local_experts")?,
                top_k: config.size("num_experts_per_tok")?,
                scoring: Scoring::Sigmoid,
                groups: None,
                normalise: true,
                scale: 1.0,
            },
            correction_bias: true,
            shared_intermediate: 0,
            sparse: vec![true; layers],
        })
    }
}
