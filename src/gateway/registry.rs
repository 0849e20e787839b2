//! Which models this server has, under which names, and in what state. Reads are one atomic
//! load; writes happen a few times, while models load.
//!
//! Deliberately absent: loading. Whoever loads a model reports here.

use super::local::LocalError;
use super::replicas::Replicas;
use crate::text::{ChatTemplate, Tokenizer};
use arc_swap::ArcSwap;
use serde_json::Value;
use std::sync::Arc;

/// A loaded model: everything between a prompt and its tokens.
#[derive(Debug)]
pub struct LocalModel {
    /// The served name, which may contain slashes.
    pub name: String,
    /// Its engine, or several.
    pub engine: Replicas,
    /// None when the checkpoint has no tokenizer: only token ids can be served then.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The chat template, or why there is none.
    pub template: Result<Arc<ChatTemplate>, String>,
    /// What requests take where they leave a field out.
    pub defaults: GenerationDefaults,
    /// Bytes of the vocabulary's longest token.
    pub token_bytes_max: usize,
    /// Number of token ids that the model accepts.
    pub vocab: usize,
    /// When it was loaded, in seconds since 1970.
    pub created_unix_s: u64,
    /// What it was loaded from, for `GET /v1/models`.
    pub root: String,
}

impl LocalModel {
    /// Refuses a text that cannot fit whatever its tokens are, so that nobody spends a minute on
    /// tokenizing megabytes to say so.
    pub fn check_bytes(&self, text: &str) -> Result<(), LocalError> {
        let tokens_min = text.len().div_ceil(self.token_bytes_max.max(1));
        let max_context = self.engine.max_context();
        if tokens_min <= max_context {
            return Ok(());
        }
        Err(LocalError::PromptTooLong { bytes: text.len(), tokens_min, max_context })
    }
}

/// Sampling defaults of a checkpoint (generation_config.json). A field that is None takes the
/// neutral value of OpenAI's API.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct GenerationDefaults {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    /// `Some(false)` makes the default temperature 0.
    pub do_sample: Option<bool>,
}

impl GenerationDefaults {
    /// Reads a generation_config.json; `{}` gives no defaults. Fails naming a field that has the
    /// wrong type or is out of its range.
    pub fn from_config(config: &Value) -> Result<Self, String> {
        let number = |name: &str, low: f64, high: f64| match config.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(v) if v >= low && v <= high => Ok(Some(v)),
                _ => Err(format!(
                    "generation_config.json: `{name}` must be a number between {low} and {high}, got {value}"
                )),
            },
        };
        let do_sample = match config.get("do_sample") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(b)) => Some(*b),
            Some(other) => {
                return Err(format!(
                    "generation_config.json: `do_sample` must be true or false, got {other}"
                ));
            }
        };
        let f32s = |v: Option<f64>| v.map(|v| v as f32);
        Ok(Self {
            temperature: f32s(number("temperature", 0.0, 2.0)?),
            top_p: f32s(number("top_p", f64::from(f32::MIN_POSITIVE), 1.0)?),
            // -1 is another spelling of "all".
            top_k: number("top_k", -1.0, f64::from(i32::MAX))?.map(|v| v.max(0.0) as u32),
            min_p: f32s(number("min_p", 0.0, 1.0)?),
            repetition_penalty: f32s(number(
                "repetition_penalty",
                f64::from(f32::MIN_POSITIVE),
                f64::from(f32::MAX),
            )?),
            do_sample,
        })
    }
}

/// Where a model stands.
#[derive(Clone, Debug)]
pub enum ModelState {
    /// Not yet.
    Loading,
    /// Serves, unless its engine has stopped since.
    Ready(Arc<LocalModel>),
    /// Could not be loaded; the reason is fit for callers.
    Failed(String),
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
    fn defaults_are_read_and_checked() {
        let read = |v: Value| GenerationDefaults::from_config(&v);
        assert_eq!(read(json!({})), Ok(GenerationDefaults::default()));
        let got = read(json!({"temperature": 0.6, "top_k": 20, "top_p": null, "do_sample": true})).unwrap();
        assert_eq!(
            (got.temperature, got.top_k, got.top_p, got.do_sample),
            (Some(0.6), Some(20), None, Some(true))
        );
        assert_eq!(read(json!({"top_k": -1})).unwrap().top_k, Some(0));
        assert!(read(json!({"temperature": "hot"})).unwrap_err().contains("`temperature`"));
        assert!(read(json!({"top_p": 1.5})).unwrap_err().contains("`top_p`"));
        assert!(read(json!({"do_sample": 1})).unwrap_err().contains("`do_sample`"));
    }
}
