//! What callers are told about their limits, in their dialect.

use super::Dialect;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// A limit per minute as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Its size.
    pub limit: u64,
    /// What is left now.
    pub remaining: u64,
    /// Until all of it is back.
    pub reset: Duration,
}

/// The limits per minute of a request's holders; of several of a kind the one with the least left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// None: nobody limits requests.
    pub requests: Option<State>,
    /// None: nobody limits tokens.
    pub tokens: Option<State>,
}

impl States {
    pub(in crate::gateway) fn add(&mut self, other: Self) {
        let tighter = |a: Option<State>, b: Option<State>| {
            [a, b].into_iter().flatten().min_by_key(|state| (state.remaining, state.limit))
        };
        self.requests = tighter(self.requests, other.requests);
        self.tokens = tighter(self.tokens, other.tokens);
    }

    /// OpenAI's `x-ratelimit-*` (<https://platform.openai.com/docs/guides/rate-limits>) or Anthropic's
    /// `anthropic-ratelimit-*` (<https://docs.anthropic.com/en/api/rate-limits>); none for what nobody
    /// limits.
    pub fn headers(
        &self,
        dialect: Dialect,
        now_unix_s: u64,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let names = match dialect {
            Dialect::OpenAi | Dialect::Responses => &OPENAI,
            Dialect::Anthropic => &ANTHROPIC,
        };
        let states = names.iter().zip([self.requests, self.tokens]);
        states.filter_map(|(names, state)| Some((names, state?))).flat_map(
            move |([limit, remaining, reset], state)| {
                let until = match dialect {
                    Dialect::OpenAi | Dialect::Responses => go_duration(state.reset),
                    Dialect::Anthropic => rfc3339(now_unix_s, state.reset),
                };
                let until = HeaderValue::try_from(until).expect("a duration or time is visible ASCII");
                [
                    (limit.clone(), state.limit.into()),
                    (remaining.clone(), state.remaining.into()),
                    (reset.clone(), until),
                ]
            },
        )
    }
}

/// Of requests and of tokens: the limit, what is left, when all is back.
type Names = [[HeaderName; 3]; 2];

static OPENAI: Names = [
    [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
];

static ANTHROPIC: Names = [
    [
        HeaderName::from_static("anthropic-ratelimit-requests-limit"),
        HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
        HeaderName::from_static("anthropic-ratelimit-requests-reset"),
    ],
    [
        HeaderName::from_static("anthropic-ratelimit-tokens-limit"),
        HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
    ],
];

/// As OpenAI writes it, which is Go's way: `0s`, `120ms`, `8.64s`, `6m0s`, `1h0m0s`. Rounded up to
/// milliseconds.
pub fn go_duration(duration: Duration) -> String {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    let (minutes, ms) = (ms / 60_000, ms % 60_000);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let seconds = ms as f64 / 1000.0;
    match (hours, minutes) {
        (0, 0) if ms == 0 || ms >= 1000 => format!("{seconds}s"),
        (0, 0) => format!("{ms}ms"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// A time so long after another, in whole seconds, rounded up; the last one that can be written where
/// it is later.
pub fn rfc3339(unix_s: u64, after: Duration) -> String {
    let seconds = unix_s.saturating_add(after.as_secs()).saturating_add(u64::from(after.subsec_nanos() > 0));
    let time = i64::try_from(seconds).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    match time {
        Some(time) => {
            let (date, (hour, minute, second)) = (time.date(), time.to_hms());
            format!("{date}T{hour:02}:{minute:02}:{second:02}Z")
        }
        None => "9999-12-31T23:59:59Z".to_owned(),
    }
}

/// Tells how the caller's limits stand.
pub fn insert_limits(response: &mut Response, states: &States, dialect: Dialect) {
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    response.headers_mut().extend(states.headers(dialect, unix_s));
}
