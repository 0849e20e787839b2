//! The HIP backend without a GPU: the program talks to the libamdhip64.so of tests/hip_host, which
//! runs the shipped kernels' source on the CPU and checks that the shipped objects are called as
//! their notes say. Greedy tokens are transformers', as on the CPU backend; log-probabilities lie
//! as far away as activations in 16 bits lead.

use super::{ask_all, golden};
use crate::support::{golden_dir, hip::library, server::Server};
use serde_json::json;
use std::process::Command;

/// How far a rounding of activations to f16 moves the log-probabilities of these small random
/// models; one of bf16 four times as far.
const F16_TOLERANCE: f64 = 0.1;
const BF16_TOLERANCE: f64 = 0.4;

async fn on_the_test_library(name: &str, tolerance: f64, environment: &[(&str, &str)]) {
    let Some(library) = library() else { return };
    let mut golden = golden(&format!("{name}/golden.json"));
    golden["logprob_tolerance"] = json!(tolerance);
    let source = format!("tiny={}", golden_dir(name).display());
    let options = ["--model", &source, "--step-tokens", "32", "--device", "hip:0"];
    let environment = [&[("NOVASTACK_HIP_LIBRARY", library)], environment].concat();
    let server = Server::try_start_with(&options, &environment).unwrap_or_else(|log| panic!("{name}: {log}"));
    ask_all(name, &golden, &server).await;
}

#[tokio::test]
async fn llama() {
    on_the_test_library("llama", F16_TOLERANCE, &[]).await;
}

/// Waves of 32, and the other matrix instruction.
#[tokio::test]
async fn llama_on_gfx1100() {
    on_the_test_library("llama", F16_TOLERANCE, &[("NOVASTACK_HIP_HOST_ARCH", "gfx1100")]).await;
}

#[tokio::test]
async fn qwen3() {
    on_the_test_library("qwen3", F16_TOLERANCE, &[]).await;
}

#[tokio::test]
async fn qwen3_moe() {
    on_the_test_library("qwen3-moe", F16_TOLERANCE, &[]).await;
}

/// Weights and activations in bf16.
#[tokio::test]
async fn qwen3_moe_bf16() {
    on_the_test_library("qwen3-moe-mixed", BF16_TOLERANCE, &[]).await;
}

#[tokio::test]
async fn deepseek_v2_lite() {
    on_the_test_library("deepseek-v2-lite", F16_TOLERANCE, &[]).await;
}

#[tokio::test]
async fn deepseek_v3() {
    on_the_test_library("deepseek-v3", F16_TOLERANCE, &[]).await;
}

fn refused(environment: &[(&str, &str)], options: &[&str]) -> String {
    let source = format!("tiny={}", golden_dir("llama").display());
    let options = [&["--model", &source], options].concat();
    Server::try_start_with(&options, environment).err().expect("no server")
}

#[test]
fn what_is_missing_is_named() {
    let log = refused(&[("NOVASTACK_HIP_LIBRARY", "/nowhere/libamdhip64.so")], &["--device", "hip:0"]);
    assert!(log.contains("NOVASTACK_HIP_LIBRARY=/nowhere/libamdhip64.so"), "{log}");
    let Some(library) = library() else { return };
    let library = ("NOVASTACK_HIP_LIBRARY", library);
    let log = refused(&[library], &["--device", "hip:3"]);
    assert!(log.contains("hip:3") && log.contains("no such device"), "{log}");
    let log = refused(&[library, ("NOVASTACK_HIP_HOST_ARCH", "gfx1030")], &["--device", "hip:0"]);
    assert!(log.contains("gfx1030") && log.contains("gfx90a"), "{log}");
    let log = refused(&[library, ("NOVASTACK_HIP_HOST_MEMORY", "100000")], &["--device", "hip:0"]);
    assert!(log.contains("out of memory") && log.contains("hip:0"), "{log}");
    for log in [log, refused(&[], &["--device", "gpu"])] {
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// A launch that fails in the middle ends the model's engine; the program answers for it.
#[tokio::test]
async fn a_lost_device_is_reported_and_not_the_end_of_the_program() {
    let Some(library) = library() else { return };
    let source = format!("tiny={}", golden_dir("llama").display());
    let environment = [("NOVASTACK_HIP_LIBRARY", library), ("NOVASTACK_HIP_HOST_FAULT", "launch:200")];
    let server = Server::try_start_with(&["--model", &source, "--device", "hip:0"], &environment)
        .unwrap_or_else(|log| panic!("{log}"));
    let body = json!({"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 64, "ignore_eos": true});
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert!(status >= 500 && answer.to_string().contains("hip:0: launch"), "{status} {answer}");
    let (status, health) = server.get("/health").await;
    assert_eq!(status, 503, "{health}");
}

#[test]
fn devices_says_what_was_found_and_what_was_not() {
    let devices = |environment: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_novastack"))
            .arg("devices")
            .envs(environment.iter().copied())
            .output()
            .expect("the program");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    };
    let text = devices(&[("NOVASTACK_HIP_LIBRARY", "/nowhere/libamdhip64.so")]);
    assert!(text.contains("cpu") && text.contains("/nowhere/libamdhip64.so cannot be opened"), "{text}");
    let Some(library) = library() else { return };
    let library = ("NOVASTACK_HIP_LIBRARY", library);
    let text = devices(&[library]);
    assert!(text.contains("hip:0") && text.contains("kernels for gfx90a"), "{text}");
    let text = devices(&[library, ("NOVASTACK_HIP_HOST_DEVICES", "0")]);
    assert!(text.contains("0 devices") && !text.contains("hip:0"), "{text}");
    let text = devices(&[library, ("NOVASTACK_HIP_HOST_ARCH", "gfx1030")]);
    assert!(text.contains("no kernels built for it; built: gfx1100, gfx1101, gfx90a"), "{text}");
}
