//! The inventory against tensors of real checkpoints (the tiny ones here; the hub's own counts of
//! the published ones) and against the counts that authors publish.

use novastack::checkpoint::Checkpoint;
use novastack::model::ModelConfig;
use novastack::model::inventory::{self, Counts, Format, TensorSpec, counts, tensor_parallel_sizes, tensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn published(name: &str) -> ModelConfig {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("models/configs/{name}.json"));
    let text = std::fs::read_to_string(&path).expect(name);
    ModelConfig::from_json(&serde_json::from_str(&text).expect(name)).expect(name)
}

/// Billions with `digits` after the point, as model cards print them.
fn billions(params: u64, digits: usize) -> String {
    format!("{:.digits$}", params as f64 / 1e9)
}

#[test]
fn counts_are_the_published_ones() {
    // (config, total to the parameter where the hub's API or the safetensors index states it).
    let exact = [
        ("Qwen3-235B-A22B", 235_093_634_560),
        ("Qwen3-30B-A3B", 30_532_122_624),
        ("Qwen3-8B", 8_190_735_360),
        ("Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Llama-3.1-8B", 8_030_261_248),
        ("DeepSeek-V2", 235_741_434_880),
        ("DeepSeek-V2-Lite", 15_706_484_224),
        ("MiniMax-M2", 228_689_764_864),
    ];
    for (name, total) in exact {
        assert_eq!(counts(&published(name)).total, total, "{name}");
    }
    // Model cards: (config, total, active without the input table, active with it); they round,
    // and print one or the other of the two.
    let cards = [
        ("DeepSeek-V3", "671", "37", ""),
        ("DeepSeek-R1", "671", "37", ""),
        ("DeepSeek-V2", "236", "21", "21"),
        ("MiniMax-M2", "229", "10", ""),
        ("Qwen3-235B-A22B", "235", "22", "22"),
    ];
    for (name, total, active, with_embedding) in cards {
        let found = counts(&published(name));
        assert_eq!(billions(found.total, 0), total, "{name}");
        assert_eq!(billions(found.active, 0), active, "{name}");
        if !with_embedding.is_empty() {
            assert_eq!(billions(found.active_with_embedding, 0), with_embedding, "{name}");
        }
    }
    let lite = counts(&published("DeepSeek-V2-Lite"));
    // Its report says 15.7B and 2.4B, cutting 2.45 off.
    assert_eq!((billions(lite.total, 1), lite.active / 100_000_000), ("15.7".into(), 24));
    let small = counts(&published("Qwen3-30B-A3B"));
    assert_eq!(billions(small.total, 1), "30.5");
    assert_eq!(small.active_with_embedding, 3_353_032_704);
    for dense in ["Qwen3-8B", "Llama-3.1-8B"] {
        let Counts { total, active_with_embedding, prediction, .. } = counts(&published(dense));
        assert_eq!((total, 0), (active_with_embedding, prediction), "{dense}");
    }
}

#[test]
fn stored_types_are_those_of_the_published_fp8_checkpoint() {
    // deepseek-ai/DeepSeek-V3 by the hub's API: values of each type, prediction layer included.
    let config = published("DeepSeek-V3");
    let (mut bf16, mut fp8, mut f32) = (0, 0, 0);
    for tensor in tensors(&config).chain(inventory::prediction_tensors(&config)) {
        let (params, bytes) = (tensor.params(), Format::FP8.bytes(&tensor));
        match bytes {
            bytes if bytes == 4 * params => f32 += params,
            bytes if bytes == 2 * params => bf16 += params,
            bytes => {
                fp8 += params;
                f32 += (bytes - params) / 4;
            }
        }
    }
    assert_eq!((bf16, fp8, f32), (3_918_786_560, 680_571_043_840, 41_555_600));
}

#[test]
fn tensors_of_qwen3_235b_are_as_many_as_its_index_lists() {
    assert_eq!(tensors(&published("Qwen3-235B-A22B")).count(), 36_945);
}

#[test]
fn every_tiny_checkpoint_holds_exactly_its_inventory() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let mut checked = 0;
    for entry in std::fs::read_dir(goldens).expect("goldens").map(|entry| entry.expect("entry").path()) {
        if !entry.join("config.json").exists() {
            continue;
        }
        let checkpoint = Checkpoint::open(&entry).expect("a checkpoint");
        if checkpoint.config.get("quantization_config").is_some_and(|quantised| !quantised.is_null()) {
            continue;
        }
        let config = ModelConfig::from_json(&checkpoint.config).expect("a config");
        let shape = |name: &str| checkpoint.tensor(name).expect("named").shape;
        let stored: BTreeMap<String, Vec<usize>> =
            checkpoint.tensor_names().into_iter().map(|name| (name.to_owned(), shape(name))).collect();
        let listed = |tensors: &mut dyn Iterator<Item = TensorSpec>| -> BTreeMap<String, Vec<usize>> {
            tensors.map(|tensor| (tensor.name, tensor.shape)).collect()
        };
        let mut expected = listed(&mut tensors(&config));
        let prediction = listed(&mut inventory::prediction_tensors(&config));
        expected.extend(prediction.into_iter().filter(|(name, _)| stored.contains_key(name)));
        assert_eq!(stored, expected, "{}", entry.display());
        checked += 1;
    }
    assert!(checked >= 10, "{checked} checkpoints");
}

#[test]
fn ranks_together_hold_everything_and_share_what_cannot_be_split() {
    let config = published("Qwen3-235B-A22B");
    let all: Vec<TensorSpec> = tensors(&config).collect();
    let whole = Format::Bf16.rank_bytes(&all, 1);
    assert_eq!(whole, 2 * counts(&config).total);
    // 4 kv heads on 8 ranks: k and v are held twice, norms and routers eight times.
    let shared: u64 = all
        .iter()
        .map(|tensor| match tensor.name.as_str() {
            name if name.contains("k_proj") || name.contains("v_proj") => tensor.params(),
            name if name.contains("norm") || name.ends_with("gate.weight") => 7 * tensor.params(),
            _ => 0,
        })
        .sum();
    assert_eq!(8 * Format::Bf16.rank_bytes(&all, 8), whole + 2 * shared);
    assert_eq!(tensor_parallel_sizes(&config, 64), [1, 2, 4, 8, 16, 32, 64]);
    assert_eq!(tensor_parallel_sizes(&published("MiniMax-M2"), 64), [1, 2, 4, 8, 16]);
    assert_eq!(tensor_parallel_sizes(&published("Qwen2.5-7B-Instruct"), 64), [1, 2, 4]);
}

#[test]
fn kv_bytes_per_token() {
    let bytes = |name: &str, ranks| inventory::kv_spec(&published(name), ranks).token_bytes();
    assert_eq!(bytes("Qwen3-235B-A22B", 1), 94 * 2 * 4 * 128 * 2);
    assert_eq!(bytes("Qwen3-235B-A22B", 8), 94 * 2 * 128 * 2);
    // DeepSeek-V2's report, table 1: 512 + 64 values per layer, the same on every rank.
    assert_eq!((bytes("DeepSeek-V3", 1), bytes("DeepSeek-V3", 16)), (61 * 576 * 2, 61 * 576 * 2));
}
