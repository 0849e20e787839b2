//! Which models this server has, under which names, and in what state. Reads are one atomic
//! load; writes happen a few times, while models load.
//!
//! Deliberately absent: loading. Whoever loads a model reports here.

use super::local::LocalError;
use super::local::constrained::Grammars;
use super::replicas::Replicas;
use crate::protocol::{EmbeddingInfo, ModelTasks, SamplingDefaults, ScoreBy};
use crate::text::{AnswerFormat, ChatTemplate, Tokenizer};
use arc_swap::ArcSwap;
use serde_json::Value;
use std::sync::Arc;

/// A loaded model: everything between a prompt and its tokens.
#[derive(Debug)]
pub struct LocalModel {
    /// The served name, which may contain slashes.
    pub name: String,
    /// What it is served for; requests for anything else are refused.
    pub tasks: ModelTasks,
    /// Its engine, or several.
    pub engine: Replicas,
    /// None when the checkpoint has no tokenizer: only token ids can be served then.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The chat template, or why there is none.
    pub template: Result<Arc<ChatTemplate>, String>,
    /// How it writes reasoning and calls of tools.
    pub answer_format: AnswerFormat,
    /// Grammars that were compiled for it.
    pub grammars: Grammars,
    /// What requests take where they leave a field out.
    pub defaults: GenerationDefaults,
    /// Special tokens that are written out in messages act as such.
    pub special_tokens_in_messages: bool,
    /// Number of token ids that the model accepts.
    pub vocab: usize,
    /// When it was loaded, in seconds since 1970.
    pub created_unix_s: u64,
    /// What it was loaded from, for `GET /v1/models`; no place on this machine.
    pub root: String,
}

impl LocalModel {
    /// Refuses to write text where that is not what it is served for.
    ///
    /// # Errors
    /// It is none for text.
    pub fn check_generates(&self) -> Result<(), LocalError> {
        if self.tasks.generates {
            return Ok(());
        }
        Err(LocalError::WrongTask(match &self.tasks.embeds {
            Some(_) => format!(
                "`{}` is an embedding model, which writes no text: send texts for it to /v1/embeddings",
                self.name
            ),
            None => format!(
                "`{}` is a reranker, which writes no text: send texts for it to /v1/rerank or /v1/score",
                self.name
            ),
        }))
    }

    /// How its embeddings are.
    ///
    /// # Errors
    /// It has none.
    pub fn embeddings(&self) -> Result<&EmbeddingInfo, LocalError> {
        let refusal = || {
            LocalError::WrongTask(match self.tasks.generates {
                true => format!(
                    "`{}` is a chat model; embeddings are served by models with a pooling layer",
                    self.name
                ),
                false => format!(
                    "`{}` is a reranker, which has no embeddings: send pairs of texts for it to /v1/rerank or \
                     /v1/score",
                    self.name
                ),
            })
        };
        self.tasks.embeds.as_ref().ok_or_else(refusal)
    }

    /// What its scores of pairs come from; None: from the cosine of their embeddings.
    ///
    /// # Errors
    /// It has no scores.
    pub fn scores(&self) -> Result<Option<ScoreBy>, LocalError> {
        match (self.tasks.scores, &self.tasks.embeds) {
            (Some(ScoreBy::Classifier { labels, .. }), _) if labels != 1 => Err(LocalError::WrongTask(
                format!("`{}` tells {labels} labels apart; scores are given by models with one", self.name),
            )),
            (Some(scores), _) => Ok(Some(scores)),
            (None, Some(_)) => Ok(None),
            (None, None) => Err(LocalError::WrongTask(format!(
                "`{}` is a chat model; scores are given by rerankers and embedding models",
                self.name
            ))),
        }
    }

    /// Refuses a text that cannot fit whatever its tokens are, so that nobody spends a minute on
    /// tokenizing megabytes to say so.
    pub fn check_bytes(&self, text: &str) -> Result<(), LocalError> {
        let tokens_min = self.tokenizer.as_ref().map_or(0, |tokenizer| tokenizer.tokens_min(text));
        let max_context = self.engine.max_context();
        if tokens_min <= max_context {
            return Ok(());
        }
        Err(LocalError::PromptTooLong { bytes: text.len(), tokens_min, max_context })
    }
}

/// What requests take where they leave a field out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// A parameter that is None takes the neutral value of OpenAI's API.
    pub sampling: SamplingDefaults,
    /// Who says so, for people.
    pub sampling_from: String,
    /// Output tokens of a chat answer at the most; None: as many as the context holds.
    pub max_tokens: Option<u32>,
}

/// The sampling parameters that a generation_config.json names; None where it names none.
/// `do_sample: false` makes the temperature 0.
///
/// # Errors
/// Names a field that has the wrong type or is out of its range.
pub fn sampling_of_checkpoint(config: &Value) -> Result<Option<SamplingDefaults>, String> {
    let wrong = |reason: String| format!("generation_config.json: {reason}");
    let given = |name: &str| config.get(name).filter(|value| !value.is_null());
    let mut sampling = SamplingDefaults::default();
    for name in SamplingDefaults::NAMES {
        let Some(value) = given(name) else { continue };
        let number =
            value.as_f64().ok_or_else(|| wrong(format!("`{name}` must be a number, got {value}")))?;
        sampling.set(name, number).map_err(|reason| wrong(format!("`{name}`: {reason}")))?;
    }
    match given("do_sample") {
        None | Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => sampling.temperature = Some(0.0),
        Some(other) => return Err(wrong(format!("`do_sample` must be true or false, got {other}"))),
    }
    Ok((sampling != SamplingDefaults::default()).then_some(sampling))
}

/// Where a model stands.
#[derive(Clone, Debug)]
pub enum ModelState {
    /// Not yet.
    Loading,
    /// Serves, unless its engine has stopped since.
    Ready(Arc<LocalModel>),
    /// Could not be loaded; the reason is the operator's to know: it may name files.
    Failed(String),
}

/// See [`Registry::example_request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleRequest {
    /// Below the server's address.
    pub path: &'static str,
    /// JSON.
    pub body: String,
}

/// Served names and their states, in the order of the command line.
#[derive(Debug)]
pub struct Registry {
    models: ArcSwap<Vec<(String, ModelState)>>,
}

impl Registry {
    /// All models still loading.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let models = names.into_iter().map(|name| (name, ModelState::Loading)).collect();
        Self { models: ArcSwap::from_pointee(models) }
    }

    /// The model serves from now on, under its own name.
    pub fn set_ready(&self, model: LocalModel) {
        let name = model.name.clone();
        self.set(&name, ModelState::Ready(Arc::new(model)));
    }

    /// The model could not be loaded.
    pub fn set_failed(&self, name: &str, reason: String) {
        self.set(name, ModelState::Failed(reason));
    }

    fn set(&self, name: &str, state: ModelState) {
        self.models.rcu(|models| {
            let mut models = Vec::clone(models);
            match models.iter_mut().find(|(n, _)| n == name) {
                Some(entry) => entry.1 = state.clone(),
                None => models.push((name.to_owned(), state.clone())),
            }
            models
        });
    }

    /// All models as they are now.
    pub fn snapshot(&self) -> Arc<Vec<(String, ModelState)>> {
        self.models.load_full()
    }

    /// One model's state.
    pub fn get(&self, name: &str) -> Option<ModelState> {
        self.models.load().iter().find(|(n, _)| n == name).map(|(_, state)| state.clone())
    }

    /// A request to show a newcomer, which the model of that name can answer: of an embedding model a text, of a
    /// reranker a question with documents; else a chat where it has a chat template (or is not of this process),
    /// else a text to continue, else token ids.
    pub fn example_request(&self, name: &str) -> ExampleRequest {
        let model = match self.get(name) {
            Some(ModelState::Ready(model)) => Some(model),
            _ => None,
        };
        // In the order in which people write it.
        let model_field = format!("\"model\": {}", Value::from(name));
        let of_other_tasks = model.as_ref().filter(|model| !model.tasks.generates).map(|model| {
            let texts = "\"documents\": [\"Paris is the capital of France.\", \"Bread needs flour.\"]";
            match (&model.tasks.embeds, model.tokenizer.is_some()) {
                (Some(_), true) => {
                    ("/v1/embeddings", "\"input\": \"The capital of France is Paris.\"".to_owned())
                }
                (Some(_), false) => ("/v1/embeddings", "\"input\": [1, 2, 3]".to_owned()),
                (None, _) => {
                    ("/v1/rerank", format!("\"query\": \"What is the capital of France?\", {texts}"))
                }
            }
        });
        if let Some((path, fields)) = of_other_tasks {
            return ExampleRequest { path, body: format!("{{{model_field}, {fields}}}") };
        }
        let prompt = match &model {
            Some(model) if model.tokenizer.is_none() => "[1, 2, 3]",
            Some(model) if model.template.is_err() => "\"The capital of France is\"",
            _ => {
                let messages = "[{\"role\": \"user\", \"content\": \"What is the capital of France?\"}]";
                return ExampleRequest {
                    path: "/v1/chat/completions",
                    body: format!("{{{model_field}, \"messages\": {messages}, \"stream\": true}}"),
                };
            }
        };
        ExampleRequest {
            path: "/v1/completions",
            body: format!("{{{model_field}, \"prompt\": {prompt}, \"max_tokens\": 32, \"stream\": true}}"),
        }
    }

    /// The models that are loaded.
    pub fn ready(&self) -> Vec<Arc<LocalModel>> {
        let ready = |(_, state): &(String, ModelState)| match state {
            ModelState::Ready(model) => Some(model.clone()),
            ModelState::Loading | ModelState::Failed(_) => None,
        };
        self.models.load().iter().filter_map(ready).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn states_change_in_place_and_keep_their_order() {
        let registry = Registry::new(["a".to_owned(), "b/c".to_owned()]);
        registry.set_failed("a", "no such file".into());
        assert!(matches!(registry.get("a"), Some(ModelState::Failed(reason)) if reason == "no such file"));
        assert!(matches!(registry.get("b/c"), Some(ModelState::Loading)));
        assert!(registry.get("b").is_none());
        let names: Vec<_> = registry.snapshot().iter().map(|(n, _)| n.clone()).collect();
        assert_eq!(names, ["a", "b/c"]);
    }

    #[test]
    fn a_checkpoints_sampling_is_read_and_checked() {
        let read = |v: Value| sampling_of_checkpoint(&v);
        let got = read(json!({"temperature": 0.6, "top_k": 20, "top_p": null, "do_sample": true})).unwrap();
        let wanted =
            SamplingDefaults { temperature: Some(0.6), top_k: Some(20), ..SamplingDefaults::default() };
        assert_eq!(got, Some(wanted));
        assert_eq!(read(json!({"top_k": -1})).unwrap().unwrap().top_k, Some(0));
        assert_eq!(
            read(json!({"temperature": 0.6, "do_sample": false})).unwrap().unwrap().temperature,
            Some(0.0)
        );
        // Files without a word about sampling say nothing about it.
        assert_eq!(read(json!({})), Ok(None));
        assert_eq!(read(json!({"eos_token_id": 2, "bos_token_id": 1, "do_sample": true})), Ok(None));
        assert!(read(json!({"temperature": "hot"})).unwrap_err().contains("`temperature`"));
        assert!(read(json!({"top_p": 1.5})).unwrap_err().contains("`top_p`"));
        assert!(read(json!({"top_k": 2.5})).unwrap_err().contains("`top_k`"));
        assert!(read(json!({"do_sample": 1})).unwrap_err().contains("`do_sample`"));
    }
}
