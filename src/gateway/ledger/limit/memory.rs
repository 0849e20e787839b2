//! Limits that this process counts for itself: one account a holder, under a lock of its own.

use super::account::{Account, Calendar, Charge, Need, Over};
use super::{Estimate, Held, Holder, Id, Now, Refusal, Reservation, Spent, States};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

/// Holders at which those without state are looked for first; again whenever their number has doubled.
pub const SWEEP_MIN: usize = 1024;

/// Counts what holders use. Kept through all configurations.
pub struct Memory {
    keys: RwLock<Holders>,
    models: RwLock<Holders>,
}

/// A holder's account.
pub type Shared = Arc<Mutex<Account>>;

/// What a request has taken, and of whom.
pub type Taken = Vec<(Shared, Charge)>;

struct Holders {
    accounts: HashMap<Box<str>, Shared>,
    sweep_at: usize,
}

impl Default for Memory {
    fn default() -> Self {
        let none = || RwLock::new(Holders { accounts: HashMap::new(), sweep_at: SWEEP_MIN });
        Self { keys: none(), models: none() }
    }
}

impl Memory {
    /// Takes an estimate from all holders, or from none of them.
    ///
    /// # Errors
    /// The limit that keeps the request waiting longest, of all that it is over.
    pub fn reserve(
        &self,
        holders: &[Holder<'_>],
        estimate: Estimate,
        now: Now,
    ) -> Result<Reservation, Box<Refusal>> {
        let calendar = Calendar::of(now.unix_s);
        let need = Need::of(&estimate);
        let mut taken = Vec::with_capacity(holders.len());
        let mut states = States::default();
        let mut refused: Option<(Over, &Holder<'_>)> = None;
        for holder in holders {
            let shared = self.account(holder.id, now.at);
            let mut account = lock(&shared);
            account.advance(holder.limits, now.at, &calendar);
            match account.over(holder, &need, &calendar) {
                Some(over) if refused.as_ref().is_none_or(|(worst, _)| worst.wait < over.wait) => {
                    refused = Some((over, holder));
                }
                // After a refusal the others are only asked how long they would take.
                None if refused.is_none() => {
                    let charge = account.take(&need);
                    states.add(account.states());
                    drop(account);
                    taken.push((shared, charge));
                    continue;
                }
                _ => {}
            }
            states.add(account.states());
        }
        match refused {
            None => Ok(Reservation { held: Held::Memory(taken), need, states }),
            Some((over, holder)) => {
                for (shared, charge) in &taken {
                    lock(shared).give_back(&need, charge);
                }
                Err(Box::new(over.refusal(holder, &need, states)))
            }
        }
    }

    /// Sets what a holder had spent before this process counted, in the current day and month, and in
    /// all. Replaces what was counted.
    pub fn seed_spent(&self, id: Id<'_>, spent: Spent, now: Now) {
        let shared = self.account(id, now.at);
        lock(&shared).seed(spent, &Calendar::of(now.unix_s));
    }

    /// See [`Limiter::correct`](super::Limiter::correct).
    pub fn correct(&self, ids: &[Id<'_>], dollars: f64, unix_s: u64) {
        for shared in ids.iter().filter_map(|id| self.found(*id)) {
            lock(&shared).correct(dollars, &Calendar::of(unix_s));
        }
    }

    /// What a holder has spent, reservations included.
    pub fn spent(&self, id: Id<'_>, now: Now) -> Spent {
        let found = self.found(id);
        found.map_or(Spent::default(), |shared| lock(&shared).spent(&Calendar::of(now.unix_s)))
    }

    /// Forgets a holder that is no more: a revoked key.
    pub fn forget(&self, id: Id<'_>) {
        let (holders, name) = self.holders(id);
        holders.write().unwrap_or_else(PoisonError::into_inner).accounts.remove(name);
    }

    /// Holders that are remembered.
    pub fn len(&self) -> usize {
        [&self.keys, &self.models].map(|holders| read(holders).accounts.len()).iter().sum()
    }

    /// Nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn holders<'a>(&self, id: Id<'a>) -> (&RwLock<Holders>, &'a str) {
        match id {
            Id::Key(name) => (&self.keys, name),
            Id::Model(name) => (&self.models, name),
        }
    }

    pub(super) fn found(&self, id: Id<'_>) -> Option<Shared> {
        let (holders, name) = self.holders(id);
        read(holders).accounts.get(name).cloned()
    }

    fn account(&self, id: Id<'_>, now: Instant) -> Shared {
        if let Some(found) = self.found(id) {
            return found;
        }
        let (holders, name) = self.holders(id);
        let mut holders = holders.write().unwrap_or_else(PoisonError::into_inner);
        if holders.accounts.len() >= holders.sweep_at {
            // Nobody can get at an account without this lock, so a count of one stays one.
            holders.accounts.retain(|_, shared| Arc::strong_count(shared) > 1 || !lock(shared).is_blank(now));
            holders.sweep_at = (2 * holders.accounts.len()).max(SWEEP_MIN);
        }
        let blank = || Arc::new(Mutex::new(Account::new(now)));
        holders.accounts.entry(name.into()).or_insert_with(blank).clone()
    }
}

/// The account itself; a panic elsewhere left it whole.
pub fn lock(shared: &Shared) -> MutexGuard<'_, Account> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(holders: &RwLock<Holders>) -> std::sync::RwLockReadGuard<'_, Holders> {
    holders.read().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces what was taken by what was really used.
pub fn settle(taken: &Taken, need: &Need, real: &Need, now: Instant) {
    for (shared, charge) in taken {
        lock(shared).settle(need, real, charge, now);
    }
}

/// Ends a request that used what was taken.
pub fn leave(taken: &Taken) {
    for (shared, _) in taken {
        lock(shared).leave();
    }
}
