//! What a newcomer meets first: words that people type, errors, defaults, the log.

mod defaults;
mod files;
mod log;
mod memory;
mod nonsense;
mod stderr;
mod words;

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program in an empty folder, without a cache, a token or a hub that could answer.
fn run(arguments: &[&str]) -> Output {
    run_with(arguments, &[])
}

/// The same, with environment variables.
fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let home = tempfile::tempdir().expect("a folder");
    run_in(home.path(), arguments, environment)
}

fn run_in(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_novastack"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("HF_HOME", folder)
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .envs(environment.iter().copied())
        .output()
        .expect("the program runs")
}

/// What a program that fails says.
#[track_caller]
fn failure(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it goes on: {text}");
    text
}
