//! A GGUF file as a [`Checkpoint`]: its metadata in the shape of config.json, its vocabulary, and
//! its tensors under Hugging Face's names.
//!
//! Invariants: what metadata says about sizes agrees with the first layer's tensors, every tensor in
//! the file has a known name, and every key of the architecture is used or known to say nothing
//! ([`unread`]); anything else is refused here, with the key or tensor
//! named, rather than served wrongly. Deliberately absent: SentencePiece vocabularies (`text`
//! refuses those by their model's name), adapters and projectors.

mod moe;
mod names;
mod unread;
mod vocab;

use super::gguf::{Gguf, Split, TensorInfo};
use super::mmap::Mapping;
use super::parts;
use super::recognise::refuse_gguf_kind;
use super::tensors::Tensors;
use super::{
    Checkpoint, CheckpointError, Dtype, GgufVocab, NO_CHAT_TEMPLATE, PoolingMode, SentenceTransformers,
    TokenizerSource,
};
use crate::protocol::EmbeddingPrompts;
use names::{ARCHITECTURES, Architecture, ROPE_FACTORS, ROPE_FREQS};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vocab::{generation_config, tokenizer_config, vocab};

/// `LLAMA_POOLING_TYPE_LAST`.
const POOLING_LAST: u32 = 3;
/// Layers of multi-token prediction that no published checkpoint comes near.
const PREDICTING_MAX: u32 = 64;

/// Opens the file, or all files of a model in several parts, of which `path` is any: headers
/// parsed, tensors mapped.
pub(super) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let mappings = map_parts(path)?;
    let mut headers = mappings.iter().map(|mapping| Gguf::parse(mapping.path(), mapping.bytes()));
    // There is one at least.
    let mut gguf = headers.next().unwrap_or_else(|| Gguf::parse(path, &[]))?;
    for (index, part) in headers.enumerate() {
        let mut part = part?;
        part.tensors.iter_mut().for_each(|tensor| tensor.part = index + 1);
        gguf.tensors.append(&mut part.tensors);
        gguf.unread.append(&mut part.unread);
    }
    if let Some((split, tensors)) = gguf.split()?.and_then(|split| Some((split, split.tensors?))) {
        let found = gguf.tensors.len() + gguf.unread.len();
        if found != tensors {
            return Err(gguf.invalid(format!(
                "metadata split.tensors.count: is {tensors}, but the {} parts hold {found} tensors",
                split.count
            )));
        }
    }
    let reader = Reader::read(&gguf)?;
    let pooling = reader.pooling()?;
    let Reader { tensors: named, unneeded, config, .. } = reader;
    let mut warnings = Vec::new();
    let vocab = vocab(&gguf, &mut warnings)?;
    // An id without an embedding row could be sampled or typed, but not computed.
    let rows = named["model.embed_tokens.weight"].shape[0];
    if let Some(vocab) = vocab.as_ref().filter(|vocab| vocab.tokens.len() > rows) {
        let tokens = vocab.tokens.len();
        return Err(
            gguf.invalid(format!("metadata tokenizer.ggml.tokens: {tokens} tokens for {rows} embeddings"))
        );
    }
    let chat_template = gguf.str("tokenizer.chat_template")?.map(str::to_owned);
    if vocab.is_none() {
        warnings.push("has no vocabulary (tokenizer.ggml.tokens), so only token ids can be served".into());
    }
    if chat_template.is_none() && pooling.is_none() {
        warnings.push(NO_CHAT_TEMPLATE.into());
    }
    let mut checkpoint = Checkpoint {
        source: path.to_owned(),
        config,
        generation_config: generation_config(&gguf, vocab.as_ref())?,
        tokenizer_config: tokenizer_config(&gguf, vocab.as_ref())?,
        chat_template,
        tokenizer: None,
        sentence_transformers: pooling,
        tensors: Tensors::default(),
        warnings: warnings.into_iter().map(|warning| format!("{}: {warning}", path.display())).collect(),
    };
    if let (Some(vocab), Value::Object(config)) = (&vocab, &mut checkpoint.config) {
        if let Some(bos) = vocab.bos {
            config.insert("bos_token_id".into(), bos.into());
        }
        if !vocab.eos.is_empty() {
            config.insert("eos_token_id".into(), json!(vocab.eos));
        }
    }
    checkpoint.tokenizer = vocab.map(TokenizerSource::Gguf);
    let files: Vec<usize> =
        mappings.into_iter().map(|mapping| checkpoint.tensors.add_file(mapping)).collect();
    for (name, reason) in unneeded {
        checkpoint.tensors.pass_over(files[0], name, reason);
    }
    for (name, tensor) in named {
        checkpoint.tensors.insert(files[tensor.part], name, tensor.dtype, tensor.shape, tensor.range)?;
    }
    Ok(checkpoint)
}

/// The vocabulary alone, of any GGUF file.
pub(super) fn open_vocabulary(path: &Path) -> Result<Option<GgufVocab>, CheckpointError> {
    let mapping = Mapping::open(path)?;
    vocab(&Gguf::parse(path, mapping.bytes())?, &mut Vec::new())
}

/// The file, or all parts in order.
fn map_parts(path: &Path) -> Result<Vec<Mapping>, CheckpointError> {
    let mapping = Mapping::open(path)?;
    let gguf = Gguf::parse(path, mapping.bytes())?;
    let Some(Split { number, count, .. }) = gguf.split()? else { return Ok(vec![mapping]) };
    let named = path.to_str().and_then(|path| parts::all(path, "gguf"));
    let Some(names) = named.filter(|names| names.len() == count && Path::new(&names[number]) == path) else {
        return Err(gguf.invalid(format!(
            "is part {} of {count}, so its name must end in -{:05}-of-{count:05}.gguf, and the others' alike; merge \
             them with llama.cpp's llama-gguf-split --merge, or rename them",
            number + 1,
            number + 1
        )));
    };
    let missing: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| !Path::new(name).exists()).collect();
    if !missing.is_empty() {
        return Err(gguf.invalid(format!("is one of {count} parts; missing are {}", missing.join(", "))));
    }
    let open_part = |(index, name): (usize, &String)| {
        let mapping = Mapping::open(Path::new(name))?;
        let part = Gguf::parse(mapping.path(), mapping.bytes())?;
        match part.split()? {
            Some(split) if (split.number, split.count) == (index, count) => Ok(mapping),
            _ => Err(part.invalid(format!("is not part {} of {count}, as its name says", index + 1))),
        }
    };
    names.iter().enumerate().map(open_part).collect()
}

/// Reads the metadata of one architecture.
struct Reader<'g, 'a> {
    gguf: &'g Gguf<'a>,
    /// By Hugging Face's names.
    tensors: BTreeMap<String, TensorInfo>,
    /// Tensors that are not read and that no layer needs: Hugging Face's name and the reason.
    unneeded: Vec<(String, String)>,
    arch: &'static Architecture,
    /// In the shape of config.json.
    config: Value,
    /// The keys that were asked for.
    asked: RefCell<BTreeSet<String>>,
}

impl<'g, 'a> Reader<'g, 'a> {
    /// The tensors by Hugging Face's names, and the config.
    fn read(gguf: &'g Gguf<'a>) -> Result<Self, CheckpointError> {
        let name = gguf
            .str("general.architecture")?
            .ok_or_else(|| gguf.invalid("metadata general.architecture is missing"))?;
        refuse_gguf_kind(gguf.path(), gguf.str("general.type")?, name)?;
        let arch = ARCHITECTURES.iter().find(|arch| arch.name == name).ok_or_else(|| {
            let supported = ARCHITECTURES.map(|arch| arch.name).join(", ");
            gguf.invalid(format!("architecture {name:?} is not supported; supported are {supported}"))
        })?;
        let mut reader = Self {
            gguf,
            tensors: BTreeMap::new(),
            unneeded: Vec::new(),
            arch,
            config: Value::Null,
            asked: RefCell::default(),
        };
        reader.tensors = names::hf_named(gguf, arch, reader.experts()?)?;
        reader.unneeded = reader.unneeded()?;
        reader.config = reader.config()?;
        reader.refuse_unread()?;
        Ok(reader)
    }

    /// Tensors of types that are not read, which is an error but in layers that predict further
    /// tokens: those are not loaded.
    fn unneeded(&self) -> Result<Vec<(String, String)>, CheckpointError> {
        let blocks = self.optional("block_count")?.unwrap_or(0);
        let layers = blocks.saturating_sub(self.optional("nextn_predict_layers")?.unwrap_or(0));
        let unneeded = self.gguf.unread.iter().map(|(name, reason)| match names::layer_of(name) {
            Some(layer) if layer >= layers && layer < blocks => Ok((name.clone(), reason.clone())),
            _ => Err(self.gguf.invalid(format!("tensor {name}: {reason}"))),
        });
        unneeded.collect()
    }

    fn config(&self) -> Result<Value, CheckpointError> {
        let layers = self.layers()?;
        let hidden = self.positive("embedding_length")?;
        let o_proj = self.require("model.layers.0.self_attn.o_proj.weight")?;
        let mut config = json!({
            "architectures": [self.arch.class],
            "model_type": self.arch.model_type,
            "hidden_size": hidden,
            "intermediate_size": self.positive("feed_forward_length")?,
            "num_hidden_layers": layers,
            "num_attention_heads": self.positive("attention.head_count")?,
            "hidden_act": "silu",
            "rms_norm_eps": self.float("attention.layer_norm_rms_epsilon", f64::MIN_POSITIVE..=0.1, None)?,
            "vocab_size": self.vocab_size(hidden)?,
            "max_position_embeddings": self.positive("context_length")?,
            "rope_theta": self.float("rope.freq_base", 1.0..=1e15, Some(10000.0))?,
            "attention_bias": self.tensors.contains_key("model.layers.0.self_attn.q_proj.bias"),
            "mlp_bias": self.tensors.contains_key("model.layers.0.mlp.gate_proj.bias"),
            "tie_word_embeddings": !self.tensors.contains_key("lm_head.weight"),
            "torch_dtype": match o_proj.dtype {
                Dtype::F32 => "float32",
                Dtype::F16 => "float16",
                _ => "bfloat16",
            },
        });
        let rotary_dim = match self.arch.name {
            "deepseek2" => self.latent_attention(&mut config)?,
            _ => self.grouped_attention(&mut config)?,
        };
        match self.arch.moe() {
            Some(_) => self.mixture(&mut config)?,
            None => {
                let inner = self.positive("feed_forward_length")?;
                match self.tensors.contains_key("model.layers.0.mlp.gate_up_proj.weight") {
                    true => {
                        let both = self.product(2, inner, "feed_forward_length")?;
                        self.check("mlp.gate_up_proj.weight", &[both, hidden])?;
                    }
                    false => self.check("mlp.gate_proj.weight", &[inner, hidden])?,
                }
            }
        }
        config["rope_scaling"] = self.rope_scaling(rotary_dim)?;
        self.window(&mut config)?;
        match self.arch.name {
            // llama.cpp's own constant.
            "smollm3" => config["no_rope_layer_interval"] = 4.into(),
            "granite" => self.granite(&mut config)?,
            "gemma3" => self.gemma3(&mut config)?,
            _ => {}
        }
        if self.arch.permuted {
            config["rope_interleaved"] = true.into();
        }
        Ok(config)
    }

    /// A sliding window, of all layers.
    fn window(&self, config: &mut Value) -> Result<(), CheckpointError> {
        let window = self.optional("attention.sliding_window")?;
        if matches!(self.arch.name, "llama" | "mistral3" | "phi3" | "gemma3") {
            // Llama itself has none: with one it is a Mistral.
            if window.is_some() && self.arch.name == "llama" {
                config["architectures"] = json!(["MistralForCausalLM"]);
                config["model_type"] = "mistral".into();
            }
            if window.is_some() || self.arch.name != "llama" {
                config["sliding_window"] = window.into();
            }
        } else if let Some(window) = window {
            config["sliding_window"] = window.into();
            config["use_sliding_window"] = true.into();
            config["max_window_layers"] = 0.into();
        }
        Ok(())
    }

    /// Gemma 3's constants that llama.cpp has in its code, and the bases of its two embeddings.
    fn gemma3(&self, config: &mut Value) -> Result<(), CheckpointError> {
        let (layers, heads) = (self.layers()?, self.positive("attention.head_count")?);
        let scalar = match layers {
            // Of the 27B, the width of a head if they shared the residual stream evenly.
            62 => (self.positive("embedding_length")? / heads).into(),
            _ => config["head_dim"].clone(),
        };
        config["query_pre_attn_scalar"] = scalar;
        config["hidden_activation"] = "gelu_pytorch_tanh".into();
        config["norms_less_one"] = false.into();
        config["sliding_window_pattern"] =
            self.optional("attention.sliding_window_pattern")?.unwrap_or(6).into();
        config["rope_local_base_freq"] = self.float("rope.freq_base_swa", 1.0..=1e15, Some(10000.0))?.into();
        Ok(())
    }

    /// Granite's factors, which llama.cpp takes for 1 where they are absent.
    fn granite(&self, config: &mut Value) -> Result<(), CheckpointError> {
        for (key, field) in [
            ("attention.scale", "attention_multiplier"),
            ("embedding_scale", "embedding_multiplier"),
            ("residual_scale", "residual_multiplier"),
            ("logit_scale", "logits_scaling"),
        ] {
            let factor = self.float(key, 0.0..=1e6, Some(0.0))?;
            match (factor, key) {
                // 0 is none: scores are divided by the square root of a head's size then.
                (0.0, "attention.scale") => {
                    let head_dim = config["head_dim"].as_f64().unwrap_or(1.0);
                    config[field] = (1.0 / head_dim.sqrt()).into();
                }
                (0.0, _) => {}
                _ => config[field] = factor.into(),
            }
        }
        // Of this architecture alone it says whether there is a rotary embedding at all.
        let key = self.key("rope.scaling.finetuned");
        match self.gguf.bool(&key)? {
            Some(false) => Err(self.gguf.invalid(format!(
                "metadata {key}: false (no rotary embedding) is not supported of architecture granite"
            ))),
            _ => Ok(()),
        }
    }

    /// How many layers the model has, those that predict further tokens not counted: what the
    /// metadata says, and what there are tensors for.
    fn layers(&self) -> Result<u32, CheckpointError> {
        let blocks = self.positive("block_count")?;
        let predicting = self.optional("nextn_predict_layers")?.unwrap_or(0);
        if predicting > PREDICTING_MAX {
            let key = self.key("nextn_predict_layers");
            return Err(self
                .gguf
                .invalid(format!("metadata {key}: must be at most {PREDICTING_MAX}, got {predicting}")));
        }
        let any = |layer: u32| {
            let prefix = format!("model.layers.{layer}.");
            self.tensors.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
        };
        let layers = blocks.checked_sub(predicting).filter(|layers| *layers > 0 && any(layers - 1));
        layers.filter(|_| !any(blocks)).ok_or_else(|| {
            self.gguf.invalid(format!(
                "metadata {}: is {blocks}, which is not how many layers have tensors",
                self.key("block_count")
            ))
        })
    }

    /// Rows of the embedding table.
    fn vocab_size(&self, hidden: u32) -> Result<usize, CheckpointError> {
        let embedding = self.require("model.embed_tokens.weight")?;
        if embedding.shape.len() != 2 || embedding.shape[1] != hidden as usize {
            return Err(self.gguf.invalid(format!(
                "tensor {}: has shape {:?}, the metadata says [vocabulary, {hidden}]",
                embedding.name, embedding.shape
            )));
        }
        Ok(embedding.shape[0])
    }

    /// Keys and values per head; returns how many of a head's values are rotated.
    fn grouped_attention(&self, config: &mut Value) -> Result<u32, CheckpointError> {
        let hidden = self.positive("embedding_length")?;
        let heads = self.positive("attention.head_count")?;
        let kv_heads = match self.gguf.get(&self.key("attention.head_count_kv")) {
            Some(_) => self.positive("attention.head_count_kv")?,
            None => heads,
        };
        let head_dim = self.optional("attention.key_length")?.unwrap_or(hidden / heads);
        if head_dim == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(self.gguf.invalid(format!(
                "metadata {}: {heads} query heads do not go with {kv_heads} key heads of size {head_dim}",
                self.key("attention.head_count")
            )));
        }
        let rotary_dim = self.optional("rope.dimension_count")?.unwrap_or(head_dim);
        let partly = matches!(self.arch.name, "minimax-m2" | "phi3") && rotary_dim < head_dim;
        let whole = [
            ("attention.value_length", self.optional("attention.value_length")?.unwrap_or(head_dim)),
            ("rope.dimension_count", if partly { head_dim } else { rotary_dim }),
        ];
        if let Some((key, _)) = whole.into_iter().find(|(_, value)| *value != head_dim) {
            let key = self.key(key);
            return Err(self.gguf.invalid(format!("metadata {key}: must be the head's size, {head_dim}")));
        }
        let width = |heads: u32| self.product(heads, head_dim, "attention.head_count");
        match self.tensors.contains_key("model.layers.0.self_attn.qkv_proj.weight") {
            true => {
                let all = heads.saturating_add(kv_heads.saturating_mul(2));
                self.check("self_attn.qkv_proj.weight", &[width(all)?, hidden])?;
            }
            false => {
                self.check("self_attn.q_proj.weight", &[width(heads)?, hidden])?;
                self.check("self_attn.k_proj.weight", &[width(kv_heads)?, hidden])?;
                self.check("self_attn.v_proj.weight", &[width(kv_heads)?, hidden])?;
            }
        }
        config["num_key_value_heads"] = kv_heads.into();
        config["head_dim"] = head_dim.into();
        if partly {
            config["rotary_dim"] = rotary_dim.into();
        }
        Ok(rotary_dim)
    }

    /// An error unless the first layer's tensor has that shape.
    fn check(&self, name: &str, shape: &[u32]) -> Result<(), CheckpointError> {
        self.check_named(&format!("model.layers.0.{name}"), shape)
    }

    fn check_named(&self, name: &str, shape: &[u32]) -> Result<(), CheckpointError> {
        let tensor = self.require(name)?;
        if !tensor.shape.iter().copied().eq(shape.iter().map(|dim| *dim as usize)) {
            return Err(self.gguf.invalid(format!(
                "tensor {}: has shape {:?}, the metadata says {shape:?}",
                tensor.name, tensor.shape
            )));
        }
        Ok(())
    }

    /// A width that is given by two numbers.
    fn product(&self, a: u32, b: u32, key: &str) -> Result<u32, CheckpointError> {
        a.checked_mul(b).ok_or_else(|| {
            self.gguf.invalid(format!("metadata {}: {a} times {b} is too large", self.key(key)))
        })
    }

    /// As llama.cpp reads it: a factor without a type is of linear interpolation, and older files
    /// have it under another key.
    fn rope_scaling(&self, rotary_dim: u32) -> Result<Value, CheckpointError> {
        let type_key = self.key("rope.scaling.type");
        let kind = self.gguf.str(&type_key)?.unwrap_or("linear");
        let old = self.float("rope.scale_linear", 0.0..=1e6, Some(0.0))?;
        // Of both keys, 0 is none.
        let factor = match self.float("rope.scaling.factor", 0.0..=1e6, Some(0.0))? {
            0.0 if old == 0.0 => 1.0,
            0.0 => old,
            factor => factor,
        };
        if factor < 1.0 {
            let key = self.key("rope.scaling.factor");
            return Err(self.gguf.invalid(format!("metadata {key}: must be at least 1, got {factor}")));
        }
        for name in ROPE_FACTORS.into_iter().chain([ROPE_FREQS]) {
            if let Some(tensor) = self.tensors.get(name)
                && (tensor.dtype != Dtype::F32 || tensor.shape != [rotary_dim as usize / 2])
            {
                let reason = format!("tensor {name}: must be F32 of shape [{}]", rotary_dim / 2);
                return Err(self.gguf.invalid(reason));
            }
        }
        let freqs = self.tensors.get(ROPE_FREQS);
        match ROPE_FACTORS.map(|name| self.tensors.contains_key(name)) {
            [true, true] if freqs.is_none() && factor == 1.0 && matches!(kind, "linear" | "longrope") => {
                // The tensors are enough for llama.cpp; the type need not say it.
                return Ok(json!({
                    "rope_type": "longrope",
                    "original_max_position_embeddings": self.positive("rope.scaling.original_context_length")?,
                    "attention_factor": self.float("rope.scaling.attn_factor", 1e-6..=1e6, Some(1.0))?,
                }));
            }
            [false, false] if kind != "longrope" => {}
            _ => {
                let [short, long] = ROPE_FACTORS;
                return Err(self.gguf.invalid(format!(
                    "metadata {type_key}: LongRoPE needs the tensors {short} and {long}, type longrope or none, and \
                     no other stretching"
                )));
            }
        }
        match (kind, freqs) {
            ("none", None) => Ok(Value::Null),
            ("linear", None) if factor == 1.0 => Ok(Value::Null),
            ("none", Some(_)) => Ok(json!({"rope_type": "gguf_freqs"})),
            ("linear", Some(_)) if factor == 1.0 => Ok(json!({"rope_type": "gguf_freqs"})),
            ("linear", None) => Ok(json!({"rope_type": "linear", "factor": factor})),
            ("yarn", None) => self.yarn(self.float("rope.scaling.factor", 1.0..=1e6, None)?),
            ("linear" | "yarn", Some(_)) => Err(self.gguf.invalid(format!(
                "metadata {type_key}: {kind:?} is not supported beside the tensor {ROPE_FREQS}"
            ))),
            (other, _) => Err(self.gguf.invalid(format!(
                "metadata {type_key}: {other:?} is not supported; supported are none, linear, yarn and longrope"
            ))),
        }
    }

    fn yarn(&self, factor: f64) -> Result<Value, CheckpointError> {
        let mut yarn = json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": self.positive("rope.scaling.original_context_length")?,
        });
        for (key, hf) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
            let key = format!("rope.scaling.{key}");
            if self.gguf.get(&self.key(&key)).is_some() {
                yarn[hf] = self.float(&key, 0.0..=1e6, None)?.into();
            }
        }
        // Of deepseek2 alone llama.cpp reads how far attention is sharpened. It takes `mscale`, which
        // the file does not hold, to be equal; so it is in every published model.
        let multiplier = "rope.scaling.yarn_log_multiplier";
        if self.arch.name == "deepseek2" && self.gguf.get(&self.key(multiplier)).is_some() {
            // Through decimal: 0.707 is stored as the f32 next to 0.0707.
            let mscale = (self.float(multiplier, 0.0..=1.0, None)? * 1e7).round() / 1e6;
            yarn["mscale"] = mscale.into();
            yarn["mscale_all_dim"] = mscale.into();
        }
        // llama.cpp multiplies its own factor with YaRN's; Hugging Face's key replaces both.
        let own = self.float("rope.scaling.attn_factor", 0.0..=1e6, Some(1.0))?;
        if own != 1.0 && yarn.get("mscale").is_some() {
            return Err(self.gguf.invalid(format!(
                "metadata {}: {own} is not supported beside {}; supported: 1",
                self.key("rope.scaling.attn_factor"),
                self.key(multiplier)
            )));
        }
        if own != 1.0 {
            yarn["attention_factor"] = (own * (0.1 * factor.ln() + 1.0)).into();
        }
        Ok(yarn)
    }

    /// The full name of a key of the architecture; from here on it counts as asked for.
    fn key(&self, key: &str) -> String {
        let key = format!("{}.{key}", self.arch.name);
        self.asked.borrow_mut().insert(key.clone());
        key
    }

    fn require(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.tensors
            .get(name)
            .ok_or_else(|| self.gguf.invalid(format!("has no tensor for {name}; it is incomplete")))
    }

    /// A number between 1 and i32::MAX.
    fn positive(&self, key: &str) -> Result<u32, CheckpointError> {
        let key = self.key(key);
        let number =
            self.gguf.u32(&key)?.ok_or_else(|| self.gguf.invalid(format!("metadata {key} is missing")))?;
        if number == 0 || number > i32::MAX as u32 {
            return Err(self
                .gguf
                .invalid(format!("metadata {key}: must be 1 or more, of 31 bits, got {number}")));
        }
        Ok(number)
    }

    /// None when absent or 0, which llama.cpp reads as absent.
    /// llama.cpp's converter writes how sentence-transformers' files pool. Its server normalises vectors always.
    fn pooling(&self) -> Result<Option<SentenceTransformers>, CheckpointError> {
        let last = self.gguf.u32(&self.key("pooling_type"))? == Some(POOLING_LAST);
        Ok(last.then(|| SentenceTransformers {
            pooling: Some(PoolingMode::Last),
            normalises: true,
            prompts: EmbeddingPrompts::default(),
            max_tokens: None,
        }))
    }

    fn optional(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        match self.gguf.u32(&self.key(key))? {
            None | Some(0) => Ok(None),
            Some(_) => self.positive(key).map(Some),
        }
    }

    fn float(
        &self,
        key: &str,
        allowed: std::ops::RangeInclusive<f64>,
        default: Option<f64>,
    ) -> Result<f64, CheckpointError> {
        let key = self.key(key);
        let number = self
            .gguf
            .f64(&key)?
            .or(default)
            .ok_or_else(|| self.gguf.invalid(format!("metadata {key} is missing")))?;
        if !allowed.contains(&number) {
            return Err(self.gguf.invalid(format!(
                "metadata {key}: must be between {:e} and {:e}, got {number}",
                allowed.start(),
                allowed.end()
            )));
        }
        Ok(number)
    }
}
