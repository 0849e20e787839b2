//! `novastack bench` and `novastack goldens` as a user runs them, on tiny checkpoints on the CPU.

use crate::support::golden_dir;
use serde_json::Value;
use std::process::{Command, Output};

fn novastack(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_novastack")).args(arguments).output().expect("the program runs")
}

fn json(arguments: &[&str]) -> Value {
    let output = novastack(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn positive(row: &Value, fields: &[&str]) {
    for field in fields {
        assert!(row[*field].as_f64().is_some_and(|value| value > 0.0), "{field} in {row}");
    }
}

const TINY: [&str; 8] =
    ["--threads", "2", "--copy-memory", "1M", "--kv-cache-memory", "256K", "--step-tokens", "32"];

#[test]
fn the_engine_is_measured_and_what_does_not_fit_is_named() {
    for name in ["qwen3", "qwen3-moe", "deepseek-v2-lite"] {
        let model = golden_dir(name).display().to_string();
        let row = ["--model", &model, "--batch", "1,3", "--input", "20,4000", "--output", "8", "--json"];
        let report = json(&[&["bench", "offline"], &row[..], &TINY].concat());
        assert_eq!(report["device"].as_str().map(|device| device.starts_with("cpu")), Some(true), "{report}");
        positive(&report, &["weight_bytes", "kv_bytes_per_token", "copy_bytes_per_s", "kv_blocks"]);
        let rows = report["rows"].as_array().expect("rows");
        let shapes: Vec<_> = rows.iter().map(|row| (row["batch"].as_u64(), row["input"].as_u64())).collect();
        assert_eq!(shapes, [(Some(1), Some(20)), (Some(3), Some(20))], "{name}");
        for row in rows {
            positive(row, &["prefill_tokens_per_s", "output_tokens_per_s", "ttft_ms", "step_bytes"]);
            if row["tpot_ms"].is_null() {
                // On a busy machine a whole run may take less time than its prefill took by itself.
                assert!(row["decode_tokens_per_s"].is_null() && row["decode_of_best"].is_null(), "{row}");
                continue;
            }
            positive(row, &["decode_tokens_per_s", "tpot_ms", "decode_of_best"]);
            let (tpot, batch) = (row["tpot_ms"].as_f64().unwrap(), row["batch"].as_f64().unwrap());
            let rate = row["decode_tokens_per_s"].as_f64().unwrap();
            assert!((rate * tpot / 1e3 / batch - 1.0).abs() < 1e-6, "{row}");
        }
        let skipped = report["skipped"].as_array().expect("skipped");
        assert_eq!(skipped.len(), 2, "{skipped:?}");
        for skip in skipped {
            assert!(skip["reason"].as_str().is_some_and(|reason| reason.contains("4008 tokens")), "{skip}");
        }
        assert!(
            report["node"].get("claimed_tokens_per_s").is_none(),
            "a report holds what was measured alone"
        );
        positive(&report["node"], &["output_tokens_per_s"]);
    }
}

/// Nothing of a row's work is another one's, and its bytes are those of its shape.
#[test]
fn a_decode_steps_bytes_are_weights_and_kv() {
    let model = golden_dir("qwen3").display().to_string();
    let row =
        ["--model", &model, "--load-format", "dummy", "--batch", "1,2", "--input", "16", "--output", "4"];
    let report = json(&[&["bench", "offline", "--json"], &row[..], &TINY].concat());
    assert_eq!(report["dummy_weights"], true);
    let bytes = |at: usize| report["rows"][at]["step_bytes"].as_f64().expect("bytes");
    let kv = 18.0 * report["kv_bytes_per_token"].as_f64().expect("bytes");
    assert_eq!(bytes(1) - bytes(0), kv);
    assert!(bytes(0) - kv <= report["weight_bytes"].as_f64().expect("bytes"));
}

#[test]
fn a_cache_that_is_too_small_for_a_batch_is_named() {
    let model = golden_dir("qwen3").display().to_string();
    let row = ["bench", "offline", "--model", &model, "--batch", "64", "--input", "64", "--output", "4"];
    let output = novastack(&[&row[..], &TINY].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("Skipped: batch 64, 64 in: it needs 320 KV blocks"),
        "{text}"
    );
    let output = novastack(&["bench", "offline", "--model", &model, "--batch", "0"]);
    assert!(!output.status.success());
}

#[test]
fn every_operation_is_measured() {
    let report = json(&["bench", "ops", "--device", "cpu", "--threads", "2", "--quick", "--json"]);
    assert_eq!((&report["failed"], &report["skipped"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    for rates in ["copy_bytes_per_s", "operations_per_s"] {
        assert!(report["ceilings"][rates][0][1].as_f64().is_some_and(|rate| rate > 1e6), "{report}");
    }
    let rows = report["rows"].as_array().expect("rows");
    let mut operations: Vec<&str> = rows.iter().filter_map(|row| row["operation"].as_str()).collect();
    operations.dedup();
    let wanted = ["embed", "add_rms_norm", "silu_mul", "linear", "attention decode", "attention prefill"];
    assert_eq!(operations, [&wanted[..], &["MLA decode", "experts"]].concat());
    for format in ["BF16", "Q8_0", "Q6_K", "Q4_K", "INT4", "IQ4_NL", "IQ4_XS", "MXFP4", "FP8"] {
        let linear = |row: &&Value| {
            row["operation"] == "linear" && row["shape"].as_str().is_some_and(|s| s.starts_with(format))
        };
        assert_eq!(rows.iter().filter(linear).count(), 12, "{format}: three shapes, four sizes");
    }
    for row in rows {
        positive(row, &["us", "gb_per_s", "of_ceiling"]);
    }
    let skinny = rows.iter().find(|row| row["operation"] == "linear" && row["rows"] == 1).expect("a row");
    assert_eq!((&skinny["target"]["of"], &skinny["target"]["share"]), (&"memory".into(), &0.8.into()));
}

#[test]
fn operations_are_chosen_by_name() {
    let report = json(&["bench", "ops", "--device", "cpu", "--quick", "--json", "--only", "MLA"]);
    let rows = report["rows"].as_array().expect("rows");
    assert!(!rows.is_empty() && rows.iter().all(|row| row["operation"] == "MLA decode"), "{rows:?}");
    let output = novastack(&["bench", "ops", "--device", "cpu", "--quick", "--only", "nothing"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("there are: embed"), "{text}");
}

/// A golden that is right passes, one whose token was changed does not.
#[test]
fn goldens_are_compared_over_http() {
    let good = golden_dir("llama").display().to_string();
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(&good).expect("a golden").flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
    }
    let file = copy.path().join("golden.json");
    let mut golden: Value = serde_json::from_slice(&std::fs::read(&file).expect("a golden")).expect("JSON");
    let token = &mut golden["cases"][3]["tokens"][2];
    *token = (token.as_u64().expect("a token") + 1).into();
    std::fs::write(&file, golden.to_string()).expect("written");
    let bad = copy.path().display().to_string();
    let output = novastack(&["goldens", "--device", "cpu", &good, &bad, "/nowhere"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("| llama | cpu | 16 | 768 | equal |"), "{text}");
    assert!(text.contains("FAILED: case 3: token 2 is") && text.contains("/nowhere"), "{text}");
    let output = novastack(&["goldens", "--device", "cpu", &good]);
    assert!(output.status.success());
}

#[test]
fn products_by_the_vendors_library() {
    let Some(library) = crate::support::hip::library() else { return };
    let ops = |blas: &str| {
        Command::new(env!("CARGO_BIN_EXE_novastack"))
            .args(["bench", "ops", "--device", "hip:0", "--quick", "--json", "--vendor-blas"])
            .args(["--only", "linear BF16 256 -> 512"])
            .envs([("NOVASTACK_HIP_LIBRARY", library), ("NOVASTACK_HIPBLASLT_LIBRARY", blas)])
            .env("NOVASTACK_ROCBLAS_LIBRARY", "/nowhere")
            .output()
            .expect("the program runs")
    };
    let report: Value = serde_json::from_slice(&ops(library).stdout).expect("JSON");
    assert_eq!(report["vendor_blas"], library);
    let none = ops("/nowhere");
    let text = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(!none.status.success() && text.contains("there is no hipBLASLt, rocBLAS or cuBLASLt"), "{text}");
    assert!(!novastack(&["bench", "ops", "--device", "cpu", "--quick", "--vendor-blas"]).status.success());
}

/// The ceilings' own kernels check their results; then products and attention through the driver.
#[test]
fn a_gpu_is_measured_through_its_driver() {
    let Some(library) = crate::support::hip::library() else { return };
    for architecture in ["gfx90a", "gfx1100"] {
        for only in ["linear BF16 256 -> 512", "attention decode"] {
            let output = Command::new(env!("CARGO_BIN_EXE_novastack"))
                .args(["bench", "ops", "--device", "hip:0", "--quick", "--json", "--only", only])
                .envs([("NOVASTACK_HIP_LIBRARY", library), ("NOVASTACK_HIP_HOST_ARCH", architecture)])
                .output()
                .expect("the program runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let names: Vec<&str> = ["copy_bytes_per_s", "operations_per_s"]
                .iter()
                .flat_map(|rates| report["ceilings"][*rates].as_array().expect("rates"))
                .filter_map(|rate| rate[0].as_str())
                .collect();
            assert_eq!(names, ["driver's copy", "kernel's copy", "bf16", "f16"]);
            assert!(!report["rows"].as_array().expect("rows").is_empty(), "{report}");
        }
    }
}
