//! The `libamdhip64.so` of tests/hip_host.

use std::process::Command;
use std::sync::OnceLock;

/// Its path; None, said aloud, where there is no compiler for it.
pub fn library() -> Option<&'static str> {
    static LIBRARY: OnceLock<Option<String>> = OnceLock::new();
    LIBRARY.get_or_init(|| built(&[])).as_deref()
}

/// The one that looks at every memory access.
pub fn checked_library() -> Option<&'static str> {
    static LIBRARY: OnceLock<Option<String>> = OnceLock::new();
    LIBRARY.get_or_init(|| built(&["--checked"])).as_deref()
}

fn built(options: &[&str]) -> Option<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    if Command::new("clang++-19").arg("--version").output().is_err() {
        eprintln!("SKIPPED: the GPU kernels' tests need clang++-19");
        return None;
    }
    let output = Command::new(format!("{root}/scripts/hip_host.sh")).args(options).output().expect("a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = String::from_utf8(output.stdout).expect("a path");
    Some(format!("{}/libamdhip64.so", folder.trim()))
}
