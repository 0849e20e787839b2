//! Against a real Redis, that of `NOVASTACK_TEST_REDIS`.

mod outage;

use super::*;
use crate::gateway::ledger::limit::tests::{EVE, costs, key, model, refused, start, tokens};
use proptest::prelude::*;
use tokio::runtime::Runtime;

/// Longer than a busy machine takes for anything here.
const LONG: Duration = Duration::from_secs(30);

/// The tests' Redis; None, said aloud, without it.
fn url() -> Option<String> {
    let url = std::env::var("NOVASTACK_TEST_REDIS").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        eprintln!("SKIPPED: there is no Redis; set NOVASTACK_TEST_REDIS=$(scripts/test_redis.sh DIR)");
    }
    url
}

/// Keys that no other test has.
fn prefix() -> String {
    format!("test-{}", uuid::Uuid::new_v4().simple())
}

/// Time stands as the test says, and nothing is given up for slowness.
fn frozen(prefix: &str, now: Now) -> Options {
    let frozen = Some((now.at, now.unix_s * 1000));
    Options { prefix: prefix.to_owned(), timeout: LONG, lease: Duration::from_secs(3600), frozen }
}

/// A time so many milliseconds later.
fn after(now: Now, ms: u64) -> Now {
    Now { at: now.at + Duration::from_millis(ms), unix_s: now.unix_s + ms / 1000 }
}

async fn connected(url: &str, options: Options) -> Redis {
    let redis = Redis::with(url, options).unwrap_or_else(|error| panic!("{error}"));
    redis.connect().await;
    wait_for(&redis, Link::Up).await;
    redis
}

async fn wait_for(redis: &Redis, link: Link) {
    let mut seen = redis.inner.link.subscribe();
    let found = timeout(LONG, seen.wait_for(|it| *it == link)).await;
    assert!(found.is_ok_and(|found| found.is_ok()), "never {link:?}");
}

/// What is counted in Redis, of the day and month of a time.
async fn spent(redis: &Redis, id: Id<'_>, now: Now) -> Spent {
    redis.flush().await.expect("delivered");
    let (base, today) = (redis.inner.base(id), Calendar::of(now.unix_s));
    let mut connection = lock(&redis.inner.connection).clone().expect("connected");
    let mut pipe = ::redis::pipe();
    pipe.cmd("HMGET").arg(format!("{base}:spent")).arg(&["day", "month", "of_day", "of_month"]);
    pipe.cmd("GET").arg(format!("{base}:total"));
    let (kept, total): (Vec<Option<u64>>, Option<u64>) =
        pipe.query_async(&mut connection).await.expect("counts");
    let dollars = |is_now: bool, amount: Option<u64>| match is_now {
        true => dollars(amount.unwrap_or(0).into()),
        false => 0.0,
    };
    Spent {
        day: dollars(kept[0].is_none_or(|day| day >= today.day), kept[2]),
        month: dollars(kept[1].is_none_or(|month| month >= u64::from(today.month)), kept[3]),
        total: dollars(true, total),
    }
}

/// A shared limiter for tests that know nothing of async, with a time that stands.
pub struct Shared {
    redis: Redis,
    runtime: Runtime,
}

impl Shared {
    /// Whose clock shows that time; None without a Redis.
    pub fn start(now: Now) -> Option<Self> {
        let url = url()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let redis = runtime.block_on(connected(&url, frozen(&prefix(), now)));
        Some(Self { redis, runtime })
    }

    pub fn reserve(
        &self,
        holders: &[Holder<'_>],
        estimate: Estimate,
        now: Now,
    ) -> Result<Reservation, Box<Refusal>> {
        self.runtime.block_on(async {
            self.redis.flush().await.expect("delivered");
            let reserved = self.redis.reserve(holders, estimate, now).await;
            assert_eq!(self.redis.counters().alone.get(), 0, "Redis was asked");
            reserved
        })
    }

    fn flush(&self) {
        self.runtime.block_on(self.redis.flush()).expect("delivered");
    }

    pub fn seed_spent(&self, id: Id<'_>, spent: Spent, now: Now) {
        self.redis.seed_spent(id, spent, now);
        self.runtime.block_on(self.redis.inner.seed(false)).expect("seeded");
    }

    pub fn spent(&self, id: Id<'_>, now: Now) -> Spent {
        self.runtime.block_on(spent(&self.redis, id, now))
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// After so many milliseconds, so many tokens and microdollars; for the key, the model, or both.
    Reserve(u64, u64, u32, u8),
    /// One of those in flight (modulo their number), after so long, with what it used.
    Settle(usize, u64, u64, u32),
    Drop(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let wait = || prop_oneof![Just(0), 0..2_000u64, 0..90_000u64];
    prop_oneof![
        5 => (wait(), 0..700u64, 0..400_000u32, 0..3u8)
            .prop_map(|(wait, tokens, cost, who)| Action::Reserve(wait, tokens, cost, who)),
        3 => (any::<usize>(), wait(), 0..1000u64, 0..500_000u32)
            .prop_map(|(which, wait, used, cost)| Action::Settle(which, wait, used, cost)),
        1 => any::<usize>().prop_map(Action::Drop),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let some = prop::option::weighted;
    (some(0.8, 1..20u64), some(0.8, 1..1000u64), some(0.7, 1..6u64), some(0.5, 1..4u64), some(0.5, 1..6u64))
        .prop_map(|(requests_per_minute, tokens_per_minute, concurrency, day, month)| Limits {
            requests_per_minute,
            tokens_per_minute,
            concurrency,
            dollars_per_day: day.map(|it| it as f64),
            dollars_per_month: month.map(|it| it as f64),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked, in memory and in Redis: the same passes, the same is told, the same is spent.
    #[test]
    fn redis_counts_as_memory_does(
        actions in prop::collection::vec(action(), 1..80),
        own in limits(), shared in limits(), credit in prop::option::of(1..8u32),
    ) {
        // One minute before midnight.
        let mut now = start();
        let Some(redis) = Shared::start(now) else { return Ok(()) };
        let memory = Memory::default();
        let holders = [Holder { credit: credit.map(f64::from), ..key(&own) }, model(&shared)];
        let (begin, mut ms) = (now, 0);
        let mut in_flight: Vec<(Reservation, Reservation)> = Vec::new();
        for action in actions {
            match action {
                Action::Reserve(wait, tokens, cost, who) => {
                    ms += wait;
                    now = after(begin, ms);
                    let asked = [&holders[..1], &holders[1..], &holders[..]][usize::from(who)];
                    let estimate = Estimate { tokens, dollars: f64::from(cost) / 1e6 };
                    match (memory.reserve(asked, estimate, now), redis.reserve(asked, estimate, now)) {
                        (Ok(one), Ok(other)) => {
                            let states = |it: &Reservation| [it.states.requests, it.states.tokens].map(|state| {
                                state.map(|state| (state.limit, state.remaining, state.reset.as_millis()))
                            });
                            prop_assert_eq!(states(&one), states(&other));
                            in_flight.push((one, other));
                        }
                        (Err(one), Err(other)) => {
                            prop_assert_eq!((&one.message, one.retry_after), (&other.message, other.retry_after));
                        }
                        (one, other) => prop_assert!(
                            false, "memory: {:?}, redis: {:?}", one.err(), other.err()
                        ),
                    }
                }
                Action::Settle(which, wait, used, cost) if !in_flight.is_empty() => {
                    ms += wait;
                    now = after(begin, ms);
                    let (one, other) = in_flight.swap_remove(which % in_flight.len());
                    one.settle(used, f64::from(cost) / 1e6, now.at);
                    other.settle(used, f64::from(cost) / 1e6, now.at);
                    // A batch has one time.
                    redis.flush();
                }
                Action::Drop(which) if !in_flight.is_empty() => {
                    drop(in_flight.swap_remove(which % in_flight.len()));
                }
                _ => {}
            }
        }
        for holder in &holders {
            prop_assert_eq!(memory.spent(holder.id, now), redis.spent(holder.id, now));
        }
    }
}

/// Two processes, many tasks, a clock that goes in steps: together they admit what one would.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_limiters_keep_one_limit() {
    let Some(url) = url() else { return };
    let (begin, prefix) = (start(), prefix());
    let one = connected(&url, frozen(&prefix, begin)).await;
    let other = connected(&url, frozen(&prefix, begin)).await;
    let both = Arc::new([one, other]);
    let own = Limits { requests_per_minute: Some(600), tokens_per_minute: Some(20_000), ..Limits::default() };
    // The one whose limit of tokens is tighter, and whose estimates are settled to 30 tokens.
    let memory = Memory::default();
    let (mut shared, mut alone) = (0u64, 0u64);
    for step in 0..12 {
        let now = after(begin, step * 5_000);
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let both = both.clone();
                tokio::spawn(async move {
                    let mut admitted = 0;
                    while let Ok(place) = both[task % 2].reserve(&[key(&own)], tokens(40), now).await {
                        place.settle(40, 0.0, now.at);
                        admitted += 1;
                    }
                    admitted
                })
            })
            .collect();
        for task in tasks {
            shared += task.await.unwrap();
        }
        while let Ok(place) = memory.reserve(&[key(&own)], tokens(40), now) {
            place.settle(40, 0.0, now.at);
            alone += 1;
        }
    }
    assert!(both.iter().all(|redis| redis.counters().alone.get() == 0));
    // A minute's worth and what came back in 55 seconds.
    assert_eq!(alone, (20_000 + 20_000 * 55 / 60) / 40);
    assert!(shared.abs_diff(alone) * 50 <= alone, "{shared} together, {alone} alone");
}

/// With settlements that come late and give most of the estimate back, in real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn settlements_of_two_limiters_meet() {
    let Some(url) = url() else { return };
    let prefix = prefix();
    let options = || Options { prefix: prefix.clone(), timeout: LONG, ..Options::default() };
    let both = Arc::new([connected(&url, options()).await, connected(&url, options()).await]);
    let own = Limits { tokens_per_minute: Some(1_000_000_000), concurrency: Some(3), ..Limits::default() };
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let both = both.clone();
            tokio::spawn(async move {
                let mut admitted = 0u64;
                for _ in 0..200 {
                    let estimate = Estimate { tokens: 1000, dollars: 0.005 };
                    let holders = [key(&own), model(&own)];
                    if let Ok(place) = both[task % 2].reserve(&holders, estimate, Now::read()).await {
                        admitted += 1;
                        tokio::task::yield_now().await;
                        place.settle(10, 0.000_3, Instant::now());
                    }
                }
                admitted
            })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        admitted += task.await.unwrap();
    }
    assert!(admitted >= 200, "{admitted}");
    for redis in &*both {
        redis.flush().await.expect("delivered");
    }
    for id in [Id::Key("ci"), Id::Model("big")] {
        let spent = spent(&both[0], id, Now::read()).await;
        assert_eq!((spent.total / 0.000_3).round() as u64, admitted);
    }
    // All places are free again.
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(both[1].reserve(&[key(&own), model(&own)], tokens(1), Now::read()).await.unwrap());
    }
    assert_eq!(
        refused(both[0].reserve(&[key(&own)], tokens(1), Now::read()).await).kind.name(),
        "concurrency"
    );
}

/// Leases of the living are renewed, those of the dead end.
#[tokio::test]
async fn places_of_the_dead_are_freed() {
    let Some(url) = url() else { return };
    let (begin, prefix) = (start(), prefix());
    let options = || Options { lease: Duration::from_secs(15), ..frozen(&prefix, begin) };
    let (one, other) = (connected(&url, options()).await, connected(&url, options()).await);
    let own = Limits { concurrency: Some(2), ..Limits::default() };
    let living = one.reserve(&[key(&own)], tokens(0), begin).await.unwrap();
    let killed = other.reserve(&[key(&own)], tokens(0), begin).await.unwrap();
    std::mem::forget(killed);
    let ask = async |seconds: u64| one.reserve(&[key(&own)], tokens(0), after(begin, seconds * 1000)).await;
    assert_eq!(refused(ask(10).await).kind.name(), "concurrency");
    one.inner.renew(after(begin, 10_000).at).await;
    // Only the other's place is free at 20 seconds, both at 25.
    let second = ask(20).await.unwrap();
    assert!(ask(20).await.is_err());
    drop((living, second));
    one.flush().await.expect("delivered");
    let _both = (ask(21).await.unwrap(), ask(21).await.unwrap());
    assert!(ask(21).await.is_err());
    assert!(ask(37).await.is_ok(), "nobody renewed them");
}

/// Who starts later brings no old number in, and what Redis has lost comes back.
#[tokio::test]
async fn seeds_are_the_larger_number() {
    let Some(url) = url() else { return };
    let (begin, prefix) = (start(), prefix());
    let seeded = async |total: f64| {
        let redis = Redis::with(&url, frozen(&prefix, begin)).unwrap();
        redis.seed_spent(Id::Key("ci"), Spent { day: total / 4.0, month: total / 2.0, total }, begin);
        redis.connect().await;
        wait_for(&redis, Link::Up).await;
        redis
    };
    let unlimited = Limits::default();
    let one = seeded(8.0).await;
    one.reserve(&[key(&unlimited)], costs(3.0), begin).await.unwrap().settle(1, 2.0, begin.at);
    let of = async |redis: &Redis| spent(redis, Id::Key("ci"), begin).await;
    assert_eq!(of(&one).await, Spent { day: 4.0, month: 6.0, total: 10.0 });
    let other = seeded(9.0).await;
    assert_eq!(of(&other).await, Spent { day: 4.0, month: 6.0, total: 10.0 });
    let third = seeded(20.0).await;
    assert_eq!(of(&third).await, Spent { day: 5.0, month: 10.0, total: 20.0 });
    // A seed of another day is none for today.
    let tomorrow = after(begin, 60_000);
    let late = Redis::with(&url, frozen(&prefix, tomorrow)).unwrap();
    late.seed_spent(Id::Key("ci"), Spent { day: 99.0, month: 11.0, total: 0.0 }, begin);
    late.connect().await;
    wait_for(&late, Link::Up).await;
    assert_eq!(spent(&late, Id::Key("ci"), tomorrow).await, Spent { day: 0.0, month: 11.0, total: 20.0 });
}

#[tokio::test]
async fn a_batch_counts_once() {
    let Some(url) = url() else { return };
    let now = start();
    let redis = connected(&url, frozen(&prefix(), now)).await;
    let inner = &redis.inner;
    let keys = [format!("{}:gateway:x", inner.options.prefix), inner.base(Id::Key("ci")).into()];
    let arguments = ["", "1", "x:1", "", "", "0", "500", "20483", "24313"].map(str::to_owned);
    for first in [1, 0, 0] {
        let counted: i64 = inner.run(&inner.scripts.settle, &keys, &arguments).await.expect("an answer");
        assert_eq!(counted, first);
    }
    assert_eq!(spent(&redis, Id::Key("ci"), now).await.total, 0.000_000_5);
}

/// A caller who goes away while Redis is asked has used nothing.
#[tokio::test]
async fn who_goes_away_gives_back() {
    let Some(url) = url() else { return };
    let now = start();
    let redis = connected(&url, frozen(&prefix(), now)).await;
    let own = Limits {
        requests_per_minute: Some(100),
        tokens_per_minute: Some(100),
        concurrency: Some(1),
        ..Limits::default()
    };
    let (holders, estimate) = ([key(&own)], Estimate { tokens: 100, dollars: 1.0 });
    // Polled once: it has asked, and has no answer yet.
    assert!(futures_util::FutureExt::now_or_never(redis.reserve(&holders, estimate, now)).is_none());
    let end = Instant::now() + LONG;
    let place = loop {
        let place = redis.reserve(&holders, estimate, now).await;
        match place {
            // The request itself stays counted as one.
            Ok(place) if place.states().requests.unwrap().remaining == 98 => break place,
            Ok(place) => panic!("the first one was not asked for: {:?}", place.states()),
            Err(refusal) => assert!(Instant::now() < end, "{refusal:?}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    drop(place);
    assert_eq!(spent(&redis, Id::Key("ci"), now).await.total, 1.0);
    assert!(lock(&redis.inner.leases).is_empty());
}

#[test]
fn passwords_are_not_told() {
    for (url, shown) in [
        ("redis://:hunter2@cache.example/3", "redis://cache.example:6379/3"),
        ("rediss://gateway:hunter2@cache.example:7000", "rediss://cache.example:7000"),
    ] {
        assert_eq!(place(url), shown);
        let redis = Redis::open(url).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(redis.inner.place, shown);
    }
    let error = Redis::open("redis://:hunter2@cache.example/three").err().expect("no number of a database");
    assert!(error.contains("cache.example") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_an_outage() {
    let Some(url) = url() else { return };
    let url = url.replace("redis://", "redis://nobody:hunter2@");
    let redis = Redis::open(&url).unwrap();
    let error = redis.inner.restore().await.expect_err("no such user").to_string();
    assert!(error.contains("WRONGPASS") || error.contains("uthentication"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    redis.connect().await;
    let own = Limits { requests_per_minute: Some(1), ..Limits::default() };
    assert!(redis.reserve(&[key(&own)], tokens(1), Now::read()).await.is_ok());
}

/// The scripts' calendar is that of Rust.
#[tokio::test]
async fn days_and_months_are_the_same() {
    let Some(url) = url() else { return };
    let redis = connected(&url, frozen(&prefix(), start())).await;
    let code = concat!(include_str!("common.lua"), "return { calendar(tonumber(ARGV[1])) }");
    for unix_s in (0..200).map(|i| EVE + i * 20_131_200).chain([0, 951_782_400, 951_868_800, 4_107_542_400]) {
        let found: Vec<u64> = redis
            .inner
            .run(&Script::new(code), &[""; 0], &[(unix_s * 1000).to_string()])
            .await
            .expect("a date");
        let Calendar { day, month, .. } = Calendar::of(unix_s);
        assert_eq!(found, [day, month.into()], "{unix_s}");
    }
}

/// `cargo test --release --lib -- --ignored --nocapture limit::redis::tests::how_fast`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_fast() {
    const TURNS: usize = 20_000;
    let Some(url) = url() else { return };
    let options = Options { prefix: prefix(), timeout: LONG, ..Options::default() };
    let redis = Arc::new(connected(&url, options).await);
    let own = Limits {
        requests_per_minute: Some(100_000_000),
        tokens_per_minute: Some(10_000_000_000),
        concurrency: Some(100),
        dollars_per_day: Some(1e6),
        dollars_per_month: Some(1e6),
    };
    for (name, limits) in [
        (
            "requests per minute alone",
            Limits { requests_per_minute: own.requests_per_minute, ..Limits::default() },
        ),
        ("all limits", own),
    ] {
        let mut took = Vec::with_capacity(TURNS);
        let began = Instant::now();
        for _ in 0..TURNS {
            let began = Instant::now();
            let place =
                redis.reserve(&[key(&limits)], Estimate { tokens: 1000, dollars: 0.01 }, Now::read()).await;
            took.push(began.elapsed());
            place.unwrap().settle(700, 0.007, Instant::now());
        }
        redis.flush().await;
        let whole = began.elapsed();
        took.sort();
        let [p50, p99] = [TURNS / 2, TURNS * 99 / 100].map(|at| took[at].as_micros());
        println!(
            "{name}: a reservation takes {p50} us (median), {p99} us (99%); {} a second with settlements",
            (TURNS as f64 / whole.as_secs_f64()).round()
        );
        let began = Instant::now();
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let redis = redis.clone();
                tokio::spawn(async move {
                    for _ in 0..TURNS / 64 {
                        let place = redis
                            .reserve(&[key(&limits)], Estimate { tokens: 1000, dollars: 0.01 }, Now::read())
                            .await;
                        let Ok(place) = place else { continue };
                        place.settle(700, 0.007, Instant::now());
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        redis.flush().await;
        println!("{name}: {} a second from 64 tasks", (TURNS as f64 / began.elapsed().as_secs_f64()).round());
    }
}
