//! Published configs (config.json) of the catalogue's entries, in the program itself: so that
//! `inspect` needs no network for a name that it knows, and dummy weights can be made anywhere.
//! Entries whose sizes are alike share a file; how they differ is in their entry.

use super::CatalogueEntry;
use serde_json::{Value, json};

/// Embeds `models/configs/NAME.json` under each of these names.
macro_rules! embedded {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../models/configs/", $name, ".json")))),+]
    };
}

const FILES: &[(&str, &str)] = embedded![
    "DeepSeek-R1",
    "DeepSeek-R1-Distill-Llama-70B",
    "DeepSeek-R1-Distill-Qwen-1.5B",
    "DeepSeek-V2",
    "DeepSeek-V2-Lite",
    "DeepSeek-V3",
    "Llama-3.1-8B",
    "MiniMax-M2",
    "Qwen2.5-0.5B-Instruct",
    "Qwen2.5-1.5B-Instruct",
    "Qwen2.5-14B-Instruct",
    "Qwen2.5-32B-Instruct",
    "Qwen2.5-3B-Instruct",
    "Qwen2.5-72B-Instruct",
    "Qwen2.5-7B-Instruct",
    "Qwen3-0.6B",
    "Qwen3-1.7B",
    "Qwen3-14B",
    "Qwen3-235B-A22B",
    "Qwen3-30B-A3B",
    "Qwen3-32B",
    "Qwen3-4B",
    "Qwen3-8B",
    "SmolLM2-135M-Instruct",
    "SmolLM3-3B",
];

impl CatalogueEntry {
    /// Its config.json, with its own context and quantisation; None where this program does not
    /// carry it.
    pub fn published_config(&self) -> Option<Value> {
        let name = self.config.as_deref()?;
        let (_, text) = FILES.iter().find(|(known, _)| *known == name)?;
        // Embedded at build time, and all read by a test.
        let mut config: Value = serde_json::from_str(text).ok()?;
        config["max_position_embeddings"] = self.context.into();
        config["quantization_config"] = match self.quantisation.as_deref() {
            // As Qwen and DeepSeek publish theirs.
            Some("awq") => json!({
                "quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": true,
            }),
            Some("gptq") => json!({
                "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false, "sym": true,
            }),
            Some("fp8") => json!({
                "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                "weight_block_size": [128, 128],
            }),
            _ => Value::Null,
        };
        Some(config)
    }
}
