//! Configs of published models that this program carries, so that dummy weights of their sizes can
//! be run where there is no network.

/// (name, config.json).
const CONFIGS: [(&str, &str); 4] = [
    ("qwen3-0.6b", include_str!("../../../tests/inspect/configs/Qwen3-0.6B.json")),
    ("qwen3-8b", include_str!("../../../tests/inspect/configs/Qwen3-8B.json")),
    ("qwen3-30b-a3b", include_str!("../../../tests/inspect/configs/Qwen3-30B-A3B.json")),
    ("deepseek-v2-lite", include_str!("../../../tests/inspect/configs/DeepSeek-V2-Lite.json")),
];

/// The config of that name.
pub fn find(name: &str) -> Option<&'static str> {
    CONFIGS.iter().find(|(known, _)| *known == name).map(|(_, config)| *config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use novastack::model::{ModelConfig, inventory};

    #[test]
    fn the_built_in_configs_are_models_of_their_size() {
        let billions = CONFIGS.map(|(name, text)| {
            let config = ModelConfig::from_json(&serde_json::from_str(text).expect(name)).expect(name);
            (name, (inventory::counts(&config).total as f64 / 1e8).round() / 10.0)
        });
        let wanted =
            [("qwen3-0.6b", 0.6), ("qwen3-8b", 8.2), ("qwen3-30b-a3b", 30.5), ("deepseek-v2-lite", 15.7)];
        assert_eq!(billions, wanted);
    }
}
