//! Who has a connection: so many in all, so many of one address.
//!
//! **Whoever does not ask for anything makes room.** Where all places are taken, the connection that has
//! been without a request for longest is closed for the new one, be it one that was kept for a next request
//! or one whose first head never comes: thousands of idle connections keep nobody out.
//!
//! **What is left for the operator.** Where every place is at work, [`RESERVED`] more are for health, metrics
//! and the admin API alone; everybody else is told 503 there, and who takes over one of those by doing
//! nothing loses it the same way. Only where these are at work too, which is short work, is a connection
//! closed unheard.
//!
//! An address is an IPv4 address or an IPv6 network of 64 bits, as one subscriber has one. A reverse proxy's
//! is that of all of its callers: loopback has no bound of its own unless one is asked for.
//!
//! Invariants: a connection that has begun a request is never closed for another; no more than so many have
//! a place. The log says that places run out, at most every [`TOLD_EVERY`].

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Connections beyond the others for health, metrics and the admin API.
pub const RESERVED: usize = 32;
/// Of an address without a bound of its own, a part of all connections: one in so many.
const ADDRESS_SHARE: usize = 4;
/// How often the log says at most that places run out.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// In all, besides [`RESERVED`].
    pub in_all: usize,
    /// Of one address; None: a quarter of all, and no bound for loopback.
    pub per_address: Option<usize>,
}

impl ConnectionLimits {
    fn of(&self, address: IpAddr) -> usize {
        match self.per_address {
            Some(bound) => bound,
            None if address.is_loopback() => self.in_all,
            None => (self.in_all / ADDRESS_SHARE).max(1),
        }
    }
}

/// The places of all connections.
pub struct Places {
    state: Mutex<State>,
    /// Connections that stand, those included that are about to close.
    open: watch::Sender<usize>,
}

struct State {
    limits: ConnectionLimits,
    places: HashMap<u64, Held>,
    ordinary: Room,
    reserved: Room,
    /// Ordinary places by address.
    addresses: HashMap<IpAddr, usize>,
    /// The next place's number, and the next idle one's in its order.
    next: u64,
    shortage: Shortage,
}

/// Places of one kind.
struct Room {
    max: usize,
    taken: usize,
    /// Numbers of the idle, those first that have been so for longest.
    idle: BTreeMap<u64, u64>,
}

struct Held {
    address: IpAddr,
    is_reserved: bool,
    /// Its number among the idle.
    idle: Option<u64>,
    close: Arc<Notify>,
}

/// What came of a lack of places since it was told.
#[derive(Default)]
struct Shortage {
    told: Option<Instant>,
    closed: u64,
    reserved: u64,
    refused: u64,
}

/// A connection's place, idle at first. Dropping it frees it.
pub struct Place {
    places: Arc<Places>,
    number: u64,
    is_reserved: bool,
    close: Arc<Notify>,
}

/// Who shares a bound.
fn grouped(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()
        }
        address => address,
    }
}

impl Places {
    /// So many.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        let room = |max| Room { max, taken: 0, idle: BTreeMap::new() };
        let state = State {
            limits,
            places: HashMap::new(),
            ordinary: room(limits.in_all),
            reserved: room(RESERVED),
            addresses: HashMap::new(),
            next: 0,
            shortage: Shortage::default(),
        };
        Arc::new(Self { state: Mutex::new(state), open: watch::Sender::new(0) })
    }

    /// A place for a connection of this address; None: there is none.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let address = grouped(peer);
        let close = Arc::<Notify>::default();
        let mut state = self.lock();
        let taken = state.take(address, &close);
        let shortage = state.untold();
        let (connections, limits) = (state.ordinary.taken, state.limits);
        // A log that is slow holds nobody up.
        drop(state);
        if let Some(Shortage { closed, reserved, refused, .. }) = shortage {
            tracing::warn!(
                connections,
                connections_max = limits.in_all,
                of_an_address_max = limits.of(address),
                closed_idle = closed,
                only_for_health_and_admin = reserved,
                refused,
                "no room for more connections (--max-connections, --max-connections-per-address)"
            );
        }
        let (number, is_reserved) = taken?;
        self.open.send_modify(|open| *open += 1);
        Some(Place { places: self.clone(), number, is_reserved, close })
    }

    /// Waits until no connection is left.
    pub async fn are_empty(&self) {
        // The sender is here.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn room(&mut self, is_reserved: bool) -> &mut Room {
        if is_reserved { &mut self.reserved } else { &mut self.ordinary }
    }

    /// A place's number, and whether it is one of the reserved.
    fn take(&mut self, address: IpAddr, close: &Arc<Notify>) -> Option<(u64, bool)> {
        let is_reserved = !self.has_room(address);
        if is_reserved && !self.reserved_has_room() {
            self.shortage.refused += 1;
            return None;
        }
        let number = self.number();
        self.places.insert(number, Held { address, is_reserved, idle: None, close: close.clone() });
        self.room(is_reserved).taken += 1;
        match is_reserved {
            true => self.shortage.reserved += 1,
            false => *self.addresses.entry(address).or_default() += 1,
        }
        self.is_idle(number);
        Some((number, is_reserved))
    }

    /// Whether an ordinary place is free for that address, once somebody idle has made room.
    fn has_room(&mut self, address: IpAddr) -> bool {
        let held = self.addresses.get(&address).copied().unwrap_or(0);
        if held >= self.limits.of(address) {
            let of_it = |held: &Held| held.address == address;
            return self.close_idle(false, of_it);
        }
        self.ordinary.taken < self.ordinary.max || self.close_idle(false, |_| true)
    }

    fn reserved_has_room(&mut self) -> bool {
        self.reserved.taken < self.reserved.max || self.close_idle(true, |_| true)
    }

    /// Closes the connection that has been idle for longest of those that are meant.
    fn close_idle(&mut self, is_reserved: bool, is_meant: impl Fn(&Held) -> bool) -> bool {
        let places = &self.places;
        let room = if is_reserved { &self.reserved } else { &self.ordinary };
        let found = room.idle.values().copied().find(|number| places.get(number).is_some_and(&is_meant));
        let Some(held) = found.and_then(|number| self.free(number)) else { return false };
        self.shortage.closed += 1;
        held.close.notify_one();
        true
    }

    fn is_idle(&mut self, number: u64) {
        let order = self.number();
        let Some(held) = self.places.get_mut(&number).filter(|held| held.idle.is_none()) else { return };
        held.idle = Some(order);
        let is_reserved = held.is_reserved;
        self.room(is_reserved).idle.insert(order, number);
    }

    fn free(&mut self, number: u64) -> Option<Held> {
        let held = self.places.remove(&number)?;
        let room = self.room(held.is_reserved);
        room.taken -= 1;
        if let Some(order) = held.idle {
            room.idle.remove(&order);
        }
        if !held.is_reserved
            && let Some(count) = self.addresses.get_mut(&held.address)
        {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&held.address);
            }
        }
        Some(held)
    }

    /// What the log has not said yet, if it is time to.
    fn untold(&mut self) -> Option<Shortage> {
        let Shortage { told, closed, reserved, refused } = self.shortage;
        if closed + reserved + refused == 0 || told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return None;
        }
        Some(std::mem::replace(
            &mut self.shortage,
            Shortage { told: Some(Instant::now()), ..Shortage::default() },
        ))
    }
}

impl Place {
    /// It is for health, metrics and the admin API alone.
    pub fn is_reserved(&self) -> bool {
        self.is_reserved
    }

    /// A request begins. False: the place was just given to another.
    pub fn begin(&self) -> bool {
        let mut state = self.places.lock();
        let Some(held) = state.places.get_mut(&self.number) else { return false };
        if let Some(order) = held.idle.take() {
            let is_reserved = held.is_reserved;
            state.room(is_reserved).idle.remove(&order);
        }
        true
    }

    /// The request has ended.
    pub fn end(&self) {
        self.places.lock().is_idle(self.number);
    }

    /// Ends when another connection has been given the place.
    pub async fn is_given_away(&self) {
        self.close.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().free(self.number);
        self.places.open.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn is_closed(place: &Place) -> bool {
        place.is_given_away().now_or_never().is_some()
    }

    fn places(in_all: usize, per_address: Option<usize>) -> Arc<Places> {
        Places::new(ConnectionLimits { in_all, per_address })
    }

    #[test]
    fn the_longest_idle_makes_room_and_who_works_does_not() {
        let places = places(3, None);
        let mut held: Vec<Place> = (0..3).map(|_| places.take(HERE).unwrap()).collect();
        assert!(held[0].begin() && held[1].begin());
        held[0].end();
        // The third has never asked; the first asked after it came.
        let fourth = places.take(HERE).unwrap();
        assert!(is_closed(&held[2]) && !held[2].begin() && !fourth.is_reserved());
        assert!(fourth.begin());
        let fifth = places.take(HERE).unwrap();
        assert!(is_closed(&held[0]) && fifth.begin());
        // All work: what is left is for health and the admin.
        let reserved: Vec<Place> = (0..RESERVED).map(|_| places.take(HERE).unwrap()).collect();
        assert!(reserved.iter().all(|place| place.is_reserved() && !is_closed(place)));
        let more = places.take(HERE).unwrap();
        assert!(more.is_reserved() && is_closed(&reserved[0]));
        assert!(more.begin() && reserved[1..].iter().all(Place::begin));
        assert!(places.take(HERE).is_none());
        assert!(!is_closed(&held[1]) && !is_closed(&fourth) && !is_closed(&fifth));
        // A place that was given away frees nothing when it is dropped.
        drop((held.remove(2), held.remove(0)));
        let state = places.lock();
        assert_eq!((state.ordinary.taken, state.reserved.taken), (3, RESERVED));
    }

    #[test]
    fn an_address_makes_room_for_itself() {
        let places = places(40, None);
        let of_one: Vec<Place> = (0..10).map(|_| places.take(address(1)).unwrap()).collect();
        let other = places.take(address(2)).unwrap();
        let eleventh = places.take(address(1)).unwrap();
        assert!(is_closed(&of_one[0]) && !is_closed(&other) && !eleventh.is_reserved());
        assert!(eleventh.begin() && of_one[1..].iter().all(Place::begin));
        assert!(places.take(address(1)).unwrap().is_reserved());
        assert!(!places.take(address(2)).unwrap().is_reserved());
        // Loopback may have all, unless a bound is asked for.
        let here: Vec<Place> = (0..20).map(|_| places.take(HERE).unwrap()).collect();
        assert!(here.iter().all(|place| !place.is_reserved() && !is_closed(place)));
        let bound = Places::new(ConnectionLimits { in_all: 40, per_address: Some(1) });
        let first = bound.take(HERE).unwrap();
        assert!(first.begin() && bound.take(HERE).unwrap().is_reserved());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let at = |text: &str| grouped(text.parse().unwrap());
        assert_eq!(at("2001:db8:0:1::7"), at("2001:db8:0:1:ffff::8"));
        assert_ne!(at("2001:db8:0:1::7"), at("2001:db8:0:2::7"));
        assert_eq!(at("::ffff:192.0.2.1"), address(1));
        assert!(at("::1").is_loopback());
    }

    #[tokio::test]
    async fn emptiness_is_waited_for() {
        let places = places(2, None);
        let (first, second) = (places.take(HERE).unwrap(), places.take(HERE).unwrap());
        let third = places.take(HERE).unwrap();
        drop((first, third));
        assert!(places.are_empty().now_or_never().is_none());
        drop(second);
        places.are_empty().await;
        assert!(places.lock().places.is_empty() && places.lock().addresses.is_empty());
    }
}
