//! The integration tests, one binary.

mod checkpoint;
mod support {
    pub mod gguf_writer;
}
