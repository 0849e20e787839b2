//! What the admin API reads and answers, for its description alone.

use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Usage, added up.
#[derive(ToSchema)]
pub struct Usage {
    /// The dimensions that were asked for.
    pub group_by: Vec<String>,
    /// One for each of their values; it has those too, by the dimensions' names.
    pub rows: Vec<UsageColumns>,
    /// Records that could not be written.
    pub lost_records: u64,
}

/// What is added up, beside the values of the dimensions.
#[derive(ToSchema)]
pub struct UsageColumns {
    /// Of callers.
    pub requests: u64,
    /// At targets: more than requests where one was tried after another.
    pub attempts: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Attempts whose caller went away.
    pub cancelled: u64,
    /// Attempts whose tokens are an estimate.
    pub estimated: u64,
    /// Tokens of prompts.
    pub input_tokens: u64,
    /// Of those, from a cache.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Dollars.
    pub cost: f64,
    /// To the last byte.
    #[schema(required = true)]
    pub latency_ms_p50: Option<f64>,
    /// To the last byte.
    #[schema(required = true)]
    pub latency_ms_p95: Option<f64>,
    /// To the first token.
    #[schema(required = true)]
    pub ttft_ms_p50: Option<f64>,
    /// To the first token.
    #[schema(required = true)]
    pub ttft_ms_p95: Option<f64>,
    /// Records whose numbers are to be taken with care.
    pub flagged: u64,
}

/// A record to be set right; what is left out stays.
#[derive(ToSchema)]
pub struct UsageCorrection {
    /// The name of the request's key; empty: it has none.
    pub key: String,
    /// The answer's `x-request-id`.
    pub request_id: String,
    /// Which of several.
    #[schema(minimum = 1)]
    pub attempt: Option<u32>,
    /// Tokens of the prompt.
    #[schema(minimum = 0)]
    pub input_tokens: Option<i64>,
    /// Of those, from a cache.
    #[schema(minimum = 0)]
    pub cached_tokens: Option<i64>,
    /// Tokens of the answer.
    #[schema(minimum = 0)]
    pub output_tokens: Option<i64>,
    /// Dollars.
    pub cost: Option<f64>,
}

/// A record before and after.
#[derive(ToSchema)]
pub struct UsageCorrected {
    /// Of the answer.
    pub request_id: String,
    /// Of the request; empty: it has none.
    pub key: String,
    /// Which of several.
    pub attempt: u32,
    /// The target.
    pub model: String,
    /// As it was.
    pub before: RecordCounts,
    /// As it is.
    pub after: RecordCounts,
}

/// What a record counts.
#[derive(ToSchema)]
pub struct RecordCounts {
    /// Tokens of the prompt.
    #[schema(required = true)]
    pub input_tokens: Option<u64>,
    /// Of those, from a cache.
    #[schema(required = true)]
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer.
    #[schema(required = true)]
    pub output_tokens: Option<u64>,
    /// Dollars.
    #[schema(required = true)]
    pub cost: Option<f64>,
    /// Why its numbers are to be taken with care.
    #[schema(required = true)]
    pub flag: Option<String>,
}

/// A score of anybody's request.
#[derive(ToSchema)]
pub struct AdminScore {
    /// The name of the request's key; empty: it has none.
    pub key: String,
    /// The answer's `x-request-id`.
    pub request_id: String,
    /// What it is about.
    pub name: String,
    /// How good it is, by whatever scale.
    pub value: f64,
    /// Why.
    pub comment: Option<String>,
}

/// The store's keys.
#[derive(ToSchema)]
pub struct Keys {
    /// Revoked and expired ones too.
    pub keys: Vec<Key>,
}

/// A key.
#[derive(ToSchema)]
pub struct Key {
    /// The key's text: when it is made, and never again.
    pub key: Option<String>,
    /// Its name.
    pub name: String,
    /// How its text begins.
    pub prefix: String,
    /// Whether requests with it pass.
    pub is_accepted: bool,
    /// Names that it may ask for; null: all.
    #[schema(required = true)]
    pub models: Option<Vec<String>>,
    /// Its own, in place of the configuration's for all keys.
    #[schema(required = true)]
    pub limits: Option<KeyLimits>,
    /// Prepaid dollars; null: no bound.
    #[schema(required = true)]
    pub credit: Option<f64>,
    /// Dollars.
    pub spent: f64,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    #[schema(required = true)]
    pub expires_at: Option<String>,
    /// RFC 3339.
    #[schema(required = true)]
    pub revoked_at: Option<String>,
}

/// What a key is held to; what is left out has no bound.
#[derive(ToSchema)]
pub struct KeyLimits {
    /// Requests in a minute.
    #[schema(minimum = 1)]
    pub requests_per_minute: Option<i64>,
    /// Tokens in a minute.
    #[schema(minimum = 1)]
    pub tokens_per_minute: Option<i64>,
    /// Requests at a time.
    #[schema(minimum = 1)]
    pub concurrency: Option<i64>,
    /// Dollars of a day, in UTC.
    #[schema(minimum = 0)]
    pub dollars_per_day: Option<f64>,
    /// Dollars of a month, in UTC.
    #[schema(minimum = 0)]
    pub dollars_per_month: Option<f64>,
}

/// A key to be made.
#[derive(ToSchema)]
pub struct NewKey {
    /// Its name.
    #[schema(min_length = 1)]
    pub name: String,
    /// Names that it may ask for; null: all.
    pub models: Option<Vec<String>>,
    /// Its own limits.
    pub limits: Option<KeyLimits>,
    /// Prepaid dollars.
    pub credit: Option<f64>,
    /// More of them.
    pub add_credit: Option<f64>,
    /// 2026-01-31, RFC 3339 in UTC, or milliseconds since 1970.
    pub expires_at: Option<String>,
}

/// What a key is to have from now on; what is left out stays.
#[derive(ToSchema)]
pub struct KeyChange {
    /// Names that it may ask for; null: all.
    pub models: Option<Vec<String>>,
    /// Its own limits; null: the configuration's.
    pub limits: Option<KeyLimits>,
    /// Prepaid dollars; null: no bound.
    pub credit: Option<f64>,
    /// More of them.
    pub add_credit: Option<f64>,
    /// 2026-01-31, RFC 3339 in UTC, or milliseconds since 1970; null: never.
    pub expires_at: Option<String>,
}

/// The arms of splits.
#[derive(ToSchema)]
pub struct Report {
    /// One for each arm.
    pub rows: Vec<Arm>,
    /// Records that could not be written.
    pub lost_records: u64,
}

/// An arm of a split, with columns for its errors, tokens, costs and times.
#[derive(ToSchema)]
pub struct Arm {
    /// The route.
    pub route: String,
    /// The arm.
    pub arm: String,
    /// Requests that it got.
    pub requests: u64,
    /// By the score's name.
    pub scores: BTreeMap<String, ArmScore>,
}

/// A score of an arm.
#[derive(ToSchema)]
pub struct ArmScore {
    /// How many requests have it.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Null where it has none.
    #[schema(required = true)]
    pub standard_error: Option<f64>,
}
