//! What can go wrong with a store.

/// Why a store could not do what it was asked for. Messages are fit for the operator's eyes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file or the database cannot serve as a store. It was left as it was.
    #[error("the store {place}: {reason}")]
    Unusable {
        /// The file's path; the database's URL without user and password.
        place: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// The database failed.
    #[error("the store failed {doing}: {reason}")]
    Failed {
        /// "writing usage records".
        doing: &'static str,
        /// In the database's words.
        reason: String,
    },
    /// A name or a setting is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// Another key, perhaps a revoked one, has the name.
    #[error("there is a key named `{0}` already; names stay taken when keys are revoked")]
    NameTaken(String),
    /// No key has the name.
    #[error("there is no key named `{name}`{hint}")]
    NoSuchKey {
        /// As given.
        name: String,
        /// The nearest names, or what to do.
        hint: String,
    },
    /// The key is revoked, for good.
    #[error("the key `{0}` is revoked; make another with another name")]
    Revoked(String),
    /// The key has made no request of this id, as far as records are written.
    #[error("this key has made no request `{0}`; the id of a request is its answer's `x-request-id`")]
    NoSuchRequest(String),
    /// No record has the request's id and the key.
    #[error("this key has no record of a request `{0}`; the id of a request is its answer's `x-request-id`")]
    NoSuchRecord(String),
    /// A request that has so many scores under other names.
    #[error("the request has {0} scores already; post one of their names to replace it")]
    TooManyScores(u64),
    /// A question with too long an answer.
    #[error(
        "the answer has more than {0} groups: group by less, or give a filter or a shorter range of time"
    )]
    TooManyGroups(usize),
    /// So many records of use could not be written before the store was closed.
    #[error("{0} usage records could not be written and are lost; the log says why")]
    Lost(u64),
}

/// Says what was being done when the database failed.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, String> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|reason| StoreError::Failed { doing, reason })
    }
}
