//! Text to token ids and back, over the `tokenizers` crate.
//!
//! Built from a `tokenizer.json` (read as transformers reads it together with
//! tokenizer_config.json: its truncation and padding are off, explicit `add_bos_token` and
//! `add_eos_token` replace the post-processor, tokens that only tokenizer_config.json names are
//! added) from vocab.json and merges.txt ([`super::bpe_files`]) or from a GGUF vocabulary
//! ([`super::gguf_tokenizer`]).
//!
//! Invariants: nothing here panics on bad input (the crate's own panics, on a hostile
//! tokenizer.json or when its regex engine gives up on a text, become errors); a [`Tokenizer`]
//! is immutable and shared between threads. A stranger's tokenizer.json is built and tried in a process
//! of its own before it is read here, and encodes there where this process could not bound it
//! ([`super::contained`]). Absent on purpose: transformers'
//! `clean_up_tokenization_spaces`, which makes decoding lossy and cannot be done incrementally.

use super::chat_template::ChatTemplate;
use super::contained::{ADD_SPECIAL, Containment, PLAIN, Processes, Role};
use super::end_tokens::{self, EndSource, EndToken};
use super::known_parts;
use super::stop::Stop;
use super::tokenizer_json::{configured, read_json};
use super::{TextError, bpe_files, gguf_tokenizer};
use crate::checkpoint::{Checkpoint, TokenizerSource};
use crate::protocol::TokenId;
use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, DecoderWrapper};

/// Where a GGUF file says which tokens end an answer.
const GGUF_METADATA: &str = "GGUF metadata";

/// Ids that a vocabulary may have; the largest known have 262,144. Tables by id are made for all of them.
const IDS_MAX: usize = 1 << 22;
/// Text of more bytes encodes in a process of its own, which can be stopped: this many take some 50 ms and
/// a hundred times the memory.
const HERE_BYTES_MAX: usize = 128 << 10;
/// For all conversations by which a template is probed.
const PROBE_TIME_MAX: Duration = Duration::from_secs(10);

/// A checkpoint's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Takes special tokens that are written out for the text that they are; made when first asked.
    plain: OnceLock<tokenizers::Tokenizer>,
    spelling: Spelling,
    special: HashSet<TokenId>,
    /// Finds special tokens where they are written out; None where there are none.
    special_spellings: Option<AhoCorasick>,
    /// Added tokens that are special or look so.
    markers: HashSet<TokenId>,
    ends: Vec<EndToken>,
    /// The ids of `ends`.
    eos: Vec<TokenId>,
    vocab_size: usize,
    warnings: Vec<String>,
    /// See [`Tokenizer::named_special_tokens`].
    named: Map<String, Value>,
    /// See [`Tokenizer::tokens_min`].
    token_bytes_max: Option<usize>,
    /// An added token takes the white space around it in.
    strips_space: bool,
    /// Encodes long texts, and all where its parts are not known.
    contained: Option<(Processes, Reach)>,
}

/// What encodes in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    LongTexts,
    All,
}

/// How the vocabulary spells a token's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// GPT-2's alphabet: one character a byte. Decoding is concatenation of bytes.
    ByteLevel,
    /// Pieces of text (sentencepiece): `▁` is a space if `spaces`, `<0x0A>` a byte if `bytes`.
    Pieces { spaces: bool, bytes: bool },
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("spelling", &self.spelling)
            .field("eos", &self.eos)
            .field("encodes_elsewhere", &self.contained.as_ref().map(|(_, reach)| reach))
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds it from tokenizer.json or a GGUF vocabulary, in this process: the checkpoint must be trusted.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, TextError> {
        Self::load(checkpoint, ChatTemplate::from_checkpoint(checkpoint).ok().as_ref(), None)
    }

    /// The same for a stranger's checkpoint, with its template where it has one.
    pub fn contained(
        checkpoint: &Checkpoint,
        template: Option<&ChatTemplate>,
        containment: &Containment,
    ) -> Result<Self, TextError> {
        // Built and tried there, before it is built here.
        let processes = match &checkpoint.tokenizer {
            Some(_) => Some(Processes::start(containment, Role::Tokenizer(checkpoint.source.clone()))?.0),
            None => None,
        };
        Self::load(checkpoint, template, processes)
    }

    fn load(
        checkpoint: &Checkpoint,
        template: Option<&ChatTemplate>,
        processes: Option<Processes>,
    ) -> Result<Self, TextError> {
        let source = checkpoint.tokenizer.as_ref().ok_or_else(|| {
            TextError::Tokenizer(format!(
                "{} carries no tokenizer (a tokenizer.json, or tokenizer.ggml.* in a GGUF file); \
                 only token ids can be served",
                checkpoint.source.display()
            ))
        })?;
        let mut tokenizer = Self::from_source(source, &checkpoint.tokenizer_config)?;
        let files = match source {
            TokenizerSource::Gguf(_) => [GGUF_METADATA; 2],
            TokenizerSource::Json(_) | TokenizerSource::Bpe(_) => ["generation_config.json", "config.json"],
        };
        for (file, config) in files.into_iter().zip([&checkpoint.generation_config, &checkpoint.config]) {
            for id in config_ids(file, config)? {
                tokenizer.add_end(id, EndSource::File(file));
            }
        }
        if let Some(vocab) = vocab_of(&checkpoint.config) {
            tokenizer.warn_beyond(vocab);
        }
        if let Some(processes) = processes {
            let reach = match known_parts::encoding(&tokenizer.inner).is_known {
                true => Reach::LongTexts,
                false => Reach::All,
            };
            if reach == Reach::LongTexts {
                // Long texts are rare: they can wait until the vocabulary is read.
                processes.end_idle();
            }
            tokenizer.contained = Some((processes, reach));
        }
        if let Some(template) = template {
            let turn = Arc::new(Stop::after(PROBE_TIME_MAX)).run(|| end_tokens::probe(template, &tokenizer));
            if let Some(id) = turn.end {
                tokenizer.add_end(id, EndSource::Template);
            }
            let by_name_alone = |end: &EndToken| end.sources == [EndSource::Name];
            tokenizer.ends.retain(|end| !(by_name_alone(end) && turn.within.contains(&end.id)));
        }
        tokenizer.sort_ends();
        let ends: Vec<String> = tokenizer.ends.iter().map(EndToken::to_string).collect();
        tracing::debug!(checkpoint = %checkpoint.source.display(), ends = ends.join("; "), "tokens that end an answer");
        Ok(tokenizer)
    }

    /// Builds it from its source and tokenizer_config.json (`{}` when there is none) alone.
    pub fn from_source(source: &TokenizerSource, tokenizer_config: &Value) -> Result<Self, TextError> {
        let mut warnings = Vec::new();
        let (inner, vocab_size) = match source {
            TokenizerSource::Json(path) => {
                let (built, warning) = read_json(path, tokenizer_config)?;
                warnings.extend(warning);
                (built, 0)
            }
            TokenizerSource::Bpe(files) => {
                let built = bpe_files::build(files, tokenizer_config);
                let built = built.and_then(|tokenizer| configured(tokenizer, tokenizer_config));
                (built.map_err(TextError::Tokenizer)?, 0)
            }
            TokenizerSource::Gguf(vocab) => (gguf_tokenizer::build(vocab)?, vocab.tokens.len()),
        };
        let added = inner.get_added_tokens_decoder();
        let ids = |marks: fn(&AddedToken) -> bool| {
            added.iter().filter_map(|(id, token)| marks(token).then_some(*id)).collect::<HashSet<_>>()
        };
        known_parts::check_decoder(&inner).map_err(TextError::Tokenizer)?;
        let highest = inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        let highest = match highest {
            Some((token, id)) if id as usize >= IDS_MAX => {
                return Err(TextError::Tokenizer(format!(
                    "the token {token:?} has the id {id}; ids are below {IDS_MAX}"
                )));
            }
            highest => highest.map_or(0, |(_, id)| id as usize + 1),
        };
        let mut tokenizer = Tokenizer {
            spelling: spelling(inner.get_decoder()),
            special: ids(|token| token.special),
            special_spellings: finder(
                added.values().filter(|token| token.special || end_tokens::looks_special(&token.content)),
            ),
            markers: ids(|token| token.special || end_tokens::looks_special(&token.content)),
            ends: Vec::new(),
            eos: Vec::new(),
            vocab_size: vocab_size.max(highest),
            warnings,
            named: named_special_tokens(tokenizer_config),
            token_bytes_max: None,
            strips_space: added.values().any(|token| token.lstrip || token.rstrip),
            contained: None,
            inner,
            plain: OnceLock::new(),
        };
        tokenizer.token_bytes_max = known_parts::encoding(&tokenizer.inner).shrink.map(|shrink| {
            let bytes = |id| match tokenizer.spelling {
                Spelling::ByteLevel => tokenizer.token_bytes(id).len(),
                // A text may have the very characters by which the vocabulary spells.
                Spelling::Pieces { .. } => tokenizer.id_to_token(id).map_or(0, |token| token.len()),
            };
            let longest = (0..tokenizer.vocab_size as TokenId).map(bytes).max();
            longest.unwrap_or(0).max(1).saturating_mul(shrink)
        });
        if let TokenizerSource::Gguf(vocab) = source {
            vocab.eos.iter().for_each(|id| tokenizer.add_end(*id, EndSource::File(GGUF_METADATA)));
        }
        let named = special_token(tokenizer_config, "eos_token").and_then(|eos| tokenizer.token_id(eos));
        if let Some(id) = named {
            let file = match source {
                TokenizerSource::Gguf(_) => GGUF_METADATA,
                TokenizerSource::Json(_) | TokenizerSource::Bpe(_) => "tokenizer_config.json",
            };
            tokenizer.add_end(id, EndSource::File(file));
        }
        for id in end_tokens::by_name(&tokenizer) {
            tokenizer.add_end(id, EndSource::Name);
        }
        tokenizer.sort_ends();
        Ok(tokenizer)
    }

    /// The crate's own.
    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// Finds special tokens where they are written out, of several at a place the longest; None where there are
    /// none.
    pub(super) fn special_spellings(&self) -> Option<&AhoCorasick> {
        self.special_spellings.as_ref()
    }

    /// A text between two special tokens: without the white space that they take in.
    pub(super) fn around_text<'t>(&self, text: &'t str) -> (&'t str, &'t str, &'t str) {
        if !self.strips_space {
            return ("", text, "");
        }
        let (before, rest) = text.split_at(text.len() - text.trim_start().len());
        let (text, behind) = rest.split_at(rest.trim_end().len());
        (before, text, behind)
    }

    /// Text to ids, where special tokens that are written out are text, and none are added.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<TokenId>, TextError> {
        Stop::check_current()?;
        if let Some(processes) = self.contains(text) {
            return encode_there(processes, text, PLAIN);
        }
        let plain = self.plain.get_or_init(|| {
            let mut plain = self.inner.clone();
            plain.set_encode_special_tokens(true);
            plain
        });
        encode(plain, text, false)
    }

    /// Text to ids. `add_special` adds BOS and the like as the tokenizer's post-processor says;
    /// special tokens written out in the text become their ids.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, TextError> {
        Stop::check_current()?;
        if let Some(processes) = self.contains(text) {
            return encode_there(processes, text, if add_special { ADD_SPECIAL } else { 0 });
        }
        encode(&self.inner, text, add_special)
    }

    /// How many tokens a text has at the least, from its bytes alone: 0 where the tokenizer may make a
    /// token of any number of bytes.
    pub fn tokens_min(&self, text: &str) -> usize {
        let Some(token_bytes_max) = self.token_bytes_max else { return 0 };
        let bytes = match self.strips_space {
            false => text.len(),
            true => text.chars().filter(|c| !c.is_whitespace()).map(char::len_utf8).sum(),
        };
        bytes.div_ceil(token_bytes_max)
    }

    /// The processes that encode this text, unless this one does.
    fn contains(&self, text: &str) -> Option<&Processes> {
        let (processes, reach) = self.contained.as_ref()?;
        (*reach == Reach::All || text.len() > HERE_BYTES_MAX).then_some(processes)
    }

    /// Tokens that the model has no row for.
    fn warn_beyond(&mut self, vocab: usize) {
        let beyond = (vocab..self.vocab_size).map(|id| id as TokenId);
        let tokens: Vec<_> = beyond.filter_map(|id| Some((id, self.id_to_token(id)?))).collect();
        if let Some((id, token)) = tokens.first() {
            self.warnings.push(format!(
                "the tokenizer has {} tokens that the model has not (vocab_size {vocab} in its config), the first is \
                 {token:?} with the id {id}; prompts with them are refused",
                tokens.len()
            ));
        }
    }

    /// Ids to text; incomplete UTF-8 becomes U+FFFD, ids outside the vocabulary nothing.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TextError> {
        let cannot = |reason: String| TextError::Tokenizer(format!("cannot decode: {reason}"));
        catch_unwind(AssertUnwindSafe(|| self.inner.decode(ids, skip_special)))
            .map_err(|_| cannot("the tokenizer's decoder gave up".into()))?
            .map_err(|error| cannot(error.to_string()))
    }

    /// The token as a caller sees it in logprobs: its text, and its exact bytes. Both are empty
    /// outside the vocabulary.
    pub fn token_text(&self, id: TokenId) -> (String, Vec<u8>) {
        let bytes = self.token_bytes(id);
        (String::from_utf8_lossy(&bytes).into_owned(), bytes)
    }

    /// The token as the vocabulary spells it (`/tokenize`), None outside the vocabulary.
    pub fn id_to_token(&self, id: TokenId) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token that is spelled so.
    pub fn token_id(&self, token: &str) -> Option<TokenId> {
        self.inner.token_to_id(token)
    }

    /// The special tokens that the checkpoint names, `bos_token` and the like, with their texts.
    pub fn named_special_tokens(&self) -> &Map<String, Value> {
        &self.named
    }

    /// Ids that end an answer, each once, those that the checkpoint's files name first.
    pub fn eos_ids(&self) -> &[TokenId] {
        &self.eos
    }

    /// The same with who says so.
    pub fn end_tokens(&self) -> &[EndToken] {
        &self.ends
    }

    /// What is wrong with the checkpoint and was passed over.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The highest id + 1, added tokens included; ids below it may be unused.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Whether decoding is concatenation of [`Tokenizer::token_bytes`].
    pub(super) fn is_byte_level(&self) -> bool {
        self.spelling == Spelling::ByteLevel
    }

    /// Whether `skip_special` leaves the token out.
    pub(super) fn is_special(&self, id: TokenId) -> bool {
        self.special.contains(&id)
    }

    /// Whether the token is special or an added one that looks so.
    pub(super) fn is_marker(&self, id: TokenId) -> bool {
        self.markers.contains(&id)
    }

    /// The bytes the token stands for, empty outside the vocabulary.
    pub(super) fn token_bytes(&self, id: TokenId) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        match self.spelling {
            // As the byte-level decoder does: a token that leaves the alphabet is text.
            Spelling::ByteLevel => {
                token.chars().map(alphabet_byte).collect::<Option<_>>().unwrap_or(token.into_bytes())
            }
            Spelling::Pieces { bytes: true, .. } if fallback_byte(&token).is_some() => {
                fallback_byte(&token).into_iter().collect()
            }
            Spelling::Pieces { spaces: true, .. } => token.replace('▁', " ").into_bytes(),
            Spelling::Pieces { .. } => token.into_bytes(),
        }
    }

    fn add_end(&mut self, id: TokenId, source: EndSource) {
        let Some(token) = self.id_to_token(id) else {
            // It may have a row in the model's output, but no answer can be told to end there.
            self.warnings.push(format!("{source} names the end token {id}, which is not in the vocabulary"));
            return;
        };
        match self.ends.iter_mut().find(|end| end.id == id) {
            None => self.ends.push(EndToken { id, token, sources: vec![source] }),
            Some(end) if !end.sources.contains(&source) => end.sources.push(source),
            Some(_) => {}
        }
    }

    fn sort_ends(&mut self) {
        self.ends.iter_mut().for_each(|end| end.sources.sort_by_key(|source| source.rank()));
        self.ends.sort_by_key(|end| end.sources[0].rank());
        self.eos = self.ends.iter().map(|end| end.id).collect();
    }
}

/// In a process of its own.
fn encode_there(processes: &Processes, text: &str, wanted: u8) -> Result<Vec<TokenId>, TextError> {
    let ids = processes.ask(&[&[wanted], text.as_bytes()].concat())?;
    let (ids, rest) = ids.as_chunks::<4>();
    match rest {
        [] => Ok(ids.iter().map(|id| TokenId::from_le_bytes(*id)).collect()),
        _ => Err(TextError::Tokenizer("its process answered something else than ids".into())),
    }
}

/// Rows of the model's embedding, as its config says.
fn vocab_of(config: &Value) -> Option<usize> {
    let vocab = config.get("vocab_size").or_else(|| config.get("text_config")?.get("vocab_size"))?;
    usize::try_from(vocab.as_u64()?).ok()
}

/// Of one character are no special tokens that text could be taken for.
fn finder<'a>(tokens: impl Iterator<Item = &'a AddedToken>) -> Option<AhoCorasick> {
    let spellings: Vec<&str> =
        tokens.map(|token| token.content.as_str()).filter(|text| text.chars().count() > 1).collect();
    let builder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&spellings);
    builder.ok().filter(|_| !spellings.is_empty())
}

fn encode(inner: &tokenizers::Tokenizer, text: &str, add_special: bool) -> Result<Vec<TokenId>, TextError> {
    // The crate's regex binding panics where its engine reports an error, such as a text that makes it
    // backtrack past its limit.
    let encoded = catch_unwind(AssertUnwindSafe(|| inner.encode_fast(text, add_special)));
    match encoded {
        Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
        Ok(Err(error)) => Err(TextError::Tokenizer(format!("cannot encode the text: {error}"))),
        Err(_) => Err(TextError::Tokenizer(
            "cannot encode the text: the tokenizer's pattern or table gave up on it".into(),
        )),
    }
}

/// Special tokens that transformers passes to templates.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The special tokens that a tokenizer_config.json names, with their texts.
pub(super) fn named_special_tokens(tokenizer_config: &Value) -> Map<String, Value> {
    let token = |name: &&str| Some(((*name).to_owned(), special_token(tokenizer_config, name)?.into()));
    SPECIAL_TOKENS.iter().filter_map(token).collect()
}

/// A named special token of tokenizer_config.json: a string or `{"content": ...}`.
pub(super) fn special_token<'a>(tokenizer_config: &'a Value, name: &str) -> Option<&'a str> {
    let token = tokenizer_config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// `eos_token_id`: absent, null, one id or a list of ids.
fn config_ids(file: &str, config: &Value) -> Result<Vec<TokenId>, TextError> {
    let id = |value: &Value| {
        value.as_u64().and_then(|id| TokenId::try_from(id).ok()).ok_or_else(|| {
            TextError::Tokenizer(format!(
                "{file}: eos_token_id must be a token id or a list of token ids, got {value}"
            ))
        })
    };
    match config.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        // Some configs write -1 for "none".
        Some(value) if value.as_i64() == Some(-1) => Ok(Vec::new()),
        Some(value) => Ok(vec![id(value)?]),
    }
}

/// Adds a token that must get that id.
pub(super) fn add_with_id(
    tokenizer: &mut tokenizers::Tokenizer,
    token: AddedToken,
    id: TokenId,
    file: &str,
) -> Result<(), String> {
    let content = token.content.clone();
    tokenizer.add_tokens([token]).map_err(|error| error.to_string())?;
    match tokenizer.token_to_id(&content) {
        Some(got) if got == id => Ok(()),
        got => Err(format!("{file} gives {content:?} the id {id}, but the vocabulary leaves it {got:?}")),
    }
}

/// A post-processor that puts BOS before and EOS after the text.
pub(super) fn add_bos_eos(
    bos: Option<(String, TokenId)>,
    eos: Option<(String, TokenId)>,
) -> Result<TemplateProcessing, String> {
    let piece = |token: &Option<(String, TokenId)>| token.iter().map(|t| t.0.clone()).collect::<Vec<_>>();
    let single = [piece(&bos), vec!["$A".into()], piece(&eos)].concat();
    TemplateProcessing::builder()
        .try_single(single)
        .and_then(|builder| {
            let tokens: Vec<_> = bos.into_iter().chain(eos).collect();
            builder.special_tokens(tokens).build().map_err(|error| error.to_string())
        })
        .map_err(|error| format!("the BOS or EOS token cannot be added to prompts: {error}"))
}

/// tokenizer_config.json's `added_tokens_decoder`, by id.
pub(super) fn listed_tokens(config: &Value) -> Result<BTreeMap<TokenId, AddedToken>, String> {
    let mut tokens = BTreeMap::new();
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let field = || format!("tokenizer_config.json: added_tokens_decoder[{id:?}]");
        let id: TokenId = id.parse().map_err(|_| format!("{}: the key must be a token id", field()))?;
        let content = token["content"].as_str().ok_or_else(|| format!("{}.content is missing", field()))?;
        let flag = |name: &str| token[name].as_bool().unwrap_or(false);
        let added = AddedToken::from(content, flag("special"))
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized"));
        tokens.insert(id, added);
    }
    Ok(tokens)
}

fn spelling(decoder: Option<&DecoderWrapper>) -> Spelling {
    let parts = match decoder {
        Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    if let [DecoderWrapper::ByteLevel(_)] = parts {
        return Spelling::ByteLevel;
    }
    Spelling::Pieces {
        spaces: parts
            .iter()
            .any(|part| matches!(part, DecoderWrapper::Metaspace(_) | DecoderWrapper::Replace(_))),
        bytes: parts.iter().any(|part| matches!(part, DecoderWrapper::ByteFallback(_))),
    }
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 is itself, the
/// other 68 bytes are U+0100 and following, in order.
fn alphabet_byte(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// `<0x0A>` is the byte 10.
fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}
