//! What several test areas share.

pub mod gguf_writer;
pub mod server;

use std::path::PathBuf;

/// A folder of `tests/goldens/`.
pub fn golden_dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}
