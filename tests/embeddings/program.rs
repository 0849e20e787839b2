//! The program with such models: what `inspect` says of them, and that `serve` takes them.

use crate::support::{golden_dir, server::Server};
use serde_json::{Value, json};
use std::process::Command;

fn path(golden: &str) -> String {
    golden_dir("embeddings").join(golden).display().to_string()
}

fn inspect(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_novastack")).arg("inspect").args(arguments).output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn inspect_says_what_a_model_is_served_for() {
    for (golden, expected) in [
        ("bert", ["BertModel", "embeddings: vectors of length 1 of 32", "mean", "64 tokens"]),
        (
            "xlm-roberta-reranker",
            ["XLMRobertaForSequenceClassification", "logits of 3 labels", "first token", "64 tokens"],
        ),
        (
            "modernbert-reranker",
            ["ModernBertForSequenceClassification", "scores of pairs of texts", "mean", "64 tokens"],
        ),
        (
            "qwen3-embedding",
            ["Qwen3ForCausalLM", "embeddings: vectors of length 1 of 32", "may be cut", "64 tokens"],
        ),
        ("qwen3-reranker", ["Qwen3ForCausalLM", "scores of pairs of texts", "64 tokens", "F32"]),
    ] {
        let page = inspect(&[&path(golden)]);
        for word in expected {
            assert!(page.contains(word), "{golden}: {word} in\n{page}");
        }
        // But for a path that alone is longer.
        let fits = |line: &str| {
            line.chars().count() <= 80 || line.trim().contains('/') || !line.trim().contains(' ')
        };
        assert!(page.lines().all(fits), "80 columns:\n{page}");
    }
    let report: Value = serde_json::from_str(&inspect(&[&path("bert"), "--json"])).expect("JSON");
    assert_eq!((&report["hidden"], &report["context"]), (&json!(32), &json!(64)));
    assert_eq!(report["weight_bytes"].as_u64(), report["parameters"].as_u64().map(|count| 4 * count));
    // Who writes text is told of as before.
    assert!(!inspect(&[&golden_dir("qwen3").display().to_string()]).contains("serves"));
}

#[tokio::test]
async fn serve_takes_encoders_and_decoders_for_embeddings_beside_each_other() {
    let sources = ["bert", "modernbert-reranker", "qwen3-embedding", "qwen3-reranker"];
    let models: Vec<String> = sources.iter().map(|golden| format!("{golden}={}", path(golden))).collect();
    let arguments: Vec<&str> = models.iter().flat_map(|model| ["--model", model]).collect();
    let server = Server::start(&arguments);
    server.log_line(&["loaded an encoder", "BertModel", "threads=2"]).await;
    // Each of the two encoders has computed a text, on threads of its own alone: those of --threads.
    let names = server.thread_names();
    let count = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((count("encoder 0"), count("encoder 1"), count("encoder 2")), (2, 2, 0), "{names:?}");
    assert_eq!(count("candle"), 0, "{names:?}");
    let (status, health) = server.get("/health").await;
    assert_eq!(status, 200, "{health}");
    for model in ["bert", "modernbert-reranker", "qwen3-reranker"] {
        let body = json!({"model": model, "prompt": [5, 6, 7], "max_tokens": 4});
        let (status, answer) = server.post("/v1/completions", &body).await;
        assert_eq!(status, 400, "{model} writes no text: {answer}");
    }
}

/// Whatever the device: there are no kernels for them but the CPU's.
#[tokio::test]
async fn an_encoder_runs_on_the_cpu_and_says_so() {
    let model = format!("bert={}", path("bert"));
    let server = Server::start(&["--model", &model, "--device", "hip:0"]);
    server.log_line(&["an encoder runs on the CPU", "hip:0"]).await;
}

#[test]
fn what_does_not_fit_an_encoder_is_refused_by_name() {
    for (arguments, words) in [
        (vec!["--max-context", "65"], ["--max-context 65", "64 tokens"]),
        (vec!["--load-format", "dummy"], ["--load-format dummy", "encoders"]),
    ] {
        let model = format!("bert={}", path("bert"));
        let log = Server::try_start(&[&["--model", &model], arguments.as_slice()].concat());
        let log = log.err().expect("no server");
        assert!(words.iter().all(|word| log.contains(word)) && !log.contains("panicked"), "{log}");
    }
}

/// Weights that are NaN are found before anybody asks.
#[test]
fn an_encoder_with_broken_weights_is_refused() {
    let copy = tempfile::tempdir().expect("a folder");
    let from = golden_dir("embeddings/bert");
    std::fs::copy(from.join("config.json"), copy.path().join("config.json")).expect("a copy");
    let mut bytes = std::fs::read(from.join("model.safetensors")).expect("weights");
    let header = 8 + bytes[0] as usize + (bytes[1] as usize) * 256;
    let tensors: Value = serde_json::from_slice(&bytes[8..header]).expect("a header");
    let first = tensors["embeddings.LayerNorm.bias"]["data_offsets"][0].as_u64().expect("an offset");
    bytes[header + first as usize..][..4].fill(0xff);
    std::fs::write(copy.path().join("model.safetensors"), bytes).expect("a file");
    let model = format!("broken={}", copy.path().display());
    let log = Server::try_start(&["--model", &model]).err().expect("no server");
    assert!(log.contains("not finite") && log.contains("weights are broken"), "{log}");
}

/// Mean pooling of a decoder would need every hidden state.
#[test]
fn a_decoder_with_another_pooling_is_refused_by_name() {
    let copy = tempfile::tempdir().expect("a folder");
    let from = golden_dir("embeddings/qwen3-embedding");
    std::fs::create_dir(copy.path().join("1_Pooling")).expect("a folder");
    for name in ["config.json", "modules.json", "model.safetensors"] {
        std::fs::copy(from.join(name), copy.path().join(name)).expect("a copy");
    }
    let pooling = copy.path().join("1_Pooling/config.json");
    std::fs::write(pooling, r#"{"pooling_mode_mean_tokens": true}"#).expect("a file");
    let model = format!("mean={}", copy.path().display());
    let log = Server::try_start(&["--model", &model]).err().expect("no server");
    assert!(log.contains("pooling by the mean is not supported") && log.contains("last token"), "{log}");
}
