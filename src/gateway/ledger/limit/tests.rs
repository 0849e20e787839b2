mod clock;

use super::memory::SWEEP_MIN;
use super::redis::tests::Shared;
use super::*;
use crate::gateway::chat::Dialect;
use axum::http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

/// 2026-01-30 23:59:00 UTC.
pub const EVE: u64 = 1_769_817_540;

/// A limiter under test. One that is shared sees what was settled before it is asked again.
enum Subject {
    Memory(Memory),
    Redis(Box<Shared>),
}

impl Subject {
    fn reserve(
        &self,
        holders: &[Holder<'_>],
        estimate: Estimate,
        now: Now,
    ) -> Result<Reservation, Box<Refusal>> {
        match self {
            Self::Memory(memory) => memory.reserve(holders, estimate, now),
            Self::Redis(redis) => redis.reserve(holders, estimate, now),
        }
    }

    fn seed_spent(&self, id: Id<'_>, spent: Spent, now: Now) {
        match self {
            Self::Memory(memory) => memory.seed_spent(id, spent, now),
            Self::Redis(redis) => redis.seed_spent(id, spent, now),
        }
    }

    fn spent(&self, id: Id<'_>, now: Now) -> Spent {
        match self {
            Self::Memory(memory) => memory.spent(id, now),
            Self::Redis(redis) => redis.spent(id, now),
        }
    }
}

/// Does a test with the limits of this process, and with those of a Redis where there is one.
fn with_each(test: impl Fn(Subject, Now)) {
    let now = start();
    test(Subject::Memory(Memory::default()), now);
    if let Some(redis) = Shared::start(now) {
        test(Subject::Redis(Box::new(redis)), now);
    }
}

fn later(now: Now, by: Duration) -> Now {
    // The wall clock is a little ahead, as it is when fractions are cut off one by one.
    Now { at: now.at + by, unix_s: now.unix_s + by.as_nanos().div_ceil(1_000_000_000) as u64 }
}

pub fn start() -> Now {
    Now { at: Instant::now(), unix_s: EVE }
}

fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

pub fn tokens(tokens: u64) -> Estimate {
    Estimate { tokens, dollars: 0.0 }
}

pub fn costs(dollars: f64) -> Estimate {
    Estimate { tokens: 0, dollars }
}

pub fn key(limits: &Limits) -> Holder<'_> {
    Holder { id: Id::Key("ci"), limits, credit: None }
}

pub fn model(limits: &Limits) -> Holder<'_> {
    Holder { id: Id::Model("big"), limits, credit: None }
}

pub fn refused(result: Result<Reservation, Box<Refusal>>) -> Box<Refusal> {
    result.err().expect("a refusal")
}

#[test]
fn requests_refill_one_by_one() {
    with_each(|limiter, now| {
        let limits = Limits { requests_per_minute: Some(60), ..Limits::default() };
        for _ in 0..60 {
            drop(limiter.reserve(&[key(&limits)], tokens(0), now).unwrap());
        }
        let refusal = refused(limiter.reserve(&[key(&limits)], tokens(0), now));
        assert_eq!((refusal.kind, refusal.limit), (LimitKind::RequestsPerMinute, 60.0));
        assert_eq!((refusal.retry_after, refusal.retry_after_s()), (Some(seconds(1.0)), Some(1)));
        assert_eq!(refusal.message, "key `ci` is limited to 60 requests a minute; try again in 1s");
        let state = State { limit: 60, remaining: 0, reset: seconds(60.0) };
        assert_eq!(refusal.states.requests, Some(state));
        drop(limiter.reserve(&[key(&limits)], tokens(0), later(now, seconds(1.0))).unwrap());
        assert!(limiter.reserve(&[key(&limits)], tokens(0), later(now, seconds(1.9))).is_err());
    });
}

#[test]
fn tokens_are_settled_by_what_was_used() {
    with_each(|limiter, now| {
        let limits = Limits { tokens_per_minute: Some(1000), ..Limits::default() };
        let reserve = |count, now| limiter.reserve(&[key(&limits)], tokens(count), now);
        let remaining = |now| reserve(0, now).unwrap().states().tokens.unwrap().remaining;
        reserve(900, now).unwrap().settle(100, 0.0, now.at);
        assert_eq!(remaining(now), 900);
        reserve(900, now).unwrap().settle(0, 0.0, now.at);
        assert_eq!(remaining(now), 900);
        // More than was thought: a debt.
        reserve(100, now).unwrap().settle(1900, 0.0, now.at);
        let refusal = refused(reserve(500, now));
        assert_eq!(refusal.states.tokens.unwrap().remaining, 0);
        assert_eq!(refusal.retry_after, Some(seconds(90.0)));
        assert!(refusal.message.contains("needs about 500; try again in 1m30s"), "{}", refusal.message);
        assert!(reserve(500, later(now, seconds(89.9))).is_err());
        // Dropped: the estimate counts.
        drop(reserve(500, later(now, seconds(90.0))).unwrap());
        assert_eq!(remaining(later(now, seconds(90.0))), 0);
        // What is given back late does not overfill.
        let early = reserve(200, later(now, seconds(200.0))).unwrap();
        let late = later(now, seconds(400.0));
        early.settle(0, 0.0, late.at);
        assert_eq!(remaining(late), 1000);
    });
}

#[test]
fn what_can_never_pass_is_said_so() {
    with_each(|limiter, now| {
        let limits = Limits { tokens_per_minute: Some(1000), ..Limits::default() };
        let refusal = refused(limiter.reserve(&[model(&limits)], tokens(1001), now));
        assert_eq!((refusal.kind, refusal.retry_after), (LimitKind::TokensPerMinute, None));
        assert_eq!(
            refusal.message,
            "model `big` is limited to 1000 tokens a minute for all callers together, and this request needs about \
             1001; it can never pass: shorten the prompt or lower `max_tokens`"
        );
        assert!(limiter.reserve(&[model(&limits)], tokens(1000), now).is_ok());
    });
}

#[test]
fn places_are_freed_by_settling_and_by_dropping() {
    with_each(|limiter, now| {
        let limits = Limits { concurrency: Some(2), ..Limits::default() };
        let reserve = || limiter.reserve(&[key(&limits)], tokens(0), now);
        let (a, b) = (reserve().unwrap(), reserve().unwrap());
        assert_eq!(refused(reserve()).kind, LimitKind::Concurrency);
        a.settle(0, 0.0, now.at);
        let c = reserve().unwrap();
        assert!(reserve().is_err());
        drop((b, c));
        let _two = (reserve().unwrap(), reserve().unwrap());
        assert!(reserve().is_err());
    });
}

#[test]
fn a_refusal_by_the_second_takes_nothing_from_the_first() {
    with_each(|limiter, now| {
        let own = Limits {
            requests_per_minute: Some(1),
            tokens_per_minute: Some(100),
            concurrency: Some(1),
            dollars_per_day: Some(1.0),
            dollars_per_month: Some(1.0),
        };
        let small = Limits { tokens_per_minute: Some(10), ..Limits::default() };
        let all = Estimate { tokens: 100, dollars: 1.0 };
        for _ in 0..3 {
            let refusal = refused(limiter.reserve(&[key(&own), model(&small)], all, now));
            assert_eq!(refusal.holder, "model `big`");
        }
        assert_eq!(limiter.spent(Id::Key("ci"), now), Spent::default());
        let whole = limiter.reserve(&[key(&own)], all, now).unwrap();
        // The longest wait is told, in whatever order the holders come.
        let slow = Limits { requests_per_minute: Some(2), ..Limits::default() };
        let holders = [model(&slow), key(&own)];
        for holders in [holders, [holders[1], holders[0]]] {
            let refusal = refused(limiter.reserve(&holders, tokens(1), now));
            assert_eq!((refusal.holder.as_str(), refusal.kind), ("key `ci`", LimitKind::DollarsPerMonth));
        }
        drop(whole);
    });
}

#[test]
fn dollars_are_of_utc_days_and_months() {
    with_each(|limiter, now| {
        let limits = Limits { dollars_per_day: Some(1.0), dollars_per_month: Some(1.5), ..Limits::default() };
        let reserve = |dollars, now| limiter.reserve(&[key(&limits)], costs(dollars), now);
        let before_midnight = reserve(0.6, now).unwrap();
        let refusal = refused(reserve(0.5, now));
        assert_eq!((refusal.kind, refusal.retry_after), (LimitKind::DollarsPerDay, Some(seconds(60.0))));
        assert!(refusal.message.contains("$1 a day (UTC)") && refusal.message.contains("($0.5)"));
        // 2026-01-31.
        let midnight = later(now, seconds(60.0));
        drop(reserve(0.5, midnight).unwrap());
        // Counts for the day on which it began, and for the month.
        before_midnight.settle(0, 0.7, midnight.at);
        let spent = limiter.spent(Id::Key("ci"), midnight);
        assert_eq!(spent, Spent { day: 0.5, month: 1.2, total: 1.2 });
        let refusal = refused(reserve(0.4, midnight));
        assert_eq!(
            (refusal.kind, refusal.retry_after),
            (LimitKind::DollarsPerMonth, Some(seconds(86_400.0)))
        );
        drop(reserve(0.4, later(midnight, seconds(86_400.0))).unwrap());
        assert_eq!(refused(reserve(2.0, midnight)).retry_after, None);
    });
}

#[test]
fn credit_ends_for_good() {
    with_each(|limiter, now| {
        let limits = Limits::default();
        let holder = Holder { credit: Some(50.0), ..key(&limits) };
        limiter.seed_spent(Id::Key("ci"), Spent { day: 0.0, month: 10.0, total: 49.5 }, now);
        let refusal = refused(limiter.reserve(&[holder], costs(0.6), now));
        assert_eq!((refusal.kind, refusal.retry_after), (LimitKind::Credit, None));
        assert!(refusal.message.ends_with("more credit is needed"), "{}", refusal.message);
        assert_eq!(refusal.kind.code(), "insufficient_quota");
        limiter.reserve(&[holder], costs(0.5), now).unwrap().settle(1, 0.7, now.at);
        assert_eq!(limiter.spent(Id::Key("ci"), now).total, 50.2);
        // Nor what seems to be free.
        assert!(limiter.reserve(&[holder], costs(0.0), now).is_err());
        // A key of the same name as a model is another holder.
        assert!(limiter.reserve(&[Holder { id: Id::Model("ci"), ..holder }], costs(0.6), now).is_ok());
        for odd in [f64::NAN, f64::INFINITY, -1.0] {
            drop(limiter.reserve(&[Holder { id: Id::Key("odd"), ..key(&limits) }], costs(odd), now).unwrap());
        }
    });
}

#[test]
fn limits_change_between_requests() {
    with_each(|limiter, now| {
        let per_minute = |count| Limits { requests_per_minute: count, ..Limits::default() };
        let reserve = |count, now| limiter.reserve(&[key(&per_minute(count))], tokens(0), now).map(drop);
        for _ in 0..10 {
            reserve(Some(10), now).unwrap();
        }
        assert!(reserve(Some(10), now).is_err());
        reserve(Some(11), now).unwrap();
        // 11 are used: 9 too many.
        let refusal = reserve(Some(3), now).unwrap_err();
        assert_eq!(refusal.retry_after, Some(seconds(180.0)));
        reserve(Some(3), later(now, seconds(180.0))).unwrap();
        reserve(None, later(now, seconds(180.0))).unwrap();
        reserve(Some(1), later(now, seconds(180.0))).unwrap();
        // A store may say 0.
        assert_eq!(reserve(Some(0), now).unwrap_err().retry_after, None);
    });
}

#[test]
fn who_holds_nothing_is_forgotten() {
    let (limiter, now) = (Memory::default(), start());
    let limits = Limits { requests_per_minute: Some(60), ..Limits::default() };
    let in_flight = limiter.reserve(&[key(&limits)], tokens(0), now).unwrap();
    limiter.reserve(&[model(&limits)], costs(1.0), now).unwrap().settle(0, 1.0, now.at);
    for number in 0..20_000 {
        let name = format!("key-{number}");
        let holder = Holder { id: Id::Key(&name), ..key(&limits) };
        drop(limiter.reserve(&[holder], tokens(0), later(now, Duration::from_millis(number))).unwrap());
    }
    // One second's worth is in use, 1000; as many again may wait for the sweep.
    assert!(limiter.len() <= 2 * SWEEP_MIN + 100, "{}", limiter.len());
    assert_eq!(limiter.spent(Id::Model("big"), now).total, 1.0);
    assert!(limiter.found(Id::Key("ci")).is_some(), "in flight");
    drop(in_flight);
    limiter.forget(Id::Key("ci"));
    assert!(limiter.found(Id::Key("ci")).is_none() && !limiter.is_empty());
}

#[test]
fn headers_are_the_dialects() {
    with_each(|limiter, now| {
        let own =
            Limits { requests_per_minute: Some(60), tokens_per_minute: Some(1000), ..Limits::default() };
        let shared = Limits { requests_per_minute: Some(30), ..Limits::default() };
        let reservation = limiter.reserve(&[key(&own), model(&shared)], tokens(900), now).unwrap();
        let written = |dialect| {
            let headers = reservation.states().headers(dialect, now.unix_s);
            let text = |value: HeaderValue| value.to_str().unwrap().to_owned();
            headers.map(|(name, value)| (name.to_string(), text(value))).collect::<Vec<_>>()
        };
        let expected = [
            ("x-ratelimit-limit-requests", "30"),
            ("x-ratelimit-remaining-requests", "29"),
            ("x-ratelimit-reset-requests", "2s"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "100"),
            ("x-ratelimit-reset-tokens", "54s"),
        ];
        assert_eq!(written(Dialect::OpenAi), expected.map(|(name, value)| (name.into(), value.into())));
        let expected = [
            ("anthropic-ratelimit-requests-limit", "30"),
            ("anthropic-ratelimit-requests-remaining", "29"),
            ("anthropic-ratelimit-requests-reset", "2026-01-30T23:59:02Z"),
            ("anthropic-ratelimit-tokens-limit", "1000"),
            ("anthropic-ratelimit-tokens-remaining", "100"),
            ("anthropic-ratelimit-tokens-reset", "2026-01-30T23:59:54Z"),
        ];
        assert_eq!(written(Dialect::Anthropic), expected.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(States::default().headers(Dialect::OpenAi, 0).count(), 0);
    });
}

#[test]
fn durations_are_written_as_openai_does() {
    for (ns, text) in [
        (0, "0s"),
        (1, "1ms"),
        (120_000_000, "120ms"),
        (999_000_001, "1s"),
        (8_640_000_000, "8.64s"),
        (60_000_000_000, "1m0s"),
        (90_500_000_000, "1m30.5s"),
        (360_000_000_000, "6m0s"),
        (3_600_000_000_000, "1h0m0s"),
        (90_061_001_000_000, "25h1m1.001s"),
    ] {
        assert_eq!(crate::gateway::wire::rate_limit::go_duration(Duration::from_nanos(ns)), text);
    }
}

/// Many threads on few holders: what is settled is what is counted.
#[test]
fn threads_lose_nothing() {
    let (limiter, now) = (Memory::default(), start());
    let limits = Limits { tokens_per_minute: Some(1_000_000), concurrency: Some(3), ..Limits::default() };
    let admitted: u64 = std::thread::scope(|scope| {
        let work = |thread: u64| {
            let (limiter, limits) = (&limiter, &limits);
            move || {
                let mut admitted = 0;
                for turn in 0..5_000 {
                    let estimate = Estimate { tokens: thread * turn % 50, dollars: 0.001 };
                    if let Ok(place) = limiter.reserve(&[key(limits), model(limits)], estimate, now) {
                        admitted += 1;
                        place.settle(7, 0.000_3, now.at);
                    }
                }
                admitted
            }
        };
        let threads: Vec<_> = (1..=4).map(|thread| scope.spawn(work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(admitted > 1000, "{admitted}");
    for holder in [key(&limits), model(&limits)] {
        let spent = limiter.spent(holder.id, now).total;
        assert_eq!((spent / 0.000_3).round() as u64, admitted);
        let state = limiter.reserve(&[holder], tokens(0), now).unwrap().states().tokens.unwrap();
        assert_eq!(state.remaining, 1_000_000 - 7 * admitted.min(142_857));
    }
}

/// The exact rule that the buckets stand for, from the list of all that was charged: in every window
/// that ends now no more than `limit * (1 + length / 1 min)`. In billionths of tokens per minute.
#[derive(Default)]
struct Reference {
    /// (nanoseconds, count); negative where something was given back.
    charged: Vec<(i128, i128)>,
}

impl Reference {
    /// What is used of the limit, in 1/60e9.
    fn used(&self, limit: u64, now_ns: i128) -> i128 {
        let mut worst = 0;
        let mut sum = 0;
        for (at_ns, count) in self.charged.iter().rev() {
            sum += count * 60_000_000_000;
            worst = worst.max(sum - i128::from(limit) * (now_ns - at_ns));
        }
        worst
    }

    /// Nanoseconds until so much more fits.
    fn wait_ns(&self, limit: u64, count: u64, now_ns: i128) -> i128 {
        let over = self.used(limit, now_ns) + (i128::from(count) - i128::from(limit)) * 60_000_000_000;
        over.max(0).div_euclid(i128::from(limit)) + i128::from(over.max(0) % i128::from(limit) > 0)
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// After so long, so many tokens and microdollars; with the model or without.
    Reserve(u64, u64, u32, bool),
    /// One of those in flight (modulo their number), with what it used.
    Settle(usize, u64, u32),
    Drop(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let wait = prop_oneof![Just(0), 0..2_000_000_000u64, 0..90_000_000_000u64];
    prop_oneof![
        4 => (wait, 0..700u64, 0..400_000u32, any::<bool>())
            .prop_map(|(wait, tokens, cost, both)| Action::Reserve(wait, tokens, cost, both)),
        3 => (any::<usize>(), 0..1000u64, 0..500_000u32).prop_map(|(which, used, cost)| Action::Settle(which, used, cost)),
        1 => any::<usize>().prop_map(Action::Drop),
    ]
}

/// One holder as the reference has it.
#[derive(Default)]
struct Model {
    requests: Reference,
    tokens: Reference,
    in_flight: u64,
    /// Microdollars.
    spent: i64,
}

impl Model {
    /// How long a request waits; None: it passes. Some(None): for ever.
    fn wait(
        &self,
        limits: &Limits,
        credit: Option<f64>,
        tokens: u64,
        cost: u32,
        now_ns: i128,
    ) -> Option<Option<i128>> {
        let per_minute = limits.tokens_per_minute.unwrap();
        let broke = credit.is_some_and(|credit| {
            let credit = (credit * 1e6) as i64;
            self.spent >= credit || self.spent + i64::from(cost) > credit
        });
        if broke || tokens > per_minute {
            return Some(None);
        }
        let full = self.in_flight >= limits.concurrency.unwrap();
        let wait = self
            .requests
            .wait_ns(limits.requests_per_minute.unwrap(), 1, now_ns)
            .max(self.tokens.wait_ns(per_minute, tokens, now_ns))
            .max(if full { 1_000_000_000 } else { 0 });
        (wait > 0).then_some(Some(wait))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_limiter_is_the_reference(
        actions in prop::collection::vec(action(), 1..80),
        own in (1..20u64, 1..1000u64, 1..6u64, prop::option::of(1..8u32)),
        shared in (1..20u64, 1..1000u64, 1..6u64),
    ) {
        let limits = |(requests, tokens, concurrency)| Limits {
            requests_per_minute: Some(requests),
            tokens_per_minute: Some(tokens),
            concurrency: Some(concurrency),
            ..Limits::default()
        };
        let (own, credit, shared) = (limits((own.0, own.1, own.2)), own.3.map(f64::from), limits(shared));
        let holders = [Holder { credit, ..key(&own) }, model(&shared)];
        let mut models = [Model::default(), Model::default()];
        let (limiter, start) = (Memory::default(), start());
        let mut now_ns = 0u64;
        let mut in_flight: Vec<(Reservation, u64, u32, usize)> = Vec::new();
        for action in actions {
            match action {
                Action::Reserve(wait, tokens, cost, both) => {
                    now_ns += wait;
                    let count = if both { 2 } else { 1 };
                    let now = later(start, Duration::from_nanos(now_ns));
                    let estimate = Estimate { tokens, dollars: f64::from(cost) / 1e6 };
                    let waits: Vec<_> = holders[..count].iter().zip(&models)
                        .filter_map(|(holder, model)| {
                            model.wait(holder.limits, holder.credit, tokens, cost, now_ns.into())
                        }).collect();
                    match limiter.reserve(&holders[..count], estimate, now) {
                        Ok(place) => {
                            prop_assert_eq!(waits, vec![]);
                            for model in &mut models[..count] {
                                model.requests.charged.push((now_ns.into(), 1));
                                model.tokens.charged.push((now_ns.into(), tokens.into()));
                                model.in_flight += 1;
                                model.spent += i64::from(cost);
                            }
                            in_flight.push((place, tokens, cost, count));
                        }
                        Err(refusal) => {
                            // The exact time: enough, and no nanosecond more than is needed.
                            let never = waits.iter().any(Option::is_none);
                            let wait = waits.into_iter().flatten().max();
                            let expected = if never { None } else { wait };
                            prop_assert!(never || expected.is_some(), "refused without a reason: {:?}", refusal);
                            prop_assert_eq!(refusal.retry_after.map(|wait| wait.as_nanos() as i128), expected);
                        }
                    }
                }
                Action::Settle(which, used, spent) if !in_flight.is_empty() => {
                    let (place, tokens, cost, count) = in_flight.swap_remove(which % in_flight.len());
                    place.settle(used, f64::from(spent) / 1e6, start.at + Duration::from_nanos(now_ns));
                    for model in &mut models[..count] {
                        let change = i128::from(used) - i128::from(tokens);
                        model.tokens.charged.push((now_ns.into(), change));
                        model.in_flight -= 1;
                        model.spent += i64::from(spent) - i64::from(cost);
                    }
                }
                Action::Drop(which) if !in_flight.is_empty() => {
                    let (_, _, _, count) = in_flight.swap_remove(which % in_flight.len());
                    models[..count].iter_mut().for_each(|model| model.in_flight -= 1);
                }
                _ => {}
            }
        }
        // What was reserved and settled is what was spent.
        let now = later(start, Duration::from_nanos(now_ns));
        for (holder, model) in holders.iter().zip(&models) {
            let spent = limiter.spent(holder.id, now).total;
            prop_assert_eq!((spent * 1e6).round() as i64, model.spent);
        }
    }

    /// A caller who comes back exactly when told passes, and one who comes back a nanosecond earlier
    /// does not.
    #[test]
    fn retry_after_is_exact(
        first in prop::collection::vec((1..500u64, 0..20_000_000_000u64), 1..30),
        last in 1..500u64,
        limit in 500..2000u64,
    ) {
        let (limiter, mut now) = (Memory::default(), start());
        let limits = Limits {
            requests_per_minute: Some(7), tokens_per_minute: Some(limit), ..Limits::default()
        };
        for (count, gap) in first {
            drop(limiter.reserve(&[key(&limits)], tokens(count), now));
            now = later(now, Duration::from_nanos(gap));
        }
        if let Err(refusal) = limiter.reserve(&[key(&limits)], tokens(last), now) {
            let wait = refusal.retry_after.unwrap();
            let early = later(now, wait - Duration::from_nanos(1));
            prop_assert!(limiter.reserve(&[key(&limits)], tokens(last), early).is_err());
            prop_assert!(limiter.reserve(&[key(&limits)], tokens(last), later(now, wait)).is_ok());
        }
    }
}

/// `cargo test --release --lib -- --ignored --nocapture limit::tests::how_fast`
#[test]
#[ignore = "a measurement"]
fn how_fast() {
    const TURNS: u32 = 1_000_000;
    let (limiter, now) = (Memory::default(), start());
    let limits = Limits {
        requests_per_minute: Some(100_000_000),
        tokens_per_minute: Some(10_000_000_000),
        concurrency: Some(100),
        dollars_per_day: Some(1e9),
        dollars_per_month: Some(1e9),
    };
    let estimate = Estimate { tokens: 1000, dollars: 0.01 };
    let turn = || {
        let place = limiter.reserve(&[key(&limits), model(&limits)], estimate, now).unwrap();
        let headers = std::hint::black_box(*place.states());
        place.settle(700, 0.007, now.at);
        headers
    };
    for threads in [1, 2] {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..TURNS).for_each(|_| _ = turn()));
            }
        });
        let ns = began.elapsed().as_nanos() / u128::from(TURNS);
        println!("{threads} threads: {ns} ns per reserve and settle of a key and a model");
    }
    let states = turn();
    let began = Instant::now();
    for _ in 0..TURNS {
        std::hint::black_box(states.headers(Dialect::OpenAi, now.unix_s).collect::<HeaderMap>());
    }
    println!("{} ns for the headers", began.elapsed().as_nanos() / u128::from(TURNS));
}
