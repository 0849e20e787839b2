//! The catalogue's configs against what its entries say of themselves.

use novastack::checkpoint::catalogue::entries;
use novastack::model::{ModelConfig, inventory};

/// How far a published count may be from the exact one: authors round (0.6 for 0.596).
const ROUNDED: f64 = 0.02;

#[test]
fn the_catalogues_configs_have_its_shapes_and_published_parameter_counts() {
    let mut without = Vec::new();
    for entry in entries() {
        let name = &entry.name;
        let Some(published) = entry.published_config() else {
            without.push(name.as_str());
            continue;
        };
        let config = ModelConfig::from_json(&published).unwrap_or_else(|error| panic!("{name}: {error}"));
        inventory::check(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(shape) = &entry.shape {
            assert_eq!(config.family.architecture(), shape.architecture, "{name}");
            assert_eq!((config.hidden, config.layers()), (shape.hidden, shape.layers), "{name}");
            let experts = config.moe.as_ref().map_or(0, |moe| moe.routing.experts);
            assert_eq!(experts, shape.experts, "{name}");
        }
        assert_eq!(config.max_context, entry.context as usize, "{name}");
        assert_eq!(config.quantization.is_some(), entry.quantisation.is_some(), "{name}");
        let (counts, said) = (inventory::counts(&config), entry.parameters.expect(name));
        let near = |exact: u64, billions: f64| (exact as f64 / 1e9 / billions - 1.0).abs() < ROUNDED;
        assert!(near(counts.total, said.total_billions), "{name}: {} parameters", counts.total);
        if let Some(active) = said.active_billions {
            let either = [counts.active, counts.active_with_embedding];
            assert!(
                either.iter().any(|exact| (*exact as f64 / 1e9 - active).abs() < 1.0),
                "{name}: {either:?}"
            );
        }
    }
    // Their intermediate size is not the plain one's.
    assert_eq!(without, ["qwen2.5-72b-instruct-awq", "qwen2.5-72b-instruct-gptq-int4"]);
}
