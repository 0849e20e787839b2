//! The shapes of what the codecs read and write, for the API's description alone: requests are read field by field
//! ([`super::openai::known_fields`]), and answers are written piece by piece, so that no type of theirs says what
//! they look like. A test holds what the encoders write against these.
//!
//! What a reader looks into only by its type is an object here. Fields that are not named may come all the same,
//! with an upstream's answer that passes through.

pub mod anthropic;
pub mod openai;
pub mod pooled;
pub mod responses;

use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

/// A string that is one of these.
pub fn words<const N: usize>(words: [&str; N]) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}

/// One of these strings, or null.
pub fn words_or_null<const N: usize>(words: [&str; N]) -> Object {
    let words = words.into_iter().map(Some).chain([None]).map(serde_json::Value::from);
    let kinds = utoipa::openapi::schema::SchemaType::from_iter([Type::String, Type::Null]);
    ObjectBuilder::new().schema_type(kinds).enum_values(Some(words)).build()
}

/// Functions for `schema_with`, each of a string that is one of some words.
macro_rules! word {
    ($($name:ident: $($word:literal)|+;)+) => {
        $(pub(super) fn $name() -> utoipa::openapi::schema::Object { super::words([$($word),+]) })+
    };
}
pub(crate) use word;

/// A JSON schema: as it is, or as its text.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum JsonSchema {
    /// As it is.
    #[schema(title = "Schema")]
    Schema(AnyObject),
    /// true allows anything.
    #[schema(title = "Boolean")]
    Boolean(bool),
    /// As text.
    #[schema(title = "Text")]
    Text(String),
}

/// An object with any fields.
#[derive(Serialize, ToSchema)]
pub struct AnyObject {}
