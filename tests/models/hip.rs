//! The HIP backend without a GPU: the program talks to the libamdhip64.so of tests/hip_host, which
//! runs the shipped kernels' source on the CPU and checks that the shipped objects are called as
//! their notes say. Greedy tokens are transformers', as on the CPU backend; log-probabilities lie
//! as far away as activations in 16 bits lead.

use super::{check, check_tokens, golden, request};
use crate::support::{golden_dir, hip::library, server::Server};
use novastack::checkpoint::Checkpoint;
use serde_json::{Value, json};
use std::process::Command;

/// How far a rounding of activations to f16 moves the log-probabilities of these small random
/// models; one of bf16 four times as far.
const F16_TOLERANCE: f64 = 0.1;
const BF16_TOLERANCE: f64 = 0.4;

/// A server on the test library, on its first device unless the options say otherwise.
fn serve(name: &str, options: &[&str], environment: &[(&str, &str)]) -> Option<Server> {
    let source = format!("tiny={}", golden_dir(name).display());
    let mut all = vec!["--model", &source];
    for default in [["--step-tokens", "32"], ["--device", "hip:0"]] {
        if !options.contains(&default[0]) {
            all.extend(default);
        }
    }
    all.extend(options);
    let environment = [&[("NOVASTACK_HIP_LIBRARY", library()?)], environment].concat();
    Some(Server::try_start_with(&all, &environment).unwrap_or_else(|log| panic!("{name}: {log}")))
}

/// All at once, then one by one: with log-probabilities, for which the host sees the logits, and
/// without, where the device chooses the tokens and decodes are replayed.
async fn on_the_test_library(name: &str, tolerance: f64, environment: &[(&str, &str)]) {
    as_the_golden_says(name, &format!("{name}/golden.json"), tolerance, environment).await;
}

async fn as_the_golden_says(name: &str, golden: &str, tolerance: f64, environment: &[(&str, &str)]) {
    let Some(server) = serve(name, &[], environment) else { return };
    let mut golden = self::golden(golden);
    golden["logprob_tolerance"] = json!(tolerance);
    let bodies: Vec<Value> = golden["cases"].as_array().expect("cases").iter().map(request).collect();
    for (index, (status, answer)) in all_at_once(&server, &bodies).await.iter().enumerate() {
        check(name, &golden, index, *status, answer);
    }
    let without = |mut body: Value| {
        body.as_object_mut().expect("an object").remove("logprobs");
        body
    };
    let bodies: Vec<Value> = bodies.into_iter().map(without).collect();
    for (index, (status, answer)) in all_at_once(&server, &bodies).await.iter().enumerate() {
        check_tokens(name, &golden, index, *status, answer);
    }
    for (index, body) in bodies.iter().enumerate().take(3) {
        let (status, answer) = server.post("/v1/completions", body).await;
        check_tokens(name, &golden, index, status, &answer);
    }
    assert!(replayed_steps(&server).await > 20, "{name}: decodes are replayed");
}

async fn all_at_once(server: &Server, bodies: &[Value]) -> Vec<(u16, Value)> {
    let answers = bodies.iter().map(|body| server.post("/v1/completions", body));
    futures_util::future::join_all(answers).await
}

async fn replayed_steps(server: &Server) -> u64 {
    let (_, metrics) = server.get("/metrics").await;
    let line = metrics.lines().find(|line| line.starts_with("novastack_replayed_steps_total"));
    let count = line.and_then(|line| line.rsplit(' ').next()).and_then(|count| count.parse().ok());
    count.expect("a counter")
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

/// GELU, norms around each half layer, and two rotary embeddings.
#[tokio::test]
async fn gemma3() {
    on_the_test_library("gemma3", F16_TOLERANCE, &[]).await;
}

/// Scaled embeddings.
#[tokio::test]
async fn granite() {
    on_the_test_library("granite", F16_TOLERANCE, &[]).await;
}

/// A layer that does not rotate.
#[tokio::test]
async fn smollm3() {
    on_the_test_library("smollm3", F16_TOLERANCE, &[]).await;
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

/// Matrices and embedding tables of the types that have kernels, and of one that becomes 16 bits.
#[tokio::test]
async fn gguf_files() {
    for name in [
        "wide-q8_0",
        "wide-q4_1",
        "wide-q4_k_m",
        "wide-q5_k",
        "narrow-iq4_nl",
        "slim-iq4_xs",
        "narrow-mxfp4",
        "uneven-q2_k",
        "experts-mxfp4_moe",
    ] {
        let (file, golden) = (format!("gguf/{name}.gguf"), format!("gguf/{name}.json"));
        as_the_golden_says(&file, &golden, BF16_TOLERANCE, &[]).await;
    }
}

#[tokio::test]
async fn gguf_files_on_gfx1100() {
    let environment = [("NOVASTACK_HIP_HOST_ARCH", "gfx1100")];
    as_the_golden_says("gguf/slim-iq4_xs.gguf", "gguf/slim-iq4_xs.json", BF16_TOLERANCE, &environment).await;
}

/// On the CPU and on a GPU.
#[test]
fn nan_scales_are_refused_by_place() {
    let path = golden_dir("gguf").join("narrow-mxfp4.gguf");
    let mut bytes = std::fs::read(&path).expect("a golden");
    let checkpoint = Checkpoint::open(&path).expect("a golden");
    let stored = checkpoint.tensor("model.layers.0.mlp.down_proj.weight").expect("a tensor");
    let row_bytes = stored.dtype.bytes(stored.shape[1]).expect("whole blocks");
    let start = bytes.windows(stored.data.len()).position(|some| some == &*stored.data).expect("its bytes");
    bytes[start + 7 * row_bytes + 2 * stored.dtype.block().1] = 0xff;
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.gguf");
    std::fs::write(&broken, bytes).expect("a file");
    let source = format!("tiny={}", broken.display());
    let mut devices = vec![("cpu", vec![])];
    devices.extend(library().map(|library| ("hip:0", vec![("NOVASTACK_HIP_LIBRARY", library)])));
    for (device, environment) in devices {
        let options = ["--model", &source, "--device", device];
        let log = Server::try_start_with(&options, &environment).err().expect("NaN is refused");
        let named = log.contains("down_proj.weight: row 7, column 64 is NaN");
        assert!(named && !log.contains("panicked"), "{device}:\n{log}");
    }
}

#[tokio::test]
async fn deepseek_v2_lite() {
    on_the_test_library("deepseek-v2-lite", F16_TOLERANCE, &[]).await;
}

#[tokio::test]
async fn deepseek_v2_over_expanded_keys() {
    on_the_test_library("deepseek-v2-mla128", F16_TOLERANCE, &[]).await;
}

#[tokio::test]
async fn deepseek_v2_over_expanded_keys_on_gfx1100() {
    let environment = [("NOVASTACK_HIP_HOST_ARCH", "gfx1100")];
    on_the_test_library("deepseek-v2-mla128", F16_TOLERANCE, &environment).await;
}

/// Prompts of several items in one step; and it is really keys and values that are attended to, in
/// steps that begin their sequences and in no others.
#[tokio::test]
async fn latents_are_expanded_where_a_prompt_begins() {
    let Some(server) = serve("deepseek-v2-mla128", &["--step-tokens", "256"], &[]) else { return };
    few_tokens("deepseek-v2-mla128", &server, 6).await;
    for kernel in ["mla_expand_f16", "attention_prefill_f16_192_128"] {
        let lost_at = |launch: usize| format!("{kernel}:{launch}");
        let ask = async |server: &Server, tokens: usize| {
            let body =
                json!({"model": "tiny", "prompt": vec![7; tokens], "max_tokens": 4, "ignore_eos": true});
            server.post("/v1/completions", &body).await
        };
        // The step that warms up a model of two layers has the first two launches.
        let lost = [("NOVASTACK_HIP_HOST_FAULT", &*lost_at(3))];
        let Some(server) = serve("deepseek-v2-mla128", &[], &lost) else { return };
        let (status, answer) = ask(&server, 1).await;
        assert_eq!(status, 200, "{kernel} is not for a prompt of one token: {answer}");
        let (status, answer) = ask(&server, 20).await;
        assert!(status >= 500 && answer.to_string().contains("hip:0: launch"), "{kernel}: {status} {answer}");
        let lost = [("NOVASTACK_HIP_HOST_FAULT", &*lost_at(1))];
        let Some(server) = serve("deepseek-v2-mla128", &["--deterministic"], &lost) else { return };
        let (status, answer) = ask(&server, 20).await;
        assert_eq!(status, 200, "{kernel} is not deterministic: {answer}");
    }
}

#[tokio::test]
async fn deepseek_v3() {
    on_the_test_library("deepseek-v3", F16_TOLERANCE, &[]).await;
}

/// Replayed or not, a draw is the same.
#[tokio::test]
async fn draws_are_those_of_launches_one_by_one() {
    let mut answers = Vec::new();
    for options in [&[][..], &["--enforce-eager"]] {
        let Some(server) = serve("llama", options, &[]) else { return };
        let body = json!({
            "model": "tiny", "prompt": [5, 6, 7, 8], "max_tokens": 24, "n": 3, "temperature": 0.9, "top_p": 0.9,
            "top_k": 60, "seed": 11, "frequency_penalty": 0.5, "repetition_penalty": 1.2, "ignore_eos": true,
            "logit_bias": {"9": -100, "12": 3}, "return_token_ids": true,
        });
        let (status, answer) = server.post("/v1/completions", &body).await;
        assert_eq!(status, 200, "{answer}");
        let choices = answer["choices"].as_array().expect("choices").clone();
        answers.push(choices.iter().map(|choice| choice["token_ids"].clone()).collect::<Vec<_>>());
        assert_eq!(replayed_steps(&server).await > 0, options.is_empty());
    }
    assert_eq!(answers[0], answers[1]);
    assert_ne!(answers[0][0], answers[0][1], "choices differ");
}

/// The same bits alone and among others, whatever the chunks of the prompt.
#[tokio::test]
async fn deterministic() {
    for name in ["llama", "qwen3-moe", "deepseek-v2-lite"] {
        let Some(server) = serve(name, &["--deterministic"], &[]) else { return };
        let golden = golden(&format!("{name}/golden.json"));
        let short = |mut body: Value| {
            body["max_tokens"] = json!(6);
            body
        };
        let cases = golden["cases"].as_array().expect("cases").iter().take(6);
        let bodies: Vec<Value> = cases.map(request).map(short).collect();
        let together = all_at_once(&server, &bodies).await;
        for (body, (_, among)) in bodies.iter().zip(together) {
            let (status, alone) = server.post("/v1/completions", body).await;
            assert_eq!(status, 200, "{alone}");
            assert_eq!(alone["choices"], among["choices"], "{name}");
        }
    }
}

/// The first cases with few tokens each, all at once.
async fn few_tokens(name: &str, server: &Server, cases: usize) {
    let golden = golden(&format!("{name}/golden.json"));
    let short = |case: &Value| {
        let mut body = request(case);
        body["max_tokens"] = json!(8);
        body.as_object_mut().expect("an object").remove("logprobs");
        body
    };
    let all = golden["cases"].as_array().expect("cases");
    let bodies: Vec<Value> = all.iter().take(cases).map(short).collect();
    for (case, (status, answer)) in all.iter().zip(all_at_once(server, &bodies).await) {
        assert_eq!(status, 200, "{name}: {answer}");
        let margins = case["margins"].as_array().expect("margins").iter().take(8);
        let sure = margins.take_while(|margin| margin.as_f64().unwrap_or(0.0) >= 0.05).count();
        let found = answer["choices"][0]["token_ids"].as_array().expect("ids");
        assert_eq!(found[..sure], case["tokens"].as_array().expect("ids")[..sure], "{name}");
    }
}

/// Ranks on devices of their own: the test library adds their parts up as RCCL does.
#[tokio::test]
async fn two_devices_share_a_model() {
    let Some(library) = library() else { return };
    let environment = [("NOVASTACK_RCCL_LIBRARY", library), ("NOVASTACK_HIP_HOST_DEVICES", "3")];
    for name in ["llama", "minimax-m2", "deepseek-v2-lite", "deepseek-v2-mla128"] {
        let Some(server) = serve(name, &["--device", "hip:2,0"], &environment) else { return };
        few_tokens(name, &server, 6).await;
        assert!(replayed_steps(&server).await > 0, "{name}: decodes are replayed");
    }
}

/// One rank's device is lost in the middle of a step: the other does not wait for ever.
#[tokio::test]
async fn a_lost_rank_ends_its_group() {
    let Some(library) = library() else { return };
    let environment = [
        ("NOVASTACK_RCCL_LIBRARY", library),
        ("NOVASTACK_HIP_HOST_DEVICES", "2"),
        ("NOVASTACK_HIP_HOST_FAULT", "launch:100"),
    ];
    let Some(server) = serve("llama", &["--device", "hip:0,1"], &environment) else { return };
    let body = json!({"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 64, "ignore_eos": true});
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert!(status >= 500 && answer.to_string().contains("launch"), "{status} {answer}");
    let (status, health) = server.get("/health").await;
    assert!(status == 503 && health.contains("hip:"), "{health}");
}

/// Where a device cannot record, alone or among others that can, kernels are launched one by one.
#[tokio::test]
async fn what_cannot_be_recorded_is_launched() {
    let Some(library) = library() else { return };
    for device in ["hip:0", "hip:0,1"] {
        let environment = [
            ("NOVASTACK_RCCL_LIBRARY", library),
            ("NOVASTACK_HIP_HOST_DEVICES", "2"),
            ("NOVASTACK_HIP_HOST_FAULT", "capture:1"),
        ];
        let Some(server) = serve("llama", &["--device", device], &environment) else { return };
        few_tokens("llama", &server, 6).await;
        let (status, health) = server.get("/health").await;
        assert_eq!(status, 200, "{device}: {health}");
    }
}

/// Prompts long enough for the vendor's products, by either library; and they are really asked for.
#[tokio::test]
async fn large_products_by_the_vendors_libraries() {
    let Some(library) = library() else { return };
    let options = ["--step-tokens", "128"];
    let lt = ("NOVASTACK_HIPBLASLT_LIBRARY", library);
    let rocblas = [("NOVASTACK_HIPBLASLT_LIBRARY", "/nowhere"), ("NOVASTACK_ROCBLAS_LIBRARY", library)];
    let none = [lt, ("NOVASTACK_HIP_HOST_BLAS", "none")];
    for environment in [&[lt][..], &rocblas, &none] {
        let Some(server) = serve("llama", &options, environment) else { return };
        few_tokens("llama", &server, 6).await;
    }
    for (environment, call) in [(&[lt][..], "matmul"), (&rocblas, "gemm")] {
        let environment = [environment, &[("NOVASTACK_HIP_HOST_FAULT", "blas:2")]].concat();
        let Some(server) = serve("llama", &options, &environment) else { return };
        let body = json!({"model": "tiny", "prompt": vec![7; 100], "max_tokens": 2});
        let (status, answer) = server.post("/v1/completions", &body).await;
        assert!(status >= 500 && answer.to_string().contains(call), "{status} {answer}");
    }
}

/// One model's device does not come back; the other model goes on.
#[tokio::test]
async fn a_device_that_hangs_ends_its_model_alone() {
    let source = format!("other={}", golden_dir("llama").display());
    let options = ["--model", &source, "--step-timeout", "3"];
    let Some(server) = serve("llama", &options, &[("NOVASTACK_HIP_HOST_FAULT", "hang:60")]) else { return };
    let ask = async |model: &str| {
        let body = json!({"model": model, "prompt": [1, 2, 3], "max_tokens": 40, "ignore_eos": true});
        server.post("/v1/completions", &body).await
    };
    let mut hung = None;
    for _ in 0..4 {
        let (status, answer) = ask("tiny").await;
        if status != 200 {
            hung = Some(answer.to_string());
            break;
        }
    }
    let hung = hung.expect("a step that never ends");
    assert!(hung.contains("hip:0 has not finished a step within 3 s"), "{hung}");
    let (status, health) = server.get("/health").await;
    let health: Value = serde_json::from_str(&health).expect("JSON");
    assert_eq!((status, &health["models"]), (503, &json!({"tiny": "stopped", "other": "ready"})));
    assert!(health["failures"]["tiny"].as_str().is_some_and(|why| why.contains("hip:0")), "{health}");
    assert_eq!(ask("other").await.0, 200);
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
    assert!(log.contains("GB too little; what would fit: 4 such devices"), "{log}");
    let log = refused(&[library, ("NOVASTACK_HIP_HOST_DEVICES", "2")], &["--device", "hip:0,1"]);
    assert!(log.contains("librccl.so not found") && log.contains("NOVASTACK_RCCL_LIBRARY"), "{log}");
    let log = refused(&[library], &["--device", "hip:0", "--tensor-parallel", "2"]);
    assert!(log.contains("--tensor-parallel 2 with 1 GPUs"), "{log}");
    for log in [log, refused(&[], &["--device", "gpu"])] {
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// A launch that fails in the middle ends the model's engine; the program answers for it.
#[tokio::test]
async fn a_lost_device_is_reported_and_not_the_end_of_the_program() {
    let Some(library) = library() else { return };
    let source = format!("tiny={}", golden_dir("llama").display());
    let environment = [("NOVASTACK_HIP_LIBRARY", library), ("NOVASTACK_HIP_HOST_FAULT", "launch:50")];
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
