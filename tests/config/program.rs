//! `novastack check-config` as it is run.

use std::process::{Command, Output};

fn check(files: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_novastack"))
        .arg("check-config")
        .args(files)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config"))
        .output()
        .expect("the program")
}

#[test]
fn valid_files_are_explained() {
    let output = check(&["novastack.yaml", "routes-if.yaml", "routes-match.yaml"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for words in [
        "novastack.yaml: valid",
        "routes-if.yaml: valid",
        "routes-match.yaml: valid",
        "here: Qwen/Qwen3-235B-A22B on hip:0,1,2,3,4,5,6,7",
        "$0.48 in, $0.48 out, $0.05 cached per million",
        "1. if context_length > 80000: kimi-2.6",
        "3. if task == \"long_document_qa\" and context_length > 100000: kimi-2.6; should that fail: qwen3-235b",
        "the cheapest of minimax-2.7, kimi-2.6, claude-opus-4.7 that can do it",
        "90% qwen3-235b, 10% deepseek-v4-pro, sticky by key or conversation",
        "8. else: deepseek-v4-pro",
        "else: refused, as no rule matches",
        "600 requests a minute, 400000 tokens a minute, $50 a month",
        "provider `spare`: no model uses it",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn one_bad_file_fails_them_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.yaml");
    std::fs::write(&bad, "modles: {}\n").expect("a file");
    let missing = folder.path().join("none.yaml");
    let output = check(&[&bad.to_string_lossy(), "routes-if.yaml", &missing.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        errors.contains("bad.yaml:1: the file: unknown key `modles`: did you mean `models`?"),
        "{errors}"
    );
    assert!(errors.contains("none.yaml: cannot be read"), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("routes-if.yaml: valid"));
}

#[test]
fn without_a_file_it_is_novastack_yaml() {
    let output = check(&[]);
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"novastack.yaml: valid"));
}
