//! An encoder's shape, read from config.json as transformers 4 or 5 writes it. Every value is checked where it is
//! read, and what candle's models do not compute is refused by name.

use crate::checkpoint::{PoolingMode, SentenceTransformers};
use crate::model::ConfigError;
use crate::model::fields::Fields;
use candle_nn::Activation;
use candle_transformers::models::bert::HiddenAct;
use serde_json::Value;

/// Whose layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// BERT (Devlin et al. 2018).
    Bert,
    /// RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2019), which have the same layers.
    Roberta,
    /// ModernBERT (Warner et al. 2024): rotary positions, most layers look at a window.
    ModernBert,
}

/// (`architectures`, family, whether it has a head for labels).
const ARCHITECTURES: [(&str, Family, bool); 10] = [
    ("BertModel", Family::Bert, false),
    ("BertForSequenceClassification", Family::Bert, true),
    ("RobertaModel", Family::Roberta, false),
    ("RobertaForSequenceClassification", Family::Roberta, true),
    ("XLMRobertaModel", Family::Roberta, false),
    ("XLMRobertaForSequenceClassification", Family::Roberta, true),
    ("ModernBertModel", Family::ModernBert, false),
    ("ModernBertForSequenceClassification", Family::ModernBert, true),
    // What was trained to fill gaps has the layers of a model without a head.
    ("BertForMaskedLM", Family::Bert, false),
    ("ModernBertForMaskedLM", Family::ModernBert, false),
];

/// Labels of a head: far more than any reranker's or classifier's.
const LABELS_MAX: usize = 4096;

/// An encoder's shape.
#[derive(Clone, Debug)]
pub struct EncoderConfig {
    /// Whose layers.
    pub family: Family,
    /// Its class in transformers.
    pub architecture: &'static str,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Width.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of attention.
    pub heads: usize,
    /// The longest text, in tokens.
    pub max_tokens: usize,
    /// Kinds of tokens that it tells apart: the two texts of a pair; 1 where it does not.
    pub token_types: usize,
    /// Stands for nothing, behind shorter texts of a batch.
    pub pad: u32,
    /// What comes of the hidden states.
    pub output: Output,
    /// For candle.
    pub(super) network: NetworkConfig,
}

/// What comes of a text's hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A vector.
    Embedding {
        /// From the hidden states.
        pooling: PoolingMode,
        /// Of length 1.
        normalise: bool,
    },
    /// A logit for each label.
    Labels {
        /// How many.
        labels: usize,
        /// A score is their logistic function, as the CrossEncoder of sentence-transformers takes it.
        sigmoid: bool,
        /// What the head reads.
        pooling: PoolingMode,
    },
}

/// The shape as candle's model takes it.
#[derive(Clone, Debug)]
pub(super) enum NetworkConfig {
    Bert(candle_transformers::models::bert::Config),
    Roberta(candle_transformers::models::xlm_roberta::Config),
    ModernBert(candle_transformers::models::modernbert::Config),
}

impl EncoderConfig {
    /// Whether a config.json is of an encoder that is served.
    pub fn is_encoder(config: &Value) -> bool {
        architecture(config).is_some()
    }

    /// Reads config.json, and what sentence-transformers' files say of the output. Without those a text's vector is
    /// the mean of its hidden states as it is, as sentence-transformers takes it.
    ///
    /// # Errors
    /// Names the field, and what is allowed.
    pub fn read(root: &Value, sentence: Option<&SentenceTransformers>) -> Result<Self, ConfigError> {
        let config = Fields::root(root);
        let Some((architecture, family, has_labels)) = architecture(root) else {
            let supported = ARCHITECTURES.map(|(name, ..)| name).join(", ");
            return Err(ConfigError::new("architectures", format!("supported encoders: {supported}")));
        };
        if config.has("quantization_config") {
            return Err(ConfigError::new("quantization_config", "encoders are not read in packed form"));
        }
        let hidden = config.size("hidden_size")?;
        let heads = config.size("num_attention_heads")?;
        if !hidden.is_multiple_of(heads) {
            let reason = format!("must divide hidden_size ({hidden}), got {heads}");
            return Err(ConfigError::new("num_attention_heads", reason));
        }
        match config.string("position_embedding_type")? {
            None | Some("absolute") => {}
            Some(other) => {
                let reason = format!("`{other}` is not supported; supported: absolute");
                return Err(ConfigError::new("position_embedding_type", reason));
            }
        }
        let pad = config.count("pad_token_id")?;
        let positions = config.size("max_position_embeddings")?;
        let (pad, max_tokens) = match family {
            Family::Bert => (pad.unwrap_or(0), positions),
            // The first position has the number after the padding's.
            Family::Roberta => {
                let pad = pad.unwrap_or(1);
                (pad, positions.saturating_sub(pad + 1))
            }
            Family::ModernBert => (pad.unwrap_or(0), positions),
        };
        if max_tokens == 0 {
            let reason = format!("must be more than pad_token_id + 1 ({}), got {positions}", pad + 1);
            return Err(ConfigError::new("max_position_embeddings", reason));
        }
        let token_types = match family {
            Family::ModernBert => 1,
            _ => config.size("type_vocab_size")?,
        };
        let mut read = Self {
            family,
            architecture,
            vocab: config.size("vocab_size")?,
            hidden,
            layers: config.size("num_hidden_layers")?,
            heads,
            max_tokens,
            token_types,
            pad: pad as u32,
            output: output(&config, root, has_labels, sentence)?,
            network: NetworkConfig::Bert(candle_transformers::models::bert::Config::default()),
        };
        if pad >= read.vocab {
            let reason = format!("must be below vocab_size ({}), got {pad}", read.vocab);
            return Err(ConfigError::new("pad_token_id", reason));
        }
        read.network = read.network(&config, positions)?;
        if let Some(longest) = sentence.and_then(|sentence| sentence.max_tokens) {
            read.max_tokens = read.max_tokens.min(longest);
        }
        Ok(read)
    }

    fn network(&self, config: &Fields<'_>, positions: usize) -> Result<NetworkConfig, ConfigError> {
        use candle_transformers::models::{bert, modernbert, xlm_roberta};
        let intermediate = config.size("intermediate_size")?;
        let layer_norm_eps = config.positive_or("layer_norm_eps", 1e-12)?;
        Ok(match self.family {
            Family::Bert => NetworkConfig::Bert(bert::Config {
                vocab_size: self.vocab,
                hidden_size: self.hidden,
                num_hidden_layers: self.layers,
                num_attention_heads: self.heads,
                intermediate_size: intermediate,
                hidden_act: match activation(config, "hidden_act")? {
                    Activation::Gelu => HiddenAct::Gelu,
                    Activation::Relu => HiddenAct::Relu,
                    _ => HiddenAct::GeluApproximate,
                },
                max_position_embeddings: positions,
                type_vocab_size: self.token_types,
                layer_norm_eps,
                pad_token_id: self.pad as usize,
                model_type: None,
                ..bert::Config::default()
            }),
            Family::Roberta => NetworkConfig::Roberta(xlm_roberta::Config {
                hidden_size: self.hidden,
                layer_norm_eps,
                attention_probs_dropout_prob: 0.0,
                hidden_dropout_prob: 0.0,
                num_attention_heads: self.heads,
                position_embedding_type: "absolute".into(),
                intermediate_size: intermediate,
                hidden_act: activation(config, "hidden_act")?,
                num_hidden_layers: self.layers,
                vocab_size: self.vocab,
                max_position_embeddings: positions,
                type_vocab_size: self.token_types,
                pad_token_id: self.pad,
            }),
            Family::ModernBert => {
                for field in ["hidden_activation", "classifier_activation"] {
                    if activation(config, field)? != Activation::Gelu {
                        return Err(ConfigError::new(field, "only `gelu` is supported"));
                    }
                }
                for field in ["attention_bias", "mlp_bias", "norm_bias", "classifier_bias"] {
                    if config.flag(field)?.unwrap_or(false) {
                        return Err(ConfigError::new(field, "true is not supported"));
                    }
                }
                let (global_rope_theta, local_rope_theta) = thetas(config)?;
                NetworkConfig::ModernBert(modernbert::Config {
                    vocab_size: self.vocab,
                    hidden_size: self.hidden,
                    num_hidden_layers: self.layers,
                    num_attention_heads: self.heads,
                    intermediate_size: intermediate,
                    max_position_embeddings: positions,
                    layer_norm_eps: config.positive_or("norm_eps", 1e-5)?,
                    pad_token_id: self.pad,
                    global_attn_every_n_layers: global_every(config, self.layers)?,
                    global_rope_theta,
                    local_attention: config.size_or("local_attention", 128)?,
                    local_rope_theta,
                    classifier_config: None,
                })
            }
        })
    }

    /// Bytes of activations that a text of so many tokens takes at a time: of its attention, for the most part, three
    /// matrices of scores for each head.
    pub fn work_bytes(&self, tokens: usize) -> usize {
        let scores = 3 * self.heads * tokens.saturating_mul(tokens);
        (scores + 16 * self.hidden * tokens) * size_of::<f32>()
    }
}

fn architecture(config: &Value) -> Option<(&'static str, Family, bool)> {
    let class = config.get("architectures")?.as_array()?.first()?.as_str()?;
    ARCHITECTURES.into_iter().find(|(name, ..)| *name == class)
}

fn activation(config: &Fields<'_>, field: &str) -> Result<Activation, ConfigError> {
    match config.string(field)? {
        None | Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::NewGelu),
        Some("relu") => Ok(Activation::Relu),
        Some(other) => {
            let supported = "gelu, gelu_new, gelu_pytorch_tanh, relu";
            Err(ConfigError::new(field, format!("`{other}` is not supported; supported: {supported}")))
        }
    }
}

fn output(
    config: &Fields<'_>,
    root: &Value,
    has_labels: bool,
    sentence: Option<&SentenceTransformers>,
) -> Result<Output, ConfigError> {
    if !has_labels {
        let pooling = sentence.and_then(|sentence| sentence.pooling).unwrap_or(PoolingMode::Mean);
        return Ok(Output::Embedding { pooling, normalise: sentence.is_some_and(|it| it.normalises) });
    }
    let named = root.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
    let labels = match named {
        Some(named) => named,
        None => config.count("num_labels")?.unwrap_or(2),
    };
    if !(1..=LABELS_MAX).contains(&labels) {
        let field = if named.is_some() { "id2label" } else { "num_labels" };
        return Err(ConfigError::new(field, format!("must be of 1 to {LABELS_MAX} labels, got {labels}")));
    }
    let pooling = match config.string("classifier_pooling")? {
        None | Some("cls") => PoolingMode::Cls,
        Some("mean") => PoolingMode::Mean,
        Some(other) => {
            let reason = format!("`{other}` is not supported; supported: cls, mean");
            return Err(ConfigError::new("classifier_pooling", reason));
        }
    };
    Ok(Output::Labels { labels, sigmoid: cross_encoder_sigmoid(root, labels), pooling })
}

/// Whether the CrossEncoder of sentence-transformers takes the logistic function of a logit: where the checkpoint
/// names it, and of a single label where it names nothing.
pub fn cross_encoder_sigmoid(config: &Value, labels: usize) -> bool {
    let named = config["sentence_transformers"]["activation_fn"].as_str();
    match named.or(config["sbert_ce_default_activation_function"].as_str()) {
        Some(named) => named.ends_with(".Sigmoid"),
        None => labels == 1,
    }
}

/// ModernBERT's layers with full attention: every n-th from the first on.
fn global_every(config: &Fields<'_>, layers: usize) -> Result<usize, ConfigError> {
    let every = config.size_or("global_attn_every_n_layers", 3)?;
    let Some(types) = config.get("layer_types") else { return Ok(every) };
    let wanted =
        |layer: usize| if layer.is_multiple_of(every) { "full_attention" } else { "sliding_attention" };
    let fits = types.as_array().is_some_and(|types| {
        types.len() == layers && types.iter().enumerate().all(|(layer, kind)| kind == wanted(layer))
    });
    match fits {
        true => Ok(every),
        false => {
            let reason = format!("must have full attention in every layer divisible by {every} and no other");
            Err(ConfigError::new("layer_types", reason))
        }
    }
}

/// The bases of ModernBERT's rotary embeddings: of layers with full attention, and of those with a window.
fn thetas(config: &Fields<'_>) -> Result<(f64, f64), ConfigError> {
    let Some(parameters) = config.object("rope_parameters")? else {
        let global = config.positive_or("global_rope_theta", 160_000.0)?;
        return Ok((global, config.positive_or("local_rope_theta", 10_000.0)?));
    };
    let theta = |name: &str, default: f64| -> Result<f64, ConfigError> {
        let Some(of) = parameters.object(name)? else { return Ok(default) };
        match of.string("rope_type")? {
            None | Some("default") => of.positive_or("rope_theta", default),
            Some(other) => {
                Err(of.error("rope_type", format!("`{other}` is not supported; supported: default")))
            }
        }
    };
    Ok((theta("full_attention", 160_000.0)?, theta("sliding_attention", 10_000.0)?))
}
