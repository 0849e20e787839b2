//! What one holder has used, and whether a request fits.

use super::{Estimate, Holder, Id, LimitKind, Refusal, Spent, State, States};
use crate::config::Limits;
use std::time::{Duration, Instant};
use time::{Date, Month, OffsetDateTime};

const DAY_S: u64 = 86_400;
/// Nanoseconds of a minute.
const MINUTE_NS: u128 = 60_000_000_000;
/// Milliseconds of a minute.
pub const MINUTE_MS: u64 = 60_000;
/// When a request over the limit of concurrency may try again: nobody knows when a place is freed.
const RETRY_CONCURRENCY: Duration = Duration::from_secs(1);
/// A wait that does not help.
const NEVER: Duration = Duration::MAX;

/// Billionths of a dollar; what is no amount is 0.
pub fn nanodollars(dollars: f64) -> u128 {
    (dollars * 1e9).round() as u128
}

/// Dollars of billionths.
pub fn dollars(nanodollars: u128) -> f64 {
    nanodollars as f64 / 1e9
}

/// What a request takes.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    pub tokens: u64,
    pub nanodollars: u128,
}

impl Need {
    pub fn of(estimate: &Estimate) -> Self {
        Self { tokens: estimate.tokens, nanodollars: nanodollars(estimate.dollars) }
    }
}

/// The day and month (UTC) of a time.
pub struct Calendar {
    /// Days since 1970-01-01.
    pub day: u64,
    /// Months since year 0.
    pub month: u32,
    day_left: Duration,
    month_left: Duration,
}

impl Calendar {
    pub fn of(unix_s: u64) -> Self {
        let day = unix_s / DAY_S;
        let day_left_s = DAY_S - unix_s % DAY_S;
        let date = i64::try_from(unix_s).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        let date = date.map_or(Date::MAX, OffsetDateTime::date);
        let days = Month::length(date.month(), date.year()) - date.day();
        Self {
            day,
            month: date.year() as u32 * 12 + u32::from(u8::from(date.month())),
            day_left: Duration::from_secs(day_left_s),
            month_left: Duration::from_secs(u64::from(days) * DAY_S + day_left_s),
        }
    }
}

/// What is used of a limit per minute. One unit used is [`MINUTE_NS`], so that each nanosecond gives
/// `limit` back: no rounding. Where there is no limit nothing is used.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    used: u128,
    limit: Option<u64>,
}

impl Bucket {
    fn refill(&mut self, limit: Option<u64>, elapsed: Duration) {
        self.limit = limit;
        self.used = self.after(elapsed);
    }

    fn after(&self, elapsed: Duration) -> u128 {
        let refilled = |limit: u64| elapsed.as_nanos().saturating_mul(limit.into());
        self.limit.map_or(0, |limit| self.used.saturating_sub(refilled(limit)))
    }

    fn take(&mut self, count: u64) {
        if self.limit.is_some() {
            self.used = self.used.saturating_add(u128::from(count) * MINUTE_NS);
        }
    }

    fn give_back(&mut self, count: u64) {
        self.used = self.used.saturating_sub(u128::from(count) * MINUTE_NS);
    }

    /// How long until so much fits; None: it does.
    fn wait(&self, count: u64) -> Option<Duration> {
        let limit = self.limit?;
        let whole = u128::from(limit) * MINUTE_NS;
        let over = self.used.saturating_add(u128::from(count) * MINUTE_NS).saturating_sub(whole);
        match over {
            0 => None,
            _ if count > limit || limit == 0 => Some(NEVER),
            _ => Some(nanoseconds(over.div_ceil(limit.into()))),
        }
    }

    fn state(&self) -> Option<State> {
        let limit = self.limit?;
        let left = (u128::from(limit) * MINUTE_NS).saturating_sub(self.used) / MINUTE_NS;
        let reset = nanoseconds(self.used.div_ceil(u128::from(limit).max(1)));
        Some(State { limit, remaining: left as u64, reset })
    }
}

fn nanoseconds(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}

/// To which day and month a reservation was charged.
pub struct Charge {
    day: u64,
    month: u64,
}

/// A limit that a request is over.
pub struct Over {
    kind: LimitKind,
    limit: f64,
    /// [`NEVER`]: waiting does not help.
    pub wait: Duration,
}

/// What a holder has used, as somebody else counts it. Buckets are in units of which a request, or a
/// token, is [`MINUTE_MS`]: each millisecond gives `limit` back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    pub requests: u64,
    pub tokens: u64,
    pub in_flight: u64,
    pub day_nanodollars: u64,
    pub month_nanodollars: u64,
    pub total_nanodollars: u64,
}

/// What a holder has used.
#[derive(Debug)]
pub struct Account {
    /// When the buckets were last refilled.
    at: Instant,
    requests: Bucket,
    tokens: Bucket,
    in_flight: u64,
    days: Periods,
    months: Periods,
    total_nanodollars: u128,
}

/// What is spent in the days, or months, that the wall clock has shown lately. Requests come a little out
/// of order around midnight, and a clock may jump and come back: what was spent before is still known then.
#[derive(Clone, Debug, Default)]
struct Periods {
    /// (which, nanodollars), the current one last.
    spent: Vec<(u64, u128)>,
}

/// Periods that are remembered besides the current one.
const PERIODS_BEFORE: usize = 3;

impl Periods {
    /// The clock shows this one.
    fn turn(&mut self, period: u64) {
        match self.spent.iter().position(|(known, _)| *known == period) {
            Some(at) if at + 1 == self.spent.len() => {}
            Some(at) => {
                let known = self.spent.remove(at);
                self.spent.push(known);
            }
            None => {
                if self.spent.len() > PERIODS_BEFORE {
                    self.spent.remove(0);
                }
                self.spent.push((period, 0));
            }
        }
    }

    fn current(&self) -> (u64, u128) {
        self.spent.last().copied().unwrap_or_default()
    }

    fn set(&mut self, period: u64, nanodollars: u128) {
        self.turn(period);
        self.pay(period, |_| nanodollars);
    }

    /// Of one that is not remembered any more nothing is asked.
    fn pay(&mut self, period: u64, change: impl Fn(u128) -> u128) {
        if let Some((_, spent)) = self.spent.iter_mut().find(|(known, _)| *known == period) {
            *spent = change(*spent);
        }
    }

    fn is_blank(&self) -> bool {
        self.spent.iter().all(|(_, nanodollars)| *nanodollars == 0)
    }
}

impl Account {
    pub fn new(now: Instant) -> Self {
        Self {
            at: now,
            requests: Bucket::default(),
            tokens: Bucket::default(),
            in_flight: 0,
            days: Periods::default(),
            months: Periods::default(),
            total_nanodollars: 0,
        }
    }

    /// As somebody else counts it, with the limits and at the time of that count.
    pub fn of(used: &Used, limits: &Limits, calendar: &Calendar) -> Self {
        let bucket =
            |used: u64, limit| Bucket { used: u128::from(used) * (MINUTE_NS / u128::from(MINUTE_MS)), limit };
        let only = |period: u64, spent: u64| Periods { spent: vec![(period, spent.into())] };
        Self {
            requests: bucket(used.requests, limits.requests_per_minute),
            tokens: bucket(used.tokens, limits.tokens_per_minute),
            in_flight: used.in_flight,
            days: only(calendar.day, used.day_nanodollars),
            months: only(calendar.month.into(), used.month_nanodollars),
            total_nanodollars: used.total_nanodollars.into(),
            ..Self::new(Instant::now())
        }
    }

    /// Brings it to a time, and to the limits of that time.
    pub fn advance(&mut self, limits: &Limits, now: Instant, calendar: &Calendar) {
        let elapsed = self.elapse(now);
        self.requests.refill(limits.requests_per_minute, elapsed);
        self.tokens.refill(limits.tokens_per_minute, elapsed);
        self.turn(calendar);
    }

    /// Requests whose clocks were read in another order than they come here find no time passed.
    fn elapse(&mut self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        elapsed
    }

    /// The day and the month are what the wall clock shows now.
    fn turn(&mut self, calendar: &Calendar) {
        self.days.turn(calendar.day);
        self.months.turn(calendar.month.into());
    }

    /// The limit that keeps a request waiting longest, if it is over any.
    pub fn over(&self, holder: &Holder<'_>, need: &Need, calendar: &Calendar) -> Option<Over> {
        let Holder { limits, credit, .. } = holder;
        let per_minute = |kind, bucket: &Bucket, count| {
            let wait = bucket.wait(count)?;
            Some(Over { kind, limit: bucket.limit? as f64, wait })
        };
        let concurrency = limits.concurrency.filter(|limit| self.in_flight >= *limit);
        let concurrency = concurrency.map(|limit| Over {
            kind: LimitKind::Concurrency,
            limit: limit as f64,
            wait: if limit == 0 { NEVER } else { RETRY_CONCURRENCY },
        });
        let money = |kind, limit: Option<f64>, spent: u128, left: Duration| {
            let limit = limit?;
            let whole = nanodollars(limit);
            // Who has spent all gets nothing that seems to be free either: its price may be unknown.
            let over = spent >= whole || spent.saturating_add(need.nanodollars) > whole;
            let hopeless = whole == 0 || need.nanodollars > whole;
            over.then_some(Over { kind, limit, wait: if hopeless { NEVER } else { left } })
        };
        [
            per_minute(LimitKind::RequestsPerMinute, &self.requests, 1),
            per_minute(LimitKind::TokensPerMinute, &self.tokens, need.tokens),
            concurrency,
            money(LimitKind::DollarsPerDay, limits.dollars_per_day, self.days.current().1, calendar.day_left),
            money(
                LimitKind::DollarsPerMonth,
                limits.dollars_per_month,
                self.months.current().1,
                calendar.month_left,
            ),
            money(LimitKind::Credit, *credit, self.total_nanodollars, NEVER),
        ]
        .into_iter()
        .flatten()
        .max_by_key(|over| over.wait)
    }

    /// Takes what a request needs.
    pub fn take(&mut self, need: &Need) -> Charge {
        self.requests.take(1);
        self.tokens.take(need.tokens);
        self.in_flight += 1;
        let charge = Charge { day: self.days.current().0, month: self.months.current().0 };
        self.pay(&charge, |spent| spent.saturating_add(need.nanodollars));
        charge
    }

    /// Undoes a [`take`](Self::take), as if the request had never been.
    pub fn give_back(&mut self, need: &Need, charge: &Charge) {
        self.requests.give_back(1);
        self.tokens.give_back(need.tokens);
        self.pay(charge, |spent| spent.saturating_sub(need.nanodollars));
        self.leave();
    }

    /// Ends a request that used `real` where `need` was taken. Its dollars count for the day on which it
    /// began.
    pub fn settle(&mut self, need: &Need, real: &Need, charge: &Charge, now: Instant) {
        let elapsed = self.elapse(now);
        self.requests.refill(self.requests.limit, elapsed);
        self.tokens.refill(self.tokens.limit, elapsed);
        match real.tokens.checked_sub(need.tokens) {
            Some(more) => self.tokens.take(more),
            None => self.tokens.give_back(need.tokens - real.tokens),
        }
        self.pay(charge, |spent| spent.saturating_add(real.nanodollars).saturating_sub(need.nanodollars));
        self.leave();
    }

    /// Ends a request that used what was taken.
    pub fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    fn pay(&mut self, charge: &Charge, change: impl Fn(u128) -> u128) {
        self.days.pay(charge.day, &change);
        self.months.pay(charge.month, &change);
        self.total_nanodollars = change(self.total_nanodollars);
    }

    /// Dollars more, or less where they are negative, in a day and month.
    pub fn correct(&mut self, dollars: f64, calendar: &Calendar) {
        let charge = Charge { day: calendar.day, month: calendar.month.into() };
        let amount = nanodollars(dollars.abs());
        self.pay(&charge, |spent| match dollars < 0.0 {
            true => spent.saturating_sub(amount),
            false => spent.saturating_add(amount),
        });
    }

    pub fn seed(&mut self, spent: Spent, calendar: &Calendar) {
        self.days.set(calendar.day, nanodollars(spent.day));
        self.months.set(calendar.month.into(), nanodollars(spent.month));
        self.total_nanodollars = nanodollars(spent.total);
    }

    pub fn spent(&mut self, calendar: &Calendar) -> Spent {
        self.turn(calendar);
        Spent {
            day: dollars(self.days.current().1),
            month: dollars(self.months.current().1),
            total: dollars(self.total_nanodollars),
        }
    }

    /// It holds nothing that a new one would not. Dollars once spent are kept: credit may be asked for
    /// at any time.
    pub fn is_blank(&self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at);
        self.in_flight == 0
            && self.total_nanodollars == 0
            && self.months.is_blank()
            && self.days.is_blank()
            && [self.requests, self.tokens].iter().all(|bucket| bucket.after(elapsed) == 0)
    }

    pub fn states(&self) -> States {
        States { requests: self.requests.state(), tokens: self.tokens.state() }
    }
}

impl Over {
    /// What the caller is told.
    pub fn refusal(self, holder: &Holder<'_>, need: &Need, states: States) -> Refusal {
        let Self { kind, limit, wait } = self;
        let (who, together) = match holder.id {
            Id::Key("") => ("this key".to_owned(), ""),
            Id::Key(name) => (format!("key `{name}`"), ""),
            Id::Model(name) => (format!("model `{name}`"), " for all callers together"),
        };
        let retry_after = (wait != NEVER).then_some(wait);
        let tokens = need.tokens;
        let what = match kind {
            LimitKind::RequestsPerMinute => {
                format!("{who} is limited to {limit} requests a minute{together}")
            }
            LimitKind::TokensPerMinute => format!(
                "{who} is limited to {limit} tokens a minute{together}, and this request needs about {tokens}"
            ),
            LimitKind::Concurrency => {
                format!("{who} is limited to {limit} requests at a time{together}, and they are under way")
            }
            _ => {
                let period = match kind {
                    LimitKind::DollarsPerDay => "a day (UTC)",
                    LimitKind::DollarsPerMonth => "a month (UTC)",
                    _ => "in all (prepaid credit)",
                };
                let cost = dollars(need.nanodollars);
                format!(
                    "{who} is limited to ${limit} {period}{together}, and less than this request may cost (${cost}) is left"
                )
            }
        };
        let then = match (retry_after, kind) {
            (Some(wait), _) => {
                format!("try again in {}", crate::gateway::wire::rate_limit::go_duration(wait))
            }
            (None, LimitKind::TokensPerMinute) => {
                "it can never pass: shorten the prompt or lower `max_tokens`".to_owned()
            }
            (None, LimitKind::Credit) => "more credit is needed".to_owned(),
            (None, _) => "it can never pass".to_owned(),
        };
        Refusal { holder: who, kind, limit, retry_after, message: format!("{what}; {then}"), states }
    }
}
