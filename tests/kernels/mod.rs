//! Every GPU kernel against the CPU backend, by `novastack selftest` on the test library: the
//! kernels' source on the CPU (tests/hip_host). Which tests would notice a kernel's mistake is
//! what scripts/mutate_kernels.py finds out.

use crate::support::hip::{checked_library, library};
use std::process::{Command, Output};

fn selftest(library: &str, architecture: &str, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_novastack"))
        .args(["selftest", "--device", "hip:0"])
        .args(options)
        .env("NOVASTACK_HIP_LIBRARY", library)
        .env("NOVASTACK_HIP_HOST_ARCH", architecture)
        // Another order of blocks, waves and streams for each seed.
        .env("NOVASTACK_HIP_HOST_SEED", options.get(1).copied().unwrap_or("1"))
        .output()
        .expect("the program")
}

/// The report of a run in which all agreed.
fn agrees(library: Option<&str>, architecture: &str, options: &[&str]) -> Option<String> {
    let output = selftest(library?, architecture, options);
    let (report, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{architecture} {options:?}:\n{report}\n{errors}");
    Some(report.into_owned())
}

/// As MI200, whose matrix instructions flush subnormals: so do the other two.
#[test]
fn waves_of_64() {
    let Some(report) = agrees(library(), "gfx90a", &["--seed", "1"]) else { return };
    let (_, missing) = report.split_once("never launched: ").expect("a list");
    let missing = missing.split_whitespace();
    // Ceilings compute nothing.
    let missing: Vec<&str> = missing.filter(|name| !name.starts_with("ceiling")).collect();
    assert!(missing.is_empty(), "without a case: {missing:?}");
}

#[test]
fn waves_of_64_with_another_seed() {
    agrees(library(), "gfx90a", &["--seed", "2"]);
}

#[test]
fn waves_of_64_with_a_third_seed() {
    agrees(library(), "gfx90a", &["--seed", "3"]);
}

/// As MI300, whose matrix instructions take subnormals for what they are.
#[test]
fn waves_of_64_that_keep_subnormals() {
    agrees(library(), "gfx942", &["--seed", "6"]);
}

/// Where all but one of a sequence's positions have weights that are subnormal in f16: the cases of
/// src/selftest/sink.rs, on the device that takes such operands for zero.
#[test]
fn small_softmax_weights_do_not_vanish_on_mi200() {
    let only = "attention_decode,attention_reduce,attention_prefill,mla_decode,mla_prefill";
    agrees(library(), "gfx90a", &["--seed", "7", "--only", only]);
}

/// And the other matrix instruction.
#[test]
fn waves_of_32() {
    agrees(library(), "gfx1100", &["--seed", "4"]);
}

/// No access outside of memory, no race, nothing read that was not written.
#[test]
fn every_access_is_looked_at() {
    agrees(checked_library(), "gfx90a", &["--seed", "5"]);
}

#[test]
fn a_device_that_fails_ends_the_run() {
    let Some(library) = library() else { return };
    let run = |environment: &[(&str, &str)], options: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_novastack"))
            .arg("selftest")
            .args(options)
            .env("NOVASTACK_HIP_LIBRARY", library)
            .envs(environment.iter().copied())
            .output()
            .expect("the program");
        assert_eq!(output.status.code(), Some(1), "{options:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let lost = run(&[("NOVASTACK_HIP_HOST_FAULT", "launch:40")], &["--device", "hip:0"]);
    assert!(lost.contains("hip:0: launch") && lost.contains("unspecified launch failure"), "{lost}");
    let nowhere = run(&[], &["--device", "hip:7"]);
    assert!(nowhere.contains("hip:7") && nowhere.contains("no such device"), "{nowhere}");
    let unknown = run(&[], &["--device", "hip:0", "--only", "gemn"]);
    assert!(unknown.contains("--only gemn") && unknown.contains("gemm"), "{unknown}");
    let cpu = run(&[], &["--device", "cpu"]);
    assert!(cpu.contains("compares a GPU with the CPU"), "{cpu}");
    let none = run(&[("NOVASTACK_HIP_HOST_DEVICES", "0"), ("NOVASTACK_CUDA_LIBRARY", "/nowhere")], &[]);
    assert!(none.contains("no GPU was found"), "{none}");
}
