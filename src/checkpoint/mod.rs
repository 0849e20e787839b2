//! Where weights come from: a Hugging Face hub id, a directory in Hugging Face layout, a GGUF
//! file, or a name in the catalogue. Whatever the source, what comes out is a [`Checkpoint`]:
//! a config in Hugging Face's shape, a tokenizer, a chat template, and named tensors over one
//! memory map per file. Nothing here knows a model or a backend.
//!
//! Invariants: every byte range is checked against its file before a tensor is handed out, no
//! allocation is larger than the file justifies, and every error names the file. Deliberately
//! absent: pickle files (reading one runs code), writing or converting checkpoints.

mod gguf;
mod gguf_config;
mod hf_dir;
mod mmap;
mod parts;
mod recognise;
mod safetensors;
mod sentence_transformers;
mod tensor_data;
mod tensors;

pub mod blocks;
pub mod catalogue;
pub mod hub;
pub mod resolve;

pub use sentence_transformers::{PoolingMode, SentenceTransformers};
pub use tensor_data::TensorError;
pub use tensors::Tensors;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Element or block type of a stored tensor. Block types are GGUF's (ggml's `block_*` structs)
/// but for [`Dtype::F8Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4K,
    Q5K,
    Q6K,
    Q2K,
    Q3K,
    IQ4NL,
    IQ4XS,
    MXFP4,
    /// FP8 e4m3 (OCP's e4m3fn: no infinities), as safetensors store it; its scales are another tensor.
    F8E4M3,
    /// 128 values: an f32 scale, then 128 FP8 e4m3 values that it multiplies. Not stored by any
    /// file: FP8 checkpoints' values and scales are joined to it.
    F8Block,
    /// 32-bit integers: packed int4 weights.
    I32,
}

impl Dtype {
    /// (values, bytes) of one block; (1, size) for plain types.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Dtype::F32 => (1, 4),
            Dtype::F16 | Dtype::BF16 => (1, 2),
            Dtype::Q8_0 => (32, 34),
            Dtype::Q4_0 => (32, 18),
            Dtype::Q4_1 => (32, 20),
            Dtype::Q5_0 => (32, 22),
            Dtype::Q5_1 => (32, 24),
            Dtype::Q4K => (256, 144),
            Dtype::Q5K => (256, 176),
            Dtype::Q6K => (256, 210),
            Dtype::Q2K => (256, 84),
            Dtype::Q3K => (256, 110),
            Dtype::IQ4NL => (32, 18),
            Dtype::IQ4XS => (256, 136),
            Dtype::MXFP4 => (32, 17),
            Dtype::F8E4M3 => (1, 1),
            Dtype::F8Block => (128, 132),
            Dtype::I32 => (1, 4),
        }
    }

    /// ggml's or safetensors' name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::Q8_0 => "Q8_0",
            Dtype::Q4_0 => "Q4_0",
            Dtype::Q4_1 => "Q4_1",
            Dtype::Q5_0 => "Q5_0",
            Dtype::Q5_1 => "Q5_1",
            Dtype::Q4K => "Q4_K",
            Dtype::Q5K => "Q5_K",
            Dtype::Q6K => "Q6_K",
            Dtype::Q2K => "Q2_K",
            Dtype::Q3K => "Q3_K",
            Dtype::IQ4NL => "IQ4_NL",
            Dtype::IQ4XS => "IQ4_XS",
            Dtype::MXFP4 => "MXFP4",
            Dtype::F8E4M3 => "F8_E4M3",
            Dtype::F8Block => "FP8",
            Dtype::I32 => "I32",
        }
    }

    /// Bytes of `values` values, or None where they do not fill whole blocks.
    pub fn bytes(self, values: usize) -> Option<usize> {
        let (per_block, bytes) = self.block();
        if values.is_multiple_of(per_block) { (values / per_block).checked_mul(bytes) } else { None }
    }
}

/// A tensor as stored: row-major, `shape` outermost first (`[out, in]` for a linear's weight).
#[derive(Clone, Debug)]
pub struct TensorData<'a> {
    /// Hugging Face's name, whatever the file calls it: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Little-endian bytes, `dtype.bytes(product of shape)` of them; not necessarily aligned.
    pub data: Cow<'a, [u8]>,
}

/// The tokenizer as the checkpoint carries it.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// A Hugging Face `tokenizer.json`.
    Json(PathBuf),
    /// `vocab.json` and `merges.txt`, as older tokenizers of GPT-2's kind are saved.
    Bpe(BpeFiles),
    /// A GGUF file's own vocabulary.
    Gguf(GgufVocab),
}

/// A byte-level BPE tokenizer in files of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct BpeFiles {
    /// vocab.json: ids by token.
    pub vocab: PathBuf,
    /// merges.txt: "left right" a line, best first.
    pub merges: PathBuf,
    /// added_tokens.json (ids by token), `{}` when there is none.
    pub added_tokens: serde_json::Value,
    /// special_tokens_map.json, `{}` when there is none.
    pub special_tokens_map: serde_json::Value,
    /// config.json's `model_type`, which says how text is cut into words.
    pub model_type: String,
}

/// The `tokenizer.ggml.*` metadata of a GGUF file (BPE: `model` = "gpt2").
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`.
    pub model: String,
    /// `tokenizer.ggml.pre`: the pre-tokenizer family (qwen2, llama-bpe, smollm, deepseek-v3...).
    pub pre: String,
    /// Tokens by id, in GPT-2's byte-to-unicode alphabet (special tokens as they are).
    pub tokens: Vec<String>,
    /// ggml's token types by id (1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte).
    pub token_types: Vec<i32>,
    /// "left right", best first.
    pub merges: Vec<String>,
    /// `bos_token_id`, and whether a prompt starts with it (`add_bos_token`).
    pub bos: Option<u32>,
    /// See `bos`.
    pub add_bos: bool,
    /// `eos_token_id`, `eot_token_id` and `eom_token_id`, whichever are there.
    pub eos: Vec<u32>,
}

/// An opened checkpoint. Tensors are read from the memory map on demand.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// For messages: the path it was opened from.
    pub source: PathBuf,
    /// config.json; for a GGUF file, its metadata in the shape of config.json. There
    /// `rope_interleaved: true` marks files whose q and k rows are permuted for
    /// [`crate::backend`]'s interleaved rotary style (llama.cpp's converter does so for Llama).
    pub config: serde_json::Value,
    /// generation_config.json, `{}` when there is none.
    pub generation_config: serde_json::Value,
    /// tokenizer_config.json, `{}` when there is none (for GGUF: bos_token, eos_token as text,
    /// add_bos_token).
    pub tokenizer_config: serde_json::Value,
    /// The Jinja chat template (chat_template.jinja, tokenizer_config.json, or GGUF metadata).
    pub chat_template: Option<String>,
    /// None when the checkpoint carries no tokenizer: only token ids can be served then.
    pub tokenizer: Option<TokenizerSource>,
    /// How texts' vectors are made, where sentence-transformers' files say so.
    pub sentence_transformers: Option<SentenceTransformers>,
    /// The tensors; read through [`Checkpoint::tensor`].
    pub tensors: Tensors,
    /// What is odd about the files and was passed over; for whoever opens them to tell.
    pub warnings: Vec<String>,
}

/// What can be wrong with a checkpoint. Messages name the file and the field.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is missing, truncated, or holds something it must not.
    #[error("{}: {reason}", .file.display())]
    Invalid {
        /// Which file.
        file: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// Reading failed.
    #[error("{}: {source}", .file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The hub did not give what was asked.
    #[error("{0}")]
    Hub(String),
}

impl CheckpointError {
    fn invalid(file: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        CheckpointError::Invalid { file: file.into(), reason: reason.into() }
    }

    fn io(file: impl Into<PathBuf>, source: std::io::Error) -> Self {
        CheckpointError::Io { file: file.into(), source }
    }
}

/// What to tell where a checkpoint has no chat template.
const NO_CHAT_TEMPLATE: &str = "has no chat template, so it answers /v1/completions and no chats; a model that was \
                                trained for chats has one in chat_template.jinja or tokenizer_config.json, or in \
                                its GGUF file";

impl Checkpoint {
    /// Opens a directory in Hugging Face layout or a `.gguf` file.
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let mut checkpoint = Self::open_config(path)?;
        if path.is_dir() {
            checkpoint.tensors = hf_dir::open_tensors(path, &mut checkpoint.warnings)?;
        } else if path.extension().is_some_and(|extension| extension == "json") {
            return Err(CheckpointError::invalid(path, "is a config without weights; pass its directory"));
        }
        Ok(checkpoint)
    }

    /// A directory's config alone, without weights: for `--load-format dummy` and inspection.
    /// A GGUF file's config lies in the same file as its tensors, so that those are there too. A
    /// `.json` file is taken as a config.json that stands alone.
    pub fn open_config(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let metadata = std::fs::metadata(path).map_err(|source| CheckpointError::io(path, source))?;
        if metadata.is_dir() {
            return hf_dir::open_config(path);
        }
        hf_dir::refuse_pickle(path)?;
        if path.extension().is_some_and(|extension| extension == "json") {
            let empty = || serde_json::Value::Object(Default::default());
            return Ok(Checkpoint {
                source: path.to_owned(),
                config: hf_dir::read_json(path)?,
                generation_config: empty(),
                tokenizer_config: empty(),
                ..Checkpoint::default()
            });
        }
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            return Err(CheckpointError::invalid(
                path,
                "safetensors files carry no config; pass the directory that holds this file and config.json",
            ));
        }
        gguf_config::open(path)
    }

    /// A GGUF file's vocabulary alone, whatever else the file holds; None where it has none.
    pub fn open_vocabulary(path: &Path) -> Result<Option<GgufVocab>, CheckpointError> {
        gguf_config::open_vocabulary(path)
    }

    /// The tensor of that (Hugging Face) name, or None.
    pub fn tensor(&self, name: &str) -> Option<TensorData<'_>> {
        self.tensors.get(name)
    }

    /// Why the tensor of that name is there but cannot be read; None where it can, or is not there.
    pub fn unreadable(&self, name: &str) -> Option<&str> {
        self.tensors.passed_over(name)
    }

    /// For a model that was loaded: which tensors were there and could not be read, so that it did
    /// not need them.
    pub fn unneeded(&self) -> Option<String> {
        let mut reasons = self.tensors.all_passed_over();
        let (_, first) = reasons.next()?;
        let more = match reasons.count() {
            0 => String::new(),
            more => format!(" (and {more} more such tensors)"),
        };
        Some(format!("{first}; it is passed over, the model does not need it{more}"))
    }

    /// Whether all files that hold its weights are in a directory in Hugging Face layout.
    pub fn weights_are_complete(directory: &Path) -> bool {
        hf_dir::complete_weights(directory).is_some()
    }

    /// Whether a directory holds files of weights, in whatever format and however many: not that
    /// they are all there. A description that was fetched without its weights has none.
    pub fn has_weight_files(directory: &Path) -> bool {
        hf_dir::has_weight_files(directory)
    }

    /// All tensors' names, sorted.
    pub fn tensor_names(&self) -> Vec<&str> {
        self.tensors.names()
    }

    /// Bytes of all tensors as stored.
    pub fn tensor_bytes(&self) -> usize {
        self.tensors.bytes()
    }

    /// Tells the system that the mapped pages read so far are not needed any more, so that they
    /// do not count as resident once weights are in their served form.
    pub fn release_pages(&self) {
        self.tensors.release_pages();
    }
}
