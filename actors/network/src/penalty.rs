//! The ledger of peers' faults: points that halve every ten minutes, a disconnect at 20 of them, a ban at 50.
//!
//! Only provable misbehaviour costs points enough to be cut off; slowness and overload never do. Peer ids are free, so
//! the ledger bounds annoyance, not identity; connection limits bound the rest.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// Points fall to half in this time.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// Points at which a peer is disconnected, and below which a ban ends.
pub(crate) const DISCONNECT: f64 = 20.0;
/// Points at which a peer is banned.
pub(crate) const BAN: f64 = 50.0;
/// Peers remembered; beyond it, those with the fewest points are forgotten.
const PEERS_MAX: usize = 4096;

/// A peer's misbehaviour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A gossip message was rejected: provably invalid. 5 points.
    InvalidGossip,
    /// A response that can't be decoded or does not answer the question. 10 points.
    InvalidResponse,
    /// A request that can't be decoded. 10 points.
    InvalidRequest,
    /// A blob's chunk or manifest that does not match its hash. 10 points.
    BadChunk,
    /// A block, certificate or vote by request-response that is provably invalid. 20 points.
    InvalidSync,
    /// Requests far beyond the quota, after many `Busy` answers. 4 points.
    RequestFlood,
    /// Gossip far beyond what an honest node forwards. 4 points.
    GossipFlood,
    /// The gossip score fell below the gray list's threshold. 50 points.
    Graylisted,
}

impl Fault {
    /// Points that the fault costs.
    pub const fn weight(self) -> f64 {
        match self {
            Self::RequestFlood | Self::GossipFlood => 4.0,
            Self::InvalidGossip => 5.0,
            Self::InvalidResponse | Self::InvalidRequest | Self::BadChunk => 10.0,
            Self::InvalidSync => 20.0,
            Self::Graylisted => BAN,
        }
    }
}

/// What a fault leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sanction {
    None,
    Disconnect,
    Ban,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    points: f64,
    at: Instant,
}

impl Account {
    fn now(&self, now: Instant) -> f64 {
        let halves = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.points * 0.5f64.powf(halves)
    }
}

/// Points of all peers with any.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: HashMap<PeerId, Account>,
    banned: BTreeSet<PeerId>,
}

impl Ledger {
    /// Books a fault. A proven validator is cut off at both thresholds, but never banned: the chain may need its vote.
    pub(crate) fn book(&mut self, peer: PeerId, fault: Fault, validator: bool, now: Instant) -> Sanction {
        if self.accounts.len() >= PEERS_MAX && !self.accounts.contains_key(&peer) {
            self.forget_lightest(now);
        }
        let account = self.accounts.entry(peer).or_insert(Account { points: 0.0, at: now });
        account.points = account.now(now) + fault.weight();
        account.at = now;
        if account.points >= BAN && !validator {
            self.banned.insert(peer);
            Sanction::Ban
        } else if account.points >= DISCONNECT {
            Sanction::Disconnect
        } else {
            Sanction::None
        }
    }

    fn forget_lightest(&mut self, now: Instant) {
        let lightest = self.accounts.iter().min_by(|a, b| a.1.now(now).total_cmp(&b.1.now(now))).map(|(peer, _)| *peer);
        if let Some(peer) = lightest {
            self.accounts.remove(&peer);
            self.banned.remove(&peer);
        }
    }

    /// Points of a peer now.
    pub(crate) fn points(&self, peer: &PeerId, now: Instant) -> f64 {
        self.accounts.get(peer).map_or(0.0, |account| account.now(now))
    }

    /// Lifts bans that have decayed and forgets what is negligible. Returns the peers whose ban ended.
    pub(crate) fn settle(&mut self, now: Instant) -> Vec<PeerId> {
        self.accounts.retain(|_, account| account.now(now) > 0.1);
        let over: Vec<PeerId> = self.banned.iter().filter(|p| self.points(p, now) < DISCONNECT).copied().collect();
        for peer in &over {
            self.banned.remove(peer);
        }
        over
    }

    /// Ends a ban: the peer proved to be a validator.
    pub(crate) fn pardon(&mut self, peer: &PeerId) -> bool {
        self.banned.remove(peer)
    }

    pub(crate) fn is_banned(&self, peer: &PeerId) -> bool {
        self.banned.contains(peer)
    }

    pub(crate) fn banned(&self) -> usize {
        self.banned.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_add_up_decay_and_end_in_a_ban() {
        let (mut ledger, peer, start) = (Ledger::default(), PeerId::random(), Instant::now());
        for _ in 0..3 {
            assert_eq!(ledger.book(peer, Fault::InvalidGossip, false, start), Sanction::None);
        }
        assert_eq!(ledger.book(peer, Fault::InvalidGossip, false, start), Sanction::Disconnect);
        let later = start + HALF_LIFE;
        assert!((ledger.points(&peer, later) - 10.0).abs() < 1e-9);
        assert_eq!(ledger.book(peer, Fault::InvalidSync, false, later), Sanction::Disconnect);
        assert_eq!(ledger.book(peer, Fault::InvalidSync, false, later), Sanction::Ban);
        assert!(ledger.is_banned(&peer));
        assert!(ledger.settle(later + HALF_LIFE).is_empty());
        assert_eq!(ledger.settle(later + 2 * HALF_LIFE), vec![peer]);
        assert!(!ledger.is_banned(&peer));
    }

    #[test]
    fn a_proven_validator_is_cut_off_but_not_banned() {
        let (mut ledger, peer, now) = (Ledger::default(), PeerId::random(), Instant::now());
        for _ in 0..5 {
            ledger.book(peer, Fault::InvalidSync, true, now);
        }
        assert_eq!(ledger.book(peer, Fault::InvalidSync, true, now), Sanction::Disconnect);
        assert_eq!(ledger.banned(), 0);
    }

    #[test]
    fn the_ledger_is_bounded_and_keeps_the_worst() {
        let (mut ledger, worst, now) = (Ledger::default(), PeerId::random(), Instant::now());
        ledger.book(worst, Fault::Graylisted, false, now);
        for _ in 0..PEERS_MAX + 10 {
            ledger.book(PeerId::random(), Fault::RequestFlood, false, now);
        }
        assert_eq!(ledger.accounts.len(), PEERS_MAX);
        assert!(ledger.is_banned(&worst));
    }
}
