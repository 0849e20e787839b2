//! Limits that several gateways share through one Redis (6 or later), by the rules of the
//! memory's: a reservation is one script over all its holders, all or nothing, and one round trip.
//! Settlements go through a bounded queue, which a task of its own sends on in batches. The scripts
//! decide who passes; what a refused caller is told, and how limits stand, is computed from their counts
//! by the same [`Account`] as in memory.
//!
//! Concurrency is a set of leases. A living gateway renews those of its requests; those of a gateway that
//! was killed end by themselves after [`LEASE`]. Only holders with such a limit have any: one that is set
//! later counts requests from then on.
//!
//! While Redis cannot be reached each gateway counts alone, with all of each limit and with the dollars
//! that were last known to be spent: no request waits, none fails. What was spent meanwhile waits in the
//! queue. Whether Redis lost its data a key tells that is written once: if it is gone, every gateway says
//! what it knew to be spent, and the largest number comes on top of what was counted since.
//!
//! A gateway that starts says what its store knows, and the larger of that and of what is counted holds.
//! Both count what was really spent, and each may miss what the other has (Redis may have lost data; a
//! store has no reservations, and is perhaps not everybody's), so the larger is nearer. Gateways that
//! start one after the other change nothing.
//!
//! Invariants: no lock is held across an await; a settlement counts once, however often it is sent; a
//! caller who goes away while Redis is asked gives back what he was given.
//!
//! Deliberately absent: Redis Cluster (a script has keys of several slots). A limit of more than
//! [`COUNT_MAX`] a minute is none.

mod delivery;

#[cfg(test)]
pub mod tests;

use super::account::{Account, Calendar, Need, Over, Used, dollars, nanodollars};
use super::{Estimate, Held, Holder, Id, Memory, Now, Refusal, Reservation, Spent, States, memory};
use crate::config::Limits;
use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, ErrorKind, FromRedisValue, RedisResult, Script};
use delivery::{Message, Settlement};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use url::Url;

/// What all keys begin with. Deployments that share a Redis and no limits take databases of their own.
const PREFIX: &str = "novastack";
/// How long a request waits for Redis.
const TIMEOUT: Duration = Duration::from_millis(250);
/// How long everything else waits, and a start.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer that comes too late for its request is still taken, to give back what it gave.
const LATE: Duration = Duration::from_secs(10);
/// How long a place of a gateway that was killed stays taken.
const LEASE: Duration = Duration::from_secs(15);
/// Settlements that wait while Redis cannot be reached.
const QUEUE_MAX: usize = 65_536;
/// The most requests or tokens a minute, and tokens of a request, that the scripts count exactly.
const COUNT_MAX: u64 = 100_000_000_000;
/// The most that one request costs, in nanodollars: 9 million dollars.
const COST_MAX: u128 = 9_000_000_000_000_000;

/// How it goes; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// 1 while limits are shared, else 0.
    pub up: Gauge,
    /// Times that Redis was lost.
    pub outages: Counter,
    /// Reservations that this process counted alone.
    pub alone: Counter,
    /// Settlements that nobody counted.
    pub lost: Counter,
}

impl Counters {
    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        let Self { up, outages, alone, lost } = self.clone();
        registry.register("shared_limits_up", "1 while limits are shared, else 0", up);
        let mut register = |name, help, counter: Counter| registry.register(name, help, counter);
        register("shared_limits_outages", "Times that the Redis of shared limits was lost", outages);
        register("shared_limits_alone", "Reservations counted by this process alone", alone);
        register("shared_limits_lost", "Settlements that are counted nowhere", lost);
    }
}

/// Limits that are counted in Redis.
pub struct Redis {
    inner: Arc<Inner>,
    /// Taken by [`connect`](Self::connect).
    messages: Mutex<Option<mpsc::Receiver<Message>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Starting,
    Up,
    Down,
}

/// What only tests have otherwise.
struct Options {
    prefix: String,
    timeout: Duration,
    lease: Duration,
    /// That moment stands for those milliseconds since 1970; None: Redis' own clock holds.
    frozen: Option<(Instant, u64)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { prefix: PREFIX.to_owned(), timeout: TIMEOUT, lease: LEASE, frozen: None }
    }
}

struct Inner {
    client: Client,
    /// Of the server, without user and password.
    place: String,
    options: Options,
    scripts: Scripts,
    /// None that mends itself: a new one is made where it is seen whether the data is still there.
    connection: Mutex<Option<MultiplexedConnection>>,
    link: watch::Sender<Link>,
    /// Who wrote the key that says whether the data is still there; of the last time it was read.
    epoch: Mutex<Option<String>>,
    memory: Memory,
    /// Dollars that holders were last known to have spent, by their bases.
    known: Mutex<HashMap<Box<str>, Known>>,
    /// Bases where reservations of this process hold a place.
    leases: Mutex<HashMap<u64, Vec<Box<str>>>>,
    queue: mpsc::Sender<Message>,
    /// Distinguishes this process' reservations from others'.
    process: String,
    last_id: AtomicU64,
    counters: Counters,
}

struct Scripts {
    reserve: Script,
    settle: Script,
    renew: Script,
    seed: Script,
}

impl Scripts {
    fn new() -> Self {
        macro_rules! script {
            ($name:literal) => {
                Script::new(concat!(include_str!("redis/common.lua"), include_str!(concat!("redis/", $name))))
            };
        }
        Self {
            reserve: script!("reserve.lua"),
            settle: script!("settle.lua"),
            renew: script!("renew.lua"),
            seed: script!("seed.lua"),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Known {
    day: u64,
    month: u32,
    /// Of the day, of the month, in all.
    nanodollars: [u64; 3],
}

/// A holder of a reservation.
struct Party {
    base: Box<str>,
    limits: Limits,
}

/// What a script was asked for one reservation, and said.
struct Answer {
    /// None: refused.
    lease: Option<Lease>,
    calendar: Calendar,
    /// Before it, by holder.
    used: Vec<Used>,
}

impl Redis {
    /// For the server at a URL: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS.
    ///
    /// # Errors
    /// It is no such URL. Its password is not told.
    pub fn open(url: &str) -> Result<Self, String> {
        Self::with(url, Options::default())
    }

    fn with(url: &str, options: Options) -> Result<Self, String> {
        let place = place(url);
        // TLS needs a provider of ciphers; a second call finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            Client::open(url).map_err(|error| format!("`server.shared_limits`: {place}: {error}"))?;
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let inner = Inner {
            client,
            place,
            options,
            scripts: Scripts::new(),
            connection: Mutex::default(),
            link: watch::Sender::new(Link::Starting),
            epoch: Mutex::default(),
            memory: Memory::default(),
            known: Mutex::default(),
            leases: Mutex::default(),
            queue,
            process: uuid::Uuid::new_v4().simple().to_string(),
            last_id: AtomicU64::new(0),
            counters: Counters::default(),
        };
        Ok(Self { inner: Arc::new(inner), messages: Mutex::new(Some(messages)) })
    }

    /// See [`Limiter::connect`](super::Limiter::connect).
    pub async fn connect(&self) {
        let Some(messages) = lock(&self.messages).take() else { return };
        let inner = &self.inner;
        tokio::spawn(delivery::deliver_all(Arc::downgrade(inner), messages));
        tokio::spawn(delivery::keep(Arc::downgrade(inner)));
        let mut link = inner.link.subscribe();
        let _ = timeout(REPLY_TIMEOUT, link.wait_for(|link| *link != Link::Starting)).await;
    }

    /// See [`Limiter::close`](super::Limiter::close).
    pub async fn close(&self) {
        if timeout(REPLY_TIMEOUT, self.flush()).await.ok().flatten().is_none() {
            let redis = &self.inner.place;
            tracing::warn!(redis, "what was settled last is not counted: Redis cannot be reached");
        }
    }

    /// Waits until all is delivered that was settled before.
    async fn flush(&self) -> Option<()> {
        let (done, flushed) = oneshot::channel();
        self.inner.queue.send(Message::Flush(done)).await.ok()?;
        flushed.await.ok()
    }

    /// For metrics.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// See [`Limiter::seed_spent`](super::Limiter::seed_spent).
    pub fn seed_spent(&self, id: Id<'_>, spent: Spent, now: Now) {
        let Calendar { day, month, .. } = Calendar::of(now.unix_s);
        let nanodollars =
            [spent.day, spent.month, spent.total].map(|it| nanodollars(it).min(COST_MAX) as u64);
        self.inner.memory.seed_spent(id, spent, now);
        if nanodollars != [0; 3] {
            lock(&self.inner.known).insert(self.inner.base(id), Known { day, month, nanodollars });
        }
    }

    /// See [`Limiter::correct`](super::Limiter::correct).
    pub fn correct(&self, ids: &[Id<'_>], dollars: f64, unix_s: u64) {
        let inner = &self.inner;
        inner.memory.correct(ids, dollars, unix_s);
        let Calendar { day, month, .. } = Calendar::of(unix_s);
        let amount = nanodollars(dollars.abs()).min(COST_MAX) as i64;
        let party = |id: &Id<'_>| Party { base: inner.base(*id), limits: Limits::default() };
        let settlement = Settlement {
            // Of no reservation.
            id: inner.lease_id(0),
            parties: ids.iter().map(party).collect(),
            tokens: 0,
            nanodollars: if dollars < 0.0 { -amount } else { amount },
            day,
            month,
            at: Instant::now(),
        };
        if inner.queue.try_send(Message::Settle(settlement)).is_err() {
            inner.counters.lost.inc();
        }
    }

    /// See [`Limiter::reserve`](super::Limiter::reserve).
    ///
    /// # Errors
    /// As there.
    pub async fn reserve(
        &self,
        holders: &[Holder<'_>],
        estimate: Estimate,
        now: Now,
    ) -> Result<Reservation, Box<Refusal>> {
        let inner = &self.inner;
        if *inner.link.borrow() != Link::Up {
            return inner.alone(holders, estimate, now);
        }
        let need = bounded(Need::of(&estimate));
        let parties: Vec<Party> = holders.iter().map(|holder| inner.party(holder)).collect();
        let limits: Vec<Limits> = parties.iter().map(|party| party.limits).collect();
        let credits: Vec<Option<f64>> = holders.iter().map(|holder| holder.credit).collect();
        let (tell, told) = oneshot::channel();
        // On its own: where the caller goes away or waits no longer, what comes is given back.
        tokio::spawn({
            let inner = inner.clone();
            async move {
                let asked = inner.ask(parties, &credits, &need, now.at).await;
                if let Err(Ok(Answer { lease: Some(lease), .. })) = tell.send(asked) {
                    lease.settle(&need, &Need { tokens: 0, nanodollars: 0 }, now.at);
                }
            }
        });
        let answer = match timeout(inner.options.timeout, told).await {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Ok(Err(error))) => {
                inner.fail(&error);
                return inner.alone(holders, estimate, now);
            }
            Ok(Err(_)) | Err(_) => {
                inner.fail(&format!("no answer within {} ms", inner.options.timeout.as_millis()));
                return inner.alone(holders, estimate, now);
            }
        };
        let mut states = States::default();
        let mut refused: Option<(Over, &Holder<'_>)> = None;
        for ((holder, limits), used) in holders.iter().zip(&limits).zip(&answer.used) {
            let mut account = Account::of(used, limits, &answer.calendar);
            match answer.lease {
                Some(_) => _ = account.take(&need),
                None => {
                    let asking = Holder { limits, ..*holder };
                    let over = account.over(&asking, &need, &answer.calendar);
                    if let Some(over) = over
                        && refused.as_ref().is_none_or(|(worst, _)| worst.wait < over.wait)
                    {
                        refused = Some((over, holder));
                    }
                }
            }
            states.add(account.states());
        }
        match (answer.lease, refused) {
            (Some(lease), _) => Ok(Reservation { held: Held::Redis(lease), need, states }),
            (None, Some((over, holder))) => Err(Box::new(over.refusal(holder, &need, states))),
            // Past what doubles tell apart, some billions of dollars, the script may see it otherwise.
            (None, None) => inner.alone(holders, estimate, now),
        }
    }
}

/// The server of a URL, fit for logs.
fn place(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return "not a URL".into() };
    let port = url.port().unwrap_or(6379);
    format!("{}://{}:{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn bounded(need: Need) -> Need {
    Need { tokens: need.tokens.min(COUNT_MAX), nanodollars: need.nanodollars.min(COST_MAX) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An argument of a script: empty for none.
fn argument(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

impl Inner {
    fn base(&self, id: Id<'_>) -> Box<str> {
        let prefix = &self.options.prefix;
        match id {
            Id::Key(name) => format!("{prefix}:key:{name}"),
            Id::Model(name) => format!("{prefix}:model:{name}"),
        }
        .into()
    }

    /// Whose base it is.
    fn holder<'a>(&self, base: &'a str) -> Option<Id<'a>> {
        let (kind, name) = base.strip_prefix(&*self.options.prefix)?.strip_prefix(':')?.split_once(':')?;
        Some(if kind == "key" { Id::Key(name) } else { Id::Model(name) })
    }

    fn party(&self, holder: &Holder<'_>) -> Party {
        let mut limits = *holder.limits;
        for limit in [&mut limits.requests_per_minute, &mut limits.tokens_per_minute] {
            *limit = limit.filter(|limit| *limit <= COUNT_MAX);
        }
        Party { base: self.base(holder.id), limits }
    }

    /// The scripts' argument for the time.
    fn time(&self, at: Instant) -> String {
        argument(
            self.options.frozen.map(|(from, ms)| ms + at.saturating_duration_since(from).as_millis() as u64),
        )
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[impl AsRef<str>],
        arguments: &[String],
    ) -> RedisResult<T> {
        let connection = lock(&self.connection).clone();
        let mut connection = connection.ok_or((ErrorKind::Io, "not connected"))?;
        let mut call = script.prepare_invoke();
        keys.iter().for_each(|key| _ = call.key(key.as_ref()));
        call.arg(arguments).invoke_async(&mut connection).await
    }

    /// Asks for a reservation.
    async fn ask(
        self: &Arc<Self>,
        parties: Vec<Party>,
        credits: &[Option<f64>],
        need: &Need,
        at: Instant,
    ) -> RedisResult<Answer> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let mut arguments = vec![
            self.time(at),
            self.lease_id(id),
            self.options.lease.as_millis().to_string(),
            need.tokens.to_string(),
            need.nanodollars.to_string(),
        ];
        for (party, credit) in parties.iter().zip(credits) {
            let limits = &party.limits;
            arguments.extend(
                [limits.requests_per_minute, limits.tokens_per_minute, limits.concurrency].map(argument),
            );
            let dollars = [limits.dollars_per_day, limits.dollars_per_month, *credit];
            arguments.extend(dollars.map(|limit| argument(limit.map(nanodollars))));
        }
        let bases: Vec<&str> = parties.iter().map(|party| &*party.base).collect();
        let found: Vec<i64> = self.run(&self.scripts.reserve, &bases, &arguments).await?;
        let found: Vec<u64> = found.into_iter().map(|value| value.max(0) as u64).collect();
        let [passes, now_ms, used @ ..] = &*found else {
            return Err((ErrorKind::UnexpectedReturnType, "a script's answer is cut off").into());
        };
        let (used, rest) = used.as_chunks::<6>();
        if used.len() != parties.len() || !rest.is_empty() {
            return Err((ErrorKind::UnexpectedReturnType, "a script's answer is cut off").into());
        }
        let used: Vec<Used> = used
            .iter()
            .map(|&[requests, tokens, in_flight, day_nanodollars, month_nanodollars, total_nanodollars]| {
                Used { requests, tokens, in_flight, day_nanodollars, month_nanodollars, total_nanodollars }
            })
            .collect();
        let calendar = Calendar::of(now_ms / 1000);
        let admitted = *passes == 1;
        for (party, used) in parties.iter().zip(&used) {
            let taken = if admitted { need.nanodollars as u64 } else { 0 };
            self.learn(&party.base, used, taken, &calendar);
        }
        let Calendar { day, month, .. } = calendar;
        let lease = admitted.then(|| {
            let placed = parties.iter().filter(|party| party.limits.concurrency.is_some());
            let placed: Vec<Box<str>> = placed.map(|party| party.base.clone()).collect();
            let renewed = !placed.is_empty();
            if renewed {
                lock(&self.leases).insert(id, placed);
            }
            Lease { inner: self.clone(), id, renewed, alone: None, parties, day, month }
        });
        Ok(Answer { lease, calendar, used })
    }

    fn lease_id(&self, id: u64) -> String {
        format!("{}:{id}", self.process)
    }

    /// Remembers what a holder has spent.
    fn learn(&self, base: &str, used: &Used, taken: u64, calendar: &Calendar) {
        let Used { day_nanodollars, month_nanodollars, total_nanodollars, .. } = *used;
        let nanodollars =
            [day_nanodollars, month_nanodollars, total_nanodollars].map(|it| it.saturating_add(taken));
        if nanodollars == [0; 3] {
            return;
        }
        let new = Known { day: calendar.day, month: calendar.month, nanodollars };
        let mut known = lock(&self.known);
        match known.get_mut(base) {
            Some(known) => *known = new,
            None => _ = known.insert(base.into(), new),
        }
    }

    /// A reservation of this process' own limits.
    fn alone(
        self: &Arc<Self>,
        holders: &[Holder<'_>],
        estimate: Estimate,
        now: Now,
    ) -> Result<Reservation, Box<Refusal>> {
        self.counters.alone.inc();
        let mut reservation = self.memory.reserve(holders, estimate, now)?;
        if let Held::Memory(taken) = std::mem::replace(&mut reservation.held, Held::Nowhere) {
            let Calendar { day, month, .. } = Calendar::of(now.unix_s);
            let parties = holders.iter().map(|holder| self.party(holder)).collect();
            let alone = Some(taken);
            let inner = self.clone();
            reservation.held =
                Held::Redis(Lease { inner, id: 0, renewed: false, alone, parties, day, month });
        }
        Ok(reservation)
    }

    /// Redis did not do as it should: from now on this process counts alone.
    fn fail(&self, error: &dyn std::fmt::Display) {
        let lost = self.link.send_if_modified(|link| std::mem::replace(link, Link::Down) != Link::Down);
        if !lost {
            return;
        }
        self.counters.outages.inc();
        self.counters.up.set(0);
        tracing::warn!(redis = self.place, %error, "limits are not shared until Redis answers again");
        let now = Now::read();
        let today = Calendar::of(now.unix_s);
        for (base, known) in lock(&self.known).iter() {
            let [day, month, total] = known.nanodollars.map(|amount| dollars(amount.into()));
            let spent = Spent {
                day: if known.day == today.day { day } else { 0.0 },
                month: if known.month == today.month { month } else { 0.0 },
                total,
            };
            if let Some(id) = self.holder(base) {
                self.memory.seed_spent(id, spent, now);
            }
        }
    }
}

/// A reservation that others see, or, in an outage, one that they will hear of.
pub struct Lease {
    inner: Arc<Inner>,
    id: u64,
    /// It holds places under limits of concurrency.
    renewed: bool,
    /// Taken of this process' own limits, and not of those in Redis.
    alone: Option<memory::Taken>,
    parties: Vec<Party>,
    day: u64,
    month: u32,
}

impl Lease {
    /// Ends it: `real` was used where `need` was taken. Does not block.
    pub fn settle(mut self, need: &Need, real: &Need, now: Instant) {
        let (need, mut real) = (bounded(*need), *real);
        let taken = match self.alone.take() {
            Some(taken) => {
                memory::settle(&taken, &need, &real, now);
                // Of what Redis has not seen dollars count later too; a minute's tokens are over by then.
                real.tokens = 0;
                Need { tokens: 0, nanodollars: 0 }
            }
            None => need,
        };
        let real = bounded(real);
        let settlement = Settlement {
            id: self.inner.lease_id(self.id),
            parties: std::mem::take(&mut self.parties),
            tokens: real.tokens as i64 - taken.tokens as i64,
            nanodollars: real.nanodollars as i64 - taken.nanodollars as i64,
            day: self.day,
            month: self.month,
            at: now,
        };
        let nothing = (settlement.tokens, settlement.nanodollars, self.renewed) == (0, 0, false);
        if !nothing && self.inner.queue.try_send(Message::Settle(settlement)).is_err() {
            self.inner.counters.lost.inc();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.renewed {
            lock(&self.inner.leases).remove(&self.id);
        }
    }
}
