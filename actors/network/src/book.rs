//! The address book and the dial plan: whom this node knows, and whom it dials when.
//!
//! Addresses come from signed presence records (gossiped, or asked of a fresh peer) and from identify. A wrong address
//! costs one failed dial, because a connection proves the peer id. Bounded; proven validators are never displaced by
//! strangers.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use types::gossip::PresenceMessage;
use types::ids::TimeMs;
use types::keys::PublicKey;

use crate::config::ip_of;

/// Peers remembered.
const PEERS_MAX: usize = 1024;
/// Addresses kept of one peer.
const ADDRESSES_MAX: usize = 4;
/// First wait after a failed dial; doubles up to one of the two below.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait between dials of a peer.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Longest wait between dials of a validator of the current set, or of a configured address. They are few, and after a
/// partition the chain stands still until they find each other.
const BACKOFF_NEEDED_MAX: Duration = Duration::from_secs(10);
/// A binding of a validator key, and an unconnected peer's record, hold this long after the record's time.
pub(crate) const RECORD_LIFE_MS: u64 = 600_000;
/// A connection that ended sooner counts as a failed dial: a full or unwilling peer is not to be hammered.
const SHORT: Duration = Duration::from_secs(10);
/// How far a fresh record's time may be from the own clock.
pub(crate) const CLOCK_SKEW_MS: u64 = 120_000;

/// Waiting time after so many failures in a row, at most `longest`, with jitter of up to 30 % either way.
fn backoff(failures: u32, longest: Duration) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1u32.checked_shl(failures.saturating_sub(1).min(10)).unwrap_or(u32::MAX));
    // Where the system gives no random number, the wait is merely not spread.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    doubled.min(longest).mul_f64(0.7 + 0.6 * f64::from(random) / f64::from(u32::MAX))
}

/// When to dial again.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    failures: u32,
    next: Instant,
    /// Deadline of the dial in progress, after which it counts as lost track of.
    dialling: Option<Instant>,
    /// Since when it is connected.
    up: Option<Instant>,
}

impl Schedule {
    fn new(next: Instant) -> Self {
        Self { failures: 0, next, dialling: None, up: None }
    }

    fn due(&self, now: Instant) -> bool {
        self.next <= now && self.dialling.is_none_or(|until| until <= now)
    }

    fn failed(&mut self, now: Instant, longest: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.dialling = None;
        self.next = now + backoff(self.failures, longest);
    }

    fn succeeded(&mut self, now: Instant) {
        self.dialling = None;
        self.up = Some(now);
    }

    fn lost(&mut self, now: Instant, wait: Duration) {
        match self.up.take() {
            Some(since) if now.saturating_duration_since(since) < SHORT => {
                // The longer pause of one side keeps two that dial each other at once from doing so again.
                self.failed(now, BACKOFF_MAX);
                self.next += wait.saturating_sub(BACKOFF_MIN);
            }
            _ => *self = Self::new(now + wait),
        }
    }

    fn started(&mut self, now: Instant) {
        self.dialling = Some(now + Duration::from_secs(30));
    }
}

/// What is known of a peer.
#[derive(Clone, Debug)]
struct Entry {
    addresses: Vec<Multiaddr>,
    presence: Option<PresenceMessage>,
    schedule: Schedule,
    /// Last news of it, or connection.
    seen: Instant,
}

impl Entry {
    fn validator(&self) -> Option<PublicKey> {
        self.presence.as_ref().and_then(|m| m.presence.validator)
    }

    fn time(&self) -> TimeMs {
        self.presence.as_ref().map_or(TimeMs(0), |m| m.presence.time_ms)
    }
}

/// A configured address; the peer behind it is known after the first connection.
#[derive(Clone, Debug)]
struct Bootstrap {
    address: Multiaddr,
    peer: Option<PeerId>,
    /// The configuration names the peer: nobody else will do.
    pinned: bool,
    own: bool,
    schedule: Schedule,
}

/// A dial to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Dial {
    /// The peer expected; `None` for a bootstrap address without one.
    pub(crate) peer: Option<PeerId>,
    /// Where.
    pub(crate) addresses: Vec<Multiaddr>,
}

/// Answer to a presence record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Filed {
    /// New, kept.
    Fresh,
    /// Nothing new, or no room.
    Stale,
}

/// The book.
#[derive(Debug)]
pub(crate) struct Book {
    local: PeerId,
    loopback: bool,
    entries: HashMap<PeerId, Entry>,
    bootstrap: Vec<Bootstrap>,
    /// Keys of the current validator set. Anybody can make up a key; only these give a record weight.
    current: BTreeSet<PublicKey>,
}

impl Book {
    pub(crate) fn new(local: PeerId, loopback: bool, bootstrap: &[Multiaddr], now: Instant) -> Self {
        let bootstrap = bootstrap.iter().map(|address| {
            let (address, peer) = split_peer(address.clone());
            Bootstrap { address, peer, pinned: peer.is_some(), own: peer == Some(local), schedule: Schedule::new(now) }
        });
        Self { local, loopback, entries: HashMap::new(), bootstrap: bootstrap.collect(), current: BTreeSet::new() }
    }

    /// Names the keys of the current validator set.
    pub(crate) fn set_current(&mut self, keys: BTreeSet<PublicKey>) {
        self.current = keys;
    }

    fn weighs(&self, entry: &Entry) -> bool {
        entry.validator().is_some_and(|key| self.current.contains(&key))
    }

    /// Addresses of a record worth dialling: TCP with an IP address, loopback only on a loopback network.
    fn usable(&self, addresses: impl IntoIterator<Item = Multiaddr>) -> Vec<Multiaddr> {
        let mut out: Vec<Multiaddr> = vec![];
        for address in addresses {
            let (address, _) = split_peer(address);
            let tcp =
                matches!(address.iter().nth(1), Some(Protocol::Tcp(port)) if port != 0) && address.iter().count() == 2;
            let ip = ip_of(&address).filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
            if tcp && ip.is_some_and(|ip| self.loopback || !ip.is_loopback()) && !out.contains(&address) {
                out.push(address);
            }
            if out.len() == ADDRESSES_MAX {
                break;
            }
        }
        out
    }

    /// Whether a record of `peer` with time `time` would be new. To be asked before its signatures are checked.
    pub(crate) fn is_news(&self, peer: &PeerId, time: TimeMs) -> bool {
        *peer != self.local && self.entries.get(peer).is_none_or(|e| e.time() < time)
    }

    /// Files a record whose signatures have been checked.
    pub(crate) fn file(&mut self, peer: PeerId, message: PresenceMessage, now: Instant) -> Filed {
        let weighs = message.presence.validator.is_some_and(|key| self.current.contains(&key));
        if !self.is_news(&peer, message.presence.time_ms) || !self.make_room(&peer, weighs) {
            return Filed::Stale;
        }
        let texts = message.presence.addresses.iter().filter_map(|text| text.parse().ok());
        let addresses = self.usable(texts.collect::<Vec<Multiaddr>>());
        // The smaller id dials first, so that two peers that hear of each other do not dial both at once.
        let wait = if self.local < peer { Duration::ZERO } else { BACKOFF_MIN.saturating_mul(3) };
        let fresh = Entry { addresses: vec![], presence: None, schedule: Schedule::new(now + wait), seen: now };
        let entry = self.entries.entry(peer).or_insert(fresh);
        if !addresses.is_empty() {
            entry.addresses = addresses;
        }
        entry.presence = Some(message);
        entry.seen = now;
        Filed::Fresh
    }

    /// Notes addresses a connected peer gave for itself, if its signed record says nothing better.
    pub(crate) fn note_identified(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if peer == self.local || !self.make_room(&peer, false) {
            return;
        }
        let addresses = self.usable(addresses);
        let fresh = Entry { addresses: vec![], presence: None, schedule: Schedule::new(now + BACKOFF_MIN), seen: now };
        let entry = self.entries.entry(peer).or_insert(fresh);
        entry.seen = now;
        if !addresses.is_empty() && (entry.presence.is_none() || entry.addresses.is_empty()) {
            entry.addresses = addresses;
        }
    }

    /// Room for one more entry: an unreachable stranger goes, a validator of the current set stays.
    fn make_room(&mut self, peer: &PeerId, weighs: bool) -> bool {
        if self.entries.contains_key(peer) || self.entries.len() < PEERS_MAX {
            return true;
        }
        let strangers = self.entries.iter().filter(|(_, e)| !self.weighs(e) && (weighs || e.schedule.failures > 0));
        let victim =
            strangers.max_by_key(|(_, e)| (e.schedule.failures, u64::MAX.wrapping_sub(e.time().0))).map(|(p, _)| *p);
        victim.is_some_and(|p| self.entries.remove(&p).is_some())
    }

    /// Notes a connection. `address` is the remote address if this node dialled it.
    pub(crate) fn connected(&mut self, peer: PeerId, dialled: Option<&Multiaddr>, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.schedule.succeeded(now);
            entry.seen = now;
        }
        let dialled = dialled.map(|a| split_peer(a.clone()).0);
        for boot in &mut self.bootstrap {
            if dialled.as_ref() == Some(&boot.address) && !boot.pinned {
                boot.peer = Some(peer);
            }
            if boot.peer == Some(peer) {
                boot.schedule.succeeded(now);
            }
        }
    }

    /// Notes a lost connection: a prompt first retry, so that a restarted peer is found again within a second.
    pub(crate) fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        let wait = if self.local < *peer { BACKOFF_MIN } else { BACKOFF_MIN.saturating_mul(2) };
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.schedule.lost(now, wait);
            entry.seen = now;
        }
        for boot in self.bootstrap.iter_mut().filter(|b| b.peer == Some(*peer)) {
            boot.schedule.lost(now, wait);
        }
    }

    /// Puts off the next dial of a peer: it was disconnected for a reason.
    pub(crate) fn put_off(&mut self, peer: &PeerId, wait: Duration, now: Instant) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.schedule.next = now + wait;
        }
        for boot in self.bootstrap.iter_mut().filter(|b| b.peer == Some(*peer)) {
            boot.schedule.next = now + wait;
        }
    }

    /// Forgets a peer altogether (another chain).
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.entries.remove(peer);
    }

    /// Notes a failed dial.
    pub(crate) fn dial_failed(&mut self, peer: Option<PeerId>, addresses: &[Multiaddr], now: Instant) {
        let current = &self.current;
        if let Some(entry) = peer.and_then(|p| self.entries.get_mut(&p)) {
            let needed = entry.validator().is_some_and(|key| current.contains(&key));
            entry.schedule.failed(now, if needed { BACKOFF_NEEDED_MAX } else { BACKOFF_MAX });
        }
        let bare: Vec<Multiaddr> = addresses.iter().map(|a| split_peer(a.clone()).0).collect();
        for boot in &mut self.bootstrap {
            if (peer.is_some() && boot.peer == peer) || bare.contains(&boot.address) {
                boot.schedule.failed(now, BACKOFF_NEEDED_MAX);
                // Another node may live at that address by now.
                boot.peer = boot.peer.filter(|_| boot.pinned);
            }
        }
    }

    /// Notes that an address is this node's own.
    pub(crate) fn is_own(&mut self, address: &Multiaddr) {
        let (bare, _) = split_peer(address.clone());
        for boot in self.bootstrap.iter_mut().filter(|b| b.address == bare) {
            boot.own = true;
        }
    }

    /// The dials to start now, at most `room`: bootstrap addresses, validators, then others by fewest failures.
    pub(crate) fn due(&mut self, room: usize, now: Instant, skip: impl Fn(&PeerId) -> bool) -> Vec<Dial> {
        let mut dials = vec![];
        for boot in &mut self.bootstrap {
            let wanted = !boot.own && boot.schedule.due(now) && !boot.peer.is_some_and(|p| skip(&p));
            if wanted && dials.len() < room {
                boot.schedule.started(now);
                dials.push(Dial { peer: boot.peer, addresses: vec![boot.address.clone()] });
            }
        }
        let mut due: Vec<(bool, u32, PeerId)> = self
            .entries
            .iter()
            .filter(|(peer, e)| e.schedule.due(now) && !e.addresses.is_empty() && !skip(peer))
            .map(|(peer, e)| (!self.weighs(e), e.schedule.failures, *peer))
            .collect();
        due.sort_unstable();
        for (_, _, peer) in due {
            if dials.len() >= room {
                break;
            }
            let known = dials.iter().any(|d| d.peer == Some(peer));
            if let Some(entry) = self.entries.get_mut(&peer).filter(|_| !known) {
                entry.schedule.started(now);
                dials.push(Dial { peer: Some(peer), addresses: entry.addresses.clone() });
            }
        }
        dials
    }

    /// Whether a peer stands behind a configured bootstrap address.
    pub(crate) fn is_bootstrap(&self, peer: &PeerId) -> bool {
        self.bootstrap.iter().any(|b| b.peer == Some(*peer))
    }

    /// Drops peers without news for ten minutes, except connected ones and validators of the current set.
    pub(crate) fn expire(&mut self, now: Instant, connected: impl Fn(&PeerId) -> bool) {
        let current = &self.current;
        self.entries.retain(|peer, e| {
            let weighs = e.validator().is_some_and(|key| current.contains(&key));
            connected(peer) || weighs || now.saturating_duration_since(e.seen) < Duration::from_millis(RECORD_LIFE_MS)
        });
    }

    /// The latest record of a peer.
    pub(crate) fn presence(&self, peer: &PeerId) -> Option<&PresenceMessage> {
        self.entries.get(peer).and_then(|e| e.presence.as_ref())
    }

    /// Unexpired bindings of validator keys.
    pub(crate) fn validators(&self, wall: TimeMs) -> HashMap<PeerId, (PublicKey, TimeMs)> {
        let valid = self.entries.iter().filter(|(_, e)| wall.since(e.time()) < RECORD_LIFE_MS);
        valid.filter_map(|(peer, e)| e.validator().map(|key| (*peer, (key, e.time())))).collect()
    }

    /// The newest unexpired records, at most `count`, for a peer that asks; current validators first.
    pub(crate) fn share(&self, count: usize, asker: &PeerId, wall: TimeMs) -> Vec<PresenceMessage> {
        let mut known: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|(peer, e)| *peer != asker && e.presence.is_some() && wall.since(e.time()) < RECORD_LIFE_MS)
            .map(|(_, e)| e)
            .collect();
        known.sort_by_key(|e| (!self.weighs(e), u64::MAX.wrapping_sub(e.time().0)));
        known.into_iter().take(count).filter_map(|e| e.presence.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// An address without its `/p2p/PEER` end, and that peer.
pub(crate) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            (address, Some(peer))
        }
        _ => (address, None),
    }
}

#[cfg(test)]
mod tests {
    use types::gossip::Presence;
    use types::ids::{GenesisHash, Height};
    use types::keys::SecretKey;

    use super::*;

    const LATER: Duration = Duration::from_secs(3600);

    fn record(seed: u8, time: u64, addresses: &[&str], validator: Option<u8>) -> (PeerId, PresenceMessage) {
        let genesis = GenesisHash::new([0; 32]);
        let node = SecretKey::from_seed([seed; 32]);
        let peer = crate::node_key_peer_id(&node).unwrap();
        let validator = validator.map(|s| SecretKey::from_seed([s; 32]));
        let presence = Presence {
            peer: peer.to_bytes(),
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            height: Height(1),
            time_ms: TimeMs(time),
            prover: None,
            validator: validator.as_ref().map(SecretKey::public),
        };
        let signature = validator.map(|key| presence.validator_signature(&key, &genesis));
        let message = presence.sign(&node, signature, &genesis);
        assert!(message.verify(&genesis));
        (peer, message)
    }

    #[test]
    fn records_are_filed_once_and_dialled_validators_first() {
        let now = Instant::now();
        let mut book = Book::new(PeerId::random(), true, &["/ip4/127.0.0.1/tcp/9".parse().unwrap()], now);
        let (plain, plain_record) = record(1, 100, &["/ip4/127.0.0.1/tcp/1", "/ip4/0.0.0.0/tcp/5"], None);
        let (validator, validator_record) = record(2, 100, &["/ip4/127.0.0.1/tcp/2"], Some(7));
        book.set_current(BTreeSet::from([SecretKey::from_seed([7; 32]).public()]));
        assert_eq!(book.file(plain, plain_record.clone(), now), Filed::Fresh);
        assert_eq!(book.file(plain, plain_record, now), Filed::Stale);
        assert_eq!(book.file(validator, validator_record, now), Filed::Fresh);
        assert!(!book.is_news(&plain, TimeMs(100)) && book.is_news(&plain, TimeMs(101)));
        let dials = book.due(8, now + LATER, |_| false);
        let peers: Vec<_> = dials.iter().map(|d| d.peer).collect();
        assert_eq!(peers, vec![None, Some(validator), Some(plain)]);
        assert_eq!(dials[2].addresses, vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
        assert!(book.due(8, now + LATER, |_| false).is_empty(), "dials in progress are not started again");
        assert_eq!(book.validators(TimeMs(200)).len(), 1);
        assert_eq!(book.validators(TimeMs(100 + RECORD_LIFE_MS)).len(), 0);
    }

    #[test]
    fn failures_back_off_to_a_minute_less_for_the_needed_and_success_resets() {
        let now = Instant::now();
        let boot: Multiaddr = "/ip4/127.0.0.1/tcp/9".parse().unwrap();
        let mut book = Book::new(PeerId::random(), true, std::slice::from_ref(&boot), now);
        let (peer, message) = record(1, 100, &["/ip4/127.0.0.1/tcp/1"], None);
        book.file(peer, message, now);
        let (validator, message) = record(2, 100, &["/ip4/127.0.0.1/tcp/2"], Some(7));
        book.set_current(BTreeSet::from([SecretKey::from_seed([7; 32]).public()]));
        book.file(validator, message, now);
        for failures in 1..20u32 {
            book.dial_failed(Some(peer), &[], now);
            book.dial_failed(Some(validator), &[], now);
            book.dial_failed(None, std::slice::from_ref(&boot), now);
            let waits = [
                (book.entries[&peer].schedule.next, BACKOFF_MAX),
                (book.entries[&validator].schedule.next, BACKOFF_NEEDED_MAX),
                (book.bootstrap[0].schedule.next, BACKOFF_NEEDED_MAX),
            ];
            for (next, longest) in waits {
                let (wait, nominal) =
                    (next - now, BACKOFF_MIN.saturating_mul(1 << (failures - 1).min(10)).min(longest));
                assert!(wait >= nominal.mul_f64(0.69) && wait <= nominal.mul_f64(1.31), "{failures}: {wait:?}");
            }
        }
        // Hung up on at once: that was no success.
        book.connected(peer, None, now);
        book.disconnected(&peer, now + Duration::from_secs(1));
        assert_eq!(book.entries[&peer].schedule.failures, 20);
        book.connected(peer, None, now);
        book.disconnected(&peer, now + SHORT);
        assert_eq!(book.entries[&peer].schedule.failures, 0);
    }

    #[test]
    fn loopback_addresses_are_not_dialled_outside_a_loopback_network() {
        let now = Instant::now();
        let mut book = Book::new(PeerId::random(), false, &[], now);
        let (peer, message) = record(1, 100, &["/ip4/127.0.0.1/tcp/1"], None);
        book.file(peer, message, now);
        assert!(book.due(8, now + LATER, |_| false).is_empty());
        let (peer, message) = record(3, 100, &["/ip4/10.1.1.1/tcp/1"], None);
        book.file(peer, message, now);
        assert_eq!(book.due(8, now + LATER, |_| false).len(), 1);
    }

    #[test]
    fn a_full_book_drops_the_unreachable_and_keeps_validators() {
        let now = Instant::now();
        let mut book = Book::new(PeerId::random(), true, &[], now);
        book.set_current(BTreeSet::from([SecretKey::from_seed([7; 32]).public()]));
        let (validator, message) = record(2, 1, &["/ip4/127.0.0.1/tcp/2"], Some(7));
        book.file(validator, message, now);
        let (pretender, message) = record(4, 1, &["/ip4/127.0.0.1/tcp/2"], Some(8));
        book.file(pretender, message, now);
        book.dial_failed(Some(pretender), &[], now);
        book.dial_failed(Some(validator), &[], now);
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/3".parse().unwrap();
        let mut last = PeerId::random();
        while book.len() < PEERS_MAX {
            last = PeerId::random();
            book.note_identified(last, vec![address.clone()], now);
        }
        let (newcomer, message) = record(3, 5, &[], None);
        assert_eq!(book.file(newcomer, message, now), Filed::Fresh, "a key that is in no set protects nobody");
        assert!(!book.entries.contains_key(&pretender));
        let (late, message) = record(5, 5, &[], None);
        assert_eq!(book.file(late, message.clone(), now), Filed::Stale);
        book.dial_failed(Some(last), &[], now);
        assert_eq!(book.file(late, message, now), Filed::Fresh);
        assert!(!book.entries.contains_key(&last) && book.entries.contains_key(&validator));
        assert_eq!(book.len(), PEERS_MAX);
        book.expire(now + LATER, |_| false);
        assert_eq!(book.entries.keys().copied().collect::<Vec<_>>(), [validator]);
    }

    #[test]
    fn a_bootstrap_address_learns_its_peer_and_knows_itself() {
        let now = Instant::now();
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/9".parse().unwrap();
        let mut book = Book::new(PeerId::random(), true, std::slice::from_ref(&address), now);
        let peer = PeerId::random();
        book.connected(peer, Some(&address), now);
        assert!(book.is_bootstrap(&peer));
        assert!(book.due(8, now + LATER, |p| *p == peer).is_empty());
        book.is_own(&address);
        assert!(book.due(8, now + LATER, |_| false).is_empty());

        let pinned = address.clone().with(Protocol::P2p(peer));
        let mut book = Book::new(PeerId::random(), true, &[pinned], now);
        book.dial_failed(Some(peer), &[], now);
        book.connected(PeerId::random(), Some(&address), now);
        assert_eq!(book.due(8, now + LATER, |_| false), [Dial { peer: Some(peer), addresses: vec![address] }]);
    }
}
