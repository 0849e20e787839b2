//! Text in, text out: chat templates, tokenizers, detokenizing. The engine never imports this;
//! it never runs on an engine thread.

use crate::checkpoint::Checkpoint;
use crate::protocol::TokenId;
use std::sync::Arc;

/// What can go wrong between text and tokens; fit for callers.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The checkpoint's tokenizer is missing or broken.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The template is missing, broken, or refused the messages (`raise_exception`).
    #[error("chat template: {0}")]
    Template(String),
}

/// A checkpoint's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {}

impl Tokenizer {
    /// Builds it from tokenizer.json or a GGUF vocabulary.
    pub fn from_checkpoint(_checkpoint: &Checkpoint) -> Result<Self, TextError> {
        todo!()
    }

    /// Text to ids. `add_special` adds BOS and the like as the tokenizer's post-processor says;
    /// special tokens written out in the text become their ids.
    pub fn encode(&self, _text: &str, _add_special: bool) -> Result<Vec<TokenId>, TextError> {
        todo!()
    }

    /// Ids to text; incomplete UTF-8 becomes U+FFFD.
    pub fn decode(&self, _ids: &[TokenId], _skip_special: bool) -> Result<String, TextError> {
        todo!()
    }

    /// The token as a caller sees it in logprobs: its text, and its exact bytes.
    pub fn token_text(&self, _id: TokenId) -> (String, Vec<u8>) {
        todo!()
    }

    /// The token as the vocabulary spells it (`/tokenize`), None outside the vocabulary.
    pub fn id_to_token(&self, _id: TokenId) -> Option<String> {
        todo!()
    }

    /// Ids that end a turn: EOS from generation_config.json, config.json, tokenizer_config.json
    /// and GGUF metadata, each once.
    pub fn eos_ids(&self) -> &[TokenId] {
        todo!()
    }

    /// Number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }
}

/// Turns a choice's tokens into text as they come: UTF-8 is never split, text that may be the
/// start of a stop string is held back.
#[derive(Debug)]
pub struct Detokenizer {}

/// What one more token made of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextDelta {
    /// Text that is now certain; may be empty.
    pub text: String,
    /// The stop string that was found: the choice is over, and neither the stop string nor what
    /// follows it is in `text` (unless `include_stop` was set).
    pub stopped: Option<String>,
}

impl Detokenizer {
    /// For one choice. `stops` are non-empty strings.
    pub fn new(
        _tokenizer: Arc<Tokenizer>,
        _skip_special: bool,
        _stops: Vec<String>,
        _include_stop: bool,
    ) -> Self {
        todo!()
    }

    /// One more token.
    pub fn push(&mut self, _token: TokenId) -> TextDelta {
        todo!()
    }

    /// The output has ended: whatever was held back.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}

/// A checkpoint's chat template.
#[derive(Debug)]
pub struct ChatTemplate {}

/// What a template sees.
#[derive(Clone, Debug, Default)]
pub struct RenderInput {
    /// Messages in OpenAI's shape, content parts flattened to text where all are text.
    pub messages: Vec<serde_json::Value>,
    /// Tools in OpenAI's shape; empty means none.
    pub tools: Vec<serde_json::Value>,
    /// End with the assistant's header, ready for its answer.
    pub add_generation_prompt: bool,
    /// Leave the last (assistant) message open, to be continued.
    pub continue_final_message: bool,
    /// `chat_template_kwargs`: further variables (`enable_thinking`...).
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl ChatTemplate {
    /// Compiles the checkpoint's template; an error when it has none or it does not parse.
    pub fn from_checkpoint(_checkpoint: &Checkpoint) -> Result<Self, TextError> {
        todo!()
    }

    /// The prompt, byte for byte what transformers' `apply_chat_template` gives. It contains
    /// BOS where the template writes it, so it is encoded with `add_special = false`.
    pub fn render(&self, _input: &RenderInput) -> Result<String, TextError> {
        todo!()
    }
}
