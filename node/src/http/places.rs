//! Who has a place among the connections: so many in all, of which an address from elsewhere gets a part, and some are left to
//! this machine itself, so that its operator can always ask.
//!
//! When all are taken, the address that has the most gives one up to an address that has fewer: of those that carry no request
//! the one that was silent for longest, and where it has more than its part, any that was. IPv6 addresses of one /64 count as
//! one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::rate::network;

/// One address from elsewhere may have this part of all places.
const ADDRESS_SHARE: usize = 4;
/// This part of all places is for connections of the machine itself.
const OWN_SHARE: usize = 16;

/// One connection, as others see it.
#[derive(Debug)]
pub(super) struct Place {
    key: IpAddr,
    opened: Instant,
    /// Milliseconds from `opened` to the last byte in either direction.
    active_ms: AtomicU64,
    /// Requests under way.
    busy: AtomicU32,
    /// Told to end.
    closed: CancellationToken,
}

/// A request under way on a connection; dropping it ends it.
#[derive(Debug)]
pub(super) struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// Notes that bytes came or went.
    pub(super) fn active(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.active_ms.store(since, Ordering::Relaxed);
    }

    /// Notes that a request is under way.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Told when the place is given to somebody else.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    fn silent_since(&self) -> Instant {
        self.opened + std::time::Duration::from_millis(self.active_ms.load(Ordering::Relaxed))
    }

    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<HashMap<IpAddr, Vec<Arc<Place>>>>,
}

impl Places {
    /// So many places, all free.
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// Gives a connection a place, perhaps another's, who is told; `None` when there is none for it.
    pub(super) fn take(&self, address: IpAddr) -> Option<Arc<Place>> {
        let key = network(address);
        let mut taken = self.taken();
        let count = |of: &dyn Fn(&IpAddr) -> bool| -> usize {
            taken.iter().filter(|(key, _)| of(key)).map(|(_, places)| places.len()).sum()
        };
        let own = taken.get(&key).map_or(0, Vec::len);
        let crowded = if key.is_loopback() {
            count(&|_| true) >= self.most
        } else {
            if own >= self.part() {
                return None;
            }
            count(&|_| true) >= self.most || count(&|k| !k.is_loopback()) >= self.most - self.most / OWN_SHARE
        };
        if crowded {
            self.make_room(&mut taken, key, own)?.closed.cancel();
        }
        let place = Arc::new(Place {
            key,
            opened: Instant::now(),
            active_ms: AtomicU64::new(0),
            busy: AtomicU32::new(0),
            closed: CancellationToken::new(),
        });
        taken.entry(key).or_default().push(Arc::clone(&place));
        Some(place)
    }

    /// The connection has ended.
    pub(super) fn leave(&self, place: &Arc<Place>) {
        remove(&mut self.taken(), place);
    }

    /// Takes a place from the address that has the most, if that is clearly more than `own`, what `key` has.
    fn make_room(&self, taken: &mut HashMap<IpAddr, Vec<Arc<Place>>>, key: IpAddr, own: usize) -> Option<Arc<Place>> {
        // Those of the machine itself don't give way to others: they have places that others don't get.
        let may = |of: &IpAddr| key.is_loopback() || !of.is_loopback();
        let (_, greediest) = taken.iter().filter(|(of, _)| may(of)).max_by_key(|(_, places)| places.len())?;
        if greediest.len() <= own.saturating_add(1) {
            return None;
        }
        let beyond = greediest.len() > self.part();
        let oldest = |idle: bool| {
            greediest.iter().filter(|place| !idle || place.is_idle()).min_by_key(|place| place.silent_since())
        };
        let place = Arc::clone(oldest(true).or_else(|| oldest(false).filter(|_| beyond))?);
        remove(taken, &place);
        Some(place)
    }

    /// What one address from elsewhere may have.
    fn part(&self) -> usize {
        (self.most / ADDRESS_SHARE).max(1)
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, Vec<Arc<Place>>>> {
        // A list is changed by one push or one removal, so a panic elsewhere leaves none half-made.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(taken: &mut HashMap<IpAddr, Vec<Arc<Place>>>, place: &Arc<Place>) {
    if let Some(places) = taken.get_mut(&place.key) {
        places.retain(|other| !Arc::ptr_eq(other, place));
        if places.is_empty() {
            taken.remove(&place.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_part_and_the_machine_itself_always_gets_in() {
        let places = Places::new(32);
        let held: Vec<_> = (0..8).map(|_| places.take(address("192.0.2.1")).unwrap()).collect();
        assert!(places.take(address("192.0.2.1")).is_none(), "a quarter is its part");
        // Another address of the same /64 is the same client.
        (0..8).for_each(|n| drop(places.take(address(&format!("2001:db8::{n}"))).unwrap()));
        assert!(places.take(address("2001:db8::99")).is_none());
        (0..8).for_each(|_| drop(places.take(address("192.0.2.2")).unwrap()));
        (0..6).for_each(|_| drop(places.take(address("192.0.2.3")).unwrap()));
        // What others may have is taken; two are left for the machine itself.
        let own: Vec<_> = (0..2).map(|_| places.take(address("127.0.0.1")).unwrap()).collect();
        assert!(held.iter().all(|place| !place.closed().is_cancelled()));
        // One more takes the place of the greediest.
        let third = places.take(address("127.0.0.1")).unwrap();
        places.leave(&third);
        // And so does a stranger who has none, but never one of the machine itself.
        (4..6).for_each(|n| drop(places.take(address(&format!("192.0.2.{n}"))).unwrap()));
        assert!(own.iter().all(|place| !place.closed().is_cancelled()));
        let all: usize = places.taken().values().map(Vec::len).sum();
        assert_eq!(all, 32);
    }

    #[test]
    fn the_longest_silent_idle_connection_goes_first() {
        let places = Places::new(6);
        let held: Vec<_> = (0..6).map(|_| places.take(address("127.0.0.1")).unwrap()).collect();
        let mut busy: Vec<_> = held[..3].iter().map(Place::busy).collect();
        std::thread::sleep(std::time::Duration::from_millis(20));
        held[3].active();
        let ended = |n: usize| held[n].closed().is_cancelled();
        let first = places.take(address("127.0.0.2")).unwrap();
        assert!(ended(4) && !ended(3), "the fourth spoke last");
        busy.truncate(1);
        let second = places.take(address("127.0.0.3")).unwrap();
        assert!(ended(1) && !ended(0), "the first carries a request");
        // All others have as many as the newcomer would have.
        for place in [&held[2], &held[3], &held[5]] {
            places.leave(place);
        }
        (4..7).for_each(|n| drop(places.take(address(&format!("127.0.0.{n}"))).unwrap()));
        assert!(places.take(address("127.0.0.9")).is_none());
        assert!(!first.closed().is_cancelled() && !second.closed().is_cancelled());
    }
}
