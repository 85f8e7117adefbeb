//! How much checking one peer may cause beside the running height: late votes, and certificates of other heights.
//!
//! They are of little use (evidence against their signer, or a hint that this node is behind), other peers send the same, and
//! each costs signatures or a read. So they are paid for in signatures, per peer that sends them here; who has spent its credit
//! is ignored, not blamed. Votes for the running height and those to come have bounds of their own and cost nothing here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use network::PeerId;
use types::gossip::ConsensusMessage;
use types::ids::Height;

/// Signatures at once: the late votes of some heights of a hundred validators.
const BURST: u32 = 512;
/// An empty credit is full again after this long: 64 signatures a second, some 4 ms of them.
const REFILL: Duration = Duration::from_secs(8);
/// Peers with an account; more than there are connections. A peer beyond it has no credit until others are full again.
const PEERS_MAX: usize = 256;
/// A late proposal's price: a signature, and the hash of a block.
pub(crate) const PROPOSAL: usize = 8;

/// Accounts by peer; who is not listed has full credit.
#[derive(Debug, Default)]
pub(crate) struct Credits(BTreeMap<PeerId, (f64, Instant)>);

impl Credits {
    /// Takes `signatures` from a peer's credit, if it has as many; what costs nothing is always granted.
    pub(crate) fn take(&mut self, peer: PeerId, signatures: usize, now: Instant) -> bool {
        if signatures == 0 {
            return true;
        }
        let (burst, rate) = (f64::from(BURST), f64::from(BURST) / REFILL.as_secs_f64());
        if self.0.len() >= PEERS_MAX && !self.0.contains_key(&peer) {
            self.0.retain(|_, (left, at)| *left + now.saturating_duration_since(*at).as_secs_f64() * rate < burst);
            if self.0.len() >= PEERS_MAX {
                return false;
            }
        }
        let (left, at) = self.0.entry(peer).or_insert((burst, now));
        *left = (*left + now.saturating_duration_since(*at).as_secs_f64() * rate).min(burst);
        *at = now;
        let price = f64::from(u32::try_from(signatures).unwrap_or(u32::MAX));
        let enough = *left >= price;
        if enough {
            *left -= price;
        }
        enough
    }
}

/// The height of a message; none of a certificate without votes.
pub(crate) fn height_of(message: &ConsensusMessage) -> Option<Height> {
    match message {
        ConsensusMessage::Vote { vote, .. } => Some(vote.vote.height),
        ConsensusMessage::Polka { votes } | ConsensusMessage::Round { votes, .. } => {
            votes.first().map(|vote| vote.vote.height)
        }
    }
}

/// Signatures that a message costs its sender while `running` is decided; none if it is of use there or later.
pub(crate) fn price(message: &ConsensusMessage, running: Height) -> usize {
    let height = height_of(message).unwrap_or(running);
    match message {
        ConsensusMessage::Vote { .. } => usize::from(height < running),
        ConsensusMessage::Polka { votes } | ConsensusMessage::Round { votes, .. } if height != running => votes.len(),
        ConsensusMessage::Polka { .. } | ConsensusMessage::Round { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use types::ids::{BlockId, GenesisHash, Round};
    use types::keys::SecretKey;
    use types::vote::{SignedVote, Vote, VoteKind};

    use super::*;

    fn vote(height: u64) -> SignedVote {
        let key = SecretKey::from_seed([1; 32]);
        let value = Some(BlockId::new([1; 32]));
        Vote { kind: VoteKind::Prevote, height: Height(height), round: Round(0), value, validator: key.public() }
            .sign(&key, &GenesisHash::new([2; 32]))
    }

    #[test]
    fn only_what_is_beside_the_running_height_has_a_price() {
        let single = |height| price(&ConsensusMessage::Vote { vote: vote(height), resend: 0 }, Height(5));
        assert_eq!([single(4), single(5), single(6)], [1, 0, 0]);
        let polka = |height| price(&ConsensusMessage::Polka { votes: vec![vote(height); 7] }, Height(5));
        assert_eq!([polka(4), polka(5), polka(6)], [7, 0, 7]);
        assert_eq!(price(&ConsensusMessage::Polka { votes: vec![] }, Height(5)), 0);
    }

    #[test]
    fn credit_is_spent_by_peer_and_grows_again() {
        let (mut credits, now) = (Credits::default(), Instant::now());
        let (one, other) = (PeerId::random(), PeerId::random());
        let certificates = |credits: &mut Credits, peer, at| (0..1_000).filter(|_| credits.take(peer, 100, at)).count();
        assert_eq!(certificates(&mut credits, one, now), 5);
        assert_eq!(certificates(&mut credits, other, now), 5, "each peer has its own");
        assert_eq!(certificates(&mut credits, one, now + Duration::from_secs(4)), 2);
        assert_eq!(certificates(&mut credits, one, now + Duration::from_secs(60)), 5, "never more than full");
    }

    #[test]
    fn accounts_are_bounded_and_full_ones_are_forgotten() {
        let (mut credits, now) = (Credits::default(), Instant::now());
        for _ in 0..PEERS_MAX {
            assert!(credits.take(PeerId::random(), 1, now));
        }
        assert!(!credits.take(PeerId::random(), 1, now), "no room for one more");
        assert!(credits.take(PeerId::random(), 0, now), "what is of the running height needs none");
        assert!(credits.take(PeerId::random(), 1, now + REFILL));
        assert_eq!(credits.0.len(), 1);
    }
}
