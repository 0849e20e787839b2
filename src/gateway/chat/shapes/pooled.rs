//! What requests of embeddings, reranking and scores have in them.

use serde::Serialize;
use utoipa::ToSchema;

/// Text, token ids, or several of either.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingsInput {
    #[schema(title = "Text")]
    Text(String),
    #[schema(title = "Texts")]
    Texts(Vec<String>),
    #[schema(title = "TokenIds")]
    TokenIds(Vec<u32>),
    #[schema(title = "ListsOfTokenIds")]
    Lists(Vec<Vec<u32>>),
}

/// A document: its text, or an object with it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum RerankDocument {
    #[schema(title = "Text")]
    Text(String),
    #[schema(title = "Object")]
    Object { text: String },
}

/// A text, or several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMoreTexts {
    #[schema(title = "Text")]
    Text(String),
    #[schema(title = "Texts")]
    Texts(Vec<String>),
}
