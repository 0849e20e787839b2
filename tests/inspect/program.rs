//! The program itself: `novastack inspect` as a user runs it.

use crate::checkpoint::hub_server::{HubServer, REPO};
use crate::support::golden_dir;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Without a cache, a token or a hub that could answer.
fn inspect(home: &Path, endpoint: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_novastack"))
        .arg("inspect")
        .args(arguments)
        .env_clear()
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .output()
        .expect("the program runs")
}

fn text(arguments: &[&str]) -> String {
    let home = tempfile::tempdir().expect("tempdir");
    let output = inspect(home.path(), "http://127.0.0.1:9", arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    serde_json::from_str(&text(&all)).expect("JSON")
}

fn config(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("models/configs/{name}.json"))
}

/// A directory whose name says nothing, with that config alone in it.
fn bare(name: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("config.json");
    std::fs::copy(config(name), &file).expect("copy");
    let path = file.to_str().expect("UTF-8").to_owned();
    (directory, path)
}

#[test]
fn a_bare_config_of_qwen3_235b() {
    let (_directory, path) = bare("Qwen3-235B-A22B");
    let report = json(&[&path]);
    assert_eq!(report["catalogue"], serde_json::json!(["qwen3-235b-a22b"]));
    assert_eq!(report["licence"], serde_json::json!(["apache-2.0"]));
    assert_eq!(report["parameters"]["total"], 235_093_634_560u64);
    assert_eq!(report["kv_cache"]["bytes_per_token"], 192_512);
    let page = text(&[&path]);
    for expected in ["235.09B", "as published", "235B", "22B", "grouped-query", "qwen3-235b", "hermes"] {
        assert!(page.contains(expected), "{expected} in\n{page}");
    }
    assert!(page.lines().all(|line| line.chars().count() <= 80), "80 columns:\n{page}");
    check_gcds(&report, &[("BF16", 16), ("FP8 128x128", 8), ("INT4 g128", 4)]);
}

#[test]
fn a_bare_config_of_deepseek_v3() {
    let (_directory, path) = bare("DeepSeek-V3");
    let report = json(&[&path]);
    let names: Vec<&str> =
        report["catalogue"].as_array().expect("names").iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&"deepseek-v3") && names.contains(&"deepseek-r1"), "{names:?}");
    let kv = &report["kv_cache"];
    assert_eq!(kv["bytes_per_token"], 70_272);
    assert_eq!(kv["full_heads_bytes_per_token"], 61 * 128 * (192 + 128) * 2);
    // As the hub counts the checkpoint: bf16, fp8 and f32 values, prediction layer included.
    assert_eq!(report["stored"]["bytes"], 2 * 3_918_786_560u64 + 680_571_043_840 + 4 * 41_555_600);
    // The CPU has a scale per row: 4 bytes for each 128 weights, in place of for each 128 rows of them.
    let of = |table: &Value| {
        let rows = table.as_array().expect("a table");
        rows.iter().find(|row| row["format"] == "FP8 128x128").expect("FP8").clone()
    };
    let stored = of(&report["weights"])["bytes"].as_u64().expect("bytes") as f64;
    let served = of(&report["cpu"]["fits"])["weight_bytes_per_device"].as_u64().expect("bytes") as f64;
    assert!((1.028..1.032).contains(&(served / stored)), "{served} of {stored}");
    let page = text(&[&path]);
    for expected in
        ["671.03B", "671B", "37B", "times the latent", "multi-token prediction", "FP8 128x128 (stored)"]
    {
        assert!(page.contains(expected), "{expected} in\n{page}");
    }
    assert!(page.lines().all(|line| line.chars().count() <= 80), "80 columns:\n{page}");
    check_gcds(&report, &[("BF16", 32), ("FP8 128x128", 16), ("INT4 g128", 8)]);
}

/// The number of GCDs of each format, and that it follows from the stated rule: weights and one
/// sequence of full context fit, and do not on half as many.
fn check_gcds(report: &Value, expected: &[(&str, u64)]) {
    let formats: Vec<(&str, u64)> = report["weights"]
        .as_array()
        .expect("formats")
        .iter()
        .map(|row| {
            (row["format"].as_str().expect("name"), row["mi250"]["devices"].as_u64().expect("devices"))
        })
        .collect();
    assert_eq!(formats, expected);
    let usable = (64u64 << 30) / 100 * 90 - (2 << 30);
    for row in report["weights"].as_array().expect("formats") {
        let need = |fit: &Value, tokens: u64| {
            fit["weight_bytes_per_device"].as_u64().expect("bytes")
                + tokens * fit["kv_bytes_per_token_per_device"].as_u64().expect("bytes")
        };
        let context = report["context"].as_u64().expect("context");
        assert!(need(&row["mi250"], context) <= usable, "{row}");
        // On half as many: at least this much a device, as nothing is split more evenly than evenly.
        let half = row["mi250"]["devices"].as_u64().expect("devices") / 2;
        let token = row["mi250"]["kv_bytes_per_token_per_device"].as_u64().expect("bytes");
        assert!(half > 0 && row["bytes"].as_u64().expect("bytes") / half + context * token > usable, "{row}");
    }
}

#[test]
fn names_in_the_catalogue_and_hub_ids_fetch_no_weights() {
    let config = std::fs::read(config("Qwen3-8B")).expect("config");
    let index = br#"{"metadata": {"total_size": 16381470720}, "weight_map": {"a": "model-1.safetensors"}}"#;
    let server = HubServer::start(&[
        ("config.json", &config, false),
        ("README.md", b"---\nlicense: cc-by-4.0\n---\n# A model\n", false),
        ("tokenizer.json", b"{}", false),
        ("model.safetensors.index.json", index, false),
        ("model-1.safetensors", b"x", true),
    ]);
    let home = tempfile::tempdir().expect("tempdir");
    // The CPU's free memory would differ from run to run.
    let run = || inspect(home.path(), &server.endpoint, &[REPO, "--json", "--memory", "64G"]);
    let output = run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["model"], REPO);
    assert_eq!(report["licence"], serde_json::json!(["cc-by-4.0"]));
    assert_eq!(report["stored"]["bytes"], 16_381_470_720u64);
    let requests = server.requests();
    assert!(!requests.is_empty());
    for request in requests {
        assert!(!request.contains("model-1") && !request.contains("tokenizer.json"), "{request}");
    }
    // What was fetched is used again, without a request; a pull still fetches everything.
    assert_eq!(run().stdout, output.stdout);
    assert_eq!(server.requests(), Vec::<String>::new());
    let pull = Command::new(env!("CARGO_BIN_EXE_novastack"))
        .args(["pull", REPO])
        .env_clear()
        .env("HF_HOME", home.path())
        .env("HF_ENDPOINT", &server.endpoint)
        .output()
        .expect("the program runs");
    assert!(pull.status.success(), "{}", String::from_utf8_lossy(&pull.stderr));
    assert!(server.requests().iter().any(|request| request.contains("model-1")));
}

#[test]
fn weights_that_are_here_are_measured_by_their_headers() {
    let directory = golden_dir("qwen3");
    let report = json(&[directory.to_str().expect("UTF-8")]);
    assert_eq!(report["stored"]["bytes_from"], "tensor headers");
    assert_eq!(report["stored"]["format"], "F32");
    let total = report["parameters"]["total"].as_u64().expect("total");
    assert_eq!(report["stored"]["bytes"], 4 * total);
    assert_eq!(report["kv_cache"]["bytes_per_value"], 4);

    let gguf = golden_dir("gguf").join("wide-q4_k_m.gguf");
    let report = json(&[gguf.to_str().expect("UTF-8")]);
    let format = report["stored"]["format"].as_str().expect("format");
    assert!(format.contains("Q4_K") && format.contains("Q6_K"), "{format}");
    let stored = report["stored"]["bytes"].as_u64().expect("bytes");
    assert!(stored < std::fs::metadata(gguf).expect("file").len());
    assert_eq!(
        (&report["weights"][0]["as_stored"], &report["weights"][0]["bytes"]),
        (&true.into(), &stored.into())
    );
}

#[test]
fn types_with_codebooks_are_named() {
    for (file, types) in [
        ("narrow-iq4_nl", &["IQ4_NL", "F32"][..]),
        ("slim-iq4_xs", &["IQ4_XS", "IQ4_NL", "F32"]),
        ("narrow-mxfp4", &["MXFP4", "F32"]),
        ("uneven-q2_k", &["IQ4_NL", "Q8_0", "Q3_K", "F32"]),
        ("experts-mxfp4_moe", &["Q8_0", "MXFP4", "F32"]),
    ] {
        let gguf = golden_dir("gguf").join(format!("{file}.gguf"));
        let report = json(&[gguf.to_str().expect("UTF-8")]);
        let found = report["stored"]["types"].as_array().expect("types");
        let found: Vec<&str> = found.iter().filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(found, types, "{file}");
        let format = report["stored"]["format"].as_str().expect("format");
        assert_eq!(format, types[..types.len() - 1].join(" + "), "{file}");
    }
}

#[test]
fn devices_that_the_caller_has() {
    let path = config("Qwen3-235B-A22B");
    let path = path.to_str().expect("UTF-8");
    let report = json(&[path, "--gpus", "8", "--memory", "80G"]);
    let fits = report["given"]["fits"].as_array().expect("fits");
    let fp8 = fits.iter().find(|fit| fit["format"] == "FP8 128x128").expect("FP8");
    assert_eq!(fp8["longest_context"], 40_960);
    // 4 KV heads on 8 devices: each device holds one of them.
    assert_eq!(fp8["kv_bytes_per_token_per_device"], 94 * 2 * 128 * 2);
    let report = json(&[path, "--memory", "64G"]);
    assert!(report["given"]["fits"].as_array().expect("fits").iter().all(|fit| fit["kv_tokens"].is_null()));
    assert!(text(&[path, "--memory", "64G"]).contains("no: more than"));

    let home = tempfile::tempdir().expect("tempdir");
    let fails = |arguments: &[&str]| {
        let output = inspect(home.path(), "http://127.0.0.1:9", arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let message = fails(&[config("MiniMax-M2").to_str().expect("UTF-8"), "--gpus", "32"]);
    assert!(message.contains("--gpus 32") && message.contains("1, 2, 4, 8, 16"), "{message}");
    let broken = home.path().join("config.json");
    std::fs::write(&broken, r#"{"architectures": ["MambaForCausalLM"]}"#).expect("write");
    let message = fails(&[broken.to_str().expect("UTF-8")]);
    assert!(message.contains("MambaForCausalLM") && message.contains("Qwen3MoeForCausalLM"), "{message}");
    assert_eq!(message.matches("config.json").count(), 1, "{message}");
    let message = fails(&["org/model:weights.gguf"]);
    assert!(message.contains("novastack pull org/model:weights.gguf"), "{message}");
}

/// What the program says where it refuses.
fn refused(path: &Path) -> String {
    let home = tempfile::tempdir().expect("tempdir");
    let output = inspect(home.path(), "http://127.0.0.1:9", &[path.to_str().expect("UTF-8")]);
    assert!(!output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn tokens_that_end_an_answer_are_listed_with_who_says_so() {
    let golden = golden_dir("qwen3");
    let path = golden.to_str().expect("UTF-8");
    let report = json(&[path]);
    let ends = report["end_tokens"].as_array().expect("end tokens");
    let of = |token: &str| ends.iter().find(|end| end["token"] == token).unwrap_or_else(|| panic!("{token}"));
    assert!(of("<|im_end|>")["sources"].as_array().expect("sources").contains(&"chat template".into()));
    assert!(of("<|endoftext|>")["sources"].as_array().expect("sources").contains(&"name".into()));
    let page = text(&[path]);
    assert!(page.contains("answers end at") && page.contains("<|endoftext|>"), "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 80), "80 columns:\n{page}");
}

/// Every checkpoint that the engine's tests serve passes: the check knows all layouts.
#[test]
fn what_serve_loads_passes() {
    let goldens = golden_dir("qwen3").parent().expect("goldens").to_owned();
    let mut seen = 0;
    let files = std::fs::read_dir(goldens.join("gguf"))
        .expect("gguf")
        .chain(std::fs::read_dir(&goldens).expect("goldens"));
    for path in files.map(|entry| entry.expect("entry").path()) {
        let gguf = path.extension().is_some_and(|extension| extension == "gguf");
        if gguf || path.join("config.json").exists() {
            let checkpoint = novastack::checkpoint::Checkpoint::open(&path).expect("opens");
            let config = novastack::model::ModelConfig::from_json(&checkpoint.config).expect("config");
            novastack::model::check(&checkpoint, &config)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 40, "only {seen}");
}

/// The bytes with one text in place of another of the same length, which is in them once.
fn replaced(bytes: &[u8], old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let found: Vec<usize> = bytes
        .windows(old.len())
        .enumerate()
        .filter(|(_, w)| *w == old.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(found.len(), 1, "{old:?} in the file");
    let mut bytes = bytes.to_vec();
    bytes[found[0]..found[0] + new.len()].copy_from_slice(new.as_bytes());
    bytes
}

/// A copy of a golden directory, to be broken.
fn copied(name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("tempdir");
    for entry in std::fs::read_dir(golden_dir(name)).expect("golden") {
        let path = entry.expect("entry").path();
        std::fs::copy(&path, directory.path().join(path.file_name().expect("name"))).expect("copy");
    }
    directory
}

#[test]
fn what_serve_refuses_is_refused_before_a_weight_is_read() {
    let place = tempfile::tempdir().expect("tempdir");
    let file = place.path().join("model.gguf");
    let golden = golden_dir("qwen3").parent().expect("goldens").join("gguf/qwen3-f32.gguf");
    let good = std::fs::read(golden).expect("golden");
    let length = |text: &str| String::from_utf8((text.len() as u64).to_le_bytes().to_vec()).expect("ASCII");
    let string = |text: &str| format!("{}{text}", length(text));
    for (old, new, words) in [
        ("qwen2", "qwen9", ["\"qwen9\"", "not supported"]),
        ("gpt2", "bert", ["WordPiece", "tokenizer.json"]),
        ("model", "vocab", ["vocabulary alone", "no model"]),
    ] {
        std::fs::write(&file, replaced(&good, &string(old), &string(new))).expect("write");
        let message = refused(&file);
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    }

    let directory = copied("qwen3");
    let weights = directory.path().join("model.safetensors");
    let whole = std::fs::read(&weights).expect("weights");
    let norm = "model.layers.0.post_attention_layernorm.weight";
    let missing = norm.replace("weight", "weighs");
    std::fs::write(&weights, replaced(&whole, norm, &missing)).expect("write");
    let message = refused(directory.path());
    assert!(message.contains(norm) && message.contains("missing"), "{message}");
    std::fs::write(&weights, &whole).expect("write");
    let config = directory.path().join("config.json");
    let mut wrong: Value = serde_json::from_slice(&std::fs::read(&config).expect("config")).expect("JSON");
    wrong["intermediate_size"] = 256.into();
    std::fs::write(&config, wrong.to_string()).expect("write");
    let message = refused(directory.path());
    assert!(message.contains("mlp.") && message.contains("256"), "{message}");

    // A pointer lies in place of a shard, then nothing.
    let directory = copied("qwen2-yarn-sharded");
    let shard = directory.path().join("model-00002-of-00002.safetensors");
    std::fs::write(&shard, "version https://git-lfs.github.com/spec/v1\n").expect("write");
    assert!(refused(directory.path()).contains("Git LFS pointer"));
    std::fs::remove_file(&shard).expect("remove");
    assert!(refused(directory.path()).contains("model-00002-of-00002.safetensors"));
}

#[test]
fn a_missing_template_or_tokenizer_is_noted() {
    let directory = tempfile::tempdir().expect("tempdir");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden_dir("qwen3").join(file), directory.path().join(file)).expect("copy");
    }
    std::fs::write(directory.path().join("tokenizer.model"), "x").expect("write");
    let page = text(&[directory.path().to_str().expect("UTF-8")]);
    let words: String = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in ["has no chat template", "tokenizer.model there is a SentencePiece vocabulary"] {
        assert!(words.contains(expected), "{expected} in\n{page}");
    }
}
