//! Embeddings and scores of an upstream of OpenAI's format: the caller's body goes on as it is but for the model's
//! name, and so does the answer. What it used is read out of it; its numbers are not looked at.

use super::UpstreamModel;
use crate::config::Format;
use crate::gateway::chat::request::hash_long_names;
use crate::gateway::chat::{Dialect, TokenUsage, pass};
use crate::gateway::ledger::account::Attempt;
use crate::gateway::target::failure::Failure;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use axum::http::uri::InvalidUri;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Longest answer: 2048 vectors of 4096 numbers, 22 characters each with their comma.
const ANSWER_BYTES_MAX: usize = 2048 * 4096 * 22;

/// What texts are sent for, whose answer is numbers in place of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PooledTask {
    /// A vector of each text.
    Embeddings,
    /// Documents in the order of their relevance to a query.
    Rerank,
    /// A score of each pair of texts.
    Score,
}

impl PooledTask {
    /// Below a provider's base URL.
    fn path(self) -> &'static str {
        match self {
            Self::Embeddings => "/embeddings",
            Self::Rerank => "/rerank",
            Self::Score => "/score",
        }
    }

    /// For messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Rerank => "reranking",
            Self::Score => "scores",
        }
    }
}

/// An answer as it came.
pub struct PooledAnswer {
    provider: String,
    body: Vec<u8>,
}

impl UpstreamModel {
    /// Sends a caller's body; the answer is there when this returns.
    ///
    /// # Errors
    /// The request or the provider is at fault; whether another attempt makes sense.
    pub async fn pool(
        &self,
        task: PooledTask,
        body: &Value,
        bounds: &mut RequestBounds,
        attempt: &Option<Attempt>,
    ) -> Result<PooledAnswer, Failure> {
        let upstream = &self.upstream;
        let other = match upstream.provider.format {
            Format::OpenAi => None,
            Format::Anthropic => Some("anthropic"),
            Format::Responses => Some("responses"),
        };
        if let Some(format) = other {
            return Err(Failure::next(ApiError::no_such_task(upstream.name(), format, task.noun())));
        }
        let mut body = body.clone();
        if let Some(body) = body.as_object_mut() {
            body.insert("model".into(), self.name.as_str().into());
            // Tags for records here, which no provider of these has a field for.
            body.shift_remove("metadata");
            hash_long_names(body, Dialect::OpenAi);
            self.body.apply(body);
        }
        let internal =
            |error: &dyn std::fmt::Display| Failure::report(ApiError::internal(&error.to_string()));
        let body = serde_json::to_vec(&body).map_err(|error| internal(&error))?;
        let url: Result<Uri, InvalidUri> = format!("{}{}", upstream.base_url(), task.path()).parse();
        let url = url.map_err(|error| internal(&error))?;
        let mut headers = HeaderMap::new();
        attempt.iter().for_each(|attempt| attempt.introduce(&mut headers));
        let mut answer = upstream.send(&url, &self.load, body.into(), headers, bounds).await?;
        let body = answer.unparsed(ANSWER_BYTES_MAX, bounds).await?;
        Ok(PooledAnswer { provider: upstream.name().to_owned(), body })
    }
}

/// What is read of an answer. Everything has a default: each provider has other fields.
#[derive(Deserialize)]
struct Said {
    usage: Option<SaidUsage>,
    meta: Option<Meta>,
    /// Of embeddings and scores.
    data: Option<IgnoredAny>,
    /// Of reranking.
    results: Option<IgnoredAny>,
}

/// OpenAI's, vLLM's, Jina's and Voyage's.
#[derive(Deserialize)]
struct SaidUsage {
    prompt_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

/// Cohere's.
#[derive(Deserialize)]
struct Meta {
    billed_units: Option<Tokens>,
    tokens: Option<Tokens>,
}

#[derive(Deserialize)]
struct Tokens {
    /// Written with a fraction by some.
    input_tokens: Option<f64>,
}

impl Said {
    fn used(&self) -> Option<TokenUsage> {
        let said = self.usage.as_ref();
        // All that it read: there is no output, and some name only the sum, or zero beside it.
        let total = said.and_then(|usage| usage.prompt_tokens.max(usage.total_tokens)).filter(|it| *it > 0);
        let meta = self.meta.as_ref();
        let billed = meta.and_then(|meta| [&meta.billed_units, &meta.tokens].into_iter().flatten().next());
        let billed =
            billed.and_then(|tokens| tokens.input_tokens).map(|tokens| tokens.max(0.0).ceil() as u64);
        let input = total.or(billed)?;
        let cached = said.and_then(|usage| usage.prompt_tokens_details.as_ref()?.cached_tokens).unwrap_or(0);
        Some(TokenUsage { input, cached, ..TokenUsage::default() })
    }
}

impl PooledAnswer {
    /// Its bytes; reading many takes a while.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// The text under another name of the model, and what was used, where it says so.
    ///
    /// # Errors
    /// It is no such answer.
    pub fn read(self, model: &str) -> Result<(String, Option<TokenUsage>), Failure> {
        let garbled = |reason: String| {
            Failure::retry(ApiError::upstream(&self.provider, StatusCode::BAD_GATEWAY, &reason))
        };
        let said: Said = serde_json::from_slice(&self.body)
            .map_err(|error| garbled(format!("its answer is no JSON object of this kind: {error}")))?;
        if said.data.is_none() && said.results.is_none() {
            return Err(garbled("its answer has neither `data` nor `results`".into()));
        }
        let text = std::str::from_utf8(&self.body).map_err(|error| garbled(error.to_string()))?;
        Ok((pass::renamed(text, model), said.used()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(answer: Value) -> Result<(String, Option<TokenUsage>), Failure> {
        PooledAnswer { provider: "p".into(), body: answer.to_string().into_bytes() }.read("here")
    }

    #[test]
    fn what_an_answer_used_is_read_in_each_providers_words() {
        let used = |answer: Value| read(answer).expect("an answer").1.map(|used| (used.input, used.cached));
        let openai = json!({ "object": "list", "data": [], "model": "there", "usage": { "prompt_tokens": 8, "total_tokens": 8 } });
        assert_eq!(used(openai.clone()), Some((8, 0)));
        assert!(read(openai).expect("an answer").0.contains("\"model\":\"here\""));
        // Voyage has the sum alone, Jina had zero beside it.
        assert_eq!(used(json!({ "data": [], "usage": { "total_tokens": 7 } })), Some((7, 0)));
        assert_eq!(
            used(json!({ "results": [], "usage": { "prompt_tokens": 0, "total_tokens": 7 } })),
            Some((7, 0))
        );
        let cached =
            json!({ "prompt_tokens": 9, "total_tokens": 9, "prompt_tokens_details": { "cached_tokens": 4 } });
        assert_eq!(used(json!({ "data": [], "usage": cached })), Some((9, 4)));
        assert_eq!(
            used(json!({ "results": [], "meta": { "billed_units": { "input_tokens": 5.0 } } })),
            Some((5, 0))
        );
        // Searches are no tokens.
        assert_eq!(used(json!({ "results": [], "meta": { "billed_units": { "search_units": 1 } } })), None);
        assert_eq!(used(json!({ "results": [] })), None);
    }

    #[test]
    fn what_is_no_answer_is_not_passed_on() {
        for answer in [json!([]), json!({}), json!({ "error": { "message": "no" } }), json!("data")] {
            assert!(read(answer.clone()).is_err(), "{answer}");
        }
    }
}
