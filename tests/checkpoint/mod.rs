//! Checkpoints from every source, good and corrupt.

mod gguf;
mod gguf_moe;
mod gguf_split;
mod hf_dir;
mod hub;
pub mod hub_server;
mod quantized;
mod resolve;
mod strangers;

use novastack::checkpoint::{Checkpoint, CheckpointError};
use std::path::{Path, PathBuf};

/// Writes the bytes into the directory and opens them as a GGUF file.
fn open_gguf(directory: &Path, bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let path = directory.join("model.gguf");
    // Overwriting in place makes some file systems wait for the disk, thousands of times here.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).expect("write");
    Checkpoint::open(&path)
}

/// The error's text, which must name the file.
fn error_naming(result: Result<Checkpoint, CheckpointError>, file: &str, context: &str) -> String {
    match result {
        Ok(_) => panic!("{context}: was accepted"),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(file), "{context}: {text:?} does not name {file}");
            text
        }
    }
}

/// Every tensor can be read in full; returns the sum of their bytes.
fn read_all(checkpoint: &Checkpoint) -> usize {
    let mut total = 0;
    for name in checkpoint.tensor_names() {
        let tensor = checkpoint.tensor(name).expect("listed tensors are there");
        let values = tensor.shape.iter().product();
        assert_eq!(tensor.dtype.bytes(values), Some(tensor.data.len()), "{name}");
        assert_eq!(tensor.name, name);
        total += tensor.data.len();
    }
    total
}

/// The demo checkpoint's GGUF file, where this machine has it.
fn demo_gguf() -> Option<PathBuf> {
    const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let cached = || Some(novastack::checkpoint::resolve::model_cache_dir().ok()?.join(FILE));
    let path = std::env::var_os("NOVASTACK_DEMO_GGUF").map(PathBuf::from).or_else(cached)?;
    path.exists().then_some(path)
}

/// Runs the named test alone, in a process that may map no more than `kib` KiB of memory.
fn passes_under_memory_limit(test: &str, kib: u32) -> bool {
    let exe = std::env::current_exe().expect("own path");
    let script = format!("ulimit -v {kib} && exec \"$0\" --exact {test} --test-threads 1 --ignored");
    let output = std::process::Command::new("sh").arg("-c").arg(script).arg(exe).output().expect("sh");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "{test} does not exist: {text}");
    if !output.status.success() {
        eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

#[test]
fn is_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Checkpoint>();
}
