//! What several test areas share.

pub mod gguf_writer;
pub mod hip;
pub mod otlp;
pub mod server;
pub mod upstream;

use std::path::PathBuf;

/// A folder of `tests/goldens/`.
pub fn golden_dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The demo checkpoint (`scripts/demo_checkpoint.sh` fetches it); None, said aloud, without it.
pub fn demo_checkpoint() -> Option<PathBuf> {
    let file = std::env::var_os("NOVASTACK_DEMO_GGUF").map(PathBuf::from);
    if file.is_none() {
        eprintln!(
            "SKIPPED: the demo checkpoint is not here; set NOVASTACK_DEMO_GGUF=$(scripts/demo_checkpoint.sh)"
        );
    }
    file
}

/// An HTTP client.
pub fn client() -> reqwest::Client {
    // A second call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
