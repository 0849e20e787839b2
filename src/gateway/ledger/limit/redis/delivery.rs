//! What goes on beside requests: settlements are sent, leases renewed, and Redis is looked for while it
//! is away.

use super::{Inner, Known, LATE, Link, Party, REPLY_TIMEOUT, argument, lock};
use ::redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, pipe};
use std::sync::Weak;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// Settlements, leases or holders that go in one call: some 100 microseconds of Redis' time.
const BATCH: usize = 64;
/// The longest that looking for it, and telling what was spent, may take.
const RESTORE: Duration = Duration::from_secs(5);
/// Between two looks for a Redis that is away.
const RETRY: Duration = Duration::from_millis(500);
/// Times that a batch is sent to a Redis that answers, before it is given up.
const TRIES: usize = 3;
/// Commands that wait to be written to the connection; more wait in their tasks.
const PIPELINE: usize = 1024;

/// What [`deliver_all`] is told.
pub enum Message {
    Settle(Settlement),
    /// To be answered when all before it is delivered.
    Flush(oneshot::Sender<()>),
}

/// The end of a reservation.
pub struct Settlement {
    pub id: String,
    pub parties: Vec<Party>,
    /// On top of the estimate.
    pub tokens: i64,
    pub nanodollars: i64,
    /// Of the reservation.
    pub day: u64,
    pub month: u32,
    pub at: Instant,
}

/// Sends settlements until nobody can make any more.
pub async fn deliver_all(inner: Weak<Inner>, mut messages: mpsc::Receiver<Message>) {
    let mut number = 0u64;
    let mut batch = Vec::with_capacity(BATCH);
    while messages.recv_many(&mut batch, BATCH).await > 0 {
        let Some(inner) = inner.upgrade() else { return };
        let (mut settlements, mut flushes) = (Vec::new(), Vec::new());
        for message in batch.drain(..) {
            match message {
                Message::Settle(settlement) => settlements.push(settlement),
                Message::Flush(done) => flushes.push(done),
            }
        }
        if !settlements.is_empty() {
            number += 1;
            inner.deliver(&settlements, number).await;
        }
        flushes.into_iter().for_each(|done| _ = done.send(()));
    }
}

/// Looks after the connection and the leases.
pub async fn keep(inner: Weak<Inner>) {
    while let Some(inner) = inner.upgrade() {
        if *inner.link.borrow() == Link::Up {
            let mut link = inner.link.subscribe();
            let lost =
                timeout(inner.options.lease / 3, link.wait_for(|link| *link != Link::Up)).await.is_ok();
            // Tests with a time of their own renew themselves.
            if !lost && inner.options.frozen.is_none() {
                inner.renew(Instant::now()).await;
            }
            continue;
        }
        let restored = timeout(RESTORE, inner.restore()).await;
        match restored.unwrap_or_else(|_| Err((ErrorKind::Io, "it cannot be reached").into())) {
            Ok(()) => {
                inner.counters.up.set(1);
                tracing::info!(redis = inner.place, "limits are shared");
            }
            Err(error) => {
                inner.fail(&error);
                drop(inner);
                sleep(RETRY).await;
            }
        }
    }
}

impl Inner {
    /// Sends one batch, as often as it takes; while Redis is away it waits.
    async fn deliver(&self, settlements: &[Settlement], number: u64) {
        let mut keys = vec![format!("{}:gateway:{}", self.options.prefix, self.process)];
        let last = settlements.last().map_or_else(Instant::now, |settlement| settlement.at);
        let mut arguments = vec![self.time(last), number.to_string()];
        for settlement in settlements {
            for party in &settlement.parties {
                keys.push(party.base.to_string());
                arguments.extend([
                    settlement.id.clone(),
                    argument(party.limits.requests_per_minute),
                    argument(party.limits.tokens_per_minute),
                    settlement.tokens.to_string(),
                    settlement.nanodollars.to_string(),
                    settlement.day.to_string(),
                    settlement.month.to_string(),
                ]);
            }
        }
        let mut link = self.link.subscribe();
        for _ in 0..TRIES {
            let _ = link.wait_for(|link| *link == Link::Up).await;
            match bounded(self.run::<i64>(&self.scripts.settle, &keys, &arguments)).await {
                Ok(_) => return,
                Err(error) => self.fail(&error),
            }
        }
        tracing::error!(
            redis = self.place,
            settlements = settlements.len(),
            "Redis does not take settlements"
        );
        self.counters.lost.inc_by(settlements.len() as u64);
    }

    /// Renews the places of this process' requests.
    pub(super) async fn renew(&self, at: Instant) {
        let leases: Vec<(Box<str>, String)> = {
            let leases = lock(&self.leases);
            let each = |(id, bases): (&u64, &Vec<Box<str>>)| {
                let id = self.lease_id(*id);
                bases.iter().map(|base| (base.clone(), id.clone())).collect::<Vec<_>>()
            };
            leases.iter().flat_map(each).collect()
        };
        for batch in leases.chunks(BATCH) {
            let (bases, ids): (Vec<&str>, Vec<String>) =
                batch.iter().map(|(base, id)| (&**base, id.clone())).unzip();
            let arguments = [vec![self.time(at), self.options.lease.as_millis().to_string()], ids].concat();
            if let Err(error) = bounded(self.run::<i64>(&self.scripts.renew, &bases, &arguments)).await {
                return self.fail(&error);
            }
        }
    }

    /// Makes a new connection, and sees that Redis takes writes and has our scripts. Where it has not
    /// what this process knows, it is told.
    pub(super) async fn restore(&self) -> RedisResult<()> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(REPLY_TIMEOUT))
            .set_response_timeout(Some(LATE))
            .set_pipeline_buffer_size(PIPELINE);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let key = format!("{}:epoch", self.options.prefix);
        let new = uuid::Uuid::new_v4().simple().to_string();
        let mut probe = pipe();
        probe.cmd("SET").arg(&key).arg(new).arg("NX").ignore().cmd("GET").arg(&key);
        let (epoch,): (String,) = probe.query_async(&mut connection).await?;
        let scripts = &self.scripts;
        for script in [&scripts.reserve, &scripts.settle, &scripts.renew, &scripts.seed] {
            script.load_async(&mut connection).await?;
        }
        *lock(&self.connection) = Some(connection);
        let known = lock(&self.epoch).clone();
        if known.as_ref() != Some(&epoch) {
            self.seed(known.is_some()).await?;
            *lock(&self.epoch) = Some(epoch);
        }
        self.link.send_replace(Link::Up);
        Ok(())
    }

    /// Says what holders are known to have spent: before Redis lost its data, or by a store.
    pub(super) async fn seed(&self, lost: bool) -> RedisResult<()> {
        let known: Vec<(Box<str>, Known)> =
            lock(&self.known).iter().map(|(base, known)| (base.clone(), *known)).collect();
        for batch in known.chunks(BATCH) {
            let prefix = &self.options.prefix;
            let told = |base: &str| format!("{prefix}:told{}", &base[prefix.len()..]);
            let bases: Vec<String> =
                batch.iter().flat_map(|(base, _)| [base.to_string(), told(base)]).collect();
            let mut arguments = vec![self.time(Instant::now()), u8::from(lost).to_string()];
            for (_, known) in batch {
                arguments.extend([known.day.to_string(), known.month.to_string()]);
                arguments.extend(known.nanodollars.map(|amount| amount.to_string()));
            }
            self.run::<i64>(&self.scripts.seed, &bases, &arguments).await?;
        }
        Ok(())
    }
}

async fn bounded<T>(call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let late = |_| Err(RedisError::from((ErrorKind::Io, "no answer in time")));
    timeout(REPLY_TIMEOUT, call).await.unwrap_or_else(late)
}
