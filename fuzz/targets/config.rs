//! A stranger's config.json: every family's fields, quantization and rope among them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use novastack::model::ModelConfig;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = serde_json::from_slice(bytes) {
        let _ = ModelConfig::from_json(&config);
    }
});
