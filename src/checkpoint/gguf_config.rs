//! A GGUF file as a [`Checkpoint`]: its metadata in the shape of config.json, its vocabulary, and
//! its tensors under Hugging Face's names.
//!
//! Invariants: what metadata says about sizes agrees with the first layer's tensors, and every
//! tensor in the file has a known name; anything else is refused here, with the key or tensor
//! named, rather than served wrongly. Deliberately absent: mixtures of experts, SentencePiece
//! vocabularies (`text` refuses those by their model's name), adapters and projectors.

use super::gguf::{Gguf, TensorInfo, Value as Metadata};
use super::mmap::Mapping;
use super::tensors::Tensors;
use super::{Checkpoint, CheckpointError, Dtype, GgufVocab, TokenizerSource};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// (general.architecture, Hugging Face's class).
const ARCHITECTURES: [(&str, &str); 3] =
    [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

/// llama.cpp's and Hugging Face's names of a layer's modules.
const LAYER_MODULES: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const ROPE_FREQS: &str = "rope_freqs.weight";

/// Pre-tokenizers for which llama.cpp adds BOS unless the file says otherwise.
const PRE_WITH_BOS: [&str; 3] = ["llama3", "llama-v3", "llama-bpe"];

/// Opens the file: header parsed, tensors mapped.
pub(super) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let mapping = Mapping::open(path)?;
    let gguf = Gguf::parse(path, mapping.bytes())?;
    let named = hf_named(&gguf)?;
    let config = Reader::new(&gguf, &named)?.config()?;
    let vocab = vocab(&gguf)?;
    // An id without an embedding row could be sampled or typed, but not computed.
    let rows = named["model.embed_tokens.weight"].shape[0];
    if let Some(vocab) = vocab.as_ref().filter(|vocab| vocab.tokens.len() > rows) {
        let tokens = vocab.tokens.len();
        return Err(
            gguf.invalid(format!("metadata tokenizer.ggml.tokens: {tokens} tokens for {rows} embeddings"))
        );
    }
    let mut checkpoint = Checkpoint {
        source: path.to_owned(),
        config,
        generation_config: generation_config(&gguf, vocab.as_ref())?,
        tokenizer_config: tokenizer_config(&gguf, vocab.as_ref())?,
        chat_template: gguf.str("tokenizer.chat_template")?.map(str::to_owned),
        tokenizer: None,
        tensors: Tensors::default(),
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
    let tensors = named.into_iter().map(|(name, tensor)| (name, tensor.clone())).collect::<Vec<_>>();
    let file = checkpoint.tensors.add_file(mapping);
    for (name, tensor) in tensors {
        checkpoint.tensors.insert(file, name, tensor.dtype, tensor.shape, tensor.range)?;
    }
    Ok(checkpoint)
}

/// The tensors by Hugging Face's names.
fn hf_named<'g>(gguf: &'g Gguf<'_>) -> Result<BTreeMap<String, &'g TensorInfo>, CheckpointError> {
    let mut named = BTreeMap::new();
    for tensor in &gguf.tensors {
        let name = hf_name(&tensor.name).ok_or_else(|| {
            gguf.invalid(format!("tensor {}: does not belong to a supported dense model", tensor.name))
        })?;
        if named.insert(name, tensor).is_some() {
            return Err(gguf.invalid(format!("tensor {}: appears twice", tensor.name)));
        }
    }
    Ok(named)
}

fn hf_name(name: &str) -> Option<String> {
    let plain = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        ROPE_FREQS => ROPE_FREQS,
        _ => {
            let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            // Through a number, so that "01" and "+1" are no second names of layer 1.
            let number = layer.parse::<u32>().ok().filter(|number| number.to_string() == layer)?;
            let (module, kind) = rest.split_once('.')?;
            let (_, hf) = LAYER_MODULES.iter().find(|(gguf, _)| *gguf == module)?;
            return matches!(kind, "weight" | "bias").then(|| format!("model.layers.{number}.{hf}.{kind}"));
        }
    };
    Some(plain.to_owned())
}

/// Reads the metadata of one architecture.
struct Reader<'g, 'a> {
    gguf: &'g Gguf<'a>,
    tensors: &'g BTreeMap<String, &'g TensorInfo>,
    arch: &'static str,
    class: &'static str,
}

impl<'g, 'a> Reader<'g, 'a> {
    fn new(
        gguf: &'g Gguf<'a>,
        tensors: &'g BTreeMap<String, &'g TensorInfo>,
    ) -> Result<Self, CheckpointError> {
        let name = gguf
            .str("general.architecture")?
            .ok_or_else(|| gguf.invalid("metadata general.architecture is missing"))?;
        let supported = ARCHITECTURES.map(|(arch, _)| arch).join(", ");
        let (arch, class) = *ARCHITECTURES.iter().find(|(arch, _)| *arch == name).ok_or_else(|| {
            gguf.invalid(format!("architecture {name:?} is not supported; supported are {supported}"))
        })?;
        Ok(Self { gguf, tensors, arch, class })
    }

    fn config(&self) -> Result<Value, CheckpointError> {
        let layers = self.positive("block_count")?;
        let hidden = self.positive("embedding_length")?;
        let heads = self.positive("attention.head_count")?;
        let kv_heads = match self.gguf.get(&self.key("attention.head_count_kv")) {
            Some(_) => self.positive("attention.head_count_kv")?,
            None => heads,
        };
        let head_dim = self.optional("attention.key_length")?.unwrap_or(hidden / heads);
        let inner = self.positive("feed_forward_length")?;
        if self.optional("expert_count")?.is_some() {
            return Err(self.gguf.invalid(format!(
                "metadata {}: mixtures of experts are not supported",
                self.key("expert_count")
            )));
        }
        for (key, expected) in [("attention.value_length", head_dim), ("rope.dimension_count", head_dim)] {
            if self.optional(key)?.is_some_and(|value| value != expected) {
                let key = self.key(key);
                return Err(self
                    .gguf
                    .invalid(format!("metadata {key}: must be the head's size, {expected}")));
            }
        }
        let vocab_size = self.check_shapes(layers, hidden, heads, kv_heads, head_dim, inner)?;

        let mut config = json!({
            "architectures": [self.class],
            "model_type": self.arch,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.float("attention.layer_norm_rms_epsilon", f64::MIN_POSITIVE..=0.1, None)?,
            "vocab_size": vocab_size,
            "max_position_embeddings": self.positive("context_length")?,
            "rope_theta": self.float("rope.freq_base", 1.0..=1e15, Some(10000.0))?,
            "attention_bias": self.tensors.contains_key("model.layers.0.self_attn.q_proj.bias"),
            "mlp_bias": self.tensors.contains_key("model.layers.0.mlp.gate_proj.bias"),
            "tie_word_embeddings": !self.tensors.contains_key("lm_head.weight"),
            "torch_dtype": match self.tensors["model.layers.0.self_attn.q_proj.weight"].dtype {
                Dtype::F32 => "float32",
                Dtype::F16 => "float16",
                _ => "bfloat16",
            },
        });
        config["rope_scaling"] = self.rope_scaling(head_dim)?;
        if let Some(window) = self.optional("attention.sliding_window")? {
            config["sliding_window"] = window.into();
            config["use_sliding_window"] = true.into();
        }
        if self.arch == "llama" {
            // llama.cpp's converter permutes the rows of q and k of this architecture alone.
            config["rope_interleaved"] = true.into();
        }
        Ok(config)
    }

    /// Sizes in the metadata against the first layer's tensors; returns the vocabulary's size.
    fn check_shapes(
        &self,
        layers: u32,
        hidden: u32,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        inner: u32,
    ) -> Result<usize, CheckpointError> {
        if head_dim == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(self.gguf.invalid(format!(
                "metadata {}: {heads} query heads do not go with {kv_heads} key heads of size {head_dim}",
                self.key("attention.head_count")
            )));
        }
        let last = format!("model.layers.{}.", layers - 1);
        let beyond = format!("model.layers.{layers}.");
        let any = |prefix: &str| {
            self.tensors.range(prefix.to_owned()..).next().is_some_and(|(n, _)| n.starts_with(prefix))
        };
        if !any(&last) || any(&beyond) {
            return Err(self.gguf.invalid(format!(
                "metadata {}: is {layers}, which is not how many layers have tensors",
                self.key("block_count")
            )));
        }
        let (hidden, q, kv) = (
            hidden as usize,
            u64::from(heads) * u64::from(head_dim),
            u64::from(kv_heads) * u64::from(head_dim),
        );
        let expected = [
            ("self_attn.q_proj", q, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("mlp.gate_proj", u64::from(inner), hidden),
        ];
        for (module, rows, columns) in expected {
            let tensor = self.require(&format!("model.layers.0.{module}.weight"))?;
            if tensor.shape.len() != 2 || tensor.shape[0] as u64 != rows || tensor.shape[1] != columns {
                return Err(self.gguf.invalid(format!(
                    "tensor {}: has shape {:?}, the metadata says [{rows}, {columns}]",
                    tensor.name, tensor.shape
                )));
            }
        }
        let embedding = self.require("model.embed_tokens.weight")?;
        if embedding.shape.len() != 2 || embedding.shape[1] != hidden {
            return Err(self.gguf.invalid(format!(
                "tensor {}: has shape {:?}, the metadata says [vocabulary, {hidden}]",
                embedding.name, embedding.shape
            )));
        }
        Ok(embedding.shape[0])
    }

    fn rope_scaling(&self, head_dim: u32) -> Result<Value, CheckpointError> {
        if let Some(tensor) = self.tensors.get(ROPE_FREQS) {
            if tensor.dtype != Dtype::F32 || tensor.shape != [head_dim as usize / 2] {
                return Err(self
                    .gguf
                    .invalid(format!("tensor {ROPE_FREQS}: must be F32 of shape [{}]", head_dim / 2)));
            }
            return Ok(json!({"rope_type": "gguf_freqs"}));
        }
        let factor = self.float("rope.scaling.factor", 1.0..=1e6, None);
        let key = self.key("rope.scaling.type");
        match self.gguf.str(&key)? {
            None | Some("none") => Ok(Value::Null),
            Some("linear") => Ok(json!({"rope_type": "linear", "factor": factor?})),
            Some("yarn") => self.yarn(factor?),
            Some(other) => Err(self.gguf.invalid(format!(
                "metadata {key}: {other:?} is not supported; supported are none, linear and yarn"
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
        // llama.cpp multiplies its own factor with YaRN's; Hugging Face's key replaces both.
        let own = self.float("rope.scaling.attn_factor", 0.0..=1e6, Some(1.0))?;
        if own != 1.0 {
            yarn["attention_factor"] = (own * (0.1 * factor.ln() + 1.0)).into();
        }
        Ok(yarn)
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn require(&self, name: &str) -> Result<&'g TensorInfo, CheckpointError> {
        self.tensors
            .get(name)
            .copied()
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
                .invalid(format!("metadata {key}: must be between 1 and {}, got {number}", i32::MAX)));
        }
        Ok(number)
    }

    /// None when absent or 0, which llama.cpp reads as absent.
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

fn vocab(gguf: &Gguf<'_>) -> Result<Option<GgufVocab>, CheckpointError> {
    let text =
        |value: Metadata<'_>| if let Metadata::Str(text) = value { Some(text.to_owned()) } else { None };
    let strings = |key: &str| gguf.array(key, "an array of strings", text);
    let Some(tokens) = strings("tokenizer.ggml.tokens")? else { return Ok(None) };
    let token_types = gguf
        .array("tokenizer.ggml.token_type", "an array of token types 1 to 6, one per token", |value| {
            match value {
                Metadata::Signed(kind @ 1..=6) => Some(kind as i32),
                Metadata::Unsigned(kind @ 1..=6) => Some(kind as i32),
                _ => None,
            }
        })?
        .unwrap_or_else(|| vec![1; tokens.len()]);
    if token_types.len() != tokens.len() {
        return Err(gguf.invalid(format!(
            "metadata tokenizer.ggml.token_type: has {} entries for {} tokens",
            token_types.len(),
            tokens.len()
        )));
    }
    let id = |key: &str| -> Result<Option<u32>, CheckpointError> {
        let key = format!("tokenizer.ggml.{key}");
        match gguf.u32(&key)? {
            // -1 as an unsigned number: written by converters for "there is none".
            Some(u32::MAX) | None => Ok(None),
            Some(id) if (id as usize) < tokens.len() => Ok(Some(id)),
            Some(id) => {
                Err(gguf.invalid(format!("metadata {key}: {id} is not among {} tokens", tokens.len())))
            }
        }
    };
    let mut eos = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        eos.extend(id(key)?.filter(|id| !eos.contains(id)));
    }
    let pre = gguf.str("tokenizer.ggml.pre")?.unwrap_or_default().to_owned();
    Ok(Some(GgufVocab {
        model: gguf
            .str("tokenizer.ggml.model")?
            .ok_or_else(|| gguf.invalid("metadata tokenizer.ggml.model is missing"))?
            .to_owned(),
        token_types,
        merges: strings("tokenizer.ggml.merges")?.unwrap_or_default(),
        bos: id("bos_token_id")?,
        add_bos: gguf
            .bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or_else(|| PRE_WITH_BOS.contains(&pre.as_str())),
        eos,
        pre,
        tokens,
    }))
}

/// EOS, BOS, and the sampling defaults that newer converters write.
fn generation_config(gguf: &Gguf<'_>, vocab: Option<&GgufVocab>) -> Result<Value, CheckpointError> {
    let mut config = Map::new();
    if let Some(vocab) = vocab {
        config.insert("eos_token_id".into(), json!(vocab.eos));
        if let Some(bos) = vocab.bos {
            config.insert("bos_token_id".into(), bos.into());
        }
    }
    let floats = [
        ("temp", "temperature"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("penalty_repeat", "repetition_penalty"),
    ];
    for (key, hf) in floats {
        if let Some(number) = gguf.f64(&format!("general.sampling.{key}"))? {
            config.insert(hf.into(), number.into());
        }
    }
    if let Some(number) = gguf.u32("general.sampling.top_k")? {
        config.insert("top_k".into(), number.into());
    }
    Ok(Value::Object(config))
}

/// What chat templates read of tokenizer_config.json: special tokens as text.
fn tokenizer_config(gguf: &Gguf<'_>, vocab: Option<&GgufVocab>) -> Result<Value, CheckpointError> {
    let mut config = Map::new();
    let Some(vocab) = vocab else { return Ok(Value::Object(config)) };
    config.insert("add_bos_token".into(), vocab.add_bos.into());
    let text = |id: u32| vocab.tokens.get(id as usize).cloned();
    let mut set = |key: &str, id: Option<u32>| {
        if let Some(text) = id.and_then(text) {
            config.insert(key.into(), text.into());
        }
    };
    set("bos_token", vocab.bos);
    set("eos_token", gguf.u32("tokenizer.ggml.eos_token_id")?);
    set("unk_token", gguf.u32("tokenizer.ggml.unknown_token_id")?);
    set("pad_token", gguf.u32("tokenizer.ggml.padding_token_id")?);
    Ok(Value::Object(config))
}
