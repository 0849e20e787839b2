//! What callers are told of a store that fails, or refuses.

use crate::gateway::wire::error::ApiError;
use crate::store::StoreError;
use axum::http::StatusCode;

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        let message = e.to_string();
        match e {
            StoreError::Unusable { .. } | StoreError::Failed { .. } | StoreError::Lost(_) => {
                Self::internal(&message)
            }
            StoreError::Invalid(_) | StoreError::TooManyGroups(_) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("invalid_value"), message)
            }
            StoreError::NameTaken(_) => {
                Self::invalid(StatusCode::CONFLICT, Some("name_taken"), message).at("name")
            }
            StoreError::Revoked(_) => Self::invalid(StatusCode::CONFLICT, Some("key_revoked"), message),
            StoreError::NoSuchKey { .. } => {
                Self::invalid(StatusCode::NOT_FOUND, Some("key_not_found"), message)
            }
            StoreError::NoSuchRequest(_) | StoreError::NoSuchRecord(_) => {
                Self::invalid(StatusCode::NOT_FOUND, Some("request_not_found"), message).at("request_id")
            }
            StoreError::TooManyScores(_) => {
                Self::invalid(StatusCode::BAD_REQUEST, Some("too_many_scores"), message).at("name")
            }
        }
    }
}
