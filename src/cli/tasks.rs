//! What a loaded model is served for, from its checkpoint.

use novastack::checkpoint::{Checkpoint, PoolingMode};
use novastack::encoder::config::cross_encoder_sigmoid;
use novastack::encoder::{EncoderConfig, Output};
use novastack::model::{Family, ModelConfig};
use novastack::protocol::{EmbeddingInfo, ModelTasks, ScoreBy};
use novastack::text::Tokenizer;

/// A phrase of the prompt that Qwen3-Reranker is trained on, where a chat template has it.
const RERANKER_PROMPT: &str = "Judge whether the Document meets the requirements";

/// Of a decoder. `names` are all by which it is known: it may be called a reranker.
///
/// # Errors
/// Where its files want what is not done.
pub fn of_decoder(
    checkpoint: &Checkpoint,
    shape: &ModelConfig,
    tokenizer: Option<&Tokenizer>,
    names: &[&str],
) -> Result<ModelTasks, String> {
    if shape.labels > 0 {
        let sigmoid = cross_encoder_sigmoid(&checkpoint.config, shape.labels);
        let scores = Some(ScoreBy::Classifier { labels: shape.labels, sigmoid });
        return Ok(ModelTasks { generates: false, embeds: None, scores });
    }
    let sentence = checkpoint.sentence_transformers.as_ref();
    if let Some((sentence, pooling)) = sentence.and_then(|it| Some((it, it.pooling?))) {
        if pooling != PoolingMode::Last {
            return Err(format!(
                "modules.json: pooling by the {} is not supported for a {}; supported is the last token",
                pooling.name(),
                shape.family.architecture()
            ));
        }
        let matryoshka = ["is_matryoshka", "matryoshka_dimensions"];
        let says_so = matryoshka.iter().any(|field| {
            checkpoint.config.get(*field).is_some_and(|value| !value.is_null() && value != false)
        });
        let embeds = EmbeddingInfo {
            dimensions: shape.hidden,
            normalised: sentence.normalises,
            // Qwen3-Embedding's model card says so, and its files do not.
            dimensions_may_be_cut: says_so || shape.family == Family::Qwen3,
            prompts: sentence.prompts.clone(),
        };
        return Ok(ModelTasks { generates: false, embeds: Some(embeds), scores: None });
    }
    let by_name = names.iter().any(|name| name.to_lowercase().contains("qwen3-reranker"));
    let by_template = checkpoint.chat_template.as_ref().is_some_and(|it| it.contains(RERANKER_PROMPT));
    if shape.family == Family::Qwen3 && (by_name || by_template) {
        let token = |word: &str| {
            let id = tokenizer.and_then(|tokenizer| tokenizer.token_id(word));
            id.ok_or_else(|| {
                format!("a reranker's answers are \"yes\" and \"no\", and its tokenizer has no {word:?}")
            })
        };
        let scores = Some(ScoreBy::YesNo { yes: token("yes")?, no: token("no")? });
        return Ok(ModelTasks { generates: false, embeds: None, scores });
    }
    Ok(ModelTasks::GENERATION)
}

/// Of an encoder.
pub fn of_encoder(checkpoint: &Checkpoint, config: &EncoderConfig) -> ModelTasks {
    let (embeds, scores) = match config.output {
        Output::Embedding { normalise, .. } => {
            let sentence = checkpoint.sentence_transformers.as_ref();
            let embeds = EmbeddingInfo {
                dimensions: config.hidden,
                normalised: normalise,
                dimensions_may_be_cut: false,
                prompts: sentence.map(|sentence| sentence.prompts.clone()).unwrap_or_default(),
            };
            (Some(embeds), None)
        }
        Output::Labels { labels, sigmoid, .. } => (None, Some(ScoreBy::Classifier { labels, sigmoid })),
    };
    ModelTasks { generates: false, embeds, scores }
}

/// For people.
pub fn in_words(tasks: &ModelTasks) -> String {
    let mut words = Vec::new();
    if tasks.generates {
        words.push("chats and completions".to_owned());
    }
    if let Some(embeds) = &tasks.embeds {
        let length = if embeds.normalised { " of length 1" } else { "" };
        let cut = if embeds.dimensions_may_be_cut { ", which may be cut" } else { "" };
        words.push(format!("embeddings: vectors{length} of {} numbers{cut}", embeds.dimensions));
    }
    match tasks.scores {
        Some(ScoreBy::Classifier { labels: 1, .. }) => words.push("scores of pairs of texts".to_owned()),
        Some(ScoreBy::Classifier { labels, .. }) => words.push(format!("logits of {labels} labels")),
        Some(ScoreBy::YesNo { .. }) => words.push("scores of pairs of texts, by a yes or no".to_owned()),
        None => {}
    }
    words.join("; ")
}
